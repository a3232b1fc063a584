/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by server.c (libwebsockets' events) and exchange.c (requests and answers); nobody else
 * includes it. */
#ifndef ADAPTERS_HTTP_SERVER_H
#define ADAPTERS_HTTP_SERVER_H

#include <libwebsockets.h>

#include "adapters/http/codec.h"
#include "adapters/http/router.h"
#include "core/broker/metrics.h"

enum { HTTP_ANSWER_MAX = 32 * 1024 * 1024, HTTP_ANSWER_HEADERS_MAX = 1024 };

struct http {
    struct broker_worker *worker;
    struct loop *loop;
    struct lws_context *context;
    struct lws_vhost *plain, *secure;
    char *certificate, *key, *client_ca, *origins;
    struct router router;
    void (*refusal)(struct http_exchange *exchange, unsigned code);
    struct list lines;
    struct list watched; /* exchanges that read a body or wait for an answer */
    struct loop_timer watch_timer;
    struct loop_timer close_timer;
    struct request *closing;
    unsigned quiet_ticks;
    bool shutting_down;
    int64_t date_s; /* date is the text of this second */
    char date[32];
    struct metric *connections, *accepted, *timed_out;
};

/* One lws connection: an HTTP/1 connection, an HTTP/2 connection, or a stream of one.
 *
 * exchange:   NULL --head--> READING --body complete--> HANDLING --http_answer--> SENDING --> NULL
 */
struct line {
    struct link link;
    struct http *http;
    struct lws *wsi;
    struct line *network; /* the line of the connection; itself unless it is a stream */
    struct http_connection connection; /* used on network lines */
    unsigned refs;                     /* itself and its streams */
    struct exchange *exchange;
    bool in_event; /* inside an lws callback of this wsi: closing goes by its return value */
    bool doomed;   /* lws will close it soon */
};

enum exchange_state { EXCHANGE_READING, EXCHANGE_HANDLING, EXCHANGE_ANSWERED, EXCHANGE_SENDING };
enum body_kind { BODY_NONE, BODY_SIZED, BODY_CHUNKED, BODY_UNREAD };

struct exchange {
    struct http_exchange base;
    struct line *line;
    enum exchange_state state;
    enum body_kind body_kind;
    struct http_chunks chunks;
    struct buf body;
    uint8_t *head; /* memory of path, query and header values */
    char *headers; /* of the answer, "Name: value\r\n" each */
    size_t headers_size;
    struct link link;           /* of http->watched */
    uint64_t deadline_ms;       /* for the body */
    bool head_only, old, close; /* HEAD; HTTP/1.0; the connection ends after it */
    bool flow_stopped;
    bool allow_origin;
    unsigned code;
    const char *content_type;
    size_t sent; /* of the body, on a stream */
    bool head_sent;
};

static inline struct exchange *exchange_of(struct http_exchange *base)
{
    return container_of(base, struct exchange, base);
}
static inline bool line_is_stream(const struct line *line)
{
    return line->network != line;
}

/* exchange.c. Results of the int kind are lws's: non-zero closes the wsi. */
struct exchange *exchange_new(struct line *line);
void exchange_free(struct exchange *exchange);
/* Reads the head; 0, or the code to refuse with. */
unsigned exchange_read_head(struct exchange *exchange, struct span path);
unsigned exchange_read_body(struct exchange *exchange, struct span bytes);
/* The route's handler, or the refusal. */
void exchange_handle(struct exchange *exchange);
void exchange_refuse(struct exchange *exchange, unsigned code);
/* Sends what can be sent now; ends the exchange when all is out. */
int exchange_send(struct exchange *exchange);

/* server.c */
/* Ends the exchange and takes the connection back to reading. */
int line_complete(struct line *line);

#endif
