/* SPDX-License-Identifier: Apache-2.0 */
/* What is retained, by topic filter. */
#ifndef ADAPTERS_REST_RETAINED_H
#define ADAPTERS_REST_RETAINED_H

#include "adapters/http/http.h"

void retained_list(struct http_exchange *exchange); /* GET /v1/{project}/retained */

#endif
