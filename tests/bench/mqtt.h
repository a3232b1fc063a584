/* SPDX-License-Identifier: Apache-2.0 */
/* Just enough MQTT 3.1.1 (protocol 4) and 5 (protocol 5) for a load generator, independent of the
 * product's codec, so that the two cannot share a mistake. */
#ifndef TESTS_BENCH_MQTT_H
#define TESTS_BENCH_MQTT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

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
    MQTT_DISCONNECT = 14,
};

/* Room that a CONNECT or SUBSCRIBE needs beyond its strings. */
#define MQTT_CONTROL_BYTES 64

struct frame {
    uint8_t type;
    uint8_t flags;
    const uint8_t *body; /* borrows the input */
    uint32_t length;
};

/* The frame at the start of bytes: its whole size, 0 when bytes are missing, -1 when malformed. */
ssize_t mqtt_frame(const uint8_t *bytes, size_t length, struct frame *frame);

/* Each writes one packet to out and returns its size. No keep-alive; kept: the session stays when
 * the connection has gone (protocol 5: for good), and is not new if there is one. */
size_t mqtt_connect(uint8_t *out, int protocol, const char *client_id, bool kept);
/* With a will of QoS 1 whose payload is a number; a session (protocol 5) kept for so long. Its
 * topic needs room, too. */
struct mqtt_will {
    const char *topic;
    uint32_t number, delay_s, expiry_s;
};
size_t mqtt_connect_will(uint8_t *out, int protocol, const char *client_id,
                         const struct mqtt_will *will);
size_t mqtt_subscribe(uint8_t *out, int protocol, uint16_t packet_id, const char *filter, int qos);
size_t mqtt_ack(uint8_t out[4], enum mqtt_type type, uint16_t packet_id);
size_t mqtt_disconnect(uint8_t out[2]);

/* A PUBLISH to be copied and patched: packet id at id_at (QoS 1 and 2), payload of payload_length
 * at payload_at. Caller owns bytes (malloc). */
struct mqtt_template {
    uint8_t *bytes;
    uint32_t length, id_at, payload_at;
};
void mqtt_publish_template(int protocol, const char *topic, int qos, uint32_t payload_length,
                           struct mqtt_template *out);

struct mqtt_publish {
    uint16_t packet_id;
    uint8_t qos;
    const uint8_t *payload; /* borrows the frame */
    uint32_t payload_length;
};
bool mqtt_read_publish(const struct frame *frame, int protocol, struct mqtt_publish *out);

/* PUBACK, PUBREC, PUBREL, PUBCOMP: false when malformed or refused. */
bool mqtt_read_ack(const struct frame *frame, uint16_t *packet_id);

/* False when malformed or refused. receive_max is 65535 unless the server (protocol 5) says less.
 */
bool mqtt_read_connack(const struct frame *frame, int protocol, uint16_t *receive_max);
bool mqtt_read_suback(const struct frame *frame, int protocol);

#endif
