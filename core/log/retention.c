/* SPDX-License-Identifier: Apache-2.0 */
/* Retention: what is too old is looked for once a minute, what is too much as soon as it is. One
 * partition after the other: find the floor, move the start, trim. The start holds for readers at
 * once; space follows when storage gets to it.
 *
 *   too much? --floor of the limits--> protected? --floor of the protection--> trim --> bounds
 *        \---- refuse: what every group has done ------------------------------/
 */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/trace.h"
#include "core/log/partition.h"

enum { RETENTION_INTERVAL_MS = 60 * 1000, LIMIT_INTERVAL_MS = 500 };

static void retention_next(struct log_worker *worker);

static int64_t time_floor(const struct log_partition *partition, int64_t now_ms)
{
    uint64_t kept_ms = partition->spec.retention_ms;
    return kept_ms == 0 || kept_ms >= (uint64_t)now_ms ? 0 : now_ms - (int64_t)kept_ms;
}

static uint64_t undone_of(const struct log_worker *worker, uint64_t partition)
{
    return worker->undone == NULL ? UINT64_MAX : worker->undone(worker->context, partition);
}

static uint64_t undone_from(const struct log_partition *partition)
{
    return undone_of(partition->worker, partition->spec.id);
}

/* No byte may go: this partition is passed over, so that the others do not grow for ever behind it.
 */
static bool is_spared(const struct log_partition *partition, const struct partition_stat *stat)
{
    const struct partition_spec *spec = &partition->spec;
    if (spec->protect_bytes == 0 ||
        atomic_load_explicit(&stat->bytes, memory_order_relaxed) > spec->protect_bytes)
        return false;
    uint64_t id = spec->id + (uint64_t)(stat - partition->stat);
    return undone_of(partition->worker, id) <=
           atomic_load_explicit(&stat->start, memory_order_relaxed);
}

/* What the whole queue has, and whether this partition has the oldest record of it that may go. */
struct total {
    uint64_t bytes, records;
    bool oldest_here;
};

static struct total total_of(const struct log_partition *partition)
{
    const struct partition_spec *spec = &partition->spec;
    const struct partition_stat *siblings =
        spec->siblings != NULL ? spec->siblings : partition->stat;
    uint32_t count = spec->siblings != NULL ? spec->sibling_count : 1;
    struct total total = {0};
    const struct partition_stat *oldest = NULL;
    int64_t oldest_ms = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct partition_stat *stat = &siblings[i];
        int64_t first_ms = atomic_load_explicit(&stat->first_time_ms, memory_order_relaxed);
        uint64_t start = atomic_load_explicit(&stat->start, memory_order_relaxed);
        uint64_t end = atomic_load_explicit(&stat->end, memory_order_relaxed);
        total.bytes += atomic_load_explicit(&stat->bytes, memory_order_relaxed);
        total.records += end - start;
        if (end == start || (oldest != NULL && first_ms >= oldest_ms) ||
            (!spec->refuse && is_spared(partition, stat)))
            continue;
        oldest = stat;
        oldest_ms = first_ms;
    }
    total.oldest_here = oldest == partition->stat;
    return total;
}

/* Three quarters of a limit; 0: none. */
static uint64_t pressing(uint64_t limit)
{
    return limit - limit / 4;
}

/* Is there too much of the queue, and something here to take away first? */
static bool is_over_limit(const struct log_partition *partition)
{
    const struct partition_spec *spec = &partition->spec;
    if (partition->state != PARTITION_SERVING || partition->start == partition->end)
        return false;
    struct total total = total_of(partition);
    if (spec->refuse)
        return ((spec->retention_bytes != 0 && total.bytes >= pressing(spec->retention_bytes)) ||
                (spec->retention_records != 0 &&
                 total.records >= pressing(spec->retention_records))) &&
               undone_from(partition) > partition->start;
    return total.oldest_here &&
           ((spec->retention_bytes != 0 && total.bytes > spec->retention_bytes) ||
            (spec->retention_records != 0 && total.records > spec->retention_records));
}

