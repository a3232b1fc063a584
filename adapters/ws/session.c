/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's life: frames in, one by one, to the file that handles them; login; the end. */
#include "adapters/ws/session.h"

#include "adapters/http/codec.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/metrics.h"

enum { CREDENTIALS_MAX = 8192, REQUEST_LOOK_MS = 100 };

/* ---------------------------------------------------------------- members of frames */

bool ws_text(const json_t *frame, const char *member, struct span *text)
{
    const json_t *value = json_object_get(frame, member);
    *text = json_is_string(value) ? json_span(value) : (struct span){0};
    return json_is_string(value);
}

bool ws_number(const json_t *frame, const char *member, uint64_t high, uint64_t *number)
{
    const json_t *value = json_object_get(frame, member);
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > high)
        return false;
    *number = (uint64_t)json_integer_value(value);
    return true;
}

/* ---------------------------------------------------------------- the end */

void ws_end(struct ws_session *session, enum status why)
{
    struct buf text;
    if (session->state == WS_DOWN)
        return;
    buf_init(&text, 1024);
    json_put(&text, "{\"op\":\"closing\",\"code\":\"");
    json_put(&text, ws_code(why));
    json_put(&text, "\",\"text\":");
    json_put_text(&text, span_from_text(status_text(why)));
    json_put(&text, "}");
    websocket_send(session->stream, FRAME_TEXT, buf_span(&text), NULL);
    buf_deinit(&text);
    session->state = WS_DOWN;
    websocket_end(session->stream, why == STATUS_SHUTTING_DOWN ? CLOSE_GOING_AWAY
                                   : why == STATUS_MALFORMED   ? CLOSE_PROTOCOL_ERROR
                                                               : CLOSE_POLICY);
}

static void timer_fired(struct loop_timer *timer)
{
    struct ws_session *session = container_of(timer, struct ws_session, timer);
    if (session->state == WS_UP) {
        ws_requests_look(session);
        if (session->request_count > 0)
            loop_timer_start(broker_loop(session->client.worker), timer, REQUEST_LOOK_MS);
    } else {
        ws_end(session, STATUS_TIMED_OUT);
    }
}

/* ---------------------------------------------------------------- login */

static void login_done(struct request *request, enum status status)
{
    struct broker_login *login = container_of(request, struct broker_login, request);
    struct ws_session *session = container_of(login, struct ws_session, login);
    buf_deinit(&session->credentials);
    if (session->state == WS_LOGIN && status == STATUS_OK) {
        struct loop *loop = broker_loop(session->client.worker);
        session->state = WS_UP;
        loop_timer_stop(loop, &session->timer);
        websocket_set_message_max(session->stream, LIMIT_WEBSOCKET_MESSAGE);
        ws_ok(session, session->connect_id);
        stream_resume(session->stream);
    } else if (session->state == WS_LOGIN) {
        ws_error(session, session->connect_id, status, NULL);
        ws_end(session, status);
    }
    connection_release(session);
}

static struct span keep(struct buf *to, struct span text)
{
    size_t at = to->size;
    return buf_append(to, text.data, text.size) == STATUS_OK ? span_of(to->data + at, text.size)
                                                             : (struct span){0};
}

/* Credentials of the frame, else of the handshake. A token stands as the password. */
static void connect(struct ws_session *session, json_t *frame, uint64_t id)
{
    struct span user, password, client_id, authorization;
    bool named = ws_text(frame, "user", &user), token = ws_text(frame, "token", &password);
    if (!token)
        ws_text(frame, "password", &password);
    ws_text(frame, "client_id", &client_id);
    authorization = websocket_authorization(session->stream);
    session->connect_id = id;
    session->state = WS_LOGIN;
    buf_init(&session->credentials, CREDENTIALS_MAX);
    /* Room for all at once, so that nothing moves. */
    bool fits = buf_reserve(&session->credentials, user.size + password.size + client_id.size +
                                                       authorization.size) == STATUS_OK;
    struct broker_login *login = &session->login;
    *login = (struct broker_login){.client = &session->client};
    if (fits) {
        login->client_id = keep(&session->credentials, client_id);
        login->user = keep(&session->credentials, user);
        login->password = keep(&session->credentials, password);
    }
    if (fits && !named && !token && authorization.size > 0)
        http_authorization(authorization, &session->credentials, &login->user, &login->password);
    login->certificate_subject = stream_certificate_subject(session->stream);
    request_init(&login->request, broker_loop(session->client.worker), login_done);
    connection_hold(session);
    stream_pause(session->stream); /* what follows waits for the answer */
    broker_login(login);
}

/* ---------------------------------------------------------------- frames */

static void ping(struct ws_session *session, json_t *frame, uint64_t id)
{
    (void)frame;
    ws_ok(session, id);
}

static void publish(struct ws_session *session, json_t *frame, uint64_t id)
{
    ws_publish(session, frame, id, NULL);
}

static void request(struct ws_session *session, json_t *frame, uint64_t id)
{
    ws_request(session, frame, id, NULL);
}

static void ack(struct ws_session *session, json_t *frame, uint64_t id)
{
    ws_settle(session, frame, id, WS_ACK);
}

static void nack(struct ws_session *session, json_t *frame, uint64_t id)
{
    ws_settle(session, frame, id, WS_NACK);
}

static void reject(struct ws_session *session, json_t *frame, uint64_t id)
{
    ws_settle(session, frame, id, WS_REJECT);
}

static void extend(struct ws_session *session, json_t *frame, uint64_t id)
{
    ws_settle(session, frame, id, WS_EXTEND);
}

