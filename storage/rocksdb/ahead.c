/* SPDX-License-Identifier: Apache-2.0 */
/* Zeros in the log file ahead of what RocksDB has written there. A sync behind a write that makes
 * the file longer, or goes to blocks never written, waits for a commit of the file system's own
 * journal besides; one that overwrites does not.
 *
 * Sound, because zeros only ever go behind the end of the file, and RocksDB, which writes where it
 * is itself, is nowhere beyond that end while they do: log_lock and the syncer's own turn keep out
 * whoever could write, and a backup says when it may. A recovery passes zeros over, as those of
 * logs that were written through maps; RocksDB cuts a log to its size when it closes it. A wrong
 * guess of where RocksDB is, or a file that is not the log any more, costs time only. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/rocksdb/engine.h"

enum {
    AHEAD_BYTES = 128 * 1024,
    LARGE_BYTES = AHEAD_BYTES / 4, /* of one sync: then the journal's commit is the smaller part */
    RECORD_BYTES = 24              /* about what RocksDB puts around a batch */
};

static void forget(struct ahead *ahead)
{
    if (ahead->fd >= 0)
        close(ahead->fd);
    ahead->fd = -1;
}

/* The log with the highest number; 0: none. */
static uint64_t newest_log(const char *path)
{
    uint64_t newest = 0;
    DIR *listing = opendir(path);
    if (listing == NULL)
        return 0;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char *end = NULL;
        uint64_t number = strtoull(entry->d_name, &end, 10);
        if (end != entry->d_name && strcmp(end, ".log") == 0 && number > newest)
            newest = number;
    }
    closedir(listing);
    return newest;
}

static void find_log(struct ahead *ahead, const char *directory)
{
    char *name = NULL;
    struct stat file;
    forget(ahead);
    ahead->stale = false;
    uint64_t number = newest_log(directory);
    if (number == 0 || asprintf(&name, "%s/%06llu.log", directory, (unsigned long long)number) < 0)
        return;
    ahead->fd = open(name, O_WRONLY | O_CLOEXEC);
    free(name);
    if (ahead->fd >= 0 && fstat(ahead->fd, &file) == 0)
        ahead->at = ahead->end = (uint64_t)file.st_size;
    else
        forget(ahead);
}

/* How much RocksDB has been given since this was last asked. */
static uint64_t given(struct engine *engine)
{
    struct ahead *ahead = &engine->ahead;
    uint64_t bytes = atomic_load_explicit(&engine->count_bytes, memory_order_relaxed);
    uint64_t writes = atomic_load_explicit(&engine->count_writes, memory_order_relaxed);
    uint64_t more = bytes - ahead->bytes + RECORD_BYTES * (writes - ahead->writes);
    ahead->bytes = bytes;
    ahead->writes = writes;
    return more;
}

void ahead_extend(struct engine *engine)
{
    static const uint8_t zeros[AHEAD_BYTES];
    struct ahead *ahead = &engine->ahead;
    struct stat file;
    if (engine->directory.path == NULL)
        return;
    uint64_t more = given(engine);
    ahead->at += more;
    if (ahead->paused || more >= LARGE_BYTES)
        return;
    if (ahead->stale)
        find_log(ahead, engine->directory.path);
    if (ahead->fd < 0 || ahead->at + more <= ahead->end)
        return;
    if (fstat(ahead->fd, &file) != 0 ||
        pwrite(ahead->fd, zeros, sizeof zeros, file.st_size) != (ssize_t)sizeof zeros) {
        forget(ahead); /* until the next log: a full disk, say, which is for the store to tell */
        return;
    }
    if ((uint64_t)file.st_size > ahead->end) /* RocksDB has gone beyond, and is there */
        ahead->at = (uint64_t)file.st_size + more;
    ahead->end = (uint64_t)file.st_size + sizeof zeros;
}

void ahead_pause(struct engine *engine, bool paused)
{
    pthread_mutex_lock(&engine->log_lock);
    engine->ahead.paused = paused;
    pthread_mutex_unlock(&engine->log_lock);
}

void ahead_end(struct engine *engine)
{
    forget(&engine->ahead);
}
