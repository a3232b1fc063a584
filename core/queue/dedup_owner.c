/* SPDX-License-Identifier: Apache-2.0 */
/* How much is remembered of whom, so that one owner leaves room for others. */
#include "core/base/heap.h"
#include "core/queue/dedup_impl.h"

static struct span name_of(const uint64_t *id)
{
    return span_of(id, sizeof *id);
}

const struct dedup_owner *dedup_owner_find(const struct map *owners, uint64_t id)
{
    return map_get(owners, name_of(&id));
}

void dedup_owner_count(struct map *owners, uint64_t id, int keys, int producers)
{
    if (id == 0)
        return;
    struct dedup_owner *owner = map_get(owners, name_of(&id));
    if (owner == NULL) {
        owner = heap_new(sizeof *owner);
        owner->id = id;
        map_put(owners, name_of(&owner->id), owner);
    }
    owner->keys += (uint64_t)(int64_t)keys;
    owner->producers += (uint64_t)(int64_t)producers;
    if (owner->keys > 0 || owner->producers > 0)
        return;
    heap_free(map_remove(owners, name_of(&id)));
    if (owners->count == 0)
        map_deinit(owners);
}
