/* SPDX-License-Identifier: Apache-2.0 */
/* Messages from JSON. Numbers, truth values and null among the properties are stored as text, and
 * pl-types remembers what they were. */
#include "adapters/ws/message.h"

#include <stdio.h>

#include "adapters/http/codec.h"
#include "adapters/http/json.h"
#include "core/base/clock.h"
#include "core/base/limits.h"
#include "core/log/types.h"
#include "core/queue/label.h"

enum { NAME_MAX_BYTES = 1024, TYPES_MAX = 64 * 1024 };

struct reading {
    struct arena *arena;
    struct publish *publish;
    struct header *headers;
    uint32_t count, room;
    struct buf types;
    struct err *err;
};

static bool fail(struct reading *reading, const char *text)
{
    err_set(reading->err, STATUS_INVALID, "%s", text);
    return false;
}

static bool add(struct reading *reading, struct span name, struct span value)
{
    if (reading->count == reading->room)
        return fail(reading, "too many properties");
    reading->headers[reading->count++] = (struct header){name, value};
    return true;
}

static struct span kept(struct reading *reading, const void *bytes, size_t size)
{
    char *copy = arena_text(reading->arena, bytes, size);
    return copy == NULL ? (struct span){0} : span_of(copy, size);
}

static bool is_given(const json_t *value)
{
    return value != NULL && !json_is_null(value);
}

static bool decode(struct reading *reading, const json_t *text, struct span *bytes)
{
    struct buf decoded;
    buf_init(&decoded, LIMIT_RECORD_BYTES);
    enum status status = base64_decode(json_span(text), &decoded);
    if (status == STATUS_OK)
        *bytes = kept(reading, decoded.size == 0 ? "" : (const char *)decoded.data, decoded.size);
    buf_deinit(&decoded);
    return (status == STATUS_OK && bytes->data != NULL) ||
           fail(reading, "not base64, or too large");
}

/* The JSON text of a value. */
static bool dump(struct reading *reading, const json_t *value, struct span *text)
{
    size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17);
    size_t size = json_dumpb(value, NULL, 0, flags);
    char *room = size == 0 ? NULL : arena_alloc(reading->arena, size);
    if (room == NULL || json_dumpb(value, room, size, flags) != size)
        return fail(reading, "a value is too large");
    *text = span_of(room, size);
    return true;
}

/* ---------------------------------------------------------------- body */

static bool read_body(struct reading *reading, const json_t *frame, const struct span *given)
{
    const json_t *body = json_object_get(frame, "body");
    const json_t *encoding = json_object_get(frame, "body_encoding");
    struct span *value = &reading->publish->body;
    if (given != NULL) {
        *value = *given;
        return true;
    }
    if (body == NULL)
        return fail(reading, "body is missing");
    if (is_given(encoding)) {
        if (!json_is_string(encoding) || !span_is(json_span(encoding), "base64") ||
            !json_is_string(body))
            return fail(reading, "body_encoding may be base64, and body is a string then");
        return decode(reading, body, value);
    }
    if (json_is_string(body)) {
        *value = json_span(body);
        return true;
    }
    if (!is_given(json_object_get(frame, "content_type")) &&
        !add(reading, span_from_text(HEADER_CONTENT_TYPE), span_from_text("application/json")))
        return false;
    return dump(reading, body, value);
}

/* ---------------------------------------------------------------- fields */

static bool read_texts(struct reading *reading, const json_t *frame)
{
    static const struct {
        const char *member, *header;
    } fields[] = {
        {"content_type", HEADER_CONTENT_TYPE}, {"content_encoding", HEADER_CONTENT_ENCODING},
        {"message_id", HEADER_MESSAGE_ID},     {"correlation_id", HEADER_CORRELATION_ID},
        {"reply_to", HEADER_REPLY_TO},         {"subject", HEADER_SUBJECT},
        {"group_id", HEADER_GROUP_ID},         {"traceparent", "traceparent"},
        {"tracestate", "tracestate"},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const json_t *value = json_object_get(frame, fields[i].member);
        struct span text;
        if (!is_given(value))
            continue;
        if (json_is_string(value))
            text = json_span(value);
        else if (json_object_size(value) != 1 ||
                 !json_is_string(json_object_get(value, "base64")) ||
                 !decode(reading, json_object_get(value, "base64"), &text))
            return fail(reading, "a field must be a string, or {\"base64\"}");
        if (!add(reading, span_from_text(fields[i].header), text))
            return false;
    }
    return true;
}

