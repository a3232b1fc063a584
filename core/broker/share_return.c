/* SPDX-License-Identifier: Apache-2.0 */
/* Records that members gave back: references, read again in the order of the log and offered before
 * anything else of their share. */
#include "core/broker/share.h"

#include "core/base/heap.h"

enum { RETURN_READ_BYTES = 64 * 1024, RETRY_MS = 500 };

/* A read under way; outlives the share. */
struct share_read {
    struct log_read read;
    struct broker_worker *worker;
    struct share *share; /* NULL once it is over */
};

int share_ref_compare(const void *left, const void *right)
{
    const struct share_ref *a = left, *b = right;
    if (a->partition != b->partition)
        return a->partition < b->partition ? -1 : 1;
    return (a->offset > b->offset) - (a->offset < b->offset);
}

/* What a row reserves goes first: who could take the others may wait for that to be gone. */
static int by_turn(const void *left, const void *right)
{
    const struct share_ref *a = left, *b = right;
    return a->reserved != b->reserved ? (a->reserved ? -1 : 1) : share_ref_compare(left, right);
}

static void swap(struct share_ref *a, struct share_ref *b)
{
    struct share_ref kept = *a;
    *a = *b;
    *b = kept;
}

static void sift_up(struct share_ref *refs, uint32_t i)
{
    for (; i > 0 && by_turn(&refs[i], &refs[(i - 1) / 2]) < 0; i = (i - 1) / 2)
        swap(&refs[i], &refs[(i - 1) / 2]);
}

static void sift_down(struct share_ref *refs, uint32_t count, uint32_t i)
{
    for (uint32_t next; (next = 2 * i + 1) < count; i = next) {
        if (next + 1 < count && by_turn(&refs[next + 1], &refs[next]) < 0)
            next++;
        if (by_turn(&refs[i], &refs[next]) <= 0)
            return;
        swap(&refs[i], &refs[next]);
    }
}

/* A binary heap, so that one more costs little, however many wait. */
static struct share_ref *first_of(struct share *share)
{
    uint32_t count = share->returned_count;
    if (share->returned_heaped < count / 2) {
        for (uint32_t i = count / 2; i-- > 0;)
            sift_down(share->returned, count, i);
        share->returned_heaped = count;
    }
    while (share->returned_heaped < count)
        sift_up(share->returned, share->returned_heaped++);
    return count == 0 ? NULL : share->returned;
}

/* The last takes its place, which may be behind the heap, or in it. */
static void remove_first(struct share *share)
{
    if (share->returned_heaped == share->returned_count)
        share->returned_heaped--;
    share->returned[0] = share->returned[--share->returned_count];
    sift_down(share->returned, share->returned_heaped, 0);
}

/* What a mail and a row both named is there once. */
static void pop(struct share *share)
{
    struct share_ref over = share->returned[0];
    const struct share_ref *first;
    do
        remove_first(share);
    while ((first = first_of(share)) != NULL && share_ref_compare(first, &over) == 0);
}

void share_return(struct share *share, const struct share_ref *refs, uint32_t count)
{
    if (share->over)
        return;
    if (share->returned_count + count > share->returned_capacity) {
        share->returned_capacity = (share->returned_count + count) * 2;
        share->returned =
            heap_resize(share->returned, share->returned_capacity * sizeof *share->returned);
    }
    memcpy(share->returned + share->returned_count, refs, count * sizeof *refs);
    share->returned_count += count;
}

void share_return_later(struct share *share, struct share_ref ref)
{
    if (share->early_count == share->early_capacity) {
        share->early_capacity = share->early_capacity == 0 ? 16 : share->early_capacity * 2;
        share->early = heap_resize(share->early, share->early_capacity * sizeof *share->early);
    }
    share->early[share->early_count++] = ref;
}

void share_return_early(struct share *share)
{
    if (share->durable && share->early_count > 0)
        share_return(share, share->early, share->early_count);
    heap_free(share->early);
    share->early = NULL;
    share->early_count = share->early_capacity = 0;
}

void share_forget(struct share *share)
{
    if (share->read != NULL)
        share->read->share = NULL;
    share->read = NULL;
    heap_free(share->returned);
    share->returned = NULL;
    share->returned_heaped = share->returned_count = share->returned_capacity = 0;
}

/* ------------------------------------------------ what was read */

