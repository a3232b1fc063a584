/* SPDX-License-Identifier: Apache-2.0 */
/* A message as JSON shows it (docs/mapping.md, column REST): from a request's JSON to what is
 * stored, and from a record to the JSON of an answer. */
#ifndef ADAPTERS_REST_VIEW_H
#define ADAPTERS_REST_VIEW_H

#include "adapters/http/json.h"
#include "core/base/arena.h"
#include "core/broker/broker.h"

/* Fills key, body, headers, expiry and delay of publish from one element of "messages" (borrows
 * from message and arena). ours: the fields of POST /v1/{project}/publish count too, else those of
 * the DMS call. Returns 0, or the DMS code to refuse with, err saying why. *size: bytes that it
 * counts for. */
unsigned view_read(struct arena *arena, const json_t *message, bool ours, struct publish *publish,
                   size_t *size, struct err *err);

/* Appends "body":…[,"body_encoding":"base64"],"attributes":{…}[,"tags":[…]]. ours: the tags are
 * called labels. */
void view_write(const struct record *record, bool ours, struct buf *to);

#endif
