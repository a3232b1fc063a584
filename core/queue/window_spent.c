/* SPDX-License-Identifier: Apache-2.0 */
/* How often deliveries have failed, and the offsets of which that is too often: they wait to be
 * moved elsewhere. */
#include <stdlib.h>

#include "core/base/heap.h"
#include "core/queue/window_impl.h"

void window_fail(struct window *window, uint64_t offset)
{
    uint32_t *failures = offset_map_get(&window->failures, offset);
    if (failures == NULL)
        offset_map_put(&window->failures, offset, 1);
    else if ((*failures & ~REJECTED) < WINDOW_NO_LIMIT)
        ++*failures;
}

void window_reject(struct window *window, uint64_t offset)
{
    uint32_t *failures = offset_map_get(&window->failures, offset);
    if (failures == NULL)
        offset_map_put(&window->failures, offset, REJECTED);
    else
        *failures |= REJECTED;
}

uint32_t window_failures(const struct window *window, uint64_t offset, bool *rejected)
{
    const uint32_t *failures = offset_map_get(&window->failures, offset);
    if (rejected != NULL)
        *rejected = failures != NULL && (*failures & REJECTED) != 0;
    return failures == NULL ? 0 : *failures & ~REJECTED;
}

bool window_was_taken(const struct window *window, uint64_t offset)
{
    return offset_map_get(&window->failures, offset) != NULL ||
           offset_map_get(&window->released, offset) != NULL;
}

uint32_t window_failures_stored(const struct window *window, uint64_t offset,
                                enum window_outcome outcome)
{
    const uint32_t *known = offset_map_get(&window->failures, offset);
    uint32_t failures = known == NULL ? 0 : *known;
    if (outcome == WINDOW_REJECTED)
        failures |= REJECTED;
    else if (outcome == WINDOW_FAILED && (failures & ~REJECTED) < WINDOW_NO_LIMIT)
        failures++;
    return failures;
}

bool window_is_spent(const struct window *window, uint64_t offset)
{
    const uint32_t *failures = offset_map_get(&window->failures, offset);
    return failures != NULL && window->failures_max != 0 && *failures >= window->failures_max;
}

static int compare_offsets(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

/* Those that are available though they have failed too often. */
static void spend_available(struct window *window)
{
    uint64_t *found = heap_array(window->failures.count + 1, sizeof *found);
    size_t count = 0;
    for (uint32_t i = 0; i < window->failures.capacity; i++) {
        const struct offset_entry *entry = &window->failures.entries[i];
        if (entry->used && window_is_spent(window, entry->offset) &&
            window_state(window, entry->offset) == OFFSET_AVAILABLE)
            found[count++] = entry->offset;
    }
    qsort(found, count, sizeof *found, compare_offsets);
    for (size_t i = 0; i < count; i++) {
        window_set_state(window, found[i], OFFSET_PARKED);
        line_push(&window->spent, found[i]);
    }
    heap_free(found);
}

void window_limit_failures(struct window *window, uint32_t failures_max)
{
    window->failures_max = failures_max;
    struct line spent = window->spent;
    window->spent = (struct line){0};
    for (uint32_t i = 0; i < spent.count; i++)
        if (window_state(window, line_at(&spent, i)) == OFFSET_PARKED)
            window_come_back(window, line_at(&spent, i));
    line_clear(&spent);
    spend_available(window);
    window_advance(window);
    window_clean_lines(window);
}

uint32_t window_spent(const struct window *window, uint64_t *offsets, uint32_t max)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < window->spent.count && count < max; i++) {
        uint64_t offset = line_at(&window->spent, i);
        if (window_state(window, offset) == OFFSET_PARKED && window_may_move(window, offset))
            offsets[count++] = offset;
    }
    return count;
}
