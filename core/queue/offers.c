/* SPDX-License-Identifier: Apache-2.0 */
/* A plain array that is tidied when it is twice as long as after the last time. */
#include "core/queue/offers.h"

#include <string.h>

#include "core/base/heap.h"
#include "core/queue/offset_map.h"

enum { CAPACITY_MIN = 64 };

void offers_init(struct offers *offers)
{
    *offers = (struct offers){0};
    list_init(&offers->readers);
}

void offers_deinit(struct offers *offers)
{
    heap_free(offers->offsets);
}

static void offers_resize(struct offers *offers, uint32_t capacity)
{
    offers->offsets = heap_resize(offers->offsets, capacity * sizeof *offers->offsets);
    offers->capacity = capacity;
}

void offers_clear(struct offers *offers)
{
    offers->first += offers->count;
    offers->count = 0;
    list_each(link, &offers->readers) container_of(link, struct offer_reader, link)->place =
        offers->first;
}

void offers_push(struct offers *offers, uint64_t offset)
{
    if (offers->count == offers->capacity)
        offers_resize(offers, offers->capacity == 0 ? CAPACITY_MIN : offers->capacity * 2);
    offers->offsets[offers->count++] = offset;
}

void offers_join(struct offers *offers, struct offer_reader *reader)
{
    reader->place = offers->first;
    list_push(&offers->readers, &reader->link);
}

void offers_leave(struct offer_reader *reader)
{
    link_remove(&reader->link);
}

/* Of an offset that is there twice, the later entry: those who have read the first still find it.
 */
static void mark_live(const struct offers *offers, bool *keep,
                      bool (*is_live)(void *context, uint64_t offset), void *context)
{
    struct offset_map seen;
    offset_map_init(&seen);
    for (uint32_t i = offers->count; i-- > 0;) {
        uint64_t offset = offers->offsets[i];
        keep[i] = is_live(context, offset) && offset_map_get(&seen, offset) == NULL;
        if (keep[i])
            offset_map_put(&seen, offset, 0);
    }
    offset_map_deinit(&seen);
}

void offers_tidy(struct offers *offers, bool (*is_live)(void *context, uint64_t offset),
                 void *context)
{
    if (offers->count < offers->capacity || offers->count == 0)
        return;
    bool *keep = heap_array(offers->count, sizeof *keep);
    mark_live(offers, keep, is_live, context);
    /* A reader's new place: behind those kept before its old one. */
    list_each(link, &offers->readers)
    {
        struct offer_reader *reader = container_of(link, struct offer_reader, link);
        uint64_t passed = reader->place - offers->first;
        uint64_t kept = 0;
        for (uint64_t i = 0; i < passed; i++)
            kept += keep[i];
        reader->place = offers->first + kept;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < offers->count; i++)
        if (keep[i])
            offers->offsets[kept++] = offers->offsets[i];
    offers->count = kept;
    heap_free(keep);
    uint32_t capacity = CAPACITY_MIN;
    while (capacity < kept * 2)
        capacity *= 2;
    if (capacity != offers->capacity)
        offers_resize(offers, capacity);
}
