/* SPDX-License-Identifier: Apache-2.0 */
/* MQTT 5 reason codes from one table: name, value, text, and the packets that may carry them
 * (MQTT 5.0, 2.4). Older versions are served by mapping these, see encode.h. */
#ifndef ADAPTERS_MQTT_REASON_H
#define ADAPTERS_MQTT_REASON_H

#include <stdbool.h>
#include <stdint.h>

/* Packet types as bits; a DISCONNECT and an AUTH differ by who sends them. */
#define MQTT_ON(type)             (1u << (type))
#define MQTT_ON_CONNACK           MQTT_ON(2)
#define MQTT_ON_PUBACK            MQTT_ON(4)
#define MQTT_ON_PUBREC            MQTT_ON(5)
#define MQTT_ON_PUBREL            MQTT_ON(6)
#define MQTT_ON_PUBCOMP           MQTT_ON(7)
#define MQTT_ON_SUBACK            MQTT_ON(9)
#define MQTT_ON_UNSUBACK          MQTT_ON(11)
#define MQTT_ON_DISCONNECT_CLIENT MQTT_ON(14)
#define MQTT_ON_AUTH_CLIENT       MQTT_ON(15)
#define MQTT_ON_DISCONNECT_SERVER MQTT_ON(16)
#define MQTT_ON_AUTH_SERVER       MQTT_ON(17)
#define MQTT_ON_DISCONNECT        (MQTT_ON_DISCONNECT_CLIENT | MQTT_ON_DISCONNECT_SERVER)
#define MQTT_ON_PUB               (MQTT_ON_PUBACK | MQTT_ON_PUBREC)
#define MQTT_ON_SUB               (MQTT_ON_SUBACK | MQTT_ON_UNSUBACK)

