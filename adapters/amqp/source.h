/* SPDX-License-Identifier: Apache-2.0 */
/* What clients receive from groups, and what all sources share. On the connection's loop. */
#ifndef ADAPTERS_AMQP_SOURCE_H
#define ADAPTERS_AMQP_SOURCE_H

#include <proton/delivery.h>

#include "core/base/span.h"

struct amqp_address;
struct amqp_link;
struct amqp_shown;
struct blob;
struct queue;
struct record;

void amqp_source_open(struct amqp_link *link, const struct amqp_address *address);
/* The queue is there: consumes from the group that the link's address names. */
void amqp_source_from(struct amqp_link *link, const struct queue *queue);
void amqp_source_flow(struct amqp_link *link);
void amqp_source_updated(struct amqp_link *link, pn_delivery_t *delivery);
void amqp_source_close(struct amqp_link *link);
/* The slot of a delivery's lease is kept with it. */
void amqp_slot_set(pn_delivery_t *delivery, uint32_t slot);
/* More than the receiver's attach takes in one message. */
bool amqp_is_too_large(const struct amqp_link *link, size_t size);
/* The record as the message it is shown as; NULL: there is no memory for it. */
struct blob *amqp_message_frame(const struct record *record, const struct amqp_shown *shown);

#endif
