/* SPDX-License-Identifier: Apache-2.0 */
/* Messages to and from JSON. The header pl-types (core/log/types.h) remembers what was not text, so
 * that a number comes back as a number. */
#include "adapters/rest/view.h"

#include <stdio.h>
#include <strings.h>

#include "adapters/http/codec.h"
#include "core/base/clock.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/log/types.h"
#include "core/queue/label.h"

enum {
    CODE_INVALID = 10540001,
    CODE_FORMAT = 10540010,
    ATTRIBUTE_NAME_MAX = 1024,
    OWN_HEADERS = 16
};

static const char KEY[] = "key";
static const char JSON_TYPE[] = "application/json";

/* ---------------------------------------------------------------- reading */

struct reading {
    struct arena *arena;
    struct publish *publish;
    struct header *headers;
    uint32_t count;
    struct buf types; /* the value of pl-types */
    size_t size;
    struct err *err;
};

static struct span name_of(const char *text)
{
    return span_from_text(text);
}

static unsigned fail(struct reading *reading, const char *text)
{
    err_set(reading->err, STATUS_INVALID, "%s", text);
    return CODE_INVALID;
}

static unsigned add_header(struct reading *reading, struct span name, struct span value)
{
    if (reading->count >= LIMIT_HEADERS - OWN_HEADERS)
        return fail(reading, "There are too many attributes.");
    reading->headers[reading->count++] = (struct header){name, value};
    reading->size += name.size + value.size;
    return 0;
}

static struct span text_in(struct arena *arena, const char *text, size_t size)
{
    char *copy = arena_text(arena, text, size);
    return copy == NULL ? (struct span){0} : span_of(copy, size);
}

/* The JSON text of a value, for what has no other form. */
static struct span dump(struct arena *arena, const json_t *value)
{
    size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17);
    size_t size = json_dumpb(value, NULL, 0, flags);
    char *text = size == 0 ? NULL : arena_alloc(arena, size);
    if (text == NULL || json_dumpb(value, text, size, flags) != size)
        return (struct span){0};
    return span_of(text, size);
}

static struct span decoded(struct arena *arena, const json_t *string)
{
    struct buf bytes;
    buf_init(&bytes, LIMIT_HTTP_BODY);
    struct span result = {0};
    if (base64_decode(json_span(string), &bytes) == STATUS_OK) {
        result = text_in(arena, bytes.size == 0 ? "" : (const char *)bytes.data, bytes.size);
    }
    buf_deinit(&bytes);
    return result;
}

static uint32_t occurrence_of(const struct reading *reading, struct span name)
{
    uint32_t occurrence = 0;
    for (uint32_t i = 0; i < reading->count; i++)
        occurrence += span_equal(reading->headers[i].name, name);
    return occurrence;
}

static unsigned add_typed(struct reading *reading, struct span name, const json_t *value,
                          unsigned type)
{
    struct span text = type == TYPE_NULL ? (struct span){0} : dump(reading->arena, value);
    if (type != TYPE_NULL && text.data == NULL)
        return fail(reading, "An attribute is too large.");
    struct pack pack = pack_into(&reading->types);
    uint32_t occurrence = occurrence_of(reading, name);
    if (occurrence <= UINT8_MAX)
        types_add(&pack, &(struct typed_name){(uint8_t)type, (uint8_t)occurrence, name});
    return add_header(reading, name, text);
}

/* An object {"base64": "…"} stands for bytes that are not text. */
static const json_t *base64_of(const json_t *value)
{
    const json_t *text = json_object_size(value) == 1 ? json_object_get(value, "base64") : NULL;
    return json_is_string(text) ? text : NULL;
}

static unsigned add_value(struct reading *reading, struct span name, const json_t *value)
{
    if (json_is_string(value))
        return add_header(reading, name, json_span(value));
    if (json_is_boolean(value))
        return add_typed(reading, name, value, TYPE_BOOLEAN);
    if (json_is_integer(value))
        return add_typed(reading, name, value, TYPE_LONG);
    if (json_is_real(value))
        return add_typed(reading, name, value, TYPE_DOUBLE);
    if (json_is_null(value))
        return add_typed(reading, name, value, TYPE_NULL);
    const json_t *base64 = base64_of(value);
    struct span bytes =
        base64 != NULL ? decoded(reading->arena, base64) : dump(reading->arena, value);
    if (bytes.data == NULL)
        return fail(reading, "An attribute is not valid base64, or too large.");
    return add_header(reading, name, bytes);
}

