/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of a partition share: one over the memory engine behind a door that holds appends and
 * reads back, on this thread; calls that run the loop until they are done. */
#ifndef TESTS_UNIT_PARTITION_RIG_H
#define TESTS_UNIT_PARTITION_RIG_H

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

static inline struct door *door_of(struct storage *storage)
{
    return container_of(storage, struct door, storage);
}

static inline void door_append(struct storage *storage, struct storage_append *append)
{
    struct door *door = door_of(storage);
    if (door->refuse_append > 0 && --door->refuse_append == 0)
        request_complete(&append->request, STATUS_NO_SPACE);
    else if (door->hold)
        door->held_appends[door->held_append_count++] = append;
    else
        door->inner->ops->append(door->inner, append);
}

static inline void door_read(struct storage *storage, struct storage_read *read)
{
    struct door *door = door_of(storage);
    door->reads++;
    if (door->hold)
        door->held_read = read;
    else
        door->inner->ops->read(door->inner, read);
}

static inline void door_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    struct door *door = door_of(storage);
    if (door->hold)
        door->held_bounds = bounds;
    else
        door->inner->ops->bounds(door->inner, bounds);
}

static inline void door_trim(struct storage *storage, struct storage_trim *trim)
{
    struct door *door = door_of(storage);
    door->inner->ops->trim(door->inner, trim);
}

static inline void door_floor(struct storage *storage, struct storage_floor *floor)
{
    struct door *door = door_of(storage);
    door->floors++;
    door->inner->ops->floor(door->inner, floor);
}

static inline void door_release(struct door *door)
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

static inline int64_t fake_wall_ms(void)
{
    return now_ms;
}

static inline uint64_t real_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static const struct clock_source fake_clock = {real_monotonic_ns, fake_wall_ms};

static inline void observe(void *context, uint64_t partition, struct batch *batch)
{
    assert_ptr_equal(context, &f);
    assert_int_equal(partition, PARTITION);
    assert_true(batch->base_offset >= f.observed_end);
    assert_int_equal(atomic_load(&f.stat.end), batch_end(batch));
    f.observed_end = batch_end(batch);
    f.observed++;
}

static const struct partition_spec spec = {.id = PARTITION, .class = STORAGE_3_DAYS};

static inline void open_partition(void)
{
    log_partition_open(f.worker, &spec, &f.stat);
}

static inline void limit(uint64_t retention_ms, uint64_t retention_bytes)
{
    struct partition_spec limited = spec;
    limited.retention_ms = retention_ms;
    limited.retention_bytes = retention_bytes;
    log_partition_limit(f.worker, &limited);
}

static inline int setup(void **state)
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

static inline int teardown(void **state)
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

static inline void one_done(void)
{
    assert_false(f.inside);
    if (--f.pending == 0)
        loop_stop(f.loop);
}

static inline void wait_all(void)
{
    if (f.pending > 0)
        loop_run(f.loop);
    assert_int_equal(f.pending, 0);
}

static unsigned turns_left;

static inline void turn_passed(struct loop_timer *timer)
{
    if (--turns_left == 0)
        loop_stop(f.loop);
    else
        loop_timer_start(f.loop, timer, 0);
}

/* Lets what is under way in the log go on: a number of turns, not a time, so that a slow machine
 * does not matter. */
static inline void run_a_little(void)
{
    struct loop_timer timer = {.fired = turn_passed};
    turns_left = 50;
    loop_timer_start(f.loop, &timer, 0);
    loop_run(f.loop);
}

static inline void append_done(struct request *request, enum status status)
{
    struct done *done = container_of(request, struct done, append.request);
    done->status = status;
    done->order = ++f.order;
    one_done();
}

/* records of size bytes each, as one batch */
static inline struct done *append(unsigned records, size_t size)
{
    static uint8_t value[1 << 20];
    assert_true(f.started < APPENDS && size <= sizeof value);
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

static inline struct done *append_now(unsigned records, size_t size)
{
    struct done *done = append(records, size);
    wait_all();
    return done;
}

static inline void read_done(struct request *request, enum status status)
{
    (void)request;
    f.read_status = status;
    one_done();
}

static inline void read_start(struct log_read *read)
{
    request_init(&read->request, f.loop, read_done);
    read->partition = PARTITION;
    f.pending++;
    f.inside = true;
    log_read(f.worker, read);
    f.inside = false;
}

static inline enum status read_now(struct log_read *read)
{
    read_start(read);
    wait_all();
    return f.read_status;
}

static inline void read_free(struct log_read *read)
{
    for (uint32_t i = 0; i < read->count; i++)
        batch_unref(read->batches[i]);
    read->count = 0;
}

/* Reads from offset and expects the first batch to begin at first, and count batches. */
static inline void expect_read(uint64_t offset, uint32_t max_bytes, uint64_t first, uint32_t count)
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

static inline uint64_t read_time(int64_t time_ms, uint64_t floor)
{
    struct log_read read = {.time_ms = time_ms, .by_time = true, .offset = floor, .max_bytes = 1};
    assert_int_equal(read_now(&read), STATUS_OK);
    uint64_t found = read.count > 0 ? read.batches[0]->base_offset : UINT64_MAX;
    read_free(&read);
    return found;
}

static inline void bounds_known(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    one_done();
}

static inline struct storage_bounds bounds_now(void)
{
    struct storage_bounds bounds = {.partition = PARTITION, .class = spec.class};
    request_init(&bounds.request, f.loop, bounds_known);
    f.pending++;
    f.door.inner->ops->bounds(f.door.inner, &bounds);
    wait_all();
    return bounds;
}

#endif
