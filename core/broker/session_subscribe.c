/* SPDX-License-Identifier: Apache-2.0 */
/* Subscriptions that outlive their client. One holds from a definite commit sequence on, that of
 * its own row:
 *
 *   rows of the filters' holders durable -> every owner writes index rows -> live as any other
 *     -> row of the subscription, which gets the commit sequence S -> done
 *
 * What was appended before an owner knew the filter has a sequence below S (a part of a transaction
 * has that of the last part: an owner says that it writes the rows when all such parts are back);
 * what comes behind S has an index row. */
#include "core/broker/session.h"
#include "core/broker/share.h"

#include "core/base/heap.h"
#include "core/log/table.h"

enum { FILTER_ROW_BYTES = 64 + LIMIT_TOPIC_BYTES + LIMIT_SELECTOR_BYTES };

struct subscribing {
    struct broker_subscribe inner; /* the live part */
    struct broker_subscribe *outer;
    struct session *session;
    struct request registered;
    struct link link;   /* one after the other, so that the second finds what the first did */
    uint64_t *ids;      /* of the new ones, for the owners */
    uint64_t *item_ids; /* the same, by item; 0: not a new one */
    uint32_t id_count;
    uint64_t *joined; /* shares that it is in since this, */
    uint64_t *left;   /* and those that it is not in any longer */
    uint32_t joined_count, left_count;
    uint64_t pins; /* places of shapes, until rows of holders are durable */
};

static void begin(struct subscribing *subscribing);

static void finish(struct subscribing *subscribing)
{
    struct session *session = subscribing->session;
    link_remove(&subscribing->link);
    request_complete(&subscribing->outer->request, STATUS_OK);
    heap_free(subscribing->ids);
    heap_free(subscribing->item_ids);
    heap_free(subscribing->joined);
    heap_free(subscribing->left);
    heap_free(subscribing);
    struct link *next = list_first(&session->subscribing);
    if (next != NULL)
        begin(container_of(next, struct subscribing, link));
    if (session_back(session))
        session_read_anew(session);
}

static bool is_held(const struct session *session, uint64_t id)
{
    const struct client *client = session->client;
    bool found = false;
    for (uint32_t i = 0; i < session->held_count; i++)
        found |= session->held[i] == id;
    if (client == NULL)
        return found;
    list_each(link, &client->subscriptions)
    {
        const struct subscription *subscription =
            container_of(link, struct subscription, of_client);
        found |= subscription->index == id;
    }
    return found;
}

static void add_holder(struct session_rows *rows, const struct session *session, uint64_t id)
{
    uint8_t key[FILTER_HOLDER_KEY];
    filter_holder_key(id, session->id, key);
    session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key), span_of("\1", 1));
}

static void add_shapes(struct session_rows *rows, const struct subscribing *subscribing)
{
    if (subscribing->pins == 0)
        return;
    struct storage_row shapes[LIMIT_FILTER_SHAPES + 1];
    uint8_t *memory;
    uint32_t count = filter_shapes_rows(&subscribing->session->worker->broker->shapes,
                                        subscribing->pins, shapes, &memory);
    for (uint32_t i = 0; count > 1 && i < count; i++)
        session_rows_add(rows, STORAGE_PUT, shapes[i].key, shapes[i].value);
    heap_free(memory);
}

static void shapes_written(struct subscribing *subscribing, enum status status)
{
    struct filter_shapes *shapes = &subscribing->session->worker->broker->shapes;
    if (subscribing->pins == 0)
        return;
    if (status == STATUS_OK)
        filter_shapes_stored(shapes, subscribing->pins);
    filter_shapes_unpin(shapes, subscribing->pins);
    subscribing->pins = 0;
}

/* Rows of holders that no subscription came of. */
static void drop_holders(const struct subscribing *subscribing, struct session_rows *rows)
{
    const struct session *session = subscribing->session;
    for (uint32_t i = 0; i < subscribing->id_count; i++) {
        uint8_t key[FILTER_HOLDER_KEY];
        if (is_held(session, subscribing->ids[i]))
            continue;
        filter_holder_key(subscribing->ids[i], session->id, key);
        session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
    }
}

