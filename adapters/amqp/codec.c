/* SPDX-License-Identifier: Apache-2.0 */
/* Types: the high half of a constructor says how wide a value is (part 1, section 1.2). */
#include "adapters/amqp/codec.h"

#include "core/base/pack.h"

/* ------------------------------------------------ reading */

static enum amqp_type type_of(uint8_t code)
{
    switch (code) {
    case AMQP_TRUE:
    case AMQP_FALSE:
        return AMQP_BOOLEAN;
    case AMQP_UINT_0:
    case AMQP_UINT_SMALL:
        return AMQP_UINT;
    case AMQP_ULONG_0:
    case AMQP_ULONG_SMALL:
        return AMQP_ULONG;
    case AMQP_INT_SMALL:
        return AMQP_INT;
    case AMQP_LONG_SMALL:
        return AMQP_LONG;
    case AMQP_BINARY_SMALL:
        return AMQP_BINARY;
    case AMQP_STRING_SMALL:
        return AMQP_STRING;
    case AMQP_SYMBOL_SMALL:
        return AMQP_SYMBOL;
    case AMQP_LIST_0:
    case AMQP_LIST_SMALL:
        return AMQP_LIST;
    case AMQP_MAP_SMALL:
        return AMQP_MAP;
    case AMQP_ARRAY_SMALL:
        return AMQP_ARRAY;
    default:
        return (enum amqp_type)code;
    }
}

static bool is_known(uint8_t code)
{
    switch (type_of(code)) {
    case AMQP_NULL:
    case AMQP_UBYTE:
    case AMQP_BYTE:
    case AMQP_BOOLEAN:
    case AMQP_USHORT:
    case AMQP_SHORT:
    case AMQP_UINT:
    case AMQP_INT:
    case AMQP_FLOAT:
    case AMQP_CHAR:
    case AMQP_DECIMAL32:
    case AMQP_ULONG:
    case AMQP_LONG:
    case AMQP_DOUBLE:
    case AMQP_TIMESTAMP:
    case AMQP_DECIMAL64:
    case AMQP_DECIMAL128:
    case AMQP_UUID:
    case AMQP_BINARY:
    case AMQP_STRING:
    case AMQP_SYMBOL:
    case AMQP_LIST:
    case AMQP_MAP:
    case AMQP_ARRAY:
        return true;
    case AMQP_DESCRIBED:
        break;
    }
    return false;
}

static bool fail(struct reader *reader)
{
    reader->failed = true;
    return false;
}

/* size and count, then what size covers behind the count; count itself has width bytes. */
static void read_compound(struct reader *reader, unsigned width, struct amqp_value *value)
{
    uint32_t size = width == 1 ? reader_u8(reader) : reader_u32(reader);
    struct reader inside = reader_of(reader_bytes(reader, size));
    value->count = width == 1 ? reader_u8(&inside) : reader_u32(&inside);
    reader->failed |= inside.failed;
    value->bytes = span_of(inside.at, reader_left(&inside));
    /* Lists and maps take at least a byte per item; of arrays a null needs none, and is no use. */
    if (value->count > value->bytes.size)
        reader->failed = true;
}

static uint64_t read_fixed(struct reader *reader, uint8_t code, struct amqp_value *value)
{
    switch (code >> 4) {
    case 0x4:
        return code == AMQP_TRUE;
    case 0x5: {
        uint8_t byte = reader_u8(reader);
        bool is_signed = code == AMQP_BYTE || code == AMQP_INT_SMALL || code == AMQP_LONG_SMALL;
        return is_signed ? (uint64_t)(int64_t)(int8_t)byte : byte;
    }
    case 0x6: {
        uint16_t number = reader_u16(reader);
        return code == AMQP_SHORT ? (uint64_t)(int64_t)(int16_t)number : number;
    }
    case 0x7: {
        uint32_t number = reader_u32(reader);
        return code == AMQP_INT ? (uint64_t)(int64_t)(int32_t)number : number;
    }
    case 0x8:
        return reader_u64(reader);
    default:
        value->bytes = reader_bytes(reader, 16);
        return 0;
    }
}

bool amqp_item_read(struct reader *reader, uint8_t code, struct amqp_value *value)
{
    *value = (struct amqp_value){.type = type_of(code), .code = code};
    if (!is_known(code))
        return fail(reader);
    switch (code >> 4) {
    case 0xa:
        value->bytes = reader_bytes(reader, reader_u8(reader));
        break;
    case 0xb:
        value->bytes = reader_bytes(reader, reader_u32(reader));
        break;
    case 0xc:
    case 0xe:
        read_compound(reader, 1, value);
        break;
    case 0xd:
    case 0xf:
        read_compound(reader, 4, value);
        break;
    default:
        value->number = read_fixed(reader, code, value);
        if (value->type == AMQP_BOOLEAN && value->number > 1)
            reader->failed = true;
    }
    if (value->type == AMQP_MAP && value->count % 2 != 0)
        reader->failed = true;
    return !reader->failed;
}

