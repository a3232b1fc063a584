/* SPDX-License-Identifier: Apache-2.0 */
/* The seats of a client in shares: what it was given and has not settled, and how it leaves. */
#include "core/broker/share.h"

#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/broker/topic.h"

struct share_lease {
    uint64_t partition, offset;
    uint32_t next_free; /* + 1 */
    bool used;
    bool exactly_once; /* nobody else may get it */
};

enum { LEASES_FIRST = 8 };

static struct share_seat *seat_of(struct subscription *subscription)
{
    return container_of(subscription, struct share_seat, subscription);
}

/* ------------------------------------------------ subscribing */

static struct span key_make(const struct client *client, struct span share, struct span filter,
                            struct buf *to)
{
    uint32_t size = (uint32_t)share.size;
    buf_init(to, sizeof client->tenant + sizeof size + LIMIT_SHARE_NAME + LIMIT_TOPIC_BYTES);
    CHECK(buf_append(to, &client->tenant, sizeof client->tenant) == STATUS_OK);
    CHECK(buf_append(to, &size, sizeof size) == STATUS_OK);
    CHECK(buf_append(to, share.data, share.size) == STATUS_OK);
    CHECK(buf_append(to, filter.data, filter.size) == STATUS_OK);
    return buf_span(to);
}

static struct share_seat *seat_find(const struct client *client, struct span key)
{
    list_each(link, &client->seats)
    {
        struct share_seat *seat = container_of(link, struct share_seat, of_client);
        if (!seat->stopped && span_equal(seat->key, key))
            return seat;
    }
    return NULL;
}

static struct share_seat *seat_new(struct client *client, struct span key, size_t filter_size)
{
    struct broker_worker *worker = client->worker;
    struct share_seat *seat = heap_new(sizeof *seat + key.size);
    memcpy(seat->bytes, key.data, key.size);
    seat->key = span_of(seat->bytes, key.size);
    seat->filter = span_from(seat->key, key.size - filter_size);
    seat->worker = worker;
    seat->home = &worker->broker->workers[hash_bytes(key) % worker->broker->worker_count];
    seat->subscription.client = client;
    seat->subscription.shared = true;
    list_push(&client->seats, &seat->of_client);
    client->seat_count++;
    worker->share_seats++;
    return seat;
}

static void seat_free(struct share_seat *seat)
{
    struct client *client = seat->subscription.client;
    if (client != NULL) {
        link_remove(&seat->of_client);
        client->seat_count--;
    }
    seat->worker->share_seats--;
    heap_free(seat->leases);
    heap_free(seat);
}

static void seat_set(struct share_seat *seat, const struct subscribe_item *item)
{
    seat->subscription.guarantee = item->guarantee;
    seat->subscription.identifier = item->identifier;
    seat->subscription.retain_as_published = item->retain_as_published;
}

bool share_subscribe(struct broker_subscribe *subscribe, struct subscribe_item *item)
{
    struct client *client = subscribe->client;
    struct buf buf;
    if (item->share.size > LIMIT_SHARE_NAME) {
        item->status = STATUS_INVALID;
        return false;
    }
    struct span key = key_make(client, item->share, item->filter, &buf);
    struct share_seat *seat = seat_find(client, key);
    item->existed = seat != NULL;
    bool is_new = seat == NULL && client->seat_count < LIMIT_SHARES;
    if (is_new)
        seat = seat_new(client, key, item->filter.size);
    buf_deinit(&buf);
    if (seat == NULL) {
        item->status = STATUS_OVER_QUOTA;
        return false;
    }
    seat_set(seat, item);
    if (!is_new)
        return false;
    struct share_join *join = heap_new(sizeof *join);
    join->seat = seat;
    join->subscribe = subscribe;
    join->item = item;
    join->window = client->credit_max;
    share_join_send(join);
    return true;
}

static void seat_stop(struct share_seat *seat)
{
    if (seat->stopped)
        return;
    seat->stopped = true;
    if (seat->member != NULL)
        share_report(seat, &(struct share_slip){.stop = true});
}

void share_joined(struct share_join *join)
{
    struct share_seat *seat = join->seat;
    join->item->status = join->status;
    seat->member = join->member;
    subscribe_confirmed(join->subscribe);
    heap_free(join);
    if (seat->member == NULL)
        seat_free(seat);
    else if (seat->stopped)
        share_report(seat, &(struct share_slip){.stop = true});
}

enum status broker_unsubscribe_shared(struct client *client, struct span share, struct span filter)
{
    struct buf buf;
    CHECK(loop_is_home(client->worker->loop));
    if (share.size > LIMIT_SHARE_NAME || !topic_filter_is_valid(filter))
        return STATUS_NOT_FOUND;
    struct share_seat *seat = seat_find(client, key_make(client, share, filter, &buf));
    buf_deinit(&buf);
    if (seat == NULL)
        return STATUS_NOT_FOUND;
    seat_stop(seat);
    return STATUS_OK;
}

/* ------------------------------------------------ leases */

