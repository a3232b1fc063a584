/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed records through the broker, on one worker and on three: to subscribers and queues, never
 * early, refused, canceled, after a restart, and when their publisher may not any more. */
#include "core/broker/temporary.h"
#include "tests/unit/broker_rig.h"

#include "core/base/clock.h"

enum { IDS = 64, LATER_MS = 1200 /* longer than a busy machine takes to look */ };
static struct delay_id ids[IDS]; /* by token; only on the publisher's loop */

static void peer_delayed(struct client *client, uint64_t token, const struct delay_id *id)
{
    CHECK(loop_is_home(rig.loops[peer_of(client)->worker]));
    CHECK(token < IDS && id->due_ms > 0);
    ids[token] = *id;
}

static struct client_ops delay_peer_ops;

static void open_rig(void **state)
{
    delay_peer_ops = peer_ops;
    delay_peer_ops.delayed = peer_delayed;
    rig_open(*(unsigned *)*state);
}

static struct peer *delay_peer(unsigned worker, const char *id)
{
    struct peer *peer = peer_new(worker, id);
    peer->client.ops = &delay_peer_ops;
    return peer;
}

static void publish_later(struct peer *peer, const char *queue, const char *topic, uint32_t number,
                          uint64_t delay_ms)
{
    struct publish_call call = {
        .peer = peer,
        .publish = {.answer = true, .delay_ms = delay_ms, .guarantee = GUARANTEE_AT_LEAST_ONCE},
        .queue = queue,
        .first = number,
        .count = 1};
    if (topic != NULL)
        call.publish.topic = span_from_text(topic);
    on(peer->worker, publish_call_run, &call);
}

static void queue_of_type(struct peer *peer, const char *name, enum queue_type type,
                          uint32_t partitions, uint64_t *id)
{
    assert_int_equal(administer(peer,
                                (struct broker_admin){.action = ADMIN_QUEUE_CREATE,
                                                      .name = span_from_text(name),
                                                      .type = type,
                                                      .partitions = partitions},
                                id),
                     STATUS_OK);
}

struct cancel_call {
    struct peer *peer;
    const char *queue;
    struct delay_id id;
    struct waiter waiter;
};

static void cancel_run(void *context)
{
    struct cancel_call *call = context;
    struct client *client = &call->peer->client;
    const struct queue *queue = catalog_queue_by_text(broker_catalog(client->worker),
                                                      client->tenant, span_from_text(call->queue));
    CHECK(queue != NULL);
    request_init(&call->waiter.request, rig.loops[call->peer->worker], waiter_done);
    broker_cancel_delayed(client, queue, &call->id, &call->waiter.request);
}

static enum status cancel(struct peer *peer, const char *queue, struct delay_id id)
{
    struct cancel_call call = {.peer = peer, .queue = queue, .id = id};
    on(peer->worker, cancel_run, &call);
    rig_await(&call.waiter.done);
    return call.waiter.status;
}

struct stat_call {
    const char *queue;
    uint64_t delayed, records;
};

static void stat_run(void *context)
{
    struct stat_call *call = context;
    const struct queue *queue = catalog_queue_by_text(broker_catalog(broker_worker(rig.broker, 0)),
                                                      TENANT_DEFAULT, span_from_text(call->queue));
    CHECK(queue != NULL);
    call->delayed = atomic_load(&queue->stat->delayed);
    call->records = 0;
    for (uint32_t i = 0; i < queue->partition_count; i++)
        call->records += atomic_load(&queue->stat->partitions[i].end);
}

static struct stat_call stat_of(const char *queue)
{
    struct stat_call call = {.queue = queue};
    on(0, stat_run, &call);
    return call;
}

static void assert_statuses(struct peer *peer, enum status status)
{
    for (uint32_t i = 0; i < peer->answer_count; i++)
        assert_int_equal(peer->answers[i].status, status);
}

