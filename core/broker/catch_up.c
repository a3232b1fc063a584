/* SPDX-License-Identifier: Apache-2.0 */
/* A client whose credit or output budget is used up keeps just an offset per partition and reads
 * the log from there when it has room again. It is live again at the end of the last notice its
 * worker has processed: what came before was read, what comes after will be noticed, so nothing is
 * lost or shown twice. */
#include "core/broker/topic.h"
#include "core/broker/worker.h"

#include "core/base/clock.h"
#include "core/base/heap.h"

enum { CATCH_UP_READ_BYTES = 256 * 1024 };

struct lag {
    uint64_t partition;
    uint64_t next;
    struct link link;
};

/* A read under way; outlives the client. */
struct catch_up {
    struct log_read read;
    struct client *client; /* NULL once it has gone */
};

/* Where a subscription made while its client lagged begins to see a partition. */
struct subscription_floor {
    uint64_t partition;
    uint64_t offset;
    struct subscription_floor *next;
};

static struct lag *lag_of(const struct client *client, uint64_t partition)
{
    list_each(link, &client->lags)
    {
        struct lag *lag = container_of(link, struct lag, link);
        if (lag->partition == partition)
            return lag;
    }
    return NULL;
}

bool catch_up_lags(const struct client *client, uint64_t partition)
{
    return lag_of(client, partition) != NULL;
}

void catch_up_begin(struct client *client, uint64_t partition, uint64_t offset)
{
    if (lag_of(client, partition) != NULL)
        return;
    struct lag *lag = heap_new(sizeof *lag);
    lag->partition = partition;
    lag->next = offset;
    list_push(&client->lags, &lag->link);
}

void catch_up_floor(struct subscription *subscription)
{
    list_each(link, &subscription->client->lags)
    {
        const struct lag *lag = container_of(link, struct lag, link);
        struct subscription_floor *floor = heap_new(sizeof *floor);
        floor->partition = lag->partition;
        floor->offset = deliver_seen(subscription->client->worker, lag->partition);
        floor->next = subscription->floors;
        subscription->floors = floor;
    }
}

static bool is_below_floor(const struct subscription *subscription, uint64_t partition,
                           uint64_t offset)
{
    for (const struct subscription_floor *floor = subscription->floors; floor != NULL;
         floor = floor->next)
        if (floor->partition == partition && offset < floor->offset)
            return true;
    return false;
}

void subscription_free(struct subscription *subscription)
{
    while (subscription->floors != NULL) {
        struct subscription_floor *floor = subscription->floors;
        subscription->floors = floor->next;
        heap_free(floor);
    }
    heap_free(subscription);
}

static void lag_end(struct lag *lag)
{
    link_remove(&lag->link);
    heap_free(lag);
}

/* False: the client is full again before this record was out completely. */
static bool show(struct client *client, const struct lag *lag, const struct record *record)
{
    struct span topic;
    if (!record_find(record, HEADER_TOPIC, &topic) || deliver_is_expired(record, clock_wall_ms()))
        return true;
    struct frame_cache frames = {0};
    bool fits = true;
    list_each_safe(link, following, &client->subscriptions)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_client);
        struct span filter = span_of(subscription->entry->filter, subscription->entry->filter_size);
        if (!topic_matches(filter, topic) ||
            is_below_floor(subscription, lag->partition, record->offset))
            continue;
        if (deliver_to(subscription, record, &frames) == DELIVER_FULL) {
            fits = false;
            break;
        }
    }
    frame_cache_clear(&frames);
    return fits;
}

/* Takes in what was read; false: the client is full. */
static bool take_in(struct client *client, struct lag *lag, struct log_read *read)
{
    uint64_t end = deliver_seen(client->worker, lag->partition);
    for (uint32_t i = 0; i < read->count; i++) {
        struct batch *batch = read->batches[i];
        for (uint32_t k = 0; k < batch->record_count; k++) {
            struct record record;
            batch_record(batch, k, &record);
            if (record.offset < lag->next)
                continue;
            if (record.offset >= end) {
                lag->next = end;
                return true;
            }
            if (!show(client, lag, &record))
                return false;
            lag->next = record.offset + 1;
        }
        if (batch_end(batch) > lag->next && batch_end(batch) <= end)
            lag->next = batch_end(batch);
    }
    return true;
}

static void read_done(struct request *request, enum status status)
{
    struct catch_up *catch_up = container_of(request, struct catch_up, read.request);
    struct client *client = catch_up->client;
    bool full = false;
    if (client != NULL) {
        client->catch_up = NULL;
        struct lag *lag = lag_of(client, catch_up->read.partition);
        if (lag != NULL && status == STATUS_OK) {
            full = !take_in(client, lag, &catch_up->read);
            if (!full && catch_up->read.count == 0)
                lag_end(lag);
        } else if (lag != NULL && (status == STATUS_OUT_OF_RANGE || status == STATUS_CORRUPT) &&
                   catch_up->read.start > lag->next) {
            metric_add(client->worker->broker->metrics.dropped_retention,
                       (int64_t)(catch_up->read.start - lag->next));
            lag->next = catch_up->read.start;
        } else if (lag != NULL) {
            lag_end(lag); /* its queue has gone */
        }
    }
    for (uint32_t i = 0; i < catch_up->read.count; i++)
        batch_unref(catch_up->read.batches[i]);
    heap_free(catch_up);
    if (client != NULL && !full)
        catch_up_go_on(client);
}

void catch_up_go_on(struct client *client)
{
    if (client->catch_up != NULL || client->credit == 0 ||
        client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES / 2)
        return;
    list_each_safe(link, following, &client->lags)
    {
        struct lag *lag = container_of(link, struct lag, link);
        if (lag->next >= deliver_seen(client->worker, lag->partition)) {
            lag_end(lag);
            continue;
        }
        struct catch_up *catch_up = heap_new(sizeof *catch_up);
        request_init(&catch_up->read.request, client->worker->loop, read_done);
        catch_up->client = client;
        catch_up->read.partition = lag->partition;
        catch_up->read.offset = lag->next;
        catch_up->read.max_bytes = CATCH_UP_READ_BYTES;
        client->catch_up = catch_up;
        log_read(client->worker->log, &catch_up->read);
        return;
    }
    /* Live everywhere: nothing older can come any more. */
    list_each(link, &client->subscriptions)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_client);
        while (subscription->floors != NULL) {
            struct subscription_floor *floor = subscription->floors;
            subscription->floors = floor->next;
            heap_free(floor);
        }
    }
}

void catch_up_close(struct client *client)
{
    if (client->catch_up != NULL)
        client->catch_up->client = NULL;
    client->catch_up = NULL;
    struct link *link;
    while ((link = list_first(&client->lags)) != NULL)
        lag_end(container_of(link, struct lag, link));
}
