/* SPDX-License-Identifier: Apache-2.0 */
/* A record as JSON (docs/mapping.md, column WebSocket). */
#ifndef ADAPTERS_WS_VIEW_H
#define ADAPTERS_WS_VIEW_H

#include "adapters/http/json.h"
#include "core/base/limits.h"
#include "core/log/record.h"

/* Bytes of a record's text at most: a control character has six, and there is room for names. */
#define WS_RECORD_TEXT_MAX (7u * LIMIT_RECORD_BYTES)

/* Where the record lies; queue NULL: not known. */
struct ws_view_place {
    const char *queue;
    uint32_t partition;
};

/* Appends the members of an object, without its brackets: "body" last. binary: the body follows as
 * a frame of its own, "body_frame":true stands for it. */
void ws_view_write(const struct record *record, const struct ws_view_place *place, bool binary,
                   struct buf *to);

#endif
