/* SPDX-License-Identifier: Apache-2.0 */
/* An AMQP message as a record: properties become headers with their plain names, application
 * properties headers with their own, values text whose type "pl-types" remembers. */
#include <stdio.h>

#include "adapters/amqp/view.h"
#include "core/base/clock.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/log/types.h"
#include "core/queue/label.h"

static const struct {
    const char *name;
    enum amqp_property property;
} fields[] = {
    {HEADER_MESSAGE_ID, AMQP_MESSAGE_ID},
    {AMQP_HEADER_USER_ID, AMQP_USER_ID},
    {AMQP_HEADER_TO, AMQP_TO},
    {HEADER_SUBJECT, AMQP_SUBJECT},
    {HEADER_REPLY_TO, AMQP_REPLY_TO},
    {HEADER_CORRELATION_ID, AMQP_CORRELATION_ID},
    {HEADER_CONTENT_TYPE, AMQP_CONTENT_TYPE},
    {HEADER_CONTENT_ENCODING, AMQP_CONTENT_ENCODING},
    {HEADER_EXPIRES_AT, AMQP_ABSOLUTE_EXPIRY},
    {HEADER_CREATION_TIME, AMQP_CREATION_TIME},
    {HEADER_GROUP_ID, AMQP_GROUP_ID},
    {HEADER_GROUP_SEQUENCE, AMQP_GROUP_SEQUENCE},
    {AMQP_HEADER_REPLY_GROUP, AMQP_REPLY_TO_GROUP_ID},
};
enum {
    FIELDS = sizeof fields / sizeof *fields,
    TEXT_MAX = 40,
    KEPT_MAX = 1 << 20,
    CLOCKS_MS = 60000
};

struct reading {
    struct arena *arena;
    struct publish *publish;
    struct header *headers;
    uint32_t count, capacity;
    struct buf types; /* the value of pl-types */
    struct err *err;
    bool full;      /* of memory, or of headers */
    bool dedup;     /* the message-id names the message */
    unsigned flags; /* of enum amqp_kept: annotations that are kept as they are */
};

static struct span copy(struct reading *reading, const void *bytes, size_t size)
{
    char *text = arena_text(reading->arena, bytes, size);
    reading->full |= text == NULL;
    return text == NULL ? span_of("", 0) : span_of(text, size);
}

static void add_header(struct reading *reading, struct span name, struct span value)
{
    if (reading->count == reading->capacity) {
        reading->full = true;
        return;
    }
    reading->headers[reading->count++] = (struct header){name, value};
}

static uint32_t occurrence_of(const struct reading *reading, struct span name)
{
    uint32_t occurrence = 0;
    for (uint32_t i = 0; i < reading->count; i++)
        occurrence += span_equal(reading->headers[i].name, name);
    return occurrence;
}

/* Text and bytes that no type is kept for are borrowed from the message. */
static struct span text_of(struct reading *reading, const struct amqp_value *value)
{
    char text[TEXT_MAX];
    int size = 0;
    switch (value->type) {
    case AMQP_STRING:
    case AMQP_SYMBOL:
    case AMQP_BINARY:
        return value->bytes;
    case AMQP_NULL:
        return span_of(NULL, 0);
    case AMQP_BOOLEAN:
        return span_from_text(value->number != 0 ? "true" : "false");
    case AMQP_UBYTE:
    case AMQP_USHORT:
    case AMQP_UINT:
    case AMQP_ULONG:
        size = snprintf(text, sizeof text, "%llu", (unsigned long long)value->number);
        break;
    case AMQP_BYTE:
    case AMQP_SHORT:
    case AMQP_INT:
    case AMQP_LONG:
    case AMQP_TIMESTAMP:
        size = snprintf(text, sizeof text, "%lld", (long long)value->number);
        break;
    case AMQP_FLOAT:
        size = snprintf(text, sizeof text, "%.9g", amqp_value_real(value));
        break;
    case AMQP_DOUBLE:
        size = snprintf(text, sizeof text, "%.17g", amqp_value_real(value));
        break;
    case AMQP_CHAR: /* its code point, as a number: a text of one character would be a string */
        size = snprintf(text, sizeof text, "%llu", (unsigned long long)value->number);
        break;
    case AMQP_DECIMAL32:
    case AMQP_DECIMAL64:
        size = snprintf(text, sizeof text, "0x%llx", (unsigned long long)value->number);
        break;
    case AMQP_DECIMAL128:
    case AMQP_UUID:
        for (size_t i = 0; i < value->bytes.size; i++)
            size += snprintf(
                text + size, sizeof text - (size_t)size, "%s%02x",
                value->type == AMQP_UUID && (i == 4 || i == 6 || i == 8 || i == 10) ? "-" : "",
                value->bytes.data[i]);
        break;
    case AMQP_DESCRIBED:
    case AMQP_LIST:
    case AMQP_MAP:
    case AMQP_ARRAY:
        return span_of(NULL, 0); /* no simple value: refused before */
    }
    return copy(reading, text, (size_t)size);
}

