/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding in two steps from one description: a _body function says how long what follows the
 * remaining length is, the size and the bytes both come from it. */
#include "adapters/mqtt/encode.h"

#include "adapters/mqtt/wire.h"

static size_t frame_size(size_t body)
{
    return body > MQTT_VARINT_MAX ? 0 : 1 + mqtt_varint_size((uint32_t)body) + body;
}

static uint8_t *put_header(enum mqtt_type type, unsigned flags, size_t body, uint8_t *to)
{
    *to++ = (uint8_t)((unsigned)type << 4 | flags);
    return mqtt_varint_encode((uint32_t)body, to);
}

static uint8_t *put_u16(uint8_t *to, uint16_t value)
{
    store_u16(to, value);
    return to + 2;
}

static size_t block_size(enum mqtt_version version, const struct mqtt_properties *properties)
{
    if (version != MQTT_5)
        return 0;
    size_t size = mqtt_properties_size(properties);
    return size > MQTT_VARINT_MAX ? WIRE_IMPOSSIBLE : mqtt_varint_size((uint32_t)size) + size;
}

static uint8_t *put_block(enum mqtt_version version, const struct mqtt_properties *properties,
                          uint8_t *to)
{
    if (version != MQTT_5)
        return to;
    to = mqtt_varint_encode((uint32_t)mqtt_properties_size(properties), to);
    return mqtt_properties_encode(properties, to);
}

/* CONNECT */

static size_t connect_body(const struct mqtt_connect *connect)
{
    enum mqtt_version version = connect->version;
    size_t size = version == MQTT_3_1 ? 2 + 6 + 4 : 2 + 4 + 4;
    size += block_size(version, &connect->properties) + wire_text_size(connect->client_id);
    if (connect->has_will)
        size += block_size(version, &connect->will.properties) +
                wire_text_size(connect->will.topic) + wire_text_size(connect->will.payload);
    if (connect->has_user_name)
        size += wire_text_size(connect->user_name);
    if (connect->has_password)
        size += wire_text_size(connect->password);
    return size;
}

static uint8_t connect_flags(const struct mqtt_connect *connect)
{
    unsigned flags = (connect->clean ? 0x02u : 0) | (connect->has_user_name ? 0x80u : 0) |
                     (connect->has_password ? 0x40u : 0);
    if (connect->has_will)
        flags |= 0x04u | (unsigned)connect->will.qos << 3 | (connect->will.retain ? 0x20u : 0);
    return (uint8_t)flags;
}

size_t mqtt_connect_size(const struct mqtt_connect *connect)
{
    return frame_size(connect_body(connect));
}

uint8_t *mqtt_encode_connect(const struct mqtt_connect *connect, uint8_t *to)
{
    enum mqtt_version version = connect->version;
    to = put_header(MQTT_CONNECT, 0, connect_body(connect), to);
    to = wire_put_text(to, span_from_text(version == MQTT_3_1 ? "MQIsdp" : "MQTT"));
    *to++ = (uint8_t)(version | (connect->is_bridge ? MQTT_LEVEL_BRIDGE : 0));
    *to++ = connect_flags(connect);
    to = put_u16(to, connect->keep_alive);
    to = put_block(version, &connect->properties, to);
    to = wire_put_text(to, connect->client_id);
    if (connect->has_will) {
        to = put_block(version, &connect->will.properties, to);
        to = wire_put_text(to, connect->will.topic);
        to = wire_put_text(to, connect->will.payload);
    }
    if (connect->has_user_name)
        to = wire_put_text(to, connect->user_name);
    if (connect->has_password)
        to = wire_put_text(to, connect->password);
    return to;
}

/* CONNACK */

uint8_t mqtt_return_code(enum mqtt_reason reason)
{
    switch ((unsigned)reason) {
    case MQTT_REASON_SUCCESS:
        return 0;
    case MQTT_REASON_UNSUPPORTED_VERSION:
        return 1;
    case MQTT_REASON_CLIENT_ID_INVALID:
        return 2;
    case MQTT_REASON_BAD_CREDENTIALS:
    case MQTT_REASON_BAD_AUTH_METHOD:
        return 4;
    case MQTT_REASON_NOT_AUTHORIZED:
    case MQTT_REASON_BANNED:
        return 5;
    default:
        return 3;
    }
}

