/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of a queue over its partitions, protection of what groups have not done, admission to a
 * full queue, purge. */
/* links: queue log storage_memory net_uv */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/rng.h"
#include "core/queue/queue.h"
#include "storage/memory/memory.h"
#include "tests/unit/turn.h"

enum { FIRST = 100, PARTS = 3, SIZE = 1000, TURNS = 32 };

static struct fixture {
    struct storage *storage;
    struct storage_ops ops; /* the memory engine's, but for append while refusing */
    const struct storage_ops *inner;
    bool refuse_appends;
    struct loop *loop;
    struct log *log;
    struct log_worker *worker;
    struct queue *queue;
    struct partition_spec limits;
    struct batch_builder builder;
    uint64_t undone[PARTS]; /* what the only group has done lies below */
    unsigned pending;
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

static uint64_t undone(void *context, uint64_t partition)
{
    assert_ptr_equal(context, &f);
    return f.undone[partition - FIRST];
}

static void test_append(struct storage *storage, struct storage_append *append)
{
    if (f.refuse_appends)
        request_complete(&append->request, STATUS_NO_SPACE);
    else
        f.inner->append(storage, append);
}

static struct partition_spec spec_of(unsigned part)
{
    struct partition_spec spec = f.limits;
    spec.id = FIRST + part;
    spec.class = STORAGE_3_DAYS;
    spec.siblings = f.queue->stat->partitions;
    spec.sibling_count = PARTS;
    return spec;
}

static void log_begin(void)
{
    f.log = log_new(f.storage, 1);
    f.worker = log_worker_new(f.log, 0, f.loop, NULL, &f);
    log_worker_ask(f.worker, undone);
    for (unsigned i = 0; i < PARTS; i++) {
        struct partition_spec spec = spec_of(i);
        log_partition_open(f.worker, &spec, &f.queue->stat->partitions[i]);
    }
}

static void log_end(void)
{
    log_worker_free(f.worker);
    log_free(f.log);
}

static int setup(void **state)
{
    (void)state;
    f = (struct fixture){0};
    now_ms = 1000;
    clock_use(&fake_clock);
    struct storage_options options = {0};
    assert_int_equal(memory_storage_ops.open(&options, &f.storage, NULL), STATUS_OK);
    f.loop = loop_new();
    f.queue = heap_new(sizeof *f.queue);
    atomic_init(&f.queue->refs, 1);
    f.queue->first_partition = FIRST;
    f.queue->partition_count = PARTS;
    f.queue->stat = queue_stat_new(PARTS);
    for (unsigned i = 0; i < PARTS; i++)
        f.undone[i] = UINT64_MAX;
    log_begin();
    batch_builder_init(&f.builder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    batch_builder_deinit(&f.builder);
    log_end();
    memory_storage_ops.close(f.storage);
    queue_unref(f.queue);
    loop_free(f.loop);
    clock_use(NULL);
    return 0;
}

/* All partitions get the limits that f.limits holds. */
static void limit(void)
{
    for (unsigned i = 0; i < PARTS; i++) {
        struct partition_spec spec = spec_of(i);
        log_partition_limit(f.worker, &spec);
    }
}

struct call {
    struct log_append append;
    struct log_purge purge;
    struct log_read read;
    enum status status;
};

static void call_ended(struct call *call, enum status status)
{
    call->status = status;
    if (--f.pending == 0)
        loop_stop(f.loop);
}

static void append_done(struct request *request, enum status status)
{
    call_ended(container_of(request, struct call, append.request), status);
}

static void purge_done(struct request *request, enum status status)
{
    call_ended(container_of(request, struct call, purge.request), status);
}

static void read_done(struct request *request, enum status status)
{
    call_ended(container_of(request, struct call, read.request), status);
}

static void wait_all(void)
{
    if (f.pending > 0)
        loop_run(f.loop);
    assert_int_equal(f.pending, 0);
}

static void append_start(struct call *call, unsigned part, unsigned records)
{
    static uint8_t value[SIZE];
    *call = (struct call){0};
    for (unsigned i = 0; i < records; i++) {
        struct record_input input = {.timestamp_ms = now_ms, .value = span_of(value, SIZE)};
        assert_int_equal(batch_builder_add(&f.builder, &input), STATUS_OK);
    }
    request_init(&call->append.request, f.loop, append_done);
    call->append.partition = FIRST + part;
    call->append.batch = batch_builder_seal(&f.builder);
    f.pending++;
}

static void append(unsigned part, unsigned records)
{
    struct call call;
    append_start(&call, part, records);
    log_append(f.worker, &call.append);
    wait_all();
    assert_int_equal(call.status, STATUS_OK);
    batch_unref(call.append.batch);
    now_ms++; /* every batch is older than the next */
}

static void stop(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(f.loop);
}

/* At least so long, and then as many turns as what has become due can need. */
static void run_ms(uint64_t ms)
{
    struct loop_timer timer = {.fired = stop};
    loop_timer_start(f.loop, &timer, ms);
    while (loop_timer_is_running(&timer))
        loop_run(f.loop);
    for (unsigned i = 0; i < TURNS; i++)
        turn_run(f.loop);
}

/* Retention now, in as many rounds as partitions may need. */
static void retain(void)
{
    for (unsigned i = 0; i <= PARTS; i++) {
        log_retain(f.worker);
        run_ms(5);
    }
}

static uint64_t start_of(unsigned part)
{
    return atomic_load(&f.queue->stat->partitions[part].start);
}

static uint64_t end_of(unsigned part)
{
    return atomic_load(&f.queue->stat->partitions[part].end);
}

static uint64_t bytes_of(unsigned part)
{
    return atomic_load(&f.queue->stat->partitions[part].bytes);
}

static uint64_t records(void)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < PARTS; i++)
        sum += end_of(i) - start_of(i);
    return sum;
}

