/* SPDX-License-Identifier: Apache-2.0 */
/* What a record's headers are to AMQP, and their values with the types they had. */
#include "adapters/amqp/showing.h"

#include <stdlib.h>

#include "core/base/utf8.h"
#include "core/log/types.h"

/* Headers with a meaning of their own: the first of the name, when it is not null. The first ones
 * are the fields of the properties section in their order. */
static const char *const names[] = {
    HEADER_MESSAGE_ID,       AMQP_HEADER_USER_ID,   AMQP_HEADER_TO,      HEADER_SUBJECT,
    HEADER_REPLY_TO,         HEADER_CORRELATION_ID, HEADER_CONTENT_TYPE, HEADER_CONTENT_ENCODING,
    HEADER_EXPIRES_AT,       HEADER_CREATION_TIME,  HEADER_GROUP_ID,     HEADER_GROUP_SEQUENCE,
    AMQP_HEADER_REPLY_GROUP, HEADER_PRIORITY,       HEADER_LABELS,       HEADER_TOPIC,
    HEADER_PUBLISHER,        HEADER_TYPES,          HEADER_BODY,         AMQP_HEADER_AMQP,
    AMQP_HEADER_ANNOTATIONS,
};
enum { SIZE_MAX_OF_NAMES = 32 };

static unsigned name_of(struct span name)
{
    if (name.size >= SIZE_MAX_OF_NAMES)
        return SHOWING_USER;
    for (unsigned i = 0; i < SHOWING_NAMES; i++)
        if (name.data[0] == (uint8_t)names[i][0] && span_is(name, names[i]))
            return i;
    return header_given_name(name).data == NULL ? SHOWING_HIDDEN : SHOWING_USER;
}

static bool is_number(struct span text, uint64_t high)
{
    uint64_t number = 0;
    if (text.size == 0 || text.size > 18)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        number = number * 10 + (uint64_t)(text.data[i] - '0');
    }
    return number <= high;
}

/* A value that does not fit the field is shown as a property. */
static bool fits(unsigned name, struct span value)
{
    switch (name) {
    case AMQP_TO:
    case AMQP_SUBJECT:
    case AMQP_REPLY_TO:
    case AMQP_CONTENT_TYPE:
    case AMQP_CONTENT_ENCODING:
    case AMQP_GROUP_ID:
    case AMQP_REPLY_TO_GROUP_ID:
    case SHOWING_TOPIC:
        return utf8_is_valid(value);
    case AMQP_GROUP_SEQUENCE:
        return is_number(value, UINT32_MAX);
    case AMQP_CREATION_TIME:
    case AMQP_ABSOLUTE_EXPIRY:
        return is_number(value, INT64_MAX);
    case SHOWING_PRIORITY:
        return is_number(value, UINT8_MAX);
    default:
        return true;
    }
}

void amqp_showing_init(struct showing *showing, const struct header *headers, uint32_t count)
{
    showing->headers = headers;
    showing->count = count;
    showing->has_users = false;
    bool is_dead = false;
    memset(showing->first, 0, sizeof showing->first);
    memset(showing->seen, 0, sizeof showing->seen);
    for (uint32_t i = 0; i < count; i++) {
        if (is_dead) {
            showing->kinds[i] = SHOWING_DEAD;
            continue;
        }
        is_dead = span_is(headers[i].name, HEADER_DEAD);
        unsigned name = headers[i].name.size == 0 ? SHOWING_USER : name_of(headers[i].name);
        bool null = headers[i].value.data == NULL;
        if (name < SHOWING_NAMES && !showing->seen[name] &&
            (null || fits(name, headers[i].value))) {
            showing->seen[name] = true;
            showing->first[name] = null ? NULL : &headers[i];
        } else if (name != SHOWING_HIDDEN) {
            name = header_given_name(headers[i].name).data == NULL ? SHOWING_HIDDEN : SHOWING_USER;
            showing->has_users |= name == SHOWING_USER;
        }
        showing->kinds[i] = (uint8_t)name;
    }
    showing->types = showing->first[SHOWING_TYPES] == NULL ? span_of(NULL, 0)
                                                           : showing->first[SHOWING_TYPES]->value;
}

/* The type that pl-types gives the header; 0: none. */
static uint8_t type_of(const struct showing *showing, const struct header *header)
{
    if (showing->types.size == 0)
        return 0;
    unsigned occurrence = 0;
    for (const struct header *before = showing->headers; before < header; before++)
        occurrence += span_equal(before->name, header->name);
    return types_find(showing->types, header->name, occurrence);
}

/* ------------------------------------------------ values */

