/* SPDX-License-Identifier: Apache-2.0 */
/* Duplicates: keyed within a window and sequenced by producer, while the original is still being
 * written, refused, or long stored; and random runs, with crashes, against a model that remembers
 * everything. */
/* links: queue net_uv storage_memory */
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

enum { PARTITION = 7, WINDOW_MS = 80000, ITEMS = 24 };

/* The memory engine behind a door: appends can be held back or refused. */
struct door {
    struct storage storage;
    struct storage *inner;
    bool hold;
    enum status refuse;
    struct storage_append *held[256];
    unsigned held_count;
};
static struct door door;

static void door_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    if (door.hold) {
        CHECK(door.held_count < 256);
        door.held[door.held_count++] = append;
    } else if (door.refuse != STATUS_OK) {
        request_complete(&append->request, door.refuse);
    } else {
        door.inner->ops->append(door.inner, append);
    }
}

static void door_let_pass(void)
{
    door.hold = false;
    for (unsigned i = 0; i < door.held_count; i++)
        door_append(NULL, door.held[i]);
    door.held_count = 0;
}

static void door_scan(struct storage *storage, struct storage_scan *scan)
{
    (void)storage;
    door.inner->ops->scan(door.inner, scan);
}
static void door_floor(struct storage *storage, struct storage_floor *floor)
{
    (void)storage;
    door.inner->ops->floor(door.inner, floor);
}
static void door_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    (void)storage;
    door.inner->ops->bounds(door.inner, bounds);
}

static const struct storage_ops door_ops = {
    .name = "door",
    .append = door_append,
    .scan = door_scan,
    .floor = door_floor,
    .bounds = door_bounds,
};

static int64_t wall_ms = 1000000;

static int64_t test_wall(void)
{
    return wall_ms;
}

static uint64_t test_monotonic(void)
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

static void observe(void *context, uint64_t partition, struct batch *batch)
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

static void stop_turn(struct loop_task *task)
{
    (void)task;
    loop_stop(rig.loop);
}

static void run_turn(void)
{
    struct loop_task task = {.run = stop_turn};
    loop_defer(rig.loop, &task, LOOP_FLUSH);
    loop_run(rig.loop);
    loop_task_cancel(rig.loop, &task);
}

static void settle(void)
{
    for (unsigned i = 0; i < 6 || (rig.worker.in_flight > 0 && !door.hold); i++)
        run_turn();
}

static void rise(void)
{
    rig.log = log_new(&door.storage, 1);
    rig.log_worker = log_worker_new(rig.log, 0, rig.loop, observe, NULL);
    struct partition_spec spec = {.id = PARTITION, .class = STORAGE_3_DAYS};
    log_partition_open(rig.log_worker, &spec, &rig.stat);
    rig.worker =
        (struct dedup_worker){.log = rig.log, .log_worker = rig.log_worker, .loop = rig.loop};
    rig.dedup = dedup_open(&rig.worker, PARTITION, WINDOW_MS);
}

static void fall(bool remove)
{
    if (rig.dedup != NULL)
        dedup_close(rig.dedup, remove);
    rig.dedup = NULL;
    settle();
    assert_int_equal(rig.worker.in_flight, 0);
    assert_int_equal(rig.worker.keys, 0);
    assert_int_equal(rig.worker.producers, 0);
    log_worker_free(rig.log_worker);
    log_free(rig.log);
}

static int rig_open(void **state)
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

static int rig_close(void **state)
{
    (void)state;
    fall(false);
    loop_free(rig.loop);
    heap_free(rig.values);
    memory_storage_ops.close(door.inner);
    clock_use(NULL);
    return 0;
}

static void pass(int64_t ms)
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

static void append_done(struct request *request, enum status status)
{
    struct append *append = container_of(request, struct append, append.request);
    append->done = true;
    append->status = status;
    append->order = ++answered;
    batch_unref(append->append.batch);
    for (uint32_t i = 0; i < append->append.count && status == STATUS_OK; i++) {
        const struct dedup_item *item = &append->items[i];
        if (item->status != STATUS_OK || item->offset == DEDUP_OFFSET_UNKNOWN)
            continue;
        assert_true(item->offset + item->record_count <= rig.end);
        if (!item->duplicate)
            for (uint32_t k = 0; k < item->record_count; k++)
                assert_int_equal(rig.values[item->offset + k], append->values[i] + k);
    }
}

