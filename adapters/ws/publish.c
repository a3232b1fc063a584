/* SPDX-License-Identifier: Apache-2.0 */
/* Publishing, and requests: a publish with a reply address of this connection, whose answer is the
 * reply. */
#include <stdio.h>

#include "adapters/http/codec.h"
#include "adapters/ws/message.h"
#include "adapters/ws/session.h"
#include "adapters/ws/view.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/temporary.h"

enum { ARENA_MAX = 2 * LIMIT_WEBSOCKET_MESSAGE, REPLY_MS = 30000 };
#define TOKEN_REQUEST (UINT64_C(1) << 63) /* the rest is the request's number */

struct ws_request {
    struct link link;
    uint64_t number, id, deadline_ms;
};

/* Where replies to this connection come. */
struct ws_replies {
    struct broker_subscribe subscribe;
    struct subscribe_item item;
    struct ws_session *session; /* NULL once it has gone */
    struct client client;
    bool ready;
    struct list waiting; /* requests that came before it was */
    char topic[TEMPORARY_NAME];
};

/* A request that waits for the reply address. */
struct waiting {
    struct link link;
    json_t *frame;
    uint64_t id;
    struct blob *body; /* NULL: in the frame */
};

/* ---------------------------------------------------------------- answers of the broker */

static struct ws_request *request_of(struct ws_session *session, uint64_t number)
{
    list_each(link, &session->requests)
    {
        struct ws_request *request = container_of(link, struct ws_request, link);
        if (request->number == number)
            return request;
    }
    return NULL;
}

static void request_free(struct ws_session *session, struct ws_request *request)
{
    link_remove(&request->link);
    session->request_count--;
    heap_free(request);
}

static void request_refused(struct ws_session *session, uint64_t number, enum status status)
{
    struct ws_request *request = request_of(session, number);
    if (request == NULL || status == STATUS_OK)
        return;
    ws_error(session, request->id, status, NULL);
    request_free(session, request);
}

void ws_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                 uint64_t offset)
{
    struct ws_session *session = ws_session_of(client);
    if ((token & TOKEN_REQUEST) != 0) {
        request_refused(session, token & ~TOKEN_REQUEST, status);
        return;
    }
    if (status != STATUS_OK) {
        ws_error(session, token, status, NULL);
        return;
    }
    const struct queue *queue =
        catalog_queue_of_partition(broker_catalog(client->worker), partition);
    struct buf more;
    buf_init(&more, 1024);
    if (queue != NULL) {
        json_put(&more, ",\"queue\":");
        json_put_text(&more, span_from_text(queue->name));
        json_put(&more, ",\"partition\":");
        json_put_number(&more, (int64_t)(partition - queue->first_partition));
    }
    json_put(&more, session->delayed_text[0] != '\0' ? ",\"delayed\":\"" : ",\"offset\":");
    if (session->delayed_text[0] != '\0') {
        json_put(&more, session->delayed_text);
        json_put(&more, "\"");
        session->delayed_text[0] = '\0';
    } else if (offset == DEDUP_OFFSET_UNKNOWN) { /* of a duplicate of something long ago */
        json_put(&more, "null");
    } else {
        json_put_number(&more, (int64_t)offset);
    }
    ws_ok_with(session, token, buf_span(&more));
    buf_deinit(&more);
}

void ws_delayed(struct client *client, uint64_t token, const struct delay_id *id)
{
    (void)token; /* answered() follows at once */
    delay_id_format(id, ws_session_of(client)->delayed_text);
}

/* ---------------------------------------------------------------- publish */

static bool read_message(struct ws_session *session, struct arena *arena, const json_t *frame,
                         uint64_t id, const struct span *body, struct publish *publish)
{
    struct err err = {0};
    enum status status = ws_message_read(arena, frame, &session->client, body, publish, &err);
    if (status != STATUS_OK)
        ws_error(session, id, status, err.text);
    return status == STATUS_OK;
}

void ws_publish(struct ws_session *session, json_t *frame, uint64_t id, const struct span *body)
{
    struct arena arena;
    struct publish publish;
    arena_init(&arena, ARENA_MAX);
    if (read_message(session, &arena, frame, id, body, &publish)) {
        publish.answer = id != WS_NO_ID;
        publish.token = id;
        broker_publish(&session->client, &publish);
    }
    arena_deinit(&arena);
}

/* ---------------------------------------------------------------- replies */

static struct ws_replies *replies_of(struct client *client)
{
    return container_of(client, struct ws_replies, client);
}

static uint32_t reply_variant(struct client *client, const struct subscription *subscription,
                              const struct record *record)
{
    (void)client;
    (void)subscription;
    (void)record;
    return 0;
}

static struct blob *reply_encode(uint32_t variant, const struct record *record)
{
    struct buf text;
    struct ws_view_place place = {0};
    (void)variant;
    buf_init(&text, WS_RECORD_TEXT_MAX);
    json_put(&text, ",");
    ws_view_write(record, &place, false, &text);
    struct blob *blob = blob_copy(buf_span(&text));
    buf_deinit(&text);
    return blob;
}

static bool reply_deliver(struct client *client, struct subscription *subscription,
                          struct blob *frame, uint32_t variant, const struct record *record)
{
    struct ws_session *session = replies_of(client)->session;
    struct span correlation;
    uint64_t number;
    (void)subscription;
    (void)variant;
    client_settled(client, 1);
    if (!record_find(record, HEADER_CORRELATION_ID, &correlation) ||
        !http_number(correlation, &number))
        return true;
    struct ws_request *request = request_of(session, number);
    if (request == NULL)
        return true; /* too late, or a second one */
    ws_ok_with(session, request->id, blob_span(frame));
    request_free(session, request);
    return true;
}