/* Its own type is what a reader takes text without a type for. */
static bool is_plain(enum amqp_type type, const struct amqp_value *value)
{
    return value->type == type ||
           (type == AMQP_STRING && value->type == AMQP_BINARY && !utf8_is_valid(value->bytes));
}

static void add_value(struct reading *reading, struct span name, enum amqp_type plain,
                      const struct amqp_value *value)
{
    if (!is_plain(plain, value)) {
        struct pack pack = pack_into(&reading->types);
        /* The core puts its own before these two. */
        uint32_t occurrence = occurrence_of(reading, name) +
                              (span_is(name, HEADER_TOPIC) || span_is(name, HEADER_PUBLISHER));
        types_add(&pack, &(struct typed_name){.code = (uint8_t)value->type,
                                              .occurrence = (uint8_t)occurrence,
                                              .name = name});
        reading->full |= pack.status != STATUS_OK || occurrence > UINT8_MAX;
    }
    add_header(reading, name, text_of(reading, value));
}

/* ------------------------------------------------ addresses */

static bool begins(struct span text, const char *prefix)
{
    size_t size = strlen(prefix);
    return text.size >= size && memcmp(text.data, prefix, size) == 0;
}

struct span amqp_address_in(struct span address, struct arena *arena)
{
    static const char QUEUE[] = "$queue/";
    if (begins(address, "/topics/"))
        return span_of(address.data + 8, address.size - 8); /* also when nothing follows */
    if (begins(address, "/queues/"))
        address = span_from(address, 8);
    else if (address.size == 0 || address.data[0] == '/' || address.data[0] == '$' ||
             memchr(address.data, '/', address.size) != NULL)
        return address; /* not one of ours: as it is */
    char *text = arena_alloc(arena, sizeof QUEUE - 1 + address.size);
    if (text == NULL)
        return span_of(NULL, 0);
    memcpy(text, QUEUE, sizeof QUEUE - 1);
    if (address.size > 0)
        memcpy(text + sizeof QUEUE - 1, address.data, address.size);
    return span_of(text, sizeof QUEUE - 1 + address.size);
}

/* ------------------------------------------------ header and properties */

static void read_expiry(struct reading *reading, const struct amqp_message *message)
{
    const struct amqp_value *absolute = &message->properties[AMQP_ABSOLUTE_EXPIRY];
    int64_t at_ms = absolute->type == AMQP_TIMESTAMP ? (int64_t)absolute->number : 0;
    int64_t by_ttl_ms = message->has_ttl ? clock_wall_ms() + (int64_t)message->ttl : 0;
    /* Both come from the same clock reading of the sender, which is believed unless it is far off.
     */
    if (message->has_ttl &&
        (at_ms <= 0 || at_ms - by_ttl_ms > CLOCKS_MS || by_ttl_ms - at_ms > CLOCKS_MS))
        at_ms = by_ttl_ms;
    if (at_ms <= 0)
        return;
    if (at_ms > INT64_MAX / 2)
        at_ms = INT64_MAX / 2;
    reading->publish->expires_at_ms = at_ms;
    char text[TEXT_MAX];
    int size = snprintf(text, sizeof text, "%lld", (long long)at_ms);
    add_header(reading, span_from_text(HEADER_EXPIRES_AT), copy(reading, text, (size_t)size));
}

