/* SPDX-License-Identifier: Apache-2.0 */
/* The load generator's own MQTT encoder and decoder. */
#include "tests/bench/mqtt.h"

#include <stdlib.h>
#include <string.h>

/* A variable byte integer: the bytes it took, 0 when bytes are missing, -1 when it does not end. */
static int read_varint(const uint8_t *bytes, size_t length, uint32_t *value)
{
    *value = 0;
    for (unsigned i = 0; i < 4; i++) {
        if (i == length)
            return 0;
        *value |= (uint32_t)(bytes[i] & 0x7f) << (7 * i);
        if ((bytes[i] & 0x80) == 0)
            return (int)i + 1;
    }
    return -1;
}

static uint8_t *put_varint(uint8_t *at, uint32_t value)
{
    while (value >= 0x80) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}

static uint8_t *put_u16(uint8_t *at, uint16_t value)
{
    *at++ = (uint8_t)(value >> 8);
    *at++ = (uint8_t)value;
    return at;
}

static uint8_t *put_string(uint8_t *at, const char *string)
{
    size_t length = strlen(string);
    at = put_u16(at, (uint16_t)length);
    memcpy(at, string, length);
    return at + length;
}

static uint16_t get_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

ssize_t mqtt_frame(const uint8_t *bytes, size_t length, struct frame *frame)
{
    if (length < 2)
        return 0;
    int used = read_varint(bytes + 1, length - 1, &frame->length);
    if (used <= 0)
        return used;
    size_t head = 1 + (size_t)used;
    if (length - head < frame->length)
        return 0;
    frame->type = bytes[0] >> 4;
    frame->flags = bytes[0] & 0x0f;
    frame->body = bytes + head;
    return (ssize_t)(head + frame->length);
}

size_t mqtt_connect(uint8_t *out, int protocol, const char *client_id, bool kept)
{
    uint8_t *at = out;
    uint32_t properties = protocol != 5 ? 0 : kept ? 6 : 1;
    *at++ = MQTT_CONNECT << 4;
    at = put_varint(at, (uint32_t)(12 + strlen(client_id)) + properties);
    at = put_string(at, "MQTT");
    *at++ = (uint8_t)protocol;
    *at++ = kept ? 0 : 0x02; /* clean session */
    at = put_u16(at, 0);
    if (properties > 0)
        *at++ = (uint8_t)(properties - 1);
    if (properties > 1) { /* the session never expires */
        *at++ = 0x11;
        memset(at, 0xff, 4);
        at += 4;
    }
    at = put_string(at, client_id);
    return (size_t)(at - out);
}

static uint8_t *put_u32(uint8_t *at, uint32_t value)
{
    return put_u16(put_u16(at, (uint16_t)(value >> 16)), (uint16_t)value);
}

size_t mqtt_connect_will(uint8_t *out, int protocol, const char *client_id,
                         const struct mqtt_will *will)
{
    uint8_t *at = out;
    uint32_t properties = protocol == 5 ? 6 : 0;
    *at++ = MQTT_CONNECT << 4;
    at = put_varint(
        at, (uint32_t)(12 + strlen(client_id) + 2 + strlen(will->topic) + 2 + sizeof will->number) +
                2 * properties);
    at = put_string(at, "MQTT");
    *at++ = (uint8_t)protocol;
    *at++ = 0x02 | 0x04 | 1 << 3; /* clean session, a will of QoS 1 */
    at = put_u16(at, 0);
    if (properties > 0) {
        *at++ = 5;
        *at++ = 0x11;
        at = put_u32(at, will->expiry_s);
    }
    at = put_string(at, client_id);
    if (properties > 0) {
        *at++ = 5;
        *at++ = 0x18;
        at = put_u32(at, will->delay_s);
    }
    at = put_string(at, will->topic);
    at = put_u16(at, sizeof will->number);
    memcpy(at, &will->number, sizeof will->number);
    return (size_t)(at + sizeof will->number - out);
}

size_t mqtt_subscribe(uint8_t *out, int protocol, uint16_t packet_id, const char *filter, int qos)
{
    uint8_t *at = out;
    *at++ = MQTT_SUBSCRIBE << 4 | 2;
    at = put_varint(at, (uint32_t)(5 + strlen(filter)) + (protocol == 5));
    at = put_u16(at, packet_id);
    if (protocol == 5)
        *at++ = 0;
    at = put_string(at, filter);
    *at++ = (uint8_t)qos;
    return (size_t)(at - out);
}

size_t mqtt_ack(uint8_t out[4], enum mqtt_type type, uint16_t packet_id)
{
    out[0] = (uint8_t)(type << 4 | (type == MQTT_PUBREL ? 2 : 0));
    out[1] = 2;
    put_u16(out + 2, packet_id);
    return 4;
}

