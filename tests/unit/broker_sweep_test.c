/* SPDX-License-Identifier: Apache-2.0 */
/* What is left of sessions whose time is over, and of those that a crash left without an end. */
#include "core/broker/session.h"
#include "tests/unit/share_rig.h"

static void sweeping_rig_open(unsigned workers)
{
    clock_use(&moved_clock);
    rig_open(workers);
    broker_fall();
    broker_bury();
    rig.options.sweep_ms = 1;
    broker_rise(workers);
}

static void sweeping_rig_close(void)
{
    rig_close();
    clock_use(NULL);
}

static void a_session_and_all_its_rows_go(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    bool present;
    struct peer *writer = peer_new(0, "writer");
    struct peer *kept = peer_attach(1, "kept", UINT32_MAX, NULL, &present);
    struct peer *peer = peer_attach(0, "goes", 100, NULL, &present);
    assert_false(present);
    assert_int_equal(peer_subscribe(peer, "a/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(peer_subscribe(peer, "b", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(peer_subscribe(kept, "b", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(peer);
    peer_close(kept);
    await(rows_of(TABLE_SESSION_DUE) == 1);
    publish_many(writer, "a/x", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(writer, 1);
    publish_many(writer, "b", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(writer, 2);
    assert_int_equal(rows_of(TABLE_SESSION), 2);
    assert_int_equal(rows_of(TABLE_FILTER_HOLDER), 3);
    assert_int_equal(rows_of(TABLE_FILTER_INDEX), 2);
    uint32_t state_rows = rows_of(TABLE_SESSION_STATE);
    usleep(20000); /* a few rounds: it is not due */
    assert_int_equal(rows_of(TABLE_SESSION_STATE), state_rows);
    atomic_fetch_add(&clock_ahead_ms, 101000);
    await(rows_of(TABLE_SESSION) == 1);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
    assert_int_equal(rows_of(TABLE_FILTER_HOLDER), 1);
    assert_true(rows_of(TABLE_SESSION_STATE) < state_rows);
    /* What only it has asked for is cleaned up later, what the other is to be shown stays. */
    await(rows_of(TABLE_FILTER_INDEX) == 1);
    usleep(20000);
    assert_int_equal(rows_of(TABLE_FILTER_INDEX), 1);
    peer = peer_attach(0, "goes", 0, NULL, &present);
    assert_false(present);
    peer_close(peer);
    peer_close(writer);
    sweeping_rig_close();
}

static void what_a_crash_left_ends(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    put_session("ends", &(struct session_name_row){.session = 5, .expiry_s = 10});
    put_session("stays", &(struct session_name_row){.session = 6, .expiry_s = UINT32_MAX});
    broker_fall();
    broker_bury();
    broker_rise(2);
    await(rows_of(TABLE_SESSION_DUE) == 1); /* its time begins now */
    assert_int_equal(rows_of(TABLE_SESSION), 2);
    atomic_fetch_add(&clock_ahead_ms, 10001);
    await(rows_of(TABLE_SESSION) == 1);
    bool present;
    struct peer *peer = peer_attach(1, "stays", UINT32_MAX, NULL, &present);
    assert_true(present);
    peer_close(peer);
    sweeping_rig_close();
}

/* Of before there was a limit; nobody has to come back for it. */
static void what_is_kept_for_too_long_is_cut(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    uint64_t now_ms = (uint64_t)clock_wall_ms(), late_ms = now_ms + 99000, soon_ms = now_ms + 5000;
    int64_t ended_ms = (int64_t)now_ms - 1000;
    put_session("never", &(struct session_name_row){
                             .session = 5, .expiry_s = UINT32_MAX, .ended_ms = ended_ms});
    put_session("crashed", &(struct session_name_row){.session = 6, .expiry_s = UINT32_MAX});
    put_session("later",
                &(struct session_name_row){
                    .session = 7, .expiry_s = 100, .ended_ms = ended_ms, .due_ms = late_ms});
    put_session("less", &(struct session_name_row){
                            .session = 8, .expiry_s = 9, .ended_ms = ended_ms, .due_ms = late_ms});
    put_session("soon",
                &(struct session_name_row){
                    .session = 9, .expiry_s = 100, .ended_ms = ended_ms, .due_ms = soon_ms});
    static const char *const names[] = {"later", "less", "soon"};
    for (unsigned i = 0; i < 3; i++) {
        struct session_name name = session_name_of(TENANT_DEFAULT, span_from_text(names[i]));
        uint8_t due[SESSION_DUE_KEY];
        session_due_key(i < 2 ? late_ms : soon_ms, &name, due);
        put_row(span_of(due, sizeof due), span_of("\1", 1));
    }
    broker_fall();
    broker_bury();
    rig.options.session_expiry_s = 10;
    broker_rise(2);
    rig.options.session_expiry_s = 0;
    await(rows_of(TABLE_SESSION_DUE) == 5); /* their time begins now */
    usleep(20000);
    assert_int_equal(rows_of(TABLE_SESSION), 5);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), 5);
    assert_true(first_number(TABLE_SESSION_DUE) == soon_ms); /* its end is not put off */
    atomic_fetch_add(&clock_ahead_ms, 10001);
    await(rows_of(TABLE_SESSION) == 1);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), 1);
    assert_true(first_number(TABLE_SESSION_DUE) == late_ms);
    sweeping_rig_close();
}

