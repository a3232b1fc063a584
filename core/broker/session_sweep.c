/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions whose time is over, wills whose time has come, and index rows that nobody can need any
 * more; on worker 0, some at a time, beside everything else.
 *
 * - Every second, rows of TABLE_SESSION_DUE that are due: the will is published, or the session and
 *   all its rows go, after its will if that is still there.
 * - Once after the start, sessions that a crash left without an end, or that are kept for longer
 *   than is allowed by now: they end now, and get a due row. Once more when an end could not be
 *   stored, after 2, 4... 64 s while that goes on.
 * - Every ten minutes, filters' index rows (session_clean.c), a second at a time, between looks at
 *   what is due.
 *
 * While the store has no room, one refused will holds up all of them for a round, then two, four,
 * up to 32; sessions still end, which makes room.
 *
 * A share has a due row for each session that has left it or given back to it: it goes when nobody
 * is left, and what was given back to one that is over goes as well; while it is loaded for others,
 * its home sees to both, and the due row goes at once.
 * A session is only touched while its name is claimed, so nobody can attach to it meanwhile; not
 * while the name is held (session_hold.c), whose end brings a due row of one that has not ended.
 * Rows are looked at by the page, the sessions of a page by several hands at once, each one after
 * the other.
 */
#include "core/broker/filter_forget.h"
#include "core/broker/session_sweep.h"
#include "core/broker/share.h"
#include "core/broker/will_wait.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/log/table.h"

enum {
    DOUBLINGS = 5,
    PAGE = 256,
    NAME_BYTES = 64 + LIMIT_CLIENT_ID_BYTES,
};

static void next_session(struct sweep_hand *hand);

/* ------------------------------------------------ scans and writes */

void sweep_pause(struct session_sweep *sweep)
{
    if (!sweep->closed)
        loop_timer_start(sweep->worker->loop, &sweep->timer,
                         broker_sweep_ms(sweep->worker->broker) << sweep->failed_runs);
}

static void scan_done(struct request *request, enum status status)
{
    struct sweep_hand *hand = container_of(request, struct sweep_hand, scan.request);
    hand->sweep->worker->calls--;
    hand->scanned(hand, status);
}

void sweep_scan(struct sweep_hand *hand, size_t first, size_t end, uint32_t limit,
                void (*scanned)(struct sweep_hand *hand, enum status status))
{
    hand->scanned = scanned;
    hand->scan = (struct storage_scan){
        .first = span_of(hand->first, first), .end = span_of(hand->end, end), .limit = limit};
    request_init(&hand->scan.request, hand->sweep->worker->loop, scan_done);
    hand->sweep->worker->calls++;
    log_rows_scan(hand->sweep->worker->broker->log, &hand->scan);
}

static void write_done(struct request *request, enum status status)
{
    struct sweep_hand *hand = container_of(request, struct sweep_hand, write.request);
    hand->sweep->worker->calls--;
    hand->scanned(hand, status);
}

void sweep_write_these(struct sweep_hand *hand, struct storage_row *rows, uint32_t count,
                       enum durability durability,
                       void (*written)(struct sweep_hand *hand, enum status status))
{
    hand->scanned = written;
    hand->write = (struct log_rows){.rows = rows, .row_count = count};
    request_init(&hand->write.request, hand->sweep->worker->loop, write_done);
    hand->write.append.durability = durability;
    hand->sweep->worker->calls++;
    log_rows_write(hand->sweep->worker->broker->log, &hand->write);
}

void sweep_write(struct sweep_hand *hand, uint32_t count,
                 void (*written)(struct sweep_hand *hand, enum status status))
{
    sweep_write_these(hand, hand->rows, count, DURABLE_SYNC, written);
}

/* ------------------------------------------------ one session */

static void let_go(struct sweep_hand *hand)
{
    if (hand->claim != NULL)
        name_release(&hand->sweep->worker->broker->names, hand->claim);
    hand->claim = NULL;
}

void sweep_session_over(struct sweep_hand *hand, enum status status)
{
    if (hand->sweep->crashed && status != STATUS_OK) /* else it is found again anyway */
        atomic_store(&hand->sweep->worker->broker->ends_missing, true);
    let_go(hand);
    next_session(hand);
}

struct span sweep_due_key(struct sweep_hand *hand, uint64_t due_ms, uint8_t key[KEY_MAX])
{
    session_due_key(due_ms, &hand->name, key);
    return span_of(key, SESSION_DUE_KEY);
}

static void drop_due(struct sweep_hand *hand)
{
    hand->rows[0] = sweep_row(STORAGE_DELETE, sweep_due_key(hand, hand->due_ms, hand->keys[0]),
                              (struct span){0});
    sweep_write(hand, 1, sweep_session_over);
}

