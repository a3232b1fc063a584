/* SPDX-License-Identifier: Apache-2.0 */
/* What an ATTACH says and Proton does not pass on: the default outcome of its source (part 3,
 * 3.5.3), which is that of deliveries that the receiver settles without naming one, and what is
 * unsettled (part 2, 2.7.3). Neither does Proton write it: an answer is written anew. */
#ifndef ADAPTERS_AMQP_ATTACH_H
#define ADAPTERS_AMQP_ATTACH_H

#include "adapters/amqp/codec.h"

struct amqp_default {
    enum amqp_outcome outcome;
    /* Of modified */
    bool failed, undeliverable;
    uint32_t delay_ms; /* amqp_delay_read() of its annotations */
};

/* x-opt-delivery-delay in a map of annotations, at most LIMIT_DELAY_MS; 0: none that is a number
 * above 0. */
uint32_t amqp_delay_read(const struct amqp_value *annotations);

/* attach: the performative, from its descriptor on. What cannot be read says nothing. */
struct amqp_default amqp_default_read(struct span attach);
/* As a value; at most AMQP_DEFAULT_MAX bytes. The outcome is one. */
enum { AMQP_DEFAULT_MAX = 64 };
void amqp_default_write(struct amqp_writer *writer, const struct amqp_default *said);

/* Its handle; false: it has none. */
bool amqp_attach_handle(struct span attach, uint32_t *handle);

/* The map of what is unsettled; spans borrow from the ATTACH. */
struct amqp_unsettled_map {
    bool is_there;   /* null says that nothing is unsettled, and that the link begins anew */
    bool incomplete; /* what is not in it may be unsettled too */
    struct span items;
    uint32_t count; /* keys and values */
};
struct amqp_unsettled_map amqp_unsettled_read(struct span attach);
/* The next delivery tag; false: there is none. */
bool amqp_unsettled_next(struct amqp_unsettled_map *map, struct span *tag);

/* What an answer says beyond what Proton has written. */
struct amqp_attach_more {
    struct span default_outcome; /* a value; empty: none */
    struct span unsettled;       /* likewise, a map */
    bool incomplete;
};
/* frame: a whole ATTACH frame; written anew behind what is in to. False, and to as it was: it is
 * none, has no source where that is to say something, or would be larger than size_max. */
bool amqp_attach_rewrite(struct span frame, const struct amqp_attach_more *more, uint32_t size_max,
                         struct buf *to);

#endif
