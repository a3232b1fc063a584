/* SPDX-License-Identifier: Apache-2.0 */
/* The handshake of WebSocket (RFC 6455, section 4): a GET that becomes a connection of frames. */
#include <openssl/evp.h>
#include <stdio.h>

#include "adapters/http/socket.h"
#include "core/base/check.h"
#include "core/base/limits.h"

enum { ACCEPT_BYTES = 20, ACCEPT_TEXT = 32, ANSWER_MAX = 512 };

/* The base64 of SHA-1 of the key and a constant. */
static void accept_of(struct span key, char to[ACCEPT_TEXT])
{
    static const char constant[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[64];
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned size;
    int length =
        snprintf(text, sizeof text, "%.*s%s", (int)key.size, (const char *)key.data, constant);
    CHECK(EVP_Digest(text, (size_t)length, digest, &size, EVP_sha1(), NULL) == 1);
    CHECK(size == ACCEPT_BYTES);
    EVP_EncodeBlock((uint8_t *)to, digest, ACCEPT_BYTES);
}

/* The first one that the client names and we have. */
static const struct websocket_protocol *choose(const struct http *http,
                                               const struct http_lists *lists)
{
    for (uint32_t i = 0; i < lists->count; i++) {
        struct span list = lists->items[i], name;
        while (list_next(&list, &name))
            for (size_t j = 0; j < http->protocol_count; j++)
                if (span_is(name, http->protocols[j].name))
                    return &http->protocols[j];
    }
    return NULL;
}

static void negotiate(const struct http_lists *lists, struct deflate_terms *terms)
{
    *terms = (struct deflate_terms){0};
    for (uint32_t i = 0; i < lists->count && !terms->agreed; i++)
        deflate_negotiate(lists->items[i], terms);
}

static size_t write_answer(const struct http_head *head, const char *protocol,
                           const struct deflate_terms *terms, char to[ANSWER_MAX])
{
    char accept[ACCEPT_TEXT], window[40] = "";
    accept_of(head->websocket_key, accept);
    if (terms->say_server_window)
        snprintf(window, sizeof window, "; server_max_window_bits=%u",
                 (unsigned)terms->server_window_bits);
    int size = snprintf(to, ANSWER_MAX,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s%s%s%s%s%s\r\n",
                        accept, protocol != NULL ? "Sec-WebSocket-Protocol: " : "",
                        protocol != NULL ? protocol : "", protocol != NULL ? "\r\n" : "",
                        terms->agreed ? "Sec-WebSocket-Extensions: permessage-deflate; "
                                        "server_no_context_takeover; client_no_context_takeover"
                                      : "",
                        window, terms->agreed ? "\r\n" : "");
    CHECK(size > 0 && size < ANSWER_MAX);
    return (size_t)size;
}

/* A page of a foreign origin must not use credentials that the browser adds by itself. */
static bool borrows_credentials(const struct http_exchange *exchange)
{
    const struct http_head *head = &exchange->head;
    return head->authorization.size > 0 && head->origin.size > 0 &&
           !http_origin_is_own(head->origin, head->host) &&
           !(exchange->http->origins != NULL &&
             http_origin_is_listed(head->origin, span_from_text(exchange->http->origins)));
}

/* 0, or the code to refuse with. */
static unsigned look(struct http_exchange *exchange)
{
    const struct http_head *head = &exchange->head;
    if (!head->upgrades || !head->websocket) {
        http_header(exchange, "Upgrade", "websocket");
        return 426;
    }
    if (!span_is(head->websocket_version, "13")) {
        http_header(exchange, "Sec-WebSocket-Version", "13");
        return 426;
    }
    if (exchange->method != HTTP_GET || head->old || exchange->body.size > 0 ||
        !websocket_key_is_valid(head->websocket_key))
        return 400;
    if (borrows_credentials(exchange))
        return 403;
    return exchange->http->shutting_down ? 503 : 0;
}

static void start(struct http_exchange *exchange, struct stream *stream,
                  const struct websocket_protocol *protocol, const struct deflate_terms *terms)
{
    const struct http_head *head = &exchange->head;
    struct buf bearer;
    buf_init(&bearer, LIMIT_HTTP_HEAD);
    if (head->authorization.size == 0 && head->auth_token.size > 0 &&
        (buf_append_text(&bearer, "Bearer ") != STATUS_OK ||
         buf_append(&bearer, head->auth_token.data, head->auth_token.size) != STATUS_OK))
        buf_clear(&bearer);
    websocket_start(exchange->http, stream, protocol, terms,
                    bearer.size > 0 ? buf_span(&bearer) : head->authorization);
    buf_deinit(&bearer);
}

static void upgrade(struct http_exchange *exchange, const struct websocket_protocol *protocol,
                    const char *name)
{
    struct deflate_terms terms = {0};
    char answer[ANSWER_MAX];
    /* Behind a byte stream nothing is compressed: its packets are small, and its clients count
     * cycles. */
    if (protocol->messages)
        negotiate(&exchange->head.extensions, &terms);
    size_t size = write_answer(&exchange->head, name, &terms, answer);
    struct exchange *own = exchange_of(exchange);
    struct stream *stream = own->line->stream;
    stream_write(stream, span_of(answer, size));
    start(exchange, stream, protocol, &terms);
    line_hand_over(own);
}

static void handle_websocket(struct http_exchange *exchange)
{
    unsigned code = look(exchange);
    const struct websocket_protocol *protocol = choose(exchange->http, &exchange->head.protocols);
    if (code == 0 && protocol == NULL)
        code = 400;
    if (code != 0)
        exchange_refuse(exchange_of(exchange), code);
    else
        upgrade(exchange, protocol, protocol->name);
}

/* What names a host and no path (of JMS clients: amqpws://host:8080) asks for this one. */
static void handle_root(struct http_exchange *exchange)
{
    if (exchange->head.upgrades)
        handle_websocket(exchange);
    else
        exchange_refuse(exchange_of(exchange), 404);
}

static void handle_echo(struct http_exchange *exchange)
{
    static const struct websocket_protocol echo = {"echo", &echo_adapter, .messages = true};
    unsigned code = look(exchange);
    if (code != 0)
        exchange_refuse(exchange_of(exchange), code);
    else
        upgrade(exchange, &echo, NULL);
}

void http_serve_websockets(struct http *http, const struct websocket_protocol *protocols,
                           size_t count)
{
    static const struct http_route routes[] = {
        {HTTP_GET, "/ws", handle_websocket},
        {HTTP_GET, "/mqtt", handle_websocket},
        {HTTP_GET, "/amqp", handle_websocket},
        {HTTP_GET, "/", handle_root},
    };
    http->protocols = protocols;
    http->protocol_count = count;
    http_serve(http, routes, sizeof routes / sizeof *routes, NULL);
}

void http_serve_echo(struct http *http)
{
    static const struct http_route route = {HTTP_GET, "/echo", handle_echo};
    http_serve(http, &route, 1, NULL);
}
