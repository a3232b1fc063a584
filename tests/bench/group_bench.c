/* SPDX-License-Identifier: Apache-2.0 */
/* One group alone on one loop: what a message costs to take and to acknowledge while so many others
 * are out, over the memory engine; the same over RocksDB (in a directory, new and empty) at the
 * beginning of a short and of a long queue; and how long a group with many leases out takes to
 * start again. Prints one JSON object per case; CPU is that of the loop's thread. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/queue/group.h"
#include "storage/memory/memory.h"
#include "storage/rocksdb/rocksdb.h"

enum { PARTITION = 100, GROUP = 9, BATCH_RECORDS = 500, TAKE = 100, LEASE_MS = 300000 };

static struct {
    struct storage *storage;
    struct log *log;
    struct log_worker *worker;
    struct loop *loop;
    struct queue *queue;
    struct group_spec *spec;
    struct group_budget budget;
    struct group *group;
    bool done;
    enum status status;
} bench;

static void done(struct request *request, enum status status)
{
    (void)request;
    bench.done = true;
    bench.status = status;
    loop_stop(bench.loop);
}

static void wait_for(struct request *request)
{
    (void)request;
    while (!bench.done)
        loop_run(bench.loop);
    bench.done = false;
    CHECK(bench.status == STATUS_OK);
}

static void observe(void *context, uint64_t partition, struct batch *batch)
{
    (void)context;
    if (bench.group != NULL)
        group_notice(bench.group, partition, batch);
}

static uint64_t cpu_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* ------------------------------------------------ a queue */

static void fill(uint64_t records)
{
    static const uint8_t value[100];
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (uint64_t i = 0; i < records; i += BATCH_RECORDS) {
        for (uint64_t k = i; k < records && k < i + BATCH_RECORDS; k++) {
            struct record_input record = {.timestamp_ms = 1700000000000 + (int64_t)k,
                                          .value = span_of(value, sizeof value)};
            CHECK(batch_builder_add(&builder, &record) == STATUS_OK);
        }
        struct log_append append = {.partition = PARTITION, .batch = batch_builder_seal(&builder)};
        request_init(&append.request, bench.loop, done);
        log_append(bench.worker, &append);
        wait_for(&append.request);
        batch_unref(append.batch);
    }
    batch_builder_deinit(&builder);
}

static void open_log(enum durability durability)
{
    bench.loop = loop_new();
    bench.queue = heap_new(sizeof *bench.queue);
    *bench.queue = (struct queue){.tenant = 1,
                                  .id = 5,
                                  .class = STORAGE_3_DAYS,
                                  .durability = durability,
                                  .first_partition = PARTITION,
                                  .partition_count = 1};
    atomic_init(&bench.queue->refs, 1);
    bench.queue->name = heap_text("bench", 5);
    bench.queue->stat = queue_stat_new(1);
    bench.spec = heap_new(sizeof *bench.spec);
    *bench.spec = (struct group_spec){.tenant = 1, .queue = 5, .id = GROUP};
    atomic_init(&bench.spec->refs, 1);
    bench.spec->name = heap_text("bench", 5);
    bench.spec->stat = group_stat_new(1);
    bench.log = log_new(bench.storage, 1);
    bench.worker = log_worker_new(bench.log, 0, bench.loop, observe, NULL);
    struct partition_spec spec = {
        .id = PARTITION, .class = STORAGE_3_DAYS, .durability = durability};
    log_partition_open(bench.worker, &spec, &bench.queue->stat->partitions[0]);
}

static void open_group(void)
{
    bench.group =
        group_open(bench.log, bench.worker, bench.loop, &bench.budget, bench.queue, bench.spec);
}

static void close_group(void)
{
    struct request closed;
    request_init(&closed, bench.loop, done);
    group_close(bench.group, false, &closed);
    bench.group = NULL;
    wait_for(&closed);
}

static void close_log(void)
{
    bench.storage->ops->close(bench.storage);
    log_worker_free(bench.worker);
    log_free(bench.log);
    queue_unref(bench.queue);
    group_spec_unref(bench.spec);
    loop_free(bench.loop);
}

/* ------------------------------------------------ a consumer */

static struct receipt receipts[LIMIT_IN_FLIGHT + TAKE]; /* a ring: first in, first acknowledged */
static uint64_t taken, settled;

static uint32_t take(void)
{
    struct group_item items[TAKE];
    struct group_take take = {.max_records = TAKE,
                              .max_bytes = UINT32_MAX,
                              .wait_ms = 10000,
                              .lease_ms = LEASE_MS,
                              .items = items};
    request_init(&take.request, bench.loop, done);
    group_take(bench.group, &take);
    wait_for(&take.request);
    for (uint32_t i = 0; i < take.count; i++) {
        receipts[taken++ % (LIMIT_IN_FLIGHT + TAKE)] = items[i].receipt;
        batch_unref(items[i].batch);
    }
    return take.count;
}

