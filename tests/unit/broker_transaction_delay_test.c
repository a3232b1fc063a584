/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed messages within transactions, on one worker and on three: they wait from the commit on,
 * or were never there, and are due as if they had been published when they were sent. */
#include <time.h>

#include "core/base/clock.h"
#include "tests/unit/holding.h"
#include "tests/unit/transaction_rig.h"

enum { HOUR_MS = 3600 * 1000, SOON_MS = 30 };

/* ------------------------------------------------ time */

static struct {
    atomic_uint_fast64_t ahead_ms;
} time_now;

static uint64_t test_monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec +
           atomic_load(&time_now.ahead_ms) * 1000000;
}

static int64_t test_wall(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000 + (int64_t)atomic_load(&time_now.ahead_ms);
}

static const struct clock_source test_clock = {test_monotonic, test_wall};

/* ------------------------------------------------ a scene */

static struct peer *maker;

static void make(const char *name, struct broker_admin admin)
{
    admin.action = ADMIN_QUEUE_CREATE;
    admin.name = span_from_text(name);
    assert_int_equal(administer(maker, admin, NULL), STATUS_OK);
}

static void scene_open(unsigned workers)
{
    atomic_store(&time_now.ahead_ms, 0);
    clock_use(&test_clock);
    rig_open(workers);
    maker = peer_new(0, "m");
    make("a", (struct broker_admin){.partitions = 4});
    make("b", (struct broker_admin){.partitions = 2});
}

static void scene_close(void)
{
    peer_close(maker);
    rig_close();
    clock_use(NULL);
}

/* One to each partition of both, and one more that does not wait. */
static void publish_both(struct deal *deal, uint64_t delay_ms)
{
    for (uint32_t i = 0; i < 8; i++) {
        char key = (char)('0' + i);
        struct publish how = {.key = span_of(&key, 1), .delay_ms = delay_ms};
        assert_int_equal(publish(deal, "a", i, 1, how), STATUS_OK);
        assert_int_equal(publish(deal, "b", i, 1, how), STATUS_OK);
    }
    assert_int_equal(publish(deal, "b", 100, 1, (struct publish){0}), STATUS_OK);
}

static void restart(unsigned workers)
{
    peer_close(maker);
    broker_fall();
    broker_bury();
    broker_rise(workers);
    maker = peer_new(0, "m");
}

static void test_commit(void **state)
{
    unsigned workers = *(unsigned *)*state;
    scene_open(workers);
    struct deal deal;
    assert_int_equal(begin(&deal, maker), STATUS_OK);
    publish_both(&deal, HOUR_MS);
    assert_holds("a", 0, 0);
    on(0, roll_back_run, &deal);
    assert_holds("a", 0, 0);
    assert_holds("b", 0, 0);
    assert_int_equal(begin(&deal, maker), STATUS_OK);
    publish_both(&deal, HOUR_MS);
    assert_int_equal(commit(&deal), STATUS_OK);
    assert_holds("a", 0, 8);
    assert_holds("b", 1, 8);
    assert_int_equal(begin(&deal, maker), STATUS_OK);
    publish_both(&deal, SOON_MS);
    assert_int_equal(commit(&deal), STATUS_OK);
    await(look_at("a").records == 8 && look_at("b").records == 10);
    restart(workers);
    await(look_at("a").delayed == 8 && look_at("b").delayed == 8);
    atomic_fetch_add(&time_now.ahead_ms, HOUR_MS);
    restart(workers);
    await(look_at("a").records == 16 && look_at("b").records == 18);
    assert_holds("a", 16, 0);
    assert_holds("b", 18, 0);
    scene_close();
}

/* An hour passes between the message and the commit. */
static void test_due_from_when_it_was_sent(void **state)
{
    scene_open(*(unsigned *)*state);
    struct deal deal;
    assert_int_equal(begin(&deal, maker), STATUS_OK);
    publish_both(&deal, HOUR_MS);
    atomic_fetch_add(&time_now.ahead_ms, HOUR_MS);
    assert_int_equal(publish(&deal, "a", 0, 1, (struct publish){.delay_ms = HOUR_MS}), STATUS_OK);
    assert_holds("a", 0, 0);
    assert_int_equal(commit(&deal), STATUS_OK);
    await(look_at("a").records == 8 && look_at("b").records == 9);
    assert_holds("a", 8, 1);
    scene_close();
}

/* Whatever part is refused, delayed or not: nothing of it waits, and its ids are free. */
static void refused(const char *queue, struct publish how, enum status at_commit)
{
    struct deal deal;
    struct look_call a = look_at("a"), b = look_at("b");
    assert_int_equal(begin(&deal, maker), STATUS_OK);
    publish_both(&deal, SOON_MS);
    assert_int_equal(publish(&deal, "a", 1, 1,
                             (struct publish){.dedup_id = span_from_text("once"), .delay_ms = 1}),
                     STATUS_OK);
    assert_int_equal(publish(&deal, queue, 1, 1, how), STATUS_OK);
    assert_int_equal(commit(&deal), at_commit);
    assert_holds("a", a.records, a.delayed);
    assert_holds("b", b.records, b.delayed);
}

