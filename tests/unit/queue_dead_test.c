/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of records that fail: dead letters, delays, renewed leases; a crash at every step of
 * storage on the way; and groups with much outstanding. */
/* links: queue net_uv storage_memory */
#include "core/base/limits.h"
#include "tests/unit/queue_rig.h"

static void rig_redrive(uint32_t partitions, uint32_t max_consume_count)
{
    rig_open(partitions);
    rig.queue->redrive = true;
    rig.queue->max_consume_count = max_consume_count;
}

static void assert_header(const struct group_item *item, const char *name, const char *text)
{
    struct record record;
    struct span value;
    batch_record(item->batch, item->index, &record);
    assert_true(record_find(&record, name, &value));
    assert_true(span_is(value, text));
}

/* Takes and fails what is there until nothing comes back. */
static void fail_all(enum settle_outcome outcome)
{
    static struct take take;
    for (int idle = 0; idle < 3;) {
        uint32_t count = take_some(&take, 100, 5, 30000);
        idle = count == 0 ? idle + 1 : 0;
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(settle_one(&take.items[i].receipt, outcome), STATUS_OK);
        take_drop(&take);
    }
}

static void test_dead_after_failures(void **state)
{
    (void)state;
    struct take take, dead;
    rig_redrive(2, 3);
    open_group();
    publish(1, 0, 3, "99999999999999");
    for (uint32_t failures = 0; failures < 3; failures++) {
        take_some(&take, 10, 5000, 30000);
        assert_taken(&take, 0, 3);
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(take.items[i].failures, failures);
            enum settle_outcome outcome = i == 2 && failures == 2 ? SETTLE_DONE : SETTLE_FAILED;
            assert_int_equal(settle_one(&take.items[i].receipt, outcome), STATUS_OK);
        }
        take_drop(&take);
    }
    run_ms(20);
    assert_int_equal(take_dead(&dead, 1, 5000, 30000), 1);
    assert_taken(&dead, 0, 1);
    take_drop(&dead);
    assert_int_equal(take_dead(&dead, 10, 5000, 30000), 1);
    assert_taken(&dead, 1, 1);
    assert_int_equal(dead.items[0].failures, 0);
    assert_int_equal(dead.items[0].receipt.partition, rig.spec->dead_partition);
    assert_header(&dead.items[0], "dead-letter-reason", "failures");
    assert_header(&dead.items[0], "dead-letter-queue", "orders");
    assert_header(&dead.items[0], "dead-letter-group", "billing");
    assert_header(&dead.items[0], "dead-letter-partition", "101");
    assert_header(&dead.items[0], "dead-letter-offset", "1");
    assert_header(&dead.items[0], "dead-letter-count", "3");
    assert_header(&dead.items[0], HEADER_EXPIRES_AT, "99999999999999");
    assert_int_equal(take_some(&take, 10, 10, 30000), 0);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 2);
    assert_int_equal(stat_of(&rig.spec->stat->dead_produced), 2);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    assert_int_equal(stat_of(&rig.spec->stat->acknowledged), 1);
    assert_int_equal(stat_of(&rig.spec->stat->in_flight), 0);

    /* Dead letters are leased and settled like others, but never die. */
    for (uint32_t failures = 0; failures < 5; failures++) {
        assert_int_equal(settle_one(&dead.items[0].receipt, SETTLE_FAILED), STATUS_OK);
        take_drop(&dead);
        assert_int_equal(take_dead(&dead, 10, 5000, 30000), 1);
        assert_taken(&dead, 1, 1);
        assert_int_equal(dead.items[0].failures, failures + 1);
    }
    assert_int_equal(settle_one(&dead.items[0].receipt, SETTLE_DONE), STATUS_OK);
    assert_int_equal(settle_one(&dead.items[0].receipt, SETTLE_DONE), STATUS_STALE);
    take_drop(&dead);
    close_group(false);
    open_group();
    assert_int_equal(take_dead(&dead, 10, 0, 30000), 1);
    assert_taken(&dead, 0, 1);
    assert_int_equal(settle_one(&dead.items[0].receipt, SETTLE_REJECTED), STATUS_OK);
    take_drop(&dead);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 0);
    assert_int_equal(take_some(&take, 10, 0, 30000), 0);
    rig_close();
}

