/* SPDX-License-Identifier: Apache-2.0 */
/* Online backup: the copy holds what was completed before it began, opens as a store of its own,
 * and has cost the source nothing. */
#include "tests/storage/fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/span.h"
#include "core/net/loop.h"
#include "storage/memory/memory.h"
#include "storage/rocksdb/rocksdb.h"

enum { SYNCED = 1, INTERVAL = 2, PAYLOAD = 2000, BEFORE = 300, DURING = 300, FILES = 512 };

static const struct engine_case on_directory = {"rocksdb", &rocksdb_storage_ops, PLACE_DIRECTORY};
static const struct engine_case in_environment = {"rocksdb, in memory", &rocksdb_storage_ops,
                                                  PLACE_MEMORY_ENVIRONMENT};

static struct {
    struct storage_backup backup;
    char path[256];
    bool done;
    enum status status;
    struct loop *loop;
    bool waiting;
} run, other;

static void backup_done(struct request *request, enum status status)
{
    bool first = request == &run.backup.request;
    if (first) {
        run.done = true;
        run.status = status;
    } else {
        other.done = true;
        other.status = status;
    }
    if (first && run.waiting)
        loop_stop(run.loop);
}

static void backup_start(struct fixture *fixture, const char *path)
{
    run.done = false;
    run.waiting = false;
    run.loop = fixture->loop;
    snprintf(run.path, sizeof run.path, "%s", path);
    run.backup = (struct storage_backup){.directory = span_from_text(run.path)};
    request_init(&run.backup.request, fixture->loop, backup_done);
    fixture->engine->ops->backup(fixture->storage, &run.backup);
    assert_false(run.done);
}

static enum status backup_wait(void)
{
    run.waiting = true;
    if (!run.done)
        loop_run(run.loop);
    assert_true(run.done);
    return run.status;
}

static enum status backup_run(struct fixture *fixture, const char *path)
{
    backup_start(fixture, path);
    return backup_wait();
}

/* A sibling of the store's directory. */
static const char *beside(const struct fixture *fixture, const char *suffix)
{
    static char path[256];
    snprintf(path, sizeof path, "%s%s", fixture->directory, suffix);
    return path;
}

static void remove_all(const char *path)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", path);
    assert_int_equal(system(command), 0);
}

/* The seed of a batch is its offset. */
static void append_both(struct fixture *fixture, uint64_t seed)
{
    struct op *op = op_new(fixture), *row = op_new(fixture);
    op_batch(op, SYNCED, 1, PAYLOAD, seed);
    op_batch(op, INTERVAL, 1, PAYLOAD, seed);
    op->batches[1].durability = DURABLE_INTERVAL;
    char key[16], value[16];
    snprintf(key, sizeof key, "r%06u", (unsigned)seed);
    snprintf(value, sizeof value, "%u", (unsigned)seed);
    op_put(row, key, value);
    op_start(fixture, op);
    op_start(fixture, row);
    wait_all(fixture);
    assert_int_equal(op->append.request.status, STATUS_OK);
    assert_int_equal(op->batches[0].base_offset, seed);
    op_free(op);
    op_free(row);
}

static void check_partition(struct fixture *fixture, uint64_t partition, uint64_t at_least)
{
    struct storage_bounds bounds = bounds_of(fixture, partition);
    assert_int_equal(bounds.start, 0);
    assert_true(bounds.end >= at_least);
    for (uint64_t offset = 0; offset < at_least;) {
        struct storage_read read;
        read_init(fixture, &read, partition, offset);
        read.end = at_least;
        assert_int_equal(read_run(fixture, &read), STATUS_OK);
        assert_true(read.count > 0);
        for (uint32_t i = 0; i < read.count; i++, offset++) {
            assert_int_equal(read.batches[i].base_offset, offset);
            assert_true(batch_is(blob_span(read.batches[i].bytes), 1, PAYLOAD, offset));
        }
        read_release(&read);
    }
}

static void check_rows(struct fixture *fixture, unsigned at_least)
{
    for (unsigned i = 0; i < at_least; i++) {
        char first[16], end[16], wanted[40];
        snprintf(first, sizeof first, "r%06u", i);
        snprintf(end, sizeof end, "r%06u", i + 1);
        snprintf(wanted, sizeof wanted, "%s=%u", first, i);
        assert_string_equal(scan_text(fixture, first, end, 10), wanted);
    }
}

