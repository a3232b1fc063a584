/* SPDX-License-Identifier: Apache-2.0 */
/* The WebSocket subprotocol polylog.v1 as the gateway sees it, and Server-Sent Events. */
#ifndef ADAPTERS_WS_WS_H
#define ADAPTERS_WS_WS_H

#include "adapters/adapter.h"
#include "adapters/http/http.h"

/* Runs on WebSocket streams with messages (adapters/http/websocket.h). */
extern const struct adapter ws_adapter;

/* Adds GET /v1/{project}/events. worker is borrowed for the life of http. */
void events_serve(struct http *http, struct broker_worker *worker);

#endif
