/* SPDX-License-Identifier: Apache-2.0 */
/* Wills that a run before has left behind, once, and those that were refused and are due again; on
 * worker 0, a page at a time: its wills are published together, then its rows change in one write.
 * A will is published while the name of its client is claimed, so that what the client says when it
 * comes back is said after it. One whose client is back already is too late, and dropped: what it
 * says is no longer so.
 *
 * While the store takes nothing, a pass ends with the page that finds that out, and the next one
 * begins after 2, 4... 32 rounds.
 *
 *   RESTING --tick--> READING --page--> SAYING --all answered--> WRITING --> READING ... RESTING */
#include "core/broker/will_wait.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/rng.h"
#include "core/base/trace.h"
#include "core/broker/worker.h"

enum { PAGE = 64, DOUBLINGS = 5 };

enum fate {
    SAID,
    GIVEN_UP,     /* refused too often */
    TOO_LATE,     /* its client is back */
    NOT_THIS_TIME /* its name is about to change hands */
};

struct item {
    struct will_sweep *sweep;
    struct will_say say;
    struct span key;
    struct waiting_will will;
    struct name_claim *claim; /* NULL: an earlier one of the page has it, or it is not said */
    enum fate fate;
    enum status status; /* of SAID */
    uint8_t again[WILL_KEY];
    struct blob *value; /* of its next row; NULL: it has none */
};

struct will_sweep {
    struct broker_worker *worker;
    struct loop_timer timer;
    bool closed;
    bool others_done;      /* those of other runs are published */
    bool left;             /* one of this pass was not */
    bool refused;          /* by the store, which takes nothing now: the pass ends */
    uint32_t refused_runs; /* in a row */
    uint8_t next[WILL_KEY + 1], end[WILL_KEY];
    size_t next_size;
    struct storage_scan scan;
    struct blob *page;
    struct item items[PAGE];
    unsigned count, saying;
    struct log_rows write;
    struct storage_row rows[2 * PAGE];
};

static void read_page(struct will_sweep *sweep);

static void rest(struct will_sweep *sweep)
{
    if (!sweep->closed)
        loop_timer_start(sweep->worker->loop, &sweep->timer,
                         broker_sweep_ms(sweep->worker->broker) << sweep->refused_runs);
}

static void page_end(struct will_sweep *sweep, enum status status)
{
    blob_unref(sweep->page);
    sweep->page = NULL;
    for (unsigned i = 0; i < sweep->count; i++) {
        blob_unref(sweep->items[i].value);
        sweep->items[i].value = NULL;
        if (sweep->items[i].claim != NULL)
            name_release(&sweep->worker->broker->names, sweep->items[i].claim);
        sweep->items[i].claim = NULL;
    }
    sweep->count = 0;
    sweep->left |= status != STATUS_OK;
    sweep->refused |= status != STATUS_OK;
    if (!sweep->refused && sweep->scan.more && !sweep->closed) {
        read_page(sweep);
        return;
    }
    sweep->others_done |= !sweep->left;
    if (!sweep->refused)
        sweep->refused_runs = 0;
    else if (sweep->refused_runs < DOUBLINGS)
        sweep->refused_runs++;
    rest(sweep);
}

/* ------------------------------------------------ what has become of them */

/* Once its row is gone: else it is found again. */
static void count_dropped(struct broker_worker *worker, const struct item *item)
{
    if (item->fate == GIVEN_UP || (item->fate == SAID && will_is_lost(item->status)))
        will_drop(worker, item->will.client_id, status_text(item->status));
    else if (item->fate == TOO_LATE)
        will_drop_late(worker, item->will.client_id);
}

static void written(struct request *request, enum status status)
{
    struct will_sweep *sweep = container_of(request, struct will_sweep, write.request);
    sweep->worker->calls--;
    for (unsigned i = 0; status == STATUS_OK && i < sweep->count; i++)
        count_dropped(sweep->worker, &sweep->items[i]);
    page_end(sweep, status);
}

static void put_again(struct will_sweep *sweep, struct item *item)
{
    uint64_t patience_ms = will_patience_ms(++item->will.tries);
    if (patience_ms == 0) {
        item->fate = GIVEN_UP;
        return;
    }
    item->value = waiting_will_encode(&item->will);
    will_key(WILL_KIND_WAITING, (uint64_t)clock_wall_ms() + patience_ms, rng_u64(), item->again);
    sweep->rows[sweep->write.row_count++] = (struct storage_row){
        .change = STORAGE_PUT,
        .key = span_of(item->again, WILL_KEY),
        .value = blob_span(item->value),
        .offset_at = -1,
    };
}

static void change_rows(struct will_sweep *sweep)
{
    sweep->write = (struct log_rows){.rows = sweep->rows};
    for (unsigned i = 0; i < sweep->count; i++) {
        struct item *item = &sweep->items[i];
        if (item->fate == NOT_THIS_TIME || (item->fate == SAID && will_waits(item->status))) {
            sweep->left = true;
            sweep->refused |= item->fate == SAID;
            continue;
        }
        if (item->fate == SAID && will_is_crowded_out(item->status))
            put_again(sweep, item);
        sweep->rows[sweep->write.row_count++] =
            (struct storage_row){.change = STORAGE_DELETE, .key = item->key, .offset_at = -1};
    }
    if (sweep->write.row_count == 0) {
        page_end(sweep, STATUS_OK);
        return;
    }
    sweep->write.append.durability = DURABLE_SYNC;
    request_init(&sweep->write.request, sweep->worker->loop, written);
    sweep->worker->calls++;
    log_rows_write(sweep->worker->broker->log, &sweep->write);
}

