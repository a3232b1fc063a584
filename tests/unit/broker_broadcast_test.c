/* SPDX-License-Identifier: Apache-2.0 */
/* Broadcast groups: takes that make their consumer, and what may come between. */
#include "tests/unit/broker_rig.h"

enum { TAKE_MAX = 8 };

struct take_call {
    struct group_take take;
    struct group_item items[TAKE_MAX];
    struct peer *peer;
    uint64_t group;
    bool cancel; /* in the same turn */
    atomic_bool done;
    enum status status;
};

static void take_done(struct request *request, enum status status)
{
    struct take_call *call = container_of(request, struct take_call, take.request);
    CHECK(!call->done);
    call->status = status;
    for (uint32_t i = 0; i < call->take.count; i++)
        batch_unref(call->items[i].batch);
    atomic_store(&call->done, true);
}

static void take_run(void *context)
{
    struct take_call *call = context;
    struct client *client = &call->peer->client;
    const struct group_spec *group = catalog_group(broker_catalog(client->worker), call->group);
    CHECK(group != NULL);
    broker_take(client, group, &call->take);
    if (call->cancel)
        broker_take_cancel(client, group, &call->take);
}

static void take_start(struct take_call *call, struct peer *peer, uint64_t group,
                       const char *consumer, uint32_t wait_ms, bool cancel)
{
    memset(call, 0, sizeof *call);
    call->peer = peer;
    call->group = group;
    call->cancel = cancel;
    call->take.items = call->items;
    call->take.max_records = TAKE_MAX;
    call->take.max_bytes = 1 << 20;
    call->take.wait_ms = wait_ms;
    call->take.lease_ms = 30000;
    call->take.consumer = span_from_text(consumer);
    request_init(&call->take.request, rig.loops[peer->worker], take_done);
    on(peer->worker, take_run, call);
}

static enum status take(struct peer *peer, uint64_t group, const char *consumer, uint32_t *count)
{
    struct take_call call;
    take_start(&call, peer, group, consumer, 5000, false);
    rig_await(&call.done);
    *count = call.take.count;
    return call.status;
}

static uint64_t broadcast_group(struct peer *peer, uint64_t queue, const char *name)
{
    uint64_t id = 0;
    struct broker_admin admin = {.action = ADMIN_GROUP_CREATE,
                                 .id = queue,
                                 .name = span_from_text(name),
                                 .mode = GROUP_BROADCAST};
    assert_int_equal(administer(peer, admin, &id), STATUS_OK);
    return id;
}

static void test_consumers(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peers[2] = {peer_new(0, "p"), peer_new(1, "o")};
    uint64_t queue = 0;
    uint32_t count;
    assert_int_equal(queue_make(peers[0], "q", &queue), STATUS_OK);
    uint64_t group = broadcast_group(peers[0], queue, "g");
    publish_to_queue(peers[0], "q", 0, 3);
    await_answers(peers[0], 3);
    for (uint32_t i = 0; i < 6; i++) {
        char name[2] = {(char)('a' + i)};
        assert_int_equal(take(peers[i % 2], group, name, &count), STATUS_OK);
        assert_int_equal(count, 3);
    }
    assert_int_equal(take(peers[0], group, "", &count), STATUS_INVALID);
    assert_int_equal(take(peers[0], group, "no blanks", &count), STATUS_INVALID);
    /* Both at once. */
    struct take_call calls[2];
    for (uint32_t i = 0; i < 2; i++)
        take_start(&calls[i], peers[i], group, "same", 200, false);
    for (uint32_t i = 0; i < 2; i++)
        rig_await(&calls[i].done);
    assert_int_equal(calls[0].status, STATUS_OK);
    assert_int_equal(calls[1].status, STATUS_OK);
    assert_int_equal(calls[0].take.count + calls[1].take.count, 3);
    peer_close(peers[0]);
    peer_close(peers[1]);
    rig_close();
}

