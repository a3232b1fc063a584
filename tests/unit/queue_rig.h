/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of a group share: the log over the memory engine with one worker on this thread, and
 * requests that run the loop until they are done. */
#ifndef TESTS_UNIT_QUEUE_RIG_H
#define TESTS_UNIT_QUEUE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "core/base/blob.h"
#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/trace.h"
#include "core/net/worker.h"
#include "core/queue/group.h"
#include "storage/memory/memory.h"
#include "tests/unit/turn.h"

/* LASTING_MS: a lease or delay that has not ended although the machine stood still for a while. */
enum { ITEMS_MAX = LIMIT_TAKE_RECORDS, TURNS = 32, LASTING_MS = 2500 };

/* The memory engine behind a door: row writes can be held back or refused. */
struct door {
    struct storage storage;
    struct storage *inner;
    bool hold;
    enum status refuse;
    uint64_t gap_from, gap_to;         /* reads find nothing here */
    uint64_t corrupt_from, corrupt_to; /* or nothing that can be read */
    struct storage_append *held;
    unsigned row_writes;
    enum status refuse_batches;
    /* A crash at the n-th append from now (1: the next), which is stored all the same or is not;
     * from then on nothing is. */
    unsigned crash_at;
    bool crash_stored, down;
};

static struct door door;

static inline void nobody_waits(struct request *request, enum status status)
{
    (void)status;
    heap_free(container_of(request, struct storage_append, request));
}

/* Stored, but nobody learns of it. */
static inline void door_store_silently(const struct storage_append *append)
{
    struct storage_append *copy = heap_new(sizeof *copy);
    *copy = *append;
    request_init(&copy->request, append->request.home, nobody_waits);
    door.inner->ops->append(door.inner, copy);
}

static inline bool door_is_down(const struct storage_append *append)
{
    if (!door.down && (door.crash_at == 0 || --door.crash_at > 0))
        return false;
    if (!door.down && door.crash_stored)
        door_store_silently(append);
    door.down = true;
    return true;
}

static inline void door_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    if (door_is_down(append)) {
        request_complete(&append->request, STATUS_SHUTTING_DOWN);
        return;
    }
    if (append->batch_count > 0 && door.refuse_batches != STATUS_OK) {
        request_complete(&append->request, door.refuse_batches);
        return;
    }
    if (append->batch_count > 0) {
        door.inner->ops->append(door.inner, append);
        return;
    }
    door.row_writes++;
    if (door.hold)
        door.held = append;
    else if (door.refuse != STATUS_OK)
        request_complete(&append->request, door.refuse);
    else
        door.inner->ops->append(door.inner, append);
}

static inline void door_open(void)
{
    door.hold = false;
    if (door.held != NULL)
        door.inner->ops->append(door.inner, door.held);
    door.held = NULL;
}

static inline void door_read(struct storage *storage, struct storage_read *read)
{
    (void)storage;
    if (read->offset >= door.corrupt_from && read->offset < door.corrupt_to) {
        read->offset = door.corrupt_to;
        request_complete(&read->request, STATUS_CORRUPT);
        return;
    }
    if (read->offset >= door.gap_from && read->offset < door.gap_to)
        read->offset = door.gap_to;
    door.inner->ops->read(door.inner, read);
}
static inline void door_scan(struct storage *storage, struct storage_scan *scan)
{
    (void)storage;
    door.inner->ops->scan(door.inner, scan);
}
static inline void door_trim(struct storage *storage, struct storage_trim *trim)
{
    (void)storage;
    door.inner->ops->trim(door.inner, trim);
}
static inline void door_floor(struct storage *storage, struct storage_floor *floor)
{
    (void)storage;
    door.inner->ops->floor(door.inner, floor);
}
static inline void door_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    (void)storage;
    door.inner->ops->bounds(door.inner, bounds);
}

static const struct storage_ops door_ops = {
    .name = "door",
    .append = door_append,
    .read = door_read,
    .scan = door_scan,
    .trim = door_trim,
    .floor = door_floor,
    .bounds = door_bounds,
};

struct rig {
    struct log *log;
    struct loop *loop;
    struct log_worker *worker;
    struct queue *queue;
    struct group_spec *spec;
    struct group_budget budget;
    struct group *group;
};

