/* SPDX-License-Identifier: Apache-2.0 */
/* Checked reads. A failed reader stands at the end, so that every later read fails by itself. */
#include "core/base/reader.h"

#include "core/base/pack.h"

static const uint8_t *reader_take(struct reader *reader, size_t size)
{
    if (size > reader_left(reader)) {
        reader->failed = true;
        reader->at = reader->end;
        return NULL;
    }
    const uint8_t *at = reader->at;
    reader->at += size;
    return at;
}

uint8_t reader_u8(struct reader *reader)
{
    const uint8_t *at = reader_take(reader, 1);
    return at != NULL ? *at : 0;
}

uint16_t reader_u16(struct reader *reader)
{
    const uint8_t *at = reader_take(reader, 2);
    return at != NULL ? load_u16(at) : 0;
}

uint32_t reader_u32(struct reader *reader)
{
    const uint8_t *at = reader_take(reader, 4);
    return at != NULL ? load_u32(at) : 0;
}

uint64_t reader_u64(struct reader *reader)
{
    const uint8_t *at = reader_take(reader, 8);
    return at != NULL ? load_u64(at) : 0;
}

uint64_t reader_uvarint(struct reader *reader)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = reader_u8(reader);
        if (reader->failed)
            return 0;
        if (shift == 63 && byte > 1)
            break; /* the tenth byte has room for one bit */
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return value;
    }
    reader->failed = true;
    reader->at = reader->end;
    return 0;
}

int64_t reader_varint(struct reader *reader)
{
    uint64_t value = reader_uvarint(reader);
    return (int64_t)((value >> 1) ^ (0 - (value & 1)));
}

struct span reader_bytes(struct reader *reader, size_t size)
{
    const uint8_t *at = reader_take(reader, size);
    return at != NULL ? span_of(at, size) : (struct span){0};
}

struct span reader_block(struct reader *reader)
{
    uint64_t size = reader_uvarint(reader);
    return reader_bytes(reader, size);
}
