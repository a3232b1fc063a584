/* SPDX-License-Identifier: Apache-2.0 */
/* A hash table from bytes to pointers (open addressing, keyed hash). The key bytes are borrowed
 * from the value and must live as long as the entry. Not thread safe. */
#ifndef CORE_BASE_MAP_H
#define CORE_BASE_MAP_H

#include "core/base/span.h"

struct map_slot {
    uint64_t hash;
    struct span key;
    void *value; /* NULL: free */
};

struct map {
    struct map_slot *slots;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
};

void map_init(struct map *map);
void map_deinit(struct map *map);                      /* values are the caller's */
void *map_get(const struct map *map, struct span key); /* NULL when missing */
/* Returns the value it replaced, or NULL. */
void *map_put(struct map *map, struct span key, void *value);
void *map_remove(struct map *map, struct span key);    /* returns the value, or NULL */
void map_copy(struct map *to, const struct map *from); /* to is uninitialised; same borrowed keys */

/* Iteration in no useful order: for (size_t i = 0; (slot = map_next(map, &i)) != NULL;) */
struct map_slot *map_next(const struct map *map, size_t *position);

#endif
