/* SPDX-License-Identifier: Apache-2.0 */
/* Building batches: each record is measured, then written straight to its place in the blob that
 * will be stored, so that sealing copies nothing. */
#include "core/base/check.h"
#include "core/base/crc.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/log/batch_layout.h"
#include "core/log/blob_grow.h"
#include "core/log/varint.h"

enum {
    CAPACITY_MIN = 512,
    CAPACITY_FIRST_MAX =
        64 * 1024,        /* a new batch begins with no more, however large the last one was */
    SLACK_MAX = 256,      /* unused bytes that are not worth giving back */
    RECORD_OVERHEAD = 64, /* more than the varints of a record without headers take */
};

void batch_builder_init(struct batch_builder *builder)
{
    *builder = (struct batch_builder){.last_size = CAPACITY_MIN};
}

void batch_builder_deinit(struct batch_builder *builder)
{
    blob_unref(builder->bytes);
    heap_free(builder->record_at);
    label_set_deinit(&builder->labels);
    batch_builder_init(builder);
}

bool batch_builder_is_full(const struct batch_builder *builder, size_t record_size)
{
    if (builder->record_count == 0)
        return false;
    return builder->record_count >= LIMIT_BATCH_RECORDS ||
           builder->size + record_size + RECORD_OVERHEAD > LIMIT_BATCH_BYTES;
}

static inline size_t block_size(struct span block)
{
    return block.data == NULL ? 1 : varint_size(zigzag((int64_t)block.size)) + block.size;
}

static inline size_t headers_size(const struct header *headers, uint32_t count)
{
    size_t size = 0;
    for (uint32_t i = 0; i < count; i++)
        size += varint_size(zigzag((int64_t)headers[i].name.size)) + headers[i].name.size +
                block_size(headers[i].value);
    return size;
}

static inline uint8_t *put_bytes(uint8_t *at, struct span bytes)
{
    at = varint_put(at, zigzag((int64_t)bytes.size));
    if (bytes.size != 0)
        memcpy(at, bytes.data, bytes.size);
    return at + bytes.size;
}

static inline uint8_t *put_block(uint8_t *at, struct span block)
{
    if (block.data != NULL)
        return put_bytes(at, block);
    *at = 1; /* zigzag of -1 */
    return at + 1;
}

static inline uint8_t *put_headers(uint8_t *at, const struct header *headers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        at = put_bytes(at, headers[i].name);
        at = put_block(at, headers[i].value);
    }
    return at;
}

/* Room for one more position and for size more bytes. */
static enum status builder_grow(struct batch_builder *builder, size_t size)
{
    if (builder->record_count == builder->record_capacity) {
        uint32_t capacity = builder->record_capacity == 0 ? 64 : builder->record_capacity * 2;
        uint32_t *record_at = heap_try_resize(builder->record_at, capacity * sizeof record_at[0]);
        if (record_at == NULL)
            return STATUS_NO_MEMORY;
        builder->record_at = record_at;
        builder->record_capacity = capacity;
    }
    if (builder->bytes != NULL && size <= builder->capacity - builder->size)
        return STATUS_OK;
    size_t used = builder->bytes != NULL ? builder->size : BATCH_HEADER_SIZE;
    size_t capacity = builder->bytes != NULL ? builder->capacity * 2 : builder->last_size;
    if (capacity < used + size)
        capacity = used + size;
    if (used + size > INT32_MAX)
        return STATUS_TOO_LARGE;
    struct blob *bytes =
        builder->bytes != NULL ? blob_try_resize(builder->bytes, capacity) : blob_try(capacity);
    if (bytes == NULL)
        return STATUS_NO_MEMORY;
    builder->bytes = bytes;
    builder->size = used;
    builder->capacity = capacity;
    return STATUS_OK;
}

/* Looks at sizes first, so that records without labels pay next to nothing. */
static inline void collect_labels(struct label_set *labels, const struct header *headers,
                                  uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (headers[i].name.size == sizeof HEADER_LABELS - 1 &&
            memcmp(headers[i].name.data, HEADER_LABELS, sizeof HEADER_LABELS - 1) == 0)
            label_set_add(labels, headers[i].value);
}

enum status batch_builder_add(struct batch_builder *builder, const struct record_input *record)
{
    uint32_t header_count = record->header_count + record->more_count;
    if (record->header_count > LIMIT_HEADERS || record->more_count > LIMIT_HEADERS ||
        header_count > LIMIT_HEADERS)
        return STATUS_TOO_LARGE;
    int64_t base = builder->record_count == 0 ? record->timestamp_ms : builder->base_timestamp_ms;
    uint64_t timestamp = zigzag((int64_t)((uint64_t)record->timestamp_ms - (uint64_t)base));
    uint64_t offset = zigzag(builder->record_count);
    uint64_t headers = zigzag(header_count);
    size_t size = 1 + varint_size(timestamp) + varint_size(offset) + block_size(record->key) +
                  block_size(record->value) + varint_size(headers) +
                  headers_size(record->headers, record->header_count) +
                  headers_size(record->more_headers, record->more_count);
    size_t total = varint_size(zigzag((int64_t)size)) + size;
    if (total > LIMIT_RECORD_BYTES)
        return STATUS_TOO_LARGE;
    if (builder->bytes == NULL || total > builder->capacity - builder->size ||
        builder->record_count == builder->record_capacity) {
        enum status status = builder_grow(builder, total);
        if (status != STATUS_OK)
            return status;
    }