struct file {
    char name[64];
    ino_t inode;
    off_t size;
};

/* The table files: a store that rewrites itself has others. */
static unsigned list_tables(const struct fixture *fixture, struct file *files)
{
    unsigned count = 0;
    DIR *listing = opendir(fixture->directory);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char path[512];
        struct stat found;
        snprintf(path, sizeof path, "%s/%s", fixture->directory, entry->d_name);
        if (strstr(entry->d_name, ".sst") == NULL || stat(path, &found) != 0)
            continue;
        assert_true(count < FILES);
        snprintf(files[count].name, sizeof files->name, "%.63s", entry->d_name);
        files[count].inode = found.st_ino;
        files[count++].size = found.st_size;
    }
    closedir(listing);
    return count;
}

static bool has_table(const struct file *files, unsigned count, const struct file *file)
{
    for (unsigned i = 0; i < count; i++)
        if (files[i].inode == file->inode && files[i].size == file->size &&
            strcmp(files[i].name, file->name) == 0)
            return true;
    return false;
}

static void reopen_small(struct fixture *fixture)
{
    fixture_close(fixture);
    fixture->options.segment_bytes = 100000;
    fixture->options.wal_bytes = 400000;
    fixture->options.interval_ms = 60000; /* what is not synced must come along as well */
    fixture_open(fixture);
}

static void copy_holds_what_was_completed(void **state)
{
    struct fixture *fixture = *state;
    reopen_small(fixture);
    uint64_t seed = 0;
    while (seed < BEFORE)
        append_both(fixture, seed++);
    backup_start(fixture, beside(fixture, "-copy"));
    while (seed < BEFORE + DURING)
        append_both(fixture, seed++);
    assert_int_equal(backup_wait(), STATUS_OK);

    struct fixture copy = {.engine = fixture->engine, .loop = fixture->loop};
    snprintf(copy.directory, sizeof copy.directory, "%.160s", run.path);
    copy.options = fixture->options;
    copy.options.directory = copy.directory;
    fixture_open(&copy); /* beside the source, which goes on */
    check_partition(&copy, SYNCED, BEFORE);
    check_partition(&copy, INTERVAL, BEFORE);
    check_rows(&copy, BEFORE);
    /* A life of its own. */
    uint64_t end = bounds_of(&copy, SYNCED).end;
    assert_int_equal(append_one(&copy, SYNCED, 1, PAYLOAD, end), end);
    assert_int_equal(append_one(fixture, SYNCED, 1, PAYLOAD, seed), seed);
    fixture_reopen(&copy);
    check_partition(&copy, SYNCED, end + 1);
    fixture_close(&copy);
    remove_all(copy.directory);

    check_partition(fixture, SYNCED, seed + 1);
    fixture_reopen(fixture);
    check_partition(fixture, SYNCED, seed + 1);
    check_partition(fixture, INTERVAL, seed);
    check_rows(fixture, (unsigned)seed);
}

/* The tables when flushes and moves from level 0 to 1 have ended: the same twice, 300 ms apart. */
static unsigned settled_tables(const struct fixture *fixture, struct file *files)
{
    static struct file earlier[FILES];
    for (int look = 0; look < 50; look++) {
        unsigned count_earlier = list_tables(fixture, earlier), same = 0;
        usleep(300 * 1000);
        unsigned count = list_tables(fixture, files);
        for (unsigned i = 0; i < count; i++)
            same += has_table(earlier, count_earlier, &files[i]);
        if (count == count_earlier && same == count)
            return count;
    }
    fail_msg("the tables do not settle");
    return 0;
}

/* Files that a backup leaves alone; a RocksDB snapshot would have them rewritten at the next put.
 */
static void source_is_not_rewritten(void **state)
{
    struct fixture *fixture = *state;
    static struct file before[FILES], after[FILES];
    reopen_small(fixture);
    uint64_t seed = 0;
    while (seed < BEFORE)
        append_both(fixture, seed++);
    unsigned count = settled_tables(fixture, before);
    assert_true(count > 5);
    assert_int_equal(backup_run(fixture, beside(fixture, "-copy")), STATUS_OK);
    append_both(fixture, seed++);
    usleep(500 * 1000);
    unsigned count_after = list_tables(fixture, after);
    for (unsigned i = 0; i < count; i++)
        assert_true(has_table(after, count_after, &before[i]));
    assert_true(count_after <= count + 3); /* nothing was flushed for it either */
    remove_all(run.path);
}

