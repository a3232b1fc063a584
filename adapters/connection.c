/* SPDX-License-Identifier: Apache-2.0 */
/* Holds a stream and an adapter's session together: one allocation per connection, freed when both
 * the stream has gone and nobody holds the session any more. */
#include <stdalign.h>

#include "adapters/adapter.h"
#include "core/base/check.h"
#include "core/base/heap.h"

enum { CONNECTION_MAGIC = 0x636f6e6e };

struct connection {
    uint32_t magic;
    uint32_t holds;
    const struct adapter *adapter;
    struct stream *stream;
    bool gone;
    alignas(16) uint8_t session[];
};

static void connection_input(void *context, struct span bytes, size_t *used)
{
    struct connection *connection = context;
    enum status status = connection->adapter->input(connection->session, bytes, used);
    if (status != STATUS_OK)
        connection->adapter->refuse(connection->session, status);
}

static void connection_drained(void *context)
{
    struct connection *connection = context;
    connection->adapter->drained(connection->session);
}

static void connection_closed(void *context, enum status why)
{
    struct connection *connection = context;
    (void)why;
    connection->holds++; /* close() may release the last one of the session's own */
    connection->adapter->close(connection->session);
    connection->gone = true;
    connection_release(connection->session);
}

static const struct stream_events events = {
    .input = connection_input,
    .drained = connection_drained,
    .closed = connection_closed,
};

struct connection *connection_start(const struct adapter *adapter, struct broker_worker *worker,
                                    struct stream *stream)
{
    struct connection *connection = heap_new(sizeof *connection + adapter->session_size);
    connection->magic = CONNECTION_MAGIC;
    connection->adapter = adapter;
    connection->stream = stream;
    enum status status = adapter->open(connection->session, stream, worker);
    stream_start(stream, &events, connection);
    if (status != STATUS_OK)
        stream_abort(stream);
    return connection;
}

void connection_open(const struct adapter *adapter, struct broker_worker *worker, int socket,
                     struct tls_context *tls, enum entry entry)
{
    struct loop *loop = broker_loop(worker);
    struct stream *stream =
        tls == NULL ? stream_tcp_new(loop, socket) : stream_tls_new(loop, socket, tls);
    if (stream == NULL)
        return;
    struct connection *connection = connection_start(adapter, worker, stream);
    if (entry == ENTRY_REFUSED)
        adapter->excess(connection->session);
}

static struct connection *connection_of(void *session)
{
    struct connection *connection =
        (struct connection *)(void *)((uint8_t *)session - offsetof(struct connection, session));
    CHECK(connection->magic == CONNECTION_MAGIC);
    return connection;
}

void connection_hold(void *session)
{
    connection_of(session)->holds++;
}

void connection_release(void *session)
{
    struct connection *connection = connection_of(session);
    CHECK(connection->holds > 0);
    if (--connection->holds == 0 && connection->gone)
        heap_free(connection);
}