/* A described value is as long as its descriptor and its value are, which may be described again:
 * each level has one byte at least, so this ends. */
static bool skip_described(struct reader *reader)
{
    struct amqp_value value;
    unsigned left = 2, depth = 0; /* values still to come; descriptors do not nest here */
    while (left > 0) {
        uint8_t code = reader_u8(reader);
        if (reader->failed)
            return false;
        if (code == AMQP_DESCRIBED) {
            if (++depth > AMQP_DEPTH_MAX)
                return fail(reader);
            left++; /* takes two values and is one */
            continue;
        }
        if (!amqp_item_read(reader, code, &value))
            return false;
        left--;
    }
    return true;
}

bool amqp_value_read(struct reader *reader, struct amqp_value *value)
{
    uint8_t code = reader_u8(reader);
    if (reader->failed) {
        *value = (struct amqp_value){.type = AMQP_NULL};
        return false;
    }
    if (code != AMQP_DESCRIBED)
        return amqp_item_read(reader, code, value);
    const uint8_t *from = reader->at;
    bool skipped = skip_described(reader);
    *value = (struct amqp_value){.type = AMQP_DESCRIBED,
                                 .bytes = span_of(from, (size_t)(reader->at - from))};
    return skipped;
}

bool amqp_is_text(const struct amqp_value *value)
{
    return value->type == AMQP_STRING || value->type == AMQP_SYMBOL;
}

uint64_t amqp_value_ms(const struct amqp_value *value)
{
    switch (value->type) {
    case AMQP_UBYTE:
    case AMQP_USHORT:
    case AMQP_UINT:
    case AMQP_ULONG:
        return value->number;
    case AMQP_BYTE:
    case AMQP_SHORT:
    case AMQP_INT:
    case AMQP_LONG:
    case AMQP_TIMESTAMP:
        return (int64_t)value->number < 0 ? 0 : value->number;
    default:
        return UINT64_MAX;
    }
}

double amqp_value_real(const struct amqp_value *value)
{
    union {
        uint32_t bits;
        float number;
    } real = {.bits = (uint32_t)value->number};
    union {
        uint64_t bits;
        double number;
    } wide = {.bits = value->number};
    return value->type == AMQP_FLOAT ? (double)real.number : wide.number;
}

/* ------------------------------------------------ looking at everything */

/* A compound value whose items are being looked at. */
struct level {
    struct reader at;
    uint32_t left;
    bool is_array;
    uint8_t code; /* of an array's items; AMQP_DESCRIBED: array of described values */
};

/* The constructor of an array may describe its items: 0x00 descriptor constructor. */
static bool enter_array(struct level *level)
{
    unsigned depth = 0;
    level->code = reader_u8(&level->at);
    while (level->code == AMQP_DESCRIBED && !level->at.failed) {
        struct amqp_value descriptor;
        if (++depth > AMQP_DEPTH_MAX || !amqp_value_read(&level->at, &descriptor))
            return false;
        level->code = reader_u8(&level->at);
    }
    return !level->at.failed;
}

static bool enter(struct level *level, const struct amqp_value *value)
{
    *level = (struct level){.at = reader_of(value->bytes), .left = value->count};
    if (value->type == AMQP_DESCRIBED)
        level->left = 2;
    level->is_array = value->type == AMQP_ARRAY;
    return !level->is_array || enter_array(level);
}

static bool is_compound(const struct amqp_value *value)
{
    return value->type == AMQP_LIST || value->type == AMQP_MAP || value->type == AMQP_ARRAY ||
           value->type == AMQP_DESCRIBED;
}

bool amqp_values_valid(struct span items, uint32_t count)
{
    struct level levels[AMQP_DEPTH_MAX];
    unsigned depth = 1;
    levels[0] = (struct level){.at = reader_of(items), .left = count};
    while (depth > 0) {
        struct level *level = &levels[depth - 1];
        if (level->left == 0) {
            if (reader_left(&level->at) != 0)
                return false;
            depth--;
            continue;
        }
        struct amqp_value value;
        level->left--;
        if (!(level->is_array ? amqp_item_read(&level->at, level->code, &value)
                              : amqp_value_read(&level->at, &value)))
            return false;
        if (!is_compound(&value))
            continue;
        if (depth == AMQP_DEPTH_MAX || !enter(&levels[depth++], &value))
            return false;
    }
    return true;
}