/* ------------------------------------------------ its end */

/* Its name's row as it is now. */
static void put_name(struct sweep_hand *hand)
{
    buf_clear(&hand->value);
    CHECK(session_name_encode(&hand->row, &hand->value) == STATUS_OK);
    session_key(&hand->name, hand->keys[0]);
    hand->rows[0] =
        sweep_row(STORAGE_PUT, span_of(hand->keys[0], SESSION_KEY), buf_span(&hand->value));
}

static struct storage_row without_will(struct sweep_hand *hand)
{
    session_kind_key(hand->row.session, SESSION_KIND_WILL, 0, hand->keys[1]);
    return sweep_row(STORAGE_DELETE, span_of(hand->keys[1], SESSION_STATE_KEY), (struct span){0});
}

/* Of a will whose row is gone now. */
static void count_will(const struct sweep_hand *hand, enum status status)
{
    if (status == STATUS_OK && hand->will_lost != STATUS_OK)
        will_drop(hand->sweep->worker, hand->row.name, status_text(hand->will_lost));
}

static void ended_now(struct sweep_hand *hand, enum status status)
{
    count_will(hand, status);
    sweep_session_over(hand, status);
}

/* Its time begins now: it was left without an end, or was to be kept for too long; then it ends
 * when it was to, if that is sooner. */
static void end_now(struct sweep_hand *hand)
{
    struct session_name_row *row = &hand->row;
    uint32_t count = 1;
    uint64_t now_ms = (uint64_t)clock_wall_ms();
    uint64_t old_ms = hand->due_ms != 0 ? hand->due_ms : row->due_ms;
    row->expiry_s = session_expiry_granted(hand->sweep->worker->broker, row->expiry_s);
    uint64_t due_ms = row->expiry_s == UINT32_MAX ? 0 : now_ms + row->expiry_s * 1000ULL;
    if (row->ended_ms == 0 || row->due_ms == 0 || row->due_ms > due_ms)
        row->due_ms = due_ms;
    if (row->ended_ms == 0)
        row->ended_ms = (int64_t)now_ms;
    if (old_ms != 0 && old_ms != row->due_ms)
        hand->rows[count++] =
            sweep_row(STORAGE_DELETE, sweep_due_key(hand, old_ms, hand->keys[4]), (struct span){0});
    if (row->will_ms == 0)
        hand->rows[count++] = without_will(hand);
    put_name(hand);
    const uint64_t dues[] = {row->due_ms, row->will_ms};
    for (uint32_t i = 0; i < 2; i++)
        if (dues[i] != 0) {
            hand->rows[count++] = sweep_row(
                STORAGE_PUT, sweep_due_key(hand, dues[i], hand->keys[2 + i]), span_of("\1", 1));
        }
    sweep_write(hand, count, ended_now);
}

static bool decode_name(struct sweep_hand *hand)
{
    struct span key, value;
    size_t at = 0;
    if (!storage_scan_next(&hand->scan, &at, &key, &value) ||
        session_name_decode(value, &hand->row) != STATUS_OK ||
        hand->row.name.size > sizeof hand->text)
        return false;
    memcpy(hand->text, hand->row.name.data, hand->row.name.size);
    hand->row.name.data = (const uint8_t *)hand->text;
    return true;
}

/* ------------------------------------------------ its will */

static void will_gone(struct sweep_hand *hand, enum status status)
{
    count_will(hand, status);
    if (status != STATUS_OK || hand->row.due_ms != hand->due_ms)
        sweep_session_over(hand, status);
    else
        sweep_erase(hand); /* the session ends with it */
}

static bool wills_wait(const struct session_sweep *sweep)
{
    return sweep->round < sweep->will_round;
}

/* Those of other hands may have been on their way already. */
static void wills_go_on(struct session_sweep *sweep, bool refused)
{
    if (!refused) {
        sweep->refused_runs = 0;
    } else if (!wills_wait(sweep)) {
        sweep->will_round = sweep->round + (1U << sweep->refused_runs);
        sweep->refused_runs += sweep->refused_runs < DOUBLINGS;
    }
}

