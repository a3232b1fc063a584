/* SPDX-License-Identifier: Apache-2.0 */
/* Properties are data: one row each says how a value is encoded, where it is kept and which packets
 * may carry it. The code below only knows the encodings. */
#include "adapters/mqtt/properties.h"

#include <stddef.h>

#include "adapters/mqtt/wire.h"
#include "core/base/pack.h"

enum encoding { NONE, BOOL, U16, U16_NONZERO, U32, U32_NONZERO, VARINT, TEXT, TOPIC, BINARY, PAIR };

static const struct row {
    uint8_t encoding;
    uint16_t offset;
} rows[MQTT_PROPERTY_END] = {
#define X(name, id, type, field)                                                                   \
    [id] = {.encoding = type, .offset = offsetof(struct mqtt_properties, field)},
    MQTT_PROPERTY_MAP(X)
#undef X
};

/* Which lists may hold a property (MQTT 5.0, table 2-4), as bits of the places in the header. */
#define IN_WILL        MQTT_ON(MQTT_LIST_WILL)
#define IN_CONNECT     MQTT_ON(1)
#define IN_CONNACK     MQTT_ON(2)
#define IN_PUBLISH     (MQTT_ON(3) | IN_DELIVERY)
#define IN_DELIVERY    MQTT_ON(MQTT_LIST_PUBLISH_SERVER)
#define IN_PUB_ACKS    (MQTT_ON(4) | MQTT_ON(5) | MQTT_ON(6) | MQTT_ON(7))
#define IN_SUBSCRIBE   MQTT_ON(8)
#define IN_SUB_ACKS    (MQTT_ON(9) | MQTT_ON(11))
#define IN_UNSUBSCRIBE MQTT_ON(10)
#define IN_LEAVE       MQTT_ON(14)
#define IN_DISCONNECT  (IN_LEAVE | MQTT_ON(MQTT_LIST_DISCONNECT_SERVER))
#define IN_AUTH        MQTT_ON(15)

static const uint32_t places[MQTT_PROPERTY_END] = {
    [MQTT_PROPERTY_PAYLOAD_FORMAT] = IN_PUBLISH | IN_WILL,
    [MQTT_PROPERTY_MESSAGE_EXPIRY] = IN_PUBLISH | IN_WILL,
    [MQTT_PROPERTY_CONTENT_TYPE] = IN_PUBLISH | IN_WILL,
    [MQTT_PROPERTY_RESPONSE_TOPIC] = IN_PUBLISH | IN_WILL,
    [MQTT_PROPERTY_CORRELATION] = IN_PUBLISH | IN_WILL,
    [MQTT_PROPERTY_SUBSCRIPTION_ID] = IN_DELIVERY | IN_SUBSCRIBE,
    [MQTT_PROPERTY_SESSION_EXPIRY] = IN_CONNECT | IN_CONNACK | IN_LEAVE,
    [MQTT_PROPERTY_ASSIGNED_CLIENT_ID] = IN_CONNACK,
    [MQTT_PROPERTY_SERVER_KEEP_ALIVE] = IN_CONNACK,
    [MQTT_PROPERTY_AUTH_METHOD] = IN_CONNECT | IN_CONNACK | IN_AUTH,
    [MQTT_PROPERTY_AUTH_DATA] = IN_CONNECT | IN_CONNACK | IN_AUTH,
    [MQTT_PROPERTY_REQUEST_PROBLEM] = IN_CONNECT,
    [MQTT_PROPERTY_WILL_DELAY] = IN_WILL,
    [MQTT_PROPERTY_REQUEST_RESPONSE] = IN_CONNECT,
    [MQTT_PROPERTY_RESPONSE_INFO] = IN_CONNACK,
    [MQTT_PROPERTY_SERVER_REFERENCE] = IN_CONNACK | IN_DISCONNECT,
    [MQTT_PROPERTY_REASON_STRING] =
        IN_CONNACK | IN_PUB_ACKS | IN_SUB_ACKS | IN_DISCONNECT | IN_AUTH,
    [MQTT_PROPERTY_RECEIVE_MAXIMUM] = IN_CONNECT | IN_CONNACK,
    [MQTT_PROPERTY_TOPIC_ALIAS_MAXIMUM] = IN_CONNECT | IN_CONNACK,
    [MQTT_PROPERTY_TOPIC_ALIAS] = IN_PUBLISH,
    [MQTT_PROPERTY_MAXIMUM_QOS] = IN_CONNACK,
    [MQTT_PROPERTY_RETAIN_AVAILABLE] = IN_CONNACK,
    [MQTT_PROPERTY_USER] = UINT32_MAX,
    [MQTT_PROPERTY_MAXIMUM_PACKET] = IN_CONNECT | IN_CONNACK,
    [MQTT_PROPERTY_WILDCARDS_AVAILABLE] = IN_CONNACK,
    [MQTT_PROPERTY_SUBSCRIPTION_IDS_AVAILABLE] = IN_CONNACK,
    [MQTT_PROPERTY_SHARED_AVAILABLE] = IN_CONNACK,
};

