/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed records: when they fire, what a crash, a refused write and a clock that is set make of
 * them, and random runs against a model that is a plain list. */
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
#include "core/queue/delay.h"
#include "core/queue/delay_impl.h"
#include "storage/memory/memory.h"

enum { PARTITION = 7, OTHER = 8, NUMBERS = 70000 };

/* The memory engine behind a door: appends can be held back or refused. */
struct door {
    struct storage storage;
    struct storage *inner;
    bool hold;
    enum status refuse;
    struct storage_append *held[64];
    unsigned held_count;
    unsigned scans;
};
static struct door door;

static void door_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    if (door.hold && door.held_count < 64)
        door.held[door.held_count++] = append;
    else if (door.refuse != STATUS_OK)
        request_complete(&append->request, door.refuse);
    else
        door.inner->ops->append(door.inner, append);
}

static void door_let_pass(void)
{
    door.hold = false;
    for (unsigned i = 0; i < door.held_count; i++)
        door_append(NULL, door.held[i]);
    door.held_count = 0;
}

static void door_read(struct storage *storage, struct storage_read *read)
{
    (void)storage;
    door.inner->ops->read(door.inner, read);
}
static void door_scan(struct storage *storage, struct storage_scan *scan)
{
    (void)storage;
    door.scans++;
    door.inner->ops->scan(door.inner, scan);
}
static void door_trim(struct storage *storage, struct storage_trim *trim)
{
    (void)storage;
    door.inner->ops->trim(door.inner, trim);
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
    .read = door_read,
    .scan = door_scan,
    .trim = door_trim,
    .floor = door_floor,
    .bounds = door_bounds,
};

/* ------------------------------------------------ time */

static int64_t wall_ms = 1000000;
static uint64_t monotonic_ms = 5000;

static int64_t test_wall(void)
{
    return wall_ms;
}

static uint64_t test_monotonic(void)
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

static void observe(void *context, uint64_t partition, struct batch *batch)
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

static bool may_fire(void *context, uint64_t partition, uint64_t principal,
                     const struct record *record)
{
    (void)context;
    assert_int_equal(partition, PARTITION);
    assert_true(record->header_count == 2);
    return principal != rig.denied;
}

static void has_fired(void *context, uint64_t late_ms)
{
    (void)context;
    late_count++;
    late_max_ms = late_ms > late_max_ms ? late_ms : late_max_ms;
}

static const struct delay_ops ops = {may_fire, has_fired};

