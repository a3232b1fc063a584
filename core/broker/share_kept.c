/* SPDX-License-Identifier: Apache-2.0 */
/* Durable shares at their home: loading one that is rows, making one durable while its members are
 * served, what is handed out under flights of its session, and the end.
 *
 *   opening: a session under its name? its rows --> members are let in
 *   a kept member of one that has none: session and filter are stored, while the reader goes on as
 *     before and marks what passes --> where that ends, the session begins
 *   no member left: does any session still take part? --> rows alone, or nothing at all
 */
#include "core/broker/share.h"
#include "core/broker/session.h"

#include <stdlib.h>

#include "core/base/heap.h"

void share_load_begin(struct share *share, enum share_kind kind, uint32_t limit,
                      void (*done)(struct request *request, enum status status))
{
    struct broker_worker *worker = share->reader.worker;
    struct share_load *load = heap_new(sizeof *load);
    load->share = share;
    load->kind = kind;
    share_row_key(share->id, kind, 0, 0, load->first);
    share_row_key(share->id, kind, UINT64_MAX, UINT64_MAX, load->end);
    load->scan = (struct storage_scan){
        .first = span_of(load->first, SHARE_ROW_KEY),
        .end = span_of(load->end, SHARE_ROW_KEY),
        .limit = limit,
    };
    request_init(&load->scan.request, worker->loop, done);
    worker->calls++;
    log_rows_scan(worker->broker->log, &load->scan);
}

static void refuse_joins(struct share *share, enum status status)
{
    struct link *link;
    while ((link = list_pop(&share->joins)) != NULL)
        share_join_end(container_of(link, struct share_join, link), status);
}

void share_awake(struct share *share)
{
    share->busy = false;
    share_joins_go_on(share);
}

/* ------------------------------------------------ loading */

static struct share_ref *ref_find(struct share_ref *refs, uint32_t count, struct share_ref ref)
{
    return count == 0 ? NULL : bsearch(&ref, refs, count, sizeof *refs, share_ref_compare);
}

static void not_returned(struct share *share, struct share_ref *ref)
{
    const struct share_ref *end = share->returned + share->returned_count--;
    memmove(ref, ref + 1, (size_t)(end - ref - 1) * sizeof *ref);
}

/* What was on its way to a member goes out again, unless a session has it, or somebody who was to
 * get it once. */
static void sort_out(struct share *share)
{
    struct session *session = share->reader.session;
    uint32_t count = share->returned_count;
    share->reader.credit -= session->in_flight;
    share->returned_heaped = 0; /* nobody takes from it yet */
    if (count > 0)
        qsort(share->returned, count, sizeof *share->returned, share_ref_compare);
    for (uint32_t i = 1; i <= session->flight_count; i++) {
        struct flight *flight = &session->flights[i];
        struct share_ref ref = {
            .partition = flight->at.partition, .offset = flight->at.offset, .number = i};
        if (flight->at.state == FLIGHT_FREE)
            continue;
        flight->again = false;
        struct share_ref *gone = ref_find(share->gone, share->gone_count, ref),
                         *back = ref_find(share->returned, count, ref);
        if (gone != NULL) {
            share_flight_over(share, &(struct share_done){.number = i, .stored = true});
        } else if (flight->at.guarantee == GUARANTEE_EXACTLY_ONCE) {
            flight->returned = back != NULL; /* and that row goes as well */
            session->again_out += back != NULL;
            share_flight_over(share, &(struct share_done){.number = i});
            count -= back != NULL;
            if (back != NULL)
                not_returned(share, back);
        } else if (back != NULL) {
            session_flight_end(session, flight); /* by its row */
            share->reader.credit++;
        } else {
            share_return(share, &ref, 1);
        }
    }
}

static void loaded(struct share *share)
{
    sort_out(share);
    share->opened = share->durable = true;
    broker_session_begin(&share->reader);
    share_awake(share);
}

static void gone_add(struct share *share, struct share_ref ref)
{
    if (share->gone_count == share->gone_capacity) {
        share->gone_capacity = share->gone_capacity == 0 ? 64 : share->gone_capacity * 2;
        share->gone = heap_resize(share->gone, share->gone_capacity * sizeof *share->gone);
    }
    share->gone[share->gone_count++] = ref;
}

