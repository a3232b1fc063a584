/* SPDX-License-Identifier: Apache-2.0 */
/* The tail cache: the batches that were committed last, by reference. One budget per worker; the
 * oldest batch goes first, whichever partition it is in, so that a busy partition cannot keep more
 * than its share of the recent past. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/log/partition.h"

enum { RING_MIN = 8 };

struct batch *tail_at(const struct tail *tail, uint32_t index)
{
    return tail->ring[(tail->first + index) & (tail->capacity - 1)];
}

static void ring_resize(struct tail *tail, uint32_t capacity)
{
    struct batch **ring = heap_array(capacity, sizeof ring[0]);
    for (uint32_t i = 0; i < tail->count; i++)
        ring[i] = tail_at(tail, i);
    heap_free(tail->ring);
    tail->ring = ring;
    tail->capacity = capacity;
    tail->first = 0;
}

static void tail_pop(struct log_partition *partition)
{
    struct tail *tail = &partition->tail;
    struct batch *batch = tail_at(tail, 0);
    tail->first = (tail->first + 1) & (tail->capacity - 1);
    tail->count--;
    tail->from = batch_end(batch);
    if (tail->capacity > RING_MIN && tail->count < tail->capacity / 8)
        ring_resize(tail, tail->capacity / 4 < RING_MIN ? RING_MIN : tail->capacity / 4);
    link_remove(&batch->in_tail);
    partition->worker->tail_bytes -= batch_charge(batch);
    batch_unref(batch);
}

static void tail_evict(struct log_worker *worker)
{
    const struct batch *oldest = container_of(list_first(&worker->tail), struct batch, in_tail);
    struct log_partition *partition = partition_find(worker, oldest->partition);
    CHECK(partition != NULL && tail_at(&partition->tail, 0) == oldest);
    tail_pop(partition);
}

void tail_push(struct log_partition *partition, struct batch *batch)
{
    struct tail *tail = &partition->tail;
    struct log_worker *worker = partition->worker;
    if (tail->count == tail->capacity)
        ring_resize(tail, tail->capacity == 0 ? RING_MIN : tail->capacity * 2);
    tail->ring[(tail->first + tail->count) & (tail->capacity - 1)] = batch_ref(batch);
    tail->count++;
    list_push(&worker->tail, &batch->in_tail);
    worker->tail_bytes += batch_charge(batch);
    while (worker->tail_bytes > LIMIT_TAIL_BYTES)
        tail_evict(worker);
}

void tail_drop_below(struct log_partition *partition, uint64_t offset)
{
    struct tail *tail = &partition->tail;
    while (tail->count > 0 && batch_end(tail_at(tail, 0)) <= offset)
        tail_pop(partition);
}

void tail_clear(struct log_partition *partition)
{
    while (partition->tail.count > 0)
        tail_pop(partition);
    heap_free(partition->tail.ring);
    partition->tail.ring = NULL;
    partition->tail.capacity = 0;
}

uint32_t tail_find(const struct tail *tail, uint64_t offset)
{
    uint32_t low = 0, high = tail->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (batch_end(tail_at(tail, middle)) > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

uint32_t tail_find_time(const struct tail *tail, uint32_t from, int64_t time_ms)
{
    uint32_t low = from, high = tail->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (tail_at(tail, middle)->append_time_ms >= time_ms)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

struct batch *log_tail(struct log_worker *worker, uint64_t id, uint64_t offset)
{
    CHECK(loop_is_home(worker->loop));
    const struct log_partition *partition = partition_find(worker, id);
    if (partition == NULL)
        return NULL;
    const struct tail *tail = &partition->tail;
    uint32_t index = tail_find(tail, offset);
    if (index == tail->count || offset < tail_at(tail, index)->base_offset)
        return NULL;
    return batch_ref(tail_at(tail, index));
}