const struct mqtt_properties mqtt_properties_none = {
    .maximum_packet = UINT32_MAX,
    .receive_maximum = UINT16_MAX,
    .request_problem = 1,
    .maximum_qos = 2,
    .retain_available = 1,
    .wildcards_available = 1,
    .subscription_ids_available = 1,
    .shared_available = 1,
};

/* One element; false when it is malformed. Identifiers are variable byte integers, but all that are
 * defined fit into one byte, so a longer one is unknown and therefore malformed as well. */
static bool read_property(struct reader *reader, struct mqtt_property *property)
{
    uint8_t id = reader_u8(reader);
    if (id >= MQTT_PROPERTY_END)
        return false;
    *property = (struct mqtt_property){.id = id};
    switch ((enum encoding)rows[id].encoding) {
    case NONE:
        return false;
    case BOOL:
        property->number = reader_u8(reader);
        break;
    case U16:
    case U16_NONZERO:
        property->number = reader_u16(reader);
        break;
    case U32:
    case U32_NONZERO:
        property->number = reader_u32(reader);
        break;
    case VARINT:
        property->number = wire_varint(reader);
        break;
    case TEXT:
    case TOPIC:
        property->value = wire_text(reader);
        break;
    case BINARY:
        property->value = wire_binary(reader);
        break;
    case PAIR:
        property->name = wire_text(reader);
        property->value = wire_text(reader);
        break;
    }
    return !reader->failed;
}

bool mqtt_is_plain_topic(struct span topic)
{
    return topic.size != 0 && memchr(topic.data, '+', topic.size) == NULL &&
           memchr(topic.data, '#', topic.size) == NULL;
}

static bool in_range(const struct mqtt_property *property)
{
    switch ((enum encoding)rows[property->id].encoding) {
    case BOOL:
        return property->number <= 1;
    case U16_NONZERO:
    case U32_NONZERO:
    case VARINT:
        return property->number != 0;
    case TOPIC:
        return mqtt_is_plain_topic(property->value);
    case NONE:
    case U16:
    case U32:
    case TEXT:
    case BINARY:
    case PAIR:
        break;
    }
    return true;
}

static void keep(const struct mqtt_property *property, struct mqtt_properties *out)
{
    uint8_t *field = (uint8_t *)out + rows[property->id].offset;
    switch ((enum encoding)rows[property->id].encoding) {
    case BOOL:
        *field = (uint8_t)property->number;
        break;
    case U16:
    case U16_NONZERO:
        memcpy(field, &(uint16_t){(uint16_t)property->number}, sizeof(uint16_t));
        break;
    case U32:
    case U32_NONZERO:
    case VARINT:
        memcpy(field, &property->number, sizeof property->number);
        break;
    case TEXT:
    case TOPIC:
    case BINARY:
        memcpy(field, &property->value, sizeof property->value);
        break;
    case NONE:
    case PAIR:
        break;
    }
}

/* 2.2.2.2 calls a property out of its place malformed; the brokers that clients were tested with
 * answer a protocol error instead, except to lists of filters, and so do the conformance vectors.
 */
static enum mqtt_reason out_of_place(unsigned where)
{
    bool is_filters = (MQTT_ON(where) & (IN_SUBSCRIBE | IN_UNSUBSCRIBE)) != 0;
    return is_filters ? MQTT_REASON_MALFORMED : MQTT_REASON_PROTOCOL_ERROR;
}

enum mqtt_reason mqtt_properties_decode(struct span list, unsigned where,
                                        struct mqtt_properties *out)
{
    *out = mqtt_properties_none;
    if (list.size == 0)
        return MQTT_REASON_SUCCESS;
    out->list = list;
    struct reader reader = reader_of(list);
    while (reader.at < reader.end) {
        struct mqtt_property property;
        if (!read_property(&reader, &property))
            return MQTT_REASON_MALFORMED;
        if ((places[property.id] & MQTT_ON(where)) == 0)
            return out_of_place(where);
        if (!in_range(&property))
            return property.id == MQTT_PROPERTY_TOPIC_ALIAS ? MQTT_REASON_TOPIC_ALIAS_INVALID
                                                            : MQTT_REASON_PROTOCOL_ERROR;
        uint64_t bit = UINT64_C(1) << property.id;
        bool again = (out->present & bit) != 0;
        out->present |= bit;
        if (property.id == MQTT_PROPERTY_USER)
            out->user_count++;
        else if (!again)
            keep(&property, out);
        else if (property.id == MQTT_PROPERTY_SUBSCRIPTION_ID && where == MQTT_LIST_PUBLISH_SERVER)
            out->more_subscription_id_count++;
        else
            return MQTT_REASON_PROTOCOL_ERROR;
    }
    return MQTT_REASON_SUCCESS;
}