static void read_properties(struct reading *reading, const struct amqp_message *message)
{
    if (message->has_priority) {
        char text[TEXT_MAX];
        int size = snprintf(text, sizeof text, "%u", message->priority);
        add_header(reading, span_from_text(HEADER_PRIORITY), copy(reading, text, (size_t)size));
    }
    read_expiry(reading, message);
    for (unsigned i = 0; i < FIELDS; i++) {
        enum amqp_property property = fields[i].property;
        const struct amqp_value *value = &message->properties[property];
        struct span name = span_from_text(fields[i].name);
        if (value->type == AMQP_NULL || property == AMQP_ABSOLUTE_EXPIRY)
            continue;
        if (property == AMQP_TO && reading->publish->queue == NULL)
            continue; /* the topic says it; another text is in what is kept */
        if (property == AMQP_REPLY_TO) {
            struct span address = amqp_address_in(value->bytes, reading->arena);
            reading->full |= address.data == NULL;
            add_header(reading, name, address);
        } else if (property == AMQP_GROUP_SEQUENCE || property == AMQP_CREATION_TIME ||
                   property == AMQP_USER_ID) {
            add_header(reading, name, text_of(reading, value)); /* their type is always the same */
        } else if (property == AMQP_CONTENT_TYPE || property == AMQP_CONTENT_ENCODING) {
            add_value(reading, name, AMQP_SYMBOL, value);
        } else {
            add_value(reading, name, AMQP_STRING, value);
        }
    }
}

/* ------------------------------------------------ annotations */

static enum status read_label(struct reading *reading, struct span label, char *text, size_t *size,
                              uint32_t *count)
{
    if (!label_is_valid(label) || ++*count > LABELS_MAX)
        return err_set(reading->err, STATUS_INVALID,
                       "x-opt-labels: at most 3 labels of 1 to 64 letters, digits, - _ and .");
    if (*size > 0)
        text[(*size)++] = ',';
    memcpy(text + *size, label.data, label.size);
    *size += label.size;
    return STATUS_OK;
}

/* A text with commas, or a list of texts. */
static enum status read_labels(struct reading *reading, const struct amqp_value *value)
{
    char text[LABELS_MAX * (LABEL_SIZE_MAX + 1)];
    size_t size = 0;
    uint32_t count = 0;
    enum status status = STATUS_OK;
    if (value->type == AMQP_LIST) {
        struct reader at = reader_of(value->bytes);
        for (uint32_t i = 0; i < value->count && status == STATUS_OK; i++) {
            struct amqp_value label;
            bool read = amqp_value_read(&at, &label) && amqp_is_text(&label);
            status = read_label(reading, read ? label.bytes : span_of("", 0), text, &size, &count);
        }
    } else if (amqp_is_text(value)) {
        struct span rest = value->bytes;
        while (rest.size > 0 && status == STATUS_OK) {
            const uint8_t *comma = memchr(rest.data, ',', rest.size);
            size_t length = comma == NULL ? rest.size : (size_t)(comma - rest.data);
            status = read_label(reading, span_of(rest.data, length), text, &size, &count);
            rest = span_from(rest, length + 1);
        }
    } else {
        status = err_set(reading->err, STATUS_INVALID, "x-opt-labels: a list or a text");
    }
    if (status == STATUS_OK && count > 0)
        add_header(reading, span_from_text(HEADER_LABELS), copy(reading, text, size));
    return status;
}

