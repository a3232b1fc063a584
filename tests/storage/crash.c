/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine on a directory does after kill -9 and with damaged files: it keeps all that it
 * acknowledged, or refuses with a text and touches nothing. */
#include "tests/storage/fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <rocksdb/c.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/crc.h"
#include "core/base/hash.h"
#include "core/base/pack.h"
#include "core/net/loop.h"
#include "storage/rocksdb/directory.h"
#include "storage/rocksdb/keys.h"
#include "storage/rocksdb/rocksdb.h"

enum { SYNCED = 1, INTERVAL = 2, RECORDS = 3, PAYLOAD = 2000, ACKS = 400, HASHED = 100 };

/* What the child tells about each answered append. */
struct ack {
    uint64_t partition, base, seed;
};

/* A process of another hash key appends once more to each partition. */
static int hash_child(struct fixture *fixture)
{
    for (uint64_t partition = 0; partition < HASHED; partition++) {
        if (bounds_of(fixture, partition).end != 1 ||
            append_one(fixture, partition, 1, 10, partition) != 1)
            return 1;
    }
    fixture_close(fixture);
    return 0;
}

/* The child appends until it is killed, four at a time. */

int crash_child(const char *role, const char *directory)
{
    static const struct engine_case engine = {"child", &rocksdb_storage_ops, PLACE_DIRECTORY};
    struct fixture fixture = {.engine = &engine};
    struct err err = {{0}};
    fixture.loop = loop_new();
    fixture.options.directory = directory;
    if (strcmp(role, "hash") == 0)
        hash_process_key = (struct hash_key){17, 4}; /* surely not the parent's */
    if (strcmp(role, "evacuate") == 0)
        return evacuate_child(&fixture);
    fixture.options.interval_ms = 60000; /* only the kill decides what is there */
    if (strcmp(role, "roll") == 0) {
        fixture.options.segment_bytes = 60000; /* so that the kill hits rolls, too */
        fixture.options.wal_bytes = 200000;
    }
    if (fixture_try_open(&fixture, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    if (strcmp(role, "hash") == 0)
        return hash_child(&fixture);
    for (uint64_t seed = 0;; seed += 4) {
        struct op *ops[4];
        for (unsigned i = 0; i < 4; i++) {
            ops[i] = op_new(&fixture);
            op_batch(ops[i], i % 2 == 0 ? SYNCED : INTERVAL, RECORDS, PAYLOAD, seed + i);
            if (i % 2 != 0)
                ops[i]->batches[0].durability = DURABLE_INTERVAL;
            op_start(&fixture, ops[i]);
        }
        wait_all(&fixture);
        for (unsigned i = 0; i < 4; i++) {
            struct ack ack = {ops[i]->batches[0].partition, ops[i]->batches[0].base_offset,
                              seed + i};
            if (ops[i]->append.request.status != STATUS_OK ||
                write(STDOUT_FILENO, &ack, sizeof ack) != sizeof ack)
                return 1;
            op_free(ops[i]);
        }
    }
}

/* Runs the child on the fixture's directory and kills it; all acks it wrote. */
static size_t run_and_kill(struct fixture *fixture, const char *how, struct ack *acks, size_t room)
{
    int from;
    pid_t child = child_start(fixture, how, &from);
    size_t count = 0;
    while (count < room && read(from, &acks[count], sizeof *acks) == sizeof *acks) {
        if (++count == ACKS)
            kill(child, SIGKILL);
    }
    close(from);
    waitpid(child, NULL, 0);
    assert_true(count >= ACKS);
    return count;
}

static void check_acks(struct fixture *fixture, const struct ack *acks, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct storage_read read;
        read_init(fixture, &read, acks[i].partition, acks[i].base + 1);
        read.max_bytes = 1;
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_int_equal(read.count, 1);
        assert_int_equal(read.batches[0].base_offset, acks[i].base);
        assert_true(batch_is(blob_span(read.batches[0].bytes), RECORDS, PAYLOAD, acks[i].seed));
        read_release(&read);
    }
}

enum { KILLS = 5 };
static struct ack acks[KILLS * 2 * ACKS];

/* Files */

static void path_in(const struct fixture *fixture, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s", fixture->directory, name);
}

/* The largest file with this suffix. */
static off_t find_file(const struct fixture *fixture, const char *suffix, char path[512])
{
    off_t largest = -1;
    DIR *listing = opendir(fixture->directory);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char candidate[512];
        struct stat stat_of;
        size_t size = strlen(entry->d_name), end = strlen(suffix);
        path_in(fixture, entry->d_name, candidate);
        if (size < end || strcmp(entry->d_name + size - end, suffix) != 0 ||
            stat(candidate, &stat_of) != 0 || stat_of.st_size <= largest)
            continue;
        largest = stat_of.st_size;
        memcpy(path, candidate, sizeof candidate);
    }
    closedir(listing);
    assert_true(largest >= 0);
    return largest;
}

