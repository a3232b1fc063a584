/* SPDX-License-Identifier: Apache-2.0 */
/* Two sorted arrays and a map over items that all copies of a section share. Ids rise, so putting
 * is mostly appending. */
#include "core/broker/section.h"

#include <stdatomic.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/map.h"
#include "core/base/pack.h"

/* A thing with its texts. The map borrows the keys from here. */
struct item {
    atomic_uint refs;
    uint64_t id;
    struct section_place place;
    void *thing;
    size_t key_count;
    struct span keys[]; /* their bytes follow */
};

struct slot {
    struct section_place place;
    struct item *item;
};

struct order {
    struct slot *slots;
    size_t count;
    size_t capacity;
};

struct section {
    atomic_uint refs;
    void (*unref)(void *thing);
    struct order ids; /* place: the id */
    struct order places;
    struct map texts;
};

/* ---------------------------------------------------------------- orders */

static bool place_is_before(struct section_place a, struct section_place b)
{
    return a.major != b.major ? a.major < b.major : a.minor < b.minor;
}

static size_t order_before(const struct order *order, struct section_place place)
{
    size_t low = 0, high = order->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (place_is_before(order->slots[middle].place, place))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void order_add(struct order *order, struct section_place place, struct item *item)
{
    if (order->count == order->capacity) {
        order->capacity = order->capacity == 0 ? 8 : order->capacity * 2;
        order->slots = heap_resize(order->slots, order->capacity * sizeof *order->slots);
    }
    size_t at = order_before(order, place);
    memmove(&order->slots[at + 1], &order->slots[at], (order->count - at) * sizeof *order->slots);
    order->slots[at] = (struct slot){.place = place, .item = item};
    order->count++;
}

/* Places need not be unique, items are. */
static void order_drop(struct order *order, struct section_place place, const struct item *item)
{
    size_t at = order_before(order, place);
    while (at < order->count && order->slots[at].item != item)
        at++;
    CHECK(at < order->count);
    order->count--;
    memmove(&order->slots[at], &order->slots[at + 1], (order->count - at) * sizeof *order->slots);
}

static void order_copy(struct order *to, const struct order *from)
{
    *to = (struct order){.count = from->count, .capacity = from->count};
    if (from->count == 0)
        return;
    to->slots = heap_array(from->count, sizeof *to->slots);
    memcpy(to->slots, from->slots, from->count * sizeof *to->slots);
}

/* ---------------------------------------------------------------- items */

enum { KEY_HEAD = sizeof(uint64_t) + 1 };

static void key_write(uint8_t *to, struct section_text text)
{
    store_u64(to, text.scope);
    to[sizeof(uint64_t)] = (uint8_t)text.sort;
    if (text.text.size != 0)
        memcpy(to + KEY_HEAD, text.text.data, text.text.size);
}

static struct item *item_new(uint64_t id, void *thing, struct section_place place,
                             const struct section_text *texts, size_t text_count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < text_count; i++)
        bytes += KEY_HEAD + texts[i].text.size;
    struct item *item = heap_new(sizeof *item + text_count * sizeof *item->keys + bytes);
    atomic_init(&item->refs, 1);
    item->id = id;
    item->place = place;
    item->thing = thing;
    item->key_count = text_count;
    uint8_t *at = (uint8_t *)&item->keys[text_count];
    for (size_t i = 0; i < text_count; i++) {
        item->keys[i] = span_of(at, KEY_HEAD + texts[i].text.size);
        key_write(at, texts[i]);
        at += item->keys[i].size;
    }
    return item;
}

static void item_unref(const struct section *section, struct item *item)
{
    if (atomic_fetch_sub_explicit(&item->refs, 1, memory_order_acq_rel) != 1)
        return;
    section->unref(item->thing);
    heap_free(item);
}

/* ---------------------------------------------------------------- sections */

struct section *section_new(void (*unref)(void *thing))
{
    struct section *section = heap_new(sizeof *section);
    atomic_init(&section->refs, 1);
    section->unref = unref;
    map_init(&section->texts);
    return section;
}

struct section *section_ref(struct section *section)
{
    atomic_fetch_add_explicit(&section->refs, 1, memory_order_relaxed);
    return section;
}

