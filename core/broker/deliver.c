/* SPDX-License-Identifier: Apache-2.0 */
/* From a committed batch to whoever subscribed. The partition's owner matches each record once,
 * serves its own clients, and sends every other worker concerned one notice per batch with the
 * numbers of the records. */
#include "core/broker/worker.h"

#include <stdlib.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/heap.h"

/* What one worker is told of one batch. */
struct notice {
    struct mail mail;
    struct broker_worker *to;
    struct batch *batch;
    uint64_t queue;
    bool stored, for_groups;
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

/* The frame for a variant, encoded when no slot has it. Borrowed from the cache. */
static struct blob *frame_of(struct frame_cache *cache, const struct client_ops *ops,
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

bool deliver_is_expired(const struct record *record, int64_t now_ms)
{
    struct span value;
    if (!record_find(record, HEADER_EXPIRES_AT, &value) || value.size == 0 || value.size > 19)
        return false;
    char text[20];
    memcpy(text, value.data, value.size);
    text[value.size] = '\0';
    int64_t expires = strtoll(text, NULL, 10);
    return expires > 0 && expires <= now_ms;
}

static bool is_own(const struct client *client, const struct record *record)
{
    struct span publisher;
    return record_find(record, HEADER_PUBLISHER, &publisher) &&
           span_equal(publisher, span_of(client->publisher, client->publisher_size));
}

enum deliver_result deliver_to(struct subscription *subscription, const struct record *record,
                               struct frame_cache *cache)
{
    struct client *client = subscription->client;
    struct broker_metrics *metrics = &client->worker->broker->metrics;
    if (subscription->no_local && is_own(client, record))
        return DELIVER_SKIPPED;
    bool at_most_once = subscription->guarantee == GUARANTEE_AT_MOST_ONCE ||
                        record_guarantee(record) == GUARANTEE_AT_MOST_ONCE;
    bool over = client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES;
    if (at_most_once && over) {
        metric_add(metrics->dropped_slow, 1);
        return DELIVER_SKIPPED;
    }
    if (!at_most_once && (over || client->credit == 0))
        return DELIVER_FULL;
    uint32_t variant = client->ops->variant(client, subscription, record);
    struct blob *frame = frame_of(cache, client->ops, variant, record);
    if (frame == NULL) {
        metric_add(metrics->dropped_encode, 1);
        return DELIVER_SKIPPED;
    }
    if (!at_most_once)
        client->credit--;
    client->ops->deliver(client, subscription, frame, variant, record);
    return DELIVERED;
}

/* ------------------------------------------------ one batch */

struct run {
    struct broker_worker *worker;
    const struct record *record;
    uint64_t partition;
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
        if (run->stored && !list_is_empty(&client->lags) && catch_up_lags(client, run->partition))
            continue;
        if (deliver_to(subscription, run->record, &run->frames) == DELIVER_FULL)
            catch_up_begin(client, run->partition, run->record->offset);
    }
}

/* Serves this worker's subscribers; returns which other workers have some. */
static uint64_t deliver_record(struct run *run, const struct record *record)
{
    struct span topic;
    run->others = 0;
    if (!record_find(record, HEADER_TOPIC, &topic) || topic.size == 0)
        return 0;
    if (deliver_is_expired(record, clock_wall_ms()))
        return 0;
    run->record = record;
    topic_trie_match(run->worker->trie, topic, matched, run);
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

void deliver_deinit(struct broker_worker *worker)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->seen, &i)) != NULL;)
        heap_free(slot->value);
    map_deinit(&worker->seen);
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
    struct run run = {
        .worker = worker, .partition = notice->batch->partition, .stored = notice->stored};
    for (uint32_t i = 0; i < notice->count; i++) {
        struct record record;
        batch_record(notice->batch, notice->records[i], &record);
        deliver_record(&run, &record);
    }
    if (notice->stored) {
        seen_of(worker, notice->batch->partition)->end = batch_end(notice->batch);
        if (notice->for_groups)
            groups_notice(worker, notice->queue, notice->batch->partition, notice->batch);
    }
    notice_free(notice);
}

static struct notice *notice_for(struct broker_worker *worker, unsigned to, struct batch *batch,
                                 bool stored)
{
    struct notice *notice = worker->pending[to];
    if (notice == NULL) {
        notice = worker->pending[to] = heap_new(sizeof *notice);
        notice->to = &worker->broker->workers[to];
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
    struct run run = {.worker = worker, .partition = batch->partition, .stored = stored};
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        uint64_t others = deliver_record(&run, &record);
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
        if (notice != NULL)
            mailbox_post(notice->to->loop, &notice->mail);
    }
}

void deliver_live(struct broker_worker *worker, struct batch *batch)
{
    deliver_batch(worker, batch, false);
    post_notices(worker);
    batch_unref(batch);
}

void deliver_committed(void *context, uint64_t partition, struct batch *batch)
{
    struct broker_worker *worker = context;
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    deliver_batch(worker, batch, true);
    seen_of(worker, partition)->end = batch_end(batch);
    if (queue != NULL) {
        bool here = false;
        for (size_t i = 0; i < catalog_group_count(worker->catalog, queue->id); i++) {
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
}
