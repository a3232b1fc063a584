/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions to topics: a client of its own for each link, which has the link's credit. */
#include "adapters/amqp/connection.h"
#include "core/base/clock.h"
#include "core/base/pack.h"
#include "core/broker/topic.h"

enum { VARIANT_SETTLED, VARIANT_UNSETTLED, UNSETTLED_MAX = LIMIT_CLIENT_CREDIT };

static struct amqp_subscriber *subscriber_of(struct client *client)
{
    return (struct amqp_subscriber *)client;
}

/* ------------------------------------------------ deliveries */

static uint32_t topic_variant(struct client *client, const struct subscription *subscription,
                              const struct record *record)
{
    (void)client;
    bool settled = subscription->guarantee == GUARANTEE_AT_MOST_ONCE ||
                   record_guarantee(record) == GUARANTEE_AT_MOST_ONCE;
    return settled ? VARIANT_SETTLED : VARIANT_UNSETTLED;
}

static struct blob *topic_encode(uint32_t variant, const struct record *record)
{
    (void)variant;
    struct amqp_shown shown = {.first_acquirer = true, .now_ms = clock_wall_ms()};
    return amqp_message_frame(record, &shown);
}

/* What the broker knows a delivery by is kept with it, plus one: none is NULL. */
static pn_delivery_t *send(struct amqp_link *link, struct blob *frame, struct span tag,
                           bool settled, uint32_t number)
{
    pn_delivery_t *delivery = pn_delivery(link->pn, pn_dtag((const char *)tag.data, tag.size));
    pn_link_send(link->pn, (const char *)frame->bytes, frame->size);
    if (settled) {
        pn_delivery_settle(delivery);
    } else {
        pn_delivery_set_context(delivery, (void *)((uintptr_t)number + 1));
        link->subscriber->unsettled++;
    }
    pn_link_advance(link->pn);
    amqp_wake(link->connection);
    return delivery;
}

static void topic_deliver(struct client *client, struct subscription *subscription,
                          struct blob *frame, uint32_t variant, const struct record *record)
{
    struct amqp_subscriber *subscriber = subscriber_of(client);
    struct amqp_link *link = subscriber->link;
    bool settled = variant == VARIANT_SETTLED;
    uint32_t number = !settled && subscription->shared ? subscription->lease : 0;
    uint8_t tag[9] = {'t'};
    (void)record;
    if (link == NULL || (pn_link_state(link->pn) & PN_LOCAL_UNINIT)) /* at most once, so early */
        return;
    if (settled)
        client_spend(client); /* the broker took none, but the link's is one less */
    if (subscription->shared)
        subscriber->shared = subscription;
    store_u64(tag + 1, link->tag++);
    send(link, frame, span_of(tag, sizeof tag), settled, number);
}

/* A tag names the record, so that it is the same when the record comes again. */
static bool topic_deliver_kept(struct client *client, struct blob *frame,
                               const struct kept_delivery *kept)
{
    struct amqp_subscriber *subscriber = subscriber_of(client);
    uint8_t tag[16];
    if (subscriber->link == NULL)
        return true; /* it stays in flight for the next link */
    store_u64(tag, kept->offset);
    store_u64(tag + 8, kept->partition);
    bool settles = subscriber->link->settles;
    send(subscriber->link, frame, span_of(tag, sizeof tag), settles, kept->number);
    if (settles)
        broker_settled(client, kept->number);
    return true;
}

static size_t topic_queued(struct client *client)
{
    return amqp_queued(subscriber_of(client)->connection);
}

static void topic_caught_up(struct client *client)
{
    struct amqp_link *link = subscriber_of(client)->link;
    if (link == NULL || !link->draining || link->pn == NULL)
        return;
    link->draining = false;
    client_allow(client, 0); /* what a drain used up is not the broker's either */
    pn_link_drained(link->pn);
    amqp_wake(link->connection);
}

static void topic_end(struct client *client, enum status why)
{
    struct amqp_subscriber *subscriber = subscriber_of(client);
    if (why == STATUS_STORAGE_FAILED)
        amqp_end(subscriber->connection, amqp_condition_of(why), status_text(why));
    if (why != STATUS_STALE)
        return; /* the connection is told */
    subscriber->stolen = subscriber->connection->stolen = true;
    amqp_wake(subscriber->connection);
}

static const struct client_ops topic_ops = {
    .protocol = "amqp",
    .variant = topic_variant,
    .encode = topic_encode,
    .deliver = topic_deliver,
    .deliver_kept = topic_deliver_kept,
    .queued = topic_queued,
    .caught_up = topic_caught_up,
    .end = topic_end,
};

/* ------------------------------------------------ credit and outcomes */