static void will_said(struct request *request, enum status status)
{
    struct sweep_hand *hand = container_of(request, struct sweep_hand, publish.request);
    hand->sweep->worker->calls--;
    wills_go_on(hand->sweep, will_waits(status));
    blob_unref(hand->will);
    hand->will = NULL;
    uint64_t will_ms = hand->row.will_ms;
    hand->row.will_ms = 0;
    hand->will_lost = will_waits(status) ? STATUS_OK : status;
    if (will_waits(status)) {
        sweep_session_over(hand, status); /* it is found again */
    } else if (hand->sweep->crashed) {
        end_now(hand);
    } else {
        put_name(hand);
        hand->rows[1] = without_will(hand);
        hand->rows[2] = sweep_row(STORAGE_DELETE, sweep_due_key(hand, will_ms, hand->keys[2]),
                                  (struct span){0});
        sweep_write(hand, hand->row.due_ms == will_ms ? 2 : 3, will_gone);
    }
}

static void say_will(struct sweep_hand *hand)
{
    hand->publish = (struct will_publish){
        .say = {.worker = hand->sweep->worker,
                .tenant = hand->name.tenant,
                .client_id = hand->row.name,
                .row = hand->will_row},
        .has_row = true,
    };
    hand->sweep->worker->calls++;
    request_init(&hand->publish.request, hand->sweep->worker->loop, will_said);
    will_publish(&hand->publish);
}

static void will_found(struct sweep_hand *hand, enum status status)
{
    struct session_name_row *row = &hand->row;
    struct span key;
    uint32_t delay_s = 0;
    size_t at = 0;
    if (status != STATUS_OK) {
        sweep_session_over(hand, status);
        return;
    }
    hand->will = hand->scan.rows;
    hand->will_row = (struct span){0};
    bool found = storage_scan_next(&hand->scan, &at, &key, &hand->will_row) &&
                 will_delay(hand->will_row, &delay_s);
    if (!found || !hand->sweep->crashed || delay_s == 0 || row->expiry_s == 0) {
        say_will(hand);
        return;
    }
    row->will_ms = (uint64_t)clock_wall_ms() + delay_s * 1000ULL;
    blob_unref(hand->will);
    hand->will = NULL;
    end_now(hand);
}

static void scan_will(struct sweep_hand *hand)
{
    if (wills_wait(hand->sweep)) {
        sweep_session_over(hand, STATUS_BUSY); /* it is found again */
        return;
    }
    session_kind_key(hand->row.session, SESSION_KIND_WILL, 0, hand->first);
    session_kind_key(hand->row.session, SESSION_KIND_WILL, 1, hand->end);
    sweep_scan(hand, SESSION_STATE_KEY, SESSION_STATE_KEY, 1, will_found);
}

/* Nobody has seen its end; one without an end by time needs none but for its will. */
static bool is_crashed(const struct session_name_row *row)
{
    return row->ended_ms == 0 && (row->expiry_s != UINT32_MAX || row->will_ms != 0);
}

static bool is_kept_too_long(const struct session_sweep *sweep, const struct session_name_row *row)
{
    return session_expiry_granted(sweep->worker->broker, row->expiry_s) != row->expiry_s;
}

static bool needs_end(const struct session_sweep *sweep, const struct session_name_row *row)
{
    return is_crashed(row) || is_kept_too_long(sweep, row);
}

static void looked(struct request *request, enum status status)
{
    struct sweep_hand *hand = container_of(request, struct sweep_hand, look.request);
    hand->sweep->worker->calls--;
    if (status == STATUS_OK)
        drop_due(hand);
    else
        sweep_session_over(hand, STATUS_OK);
}

/* So that it is not looked at every second as long as others take part. */
static void look(struct sweep_hand *hand)
{
    struct broker_worker *worker = hand->sweep->worker;
    hand->look.share = hand->share;
    worker->calls++;
    request_init(&hand->look.request, worker->loop, looked);
    share_look(worker->broker, &hand->look);
}

/* A share is over when no session takes part in it; while it is loaded, its home sees to that. */
static void member_found(struct sweep_hand *hand, enum status status)
{
    bool found = status != STATUS_OK || hand->scan.count > 0;
    if (status == STATUS_OK)
        blob_unref(hand->scan.rows);
    if (!found && hand->claim != NULL)
        sweep_erase_filters(hand);
    else if (status != STATUS_OK || hand->sweep->crashed)
        sweep_session_over(hand, status);
    else if (!found)
        look(hand);
    else
        drop_due(hand);
}

static void look_for_members(struct sweep_hand *hand)
{
    share_row_key(hand->share, SHARE_KIND_MEMBER, 0, 0, hand->first);
    share_row_key(hand->share, SHARE_KIND_MEMBER, UINT64_MAX, UINT64_MAX, hand->end);
    sweep_scan(hand, SHARE_ROW_KEY, SHARE_ROW_KEY, 1, member_found);
}

/* Nobody can begin that without the name. */
static bool is_held(const struct sweep_hand *hand)
{
    return name_is_held(&hand->sweep->worker->broker->names, hand->name.tenant, hand->row.name);
}

