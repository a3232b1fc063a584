/* SPDX-License-Identifier: Apache-2.0 */
/* AMQP values as JSON text, for readers of other protocols. What has no form of its own in JSON is
 * text: uuids, symbols, timestamps as ISO would need a calendar, so they are numbers of ms. */
#include <math.h>

#include "adapters/amqp/codec.h"
#include "core/base/utf8.h"

/* A compound value being written. */
struct open_value {
    struct reader at;
    uint32_t left, total;
    enum amqp_type type;
    uint8_t code; /* of an array's items */
};

static void put_base64(struct span bytes, struct buf *to)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t have = bytes.size - i;
        uint32_t group = (uint32_t)bytes.data[i] << 16;
        group |= have > 1 ? (uint32_t)bytes.data[i + 1] << 8 : 0;
        group |= have > 2 ? bytes.data[i + 2] : 0;
        char out[4] = {digits[group >> 18], digits[group >> 12 & 63],
                       have > 1 ? digits[group >> 6 & 63] : '=',
                       have > 2 ? digits[group & 63] : '='};
        buf_append(to, out, 4);
    }
}

static enum status put_text(struct span text, struct buf *to)
{
    buf_append_text(to, "\"");
    if (!utf8_is_valid(text)) {
        put_base64(text, to);
        return buf_append_text(to, "\"");
    }
    for (size_t i = 0; i < text.size; i++) {
        uint8_t byte = text.data[i];
        if (byte == '"' || byte == '\\')
            buf_printf(to, "\\%c", byte);
        else if (byte < 0x20)
            buf_printf(to, "\\u%04x", byte);
        else
            buf_append(to, &byte, 1);
    }
    return buf_append_text(to, "\"");
}

static enum status put_real(double number, struct buf *to)
{
    return isfinite(number) ? buf_printf(to, "%.17g", number) : buf_append_text(to, "null");
}

static enum status put_char(uint32_t c, struct buf *to)
{
    uint8_t text[4];
    size_t size = 0;
    if (c < 0x80) {
        text[size++] = (uint8_t)c;
    } else if (c < 0x800) {
        text[size++] = (uint8_t)(0xc0 | c >> 6);
        text[size++] = (uint8_t)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        text[size++] = (uint8_t)(0xe0 | c >> 12);
        text[size++] = (uint8_t)(0x80 | (c >> 6 & 63));
        text[size++] = (uint8_t)(0x80 | (c & 63));
    } else {
        text[size++] = (uint8_t)(0xf0 | (c >> 18 & 7));
        text[size++] = (uint8_t)(0x80 | (c >> 12 & 63));
        text[size++] = (uint8_t)(0x80 | (c >> 6 & 63));
        text[size++] = (uint8_t)(0x80 | (c & 63));
    }
    return put_text(span_of(text, size), to);
}

static enum status put_hex(struct span bytes, bool is_uuid, struct buf *to)
{
    buf_append_text(to, "\"");
    for (size_t i = 0; i < bytes.size; i++)
        buf_printf(to, "%s%02x", is_uuid && (i == 4 || i == 6 || i == 8 || i == 10) ? "-" : "",
                   bytes.data[i]);
    return buf_append_text(to, "\"");
}

static enum status put_simple(const struct amqp_value *value, struct buf *to)
{
    switch (value->type) {
    case AMQP_BOOLEAN:
        return buf_append_text(to, value->number != 0 ? "true" : "false");
    case AMQP_UBYTE:
    case AMQP_USHORT:
    case AMQP_UINT:
    case AMQP_ULONG:
        return buf_printf(to, "%llu", (unsigned long long)value->number);
    case AMQP_BYTE:
    case AMQP_SHORT:
    case AMQP_INT:
    case AMQP_LONG:
    case AMQP_TIMESTAMP:
        return buf_printf(to, "%lld", (long long)value->number);
    case AMQP_FLOAT:
    case AMQP_DOUBLE:
        return put_real(amqp_value_real(value), to);
    case AMQP_CHAR:
        return put_char((uint32_t)value->number, to);
    case AMQP_DECIMAL32:
        return buf_printf(to, "\"0x%08llx\"", (unsigned long long)value->number);
    case AMQP_DECIMAL64:
        return buf_printf(to, "\"0x%016llx\"", (unsigned long long)value->number);
    case AMQP_DECIMAL128:
    case AMQP_UUID:
        return put_hex(value->bytes, value->type == AMQP_UUID, to);
    case AMQP_STRING:
    case AMQP_SYMBOL:
        return put_text(value->bytes, to);
    case AMQP_BINARY:
        buf_append_text(to, "\"");
        put_base64(value->bytes, to);
        return buf_append_text(to, "\"");
    case AMQP_NULL:
    case AMQP_DESCRIBED:
    case AMQP_LIST:
    case AMQP_MAP:
    case AMQP_ARRAY:
        break;
    }
    return buf_append_text(to, "null");
}

