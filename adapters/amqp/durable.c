/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions to topics that outlive their links: sessions of the broker, named by the user, the
 * container and the link. A source asks for one by its durability and an expiry that is not at
 * once (part 3, 3.5.3 to 3.5.6).
 *
 *   attach --kept and wanted as it is--> goes on: what was unsettled comes first
 *          --kept otherwise--> given up --> begins
 *          --not kept--> begins, or, where nothing is said of a source, is refused
 *   detach --> kept until it expires: at once, with the session, with the connection, or never
 *   close  --> given up
 *
 * What several links share is kept by a session of another kind (claim.c) under the same names. */
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/source.h"
#include "adapters/amqp/subscriber.h"
#include "adapters/amqp/topic.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/queue/selector.h"

/* ------------------------------------------------ what is asked for */

static enum amqp_expiry expiry_of(pn_terminus_t *source)
{
    switch (pn_terminus_get_expiry_policy(source)) {
    case PN_EXPIRE_NEVER:
        return AMQP_NEVER;
    case PN_EXPIRE_WITH_CONNECTION:
        return AMQP_AFTER_CONNECTION;
    case PN_EXPIRE_WITH_SESSION:
        return AMQP_AFTER_SESSION;
    case PN_EXPIRE_WITH_LINK:
        break;
    }
    return AMQP_AFTER_LINK;
}

/* A name of its own for each user, container and subscription; of one that is global, for each user
 * and subscription. No client id and no share of another protocol begins with a zero byte, and no
 * part holds one. */
static enum status name_it(const struct amqp_subscriber *subscriber, struct span text, bool global,
                           size_t limit, struct span *full)
{
    const struct client *client = &subscriber->client;
    struct buf name;
    buf_init(&name, limit);
    struct pack pack = pack_into(&name);
    pack_bytes(&pack, global ? span_of("\0amqp*", 7) : span_of("\0amqp", 6));
    /* "user/client id" */
    pack_bytes(&pack, span_of(client->publisher,
                              client->publisher_size - (global ? client->id.size + 1 : 0)));
    pack_u8(&pack, 0);
    pack_bytes(&pack, text);
    *full = buf_span(&name); /* the bytes go over */
    return pack.status == STATUS_OK ? STATUS_OK : STATUS_INVALID;
}

/* Links of one shared subscription have names of their own: what comes before a | is its name. Who
 * asks for a global one shares it with everybody, of whatever container and protocol. */
static enum status share_it(struct amqp_subscriber *subscriber, bool global)
{
    const char *text = pn_link_name(subscriber->link->pn);
    struct span own = span_of(text, strcspn(text, "|"));
    struct span *share = &subscriber->item.share;
    if (subscriber->kept &&
        name_it(subscriber, own, global, LIMIT_CLIENT_ID_BYTES, &subscriber->name) != STATUS_OK)
        return STATUS_INVALID;
    if (!global)
        return name_it(subscriber, own, false, LIMIT_SHARE_NAME, share);
    *share = span_of(heap_text(text, own.size), own.size);
    return own.size > 0 && own.size <= LIMIT_SHARE_NAME ? STATUS_OK : STATUS_INVALID;
}

/* Nothing is said but the link's name, as JMS clients call the first link of a subscription: with
 * |global behind it, it is one of several containers. */
static bool is_global(const char *name)
{
    const char *bar = strchr(name, '|');
    return bar != NULL && strcmp(bar, "|global") == 0;
}

static enum status look_for(struct amqp_subscriber *subscriber)
{
    const char *text = pn_link_name(subscriber->link->pn);
    bool global = is_global(text);
    struct span own = span_of(text, global ? strcspn(text, "|") : strlen(text));
    return name_it(subscriber, own, global, LIMIT_CLIENT_ID_BYTES, &subscriber->name);
}

/* The answer says what is: who asked for more than there is may see that. */
static void answer(const struct amqp_subscriber *subscriber, pn_terminus_t *local)
{
    static const pn_expiry_policy_t policies[] = {
        [AMQP_AFTER_LINK] = PN_EXPIRE_WITH_LINK,
        [AMQP_AFTER_SESSION] = PN_EXPIRE_WITH_SESSION,
        [AMQP_AFTER_CONNECTION] = PN_EXPIRE_WITH_CONNECTION,
        [AMQP_NEVER] = PN_EXPIRE_NEVER,
    };
    pn_terminus_set_durability(local, subscriber->kept ? PN_DELIVERIES : PN_NONDURABLE);
    pn_terminus_set_expiry_policy(local, subscriber->kept ? policies[subscriber->expiry]
                                                          : PN_EXPIRE_WITH_LINK);
    pn_terminus_set_timeout(
        local, subscriber->kept && subscriber->expiry != AMQP_NEVER ? subscriber->expiry_s : 0);
}