static void test_dead_after_expiry(void **state)
{
    (void)state;
    struct take take, dead;
    rig_redrive(1, 2);
    open_group();
    publish(0, 0, 1, NULL);
    take_begin(&dead, 10, 5000, 30000, true); /* waits for it */
    for (uint32_t failures = 0; failures < 2; failures++) {
        assert_int_equal(take_some(&take, 10, 5000, 30), 1);
        assert_int_equal(take.items[0].failures, failures);
        take_drop(&take);
    }
    take_wait(&dead);
    assert_taken(&dead, 0, 1);
    assert_header(&dead.items[0], "dead-letter-count", "2");
    take_drop(&dead);
    assert_int_equal(take_some(&take, 10, 5, 30), 0);
    rig_close();
}

static void test_dead_when_rejected(void **state)
{
    (void)state;
    struct take take, dead;
    rig_redrive(1, 0); /* no count: only what is rejected */
    open_group();
    publish(0, 0, 2, NULL);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(take_some(&take, 2, 5000, 30000), 2);
        assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_FAILED), STATUS_OK);
        assert_int_equal(settle_one(&take.items[1].receipt, SETTLE_RELEASED), STATUS_OK);
        take_drop(&take);
    }
    assert_int_equal(take_some(&take, 2, 5000, 30000), 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(settle_one(&take.items[i].receipt, SETTLE_REJECTED), STATUS_OK);
    take_drop(&take);
    assert_int_equal(take_dead(&dead, 1, 5000, 30000), 1);
    assert_header(&dead.items[0], "dead-letter-reason", "rejected");
    take_drop(&dead);
    assert_int_equal(stat_of(&rig.spec->stat->dead_produced), 2);
    rig_close();

    rig_open(1); /* a queue that keeps no dead letters */
    open_group();
    publish(0, 0, 1, NULL);
    assert_int_equal(take_some(&take, 1, 5000, 30000), 1);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_REJECTED), STATUS_OK);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    assert_int_equal(stat_of(&rig.spec->stat->dead_produced), 0);
    rig_close();
}

/* No room for dead letters: they wait, also across a restart, and are neither lost nor doubled. */
static void test_dead_without_space(void **state)
{
    (void)state;
    struct take take, dead;
    rig_redrive(1, 1);
    open_group();
    publish(0, 0, 150, NULL);
    door.refuse_batches = STATUS_NO_SPACE;
    fail_all(SETTLE_FAILED);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 150);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 0);
    close_group(false);
    open_group();
    assert_int_equal(take_some(&take, 10, 20, 30000), 0);
    door.refuse_batches = STATUS_OK;
    assert_true(take_dead(&dead, 1, 5000, 30000) > 0);
    take_drop(&dead);
    run_ms(20);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 150);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    rig_close();
}

/* The policy of a living queue. */
static void test_dead_policy_changes(void **state)
{
    (void)state;
    struct take take, dead;
    rig_open(1);
    open_group();
    publish(0, 0, 1, NULL);
    for (uint32_t failures = 0; failures < 4; failures++) {
        assert_int_equal(take_some(&take, 1, 5000, 30000), 1);
        assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_FAILED), STATUS_OK);
        take_drop(&take);
    }
    struct queue *queue = queue_of(1);
    heap_free(queue->stat);
    queue->stat = rig.queue->stat;
    atomic_fetch_add(&queue->stat->refs, 1);
    queue->redrive = true;
    queue->max_consume_count = 4;
    group_change(rig.group, queue);
    queue_unref(queue);
    assert_int_equal(take_dead(&dead, 1, 5000, 30000), 1);
    take_drop(&dead);
    assert_int_equal(take_some(&take, 1, 0, 30000), 0);
    rig_close();
}

