/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions over a store whose answers come late, or are refusals. */
#include <pthread.h>

#include "core/broker/session.h"
#include "core/broker/will_row.h"
#include "tests/unit/session_rig.h"

/* ------------------------------------------------ the store */

/* What is kept waiting: reads of records, scans of one table, appends of records; or the latter are
 * refused. */
enum { WAITING_MAX = 64, NO_SWEEP_MS = 1000000 };

static struct {
    struct storage *inner;
    pthread_mutex_t lock;
    bool reads_wait;
    uint8_t table_waits;
    struct storage_read *reads[WAITING_MAX];
    struct storage_scan *scans[WAITING_MAX];
    struct storage_append *appends[WAITING_MAX];
    uint32_t read_count, scan_count, append_count;
    bool appends_wait;
    enum status refused;      /* OK: they are not */
    enum status rows_refused; /* appends of rows alone */
    atomic_uint row_writes;
} late = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void late_read(struct storage *storage, struct storage_read *read)
{
    (void)storage;
    pthread_mutex_lock(&late.lock);
    bool waits = late.reads_wait;
    if (waits) {
        CHECK(late.read_count < WAITING_MAX);
        late.reads[late.read_count++] = read;
    }
    pthread_mutex_unlock(&late.lock);
    if (!waits)
        memory_storage_ops.read(late.inner, read);
}

static void late_scan(struct storage *storage, struct storage_scan *scan)
{
    (void)storage;
    pthread_mutex_lock(&late.lock);
    bool waits = late.table_waits != 0 && scan->first.data[0] == late.table_waits;
    if (waits) {
        CHECK(late.scan_count < WAITING_MAX);
        late.scans[late.scan_count++] = scan;
    }
    pthread_mutex_unlock(&late.lock);
    if (!waits)
        memory_storage_ops.scan(late.inner, scan);
}

static void late_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    pthread_mutex_lock(&late.lock);
    bool records = append->batch_count > 0;
    bool waits = records && late.appends_wait;
    enum status refused = records ? late.refused : late.rows_refused;
    if (waits) {
        CHECK(late.append_count < WAITING_MAX);
        late.appends[late.append_count++] = append;
    }
    pthread_mutex_unlock(&late.lock);
    atomic_fetch_add(&late.row_writes, !records);
    if (refused != STATUS_OK)
        request_complete(&append->request, refused);
    else if (!waits)
        memory_storage_ops.append(late.inner, append);
}

static void let_appends_wait(void)
{
    pthread_mutex_lock(&late.lock);
    late.appends_wait = true;
    pthread_mutex_unlock(&late.lock);
}

static void appends_go_on(void)
{
    pthread_mutex_lock(&late.lock);
    late.appends_wait = false;
    for (uint32_t i = 0; i < late.append_count; i++)
        memory_storage_ops.append(late.inner, late.appends[i]);
    late.append_count = 0;
    pthread_mutex_unlock(&late.lock);
}

static void refuse_appends(enum status status)
{
    pthread_mutex_lock(&late.lock);
    late.refused = status;
    pthread_mutex_unlock(&late.lock);
}

static void refuse_rows(enum status status)
{
    pthread_mutex_lock(&late.lock);
    late.rows_refused = status;
    pthread_mutex_unlock(&late.lock);
}

static void let_reads_wait(void)
{
    pthread_mutex_lock(&late.lock);
    late.reads_wait = true;
    pthread_mutex_unlock(&late.lock);
}

static void let_scans_wait(enum table table)
{
    pthread_mutex_lock(&late.lock);
    late.table_waits = (uint8_t)table;
    pthread_mutex_unlock(&late.lock);
}

static void reads_go_on(void)
{
    pthread_mutex_lock(&late.lock);
    late.reads_wait = false;
    for (uint32_t i = 0; i < late.read_count; i++)
        memory_storage_ops.read(late.inner, late.reads[i]);
    late.read_count = 0;
    pthread_mutex_unlock(&late.lock);
}