static struct rig rig;

static inline struct queue *queue_of(uint32_t partitions)
{
    struct queue *queue = heap_new(sizeof *queue);
    atomic_init(&queue->refs, 1);
    queue->tenant = 1;
    queue->id = 5;
    queue->name = heap_text("orders", 6);
    queue->class = STORAGE_3_DAYS;
    queue->first_partition = 100;
    queue->partition_count = partitions;
    queue->stat = queue_stat_new(partitions);
    return queue;
}

static inline struct group_spec *spec_of(uint64_t id, enum group_start start)
{
    struct group_spec *spec = heap_new(sizeof *spec);
    atomic_init(&spec->refs, 1);
    spec->tenant = 1;
    spec->queue = 5;
    spec->id = id;
    spec->name = heap_text("billing", 7);
    spec->start = start;
    spec->dead_partition = dead_partition_of(id);
    spec->stat = group_stat_new(8);
    return spec;
}

static inline void rig_observe(void *context, uint64_t partition, struct batch *batch)
{
    (void)context;
    if (rig.group != NULL)
        group_notice(rig.group, partition, batch);
}

static inline void log_start(void)
{
    rig.log = log_new(&door.storage, 1);
    rig.worker = log_worker_new(rig.log, 0, rig.loop, rig_observe, NULL);
    for (uint32_t i = 0; i < rig.queue->partition_count; i++) {
        struct partition_spec spec = {.id = rig.queue->first_partition + i,
                                      .class = STORAGE_3_DAYS};
        log_partition_open(rig.worker, &spec, &rig.queue->stat->partitions[i]);
    }
    struct partition_spec spec = {.id = rig.spec->dead_partition, .class = STORAGE_3_DAYS};
    if (spec.id != 0)
        log_partition_open(rig.worker, &spec, &rig.spec->stat->dead_letters);
}

static inline void log_stop(void)
{
    log_worker_free(rig.worker);
    log_free(rig.log);
}

static inline void stop_loop(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(rig.loop);
}

static inline void run_turn(void)
{
    turn_run(rig.loop);
}

/* At least so long, and then until nothing is under way. That counts turns, as the store answers by
 * mail, and not time, of which the machine may give this thread none. */
static inline void run_ms(uint64_t ms)
{
    struct loop_timer timer = {.fired = stop_loop};
    loop_timer_start(rig.loop, &timer, ms);
    while (loop_timer_is_running(&timer))
        loop_run(rig.loop);
    for (unsigned i = 0; i < TURNS; i++)
        run_turn();
}

static inline void open_group(void)
{
    rig.group = group_open(rig.log, rig.worker, rig.loop, &rig.budget, rig.queue, rig.spec);
}

static bool group_is_closed;

static inline void group_closed(struct request *request, enum status status)
{
    (void)request;
    (void)status;
    group_is_closed = true;
    loop_stop(rig.loop);
}

/* Until it is closed; in a crash, where nothing is stored any more, nobody waits. */
static inline void close_group(bool remove)
{
    struct request closed;
    request_init(&closed, rig.loop, group_closed);
    group_is_closed = door.down;
    group_close(rig.group, remove, door.down ? NULL : &closed);
    rig.group = NULL;
    while (!group_is_closed)
        loop_run(rig.loop);
    run_ms(5);
}

/* As a crash leaves it: what is not stored by now never will be. */
static inline void crash_and_open(void)
{
    door.crash_at = 0;
    door.down = true;
    close_group(false);
    log_stop();
    door.down = false;
    log_start();
    open_group();
}

static inline void rig_open(uint32_t partitions)
{
    struct storage_options options = {0};
    struct err err;
    trace_set_level(TRACE_ERROR);
    door = (struct door){.storage = {.ops = &door_ops}};
    assert_int_equal(memory_storage_ops.open(&options, &door.inner, &err), STATUS_OK);
    rig = (struct rig){
        .loop = loop_new(),
        .queue = queue_of(partitions),
        .budget = {.note_bytes_max = LIMIT_WORKER_NOTES, .released.max = LIMIT_WORKER_RELEASED}};
    rig.spec = spec_of(9, GROUP_EARLIEST);
    log_start();
    run_ms(1);
}

