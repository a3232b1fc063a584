/* SPDX-License-Identifier: Apache-2.0 */
/* Reading: from the tail cache where it covers the offset, else from what was read last, else from
 * storage, never past the commit index. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/trace.h"
#include "core/log/partition.h"

/* A read this little behind one that is under way waits for what that one brings; so often, then it
 * goes by itself. */
enum { WAIT_OFFSETS = LIMIT_BATCH_RECORDS, WAITS_MAX = 8 };

/* One storage read under way, on the owner. */
struct read_job {
    struct storage_read stored;
    struct log_read *read;
    struct log_partition *partition;
    struct link link;     /* of the partition's reads */
    struct mail *waiting; /* reads that arrive once more when it is back, in order */
    struct mail **waiting_last;
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

/* False: it has enough. */
static bool read_add(struct log_read *read, struct batch *batch, uint64_t *bytes)
{
    uint64_t max = read->max_bytes != 0 ? read->max_bytes : LIMIT_READ_BYTES;
    *bytes += batch->bytes->size;
    if (read->count == LOG_READ_MAX || (read->count > 0 && *bytes > max))
        return false;
    read->batches[read->count++] = batch_ref(batch);
    return true;
}

static void read_page(const struct page *page, struct log_read *read, uint64_t from)
{
    uint64_t bytes = 0;
    for (uint32_t i = page_find(page, from); i < page->count; i++)
        if (!read_add(read, page->batches[i], &bytes))
            return;
}

static void read_tail(const struct tail *tail, struct log_read *read, uint64_t from)
{
    uint64_t bytes = 0;
    uint32_t index = tail_find(tail, from);
    if (read->by_time)
        index = tail_find_time(tail, index, read->time_ms);
    while (index < tail->count && read_add(read, tail_at(tail, index), &bytes))
        index++;
}

static void read_stored(struct request *request, enum status status);

/* What is kept, or on its way, is not read again. */
static uint64_t read_end_at(const struct log_partition *partition, const struct log_read *read,
                            uint64_t from)
{
    uint64_t end = partition->end;
    if (!read->shared)
        return end;
    list_each(link, &partition->reads)
    {
        const struct read_job *job = container_of(link, struct read_job, link);
        if (job->read->shared && job->stored.offset > from && job->stored.offset < end)
            end = job->stored.offset;
    }
    uint64_t kept = pages_next(partition->worker, partition->spec.id, from);
    return kept < end ? kept : end;
}

static void read_storage(struct log_partition *partition, struct log_read *read, uint64_t from)
{
    struct storage *storage = partition->worker->log->storage;
    struct read_job *job = heap_new(sizeof *job);
    uint32_t max = read->max_bytes;
    uint32_t ahead = read->shared ? pages_ahead(partition->worker, read->partition, from) : 0;
    if (max != 0 && max < ahead)
        max = ahead;
    job->read = read;
    job->partition = partition;
    job->stored.partition = partition->spec.id;
    job->stored.class = partition->spec.class;
    job->stored.offset = from;
    job->stored.by_time = read->by_time;
    job->stored.time_ms = read->time_ms;
    job->stored.end = read_end_at(partition, read, from);
    job->stored.max_bytes = max != 0 && max < LIMIT_READ_BYTES ? max : LIMIT_READ_BYTES;
    request_init(&job->stored.request, partition->worker->loop, read_stored);
    job->waiting_last = &job->waiting;
    list_push(&partition->reads, &job->link);
    partition->in_flight++;
    storage->ops->read(storage, &job->stored);
}

/* True: one that is under way will probably bring it. */
static bool read_waits(const struct log_partition *partition, struct log_read *read, uint64_t from)
{
    if (!read->shared || read->waits == WAITS_MAX || from != read->offset)
        return false;
    list_each(link, &partition->reads)
    {
        struct read_job *job = container_of(link, struct read_job, link);
        if (!job->read->shared || from < job->stored.offset ||
            from - job->stored.offset >= WAIT_OFFSETS)
            continue;
        read->waits++;
        read->request.mail.next = NULL;
        *job->waiting_last = &read->request.mail;
        job->waiting_last = &read->request.mail.next;
        return true;
    }
    return false;
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
        const struct page *page =
            read->shared ? pages_find(partition->worker, read->partition, from) : NULL;
        if (page == NULL) {
            if (!read_waits(partition, read, from))
                read_storage(partition, read, from);
            return;
        }
        read_page(page, read, from);
    } else {
        read_tail(&partition->tail, read, from);
    }
    read_end(partition->worker, read, STATUS_OK, inside);
}

