/* SPDX-License-Identifier: Apache-2.0 */
/* One partition: what retention removes, and how it closes, while something is under way. */
/* links: log storage_memory net_uv */
#include "tests/unit/partition_rig.h"

/* With retention_ms, what is older goes; readers below learn where to go on. */
static void retention_by_time(void **state)
{
    (void)state;
    open_partition();
    append_now(2, 10);
    now_ms = 5000;
    append_now(2, 10);
    now_ms = 9000;
    append_now(2, 10);
    log_retain(f.worker);
    run_a_little();
    assert_int_equal(f.door.floors, 0); /* no limits */
    limit(10000, 0);
    log_retain(f.worker);
    run_a_little();
    assert_int_equal(f.door.floors, 0); /* nothing is that old */
    uint64_t bytes = atomic_load(&f.stat.bytes);
    now_ms = 12000;
    log_retain(f.worker);
    run_a_little();
    assert_int_equal(atomic_load(&f.stat.start), 2);
    assert_int_equal(atomic_load(&f.stat.bytes), bytes / 3 * 2);
    assert_int_equal(atomic_load(&f.stat.first_time_ms), 5000);
    struct log_read read = {.offset = 1};
    assert_int_equal(read_now(&read), STATUS_OUT_OF_RANGE);
    assert_int_equal(read.start, 2);
    expect_read(2, 0, 2, 2);
    assert_null(log_tail(f.worker, PARTITION, 1));
    assert_int_equal(read_time(0, 0), 2);
    now_ms = 100000;
    log_retain(f.worker);
    log_retain(f.worker);
    run_a_little();
    assert_int_equal(atomic_load(&f.stat.start), 6);
    assert_int_equal(atomic_load(&f.stat.bytes), 0);
    assert_int_equal(atomic_load(&f.stat.first_time_ms), 0);
    expect_read(6, 0, 0, 0);
    append_now(1, 10);
    assert_int_equal(atomic_load(&f.stat.first_time_ms), 100000);
    expect_read(6, 0, 6, 1);
}

static void retention_by_bytes(void **state)
{
    (void)state;
    open_partition();
    for (int i = 0; i < 10; i++)
        append_now(1, 10000);
    limit(0, 35000);
    log_retain(f.worker);
    run_a_little();
    assert_int_equal(atomic_load(&f.stat.start), 7);
    assert_in_range(atomic_load(&f.stat.bytes), 30000, 35000);
    /* A start found before stays when limits become wider. */
    limit(0, 350000);
    log_retain(f.worker);
    run_a_little();
    assert_int_equal(atomic_load(&f.stat.start), 7);
    log_partition_close(f.worker, PARTITION, false);
    open_partition();
    struct log_read read = {.offset = 6};
    assert_int_equal(read_now(&read), STATUS_OUT_OF_RANGE);
    assert_int_equal(atomic_load(&f.stat.start), 7);
    expect_read(7, 0, 7, 3);
}

static void closing_waits_for_what_is_under_way(void **state)
{
    (void)state;
    for (int remove = 0; remove < 2; remove++) {
        open_partition();
        append_now(1, 10);
        log_partition_close(f.worker, PARTITION, false);
        open_partition();
        run_a_little();
        f.door.hold = true;
        struct done *done = append(1, 10);
        struct log_read read = {.offset = 0};
        read_start(&read);
        unsigned observed = f.observed;
        log_partition_close(f.worker, PARTITION, remove);
        struct done *late = append(1, 10);
        run_a_little();
        assert_int_equal(late->status, STATUS_NOT_FOUND);
        assert_int_equal(f.pending, 2);
        door_release(&f.door);
        wait_all();
        assert_int_equal(done->status, STATUS_OK);
        assert_int_equal(f.read_status, STATUS_OK);
        assert_true(read.count > 0);
        read_free(&read);
        assert_int_equal(f.observed, observed); /* nobody listens to a closed partition */
        run_a_little();
    }
    struct storage_bounds bounds = bounds_now();
    assert_int_equal(bounds.start, bounds.end);
}

static void closing_before_the_opening_is_done(void **state)
{
    (void)state;
    f.door.hold = true;
    open_partition();
    struct done *done = append(1, 10);
    log_partition_close(f.worker, PARTITION, true);
    wait_all();
    assert_int_equal(done->status, STATUS_NOT_FOUND);
    door_release(&f.door);
    run_a_little();
}

/* Closed while retention is at work on it and asked to look at it once more. */
static void closing_during_retention(void **state)
{
    (void)state;
    for (int remove = 0; remove < 2; remove++) {
        open_partition();
        append(1, 10000);
        append(1, 10000);
        wait_all();
        limit(0, 12000);
        log_retain(f.worker);
        log_retain(f.worker);
        log_partition_close(f.worker, PARTITION, remove);
        run_a_little();
    }
}

/* Retention that overtakes a read under way: what was read is gone all the same. */
static void retention_overtakes_reads(void **state)
{
    (void)state;
    open_partition();
    append_now(1, 10000);
    append_now(1, 10000);
    log_partition_close(f.worker, PARTITION, false);
    open_partition();
    run_a_little();
    struct log_read read = {.offset = 0}, by_time = {.by_time = true, .max_bytes = 1};
    limit(0, 15000);
    f.door.hold = true;
    read_start(&read);
    struct storage_read *held = f.door.held_read;
    read_start(&by_time);
    /* Storage answers first, but the mails with the batches arrive after the start has moved. */
    f.door.hold = false;
    log_retain(f.worker);
    f.door.inner->ops->read(f.door.inner, held);
    door_release(&f.door);
    wait_all();
    assert_int_equal(read.count, 0);
    assert_int_equal(by_time.count, 1);
    assert_int_equal(by_time.batches[0]->base_offset, 1);
    read_free(&by_time);
    read = (struct log_read){.offset = 0};
    assert_int_equal(read_now(&read), STATUS_OUT_OF_RANGE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(retention_by_time),
        TEST(retention_by_bytes),
        TEST(closing_waits_for_what_is_under_way),
        TEST(closing_before_the_opening_is_done),
        TEST(closing_during_retention),
        TEST(retention_overtakes_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
