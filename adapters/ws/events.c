/* SPDX-License-Identifier: Apache-2.0 */
/* Server-Sent Events: an answer that does not end. An event's id is the follower's place behind it,
 * so that Last-Event-ID goes on without loss. Members of a group get each record once, done as soon
 * as it is sent. */
#include "adapters/http/codec.h"
#include "adapters/ws/view.h"
#include "adapters/ws/ws.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/consume.h"
#include "core/broker/follow.h"
#include "core/broker/metrics.h"

enum { CREDIT = 1000000, TEXTS_MAX = 16 * 1024 };

/* From the request to the end of its connection. */
struct events {
    struct client client;
    struct http_exchange *exchange; /* NULL once it is answered or canceled */
    struct stream *stream;          /* NULL until it is ours */
    struct broker_login login;
    struct buf texts; /* credentials, then what the spans below lie in */
    struct span topic, queue, group, position, from;
    struct follower *follower;
    struct consumer *consumer;
    struct loop_timer timer;
    size_t queued;
    uint32_t keep_ms, stalled_ms; /* keep: of silence, then a comment */
    bool wrote;
    bool id_is_old; /* of a long position: events have gone out since without one */
};

static struct events *events_of(struct client *client)
{
    return container_of(client, struct events, client);
}

static void events_free(struct events *events)
{
    loop_timer_stop(broker_loop(events->client.worker), &events->timer);
    consumer_close(events->consumer, true);
    client_close(&events->client);
    buf_deinit(&events->texts);
    heap_free(events);
}

/* ---------------------------------------------------------------- events out */

/* Line ends within JSON (a body may have them) would end the data. */
static struct blob *one_line_each(struct span text)
{
    static const char next[] = "\ndata: ";
    size_t lines = 0;
    for (size_t i = 0; i < text.size; i++)
        lines += text.data[i] == '\n';
    struct blob *blob = blob_new(text.size + lines * (sizeof next - 2));
    uint8_t *to = blob->bytes;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] == '\n') {
            memcpy(to, next, sizeof next - 1);
            to += sizeof next - 1;
        } else {
            *to++ = text.data[i] == '\r' ? ' ' : text.data[i];
        }
    }
    return blob;
}

static struct blob *encode(uint32_t variant, const struct follow_place *place,
                           const struct record *record)
{
    struct ws_view_place where = {.queue = place->queue->name, .partition = place->partition};
    struct buf text;
    (void)variant;
    buf_init(&text, WS_RECORD_TEXT_MAX);
    json_put(&text, "data: {");
    ws_view_write(record, &where, false, &text);
    json_put(&text, "}");
    struct span data = buf_span(&text);
    bool plain =
        memchr(data.data, '\n', data.size) == NULL && memchr(data.data, '\r', data.size) == NULL;
    struct blob *blob = plain ? blob_copy(data) : one_line_each(data);
    buf_deinit(&text);
    return blob;
}

static void write_event(struct events *events, struct blob *frame)
{
    events->wrote = true;
    stream_write_blob(events->stream, frame, 0, frame->size);
    stream_write(events->stream, span_of("\n\n", 2));
}

static void write_id(struct events *events)
{
    struct buf id;
    buf_init(&id, 64 * 1024);
    json_put(&id, "id: ");
    follower_position(events->follower, &id);
    json_put(&id, "\n");
    stream_write(events->stream, buf_span(&id));
    buf_deinit(&id);
}

static void deliver(struct follower *follower, struct blob *frame, const struct follow_place *place,
                    const struct record *record)
{
    struct events *events = follower_context(follower);
    (void)place;
    (void)record;
    events->id_is_old = !follower_says_position(follower);
    if (!events->id_is_old)
        write_id(events);
    write_event(events, frame);
    if (follower_credit_left(follower) < CREDIT / 2)
        follower_credit(follower, CREDIT);
}

static void ended(struct follower *follower, enum status why)
{
    struct events *events = follower_context(follower);
    (void)why;
    stream_close(events->stream);
}

static const struct follow_ops follow_ops = {.encode = encode, .deliver = deliver, .ended = ended};

static void group_deliver(struct consumer *consumer, uint32_t slot, const struct group_item *item)
{
    struct events *events = consumer_context(consumer);
    if (stream_is_closing(events->stream)) { /* nothing that is written now goes out */
        consumer_settle(consumer, slot, SETTLE_RELEASED, 0, 0);
        consumer_credit(consumer, 0, false);
        return;
    }
    const struct queue *queue =
        catalog_queue_of_partition(broker_catalog(events->client.worker), item->batch->partition);
    if (queue != NULL) {
        struct record record;
        struct follow_place place = {
            .queue = queue,
            .partition = (uint32_t)(item->batch->partition - queue->first_partition)};
        batch_record(item->batch, item->index, &record);
        struct blob *frame = encode(0, &place, &record);
        write_event(events, frame);
        blob_unref(frame);
    }
    consumer_settle(consumer, slot, SETTLE_DONE, 0, 0);
    if (consumer_credit_left(consumer) < CREDIT / 2)
        consumer_credit(consumer, CREDIT, false);
}

