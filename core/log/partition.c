/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing partitions. Both meet operations on their way: those that come too early
 * wait, and a closed partition lives until the last one is back. */
#include "core/log/partition.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/trace.h"

static struct span id_span(const uint64_t *id)
{
    return span_of(id, sizeof *id);
}

struct log_partition *partition_find(const struct log_worker *worker, uint64_t id)
{
    return map_get(&worker->partitions, id_span(&id));
}

struct log_partition *partition_admit(struct log_worker *worker, uint64_t id, struct mail *mail,
                                      enum status *status)
{
    struct log_partition *partition = partition_find(worker, id);
    *status = STATUS_NOT_FOUND;
    if (partition == NULL)
        return NULL;
    *status = STATUS_OK;
    switch (partition->state) {
    case PARTITION_SERVING:
        return partition;
    case PARTITION_OPENING:
        mail->next = NULL;
        *partition->waiting_last = mail;
        partition->waiting_last = &mail->next;
        return NULL;
    case PARTITION_FAILED:
    case PARTITION_CLOSED:
        break;
    }
    *status = partition->failure;
    return NULL;
}

/* Each waiting operation arrives once more and meets the state as it is now. */
static void waiting_arrive(struct log_partition *partition)
{
    struct mail *first = partition->waiting;
    partition->waiting = NULL;
    partition->waiting_last = &partition->waiting;
    mailbox_deliver(first);
}

void partition_unhold(struct log_partition *partition)
{
    struct mail *first = partition->held;
    link_remove(&partition->held_link);
    partition->held = NULL;
    partition->held_last = &partition->held;
    mailbox_deliver(first);
}

void partition_publish(struct log_partition *partition)
{
    struct partition_stat *stat = partition->stat;
    if (partition->state == PARTITION_CLOSED) /* stat may be gone */
        return;
    atomic_store_explicit(&stat->start, partition->start, memory_order_release);
    atomic_store_explicit(&stat->end, partition->end, memory_order_relaxed);
    atomic_store_explicit(&stat->bytes, partition->end_bytes - partition->start_bytes,
                          memory_order_relaxed);
    atomic_store_explicit(&stat->written, partition->end_bytes, memory_order_relaxed);
    atomic_store_explicit(&stat->first_time_ms, partition->first_time_ms, memory_order_relaxed);
}

/* Storage may already count batches whose commit is on its way here; what lies before start is the
 * same for both, so that only it is taken. */
void partition_take_bounds(struct log_partition *partition)
{
    const struct storage_bounds *bounds = &partition->bounds;
    partition->start_bytes = bounds->cumulative_bytes - bounds->bytes;
    partition->first_time_ms = bounds->first_time_ms;
    if (bounds->first_time_ms == 0 && partition->tail.count > 0)
        partition->first_time_ms = tail_at(&partition->tail, 0)->append_time_ms;
}

static void partition_opened(struct request *request, enum status status)
{
    struct log_partition *partition = container_of(request, struct log_partition, bounds.request);
    if (partition->state == PARTITION_CLOSED) {
        partition_release(partition);
        return;
    }
    if (status != STATUS_OK) {
        trace(TRACE_ERROR, "partition %llu cannot be opened: %s",
              (unsigned long long)partition->spec.id, status_text(status));
        partition->state = PARTITION_FAILED;
        partition->failure = status;
    } else {
        partition->state = PARTITION_SERVING;
        partition->start = partition->bounds.start;
        partition->end = partition->tail.from = partition->bounds.end;
        partition->end_bytes = partition->bounds.cumulative_bytes;
        partition_take_bounds(partition);
        partition_publish(partition);
    }
    waiting_arrive(partition);
    partition_release(partition);
}

void log_partition_open(struct log_worker *worker, const struct partition_spec *spec,
                        struct partition_stat *stat)
{
    CHECK(loop_is_home(worker->loop));
    CHECK(log_owner(worker->log, spec->id) == worker->index);
    CHECK(partition_find(worker, spec->id) == NULL);
    struct storage *storage = worker->log->storage;
    struct log_partition *partition = heap_new(sizeof *partition);
    partition->spec = *spec;
    partition->stat = stat;
    partition->worker = worker;
    retention_limit(partition);
    partition->waiting_last = &partition->waiting;
    partition->held_last = &partition->held;
    list_init(&partition->reads);
    map_put(&worker->partitions, id_span(&partition->spec.id), partition);
    partition->in_flight = 1;
    partition->bounds = (struct storage_bounds){.partition = spec->id, .class = spec->class};
    request_init(&partition->bounds.request, worker->loop, partition_opened);
    storage->ops->bounds(storage, &partition->bounds);
}

void partition_free(struct log_partition *partition)
{
    tail_clear(partition);
    pages_clear(partition->worker, partition->spec.id);
    link_remove(&partition->closed_link);
    heap_free(partition);
}

static void partition_removed(struct request *request, enum status status)
{
    struct log_partition *partition = container_of(request, struct log_partition, trim.request);
    if (status != STATUS_OK)
        trace(TRACE_WARN, "records of the removed partition %llu stay in storage: %s",
              (unsigned long long)partition->spec.id, status_text(status));
    partition_release(partition);
}

/* The trim follows the last append, so that nothing can come back after it. */
static void partition_finish(struct log_partition *partition)
{
    if (!partition->removing) {
        partition_free(partition);
        return;
    }
    struct storage *storage = partition->worker->log->storage;
    partition->removing = false;
    partition->in_flight = 1;
    partition->trim = (struct storage_trim){
        .partition = partition->spec.id,
        .class = partition->spec.class,
        .new_start = partition->end,
        .remove = true,
    };
    request_init(&partition->trim.request, partition->worker->loop, partition_removed);
    storage->ops->trim(storage, &partition->trim);
}

void partition_release(struct log_partition *partition)
{
    CHECK(partition->in_flight > 0);
    partition->in_flight--;
    if (partition->in_flight == 0 && partition->state == PARTITION_CLOSED)
        partition_finish(partition);
}

void log_partition_close(struct log_worker *worker, uint64_t id, bool remove)
{
    CHECK(loop_is_home(worker->loop));
    struct log_partition *partition = partition_find(worker, id);
    if (partition == NULL)
        return;
    map_remove(&worker->partitions, id_span(&partition->spec.id));
    list_push(&worker->closed, &partition->closed_link);
    partition->state = PARTITION_CLOSED;
    partition->removing = remove;
    tail_clear(partition);
    pages_clear(worker, id);
    link_remove(&partition->due_link);
    link_remove(&partition->limited_link);
    waiting_arrive(partition);
    partition_unhold(partition);
    if (partition->in_flight == 0)
        partition_finish(partition);
}

void log_partition_limit(struct log_worker *worker, const struct partition_spec *spec)
{
    CHECK(loop_is_home(worker->loop));
    struct log_partition *partition = partition_find(worker, spec->id);
    if (partition == NULL)
        return;
    struct partition_spec *own = &partition->spec;
    CHECK(spec->class == own->class && spec->durability == own->durability);
    *own = *spec;
    retention_limit(partition);
}

bool log_has(const struct log_worker *worker, uint64_t partition)
{
    CHECK(loop_is_home(worker->loop));
    return partition_find(worker, partition) != NULL;
}

bool log_worker_is_ready(const struct log_worker *worker)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->partitions, &i)) != NULL;) {
        const struct log_partition *partition = slot->value;
        if (partition->state == PARTITION_OPENING)
            return false;
    }
    return true;
}
