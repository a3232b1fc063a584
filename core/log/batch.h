/* SPDX-License-Identifier: Apache-2.0 */
/* The RecordBatch v2 codec and the shared, immutable batch that caches, readers and deliveries
 * hold. Batches that peers built are checked completely before anything else sees them. */
#ifndef CORE_LOG_BATCH_H
#define CORE_LOG_BATCH_H

#include "core/base/blob.h"
#include "core/base/list.h"
#include "core/log/footer.h"
#include "core/log/record.h"

enum { BATCH_HEADER_SIZE = 61 };
enum batch_compression { BATCH_PLAIN, BATCH_GZIP, BATCH_SNAPPY, BATCH_LZ4, BATCH_ZSTD };

/* Immutable once made, apart from the base offset and append time that the log fills in before
 * sharing it. Reference counted across threads. */
struct batch {
    atomic_uint refs;
    uint32_t record_count; /* at least 1 */
    uint32_t offset_count; /* offsets the batch takes: more than record_count after a foreign
                              compaction */
    uint64_t partition;
    uint64_t base_offset;
    int64_t append_time_ms;
    uint64_t cumulative_bytes;
    uint64_t commit;        /* sequence of its append; 0: it was read back */
    struct blob *bytes;     /* as stored: header and (maybe compressed) records */
    struct blob *plain;     /* decompressed records, or NULL when bytes holds them plain */
    const uint8_t *records; /* the first record's first byte, in bytes or plain */
    size_t records_size;
    uint32_t *record_at; /* position of each record from records; record_count entries */
    struct span footer;  /* its labels (footer.h), in the blob of bytes behind their end; empty:
                          * none,  or not known */
    bool unlabelled;     /* no record carries a label */
    bool retains;        /* built here, and some record is to be retained */
    /* For whoever derives rows from a batch on its way to storage: what its maker says beside the
     * records. On the heap; the batch's; set before anybody else has it, and not changed. */
    uint8_t *notes;
    uint32_t notes_size;
    struct link in_tail; /* the tail cache's */
};

struct batch *batch_ref(struct batch *batch);
void batch_unref(struct batch *batch); /* NULL is fine */

/* Makes a batch from stored or received bytes (takes a reference of its own on bytes). Checks
 * length, magic, CRC, counts and every record's framing, decompresses (at most decompressed_max
 * bytes; 0: 32 MiB). MALFORMED, TOO_LARGE, UNSUPPORTED (compression), NO_MEMORY. */
enum status batch_open(struct blob *bytes, uint32_t decompressed_max, struct batch **batch);

/* Record number index (< record_count); offset = base_offset + its delta. Costs one varint walk. */
void batch_record(const struct batch *batch, uint32_t index, struct record *record);

static inline uint64_t batch_end(const struct batch *batch)
{
    return batch->base_offset + batch->offset_count;
}
/* Index of the first record at or after offset; record_count when there is none. */
uint32_t batch_find(const struct batch *batch, uint64_t offset);
/* Memory the batch holds, for budgets. */
size_t batch_charge(const struct batch *batch);

/* What a writer gives for one record; spans are borrowed for the call. */
struct record_input {
    int64_t timestamp_ms;
    uint8_t attributes;
    struct span key; /* data NULL: none */
    struct span value;
    const struct header *headers;
    uint32_t header_count;
    const struct header *more_headers; /* a second run, so that callers need not join arrays */
    uint32_t more_count;
};

/* Collects records of one partition; sealed into one batch. Reusable: seal leaves it empty. */
struct batch_builder {
    struct blob *bytes;    /* header space, then records; NULL until the first record */
    size_t size, capacity; /* of bytes */
    size_t last_size;      /* of the batch sealed before: where the next one begins to grow */
    uint32_t *record_at;
    uint32_t record_count, record_capacity;
    int64_t base_timestamp_ms, max_timestamp_ms;
    struct label_set labels;
    bool retains;
};

void batch_builder_init(struct batch_builder *builder);
void batch_builder_deinit(struct batch_builder *builder);
/* TOO_LARGE: the record is over LIMIT_RECORD_BYTES or LIMIT_HEADERS; NO_MEMORY. Nothing is added
 * then. Whoever calls sees to LIMIT_BATCH_BYTES and _RECORDS with batch_builder_is_full() before.
 */
enum status batch_builder_add(struct batch_builder *builder, const struct record_input *record);
/* What makes the same record once more; its headers, LIMIT_HEADERS at most, in room for that many.
 */
struct record_input record_input_of(const struct record *record, struct header *headers);
/* A record of another batch, headers and all; likewise. */
enum status batch_builder_copy(struct batch_builder *builder, const struct record *record);
/* Would a record of about that size still fit a batch of normal size? An empty builder takes
 * anything. */
bool batch_builder_is_full(const struct batch_builder *builder, size_t record_size);
/* One reference for the caller; NULL when empty. Bytes are complete, CRC included, base offset 0.
 */
struct batch *batch_builder_seal(struct batch_builder *builder);

#endif
