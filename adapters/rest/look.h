/* SPDX-License-Identifier: Apache-2.0 */
/* Looking at records without taking them: peek, search, replay. */
#ifndef ADAPTERS_REST_LOOK_H
#define ADAPTERS_REST_LOOK_H

#include "adapters/http/http.h"

void look_records(struct http_exchange *exchange);     /* GET …/queues/{queue}/records */
void look_deadletters(struct http_exchange *exchange); /* GET /v1/…/groups/{group}/deadletters */

#endif
