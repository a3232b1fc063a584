/* SPDX-License-Identifier: Apache-2.0 */
/* What came whole on a link to a queue, a topic or the relay: one message, or the batch that it is
 * by the link's format. On the connection's loop. */
#ifndef ADAPTERS_AMQP_PUBLISH_H
#define ADAPTERS_AMQP_PUBLISH_H

#include <proton/delivery.h>

#include "core/base/span.h"

struct amqp_link;

/* Its outcome follows, now or when the broker has answered. bytes are borrowed for the call. */
void amqp_publish(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes);
/* True: the relay is to wait, as a queue that there is not is made first; then ask again. */
bool amqp_publish_waits(struct amqp_link *link, struct span bytes);

#endif