static void append_begin(struct append *append)
{
    *append = (struct append){0};
}

static struct dedup_item *add_item(struct append *append, uint64_t value, uint32_t records)
{
    uint32_t i = append->append.count++;
    assert_true(i < ITEMS);
    append->values[i] = value;
    append->items[i] =
        (struct dedup_item){.record_count = records, .sequence = -1, .status = STATUS_INTERNAL};
    return &append->items[i];
}

static void add_keyed(struct append *append, uint64_t value, uint64_t key)
{
    add_item(append, value, 1)->key = dedup_key_of(span_of(&key, sizeof key), 0);
}

static void add_sequenced(struct append *append, uint64_t value, uint32_t records,
                          uint64_t producer, int32_t epoch, int32_t sequence)
{
    struct dedup_item *item = add_item(append, value, records);
    item->producer = producer;
    item->epoch = epoch;
    item->sequence = sequence;
}

static void append_go(struct append *append)
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

static struct dedup_item append_one_keyed(uint64_t value, uint64_t key)
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

static struct dedup_item append_one_sequenced(uint64_t value, uint32_t records, uint64_t producer,
                                              int32_t epoch, int32_t sequence)
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

static void scan_done(struct request *request, enum status status)
{
    struct scan *scan = container_of(request, struct scan, scan.request);
    assert_int_equal(status, STATUS_OK);
    scan->done = true;
}

static uint32_t rows_left(void)
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

/* ------------------------------------------------ keyed */

static void test_keyed(void **state)
{
    (void)state;
    assert_new(append_one_keyed(1, 100), 0);
    assert_new(append_one_keyed(2, 101), 1);
    assert_duplicate(append_one_keyed(3, 100), 0);
    pass(WINDOW_MS - 1);
    assert_duplicate(append_one_keyed(4, 101), 1);
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(5, 100), 0);
    pass(1);
    assert_new(append_one_keyed(6, 100), 2); /* it may be another now */
    assert_duplicate(append_one_keyed(7, 100), 2);
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(8, 100), 2);
    pass(2 * WINDOW_MS);
    settle();
    assert_int_equal(rows_left(), 0);
    assert_int_equal(rig.worker.keys, 0);
    assert_new(append_one_keyed(9, 100), 3);
}

/* In one batch: new ones, stored ones, and the same one twice. */
static void test_mixed_batch(void **state)
{
    (void)state;
    append_one_keyed(1, 100);
    append_one_keyed(2, 101);
    struct append append;
    append_begin(&append);
    add_keyed(&append, 10, 101);
    add_keyed(&append, 11, 200);
    add_item(&append, 20, 3);
    add_keyed(&append, 12, 200);
    add_keyed(&append, 13, 201);
    add_keyed(&append, 14, 100);
    append_go(&append);
    settle();
    assert_duplicate(append.items[0], 1);
    assert_new(append.items[1], 2);
    assert_new(append.items[2], 3);
    assert_duplicate(append.items[3], 2);
    assert_new(append.items[4], 6);
    assert_duplicate(append.items[5], 0);
    assert_int_equal(rig.end, 7);
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(15, 201), 6);
}

