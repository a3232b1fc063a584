/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap whose entries know their place through a hash of their offset. */
#include "core/queue/due_heap.h"

#include <stddef.h>

#include "core/base/heap.h"

enum { CAPACITY_MIN = 16, CAPACITY_KEPT = 1024 };

void due_heap_init(struct due_heap *heap)
{
    *heap = (struct due_heap){0};
    offset_map_init(&heap->places);
}

void due_heap_deinit(struct due_heap *heap)
{
    heap_free(heap->entries);
    offset_map_deinit(&heap->places);
    due_heap_init(heap);
}

static bool is_before(const struct due *a, const struct due *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->offset < b->offset;
}

static void place(struct due_heap *heap, uint32_t at, struct due due)
{
    heap->entries[at] = due;
    offset_map_put(&heap->places, due.offset, at);
}

/* Puts due where the entry at may stand empty. */
static void settle_in(struct due_heap *heap, uint32_t at, struct due due)
{
    while (at > 0 && is_before(&due, &heap->entries[(at - 1) / 2])) {
        place(heap, at, heap->entries[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = at * 2 + 1;
        if (child + 1 < heap->count && is_before(&heap->entries[child + 1], &heap->entries[child]))
            child++;
        if (child >= heap->count || !is_before(&heap->entries[child], &due))
            break;
        place(heap, at, heap->entries[child]);
        at = child;
    }
    place(heap, at, due);
}

void due_heap_put(struct due_heap *heap, struct due due)
{
    const uint32_t *at = offset_map_get(&heap->places, due.offset);
    if (at != NULL) {
        settle_in(heap, *at, due);
        return;
    }
    if (heap->count == heap->capacity) {
        heap->capacity = heap->capacity == 0 ? CAPACITY_MIN : heap->capacity * 2;
        heap->entries = heap_resize(heap->entries, heap->capacity * sizeof *heap->entries);
    }
    settle_in(heap, heap->count++, due);
}

struct due *due_heap_get(const struct due_heap *heap, uint64_t offset)
{
    const uint32_t *at = offset_map_get(&heap->places, offset);
    return at == NULL ? NULL : &heap->entries[*at];
}

bool due_heap_remove(struct due_heap *heap, uint64_t offset)
{
    const uint32_t *found = offset_map_get(&heap->places, offset);
    if (found == NULL)
        return false;
    uint32_t at = *found;
    offset_map_remove(&heap->places, offset);
    struct due last = heap->entries[--heap->count];
    if (at < heap->count)
        settle_in(heap, at, last);
    if (heap->count == 0 && heap->capacity > CAPACITY_KEPT)
        due_heap_deinit(heap);
    return true;
}
