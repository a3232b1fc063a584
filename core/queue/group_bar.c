/* SPDX-License-Identifier: Apache-2.0 */
/* What takers have given back as not for themselves, while they are there. Such a taker waits in a
 * lane of its own, which passes over that. */
#include "core/base/limits.h"
#include "core/queue/group_impl.h"

#include "core/base/heap.h"

struct taker *taker_new(void)
{
    struct taker *taker = heap_new(sizeof *taker);
    atomic_init(&taker->refs, 1);
    return taker;
}

struct taker *taker_ref(struct taker *taker)
{
    atomic_fetch_add_explicit(&taker->refs, 1, memory_order_relaxed);
    return taker;
}

void taker_unref(struct taker *taker)
{
    if (taker != NULL && atomic_fetch_sub_explicit(&taker->refs, 1, memory_order_acq_rel) == 1)
        heap_free(taker);
}

static void bar_free(struct group *group, uint32_t index)
{
    struct bar *bar = group->bars[index];
    group->bars[index] = group->bars[--group->bar_count];
    for (uint32_t i = 0; i < group->choice_count; i++)
        if (group->choices[i]->bar == bar)
            group->choices[i]->bar = NULL;
    for (uint32_t i = 0; i < group->part_count; i++)
        offset_map_deinit(&bar->offsets[i]);
    heap_free(bar->offsets);
    taker_unref(bar->taker);
    heap_free(bar);
}

void bars_sweep(struct group *group)
{
    for (uint32_t i = group->bar_count; i-- > 0;)
        if (atomic_load_explicit(&group->bars[i]->taker->gone, memory_order_relaxed))
            bar_free(group, i);
    lanes_forget(group);
}

void bars_deinit(struct group *group)
{
    while (group->bar_count > 0)
        bar_free(group, group->bar_count - 1);
}

struct bar *bar_of(const struct group *group, const struct taker *taker)
{
    for (uint32_t i = 0; taker != NULL && i < group->bar_count; i++)
        if (group->bars[i]->taker == taker)
            return group->bars[i];
    return NULL;
}

static struct offset_map *offsets_of(const struct bar *bar, const struct part *part)
{
    return &bar->offsets[part - part->group->parts];
}

bool bar_holds(const struct bar *bar, const struct part *part, uint64_t offset)
{
    return offset_map_get(offsets_of(bar, part), offset) != NULL;
}

/* What is done needs no bar. It costs a look at all of them: once per turn. */
static void tidy(const struct group *group, struct bar *bar)
{
    if (bar->tidied == group->turns)
        return;
    bar->tidied = group->turns;
    for (uint32_t i = 0; i < group->part_count; i++) {
        struct offset_map kept, *offsets = &bar->offsets[i];
        uint64_t until_ms;
        offset_map_init(&kept);
        for (uint32_t k = 0; k < offsets->capacity; k++) {
            const struct offset_entry *entry = &offsets->entries[k];
            if (entry->used &&
                window_look_at(group->parts[i].window, entry->offset, &until_ms) != WINDOW_IS_DONE)
                offset_map_put(&kept, entry->offset, 1);
        }
        bar->count -= offsets->count - kept.count;
        offset_map_deinit(offsets);
        *offsets = kept;
    }
}

/* Those that hold nothing any more make room. What waits in their lanes waits with others again. */
static void make_room(struct group *group)
{
    for (uint32_t i = group->bar_count; i-- > 0;) {
        struct bar *bar = group->bars[i];
        tidy(group, bar);
        if (bar->count > 0 || !lanes_may_open(group, bar))
            continue;
        bar_free(group, i);
        group->bars_changed = true;
    }
}

bool bar_put_up(struct part *part, uint64_t offset, struct taker *taker)
{
    struct group *group = part->group;
    bars_sweep(group);
    struct bar *bar = bar_of(group, taker);
    if (bar == NULL && group->bar_count == LIMIT_GROUP_BARS)
        make_room(group);
    if (bar == NULL && group->bar_count == LIMIT_GROUP_BARS)
        return false;
    if (bar == NULL) {
        bar = group->bars[group->bar_count++] = heap_new(sizeof *bar);
        bar->taker = taker_ref(taker);
        bar->offsets = heap_array(group->part_count, sizeof *bar->offsets);
        for (uint32_t i = 0; i < group->part_count; i++)
            offset_map_init(&bar->offsets[i]);
        group->bars_changed = true;
    }
    if (bar->count >= LIMIT_GROUP_BARRED)
        tidy(group, bar);
    if (bar->count >= LIMIT_GROUP_BARRED)
        return false;
    bar->count += !bar_holds(bar, part, offset);
    offset_map_put(offsets_of(bar, part), offset, 1);
    return true;
}

void bar_take_down(struct part *part, uint64_t offset, const struct taker *taker)
{
    struct bar *bar = bar_of(part->group, taker);
    if (bar != NULL && offset_map_remove(offsets_of(bar, part), offset))
        bar->count--;
}
