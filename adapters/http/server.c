/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of one worker: bytes of their streams become exchanges, one at a time on each.
 * Requests that come before the answer of an earlier one wait in the stream. */
#include <unistd.h>

#include "adapters/http/deflate.h"
#include "adapters/http/socket.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum {
    IDLE_MS = 75000,
    BODY_MS = 30000,
    BODY_BYTES_PER_MS = 64, /* what a slow sender must reach on top of it */
    OUTPUT_MAX = 64 * 1024  /* more than this unread, and no further request is taken */
};

/* ---------------------------------------------------------------- time */

static void line_expect(struct line *line, uint64_t within_ms)
{
    struct loop *loop = line->http->loop;
    line->deadline_ms = loop_now_ms(loop) + within_ms;
    if (!loop_timer_is_running(&line->timer) || line->timer.due_ms > line->deadline_ms)
        loop_timer_start(loop, &line->timer, within_ms);
}

static void timer_fired(struct loop_timer *timer)
{
    struct line *line = container_of(timer, struct line, timer);
    uint64_t now_ms = loop_now_ms(line->http->loop);
    size_t queued = stream_queued(line->stream);
    bool drains = queued > 0 && queued != line->queued;
    line->queued = queued;
    if (line->deadline_ms == 0) {
        loop_timer_start(line->http->loop, timer, IDLE_MS);
    } else if (now_ms < line->deadline_ms) {
        loop_timer_start(line->http->loop, timer, line->deadline_ms - now_ms);
    } else if (drains) {
        line_expect(line, IDLE_MS);
    } else {
        metric_add(line->http->timed_out, 1);
        stream_abort(line->stream);
    }
}

/* ---------------------------------------------------------------- reading */

static void refuse(struct line *line, unsigned code)
{
    line->exchange->close = true;
    exchange_refuse(line->exchange, code);
}

static bool must_wait(const struct line *line)
{
    return (line->exchange != NULL && line->exchange->handling) ||
           stream_queued(line->stream) > OUTPUT_MAX;
}

/* Bytes wait for the answer of the request before them, or for the peer to read. In the second case
 * the flush of this turn may be enough; else drained() follows. */
static void line_hold(struct line *line)
{
    if (!line->held) {
        line->held = true;
        stream_pause(line->stream);
    }
    if (line->exchange == NULL)
        loop_defer(line->http->loop, &line->flushed, LOOP_FLUSH);
}

static void line_go_on(struct line *line)
{
    if (line->held && !line->reading && !must_wait(line)) {
        line->held = false;
        stream_resume(line->stream);
    }
}

static void flushed_run(struct loop_task *task)
{
    line_go_on(container_of(task, struct line, flushed));
}

/* The takers below move *used over what they took and say whether there is more to do with the
 * rest. */

static bool take_head(struct line *line, struct span bytes, size_t *used)
{
    static const char invitation[] = "HTTP/1.1 100 Continue\r\n\r\n";
    size_t size = http_head_size(bytes);
    if (size == 0 && bytes.size < LIMIT_HTTP_HEAD) {
        if (bytes.size > 0 && !line->in_head) {
            line->in_head = true;
            line_expect(line, LIMIT_CONNECT_MS);
        }
        return false;
    }
    struct exchange *exchange = exchange_new(line, span_of(bytes.data, size));
    struct http_head *head = &exchange->base.head;
    unsigned code =
        size == 0 || size > LIMIT_HTTP_HEAD ? 431 : http_head_read(head, exchange->memory, size);
    if (code == 0 && head->body_size > LIMIT_HTTP_BODY)
        code = 413;
    if (line->excess)
        code = 429;
    line->exchange = exchange;
    line->in_head = false;
    exchange->base.method = head->method;
    if (code != 0) {
        refuse(line, code);
        return false;
    }
    *used += size;
    uint64_t expected = head->chunked ? LIMIT_HTTP_BODY : head->body_size;
    if (expected > bytes.size - size) {
        line_expect(line, BODY_MS + expected / BODY_BYTES_PER_MS);
        if (head->expects_continue)
            stream_write(line->stream, span_of(invitation, sizeof invitation - 1));
    }
    return true;
}

