/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes as a RecordBatch. The CRC is made right first, or the fuzzer would stop at it;
 * what opens is read completely. */
#include "core/base/check.h"
#include "core/base/crc.h"
#include "core/base/pack.h"
#include "core/log/batch.h"
#include "tests/fuzz/fuzz.h"

static void read_all(const struct batch *batch)
{
    uint64_t next = batch->base_offset;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        CHECK(record.offset >= next && record.offset < batch_end(batch));
        CHECK(batch_find(batch, record.offset) == i);
        next = record.offset + 1;
        struct reader at = reader_of(record.headers);
        struct header header;
        uint32_t count = 0;
        while (record_next_header(&at, &header))
            count++;
        CHECK(!at.failed && count == record.header_count);
        struct span value;
        record_find(&record, HEADER_TOPIC, &value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct blob *blob = blob_copy(span_of(data, size));
    if (size >= BATCH_HEADER_SIZE) {
        store_u32(blob->bytes + 8, (uint32_t)size - 12);
        store_u32(blob->bytes + 17, crc32c(0, span_of(blob->bytes + 21, size - 21)));
    }
    struct batch *batch;
    if (batch_open(blob, 1u << 20, &batch) == STATUS_OK) {
        read_all(batch);
        batch_unref(batch);
    }
    blob_unref(blob);
    return 0;
}
