/* SPDX-License-Identifier: Apache-2.0 */
/* The writing side of reader.h: appends big-endian numbers, varints and blocks to a buf. Failure is
 * sticky in pack.status, tested once at the end. Stored rows and keys are written with it. */
#ifndef CORE_BASE_PACK_H
#define CORE_BASE_PACK_H

#include "core/base/buf.h"

struct pack {
    struct buf *buf;
    enum status status;
};

static inline struct pack pack_into(struct buf *buf)
{
    return (struct pack){.buf = buf, .status = STATUS_OK};
}

void pack_u8(struct pack *pack, uint8_t value);
void pack_u16(struct pack *pack, uint16_t value);
void pack_u32(struct pack *pack, uint32_t value);
void pack_u64(struct pack *pack, uint64_t value);
void pack_uvarint(struct pack *pack, uint64_t value);
void pack_varint(struct pack *pack, int64_t value);
void pack_bytes(struct pack *pack, struct span bytes);
void pack_block(struct pack *pack, struct span bytes); /* uvarint length, then bytes */

/* Unchecked big-endian stores and loads on memory whose size the caller knows. */
static inline void store_u16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}
static inline void store_u32(uint8_t *at, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(at, &value, sizeof value);
}
static inline void store_u64(uint8_t *at, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(at, &value, sizeof value);
}
static inline uint16_t load_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}
static inline uint32_t load_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return __builtin_bswap32(value);
}
static inline uint64_t load_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return __builtin_bswap64(value);
}

#endif
