/* SPDX-License-Identifier: Apache-2.0 */
/* One record of the log once more, for who was shown it by a subscription and has given it back. */
#include "core/broker/worker.h"

enum { AGAIN_MS = 50, AGAIN_MAX_MS = 1000 };

static enum status find(struct broker_recall *recall)
{
    const struct log_read *read = &recall->read;
    if (!recall->client->open)
        return STATUS_CANCELED;
    struct record record;
    struct span topic;
    recall->index = read->count == 0 ? 0 : batch_find(read->batches[0], recall->offset);
    if (read->count == 0 || recall->offset < read->start ||
        recall->index >= read->batches[0]->record_count)
        return STATUS_NOT_FOUND;
    batch_record(read->batches[0], recall->index, &record);
    if (record.offset != recall->offset ||
        !deliver_topic(&record, worker_wall_ms(recall->worker), &topic))
        return STATUS_NOT_FOUND;
    return broker_check(recall->client, ACTION_CONSUME, true, topic);
}

static void end(struct broker_recall *recall, enum status status)
{
    recall->worker->reads--;
    recall->request.done(&recall->request, status);
}

static void try_later(struct broker_recall *recall)
{
    recall->wait_ms = recall->wait_ms == 0 ? AGAIN_MS : 2 * recall->wait_ms;
    if (recall->wait_ms > AGAIN_MAX_MS)
        recall->wait_ms = AGAIN_MAX_MS;
    loop_timer_start(recall->worker->loop, &recall->again, recall->wait_ms);
}

static void read_done(struct request *request, enum status status)
{
    struct broker_recall *recall = container_of(request, struct broker_recall, read.request);
    struct log_read *read = &recall->read;
    if (status == STATUS_OK)
        status = find(recall);
    else if (!recall->client->open)
        status = STATUS_CANCELED;
    recall->batch = status == STATUS_OK ? read->batches[0] : NULL;
    for (uint32_t i = status == STATUS_OK ? 1 : 0; i < read->count; i++)
        batch_unref(read->batches[i]);
    switch (status) {
    case STATUS_OK:
    case STATUS_NOT_FOUND:
    case STATUS_DENIED:
    case STATUS_CANCELED:
    case STATUS_SHUTTING_DOWN:
        end(recall, status);
        break;
    case STATUS_OUT_OF_RANGE: /* retention was faster */
    case STATUS_CORRUPT:
        metric_add(recall->worker->broker->metrics.dropped_retention, 1);
        end(recall, STATUS_NOT_FOUND);
        break;
    default:
        try_later(recall);
    }
}

static void read_on(struct broker_recall *recall)
{
    recall->read =
        (struct log_read){.partition = recall->partition, .offset = recall->offset, .max_bytes = 1};
    request_init(&recall->read.request, recall->worker->loop, read_done);
    log_read(recall->worker->log, &recall->read);
}

static void again(struct loop_timer *timer)
{
    struct broker_recall *recall = container_of(timer, struct broker_recall, again);
    if (!recall->client->open)
        end(recall, STATUS_CANCELED);
    else if (recall->worker->ending)
        end(recall, STATUS_SHUTTING_DOWN);
    else
        read_on(recall);
}

void broker_recall(struct broker_recall *recall)
{
    struct broker_worker *worker = recall->client->worker;
    CHECK(loop_is_home(worker->loop) && recall->request.home == worker->loop);
    recall->worker = worker;
    recall->batch = NULL;
    recall->again = (struct loop_timer){.fired = again};
    recall->wait_ms = 0;
    if (worker->ending) {
        request_complete(&recall->request, STATUS_SHUTTING_DOWN);
        return;
    }
    worker->reads++;
    read_on(recall);
}
