/* SPDX-License-Identifier: Apache-2.0 */
/* One request and its answer: reads head and body out of lws, finds the route, writes the answer in
 * the words of HTTP/1.1 or HTTP/2. */
#include <strings.h>
#include <time.h>

#include "adapters/http/server.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/utf8.h"

enum {
    BODY_DEADLINE_MS = 30000,
    BODY_BYTES_PER_MS = 64, /* what a slow sender must reach on top of it */
    STREAM_CHUNK = 16 * 1024,
    HEAD_MAX = 512 + HTTP_ANSWER_HEADERS_MAX
};

static const char *const method_names[HTTP_METHODS] = {
    [HTTP_GET] = "GET",     [HTTP_HEAD] = "HEAD",     [HTTP_POST] = "POST",      [HTTP_PUT] = "PUT",
    [HTTP_PATCH] = "PATCH", [HTTP_DELETE] = "DELETE", [HTTP_OPTIONS] = "OPTIONS"};

const char *http_method_name(enum http_method method)
{
    return method_names[method];
}

struct exchange *exchange_new(struct line *line)
{
    struct exchange *exchange = heap_new(sizeof *exchange);
    exchange->line = line;
    exchange->base.http = line->http;
    exchange->base.connection = &line->network->connection;
    exchange->base.tls = lws_is_ssl(lws_get_network_wsi(line->wsi)) != 0;
    buf_init(&exchange->body, LIMIT_HTTP_BODY);
    buf_init(&exchange->base.answer, HTTP_ANSWER_MAX);
    return exchange;
}

void exchange_free(struct exchange *exchange)
{
    link_remove(&exchange->link);
    buf_deinit(&exchange->body);
    buf_deinit(&exchange->base.answer);
    heap_free(exchange->head);
    heap_free(exchange->headers);
    heap_free(exchange);
}

/* ---------------------------------------------------------------- head */

/* Copies values out of lws's header table one after another. */
struct head_cursor {
    struct lws *wsi;
    uint8_t *at, *end;
};

static struct span copy_header(struct head_cursor *cursor, enum lws_token_indexes token)
{
    int size = lws_hdr_total_length(cursor->wsi, token);
    if (size <= 0 || size + 1 > cursor->end - cursor->at)
        return (struct span){0};
    int copied = lws_hdr_copy(cursor->wsi, (char *)cursor->at, size + 1, token);
    if (copied <= 0)
        return (struct span){0};
    struct span value = span_of(cursor->at, (size_t)copied);
    cursor->at += copied + 1;
    return value;
}

static bool copy_query(struct exchange *exchange, struct head_cursor *cursor)
{
    for (int i = 0;; i++) {
        int size = lws_hdr_fragment_length(cursor->wsi, WSI_TOKEN_HTTP_URI_ARGS, i);
        if (size <= 0)
            return true;
        if (exchange->base.query_count == HTTP_QUERY_MAX || size + 1 > cursor->end - cursor->at)
            return false;
        int copied = lws_hdr_copy_fragment(cursor->wsi, (char *)cursor->at, size + 1,
                                           WSI_TOKEN_HTTP_URI_ARGS, i);
        if (copied < 0)
            return true;
        struct span pair = span_of(cursor->at, (size_t)copied);
        const uint8_t *equals = memchr(pair.data, '=', pair.size);
        size_t name = equals == NULL ? pair.size : (size_t)(equals - pair.data);
        exchange->base.query[exchange->base.query_count++] =
            (struct http_pair){span_of(pair.data, name), span_from(pair, name + 1)};
        cursor->at += copied + 1;
    }
}

