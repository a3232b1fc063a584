/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by upgrade.c (the handshake) and websocket.c (the connection); nobody else includes it. */
#ifndef ADAPTERS_HTTP_SOCKET_H
#define ADAPTERS_HTTP_SOCKET_H

#include "adapters/http/line.h"
#include "adapters/http/websocket.h"

/* websocket.c: what comes on the stream, which is started, is frames from here on. authorization is
 * copied. */
void websocket_start(struct http *http, struct stream *below,
                     const struct websocket_protocol *protocol, const struct deflate_terms *terms,
                     struct span authorization);

void websocket_abort_all(struct http *http);

/* echo.c */
extern const struct adapter echo_adapter;

#endif