static size_t reply_queued(struct client *client)
{
    return stream_queued(replies_of(client)->session->stream);
}

static void reply_resume(struct client *client)
{
    (void)client; /* it does not publish */
}

static void reply_end(struct client *client, enum status why)
{
    (void)client; /* the session's own client is told too */
    (void)why;
}

static const struct client_ops reply_ops = {
    .protocol = "websocket",
    .variant = reply_variant,
    .encode = reply_encode,
    .deliver = reply_deliver,
    .queued = reply_queued,
    .resume = reply_resume,
    .end = reply_end,
};

static void waiting_free(struct waiting *waiting)
{
    json_decref(waiting->frame);
    blob_unref(waiting->body);
    heap_free(waiting);
}

static void request_send(struct ws_session *session, json_t *frame, uint64_t id,
                         const struct span *body);

static void replies_ready(struct request *request, enum status status)
{
    struct ws_replies *replies = container_of(request, struct ws_replies, subscribe.request);
    struct ws_session *session = replies->session;
    struct link *link;
    if (status == STATUS_OK)
        status = replies->item.status;
    replies->ready = status == STATUS_OK;
    while ((link = list_pop(&replies->waiting)) != NULL) {
        struct waiting *waiting = container_of(link, struct waiting, link);
        struct span body = waiting->body == NULL ? (struct span){0} : blob_span(waiting->body);
        if (session != NULL && status == STATUS_OK)
            request_send(session, waiting->frame, waiting->id,
                         waiting->body == NULL ? NULL : &body);
        else if (session != NULL)
            ws_error(session, waiting->id, status, NULL);
        waiting_free(waiting);
    }
    if (session == NULL) {
        heap_free(replies);
    } else if (status != STATUS_OK) {
        client_close(&replies->client);
        session->replies = NULL;
        heap_free(replies);
    }
}

static void replies_open(struct ws_session *session)
{
    struct ws_replies *replies = session->replies = heap_new(sizeof *replies);
    struct loop *loop = broker_loop(session->client.worker);
    replies->session = session;
    list_init(&replies->waiting);
    broker_temporary_topic(&session->client, replies->topic);
    client_fork(&replies->client, &reply_ops, &session->client, UINT32_MAX);
    replies->item = (struct subscribe_item){.filter = span_from_text(replies->topic),
                                            .guarantee = GUARANTEE_AT_LEAST_ONCE};
    replies->subscribe =
        (struct broker_subscribe){.client = &replies->client, .items = &replies->item, .count = 1};
    request_init(&replies->subscribe.request, loop, replies_ready);
    broker_subscribe(&replies->subscribe);
}

/* ---------------------------------------------------------------- requests */

static void request_send(struct ws_session *session, json_t *frame, uint64_t id,
                         const struct span *body)
{
    struct loop *loop = broker_loop(session->client.worker);
    struct arena arena;
    struct publish publish;
    uint64_t timeout_ms = REPLY_MS;
    char number[24];
    ws_number(frame, "timeout_ms", UINT32_MAX, &timeout_ms);
    arena_init(&arena, ARENA_MAX);
    snprintf(number, sizeof number, "%llu", (unsigned long long)++session->next_request);
    json_object_set_new(frame, "reply_to", json_string(session->replies->topic));
    json_object_set_new(frame, "correlation_id", json_string(number));
    if (read_message(session, &arena, frame, id, body, &publish)) {
        struct ws_request *request = heap_new(sizeof *request);
        request->number = session->next_request;
        request->id = id;
        request->deadline_ms = loop_now_ms(loop) + timeout_ms;
        list_push(&session->requests, &request->link);
        session->request_count++;
        if (!loop_timer_is_running(&session->timer))
            loop_timer_start(loop, &session->timer, 1);
        publish.answer = true;
        publish.token = TOKEN_REQUEST | request->number;
        broker_publish(&session->client, &publish);
    }
    arena_deinit(&arena);
}

void ws_request(struct ws_session *session, json_t *frame, uint64_t id, const struct span *body)
{
    if (id == WS_NO_ID) {
        ws_error(session, id, STATUS_INVALID, "a request needs an id");
        return;
    }
    if (session->request_count >= LIMIT_WEBSOCKET_REQUESTS) {
        ws_error(session, id, STATUS_OVER_QUOTA, "too many requests wait for a reply");
        return;
    }
    if (session->replies == NULL)
        replies_open(session);
    if (session->replies->ready) {
        request_send(session, frame, id, body);
        return;
    }
    struct waiting *waiting = heap_new(sizeof *waiting);
    waiting->frame = json_incref(frame);
    waiting->id = id;
    waiting->body = body == NULL ? NULL : blob_copy(*body);
    list_push(&session->replies->waiting, &waiting->link);
}

void ws_requests_look(struct ws_session *session)
{
    uint64_t now_ms = loop_now_ms(broker_loop(session->client.worker));
    list_each_safe(link, following, &session->requests)
    {
        struct ws_request *request = container_of(link, struct ws_request, link);
        if (request->deadline_ms > now_ms)
            continue;
        ws_error(session, request->id, STATUS_TIMED_OUT, "no reply came");
        request_free(session, request);
    }
}

void ws_requests_close(struct ws_session *session)
{
    struct link *link;
    while ((link = list_first(&session->requests)) != NULL)
        request_free(session, container_of(link, struct ws_request, link));
    struct ws_replies *replies = session->replies;
    if (replies == NULL)
        return;
    session->replies = NULL;
    client_close(&replies->client);
    replies->session = NULL;
    if (replies->ready)
        heap_free(replies);
    /* else it goes when the subscription is back */
}