/* What the owner knows is enough to pass over most partitions without asking storage. */
static bool is_too_old(const struct log_partition *partition, int64_t now_ms)
{
    return partition->state == PARTITION_SERVING && partition->start != partition->end &&
           partition->first_time_ms < time_floor(partition, now_ms);
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
    /* A purge may have overtaken this. */
    if (status == STATUS_OK && partition->bounds.start == partition->start) {
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

static void trim_to(struct log_partition *partition, uint64_t floor)
{
    struct storage *storage = partition->worker->log->storage;
    if (floor > partition->end)
        floor = partition->end;
    if (partition->state == PARTITION_CLOSED || floor <= partition->start) {
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

static void ask_floor(struct log_partition *partition, int64_t time_ms, uint64_t keep_bytes,
                      void (*done)(struct request *request, enum status status))
{
    struct storage *storage = partition->worker->log->storage;
    partition->floor = (struct storage_floor){
        .partition = partition->spec.id,
        .class = partition->spec.class,
        .time_ms = time_ms,
        .keep_bytes = keep_bytes,
    };
    request_init(&partition->floor.request, partition->worker->loop, done);
    storage->ops->floor(storage, &partition->floor);
}

static void protection_known(struct request *request, enum status status)
{
    struct log_partition *partition = container_of(request, struct log_partition, floor.request);
    if (status != STATUS_OK) {
        retention_leave(partition);
        return;
    }
    uint64_t undone = undone_from(partition);
    uint64_t spared = undone > partition->floor.floor ? undone : partition->floor.floor;
    trim_to(partition, partition->wanted < spared ? partition->wanted : spared);
}

static void floor_known(struct request *request, enum status status)
{
    struct log_partition *partition = container_of(request, struct log_partition, floor.request);
    if (status != STATUS_OK || partition->state == PARTITION_CLOSED) {
        retention_leave(partition);
        return;
    }
    if (partition->wanted < partition->floor.floor)
        partition->wanted = partition->floor.floor;
    if (partition->spec.protect_bytes != 0 && undone_from(partition) < partition->wanted)
        ask_floor(partition, 0, partition->spec.protect_bytes, protection_known);
    else
        trim_to(partition, partition->wanted);
}

/* How much may stay here so that the queue is within its limit; 0: all of it. The newest batch
 * stays in any case, so that a limit below the size of one batch does not mean an empty queue. */
static uint64_t keep_bytes(const struct log_partition *partition, const struct total *total)
{
    uint64_t own = partition->end_bytes - partition->start_bytes;
    uint64_t limit = partition->spec.retention_bytes;
    if (limit == 0 || total->bytes <= limit || !total->oldest_here)
        return 0;
    uint64_t excess = total->bytes - limit, keep = own > excess ? own - excess : 1;
    return keep < partition->last_bytes ? partition->last_bytes : keep;
}

static uint64_t excess_records(const struct log_partition *partition, const struct total *total)
{
    uint64_t limit = partition->spec.retention_records;
    if (limit == 0 || total->records <= limit || !total->oldest_here)
        return 0;
    return total->records - limit;
}

static void retain(struct log_partition *partition)
{
    const struct partition_spec *spec = &partition->spec;
    struct total total = total_of(partition);
    int64_t oldest_ms = time_floor(partition, clock_wall_ms());
    uint64_t keep = 0;
    partition->wanted = partition->start;
    if (!spec->refuse) {
        keep = keep_bytes(partition, &total);
        partition->wanted += excess_records(partition, &total);
    } else if (is_over_limit(partition) && undone_from(partition) != UINT64_MAX) {
        partition->wanted = undone_from(partition);
    }
    if (partition->wanted > partition->end)
        partition->wanted = partition->end;
    ask_floor(partition, oldest_ms, keep, floor_known);
}

static void retention_next(struct log_worker *worker)
{
    struct link *link = worker->retaining == NULL ? list_pop(&worker->due) : NULL;
    if (link == NULL)
        return;
    struct log_partition *partition = container_of(link, struct log_partition, due_link);
    worker->retaining = partition;
    partition->in_flight++;
    retain(partition);
}

static void make_due(struct log_partition *partition)
{
    if (!link_is_linked(&partition->due_link))
        list_push(&partition->worker->due, &partition->due_link);
}

static void look_at_limited(struct log_worker *worker)
{
    list_each(link, &worker->limited)
    {
        struct log_partition *partition = container_of(link, struct log_partition, limited_link);
        if (is_over_limit(partition))
            make_due(partition);
    }
}

void log_retain(struct log_worker *worker)
{
    CHECK(loop_is_home(worker->loop));
    int64_t now_ms = clock_wall_ms();
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->partitions, &i)) != NULL;)
        if (is_too_old(slot->value, now_ms))
            make_due(slot->value);
    look_at_limited(worker);
    retention_next(worker);
}

static void minute_passed(struct loop_timer *timer)
{
    struct log_worker *worker = container_of(timer, struct log_worker, retention_timer);
    log_retain(worker);
    loop_timer_start(worker->loop, timer, RETENTION_INTERVAL_MS);
}

/* Not at every commit: what is published at full speed is trimmed a few times a second, not a few
 * thousand times. */
static void limits_due(struct loop_timer *timer)
{
    struct log_worker *worker = container_of(timer, struct log_worker, limit_timer);
    if (list_is_empty(&worker->limited))
        return;
    look_at_limited(worker);
    retention_next(worker);
    loop_timer_start(worker->loop, timer, LIMIT_INTERVAL_MS);
}

void retention_limit(struct log_partition *partition)
{
    const struct partition_spec *spec = &partition->spec;
    struct log_worker *worker = partition->worker;
    link_remove(&partition->limited_link);
    if (spec->retention_bytes == 0 && spec->retention_records == 0)
        return;
    list_push(&worker->limited, &partition->limited_link);
    if (!loop_timer_is_running(&worker->limit_timer))
        loop_timer_start(worker->loop, &worker->limit_timer, LIMIT_INTERVAL_MS);
}

void retention_init(struct log_worker *worker)
{
    worker->limit_timer.fired = limits_due;
    worker->retention_timer.fired = minute_passed;
    loop_timer_start(worker->loop, &worker->retention_timer, RETENTION_INTERVAL_MS);
}

void retention_deinit(struct log_worker *worker)
{
    loop_timer_stop(worker->loop, &worker->retention_timer);
    loop_timer_stop(worker->loop, &worker->limit_timer);
}
