/* SPDX-License-Identifier: Apache-2.0 */
/* Segments that are mostly dead: their space comes back, and what lives of them is read all the
 * time, also when the process is killed meanwhile. */
#include "tests/storage/fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/span.h"
#include "storage/rocksdb/rocksdb.h"

enum { FAST = 1, SLOW = 2, GONE = 3, PAYLOAD = 2000, SMALL = 100, ROUNDS = 60 };

/* Bytes of all table files. */
static uint64_t table_bytes(const struct fixture *fixture)
{
    uint64_t bytes = 0;
    DIR *listing = opendir(fixture->directory);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char path[512];
        struct stat file;
        snprintf(path, sizeof path, "%s/%s", fixture->directory, entry->d_name);
        if (strstr(entry->d_name, ".sst") != NULL && stat(path, &file) == 0)
            bytes += (uint64_t)file.st_size;
    }
    closedir(listing);
    return bytes;
}

/* The seed of a batch is its offset, so a reader needs to know nothing else. Every offset of
 * [start, end) must be there once. */
static void check_all(struct fixture *fixture, uint64_t partition, size_t payload)
{
    struct storage_bounds bounds = bounds_of(fixture, partition);
    uint64_t offset = bounds.start, bytes = bounds.cumulative_bytes - bounds.bytes;
    int64_t time_ms = bounds.first_time_ms;
    while (offset < bounds.end) {
        struct storage_read read;
        read_init(fixture, &read, partition, offset);
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_true(read.count > 0);
        for (uint32_t i = 0; i < read.count; i++, offset++) {
            const struct storage_read_batch *batch = &read.batches[i];
            assert_int_equal(batch->base_offset, offset);
            assert_true(batch_is(blob_span(batch->bytes), 1, payload, offset));
            bytes += 64 + 61 + payload;
            assert_int_equal(batch->cumulative_bytes, bytes);
            assert_true(batch->append_time_ms >= time_ms);
            time_ms = batch->append_time_ms;
        }
        read_release(&read);
    }
    assert_int_equal(offset, bounds.end);
    assert_int_equal(bytes, bounds.cumulative_bytes);
}

static void append_next(struct fixture *fixture, uint64_t partition, size_t payload, uint64_t *next)
{
    assert_int_equal(append_one(fixture, partition, 1, payload, *next), *next);
    ++*next;
}

static void reopen_small(struct fixture *fixture, uint64_t bytes_per_second, uint32_t readers)
{
    fixture_close(fixture);
    fixture->options.segment_bytes = 100000;
    fixture->options.wal_bytes = 400000;
    fixture->options.evacuate_bytes = bytes_per_second;
    fixture->options.readers = readers;
    fixture_open(fixture);
}

/* ROUNDS segments of which the slow partition has a few hundred bytes each. */
static void fill(struct fixture *fixture, uint64_t *fast, uint64_t *slow)
{
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < 20; i++)
            append_next(fixture, FAST, PAYLOAD, fast);
        for (unsigned i = 0; i < 20; i++)
            append_one(fixture, GONE, 1, PAYLOAD, 0);
        for (unsigned i = 0; i < 3; i++)
            append_next(fixture, SLOW, SMALL, slow);
    }
}

static bool space_falls_to(struct fixture *fixture, uint64_t bytes, bool read)
{
    for (unsigned wait = 0; wait < 2400; wait++, usleep(25000)) {
        if (read)
            check_all(fixture, SLOW, SMALL);
        if (table_bytes(fixture) <= bytes)
            return true;
    }
    return false;
}

