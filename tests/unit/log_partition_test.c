/* SPDX-License-Identifier: Apache-2.0 */
/* One worker's partitions over the memory engine: order, tail and storage reads, time, retention,
 * failures, closing. */
/* links: log storage_memory net_uv */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/rng.h"
#include "core/log/log.h"
#include "storage/memory/memory.h"

enum { PARTITION = 7, APPENDS = 256 };

/* The memory engine with a hand on the door: it counts, holds back, and refuses. */
struct door {
    struct storage storage;
    struct storage *inner;
    unsigned reads, floors;
    unsigned refuse_append; /* the n-th append from now ends with NO_SPACE */
    bool hold;
    struct storage_bounds *held_bounds;
    struct storage_read *held_read;
    struct storage_append *held_appends[8];
    unsigned held_append_count;
};

static struct door *door_of(struct storage *storage)
{
    return container_of(storage, struct door, storage);
}

static void door_append(struct storage *storage, struct storage_append *append)
{
    struct door *door = door_of(storage);
    if (door->refuse_append > 0 && --door->refuse_append == 0)
        request_complete(&append->request, STATUS_NO_SPACE);
    else if (door->hold)
        door->held_appends[door->held_append_count++] = append;
    else
        door->inner->ops->append(door->inner, append);
}

static void door_read(struct storage *storage, struct storage_read *read)
{
    struct door *door = door_of(storage);
    door->reads++;
    if (door->hold)
        door->held_read = read;
    else
        door->inner->ops->read(door->inner, read);
}

static void door_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    struct door *door = door_of(storage);
    if (door->hold)
        door->held_bounds = bounds;
    else
        door->inner->ops->bounds(door->inner, bounds);
}

static void door_trim(struct storage *storage, struct storage_trim *trim)
{
    struct door *door = door_of(storage);
    door->inner->ops->trim(door->inner, trim);
}

static void door_floor(struct storage *storage, struct storage_floor *floor)
{
    struct door *door = door_of(storage);
    door->floors++;
    door->inner->ops->floor(door->inner, floor);
}

static void door_release(struct door *door)
{
    door->hold = false;
    if (door->held_bounds != NULL)
        door->inner->ops->bounds(door->inner, door->held_bounds);
    for (unsigned i = 0; i < door->held_append_count; i++)
        door->inner->ops->append(door->inner, door->held_appends[i]);
    if (door->held_read != NULL)
        door->inner->ops->read(door->inner, door->held_read);
    door->held_bounds = NULL;
    door->held_read = NULL;
    door->held_append_count = 0;
}

static const struct storage_ops door_ops = {
    .name = "door",
    .append = door_append,
    .read = door_read,
    .trim = door_trim,
    .floor = door_floor,
    .bounds = door_bounds,
};

struct done {
    struct log_append append;
    enum status status;
    int order; /* in which it completed; 0: not yet */
};

static struct fixture {
    struct door door;
    struct loop *loop;
    struct log *log;
    struct log_worker *worker;
    struct partition_stat stat;
    struct batch_builder builder;
    struct done done[APPENDS];
    unsigned started, pending;
    int order;
    bool inside; /* a call is on the stack: nothing may complete */
    uint64_t observed_end;
    unsigned observed;
    enum status read_status;
} f;

static int64_t now_ms = 1000;

static int64_t fake_wall_ms(void)
{
    return now_ms;
}

static uint64_t real_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static const struct clock_source fake_clock = {real_monotonic_ns, fake_wall_ms};

static void observe(void *context, uint64_t partition, struct batch *batch)
{
    assert_ptr_equal(context, &f);
    assert_int_equal(partition, PARTITION);
    assert_true(batch->base_offset >= f.observed_end);
    assert_int_equal(atomic_load(&f.stat.end), batch_end(batch));
    f.observed_end = batch_end(batch);
    f.observed++;
}

static const struct partition_spec spec = {.id = PARTITION, .class = STORAGE_3_DAYS};

static void open_partition(void)
{
    log_partition_open(f.worker, &spec, &f.stat);
}

static void limit(uint64_t retention_ms, uint64_t retention_bytes)
{
    struct partition_spec limited = spec;
    limited.retention_ms = retention_ms;
    limited.retention_bytes = retention_bytes;
    log_partition_limit(f.worker, &limited);
}

static int setup(void **state)
{
    (void)state;
    f = (struct fixture){.door.storage.ops = &door_ops};
    now_ms = 1000;
    clock_use(&fake_clock);
    struct storage_options options = {0};
    assert_int_equal(memory_storage_ops.open(&options, &f.door.inner, NULL), STATUS_OK);
    f.loop = loop_new();
    f.log = log_new(&f.door.storage, 1);
    f.worker = log_worker_new(f.log, 0, f.loop, observe, &f);
    batch_builder_init(&f.builder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < f.started; i++)
        batch_unref(f.done[i].append.batch);
    batch_builder_deinit(&f.builder);
    f.door.inner->ops->close(f.door.inner);
    log_worker_free(f.worker);
    log_free(f.log);
    loop_free(f.loop);
    clock_use(NULL);
    return 0;
}

