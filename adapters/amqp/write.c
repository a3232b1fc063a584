/* SPDX-License-Identifier: Apache-2.0 */
/* A record as an AMQP message. */
#include <stdlib.h>

#include "adapters/amqp/view.h"
#include "core/base/limits.h"
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
enum {
    PRIORITY = AMQP_PROPERTIES,
    LABELS,
    TOPIC,
    PUBLISHER,
    TYPES,
    BODY,
    KEPT,
    ANNOTATIONS,
    NAMES,
    USER = NAMES,
    HIDDEN, /* the gateway's own, for other protocols */
    DEAD,   /* what became of a dead letter */
    SIZE_MAX_OF_NAMES = 32
};

struct showing {
    const struct header *headers;
    uint32_t count;
    uint8_t kinds[LIMIT_HEADERS];      /* by header: what it is; USER: the publisher's own */
    const struct header *first[NAMES]; /* NULL: missing, or null */
    bool seen[NAMES];
    struct span types;
    bool has_users;
};

static unsigned name_of(struct span name)
{
    if (name.size >= SIZE_MAX_OF_NAMES)
        return USER;
    for (unsigned i = 0; i < NAMES; i++)
        if (name.data[0] == (uint8_t)names[i][0] && span_is(name, names[i]))
            return i;
    return header_given_name(name).data == NULL ? HIDDEN : USER;
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
    case TOPIC:
        return utf8_is_valid(value);
    case AMQP_GROUP_SEQUENCE:
        return is_number(value, UINT32_MAX);
    case AMQP_CREATION_TIME:
    case AMQP_ABSOLUTE_EXPIRY:
        return is_number(value, INT64_MAX);
    case PRIORITY:
        return is_number(value, UINT8_MAX);
    default:
        return true;
    }
}

static void showing_init(struct showing *showing, const struct header *headers, uint32_t count)
{
    showing->headers = headers;
    showing->count = count;
    showing->has_users = false;
    bool is_dead = false;
    memset(showing->first, 0, sizeof showing->first);
    memset(showing->seen, 0, sizeof showing->seen);
    for (uint32_t i = 0; i < count; i++) {
        if (is_dead) {
            showing->kinds[i] = DEAD;
            continue;
        }
        is_dead = span_is(headers[i].name, HEADER_DEAD);
        unsigned name = headers[i].name.size == 0 ? USER : name_of(headers[i].name);
        bool null = headers[i].value.data == NULL;
        if (name < NAMES && !showing->seen[name] && (null || fits(name, headers[i].value))) {
            showing->seen[name] = true;
            showing->first[name] = null ? NULL : &headers[i];
        } else if (name != HIDDEN) {
            name = header_given_name(headers[i].name).data == NULL ? HIDDEN : USER;
            showing->has_users |= name == USER;
        }
        showing->kinds[i] = (uint8_t)name;
    }
    showing->types =
        showing->first[TYPES] == NULL ? span_of(NULL, 0) : showing->first[TYPES]->value;
}