/* Canceled before there is a consumer; the group deleted meanwhile; the end. */
static void test_between(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    uint64_t queue = 0;
    assert_int_equal(queue_make(peer, "q", &queue), STATUS_OK);
    uint64_t group = broadcast_group(peer, queue, "g");
    struct take_call calls[3];
    take_start(&calls[0], peer, group, "a", 60000, true);
    rig_await(&calls[0].done);
    assert_int_equal(calls[0].status, STATUS_CANCELED);
    take_start(&calls[1], peer, group, "b", 60000, false);
    assert_int_equal(
        administer(peer, (struct broker_admin){.action = ADMIN_GROUP_DELETE, .id = group}, NULL),
        STATUS_OK);
    rig_await(&calls[1].done);
    assert_int_equal(calls[1].status, STATUS_NOT_FOUND);
    group = broadcast_group(peer, queue, "g");
    take_start(&calls[2], peer, group, "c", 60000, false);
    broker_fall();
    assert_true(calls[2].done);
    assert_int_equal(calls[2].status, STATUS_SHUTTING_DOWN);
    peer_free(peer);
    broker_bury();
    broker_rise(1);
    rig_close();
}

struct found {
    struct peer *peer;
    uint64_t queue;
    const char *name;
    uint64_t id; /* 0: there is none */
    struct group_stat *stat;
};

static void find_run(void *context)
{
    struct found *found = context;
    const struct group_spec *consumer = catalog_group_by_text(
        broker_catalog(found->peer->client.worker), found->queue, span_from_text(found->name));
    found->id = consumer == NULL ? 0 : consumer->id;
    found->stat = consumer == NULL ? NULL : consumer->stat;
}

/* Its deletion is on the way when it comes back: it stays. */
static void test_back_in_time(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "p");
    uint64_t queue = 0;
    uint32_t count;
    assert_int_equal(queue_make(peer, "q", &queue), STATUS_OK);
    uint64_t group = broadcast_group(peer, queue, "g");
    publish_to_queue(peer, "q", 0, 3);
    await_answers(peer, 3);
    assert_int_equal(take(peer, group, "a", &count), STATUS_OK);
    struct found found = {.peer = peer, .queue = queue, .name = "g/a"};
    on(0, find_run, &found);
    assert_int_not_equal(found.id, 0);
    struct broker_admin parting = {
        .action = ADMIN_GROUP_DELETE, .id = found.id, .if_expired = true};
    assert_int_equal(administer(peer, parting, NULL), STATUS_BUSY);
    atomic_store(&found.stat->overtaken, true); /* by retention, but it came a moment ago */
    assert_int_equal(administer(peer, parting, NULL), STATUS_BUSY);
    atomic_store(&found.stat->taken_ms, 1);
    assert_int_equal(administer(peer, parting, NULL), STATUS_OK);
    on(0, find_run, &found);
    assert_int_equal(found.id, 0);
    peer_close(peer);
    rig_close();
}

static void test_limit(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "p");
    uint64_t queue = 0;
    uint32_t count;
    assert_int_equal(queue_make(peer, "q", &queue), STATUS_OK);
    uint64_t group = broadcast_group(peer, queue, "g");
    struct take_call *calls = heap_array(LIMIT_GROUPS_PER_QUEUE, sizeof *calls);
    char names[LIMIT_GROUPS_PER_QUEUE][8];
    for (uint32_t i = 0; i < LIMIT_GROUPS_PER_QUEUE - 1; i++) {
        snprintf(names[i], sizeof names[i], "c%u", i);
        take_start(&calls[i], peer, group, names[i], 0, false);
    }
    for (uint32_t i = 0; i < LIMIT_GROUPS_PER_QUEUE - 1; i++) {
        rig_await(&calls[i].done);
        assert_int_equal(calls[i].status, STATUS_OK);
    }
    heap_free(calls);
    assert_int_equal(take(peer, group, "more", &count), STATUS_OVER_QUOTA);
    assert_int_equal(
        administer(peer, (struct broker_admin){.action = ADMIN_GROUP_DELETE, .id = group}, NULL),
        STATUS_OK);
    group = broadcast_group(peer, queue, "g");
    struct take_call again;
    take_start(&again, peer, group, "again", 0, false);
    rig_await(&again.done);
    assert_int_equal(again.status, STATUS_OK);
    peer_close(peer);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {BOTH(test_consumers), BOTH(test_between), BOTH(test_limit),
                                       BOTH(test_back_in_time)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
