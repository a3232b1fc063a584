/* SPDX-License-Identifier: Apache-2.0 */
/* The format file and the marker. The format file is looked at before RocksDB touches anything,
 * because RocksDB rewrites what it opens. */
#include "storage/rocksdb/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/base/crc.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/trace.h"

#define FORMAT_NAME   "polylog-format"
#define FORMAT_TEMP   "polylog-format.new"
#define FORMAT_PREFIX "polylog storage format "
#define MARKER_NAME   "polylog-marker"

/* A slot: 0 magic, 4 zero, 8 turn, 16 commit, 24 zero, 28 CRC of the rest. */
enum { SLOT_SIZE = 32, SLOT_CRC_AT = 28, SLOT_MAGIC = 0x504c4d31 };

static char *path_of(const struct directory *directory, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", directory->path, name) < 0)
        abort();
    return path;
}

bool directory_has(const struct directory *directory, const char *name)
{
    char *path = path_of(directory, name);
    bool has = access(path, F_OK) == 0;
    free(path);
    return has;
}

uint64_t directory_free_bytes(const struct directory *directory)
{
    struct statvfs disk;
    if (statvfs(directory->path, &disk) != 0)
        return UINT64_MAX;
    return (uint64_t)disk.f_bavail * disk.f_frsize;
}

/* Some refuse the flag, as a tmpfs of older kernels does. */
bool directory_writes_direct(const struct directory *directory)
{
    if (directory->path == NULL)
        return false;
    char *name = path_of(directory, FORMAT_NAME);
    int fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
    free(name);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static enum status check_empty(const struct directory *directory, struct err *err)
{
    DIR *listing = opendir(directory->path);
    if (listing == NULL)
        return err_set(err, STATUS_INVALID, "cannot read %s: %s", directory->path, strerror(errno));
    enum status status = STATUS_OK;
    for (struct dirent *entry; status == STATUS_OK && (entry = readdir(listing)) != NULL;) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strcmp(name, "lost+found") != 0 &&
            strcmp(name, FORMAT_TEMP) != 0)
            status = err_set(err, STATUS_INVALID,
                             "%s is not empty (it holds %s) and has no %s: it is not a store of "
                             "ours; choose an empty directory",
                             directory->path, name, FORMAT_NAME);
    }
    closedir(listing);
    return status;
}

static void directory_sync(const struct directory *directory)
{
    int fd = open(directory->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fsync(fd) != 0)
        trace(TRACE_WARN, "fsync of %s: %s", directory->path, strerror(errno));
    close(fd);
}

static enum status format_write(const struct directory *directory, struct err *err)
{
    char *temporary = path_of(directory, FORMAT_TEMP), *final = path_of(directory, FORMAT_NAME);
    enum status status = STATUS_OK;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || dprintf(fd, FORMAT_PREFIX "%d\n", STORE_FORMAT) < 0 || fsync(fd) != 0 ||
        rename(temporary, final) != 0)
        status = err_set(err, STATUS_INVALID, "cannot write %s: %s", final, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (status == STATUS_OK)
        directory_sync(directory);
    free(temporary);
    free(final);
    return status;
}

