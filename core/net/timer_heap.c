/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap that tells each timer its place, so that stopping and moving need no search. */
#include "core/net/timer_heap.h"

#include "core/base/check.h"
#include "core/base/heap.h"

enum { CAPACITY_MIN = 16 };

void timer_heap_deinit(struct timer_heap *heap)
{
    heap_free(heap->timers);
    *heap = (struct timer_heap){0};
}

static bool is_before(const struct loop_timer *a, const struct loop_timer *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

static void place(struct timer_heap *heap, uint32_t at, struct loop_timer *timer)
{
    heap->timers[at] = timer;
    timer->index = at + 1;
}

static void sift_up(struct timer_heap *heap, uint32_t at, struct loop_timer *timer)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / 2;
        if (!is_before(timer, heap->timers[parent]))
            break;
        place(heap, at, heap->timers[parent]);
        at = parent;
    }
    place(heap, at, timer);
}

static void sift_down(struct timer_heap *heap, uint32_t at, struct loop_timer *timer)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && is_before(heap->timers[child + 1], heap->timers[child]))
            child++;
        if (!is_before(heap->timers[child], timer))
            break;
        place(heap, at, heap->timers[child]);
        at = child;
    }
    place(heap, at, timer);
}

/* Puts a timer whose time has changed, or that takes another's place, where it belongs. */
static void settle(struct timer_heap *heap, uint32_t at, struct loop_timer *timer)
{
    if (at > 0 && is_before(timer, heap->timers[(at - 1) / 2]))
        sift_up(heap, at, timer);
    else
        sift_down(heap, at, timer);
}

void timer_heap_put(struct timer_heap *heap, struct loop_timer *timer, uint64_t due_ms)
{
    timer->due_ms = due_ms;
    timer->order = heap->order++;
    if (timer->index != 0) {
        settle(heap, timer->index - 1, timer);
        return;
    }
    if (heap->count == heap->capacity) {
        heap->capacity = heap->capacity == 0 ? CAPACITY_MIN : heap->capacity * 2;
        heap->timers = heap_resize(heap->timers, heap->capacity * sizeof(struct loop_timer *));
    }
    heap->count++;
    sift_up(heap, heap->count - 1, timer);
}

void timer_heap_remove(struct timer_heap *heap, struct loop_timer *timer)
{
    if (timer->index == 0)
        return;
    uint32_t at = timer->index - 1;
    CHECK(at < heap->count && heap->timers[at] == timer);
    timer->index = 0;
    heap->count--;
    if (at < heap->count)
        settle(heap, at, heap->timers[heap->count]);
}

struct loop_timer *timer_heap_first(const struct timer_heap *heap)
{
    return heap->count != 0 ? heap->timers[0] : NULL;
}
