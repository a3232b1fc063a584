/* SPDX-License-Identifier: Apache-2.0 */
/* Online backup: a checkpoint of RocksDB (table files are hard links where the file system is the
 * same, else copies), with the format file and a marker that is not ahead of it. It is made beside
 * the directory that was asked for and gets its name when it is whole and synced. A thread of its
 * own does it, because copies may take minutes. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/trace.h"
#include "storage/rocksdb/engine.h"

#define PARTIAL ".partial"

enum { PATH_MAX_BYTES = 3072 };

static char *path_join(const char *directory, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", directory, name) < 0)
        abort();
    return path;
}

/* Calls each for every entry of the directory; false when it cannot be read. */
static bool each_entry(const char *directory, void (*each)(const char *path, void *context),
                       void *context)
{
    DIR *listing = opendir(directory);
    if (listing == NULL)
        return false;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *path = path_join(directory, entry->d_name);
        each(path, context);
        free(path);
    }
    closedir(listing);
    return true;
}

static void count_entry(const char *path, void *count)
{
    (void)path;
    ++*(unsigned *)count;
}

static void remove_entry(const char *path, void *context)
{
    (void)context;
    unlink(path);
}

static void remove_flat(const char *directory)
{
    if (each_entry(directory, remove_entry, NULL))
        rmdir(directory);
}

/* Space: what is copied, and not linked. */

struct need {
    uint64_t bytes;
    bool all;
};

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), end_size = strlen(end);
    return size >= end_size && strcmp(text + size - end_size, end) == 0;
}

static void add_need(const char *path, void *context)
{
    struct need *need = context;
    struct stat file;
    if ((need->all || !ends_with(path, ".sst")) && stat(path, &file) == 0)
        need->bytes += (uint64_t)file.st_size;
}

static enum status check_space(struct engine *engine, const char *parent, struct err *err)
{
    const char *data = engine->directory.path;
    struct stat here, there;
    struct statvfs disk;
    if (stat(data, &here) != 0 || stat(parent, &there) != 0 || statvfs(parent, &disk) != 0)
        return err_set(err, STATUS_INVALID, "cannot look at %s: %s", parent, strerror(errno));
    bool same = here.st_dev == there.st_dev;
    struct need need = {.all = !same};
    each_entry(data, add_need, &need);
    uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    uint64_t kept = same ? engine->min_free_bytes : 0;
    if (room < kept + need.bytes)
        return err_set(err, STATUS_NO_SPACE,
                       "a backup needs %llu bytes on the file system of %s (and leaves "
                       "storage.min_free of it); %llu are free",
                       (unsigned long long)need.bytes, parent, (unsigned long long)room);
    return STATUS_OK;
}

/* Names */

static enum status check_target(const char *target, struct err *err)
{
    struct stat found;
    if (lstat(target, &found) != 0)
        return errno == ENOENT
                   ? STATUS_OK
                   : err_set(err, STATUS_INVALID, "cannot look at %s: %s", target, strerror(errno));
    unsigned entries = 0;
    if (!S_ISDIR(found.st_mode) || !each_entry(target, count_entry, &entries))
        return err_set(err, STATUS_INVALID, "%s is there and is no directory that can be read",
                       target);
    return entries == 0
               ? STATUS_OK
               : err_set(err, STATUS_INVALID,
                         "%s is not empty: choose a directory that does not exist yet", target);
}

