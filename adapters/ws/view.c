/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a record's standard fields by name and everything else as "properties", in order. */
#include "adapters/ws/view.h"

#include <strings.h>

#include "adapters/http/codec.h"
#include "core/base/utf8.h"
#include "core/log/types.h"

/* Header and member, and whether the value is written as the number that it is. */
static const struct field {
    const char *header, *member;
    bool number;
} fields[] = {
    {HEADER_TOPIC, "topic", false},
    {HEADER_CONTENT_TYPE, "content_type", false},
    {HEADER_CONTENT_ENCODING, "content_encoding", false},
    {HEADER_MESSAGE_ID, "id", false},
    {HEADER_CORRELATION_ID, "correlation_id", false},
    {HEADER_REPLY_TO, "reply_to", false},
    {HEADER_SUBJECT, "subject", false},
    {HEADER_PRIORITY, "priority", true},
    {HEADER_GROUP_ID, "group_id", false},
    {HEADER_GROUP_SEQUENCE, "group_sequence", true},
    {HEADER_EXPIRES_AT, "expires_at", true},
    {HEADER_PUBLISHER, "publisher", false},
    {"traceparent", "traceparent", false},
    {"tracestate", "tracestate", false},
};
enum { FIELDS = sizeof fields / sizeof *fields };

static const struct field *field_of(struct span name, unsigned *seen)
{
    for (unsigned i = 0; i < FIELDS; i++) {
        if ((*seen & 1u << i) == 0 && span_is(name, fields[i].header)) {
            *seen |= 1u << i;
            return &fields[i];
        }
    }
    return NULL;
}

static bool is_number(struct span text)
{
    if (text.size == 0 || text.size > 15 || (text.size > 1 && text.data[0] == '0'))
        return false;
    for (size_t i = 0; i < text.size; i++)
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
    return true;
}

/* A string, or {"base64": "..."} for bytes that are no text. */
static void put_bytes(struct buf *to, struct span value)
{
    if (utf8_is_valid(value)) {
        json_put_text(to, value);
        return;
    }
    json_put(to, "{\"base64\":\"");
    base64_encode(value, to);
    json_put(to, "\"}");
}

static void put_member(struct buf *to, const char *member)
{
    json_put(to, "\"");
    json_put(to, member);
    json_put(to, "\":");
}

static void put_labels(struct buf *to, struct span labels)
{
    json_put(to, "\"labels\":[");
    for (bool first = true; labels.size > 0; first = false) {
        const uint8_t *comma = memchr(labels.data, ',', labels.size);
        size_t size = comma == NULL ? labels.size : (size_t)(comma - labels.data);
        if (!first)
            json_put(to, ",");
        put_bytes(to, span_of(labels.data, size));
        labels = span_from(labels, size + 1);
    }
    json_put(to, "],");
}

static void put_value(struct buf *to, const struct header *header, unsigned type)
{
    bool plain = type == TYPE_BOOLEAN || type == TYPE_LONG || type == TYPE_INT ||
                 type == TYPE_DOUBLE || type == TYPE_FLOAT || type == TYPE_UINT ||
                 type == TYPE_SHORT || type == TYPE_USHORT || type == TYPE_BYTE ||
                 type == TYPE_UBYTE;
    if (type == TYPE_NULL || header->value.data == NULL)
        json_put(to, "null");
    else if (plain && json_is_value(header->value))
        buf_append(to, header->value.data, header->value.size);
    else
        put_bytes(to, header->value);
}

static uint32_t occurrence_of(const struct record *record, struct span name, uint32_t position)
{
    struct reader at = reader_of(record->headers);
    struct header header;
    uint32_t count = 0;
    for (uint32_t i = 0; i < position && record_next_header(&at, &header); i++)
        count += span_equal(header.name, name);
    return count;
}

