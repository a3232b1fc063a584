/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions to topic filters. The first subscriber of a filter on a worker announces it to all
 * other workers and is confirmed when each of them has taken it in: from then on every owner
 * matches it. */
#include "core/broker/session.h"
#include "core/broker/share.h"
#include "core/broker/topic.h"

#include "core/base/heap.h"

static struct span filter_of(const struct topic_entry *entry)
{
    return span_of(entry->filter, entry->filter_size);
}

/* ------------------------------------------------ announcements */

/* Filters that a worker begins (or ceases) to be interested in, on the way to one other worker and
 * back. */
struct announcement {
    struct mail mail;
    struct broker_worker *from, *to;
    struct broker_subscribe *subscribe; /* waits for it; NULL: a withdrawal */
    uint32_t count;
    size_t size;
    uint8_t filters[]; /* repeated {u32 size, bytes} */
};

/* The answer leaves before what is retained. */
static void holds_everywhere(struct broker_subscribe *subscribe)
{
    struct link *link;
    while (list_pop(&subscribe->waking) != NULL)
        continue;
    request_complete(&subscribe->request, STATUS_OK);
    while ((link = list_pop(&subscribe->walks)) != NULL)
        retained_walk_start(retained_walk_of(link));
}

void subscribe_confirmed(struct broker_subscribe *subscribe)
{
    if (--subscribe->confirms == 0)
        holds_everywhere(subscribe);
}

static void announcement_confirm(struct mail *mail)
{
    struct announcement *announcement = container_of(mail, struct announcement, mail);
    struct broker_subscribe *subscribe = announcement->subscribe;
    unsigned owner = announcement->to->index;
    announcement->from->unconfirmed--;
    heap_free(announcement);
    list_each(link, &subscribe->waking)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_subscribe);
        subscription->asleep &= ~(1ULL << owner);
        catch_up_awake(subscription, owner);
    }
    subscribe_confirmed(subscribe);
}

static void announcement_deliver(struct mail *mail)
{
    struct announcement *announcement = container_of(mail, struct announcement, mail);
    struct broker_worker *worker = announcement->to;
    uint64_t bit = 1ULL << announcement->from->index;
    size_t at = 0;
    for (uint32_t i = 0; i < announcement->count; i++) {
        uint32_t size;
        memcpy(&size, announcement->filters + at, sizeof size);
        struct span filter = span_of(announcement->filters + at + sizeof size, size);
        at += sizeof size + size;
        struct interest *interest = (struct interest *)topic_trie_put(worker->trie, filter);
        if (interest->subscriptions.head.next == NULL)
            list_init(&interest->subscriptions);
        if (announcement->subscribe != NULL)
            interest->workers |= bit;
        else
            interest->workers &= ~bit;
        if (interest->workers == 0 && interest->count == 0)
            topic_trie_remove(worker->trie, &interest->entry);
    }
    if (announcement->subscribe == NULL) {
        heap_free(announcement);
        return;
    }
    announcement->mail.deliver = announcement_confirm;
    mailbox_post(announcement->from->loop, &announcement->mail);
}

static void announce(struct broker_worker *worker, struct broker_subscribe *subscribe,
                     struct span filters, uint32_t count)
{
    struct broker *broker = worker->broker;
    for (unsigned i = 0; i < broker->worker_count; i++) {
        if (i == worker->index)
            continue;
        struct announcement *announcement = heap_new(sizeof *announcement + filters.size);
        announcement->mail.deliver = announcement_deliver;
        announcement->from = worker;
        announcement->to = &broker->workers[i];
        announcement->subscribe = subscribe;
        announcement->count = count;
        announcement->size = filters.size;
        if (filters.size > 0)
            memcpy(announcement->filters, filters.data, filters.size);
        if (subscribe != NULL) {
            subscribe->confirms++;
            worker->unconfirmed++;
        }
        mailbox_post(announcement->to->loop, &announcement->mail);
    }
}

static void put_filter(struct buf *filters, struct span filter)
{
    uint32_t size = (uint32_t)filter.size;
    CHECK(buf_append(filters, &size, sizeof size) == STATUS_OK);
    CHECK(buf_append(filters, filter.data, filter.size) == STATUS_OK);
}

/* ------------------------------------------------ subscriptions */

struct subscription *subscription_of(const struct client *client, struct span filter)
{
    struct topic_entry *entry = topic_trie_get(client->worker->trie, filter);
    if (entry == NULL)
        return NULL;
    list_each(link, &client->subscriptions)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_client);
        if (subscription->entry == entry)
            return subscription;
    }
    return NULL;
}

static void subscription_end(struct subscription *subscription)
{
    struct client *client = subscription->client;
    struct broker_worker *worker = client->worker;
    struct interest *interest = (struct interest *)subscription->entry;
    CHECK(!worker->delivering);
    if (session_is_kept(client))
        session_unsubscribed(subscription);
    link_remove(&subscription->of_client);
    link_remove(&subscription->of_entry);
    link_remove(&subscription->of_subscribe);
    retained_walk_end(subscription);
    client->subscription_count--;
    metric_add(worker->broker->metrics.subscriptions, -1);
    if (--interest->count == 0) {
        struct buf filters;
        buf_init(&filters, LIMIT_TOPIC_BYTES + sizeof(uint32_t));
        put_filter(&filters, filter_of(&interest->entry));
        announce(worker, NULL, buf_span(&filters), 1);
        buf_deinit(&filters);
        if (interest->workers == 0)
            topic_trie_remove(worker->trie, &interest->entry);
    }
    subscription_free(subscription);
}

uint32_t client_subscription_limit(const struct client *client)
{
    uint32_t limit = client->worker->broker->options.subscription_limit;
    return limit == 0 ? LIMIT_SUBSCRIPTIONS : limit;
}

