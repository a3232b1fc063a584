/* SPDX-License-Identifier: Apache-2.0 */
/* A TRANSFER or DISPOSITION without what a peer may make large in it: payload, and of states what
 * is not looked at. Proton keeps all of it, of each delivery that a range names, and the memory for
 * it as long as the connection. And a FLOW with the credit that Proton can hold. One connection's
 * thread. */
#ifndef ADAPTERS_AMQP_LEAN_H
#define ADAPTERS_AMQP_LEAN_H

#include "adapters/amqp/channels.h"

enum {
    /* What may stay: most frames are passed on as they come. */
    AMQP_LEAN_PAYLOAD = 1024,
    AMQP_LEAN_STATE = 32,
    AMQP_LEAN_BYTES = 512,
    AMQP_STATE_ANEW = 8 * AMQP_LEAN_STATE /* of a state that stayed: Proton may write it longer */
};

struct amqp_lean {
    uint8_t bytes[AMQP_LEAN_BYTES]; /* a frame for Proton in place of what has come */
    uint32_t size;                  /* 0: it is passed on as it came */
    struct span payload;            /* what it does not have of it; */
    struct span detail; /* the same of an outcome: annotations of modified, error of rejected */
};

/* frame: as far as it has come, of size bytes; named: what amqp_channels_look() has said of it. */
bool amqp_lean_is_needed(const struct amqp_named *named, struct span frame, size_t size);
/* frame: whole. Spans borrow from it. */
void amqp_lean_write(struct amqp_lean *lean, const struct amqp_named *named, struct span frame);

#endif
