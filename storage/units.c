/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of units that wait for the others. */
#include "storage/units.h"

#include "core/base/heap.h"

struct waiting {
    struct link link;
    uint64_t number;
    struct storage_append *first, *last;
    uint32_t count;
};

void units_init(struct units *units)
{
    map_init(&units->by_number);
    list_init(&units->waiting);
}

void units_deinit(struct units *units)
{
    units_take(units);
    map_deinit(&units->by_number);
}

static struct waiting *waiting_of(struct units *units, uint64_t number)
{
    struct waiting *unit = map_get(&units->by_number, span_of(&number, sizeof number));
    if (unit != NULL)
        return unit;
    unit = heap_new(sizeof *unit);
    unit->number = number;
    list_push(&units->waiting, &unit->link);
    map_put(&units->by_number, span_of(&unit->number, sizeof unit->number), unit);
    return unit;
}

/* Its parts. */
static struct storage_append *waiting_end(struct units *units, struct waiting *unit)
{
    struct storage_append *first = unit->first;
    map_remove(&units->by_number, span_of(&unit->number, sizeof unit->number));
    link_remove(&unit->link);
    heap_free(unit);
    return first;
}

struct storage_append *units_add(struct units *units, struct storage_append *part)
{
    part->next = NULL;
    if (part->part_count <= 1)
        return part;
    struct waiting *unit = waiting_of(units, part->unit);
    if (unit->last == NULL)
        unit->first = part;
    else
        unit->last->next = part;
    unit->last = part;
    return ++unit->count < part->part_count ? NULL : waiting_end(units, unit);
}

struct storage_append *units_take(struct units *units)
{
    struct storage_append *all = NULL, **end = &all;
    struct link *link;
    while ((link = list_first(&units->waiting)) != NULL) {
        struct waiting *unit = container_of(link, struct waiting, link);
        struct storage_append *last = unit->last;
        *end = waiting_end(units, unit);
        end = &last->next;
    }
    return all;
}
