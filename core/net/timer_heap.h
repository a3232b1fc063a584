/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap of loop_timers by (due_ms, order): what both loops keep their timers in. */
#ifndef CORE_NET_TIMER_HEAP_H
#define CORE_NET_TIMER_HEAP_H

#include "core/net/loop.h"

struct timer_heap {
    struct loop_timer **timers;
    uint32_t count;
    uint32_t capacity;
    uint64_t order;
};

void timer_heap_deinit(struct timer_heap *heap);
/* Adds or moves. */
void timer_heap_put(struct timer_heap *heap, struct loop_timer *timer, uint64_t due_ms);
/* Harmless when not in it. */
void timer_heap_remove(struct timer_heap *heap, struct loop_timer *timer);
struct loop_timer *timer_heap_first(const struct timer_heap *heap); /* NULL when empty */

#endif
