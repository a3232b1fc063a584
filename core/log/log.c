/* SPDX-License-Identifier: Apache-2.0 */
/* The log as a whole, and the way of an append: to the owner, to storage, and back. */
#include "core/log/log.h"

#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/log/partition.h"
#include "storage/envelope.h"

struct log *log_new(struct storage *storage, unsigned workers)
{
    CHECK(workers > 0 && workers <= LIMIT_WORKERS);
    struct log *log = heap_new(sizeof *log + workers * sizeof log->workers[0]);
    log->storage = storage;
    log->worker_count = workers;
    return log;
}

void log_free(struct log *log)
{
    heap_free(log);
}

struct log_worker *log_worker_new(struct log *log, unsigned index, struct loop *loop,
                                  log_observer *observer, void *context)
{
    CHECK(index < log->worker_count && log->workers[index] == NULL);
    struct log_worker *worker = heap_new(sizeof *worker);
    worker->log = log;
    worker->index = index;
    worker->loop = loop;
    worker->observer = observer;
    worker->context = context;
    map_init(&worker->partitions);
    list_init(&worker->closed);
    list_init(&worker->tail);
    list_init(&worker->pages);
    list_init(&worker->limited);
    list_init(&worker->due);
    list_init(&worker->held);
    list_init(&worker->units);
    list_init(&worker->awaiting);
    retention_init(worker);
    log->workers[index] = worker;
    return worker;
}

void log_worker_ask(struct log_worker *worker, log_undone *undone)
{
    worker->undone = undone;
}

void log_worker_derive(struct log_worker *worker, log_derive *derive)
{
    worker->derive = derive;
}

void log_worker_prepare(struct log_worker *worker, log_prepare *prepare)
{
    worker->prepare = prepare;
}

void log_prepared(struct log_worker *worker)
{
    CHECK(loop_is_home(worker->loop));
    struct list held;
    list_init(&held);
    struct link *link;
    while ((link = list_pop(&worker->held)) != NULL)
        list_push(&held, link);
    while ((link = list_pop(&held)) != NULL)
        partition_unhold(container_of(link, struct log_partition, held_link));
}

void log_worker_free(struct log_worker *worker)
{
    if (worker == NULL)
        return;
    retention_deinit(worker);
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->partitions, &i)) != NULL;)
        partition_free(slot->value);
    struct link *link;
    while ((link = list_pop(&worker->closed)) != NULL)
        partition_free(container_of(link, struct log_partition, closed_link));
    map_deinit(&worker->partitions);
    worker->log->workers[worker->index] = NULL;
    heap_free(worker);
}

/* Partitions of one queue have consecutive ids and should lie on different workers, while queues of
 * one partition should not all meet on the same, however ids are spaced. */
unsigned log_owner(const struct log *log, uint64_t partition)
{
    uint64_t spread = (hash_u64(partition / LIMIT_PARTITIONS) >> 8) + partition % LIMIT_PARTITIONS;
    return (unsigned)(spread % log->worker_count);
}

static void append_stored(struct request *request, enum status status);

static void append_start(struct log_partition *partition, struct log_append *append)
{
    const struct partition_spec *spec = &partition->spec;
    struct storage *storage = partition->worker->log->storage;
    append->at = partition;
    partition->in_flight++;
    append->append = (struct storage_append){
        .rows = append->rows,
        .row_count = append->row_count,
        .durability = spec->durability,
        .unit = append->unit,
        .part_count = append->part_count,
    };
    request_init(&append->append.request, partition->worker->loop, append_stored);
    derive_rows(partition->worker, append);
    if (append->batch != NULL) {
        append->stored = (struct storage_batch){
            .partition = spec->id,
            .class = spec->class,
            .durability = spec->durability,
            .flags = STORAGE_BATCH_OURS,
            .record_count = append->batch->offset_count,
            .bytes = append->batch->bytes,
            .footer = append->batch->footer,
        };
        if (append->batch->unlabelled)
            append->stored.flags |= STORAGE_BATCH_UNLABELLED;
        append->append.batches = &append->stored;
        append->append.batch_count = 1;
    }
    storage->ops->append(storage, &append->append);
}

/* Before the batch itself counts: whoever is let in between makes a queue too full by one batch at
 * most, and nobody is kept out of one that has room. */
static void pending_end(struct log_partition *partition, struct log_append *append)
{
    struct partition_stat *stat = partition->stat;
    if (append->pending_records == 0 || partition->state == PARTITION_CLOSED)
        return;
    atomic_fetch_sub_explicit(&stat->pending_records, append->pending_records,
                              memory_order_relaxed);
    atomic_fetch_sub_explicit(&stat->pending_bytes, append->pending_bytes, memory_order_relaxed);
    append->pending_records = 0;
    append->pending_bytes = 0;
}