static bool is_due_later(void)
{
    return rows_of(TABLE_SESSION_DUE) == 1 &&
           first_number(TABLE_SESSION_DUE) > (uint64_t)clock_wall_ms();
}

/* Nor does a will wait for longer than its session is kept, whether that has ended or a crash left
 * it. */
static void what_is_cut_says_its_will(void **state)
{
    bool crash = *(bool *)*state, present;
    struct broker_will will = {
        .publish = {.topic = span_from_text("will"),
                    .body = span_from_text("x"),
                    .guarantee = GUARANTEE_AT_LEAST_ONCE},
        .delay_s = 500,
    };
    sweeping_rig_open(1);
    struct peer *leaves = peer_attach(0, "leaves", 1000, &will, &present);
    struct session_name_row row = {
        .session = leaves->client.session->id, .expiry_s = 1000, .will_ms = SESSION_WILL_HELD};
    peer_close(leaves);
    await(rows_of(TABLE_SESSION_DUE) == 2);
    if (crash)
        put_session("leaves", &row);
    broker_fall();
    broker_bury();
    rig.options.session_expiry_s = 10;
    broker_rise(1);
    rig.options.session_expiry_s = 0;
    struct peer *watcher = peer_new(0, "watcher");
    assert_int_equal(peer_subscribe(watcher, "will", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    await(first_number(TABLE_SESSION_DUE) <= (uint64_t)clock_wall_ms() + 10000);
    assert_int_equal(peer_look(watcher).records, 0);
    atomic_fetch_add(&clock_ahead_ms, 10001);
    await(rows_of(TABLE_SESSION) == 0);
    await_records(watcher, 1);
    assert_int_equal(rows_of(TABLE_SESSION_STATE), 0);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), crash ? 2 : 0); /* of the end there has not been */
    atomic_fetch_add(&clock_ahead_ms, 1000001);
    await(rows_of(TABLE_SESSION_DUE) == 0);
    await_records(watcher, 1);
    peer_close(watcher);
    sweeping_rig_close();
}

/* Whoever comes back while it is looked for, and goes before it is stored what is granted. */
static void what_was_about_to_be_used_is_cut_later(void **state)
{
    (void)state;
    kept_rig_open(1, 1);
    put_session("back", &(struct session_name_row){
                            .session = 5, .expiry_s = UINT32_MAX, .ended_ms = clock_wall_ms()});
    broker_fall();
    broker_bury();
    rig.options.session_expiry_s = 10;
    store_set(NULL, NULL, TABLE_SESSION);
    broker_rise(1);
    await(count_of(&store.scan_count) == 1); /* of all of them */
    struct peer *peer = peer_new(0, "back");
    struct attach_call call = {.attach = {.client = &peer->client, .expiry_s = UINT32_MAX}};
    request_init(&call.attach.request, rig.loops[0], attach_call_done);
    on(0, attach_call_run, &call);
    await(count_of(&store.scan_count) == 2); /* has the name */
    uint32_t looks = count_of(&store.looks);
    store_scans_wait_next(TABLE_SESSION_STATE);
    await(count_of(&store.scan_count) == 1 && count_of(&store.looks) > looks);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
    peer_close(peer); /* and gives up the name */
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_CANCELED);
    heap_free(call.attach.received);
    buf_deinit(&call.attach.notes);
    store_goes_on();
    await(is_due_later());
    /* Who stays is not looked for again. */
    bool present;
    peer = peer_attach(0, "back", UINT32_MAX, NULL, &present);
    atomic_store(&rig.broker->ends_missing, true);
    await(!atomic_load(&rig.broker->ends_missing));
    looks = count_of(&store.looks);
    await(count_of(&store.looks) >= looks + 100);
    assert_false(atomic_load(&rig.broker->ends_missing));
    peer_close(peer);
    rig.options.session_expiry_s = 0;
    kept_rig_close();
}

