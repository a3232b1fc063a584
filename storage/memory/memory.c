/* SPDX-License-Identifier: Apache-2.0 */
/* The memory engine: one lock, plain arrays, every operation done inside its call and completed by
 * mail. It is the oracle that other engines are compared with, so it prefers the obvious to the
 * fast. */
#include "storage/memory/memory.h"

#include <pthread.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/map.h"
#include "core/base/pack.h"
#include "storage/envelope.h"
#include "storage/units.h"

enum { PARTITION_KEY = 9 };

struct stored_batch {
    struct blob *bytes;
    struct span footer; /* behind the bytes in the same blob */
    uint64_t base_offset;
    uint64_t cumulative_bytes; /* this batch included */
    uint64_t size;             /* what an engine on disk would store: envelope, batch, footer */
    uint64_t principal;
    int64_t append_time_ms;
    uint32_t record_count;
    uint8_t flags;
};

struct partition {
    uint8_t key[PARTITION_KEY];
    bool removed;
    uint64_t start, end, cumulative_bytes;
    int64_t last_time_ms;
    struct stored_batch *batches; /* in offset order */
    size_t count, capacity;
};

struct row {
    struct blob *key, *value;
};

struct memory {
    struct storage storage;
    pthread_mutex_t lock;
    struct map partitions;
    struct row *rows; /* in key order */
    size_t row_count, row_capacity;
    struct units units;
    uint64_t commit;
    bool failed;
    enum status (*sync_hook)(void *context);
    void *sync_context;
};

static struct memory *memory_of(struct storage *storage)
{
    CHECK(storage->ops == &memory_storage_ops);
    return container_of(storage, struct memory, storage);
}

/* Partitions */

static void partition_key(uint8_t key[PARTITION_KEY], uint64_t id, enum storage_class class)
{
    key[0] = (uint8_t) class;
    store_u64(key + 1, id);
}

static struct partition *partition_find(const struct memory *memory, uint64_t id,
                                        enum storage_class class)
{
    uint8_t key[PARTITION_KEY];
    partition_key(key, id, class);
    return map_get(&memory->partitions, span_of(key, sizeof key));
}

static struct partition *partition_make(struct memory *memory, uint64_t id,
                                        enum storage_class class)
{
    struct partition *partition = partition_find(memory, id, class);
    if (partition != NULL)
        return partition;
    partition = heap_new(sizeof *partition);
    partition_key(partition->key, id, class);
    map_put(&memory->partitions, span_of(partition->key, PARTITION_KEY), partition);
    return partition;
}

/* Drops whole batches below the start. */
static void partition_release(struct partition *partition, uint64_t start)
{
    size_t gone = 0;
    while (gone < partition->count &&
           partition->batches[gone].base_offset + partition->batches[gone].record_count <= start)
        blob_unref(partition->batches[gone++].bytes);
    if (gone == 0)
        return;
    partition->count -= gone;
    memmove(partition->batches, partition->batches + gone,
            partition->count * sizeof *partition->batches);
}