static inline void rig_close(void)
{
    if (rig.group != NULL)
        close_group(false);
    log_stop();
    queue_unref(rig.queue);
    group_spec_unref(rig.spec);
    loop_free(rig.loop);
    memory_storage_ops.close(door.inner);
}

/* Requests that run the loop until they are done. */

struct take {
    struct group_take take;
    struct group_item items[ITEMS_MAX];
    bool done;
    enum status status;
    unsigned order;
};

struct settle {
    struct group_settle settle;
    bool done;
    enum status status;
};

struct append {
    struct log_append append;
    bool done;
};

static unsigned answered;

static inline void take_done(struct request *request, enum status status)
{
    struct take *take = container_of(request, struct take, take.request);
    take->done = true;
    take->status = status;
    take->order = ++answered;
    loop_stop(rig.loop);
}

static inline void settle_done(struct request *request, enum status status)
{
    struct settle *settle = container_of(request, struct settle, settle.request);
    settle->done = true;
    settle->status = status;
    loop_stop(rig.loop);
}

static inline void append_done(struct request *request, enum status status)
{
    struct append *append = container_of(request, struct append, append.request);
    assert_int_equal(status, STATUS_OK);
    append->done = true;
    batch_unref(append->append.batch);
    loop_stop(rig.loop);
}

static inline void take_begin(struct take *take, uint32_t max, uint32_t wait_ms, uint32_t lease_ms,
                              bool dead)
{
    *take = (struct take){0};
    request_init(&take->take.request, rig.loop, take_done);
    take->take.max_records = max;
    take->take.max_bytes = UINT32_MAX;
    take->take.wait_ms = wait_ms;
    take->take.lease_ms = lease_ms;
    take->take.items = take->items;
    take->take.dead = dead;
    group_take(rig.group, &take->take);
    assert_false(take->done);
}

static inline void take_start(struct take *take, uint32_t max, uint32_t wait_ms, uint32_t lease_ms)
{
    take_begin(take, max, wait_ms, lease_ms, false);
}

static inline void take_wait(struct take *take)
{
    while (!take->done)
        loop_run(rig.loop);
}

static inline void take_drop(struct take *take)
{
    for (uint32_t i = 0; i < take->take.count; i++) {
        batch_unref(take->items[i].batch);
        blob_unref(take->items[i].note);
    }
    take->take.count = 0;
}

static inline uint32_t take_some(struct take *take, uint32_t max, uint32_t wait_ms,
                                 uint32_t lease_ms)
{
    take_start(take, max, wait_ms, lease_ms);
    take_wait(take);
    assert_int_equal(take->status, STATUS_OK);
    return take->take.count;
}

static inline uint32_t take_dead(struct take *take, uint32_t max, uint32_t wait_ms,
                                 uint32_t lease_ms)
{
    take_begin(take, max, wait_ms, lease_ms, true);
    take_wait(take);
    assert_int_equal(take->status, STATUS_OK);
    return take->take.count;
}

static inline void settle_begin(struct settle *settle, const struct receipt *receipts,
                                uint32_t count, enum settle_outcome outcome, uint32_t delay_ms,
                                enum status *results)
{
    *settle = (struct settle){0};
    request_init(&settle->settle.request, rig.loop, settle_done);
    settle->settle.receipts = receipts;
    settle->settle.count = count;
    settle->settle.outcome = outcome;
    settle->settle.delay_ms = delay_ms;
    settle->settle.results = results;
    group_settle(rig.group, &settle->settle);
    assert_false(settle->done);
}

static inline void settle_start(struct settle *settle, const struct receipt *receipts,
                                uint32_t count, enum settle_outcome outcome, enum status *results)
{
    settle_begin(settle, receipts, count, outcome, 0, results);
}

static inline enum status settle_one(const struct receipt *receipt, enum settle_outcome outcome)
{
    struct settle settle;
    enum status result = STATUS_INTERNAL;
    settle_start(&settle, receipt, 1, outcome, &result);
    while (!settle.done)
        loop_run(rig.loop);
    return settle.status != STATUS_OK ? settle.status : result;
}