size_t mqtt_connack_size(enum mqtt_version version, const struct mqtt_connack *connack)
{
    return frame_size(2 + block_size(version, &connack->properties));
}

uint8_t *mqtt_encode_connack(enum mqtt_version version, const struct mqtt_connack *connack,
                             uint8_t *to)
{
    to = put_header(MQTT_CONNACK, 0, 2 + block_size(version, &connack->properties), to);
    *to++ = connack->session_present && version != MQTT_3_1;
    *to++ = version == MQTT_5 ? (uint8_t)connack->reason : mqtt_return_code(connack->reason);
    return put_block(version, &connack->properties, to);
}

/* PUBLISH and its acknowledgements */

static size_t publish_body(enum mqtt_version version, const struct mqtt_publish *publish)
{
    size_t payload =
        publish->payload.size > MQTT_VARINT_MAX ? WIRE_IMPOSSIBLE : publish->payload.size;
    return wire_text_size(publish->topic) + (publish->qos != 0 ? 2 : 0) +
           block_size(version, &publish->properties) + payload;
}

size_t mqtt_publish_size(enum mqtt_version version, const struct mqtt_publish *publish)
{
    return frame_size(publish_body(version, publish));
}

uint8_t *mqtt_encode_publish(enum mqtt_version version, const struct mqtt_publish *publish,
                             uint8_t *to)
{
    unsigned flags =
        (publish->duplicate ? 8u : 0) | (unsigned)publish->qos << 1 | (publish->retain ? 1u : 0);
    to = put_header(MQTT_PUBLISH, flags, publish_body(version, publish), to);
    to = wire_put_text(to, publish->topic);
    if (publish->qos != 0)
        to = put_u16(to, publish->packet_id);
    to = put_block(version, &publish->properties, to);
    return wire_put_bytes(to, publish->payload);
}

size_t mqtt_publish_id_at(struct span frame)
{
    if (frame.size == 0 || (frame.data[0] & 0x06) == 0)
        return 0;
    size_t at = 1;
    while (at < frame.size && frame.data[at] >= 0x80)
        at++;
    struct span topic = span_from(frame, at + 1);
    return topic.size < 2 ? 0 : at + 1 + 2 + load_u16(topic.data);
}

static unsigned ack_flags(enum mqtt_type type)
{
    return type == MQTT_PUBREL ? 2 : 0;
}

size_t mqtt_encode_ack(enum mqtt_version version, enum mqtt_type type, uint16_t packet_id,
                       enum mqtt_reason reason, uint8_t to[MQTT_ACK_BYTES_MAX])
{
    bool has_reason = version == MQTT_5 && reason != MQTT_REASON_SUCCESS;
    to[0] = (uint8_t)((unsigned)type << 4 | ack_flags(type));
    to[1] = has_reason ? 3 : 2;
    store_u16(to + 2, packet_id);
    if (!has_reason)
        return 4;
    to[4] = (uint8_t)reason;
    return 5;
}

/* Reason and properties at the end of a packet, which MQTT 5 leaves out as far as they say nothing.
 */
static size_t ending_size(enum mqtt_version version, enum mqtt_reason reason,
                          const struct mqtt_properties *properties)
{
    if (version != MQTT_5)
        return 0;
    size_t block = block_size(version, properties);
    if (block > 1)
        return 1 + block;
    return reason == MQTT_REASON_SUCCESS ? 0 : 1;
}

static uint8_t *put_ending(enum mqtt_version version, enum mqtt_reason reason,
                           const struct mqtt_properties *properties, uint8_t *to)
{
    size_t size = ending_size(version, reason, properties);
    if (size == 0)
        return to;
    *to++ = (uint8_t)reason;
    return size == 1 ? to : put_block(version, properties, to);
}

size_t mqtt_ack_size(enum mqtt_version version, const struct mqtt_ack *ack)
{
    return frame_size(2 + ending_size(version, ack->reason, &ack->properties));
}