/* The first batch that ends after offset. */
static size_t partition_search(const struct partition *partition, uint64_t offset)
{
    size_t low = 0, high = partition->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct stored_batch *batch = &partition->batches[middle];
        if (batch->base_offset + batch->record_count > offset)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* A copy of both, the footer behind the end of the bytes. */
static struct blob *copy_with_footer(const struct storage_batch *batch, struct span *footer)
{
    uint32_t size = batch->bytes->size;
    struct blob *bytes = blob_new((size_t)size + batch->footer.size);
    memcpy(bytes->bytes, batch->bytes->bytes, size);
    if (batch->footer.size != 0)
        memcpy(bytes->bytes + size, batch->footer.data, batch->footer.size);
    *footer = span_of(bytes->bytes + size, batch->footer.size);
    bytes->size = size;
    return bytes;
}

static void partition_append(struct memory *memory, struct storage_batch *batch, int64_t now_ms)
{
    struct partition *partition = partition_make(memory, batch->partition, batch->class);
    if (partition->count == partition->capacity) {
        partition->capacity = partition->capacity == 0 ? 8 : partition->capacity * 2;
        partition->batches =
            heap_resize(partition->batches, partition->capacity * sizeof *partition->batches);
    }
    batch->base_offset = partition->end;
    batch->append_time_ms = now_ms > partition->last_time_ms ? now_ms : partition->last_time_ms;
    store_u64(batch->bytes->bytes, batch->base_offset);
    store_u32(batch->bytes->bytes + 12, 0);
    uint64_t size = (uint64_t)ENVELOPE_SIZE + batch->bytes->size + batch->footer.size;
    partition->end += batch->record_count;
    partition->cumulative_bytes += size;
    partition->last_time_ms = batch->append_time_ms;
    struct span footer;
    struct blob *bytes = copy_with_footer(batch, &footer);
    partition->batches[partition->count++] = (struct stored_batch){
        .bytes = bytes,
        .footer = footer,
        .base_offset = batch->base_offset,
        .cumulative_bytes = partition->cumulative_bytes,
        .size = size,
        .principal = batch->principal,
        .append_time_ms = batch->append_time_ms,
        .record_count = batch->record_count,
        .flags = batch->flags,
    };
}

/* Rows */

static int compare_keys(struct span a, struct span b)
{
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common == 0 ? 0 : memcmp(a.data, b.data, common);
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

/* The first row with a key not below this one. */
static size_t row_search(const struct memory *memory, struct span key)
{
    size_t low = 0, high = memory->row_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare_keys(blob_span(memory->rows[middle].key), key) >= 0)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void rows_remove(struct memory *memory, size_t first, size_t end)
{
    if (first == end)
        return;
    for (size_t i = first; i < end; i++) {
        blob_unref(memory->rows[i].key);
        blob_unref(memory->rows[i].value);
    }
    memmove(memory->rows + first, memory->rows + end,
            (memory->row_count - end) * sizeof *memory->rows);
    memory->row_count -= end - first;
}

static void row_put(struct memory *memory, const struct storage_append *append,
                    const struct storage_row *row)
{
    struct blob *value = blob_copy(row->value);
    if (row->offset_at >= 0) {
        CHECK((size_t)row->offset_at + 8 <= value->size && row->patch_batch < append->batch_count);
        store_u64(value->bytes + row->offset_at,
                  append->batches[row->patch_batch].base_offset + row->patch_record);
    }
    struct blob *key = blob_copy(row->key);
    if (row->commit_in_key > 0) {
        CHECK(row->commit_in_key + 8 <= key->size);
        store_u64(key->bytes + row->commit_in_key, append->commit);
    }
    if (row->commit_in_value > 0) {
        CHECK(row->commit_in_value + 8 <= value->size);
        store_u64(value->bytes + row->commit_in_value, append->commit);
    }
    size_t at = row_search(memory, blob_span(key));
    if (at < memory->row_count && span_equal(blob_span(memory->rows[at].key), blob_span(key))) {
        blob_unref(key);
        blob_unref(memory->rows[at].value);
        memory->rows[at].value = value;
        return;
    }
    if (memory->row_count == memory->row_capacity) {
        memory->row_capacity = memory->row_capacity == 0 ? 64 : memory->row_capacity * 2;
        memory->rows = heap_resize(memory->rows, memory->row_capacity * sizeof *memory->rows);
    }
    memmove(memory->rows + at + 1, memory->rows + at,
            (memory->row_count - at) * sizeof *memory->rows);
    memory->rows[at] = (struct row){.key = key, .value = value};
    memory->row_count++;
}

static void row_apply(struct memory *memory, struct storage_append *append,
                      const struct storage_row *row)
{
    if (row->change == STORAGE_PUT) {
        row_put(memory, append, row);
        return;
    }
    size_t first = row_search(memory, row->key), end = first;
    if (row->change == STORAGE_DELETE_RANGE)
        end = row_search(memory, row->value);
    else if (first < memory->row_count && span_equal(blob_span(memory->rows[first].key), row->key))
        end = first + 1;
    if (row->change == STORAGE_DELETE_WHEN &&
        (end == first || !span_begins(blob_span(memory->rows[first].value), row->value))) {
        append->kept++;
        return;
    }
    if (end > first)
        rows_remove(memory, first, end);
}

/* Appends */

static void append_apply(struct memory *memory, struct storage_append *append)
{
    int64_t now_ms = clock_wall_ms();
    append->commit = ++memory->commit;
    append->kept = 0;
    for (uint32_t i = 0; i < append->batch_count; i++)
        partition_append(memory, &append->batches[i], now_ms);
    for (uint32_t i = 0; i < append->row_count; i++)
        row_apply(memory, append, &append->rows[i]);
}

static bool append_hits_removed(const struct memory *memory, const struct storage_append *append)
{
    for (uint32_t i = 0; i < append->batch_count; i++) {
        const struct storage_batch *batch = &append->batches[i];
        const struct partition *partition = partition_find(memory, batch->partition, batch->class);
        if (partition != NULL && partition->removed)
            return true;
    }
    return false;
}

static void complete_chain(struct storage_append *chain, enum status status)
{
    while (chain != NULL) {
        struct storage_append *next = chain->next;
        request_complete(&chain->request, status);
        chain = next;
    }
}

/* The hook stands for the disk's sync: what it refuses was never written, and nothing is any more.
 */
static enum status sync_now(struct memory *memory)
{
    if (!memory->failed && memory->sync_hook != NULL &&
        memory->sync_hook(memory->sync_context) != STATUS_OK)
        memory->failed = true;
    return memory->failed ? STATUS_STORAGE_FAILED : STATUS_OK;
}

static void chain_commit(struct memory *memory, struct storage_append *chain)
{
    enum status status = sync_now(memory);
    for (struct storage_append *part = chain; part != NULL && status == STATUS_OK;
         part = part->next)
        status = part->unit == 0 ? STATUS_OK : part->refused;
    for (struct storage_append *part = chain; part != NULL && status == STATUS_OK;
         part = part->next)
        if (append_hits_removed(memory, part))
            status = STATUS_NOT_FOUND;
    for (struct storage_append *part = chain; part != NULL && status == STATUS_OK;
         part = part->next)
        append_apply(memory, part);
    complete_chain(chain, status);
    if (memory->failed)
        complete_chain(units_take(&memory->units), STATUS_STORAGE_FAILED);
}

static void memory_append(struct storage *storage, struct storage_append *append)
{
    struct memory *memory = memory_of(storage);
    pthread_mutex_lock(&memory->lock);
    append->next = NULL;
    struct storage_append *chain = append;
    if (append->unit != 0 && !memory->failed)
        chain = units_add(&memory->units, append);
    if (chain != NULL)
        chain_commit(memory, chain);
    pthread_mutex_unlock(&memory->lock);
}

static void memory_trim(struct storage *storage, struct storage_trim *trim)
{
    struct memory *memory = memory_of(storage);
    pthread_mutex_lock(&memory->lock);
    enum status status = sync_now(memory);
    struct partition *partition = partition_find(memory, trim->partition, trim->class);
    if (status == STATUS_OK && partition != NULL && !partition->removed) {
        uint64_t start = trim->new_start;
        if (trim->remove || start > partition->end)
            start = partition->end;
        if (start > partition->start)
            partition->start = start;
        partition->removed = trim->remove;
        partition_release(partition, partition->start);
    }
    request_complete(&trim->request, status);
    pthread_mutex_unlock(&memory->lock);
}

/* Reads */

static struct partition *partition_readable(const struct memory *memory, uint64_t id,
                                            enum storage_class class)
{
    struct partition *partition = partition_find(memory, id, class);
    return partition == NULL || partition->removed ? NULL : partition;
}

static void read_fill(const struct partition *partition, size_t at, struct storage_read *read)
{
    uint64_t bytes = 0;
    for (; at < partition->count && read->count < STORAGE_READ_MAX; at++) {
        const struct stored_batch *batch = &partition->batches[at];
        bytes += batch->bytes->size;
        if (batch->base_offset >= read->end || (read->count > 0 && bytes > read->max_bytes))
            return;
        read->batches[read->count++] = (struct storage_read_batch){
            .bytes = blob_ref(batch->bytes),
            .footer = batch->footer,
            .base_offset = batch->base_offset,
            .record_count = batch->record_count,
            .append_time_ms = batch->append_time_ms,
            .cumulative_bytes = batch->cumulative_bytes,
            .principal = batch->principal,
            .flags = batch->flags,
        };
    }
}

static enum status read_now(const struct memory *memory, struct storage_read *read)
{
    read->count = 0;
    const struct partition *partition = partition_readable(memory, read->partition, read->class);
    if (partition == NULL)
        return STATUS_OK;
    uint64_t offset = read->offset;
    if (offset < partition->start) {
        if (!read->by_time)
            return STATUS_OUT_OF_RANGE;
        offset = partition->start;
    }
    if (offset >= read->end)
        return STATUS_OK;
    size_t at = partition_search(partition, offset);
    while (read->by_time && at < partition->count &&
           partition->batches[at].append_time_ms < read->time_ms)
        at++;
    read_fill(partition, at, read);
    return STATUS_OK;
}

static void memory_read(struct storage *storage, struct storage_read *read)
{
    struct memory *memory = memory_of(storage);
    pthread_mutex_lock(&memory->lock);
    request_complete(&read->request, read_now(memory, read));
    pthread_mutex_unlock(&memory->lock);
}

static void memory_floor(struct storage *storage, struct storage_floor *floor)
{
    struct memory *memory = memory_of(storage);
    pthread_mutex_lock(&memory->lock);
    const struct partition *partition = partition_readable(memory, floor->partition, floor->class);
    floor->floor = partition == NULL ? 0 : partition->start;
    for (size_t i = 0; partition != NULL && i < partition->count; i++) {
        const struct stored_batch *batch = &partition->batches[i];
        uint64_t left = partition->cumulative_bytes - (batch->cumulative_bytes - batch->size);
        bool old = floor->time_ms != 0 && batch->append_time_ms < floor->time_ms;
        if (!old && (floor->keep_bytes == 0 || left <= floor->keep_bytes))
            break;
        floor->floor = i + 1 < partition->count ? batch[1].base_offset : partition->end;
    }
    request_complete(&floor->request, STATUS_OK);
    pthread_mutex_unlock(&memory->lock);
}

static void memory_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    struct memory *memory = memory_of(storage);
    pthread_mutex_lock(&memory->lock);
    bounds->start = bounds->end = bounds->bytes = bounds->cumulative_bytes = 0;
    bounds->first_time_ms = bounds->last_time_ms = 0;
    const struct partition *partition =
        partition_readable(memory, bounds->partition, bounds->class);
    if (partition != NULL) {
        bounds->start = partition->start;
        bounds->end = partition->end;
        bounds->cumulative_bytes = partition->cumulative_bytes;
    }
    if (partition != NULL && partition->count > 0) {
        const struct stored_batch *first = &partition->batches[0];
        bounds->bytes = partition->cumulative_bytes - (first->cumulative_bytes - first->size);
        bounds->first_time_ms = first->append_time_ms;
        bounds->last_time_ms = partition->last_time_ms;
    }
    request_complete(&bounds->request, STATUS_OK);
    pthread_mutex_unlock(&memory->lock);
}

static enum status scan_now(const struct memory *memory, struct storage_scan *scan)
{
    uint32_t limit = scan->limit == 0 ? 1000 : scan->limit;
    struct buf packed;
    buf_init(&packed, SIZE_MAX / 2);
    struct pack pack = pack_into(&packed);
    size_t at = row_search(memory, scan->first), end = row_search(memory, scan->end);
    scan->count = 0;
    for (; at < end && scan->count < limit && packed.size < LIMIT_READ_BYTES; at++) {
        const struct row *row = &memory->rows[at];
        pack_u32(&pack, row->key->size);
        pack_u32(&pack, row->value->size);
        pack_bytes(&pack, blob_span(row->key));
        pack_bytes(&pack, blob_span(row->value));
        scan->count++;
    }
    scan->more = at < end;
    scan->rows = pack.status == STATUS_OK ? blob_copy(buf_span(&packed)) : NULL;
    buf_deinit(&packed);
    return pack.status;
}

static void memory_scan(struct storage *storage, struct storage_scan *scan)
{
    struct memory *memory = memory_of(storage);
    pthread_mutex_lock(&memory->lock);
    request_complete(&scan->request, scan_now(memory, scan));
    pthread_mutex_unlock(&memory->lock);
}

/* Life */

static enum status memory_open(const struct storage_options *options, struct storage **storage,
                               struct err *err)
{
    (void)err;
    hash_init();
    struct memory *memory = heap_new(sizeof *memory);
    memory->storage.ops = &memory_storage_ops;
    memory->sync_hook = options->sync_hook;
    memory->sync_context = options->sync_context;
    pthread_mutex_init(&memory->lock, NULL);
    units_init(&memory->units);
    map_init(&memory->partitions);
    *storage = &memory->storage;
    return STATUS_OK;
}

static void memory_close(struct storage *storage)
{
    struct memory *memory = memory_of(storage);
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&memory->partitions, &i)) != NULL;) {
        struct partition *partition = slot->value;
        for (size_t j = 0; j < partition->count; j++)
            blob_unref(partition->batches[j].bytes);
        heap_free(partition->batches);
        heap_free(partition);
    }
    map_deinit(&memory->partitions);
    rows_remove(memory, 0, memory->row_count);
    heap_free(memory->rows);
    units_deinit(&memory->units);
    pthread_mutex_destroy(&memory->lock);
    heap_free(memory);
}