/* The client went meanwhile, or the store refuses: nothing holds. */
static void fail(struct subscribing *subscribing, enum status status)
{
    struct broker_subscribe *outer = subscribing->outer;
    if (subscribing->id_count > 0) {
        struct session_rows *rows = session_rows_new(subscribing->session);
        drop_holders(subscribing, rows);
        session_rows_send(rows, NULL, NULL);
    }
    session_shares_leave(subscribing->session, subscribing->joined, subscribing->joined_count);
    for (uint32_t i = 0; i < outer->count; i++)
        if (outer->items[i].status == STATUS_OK)
            outer->items[i].status = status;
    finish(subscribing);
}

/* A kept subscription holds behind its own row, so that what is retained is looked at only now. */
static void walk_retained(struct client *client, const struct broker_subscribe *outer,
                          uint64_t commit)
{
    for (uint32_t i = 0; i < outer->count && client->open; i++) {
        const struct subscribe_item *item = &outer->items[i];
        if (item->status != STATUS_OK || item->share.size > 0 || !subscribe_wants_retained(item))
            continue;
        struct subscription *subscription = subscription_of(client, item->filter);
        if (subscription == NULL)
            continue;
        struct retained_walk *walk = retained_walk_new(subscription);
        if (subscription->index != 0)
            retained_walk_keep(walk, commit, (struct span){0});
        retained_walk_start(walk);
    }
}

static void stored(void *context, enum status status, uint64_t commit)
{
    struct subscribing *subscribing = context;
    struct broker_subscribe *outer = subscribing->outer;
    struct client *client = subscribing->session->client;
    shapes_written(subscribing, status);
    session_shares_left(subscribing->session, subscribing->left, subscribing->left_count, status);
    if (client == NULL) {
        fail(subscribing, STATUS_CANCELED);
        return;
    }
    for (uint32_t i = 0; i < outer->count; i++) {
        struct subscribe_item *item = &outer->items[i];
        struct subscription *subscription = item->status == STATUS_OK && item->share.size == 0
                                                ? subscription_of(client, item->filter)
                                                : NULL;
        if (subscription == NULL)
            continue;
        if (status != STATUS_OK) {
            item->status = status;
            if (!item->existed)
                broker_unsubscribe(client, item->filter);
        } else if (subscription->index != 0 && subscription->since == 0) {
            subscription->since = commit;
        }
    }
    finish(subscribing);
    if (status == STATUS_OK)
        walk_retained(client, outer, commit);
}

static void add_row(struct session_rows *rows, const struct session *session,
                    const struct subscription *subscription)
{
    struct session_filter_row row = {
        .guarantee = subscription->guarantee,
        .no_local = subscription->no_local,
        .retain_as_published = subscription->retain_as_published,
        .identifier = subscription->identifier,
        .since = subscription->since,
        .index = subscription->index,
        .filter = span_of(subscription->entry->filter, subscription->entry->filter_size),
    };
    if (subscription->selector != NULL)
        row.selector = selector_text(subscription->selector);
    struct buf value;
    uint8_t key[SESSION_STATE_KEY];
    buf_init(&value, FILTER_ROW_BYTES);
    session_kind_key(session->id, SESSION_KIND_FILTER, hash_stable(row.filter), key);
    CHECK(session_filter_encode(&row, &value) == STATUS_OK);
    struct storage_row *put =
        session_rows_add(rows, STORAGE_PUT, span_of(key, sizeof key), buf_span(&value));
    if (row.index != 0 && row.since == 0)
        put->commit_in_value = SESSION_FILTER_SINCE;
    buf_deinit(&value);
}

/* Nothing but a change of rights or of the address can help. */
static bool is_final(enum status status)
{
    return status == STATUS_DENIED || status == STATUS_UNAUTHENTICATED ||
           status == STATUS_NOT_FOUND || status == STATUS_INVALID;
}