static bool add_number(struct reading *reading, const char *header, int64_t number)
{
    char text[24];
    int size = snprintf(text, sizeof text, "%lld", (long long)number);
    return add(reading, span_from_text(header), kept(reading, text, (size_t)size));
}

/* A whole number from 0 to high; false: it is none. Missing: -1. */
static bool read_number(struct reading *reading, const json_t *frame, const char *member,
                        int64_t high, int64_t *number)
{
    const json_t *value = json_object_get(frame, member);
    *number = -1;
    if (!is_given(value))
        return true;
    if (json_is_integer(value) && json_integer_value(value) >= 0 &&
        json_integer_value(value) <= high) {
        *number = json_integer_value(value);
        return true;
    }
    err_set(reading->err, STATUS_INVALID, "%s must be a number from 0 to %lld", member,
            (long long)high);
    return false;
}

static bool read_numbers(struct reading *reading, const json_t *frame)
{
    enum { EXPIRY_MAX_MS_BITS = 52 };
    int64_t priority, sequence, at, after, delay, high = INT64_C(1) << EXPIRY_MAX_MS_BITS;
    if (!read_number(reading, frame, "priority", 9, &priority) ||
        !read_number(reading, frame, "group_sequence", UINT32_MAX, &sequence) ||
        !read_number(reading, frame, "expires_at", high, &at) ||
        !read_number(reading, frame, "expiry_ms", high, &after) ||
        !read_number(reading, frame, "delay_ms", LIMIT_DELAY_MS, &delay) ||
        (priority >= 0 && !add_number(reading, HEADER_PRIORITY, priority)) ||
        (sequence >= 0 && !add_number(reading, HEADER_GROUP_SEQUENCE, sequence)))
        return false;
    if (after >= 0)
        at = clock_wall_ms() + after;
    if (at > 0)
        reading->publish->expires_at_ms = at;
    if (delay > 0)
        reading->publish->delay_ms = (uint64_t)delay;
    return at <= 0 || add_number(reading, HEADER_EXPIRES_AT, at);
}

static bool read_labels(struct reading *reading, const json_t *frame)
{
    const json_t *labels = json_object_get(frame, "labels");
    char text[LABELS_MAX * (LABEL_SIZE_MAX + 1)];
    size_t size = 0;
    if (!is_given(labels))
        return true;
    if (!json_is_array(labels) || json_array_size(labels) > LABELS_MAX)
        return fail(reading, "labels must be an array of at most three");
    for (size_t i = 0; i < json_array_size(labels); i++) {
        const json_t *label = json_array_get(labels, i);
        struct span one = json_is_string(label) ? json_span(label) : (struct span){0};
        if (!label_is_valid(one))
            return fail(reading, "a label is 1 to 64 letters, digits, - and _ and .");
        if (size > 0)
            text[size++] = ',';
        memcpy(text + size, one.data, one.size);
        size += one.size;
    }
    return size == 0 || add(reading, span_from_text(HEADER_LABELS), kept(reading, text, size));
}

/* ---------------------------------------------------------------- properties */

static bool is_reserved(struct span name)
{
    return span_is(name, HEADER_PUBLISHER) || span_is(name, HEADER_TOPIC) ||
           span_is(name, HEADER_EXPIRES_AT) || span_is(name, HEADER_LABELS);
}

static bool add_typed(struct reading *reading, struct span name, struct span value, unsigned type)
{
    struct pack pack = pack_into(&reading->types);
    struct typed_name typed = {.code = (uint8_t)type, .name = name};
    for (uint32_t i = 0; i < reading->count; i++)
        typed.occurrence = (uint8_t)(typed.occurrence + span_equal(reading->headers[i].name, name));
    types_add(&pack, &typed);
    if (pack.status != STATUS_OK)
        return fail(reading, "too many properties");
    return add(reading, name, value);
}

