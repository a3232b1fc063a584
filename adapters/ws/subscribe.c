/* SPDX-License-Identifier: Apache-2.0 */
/* Frames about subscriptions: what a client asks for, and which of the three kinds that is. Topics
 * without "from": live. Topics or queues with "from", and queues without a group: followed. Queues
 * with a group: leases. */
#include "adapters/ws/sub.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum { SUB_NAME_MAX = 64 };

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

/* What every frame of a subscription of that name begins with. */
static void put_head(struct buf *head, struct span name)
{
    buf_init(head, 1024);
    json_put(head, "{\"op\":\"deliver\",\"sub\":");
    json_put_text(head, name);
    json_put(head, ",");
}

static struct ws_sub *sub_find(struct ws_session *session, struct span name)
{
    struct buf head;
    struct ws_sub *found = NULL;
    put_head(&head, name);
    list_each(link, &session->subs)
    {
        struct ws_sub *sub = container_of(link, struct ws_sub, link);
        if (span_equal(span_of(sub->head, sub->head_size), buf_span(&head)))
            found = sub;
    }
    buf_deinit(&head);
    return found;
}

static struct ws_sub *sub_new(struct ws_session *session, struct span name, struct span address,
                              uint64_t id)
{
    struct buf head;
    put_head(&head, name);
    struct ws_sub *sub = heap_new(sizeof *sub + head.size);
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
    if (session->sub_count >= LIMIT_WEBSOCKET_SUBS)
        return err_set(err, STATUS_OVER_QUOTA, "too many subscriptions on this connection");
    if (!ws_from(frame, &wanted->options, &wanted->from))
        return err_set(err, STATUS_INVALID,
                       "from is earliest, latest, {offset}, {time} or {position}");
    wanted->unlimited = json_object_get(frame, "credit") == NULL;
    if ((!wanted->unlimited && !ws_number(frame, "credit", WS_CREDIT_MAX, &wanted->credit)) ||
        (json_object_get(frame, "lease_seconds") != NULL && /* missing: as the queue says */
         (!ws_number(frame, "lease_seconds", WS_LEASE_MAX_S, &wanted->lease_s) ||
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
static void keep_options(struct ws_sub *sub, const struct wanted *wanted, const json_t *frame)
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
    struct ws_sub *sub =
        sub_new(session, wanted.name, wanted.group.size > 0 ? wanted.group : wanted.topic, id);
    sub->binary = json_is_true(json_object_get(frame, "binary"));
    sub->positions = json_is_true(json_object_get(frame, "positions"));
    sub->unlimited = wanted.unlimited;
    sub->credit = (uint32_t)wanted.credit;
    if (wanted.group.size > 0) {
        sub->kind = WS_GROUP;
        keep_options(sub, &wanted, frame);
        ws_sub_group(sub, wanted.queue, wanted.from ? wanted.options.from : SEEK_EARLIEST);
        return;
    }
    if (wanted.queue == NULL && !wanted.from && !filtered) {
        sub->kind = WS_LIVE;
        ws_sub_live(sub, frame);
    } else {
        sub->kind = WS_FOLLOWED;
        ws_sub_follow(sub, &wanted.options);
    }
    selector_unref(wanted.selector);
}

/* ---------------------------------------------------------------- afterwards */

static struct ws_sub *sub_named(struct ws_session *session, const json_t *frame, uint64_t id)
{
    struct span name;
    struct ws_sub *sub = ws_text(frame, "sub", &name) ? sub_find(session, name) : NULL;
    if (sub == NULL)
        ws_error(session, id, STATUS_NOT_FOUND, "there is no such subscription");
    return sub;
}

void ws_unsubscribe(struct ws_session *session, json_t *frame, uint64_t id)
{
    struct ws_sub *sub = sub_named(session, frame, id);
    if (sub == NULL)
        return;
    if (sub->id != WS_NO_ID)
        ws_error(session, sub->id, STATUS_CANCELED, NULL);
    ws_sub_close(sub);
    ws_ok(session, id);
}

/* So many more than are left. */
void ws_credit(struct ws_session *session, json_t *frame, uint64_t id)
{
    struct ws_sub *sub = sub_named(session, frame, id);
    uint64_t more;
    if (sub == NULL)
        return;
    if (sub->unlimited || !ws_number(frame, "credit", WS_CREDIT_MAX, &more)) {
        ws_error(session, id, STATUS_INVALID,
                 "credit is 0 to 1000000, for a subscription that was made with credit");
        return;
    }
    uint32_t added = (uint32_t)more;
    if (sub->pending)
        sub->credit += added;
    if (sub->kind == WS_LIVE)
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
        struct ws_sub *sub = container_of(link, struct ws_sub, link);
        if (sub->number == number)
            return sub->consumer;
    }
    return NULL;
}

void ws_subs_drained(struct ws_session *session)
{
    list_each(link, &session->subs)
    {
        struct ws_sub *sub = container_of(link, struct ws_sub, link);
        if (sub->kind == WS_LIVE)
            client_drained(&sub->client);
    }
    client_drained(&session->client);
}

void ws_subs_close(struct ws_session *session)
{
    struct link *link;
    while ((link = list_first(&session->subs)) != NULL)
        ws_sub_close(container_of(link, struct ws_sub, link));
}
