/* SPDX-License-Identifier: Apache-2.0 */
/* The way between a share's home and the seats of its members on other workers. */
#include "core/broker/share.h"

#include "core/base/heap.h"

/* ------------------------------------------------ joining */

static void join_deliver(struct mail *mail)
{
    share_join_arrive(container_of(mail, struct share_join, mail));
}

static void joined_deliver(struct mail *mail)
{
    share_joined(container_of(mail, struct share_join, mail));
}

void share_join_send(struct share_join *join)
{
    join->mail.deliver = join_deliver;
    mailbox_post(join->seat->home->loop, &join->mail);
}

void share_join_return(struct share_join *join)
{
    struct share_seat *seat = join->seat;
    join->mail.deliver = joined_deliver;
    if (seat->worker == seat->home)
        share_joined(join);
    else
        mailbox_post(seat->worker->loop, &join->mail);
}

/* ------------------------------------------------ slips */

struct slip_mail {
    struct mail mail;
    struct share_member *member;
    struct share_slip slip;
    struct share_done *done; /* behind refs */
    struct share_ref refs[];
};

static void slip_deliver(struct mail *mail)
{
    struct slip_mail *sent = container_of(mail, struct slip_mail, mail);
    share_slip_arrive(sent->member, &sent->slip);
    heap_free(sent);
}

void share_report(struct share_seat *seat, const struct share_slip *slip)
{
    if (seat->worker == seat->home) {
        share_slip_arrive(seat->member, slip);
        return;
    }
    struct slip_mail *mail = heap_new(sizeof *mail + slip->ref_count * sizeof *slip->refs +
                                      slip->done_count * sizeof *slip->done);
    mail->mail.deliver = slip_deliver;
    mail->member = seat->member;
    mail->slip = *slip;
    mail->slip.refs = mail->refs;
    mail->slip.done = mail->done = (struct share_done *)(mail->refs + slip->ref_count);
    if (slip->ref_count > 0)
        memcpy(mail->refs, slip->refs, slip->ref_count * sizeof *slip->refs);
    if (slip->done_count > 0)
        memcpy(mail->done, slip->done, slip->done_count * sizeof *slip->done);
    mailbox_post(seat->home->loop, &mail->mail);
}

struct stop_mail {
    struct mail mail;
    struct share_seat *seat;
};

static void stop_deliver(struct mail *mail)
{
    struct stop_mail *stop = container_of(mail, struct stop_mail, mail);
    share_seat_stopped(stop->seat);
    heap_free(stop);
}

/* Behind the last parcel, this turn's included. */
void share_stop_confirm(struct share_member *member)
{
    struct broker_worker *home = member->share->reader.worker;
    if (member->worker == home) {
        share_seat_stopped(member->seat);
        return;
    }
    share_parcels_post(&home->parcel_task);
    struct stop_mail *stop = heap_new(sizeof *stop);
    stop->mail.deliver = stop_deliver;
    stop->seat = member->seat;
    mailbox_post(member->worker->loop, &stop->mail);
}

struct answer_mail {
    struct mail mail;
    struct share_seat *seat;
    uint32_t ask;
};

static void answer_deliver(struct mail *mail)
{
    struct answer_mail *answer = container_of(mail, struct answer_mail, mail);
    share_seat_answered(answer->seat, answer->ask);
    heap_free(answer);
}

/* Before the member stops, so that the seat is there. */
void share_answer(struct share_member *member, uint32_t ask)
{
    struct broker_worker *home = member->share->reader.worker;
    if (member->worker == home) {
        share_seat_answered(member->seat, ask);
        return;
    }
    share_parcels_post(&home->parcel_task);
    struct answer_mail *answer = heap_new(sizeof *answer);
    answer->mail.deliver = answer_deliver;
    answer->seat = member->seat;
    answer->ask = ask;
    mailbox_post(member->worker->loop, &answer->mail);
}

/* ------------------------------------------------ parcels */

struct parcel_item {
    struct share_seat *seat;
    struct batch *batch;
    struct share_ref ref;
    uint32_t epoch;
    bool stored;
};

struct share_parcel {
    struct mail mail;
    struct broker_worker *to;
    uint32_t count, capacity;
    struct parcel_item *items;
};

