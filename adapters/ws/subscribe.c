/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions of three kinds. Topics without "from": live, with a client of its own each, so that
 * each has its own credit. Topics or queues with "from", and queues without a group: followed.
 * Queues with a group: leases. */
#include "adapters/ws/session.h"
#include "adapters/ws/view.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum {
    SUB_NAME_MAX = 64,
    SHARED_MIN = 512, /* bodies from here on are compressed once for all who take it */
    LEASE_MAX_S = 300,
    CREDIT_MAX = 1000000
};
enum { VARIANT_BINARY = 1, VARIANT_DEFLATED = 2 };

enum kind { KIND_LIVE, KIND_FOLLOWED, KIND_GROUP };

struct sub {
    struct client client; /* of KIND_LIVE */
    struct ws_session *session;
    struct link link;
    enum kind kind;
    uint32_t number;
    bool binary, unlimited;
    bool positions; /* each frame says where to go on behind it */
    bool pending;   /* broker_subscribe is under way */
    bool closed;
    uint64_t id; /* of the frame that is not answered yet */
    struct follower *follower;
    struct consumer *consumer;
    struct broker_subscribe subscribe;
    struct subscribe_item item;
    struct broker_join join;
    struct consumer_options options; /* until the group is there */
    uint32_t credit;
    char *address;    /* filter, or name of the group */
    char *label_text; /* of options.labels */
    size_t head_size;
    char head[]; /* of each of its frames: {"op":"deliver","sub":"...", */
};

static void sub_free(struct sub *sub)
{
    selector_unref(sub->options.selector);
    heap_free(sub->label_text);
    heap_free(sub->address);
    heap_free(sub);
}

/* No frame of it any more. */
static void sub_close(struct sub *sub)
{
    struct ws_session *session = sub->session;
    if (sub->closed)
        return;
    sub->closed = true;
    link_remove(&sub->link);
    session->sub_count--;
    if (sub->consumer != NULL)
        ws_settlements_close(session, sub->consumer);
    consumer_close(sub->consumer, true);
    follower_close(sub->follower);
    if (sub->kind == KIND_LIVE)
        client_close(&sub->client);
    if (!sub->pending)
        sub_free(sub);
}

static void sub_refuse(struct sub *sub, enum status status)
{
    ws_error(sub->session, sub->id, status, NULL);
    sub_close(sub);
}

static void sub_holds(struct sub *sub)
{
    ws_ok(sub->session, sub->id);
    sub->id = WS_NO_ID;
}

/* It ends by itself. */
static void sub_ended(struct sub *sub, enum status why)
{
    struct buf text;
    struct ws_session *session = sub->session;
    static const char op[] = "{\"op\":\"deliver\"";
    if (sub->id != WS_NO_ID) {
        sub_refuse(sub, why);
        return;
    }
    buf_init(&text, 4096);
    json_put(&text, "{\"op\":\"closing\"");
    buf_append(&text, sub->head + sizeof op - 1, sub->head_size - sizeof op + 1);
    json_put(&text, "\"code\":\"");
    json_put(&text, ws_code(why));
    json_put(&text, "\",\"text\":");
    json_put_text(&text, span_from_text(status_text(why)));
    json_put(&text, "}");
    if (session->state == WS_UP)
        websocket_send(session->stream, FRAME_TEXT, buf_span(&text), NULL);
    buf_deinit(&text);
    sub_close(sub);
}

/* ---------------------------------------------------------------- frames */

static uint32_t variant_of(const struct sub *sub, size_t body_size)
{
    return (sub->binary ? VARIANT_BINARY : 0u) |
           (!sub->binary && body_size >= SHARED_MIN &&
                    websocket_takes_deflated(sub->session->stream)
                ? VARIANT_DEFLATED
                : 0u);
}

/* What follows the head of a subscription: shared by all of that variant. */
static struct blob *tail_of(uint32_t variant, const struct ws_view_place *place,
                            const struct record *record)
{
    struct buf text;
    struct blob *blob;
    buf_init(&text, WS_RECORD_TEXT_MAX);
    if (buf_reserve(&text, record->value.size + record->headers.size + 256) != STATUS_OK)
        return NULL;
    ws_view_write(record, place, (variant & VARIANT_BINARY) != 0, &text);
    json_put(&text, "}");
    if ((variant & VARIANT_DEFLATED) != 0)
        blob = websocket_deflate(buf_span(&text));
    else
        blob = blob_copy(buf_span(&text));
    buf_deinit(&text);
    return blob;
}