/* The link's credit, as long as not too much is unsettled; none before its attach is answered. */
static void allow(struct amqp_subscriber *subscriber)
{
    if (pn_link_state(subscriber->link->pn) & PN_LOCAL_UNINIT)
        return;
    int credit = pn_link_credit(subscriber->link->pn);
    uint32_t unsettled = subscriber->unsettled;
    uint32_t room = unsettled < UNSETTLED_MAX ? UNSETTLED_MAX - unsettled : 0;
    if (credit < 0)
        credit = 0;
    client_allow(&subscriber->client, (uint32_t)credit < room ? (uint32_t)credit : room);
}

void amqp_topic_flow(struct amqp_link *link, bool drain)
{
    link->draining = drain && pn_link_credit(link->pn) > 0;
    allow(link->subscriber);
    if (link->draining)
        client_drain(&link->subscriber->client);
}

/* True: the receiver wants it again, or of what is shared somebody; of what is neither there is no
 * more than this. */
static bool is_wanted_again(pn_delivery_t *delivery)
{
    pn_disposition_t *remote = pn_delivery_remote(delivery);
    uint64_t state = pn_delivery_remote_state(delivery);
    return state == 0 || state == PN_RELEASED ||
           (state == PN_MODIFIED && !pn_disposition_is_undeliverable(remote));
}

void amqp_topic_settled(struct amqp_link *link, pn_delivery_t *delivery)
{
    struct amqp_subscriber *subscriber = link->subscriber;
    uintptr_t context = (uintptr_t)pn_delivery_get_context(delivery);
    if (pn_delivery_remote_state(delivery) == PN_RECEIVED ||
        (pn_delivery_remote_state(delivery) == 0 && !pn_delivery_settled(delivery)))
        return;
    if (pn_delivery_remote_state(delivery) == AMQP_TRANSACTIONAL) { /* what groups lease only */
        amqp_transaction_fail(link, delivery, STATUS_UNSUPPORTED);
        amqp_subscriber_refuse(subscriber, amqp_condition_of(STATUS_UNSUPPORTED),
                               "deliveries of topics cannot be settled in transactions",
                               STATUS_UNSUPPORTED);
        return;
    }
    bool again = is_wanted_again(delivery);
    pn_delivery_set_context(delivery, NULL);
    pn_delivery_update(delivery, pn_delivery_remote_state(delivery));
    pn_delivery_settle(delivery);
    if (context == 0)
        return;
    uint32_t number = (uint32_t)(context - 1);
    subscriber->unsettled--;
    if (subscriber->shared != NULL && again)
        broker_share_again(subscriber->shared, number);
    else if (subscriber->shared != NULL)
        broker_share_settled(subscriber->shared, number);
    else if (number != 0 && again)
        broker_again(&subscriber->client, number);
    else if (number != 0)
        broker_settled(&subscriber->client, number);
    allow(subscriber);
}

void amqp_subscribers_drained(struct amqp_connection *connection)
{
    list_each(at, &connection->subscribers)
    {
        client_drained(&container_of(at, struct amqp_subscriber, of_connection)->client);
    }
}

/* Another link of the same name, of the same container, has what they kept. */
void amqp_subscribers_stolen(struct amqp_connection *connection)
{
    connection->stolen = false;
    list_each_safe(at, following, &connection->subscribers)
    {
        struct amqp_subscriber *subscriber =
            container_of(at, struct amqp_subscriber, of_connection);
        if (subscriber->stolen && subscriber->link == NULL)
            amqp_subscriber_free(subscriber);
        else if (subscriber->stolen)
            amqp_subscriber_refuse(subscriber, "amqp:link:stolen",
                                   "the subscription has gone to another link", STATUS_STALE);
    }
}

/* ------------------------------------------------ attach */

void amqp_subscriber_free(struct amqp_subscriber *subscriber)
{
    if (subscriber->given_up)
        return; /* first it has to be attached */
    amqp_claim_end(subscriber);
    client_close(&subscriber->client);
    if (subscriber->pending)
        return; /* its request comes back first */
    subscriber->connection->subscriber_count--;
    link_remove(&subscriber->of_connection);
    selector_unref(subscriber->item.selector);
    heap_free((void *)(uintptr_t)subscriber->item.filter.data);
    heap_free((void *)(uintptr_t)subscriber->item.share.data);
    heap_free((void *)(uintptr_t)subscriber->name.data);
    connection_release(subscriber->connection);
    heap_free(subscriber);
}

void amqp_subscriber_refuse(struct amqp_subscriber *subscriber, const char *condition,
                            const char *text, enum status status)
{
    if (subscriber->link == NULL)
        return;
    amqp_count_refusal(status);
    amqp_link_refuse(subscriber->link, condition, text); /* which frees it */
}