/* The type that pl-types gives the header; 0: none. */
static uint8_t type_of(const struct showing *showing, const struct header *header)
{
    if (showing->types.size == 0)
        return 0;
    struct reader at = reader_of(showing->types);
    struct typed_name typed;
    unsigned occurrence = 0;
    for (const struct header *before = showing->headers; before < header; before++)
        occurrence += span_equal(before->name, header->name);
    for (unsigned i = 0; i < LIMIT_HEADERS && types_next(&at, &typed); i++)
        if (typed.occurrence == occurrence && span_equal(typed.name, header->name))
            return typed.code;
    return 0;
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
static bool write_typed(struct amqp_writer *writer, enum amqp_type type, struct span value)
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

enum { ANY_TYPE, ID_TYPES, TEXT_TYPES };

static bool may_have(unsigned types, uint8_t type)
{
    if (types == ANY_TYPE)
        return true;
    if (type == AMQP_STRING)
        return true;
    return types == ID_TYPES ? type == AMQP_ULONG || type == AMQP_UUID || type == AMQP_BINARY
                             : type == AMQP_SYMBOL;
}

/* With the type that pl-types gives it, if it is one of those allowed here, else as plain: text, or
 * bytes where it is no text. */
static void write_header(struct amqp_writer *writer, const struct showing *showing,
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
    if (type != 0 && write_typed(writer, (enum amqp_type)type, header->value))
        return;
    *writer = before;
    if (!utf8_is_valid(header->value))
        plain = AMQP_BINARY;
    amqp_write_bytes(writer, plain, header->value);
}

/* ------------------------------------------------ properties */

static const char QUEUE[] = "$queue/", TOPICS[] = "/topics/";

static bool is_queue_address(struct span address)
{
    return address.size > sizeof QUEUE - 1 && memcmp(address.data, QUEUE, sizeof QUEUE - 1) == 0;
}

/* What begins with a slash was no address of ours when it came. */
static bool is_topic_address(struct span address)
{
    return !is_queue_address(address) && address.size > 0 && address.data[0] != '/';
}

static void write_address(struct amqp_writer *writer, struct span address)
{
    bool is_topic = is_topic_address(address);
    if (is_queue_address(address))
        address = span_from(address, sizeof QUEUE - 1);
    if (!is_topic) {
        amqp_write_bytes(writer, AMQP_STRING, address);
        return;
    }
    size_t size = address.size + sizeof TOPICS - 1;
    *writer->at++ = size <= UINT8_MAX ? 0xa1 : 0xb1;
    if (size <= UINT8_MAX) {
        *writer->at++ = (uint8_t)size;
    } else {
        store_u32(writer->at, (uint32_t)size);
        writer->at += 4;
    }
    amqp_write_raw(writer, span_of(TOPICS, sizeof TOPICS - 1));
    amqp_write_raw(writer, address);
}

static bool shows_property(const struct showing *showing, unsigned property, unsigned flags)
{
    if (property == AMQP_TO && showing->first[property] == NULL)
        return showing->first[TOPIC] != NULL && !(flags & AMQP_EXACT);
    if (property == AMQP_ABSOLUTE_EXPIRY && (flags & AMQP_EXACT) && !(flags & AMQP_ABSOLUTE))
        return false;
    return showing->first[property] != NULL;
}

static void write_property(struct amqp_writer *writer, const struct showing *showing,
                           unsigned property)
{
    const struct header *header = showing->first[property];
    switch ((enum amqp_property)property) {
    case AMQP_TO:
        if (header == NULL)
            write_address(writer, showing->first[TOPIC]->value);
        else
            amqp_write_bytes(writer, AMQP_STRING, header->value);
        break;
    case AMQP_REPLY_TO:
        write_address(writer, header->value);
        break;
    case AMQP_USER_ID:
        amqp_write_bytes(writer, AMQP_BINARY, header->value);
        break;
    case AMQP_ABSOLUTE_EXPIRY:
    case AMQP_CREATION_TIME:
        write_typed(writer, AMQP_TIMESTAMP, header->value);
        break;
    case AMQP_GROUP_SEQUENCE:
        write_typed(writer, AMQP_UINT, header->value);
        break;
    case AMQP_CONTENT_TYPE:
    case AMQP_CONTENT_ENCODING:
        write_header(writer, showing, header, AMQP_SYMBOL, TEXT_TYPES);
        break;
    case AMQP_MESSAGE_ID:
    case AMQP_CORRELATION_ID:
        write_header(writer, showing, header, AMQP_STRING, ID_TYPES);
        break;
    case AMQP_SUBJECT:
    case AMQP_GROUP_ID:
    case AMQP_REPLY_TO_GROUP_ID:
        amqp_write_bytes(writer, AMQP_STRING, header->value);
        break;
    case AMQP_PROPERTIES:
        break;
    }
}

static void write_properties(struct amqp_writer *writer, const struct showing *showing,
                             unsigned flags)
{
    uint32_t count = 0;
    for (unsigned i = 0; i < AMQP_PROPERTIES; i++)
        if (shows_property(showing, i, flags))
            count = i + 1;
    if (count == 0)
        return;
    amqp_write_section(writer, AMQP_SECTION_PROPERTIES);
    uint8_t *began = amqp_open(writer);
    for (unsigned i = 0; i < count; i++) {
        if (shows_property(showing, i, flags))
            write_property(writer, showing, i);
        else
            amqp_write_null(writer);
    }
    amqp_close(writer, began, AMQP_LIST, count, flags & AMQP_WIDE_PROPERTIES);
}

static bool has_shown_name(const struct header *header)
{
    return header->name.size > 0 && utf8_is_valid(header->name);
}

/* Of several with one name the first is shown here, all of them in an annotation. */
static bool is_repeated(const struct showing *showing, uint32_t index, bool only_before)
{
    uint32_t end = only_before ? index : showing->count;
    for (uint32_t i = 0; i < end; i++)
        if (i != index && showing->kinds[i] == USER &&
            span_equal(showing->headers[i].name, showing->headers[index].name))
            return true;
    return false;
}

static void write_application(struct amqp_writer *writer, const struct showing *showing,
                              unsigned flags)
{
    if (!showing->has_users)
        return;
    uint32_t count = 0;
    amqp_write_section(writer, AMQP_SECTION_APPLICATION);
    uint8_t *began = amqp_open(writer);
    for (uint32_t i = 0; i < showing->count; i++) {
        const struct header *header = &showing->headers[i];
        if (showing->kinds[i] != USER || !has_shown_name(header) || is_repeated(showing, i, true))
            continue;
        amqp_write_bytes(writer, AMQP_STRING, header_given_name(header->name));
        write_header(writer, showing, header, AMQP_STRING, ANY_TYPE);
        count += 2;
    }
    amqp_close(writer, began, AMQP_MAP, count, flags & AMQP_WIDE_APPLICATION);
}

size_t amqp_bare_bound(const struct header *headers, uint32_t count)
{
    size_t size = 2 * AMQP_HEAD_MAX + 64;
    for (uint32_t i = 0; i < count; i++)
        size += headers[i].name.size + headers[i].value.size + AMQP_VALUE_MAX + 16;
    return size;
}

size_t amqp_view_bare(const struct header *headers, uint32_t count, unsigned flags, uint8_t *to)
{
    struct showing showing;
    struct amqp_writer writer = {.at = to};
    showing_init(&showing, headers, count);
    write_properties(&writer, &showing, flags);
    write_application(&writer, &showing, flags);
    return (size_t)(writer.at - to);
}

/* ------------------------------------------------ header and annotations */

struct kept {
    unsigned flags;
    struct span bare, delivery, footer;
};

/* Kafka producers and others may have set it, so what it holds is looked at. */
static void kept_read(const struct showing *showing, struct kept *kept)
{
    *kept = (struct kept){0};
    if (showing->first[KEPT] == NULL)
        return;
    struct reader at = reader_of(showing->first[KEPT]->value);
    struct amqp_message message;
    unsigned flags = (unsigned)reader_uvarint(&at);
    if (flags & AMQP_KEEPS_BARE)
        kept->bare = reader_block(&at);
    if (flags & AMQP_KEEPS_DELIVERY)
        kept->delivery = reader_block(&at);
    if (flags & AMQP_KEEPS_FOOTER)
        kept->footer = reader_block(&at);
    if (!at.failed &&
        (kept->bare.size == 0 ||
         (amqp_message_read(kept->bare, &message) == STATUS_OK &&
          kept->bare.size == message.properties_section.size + message.application_section.size)))
        kept->flags = flags;
}

static uint64_t number_of(const struct header *header)
{
    uint64_t number = 0;
    for (size_t i = 0; header != NULL && i < header->value.size; i++)
        number = number * 10 + (uint64_t)(header->value.data[i] - '0');
    return number;
}

/* durable, priority, ttl, first-acquirer, delivery-count. */
static void write_head(struct amqp_writer *writer, const struct record *record,
                       const struct showing *showing, const struct amqp_shown *shown)
{
    const struct header *priority = showing->first[PRIORITY],
                        *expiry = showing->first[AMQP_ABSOLUTE_EXPIRY];
    bool durable = !(record->attributes & RECORD_NOT_DURABLE);
    uint32_t count = shown->failures > 0     ? 5
                     : shown->first_acquirer ? 4
                     : expiry != NULL        ? 3
                     : priority != NULL      ? 2
                     : durable               ? 1
                                             : 0;
    amqp_write_section(writer, AMQP_SECTION_HEADER);
    uint8_t *began = amqp_open(writer);
    if (count > 0)
        amqp_write_boolean(writer, durable);
    if (count > 1) {
        if (priority != NULL)
            amqp_write_ubyte(writer, (uint8_t)number_of(priority));
        else
            amqp_write_null(writer);
    }
    if (count > 2) {
        int64_t left = expiry == NULL ? 0 : (int64_t)number_of(expiry) - shown->now_ms;
        if (expiry != NULL)
            amqp_write_uint(writer, left <= 0           ? 1
                                    : left > UINT32_MAX ? UINT32_MAX
                                                        : (uint32_t)left);
        else
            amqp_write_null(writer);
    }
    if (count > 3)
        amqp_write_boolean(writer, shown->first_acquirer);
    if (count > 4)
        amqp_write_uint(writer, shown->failures);
    amqp_close(writer, began, AMQP_LIST, count, false);
}

static void write_key(struct amqp_writer *writer, const char *name)
{
    amqp_write_bytes(writer, AMQP_SYMBOL, span_from_text(name));
}

static uint32_t write_labels(struct amqp_writer *writer, struct span labels)
{
    uint32_t count = 0;
    write_key(writer, "x-opt-labels");
    uint8_t *began = amqp_open(writer);
    while (labels.size > 0) {
        const uint8_t *comma = memchr(labels.data, ',', labels.size);
        size_t size = comma == NULL ? labels.size : (size_t)(comma - labels.data);
        amqp_write_bytes(writer, AMQP_STRING, span_of(labels.data, size));
        labels = span_from(labels, size + 1);
        count++;
    }
    amqp_close(writer, began, AMQP_LIST, count, false);
    return 2;
}

static uint32_t write_duplicates(struct amqp_writer *writer, const struct showing *showing)
{
    uint32_t count = 0;
    struct amqp_writer before = *writer;
    write_key(writer, "x-opt-duplicates");
    uint8_t *began = amqp_open(writer);
    for (uint32_t i = 0; i < showing->count; i++) {
        const struct header *header = &showing->headers[i];
        if (showing->kinds[i] != USER || !has_shown_name(header) || !is_repeated(showing, i, false))
            continue;
        amqp_write_bytes(writer, AMQP_STRING, header_given_name(header->name));
        write_header(writer, showing, header, AMQP_STRING, ANY_TYPE);
        count += 2;
    }
    if (count == 0) {
        *writer = before;
        return 0;
    }
    amqp_close(writer, began, AMQP_LIST, count, false);
    return 2;
}

/* Keys and values, as annotations have them; 0: not so. */
static uint32_t items_of(struct span items)
{
    struct reader at = reader_of(items);
    struct amqp_value value;
    uint32_t count = 0;
    while (reader_left(&at) > 0 && amqp_value_read(&at, &value))
        count++;
    return !at.failed && amqp_annotations_valid(items, count) ? count : 0;
}

static bool is_there(struct span items, const char *name)
{
    struct reader at = reader_of(items);
    struct amqp_value key, value;
    while (reader_left(&at) > 0 && amqp_value_read(&at, &key) && amqp_value_read(&at, &value))
        if (amqp_is_text(&key) && span_is(key.bytes, name))
            return true;
    return false;
}

/* To clients of the JMS kind an address is a queue's when a queue brought the message, unless these
 * say otherwise. */
static uint32_t write_type(struct amqp_writer *writer, const char *name, struct span kept)
{
    enum { JMS_TOPIC = 1 };
    if (is_there(kept, name))
        return 0;
    write_key(writer, name);
    amqp_write_number(writer, AMQP_BYTE, JMS_TOPIC);
    return 2;
}

/* Beside the bare message, which stays as it was. */
static uint32_t write_dead(struct amqp_writer *writer, const struct showing *showing)
{
    static const struct {
        const char *name; /* of the header, behind "x-opt-" of the annotation */
        enum amqp_type type;
    } told[] = {
        {"x-opt-dead-letter-reason", AMQP_STRING},      {"x-opt-dead-letter-queue", AMQP_STRING},
        {"x-opt-dead-letter-group", AMQP_STRING},       {"x-opt-dead-letter-partition", AMQP_ULONG},
        {"x-opt-dead-letter-offset", AMQP_ULONG},       {"x-opt-dead-letter-count", AMQP_UINT},
        {"x-opt-dead-letter-time", AMQP_TIMESTAMP},     {"x-opt-dead-letter-error", AMQP_STRING},
        {"x-opt-dead-letter-description", AMQP_STRING},
    };
    uint32_t count = 0;
    for (uint32_t i = 0; i < showing->count; i++) {
        const struct header *header = &showing->headers[i];
        for (size_t k = 0; showing->kinds[i] == DEAD && k < sizeof told / sizeof *told; k++) {
            struct amqp_writer before = *writer;
            if (!span_is(header->name, told[k].name + strlen("x-opt-")))
                continue;
            write_key(writer, told[k].name);
            if (write_typed(writer, told[k].type, header->value))
                count += 2;
            else
                *writer = before;
        }
    }
    return count;
}

static uint32_t write_types(struct amqp_writer *writer, const struct showing *showing,
                            const struct amqp_shown *shown, struct span kept)
{
    const struct header *reply = showing->first[AMQP_REPLY_TO];
    uint32_t count = 0;
    if (reply != NULL && is_topic_address(reply->value))
        count += write_type(writer, "x-opt-jms-reply-to", kept);
    if (showing->first[TOPIC] != NULL && shown->positions)
        count += write_type(writer, "x-opt-jms-dest", kept);
    return count;
}

static void write_annotations(struct amqp_writer *writer, const struct record *record,
                              const struct showing *showing, const struct amqp_shown *shown,
                              unsigned flags)
{
    uint32_t count = 0;
    struct amqp_writer before = *writer;
    amqp_write_section(writer, AMQP_SECTION_ANNOTATIONS);
    uint8_t *began = amqp_open(writer);
    if (record->key.data != NULL && !(flags & AMQP_KEEPS_KEY)) {
        write_key(writer, "x-opt-partition-key");
        amqp_write_bytes(writer, utf8_is_valid(record->key) ? AMQP_STRING : AMQP_BINARY,
                         record->key);
        count += 2;
    }
    if (showing->first[LABELS] != NULL && !(flags & AMQP_KEEPS_LABELS) &&
        utf8_is_valid(showing->first[LABELS]->value))
        count += write_labels(writer, showing->first[LABELS]->value);
    if (record->attributes & RECORD_RETAIN) {
        write_key(writer, "x-opt-retain");
        amqp_write_boolean(writer, true);
        count += 2;
    }
    /* Where the property `to` may not say it. */
    if (showing->first[TOPIC] != NULL && (flags & AMQP_EXACT)) {
        write_key(writer, "x-opt-topic");
        amqp_write_bytes(writer, AMQP_STRING, showing->first[TOPIC]->value);
        count += 2;
    }
    if (showing->has_users)
        count += write_duplicates(writer, showing);
    count += write_dead(writer, showing);
    if (shown->positions) {
        write_key(writer, "x-opt-offset");
        amqp_write_ulong(writer, record->offset);
        write_key(writer, "x-opt-partition");
        amqp_write_ulong(writer, shown->partition);
        write_key(writer, "x-opt-enqueued-time");
        amqp_write_timestamp(writer, record->append_time_ms);
        count += 6;
    }
    struct span foreign = {0};
    if (showing->first[ANNOTATIONS] != NULL) {
        uint32_t items = items_of(showing->first[ANNOTATIONS]->value);
        if (items > 0)
            foreign = showing->first[ANNOTATIONS]->value;
        if (shown->note.size == 0)
            count += items;
    }
    if (shown->note.size > 0)
        count += amqp_note_write(writer, foreign, shown->note);
    else
        amqp_write_raw(writer, foreign);
    count += write_types(writer, showing, shown, foreign);
    if (count == 0)
        *writer = before;
    else
        amqp_close(writer, began, AMQP_MAP, count, false);
}

/* A map of items that were kept with their count. */
static void write_kept_map(struct amqp_writer *writer, enum amqp_section section, struct span kept)
{
    struct reader at = reader_of(kept);
    uint64_t count = reader_uvarint(&at);
    struct span items = span_of(at.at, reader_left(&at));
    if (at.failed || count > items.size || !amqp_annotations_valid(items, (uint32_t)count))
        return;
    amqp_write_section(writer, section);
    uint8_t *began = amqp_open(writer);
    amqp_write_raw(writer, items);
    amqp_close(writer, began, AMQP_MAP, (uint32_t)count, false);
}

/* ------------------------------------------------ body */

static void write_body(struct amqp_writer *writer, const struct record *record,
                       const struct header *how)
{
    struct amqp_message message;
    struct span body = how == NULL ? span_of("d", 1) : how->value;
    if (how != NULL && body.size == 0)
        return; /* it had none */
    if (body.size > 1 && amqp_message_read(body, &message) == STATUS_OK &&
        message.body.size == body.size) {
        amqp_write_raw(writer, body);
    } else if (span_is(body, "s") && utf8_is_valid(record->value)) {
        amqp_write_section(writer, AMQP_SECTION_VALUE);
        amqp_write_bytes(writer, AMQP_STRING, record->value);
    } else if (span_is(body, "b")) {
        amqp_write_section(writer, AMQP_SECTION_VALUE);
        amqp_write_bytes(writer, AMQP_BINARY, record->value);
    } else {
        amqp_write_section(writer, AMQP_SECTION_DATA);
        amqp_write_bytes(writer, AMQP_BINARY, record->value);
    }
}

size_t amqp_view_bound(const struct record *record)
{
    /* Properties may be shown twice, and each then brings the heads of its values. */
    return 512 + record->key.size + record->value.size + 2 * record->headers.size +
           (size_t)record->header_count * 2 * (2 * AMQP_VALUE_MAX + 16);
}

size_t amqp_view_write(const struct record *record, const struct amqp_shown *shown, uint8_t *to)
{
    struct header headers[LIMIT_HEADERS];
    struct showing showing;
    struct kept kept;
    uint32_t count = 0;
    struct reader at = reader_of(record->headers);
    while (count < LIMIT_HEADERS && record_next_header(&at, &headers[count]))
        count++;
    showing_init(&showing, headers, count);
    kept_read(&showing, &kept);
    struct amqp_writer writer = {.at = to};
    write_head(&writer, record, &showing, shown);
    if (kept.flags & AMQP_KEEPS_DELIVERY)
        write_kept_map(&writer, AMQP_SECTION_DELIVERY_ANNOTATIONS, kept.delivery);
    write_annotations(&writer, record, &showing, shown, kept.flags);
    if (kept.flags & AMQP_KEEPS_BARE) {
        amqp_write_raw(&writer, kept.bare);
    } else {
        write_properties(&writer, &showing, kept.flags);
        write_application(&writer, &showing, kept.flags);
    }
    write_body(&writer, record, showing.first[BODY]);
    if (kept.flags & AMQP_KEEPS_FOOTER)
        write_kept_map(&writer, AMQP_SECTION_FOOTER, kept.footer);
    return (size_t)(writer.at - to);
}
