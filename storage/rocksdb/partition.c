/* SPDX-License-Identifier: Apache-2.0 */
/* The partition table and the sparse index of each partition: sorted arrays, searched by halving.
 */
#include "storage/rocksdb/partition.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"

/* Segments in use */

static void segments_use(struct segments *segments, uint64_t segment)
{
    if (segments->count == 0)
        segments->base = segment;
    CHECK(segment >= segments->base);
    size_t at = (size_t)(segment - segments->base);
    if (at >= segments->capacity) {
        segments->capacity = 2 * at + 16;
        segments->uses = heap_resize(segments->uses, segments->capacity * sizeof *segments->uses);
    }
    while (segments->count <= at)
        segments->uses[segments->count++] = 0;
    segments->uses[at]++;
}

static void segments_unuse(struct segments *segments, uint64_t segment)
{
    CHECK(segments_has(segments, segment));
    segments->uses[segment - segments->base]--;
}

bool segments_has(const struct segments *segments, uint64_t segment)
{
    return segment >= segments->base && segment - segments->base < segments->count &&
           segments->uses[segment - segments->base] > 0;
}

uint64_t segments_lowest(const struct segments *segments, uint64_t none)
{
    for (size_t i = 0; i < segments->count; i++)
        if (segments->uses[i] > 0)
            return segments->base + i;
    return none;
}

bool segments_next_hole(const struct segments *segments, uint64_t limit, uint64_t *first,
                        uint64_t *end)
{
    uint64_t stop = segments->base + segments->count;
    if (stop > limit)
        stop = limit;
    uint64_t at = *end > segments->base ? *end : segments->base;
    while (at < stop && segments_has(segments, at))
        at++;
    *first = at;
    while (at < stop && !segments_has(segments, at))
        at++;
    *end = at;
    return *first < *end;
}

void segments_forget(struct segments *segments, uint64_t below)
{
    if (below <= segments->base)
        return;
    size_t gone = below - segments->base < segments->count ? (size_t)(below - segments->base)
                                                           : segments->count;
    segments->count -= gone;
    segments->base = below;
    if (segments->count > 0)
        memmove(segments->uses, segments->uses + gone, segments->count * sizeof *segments->uses);
}

/* The table */

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
    for (int i = 0; i < STORAGE_CLASSES; i++)
        heap_free(index->segments[i].uses);
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
    partition->segments = &index->segments[class];
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

/* The entries of one partition */

static void entries_reserve(struct partition *partition, size_t count)
{
    if (count <= partition->capacity)
        return;
    partition->capacity = count < 4 ? 4 : 2 * count;
    partition->entries =
        heap_resize(partition->entries, partition->capacity * sizeof *partition->entries);
}

void partition_add_entry(struct partition *partition, const struct index_entry *entry)
{
    entries_reserve(partition, partition->count + 1);
    partition->entries[partition->count++] = *entry;
    segments_use(partition->segments, entry->segment);
}

/* Replaces the entries [from, to). */
static void entries_replace(struct partition *partition, size_t from, size_t to,
                            const struct index_entry *by, size_t count)
{
    size_t behind = partition->count - to;
    for (size_t i = 0; i < count; i++)
        segments_use(partition->segments, by[i].segment);
    for (size_t i = from; i < to; i++)
        segments_unuse(partition->segments, partition->entries[i].segment);
    entries_reserve(partition, from + count + behind);
    if (behind > 0)
        memmove(partition->entries + from + count, partition->entries + to,
                behind * sizeof *partition->entries);
    if (count > 0)
        memcpy(partition->entries + from, by, count * sizeof *by);
    partition->count = from + count + behind;
}

static void drop_below_start(struct partition *partition)
{
    size_t gone = 0;
    while (gone < partition->count &&
           partition_slice(partition, gone).end_offset <= partition->start)
        gone++;
    if (gone > 0)
        entries_replace(partition, 0, gone, NULL, 0);
}

void partition_set_start(struct partition *partition, uint64_t start)
{
    if (start <= partition->start)
        return;
    partition->start = start;
    partition->start_known = false;
    drop_below_start(partition);
}

/* The first entry that begins at offset or behind it. */
static size_t entry_from(const struct partition *partition, uint64_t offset)
{
    size_t entry = partition_entry_by_offset(partition, offset);
    return entry < partition->count && partition->entries[entry].first_offset < offset ? entry + 1
                                                                                       : entry;
}

void partition_place(struct partition *partition, const struct index_row *range, uint64_t segment)
{
    if (range->end_offset <= partition->start)
        return;
    size_t from = entry_from(partition, range->first_offset);
    size_t to = entry_from(partition, range->end_offset), count = 0;
    struct index_entry by[2];
    struct index_entry placed = {.segment = segment,
                                 .first_offset = range->first_offset,
                                 .first_time_ms = range->first_time_ms,
                                 .bytes_before = range->bytes_before,
                                 .exact = range->bytes_after > range->bytes_before};
    if (from == 0 || partition->entries[from - 1].segment != segment)
        by[count++] = placed;
    if (to > 0 && partition_slice(partition, to - 1).end_offset > range->end_offset) {
        struct index_entry rest = partition->entries[to - 1];
        rest.first_offset = range->end_offset;
        rest.first_time_ms = range->last_time_ms;
        rest.bytes_before = range->bytes_after;
        rest.exact = false;
        if (rest.segment != segment)
            by[count++] = rest;
    }
    entries_replace(partition, from, to, by, count);
    drop_below_start(partition);
}

bool partition_know_start(struct partition *partition)
{
    if (!partition->start_known && partition->count > 0 && partition->entries[0].exact &&
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
        .bytes_before = at->bytes_before,
        .bytes = (last ? partition->bytes : at[1].bytes_before) - at->bytes_before,
    };
}

uint64_t partition_live_bytes(const struct partition *partition, size_t entry)
{
    struct slice slice = partition_slice(partition, entry);
    uint64_t start = partition->start;
    if (start <= slice.first_offset)
        return slice.bytes;
    if (start >= slice.end_offset)
        return 0;
    if (partition->start_known && partition->start_bytes >= slice.bytes_before)
        return slice.bytes_before + slice.bytes - partition->start_bytes;
    double kept =
        (double)(slice.end_offset - start) / (double)(slice.end_offset - slice.first_offset);
    return (uint64_t)((double)slice.bytes * kept);
}
