/* SPDX-License-Identifier: Apache-2.0 */
/* Two tables, key hash -> key and offset -> entry; the waiting entries of a key are a list in the
 * order of their offsets. What is held of a key was handed out before what waits, so that returned
 * entries go to the front of the list. */
#include "core/queue/fifo.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/queue/offset_map.h"

#define NONE UINT32_MAX
enum { POOL_MIN = 64, POOL_KEPT = 4096 };

struct entry {
    uint64_t offset;
    uint32_t key;
    uint32_t previous, next; /* of the key's waiting ones; next also links free entries */
    bool held;
};

struct key {
    uint64_t hash;
    uint64_t take;        /* that has got the held ones */
    uint32_t first, last; /* waiting */
    uint32_t returned;    /* the last of those at the front that have come back; NONE: none */
    uint32_t held;        /* how many */
};

struct fifo {
    struct offers *offers;
    struct offset_map key_of_hash;
    struct offset_map entry_of_offset;
    struct entry *entries;
    struct key *keys;
    uint32_t entry_capacity, entry_free;
    uint32_t key_capacity, key_free; /* free keys are linked by first */
    uint32_t waiting;
    uint64_t take; /* the last that took something */
};

struct fifo *fifo_new(struct offers *offers)
{
    struct fifo *fifo = heap_new(sizeof *fifo);
    fifo->offers = offers;
    fifo->entry_free = fifo->key_free = NONE;
    offset_map_init(&fifo->key_of_hash);
    offset_map_init(&fifo->entry_of_offset);
    return fifo;
}

static void pools_free(struct fifo *fifo)
{
    heap_free(fifo->entries);
    heap_free(fifo->keys);
    fifo->entries = NULL;
    fifo->keys = NULL;
    fifo->entry_capacity = fifo->key_capacity = 0;
    fifo->entry_free = fifo->key_free = NONE;
}

void fifo_clear(struct fifo *fifo)
{
    offset_map_deinit(&fifo->key_of_hash);
    offset_map_deinit(&fifo->entry_of_offset);
    pools_free(fifo);
    fifo->waiting = 0;
}

void fifo_free(struct fifo *fifo)
{
    if (fifo == NULL)
        return;
    fifo_clear(fifo);
    heap_free(fifo);
}

static uint32_t entry_new(struct fifo *fifo)
{
    if (fifo->entry_free == NONE) {
        uint32_t old = fifo->entry_capacity;
        uint32_t capacity = old == 0 ? POOL_MIN : old * 2;
        fifo->entries = heap_resize(fifo->entries, capacity * sizeof *fifo->entries);
        fifo->entry_capacity = capacity;
        for (uint32_t i = old; i < capacity; i++)
            fifo->entries[i].next = i + 1 < capacity ? i + 1 : NONE;
        fifo->entry_free = old;
    }
    uint32_t index = fifo->entry_free;
    fifo->entry_free = fifo->entries[index].next;
    return index;
}

static uint32_t key_new(struct fifo *fifo)
{
    if (fifo->key_free == NONE) {
        uint32_t old = fifo->key_capacity;
        uint32_t capacity = old == 0 ? POOL_MIN : old * 2;
        fifo->keys = heap_resize(fifo->keys, capacity * sizeof *fifo->keys);
        fifo->key_capacity = capacity;
        for (uint32_t i = old; i < capacity; i++)
            fifo->keys[i].first = i + 1 < capacity ? i + 1 : NONE;
        fifo->key_free = old;
    }
    uint32_t index = fifo->key_free;
    fifo->key_free = fifo->keys[index].first;
    return index;
}

static uint32_t key_of(struct fifo *fifo, uint64_t hash)
{
    const uint32_t *known = offset_map_get(&fifo->key_of_hash, hash);
    if (known != NULL)
        return *known;
    uint32_t index = key_new(fifo);
    fifo->keys[index] = (struct key){.hash = hash, .first = NONE, .last = NONE, .returned = NONE};
    offset_map_put(&fifo->key_of_hash, hash, index);
    return index;
}

static struct entry *entry_at(const struct fifo *fifo, uint64_t offset)
{
    const uint32_t *index = offset_map_get(&fifo->entry_of_offset, offset);
    return index == NULL ? NULL : &fifo->entries[*index];
}

static uint32_t index_of(const struct fifo *fifo, const struct entry *entry)
{
    return (uint32_t)(entry - fifo->entries);
}

/* Waiting lists */

/* Behind previous; NONE: at the front. */
static void link_entry(struct fifo *fifo, struct entry *entry, uint32_t previous)
{
    struct key *key = &fifo->keys[entry->key];
    uint32_t index = index_of(fifo, entry);
    uint32_t next = previous == NONE ? key->first : fifo->entries[previous].next;
    entry->previous = previous;
    entry->next = next;
    entry->held = false;
    if (previous == NONE)
        key->first = index;
    else
        fifo->entries[previous].next = index;
    if (next == NONE)
        key->last = index;
    else
        fifo->entries[next].previous = index;
    fifo->waiting++;
}

static void unlink_entry(struct fifo *fifo, struct entry *entry)
{
    struct key *key = &fifo->keys[entry->key];
    if (key->returned == index_of(fifo, entry))
        key->returned = entry->previous;
    if (entry->previous == NONE)
        key->first = entry->next;
    else
        fifo->entries[entry->previous].next = entry->next;
    if (entry->next == NONE)
        key->last = entry->previous;
    else
        fifo->entries[entry->next].previous = entry->previous;
    fifo->waiting--;
}