static bool offer(struct share *share, struct batch *batch, struct share_ref ref)
{
    struct broker_worker *worker = share->reader.worker;
    uint32_t index = batch_find(batch, ref.offset);
    struct record record = {0};
    struct span topic;
    if (index < batch->record_count)
        batch_record(batch, index, &record);
    if (index >= batch->record_count || record.offset != ref.offset ||
        !deliver_topic(&record, worker_wall_ms(worker), &topic)) {
        share_drop(share, ref);
        return true;
    }
    struct frame_cache frames = {0};
    worker->shown = batch;
    worker->shown_stored = true;
    worker->delivering = true;
    enum deliver_result result = share_hand_kept(share, &record, &frames, ref);
    worker->delivering = false;
    frame_cache_clear(&frames);
    return result != DELIVER_FULL;
}

static void lose(struct share *share, struct share_ref ref)
{
    metric_add(share->reader.worker->broker->metrics.dropped_retention, 1);
    share_drop(share, ref);
}

/* NULL: it is not in the log any more. */
static struct batch *batch_of(const struct log_read *read, uint64_t offset)
{
    for (uint32_t i = 0; i < read->count && offset >= read->start; i++)
        if (offset < batch_end(read->batches[i]))
            return offset >= read->batches[i]->base_offset ? read->batches[i] : NULL;
    return NULL;
}

/* Whose turn it is need not lie behind the one before it. False: no member can take more. */
static bool take_in(struct share *share, const struct log_read *read)
{
    uint64_t end = batch_end(read->batches[read->count - 1]);
    const struct share_ref *first;
    while ((first = first_of(share)) != NULL && first->partition == read->partition &&
           first->offset >= read->offset && first->offset < end) {
        struct batch *batch = batch_of(read, first->offset);
        if (batch == NULL) {
            lose(share, *first);
        } else if (!offer(share, batch, *first)) {
            share_unreserve(share);
            return false;
        }
        pop(share);
    }
    return true;
}

/* What lies there is gone, and nobody gets it any more. */
static void drop(struct share *share, uint64_t partition, uint64_t from, uint64_t end)
{
    const struct share_ref *first;
    while ((first = first_of(share)) != NULL && first->partition == partition &&
           first->offset >= from && first->offset < end) {
        lose(share, *first);
        pop(share);
    }
}

/* False: it is tried again later. */
static bool not_read(struct share *share, const struct log_read *read, enum status status)
{
    struct broker_worker *worker = share->reader.worker;
    if (status == STATUS_OK) {
        drop(share, read->partition, read->offset, read->offset + 1);
    } else if ((status == STATUS_OUT_OF_RANGE || status == STATUS_CORRUPT) &&
               read->start > read->offset) {
        drop(share, read->partition, 0, read->start);
    } else if (status == STATUS_NOT_FOUND || status == STATUS_SHUTTING_DOWN) {
        drop(share, read->partition, 0, UINT64_MAX); /* its queue has gone */
    } else {
        if (!loop_timer_is_running(&worker->retry_timer))
            loop_timer_start(worker->loop, &worker->retry_timer, RETRY_MS);
        return false;
    }
    return true;
}

static void read_done(struct request *request, enum status status)
{
    struct share_read *done = container_of(request, struct share_read, read.request);
    struct broker_worker *worker = done->worker;
    struct share *share = done->share;
    bool go_on = share != NULL && (status == STATUS_OK && done->read.count > 0
                                       ? take_in(share, &done->read)
                                       : not_read(share, &done->read, status));
    for (uint32_t i = 0; i < done->read.count; i++)
        batch_unref(done->read.batches[i]);
    worker->reads--;
    if (share != NULL)
        share->read = NULL;
    heap_free(done);
    if (go_on)
        share_go_on(share);
    figures_flush(worker);
}

void share_read_on(struct share *share)
{
    struct broker_worker *worker = share->reader.worker;
    if (share->read != NULL || worker->ending)
        return;
    const struct share_ref *first = first_of(share);
    struct share_read *read = heap_new(sizeof *read);
    request_init(&read->read.request, worker->loop, read_done);
    read->worker = worker;
    read->share = share;
    read->read.partition = first->partition;
    read->read.offset = first->offset;
    read->read.max_bytes = RETURN_READ_BYTES;
    share->read = read;
    worker->reads++;
    log_read(worker->log, &read->read);
}