static void send(struct sub *sub, uint32_t variant, struct span head, struct blob *tail,
                 const struct record *record)
{
    struct stream *stream = sub->session->stream;
    if (sub->session->state != WS_UP)
        return;
    if ((variant & VARIANT_DEFLATED) != 0)
        websocket_send_deflated(stream, FRAME_TEXT, head, tail);
    else
        websocket_send(stream, FRAME_TEXT, head, tail);
    if ((variant & VARIANT_BINARY) != 0)
        websocket_send(stream, FRAME_BINARY, record->value, NULL);
}

/* ---------------------------------------------------------------- live topics */

static struct sub *sub_of_client(struct client *client)
{
    return container_of(client, struct sub, client);
}

static uint32_t live_variant(struct client *client, const struct subscription *subscription,
                             const struct record *record)
{
    (void)subscription;
    return variant_of(sub_of_client(client), record->value.size);
}

static struct blob *live_encode(uint32_t variant, const struct record *record)
{
    static const struct ws_view_place nowhere;
    return tail_of(variant, &nowhere, record);
}

static bool live_deliver(struct client *client, struct subscription *subscription,
                         struct blob *frame, uint32_t variant, const struct record *record)
{
    struct sub *sub = sub_of_client(client);
    (void)subscription;
    if (sub->unlimited)
        client_settled(client, 1);
    send(sub, variant, span_of(sub->head, sub->head_size), frame, record);
    return true;
}

static size_t live_queued(struct client *client)
{
    return stream_queued(sub_of_client(client)->session->stream);
}

static void live_resume(struct client *client)
{
    (void)client; /* it does not publish */
}

static void live_end(struct client *client, enum status why)
{
    (void)client; /* the session's own client is told too */
    (void)why;
}

static const struct client_ops live_ops = {
    .protocol = "websocket",
    .variant = live_variant,
    .encode = live_encode,
    .deliver = live_deliver,
    .queued = live_queued,
    .resume = live_resume,
    .end = live_end,
};

static void live_done(struct request *request, enum status status)
{
    struct sub *sub = container_of(request, struct sub, subscribe.request);
    sub->pending = false;
    if (status == STATUS_OK)
        status = sub->item.status;
    if (sub->closed)
        sub_free(sub);
    else if (status != STATUS_OK)
        sub_refuse(sub, status);
    else
        sub_holds(sub);
}

static void live_begin(struct sub *sub, const json_t *frame)
{
    struct ws_session *session = sub->session;
    client_fork(&sub->client, &live_ops, &session->client,
                sub->unlimited ? UINT32_MAX : sub->credit);
    sub->item = (struct subscribe_item){
        .filter = span_from_text(sub->address),
        .guarantee = GUARANTEE_AT_LEAST_ONCE,
        .no_local = json_is_true(json_object_get(frame, "no_local")),
        .retain_as_published = true,
        .retained =
            json_is_false(json_object_get(frame, "retained")) ? RETAINED_NEVER : RETAINED_ALWAYS};
    sub->subscribe =
        (struct broker_subscribe){.client = &sub->client, .items = &sub->item, .count = 1};
    request_init(&sub->subscribe.request, broker_loop(session->client.worker), live_done);
    sub->pending = true;
    broker_subscribe(&sub->subscribe);
}

/* ---------------------------------------------------------------- followed */

static uint32_t follow_variant(struct follower *follower)
{
    const struct sub *sub = follower_context(follower);
    return variant_of(sub, 0);
}

static struct blob *follow_encode(uint32_t variant, const struct follow_place *place,
                                  const struct record *record)
{
    struct ws_view_place where = {.queue = place->queue->name, .partition = place->partition};
    return tail_of(variant, &where, record);
}

static void put_position(struct follower *follower, struct buf *to)
{
    json_put(to, "\"position\":\"");
    follower_position(follower, to);
    json_put(to, "\"");
}

