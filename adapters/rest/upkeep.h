/* SPDX-License-Identifier: Apache-2.0 */
/* What is done to a queue or to the whole store by hand, under /v1/{project}. */
#ifndef ADAPTERS_REST_UPKEEP_H
#define ADAPTERS_REST_UPKEEP_H

#include "adapters/http/http.h"

void upkeep_purge(struct http_exchange *exchange);  /* POST queues/{queue}/purge */
void upkeep_cancel(struct http_exchange *exchange); /* DELETE queues/{queue}/delayed/{id} */
void upkeep_backup(struct http_exchange *exchange); /* POST backup */

#endif
