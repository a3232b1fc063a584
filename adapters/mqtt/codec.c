/* SPDX-License-Identifier: Apache-2.0 */
/* Strict decoding. MQTT 3.1 is read as leniently as its own text asks: it calls the fixed header's
 * flags "not used" where 3.1.1 and 5.0 made them reserved. */
#include "adapters/mqtt/codec.h"

#include "adapters/mqtt/topic.h"
#include "adapters/mqtt/wire.h"
#include "core/base/limits.h"

static const char *const reason_texts[256] = {
#define X(name, value, text, packets) [value] = (text),
    MQTT_REASON_MAP(X)
#undef X
};

static const uint32_t reason_packets[256] = {
#define X(name, value, text, packets) [value] = (packets),
    MQTT_REASON_MAP(X)
#undef X
};

const char *mqtt_reason_text(enum mqtt_reason reason)
{
    const char *text = (unsigned)reason < 256 ? reason_texts[reason] : NULL;
    return text != NULL ? text : "reserved";
}

bool mqtt_reason_allowed(uint8_t value, uint32_t packets)
{
    return (reason_packets[value] & packets) != 0;
}

enum mqtt_need mqtt_frame(struct span input, uint32_t packet_max, uint8_t *header,
                          struct span *body, size_t *size)
{
    *size = 0;
    uint32_t length = 0;
    for (size_t i = 1; i <= 4; i++) {
        if (i >= input.size)
            return MQTT_FRAME_MORE;
        uint8_t byte = input.data[i];
        length |= (uint32_t)(byte & 0x7f) << (7 * (i - 1));
        if (byte >= 0x80)
            continue;
        *header = input.data[0];
        *size = 1 + i + length;
        if (*size > packet_max)
            return MQTT_FRAME_TOO_LARGE;
        if (input.size < *size)
            return MQTT_FRAME_MORE;
        *body = span_of(input.data + 1 + i, length);
        return MQTT_FRAME_READY;
    }
    return MQTT_FRAME_MALFORMED;
}

/* PUBLISH has flags of its own and does not come here. */
static bool flags_are_valid(enum mqtt_version version, uint8_t header)
{
    enum mqtt_type type = mqtt_type_of(header);
    bool has_qos_1 = type == MQTT_PUBREL || type == MQTT_SUBSCRIBE || type == MQTT_UNSUBSCRIBE;
    return version == MQTT_3_1 || (header & 0x0f) == (has_qos_1 ? 2 : 0);
}

/* A property list with its length. The packet must be at its end afterwards if it is the last part.
 */
static enum mqtt_reason read_properties(enum mqtt_version version, struct reader *reader,
                                        unsigned where, struct mqtt_properties *properties)
{
    if (version != MQTT_5) {
        *properties = mqtt_properties_none;
        return MQTT_REASON_SUCCESS;
    }
    struct span list = reader_bytes(reader, wire_varint(reader));
    if (reader->failed)
        return MQTT_REASON_MALFORMED;
    return mqtt_properties_decode(list, where, properties);
}

static bool is_complete(const struct reader *reader)
{
    return !reader->failed && reader->at == reader->end;
}

/* CONNECT */

enum {
    CONNECT_RESERVED = 0x01,
    CONNECT_CLEAN = 0x02,
    CONNECT_WILL = 0x04,
    CONNECT_WILL_QOS = 0x18,
    CONNECT_WILL_RETAIN = 0x20,
    CONNECT_PASSWORD = 0x40,
    CONNECT_USER_NAME = 0x80,
};

/* A level that no version has is refused in MQTT 5's words, which is the only version whose text
 * says how to answer an unknown one (3.1.2.2); a known level under the wrong name in those of 3.x.
 * A bridge of Mosquitto's sets the top bit, and tries again without it only if return code 1 tells
 * it to. */
