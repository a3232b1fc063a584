/* SPDX-License-Identifier: Apache-2.0 */
/* Retention: once a minute, one partition after the other, ask storage for the floor, move the
 * start, trim. The start holds for readers at once; space follows when storage gets to it. */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/trace.h"
#include "core/log/partition.h"

enum { RETENTION_INTERVAL_MS = 60 * 1000 };

static void retention_next(struct log_worker *worker);

static int64_t time_floor(const struct log_partition *partition, int64_t now_ms)
{
    uint64_t kept_ms = partition->spec.retention_ms;
    return kept_ms == 0 || kept_ms >= (uint64_t)now_ms ? 0 : now_ms - (int64_t)kept_ms;
}

/* What the owner knows is enough to pass over most partitions without asking storage. */
static bool has_too_much(const struct log_partition *partition, int64_t now_ms)
{
    const struct partition_spec *spec = &partition->spec;
    if (partition->state != PARTITION_SERVING || partition->start == partition->end)
        return false;
    if (partition->first_time_ms < time_floor(partition, now_ms))
        return true;
    return spec->retention_bytes != 0 &&
           partition->end_bytes - partition->start_bytes > spec->retention_bytes;
}

static void retention_leave(struct log_partition *partition)
{
    struct log_worker *worker = partition->worker;
    worker->retaining = NULL;
    partition_release(partition);
    retention_next(worker);
}

static void bounds_known(struct request *request, enum status status)
{
    struct log_partition *partition = container_of(request, struct log_partition, bounds.request);
    if (status == STATUS_OK) {
        partition_take_bounds(partition);
        partition_publish(partition);
    }
    retention_leave(partition);
}

static void trimmed(struct request *request, enum status status)
{
    struct log_partition *partition = container_of(request, struct log_partition, trim.request);
    struct storage *storage = partition->worker->log->storage;
    if (status != STATUS_OK) {
        trace(TRACE_WARN, "partition %llu cannot be trimmed: %s",
              (unsigned long long)partition->spec.id, status_text(status));
        retention_leave(partition);
        return;
    }
    partition->bounds = (struct storage_bounds){
        .partition = partition->spec.id,
        .class = partition->spec.class,
    };
    request_init(&partition->bounds.request, partition->worker->loop, bounds_known);
    storage->ops->bounds(storage, &partition->bounds);
}

static void floor_known(struct request *request, enum status status)
{
    struct log_partition *partition = container_of(request, struct log_partition, floor.request);
    struct storage *storage = partition->worker->log->storage;
    uint64_t floor = partition->floor.floor;
    if (floor > partition->end)
        floor = partition->end;
    if (status != STATUS_OK || partition->state == PARTITION_CLOSED || floor <= partition->start) {
        retention_leave(partition);
        return;
    }
    partition->start = floor;
    tail_drop_below(partition, floor);
    partition_publish(partition);
    partition->trim = (struct storage_trim){
        .partition = partition->spec.id,
        .class = partition->spec.class,
        .new_start = floor,
    };
    request_init(&partition->trim.request, partition->worker->loop, trimmed);
    storage->ops->trim(storage, &partition->trim);
}

static void retention_next(struct log_worker *worker)
{
    struct storage *storage = worker->log->storage;
    struct link *link = worker->retaining == NULL ? list_pop(&worker->due) : NULL;
    if (link == NULL)
        return;
    struct log_partition *partition = container_of(link, struct log_partition, due_link);
    worker->retaining = partition;
    partition->in_flight++;
    partition->floor = (struct storage_floor){
        .partition = partition->spec.id,
        .class = partition->spec.class,
        .time_ms = time_floor(partition, clock_wall_ms()),
        .keep_bytes = partition->spec.retention_bytes,
    };
    request_init(&partition->floor.request, worker->loop, floor_known);
    storage->ops->floor(storage, &partition->floor);
}

void log_retain(struct log_worker *worker)
{
    CHECK(loop_is_home(worker->loop));
    int64_t now_ms = clock_wall_ms();
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->partitions, &i)) != NULL;) {
        struct log_partition *partition = slot->value;
        if (has_too_much(partition, now_ms) && !link_is_linked(&partition->due_link))
            list_push(&worker->due, &partition->due_link);
    }
    retention_next(worker);
}

static void minute_passed(struct loop_timer *timer)
{
    struct log_worker *worker = container_of(timer, struct log_worker, retention_timer);
    log_retain(worker);
    loop_timer_start(worker->loop, timer, RETENTION_INTERVAL_MS);
}

void retention_init(struct log_worker *worker)
{
    worker->retention_timer.fired = minute_passed;
    loop_timer_start(worker->loop, &worker->retention_timer, RETENTION_INTERVAL_MS);
}

void retention_deinit(struct log_worker *worker)
{
    loop_timer_stop(worker->loop, &worker->retention_timer);
}
