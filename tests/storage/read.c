/* SPDX-License-Identifier: Apache-2.0 */
/* Reads by offset and by time on every engine, and where trims and floors let them begin. */
#include "tests/storage/fixture.h"

static void reads_by_offset(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < 30; i++)
        append_one(fixture, 1, 10, 1000, i);
    struct storage_read read;
    read_init(fixture, &read, 1, 155); /* in the middle of a batch */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 15);
    for (uint32_t i = 0; i < read.count; i++) {
        assert_int_equal(read.batches[i].base_offset, 150 + 10 * i);
        assert_int_equal(read.batches[i].record_count, 10);
        assert_int_equal(read.batches[i].cumulative_bytes, (16 + i) * (OVERHEAD + 1000));
        assert_true(batch_is(blob_span(read.batches[i].bytes), 10, 1000, 15 + i));
    }
    read_release(&read);
    read_init(fixture, &read, 1, 20);
    read.end = 45; /* the batch that begins at 40 still does */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 3);
    read_release(&read);
    read_init(fixture, &read, 1, 20);
    read.max_bytes = 1;
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 1);
    read_release(&read);
    read_init(fixture, &read, 1, 0);
    read.max_bytes = 3 * 1061;
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 3);
    read_release(&read);
    read_init(fixture, &read, 1, 300); /* the end */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 0);
    read_init(fixture, &read, 4711, 0); /* nobody knows it */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 0);
}

static void a_read_holds_at_most_its_array(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < STORAGE_READ_MAX + 6; i++)
        append_one(fixture, 1, 1, 10, i);
    struct storage_read read;
    read_init(fixture, &read, 1, 0);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, STORAGE_READ_MAX);
    read_release(&read);
    read_init(fixture, &read, 1, STORAGE_READ_MAX);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 6);
    read_release(&read);
}

static uint64_t first_by_time(struct fixture *fixture, int64_t time_ms, uint64_t offset)
{
    struct storage_read read;
    read_init(fixture, &read, 1, offset);
    read.by_time = true;
    read.time_ms = time_ms;
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    uint64_t base = read.count > 0 ? read.batches[0].base_offset : UINT64_MAX;
    read_release(&read);
    return base;
}

static void reads_by_time(void **state)
{
    struct fixture *fixture = *state;
    for (int64_t i = 0; i < 40; i++) {
        time_set(1000000 + i * 10);
        append_one(fixture, 1, 5, 300, (uint64_t)i);
    }
    assert_int_equal(first_by_time(fixture, 0, 0), 0);
    assert_int_equal(first_by_time(fixture, 1000000, 0), 0);
    assert_int_equal(first_by_time(fixture, 1000001, 0), 5);
    assert_int_equal(first_by_time(fixture, 1000200, 0), 100);
    assert_int_equal(first_by_time(fixture, 1000200, 150), 150);
    assert_int_equal(first_by_time(fixture, 1000391, 0), UINT64_MAX);
    time_set(5000); /* the clock went back: append time does not */
    append_one(fixture, 1, 5, 300, 40);
    assert_int_equal(first_by_time(fixture, 1000390, 0), 195);
    assert_int_equal(bounds_of(fixture, 1).first_time_ms, 1000000);
    assert_int_equal(bounds_of(fixture, 1).last_time_ms, 1000390);
    assert_int_equal(trim_run(fixture, 1, 50, false), STATUS_OK);
    assert_int_equal(first_by_time(fixture, 0, 0), 50);
}

static void trims_take_effect_at_once(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t i = 0; i < 10; i++)
        append_one(fixture, 1, 10, 200, i);
    assert_int_equal(trim_run(fixture, 1, 35, false), STATUS_OK);
    struct storage_read read;
    read_init(fixture, &read, 1, 34);
    assert_int_equal(read_run(fixture, &read), STATUS_OUT_OF_RANGE);
    assert_int_equal(read.count, 0);
    read_init(fixture, &read, 1, 35);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.batches[0].base_offset, 30);
    read_release(&read);
    struct storage_bounds bounds = bounds_of(fixture, 1);
    assert_int_equal(bounds.start, 35);
    assert_int_equal(bounds.end, 100);
    assert_int_equal(bounds.bytes, 7 * (OVERHEAD + 200));
    assert_int_equal(bounds.cumulative_bytes, 10 * (OVERHEAD + 200));
    assert_int_equal(trim_run(fixture, 1, 20, false), STATUS_OK); /* never backwards */
    assert_int_equal(bounds_of(fixture, 1).start, 35);
    assert_int_equal(trim_run(fixture, 1, 1000, false), STATUS_OK); /* at most all */
    bounds = bounds_of(fixture, 1);
    assert_int_equal(bounds.start, 100);
    assert_int_equal(bounds.end, 100);
    assert_int_equal(bounds.bytes, 0);
    assert_int_equal(bounds.first_time_ms, 0);
    assert_int_equal(append_one(fixture, 1, 1, 200, 1), 100);
    assert_int_equal(bounds_of(fixture, 1).bytes, OVERHEAD + 200);
    assert_int_equal(trim_run(fixture, 4711, 5, false), STATUS_OK);
    assert_int_equal(bounds_of(fixture, 4711).end, 0);
}

