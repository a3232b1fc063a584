/* SPDX-License-Identifier: Apache-2.0 */
/* From broker_publish() to deliver(), on one worker and on three: order of answers, refusals,
 * overlapping subscriptions, credit, catching up, and what is dropped. */
#include "tests/unit/broker_rig.h"

enum { MANY = 300 };

static void open_rig(void **state)
{
    rig_open(*(unsigned *)*state);
}

static struct seen_record record_at(struct peer *peer, uint32_t index)
{
    return peer->records[index]; /* the loop is calm */
}

/* ------------------------------------------------ answers */

static void test_answers_in_order(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(1, "p");
    /* A refusal between stored ones of several partitions, all in one turn. */
    for (uint32_t i = 0; i < 60; i++)
        publish_many(peer,
                     i % 3 == 0   ? "bad/+/name"
                     : i % 3 == 1 ? "a/1"
                                  : "b/22",
                     GUARANTEE_AT_LEAST_ONCE, i, 1);
    await_answers(peer, 60);
    for (uint32_t i = 0; i < 60; i++) {
        assert_int_equal(peer->answers[i].token, i);
        assert_int_equal(peer->answers[i].status, i % 3 == 0 ? STATUS_INVALID : STATUS_OK);
    }
    peer_close(peer);
    rig_close();
}

static void test_too_large(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(0, "p");
    char *body = heap_new(LIMIT_RECORD_BYTES + 1);
    struct publish_call call = {
        .peer = peer,
        .publish = {.topic = span_from_text("t"),
                    .body = span_of(body, LIMIT_RECORD_BYTES + 1),
                    .guarantee = GUARANTEE_AT_LEAST_ONCE,
                    .answer = true},
        .first = 7,
        .count = 1,
    };
    on(peer->worker, publish_call_run, &call);
    publish_many(peer, "t", GUARANTEE_AT_LEAST_ONCE, 8, 1);
    await_answers(peer, 2);
    assert_int_equal(peer->answers[0].token, 7);
    assert_int_equal(peer->answers[0].status, STATUS_TOO_LARGE);
    assert_int_equal(peer->answers[1].status, STATUS_OK);
    heap_free(body);
    peer_close(peer);
    rig_close();
}

static void set_closes_at_answer(void *context)
{
    ((struct peer *)context)->closes_at_answer = true;
}

/* The ring goes with the client, from inside of the answer that pops it. */
static void test_close_in_answer(void **state)
{
    open_rig(state);
    for (unsigned refused = 0; refused < 2; refused++) {
        struct peer *peer = peer_new(2, "p");
        on(peer->worker, set_closes_at_answer, peer);
        publish_many(peer, refused ? "bad/#" : "a", GUARANTEE_AT_LEAST_ONCE, 0, 5);
        await(peer_look(peer).answers == 1);
        rig_calm();
        assert_int_equal(peer_look(peer).answers, 1);
        peer_free(peer);
    }
    rig_close();
}