/* Exactly one copy of each, and nothing left, wherever storage is cut off. */
static void check_crash(unsigned at, bool stored, bool *crashed)
{
    enum { COUNT = 5 };
    static struct take take;
    uint32_t copies[COUNT] = {0}, rejected[COUNT] = {0};
    rig_redrive(2, 2);
    publish(0, 0, 3, NULL);
    publish(1, 3, 2, NULL);
    open_group();
    run_ms(2);
    door.crash_at = at;
    door.crash_stored = stored;
    for (int i = 0; i < 20 && !door.down; i++) {
        take_start(&take, 100, 1, 30000);
        take_wait(&take);
        for (uint32_t k = 0; k < take.take.count; k++) {
            bool reject = number_of(&take.items[k]) == 4;
            settle_one(&take.items[k].receipt, reject ? SETTLE_REJECTED : SETTLE_FAILED);
        }
        take_drop(&take);
    }
    run_ms(3);
    *crashed = door.down;
    crash_and_open();
    for (int i = 0; i < 6; i++) {
        take_some(&take, 100, 5, 30000);
        for (uint32_t k = 0; k < take.take.count; k++) {
            rejected[number_of(&take.items[k])]++;
            assert_int_equal(settle_one(&take.items[k].receipt, SETTLE_REJECTED), STATUS_OK);
        }
        take_drop(&take);
    }
    run_ms(5);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    crash_and_open();
    take_dead(&take, 100, 50, 30000);
    for (uint32_t k = 0; k < take.take.count; k++)
        copies[number_of(&take.items[k])]++;
    take_drop(&take);
    assert_int_equal(take_some(&take, 100, 5, 30000), 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(copies[i], 1);
        assert_true(rejected[i] <= 1);
    }
    rig_close();
}

static void test_dead_crash_everywhere(void **state)
{
    (void)state;
    bool crashed = true;
    unsigned at = 1;
    for (; crashed; at++)
        for (int stored = 0; stored < 2; stored++)
            check_crash(at, stored, &crashed);
    assert_true(at > 6);
}

static void test_delayed_nack(void **state)
{
    (void)state;
    struct take take, again;
    rig_open(1);
    open_group();
    publish(0, 0, 4, NULL);
    assert_int_equal(take_some(&take, 3, 0, 30000), 3);
    int64_t began_ms = clock_wall_ms();
    assert_int_equal(settle_for(&take.items[0].receipt, SETTLE_FAILED, 2 * LASTING_MS), STATUS_OK);
    assert_int_equal(settle_for(&take.items[1].receipt, SETTLE_RELEASED, LASTING_MS), STATUS_OK);
    assert_int_equal(settle_for(&take.items[2].receipt, SETTLE_FAILED, 3600000), STATUS_OK);
    assert_int_equal(settle_for(&take.items[2].receipt, SETTLE_FAILED, 1), STATUS_STALE);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->in_flight), 0);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 4);
    assert_int_equal(take_some(&again, 10, 0, 30000), 1);
    assert_int_equal(number_of(&again.items[0]), 3);
    assert_int_equal(settle_one(&again.items[0].receipt, SETTLE_DONE), STATUS_OK);
    take_drop(&again);

    assert_int_equal(take_some(&again, 10, 5000, 30000), 1);
    assert_true(clock_wall_ms() - began_ms >= LASTING_MS);
    assert_int_equal(number_of(&again.items[0]), 1);
    assert_int_equal(again.items[0].failures, 0);
    assert_int_equal(settle_for(&again.items[0].receipt, SETTLE_RELEASED, 1), STATUS_OK);
    take_drop(&again);
    assert_int_equal(take_some(&again, 10, 5000, 30000), 1);
    assert_int_equal(number_of(&again.items[0]), 1);
    assert_int_equal(settle_one(&again.items[0].receipt, SETTLE_DONE), STATUS_OK);
    take_drop(&again);

    crash_and_open();
    assert_int_equal(take_some(&again, 10, 3 * LASTING_MS, 30000), 1);
    assert_true(clock_wall_ms() - began_ms >= 2 * LASTING_MS);
    assert_int_equal(number_of(&again.items[0]), 0);
    assert_int_equal(again.items[0].failures, 1);
    assert_int_equal(settle_one(&again.items[0].receipt, SETTLE_DONE), STATUS_OK);
    take_drop(&again);
    crash_and_open();
    assert_int_equal(take_some(&again, 10, 20, 30000), 0);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 1);
    rig_close();
}