static enum mqtt_reason read_protocol(struct reader *reader, struct mqtt_connect *connect)
{
    struct span name = wire_binary(reader);
    connect->level = reader_u8(reader);
    if (reader->failed)
        return MQTT_REASON_MALFORMED;
    bool is_old = span_is(name, "MQIsdp");
    if (!is_old && !span_is(name, "MQTT"))
        return MQTT_REASON_UNSUPPORTED_VERSION;
    uint8_t level = connect->level & (uint8_t)~MQTT_LEVEL_BRIDGE;
    bool is_known = level == MQTT_3_1 || level == MQTT_3_1_1;
    connect->is_bridge = is_known && level != connect->level;
    connect->version = is_known ? (enum mqtt_version)level : MQTT_5;
    bool fits = is_old ? level == MQTT_3_1 : level == MQTT_3_1_1 || connect->level == MQTT_5;
    return fits ? MQTT_REASON_SUCCESS : MQTT_REASON_UNSUPPORTED_VERSION;
}

static bool connect_flags_are_valid(enum mqtt_version version, uint8_t flags)
{
    if ((flags & CONNECT_WILL) != 0 && (flags & CONNECT_WILL_QOS) == CONNECT_WILL_QOS)
        return false;
    if (version == MQTT_3_1)
        return true;
    if ((flags & CONNECT_RESERVED) != 0)
        return false;
    if ((flags & CONNECT_WILL) == 0 && (flags & (CONNECT_WILL_QOS | CONNECT_WILL_RETAIN)) != 0)
        return false;
    return version == MQTT_5 || (flags & CONNECT_USER_NAME) != 0 || (flags & CONNECT_PASSWORD) == 0;
}

static enum mqtt_reason check_client_id(const struct mqtt_connect *connect)
{
    bool may_be_empty =
        connect->version == MQTT_5 || (connect->version == MQTT_3_1_1 && connect->clean);
    if (connect->client_id.size == 0)
        return may_be_empty ? MQTT_REASON_SUCCESS : MQTT_REASON_CLIENT_ID_INVALID;
    bool is_valid = connect->client_id.size <= LIMIT_CLIENT_ID_BYTES &&
                    utf8_is_valid_no_nul(connect->client_id);
    return is_valid ? MQTT_REASON_SUCCESS : MQTT_REASON_CLIENT_ID_INVALID;
}

static enum mqtt_reason read_will(struct reader *reader, uint8_t flags, enum mqtt_version version,
                                  struct mqtt_will *will)
{
    enum mqtt_reason reason = read_properties(version, reader, MQTT_LIST_WILL, &will->properties);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    will->qos = (flags >> 3) & 3;
    will->retain = (flags & CONNECT_WILL_RETAIN) != 0;
    will->topic = wire_text(reader);
    will->payload = wire_binary(reader);
    if (reader->failed)
        return MQTT_REASON_MALFORMED;
    return mqtt_topic_is_formed(will->topic) ? MQTT_REASON_SUCCESS : MQTT_REASON_TOPIC_INVALID;
}

/* MQTT 3.1 lets a flag stand for a user name or password that is not there (3.1, CONNECT, user
 * name). */
static bool has_credential(const struct reader *reader, uint8_t flag, enum mqtt_version version)
{
    return flag != 0 && (version != MQTT_3_1 || reader_left(reader) != 0);
}

static bool auth_is_valid(const struct mqtt_properties *properties)
{
    return (properties->present & (MQTT_HAS(AUTH_METHOD) | MQTT_HAS(AUTH_DATA))) !=
           MQTT_HAS(AUTH_DATA);
}

static enum mqtt_reason read_connect_payload(struct reader *reader, uint8_t flags,
                                             struct mqtt_connect *connect)
{
    enum mqtt_version version = connect->version;
    connect->client_id = wire_binary(reader);
    if (reader->failed)
        return MQTT_REASON_MALFORMED;
    enum mqtt_reason reason = check_client_id(connect);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    connect->has_will = (flags & CONNECT_WILL) != 0;
    if (connect->has_will) {
        reason = read_will(reader, flags, version, &connect->will);
        if (reason != MQTT_REASON_SUCCESS)
            return reason;
    }
    connect->has_user_name = has_credential(reader, flags & CONNECT_USER_NAME, version);
    if (connect->has_user_name)
        connect->user_name = wire_text(reader);
    connect->has_password = has_credential(reader, flags & CONNECT_PASSWORD, version);
    if (connect->has_password)
        connect->password = wire_binary(reader);
    return is_complete(reader) ? MQTT_REASON_SUCCESS : MQTT_REASON_MALFORMED;
}

