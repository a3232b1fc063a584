/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of both kinds of column family, and the engine's own rows in the state family. Pure codec.
 */
#ifndef STORAGE_ROCKSDB_KEYS_H
#define STORAGE_ROCKSDB_KEYS_H

#include "core/base/buf.h"
#include "storage/storage.h"

/* Log families: segment, partition, base offset, each u64 big-endian. */
enum { LOG_KEY_SIZE = 24 };
struct log_key {
    uint8_t bytes[LOG_KEY_SIZE];
};
struct log_key log_key_of(uint64_t segment, uint64_t partition, uint64_t offset);
bool log_key_parse(struct span key, uint64_t *segment, uint64_t *partition, uint64_t *offset);

/* State family: a first byte keeps the callers' rows apart from ours. */
enum { STATE_OURS = 0, STATE_CALLERS = 1 };
enum own_row { ROW_STORE = 1, ROW_COMMIT = 2, ROW_PARTITION = 3, ROW_INDEX = 4, ROW_CLASS = 5 };
enum { OWN_KEY_MAX = 27 };
struct own_key {
    uint8_t bytes[OWN_KEY_MAX];
    uint8_t size;
};
struct own_key store_row_key(void);
struct own_key commit_row_key(void);
struct own_key partition_row_key(enum storage_class class, uint64_t partition);
/* Segment before partition: one range delete forgets all that lies below a segment. */
struct own_key index_row_key(enum storage_class class, uint64_t segment, uint64_t partition);
struct own_key class_row_key(enum storage_class class);
bool class_row_key_parse(struct span key, enum storage_class *class);
bool partition_row_key_parse(struct span key, enum storage_class *class, uint64_t *partition);
bool index_row_key_parse(struct span key, enum storage_class *class, uint64_t *segment,
                         uint64_t *partition);
/* Sorts behind the index row of the same segment and partition, if there is one. */
struct own_key moved_row_key(enum storage_class class, uint64_t segment, uint64_t partition,
                             uint64_t first_offset);
bool moved_row_key_parse(struct span key, enum storage_class *class, uint64_t *segment,
                         uint64_t *partition);
static inline struct span own_key_span(const struct own_key *key)
{
    return span_of(key->bytes, key->size);
}

struct store_row {
    uint32_t format;
    uint32_t epoch; /* leader epoch: rises with every open after an unclean stop */
    bool clean;     /* closed in order; false while the store is open */
    bool bounded;   /* every partition has a row with a ceiling */
};

/* Written by trims and reservations. The end is as of the writing: what later segments say wins. */
struct partition_row {
    uint64_t start, end, bytes;
    int64_t last_time_ms;
    uint64_t reserved_end; /* interval partitions: no offset below it is given twice; 0: none */
    uint64_t last_segment; /* of a removed partition: where its last batches may lie */
    bool removed;
    uint64_t ceiling; /* no offset from here on was ever given out; 0: unknown */
};

/* What one partition has in one closed segment, or what was moved into a segment. Of rows that
 * overlap, the one with the highest segment is true: whatever moves goes into a later one. */
struct index_row {
    uint64_t first_offset;
    int64_t first_time_ms;
    uint64_t bytes_before;
    uint64_t end_offset;
    uint64_t bytes_after;
    int64_t last_time_ms;
};

/* Segments below kept_from were dropped, and what is left of them is to be ignored. */
struct class_row {
    uint64_t kept_from;
};

/* Encoders replace the content of to by the stored row. Decoders give CORRUPT or UNSUPPORTED. */
enum status store_row_encode(const struct store_row *row, struct buf *to);
enum status store_row_decode(struct span stored, struct store_row *row);
enum status commit_row_encode(uint64_t commit, struct buf *to);
enum status commit_row_decode(struct span stored, uint64_t *commit);
enum status partition_row_encode(struct span key, const struct partition_row *row, struct buf *to);
enum status partition_row_decode(struct span key, struct span stored, struct partition_row *row);
enum status class_row_encode(struct span key, const struct class_row *row, struct buf *to);
enum status class_row_decode(struct span key, struct span stored, struct class_row *row);
enum status index_row_encode(struct span key, const struct index_row *row, struct buf *to);
enum status index_row_decode(struct span key, struct span stored, struct index_row *row);

#endif