static void test_refused(void **state)
{
    scene_open(*(unsigned *)*state);
    struct deal deal;
    make("stream", (struct broker_admin){.type = QUEUE_STREAM});
    make("full", (struct broker_admin){.overflow = OVERFLOW_REFUSE, .max_records = 1});
    publish_to_queue(maker, "full", 0, 1);
    await(look_at("full").records == 1);
    refused("stream", (struct publish){.delay_ms = 1}, STATUS_INVALID);
    refused("full", (struct publish){.delay_ms = 1}, STATUS_OVER_QUOTA);
    refused("full", (struct publish){0}, STATUS_OVER_QUOTA);
    refused(NULL, (struct publish){.topic = span_from_text("t/#"), .delay_ms = 1}, STATUS_INVALID);
    assert_int_equal(begin(&deal, maker), STATUS_OK);
    publish(&deal, "a", 1, 1,
            (struct publish){.dedup_id = span_from_text("once"), .delay_ms = HOUR_MS});
    assert_int_equal(commit(&deal), STATUS_OK);
    assert_holds("a", 0, 1);
    scene_close();
}

static void test_duplicates(void **state)
{
    scene_open(*(unsigned *)*state);
    struct deal deal;
    struct publish later = {.dedup_id = span_from_text("id"), .delay_ms = HOUR_MS};
    struct publish now = {.dedup_id = span_from_text("id")};
    assert_int_equal(begin(&deal, maker), STATUS_OK);
    publish(&deal, "a", 1, 2, later); /* the second is one already, */
    publish(&deal, "a", 1, 1, now);   /* and one of the two that are left */
    publish(&deal, "b", 1, 1, later);
    assert_int_equal(commit(&deal), STATUS_OK);
    rig_calm();
    struct look_call a = look_at("a");
    assert_int_equal(a.records + a.delayed, 1);
    assert_holds("b", 0, 1);
    assert_int_equal(begin(&deal, maker), STATUS_OK);
    publish(&deal, "a", 1, 1, later);
    publish(&deal, "b", 1, 1, now);
    assert_int_equal(commit(&deal), STATUS_OK); /* nothing to be stored */
    assert_holds("a", a.records, a.delayed);
    assert_holds("b", 0, 1);
    scene_close();
}

/* Clients of all workers at once, with plain delayed records between. */
enum { CROWD = 20, PEERS = 3 };

static void crowd_run(void *context)
{
    struct deal *deals = context;
    struct peer *peer = deals[0].peer;
    for (uint32_t i = 0; i < CROWD; i++) {
        deals[i] = (struct deal){.peer = peer, .transaction.client = &peer->client};
        request_init(&deals[i].transaction.request, rig.loops[peer->worker], deal_done);
        begin_run(&deals[i]);
        for (unsigned k = 0; k < 8; k++) {
            char key = (char)('0' + k);
            struct publish how = {.key = span_of(&key, 1), .delay_ms = k % 3 == 0 ? HOUR_MS : 5};
            publish_run(&(struct within){&deals[i], k % 2 == 0 ? "a" : "b", i, 1, how});
            struct publish_call call = {
                .peer = peer, .publish = how, .queue = "a", .first = i, .count = 1};
            publish_call_run(&call);
        }
        broker_commit(&deals[i].transaction);
    }
}

static void test_crowd(void **state)
{
    unsigned workers = *(unsigned *)*state;
    scene_open(workers);
    struct peer *peers[PEERS];
    static struct deal deals[PEERS * CROWD];
    for (unsigned i = 0; i < PEERS; i++) {
        peers[i] = peer_new(i, "p");
        deals[i * CROWD].peer = peers[i];
        on(peers[i]->worker, crowd_run, &deals[i * CROWD]);
    }
    for (unsigned i = 0; i < PEERS * CROWD; i++) {
        rig_await(&deals[i].done);
        assert_int_equal(deals[i].status, STATUS_OK);
    }
    for (unsigned i = 0; i < PEERS; i++)
        peer_close(peers[i]);
    /* Keys 0, 3 and 6 wait for an hour: two of them within to a, one to b, all three alone to a. */
    await(look_at("a").records == PEERS * CROWD * (2 + 5));
    await(look_at("b").records == PEERS * CROWD * 3);
    restart(workers);
    await(look_at("a").delayed == PEERS * CROWD * (2 + 3));
    await(look_at("b").delayed == PEERS * CROWD);
    scene_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_commit),  BOTH(test_due_from_when_it_was_sent),
        BOTH(test_refused), BOTH(test_duplicates),
        BOTH(test_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
