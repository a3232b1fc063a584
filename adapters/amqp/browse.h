/* SPDX-License-Identifier: Apache-2.0 */
/* Sources that read along, and take nothing. On the connection's loop. */
#ifndef ADAPTERS_AMQP_BROWSE_H
#define ADAPTERS_AMQP_BROWSE_H

#include <proton/delivery.h>

#include "core/base/span.h"

struct amqp_link;
struct group_spec;
struct queue;

/* A stream under its plain address, which is read along whatever the link asks for. */
bool amqp_is_plain_stream(const struct amqp_link *link, const struct queue *queue);
/* A queue, or with NULL the topics that match filter; group: that of the source, NULL: there is
 * none (yet), which for dead letters cannot be. */
void amqp_browse_open(struct amqp_link *link, const struct queue *queue,
                      const struct group_spec *group, struct span filter);
void amqp_browse_flow(struct amqp_link *link, uint32_t credit, bool drain);
/* As amqp_topic_drain_ends(). */
bool amqp_browse_drain_ends(struct amqp_link *link);
void amqp_browse_settled(struct amqp_link *link, pn_delivery_t *delivery);

#endif
