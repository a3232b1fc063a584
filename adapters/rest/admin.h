/* SPDX-License-Identifier: Apache-2.0 */
/* Administration beyond DMS, under /v1/{project}: routes, users, grants, access keys, connections.
 */
#ifndef ADAPTERS_REST_ADMIN_H
#define ADAPTERS_REST_ADMIN_H

#include "adapters/http/http.h"
#include "core/broker/administer.h"

void routes_list(struct http_exchange *exchange);
void routes_show(struct http_exchange *exchange);
void routes_set(struct http_exchange *exchange);
void routes_delete(struct http_exchange *exchange);

void users_list(struct http_exchange *exchange);
void users_show(struct http_exchange *exchange);
void users_create(struct http_exchange *exchange);
void users_set(struct http_exchange *exchange);
void users_delete(struct http_exchange *exchange);
void users_show_grants(struct http_exchange *exchange);
void users_set_grants(struct http_exchange *exchange);
void users_list_keys(struct http_exchange *exchange);
void users_create_key(struct http_exchange *exchange);
void users_delete_key(struct http_exchange *exchange);

void tokens_create(struct http_exchange *exchange);

void connections_list(struct http_exchange *exchange);
void connections_show(struct http_exchange *exchange);
void connections_end(struct http_exchange *exchange);

#endif
