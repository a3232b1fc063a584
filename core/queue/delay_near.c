/* SPDX-License-Identifier: Apache-2.0 */
/* What is in memory of the records that wait: a heap, the first one due on top, and a table by
 * number. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/queue/delay_impl.h"

enum { NOT_IN_HEAP = UINT32_MAX };

static struct span number_of(const struct delay_entry *entry)
{
    return span_of(&entry->place.number, sizeof entry->place.number);
}

void delay_near_init(struct delay_near *near)
{
    *near = (struct delay_near){0};
    map_init(&near->numbers);
}

void delay_near_deinit(struct delay_near *near)
{
    map_deinit(&near->numbers);
    heap_free(near->heap);
}

static void put(struct delay_near *near, uint32_t index, struct delay_entry *entry)
{
    near->heap[index] = entry;
    entry->index = index;
}

static void rise(struct delay_near *near, uint32_t index, struct delay_entry *entry)
{
    while (index > 0) {
        uint32_t parent = (index - 1) / 2;
        if (!place_is_before(entry->place, near->heap[parent]->place))
            break;
        put(near, index, near->heap[parent]);
        index = parent;
    }
    put(near, index, entry);
}

static void sink(struct delay_near *near, uint32_t index, struct delay_entry *entry)
{
    for (;;) {
        uint32_t child = 2 * index + 1;
        if (child >= near->count)
            break;
        if (child + 1 < near->count &&
            place_is_before(near->heap[child + 1]->place, near->heap[child]->place))
            child++;
        if (!place_is_before(near->heap[child]->place, entry->place))
            break;
        put(near, index, near->heap[child]);
        index = child;
    }
    put(near, index, entry);
}

void delay_near_add(struct delay_near *near, struct delay_entry *entry)
{
    if (near->count == near->capacity) {
        near->capacity = near->capacity == 0 ? 16 : near->capacity * 2;
        near->heap = heap_resize(near->heap, near->capacity * sizeof *near->heap);
    }
    rise(near, near->count++, entry);
    CHECK(map_put(&near->numbers, number_of(entry), entry) == NULL);
}

struct delay_entry *delay_near_find(const struct delay_near *near, uint64_t number)
{
    return map_get(&near->numbers, span_of(&number, sizeof number));
}

struct delay_entry *delay_near_first(const struct delay_near *near)
{
    return near->count == 0 ? NULL : near->heap[0];
}

void delay_near_unheap(struct delay_near *near, struct delay_entry *entry)
{
    uint32_t index = entry->index;
    CHECK(index < near->count && near->heap[index] == entry);
    entry->index = NOT_IN_HEAP;
    struct delay_entry *last = near->heap[--near->count];
    if (last == entry)
        return;
    if (index > 0 && place_is_before(last->place, near->heap[(index - 1) / 2]->place))
        rise(near, index, last);
    else
        sink(near, index, last);
}

void delay_near_remove(struct delay_near *near, struct delay_entry *entry)
{
    if (entry->index != NOT_IN_HEAP)
        delay_near_unheap(near, entry);
    CHECK(map_remove(&near->numbers, number_of(entry)) == entry);
}
