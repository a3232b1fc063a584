/* SPDX-License-Identifier: Apache-2.0 */
/* The seats of a client in shares: what it was given and has not settled, and how it leaves. */
#include "core/broker/share.h"
#include "core/broker/session.h"

#include "core/base/heap.h"
#include "core/broker/topic.h"

struct share_lease {
    uint64_t partition, offset;
    uint32_t next_free; /* + 1 */
    bool used;
    bool exactly_once; /* nobody else may get it */
    bool kept;         /* the client's session answers for it */
    bool in_unit;      /* over, if the unit is stored: nothing else becomes of it till then */
    bool stored;       /* over, a row says so, and its client has been told */
    bool returned;     /* this and the next two: as in struct share_ref */
    uint16_t failures;
    uint32_t number;
};

enum { LEASES_FIRST = 8 };

struct share_seat *share_seat_of(struct subscription *subscription)
{
    CHECK(subscription->shared);
    return container_of(subscription, struct share_seat, subscription);
}

/* Its session has older things to send. */
static bool is_before_its_turn(const struct share_seat *seat)
{
    const struct client *client = seat->subscription.client;
    return seat->kept && session_is_kept(client) && !session_takes(client->session);
}

/* ------------------------------------------------ subscribing */

static uint64_t id_of(const struct client *client, struct span share, struct span filter)
{
    struct buf key;
    uint32_t size = (uint32_t)share.size;
    buf_init(&key, sizeof client->tenant + sizeof size + LIMIT_SHARE_NAME + LIMIT_TOPIC_BYTES);
    CHECK(buf_append(&key, &client->tenant, sizeof client->tenant) == STATUS_OK);
    CHECK(buf_append(&key, &size, sizeof size) == STATUS_OK);
    CHECK(buf_append(&key, share.data, share.size) == STATUS_OK);
    CHECK(buf_append(&key, filter.data, filter.size) == STATUS_OK);
    uint64_t id = filter_share_id(client->worker->broker, buf_span(&key));
    buf_deinit(&key);
    return id;
}

uint64_t share_id(const struct client *client, const struct subscribe_item *item)
{
    return item->share.size > LIMIT_SHARE_NAME ? 0 : id_of(client, item->share, item->filter);
}

bool share_is_for_ever(const struct client *client, const struct subscribe_item *item)
{
    return session_is_kept(client) && item->guarantee != GUARANTEE_AT_MOST_ONCE;
}

static struct share_seat *seat_find(const struct client *client, uint64_t id)
{
    list_each(link, &client->seats)
    {
        struct share_seat *seat = container_of(link, struct share_seat, of_client);
        if (!seat->stopped && seat->id == id)
            return seat;
    }
    return NULL;
}

bool share_has_seat(const struct client *client, uint64_t id)
{
    return seat_find(client, id) != NULL;
}

static struct share_seat *seat_new(struct client *client, uint64_t id, struct span filter)
{
    struct broker_worker *worker = client->worker;
    struct share_seat *seat = heap_new(sizeof *seat + filter.size);
    memcpy(seat->bytes, filter.data, filter.size);
    seat->filter = span_of(seat->bytes, filter.size);
    seat->id = id;
    seat->tenant = client->tenant;
    seat->worker = worker;
    seat->home = broker_home(worker->broker, id);
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
    heap_free(seat->done);
    heap_free(seat);
}

static void seat_set(struct share_seat *seat, const struct subscribe_item *item)
{
    seat->subscription.guarantee = item->guarantee;
    seat->subscription.identifier = item->identifier;
    seat->subscription.retain_as_published = item->retain_as_published;
}

/* Its client's session does not take part any longer, when that is durable; until then the seat
 * stays, so that who looks for those who do finds one less. */
struct leaving {
    struct session *session;
    struct share_seat *seat;
    uint32_t lease;
};

static void left(void *context, enum status status, uint64_t commit)
{
    struct leaving *leaving = context;
    (void)commit;
    session_shares_left(leaving->session, &leaving->seat->id, 1, status);
    share_lease_end(leaving->seat, leaving->lease, false);
    heap_free(leaving);
}

static void seat_leave(struct share_seat *seat)
{
    const struct client *client = seat->subscription.client;
    if (!seat->kept || client == NULL || !session_is_kept(client))
        return;
    struct session_rows *rows = session_rows_new(client->session);
    struct leaving *leaving = heap_new(sizeof *leaving);
    leaving->session = client->session;
    leaving->seat = seat;
    leaving->lease = share_lease_hold(seat);
    seat->kept = false;
    session_share_leave(client->session, rows, seat->id);
    session_rows_send(rows, left, leaving);
}