static void settle(uint32_t count, enum settle_outcome outcome)
{
    struct receipt some[TAKE];
    enum status results[TAKE];
    for (uint32_t i = 0; i < count; i++)
        some[i] = receipts[settled++ % (LIMIT_IN_FLIGHT + TAKE)];
    struct group_settle settle = {
        .receipts = some, .count = count, .outcome = outcome, .results = results};
    request_init(&settle.request, bench.loop, done);
    group_settle(bench.group, &settle);
    wait_for(&settle.request);
    for (uint32_t i = 0; i < count; i++)
        CHECK(results[i] == STATUS_OK);
}

static void out(uint64_t count)
{
    taken = settled = 0;
    while (taken < count)
        CHECK(take() > 0);
}

static void measure(const char *what, uint64_t in_flight, uint64_t messages)
{
    out(in_flight - TAKE);
    uint64_t before_ns = cpu_ns(), began_ns = clock_monotonic_ns(), from = settled;
    while (settled - from < messages) {
        uint32_t count = take();
        settle(count, SETTLE_DONE);
    }
    double count = (double)(settled - from);
    printf("{\"what\":\"%s\",\"in_flight\":%llu,\"messages\":%.0f,\"cpu_us\":%.3f,"
           "\"messages_s\":%.0f}\n",
           what, (unsigned long long)in_flight, count, (double)(cpu_ns() - before_ns) / 1e3 / count,
           count * 1e9 / (double)(clock_monotonic_ns() - began_ns));
    fflush(stdout);
}

/* ------------------------------------------------ cases */

static void open_memory(void)
{
    struct storage_options options = {0};
    struct err err;
    CHECK(memory_storage_ops.open(&options, &bench.storage, &err) == STATUS_OK);
    open_log(DURABLE_SYNC);
}

static void flights(void)
{
    enum { MESSAGES = 400000 };
    static const uint64_t sizes[] = {100, 10000, 100000};
    for (unsigned i = 0; i < 3; i++) {
        open_memory();
        fill(sizes[i] + MESSAGES + TAKE);
        open_group();
        measure("take and acknowledge", sizes[i], MESSAGES);
        close_group();
        close_log();
    }
}

/* Half of the leases have failed before and went out again, so that there is something to keep. */
static void restart(void)
{
    open_memory();
    fill(LIMIT_IN_FLIGHT);
    open_group();
    out(LIMIT_IN_FLIGHT);
    for (uint32_t i = 0; i < LIMIT_IN_FLIGHT / 2 / TAKE; i++)
        settle(TAKE, SETTLE_FAILED);
    while (taken - settled < LIMIT_IN_FLIGHT)
        CHECK(take() > 0);
    close_group();
    uint64_t before_ns = cpu_ns(), began_ns = clock_monotonic_ns();
    open_group();
    taken = settled = 0;
    CHECK(take() == TAKE);
    double ms = (double)(clock_monotonic_ns() - began_ns) / 1e6;
    printf("{\"what\":\"restart\",\"in_flight\":%u,\"ms_to_first\":%.1f,\"cpu_ms\":%.1f",
           LIMIT_IN_FLIGHT, ms, (double)(cpu_ns() - before_ns) / 1e6);
    uint64_t failures = 0;
    while (taken < LIMIT_IN_FLIGHT)
        CHECK(take() > 0);
    for (uint64_t offset = 0; offset < LIMIT_IN_FLIGHT; offset += 997) {
        struct group_explain explain = {.partition = PARTITION, .offset = offset};
        request_init(&explain.request, bench.loop, done);
        group_explain(bench.group, &explain);
        wait_for(&explain.request);
        failures += explain.failures;
    }
    printf(",\"failures_kept_of_%u\":%llu}\n", LIMIT_IN_FLIGHT / 997 / 2 + 1,
           (unsigned long long)failures);
    close_group();
    close_log();
}

static void depth(const char *directory, uint64_t records)
{
    struct storage_options options = {.directory = directory};
    struct err err;
    if (rocksdb_storage_ops.open(&options, &bench.storage, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    open_log(DURABLE_INTERVAL);
    fill(records);
    open_group();
    char what[64];
    snprintf(what, sizeof what, "queue of %llu", (unsigned long long)records);
    taken = settled = 0;
    measure(what, TAKE, records < 500000 ? records : 500000);
    close_group();
    close_log();
}

int main(int argc, char **argv)
{
    hash_init();
    if (argc == 2 && strcmp(argv[1], "flights") == 0) {
        flights();
    } else if (argc == 2 && strcmp(argv[1], "restart") == 0) {
        restart();
    } else if (argc == 4 && strcmp(argv[1], "depth") == 0) {
        depth(argv[2], strtoull(argv[3], NULL, 10));
    } else {
        fputs("usage: group_bench flights | restart | depth DIRECTORY RECORDS\n", stderr);
        return 2;
    }
    return 0;
}
