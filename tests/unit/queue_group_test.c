/* SPDX-License-Identifier: Apache-2.0 */
/* A group over the log and the memory engine: one worker on this thread, and with the log's owner
 * on another. */
/* links: queue net_uv storage_memory */
#include "tests/unit/queue_rig.h"

/* Takes, settlements, what comes back */

static void test_group_takes_and_settles(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    publish(0, 0, 10, NULL);
    open_group();
    assert_int_equal(take_some(&take, 4, 0, 30000), 4); /* waits until the group is open */
    assert_taken(&take, 0, 4);
    publish(0, 10, 10, NULL);
    assert_int_equal(stat_of(&rig.spec->stat->in_flight), 4);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 20);
    assert_true(atomic_load(&rig.spec->stat->oldest_ms) > 0);
    settle_all(&take, SETTLE_DONE);
    for (int i = 0; i < 4; i++) /* settled receipts are stale */
        assert_int_equal(settle_one(&take.items[i].receipt, SETTLE_FAILED), STATUS_STALE);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 16);
    assert_int_equal(stat_of(&rig.spec->stat->acknowledged), 4);
    take_some(&take, 100, 0, 30000);
    assert_taken(&take, 4, 16);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(take_some(&take, 100, 0, 30000), 0);
    assert_int_equal(atomic_load(&rig.spec->stat->oldest_ms), 0);
    rig_close();
}

static void test_group_respects_bytes(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    publish(0, 0, 10, NULL);
    take_start(&take, 100, 0, 30000);
    take.take.max_bytes = 13; /* three of four bytes */
    take_wait(&take);
    assert_int_equal(take.take.count, 3);
    take_drop(&take);
    take_start(&take, 100, 0, 30000);
    take.take.max_bytes = 1; /* one, whatever its size */
    take_wait(&take);
    assert_taken(&take, 3, 1);
    take_drop(&take);
    rig_close();
}

static void test_group_release_and_failure(void **state)
{
    (void)state;
    struct take take, again;
    rig_open(1);
    open_group();
    publish(0, 0, 3, NULL);
    take_some(&take, 2, 0, 30000);
    assert_int_equal(settle_one(&take.items[1].receipt, SETTLE_RELEASED), STATUS_OK);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_FAILED), STATUS_OK);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_STALE);

    /* Redeliveries first, the oldest return first; only the failure counts. */
    take_some(&again, 3, 0, 30000);
    assert_int_equal(again.take.count, 3);
    assert_int_equal(number_of(&again.items[0]), 1);
    assert_int_equal(again.items[0].failures, 0);
    assert_int_equal(number_of(&again.items[1]), 0);
    assert_int_equal(again.items[1].failures, 1);
    assert_int_equal(number_of(&again.items[2]), 2);
    assert_true(again.items[0].receipt.delivery > take.items[1].receipt.delivery);
    take_drop(&take);
    settle_all(&again, SETTLE_DONE);
    take_drop(&again);
    rig_close();
}

static void test_group_bad_receipts(void **state)
{
    (void)state;
    struct take take;
    rig_open(2);
    open_group();
    publish(0, 0, 1, NULL);
    take_some(&take, 1, 0, 30000);
    const struct receipt good = take.items[0].receipt;
    for (int i = 0; i < 7; i++) {
        struct receipt bad = good;
        bad.group += i == 0;
        bad.partition += i == 1;
        bad.partition += i == 2 ? 50 : 0;
        bad.partition -= i == 3;
        bad.offset += i == 4;
        bad.delivery += i == 5;
        bad.epoch -= i == 6;
        assert_int_equal(settle_one(&bad, SETTLE_DONE), STATUS_STALE);
    }
    assert_int_equal(settle_one(&good, SETTLE_DONE), STATUS_OK);
    take_drop(&take);
    rig_close();
}

