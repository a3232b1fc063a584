/* SPDX-License-Identifier: Apache-2.0 */
/* From a committed batch to whoever subscribed. The partition's owner matches each record once,
 * serves its own clients, and sends every other worker concerned one notice per batch with the
 * numbers of the records. */
#include "core/broker/share.h"
#include "core/broker/session.h"

#include <stdlib.h>

#include "core/base/heap.h"

/* What one worker is told of one batch. */
struct notice {
    struct mail mail;
    struct broker_worker *to;
    unsigned from;
    struct batch *batch;
    uint64_t queue;
    bool stored, for_groups, for_followers;
    size_t bytes; /* charged to the worker it goes to */
    uint32_t count, capacity;
    uint32_t *records; /* numbers of those that match somebody there */
};

/* ------------------------------------------------ frames */

void frame_cache_clear(struct frame_cache *cache)
{
    unsigned used = cache->count < 8 ? cache->count : 8;
    for (unsigned i = 0; i < used; i++)
        blob_unref(cache->slots[i].frame);
    cache->count = 0;
}

struct blob *deliver_frame(struct frame_cache *cache, const struct client_ops *ops,
                           uint32_t variant, const struct record *record)
{
    unsigned used = cache->count < 8 ? cache->count : 8;
    for (unsigned i = 0; i < used; i++)
        if (cache->slots[i].variant == variant && cache->slots[i].ops == ops)
            return cache->slots[i].frame;
    struct blob *frame = ops->encode(variant, record);
    unsigned place = cache->count++ % 8;
    if (used == 8)
        blob_unref(cache->slots[place].frame);
    cache->slots[place].ops = ops;
    cache->slots[place].variant = variant;
    cache->slots[place].frame = frame;
    return frame;
}

/* ------------------------------------------------ one record to one subscription */

static int64_t expiry_of(struct span expires_at)
{
    char text[20];
    if (expires_at.size == 0 || expires_at.size >= sizeof text)
        return INT64_MAX;
    memcpy(text, expires_at.data, expires_at.size);
    text[expires_at.size] = '\0';
    int64_t expires = strtoll(text, NULL, 10);
    return expires > 0 ? expires : INT64_MAX;
}

/* The first header of a name counts, as for record_find(); here for two names in one walk. */
bool deliver_topic(const struct record *record, int64_t now_ms, struct span *topic)
{
    struct reader at = reader_of(record->headers);
    struct header header;
    bool found = false, timed = false;
    while (!(found && timed) && record_next_header(&at, &header)) {
        if (!found && span_is(header.name, HEADER_TOPIC)) {
            found = true;
            *topic = header.value;
            if (topic->size == 0)
                return false;
        } else if (!timed && span_is(header.name, HEADER_EXPIRES_AT)) {
            timed = true;
            if (expiry_of(header.value) <= now_ms)
                return false;
        }
    }
    return found;
}

int64_t deliver_expiry(const struct record *record)
{
    struct span expires_at;
    return record_find(record, HEADER_EXPIRES_AT, &expires_at) ? expiry_of(expires_at) : INT64_MAX;
}

bool deliver_has_expired(const struct record *record, int64_t now_ms)
{
    return deliver_expiry(record) <= now_ms;
}

bool deliver_is_own(const struct client *client, const struct record *record)
{
    struct span publisher;
    return record_find(record, HEADER_PUBLISHER, &publisher) &&
           span_equal(publisher, span_of(client->publisher, client->publisher_size));
}

bool deliver_is_wanted(const struct subscription *subscription, const struct record *record)
{
    return !(subscription->no_local && deliver_is_own(subscription->client, record)) &&
           (subscription->selector == NULL ||
            selection_matches(subscription->client, subscription->selector, record));
}

bool deliver_has_time(const struct subscription *subscription)
{
    if (subscription->selector == NULL || selection_may(subscription->client))
        return true;
    selection_wait(subscription->client);
    return false;
}

