/* SPDX-License-Identifier: Apache-2.0 */
/* One worker's libwebsockets context on the worker's libuv loop: accepted sockets go in, lws's
 * events come out and drive the exchanges.
 *
 * What lws 4.1 leaves to its user, and is seen to here:
 *  - while a request waits for its answer, bytes that follow it (or the end of the stream) make lws
 * spin: reading is stopped, and a timer asks the kernel whether the peer is still there;
 *  - a body without a length never ends: see read_framing();
 *  - lws logs debugging lines as errors: they go to TRACE_DEBUG. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include "adapters/http/server.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/trace.h"

enum {
    WATCH_MS = 1000,
    CLOSE_TICK_MS = 20,
    IDLE_S = 75, /* above the longest long poll: streams share their connection's timeout */
    READ_BYTES = 65536
};

/* ---------------------------------------------------------------- lines */

static struct line *line_new(struct http *http, struct lws *wsi, struct line *network)
{
    struct line *line = heap_new(sizeof *line);
    line->http = http;
    line->wsi = wsi;
    line->network = network != NULL ? network : line;
    line->refs = 1;
    if (network != NULL)
        network->refs++;
    list_push(&http->lines, &line->link);
    return line;
}

static void line_unref(struct line *line)
{
    if (--line->refs > 0)
        return;
    if (!line_is_stream(line) && line->connection.closed != NULL)
        line->connection.closed(line->connection.state);
    heap_free(line);
}

static void line_kill(struct line *line)
{
    if (line->doomed || line->wsi == NULL)
        return;
    line->doomed = true;
    lws_set_timeout(line->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
}

static bool line_is_idle(const struct line *line)
{
    return !line_is_stream(line) && line->exchange == NULL && line->refs == 1;
}

/* The line of a wsi; a stream gets its own with its first event. NULL: lws's own internals. */
static struct line *line_of(struct lws *wsi)
{
    struct line *line = lws_get_opaque_user_data(wsi);
    if (line != NULL && line->wsi == wsi)
        return line;
    struct lws *network_wsi = lws_get_network_wsi(wsi);
    struct line *network = network_wsi == wsi ? NULL : lws_get_opaque_user_data(network_wsi);
    if (network == NULL)
        return NULL;
    line = line_new(network->http, wsi, network);
    lws_set_opaque_user_data(wsi, line);
    return line;
}

static void drop_exchange(struct line *line)
{
    struct exchange *exchange = line->exchange;
    if (exchange == NULL)
        return;
    line->exchange = NULL;
    if (exchange->state == EXCHANGE_HANDLING && exchange->base.canceled != NULL)
        exchange->base.canceled(&exchange->base);
    exchange_free(exchange);
}

static void line_gone(struct lws *wsi)
{
    struct line *line = lws_get_opaque_user_data(wsi);
    if (line == NULL || line->wsi != wsi)
        return;
    struct line *network = line->network;
    drop_exchange(line);
    lws_set_opaque_user_data(wsi, NULL);
    line->wsi = NULL;
    link_remove(&line->link);
    if (network == line) {
        metric_add(line->http->connections, -1);
    } else {
        if (network->http->shutting_down && network->refs == 2)
            line_kill(network);
        line_unref(network);
    }
    line_unref(line);
}

int line_complete(struct line *line)
{
    struct exchange *exchange = line->exchange;
    bool close = exchange->close && !line_is_stream(line);
    bool flow_stopped = exchange->flow_stopped;
    line->exchange = NULL;
    exchange_free(exchange);
    if (close)
        return -1;
    if (flow_stopped)
        lws_rx_flow_control(line->wsi, 1);
    return lws_http_transaction_completed(line->wsi) != 0 ? -1 : 0;
}

/* ---------------------------------------------------------------- watching */

static void watch(struct http *http, struct exchange *exchange)
{
    if (!link_is_linked(&exchange->link))
        list_push(&http->watched, &exchange->link);
    if (!loop_timer_is_running(&http->watch_timer))
        loop_timer_start(http->loop, &http->watch_timer, WATCH_MS);
}

static bool peer_is_there(struct lws *wsi)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    if (getsockopt(lws_get_socket_fd(wsi), IPPROTO_TCP, TCP_INFO, &info, &size) != 0)
        return true;
    return info.tcpi_state == TCP_ESTABLISHED;
}

