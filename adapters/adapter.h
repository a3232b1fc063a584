/* SPDX-License-Identifier: Apache-2.0 */
/* What a protocol is to the gateway: how one connection's bytes become calls of
 * core/broker/broker.h. All calls on the connection's loop, never re-entered. connection.c owns the
 * stream and the session's memory. */
#ifndef ADAPTERS_ADAPTER_H
#define ADAPTERS_ADAPTER_H

#include "core/broker/broker.h"
#include "core/net/stream.h"

struct adapter {
    const char *name;    /* in configuration, metrics, traces */
    size_t session_size; /* allocated zeroed per connection */
    enum status (*open)(void *session, struct stream *stream, struct broker_worker *worker);
    /* Borrowed bytes; takes whole frames. A status other than OK ends the connection at once. */
    enum status (*input)(void *session, struct span bytes, size_t *used);
    void (*drained)(void *session);
    void (*refuse)(void *session,
                   enum status why); /* goodbye in the protocol's own words, then stream_close */
    void (*close)(void *session);    /* last call; the session's memory goes when hold is 0 */
    /* After open(): one connection too many. It is refused as soon as the protocol allows. NULL
     * where no listener opens this protocol. */
    void (*excess)(void *session);
};

struct connection;
/* Takes the socket. tls NULL: plain. entry: FREE or REFUSED, what broker_may_connect() said. */
void connection_open(const struct adapter *adapter, struct broker_worker *worker, int socket,
                     struct tls_context *tls, enum entry entry);
/* Takes a stream of any kind (the simulator's). */
struct connection *connection_start(const struct adapter *adapter, struct broker_worker *worker,
                                    struct stream *stream);
/* A session with requests in flight holds its own memory beyond close. */
void connection_hold(void *session);
void connection_release(void *session);

#endif