static void follow_deliver(struct follower *follower, struct blob *frame,
                           const struct follow_place *place, const struct record *record)
{
    struct sub *sub = follower_context(follower);
    struct buf head;
    (void)place;
    bool position = sub->positions && follower_says_position(follower);
    buf_init(&head, 64 * 1024);
    if (position) {
        buf_append(&head, sub->head, sub->head_size);
        put_position(follower, &head);
        json_put(&head, ",");
    }
    send(sub, variant_of(sub, 0), position ? buf_span(&head) : span_of(sub->head, sub->head_size),
         frame, record);
    buf_deinit(&head);
    if (sub->unlimited)
        follower_credit(follower, UINT32_MAX);
}

static void follow_ended(struct follower *follower, enum status why)
{
    sub_ended(follower_context(follower), why);
}

static const struct follow_ops follow_ops = {
    .variant = follow_variant,
    .encode = follow_encode,
    .deliver = follow_deliver,
    .ended = follow_ended,
};

static void follow_begin(struct sub *sub, struct follow_options *options)
{
    enum status status =
        follower_open(&sub->session->client, &follow_ops, sub, options, &sub->follower);
    if (status != STATUS_OK) {
        sub_refuse(sub, status);
        return;
    }
    struct buf more;
    buf_init(&more, 64 * 1024);
    json_put(&more, ",");
    put_position(sub->follower, &more);
    ws_ok_with(sub->session, sub->id, buf_span(&more));
    sub->id = WS_NO_ID;
    buf_deinit(&more);
    follower_credit(sub->follower, sub->unlimited ? UINT32_MAX : sub->credit);
}

/* ---------------------------------------------------------------- groups */

/* The member is told of leases that are over: what it settles of them now is stale. */
static bool group_expired(struct consumer *consumer, uint32_t slot)
{
    struct sub *sub = consumer_context(consumer);
    static const char op[] = "{\"op\":\"deliver\"";
    const struct receipt *receipt = consumer_lease(consumer, slot);
    struct buf text;
    buf_init(&text, 4096);
    json_put(&text, "{\"op\":\"expired\"");
    buf_append(&text, sub->head + sizeof op - 1, sub->head_size - sizeof op + 1);
    json_put(&text, "\"receipt\":\"");
    ws_receipt_put(&text, sub->number, slot, receipt);
    json_put(&text, "\"}");
    if (sub->session->state == WS_UP)
        websocket_send(sub->session->stream, FRAME_TEXT, buf_span(&text), NULL);
    buf_deinit(&text);
    return true;
}

static void group_deliver(struct consumer *consumer, uint32_t slot, const struct group_item *item)
{
    struct sub *sub = consumer_context(consumer);
    struct record record;
    struct buf text;
    const struct queue *queue = catalog_queue_of_partition(
        broker_catalog(sub->session->client.worker), item->batch->partition);
    struct ws_view_place place = {.queue = queue == NULL ? NULL : queue->name};
    if (queue != NULL)
        place.partition = (uint32_t)(item->batch->partition - queue->first_partition);
    batch_record(item->batch, item->index, &record);
    buf_init(&text, WS_RECORD_TEXT_MAX);
    if (buf_reserve(&text, record.value.size + record.headers.size + 512) != STATUS_OK) {
        consumer_settle(consumer, slot, SETTLE_RELEASED, 0, 0);
        return;
    }
    buf_append(&text, sub->head, sub->head_size);
    json_put(&text, "\"receipt\":\"");
    ws_receipt_put(&text, sub->number, slot, &item->receipt);
    json_put(&text, "\",\"delivery_count\":");
    json_put_number(&text, item->failures);
    json_put(&text, ",");
    ws_view_write(&record, &place, sub->binary, &text);
    json_put(&text, "}");
    if (sub->session->state == WS_UP) {
        websocket_send(sub->session->stream, FRAME_TEXT, buf_span(&text), NULL);
        if (sub->binary)
            websocket_send(sub->session->stream, FRAME_BINARY, record.value, NULL);
    }
    buf_deinit(&text);
    if (sub->unlimited)
        consumer_credit(consumer, CREDIT_MAX, false);
}