enum status subscribe_check(struct client *client, const struct subscribe_item *item)
{
    if (!topic_filter_is_valid(item->filter) ||
        (topic_levels(item->filter) > broker_topic_levels(client->worker->broker) &&
         !share_is_reader(client)))
        return STATUS_INVALID;
    enum status status = broker_check(client, ACTION_CONSUME, true, item->filter);
    if (status == STATUS_OK && item->share.size == 0 &&
        client->subscription_count >= client_subscription_limit(client) &&
        subscription_of(client, item->filter) == NULL)
        status = STATUS_OVER_QUOTA;
    return status;
}

bool subscribe_wants_retained(const struct subscribe_item *item)
{
    return item->retained == RETAINED_ALWAYS ||
           (item->retained == RETAINED_WHEN_NEW && !item->existed);
}

/* Makes or changes one subscription; true when its filter is new on this worker. */
static bool add(struct broker_subscribe *subscribe, struct subscribe_item *item)
{
    struct client *client = subscribe->client;
    struct broker_worker *worker = client->worker;
    struct subscription *subscription = subscription_of(client, item->filter);
    bool is_new = false;
    item->existed = subscription != NULL;
    if (subscription == NULL) {
        struct interest *interest = (struct interest *)topic_trie_put(worker->trie, item->filter);
        if (interest->subscriptions.head.next == NULL)
            list_init(&interest->subscriptions);
        is_new = interest->count++ == 0;
        subscription = heap_new(sizeof *subscription);
        subscription->client = client;
        subscription->entry = &interest->entry;
        subscription->number = ++client->subscription_number;
        list_push(&interest->subscriptions, &subscription->of_entry);
        list_push(&client->subscriptions, &subscription->of_client);
        client->subscription_count++;
        metric_add(worker->broker->metrics.subscriptions, 1);
        list_push(&subscribe->waking, &subscription->of_subscribe);
        catch_up_floor(subscription);
    }
    if (!session_is_kept(client) && subscribe_wants_retained(item))
        list_push(&subscribe->walks, retained_walk_link(retained_walk_new(subscription)));
    subscription->guarantee = item->guarantee;
    subscription->identifier = item->identifier;
    subscription->no_local = item->no_local;
    subscription->retain_as_published = item->retain_as_published;
    selector_unref(subscription->selector);
    subscription->selector = item->selector == NULL ? NULL : selector_ref(item->selector);
    return is_new;
}

/* Until each of the other workers has confirmed. */
static void sleep_elsewhere(struct broker_subscribe *subscribe)
{
    const struct broker_worker *worker = subscribe->client->worker;
    unsigned count = worker->broker->worker_count;
    uint64_t all = count == 64 ? UINT64_MAX : (1ULL << count) - 1;
    list_each(link, &subscribe->waking)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_subscribe);
        subscription->asleep = all & ~(1ULL << worker->index);
    }
}

void broker_subscribe(struct broker_subscribe *subscribe)
{
    if (session_is_kept(subscribe->client))
        session_subscribe(subscribe);
    else
        subscribe_live(subscribe);
}

void subscribe_live(struct broker_subscribe *subscribe)
{
    struct client *client = subscribe->client;
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop));
    CHECK(client->open && !worker->delivering);
    CHECK(subscribe->count <= LIMIT_FILTERS_PER_CALL);
    struct buf filters;
    buf_init(&filters, (size_t)LIMIT_FILTERS_PER_CALL * (LIMIT_TOPIC_BYTES + sizeof(uint32_t)));
    uint32_t announced = 0;
    subscribe->confirms = 0;
    list_init(&subscribe->waking);
    list_init(&subscribe->walks);
    for (uint32_t i = 0; i < subscribe->count; i++) {
        struct subscribe_item *item = &subscribe->items[i];
        item->status = worker->ending ? STATUS_SHUTTING_DOWN : subscribe_check(client, item);
        if (item->status == STATUS_OK && item->share.size > 0) {
            if (share_subscribe(subscribe, item))
                subscribe->confirms++;
        } else if (item->status == STATUS_OK && add(subscribe, item)) {
            put_filter(&filters, item->filter);
            announced++;
        }
    }
    /* A filter that somebody else announced just now may not be confirmed yet: mails keep their
     * order, so an empty announcement waits for it too. */
    if (announced > 0 || worker->unconfirmed > 0) {
        sleep_elsewhere(subscribe);
        announce(worker, subscribe, buf_span(&filters), announced);
    }
    buf_deinit(&filters);
    if (subscribe->confirms == 0)
        holds_everywhere(subscribe);
}

const struct subscription *broker_subscription(const struct client *client, struct span *filter)
{
    struct link *first = list_first(&client->subscriptions);
    if (first == NULL)
        return NULL;
    const struct subscription *subscription = container_of(first, struct subscription, of_client);
    *filter = filter_of(subscription->entry);
    return subscription;
}

enum status broker_unsubscribe(struct client *client, struct span filter)
{
    CHECK(loop_is_home(client->worker->loop));
    struct subscription *subscription = subscription_of(client, filter);
    if (subscription == NULL)
        return STATUS_NOT_FOUND;
    subscription_end(subscription);
    return STATUS_OK;
}

void subscribe_close(struct client *client)
{
    selection_close(client);
    struct link *link;
    while ((link = list_first(&client->subscriptions)) != NULL)
        subscription_end(container_of(link, struct subscription, of_client));
}

void subscribe_recheck(struct client *client)
{
    list_each_safe(link, following, &client->subscriptions)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_client);
        if (broker_check(client, ACTION_CONSUME, true, filter_of(subscription->entry)) != STATUS_OK)
            subscription_end(subscription);
    }
    share_seats_recheck(client);
}