static void damage(const char *path, off_t at, size_t size)
{
    uint8_t bytes[4096];
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && size <= sizeof bytes);
    assert_int_equal(pread(fd, bytes, size, at), size);
    for (size_t i = 0; i < size; i++)
        bytes[i] ^= 0x5a;
    assert_int_equal(pwrite(fd, bytes, size, at), size);
    close(fd);
}

static void write_file(const struct fixture *fixture, const char *name, const char *text, int flags)
{
    char path[512];
    path_in(fixture, name, path);
    int fd = open(path, O_WRONLY | O_CREAT | flags, 0600);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* A sum over names and contents of all files: the same before and after means untouched. */
static uint64_t directory_sum(const struct fixture *fixture)
{
    static uint8_t bytes[1 << 20];
    uint64_t sum = 0;
    DIR *listing = opendir(fixture->directory);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char path[512];
        path_in(fixture, entry->d_name, path);
        int fd = open(path, O_RDONLY);
        ssize_t size = entry->d_type == DT_REG ? read(fd, bytes, sizeof bytes) : 0;
        uint32_t crc = crc32c(0, span_from_text(entry->d_name));
        sum += (uint64_t)crc32c(crc, span_of(bytes, (size_t)size)) * 31 + (uint64_t)size;
        close(fd);
    }
    closedir(listing);
    return sum;
}

static void must_refuse(struct fixture *fixture, enum status wanted, const char *text)
{
    struct err err = {{0}};
    uint64_t before = directory_sum(fixture);
    assert_int_equal(fixture_try_open(fixture, &err), wanted);
    if (strstr(err.text, text) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    assert_int_equal(directory_sum(fixture), before);
    fixture->storage = NULL;
}

/* Tests */

static void kill_keeps_what_was_acknowledged(void **state)
{
    struct fixture *fixture = *state;
    fixture_close(fixture);
    size_t count = run_and_kill(fixture, "append", acks, 2 * ACKS);
    fixture_open(fixture);
    check_acks(fixture, acks, count);
    assert_true(append_one(fixture, SYNCED, 1, 10, 0) < 65536);
}

static void kills_between_rolls_keep_it_too(void **state)
{
    struct fixture *fixture = *state;
    size_t count = 0;
    fixture_close(fixture);
    for (unsigned i = 0; i < KILLS; i++)
        count += run_and_kill(fixture, "roll", acks + count, 2 * ACKS);
    fixture_open(fixture);
    check_acks(fixture, acks, count);
    struct storage_bounds bounds = bounds_of(fixture, SYNCED);
    assert_true(bounds.end * (PAYLOAD + 125) == bounds.bytes * RECORDS);
}

static void interval_partitions_go_on_behind_their_reservation(void **state)
{
    struct fixture *fixture = *state;
    fixture_close(fixture);
    size_t count = run_and_kill(fixture, "append", acks, 2 * ACKS);
    uint64_t last = 0;
    for (size_t i = 0; i < count; i++)
        if (acks[i].partition == INTERVAL)
            last = acks[i].base;
    fixture_open(fixture);
    struct storage_bounds bounds = bounds_of(fixture, INTERVAL);
    assert_true(bounds.end >= 65536 && bounds.end > last);
    fixture_reopen(fixture); /* nothing was appended, and it must not go back */
    assert_int_equal(bounds_of(fixture, INTERVAL).end, bounds.end);
    struct op *op = op_new(fixture);
    op_batch(op, INTERVAL, 1, 10, 5);
    op->batches[0].durability = DURABLE_INTERVAL;
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    assert_int_equal(op->batches[0].base_offset, bounds.end);
    assert_int_equal(load_u32(op->batches[0].bytes->bytes + 12), 1); /* leader epoch */
    assert_true(op->append.commit > (uint64_t)1 << 32);
    op_free(op);
    struct storage_read read;
    read_init(fixture, &read, INTERVAL, bounds.end - 100); /* a gap, and the batch behind it */
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 1);
    assert_int_equal(read.batches[0].base_offset, bounds.end);
    read_release(&read);
}

