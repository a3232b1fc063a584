/* SPDX-License-Identifier: Apache-2.0 */
/* Local transactions (part 4): the coordinator's requests, and deliveries within one. On the
 * connection's loop. */
#ifndef ADAPTERS_AMQP_TRANSACTION_H
#define ADAPTERS_AMQP_TRANSACTION_H

#include <proton/delivery.h>

#include "adapters/amqp/wire.h"
#include "core/base/span.h"
#include "core/base/status.h"

struct amqp_connection;
struct amqp_link;
struct amqp_topic_delivery;
struct broker_transaction;

void amqp_coordinate(struct amqp_link *link, pn_delivery_t *delivery, struct span bytes);
void amqp_coordinator_close(struct amqp_link *link);
/* What a delivery is sent within; NULL: there is none, of which condition and err say why. */
struct broker_transaction *amqp_transaction_named(struct amqp_link *link, pn_delivery_t *delivery,
                                                  const char **condition, struct err *err);
/* All that came with it is within: the sender is told that it is accepted. */
void amqp_transaction_sent(struct broker_transaction *within, pn_delivery_t *delivery);
/* A delivery is not taken: if it is within a transaction, that cannot be committed, because a
 * commit without it would be one that nobody has asked for. */
void amqp_transaction_fail(struct amqp_connection *connection, pn_delivery_t *delivery,
                           enum status why);
void amqp_transaction_settle(struct amqp_link *link, pn_delivery_t *delivery, uint32_t slot);
void amqp_transaction_settle_topic(struct amqp_link *link, pn_delivery_t *delivery,
                                   struct amqp_topic_delivery *topic);

#endif
