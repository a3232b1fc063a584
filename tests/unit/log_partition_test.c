/* SPDX-License-Identifier: Apache-2.0 */
/* One partition: appends and reads, what is held back or refused, gaps and corrupt batches, and
 * random reads against a model. */
/* links: log storage_memory net_uv */
#include "tests/unit/partition_rig.h"

static void appends_are_read_back(void **state)
{
    (void)state;
    open_partition();
    struct done *first = append(3, 10), *second = append(1, 10), *third = append(2, 10);
    wait_all();
    assert_int_equal(first->order, 1);
    assert_int_equal(second->order, 2);
    assert_int_equal(third->order, 3);
    assert_int_equal(first->append.batch->base_offset, 0);
    assert_int_equal(second->append.batch->base_offset, 3);
    assert_int_equal(third->append.batch->base_offset, 4);
    assert_int_equal(third->append.batch->append_time_ms, 1000);
    assert_int_equal(f.observed, 3);
    assert_int_equal(atomic_load(&f.stat.end), 6);
    assert_int_equal(atomic_load(&f.stat.first_time_ms), 1000);
    assert_true(log_has(f.worker, PARTITION));

    expect_read(0, 0, 0, 3);
    expect_read(2, 0, 0, 3);
    expect_read(3, 0, 3, 2);
    expect_read(5, 0, 4, 1);
    expect_read(0, 1, 0, 1); /* at least one */
    expect_read(6, 0, 0, 0);
    expect_read(600, 0, 0, 0);
    assert_int_equal(f.door.reads, 0); /* all from the tail */
    struct batch *batch = log_tail(f.worker, PARTITION, 5);
    assert_ptr_equal(batch, third->append.batch);
    batch_unref(batch);
    assert_null(log_tail(f.worker, PARTITION, 6));
    assert_null(log_tail(f.worker, 8, 0));
}

static void operations_wait_for_the_opening(void **state)
{
    (void)state;
    f.door.hold = true;
    open_partition();
    struct done *first = append(1, 10);
    struct log_read read = {.offset = 0};
    read_start(&read);
    struct done *second = append(1, 10);
    run_a_little();
    assert_int_equal(f.pending, 3);
    door_release(&f.door);
    wait_all();
    assert_int_equal(first->status, STATUS_OK);
    assert_int_equal(second->append.batch->base_offset, 1);
    assert_int_equal(f.read_status, STATUS_OK);
    assert_int_equal(read.count, 0); /* nothing was committed when it was served */
}

static void unknown_partitions_are_not_found(void **state)
{
    (void)state;
    struct done *done = append_now(1, 10);
    assert_int_equal(done->status, STATUS_NOT_FOUND);
    assert_non_null(done->append.batch);
    struct log_read read = {.offset = 0};
    assert_int_equal(read_now(&read), STATUS_NOT_FOUND);
    log_partition_close(f.worker, PARTITION, true);
    assert_false(log_has(f.worker, PARTITION));
}

/* A partition opened again finds in storage what it had. */
static void reopened_partitions_read_from_storage(void **state)
{
    (void)state;
    open_partition();
    append(2, 100);
    append(2, 100);
    wait_all();
    uint64_t bytes = atomic_load(&f.stat.bytes);
    log_partition_close(f.worker, PARTITION, false);
    assert_false(log_has(f.worker, PARTITION));
    open_partition();
    expect_read(0, 0, 0, 2);
    assert_int_equal(f.door.reads, 1);
    assert_int_equal(atomic_load(&f.stat.bytes), bytes);
    struct done *done = append_now(1, 100);
    assert_int_equal(done->append.batch->base_offset, 4);
    expect_read(4, 0, 4, 1);
    assert_int_equal(f.door.reads, 1);
    struct log_read read = {.offset = 1};
    assert_int_equal(read_now(&read), STATUS_OK);
    assert_int_equal(read.count, 3);
    for (uint32_t i = 0; i < 3; i++) {
        struct record record;
        batch_record(read.batches[i], 0, &record);
        assert_int_equal(record.offset, i * 2);
        assert_int_equal(record.append_time_ms, 1000);
        assert_int_equal(read.batches[i]->partition, PARTITION);
        assert_true(read.batches[i]->cumulative_bytes > i * 200);
    }
    assert_int_equal(read.batches[2]->cumulative_bytes, done->append.batch->cumulative_bytes);
    read_free(&read);
}