static uint32_t lease_take(struct share_seat *seat, const struct share_lease *lease)
{
    if (seat->lease_free == 0) {
        uint32_t count = seat->lease_count == 0 ? LEASES_FIRST : seat->lease_count * 2;
        seat->leases = heap_resize(seat->leases, count * sizeof *seat->leases);
        for (uint32_t i = count; i-- > seat->lease_count;) {
            seat->leases[i] = (struct share_lease){.next_free = seat->lease_free};
            seat->lease_free = i + 1;
        }
        seat->lease_count = count;
    }
    uint32_t taken = seat->lease_free - 1;
    seat->lease_free = seat->leases[taken].next_free;
    seat->leases[taken] = *lease;
    seat->leases[taken].used = true;
    seat->in_flight++;
    return taken;
}

static void lease_end(struct share_seat *seat, uint32_t index)
{
    CHECK(index < seat->lease_count && seat->leases[index].used);
    seat->leases[index] = (struct share_lease){.next_free = seat->lease_free};
    seat->lease_free = index + 1;
    seat->in_flight--;
    seat->settled += seat->worker != seat->home;
}

enum deliver_result share_take(struct share_seat *seat, uint64_t partition,
                               const struct record *record, struct frame_cache *cache)
{
    struct client *client = seat->subscription.client;
    enum guarantee granted = seat->subscription.guarantee, published = record_guarantee(record);
    bool at_most_once = granted == GUARANTEE_AT_MOST_ONCE || published == GUARANTEE_AT_MOST_ONCE;
    if (client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES ||
        (!at_most_once && client->credit == 0)) {
        seat->blocked = true;
        return DELIVER_FULL;
    }
    if (at_most_once) {
        seat->settled += seat->worker != seat->home;
        return deliver_to(&seat->subscription, record, cache);
    }
    uint32_t index = lease_take(seat, &(struct share_lease){
                                          .partition = partition,
                                          .offset = record->offset,
                                          .exactly_once = granted == GUARANTEE_EXACTLY_ONCE &&
                                                          published == GUARANTEE_EXACTLY_ONCE,
                                      });
    seat->subscription.lease = index;
    enum deliver_result result = deliver_to(&seat->subscription, record, cache);
    if (result != DELIVERED)
        lease_end(seat, index);
    return result;
}

/* ------------------------------------------------ the end */

static void seat_end(struct share_seat *seat)
{
    share_report(seat, &(struct share_slip){.end = true});
    seat_free(seat);
}

void share_seat_stopped(struct share_seat *seat)
{
    seat->stop_confirmed = true;
    if (seat->in_flight == 0)
        seat_end(seat);
}

void broker_share_settled(struct subscription *subscription, uint32_t lease)
{
    struct share_seat *seat = seat_of(subscription);
    CHECK(subscription->shared && loop_is_home(seat->worker->loop));
    lease_end(seat, lease);
    if (seat->stop_confirmed && seat->in_flight == 0)
        seat_end(seat);
}

static void seat_go_on(struct share_seat *seat)
{
    struct client *client = seat->subscription.client;
    struct share_slip slip = {.settled = seat->settled};
    if (seat->stopped || seat->member == NULL)
        return;
    if (seat->blocked && client->credit > 0 &&
        client->ops->queued(client) < LIMIT_CLIENT_OUT_BYTES / 2) {
        seat->blocked = false;
        slip.ready = true;
        slip.epoch = ++seat->epoch;
    }
    if (!slip.ready && slip.settled == 0)
        return;
    seat->settled = 0;
    share_report(seat, &slip);
}

void share_seats_go_on(struct client *client)
{
    list_each_safe(link, following, &client->seats)
        seat_go_on(container_of(link, struct share_seat, of_client));
}

void share_seats_recheck(struct client *client)
{
    list_each_safe(link, following, &client->seats)
    {
        struct share_seat *seat = container_of(link, struct share_seat, of_client);
        if (broker_check(client, ACTION_CONSUME, true, seat->filter) != STATUS_OK)
            seat_stop(seat);
    }
}

/* What is still with the client goes to others, unless it may have arrived and must not twice. */
static void seat_close(struct share_seat *seat)
{
    struct share_slip slip = {.stop = !seat->stopped, .end = seat->stop_confirmed};
    struct share_ref *refs = heap_array(seat->in_flight + 1u, sizeof *refs);
    for (uint32_t i = 0; i < seat->lease_count; i++) {
        const struct share_lease *lease = &seat->leases[i];
        if (lease->used && !lease->exactly_once)
            refs[slip.ref_count++] = (struct share_ref){lease->partition, lease->offset};
    }
    slip.refs = refs;
    link_remove(&seat->of_client);
    seat->subscription.client = NULL;
    seat->stopped = true;
    seat->in_flight = 0;
    if (seat->member != NULL)
        share_report(seat, &slip);
    heap_free(refs);
    if (slip.end)
        seat_free(seat);
}

void share_seats_close(struct client *client)
{
    struct link *link;
    while ((link = list_first(&client->seats)) != NULL)
        seat_close(container_of(link, struct share_seat, of_client));
    client->seat_count = 0;
}
