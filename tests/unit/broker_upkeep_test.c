/* SPDX-License-Identifier: Apache-2.0 */
/* Full queues, purge and backup, through the broker, on one worker and on three. */
#include "tests/unit/broker_rig.h"

static uint64_t limited_queue(struct peer *peer, uint64_t max_records, enum overflow overflow)
{
    uint64_t id = 0;
    struct broker_admin admin = {
        .action = ADMIN_QUEUE_CREATE,
        .name = span_from_text("limited"),
        .partitions = 3,
        .overflow = overflow,
        .max_records = max_records,
    };
    assert_int_equal(administer(peer, admin, &id), STATUS_OK);
    return id;
}

struct counts {
    struct peer *peer;
    uint32_t stored, refused, others;
    uint64_t queue, group; /* ids to look at */
    uint64_t records, backlog, lost;
};

static void counts_run(void *context)
{
    struct counts *counts = context;
    const struct peer *peer = counts->peer;
    for (uint32_t i = 0; i < peer->answer_count; i++) {
        counts->stored += peer->answers[i].status == STATUS_OK;
        counts->refused += peer->answers[i].status == STATUS_OVER_QUOTA;
    }
    counts->others = peer->answer_count - counts->stored - counts->refused;
    const struct catalog *catalog = broker_catalog(peer->client.worker);
    const struct queue *queue = catalog_queue(catalog, counts->queue);
    for (uint32_t i = 0; queue != NULL && i < queue->partition_count; i++)
        counts->records += atomic_load(&queue->stat->partitions[i].end) -
                           atomic_load(&queue->stat->partitions[i].start);
    const struct group_spec *group = catalog_group(catalog, counts->group);
    if (group == NULL)
        return;
    counts->backlog = atomic_load(&group->stat->backlog);
    counts->lost = atomic_load(&group->stat->lost);
}

static struct counts count(struct peer *peer, uint64_t queue, uint64_t group)
{
    struct counts counts = {.peer = peer, .queue = queue, .group = group};
    on(peer->worker, counts_run, &counts);
    return counts;
}

/* ------------------------------------------------ calls that the test waits for */

struct purge_call {
    struct broker_purge purge;
    atomic_bool done;
    enum status status;
};

static void purge_done(struct request *request, enum status status)
{
    struct purge_call *call = container_of(request, struct purge_call, purge.request);
    call->status = status;
    atomic_store(&call->done, true);
}

static void purge_run(void *context)
{
    struct purge_call *call = context;
    broker_purge(&call->purge);
}

static enum status purge(struct peer *peer, uint64_t queue, uint64_t *records)
{
    struct purge_call call = {.purge = {.client = &peer->client, .queue = queue}};
    request_init(&call.purge.request, rig.loops[peer->worker], purge_done);
    on(peer->worker, purge_run, &call);
    rig_await(&call.done);
    if (records != NULL)
        *records = call.purge.records;
    return call.status;
}

struct backup_call {
    struct broker_backup backup;
    atomic_bool done;
    enum status status;
};

static void backup_done(struct request *request, enum status status)
{
    struct backup_call *call = container_of(request, struct backup_call, backup.request);
    call->status = status;
    atomic_store(&call->done, true);
}

static void backup_run(void *context)
{
    struct backup_call *call = context;
    broker_backup(&call->backup);
}

static enum status backup(struct peer *peer, const char *directory)
{
    struct backup_call call = {
        .backup = {.client = &peer->client, .directory = span_from_text(directory)}};
    request_init(&call.backup.request, rig.loops[peer->worker], backup_done);
    on(peer->worker, backup_run, &call);
    rig_await(&call.done);
    return call.status;
}

/* Takes what is there and settles it as done. */
struct taking {
    struct peer *peer;
    uint64_t group;
    struct group_take take;
    struct group_item items[64];
    struct receipt receipts[64];
    enum status results[64];
    struct group_settle settle;
    atomic_bool done;
};

static void settled(struct request *request, enum status status)
{
    struct taking *taking = container_of(request, struct taking, settle.request);
    CHECK(status == STATUS_OK);
    atomic_store(&taking->done, true);
}

static void taken(struct request *request, enum status status)
{
    struct taking *taking = container_of(request, struct taking, take.request);
    CHECK(status == STATUS_OK);
    struct client *client = &taking->peer->client;
    for (uint32_t i = 0; i < taking->take.count; i++) {
        taking->receipts[i] = taking->items[i].receipt;
        batch_unref(taking->items[i].batch);
    }
    taking->settle = (struct group_settle){.receipts = taking->receipts,
                                           .outcome = SETTLE_DONE,
                                           .count = taking->take.count,
                                           .results = taking->results};
    request_init(&taking->settle.request, request->home, settled);
    broker_settle(client, catalog_group(broker_catalog(client->worker), taking->group),
                  &taking->settle);
}

static void taking_run(void *context)
{
    struct taking *taking = context;
    struct client *client = &taking->peer->client;
    taking->take = (struct group_take){.max_records = 64,
                                       .max_bytes = 1 << 20,
                                       .wait_ms = 1000,
                                       .lease_ms = 30000,
                                       .items = taking->items};
    request_init(&taking->take.request, rig.loops[taking->peer->worker], taken);
    broker_take(client, catalog_group(broker_catalog(client->worker), taking->group),
                &taking->take);
}

