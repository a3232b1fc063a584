/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP of one worker: connections that its listeners accepted become complete requests, given to
 * the handler of their route, which answers at once or later. HTTP/1.1 and, over TLS, HTTP/2.
 * libwebsockets stands behind it (server.c); no lws or uv type leaves this folder.
 *
 * Everything here belongs on the worker's loop. */
#ifndef ADAPTERS_HTTP_HTTP_H
#define ADAPTERS_HTTP_HTTP_H

#include "core/base/buf.h"
#include "core/broker/broker.h"

struct http;

struct http_options {
    const char *certificate, *key; /* files; NULL: no HTTPS */
    const char *client_ca;         /* file; NULL: no client certificates asked */
    const char *origins; /* foreign origins that may call while no principal exists, separated by
                          * commas or blanks; NULL: none */
};

/* Before the loop runs or on it; contexts of several workers are made one after another by one
 * thread. Options are copied. NULL with err set when it fails. */
struct http *http_open(struct broker_worker *worker, const struct http_options *options,
                       struct err *err);
/* Takes a connected, non-blocking socket. tls needs a certificate in the options, else the socket
 * is closed. */
void http_accept(struct http *http, int socket, bool tls);
/* New connections use the files' present contents; on failure the old ones stay. */
enum status http_reload(struct http *http, struct err *err);
/* Idle connections end, the others after their answer. */
void http_shut_down(struct http *http);
/* Ends all connections (exchanges are canceled). done() when nothing of it is left on the loop;
 * http is freed then. */
void http_close(struct http *http, struct request *request);

/* ---------------------------------------------------------------- requests */

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_PATCH,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_METHODS
};
const char *http_method_name(enum http_method method);

struct http_exchange;

/* pattern: "/v1/{project}/queues/{queue}": each {name} takes one level, a last {name*} all that
 * follows (at least one byte). Literal levels win over {name}. */
struct http_route {
    enum http_method method;
    const char *pattern;
    /* The request is complete. Answers it, now or later, exactly once - or learns through
     * canceled() that nobody waits any more. */
    void (*handle)(struct http_exchange *exchange);
};
/* Adds routes; the table is borrowed for the life of http. context is shown as exchange->context. A
 * path without a route is answered by missing(), if set, else with an empty 404; a known path with
 * another method with an empty 405. */
void http_serve(struct http *http, const struct http_route *routes, size_t count, void *context);
/* For what HTTP itself refuses (404, 405, 413, 403 of protected mode, ...): writes the body of the
 * answer. */
void http_serve_refusals(struct http *http,
                         void (*write)(struct http_exchange *exchange, unsigned code));

enum { HTTP_PARAMETERS_MAX = 4, HTTP_QUERY_MAX = 32, HTTP_HEADER_BYTES = 16384 };

struct http_pair {
    struct span name, value;
};

/* What belongs to a connection, for handlers that keep something between its requests. */
struct http_connection {
    void *state;                 /* the handler's */
    void (*closed)(void *state); /* once, after the last exchange has ended; NULL: none */
};

/* One request and its answer. Spans live until the answer or canceled(). */
struct http_exchange {
    struct http *http;
    struct http_connection *connection;
    const struct http_route *route;
    void *context;           /* of http_serve */
    enum http_method method; /* HEAD is served by the route of GET, without the body */
    struct span path;        /* percent-decoded */
    struct span parameters[HTTP_PARAMETERS_MAX]; /* of the pattern, in its order */
    struct http_pair query[HTTP_QUERY_MAX];      /* decoded, in order */
    uint32_t query_count;
    struct span host, origin, authorization, auth_token, content_type,
        idempotency_key; /* size 0: absent */
    struct span body;    /* at most LIMIT_HTTP_BODY */
    bool tls;

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
/* Sends code, headers and exchange->answer. The exchange is invalid afterwards. content_type NULL:
 * no body type. */
void http_answer(struct http_exchange *exchange, unsigned code, const char *content_type);

#endif