static void scans_go_on(void)
{
    pthread_mutex_lock(&late.lock);
    late.table_waits = 0;
    for (uint32_t i = 0; i < late.scan_count; i++)
        memory_storage_ops.scan(late.inner, late.scans[i]);
    late.scan_count = 0;
    pthread_mutex_unlock(&late.lock);
}

static uint32_t waiting(const uint32_t *count)
{
    pthread_mutex_lock(&late.lock);
    uint32_t found = *count;
    pthread_mutex_unlock(&late.lock);
    return found;
}

#define PASS_ON(name, type)                                                                        \
    static void pass_##name(struct storage *storage, struct type *call)                            \
    {                                                                                              \
        (void)storage;                                                                             \
        memory_storage_ops.name(late.inner, call);                                                 \
    }
PASS_ON(trim, storage_trim)
PASS_ON(floor, storage_floor)
PASS_ON(bounds, storage_bounds)

static enum status pass_health(struct storage *storage)
{
    (void)storage;
    return memory_storage_ops.health(late.inner);
}

static void pass_close(struct storage *storage)
{
    (void)storage;
    memory_storage_ops.close(late.inner);
}

static const struct storage_ops late_ops = {
    .name = "late",
    .can = STORAGE_ATOMIC_ROWS,
    .append = late_append,
    .read = late_read,
    .scan = late_scan,
    .trim = pass_trim,
    .floor = pass_floor,
    .bounds = pass_bounds,
    .close = pass_close,
    .health = pass_health,
};
static struct storage late_storage = {.ops = &late_ops};

static void restart(uint32_t sweep_ms)
{
    broker_fall();
    broker_bury();
    rig.options.sweep_ms = sweep_ms;
    broker_rise(rig.count);
}

static void late_rig_open(unsigned workers)
{
    clock_use(&moved_clock);
    rig_open(workers);
    broker_fall();
    broker_bury();
    late.inner = rig.storage;
    rig.storage = &late_storage;
    broker_rise(workers);
}

static void late_rig_close(void)
{
    rig_close();
    clock_use(NULL);
}

/* ------------------------------------------------ clients whose sessions are kept */

static void settle_all_run(void *context)
{
    struct peer *peer = context;
    for (uint32_t i = 0; i < peer->record_count; i++)
        broker_settled(&peer->client, peer->records[i].identifier);
    client_settled(&peer->client, peer->record_count);
}

static void retain(struct peer *peer, const char *topic, const char *value)
{
    struct publish_call call = {
        .peer = peer,
        .publish = {.topic = span_from_text(topic),
                    .guarantee = GUARANTEE_AT_LEAST_ONCE,
                    .answer = true,
                    .retain = true},
        .value = value,
        .count = 1,
    };
    uint32_t before = peer_look(peer).answers;
    on(peer->worker, publish_call_run, &call);
    await(peer_look(peer).answers == before + 1);
}

/* ------------------------------------------------ what is retained, behind what was in flight */

/* A session with so many records in flight, and five retained topics t/0 ...; the broker begins
 * anew, so that they are read from the store. */