static void space_comes_back(struct fixture *fixture, uint64_t bytes_per_second, uint32_t readers)
{
    uint64_t fast = 0, slow = 0;
    reopen_small(fixture, bytes_per_second, readers);
    fill(fixture, &fast, &slow);
    check_all(fixture, SLOW, SMALL);
    struct storage_bounds before = bounds_of(fixture, SLOW);
    fixture_reopen(fixture); /* everything is in files */
    uint64_t full = table_bytes(fixture);
    assert_true(full > 4000000);
    assert_int_equal(trim_run(fixture, FAST, fast - 10, false), STATUS_OK);
    assert_int_equal(trim_run(fixture, GONE, 0, true), STATUS_OK);
    assert_true(space_falls_to(fixture, full / 10, true));
    assert_true(metric_of(fixture, "storage_evacuated_bytes_total") > 20000);
    for (unsigned turn = 0; turn < 3; turn++) {
        struct storage_bounds after = bounds_of(fixture, SLOW);
        assert_true(after.start == 0 && after.end == slow && after.bytes == slow * (125 + SMALL));
        assert_int_equal(after.first_time_ms, before.first_time_ms);
        check_all(fixture, SLOW, SMALL);
        check_all(fixture, FAST, PAYLOAD);
        append_next(fixture, SLOW, SMALL, &slow);
        append_next(fixture, FAST, PAYLOAD, &fast);
        if (turn < 2)
            fixture_reopen(fixture);
    }
    /* By time and by bytes it is found where it lies now. */
    struct storage_read read;
    read_init(fixture, &read, SLOW, 0);
    read.by_time = true;
    read.time_ms = before.last_time_ms;
    assert_int_equal(read_run(fixture, &read), STATUS_OK);
    assert_true(read.count > 0 && read.batches[0].append_time_ms == before.last_time_ms);
    read_release(&read);
    assert_int_equal(floor_of(fixture, SLOW, 0, 10 * (125 + SMALL)), slow - 10);
    /* Trimmed, it leaves its new place, too. */
    assert_int_equal(trim_run(fixture, SLOW, slow, false), STATUS_OK);
    assert_int_equal(trim_run(fixture, FAST, fast, false), STATUS_OK);
    append_next(fixture, SLOW, SMALL, &slow);
    fixture_reopen(fixture);
    check_all(fixture, SLOW, SMALL);
    assert_int_equal(bounds_of(fixture, SLOW).start, slow - 1);
    /* Less than its batches alone took; the index's own rows may lie in some 20 KB until RocksDB
     * compacts them. */
    assert_true(space_falls_to(fixture, (slow - 1) * (125 + SMALL), false));
}

static void a_slow_partition_does_not_hold_space(void **state)
{
    space_comes_back(*state, (uint64_t)1 << 30, 0);
}

static void nor_with_three_readers(void **state)
{
    space_comes_back(*state, (uint64_t)1 << 30, 3);
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void evacuation_keeps_to_its_rate(void **state)
{
    struct fixture *fixture = *state;
    uint64_t fast = 0, slow = 0;
    reopen_small(fixture, 10000, 0);
    fill(fixture, &fast, &slow);
    fixture_reopen(fixture);
    double began = seconds_now(), moved = 0;
    assert_int_equal(trim_run(fixture, FAST, fast, false), STATUS_OK);
    assert_int_equal(trim_run(fixture, GONE, 0, true), STATUS_OK);
    while (moved == 0 || seconds_now() - began < 2.5) {
        usleep(50000);
        moved = metric_of(fixture, "storage_evacuated_bytes_total");
        assert_true(seconds_now() - began < 60);
    }
    assert_true(moved < (seconds_now() - began) * 10000 + 5000);
    check_all(fixture, SLOW, SMALL);
}

/* A segment that is a third alive stays where it is. */
static void what_is_alive_is_left_alone(void **state)
{
    struct fixture *fixture = *state;
    uint64_t fast = 0, slow = 0;
    reopen_small(fixture, (uint64_t)1 << 30, 0);
    for (unsigned i = 0; i < 400; i++) {
        append_next(fixture, i % 3 == 0 ? SLOW : FAST, PAYLOAD, i % 3 == 0 ? &slow : &fast);
    }
    fixture_reopen(fixture);
    assert_int_equal(trim_run(fixture, FAST, fast, false), STATUS_OK);
    usleep(700000);
    assert_true(metric_of(fixture, "storage_evacuated_bytes_total") == 0);
    check_all(fixture, SLOW, PAYLOAD);
}

static void damage_tables(const struct fixture *fixture, uint64_t at)
{
    DIR *listing = opendir(fixture->directory);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char path[512];
        struct stat file;
        snprintf(path, sizeof path, "%s/%s", fixture->directory, entry->d_name);
        if (strstr(entry->d_name, ".sst") == NULL || stat(path, &file) != 0 || file.st_size < 80000)
            continue;
        int fd = open(path, O_WRONLY);
        assert_int_equal(pwrite(fd, "damaged", 7, (off_t)at), 7);
        close(fd);
        break;
    }
    closedir(listing);
}

