/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting helpers around the asynchronous contract, and the smallest valid record batch. */
#include "tests/storage/fixture.h"

#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/crc.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/net/loop.h"

enum { HEADER = 61 };

static unsigned outstanding, ranks;
static struct loop *waiting_loop;
static const struct op *awaited;

/* Time */

static int64_t wall_now;

static uint64_t real_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int64_t set_wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t set = __atomic_load_n(&wall_now, __ATOMIC_RELAXED);
    return set != 0 ? set : (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void time_set(int64_t wall_ms)
{
    __atomic_store_n(&wall_now, wall_ms, __ATOMIC_RELAXED);
}

/* Fixture */

int fixture_setup(void **state)
{
    static const struct clock_source source = {real_monotonic_ns, set_wall_ms};
    clock_use(&source);
    time_set(0);
    struct fixture *fixture = calloc(1, sizeof *fixture);
    fixture->engine = *state;
    fixture->loop = loop_new();
    if (fixture->engine->place == PLACE_DIRECTORY) {
        const char *base = getenv("TMPDIR");
        snprintf(fixture->directory, sizeof fixture->directory, "%s/polylog-storage-XXXXXX",
                 base != NULL ? base : P_tmpdir);
        assert_non_null(mkdtemp(fixture->directory));
    } else {
        snprintf(fixture->directory, sizeof fixture->directory, "/store");
    }
    if (fixture->engine->place == PLACE_MEMORY_ENVIRONMENT)
        fixture->environment = rocksdb_create_mem_env();
    fixture->options.directory = fixture->directory;
    fixture->options.environment = fixture->environment;
    *state = fixture;
    fixture_open(fixture);
    return 0;
}

int fixture_teardown(void **state)
{
    struct fixture *fixture = *state;
    char command[256];
    fixture_close(fixture);
    loop_free(fixture->loop);
    if (fixture->environment != NULL)
        rocksdb_env_destroy(fixture->environment);
    if (fixture->engine->place == PLACE_DIRECTORY) {
        snprintf(command, sizeof command, "rm -rf %s", fixture->directory);
        assert_int_equal(system(command), 0);
    }
    free(fixture);
    return 0;
}

enum status fixture_try_open(struct fixture *fixture, struct err *err)
{
    return fixture->engine->ops->open(&fixture->options, &fixture->storage, err);
}

void fixture_open(struct fixture *fixture)
{
    struct err err = {{0}};
    enum status status = fixture_try_open(fixture, &err);
    if (status != STATUS_OK)
        fail_msg("open: %s", err.text);
}

void fixture_close(struct fixture *fixture)
{
    if (fixture->storage != NULL)
        fixture->storage->ops->close(fixture->storage);
    fixture->storage = NULL;
}

void fixture_reopen(struct fixture *fixture)
{
    fixture_close(fixture);
    fixture_open(fixture);
}

bool fixture_keeps(const struct fixture *fixture)
{
    return (fixture->engine->ops->can & STORAGE_PERSISTENT) != 0;
}

/* Requests */

static void ended(void)
{
    if (--outstanding == 0 && awaited == NULL)
        loop_stop(waiting_loop);
}

static void request_done(struct request *request, enum status status)
{
    assert_int_equal(request->status, status);
    ended();
}

static void op_done(struct request *request, enum status status)
{
    struct op *op = container_of(request, struct op, append.request);
    assert_int_equal(op->finished, 0);
    assert_int_equal(request->status, status);
    op->finished = ++ranks;
    ended();
    if (op == awaited)
        loop_stop(waiting_loop);
}

static void begin(struct fixture *fixture, struct request *request)
{
    request_init(request, fixture->loop, request_done);
    outstanding++;
}

void wait_all(struct fixture *fixture)
{
    if (outstanding == 0)
        return;
    waiting_loop = fixture->loop;
    loop_run(fixture->loop);
    assert_int_equal(outstanding, 0);
}

void op_wait(struct fixture *fixture, const struct op *op)
{
    if (op->finished != 0)
        return;
    awaited = op;
    waiting_loop = fixture->loop;
    loop_run(fixture->loop);
    awaited = NULL;
    assert_true(op->finished != 0);
}

/* Batches: the payload follows from the seed, so that a reader can tell what it must be. */

static void payload_fill(uint8_t *to, size_t size, uint64_t seed)
{
    uint64_t state = seed * 2654435761u + 88172645463325252u;
    for (size_t i = 0; i < size; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        to[i] = (uint8_t)state;
    }
}

struct blob *batch_make(uint32_t records, size_t payload, uint64_t seed)
{
    struct blob *blob = blob_new(HEADER + payload);
    uint8_t *bytes = blob->bytes;
    memset(bytes, 0, HEADER);
    store_u32(bytes + 8, (uint32_t)(HEADER - 12 + payload));
    bytes[16] = 2;
    store_u32(bytes + 23, records - 1);
    memset(bytes + 43, 0xff, 14);
    store_u32(bytes + 57, records);
    payload_fill(bytes + HEADER, payload, seed);
    store_u32(bytes + 17, crc32c(0, span_of(bytes + 21, HEADER - 21 + payload)));
    return blob;
}

bool batch_is(struct span batch, uint32_t records, size_t payload, uint64_t seed)
{
    struct blob *wanted = batch_make(records, payload, seed);
    bool same = batch.size == wanted->size &&
                memcmp(batch.data + 16, wanted->bytes + 16, wanted->size - 16) == 0;
    blob_unref(wanted);
    return same;
}

struct op *op_new(struct fixture *fixture)
{
    struct op *op = calloc(1, sizeof *op);
    request_init(&op->append.request, fixture->loop, op_done);
    op->append.batches = op->batches;
    op->append.rows = op->rows;
    return op;
}

void op_batch(struct op *op, uint64_t partition, uint32_t records, size_t payload, uint64_t seed)
{
    assert_true(op->append.batch_count < OP_MAX);
    op->batches[op->append.batch_count++] = (struct storage_batch){
        .partition = partition,
        .class = STORAGE_3_DAYS,
        .flags = STORAGE_BATCH_OURS,
        .principal = seed,
        .record_count = records,
        .bytes = batch_make(records, payload, seed),
    };
}

static struct storage_row *op_row(struct op *op, enum storage_change change, const char *key,
                                  const char *value)
{
    assert_true(op->append.row_count < OP_MAX);
    struct storage_row *row = &op->rows[op->append.row_count++];
    *row = (struct storage_row){
        .change = change,
        .key = span_from_text(key),
        .value = span_from_text(value),
        .offset_at = -1,
    };
    return row;
}

void op_put(struct op *op, const char *key, const char *value)
{
    op_row(op, STORAGE_PUT, key, value);
}

void op_delete(struct op *op, const char *key)
{
    op_row(op, STORAGE_DELETE, key, "");
}

void op_delete_range(struct op *op, const char *first, const char *end)
{
    op_row(op, STORAGE_DELETE_RANGE, first, end);
}

void op_delete_when(struct op *op, const char *key, const char *begins)
{
    op_row(op, STORAGE_DELETE_WHEN, key, begins);
}

void op_start(struct fixture *fixture, struct op *op)
{
    outstanding++;
    fixture->storage->ops->append(fixture->storage, &op->append);
}

enum status op_run(struct fixture *fixture, struct op *op)
{
    op_start(fixture, op);
    wait_all(fixture);
    return op->append.request.status;
}

void op_free(struct op *op)
{
    for (uint32_t i = 0; i < op->append.batch_count; i++)
        blob_unref(op->batches[i].bytes);
    free(op);
}

uint64_t append_one(struct fixture *fixture, uint64_t partition, uint32_t records, size_t payload,
                    uint64_t seed)
{
    struct op *op = op_new(fixture);
    op_batch(op, partition, records, payload, seed);
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    uint64_t base = op->batches[0].base_offset;
    op_free(op);
    return base;
}

/* Reads */

void read_init(struct fixture *fixture, struct storage_read *read, uint64_t partition,
               uint64_t offset)
{
    memset(read, 0, sizeof *read);
    request_init(&read->request, fixture->loop, request_done);
    read->partition = partition;
    read->class = STORAGE_3_DAYS;
    read->offset = offset;
    read->end = UINT64_MAX;
    read->max_bytes = 1 << 20;
}

enum status read_run(struct fixture *fixture, struct storage_read *read)
{
    begin(fixture, &read->request);
    fixture->storage->ops->read(fixture->storage, read);
    wait_all(fixture);
    return read->request.status;
}

void read_release(struct storage_read *read)
{
    for (uint32_t i = 0; i < read->count; i++)
        blob_unref(read->batches[i].bytes);
    read->count = 0;
}

struct storage_bounds bounds_of(struct fixture *fixture, uint64_t partition)
{
    struct storage_bounds bounds = {.partition = partition, .class = STORAGE_3_DAYS};
    begin(fixture, &bounds.request);
    fixture->storage->ops->bounds(fixture->storage, &bounds);
    wait_all(fixture);
    assert_int_equal(bounds.request.status, STATUS_OK);
    return bounds;
}

uint64_t floor_of(struct fixture *fixture, uint64_t partition, int64_t time_ms, uint64_t keep_bytes)
{
    struct storage_floor floor = {.partition = partition,
                                  .class = STORAGE_3_DAYS,
                                  .time_ms = time_ms,
                                  .keep_bytes = keep_bytes};
    begin(fixture, &floor.request);
    fixture->storage->ops->floor(fixture->storage, &floor);
    wait_all(fixture);
    assert_int_equal(floor.request.status, STATUS_OK);
    return floor.floor;
}

void trim_start(struct fixture *fixture, uint64_t partition, uint64_t start)
{
    static struct storage_trim trim;
    trim =
        (struct storage_trim){.partition = partition, .class = STORAGE_3_DAYS, .new_start = start};
    begin(fixture, &trim.request);
    fixture->storage->ops->trim(fixture->storage, &trim);
}

enum status trim_run(struct fixture *fixture, uint64_t partition, uint64_t start, bool remove)
{
    struct storage_trim trim = {
        .partition = partition, .class = STORAGE_3_DAYS, .new_start = start, .remove = remove};
    begin(fixture, &trim.request);
    fixture->storage->ops->trim(fixture->storage, &trim);
    wait_all(fixture);
    return trim.request.status;
}

static size_t print_bytes(char *text, size_t at, size_t room, struct span bytes)
{
    assert_true(at + 4 * bytes.size + 2 < room);
    for (size_t i = 0; i < bytes.size; i++) {
        bool prints = bytes.data[i] >= 0x20 && bytes.data[i] < 0x7f;
        at += (size_t)snprintf(text + at, room - at, prints ? "%c" : "\\%02x", bytes.data[i]);
    }
    return at;
}

void scan_run(struct fixture *fixture, struct storage_scan *scan)
{
    begin(fixture, &scan->request);
    fixture->storage->ops->scan(fixture->storage, scan);
    wait_all(fixture);
    assert_int_equal(scan->request.status, STATUS_OK);
}

const char *scan_text(struct fixture *fixture, const char *first, const char *end, uint32_t limit)
{
    static char text[65536];
    struct storage_scan scan = {
        .first = span_from_text(first), .end = span_from_text(end), .limit = limit};
    begin(fixture, &scan.request);
    fixture->storage->ops->scan(fixture->storage, &scan);
    wait_all(fixture);
    if (scan.request.status != STATUS_OK) {
        assert_null(scan.rows);
        return status_name(scan.request.status);
    }
    size_t position = 0, size = 0;
    uint32_t count = 0;
    struct span key, value;
    while (storage_scan_next(&scan, &position, &key, &value)) {
        if (count++ > 0)
            text[size++] = ',';
        size = print_bytes(text, size, sizeof text, key);
        text[size++] = '=';
        size = print_bytes(text, size, sizeof text, value);
    }
    assert_int_equal(count, scan.count);
    if (scan.more)
        text[size++] = '+';
    text[size] = 0;
    blob_unref(scan.rows);
    return text;
}

/* Children and figures */

pid_t child_start(const struct fixture *fixture, const char *role, int *from)
{
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        char program[] = "/proc/self/exe", name[16], directory[sizeof fixture->directory];
        snprintf(name, sizeof name, "%s", role);
        snprintf(directory, sizeof directory, "%s", fixture->directory);
        char *arguments[] = {program, name, directory, NULL};
        dup2(pipes[1], STDOUT_FILENO);
        close(pipes[0]);
        close(pipes[1]);
        execv(program, arguments);
        _exit(1);
    }
    close(pipes[1]);
    *from = pipes[0];
    return child;
}

struct figure {
    const char *name;
    double value;
};

static void take_figure(void *context, const char *name, double value)
{
    struct figure *figure = context;
    if (strcmp(name, figure->name) == 0)
        figure->value = value;
}

double metric_of(struct fixture *fixture, const char *name)
{
    struct figure figure = {name, -1};
    fixture->storage->ops->metrics(fixture->storage, take_figure, &figure);
    return figure.value;
}

void put_rows(struct fixture *fixture, char table, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to;) {
        struct op *op = op_new(fixture);
        char keys[OP_MAX][16], values[OP_MAX][16];
        for (unsigned j = 0; j < OP_MAX && i < to; j++, i++) {
            snprintf(keys[j], sizeof keys[j], "%c%03u", table, i);
            snprintf(values[j], sizeof values[j], "v%u", i);
            op_put(op, keys[j], values[j]);
        }
        assert_int_equal(op_run(fixture, op), STATUS_OK);
        op_free(op);
    }
}
