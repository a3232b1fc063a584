/* SPDX-License-Identifier: Apache-2.0 */
/* Logins, rights, changes of the catalog, groups across workers, the end of a broker and its
 * return, on one worker and on three. */
#include "tests/unit/broker_rig.h"

static void open_rig(void **state)
{
    rig_open(*(unsigned *)*state);
}

/* ------------------------------------------------ users */

/* In protected mode anybody makes the first user, and is sent away by that. */
static void first_user(const char *name, const char *password)
{
    struct peer *peer = peer_new(0, "maker");
    assert_int_equal(user_make(peer, name, password), STATUS_OK);
    await(peer_look(peer).ended);
    peer_free(peer);
}

static struct peer *user(unsigned worker, const char *name, const char *password)
{
    struct peer *peer = peer_connect(worker);
    assert_int_equal(peer_login(peer, name, password, name), STATUS_OK);
    return peer;
}

static void test_logins(void **state)
{
    open_rig(state);
    struct peer *before = peer_new(2, "before");
    assert_int_equal(peer_subscribe(before, "#", 0, 1), STATUS_OK);
    int64_t refused = rig_metric("refused_total", "protocol=\"peer\",reason=\"unauthenticated\"");
    first_user("root", "secret");
    await(peer_look(before).ended);
    assert_int_equal(peer_look(before).why, STATUS_DENIED);
    peer_free(before);

    struct peer *peer = peer_connect(1);
    assert_int_equal(peer_login(peer, "", "", "x"), STATUS_UNAUTHENTICATED);
    assert_int_equal(peer_login(peer, "root", "wrong", "x"), STATUS_UNAUTHENTICATED);
    assert_int_equal(peer_login(peer, "nobody", "secret", "x"), STATUS_UNAUTHENTICATED);
    assert_int_equal(
        rig_metric("refused_total", "protocol=\"peer\",reason=\"unauthenticated\"") - refused, 3);
    assert_int_equal(peer_login(peer, "root", "secret", "x"), STATUS_OK);
    /* From the cache, and no longer once the password is another. */
    struct peer *again = user(1, "root", "secret");
    assert_int_equal(user_make(again, "root", "changed"), STATUS_OK);
    assert_false(peer_look(again).ended);
    struct peer *late = peer_connect(1);
    assert_int_equal(peer_login(late, "root", "secret", "x"), STATUS_UNAUTHENTICATED);
    assert_int_equal(peer_login(late, "root", "changed", "x"), STATUS_OK);
    peer_close(late);
    peer_close(again);
    peer_close(peer);
    rig_close();
}

struct raced_login {
    struct login_call call;
    struct peer *peer;
};

static void close_and_login_run(void *context)
{
    struct raced_login *raced = context;
    broker_login(&raced->call.login);
    client_close(&raced->peer->client);
}

static void test_close_during_login(void **state)
{
    open_rig(state);
    first_user("root", "secret");
    struct raced_login raced = {.peer = peer_connect(1)};
    raced.call.login = (struct broker_login){.client = &raced.peer->client,
                                             .user = span_from_text("root"),
                                             .password = span_from_text("secret")};
    request_init(&raced.call.login.request, rig.loops[raced.peer->worker], login_call_done);
    on(raced.peer->worker, close_and_login_run, &raced);
    peer_free(raced.peer);
    rig_await(&raced.call.done);
    assert_int_equal(raced.call.status, STATUS_CANCELED);
    rig_close();
}

static void test_certificate_login(void **state)
{
    open_rig(state);
    first_user("root", "secret");
    struct peer *peer = peer_connect(1);
    struct login_call call = {
        .login = {.client = &peer->client, .certificate_subject = "stranger"}};
    request_init(&call.login.request, rig.loops[peer->worker], login_call_done);
    on(peer->worker, login_call_run, &call);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_UNAUTHENTICATED);
    atomic_store(&call.done, false);
    call.login.certificate_subject = "root";
    on(peer->worker, login_call_run, &call);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_OK);
    peer_close(peer);
    rig_close();
}

static void set_id_run(void *context)
{
    struct peer *peer = context;
    client_set_id(&peer->client, span_from_text("7"));
}