static void watch_fired(struct loop_timer *timer)
{
    struct http *http = container_of(timer, struct http, watch_timer);
    uint64_t now_ms = loop_now_ms(http->loop);
    list_each_safe(cursor, following, &http->watched)
    {
        struct exchange *exchange = container_of(cursor, struct exchange, link);
        if (exchange->state == EXCHANGE_READING && now_ms > exchange->deadline_ms) {
            metric_add(http->timed_out, 1);
            line_kill(exchange->line);
        } else if (exchange->flow_stopped && !peer_is_there(exchange->line->wsi)) {
            line_kill(exchange->line);
        }
    }
    if (!list_is_empty(&http->watched))
        loop_timer_start(http->loop, &http->watch_timer, WATCH_MS);
}

/* ---------------------------------------------------------------- events */

/* After the handler has run inside an event: sends its answer, or waits for it. */
static int settle(struct line *line)
{
    struct exchange *exchange = line->exchange;
    if (exchange->state == EXCHANGE_ANSWERED)
        return exchange_send(exchange);
    lws_set_timeout(line->wsi, NO_PENDING_TIMEOUT, 0);
    if (!line_is_stream(line)) {
        exchange->flow_stopped = true;
        lws_rx_flow_control(line->wsi, 0);
    }
    watch(line->http, exchange);
    return 0;
}

static int refuse(struct line *line, unsigned code)
{
    line->exchange->close = true;
    exchange_refuse(line->exchange, code);
    return exchange_send(line->exchange);
}

static int invite_body(struct line *line)
{
    static const char invitation[] = "HTTP/1.1 100 Continue\r\n\r\n";
    uint8_t memory[LWS_PRE + sizeof invitation];
    if (line_is_stream(line) || lws_hdr_total_length(line->wsi, WSI_TOKEN_HTTP_EXPECT) <= 0)
        return 0;
    memcpy(memory + LWS_PRE, invitation, sizeof invitation - 1);
    return lws_write(line->wsi, memory + LWS_PRE, sizeof invitation - 1, LWS_WRITE_HTTP) < 0 ? -1
                                                                                             : 0;
}

static int head_came(struct line *line, struct span path)
{
    if (line->exchange != NULL)
        return -1;
    struct exchange *exchange = line->exchange = exchange_new(line);
    unsigned code = exchange_read_head(exchange, path);
    if (code != 0)
        return refuse(line, code);
    if (exchange->body_kind == BODY_SIZED || exchange->body_kind == BODY_CHUNKED) {
        watch(line->http, exchange);
        return invite_body(line);
    }
    exchange_handle(exchange);
    return settle(line);
}

static int body_came(struct line *line, struct span bytes)
{
    struct exchange *exchange = line->exchange;
    if (exchange == NULL || exchange->state != EXCHANGE_READING)
        return 0;
    unsigned code = exchange_read_body(exchange, bytes);
    if (code != 0)
        return refuse(line, code);
    if (exchange->body_kind != BODY_CHUNKED || exchange->chunks.state != CHUNK_COMPLETE)
        return 0;
    exchange_handle(exchange);
    return settle(line);
}

/* lws says so again when more bytes come before the answer. */
static int body_ended(struct line *line)
{
    struct exchange *exchange = line->exchange;
    if (exchange == NULL || exchange->state != EXCHANGE_READING ||
        exchange->body_kind != BODY_SIZED)
        return 0;
    exchange_handle(exchange);
    return settle(line);
}

static int writable(struct line *line)
{
    struct exchange *exchange = line->exchange;
    if (exchange == NULL || exchange->state != EXCHANGE_SENDING || !line_is_stream(line))
        return 0;
    return exchange_send(exchange);
}

static int line_event(struct line *line, enum lws_callback_reasons reason, struct span in)
{
    line->in_event = true;
    int result = 0;
    if (reason == LWS_CALLBACK_HTTP)
        result = head_came(line, in);
    else if (reason == LWS_CALLBACK_HTTP_BODY)
        result = body_came(line, in);
    else if (reason == LWS_CALLBACK_HTTP_BODY_COMPLETION)
        result = body_ended(line);
    else
        result = writable(line);
    line->in_event = false;
    return result;
}

static int refuse_upgrade(struct lws *wsi)
{
    return lws_return_http_status(wsi, 404, NULL) != 0 ? -1 : 1;
}