static void group_ended(struct consumer *consumer, enum status why)
{
    sub_ended(consumer_context(consumer), why);
}

static const struct consumer_ops group_ops = {
    .deliver = group_deliver,
    .settled = ws_settled,
    .expired = group_expired,
    .ended = group_ended,
};

static void group_joined(struct request *request, enum status status)
{
    struct sub *sub = container_of(request, struct sub, join.request);
    struct ws_session *session = sub->session;
    struct group_spec *group = sub->join.group;
    sub->pending = false;
    if (sub->closed) {
        sub_free(sub);
    } else if (status != STATUS_OK) {
        sub_refuse(sub, status);
    } else {
        sub->options.group = group;
        sub->consumer = consumer_open(&session->client, &group_ops, sub, &sub->options);
        sub_holds(sub);
        consumer_credit(sub->consumer, sub->unlimited ? CREDIT_MAX : sub->credit, false);
    }
    if (group != NULL)
        group_spec_unref(group);
    connection_release(session);
}

/* A group that is new begins at from. */
static void group_begin(struct sub *sub, const struct queue *queue, enum seek_to from)
{
    struct ws_session *session = sub->session;
    sub->join = (struct broker_join){
        .client = &session->client,
        .queue = queue->id,
        .name = span_from_text(sub->address),
        .start = from == SEEK_LATEST ? GROUP_LATEST : GROUP_EARLIEST,
    };
    request_init(&sub->join.request, broker_loop(session->client.worker), group_joined);
    sub->pending = true;
    connection_hold(session); /* the join looks at its client when it is back */
    broker_join(&sub->join);
}

/* ---------------------------------------------------------------- what a frame asks for */

bool ws_from(const json_t *frame, struct follow_options *options, bool *given)
{
    const json_t *from = json_object_get(frame, "from");
    uint64_t number;
    *given = from != NULL && !json_is_null(from);
    options->from = SEEK_LATEST;
    if (!*given)
        return true;
    if (json_is_string(from)) {
        bool earliest = span_is(json_span(from), "earliest");
        options->from = earliest ? SEEK_EARLIEST : SEEK_LATEST;
        return earliest || span_is(json_span(from), "latest");
    }
    if (json_object_size(from) == 1 && ws_number(from, "offset", INT64_MAX, &number)) {
        options->from = SEEK_OFFSET;
        options->offset = number;
        return true;
    }
    if (json_object_size(from) == 1 && ws_text(from, "position", &options->position))
        return true;
    if (json_object_size(from) != 1 || !ws_number(from, "time", INT64_MAX, &number))
        return false;
    options->from = SEEK_TIME;
    options->time_ms = (int64_t)number;
    return true;
}

enum status ws_filters(const json_t *frame, struct label_filter *labels, struct selector **selector,
                       struct err *err)
{
    const json_t *given = json_object_get(frame, "labels");
    struct span text;
    *labels = (struct label_filter){.all = json_is_true(json_object_get(frame, "labels_all"))};
    *selector = NULL;
    if (given != NULL && (!json_is_array(given) || json_array_size(given) > LABELS_MAX))
        return err_set(err, STATUS_INVALID, "labels must be an array of at most three");
    for (size_t i = 0; i < json_array_size(given); i++) {
        const json_t *label = json_array_get(given, i);
        if (!json_is_string(label) || !label_is_valid(json_span(label)))
            return err_set(err, STATUS_INVALID,
                           "a label is 1 to 64 letters, digits, - and _ and .");
        labels->labels[labels->count++] = json_span(label);
    }
    if (!ws_text(frame, "selector", &text))
        return json_object_get(frame, "selector") == NULL
                   ? STATUS_OK
                   : err_set(err, STATUS_INVALID, "selector must be a string");
    return selector_compile(text, selector, err);
}

static struct sub *sub_find(struct ws_session *session, struct span name)
{
    struct buf head;
    struct sub *found = NULL;
    buf_init(&head, 1024);
    json_put(&head, "{\"op\":\"deliver\",\"sub\":");
    json_put_text(&head, name);
    json_put(&head, ",");
    list_each(link, &session->subs)
    {
        struct sub *sub = container_of(link, struct sub, link);
        if (span_equal(span_of(sub->head, sub->head_size), buf_span(&head)))
            found = sub;
    }
    buf_deinit(&head);
    return found;
}

