/* SPDX-License-Identifier: Apache-2.0 */
/* The storage contract: the same tests on every engine, and on top the damage that only a directory
 * has. Here are those of a store as a whole, and the program that runs all. */
#include "tests/storage/fixture.h"

#include "storage/memory/memory.h"
#include "storage/rocksdb/rocksdb.h"

static void a_reopen_keeps_everything(void **state)
{
    struct fixture *fixture = *state;
    if (!fixture_keeps(fixture))
        skip();
    for (uint64_t i = 0; i < 10; i++) {
        append_one(fixture, 1, 10, 500, i);
        append_one(fixture, 2, 1, 500, i);
    }
    put_rows(fixture, 'b', 0, 5);
    assert_int_equal(trim_run(fixture, 2, 4, false), STATUS_OK);
    append_one(fixture, 3, 5, 50, 0);
    assert_int_equal(trim_run(fixture, 3, 5, false), STATUS_OK); /* empty, but its end stays */
    struct storage_bounds before = bounds_of(fixture, 1);
    for (int turn = 0; turn < 3; turn++) {
        fixture_reopen(fixture);
        struct storage_bounds after = bounds_of(fixture, 1);
        assert_int_equal(after.end, 100);
        assert_int_equal(after.bytes, before.bytes);
        assert_int_equal(after.first_time_ms, before.first_time_ms);
        assert_int_equal(after.last_time_ms, before.last_time_ms);
        assert_int_equal(bounds_of(fixture, 2).start, 4);
        assert_int_equal(bounds_of(fixture, 2).bytes, (6 + turn) * (OVERHEAD + 500));
        assert_int_equal(bounds_of(fixture, 3).start, 5 + turn);
        assert_string_equal(scan_text(fixture, "b", "c", 0),
                            "b000=v0,b001=v1,b002=v2,b003=v3,b004=v4");
        struct storage_read read;
        read_init(fixture, &read, 1, 15);
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_int_equal(read.count, 9);
        for (uint32_t i = 0; i < read.count; i++)
            assert_true(batch_is(blob_span(read.batches[i].bytes), 10, 500, 1 + i));
        read_release(&read);
        assert_int_equal(append_one(fixture, 2, 1, 500, 0), 10 + turn);
        assert_int_equal(append_one(fixture, 3, 1, 500, 0), 5 + turn);
        assert_int_equal(trim_run(fixture, 3, 6 + (uint64_t)turn, false), STATUS_OK);
    }
}

static enum status sync_that_fails(void *context)
{
    unsigned *left = context;
    if (*left == 0)
        return STATUS_INTERNAL;
    --*left;
    return STATUS_OK;
}

static void a_failed_sync_is_final(void **state)
{
    struct fixture *fixture = *state;
    unsigned left = 20;
    fixture_close(fixture);
    fixture->options.sync_hook = sync_that_fails;
    fixture->options.sync_context = &left;
    fixture_open(fixture);
    unsigned good = 0;
    struct op *waiting = op_new(fixture);
    op_batch(waiting, 9, 1, 10, 0);
    waiting->append.unit = 1;
    waiting->append.part_count = 2;
    op_start(fixture, waiting);
    for (unsigned i = 0; i < 60; i++) {
        struct op *op = op_new(fixture);
        op_batch(op, 1, 1, 10, i);
        op_start(fixture, op);
        op_wait(fixture, op);
        enum status status = op->append.request.status;
        assert_true(status == STATUS_OK || status == STATUS_STORAGE_FAILED);
        assert_true(status != STATUS_OK || good == i); /* none after the first that failed */
        good += status == STATUS_OK;
        op_free(op);
    }
    wait_all(fixture); /* the waiting part has failed too */
    assert_int_equal(waiting->append.request.status, STATUS_STORAGE_FAILED);
    op_free(waiting);
    assert_true(good > 0 && good < 60);
    assert_int_equal(fixture->storage->ops->health(fixture->storage), STATUS_STORAGE_FAILED);
    assert_int_equal(trim_run(fixture, 1, 1, false), STATUS_STORAGE_FAILED);
    assert_int_equal(bounds_of(fixture, 1).end, good); /* reading goes on */
}

static void remember(void *context, const char *name, double value)
{
    assert_true(value >= 0);
    if (strstr(name, "storage_") == name)
        ++*(unsigned *)context;
}

static void health_and_metrics(void **state)
{
    struct fixture *fixture = *state;
    unsigned count = 0;
    append_one(fixture, 1, 1, 10, 0);
    assert_int_equal(fixture->storage->ops->health(fixture->storage), STATUS_OK);
    fixture->storage->ops->metrics(fixture->storage, remember, &count);
    assert_true(count >= 3);
    if (!fixture_keeps(fixture))
        return;
    double syncs = metric_of(fixture, "sync_seconds_count");
    assert_true(syncs >= 2); /* the open's and the append's */
    assert_true(metric_of(fixture, "sync_seconds_bucket{le=\"+Inf\"}") == syncs);
    assert_true(metric_of(fixture, "sync_seconds_bucket{le=\"5\"}") <= syncs);
    assert_true(metric_of(fixture, "sync_seconds_bucket{le=\"0.0001\"}") <=
                metric_of(fixture, "sync_seconds_bucket{le=\"0.25\"}"));
    assert_true(metric_of(fixture, "sync_seconds_sum") > 0);
}

static const struct CMUnitTest life_tests[] = {
    cmocka_unit_test(a_reopen_keeps_everything),
    cmocka_unit_test(a_failed_sync_is_final),
    cmocka_unit_test(health_and_metrics),
};

static struct engine_case cases[] = {
    {"memory", &memory_storage_ops, PLACE_NONE},
    {"rocksdb", &rocksdb_storage_ops, PLACE_DIRECTORY},
    {"rocksdb in memory", &rocksdb_storage_ops, PLACE_MEMORY_ENVIRONMENT},
};

static struct CMUnitTest bind(struct CMUnitTest test, struct engine_case *engine)
{
    test.setup_func = fixture_setup;
    test.teardown_func = fixture_teardown;
    test.initial_state = engine;
    return test;
}

static int run_group(const char *name, const struct CMUnitTest *tests, size_t count,
                     struct engine_case *engine)
{
    struct CMUnitTest bound[64];
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++)
        bound[i] = bind(tests[i], engine);
    return _cmocka_run_group_tests(name, bound, count, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return crash_child(argv[1], argv[2]);
    if (argc == 2)
        cmocka_set_test_filter(argv[1]); /* a name, with wildcards */
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        failed += run_group(cases[i].name, append_tests, append_test_count, &cases[i]);
        failed += run_group(cases[i].name, read_tests, read_test_count, &cases[i]);
        failed += run_group(cases[i].name, row_tests, row_test_count, &cases[i]);
        failed +=
            run_group(cases[i].name, life_tests, sizeof life_tests / sizeof *life_tests, &cases[i]);
        failed += run_group(cases[i].name, random_tests, random_test_count, &cases[i]);
    }
    failed += run_group("rocksdb, damaged", crash_tests, crash_test_count, &cases[1]);
    failed += run_group("rocksdb, checksums", checksum_tests, checksum_test_count, &cases[1]);
    failed += run_group("rocksdb, evacuation", evacuate_tests, evacuate_test_count, &cases[1]);
    return failed;
}