/* What cannot be read cannot be moved: its segment stays, with all else that is in it. */
static void a_damaged_segment_stays(void **state)
{
    struct fixture *fixture = *state;
    uint64_t fast = 0, slow = 0;
    reopen_small(fixture, (uint64_t)1 << 30, 0);
    fill(fixture, &fast, &slow);
    fixture_close(fixture);
    damage_tables(fixture, 20 * (24 + 125 + PAYLOAD) + 300); /* in or beside the slow partition */
    fixture_open(fixture);
    uint64_t full = table_bytes(fixture);
    assert_int_equal(trim_run(fixture, FAST, fast, false), STATUS_OK);
    assert_int_equal(trim_run(fixture, GONE, 0, true), STATUS_OK);
    assert_true(space_falls_to(fixture, full / 5, false));
    unsigned readable = 0, corrupt = 0;
    for (uint64_t offset = 0; offset < slow;) {
        struct storage_read read;
        read_init(fixture, &read, SLOW, offset);
        enum status status = read_run(fixture, &read);
        assert_true(status == STATUS_OK ? read.count > 0 : status == STATUS_CORRUPT);
        for (uint32_t i = 0; i < read.count; i++, offset++, readable++)
            assert_true(batch_is(blob_span(read.batches[i].bytes), 1, SMALL, offset));
        if (status == STATUS_CORRUPT) {
            assert_true(read.offset > offset);
            offset = read.offset;
            corrupt++;
        }
        read_release(&read);
    }
    assert_true(readable >= slow - 9 && corrupt <= 1);
}

static atomic_bool held;

static enum status held_sync(void *context)
{
    while (atomic_load((atomic_bool *)context))
        usleep(1000);
    return STATUS_OK;
}

/* The pass of one trim finds the files that another trim has freed, but a power loss now would
 * bring back an index that needs them. */
static void files_stay_until_the_trim_is_synced(void **state)
{
    struct fixture *fixture = *state;
    uint64_t fast = 0;
    fixture->options.sync_hook = held_sync;
    fixture->options.sync_context = &held;
    reopen_small(fixture, 0, 0);
    while (fast < 300)
        append_next(fixture, FAST, PAYLOAD, &fast);
    append_one(fixture, SLOW, 1, PAYLOAD, 0);
    fixture_reopen(fixture);
    usleep(300000); /* the pass of the open is over */
    uint64_t full = table_bytes(fixture);
    assert_true(full > 600000);
    assert_int_equal(trim_run(fixture, SLOW, 1, false), STATUS_OK); /* its pass comes in 100 ms */
    atomic_store(&held, true);
    trim_start(fixture, FAST, fast);
    usleep(500000);
    bool kept = table_bytes(fixture) >= full;
    atomic_store(&held, false);
    wait_all(fixture);
    assert_true(kept);
    assert_true(space_falls_to(fixture, 20000, false));
    fixture_reopen(fixture);
    assert_int_equal(bounds_of(fixture, FAST).start, fast);
}

/* Trims what a segment is full of, and holds the syncs before the look for such a segment, which
 * comes 300 ms later; the bytes of all files before, or 0 when the machine has let that time pass.
 */
static uint64_t hold_before_the_look(struct fixture *fixture, uint64_t *fast, uint64_t *slow)
{
    append_next(fixture, SLOW, SMALL, slow);
    for (unsigned i = 0; i < 40; i++)
        append_next(fixture, FAST, PAYLOAD, fast);
    fixture_reopen(fixture);
    usleep(300000);
    uint64_t full = table_bytes(fixture);
    double began = seconds_now();
    assert_int_equal(trim_run(fixture, FAST, *fast, false), STATUS_OK);
    atomic_store(&held, true);
    if (seconds_now() - began < 0.25)
        return full;
    atomic_store(&held, false);
    return 0;
}