/* A duplicate of what is being written has its outcome, and no sooner. */
static void test_keyed_pending(void **state)
{
    (void)state;
    struct append first, second, third;
    for (unsigned round = 0; round < 2; round++) {
        door.hold = true;
        append_begin(&first);
        add_keyed(&first, 1, 100 + round);
        append_go(&first);
        append_begin(&second);
        add_keyed(&second, 2, 100 + round);
        append_go(&second);
        append_begin(&third);
        add_keyed(&third, 3, 300);
        add_keyed(&third, 4, 100 + round);
        append_go(&third);
        settle();
        assert_false(first.done || second.done || third.done);
        door.refuse = round == 0 ? STATUS_NO_SPACE : STATUS_OK;
        door_let_pass();
        settle();
        assert_true(first.order < second.order && second.order < third.order);
        if (round == 0) {
            assert_int_equal(first.items[0].status, STATUS_NO_SPACE);
            assert_int_equal(second.items[0].status, STATUS_NO_SPACE);
            assert_int_equal(third.items[0].status, STATUS_NO_SPACE);
            assert_int_equal(third.items[1].status, STATUS_NO_SPACE);
            assert_false(second.items[0].duplicate);
            assert_int_equal(rig.end, 0);
        } else {
            assert_new(first.items[0], 0);
            assert_duplicate(second.items[0], 0);
            assert_new(third.items[0], 1);
            assert_duplicate(third.items[1], 0);
        }
    }
    door.refuse = STATUS_OK;
    assert_new(append_one_keyed(5, 100), 2); /* what was refused may come again */
}

static void test_limit(void **state)
{
    (void)state;
    append_one_keyed(1, 100);
    rig.worker.keys += LIMIT_DEDUP_KEYS;
    assert_int_equal(append_one_keyed(2, 101).status, STATUS_OVER_QUOTA);
    assert_duplicate(append_one_keyed(3, 100), 0);
    rig.worker.keys -= LIMIT_DEDUP_KEYS;
    rig.worker.producers += LIMIT_PRODUCERS;
    assert_int_equal(append_one_sequenced(2, 1, 5, 0, 0).status, STATUS_OVER_QUOTA);
    rig.worker.producers -= LIMIT_PRODUCERS;
    dedup_limit(rig.dedup, 50);
    pass(50);
    assert_new(append_one_keyed(4, 100), 1);
}

static void test_many_keys(void **state)
{
    (void)state;
    enum { MANY = 30000 };
    struct append append;
    for (uint64_t i = 0; i < MANY; i += ITEMS) {
        append_begin(&append);
        for (uint64_t k = 0; k < ITEMS; k++)
            add_keyed(&append, i + k, i + k);
        append_go(&append);
        settle();
        wall_ms += 50;
    }
    fall(false);
    rise();
    for (uint64_t i = 0; i < MANY; i += 7)
        assert_duplicate(append_one_keyed(i, i), i);
    pass(2 * WINDOW_MS);
    assert_int_equal(rows_left(), 0);
}

static void test_removed(void **state)
{
    (void)state;
    append_one_keyed(1, 100);
    append_one_sequenced(2, 1, 9, 0, 0);
    assert_int_equal(rows_left(), 2);
    struct append append;
    append_begin(&append);
    add_keyed(&append, 3, 101);
    door.hold = true;
    append_go(&append);
    dedup_close(rig.dedup, true);
    rig.dedup = NULL;
    door_let_pass();
    settle();
    assert_true(append.done);
    rig.dedup = dedup_open(&rig.worker, PARTITION, WINDOW_MS);
    append_begin(&append);
    add_keyed(&append, 4, 102);
    append_go(&append); /* before it is open */
    dedup_close(rig.dedup, true);
    rig.dedup = NULL;
    settle();
    assert_int_equal(append.status, STATUS_NOT_FOUND);
    assert_int_equal(rows_left(), 0);
    fall(false);
    rise();
    settle();
}

/* ------------------------------------------------ sequenced */

