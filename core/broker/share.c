/* SPDX-License-Identifier: Apache-2.0 */
/* The home of shares: who takes part, whose turn it is, and what becomes of a record that nobody
 * can take now. */
#include "core/broker/share.h"
#include "core/broker/session.h"

#include "core/base/hash.h"
#include "core/base/heap.h"

/* ------------------------------------------------ the reader */

/* As if its output were full while no member is able: so it lags, and reads on when one is. */
static size_t reader_queued(struct client *client)
{
    const struct share *share = container_of(client, struct share, reader);
    return list_is_empty(&share->ready) ? SIZE_MAX : 0;
}

static void answer_all(struct share *share);

static void reader_caught_up(struct client *client)
{
    answer_all(container_of(client, struct share, reader));
}

const struct client_ops share_reader_ops = {
    .protocol = "share", .queued = reader_queued, .caught_up = reader_caught_up};

struct share *share_new(const struct share_seat *seat)
{
    struct broker_worker *worker = seat->home;
    struct share *share = heap_new(sizeof *share);
    share->id = seat->id;
    share->reader = (struct client){
        .worker = worker,
        .ops = &share_reader_ops,
        .tenant = seat->tenant,
        .id = share_name(seat->id, share->name),
        .credit = LIMIT_SHARE_FLIGHTS,
        .credit_max = LIMIT_SHARE_FLIGHTS,
        .open = true,
    };
    list_init(&share->reader.subscriptions);
    list_init(&share->reader.seats);
    list_init(&share->reader.lags);
    list_init(&share->reader.returned);
    list_init(&share->reader.walks);
    list_init(&share->members);
    list_init(&share->ready);
    list_init(&share->joins);
    share_kept_init(share);
    map_put(&worker->shares, span_of(&share->id, sizeof share->id), share);
    return share;
}

void share_free(struct share *share)
{
    heap_free(share->gone);
    heap_free(share);
}

/* Of one of which nothing is kept: who subscribes from now on begins anew. */
static void share_is_over(struct share *share)
{
    struct broker_worker *worker = share->reader.worker;
    map_remove(&worker->shares, span_of(&share->id, sizeof share->id));
    share->over = true;
    share->reader.open = false;
    if (share->reader.session != NULL)
        share->reader.session->expiry_s = 0;
    session_detach(&share->reader);
    catch_up_close(&share->reader);
    subscribe_close(&share->reader);
    share_forget(share);
}

void share_may_end(struct share *share)
{
    if (share->busy || share->held > 0 || !list_is_empty(&share->joins))
        return;
    if (share->durable) {
        if (share->member_count == 0)
            share_close(share);
        return;
    }
    if (share->active_count == 0 && !share->over)
        share_is_over(share);
    if (share->member_count == 0)
        share_free(share);
}

void share_go_on(struct share *share)
{
    answer_all(share);
    if (share->over || list_is_empty(&share->ready))
        return;
    if (share->returned_count > 0)
        share_read_on(share);
    else if (!list_is_empty(&share->reader.lags))
        catch_up_go_on(&share->reader);
    else if (share->durable)
        loop_defer(share->reader.worker->loop, &share->task, LOOP_WORK);
}

void share_retry(struct broker_worker *worker)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->shares, &i)) != NULL;)
        share_go_on(slot->value);
}

/* ------------------------------------------------ turns */

static bool is_ready(const struct share_member *member)
{
    return member->active && member->able && member->in_flight < member->window;
}

static void take_turns(struct share_member *member)
{
    if (!is_ready(member))
        link_remove(&member->ready);
    else if (!link_is_linked(&member->ready))
        list_push(&member->share->ready, &member->ready);
}

static enum deliver_result give(struct share_member *member, const struct record *record,
                                struct frame_cache *cache, const struct share_ref *ref)
{
    const struct broker_worker *worker = member->share->reader.worker;
    if (member->worker == worker)
        return share_take(member->seat, worker->shown->partition, record, cache, ref);
    member->in_flight++;
    share_send(member, record, ref);
    return DELIVERED;
}

/* A start after kill -9 may show it to the share's session, which has no row yet that says whose
 * it is, or that it has passed. */
static bool is_too_early(const struct share *share, const struct share_ref *ref)
{
    return ref->number == 0 && (share->moving || share->unmarked > 0);
}

struct share_member *share_next(const struct share *share, bool reserved)
{
    list_each(link, &share->ready)
    {
        struct share_member *member = container_of(link, struct share_member, ready);
        if (!reserved || member->exact)
            return member;
    }
    return NULL;
}

/* How many records it can take now. */
static uint32_t room_of(const struct share_member *member)
{
    return member->worker == member->share->reader.worker
               ? member->seat->subscription.client->credit
               : member->window - member->in_flight;
}

/* Nothing is tried: its seat says when it can take something. */
static void block(struct share_member *member)
{
    member->seat->blocked = true;
    member->able = false;
    take_turns(member);
}

enum deliver_result share_hand(struct share *share, const struct record *record,
                               struct frame_cache *cache, const struct share_ref *ref)
{
    struct share_member *member;
    while ((member = share_next(share, ref->reserved)) != NULL) {
        bool exact = member->exact && record_guarantee(record) == GUARANTEE_EXACTLY_ONCE;
        if (exact && is_too_early(share, ref))
            break;
        if (exact && ref->number != 0 && !ref->reserved) {
            uint32_t room = room_of(member);
            if (room == 0) {
                block(member);
                continue;
            }
            share->reserves = share->promised < room; /* else some are on their way to it */
            return DELIVER_FULL;
        }
        /* First to the end of the row: a delivery may already end its turn. */
        link_remove(&member->ready);
        list_push(&share->ready, &member->ready);
        enum deliver_result result = give(member, record, cache, ref);
        if (result == DELIVER_FULL)
            member->able = false;
        take_turns(member);
        if (result != DELIVER_FULL)
            return result;
    }
    share->reserves = false;
    return DELIVER_FULL;
}