/* An array's constructor is read; what its items are described by is left out, as with single
 * values. */
static bool open_compound(struct open_value *open, const struct amqp_value *value)
{
    *open = (struct open_value){.at = reader_of(value->bytes),
                                .left = value->count,
                                .total = value->count,
                                .type = value->type};
    if (value->type != AMQP_ARRAY)
        return true;
    struct amqp_value descriptor;
    open->code = reader_u8(&open->at);
    while (open->code == AMQP_DESCRIBED && !open->at.failed) {
        amqp_value_read(&open->at, &descriptor);
        open->code = reader_u8(&open->at);
    }
    return !open->at.failed;
}

/* What a described value describes, however often. */
static void strip(struct amqp_value *value)
{
    for (unsigned depth = 0; value->type == AMQP_DESCRIBED && depth <= AMQP_DEPTH_MAX; depth++) {
        struct reader at = reader_of(value->bytes);
        struct amqp_value descriptor;
        amqp_value_read(&at, &descriptor);
        amqp_value_read(&at, value);
    }
}

/* Keys of JSON objects are text. */
static enum status put_key(const struct amqp_value *key, struct buf *to)
{
    size_t before = to->size;
    enum status status = put_simple(key, to);
    if (status != STATUS_OK || to->data[before] == '"')
        return status;
    status = buf_append_text(to, "\"\"");
    if (status != STATUS_OK)
        return status;
    memmove(to->data + before + 1, to->data + before, to->size - before - 2);
    to->data[before] = '"';
    return STATUS_OK;
}

static enum status put_between(const struct open_value *open, bool *is_key, struct buf *to)
{
    uint32_t done = open->total - open->left;
    *is_key = open->type == AMQP_MAP && done % 2 == 0;
    if (done == 0)
        return STATUS_OK;
    return buf_append_text(to, open->type == AMQP_MAP && done % 2 == 1 ? ":" : ",");
}

enum status amqp_json(struct span value, struct buf *to)
{
    struct open_value levels[AMQP_DEPTH_MAX + 1];
    unsigned depth = 1;
    levels[0] =
        (struct open_value){.at = reader_of(value), .left = 1, .total = 1, .type = AMQP_DESCRIBED};
    while (depth > 0) {
        struct open_value *open = &levels[depth - 1];
        enum status status = STATUS_OK;
        if (open->left == 0) {
            if (--depth > 0)
                status = buf_append_text(to, open->type == AMQP_MAP ? "}" : "]");
            if (status != STATUS_OK)
                return status;
            continue;
        }
        bool is_key;
        struct amqp_value item;
        status = put_between(open, &is_key, to);
        open->left--;
        if (open->type == AMQP_ARRAY)
            amqp_item_read(&open->at, open->code, &item);
        else
            amqp_value_read(&open->at, &item);
        if (status != STATUS_OK || open->at.failed)
            return status != STATUS_OK ? status : STATUS_MALFORMED;
        strip(&item);
        bool compound = item.type == AMQP_LIST || item.type == AMQP_MAP || item.type == AMQP_ARRAY;
        if (is_key) {
            status = put_key(&item, to);
        } else if (!compound) {
            status = put_simple(&item, to);
        } else if (depth <= AMQP_DEPTH_MAX && open_compound(&levels[depth], &item)) {
            depth++;
            status = buf_append_text(to, item.type == AMQP_MAP ? "{" : "[");
        } else {
            status = STATUS_MALFORMED;
        }
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}