static int event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                 size_t size)
{
    (void)user;
    struct line *line;
    switch ((int)reason) {
    case LWS_CALLBACK_HTTP:
    case LWS_CALLBACK_HTTP_BODY:
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
    case LWS_CALLBACK_HTTP_WRITEABLE:
        line = line_of(wsi);
        return line == NULL ? -1 : line_event(line, reason, span_of(in, size));
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        return refuse_upgrade(wsi);
    case LWS_CALLBACK_CLOSED_HTTP:
        line = lws_get_opaque_user_data(wsi);
        if (line != NULL && line->wsi == wsi)
            drop_exchange(line);
        return 0;
    case LWS_CALLBACK_WSI_DESTROY:
        line_gone(wsi);
        return 0;
    default:
        return 0;
    }
}

static const struct lws_protocols protocols[] = {
    {.name = "http", .callback = event},
    {0},
};

/* ---------------------------------------------------------------- life */

static void emit(int level, const char *line)
{
    (void)level;
    if (trace_enabled(TRACE_DEBUG))
        trace(TRACE_DEBUG, "libwebsockets: %.*s", (int)strcspn(line, "\n"), line);
}

static struct lws_vhost *make_vhost(struct http *http, bool tls)
{
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .protocols = protocols,
        .vhost_name = tls ? "polylog.tls" : "polylog",
        .keepalive_timeout = IDLE_S,
        .timeout_secs_ah_idle = LIMIT_CONNECT_MS / 1000,
    };
    if (tls) {
        info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
        info.ssl_cert_filepath = http->certificate;
        info.ssl_private_key_filepath = http->key;
        info.alpn = "h2,http/1.1";
        info.ssl_options_set = SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1;
        if (http->client_ca != NULL) {
            info.ssl_ca_filepath = http->client_ca;
            info.options |= LWS_SERVER_OPTION_REQUIRE_VALID_OPENSSL_CLIENT_CERT |
                            LWS_SERVER_OPTION_PEER_CERT_NOT_REQUIRED;
        }
    }
    return lws_create_vhost(http->context, &info);
}

static enum status make_context(struct http *http, struct err *err)
{
    void *native = loop_native(http->loop);
    struct lws_context_creation_info info = {
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .options = LWS_SERVER_OPTION_LIBUV | LWS_SERVER_OPTION_EXPLICIT_VHOSTS |
                   LWS_SERVER_OPTION_SKIP_SERVER_CANONICAL_NAME |
                   LWS_SERVER_OPTION_UV_NO_SIGSEGV_SIGFPE_SPIN,
        .foreign_loops = &native,
        .count_threads = 1,
        .max_http_header_data = HTTP_HEADER_BYTES,
        .pt_serv_buf_size = READ_BYTES,
        .timeout_secs = LIMIT_CONNECT_MS / 1000,
        .pcontext = &http->context,
    };
    if (http->certificate != NULL)
        info.options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
    lws_set_log_level(LLL_ERR | LLL_WARN, emit);
    http->context = lws_create_context(&info);
    if (http->context == NULL)
        return err_set(err, STATUS_INTERNAL,
                       "http: cannot start libwebsockets (is its libuv plugin, "
                       "libwebsockets-evlib-uv, installed?)");
    http->plain = make_vhost(http, false);
    if (http->certificate != NULL)
        http->secure = make_vhost(http, true);
    if (http->plain == NULL || (http->certificate != NULL && http->secure == NULL))
        return err_set(err, STATUS_INVALID, "http: cannot use certificate %s with key %s",
                       http->certificate == NULL ? "" : http->certificate,
                       http->key == NULL ? "" : http->key);
    return STATUS_OK;
}

static char *copy_text(const char *text)
{
    return text == NULL ? NULL : heap_text(text, strlen(text));
}

static void http_free(struct http *http)
{
    router_deinit(&http->router);
    heap_free(http->certificate);
    heap_free(http->key);
    heap_free(http->client_ca);
    heap_free(http->origins);
    heap_free(http);
}

