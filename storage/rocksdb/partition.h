/* SPDX-License-Identifier: Apache-2.0 */
/* The partitions of an open store and their sparse index: which segments hold which offsets. The
 * writer alone changes the set; whoever else looks takes the lock and copies what it needs. */
#ifndef STORAGE_ROCKSDB_PARTITION_H
#define STORAGE_ROCKSDB_PARTITION_H

#include <pthread.h>

#include "core/base/map.h"
#include "storage/rocksdb/keys.h"

enum { PARTITION_KEY_SIZE = 9 };

/* Where the part of a partition that lies in one segment begins. */
struct index_entry {
    uint64_t segment;
    uint64_t first_offset;
    int64_t first_time_ms;
    uint64_t bytes_before;
};

struct partition {
    uint8_t key[PARTITION_KEY_SIZE];
    uint64_t id;
    enum storage_class class;

    /* How far the writer has given out: it reads them freely and changes them under index.lock. */
    uint64_t next_offset, bytes;
    int64_t last_time_ms;

    /* The writer's own. */
    uint64_t last_ticket;     /* of the last append that completes through the syncer */
    uint64_t reserved_end;    /* interval: reserved by a row in commit reserved_commit */
    uint64_t reserved_before; /* interval: reserved by a row that was synced earlier */
    uint64_t reserved_commit;

    /* Under index.lock: what readers may see. */
    uint64_t start, end, end_bytes;
    int64_t end_time_ms;
    bool start_known; /* the next two are those of the first batch kept */
    uint64_t start_bytes;
    int64_t start_time_ms;
    bool removed;
    uint64_t last_segment; /* of a removed partition */
    struct index_entry *entries;
    size_t count, capacity;
};

struct index {
    pthread_mutex_t lock;
    struct map partitions;
};

/* What lies of a partition in one segment: [first_offset, end_offset). */
struct slice {
    uint64_t segment;
    uint64_t first_offset, end_offset;
    uint64_t bytes;
};

void index_init(struct index *index);
void index_deinit(struct index *index);

/* With the lock held, or by the writer. NULL when unknown; make never gives NULL and belongs to the
 * writer. */
struct partition *index_find(const struct index *index, uint64_t id, enum storage_class class);
struct partition *index_make(struct index *index, uint64_t id, enum storage_class class);
/* The same without what was removed. */
struct partition *index_find_live(const struct index *index, uint64_t id, enum storage_class class);
void index_forget(struct index *index, struct partition *partition); /* takes the lock; frees */

/* All below: with the lock held. */
void partition_add_entry(struct partition *partition, const struct index_entry *entry);
void partition_set_start(struct partition *partition, uint64_t start);
/* start_bytes and start_time_ms, when the index alone can tell. */
bool partition_know_start(struct partition *partition);
/* The last entry for which the wanted batch can still lie behind its beginning. */
size_t partition_entry_by_offset(const struct partition *partition, uint64_t offset);
size_t partition_entry_by_time(const struct partition *partition, int64_t time_ms);
size_t partition_entry_by_bytes(const struct partition *partition, uint64_t bytes_before);
struct slice partition_slice(const struct partition *partition, size_t entry);

#endif