static void the_tail_has_a_budget(void **state)
{
    (void)state;
    open_partition();
    enum { BATCHES = LIMIT_TAIL_BYTES / 1000000 + 10 };
    for (unsigned i = 0; i < BATCHES; i++)
        append_now(1, 1000000);
    assert_null(log_tail(f.worker, PARTITION, 0));
    struct batch *last = log_tail(f.worker, PARTITION, BATCHES - 1);
    assert_non_null(last);
    batch_unref(last);
    expect_read(BATCHES - 2, 0, BATCHES - 2, 1);
    assert_int_equal(f.door.reads, 0);
    unsigned read_batches = 0;
    for (uint64_t offset = 0; offset < BATCHES; offset++, read_batches++)
        expect_read(offset, 0, offset, 1);
    assert_int_equal(read_batches, BATCHES);
    assert_in_range(f.door.reads, 8, 14);
}

static void check_times(void)
{
    assert_int_equal(read_time(0, 0), 0);
    assert_int_equal(read_time(1000, 0), 0);
    assert_int_equal(read_time(1001, 0), 2);
    assert_int_equal(read_time(1010, 0), 2);
    assert_int_equal(read_time(1011, 0), 6);
    assert_int_equal(read_time(1020, 0), 6);
    assert_int_equal(read_time(1021, 0), UINT64_MAX);
    assert_int_equal(read_time(0, 4), 4);
}

static void reads_by_time(void **state)
{
    (void)state;
    open_partition();
    append_now(2, 10);
    now_ms = 1010;
    append_now(2, 10);
    append_now(2, 10);
    now_ms = 1020;
    append_now(2, 10);
    check_times();
    assert_int_equal(f.door.reads, 0);
    log_partition_close(f.worker, PARTITION, false);
    open_partition();
    check_times(); /* all from storage */
    assert_true(f.door.reads > 0);
    now_ms = 1030;
    append_now(1, 10);
    f.door.reads = 0;
    assert_int_equal(read_time(1030, 0), 8); /* could have an equal before it: asks storage */
    assert_int_equal(f.door.reads, 1);
    now_ms = 1040;
    append_now(1, 10);
    assert_int_equal(read_time(1035, 0), 9);
    assert_int_equal(f.door.reads, 1);
}

static void refused_appends_change_nothing(void **state)
{
    (void)state;
    open_partition();
    append_now(1, 10);
    f.door.refuse_append = 2;
    struct done *a = append(1, 10), *b = append(1, 10), *c = append(1, 10);
    wait_all();
    assert_int_equal(a->status, STATUS_OK);
    assert_int_equal(b->status, STATUS_NO_SPACE);
    assert_int_equal(c->status, STATUS_OK);
    assert_true(a->order < b->order && b->order < c->order);
    assert_non_null(b->append.batch);
    assert_int_equal(c->append.batch->base_offset, 2);
    assert_int_equal(atomic_load(&f.stat.end), 3);
    assert_int_equal(f.observed, 3);
    expect_read(0, 0, 0, 3);
}

/* Rows go with a batch or alone, in the order of the partition. */
static void rows_may_come_alone(void **state)
{
    (void)state;
    open_partition();
    struct storage_row row = {.change = STORAGE_PUT,
                              .key = span_from_text("k"),
                              .value = span_from_text("v"),
                              .offset_at = -1};
    struct done *done = &f.done[f.started++];
    request_init(&done->append.request, f.loop, append_done);
    done->append.partition = PARTITION;
    done->append.rows = &row;
    done->append.row_count = 1;
    f.pending++;
    log_append(f.worker, &done->append);
    wait_all();
    assert_int_equal(done->status, STATUS_OK);
    assert_int_equal(f.observed, 0);
    assert_int_equal(atomic_load(&f.stat.end), 0);
}

