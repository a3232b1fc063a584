/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions whose time is over, wills whose time has come, and index rows that nobody can need any
 * more; on worker 0, one thing at a time, beside everything else.
 *
 *   every second         rows of TABLE_SESSION_DUE that are due -> the will is published, or the
 *                        session and all its rows go
 *   once after the start sessions that a crash left without an end -> they end now, and get a due
 * row; once more when an end could not be stored
 *   every ten minutes    filters' index rows: those of records that are gone, and of filters that
 *                        no session holds
 *
 * A share has a due row for each session that has left it or given back to it: it goes when nobody
 * is left, and what was given back to one that is over goes as well.
 * A session is only touched while its name is claimed, so nobody can attach to it meanwhile. */
#include "core/broker/session_sweep.h"
#include "core/broker/share.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/log/table.h"

enum {
    CLEAN_ROUNDS = 600, /* of due sessions */
    PAGE = 64,
    NAME_BYTES = 64 + LIMIT_CLIENT_ID_BYTES,
};

static void next_session(struct session_sweep *sweep);
static void next_filter(struct session_sweep *sweep);

/* ------------------------------------------------ scans and writes */

static void pause_for_next(struct session_sweep *sweep)
{
    if (!sweep->closed)
        loop_timer_start(sweep->worker->loop, &sweep->timer,
                         broker_sweep_ms(sweep->worker->broker));
}

static void cleaned(struct session_sweep *sweep)
{
    sweep->clean_ms =
        loop_now_ms(sweep->worker->loop) + CLEAN_ROUNDS * broker_sweep_ms(sweep->worker->broker);
}

static void scan_done(struct request *request, enum status status)
{
    struct session_sweep *sweep = container_of(request, struct session_sweep, scan.request);
    sweep->worker->calls--;
    sweep->scanned(sweep, status);
}

void sweep_scan(struct session_sweep *sweep, size_t first, size_t end, uint32_t limit,
                void (*scanned)(struct session_sweep *sweep, enum status status))
{
    sweep->scanned = scanned;
    sweep->scan = (struct storage_scan){
        .first = span_of(sweep->first, first), .end = span_of(sweep->end, end), .limit = limit};
    request_init(&sweep->scan.request, sweep->worker->loop, scan_done);
    sweep->worker->calls++;
    log_rows_scan(sweep->worker->broker->log, &sweep->scan);
}

static void write_done(struct request *request, enum status status)
{
    struct session_sweep *sweep = container_of(request, struct session_sweep, write.request);
    sweep->worker->calls--;
    sweep->scanned(sweep, status);
}

void sweep_write_these(struct session_sweep *sweep, struct storage_row *rows, uint32_t count,
                       enum durability durability,
                       void (*written)(struct session_sweep *sweep, enum status status))
{
    sweep->scanned = written;
    sweep->write = (struct log_rows){.rows = rows, .row_count = count};
    request_init(&sweep->write.request, sweep->worker->loop, write_done);
    sweep->write.append.durability = durability;
    sweep->worker->calls++;
    log_rows_write(sweep->worker->broker->log, &sweep->write);
}

void sweep_write(struct session_sweep *sweep, uint32_t count,
                 void (*written)(struct session_sweep *sweep, enum status status))
{
    sweep_write_these(sweep, sweep->rows, count, DURABLE_SYNC, written);
}

/* ------------------------------------------------ one session */

static void let_go(struct session_sweep *sweep)
{
    if (sweep->claim != NULL)
        name_release(&sweep->worker->broker->names, sweep->claim);
    sweep->claim = NULL;
}

void sweep_session_over(struct session_sweep *sweep, enum status status)
{
    if (sweep->crashed && status != STATUS_OK) /* else it is found again anyway */
        atomic_store(&sweep->worker->broker->ends_missing, true);
    let_go(sweep);
    next_session(sweep);
}

struct span sweep_due_key(struct session_sweep *sweep, uint64_t due_ms, uint8_t key[KEY_MAX])
{
    session_due_key(due_ms, &sweep->name, key);
    return span_of(key, SESSION_DUE_KEY);
}

static void drop_due(struct session_sweep *sweep)
{
    sweep->rows[0] = sweep_row(STORAGE_DELETE, sweep_due_key(sweep, sweep->due_ms, sweep->keys[0]),
                               (struct span){0});
    sweep_write(sweep, 1, sweep_session_over);
}