static void stop_loop(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(rig.loop);
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

/* Until nothing is under way: mails need a turn or two. */
static void settle(void)
{
    for (unsigned i = 0; i < 6 || (rig.worker.in_flight > 0 && !door.hold); i++)
        run_turn();
}

static void run_ms(uint64_t ms)
{
    struct loop_timer timer = {.fired = stop_loop};
    loop_timer_start(rig.loop, &timer, ms);
    loop_run(rig.loop);
    loop_timer_stop(rig.loop, &timer);
}

static void rise(void)
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

static void fall(bool remove)
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

static int rig_open(void **state)
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

static int rig_close(void **state)
{
    (void)state;
    fall(false);
    loop_free(rig.loop);
    memory_storage_ops.close(door.inner);
    clock_use(NULL);
    return 0;
}

static void pass(int64_t ms)
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

static void insert_done(struct request *request, enum status status)
{
    struct insert *insert = container_of(request, struct insert, insert.request);
    insert->done = true;
    insert->status = status;
    batch_unref(insert->record.batch);
}

static struct batch *batch_of(uint32_t number, size_t size)
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

static void insert_start(struct insert *insert, uint32_t number, uint64_t delay_ms,
                         uint64_t principal, size_t size)
{
    *insert = (struct insert){
        .record = {.batch = batch_of(number, size), .delay_ms = delay_ms, .principal = principal}};
    request_init(&insert->insert.request, rig.loop, insert_done);
    insert->insert.records = &insert->record;
    insert->insert.count = 1;
    delay_insert(rig.delay, &insert->insert);
    assert_false(insert->done);
}

static struct delay_id insert_one(uint32_t number, uint64_t delay_ms)
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

static void cancel_done(struct request *request, enum status status)
{
    struct cancel *cancel = container_of(request, struct cancel, cancel.request);
    cancel->done = true;
    cancel->status = status;
}

static void cancel_start(struct cancel *cancel, struct delay_id id, uint64_t principal)
{
    *cancel = (struct cancel){.cancel = {.id = id, .principal = principal}};
    request_init(&cancel->cancel.request, rig.loop, cancel_done);
    delay_cancel(rig.delay, &cancel->cancel);
}

static enum status cancel_one(struct delay_id id, uint64_t principal)
{
    struct cancel cancel;
    cancel_start(&cancel, id, principal);
    while (!cancel.done)
        run_turn();
    settle();
    return cancel.status;
}

/* ------------------------------------------------ tests */

static void test_fires_once_in_order(void **state)
{
    (void)state;
    insert_one(0, 50);
    insert_one(1, 20);
    insert_one(2, 50);
    insert_one(3, 0);
    assert_int_equal(atomic_load(&rig.waiting), 4);
    assert_int_equal(seen_count, 0); /* a millisecond may have been nearly over */
    pass(1);
    assert_int_equal(seen[3].fired, 1);
    pass(19);
    assert_int_equal(seen_count, 1);
    pass(1);
    assert_int_equal(seen[1].fired, 1);
    pass(30);
    assert_int_equal(seen_count, 4);
    assert_true(seen[0].order < seen[2].order);
    assert_int_equal(atomic_load(&rig.waiting), 0);
    assert_int_equal(late_count, 4);
    assert_int_equal(late_max_ms, 0);
    pass(1000);
    fall(false);
    rise();
    pass(1000000);
    assert_int_equal(seen_count, 4);
}

static void test_timer(void **state)
{
    (void)state;
    clock_use(NULL);
    fall(false);
    rise();
    int64_t began_ms = clock_wall_ms();
    insert_one(0, 30);
    while (seen_count == 0)
        run_ms(1);
    assert_true(clock_wall_ms() - began_ms >= 30);
    fall(false);
    clock_use(&test_clock);
    rise();
}

static void test_restart(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        insert_one(i, i * 10);
    pass(500);
    assert_int_equal(seen_count, 50);
    fall(false);
    wall_ms += 100; /* nobody watched */
    rise();
    assert_int_equal(seen_count, 60);
    assert_int_equal(atomic_load(&rig.waiting), 40);
    pass(1000);
    assert_int_equal(seen_count, 100);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(seen[i].fired, 1);
    /* Numbers go on. */
    assert_int_equal(insert_one(100, 5).number, 100);
}

/* A crash leaves what was committed; the delay in memory is thrown away with a write under way. */
static void test_crash_while_firing(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 10; i++)
        insert_one(i, 10);
    door.hold = true;
    pass(20);
    assert_int_equal(door.held_count, 1);
    door.refuse = STATUS_STORAGE_FAILED;
    door_let_pass();
    fall(false);
    assert_int_equal(seen_count, 0);
    door.refuse = STATUS_OK;
    rise();
    assert_int_equal(seen_count, 10);
    fall(false);
    rise();
    assert_int_equal(seen_count, 10);
}

static void test_refused_write(void **state)
{
    (void)state;
    insert_one(0, 10);
    door.refuse = STATUS_NO_SPACE;
    struct insert insert;
    insert_start(&insert, 1, 10, 0, 0);
    settle();
    assert_true(insert.done);
    assert_int_equal(insert.status, STATUS_NO_SPACE);
    assert_int_equal(atomic_load(&rig.waiting), 1);
    pass(100);
    assert_int_equal(seen_count, 0);
    insert_start(&insert, 2, 10, 0, 0);
    door.refuse = STATUS_OK;
    settle();
    pass(500);
    assert_int_equal(seen_count, 0); /* it waits before it tries again */
    pass(2000);
    assert_int_equal(seen[0].fired, 1);
    assert_int_equal(seen[1].fired, 0);
    assert_int_equal(atomic_load(&rig.waiting), 0);
}

/* What is being written must not be passed: the mark would pass it too. */
static void test_pending_is_not_passed(void **state)
{
    (void)state;
    insert_one(0, 10);
    insert_one(1, 30);
    door.hold = true;
    struct insert insert;
    insert_start(&insert, 2, 20, 0, 0);
    pass(100); /* 0 is being written, behind the insert */
    assert_int_equal(seen_count, 0);
    door_let_pass();
    settle();
    assert_int_equal(insert.status, STATUS_OK);
    assert_int_equal(seen_count, 3);
    assert_true(seen[2].order < seen[1].order);
    fall(false);
    rise();
    assert_int_equal(seen_count, 3);
}