static void a_torn_tail_is_tolerated(void **state)
{
    struct fixture *fixture = *state;
    char path[512];
    fixture_close(fixture);
    size_t count = run_and_kill(fixture, "append", acks, 2 * ACKS);
    find_file(fixture, ".log", path);
    write_file(fixture, strrchr(path, '/') + 1, "half of a record that was never acknowledged",
               O_APPEND);
    fixture_open(fixture);
    check_acks(fixture, acks, count);
}

/* Where the records of a log end: each is CRC-32C, length and type, 7 bytes, within blocks of 32
 * KiB (RocksDB's log_format.h). */
static off_t end_of_records(const uint8_t *log, off_t size)
{
    enum { BLOCK = 32768, HEAD = 7 };
    off_t at = 0;
    for (;;) {
        off_t left = BLOCK - at % BLOCK;
        if (left < HEAD)
            at += left;
        if (at + HEAD > size || log[at + 6] == 0)
            return at;
        at += HEAD + log[at + 4] + 256 * log[at + 5];
    }
}

/* A sync is faster where its blocks are written already (ahead.c); what stands there is nothing,
 * also when a record that was never acknowledged has begun to overwrite it. */
static void zeros_ahead_are_nothing(void **state)
{
    static uint8_t log[16 << 20];
    struct fixture *fixture = *state;
    char path[512];
    for (int torn = 0; torn < 2; torn++) {
        fixture_close(fixture);
        size_t count = run_and_kill(fixture, "append", acks, 2 * ACKS);
        off_t size = find_file(fixture, ".log", path);
        int fd = open(path, O_RDWR);
        assert_true(size <= (off_t)sizeof log);
        assert_int_equal(pread(fd, log, sizeof log, 0), size);
        off_t end = end_of_records(log, size);
        assert_true(end > (off_t)count * PAYLOAD && size > end);
        for (off_t at = end; at < size; at++)
            assert_int_equal(log[at], 0);
        if (torn) /* the head of the last record, and some of it */
            assert_int_equal(pwrite(fd, "\x11\x22\x33\x44\xff\x01\x01 half of it", 18, end), 18);
        close(fd);
        fixture_open(fixture);
        check_acks(fixture, acks, count);
    }
}

static void a_hole_in_the_log_refuses(void **state)
{
    struct fixture *fixture = *state;
    char path[512];
    fixture_close(fixture);
    run_and_kill(fixture, "append", acks, 2 * ACKS);
    off_t size = find_file(fixture, ".log", path);
    damage(path, size / 2, 100);
    must_refuse(fixture, STATUS_CORRUPT, "was acknowledged");
}

static void a_shorter_log_refuses_until_the_marker_goes(void **state)
{
    struct fixture *fixture = *state;
    char path[512];
    fixture_close(fixture);
    run_and_kill(fixture, "append", acks, 2 * ACKS);
    off_t size = find_file(fixture, ".log", path);
    assert_int_equal(truncate(path, size / 2), 0);
    must_refuse(fixture, STATUS_CORRUPT, "delete polylog-marker");
    path_in(fixture, "polylog-marker", path);
    assert_int_equal(unlink(path), 0);
    fixture_open(fixture);
    assert_true(bounds_of(fixture, SYNCED).end > 0);
}

static void a_lost_database_refuses(void **state)
{
    struct fixture *fixture = *state;
    char path[512];
    append_one(fixture, 1, 1, 10, 0);
    fixture_close(fixture);
    path_in(fixture, "CURRENT", path);
    assert_int_equal(unlink(path), 0);
    must_refuse(fixture, STATUS_CORRUPT, "ends at commit 0");
}

static void another_version_is_refused(void **state)
{
    struct fixture *fixture = *state;
    append_one(fixture, 1, 1, 10, 0);
    fixture_close(fixture);
    write_file(fixture, "polylog-format", "polylog storage format 1\n", O_TRUNC);
    must_refuse(fixture, STATUS_UNSUPPORTED, "format 1");
    write_file(fixture, "polylog-format", "polylog storage format 3\n", O_TRUNC);
    must_refuse(fixture, STATUS_UNSUPPORTED, "format 3");
    write_file(fixture, "polylog-format", "?", O_TRUNC);
    must_refuse(fixture, STATUS_INVALID, "not readable");
}