static void rows_loaded(struct request *request, enum status status)
{
    struct share_load *load = container_of(request, struct share_load, scan.request);
    struct share *share = load->share;
    struct span key, value;
    struct share_ref ref = {0};
    enum share_kind kind;
    share->reader.worker->calls--;
    for (size_t at = 0; status == STATUS_OK && storage_scan_next(&load->scan, &at, &key, &value);) {
        if (!share_row_decode(key, &kind, &ref))
            continue;
        if (kind == SHARE_KIND_GONE)
            gone_add(share, ref);
        else
            share_return(share, &ref, 1);
    }
    if (status == STATUS_OK)
        blob_unref(load->scan.rows);
    if (status == STATUS_OK && load->scan.more) {
        share_row_key(share->id, load->kind, ref.partition, ref.offset + 1, load->first);
        share->reader.worker->calls++;
        log_rows_scan(share->reader.worker->broker->log, &load->scan);
        return;
    }
    bool more = load->kind == SHARE_KIND_GONE;
    heap_free(load);
    if (status != STATUS_OK) {
        session_detach(&share->reader);
        refuse_joins(share, status);
        share_awake(share);
    } else if (more) {
        share_load_begin(share, SHARE_KIND_RETURNED, 0, rows_loaded);
    } else {
        loaded(share);
    }
}

static void attached(struct request *request, enum status status)
{
    struct share *share = container_of(request, struct share, attach.request);
    heap_free(share->attach.received);
    buf_deinit(&share->attach.notes);
    if (status != STATUS_OK) {
        refuse_joins(share, status);
        share_awake(share);
        return;
    }
    bool kept = session_is_kept(&share->reader);
    struct link *first = list_first(&share->reader.subscriptions);
    if (kept && first != NULL && container_of(first, struct subscription, of_client)->index != 0) {
        share_load_begin(share, SHARE_KIND_GONE, 0, rows_loaded);
        return;
    }
    share->opened =
        true; /* its session without a filter: it was being made as the gateway stopped */
    share_awake(share);
}

static void attach(struct share *share)
{
    struct broker_worker *worker = share->reader.worker;
    share->busy = true;
    share->attach = (struct broker_attach){.client = &share->reader, .only_present = true};
    request_init(&share->attach.request, worker->loop, attached);
    broker_attach(&share->attach);
}

/* ------------------------------------------------ from now on it is kept */

/* It is durable now, or goes on without. */
static void moved(struct share *share)
{
    share->moving = false;
    share_return_early(share);
    if (!share->durable)
        share_go_on(share);
}

/* The session reads what was committed after its filter. What was committed before it has been
 * given to the reader by now, as nothing of that is on its way from other workers any more. */
static void notices_came(void *context)
{
    struct share *share = context;
    catch_up_until(&share->reader);
    share->durable = true;
    moved(share);
    broker_session_begin(&share->reader);
    share->unmarked = share->reader.session->writing ? 2 : 1;
    session_write_now(share->reader.session); /* what has passed so far */
    share_awake(share);
}

static void subscribed(struct request *request, enum status status)
{
    struct share *share = container_of(request, struct share, keeping.request);
    struct share_join *join = container_of(list_first(&share->joins), struct share_join, link);
    (void)status;
    if (share->keeping_item.status == STATUS_OK) {
        worker_after_notices(share->reader.worker, notices_came, share);
        return;
    }
    moved(share);
    link_remove(&join->link);
    share_join_end(join, share->keeping_item.status);
    share_awake(share);
}

static void subscribe(struct share *share)
{
    const struct share_join *join =
        container_of(list_first(&share->joins), struct share_join, link);
    share->keeping_item = (struct subscribe_item){
        .filter = join->seat->filter,
        .selector = join->item->selector,
        .guarantee = GUARANTEE_EXACTLY_ONCE,
        .retained = RETAINED_NEVER,
    };
    share->keeping = (struct broker_subscribe){
        .client = &share->reader, .items = &share->keeping_item, .count = 1};
    request_init(&share->keeping.request, share->reader.worker->loop, subscribed);
    broker_subscribe(&share->keeping);
}

