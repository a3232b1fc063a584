/* SPDX-License-Identifier: Apache-2.0 */
/* The partition table and the sparse index of each partition: sorted arrays, searched by halving.
 */
#include "storage/rocksdb/partition.h"

#include "core/base/heap.h"
#include "core/base/pack.h"

void index_init(struct index *index)
{
    pthread_mutex_init(&index->lock, NULL);
    map_init(&index->partitions);
}

void index_deinit(struct index *index)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&index->partitions, &i)) != NULL;) {
        struct partition *partition = slot->value;
        heap_free(partition->entries);
        heap_free(partition);
    }
    map_deinit(&index->partitions);
    pthread_mutex_destroy(&index->lock);
}

static void key_fill(uint8_t key[PARTITION_KEY_SIZE], uint64_t id, enum storage_class class)
{
    key[0] = (uint8_t) class;
    store_u64(key + 1, id);
}

struct partition *index_find(const struct index *index, uint64_t id, enum storage_class class)
{
    uint8_t key[PARTITION_KEY_SIZE];
    key_fill(key, id, class);
    return map_get(&index->partitions, span_of(key, sizeof key));
}

struct partition *index_find_live(const struct index *index, uint64_t id, enum storage_class class)
{
    struct partition *partition = index_find(index, id, class);
    return partition == NULL || partition->removed ? NULL : partition;
}

struct partition *index_make(struct index *index, uint64_t id, enum storage_class class)
{
    struct partition *partition = index_find(index, id, class);
    if (partition != NULL)
        return partition;
    partition = heap_new(sizeof *partition);
    partition->id = id;
    partition->class = class;
    key_fill(partition->key, id, class);
    pthread_mutex_lock(&index->lock);
    map_put(&index->partitions, span_of(partition->key, PARTITION_KEY_SIZE), partition);
    pthread_mutex_unlock(&index->lock);
    return partition;
}

void index_forget(struct index *index, struct partition *partition)
{
    pthread_mutex_lock(&index->lock);
    map_remove(&index->partitions, span_of(partition->key, PARTITION_KEY_SIZE));
    pthread_mutex_unlock(&index->lock);
    heap_free(partition->entries);
    heap_free(partition);
}

void partition_add_entry(struct partition *partition, const struct index_entry *entry)
{
    if (partition->count == partition->capacity) {
        partition->capacity = partition->capacity == 0 ? 4 : partition->capacity * 2;
        partition->entries =
            heap_resize(partition->entries, partition->capacity * sizeof *partition->entries);
    }
    partition->entries[partition->count++] = *entry;
}

void partition_set_start(struct partition *partition, uint64_t start)
{
    if (start <= partition->start)
        return;
    partition->start = start;
    partition->start_known = false;
    size_t gone = 0;
    while (gone < partition->count && partition_slice(partition, gone).end_offset <= start)
        gone++;
    if (gone == 0)
        return;
    partition->count -= gone;
    memmove(partition->entries, partition->entries + gone,
            partition->count * sizeof *partition->entries);
}

bool partition_know_start(struct partition *partition)
{
    if (!partition->start_known && partition->count > 0 &&
        partition->entries[0].first_offset >= partition->start) {
        partition->start_known = true;
        partition->start_bytes = partition->entries[0].bytes_before;
        partition->start_time_ms = partition->entries[0].first_time_ms;
    }
    return partition->start_known;
}

size_t partition_entry_by_offset(const struct partition *partition, uint64_t offset)
{
    size_t low = 0, high = partition->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (partition->entries[middle].first_offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low == 0 ? 0 : low - 1;
}

size_t partition_entry_by_time(const struct partition *partition, int64_t time_ms)
{
    size_t low = 0, high = partition->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (partition->entries[middle].first_time_ms < time_ms)
            low = middle + 1;
        else
            high = middle;
    }
    return low == 0 ? 0 : low - 1;
}

size_t partition_entry_by_bytes(const struct partition *partition, uint64_t bytes_before)
{
    size_t low = 0, high = partition->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (partition->entries[middle].bytes_before < bytes_before)
            low = middle + 1;
        else
            high = middle;
    }
    return low == 0 ? 0 : low - 1;
}

struct slice partition_slice(const struct partition *partition, size_t entry)
{
    const struct index_entry *at = &partition->entries[entry];
    bool last = entry + 1 == partition->count;
    return (struct slice){
        .segment = at->segment,
        .first_offset = at->first_offset,
        .end_offset = last ? partition->next_offset : at[1].first_offset,
        .bytes = (last ? partition->bytes : at[1].bytes_before) - at->bytes_before,
    };
}