static void leave_in_flight(uint32_t count)
{
    bool present;
    struct peer *writer = peer_new(0, "writer"),
                *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    assert_int_equal(peer_subscribe(peer, "f", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_many(writer, "f", GUARANTEE_AT_LEAST_ONCE, 0, count);
    await_records(peer, count);
    for (char topic[] = "t/0"; topic[2] < '5'; topic[2]++)
        retain(writer, topic, topic);
    peer_close(peer);
    peer_close(writer);
    restart(0);
}

/* A subscribe that is served before what was in flight is out again: it takes no number meanwhile.
 */
static void retained_records_wait_for_what_was_in_flight(void **state)
{
    (void)state;
    late_rig_open(1);
    leave_in_flight(LIMIT_CLIENT_CREDIT);
    bool present;
    let_reads_wait();
    struct peer *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    assert_true(present);
    assert_int_equal(peer_subscribe(peer, "t/+", GUARANTEE_AT_LEAST_ONCE, 2), STATUS_OK);
    await(waiting(&late.read_count) == 1);
    rig_calm();
    assert_int_equal(peer_look(peer).records, 0);
    reads_go_on();
    await_records(peer, LIMIT_CLIENT_CREDIT);
    on(0, settle_all_run, peer);
    await_records(peer, LIMIT_CLIENT_CREDIT + 5);
    for (uint32_t i = 0; i < LIMIT_CLIENT_CREDIT + 5; i++)
        assert_in_range(peer->records[i].identifier, 1, LIMIT_CLIENT_CREDIT);
    peer_close(peer);
    peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present); /* what is stored can be read */
    assert_true(present);
    await_records(peer, 5);
    peer_close(peer);
    late_rig_close();
}

/* The walk reads its rows when the session has sent again what was in flight, and starts all of
 * its walks. */
static void a_walk_starts_once(void **state)
{
    (void)state;
    late_rig_open(1);
    leave_in_flight(1);
    bool present;
    let_reads_wait();
    let_scans_wait(TABLE_RETAINED);
    struct peer *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    assert_int_equal(peer_subscribe(peer, "t/+", GUARANTEE_AT_LEAST_ONCE, 2), STATUS_OK);
    await(waiting(&late.scan_count) == 1);
    await(waiting(&late.read_count) == 1);
    reads_go_on();
    await_records(peer, 1);
    assert_int_equal(waiting(&late.scan_count), 1);
    scans_go_on();
    await_records(peer, 6);
    peer_close(peer);
    late_rig_close();
}

/* ------------------------------------------------ what is stored of it */

/* A session whose position cannot be read is lost, but not its name. */
static void a_clean_start_reads_no_position(void **state)
{
    (void)state;
    late_rig_open(1);
    uint8_t key[SESSION_STATE_KEY];
    bool present;
    put_session("kept", &(struct session_name_row){.session = 7, .expiry_s = UINT32_MAX});
    session_kind_key(7, SESSION_KIND_POSITION, 0, key);
    put_row(span_of(key, sizeof key), span_from_text("\1"));
    restart(0);
    struct broker_attach attach = {.expiry_s = UINT32_MAX};
    struct peer *peer = peer_new(0, "kept");
    assert_int_equal(session_attach(peer, attach, &present), STATUS_CORRUPT);
    peer_close(peer);
    attach.clean = true;
    peer = peer_new(0, "kept");
    assert_int_equal(session_attach(peer, attach, &present), STATUS_OK);
    peer_close(peer);
    assert_false(present);
    peer_close(peer_attach(0, "kept", UINT32_MAX, NULL, &present));
    assert_true(present);
    late_rig_close();
}

/* ------------------------------------------------ the broker ends meanwhile */

struct ending {
    struct request request;
    atomic_bool done;
};

static void ending_done(struct request *request, enum status status)
{
    CHECK(status == STATUS_OK);
    atomic_store(&container_of(request, struct ending, request)->done, true);
}

/* Clients stay; end_close() follows when they have gone. */
static void end_begin(struct ending *ending)
{
    *ending = (struct ending){0};
    request_init(&ending->request, rig.loops[0], ending_done);
    broker_shut_down(rig.broker, &ending->request);
    rig_calm();
}

static void end_close(struct ending *ending)
{
    rig_await(&ending->done);
    for (unsigned i = 0; i < rig.count; i++)
        worker_stop(rig.workers[i]);
    broker_bury();
    broker_rise(rig.count);
}

/* What it subscribed to cannot be announced any more: there is no session rather than an empty one.
 */
static void a_session_does_not_come_back_to_a_broker_that_ends(void **state)
{
    (void)state;
    late_rig_open(2);
    bool present;
    struct ending ending;
    struct peer *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    assert_int_equal(peer_subscribe(peer, "f", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(peer);
    peer = peer_new(0, "kept");
    peer->closes_at_end = false;
    let_scans_wait(TABLE_SESSION_STATE);
    struct attach_call call = {.attach = {.client = &peer->client, .expiry_s = UINT32_MAX}};
    request_init(&call.attach.request, rig.loops[0], attach_call_done);
    on(0, attach_call_run, &call);
    await(waiting(&late.scan_count) == 1);
    end_begin(&ending);
    scans_go_on();
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_SHUTTING_DOWN);
    heap_free(call.attach.received);
    buf_deinit(&call.attach.notes);
    peer_close(peer);
    end_close(&ending);
    peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    struct peer *writer = peer_new(1, "writer");
    publish_many(writer, "f", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_records(peer, 1);
    peer_close(writer);
    peer_close(peer);
    late_rig_close();
}

static enum status share_join(struct peer *peer, const char *share)
{
    return peer_subscribe_item(peer, (struct subscribe_item){.filter = span_from_text("f"),
                                                             .share = span_from_text(share),
                                                             .guarantee = GUARANTEE_AT_LEAST_ONCE});
}

/* A share that it was in stays its own when the moment is wrong, one that it asks for now does not
 * become its own. */
static void a_share_is_not_left_by_a_broker_that_ends(void **state)
{
    (void)state;
    late_rig_open(2);
    bool present;
    struct ending ending;
    const struct broker_attach attach = {.expiry_s = UINT32_MAX};
    struct peer *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    assert_int_equal(share_join(peer, "g"), STATUS_OK);
    peer_close(peer);
    peer = peer_new(0, "kept");
    assert_int_equal(session_find(peer, attach, &present), STATUS_OK);
    peer->closes_at_end = false;
    assert_int_equal(rows_of(TABLE_SHARE), 1);
    end_begin(&ending);
    assert_int_equal(share_join(peer, "g"), STATUS_SHUTTING_DOWN);
    assert_int_equal(share_join(peer, "other"), STATUS_SHUTTING_DOWN);
    peer_close(peer);
    end_close(&ending);
    assert_int_equal(rows_of(TABLE_SHARE), 1);
    struct peer *writer = peer_new(1, "writer");
    publish_many(writer, "f", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(writer, 1);
    peer = peer_new(1, "kept");
    assert_int_equal(session_find(peer, attach, &present), STATUS_OK);
    assert_int_equal(share_join(peer, "g"), STATUS_OK);
    on(peer->worker, session_begin_run, peer);
    await_records(peer, 1);
    peer_close(writer);
    peer_close(peer);
    late_rig_close();
}

/* ------------------------------------------------ wills */

static struct peer *watcher_new(void)
{
    struct peer *watcher = peer_new(1, "watcher");
    assert_int_equal(peer_subscribe(watcher, "will", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    return watcher;
}

static struct broker_will will_after(uint32_t delay_s)
{
    return (struct broker_will){
        .publish = {.topic = span_from_text("will"),
                    .body = span_from_text("x"),
                    .guarantee = GUARANTEE_AT_LEAST_ONCE},
        .delay_s = delay_s,
    };
}

/* Until its session ends, and longer. */
static void a_will_waits_for_space(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(1);
    bool present;
    struct broker_will will = will_after(0);
    struct peer *watcher = watcher_new();
    for (uint32_t round = 1; round <= 2; round++) {
        refuse_appends(STATUS_NO_SPACE);
        peer_close(peer_attach(0, "leaves", 100, &will, &present));
        await(rows_of(TABLE_SESSION_DUE) == 2);
        if (round == 2) { /* the session is over meanwhile */
            atomic_fetch_add(&clock_ahead_ms, 100001);
            usleep(20000);
            assert_int_equal(rows_of(TABLE_SESSION), 1);
        }
        refuse_appends(STATUS_OK);
        await(peer_look(watcher).records == round);
        await(rows_of(TABLE_SESSION_DUE) == (round == 1 ? 1 : 0));
    }
    assert_int_equal(rows_of(TABLE_SESSION), 0);
    assert_int_equal(rows_of(TABLE_SESSION_STATE), 0);
    await_records(watcher, 2);
    peer_close(watcher);
    late_rig_close();
}

/* A session that goes on and then ends with its client, and one of which nothing is kept. */
static void a_will_that_ends_with_its_client_waits_too(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(1);
    bool present;
    struct broker_will will = will_after(0);
    struct peer *watcher = watcher_new();
    static const enum status why[] = {STATUS_OVER_QUOTA, STATUS_BUSY, STATUS_NO_SPACE};
    for (uint32_t round = 0; round < 6; round++) {
        if (round % 2 == 0)
            peer_close(peer_attach(0, "leaves", 100, NULL, &present));
        refuse_appends(why[round / 2]);
        struct peer *peer = peer_attach(0, "leaves", 0, &will, &present);
        assert_int_equal(present, round % 2 == 0);
        peer_close(peer);
        await(rows_of(TABLE_WILL) == 1);
        usleep(20000);
        assert_int_equal(rows_of(TABLE_SESSION), 0);
        refuse_appends(STATUS_OK);
        atomic_fetch_add(&clock_ahead_ms, 1001);
        await(peer_look(watcher).records == round + 1);
        await(rows_of(TABLE_WILL) == 0);
    }
    await_records(watcher, 6);
    peer_close(watcher);
    late_rig_close();
}

/* What is refused again and again is not tried for ever, and what is refused for good not again. */
static void a_will_has_its_chances(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(1);
    bool present;
    struct broker_will will = will_after(0);
    int64_t before = rig_metric("dropped_total", "reason=\"will\"");
    static const enum status why[] = {STATUS_OVER_QUOTA, STATUS_DENIED};
    for (uint32_t round = 0; round < 2; round++) {
        refuse_appends(why[round]);
        peer_close(peer_attach(0, "leaves", 100, &will, &present));
        for (unsigned i = 0;
             i < 1000 && rig_metric("dropped_total", "reason=\"will\"") <= before + (int64_t)round;
             i++) {
            atomic_fetch_add(&clock_ahead_ms, round == 0 ? 5000 : 0);
            usleep(2000);
        }
        assert_int_equal(rig_metric("dropped_total", "reason=\"will\""), before + round + 1);
        await(rows_of(TABLE_WILL) == 0);
        refuse_appends(STATUS_OK);
    }
    late_rig_close();
}

static void put_will_row(enum will_kind kind, uint64_t at, const char *body, uint32_t tries)
{
    struct broker_will will = will_after(50);
    will.publish.body = span_from_text(body);
    struct blob *row = will_encode((struct span){0}, &will);
    struct waiting_will waiting = {.tenant = TENANT_DEFAULT,
                                   .tries = tries,
                                   .client_id = span_from_text(body),
                                   .row = blob_span(row)};
    struct blob *value = waiting_will_encode(&waiting);
    uint8_t key[WILL_KEY];
    will_key(kind, at, 1, key);
    put_row(span_of(key, sizeof key), blob_span(value));
    blob_unref(value);
    blob_unref(row);
}

/* A run before was killed: what its clients of which nothing is kept have left is published, what
 * those of this run would leave is not. */
static void a_run_that_was_killed_leaves_its_wills(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    struct broker_will will = will_after(0);
    struct peer *watcher = peer_attach(1, "watcher", 100, NULL, &present);
    assert_int_equal(peer_subscribe(watcher, "will", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(watcher);
    put_will_row(WILL_KIND_HELD, 1, "first", 0);
    put_will_row(WILL_KIND_HELD, 2, "second", 0);
    put_will_row(WILL_KIND_HELD, UINT64_MAX - 1, "third", 0);
    restart(1);
    struct peer *here = peer_attach(0, "here", 0, &will, &present);
    await(rows_of(TABLE_WILL) == 1);
    usleep(20000);
    assert_int_equal(rows_of(TABLE_WILL), 1);
    watcher = peer_attach(1, "watcher", 100, NULL, &present);
    await_records(watcher, 3);
    peer_close(here);
    await(rows_of(TABLE_WILL) == 0);
    await_records(watcher, 4);
    peer_close(watcher);
    late_rig_close();
}

/* Of a client that is there what was refused before is too late, and of one that is not the last
 * try fails: each is counted once, although the store does not let their rows go at first. */
static void a_will_of_who_is_back_is_dropped(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(1);
    bool present;
    int64_t before = rig_metric("dropped_total", "reason=\"will\"");
    struct peer *watcher = watcher_new();
    struct peer *back = peer_attach(1, "back", 0, NULL, &present);
    uint64_t due_ms = (uint64_t)clock_wall_ms() + 50000;
    put_will_row(WILL_KIND_WAITING, due_ms, "back", 1);
    put_will_row(WILL_KIND_WAITING, due_ms + 1, "away", 99);
    put_will_row(WILL_KIND_WAITING, due_ms + 2, "back", 1);
    refuse_appends(STATUS_OVER_QUOTA);
    refuse_rows(STATUS_NO_SPACE);
    unsigned writes = atomic_load(&late.row_writes);
    atomic_fetch_add(&clock_ahead_ms, 50003);
    await(atomic_load(&late.row_writes) >= writes + 3);
    assert_int_equal(rig_metric("dropped_total", "reason=\"will\""), before);
    assert_int_equal(rows_of(TABLE_WILL), 3);
    refuse_rows(STATUS_OK);
    await(rows_of(TABLE_WILL) == 0);
    await(rig_metric("dropped_total", "reason=\"will\"") == before + 3);
    refuse_appends(STATUS_OK);
    peer_close(back);
    /* who is away has both said */
    put_will_row(WILL_KIND_WAITING, 1, "back", 1);
    put_will_row(WILL_KIND_WAITING, 2, "back", 1);
    await(rows_of(TABLE_WILL) == 0);
    await_records(watcher, 2);
    assert_int_equal(rig_metric("dropped_total", "reason=\"will\""), before + 3);
    peer_close(watcher);
    late_rig_close();
}

/* One of a kept session that asks for nothing is stored as any, and known again. */
static void a_will_of_little_weight_has_an_id(void **state)
{
    (void)state;
    late_rig_open(1);
    restart(NO_SWEEP_MS);
    bool present;
    struct broker_will will = will_after(50);
    will.publish.guarantee = GUARANTEE_AT_MOST_ONCE;
    struct peer *peer = peer_attach(0, "light", 100, &will, &present);
    struct stored_will stored;
    assert_true(will_decode(blob_span(peer->client.session->will), &stored));
    assert_true(stored.will.publish.dedup_id.size > 0);
    peer_close(peer);
    late_rig_close();
}

/* Who comes back publishes it, and is gone before that is done. */
static void a_late_will_is_said_once(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    struct broker_will will = will_after(50);
    struct peer *watcher = watcher_new(), *peer;
    peer_close(peer_attach(0, "leaves", 100, &will, &present));
    await(rows_of(TABLE_SESSION_DUE) == 2);
    atomic_fetch_add(&clock_ahead_ms, 50001);
    let_appends_wait();
    peer = peer_new(0, "leaves");
    struct attach_call call = {.attach = {.client = &peer->client, .expiry_s = 100}};
    request_init(&call.attach.request, rig.loops[0], attach_call_done);
    on(0, attach_call_run, &call);
    await(waiting(&late.append_count) == 1);
    peer_close(peer);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_CANCELED);
    heap_free(call.attach.received);
    buf_deinit(&call.attach.notes);
    appends_go_on();
    await_records(watcher, 1);
    peer_close(watcher);
    restart(1);
    watcher = watcher_new();
    await(rows_of(TABLE_SESSION_DUE) == 1);
    assert_int_equal(rows_of(TABLE_SESSION_STATE), 1); /* its position */
    atomic_fetch_add(&clock_ahead_ms, 50001);
    await(rows_of(TABLE_SESSION) == 0);
    await_records(watcher, 0);
    peer_close(watcher);
    late_rig_close();
}

/* While rows find room and records do not, a will that waits does not keep its client out. */
static void a_late_will_without_space_is_dropped(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    struct broker_will will = will_after(0);
    struct broker_attach attach = {.expiry_s = 100};
    struct peer *watcher = watcher_new(), *peer;
    int64_t before = rig_metric("dropped_total", "reason=\"will\"");
    refuse_appends(STATUS_NO_SPACE);
    peer_close(peer_attach(0, "leaves", 100, &will, &present));
    await(rows_of(TABLE_SESSION_DUE) == 2);
    /* It stays when its row cannot go either. */
    refuse_rows(STATUS_NO_SPACE);
    peer = peer_new(0, "leaves");
    assert_int_equal(session_attach(peer, attach, &present), STATUS_NO_SPACE);
    peer_close(peer);
    assert_int_equal(rig_metric("dropped_total", "reason=\"will\""), before);
    refuse_rows(STATUS_OK);
    peer = peer_new(0, "leaves");
    assert_int_equal(session_attach(peer, attach, &present), STATUS_OK);
    assert_true(present);
    assert_int_equal(rig_metric("dropped_total", "reason=\"will\""), before + 1);
    peer_close(peer);
    refuse_appends(STATUS_OK);
    peer = peer_attach(0, "leaves", 100, NULL, &present);
    assert_true(present);
    peer_close(peer);
    await_records(watcher, 0);
    peer_close(watcher);
    late_rig_close();
}

static uint32_t records_waiting(void)
{
    uint32_t count = 0;
    pthread_mutex_lock(&late.lock);
    for (uint32_t i = 0; i < late.append_count; i++)
        count += late.appends[i]->batches[0].record_count;
    pthread_mutex_unlock(&late.lock);
    return count;
}

static void wills_that_are_due_do_not_wait_for_each_other(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(1);
    bool present;
    struct broker_will will = will_after(50);
    struct peer *watcher = watcher_new();
    static const char *const names[] = {"one", "two", "three"};
    for (unsigned i = 0; i < 3; i++)
        peer_close(peer_attach(i % 2, names[i], 100, &will, &present));
    await(rows_of(TABLE_SESSION_DUE) == 6);
    let_appends_wait();
    atomic_fetch_add(&clock_ahead_ms, 50001);
    await(records_waiting() == 3);
    appends_go_on();
    await(rows_of(TABLE_SESSION_DUE) == 3);
    await_records(watcher, 3);
    peer_close(watcher);
    late_rig_close();
}

/* ------------------------------------------------ its end */

static void an_expired_session_does_not_go_on(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    struct peer *peer = peer_attach(0, "kept", 10, NULL, &present);
    assert_int_equal(peer_subscribe(peer, "f", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(peer);
    peer = peer_attach(1, "kept", 10, NULL, &present);
    assert_true(present);
    peer_close(peer);
    await(rows_of(TABLE_SESSION_DUE) == 1);
    atomic_fetch_add(&clock_ahead_ms, 10001);
    peer = peer_attach(0, "kept", 10, NULL, &present);
    assert_false(present);
    assert_int_equal(rows_of(TABLE_FILTER_HOLDER), 0);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
    peer_close(peer);
    late_rig_close();
}

/* What it was refused when it came back goes with it. */
static void filters_that_are_refused_are_given_up(void **state)
{
    (void)state;
    late_rig_open(2);
    bool present;
    struct peer *peer = peer_attach(0, "kept", 100, NULL, &present);
    for (char filter[] = "f/0"; filter[2] < '3'; filter[2]++)
        assert_int_equal(peer_subscribe(peer, filter, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(peer);
    assert_int_equal(rows_of(TABLE_FILTER_HOLDER), 3);
    rig.options.subscription_limit = 1;
    restart(0);
    peer = peer_attach(0, "kept", 0, NULL, &present);
    assert_true(present);
    peer_close(peer);
    await(rows_of(TABLE_SESSION) == 0);
    assert_int_equal(rows_of(TABLE_FILTER_HOLDER), 0);
    late_rig_close();
}

static void many_filters_go_at_once(void **state)
{
    (void)state;
    late_rig_open(1);
    restart(1);
    bool present;
    struct peer *peer = peer_attach(0, "kept", 10, NULL, &present);
    for (uint32_t i = 0; i < 600; i++) {
        char filter[16];
        snprintf(filter, sizeof filter, "f/%u", i);
        assert_int_equal(peer_subscribe(peer, filter, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    }
    peer_close(peer);
    await(rows_of(TABLE_SESSION_DUE) == 1);
    assert_int_equal(rows_of(TABLE_FILTER_HOLDER), 600);
    unsigned before = atomic_load(&late.row_writes);
    atomic_fetch_add(&clock_ahead_ms, 10001);
    await(rows_of(TABLE_SESSION) == 0);
    assert_int_equal(rows_of(TABLE_FILTER_HOLDER), 0);
    assert_int_equal(rows_of(TABLE_SESSION_STATE), 0);
    assert_in_range(atomic_load(&late.row_writes) - before, 1, 4);
    late_rig_close();
}

/* A session is not without an end until the next start. */
static void an_end_that_is_refused_is_made_up_for(void **state)
{
    (void)state;
    late_rig_open(1);
    restart(1);
    bool present;
    struct peer *peer = peer_attach(0, "kept", 10, NULL, &present);
    usleep(20000); /* what a crash left has been looked for */
    refuse_rows(STATUS_NO_SPACE);
    peer_close(peer);
    usleep(20000);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
    refuse_rows(STATUS_OK);
    await(rows_of(TABLE_SESSION_DUE) == 1);
    atomic_fetch_add(&clock_ahead_ms, 10001);
    await(rows_of(TABLE_SESSION) == 0);
    late_rig_close();
}

/* ------------------------------------------------ how much is kept */

/* Filters of shapes beyond those that have ids of their own share one: it is counted once. */
static void what_is_kept_is_counted_once(void **state)
{
    (void)state;
    late_rig_open(1);
    rig.options.session_records = 10;
    restart(0);
    bool present;
    struct peer *writer = peer_new(0, "writer"),
                *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    for (uint32_t number = 0; number < 100; number++) {
        char filter[] = "n/s/s/s/s/s/s/s";
        for (uint32_t level = 0; level < 7; level++)
            if (number >> level & 1)
                filter[2 * level + 2] = '+';
        if (number == 99)
            filter[0] = 's';
        assert_int_equal(peer_subscribe(peer, filter, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    }
    peer_close(peer);
    publish_many(writer, "s/s/s/s/s/s/s/s", GUARANTEE_AT_LEAST_ONCE, 0, 5);
    await_answers(writer, 5);
    peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    await_records(peer, 5);
    peer_close(peer);
    peer_close(writer);
    late_rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(retained_records_wait_for_what_was_in_flight),
        cmocka_unit_test(a_walk_starts_once),
        cmocka_unit_test(a_clean_start_reads_no_position),
        cmocka_unit_test(a_session_does_not_come_back_to_a_broker_that_ends),
        cmocka_unit_test(a_share_is_not_left_by_a_broker_that_ends),
        cmocka_unit_test(a_will_waits_for_space),
        cmocka_unit_test(a_will_that_ends_with_its_client_waits_too),
        cmocka_unit_test(a_will_has_its_chances),
        cmocka_unit_test(a_run_that_was_killed_leaves_its_wills),
        cmocka_unit_test(a_will_of_who_is_back_is_dropped),
        cmocka_unit_test(a_will_of_little_weight_has_an_id),
        cmocka_unit_test(a_late_will_is_said_once),
        cmocka_unit_test(a_late_will_without_space_is_dropped),
        cmocka_unit_test(wills_that_are_due_do_not_wait_for_each_other),
        cmocka_unit_test(an_expired_session_does_not_go_on),
        cmocka_unit_test(filters_that_are_refused_are_given_up),
        cmocka_unit_test(many_filters_go_at_once),
        cmocka_unit_test(an_end_that_is_refused_is_made_up_for),
        cmocka_unit_test(what_is_kept_is_counted_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