static void put_properties(const struct record *record, uint64_t others, struct buf *to)
{
    struct reader at = reader_of(record->headers);
    struct header header;
    struct span types = {0};
    record_find(record, HEADER_TYPES, &types);
    bool first = true;
    for (uint32_t i = 0; record_next_header(&at, &header); i++) {
        if (i < 64 && (others & 1ULL << i) == 0)
            continue;
        struct span name = header_given_name(header.name);
        if (name.data == NULL || !utf8_is_valid(name))
            continue;
        json_put(to, first ? "\"properties\":[[" : ",[");
        first = false;
        json_put_text(to, name);
        json_put(to, ",");
        unsigned type = types.size == 0
                            ? 0
                            : types_find(types, header.name, occurrence_of(record, header.name, i));
        put_value(to, &header, type);
        json_put(to, "]");
    }
    if (!first)
        json_put(to, "],");
}

static bool is_json_type(struct span type)
{
    static const char json[] = "application/json";
    const uint8_t *semicolon = type.size == 0 ? NULL : memchr(type.data, ';', type.size);
    size_t size = semicolon == NULL ? type.size : (size_t)(semicolon - type.data);
    while (size > 0 && type.data[size - 1] == ' ')
        size--;
    const char *text = (const char *)type.data;
    return (size == sizeof json - 1 && strncasecmp(text, json, size) == 0) ||
           (size > 5 && strncasecmp(text + size - 5, "+json", 5) == 0);
}

static void put_body(const struct record *record, struct span type, bool binary, struct buf *to)
{
    if (binary) {
        json_put(to, "\"body_frame\":true");
    } else if (is_json_type(type) && json_is_value(record->value)) {
        json_put(to, "\"body\":");
        buf_append(to, record->value.data, record->value.size);
    } else if (utf8_is_valid(record->value)) {
        json_put(to, "\"body\":");
        json_put_text(to, record->value);
    } else {
        json_put(to, "\"body_encoding\":\"base64\",\"body\":\"");
        base64_encode(record->value, to);
        json_put(to, "\"");
    }
}

static void put_place(const struct record *record, const struct ws_view_place *place,
                      struct buf *to)
{
    if (place->queue != NULL) {
        json_put(to, "\"queue\":");
        json_put_text(to, span_from_text(place->queue));
        json_put(to, ",\"partition\":");
        json_put_number(to, place->partition);
        json_put(to, ",");
    }
    if (record->append_time_ms > 0) {
        json_put(to, "\"offset\":");
        json_put_number(to, (int64_t)record->offset);
        json_put(to, ",");
    }
    json_put(to, "\"time\":");
    json_put_number(to, record->timestamp_ms);
    json_put(to, ",");
}

void ws_view_write(const struct record *record, const struct ws_view_place *place, bool binary,
                   struct buf *to)
{
    struct reader at = reader_of(record->headers);
    struct header header;
    struct span type = {0};
    unsigned seen = 0;
    bool labelled = false;
    uint64_t others = 0; /* headers that are properties, by position */
    put_place(record, place, to);
    if (record->key.data != NULL) {
        json_put(to, "\"key\":");
        put_bytes(to, record->key);
        json_put(to, ",");
    }
    for (uint32_t i = 0; record_next_header(&at, &header); i++) {
        if (!labelled && span_is(header.name, HEADER_LABELS)) {
            labelled = true;
            if (header.value.data != NULL)
                put_labels(to, header.value);
            continue;
        }
        const struct field *field = field_of(header.name, &seen);
        if (field == NULL) {
            others |= i < 64 ? 1ULL << i : 0;
            continue;
        }
        if (header.value.data == NULL) /* it has none: a property has the name */
            continue;
        if (field->header == fields[1].header)
            type = header.value;
        put_member(to, field->member);
        if (field->number && is_number(header.value))
            buf_append(to, header.value.data, header.value.size);
        else
            put_bytes(to, header.value);
        json_put(to, ",");
    }
    if ((record->attributes & RECORD_RETAIN) != 0)
        json_put(to, "\"retain\":true,");
    if ((record->attributes & RECORD_RECALLED) != 0)
        json_put(to, "\"retained\":true,");
    if (others != 0 || record->header_count > 64)
        put_properties(record, others, to);
    put_body(record, type, binary, to);
}