enum mqtt_reason mqtt_decode_connect(uint8_t header, struct span body, struct mqtt_connect *connect)
{
    *connect = (struct mqtt_connect){.will.properties = mqtt_properties_none};
    struct reader reader = reader_of(body);
    enum mqtt_reason reason = read_protocol(&reader, connect);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    uint8_t flags = reader_u8(&reader);
    connect->keep_alive = reader_u16(&reader);
    if (reader.failed || !flags_are_valid(connect->version, header) ||
        !connect_flags_are_valid(connect->version, flags))
        return MQTT_REASON_MALFORMED;
    connect->clean = (flags & CONNECT_CLEAN) != 0;
    reason = read_properties(connect->version, &reader, MQTT_CONNECT, &connect->properties);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    if (!auth_is_valid(&connect->properties))
        return MQTT_REASON_PROTOCOL_ERROR;
    return read_connect_payload(&reader, flags, connect);
}

/* CONNACK */

/* The reasons that stand for the return codes 1 to 5 of 3.x. */
static const uint8_t return_codes[] = {
    MQTT_REASON_SUCCESS,           MQTT_REASON_UNSUPPORTED_VERSION,
    MQTT_REASON_CLIENT_ID_INVALID, MQTT_REASON_SERVER_UNAVAILABLE,
    MQTT_REASON_BAD_CREDENTIALS,   MQTT_REASON_NOT_AUTHORIZED,
};

enum mqtt_reason mqtt_decode_connack(enum mqtt_version version, uint8_t header, struct span body,
                                     struct mqtt_connack *connack)
{
    struct reader reader = reader_of(body);
    uint8_t flags = reader_u8(&reader);
    uint8_t value = reader_u8(&reader);
    if (reader.failed || !flags_are_valid(version, header))
        return MQTT_REASON_MALFORMED;
    if (version != MQTT_3_1 && flags > 1)
        return MQTT_REASON_MALFORMED;
    if (version == MQTT_5) {
        if (!mqtt_reason_allowed(value, MQTT_ON_CONNACK))
            return MQTT_REASON_PROTOCOL_ERROR;
    } else {
        if (value >= sizeof return_codes)
            return MQTT_REASON_MALFORMED;
        value = return_codes[value];
    }
    connack->session_present = version != MQTT_3_1 && flags == 1;
    connack->reason = (enum mqtt_reason)value;
    if (connack->session_present && connack->reason != MQTT_REASON_SUCCESS)
        return MQTT_REASON_PROTOCOL_ERROR;
    enum mqtt_reason reason = read_properties(version, &reader, MQTT_CONNACK, &connack->properties);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    if (!auth_is_valid(&connack->properties))
        return MQTT_REASON_PROTOCOL_ERROR;
    return is_complete(&reader) ? MQTT_REASON_SUCCESS : MQTT_REASON_MALFORMED;
}

/* PUBLISH and its acknowledgements */

enum mqtt_reason mqtt_decode_publish(enum mqtt_version version, enum mqtt_sender sender,
                                     uint8_t header, struct span body, struct mqtt_publish *publish)
{
    publish->qos = (header >> 1) & 3;
    publish->retain = (header & 1) != 0;
    publish->duplicate = (header & 8) != 0;
    if (publish->qos == 3)
        return MQTT_REASON_MALFORMED;
    if (publish->qos == 0 && publish->duplicate && version != MQTT_3_1)
        return MQTT_REASON_MALFORMED;
    struct reader reader = reader_of(body);
    publish->topic = wire_text(&reader);
    publish->packet_id = publish->qos != 0 ? reader_u16(&reader) : 0;
    if (reader.failed)
        return MQTT_REASON_MALFORMED;
    if (publish->qos != 0 && publish->packet_id == 0)
        return MQTT_REASON_PROTOCOL_ERROR;
    unsigned where = sender == MQTT_FROM_SERVER ? MQTT_LIST_PUBLISH_SERVER : MQTT_PUBLISH;
    enum mqtt_reason reason = read_properties(version, &reader, where, &publish->properties);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    publish->payload = span_of(reader.at, reader_left(&reader));
    if (publish->topic.size == 0)
        return (publish->properties.present & MQTT_HAS(TOPIC_ALIAS)) != 0
                   ? MQTT_REASON_SUCCESS
                   : MQTT_REASON_PROTOCOL_ERROR;
    return mqtt_topic_is_formed(publish->topic) ? MQTT_REASON_SUCCESS : MQTT_REASON_TOPIC_INVALID;
}

