/* SPDX-License-Identifier: Apache-2.0 */
/* Linear probing; removal shifts later entries back, so there are no tombstones. */
#include "core/base/map.h"

#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/heap.h"

enum { CAPACITY_MIN = 8 };

void map_init(struct map *map)
{
    *map = (struct map){0};
}

void map_deinit(struct map *map)
{
    heap_free(map->slots);
    map_init(map);
}

/* The slot that holds key, or the free one where it belongs. */
static struct map_slot *map_find(const struct map *map, uint64_t hash, struct span key)
{
    for (size_t i = hash & (map->capacity - 1);; i = (i + 1) & (map->capacity - 1)) {
        struct map_slot *slot = &map->slots[i];
        if (slot->value == NULL || (slot->hash == hash && span_equal(slot->key, key)))
            return slot;
    }
}

void *map_get(const struct map *map, struct span key)
{
    return map->count == 0 ? NULL : map_find(map, hash_bytes(key), key)->value;
}

static void map_grow(struct map *map)
{
    struct map old = *map;
    map->capacity = old.capacity == 0 ? CAPACITY_MIN : old.capacity * 2;
    map->slots = heap_array(map->capacity, sizeof *map->slots);
    for (size_t i = 0; i < old.capacity; i++) {
        if (old.slots[i].value != NULL)
            *map_find(map, old.slots[i].hash, old.slots[i].key) = old.slots[i];
    }
    heap_free(old.slots);
}

void *map_put(struct map *map, struct span key, void *value)
{
    CHECK(value != NULL);
    if (map->count >= map->capacity / 4 * 3)
        map_grow(map);
    uint64_t hash = hash_bytes(key);
    struct map_slot *slot = map_find(map, hash, key);
    void *replaced = slot->value;
    *slot = (struct map_slot){.hash = hash, .key = key, .value = value};
    if (replaced == NULL)
        map->count++;
    return replaced;
}

void *map_remove(struct map *map, struct span key)
{
    if (map->count == 0)
        return NULL;
    struct map_slot *slot = map_find(map, hash_bytes(key), key);
    void *removed = slot->value;
    if (removed == NULL)
        return NULL;
    size_t mask = map->capacity - 1;
    size_t hole = (size_t)(slot - map->slots);
    for (size_t i = (hole + 1) & mask; map->slots[i].value != NULL; i = (i + 1) & mask) {
        size_t wanted = map->slots[i].hash & mask;
        /* An entry may move back as far as the place it hashes to, and no further. */
        if (((i - wanted) & mask) >= ((i - hole) & mask)) {
            map->slots[hole] = map->slots[i];
            hole = i;
        }
    }
    map->slots[hole] = (struct map_slot){0};
    map->count--;
    return removed;
}

void map_copy(struct map *to, const struct map *from)
{
    *to = *from;
    if (from->slots == NULL)
        return;
    to->slots = heap_array(from->capacity, sizeof *to->slots);
    memcpy(to->slots, from->slots, from->capacity * sizeof *to->slots);
}

struct map_slot *map_next(const struct map *map, size_t *position)
{
    while (*position < map->capacity) {
        struct map_slot *slot = &map->slots[(*position)++];
        if (slot->value != NULL)
            return slot;
    }
    return NULL;
}
