/* SPDX-License-Identifier: Apache-2.0 */
/* A hash table from offsets to small numbers: open addressing, no tombstones, shrinks again. For
 * what is sparse in a window: leases and failure counts. */
#ifndef CORE_QUEUE_OFFSET_MAP_H
#define CORE_QUEUE_OFFSET_MAP_H

#include <stdbool.h>
#include <stdint.h>

struct offset_entry {
    uint64_t offset;
    uint32_t value;
    bool used;
};

struct offset_map {
    struct offset_entry *entries;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t count;
};

void offset_map_init(struct offset_map *map);
void offset_map_deinit(struct offset_map *map);
/* NULL when missing. The value may be changed in place; valid until the next put or remove. */
uint32_t *offset_map_get(const struct offset_map *map, uint64_t offset);
void offset_map_put(struct offset_map *map, uint64_t offset, uint32_t value); /* adds or replaces */
bool offset_map_remove(struct offset_map *map, uint64_t offset);              /* false: missing */

#endif
