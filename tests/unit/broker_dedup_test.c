/* SPDX-License-Identifier: Apache-2.0 */
/* Duplicates through the broker, on one worker and on three: by key from several workers at once,
 * by a producer's numbers, among records without an id, after a restart, and what is refused. */
#include "tests/unit/broker_rig.h"

#include "core/log/table.h"

static void publish(struct peer *peer, const char *queue, const char *topic, uint32_t number,
                    struct publish publish)
{
    publish.answer = true;
    publish.guarantee = GUARANTEE_AT_LEAST_ONCE;
    if (topic != NULL)
        publish.topic = span_from_text(topic);
    struct publish_call call = {
        .peer = peer, .publish = publish, .queue = queue, .first = number, .count = 1};
    on(peer->worker, publish_call_run, &call);
}

static void publish_keyed(struct peer *peer, const char *queue, uint32_t number, const char *id)
{
    publish(peer, queue, NULL, number, (struct publish){.dedup_id = span_from_text(id)});
}

static void publish_numbered(struct peer *peer, const char *queue, uint32_t number,
                             const char *producer, int32_t epoch, int32_t sequence)
{
    publish(peer, queue, NULL, number,
            (struct publish){.producer = span_from_text(producer),
                             .producer_epoch = epoch,
                             .sequence = sequence});
}

static uint64_t queue_with(struct peer *peer, const char *name, struct broker_admin admin)
{
    uint64_t id = 0;
    admin.action = ADMIN_QUEUE_CREATE;
    admin.name = span_from_text(name);
    assert_int_equal(administer(peer, admin, &id), STATUS_OK);
    return id;
}

struct stat_call {
    const char *queue;
    uint64_t records, pending;
};

static void stat_run(void *context)
{
    struct stat_call *call = context;
    const struct queue *queue = catalog_queue_by_text(broker_catalog(broker_worker(rig.broker, 0)),
                                                      TENANT_DEFAULT, span_from_text(call->queue));
    CHECK(queue != NULL);
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        call->records += atomic_load(&queue->stat->partitions[i].end);
        call->pending += atomic_load(&queue->stat->partitions[i].pending_records) +
                         atomic_load(&queue->stat->partitions[i].pending_bytes);
    }
}

static struct stat_call stat_of(const char *queue)
{
    struct stat_call call = {.queue = queue};
    on(0, stat_run, &call);
    return call;
}

static void assert_same(const struct seen_answer *a, const struct seen_answer *b)
{
    assert_int_equal(a->status, STATUS_OK);
    assert_int_equal(b->status, STATUS_OK);
    assert_int_equal(a->partition, b->partition);
    assert_int_equal(a->offset, b->offset);
}

/* The same ids from three clients at once, in different orders. */
static void test_keyed(void **state)
{
    enum { PEERS = 3, IDS = 100 };
    rig_open(*(unsigned *)*state);
    struct peer *peers[PEERS];
    for (uint32_t i = 0; i < PEERS; i++)
        peers[i] = peer_new(i, "p");
    queue_with(peers[0], "q", (struct broker_admin){.partitions = 4});
    int64_t duplicates = rig_metric("duplicate_records_total", "");
    for (uint32_t i = 0; i < IDS; i++)
        for (uint32_t k = 0; k < PEERS; k++) {
            char id[16];
            uint32_t number = k % 2 == 0 ? i : IDS - 1 - i;
            snprintf(id, sizeof id, "id-%u", number);
            publish_keyed(peers[k], "q", number, id);
        }
    const struct seen_answer *by_number[PEERS][IDS];
    for (uint32_t k = 0; k < PEERS; k++) {
        await_answers(peers[k], IDS);
        for (uint32_t i = 0; i < IDS; i++)
            by_number[k][peers[k]->answers[i].token] = &peers[k]->answers[i];
    }
    for (uint32_t i = 0; i < IDS; i++)
        for (uint32_t k = 1; k < PEERS; k++)
            assert_same(by_number[0][i], by_number[k][i]);
    assert_int_equal(stat_of("q").records, IDS);
    assert_int_equal(rig_metric("duplicate_records_total", "") - duplicates, (PEERS - 1) * IDS);
    for (uint32_t k = 0; k < PEERS; k++)
        peer_close(peers[k]);
    rig_close();
}

