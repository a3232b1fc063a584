/* SPDX-License-Identifier: Apache-2.0 */
/* A client whose credit or output budget is used up keeps just an offset per partition and reads
 * the log from there when it has room again. It is live again at the end of the last notice its
 * worker has processed: what came before was read, what comes after will be noticed, so nothing is
 * lost or shown twice. */
#include "core/broker/share.h"
#include "core/broker/topic.h"

#include "core/base/heap.h"

enum { CATCH_UP_READ_BYTES = 256 * 1024, RETRY_MS = 500 };

struct lag {
    uint64_t partition;
    uint64_t next;
    uint64_t until; /* what lies behind comes another way */
    struct link link;
    /* The record at shown_at went to some of the client's subscriptions only: to these. */
    uint64_t shown_at;
    uint64_t *shown; /* their numbers */
    uint32_t shown_count, shown_capacity;
};

/* A read under way; outlives the client. */
struct catch_up {
    struct log_read read;
    struct broker_worker *worker;
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

static bool was_shown(const struct lag *lag, const struct subscription *subscription,
                      uint64_t offset)
{
    if (subscription->shown_partition == lag->partition && subscription->shown_offset == offset)
        return true;
    for (uint32_t i = 0; lag->shown_at == offset && i < lag->shown_count; i++)
        if (lag->shown[i] == subscription->number)
            return true;
    return false;
}

/* Which subscriptions the record at offset went to before the client was full. Their own memory of
 * it lasts until their next record, of whatever partition. */
static void lag_remember(struct lag *lag, const struct client *client, uint64_t offset)
{
    if (lag->shown_at != offset)
        lag->shown_count = 0;
    lag->shown_at = offset;
    list_each(link, &client->subscriptions)
    {
        const struct subscription *subscription =
            container_of(link, struct subscription, of_client);
        if (subscription->shown_partition != lag->partition || subscription->shown_offset != offset)
            continue;
        if (lag->shown_count == lag->shown_capacity) {
            lag->shown_capacity = lag->shown_capacity == 0 ? 4 : lag->shown_capacity * 2;
            lag->shown = heap_resize(lag->shown, lag->shown_capacity * sizeof *lag->shown);
        }
        lag->shown[lag->shown_count++] = subscription->number;
    }
}

void catch_up_begin(struct client *client, uint64_t partition, uint64_t offset)
{
    if (lag_of(client, partition) != NULL)
        return;
    struct lag *lag = heap_new(sizeof *lag);
    lag->partition = partition;
    lag->next = offset;
    lag->until = UINT64_MAX;
    lag_remember(lag, client, offset);
    list_push(&client->lags, &lag->link);
}

static void floor_add(struct subscription *subscription, uint64_t partition)
{
    struct subscription_floor *floor = heap_new(sizeof *floor);
    floor->partition = partition;
    floor->offset = deliver_seen(subscription->client->worker, partition);
    floor->next = subscription->floors;
    subscription->floors = floor;
}

void catch_up_floor(struct subscription *subscription)
{
    list_each(link, &subscription->client->lags)
        floor_add(subscription, container_of(link, struct lag, link)->partition);
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

static void floors_free(struct subscription *subscription)
{
    while (subscription->floors != NULL) {
        struct subscription_floor *floor = subscription->floors;
        subscription->floors = floor->next;
        heap_free(floor);
    }
}

void subscription_free(struct subscription *subscription)
{
    floors_free(subscription);
    selector_unref(subscription->selector);
    heap_free(subscription);
}

void catch_up_awake(struct subscription *subscription, unsigned owner)
{
    struct broker_worker *worker = subscription->client->worker;
    list_each(link, &subscription->client->lags)
    {
        const struct lag *lag = container_of(link, struct lag, link);
        if (log_owner(worker->broker->log, lag->partition) == owner)
            floor_add(subscription, lag->partition);
    }
}

void catch_up_until(struct client *client)
{
    list_each(link, &client->lags)
    {
        struct lag *lag = container_of(link, struct lag, link);
        lag->until = deliver_seen(client->worker, lag->partition);
    }
}

/* Where the client is live again. */
static uint64_t end_of(const struct client *client, const struct lag *lag)
{
    uint64_t seen = deliver_seen(client->worker, lag->partition);
    return seen < lag->until ? seen : lag->until;
}

static void lag_end(struct lag *lag)
{
    link_remove(&lag->link);
    heap_free(lag->shown);
    heap_free(lag);
}

static bool is_asleep(const struct subscription *subscription, uint64_t partition)
{
    return subscription->asleep != 0 &&
           subscription->asleep >> log_owner(subscription->client->worker->broker->log, partition) &
               1;
}

/* False: the client is full again before this record was out completely. */
static bool show(struct client *client, struct lag *lag, const struct record *record)
{
    struct span topic;
    if (!deliver_topic(record, worker_wall_ms(client->worker), &topic))
        return true;
    struct frame_cache frames = {0};
    bool fits = true;
    list_each(link, &client->subscriptions)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_client);
        struct span filter = span_of(subscription->entry->filter, subscription->entry->filter_size);
        if (is_asleep(subscription, lag->partition) || !topic_matches(filter, topic) ||
            is_below_floor(subscription, lag->partition, record->offset) ||
            was_shown(lag, subscription, record->offset))
            continue;
        if (deliver_stored(subscription, lag->partition, record, &frames) == DELIVER_FULL) {
            lag_remember(lag, client, record->offset);
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
    uint64_t end = end_of(client, lag);
    for (uint32_t i = 0; i < read->count; i++) {
        struct batch *batch = read->batches[i];
        client->worker->shown = batch;
        client->worker->shown_stored = true;
        for (uint32_t k = batch_find(batch, lag->next); k < batch->record_count; k++) {
            struct record record;
            batch_record(batch, k, &record);
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

/* What a read that failed means for the lag; false: it is tried again later. */
static bool not_read(struct client *client, struct lag *lag, const struct log_read *read,
                     enum status status)
{
    struct broker_worker *worker = client->worker;
    if ((status == STATUS_OUT_OF_RANGE || status == STATUS_CORRUPT) && read->start > lag->next) {
        metric_add(worker->broker->metrics.dropped_retention, (int64_t)(read->start - lag->next));
        lag->next = read->start;
        return true;
    }
    if (status == STATUS_NOT_FOUND || status == STATUS_SHUTTING_DOWN) {
        lag_end(lag); /* its queue has gone */
        return true;
    }
    if (!loop_timer_is_running(&worker->retry_timer))
        loop_timer_start(worker->loop, &worker->retry_timer, RETRY_MS);
    return false;
}

static void read_done(struct request *request, enum status status)
{
    struct catch_up *catch_up = container_of(request, struct catch_up, read.request);
    struct broker_worker *worker = catch_up->worker;
    struct client *client = catch_up->client;
    struct lag *lag = client == NULL ? NULL : lag_of(client, catch_up->read.partition);
    bool go_on = true;
    if (lag != NULL && status == STATUS_OK) {
        /* client->catch_up still stands: credit that comes back from inside of a delivery must not
         * begin a second read. */
        worker->delivering = true;
        go_on = take_in(client, lag, &catch_up->read);
        worker->delivering = false;
        if (go_on && catch_up->read.count == 0)
            lag_end(lag);
    } else if (lag != NULL) {
        go_on = not_read(client, lag, &catch_up->read, status);
    }
    for (uint32_t i = 0; i < catch_up->read.count; i++)
        batch_unref(catch_up->read.batches[i]);
    heap_free(catch_up);
    worker->reads--;
    if (client != NULL) {
        client->catch_up = NULL;
        if (go_on)
            catch_up_go_on(client);
    }
    figures_flush(worker);
}

static void read_on(struct client *client, struct lag *lag)
{
    struct broker_worker *worker = client->worker;
    struct catch_up *catch_up = heap_new(sizeof *catch_up);
    request_init(&catch_up->read.request, worker->loop, read_done);
    catch_up->worker = worker;
    catch_up->client = client;
    catch_up->read.partition = lag->partition;
    catch_up->read.offset = lag->next;
    catch_up->read.max_bytes = CATCH_UP_READ_BYTES;
    catch_up->read.shared = true;
    client->catch_up = catch_up;
    worker->reads++;
    /* A busy partition that never ends must not keep the others waiting. */
    link_remove(&lag->link);
    list_push(&client->lags, &lag->link);
    log_read(worker->log, &catch_up->read);
}

void catch_up_go_on(struct client *client)
{
    if (client->catch_up != NULL || client->credit == 0 || client->worker->ending ||
        !list_is_empty(&client->returned) || selection_waits(client) ||
        client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES / 2)
        return;
    list_each_safe(link, following, &client->lags)
    {
        struct lag *lag = container_of(link, struct lag, link);
        if (lag->next < end_of(client, lag)) {
            read_on(client, lag);
            return;
        }
        lag_end(lag);
    }
    /* Live everywhere: nothing older can come any more. */
    list_each(link, &client->subscriptions)
        floors_free(container_of(link, struct subscription, of_client));
    client_caught_up(client);
    if (share_is_reader(client))
        share_go_on(container_of(client, struct share, reader));
}

static void retry(struct loop_timer *timer)
{
    struct broker_worker *worker = container_of(timer, struct broker_worker, retry_timer);
    list_each(link, &worker->clients)
    {
        struct client *client = container_of(link, struct client, link);
        if (!list_is_empty(&client->lags))
            catch_up_go_on(client);
    }
    share_retry(worker);
}

void catch_up_init(struct broker_worker *worker)
{
    worker->retry_timer.fired = retry;
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