static void seat_stop(struct share_seat *seat)
{
    if (seat->stopped)
        return;
    seat->stopped = true;
    share_seat_answered(seat, seat->asks);
    seat_leave(seat);
    if (seat->member != NULL)
        share_report(seat, &(struct share_slip){.stop = true});
}

/* What its share does for exactly once, it does not for less. */
static void tell_grade(struct share_seat *seat)
{
    if (!seat->kept && seat->member != NULL)
        share_report(seat, &(struct share_slip){.grades = true,
                                                .exact = seat->subscription.guarantee ==
                                                         GUARANTEE_EXACTLY_ONCE});
}

bool share_subscribe(struct broker_subscribe *subscribe, struct subscribe_item *item)
{
    struct client *client = subscribe->client;
    uint64_t id = share_id(client, item);
    if (id == 0) {
        item->status = STATUS_INVALID;
        return false;
    }
    struct share_seat *seat = seat_find(client, id);
    bool kept = share_is_for_ever(client, item);
    item->existed = seat != NULL;
    if (seat != NULL && seat->kept == kept) {
        seat_set(seat, item);
        tell_grade(seat);
        return false;
    }
    if (seat != NULL) /* it takes part in another way */
        seat_stop(seat);
    else if (client->seat_count >= LIMIT_SHARES) {
        item->status = STATUS_OVER_QUOTA;
        return false;
    }
    seat = seat_new(client, id, item->filter);
    seat->kept = kept;
    seat_set(seat, item);
    struct share_join *join = heap_new(sizeof *join);
    join->seat = seat;
    join->kept = kept;
    join->session = kept ? client->session->id : 0;
    join->blocked = seat->blocked = client->credit == 0 || is_before_its_turn(seat);
    join->subscribe = subscribe;
    join->item = item;
    join->window = client->credit_max;
    share_join_send(join);
    return true;
}

static void seat_go_on(struct share_seat *seat);

/* Who named the share once more in the same call is told the same. */
static void tell_others(const struct share_join *join)
{
    const struct broker_subscribe *subscribe = join->subscribe;
    const struct share_seat *seat = join->seat;
    if (join->status == STATUS_OK || seat->subscription.client == NULL)
        return;
    for (uint32_t i = 0; i < subscribe->count; i++) {
        struct subscribe_item *item = &subscribe->items[i];
        if (item->status == STATUS_OK && item->share.size > 0 &&
            share_id(seat->subscription.client, item) == seat->id)
            item->status = join->status;
    }
}

void share_joined(struct share_join *join)
{
    struct share_seat *seat = join->seat;
    bool graded = join->item->guarantee != seat->subscription.guarantee; /* meanwhile */
    join->item->status = join->status;
    join->item->members = join->members;
    seat->member = join->member;
    tell_others(join);
    subscribe_confirmed(join->subscribe);
    heap_free(join);
    if (seat->member == NULL) {
        seat->stopped = seat->stop_confirmed = true;
        if (seat->in_flight == 0) /* else it has been left already, which is on its way */
            seat_free(seat);
    } else if (seat->stopped) {
        bool leaves = seat->subscription.client == NULL;
        share_report(seat, &(struct share_slip){.stop = true, .leaves = leaves});
    } else {
        if (graded)
            tell_grade(seat);
        seat_go_on(seat);
    }
}