void section_unref(struct section *section)
{
    if (atomic_fetch_sub_explicit(&section->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < section->ids.count; i++)
        item_unref(section, section->ids.slots[i].item);
    heap_free(section->ids.slots);
    heap_free(section->places.slots);
    map_deinit(&section->texts);
    heap_free(section);
}

bool section_own(struct section **section)
{
    struct section *shared = *section;
    if (atomic_load_explicit(&shared->refs, memory_order_acquire) == 1)
        return false;
    struct section *own = section_new(shared->unref);
    order_copy(&own->ids, &shared->ids);
    order_copy(&own->places, &shared->places);
    map_copy(&own->texts, &shared->texts);
    for (size_t i = 0; i < own->ids.count; i++)
        atomic_fetch_add_explicit(&own->ids.slots[i].item->refs, 1, memory_order_relaxed);
    section_unref(shared);
    *section = own;
    return true;
}

static struct section_place place_of_id(uint64_t id)
{
    return (struct section_place){.major = id, .minor = 0};
}

static struct item *item_get(const struct section *section, uint64_t id)
{
    size_t at = order_before(&section->ids, place_of_id(id));
    bool found = at < section->ids.count && section->ids.slots[at].item->id == id;
    return found ? section->ids.slots[at].item : NULL;
}

void section_put(struct section *section, uint64_t id, void *thing, struct section_place place,
                 const struct section_text *texts, size_t text_count)
{
    section_remove(section, id);
    struct item *item = item_new(id, thing, place, texts, text_count);
    order_add(&section->ids, place_of_id(id), item);
    order_add(&section->places, place, item);
    for (size_t i = 0; i < text_count; i++) {
        /* Not only the value: the key borrows from the item, which an equal text might outlive. */
        map_remove(&section->texts, item->keys[i]);
        map_put(&section->texts, item->keys[i], item);
    }
}

bool section_remove(struct section *section, uint64_t id)
{
    struct item *item = item_get(section, id);
    if (item == NULL)
        return false;
    order_drop(&section->ids, place_of_id(id), item);
    order_drop(&section->places, item->place, item);
    for (size_t i = 0; i < item->key_count; i++) {
        if (map_get(&section->texts, item->keys[i]) == item)
            map_remove(&section->texts, item->keys[i]);
    }
    item_unref(section, item);
    return true;
}

void *section_get(const struct section *section, uint64_t id)
{
    struct item *item = item_get(section, id);
    return item == NULL ? NULL : item->thing;
}

void *section_get_by_text(const struct section *section, struct section_text text)
{
    uint8_t small[256];
    size_t size = KEY_HEAD + text.text.size;
    uint8_t *key = size <= sizeof small ? small : heap_new(size);
    key_write(key, text);
    struct item *item = map_get(&section->texts, span_of(key, size));
    if (key != small)
        heap_free(key);
    return item == NULL ? NULL : item->thing;
}

size_t section_count(const struct section *section)
{
    return section->ids.count;
}

void *section_at(const struct section *section, size_t index)
{
    return index < section->ids.count ? section->ids.slots[index].item->thing : NULL;
}

static const struct item *item_at(const struct section *section, size_t index)
{
    return index < section->ids.count ? section->ids.slots[index].item : NULL;
}

bool section_difference(const struct section *old, const struct section *new,
                        struct section_step *step, void **before, void **after)
{
    const struct item *was = NULL, *is = NULL;
    while (old != new && (was = item_at(old, step->old)) == (is = item_at(new, step->new)) &&
           was != NULL) {
        step->old++;
        step->new ++;
    }
    if (was == NULL && is == NULL)
        return false;
    /* Of two ids the lower one is not in the other section: it would have come there by now. */
    if (is != NULL && (was == NULL || is->id < was->id))
        was = NULL;
    else if (is != NULL && was->id < is->id)
        is = NULL;
    step->old += was != NULL;
    step->new += is != NULL;
    *before = was == NULL ? NULL : was->thing;
    *after = is == NULL ? NULL : is->thing;
    return true;
}

size_t section_before(const struct section *section, struct section_place place)
{
    return order_before(&section->places, place);
}

void *section_placed(const struct section *section, size_t index)
{
    return index < section->places.count ? section->places.slots[index].item->thing : NULL;
}
