/* SPDX-License-Identifier: Apache-2.0 */
/* Just enough AMQP 1.0 for a receiver, from frames by hand and independent of Proton: one session,
 * one link, deliveries unsettled, accepted and settled once per read, credit in good time. */
#ifndef TESTS_BENCH_AMQP_H
#define TESTS_BENCH_AMQP_H

#include "tests/bench/mqtt.h"

enum amqp_type {
    AMQP_HEADER = 0xff, /* the eight bytes that come first; below: performatives */
    AMQP_OPEN = 0x10,
    AMQP_BEGIN,
    AMQP_ATTACH,
    AMQP_FLOW,
    AMQP_TRANSFER,
    AMQP_DISPOSITION,
    AMQP_DETACH,
    AMQP_END,
    AMQP_CLOSE,
};

#define AMQP_BYTES       256  /* room that each of the writers needs beyond its strings */
#define AMQP_STRING_MAX  100  /* of these */
#define AMQP_PAYLOAD_MAX 8192 /* so that a delivery is one frame */

struct amqp_receiver {
    uint32_t received, settled, credited; /* deliveries; credited: when credit was last given */
};

/* The frame at the start of bytes, as mqtt_frame(): its body follows the descriptor. An empty one
 * has type 0. */
ssize_t amqp_frame(const uint8_t *bytes, size_t length, struct frame *frame);

/* Header, open, begin, attach and the first credit. */
size_t amqp_connect(uint8_t *out, const char *container, const char *address);
/* A delivery in one frame, of a message that ends with that many bytes of body; false: it is
 * something else. */
bool amqp_read_transfer(struct amqp_receiver *receiver, const struct frame *frame, uint32_t size,
                        const uint8_t **body);
/* Accepts what was received since the last call, and gives credit when half of it is used; 0:
 * there is nothing to say. */
size_t amqp_settle(struct amqp_receiver *receiver, uint8_t *out);
size_t amqp_close(uint8_t *out);

#endif
