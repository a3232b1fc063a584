/* SPDX-License-Identifier: Apache-2.0 */
/* Who a connection is: SASL (part 5, 5.3) by a plugin of ours. On the connection's loop. */
#ifndef ADAPTERS_AMQP_SASL_H
#define ADAPTERS_AMQP_SASL_H

struct amqp_connection;

void amqp_sasl_init(struct amqp_connection *connection);
void amqp_exchange_free(struct amqp_connection *connection);
void amqp_login_anonymous(struct amqp_connection *connection); /* of one that came without SASL */

#endif