/* ------------------------------------------------ its end */

/* Its name's row as it is now. */
static void put_name(struct session_sweep *sweep)
{
    buf_clear(&sweep->value);
    CHECK(session_name_encode(&sweep->row, &sweep->value) == STATUS_OK);
    session_key(&sweep->name, sweep->keys[0]);
    sweep->rows[0] =
        sweep_row(STORAGE_PUT, span_of(sweep->keys[0], SESSION_KEY), buf_span(&sweep->value));
}

static struct storage_row without_will(struct session_sweep *sweep)
{
    session_kind_key(sweep->row.session, SESSION_KIND_WILL, 0, sweep->keys[1]);
    return sweep_row(STORAGE_DELETE, span_of(sweep->keys[1], SESSION_STATE_KEY), (struct span){0});
}

/* A crash left it without an end: it ends now. */
static void end_crashed(struct session_sweep *sweep)
{
    struct session_name_row *row = &sweep->row;
    uint32_t count = 1;
    row->ended_ms = clock_wall_ms();
    row->due_ms =
        row->expiry_s == UINT32_MAX ? 0 : (uint64_t)row->ended_ms + row->expiry_s * 1000ULL;
    if (row->will_ms == 0)
        sweep->rows[count++] = without_will(sweep);
    put_name(sweep);
    const uint64_t dues[] = {row->due_ms, row->will_ms};
    for (uint32_t i = 0; i < 2; i++)
        if (dues[i] != 0) {
            sweep->rows[count++] = sweep_row(
                STORAGE_PUT, sweep_due_key(sweep, dues[i], sweep->keys[2 + i]), span_of("\1", 1));
        }
    sweep_write(sweep, count, sweep_session_over);
}

static bool decode_name(struct session_sweep *sweep)
{
    struct span key, value;
    size_t at = 0;
    if (!storage_scan_next(&sweep->scan, &at, &key, &value) ||
        session_name_decode(value, &sweep->row) != STATUS_OK ||
        sweep->row.name.size > sizeof sweep->text)
        return false;
    memcpy(sweep->text, sweep->row.name.data, sweep->row.name.size);
    sweep->row.name.data = (const uint8_t *)sweep->text;
    return true;
}

/* ------------------------------------------------ its will */

static void will_gone(struct session_sweep *sweep, enum status status)
{
    if (status != STATUS_OK || sweep->row.due_ms != sweep->due_ms)
        sweep_session_over(sweep, status);
    else
        sweep_erase(sweep); /* the session ends with it */
}

static void will_said(struct request *request, enum status status)
{
    struct session_sweep *sweep = container_of(request, struct session_sweep, publish.request);
    sweep->worker->calls--;
    blob_unref(sweep->will);
    sweep->will = NULL;
    sweep->row.will_ms = 0;
    if (will_waits(status)) {
        sweep_session_over(sweep, status); /* it is found again */
    } else if (sweep->crashed) {
        end_crashed(sweep);
    } else {
        put_name(sweep);
        sweep->rows[1] = without_will(sweep);
        sweep->rows[2] = sweep_row(
            STORAGE_DELETE, sweep_due_key(sweep, sweep->due_ms, sweep->keys[2]), (struct span){0});
        sweep_write(sweep, sweep->row.due_ms == sweep->due_ms ? 2 : 3, will_gone);
    }
}

static void say_will(struct session_sweep *sweep)
{
    sweep->publish = (struct will_publish){
        .worker = sweep->worker,
        .tenant = sweep->name.tenant,
        .client_id = sweep->row.name,
        .row = sweep->will_row,
    };
    sweep->worker->calls++;
    request_init(&sweep->publish.request, sweep->worker->loop, will_said);
    will_publish(&sweep->publish);
}

static void will_found(struct session_sweep *sweep, enum status status)
{
    struct session_name_row *row = &sweep->row;
    struct span key;
    uint32_t delay_s = 0;
    size_t at = 0;
    if (status != STATUS_OK) {
        sweep_session_over(sweep, status);
        return;
    }
    sweep->will = sweep->scan.rows;
    sweep->will_row = (struct span){0};
    bool found = storage_scan_next(&sweep->scan, &at, &key, &sweep->will_row) &&
                 will_delay(sweep->will_row, &delay_s);
    delay_s = delay_s < row->expiry_s ? delay_s : row->expiry_s;
    if (!found || !sweep->crashed || delay_s == 0) {
        say_will(sweep);
        return;
    }
    row->will_ms = (uint64_t)clock_wall_ms() + delay_s * 1000ULL;
    blob_unref(sweep->will);
    sweep->will = NULL;
    end_crashed(sweep);
}

