/* SPDX-License-Identifier: Apache-2.0 */
/* What an ATTACH says and Proton does not pass on: the default outcome of its source (part 3,
 * 3.5.3), which is that of deliveries that the receiver settles without naming one. */
#ifndef ADAPTERS_AMQP_ATTACH_H
#define ADAPTERS_AMQP_ATTACH_H

#include "adapters/amqp/codec.h"

enum amqp_outcome {
    AMQP_OUTCOME_NONE = 0, /* nothing is said, or what is no outcome */
    AMQP_OUTCOME_ACCEPTED = 0x24,
    AMQP_OUTCOME_REJECTED = 0x25,
    AMQP_OUTCOME_RELEASED = 0x26,
    AMQP_OUTCOME_MODIFIED = 0x27
};

struct amqp_default {
    enum amqp_outcome outcome;
    /* Of modified */
    bool failed, undeliverable;
    uint32_t delay_ms; /* amqp_delay_read() of its annotations */
};

/* attach: the performative, from its descriptor on. False: it cannot be read. */
bool amqp_handle_read(struct span attach, uint32_t *handle);

/* x-opt-delivery-delay in a map of annotations, at most LIMIT_DELAY_MS; 0: none that is a number
 * above 0. */
uint32_t amqp_delay_read(const struct amqp_value *annotations);

/* attach: the performative, from its descriptor on. What cannot be read says nothing. */
struct amqp_default amqp_default_read(struct span attach);

#endif