static void test_renewed_lease(void **state)
{
    (void)state;
    struct take take, again;
    rig_open(1);
    open_group();
    publish(0, 0, 1, NULL);
    uint64_t began_ms = 0;
    unsigned writes = 0, renewals = 0;
    /* Begun again when the machine has stood still for as long as the lease. */
    for (unsigned attempt = 0; renewals < 4; attempt++) {
        assert_true(attempt < 20);
        assert_int_equal(take_some(&take, 1, 5000, 200), 1);
        began_ms = clock_monotonic_ms();
        writes = door.row_writes;
        for (renewals = 0; renewals < 4; renewals++) {
            run_ms(25);
            if (settle_for(&take.items[0].receipt, SETTLE_RENEWED, 200) != STATUS_OK)
                break;
        }
        if (renewals < 4)
            take_drop(&take);
    }
    assert_int_equal(door.row_writes, writes);
    assert_int_equal(take_some(&again, 1, 5000, 30000), 1);
    assert_true(clock_monotonic_ms() - began_ms >= 300);
    assert_int_equal(settle_for(&take.items[0].receipt, SETTLE_RENEWED, 200), STATUS_STALE);
    take_drop(&take);
    take_drop(&again);
    rig_close();
}

/* A hundred thousand leases outstanding, all of which have failed once. */
static void test_reopen_with_many_leases(void **state)
{
    (void)state;
    enum { COUNT = 100000, STEP = 1000 };
    static struct take take;
    static struct receipt receipts[COUNT];
    static enum status results[COUNT];
    rig_open(1);
    open_group();
    for (uint32_t i = 0; i < COUNT / STEP; i++)
        publish(0, i * STEP, STEP, NULL);
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < COUNT / STEP; i++) {
            assert_int_equal(take_some(&take, STEP, 5000, 3000000), STEP);
            for (uint32_t k = 0; k < STEP; k++)
                receipts[i * STEP + k] = take.items[k].receipt;
            take_drop(&take);
        }
        if (round == 1)
            break;
        struct settle settle;
        settle_start(&settle, receipts, COUNT, SETTLE_FAILED, results);
        while (!settle.done)
            loop_run(rig.loop);
        assert_int_equal(results[COUNT - 1], STATUS_OK);
    }
    assert_int_equal(stat_of(&rig.spec->stat->in_flight), COUNT);
    crash_and_open();
    uint64_t began_ms = clock_monotonic_ms();
    for (uint32_t i = 0; i < COUNT / STEP; i++) {
        assert_int_equal(take_some(&take, STEP, 5000, 3000000), STEP);
        if (i == 0) {
            uint64_t took_ms = clock_monotonic_ms() - began_ms;
            print_message("open again after %llu ms\n", (unsigned long long)took_ms);
        }
        for (uint32_t k = 0; k < STEP; k++)
            assert_int_equal(take.items[k].failures, 1);
        take_drop(&take);
    }
    rig_close();
}