/* What goes to a partition without an id stays in its place between records with one. */
static void test_order(void **state)
{
    enum { RECORDS = 200 };
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "p"), *subscriber = peer_new(1, "s");
    assert_int_equal(peer_subscribe(subscriber, "t", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    for (uint32_t i = 0; i < RECORDS; i++) {
        char id[16];
        snprintf(id, sizeof id, "%u", i);
        struct publish with = {.dedup_id = span_from_text(id)};
        publish(peer, NULL, "t", i, i % 3 == 0 ? with : (struct publish){0});
        if (i % 9 == 0)
            publish(peer, NULL, "t", i, with);
    }
    await_records(subscriber, RECORDS);
    rig_calm();
    assert_int_equal(peer_look(subscriber).records, RECORDS);
    for (uint32_t i = 0; i < RECORDS; i++)
        assert_int_equal(number_of(subscriber->records[i].value), i);
    peer_close(peer);
    peer_close(subscriber);
    rig_close();
}

struct turn {
    struct peer *peer;
    const struct publish *publishes;
    uint32_t count;
};

static void turn_run(void *context)
{
    const struct turn *turn = context;
    for (uint32_t i = 0; i < turn->count; i++) {
        struct publish_call call = {.peer = turn->peer,
                                    .publish = turn->publishes[i],
                                    .queue = "q",
                                    .first = i,
                                    .count = 1};
        call.publish.answer = true;
        publish_call_run(&call);
    }
}

/* In one batch: records with and without ids, parts of one id, the same one twice. */
static void test_mixed(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    queue_with(peer, "q", (struct broker_admin){.partitions = 1});
    struct span id = span_from_text("one");
    const struct publish publishes[] = {
        [2] = {.dedup_id = id},
        [3] = {.dedup_id = id, .dedup_part = 1},
        [5] = {.dedup_id = id},
        [6] = {.key = {0}},
    };
    struct turn turn = {peer, publishes, 7};
    on(peer->worker, turn_run, &turn);
    await_answers(peer, 7);
    for (uint32_t i = 0; i < 7; i++)
        assert_int_equal(peer->answers[i].token, i);
    assert_same(&peer->answers[2], &peer->answers[5]);
    assert_int_equal(peer->answers[2].offset, 2);
    assert_int_equal(peer->answers[3].offset, 3);
    assert_int_equal(peer->answers[6].offset, 5);
    assert_int_equal(stat_of("q").records, 6);
    peer_close(peer);
    rig_close();
}

static void test_numbered(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    queue_with(peer, "q", (struct broker_admin){.partitions = 4});
    const struct {
        int32_t epoch, sequence;
        enum status status;
        uint64_t offset;
    } steps[] = {
        {0, 0, STATUS_OK, 0}, {0, 1, STATUS_OK, 1},           {0, 1, STATUS_OK, 1},
        {0, 0, STATUS_OK, 0}, {0, 3, STATUS_OUT_OF_RANGE, 0}, {0, 2, STATUS_OK, 2},
        {1, 0, STATUS_OK, 3}, {0, 3, STATUS_STALE, 0},        {1, 1, STATUS_OK, 4},
    };
    enum { STEPS = sizeof steps / sizeof *steps };
    for (uint32_t i = 0; i < STEPS; i++)
        publish_numbered(peer, "q", i, "ann", steps[i].epoch, steps[i].sequence);
    publish_numbered(peer, "q", STEPS, "ben", 0, 7);
    await_answers(peer, STEPS + 1);
    for (uint32_t i = 0; i < STEPS; i++) {
        assert_int_equal(peer->answers[i].token, i);
        assert_int_equal(peer->answers[i].status, steps[i].status);
        if (steps[i].status == STATUS_OK)
            assert_int_equal(peer->answers[i].offset, steps[i].offset);
    }
    assert_int_equal(stat_of("q").records, 6);
    /* Numbers count in each topic for itself. */
    for (uint32_t i = 0; i < 6; i++)
        publish(peer, NULL, i % 2 == 0 ? "a" : "b", i,
                (struct publish){.producer = span_from_text("ann"), .sequence = (int32_t)i / 2});
    await_answers(peer, STEPS + 7);
    for (uint32_t i = STEPS + 1; i < STEPS + 7; i++)
        assert_int_equal(peer->answers[i].status, STATUS_OK);
    assert_int_equal(stat_of("mqtt").records, 6);
    peer_close(peer);
    rig_close();
}

static void test_refused(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    queue_with(peer, "q", (struct broker_admin){.partitions = 2});
    static char longest[LIMIT_DEDUP_ID + 1];
    memset(longest, 'x', sizeof longest);
    struct span id = span_from_text("id");
    const struct {
        struct publish publish;
        enum status status;
    } cases[] = {
        {{.dedup_id = id, .producer = id}, STATUS_INVALID},
        {{.producer = id, .delay_ms = 10}, STATUS_INVALID},
        {{.producer = id, .key = id}, STATUS_INVALID},
        {{.dedup_id = span_of(longest, 0)}, STATUS_INVALID},
        {{.dedup_id = span_of(longest, sizeof longest)}, STATUS_TOO_LARGE},
        {{.producer = span_of(longest, sizeof longest)}, STATUS_TOO_LARGE},
        {{.producer = id, .sequence = -1}, STATUS_INVALID},
        {{.producer = id, .producer_epoch = -1}, STATUS_INVALID},
        {{.producer = id, .producer_epoch = INT16_MAX + 1}, STATUS_INVALID},
        {{.dedup_id = span_of(longest, LIMIT_DEDUP_ID)}, STATUS_OK},
        {{.dedup_id = id, .key = id}, STATUS_OK},
        {{.producer = span_of(longest, LIMIT_DEDUP_ID), .sequence = INT32_MAX}, STATUS_OK},
    };
    enum { CASES = sizeof cases / sizeof *cases };
    for (uint32_t i = 0; i < CASES; i++)
        publish(peer, "q", NULL, i, cases[i].publish);
    await_answers(peer, CASES);
    for (uint32_t i = 0; i < CASES; i++) {
        assert_int_equal(peer->answers[i].token, i);
        assert_int_equal(peer->answers[i].status, cases[i].status);
    }
    assert_int_equal(stat_of("q").records, 3);
    peer_close(peer);
    rig_close();
}

/* Delayed ones from three clients at once, then the same not delayed, and from one that is new. */
static void test_delayed(void **state)
{
    enum { PEERS = 3, IDS = 50, TIMES = 2 };
    rig_open(*(unsigned *)*state);
    struct peer *peers[PEERS];
    for (uint32_t k = 0; k < PEERS; k++)
        peers[k] = peer_new(k, "p");
    uint64_t queue = queue_with(peers[0], "q", (struct broker_admin){.partitions = 2});
    for (uint32_t time = 0; time < TIMES; time++) {
        for (uint32_t i = 0; i < IDS; i++)
            for (uint32_t k = 0; k < PEERS; k++) {
                char id[16];
                snprintf(id, sizeof id, "id-%u", i);
                publish(peers[k], "q", NULL, i,
                        (struct publish){.dedup_id = i % 5 == 0 && k != 1 ? (struct span){0}
                                                                          : span_from_text(id),
                                         .delay_ms = time == 0 ? 600000 : k * 1000});
            }
        for (uint32_t k = 0; k < PEERS; k++)
            await_answers(peers[k], (time + 1) * IDS);
    }
    for (uint32_t i = 0; i < IDS; i++)
        for (uint32_t n = 0; n < PEERS * TIMES; n++)
            if (i % 5 != 0 || n % PEERS == 1)
                assert_same(&peers[1]->answers[i], &peers[n % PEERS]->answers[n / PEERS * IDS + i]);
    struct broker_admin delete = {.action = ADMIN_QUEUE_DELETE, .id = queue};
    publish(peers[2], "q", NULL, 0,
            (struct publish){.dedup_id = span_from_text("last"), .delay_ms = 5});
    assert_int_equal(administer(peers[0], delete, NULL), STATUS_OK);
    await_answers(peers[2], TIMES * IDS + 1);
    for (uint32_t k = 0; k < PEERS; k++)
        peer_close(peers[k]);
    rig_close();
}

/* Duplicates take no room in a queue that refuses when it is full, and leave none behind. */
static void test_full_queue(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    queue_with(
        peer, "q",
        (struct broker_admin){.overflow = OVERFLOW_REFUSE, .max_records = 10, .partitions = 1});
    for (uint32_t i = 0; i < 100; i++) {
        publish_keyed(peer, "q", i, i % 2 == 0 ? "even" : "odd");
        await_answers(peer, i + 1);
    }
    for (uint32_t i = 0; i < 100; i++)
        assert_same(&peer->answers[i % 2], &peer->answers[i]);
    assert_int_equal(stat_of("q").records, 2);
    assert_int_equal(stat_of("q").pending, 0);
    peer_close(peer);
    rig_close();
}

struct rows_call {
    struct storage_scan scan;
    struct waiter waiter;
    uint8_t first[1], end[1];
};

static void rows_done(struct request *request, enum status status)
{
    struct storage_scan *scan = container_of(request, struct storage_scan, request);
    struct rows_call *call = container_of(scan, struct rows_call, scan);
    CHECK(status == STATUS_OK);
    blob_unref(scan->rows);
    waiter_done(&call->waiter.request, status);
}

static void rows_run(void *context)
{
    struct rows_call *call = context;
    call->first[0] = TABLE_DEDUP;
    call->end[0] = TABLE_DEDUP + 1;
    call->scan = (struct storage_scan){
        .first = span_of(call->first, 1), .end = span_of(call->end, 1), .limit = 100000};
    request_init(&call->scan.request, rig.loops[0], rows_done);
    rig.storage->ops->scan(rig.storage, &call->scan);
}

static uint32_t rows_stored(void)
{
    struct rows_call call = {0};
    on(0, rows_run, &call);
    rig_await(&call.waiter.done);
    return call.scan.count;
}

static void test_return(void **state)
{
    unsigned workers = *(unsigned *)*state;
    rig_open(workers);
    struct peer *peer = peer_new(0, "p");
    queue_with(peer, "q", (struct broker_admin){.partitions = 8});
    uint64_t doomed = queue_with(peer, "doomed", (struct broker_admin){.partitions = 2});
    struct seen_answer first[30];
    for (uint32_t i = 0; i < 30; i++) {
        char id[16];
        snprintf(id, sizeof id, "%u", i);
        publish_keyed(peer, "q", i, id);
        publish_numbered(peer, "doomed", 100 + i, id, 0, (int32_t)i);
    }
    await_answers(peer, 60);
    for (uint32_t i = 0; i < 60; i++)
        if (peer->answers[i].token < 100)
            first[peer->answers[i].token] = peer->answers[i];
    uint32_t keyed = rows_stored() - 30; /* keys of one append share a row */
    assert_in_range(keyed, 1, 30);
    broker_fall();
    peer_free(peer);
    broker_bury();
    broker_rise(workers % 3 + 1);
    peer = peer_new(0, "p");
    for (uint32_t i = 0; i < 30; i++) {
        char id[16];
        snprintf(id, sizeof id, "%u", i);
        publish_keyed(peer, "q", i, id);
        await_answers(peer, i + 1);
        assert_same(&first[i], &peer->answers[i]);
    }
    assert_int_equal(stat_of("q").records, 30);
    assert_int_equal(
        administer(peer, (struct broker_admin){.action = ADMIN_QUEUE_DELETE, .id = doomed}, NULL),
        STATUS_OK);
    await(rows_stored() == keyed);
    peer_close(peer);
    rig_close();
}

/* The window of a living queue. */
static void test_window(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    uint64_t queue = queue_with(peer, "q", (struct broker_admin){.partitions = 1});
    publish_keyed(peer, "q", 0, "a");
    await_answers(peer, 1);
    struct broker_admin change = {
        .action = ADMIN_QUEUE_CHANGE, .id = queue, .fields = QUEUE_FIELD_DEDUP_MS, .dedup_ms = 1};
    assert_int_equal(administer(peer, change, NULL), STATUS_OK);
    await(rows_stored() == 0);
    publish_keyed(peer, "q", 1, "a");
    await_answers(peer, 2);
    assert_int_equal(peer->answers[1].status, STATUS_OK);
    assert_int_equal(peer->answers[1].offset, 1);
    peer_close(peer);
    rig_close();
}

/* Everybody is answered at the end, and what was answered is there. */
static void test_end(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "p");
    for (uint32_t i = 0; i < 50; i++) {
        char id[16];
        snprintf(id, sizeof id, "%u", i / 2);
        publish(peer, NULL, i % 3 == 0 ? "x/1" : "y/2", i,
                i % 5 == 0 ? (struct publish){0}
                           : (struct publish){.dedup_id = span_from_text(id)});
    }
    broker_fall();
    assert_int_equal(peer->answer_count, 50);
    peer_free(peer);
    broker_bury();
    broker_rise(1);
    rig_close();
}