static bool is_within(const char *path, const char *directory)
{
    size_t size = strlen(directory);
    return strncmp(path, directory, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

/* The parent must exist; inside of the store nothing else may lie. */
static enum status check_parent(const struct engine *engine, const char *parent, struct err *err)
{
    char *real = realpath(parent, NULL), *data = realpath(engine->directory.path, NULL);
    enum status status = STATUS_OK;
    if (real == NULL || data == NULL)
        status = err_set(err, STATUS_INVALID, "%s cannot be used: %s", parent, strerror(errno));
    else if (is_within(real, data))
        status = err_set(err, STATUS_INVALID, "%s lies within the store itself", parent);
    free(real);
    free(data);
    return status;
}

/* The asked-for path without slashes at its end; NULL: it is none that can be used. */
static char *target_of(struct span directory)
{
    while (directory.size > 1 && directory.data[directory.size - 1] == '/')
        directory.size--;
    if (directory.size < 2 || directory.size > PATH_MAX_BYTES || directory.data[0] != '/' ||
        memchr(directory.data, '\0', directory.size) != NULL)
        return NULL;
    return heap_text((const char *)directory.data, directory.size);
}

/* Making it */

static void sync_path(const char *path, void *failed)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        *(bool *)failed = true;
    if (fd >= 0)
        close(fd);
}

/* Table files were synced when they were written; the log, of which a part may be linked, was not.
 */
static void sync_entry(const char *path, void *failed)
{
    if (!ends_with(path, ".sst"))
        sync_path(path, failed);
}

static enum status checkpoint(struct engine *engine, const char *path, struct err *err)
{
    char *problem = NULL;
    rocksdb_checkpoint_t *maker = rocksdb_checkpoint_object_create(engine->db, &problem);
    /* No flush, however long the log is: it would cut a segment in two, and block the writer. The
     * log is copied instead. */
    ahead_pause(engine, true);
    if (problem == NULL)
        rocksdb_checkpoint_create(maker, path, UINT64_MAX, &problem);
    ahead_pause(engine, false);
    if (maker != NULL)
        rocksdb_checkpoint_object_destroy(maker);
    if (problem == NULL)
        return STATUS_OK;
    enum status status = strstr(problem, "No space") != NULL ? STATUS_NO_SPACE : STATUS_INVALID;
    err_set(err, status, "the store cannot be copied to %s: %s", path, problem);
    rocksdb_free(problem);
    return status;
}

/* Whatever was completed before the checkpoint began is in the files that it copies: what is synced
 * is, and what is not is at least written to them. So the marker holds what is synced by now. */
static enum status copy_to(struct engine *engine, const char *partial, const char *parent,
                           const char *target, struct err *err)
{
    uint64_t commit = atomic_load_explicit(&engine->synced_commit, memory_order_acquire);
    enum status status = checkpoint(engine, partial, err);
    if (status == STATUS_OK)
        status = directory_describe(partial, commit, err);
    bool failed = false;
    if (status == STATUS_OK) {
        failed = !each_entry(partial, sync_entry, &failed) || failed;
        sync_path(partial, &failed);
    }
    if (status == STATUS_OK && (failed || rename(partial, target) != 0))
        status = err_set(err, STATUS_INVALID, "the backup cannot be finished as %s: %s", target,
                         strerror(errno));
    if (status == STATUS_OK)
        sync_path(parent, &failed);
    else
        remove_flat(partial);
    return status;
}

static enum status backup_make(struct engine *engine, const char *target, struct err *err)
{
    if (engine_has_failed(engine))
        return err_set(err, STATUS_STORAGE_FAILED, "the store has failed");
    char *partial = NULL, *parent = heap_text(target, strlen(target));
    *strrchr(parent, '/') = '\0';
    const char *above = parent[0] == '\0' ? "/" : parent;
    if (asprintf(&partial, "%s" PARTIAL, target) < 0)
        abort();
    struct stat found;
    enum status status = check_target(target, err);
    if (status == STATUS_OK)
        status = check_parent(engine, above, err);
    if (status == STATUS_OK && lstat(partial, &found) == 0)
        status = err_set(err, STATUS_INVALID,
                         "%s is left of a backup that was interrupted: delete it", partial);
    if (status == STATUS_OK)
        status = check_space(engine, above, err);
    if (status == STATUS_OK)
        status = copy_to(engine, partial, above, target, err);
    free(partial);
    heap_free(parent);
    return status;
}

/* The thread */

static void *backup_run(void *context)
{
    struct engine *engine = context;
    struct storage_backup *backup = engine->backup.request;
    char *target = target_of(backup->directory);
    enum status status = target == NULL ? err_set(&backup->err, STATUS_INVALID,
                                                  "the directory must be an absolute path")
                                        : backup_make(engine, target, &backup->err);
    if (status == STATUS_OK)
        trace(TRACE_INFO, "the store was copied to %s", target);
    heap_free(target);
    pthread_mutex_lock(&engine->reader_lock);
    engine->backup.running = false;
    pthread_mutex_unlock(&engine->reader_lock);
    request_complete(&backup->request, status);
    return NULL;
}

void engine_backup(struct storage *storage, struct storage_backup *backup)
{
    struct engine *engine = engine_of(storage);
    backup->err.text[0] = '\0';
    if (engine->environment != NULL) {
        err_set(&backup->err, STATUS_UNSUPPORTED, "a store in memory cannot be copied");
        request_complete(&backup->request, STATUS_UNSUPPORTED);
        return;
    }
    pthread_mutex_lock(&engine->reader_lock);
    bool mine = !engine->backup.running;
    engine->backup.running = true;
    pthread_mutex_unlock(&engine->reader_lock);
    if (!mine) {
        err_set(&backup->err, STATUS_BUSY, "another backup is running");
        request_complete(&backup->request, STATUS_BUSY);
        return;
    }
    backup_join(engine);
    engine->backup.request = backup;
    CHECK(pthread_create(&engine->backup.thread, NULL, backup_run, engine) == 0);
    engine->backup.started = true;
    pthread_setname_np(engine->backup.thread, "store-backup");
}

void backup_join(struct engine *engine)
{
    if (engine->backup.started)
        pthread_join(engine->backup.thread, NULL);
    engine->backup.started = false;
}