/* Its row as it is now that nobody can change it. */
static void claimed_row(struct sweep_hand *hand, enum status status)
{
    bool found = status == STATUS_OK && decode_name(hand);
    struct blob *rows = status == STATUS_OK ? hand->scan.rows : NULL;
    if (status != STATUS_OK) {
        sweep_session_over(hand, status);
    } else if (hand->share != 0) {
        if (!found) /* only what sessions have given back since it is over */
            hand->row = (struct session_name_row){0};
        look_for_members(hand);
    } else if (found && is_held(hand)) {
        if (hand->sweep->crashed)
            sweep_session_over(hand, STATUS_OK);
        else
            drop_due(hand);
    } else if (hand->sweep->crashed) {
        if (!found || !needs_end(hand->sweep, &hand->row))
            sweep_session_over(hand, STATUS_OK);
        else if (is_crashed(&hand->row) && hand->row.will_ms != 0)
            scan_will(hand);
        else
            end_now(hand);
    } else if (found && hand->row.will_ms != 0 &&
               (hand->row.will_ms <= hand->due_ms || hand->row.due_ms == hand->due_ms)) {
        scan_will(hand); /* at the end of its session at the latest: that may have been cut, the
                          * clock set back, the will refused until then */
    } else if (found && hand->row.due_ms == hand->due_ms) {
        sweep_erase(hand);
    } else if (found && is_crashed(&hand->row) && hand->row.will_ms == 0) {
        end_now(hand); /* the due row has told that nobody holds it any more */
    } else {           /* a due row that was left behind */
        drop_due(hand);
    }
    blob_unref(rows);
}

static void scan_name(struct sweep_hand *hand,
                      void (*scanned)(struct sweep_hand *hand, enum status status))
{
    session_key(&hand->name, hand->first);
    session_key(&hand->name, hand->end);
    hand->end[SESSION_KEY] = 0; /* the next key there is */
    sweep_scan(hand, SESSION_KEY, SESSION_KEY + 1, 1, scanned);
}

static void not_replaced(void *owner)
{
    (void)owner; /* the name is let go soon anyway */
}

static void named(struct sweep_hand *hand, enum status status)
{
    bool found = status == STATUS_OK && decode_name(hand);
    struct blob *rows = status == STATUS_OK ? hand->scan.rows : NULL;
    uint8_t text[SHARE_NAME];
    hand->share = found ? share_of_name(hand->row.name) : hand->due_share;
    struct span name = hand->share != 0 ? share_name(hand->share, text) : hand->row.name;
    found |= status == STATUS_OK && hand->share != 0;
    if (found)
        hand->claim =
            name_claim_free(&hand->sweep->worker->broker->names, hand->sweep->worker->loop,
                            hand->name.tenant, name, hand, not_replaced);
    blob_unref(rows);
    if (status == STATUS_OK && !found) {
        drop_due(hand);
    } else if (hand->claim == NULL && hand->share != 0) {
        look_for_members(hand);
    } else if (hand->claim == NULL) {
        /* Its client is there, with a row that says what is granted, or about to be, and may go
         * before it has one. */
        if (found && hand->sweep->crashed && is_kept_too_long(hand->sweep, &hand->row))
            atomic_store(&hand->sweep->worker->broker->ends_missing, true);
        sweep_session_over(hand, status);
    } else {
        scan_name(hand, claimed_row);
    }
}

/* ------------------------------------------------ pages of them */

static void next_page(struct session_sweep *sweep);

/* The next row of the page that has to do with us; false: there is none. */
static bool take_row(struct session_sweep *sweep, struct sweep_hand *hand)
{
    struct span key, value;
    struct session_name_row row;
    while (!sweep->closed && storage_scan_next(&sweep->page_scan, &sweep->page_at, &key, &value)) {
        CHECK(key.size < KEY_MAX);
        memcpy(sweep->page_next, key.data, key.size);
        sweep->page_next[key.size] = 0;
        sweep->page_next_size = key.size + 1;
        if (sweep->crashed && (session_name_decode(value, &row) != STATUS_OK ||
                               (share_of_name(row.name) == 0 && !needs_end(sweep, &row))))
            continue;
        size_t at = sweep->crashed ? 1 : 9;
        hand->due_ms = sweep->crashed ? 0 : load_u64(key.data + 1);
        hand->due_share = sweep->crashed ? 0 : share_of_due(value);
        hand->will_lost = STATUS_OK;
        hand->name = (struct session_name){
            .tenant = load_u64(key.data + at),
            .hash = {load_u64(key.data + at + 8), load_u64(key.data + at + 16)},
        };
        return true;
    }
    return false;
}