/* A lone consumer gets its own record back when its lease has run out, not before. */
static void test_group_expired_lease_comes_back(void **state)
{
    (void)state;
    struct take take, again;
    rig_open(1);
    open_group();
    publish(0, 7, 1, NULL);
    take_some(&take, 1, 0, 100);
    uint64_t started = clock_monotonic_ms();
    take_some(&again, 1, 5000, 30000);
    assert_true(clock_monotonic_ms() - started >= 90);
    assert_taken(&again, 7, 1);
    assert_int_equal(again.items[0].failures, 1);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_STALE);
    assert_int_equal(settle_one(&again.items[0].receipt, SETTLE_DONE), STATUS_OK);
    take_drop(&take);
    take_drop(&again);
    rig_close();
}

static void test_group_long_poll(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    uint64_t started = clock_monotonic_ms();
    assert_int_equal(take_some(&take, 1, 50, 30000), 0);
    assert_true(clock_monotonic_ms() - started >= 45);
    take_start(&take, 1, 30000, 30000);
    run_ms(5);
    started = clock_monotonic_ms();
    publish(0, 3, 1, NULL);
    take_wait(&take);
    assert_true(clock_monotonic_ms() - started < 20000); /* woken, not timed out */
    assert_taken(&take, 3, 1);
    take_drop(&take);

    take_start(&take, 1, 5000, 30000);
    group_take_cancel(rig.group, &take.take);
    group_take_cancel(rig.group, &take.take); /* harmless */
    assert_false(take.done);
    take_wait(&take);
    assert_int_equal(take.status, STATUS_CANCELED);
    group_take_cancel(rig.group, &take.take);
    rig_close();
}

static void test_group_waiters_take_turns(void **state)
{
    (void)state;
    static struct take takes[4];
    rig_open(2);
    open_group();
    answered = 0;
    for (unsigned i = 0; i < 4; i++)
        take_start(&takes[i], 1, 5000, 30000);
    run_ms(2);
    for (unsigned i = 0; i < 4; i++) {
        publish(i % 2, i, 1, NULL);
        take_wait(&takes[i]);
        assert_taken(&takes[i], i, 1);
        assert_int_equal(takes[i].order, i + 1);
        for (unsigned j = i + 1; j < 4; j++)
            assert_false(takes[j].done);
        take_drop(&takes[i]);
    }
    /* Two consumers that come back at once share what arrives. */
    for (unsigned round = 0; round < 5; round++) {
        take_start(&takes[0], 1, 5000, 30000);
        take_start(&takes[1], 1, 5000, 30000);
        publish(0, round * 2, 2, NULL);
        take_wait(&takes[0]);
        take_wait(&takes[1]);
        assert_taken(&takes[0], round * 2, 1);
        assert_taken(&takes[1], round * 2 + 1, 1);
        take_drop(&takes[0]);
        take_drop(&takes[1]);
    }
    /* Nobody waits for who has not come back: what arrives meanwhile is for those who are there. */
    take_start(&takes[0], 1, 5000, 30000);
    take_start(&takes[1], 1, 5000, 30000);
    for (unsigned i = 10; i < 14; i++) {
        struct take *there = &takes[i > 10];
        publish(0, i, 1, NULL);
        take_wait(there);
        assert_taken(there, i, 1);
        take_drop(there);
        if (i > 10)
            take_start(there, 1, 5000, 30000);
    }
    take_start(&takes[0], 1, 5000, 30000);
    publish(0, 14, 2, NULL);
    take_wait(&takes[1]);
    take_wait(&takes[0]);
    assert_taken(&takes[1], 14, 1);
    assert_taken(&takes[0], 15, 1);
    take_drop(&takes[0]);
    take_drop(&takes[1]);
    /* Those who would take more get one each in turn, until one has enough. */
    take_start(&takes[0], 100, 5000, 30000);
    take_start(&takes[1], 2, 5000, 30000);
    take_start(&takes[2], 100, 5000, 30000);
    run_ms(2);
    publish(0, 100, 9, NULL);
    static const unsigned expected[3][4] = {{100, 103, 106, 108}, {101, 104}, {102, 105, 107}};
    static const unsigned counts[3] = {4, 2, 3};
    for (unsigned i = 0; i < 3; i++) {
        take_wait(&takes[i]);
        assert_int_equal(takes[i].take.count, counts[i]);
        for (unsigned k = 0; k < counts[i]; k++)
            assert_int_equal(number_of(&takes[i].items[k]), expected[i][k]);
        take_drop(&takes[i]);
    }
    rig_close();
}

