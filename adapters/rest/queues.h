/* SPDX-License-Identifier: Apache-2.0 */
/* Queues and groups: the DMS calls, and with more fields our own. */
#ifndef ADAPTERS_REST_QUEUES_H
#define ADAPTERS_REST_QUEUES_H

#include "adapters/http/http.h"

void queues_create(struct http_exchange *exchange);
void queues_list(struct http_exchange *exchange);
void queues_show(struct http_exchange *exchange);
void queues_change(struct http_exchange *exchange); /* PATCH /v1/{project}/queues/{queue} */
void queues_delete(struct http_exchange *exchange);
void queues_quota(struct http_exchange *exchange);

void groups_create(struct http_exchange *exchange);
void groups_list(struct http_exchange *exchange);
void groups_set(struct http_exchange *exchange); /* PATCH .../groups/{group} */
void groups_delete(struct http_exchange *exchange);

#endif
