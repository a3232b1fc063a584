/* SPDX-License-Identifier: Apache-2.0 */
#include "core/broker/lease_clock.h"

#include "core/base/heap.h"

enum { FIRST_CAPACITY = 16 };

void lease_clock_init(struct lease_clock *clock)
{
    *clock = (struct lease_clock){.first = LEASE_CLOCK_NONE, .last = LEASE_CLOCK_NONE};
}

void lease_clock_deinit(struct lease_clock *clock)
{
    heap_free(clock->places);
    lease_clock_init(clock);
}

static void make_room(struct lease_clock *clock, uint32_t slot)
{
    uint32_t capacity = clock->capacity == 0 ? FIRST_CAPACITY : clock->capacity;
    while (capacity <= slot)
        capacity *= 2;
    if (capacity == clock->capacity)
        return;
    clock->places = heap_resize(clock->places, capacity * sizeof *clock->places);
    for (uint32_t i = clock->capacity; i < capacity; i++)
        clock->places[i] = (struct lease_place){0};
    clock->capacity = capacity;
}

void lease_clock_remove(struct lease_clock *clock, uint32_t slot)
{
    if (slot >= clock->capacity || clock->places[slot].deadline_ms == 0)
        return;
    struct lease_place *place = &clock->places[slot];
    if (place->previous != LEASE_CLOCK_NONE)
        clock->places[place->previous].next = place->next;
    else
        clock->first = place->next;
    if (place->next != LEASE_CLOCK_NONE)
        clock->places[place->next].previous = place->previous;
    else
        clock->last = place->previous;
    place->deadline_ms = 0;
}

void lease_clock_set(struct lease_clock *clock, uint32_t slot, uint64_t deadline_ms)
{
    make_room(clock, slot);
    lease_clock_remove(clock, slot);
    uint32_t before = clock->last;
    while (before != LEASE_CLOCK_NONE && clock->places[before].deadline_ms > deadline_ms)
        before = clock->places[before].previous;
    uint32_t behind = before == LEASE_CLOCK_NONE ? clock->first : clock->places[before].next;
    clock->places[slot] =
        (struct lease_place){.deadline_ms = deadline_ms, .previous = before, .next = behind};
    if (before != LEASE_CLOCK_NONE)
        clock->places[before].next = slot;
    else
        clock->first = slot;
    if (behind != LEASE_CLOCK_NONE)
        clock->places[behind].previous = slot;
    else
        clock->last = slot;
}

uint32_t lease_clock_first(const struct lease_clock *clock, uint64_t *deadline_ms)
{
    if (clock->first != LEASE_CLOCK_NONE)
        *deadline_ms = clock->places[clock->first].deadline_ms;
    return clock->first;
}