static void kept(void *context, enum status status, uint64_t commit)
{
    struct share *share = context;
    (void)commit;
    if (status == STATUS_OK) {
        atomic_store(&share->reader.worker->broker->sessions_kept, true);
        subscribe(share);
        return;
    }
    share->reader.session->id = 0;
    moved(share);
    refuse_joins(share, status);
    share_awake(share);
}

static void keep(struct share *share)
{
    struct session *session = share->reader.session;
    if (session == NULL) { /* there was none at all when it was opened */
        share->opened = false;
        attach(share);
        return;
    }
    share->busy = share->moving = true;
    if (session->id == 0)
        session_keep(session, kept, share);
    else
        subscribe(share);
}

bool share_passes(struct client *reader, uint64_t partition, uint64_t offset, uint64_t commit)
{
    const struct share *share = container_of(reader, struct share, reader);
    if (share->moving)
        session_mark(reader->session, partition, offset + 1, commit);
    return share->opened && !share->durable; /* what comes while it is loaded is noted */
}

/* ------------------------------------------------ members */

static void announced(struct request *request, enum status status)
{
    struct share_join *join = container_of(request, struct share_join, announced.request);
    struct share *share = join->member->share;
    CHECK(status == STATUS_OK);
    bool refused = join->announced_item.status != STATUS_OK;
    share_join_end(join, join->announced_item.status);
    if (refused)
        share_may_end(share);
}

static void announce(struct share *share, struct share_join *join)
{
    if (share->durable) { /* its filter holds everywhere */
        share_join_end(join, STATUS_OK);
        return;
    }
    join->announced_item = (struct subscribe_item){
        .filter = join->seat->filter,
        .selector = join->item->selector,
        .guarantee = GUARANTEE_EXACTLY_ONCE,
        .retained = RETAINED_NEVER,
    };
    join->announced.client = &share->reader;
    join->announced.items = &join->announced_item;
    join->announced.count = 1;
    request_init(&join->announced.request, share->reader.worker->loop, announced);
    subscribe_live(&join->announced);
}

bool share_agrees(const struct share *share, const struct share_join *join)
{
    struct span filter;
    const struct subscription *first = broker_subscription(&share->reader, &filter);
    return first == NULL || selector_equal(first->selector, join->item->selector);
}

void share_joins_go_on(struct share *share)
{
    struct link *link;
    share->held++;
    while (!share->busy && (link = list_first(&share->joins)) != NULL) {
        struct share_join *join = container_of(link, struct share_join, link);
        if (!share->opened && !atomic_load(&share->reader.worker->broker->sessions_kept)) {
            share->opened = true; /* nothing is kept of anybody */
        } else if (!share->opened) {
            attach(share);
        } else if (!share_agrees(share, join)) {
            if (share_is_ending(share))
                break; /* and whoever came goes on then */
            share->wanted = false;
            link_remove(&join->link);
            share_join_end(join, STATUS_EXISTS);
        } else if (join->kept && !share->durable) {
            keep(share);
        } else {
            share->wanted = false; /* for whoever comes after this one it may be so no longer */
            link_remove(&join->link);
            announce(share, join);
        }
    }
    share->held--;
    share_may_end(share);
}

/* ------------------------------------------------ records */

static void run(struct loop_task *task)
{
    struct share *share = container_of(task, struct share, task);
    struct session *session = share->reader.session;
    session_go_on(session);
    if (share->gone_count == 0 || session->phase != SESSION_LIVE)
        return;
    /* Whatever a row named has been passed by now. */
    for (uint32_t i = 0; i < share->gone_count; i++)
        if (share->gone[i].number == 0)
            session_superfluous(session, &share->gone[i]);
    heap_free(share->gone);
    share->gone = NULL;
    share->gone_count = share->gone_capacity = 0;
}

void share_kept_init(struct share *share)
{
    share->task.run = run;
}