enum status amqp_kept_read(struct amqp_subscriber *subscriber, pn_terminus_t *local)
{
    pn_terminus_t *remote = pn_link_remote_source(subscriber->link->pn);
    uint32_t timeout_s = pn_terminus_get_timeout(remote);
    subscriber->expiry = expiry_of(remote);
    subscriber->expiry_s = subscriber->expiry == AMQP_NEVER ? UINT32_MAX
                           : timeout_s < UINT32_MAX         ? timeout_s
                                                            : UINT32_MAX - 1;
    subscriber->kept = pn_terminus_get_durability(remote) != PN_NONDURABLE &&
                       subscriber->expiry_s > 0 && !subscriber->link->settles;
    if (subscriber->looks)
        return look_for(subscriber);
    answer(subscriber, local);
    if (amqp_is_capable(remote, "shared")) {
        if (subscriber->kept && subscriber->expiry != AMQP_NEVER)
            return STATUS_UNSUPPORTED; /* several links do not end together */
        subscriber->item.retained = RETAINED_NEVER;
        return share_it(subscriber, amqp_is_capable(remote, "global"));
    }
    return subscriber->kept
               ? name_it(subscriber, span_from_text(pn_link_name(subscriber->link->pn)), false,
                         LIMIT_CLIENT_ID_BYTES, &subscriber->name)
               : STATUS_OK;
}

/* ------------------------------------------------ giving up */

struct giving_up {
    struct broker_give_up broker;
    struct amqp_link *link;
};

static void given_up(struct request *request, enum status status)
{
    struct giving_up *giving_up = container_of(request, struct giving_up, broker.request);
    amqp_link_given_up(giving_up->link, status);
    heap_free(giving_up);
}

/* The close of the link is answered when a crash could not bring the subscription back. */
static void answer_later(struct amqp_link *link)
{
    link->refs++;
    link->closes_later = true;
}

/* After answer_later(). */
static void give_up(struct amqp_link *link, struct client *client)
{
    struct giving_up *giving_up = heap_new(sizeof *giving_up);
    giving_up->link = link;
    giving_up->broker.client = client;
    request_init(&giving_up->broker.request, amqp_loop(link->connection), given_up);
    broker_give_up(&giving_up->broker);
}

/* ------------------------------------------------ attach */

static bool is_as_wanted(const struct amqp_subscriber *subscriber,
                         const struct subscription *subscription, struct span filter)
{
    const struct subscribe_item *item = &subscriber->item;
    return span_equal(filter, item->filter) && subscription->no_local == item->no_local &&
           selector_equal(subscription->selector, item->selector);
}

void amqp_kept_granted(struct amqp_subscriber *subscriber, uint32_t expiry_s)
{
    subscriber->expiry_s = expiry_s;
    if (subscriber->expiry == AMQP_NEVER && expiry_s != UINT32_MAX)
        subscriber->expiry = AMQP_AFTER_LINK;
    answer(subscriber, pn_link_source(subscriber->link->pn));
}

void amqp_kept_found(struct amqp_subscriber *subscriber, struct span filter, uint32_t expiry_s)
{
    struct buf address;
    buf_init(&address, sizeof "/topics/" + LIMIT_TOPIC_BYTES);
    buf_append_text(&address, "/topics/");
    buf_append(&address, filter.data, filter.size);
    buf_append(&address, "", 1);
    pn_terminus_t *local = pn_link_source(subscriber->link->pn);
    pn_terminus_set_type(local, PN_SOURCE);
    pn_terminus_set_address(local, (const char *)address.data);
    buf_deinit(&address);
    subscriber->kept = true;
    subscriber->expiry = AMQP_NEVER;
    amqp_kept_granted(subscriber, expiry_s);
}