/* ------------------------------------------------ reading and saying */

static void item_said(struct request *request, enum status status)
{
    struct item *item = container_of(request, struct item, say.request);
    struct will_sweep *sweep = item->sweep;
    sweep->worker->calls--;
    item->status = status;
    if (--sweep->saying == 0)
        change_rows(sweep);
}

static void not_replaced(void *owner)
{
    (void)owner; /* the name is let go soon anyway */
}

/* One client may have left several: the first of the page holds its name for all. */
static const struct item *same_client(const struct will_sweep *sweep, const struct item *item)
{
    const struct item *other = sweep->items;
    while (other->will.tenant != item->will.tenant ||
           !span_equal(other->will.client_id, item->will.client_id))
        other++;
    return other;
}

static void claim_name(struct will_sweep *sweep, struct item *item)
{
    struct session_names *names = &sweep->worker->broker->names;
    const struct item *first = same_client(sweep, item);
    if (first != item) {
        item->fate = first->fate;
        return;
    }
    item->claim = name_claim_free(names, sweep->worker->loop, item->will.tenant,
                                  item->will.client_id, item, not_replaced);
    if (item->claim == NULL)
        item->fate = name_is_in_use(names, item->will.tenant, item->will.client_id) ? TOO_LATE
                                                                                    : NOT_THIS_TIME;
}

static void say_item(struct will_sweep *sweep, struct item *item)
{
    item->say = (struct will_say){
        .worker = sweep->worker,
        .tenant = item->will.tenant,
        .client_id = item->will.client_id,
        .row = item->will.row,
    };
    sweep->worker->calls++;
    request_init(&item->say.request, sweep->worker->loop, item_said);
    will_say(&item->say);
}

static void say_page(struct will_sweep *sweep)
{
    sweep->saying = 1; /* until all have begun */
    for (unsigned i = 0; i < sweep->count; i++) {
        claim_name(sweep, &sweep->items[i]);
        if (sweep->items[i].fate != SAID)
            continue;
        sweep->saying++;
        say_item(sweep, &sweep->items[i]);
    }
    if (--sweep->saying == 0)
        change_rows(sweep);
}

static bool take_item(struct will_sweep *sweep, struct span key, struct span value)
{
    struct item *item = &sweep->items[sweep->count];
    if (key.size != WILL_KEY ||
        (key.data[1] == WILL_KIND_HELD && load_u64(key.data + 2) == sweep->worker->broker->run))
        return false;
    *item = (struct item){.sweep = sweep, .key = key};
    if (!waiting_will_decode(value, &item->will)) {
        trace(TRACE_ERROR, "the row of a will cannot be read");
        item->will = (struct waiting_will){0}; /* which is dropped */
    }
    sweep->count++;
    return true;
}

static void page_read(struct request *request, enum status status)
{
    struct will_sweep *sweep = container_of(request, struct will_sweep, scan.request);
    struct span key, value;
    sweep->worker->calls--;
    if (status == STATUS_OK)
        sweep->page = sweep->scan.rows;
    for (size_t at = 0;
         status == STATUS_OK && storage_scan_next(&sweep->scan, &at, &key, &value);) {
        sweep->next_size = key.size < WILL_KEY ? key.size : WILL_KEY;
        memcpy(sweep->next, key.data, sweep->next_size);
        sweep->next[sweep->next_size++] = 0;
        if (!take_item(sweep, key, value) && key.size == WILL_KEY) /* past all of this run */
            sweep->next_size = will_key(WILL_KIND_HELD, load_u64(key.data + 2) + 1, 0, sweep->next);
    }
    if (status != STATUS_OK || sweep->closed || sweep->count == 0) {
        page_end(sweep, status);
        return;
    }
    say_page(sweep);
}

static void read_page(struct will_sweep *sweep)
{
    sweep->scan = (struct storage_scan){
        .first = span_of(sweep->next, sweep->next_size),
        .end = span_of(sweep->end, WILL_KEY),
        .limit = PAGE,
    };
    request_init(&sweep->scan.request, sweep->worker->loop, page_read);
    sweep->worker->calls++;
    log_rows_scan(sweep->worker->broker->log, &sweep->scan);
}

static void tick(struct loop_timer *timer)
{
    struct will_sweep *sweep = container_of(timer, struct will_sweep, timer);
    enum will_kind kind = sweep->others_done ? WILL_KIND_WAITING : WILL_KIND_HELD;
    uint64_t end = sweep->others_done ? (uint64_t)clock_wall_ms() + 1 : UINT64_MAX;
    sweep->left = sweep->refused = false;
    sweep->next_size = will_key(kind, 0, 0, sweep->next);
    will_key(kind, end, 0, sweep->end);
    read_page(sweep);
}

void will_sweep_start(struct broker_worker *worker)
{
    struct will_sweep *sweep = worker->broker->will_sweep = heap_new(sizeof *sweep);
    sweep->worker = worker;
    sweep->timer.fired = tick;
    loop_timer_start(worker->loop, &sweep->timer, 0);
}

void will_sweep_stop(struct broker_worker *worker)
{
    struct will_sweep *sweep = worker->broker->will_sweep;
    if (sweep == NULL || sweep->worker != worker)
        return;
    sweep->closed = true;
    loop_timer_stop(worker->loop, &sweep->timer);
}

void will_sweep_free(struct broker *broker)
{
    struct will_sweep *sweep = broker->will_sweep;
    if (sweep == NULL)
        return;
    blob_unref(sweep->page);
    for (unsigned i = 0; i < PAGE; i++)
        blob_unref(sweep->items[i].value);
    heap_free(sweep);
}