bool share_has_given(struct client *reader, uint64_t partition, uint64_t offset)
{
    struct share *share = container_of(reader, struct share, reader);
    struct share_ref ref = {.partition = partition, .offset = offset};
    struct share_ref *gone = ref_find(share->gone, share->gone_count, ref);
    if (gone == NULL)
        return false;
    gone->number = UINT32_MAX; /* seen */
    session_superfluous(reader->session, &ref);
    return true;
}

enum deliver_result share_show(struct subscription *subscription, uint64_t partition,
                               const struct record *record, struct frame_cache *cache)
{
    struct share *share = container_of(subscription->client, struct share, reader);
    struct share_ref ref = {.partition = partition, .offset = record->offset};
    /* What is older goes first. */
    if (share->returned_count > 0 || !list_is_empty(&share->reader.lags))
        return DELIVER_FULL;
    return share_hand_kept(share, record, cache, ref);
}

/* It goes out, or does not. */
static void keep_promise(struct share *share, struct flight *flight)
{
    share->promised -= flight->promised;
    flight->promised = false;
}

/* What a member without a session gets exactly once goes to nobody else, whatever happens
 * (MQTT-4.8.2-5). A row says so before it goes out, and that it is anybody's again before it goes
 * to others; a start drops what such a row speaks of. Until the row is there nobody has it. */
static void reserve(struct share *share, struct flight *flight, bool reserved)
{
    keep_promise(share, flight);
    flight->promised = reserved;
    share->promised += reserved;
    flight->at.guarantee = reserved ? GUARANTEE_EXACTLY_ONCE : GUARANTEE_AT_LEAST_ONCE;
    flight->at.state = FLIGHT_HELD;
    session_flight_changed(share->reader.session, flight);
    share->reserved -= flight->reserved;
    flight->reserved = false;
    share->reserving++;
    session_write_now(share->reader.session);
}

/* A row says whose it is. */
static void say(struct share *share, struct flight *flight)
{
    flight->covered = false;
    flight->at.state = FLIGHT_SENT;
    flight->reserved = flight->at.guarantee == GUARANTEE_EXACTLY_ONCE;
    share->reserved += flight->reserved;
    share->reserving--;
    share_return(share,
                 &(struct share_ref){.partition = flight->at.partition,
                                     .offset = flight->at.offset,
                                     .number = flight->at.number,
                                     .returned = flight->returned,
                                     .reserved = flight->reserved},
                 1);
}

void share_covered(struct client *reader)
{
    struct share *share = container_of(reader, struct share, reader);
    struct session *session = reader->session;
    if (share->unmarked > 0 && --share->unmarked > 0) /* that one began before */
        session_write_now(session);
    for (uint32_t i = 0; i < session->blocks.writing_count; i++) {
        struct flight *flight;
        for (uint32_t at = 0;
             (flight = session_block_flight(session, session->blocks.writing[i], &at)) != NULL;)
            if (flight->covered)
                say(share, flight);
    }
    share_unreserve(share);
    share_go_on(share);
}

void share_unreserve(struct share *share)
{
    struct share_ref *refs = share->returned;
    uint32_t kept = 0;
    if (share->reserved == 0 || share_next(share, true) != NULL)
        return;
    for (uint32_t i = 0; i < share->returned_count; i++) {
        struct flight *flight =
            refs[i].number == 0 ? NULL : &share->reader.session->flights[refs[i].number];
        if (flight != NULL && flight->reserved)
            reserve(share, flight, false);
        else
            refs[kept++] = refs[i];
    }
    if (kept < share->returned_count)
        share->returned_heaped = 0;
    share->returned_count = kept;
}

void share_take_back(struct share *share, const struct share_ref *refs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct flight *flight =
            refs[i].number == 0 ? NULL : &share->reader.session->flights[refs[i].number];
        if (flight != NULL && flight->at.failures != refs[i].failures) {
            flight->at.failures = refs[i].failures;
            session_flight_changed(share->reader.session, flight);
            session_touch(share->reader.session);
        }
        if (flight != NULL && flight->reserved)
            reserve(share, flight, false);
        else
            share_return(share, &refs[i], 1);
    }
}