/* Reads from offset; expects status, and where OK the first record that may be shown. */
static enum status read_at(unsigned part, uint64_t offset, uint64_t *first)
{
    struct call call = {.read = {.partition = FIRST + part, .offset = offset}};
    request_init(&call.read.request, f.loop, read_done);
    f.pending++;
    log_read(f.worker, &call.read);
    wait_all();
    *first = call.read.start;
    for (uint32_t i = 0; i < call.read.count; i++)
        batch_unref(call.read.batches[i]);
    return call.status;
}

static void too_many_records_go_the_oldest_first(void **state)
{
    (void)state;
    append(1, 10);
    append(0, 10);
    append(2, 10);
    f.limits.retention_records = 23;
    limit();
    retain();
    assert_int_equal(records(), 23);
    assert_int_equal(start_of(1), 7); /* in the middle of a batch */
    uint64_t first;
    assert_int_equal(read_at(1, 6, &first), STATUS_OUT_OF_RANGE);
    assert_int_equal(first, 7);
    assert_int_equal(read_at(1, 7, &first), STATUS_OK);
    f.limits.retention_records = 12;
    limit();
    retain();
    assert_int_equal(records(), 12);
    assert_int_equal(start_of(1), 10);
    assert_int_equal(start_of(0), 8);
    assert_int_equal(start_of(2), 0);
    /* The empty one is no longer the oldest; what comes to it is the newest. */
    append(1, 5);
    retain();
    assert_int_equal(records(), 12);
    assert_int_equal(start_of(0), 10);
    assert_int_equal(start_of(1), 10);
    assert_int_equal(start_of(2), 3);
}

static void too_many_bytes_go_the_oldest_first(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 10; i++)
        append(i % 2, 1);
    uint64_t one = bytes_of(0) / 5;
    f.limits.retention_bytes = one * 6;
    limit();
    retain();
    assert_in_range(bytes_of(0) + bytes_of(1), one * 5, one * 6);
    assert_in_range(start_of(0), 2, 4);
    assert_in_range(start_of(1), 0, 3);
    f.limits.retention_bytes = 10; /* less than any batch: the newest of a partition stays */
    limit();
    retain();
    assert_int_equal(end_of(1) - start_of(1), 1);
    append(2, 3);
    retain();
    assert_int_equal(end_of(2) - start_of(2), 3);
}

static void limits_act_within_a_second(void **state)
{
    (void)state;
    f.limits.retention_records = 5;
    limit();
    append(0, 4);
    append(0, 4);
    for (unsigned i = 0; i < 100 && records() > 5; i++)
        run_ms(10);
    assert_int_equal(records(), 5);
}

static void undone_records_are_spared(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++)
        append(0, 1);
    uint64_t one = bytes_of(0) / 20;
    f.undone[0] = 4;
    f.limits.retention_records = 5;
    f.limits.protect_bytes = one * 30; /* more than all */
    limit();
    retain();
    assert_int_equal(start_of(0), 4);
    f.undone[0] = 9;
    retain();
    assert_int_equal(start_of(0), 9);
    /* The protection ends somewhere. */
    f.limits.protect_bytes = one * 8;
    limit();
    retain();
    assert_int_equal(start_of(0), 12);
    f.limits.protect_bytes = 0;
    limit();
    retain();
    assert_int_equal(start_of(0), 15);
}

