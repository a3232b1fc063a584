/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap whose entries know their place through a hash of their offset. */
#include "core/queue/delays.h"

#include <stddef.h>

#include "core/base/heap.h"

enum { CAPACITY_MIN = 16, CAPACITY_KEPT = 1024 };

void delays_init(struct delays *delays)
{
    *delays = (struct delays){0};
    offset_map_init(&delays->places);
}

void delays_deinit(struct delays *delays)
{
    heap_free(delays->heap);
    offset_map_deinit(&delays->places);
    delays_init(delays);
}

static bool is_before(const struct delay *a, const struct delay *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->offset < b->offset;
}

static void place(struct delays *delays, uint32_t at, struct delay delay)
{
    delays->heap[at] = delay;
    offset_map_put(&delays->places, delay.offset, at);
}

/* Puts delay where the entry at may stand empty. */
static void settle_in(struct delays *delays, uint32_t at, struct delay delay)
{
    while (at > 0 && is_before(&delay, &delays->heap[(at - 1) / 2])) {
        place(delays, at, delays->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = at * 2 + 1;
        if (child + 1 < delays->count && is_before(&delays->heap[child + 1], &delays->heap[child]))
            child++;
        if (child >= delays->count || !is_before(&delays->heap[child], &delay))
            break;
        place(delays, at, delays->heap[child]);
        at = child;
    }
    place(delays, at, delay);
}

void delays_put(struct delays *delays, struct delay delay)
{
    const uint32_t *at = offset_map_get(&delays->places, delay.offset);
    if (at != NULL) {
        settle_in(delays, *at, delay);
        return;
    }
    if (delays->count == delays->capacity) {
        delays->capacity = delays->capacity == 0 ? CAPACITY_MIN : delays->capacity * 2;
        delays->heap = heap_resize(delays->heap, delays->capacity * sizeof *delays->heap);
    }
    settle_in(delays, delays->count++, delay);
}

struct delay *delays_get(const struct delays *delays, uint64_t offset)
{
    const uint32_t *at = offset_map_get(&delays->places, offset);
    return at == NULL ? NULL : &delays->heap[*at];
}

bool delays_remove(struct delays *delays, uint64_t offset)
{
    const uint32_t *found = offset_map_get(&delays->places, offset);
    if (found == NULL)
        return false;
    uint32_t at = *found;
    offset_map_remove(&delays->places, offset);
    struct delay last = delays->heap[--delays->count];
    if (at < delays->count)
        settle_in(delays, at, last);
    if (delays->count == 0 && delays->capacity > CAPACITY_KEPT)
        delays_deinit(delays);
    return true;
}
