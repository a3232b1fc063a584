/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by server.c (connections, reading) and exchange.c (handling, answering); nobody else
 * includes it. */
#ifndef ADAPTERS_HTTP_LINE_H
#define ADAPTERS_HTTP_LINE_H

#include "adapters/http/codec.h"
#include "adapters/http/router.h"
#include "core/base/limits.h"
#include "core/broker/metrics.h"

/* A control character of a record has six bytes in JSON: what does not fit would be cut off. */
enum { HTTP_ANSWER_MAX = 8 * LIMIT_RECORD_BYTES, HTTP_ANSWER_HEADERS_MAX = 1024 };

struct http {
    struct broker_worker *worker;
    struct loop *loop;
    struct tls_context *tls;
    char *origins;
    uint32_t ping_ms;
    struct router router;
    void (*refusal)(struct http_exchange *exchange, unsigned code);
    const struct websocket_protocol *protocols;
    size_t protocol_count;
    struct list lines, sockets;
    struct request *closing;
    bool shutting_down;
    size_t body_bytes; /* held by exchanges and WebSocket messages: at most LIMIT_WORKER_IN_BYTES */
    int64_t date_s;    /* date is the text of this second */
    char date[32];
    struct metric *connections, *websockets, *refused, *timed_out;
};

/* A connection, and the one request that is read or answered on it: what follows waits in the
 * stream. */
struct line {
    struct link link;
    struct http *http;
    struct stream *stream; /* NULL: handed over; the line goes when input() is done */
    struct http_connection connection;
    struct exchange *exchange;
    struct loop_timer timer;  /* fires at or before deadline_ms and looks again */
    struct loop_task flushed; /* runs behind the stream's flush */
    uint64_t deadline_ms;     /* 0: while an answer is awaited */
    size_t queued;            /* output when the timer last fired */
    bool in_head;             /* the time for a head runs */
    bool excess;              /* one connection too many: nothing is done on it */
    bool reading;             /* inside input(): do not resume from there */
    bool held; /* the stream is paused: bytes wait for an answer, or output for the peer */
};

/* READING --body complete--> HANDLING --http_answer--> freed */
struct exchange {
    struct http_exchange base;
    struct line *line;
    bool handling;
    bool close;   /* the connection ends after it */
    bool endless; /* the answer has no length */
    bool allow_origin;
    struct http_chunks chunks;
    size_t charged;  /* of body_bytes */
    struct buf body; /* when it did not come whole with the head */
    char *headers;   /* of the answer, "Name: value\r\n" each */
    size_t headers_size;
    uint8_t memory[]; /* the head */
};

static inline struct exchange *exchange_of(struct http_exchange *base)
{
    return container_of(base, struct exchange, base);
}

/* exchange.c */
struct exchange *exchange_new(struct line *line, struct span head);
void exchange_free(struct exchange *exchange);
/* The route's handler, or a refusal. Afterwards the exchange may have gone. */
void exchange_handle(struct exchange *exchange);
void exchange_refuse(struct exchange *exchange, unsigned code);

/* server.c */
/* The exchange has been answered and freed: the connection reads on, or ends. */
void line_answered(struct line *line, bool close);
/* Ends HTTP on the connection of a request that is being handled: the caller hands the stream over
 * before he returns. The exchange is freed. */
void line_hand_over(struct exchange *exchange);
/* The last connection may have gone. */
void http_left(struct http *http);

#endif