/* Attached; the link is there. Without credit nothing of the session comes yet. */
static void go_on(struct amqp_subscriber *subscriber)
{
    struct span filter;
    const struct subscription *kept =
        subscriber->attach.present ? broker_subscription(&subscriber->client, &filter) : NULL;
    if (subscriber->looks && kept == NULL) {
        amqp_subscriber_refuse(subscriber, "amqp:not-found", "there is no such subscription",
                               STATUS_NOT_FOUND);
    } else if (subscriber->looks) {
        amqp_kept_found(subscriber, filter, subscriber->attach.granted_s);
        broker_session_begin(&subscriber->client);
        amqp_subscriber_ready(subscriber);
    } else if (kept == NULL) {
        amqp_kept_granted(subscriber, subscriber->attach.granted_s);
        broker_session_begin(&subscriber->client);
        amqp_subscriber_subscribe(subscriber);
    } else if (is_as_wanted(subscriber, kept, filter)) {
        amqp_kept_granted(subscriber, subscriber->attach.granted_s);
        broker_session_begin(&subscriber->client);
        amqp_subscriber_ready(subscriber);
    } else {
        broker_session_expiry(&subscriber->client, 0);
        client_close(&subscriber->client);
        amqp_subscriber_fork(subscriber);
        subscriber->anew = true;
        amqp_kept_attach(subscriber);
    }
}

/* The name is that of a subscription which several links share. */
static void go_on_shared(struct amqp_subscriber *subscriber)
{
    if (!subscriber->looks) {
        broker_session_expiry(&subscriber->client, subscriber->attach.earlier_s);
        amqp_subscriber_refuse(subscriber, amqp_condition_of(STATUS_EXISTS),
                               "a shared subscription has this name", STATUS_EXISTS);
        return;
    }
    if (share_it(subscriber, is_global(pn_link_name(subscriber->link->pn))) != STATUS_OK) {
        amqp_subscriber_refuse(subscriber, amqp_condition_of(STATUS_NOT_FOUND),
                               "there is no such subscription", STATUS_NOT_FOUND);
        return;
    }
    client_close(&subscriber->client);
    amqp_subscriber_fork(subscriber);
    amqp_claim(subscriber);
}

/* The link was closed for good while the attach was under way: what that found or made ends, unless
 * several links share it. */
static void leave_late(struct amqp_subscriber *subscriber, enum status status, bool shared)
{
    struct amqp_link *closed = subscriber->given_up;
    subscriber->given_up = NULL;
    if (status == STATUS_OK && !shared)
        give_up(closed, &subscriber->client);
    else if (status == STATUS_OK && subscriber->looks) /* for just this, and it is not done */
        amqp_link_given_up(closed, STATUS_EXISTS);
    else
        amqp_link_given_up(closed, status == STATUS_CANCELED ? STATUS_OK : status);
}

static void attached(struct request *request, enum status status)
{
    struct amqp_subscriber *subscriber =
        container_of(request, struct amqp_subscriber, attach.request);
    struct span notes = buf_span(&subscriber->attach.notes), key, value;
    bool shared = broker_note_next(&notes, &key, &value);
    subscriber->pending = subscriber->attaching = false;
    heap_free(subscriber->attach.received);
    buf_deinit(&subscriber->attach.notes);
    if (shared) /* the attach has set its own */
        broker_session_expiry(&subscriber->client, UINT32_MAX);
    if (subscriber->given_up != NULL)
        leave_late(subscriber, status, shared);
    if (subscriber->link == NULL)
        amqp_subscriber_free(subscriber);
    else if (status != STATUS_OK)
        amqp_subscriber_refuse(subscriber, amqp_condition_of(status), status_text(status), status);
    else if (subscriber->stolen) /* between the end of the attach and now */
        amqp_subscriber_refuse_stolen(subscriber);
    else if (shared)
        go_on_shared(subscriber);
    else
        go_on(subscriber);
}

void amqp_kept_attach(struct amqp_subscriber *subscriber)
{
    subscriber->attach = (struct broker_attach){
        .client = &subscriber->client,
        .name = subscriber->name,
        .clean = subscriber->anew,
        .only_present = subscriber->looks,
        .expiry_s = subscriber->expiry_s,
    };
    request_init(&subscriber->attach.request, amqp_loop(subscriber->connection), attached);
    subscriber->pending = subscriber->attaching = true;
    broker_attach(&subscriber->attach);
}

/* ------------------------------------------------ outcomes whose receiver waits */

struct amqp_taken {
    pn_delivery_t *delivery; /* NULL: of an earlier link, and no one is there to hear of it */
    bool over;
};

