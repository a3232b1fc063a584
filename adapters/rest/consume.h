/* SPDX-License-Identifier: Apache-2.0 */
/* Consuming: take under leases with a long poll, and settle. */
#ifndef ADAPTERS_REST_CONSUME_H
#define ADAPTERS_REST_CONSUME_H

#include "adapters/http/http.h"

void consume_messages(struct http_exchange *exchange);    /* GET …/groups/{group}/messages */
void consume_deadletters(struct http_exchange *exchange); /* GET …/groups/{group}/deadletters */

void settle_ack(struct http_exchange *exchange);      /* POST …/groups/{group}/ack of DMS */
void settle_dead_ack(struct http_exchange *exchange); /* POST …/groups/{group}/deadletters/ack */
/* Ours: POST /v1/…/groups/{group}/ack, nack, reject, PUT …/leases. */
void settle_done(struct http_exchange *exchange);
void settle_nack(struct http_exchange *exchange);
void settle_reject(struct http_exchange *exchange);
void settle_renew(struct http_exchange *exchange);

#endif
