/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions to queues: each is a consumer of a group, whose leases last until the client
 * answers or their time is over. All of a client's subscriptions live on its one credit; a record
 * that comes when there is none goes back to the group. */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/administer.h"

static const char DEFAULT_GROUP[] = "mqtt";
enum { AT_MOST_ONCE_CREDIT = 128, TAKE_RECORDS = 64, WAIT_MS = 1000, WAIT_MS_MAX = 64000 };

struct mqtt_queue {
    struct mqtt_session *session;
    struct link of_session;
    struct broker_join join;
    struct consumer *consumer; /* NULL: it joins, or waits to do so once more */
    struct loop_timer timer;   /* of one that came back when there was no room for its group */
    uint32_t wait_ms;          /* 0: there was, or it has not come back */
    struct mqtt_subscribing *subscribing;
    uint16_t place;
    uint8_t qos;
    uint32_t identifier;
    struct mqtt_asked asked;
    uint64_t queue, first_partition;
    bool dead;
    bool leaving;      /* unsubscribed, or the group has gone: what is unanswered may be answered */
    uint32_t settling; /* answers that are owed */
    struct span filter, group;
    char topic[MQTT_ADDRESS_TEXT];
    size_t topic_size;
    uint8_t bytes[];
};

static bool waits(const struct mqtt_queue *queue)
{
    return loop_timer_is_running(&queue->timer);
}

static void queue_free(struct mqtt_queue *queue)
{
    loop_timer_stop(broker_loop(queue->session->client.worker), &queue->timer);
    if (link_is_linked(&queue->of_session))
        queue->session->queue_count--;
    link_remove(&queue->of_session);
    heap_free(queue);
}

/* Unsubscribed, and nothing is owed any more. */
static void leave(struct mqtt_queue *queue)
{
    if (waits(queue)) {
        queue_free(queue);
        return;
    }
    if (!queue->leaving || queue->consumer == NULL || queue->settling > 0 ||
        consumer_lease_count(queue->consumer) > 0)
        return;
    consumer_close(queue->consumer, true);
    queue_free(queue);
}

bool mqtt_queue_is_of(const struct mqtt_queue *queue, uint64_t id)
{
    return queue->queue == id;
}

/* ------------------------------------------------ as a consumer */

static void deliver(struct consumer *consumer, uint32_t slot, const struct group_item *item)
{
    struct mqtt_queue *queue = consumer_context(consumer);
    struct mqtt_session *session = queue->session;
    if (session->state != MQTT_UP || queue->leaving) {
        consumer_settle(consumer, slot, SETTLE_RELEASED, 0, 0);
        return;
    }
    struct record record;
    batch_record(item->batch, item->index, &record);
    struct mqtt_shown shown = {
        .topic = span_of(queue->topic, queue->topic_size),
        .qos = queue->qos,
        .identifier = queue->identifier,
        .tells_topic = true,
        .failures = item->failures,
        .receipt = queue->asked.receipt ? &item->receipt : NULL,
        .tells_offset = queue->asked.offset,
        .partition = (int64_t)(item->receipt.partition - queue->first_partition),
    };
    if (queue->dead)
        shown.partition = -1;
    size_t size = mqtt_show(session, &record, &shown);
    if (size == 0 || size > session->packet_max) {
        /* Nobody but the queue's dead letters may want it; no answer brings its credit back. */
        consumer_settle(consumer, slot, SETTLE_REJECTED, 0, 0);
        consumer_credit(consumer, consumer_credit_left(consumer) + 1, false);
    } else if (queue->qos == 0) {
        mqtt_send_shown(session, &shown, size);
        consumer_settle(consumer, slot, SETTLE_DONE, 0, 0);
        if (consumer_credit_left(consumer) == 0)
            consumer_credit(consumer, AT_MOST_ONCE_CREDIT, false);
    } else if (!client_spend(&session->client)) {
        consumer_settle(consumer, slot, SETTLE_RELEASED, 0, 0);
        consumer_credit(consumer, 0, false);
    } else {
        shown.publish.packet_id =
            mqtt_take_id(session, queue->qos == 1 ? MQTT_OWED_PUBACK : MQTT_OWED_PUBREC);
        mqtt_lease_put(session, shown.publish.packet_id,
                       &(struct mqtt_lease){.queue = queue, .number = slot});
        mqtt_send_shown(session, &shown, size);
    }
}

static void settled(struct consumer *consumer, uint64_t token, enum status status)
{
    struct mqtt_queue *queue = consumer_context(consumer);
    queue->settling--;
    mqtt_settling_done((struct mqtt_settling *)(uintptr_t)token, status);
    leave(queue);
}