/* ------------------------------------------------ writing */

static void put(struct amqp_writer *writer, uint8_t byte)
{
    *writer->at++ = byte;
}

void amqp_write_raw(struct amqp_writer *writer, struct span bytes)
{
    if (bytes.size > 0)
        memcpy(writer->at, bytes.data, bytes.size);
    writer->at += bytes.size;
}

void amqp_write_null(struct amqp_writer *writer)
{
    put(writer, AMQP_NULL);
}

void amqp_write_boolean(struct amqp_writer *writer, bool value)
{
    put(writer, value ? AMQP_TRUE : AMQP_FALSE);
}

void amqp_write_ubyte(struct amqp_writer *writer, uint8_t value)
{
    put(writer, AMQP_UBYTE);
    put(writer, value);
}

static void put_u32(struct amqp_writer *writer, uint32_t value)
{
    store_u32(writer->at, value);
    writer->at += 4;
}

static void put_u64(struct amqp_writer *writer, uint64_t value)
{
    store_u64(writer->at, value);
    writer->at += 8;
}

void amqp_write_number(struct amqp_writer *writer, enum amqp_type type, uint64_t number)
{
    bool is_small = (int64_t)number >= INT8_MIN && (int64_t)number <= INT8_MAX;
    if (type == AMQP_BOOLEAN) {
        amqp_write_boolean(writer, number != 0);
    } else if (type == AMQP_UINT || type == AMQP_ULONG) {
        if (number == 0) {
            put(writer, type == AMQP_UINT ? AMQP_UINT_0 : AMQP_ULONG_0);
        } else if (number <= UINT8_MAX) {
            put(writer, type == AMQP_UINT ? AMQP_UINT_SMALL : AMQP_ULONG_SMALL);
            put(writer, (uint8_t)number);
        } else {
            put(writer, (uint8_t)type);
            type == AMQP_UINT ? put_u32(writer, (uint32_t)number) : put_u64(writer, number);
        }
    } else if ((type == AMQP_INT || type == AMQP_LONG) && is_small) {
        put(writer, type == AMQP_INT ? AMQP_INT_SMALL : AMQP_LONG_SMALL);
        put(writer, (uint8_t)number);
    } else {
        put(writer, (uint8_t)type);
        switch ((unsigned)type >> 4) {
        case 0x5:
            put(writer, (uint8_t)number);
            break;
        case 0x6:
            store_u16(writer->at, (uint16_t)number);
            writer->at += 2;
            break;
        case 0x7:
            put_u32(writer, (uint32_t)number);
            break;
        default:
            put_u64(writer, number);
        }
    }
}

void amqp_write_uint(struct amqp_writer *writer, uint32_t value)
{
    amqp_write_number(writer, AMQP_UINT, value);
}

void amqp_write_ulong(struct amqp_writer *writer, uint64_t value)
{
    amqp_write_number(writer, AMQP_ULONG, value);
}

void amqp_write_timestamp(struct amqp_writer *writer, int64_t value)
{
    amqp_write_number(writer, AMQP_TIMESTAMP, (uint64_t)value);
}

void amqp_write_bytes(struct amqp_writer *writer, enum amqp_type type, struct span bytes)
{
    if (bytes.size <= UINT8_MAX) {
        put(writer, (uint8_t)(type - 0x10));
        put(writer, (uint8_t)bytes.size);
    } else {
        put(writer, (uint8_t)type);
        put_u32(writer, (uint32_t)bytes.size);
    }
    amqp_write_raw(writer, bytes);
}

void amqp_write_descriptor(struct amqp_writer *writer, uint8_t code)
{
    put(writer, AMQP_DESCRIBED);
    put(writer, AMQP_ULONG_SMALL);
    put(writer, code);
}

uint8_t *amqp_open(struct amqp_writer *writer)
{
    writer->at += 9;
    return writer->at - 9;
}

void amqp_close(struct amqp_writer *writer, uint8_t *began, enum amqp_type type, uint32_t count,
                bool wide)
{
    size_t size = (size_t)(writer->at - began) - 9;
    if (count == 0 && type == AMQP_LIST && !wide) {
        began[0] = AMQP_LIST_0;
        writer->at = began + 1;
    } else if (!wide && size + 1 <= UINT8_MAX && count <= UINT8_MAX) {
        began[0] = (uint8_t)(type - 0x10);
        began[1] = (uint8_t)(size + 1);
        began[2] = (uint8_t)count;
        memmove(began + 3, began + 9, size);
        writer->at = began + 3 + size;
    } else {
        began[0] = (uint8_t)type;
        store_u32(began + 1, (uint32_t)size + 4);
        store_u32(began + 5, count);
    }
}