/* As a rule they come back in the order of their offsets, and belong before all others. */
static uint32_t place_of_returned(const struct fifo *fifo, const struct entry *entry)
{
    const struct key *key = &fifo->keys[entry->key];
    uint32_t previous = key->returned;
    while (previous != NONE && fifo->entries[previous].offset > entry->offset)
        previous = fifo->entries[previous].previous;
    uint32_t next = previous == NONE ? key->first : fifo->entries[previous].next;
    while (next != NONE && fifo->entries[next].offset < entry->offset) {
        previous = next;
        next = fifo->entries[next].next;
    }
    return previous;
}

static bool key_is_ready(const struct key *key, uint64_t take)
{
    return key->first != NONE && (key->held == 0 || (take != 0 && key->take == take));
}

/* After something of the key is not held or waiting any more. */
static void key_changed(struct fifo *fifo, uint32_t index)
{
    struct key *key = &fifo->keys[index];
    if (key->held > 0)
        return;
    if (key->first != NONE) {
        offers_push(fifo->offers, fifo->entries[key->first].offset);
        return;
    }
    offset_map_remove(&fifo->key_of_hash, key->hash);
    key->first = fifo->key_free;
    fifo->key_free = index;
    if (fifo->key_of_hash.count == 0 &&
        (fifo->entry_capacity > POOL_KEPT || fifo->key_capacity > POOL_KEPT))
        pools_free(fifo);
}

void fifo_meet(struct fifo *fifo, uint64_t hash, uint64_t offset, bool held)
{
    CHECK(offset_map_get(&fifo->entry_of_offset, offset) == NULL);
    uint32_t index = key_of(fifo, hash);
    struct key *key = &fifo->keys[index];
    uint32_t at = entry_new(fifo);
    struct entry *entry = &fifo->entries[at];
    *entry = (struct entry){.offset = offset, .key = index, .held = held};
    offset_map_put(&fifo->entry_of_offset, offset, at);
    if (held) {
        key->held++;
        key->take = 0;
        return;
    }
    bool first = key->first == NONE;
    link_entry(fifo, entry, key->last);
    if (first && key_is_ready(key, fifo->take))
        offers_push(fifo->offers, offset);
}

bool fifo_is_ready(const struct fifo *fifo, uint64_t offset, uint64_t take)
{
    const struct entry *entry = entry_at(fifo, offset);
    if (entry == NULL || entry->held)
        return false;
    const struct key *key = &fifo->keys[entry->key];
    return key->first == index_of(fifo, entry) && key_is_ready(key, take);
}

void fifo_take(struct fifo *fifo, uint64_t offset, uint64_t take)
{
    CHECK(take != 0 && fifo_is_ready(fifo, offset, take));
    struct entry *entry = entry_at(fifo, offset);
    struct key *key = &fifo->keys[entry->key];
    unlink_entry(fifo, entry);
    entry->held = true;
    key->held++;
    key->take = fifo->take = take;
    if (key->first != NONE) /* for the same take */
        offers_push(fifo->offers, fifo->entries[key->first].offset);
}

void fifo_returned(struct fifo *fifo, uint64_t offset)
{
    struct entry *entry = entry_at(fifo, offset);
    if (entry == NULL)
        return;
    struct key *key = &fifo->keys[entry->key];
    if (entry->held) {
        link_entry(fifo, entry, place_of_returned(fifo, entry));
        if (key->returned == entry->previous)
            key->returned = index_of(fifo, entry);
        key->held--;
        key->take = 0;
    }
    key_changed(fifo, entry->key);
}

static void resolve(struct fifo *fifo, struct entry *entry)
{
    uint32_t key = entry->key;
    bool was_first = !entry->held && entry->previous == NONE;
    bool was_held = entry->held;
    if (was_held)
        fifo->keys[key].held--;
    else
        unlink_entry(fifo, entry);
    offset_map_remove(&fifo->entry_of_offset, entry->offset);
    entry->next = fifo->entry_free;
    fifo->entry_free = index_of(fifo, entry);
    if (was_held || was_first)
        key_changed(fifo, key);
}

void fifo_resolved(struct fifo *fifo, uint64_t from, uint64_t to)
{
    const struct offset_map *known = &fifo->entry_of_offset;
    if (to - from <= known->count) {
        for (uint64_t offset = from; offset < to; offset++) {
            struct entry *entry = entry_at(fifo, offset);
            if (entry != NULL)
                resolve(fifo, entry);
        }
        return;
    }
    /* Wider than all that is known: collect first, the table changes under the removals. */
    uint64_t *found = heap_array((size_t)known->count + 1, sizeof *found);
    uint32_t count = 0;
    for (uint32_t i = 0; i < known->capacity; i++)
        if (known->entries[i].used && known->entries[i].offset >= from &&
            known->entries[i].offset < to)
            found[count++] = known->entries[i].offset;
    for (uint32_t i = 0; i < count; i++)
        resolve(fifo, entry_at(fifo, found[i]));
    heap_free(found);
}

uint32_t fifo_waiting(const struct fifo *fifo)
{
    return fifo->waiting;
}

bool fifo_has_key(const struct fifo *fifo, uint64_t key)
{
    return offset_map_get(&fifo->key_of_hash, key) != NULL;
}

bool fifo_is_blocked(const struct fifo *fifo, uint64_t offset)
{
    const struct entry *entry = entry_at(fifo, offset);
    return entry != NULL && !entry->held && !fifo_is_ready(fifo, offset, 0);
}