static void a_foreign_directory_is_refused(void **state)
{
    struct fixture *fixture = *state;
    char path[512];
    fixture_close(fixture);
    path_in(fixture, "polylog-format", path);
    assert_int_equal(unlink(path), 0);
    must_refuse(fixture, STATUS_INVALID, "is not empty");
}

static void a_store_in_use_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct storage *first = fixture->storage;
    struct err err = {{0}};
    append_one(fixture, 1, 1, 10, 0);
    assert_int_equal(fixture_try_open(fixture, &err), STATUS_BUSY);
    assert_non_null(strstr(err.text, "in use"));
    fixture->storage = first;
    append_one(fixture, 1, 1, 10, 0);
}

static void no_space_is_said_before_writing(void **state)
{
    struct fixture *fixture = *state;
    append_one(fixture, 1, 5, 10, 0);
    fixture_close(fixture);
    fixture->options.min_free_bytes = (uint64_t)1 << 60;
    fixture_open(fixture);
    struct op *op = op_new(fixture), *rows = op_new(fixture);
    op_batch(op, 1, 1, 10, 0);
    op_put(rows, "r", "v");
    assert_int_equal(op_run(fixture, op), STATUS_NO_SPACE);
    assert_int_equal(op_run(fixture, rows), STATUS_NO_SPACE);
    assert_int_equal(fixture->storage->ops->health(fixture->storage), STATUS_NO_SPACE);
    assert_int_equal(trim_run(fixture, 1, 2, false), STATUS_OK); /* the way out */
    assert_int_equal(bounds_of(fixture, 1).start, 2);
    op_free(op);
    op_free(rows);
}

