/* SPDX-License-Identifier: Apache-2.0 */
/* Links from topics, to those who have them. On the connection's loop. */
#ifndef ADAPTERS_AMQP_TOPIC_H
#define ADAPTERS_AMQP_TOPIC_H

#include <proton/delivery.h>
#include <proton/disposition.h>
#include <proton/session.h>

#include "core/base/span.h"

struct amqp_connection;
struct amqp_link;

/* Accepted, rejected, released, modified: whatever else a state is, it is none. */
static inline bool amqp_is_outcome(uint64_t state)
{
    return state == PN_ACCEPTED || state == PN_REJECTED || state == PN_RELEASED ||
           state == PN_MODIFIED;
}

/* A delivery of a topic that its receiver has settled. */
struct amqp_topic_delivery {
    uint32_t number; /* of a share its lease, of what is kept its flight; else 0 */
    bool again;      /* the receiver wants it again, or of what is shared somebody */
    bool failed;     /* and this time was a failure */
    bool placed;     /* of what is neither: it is in the log there, and has failed so often */
    uint64_t partition, offset;
    uint16_t failures;
};

void amqp_topic_open(struct amqp_link *link, struct span filter);
/* A source without an address: the kept subscription of the link's name. */
void amqp_topic_recover(struct amqp_link *link);
void amqp_topic_close(struct amqp_link *link);
void amqp_topic_flow(struct amqp_link *link, bool drain);
/* Does a drain end now, as no more may be unsettled? */
bool amqp_topic_drain_ends(struct amqp_link *link);
void amqp_topic_settled(struct amqp_link *link, pn_delivery_t *delivery);
/* What its receiver has made of it takes effect; with_commit: what is over was part of it. */
void amqp_topic_over(struct amqp_link *link, const struct amqp_topic_delivery *topic,
                     bool with_commit);
/* It was not settled after all, though its receiver does not have it any more; failed: which was a
 * failure. */
void amqp_topic_return(struct amqp_link *link, const struct amqp_topic_delivery *topic,
                       bool failed);
/* What the outcome, of that code or 0, says of it; failed and undeliverable: of modified. */
void amqp_topic_outcome(struct amqp_topic_delivery *topic, uint64_t outcome, bool failed,
                        bool undeliverable);
void amqp_number_set(pn_delivery_t *delivery, uint32_t number); /* as when it was sent */

#endif