static void memory_metrics(struct storage *storage,
                           void (*emit)(void *context, const char *name, double value),
                           void *context)
{
    struct memory *memory = memory_of(storage);
    pthread_mutex_lock(&memory->lock);
    double commits = (double)memory->commit, partitions = (double)memory->partitions.count;
    double rows = (double)memory->row_count;
    pthread_mutex_unlock(&memory->lock);
    emit(context, "storage_commits_total", commits);
    emit(context, "storage_partitions", partitions);
    emit(context, "storage_rows", rows);
}

static enum status memory_health(struct storage *storage)
{
    struct memory *memory = memory_of(storage);
    pthread_mutex_lock(&memory->lock);
    bool failed = memory->failed;
    pthread_mutex_unlock(&memory->lock);
    return failed ? STATUS_STORAGE_FAILED : STATUS_OK;
}

const struct storage_ops memory_storage_ops = {
    .name = "memory",
    .can = STORAGE_ATOMIC_ROWS | STORAGE_UNITS,
    .open = memory_open,
    .append = memory_append,
    .read = memory_read,
    .scan = memory_scan,
    .trim = memory_trim,
    .floor = memory_floor,
    .bounds = memory_bounds,
    .close = memory_close,
    .metrics = memory_metrics,
    .health = memory_health,
};