static void test_group_partitions_take_turns(void **state)
{
    (void)state;
    struct take take;
    rig_open(4);
    for (uint32_t i = 0; i < 4; i++)
        publish(i, i * 100, 50, NULL);
    open_group();
    bool seen[4] = {false};
    for (int i = 0; i < 4; i++) {
        take_some(&take, 10, 0, 30000);
        assert_int_equal(take.take.count, 10);
        seen[take.items[0].receipt.partition - 100] = true;
        take_drop(&take);
    }
    assert_true(seen[0] && seen[1] && seen[2] && seen[3]);
    uint32_t rest = 0;
    while (take_some(&take, 1000, 0, 30000) > 0) {
        rest += take.take.count;
        take_drop(&take);
    }
    assert_int_equal(rest, 160);
    rig_close();
}

/* Durable state */

static void test_group_restart(void **state)
{
    (void)state;
    struct take take, again;
    rig_open(1);
    open_group();
    publish(0, 0, 10, NULL);
    take_some(&take, 6, 0, 30000); /* 0 done, 1 leased, 2 failed, 3 done, 4 released, 5 leased */
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    assert_int_equal(settle_one(&take.items[2].receipt, SETTLE_FAILED), STATUS_OK);
    assert_int_equal(settle_one(&take.items[3].receipt, SETTLE_DONE), STATUS_OK);
    assert_int_equal(settle_one(&take.items[4].receipt, SETTLE_RELEASED), STATUS_OK);
    for (int restart = 0; restart < 3; restart++) {
        close_group(false);
        log_stop();
        log_start();
        open_group();
        take_some(&again, 100, 0, 30000);
        static const uint32_t left[] = {1, 2, 4, 5, 6, 7, 8, 9};
        assert_int_equal(again.take.count, 8);
        for (uint32_t i = 0; i < 8; i++) {
            assert_int_equal(number_of(&again.items[i]), left[i]);
            assert_int_equal(again.items[i].failures, left[i] == 2);
        }
        assert_int_equal(stat_of(&rig.spec->stat->acknowledged), 2);
        assert_int_equal(settle_one(&take.items[1].receipt, SETTLE_DONE), STATUS_STALE);
        if (restart == 0)
            assert_true(again.items[0].receipt.epoch == take.items[0].receipt.epoch + 1);
        take_drop(&again);
    }
    take_drop(&take);

    /* Removed: another group of that id begins from nothing. */
    close_group(true);
    open_group();
    assert_int_equal(take_some(&take, 100, 0, 30000), 10);
    take_drop(&take);
    rig_close();
}

static void test_group_many_deltas(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    publish(0, 0, 2000, NULL);
    for (int i = 0; i < 1300; i++) { /* one delta each: two snapshots on the way */
        assert_int_equal(take_some(&take, 1, 0, 30000), 1);
        if (i % 2 == 0)
            assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
        take_drop(&take);
    }
    close_group(false);
    open_group();
    take_some(&take, 1000, 0, 30000);
    for (uint32_t i = 0; i < 650; i++)
        assert_int_equal(number_of(&take.items[i]), i * 2 + 1);
    assert_int_equal(number_of(&take.items[650]), 1300);
    take_drop(&take);
    rig_close();
}

static void test_group_latest_begins_at_the_end(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    rig.spec->start = GROUP_LATEST;
    publish(0, 0, 5, NULL);
    open_group();
    publish(0, 5, 1, NULL); /* while it opens */
    take_some(&take, 10, 0, 30000);
    assert_taken(&take, 5, 1);
    take_drop(&take);
    close_group(false);
    publish(0, 6, 2, NULL);
    open_group();
    take_some(&take, 10, 0, 30000);
    assert_taken(&take, 5, 3);
    take_drop(&take);
    rig_close();
}

/* What failed is handed out again only when its failure is stored; an answer comes only then, too.
 */
