/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions to topics: a client of its own for each link, which has the link's credit. */
#include "adapters/amqp/topic.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/sending.h"
#include "adapters/amqp/source.h"
#include "adapters/amqp/subscriber.h"
#include "adapters/amqp/transaction.h"
#include "adapters/amqp/view.h"
#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/broker/topic.h"
#include "core/queue/selector.h"

/* Above that bit of a variant: how many deliveries have failed. */
enum { VARIANT_UNSETTLED = 1, VARIANT_FAILURES = 1, UNSETTLED_MAX = LIMIT_CLIENT_CREDIT };
enum { TAG_COUNTED = 9, TAG_PLACED = 25, TAG_FAILED = 29 };

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
    return (uint32_t)subscription->failures << VARIANT_FAILURES | (settled ? 0 : VARIANT_UNSETTLED);
}

static struct blob *topic_encode(uint32_t variant, const struct record *record)
{
    uint32_t failures = variant >> VARIANT_FAILURES;
    struct amqp_shown shown = {
        .failures = failures, .first_acquirer = failures == 0, .now_ms = clock_wall_ms()};
    return amqp_message_frame(record, &shown);
}

/* What the broker knows a delivery by is kept with it, plus one: none is NULL. */
void amqp_number_set(pn_delivery_t *delivery, uint32_t number)
{
    pn_delivery_set_context(delivery, (void *)((uintptr_t)number + 1));
}

static void send(struct amqp_link *link, struct blob *frame, struct span tag, bool settled,
                 uint32_t number)
{
    if (!settled)
        link->subscriber->unsettled++;
    amqp_send(link, &(struct amqp_outgoing){.tag = tag,
                                            .message = blob_span(frame),
                                            .frame = frame,
                                            .slot = number,
                                            .settled = settled});
}

/* The tag of what nobody keeps is new each time; it says where the record is, if that is known, and
 * how often it has failed. */
static struct span tag_write(struct amqp_link *link, const struct subscription *place,
                             uint8_t tag[TAG_FAILED])
{
    tag[0] = 't';
    store_u64(tag + 1, link->tag++);
    if (place == NULL)
        return span_of(tag, TAG_COUNTED);
    store_u64(tag + TAG_COUNTED, place->shown_partition);
    store_u64(tag + TAG_COUNTED + 8, place->shown_offset);
    if (place->failures == 0)
        return span_of(tag, TAG_PLACED);
    store_u32(tag + TAG_PLACED, place->failures);
    return span_of(tag, TAG_FAILED);
}

static bool topic_deliver(struct client *client, struct subscription *subscription,
                          struct blob *frame, uint32_t variant, const struct record *record)
{
    struct amqp_subscriber *subscriber = subscriber_of(client);
    struct amqp_link *link = subscriber->link;
    bool settled = (variant & VARIANT_UNSETTLED) == 0;
    uint32_t number = !settled && subscription->shared ? subscription->lease : 0;
    bool placed = !settled && !subscription->shared && (record->attributes & RECORD_RECALLED) == 0;
    uint8_t tag[TAG_FAILED];
    if (link == NULL || (pn_link_state(link->pn) & PN_LOCAL_UNINIT)) /* at most once, so early */
        return true;
    if (subscriber->kept && !settled) /* by nobody: another link took it while this one came */
        return true;
    if (amqp_is_too_large(link, frame->size))
        return false;
    if (settled)
        client_spend(client); /* the broker took none, but the link's is one less */
    if (subscription->shared)
        subscriber->shared = subscription;
    send(link, frame, tag_write(link, placed ? subscription : NULL, tag), settled, number);
    return true;
}

/* A tag names the record, so that it is the same when the record comes again. */
static bool topic_deliver_kept(struct client *client, struct blob *frame,
                               const struct kept_delivery *kept)
{
    struct amqp_subscriber *subscriber = subscriber_of(client);
    uint8_t tag[16];
    if (subscriber->link == NULL)
        return true; /* it stays in flight for the next link */
    if (amqp_is_too_large(subscriber->link, frame->size))
        return false;
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
    amqp_send_drained(link);
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
    .release = amqp_kept_release,
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
    uint32_t credit = amqp_send_credit(subscriber->link);
    uint32_t unsettled = subscriber->unsettled;
    uint32_t room = unsettled < UNSETTLED_MAX ? UNSETTLED_MAX - unsettled : 0;
    client_allow(&subscriber->client, credit < room ? credit : room);
}

void amqp_topic_flow(struct amqp_link *link, bool drain)
{
    link->draining = drain && amqp_send_credit(link) > 0;
    allow(link->subscriber);
    if (link->draining)
        client_drain(&link->subscriber->client);
}

bool amqp_topic_drain_ends(struct amqp_link *link)
{
    bool ends = link->draining && link->subscriber->unsettled >= UNSETTLED_MAX;
    if (ends)
        topic_caught_up(&link->subscriber->client);
    return ends;
}

/* ------------------------------------------------ what comes again */

