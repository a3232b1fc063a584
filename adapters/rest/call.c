/* SPDX-License-Identifier: Apache-2.0 */
/* Calls: login, life, refusals, and what all of them read from their request. */
#include "adapters/rest/call.h"

#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

#include "adapters/http/codec.h"
#include "adapters/rest/produce.h"
#include "core/base/check.h"
#include "core/base/heap.h"

enum {
    ARENA_BYTES = 2 * LIMIT_HTTP_BODY + 1024 * 1024,
    CREDENTIAL_BYTES = 4096,
    VALUES_MAX = 256 * 1024
};

/* ---------------------------------------------------------------- sessions */

/* The client of one connection. It stays as long as the connection presents the same credentials
 * and the catalog is the same, so that most requests do not log in; a call in flight keeps it alive
 * beyond the connection. */
struct session {
    struct client client;
    unsigned refs;
    bool logged_in, ended;
    uint64_t generation;
    struct span authorization, auth_token; /* copies */
    struct http_connection *connection;    /* NULL: has gone, or has another session */
};

static struct span keep(struct span text)
{
    return text.size == 0 ? text
                          : span_of(heap_text((const char *)text.data, text.size), text.size);
}

static void forget(struct span text)
{
    if (text.size == 0)
        return;
    explicit_bzero((void *)(uintptr_t)text.data, text.size);
    heap_free((void *)(uintptr_t)text.data);
}

static void session_unref(struct session *session)
{
    if (session == NULL || --session->refs > 0)
        return;
    client_close(&session->client);
    forget(session->authorization);
    forget(session->auth_token);
    heap_free(session);
}

static void connection_closed(void *state)
{
    struct session *session = state;
    session->connection = NULL;
    client_set_peer(&session->client, NULL);
    session_unref(session);
}

/* Rights are looked at again with the next request; an operator means the connection itself. */
static void session_end(struct client *client, enum status why)
{
    struct session *session = container_of(client, struct session, client);
    session->ended = true;
    if (why == STATUS_CANCELED && session->connection != NULL)
        http_end(session->connection);
}

static void session_resume(struct client *client)
{
    (void)client;
}

static const struct client_ops session_ops = {
    .protocol = "rest",
    .answered = produce_answered,
    .delayed = produce_delayed,
    .resume = session_resume,
    .end = session_end,
};

static struct session *session_new(struct rest *rest, struct http_exchange *exchange)
{
    struct session *session = heap_new(sizeof *session);
    session->refs = 1;
    session->authorization = keep(exchange->head.authorization);
    session->auth_token = keep(exchange->head.auth_token);
    client_init(&session->client, rest->worker, &session_ops);
    client_set_peer(&session->client, exchange->connection->peer);
    session->connection = exchange->connection;
    if (exchange->connection->state != NULL)
        connection_closed(exchange->connection->state); /* the one before acts for it no more */
    exchange->connection->state = session;
    exchange->connection->closed = connection_closed;
    return session;
}

static bool session_is_current(const struct session *session, const struct call *call)
{
    return session != NULL && session->logged_in && !session->ended &&
           session->generation == catalog_generation(call_catalog(call)) &&
           span_equal(session->authorization, call->exchange->head.authorization) &&
           span_equal(session->auth_token, call->exchange->head.auth_token);
}

/* ---------------------------------------------------------------- life */

static void exchange_canceled(struct http_exchange *exchange)
{
    struct call *call = exchange->state;
    call->exchange = NULL;
    if (call->kind->canceled != NULL)
        call->kind->canceled(call);
    call_release(call);
}

void call_hold(struct call *call)
{
    call->refs++;
}

void call_release(struct call *call)
{
    if (--call->refs > 0)
        return;
    if (call->kind->deinit != NULL)
        call->kind->deinit(call);
    json_decref(call->body);
    arena_deinit(&call->arena);
    buf_deinit(&call->credentials);
    session_unref(call->session);
    heap_free(call);
}

static void attach(struct call *call, struct session *session)
{
    session->refs++;
    call->session = session;
    call->client = &session->client;
}

static void ask_for_credentials(struct call *call)
{
    http_header(call->exchange, "WWW-Authenticate",
                "Basic realm=\"polylog\", charset=\"UTF-8\", Bearer realm=\"polylog\"");
}

static void refuse_login(struct call *call, enum status status)
{
    if (status != STATUS_UNAUTHENTICATED) {
        call_refuse_status(call, status, NULL);
        return;
    }
    ask_for_credentials(call);
    bool given =
        call->exchange->head.authorization.size > 0 || call->exchange->head.auth_token.size > 0;
    call_refuse(call, 401, given ? 10240101 : 10240103,
                given ? "The credentials are not valid." : "Credentials are missing.");
}

