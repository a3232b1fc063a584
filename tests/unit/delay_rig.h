/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of delayed records share: two partitions over the memory engine, on this thread, under
 * a clock that the test sets; calls that run the loop until they are done. */
#ifndef TESTS_UNIT_DELAY_RIG_H
#define TESTS_UNIT_DELAY_RIG_H

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
#include "core/queue/delay.h"
#include "core/queue/delay_impl.h"
#include "storage/memory/memory.h"
#include "tests/unit/door.h"
#include "tests/unit/turn.h"

enum { PARTITION = 7, OTHER = 8, NUMBERS = 70000 };

/* ------------------------------------------------ time */

static int64_t wall_ms = 1000000;
static uint64_t monotonic_ms = 5000;

static inline int64_t test_wall(void)
{
    return wall_ms;
}

static inline uint64_t test_monotonic(void)
{
    return monotonic_ms * 1000000;
}

static const struct clock_source test_clock = {test_monotonic, test_wall};

/* ------------------------------------------------ the rig */

struct rig {
    struct loop *loop;
    struct log *log;
    struct log_worker *log_worker;
    struct partition_stat stat;
    struct delay_worker worker;
    struct delay *delay;
    _Atomic uint64_t waiting;
    uint64_t denied; /* principal that may not */
};
static struct rig rig;

/* What has come out of the log, by number. */
static struct {
    unsigned fired;
    int64_t at_ms;
    uint64_t order;
} seen[NUMBERS];
static uint64_t seen_count;
static uint64_t late_max_ms, late_count;

static inline void observe(void *context, uint64_t partition, struct batch *batch)
{
    (void)context;
    assert_int_equal(partition, PARTITION);
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        uint32_t number;
        batch_record(batch, i, &record);
        struct span topic;
        assert_true(record_find(&record, HEADER_TOPIC, &topic));
        assert_true(span_is(topic, "a/b"));
        assert_true(record.value.size >= sizeof number);
        memcpy(&number, record.value.data, sizeof number);
        assert_true(number < NUMBERS);
        seen[number].fired++;
        seen[number].at_ms = wall_ms;
        seen[number].order = seen_count++;
    }
}

static inline bool may_fire(void *context, uint64_t partition, uint64_t principal,
                            const struct record *record)
{
    (void)context;
    assert_int_equal(partition, PARTITION);
    assert_true(record->header_count == 2);
    return principal != rig.denied;
}

static inline void has_fired(void *context, uint64_t late_ms)
{
    (void)context;
    late_count++;
    late_max_ms = late_ms > late_max_ms ? late_ms : late_max_ms;
}

static const struct delay_ops ops = {may_fire, has_fired};

static inline void stop_loop(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(rig.loop);
}

static inline void run_turn(void)
{
    turn_run(rig.loop);
}

/* Until nothing is under way: mails need a turn or two. */
static inline void settle(void)
{
    for (unsigned i = 0; i < 6 || (rig.worker.in_flight > 0 && !door.hold && !door.hold_units); i++)
        run_turn();
}

static inline void run_ms(uint64_t ms)
{
    struct loop_timer timer = {.fired = stop_loop};
    loop_timer_start(rig.loop, &timer, ms);
    loop_run(rig.loop);
    loop_timer_stop(rig.loop, &timer);
}

static inline void rise(void)
{
    rig.log = log_new(&door.storage, 1);
    rig.log_worker = log_worker_new(rig.log, 0, rig.loop, observe, NULL);
    struct partition_spec spec = {.id = PARTITION, .class = STORAGE_3_DAYS};
    log_partition_open(rig.log_worker, &spec, &rig.stat);
    rig.worker = (struct delay_worker){
        .log = rig.log, .log_worker = rig.log_worker, .loop = rig.loop, .ops = &ops};
    atomic_store(&rig.waiting, 0);
    rig.delay = delay_open(&rig.worker, PARTITION, &rig.waiting);
    settle();
}