static void test_close_with_appends_in_flight(void **state)
{
    open_rig(state);
    struct peer *watcher = peer_new(0, "w");
    assert_int_equal(peer_subscribe(watcher, "#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    for (unsigned i = 0; i < 20; i++) {
        struct peer *peer = peer_new(i, "p");
        publish_many(peer, "a", GUARANTEE_AT_LEAST_ONCE, i * 10, 10);
        peer_close(peer);
    }
    await_records(watcher, 200);
    peer_close(watcher);
    rig_close();
}

static void may_publish_run(void *context)
{
    struct publish_call *call = context;
    uint32_t count = 0;
    while (broker_may_publish(&call->peer->client)) {
        call->publish.token = count++;
        broker_publish(&call->peer->client, &call->publish);
        CHECK(count <= LIMIT_PUBLISH_PENDING);
    }
    call->count = count;
}

static void forget_answers(struct client *client, uint64_t token, enum status status,
                           uint64_t partition, uint64_t offset)
{
    (void)token;
    (void)status;
    (void)partition;
    (void)offset;
    peer_of(client)->answer_count++;
}

/* A client whose pending publishes are all refused must be resumed like any other. */
static void test_resume(void **state)
{
    open_rig(state);
    struct client_ops ops = peer_ops;
    ops.answered = forget_answers;
    for (unsigned refused = 0; refused < 2; refused++) {
        struct peer *peer = peer_new(1, "p");
        peer->client.ops = &ops;
        struct publish_call call = {
            .peer = peer,
            .publish = {.topic = span_from_text(refused ? "no/#" : "yes"),
                        .body = span_from_text("x"),
                        .guarantee = GUARANTEE_AT_LEAST_ONCE,
                        .answer = true},
        };
        on(peer->worker, may_publish_run, &call);
        assert_int_equal(call.count, LIMIT_PUBLISH_PENDING);
        await(peer_look(peer).resumed > 0);
        await(peer_look(peer).answers == LIMIT_PUBLISH_PENDING);
        peer_close(peer);
    }
    rig_close();
}

/* One that does not ask whether it may publish is refused before it fills the memory. */
static void test_busy(void **state)
{
    enum { BODY = 1000 * 1000, RECORDS = 200 };
    open_rig(state);
    struct peer *peer = peer_new(0, "p");
    char *body = heap_new(BODY);
    struct publish_call call = {
        .peer = peer,
        .publish = {.topic = span_from_text("b"), .body = span_of(body, BODY), .answer = true},
        .count = RECORDS};
    on(peer->worker, publish_call_run, &call);
    await_answers(peer, RECORDS);
    uint32_t busy = 0;
    for (uint32_t i = 0; i < RECORDS; i++) {
        assert_int_equal(peer->answers[i].token, i);
        busy += peer->answers[i].status == STATUS_BUSY;
    }
    assert_true(busy > 30 && busy < 70);
    publish_many(peer, "b", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(peer, RECORDS + 1);
    assert_int_equal(peer->answers[RECORDS].status, STATUS_OK);
    heap_free(body);
    peer_close(peer);
    rig_close();
}

/* ------------------------------------------------ subscriptions */

static void test_subscribe_takes_effect(void **state)
{
    open_rig(state);
    struct peer *publishers[3];
    for (unsigned i = 0; i < 3; i++)
        publishers[i] = peer_new(i, "p");
    for (unsigned round = 0; round < 30; round++) {
        char filter[16];
        snprintf(filter, sizeof filter, "r%u/#", round);
        struct peer *peer = peer_new(round, "s");
        assert_int_equal(peer_subscribe(peer, filter, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
        snprintf(filter, sizeof filter, "r%u/x", round);
        for (unsigned i = 0; i < 3; i++)
            publish_many(publishers[i], filter,
                         round % 2 ? GUARANTEE_AT_LEAST_ONCE : GUARANTEE_AT_MOST_ONCE, i, 1);
        await_records(peer, 3);
        peer_close(peer);
    }
    for (unsigned i = 0; i < 3; i++)
        peer_close(publishers[i]);
    rig_close();
}

static void test_no_local_and_expiry(void **state)
{
    open_rig(state);
    struct peer *one = peer_new(0, "one"), *two = peer_new(1, "two");
    struct subscribe_item item = {.filter = span_from_text("a/#"), .no_local = true};
    assert_int_equal(peer_subscribe_item(one, item), STATUS_OK);
    publish_many(one, "a/b", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    publish_many(one, "a/b", GUARANTEE_AT_MOST_ONCE, 2, 1);
    await_answers(one, 1);
    publish_many(two, "a/b", GUARANTEE_AT_LEAST_ONCE, 3, 1);
    await_records(one, 1);
    assert_string_equal(record_at(one, 0).value, "3");

    struct header expired = {span_from_text(HEADER_EXPIRES_AT), span_from_text("1000")};
    struct publish_call call = {
        .peer = two,
        .publish = {.topic = span_from_text("a/b"),
                    .answer = true,
                    .headers = &expired,
                    .header_count = 1},
        .first = 4,
        .count = 1,
    };
    on(two->worker, publish_call_run, &call);
    expired.value = span_from_text("9000000000000");
    call.first = 5;
    on(two->worker, publish_call_run, &call);
    await_records(one, 2);
    assert_string_equal(record_at(one, 1).value, "5");
    peer_close(one);
    peer_close(two);
    rig_close();
}

static void test_queue_by_name_has_no_topic(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(0, "p");
    assert_int_equal(queue_make(peer, "orders", NULL), STATUS_OK);
    assert_int_equal(peer_subscribe(peer, "#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    struct header topic = {span_from_text(HEADER_TOPIC), span_from_text("forged")};
    struct publish_call call = {
        .peer = peer,
        .publish = {.answer = true, .headers = &topic, .header_count = 1},
        .queue = "orders",
        .count = 1,
    };
    on(peer->worker, publish_call_run, &call);
    publish_to_queue(peer, "orders", 1, 5);
    await_answers(peer, 6);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(peer->answers[i].status, STATUS_OK);
    await_records(peer, 0);
    peer_close(peer);
    rig_close();
}

/* ------------------------------------------------ credit and catching up */

static void set_credit(void *context)
{
    struct settle_call *call = context;
    client_set_credit(&call->peer->client, call->count);
}

static struct peer *slow_peer(unsigned worker, uint32_t credit)
{
    struct peer *peer = peer_new(worker, "slow");
    peer->settles = false;
    on(peer->worker, set_credit, &(struct settle_call){peer, credit});
    return peer;
}

static void test_credit(void **state)
{
    open_rig(state);
    struct peer *publisher = peer_new(0, "p"), *slow = slow_peer(1, 10);
    assert_int_equal(peer_subscribe(slow, "t/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    /* Many topics: several partitions. Per topic the order holds. */
    for (uint32_t i = 0; i < MANY; i++) {
        char topic[16];
        snprintf(topic, sizeof topic, "t/%u", i % 8);
        publish_many(publisher, topic, GUARANTEE_AT_LEAST_ONCE, i, 1);
    }
    await_answers(publisher, MANY);
    await_records(slow, 10);
    uint32_t settled = 0;
    while (settled < MANY) {
        uint32_t out = peer_look(slow).records - settled;
        assert_true(out <= 10);
        if (out > 0)
            peer_settle(slow, out > 3 ? 3 : out);
        settled += out > 3 ? 3 : out;
        /* What is published meanwhile does not overtake. */
        if (settled == MANY / 2)
            publish_many(publisher, "t/0", GUARANTEE_AT_LEAST_ONCE, MANY, 1);
        if (out == 0)
            usleep(200);
    }
    await_records(slow, MANY + (settled >= MANY / 2 && peer_look(publisher).answers > MANY));
    int last[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
    bool seen[MANY + 1] = {false};
    for (uint32_t i = 0; i < peer_look(slow).records; i++) {
        struct seen_record record = record_at(slow, i);
        int number = number_of(record.value), topic = number_of(record.topic + 2);
        assert_false(seen[number]);
        seen[number] = true;
        assert_true(number > last[topic]);
        last[topic] = number;
    }
    peer_close(slow);
    peer_close(publisher);
    rig_close();
}

/* Each of several subscriptions that match gets the record exactly once, wherever credit ran out.
 */
static void test_overlapping_subscriptions_lag(void **state)
{
    static const char *const filters[] = {"o/#", "o/+", "o/1", "+/1", "#"};
    open_rig(state);
    for (uint32_t credit = 1; credit <= 7; credit++) {
        struct peer *publisher = peer_new(0, "p"), *slow = slow_peer(2, credit);
        for (uint32_t i = 0; i < 5; i++)
            assert_int_equal(
                peer_subscribe(slow, filters[i], i == 4 ? GUARANTEE_EXACTLY_ONCE : 0, i),
                STATUS_OK);
        publish_many(publisher, "o/1", GUARANTEE_EXACTLY_ONCE, 0, 6);
        await_answers(publisher, 6);
        await_records(slow, credit);
        for (uint32_t settled = 0; settled < 30;) {
            uint32_t out = peer_look(slow).records - settled;
            if (out == 0)
                usleep(200);
            else
                peer_settle(slow, 1);
            settled += out > 0;
        }
        await_records(slow, 30);
        unsigned times[6][5] = {0};
        for (uint32_t i = 0; i < 30; i++)
            times[number_of(record_at(slow, i).value)][record_at(slow, i).identifier]++;
        for (unsigned i = 0; i < 6; i++)
            for (unsigned k = 0; k < 5; k++)
                assert_int_equal(times[i][k], 1);
        peer_close(slow);
        peer_close(publisher);
    }
    rig_close();
}

/* A subscription that a lagging client makes does not see what was committed before it. */
static void test_subscribe_while_lagging(void **state)
{
    open_rig(state);
    struct peer *publisher = peer_new(0, "p"), *slow = slow_peer(1, 2);
    assert_int_equal(peer_subscribe(slow, "l/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_many(publisher, "l/1", GUARANTEE_AT_LEAST_ONCE, 0, 10);
    await_answers(publisher, 10);
    await_records(slow, 2);
    assert_int_equal(peer_subscribe(slow, "l/1", GUARANTEE_AT_LEAST_ONCE, 2), STATUS_OK);
    publish_many(publisher, "l/1", GUARANTEE_AT_LEAST_ONCE, 10, 1);
    await_answers(publisher, 11);
    for (uint32_t settled = 0; settled < 12;) {
        uint32_t out = peer_look(slow).records - settled;
        if (out > 0)
            peer_settle(slow, out);
        settled += out;
    }
    await_records(slow, 12);
    for (uint32_t i = 0; i < 12; i++)
        if (record_at(slow, i).identifier == 2)
            assert_string_equal(record_at(slow, i).value, "10");
    peer_close(slow);
    peer_close(publisher);
    rig_close();
}

static void publish_big(struct peer *peer, enum guarantee guarantee, uint32_t count)
{
    char *body = heap_new(40000);
    struct publish_call call = {
        .peer = peer,
        .publish = {.topic = span_from_text("big"),
                    .body = span_of(body, 40000),
                    .guarantee = guarantee,
                    .answer = guarantee != GUARANTEE_AT_MOST_ONCE},
        .count = count,
    };
    on(peer->worker, publish_call_run, &call);
    heap_free(body);
}

static void test_stalled_output_is_bounded(void **state)
{
    open_rig(state);
    struct peer *publisher = peer_new(0, "p"), *slow = slow_peer(1, 1000);
    slow->stalled = true;
    assert_int_equal(peer_subscribe(slow, "big", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_big(publisher, GUARANTEE_AT_LEAST_ONCE, 150);
    await_answers(publisher, 150);
    rig_calm();
    uint32_t seen = peer_look(slow).records;
    assert_true(seen < 40);
    await(({
        on(slow->worker, drained_run, slow);
        uint32_t now = peer_look(slow).records;
        now == 150;
    }));
    assert_true(peer_look(slow).queued_max < LIMIT_CLIENT_OUT_BYTES + 50000);
    await_records(slow, 150);
    peer_close(slow);
    peer_close(publisher);
    rig_close();
}

static void test_at_most_once_is_dropped_for_a_full_client(void **state)
{
    open_rig(state);
    int64_t before = rig_metric("dropped_total", "reason=\"slow\"");
    struct peer *publisher = peer_new(0, "p"), *slow = slow_peer(1, 1000);
    slow->stalled = true;
    assert_int_equal(peer_subscribe(slow, "big", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_big(publisher, GUARANTEE_AT_MOST_ONCE, 100);
    await(rig_metric("dropped_total", "reason=\"slow\"") - before + peer_look(slow).records == 100);
    assert_true(peer_look(slow).queued_max < LIMIT_CLIENT_OUT_BYTES + 50000);
    assert_true(rig_metric("dropped_total", "reason=\"slow\"") > before);
    peer_close(slow);
    peer_close(publisher);
    rig_close();
}

static void set_unlimited(void *context)
{
    ((struct peer *)context)->unlimited = true;
}

static void set_oversized(void *context)
{
    ((struct peer *)context)->oversized = true;
}

/* A delivery that gives its credit back from inside, also while the client catches up. */
static void test_credit_back_from_inside(void **state)
{
    open_rig(state);
    struct peer *publisher = peer_new(0, "p"), *slow = slow_peer(1, 1);
    assert_int_equal(peer_subscribe(slow, "i/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    for (unsigned i = 0; i < 50; i++) {
        char topic[16];
        snprintf(topic, sizeof topic, "i/%u", i);
        publish_many(publisher, topic, GUARANTEE_AT_LEAST_ONCE, i, 1);
    }
    await_answers(publisher, 50);
    await_records(slow, 1);
    int64_t before = rig_metric("delivered_records_total", "protocol=\"peer\"");
    on(slow->worker, set_unlimited, slow);
    peer_settle(slow, 1);
    await(rig_metric("delivered_records_total", "protocol=\"peer\"") - before == 49);
    rig_calm();
    assert_int_equal(rig_metric("delivered_records_total", "protocol=\"peer\"") - before, 49);
    peer_close(slow);
    peer_close(publisher);
    rig_close();
}

/* What is too large for a client is over and counted, and takes none of its credit. */
static void test_too_large_for_a_client(void **state)
{
    open_rig(state);
    struct peer *publisher = peer_new(0, "p"), *small = slow_peer(1, 1);
    on(small->worker, set_oversized, small);
    assert_int_equal(peer_subscribe(small, "t", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    int64_t before = rig_metric("dropped_total", "reason=\"too_large\"");
    int64_t delivered = rig_metric("delivered_records_total", "protocol=\"peer\"");
    publish_many(publisher, "t", GUARANTEE_AT_LEAST_ONCE, 0, 5);
    publish_many(publisher, "t", GUARANTEE_AT_MOST_ONCE, 5, 5);
    await(rig_metric("dropped_total", "reason=\"too_large\"") - before == 10);
    rig_calm();
    assert_int_equal(rig_metric("dropped_total", "reason=\"too_large\"") - before, 10);
    assert_int_equal(rig_metric("delivered_records_total", "protocol=\"peer\"") - delivered, 0);
    peer_close(small);
    peer_close(publisher);
    rig_close();
}

static void test_close_while_catching_up(void **state)
{
    open_rig(state);
    struct peer *publisher = peer_new(0, "p");
    for (unsigned i = 0; i < 10; i++) {
        struct peer *slow = slow_peer(i, 1);
        assert_int_equal(peer_subscribe(slow, "c/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
        publish_many(publisher, "c/1", GUARANTEE_AT_LEAST_ONCE, 0, 20);
        await_records(slow, 1);
        peer_settle(slow, 1); /* a read begins */
        peer_close(slow);
    }
    peer_close(publisher);
    rig_close();
}

static void metrics_run(void *context)
{
    CHECK(broker_metrics(broker_worker(rig.broker, 0), context) == STATUS_OK);
}

static void test_figures(void **state)
{
    open_rig(state);
    int64_t received = rig_metric("received_records_total", "protocol=\"peer\"");
    int64_t delivered = rig_metric("delivered_records_total", "protocol=\"peer\"");
    int64_t refused = rig_metric("refused_total", "protocol=\"peer\",reason=\"invalid\"");
    struct peer *peer = peer_new(0, "p");
    assert_int_equal(peer_subscribe(peer, "f", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_many(peer, "f", GUARANTEE_AT_LEAST_ONCE, 0, 20);
    publish_many(peer, "f", GUARANTEE_AT_MOST_ONCE, 20, 5);
    publish_many(peer, "f/#", GUARANTEE_AT_MOST_ONCE, 0, 3);
    await_records(peer, 25);
    assert_int_equal(rig_metric("received_records_total", "protocol=\"peer\"") - received, 25);
    assert_int_equal(rig_metric("delivered_records_total", "protocol=\"peer\"") - delivered, 25);
    assert_int_equal(rig_metric("refused_total", "protocol=\"peer\",reason=\"invalid\"") - refused,
                     3);
    uint64_t queue = 0;
    assert_int_equal(queue_make(peer, "counted", &queue), STATUS_OK);
    assert_int_equal(group_make(peer, queue, "g", false, NULL), STATUS_OK);
    struct buf text;
    buf_init(&text, 1 << 20);
    on(0, metrics_run, &text);
    assert_int_equal(buf_append(&text, "", 1), STATUS_OK);
    static const char *const lines[] = {
        "polylog_received_records_total{protocol=\"peer\"} ",
        "polylog_delivered_records_total{protocol=\"peer\"} ",
        "polylog_refused_total{protocol=\"peer\",reason=\"invalid\"} ",
        "polylog_queue_records{queue=\"counted\"} 0\n",
        "polylog_group_oldest_seconds{queue=\"counted\",group=\"g\"} 0\n",
    };
    for (unsigned i = 0; i < sizeof lines / sizeof *lines; i++)
        assert_non_null(strstr((const char *)text.data, lines[i]));
    buf_deinit(&text);
    peer_close(peer);
    rig_close();
}

/* ------------------------------------------------ a worker that cannot follow */

static void may_run(void *context)
{
    struct publish_call *call = context;
    call->count = broker_may_publish(&call->peer->client);
    if (call->count)
        broker_publish(&call->peer->client, &call->publish);
}

/* True: the publish went out within a while. */
static bool publish_when_allowed(struct publish_call *call)
{
    for (unsigned i = 0; i < 300; i++) {
        on(call->peer->worker, may_run, call);
        if (call->count)
            return true;
        usleep(1000);
    }
    return false;
}

static void test_slow_worker_holds_publishers(void **state)
{
    enum { BODY = 1000 * 1000, RECORDS = 400 };
    (void)state;
    rig_open(3);
    struct peer *publisher = peer_new(0, "p"), *watcher = peer_new(1, "w");
    assert_int_equal(peer_subscribe(watcher, "#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    struct standstill standstill;
    /* A topic whose partition another worker owns: its answer comes though worker 1 stands still.
     */
    stand_still(&standstill, 1);
    char topic[16] = "";
    for (uint32_t i = 0; peer_look(publisher).answers == 0; i++) {
        snprintf(topic, sizeof topic, "slow/%u", i);
        publish_many(publisher, topic, GUARANTEE_AT_MOST_ONCE, 0, 1);
        struct publish_call call = {.peer = publisher,
                                    .publish = {.topic = span_from_text(topic), .answer = true},
                                    .first = i,
                                    .count = 1};
        on(0, publish_call_run, &call);
        usleep(20000);
        if (peer_look(publisher).answers == 0) { /* it waits; in order, so begin anew */
            peer_close(publisher);
            publisher = peer_new(0, "p");
        }
    }
    char *body = heap_new(BODY);
    struct publish_call call = {
        .peer = publisher,
        .publish = {.topic = span_from_text(topic), .body = span_of(body, BODY), .answer = true}};
    uint32_t published = 0;
    while (published < RECORDS && publish_when_allowed(&call))
        published++;
    assert_true(published < 100);
    assert_true(published > 50);
    uint32_t resumed = peer_look(publisher).resumed;
    move_on(&standstill);
    await(peer_look(publisher).resumed > resumed);
    assert_true(publish_when_allowed(&call));
    await_answers(publisher, 1 + published + 1);
    await(peer_look(watcher).records > published);
    heap_free(body);
    peer_close(watcher);
    peer_close(publisher);
    rig_close();
}

/* ------------------------------------------------ storage that fails */

static void test_storage_fails(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(0, "p"), *watcher = peer_new(1, "w");
    assert_int_equal(peer_subscribe(watcher, "#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_many(peer, "a", GUARANTEE_AT_LEAST_ONCE, 0, 5);
    await_records(watcher, 5);
    atomic_store(&rig.sync_fails, true);
    publish_many(peer, "a", GUARANTEE_AT_LEAST_ONCE, 5, 50);
    publish_many(peer, "b", GUARANTEE_EXACTLY_ONCE, 55, 50);
    await_answers(peer, 105);
    for (uint32_t i = 5; i < 105; i++) {
        assert_int_equal(peer->answers[i].status, STATUS_STORAGE_FAILED);
        assert_int_equal(peer->answers[i].token, i);
    }
    assert_false(broker_is_ready(rig.broker));
    await_records(watcher, 5);
    /* What is not stored goes on. */
    publish_many(peer, "a", GUARANTEE_AT_MOST_ONCE, 200, 1);
    await_records(watcher, 6);
    assert_int_equal(queue_make(peer, "q", NULL), STATUS_STORAGE_FAILED);
    peer_close(peer);
    peer_close(watcher);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_answers_in_order),
        BOTH(test_too_large),
        BOTH(test_close_in_answer),
        BOTH(test_close_with_appends_in_flight),
        BOTH(test_resume),
        BOTH(test_busy),
        BOTH(test_subscribe_takes_effect),
        BOTH(test_no_local_and_expiry),
        BOTH(test_queue_by_name_has_no_topic),
        BOTH(test_credit),
        BOTH(test_overlapping_subscriptions_lag),
        BOTH(test_subscribe_while_lagging),
        BOTH(test_stalled_output_is_bounded),
        BOTH(test_at_most_once_is_dropped_for_a_full_client),
        BOTH(test_credit_back_from_inside),
        BOTH(test_too_large_for_a_client),
        BOTH(test_close_while_catching_up),
        BOTH(test_figures),
        cmocka_unit_test(test_slow_worker_holds_publishers),
        BOTH(test_storage_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
