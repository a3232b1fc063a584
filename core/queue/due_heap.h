/* SPDX-License-Identifier: Apache-2.0 */
/* Offsets (or other numbers) that wait for their time: a heap by due time, and a table to find one
 * in it. O(log n). */
#ifndef CORE_QUEUE_DUE_HEAP_H
#define CORE_QUEUE_DUE_HEAP_H

#include "core/queue/offset_map.h"

struct due {
    int64_t due_ms; /* on the clock of whoever puts it in */
    uint64_t offset;
    bool written; /* a row that says so is stored */
};

struct due_heap {
    struct due *entries; /* the first is due first */
    uint32_t count, capacity;
    struct offset_map places; /* offset -> index in heap */
};

void due_heap_init(struct due_heap *heap);
void due_heap_deinit(struct due_heap *heap);
void due_heap_put(struct due_heap *heap, struct due due); /* adds or replaces */
/* NULL when missing; valid until the next put or remove. */
struct due *due_heap_get(const struct due_heap *heap, uint64_t offset);
bool due_heap_remove(struct due_heap *heap, uint64_t offset); /* false: missing */

#endif
