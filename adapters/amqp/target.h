/* SPDX-License-Identifier: Apache-2.0 */
/* What clients send on links to targets, and its outcomes. On the connection's loop. */
#ifndef ADAPTERS_AMQP_TARGET_H
#define ADAPTERS_AMQP_TARGET_H

#include <proton/delivery.h>

#include "core/base/span.h"
#include "core/base/status.h"

struct amqp_address;
struct amqp_connection;
struct amqp_link;
struct client;

/* A publish that waits for its answer; answers come in order. */
struct amqp_waiting {
    struct amqp_link *link;
    pn_delivery_t *delivery;
};

void amqp_target_open(struct amqp_link *link, const struct amqp_address *address);
void amqp_target_readable(struct amqp_link *link);
void amqp_target_close(struct amqp_link *link);
/* A delivery from a sender is over: settled, and its credit comes back, once. */
void amqp_let_go(struct amqp_link *link, pn_delivery_t *delivery);
/* It has its outcome: what the status says, or a condition. */
void amqp_target_settle(struct amqp_link *link, pn_delivery_t *delivery, enum status status,
                        const char *text);
void amqp_target_reject(struct amqp_link *link, pn_delivery_t *delivery, const char *condition,
                        const char *text);
/* Would a queue of that name be made for whoever names it (auto_create)? */
bool amqp_makes_queue(struct span name);
/* Makes a standard queue, then goes on with the attach, or with what the relay had to do. */
void amqp_queue_make(struct amqp_link *link, struct span name);
void amqp_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                   uint64_t offset);
/* A publish has begun whose answer comes. */
void amqp_waiting_push(struct amqp_connection *connection, struct amqp_waiting waiting);
void amqp_waiting_free(struct amqp_connection *connection);
/* How many wait on links that may be resumed. */
uint32_t amqp_waiting_resumable(const struct amqp_connection *connection);
/* The sender has settled a delivery after its outcome. */
void amqp_target_settled(struct amqp_link *link, pn_delivery_t *delivery);

#endif
