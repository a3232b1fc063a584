/* SPDX-License-Identifier: Apache-2.0 */
/* Through the whole broker, on one worker and on three: queues, groups and routes are made and
 * changed. */
#include "core/broker/temporary.h"
#include "tests/unit/admin_rig.h"

/* ------------------------------------------------ queues, groups, routes */

static void test_queues_and_groups(void **state)
{
    rig.options = (struct broker_options){0};
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    uint64_t orders = 0, group = 0;
    assert_int_equal(queue_make(peer, "bad name", NULL), STATUS_INVALID);
    assert_int_equal(queue_make(peer, "orders", &orders), STATUS_OK);
    assert_int_equal(queue_make(peer, "orders", NULL), STATUS_EXISTS);
    assert_int_equal(queue_make(peer, "mqtt", NULL), STATUS_EXISTS);
    assert_int_equal(by_id(peer, ADMIN_QUEUE_DELETE, find(peer, "mqtt").id), STATUS_DENIED);
    assert_int_equal(by_id(peer, ADMIN_QUEUE_DELETE, 999), STATUS_NOT_FOUND);

    assert_int_equal(group_make(peer, 999, "g", false, NULL), STATUS_NOT_FOUND);
    assert_int_equal(group_make(peer, orders, "g", true, &group), STATUS_OK);
    assert_int_equal(group_make(peer, orders, "g", true, NULL), STATUS_EXISTS);
    assert_int_equal(group_make(peer, orders, "g2", true, NULL), STATUS_OK);
    assert_int_equal(group_make(peer, orders, "g3", true, NULL), STATUS_OK);
    assert_int_equal(group_make(peer, orders, "g4", true, NULL), STATUS_OVER_QUOTA);
    assert_int_equal(group_make(peer, orders, "g4", false, NULL), STATUS_OK);
    assert_int_equal(by_id(peer, ADMIN_GROUP_DELETE, group), STATUS_OK);
    assert_int_equal(by_id(peer, ADMIN_GROUP_DELETE, group), STATUS_NOT_FOUND);

    assert_int_equal(route_set(peer, "bad/#/x", orders), STATUS_INVALID);
    assert_int_equal(route_set(peer, "o/#", 999), STATUS_NOT_FOUND);
    assert_int_equal(route_set(peer, "o/#", orders), STATUS_OK);
    assert_int_equal(by_id(peer, ADMIN_QUEUE_DELETE, orders), STATUS_EXISTS);
    assert_int_equal(route_delete(peer, "o/#"), STATUS_OK);
    assert_int_equal(route_delete(peer, "o/#"), STATUS_NOT_FOUND);
    assert_int_equal(by_id(peer, ADMIN_QUEUE_DELETE, orders), STATUS_OK);
    assert_int_equal(find(peer, "orders").id, 0);
    peer_close(peer);
    rig_close();
}

static void test_queue_limit(void **state)
{
    rig_open(*(unsigned *)*state);
    broker_fall();
    broker_bury();
    rig.options.queue_limit = 3;
    broker_rise(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "p");
    uint64_t first = 0;
    assert_int_equal(queue_make(peer, "a", &first), STATUS_OK);
    assert_int_equal(queue_make(peer, "b", NULL), STATUS_OK);
    assert_int_equal(queue_make(peer, "c", NULL), STATUS_OK);
    assert_int_equal(queue_make(peer, "d", NULL), STATUS_OVER_QUOTA);
    assert_int_equal(by_id(peer, ADMIN_QUEUE_DELETE, first), STATUS_OK);
    assert_int_equal(queue_make(peer, "d", NULL), STATUS_OK);
    peer_close(peer);
    rig_close();
}

/* ------------------------------------------------ temporary queues */

struct temporary_call {
    struct broker_temporary make;
    struct waiter waiter; /* only its outcome */
};

static void temporary_done(struct request *request, enum status status)
{
    struct broker_temporary *make = container_of(request, struct broker_temporary, request);
    waiter_done(&container_of(make, struct temporary_call, make)->waiter.request, status);
}

static void temporary_run(void *context)
{
    struct temporary_call *call = context;
    struct client *client = call->make.client;
    request_init(&call->make.request, broker_loop(client->worker), temporary_done);
    broker_make_temporary(&call->make);
}

static void temporary_begin(struct peer *peer, struct temporary_call *call)
{
    call->make.client = &peer->client;
    on(peer->worker, temporary_run, call);
}