static void test_sequenced(void **state)
{
    (void)state;
    assert_new(append_one_sequenced(0, 3, 9, 0, 0), 0);
    assert_new(append_one_sequenced(3, 2, 9, 0, 3), 3);
    assert_duplicate(append_one_sequenced(0, 3, 9, 0, 0), 0);
    assert_duplicate(append_one_sequenced(1, 1, 9, 0, 1), 1); /* a part of it */
    assert_int_equal(append_one_sequenced(0, 1, 9, 0, 7).status, STATUS_OUT_OF_RANGE);
    assert_int_equal(append_one_sequenced(0, 4, 9, 0, 4).status, STATUS_OUT_OF_RANGE);
    for (uint32_t i = 0; i < 5; i++)
        assert_new(append_one_sequenced(100 + i, 1, 9, 0, (int32_t)(5 + i)), 5 + i);
    assert_duplicate(append_one_sequenced(3, 2, 9, 0, 3), DEDUP_OFFSET_UNKNOWN); /* too long ago */
    assert_duplicate(append_one_sequenced(100, 1, 9, 0, 5), 5);
    fall(false);
    rise();
    assert_duplicate(append_one_sequenced(100, 1, 9, 0, 5), 5);
    assert_duplicate(append_one_sequenced(104, 1, 9, 0, 9), 9);
    assert_duplicate(append_one_sequenced(3, 2, 9, 0, 3), DEDUP_OFFSET_UNKNOWN);
    assert_int_equal(append_one_sequenced(0, 1, 9, 1, 10).status, STATUS_OUT_OF_RANGE);
    assert_new(append_one_sequenced(200, 1, 9, 1, 0), 10); /* a new epoch */
    assert_int_equal(append_one_sequenced(0, 1, 9, 0, 10).status, STATUS_STALE);
    fall(false);
    rise();
    assert_int_equal(append_one_sequenced(0, 1, 9, 0, 9).status, STATUS_STALE);
    assert_duplicate(append_one_sequenced(200, 1, 9, 1, 0), 10);
    assert_new(append_one_sequenced(201, 1, 9, 1, 1), 11);
    assert_new(append_one_sequenced(202, 1, 8, 3, 55), 12); /* nothing is known of this one */
    assert_int_equal(append_one_sequenced(0, 1, 8, INT16_MAX + 1, 0).status, STATUS_INVALID);
    assert_int_equal(append_one_sequenced(0, 1, 8, -1, 0).status, STATUS_INVALID);
}

static void test_sequences_wrap(void **state)
{
    (void)state;
    assert_new(append_one_sequenced(0, 4, 9, 0, INT32_MAX - 5), 0);
    assert_new(append_one_sequenced(4, 4, 9, 0, INT32_MAX - 1), 4); /* to 1 */
    assert_new(append_one_sequenced(8, 2, 9, 0, 2), 8);
    assert_duplicate(append_one_sequenced(4, 4, 9, 0, INT32_MAX - 1), 4);
    assert_duplicate(append_one_sequenced(6, 2, 9, 0, 0), 6);
    assert_int_equal(append_one_sequenced(0, 1, 9, 0, 5).status, STATUS_OUT_OF_RANGE);
    fall(false);
    rise();
    assert_duplicate(append_one_sequenced(4, 4, 9, 0, INT32_MAX - 1), 4);
    assert_new(append_one_sequenced(10, 1, 9, 0, 4), 10);
}

/* Several of one producer in a batch are one row; what follows waits for their outcome. */
static void test_sequenced_pending(void **state)
{
    (void)state;
    struct append first, second, third;
    door.hold = true;
    append_begin(&first);
    for (uint32_t i = 0; i < 10; i++)
        add_sequenced(&first, i, 1, 9, 0, (int32_t)i);
    add_sequenced(&first, 4, 1, 9, 0, 4);
    append_go(&first);
    append_begin(&second);
    add_sequenced(&second, 10, 1, 9, 0, 10);
    add_sequenced(&second, 3, 1, 9, 0, 3);
    append_go(&second);
    append_begin(&third);
    add_keyed(&third, 50, 1);
    append_go(&third);
    settle();
    assert_int_equal(door.held_count, 1);
    door.refuse = STATUS_NO_SPACE;
    unsigned held = door.held_count;
    assert_int_equal(held, 1);
    door_let_pass();
    run_turn();
    door.refuse = STATUS_OK;
    settle();
    assert_int_equal(first.items[0].status, STATUS_NO_SPACE);
    assert_int_equal(first.items[10].status, STATUS_NO_SPACE);
    /* Nothing was known of the producer any more, so this was its first. */
    assert_int_equal(second.done && third.done, true);

    fall(false);
    memory_storage_ops.close(door.inner);
    struct storage_options options = {0};
    struct err err;
    assert_int_equal(memory_storage_ops.open(&options, &door.inner, &err), STATUS_OK);
    rig.end = 0;
    rise();
    door.hold = true;
    append_begin(&first);
    for (uint32_t i = 0; i < 10; i++)
        add_sequenced(&first, i, 1, 9, 0, (int32_t)i);
    add_sequenced(&first, 4, 1, 9, 0, 4);
    append_go(&first);
    append_begin(&second);
    add_sequenced(&second, 10, 1, 9, 0, 10);
    add_sequenced(&second, 3, 1, 9, 0, 3);
    append_go(&second);
    settle();
    door_let_pass();
    settle();
    assert_new(first.items[9], 9);
    assert_duplicate(first.items[10], 4);
    assert_new(second.items[0], 10);
    assert_duplicate(second.items[1], 3);
    assert_int_equal(rows_left(), 2);
}

