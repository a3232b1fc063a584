/* SPDX-License-Identifier: Apache-2.0 */
/* Records that clients have given back, of subscriptions that keep nothing: each is read from the
 * log once more, and goes before anything else. One at a time, as the client has room. */
#include "core/broker/session_rows.h"
#include "core/broker/topic.h"
#include "core/broker/worker.h"

#include "core/base/heap.h"

enum { AGAIN_MS = 50, AGAIN_MAX_MS = 1000 };

struct given_back {
    struct link link;
    uint64_t partition, offset;
    uint16_t failures;
};

/* The first one is being read; outlives the client. */
struct recall {
    struct broker_worker *worker;
    struct client *client; /* NULL once it has gone */
    struct log_read read;
    struct loop_timer again;
    uint32_t wait_ms;
};

static struct given_back *first_of(const struct client *client)
{
    return container_of(list_first(&client->returned), struct given_back, link);
}

static void first_over(struct client *client)
{
    struct given_back *first = first_of(client);
    link_remove(&first->link);
    heap_free(first);
}

static enum deliver_result deliver(struct subscription *subscription,
                                   const struct given_back *first, const struct record *record)
{
    struct frame_cache frames = {0};
    uint64_t before_partition = subscription->shown_partition;
    uint64_t before_offset = subscription->shown_offset;
    subscription->shown_partition = first->partition;
    subscription->shown_offset = first->offset;
    subscription->failures = first->failures;
    enum deliver_result result = deliver_again(subscription, record, &frames);
    subscription->failures = 0;
    subscription->shown_partition = before_partition;
    subscription->shown_offset = before_offset;
    frame_cache_clear(&frames);
    return result;
}

/* False: the client is full. */
static bool show(struct client *client, struct batch *batch)
{
    const struct given_back *first = first_of(client);
    uint32_t index = batch_find(batch, first->offset);
    struct record record;
    struct span topic;
    if (index >= batch->record_count)
        return true;
    batch_record(batch, index, &record);
    if (record.offset != first->offset ||
        !deliver_topic(&record, worker_wall_ms(client->worker), &topic) ||
        broker_check(client, ACTION_CONSUME, true, topic) != STATUS_OK)
        return true;
    list_each(link, &client->subscriptions)
    {
        struct subscription *subscription = container_of(link, struct subscription, of_client);
        struct span filter = span_of(subscription->entry->filter, subscription->entry->filter_size);
        if (!topic_matches(filter, topic))
            continue;
        client->worker->delivering = true;
        enum deliver_result result = deliver(subscription, first, &record);
        client->worker->delivering = false;
        return result != DELIVER_FULL;
    }
    return true;
}

static void end(struct recall *recall)
{
    if (recall->client != NULL)
        recall->client->recall = NULL;
    recall->worker->reads--;
    heap_free(recall);
}

static void try_later(struct recall *recall)
{
    recall->wait_ms = recall->wait_ms == 0 ? AGAIN_MS : 2 * recall->wait_ms;
    if (recall->wait_ms > AGAIN_MAX_MS)
        recall->wait_ms = AGAIN_MAX_MS;
    loop_timer_start(recall->worker->loop, &recall->again, recall->wait_ms);
}

/* The first one is over, if it has gone out or never can. */
static void read_came(struct recall *recall, bool over)
{
    struct client *client = recall->client;
    struct broker_worker *worker = recall->worker;
    end(recall);
    if (over)
        first_over(client);
    if (over && list_is_empty(&client->returned) && list_is_empty(&client->lags))
        client_caught_up(client);
    if (over)
        client_drained(client);
    figures_flush(worker);
}

static void read_done(struct request *request, enum status status)
{
    struct recall *recall = container_of(request, struct recall, read.request);
    struct log_read *read = &recall->read;
    bool over = true;
    if (status == STATUS_OK && recall->client != NULL && read->count > 0)
        over = show(recall->client, read->batches[0]);
    for (uint32_t i = 0; status == STATUS_OK && i < read->count; i++)
        batch_unref(read->batches[i]);
    if (recall->client == NULL || status == STATUS_SHUTTING_DOWN) {
        end(recall);
    } else if (status == STATUS_OK || status == STATUS_NOT_FOUND) {
        read_came(recall, over);
    } else if (status == STATUS_OUT_OF_RANGE || status == STATUS_CORRUPT) {
        metric_add(recall->worker->broker->metrics.dropped_retention, 1); /* it was faster */
        read_came(recall, true);
    } else {
        try_later(recall);
    }
}

static void read_on(struct recall *recall)
{
    const struct given_back *first = first_of(recall->client);
    recall->read =
        (struct log_read){.partition = first->partition, .offset = first->offset, .max_bytes = 1};
    request_init(&recall->read.request, recall->worker->loop, read_done);
    log_read(recall->worker->log, &recall->read);
}

static void again(struct loop_timer *timer)
{
    struct recall *recall = container_of(timer, struct recall, again);
    if (recall->worker->ending)
        end(recall);
    else
        read_on(recall);
}

void recall_go_on(struct client *client)
{
    struct broker_worker *worker = client->worker;
    if (client->recall != NULL || list_is_empty(&client->returned) || client->credit == 0 ||
        worker->ending || selection_waits(client) ||
        client->ops->queued(client) >= LIMIT_CLIENT_OUT_BYTES / 2)
        return;
    struct recall *recall = heap_new(sizeof *recall);
    recall->worker = worker;
    recall->client = client;
    recall->again.fired = again;
    client->recall = recall;
    worker->reads++;
    read_on(recall);
}

void recall_close(struct client *client)
{
    struct recall *recall = client->recall;
    while (!list_is_empty(&client->returned))
        first_over(client);
    if (recall != NULL && loop_timer_is_running(&recall->again)) {
        loop_timer_stop(recall->worker->loop, &recall->again);
        end(recall);
    } else if (recall != NULL) {
        recall->client = NULL;
        client->recall = NULL;
    }
}

void broker_give_back(struct client *client, uint64_t partition, uint64_t offset, uint16_t failures,
                      bool failed)
{
    CHECK(loop_is_home(client->worker->loop) && !client->worker->delivering);
    struct given_back *back = heap_new(sizeof *back);
    back->partition = partition;
    back->offset = offset;
    back->failures = flight_failures(failures, failed);
    list_push(&client->returned, &back->link);
    recall_go_on(client);
}