static struct sub *sub_new(struct ws_session *session, struct span name, struct span address,
                           uint64_t id)
{
    struct buf head;
    buf_init(&head, 1024);
    json_put(&head, "{\"op\":\"deliver\",\"sub\":");
    json_put_text(&head, name);
    json_put(&head, ",");
    struct sub *sub = heap_new(sizeof *sub + head.size);
    memcpy(sub->head, head.data, head.size);
    sub->head_size = head.size;
    buf_deinit(&head);
    sub->session = session;
    sub->id = id;
    sub->number = ++session->next_sub;
    sub->address = heap_text((const char *)address.data, address.size);
    list_push(&session->subs, &sub->link);
    session->sub_count++;
    return sub;
}

struct wanted {
    struct span name, topic, group;
    const struct queue *queue;
    struct follow_options options;
    struct selector *selector;
    uint64_t credit, lease_s;
    bool from, unlimited;
};

static enum status read_wanted(struct ws_session *session, const json_t *frame,
                               struct wanted *wanted, struct err *err)
{
    struct span queue;
    *wanted = (struct wanted){0};
    wanted->options.partition = FOLLOW_ALL_PARTITIONS;
    bool topic = ws_text(frame, "topic", &wanted->topic),
         of_queue = ws_text(frame, "queue", &queue);
    bool group = ws_text(frame, "group", &wanted->group);
    uint64_t partition;
    if (!ws_text(frame, "sub", &wanted->name) || wanted->name.size > SUB_NAME_MAX ||
        topic == of_queue || (group && topic) || (group && wanted->group.size == 0))
        return err_set(
            err, STATUS_INVALID,
            "sub (up to 64 bytes) and one of topic and queue are wanted; group with queue");
    if (sub_find(session, wanted->name) != NULL)
        return err_set(err, STATUS_EXISTS, "there is a subscription of that name");
    if (session->sub_count >= WS_SUBS_MAX)
        return err_set(err, STATUS_OVER_QUOTA, "too many subscriptions on this connection");
    if (!ws_from(frame, &wanted->options, &wanted->from))
        return err_set(err, STATUS_INVALID,
                       "from is earliest, latest, {offset}, {time} or {position}");
    wanted->unlimited = json_object_get(frame, "credit") == NULL;
    if ((!wanted->unlimited && !ws_number(frame, "credit", CREDIT_MAX, &wanted->credit)) ||
        (json_object_get(frame, "lease_seconds") != NULL && /* missing: as the queue says */
         (!ws_number(frame, "lease_seconds", LEASE_MAX_S, &wanted->lease_s) ||
          wanted->lease_s == 0)))
        return err_set(err, STATUS_INVALID, "credit is 0 to 1000000, lease_seconds 1 to 300");
    if (of_queue) {
        wanted->queue = catalog_queue_by_text(broker_catalog(session->client.worker),
                                              session->client.tenant, queue);
        if (wanted->queue == NULL)
            return err_set(err, STATUS_NOT_FOUND, "there is no such queue");
    }
    if (ws_number(frame, "partition", INT32_MAX, &partition))
        wanted->options.partition = (int32_t)partition;
    wanted->options.queue = wanted->queue;
    if (wanted->queue == NULL)
        wanted->options.filter = wanted->topic;
    enum status status = ws_filters(frame, &wanted->options.labels, &wanted->selector, err);
    wanted->options.selector = wanted->selector;
    return status;
}

/* The labels must last until the group is there. */
static void keep_options(struct sub *sub, const struct wanted *wanted, const json_t *frame)
{
    size_t size = 0, at = 0;
    sub->options = (struct consumer_options){
        .labels = wanted->options.labels,
        .selector = wanted->selector,
        .lease_ms = (uint32_t)wanted->lease_s * 1000,
        .dead = json_is_true(json_object_get(frame, "dead")),
        .name = sub->session->client.id,
    };
    for (uint32_t i = 0; i < sub->options.labels.count; i++)
        size += sub->options.labels.labels[i].size;
    sub->label_text = size == 0 ? NULL : heap_new(size);
    for (uint32_t i = 0; i < sub->options.labels.count; i++) {
        struct span *label = &sub->options.labels.labels[i];
        memcpy(sub->label_text + at, label->data, label->size);
        *label = span_of(sub->label_text + at, label->size);
        at += label->size;
    }
}