/* There is no word for it. */
static void ended(struct consumer *consumer, enum status why)
{
    struct mqtt_queue *queue = consumer_context(consumer);
    (void)why;
    queue->leaving = true;
    leave(queue);
}

static const struct consumer_ops consumer_ops = {
    .deliver = deliver,
    .settled = settled,
    .ended = ended,
};

void mqtt_queue_settle(struct mqtt_queue *queue, uint32_t slot, enum settle_outcome outcome,
                       uint32_t delay_ms)
{
    consumer_settle(queue->consumer, slot, outcome, delay_ms, 0);
    leave(queue);
}

void mqtt_queue_settle_asked(struct mqtt_queue *queue, uint32_t slot, enum mqtt_address_kind kind,
                             uint32_t ms, struct mqtt_settling *settling)
{
    uint64_t token = (uintptr_t)settling;
    queue->settling++;
    if (kind == MQTT_ADDRESS_NACK)
        consumer_settle(queue->consumer, slot, SETTLE_FAILED, ms, token);
    else
        consumer_renew(queue->consumer, slot, ms != 0 ? ms : queue->asked.lease_ms, token);
}

static void set_credit(struct mqtt_queue *queue)
{
    if (queue->consumer != NULL)
        consumer_credit(queue->consumer,
                        queue->leaving || queue->session->state != MQTT_UP ? 0
                        : queue->qos == 0                                  ? AT_MOST_ONCE_CREDIT
                                          : queue->session->client.credit,
                        false);
}

void mqtt_queues_credit(struct mqtt_session *session)
{
    list_each(link, &session->queues) set_credit(container_of(link, struct mqtt_queue, of_session));
}

/* ------------------------------------------------ subscribing */

static struct mqtt_queue *queue_find(const struct mqtt_session *session, struct span filter)
{
    list_each(link, &session->queues)
    {
        struct mqtt_queue *queue = container_of(link, struct mqtt_queue, of_session);
        if (!queue->leaving && span_equal(queue->filter, filter))
            return queue;
    }
    return NULL;
}

static void consume(struct mqtt_queue *queue, const struct group_spec *group)
{
    struct consumer_options options = {
        .group = group,
        .lease_ms = queue->asked.lease_ms,
        .dead = queue->dead,
        .name = queue->session->client.id,
        .batch_size = TAKE_RECORDS,
    };
    queue->consumer = consumer_open(&queue->session->client, &consumer_ops, queue, &options);
    set_credit(queue);
}

static void join(struct mqtt_queue *queue,
                 void (*done)(struct request *request, enum status status))
{
    struct client *client = &queue->session->client;
    queue->join = (struct broker_join){
        .client = client, .queue = queue->queue, .name = queue->group, .start = GROUP_LATEST};
    request_init(&queue->join.request, broker_loop(client->worker), done);
    broker_join(&queue->join);
}

static void join_ended(struct mqtt_queue *queue, enum status status, bool may_wait)
{
    struct mqtt_session *session = queue->session;
    bool stays = session->state != MQTT_DOWN && !queue->leaving;
    if (status == STATUS_OK && stays)
        consume(queue, queue->join.group);
    group_spec_unref(queue->join.group);
    if (queue->consumer != NULL)
        return;
    if (!stays || !may_wait || !status_is_retriable(status)) {
        queue_free(queue);
        return;
    }
    queue->wait_ms = queue->wait_ms == 0 ? WAIT_MS : queue->wait_ms * 2;
    if (queue->wait_ms > WAIT_MS_MAX)
        queue->wait_ms = WAIT_MS_MAX;
    loop_timer_start(broker_loop(session->client.worker), &queue->timer, queue->wait_ms);
}

static void joined_late(struct request *request, enum status status)
{
    struct mqtt_queue *queue = container_of(request, struct mqtt_queue, join.request);
    struct mqtt_session *session = queue->session;
    join_ended(queue, status, true);
    connection_release(session);
}

static void join_again(struct loop_timer *timer)
{
    struct mqtt_queue *queue = container_of(timer, struct mqtt_queue, timer);
    connection_hold(queue->session);
    join(queue, joined_late);
}

/* One that comes back asks again when there was no room: its client is not told, and does not ask.
 * If it does ask meanwhile, what is kept of it stays, and so does the wish. */