static bool handle(struct line *line)
{
    line->exchange->base.body = buf_span(&line->exchange->body);
    line->deadline_ms = 0;
    exchange_handle(line->exchange);
    return true;
}

/* Many bodies of legal size may be too much together. */
static bool charge_body(struct exchange *exchange)
{
    struct http *http = exchange->base.http;
    size_t more = exchange->body.capacity - exchange->charged;
    http->body_bytes += more;
    exchange->charged += more;
    return http->body_bytes <= LIMIT_WORKER_IN_BYTES;
}

static bool take_sized_body(struct line *line, struct span bytes, size_t *used)
{
    struct exchange *exchange = line->exchange;
    size_t missing = (size_t)exchange->base.head.body_size - exchange->body.size;
    size_t size = bytes.size < missing ? bytes.size : missing;
    if (exchange->body.size == 0 && missing > 0 &&
        (buf_reserve(&exchange->body, missing) != STATUS_OK || !charge_body(exchange))) {
        refuse(line, 503);
        return false;
    }
    if (buf_append(&exchange->body, bytes.data, size) != STATUS_OK) {
        refuse(line, 503);
        return false;
    }
    *used += size;
    return size == missing && handle(line);
}

static bool take_chunked_body(struct line *line, struct span bytes, size_t *used)
{
    struct exchange *exchange = line->exchange;
    size_t size = 0;
    enum status status = http_chunks_feed(&exchange->chunks, bytes, &exchange->body, &size);
    if (!charge_body(exchange))
        status = STATUS_NO_MEMORY;
    if (status != STATUS_OK) {
        refuse(line, status == STATUS_TOO_LARGE ? 413 : status == STATUS_NO_MEMORY ? 503 : 400);
        return false;
    }
    *used += size;
    return exchange->chunks.state == CHUNK_COMPLETE && handle(line);
}

static bool take(struct line *line, struct span bytes, size_t *used)
{
    if (line->exchange == NULL)
        return take_head(line, bytes, used);
    if (line->exchange->base.head.chunked)
        return take_chunked_body(line, bytes, used);
    return take_sized_body(line, bytes, used);
}

static void http_free(struct http *http)
{
    struct request *request = http->closing;
    deflate_forget();
    router_deinit(&http->router);
    heap_free(http->origins);
    heap_free(http);
    request_complete(request, STATUS_OK);
}

void http_left(struct http *http)
{
    if (http->closing != NULL && list_is_empty(&http->lines) && list_is_empty(&http->sockets))
        http_free(http);
}

static void line_free(struct line *line)
{
    struct http *http = line->http;
    if (line->connection.closed != NULL)
        line->connection.closed(line->connection.state);
    loop_timer_stop(http->loop, &line->timer);
    loop_task_cancel(http->loop, &line->flushed);
    link_remove(&line->link);
    heap_free(line);
    metric_add(http->connections, -1);
    http_left(http);
}

void line_hand_over(struct exchange *exchange)
{
    struct line *line = exchange->line;
    struct stream *stream = line->stream;
    CHECK(exchange->handling);
    line->exchange = NULL;
    line->stream = NULL;
    exchange_free(exchange);
    if (line->held)
        stream_resume(stream);
    if (!line->reading)
        line_free(line);
}

static void input(void *context, struct span bytes, size_t *used)
{
    struct line *line = context;
    *used = 0;
    line->reading = true;
    while (line->stream != NULL && !stream_is_closing(line->stream) && !must_wait(line) &&
           take(line, span_from(bytes, *used), used))
        ;
    line->reading = false;
    if (line->stream == NULL) {
        line_free(line);
        return;
    }
    if (stream_is_closing(line->stream))
        *used = bytes.size;
    else if (*used < bytes.size && must_wait(line))
        line_hold(line);
}