static void one_done(void)
{
    assert_false(f.inside);
    if (--f.pending == 0)
        loop_stop(f.loop);
}

static void wait_all(void)
{
    if (f.pending > 0)
        loop_run(f.loop);
    assert_int_equal(f.pending, 0);
}

static unsigned turns_left;

static void turn_passed(struct loop_timer *timer)
{
    if (--turns_left == 0)
        loop_stop(f.loop);
    else
        loop_timer_start(f.loop, timer, 0);
}

/* Lets what is under way in the log go on: a number of turns, not a time, so that a slow machine
 * does not matter. */
static void run_a_little(void)
{
    struct loop_timer timer = {.fired = turn_passed};
    turns_left = 50;
    loop_timer_start(f.loop, &timer, 0);
    loop_run(f.loop);
}

static void append_done(struct request *request, enum status status)
{
    struct done *done = container_of(request, struct done, append.request);
    done->status = status;
    done->order = ++f.order;
    one_done();
}

/* records of size bytes each, as one batch */
static struct done *append(unsigned records, size_t size)
{
    static uint8_t value[LIMIT_BATCH_BYTES];
    assert_true(f.started < APPENDS);
    struct done *done = &f.done[f.started++];
    for (unsigned i = 0; i < records; i++) {
        struct record_input input = {.timestamp_ms = now_ms, .value = span_of(value, size)};
        assert_int_equal(batch_builder_add(&f.builder, &input), STATUS_OK);
    }
    request_init(&done->append.request, f.loop, append_done);
    done->append.partition = PARTITION;
    done->append.batch = batch_builder_seal(&f.builder);
    f.pending++;
    f.inside = true;
    log_append(f.worker, &done->append);
    f.inside = false;
    return done;
}

static struct done *append_now(unsigned records, size_t size)
{
    struct done *done = append(records, size);
    wait_all();
    return done;
}

static void read_done(struct request *request, enum status status)
{
    (void)request;
    f.read_status = status;
    one_done();
}

static void read_start(struct log_read *read)
{
    request_init(&read->request, f.loop, read_done);
    read->partition = PARTITION;
    f.pending++;
    f.inside = true;
    log_read(f.worker, read);
    f.inside = false;
}

static enum status read_now(struct log_read *read)
{
    read_start(read);
    wait_all();
    return f.read_status;
}

static void read_free(struct log_read *read)
{
    for (uint32_t i = 0; i < read->count; i++)
        batch_unref(read->batches[i]);
    read->count = 0;
}

/* Reads from offset and expects the first batch to begin at first, and count batches. */
static void expect_read(uint64_t offset, uint32_t max_bytes, uint64_t first, uint32_t count)
{
    struct log_read read = {.offset = offset, .max_bytes = max_bytes};
    assert_int_equal(read_now(&read), STATUS_OK);
    assert_int_equal(read.count, count);
    assert_int_equal(read.end, atomic_load(&f.stat.end));
    if (count > 0)
        assert_int_equal(read.batches[0]->base_offset, first);
    for (uint32_t i = 0; i + 1 < read.count; i++)
        assert_true(read.batches[i + 1]->base_offset >= batch_end(read.batches[i]));
    read_free(&read);
}

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

static uint64_t read_time(int64_t time_ms, uint64_t floor)
{
    struct log_read read = {.time_ms = time_ms, .by_time = true, .offset = floor, .max_bytes = 1};
    assert_int_equal(read_now(&read), STATUS_OK);
    uint64_t found = read.count > 0 ? read.batches[0]->base_offset : UINT64_MAX;
    read_free(&read);
    return found;
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

static void bounds_known(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    one_done();
}

static struct storage_bounds bounds_now(void)
{
    struct storage_bounds bounds = {.partition = PARTITION, .class = spec.class};
    request_init(&bounds.request, f.loop, bounds_known);
    f.pending++;
    f.door.inner->ops->bounds(f.door.inner, &bounds);
    wait_all();
    return bounds;
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
        TEST(retention_by_time),
        TEST(retention_by_bytes),
        TEST(refused_appends_change_nothing),
        TEST(rows_may_come_alone),
        TEST(closing_waits_for_what_is_under_way),
        TEST(closing_before_the_opening_is_done),
        TEST(corrupt_batches_are_passed),
        TEST(gaps_are_legal),
        TEST(reads_stop_at_the_commit_index),
        TEST(closing_during_retention),
        TEST(retention_overtakes_reads),
        TEST(random_reads_match_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