static bool has_joined(const struct subscribing *subscribing, uint64_t share)
{
    for (uint32_t i = 0; i < subscribing->joined_count; i++)
        if (subscribing->joined[i] == share)
            return true;
    return false;
}

/* Shares that it is in by its rows, but has no place in: not those that it comes back to, when only
 * the moment is wrong. */
static void drop_shares(struct subscribing *subscribing, struct session_rows *rows)
{
    struct session *session = subscribing->session;
    const struct broker_subscribe *outer = subscribing->outer;
    subscribing->left = heap_array(outer->count + 1, sizeof *subscribing->left);
    for (uint32_t i = 0; i < outer->count; i++) {
        const struct subscribe_item *item = &outer->items[i];
        uint64_t share = item->share.size == 0 ? 0 : share_id(session->client, item);
        if (share != 0 && session_share_is_in(session, share) &&
            (is_final(item->status) || has_joined(subscribing, share)) &&
            !share_has_seat(session->client, share)) {
            subscribing->left[subscribing->left_count++] = share;
            session_share_leave(session, rows, share);
        }
    }
}

/* Whose shapes these are; those of all durable shares count as one user's. */
static uint64_t id_of(const struct session *session, struct span filter, uint64_t *pins)
{
    const struct client *client = session->client;
    uint64_t owner = share_is_reader(client)     ? UINT64_MAX
                     : client->principal == NULL ? 0
                                                 : client->principal->id;
    return filter_index_id(session->worker->broker, client->tenant, owner, filter, pins);
}

static void is_live(struct request *request, enum status status)
{
    struct subscribing *subscribing = container_of(request, struct subscribing, inner.request);
    struct broker_subscribe *outer = subscribing->outer;
    struct session *session = subscribing->session;
    struct client *client = session->client;
    (void)status;
    if (client == NULL) {
        fail(subscribing, STATUS_CANCELED);
        return;
    }
    struct session_rows *rows = session_rows_new(session);
    for (uint32_t i = 0; i < outer->count; i++) {
        const struct subscribe_item *item = &outer->items[i];
        struct subscription *subscription = item->status == STATUS_OK && item->share.size == 0
                                                ? subscription_of(client, item->filter)
                                                : NULL;
        if (subscription == NULL)
            continue;
        if (subscription->index == 0 && subscription->guarantee != GUARANTEE_AT_MOST_ONCE) {
            /* As begin() was told: another answer now is not what owners index. */
            uint64_t begun = subscribing->item_ids[i];
            subscription->index =
                begun != 0 ? begun : id_of(session, item->filter, &subscribing->pins);
            subscription->since = 0;
            if (begun == 0) /* it ended meanwhile, with its holder */
                add_holder(rows, session, subscription->index);
        }
        add_row(rows, session, subscription);
        if (subscription->index != 0 && subscribe_wants_retained(item) &&
            atomic_load_explicit(&session->worker->broker->retained_any, memory_order_acquire))
            session_walk_begin(session, rows, subscription);
    }
    add_shapes(rows, subscribing);
    drop_holders(subscribing, rows);
    drop_shares(subscribing, rows);
    session_rows_send(rows, stored, subscribing);
}

static void registered(struct request *request, enum status status)
{
    struct subscribing *subscribing = container_of(request, struct subscribing, registered);
    struct broker_subscribe *outer = subscribing->outer;
    struct client *client = subscribing->session->client;
    if (client == NULL || status != STATUS_OK) {
        fail(subscribing, STATUS_CANCELED);
        return;
    }
    subscribing->inner.client = client;
    subscribing->inner.items = outer->items;
    subscribing->inner.count = outer->count;
    request_init(&subscribing->inner.request, subscribing->session->worker->loop, is_live);
    subscribe_live(&subscribing->inner);
}

