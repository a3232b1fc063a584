/* SPDX-License-Identifier: Apache-2.0 */
/* Linear probing at most half full; a removal moves the rest of its run back, so that no tombstones
 * pile up under the endless churn of leases. */
#include "core/queue/offset_map.h"

#include <stddef.h>

#include "core/base/hash.h"
#include "core/base/heap.h"

enum { CAPACITY_MIN = 16, TOGETHER = 8 };

void offset_map_init(struct offset_map *map)
{
    *map = (struct offset_map){0};
}

void offset_map_deinit(struct offset_map *map)
{
    heap_free(map->entries);
    offset_map_init(map);
}

/* Offsets come and go in runs: a few that follow each other lie together, so that they share cache
 * lines; the runs are scattered, whatever the distance between offsets is. */
static uint32_t home_of(const struct offset_map *map, uint64_t offset)
{
    return (uint32_t)(hash_u64(offset / TOGETHER) + offset % TOGETHER) & (map->capacity - 1);
}

/* The entry of offset, or the free one where it would go. */
static struct offset_entry *find(const struct offset_map *map, uint64_t offset)
{
    uint32_t at = home_of(map, offset);
    while (map->entries[at].used && map->entries[at].offset != offset)
        at = (at + 1) & (map->capacity - 1);
    return &map->entries[at];
}

static void resize(struct offset_map *map, uint32_t capacity)
{
    struct offset_map old = *map;
    map->entries = heap_array(capacity, sizeof *map->entries);
    map->capacity = capacity;
    for (uint32_t i = 0; i < old.capacity; i++)
        if (old.entries[i].used)
            *find(map, old.entries[i].offset) = old.entries[i];
    heap_free(old.entries);
}

uint32_t *offset_map_get(const struct offset_map *map, uint64_t offset)
{
    if (map->count == 0)
        return NULL;
    struct offset_entry *entry = find(map, offset);
    return entry->used ? &entry->value : NULL;
}

void offset_map_put(struct offset_map *map, uint64_t offset, uint32_t value)
{
    if (map->count >= map->capacity / 2)
        resize(map, map->capacity == 0 ? CAPACITY_MIN : map->capacity * 2);
    struct offset_entry *entry = find(map, offset);
    if (!entry->used)
        map->count++;
    *entry = (struct offset_entry){.offset = offset, .value = value, .used = true};
}

bool offset_map_remove(struct offset_map *map, uint64_t offset)
{
    if (map->count == 0)
        return false;
    struct offset_entry *entry = find(map, offset);
    if (!entry->used)
        return false;
    uint32_t mask = map->capacity - 1;
    uint32_t hole = (uint32_t)(entry - map->entries);
    for (uint32_t at = (hole + 1) & mask; map->entries[at].used; at = (at + 1) & mask) {
        /* An entry may move back into the hole only if its home does not lie behind the hole. */
        uint32_t home = home_of(map, map->entries[at].offset);
        if (((at - home) & mask) < ((at - hole) & mask))
            continue;
        map->entries[hole] = map->entries[at];
        hole = at;
    }
    map->entries[hole].used = false;
    map->count--;
    if (map->capacity > CAPACITY_MIN && map->count < map->capacity / 16)
        resize(map, map->capacity / 4);
    return true;
}