static void test_idle_producers(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 200; i++)
        append_one_sequenced(i, 1, i, 0, 0);
    assert_int_equal(rows_left(), 200);
    pass(23 * 3600 * 1000);
    append_one_sequenced(1000, 1, 7, 0, 1);
    pass(3600 * 1000);
    for (unsigned i = 0; i < 6; i++)
        pass(1000);
    assert_int_equal(rows_left(), 2);
    assert_int_equal(rig.worker.producers, 1);
    assert_duplicate(append_one_sequenced(1000, 1, 7, 0, 1), 200);
}

/* ------------------------------------------------ random runs */

enum { SEEDS = 60, STEPS = 900, KEYS = 60, PRODUCERS = 4, CALLS = 40 };

/* A key: when and where it was stored last, as far as its publishers were told. */
static struct {
    bool stored;
    uint64_t offset;
    int64_t at_ms; /* not before */
} model[KEYS];
static struct {
    int32_t next, epoch;
} producers[PRODUCERS];
static struct call {
    struct append append;
    bool busy;
    uint64_t keys[ITEMS];
    int64_t began_ms;
} calls[CALLS];
static uint64_t seed, next_value;

static uint64_t pick(uint64_t bound)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (seed >> 33) % bound;
}

static void collect_call(struct call *call)
{
    call->busy = false;
    for (uint32_t i = 0; i < call->append.append.count; i++) {
        const struct dedup_item *item = &call->append.items[i];
        uint64_t key = call->keys[i];
        if (call->append.status != STATUS_OK || item->status != STATUS_OK || item->sequence >= 0)
            continue;
        if (item->duplicate) {
            assert_true(item->offset < rig.end);
        } else {
            /* A second original only after the window of the first. */
            if (model[key].stored)
                assert_true(wall_ms - model[key].at_ms >= WINDOW_MS);
            model[key].stored = true;
            model[key].offset = item->offset;
            model[key].at_ms = call->began_ms;
        }
        assert_int_equal(item->offset, model[key].offset);
    }
}

static void collect(void)
{
    for (;;) { /* in the order of the answers */
        struct call *first = NULL;
        for (unsigned i = 0; i < CALLS; i++)
            if (calls[i].busy && calls[i].append.done &&
                (first == NULL || calls[i].append.order < first->append.order))
                first = &calls[i];
        if (first == NULL)
            return;
        collect_call(first);
    }
}

static void step_append(void)
{
    struct call *call = &calls[pick(CALLS)];
    if (call->busy)
        return;
    call->busy = true;
    call->began_ms = wall_ms;
    append_begin(&call->append);
    uint64_t count = 1 + pick(5);
    for (uint64_t i = 0; i < count; i++) {
        call->keys[i] = pick(KEYS);
        if (pick(4) > 0) {
            add_keyed(&call->append, next_value++, call->keys[i]);
            continue;
        }
        /* Mostly the next one, now and then something else. */
        uint64_t producer = pick(PRODUCERS);
        int32_t sequence = producers[producer].next;
        if (pick(6) == 0)
            sequence = (int32_t)pick((uint64_t)sequence + 2);
        uint32_t records = 1 + (uint32_t)pick(3);
        add_sequenced(&call->append, next_value, records, producer, producers[producer].epoch,
                      sequence);
        next_value += records;
        if (sequence == producers[producer].next)
            producers[producer].next += (int32_t)records;
    }
    append_go(&call->append);
}

