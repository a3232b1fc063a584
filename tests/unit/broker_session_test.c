/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions over a store whose answers come late, or are refusals. */
#include "core/broker/session.h"
#include "tests/unit/late_rig.h"

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
    restart(NO_SWEEP_MS); /* a sweep would scan what is retained, too */
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

struct expiry_call {
    struct client *client;
    uint32_t expiry_s;
};

static void expiry_run(void *context)
{
    const struct expiry_call *call = context;
    broker_session_expiry(call->client, call->expiry_s);
}

/* What holds is told; what the session has had until now is what is stored. */
static void expect_expiry(struct broker_attach asked, uint32_t earlier_s, uint32_t granted_s,
                          uint32_t later_s)
{
    struct peer *peer = peer_new(0, "kept");
    struct attach_call call = {.attach = asked};
    call.attach.client = &peer->client;
    request_init(&call.attach.request, rig.loops[0], attach_call_done);
    on(0, attach_call_run, &call);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_OK);
    assert_int_equal(call.attach.earlier_s, earlier_s);
    assert_int_equal(call.attach.granted_s, granted_s);
    buf_deinit(&call.attach.notes);
    on(0, session_begin_run, peer);
    if (later_s > 0)
        on(0, expiry_run, &(struct expiry_call){&peer->client, later_s});
    peer_close(peer);
}