/* One record is never settled while three million behind it are. */
static void test_one_stuck_record(void **state)
{
    (void)state;
    enum { COUNT = 3000000, STEP = 1000 };
    static struct take take, stuck;
    rig_redrive(1, 1);
    open_group();
    publish(0, 0, STEP, NULL);
    assert_int_equal(take_some(&stuck, 1, 5000, 3000000), 1);
    for (uint32_t done = 1; done < COUNT;) {
        if (done % STEP == 1 && done > 1)
            publish(0, done - 1, STEP, NULL);
        assert_true(take_some(&take, STEP, 5000, 30000) > 0);
        done += take.take.count + (take.take.count == STEP - 1);
        settle_all(&take, SETTLE_DONE);
        take_drop(&take);
    }
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 1);
    crash_and_open();
    assert_int_equal(settle_one(&stuck.items[0].receipt, SETTLE_DONE), STATUS_STALE);
    take_drop(&stuck);
    assert_int_equal(take_some(&stuck, 10, 5000, 30000), 1);
    assert_taken(&stuck, 0, 1);
    assert_int_equal(settle_one(&stuck.items[0].receipt, SETTLE_FAILED), STATUS_OK);
    take_drop(&stuck);
    assert_int_equal(take_dead(&take, 10, 5000, 30000), 1);
    assert_taken(&take, 0, 1);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    rig_close();
}

/* What is not for its taker */

static void take_as_start(struct take *take, struct taker *taker, uint32_t max, uint32_t wait_ms)
{
    *take = (struct take){0};
    request_init(&take->take.request, rig.loop, take_done);
    take->take.max_records = max;
    take->take.max_bytes = UINT32_MAX;
    take->take.wait_ms = wait_ms;
    take->take.lease_ms = 30000;
    take->take.items = take->items;
    take->take.taker = taker;
    group_take(rig.group, &take->take);
}

static uint32_t take_as(struct take *take, struct taker *taker, uint32_t max)
{
    take_as_start(take, taker, max, 0);
    take_wait(take);
    return take->take.count;
}

struct away {
    struct settle settle;
    enum status results[ITEMS_MAX];
    struct receipt receipts[ITEMS_MAX];
};

static void away_start(struct away *away, const struct take *take, struct taker *taker,
                       bool unharmed)
{
    struct group_settle *settle = &away->settle.settle;
    *away = (struct away){0};
    for (uint32_t i = 0; i < take->take.count; i++)
        away->receipts[i] = take->items[i].receipt;
    request_init(&settle->request, rig.loop, settle_done);
    settle->receipts = away->receipts;
    settle->count = take->take.count;
    settle->outcome = SETTLE_RELEASED;
    settle->not_for = taker;
    settle->unharmed = unharmed;
    settle->results = away->results;
    group_settle(rig.group, settle);
}

static void away_wait(const struct away *away, enum status expected)
{
    while (!away->settle.done)
        loop_run(rig.loop);
    for (uint32_t i = 0; i < away->settle.settle.count; i++)
        assert_int_equal(away->results[i], expected);
}

static void send_away(const struct take *take, struct taker *taker)
{
    static struct away away;
    away_start(&away, take, taker, false);
    away_wait(&away, STATUS_OK);
}

static void leave(struct taker *taker)
{
    atomic_store(&taker->gone, true);
    taker_unref(taker);
}

/* A take that waits belongs elsewhere as soon as its taker has a bar. */
static void test_barred_while_waiting(void **state)
{
    (void)state;
    static struct take take, waiting, other;
    struct taker *taker = taker_new();
    rig_open(1);
    open_group();
    publish(0, 0, 1, NULL);
    assert_int_equal(take_as(&take, taker, 1), 1);
    take_as_start(&waiting, taker, 5, 60000);
    run_ms(1);
    send_away(&take, taker);
    run_ms(20);
    assert_false(waiting.done);
    assert_int_equal(take_some(&other, 5, 0, 30000), 1);
    assert_true(other.items[0].again);
    assert_int_equal(other.items[0].failures, 0);
    publish(0, 1, 1, NULL);
    take_wait(&waiting);
    assert_taken(&waiting, 1, 1);
    assert_false(waiting.items[0].again);
    leave(taker);
    take_drop(&take);
    take_drop(&waiting);
    take_drop(&other);
    rig_close();
}

