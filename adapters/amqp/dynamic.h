/* SPDX-License-Identifier: Apache-2.0 */
/* Dynamic nodes (part 3, 3.5.10 to 3.5.13): queues that an attach asks for, which end with their
 * links. On the connection's loop. */
#ifndef ADAPTERS_AMQP_DYNAMIC_H
#define ADAPTERS_AMQP_DYNAMIC_H

#include <proton/terminus.h>

struct amqp_link;
struct queue;

/* Makes the node, then goes on with the attach. */
void amqp_dynamic_attach(struct amqp_link *link);
/* The link is one of that queue's. */
void amqp_queue_join(struct amqp_link *link, const struct queue *queue);
void amqp_dynamic_leave(struct amqp_link *link); /* it goes */
/* Of the properties that its node was asked to have those that it has. */
void amqp_dynamic_say(const struct amqp_link *link, pn_terminus_t *local);

#endif