/* MQTT 5 lets the end of a packet be left out: a reason means success, then its properties none. */
static enum mqtt_reason read_ending(struct reader *reader, uint32_t packet, unsigned where,
                                    enum mqtt_reason *reason, struct mqtt_properties *properties)
{
    *reason = MQTT_REASON_SUCCESS;
    *properties = mqtt_properties_none;
    if (reader->at == reader->end)
        return MQTT_REASON_SUCCESS;
    uint8_t value = reader_u8(reader);
    if (!mqtt_reason_allowed(value, packet))
        return MQTT_REASON_PROTOCOL_ERROR;
    *reason = (enum mqtt_reason)value;
    if (reader->at == reader->end)
        return MQTT_REASON_SUCCESS;
    enum mqtt_reason result = read_properties(MQTT_5, reader, where, properties);
    if (result != MQTT_REASON_SUCCESS)
        return result;
    return is_complete(reader) ? MQTT_REASON_SUCCESS : MQTT_REASON_MALFORMED;
}

enum mqtt_reason mqtt_decode_ack(enum mqtt_version version, uint8_t header, struct span body,
                                 struct mqtt_ack *ack)
{
    struct reader reader = reader_of(body);
    ack->packet_id = reader_u16(&reader);
    if (reader.failed || !flags_are_valid(version, header))
        return MQTT_REASON_MALFORMED;
    if (version != MQTT_5 && reader.at != reader.end)
        return MQTT_REASON_MALFORMED;
    if (ack->packet_id == 0)
        return MQTT_REASON_PROTOCOL_ERROR;
    enum mqtt_type type = mqtt_type_of(header);
    return read_ending(&reader, MQTT_ON(type), type, &ack->reason, &ack->properties);
}

/* SUBSCRIBE, UNSUBSCRIBE and their acknowledgements */

static enum mqtt_reason check_options(enum mqtt_version version, struct span filter,
                                      uint8_t options)
{
    unsigned reserved = version == MQTT_5 ? 0xc0 : 0xfc;
    bool is_retain_handling_valid = (options & 0x30) != 0x30;
    if ((options & reserved) != 0 || (options & 3) == 3 || !is_retain_handling_valid)
        return MQTT_REASON_MALFORMED;
    bool is_no_local = (options & 0x04) != 0;
    return is_no_local && mqtt_is_share(filter) ? MQTT_REASON_PROTOCOL_ERROR : MQTT_REASON_SUCCESS;
}

static enum mqtt_reason check_filters(enum mqtt_version version, bool has_options,
                                      struct mqtt_subscribe *subscribe)
{
    struct reader reader = reader_of(subscribe->list);
    do {
        struct span filter = wire_text(&reader);
        uint8_t options = has_options ? reader_u8(&reader) : 0;
        if (reader.failed || filter.size == 0)
            return MQTT_REASON_MALFORMED;
        if (!mqtt_any_filter_is_formed(filter))
            return MQTT_REASON_FILTER_INVALID;
        enum mqtt_reason reason = check_options(version, filter, options);
        if (reason != MQTT_REASON_SUCCESS)
            return reason;
        if (subscribe->count == LIMIT_FILTERS_PER_CALL)
            return MQTT_REASON_QUOTA_EXCEEDED;
        subscribe->count++;
    } while (reader.at < reader.end);
    return MQTT_REASON_SUCCESS;
}

static enum mqtt_reason decode_filters(enum mqtt_version version, uint8_t header, struct span body,
                                       bool has_options, struct mqtt_subscribe *subscribe)
{
    struct reader reader = reader_of(body);
    subscribe->packet_id = reader_u16(&reader);
    subscribe->count = 0;
    subscribe->filters = NULL;
    if (reader.failed || subscribe->packet_id == 0 || !flags_are_valid(version, header))
        return MQTT_REASON_MALFORMED;
    enum mqtt_reason reason =
        read_properties(version, &reader, mqtt_type_of(header), &subscribe->properties);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    subscribe->list = span_of(reader.at, reader_left(&reader));
    return check_filters(version, has_options, subscribe);
}

