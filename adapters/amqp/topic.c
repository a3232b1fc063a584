/* SPDX-License-Identifier: Apache-2.0 */
/* Live subscriptions to topics. The broker knows a filter once per client, so links of one
 * connection that ask for the same filter share it. */
#include "adapters/amqp/connection.h"
#include "core/base/clock.h"
#include "core/base/pack.h"
#include "core/broker/topic.h"

enum { VARIANT_SETTLED, VARIANT_UNSETTLED };

struct subscribing {
    struct broker_subscribe subscribe;
    struct subscribe_item item;
    struct amqp_link *link;
    char *filter;
};

static struct amqp_topic *topic_by_filter(struct amqp_connection *connection, const char *filter)
{
    list_each(at, &connection->topics)
    {
        struct amqp_topic *topic = container_of(at, struct amqp_topic, of_connection);
        if (strcmp(topic->filter, filter) == 0)
            return topic;
    }
    return NULL;
}

static void topic_free(struct amqp_topic *topic)
{
    link_remove(&topic->of_connection);
    heap_free(topic->filter);
    heap_free(topic);
}

void amqp_topics_free(struct amqp_connection *connection)
{
    list_each_safe(at, following, &connection->topics)
        topic_free(container_of(at, struct amqp_topic, of_connection));
}

/* ------------------------------------------------ attach */

static void subscribed(struct request *request, enum status status)
{
    struct subscribing *subscribing = container_of(request, struct subscribing, subscribe.request);
    struct amqp_link *link = subscribing->link;
    if (status == STATUS_OK)
        status = subscribing->item.status;
    if (link->pn != NULL && status == STATUS_OK) {
        amqp_link_accept(link);
        amqp_source_flow(link);
    } else if (link->pn != NULL) {
        amqp_link_refuse_status(link, status);
    }
    heap_free(subscribing->filter);
    heap_free(subscribing);
    amqp_link_unref(link);
}

static void subscribe(struct amqp_link *link, const struct amqp_topic *topic, bool no_local)
{
    struct subscribing *subscribing = heap_new(sizeof *subscribing);
    subscribing->link = link;
    subscribing->filter = heap_text(topic->filter, strlen(topic->filter));
    subscribing->item = (struct subscribe_item){
        .filter = span_from_text(subscribing->filter),
        .guarantee = link->settles ? GUARANTEE_AT_MOST_ONCE : GUARANTEE_AT_LEAST_ONCE,
        .identifier = topic->identifier,
        .no_local = no_local,
    };
    subscribing->subscribe = (struct broker_subscribe){
        .client = &link->connection->client,
        .items = &subscribing->item,
        .count = 1,
    };
    request_init(&subscribing->subscribe.request, amqp_loop(link->connection), subscribed);
    link->refs++;
    broker_subscribe(&subscribing->subscribe);
}

void amqp_topic_open(struct amqp_link *link, struct span filter, bool no_local)
{
    struct amqp_connection *connection = link->connection;
    if (!topic_filter_is_valid(filter)) {
        amqp_link_refuse_status(link, STATUS_INVALID);
        return;
    }
    link->kind = AMQP_FROM_TOPIC;
    link->settles = pn_link_remote_snd_settle_mode(link->pn) == PN_SND_SETTLED;
    link->topic = heap_text((const char *)filter.data, filter.size);
    struct amqp_topic *topic = topic_by_filter(connection, link->topic);
    if (topic == NULL) {
        topic = heap_new(sizeof *topic);
        topic->filter = heap_text(link->topic, filter.size);
        topic->identifier = ++connection->topic_number;
        list_init(&topic->links);
        list_push(&connection->topics, &topic->of_connection);
    }
    list_push(&topic->links, &link->of_topic);
    subscribe(link, topic, no_local);
}

void amqp_topic_close(struct amqp_link *link)
{
    struct amqp_connection *connection = link->connection;
    struct amqp_topic *topic = topic_by_filter(connection, link->topic);
    link_remove(&link->of_topic);
    if (topic != NULL && list_is_empty(&topic->links)) {
        if (connection->state != AMQP_DOWN)
            broker_unsubscribe(&connection->client, span_from_text(topic->filter));
        topic_free(topic);
    }
    if (link->unsettled > 0 && connection->state != AMQP_DOWN)
        client_settled(&connection->client, link->unsettled);
    link->unsettled = 0;
}

/* ------------------------------------------------ deliveries */

uint32_t amqp_variant(struct client *client, const struct subscription *subscription,
                      const struct record *record)
{
    (void)client;
    bool settled = subscription->guarantee == GUARANTEE_AT_MOST_ONCE ||
                   record_guarantee(record) == GUARANTEE_AT_MOST_ONCE;
    return settled ? VARIANT_SETTLED : VARIANT_UNSETTLED;
}

struct blob *amqp_encode(uint32_t variant, const struct record *record)
{
    (void)variant;
    struct amqp_shown shown = {.first_acquirer = true, .now_ms = clock_wall_ms()};
    uint8_t *message = amqp_scratch(amqp_view_bound(record));
    if (message == NULL)
        return NULL;
    size_t size = amqp_view_write(record, &shown, message);
    struct blob *frame = blob_copy(span_of(message, size));
    amqp_scratch_release(message);
    return frame;
}

/* Where the broker took credit for the delivery, the first link that does not settle stands for it;
 * takes_credit: nobody does yet. */
static void deliver_to(struct amqp_link *link, struct blob *frame, bool *takes_credit, bool settled)
{
    uint8_t tag[8];
    store_u64(tag, link->tag++);
    pn_delivery_t *delivery = pn_delivery(link->pn, pn_dtag((const char *)tag, sizeof tag));
    pn_link_send(link->pn, (const char *)frame->bytes, frame->size);
    if (settled || link->settles) {
        pn_delivery_settle(delivery);
    } else if (*takes_credit) {
        *takes_credit = false;
        link->unsettled++;
        pn_delivery_set_context(delivery, link);
    }
    pn_link_advance(link->pn);
}

void amqp_deliver(struct client *client, struct subscription *subscription, struct blob *frame,
                  uint32_t variant, const struct record *record)
{
    struct amqp_connection *connection = amqp_connection_of(client);
    bool takes_credit = variant == VARIANT_UNSETTLED, was = takes_credit;
    (void)record;
    list_each(at, &connection->topics)
    {
        struct amqp_topic *topic = container_of(at, struct amqp_topic, of_connection);
        if (topic->identifier != subscription->identifier)
            continue;
        list_each(other, &topic->links)
        {
            struct amqp_link *link = container_of(other, struct amqp_link, of_topic);
            if (link->pn != NULL && !(pn_link_state(link->pn) & PN_LOCAL_UNINIT))
                deliver_to(link, frame, &takes_credit, !was);
        }
    }
    if (takes_credit)
        client_settled(client, 1); /* all of them settle */
    amqp_wake(connection);
}

void amqp_topic_settled(struct amqp_link *link, pn_delivery_t *delivery)
{
    if (pn_delivery_remote_state(delivery) == 0 && !pn_delivery_settled(delivery))
        return;
    if (pn_delivery_get_context(delivery) != NULL) {
        link->unsettled--;
        client_settled(&link->connection->client, 1);
    }
    pn_delivery_set_context(delivery, NULL);
    pn_delivery_update(delivery, pn_delivery_remote_state(delivery));
    pn_delivery_settle(delivery);
}