/* Everybody learns of the batch here, and nobody earlier. */
static void batch_committed(struct log_partition *partition, struct log_append *append)
{
    struct log_worker *worker = partition->worker;
    struct batch *batch = append->batch;
    CHECK(append->stored.base_offset >= partition->end);
    partition->last_bytes = (uint64_t)ENVELOPE_SIZE + batch->bytes->size + batch->footer.size;
    partition->end_bytes += partition->last_bytes;
    batch->partition = partition->spec.id;
    batch->base_offset = append->stored.base_offset;
    batch->append_time_ms = append->stored.append_time_ms;
    batch->cumulative_bytes = partition->end_bytes;
    batch->commit = append->append.commit;
    partition->end = batch_end(batch);
    if (partition->first_time_ms == 0)
        partition->first_time_ms = batch->append_time_ms;
    partition_publish(partition);
    if (partition->state == PARTITION_CLOSED)
        return;
    tail_push(partition, batch);
    if (worker->observer != NULL)
        worker->observer(worker->context, partition->spec.id, batch);
}

static void append_stored(struct request *request, enum status status)
{
    struct log_append *append = container_of(request, struct log_append, append.request);
    struct log_partition *partition = append->at;
    const struct log_worker *worker = partition->worker;
    pending_end(partition, append);
    derive_end(append);
    if (status == STATUS_OK && append->batch != NULL)
        batch_committed(partition, append);
    partition_release(partition);
    worker_complete(worker, &append->request, status);
}

/* What comes behind one that waits stays behind it. */
static bool is_held(struct log_partition *partition, struct log_append *append)
{
    const struct log_worker *worker = partition->worker;
    if (append->batch == NULL || worker->prepare == NULL)
        return false;
    if (partition->held == NULL &&
        worker->prepare(worker->context, partition->spec.id, append->batch))
        return false;
    append->request.mail.next = NULL;
    *partition->held_last = &append->request.mail;
    partition->held_last = &append->request.mail.next;
    if (!link_is_linked(&partition->held_link))
        list_push(&partition->worker->held, &partition->held_link);
    return true;
}

static void append_refused(struct request *request, enum status status)
{
    struct log_append *append = container_of(request, struct log_append, append.request);
    worker_complete(append->owner, &append->request, status);
}

void log_refuse(struct log_worker *from, struct log_append *append, enum status why)
{
    struct storage *storage = from->log->storage;
    CHECK(append->unit != 0 && why != STATUS_OK);
    append->owner = from;
    append->append = (struct storage_append){
        .unit = append->unit, .part_count = append->part_count, .refused = why};
    request_init(&append->append.request, from->loop, append_refused);
    storage->ops->append(storage, &append->append);
}

static void append_arrive(struct mail *mail)
{
    struct log_append *append = container_of(mail, struct log_append, request.mail);
    CHECK(loop_is_home(append->owner->loop));
    enum status status;
    struct log_partition *partition =
        partition_admit(append->owner, append->partition, &append->request.mail, &status);
    if (status != STATUS_OK && append->unit != 0)
        log_refuse(append->owner, append, status);
    else if (status != STATUS_OK)
        request_complete(&append->request, status);
    else if (partition != NULL && !is_held(partition, append))
        append_start(partition, append);
}

void log_append(struct log_worker *from, struct log_append *append)
{
    CHECK(loop_is_home(from->loop));
    append->owner = from->log->workers[log_owner(from->log, append->partition)];
    append->request.mail.deliver = append_arrive;
    if (append->owner == from)
        append_arrive(&append->request.mail);
    else
        mailbox_post(append->owner->loop, &append->request.mail);
}

static void rows_written(struct request *request, enum status status)
{
    struct log_rows *rows = container_of(request, struct log_rows, append.request);
    rows->request.done(&rows->request, status);
}

void log_rows_write(struct log *log, struct log_rows *rows)
{
    rows->append = (struct storage_append){
        .rows = rows->rows,
        .row_count = rows->row_count,
        .durability = rows->append.durability,
        .unit = rows->unit,
        .part_count = rows->part_count,
        .refused = rows->refused,
    };
    request_init(&rows->append.request, rows->request.home, rows_written);
    log->storage->ops->append(log->storage, &rows->append);
}

void log_rows_scan(struct log *log, struct storage_scan *scan)
{
    log->storage->ops->scan(log->storage, scan);
}
