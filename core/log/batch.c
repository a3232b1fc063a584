/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and reading RecordBatch v2 (KIP-98). Everything is checked once, when a batch is opened,
 * so that readers walk it without doubt. */
#include "core/log/batch.h"

#include "core/base/check.h"
#include "core/base/crc.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/log/batch_layout.h"
#include "core/log/compress.h"
#include "core/log/varint.h"

enum { DECOMPRESSED_MAX = 32 * 1024 * 1024 };

struct batch *batch_ref(struct batch *batch)
{
    atomic_fetch_add_explicit(&batch->refs, 1, memory_order_relaxed);
    return batch;
}

void batch_unref(struct batch *batch)
{
    if (batch == NULL)
        return;
    unsigned before = atomic_fetch_sub_explicit(&batch->refs, 1, memory_order_acq_rel);
    CHECK(before != 0);
    if (before != 1)
        return;
    blob_unref(batch->bytes);
    blob_unref(batch->plain);
    heap_free(batch->notes);
    heap_free(batch);
}

size_t batch_charge(const struct batch *batch)
{
    size_t charge = sizeof *batch + batch->record_count * sizeof batch->record_at[0];
    charge += batch->notes_size;
    charge += sizeof *batch->bytes + batch->bytes->size + batch->footer.size;
    if (batch->plain != NULL)
        charge += sizeof *batch->plain + batch->plain->size;
    return charge;
}

/* What one walk over a record's bytes finds. */
struct framing {
    uint8_t attributes;
    int64_t timestamp_delta;
    int64_t offset_delta;
    struct span key, value;
    int64_t header_count;
    const uint8_t *headers;
    const uint8_t *end;
};

/* A nullable block: length -1 and nothing, or a length and its bytes. */
static inline const uint8_t *take_block(const uint8_t *at, const uint8_t *end, struct span *block)
{
    int64_t size;
    at = varint_take(at, end, &size);
    if (at == NULL || size < -1 || size > end - at)
        return NULL;
    if (size < 0) {
        *block = (struct span){0};
        return at;
    }
    *block = span_of(at, (size_t)size);
    return at + size;
}

static inline bool record_walk(const uint8_t *at, const uint8_t *end, struct framing *framing)
{
    int64_t size;
    at = varint_take(at, end, &size);
    if (at == NULL || size < RECORD_SIZE_MIN - 1 || size > end - at)
        return false;
    framing->end = end = at + size;
    framing->attributes = *at++;
    if ((at = varint_take(at, end, &framing->timestamp_delta)) == NULL ||
        (at = varint_take(at, end, &framing->offset_delta)) == NULL ||
        (at = take_block(at, end, &framing->key)) == NULL ||
        (at = take_block(at, end, &framing->value)) == NULL ||
        (at = varint_take(at, end, &framing->header_count)) == NULL)
        return false;
    framing->headers = at;
    return true;
}

static bool headers_are_good(const struct framing *framing)
{
    struct reader at =
        reader_of(span_of(framing->headers, (size_t)(framing->end - framing->headers)));
    struct header header;
    int64_t count = 0;
    while (record_next_header(&at, &header))
        count++;
    return !at.failed && count == framing->header_count;
}

/* Fills record_at while it checks every record; offsets must rise and stay within the batch's. */
static enum status batch_index(struct batch *batch)
{
    const uint8_t *at = batch->records;
    const uint8_t *end = at + batch->records_size;
    int64_t previous = -1;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct framing framing;
        if (!record_walk(at, end, &framing) || framing.offset_delta <= previous ||
            framing.offset_delta >= (int64_t)batch->offset_count)
            return STATUS_MALFORMED;
        if (framing.end - at > LIMIT_RECORD_BYTES || framing.header_count > (int64_t)LIMIT_HEADERS)
            return STATUS_TOO_LARGE;
        if (!headers_are_good(&framing))
            return STATUS_MALFORMED;
        previous = framing.offset_delta;
        batch->record_at[i] = (uint32_t)(at - batch->records);
        at = framing.end;
    }
    return at == end ? STATUS_OK : STATUS_MALFORMED;
}

