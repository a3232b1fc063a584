/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of nodes, taken apart (docs/mapping.md). */
#ifndef ADAPTERS_AMQP_ADDRESS_H
#define ADAPTERS_AMQP_ADDRESS_H

#include "core/base/span.h"

/* A parsed address; spans borrow from its text. */
struct amqp_address {
    enum { AMQP_AT_NOTHING, AMQP_AT_QUEUE, AMQP_AT_TOPIC, AMQP_AT_RELAY, AMQP_AT_MANAGEMENT } at;
    struct span queue, group, topic; /* group empty: the default one */
    bool dead;
};

/* is_topic: what the peer's capabilities say about an address without a prefix. */
bool amqp_address_parse(struct span text, bool is_topic, struct amqp_address *address);

#endif