/* lws counts methods in its own order. */
static bool read_method(struct exchange *exchange, struct lws *wsi)
{
    char *path;
    int path_size;
    switch (lws_http_get_uri_and_method(wsi, &path, &path_size)) {
    case LWSHUMETH_GET:
        exchange->base.method = HTTP_GET;
        return true;
    case LWSHUMETH_HEAD:
        exchange->base.method = HTTP_HEAD;
        exchange->head_only = true;
        return true;
    case LWSHUMETH_POST:
        exchange->base.method = HTTP_POST;
        return true;
    case LWSHUMETH_PUT:
        exchange->base.method = HTTP_PUT;
        return true;
    case LWSHUMETH_PATCH:
        exchange->base.method = HTTP_PATCH;
        return true;
    case LWSHUMETH_DELETE:
        exchange->base.method = HTTP_DELETE;
        return true;
    case LWSHUMETH_OPTIONS:
        exchange->base.method = HTTP_OPTIONS;
        return true;
    default:
        return false;
    }
}

/* lws would guess where the body ends when the head does not say it clearly; nothing is left to
 * guesses here. */
static unsigned read_framing(struct exchange *exchange, struct lws *wsi)
{
    bool carries = exchange->base.method == HTTP_POST || exchange->base.method == HTTP_PUT ||
                   exchange->base.method == HTTP_PATCH;
    char text[24];
    uint64_t size = 0;
    bool sized = lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) > 0;
    if (sized) {
        int copied = lws_hdr_copy(wsi, text, sizeof text, WSI_TOKEN_HTTP_CONTENT_LENGTH);
        if (copied <= 0 || !http_number(span_of(text, (size_t)copied), &size))
            return 400;
    }
    if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0) {
        int copied = lws_hdr_copy(wsi, text, sizeof text, WSI_TOKEN_HTTP_TRANSFER_ENCODING);
        if (sized || !carries || copied != 7 || strncasecmp(text, "chunked", 7) != 0)
            return 400;
        exchange->body_kind = BODY_CHUNKED;
        exchange->close = true;
    } else if (sized && size > 0) {
        exchange->body_kind = BODY_SIZED;
    } else if (!sized && carries) {
        /* No body at all in HTTP/1; lws waits for one, so the connection cannot go on. On a stream
         * of HTTP/2 lws does not tell the end of a body without a length. */
        if (line_is_stream(exchange->line))
            return 411;
        exchange->body_kind = BODY_UNREAD;
        exchange->close = true;
    }
    if (size > LIMIT_HTTP_BODY)
        return 413;
    exchange->deadline_ms =
        loop_now_ms(exchange->base.http->loop) + BODY_DEADLINE_MS +
        (exchange->body_kind == BODY_CHUNKED ? LIMIT_HTTP_BODY : size) / BODY_BYTES_PER_MS;
    return 0;
}

static void read_persistence(struct exchange *exchange, struct lws *wsi)
{
    char text[16];
    int copied = lws_hdr_copy(wsi, text, sizeof text, WSI_TOKEN_HTTP);
    exchange->old = copied != 8 || memcmp(text, "HTTP/1.1", 8) != 0;
    bool keep = !exchange->old;
    copied = lws_hdr_copy(wsi, text, sizeof text, WSI_TOKEN_CONNECTION);
    if (copied == 5 && strncasecmp(text, "close", 5) == 0)
        keep = false;
    else if (copied == 10 && strncasecmp(text, "keep-alive", 10) == 0)
        keep = true;
    if (!keep)
        exchange->close = true;
}