static void test_group_waits_for_its_rows(void **state)
{
    (void)state;
    struct take take, again;
    struct settle failed, done, more;
    enum status results[3];
    rig_open(1);
    open_group();
    publish(0, 0, 3, NULL);
    take_some(&take, 3, 0, 30000);
    door.hold = true;
    settle_start(&failed, &take.items[0].receipt, 1, SETTLE_FAILED, &results[0]);
    settle_start(&done, &take.items[1].receipt, 1, SETTLE_DONE, &results[1]);
    take_start(&again, 3, 30000, 30000);
    unsigned writes = door.row_writes;
    run_ms(20);
    assert_int_equal(door.row_writes, writes + 1); /* both in one write */
    settle_start(&more, &take.items[2].receipt, 1, SETTLE_DONE, &results[2]);
    run_ms(20);
    assert_int_equal(door.row_writes, writes + 1); /* waits for its turn */
    assert_false(failed.done || done.done || more.done || again.done);
    door_open();
    take_wait(&again);
    assert_true(failed.done && done.done);
    assert_taken(&again, 0, 1);
    assert_int_equal(again.items[0].failures, 1);
    while (!more.done)
        loop_run(rig.loop);
    assert_int_equal(door.row_writes, writes + 2);
    take_drop(&take);
    take_drop(&again);
    rig_close();
}

static void test_group_full_storage(void **state)
{
    (void)state;
    struct take take, again;
    rig_open(1);
    open_group();
    publish(0, 0, 3, NULL);
    take_some(&take, 3, 0, 30000);
    /* Without room nobody is told that it was not done: it will be. */
    struct settle done, failed, meanwhile;
    enum status results[3];
    unsigned writes = door.row_writes;
    door.refuse = STATUS_NO_SPACE;
    settle_start(&done, &take.items[0].receipt, 1, SETTLE_DONE, &results[0]);
    settle_start(&failed, &take.items[1].receipt, 1, SETTLE_FAILED, &results[1]);
    run_ms(5);
    settle_start(&meanwhile, &take.items[2].receipt, 1, SETTLE_DONE, &results[2]);
    while (door.row_writes < writes + 2) /* tried once more, in vain */
        run_turn();
    run_ms(5);
    assert_false(done.done || failed.done || meanwhile.done);
    door.refuse = STATUS_OK;
    /* Space is back: what was settled is stored after all, and the failed one can go out. */
    assert_int_equal(take_some(&again, 2, 5000, 30000), 1);
    assert_int_equal(again.items[0].failures, 1);
    take_drop(&again);
    while (!meanwhile.done)
        loop_run(rig.loop);
    assert_true(done.done && failed.done);
    assert_int_equal(done.status | failed.status | meanwhile.status, STATUS_OK);
    assert_int_equal(results[0] | results[1] | results[2], STATUS_OK);
    close_group(false);
    open_group();
    assert_int_equal(take_some(&again, 2, 0, 30000), 1);
    assert_int_equal(again.items[0].failures, 1);
    assert_int_equal(number_of(&again.items[0]), 1);

    door.refuse = STATUS_STORAGE_FAILED;
    assert_int_equal(settle_one(&again.items[0].receipt, SETTLE_DONE), STATUS_STORAGE_FAILED);
    door.refuse = STATUS_OK;
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_STORAGE_FAILED);
    take_drop(&take);
    take_drop(&again);
    take_start(&take, 1, 0, 30000);
    take_wait(&take);
    assert_int_equal(take.status, STATUS_STORAGE_FAILED);
    rig_close();
}

/* The group ends before there is room: none of it is stored, and all are told. */
static void test_group_close_without_room(void **state)
{
    (void)state;
    for (int remove = 0; remove < 2; remove++) {
        struct take take;
        struct settle settle[2];
        enum status results[2];
        rig_open(1);
        open_group();
        publish(0, 0, 2, NULL);
        take_some(&take, 2, 0, 30000);
        door.refuse = STATUS_NO_SPACE;
        for (int i = 0; i < 2; i++) { /* in the write, and behind it */
            settle_start(&settle[i], &take.items[i].receipt, 1, SETTLE_DONE, &results[i]);
            run_ms(5);
        }
        door.refuse = STATUS_OK;
        close_group(remove == 1);
        for (int i = 0; i < 2; i++) {
            assert_true(settle[i].done);
            assert_int_equal(settle[i].status,
                             remove == 1 ? STATUS_NOT_FOUND : STATUS_SHUTTING_DOWN);
        }
        take_drop(&take);
        open_group();
        assert_int_equal(take_some(&take, 2, 0, 30000), 2);
        take_drop(&take);
        rig_close();
    }
}