static void login_done(struct request *request, enum status status)
{
    struct broker_login *login = container_of(request, struct broker_login, request);
    struct call *call = container_of(login, struct call, login);
    if (call->credentials.data != NULL)
        explicit_bzero(call->credentials.data, call->credentials.size);
    if (status == STATUS_OK) {
        call->session->logged_in = true;
        call->session->generation = catalog_generation(call_catalog(call));
    }
    if (call->exchange == NULL)
        ;
    else if (status == STATUS_OK)
        call->kind->run(call);
    else
        refuse_login(call, status);
    call_release(call);
}

static void log_in(struct call *call)
{
    struct http_exchange *exchange = call->exchange;
    struct broker_login *login = &call->login;
    struct span user = {0}, password = {0};
    attach(call, session_new(call->rest, exchange));
    if (!catalog_is_protected(call_catalog(call))) {
        bool given = exchange->head.authorization.size > 0 || exchange->head.auth_token.size > 0;
        enum status status =
            http_credentials(&exchange->head, &call->credentials, &user, &password);
        if (status != STATUS_OK || (given && user.size + password.size == 0)) {
            refuse_login(call, STATUS_UNAUTHENTICATED);
            return;
        }
    }
    *login = (struct broker_login){
        .client = call->client,
        .user = user,
        .password = password,
        .certificate_subject = exchange->connection->certificate_subject,
    };
    request_init(&login->request, call_loop(call), login_done);
    call_hold(call);
    broker_login(login);
}

void call_start(struct http_exchange *exchange, const struct call_kind *kind)
{
    struct call *call = heap_new(kind->size);
    call->kind = kind;
    call->rest = exchange->context;
    call->exchange = exchange;
    call->refs = 2;
    arena_init(&call->arena, ARENA_BYTES);
    buf_init(&call->credentials, CREDENTIAL_BYTES);
    exchange->state = call;
    exchange->canceled = exchange_canceled;
    struct session *session = exchange->connection->state;
    if (session_is_current(session, call)) {
        attach(call, session);
        kind->run(call);
    } else {
        log_in(call);
    }
    call_release(call);
}

/* ---------------------------------------------------------------- answers */

void refusal_write(struct buf *to, unsigned code, const char *text)
{
    json_put(to, "{\"code\":");
    json_put_number(to, code);
    json_put(to, ",\"message\":");
    json_put_text(to, span_from_text(text));
    json_put(to, ",\"error_code\":\"DMS.");
    json_put_number(to, code);
    json_put(to, "\",\"error_msg\":");
    json_put_text(to, span_from_text(text));
    json_put(to, "}");
}

void call_answer_as(struct call *call, unsigned http, const char *content_type)
{
    struct http_exchange *exchange = call->exchange;
    if (exchange == NULL)
        return;
    if (exchange->answer.size >= exchange->answer.limit - 1024) {
        call_refuse(call, 500, 10250003, "The answer is too large; ask for less.");
        return;
    }
    call->exchange = NULL;
    http_answer(exchange, http, content_type);
    call_release(call);
}

void call_answer(struct call *call, unsigned http)
{
    call_answer_as(call, http, "application/json");
}

void call_refuse(struct call *call, unsigned http, unsigned code, const char *format, ...)
{
    char text[512];
    if (call->exchange == NULL)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    buf_clear(call_out(call));
    refusal_write(call_out(call), code, text);
    if (http == 429 || http == 503)
        http_header(call->exchange, "Retry-After", "1");
    call_answer(call, http);
}

static const struct refusal {
    unsigned http, code;
} refusals[STATUS_COUNT] = {
    [STATUS_CANCELED] = {503, 10250004},        [STATUS_TIMED_OUT] = {503, 10250004},
    [STATUS_CLOSED] = {503, 10250004},          [STATUS_NO_MEMORY] = {503, 10250005},
    [STATUS_TOO_LARGE] = {400, 10540011},       [STATUS_MALFORMED] = {400, 10540012},
    [STATUS_INVALID] = {400, 10540010},         [STATUS_UNSUPPORTED] = {400, 10540010},
    [STATUS_NOT_FOUND] = {404, 10240401},       [STATUS_EXISTS] = {400, 10240017},
    [STATUS_UNAUTHENTICATED] = {401, 10240101}, [STATUS_DENIED] = {403, 10240309},
    [STATUS_OVER_QUOTA] = {429, 10240407},      [STATUS_BUSY] = {429, 10240407},
    [STATUS_STALE] = {400, 10542209},           [STATUS_OUT_OF_RANGE] = {400, 10540014},
    [STATUS_CORRUPT] = {500, 10250002},         [STATUS_STORAGE_FAILED] = {503, 10250002},
    [STATUS_NO_SPACE] = {503, 10250002},        [STATUS_SHUTTING_DOWN] = {503, 10250006},
    [STATUS_INTERNAL] = {500, 10250002},
};