struct http *http_open(struct broker_worker *worker, const struct http_options *options,
                       struct err *err)
{
    struct http *http = heap_new(sizeof *http);
    http->worker = worker;
    http->loop = broker_loop(worker);
    http->certificate = copy_text(options->certificate);
    http->key = copy_text(options->key);
    http->client_ca = copy_text(options->client_ca);
    http->origins = copy_text(options->origins);
    http->watch_timer.fired = watch_fired;
    list_init(&http->lines);
    list_init(&http->watched);
    http->connections = metric_gauge("connections", "Open connections.", "protocol=\"http\"");
    http->timed_out = metric_counter("refused_total", "What was refused.",
                                     "protocol=\"http\",reason=\"timeout\"");
    if (make_context(http, err) != STATUS_OK) {
        if (http->context != NULL)
            lws_context_destroy(http->context);
        http_free(http);
        return NULL;
    }
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

void http_accept(struct http *http, int socket, bool tls)
{
    CHECK(loop_is_home(http->loop));
    struct lws_vhost *vhost = tls ? http->secure : http->plain;
    if (http->shutting_down || vhost == NULL) {
        close(socket);
        return;
    }
    struct line *line = line_new(http, NULL, NULL);
    struct lws_adopt_desc adopt = {
        .vh = vhost,
        .type = LWS_ADOPT_HTTP | LWS_ADOPT_SOCKET | LWS_ADOPT_ALLOW_SSL,
        .fd = {.sockfd = socket},
    };
    struct lws *wsi = lws_adopt_descriptor_vhost_via_info(&adopt);
    if (wsi == NULL) {
        link_remove(&line->link);
        line_unref(line);
        return;
    }
    line->wsi = wsi;
    lws_set_opaque_user_data(wsi, line);
    metric_add(http->connections, 1);
}

/* Tries the files on a context of their own first: lws would leave half of a broken pair in the one
 * in use. */
static enum status try_certificate(const struct http *http, struct err *err)
{
    SSL_CTX *trial = SSL_CTX_new(TLS_server_method());
    CHECK(trial != NULL);
    bool good = SSL_CTX_use_certificate_chain_file(trial, http->certificate) == 1 &&
                SSL_CTX_use_PrivateKey_file(trial, http->key, SSL_FILETYPE_PEM) == 1 &&
                SSL_CTX_check_private_key(trial) == 1;
    SSL_CTX_free(trial);
    return good ? STATUS_OK
                : err_set(err, STATUS_INVALID, "http: cannot use certificate %s with key %s",
                          http->certificate, http->key);
}

enum status http_reload(struct http *http, struct err *err)
{
    CHECK(loop_is_home(http->loop));
    if (http->secure == NULL)
        return STATUS_OK;
    enum status status = try_certificate(http, err);
    if (status != STATUS_OK)
        return status;
    if (lws_tls_cert_updated(http->context, http->certificate, http->key, NULL, 0, NULL, 0) != 0)
        return err_set(err, STATUS_INVALID, "http: cannot load certificate %s", http->certificate);
    return STATUS_OK;
}

void http_shut_down(struct http *http)
{
    CHECK(loop_is_home(http->loop));
    http->shutting_down = true;
    list_each(cursor, &http->lines)
    {
        struct line *line = container_of(cursor, struct line, link);
        if (line_is_idle(line))
            line_kill(line);
    }
}

/* lws closes its handles over several turns of a foreign loop and does not say when it is through:
 * it is when no wsi has been left for two ticks, and then wants its destructor called again. */
static void close_ticked(struct loop_timer *timer)
{
    struct http *http = container_of(timer, struct http, close_timer);
    http->quiet_ticks = list_is_empty(&http->lines) ? http->quiet_ticks + 1 : 0;
    if (http->quiet_ticks < 2) {
        loop_timer_start(http->loop, timer, CLOSE_TICK_MS);
        return;
    }
    if (http->context != NULL)
        lws_context_destroy(http->context);
    struct request *request = http->closing;
    http_free(http);
    request_complete(request, STATUS_OK);
}

void http_close(struct http *http, struct request *request)
{
    CHECK(loop_is_home(http->loop) && http->closing == NULL);
    http->shutting_down = true;
    http->closing = request;
    list_each(cursor, &http->lines) drop_exchange(container_of(cursor, struct line, link));
    loop_timer_stop(http->loop, &http->watch_timer);
    lws_context_destroy(http->context);
    http->close_timer.fired = close_ticked;
    loop_timer_start(http->loop, &http->close_timer, CLOSE_TICK_MS);
}