static void scan_will(struct session_sweep *sweep)
{
    session_kind_key(sweep->row.session, SESSION_KIND_WILL, 0, sweep->first);
    session_kind_key(sweep->row.session, SESSION_KIND_WILL, 1, sweep->end);
    sweep_scan(sweep, SESSION_STATE_KEY, SESSION_STATE_KEY, 1, will_found);
}

/* Nobody has seen its end; one without an end by time needs none but for its will. */
static bool is_crashed(const struct session_name_row *row)
{
    return row->ended_ms == 0 && (row->expiry_s != UINT32_MAX || row->will_ms != 0);
}

/* A share is over when no session takes part in it; while it is loaded, its home sees to that. */
static void member_found(struct session_sweep *sweep, enum status status)
{
    bool found = status != STATUS_OK || sweep->scan.count > 0;
    if (status == STATUS_OK)
        blob_unref(sweep->scan.rows);
    if (!found && sweep->claim != NULL)
        sweep_erase_filters(sweep);
    else if (!found || status != STATUS_OK || sweep->crashed)
        sweep_session_over(sweep, status);
    else
        drop_due(sweep);
}

static void look_for_members(struct session_sweep *sweep)
{
    share_row_key(sweep->share, SHARE_KIND_MEMBER, 0, 0, sweep->first);
    share_row_key(sweep->share, SHARE_KIND_MEMBER, UINT64_MAX, UINT64_MAX, sweep->end);
    sweep_scan(sweep, SHARE_ROW_KEY, SHARE_ROW_KEY, 1, member_found);
}

/* Its row as it is now that nobody can change it. */
static void claimed_row(struct session_sweep *sweep, enum status status)
{
    bool found = status == STATUS_OK && decode_name(sweep);
    struct blob *rows = status == STATUS_OK ? sweep->scan.rows : NULL;
    if (status != STATUS_OK) {
        sweep_session_over(sweep, status);
    } else if (sweep->share != 0) {
        if (!found) /* only what sessions have given back since it is over */
            sweep->row = (struct session_name_row){0};
        look_for_members(sweep);
    } else if (sweep->crashed) {
        if (!found || !is_crashed(&sweep->row))
            sweep_session_over(sweep, STATUS_OK);
        else if (sweep->row.will_ms != 0)
            scan_will(sweep);
        else
            end_crashed(sweep);
    } else if (found && sweep->row.will_ms != 0 && sweep->row.will_ms <= sweep->due_ms) {
        scan_will(sweep); /* also when it was refused until its session ends */
    } else if (found && sweep->row.due_ms == sweep->due_ms) {
        sweep_erase(sweep);
    } else { /* a due row that was left behind */
        drop_due(sweep);
    }
    blob_unref(rows);
}

static void scan_name(struct session_sweep *sweep,
                      void (*scanned)(struct session_sweep *sweep, enum status status))
{
    session_key(&sweep->name, sweep->first);
    session_key(&sweep->name, sweep->end);
    sweep->end[SESSION_KEY] = 0; /* the next key there is */
    sweep_scan(sweep, SESSION_KEY, SESSION_KEY + 1, 1, scanned);
}

static void not_replaced(void *owner)
{
    (void)owner; /* the name is let go soon anyway */
}

static void named(struct session_sweep *sweep, enum status status)
{
    bool found = status == STATUS_OK && decode_name(sweep);
    struct blob *rows = status == STATUS_OK ? sweep->scan.rows : NULL;
    uint8_t text[SHARE_NAME];
    sweep->share = found ? share_of_name(sweep->row.name) : sweep->due_share;
    struct span name = sweep->share != 0 ? share_name(sweep->share, text) : sweep->row.name;
    found |= status == STATUS_OK && sweep->share != 0;
    if (found)
        sweep->claim = name_claim_free(&sweep->worker->broker->names, sweep->worker->loop,
                                       sweep->name.tenant, name, sweep, not_replaced);
    blob_unref(rows);
    if (status == STATUS_OK && !found) {
        drop_due(sweep);
    } else if (sweep->claim == NULL && sweep->share != 0) {
        look_for_members(sweep);
    } else if (sweep->claim == NULL) {
        sweep_session_over(sweep, status); /* its client is there */
    } else {
        scan_name(sweep, claimed_row);
    }
}