/* Stands for a full disk below the check, or a broken one: RocksDB's own write fails. */
static void a_failed_write_is_final(void **state)
{
    struct fixture *fixture = *state;
    struct rlimit before, small = {.rlim_cur = 1 << 20};
    unsigned good = 0, refused = 0;
    append_one(fixture, 1, 1, PAYLOAD, 0);
    getrlimit(RLIMIT_FSIZE, &before);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (uint64_t i = 0; i < 400; i++) {
        struct op *ops[4];
        for (unsigned j = 0; j < 4; j++) {
            ops[j] = op_new(fixture);
            op_batch(ops[j], 1, 1, PAYLOAD, i);
            ops[j]->batches[0].durability = j % 2 == 0 ? DURABLE_SYNC : DURABLE_INTERVAL;
            op_start(fixture, ops[j]);
        }
        wait_all(fixture);
        for (unsigned j = 0; j < 4; j++) {
            enum status status = ops[j]->append.request.status;
            assert_true(status == STATUS_STORAGE_FAILED || (status == STATUS_OK && refused == 0));
            good += status == STATUS_OK;
            refused += status != STATUS_OK;
            op_free(ops[j]);
        }
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(good > 100 && refused > 100);
    assert_int_equal(fixture->storage->ops->health(fixture->storage), STATUS_STORAGE_FAILED);
    assert_int_equal(bounds_of(fixture, 1).end, good + 1);
}

static void a_corrupt_block_never_gives_wrong_data(void **state)
{
    struct fixture *fixture = *state;
    char path[512];
    for (uint64_t i = 0; i < 400; i++)
        append_one(fixture, 1, RECORDS, PAYLOAD, i);
    fixture_close(fixture);
    off_t size = find_file(fixture, ".sst", path);
    damage(path, size / 2, 10);
    damage(path, size / 4, 1);
    fixture_open(fixture);
    unsigned good = 0, corrupt = 0;
    uint64_t offset = 0;
    while (offset < 400 * RECORDS) {
        struct storage_read read;
        read_init(fixture, &read, 1, offset);
        read.max_bytes = 50000;
        enum status status = read_run(fixture, &read);
        if (status == STATUS_CORRUPT) {
            assert_int_equal(read.count, 0);
            assert_true(read.offset > offset);
            offset = read.offset;
            corrupt++;
            continue;
        }
        assert_int_equal(status, STATUS_OK);
        assert_true(read.count > 0);
        for (uint32_t i = 0; i < read.count; i++, good++) {
            assert_int_equal(read.batches[i].base_offset, offset);
            assert_true(
                batch_is(blob_span(read.batches[i].bytes), RECORDS, PAYLOAD, offset / RECORDS));
            offset += RECORDS;
        }
        read_release(&read);
    }
    assert_int_equal(corrupt, 2);
    assert_true(good >= 380);
}

static unsigned count_files(const struct fixture *fixture, const char *suffix)
{
    unsigned count = 0;
    DIR *listing = opendir(fixture->directory);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        count += strstr(entry->d_name, suffix) != NULL;
    closedir(listing);
    return count;
}

static bool files_fall_to(const struct fixture *fixture, unsigned count)
{
    for (unsigned wait = 0; wait < 1200; wait++, usleep(50000))
        if (count_files(fixture, ".sst") <= count)
            return true;
    return false;
}

static void space_comes_back_after_a_trim(void **state)
{
    struct fixture *fixture = *state;
    fixture_close(fixture);
    fixture->options.segment_bytes = 100000;
    fixture_open(fixture);
    for (uint64_t i = 0; i < 600; i++) {
        append_one(fixture, 1, 1, PAYLOAD, i);
        append_one(fixture, 2, 1, PAYLOAD, i);
        if (i < 5)
            append_one(fixture, 3, 1, 10000, i);
    }
    unsigned before = 0;
    for (unsigned wait = 0; wait < 1200 && (before = count_files(fixture, ".sst")) < 10; wait++)
        usleep(50000);
    assert_true(before >= 10);
    assert_int_equal(trim_run(fixture, 1, 580, false), STATUS_OK);
    assert_int_equal(trim_run(fixture, 2, 0, true), STATUS_OK);
    /* What partition 3 has in the first segment stays, and what lies behind goes. */
    assert_true(files_fall_to(fixture, 5));
    for (uint64_t i = 0; i < 5; i++) {
        struct storage_read kept;
        read_init(fixture, &kept, 3, i);
        kept.max_bytes = 1;
        assert_int_equal(read_run(fixture, &kept), STATUS_OK);
        assert_true(kept.count == 1 && batch_is(blob_span(kept.batches[0].bytes), 1, 10000, i));
        read_release(&kept);
    }
    unsigned left = count_files(fixture, ".sst");
    assert_int_equal(trim_run(fixture, 3, 5, false), STATUS_OK);
    assert_true(files_fall_to(fixture, left - 1));
    append_one(fixture, 1, 1, PAYLOAD, 600); /* its write forgets the rows of what was dropped */
    fixture_reopen(fixture);
    assert_int_equal(bounds_of(fixture, 1).start, 580);
    assert_int_equal(bounds_of(fixture, 1).end, 601);
    assert_int_equal(bounds_of(fixture, 2).end, 0);
    assert_int_equal(bounds_of(fixture, 3).start, 5);
    assert_int_equal(append_one(fixture, 3, 1, PAYLOAD, 0), 5);
    struct storage_read read;
    read_init(fixture, &read, 1, 580);
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_int_equal(read.count, 21);
    read_release(&read);
    /* All of it, and again from there: segment numbers do not start over. */
    for (uint64_t turn = 0; turn < 3; turn++) {
        assert_int_equal(trim_run(fixture, 1, UINT64_MAX, false), STATUS_OK);
        assert_int_equal(trim_run(fixture, 3, UINT64_MAX, false), STATUS_OK);
        usleep(300000);
        uint64_t end = bounds_of(fixture, 1).end;
        for (uint64_t i = 0; i < 40; i++)
            assert_int_equal(append_one(fixture, 1, 1, PAYLOAD, i), end + i);
        fixture_reopen(fixture);
        assert_int_equal(bounds_of(fixture, 1).start, end);
        assert_int_equal(bounds_of(fixture, 1).end, end + 40);
        assert_int_equal(bounds_of(fixture, 2).end, 0);
        read_init(fixture, &read, 1, end);
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_int_equal(read.count, 40);
        assert_true(batch_is(blob_span(read.batches[39].bytes), 1, PAYLOAD, 39));
        read_release(&read);
    }
}

static void another_hash_key_finds_all_partitions(void **state)
{
    struct fixture *fixture = *state;
    int from, ended = 0;
    for (uint64_t partition = 0; partition < HASHED; partition++)
        append_one(fixture, partition, 1, 10, partition);
    fixture_close(fixture);
    pid_t child = child_start(fixture, "hash", &from);
    close(from);
    waitpid(child, &ended, 0);
    assert_true(WIFEXITED(ended) && WEXITSTATUS(ended) == 0);
    fixture_open(fixture);
    for (uint64_t partition = 0; partition < HASHED; partition++)
        assert_int_equal(bounds_of(fixture, partition).end, 2);
}

/* Damage in the newest segment. The store as a crash leaves it that comes after the flush of the
 * newest segment, but before the rows of its index: made by hand. */

enum { CLOSED = 1, BATCHES = 50, STORED = 24 + 64 + 61 + PAYLOAD };

static void take_back_the_roll(const struct fixture *fixture, bool bounded)
{
    static const char *const names[] = {"default", "log_6h", "log_3d", "log_30d", "log_unlimited"};
    enum { COUNT = sizeof names / sizeof *names };
    const rocksdb_options_t *each[COUNT];
    rocksdb_column_family_handle_t *families[COUNT];
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_options_set_disable_auto_compactions(options, 1);
    for (unsigned i = 0; i < COUNT; i++)
        each[i] = options;
    char *problem = NULL;
    rocksdb_t *db = rocksdb_open_column_families(options, fixture->directory, COUNT, names, each,
                                                 families, &problem);
    assert_null(problem);
    rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
    for (uint64_t partition = 1; partition <= 3; partition++) {
        struct own_key key = index_row_key(STORAGE_3_DAYS, CLOSED, partition);
        rocksdb_delete_cf(db, write, families[0], (const char *)key.bytes, key.size, &problem);
        assert_null(problem);
    }
    struct own_key key = store_row_key();
    struct store_row row = {.format = STORE_FORMAT, .clean = false, .bounded = bounded};
    struct buf value;
    buf_init(&value, 100);
    assert_int_equal(store_row_encode(&row, &value), STATUS_OK);
    rocksdb_put_cf(db, write, families[0], (const char *)key.bytes, key.size,
                   (const char *)value.data, value.size, &problem);
    assert_null(problem);
    buf_deinit(&value);
    rocksdb_writeoptions_destroy(write);
    for (unsigned i = 0; i < COUNT; i++)
        rocksdb_column_family_handle_destroy(families[i]);
    rocksdb_close(db);
    rocksdb_options_destroy(options);
}

static void fill_and_close(struct fixture *fixture, bool bounded)
{
    for (uint64_t i = 0; i < BATCHES; i++)
        for (uint64_t partition = 1; partition <= 3; partition++)
            append_one(fixture, partition, RECORDS, PAYLOAD, i);
    fixture_close(fixture);
    take_back_the_roll(fixture, bounded);
}

/* How many batches of those that were appended first can be read; all others must be refused. */
static unsigned count_readable(struct fixture *fixture, uint64_t partition)
{
    unsigned good = 0;
    for (uint64_t offset = 0; offset < BATCHES * RECORDS;) {
        struct storage_read read;
        read_init(fixture, &read, partition, offset);
        read.max_bytes = 1;
        enum status status = read_run(fixture, &read);
        if (status == STATUS_CORRUPT) {
            assert_true(read.offset > offset);
            offset = read.offset;
            continue;
        }
        assert_int_equal(status, STATUS_OK);
        assert_int_equal(read.count, 1);
        assert_int_equal(read.batches[0].base_offset, offset);
        assert_true(batch_is(blob_span(read.batches[0].bytes), RECORDS, PAYLOAD, offset / RECORDS));
        read_release(&read);
        offset += RECORDS;
        good++;
    }
    return good;
}

static void a_newest_segment_without_rows_is_read(void **state)
{
    struct fixture *fixture = *state;
    fill_and_close(fixture, true);
    fixture_open(fixture);
    for (uint64_t partition = 1; partition <= 3; partition++) {
        assert_int_equal(bounds_of(fixture, partition).end, BATCHES * RECORDS);
        assert_int_equal(count_readable(fixture, partition), BATCHES);
    }
}

static void a_bad_block_in_the_newest_segment_is_quarantined(void **state)
{
    struct fixture *fixture = *state;
    char path[512];
    fill_and_close(fixture, true);
    find_file(fixture, ".sst", path);
    damage(path, BATCHES * STORED - 500, 10); /* the last batches of 1, or the first of 2 */
    for (unsigned turn = 0; turn < 2; turn++) {
        fixture_open(fixture);
        unsigned readable = count_readable(fixture, 1) + count_readable(fixture, 2);
        assert_true(readable < 2 * BATCHES && readable > 2 * BATCHES - 12);
        assert_int_equal(count_readable(fixture, 3), BATCHES);
        assert_int_equal(bounds_of(fixture, 2).end, BATCHES * RECORDS + turn);
        assert_int_equal(bounds_of(fixture, 3).end, BATCHES * RECORDS + turn);
        /* Nobody can tell where 1 ended: it goes on behind all that it can have given out. */
        uint64_t end = bounds_of(fixture, 1).end;
        assert_true(end >= 65536 && end < 2 * 65536);
        for (uint64_t partition = 1; partition <= 3; partition++)
            append_one(fixture, partition, 1, 10, 7);
        struct storage_read read;
        read_init(fixture, &read, 1, end);
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_int_equal(read.count, 1);
        assert_int_equal(read.batches[0].base_offset, end);
        read_release(&read);
        fixture_close(fixture);
    }
}

static void a_bad_end_of_the_newest_segment_is_quarantined(void **state)
{
    struct fixture *fixture = *state;
    char path[512];
    fill_and_close(fixture, true);
    find_file(fixture, ".sst", path);
    damage(path, 3 * BATCHES * STORED - 5000, 10);
    fixture_open(fixture);
    assert_int_equal(bounds_of(fixture, 1).end, BATCHES * RECORDS);
    assert_int_equal(bounds_of(fixture, 2).end, BATCHES * RECORDS);
    assert_true(append_one(fixture, 3, 1, 10, 7) >= 65536);
    unsigned readable = count_readable(fixture, 3);
    assert_true(readable < BATCHES && readable > BATCHES - 12);
}

static void without_ceilings_a_bad_block_refuses(void **state)
{
    struct fixture *fixture = *state;
    struct err err = {{0}};
    char path[512];
    fill_and_close(fixture, false);
    find_file(fixture, ".sst", path);
    damage(path, BATCHES * STORED - 500, 10);
    for (unsigned turn = 0; turn < 2; turn++) {
        assert_int_equal(fixture_try_open(fixture, &err), STATUS_CORRUPT);
        assert_non_null(strstr(err.text, "Restore a copy of the directory"));
        fixture->storage = NULL;
    }
    damage(path, BATCHES * STORED - 500, 10); /* the copy: damage is its own inverse */
    fixture_open(fixture);
    for (uint64_t partition = 1; partition <= 3; partition++)
        assert_int_equal(bounds_of(fixture, partition).end, BATCHES * RECORDS);
}

const struct CMUnitTest crash_tests[] = {
    cmocka_unit_test(kill_keeps_what_was_acknowledged),
    cmocka_unit_test(kills_between_rolls_keep_it_too),
    cmocka_unit_test(interval_partitions_go_on_behind_their_reservation),
    cmocka_unit_test(a_torn_tail_is_tolerated),
    cmocka_unit_test(zeros_ahead_are_nothing),
    cmocka_unit_test(a_hole_in_the_log_refuses),
    cmocka_unit_test(a_shorter_log_refuses_until_the_marker_goes),
    cmocka_unit_test(a_lost_database_refuses),
    cmocka_unit_test(another_version_is_refused),
    cmocka_unit_test(a_foreign_directory_is_refused),
    cmocka_unit_test(a_store_in_use_is_refused),
    cmocka_unit_test(no_space_is_said_before_writing),
    cmocka_unit_test(a_failed_write_is_final),
    cmocka_unit_test(a_corrupt_block_never_gives_wrong_data),
    cmocka_unit_test(space_comes_back_after_a_trim),
    cmocka_unit_test(another_hash_key_finds_all_partitions),
    cmocka_unit_test(a_newest_segment_without_rows_is_read),
    cmocka_unit_test(a_bad_block_in_the_newest_segment_is_quarantined),
    cmocka_unit_test(a_bad_end_of_the_newest_segment_is_quarantined),
    cmocka_unit_test(without_ceilings_a_bad_block_refuses),
};
const size_t crash_test_count = sizeof crash_tests / sizeof *crash_tests;