/* The fields that every later step relies on. */
static enum status header_check(const struct blob *bytes)
{
    const uint8_t *at = bytes->bytes;
    if (bytes->size < BATCH_HEADER_SIZE || bytes->size > INT32_MAX ||
        load_u32(at + AT_LENGTH) != bytes->size - AT_LENGTH_END)
        return STATUS_MALFORMED;
    if (at[AT_MAGIC] != BATCH_MAGIC)
        return STATUS_MALFORMED;
    if (crc32c(0, span_from(blob_span(bytes), AT_CRC_END)) != load_u32(at + AT_CRC))
        return STATUS_MALFORMED;
    uint64_t base = load_u64(at + AT_BASE_OFFSET);
    uint32_t last_delta = load_u32(at + AT_LAST_OFFSET_DELTA);
    if (last_delta > INT32_MAX || base > (uint64_t)INT64_MAX - last_delta - 1)
        return STATUS_MALFORMED;
    if ((load_u16(at + AT_ATTRIBUTES) & ATTRIBUTE_COMPRESSION) > BATCH_ZSTD)
        return STATUS_UNSUPPORTED;
    return STATUS_OK;
}

enum status batch_open(struct blob *bytes, uint32_t decompressed_max, struct batch **opened)
{
    enum status status = header_check(bytes);
    if (status != STATUS_OK)
        return status;
    uint16_t attributes = load_u16(bytes->bytes + AT_ATTRIBUTES);
    enum batch_compression compression =
        (enum batch_compression)(attributes & ATTRIBUTE_COMPRESSION);
    struct span records =
        span_of(bytes->bytes + BATCH_HEADER_SIZE, bytes->size - BATCH_HEADER_SIZE);
    struct blob *plain = NULL;
    if (compression != BATCH_PLAIN) {
        uint32_t max = decompressed_max != 0 ? decompressed_max : DECOMPRESSED_MAX;
        status = decompress(compression, records, max, &plain);
        if (status != STATUS_OK)
            return status;
        records = blob_span(plain);
    }

    /* The count is checked against the bytes before it sizes anything. */
    uint32_t count = load_u32(bytes->bytes + AT_RECORD_COUNT);
    struct batch *batch = NULL;
    if (count == 0 || count > records.size / RECORD_SIZE_MIN)
        status = STATUS_MALFORMED;
    else if ((batch = batch_try(count)) == NULL)
        status = STATUS_NO_MEMORY;
    if (status != STATUS_OK) {
        blob_unref(plain);
        return status;
    }
    batch->offset_count = load_u32(bytes->bytes + AT_LAST_OFFSET_DELTA) + 1;
    batch->base_offset = load_u64(bytes->bytes + AT_BASE_OFFSET);
    batch->bytes = blob_ref(bytes);
    batch->plain = plain;
    batch->records = records.data;
    batch->records_size = records.size;
    status = batch_index(batch);
    if (status != STATUS_OK)
        batch_unref(batch);
    else
        *opened = batch;
    return status;
}

struct batch *batch_try(uint32_t record_count)
{
    struct batch *batch = heap_try(sizeof *batch + record_count * sizeof batch->record_at[0]);
    if (batch == NULL)
        return NULL;
    *batch =
        (struct batch){.record_count = record_count, .record_at = (uint32_t *)(void *)(batch + 1)};
    atomic_init(&batch->refs, 1);
    return batch;
}

void batch_record(const struct batch *batch, uint32_t index, struct record *record)
{
    CHECK(index < batch->record_count);
    const uint8_t *at = batch->records + batch->record_at[index];
    struct framing framing;
    CHECK(record_walk(at, batch->records + batch->records_size, &framing));
    const uint8_t *header = batch->bytes->bytes;
    uint64_t timestamp = load_u64(header + AT_BASE_TIMESTAMP) + (uint64_t)framing.timestamp_delta;
    if ((load_u16(header + AT_ATTRIBUTES) & ATTRIBUTE_LOG_APPEND_TIME) != 0)
        timestamp = load_u64(header + AT_MAX_TIMESTAMP);
    *record = (struct record){
        .offset = batch->base_offset + (uint64_t)framing.offset_delta,
        .timestamp_ms = (int64_t)timestamp,
        .append_time_ms = batch->append_time_ms,
        .attributes = framing.attributes,
        .key = framing.key,
        .value = framing.value,
        .headers = span_of(framing.headers, (size_t)(framing.end - framing.headers)),
        .header_count = (uint32_t)framing.header_count,
    };
}

static uint64_t offset_at(const struct batch *batch, uint32_t index)
{
    struct record record;
    batch_record(batch, index, &record);
    return record.offset;
}

uint32_t batch_find(const struct batch *batch, uint64_t offset)
{
    if (offset <= batch->base_offset)
        return 0;
    if (offset >= batch_end(batch))
        return batch->record_count;
    if (batch->record_count == batch->offset_count)
        return (uint32_t)(offset - batch->base_offset);
    uint32_t low = 0, high = batch->record_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (offset_at(batch, middle) < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