/* Due before what is firing: it waits behind it, and is not lost. */
static void test_clamped(void **state)
{
    (void)state;
    insert_one(0, 100);
    door.hold = true;
    pass(101);
    assert_int_equal(door.held_count, 1);
    wall_ms -= 90; /* set back */
    struct insert insert;
    insert_start(&insert, 1, 0, 0, 0);
    door_let_pass();
    settle();
    assert_int_equal(insert.status, STATUS_OK);
    pass(1);
    pass(1);
    assert_int_equal(seen[0].fired, 1);
    assert_int_equal(seen[1].fired, 1);
}

static void test_clock_set_back(void **state)
{
    (void)state;
    insert_one(0, 100);
    wall_ms -= 3600000;
    pass(99);
    assert_int_equal(seen_count, 0);
    insert_one(1, 50);
    pass(2);
    assert_int_equal(seen[0].fired, 1);
    pass(48);
    assert_int_equal(seen[1].fired, 0);
    pass(1);
    assert_int_equal(seen[1].fired, 1);
    fall(false);
    rise(); /* an hour before the mark */
    insert_one(2, 20);
    pass(20);
    assert_int_equal(seen[2].fired, 0);
    pass(2);
    assert_int_equal(seen[2].fired, 1);
}

static void test_rights(void **state)
{
    (void)state;
    struct insert inserts[4];
    for (uint32_t i = 0; i < 4; i++)
        insert_start(&inserts[i], i, 10, i % 2 + 5, 0);
    settle();
    rig.denied = 6;
    pass(20);
    assert_int_equal(seen_count, 2);
    assert_int_equal(seen[1].fired + seen[3].fired, 0);
    insert_start(&inserts[0], 4, 10, 6, 0); /* nothing to append but the mark */
    settle();
    pass(20);
    assert_int_equal(atomic_load(&rig.waiting), 0);
    rig.denied = 99;
    fall(false);
    rise();
    pass(20);
    assert_int_equal(seen_count, 2);
    assert_int_equal(late_count, 2);
}

static void test_cancel(void **state)
{
    (void)state;
    struct delay_id near = insert_one(0, 1000), far = insert_one(1, 600000000);
    struct delay_id fired = insert_one(2, 0);
    pass(5);
    assert_int_equal(cancel_one(fired, 0), STATUS_NOT_FOUND);
    assert_int_equal(cancel_one(near, 3), STATUS_DENIED);
    fall(false);
    rise();
    assert_true(rig.delay->near.count == 1); /* only what is due soon is in memory */
    assert_int_equal(cancel_one(far, 3), STATUS_DENIED);
    assert_int_equal(rig.delay->near.count, 1);
    struct delay_id wrong = near;
    wrong.due_ms++;
    assert_int_equal(cancel_one(wrong, 0), STATUS_NOT_FOUND);
    wrong = far;
    wrong.number = 77;
    assert_int_equal(cancel_one(wrong, 0), STATUS_NOT_FOUND);
    assert_int_equal(atomic_load(&rig.waiting), 2);
    assert_int_equal(cancel_one(near, 0), STATUS_OK);
    assert_int_equal(cancel_one(near, 0), STATUS_NOT_FOUND);
    struct cancel twice[2];
    cancel_start(&twice[0], far, 0);
    cancel_start(&twice[1], far, 0);
    settle();
    assert_int_equal(twice[0].status, STATUS_OK);
    assert_int_equal(twice[1].status, STATUS_NOT_FOUND);
    assert_int_equal(atomic_load(&rig.waiting), 0);
    pass(700000000);
    assert_int_equal(seen_count, 1);
    fall(false);
    rise();
    assert_int_equal(seen_count, 1);
}

static void test_cancel_fails(void **state)
{
    (void)state;
    struct delay_id id = insert_one(0, 100);
    insert_one(1, 200);
    door.hold = true;
    struct cancel cancel;
    cancel_start(&cancel, id, 0);
    pass(300); /* nothing passes it */
    door.refuse = STATUS_NO_SPACE;
    door_let_pass();
    settle();
    assert_int_equal(cancel.status, STATUS_NO_SPACE);
    door.refuse = STATUS_OK;
    pass(2000);
    assert_int_equal(seen[0].fired, 1);
    assert_int_equal(seen[1].fired, 1);
}

