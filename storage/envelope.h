/* SPDX-License-Identifier: Apache-2.0 */
/* The stored form of batches and rows: what lies around a RecordBatch on disk, and the version, key
 * id and CRC of every state row. Pure codec. */
#ifndef STORAGE_ENVELOPE_H
#define STORAGE_ENVELOPE_H

#include "core/base/buf.h"
#include "core/base/span.h"

enum { ENVELOPE_VERSION = 1, ENVELOPE_SIZE = 64, ROW_OVERHEAD = 10 };

/* Value = envelope (fixed 64 bytes) + batch + footer. The CRC covers envelope (less itself) and
 * footer; the batch has its own CRC. Encryption key id and nonce are reserved (0). */
struct envelope {
    uint8_t flags;
    uint32_t leader_epoch;
    int64_t append_time_ms;
    uint64_t cumulative_bytes; /* of the partition, this value included */
    uint64_t principal;
    uint32_t record_count;
    uint32_t batch_size;
    uint32_t footer_size;
    uint32_t key_id;
};

void envelope_encode(const struct envelope *envelope, struct span footer,
                     uint8_t to[ENVELOPE_SIZE]);
/* Checks version, lengths against value.size, and CRC: CORRUPT or UNSUPPORTED (a newer version). */
enum status envelope_decode(struct span value, struct envelope *envelope, struct span *batch,
                            struct span *footer);

/* Row = version u8, flags u8, key id u32, CRC32C u32 (over key, the first six bytes and the value),
 * value. */
enum status row_encode(struct span key, struct span value, struct buf *to); /* appends */
enum status row_decode(struct span key, struct span stored, struct span *value);

#endif