unsigned exchange_read_head(struct exchange *exchange, struct span path)
{
    static const enum lws_token_indexes tokens[] = {
        WSI_TOKEN_HOST,          WSI_TOKEN_HTTP_COLON_AUTHORITY, WSI_TOKEN_ORIGIN,
        WSI_TOKEN_X_AUTH_TOKEN,  WSI_TOKEN_HTTP_AUTHORIZATION,   WSI_TOKEN_HTTP_CONTENT_TYPE,
        WSI_TOKEN_HTTP_URI_ARGS,
    };
    static const char idempotency[] = "idempotency-key:";
    struct lws *wsi = exchange->line->wsi;
    struct http_exchange *base = &exchange->base;
    if (!read_method(exchange, wsi))
        return 405;
    size_t size = path.size + 2 * HTTP_QUERY_MAX;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        size += (size_t)lws_hdr_total_length(wsi, tokens[i]) + 1;
    int custom = lws_hdr_custom_length(wsi, idempotency, sizeof idempotency - 1);
    if (custom > 0)
        size += (size_t)custom + 1;
    exchange->head = heap_new(size);
    struct head_cursor cursor = {wsi, exchange->head, exchange->head + size};
    memcpy(cursor.at, path.data, path.size);
    base->path = span_of(cursor.at, path.size);
    cursor.at += path.size;
    base->host = copy_header(&cursor, WSI_TOKEN_HOST);
    if (base->host.size == 0)
        base->host = copy_header(&cursor, WSI_TOKEN_HTTP_COLON_AUTHORITY);
    base->origin = copy_header(&cursor, WSI_TOKEN_ORIGIN);
    base->auth_token = copy_header(&cursor, WSI_TOKEN_X_AUTH_TOKEN);
    base->authorization = copy_header(&cursor, WSI_TOKEN_HTTP_AUTHORIZATION);
    base->content_type = copy_header(&cursor, WSI_TOKEN_HTTP_CONTENT_TYPE);
    if (custom > 0 && lws_hdr_custom_copy(wsi, (char *)cursor.at, custom + 1, idempotency,
                                          sizeof idempotency - 1) == custom) {
        base->idempotency_key = span_of(cursor.at, (size_t)custom);
        cursor.at += custom + 1;
    }
    if (!copy_query(exchange, &cursor) || !utf8_is_valid_no_nul(base->path))
        return 400;
    if (!line_is_stream(exchange->line))
        read_persistence(exchange, wsi);
    if (base->host.size == 0 && !exchange->old && !line_is_stream(exchange->line))
        return 400;
    return read_framing(exchange, wsi);
}

unsigned exchange_read_body(struct exchange *exchange, struct span bytes)
{
    enum status status = STATUS_OK;
    if (exchange->body_kind == BODY_CHUNKED)
        status = http_chunks_feed(&exchange->chunks, bytes, &exchange->body);
    else if (exchange->body_kind == BODY_SIZED)
        status = buf_append(&exchange->body, bytes.data, bytes.size);
    if (status == STATUS_OK)
        return 0;
    return status == STATUS_TOO_LARGE ? 413 : status == STATUS_NO_MEMORY ? 503 : 400;
}

/* ---------------------------------------------------------------- handling */

/* While no principal exists, everything is allowed to whoever reaches the socket; so it must not be
 * a web page of somebody else, neither by its own name (Origin) nor by a name that it made point
 * here (Host). */
static bool is_foreign(struct exchange *exchange)
{
    const struct http *http = exchange->base.http;
    struct span origin = exchange->base.origin, host = exchange->base.host;
    bool listed = origin.size > 0 && http->origins != NULL &&
                  http_origin_is_listed(origin, span_from_text(http->origins));
    exchange->allow_origin = listed;
    if (!catalog_is_protected(broker_catalog(http->worker)))
        return false;
    if (host.size > 0 && !http_host_is_loopback(host))
        return true;
    return origin.size > 0 && !listed && !http_origin_is_own(origin, host);
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
        if (methods & 1u << i) {
            memcpy(allow + size, size > 0 ? ", " : "", size > 0 ? 2 : 0);
            size += size > 0 ? 2 : 0;
            memcpy(allow + size, method_names[i], strlen(method_names[i]));
            size += strlen(method_names[i]);
        }
    }
    allow[size] = 0;
    http_header(&exchange->base, "Allow", allow);
    exchange_refuse(exchange, 405);
}

