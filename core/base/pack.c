/* SPDX-License-Identifier: Apache-2.0 */
/* Appends with one test of the sticky status per value. */
#include "core/base/pack.h"

/* Room for size bytes that the caller fills, or NULL with the failure remembered. */
static uint8_t *pack_room(struct pack *pack, size_t size)
{
    if (pack->status != STATUS_OK)
        return NULL;
    struct buf *buf = pack->buf;
    pack->status = buf_reserve(buf, size);
    if (pack->status != STATUS_OK)
        return NULL;
    uint8_t *at = buf->data + buf->size;
    buf->size += size;
    return at;
}

void pack_u8(struct pack *pack, uint8_t value)
{
    uint8_t *at = pack_room(pack, sizeof value);
    if (at != NULL)
        *at = value;
}

void pack_u16(struct pack *pack, uint16_t value)
{
    uint8_t *at = pack_room(pack, sizeof value);
    if (at != NULL)
        store_u16(at, value);
}

void pack_u32(struct pack *pack, uint32_t value)
{
    uint8_t *at = pack_room(pack, sizeof value);
    if (at != NULL)
        store_u32(at, value);
}

void pack_u64(struct pack *pack, uint64_t value)
{
    uint8_t *at = pack_room(pack, sizeof value);
    if (at != NULL)
        store_u64(at, value);
}

void pack_uvarint(struct pack *pack, uint64_t value)
{
    uint8_t bytes[10];
    size_t size = 0;
    for (; value >= 0x80; value >>= 7)
        bytes[size++] = (uint8_t)(value | 0x80);
    bytes[size++] = (uint8_t)value;
    pack_bytes(pack, span_of(bytes, size));
}

void pack_varint(struct pack *pack, int64_t value)
{
    pack_uvarint(pack, ((uint64_t)value << 1) ^ (uint64_t)(value >> 63));
}

void pack_bytes(struct pack *pack, struct span bytes)
{
    if (pack->status == STATUS_OK)
        pack->status = buf_append(pack->buf, bytes.data, bytes.size);
}

void pack_block(struct pack *pack, struct span bytes)
{
    pack_uvarint(pack, bytes.size);
    pack_bytes(pack, bytes);
}