/* One that may lose nothing does not keep the others from being trimmed. */
static void spared_partition_is_passed_over(void **state)
{
    (void)state;
    append(0, 10);
    for (unsigned i = 0; i < 20; i++)
        append(1, 1);
    f.undone[0] = 0;
    f.undone[1] = 20;
    f.limits.retention_records = 15;
    f.limits.protect_bytes = bytes_of(0);
    limit();
    retain();
    assert_int_equal(start_of(0), 0);
    assert_int_equal(start_of(1), 15);
    append(1, 1);
    retain();
    assert_int_equal(start_of(1), 16);
    f.undone[0] = 4;
    append(2, 1);
    retain();
    assert_int_equal(start_of(0), 1);
}

static void undone_records_are_spared_by_time(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++)
        append(0, 1);
    uint64_t one = bytes_of(0) / 20;
    now_ms += 100000;
    f.undone[0] = 7;
    f.limits.retention_ms = 1000;
    f.limits.protect_bytes = one * 10;
    limit();
    retain();
    assert_int_equal(start_of(0), 10);
    f.undone[0] = 18;
    retain();
    assert_int_equal(start_of(0), 18);
    f.undone[0] = 20;
    retain();
    assert_int_equal(start_of(0), 20);
    assert_int_equal(bytes_of(0), 0);
}

static void refusing_queue_keeps_what_is_not_done(void **state)
{
    (void)state;
    f.limits.retention_records = 20;
    f.limits.refuse = true;
    limit();
    for (unsigned i = 0; i < 14; i++)
        append(0, 1);
    f.undone[0] = 6;
    retain();
    assert_int_equal(start_of(0), 0); /* less than three quarters: may be replayed */
    for (unsigned i = 0; i < 6; i++)
        append(1, 1);
    f.undone[0] = 0;
    f.undone[1] = 0;
    retain();
    assert_int_equal(records(), 20);
    f.undone[0] = 6;
    f.undone[1] = 2;
    retain();
    assert_int_equal(start_of(0), 6);
    assert_int_equal(start_of(1), 0);       /* there was room again */
    f.undone[0] = f.undone[1] = UINT64_MAX; /* no group: nobody has done anything */
    for (unsigned i = 0; i < 6; i++)
        append(1, 1);
    retain();
    assert_int_equal(records(), 20);
    f.undone[0] = f.undone[1] = f.undone[2] = 0;
    now_ms += 100000; /* time still counts */
    f.limits.retention_ms = 1000;
    limit();
    retain();
    assert_int_equal(records(), 0);
}

/* ------------------------------------------------ admission */

static bool admit(unsigned part)
{
    return queue_admit(f.queue, FIRST + part, SIZE);
}

static void full_queue_admits_nothing(void **state)
{
    (void)state;
    f.queue->overflow = OVERFLOW_REFUSE;
    f.queue->max_records = 5;
    append(0, 3);
    assert_true(admit(0));
    assert_true(admit(1));
    assert_false(admit(1)); /* two are on their way */
    queue_take_back(f.queue, FIRST, 1, SIZE);
    assert_true(admit(2));
    assert_false(admit(0));
    /* One is stored, one is refused by storage. */
    struct call call;
    append_start(&call, 2, 1);
    call.append.pending_records = 1;
    call.append.pending_bytes = SIZE;
    log_append(f.worker, &call.append);
    wait_all();
    batch_unref(call.append.batch);
    assert_false(admit(0));
    f.refuse_appends = true;
    f.inner = f.storage->ops;
    f.ops = *f.inner;
    f.ops.append = test_append;
    f.storage->ops = &f.ops;
    append_start(&call, 1, 1);
    call.append.pending_records = 1;
    call.append.pending_bytes = SIZE;
    log_append(f.worker, &call.append);
    wait_all();
    f.storage->ops = f.inner;
    assert_int_equal(call.status, STATUS_NO_SPACE);
    batch_unref(call.append.batch);
    assert_true(admit(0));
    assert_false(admit(0));
    queue_take_back(f.queue, FIRST, 1, SIZE);
    for (unsigned i = 0; i < PARTS; i++) {
        assert_int_equal(atomic_load(&f.queue->stat->partitions[i].pending_records), 0);
        assert_int_equal(atomic_load(&f.queue->stat->partitions[i].pending_bytes), 0);
    }
}

static void full_by_bytes(void **state)
{
    (void)state;
    f.queue->overflow = OVERFLOW_REFUSE;
    append(0, 3);
    f.queue->retention_bytes = bytes_of(0) + 2 * SIZE;
    assert_true(admit(1));
    assert_true(admit(0));
    assert_false(admit(2));
}

/* ------------------------------------------------ purge */

static uint64_t purge(unsigned part)
{
    struct call call = {.purge = {.partition = FIRST + part}};
    request_init(&call.purge.request, f.loop, purge_done);
    f.pending++;
    log_purge(f.worker, &call.purge);
    wait_all();
    assert_int_equal(call.status, STATUS_OK);
    return call.purge.records;
}

