/* SPDX-License-Identifier: Apache-2.0 */
/* Messages on their way out of a link. Proton keeps the buffer of a delivery as long as the
 * connection, also after it is sent and settled, and so a large message is given to it in pieces,
 * each when the one before has left; what is left of it and what comes behind it waits here. The
 * more deliveries a connection has had at once, the smaller the pieces:
 * LIMIT_SENT_BYTES. On the connection's loop. */
#ifndef ADAPTERS_AMQP_SENDING_H
#define ADAPTERS_AMQP_SENDING_H

#include <proton/delivery.h>

#include "core/base/span.h"

struct amqp_link;
struct blob;

struct amqp_outgoing {
    struct span tag;
    struct span message;
    struct blob *frame; /* whose bytes the message is; NULL: nobody's for longer */
    uint32_t slot; /* the delivery has it (amqp_slot_set) from when it begins, if not settled */
    bool settled;  /* it leaves so */
};

/* For a link that has the credit. Proton has the delivery, or will have it. Borrows tag and
 * message, refs frame. */
void amqp_send(struct amqp_link *link, const struct amqp_outgoing *outgoing);
/* The peer's credit for what is not here yet; never below 0. */
uint32_t amqp_send_credit(const struct amqp_link *link);
/* Deliveries that have not left, in Proton or here. */
uint32_t amqp_sending_count(const struct amqp_link *link);
/* All that there is has been given to amqp_send(): a drain is answered behind it. */
void amqp_send_drained(struct amqp_link *link);
/* Something of the link may have left, or it has other credit. */
void amqp_send_on(struct amqp_link *link);
/* Not begun yet, it is not sent; false: it is none of these. */
bool amqp_send_not(struct amqp_link *link, uint32_t slot);
/* Begun, its rest is not sent: settled by the peer or to be settled at once, it is aborted. Of
 * another delivery nothing happens. */
void amqp_send_no_more(struct amqp_link *link, pn_delivery_t *delivery, bool is_over);
/* The link goes. */
void amqp_send_end(struct amqp_link *link);

#endif