static void away_from_all(struct taker **takers, uint32_t count)
{
    static struct take take;
    for (uint32_t i = 0; i < count; i++) {
        takers[i] = taker_new();
        assert_int_equal(take_as(&take, takers[i], 1), 1);
        assert_int_equal(number_of(&take.items[0]), 0);
        send_away(&take, takers[i]);
        take_drop(&take);
    }
    run_ms(20);
}

static void test_bars_are_limited(void **state)
{
    (void)state;
    static struct take take;
    static struct taker *takers[LIMIT_GROUP_BARS + 2];
    rig_redrive(1, 5);
    open_group();
    publish(0, 0, 1, NULL);
    away_from_all(takers, LIMIT_GROUP_BARS);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 0);
    away_from_all(takers + LIMIT_GROUP_BARS, 1); /* one too many */
    assert_int_equal(stat_of(&rig.spec->stat->dead), 1);
    /* Who leaves makes room; of one taker so many. */
    for (uint32_t i = 0; i <= LIMIT_GROUP_BARS; i++)
        leave(takers[i]);
    publish(0, 1, LIMIT_GROUP_BARRED + 1, NULL);
    struct taker *taker = taker_new();
    for (uint32_t left = LIMIT_GROUP_BARRED + 1; left > 0;) {
        uint32_t got = take_as(&take, taker, LIMIT_TAKE_RECORDS);
        assert_true(got > 0 && got <= left);
        send_away(&take, taker);
        take_drop(&take);
        left -= got;
    }
    run_ms(20);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 2);
    /* What is done needs none. */
    assert_int_equal(take_some(&take, LIMIT_TAKE_RECORDS, 0, 30000), LIMIT_GROUP_BARRED);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    publish(0, 2000, 1, NULL);
    assert_int_equal(take_as(&take, taker, 1), 1);
    send_away(&take, taker);
    take_drop(&take);
    run_ms(20);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 2);
    assert_int_equal(take_as(&take, taker, 1), 0);
    leave(taker);
    rig_close();
}

/* Whether some of a full bar are done is looked at once per turn. */
static void test_full_bar_costs_little(void **state)
{
    (void)state;
    static struct take many, rest[2], other;
    static struct away away, second;
    struct taker *taker = taker_new();
    struct settle done;
    enum status result;
    rig_open(1);
    open_group();
    publish(0, 0, LIMIT_GROUP_BARRED + 2, NULL);
    assert_int_equal(take_as(&many, taker, LIMIT_GROUP_BARRED), LIMIT_GROUP_BARRED);
    assert_int_equal(take_as(&rest[0], taker, 1), 1);
    assert_int_equal(take_as(&rest[1], taker, 1), 1);
    send_away(&many, taker);
    take_drop(&many);
    assert_int_equal(take_some(&other, 1, 0, 30000), 1);
    assert_int_equal(number_of(&other.items[0]), 0);
    away_start(&away, &rest[0], taker, true);
    assert_int_equal(away.results[0], STATUS_OVER_QUOTA);
    settle_start(&done, &other.items[0].receipt, 1, SETTLE_DONE, &result);
    away_start(&second, &rest[1], taker, true);
    away_wait(&away, STATUS_OVER_QUOTA);
    away_wait(&second, STATUS_OVER_QUOTA);
    while (!done.done)
        loop_run(rig.loop);
    /* They were given back, and there is room for one by now. */
    assert_int_equal(take_as(&many, taker, 1), 1);
    send_away(&many, taker);
    take_drop(&many);
    assert_int_equal(take_as(&many, taker, 2), 1);
    take_drop(&many);
    take_drop(&rest[0]);
    take_drop(&rest[1]);
    take_drop(&other);
    leave(taker);
    rig_close();
}

/* What becomes a dead letter instead is that as soon as the answer comes, also after a crash; a
 * release is nothing that is stored. */