enum status broker_unsubscribe_shared(struct client *client, struct span share, struct span filter)
{
    CHECK(loop_is_home(client->worker->loop));
    if (share.size > LIMIT_SHARE_NAME || !topic_filter_is_valid(filter))
        return STATUS_NOT_FOUND;
    uint64_t id = id_of(client, share, filter);
    struct share_seat *seat = seat_find(client, id);
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

static void seat_end(struct share_seat *seat)
{
    struct share_slip slip = {.end = true};
    if (seat->member != NULL)
        share_seat_tell(seat, &slip);
    seat_free(seat);
}

void share_seat_tell(struct share_seat *seat, struct share_slip *slip)
{
    struct share_done *done = seat->done;
    slip->settled = seat->settled;
    slip->done = done;
    slip->done_count = seat->done_count;
    seat->settled = 0;
    seat->done = NULL;
    seat->done_count = seat->done_capacity = 0;
    if (slip->settled > 0 || slip->done_count > 0 || slip->ref_count > 0 || slip->blocked ||
        slip->ready || slip->ask != 0 || slip->stop || slip->leaves || slip->end)
        share_report(seat, slip);
    heap_free(done);
}

/* What the share knows of it is over. */
static void flight_over(struct share_seat *seat, const struct share_done *done)
{
    if (seat->worker == seat->home) {
        share_flight_over(seat->member->share, done);
        return;
    }
    if (seat->done_count == seat->done_capacity) {
        seat->done_capacity = seat->done_capacity == 0 ? 16 : seat->done_capacity * 2;
        seat->done = heap_resize(seat->done, seat->done_capacity * sizeof *seat->done);
    }
    seat->done[seat->done_count++] = *done;
}

static struct share_lease lease_free(struct share_seat *seat, uint32_t index)
{
    CHECK(index < seat->lease_count && seat->leases[index].used);
    struct share_lease lease = seat->leases[index];
    seat->leases[index] = (struct share_lease){.next_free = seat->lease_free};
    seat->lease_free = index + 1;
    seat->in_flight--;
    return lease;
}

static void lease_end(struct share_seat *seat, uint32_t index, bool stored)
{
    struct share_lease lease = lease_free(seat, index);
    seat->settled += seat->worker != seat->home;
    if (lease.number != 0)
        flight_over(seat, &(struct share_done){.number = lease.number, .stored = stored});
}

/* Who has no client any more has nobody else to tell what is over. */
static void seat_may_end(struct share_seat *seat)
{
    if (seat->stop_confirmed && seat->in_flight == 0)
        seat_end(seat);
    else if (seat->subscription.client == NULL && seat->member != NULL)
        share_seat_tell(seat, &(struct share_slip){0});
}

void share_lease_end(struct share_seat *seat, uint32_t lease, bool stored)
{
    lease_end(seat, lease, stored);
    seat_may_end(seat);
}

void share_lease_return(struct share_seat *seat, uint32_t index)
{
    struct share_ref ref = share_lease_ref(seat, index);
    lease_free(seat, index);
    seat->settled += seat->worker != seat->home;
    share_seat_tell(seat, &(struct share_slip){.refs = &ref, .ref_count = 1});
    seat_may_end(seat);
}

bool share_lease_enter(struct share_seat *seat, uint32_t index)
{
    CHECK(index < seat->lease_count && seat->leases[index].used && !seat->leases[index].kept);
    bool enters = !seat->leases[index].in_unit && !seat->leases[index].stored;
    seat->leases[index].in_unit |= enters;
    return enters;
}

/* After a failure of the store the next start knows whose it is, as of what sessions end with: it
 * may be over, so that nobody else is given it, also when the client goes. */
void share_lease_leave(struct share_seat *seat, uint32_t index, enum status status)
{
    CHECK(seat->leases[index].in_unit);
    seat->leases[index].in_unit = false;
    if (status == STATUS_OK)
        share_lease_end(seat, index, true);
    else if (status == STATUS_STORAGE_FAILED)
        share_lease_end(seat, index, false);
    else if (seat->subscription.client == NULL)
        share_lease_return(seat, index);
}

bool share_lease_release(struct share_seat *seat, uint32_t index)
{
    struct client *client = seat->subscription.client;
    if (client == NULL)
        return false;
    CHECK(seat->leases[index].in_unit);
    seat->leases[index].in_unit = false;
    seat->leases[index].stored = true;
    client->ops->release(client, index);
    return true;
}

struct share_ref share_lease_ref(const struct share_seat *seat, uint32_t index)
{
    const struct share_lease *lease = &seat->leases[index];
    return (struct share_ref){.partition = lease->partition,
                              .offset = lease->offset,
                              .number = lease->number,
                              .returned = lease->returned,
                              .failures = lease->failures};
}

bool share_lease_is_returned(const struct share_seat *seat, uint32_t lease)
{
    return seat->leases[lease].returned;
}

uint32_t share_lease_hold(struct share_seat *seat)
{
    return lease_take(seat, &(struct share_lease){.kept = true});
}

enum deliver_result share_take(struct share_seat *seat, uint64_t partition,
                               const struct record *record, struct frame_cache *cache,
                               const struct share_ref *ref)
{
    struct client *client = seat->subscription.client;
    enum guarantee granted = seat->subscription.guarantee, published = record_guarantee(record);
    bool at_most_once = granted == GUARANTEE_AT_MOST_ONCE || published == GUARANTEE_AT_MOST_ONCE;
    bool kept = seat->kept && session_is_kept(client);
    if (client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES ||
        (!at_most_once && (client->credit == 0 || is_before_its_turn(seat)))) {
        seat->blocked = true;
        return DELIVER_FULL;
    }
    seat->subscription.failures = ref->failures;
    if (at_most_once) {
        seat->settled += seat->worker != seat->home;
        if (ref->number != 0)
            flight_over(seat, &(struct share_done){.number = ref->number});
        return deliver_to(&seat->subscription, record, cache);
    }
    uint32_t index = lease_take(seat, &(struct share_lease){
                                          .partition = partition,
                                          .offset = record->offset,
                                          .exactly_once = granted == GUARANTEE_EXACTLY_ONCE &&
                                                          published == GUARANTEE_EXACTLY_ONCE,
                                          .kept = kept,
                                          .number = ref->number,
                                          .returned = ref->returned,
                                          .failures = ref->failures,
                                      });
    seat->subscription.lease = index;
    enum deliver_result result = kept ? session_give(seat, index, partition, record, cache)
                                      : deliver_to(&seat->subscription, record, cache);
    if (result != DELIVERED)
        lease_end(seat, index, false);
    return result;
}

/* ------------------------------------------------ the end */

void share_seat_stopped(struct share_seat *seat)
{
    seat->stop_confirmed = true;
    if (seat->in_flight == 0)
        seat_end(seat);
}

void share_seat_answered(struct share_seat *seat, uint32_t ask)
{
    struct client *client = seat->subscription.client;
    if (client == NULL || !seat->asking || ask != seat->asks)
        return;
    seat->asking = false;
    client->asking--;
    client_caught_up(client);
}

static void seat_ask(struct share_seat *seat)
{
    struct client *client = seat->subscription.client;
    if (seat->member == NULL || seat->stopped || client->credit == 0)
        return;
    client->asking += !seat->asking;
    seat->asking = true;
    if (++seat->asks == 0)
        seat->asks = 1;
    share_seat_tell(seat, &(struct share_slip){.ask = seat->asks});
}

void share_seats_ask(struct client *client)
{
    list_each_safe(link, following, &client->seats)
        seat_ask(container_of(link, struct share_seat, of_client));
}

void broker_share_settled(struct subscription *subscription, uint32_t lease)
{
    struct share_seat *seat = share_seat_of(subscription);
    CHECK(loop_is_home(seat->worker->loop));
    share_lease_end(seat, lease, seat->leases[lease].stored);
}

void broker_share_again(struct subscription *subscription, uint32_t lease, bool failed)
{
    struct share_seat *seat = share_seat_of(subscription);
    CHECK(loop_is_home(seat->worker->loop));
    seat->leases[lease].failures = flight_failures(seat->leases[lease].failures, failed);
    share_lease_return(seat, lease);
}

static void seat_go_on(struct share_seat *seat)
{
    struct client *client = seat->subscription.client;
    struct share_slip slip = {0};
    if (seat->member == NULL)
        return;
    if (!seat->stopped && seat->blocked && client->credit > 0 && !is_before_its_turn(seat) &&
        client->ops->queued(client) < LIMIT_CLIENT_OUT_BYTES / 2) {
        seat->blocked = false;
        slip.ready = true;
        slip.epoch = ++seat->epoch;
    }
    share_seat_tell(seat, &slip);
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

/* What is still with the client goes to others, unless it may have arrived and must not twice; what
 * is in a unit waits for that. */
static void seat_close(struct share_seat *seat)
{
    struct share_slip slip = {.stop = !seat->stopped, .leaves = true, .end = seat->stop_confirmed};
    struct share_ref *refs = heap_array(seat->in_flight + 1u, sizeof *refs);
    for (uint32_t i = 0; i < seat->lease_count; i++) {
        const struct share_lease *lease = &seat->leases[i];
        if (!lease->used || lease->kept || lease->in_unit)
            continue;
        if (lease->exactly_once || lease->stored) {
            lease_end(seat, i, lease->stored);
            continue;
        }
        refs[slip.ref_count++] = share_lease_ref(seat, i);
        lease_free(seat, i);
    }
    slip.refs = refs;
    slip.end &= seat->in_flight == 0; /* else when what the session answers for is stored */
    link_remove(&seat->of_client);
    seat->subscription.client = NULL;
    seat->stopped = true;
    bool ends = slip.end;
    if (seat->member != NULL)
        share_seat_tell(seat, &slip);
    heap_free(refs);
    if (ends)
        seat_free(seat);
}

void share_seats_close(struct client *client)
{
    struct link *link;
    while ((link = list_first(&client->seats)) != NULL)
        seat_close(container_of(link, struct share_seat, of_client));
    client->seat_count = 0;
}