/* Would be written as it came. */
static bool is_plain_list(const struct amqp_value *labels)
{
    bool plain = labels->type == AMQP_LIST && labels->count > 0;
    struct reader at = reader_of(labels->bytes);
    struct amqp_value label;
    for (uint32_t i = 0; i < labels->count && plain; i++)
        plain = amqp_value_read(&at, &label) && label.type == AMQP_STRING;
    return plain;
}

/* What it asks for. is_written: the record says it all, so that the annotation need not be kept. */
static enum status read_annotation(struct reading *reading, struct span key,
                                   const struct amqp_value *value, bool *is_written)
{
    struct publish *publish = reading->publish;
    *is_written = false;
    if (span_is(key, "x-opt-partition-key") &&
        (amqp_is_text(value) || value->type == AMQP_BINARY)) {
        publish->key = value->bytes;
        *is_written = value->type == (utf8_is_valid(value->bytes) ? AMQP_STRING : AMQP_BINARY);
        reading->flags |= *is_written ? 0u : AMQP_KEEPS_KEY;
    } else if (span_is(key, "x-opt-delivery-delay")) {
        publish->delay_ms = amqp_value_ms(value);
    } else if (span_is(key, "x-opt-delivery-time")) {
        uint64_t at = amqp_value_ms(value), now = (uint64_t)clock_wall_ms();
        publish->delay_ms = at == UINT64_MAX ? at : at > now ? at - now : 0;
    } else if (span_is(key, "x-opt-labels")) {
        *is_written = is_plain_list(value);
        reading->flags |= *is_written ? 0u : AMQP_KEEPS_LABELS;
        return read_labels(reading, value);
    } else if (span_is(key, "x-opt-dedup") && value->type == AMQP_BOOLEAN) {
        reading->dedup = value->number != 0;
    } else if (span_is(key, "x-opt-retain") && value->type == AMQP_BOOLEAN) {
        *is_written = publish->retain = value->number != 0;
    } else {
        /* These are the gateway's to say: positions are those of another queue. */
        *is_written = span_is(key, "x-opt-offset") || span_is(key, "x-opt-partition") ||
                      span_is(key, "x-opt-topic") || span_is(key, "x-opt-enqueued-time") ||
                      amqp_is_of_dead(key);
    }
    return STATUS_OK;
}

/* What the record does not say otherwise is kept as it is. */
static enum status read_annotations(struct reading *reading, const struct amqp_message *message)
{
    struct reader at = reader_of(message->annotations.bytes);
    struct buf kept;
    buf_init(&kept, KEPT_MAX);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < message->annotations.count && status == STATUS_OK; i += 2) {
        struct amqp_value key, value;
        const uint8_t *from = at.at;
        bool is_written = false;
        amqp_value_read(&at, &key);
        amqp_value_read(&at, &value);
        if (key.type == AMQP_SYMBOL)
            status = read_annotation(reading, key.bytes, &value, &is_written);
        if (status == STATUS_OK && !is_written)
            status = buf_append(&kept, from, (size_t)(at.at - from));
    }
    if (status == STATUS_OK && kept.size > 0)
        add_header(reading, span_from_text(AMQP_HEADER_ANNOTATIONS),
                   copy(reading, kept.data, kept.size));
    buf_deinit(&kept);
    return status;
}

/* ------------------------------------------------ application properties */

static bool is_field(struct span name)
{
    for (unsigned i = 0; i < FIELDS; i++)
        if (span_is(name, fields[i].name))
            return true;
    return span_is(name, HEADER_PRIORITY) || span_is(name, HEADER_LABELS);
}

/* Where the name is that of a standard field which the message does not have, a null one comes
 * first, so that the publisher's own does not pass for it. */