static void a_removed_partition_is_gone(void **state)
{
    struct fixture *fixture = *state;
    append_one(fixture, 1, 10, 200, 1);
    append_one(fixture, 2, 10, 200, 2);
    assert_int_equal(trim_run(fixture, 1, 0, true), STATUS_OK);
    assert_int_equal(bounds_of(fixture, 1).end, 0);
    assert_int_equal(bounds_of(fixture, 2).end, 10);
    struct storage_read read;
    read_init(fixture, &read, 1, 0);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 0);
    if (fixture_keeps(fixture)) {
        fixture_reopen(fixture);
        assert_int_equal(bounds_of(fixture, 1).end, 0);
        assert_int_equal(bounds_of(fixture, 2).end, 10);
    }
}

static void floors(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t size = OVERHEAD + 400;
    for (int64_t i = 0; i < 20; i++) {
        time_set(2000000 + i * 100);
        append_one(fixture, 1, 3, 400, (uint64_t)i);
    }
    assert_int_equal(floor_of(fixture, 1, 0, 0), 0);
    assert_int_equal(floor_of(fixture, 1, 2000000, 0), 0);
    assert_int_equal(floor_of(fixture, 1, 2000550, 0), 18);
    assert_int_equal(floor_of(fixture, 1, 9000000, 0), 60);
    assert_int_equal(floor_of(fixture, 1, 0, 20 * size), 0);
    assert_int_equal(floor_of(fixture, 1, 0, 20 * size - 1), 3);
    assert_int_equal(floor_of(fixture, 1, 0, 5 * size), 45);
    assert_int_equal(floor_of(fixture, 1, 0, 1), 60);
    assert_int_equal(floor_of(fixture, 1, 2000550, 5 * size), 45);
    assert_int_equal(floor_of(fixture, 1, 2001900, 5 * size), 57);
    assert_int_equal(trim_run(fixture, 1, 50, false), STATUS_OK);
    assert_int_equal(floor_of(fixture, 1, 2000550, 0), 50);
    assert_int_equal(floor_of(fixture, 4711, 1, 1), 0);
}

/* Small segments, so that reads, times, floors and trims cross them. */
static void many_segments(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t size = OVERHEAD + 1000;
    fixture_close(fixture);
    fixture->options.segment_bytes = 20000;
    fixture->options.wal_bytes = 100000;
    fixture_open(fixture);
    for (int64_t i = 0; i < 200; i++) {
        time_set(1000 + i);
        append_one(fixture, (uint64_t)i % 4, 2, 1000, (uint64_t)i);
    }
    for (int turn = 0; turn < 2; turn++) {
        struct storage_read read;
        uint64_t offset = 1, wanted = 0;
        while (offset < 100) {
            read_init(fixture, &read, 3, offset);
            read.max_bytes = 7000;
            assert_int_equal(read_run(fixture, &read), STATUS_OK);
            assert_true(read.count > 0);
            for (uint32_t i = 0; i < read.count; i++, wanted += 2) {
                assert_int_equal(read.batches[i].base_offset, wanted);
                assert_true(batch_is(blob_span(read.batches[i].bytes), 2, 1000, wanted * 2 + 3));
            }
            offset = wanted;
            read_release(&read);
        }
        assert_int_equal(floor_of(fixture, 0, 1100, 0), 50);
        assert_int_equal(floor_of(fixture, 0, 1101, 0), 52);
        assert_int_equal(floor_of(fixture, 0, 0, 10 * size), 80);
        if (fixture_keeps(fixture))
            fixture_reopen(fixture);
    }
    for (uint64_t partition = 0; partition < 4; partition++)
        assert_int_equal(trim_run(fixture, partition, 61, false), STATUS_OK);
    append_one(fixture, 0, 1, 10, 0);
    for (int turn = 0; turn < 2; turn++) {
        struct storage_bounds bounds = bounds_of(fixture, 1);
        assert_int_equal(bounds.start, 61);
        assert_int_equal(bounds.bytes, 20 * size);
        assert_int_equal(bounds.first_time_ms, 1000 + 30 * 4 + 1);
        struct storage_read read;
        read_init(fixture, &read, 1, 61);
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_int_equal(read.count, 20);
        assert_int_equal(read.batches[0].base_offset, 60);
        read_release(&read);
        if (fixture_keeps(fixture))
            fixture_reopen(fixture);
    }
}

const struct CMUnitTest read_tests[] = {
    cmocka_unit_test(reads_by_offset),
    cmocka_unit_test(a_read_holds_at_most_its_array),
    cmocka_unit_test(reads_by_time),
    cmocka_unit_test(trims_take_effect_at_once),
    cmocka_unit_test(a_removed_partition_is_gone),
    cmocka_unit_test(floors),
    cmocka_unit_test(many_segments),
};
const size_t read_test_count = sizeof read_tests / sizeof *read_tests;