/* It was sent before exactly once was granted, so that no row says whose it is. */
static bool was_sent_for_less(const struct parcel_item *item, const struct record *record)
{
    const struct share_seat *seat = item->seat;
    return item->ref.number != 0 && !item->ref.reserved && !seat->kept &&
           seat->subscription.guarantee == GUARANTEE_EXACTLY_ONCE &&
           record_guarantee(record) == GUARANTEE_EXACTLY_ONCE;
}

/* False: it is to be given back. */
static bool item_show(const struct parcel_item *item)
{
    struct share_seat *seat = item->seat;
    struct broker_worker *worker = seat->worker;
    if (seat->blocked || seat->stopped || item->epoch != seat->epoch)
        return false;
    struct record record;
    struct frame_cache frames = {0};
    batch_record(item->batch, batch_find(item->batch, item->ref.offset), &record);
    if (was_sent_for_less(item, &record))
        return false;
    worker->delivering = true;
    enum deliver_result result =
        share_take(seat, item->batch->partition, &record, &frames, &item->ref);
    worker->delivering = false;
    frame_cache_clear(&frames);
    return result != DELIVER_FULL;
}

/* A run of items for one seat; refs has room for all of them. Returns where the next run begins. */
static uint32_t run_show(const struct share_parcel *parcel, uint32_t i, struct share_ref *refs)
{
    struct share_seat *seat = parcel->items[i].seat;
    struct share_slip slip = {.refs = refs};
    for (; i < parcel->count && parcel->items[i].seat == seat; i++) {
        const struct parcel_item *item = &parcel->items[i];
        if (item_show(item))
            continue;
        seat->settled++;
        if (item->stored)
            refs[slip.ref_count++] = item->ref;
        else
            seat->worker->slow_now++;
    }
    /* One that is only late is given back as well, but its seat has said ready since. */
    slip.blocked = seat->blocked;
    share_seat_tell(seat, &slip);
    return i;
}

static void parcel_deliver(struct mail *mail)
{
    struct share_parcel *parcel = container_of(mail, struct share_parcel, mail);
    struct broker_worker *worker = parcel->to;
    struct share_ref *refs = heap_array(parcel->count, sizeof *refs);
    for (uint32_t i = 0; i < parcel->count;)
        i = run_show(parcel, i, refs);
    for (uint32_t i = 0; i < parcel->count; i++)
        batch_unref(parcel->items[i].batch);
    heap_free(refs);
    heap_free(parcel->items);
    heap_free(parcel);
    figures_flush(worker);
}

void share_send(struct share_member *member, const struct record *record,
                const struct share_ref *ref)
{
    struct broker_worker *home = member->share->reader.worker;
    struct share_parcel **at = &home->parcels[member->worker->index];
    if (*at == NULL) {
        *at = heap_new(sizeof **at);
        (*at)->mail.deliver = parcel_deliver;
        (*at)->to = member->worker;
        loop_defer(home->loop, &home->parcel_task, LOOP_FLUSH);
    }
    struct share_parcel *parcel = *at;
    if (parcel->count == parcel->capacity) {
        parcel->capacity = parcel->capacity == 0 ? 32 : parcel->capacity * 2;
        parcel->items = heap_resize(parcel->items, parcel->capacity * sizeof *parcel->items);
    }
    parcel->items[parcel->count++] = (struct parcel_item){
        .seat = member->seat,
        .batch = batch_ref(home->shown),
        .ref = {.partition = home->shown->partition,
                .offset = record->offset,
                .number = ref->number,
                .returned = ref->returned,
                .reserved = ref->reserved,
                .failures = ref->failures},
        .epoch = member->epoch,
        .stored = home->shown_stored,
    };
}

void share_parcels_post(struct loop_task *task)
{
    struct broker_worker *home = container_of(task, struct broker_worker, parcel_task);
    for (unsigned i = 0; i < home->broker->worker_count; i++) {
        struct share_parcel *parcel = home->parcels[i];
        home->parcels[i] = NULL;
        if (parcel != NULL)
            mailbox_post(parcel->to->loop, &parcel->mail);
    }
}
