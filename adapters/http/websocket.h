/* SPDX-License-Identifier: Apache-2.0 */
/* WebSocket connections as streams, so that any adapter runs on them unchanged: the bytes of data
 * frames in, one binary frame per flush out. Protocols that care where messages begin and end get
 * them whole, and say themselves what a message is. All calls on the loop of the connection. */
#ifndef ADAPTERS_HTTP_WEBSOCKET_H
#define ADAPTERS_HTTP_WEBSOCKET_H

#include "adapters/adapter.h"
#include "adapters/http/frame.h"
#include "adapters/http/http.h"

struct websocket_protocol {
    const char *name; /* the subprotocol, for example "mqtt" */
    const struct adapter *adapter;
    /* Each input() is one whole message, which it must take, and output goes through
     * websocket_send(). Otherwise frames are a byte stream both ways; text frames are refused. */
    bool messages;
};

/* The rest is for protocols with messages. stream is the one that open() was given. */

/* The message that input() is being shown is text (and valid UTF-8), not binary. */
bool websocket_is_text(const struct stream *stream);
/* Messages above it end the connection; LIMIT_WEBSOCKET_MESSAGE at first. */
void websocket_set_message_max(struct stream *stream, size_t size);

/* The Authorization of the handshake, of X-Auth-Token as Bearer; size 0: none. Valid as long as the
 * stream. */
struct span websocket_authorization(const struct stream *stream);

/* One message: head, then all of tail (NULL: none), which is shared where it is large. */
void websocket_send(struct stream *stream, enum frame_kind kind, struct span head,
                    struct blob *tail);
/* Tails for this peer may come compressed, from websocket_deflate(), once for all such peers. */
bool websocket_takes_deflated(const struct stream *stream);
/* NULL: out of memory. */
struct blob *websocket_deflate(struct span tail);
void websocket_send_deflated(struct stream *stream, enum frame_kind kind, struct span head,
                             struct blob *deflated);
/* Sends what is queued, says why, and closes. */
void websocket_end(struct stream *stream, enum close_code code);

#endif