/* Where may_wait, what the client has given back goes first. */
static enum deliver_result deliver(struct subscription *subscription, const struct record *record,
                                   struct frame_cache *cache, bool may_wait)
{
    struct client *client = subscription->client;
    bool at_most_once = subscription->guarantee == GUARANTEE_AT_MOST_ONCE ||
                        record_guarantee(record) == GUARANTEE_AT_MOST_ONCE;
    if (at_most_once && subscription->selector != NULL && !selection_may(client)) {
        client->worker->slow_now++;
        return DELIVER_SKIPPED;
    }
    if (!deliver_has_time(subscription))
        return DELIVER_FULL;
    if (!deliver_is_wanted(subscription, record))
        return DELIVER_SKIPPED;
    if (share_is_reader(client))
        return share_offer(subscription, record, cache);
    bool over = client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES;
    if (at_most_once && over) {
        client->worker->slow_now++;
        return DELIVER_SKIPPED;
    }
    bool waits = may_wait && !list_is_empty(&client->returned);
    if (!at_most_once && (over || client->credit == 0 || waits))
        return DELIVER_FULL;
    uint32_t variant = client->ops->variant(client, subscription, record);
    struct blob *frame = deliver_frame(cache, client->ops, variant, record);
    if (frame == NULL) {
        metric_add(client->worker->broker->metrics.dropped_encode, 1);
        return DELIVER_SKIPPED;
    }
    uint32_t cost = at_most_once ? 0 : 1;
    client->credit -= cost;
    if (!client->ops->deliver(client, subscription, frame, variant, record)) {
        client->credit += cost;
        metric_add(client->worker->broker->metrics.dropped_too_large, 1);
        return DELIVER_SKIPPED;
    }
    client->figures->delivered_now++;
    return DELIVERED;
}

enum deliver_result deliver_to(struct subscription *subscription, const struct record *record,
                               struct frame_cache *cache)
{
    return deliver(subscription, record, cache, true);
}

enum deliver_result deliver_again(struct subscription *subscription, const struct record *record,
                                  struct frame_cache *cache)
{
    return deliver(subscription, record, cache, false);
}

enum deliver_result deliver_stored(struct subscription *subscription, uint64_t partition,
                                   const struct record *record, struct frame_cache *cache)
{
    uint64_t before_partition = subscription->shown_partition;
    uint64_t before_offset = subscription->shown_offset;
    subscription->shown_partition = partition;
    subscription->shown_offset = record->offset;
    enum deliver_result result = deliver_to(subscription, record, cache);
    if (result == DELIVER_FULL) {
        subscription->shown_partition = before_partition;
        subscription->shown_offset = before_offset;
    }
    return result;
}

/* ------------------------------------------------ one batch */

struct run {
    struct broker_worker *worker;
    uint32_t index; /* of the record */
    const struct record *record;
    struct span headers;   /* of the record that was looked at last */
    bool has_topic;        /* and is shown: what cut says */
    struct topic_cut *cut; /* kept while headers do not change, as in a burst of one client */
    uint64_t partition;
    unsigned from; /* worker that owns the partition */
    bool stored;
    uint64_t others; /* workers other than this one that have subscribers */
    struct frame_cache frames;
};

static void matched(void *context, struct topic_entry *entry)
{
    struct run *run = context;
    struct interest *interest = (struct interest *)entry;
    run->others |= interest->workers;
    list_each(link, &interest->subscriptions)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_entry);
        struct client *client = subscription->client;
        if (subscription->asleep >> run->from & 1 && run->stored)
            continue;
        if (subscription->walk != NULL && run->stored && run->record->attributes & RECORD_RETAIN)
            retained_overtake(subscription->walk, run->partition, run->record->offset,
                              run->cut->topic);
        if (!run->stored) /* at most once, so never in need of catching up */
            deliver_to(subscription, run->record, &run->frames);
        else if (session_is_kept(client) && subscription->guarantee != GUARANTEE_AT_MOST_ONCE &&
                 record_guarantee(run->record) != GUARANTEE_AT_MOST_ONCE &&
                 !(share_is_reader(client) &&
                   share_passes(client, run->partition, run->record->offset,
                                run->worker->shown->commit)))
            session_pass(client->session, run->worker->shown, run->index, run->record,
                         run->cut->topic, &run->frames);
        else if ((list_is_empty(&client->lags) || !catch_up_lags(client, run->partition)) &&
                 deliver_stored(subscription, run->partition, run->record, &run->frames) ==
                     DELIVER_FULL)
            catch_up_begin(client, run->partition, run->record->offset);
    }
}