static bool add_property(struct reading *reading, struct span name, const json_t *value)
{
    struct span text = {0};
    if (name.size == 0 || name.size > NAME_MAX_BYTES || is_reserved(name))
        return fail(reading, "a property has no name, a long one, or one with another meaning");
    name = header_stored_name(name, reading->arena);
    if (name.data == NULL)
        return fail(reading, "too many properties");
    if (json_is_string(value))
        return add(reading, name, json_span(value));
    if (json_is_null(value))
        return add_typed(reading, name, text, TYPE_NULL);
    if (json_object_size(value) == 1 && json_is_string(json_object_get(value, "base64")))
        return decode(reading, json_object_get(value, "base64"), &text) && add(reading, name, text);
    if (!dump(reading, value, &text))
        return false;
    unsigned type = json_is_boolean(value)   ? TYPE_BOOLEAN
                    : json_is_integer(value) ? TYPE_LONG
                    : json_is_real(value)    ? TYPE_DOUBLE
                                             : 0;
    return type == 0 ? add(reading, name, text) : add_typed(reading, name, text, type);
}

static bool read_properties(struct reading *reading, const json_t *properties)
{
    if (!is_given(properties))
        return true;
    if (!json_is_array(properties))
        return fail(reading, "properties must be an array of [name, value]");
    for (size_t i = 0; i < json_array_size(properties); i++) {
        const json_t *pair = json_array_get(properties, i), *name = json_array_get(pair, 0);
        if (json_array_size(pair) != 2 || !json_is_string(name))
            return fail(reading, "a property must be [name, value]");
        if (!add_property(reading, json_span(name), json_array_get(pair, 1)))
            return false;
    }
    return true;
}

/* ---------------------------------------------------------------- the whole */

static enum status read_target(const json_t *frame, const struct client *client,
                               struct publish *publish, struct err *err)
{
    const json_t *topic = json_object_get(frame, "topic"), *queue = json_object_get(frame, "queue");
    if (json_is_string(topic) == json_is_string(queue))
        return err_set(err, STATUS_INVALID, "either topic or queue is wanted");
    if (json_is_string(topic)) {
        publish->topic = json_span(topic);
        return STATUS_OK;
    }
    publish->queue =
        catalog_queue_by_text(broker_catalog(client->worker), client->tenant, json_span(queue));
    return publish->queue == NULL ? err_set(err, STATUS_NOT_FOUND, "there is no such queue")
                                  : STATUS_OK;
}

static bool read_rest(struct reading *reading, const json_t *frame)
{
    const json_t *key = json_object_get(frame, "key"), *id = json_object_get(frame, "dedup_id");
    if (json_is_string(key))
        reading->publish->key = json_span(key);
    else if (is_given(key))
        return fail(reading, "key must be a string");
    if (json_is_string(id))
        reading->publish->dedup_id = json_span(id);
    else if (is_given(id))
        return fail(reading, "dedup_id must be a string");
    reading->publish->retain = json_is_true(json_object_get(frame, "retain"));
    return true;
}

enum status ws_message_read(struct arena *arena, const json_t *frame, const struct client *client,
                            const struct span *body, struct publish *publish, struct err *err)
{
    *publish = (struct publish){.guarantee = GUARANTEE_AT_LEAST_ONCE};
    enum status status = read_target(frame, client, publish, err);
    if (status != STATUS_OK)
        return status;
    const json_t *properties = json_object_get(frame, "properties");
    struct reading reading = {.arena = arena, .publish = publish, .err = err};
    size_t room = json_array_size(properties) + 16;
    reading.room = room < LIMIT_HEADERS - 4 ? (uint32_t)room : LIMIT_HEADERS - 4;
    reading.headers = arena_alloc(arena, (reading.room + 1) * sizeof *reading.headers);
    if (reading.headers == NULL)
        return err_set(err, STATUS_INVALID, "too many properties");
    buf_init(&reading.types, TYPES_MAX);
    bool good = read_rest(&reading, frame) && read_texts(&reading, frame) &&
                read_numbers(&reading, frame) && read_labels(&reading, frame) &&
                read_properties(&reading, properties) && read_body(&reading, frame, body);
    if (good && reading.types.size > 0)
        reading.headers[reading.count++] = (struct header){
            span_from_text(HEADER_TYPES), kept(&reading, reading.types.data, reading.types.size)};
    buf_deinit(&reading.types);
    publish->headers = reading.headers;
    publish->header_count = reading.count;
    return good ? broker_check_id(publish, err) : STATUS_INVALID;
}
