/* SPDX-License-Identifier: Apache-2.0 */
/* Reading: from the tail cache where it covers the offset, else from storage, never past the commit
 * index. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/trace.h"
#include "core/log/partition.h"

/* One storage read under way, on the owner. */
struct read_job {
    struct storage_read stored;
    struct log_read *read;
    struct log_partition *partition;
};

static void read_end(struct log_worker *worker, struct log_read *read, enum status status,
                     bool inside)
{
    if (inside)
        request_complete(&read->request, status);
    else
        worker_complete(worker, &read->request, status);
}

/* Does the tail hold everything that this read may find? */
static bool tail_covers(const struct tail *tail, const struct log_read *read, uint64_t from)
{
    if (from >= tail->from)
        return true;
    /* Batches before the tail may have the same time as its first one. */
    return read->by_time && tail->count > 0 && tail_at(tail, 0)->append_time_ms < read->time_ms;
}

static void read_tail(const struct tail *tail, struct log_read *read, uint64_t from)
{
    uint32_t index = tail_find(tail, from);
    if (read->by_time)
        index = tail_find_time(tail, index, read->time_ms);
    uint64_t bytes = 0, max = read->max_bytes != 0 ? read->max_bytes : LIMIT_READ_BYTES;
    for (; index < tail->count && read->count < LOG_READ_MAX; index++) {
        struct batch *batch = tail_at(tail, index);
        bytes += batch->bytes->size;
        if (read->count > 0 && bytes > max)
            return;
        read->batches[read->count++] = batch_ref(batch);
    }
}

static void read_stored(struct request *request, enum status status);

static void read_storage(struct log_partition *partition, struct log_read *read, uint64_t from)
{
    struct storage *storage = partition->worker->log->storage;
    struct read_job *job = heap_new(sizeof *job);
    uint32_t max = read->max_bytes;
    job->read = read;
    job->partition = partition;
    job->stored.partition = partition->spec.id;
    job->stored.class = partition->spec.class;
    job->stored.offset = from;
    job->stored.by_time = read->by_time;
    job->stored.time_ms = read->time_ms;
    job->stored.end = partition->end;
    job->stored.max_bytes = max != 0 && max < LIMIT_READ_BYTES ? max : LIMIT_READ_BYTES;
    request_init(&job->stored.request, partition->worker->loop, read_stored);
    partition->in_flight++;
    storage->ops->read(storage, &job->stored);
}

/* inside: log_read() may be on the stack. */
static void read_serve(struct log_partition *partition, struct log_read *read, uint64_t from,
                       bool inside)
{
    read->start = partition->start;
    read->end = partition->end;
    if (from < partition->start) {
        if (!read->by_time) {
            read_end(partition->worker, read, STATUS_OUT_OF_RANGE, inside);
            return;
        }
        from = partition->start;
    }
    if (from < partition->end && !tail_covers(&partition->tail, read, from)) {
        read_storage(partition, read, from);
        return;
    }
    read_tail(&partition->tail, read, from);
    read_end(partition->worker, read, STATUS_OK, inside);
}

static enum status job_open_batch(struct read_job *job, const struct storage_read_batch *from)
{
    struct log_read *read = job->read;
    struct batch *batch;
    enum status status = batch_open(from->bytes, 0, &batch);
    if (status == STATUS_NO_MEMORY)
        return status;
    if (status != STATUS_OK) {
        trace(TRACE_ERROR, "partition %llu: the batch at offset %llu is corrupt: %s",
              (unsigned long long)job->stored.partition, (unsigned long long)from->base_offset,
              status_text(status));
        if (read->count == 0)
            read->start = from->base_offset + from->record_count;
        return STATUS_CORRUPT;
    }
    batch->partition = job->stored.partition;
    batch->base_offset = from->base_offset;
    batch->append_time_ms = from->append_time_ms;
    batch->cumulative_bytes = from->cumulative_bytes;
    batch->footer = from->footer;
    batch->unlabelled = (from->flags & STORAGE_BATCH_UNLABELLED) != 0;
    read->batches[read->count++] = batch;
    return STATUS_OK;
}

/* Makes batches of what storage has read. One that cannot be opened ends the answer, or is the
 * answer when it is the first. */
static enum status job_open_batches(struct read_job *job)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < job->stored.count; i++) {
        if (status == STATUS_OK)
            status = job_open_batch(job, &job->stored.batches[i]);
        blob_unref(job->stored.batches[i].bytes);
    }
    return job->read->count > 0 ? STATUS_OK : status;
}

static void read_drop(struct log_read *read)
{
    for (uint32_t i = 0; i < read->count; i++)
        batch_unref(read->batches[i]);
    read->count = 0;
}

/* Retention may have overtaken a read; what is below the start now is gone even if it was read.
 * Nothing found means a gap up to where storage has looked: what follows it was committed
 * meanwhile. */
static bool job_serves_again(const struct read_job *job, uint64_t *from)
{
    const struct log_read *read = job->read;
    uint64_t start = job->partition->start;
    *from = read->count > 0 ? start : job->stored.end;
    if (job->partition->state == PARTITION_CLOSED)
        return false;
    return read->count == 0 || batch_end(read->batches[0]) <= start;
}

static void read_stored(struct request *request, enum status status)
{
    struct read_job *job = container_of(request, struct read_job, stored.request);
    struct log_read *read = job->read;
    struct log_partition *partition = job->partition;
    struct log_worker *worker = partition->worker;
    uint64_t from;
    if (status == STATUS_CORRUPT)
        read->start = job->stored.offset;
    if (status == STATUS_OUT_OF_RANGE)
        read->start = partition->start;
    if (status == STATUS_OK)
        status = job_open_batches(job);
    if (status == STATUS_OK && job_serves_again(job, &from)) {
        read_drop(read);
        bool overtaken = !read->by_time && read->offset < partition->start;
        read_serve(partition, read, overtaken ? read->offset : from, false);
    } else {
        worker_complete(worker, &read->request, status);
    }
    heap_free(job);
    partition_release(partition);
}

static void read_arrive(struct mail *mail)
{
    struct log_read *read = container_of(mail, struct log_read, request.mail);
    CHECK(loop_is_home(read->owner->loop));
    enum status status;
    struct log_partition *partition =
        partition_admit(read->owner, read->partition, &read->request.mail, &status);
    if (status != STATUS_OK)
        request_complete(&read->request, status);
    else if (partition != NULL)
        read_serve(partition, read, read->offset, true);
}

void log_read(struct log_worker *from, struct log_read *read)
{
    CHECK(loop_is_home(from->loop));
    read->owner = from->log->workers[log_owner(from->log, read->partition)];
    read->count = 0;
    read->request.mail.deliver = read_arrive;
    if (read->owner == from)
        read_arrive(&read->request.mail);
    else
        mailbox_post(read->owner->loop, &read->request.mail);
}