/* Where the delivery's record is, if nobody keeps that, and how often it has failed. */
static void read_place(const struct amqp_subscriber *subscriber, pn_delivery_t *delivery,
                       struct amqp_topic_delivery *topic)
{
    pn_delivery_tag_t tag = pn_delivery_tag(delivery);
    if (subscriber->shared != NULL || topic->number != 0 || tag.size < TAG_PLACED)
        return;
    const uint8_t *place = (const uint8_t *)tag.start + TAG_COUNTED;
    topic->placed = true;
    topic->partition = load_u64(place);
    topic->offset = load_u64(place + 8);
    topic->failures = tag.size == TAG_FAILED ? (uint16_t)load_u32(place + 16) : 0;
}

static void give_back(struct amqp_subscriber *subscriber, const struct amqp_topic_delivery *topic,
                      bool failed)
{
    if (subscriber->shared != NULL) {
        broker_share_again(subscriber->shared, topic->number, failed);
    } else if (topic->number != 0) {
        broker_again(&subscriber->client, topic->number, failed);
    } else if (topic->placed) {
        broker_give_back(&subscriber->client, topic->partition, topic->offset, topic->failures,
                         failed);
    }
}

void amqp_topic_return(struct amqp_link *link, const struct amqp_topic_delivery *topic, bool failed)
{
    link->subscriber->unsettled--;
    give_back(link->subscriber, topic, failed);
    allow(link->subscriber);
}

/* ------------------------------------------------ outcomes */

void amqp_topic_outcome(struct amqp_topic_delivery *topic, uint64_t outcome, bool failed,
                        bool undeliverable)
{
    bool modified = outcome == PN_MODIFIED;
    topic->again = outcome == 0 || outcome == PN_RELEASED || (modified && !undeliverable);
    topic->failed = modified && failed;
}

void amqp_topic_over(struct amqp_link *link, const struct amqp_topic_delivery *topic,
                     bool with_commit)
{
    struct amqp_subscriber *subscriber = link->subscriber;
    subscriber->unsettled--;
    if (topic->again)
        give_back(subscriber, topic, topic->failed);
    else if (subscriber->shared != NULL && !with_commit)
        broker_share_settled(subscriber->shared, topic->number);
    else if (topic->number != 0 && !with_commit)
        broker_settled(&subscriber->client, topic->number);
    allow(subscriber);
}

/* Its receiver is told when the end of it is durable. False: it is not kept. */
static bool waits(struct amqp_subscriber *subscriber, pn_delivery_t *delivery,
                  const struct amqp_topic_delivery *topic)
{
    if (subscriber->shared != NULL)
        return amqp_shared_take(subscriber, delivery, topic->number);
    if (topic->number != 0)
        amqp_kept_take(subscriber, delivery, topic->number);
    return topic->number != 0;
}

void amqp_topic_settled(struct amqp_link *link, pn_delivery_t *delivery)
{
    uintptr_t context = (uintptr_t)pn_delivery_get_context(delivery);
    uint64_t state = pn_delivery_remote_state(delivery);
    bool within = state == AMQP_TRANSACTIONAL, named = within || amqp_is_outcome(state);
    if (context == 0 || (!named && !pn_delivery_settled(delivery)))
        return;
    struct amqp_topic_delivery topic = {.number = (uint32_t)(context - 1)};
    read_place(link->subscriber, delivery, &topic);
    if (within) {
        pn_delivery_set_context(delivery, NULL);
        amqp_transaction_settle_topic(link, delivery, &topic);
        return;
    }
    pn_disposition_t *remote = pn_delivery_remote(delivery);
    const struct amqp_default *unnamed = &link->unnamed;
    if (!named) /* settled without a word, or with none that says what becomes of it */
        amqp_topic_outcome(&topic, unnamed->outcome, unnamed->failed, unnamed->undeliverable);
    else
        amqp_topic_outcome(&topic, state, pn_disposition_is_failed(remote),
                           pn_disposition_is_undeliverable(remote));
    pn_delivery_set_context(delivery, NULL);
    if (!topic.again && !pn_delivery_settled(delivery) && waits(link->subscriber, delivery, &topic))
        return;
    pn_delivery_update(delivery, state);
    pn_delivery_settle(delivery);
    amqp_topic_over(link, &topic, false);
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
            amqp_subscriber_refuse_stolen(subscriber);
    }
}

/* ------------------------------------------------ attach */

void amqp_subscriber_free(struct amqp_subscriber *subscriber)
{
    if (subscriber->given_up != NULL)
        return; /* first it has to be attached */
    amqp_claim_end(subscriber);
    client_close(&subscriber->client);
    if (subscriber->pending)
        return; /* its request comes back first */
    broker_session_release(subscriber->hold);
    subscriber->connection->subscriber_count--;
    link_remove(&subscriber->of_connection);
    selector_unref(subscriber->item.selector);
    heap_free(subscriber->taken);
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

void amqp_subscriber_refuse_stolen(struct amqp_subscriber *subscriber)
{
    amqp_subscriber_refuse(subscriber, "amqp:link:stolen",
                           "the subscription has gone to another link", STATUS_STALE);
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
    bool keeps = subscriber->kept || subscriber->looks;
    if (!keeps || amqp_kept_leave(subscriber, link))
        amqp_subscriber_free(subscriber);
}