static enum status format_check(struct directory *directory, struct err *err)
{
    char text[64] = {0};
    ssize_t size = pread(directory->lock_fd, text, sizeof text - 1, 0);
    size_t prefix = strlen(FORMAT_PREFIX);
    if (size < 0 || strncmp(text, FORMAT_PREFIX, prefix) != 0)
        return err_set(err, STATUS_INVALID, "%s/%s is not readable as a format version",
                       directory->path, FORMAT_NAME);
    long version = strtol(text + prefix, NULL, 10);
    if (version != STORE_FORMAT)
        return err_set(
            err, STATUS_UNSUPPORTED,
            "%s was written in storage format %ld, and this program reads format %d; run "
            "the version that wrote it. Nothing was changed",
            directory->path, version, STORE_FORMAT);
    if (flock(directory->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return err_set(err, STATUS_BUSY, "%s is in use by another process; stop that one first",
                       directory->path);
    return STATUS_OK;
}

enum status directory_open(struct directory *directory, const char *path, struct err *err)
{
    *directory = (struct directory){.lock_fd = -1, .marker_fd = -1};
    directory->path = heap_text(path, strlen(path));
    enum status status = STATUS_OK;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        status = err_set(err, STATUS_INVALID, "cannot create %s: %s", path, strerror(errno));
    if (status == STATUS_OK && !directory_has(directory, FORMAT_NAME)) {
        status = check_empty(directory, err);
        if (status == STATUS_OK)
            status = format_write(directory, err);
    }
    if (status == STATUS_OK) {
        char *name = path_of(directory, FORMAT_NAME);
        directory->lock_fd = open(name, O_RDONLY | O_CLOEXEC);
        if (directory->lock_fd < 0)
            status = err_set(err, STATUS_INVALID, "cannot open %s: %s", name, strerror(errno));
        free(name);
    }
    if (status == STATUS_OK)
        status = format_check(directory, err);
    if (status != STATUS_OK)
        directory_close(directory);
    return status;
}

void directory_close(struct directory *directory)
{
    if (directory->marker_fd >= 0)
        close(directory->marker_fd);
    if (directory->lock_fd >= 0)
        close(directory->lock_fd);
    heap_free(directory->path);
    *directory = (struct directory){.lock_fd = -1, .marker_fd = -1};
}

static bool slot_decode(const uint8_t *slot, uint64_t *turn, uint64_t *commit)
{
    if (load_u32(slot) != SLOT_MAGIC ||
        load_u32(slot + SLOT_CRC_AT) != crc32c(0, span_of(slot, SLOT_CRC_AT)))
        return false;
    *turn = load_u64(slot + 8);
    *commit = load_u64(slot + 16);
    return true;
}

uint64_t marker_read(struct directory *directory)
{
    char *name = path_of(directory, MARKER_NAME);
    uint8_t slots[2 * SLOT_SIZE] = {0};
    uint64_t best = 0;
    bool believed = false;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : pread(fd, slots, sizeof slots, 0);
    for (int i = 0; i < 2; i++) {
        uint64_t turn = 0, commit = 0;
        if (!slot_decode(slots + i * SLOT_SIZE, &turn, &commit))
            continue;
        believed = true;
        if (turn >= directory->marker_turn) {
            directory->marker_turn = turn;
            best = commit;
        }
    }
    if (size > 0 && !believed)
        trace(TRACE_WARN, "%s is unreadable: whether all that was acknowledged is there is unknown",
              name);
    if (fd >= 0)
        close(fd);
    free(name);
    return best;
}

enum status marker_open(struct directory *directory, struct err *err)
{
    char *name = path_of(directory, MARKER_NAME);
    directory->marker_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    enum status status = STATUS_OK;
    if (directory->marker_fd < 0)
        status = err_set(err, STATUS_INVALID, "cannot open %s: %s", name, strerror(errno));
    free(name);
    return status;
}

enum status marker_write(struct directory *directory, uint64_t commit)
{
    uint8_t slot[SLOT_SIZE] = {0};
    uint64_t turn = ++directory->marker_turn;
    store_u32(slot, SLOT_MAGIC);
    store_u64(slot + 8, turn);
    store_u64(slot + 16, commit);
    store_u32(slot + SLOT_CRC_AT, crc32c(0, span_of(slot, SLOT_CRC_AT)));
    ssize_t written =
        pwrite(directory->marker_fd, slot, sizeof slot, (off_t)(turn % 2) * SLOT_SIZE);
    return written == (ssize_t)sizeof slot ? STATUS_OK : STATUS_STORAGE_FAILED;
}

enum status directory_describe(const char *path, uint64_t commit, struct err *err)
{
    struct directory directory = {.lock_fd = -1, .marker_fd = -1};
    directory.path = heap_text(path, strlen(path));
    enum status status = format_write(&directory, err);
    if (status == STATUS_OK)
        status = marker_open(&directory, err);
    if (status == STATUS_OK && marker_write(&directory, commit) != STATUS_OK)
        status = err_set(err, STATUS_INVALID, "cannot write %s in %s", MARKER_NAME, path);
    directory_close(&directory);
    return status;
}