static void test_id_text(void **state)
{
    (void)state;
    struct delay_id id = {UINT64_MAX, INT64_MAX, UINT64_MAX}, back;
    char text[DELAY_ID_TEXT];
    delay_id_format(&id, text);
    assert_true(delay_id_parse(span_from_text(text), &back));
    assert_memory_equal(&id, &back, sizeof id);
    static const char *const bad[] = {"",
                                      "-",
                                      "--",
                                      "1-2",
                                      "1-2-",
                                      "1-2-3-4",
                                      "1-2-3x",
                                      "g-1-1",
                                      "1--1",
                                      "1-2-11111111111111111",
                                      "1-8000000000000000-1",
                                      "1-2-A"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(delay_id_parse(span_from_text(bad[i]), &back));
    assert_true(delay_id_parse(span_from_text("1-2-3"), &back));
}

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
    uint8_t first[DELAY_KEY], end[DELAY_KEY];
    delay_key(PARTITION, first);
    delay_key(PARTITION + 1, end);
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

/* Many wait: only what is due next is in memory, and all of it fires. */
static void test_many(void **state)
{
    (void)state;
    enum { MANY = 60000, AT_ONCE = 500 };
    static struct insert inserts[AT_ONCE];
    for (uint32_t i = 0; i < MANY; i += AT_ONCE) {
        for (uint32_t k = 0; k < AT_ONCE; k++)
            insert_start(&inserts[k], i + k, (uint64_t)((i + k) * 7919ull % MANY) * 10, 0, 0);
        settle();
    }
    assert_int_equal(atomic_load(&rig.waiting), MANY);
    assert_true(rig.delay->near.count <= 20000);
    fall(false);
    rise();
    assert_true(rig.delay->near.count <= 12000);
    uint32_t most = 0;
    for (unsigned i = 0; i < 601; i++) {
        pass(1000);
        most = rig.delay->near.count > most ? rig.delay->near.count : most;
    }
    assert_int_equal(seen_count, MANY);
    assert_true(most <= 20000);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(seen[i].fired, 1);
    /* What has fired is swept away but for the last few. */
    assert_true(rows_left() < 5000);
    fall(true);
    rise();
    assert_int_equal(atomic_load(&rig.waiting), 0);
    assert_int_equal(rows_left(), 0);
    assert_int_equal(insert_one(1, 1000).number, 0); /* as if there had never been any */
}

static void test_large(void **state)
{
    (void)state;
    static struct insert inserts[100];
    for (uint32_t i = 0; i < 100; i++)
        insert_start(&inserts[i], i, 1000 + i, 0, 300000);
    settle();
    assert_true(rig.worker.bytes < 12u << 20);
    pass(3000);
    assert_int_equal(seen_count, 100);
    assert_int_equal(rig.worker.bytes, 0);
}

static void test_close_with_calls(void **state)
{
    (void)state;
    struct insert insert, late;
    struct cancel cancel;
    struct delay_id id = insert_one(0, 100);
    fall(false);
    rig.log = log_new(&door.storage, 1);
    rig.log_worker = log_worker_new(rig.log, 0, rig.loop, observe, NULL);
    struct partition_spec spec = {.id = PARTITION, .class = STORAGE_3_DAYS};
    log_partition_open(rig.log_worker, &spec, &rig.stat);
    rig.worker = (struct delay_worker){
        .log = rig.log, .log_worker = rig.log_worker, .loop = rig.loop, .ops = &ops};
    rig.delay = delay_open(&rig.worker, PARTITION, &rig.waiting);
    insert_start(&insert, 1, 100, 0, 0); /* before it is open */
    cancel_start(&cancel, id, 0);
    delay_close(rig.delay, true);
    rig.delay = NULL;
    settle();
    assert_int_equal(insert.status, STATUS_NOT_FOUND);
    assert_int_equal(cancel.status, STATUS_NOT_FOUND);
    fall(false);
    rise();
    insert_start(&late, 2, 0, 0, 0); /* its write is under way when it closes */
    delay_close(rig.delay, true);
    rig.delay = NULL;
    settle();
    assert_true(late.done);
    fall(false);
    rise();
    pass(100000);
    assert_int_equal(seen_count, 0);
}

/* ------------------------------------------------ random runs against a list */

enum { SEEDS = 60, STEPS = 1500, MODEL_MAX = 1200 };
enum { M_UNKNOWN, M_WAITS, M_GONE }; /* UNKNOWN: under way */

static struct {
    int state;
    int64_t due_ms; /* not before */
    struct delay_id id;
    struct insert insert;
    struct cancel cancel;
    bool canceling;
} model[MODEL_MAX];
static uint32_t model_count;
static bool seed_refuses;
static bool exact; /* no write was refused: the gauge must be right, else only in the end */
static uint64_t seed;

static uint64_t pick(uint64_t bound)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (seed >> 33) % bound;
}