static uint32_t take_and_settle(struct peer *peer, uint64_t group)
{
    struct taking taking = {.peer = peer, .group = group};
    on(peer->worker, taking_run, &taking);
    rig_await(&taking.done);
    return taking.take.count;
}

/* ------------------------------------------------ tests */

static void test_full_queue_refuses(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *one = peer_new(0, "one"), *two = peer_new(1, "two");
    uint64_t queue = limited_queue(one, 40, OVERFLOW_REFUSE), group = 0;
    assert_int_equal(group_make(one, queue, "readers", false, &group), STATUS_OK);
    /* From two sides at once: never more than the limit. */
    for (uint32_t i = 0; i < 6; i++) {
        publish_to_queue(one, "limited", i * 5, 5);
        publish_to_queue(two, "limited", 1000 + i * 5, 5);
    }
    await_answers(one, 30);
    await_answers(two, 30);
    struct counts of_one = count(one, queue, group), of_two = count(two, queue, group);
    assert_int_equal(of_one.others + of_two.others, 0);
    assert_int_equal(of_one.stored + of_two.stored, 40);
    assert_int_equal(of_one.records, 40);
    /* What the only group has done makes room, within a second. */
    uint32_t done = 0;
    while (done < 40)
        done += take_and_settle(two, group);
    await(count(one, queue, group).records < 40);
    publish_to_queue(one, "limited", 100, 1);
    await_answers(one, 31);
    assert_int_equal(count(one, queue, group).stored, of_one.stored + 1);
    assert_int_equal(count(one, queue, group).lost, 0);
    peer_close(one);
    peer_close(two);
    rig_close();
}

static void test_topic_with_a_full_home(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "one");
    uint64_t queue = limited_queue(peer, 3, OVERFLOW_REFUSE);
    struct broker_admin route = {
        .action = ADMIN_ROUTE_SET, .name = span_from_text("full/#"), .id = queue};
    assert_int_equal(administer(peer, route, NULL), STATUS_OK);
    publish_many(peer, "full/a", GUARANTEE_AT_LEAST_ONCE, 0, 5);
    publish_many(peer, "other", GUARANTEE_AT_LEAST_ONCE, 5, 5);
    await_answers(peer, 10);
    assert_int_equal(count(peer, queue, 0).stored, 8);
    assert_int_equal(count(peer, queue, 0).refused, 2);
    /* A living queue gets another policy. */
    struct broker_admin change = {.action = ADMIN_QUEUE_CHANGE,
                                  .id = queue,
                                  .fields = QUEUE_FIELD_OVERFLOW,
                                  .overflow = OVERFLOW_DROP_OLDEST};
    assert_int_equal(administer(peer, change, NULL), STATUS_OK);
    publish_many(peer, "full/a", GUARANTEE_AT_LEAST_ONCE, 10, 5);
    await_answers(peer, 15);
    assert_int_equal(count(peer, queue, 0).refused, 2);
    await(count(peer, queue, 0).records == 3);
    peer_close(peer);
    rig_close();
}

static void test_purge(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "one");
    uint64_t queue = limited_queue(peer, 10, OVERFLOW_REFUSE), group = 0, records;
    assert_int_equal(group_make(peer, queue, "readers", false, &group), STATUS_OK);
    publish_to_queue(peer, "limited", 0, 12);
    await_answers(peer, 12);
    assert_int_equal(count(peer, queue, group).refused, 2);
    assert_int_equal(purge(peer, queue, &records), STATUS_OK);
    assert_int_equal(records, 10);
    struct counts counts = count(peer, queue, group);
    assert_int_equal(counts.records, 0);
    assert_int_equal(counts.backlog, 0);
    assert_int_equal(counts.lost, 0);
    publish_to_queue(peer, "limited", 12, 10);
    await_answers(peer, 22);
    assert_int_equal(count(peer, queue, group).refused, 2);
    assert_int_equal(purge(peer, 999, NULL), STATUS_NOT_FOUND);
    peer_close(peer);
    rig_close();
}

static void test_rights(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *maker = peer_new(0, "maker");
    uint64_t queue = limited_queue(maker, 10, OVERFLOW_DROP_OLDEST);
    assert_int_equal(user_make(maker, "root", "secret"), STATUS_OK);
    await(peer_look(maker).ended);
    peer_free(maker);
    struct peer *root = peer_connect(0), *user = peer_connect(1);
    assert_int_equal(peer_login(root, "root", "secret", "root"), STATUS_OK);
    assert_int_equal(user_make(root, "user", "other"), STATUS_OK);
    assert_int_equal(grants_set(root, "user", "publish,consume", "queue:*"), STATUS_OK);
    assert_int_equal(peer_login(user, "user", "other", "user"), STATUS_OK);
    assert_int_equal(purge(user, queue, NULL), STATUS_DENIED);
    assert_int_equal(backup(user, "/nowhere"), STATUS_DENIED);
    assert_int_equal(purge(root, queue, NULL), STATUS_OK);
    assert_int_equal(backup(root, "/nowhere"), STATUS_UNSUPPORTED);
    peer_close(root);
    peer_close(user);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define TEST(name) cmocka_unit_test_prestate(name, &one), cmocka_unit_test_prestate(name, &three)
    const struct CMUnitTest tests[] = {
        TEST(test_full_queue_refuses),
        TEST(test_topic_with_a_full_home),
        TEST(test_purge),
        TEST(test_rights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