static void test_group_close_answers(void **state)
{
    (void)state;
    struct take take, waiting;
    struct settle settle;
    enum status result;
    rig_open(1);
    open_group();
    publish(0, 0, 2, NULL);
    take_some(&take, 2, 0, 30000);
    take_start(&waiting, 1, 5000, 30000);
    run_ms(1);
    settle_start(&settle, &take.items[0].receipt, 1, SETTLE_DONE, &result);
    close_group(false);
    take_wait(&waiting);
    assert_int_equal(waiting.status, STATUS_SHUTTING_DOWN);
    assert_true(settle.done); /* durable before the group went */
    assert_int_equal(settle.status, STATUS_OK);
    take_drop(&take);
    open_group();
    take_some(&take, 2, 0, 30000);
    assert_taken(&take, 1, 1);
    take_start(&waiting, 1, 5000, 30000);
    settle_start(&settle, &take.items[0].receipt, 1, SETTLE_DONE, &result);
    close_group(true);
    take_wait(&waiting);
    assert_int_equal(waiting.status, STATUS_NOT_FOUND);
    assert_true(settle.done);
    assert_int_equal(settle.status, STATUS_NOT_FOUND);
    take_drop(&take);

    /* Closed at every point of opening, with callers waiting. */
    for (uint64_t i = 0; i < 6; i++) {
        open_group();
        take_start(&waiting, 1, 0, 30000);
        settle_start(&settle, &take.items[0].receipt, 1, SETTLE_DONE, &result);
        door.hold = i == 4;
        if (i > 0)
            run_ms(i);
        group_close(rig.group, i % 2 == 0, NULL);
        rig.group = NULL;
        door_open();
        run_ms(5);
        assert_true(settle.done && waiting.done);
        take_drop(&waiting);
    }
    rig_close();
}

/* Records that are gone */

static void test_group_expired_records(void **state)
{
    (void)state;
    struct take take;
    char future[32];
    rig_open(1);
    open_group();
    publish(0, 0, 5, "1000");
    snprintf(future, sizeof future, "%lld", (long long)clock_wall_ms() + 60000);
    publish(0, 5, 2, future);
    publish(0, 7, 1, "never");
    take_some(&take, 10, 0, 30000);
    assert_taken(&take, 5, 3);
    assert_int_equal(stat_of(&rig.spec->stat->expired), 5);
    assert_int_equal(stat_of(&rig.spec->stat->acknowledged), 0);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 3);
    take_drop(&take);
    rig_close();
}

static void test_group_retention(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    publish(0, 0, 5, NULL);
    take_some(&take, 2, 0, 30000);
    run_ms(20);
    publish(0, 5, 5, NULL);
    struct partition_spec limited = {.id = 100,
                                     .class = rig.queue->class,
                                     .durability = rig.queue->durability,
                                     .retention_ms = 10};
    log_partition_limit(rig.worker, &limited);
    run_ms(20);
    log_retain(rig.worker);
    run_ms(20);
    uint64_t start = atomic_load(&rig.queue->stat->partitions[0].start);
    assert_true(start >= 5);
    publish(0, 10, 1, NULL);
    struct take rest;
    take_some(&rest, 20, 0, 30000);
    assert_taken(&rest, (uint32_t)start, (uint32_t)(11 - start));
    take_drop(&rest);
    assert_int_equal(take_some(&rest, 20, 0, 30000), 0);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_STALE);
    assert_int_equal(stat_of(&rig.spec->stat->lost), start);
    take_drop(&take);
    rig_close();
}

