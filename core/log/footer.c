/* SPDX-License-Identifier: Apache-2.0 */
/* Collecting the labels of a batch, and looking one up in what was stored. */
#include "core/log/footer.h"

#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/pack.h"

bool label_next(struct span *rest, struct span *label)
{
    while (rest->size > 0) {
        const uint8_t *comma = memchr(rest->data, ',', rest->size);
        size_t size = comma != NULL ? (size_t)(comma - rest->data) : rest->size;
        *label = span_of(rest->data, size);
        *rest = span_from(*rest, size + 1);
        if (size > 0)
            return true;
    }
    return false;
}

uint32_t label_hash(struct span label)
{
    return (uint32_t)hash_stable(label);
}

void label_set_deinit(struct label_set *set)
{
    heap_free(set->hashes);
    *set = (struct label_set){0};
}

void label_set_clear(struct label_set *set)
{
    set->count = 0;
    set->overflown = false;
}

static void label_set_add_hash(struct label_set *set, uint32_t hash)
{
    uint32_t low = 0, high = set->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (set->hashes[middle] < hash)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < set->count && set->hashes[low] == hash)
        return;
    if (set->count == FOOTER_LABELS_MAX) {
        set->overflown = true;
        return;
    }
    memmove(set->hashes + low + 1, set->hashes + low, (set->count - low) * sizeof set->hashes[0]);
    set->hashes[low] = hash;
    set->count++;
}

void label_set_add(struct label_set *set, struct span labels)
{
    struct span label;
    if (set->hashes == NULL)
        set->hashes = heap_array(FOOTER_LABELS_MAX, sizeof set->hashes[0]);
    while (!set->overflown && label_next(&labels, &label))
        label_set_add_hash(set, label_hash(label));
}

size_t footer_size(const struct label_set *set)
{
    if (set->count == 0 || set->overflown)
        return 0;
    return FOOTER_HEAD_SIZE + 4 * (size_t)set->count;
}

void footer_encode(const struct label_set *set, uint8_t *to)
{
    to[0] = FOOTER_VERSION;
    to[1] = (uint8_t)set->count;
    for (uint32_t i = 0; i < set->count; i++)
        store_u32(to + FOOTER_HEAD_SIZE + 4 * i, set->hashes[i]);
}

bool footer_may_have(struct span footer, uint32_t hash)
{
    if (footer.size < FOOTER_HEAD_SIZE || footer.data[0] != FOOTER_VERSION ||
        footer.size != FOOTER_HEAD_SIZE + 4 * (size_t)footer.data[1])
        return true;
    uint32_t low = 0, high = footer.data[1];
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        uint32_t there = load_u32(footer.data + FOOTER_HEAD_SIZE + 4 * middle);
        if (there == hash)
            return true;
        if (there < hash)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}