void line_answered(struct line *line, bool close)
{
    if (close) {
        stream_close(line->stream);
        return;
    }
    line_expect(line, IDLE_MS);
    line_go_on(line);
    if (line->held)
        loop_defer(line->http->loop, &line->flushed, LOOP_FLUSH);
}

static void drained(void *context)
{
    line_go_on(context);
}

/* ---------------------------------------------------------------- life */

static void drop_exchange(struct line *line)
{
    struct exchange *exchange = line->exchange;
    if (exchange == NULL)
        return;
    line->exchange = NULL;
    if (exchange->handling && exchange->base.canceled != NULL)
        exchange->base.canceled(&exchange->base);
    exchange_free(exchange);
}

static void closed(void *context, enum status why)
{
    struct line *line = context;
    (void)why;
    drop_exchange(line);
    line_free(line);
}

static const struct stream_events events = {.input = input, .drained = drained, .closed = closed};

uint32_t http_ping_ms(const struct http *http)
{
    return http->ping_ms;
}

struct http *http_open(struct broker_worker *worker, const struct http_options *options)
{
    struct http *http = heap_new(sizeof *http);
    http->worker = worker;
    http->loop = broker_loop(worker);
    http->tls = options->tls;
    http->ping_ms = options->ping_s == 0 ? LIMIT_WEBSOCKET_IDLE_MS : options->ping_s * 1000;
    if (options->origins != NULL)
        http->origins = heap_text(options->origins, strlen(options->origins));
    list_init(&http->lines);
    list_init(&http->sockets);
    http->connections = metric_gauge("connections", "Open connections.", "protocol=\"http\"");
    http->websockets = metric_gauge("connections", "Open connections.", "protocol=\"websocket\"");
    http->refused = metric_counter("refused_total", "Refused requests.",
                                   "protocol=\"http\",reason=\"request\"");
    http->timed_out = metric_counter("refused_total", "Refused requests.",
                                     "protocol=\"http\",reason=\"timeout\"");
    return http;
}

void http_serve(struct http *http, const struct http_route *routes, size_t count, void *context)
{
    router_add(&http->router, routes, count, context);
}

void http_serve_refusals(struct http *http,
                         void (*write)(struct http_exchange *exchange, unsigned code))
{
    http->refusal = write;
}

void http_accept(struct http *http, int socket, bool tls, enum entry entry)
{
    CHECK(loop_is_home(http->loop));
    if (http->shutting_down || (tls && http->tls == NULL)) {
        close(socket);
        return;
    }
    struct stream *stream =
        tls ? stream_tls_new(http->loop, socket, http->tls) : stream_tcp_new(http->loop, socket);
    if (stream != NULL)
        http_accept_stream(http, stream, entry);
}

void http_accept_stream(struct http *http, struct stream *stream, enum entry entry)
{
    struct line *line = heap_new(sizeof *line);
    line->http = http;
    line->stream = stream;
    line->excess = entry == ENTRY_REFUSED;
    line->timer.fired = timer_fired;
    line->flushed.run = flushed_run;
    line->connection.peer = stream_peer(stream);
    list_push(&http->lines, &line->link);
    metric_add(http->connections, 1);
    line->in_head = true;
    stream_start(stream, &events, line);
    line_expect(line, LIMIT_CONNECT_MS);
}

void http_end(struct http_connection *connection)
{
    struct line *line = container_of(connection, struct line, connection);
    if (line->stream != NULL)
        stream_close(line->stream);
}

void http_shut_down(struct http *http)
{
    CHECK(loop_is_home(http->loop));
    http->shutting_down = true;
    list_each(cursor, &http->lines)
    {
        struct line *line = container_of(cursor, struct line, link);
        if (line->exchange == NULL)
            stream_close(line->stream);
    }
}

void http_close(struct http *http, struct request *request)
{
    CHECK(loop_is_home(http->loop) && http->closing == NULL);
    http->shutting_down = true;
    http->closing = request;
    list_each(cursor, &http->lines)
    {
        struct line *line = container_of(cursor, struct line, link);
        drop_exchange(line);
        stream_abort(line->stream);
    }
    websocket_abort_all(http);
    http_left(http);
}