static unsigned add_number(struct reading *reading, const char *name, uint64_t number)
{
    char text[24];
    int size = snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    return add_header(reading, name_of(name), text_in(reading->arena, text, (size_t)size));
}

static unsigned read_expiry(struct reading *reading, const json_t *value, bool relative)
{
    uint64_t ms;
    if (json_is_integer(value) && json_integer_value(value) >= 0)
        ms = (uint64_t)json_integer_value(value);
    else if (!json_is_string(value) || !http_number(json_span(value), &ms))
        return fail(reading, "An expiry must be a number of milliseconds.");
    if (relative)
        ms += (uint64_t)clock_wall_ms();
    if (ms > INT64_MAX / 2)
        return fail(reading, "An expiry is too far away.");
    reading->publish->expires_at_ms = (int64_t)ms;
    return add_number(reading, HEADER_EXPIRES_AT, ms);
}

static unsigned read_attribute(struct reading *reading, struct span name, const json_t *value)
{
    if (name.size == 0 || name.size > ATTRIBUTE_NAME_MAX ||
        memchr(name.data, '\n', name.size) != NULL)
        return fail(reading, "The name of an attribute is empty, too long, or has a line break.");
    if (span_is(name, HEADER_PUBLISHER))
        return fail(reading, "An attribute has a name that the gateway uses itself.");
    if (span_is(name, KEY) && json_is_string(value)) {
        reading->publish->key = json_span(value);
        reading->size += name.size + reading->publish->key.size;
        return 0;
    }
    if (span_is(name, HEADER_EXPIRES_AT))
        return read_expiry(reading, value, false);
    name = header_stored_name(name, reading->arena);
    if (name.data == NULL)
        return fail(reading, "The attributes are too large.");
    if (!json_is_array(value))
        return add_value(reading, name, value);
    unsigned code = 0;
    for (size_t i = 0; code == 0 && i < json_array_size(value); i++)
        code = add_value(reading, name, json_array_get(value, i));
    return code;
}

static unsigned read_attributes(struct reading *reading, const json_t *attributes)
{
    if (attributes == NULL || json_is_null(attributes))
        return 0;
    if (!json_is_object(attributes))
        return fail(reading, "attributes must be an object.");
    /* jansson iterates without changing, but over a pointer that is not const. */
    void *cursor = json_object_iter((json_t *)(uintptr_t)attributes);
    unsigned code = 0;
    while (cursor != NULL && code == 0) {
        code = read_attribute(reading, span_from_text(json_object_iter_key(cursor)),
                              json_object_iter_value(cursor));
        cursor = json_object_iter_next((json_t *)(uintptr_t)attributes, cursor);
    }
    return code;
}

static bool has_header(const struct reading *reading, const char *name)
{
    return occurrence_of(reading, name_of(name)) > 0;
}

static unsigned read_body(struct reading *reading, const json_t *message, bool ours)
{
    const json_t *body = json_object_get(message, "body");
    const json_t *encoding = ours ? json_object_get(message, "body_encoding") : NULL;
    struct span *value = &reading->publish->body;
    if (body == NULL)
        return fail(reading, "A message has no body.");
    if (encoding != NULL && !json_is_null(encoding)) {
        if (!json_is_string(encoding) || !span_is(json_span(encoding), "base64") ||
            !json_is_string(body))
            return fail(reading, "body_encoding may be base64, and body is a string then.");
        *value = decoded(reading->arena, body);
        if (value->data == NULL)
            return fail(reading, "A body is not valid base64.");
    } else if (json_is_string(body)) {
        *value = json_span(body);
    } else {
        *value = dump(reading->arena, body);
        if (value->data == NULL)
            return fail(reading, "A body is too large.");
        if (!has_header(reading, HEADER_CONTENT_TYPE)) {
            unsigned code = add_header(reading, name_of(HEADER_CONTENT_TYPE), name_of(JSON_TYPE));
            reading->size -= sizeof HEADER_CONTENT_TYPE - 1 + sizeof JSON_TYPE - 1;
            if (code != 0)
                return code;
        }
    }
    reading->size += value->size;
    return 0;
}