struct hold_call {
    struct peer *peer;
    struct broker_hold *hold;
};

static void hold_run(void *context)
{
    struct hold_call *call = context;
    call->hold = broker_session_hold(&call->peer->client);
}

static void release_run(void *context)
{
    broker_session_release(context);
}

/* A holder of what is kept for so long. */
static struct broker_hold *hold(unsigned worker, uint32_t expiry_s, bool was_present)
{
    bool present;
    struct hold_call call = {.peer = peer_attach(worker, "held", expiry_s, NULL, &present)};
    assert_int_equal(present, was_present);
    on(worker, hold_run, &call);
    peer_close(call.peer);
    return call.hold;
}

static void what_is_held_does_not_end(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    assert_null(hold(0, UINT32_MAX, false));
    struct broker_hold *first = hold(0, 100, true), *second = hold(1, 100, true);
    for (unsigned i = 0; i < 2; i++) {
        atomic_fetch_add(&clock_ahead_ms, 100001);
        usleep(20000); /* a few rounds */
        assert_int_equal(rows_of(TABLE_SESSION), 1);
        assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
        if (i == 0)
            on(0, release_run, first);
    }
    on(1, release_run, second);
    await(is_due_later()); /* its time begins now */
    atomic_fetch_add(&clock_ahead_ms, 99000);
    usleep(20000);
    assert_int_equal(rows_of(TABLE_SESSION), 1);
    atomic_fetch_add(&clock_ahead_ms, 1001);
    await(rows_of(TABLE_SESSION) == 0);
    assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
    /* Whoever comes between the release and the sweep. */
    first = hold(0, 100, false);
    on(0, release_run, first);
    second = hold(1, 100, true);
    usleep(20000);
    await(rows_of(TABLE_SESSION_DUE) == 0);
    assert_int_equal(rows_of(TABLE_SESSION), 1);
    on(1, release_run, second);
    await(is_due_later());
    sweeping_rig_close();
}

