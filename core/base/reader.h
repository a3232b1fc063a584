/* SPDX-License-Identifier: Apache-2.0 */
/* A cursor over borrowed bytes with a sticky failure: reads after the end give 0 and set failed, so
 * a decoder tests once per frame. Big-endian, as every protocol here is; varints as Kafka writes
 * them. */
#ifndef CORE_BASE_READER_H
#define CORE_BASE_READER_H

#include "core/base/span.h"

struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
};

static inline struct reader reader_of(struct span bytes)
{
    /* data may be NULL, to which not even 0 may be added. */
    const uint8_t *end = bytes.size == 0 ? bytes.data : bytes.data + bytes.size;
    return (struct reader){.at = bytes.data, .end = end, .failed = false};
}

static inline size_t reader_left(const struct reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

uint8_t reader_u8(struct reader *reader);
uint16_t reader_u16(struct reader *reader);
uint32_t reader_u32(struct reader *reader);
uint64_t reader_u64(struct reader *reader);
uint64_t reader_uvarint(struct reader *reader); /* unsigned LEB128, at most 10 bytes */
int64_t reader_varint(struct reader *reader);   /* zigzag */
struct span reader_bytes(struct reader *reader, size_t size); /* borrows from the input */
/* uvarint length, then bytes: the pair of pack_block. */
struct span reader_block(struct reader *reader);

#endif