size_t mqtt_disconnect(uint8_t out[2])
{
    out[0] = MQTT_DISCONNECT << 4;
    out[1] = 0;
    return 2;
}

void mqtt_publish_template(int protocol, const char *topic, int qos, uint32_t payload_length,
                           struct mqtt_template *out)
{
    uint32_t length =
        (uint32_t)(2 + strlen(topic)) + (qos > 0 ? 2 : 0) + (protocol == 5) + payload_length;
    out->bytes = calloc(1, length + 5);
    if (out->bytes == NULL)
        abort();
    uint8_t *at = out->bytes;
    *at++ = (uint8_t)(MQTT_PUBLISH << 4 | qos << 1);
    at = put_varint(at, length);
    at = put_string(at, topic);
    out->id_at = (uint32_t)(at - out->bytes);
    if (qos > 0)
        at = put_u16(at, 0);
    if (protocol == 5)
        *at++ = 0;
    out->payload_at = (uint32_t)(at - out->bytes);
    out->length = out->payload_at + payload_length;
}

bool mqtt_read_publish(const struct frame *frame, int protocol, struct mqtt_publish *out)
{
    out->qos = frame->flags >> 1 & 3;
    if (frame->length < 2)
        return false;
    uint32_t at = 2u + get_u16(frame->body);
    out->packet_id = 0;
    if (out->qos > 0) {
        if (at + 2 > frame->length)
            return false;
        out->packet_id = get_u16(frame->body + at);
        at += 2;
    }
    if (at > frame->length)
        return false;
    if (protocol == 5) {
        uint32_t properties;
        int used = read_varint(frame->body + at, frame->length - at, &properties);
        if (used <= 0 || properties > frame->length - at - (uint32_t)used)
            return false;
        at += (uint32_t)used + properties;
    }
    out->payload = frame->body + at;
    out->payload_length = frame->length - at;
    return true;
}

bool mqtt_read_ack(const struct frame *frame, uint16_t *packet_id)
{
    if (frame->length < 2)
        return false;
    *packet_id = get_u16(frame->body);
    return frame->length == 2 || frame->body[2] < 0x80;
}

/* The size of one CONNACK property's value, 0 when unknown or cut short. */
static uint32_t connack_property_bytes(uint8_t id, const uint8_t *value, uint32_t left)
{
    uint32_t bytes;
    switch (id) {
    case 0x24:
    case 0x25:
    case 0x28:
    case 0x29:
    case 0x2a:
        return left >= 1;
    case 0x13:
    case 0x21:
    case 0x22:
        return left >= 2 ? 2 : 0;
    case 0x11:
    case 0x27:
        return left >= 4 ? 4 : 0;
    case 0x12:
    case 0x15:
    case 0x16:
    case 0x1a:
    case 0x1c:
    case 0x1f:
        return left >= 2 && left >= 2u + get_u16(value) ? 2u + get_u16(value) : 0;
    case 0x26:
        bytes = left >= 2 ? 2u + get_u16(value) : 0;
        if (bytes == 0 || left < bytes + 2 || left < bytes + 2u + get_u16(value + bytes))
            return 0;
        return bytes + 2u + get_u16(value + bytes);
    default:
        return 0;
    }
}

bool mqtt_read_connack(const struct frame *frame, int protocol, uint16_t *receive_max)
{
    *receive_max = 65535;
    if (frame->type != MQTT_CONNACK || frame->length < 2 || frame->body[1] != 0)
        return false;
    if (protocol != 5)
        return true;
    uint32_t properties;
    int used = read_varint(frame->body + 2, frame->length - 2, &properties);
    if (used <= 0 || properties != frame->length - 2 - (uint32_t)used)
        return false;
    const uint8_t *at = frame->body + 2 + used, *end = frame->body + frame->length;
    while (at < end) {
        uint8_t id = *at++;
        uint32_t bytes = connack_property_bytes(id, at, (uint32_t)(end - at));
        if (bytes == 0)
            return false;
        if (id == 0x21)
            *receive_max = get_u16(at);
        at += bytes;
    }
    return *receive_max > 0;
}

bool mqtt_read_suback(const struct frame *frame, int protocol)
{
    uint32_t at = 2, properties = 0;
    if (frame->type != MQTT_SUBACK || frame->length < 3)
        return false;
    if (protocol == 5) {
        int used = read_varint(frame->body + at, frame->length - at, &properties);
        if (used <= 0 || properties > frame->length - at - (uint32_t)used)
            return false;
        at += (uint32_t)used + properties;
    }
    return at < frame->length && frame->body[at] < 0x80;
}