void exchange_handle(struct exchange *exchange)
{
    struct http_exchange *base = &exchange->base;
    unsigned methods;
    exchange->state = EXCHANGE_HANDLING;
    base->body = buf_span(&exchange->body);
    if (is_foreign(exchange)) {
        exchange_refuse(exchange, 403);
        return;
    }
    if (base->method == HTTP_OPTIONS && exchange->allow_origin) {
        answer_preflight(exchange);
        return;
    }
    const struct router_entry *entry =
        router_find(&base->http->router, base->method, base->path, base->parameters, &methods);
    if (entry != NULL) {
        base->route = entry->route;
        base->context = entry->context;
        entry->route->handle(base);
    } else if (methods != 0) {
        refuse_method(exchange, methods);
    } else {
        exchange_refuse(exchange, 404);
    }
}

void exchange_refuse(struct exchange *exchange, unsigned code)
{
    exchange->state = EXCHANGE_HANDLING;
    if (exchange->base.http->refusal != NULL) {
        exchange->base.http->refusal(&exchange->base, code);
        http_answer(&exchange->base, code, "application/json");
    } else {
        http_answer(&exchange->base, code, NULL);
    }
}

bool http_query(const struct http_exchange *exchange, const char *name, struct span *value)
{
    for (uint32_t i = 0; i < exchange->query_count; i++) {
        if (span_is(exchange->query[i].name, name)) {
            *value = exchange->query[i].value;
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
    exchange->headers_size += (size_t)snprintf(exchange->headers + exchange->headers_size, more + 1,
                                               "%s: %s\r\n", name, value);
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
    case 411:
        return "Length Required";
    case 413:
        return "Content Too Large";
    case 429:
        return "Too Many Requests";
    case 500:
        return "Internal Server Error";
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

void http_answer(struct http_exchange *base, unsigned code, const char *content_type)
{
    struct exchange *exchange = exchange_of(base);
    CHECK(exchange->state == EXCHANGE_HANDLING);
    struct line *line = exchange->line;
    if (exchange->allow_origin) {
        char origin[256];
        if (base->origin.size < sizeof origin) {
            memcpy(origin, base->origin.data, base->origin.size);
            origin[base->origin.size] = 0;
            http_header(base, "Access-Control-Allow-Origin", origin);
            http_header(base, "Vary", "Origin");
        }
    }
    exchange->code = code;
    exchange->content_type = content_type;
    exchange->state = EXCHANGE_ANSWERED;
    base->canceled = NULL;
    if (base->http->shutting_down)
        exchange->close = true;
    if (line->in_event)
        return;
    if (exchange_send(exchange) != 0) {
        line->doomed = true;
        lws_set_timeout(line->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
    }
}

/* The answer of HTTP/1 leaves in one write: head and body apart cost half as much again. */
static int send_whole(struct exchange *exchange)
{
    const struct buf *answer = &exchange->base.answer;
    bool bodiless = exchange->code == 204;
    size_t body_size = exchange->head_only || bodiless ? 0 : answer->size;
    uint8_t *memory = heap_try(LWS_PRE + HEAD_MAX + body_size);
    if (memory == NULL)
        return -1;
    char *head = (char *)memory + LWS_PRE;
    size_t size = (size_t)snprintf(head, HEAD_MAX, "HTTP/1.1 %u %s\r\nDate: %s\r\n", exchange->code,
                                   reason_of(exchange->code), date_of(exchange->base.http));
    if (exchange->content_type != NULL && answer->size > 0)
        size += (size_t)snprintf(head + size, HEAD_MAX - size, "Content-Type: %s\r\n",
                                 exchange->content_type);
    if (!bodiless)
        size +=
            (size_t)snprintf(head + size, HEAD_MAX - size, "Content-Length: %zu\r\n", answer->size);
    if (exchange->close || exchange->old)
        size += (size_t)snprintf(head + size, HEAD_MAX - size, "Connection: %s\r\n",
                                 exchange->close ? "close" : "keep-alive");
    if (exchange->headers_size > 0) {
        memcpy(head + size, exchange->headers, exchange->headers_size);
        size += exchange->headers_size;
    }
    memcpy(head + size, "\r\n", 2);
    size += 2;
    if (body_size > 0)
        memcpy(head + size, answer->data, body_size);
    size += body_size;
    int written = lws_write(exchange->line->wsi, memory + LWS_PRE, size, LWS_WRITE_HTTP);
    heap_free(memory);
    return written < 0 ? -1 : 0;
}

static int send_stream_head(struct exchange *exchange)
{
    uint8_t memory[LWS_PRE + HEAD_MAX + 512];
    uint8_t *start = memory + LWS_PRE, *at = start, *end = memory + sizeof memory;
    struct lws *wsi = exchange->line->wsi;
    if (lws_add_http_header_status(wsi, exchange->code | LWSAHH_FLAG_NO_SERVER_NAME, &at, end) != 0)
        return -1;
    size_t size = exchange->base.answer.size;
    if (exchange->content_type != NULL && size > 0 &&
        lws_add_http_header_by_token(wsi, WSI_TOKEN_HTTP_CONTENT_TYPE,
                                     (const uint8_t *)exchange->content_type,
                                     (int)strlen(exchange->content_type), &at, end) != 0)
        return -1;
    if (exchange->code != 204 && lws_add_http_header_content_length(wsi, size, &at, end) != 0)
        return -1;
    char *save = NULL;
    for (char *line = exchange->headers_size > 0 ? strtok_r(exchange->headers, "\r\n", &save)
                                                 : NULL;
         line != NULL; line = strtok_r(NULL, "\r\n", &save)) {
        char *value = strstr(line, ": ") + 2;
        value[-1] = 0;
        for (char *c = line; *c != 0; c++)
            *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
        if (lws_add_http_header_by_name(wsi, (const uint8_t *)line, (const uint8_t *)value,
                                        (int)strlen(value), &at, end) != 0)
            return -1;
    }
    if (lws_finalize_http_header(wsi, &at, end) != 0)
        return -1;
    enum lws_write_protocol how = LWS_WRITE_HTTP_HEADERS;
    if (size == 0 || exchange->head_only || exchange->code == 204)
        how |= LWS_WRITE_H2_STREAM_END;
    return lws_write(wsi, start, (size_t)(at - start), how) < 0 ? -1 : 0;
}

/* A stream of HTTP/2 is written from lws's writeable event only, as far as the peer's window
 * reaches. */
static int send_stream(struct exchange *exchange)
{
    struct lws *wsi = exchange->line->wsi;
    const struct buf *answer = &exchange->base.answer;
    if (exchange->state != EXCHANGE_SENDING) {
        exchange->state = EXCHANGE_SENDING;
        return lws_callback_on_writable(wsi) < 0 ? -1 : 0;
    }
    if (!exchange->head_sent) {
        exchange->head_sent = true;
        if (send_stream_head(exchange) != 0)
            return -1;
        if (answer->size == 0 || exchange->head_only || exchange->code == 204)
            return line_complete(exchange->line);
        return lws_callback_on_writable(wsi) < 0 ? -1 : 0;
    }
    uint8_t memory[LWS_PRE + STREAM_CHUNK];
    size_t size = answer->size - exchange->sent;
    if (size > STREAM_CHUNK)
        size = STREAM_CHUNK;
    lws_fileofs_t window = lws_get_peer_write_allowance(wsi);
    if (window == 0)
        return 0;
    if (window > 0 && (uint64_t)window < size)
        size = (size_t)window;
    memcpy(memory + LWS_PRE, answer->data + exchange->sent, size);
    exchange->sent += size;
    bool last = exchange->sent == answer->size;
    if (lws_write(wsi, memory + LWS_PRE, size, last ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) < 0)
        return -1;
    if (last)
        return line_complete(exchange->line);
    return lws_callback_on_writable(wsi) < 0 ? -1 : 0;
}

int exchange_send(struct exchange *exchange)
{
    if (line_is_stream(exchange->line))
        return send_stream(exchange);
    exchange->state = EXCHANGE_SENDING;
    if (send_whole(exchange) != 0)
        return -1;
    return line_complete(exchange->line);
}