void ws_subscribe(struct ws_session *session, json_t *frame, uint64_t id)
{
    struct wanted wanted;
    struct err err = {0};
    enum status status = read_wanted(session, frame, &wanted, &err);
    bool filtered = wanted.selector != NULL || wanted.options.labels.count > 0;
    if (status != STATUS_OK) {
        selector_unref(wanted.selector);
        ws_error(session, id, status, err.text);
        return;
    }
    struct sub *sub =
        sub_new(session, wanted.name, wanted.group.size > 0 ? wanted.group : wanted.topic, id);
    sub->binary = json_is_true(json_object_get(frame, "binary"));
    sub->positions = json_is_true(json_object_get(frame, "positions"));
    sub->unlimited = wanted.unlimited;
    sub->credit = (uint32_t)wanted.credit;
    if (wanted.group.size > 0) {
        sub->kind = KIND_GROUP;
        keep_options(sub, &wanted, frame);
        group_begin(sub, wanted.queue, wanted.from ? wanted.options.from : SEEK_EARLIEST);
        return;
    }
    if (wanted.queue == NULL && !wanted.from && !filtered) {
        sub->kind = KIND_LIVE;
        live_begin(sub, frame);
    } else {
        sub->kind = KIND_FOLLOWED;
        follow_begin(sub, &wanted.options);
    }
    selector_unref(wanted.selector);
}

/* ---------------------------------------------------------------- afterwards */

static struct sub *sub_named(struct ws_session *session, const json_t *frame, uint64_t id)
{
    struct span name;
    struct sub *sub = ws_text(frame, "sub", &name) ? sub_find(session, name) : NULL;
    if (sub == NULL)
        ws_error(session, id, STATUS_NOT_FOUND, "there is no such subscription");
    return sub;
}

void ws_unsubscribe(struct ws_session *session, json_t *frame, uint64_t id)
{
    struct sub *sub = sub_named(session, frame, id);
    if (sub == NULL)
        return;
    if (sub->id != WS_NO_ID)
        ws_error(session, sub->id, STATUS_CANCELED, NULL);
    sub_close(sub);
    ws_ok(session, id);
}

/* So many more than are left. */
void ws_credit(struct ws_session *session, json_t *frame, uint64_t id)
{
    struct sub *sub = sub_named(session, frame, id);
    uint64_t more;
    if (sub == NULL)
        return;
    if (sub->unlimited || !ws_number(frame, "credit", CREDIT_MAX, &more)) {
        ws_error(session, id, STATUS_INVALID,
                 "credit is 0 to 1000000, for a subscription that was made with credit");
        return;
    }
    uint32_t added = (uint32_t)more;
    if (sub->pending)
        sub->credit += added;
    if (sub->kind == KIND_LIVE)
        client_settled(&sub->client, added);
    else if (sub->follower != NULL)
        follower_credit(sub->follower, follower_credit_left(sub->follower) + added);
    else if (sub->consumer != NULL)
        consumer_credit(sub->consumer, consumer_credit_left(sub->consumer) + added, false);
    ws_ok(session, id);
}

struct consumer *ws_consumer_of(struct ws_session *session, uint64_t number)
{
    list_each(link, &session->subs)
    {
        struct sub *sub = container_of(link, struct sub, link);
        if (sub->number == number)
            return sub->consumer;
    }
    return NULL;
}

void ws_subs_drained(struct ws_session *session)
{
    list_each(link, &session->subs)
    {
        struct sub *sub = container_of(link, struct sub, link);
        if (sub->kind == KIND_LIVE)
            client_drained(&sub->client);
    }
    client_drained(&session->client);
}

void ws_subs_close(struct ws_session *session)
{
    struct link *link;
    while ((link = list_first(&session->subs)) != NULL)
        sub_close(container_of(link, struct sub, link));
}
