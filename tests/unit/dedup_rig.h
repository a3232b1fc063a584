/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of dedup share: one partition over the memory engine, on this thread, under a clock
 * that the test sets; appends that run the loop until they are done. */
#ifndef TESTS_UNIT_DEDUP_RIG_H
#define TESTS_UNIT_DEDUP_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/trace.h"
#include "core/queue/dedup.h"
#include "core/queue/dedup_impl.h"
#include "storage/memory/memory.h"
#include "tests/unit/door.h"
#include "tests/unit/turn.h"

enum { PARTITION = 7, WINDOW_MS = 80000, ITEMS = 24 };

static int64_t wall_ms = 1000000;

static inline int64_t test_wall(void)
{
    return wall_ms;
}

static inline uint64_t test_monotonic(void)
{
    return (uint64_t)wall_ms * 1000000;
}

static const struct clock_source test_clock = {test_monotonic, test_wall};

/* ------------------------------------------------ the rig */

struct rig {
    struct loop *loop;
    struct log *log;
    struct log_worker *log_worker;
    struct partition_stat stat;
    struct dedup_worker worker;
    struct dedup *dedup;
    uint64_t *values; /* by offset: what the log holds */
    uint64_t end;
};
static struct rig rig;

static inline void observe(void *context, uint64_t partition, struct batch *batch)
{
    (void)context;
    assert_int_equal(partition, PARTITION);
    assert_int_equal(batch->base_offset, rig.end);
    rig.values = heap_resize(rig.values, (rig.end + batch->record_count) * sizeof *rig.values);
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        assert_int_equal(record.value.size, sizeof(uint64_t));
        memcpy(&rig.values[rig.end++], record.value.data, sizeof(uint64_t));
    }
}

static inline void run_turn(void)
{
    turn_run(rig.loop);
}

static inline void settle(void)
{
    for (unsigned i = 0; i < 6 || (rig.worker.in_flight > 0 && !door.hold && !door.hold_units); i++)
        run_turn();
}

static inline void rise(void)
{
    rig.log = log_new(&door.storage, 1);
    rig.log_worker = log_worker_new(rig.log, 0, rig.loop, observe, NULL);
    struct partition_spec spec = {.id = PARTITION, .class = STORAGE_3_DAYS};
    log_partition_open(rig.log_worker, &spec, &rig.stat);
    rig.worker =
        (struct dedup_worker){.log = rig.log, .log_worker = rig.log_worker, .loop = rig.loop};
    rig.dedup = dedup_open(&rig.worker, PARTITION, WINDOW_MS);
}

static inline void fall(bool remove)
{
    if (rig.dedup != NULL)
        dedup_close(rig.dedup, remove);
    rig.dedup = NULL;
    settle();
    assert_int_equal(rig.worker.in_flight, 0);
    assert_int_equal(rig.worker.keys, 0);
    assert_int_equal(rig.worker.producers, 0);
    assert_int_equal(rig.worker.owners.capacity, 0);
    log_worker_free(rig.log_worker);
    log_free(rig.log);
}

static inline int rig_open(void **state)
{
    (void)state;
    struct storage_options options = {0};
    struct err err;
    trace_set_level(TRACE_ERROR);
    clock_use(&test_clock);
    hash_init();
    door = (struct door){.storage = {.ops = &door_ops}};
    assert_int_equal(memory_storage_ops.open(&options, &door.inner, &err), STATUS_OK);
    rig = (struct rig){.loop = loop_new()};
    rise();
    return 0;
}

static inline int rig_close(void **state)
{
    (void)state;
    fall(false);
    loop_free(rig.loop);
    heap_free(rig.values);
    memory_storage_ops.close(door.inner);
    clock_use(NULL);
    return 0;
}

static inline void pass(int64_t ms)
{
    wall_ms += ms;
    dedup_check(rig.dedup);
    settle();
}

/* ------------------------------------------------ calls */

struct append {
    struct dedup_append append;
    struct dedup_item items[ITEMS];
    uint64_t values[ITEMS]; /* of the first record of each */
    bool done;
    enum status status;
    unsigned order;
};
static unsigned answered;