static void group_ended(struct consumer *consumer, enum status why)
{
    struct events *events = consumer_context(consumer);
    (void)why;
    stream_close(events->stream);
}

static const struct consumer_ops group_ops = {.deliver = group_deliver, .ended = group_ended};

/* ---------------------------------------------------------------- the connection */

static void stream_input_ignored(void *context, struct span bytes, size_t *used)
{
    (void)context;
    *used = bytes.size;
}

static void stream_drained(void *context)
{
    struct events *events = context;
    client_drained(&events->client);
}

static void stream_closed(void *context, enum status why)
{
    (void)why;
    events_free(context);
}

static const struct stream_events stream_events = {
    .input = stream_input_ignored, .drained = stream_drained, .closed = stream_closed};

/* Says that the connection lives, and ends one that does not take what it is sent. */
static void timer_fired(struct loop_timer *timer)
{
    struct events *events = container_of(timer, struct events, timer);
    size_t queued = stream_queued(events->stream);
    events->stalled_ms =
        queued > 0 && queued == events->queued ? events->stalled_ms + events->keep_ms : 0;
    events->queued = queued;
    if (events->stalled_ms >= 4 * events->keep_ms) {
        metric_add(metric_counter("refused_total", "Refused calls",
                                  "protocol=\"events\",reason=\"timeout\""),
                   1);
        stream_abort(events->stream);
        return;
    }
    if (events->id_is_old && queued == 0) { /* an id alone is no event, and is remembered */
        events->id_is_old = false;
        write_id(events);
        stream_write(events->stream, span_of("\n", 1));
    } else if (!events->wrote && queued == 0)
        stream_write(events->stream, span_of(":\n\n", 3));
    events->wrote = false;
    loop_timer_start(broker_loop(events->client.worker), timer, events->keep_ms);
}

static size_t client_queued(struct client *client)
{
    return stream_queued(events_of(client)->stream);
}

static void client_resume(struct client *client)
{
    (void)client; /* it does not publish */
}

static void refuse(struct events *events, unsigned code, const char *text)
{
    struct http_exchange *exchange = events->exchange;
    events->exchange = NULL;
    if (code == 401)
        http_header(exchange, "WWW-Authenticate", "Basic realm=\"polylog\", charset=\"UTF-8\"");
    json_put(&exchange->answer, "{\"error_msg\":");
    json_put_text(&exchange->answer, span_from_text(text));
    json_put(&exchange->answer, "}");
    http_answer(exchange, code, "application/json");
}

static void client_end(struct client *client, enum status why)
{
    struct events *events = events_of(client);
    (void)why;
    consumer_close(events->consumer, true);
    events->consumer = NULL;
    if (events->stream != NULL)
        stream_close(events->stream);
    else
        client_close(client); /* the login that is under way comes back */
}

static const struct client_ops client_ops = {
    .protocol = "events", .queued = client_queued, .resume = client_resume, .end = client_end};

/* ---------------------------------------------------------------- the request */

static unsigned code_of(enum status status)
{
    return status == STATUS_UNAUTHENTICATED                            ? 401
           : status == STATUS_DENIED                                   ? 403
           : status == STATUS_NOT_FOUND                                ? 404
           : status == STATUS_OVER_QUOTA || status == STATUS_BUSY      ? 429
           : status == STATUS_SHUTTING_DOWN || status == STATUS_CLOSED ? 503
                                                                       : 400;
}

static bool read_from(struct events *events, struct follow_options *options)
{
    uint64_t time_ms;
    options->from = SEEK_LATEST;
    if (events->from.size == 0 || span_is(events->from, "latest"))
        return true;
    options->from = SEEK_EARLIEST;
    if (span_is(events->from, "earliest"))
        return true;
    options->from = SEEK_TIME;
    if (!http_number(events->from, &time_ms) || time_ms > INT64_MAX)
        return false;
    options->time_ms = (int64_t)time_ms;
    return true;
}

