/* SPDX-License-Identifier: Apache-2.0 */
/* The RocksDB engine alone: synced appends to many partitions, kill -9, restart with cold files,
 * the cold read of one partition, and the evacuation of what is left when all others are trimmed,
 * with appends beside it. Prints one JSON line per step. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/crc.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/rng.h"
#include "core/net/loop.h"
#include "storage/envelope.h"
#include "storage/rocksdb/rocksdb.h"

enum { HEADER = 61 };

struct plan {
    const char *directory;
    uint64_t megabytes, partitions, batch_bytes, window;
    bool interval;
};

struct slot {
    struct storage_append append;
    struct storage_batch batch;
    uint64_t began_ns;
    struct load *load;
};

struct load {
    const struct plan *plan;
    struct storage *storage;
    struct loop *loop;
    uint64_t started, finished, wanted;
    uint32_t *latency_us; /* of each append, in the order of completion */
};

/* What the process has used so far. */
struct usage {
    uint64_t wall_ns, cpu_us, read_bytes, written_bytes;
};

static struct usage usage_now(void)
{
    struct rusage use;
    struct usage usage = {.wall_ns = clock_monotonic_ns()};
    unsigned long long number;
    char line[128];
    getrusage(RUSAGE_SELF, &use);
    usage.cpu_us = (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000 +
                   (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    FILE *io = fopen("/proc/self/io", "r");
    while (io != NULL && fgets(line, sizeof line, io) != NULL) {
        if (sscanf(line, "read_bytes: %llu", &number) == 1)
            usage.read_bytes = number;
        if (sscanf(line, "write_bytes: %llu", &number) == 1)
            usage.written_bytes = number;
    }
    if (io != NULL)
        fclose(io);
    return usage;
}

static struct usage usage_since(const struct usage *before)
{
    struct usage now = usage_now();
    return (struct usage){now.wall_ns - before->wall_ns, now.cpu_us - before->cpu_us,
                          now.read_bytes - before->read_bytes,
                          now.written_bytes - before->written_bytes};
}

static struct storage *must_open(const struct plan *plan)
{
    struct storage_options options = {.directory = plan->directory};
    struct storage *storage = NULL;
    struct err err = {{0}};
    if (rocksdb_storage_ops.open(&options, &storage, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return storage;
}

/* Load */

static struct blob *batch_make(size_t size)
{
    struct blob *blob = blob_new(size);
    uint8_t *bytes = blob->bytes;
    rng_bytes(bytes, size);
    memset(bytes, 0, HEADER);
    store_u32(bytes + 8, (uint32_t)size - 12);
    bytes[16] = 2;
    store_u32(bytes + 57, 1);
    store_u32(bytes + 17, crc32c(0, span_of(bytes + 21, size - 21)));
    return blob;
}

static void slot_done(struct request *request, enum status status);

static void slot_start(struct slot *slot)
{
    struct load *load = slot->load;
    slot->batch.partition = 1 + load->started++ % load->plan->partitions;
    slot->began_ns = clock_monotonic_ns();
    request_init(&slot->append.request, load->loop, slot_done);
    load->storage->ops->append(load->storage, &slot->append);
}

static void slot_done(struct request *request, enum status status)
{
    struct slot *slot = container_of(request, struct slot, append.request);
    struct load *load = slot->load;
    if (status != STATUS_OK) {
        fprintf(stderr, "append: %s\n", status_text(status));
        _exit(1);
    }
    load->latency_us[load->finished++] = (uint32_t)((clock_monotonic_ns() - slot->began_ns) / 1000);
    if (load->started < load->wanted)
        slot_start(slot);
    else if (load->finished == load->wanted)
        loop_stop(load->loop);
}

static int compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static void load_report(struct load *load, const struct usage *used)
{
    const struct plan *plan = load->plan;
    double seconds = (double)used->wall_ns * 1e-9, count = (double)load->wanted;
    double value_bytes = count * (double)(plan->batch_bytes + ENVELOPE_SIZE);
    qsort(load->latency_us, load->wanted, sizeof *load->latency_us, compare);
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    printf("{\"step\":\"append\",\"durability\":\"%s\",\"batch_bytes\":%llu,\"partitions\":%llu,"
           "\"window\":%llu,\"batches_per_second\":%.0f,\"mb_per_second\":%.1f,"
           "\"cpu_us_per_batch\":%.1f,\"p50_us\":%u,\"p99_us\":%u,\"written_per_byte\":%.2f,"
           "\"rss_mb\":%ld}\n",
           plan->interval ? "interval" : "sync", (unsigned long long)plan->batch_bytes,
           (unsigned long long)plan->partitions, (unsigned long long)plan->window, count / seconds,
           value_bytes / seconds * 1e-6, (double)used->cpu_us / count,
           load->latency_us[load->wanted / 2], load->latency_us[load->wanted * 99 / 100],
           (double)used->written_bytes / value_bytes, use.ru_maxrss / 1024);
}

/* Runs in a child that ends by SIGKILL: nothing is closed. */
static void run_load(const struct plan *plan)
{
    struct load load = {.plan = plan, .storage = must_open(plan), .loop = loop_new()};
    load.wanted = plan->megabytes * 1000000 / plan->batch_bytes;
    load.latency_us = heap_array(load.wanted, sizeof *load.latency_us);
    struct slot *slots = heap_array(plan->window, sizeof *slots);
    struct usage before = usage_now();
    for (uint64_t i = 0; i < plan->window; i++) {
        slots[i].load = &load;
        slots[i].batch =
            (struct storage_batch){.class = STORAGE_3_DAYS,
                                   .durability = plan->interval ? DURABLE_INTERVAL : DURABLE_SYNC,
                                   .record_count = 1,
                                   .bytes = batch_make(plan->batch_bytes)};
        slots[i].append.batches = &slots[i].batch;
        slots[i].append.batch_count = 1;
    }
    for (uint64_t i = 0; i < plan->window && load.started < load.wanted; i++)
        slot_start(&slots[i]);
    loop_run(load.loop);
    struct usage used = usage_since(&before);
    load_report(&load, &used);
    fflush(stdout);
    raise(SIGKILL);
}

/* Restart and read */

static void forget_cached(const char *directory)
{
    char path[4096];
    sync();
    DIR *listing = opendir(directory);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            continue;
        (void)!posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    closedir(listing);
}

static void read_done(struct request *request, enum status status)
{
    (void)status;
    loop_stop(request->home);
}

static uint64_t read_partition(struct storage *storage, struct loop *loop, uint64_t partition)
{
    static struct storage_read read;
    uint64_t bytes = 0, offset = 0;
    do {
        read = (struct storage_read){.partition = partition,
                                     .class = STORAGE_3_DAYS,
                                     .offset = offset,
                                     .end = UINT64_MAX,
                                     .max_bytes = 1 << 20};
        request_init(&read.request, loop, read_done);
        storage->ops->read(storage, &read);
        loop_run(loop);
        CHECK(read.request.status == STATUS_OK);
        for (uint32_t i = 0; i < read.count; i++) {
            bytes += read.batches[i].bytes->size;
            offset = read.batches[i].base_offset + read.batches[i].record_count;
            blob_unref(read.batches[i].bytes);
        }
    } while (read.count > 0);
    return bytes;
}

/* Evacuation */

static uint64_t table_bytes(const char *directory)
{
    uint64_t bytes = 0;
    char path[4096];
    DIR *listing = opendir(directory);
    for (struct dirent *entry; listing != NULL && (entry = readdir(listing)) != NULL;) {
        struct stat file;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (strstr(entry->d_name, ".sst") != NULL && stat(path, &file) == 0)
            bytes += (uint64_t)file.st_size;
    }
    closedir(listing);
    return bytes;
}

static void take_moved(void *context, const char *name, double value)
{
    if (strcmp(name, "storage_evacuated_bytes_total") == 0)
        *(double *)context = value;
}

/* All but one partition lose everything. */
static void trim_others(const struct plan *plan, struct storage *storage, struct loop *loop)
{
    for (uint64_t partition = 2; partition <= plan->partitions; partition++) {
        struct storage_trim trim = {
            .partition = partition, .class = STORAGE_3_DAYS, .new_start = UINT64_MAX};
        request_init(&trim.request, loop, read_done);
        storage->ops->trim(storage, &trim);
        loop_run(loop);
        CHECK(trim.request.status == STATUS_OK);
    }
}

/* One append after the other, until the tables take less than small, or count of them. */
static void append_beside(const struct plan *plan, struct storage *storage, struct loop *loop,
                          uint64_t small, uint64_t count, const char *step)
{
    struct load load = {.plan = plan, .storage = storage, .loop = loop};
    struct slot slot = {.load = &load};
    uint32_t *latency_us = heap_array(count, sizeof *latency_us);
    uint64_t before = table_bytes(plan->directory), done = 0;
    double moved = 0;
    struct usage began = usage_now();
    slot.batch = (struct storage_batch){
        .class = STORAGE_30_DAYS, .record_count = 1, .bytes = batch_make(plan->batch_bytes)};
    slot.append.batches = &slot.batch;
    slot.append.batch_count = 1;
    load.latency_us = latency_us;
    while (done < count && table_bytes(plan->directory) > small) {
        load.wanted = ++done;
        slot_start(&slot);
        loop_run(loop);
    }
    struct usage used = usage_since(&began);
    storage->ops->metrics(storage, take_moved, &moved);
    qsort(latency_us, done, sizeof *latency_us, compare);
    printf("{\"step\":\"%s\",\"seconds\":%.2f,\"tables_mb_before\":%.0f,\"tables_mb_after\":%.0f,"
           "\"moved_mb\":%.1f,\"appends\":%llu,\"p50_us\":%u,\"p99_us\":%u}\n",
           step, (double)used.wall_ns * 1e-9, (double)before * 1e-6,
           (double)table_bytes(plan->directory) * 1e-6, moved * 1e-6, (unsigned long long)done,
           latency_us[done / 2], latency_us[done * 99 / 100]);
    heap_free(latency_us);
    blob_unref(slot.batch.bytes);
}

static void run_evacuation(const struct plan *plan, struct storage *storage, struct loop *loop)
{
    append_beside(plan, storage, loop, 0, 4000, "append one after the other");
    trim_others(plan, storage, loop);
    append_beside(plan, storage, loop, plan->megabytes * 1000000 / 8, 200000,
                  "the same while segments are evacuated");
}

static void run_restart(const struct plan *plan)
{
    forget_cached(plan->directory);
    struct usage before = usage_now();
    struct storage *storage = must_open(plan);
    struct usage used = usage_since(&before);
    printf("{\"step\":\"restart after kill -9\",\"stored_mb\":%llu,\"seconds\":%.2f,"
           "\"cpu_seconds\":%.2f,\"read_mb\":%.0f,\"written_mb\":%.0f}\n",
           (unsigned long long)plan->megabytes, (double)used.wall_ns * 1e-9,
           (double)used.cpu_us * 1e-6, (double)used.read_bytes * 1e-6,
           (double)used.written_bytes * 1e-6);
    forget_cached(plan->directory);
    struct loop *loop = loop_new();
    for (int turn = 0; turn < 2; turn++) {
        before = usage_now();
        uint64_t bytes = read_partition(storage, loop, 1 + plan->partitions / 2);
        used = usage_since(&before);
        printf("{\"step\":\"read one partition of %llu, %s\",\"mb\":%.1f,\"mb_per_second\":%.0f,"
               "\"read_per_byte\":%.2f,\"cpu_us_per_batch\":%.1f}\n",
               (unsigned long long)plan->partitions, turn == 0 ? "cold" : "warm",
               (double)bytes * 1e-6, (double)bytes * 1e3 / (double)used.wall_ns,
               (double)used.read_bytes / (double)bytes,
               (double)used.cpu_us / ((double)bytes / (double)plan->batch_bytes));
    }
    if (plan->partitions >= 16)
        run_evacuation(plan, storage, loop);
    before = usage_now();
    storage->ops->close(storage);
    used = usage_since(&before);
    printf("{\"step\":\"close\",\"seconds\":%.2f}\n", (double)used.wall_ns * 1e-9);
    loop_free(loop);
}

static int usage(const char *program)
{
    fprintf(stderr,
            "usage: %s DIRECTORY [-m megabytes] [-p partitions] [-b batch bytes] [-w window] [-i]\n"
            "DIRECTORY must be empty or missing and is left as it is; -i: interval durability\n",
            program);
    return 2;
}

int main(int argc, char **argv)
{
    struct plan plan = {.megabytes = 512, .partitions = 64, .batch_bytes = 16384, .window = 256};
    for (int option; (option = getopt(argc, argv, "m:p:b:w:i")) != -1;) {
        if (option == 'i')
            plan.interval = true;
        else if (option == 'm')
            plan.megabytes = strtoull(optarg, NULL, 10);
        else if (option == 'p')
            plan.partitions = strtoull(optarg, NULL, 10);
        else if (option == 'b')
            plan.batch_bytes = strtoull(optarg, NULL, 10);
        else if (option == 'w')
            plan.window = strtoull(optarg, NULL, 10);
        else
            return usage(argv[0]);
    }
    if (optind + 1 != argc || plan.batch_bytes < HEADER || plan.partitions == 0 || plan.window == 0)
        return usage(argv[0]);
    plan.directory = argv[optind];
    pid_t child = fork(); /* before the engine starts threads */
    if (child == 0)
        run_load(&plan);
    int ended = 0;
    waitpid(child, &ended, 0);
    if (!WIFSIGNALED(ended))
        return 1;
    run_restart(&plan);
    return 0;
}