static void crash(void)
{
    if (pick(2) == 0)
        door.refuse = STATUS_STORAGE_FAILED;
    door_let_pass();
    fall(false);
    settle();
    collect();
    door.refuse = STATUS_OK;
    rise();
}

static void step(void)
{
    uint64_t what = pick(100);
    if (what < 60)
        step_append();
    else if (what < 65)
        door.hold = true;
    else if (what < 75)
        door_let_pass();
    else if (what < 77)
        door.refuse = STATUS_NO_SPACE;
    else if (what < 81)
        door.refuse = STATUS_OK;
    else if (what < 90)
        pass((int64_t)pick(pick(5) == 0 ? WINDOW_MS : 2000));
    else if (what < 91)
        crash();
    else
        run_turn();
    collect();
}

/* Nothing is in the log twice, and what a value says it is lies where it was said to. */
static void check_log(void)
{
    uint8_t *found = heap_new(next_value + 1);
    for (uint64_t i = 0; i < rig.end; i++) {
        assert_true(rig.values[i] < next_value);
        assert_false(found[rig.values[i]]);
        found[rig.values[i]] = 1;
    }
    heap_free(found);
}

static void test_random(void **state)
{
    for (uint64_t first = 1; first <= SEEDS; first++) {
        seed = first;
        memset(model, 0, sizeof model);
        memset(producers, 0, sizeof producers);
        memset(calls, 0, sizeof calls);
        next_value = 0;
        for (unsigned i = 0; i < STEPS; i++)
            step();
        door.refuse = STATUS_OK;
        door_let_pass();
        settle();
        collect();
        for (unsigned i = 0; i < CALLS; i++)
            assert_false(calls[i].busy);
        check_log();
        crash();
        settle();
        for (uint64_t i = 0; i < KEYS; i++)
            if (model[i].stored && wall_ms - model[i].at_ms < WINDOW_MS)
                assert_duplicate(append_one_keyed(next_value, i), model[i].offset);
        pass(2 * WINDOW_MS);
        pass(2 * WINDOW_MS);
        assert_int_equal(rig.worker.keys, 0);
        rig_close(state);
        rig_open(state);
    }
}

/* Every record of a producer is stored once and in order, whatever is refused, repeated or lost on
 * the way: it sends again until it hears that it is stored. */
static void test_random_producer(void **state)
{
    enum { RECORDS = 300 };
    for (uint64_t first = 1; first <= SEEDS; first++) {
        seed = first * 77;
        static struct append append;
        int32_t next = 0;
        while (next < RECORDS) {
            uint32_t count = 1 + (uint32_t)pick(4);
            append_begin(&append);
            for (uint32_t i = 0; i < count; i++)
                add_sequenced(&append, (uint64_t)next + i, 1, 3, 0, next + (int32_t)i);
            door.hold = pick(3) == 0;
            append_go(&append);
            settle();
            bool heard = pick(3) > 0;
            door.refuse = pick(5) == 0 ? STATUS_NO_SPACE : STATUS_OK;
            door_let_pass();
            if (pick(10) == 0) {
                fall(false);
                rise();
            }
            settle();
            door.refuse = STATUS_OK;
            assert_true(append.done);
            bool all = append.status == STATUS_OK;
            for (uint32_t i = 0; i < count; i++) {
                all = all && append.items[i].status == STATUS_OK;
                if (all && append.items[i].offset != DEDUP_OFFSET_UNKNOWN)
                    assert_int_equal(append.items[i].offset, (uint64_t)next + i);
            }
            if (all && heard)
                next += (int32_t)count;
        }
        for (uint64_t i = 0; i < rig.end; i++)
            assert_int_equal(rig.values[i], i);
        rig_close(state);
        rig_open(state);
    }
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        TEST(test_keyed),          TEST(test_mixed_batch),    TEST(test_keyed_pending),
        TEST(test_limit),          TEST(test_many_keys),      TEST(test_removed),
        TEST(test_sequenced),      TEST(test_sequences_wrap), TEST(test_sequenced_pending),
        TEST(test_idle_producers), TEST(test_random),         TEST(test_random_producer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