void call_refuse_status(struct call *call, enum status status, const char *text)
{
    const struct refusal *refusal = &refusals[status == STATUS_OK ? STATUS_INTERNAL : status];
    if (status == STATUS_UNAUTHENTICATED && call->exchange != NULL)
        ask_for_credentials(call);
    call_refuse(call, refusal->http, refusal->code, "%s",
                text != NULL ? text : status_text(status));
}

/* ---------------------------------------------------------------- requests */

/* A value of two bytes takes a hundred when it is parsed, so that a large body may not have too
 * many. */
static bool has_few_values(struct span body)
{
    size_t count = 0;
    bool in_text = false;
    if (body.size <= VALUES_MAX)
        return true;
    for (size_t i = 0; i < body.size; i++) {
        uint8_t c = body.data[i];
        if (in_text && c == '\\')
            i++;
        else if (c == '"')
            in_text = !in_text;
        else if (!in_text)
            count += c == ',' || c == '[' || c == '{';
    }
    return count <= VALUES_MAX;
}

bool call_read_object(struct call *call, unsigned code)
{
    json_error_t error;
    struct span body = call->exchange->body;
    if (!has_few_values(body)) {
        call_refuse(call, 400, code, "The body has more than %d values.", VALUES_MAX);
        return false;
    }
    call->body = json_loadb((const char *)body.data, body.size, JSON_ALLOW_NUL, &error);
    if (call->body == NULL) {
        call_refuse(call, 400, code, "The body is not JSON: %s (line %d).", error.text, error.line);
        return false;
    }
    if (!json_is_object(call->body)) {
        call_refuse(call, 400, code, "The body is not a JSON object.");
        return false;
    }
    return true;
}

bool call_check_project(struct call *call)
{
    if (span_is(call_parameter(call, 0), "default"))
        return true;
    call_refuse(call, 401, 10240104,
                "The project is not that of the credentials; here it is \"default\".");
    return false;
}

/* 8-4-4-4-12 hexadecimal digits. */
static bool is_uuid(struct span text)
{
    if (text.size != 36)
        return false;
    for (size_t i = 0; i < 36; i++) {
        uint8_t c = text.data[i];
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (dash ? c != '-' : !digit)
            return false;
    }
    return true;
}

const struct queue *call_queue(struct call *call, unsigned index)
{
    struct span text = call_parameter(call, index);
    const struct queue *queue =
        catalog_queue_by_text(call_catalog(call), call->client->tenant, text);
    if (queue != NULL)
        return queue;
    if (is_uuid(text) || queue_name_is_valid(text, LIMIT_QUEUE_NAME))
        call_refuse(call, 404, 10240401, "There is no such queue.");
    else
        call_refuse(call, 400, 10240015, "That is not the id of a queue.");
    return NULL;
}

const struct group_spec *call_group(struct call *call, const struct queue *queue, unsigned index)
{
    struct span text = call_parameter(call, index);
    const struct group_spec *group = catalog_group_by_text(call_catalog(call), queue->id, text);
    if (group != NULL)
        return group;
    if (queue_name_is_valid(text, LIMIT_GROUP_NAME))
        call_refuse(call, 404, 10240405, "There is no such group.");
    else
        call_refuse(call, 400, 10240016, "That is not the id of a group.");
    return NULL;
}

const struct group_spec *call_queue_group(struct call *call)
{
    const struct queue *queue = call_queue(call, 1);
    return queue == NULL ? NULL : call_group(call, queue, 2);
}

bool call_check(struct call *call, enum action action, bool is_topic, struct span address)
{
    enum status status = broker_check(call->client, action, is_topic, address);
    if (status != STATUS_OK)
        call_refuse_status(call, status, NULL);
    return status == STATUS_OK;
}

bool call_query_number(struct call *call, const char *name, uint64_t low, uint64_t high,
                       uint64_t fallback, unsigned code, uint64_t *number)
{
    struct span text;
    *number = fallback;
    if (!http_query(call->exchange, name, &text) || text.size == 0)
        return true;
    if (http_number(text, number) && *number >= low && *number <= high)
        return true;
    call_refuse(call, 400, code, "%s must be a number from %llu to %llu.", name,
                (unsigned long long)low, (unsigned long long)high);
    return false;
}

bool call_query_is_true(const struct call *call, const char *name)
{
    struct span text;
    return http_query(call->exchange, name, &text) && text.size == 4 &&
           strncasecmp((const char *)text.data, "true", 4) == 0;
}