/* ------------------------------------------------ pages of them */

static void next_page(struct session_sweep *sweep);

static void next_session(struct session_sweep *sweep)
{
    struct span key, value;
    bool more =
        !sweep->closed && storage_scan_next(&sweep->page_scan, &sweep->page_at, &key, &value);
    if (!more) {
        blob_unref(sweep->page);
        sweep->page = NULL;
        if (sweep->page_scan.more && !sweep->closed) {
            next_page(sweep);
            return;
        }
        sweep->done_crashed |= sweep->crashed;
        pause_for_next(sweep);
        return;
    }
    CHECK(key.size < KEY_MAX);
    memcpy(sweep->page_next, key.data, key.size);
    sweep->page_next[key.size] = 0;
    sweep->page_next_size = key.size + 1;
    size_t at = sweep->crashed ? 1 : 9;
    sweep->due_ms = sweep->crashed ? 0 : load_u64(key.data + 1);
    sweep->due_share = sweep->crashed ? 0 : share_of_due(value);
    sweep->name = (struct session_name){
        .tenant = load_u64(key.data + at),
        .hash = {load_u64(key.data + at + 8), load_u64(key.data + at + 16)},
    };
    struct session_name_row row;
    if (sweep->crashed && (session_name_decode(value, &row) != STATUS_OK ||
                           (share_of_name(row.name) == 0 && !is_crashed(&row))))
        next_session(sweep);
    else
        scan_name(sweep, named);
}

static void page_scanned(struct session_sweep *sweep, enum status status)
{
    if (status != STATUS_OK || sweep->closed) {
        if (status == STATUS_OK)
            blob_unref(sweep->scan.rows);
        pause_for_next(sweep);
        return;
    }
    sweep->page_scan = sweep->scan;
    sweep->page = sweep->scan.rows;
    sweep->page_at = 0;
    next_session(sweep);
}

static void next_page(struct session_sweep *sweep)
{
    size_t end = 1;
    memcpy(sweep->first, sweep->page_next, sweep->page_next_size);
    sweep->end[0] = sweep->crashed ? TABLE_SESSION + 1 : TABLE_SESSION_DUE;
    if (!sweep->crashed) {
        store_u64(sweep->end + 1, (uint64_t)clock_wall_ms() + 1);
        end = 9;
    }
    sweep_scan(sweep, sweep->page_next_size, end, PAGE, page_scanned);
}

static void sessions_begin(struct session_sweep *sweep, bool crashed)
{
    sweep->crashed = crashed;
    sweep->page_next[0] = crashed ? TABLE_SESSION : TABLE_SESSION_DUE;
    sweep->page_next_size = 1;
    next_page(sweep);
}

/* ------------------------------------------------ index rows */

/* Can no reader find it any more? A batch is as long as LIMIT_BATCH_RECORDS at most. */
static bool is_dead(const struct broker_worker *worker, const struct filter_row *row)
{
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, row->partition);
    if (queue == NULL)
        return true;
    const struct partition_stat *stat =
        &queue->stat->partitions[row->partition - queue->first_partition];
    uint64_t start = atomic_load(&stat->start);
    return row->base + LIMIT_BATCH_RECORDS <= start ||
           (row->base < start && start == atomic_load(&stat->end));
}

static void filter_cleaned(struct session_sweep *sweep, enum status status)
{
    if (status != STATUS_OK)
        pause_for_next(sweep);
    else
        next_filter(sweep);
}

/* Everything of the filter up to there: rows that come later belong to whoever came later. */
static void clean_upto(struct session_sweep *sweep, uint64_t commit)
{
    filter_index_key(sweep->filter, 0, sweep->keys[0]);
    filter_index_key(sweep->filter, commit + 1, sweep->keys[1]);
    sweep->rows[0] = sweep_row(STORAGE_DELETE_RANGE, span_of(sweep->keys[0], FILTER_INDEX_KEY),
                               span_of(sweep->keys[1], FILTER_INDEX_KEY));
    sweep_write(sweep, 1, filter_cleaned);
}