static bool unhex(struct span text, size_t wanted, uint8_t bytes[16])
{
    size_t digits = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (c == '-')
            continue;
        int value = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (value < 0 || digits / 2 >= wanted)
            return false;
        bytes[digits / 2] = (uint8_t)(digits % 2 == 0 ? value << 4 : bytes[digits / 2] | value);
        digits++;
    }
    return digits == 2 * wanted;
}

/* False: the text is no such value. */
bool amqp_showing_typed(struct amqp_writer *writer, enum amqp_type type, struct span value)
{
    char text[48];
    uint8_t bytes[16];
    char *end;
    union {
        float number;
        uint32_t bits;
    } real;
    union {
        double number;
        uint64_t bits;
    } wide;
    if (type == AMQP_BINARY ||
        ((type == AMQP_STRING || type == AMQP_SYMBOL) && utf8_is_valid(value))) {
        amqp_write_bytes(writer, type, value);
        return true;
    }
    if (value.size == 0 || value.size >= sizeof text)
        return false;
    memcpy(text, value.data, value.size);
    text[value.size] = '\0';
    switch (type) {
    case AMQP_BOOLEAN:
        amqp_write_boolean(writer, text[0] == 't');
        return true;
    case AMQP_UBYTE:
    case AMQP_USHORT:
    case AMQP_UINT:
    case AMQP_ULONG:
    case AMQP_CHAR:
        amqp_write_number(writer, type, strtoull(text, &end, 10));
        return *end == '\0';
    case AMQP_BYTE:
    case AMQP_SHORT:
    case AMQP_INT:
    case AMQP_LONG:
    case AMQP_TIMESTAMP:
        amqp_write_number(writer, type, (uint64_t)strtoll(text, &end, 10));
        return *end == '\0';
    case AMQP_DECIMAL32:
    case AMQP_DECIMAL64:
        amqp_write_number(writer, type, strtoull(text, &end, 16));
        return *end == '\0';
    case AMQP_FLOAT:
        real.number = strtof(text, &end);
        amqp_write_number(writer, type, real.bits);
        return *end == '\0';
    case AMQP_DOUBLE:
        wide.number = strtod(text, &end);
        amqp_write_number(writer, type, wide.bits);
        return *end == '\0';
    case AMQP_DECIMAL128:
    case AMQP_UUID:
        if (!unhex(value, sizeof bytes, bytes))
            return false;
        *writer->at++ = (uint8_t)type;
        amqp_write_raw(writer, span_of(bytes, sizeof bytes));
        return true;
    case AMQP_NULL:
    case AMQP_DESCRIBED:
    case AMQP_BINARY:
    case AMQP_STRING:
    case AMQP_SYMBOL:
    case AMQP_LIST:
    case AMQP_MAP:
    case AMQP_ARRAY:
        break;
    }
    return false;
}

static bool may_have(unsigned types, uint8_t type)
{
    if (types == SHOWING_ANY_TYPE)
        return true;
    if (type == AMQP_STRING)
        return true;
    return types == SHOWING_ID_TYPES
               ? type == AMQP_ULONG || type == AMQP_UUID || type == AMQP_BINARY
               : type == AMQP_SYMBOL;
}

/* With the type that pl-types gives it, if it is one of those allowed here, else as plain: text, or
 * bytes where it is no text. */
void amqp_showing_write(struct amqp_writer *writer, const struct showing *showing,
                        const struct header *header, enum amqp_type plain, unsigned types)
{
    uint8_t type = type_of(showing, header);
    if (!may_have(types, type))
        type = 0;
    if (header->value.data == NULL) {
        amqp_write_null(writer);
        return;
    }
    struct amqp_writer before = *writer;
    if (type != 0 && amqp_showing_typed(writer, (enum amqp_type)type, header->value))
        return;
    *writer = before;
    if (!utf8_is_valid(header->value))
        plain = AMQP_BINARY;
    amqp_write_bytes(writer, plain, header->value);
}

/* ------------------------------------------------ names and addresses */

bool amqp_showing_has_name(const struct header *header)
{
    return header->name.size > 0 && utf8_is_valid(header->name);
}

/* Of several with one name the first is shown here, all of them in an annotation. */
bool amqp_showing_repeats(const struct showing *showing, uint32_t index, bool only_before)
{
    uint32_t end = only_before ? index : showing->count;
    for (uint32_t i = 0; i < end; i++)
        if (i != index && showing->kinds[i] == SHOWING_USER &&
            span_equal(showing->headers[i].name, showing->headers[index].name))
            return true;
    return false;
}

static const char QUEUE[] = "$queue/";

bool amqp_showing_is_queue(struct span address)
{
    return address.size > sizeof QUEUE - 1 && memcmp(address.data, QUEUE, sizeof QUEUE - 1) == 0;
}

bool amqp_showing_is_topic(struct span address)
{
    return !amqp_showing_is_queue(address) && address.size > 0 && address.data[0] != '/';
}