static enum status read_application(struct reading *reading, const struct amqp_message *message)
{
    struct reader at = reader_of(message->application.bytes);
    for (uint32_t i = 0; i < message->application.count; i += 2) {
        struct amqp_value key, value;
        amqp_value_read(&at, &key);
        amqp_value_read(&at, &value);
        struct span name = header_stored_name(key.bytes, reading->arena);
        if (key.bytes.size > 0 && name.data == NULL)
            return err_set(reading->err, STATUS_TOO_LARGE, "the message has too long properties");
        if (is_field(name) && occurrence_of(reading, name) == 0)
            add_header(reading, name, span_of(NULL, 0));
        add_value(reading, name, AMQP_STRING, &value);
    }
    return STATUS_OK;
}

/* ------------------------------------------------ body */

/* The value of "pl-body" for a single section that is written in its smallest form. */
static const char *body_code(const struct amqp_message *message)
{
    const struct amqp_value *value = &message->value;
    size_t head = value->bytes.size <= UINT8_MAX ? 2 : 5;
    if (message->body_count != 1 || message->body.size != 3 + head + value->bytes.size)
        return NULL;
    if (message->body_kind == AMQP_SECTION_DATA)
        return "";
    if (message->body_kind != AMQP_SECTION_VALUE)
        return NULL;
    if (value->type == AMQP_STRING && utf8_is_valid(value->bytes))
        return "s";
    return value->type == AMQP_BINARY ? "b" : NULL;
}

/* Several data sections are one body; sequences one list. */
static enum status join_body(struct reading *reading, const struct amqp_message *message)
{
    struct buf text;
    buf_init(&text, LIMIT_RECORD_BYTES);
    struct reader at = reader_of(message->body);
    bool is_sequence = message->body_kind == AMQP_SECTION_SEQUENCE && message->body_count > 1;
    enum status status = is_sequence ? buf_append_text(&text, "[") : STATUS_OK;
    struct amqp_value value;
    struct span raw;
    for (bool follows = false; status == STATUS_OK && amqp_body_next(&at, &value, &raw);
         follows = true) {
        if (follows && is_sequence)
            status = buf_append_text(&text, ",");
        if (status == STATUS_OK)
            status = value.type == AMQP_BINARY || value.type == AMQP_STRING
                         ? buf_append(&text, value.bytes.data, value.bytes.size)
                         : amqp_json(raw, &text);
    }
    if (status == STATUS_OK && is_sequence)
        status = buf_append_text(&text, "]");
    if (status == STATUS_OK)
        reading->publish->body =
            copy(reading, text.size == 0 ? (const void *)"" : text.data, text.size);
    buf_deinit(&text);
    return status;
}

/* Whatever has no short code keeps its sections. */
static enum status read_body(struct reading *reading, const struct amqp_message *message)
{
    const char *code = body_code(message);
    if (code != NULL) {
        reading->publish->body = message->value.bytes;
        if (*code != '\0')
            add_header(reading, span_from_text(HEADER_BODY), span_from_text(code));
        return STATUS_OK;
    }
    if (message->body_count == 0)
        reading->publish->body = span_of("", 0);
    enum status status = message->body_count == 0 ? STATUS_OK : join_body(reading, message);
    struct span body = message->body_count == 0 ? span_of("", 0) : message->body;
    add_header(reading, span_from_text(HEADER_BODY), body);
    return status;
}

/* ------------------------------------------------ what is kept */

static void keep_items(struct pack *pack, const struct amqp_value *map)
{
    struct buf items;
    buf_init(&items, KEPT_MAX);
    struct pack inner = pack_into(&items);
    pack_uvarint(&inner, map->count);
    pack_bytes(&inner, map->bytes);
    pack_block(pack, buf_span(&items));
    if (inner.status != STATUS_OK)
        pack->status = inner.status;
    buf_deinit(&items);
}

/* Would the properties be written as they came? */
static bool writes_the_same(struct reading *reading, const struct amqp_message *message,
                            unsigned flags)
{
    if (message->properties_section.size == 0 && message->application_section.size == 0)
        return true;
    size_t split = message->properties_section.size;
    size_t size = split + message->application_section.size;
    uint8_t *again = arena_alloc(reading->arena, amqp_bare_bound(reading->headers, reading->count));
    reading->full |= again == NULL;
    return again != NULL &&
           amqp_view_bare(reading->headers, reading->count, flags, again) == size &&
           (split == 0 || memcmp(again, message->properties_section.data, split) == 0) &&
           (size == split ||
            memcmp(again + split, message->application_section.data, size - split) == 0);
}

