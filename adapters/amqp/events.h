/* SPDX-License-Identifier: Apache-2.0 */
/* Proton's events of one connection, handled in their order on its loop. */
#ifndef ADAPTERS_AMQP_EVENTS_H
#define ADAPTERS_AMQP_EVENTS_H

#include "core/base/status.h"

struct amqp_connection;

void amqp_handle_events(struct amqp_connection *connection);
/* After a login, of whatever kind: events go on, or the connection ends. */
void amqp_logged_in(struct amqp_connection *connection, enum status status);

#endif