enum mqtt_reason mqtt_decode_subscribe(enum mqtt_version version, uint8_t header, struct span body,
                                       struct mqtt_subscribe *subscribe)
{
    return decode_filters(version, header, body, true, subscribe);
}

enum mqtt_reason mqtt_decode_unsubscribe(enum mqtt_version version, uint8_t header,
                                         struct span body, struct mqtt_subscribe *unsubscribe)
{
    return decode_filters(version, header, body, false, unsubscribe);
}

bool mqtt_filter_next(struct mqtt_subscribe *subscribe, struct mqtt_filter *filter)
{
    if (subscribe->list.size == 0)
        return false;
    struct reader reader = reader_of(subscribe->list);
    struct span text = wire_binary(&reader);
    uint8_t options = reader_u8(&reader);
    *filter = (struct mqtt_filter){
        .filter = text,
        .qos = options & 3,
        .no_local = (options & 0x04) != 0,
        .retain_as_published = (options & 0x08) != 0,
        .retain_handling = (options >> 4) & 3,
    };
    subscribe->list = span_of(reader.at, reader_left(&reader));
    return true;
}

bool mqtt_unsubscribe_next(struct mqtt_subscribe *unsubscribe, struct span *filter)
{
    if (unsubscribe->list.size == 0)
        return false;
    struct reader reader = reader_of(unsubscribe->list);
    *filter = wire_binary(&reader);
    unsubscribe->list = span_of(reader.at, reader_left(&reader));
    return true;
}

/* All three of 3.x are reasons of MQTT 5 as well; of the failures 3.x has only 0x80. */
static bool reasons_are_valid(enum mqtt_version version, uint32_t packet, struct span reasons)
{
    for (size_t i = 0; i < reasons.size; i++) {
        uint8_t value = reasons.data[i];
        if (!mqtt_reason_allowed(value, packet) || (version != MQTT_5 && value > 0x80))
            return false;
    }
    return true;
}

static enum mqtt_reason decode_suback(enum mqtt_version version, uint8_t header, struct span body,
                                      bool has_reasons, struct mqtt_suback *suback)
{
    struct reader reader = reader_of(body);
    suback->packet_id = reader_u16(&reader);
    if (reader.failed || suback->packet_id == 0 || !flags_are_valid(version, header))
        return MQTT_REASON_MALFORMED;
    enum mqtt_type type = mqtt_type_of(header);
    enum mqtt_reason reason = read_properties(version, &reader, type, &suback->properties);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    suback->reasons = span_of(reader.at, reader_left(&reader));
    if ((suback->reasons.size != 0) != has_reasons)
        return MQTT_REASON_MALFORMED;
    return reasons_are_valid(version, MQTT_ON(type), suback->reasons) ? MQTT_REASON_SUCCESS
                                                                      : MQTT_REASON_PROTOCOL_ERROR;
}

enum mqtt_reason mqtt_decode_suback(enum mqtt_version version, uint8_t header, struct span body,
                                    struct mqtt_suback *suback)
{
    return decode_suback(version, header, body, true, suback);
}

enum mqtt_reason mqtt_decode_unsuback(enum mqtt_version version, uint8_t header, struct span body,
                                      struct mqtt_suback *unsuback)
{
    return decode_suback(version, header, body, version == MQTT_5, unsuback);
}

/* PINGREQ, PINGRESP, DISCONNECT, AUTH */

enum mqtt_reason mqtt_decode_ping(enum mqtt_version version, uint8_t header, struct span body)
{
    return body.size == 0 && flags_are_valid(version, header) ? MQTT_REASON_SUCCESS
                                                              : MQTT_REASON_MALFORMED;
}

