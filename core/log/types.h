/* SPDX-License-Identifier: Apache-2.0 */
/* The header "pl-types": which of a record's header values are not plain text or bytes. Values are
 * stored as text all the same (5, 2.5, true), so this list alone gives them their type back. */
#ifndef CORE_LOG_TYPES_H
#define CORE_LOG_TYPES_H

#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/reader.h"

/* The codes of AMQP 1.0 (part 1, section 1.6), of each type the one with the widest encoding. */
enum value_type {
    TYPE_NULL = 0x40,
    TYPE_UBYTE = 0x50,
    TYPE_BYTE = 0x51,
    TYPE_BOOLEAN = 0x56,
    TYPE_USHORT = 0x60,
    TYPE_SHORT = 0x61,
    TYPE_UINT = 0x70,
    TYPE_INT = 0x71,
    TYPE_FLOAT = 0x72,
    TYPE_CHAR = 0x73,
    TYPE_DECIMAL32 = 0x74,
    TYPE_ULONG = 0x80,
    TYPE_LONG = 0x81,
    TYPE_DOUBLE = 0x82,
    TYPE_TIMESTAMP = 0x83, /* decimal ms since 1970 */
    TYPE_DECIMAL64 = 0x84,
    TYPE_DECIMAL128 = 0x94,
    TYPE_UUID = 0x98,
    TYPE_BINARY = 0xb0, /* though it reads as text */
    TYPE_STRING = 0xb1, /* where another type is the usual one */
    TYPE_SYMBOL = 0xb3,
};

/* Entries follow each other: code u8, occurrence u8, name (length as uvarint, then bytes). */
struct typed_name {
    uint8_t code;       /* enum value_type, or one that a later version knows */
    uint8_t occurrence; /* of headers with that name: 0 is the first */
    struct span name;
};

static inline bool types_next(struct reader *at, struct typed_name *typed)
{
    if (reader_left(at) == 0)
        return false;
    typed->code = reader_u8(at);
    typed->occurrence = reader_u8(at);
    typed->name = reader_block(at);
    return !at->failed;
}

/* What it says of the n-th header of that name; 0: text. */
static inline uint8_t types_find(struct span types, struct span name, uint32_t occurrence)
{
    struct reader at = reader_of(types);
    struct typed_name typed;
    for (unsigned i = 0; i < LIMIT_HEADERS && types_next(&at, &typed); i++)
        if (typed.occurrence == occurrence && span_equal(typed.name, name))
            return typed.code;
    return 0;
}

static inline void types_add(struct pack *to, const struct typed_name *typed)
{
    pack_u8(to, typed->code);
    pack_u8(to, typed->occurrence);
    pack_block(to, typed->name);
}

#endif