static void restart_log(void)
{
    close_group(false);
    log_stop(); /* and with it the tail cache: reads go to storage */
    log_start();
    open_group();
}

static void test_group_gaps_and_corrupt_batches(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    for (uint32_t i = 0; i < 100; i += 10)
        publish(0, i, 10, NULL);
    run_ms(2);
    restart_log();
    door.gap_from = 0;
    door.gap_to = 20;
    take_some(&take, 30, 0, 30000);
    assert_taken(&take, 20, 30);
    take_drop(&take);

    restart_log();
    door.corrupt_from = 20;
    door.corrupt_to = 40;
    trace_set_level(TRACE_ERROR + 1);
    take_some(&take, 30, 0, 30000);
    trace_set_level(TRACE_ERROR);
    assert_taken(&take, 40, 30);
    assert_int_equal(stat_of(&rig.spec->stat->lost), 20);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 60);
    take_drop(&take);

    restart_log();
    take_some(&take, 100, 0, 30000);
    assert_taken(&take, 40, 60);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    rig_close();
}

/* Much in flight, and what a take and its settlement cost */

static void measure(uint32_t in_flight, uint32_t step)
{
    enum { ROUNDS = 200 };
    static struct take held[100], take;
    static struct receipt receipts[ITEMS_MAX];
    static enum status results[ITEMS_MAX];
    uint32_t sets = in_flight / step;
    rig_open(1);
    open_group();
    run_ms(2);
    uint32_t published = 0;
    for (; published < in_flight; published += step)
        publish(0, published, step, NULL);
    for (uint32_t i = 0; i < sets; i++) {
        assert_int_equal(take_some(&held[i], step, 0, 300000), step);
        take_drop(&held[i]);
    }
    assert_int_equal(stat_of(&rig.spec->stat->in_flight), in_flight);
    uint64_t spent = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        publish(0, published, step, NULL);
        published += step;
        struct take *oldest = &held[round % sets];
        for (uint32_t i = 0; i < step; i++)
            receipts[i] = oldest->items[i].receipt;
        uint64_t started = clock_monotonic_ns();
        struct settle settle;
        settle_start(&settle, receipts, step, SETTLE_DONE, results);
        take_start(&take, step, 5000, 300000);
        while (!settle.done || !take.done)
            loop_run(rig.loop);
        spent += clock_monotonic_ns() - started;
        assert_int_equal(take.take.count, step);
        assert_int_equal(results[step - 1], STATUS_OK);
        memcpy(oldest->items, take.items, step * sizeof take.items[0]);
        take_drop(&take);
    }
    print_message("%u in flight, %u at a time: %.0f ns per take and settlement\n", in_flight, step,
                  (double)spent / ROUNDS / step);
    rig_close();
}

static void test_group_cost_is_flat(void **state)
{
    (void)state;
    measure(100, 10);
    measure(100, 100);
    measure(10000, 1000);
    measure(100000, 1000);
}

static void test_group_in_flight_limit(void **state)
{
    (void)state;
    static struct take take;
    rig_open(1);
    open_group();
    for (uint32_t i = 0; i < LIMIT_IN_FLIGHT / 1000 + 1; i++)
        publish(0, i * 1000, 1000, NULL);
    struct receipt first = {0};
    uint32_t taken = 0;
    while (take_some(&take, 1000, 0, 300000) > 0) {
        if (taken == 0)
            first = take.items[0].receipt;
        taken += take.take.count;
        take_drop(&take);
    }
    assert_int_equal(taken, LIMIT_IN_FLIGHT);
    assert_int_equal(settle_one(&first, SETTLE_DONE), STATUS_OK);
    assert_int_equal(take_some(&take, 1000, 0, 300000), 1);
    assert_taken(&take, LIMIT_IN_FLIGHT, 1);
    take_drop(&take);
    rig_close();
}

/* The owner of the partitions on another thread: notices and reads cross. */

struct notice {
    struct mail mail;
    uint64_t partition;
    struct batch *batch;
};

static void notice_arrive(struct mail *mail)
{
    struct notice *notice = container_of(mail, struct notice, mail);
    if (rig.group != NULL)
        group_notice(rig.group, notice->partition, notice->batch);
    batch_unref(notice->batch);
    heap_free(notice);
}

