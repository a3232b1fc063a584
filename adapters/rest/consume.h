/* SPDX-License-Identifier: Apache-2.0 */
/* Consuming: take under leases with a long poll, settle, and look without taking. */
#ifndef ADAPTERS_REST_CONSUME_H
#define ADAPTERS_REST_CONSUME_H

#include "adapters/http/http.h"

void consume_messages(struct http_exchange *exchange); /* GET …/groups/{group}/messages */
void consume_ack(struct http_exchange *exchange);      /* POST …/groups/{group}/ack of DMS */
void consume_settle(struct http_exchange *exchange);  /* POST /v1/…/groups/{group}/ack and nack */
void consume_records(struct http_exchange *exchange); /* GET /v1/…/queues/{queue}/records */

#endif
