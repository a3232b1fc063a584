/* SPDX-License-Identifier: Apache-2.0 */
/* A message from a frame's JSON to what is stored (docs/mapping.md, column WebSocket). */
#ifndef ADAPTERS_WS_MESSAGE_H
#define ADAPTERS_WS_MESSAGE_H

#include <jansson.h>

#include "core/base/arena.h"
#include "core/broker/broker.h"

/* Fills publish from frame: target, body, headers, expiry, delay, id. Borrows from frame, arena and
 * body. body NULL: it is in the frame. Returns OK; NOT_FOUND (no such queue); else INVALID, err
 * saying why. */
enum status ws_message_read(struct arena *arena, const json_t *frame, const struct client *client,
                            const struct span *body, struct publish *publish, struct err *err);

#endif
