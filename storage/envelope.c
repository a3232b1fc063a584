/* SPDX-License-Identifier: Apache-2.0 */
/* The stored form of batches and rows: fixed big-endian layouts, each under its own CRC. */
#include "storage/envelope.h"

#include "core/base/crc.h"
#include "core/base/pack.h"

/* Layout: 0 version, 1 flags, 2 zero, 4 leader epoch, 8 append time, 16 cumulative bytes, 24
 * principal, 32 record count, 36 batch size, 40 footer size, 44 key id, 48 nonce (12 bytes, zero),
 * 60 CRC. */
enum { CRC_AT = 60, ROW_CRC_AT = 6 };

static uint32_t envelope_crc(const uint8_t *bytes, struct span footer)
{
    return crc32c(crc32c(0, span_of(bytes, CRC_AT)), footer);
}

void envelope_encode(const struct envelope *envelope, struct span footer, uint8_t to[ENVELOPE_SIZE])
{
    memset(to, 0, ENVELOPE_SIZE);
    to[0] = ENVELOPE_VERSION;
    to[1] = envelope->flags;
    store_u32(to + 4, envelope->leader_epoch);
    store_u64(to + 8, (uint64_t)envelope->append_time_ms);
    store_u64(to + 16, envelope->cumulative_bytes);
    store_u64(to + 24, envelope->principal);
    store_u32(to + 32, envelope->record_count);
    store_u32(to + 36, envelope->batch_size);
    store_u32(to + 40, envelope->footer_size);
    store_u32(to + 44, envelope->key_id);
    store_u32(to + CRC_AT, envelope_crc(to, footer));
}

enum status envelope_decode(struct span value, struct envelope *envelope, struct span *batch,
                            struct span *footer)
{
    if (value.size < ENVELOPE_SIZE || value.data[0] == 0)
        return STATUS_CORRUPT;
    const uint8_t *from = value.data;
    if (from[0] > ENVELOPE_VERSION)
        return STATUS_UNSUPPORTED;
    *envelope = (struct envelope){
        .flags = from[1],
        .leader_epoch = load_u32(from + 4),
        .append_time_ms = (int64_t)load_u64(from + 8),
        .cumulative_bytes = load_u64(from + 16),
        .principal = load_u64(from + 24),
        .record_count = load_u32(from + 32),
        .batch_size = load_u32(from + 36),
        .footer_size = load_u32(from + 40),
        .key_id = load_u32(from + 44),
    };
    if ((uint64_t)ENVELOPE_SIZE + envelope->batch_size + envelope->footer_size != value.size)
        return STATUS_CORRUPT;
    *batch = span_of(from + ENVELOPE_SIZE, envelope->batch_size);
    *footer = span_of(from + ENVELOPE_SIZE + envelope->batch_size, envelope->footer_size);
    return envelope_crc(from, *footer) == load_u32(from + CRC_AT) ? STATUS_OK : STATUS_CORRUPT;
}

static uint32_t row_crc(struct span key, const uint8_t *head, struct span value)
{
    return crc32c(crc32c(crc32c(0, key), span_of(head, ROW_CRC_AT)), value);
}

enum status row_encode(struct span key, struct span value, struct buf *to)
{
    uint8_t head[ROW_OVERHEAD] = {ENVELOPE_VERSION};
    store_u32(head + ROW_CRC_AT, row_crc(key, head, value));
    enum status status = buf_reserve(to, sizeof head + value.size);
    if (status == STATUS_OK)
        status = buf_append(to, head, sizeof head);
    if (status == STATUS_OK)
        status = buf_append(to, value.data, value.size);
    return status;
}

enum status row_decode(struct span key, struct span stored, struct span *value)
{
    if (stored.size < ROW_OVERHEAD || stored.data[0] == 0)
        return STATUS_CORRUPT;
    if (stored.data[0] > ENVELOPE_VERSION)
        return STATUS_UNSUPPORTED;
    *value = span_from(stored, ROW_OVERHEAD);
    uint32_t crc = row_crc(key, stored.data, *value);
    return crc == load_u32(stored.data + ROW_CRC_AT) ? STATUS_OK : STATUS_CORRUPT;
}
