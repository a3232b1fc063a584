/* SPDX-License-Identifier: Apache-2.0 */
/* MQTT 5 properties: one table, a lazy iterator, and a decoded form for what occurs once. */
#ifndef ADAPTERS_MQTT_PROPERTIES_H
#define ADAPTERS_MQTT_PROPERTIES_H

#include "adapters/mqtt/reason.h"
#include "core/base/span.h"

/* Name, identifier, encoding, field of struct mqtt_properties (user properties stay in the list).
 */
#define MQTT_PROPERTY_MAP(X)                                                                       \
    X(PAYLOAD_FORMAT, 0x01, BOOL, payload_format)                                                  \
    X(MESSAGE_EXPIRY, 0x02, U32, message_expiry)                                                   \
    X(CONTENT_TYPE, 0x03, TEXT, content_type)                                                      \
    X(RESPONSE_TOPIC, 0x08, TOPIC, response_topic)                                                 \
    X(CORRELATION, 0x09, BINARY, correlation)                                                      \
    X(SUBSCRIPTION_ID, 0x0B, VARINT, subscription_id)                                              \
    X(SESSION_EXPIRY, 0x11, U32, session_expiry)                                                   \
    X(ASSIGNED_CLIENT_ID, 0x12, TEXT, assigned_client_id)                                          \
    X(SERVER_KEEP_ALIVE, 0x13, U16, server_keep_alive)                                             \
    X(AUTH_METHOD, 0x15, TEXT, auth_method)                                                        \
    X(AUTH_DATA, 0x16, BINARY, auth_data)                                                          \
    X(REQUEST_PROBLEM, 0x17, BOOL, request_problem)                                                \
    X(WILL_DELAY, 0x18, U32, will_delay)                                                           \
    X(REQUEST_RESPONSE, 0x19, BOOL, request_response)                                              \
    X(RESPONSE_INFO, 0x1A, TEXT, response_info)                                                    \
    X(SERVER_REFERENCE, 0x1C, TEXT, server_reference)                                              \
    X(REASON_STRING, 0x1F, TEXT, reason_string)                                                    \
    X(RECEIVE_MAXIMUM, 0x21, U16_NONZERO, receive_maximum)                                         \
    X(TOPIC_ALIAS_MAXIMUM, 0x22, U16, topic_alias_maximum)                                         \
    X(TOPIC_ALIAS, 0x23, U16_NONZERO, topic_alias)                                                 \
    X(MAXIMUM_QOS, 0x24, BOOL, maximum_qos)                                                        \
    X(RETAIN_AVAILABLE, 0x25, BOOL, retain_available)                                              \
    X(USER, 0x26, PAIR, list)                                                                      \
    X(MAXIMUM_PACKET, 0x27, U32_NONZERO, maximum_packet)                                           \
    X(WILDCARDS_AVAILABLE, 0x28, BOOL, wildcards_available)                                        \
    X(SUBSCRIPTION_IDS_AVAILABLE, 0x29, BOOL, subscription_ids_available)                          \
    X(SHARED_AVAILABLE, 0x2A, BOOL, shared_available)

enum mqtt_property_id {
#define X(name, id, type, field) MQTT_PROPERTY_##name = id,
    MQTT_PROPERTY_MAP(X)
#undef X
        MQTT_PROPERTY_END = 0x2B
};

/* One bit of mqtt_properties.present: properties.present & MQTT_HAS(TOPIC_ALIAS). */
#define MQTT_HAS(name) (UINT64_C(1) << MQTT_PROPERTY_##name)

struct mqtt_pair {
    struct span name;
    struct span value;
};

/* Every field that is absent holds the value the specification gives to its absence.
 * Decoding: spans borrow from the input. user properties and second subscription identifiers stay
 * in list, see mqtt_user_next. Encoding: what has its bit in present is written, then users and
 * more_subscription_ids (both borrowed until the call returns); list is not read. */
struct mqtt_properties {
    uint64_t present;
    struct span list;                      /* the list as it came, without its length */
    const struct mqtt_pair *users;         /* encoding only */
    const uint32_t *more_subscription_ids; /* encoding only: a PUBLISH may carry several */
    uint32_t user_count;                   /* of users; decoding: how many are in list */
    uint32_t more_subscription_id_count;   /* of more_subscription_ids; decoding: in list */
    struct span content_type;
    struct span response_topic;
    struct span correlation;
    struct span assigned_client_id;
    struct span auth_method;
    struct span auth_data;
    struct span response_info;
    struct span server_reference;
    struct span reason_string;
    uint32_t message_expiry;            /* seconds; absent: never, see present */
    uint32_t session_expiry;            /* seconds; 0 */
    uint32_t will_delay;                /* seconds; 0 */
    uint32_t maximum_packet;            /* bytes; absent: UINT32_MAX */
    uint32_t subscription_id;           /* the first; 0 */
    uint16_t receive_maximum;           /* 65535 */
    uint16_t topic_alias_maximum;       /* 0 */
    uint16_t topic_alias;               /* 0 */
    uint16_t server_keep_alive;         /* 0; absent: what the client asked for */
    uint8_t payload_format;             /* 0 */
    uint8_t request_problem;            /* 1 */
    uint8_t request_response;           /* 0 */
    uint8_t maximum_qos;                /* 2 */
    uint8_t retain_available;           /* 1 */
    uint8_t wildcards_available;        /* 1 */
    uint8_t subscription_ids_available; /* 1 */
    uint8_t shared_available;           /* 1 */
};

/* Where a list stands decides what may be in it: the packet type, or one of these. */
#define MQTT_LIST_WILL              0
#define MQTT_LIST_PUBLISH_SERVER    16 /* a PUBLISH from server to client */
#define MQTT_LIST_DISCONNECT_SERVER 17

extern const struct mqtt_properties mqtt_properties_none; /* nothing present */

/* Strict: unknown identifiers, values out of range, what does not belong here, duplicates.
 * out is complete only when the answer is SUCCESS. */
enum mqtt_reason mqtt_properties_decode(struct span list, unsigned where,
                                        struct mqtt_properties *out);

/* What a Response Topic may be: not empty, without wildcards. */
bool mqtt_is_plain_topic(struct span topic);

/* The decoded form of one element. */
struct mqtt_property {
    enum mqtt_property_id id;
    uint32_t number;   /* numeric encodings */
    struct span name;  /* user property */
    struct span value; /* text and binary encodings, user property */
};

/* Takes the first element off list; false at the end, or where the list is malformed (which a
 * list that was decoded is not): then list is not empty. */
bool mqtt_property_next(struct span *list, struct mqtt_property *property);

/* Takes elements off list up to and including the next user property; false when none is left. */
bool mqtt_user_next(struct span *list, struct mqtt_pair *pair);

size_t mqtt_properties_size(const struct mqtt_properties *properties); /* without the length */
uint8_t *mqtt_properties_encode(const struct mqtt_properties *properties,
                                uint8_t *to); /* likewise; returns the end */

/* MQTT's variable byte integer: at most four bytes, the shortest form. */
#define MQTT_VARINT_MAX 268435455u
size_t mqtt_varint_size(uint32_t value);
uint8_t *mqtt_varint_encode(uint32_t value, uint8_t *to);

#endif