static const struct {
    const char *name;
    void (*handle)(struct ws_session *session, json_t *frame, uint64_t id);
    bool has_body;
} ops[] = {
    {"ack", ack, false},
    {"publish", publish, true},
    {"nack", nack, false},
    {"credit", ws_credit, false},
    {"extend", extend, false},
    {"reject", reject, false},
    {"subscribe", ws_subscribe, false},
    {"unsubscribe", ws_unsubscribe, false},
    {"fetch", ws_fetch, false},
    {"request", request, true},
    {"ping", ping, false},
};

static bool read_id(const json_t *frame, uint64_t *id)
{
    const json_t *value = json_object_get(frame, "id");
    *id = WS_NO_ID;
    return value == NULL || json_is_null(value) || ws_number(frame, "id", UINT64_C(1) << 53, id);
}

static void handle(struct ws_session *session, json_t *frame)
{
    struct span op;
    uint64_t id;
    if (!json_is_object(frame) || !ws_text(frame, "op", &op) || !read_id(frame, &id)) {
        ws_error(session, WS_NO_ID, STATUS_MALFORMED,
                 "a frame is an object with op, and id from 0 to 2^53");
        ws_end(session, STATUS_MALFORMED);
        return;
    }
    if (session->state == WS_WAIT_CONNECT || span_is(op, "connect")) {
        if (session->state == WS_WAIT_CONNECT && span_is(op, "connect")) {
            connect(session, frame, id);
            return;
        }
        ws_error(session, id, STATUS_UNAUTHENTICATED, "connect comes first, and once");
        ws_end(session, STATUS_UNAUTHENTICATED);
        return;
    }
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!span_is(op, ops[i].name))
            continue;
        if (ops[i].has_body && json_is_true(json_object_get(frame, "body_frame")))
            session->incomplete = json_incref(frame);
        else
            ops[i].handle(session, frame, id);
        return;
    }
    ws_error(session, id, STATUS_UNSUPPORTED, "there is no such op");
}

/* The frame that was announced. */
static void complete(struct ws_session *session, struct span body)
{
    json_t *frame = session->incomplete;
    struct span op;
    uint64_t id;
    session->incomplete = NULL;
    ws_text(frame, "op", &op);
    read_id(frame, &id);
    if (span_is(op, "publish"))
        ws_publish(session, frame, id, &body);
    else
        ws_request(session, frame, id, &body);
    json_decref(frame);
}

static bool must_wait(struct ws_session *session)
{
    return session->fetch_count >= LIMIT_WEBSOCKET_FETCHES ||
           stream_queued(session->stream) >= LIMIT_CLIENT_OUT_BYTES ||
           !broker_may_publish(&session->client);
}

static enum status session_input(void *context, struct span message, size_t *used)
{
    struct ws_session *session = context;
    *used = message.size;
    if (session->state == WS_DOWN)
        return STATUS_OK;
    bool text = websocket_is_text(session->stream);
    if (text != (session->incomplete == NULL))
        return STATUS_MALFORMED;
    if (!text) {
        complete(session, message);
    } else {
        json_error_t error;
        json_t *frame = json_loadb((const char *)message.data, message.size,
                                   JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
        handle(session, frame);
        json_decref(frame);
    }
    if (session->state == WS_UP && must_wait(session)) {
        session->held = true;
        stream_pause(session->stream);
    }
    return STATUS_OK;
}

/* ---------------------------------------------------------------- as a client, and as an adapter
 */

void ws_go_on(struct ws_session *session)
{
    if (session->held && session->state == WS_UP && !must_wait(session)) {
        session->held = false;
        stream_resume(session->stream);
    }
}

static size_t client_queued(struct client *client)
{
    return stream_queued(ws_session_of(client)->stream);
}

static void client_resume(struct client *client)
{
    ws_go_on(ws_session_of(client));
}

static void client_end(struct client *client, enum status why)
{
    ws_end(ws_session_of(client), why);
}

static const struct client_ops client_ops = {
    .protocol = "websocket",
    .answered = ws_answered,
    .delayed = ws_delayed,
    .queued = client_queued,
    .resume = client_resume,
    .end = client_end,
};

static enum status session_open(void *context, struct stream *stream, struct broker_worker *worker)
{
    struct ws_session *session = context;
    client_init(&session->client, worker, &client_ops);
    client_set_peer(&session->client, stream_peer(stream));
    session->stream = stream;
    list_init(&session->subs);
    list_init(&session->requests);
    list_init(&session->settlements);
    session->timer.fired = timer_fired;
    websocket_set_message_max(stream, WS_UNKNOWN_MESSAGE_MAX);
    loop_timer_start(broker_loop(worker), &session->timer, LIMIT_CONNECT_MS);
    session->connections =
        metric_gauge("connections", "Open connections.", "protocol=\"polylog.v1\"");
    metric_add(session->connections, 1);
    return STATUS_OK;
}

static void session_drained(void *context)
{
    struct ws_session *session = context;
    if (session->state == WS_UP)
        ws_subs_drained(session);
    ws_go_on(session);
}

static void session_refuse(void *context, enum status why)
{
    ws_end(context, why);
}

static void session_close(void *context)
{
    struct ws_session *session = context;
    session->state = WS_DOWN;
    loop_timer_stop(broker_loop(session->client.worker), &session->timer);
    json_decref(session->incomplete);
    session->incomplete = NULL;
    ws_requests_close(session);
    ws_subs_close(session);
    ws_settlements_close(session, NULL);
    client_close(&session->client);
    metric_add(session->connections, -1);
}

const struct adapter ws_adapter = {
    .name = "polylog.v1",
    .session_size = sizeof(struct ws_session),
    .open = session_open,
    .input = session_input,
    .drained = session_drained,
    .refuse = session_refuse,
    .close = session_close,
};
