/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding of MQTT packets: first the size, then the bytes into the caller's memory. A _size
 * function answers 0 for what MQTT cannot carry (a text above 65,535 bytes, a packet above 256 MB);
 * an encode function needs exactly that size and returns the end of what it wrote. Properties are
 * written for MQTT 5 only. */
#ifndef ADAPTERS_MQTT_ENCODE_H
#define ADAPTERS_MQTT_ENCODE_H

#include "adapters/mqtt/codec.h"

/* CONNACK for 3.x: a reason that has no return code of its own becomes 3, server unavailable. */
uint8_t mqtt_return_code(enum mqtt_reason reason);

size_t mqtt_connect_size(const struct mqtt_connect *connect); /* version is connect->version */
uint8_t *mqtt_encode_connect(const struct mqtt_connect *connect, uint8_t *to);

size_t mqtt_connack_size(enum mqtt_version version, const struct mqtt_connack *connack);
uint8_t *mqtt_encode_connack(enum mqtt_version version, const struct mqtt_connack *connack,
                             uint8_t *to);

size_t mqtt_publish_size(enum mqtt_version version, const struct mqtt_publish *publish);
uint8_t *mqtt_encode_publish(enum mqtt_version version, const struct mqtt_publish *publish,
                             uint8_t *to);

/* Where the packet identifier of an encoded PUBLISH lies, to patch it in a copy of its head;
 * 0 for QoS 0. The other bytes that may be patched: the first (0x08 duplicate, 0x01 retain). */
size_t mqtt_publish_id_at(struct span frame);

/* PUBACK, PUBREC, PUBREL, PUBCOMP without properties: four bytes when reason is SUCCESS or version
 * is 3.x, else five. Returns how many. */
#define MQTT_ACK_BYTES_MAX 5
size_t mqtt_encode_ack(enum mqtt_version version, enum mqtt_type type, uint16_t packet_id,
                       enum mqtt_reason reason, uint8_t to[MQTT_ACK_BYTES_MAX]);

/* The same with properties (reason string, user properties). */
size_t mqtt_ack_size(enum mqtt_version version, const struct mqtt_ack *ack);
uint8_t *mqtt_encode_ack_with(enum mqtt_version version, enum mqtt_type type,
                              const struct mqtt_ack *ack, uint8_t *to);

size_t mqtt_subscribe_size(enum mqtt_version version, const struct mqtt_subscribe *subscribe);
uint8_t *mqtt_encode_subscribe(enum mqtt_version version, const struct mqtt_subscribe *subscribe,
                               uint8_t *to);
size_t mqtt_unsubscribe_size(enum mqtt_version version, const struct mqtt_subscribe *unsubscribe);
uint8_t *mqtt_encode_unsubscribe(enum mqtt_version version,
                                 const struct mqtt_subscribe *unsubscribe, uint8_t *to);

/* Reasons from 0x80 on become 0x80 in 3.1.1 (3.1 as well, which knows none). */
size_t mqtt_suback_size(enum mqtt_version version, const struct mqtt_suback *suback);
uint8_t *mqtt_encode_suback(enum mqtt_version version, const struct mqtt_suback *suback,
                            uint8_t *to);
size_t mqtt_unsuback_size(enum mqtt_version version, const struct mqtt_suback *unsuback);
uint8_t *mqtt_encode_unsuback(enum mqtt_version version, const struct mqtt_suback *unsuback,
                              uint8_t *to);

#define MQTT_PING_BYTES 2
uint8_t *mqtt_encode_ping(enum mqtt_type type, uint8_t to[MQTT_PING_BYTES]);

/* A server sends DISCONNECT to MQTT 5 clients only. AUTH is MQTT 5's. */
size_t mqtt_disconnect_size(enum mqtt_version version, const struct mqtt_disconnect *disconnect);
uint8_t *mqtt_encode_disconnect(enum mqtt_version version, const struct mqtt_disconnect *disconnect,
                                uint8_t *to);
size_t mqtt_auth_size(const struct mqtt_disconnect *auth);
uint8_t *mqtt_encode_auth(const struct mqtt_disconnect *auth, uint8_t *to);

/* Any packet, the pair of mqtt_decode. */
size_t mqtt_size(enum mqtt_version version, const struct mqtt_packet *packet);
uint8_t *mqtt_encode(enum mqtt_version version, const struct mqtt_packet *packet, uint8_t *to);

#endif
