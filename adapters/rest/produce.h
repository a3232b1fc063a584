/* SPDX-License-Identifier: Apache-2.0 */
/* Publishing: the DMS call that sends messages to a queue, and our own to a topic or a queue. */
#ifndef ADAPTERS_REST_PRODUCE_H
#define ADAPTERS_REST_PRODUCE_H

#include "adapters/http/http.h"

void produce_messages(struct http_exchange *exchange); /* POST …/queues/{queue}/messages */
void produce_publish(struct http_exchange *exchange);  /* POST /v1/{project}/publish */

/* client_ops.answered and .delayed of every REST session: tokens are those of this file. */
void produce_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                      uint64_t offset);
void produce_delayed(struct client *client, uint64_t token, const struct delay_id *id);

#endif