    uint8_t *at = builder->bytes->bytes + builder->size;
    at = varint_put(at, zigzag((int64_t)size));
    *at++ = record->attributes;
    at = varint_put(at, timestamp);
    at = varint_put(at, offset);
    at = put_block(at, record->key);
    at = put_block(at, record->value);
    at = varint_put(at, headers);
    at = put_headers(at, record->headers, record->header_count);
    put_headers(at, record->more_headers, record->more_count);
    collect_labels(&builder->labels, record->headers, record->header_count);
    collect_labels(&builder->labels, record->more_headers, record->more_count);

    builder->record_at[builder->record_count] = (uint32_t)(builder->size - BATCH_HEADER_SIZE);
    builder->size += total;
    if (builder->record_count == 0 || record->timestamp_ms > builder->max_timestamp_ms)
        builder->max_timestamp_ms = record->timestamp_ms;
    builder->base_timestamp_ms = base;
    builder->retains |= (record->attributes & RECORD_RETAIN) != 0;
    builder->record_count++;
    return STATUS_OK;
}

static void header_write(const struct batch_builder *builder, uint8_t *at)
{
    store_u64(at + AT_BASE_OFFSET, 0);
    store_u32(at + AT_LENGTH, (uint32_t)builder->size - AT_LENGTH_END);
    store_u32(at + AT_LEADER_EPOCH, 0);
    at[AT_MAGIC] = BATCH_MAGIC;
    store_u16(at + AT_ATTRIBUTES, BATCH_PLAIN);
    store_u32(at + AT_LAST_OFFSET_DELTA, builder->record_count - 1);
    store_u64(at + AT_BASE_TIMESTAMP, (uint64_t)builder->base_timestamp_ms);
    store_u64(at + AT_MAX_TIMESTAMP, (uint64_t)builder->max_timestamp_ms);
    store_u64(at + AT_PRODUCER_ID, UINT64_MAX); /* -1, like the next two: no idempotent producer */
    store_u16(at + AT_PRODUCER_EPOCH, UINT16_MAX);
    store_u32(at + AT_BASE_SEQUENCE, UINT32_MAX);
    store_u32(at + AT_RECORD_COUNT, builder->record_count);
    struct span covered = span_of(at + AT_CRC_END, builder->size - AT_CRC_END);
    store_u32(at + AT_CRC, crc32c(0, covered));
}

/* The blob as it is when nearly full; else its unused end goes back to the heap, because caches
 * keep it. The footer goes behind its end; without memory for it there is none. */
static void builder_give_bytes(struct batch_builder *builder, struct batch *batch)
{
    struct blob *bytes = builder->bytes;
    size_t footer = footer_size(&builder->labels), size = builder->size + footer;
    bool fits = size <= builder->capacity;
    size_t slack = fits ? builder->capacity - size : 0;
    if (!fits || (slack > SLACK_MAX && slack > size / 8)) {
        struct blob *fitting = blob_try_resize(bytes, size);
        if (fitting != NULL)
            bytes = fitting;
        fits |= fitting != NULL;
    }
    bytes->size = (uint32_t)builder->size;
    if (footer > 0 && fits) {
        batch->footer = span_of(bytes->bytes + builder->size, footer);
        footer_encode(&builder->labels, bytes->bytes + builder->size);
    }
    batch->unlabelled = builder->labels.count == 0;
    batch->bytes = bytes;
}

struct record_input record_input_of(const struct record *record, struct header *headers)
{
    struct record_input input = {
        .timestamp_ms = record->timestamp_ms,
        .attributes = record->attributes,
        .key = record->key,
        .value = record->value,
        .headers = headers,
    };
    struct reader at = reader_of(record->headers);
    while (input.header_count < LIMIT_HEADERS &&
           record_next_header(&at, &headers[input.header_count]))
        input.header_count++;
    return input;
}

enum status batch_builder_copy(struct batch_builder *builder, const struct record *record)
{
    struct header headers[LIMIT_HEADERS];
    struct record_input input = record_input_of(record, headers);
    return batch_builder_add(builder, &input);
}

struct batch *batch_builder_seal(struct batch_builder *builder)
{
    if (builder->record_count == 0)
        return NULL;
    struct batch *batch = batch_try(builder->record_count);
    CHECK(batch != NULL);
    header_write(builder, builder->bytes->bytes);
    builder_give_bytes(builder, batch);
    batch->offset_count = builder->record_count;
    batch->retains = builder->retains;
    batch->records = batch->bytes->bytes + BATCH_HEADER_SIZE;
    batch->records_size = builder->size - BATCH_HEADER_SIZE;
    memcpy(batch->record_at, builder->record_at,
           builder->record_count * sizeof batch->record_at[0]);

    size_t next = builder->size + builder->size / 8;
    builder->last_size = next < CAPACITY_MIN         ? CAPACITY_MIN
                         : next > CAPACITY_FIRST_MAX ? CAPACITY_FIRST_MAX
                                                     : next;
    builder->bytes = NULL;
    builder->size = builder->capacity = 0;
    builder->record_count = 0;
    builder->retains = false;
    label_set_clear(&builder->labels);
    return batch;
}