static inline void append_done(struct request *request, enum status status)
{
    struct append *append = container_of(request, struct append, append.request);
    append->done = true;
    append->status = status;
    append->order = ++answered;
    batch_unref(append->append.batch);
    for (uint32_t i = 0; i < append->append.count && status == STATUS_OK; i++) {
        const struct dedup_item *item = &append->items[i];
        if (item->status != STATUS_OK || item->offset == DEDUP_OFFSET_UNKNOWN || item->due_ms != 0)
            continue;
        assert_true(item->offset + item->record_count <= rig.end);
        if (!item->duplicate)
            for (uint32_t k = 0; k < item->record_count; k++)
                assert_int_equal(rig.values[item->offset + k], append->values[i] + k);
    }
}

static inline void append_begin(struct append *append)
{
    *append = (struct append){0};
}

static inline struct dedup_item *add_item(struct append *append, uint64_t value, uint32_t records)
{
    uint32_t i = append->append.count++;
    assert_true(i < ITEMS);
    append->values[i] = value;
    append->items[i] =
        (struct dedup_item){.record_count = records, .sequence = -1, .status = STATUS_INTERNAL};
    return &append->items[i];
}

static inline void add_keyed(struct append *append, uint64_t value, uint64_t key)
{
    add_item(append, value, 1)->key = dedup_key_of(span_of(&key, sizeof key), 0);
}

static inline void add_sequenced(struct append *append, uint64_t value, uint32_t records,
                                 uint64_t producer, int32_t epoch, int32_t sequence)
{
    struct dedup_item *item = add_item(append, value, records);
    item->producer = producer;
    item->epoch = epoch;
    item->sequence = sequence;
}

static inline void append_go(struct append *append)
{
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (uint32_t i = 0; i < append->append.count; i++)
        for (uint32_t k = 0; k < append->items[i].record_count; k++) {
            uint64_t value = append->values[i] + k;
            struct record_input record = {.timestamp_ms = 1, .value = span_of(&value, 8)};
            assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
        }
    append->append.batch = batch_builder_seal(&builder);
    append->append.items = append->items;
    batch_builder_deinit(&builder);
    request_init(&append->append.request, rig.loop, append_done);
    dedup_append(rig.dedup, &append->append);
    assert_false(append->done);
}

static inline struct dedup_item append_one_keyed(uint64_t value, uint64_t key)
{
    struct append append;
    append_begin(&append);
    add_keyed(&append, value, key);
    append_go(&append);
    while (!append.done)
        run_turn();
    assert_int_equal(append.status, STATUS_OK);
    return append.items[0];
}

static inline struct dedup_item append_one_sequenced(uint64_t value, uint32_t records,
                                                     uint64_t producer, int32_t epoch,
                                                     int32_t sequence)
{
    struct append append;
    append_begin(&append);
    add_sequenced(&append, value, records, producer, epoch, sequence);
    append_go(&append);
    while (!append.done)
        run_turn();
    assert_int_equal(append.status, STATUS_OK);
    return append.items[0];
}

#define assert_new(item, at)                                                                       \
    do {                                                                                           \
        struct dedup_item of = (item);                                                             \
        assert_int_equal(of.status, STATUS_OK);                                                    \
        assert_false(of.duplicate);                                                                \
        assert_int_equal(of.offset, at);                                                           \
    } while (0)
#define assert_duplicate(item, at)                                                                 \
    do {                                                                                           \
        struct dedup_item of = (item);                                                             \
        assert_int_equal(of.status, STATUS_OK);                                                    \
        assert_true(of.duplicate);                                                                 \
        assert_int_equal(of.offset, at);                                                           \
    } while (0)

struct scan {
    struct storage_scan scan;
    bool done;
};

static inline void scan_done(struct request *request, enum status status)
{
    struct scan *scan = container_of(request, struct scan, scan.request);
    assert_int_equal(status, STATUS_OK);
    scan->done = true;
}

static inline uint32_t rows_left(void)
{
    uint8_t first[DEDUP_KEY], end[DEDUP_KEY];
    dedup_row_key(PARTITION, first);
    dedup_row_key(PARTITION + 1, end);
    struct scan scan = {.scan = {.first = span_of(first, sizeof first),
                                 .end = span_of(end, sizeof end),
                                 .limit = UINT32_MAX}};
    request_init(&scan.scan.request, rig.loop, scan_done);
    log_rows_scan(rig.log, &scan.scan);
    while (!scan.done)
        run_turn();
    blob_unref(scan.scan.rows);
    return scan.scan.count;
}

#endif