static void remote_observe(void *context, uint64_t partition, struct batch *batch)
{
    (void)context;
    struct notice *notice = heap_new(sizeof *notice);
    notice->mail.deliver = notice_arrive;
    notice->partition = partition;
    notice->batch = batch_ref(batch);
    mailbox_post(rig.loop, &notice->mail);
}

struct remote_open {
    struct mail mail;
    struct log_worker *worker;
};

static void remote_open_partition(struct mail *mail)
{
    struct remote_open *remote = container_of(mail, struct remote_open, mail);
    struct partition_spec spec = {.id = rig.queue->first_partition, .class = STORAGE_3_DAYS};
    log_partition_open(remote->worker, &spec, &rig.queue->stat->partitions[0]);
}

static void test_group_with_remote_owner(void **state)
{
    (void)state;
    struct storage_options options = {0};
    struct err err;
    door = (struct door){.storage = {.ops = &door_ops}};
    assert_int_equal(memory_storage_ops.open(&options, &door.inner, &err), STATUS_OK);
    rig = (struct rig){.loop = loop_new(), .queue = queue_of(1)};
    rig.spec = spec_of(9, GROUP_EARLIEST);
    rig.spec->dead_partition = 0; /* one partition is enough to be elsewhere */
    rig.log = log_new(&door.storage, 2);
    while (log_owner(rig.log, rig.queue->first_partition) != 1)
        rig.queue->first_partition++;
    struct worker *thread = worker_new(1);
    rig.worker = log_worker_new(rig.log, 0, rig.loop, remote_observe, NULL);
    struct remote_open remote = {
        .mail.deliver = remote_open_partition,
        .worker = log_worker_new(rig.log, 1, worker_loop(thread), remote_observe, NULL),
    };
    worker_start(thread);
    open_group(); /* before the partition is known there */
    run_ms(5);
    mailbox_post(worker_loop(thread), &remote.mail);

    static struct take take;
    uint32_t expected = 0;
    for (uint32_t i = 0; i < 60; i++) {
        publish(0, i * 20, 20, NULL);
        if (i % 10 == 5)
            continue; /* falls behind */
        assert_true(take_some(&take, 1000, 5000, 30000) > 0);
        assert_taken(&take, expected, take.take.count);
        expected += take.take.count;
        settle_all(&take, i % 7 == 3 ? SETTLE_RELEASED : SETTLE_DONE);
        if (i % 7 == 3)
            expected -= take.take.count;
        take_drop(&take);
    }
    close_group(false);
    worker_stop(thread);
    log_worker_free(remote.worker);
    log_stop();
    worker_free(thread);
    queue_unref(rig.queue);
    group_spec_unref(rig.spec);
    loop_free(rig.loop);
    memory_storage_ops.close(door.inner);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_takes_and_settles),
        cmocka_unit_test(test_group_respects_bytes),
        cmocka_unit_test(test_group_release_and_failure),
        cmocka_unit_test(test_group_bad_receipts),
        cmocka_unit_test(test_group_expired_lease_comes_back),
        cmocka_unit_test(test_group_long_poll),
        cmocka_unit_test(test_group_waiters_take_turns),
        cmocka_unit_test(test_group_partitions_take_turns),
        cmocka_unit_test(test_group_restart),
        cmocka_unit_test(test_group_many_deltas),
        cmocka_unit_test(test_group_latest_begins_at_the_end),
        cmocka_unit_test(test_group_waits_for_its_rows),
        cmocka_unit_test(test_group_full_storage),
        cmocka_unit_test(test_group_close_without_room),
        cmocka_unit_test(test_group_close_answers),
        cmocka_unit_test(test_group_expired_records),
        cmocka_unit_test(test_group_retention),
        cmocka_unit_test(test_group_gaps_and_corrupt_batches),
        cmocka_unit_test(test_group_in_flight_limit),
        cmocka_unit_test(test_group_cost_is_flat),
        cmocka_unit_test(test_group_with_remote_owner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