static void one_after_the_other(void **state)
{
    struct fixture *fixture = *state;
    append_both(fixture, 0);
    char second[256];
    snprintf(second, sizeof second, "%s", beside(fixture, "-second"));
    backup_start(fixture, beside(fixture, "-copy"));
    other.done = false;
    other.backup = (struct storage_backup){.directory = span_from_text(second)};
    request_init(&other.backup.request, fixture->loop, backup_done);
    fixture->engine->ops->backup(fixture->storage, &other.backup);
    assert_int_equal(backup_wait(), STATUS_OK);
    append_both(fixture, 1); /* its end comes by now */
    assert_true(other.done);
    assert_int_equal(other.status, STATUS_BUSY);
    remove_all(run.path);
    assert_int_equal(backup_run(fixture, second), STATUS_OK);
    remove_all(second);
}

static void expect_refusal(struct fixture *fixture, const char *path, const char *why)
{
    assert_int_equal(backup_run(fixture, path), STATUS_INVALID);
    if (strstr(run.backup.err.text, why) == NULL)
        fail_msg("%s: %s", path, run.backup.err.text);
}

static void directories_that_cannot_be_used(void **state)
{
    struct fixture *fixture = *state;
    append_both(fixture, 0);
    expect_refusal(fixture, "", "absolute");
    expect_refusal(fixture, "copy", "absolute");
    expect_refusal(fixture, "/", "absolute");
    expect_refusal(fixture, beside(fixture, "/inside"), "within the store");
    expect_refusal(fixture, beside(fixture, "-no/such/parent"), "cannot be used");
    expect_refusal(fixture, fixture->directory, "not empty");
    expect_refusal(fixture, beside(fixture, "/polylog-format/x"), "cannot look at");
    expect_refusal(fixture, beside(fixture, "/polylog-format"), "no directory");
    char left[256];
    snprintf(left, sizeof left, "%s", beside(fixture, "-copy.partial"));
    assert_int_equal(mkdir(left, 0700), 0);
    expect_refusal(fixture, beside(fixture, "-copy"), "interrupted");
    assert_int_equal(rmdir(left), 0);
    /* An empty one is taken, slashes at the end are not its name. */
    assert_int_equal(mkdir(beside(fixture, "-copy"), 0700), 0);
    assert_int_equal(backup_run(fixture, beside(fixture, "-copy//")), STATUS_OK);
    assert_int_equal(access(beside(fixture, "-copy/polylog-format"), F_OK), 0);
    expect_refusal(fixture, beside(fixture, "-copy"), "not empty");
    remove_all(beside(fixture, "-copy"));
    assert_int_equal(access(left, F_OK), -1);
}

static void no_room_is_said_before(void **state)
{
    struct fixture *fixture = *state;
    append_both(fixture, 0);
    fixture_close(fixture);
    fixture->options.min_free_bytes = UINT64_MAX / 4;
    fixture_open(fixture);
    assert_int_equal(backup_run(fixture, beside(fixture, "-copy")), STATUS_NO_SPACE);
    assert_non_null(strstr(run.backup.err.text, "min_free"));
    assert_int_equal(access(beside(fixture, "-copy"), F_OK), -1);
}

static void memory_has_no_files(void **state)
{
    struct fixture *fixture = *state;
    assert_int_equal(backup_run(fixture, "/tmp/polylog-no-such-copy"), STATUS_UNSUPPORTED);
    assert_null(memory_storage_ops.backup);
}

#define TEST(name, where)                                                                          \
    {                                                                                              \
#name, name, fixture_setup, fixture_teardown, (void *)(uintptr_t)&where                    \
    }

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(copy_holds_what_was_completed, on_directory),
        TEST(source_is_not_rewritten, on_directory),
        TEST(one_after_the_other, on_directory),
        TEST(directories_that_cannot_be_used, on_directory),
        TEST(no_room_is_said_before, on_directory),
        TEST(memory_has_no_files, in_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