enum deliver_result share_offer(struct subscription *subscription, const struct record *record,
                                struct frame_cache *cache)
{
    struct share *share = container_of(subscription->client, struct share, reader);
    bool at_most_once = record_guarantee(record) == GUARANTEE_AT_MOST_ONCE;
    if (share->returned_count > 0 && !at_most_once)
        return DELIVER_FULL; /* what was given back goes first */
    enum deliver_result result = share_hand(share, record, cache, &(struct share_ref){0});
    if (result != DELIVER_FULL || !at_most_once)
        return result;
    share->reader.worker->slow_now++;
    return DELIVER_SKIPPED;
}

/* ------------------------------------------------ members */

static void member_free(struct share_member *member)
{
    struct share *share = member->share;
    CHECK(!member->active);
    link_remove(&member->of_share);
    share->reader.worker->share_members--;
    share->member_count--;
    heap_free(member);
}

static void member_ask(struct share_member *member, uint32_t ask)
{
    member->share->asking -= member->ask != 0;
    member->share->asking += ask != 0;
    member->ask = ask;
}

/* Nothing waits: whoever wants to know is told. */
static void answer_all(struct share *share)
{
    if (share->asking == 0 || share->returned_count > 0 || share->read != NULL ||
        share->reserving > 0 || client_is_behind(&share->reader))
        return;
    list_each_safe(link, following, &share->members)
    {
        struct share_member *member = container_of(link, struct share_member, of_share);
        uint32_t ask = member->ask;
        if (ask == 0)
            continue;
        member_ask(member, 0);
        share_answer(member, ask);
    }
}

static void member_stop(struct share_member *member)
{
    member_ask(member, 0);
    member->active = false;
    member->share->active_count--;
    link_remove(&member->ready);
}

void share_join_end(struct share_join *join, enum status status)
{
    struct share_member *member = join->member;
    struct share *share = member->share;
    join->status = status;
    if (status == STATUS_OK) {
        member->able = !join->blocked;
        take_turns(member);
        share_go_on(share);
    } else {
        join->member = NULL;
        member_stop(member);
        member_free(member);
    }
    share_join_return(join); /* last: its client may have gone, and then the member goes as well */
}

static enum status member_new(struct share_join *join)
{
    struct share_seat *seat = join->seat;
    struct broker_worker *worker = seat->home;
    if (worker->ending)
        return STATUS_SHUTTING_DOWN;
    struct share *share = map_get(&worker->shares, span_of(&seat->id, sizeof seat->id));
    uint32_t limit = worker->broker->options.share_members;
    if (limit == 0)
        limit = LIMIT_SHARE_MEMBERS;
    if (share != NULL && share->member_count >= limit && !join->item->comes_back)
        return STATUS_OVER_QUOTA;
    if (share == NULL)
        share = share_new(seat);
    struct share_member *member = heap_new(sizeof *member);
    member->share = share;
    member->seat = seat;
    member->worker = seat->worker;
    member->window = seat->worker == worker ? UINT32_MAX : join->window;
    member->active = true;
    member->exact = !join->kept && join->item->guarantee == GUARANTEE_EXACTLY_ONCE;
    link_init(&member->ready);
    list_push(&share->members, &member->of_share);
    share->member_count++;
    join->members = ++share->active_count;
    worker->share_members++;
    join->member = member;
    return STATUS_OK;
}

void share_join_arrive(struct share_join *join)
{
    join->status = member_new(join);
    if (join->status != STATUS_OK) {
        share_join_return(join);
        return;
    }
    struct share *share = join->member->share;
    list_push(&share->joins, &join->link);
    share_joins_go_on(share);
}

void share_slip_arrive(struct share_member *member, const struct share_slip *slip)
{
    struct share *share = member->share;
    CHECK(loop_is_home(share->reader.worker->loop));
    member->in_flight -= slip->settled < member->in_flight ? slip->settled : member->in_flight;
    if (slip->blocked)
        member->able = false;
    if (slip->ready) {
        member->able = true;
        member->epoch = slip->epoch;
    }
    if (slip->grades)
        member->exact = slip->exact;
    take_turns(member);
    if (slip->ask != 0 && member->active)
        member_ask(member, slip->ask);
    for (uint32_t i = 0; i < slip->done_count; i++)
        share_flight_over(share, &slip->done[i]);
    if (slip->ref_count > 0)
        share_take_back(share, slip->refs, slip->ref_count);
    if (slip->stop)
        member_stop(member);
    member->leaves |= slip->leaves;
    share_go_on(share);
    if (slip->end)
        member_free(member);
    if (slip->end)
        share_joins_go_on(share);
    else if (slip->stop)
        share_may_end(share);
    if (slip->stop)
        share_stop_confirm(member); /* last: a seat of this worker may end at once */
}

void share_init(struct broker_worker *worker)
{
    map_init(&worker->shares);
    worker->parcel_task.run = share_parcels_post;
}

void share_deinit(struct broker_worker *worker)
{
    loop_task_cancel(worker->loop, &worker->parcel_task);
    map_deinit(&worker->shares);
}