static void purged_is_gone_for_ever(void **state)
{
    (void)state;
    append(0, 10);
    append(0, 5);
    append(1, 5);
    assert_int_equal(purge(0), 15);
    assert_int_equal(start_of(0), 15);
    assert_int_equal(bytes_of(0), 0);
    assert_int_equal(atomic_load(&f.queue->stat->partitions[0].first_time_ms), 0);
    assert_int_equal(atomic_load(&f.queue->stat->partitions[0].purged), 15);
    assert_int_equal(start_of(1), 0);
    uint64_t first;
    assert_int_equal(read_at(0, 14, &first), STATUS_OUT_OF_RANGE);
    assert_int_equal(first, 15);
    assert_int_equal(purge(0), 0);
    append(0, 2);
    assert_int_equal(read_at(0, 15, &first), STATUS_OK);
    uint64_t bytes = bytes_of(0);
    log_end();
    log_begin();
    run_ms(5);
    assert_int_equal(start_of(0), 15);
    assert_int_equal(end_of(0), 17);
    assert_int_equal(bytes_of(0), bytes);
}

/* What is on its way is not purged, and retention under way does not bring anything back. */
static void purge_meets_others(void **state)
{
    (void)state;
    append(0, 10);
    append(0, 10);
    struct call coming, purging = {.purge = {.partition = FIRST}};
    append_start(&coming, 0, 3);
    f.limits.retention_records = 12;
    limit();
    log_retain(f.worker); /* asks storage for the floor */
    request_init(&purging.purge.request, f.loop, purge_done);
    f.pending++;
    log_purge(f.worker, &purging.purge);
    log_append(f.worker, &coming.append);
    wait_all();
    run_ms(20);
    assert_int_equal(start_of(0), 20);
    assert_int_equal(end_of(0), 23);
    assert_int_equal(purging.purge.records, 20);
    uint64_t one = bytes_of(0);
    retain();
    assert_int_equal(bytes_of(0), one);
    batch_unref(coming.append.batch);
    struct call missing = {.purge = {.partition = 7}};
    request_init(&missing.purge.request, f.loop, purge_done);
    f.pending++;
    log_purge(f.worker, &missing.purge);
    wait_all();
    assert_int_equal(missing.status, STATUS_NOT_FOUND);
}

/* ------------------------------------------------ against a model */

/* Records of all partitions in the order of their time: what must be there is the newest end of it,
 * and what is not done. */
static void random_limits(void **state)
{
    (void)state;
    const char *given = getenv("POLYLOG_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : 1 + (uint64_t)time(NULL);
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_seed(seed);
    for (unsigned step = 0; step < 150; step++) {
        unsigned part = (unsigned)rng_below(PARTS);
        uint64_t action = rng_below(10);
        if (action < 6) {
            append(part, 1 + (unsigned)rng_below(9));
        } else if (action < 7) {
            f.limits.retention_records = rng_below(4) == 0 ? 0 : 1 + rng_below(60);
            f.limits.protect_bytes = rng_below(2) == 0 ? 0 : 1u << 30;
            limit();
        } else if (action < 8) {
            f.undone[part] = rng_below(3) == 0 ? UINT64_MAX : start_of(part) + rng_below(20);
            if (f.undone[part] != UINT64_MAX && f.undone[part] > end_of(part))
                f.undone[part] = end_of(part);
        } else if (action < 9) {
            uint64_t before[PARTS];
            for (unsigned i = 0; i < PARTS; i++)
                before[i] = start_of(i);
            for (unsigned i = 0; i < 8; i++)
                retain();
            uint64_t allowed = f.limits.retention_records;
            bool held = false;
            /* What is spared may fill a queue alone. */
            for (unsigned i = 0; i < PARTS; i++) {
                assert_true(start_of(i) >= before[i] && start_of(i) <= end_of(i));
                bool spared = f.limits.protect_bytes != 0 && f.undone[i] != UINT64_MAX;
                if (spared && start_of(i) > before[i])
                    assert_true(start_of(i) <= f.undone[i]);
                held |= spared;
            }
            if (allowed == 0)
                for (unsigned i = 0; i < PARTS; i++)
                    assert_int_equal(start_of(i), before[i]);
            else if (!held)
                assert_true(records() <= allowed);
        } else {
            purge(part);
            f.undone[part] = UINT64_MAX;
        }
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(too_many_records_go_the_oldest_first),
        TEST(too_many_bytes_go_the_oldest_first),
        TEST(limits_act_within_a_second),
        TEST(undone_records_are_spared),
        TEST(spared_partition_is_passed_over),
        TEST(undone_records_are_spared_by_time),
        TEST(refusing_queue_keeps_what_is_not_done),
        TEST(full_queue_admits_nothing),
        TEST(full_by_bytes),
        TEST(purged_is_gone_for_ever),
        TEST(purge_meets_others),
        TEST(random_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
