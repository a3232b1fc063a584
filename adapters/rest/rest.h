/* SPDX-License-Identifier: Apache-2.0 */
/* REST of one worker: the DMS calls, our own calls, health, metrics and their description, served
 * through adapters/http and answered by core/broker. */
#ifndef ADAPTERS_REST_REST_H
#define ADAPTERS_REST_REST_H

#include "adapters/http/http.h"

struct rest;

/* Adds its routes to http. Before http takes its first connection. */
struct rest *rest_open(struct http *http, struct broker *broker, struct broker_worker *worker);
void rest_free(struct rest *rest); /* after http_close() is done; NULL is fine */

/* The table, for the test that compares it with the description. */
extern const struct http_route rest_routes[];
extern const size_t rest_route_count;

#endif