bool mqtt_property_next(struct span *list, struct mqtt_property *property)
{
    if (list->size == 0)
        return false;
    struct reader reader = reader_of(*list);
    if (!read_property(&reader, property))
        return false;
    *list = span_of(reader.at, reader_left(&reader));
    return true;
}

bool mqtt_user_next(struct span *list, struct mqtt_pair *pair)
{
    struct mqtt_property property;
    while (mqtt_property_next(list, &property)) {
        if (property.id == MQTT_PROPERTY_USER) {
            *pair = (struct mqtt_pair){.name = property.name, .value = property.value};
            return true;
        }
    }
    return false;
}

size_t mqtt_varint_size(uint32_t value)
{
    return value < 1u << 7 ? 1 : value < 1u << 14 ? 2 : value < 1u << 21 ? 3 : 4;
}

uint8_t *mqtt_varint_encode(uint32_t value, uint8_t *to)
{
    while (value >= 0x80) {
        *to++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *to++ = (uint8_t)value;
    return to;
}

static uint32_t field_number(const struct mqtt_properties *properties, unsigned id)
{
    uint32_t number;
    memcpy(&number, (const uint8_t *)properties + rows[id].offset, sizeof number);
    return number;
}

static struct span field_span(const struct mqtt_properties *properties, unsigned id)
{
    struct span value;
    memcpy(&value, (const uint8_t *)properties + rows[id].offset, sizeof value);
    return value;
}

static size_t value_size(const struct mqtt_properties *properties, unsigned id)
{
    switch ((enum encoding)rows[id].encoding) {
    case BOOL:
        return 1;
    case U16:
    case U16_NONZERO:
        return 2;
    case U32:
    case U32_NONZERO:
        return 4;
    case VARINT:
        return wire_number_size(field_number(properties, id));
    case TEXT:
    case TOPIC:
    case BINARY:
        return wire_text_size(field_span(properties, id));
    case NONE:
    case PAIR:
        break;
    }
    return 0;
}

/* The properties to write from their fields: user properties are written from an array. */
static uint64_t single_properties(const struct mqtt_properties *properties)
{
    return properties->present & ~MQTT_HAS(USER);
}

size_t mqtt_properties_size(const struct mqtt_properties *properties)
{
    size_t size = 0;
    for (uint64_t rest = single_properties(properties); rest != 0; rest &= rest - 1)
        size += 1 + value_size(properties, (unsigned)__builtin_ctzll(rest));
    for (uint32_t i = 0; i < properties->user_count; i++)
        size += 1 + wire_text_size(properties->users[i].name) +
                wire_text_size(properties->users[i].value);
    for (uint32_t i = 0; i < properties->more_subscription_id_count; i++)
        size += 1 + wire_number_size(properties->more_subscription_ids[i]);
    return size;
}

static uint8_t *encode_value(const struct mqtt_properties *properties, unsigned id, uint8_t *to)
{
    const uint8_t *field = (const uint8_t *)properties + rows[id].offset;
    uint16_t number;
    switch ((enum encoding)rows[id].encoding) {
    case BOOL:
        *to = *field;
        return to + 1;
    case U16:
    case U16_NONZERO:
        memcpy(&number, field, sizeof number);
        store_u16(to, number);
        return to + 2;
    case U32:
    case U32_NONZERO:
        store_u32(to, field_number(properties, id));
        return to + 4;
    case VARINT:
        return mqtt_varint_encode(field_number(properties, id), to);
    case TEXT:
    case TOPIC:
    case BINARY:
        return wire_put_text(to, field_span(properties, id));
    case NONE:
    case PAIR:
        break;
    }
    return to;
}

uint8_t *mqtt_properties_encode(const struct mqtt_properties *properties, uint8_t *to)
{
    for (uint64_t rest = single_properties(properties); rest != 0; rest &= rest - 1) {
        unsigned id = (unsigned)__builtin_ctzll(rest);
        *to++ = (uint8_t)id;
        to = encode_value(properties, id, to);
    }
    for (uint32_t i = 0; i < properties->user_count; i++) {
        *to++ = MQTT_PROPERTY_USER;
        to = wire_put_text(to, properties->users[i].name);
        to = wire_put_text(to, properties->users[i].value);
    }
    for (uint32_t i = 0; i < properties->more_subscription_id_count; i++) {
        *to++ = MQTT_PROPERTY_SUBSCRIPTION_ID;
        to = mqtt_varint_encode(properties->more_subscription_ids[i], to);
    }
    return to;
}
