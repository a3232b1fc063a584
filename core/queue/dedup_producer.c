/* SPDX-License-Identifier: Apache-2.0 */
/* Sequences of one producer: what is next, what is a duplicate, what has a hole before it. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/queue/dedup_impl.h"

struct dedup_producer *dedup_producer_new(uint64_t id)
{
    struct dedup_producer *producer = heap_new(sizeof *producer);
    producer->id = id;
    producer->epoch = -1;
    for (uint32_t i = 0; i < DEDUP_RANGES; i++)
        producer->ranges[i].first = -1;
    return producer;
}

static const struct dedup_range *latest(const struct dedup_producer *producer)
{
    return &producer->ranges[(producer->next + DEDUP_RANGES - 1) % DEDUP_RANGES];
}

/* How far b lies behind a, counted forward. */
static uint32_t distance(int32_t a, int32_t b)
{
    return ((uint32_t)b - (uint32_t)a) & INT32_MAX;
}

static bool lies_within(int32_t first, int32_t last, int32_t low, int32_t high)
{
    uint32_t length = distance(low, high);
    return distance(low, first) <= length && distance(low, last) <= length &&
           distance(low, first) <= distance(low, last);
}

static bool known(const struct dedup_producer *producer, int32_t first, int32_t last,
                  uint64_t *offset)
{
    for (uint32_t i = 0; i < DEDUP_RANGES; i++) {
        const struct dedup_range *range = &producer->ranges[i];
        if (range->first < 0 || !lies_within(first, last, range->first, range->last))
            continue;
        *offset = range->offset + distance(range->first, first);
        return true;
    }
    return false;
}

static enum dedup_verdict refuse(enum status why, enum status *status)
{
    *status = why;
    return DEDUP_REFUSED;
}

/* Half of all sequences before the last one are in the past. */
static enum dedup_verdict compare(int32_t last, int32_t first, int32_t end, uint64_t *offset,
                                  enum status *status)
{
    if (first == dedup_sequence_add(last, 1))
        return DEDUP_NEW;
    if (distance(first, last) <= INT32_MAX / 2 && distance(end, last) <= INT32_MAX / 2) {
        *offset = DEDUP_OFFSET_UNKNOWN;
        return DEDUP_KNOWN;
    }
    return refuse(STATUS_OUT_OF_RANGE, status);
}

static enum dedup_verdict check(const struct dedup_producer *producer,
                                const struct dedup_item *item, int32_t last, uint64_t *offset,
                                enum status *status)
{
    int32_t epoch = producer->pending ? producer->pending_epoch : producer->epoch;
    if (item->epoch < epoch)
        return refuse(STATUS_STALE, status);
    if (epoch < 0) /* nothing is known of it */
        return DEDUP_NEW;
    if (item->epoch > epoch)
        return item->sequence == 0 ? DEDUP_NEW : refuse(STATUS_OUT_OF_RANGE, status);
    if (producer->epoch == item->epoch && known(producer, item->sequence, last, offset))
        return DEDUP_KNOWN;
    if (!producer->pending)
        return compare(latest(producer)->last, item->sequence, last, offset, status);
    if (lies_within(item->sequence, last, producer->pending_first, producer->pending_last))
        return DEDUP_AGAIN;
    return compare(producer->pending_last, item->sequence, last, offset, status);
}

enum dedup_verdict dedup_producer_check(struct dedup_producer *producer,
                                        const struct dedup_item *item, uint64_t *offset,
                                        enum status *status)
{
    int32_t last = dedup_sequence_add(item->sequence, item->record_count - 1);
    enum dedup_verdict verdict = check(producer, item, last, offset, status);
    if (verdict != DEDUP_NEW)
        return verdict;
    if (!producer->pending || producer->pending_epoch != item->epoch)
        producer->pending_first = item->sequence;
    producer->pending = true;
    producer->pending_epoch = item->epoch;
    producer->pending_last = last;
    return DEDUP_NEW;
}

static void begin_epoch(struct dedup_producer *producer, int32_t epoch)
{
    producer->epoch = epoch;
    for (uint32_t i = 0; i < DEDUP_RANGES; i++)
        producer->ranges[i].first = -1;
}

void dedup_producer_put(struct dedup_producer *producer, int32_t epoch, struct dedup_range range)
{
    CHECK(epoch >= producer->epoch);
    if (epoch > producer->epoch)
        begin_epoch(producer, epoch);
    producer->ranges[producer->next] = range;
    producer->next = (producer->next + 1) % DEDUP_RANGES;
}

void dedup_producer_load(struct dedup_producer *producer, uint32_t slot, int32_t epoch,
                         struct dedup_range range)
{
    if (epoch < producer->epoch)
        return;
    if (epoch > producer->epoch)
        begin_epoch(producer, epoch);
    producer->ranges[slot] = range;
    const struct dedup_range *last = latest(producer);
    if (last->first < 0 || range.offset >= last->offset)
        producer->next = (slot + 1) % DEDUP_RANGES;
}