/* What the request asks for, found; group: in the catalog already. */
static enum status open_source(struct events *events, const struct queue *queue)
{
    struct client *client = &events->client;
    if (events->group.size > 0) {
        const struct group_spec *group =
            catalog_group_by_text(broker_catalog(client->worker), queue->id, events->group);
        if (group == NULL)
            return STATUS_NOT_FOUND;
        struct consumer_options options = {.group = group, .name = client->id};
        events->consumer = consumer_open(client, &group_ops, events, &options);
        return STATUS_OK;
    }
    struct follow_options options = {.queue = queue,
                                     .filter = events->topic,
                                     .partition = FOLLOW_ALL_PARTITIONS,
                                     .position = events->position};
    return read_from(events, &options)
               ? follower_open(client, &follow_ops, events, &options, &events->follower)
               : STATUS_INVALID;
}

static void begin(struct events *events)
{
    static const char hello[] = "retry: 2000\n\n";
    const struct queue *queue = NULL;
    if (events->queue.size > 0)
        queue = catalog_queue_by_text(broker_catalog(events->client.worker), events->client.tenant,
                                      events->queue);
    enum status status =
        events->queue.size > 0 && queue == NULL ? STATUS_NOT_FOUND : open_source(events, queue);
    if (status != STATUS_OK) {
        refuse(events, code_of(status), status_text(status));
        events_free(events);
        return;
    }
    http_header(events->exchange, "Cache-Control", "no-store");
    events->stream = http_answer_stream(events->exchange, "text/event-stream");
    events->exchange = NULL;
    stream_hand_over(events->stream, &stream_events, events);
    client_set_peer(&events->client, stream_peer(events->stream));
    if (stream_is_closing(events->stream))
        return; /* closed() follows: nothing may count as sent */
    stream_write(events->stream, span_of(hello, sizeof hello - 1));
    events->timer.fired = timer_fired;
    loop_timer_start(broker_loop(events->client.worker), &events->timer, events->keep_ms);
    if (events->follower != NULL)
        follower_credit(events->follower, CREDIT);
    else
        consumer_credit(events->consumer, CREDIT, false);
}

static void login_done(struct request *request, enum status status)
{
    struct broker_login *login = container_of(request, struct broker_login, request);
    struct events *events = container_of(login, struct events, login);
    if (status == STATUS_OK && !events->client.open)
        status = STATUS_UNAUTHENTICATED; /* it ended while the answer was on its way */
    if (events->exchange != NULL && status == STATUS_OK) {
        begin(events);
        return;
    }
    if (events->exchange != NULL)
        refuse(events, code_of(status), status_text(status));
    events_free(events);
}

static void canceled(struct http_exchange *exchange)
{
    struct events *events = exchange->state;
    events->exchange = NULL; /* the login that is under way comes back */
}

static struct span keep(struct events *events, struct span text)
{
    size_t at = events->texts.size;
    return text.size > 0 && buf_append(&events->texts, text.data, text.size) == STATUS_OK
               ? span_of(events->texts.data + at, text.size)
               : (struct span){0};
}

static struct span query(struct events *events, const char *name)
{
    struct span value;
    return http_query(events->exchange, name, &value) ? keep(events, value) : (struct span){0};
}

static void handle(struct http_exchange *exchange)
{
    struct broker_worker *worker = exchange->context;
    struct events *events = heap_new(sizeof *events);
    const struct http_head *head = &exchange->head;
    events->exchange = exchange;
    exchange->state = events;
    events->keep_ms = http_ping_ms(exchange->http) / 2;
    client_init(&events->client, worker, &client_ops);
    buf_init(&events->texts, TEXTS_MAX);
    bool fits = buf_reserve(&events->texts, TEXTS_MAX) == STATUS_OK;
    events->topic = query(events, "topic");
    events->queue = query(events, "queue");
    events->group = query(events, "group");
    events->from = query(events, "from");
    events->position = keep(events, head->last_event_id);
    if (events->position.size == 0)
        events->position = query(events, "last_event_id");
    if (!fits || exchange->method != HTTP_GET || !span_is(exchange->parameters[0], "default") ||
        (events->topic.size > 0) == (events->queue.size > 0) ||
        (events->group.size > 0 && events->queue.size == 0)) {
        refuse(events, 400, "one of topic and queue is wanted, group with queue");
        events_free(events);
        return;
    }
    events->login = (struct broker_login){.client = &events->client};
    events->login.password = query(events, "access_token"); /* EventSource has no headers */
    if (events->login.password.size == 0)
        http_credentials(head, &events->texts, &events->login.user, &events->login.password);
    events->login.certificate_subject = exchange->connection->certificate_subject;
    exchange->canceled = canceled;
    request_init(&events->login.request, broker_loop(worker), login_done);
    broker_login(&events->login);
}

void events_serve(struct http *http, struct broker_worker *worker)
{
    static const struct http_route route = {HTTP_GET, "/v1/{project}/events", handle};
    http_serve(http, &route, 1, worker);
}