static struct amqp_taken *taken_of(struct amqp_subscriber *subscriber, uint32_t number)
{
    if (number > subscriber->taken_capacity) {
        uint32_t capacity = 2 * number;
        subscriber->taken = heap_resize(subscriber->taken, capacity * sizeof *subscriber->taken);
        for (uint32_t i = subscriber->taken_capacity; i < capacity; i++)
            subscriber->taken[i] = (struct amqp_taken){0};
        subscriber->taken_capacity = capacity;
    }
    return &subscriber->taken[number - 1];
}

void amqp_kept_take(struct amqp_subscriber *subscriber, pn_delivery_t *delivery, uint32_t number)
{
    taken_of(subscriber, number)->delivery = delivery;
    broker_taken(&subscriber->client, number);
}

bool amqp_shared_take(struct amqp_subscriber *subscriber, pn_delivery_t *delivery, uint32_t lease)
{
    bool waits = broker_share_taken(subscriber->shared, lease);
    if (waits)
        taken_of(subscriber, lease + 1)->delivery = delivery;
    return waits;
}

/* The broker is amid its deliveries: they end later in the turn. */
void amqp_kept_release(struct client *client, uint32_t number)
{
    struct amqp_subscriber *subscriber = (struct amqp_subscriber *)client;
    bool is_lease = subscriber->shared != NULL;
    taken_of(subscriber, number + is_lease)->over = true;
    subscriber->released = subscriber->connection->released = true;
    amqp_wake(subscriber->connection);
}

static void release(struct amqp_subscriber *subscriber, uint32_t number)
{
    struct amqp_taken taken = subscriber->taken[number - 1];
    bool is_lease = subscriber->shared != NULL;
    struct amqp_topic_delivery topic = {.number = number - is_lease};
    subscriber->taken[number - 1] = (struct amqp_taken){0};
    if (subscriber->link == NULL || taken.delivery == NULL) {
        if (!is_lease) /* else its client has gone with the link */
            broker_settled(&subscriber->client, number);
        return;
    }
    pn_delivery_update(taken.delivery, pn_delivery_remote_state(taken.delivery));
    pn_delivery_settle(taken.delivery);
    amqp_topic_over(subscriber->link, &topic, false);
}

void amqp_subscribers_released(struct amqp_connection *connection)
{
    connection->released = false;
    list_each(at, &connection->subscribers)
    {
        struct amqp_subscriber *subscriber =
            container_of(at, struct amqp_subscriber, of_connection);
        if (!subscriber->released)
            continue;
        subscriber->released = false;
        for (uint32_t number = 1; number <= subscriber->taken_capacity; number++)
            if (subscriber->taken[number - 1].over)
                release(subscriber, number);
        if (subscriber->link != NULL) /* of an earlier link: they have used credit of this one */
            amqp_source_flow(subscriber->link);
    }
}

/* ------------------------------------------------ the end */

bool amqp_kept_leave(struct amqp_subscriber *subscriber, struct amqp_link *link)
{
    enum amqp_leaving leaving = link->leaving;
    if (leaving == AMQP_LEAVES_FOR_GOOD && subscriber->attaching) {
        subscriber->given_up = link;
        answer_later(link);
    } else if (leaving == AMQP_LEAVES_FOR_GOOD) {
        struct client *client =
            subscriber->claim != NULL ? amqp_claim_own(subscriber) : &subscriber->client;
        if (client != NULL) {
            answer_later(link);
            give_up(link, client);
        } else if (subscriber->looks) { /* others may receive: it is not known yet */
            amqp_link_not_given_up(link, STATUS_EXISTS);
        }
    }
    bool waits = leaving == AMQP_LEAVES_LINK ? subscriber->expiry == AMQP_AFTER_SESSION ||
                                                   subscriber->expiry == AMQP_AFTER_CONNECTION
                                             : leaving == AMQP_LEAVES_SESSION &&
                                                   subscriber->expiry == AMQP_AFTER_CONNECTION;
    return !waits || !subscriber->kept || subscriber->pending;
}

void amqp_subscribers_end(struct amqp_connection *connection, const pn_session_t *session)
{
    list_each_safe(at, following, &connection->subscribers)
    {
        struct amqp_subscriber *subscriber =
            container_of(at, struct amqp_subscriber, of_connection);
        bool ends = session == NULL ||
                    (subscriber->session == session && subscriber->expiry == AMQP_AFTER_SESSION);
        if (subscriber->link == NULL && ends)
            amqp_subscriber_free(subscriber);
    }
}