/* The same for what was moved. */
static void files_stay_until_the_move_is_synced(void **state)
{
    struct fixture *fixture = *state;
    uint64_t fast = 0, slow = 0;
    fixture->options.sync_hook = held_sync;
    fixture->options.sync_context = &held;
    reopen_small(fixture, (uint64_t)1 << 30, 0);
    uint64_t full = 0;
    for (unsigned tries = 0; tries < 20 && full == 0; tries++)
        full = hold_before_the_look(fixture, &fast, &slow);
    assert_true(full > 0);
    double before = metric_of(fixture, "storage_evacuated_bytes_total");
    bool moved = false;
    for (unsigned wait = 0; wait < 600 && !moved; wait++, usleep(100000))
        moved = metric_of(fixture, "storage_evacuated_bytes_total") > before;
    usleep(500000); /* and the pass that follows is over */
    bool kept = table_bytes(fixture) >= full;
    check_all(fixture, SLOW, SMALL);
    atomic_store(&held, false);
    assert_true(moved && kept);
    assert_true(space_falls_to(fixture, 20000, true));
    check_all(fixture, SLOW, SMALL);
}

/* Killed meanwhile */

/* Goes on where the last one was killed: most of what it appends is trimmed at once, so that there
 * is always something to evacuate. It tells of each round. */
int evacuate_child(struct fixture *fixture)
{
    struct err err = {{0}};
    fixture->options.segment_bytes = 60000;
    fixture->options.wal_bytes = 400000;
    fixture->options.evacuate_bytes = 1 << 20;
    if (fixture_try_open(fixture, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    uint64_t fast = bounds_of(fixture, FAST).end, slow = bounds_of(fixture, SLOW).end;
    for (;;) {
        for (unsigned i = 0; i < 30; i++)
            append_next(fixture, FAST, PAYLOAD, &fast);
        append_next(fixture, SLOW, SMALL, &slow);
        if (trim_run(fixture, FAST, fast - 5, false) != STATUS_OK)
            return 1;
        uint64_t ends[2] = {fast, slow};
        if (write(STDOUT_FILENO, ends, sizeof ends) != sizeof ends)
            return 1;
    }
}

static void kills_leave_one_copy(void **state)
{
    struct fixture *fixture = *state;
    uint64_t most = 0;
    for (unsigned turn = 0; turn < 8; turn++) {
        uint64_t ends[2] = {0}, last[2] = {0};
        int from;
        unsigned rounds = 0;
        fixture_close(fixture);
        pid_t child = child_start(fixture, "evacuate", &from);
        while (read(from, ends, sizeof ends) == sizeof ends) {
            memcpy(last, ends, sizeof last);
            if (++rounds == 60 + 13 * turn)
                kill(child, SIGKILL);
        }
        close(from);
        waitpid(child, NULL, 0);
        assert_true(rounds >= 60 + 13 * turn);
        fixture->options.segment_bytes = 60000;
        fixture->options.evacuate_bytes = 20000; /* so that it is in the middle when it closes */
        fixture_open(fixture);
        assert_true(bounds_of(fixture, FAST).end >= last[0]);
        assert_true(bounds_of(fixture, SLOW).end >= last[1]);
        for (unsigned i = 0; i < 3; i++, usleep(turn * 30000)) {
            check_all(fixture, SLOW, SMALL);
            check_all(fixture, FAST, PAYLOAD);
        }
        if (table_bytes(fixture) > most)
            most = table_bytes(fixture);
    }
    assert_true(bounds_of(fixture, FAST).end > 20000);
    assert_true(most < 20000 * (uint64_t)PAYLOAD / 4); /* it was at work all the time */
}

const struct CMUnitTest evacuate_tests[] = {
    cmocka_unit_test(a_slow_partition_does_not_hold_space),
    cmocka_unit_test(nor_with_three_readers),
    cmocka_unit_test(evacuation_keeps_to_its_rate),
    cmocka_unit_test(what_is_alive_is_left_alone),
    cmocka_unit_test(a_damaged_segment_stays),
    cmocka_unit_test(files_stay_until_the_trim_is_synced),
    cmocka_unit_test(files_stay_until_the_move_is_synced),
    cmocka_unit_test(kills_leave_one_copy),
};
const size_t evacuate_test_count = sizeof evacuate_tests / sizeof *evacuate_tests;