static void test_to_subscribers(void **state)
{
    open_rig(state);
    struct peer *publisher = delay_peer(0, "p"), *subscriber = peer_new(1, "s");
    assert_int_equal(peer_subscribe(subscriber, "a/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    int64_t began_ms = clock_wall_ms();
    for (uint32_t i = 0; i < 20; i++)
        publish_later(publisher, NULL, i % 2 == 0 ? "a/1" : "a/2", i, LATER_MS + (19 - i) * 5);
    publish_many(publisher, "a/1", GUARANTEE_AT_LEAST_ONCE, 100, 1);
    await_answers(publisher, 21);
    assert_statuses(publisher, STATUS_OK);
    for (uint32_t i = 0; i < 20; i++) { /* in order, with the others */
        assert_int_equal(publisher->answers[i].token, i);
        assert_int_equal(publisher->answers[i].partition, ids[i].partition);
        assert_int_equal(publisher->answers[i].offset, ids[i].number);
        assert_true(ids[i].due_ms >= began_ms + LATER_MS + (int64_t)(19 - i) * 5);
    }
    assert_int_equal(peer_look(subscriber).records, 1);
    assert_int_equal(stat_of("mqtt").delayed, 20);
    await(peer_look(subscriber).records > 1);
    assert_true(clock_wall_ms() - began_ms >= LATER_MS);
    await_records(subscriber, 21);
    assert_int_equal(stat_of("mqtt").delayed, 0);
    /* By due, which is backwards unless the test's thread stood still; of one topic, since two
     * partitions do not wait for each other. */
    int64_t last[2] = {0, 0};
    for (uint32_t i = 1; i < 21; i++) {
        int number = number_of(subscriber->records[i].value);
        assert_true(number >= 0 && number < 20 && ids[number].due_ms >= last[number % 2]);
        last[number % 2] = ids[number].due_ms;
    }
    peer_close(publisher);
    peer_close(subscriber);
    rig_close();
}

static void test_refused(void **state)
{
    open_rig(state);
    struct peer *peer = delay_peer(1, "p");
    queue_of_type(peer, "stream", QUEUE_STREAM, 2, NULL);
    queue_of_type(peer, "fifo", QUEUE_FIFO, 1, NULL);
    publish_later(peer, "stream", NULL, 0, 10);
    publish_later(peer, "fifo", NULL, 1, (uint64_t)LIMIT_DELAY_MS + 1);
    publish_later(peer, NULL, "bad/+", 2, 10);
    publish_later(peer, "fifo", NULL, 3, LIMIT_DELAY_MS);
    publish_later(peer, "fifo", NULL, 4, 1);
    await_answers(peer, 5);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(peer->answers[i].status, i < 3 ? STATUS_INVALID : STATUS_OK);
    await(stat_of("fifo").records == 1);
    assert_int_equal(stat_of("fifo").delayed, 1);
    assert_int_equal(stat_of("stream").records, 0);
    peer_close(peer);
    rig_close();
}

static void test_canceled(void **state)
{
    open_rig(state);
    struct peer *peer = delay_peer(1, "p"), *other = peer_new(0, "o");
    uint64_t queue;
    queue_of_type(peer, "q", QUEUE_STANDARD, 3, &queue);
    for (uint32_t i = 0; i < 10; i++)
        publish_later(peer, "q", NULL, i, i < 5 ? LATER_MS : 100000000);
    await_answers(peer, 10);
    assert_int_equal(cancel(other, "q", ids[0]), STATUS_OK);
    assert_int_equal(cancel(peer, "q", ids[0]), STATUS_NOT_FOUND);
    assert_int_equal(cancel(peer, "q", ids[9]), STATUS_OK);
    assert_int_equal(cancel(peer, "mqtt", ids[1]), STATUS_NOT_FOUND);
    struct delay_id wrong = ids[1];
    wrong.number += 1000;
    assert_int_equal(cancel(peer, "q", wrong), STATUS_NOT_FOUND);
    assert_int_equal(stat_of("q").delayed, 8);
    await(stat_of("q").records == 4);
    rig_calm();
    assert_int_equal(stat_of("q").records, 4);
    assert_int_equal(cancel(peer, "q", ids[2]), STATUS_NOT_FOUND);
    assert_int_equal(
        administer(peer, (struct broker_admin){.action = ADMIN_QUEUE_DELETE, .id = queue}, NULL),
        STATUS_OK);
    queue_of_type(peer, "q", QUEUE_STANDARD, 3, &queue);
    assert_int_equal(stat_of("q").delayed, 0);
    assert_int_equal(cancel(peer, "q", ids[7]), STATUS_NOT_FOUND);
    peer_close(peer);
    peer_close(other);
    rig_close();
}

static struct peer *user(unsigned worker, const char *name)
{
    struct peer *peer = peer_connect(worker);
    peer->client.ops = &delay_peer_ops;
    assert_int_equal(peer_login(peer, name, name, name), STATUS_OK);
    return peer;
}

/* Rights are looked at again when the time has come. */
static void test_rights(void **state)
{
    open_rig(state);
    struct peer *nobody = delay_peer(0, "nobody");
    publish_later(nobody, NULL, "t/1", 50, 200);
    await_answers(nobody, 1);
    assert_int_equal(user_make(nobody, "root", "root"), STATUS_OK);
    await(peer_look(nobody).ended);
    peer_free(nobody);
    struct peer *root = user(0, "root");
    struct peer *users[3];
    const char *const names[] = {"ann", "ben", "cid"};
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(user_make(root, names[i], names[i]), STATUS_OK);
        assert_int_equal(grants_set(root, names[i], "publish", "topic:t/%c"), STATUS_OK);
        users[i] = user(i, names[i]);
    }
    for (uint32_t i = 0; i < 3; i++) {
        char topic[16];
        snprintf(topic, sizeof topic, "t/%s", names[i]);
        publish_later(users[i], NULL, topic, i, 3000);
        await_answers(users[i], 1);
        assert_int_equal(users[i]->answers[0].status, STATUS_OK);
    }
    int64_t denied = rig_metric("dropped_total", "reason=\"denied\"");
    struct delay_id of_ann;
    on(users[0]->worker, nothing_run, NULL);
    of_ann = ids[0];
    assert_int_equal(cancel(users[1], "mqtt", of_ann), STATUS_DENIED);
    assert_int_equal(grants_set(root, "ben", "publish", "topic:other"), STATUS_OK);
    assert_int_equal(administer(root,
                                (struct broker_admin){.action = ADMIN_USER_DELETE,
                                                      .name = span_from_text("cid")},
                                NULL),
                     STATUS_OK);
    await(stat_of("mqtt").delayed == 0);
    assert_int_equal(stat_of("mqtt").records, 2); /* ann's, and that of before there were users */
    assert_int_equal(rig_metric("dropped_total", "reason=\"denied\"") - denied, 2);
    for (uint32_t i = 0; i < 3; i++)
        peer_close(users[i]);
    peer_close(root);
    rig_close();
}

struct own_call {
    struct peer *peer;
    struct broker_temporary make;
    struct waiter waiter;
    char topic[TEMPORARY_NAME];
};

static void own_made(struct request *request, enum status status)
{
    struct own_call *own = container_of(request, struct own_call, make.request);
    waiter_done(&own->waiter.request, status);
}

static void own_run(void *context)
{
    struct own_call *own = context;
    own->make.client = &own->peer->client;
    request_init(&own->make.request, rig.loops[own->peer->worker], own_made);
    broker_temporary_topic(&own->peer->client, own->topic);
    broker_make_temporary(&own->make);
}

/* What its own queue and topic need no right for when it is accepted, they need none for later. */
static void test_own_nodes_need_no_right(void **state)
{
    open_rig(state);
    struct peer *nobody = delay_peer(0, "nobody");
    assert_int_equal(user_make(nobody, "root", "root"), STATUS_OK);
    await(peer_look(nobody).ended);
    peer_free(nobody);
    struct peer *root = user(0, "root");
    assert_int_equal(user_make(root, "ann", "ann"), STATUS_OK);
    assert_int_equal(grants_set(root, "ann", "publish", "topic:orders"), STATUS_OK);
    struct peer *ann = user(1, "ann");
    struct own_call own = {.peer = ann};
    on(ann->worker, own_run, &own);
    rig_await(&own.waiter.done);
    assert_int_equal(own.waiter.status, STATUS_OK);
    int64_t denied = rig_metric("dropped_total", "reason=\"denied\"");
    publish_later(ann, own.make.queue->name, NULL, 0, 300);
    publish_later(ann, NULL, own.topic, 1, 300);
    publish_later(ann, own.make.queue->name, NULL, 2, 60000);
    await_answers(ann, 3);
    assert_statuses(ann, STATUS_OK);
    await(stat_of(own.make.queue->name).records == 1);
    await(stat_of("mqtt").delayed == 0);
    assert_int_equal(stat_of("mqtt").records, 1);
    assert_int_equal(rig_metric("dropped_total", "reason=\"denied\"") - denied, 0);
    struct delay_id last;
    on(ann->worker, nothing_run, NULL);
    last = ids[2];
    assert_int_equal(cancel(ann, own.make.queue->name, last), STATUS_OK);
    queue_unref(own.make.queue);
    peer_close(ann);
    peer_close(root);
    rig_close();
}

static void test_return(void **state)
{
    unsigned workers = *(unsigned *)*state;
    open_rig(state);
    struct peer *peer = delay_peer(1, "p");
    uint64_t doomed;
    queue_of_type(peer, "q", QUEUE_STANDARD, 8, NULL);
    queue_of_type(peer, "doomed", QUEUE_STANDARD, 2, &doomed);
    for (uint32_t i = 0; i < 30; i++) {
        struct publish_call call = {.peer = peer,
                                    .publish = {.answer = true,
                                                .key = span_of(&i, sizeof i),
                                                .delay_ms = i < 15 ? 300 : 1000000},
                                    .queue = "q",
                                    .first = i,
                                    .count = 1};
        on(peer->worker, publish_call_run, &call);
    }
    publish_later(peer, "doomed", NULL, 40, 300);
    await_answers(peer, 31);
    assert_statuses(peer, STATUS_OK);
    broker_fall();
    peer_free(peer);
    broker_bury();
    broker_rise(workers % 3 + 1);
    await(stat_of("q").records == 15);
    await(stat_of("doomed").records == 1);
    rig_calm();
    assert_int_equal(stat_of("q").delayed, 15);
    assert_int_equal(stat_of("q").records, 15);
    peer = delay_peer(0, "p");
    assert_int_equal(cancel(peer, "q", ids[20]), STATUS_OK);
    publish_later(peer, "q", NULL, 41, 1);
    await(stat_of("q").records == 16);
    assert_int_equal(stat_of("q").delayed, 14);
    peer_close(peer);
    rig_close();
}

/* Nothing that a client published is left unanswered when it ends, and none of it is lost. */
static void test_end(void **state)
{
    open_rig(state);
    struct peer *peer = delay_peer(0, "p");
    for (uint32_t i = 0; i < 50; i++)
        publish_later(peer, NULL, i % 3 == 0 ? "x/1" : "y/2", i, i % 4);
    broker_fall();
    uint32_t stored = 0;
    assert_int_equal(peer->answer_count, 50);
    for (uint32_t i = 0; i < 50; i++)
        stored += peer->answers[i].status == STATUS_OK;
    peer_free(peer);
    broker_bury();
    broker_rise(1);
    await(stat_of("mqtt").records == stored);
    rig_calm();
    assert_int_equal(stat_of("mqtt").delayed, 0);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_to_subscribers),
        BOTH(test_refused),
        BOTH(test_canceled),
        BOTH(test_rights),
        BOTH(test_own_nodes_need_no_right),
        BOTH(test_return),
        BOTH(test_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
