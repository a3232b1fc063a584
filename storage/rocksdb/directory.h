/* SPDX-License-Identifier: Apache-2.0 */
/* The files of ours beside RocksDB's: polylog-format, which names the version and carries the lock,
 * and polylog-marker, which holds the last commit number that a sync has covered. */
#ifndef STORAGE_ROCKSDB_DIRECTORY_H
#define STORAGE_ROCKSDB_DIRECTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/status.h"

/* 2: rows of sessions and retained records that say more, units that are parts of groups. */
enum { STORE_FORMAT = 2 };

struct directory {
    char *path;
    int lock_fd;
    int marker_fd;        /* -1 until marker_open */
    uint64_t marker_turn; /* rises with every write; its parity chooses the slot */
};

/* Creates the directory when it is missing, writes polylog-format into an empty one, and takes the
 * lock. Refuses a directory with other content, another version, or another process, and changes
 * nothing. */
enum status directory_open(struct directory *directory, const char *path, struct err *err);
void directory_close(struct directory *directory);
bool directory_has(const struct directory *directory, const char *name);
uint64_t directory_free_bytes(const struct directory *directory); /* UINT64_MAX when unknown */
/* Whether its file system writes past the page cache; false when it is not open. */
bool directory_writes_direct(const struct directory *directory);

/* Reads without creating: 0 when there is no marker, or none that can be believed. */
uint64_t marker_read(struct directory *directory);
enum status marker_open(struct directory *directory, struct err *err);
/* No fsync: kill -9 keeps it, and after a power loss an older marker is still a true one. */
enum status marker_write(struct directory *directory, uint64_t commit);

/* Makes a directory with a copy of RocksDB's files one of ours, whose marker says commit. */
enum status directory_describe(const char *path, uint64_t commit, struct err *err);

#endif
