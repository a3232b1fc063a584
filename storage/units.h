/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of units that wait for the others (storage.h), found by their unit's number: what a part
 * costs does not grow with how many wait. For engines; under their lock. */
#ifndef STORAGE_UNITS_H
#define STORAGE_UNITS_H

#include "core/base/list.h"
#include "core/base/map.h"
#include "storage/storage.h"

struct units {
    struct map by_number;
    struct list waiting; /* units, in the order of their first parts */
};

void units_init(struct units *units);
void units_deinit(struct units *units); /* parts that wait are forgotten */
static inline bool units_wait(const struct units *units)
{
    return !list_is_empty(&units->waiting);
}
/* A part arrives. All parts of its unit, linked by next in the order in which they came, if it was
 * the last; else NULL, and it waits. */
struct storage_append *units_add(struct units *units, struct storage_append *part);
/* All that wait, likewise linked; none does afterwards. NULL: none did. */
struct storage_append *units_take(struct units *units);

#endif