#define MQTT_REASON_MAP(X)                                                                         \
    X(SUCCESS, 0x00, "success",                                                                    \
      MQTT_ON_CONNACK | MQTT_ON_PUB | MQTT_ON_PUBREL | MQTT_ON_PUBCOMP | MQTT_ON_SUB |             \
          MQTT_ON_DISCONNECT | MQTT_ON_AUTH_SERVER)                                                \
    X(GRANTED_QOS_1, 0x01, "granted QoS 1", MQTT_ON_SUBACK)                                        \
    X(GRANTED_QOS_2, 0x02, "granted QoS 2", MQTT_ON_SUBACK)                                        \
    X(DISCONNECT_WITH_WILL, 0x04, "disconnect with will message", MQTT_ON_DISCONNECT_CLIENT)       \
    X(NO_MATCHING_SUBSCRIBERS, 0x10, "no matching subscribers", MQTT_ON_PUB)                       \
    X(NO_SUBSCRIPTION_EXISTED, 0x11, "no subscription existed", MQTT_ON_UNSUBACK)                  \
    X(CONTINUE_AUTHENTICATION, 0x18, "continue authentication",                                    \
      MQTT_ON_AUTH_CLIENT | MQTT_ON_AUTH_SERVER)                                                   \
    X(REAUTHENTICATE, 0x19, "re-authenticate", MQTT_ON_AUTH_CLIENT)                                \
    X(UNSPECIFIED, 0x80, "unspecified error",                                                      \
      MQTT_ON_CONNACK | MQTT_ON_PUB | MQTT_ON_SUB | MQTT_ON_DISCONNECT)                            \
    X(MALFORMED, 0x81, "malformed packet", MQTT_ON_CONNACK | MQTT_ON_DISCONNECT)                   \
    X(PROTOCOL_ERROR, 0x82, "protocol error", MQTT_ON_CONNACK | MQTT_ON_DISCONNECT)                \
    X(IMPLEMENTATION_ERROR, 0x83, "implementation specific error",                                 \
      MQTT_ON_CONNACK | MQTT_ON_PUB | MQTT_ON_SUB | MQTT_ON_DISCONNECT)                            \
    X(UNSUPPORTED_VERSION, 0x84, "unsupported protocol version", MQTT_ON_CONNACK)                  \
    X(CLIENT_ID_INVALID, 0x85, "client identifier not valid", MQTT_ON_CONNACK)                     \
    X(BAD_CREDENTIALS, 0x86, "bad user name or password", MQTT_ON_CONNACK)                         \
    X(NOT_AUTHORIZED, 0x87, "not authorized",                                                      \
      MQTT_ON_CONNACK | MQTT_ON_PUB | MQTT_ON_SUB | MQTT_ON_DISCONNECT_SERVER)                     \
    X(SERVER_UNAVAILABLE, 0x88, "server unavailable", MQTT_ON_CONNACK)                             \
    X(SERVER_BUSY, 0x89, "server busy", MQTT_ON_CONNACK | MQTT_ON_DISCONNECT_SERVER)               \
    X(BANNED, 0x8A, "banned", MQTT_ON_CONNACK)                                                     \
    X(SHUTTING_DOWN, 0x8B, "server shutting down", MQTT_ON_DISCONNECT_SERVER)                      \
    X(BAD_AUTH_METHOD, 0x8C, "bad authentication method",                                          \
      MQTT_ON_CONNACK | MQTT_ON_DISCONNECT_SERVER)                                                 \
    X(KEEP_ALIVE_TIMEOUT, 0x8D, "keep alive timeout", MQTT_ON_DISCONNECT_SERVER)                   \
    X(SESSION_TAKEN_OVER, 0x8E, "session taken over", MQTT_ON_DISCONNECT_SERVER)                   \
    X(FILTER_INVALID, 0x8F, "topic filter invalid", MQTT_ON_SUB | MQTT_ON_DISCONNECT_SERVER)       \
    X(TOPIC_INVALID, 0x90, "topic name invalid",                                                   \
      MQTT_ON_CONNACK | MQTT_ON_PUB | MQTT_ON_DISCONNECT)                                          \
    X(PACKET_ID_IN_USE, 0x91, "packet identifier in use", MQTT_ON_PUB | MQTT_ON_SUB)               \
    X(PACKET_ID_NOT_FOUND, 0x92, "packet identifier not found", MQTT_ON_PUBREL | MQTT_ON_PUBCOMP)  \
    X(RECEIVE_MAXIMUM_EXCEEDED, 0x93, "receive maximum exceeded", MQTT_ON_DISCONNECT)              \
    X(TOPIC_ALIAS_INVALID, 0x94, "topic alias invalid", MQTT_ON_DISCONNECT)                        \
    X(PACKET_TOO_LARGE, 0x95, "packet too large", MQTT_ON_CONNACK | MQTT_ON_DISCONNECT)            \
    X(RATE_TOO_HIGH, 0x96, "message rate too high", MQTT_ON_DISCONNECT)                            \
    X(QUOTA_EXCEEDED, 0x97, "quota exceeded",                                                      \
      MQTT_ON_CONNACK | MQTT_ON_PUB | MQTT_ON_SUBACK | MQTT_ON_DISCONNECT)                         \
    X(ADMINISTRATIVE, 0x98, "administrative action", MQTT_ON_DISCONNECT)                           \
    X(PAYLOAD_FORMAT_INVALID, 0x99, "payload format invalid",                                      \
      MQTT_ON_CONNACK | MQTT_ON_PUB | MQTT_ON_DISCONNECT)                                          \
    X(RETAIN_UNSUPPORTED, 0x9A, "retain not supported",                                            \
      MQTT_ON_CONNACK | MQTT_ON_DISCONNECT_SERVER)                                                 \
    X(QOS_UNSUPPORTED, 0x9B, "QoS not supported", MQTT_ON_CONNACK | MQTT_ON_DISCONNECT_SERVER)     \
    X(USE_ANOTHER_SERVER, 0x9C, "use another server", MQTT_ON_CONNACK | MQTT_ON_DISCONNECT_SERVER) \
    X(SERVER_MOVED, 0x9D, "server moved", MQTT_ON_CONNACK | MQTT_ON_DISCONNECT_SERVER)             \
    X(SHARED_UNSUPPORTED, 0x9E, "shared subscriptions not supported",                              \
      MQTT_ON_SUBACK | MQTT_ON_DISCONNECT_SERVER)                                                  \
    X(CONNECTION_RATE_EXCEEDED, 0x9F, "connection rate exceeded",                                  \
      MQTT_ON_CONNACK | MQTT_ON_DISCONNECT_SERVER)                                                 \
    X(MAXIMUM_CONNECT_TIME, 0xA0, "maximum connect time", MQTT_ON_DISCONNECT_SERVER)               \
    X(SUBSCRIPTION_IDS_UNSUPPORTED, 0xA1, "subscription identifiers not supported",                \
      MQTT_ON_SUBACK | MQTT_ON_DISCONNECT_SERVER)                                                  \
    X(WILDCARDS_UNSUPPORTED, 0xA2, "wildcard subscriptions not supported",                         \
      MQTT_ON_SUBACK | MQTT_ON_DISCONNECT_SERVER)

enum mqtt_reason {
#define X(name, value, text, packets) MQTT_REASON_##name = value,
    MQTT_REASON_MAP(X)
#undef X
};

const char *mqtt_reason_text(enum mqtt_reason reason); /* "reserved" for an unknown value */

/* Whether a packet of one of these kinds (MQTT_ON_...) may carry the value. */
bool mqtt_reason_allowed(uint8_t value, uint32_t packets);

#endif