void amqp_subscriber_ready(struct amqp_subscriber *subscriber)
{
    amqp_link_accept(subscriber->link);
    amqp_source_flow(subscriber->link);
}

static void subscribed(struct request *request, enum status status)
{
    struct amqp_subscriber *subscriber =
        container_of(request, struct amqp_subscriber, subscribe.request);
    subscriber->pending = false;
    if (status == STATUS_OK)
        status = subscriber->item.status;
    if (subscriber->link == NULL) {
        amqp_subscriber_free(subscriber);
    } else if (status == STATUS_OK) {
        amqp_subscriber_ready(subscriber);
    } else {
        if (subscriber->kept && !subscriber->attach.present)
            broker_session_expiry(&subscriber->client, 0);
        amqp_subscriber_refuse(subscriber, amqp_condition_of(status),
                               status == STATUS_EXISTS ? "others share it with another selector"
                                                       : status_text(status),
                               status);
    }
}

void amqp_subscriber_subscribe(struct amqp_subscriber *subscriber)
{
    subscriber->subscribe = (struct broker_subscribe){
        .client = &subscriber->client, .items = &subscriber->item, .count = 1};
    request_init(&subscriber->subscribe.request, amqp_loop(subscriber->connection), subscribed);
    subscriber->pending = true;
    broker_subscribe(&subscriber->subscribe);
}

/* The link's own client, without credit. */
void amqp_subscriber_fork(struct amqp_subscriber *subscriber)
{
    client_fork(&subscriber->client, &topic_ops, &subscriber->connection->client, 0);
    client_set_credit(&subscriber->client, UNSETTLED_MAX);
    client_allow(&subscriber->client, 0);
}

/* NULL: the link has been refused. */
static struct amqp_subscriber *subscriber_new(struct amqp_link *link)
{
    struct amqp_connection *connection = link->connection;
    if (connection->subscriber_count >= client_subscription_limit(&connection->client)) {
        amqp_link_refuse_status(link, STATUS_OVER_QUOTA);
        return NULL;
    }
    struct amqp_subscriber *subscriber = heap_new(sizeof *subscriber);
    subscriber->connection = connection;
    subscriber->link = link;
    subscriber->session = link->session;
    connection->subscriber_count++;
    connection_hold(connection);
    list_push(&connection->subscribers, &subscriber->of_connection);
    link->kind = AMQP_FROM_TOPIC;
    link->settles = pn_link_remote_snd_settle_mode(link->pn) == PN_SND_SETTLED;
    link->subscriber = subscriber;
    amqp_subscriber_fork(subscriber);
    return subscriber;
}

void amqp_topic_open(struct amqp_link *link, struct span filter)
{
    if (!topic_filter_is_valid(filter)) {
        amqp_link_refuse_status(link, STATUS_INVALID);
        return;
    }
    struct amqp_subscriber *subscriber = subscriber_new(link);
    if (subscriber == NULL)
        return;
    struct selector *selector = link->filter.selector;
    subscriber->item = (struct subscribe_item){
        .filter = span_of(heap_text((const char *)filter.data, filter.size), filter.size),
        .guarantee = link->settles ? GUARANTEE_AT_MOST_ONCE : GUARANTEE_AT_LEAST_ONCE,
        .no_local = link->filter.no_local,
        .selector = selector == NULL ? NULL : selector_ref(selector),
    };
    enum status status = amqp_kept_read(subscriber, pn_link_source(link->pn));
    if (status == STATUS_UNSUPPORTED)
        amqp_subscriber_refuse(subscriber, amqp_condition_of(status),
                               "a shared subscription lasts until it is given up, or as its links",
                               status);
    else if (status != STATUS_OK)
        amqp_link_refuse_status(link, status);
    else if (subscriber->kept && subscriber->item.share.size > 0)
        amqp_claim(subscriber);
    else if (subscriber->kept)
        amqp_kept_attach(subscriber);
    else
        amqp_subscriber_subscribe(subscriber);
}

void amqp_topic_recover(struct amqp_link *link)
{
    struct amqp_subscriber *subscriber = subscriber_new(link);
    if (subscriber == NULL)
        return;
    subscriber->looks = true;
    enum status status = amqp_kept_read(subscriber, pn_link_source(link->pn));
    if (status != STATUS_OK)
        amqp_link_refuse_status(link, status);
    else
        amqp_kept_attach(subscriber);
}

void amqp_topic_close(struct amqp_link *link)
{
    struct amqp_subscriber *subscriber = link->subscriber;
    link->subscriber = NULL;
    subscriber->link = NULL;
    client_allow(&subscriber->client, 0);
    if (!subscriber->kept || amqp_kept_leave(subscriber, link->leaving))
        amqp_subscriber_free(subscriber);
}