static void model_collect(void)
{
    for (uint32_t i = 0; i < model_count; i++) {
        if (model[i].state == M_UNKNOWN && model[i].insert.done) {
            model[i].state = model[i].insert.status == STATUS_OK ? M_WAITS : M_GONE;
            model[i].id = model[i].insert.record.id;
        }
        if (model[i].canceling && model[i].cancel.done) {
            model[i].canceling = false;
            if (model[i].cancel.status == STATUS_OK)
                model[i].state = M_GONE;
            else if (model[i].cancel.status == STATUS_NOT_FOUND)
                assert_true(seen[i].fired == 1 || model[i].state == M_GONE ||
                            model[i].id.due_ms <= wall_ms);
        }
        assert_true(seen[i].fired <= 1);
        if (seen[i].fired)
            assert_true(seen[i].at_ms >= model[i].due_ms);
        if (model[i].state == M_GONE)
            assert_int_equal(seen[i].fired, 0);
    }
}

/* Nothing is under way: what must have fired has. */
static void model_calm(void)
{
    door.refuse = STATUS_OK;
    door_let_pass();
    settle();
    pass(1100);
    model_collect();
    for (uint32_t i = 0; i < model_count; i++)
        if (model[i].state == M_WAITS && model[i].id.due_ms <= wall_ms)
            assert_int_equal(seen[i].fired, 1);
}

static uint64_t random_delay(void)
{
    switch (pick(5)) {
    case 0:
        return pick(3);
    case 1:
        return pick(100);
    case 2:
        return pick(5000);
    case 3:
        return pick(100000);
    default:
        return pick(LIMIT_DELAY_MS);
    }
}

static void step(void)
{
    uint64_t what = pick(100);
    if (what < 45 && model_count < MODEL_MAX) {
        uint32_t i = model_count++;
        uint64_t delay_ms = random_delay();
        model[i].state = M_UNKNOWN;
        model[i].canceling = false;
        model[i].due_ms = wall_ms + (int64_t)delay_ms;
        insert_start(&model[i].insert, i, delay_ms, 0, pick(10) == 0 ? 20000 : 0);
    } else if (what < 55 && model_count > 0) {
        uint32_t i = (uint32_t)pick(model_count);
        if (model[i].state == M_WAITS && !model[i].canceling) {
            model[i].canceling = true;
            cancel_start(&model[i].cancel, model[i].id, 0);
        }
    } else if (what < 60) {
        door.hold = true;
    } else if (what < 70) {
        door_let_pass();
    } else if (what < 72 && seed_refuses) {
        door.refuse = STATUS_NO_SPACE;
        exact = false;
    } else if (what < 76) {
        door.refuse = STATUS_OK;
    } else if (what < 90) {
        pass((int64_t)pick(pick(4) == 0 ? 20000 : 50));
    } else if (what < 91) { /* the end, and what comes after */
        door.refuse = pick(2) == 0 ? STATUS_OK : STATUS_STORAGE_FAILED;
        door_let_pass();
        fall(false);
        door.refuse = STATUS_OK;
        wall_ms += (int64_t)pick(3000);
        rise();
    } else {
        run_turn();
    }
    model_collect();
}

static void test_random(void **state)
{
    for (uint64_t first = 1; first <= SEEDS; first++) {
        seed = first;
        model_count = 0;
        exact = true;
        seed_refuses = first % 3 != 0;
        for (unsigned i = 0; i < STEPS; i++)
            step();
        model_calm();
        pass(20000);
        model_calm();
        uint64_t waits = 0;
        for (uint32_t i = 0; i < model_count; i++)
            waits += model[i].state == M_WAITS && !seen[i].fired;
        if (exact)
            assert_int_equal(atomic_load(&rig.waiting), waits);
        for (unsigned i = 0; i < 200; i++)
            pass(LIMIT_DELAY_MS / 100);
        model_calm();
        for (uint32_t i = 0; i < model_count; i++)
            assert_int_equal(seen[i].fired, model[i].state == M_WAITS);
        assert_int_equal(atomic_load(&rig.waiting), 0);
        rig_close(state);
        rig_open(state);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fires_once_in_order, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_timer, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_restart, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_crash_while_firing, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_refused_write, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_pending_is_not_passed, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_clamped, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_clock_set_back, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_rights, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_cancel, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_cancel_fails, rig_open, rig_close),
        cmocka_unit_test(test_id_text),
        cmocka_unit_test_setup_teardown(test_many, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_large, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_close_with_calls, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_random, rig_open, rig_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
