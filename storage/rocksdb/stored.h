/* SPDX-License-Identifier: Apache-2.0 */
/* A cursor over the stored batches of one slice of a partition; nothing it gives out is unchecked.
 */
#ifndef STORAGE_ROCKSDB_STORED_H
#define STORAGE_ROCKSDB_STORED_H

#include "storage/envelope.h"
#include "storage/rocksdb/engine.h"

struct cursor {
    rocksdb_readoptions_t *options;
    rocksdb_iterator_t *iterator;
    struct log_key lower, upper;
    uint64_t segment, partition, first_offset;
};

struct stored {
    uint64_t base_offset;
    struct envelope envelope;
    struct span value, batch; /* borrow from the cursor until it moves */
};

/* The cursor stays where it is in memory until it is closed: RocksDB borrows its bounds. */
void cursor_open(struct cursor *cursor, struct engine *engine, enum storage_class class,
                 uint64_t partition, const struct slice *slice);
void cursor_close(struct cursor *cursor);
/* OK, or CORRUPT when the block cannot be read. Whether there is a batch says cursor_at. */
enum status cursor_seek(struct cursor *cursor, uint64_t offset); /* first base >= offset */
enum status cursor_seek_before(struct cursor *cursor,
                               uint64_t offset); /* last base <= offset, else first */
/* The batch that holds offset, or the first behind it. */
enum status cursor_seek_holding(struct cursor *cursor, uint64_t offset);
enum status cursor_next(struct cursor *cursor);
bool cursor_at(const struct cursor *cursor, uint64_t *base_offset);
/* CORRUPT when the envelope does not hold; the batch itself is checked by stored_check. */
enum status cursor_get(const struct cursor *cursor, struct stored *stored);
enum status stored_check(const struct stored *stored);

#endif