static void a_will_is_due_once(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    bool present;
    struct header header = {span_from_text("k"), span_from_text("v")};
    struct broker_will will = {
        .publish = {.topic = span_from_text("will"),
                    .body = span_from_text("x"),
                    .headers = &header,
                    .header_count = 1,
                    .guarantee = GUARANTEE_AT_LEAST_ONCE},
        .delay_s = 50,
    };
    struct peer *watcher = peer_new(0, "watcher");
    assert_int_equal(peer_subscribe(watcher, "will", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    /* Due before its session, with it, and taken back. */
    const uint32_t expiry_s[] = {100, 50, 100};
    for (uint32_t i = 0; i < 3; i++) {
        peer_close(peer_attach(i, "leaves", expiry_s[i], &will, &present));
        await(rows_of(TABLE_SESSION_DUE) == (i == 1 ? 1 : 2));
        if (i == 2) {
            struct peer *back = peer_attach(0, "leaves", 100, NULL, &present);
            assert_true(present);
            assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
            peer_close(back);
            await(rows_of(TABLE_SESSION_DUE) == 1);
        }
        atomic_fetch_add(&clock_ahead_ms, 50001);
        if (i < 2)
            await(peer_look(watcher).records == i + 1);
        atomic_fetch_add(&clock_ahead_ms, 50001);
        await(rows_of(TABLE_SESSION) == 0);
        assert_int_equal(rows_of(TABLE_SESSION_DUE), 0);
        assert_int_equal(rows_of(TABLE_SESSION_STATE), 0);
    }
    await_records(watcher, 2);
    peer_close(watcher);
    sweeping_rig_close();
}

static bool has_records(const struct storage_append *append)
{
    return append->batch_count > 0;
}

/* While there is no room it is tried after 1, 2, 4 up to 32 rounds. */
static void a_refused_will_waits_ever_longer(void **state)
{
    (void)state;
    kept_rig_open(1, 1);
    bool present;
    struct broker_will will = {.publish = {.topic = span_from_text("will"),
                                           .body = span_from_text("x"),
                                           .guarantee = GUARANTEE_AT_LEAST_ONCE}};
    struct peer *watcher = peer_new(0, "watcher");
    assert_int_equal(peer_subscribe(watcher, "will", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    store_set(has_records, NULL, 0);
    peer_close(peer_attach(0, "leaves", 100, &will, &present));
    await(count_of(&store.refused_count) > 1);
    uint32_t looks = count_of(&store.looks);
    await(count_of(&store.looks) >= looks + 100);
    assert_in_range(count_of(&store.refused_count), 5, 11);
    store_goes_on();
    await_records(watcher, 1);
    await(rows_of(TABLE_SESSION_DUE) == 1); /* the end of its session */
    peer_close(watcher);
    kept_rig_close();
}

static bool puts_due(const struct storage_append *append)
{
    for (uint32_t i = 0; i < append->row_count; i++)
        if (append->rows[i].change == STORAGE_PUT &&
            append->rows[i].key.data[0] == TABLE_SESSION_DUE)
            return true;
    return false;
}

/* One that a crash left, and whose end the store does not take, is not all there is to do. */
static void an_end_that_is_refused_holds_up_nobody(void **state)
{
    (void)state;
    kept_rig_open(1, 0);
    bool present;
    peer_close(peer_attach(0, "goes", 10, NULL, &present));
    await(rows_of(TABLE_SESSION_DUE) == 1);
    put_session("left", &(struct session_name_row){.session = 5, .expiry_s = 10});
    broker_fall();
    broker_bury();
    store_set(puts_due, NULL, 0);
    rig.options.sweep_ms = 1;
    broker_rise(1);
    await(count_of(&store.refused_count) > 0);
    atomic_fetch_add(&clock_ahead_ms, 10001);
    await(rows_of(TABLE_SESSION) == 1);
    /* Nor are all sessions read again in each round. */
    uint32_t looks = count_of(&store.looks);
    await(count_of(&store.looks) >= looks + 100);
    uint32_t refused = count_of(&store.refused_count);
    assert_in_range(refused, 1, 10 + count_of(&store.looks) / 32);
    store_goes_on();
    await(rows_of(TABLE_SESSION_DUE) == 1);
    kept_rig_close();
}

/* Index rows of filters that nobody holds take their time; what is due does not wait for them. */
static void index_rows_do_not_hold_up_what_is_due(void **state)
{
    (void)state;
    enum { FILTERS = 3000, LOOKS = 3 };
    bool present;
    kept_rig_open(1, 1000000);
    peer_close(peer_attach(0, "kept", UINT32_MAX, NULL, &present));
    for (uint64_t i = 1; i <= FILTERS; i++) {
        uint8_t key[FILTER_INDEX_KEY], value[FILTER_ROW_HEAD];
        filter_index_key(i << 40, 1, key);
        memset(value, 0xff, sizeof value); /* a partition that is not there */
        put_row(span_of(key, sizeof key), span_of(value, sizeof value));
    }
    broker_fall();
    broker_bury();
    rig.options.sweep_ms = 1;
    broker_rise(1);
    pthread_mutex_lock(&store.lock);
    store.looks_first = 0;
    pthread_mutex_unlock(&store.lock);
    await(rows_of(TABLE_FILTER_INDEX) == 0);
    assert_true(count_of(&store.looks_last) >= count_of(&store.looks_first) + LOOKS);
    kept_rig_close();
}

int main(void)
{
    static bool crash = true, end = false;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_and_all_its_rows_go),
        cmocka_unit_test(what_a_crash_left_ends),
        cmocka_unit_test(what_is_kept_for_too_long_is_cut),
        cmocka_unit_test_prestate(what_is_cut_says_its_will, &end),
        cmocka_unit_test_prestate(what_is_cut_says_its_will, &crash),
        cmocka_unit_test(what_was_about_to_be_used_is_cut_later),
        cmocka_unit_test(what_is_held_does_not_end),
        cmocka_unit_test(a_will_is_due_once),
        cmocka_unit_test(a_refused_will_waits_ever_longer),
        cmocka_unit_test(index_rows_do_not_hold_up_what_is_due),
        cmocka_unit_test(an_end_that_is_refused_holds_up_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