static enum status keep(struct reading *reading, const struct amqp_message *message)
{
    unsigned flags = AMQP_EXACT | reading->flags;
    flags |= message->properties[AMQP_ABSOLUTE_EXPIRY].type == AMQP_NULL ? 0u : AMQP_ABSOLUTE;
    flags |= message->wide_properties ? AMQP_WIDE_PROPERTIES : 0u;
    flags |= message->wide_application ? AMQP_WIDE_APPLICATION : 0u;
    if (!writes_the_same(reading, message, flags))
        flags |= AMQP_KEEPS_BARE;
    if (message->delivery_annotations.count > 0)
        flags |= AMQP_KEEPS_DELIVERY;
    if (message->footer.type == AMQP_MAP)
        flags |= AMQP_KEEPS_FOOTER;
    struct buf kept;
    buf_init(&kept, LIMIT_RECORD_BYTES);
    struct pack pack = pack_into(&kept);
    pack_uvarint(&pack, flags);
    if (flags & AMQP_KEEPS_BARE) {
        pack_uvarint(&pack, message->properties_section.size + message->application_section.size);
        pack_bytes(&pack, message->properties_section);
        pack_bytes(&pack, message->application_section);
    }
    if (flags & AMQP_KEEPS_DELIVERY)
        keep_items(&pack, &message->delivery_annotations);
    if (flags & AMQP_KEEPS_FOOTER)
        keep_items(&pack, &message->footer);
    if (pack.status == STATUS_OK)
        add_header(reading, span_from_text(AMQP_HEADER_AMQP), copy(reading, kept.data, kept.size));
    buf_deinit(&kept);
    return pack.status;
}

enum status amqp_view_read(struct arena *arena, struct span bytes, struct publish *publish,
                           struct span *to, struct err *err)
{
    struct amqp_message message;
    if (amqp_message_read(bytes, &message) != STATUS_OK)
        return err_set(err, STATUS_MALFORMED, "the message cannot be decoded");
    /* Each application property may bring a null one along. */
    uint32_t capacity = LIMIT_HEADERS - 2;
    if (message.application.count < LIMIT_HEADERS / 2)
        capacity = FIELDS + 8 + message.application.count;
    struct reading reading = {.arena = arena, .publish = publish, .capacity = capacity, .err = err};
    reading.headers = arena_alloc(arena, capacity * sizeof *reading.headers);
    if (reading.headers == NULL)
        return STATUS_TOO_LARGE;
    *to = message.properties[AMQP_TO].type == AMQP_NULL ? span_of(NULL, 0)
                                                        : message.properties[AMQP_TO].bytes;
    buf_init(&reading.types, 64 * 1024);
    read_properties(&reading, &message);
    enum status status = read_annotations(&reading, &message);
    if (status == STATUS_OK)
        status = read_application(&reading, &message);
    if (status == STATUS_OK && reading.types.size > 0)
        add_header(&reading, span_from_text(HEADER_TYPES),
                   copy(&reading, reading.types.data, reading.types.size));
    if (status == STATUS_OK)
        status = read_body(&reading, &message);
    if (status == STATUS_OK)
        status = keep(&reading, &message);
    buf_deinit(&reading.types);
    if (reading.dedup && message.properties[AMQP_MESSAGE_ID].type != AMQP_NULL)
        publish->dedup_id = text_of(&reading, &message.properties[AMQP_MESSAGE_ID]);
    publish->not_durable = !message.durable;
    publish->headers = reading.headers;
    publish->header_count = reading.count;
    return status == STATUS_OK && reading.full
               ? err_set(err, STATUS_TOO_LARGE, "the message has too many properties")
               : status;
}
