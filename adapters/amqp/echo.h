/* SPDX-License-Identifier: Apache-2.0 */
/* FLOWs that Proton does not say: one that is asked for (part 2, 2.7.4), and the end of a drain
 * (2.6.7). On the connection's loop. */
#ifndef ADAPTERS_AMQP_ECHO_H
#define ADAPTERS_AMQP_ECHO_H

#include <stdbool.h>

struct amqp_connection;

/* A FLOW that asks for one has come. */
void amqp_echo(struct amqp_connection *connection);
/* One that drains has, and is looked at next. */
void amqp_drain(struct amqp_connection *connection);
/* All is said: drains are answered of which Proton says nothing, as they gave no credit back. True:
 * others have ended, and there is more to say. */
bool amqp_drains_end(struct amqp_connection *connection);

#endif