/* Puts a batch into storage behind the log's back. */
static void store_behind(struct blob *blob, uint32_t records)
{
    struct storage_batch stored = {
        .partition = PARTITION, .class = spec.class, .record_count = records, .bytes = blob};
    struct storage_append to = {.batches = &stored, .batch_count = 1};
    request_init(&to.request, f.loop, bounds_known);
    f.pending++;
    f.door.inner->ops->append(f.door.inner, &to);
    wait_all();
    blob_unref(blob);
}

static void corrupt_batches_are_passed(void **state)
{
    (void)state;
    struct blob *garbage = blob_new(100);
    memset(garbage->bytes, 0x55, 100);
    store_behind(garbage, 3);
    open_partition();
    append_now(1, 10);
    log_partition_close(f.worker, PARTITION, false);
    open_partition();
    struct log_read read = {.offset = 1};
    assert_int_equal(read_now(&read), STATUS_CORRUPT);
    assert_int_equal(read.count, 0);
    assert_int_equal(read.start, 3);
    expect_read(3, 0, 3, 1);
    heap_fail_after(1);
    read = (struct log_read){.offset = 3};
    assert_int_equal(read_now(&read), STATUS_NO_MEMORY);
    heap_fail_after(0);
}

static void gaps_are_legal(void **state)
{
    (void)state;
    open_partition();
    append_now(1, 10);
    struct record_input input = {.value = span_from_text("x")};
    assert_int_equal(batch_builder_add(&f.builder, &input), STATUS_OK);
    struct batch *hidden = batch_builder_seal(&f.builder);
    store_behind(blob_ref(hidden->bytes), 10);
    batch_unref(hidden);
    struct done *done = append_now(1, 10);
    assert_int_equal(done->append.batch->base_offset, 11);
    expect_read(1, 0, 11, 1);
    expect_read(5, 0, 11, 1);
    expect_read(0, 0, 0, 2);
    assert_null(log_tail(f.worker, PARTITION, 5));
    assert_int_equal(f.door.reads, 0);
}

/* What storage has and the log was not told of is not committed. */
static void reads_stop_at_the_commit_index(void **state)
{
    (void)state;
    open_partition();
    struct done *done = append_now(2, 10);
    log_partition_close(f.worker, PARTITION, false);
    open_partition();
    run_a_little();
    store_behind(blob_ref(done->append.batch->bytes), 2);
    expect_read(0, 0, 0, 1);
    expect_read(2, 0, 0, 0);
    assert_int_equal(read_time(5000, 0), UINT64_MAX);
    assert_int_equal(f.door.reads, 2);
}

static void expect_shared(uint64_t offset)
{
    struct log_read read = {.offset = offset, .max_bytes = 1, .shared = true};
    assert_int_equal(read_now(&read), STATUS_OK);
    assert_int_equal(read.count, 1);
    assert_in_range(offset, read.batches[0]->base_offset, batch_end(read.batches[0]) - 1);
    read_free(&read);
}

/* Many that come back to the same stretch read it once, and ahead. */
static void shared_reads_are_done_once(void **state)
{
    (void)state;
    enum { BATCHES = 200, READS = 20 };
    static struct log_read reads[READS];
    open_partition();
    for (unsigned i = 0; i < BATCHES; i++)
        append(10, 100);
    wait_all();
    log_partition_close(f.worker, PARTITION, false);
    open_partition();
    run_a_little();
    f.door.hold = true;
    for (unsigned i = 0; i < READS; i++) {
        reads[i] = (struct log_read){.offset = i / 2, .max_bytes = 1, .shared = true};
        read_start(&reads[i]);
    }
    assert_int_equal(f.door.reads, 1); /* the others wait for it */
    door_release(&f.door);
    wait_all();
    assert_int_equal(f.door.reads, 1);
    for (unsigned i = 0; i < READS; i++) {
        assert_int_equal(reads[i].count, 1);
        assert_int_equal(reads[i].batches[0]->base_offset, 0);
        read_free(&reads[i]);
    }
    struct batch *kept = log_kept(f.worker, PARTITION, 9);
    assert_int_equal(kept->base_offset, 0);
    batch_unref(kept);
    assert_null(log_kept(f.worker, PARTITION, 10));
    for (uint64_t offset = 0; offset < BATCHES * 10; offset += 3)
        expect_shared(offset);
    assert_in_range(f.door.reads, 4, 12);
    for (uint64_t offset = 0; offset < BATCHES * 10; offset += 3)
        expect_shared(offset);
    assert_in_range(f.door.reads, 4, 12);
    expect_read(15, 0, 10, 64); /* who reads alone gets all that it asked for */
    assert_non_null(kept = log_kept(f.worker, PARTITION, 1999));
    batch_unref(kept);
    limit(0, 1);
    log_retain(f.worker);
    run_a_little();
    assert_null(log_kept(f.worker, PARTITION, 9)); /* what has gone is not served */
    struct log_read gone = {.offset = 9, .shared = true};
    assert_int_equal(read_now(&gone), STATUS_OUT_OF_RANGE);
    log_partition_close(f.worker, PARTITION, false);
    assert_null(log_kept(f.worker, PARTITION, 1999));
}