enum mqtt_reason mqtt_decode_disconnect(enum mqtt_version version, enum mqtt_sender sender,
                                        uint8_t header, struct span body,
                                        struct mqtt_disconnect *disconnect)
{
    bool is_server = sender == MQTT_FROM_SERVER;
    if (version != MQTT_5 && is_server)
        return MQTT_REASON_PROTOCOL_ERROR;
    if (!flags_are_valid(version, header) || (version != MQTT_5 && body.size != 0))
        return MQTT_REASON_MALFORMED;
    struct reader reader = reader_of(body);
    return read_ending(&reader, is_server ? MQTT_ON_DISCONNECT_SERVER : MQTT_ON_DISCONNECT_CLIENT,
                       is_server ? MQTT_LIST_DISCONNECT_SERVER : MQTT_DISCONNECT,
                       &disconnect->reason, &disconnect->properties);
}

enum mqtt_reason mqtt_decode_auth(enum mqtt_version version, enum mqtt_sender sender,
                                  uint8_t header, struct span body, struct mqtt_disconnect *auth)
{
    if (version != MQTT_5)
        return MQTT_REASON_PROTOCOL_ERROR;
    if (!flags_are_valid(version, header))
        return MQTT_REASON_MALFORMED;
    struct reader reader = reader_of(body);
    uint32_t packet = sender == MQTT_FROM_SERVER ? MQTT_ON_AUTH_SERVER : MQTT_ON_AUTH_CLIENT;
    if (body.size == 0 && sender == MQTT_FROM_CLIENT)
        return MQTT_REASON_PROTOCOL_ERROR; /* it means success, which only a server can declare */
    enum mqtt_reason reason =
        read_ending(&reader, packet, MQTT_AUTH, &auth->reason, &auth->properties);
    if (reason != MQTT_REASON_SUCCESS)
        return reason;
    bool has_method = (auth->properties.present & MQTT_HAS(AUTH_METHOD)) != 0;
    return has_method || body.size == 0 ? MQTT_REASON_SUCCESS : MQTT_REASON_PROTOCOL_ERROR;
}

/* Any packet */

static enum mqtt_reason decode_from_client(enum mqtt_version version, uint8_t header,
                                           struct span body, struct mqtt_packet *packet)
{
    switch ((unsigned)packet->type) {
    case MQTT_CONNECT:
        return mqtt_decode_connect(header, body, &packet->connect);
    case MQTT_SUBSCRIBE:
        return mqtt_decode_subscribe(version, header, body, &packet->subscribe);
    case MQTT_UNSUBSCRIBE:
        return mqtt_decode_unsubscribe(version, header, body, &packet->subscribe);
    case MQTT_PINGREQ:
        return mqtt_decode_ping(version, header, body);
    default:
        return MQTT_REASON_PROTOCOL_ERROR;
    }
}

static enum mqtt_reason decode_from_server(enum mqtt_version version, uint8_t header,
                                           struct span body, struct mqtt_packet *packet)
{
    switch ((unsigned)packet->type) {
    case MQTT_CONNACK:
        return mqtt_decode_connack(version, header, body, &packet->connack);
    case MQTT_SUBACK:
        return mqtt_decode_suback(version, header, body, &packet->suback);
    case MQTT_UNSUBACK:
        return mqtt_decode_unsuback(version, header, body, &packet->suback);
    case MQTT_PINGRESP:
        return mqtt_decode_ping(version, header, body);
    default:
        return MQTT_REASON_PROTOCOL_ERROR;
    }
}

enum mqtt_reason mqtt_decode(enum mqtt_version version, enum mqtt_sender sender, uint8_t header,
                             struct span body, struct mqtt_packet *packet)
{
    packet->type = mqtt_type_of(header);
    switch ((unsigned)packet->type) {
    case 0:
        return MQTT_REASON_MALFORMED;
    case MQTT_PUBLISH:
        return mqtt_decode_publish(version, sender, header, body, &packet->publish);
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        return mqtt_decode_ack(version, header, body, &packet->ack);
    case MQTT_DISCONNECT:
        return mqtt_decode_disconnect(version, sender, header, body, &packet->disconnect);
    case MQTT_AUTH:
        return mqtt_decode_auth(version, sender, header, body, &packet->disconnect);
    default:
        return sender == MQTT_FROM_CLIENT ? decode_from_client(version, header, body, packet)
                                          : decode_from_server(version, header, body, packet);
    }
}
