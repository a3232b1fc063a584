/* SPDX-License-Identifier: Apache-2.0 */
/* AMQP 1.0 on Proton's connection driver: never its proactor, always our streams. */
#ifndef ADAPTERS_AMQP_AMQP_H
#define ADAPTERS_AMQP_AMQP_H

#include "adapters/adapter.h"

struct amqp_options {
    bool auto_create;      /* an address that names no queue makes a standard one */
    const char *anonymous; /* the user that SASL ANONYMOUS acts as; NULL: refused */
    /* "host", "host:port" or "[address]:port" where clients shall go when this server ends; NULL:
     * nowhere */
    const char *server_reference;
};
/* Before the first connection; texts are borrowed for ever. */
void amqp_configure(const struct amqp_options *options);

/* Also over WebSocket: connection_start(&amqp_adapter, worker, stream) takes any stream. */
extern const struct adapter amqp_adapter;

#endif