static void no_session_outlives_its_client_for_longer_than_allowed(void **state)
{
    (void)state;
    late_rig_open(1);
    expect_expiry((struct broker_attach){.expiry_s = UINT32_MAX}, 0, UINT32_MAX, 0);
    rig.options.session_expiry_s = 60;
    restart(NO_SWEEP_MS);
    /* It goes on with its own expiry, which is too long by now. */
    expect_expiry((struct broker_attach){.only_present = true}, UINT32_MAX, 60, 0);
    expect_expiry((struct broker_attach){.expiry_s = UINT32_MAX}, 60, 60, 0);
    expect_expiry((struct broker_attach){.expiry_s = 61}, 60, 60, 0);
    expect_expiry((struct broker_attach){.expiry_s = 59}, 60, 59, UINT32_MAX);
    expect_expiry((struct broker_attach){.expiry_s = 60}, 60, 60, 30);
    expect_expiry((struct broker_attach){.only_present = true}, 30, 30, 61);
    await(rows_of(TABLE_SESSION_DUE) == 1);
    atomic_fetch_add(&clock_ahead_ms, 60001);
    expect_expiry((struct broker_attach){.expiry_s = 0}, 60, 0, 0);
    await(rows_of(TABLE_SESSION) == 0);
    rig.options.session_expiry_s = 0;
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
    assert_in_range(atomic_load(&late.row_writes) - before, 1, 5); /* one is of their shape */
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

/* ------------------------------------------------ what a subscription was shown, once more */

struct back_call {
    struct peer *peer;
    struct seen_answer place;
    uint16_t failures;
};

static void back_run(void *context)
{
    const struct back_call *call = context;
    broker_give_back(&call->peer->client, call->place.partition, call->place.offset, call->failures,
                     true);
}

static void give_back(struct peer *peer, struct seen_answer place, uint16_t failures)
{
    struct back_call call = {peer, place, failures};
    on(peer->worker, back_run, &call);
}

/* Before what is new, in order, and with its failures. What cannot be read for a while is read
 * later, unless its client goes; what never can be is lost, and counted. */
static void given_back_comes_first(void **state)
{
    (void)state;
    late_rig_open(1);
    struct peer *writer = peer_new(0, "w");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 2);
    await_answers(writer, 2);
    struct seen_answer places[2] = {writer->answers[0], writer->answers[1]};
    peer_close(writer);
    restart(0); /* nothing of it is in memory */
    writer = peer_new(0, "w");
    struct peer *peer = peer_new(0, "r");
    assert_int_equal(peer_subscribe(peer, "t", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    int64_t lost = rig_metric("dropped_total", "reason=\"retention\"");

    for (unsigned i = 0; i < 2; i++) {
        refuse_reads(i == 0 ? STATUS_CORRUPT : STATUS_OUT_OF_RANGE, 1);
        give_back(peer, places[0], 0);
        lost++;
        await(rig_metric("dropped_total", "reason=\"retention\"") == lost);
    }
    refuse_reads(STATUS_NO_MEMORY, 3);
    give_back(peer, places[0], UINT16_MAX - 1);
    await_records(peer, 1);
    assert_int_equal(waiting(&late.refused_reads), 3);

    let_reads_wait();
    give_back(peer, places[1], UINT16_MAX);
    give_back(peer, places[0], 6);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 2, 1);
    await_answers(writer, 1);
    rig_calm();
    assert_int_equal(peer_look(peer).records, 1);
    reads_go_on();
    await_records(peer, 4);
    static const struct {
        const char *value;
        uint32_t failures;
    } seen[] = {{"0", UINT16_MAX}, {"1", UINT16_MAX}, {"0", 7}, {"2", 0}};
    for (unsigned i = 0; i < 4; i++) {
        assert_string_equal(peer->records[i].value, seen[i].value);
        assert_int_equal(peer->records[i].failures, seen[i].failures);
    }
    assert_int_equal(rig_metric("dropped_total", "reason=\"retention\""), lost);

    refuse_reads(STATUS_STORAGE_FAILED, UINT32_MAX);
    give_back(peer, places[0], 0);
    await(waiting(&late.refused_reads) > 1);
    peer_close(peer);
    refuse_reads(STATUS_OK, 0);
    peer_close(writer);
    late_rig_close();
}

static _Atomic uint32_t forgotten_seen;

static void forget_run(void *context)
{
    struct peer *peer = context;
    broker_forget(&peer->client, 1);
    broker_forget(&peer->client, 2);
}

static void forgotten_run(void *context)
{
    struct peer *peer = context;
    atomic_store(&forgotten_seen, peer->forgotten);
}

static uint32_t forgotten_of(struct peer *peer)
{
    on(peer->worker, forgotten_run, peer);
    return atomic_load(&forgotten_seen);
}

/* The client of a number waits for its answer, and does not ask again. */
static void a_number_is_forgotten_when_there_is_room(void **state)
{
    (void)state;
    late_rig_open(1);
    restart(NO_SWEEP_MS);
    bool present;
    struct peer *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    refuse_rows(STATUS_NO_SPACE);
    unsigned writes = atomic_load(&late.row_writes);
    on(0, forget_run, peer);
    await(atomic_load(&late.row_writes) > writes);
    assert_int_equal(forgotten_of(peer), 0);
    refuse_rows(STATUS_OK);
    await(forgotten_of(peer) == 2);
    peer_close(peer);
    late_rig_close();
}

/* ------------------------------------------------ bursts of one topic */

/* Names of one length that fall into one partition, so that what is said of them in one turn is one
 * batch. */
struct neighbours {
    const struct client *client;
    char names[3][8];
};

static void neighbours_run(void *context)
{
    struct neighbours *neighbours = context;
    const struct client *client = neighbours->client;
    uint64_t partition = 0;
    for (unsigned found = 0, tried = 0; found < 3; tried++) {
        char *name = neighbours->names[found];
        snprintf(name, sizeof neighbours->names[found], "t%02u", tried);
        struct span topic = span_from_text(name);
        const struct queue *home = catalog_home(client->worker->catalog, client->tenant, topic);
        if (found > 0 && queue_partition_of_key(home, topic) != partition)
            continue;
        partition = queue_partition_of_key(home, topic);
        found++;
    }
}

static void bursts_run(void *context)
{
    for (struct publish_call *call = context; call->count > 0; call++)
        publish_call_run(call);
}

/* All in flight go to the second subscription, which alone takes them. */
static void second_run(void *context)
{
    const struct session *session = ((struct peer *)context)->client.session;
    for (uint32_t i = 1; i <= session->flight_count; i++)
        CHECK(session->flights[i].at.identifier == 2);
}

static void assert_offsets(struct peer *peer, const uint64_t *offsets, uint32_t count)
{
    await_records(peer, count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(peer->records[i].offset, offsets[i]);
}
#define ASSERT_OFFSETS(peer, ...)                                                                  \
    assert_offsets(peer, (const uint64_t[]){__VA_ARGS__},                                          \
                   sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

/* What was found out for one record holds for the next one, up to the first that says something
 * else. */
static void bursts_go_where_each_record_goes(void **state)
{
    (void)state;
    late_rig_open(2);
    bool present;
    struct peer *writer = peer_new(0, "writer");
    struct neighbours near = {.client = &writer->client};
    on(0, neighbours_run, &near);
    const char *a = near.names[0], *b = near.names[1], *c = near.names[2];

    struct peer *kept = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    struct peer *twice = peer_attach(1, "twice", UINT32_MAX, NULL, &present);
    struct peer *other = peer_attach(1, "other", UINT32_MAX, NULL, &present);
    assert_int_equal(peer_subscribe(other, b, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(peer_subscribe(kept, a, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(peer_subscribe(twice, "+", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(peer_subscribe(twice, a, GUARANTEE_AT_LEAST_ONCE, 2), STATUS_OK);
    peer_close(kept);
    peer_close(twice);
    peer_close(other);
    struct peer *live[2], *plain[2];
    for (unsigned i = 0; i < 2; i++) {
        live[i] = peer_attach(i, i == 0 ? "live 0" : "live 1", UINT32_MAX, NULL, &present);
        plain[i] = peer_new(i, i == 0 ? "plain 0" : "plain 1");
        assert_int_equal(peer_subscribe(live[i], "t", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
        assert_int_equal(peer_subscribe(live[i], a, GUARANTEE_AT_LEAST_ONCE, 2), STATUS_OK);
        assert_int_equal(peer_subscribe(plain[i], b, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    }

    struct header type = {span_from_text(HEADER_CONTENT_TYPE), span_from_text("x")};
    struct publish of_a = {.topic = span_from_text(a), .answer = true};
    struct publish of_b = {.topic = span_from_text(b), .answer = true};
    struct publish of_c = {.topic = span_from_text(c), .answer = true};
    struct publish once = of_a, typed = of_a;
    once.guarantee = GUARANTEE_AT_MOST_ONCE;
    typed.headers = &type;
    typed.header_count = 1;
    struct publish_call calls[] = {
        {.peer = writer, .publish = of_a, .count = 3},  /* 0, 1, 2 */
        {.peer = writer, .publish = of_b, .count = 2},  /* 3, 4 */
        {.peer = writer, .publish = of_a, .count = 1},  /* 5 */
        {.peer = writer, .publish = once, .count = 1},  /* 6 */
        {.peer = writer, .publish = of_a, .count = 2},  /* 7, 8 */
        {.peer = writer, .publish = of_c, .count = 1},  /* 9 */
        {.peer = writer, .publish = typed, .count = 2}, /* 10, 11 */
        {.peer = writer, .publish = of_a, .count = 1},  /* 12 */
        {.count = 0},
    };
    on(0, bursts_run, calls);
    await_answers(writer, 13);
    assert_int_equal(rows_of(TABLE_FILTER_INDEX), 3); /* of one batch */

    kept = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    twice = peer_attach(1, "twice", UINT32_MAX, NULL, &present);
    other = peer_attach(1, "other", UINT32_MAX, NULL, &present);
    ASSERT_OFFSETS(kept, 0, 1, 2, 5, 7, 8, 10, 11, 12);
    ASSERT_OFFSETS(other, 3, 4);
    ASSERT_OFFSETS(twice, 0, 0, 1, 1, 2, 2, 3, 4, 5, 5, 7, 7, 8, 8, 9, 10, 10, 11, 11, 12, 12);
    peer_close(kept);
    peer_close(twice);
    peer_close(other);
    for (unsigned i = 0; i < 2; i++) {
        ASSERT_OFFSETS(live[i], 0, 1, 2, 5, 6, 7, 8, 10, 11, 12);
        on(i, second_run, live[i]);
        ASSERT_OFFSETS(plain[i], 3, 4);
        peer_close(live[i]);
        peer_close(plain[i]);
    }
    peer_close(writer);
    late_rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bursts_go_where_each_record_goes),
        cmocka_unit_test(given_back_comes_first),
        cmocka_unit_test(a_number_is_forgotten_when_there_is_room),
        cmocka_unit_test(retained_records_wait_for_what_was_in_flight),
        cmocka_unit_test(a_walk_starts_once),
        cmocka_unit_test(a_clean_start_reads_no_position),
        cmocka_unit_test(a_session_does_not_come_back_to_a_broker_that_ends),
        cmocka_unit_test(a_share_is_not_left_by_a_broker_that_ends),
        cmocka_unit_test(an_expired_session_does_not_go_on),
        cmocka_unit_test(no_session_outlives_its_client_for_longer_than_allowed),
        cmocka_unit_test(filters_that_are_refused_are_given_up),
        cmocka_unit_test(many_filters_go_at_once),
        cmocka_unit_test(an_end_that_is_refused_is_made_up_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