uint8_t *mqtt_encode_ack_with(enum mqtt_version version, enum mqtt_type type,
                              const struct mqtt_ack *ack, uint8_t *to)
{
    size_t body = 2 + ending_size(version, ack->reason, &ack->properties);
    to = put_header(type, ack_flags(type), body, to);
    to = put_u16(to, ack->packet_id);
    return put_ending(version, ack->reason, &ack->properties, to);
}

/* SUBSCRIBE, UNSUBSCRIBE and their acknowledgements */

static size_t filters_body(enum mqtt_version version, const struct mqtt_subscribe *subscribe,
                           size_t options)
{
    size_t size = 2 + block_size(version, &subscribe->properties);
    for (unsigned i = 0; i < subscribe->count; i++)
        size += wire_text_size(subscribe->filters[i].filter) + options;
    return size;
}

static uint8_t options_of(enum mqtt_version version, const struct mqtt_filter *filter)
{
    if (version != MQTT_5)
        return filter->qos;
    return (uint8_t)(filter->qos | (filter->no_local ? 0x04u : 0) |
                     (filter->retain_as_published ? 0x08u : 0) |
                     (unsigned)filter->retain_handling << 4);
}

size_t mqtt_subscribe_size(enum mqtt_version version, const struct mqtt_subscribe *subscribe)
{
    return frame_size(filters_body(version, subscribe, 1));
}

uint8_t *mqtt_encode_subscribe(enum mqtt_version version, const struct mqtt_subscribe *subscribe,
                               uint8_t *to)
{
    to = put_header(MQTT_SUBSCRIBE, 2, filters_body(version, subscribe, 1), to);
    to = put_u16(to, subscribe->packet_id);
    to = put_block(version, &subscribe->properties, to);
    for (unsigned i = 0; i < subscribe->count; i++) {
        to = wire_put_text(to, subscribe->filters[i].filter);
        *to++ = options_of(version, &subscribe->filters[i]);
    }
    return to;
}

size_t mqtt_unsubscribe_size(enum mqtt_version version, const struct mqtt_subscribe *unsubscribe)
{
    return frame_size(filters_body(version, unsubscribe, 0));
}

uint8_t *mqtt_encode_unsubscribe(enum mqtt_version version,
                                 const struct mqtt_subscribe *unsubscribe, uint8_t *to)
{
    to = put_header(MQTT_UNSUBSCRIBE, 2, filters_body(version, unsubscribe, 0), to);
    to = put_u16(to, unsubscribe->packet_id);
    to = put_block(version, &unsubscribe->properties, to);
    for (unsigned i = 0; i < unsubscribe->count; i++)
        to = wire_put_text(to, unsubscribe->filters[i].filter);
    return to;
}

static size_t suback_body(enum mqtt_version version, const struct mqtt_suback *suback)
{
    return 2 + block_size(version, &suback->properties) + suback->reasons.size;
}

size_t mqtt_suback_size(enum mqtt_version version, const struct mqtt_suback *suback)
{
    return frame_size(suback_body(version, suback));
}

uint8_t *mqtt_encode_suback(enum mqtt_version version, const struct mqtt_suback *suback,
                            uint8_t *to)
{
    to = put_header(MQTT_SUBACK, 0, suback_body(version, suback), to);
    to = put_u16(to, suback->packet_id);
    to = put_block(version, &suback->properties, to);
    if (version == MQTT_5)
        return wire_put_bytes(to, suback->reasons);
    for (size_t i = 0; i < suback->reasons.size; i++)
        *to++ = suback->reasons.data[i] > 0x80 ? 0x80 : suback->reasons.data[i];
    return to;
}

static size_t unsuback_body(enum mqtt_version version, const struct mqtt_suback *unsuback)
{
    return version == MQTT_5 ? suback_body(version, unsuback) : 2;
}

size_t mqtt_unsuback_size(enum mqtt_version version, const struct mqtt_suback *unsuback)
{
    return frame_size(unsuback_body(version, unsuback));
}

uint8_t *mqtt_encode_unsuback(enum mqtt_version version, const struct mqtt_suback *unsuback,
                              uint8_t *to)
{
    to = put_header(MQTT_UNSUBACK, 0, unsuback_body(version, unsuback), to);
    to = put_u16(to, unsuback->packet_id);
    if (version != MQTT_5)
        return to;
    to = put_block(version, &unsuback->properties, to);
    return wire_put_bytes(to, unsuback->reasons);
}