static void joined(struct request *request, enum status status)
{
    struct mqtt_queue *queue = container_of(request, struct mqtt_queue, join.request);
    struct mqtt_session *session = queue->session;
    struct mqtt_subscribing *subscribing = queue->subscribing;
    uint16_t place = queue->place;
    uint8_t reason = queue->qos;
    if (status == STATUS_OK && (session->state == MQTT_DOWN || queue->leaving))
        status = STATUS_CANCELED;
    if (status != STATUS_OK)
        reason = status == STATUS_NOT_FOUND || status == STATUS_INVALID
                     ? MQTT_REASON_FILTER_INVALID
                     : (uint8_t)mqtt_reason_on(status, MQTT_ON_SUBACK);
    join_ended(queue, status,
               session->state == MQTT_LOGIN ? status == STATUS_OVER_QUOTA : queue->wait_ms > 0);
    mqtt_subscribe_failed(subscribing, status);
    mqtt_subscribed(subscribing, place, reason);
}

static struct mqtt_queue *queue_new(struct mqtt_session *session, const struct mqtt_filter *filter,
                                    const struct mqtt_address *address, const struct queue *found)
{
    struct span group = address->group.size > 0 ? address->group : span_from_text(DEFAULT_GROUP);
    struct mqtt_queue *queue = heap_new(sizeof *queue + filter->filter.size + group.size);
    queue->session = session;
    queue->queue = found->id;
    queue->first_partition = found->first_partition;
    queue->dead = address->kind == MQTT_ADDRESS_DEAD;
    memcpy(queue->bytes, filter->filter.data, filter->filter.size);
    memcpy(queue->bytes + filter->filter.size, group.data, group.size);
    queue->filter = span_of(queue->bytes, filter->filter.size);
    queue->group = span_of(queue->bytes + filter->filter.size, group.size);
    queue->topic_size = mqtt_address_put(address, queue->topic);
    queue->timer.fired = join_again;
    list_push(&session->queues, &queue->of_session);
    session->queue_count++;
    return queue;
}

static void queue_set(struct mqtt_queue *queue, const struct mqtt_filter *filter,
                      const struct mqtt_asked *asked, uint32_t identifier)
{
    queue->qos = filter->qos;
    queue->identifier = identifier;
    queue->asked = *asked;
}

uint8_t mqtt_queue_subscribe(struct mqtt_session *session, const struct mqtt_filter *filter,
                             const struct mqtt_address *address, const struct mqtt_asked *asked,
                             uint32_t identifier, struct mqtt_subscribing *subscribing,
                             uint16_t place)
{
    struct client *client = &session->client;
    const struct catalog *catalog = broker_catalog(client->worker);
    const struct queue *found = catalog_queue_by_text(catalog, client->tenant, address->queue);
    struct mqtt_queue *queue = queue_find(session, filter->filter);
    uint32_t waited_ms = 0;
    if (found == NULL)
        return MQTT_REASON_FILTER_INVALID;
    if (broker_check(client, ACTION_CONSUME, false, span_from_text(found->name)) != STATUS_OK)
        return MQTT_REASON_NOT_AUTHORIZED;
    if (queue != NULL && queue->consumer != NULL) { /* the lease keeps the length it had */
        queue_set(queue, filter, asked, identifier);
        set_credit(queue);
        return filter->qos;
    }
    if (queue != NULL && waits(queue)) {
        waited_ms = queue->wait_ms;
        queue_free(queue);
        queue = NULL;
    }
    if (queue != NULL || session->queue_count >= LIMIT_SHARES)
        return MQTT_REASON_QUOTA_EXCEEDED; /* it joins just now */
    const struct group_spec *group = NULL;
    if (address->kind == MQTT_ADDRESS_DEAD) {
        group = catalog_group_by_text(catalog, found->id, address->group);
        if (group == NULL || group->dead_partition == 0)
            return MQTT_REASON_FILTER_INVALID;
    }
    queue = queue_new(session, filter, address, found);
    queue_set(queue, filter, asked, identifier);
    if (group != NULL) {
        consume(queue, group);
        return filter->qos;
    }
    queue->wait_ms = waited_ms;
    queue->subscribing = subscribing;
    queue->place = place;
    join(queue, joined);
    return MQTT_PENDING;
}

enum status mqtt_queue_unsubscribe(struct mqtt_session *session, struct span filter)
{
    struct mqtt_queue *queue = queue_find(session, filter);
    if (queue == NULL)
        return STATUS_NOT_FOUND;
    queue->leaving = true;
    set_credit(queue);
    leave(queue);
    return STATUS_OK;
}

void mqtt_queues_close(struct mqtt_session *session)
{
    struct link *link;
    mqtt_settlings_close(session);
    while ((link = list_pop(&session->queues)) != NULL) {
        struct mqtt_queue *queue = container_of(link, struct mqtt_queue, of_session);
        if (queue->consumer != NULL || waits(queue)) /* else its join comes back */
            queue_free(queue);
    }
    session->queue_count = 0;
}