/* Random appends, closings and trims; every read must give what a plain array gives. */
static void random_reads_match_a_model(void **state)
{
    (void)state;
    static struct {
        uint64_t base, end;
        int64_t time_ms;
    } model[APPENDS];
    unsigned count = 0;
    rng_seed(99);
    open_partition();
    while (f.started < APPENDS) {
        uint64_t start = atomic_load(&f.stat.start), end = atomic_load(&f.stat.end);
        switch (rng_below(6)) {
        case 0:
        case 1: {
            now_ms += (int64_t)rng_below(3);
            struct done *done = append_now(1 + (unsigned)rng_below(4), rng_below(2000));
            model[count].base = done->append.batch->base_offset;
            model[count].end = batch_end(done->append.batch);
            model[count++].time_ms = now_ms;
            break;
        }
        case 2:
            if (rng_below(10) == 0) {
                log_partition_close(f.worker, PARTITION, false);
                open_partition();
                run_a_little();
            }
            break;
        case 3:
            if (rng_below(10) == 0) {
                limit(0, 20000 + rng_below(40000));
                log_retain(f.worker);
                run_a_little();
                assert_true(atomic_load(&f.stat.start) >= start);
            }
            break;
        default: {
            bool by_time = rng_below(2) == 0;
            struct log_read read = {.by_time = by_time, .max_bytes = (uint32_t)rng_below(6000) + 1};
            read.offset = by_time ? 0 : rng_below(end + 2);
            read.shared = !by_time && rng_below(2) == 0;
            read.time_ms = 1000 + (int64_t)rng_below((uint64_t)(now_ms - 995));
            enum status status = read_now(&read);
            if (!by_time && read.offset < start) {
                assert_int_equal(status, STATUS_OUT_OF_RANGE);
                break;
            }
            assert_int_equal(status, STATUS_OK);
            unsigned i = 0;
            while (i < count && (model[i].end <= read.offset || model[i].end <= start ||
                                 (by_time && model[i].time_ms < read.time_ms)))
                i++;
            assert_int_equal(read.count == 0, i == count);
            for (uint32_t j = 0; j < read.count; j++, i++) {
                assert_int_equal(read.batches[j]->base_offset, model[i].base);
                assert_int_equal(batch_end(read.batches[j]), model[i].end);
                assert_int_equal(read.batches[j]->append_time_ms, model[i].time_ms);
            }
            read_free(&read);
        }
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(appends_are_read_back),
        TEST(operations_wait_for_the_opening),
        TEST(unknown_partitions_are_not_found),
        TEST(reopened_partitions_read_from_storage),
        TEST(the_tail_has_a_budget),
        TEST(reads_by_time),
        TEST(refused_appends_change_nothing),
        TEST(rows_may_come_alone),
        TEST(corrupt_batches_are_passed),
        TEST(gaps_are_legal),
        TEST(reads_stop_at_the_commit_index),
        TEST(shared_reads_are_done_once),
        TEST(random_reads_match_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
