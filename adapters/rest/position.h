/* SPDX-License-Identifier: Apache-2.0 */
/* Where a group stands and what became of a record, under /v1/…/groups/{group}. */
#ifndef ADAPTERS_REST_POSITION_H
#define ADAPTERS_REST_POSITION_H

#include "adapters/http/http.h"
#include "core/queue/group.h"

void position_seek(struct http_exchange *exchange);         /* POST …/seek */
void position_redrive(struct http_exchange *exchange);      /* POST …/redrive */
void position_show_redrive(struct http_exchange *exchange); /* GET …/redrive */
void position_explain(struct http_exchange *exchange);      /* GET …/explain */

const char *fate_text(enum record_fate fate);

#endif
