/* SPDX-License-Identifier: Apache-2.0 */
/* What a group says of records that have gone, and of the log that it holds. */
/* links: queue log storage_memory net_uv */
#include "tests/unit/queue_rig.h"

#include <time.h>

static unsigned purged;

static void purge_ended(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    purged++;
    loop_stop(rig.loop);
}

static void purge(void)
{
    struct log_purge purge = {.partition = 100};
    request_init(&purge.request, rig.loop, purge_ended);
    unsigned before = purged;
    log_purge(rig.worker, &purge);
    while (purged == before)
        loop_run(rig.loop);
    group_look(rig.group);
    run_ms(5);
}

static uint64_t value_of(_Atomic uint64_t *value)
{
    return atomic_load(value);
}

static void limit_records(uint64_t records)
{
    struct partition_spec spec = {
        .id = 100, .class = rig.queue->class, .retention_records = records};
    log_partition_limit(rig.worker, &spec);
    log_retain(rig.worker);
    run_ms(10);
    group_look(rig.group);
    run_ms(5);
}

static void purged_is_done_and_not_lost(void **state)
{
    (void)state;
    struct take take, rest;
    rig_open(1);
    open_group();
    publish(0, 0, 10, NULL);
    assert_int_equal(take_some(&take, 3, 0, 30000), 3);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    purge();
    struct group_stat *stat = rig.spec->stat;
    assert_int_equal(value_of(&stat->lost), 0);
    assert_int_equal(value_of(&stat->backlog), 0);
    assert_int_equal(value_of(&stat->held_bytes), 0);
    assert_int_equal(value_of(&stat->undone[0]), 10);
    assert_int_equal(value_of(&stat->acknowledged), 1);
    assert_int_equal(settle_one(&take.items[1].receipt, SETTLE_DONE), STATUS_STALE);
    assert_int_equal(take_some(&rest, 10, 0, 30000), 0);
    /* The group goes on, and has stored where. */
    publish(0, 10, 2, NULL);
    close_group(false);
    open_group();
    assert_int_equal(take_some(&rest, 10, 0, 30000), 2);
    assert_taken(&rest, 10, 2);
    assert_int_equal(value_of(&stat->lost), 0);
    take_drop(&take);
    take_drop(&rest);
    rig_close();
}

static void removed_is_lost(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    publish(0, 0, 10, NULL);
    assert_int_equal(take_some(&take, 2, 0, 30000), 2);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    limit_records(4);
    struct group_stat *stat = rig.spec->stat;
    assert_int_equal(value_of(&stat->undone[0]), 6);
    assert_int_equal(value_of(&stat->backlog), 4);
    assert_int_equal(value_of(&stat->lost), 5); /* the leased one, too */
    purge();
    assert_int_equal(value_of(&stat->lost), 5);
    take_drop(&take);
    rig_close();
}

static void held_is_what_lies_behind_the_oldest(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    for (unsigned i = 0; i < 10; i++)
        publish(0, i, 1, NULL);
    run_ms(5);
    uint64_t all = value_of(&rig.queue->stat->partitions[0].bytes);
    struct group_stat *stat = rig.spec->stat;
    assert_in_range(value_of(&stat->held_bytes), all - all / 10, all);
    assert_int_equal(value_of(&stat->undone[0]), 0);
    assert_int_equal(take_some(&take, 10, 0, 30000), 10);
    for (unsigned i = 1; i < 10; i++)
        assert_int_equal(settle_one(&take.items[i].receipt, SETTLE_DONE), STATUS_OK);
    assert_in_range(value_of(&stat->held_bytes), all - all / 10, all);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    run_ms(5);
    assert_int_equal(value_of(&stat->held_bytes), 0);
    publish(0, 10, 1, NULL);
    run_ms(5);
    assert_in_range(value_of(&stat->held_bytes), all / 20, all / 8);
    assert_int_equal(value_of(&stat->undone[0]), 10);
    take_drop(&take);
    rig_close();
}

static unsigned expired;

static void consumer_expired(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    expired++;
}

enum { IDLE_MS = 60 };

static int64_t wall_ms;

static int64_t wall_of_test(void)
{
    return wall_ms;
}

static uint64_t monotonic_of_system(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void let_idle_time_pass(void)
{
    wall_ms += 2 * IDLE_MS;
    run_ms(2 * IDLE_MS);
}

/* What the store says of a consumer that nobody takes for; no time passes but what the test lets
 * pass. */
static void who_stays_away_expires_when_overtaken(void **state)
{
    (void)state;
    static const struct clock_source clock = {monotonic_of_system, wall_of_test};
    struct take take, waiting;
    struct request request;
    struct group_stat *stat;
    wall_ms = clock_wall_ms();
    clock_use(&clock);
    rig_open(1);
    stat = rig.spec->stat;
    request_init(&request, rig.loop, consumer_expired);
    open_group();
    group_expire(rig.group, IDLE_MS, &request);
    publish(0, 0, 10, NULL);
    assert_int_equal(take_some(&take, 3, 0, 30000), 3);
    take_drop(&take);
    let_idle_time_pass();
    assert_int_equal(expired, 0); /* what it is owed is there */
    assert_false(atomic_load(&stat->overtaken));
    take_start(&waiting, 100, 5000, 30000);
    take_wait(&waiting); /* the rest */
    take_drop(&waiting);
    take_start(&waiting, 100, 5000, 30000);
    limit_records(4);
    assert_true(atomic_load(&stat->overtaken) || !waiting.done);
    let_idle_time_pass();
    assert_int_equal(expired, 0); /* somebody waits */
    group_take_cancel(rig.group, &waiting.take);
    take_wait(&waiting);
    publish(0, 10, 10, NULL);
    limit_records(4);
    assert_true(atomic_load(&stat->overtaken));
    run_ms(5);
    crash_and_open(); /* and that is stored */
    group_expire(rig.group, 1000000, &request);
    run_ms(5);
    assert_true(atomic_load(&stat->overtaken));
    group_expire(rig.group, IDLE_MS, NULL);
    wall_ms += 2 * IDLE_MS;
    for (unsigned i = 0; i < 200 && expired == 0; i++)
        run_ms(10);
    assert_int_equal(expired, 1);
    let_idle_time_pass();
    assert_int_equal(expired, 1); /* once */
    rig_close();
    clock_use(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(purged_is_done_and_not_lost),
        cmocka_unit_test(removed_is_lost),
        cmocka_unit_test(held_is_what_lies_behind_the_oldest),
        cmocka_unit_test(who_stays_away_expires_when_overtaken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
