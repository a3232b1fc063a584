/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of MQTT 3.1, 3.1.1 and 5.0, all packets of both directions. Pure and without memory of
 * its own: every span of a result borrows from the input and lives as long as the input does. */
#ifndef ADAPTERS_MQTT_CODEC_H
#define ADAPTERS_MQTT_CODEC_H

#include "adapters/mqtt/properties.h"

enum mqtt_version { MQTT_3_1 = 3, MQTT_3_1_1 = 4, MQTT_5 = 5 };
enum { MQTT_LEVEL_BRIDGE = 0x80 };

enum mqtt_type {
    MQTT_CONNECT = 1,
    MQTT_CONNACK,
    MQTT_PUBLISH,
    MQTT_PUBACK,
    MQTT_PUBREC,
    MQTT_PUBREL,
    MQTT_PUBCOMP,
    MQTT_SUBSCRIBE,
    MQTT_SUBACK,
    MQTT_UNSUBSCRIBE,
    MQTT_UNSUBACK,
    MQTT_PINGREQ,
    MQTT_PINGRESP,
    MQTT_DISCONNECT,
    MQTT_AUTH,
};

enum mqtt_sender { MQTT_FROM_CLIENT, MQTT_FROM_SERVER };

static inline enum mqtt_type mqtt_type_of(uint8_t header)
{
    return (enum mqtt_type)(header >> 4);
}

enum mqtt_need { MQTT_FRAME_MORE, MQTT_FRAME_READY, MQTT_FRAME_TOO_LARGE, MQTT_FRAME_MALFORMED };

/* Finds the packet at the start of input. READY: header is its first byte, body what follows the
 * remaining length, size the whole packet. MORE: size is the whole packet's size, or 0 when that is
 * not known yet. TOO_LARGE: the packet has more than packet_max bytes (header and size are set).
 * MALFORMED: a remaining length of more than four bytes. Does not look at header. */
enum mqtt_need mqtt_frame(struct span input, uint32_t packet_max, uint8_t *header,
                          struct span *body, size_t *size);

struct mqtt_will {
    uint8_t qos;
    bool retain;
    struct span topic;
    struct span payload;
    struct mqtt_properties properties;
};

struct mqtt_connect {
    uint8_t level; /* the protocol level as sent */
    enum mqtt_version version;
    bool is_bridge; /* of 3.x: another broker, which says so in the level */
    bool clean;     /* clean session, clean start */
    bool has_will;
    bool has_user_name;
    bool has_password;
    uint16_t keep_alive;   /* seconds; 0: none */
    struct span client_id; /* empty: the server shall assign one */
    struct span user_name;
    struct span password;
    struct mqtt_will will;
    struct mqtt_properties properties;
};

struct mqtt_connack {
    bool session_present;
    enum mqtt_reason reason; /* a return code of 3.x is mapped to the reason that encodes to it */
    struct mqtt_properties properties;
};

struct mqtt_publish {
    uint8_t qos;
    bool retain;
    bool duplicate;
    uint16_t packet_id; /* 0 with QoS 0 */
    struct span topic;  /* empty: properties.topic_alias names it */
    struct span payload;
    struct mqtt_properties properties;
};

struct mqtt_ack { /* PUBACK, PUBREC, PUBREL, PUBCOMP */
    uint16_t packet_id;
    enum mqtt_reason reason;
    struct mqtt_properties properties;
};

struct mqtt_filter {
    struct span filter;
    uint8_t qos;
    bool no_local;
    bool retain_as_published;
    uint8_t retain_handling;
};

/* UNSUBSCRIBE has the same form; its filters carry no options. */
struct mqtt_subscribe {
    uint16_t packet_id;
    uint16_t count;                    /* of filters, at least 1 */
    struct span list;                  /* decoding: the filters, see mqtt_filter_next */
    const struct mqtt_filter *filters; /* encoding only, borrowed: count of them */
    struct mqtt_properties properties;
};

struct mqtt_suback { /* and UNSUBACK */
    uint16_t packet_id;
    struct span reasons; /* a byte per filter; an UNSUBACK of 3.x has none */
    struct mqtt_properties properties;
};

struct mqtt_disconnect { /* and AUTH */
    enum mqtt_reason reason;
    struct mqtt_properties properties;
};

/* The decoders answer SUCCESS, or the reason to give in CONNACK or DISCONNECT before closing (3.x:
 * to close); then the result is not to be used, except for mqtt_connect.version: it is the version
 * to answer in, or 0 when the peer does not speak MQTT and gets no answer. */
enum mqtt_reason mqtt_decode_connect(uint8_t header, struct span body,
                                     struct mqtt_connect *connect);
enum mqtt_reason mqtt_decode_connack(enum mqtt_version version, uint8_t header, struct span body,
                                     struct mqtt_connack *connack);
enum mqtt_reason mqtt_decode_publish(enum mqtt_version version, enum mqtt_sender sender,
                                     uint8_t header, struct span body,
                                     struct mqtt_publish *publish);
enum mqtt_reason mqtt_decode_ack(enum mqtt_version version, uint8_t header, struct span body,
                                 struct mqtt_ack *ack);
enum mqtt_reason mqtt_decode_subscribe(enum mqtt_version version, uint8_t header, struct span body,
                                       struct mqtt_subscribe *subscribe);
enum mqtt_reason mqtt_decode_unsubscribe(enum mqtt_version version, uint8_t header,
                                         struct span body, struct mqtt_subscribe *unsubscribe);
enum mqtt_reason mqtt_decode_suback(enum mqtt_version version, uint8_t header, struct span body,
                                    struct mqtt_suback *suback);
enum mqtt_reason mqtt_decode_unsuback(enum mqtt_version version, uint8_t header, struct span body,
                                      struct mqtt_suback *unsuback);
enum mqtt_reason mqtt_decode_ping(enum mqtt_version version, uint8_t header,
                                  struct span body); /* PINGREQ and PINGRESP */
enum mqtt_reason mqtt_decode_disconnect(enum mqtt_version version, enum mqtt_sender sender,
                                        uint8_t header, struct span body,
                                        struct mqtt_disconnect *disconnect);
enum mqtt_reason mqtt_decode_auth(enum mqtt_version version, enum mqtt_sender sender,
                                  uint8_t header, struct span body, struct mqtt_disconnect *auth);

/* Takes the next filter off subscribe->list; false at the end. */
bool mqtt_filter_next(struct mqtt_subscribe *subscribe, struct mqtt_filter *filter);
bool mqtt_unsubscribe_next(struct mqtt_subscribe *unsubscribe, struct span *filter);

/* Any packet, for clients, tests and tools; servers switch on the type themselves. */
struct mqtt_packet {
    enum mqtt_type type;
    union {
        struct mqtt_connect connect;
        struct mqtt_connack connack;
        struct mqtt_publish publish;
        struct mqtt_ack ack;
        struct mqtt_subscribe subscribe;   /* UNSUBSCRIBE */
        struct mqtt_suback suback;         /* UNSUBACK */
        struct mqtt_disconnect disconnect; /* AUTH */
    };
};

/* A packet that the sender may not send at all is a PROTOCOL_ERROR. version is not read for
 * CONNECT. */
enum mqtt_reason mqtt_decode(enum mqtt_version version, enum mqtt_sender sender, uint8_t header,
                             struct span body, struct mqtt_packet *packet);

#endif