/* A standard field that is a whole number from 0 to high. */
static unsigned read_number(struct reading *reading, const json_t *message, const char *field,
                            const char *header, json_int_t high)
{
    const json_t *value = json_object_get(message, field);
    if (value == NULL || json_is_null(value))
        return 0;
    if (json_is_integer(value) && json_integer_value(value) >= 0 &&
        json_integer_value(value) <= high)
        return add_number(reading, header, (uint64_t)json_integer_value(value));
    err_set(reading->err, STATUS_INVALID, "%s must be a number from 0 to %lld.", field,
            (long long)high);
    return CODE_INVALID;
}

/* Labels: a string, or an array of at most three. Dots are ours: DMS has none. */
static unsigned read_labels(struct reading *reading, const json_t *message, bool ours)
{
    const json_t *given = json_object_get(message, "tags");
    if (ours && (given == NULL || json_is_null(given)))
        given = json_object_get(message, "labels");
    if (given == NULL || json_is_null(given))
        return 0;
    size_t count = json_is_array(given) ? json_array_size(given) : 1;
    char text[LABELS_MAX * (LABEL_SIZE_MAX + 1)];
    size_t size = 0;
    if (count > LABELS_MAX)
        return fail(reading, "A message has at most three tags.");
    for (size_t i = 0; i < count; i++) {
        const json_t *label = json_is_array(given) ? json_array_get(given, i) : given;
        struct span one = json_is_string(label) ? json_span(label) : (struct span){0};
        if (!label_is_valid(one) || (!ours && memchr(one.data, '.', one.size) != NULL))
            return fail(reading, "A tag is 1 to 64 letters, digits, - and _.");
        if (size > 0)
            text[size++] = ',';
        memcpy(text + size, one.data, one.size);
        size += one.size;
    }
    return count == 0
               ? 0
               : add_header(reading, name_of(HEADER_LABELS), text_in(reading->arena, text, size));
}

/* Fields of our own call that stand beside attributes. */
static unsigned read_fields(struct reading *reading, const json_t *message)
{
    static const struct {
        const char *field, *header;
    } fields[] = {
        {"content_type", HEADER_CONTENT_TYPE},
        {"correlation_id", HEADER_CORRELATION_ID},
        {"reply_to", HEADER_REPLY_TO},
        {"message_id", HEADER_MESSAGE_ID},
        {"subject", HEADER_SUBJECT},
        {"group_id", HEADER_GROUP_ID},
        {KEY, NULL},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const json_t *value = json_object_get(message, fields[i].field);
        if (value == NULL || json_is_null(value))
            continue;
        if (!json_is_string(value)) {
            err_set(reading->err, STATUS_INVALID, "%s must be a string.", fields[i].field);
            return CODE_INVALID;
        }
        unsigned code = read_attribute(
            reading, name_of(fields[i].header == NULL ? KEY : fields[i].header), value);
        if (code != 0)
            return code;
    }
    const json_t *id = json_object_get(message, "dedup_id");
    if (json_is_string(id))
        reading->publish->dedup_id = json_span(id);
    else if (id != NULL && !json_is_null(id))
        return fail(reading, "dedup_id must be a string.");
    unsigned code = read_number(reading, message, "priority", HEADER_PRIORITY, 9);
    if (code == 0)
        code = read_number(reading, message, "group_sequence", HEADER_GROUP_SEQUENCE, UINT32_MAX);
    if (code != 0)
        return code;
    const json_t *at = json_object_get(message, "expires_at"),
                 *after = json_object_get(message, "expiry_ms");
    if (at != NULL && !json_is_null(at))
        return read_expiry(reading, at, false);
    if (after != NULL && !json_is_null(after))
        return read_expiry(reading, after, true);
    return 0;
}