static void page_over(struct session_sweep *sweep)
{
    blob_unref(sweep->page);
    sweep->page = NULL;
    if (sweep->page_scan.more && !sweep->closed) {
        next_page(sweep);
        return;
    }
    sweep->done_crashed |= sweep->crashed;
    if (sweep->crashed && !atomic_load(&sweep->worker->broker->ends_missing))
        sweep->missing_runs = 0;
    if (sweep->cleaning && !sweep->closed)
        sweep_clean_some(sweep);
    else
        sweep_pause(sweep);
}

/* The last hand that finds nothing more turns the page. */
static void next_session(struct sweep_hand *hand)
{
    struct session_sweep *sweep = hand->sweep;
    if (take_row(sweep, hand))
        scan_name(hand, named);
    else if (--sweep->busy == 0)
        page_over(sweep);
}

static void page_scanned(struct sweep_hand *own, enum status status)
{
    struct session_sweep *sweep = own->sweep;
    if (status != STATUS_OK || sweep->closed) {
        if (status == STATUS_OK)
            blob_unref(own->scan.rows);
        else
            sweep->failed_runs += sweep->failed_runs < DOUBLINGS;
        sweep_pause(sweep);
        return;
    }
    sweep->failed_runs = 0;
    sweep->page_scan = own->scan;
    sweep->page = own->scan.rows;
    sweep->page_at = 0;
    sweep->busy = SWEEP_HANDS;
    for (unsigned i = 0; i < SWEEP_HANDS; i++)
        next_session(&sweep->hands[i]);
}

static void next_page(struct session_sweep *sweep)
{
    size_t end = 1;
    struct sweep_hand *own = &sweep->own;
    memcpy(own->first, sweep->page_next, sweep->page_next_size);
    own->end[0] = sweep->crashed ? TABLE_SESSION + 1 : TABLE_SESSION_DUE;
    if (!sweep->crashed) {
        store_u64(own->end + 1, (uint64_t)clock_wall_ms() + 1);
        end = 9;
    }
    sweep_scan(own, sweep->page_next_size, end, PAGE, page_scanned);
}

static void sessions_begin(struct session_sweep *sweep, bool crashed)
{
    sweep->crashed = crashed;
    sweep->page_next[0] = crashed ? TABLE_SESSION : TABLE_SESSION_DUE;
    sweep->page_next_size = 1;
    next_page(sweep);
}

/* ------------------------------------------------ time */

/* Whoever has no end yet is looked for ever less often: what is due is seen to in between. */
static bool looks_for_crashed(struct session_sweep *sweep)
{
    if (wills_wait(sweep) || sweep->round < sweep->crashed_round ||
        !atomic_exchange(&sweep->worker->broker->ends_missing, false))
        return false;
    sweep->crashed_round = sweep->round + (2U << sweep->missing_runs);
    sweep->missing_runs += sweep->missing_runs < DOUBLINGS;
    return true;
}

static void tick(struct loop_timer *timer)
{
    struct session_sweep *sweep = container_of(timer, struct session_sweep, timer);
    struct broker_worker *worker = sweep->worker;
    if (!atomic_load(&worker->broker->sessions_kept)) {
        sweep->done_crashed = true;
        sweep_pause(sweep);
        return;
    }
    sweep->round++;
    filter_forget_round(worker->broker);
    if (looks_for_crashed(sweep))
        sweep->done_crashed = false;
    if (!sweep->done_crashed) {
        sessions_begin(sweep, true);
        return;
    }
    sweep_clean_when_due(sweep);
    sessions_begin(sweep, false);
}

void session_sweep_start(struct broker_worker *worker)
{
    struct session_sweep *sweep = worker->broker->sweep = heap_new(sizeof *sweep);
    sweep->worker = worker;
    sweep->timer.fired = tick;
    sweep_clean_rest(sweep);
    sweep->own.sweep = sweep;
    for (unsigned i = 0; i < SWEEP_HANDS; i++) {
        sweep->hands[i].sweep = sweep;
        buf_init(&sweep->hands[i].value, NAME_BYTES);
    }
    sweep_pause(sweep);
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
    struct session_sweep *sweep = broker->sweep;
    if (sweep == NULL)
        return;
    blob_unref(sweep->page);
    for (unsigned i = 0; i < SWEEP_HANDS; i++) {
        struct sweep_hand *hand = &sweep->hands[i];
        blob_unref(hand->will);
        buf_deinit(&hand->value);
        buf_deinit(&hand->position);
        heap_free(hand->more);
        heap_free(hand->returns);
    }
    heap_free(sweep);
}
