/* SPDX-License-Identifier: Apache-2.0 */
/* A message is its sections in their order (part 3, section 3.2): header, two kinds of annotations,
 * properties, application properties, body, footer; each at most once but for data and sequence. */
#include "adapters/amqp/codec.h"

#include "core/base/utf8.h"

static const char *const names[] = {
    "amqp:header:list",
    "amqp:delivery-annotations:map",
    "amqp:message-annotations:map",
    "amqp:properties:list",
    "amqp:application-properties:map",
    "amqp:data:binary",
    "amqp:amqp-sequence:list",
    "amqp:amqp-value:*",
    "amqp:footer:map",
};

/* The section that a descriptor names; 0: none. */
static unsigned section_of(const struct amqp_value *descriptor)
{
    if (descriptor->type == AMQP_ULONG)
        return descriptor->number >= AMQP_SECTION_HEADER &&
                       descriptor->number <= AMQP_SECTION_FOOTER
                   ? (unsigned)descriptor->number
                   : 0;
    for (unsigned i = 0; descriptor->type == AMQP_SYMBOL && i < sizeof names / sizeof *names; i++)
        if (span_is(descriptor->bytes, names[i]))
            return AMQP_SECTION_HEADER + i;
    return 0;
}

/* Values of the header and of properties have their types; null and missing are the same. */
static bool field_is(const struct amqp_value *value, enum amqp_type type)
{
    return value->type == AMQP_NULL || value->type == type;
}

static bool read_header(const struct amqp_value *list, struct amqp_message *message)
{
    struct amqp_value fields[5] = {0};
    struct reader at = reader_of(list->bytes);
    if (list->type != AMQP_LIST || list->count > 5)
        return false;
    for (uint32_t i = 0; i < 5; i++) {
        fields[i].type = AMQP_NULL;
        if (i < list->count && !amqp_value_read(&at, &fields[i]))
            return false;
    }
    if (!field_is(&fields[0], AMQP_BOOLEAN) || !field_is(&fields[1], AMQP_UBYTE) ||
        !field_is(&fields[2], AMQP_UINT) || !field_is(&fields[3], AMQP_BOOLEAN) ||
        !field_is(&fields[4], AMQP_UINT) || reader_left(&at) != 0)
        return false;
    message->durable = fields[0].number != 0;
    message->has_priority = fields[1].type != AMQP_NULL;
    message->priority = (uint8_t)fields[1].number;
    message->has_ttl = fields[2].type != AMQP_NULL;
    message->ttl = (uint32_t)fields[2].number;
    return true;
}

static bool is_id(const struct amqp_value *value)
{
    return value->type == AMQP_NULL || value->type == AMQP_ULONG || value->type == AMQP_UUID ||
           value->type == AMQP_BINARY || value->type == AMQP_STRING;
}

static bool property_is_valid(unsigned property, const struct amqp_value *value)
{
    switch ((enum amqp_property)property) {
    case AMQP_MESSAGE_ID:
    case AMQP_CORRELATION_ID:
        return is_id(value);
    case AMQP_USER_ID:
        return field_is(value, AMQP_BINARY);
    case AMQP_TO:
    case AMQP_SUBJECT:
    case AMQP_REPLY_TO:
    case AMQP_GROUP_ID:
    case AMQP_REPLY_TO_GROUP_ID:
        return field_is(value, AMQP_STRING) && utf8_is_valid(value->bytes);
    case AMQP_CONTENT_TYPE:
    case AMQP_CONTENT_ENCODING:
        /* Several clients send a string. */
        return value->type == AMQP_NULL || amqp_is_text(value);
    case AMQP_ABSOLUTE_EXPIRY:
    case AMQP_CREATION_TIME:
        return field_is(value, AMQP_TIMESTAMP);
    case AMQP_GROUP_SEQUENCE:
        return field_is(value, AMQP_UINT);
    case AMQP_PROPERTIES:
        break;
    }
    return false;
}

static bool read_properties(const struct amqp_value *list, struct amqp_message *message)
{
    struct reader at = reader_of(list->bytes);
    if (list->type != AMQP_LIST || list->count > AMQP_PROPERTIES)
        return false;
    for (unsigned i = 0; i < list->count; i++)
        if (!amqp_value_read(&at, &message->properties[i]) ||
            !property_is_valid(i, &message->properties[i]))
            return false;
    return reader_left(&at) == 0;
}

/* Keys of application properties are strings, their values simple; keys of annotations are symbols
 * (or ulongs, which are reserved). */