/* Serves this worker's subscribers; returns which other workers have some. */
static uint64_t deliver_record(struct run *run, uint32_t index, const struct record *record)
{
    run->others = 0;
    run->index = index;
    if (!span_equal(record->headers, run->headers)) {
        struct span topic;
        run->headers = record->headers;
        run->has_topic = deliver_topic(record, worker_wall_ms(run->worker), &topic) &&
                         topic_cut(run->cut, topic);
    }
    if (!run->has_topic)
        return 0;
    run->record = record;
    run->worker->delivering = true;
    topic_trie_match_cut(run->worker->trie, run->cut, matched, run);
    run->worker->delivering = false;
    frame_cache_clear(&run->frames);
    return run->others & ~(1ULL << run->worker->index);
}

static struct seen *seen_of(struct broker_worker *worker, uint64_t partition)
{
    struct seen *seen = map_get(&worker->seen, span_of(&partition, sizeof partition));
    if (seen != NULL)
        return seen;
    seen = heap_new(sizeof *seen);
    seen->partition = partition;
    map_put(&worker->seen, span_of(&seen->partition, sizeof seen->partition), seen);
    return seen;
}

uint64_t deliver_seen(struct broker_worker *worker, uint64_t partition)
{
    return seen_of(worker, partition)->end;
}

void deliver_forget(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        uint64_t partition = queue->first_partition + i;
        heap_free(map_remove(&worker->seen, span_of(&partition, sizeof partition)));
    }
}

void deliver_deinit(struct broker_worker *worker)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->seen, &i)) != NULL;)
        heap_free(slot->value);
    map_deinit(&worker->seen);
}

/* ------------------------------------------------ notices on their way */

/* A worker that cannot follow holds back those who publish, and gets no more of what is not stored.
 */
static void notice_charge(struct notice *notice)
{
    struct broker_worker *to = notice->to;
    notice->bytes =
        sizeof *notice + batch_charge(notice->batch) + notice->capacity * sizeof *notice->records;
    uint64_t before = atomic_fetch_add(&to->notice_bytes, notice->bytes);
    if (before <= LIMIT_NOTICE_BYTES && before + notice->bytes > LIMIT_NOTICE_BYTES)
        atomic_fetch_add(&to->broker->crowded, 1);
}

static void notice_discharge(const struct notice *notice)
{
    struct broker_worker *to = notice->to;
    uint64_t before = atomic_fetch_sub(&to->notice_bytes, notice->bytes);
    if (before > LIMIT_NOTICE_BYTES && before - notice->bytes <= LIMIT_NOTICE_BYTES)
        atomic_fetch_sub(&to->broker->crowded, 1);
}

static void notice_free(struct notice *notice)
{
    batch_unref(notice->batch);
    heap_free(notice->records);
    heap_free(notice);
}

static void notice_deliver(struct mail *mail)
{
    struct notice *notice = container_of(mail, struct notice, mail);
    struct broker_worker *worker = notice->to;
    notice_discharge(notice);
    struct topic_cut cut;
    struct run run = {
        .worker = worker,
        .cut = &cut,
        .partition = notice->batch->partition,
        .from = notice->from,
        .stored = notice->stored,
    };
    worker->shown = notice->batch;
    worker->shown_stored = notice->stored;
    for (uint32_t i = 0; i < notice->count; i++) {
        struct record record;
        batch_record(notice->batch, notice->records[i], &record);
        deliver_record(&run, notice->records[i], &record);
    }
    uint64_t partition = notice->batch->partition;
    if (notice->stored && dead_partition_group(partition) == 0)
        seen_of(worker, partition)->end = batch_end(notice->batch);
    if (notice->for_followers)
        follow_notice(worker, partition, notice->batch);
    if (notice->for_groups)
        groups_notice(worker, notice->queue, partition, notice->batch);
    notice_free(notice);
    figures_flush(worker);
}