static struct peer *user_new(unsigned worker, const char *user)
{
    struct peer *peer = peer_connect(worker);
    assert_int_equal(peer_login(peer, user, "secret", user), STATUS_OK);
    return peer;
}

/* One user's ids leave room for another's. */
static void test_share(void **state)
{
    enum { LIMIT = 10 };
    rig_open(*(unsigned *)*state);
    broker_fall();
    broker_bury();
    rig.options.dedup_key_limit = LIMIT;
    broker_rise(*(unsigned *)*state);
    struct peer *first = peer_new(0, "first");
    assert_int_equal(user_make(first, "a", "secret"), STATUS_OK);
    await(peer_look(first).ended); /* now there are users */
    peer_free(first);
    struct peer *a = user_new(0, "a");
    queue_with(a, "q", (struct broker_admin){.partitions = 1});
    assert_int_equal(user_make(a, "b", "secret"), STATUS_OK);
    assert_int_equal(grants_set(a, "b", "publish", "queue:q"), STATUS_OK);
    struct peer *b = user_new(1, "b");
    for (uint32_t i = 0; i < LIMIT; i++) {
        char id[16];
        snprintf(id, sizeof id, "a-%u", i);
        publish_keyed(a, "q", i, id);
    }
    await_answers(a, LIMIT);
    for (uint32_t i = 0; i < LIMIT; i++)
        assert_int_equal(a->answers[i].status, i < LIMIT / 2 ? STATUS_OK : STATUS_OVER_QUOTA);
    publish_keyed(b, "q", 0, "b");
    await_answers(b, 1);
    assert_int_equal(b->answers[0].status, STATUS_OK);
    peer_close(a);
    peer_close(b);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_keyed),    BOTH(test_delayed), BOTH(test_order),      BOTH(test_mixed),
        BOTH(test_numbered), BOTH(test_refused), BOTH(test_full_queue), BOTH(test_return),
        BOTH(test_window),   BOTH(test_share),   BOTH(test_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
