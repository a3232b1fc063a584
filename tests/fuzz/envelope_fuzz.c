/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes as a stored batch and as a stored row. The first byte chooses whether the CRC is
 * made right first; what decodes must encode to the same bytes. */
#include "core/base/check.h"
#include "core/base/crc.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "storage/envelope.h"
#include "tests/fuzz/fuzz.h"

enum { MEND_CRC = 1, ENVELOPE_CRC_AT = 60, ROW_CRC_AT = 6, KEY_SIZE = 4 };

static void mend_envelope(uint8_t *value, size_t size)
{
    uint32_t footer_size = load_u32(value + 40);
    if (footer_size > size - ENVELOPE_SIZE)
        footer_size = 0;
    uint32_t crc = crc32c(0, span_of(value, ENVELOPE_CRC_AT));
    crc = crc32c(crc, span_of(value + size - footer_size, footer_size));
    store_u32(value + ENVELOPE_CRC_AT, crc);
}

static void check_envelope(struct span value)
{
    struct envelope envelope, again;
    struct span batch, footer;
    if (envelope_decode(value, &envelope, &batch, &footer) != STATUS_OK)
        return;
    CHECK(batch.data == value.data + ENVELOPE_SIZE);
    CHECK(footer.data + footer.size == value.data + value.size);
    uint8_t *copy = heap_new(value.size);
    memcpy(copy, value.data, value.size);
    envelope_encode(&envelope, footer, copy);
    CHECK(envelope_decode(span_of(copy, value.size), &again, &batch, &footer) == STATUS_OK);
    uint8_t head[ENVELOPE_SIZE];
    envelope_encode(&again, footer, head);
    CHECK(memcmp(head, copy, sizeof head) == 0);
    heap_free(copy);
}

static void check_row(struct span key, struct span stored)
{
    struct span value;
    struct buf again;
    if (row_decode(key, stored, &value) != STATUS_OK)
        return;
    buf_init(&again, stored.size);
    CHECK(row_encode(key, value, &again) == STATUS_OK);
    struct span decoded;
    CHECK(row_decode(key, buf_span(&again), &decoded) == STATUS_OK && span_equal(value, decoded));
    buf_deinit(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + KEY_SIZE)
        return 0;
    bool mend = (data[0] & MEND_CRC) != 0;
    struct span key = span_of(data + 1, KEY_SIZE);
    size_t rest = size - 1 - KEY_SIZE;
    uint8_t *bytes = heap_new(rest + 1);
    memcpy(bytes, data + 1 + KEY_SIZE, rest);
    if (mend && rest >= ENVELOPE_SIZE)
        mend_envelope(bytes, rest);
    check_envelope(span_of(bytes, rest));
    memcpy(bytes, data + 1 + KEY_SIZE, rest);
    if (mend && rest >= ROW_OVERHEAD) {
        uint32_t crc = crc32c(crc32c(0, key), span_of(bytes, ROW_CRC_AT));
        store_u32(bytes + ROW_CRC_AT,
                  crc32c(crc, span_of(bytes + ROW_OVERHEAD, rest - ROW_OVERHEAD)));
    }
    check_row(key, span_of(bytes, rest));
    heap_free(bytes);
    return 0;
}
