/* SPDX-License-Identifier: Apache-2.0 */
/* One request and its answer: finds the route, guards it, and writes the answer. */
#include <stdio.h>
#include <time.h>

#include "adapters/http/line.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/heap.h"

enum { COPIED_ANSWER_MAX = 16 * 1024, HEAD_MAX = 512 + HTTP_ANSWER_HEADERS_MAX };

static const char *const method_names[HTTP_METHODS] = {
    [HTTP_GET] = "GET",     [HTTP_HEAD] = "HEAD",     [HTTP_POST] = "POST",      [HTTP_PUT] = "PUT",
    [HTTP_PATCH] = "PATCH", [HTTP_DELETE] = "DELETE", [HTTP_OPTIONS] = "OPTIONS"};

const char *http_method_name(enum http_method method)
{
    return method_names[method];
}

struct exchange *exchange_new(struct line *line, struct span head)
{
    struct exchange *exchange = heap_new(sizeof *exchange + head.size);
    exchange->line = line;
    exchange->base.http = line->http;
    exchange->base.connection = &line->connection;
    line->connection.certificate_subject = stream_certificate_subject(line->stream);
    buf_init(&exchange->body, LIMIT_HTTP_BODY);
    buf_init(&exchange->base.answer, HTTP_ANSWER_MAX);
    memcpy(exchange->memory, head.data, head.size);
    return exchange;
}

void exchange_free(struct exchange *exchange)
{
    exchange->base.http->body_bytes -= exchange->charged;
    buf_deinit(&exchange->body);
    buf_deinit(&exchange->base.answer);
    heap_free(exchange->headers);
    heap_free(exchange);
}

/* ---------------------------------------------------------------- handling */

/* While no principal exists, everything is allowed to whoever reaches the socket; so it must not be
 * a web page of somebody else, neither by its own name (Origin) nor by a name that it made point
 * here (Host). */
static bool is_foreign(struct exchange *exchange)
{
    const struct http *http = exchange->base.http;
    struct span origin = exchange->base.head.origin, host = exchange->base.head.host;
    exchange->allow_origin = origin.size > 0 && http->origins != NULL &&
                             http_origin_is_listed(origin, span_from_text(http->origins));
    if (!catalog_is_protected(broker_catalog(http->worker)))
        return false;
    if (host.size > 0 && !http_host_is_loopback(host))
        return true;
    return origin.size > 0 && !exchange->allow_origin && !http_origin_is_own(origin, host);
}

/* Answers a browser that asks whether a page of an allowed origin may call. */
static void answer_preflight(struct exchange *exchange)
{
    http_header(&exchange->base, "Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE");
    http_header(&exchange->base, "Access-Control-Allow-Headers",
                "Authorization, Content-Type, Idempotency-Key, X-Auth-Token");
    http_header(&exchange->base, "Access-Control-Max-Age", "600");
    http_answer(&exchange->base, 204, NULL);
}

static void refuse_method(struct exchange *exchange, unsigned methods)
{
    char allow[64] = "";
    size_t size = 0;
    for (unsigned i = 0; i < HTTP_METHODS; i++) {
        if (methods & 1u << i)
            size += (size_t)snprintf(allow + size, sizeof allow - size, "%s%s",
                                     size > 0 ? ", " : "", method_names[i]);
    }
    http_header(&exchange->base, "Allow", allow);
    exchange_refuse(exchange, 405);
}

static bool decode_parameters(struct http_exchange *base)
{
    for (unsigned i = 0; i < HTTP_PARAMETERS_MAX; i++) {
        if (!http_decode(&base->parameters[i], false))
            return false;
    }
    return true;
}

void exchange_handle(struct exchange *exchange)
{
    struct http_exchange *base = &exchange->base;
    unsigned methods;
    exchange->handling = true;
    if (is_foreign(exchange)) {
        exchange_refuse(exchange, 403);
        return;
    }
    if (base->method == HTTP_OPTIONS && exchange->allow_origin) {
        answer_preflight(exchange);
        return;
    }
    const struct router_entry *entry =
        router_find(&base->http->router, base->method, base->head.path, base->parameters, &methods);
    if (entry == NULL && methods == 0) {
        exchange_refuse(exchange, 404);
    } else if (entry == NULL) {
        refuse_method(exchange, methods);
    } else if (!decode_parameters(base)) {
        exchange_refuse(exchange, 400);
    } else {
        base->route = entry->route;
        base->context = entry->context;
        entry->route->handle(base);
    }
}

void exchange_refuse(struct exchange *exchange, unsigned code)
{
    exchange->handling = true;
    if (code == 429) /* the broker has counted it */
        http_header(&exchange->base, "Retry-After", "1");
    else
        metric_add(exchange->base.http->refused, 1);
    if (exchange->base.http->refusal != NULL)
        exchange->base.http->refusal(&exchange->base, code);
    http_answer(&exchange->base, code, "application/json");
}