static void holder_scanned(struct session_sweep *sweep, enum status status)
{
    bool held = status != STATUS_OK || sweep->scan.count > 0;
    if (status == STATUS_OK)
        blob_unref(sweep->scan.rows);
    if (held) {
        sweep->finished = true;
        next_filter(sweep);
    } else {
        sweep->finished = false;
        clean_upto(sweep, sweep->upto);
    }
}

static void filter_scanned(struct session_sweep *sweep, enum status status)
{
    struct span key, value;
    struct filter_row row;
    uint64_t dead = 0;
    size_t at = 0;
    bool any = false, alive = false;
    while (status == STATUS_OK && !alive && storage_scan_next(&sweep->scan, &at, &key, &value)) {
        uint64_t filter = key.size == FILTER_INDEX_KEY ? load_u64(key.data + 1) : 0;
        if (any && filter != sweep->filter)
            break;
        any = true;
        sweep->filter = filter;
        sweep->upto = load_u64(key.data + 9);
        if (filter_row_decode(key, value, &row) && is_dead(sweep->worker, &row))
            dead = row.commit;
        else
            alive = true;
    }
    if (status == STATUS_OK)
        blob_unref(sweep->scan.rows);
    if (status != STATUS_OK || !any || sweep->closed) {
        cleaned(sweep);
        pause_for_next(sweep);
    } else if (dead != 0) {
        sweep->finished = alive;
        clean_upto(sweep, dead);
    } else {
        filter_holder_key(sweep->filter, 0, sweep->first);
        filter_holder_key(sweep->filter, UINT64_MAX, sweep->end);
        sweep_scan(sweep, FILTER_HOLDER_KEY, FILTER_HOLDER_KEY, 1, holder_scanned);
    }
}

/* The one in hand once more, or the next that has rows. */
static void next_filter(struct session_sweep *sweep)
{
    if (sweep->finished && sweep->filter == UINT64_MAX) {
        cleaned(sweep);
        pause_for_next(sweep);
        return;
    }
    filter_index_key(sweep->filter + sweep->finished, 0, sweep->first);
    sweep->finished = false;
    sweep->end[0] = TABLE_FILTER_INDEX + 1;
    sweep_scan(sweep, FILTER_INDEX_KEY, 1, PAGE, filter_scanned);
}

/* ------------------------------------------------ time */

static void tick(struct loop_timer *timer)
{
    struct session_sweep *sweep = container_of(timer, struct session_sweep, timer);
    struct broker_worker *worker = sweep->worker;
    if (!atomic_load(&worker->broker->sessions_kept)) {
        sweep->done_crashed = true;
        pause_for_next(sweep);
        return;
    }
    if (atomic_exchange(&worker->broker->ends_missing, false))
        sweep->done_crashed = false;
    if (!sweep->done_crashed) {
        sessions_begin(sweep, true);
    } else if (loop_now_ms(worker->loop) >= sweep->clean_ms) {
        sweep->filter = 0;
        sweep->finished = false;
        next_filter(sweep);
    } else {
        sessions_begin(sweep, false);
    }
}

void session_sweep_start(struct broker_worker *worker)
{
    struct session_sweep *sweep = worker->broker->sweep = heap_new(sizeof *sweep);
    sweep->worker = worker;
    sweep->timer.fired = tick;
    cleaned(sweep);
    buf_init(&sweep->value, NAME_BYTES);
    pause_for_next(sweep);
}

void session_sweep_stop(struct broker_worker *worker)
{
    struct session_sweep *sweep = worker->broker->sweep;
    if (sweep == NULL || sweep->worker != worker)
        return;
    sweep->closed = true;
    loop_timer_stop(worker->loop, &sweep->timer);
}

void session_sweep_free(struct broker *broker)
{
    if (broker->sweep == NULL)
        return;
    blob_unref(broker->sweep->page);
    blob_unref(broker->sweep->will);
    buf_deinit(&broker->sweep->value);
    buf_deinit(&broker->sweep->position);
    heap_free(broker->sweep->more);
    heap_free(broker->sweep->returns);
    heap_free(broker->sweep);
}