/* A fraction of a millisecond does not count. */
static unsigned read_delay(struct reading *reading, const json_t *message, bool ours)
{
    static const char *const names[] = {"delayTime", "delay_time", "delay_ms"};
    const struct queue *queue = reading->publish->queue;
    for (size_t i = 0; i < (ours ? 3 : 2); i++) {
        const json_t *delay = json_object_get(message, names[i]);
        if (delay == NULL || json_is_null(delay))
            continue;
        double ms = json_number_value(delay);
        if (!json_is_number(delay) || !(ms >= 0 && ms <= LIMIT_DELAY_MS)) {
            err_set(reading->err, STATUS_INVALID, "%s must be milliseconds from 0 to %u.", names[i],
                    LIMIT_DELAY_MS);
            return CODE_INVALID;
        }
        reading->publish->delay_ms = (uint64_t)ms;
    }
    if (reading->publish->delay_ms == 0 || queue == NULL || queue->type != QUEUE_STREAM)
        return 0;
    err_set(reading->err, STATUS_INVALID,
            "Invalid request format: kafka queue message could not have delayTime.");
    return CODE_FORMAT;
}

/* How many headers a message can come to. */
static size_t headers_of(const json_t *message)
{
    const json_t *attributes = json_object_get(message, "attributes");
    size_t count = OWN_HEADERS;
    void *cursor = json_object_iter((json_t *)(uintptr_t)attributes);
    for (; cursor != NULL;
         cursor = json_object_iter_next((json_t *)(uintptr_t)attributes, cursor)) {
        const json_t *value = json_object_iter_value(cursor);
        count += json_is_array(value) ? json_array_size(value) : 1;
    }
    return count < LIMIT_HEADERS ? count : LIMIT_HEADERS;
}

unsigned view_read(struct arena *arena, const json_t *message, bool ours, struct publish *publish,
                   size_t *size, struct err *err)
{
    struct reading reading = {.arena = arena, .publish = publish, .err = err};
    if (!json_is_object(message))
        return fail(&reading, "A message must be an object.");
    reading.headers = arena_alloc(arena, headers_of(message) * sizeof *reading.headers);
    if (reading.headers == NULL)
        return fail(&reading, "The messages are too large.");
    buf_init(&reading.types, 64 * 1024);
    unsigned code = read_delay(&reading, message, ours);
    if (code == 0)
        code = read_labels(&reading, message, ours);
    if (code == 0 && ours)
        code = read_fields(&reading, message);
    if (code == 0)
        code = read_attributes(&reading, json_object_get(message, "attributes"));
    if (code == 0)
        code = read_body(&reading, message, ours);
    if (code == 0 && reading.types.size > 0) {
        struct span types = text_in(arena, (const char *)reading.types.data, reading.types.size);
        reading.headers[reading.count++] = (struct header){name_of(HEADER_TYPES), types};
    }
    buf_deinit(&reading.types);
    publish->headers = reading.headers;
    publish->header_count = reading.count;
    *size = reading.size;
    return code;
}

/* ---------------------------------------------------------------- writing */

static bool is_json_type(struct span type)
{
    size_t size = type.size;
    const uint8_t *semicolon = size == 0 ? NULL : memchr(type.data, ';', size);
    if (semicolon != NULL)
        size = (size_t)(semicolon - type.data);
    while (size > 0 && type.data[size - 1] == ' ')
        size--;
    const char *text = (const char *)type.data;
    return (size == sizeof JSON_TYPE - 1 && strncasecmp(text, JSON_TYPE, size) == 0) ||
           (size > 5 && strncasecmp(text + size - 5, "+json", 5) == 0);
}

static void write_body(const struct record *record, struct buf *to)
{
    struct span type;
    bool text = utf8_is_valid(record->value);
    if (text && record_find(record, HEADER_CONTENT_TYPE, &type) && is_json_type(type) &&
        json_is_value(record->value)) {
        buf_append(to, record->value.data, record->value.size);
    } else if (text) {
        json_put_text(to, record->value);
    } else {
        json_put(to, "\"");
        base64_encode(record->value, to);
        json_put(to, "\",\"body_encoding\":\"base64\"");
    }
}

/* Types whose text is JSON as it is. */
static bool is_number_or_truth(unsigned type)
{
    switch (type) {
    case TYPE_BOOLEAN:
    case TYPE_UBYTE:
    case TYPE_BYTE:
    case TYPE_USHORT:
    case TYPE_SHORT:
    case TYPE_UINT:
    case TYPE_INT:
    case TYPE_ULONG:
    case TYPE_LONG:
    case TYPE_FLOAT:
    case TYPE_DOUBLE:
    case TYPE_TIMESTAMP:
        return true;
    default:
        return false;
    }
}