enum deliver_result share_hand_kept(struct share *share, const struct record *record,
                                    struct frame_cache *cache, struct share_ref ref)
{
    struct session *session = share->reader.session;
    if (!share->durable)
        return share_hand(share, record, cache, &(struct share_ref){.failures = ref.failures});
    bool is_new = ref.number == 0;
    if (is_new && share->reader.credit == 0)
        return DELIVER_FULL;
    if (is_new) {
        struct flight *flight = session_flight_new(session);
        flight->at.partition = ref.partition;
        flight->at.offset = ref.offset;
        flight->at.guarantee = GUARANTEE_AT_LEAST_ONCE;
        flight->at.state = FLIGHT_SENT;
        flight->returned = ref.returned;
        session->again_out += ref.returned;
        flight->at.failures = ref.failures;
        ref.number = flight->at.number;
        share->reader.credit--;
    }
    struct flight *flight = &session->flights[ref.number];
    ref.reserved = flight->reserved;
    ref.failures = flight->at.failures;
    keep_promise(share, flight);
    enum deliver_result result = share_hand(share, record, cache, &ref);
    if (result != DELIVER_FULL) {
        session_touch(session);
    } else if (share->reserves || ref.reserved) {
        reserve(share, flight, share->reserves);
        return DELIVERED;
    } else if (is_new) {
        session_flight_end(session, &session->flights[ref.number]);
        share->reader.credit++;
    }
    return result;
}

void share_flight_over(struct share *share, const struct share_done *done)
{
    struct session *session = share->reader.session;
    if (done->number == 0 || session == NULL || done->number > session->flight_count)
        return;
    struct flight *flight = &session->flights[done->number];
    struct share_ref ref = {.partition = flight->at.partition,
                            .offset = flight->at.offset,
                            .returned = flight->returned && !done->stored};
    if (flight->at.state == FLIGHT_FREE)
        return;
    /* While the position is before it, its row says that it is not to be shown again. */
    const struct share_ref *gone = ref_find(share->gone, share->gone_count, ref);
    bool passed = gone == NULL || gone->number != 0;
    share->reserved -= flight->reserved;
    keep_promise(share, flight);
    if (done->stored ? passed : flight->returned)
        session_superfluous(session, &ref);
    session_flight_end(session, flight);
    session_touch(session);
    if (share->reader.credit++ == 0)
        share_go_on(share);
}

void share_drop(struct share *share, struct share_ref ref)
{
    if (ref.number != 0)
        share_flight_over(share, &(struct share_done){.number = ref.number});
    else if (ref.returned && share->reader.session != NULL)
        session_superfluous(share->reader.session, &ref);
}

/* ------------------------------------------------ what sessions give back */

struct returned_mail {
    struct mail mail;
    struct broker_worker *to;
    uint32_t count;
    struct session_return returns[];
};

static void returned_deliver(struct mail *mail)
{
    struct returned_mail *sent = container_of(mail, struct returned_mail, mail);
    for (uint32_t i = 0; i < sent->count; i++) {
        const struct session_return *at = &sent->returns[i];
        struct share *share =
            map_get(&sent->to->shares, span_of((const uint8_t *)&at->share, sizeof at->share));
        if (share == NULL || share->over || (share->opened && !share->durable && !share->moving))
            continue; /* whoever loads it finds the row */
        struct share_ref ref = {.partition = at->partition, .offset = at->offset, .returned = true};
        if (share->moving)
            share_return_later(share, ref);
        else
            share_return(share, &ref, 1);
        if (share->durable)
            share_go_on(share);
    }
    heap_free(sent);
}

void share_returned_post(struct broker *broker, const struct session_return *returns,
                         uint32_t count)
{
    for (unsigned to = 0; to < broker->worker_count && count > 0; to++) {
        struct returned_mail *sent = heap_new(sizeof *sent + count * sizeof *returns);
        sent->mail.deliver = returned_deliver;
        sent->to = &broker->workers[to];
        for (uint32_t i = 0; i < count; i++)
            if (broker_home(broker, returns[i].share) == sent->to)
                sent->returns[sent->count++] = returns[i];
        if (sent->count > 0)
            mailbox_post(sent->to->loop, &sent->mail);
        else
            heap_free(sent);
    }
}