bool http_query(const struct http_exchange *exchange, const char *name, struct span *value)
{
    for (uint32_t i = 0; i < exchange->head.query_count; i++) {
        if (span_is(exchange->head.query[i].name, name)) {
            *value = exchange->head.query[i].value;
            return true;
        }
    }
    return false;
}

/* ---------------------------------------------------------------- answer */

void http_header(struct http_exchange *base, const char *name, const char *value)
{
    struct exchange *exchange = exchange_of(base);
    size_t more = strlen(name) + strlen(value) + 4;
    CHECK(exchange->headers_size + more < HTTP_ANSWER_HEADERS_MAX);
    exchange->headers = heap_resize(exchange->headers, exchange->headers_size + more + 1);
    snprintf(exchange->headers + exchange->headers_size, more + 1, "%s: %s\r\n", name, value);
    exchange->headers_size += more;
}

static const char *reason_of(unsigned code)
{
    switch (code) {
    case 200:
        return "OK";
    case 201:
        return "Created";
    case 202:
        return "Accepted";
    case 204:
        return "No Content";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 409:
        return "Conflict";
    case 413:
        return "Content Too Large";
    case 426:
        return "Upgrade Required";
    case 431:
        return "Request Header Fields Too Large";
    case 429:
        return "Too Many Requests";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 505:
        return "HTTP Version Not Supported";
    case 503:
        return "Service Unavailable";
    default:
        return "";
    }
}

static const char *date_of(struct http *http)
{
    int64_t now = clock_wall_ms() / 1000;
    if (now != http->date_s) {
        struct tm tm;
        time_t seconds = (time_t)now;
        http->date_s = now;
        strftime(http->date, sizeof http->date, "%a, %d %b %Y %H:%M:%S GMT",
                 gmtime_r(&seconds, &tm));
    }
    return http->date;
}

static size_t put_text(char *to, const char *text)
{
    size_t size = strlen(text);
    memcpy(to, text, size);
    return size;
}

static size_t put_number(char *to, size_t number)
{
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    for (size_t i = 0; i < count; i++)
        to[i] = digits[count - 1 - i];
    return count;
}

static size_t write_head(struct exchange *exchange, unsigned code, const char *content_type,
                         char *to)
{
    size_t size = put_text(to, "HTTP/1.1 ");
    size += put_number(to + size, code);
    to[size++] = ' ';
    size += put_text(to + size, reason_of(code));
    size += put_text(to + size, "\r\nDate: ");
    size += put_text(to + size, date_of(exchange->base.http));
    if (content_type != NULL) {
        size += put_text(to + size, "\r\nContent-Type: ");
        size += put_text(to + size, content_type);
    }
    if (code != 204 && !exchange->endless) {
        size += put_text(to + size, "\r\nContent-Length: ");
        size += put_number(to + size, exchange->base.answer.size);
    }
    if (exchange->close)
        size += put_text(to + size, "\r\nConnection: close");
    else if (exchange->base.head.old)
        size += put_text(to + size, "\r\nConnection: keep-alive");
    size += put_text(to + size, "\r\n");
    if (exchange->headers_size > 0)
        memcpy(to + size, exchange->headers, exchange->headers_size);
    size += exchange->headers_size;
    return size + put_text(to + size, "\r\n");
}

static void allow_origin(struct exchange *exchange)
{
    char origin[256];
    struct span asked = exchange->base.head.origin;
    if (asked.size >= sizeof origin)
        return;
    memcpy(origin, asked.data, asked.size);
    origin[asked.size] = 0;
    http_header(&exchange->base, "Access-Control-Allow-Origin", origin);
    http_header(&exchange->base, "Vary", "Origin");
}

struct stream *http_answer_stream(struct http_exchange *base, const char *content_type)
{
    struct exchange *exchange = exchange_of(base);
    struct stream *stream = exchange->line->stream;
    char head[HEAD_MAX];
    exchange->close = exchange->endless = true;
    if (exchange->allow_origin)
        allow_origin(exchange);
    stream_write(stream, span_of(head, write_head(exchange, 200, content_type, head)));
    line_hand_over(exchange);
    return stream;
}

void http_answer(struct http_exchange *base, unsigned code, const char *content_type)
{
    struct exchange *exchange = exchange_of(base);
    CHECK(exchange->handling);
    struct line *line = exchange->line;
    struct buf *answer = &base->answer;
    if (exchange->allow_origin)
        allow_origin(exchange);
    if (base->http->shutting_down || !base->head.keep_alive)
        exchange->close = true;
    char head[HEAD_MAX];
    size_t size = write_head(exchange, code, answer->size > 0 ? content_type : NULL, head);
    stream_write(line->stream, span_of(head, size));
    if (answer->size <= COPIED_ANSWER_MAX) {
        if (base->method != HTTP_HEAD && code != 204)
            stream_write(line->stream, buf_span(answer));
    } else if (base->method != HTTP_HEAD) {
        struct blob *blob = blob_copy(buf_span(answer));
        stream_write_blob(line->stream, blob, 0, blob->size);
        blob_unref(blob);
    }
    bool close = exchange->close;
    line->exchange = NULL;
    exchange_free(exchange);
    line_answered(line, close);
}