static struct notice *notice_for(struct broker_worker *worker, unsigned to, struct batch *batch,
                                 bool stored)
{
    struct notice *notice = worker->pending[to];
    if (notice == NULL) {
        notice = worker->pending[to] = heap_new(sizeof *notice);
        notice->to = &worker->broker->workers[to];
        notice->from = worker->index;
        notice->mail.deliver = notice_deliver;
        notice->batch = batch_ref(batch);
        notice->stored = stored;
    }
    return notice;
}

static void notice_add(struct notice *notice, uint32_t record)
{
    if (notice->count == notice->capacity) {
        notice->capacity = notice->capacity == 0 ? 64 : notice->capacity * 2;
        notice->records = heap_resize(notice->records, notice->capacity * sizeof *notice->records);
    }
    notice->records[notice->count++] = record;
}

static void deliver_batch(struct broker_worker *worker, struct batch *batch, bool stored)
{
    if (topic_trie_count(worker->trie) == 0)
        return;
    struct topic_cut cut;
    struct run run = {
        .worker = worker,
        .cut = &cut,
        .partition = batch->partition,
        .from = worker->index,
        .stored = stored,
    };
    worker->shown = batch;
    worker->shown_stored = stored;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        uint64_t others = deliver_record(&run, i, &record);
        while (others != 0) {
            unsigned to = (unsigned)__builtin_ctzll(others);
            others &= others - 1;
            notice_add(notice_for(worker, to, batch, stored), i);
        }
    }
}

static void post_notices(struct broker_worker *worker)
{
    for (unsigned i = 0; i < worker->broker->worker_count; i++) {
        struct notice *notice = worker->pending[i];
        worker->pending[i] = NULL;
        if (notice == NULL)
            continue;
        if (!notice->stored && atomic_load(&notice->to->notice_bytes) > LIMIT_NOTICE_BYTES) {
            worker->slow_now += notice->count;
            notice_free(notice);
            continue;
        }
        notice_charge(notice);
        mailbox_post(notice->to->loop, &notice->mail);
    }
    figures_flush(worker);
}

void deliver_live(struct broker_worker *worker, struct batch *batch)
{
    deliver_batch(worker, batch, false);
    post_notices(worker);
    batch_unref(batch);
}

static void deliver_followers(struct broker_worker *worker, uint64_t partition, struct batch *batch)
{
    uint64_t workers = follow_workers(worker, partition), own = 1ULL << worker->index;
    for (uint64_t others = workers & ~own; others != 0; others &= others - 1)
        notice_for(worker, (unsigned)__builtin_ctzll(others), batch, true)->for_followers = true;
    if ((workers & own) != 0)
        follow_notice(worker, partition, batch);
}

/* Dead letters are nobody's but their group's, and of those who look at them. */
static void deliver_dead(struct broker_worker *worker, uint64_t partition, struct batch *batch)
{
    struct broker_worker *home = broker_home(worker->broker, dead_partition_group(partition));
    deliver_followers(worker, partition, batch);
    if (home == worker)
        groups_notice(worker, 0, partition, batch);
    else
        notice_for(worker, home->index, batch, true)->for_groups = true;
    post_notices(worker);
}

void deliver_committed(void *context, uint64_t partition, struct batch *batch)
{
    struct broker_worker *worker = context;
    if (dead_partition_group(partition) != 0) {
        deliver_dead(worker, partition, batch);
        return;
    }
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    deliver_batch(worker, batch, true);
    seen_of(worker, partition)->end = batch_end(batch);
    deliver_followers(worker, partition, batch);
    if (queue != NULL) {
        bool here = false;
        size_t groups = catalog_group_count(worker->catalog, queue->id);
        for (size_t i = 0; i < groups; i++) {
            struct broker_worker *home =
                broker_home(worker->broker, catalog_group_at(worker->catalog, queue->id, i)->id);
            if (home == worker) {
                here = true;
                continue;
            }
            struct notice *notice = notice_for(worker, home->index, batch, true);
            notice->for_groups = true;
            notice->queue = queue->id;
        }
        if (here)
            groups_notice(worker, queue->id, partition, batch);
    }
    post_notices(worker);
    if (queue != NULL && queue->durability == DURABLE_SYNC)
        worker_synced(worker, batch->commit);
}
