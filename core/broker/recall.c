/* SPDX-License-Identifier: Apache-2.0 */
/* One record of the log once more, for who was shown it by a subscription and has given it back. */
#include "core/broker/worker.h"

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

static void read_done(struct request *request, enum status status)
{
    struct broker_recall *recall = container_of(request, struct broker_recall, read.request);
    struct log_read *read = &recall->read;
    recall->worker->reads--;
    if (status == STATUS_OK)
        status = find(recall);
    else if (status == STATUS_OUT_OF_RANGE)
        status = STATUS_NOT_FOUND;
    recall->batch = status == STATUS_OK ? read->batches[0] : NULL;
    for (uint32_t i = status == STATUS_OK ? 1 : 0; i < read->count; i++)
        batch_unref(read->batches[i]);
    recall->request.done(&recall->request, status);
}

void broker_recall(struct broker_recall *recall)
{
    struct broker_worker *worker = recall->client->worker;
    CHECK(loop_is_home(worker->loop) && recall->request.home == worker->loop);
    recall->worker = worker;
    recall->batch = NULL;
    if (worker->ending) {
        request_complete(&recall->request, STATUS_SHUTTING_DOWN);
        return;
    }
    recall->read =
        (struct log_read){.partition = recall->partition, .offset = recall->offset, .max_bytes = 1};
    request_init(&recall->read.request, worker->loop, read_done);
    worker->reads++;
    log_read(worker->log, &recall->read);
}