static inline void fall(bool remove)
{
    if (rig.delay != NULL)
        delay_close(rig.delay, remove);
    rig.delay = NULL;
    settle();
    assert_int_equal(rig.worker.in_flight, 0);
    assert_int_equal(rig.worker.bytes, 0);
    assert_int_equal(atomic_load(&rig.waiting), 0);
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
    memset(seen, 0, sizeof seen);
    seen_count = late_max_ms = late_count = 0;
    door = (struct door){.storage = {.ops = &door_ops}};
    assert_int_equal(memory_storage_ops.open(&options, &door.inner, &err), STATUS_OK);
    rig = (struct rig){.loop = loop_new(), .denied = UINT64_MAX};
    rise();
    return 0;
}

static inline int rig_close(void **state)
{
    (void)state;
    fall(false);
    loop_free(rig.loop);
    memory_storage_ops.close(door.inner);
    clock_use(NULL);
    return 0;
}

static inline void pass(int64_t ms)
{
    wall_ms += ms;
    monotonic_ms += (uint64_t)ms;
    if (rig.delay != NULL)
        delay_check(rig.delay);
    settle();
}

/* ------------------------------------------------ calls */

struct insert {
    struct delay_insert insert;
    struct delay_record record;
    bool done;
    enum status status;
};

static inline void insert_done(struct request *request, enum status status)
{
    struct insert *insert = container_of(request, struct insert, insert.request);
    insert->done = true;
    insert->status = status;
    batch_unref(insert->record.batch);
}

static inline struct batch *batch_of(uint32_t number, size_t size)
{
    struct batch_builder builder;
    batch_builder_init(&builder);
    uint8_t *value = heap_new(size + sizeof number);
    memcpy(value, &number, sizeof number);
    struct header headers[] = {{span_from_text(HEADER_TOPIC), span_from_text("a/b")},
                               {span_from_text(HEADER_PUBLISHER), span_from_text("u/c")}};
    struct record_input record = {.timestamp_ms = wall_ms,
                                  .value = span_of(value, size + sizeof number),
                                  .headers = headers,
                                  .header_count = 2};
    assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
    struct batch *batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    heap_free(value);
    return batch;
}

static inline void insert_in_unit(struct insert *insert, uint32_t number, uint64_t delay_ms,
                                  uint64_t principal, size_t size, uint64_t unit)
{
    *insert = (struct insert){
        .record = {.batch = batch_of(number, size), .delay_ms = delay_ms, .principal = principal}};
    request_init(&insert->insert.request, rig.loop, insert_done);
    insert->insert.records = &insert->record;
    insert->insert.count = 1;
    insert->insert.unit = unit;
    insert->insert.part_count = 1;
    delay_insert(rig.delay, &insert->insert);
    assert_false(insert->done);
}

static inline void insert_start(struct insert *insert, uint32_t number, uint64_t delay_ms,
                                uint64_t principal, size_t size)
{
    insert_in_unit(insert, number, delay_ms, principal, size, 0);
}

static inline struct delay_id insert_one(uint32_t number, uint64_t delay_ms)
{
    struct insert insert;
    insert_start(&insert, number, delay_ms, 0, 0);
    while (!insert.done)
        run_turn();
    assert_int_equal(insert.status, STATUS_OK);
    return insert.record.id;
}

struct cancel {
    struct delay_cancel cancel;
    bool done;
    enum status status;
};

static inline void cancel_done(struct request *request, enum status status)
{
    struct cancel *cancel = container_of(request, struct cancel, cancel.request);
    cancel->done = true;
    cancel->status = status;
}

static inline void cancel_start(struct cancel *cancel, struct delay_id id, uint64_t principal)
{
    *cancel = (struct cancel){.cancel = {.id = id, .principal = principal}};
    request_init(&cancel->cancel.request, rig.loop, cancel_done);
    delay_cancel(rig.delay, &cancel->cancel);
}

static inline enum status cancel_one(struct delay_id id, uint64_t principal)
{
    struct cancel cancel;
    cancel_start(&cancel, id, principal);
    while (!cancel.done)
        run_turn();
    settle();
    return cancel.status;
}

#endif