static bool read_map(const struct amqp_value *map, bool is_application)
{
    struct reader at = reader_of(map->bytes);
    if (map->type != AMQP_MAP)
        return false;
    for (uint32_t i = 0; i < map->count; i += 2) {
        struct amqp_value key, value;
        const uint8_t *from;
        if (!amqp_value_read(&at, &key) || (from = at.at, !amqp_value_read(&at, &value)))
            return false;
        if (is_application) {
            if (key.type != AMQP_STRING || !utf8_is_valid(key.bytes) || value.type == AMQP_LIST ||
                value.type == AMQP_MAP || value.type == AMQP_ARRAY ||
                value.type == AMQP_DESCRIBED ||
                (amqp_is_text(&value) && !utf8_is_valid(value.bytes)))
                return false;
        } else if ((key.type != AMQP_SYMBOL && key.type != AMQP_ULONG) ||
                   !amqp_values_valid(span_of(from, (size_t)(at.at - from)), 1)) {
            return false;
        }
    }
    return reader_left(&at) == 0;
}

bool amqp_annotations_valid(struct span items, uint32_t count)
{
    struct amqp_value map = {.type = AMQP_MAP, .bytes = items, .count = count};
    return read_map(&map, false);
}

static bool body_is_valid(unsigned section, const struct amqp_value *value, struct span raw)
{
    switch (section) {
    case AMQP_SECTION_DATA:
        return value->type == AMQP_BINARY;
    case AMQP_SECTION_SEQUENCE:
        return value->type == AMQP_LIST && amqp_values_valid(raw, 1);
    default:
        return amqp_values_valid(raw, 1);
    }
}

static bool is_wide(const struct amqp_value *value)
{
    return value->code == AMQP_LIST || value->code == AMQP_MAP;
}

/* raw: the value; whole: with its descriptor. */
static bool take_section(struct amqp_message *message, unsigned section,
                         const struct amqp_value *value, struct span raw, struct span whole)
{
    switch ((enum amqp_section)section) {
    case AMQP_SECTION_HEADER:
        return read_header(value, message);
    case AMQP_SECTION_DELIVERY_ANNOTATIONS:
        message->delivery_annotations = *value;
        return read_map(value, false);
    case AMQP_SECTION_ANNOTATIONS:
        message->annotations = *value;
        return read_map(value, false);
    case AMQP_SECTION_PROPERTIES:
        message->properties_section = whole;
        message->wide_properties = is_wide(value);
        return read_properties(value, message);
    case AMQP_SECTION_APPLICATION:
        message->application = *value;
        message->application_section = whole;
        message->wide_application = is_wide(value);
        return read_map(value, true);
    case AMQP_SECTION_DATA:
    case AMQP_SECTION_SEQUENCE:
    case AMQP_SECTION_VALUE:
        if (message->body_count++ == 0) {
            message->value = *value;
            message->body = whole;
            message->body_kind = (enum amqp_section)section;
        } else {
            message->body.size += whole.size;
        }
        return body_is_valid(section, value, raw);
    case AMQP_SECTION_FOOTER:
        message->footer = *value;
        return read_map(value, false);
    }
    return false;
}

/* May section follow the one before? */
static bool in_order(unsigned before, unsigned section)
{
    bool repeats = section == AMQP_SECTION_DATA || section == AMQP_SECTION_SEQUENCE;
    bool before_is_body = before >= AMQP_SECTION_DATA && before <= AMQP_SECTION_VALUE;
    if (section == before)
        return repeats;
    return section > before && !(before_is_body && section != AMQP_SECTION_FOOTER);
}

enum status amqp_message_read(struct span bytes, struct amqp_message *message)
{
    *message = (struct amqp_message){.body_kind = AMQP_SECTION_DATA, .value.type = AMQP_NULL};
    message->delivery_annotations.type = message->annotations.type = AMQP_NULL;
    message->application.type = message->footer.type = AMQP_NULL;
    for (unsigned i = 0; i < AMQP_PROPERTIES; i++)
        message->properties[i].type = AMQP_NULL;
    struct reader at = reader_of(bytes);
    unsigned before = 0;
    while (reader_left(&at) > 0) {
        const uint8_t *from = at.at;
        struct amqp_value descriptor, value;
        if (reader_u8(&at) != AMQP_DESCRIBED || !amqp_value_read(&at, &descriptor))
            return STATUS_MALFORMED;
        const uint8_t *value_from = at.at;
        unsigned section = section_of(&descriptor);
        if (section == 0 || !in_order(before, section) || !amqp_value_read(&at, &value) ||
            !take_section(message, section, &value,
                          span_of(value_from, (size_t)(at.at - value_from)),
                          span_of(from, (size_t)(at.at - from))))
            return STATUS_MALFORMED;
        before = section;
    }
    return STATUS_OK;
}

bool amqp_body_next(struct reader *body, struct amqp_value *value, struct span *raw)
{
    struct amqp_value descriptor;
    if (reader_left(body) == 0 || reader_u8(body) != AMQP_DESCRIBED ||
        !amqp_value_read(body, &descriptor))
        return false;
    const uint8_t *from = body->at;
    if (!amqp_value_read(body, value))
        return false;
    *raw = span_of(from, (size_t)(body->at - from));
    return true;
}
