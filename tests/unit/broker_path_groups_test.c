/* SPDX-License-Identifier: Apache-2.0 */
/* Through the whole broker, on one worker and on three: takes and settlements, changes of a queue
 * under its groups, the end and the return. */
#include "core/broker/worker.h"
#include "tests/unit/admin_rig.h"

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
    rig_open(*(unsigned *)*state);
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
    rig_open(*(unsigned *)*state);
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

struct groups_here {
    unsigned worker;
    uint64_t queue;
    size_t of_queue, all, queues;
};

static void groups_here_run(void *context)
{
    struct groups_here *here = context;
    const struct broker_worker *worker = broker_worker(rig.broker, here->worker);
    const struct queue_groups *groups =
        map_get(&worker->queue_groups, span_of(&here->queue, sizeof here->queue));
    here->all = worker->groups.count;
    here->queues = worker->queue_groups.count;
    if (groups == NULL)
        return;
    list_each(link, &groups->homes)
    {
        uint64_t id = container_of(link, struct home_group, link)->id;
        assert_int_equal(catalog_group(worker->catalog, id)->queue, here->queue);
        here->of_queue++;
    }
}

/* Over all workers. */
static struct groups_here groups_here(uint64_t queue)
{
    struct groups_here sum = {0};
    for (unsigned i = 0; i < rig.count; i++) {
        struct groups_here here = {.worker = i, .queue = queue};
        on(i, groups_here_run, &here);
        sum.of_queue += here.of_queue;
        sum.all += here.all;
        sum.queues += here.queues;
    }
    return sum;
}

/* What a batch looks at is its queue's groups, however many others there are; nothing is kept of a
 * queue whose groups have gone. */
static void test_groups_by_queue(void **state)
{
    enum { QUEUES = 40 };
    rig_open(*(unsigned *)*state);
    struct peer *maker = peer_new(0, "m");
    uint64_t queues[QUEUES], group = 0;
    for (unsigned i = 0; i < QUEUES; i++) {
        char name[16];
        snprintf(name, sizeof name, "q%u", i);
        assert_int_equal(queue_make(maker, name, &queues[i]), STATUS_OK);
        for (unsigned k = 0; k <= i % 3; k++) {
            snprintf(name, sizeof name, "g%u", k);
            assert_int_equal(group_make(maker, queues[i], name, false, &group), STATUS_OK);
        }
    }
    for (unsigned i = 0; i < QUEUES; i++)
        assert_int_equal(groups_here(queues[i]).of_queue, 1 + i % 3);
    assert_int_equal(by_id(maker, ADMIN_GROUP_DELETE, group), STATUS_OK);
    assert_int_equal(groups_here(queues[QUEUES - 1]).of_queue, (QUEUES - 1) % 3);
    for (unsigned i = 0; i < QUEUES; i++)
        assert_int_equal(by_id(maker, ADMIN_QUEUE_DELETE, queues[i]), STATUS_OK);
    assert_int_equal(groups_here(queues[0]).all, 0);
    assert_int_equal(groups_here(queues[0]).queues, 0);
    peer_close(maker);
    rig_close();
}

/* ------------------------------------------------ the end and the return */

/* Appends, takes, settlements, changes and logins under way when the end begins: all are
 * answered before the clients are told to go. */
static void test_end_answers_everything(void **state)
{
    rig_open(*(unsigned *)*state);
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
        BOTH(test_take_and_settle),        BOTH(test_queue_changes), BOTH(test_groups_by_queue),
        BOTH(test_end_answers_everything), BOTH(test_return),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