/* id of what was made; NULL: not wanted. */
static enum status temporary_await(struct temporary_call *call, uint64_t *id)
{
    rig_await(&call->waiter.done);
    assert_true((call->waiter.status == STATUS_OK) == (call->make.queue != NULL));
    if (id != NULL)
        *id = call->make.queue->id;
    queue_unref(call->make.queue);
    return call->waiter.status;
}

static enum status temporary_make(struct peer *peer, uint64_t *id)
{
    struct temporary_call call = {0};
    temporary_begin(peer, &call);
    return temporary_await(&call, id);
}

static void count_queues(void *context)
{
    struct find_call *call = context;
    call->partitions = (uint32_t)catalog_queue_count(broker_catalog(call->peer->client.worker));
}

/* As many as it says, soon. */
static void await_queues(struct peer *peer, uint32_t count)
{
    struct find_call call = {.peer = peer};
    for (unsigned i = 0; i < RIG_WAIT_MS && call.partitions != count; i++) {
        on(peer->worker, count_queues, &call);
        usleep(1000);
    }
    assert_int_equal(call.partitions, count);
}

/* They have a limit of their own, of the same number as queues have, and end with their client. */
static void test_temporary_queues_end(void **state)
{
    rig_open(*(unsigned *)*state);
    broker_fall();
    broker_bury();
    rig.options.queue_limit = 3;
    broker_rise(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p"), *other = peer_new(0, "o");
    uint64_t id = 0;
    assert_int_equal(queue_make(other, "$reply.0", NULL), STATUS_INVALID);
    assert_int_equal(temporary_make(peer, &id), STATUS_OK);
    assert_int_equal(temporary_make(peer, NULL), STATUS_OK);
    assert_int_equal(temporary_make(other, NULL), STATUS_OK);
    assert_int_equal(temporary_make(peer, NULL), STATUS_OVER_QUOTA);
    assert_int_equal(queue_make(other, "a", NULL), STATUS_OK);
    assert_int_equal(route_set(other, "o/#", id), STATUS_INVALID);
    await_queues(other, 5);
    peer_close(peer);
    await_queues(other, 3);
    assert_int_equal(temporary_make(other, &id), STATUS_OK);
    assert_int_equal(by_id(other, ADMIN_QUEUE_DELETE, id), STATUS_OK);

    /* What is being made when its client goes. */
    struct temporary_call call = {0};
    peer = peer_new(1, "p");
    struct standstill standstill;
    stand_still(&standstill, 0);
    if (peer->worker != 0) {
        temporary_begin(peer, &call);
        peer_close(peer);
        move_on(&standstill);
        assert_int_equal(temporary_await(&call, NULL), STATUS_CANCELED);
    } else {
        move_on(&standstill);
        peer_close(peer);
    }
    await_queues(other, 3);
    peer_close(other);
    rig_close();
}

struct join_call {
    struct peer *peer;
    struct queue *queue; /* a reference from joining to leaving */
    bool joins, ends;
};

/* The newest queue of the catalog. */
static void join_run(void *context)
{
    struct join_call *call = context;
    struct client *client = &call->peer->client;
    const struct catalog *catalog = broker_catalog(client->worker);
    const struct queue *queue = catalog_queue_at(catalog, catalog_queue_count(catalog) - 1);
    call->queue = queue_ref(queue);
    call->joins = broker_temporary_join(client, queue);
}

static void leave_run(void *context)
{
    struct join_call *call = context;
    call->ends = broker_temporary_leave(&call->peer->client, call->queue, TEMPORARY_LINK, NULL);
    queue_unref(call->queue);
}

static void leave_first_run(void *context)
{
    struct join_call *call = context;
    call->ends = broker_temporary_leave(&call->peer->client, call->queue, TEMPORARY_FIRST, NULL);
    queue_unref(call->queue);
}

/* What its worker knows of before the client has been told of it has links, too. */
static void test_temporary_queue_is_joined_early(void **state)
{
    (void)state;
    rig_open(3);
    struct peer *peer = peer_new(1, "p"), *other = peer_new(1, "o");
    struct temporary_call call = {.make.life = TEMPORARY_NO_LINKS};
    struct standstill standstill;
    stand_still(&standstill, 2);
    temporary_begin(peer, &call);
    await_queues(peer, 2);
    assert_false(call.waiter.done);
    struct join_call join = {.peer = peer}, first = {.peer = peer}, others = {.peer = other};
    on(1, join_run, &join);
    on(1, join_run, &others);
    assert_true(join.joins);
    assert_true(others.joins);
    move_on(&standstill);
    uint64_t id = 0;
    assert_int_equal(temporary_await(&call, &id), STATUS_OK);
    assert_int_equal(id, join.queue->id);
    on(1, join_run, &first);
    on(1, leave_first_run, &first);
    assert_false(first.ends);
    on(1, leave_run, &others);
    assert_false(others.ends);
    on(1, leave_run, &join);
    assert_true(join.ends);
    await_queues(peer, 1);
    peer_close(peer);
    peer_close(other);
    rig_close();
}

/* Those of other clients on other workers, who hear nothing of its end. */
static void test_links_of_others_keep_a_temporary_queue(void **state)
{
    (void)state;
    rig_open(3);
    struct peer *peer = peer_new(1, "p"), *other = peer_new(2, "o");
    struct temporary_call call = {.make.life = TEMPORARY_NO_LINKS};
    temporary_begin(peer, &call);
    assert_int_equal(temporary_await(&call, NULL), STATUS_OK);
    await_queues(other, 2);
    struct join_call first = {.peer = peer}, others = {.peer = other};
    on(1, join_run, &first);
    on(2, join_run, &others);
    on(1, leave_first_run, &first);
    assert_false(first.ends);
    usleep(1200 * 1000); /* it is looked at every second */
    await_queues(other, 2);
    on(2, leave_run, &others);
    assert_false(others.ends);
    await_queues(peer, 1);
    /* one that has ended with its client may be left */
    call = (struct temporary_call){.make.life = TEMPORARY_NO_LINKS};
    temporary_begin(peer, &call);
    assert_int_equal(temporary_await(&call, NULL), STATUS_OK);
    await_queues(other, 2);
    on(2, join_run, &others);
    peer_close(peer);
    await_queues(other, 1);
    on(2, leave_run, &others);
    assert_false(others.ends);
    peer_close(other);
    rig_close();
}

static struct peer *user(unsigned worker, const char *name)
{
    struct peer *peer = peer_connect(worker);
    assert_int_equal(peer_login(peer, name, "secret", name), STATUS_OK);
    return peer;
}

/* Who may do nothing has none, and a user half of them, over all connections. */
static void test_temporary_queues_of_users(void **state)
{
    rig_open(*(unsigned *)*state);
    broker_fall();
    broker_bury();
    rig.options.queue_limit = 4;
    broker_rise(*(unsigned *)*state);
    struct peer *maker = peer_new(0, "maker");
    assert_int_equal(user_make(maker, "root", "secret"), STATUS_OK);
    await(peer_look(maker).ended);
    peer_free(maker);
    struct peer *root = user(0, "root");
    assert_int_equal(user_make(root, "ann", "secret"), STATUS_OK);
    assert_int_equal(user_make(root, "bob", "secret"), STATUS_OK);
    struct peer *first = user(0, "ann"), *second = user(1, "ann"), *bob = user(2, "bob");
    uint64_t id = 0;
    assert_int_equal(grants_set(root, "ann", "manage", "queue:*"), STATUS_OK);
    assert_int_equal(temporary_make(first, NULL), STATUS_DENIED);
    assert_int_equal(grants_set(root, "ann", "consume", "queue:x"), STATUS_OK);
    assert_int_equal(grants_set(root, "bob", "publish", "topic:x"), STATUS_OK);
    assert_int_equal(temporary_make(first, NULL), STATUS_OK);
    assert_int_equal(temporary_make(second, NULL), STATUS_OK);
    assert_int_equal(temporary_make(first, NULL), STATUS_OVER_QUOTA);
    assert_int_equal(temporary_make(bob, &id), STATUS_OK);
    assert_int_equal(temporary_make(bob, NULL), STATUS_OK);
    assert_int_equal(temporary_make(root, NULL), STATUS_OVER_QUOTA);
    assert_int_equal(queue_make(root, "a", NULL), STATUS_OK);
    assert_int_equal(by_id(root, ADMIN_QUEUE_DELETE, id), STATUS_OK);
    assert_int_equal(temporary_make(second, NULL), STATUS_OVER_QUOTA);
    peer_close(first);
    await_queues(root, 4);
    assert_int_equal(temporary_make(second, NULL), STATUS_OK);
    peer_close(second);
    peer_close(bob);
    peer_close(root);
    rig_close();
}

/* Only while the catalog has them do they count. */
static void test_temporary_queues_deleted_by_others(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p"), *other = peer_new(0, "o");
    uint64_t id = 0;
    for (unsigned i = 0; i < LIMIT_CLIENT_TEMPORARY; i++)
        assert_int_equal(temporary_make(peer, &id), STATUS_OK);
    assert_int_equal(temporary_make(peer, NULL), STATUS_OVER_QUOTA);
    assert_int_equal(by_id(other, ADMIN_QUEUE_DELETE, id), STATUS_OK);
    await_queues(peer, LIMIT_CLIENT_TEMPORARY);
    assert_int_equal(temporary_make(peer, NULL), STATUS_OK);
    assert_int_equal(temporary_make(peer, NULL), STATUS_OVER_QUOTA);
    peer_close(peer);
    peer_close(other);
    rig_close();
}

struct topic_call {
    struct peer *peer;
    char topic[TEMPORARY_NAME];
};

static void topic_run(void *context)
{
    struct topic_call *call = context;
    broker_temporary_topic(&call->peer->client, call->topic);
}

static enum status retain(struct peer *peer, const char *topic, const char *value)
{
    uint32_t before = peer_look(peer).answers;
    struct publish_call call = {
        .peer = peer,
        .publish = {.topic = span_from_text(topic),
                    .guarantee = GUARANTEE_AT_LEAST_ONCE,
                    .retain = true,
                    .answer = true},
        .count = 1,
        .value = value,
    };
    on(peer->worker, publish_call_run, &call);
    await_answers(peer, before + 1);
    return peer->answers[before].status;
}

/* It would outlive its topic's client, and there is no end of them. */
static void test_nothing_is_retained_below_temporary_topics(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p"), *other = peer_new(0, "o");
    struct topic_call own = {.peer = peer};
    on(peer->worker, topic_run, &own);
    char below[TEMPORARY_NAME + 8];
    snprintf(below, sizeof below, "%s/below", own.topic);
    assert_int_equal(retain(peer, own.topic, "x"), STATUS_INVALID);
    assert_int_equal(retain(peer, below, "x"), STATUS_INVALID);
    assert_int_equal(retain(other, own.topic, "x"), STATUS_INVALID);
    assert_int_equal(retain(other, own.topic, ""), STATUS_OK); /* what is there is forgotten */
    assert_int_equal(retain(peer, "$reply/me", "x"), STATUS_OK);
    publish_many(other, own.topic, GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(other, 3);
    assert_int_equal(other->answers[2].status, STATUS_OK);
    peer_close(peer);
    peer_close(other);
    rig_close();
}

/* What the end of the broker, or of its process, has left. */
static void test_temporary_queues_are_not_kept(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    uint64_t id = 0;
    assert_int_equal(temporary_make(peer, &id), STATUS_OK);
    assert_int_equal(queue_make(peer, "kept", NULL), STATUS_OK);
    broker_fall();
    peer_free(peer);
    broker_bury();
    broker_rise(*(unsigned *)*state);
    peer = peer_new(0, "p");
    await_queues(peer, 2);
    assert_int_equal(by_id(peer, ADMIN_QUEUE_DELETE, id), STATUS_NOT_FOUND);
    assert_int_not_equal(find(peer, "kept").id, 0);
    peer_close(peer);
    rig_close();
}

static void test_route_moves_topics(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "p"), *other = peer_new(1, "o");
    assert_int_equal(peer_subscribe(other, "o/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    uint64_t orders = 0;
    assert_int_equal(queue_make(peer, "orders", &orders), STATUS_OK);
    struct find_call queue = find(peer, "orders"), built_in = find(peer, "mqtt");
    publish_many(peer, "o/1", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(peer, 1);
    assert_true(peer->answers[0].partition - built_in.first_partition < built_in.partitions);
    assert_int_equal(route_set(other, "o/+", orders), STATUS_OK);
    publish_many(peer, "o/1", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    publish_many(peer, "o/1/2", GUARANTEE_AT_LEAST_ONCE, 2, 1);
    /* Elsewhere than in the built-in queue everything is stored, asked or not. */
    publish_many(peer, "o/1", GUARANTEE_AT_MOST_ONCE, 3, 1);
    await_answers(peer, 3);
    assert_int_equal(peer->answers[1].partition, queue.first_partition);
    assert_int_equal(peer->answers[1].offset, 0);
    assert_true(peer->answers[2].partition - built_in.first_partition < built_in.partitions);
    await_records(other, 4);
    assert_int_equal(route_delete(peer, "o/+"), STATUS_OK);
    publish_many(peer, "o/1", GUARANTEE_AT_LEAST_ONCE, 4, 1);
    await_answers(peer, 4);
    assert_true(peer->answers[3].partition - built_in.first_partition < built_in.partitions);
    peer_close(peer);
    peer_close(other);
    rig_close();
}

/* A topic that moves back and forth while it is published to keeps its order. */
static void test_route_change_keeps_order(void **state)
{
    enum { ROUNDS = 60, BURST = 20 };
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "p"), *watcher = peer_new(1, "w"), *maker = peer_new(2, "m");
    assert_int_equal(peer_subscribe(watcher, "o/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    uint64_t queues[3] = {0};
    assert_int_equal(queue_make(maker, "a", &queues[0]), STATUS_OK);
    assert_int_equal(queue_make(maker, "b", &queues[1]), STATUS_OK);
    assert_int_equal(queue_make(maker, "c", &queues[2]), STATUS_OK);
    uint32_t number = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct admin_call call = {.admin = {.action = ADMIN_ROUTE_SET,
                                            .name = span_from_text("o/#"),
                                            .id = queues[round % 3]}};
        admin_begin(maker, &call);
        while (!atomic_load(&call.done) || number < (round + 1) * BURST)
            if (number < SEEN_MAX - BURST)
                publish_many(peer, "o/1", GUARANTEE_AT_LEAST_ONCE, number++, 1);
        assert_int_equal(call.status, STATUS_OK);
    }
    await_answers(peer, number);
    await_records(watcher, number);
    for (uint32_t i = 0; i < number; i++)
        assert_int_equal(number_of(watcher->records[i].value), i);
    peer_close(maker);
    peer_close(watcher);
    peer_close(peer);
    rig_close();
}

/* Does worker own the partition of this queue? Then nothing is answered while it stands still. */
static bool owns(unsigned worker, const char *queue)
{
    struct peer *peer = peer_new(0, "p");
    struct standstill standstill;
    stand_still(&standstill, worker);
    publish_to_queue(peer, queue, 0, 1);
    /* Looked for often: when the whole machine stands still meanwhile, that is one look. */
    bool answered = false;
    for (unsigned looks = 0; looks < 40 && !answered; looks++) {
        usleep(5000);
        answered = peer_look(peer).answers > 0;
    }
    move_on(&standstill);
    await_answers(peer, 1);
    peer_close(peer);
    return !answered;
}

/* The old queue's owner is slow and the new one's is not: the second record waits for the first. */
static void test_route_change_is_a_barrier(void **state)
{
    (void)state;
    rig_open(3);
    struct peer *peer = peer_new(0, "p");
    uint64_t slow = 0, fast = 0, id = 0;
    char name[8];
    for (unsigned i = 0; slow == 0 || fast == 0; i++) {
        snprintf(name, sizeof name, "q%u", i);
        assert_int_equal(queue_make(peer, name, &id), STATUS_OK);
        *(owns(1, name) ? &slow : &fast) = id;
    }
    assert_int_equal(peer_subscribe(peer, "o/1", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(route_set(peer, "o/#", slow), STATUS_OK);
    struct standstill standstill;
    stand_still(&standstill, 1);
    publish_many(peer, "o/1", GUARANTEE_AT_LEAST_ONCE, 0, 3);
    struct admin_call call = {
        .admin = {.action = ADMIN_ROUTE_SET, .name = span_from_text("o/#"), .id = fast}};
    admin_begin(peer, &call);
    usleep(50000); /* it has reached this worker by now, though not the other */
    publish_many(peer, "o/1", GUARANTEE_AT_LEAST_ONCE, 3, 3);
    usleep(20000);
    assert_int_equal(peer_look(peer).records, 0);
    move_on(&standstill);
    rig_await(&call.done);
    await_answers(peer, 6);
    await_records(peer, 6);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(number_of(peer->records[i].value), i);
    peer_close(peer);
    rig_close();
}

/* Changes that many ask for at once, refused ones between them; their clients go meanwhile. */
static void test_changes_of_clients_that_go(void **state)
{
    enum { CALLS = 60 };
    rig_open(*(unsigned *)*state);
    static struct admin_call calls[CALLS];
    static char names[CALLS][8];
    memset(calls, 0, sizeof calls);
    for (unsigned i = 0; i < CALLS; i++) {
        struct peer *peer = peer_new(i, "p");
        snprintf(names[i], sizeof names[i], "q%u", i / 2); /* every second one exists */
        calls[i].admin =
            (struct broker_admin){.action = ADMIN_QUEUE_CREATE, .name = span_from_text(names[i])};
        admin_begin(peer, &calls[i]);
        peer_close(peer);
    }
    unsigned made = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        rig_await(&calls[i].done);
        made += calls[i].status == STATUS_OK;
        queue_unref(calls[i].admin.queue);
    }
    assert_int_equal(made, CALLS / 2);
    rig_close();
}

/* ------------------------------------------------ changes that go together */

static void generation_run(void *context)
{
    struct find_call *call = context;
    call->id = catalog_generation(broker_catalog(call->peer->client.worker));
}

static uint64_t generation(struct peer *peer)
{
    struct find_call call = {.peer = peer};
    on(peer->worker, generation_run, &call);
    return call.id;
}

/* What a client leaves behind keeps nobody waiting: however many they are, a few snapshots. */
static void test_many_changes_are_few_snapshots(void **state)
{
    enum { CLIENTS = 3, EACH = 250 };
    (void)state;
    rig_open(3);
    struct peer *leaving[CLIENTS], *peer = peer_new(1, "p");
    for (unsigned i = 0; i < CLIENTS; i++) {
        leaving[i] = peer_new(1 + i % 2, "leaving");
        for (unsigned k = 0; k < EACH; k++)
            assert_int_equal(temporary_make(leaving[i], NULL), STATUS_OK);
    }
    uint64_t before = generation(peer);
    struct standstill standstill;
    stand_still(&standstill, 0);
    for (unsigned i = 0; i < CLIENTS; i++)
        peer_close(leaving[i]);
    struct admin_call call = {
        .admin = {.action = ADMIN_QUEUE_CREATE, .name = span_from_text("orders")}};
    admin_begin(peer, &call);
    move_on(&standstill);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_OK);
    queue_unref(call.admin.queue);
    assert_in_range(generation(peer) - before, 3, 8); /* there is a limit of what goes together */
    await_queues(peer, 2);
    peer_close(peer);
    rig_close();
}

/* Each is checked against what those before it make, and is told what becomes of them. */
static void test_changes_that_meet(void **state)
{
    enum { CALLS = 5 };
    static const char *const names[CALLS] = {"first", "x", "x", "bad name", "y"};
    static const enum status fine[CALLS] = {STATUS_OK, STATUS_OK, STATUS_EXISTS, STATUS_INVALID,
                                            STATUS_OK};
    (void)state;
    rig_open(3);
    struct peer *peer = peer_new(1, "p");
    for (unsigned fails = 0; fails < 2; fails++) {
        struct admin_call calls[CALLS] = {0};
        struct standstill standstill;
        uint64_t before = generation(peer);
        stand_still(&standstill, 0);
        for (unsigned i = 0; i < CALLS; i++) {
            calls[i].admin = (struct broker_admin){.action = ADMIN_QUEUE_CREATE,
                                                   .name = span_from_text(names[i])};
            admin_begin(peer, &calls[i]);
        }
        atomic_store(&rig.sync_fails, fails == 1);
        move_on(&standstill);
        for (unsigned i = 0; i < CALLS; i++) {
            rig_await(&calls[i].done);
            assert_int_equal(calls[i].status, fails ? STATUS_STORAGE_FAILED : fine[i]);
            assert_true((calls[i].admin.queue != NULL) == (calls[i].status == STATUS_OK));
            if (calls[i].status != STATUS_OK)
                continue;
            assert_int_equal(find(peer, names[i]).id, calls[i].admin.queue->id);
            assert_int_equal(by_id(peer, ADMIN_QUEUE_DELETE, calls[i].admin.queue->id), STATUS_OK);
            queue_unref(calls[i].admin.queue);
        }
        if (fails)
            assert_int_equal(generation(peer), before);
    }
    peer_close(peer);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_queues_and_groups),
        BOTH(test_queue_limit),
        BOTH(test_temporary_queues_end),
        cmocka_unit_test(test_temporary_queue_is_joined_early),
        cmocka_unit_test(test_links_of_others_keep_a_temporary_queue),
        BOTH(test_temporary_queues_of_users),
        BOTH(test_temporary_queues_deleted_by_others),
        BOTH(test_temporary_queues_are_not_kept),
        BOTH(test_nothing_is_retained_below_temporary_topics),
        BOTH(test_route_moves_topics),
        BOTH(test_route_change_keeps_order),
        cmocka_unit_test(test_route_change_is_a_barrier),
        BOTH(test_changes_of_clients_that_go),
        cmocka_unit_test(test_many_changes_are_few_snapshots),
        cmocka_unit_test(test_changes_that_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
