/* SPDX-License-Identifier: Apache-2.0 */
/* Links to targets that may be resumed (part 2, 2.6.13); what is not one is fine with all of these.
 * On the connection's loop. */
#ifndef ADAPTERS_AMQP_RESUME_H
#define ADAPTERS_AMQP_RESUME_H

#include <proton/delivery.h>

#include "core/base/span.h"
#include "core/base/status.h"

struct amqp_connection;
struct amqp_link;
struct publish;

/* attach: as it came, from its descriptor on. */
void amqp_resumption_read(struct amqp_link *link, struct span attach);
/* False: the attach is answered later, or is refused. */
bool amqp_resumption_is_ready(struct amqp_link *link);
/* Opens Proton's link, and says with it what Proton does not. */
void amqp_attach_answer(struct amqp_link *link);
/* Everything that Proton has to say by now is said; false: nobody reads what is, the connection
 * ends. */
bool amqp_say_now(struct amqp_connection *connection);
/* Proton settles what is still unsettled on links that are freed, and says so; on those that are
 * only detached, or end with their session, it is not settled at all. What was done since
 * amqp_say_now() is said without that. */
void amqp_say_hushed(struct amqp_connection *connection);
enum amqp_come {
    AMQP_COME_NEW,
    AMQP_COME_AGAIN,   /* it has this outcome */
    AMQP_COME_IGNORED, /* it is said to come again, and has not been here */
    AMQP_COME_REFUSED  /* with its link */
};
enum amqp_come amqp_resumption_came(struct amqp_link *link, pn_delivery_t *delivery,
                                    struct span payload, enum status *outcome);
/* On its way as what is published: an answer comes. False: refused with its link. */
bool amqp_resumption_sent(struct amqp_link *link, pn_delivery_t *delivery, struct span payload,
                          struct publish *publish);
/* The oldest; settled: by its sender. */
void amqp_resumption_answered(struct amqp_link *link, enum status status, bool settled);
/* By its sender, or what has that tag is remembered in no way. */
void amqp_resumption_settled(struct amqp_link *link, pn_delivery_t *delivery);
void amqp_resumption_leave(struct amqp_link *link);
void amqp_resumption_free(struct amqp_link *link);

#endif
