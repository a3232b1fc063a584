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
    int64_t first_time_ms; /* not above that of the first batch; the same when exact */
    uint64_t bytes_before;
    bool exact;
    bool stuck; /* has a batch that cannot be read, so it is not moved */
};

/* How many entries of all partitions of a class lie in each segment, from base on. */
struct segments {
    uint64_t base;
    uint32_t *uses;
    size_t count, capacity;
};

struct partition {
    uint8_t key[PARTITION_KEY_SIZE];
    uint64_t id;
    enum storage_class class;
    struct segments *segments; /* of its class */

    /* How far the writer has given out: it reads them freely and changes them under index.lock. */
    uint64_t next_offset, bytes;
    int64_t last_time_ms;

    /* The writer's own. */
    uint64_t last_ticket;     /* of the last append that completes through the syncer */
    uint64_t ceiling;         /* as in the partition's row */
    uint64_t reserved_end;    /* interval: reserved by a row in commit reserved_commit */
    uint64_t reserved_before; /* interval: reserved by a row that was synced earlier */
    uint64_t reserved_commit;
    uint64_t indexed_end; /* at the open: where the rows of the index end */

    /* Under index.lock: what readers may see. */
    uint64_t start, end, end_bytes;
    int64_t end_time_ms;
    bool start_known; /* the next two are those of the first batch kept */
    uint64_t start_bytes;
    int64_t start_time_ms;
    bool removed;
    uint64_t last_segment;       /* of a removed partition */
    struct index_entry *entries; /* in offset order; after a move not in segment order */
    size_t count, capacity;
};

struct index {
    pthread_mutex_t lock;
    struct map partitions;
    struct segments segments[STORAGE_CLASSES];
    uint64_t commit; /* the last one that made a segment less needed: a trim or a move */
};

/* What lies of a partition in one segment: [first_offset, end_offset). */
struct slice {
    uint64_t segment;
    uint64_t first_offset, end_offset;
    uint64_t bytes_before, bytes;
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
/* The range lies in segment from now on, whatever was there before. */
void partition_place(struct partition *partition, const struct index_row *range, uint64_t segment);
/* Of a slice, what lies above the start; a guess when the start is inside it and was not looked up.
 */
uint64_t partition_live_bytes(const struct partition *partition, size_t entry);
/* start_bytes and start_time_ms, when the index alone can tell. */
bool partition_know_start(struct partition *partition);
/* The last entry for which the wanted batch can still lie behind its beginning. */
size_t partition_entry_by_offset(const struct partition *partition, uint64_t offset);
size_t partition_entry_by_time(const struct partition *partition, int64_t time_ms);
size_t partition_entry_by_bytes(const struct partition *partition, uint64_t bytes_before);
struct slice partition_slice(const struct partition *partition, size_t entry);

/* The lowest segment that some entry lies in, or none. */
uint64_t segments_lowest(const struct segments *segments, uint64_t none);
/* The next run [first, end) below limit that no entry lies in, from *end on. */
bool segments_next_hole(const struct segments *segments, uint64_t limit, uint64_t *first,
                        uint64_t *end);
bool segments_has(const struct segments *segments, uint64_t segment);
void segments_forget(struct segments *segments, uint64_t below); /* what lies there is unused */

#endif