/* PINGREQ, PINGRESP, DISCONNECT, AUTH */

uint8_t *mqtt_encode_ping(enum mqtt_type type, uint8_t to[MQTT_PING_BYTES])
{
    return put_header(type, 0, 0, to);
}

static uint8_t *encode_ending(enum mqtt_version version, enum mqtt_type type,
                              const struct mqtt_disconnect *disconnect, uint8_t *to)
{
    size_t body = ending_size(version, disconnect->reason, &disconnect->properties);
    to = put_header(type, 0, body, to);
    return put_ending(version, disconnect->reason, &disconnect->properties, to);
}

size_t mqtt_disconnect_size(enum mqtt_version version, const struct mqtt_disconnect *disconnect)
{
    return frame_size(ending_size(version, disconnect->reason, &disconnect->properties));
}

uint8_t *mqtt_encode_disconnect(enum mqtt_version version, const struct mqtt_disconnect *disconnect,
                                uint8_t *to)
{
    return encode_ending(version, MQTT_DISCONNECT, disconnect, to);
}

size_t mqtt_auth_size(const struct mqtt_disconnect *auth)
{
    return mqtt_disconnect_size(MQTT_5, auth);
}

uint8_t *mqtt_encode_auth(const struct mqtt_disconnect *auth, uint8_t *to)
{
    return encode_ending(MQTT_5, MQTT_AUTH, auth, to);
}

/* Any packet */

size_t mqtt_size(enum mqtt_version version, const struct mqtt_packet *packet)
{
    switch (packet->type) {
    case MQTT_CONNECT:
        return mqtt_connect_size(&packet->connect);
    case MQTT_CONNACK:
        return mqtt_connack_size(version, &packet->connack);
    case MQTT_PUBLISH:
        return mqtt_publish_size(version, &packet->publish);
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        return mqtt_ack_size(version, &packet->ack);
    case MQTT_SUBSCRIBE:
        return mqtt_subscribe_size(version, &packet->subscribe);
    case MQTT_SUBACK:
        return mqtt_suback_size(version, &packet->suback);
    case MQTT_UNSUBSCRIBE:
        return mqtt_unsubscribe_size(version, &packet->subscribe);
    case MQTT_UNSUBACK:
        return mqtt_unsuback_size(version, &packet->suback);
    case MQTT_PINGREQ:
    case MQTT_PINGRESP:
        return MQTT_PING_BYTES;
    case MQTT_DISCONNECT:
        return mqtt_disconnect_size(version, &packet->disconnect);
    case MQTT_AUTH:
        return mqtt_auth_size(&packet->disconnect);
    }
    return 0;
}

uint8_t *mqtt_encode(enum mqtt_version version, const struct mqtt_packet *packet, uint8_t *to)
{
    switch (packet->type) {
    case MQTT_CONNECT:
        return mqtt_encode_connect(&packet->connect, to);
    case MQTT_CONNACK:
        return mqtt_encode_connack(version, &packet->connack, to);
    case MQTT_PUBLISH:
        return mqtt_encode_publish(version, &packet->publish, to);
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        return mqtt_encode_ack_with(version, packet->type, &packet->ack, to);
    case MQTT_SUBSCRIBE:
        return mqtt_encode_subscribe(version, &packet->subscribe, to);
    case MQTT_SUBACK:
        return mqtt_encode_suback(version, &packet->suback, to);
    case MQTT_UNSUBSCRIBE:
        return mqtt_encode_unsubscribe(version, &packet->subscribe, to);
    case MQTT_UNSUBACK:
        return mqtt_encode_unsuback(version, &packet->suback, to);
    case MQTT_PINGREQ:
    case MQTT_PINGRESP:
        return mqtt_encode_ping(packet->type, to);
    case MQTT_DISCONNECT:
        return mqtt_encode_disconnect(version, &packet->disconnect, to);
    case MQTT_AUTH:
        return mqtt_encode_auth(&packet->disconnect, to);
    }
    return to;
}