static enum status job_open_batch(struct read_job *job, const struct storage_read_batch *from,
                                  struct page *page)
{
    struct batch *batch;
    enum status status = batch_open(from->bytes, 0, &batch);
    if (status == STATUS_NO_MEMORY)
        return status;
    if (status != STATUS_OK) {
        trace(TRACE_ERROR, "partition %llu: the batch at offset %llu is corrupt: %s",
              (unsigned long long)job->stored.partition, (unsigned long long)from->base_offset,
              status_text(status));
        if (page->count == 0)
            job->read->start = from->base_offset + from->record_count;
        return STATUS_CORRUPT;
    }
    batch->partition = job->stored.partition;
    batch->base_offset = from->base_offset;
    batch->append_time_ms = from->append_time_ms;
    batch->cumulative_bytes = from->cumulative_bytes;
    batch->footer = from->footer;
    batch->unlabelled = (from->flags & STORAGE_BATCH_UNLABELLED) != 0;
    page_add(page, batch);
    return STATUS_OK;
}

/* Makes batches of what storage has read. One that cannot be opened ends the page, or is the
 * answer when it is the first; page is NULL when there are none. */
static enum status job_open_batches(struct read_job *job, struct page **opened)
{
    enum status status = STATUS_OK;
    uint32_t count = job->stored.count;
    struct page *page = page_new(job->stored.partition, job->stored.offset, count);
    for (uint32_t i = 0; i < count; i++) {
        if (status == STATUS_OK)
            status = job_open_batch(job, &job->stored.batches[i], page);
        blob_unref(job->stored.batches[i].bytes);
    }
    *opened = page;
    if (page->count > 0)
        return STATUS_OK;
    page_free(page);
    *opened = NULL;
    return status;
}

/* Retention may have overtaken a read; what is below the start now is gone even if it was read.
 * Nothing found means a gap up to where storage has looked: what follows it was committed
 * meanwhile. */
static bool job_serves_again(const struct read_job *job, const struct page *page, uint64_t *from)
{
    uint64_t start = job->partition->start;
    *from = page != NULL ? start : job->stored.end;
    if (job->partition->state == PARTITION_CLOSED)
        return false;
    return page == NULL || batch_end(page->batches[0]) <= start;
}

/* The page is the reader's, and of others when it is kept. */
static void job_answer(const struct read_job *job, struct page *page)
{
    if (page == NULL)
        return;
    read_page(page, job->read, page->from);
    if (job->read->shared && job->partition->state != PARTITION_CLOSED)
        pages_keep(job->partition->worker, page);
    else
        page_free(page);
}

static void read_stored(struct request *request, enum status status)
{
    struct read_job *job = container_of(request, struct read_job, stored.request);
    struct log_read *read = job->read;
    struct log_partition *partition = job->partition;
    struct log_worker *worker = partition->worker;
    struct mail *waiting = job->waiting;
    struct page *page = NULL;
    uint64_t from;
    link_remove(&job->link);
    if (status == STATUS_CORRUPT)
        read->start = job->stored.offset;
    if (status == STATUS_OUT_OF_RANGE)
        read->start = partition->start;
    if (status == STATUS_OK)
        status = job_open_batches(job, &page);
    if (status == STATUS_OK && job_serves_again(job, page, &from)) {
        if (page != NULL)
            page_free(page);
        bool overtaken = !read->by_time && read->offset < partition->start;
        read_serve(partition, read, overtaken ? read->offset : from, false);
    } else {
        job_answer(job, page);
        worker_complete(worker, &read->request, status);
    }
    if (waiting != NULL)
        mailbox_deliver(waiting);
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
    read->waits = 0;
    read->request.mail.deliver = read_arrive;
    if (read->owner == from)
        read_arrive(&read->request.mail);
    else
        mailbox_post(read->owner->loop, &read->request.mail);
}

struct batch *log_kept(struct log_worker *worker, uint64_t id, uint64_t offset)
{
    CHECK(loop_is_home(worker->loop));
    const struct log_partition *partition = partition_find(worker, id);
    if (partition == NULL || offset < partition->start)
        return NULL;
    struct batch *batch = log_tail(worker, id, offset);
    if (batch != NULL || offset >= partition->end)
        return batch;
    const struct page *page = pages_find(worker, id, offset);
    if (page == NULL)
        return NULL;
    batch = page->batches[page_find(page, offset)];
    return offset < batch->base_offset ? NULL : batch_ref(batch);
}