/* Protocols that learn the client's id late; and a group that a consumer makes for itself. */
static void test_late_id_and_own_group(void **state)
{
    open_rig(state);
    first_user("root", "secret");
    struct peer *root = user(0, "root", "secret");
    uint64_t queue = 0;
    assert_int_equal(queue_make(root, "in-7", &queue), STATUS_OK);
    assert_int_equal(user_make(root, "ann", "a"), STATUS_OK);
    assert_int_equal(grants_set(root, "ann", "consume", "queue:in-%c"), STATUS_OK);
    struct peer *ann = user(1, "ann", "a");
    struct broker_admin make = {
        .action = ADMIN_GROUP_CREATE, .name = span_from_text("g"), .id = queue, .by_use = true};
    assert_int_equal(administer(ann, make, NULL), STATUS_DENIED);
    on(ann->worker, set_id_run, ann);
    make.by_use = false;
    assert_int_equal(administer(ann, make, NULL), STATUS_DENIED);
    make.by_use = true;
    assert_int_equal(administer(ann, make, NULL), STATUS_OK);
    peer_close(ann);
    peer_close(root);
    rig_close();
}

static void test_grants(void **state)
{
    open_rig(state);
    first_user("root", "secret");
    struct peer *root = user(0, "root", "secret");
    assert_int_equal(user_make(root, "ann", "a"), STATUS_OK);
    struct peer *ann = user(1, "ann", "a");
    /* A user without grants may do nothing. */
    publish_many(ann, "t/1", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(ann, 1);
    assert_int_equal(ann->answers[0].status, STATUS_DENIED);
    assert_int_equal(peer_subscribe(ann, "t/#", 0, 1), STATUS_DENIED);
    assert_int_equal(queue_make(ann, "q", NULL), STATUS_DENIED);
    assert_int_equal(user_make(ann, "eve", "e"), STATUS_DENIED);

    assert_int_equal(grants_set(root, "ann", "publish,consume", "topic:t/#"), STATUS_OK);
    publish_many(ann, "t/1", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    await_answers(ann, 2);
    assert_int_equal(ann->answers[1].status, STATUS_OK);
    assert_int_equal(peer_subscribe(ann, "t/#", 0, 1), STATUS_OK);
    assert_int_equal(peer_subscribe(ann, "t/1", 0, 2), STATUS_OK);
    publish_many(root, "t/1", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_records(ann, 2);

    /* Less is allowed: the cached address and one of the two live subscriptions end. */
    assert_int_equal(grants_set(root, "ann", "consume", "topic:t/1"), STATUS_OK);
    publish_many(ann, "t/1", GUARANTEE_AT_LEAST_ONCE, 2, 1);
    await_answers(ann, 3);
    assert_int_equal(ann->answers[2].status, STATUS_DENIED);
    publish_many(root, "t/1", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    await_records(ann, 3);
    assert_int_equal(ann->records[2].identifier, 2);
    assert_false(peer_look(ann).ended);

    /* A queue by name: its right is cached too. */
    assert_int_equal(queue_make(root, "orders", NULL), STATUS_OK);
    assert_int_equal(grants_set(root, "ann", "publish", "queue:ord*"), STATUS_OK);
    publish_to_queue(ann, "orders", 3, 2);
    await_answers(ann, 5);
    assert_int_equal(ann->answers[4].status, STATUS_OK);
    assert_int_equal(grants_set(root, "ann", NULL, NULL), STATUS_OK);
    publish_to_queue(ann, "orders", 5, 1);
    await_answers(ann, 6);
    assert_int_equal(ann->answers[5].status, STATUS_DENIED);
    peer_close(ann);
    peer_close(root);
    rig_close();
}

static enum status user_delete(struct peer *peer, const char *name)
{
    return administer(
        peer, (struct broker_admin){.action = ADMIN_USER_DELETE, .name = span_from_text(name)},
        NULL);
}

static void test_removed_user(void **state)
{
    open_rig(state);
    first_user("root", "secret");
    struct peer *root = user(0, "root", "secret");
    assert_int_equal(user_make(root, "ann", "a"), STATUS_OK);
    struct peer *anns[6];
    for (unsigned i = 0; i < 6; i++)
        anns[i] = user(i, "ann", "a");
    assert_int_equal(user_delete(root, "nobody"), STATUS_NOT_FOUND);
    assert_int_equal(user_delete(root, "ann"), STATUS_OK);
    for (unsigned i = 0; i < 6; i++) {
        struct look look = peer_look(anns[i]);
        assert_true(look.ended);
        assert_int_equal(look.why, STATUS_DENIED);
        peer_free(anns[i]);
    }
    struct peer *peer = peer_connect(0);
    assert_int_equal(peer_login(peer, "ann", "a", "x"), STATUS_UNAUTHENTICATED);
    peer_close(peer);
    /* Without any user everybody could do everything. */
    assert_int_equal(user_delete(root, "root"), STATUS_DENIED);
    peer_close(root);
    rig_close();
}

/* More than a row holds is refused; it was a CHECK once. */
static void test_long_grants(void **state)
{
    open_rig(state);
    first_user("root", "secret");
    struct peer *root = user(0, "root", "secret");
    static struct grant grants[LIMIT_GRANTS];
    char *pattern = heap_new(60001);
    memset(pattern, 'x', 60000);
    for (unsigned i = 0; i < LIMIT_GRANTS; i++)
        grants[i] = (struct grant){.actions = ACTION_PUBLISH, .is_topic = true, .pattern = pattern};
    struct broker_admin admin = {.action = ADMIN_GRANTS_SET,
                                 .name = span_from_text("root"),
                                 .grants = grants,
                                 .grant_count = LIMIT_GRANTS};
    assert_int_equal(administer(root, admin, NULL), STATUS_TOO_LARGE);
    char *description = heap_new(2 * 1024 * 1024);
    memset(description, 'x', 2 * 1024 * 1024 - 1);
    admin = (struct broker_admin){
        .action = ADMIN_QUEUE_CREATE, .name = span_from_text("q"), .description = description};
    assert_int_equal(administer(root, admin, NULL), STATUS_TOO_LARGE);
    assert_int_equal(queue_make(root, "q", NULL), STATUS_OK);
    heap_free(description);
    heap_free(pattern);
    peer_close(root);
    rig_close();
}

/* ------------------------------------------------ queues, groups, routes */

static enum status by_id(struct peer *peer, enum admin_action action, uint64_t id)
{
    return administer(peer, (struct broker_admin){.action = action, .id = id}, NULL);
}

static enum status route_set(struct peer *peer, const char *filter, uint64_t queue)
{
    return administer(peer,
                      (struct broker_admin){
                          .action = ADMIN_ROUTE_SET, .name = span_from_text(filter), .id = queue},
                      NULL);
}

static enum status route_delete(struct peer *peer, const char *filter)
{
    return administer(
        peer, (struct broker_admin){.action = ADMIN_ROUTE_DELETE, .name = span_from_text(filter)},
        NULL);
}

struct find_call {
    struct peer *peer;
    const char *name;
    uint64_t id, first_partition;
    uint32_t partitions;
};

static void find_run(void *context)
{
    struct find_call *call = context;
    const struct queue *queue = catalog_queue_by_text(broker_catalog(call->peer->client.worker),
                                                      TENANT_DEFAULT, span_from_text(call->name));
    call->id = queue == NULL ? 0 : queue->id;
    call->first_partition = queue == NULL ? 0 : queue->first_partition;
    call->partitions = queue == NULL ? 0 : queue->partition_count;
}

static struct find_call find(struct peer *peer, const char *name)
{
    struct find_call call = {.peer = peer, .name = name};
    on(peer->worker, find_run, &call);
    return call;
}

static void test_queues_and_groups(void **state)
{
    rig.options = (struct broker_options){0};
    open_rig(state);
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

static void test_route_moves_topics(void **state)
{
    open_rig(state);
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
    open_rig(state);
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
    usleep(50000);
    bool answered = peer_look(peer).answers > 0;
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
    open_rig(state);
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

/* ------------------------------------------------ groups */

enum { TAKE_MAX = 64 };

struct take_call {
    struct group_take take;
    struct group_item items[TAKE_MAX];
    struct peer *peer;
    uint64_t group;
    atomic_bool done;
    enum status status;
};

static void take_call_done(struct request *request, enum status status)
{
    struct take_call *call = container_of(request, struct take_call, take.request);
    call->status = status;
    atomic_store(&call->done, true);
}

static void take_call_run(void *context)
{
    struct take_call *call = context;
    const struct group_spec *group =
        catalog_group(broker_catalog(call->peer->client.worker), call->group);
    CHECK(group != NULL);
    broker_take(&call->peer->client, group, &call->take);
}

static void take_from(struct take_call *call, struct peer *peer, uint64_t group, uint32_t wait_ms,
                      bool dead)
{
    memset(call, 0, sizeof *call);
    call->take.dead = dead;
    call->peer = peer;
    call->group = group;
    call->take.items = call->items;
    call->take.max_records = TAKE_MAX;
    call->take.max_bytes = 1 << 20;
    call->take.wait_ms = wait_ms;
    call->take.lease_ms = 30000;
    request_init(&call->take.request, rig.loops[peer->worker], take_call_done);
    on(peer->worker, take_call_run, call);
}

static void take_begin(struct take_call *call, struct peer *peer, uint64_t group, uint32_t wait_ms)
{
    take_from(call, peer, group, wait_ms, false);
}

static void take_begin_dead(struct take_call *call, struct peer *peer, uint64_t group,
                            uint32_t wait_ms)
{
    take_from(call, peer, group, wait_ms, true);
}

static void take_cancel_run(void *context)
{
    struct take_call *call = context;
    const struct group_spec *group =
        catalog_group(broker_catalog(call->peer->client.worker), call->group);
    broker_take_cancel(&call->peer->client, group, &call->take);
    broker_take_cancel(&call->peer->client, group, &call->take); /* harmless twice */
}

struct group_settle_call {
    struct group_settle settle;
    struct receipt receipts[TAKE_MAX];
    enum status results[TAKE_MAX];
    struct peer *peer;
    atomic_bool done;
    enum status status;
};

static void group_settle_done(struct request *request, enum status status)
{
    struct group_settle_call *call =
        container_of(request, struct group_settle_call, settle.request);
    call->status = status;
    atomic_store(&call->done, true);
}

static void group_settle_run(void *context)
{
    struct group_settle_call *call = context;
    const struct group_spec *group =
        catalog_group(broker_catalog(call->peer->client.worker), call->settle.group_id);
    CHECK(group != NULL);
    broker_settle(&call->peer->client, group, &call->settle);
}

/* Settles all that was taken, as call says. */
static void settle_all(struct group_settle_call *call, const struct take_call *take)
{
    call->peer = take->peer;
    for (uint32_t i = 0; i < take->take.count; i++) {
        call->receipts[i] = take->items[i].receipt;
        batch_unref(take->items[i].batch);
    }
    call->settle.receipts = call->receipts;
    call->settle.results = call->results;
    call->settle.count = take->take.count;
    call->settle.group_id = take->group;
    request_init(&call->settle.request, rig.loops[call->peer->worker], group_settle_done);
    on(call->peer->worker, group_settle_run, call);
}

static void settle_begin(struct group_settle_call *call, const struct take_call *take)
{
    memset(call, 0, sizeof *call);
    settle_all(call, take);
}

static void test_take_and_settle(void **state)
{
    open_rig(state);
    uint64_t queue = 0, group = 0;
    struct peer *maker = peer_new(0, "m");
    assert_int_equal(queue_make(maker, "orders", &queue), STATUS_OK);
    assert_int_equal(group_make(maker, queue, "g", false, &group), STATUS_OK);
    publish_to_queue(maker, "orders", 0, 100);
    await_answers(maker, 100);
    bool seen[100] = {false};
    static struct take_call take;
    static struct group_settle_call settle;
    uint32_t total = 0;
    for (unsigned i = 0; total < 100; i++) {
        struct peer *peer = peer_new(i, "c");
        take_begin(&take, peer, group, 1000);
        rig_await(&take.done);
        assert_int_equal(take.status, STATUS_OK);
        assert_true(take.take.count > 0);
        for (uint32_t k = 0; k < take.take.count; k++) {
            struct record record;
            batch_record(take.items[k].batch, take.items[k].index, &record);
            assert_false(seen[record.offset]);
            seen[record.offset] = true;
        }
        total += take.take.count;
        settle_begin(&settle, &take);
        rig_await(&settle.done);
        assert_int_equal(settle.status, STATUS_OK);
        for (uint32_t k = 0; k < settle.settle.count; k++)
            assert_int_equal(settle.results[k], STATUS_OK);
        peer_close(peer);
    }
    /* Nothing is left: a take waits, and ends when it is canceled. */
    for (unsigned i = 0; i < 3; i++) {
        struct peer *peer = peer_new(i, "c");
        take_begin(&take, peer, group, 60000);
        rig_calm();
        assert_false(atomic_load(&take.done));
        on(peer->worker, take_cancel_run, &take);
        rig_await(&take.done);
        assert_int_equal(take.status, STATUS_CANCELED);
        peer_close(peer);
    }
    /* A record that comes meets a take that waits. */
    struct peer *peer = peer_new(2, "c");
    take_begin(&take, peer, group, 60000);
    publish_to_queue(maker, "orders", 100, 1);
    rig_await(&take.done);
    assert_int_equal(take.take.count, 1);
    settle_begin(&settle, &take);
    rig_await(&settle.done);

    /* The queue goes while one waits. */
    take_begin(&take, peer, group, 60000);
    assert_int_equal(by_id(maker, ADMIN_QUEUE_DELETE, queue), STATUS_OK);
    rig_await(&take.done);
    assert_int_equal(take.status, STATUS_NOT_FOUND);
    peer_close(peer);
    peer_close(maker);
    rig_close();
}

/* Calls to a group that are rare. */
struct group_call {
    union {
        struct group_seek seek;
        struct group_redrive redrive;
        struct group_explain explain;
        struct request request;
    };
    struct peer *peer;
    uint64_t group;
    void (*call)(struct group_call *call, const struct group_spec *group);
    atomic_bool done;
    enum status status;
};

static void group_call_done(struct request *request, enum status status)
{
    struct group_call *call = container_of(request, struct group_call, request);
    call->status = status;
    atomic_store(&call->done, true);
}

static void group_call_run(void *context)
{
    struct group_call *call = context;
    const struct group_spec *group =
        catalog_group(broker_catalog(call->peer->client.worker), call->group);
    CHECK(group != NULL);
    call->call(call, group);
}

static enum status group_call(struct group_call *call, struct peer *peer, uint64_t group)
{
    call->peer = peer;
    call->group = group;
    request_init(&call->request, rig.loops[peer->worker], group_call_done);
    on(peer->worker, group_call_run, call);
    rig_await(&call->done);
    return call->status;
}

static void call_seek(struct group_call *call, const struct group_spec *group)
{
    broker_seek(&call->peer->client, group, &call->seek);
}

static void call_redrive(struct group_call *call, const struct group_spec *group)
{
    broker_redrive(&call->peer->client, group, &call->redrive);
}

static void call_explain(struct group_call *call, const struct group_spec *group)
{
    broker_explain(&call->peer->client, group, &call->explain);
}

static enum record_fate fate_of(struct peer *peer, uint64_t group, uint64_t partition,
                                uint64_t offset)
{
    struct group_call call = {.explain = {.partition = partition, .offset = offset},
                              .call = call_explain};
    assert_int_equal(group_call(&call, peer, group), STATUS_OK);
    return call.explain.fate;
}

/* A living queue begins to keep dead letters; one goes there and comes back. */
static void test_queue_changes(void **state)
{
    open_rig(state);
    uint64_t queue = 0, group = 0;
    struct peer *maker = peer_new(0, "m"), *peer = peer_new(2, "c");
    assert_int_equal(queue_make(maker, "orders", &queue), STATUS_OK);
    assert_int_equal(group_make(maker, queue, "g", false, &group), STATUS_OK);
    assert_int_equal(
        administer(maker,
                   (struct broker_admin){.action = ADMIN_QUEUE_CHANGE,
                                         .id = queue,
                                         .fields = QUEUE_FIELD_REDRIVE | QUEUE_FIELD_DESCRIPTION,
                                         .description = "changed",
                                         .redrive = true,
                                         .max_consume_count = 5},
                   NULL),
        STATUS_OK);
    assert_int_equal(by_id(maker, ADMIN_QUEUE_CHANGE, 999), STATUS_NOT_FOUND);
    uint64_t partition = find(maker, "orders").first_partition;
    static struct take_call take;
    static struct group_settle_call settle;
    for (unsigned round = 0; round < 2; round++) {
        publish_to_queue(maker, "orders", round, 1);
        await_answers(maker, 1);
        take_begin(&take, peer, group, 5000);
        rig_await(&take.done);
        assert_int_equal(take.take.count, 1);
        memset(&settle, 0, sizeof settle);
        settle.settle.outcome = SETTLE_REJECTED;
        settle_all(&settle, &take);
        rig_await(&settle.done);
        assert_int_equal(settle.status, STATUS_OK);
        assert_int_equal(settle.results[0], STATUS_OK);
        do /* the move itself is nobody's to wait for */
            rig_calm();
        while (fate_of(maker, group, partition, round) != RECORD_DEAD_LETTERED);
        if (round == 0) { /* across a restart, too */
            peer_close(peer);
            peer_close(maker);
            broker_fall();
            broker_bury();
            broker_rise(*(unsigned *)*state);
            maker = peer_new(0, "m");
            peer = peer_new(2, "c");
        }
    }
    take_begin_dead(&take, peer, group, 5000);
    rig_await(&take.done);
    assert_int_equal(take.take.count, 2);
    assert_int_equal(dead_partition_group(take.items[0].receipt.partition), group);
    memset(&settle, 0, sizeof settle);
    settle.settle.outcome = SETTLE_RELEASED;
    settle_all(&settle, &take);
    rig_await(&settle.done);
    struct group_call redrive = {.redrive = {.all = true}, .call = call_redrive};
    assert_int_equal(group_call(&redrive, maker, group), STATUS_OK);
    uint32_t back = 0;
    while (back < 2) {
        take_begin(&take, peer, group, 5000);
        rig_await(&take.done);
        assert_true(take.take.count > 0);
        back += take.take.count;
        settle_begin(&settle, &take);
        rig_await(&settle.done);
    }
    struct group_call seek = {.seek = {.to = SEEK_EARLIEST}, .call = call_seek};
    assert_int_equal(group_call(&seek, peer, group), STATUS_OK);
    assert_int_equal(fate_of(peer, group, partition, 0), RECORD_AVAILABLE);
    peer_close(peer);
    peer_close(maker);
    rig_close();
}

/* ------------------------------------------------ the end and the return */

/* Appends, takes, settlements, changes and logins under way when the end begins: all are
 * answered before the clients are told to go. */
static void test_end_answers_everything(void **state)
{
    open_rig(state);
    uint64_t queue = 0, group = 0;
    struct peer *maker = peer_new(0, "m"), *reader = peer_new(1, "r"), *waiter = peer_new(2, "w");
    assert_int_equal(queue_make(maker, "orders", &queue), STATUS_OK);
    assert_int_equal(group_make(maker, queue, "g", false, &group), STATUS_OK);
    publish_to_queue(maker, "orders", 0, 10);
    static struct take_call take, waiting;
    static struct group_settle_call settle;
    take_begin(&take, reader, group, 1000);
    rig_await(&take.done);
    uint32_t taken = take.take.count;
    take_begin(&waiting, waiter, group, 0);
    rig_await(&waiting.done); /* the rest, if any */
    for (uint32_t i = 0; i < waiting.take.count; i++)
        batch_unref(waiting.items[i].batch);
    take_begin(&waiting, waiter, group, 60000);

    publish_many(maker, "t/1", GUARANTEE_AT_LEAST_ONCE, 10, 500);
    settle_begin(&settle, &take);
    struct admin_call change = {
        .admin = {.action = ADMIN_QUEUE_CREATE, .name = span_from_text("late")}};
    admin_begin(reader, &change);
    struct admin_call user = {.admin = {.action = ADMIN_USER_SET,
                                        .name = span_from_text("root"),
                                        .password = span_from_text("secret")}};
    admin_begin(reader, &user);
    broker_fall();
    assert_true(settle.done && waiting.done && change.done && user.done);
    assert_int_equal(settle.status, STATUS_OK);
    for (uint32_t i = 0; i < taken; i++)
        assert_int_equal(settle.results[i], STATUS_OK);
    assert_true(waiting.status == STATUS_SHUTTING_DOWN || waiting.status == STATUS_OK);
    for (uint32_t i = 0; i < waiting.take.count; i++)
        batch_unref(waiting.items[i].batch);
    assert_int_equal(maker->answer_count, 510);
    for (uint32_t i = 0; i < 510; i++)
        assert_int_equal(maker->answers[i].status, STATUS_OK);
    assert_true(maker->ended && reader->ended && waiter->ended);
    queue_unref(change.admin.queue);
    peer_free(maker);
    peer_free(reader);
    peer_free(waiter);
    offload_close();
    rig.storage->ops->close(rig.storage);
    broker_bury();
}

/* A group that was made, read and left: what was settled stays settled. */
static void test_return(void **state)
{
    unsigned workers = *(unsigned *)*state;
    rig_open(workers);
    uint64_t first = 0, second = 0, group = 0, third = 0;
    struct peer *peer = peer_new(0, "p");
    assert_int_equal(queue_make(peer, "first", &first), STATUS_OK);
    assert_int_equal(queue_make(peer, "second", &second), STATUS_OK);
    assert_int_equal(group_make(peer, first, "g", false, &group), STATUS_OK);
    assert_int_equal(route_set(peer, "a/#", first), STATUS_OK);
    struct find_call gone = find(peer, "second");
    assert_int_equal(by_id(peer, ADMIN_QUEUE_DELETE, second), STATUS_OK);
    publish_many(peer, "a/1", GUARANTEE_AT_LEAST_ONCE, 0, 20);
    await_answers(peer, 20);
    static struct take_call take;
    static struct group_settle_call settle;
    for (uint32_t taken = 0; taken < 20; taken += take.take.count) {
        take_begin(&take, peer, group, 1000);
        rig_await(&take.done);
        settle_begin(&settle, &take);
        rig_await(&settle.done);
        assert_int_equal(settle.status, STATUS_OK);
    }
    broker_fall();
    peer_free(peer);
    broker_bury();

    broker_rise(workers % 3 + 1); /* nothing stored depends on the number of workers */
    peer = peer_new(0, "p");
    assert_int_equal(find(peer, "first").id, first);
    assert_int_equal(find(peer, "second").id, 0);
    publish_many(peer, "a/1", GUARANTEE_AT_LEAST_ONCE, 20, 1);
    await_answers(peer, 1);
    assert_int_equal(peer->answers[0].partition, find(peer, "first").first_partition);
    assert_int_equal(peer->answers[0].offset, 20);
    take_begin(&take, peer, group, 5000);
    rig_await(&take.done);
    assert_int_equal(take.take.count, 1);
    assert_int_equal(take.items[0].receipt.offset, 20);
    batch_unref(take.items[0].batch);
    assert_int_equal(queue_make(peer, "third", &third), STATUS_OK);
    assert_true(third > second && third > group);
    assert_true(find(peer, "third").first_partition >= gone.first_partition + gone.partitions);
    peer_close(peer);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_logins),
        BOTH(test_close_during_login),
        BOTH(test_certificate_login),
        BOTH(test_late_id_and_own_group),
        BOTH(test_grants),
        BOTH(test_removed_user),
        BOTH(test_long_grants),
        BOTH(test_queues_and_groups),
        BOTH(test_queue_limit),
        BOTH(test_route_moves_topics),
        BOTH(test_route_change_keeps_order),
        cmocka_unit_test(test_route_change_is_a_barrier),
        BOTH(test_changes_of_clients_that_go),
        BOTH(test_take_and_settle),
        BOTH(test_queue_changes),
        BOTH(test_end_answers_everything),
        BOTH(test_return),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
