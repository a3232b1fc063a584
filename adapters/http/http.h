/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.1 of one worker: connections that its listeners accepted become complete requests, given
 * to the handler of their route, which answers at once or later. Why it is not libwebsockets:
 * README.md.
 *
 * Everything here belongs on the worker's loop. */
#ifndef ADAPTERS_HTTP_HTTP_H
#define ADAPTERS_HTTP_HTTP_H

#include "adapters/http/head.h"
#include "core/broker/broker.h"
#include "core/net/stream.h"
#include "core/net/tls.h"

struct http;

struct http_options {
    struct tls_context *tls; /* borrowed for the life of http; NULL: no HTTPS */
    const char *origins; /* foreign origins that may call while no principal exists, separated by
                          * commas or blanks; NULL: none. Copied. */
    uint32_t ping_s;     /* of silence, then a peer is asked; 0: LIMIT_WEBSOCKET_IDLE_MS */
};

/* Before the loop runs or on it. Never NULL. */
struct http *http_open(struct broker_worker *worker, const struct http_options *options);
/* After so long a silence a peer is asked, and has gone after as long again. */
uint32_t http_ping_ms(const struct http *http);
/* Takes a connected, non-blocking socket. tls without a context in the options closes it. entry:
 * FREE, or REFUSED: whatever is asked first is answered with 429, and that is the end. */
void http_accept(struct http *http, int socket, bool tls, enum entry entry);
/* Takes a stream of any kind that has not been started. */
void http_accept_stream(struct http *http, struct stream *stream, enum entry entry);
/* New connections are refused, idle ones end, the others end after their answer. */
void http_shut_down(struct http *http);
/* Ends all connections (exchanges are canceled). done() when the last has gone; http is freed then.
 */
void http_close(struct http *http, struct request *request);

/* Protocols that run on WebSocket connections: websocket.h. The table is borrowed for the life of
 * http. */
struct websocket_protocol;
void http_serve_websockets(struct http *http, const struct websocket_protocol *protocols,
                           size_t count);
/* /echo gives back every message, for conformance suites. */
void http_serve_echo(struct http *http);

/* ---------------------------------------------------------------- requests */

const char *http_method_name(enum http_method method);

struct http_exchange;

/* pattern: "/v1/{project}/queues/{queue}": each {name} takes one level, a last {name*} all that
 * follows (at least one byte). Literal levels win over {name}. Paths are matched as sent,
 * parameters are percent-decoded. */
struct http_route {
    enum http_method method;
    const char *pattern;
    /* The request is complete. Answers it, now or later, exactly once - or learns through
     * canceled() that nobody waits any more. */
    void (*handle)(struct http_exchange *exchange);
};
/* Adds routes; the table is borrowed for the life of http. context is shown as exchange->context.
 */
void http_serve(struct http *http, const struct http_route *routes, size_t count, void *context);
/* For what HTTP itself refuses (404, 405, 413, 403 of protected mode, ...): writes the body of the
 * answer, JSON. */
void http_serve_refusals(struct http *http,
                         void (*write)(struct http_exchange *exchange, unsigned code));

enum { HTTP_PARAMETERS_MAX = 4 };

/* What belongs to a connection, for handlers that keep something between its requests. */
struct http_connection {
    void *state;                     /* the handler's */
    void (*closed)(void *state);     /* once, after the last exchange has ended; NULL: none */
    const char *peer;                /* "127.0.0.1:4711" */
    const char *certificate_subject; /* of a verified TLS client certificate, or NULL */
};

/* Sends what is queued, then closes. A request that has no answer yet is canceled. */
void http_end(struct http_connection *connection);

/* One request and its answer. Spans live until the answer or canceled(). */
struct http_exchange {
    struct http *http;
    struct http_connection *connection;
    const struct http_route *route;
    void *context;           /* of http_serve */
    enum http_method method; /* HEAD is served by the route of GET, without the body */
    struct span parameters[HTTP_PARAMETERS_MAX]; /* of the pattern, in its order */
    struct http_head head;                       /* path, query, headers */
    struct span body;                            /* at most LIMIT_HTTP_BODY */

    /* The handler's. */
    void *state;
    void (*canceled)(struct http_exchange *exchange); /* the connection has gone; the exchange is
                                                         invalid afterwards */
    struct buf answer; /* the body of the answer, written before http_answer() */
};

/* First value of that name. */
bool http_query(const struct http_exchange *exchange, const char *name, struct span *value);
/* A header of the answer; name and value are copied. At most 1 KiB in all. */
void http_header(struct http_exchange *exchange, const char *name, const char *value);
/* Sends 200 and the headers of an answer whose body only ends with the connection, which is the
 * caller's from now on: he hands it over before he returns. The exchange is invalid afterwards. */
struct stream *http_answer_stream(struct http_exchange *exchange, const char *content_type);
/* Sends code, headers and exchange->answer. The exchange is invalid afterwards. content_type NULL:
 * the answer has no body. */
void http_answer(struct http_exchange *exchange, unsigned code, const char *content_type);

#endif