static void write_value(struct buf *to, struct span value, unsigned type)
{
    bool typed = is_number_or_truth(type);
    if (value.data == NULL && value.size == 0 && type == TYPE_NULL) {
        json_put(to, "null");
    } else if (typed && utf8_is_valid(value) && json_is_value(value)) {
        buf_append(to, value.data, value.size);
    } else if (utf8_is_valid(value)) {
        json_put_text(to, value);
    } else {
        json_put(to, "{\"base64\":\"");
        base64_encode(value, to);
        json_put(to, "\"}");
    }
}

/* The headers of a record that clients see, in order. */
struct shown {
    struct header headers[LIMIT_HEADERS];
    uint32_t count;
    struct span types, labels;
};

static void collect(const struct record *record, struct shown *shown)
{
    struct reader at = reader_of(record->headers);
    struct header header;
    bool publisher = false, labelled = false;
    while (shown->count < LIMIT_HEADERS && record_next_header(&at, &header)) {
        if (span_is(header.name, HEADER_PUBLISHER) && !publisher)
            publisher = true;
        else if (span_is(header.name, HEADER_TYPES))
            shown->types = header.value;
        else if (span_is(header.name, HEADER_LABELS) && !labelled && utf8_is_valid(header.value)) {
            labelled = true;
            shown->labels = header.value;
        } else if (header_given_name(header.name).data == NULL)
            ;
        else if (utf8_is_valid_no_nul(header.name))
            shown->headers[shown->count++] = header;
    }
}

/* All of one name. A null one that others follow says that there is no field of the name. */
static void write_attribute(const struct shown *shown, uint32_t index, struct buf *to)
{
    struct span name = shown->headers[index].name;
    uint32_t more = 0;
    for (uint32_t i = index + 1; i < shown->count; i++)
        more += span_equal(shown->headers[i].name, name);
    json_put_text(to, header_given_name(name));
    bool absent = more > 0 && shown->headers[index].value.data == NULL &&
                  types_find(shown->types, name, 0) != TYPE_NULL;
    uint32_t values = absent ? more : more + 1;
    json_put(to, values > 1 ? ":[" : ":");
    uint32_t occurrence = 0;
    for (uint32_t i = index; i < shown->count && occurrence <= more; i++) {
        if (i != index && !span_equal(shown->headers[i].name, name))
            continue;
        unsigned type = shown->types.size == 0 ? 0 : types_find(shown->types, name, occurrence);
        if (occurrence > absent)
            json_put(to, ",");
        if (occurrence > 0 || !absent)
            write_value(to, shown->headers[i].value, type);
        occurrence++;
    }
    if (values > 1)
        json_put(to, "]");
}

static bool is_repetition(const struct shown *shown, uint32_t index)
{
    for (uint32_t i = 0; i < index; i++) {
        if (span_equal(shown->headers[i].name, shown->headers[index].name))
            return true;
    }
    return false;
}

static void write_attributes(const struct record *record, const struct shown *shown, struct buf *to)
{
    bool first = true;
    json_put(to, "{");
    if (record->key.data != NULL) {
        json_put(to, "\"key\":");
        write_value(to, record->key, 0);
        first = false;
    }
    for (uint32_t i = 0; i < shown->count; i++) {
        if (is_repetition(shown, i) ||
            (record->key.data != NULL && span_is(shown->headers[i].name, KEY)))
            continue;
        if (!first)
            json_put(to, ",");
        first = false;
        write_attribute(shown, i, to);
    }
    json_put(to, "}");
}

static void write_labels(struct span labels, const char *field, struct buf *to)
{
    struct span label;
    bool first = true;
    while (label_next(&labels, &label)) {
        json_put(to, first ? ",\"" : ",");
        if (first) {
            json_put(to, field);
            json_put(to, "\":[");
        }
        first = false;
        json_put_text(to, label);
    }
    if (!first)
        json_put(to, "]");
}

void view_write(const struct record *record, bool ours, struct buf *to)
{
    struct shown shown;
    shown.count = 0;
    shown.types = shown.labels = (struct span){0};
    collect(record, &shown);
    json_put(to, "\"body\":");
    write_body(record, to);
    json_put(to, ",\"attributes\":");
    write_attributes(record, &shown, to);
    write_labels(shown.labels, ours ? "labels" : "tags", to);
}