static void test_bars_are_answered_when_stored(void **state)
{
    (void)state;
    static struct take take;
    static struct away away;
    static struct taker *takers[LIMIT_GROUP_BARS + 1];
    rig_redrive(1, 5);
    open_group();
    publish(0, 0, 1, NULL);
    away_from_all(takers, LIMIT_GROUP_BARS - 1);
    for (uint32_t i = LIMIT_GROUP_BARS - 1; i <= LIMIT_GROUP_BARS; i++) {
        takers[i] = taker_new();
        assert_int_equal(take_as(&take, takers[i], 1), 1);
        door.hold = true;
        away_start(&away, &take, takers[i], false);
        run_ms(20);
        assert_int_equal(away.settle.done, i < LIMIT_GROUP_BARS);
        door_open();
        away_wait(&away, STATUS_OK);
        take_drop(&take);
    }
    run_ms(20);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 1);
    for (uint32_t i = 0; i <= LIMIT_GROUP_BARS; i++)
        leave(takers[i]);
    rig_close();
}

/* Who cannot have it is told; the record is as it was. */
static void test_bars_give_back_unharmed(void **state)
{
    (void)state;
    static struct take take;
    static struct away away;
    static struct taker *takers[LIMIT_GROUP_BARS];
    rig_redrive(1, 1);
    open_group();
    publish(0, 0, 1, NULL);
    away_from_all(takers, LIMIT_GROUP_BARS);
    struct taker *taker = taker_new();
    for (int i = 0; i < 3; i++) {
        assert_int_equal(take_as(&take, taker, 1), 1);
        assert_int_equal(take.items[0].failures, 0);
        away_start(&away, &take, taker, true);
        away_wait(&away, STATUS_OVER_QUOTA);
        take_drop(&take);
    }
    leave(takers[0]); /* room for one more */
    assert_int_equal(take_as(&take, taker, 1), 1);
    away_start(&away, &take, taker, true);
    away_wait(&away, STATUS_OK);
    take_drop(&take);
    assert_int_equal(take_as(&take, taker, 1), 0);
    run_ms(20);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 0);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 1);
    leave(taker);
    for (uint32_t i = 1; i < LIMIT_GROUP_BARS; i++)
        leave(takers[i]);
    rig_close();
}

/* Where the queue keeps no dead letters nothing is lost, and nobody runs in circles. */
static void test_bars_without_dead_letters(void **state)
{
    (void)state;
    static struct take take;
    static struct taker *takers[LIMIT_GROUP_BARS + 1];
    rig_open(1);
    open_group();
    publish(0, 0, 1, NULL);
    away_from_all(takers, LIMIT_GROUP_BARS + 1);
    assert_int_equal(take_as(&take, takers[LIMIT_GROUP_BARS], 1), 0); /* it waits */
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 1);
    take_start(&take, 1, 10 * GROUP_BARRED_MS, 30000);
    take_wait(&take);
    assert_taken(&take, 0, 1);
    take_drop(&take);
    for (uint32_t i = 0; i <= LIMIT_GROUP_BARS; i++)
        leave(takers[i]);
    rig_close();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_barred_while_waiting),
        cmocka_unit_test(test_bars_are_limited),
        cmocka_unit_test(test_full_bar_costs_little),
        cmocka_unit_test(test_bars_are_answered_when_stored),
        cmocka_unit_test(test_bars_give_back_unharmed),
        cmocka_unit_test(test_bars_without_dead_letters),
        cmocka_unit_test(test_dead_after_failures),
        cmocka_unit_test(test_dead_after_expiry),
        cmocka_unit_test(test_dead_when_rejected),
        cmocka_unit_test(test_dead_without_space),
        cmocka_unit_test(test_dead_policy_changes),
        cmocka_unit_test(test_dead_crash_everywhere),
        cmocka_unit_test(test_delayed_nack),
        cmocka_unit_test(test_renewed_lease),
        cmocka_unit_test(test_reopen_with_many_leases),
        cmocka_unit_test(test_one_stuck_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