static void held(void *context, enum status status, uint64_t commit)
{
    struct subscribing *subscribing = context;
    struct session *session = subscribing->session;
    (void)commit;
    shapes_written(subscribing, status);
    if (status != STATUS_OK) { /* none of its rows is there */
        for (uint32_t i = 0; i < subscribing->joined_count; i++)
            session_share_forget(session, subscribing->joined[i]);
        subscribing->joined_count = 0;
    }
    if (status != STATUS_OK || session->client == NULL) {
        fail(subscribing, status == STATUS_OK ? STATUS_CANCELED : status);
        return;
    }
    request_init(&subscribing->registered, session->worker->loop, registered);
    filter_index_register(session->worker, subscribing->ids, subscribing->id_count,
                          &subscribing->registered);
}

/* Will this subscription be found offline, and is it not yet? */
static bool is_new(struct client *client, const struct subscribe_item *item)
{
    if (item->status != STATUS_OK || item->share.size > 0 ||
        item->guarantee == GUARANTEE_AT_MOST_ONCE)
        return false;
    const struct subscription *subscription = subscription_of(client, item->filter);
    return subscription == NULL || subscription->index == 0;
}

static void begin(struct subscribing *subscribing)
{
    struct broker_subscribe *outer = subscribing->outer;
    struct session *session = subscribing->session;
    struct client *client = session->client;
    if (client == NULL) {
        fail(subscribing, STATUS_CANCELED);
        return;
    }
    struct session_rows *rows = session_rows_new(session);
    subscribing->ids = heap_array(outer->count + 1, sizeof *subscribing->ids);
    subscribing->item_ids = heap_array(outer->count + 1, sizeof *subscribing->item_ids);
    subscribing->joined = heap_array(outer->count + 1, sizeof *subscribing->joined);
    for (uint32_t i = 0; i < outer->count; i++) {
        struct subscribe_item *item = &outer->items[i];
        item->status = subscribe_check(client, item);
        uint64_t share = item->share.size == 0 ? 0 : share_id(client, item);
        if (item->status == STATUS_OK && share != 0 && share_is_for_ever(client, item)) {
            bool is_in = session_share_is_in(session, share);
            item->comes_back = is_in && !has_joined(subscribing, share);
            if (!is_in)
                subscribing->joined[subscribing->joined_count++] = share;
            session_share_join(session, rows, share);
        }
        if (!is_new(client, item))
            continue;
        uint64_t id = subscribing->item_ids[i] = id_of(session, item->filter, &subscribing->pins);
        subscribing->ids[subscribing->id_count++] = id;
        add_holder(rows, session, id);
    }
    add_shapes(rows, subscribing);
    session_rows_send(rows, held, subscribing);
}

void session_subscribe(struct broker_subscribe *subscribe)
{
    struct session *session = subscribe->client->session;
    struct subscribing *subscribing = heap_new(sizeof *subscribing);
    subscribing->outer = subscribe;
    subscribing->session = session;
    session->calls++;
    session->worker->calls++;
    bool first = list_is_empty(&session->subscribing);
    list_push(&session->subscribing, &subscribing->link);
    if (first)
        begin(subscribing);
}

void session_unsubscribed(struct subscription *subscription)
{
    struct client *client = subscription->client;
    struct session *session = client->session;
    struct session_rows *rows = session_rows_new(session);
    struct span filter = span_of(subscription->entry->filter, subscription->entry->filter_size);
    uint8_t key[SESSION_STATE_KEY], holder[FILTER_HOLDER_KEY];
    session_kind_key(session->id, SESSION_KIND_FILTER, hash_stable(filter), key);
    session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
    if (subscription->index != 0)
        session_walk_forget(rows, session, filter);
    bool shared = false;
    list_each(link, &client->subscriptions)
    {
        const struct subscription *other = container_of(link, struct subscription, of_client);
        shared |= other != subscription && other->index == subscription->index;
    }
    for (uint32_t i = 0; i < session->held_count; i++)
        shared |= session->held[i] == subscription->index;
    if (subscription->index != 0 && !shared) {
        filter_holder_key(subscription->index, session->id, holder);
        session_rows_add(rows, STORAGE_DELETE, span_of(holder, sizeof holder), (struct span){0});
    }
    session_rows_send(rows, NULL, NULL);
}
