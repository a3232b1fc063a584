/* SPDX-License-Identifier: Apache-2.0 */
/* Wills over a store whose answers come late, or are refusals. */
#include "core/broker/session.h"
#include "core/broker/will_row.h"
#include "tests/unit/late_rig.h"

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

/* Who waits for space asks ever less often. */
static void wills_of_a_full_store_wait_ever_longer(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(1);
    struct peer *watcher = watcher_new();
    refuse_appends(STATUS_NO_SPACE);
    unsigned before = atomic_load(&late.record_writes);
    put_will_row(WILL_KIND_WAITING, 1, "waits", 1);
    await(atomic_load(&late.record_writes) > before);
    usleep(300000);
    assert_true(atomic_load(&late.record_writes) < before + 40);
    refuse_appends(STATUS_OK);
    await(rows_of(TABLE_WILL) == 0);
    await_records(watcher, 1);
    peer_close(watcher);
    late_rig_close();
}

/* Refused for good, while the store does not let its row go: of nobody's session, and of one. */
static void a_lost_will_is_counted_once(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(1);
    bool present;
    struct broker_will will = will_after(0);
    int64_t before = rig_metric("dropped_total", "reason=\"will\"");
    struct peer *peer = peer_attach(0, "leaves", 100, &will, &present);
    put_will_row(WILL_KIND_WAITING, (uint64_t)clock_wall_ms() + 50000, "away", 1);
    refuse_appends(STATUS_DENIED);
    refuse_rows(STATUS_NO_SPACE);
    unsigned writes = atomic_load(&late.row_writes);
    peer_close(peer);
    atomic_fetch_add(&clock_ahead_ms, 50001);
    await(atomic_load(&late.row_writes) >= writes + 6);
    assert_int_equal(rig_metric("dropped_total", "reason=\"will\""), before);
    refuse_rows(STATUS_OK);
    await(rows_of(TABLE_WILL) == 0);
    await(rig_metric("dropped_total", "reason=\"will\"") == before + 2);
    usleep(20000);
    assert_int_equal(rig_metric("dropped_total", "reason=\"will\""), before + 2);
    refuse_appends(STATUS_OK);
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

/* A null header is no empty one: it says that the field of its name is absent. Rows of before,
 * which knew no difference, are read as they were. */
static void nulls_of_a_will_stay(void **state)
{
    (void)state;
    struct header headers[] = {{span_from_text("content-type"), {0}},
                               {span_from_text("content-type"), span_from_text("")},
                               {span_from_text("a"), span_from_text("1")}};
    struct broker_will will = will_after(0);
    will.publish.key = span_from_text("");
    will.publish.headers = headers;
    will.publish.header_count = 3;
    will.publish.not_durable = true;
    struct stored_will stored;
    struct blob *row = will_encode((struct span){0}, &will);
    assert_true(will_decode(blob_span(row), &stored));
    assert_non_null(stored.will.publish.key.data);
    assert_null(stored.will.publish.dedup_id.data);
    assert_true(stored.will.publish.not_durable);
    for (unsigned i = 0; i < 3; i++) {
        struct span value = stored.headers[i].value;
        assert_true((value.data == NULL) == (i == 0));
        assert_true(span_equal(value, headers[i].value));
    }
    blob_unref(row);
    static const uint8_t before[] =
        "\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1u\1t\0\0\1x\2\1a\0\1b\0011";
    assert_true(will_decode(span_of(before, sizeof before - 1), &stored));
    assert_true(span_is(stored.user, "u") && span_is(stored.will.publish.topic, "t"));
    assert_null(stored.will.publish.key.data);
    assert_null(stored.will.publish.dedup_id.data);
    assert_false(stored.will.publish.not_durable);
    assert_int_equal(stored.will.publish.header_count, 2);
    assert_non_null(stored.headers[0].value.data);
    assert_true(span_is(stored.headers[1].value, "1"));
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

/* And who comes behind has the name when all that the other writes is written: else that one's rows
 * would be in the place of its own. */
static void who_comes_behind_a_late_will_keeps_its_own(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    struct broker_will will = will_after(50), own = will_after(60);
    struct peer *watcher = watcher_new(), *peers[2];
    struct attach_call calls[2];
    peer_close(peer_attach(0, "leaves", 100, &will, &present));
    await(rows_of(TABLE_SESSION_DUE) == 2);
    atomic_fetch_add(&clock_ahead_ms, 50001);
    let_appends_wait();
    for (unsigned i = 0; i < 2; i++) {
        peers[i] = peer_new(i, "leaves");
        calls[i] = (struct attach_call){
            .attach = {.client = &peers[i]->client, .expiry_s = 100, .will = &own}};
        request_init(&calls[i].attach.request, rig.loops[i], attach_call_done);
        if (i == 1)
            let_scans_wait(TABLE_SESSION);
        on(i, attach_call_run, &calls[i]);
        await(waiting(&late.append_count) == 1);
        if (i == 0)
            peer_close(peers[i]);
    }
    usleep(20000);
    assert_int_equal(waiting(&late.scan_count), 0);
    scans_go_on();
    appends_go_on();
    for (unsigned i = 0; i < 2; i++) {
        rig_await(&calls[i].done);
        assert_int_equal(calls[i].status, i == 0 ? STATUS_CANCELED : STATUS_OK);
        heap_free(calls[i].attach.received);
        buf_deinit(&calls[i].attach.notes);
    }
    on(1, session_begin_run, peers[1]);
    peer_close(peers[1]);
    await_records(watcher, 1);
    peer_close(watcher);
    restart(1);
    watcher = watcher_new();
    atomic_fetch_add(&clock_ahead_ms, 60001);
    await_records(watcher, 1);
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

/* The owner of its partition may have nothing more to do when the client is told to go. */
static void a_gateway_that_stops_says_wills(void **state)
{
    (void)state;
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    struct broker_will will = will_after(0);
    struct peer *watcher = peer_attach(1, "watcher", 100, NULL, &present);
    assert_int_equal(peer_subscribe(watcher, "will", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(watcher);
    struct peer *first = peer_attach(0, "first", 100, &will, &present);
    struct peer *second = peer_attach(1, "second", 100, &will, &present);
    restart(NO_SWEEP_MS);
    peer_free(first);
    peer_free(second);
    watcher = peer_attach(1, "watcher", 100, NULL, &present);
    await_records(watcher, 2);
    peer_close(watcher);
    late_rig_close();
}

/* Also those that are for later, which then come at their time, with no look of the sweep. */
static void a_gateway_that_stops_takes_wills_for_later(void **state)
{
    (void)state;
    enum { LATER_MS = 3600 * 1000 };
    late_rig_open(2);
    restart(NO_SWEEP_MS);
    bool present;
    struct broker_will will = will_after(0);
    will.publish.delay_ms = LATER_MS;
    struct peer *watcher = peer_attach(1, "watcher", 100, NULL, &present);
    assert_int_equal(peer_subscribe(watcher, "will", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(watcher);
    struct peer *peers[4];
    for (unsigned i = 0; i < 4; i++) {
        static const char *const ids[] = {"a", "b", "c", "d"};
        peers[i] = peer_attach(i % 2, ids[i], i < 2 ? 100000 : 0, &will, &present);
    }
    restart(NO_SWEEP_MS);
    for (unsigned i = 0; i < 4; i++)
        peer_free(peers[i]);
    assert_int_equal(rows_of(TABLE_WILL), 0);
    watcher = peer_attach(1, "watcher", 100, NULL, &present);
    await_records(watcher, 0);
    atomic_fetch_add(&clock_ahead_ms, LATER_MS);
    restart(NO_SWEEP_MS);
    peer_free(watcher);
    watcher = peer_attach(1, "watcher", 100, NULL, &present);
    await_records(watcher, 4);
    peer_close(watcher);
    late_rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_will_waits_for_space),
        cmocka_unit_test(a_will_that_ends_with_its_client_waits_too),
        cmocka_unit_test(a_will_has_its_chances),
        cmocka_unit_test(a_run_that_was_killed_leaves_its_wills),
        cmocka_unit_test(a_will_of_who_is_back_is_dropped),
        cmocka_unit_test(wills_of_a_full_store_wait_ever_longer),
        cmocka_unit_test(a_lost_will_is_counted_once),
        cmocka_unit_test(a_will_of_little_weight_has_an_id),
        cmocka_unit_test(nulls_of_a_will_stay),
        cmocka_unit_test(a_late_will_is_said_once),
        cmocka_unit_test(who_comes_behind_a_late_will_keeps_its_own),
        cmocka_unit_test(a_late_will_without_space_is_dropped),
        cmocka_unit_test(a_gateway_that_stops_says_wills),
        cmocka_unit_test(a_gateway_that_stops_takes_wills_for_later),
        cmocka_unit_test(wills_that_are_due_do_not_wait_for_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