static inline void settle_all(const struct take *take, enum settle_outcome outcome)
{
    struct receipt receipts[ITEMS_MAX];
    enum status results[ITEMS_MAX];
    for (uint32_t i = 0; i < take->take.count; i++)
        receipts[i] = take->items[i].receipt;
    struct settle settle;
    settle_start(&settle, receipts, take->take.count, outcome, results);
    while (!settle.done)
        loop_run(rig.loop);
    assert_int_equal(settle.status, STATUS_OK);
    for (uint32_t i = 0; i < take->take.count; i++)
        assert_int_equal(results[i], STATUS_OK);
}

/* With a delay, or the lease that is asked for. */
static inline enum status settle_for(const struct receipt *receipt, enum settle_outcome outcome,
                                     uint32_t ms)
{
    struct settle settle = {0};
    enum status result = STATUS_INTERNAL;
    request_init(&settle.settle.request, rig.loop, settle_done);
    settle.settle.receipts = receipt;
    settle.settle.count = 1;
    settle.settle.outcome = outcome;
    settle.settle.results = &result;
    settle.settle.delay_ms = settle.settle.lease_ms = ms;
    group_settle(rig.group, &settle.settle);
    while (!settle.done)
        loop_run(rig.loop);
    return settle.status != STATUS_OK ? settle.status : result;
}

/* Publishes count records whose value is a number, from first on, as one batch. */
static inline void publish(uint32_t partition, uint32_t first, uint32_t count, const char *expires)
{
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = first + i;
        struct header header = {.name = span_from_text(HEADER_EXPIRES_AT)};
        struct record_input record = {.timestamp_ms = 1, .value = span_of(&number, sizeof number)};
        if (expires != NULL) {
            header.value = span_from_text(expires);
            record.headers = &header;
            record.header_count = 1;
        }
        assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
    }
    struct append append = {0};
    request_init(&append.append.request, rig.loop, append_done);
    append.append.partition = rig.queue->first_partition + partition;
    append.append.batch = batch_builder_seal(&builder);
    log_append(rig.worker, &append.append);
    while (!append.done)
        loop_run(rig.loop);
    batch_builder_deinit(&builder);
}

/* One record, whose value is a number; NULL: it has none of that. */
struct extras {
    const char *key, *group, *labels, *expires, *color;
};

static inline void publish_with(uint32_t partition, uint32_t number, struct extras extras)
{
    const char *texts[][2] = {{HEADER_GROUP_ID, extras.group},
                              {HEADER_LABELS, extras.labels},
                              {HEADER_EXPIRES_AT, extras.expires},
                              {"color", extras.color}};
    struct batch_builder builder;
    struct header headers[4];
    struct record_input record = {
        .timestamp_ms = 1, .value = span_of(&number, sizeof number), .headers = headers};
    for (unsigned i = 0; i < 4; i++)
        if (texts[i][1] != NULL)
            headers[record.header_count++] =
                (struct header){span_from_text(texts[i][0]), span_from_text(texts[i][1])};
    if (extras.key != NULL)
        record.key = span_from_text(extras.key);
    batch_builder_init(&builder);
    assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
    struct append append = {0};
    request_init(&append.append.request, rig.loop, append_done);
    append.append.partition = rig.queue->first_partition + partition;
    append.append.batch = batch_builder_seal(&builder);
    log_append(rig.worker, &append.append);
    while (!append.done)
        loop_run(rig.loop);
    batch_builder_deinit(&builder);
}

static inline uint32_t number_of(const struct group_item *item)
{
    struct record record;
    uint32_t number;
    batch_record(item->batch, item->index, &record);
    assert_int_equal(record.offset, item->receipt.offset);
    assert_int_equal(record.value.size, sizeof number);
    memcpy(&number, record.value.data, sizeof number);
    return number;
}

static inline void assert_taken(const struct take *take, uint32_t first, uint32_t count)
{
    assert_int_equal(take->take.count, count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(number_of(&take->items[i]), first + i);
}

static inline uint64_t stat_of(_Atomic uint64_t *value)
{
    run_ms(1);
    return atomic_load(value);
}

#endif
