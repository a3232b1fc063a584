/* SPDX-License-Identifier: Apache-2.0 */
/* Finding and reading stored batches: the sparse index names the segment, an iterator does the
 * rest. */
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/trace.h"
#include "storage/rocksdb/stored.h"

enum { SLICES = 8 };

/* Where a search is, copied out of the index. */
struct place {
    enum storage_class class;
    uint64_t partition;
    uint64_t start, end; /* what readers may see */
    struct slice slices[SLICES];
    size_t count;
};

enum by { BY_OFFSET, BY_TIME, BY_BYTES };

/* The slices from where the wanted batch can lie; none when the partition is unknown. */
static void place_find(struct engine *engine, struct place *place, enum by by, uint64_t number)
{
    place->count = 0;
    place->start = place->end = 0;
    pthread_mutex_lock(&engine->index.lock);
    const struct partition *partition =
        index_find_live(&engine->index, place->partition, place->class);
    if (partition != NULL) {
        size_t entry = by == BY_OFFSET ? partition_entry_by_offset(partition, number)
                       : by == BY_TIME ? partition_entry_by_time(partition, (int64_t)number)
                                       : partition_entry_by_bytes(partition, number);
        place->start = partition->start;
        place->end = partition->end > partition->start ? partition->end : partition->start;
        for (; entry < partition->count && place->count < SLICES; entry++)
            place->slices[place->count++] = partition_slice(partition, entry);
    }
    pthread_mutex_unlock(&engine->index.lock);
}

/* True once the wanted batch is reached; it stays true for all later batches. */
struct wanted {
    enum by by;
    uint64_t number;
};

static bool is_wanted(const struct wanted *wanted, const struct envelope *envelope, uint64_t size)
{
    if (wanted->by == BY_TIME)
        return envelope->append_time_ms >= (int64_t)wanted->number;
    return envelope->cumulative_bytes - size >= wanted->number;
}

/* Halves the offsets of one slice, because the keys of batches are not evenly spaced. base: the
 * first wanted batch, or the end of the slice. */
static enum status slice_search(struct engine *engine, const struct place *place,
                                const struct slice *slice, const struct wanted *wanted,
                                uint64_t *base)
{
    struct cursor cursor;
    struct stored stored;
    uint64_t low = slice->first_offset, high = slice->end_offset;
    enum status status = STATUS_OK;
    cursor_open(&cursor, engine, place->class, place->partition, slice);
    *base = slice->end_offset;
    while (low < high && status == STATUS_OK) {
        uint64_t middle = low + (high - low) / 2, found;
        status = cursor_seek(&cursor, middle);
        if (status != STATUS_OK)
            break;
        if (!cursor_at(&cursor, &found)) {
            high = middle;
            continue;
        }
        status = cursor_get(&cursor, &stored);
        if (status != STATUS_OK)
            break;
        uint64_t size =
            (uint64_t)ENVELOPE_SIZE + stored.envelope.batch_size + stored.envelope.footer_size;
        if (is_wanted(wanted, &stored.envelope, size)) {
            *base = found;
            high = middle;
        } else {
            low = found + stored.envelope.record_count;
        }
    }
    cursor_close(&cursor);
    return status;
}

/* The base offset of the first wanted batch, at least the start; the end when there is none. */
static enum status place_search(struct engine *engine, struct place *place,
                                const struct wanted *wanted, uint64_t *base)
{
    place_find(engine, place, wanted->by, wanted->number);
    enum status status = STATUS_OK;
    *base = place->start;
    if (place->count > 0)
        status = slice_search(engine, place, &place->slices[0], wanted, base);
    if (*base < place->start)
        *base = place->start;
    if (*base > place->end)
        *base = place->end;
    return status;
}

/* Reading */

static void read_add(struct storage_read *read, const struct stored *stored)
{
    /* The footer follows the batch in the stored value, and so it does in the blob. */
    size_t size = stored->batch.size, footer_size = stored->envelope.footer_size;
    struct blob *bytes = blob_copy(span_of(stored->batch.data, size + footer_size));
    bytes->size = (uint32_t)size;
    read->batches[read->count++] = (struct storage_read_batch){
        .bytes = bytes,
        .footer = span_of(bytes->bytes + size, footer_size),
        .base_offset = stored->base_offset,
        .record_count = stored->envelope.record_count,
        .append_time_ms = stored->envelope.append_time_ms,
        .cumulative_bytes = stored->envelope.cumulative_bytes,
        .principal = stored->envelope.principal,
        .flags = stored->envelope.flags,
    };
}

static void read_drop(struct storage_read *read)
{
    for (uint32_t i = 0; i < read->count; i++)
        blob_unref(read->batches[i].bytes);
    read->count = 0;
}

/* Behind a block that cannot be read: the lowest offset that a seek stands, and the batch there. */
static uint64_t next_readable(struct engine *engine, const struct place *place,
                              const struct slice *slice, uint64_t bad)
{
    uint64_t low = bad + 1, high = slice->end_offset, found = slice->end_offset;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2, base;
        struct cursor cursor;
        cursor_open(&cursor, engine, place->class, place->partition, slice);
        if (cursor_seek(&cursor, middle) != STATUS_OK) {
            low = middle + 1;
        } else {
            found = cursor_at(&cursor, &base) ? base : slice->end_offset;
            high = middle;
        }
        cursor_close(&cursor);
    }
    return found;
}

enum read_end { READ_ON, READ_FULL, READ_BROKEN };

/* One batch at the cursor. */
static enum read_end read_one(const struct cursor *cursor, struct storage_read *read,
                              const struct place *place, uint64_t *bytes)
{
    struct stored stored;
    uint64_t base;
    if (!cursor_at(cursor, &base) || base >= read->end || base >= place->end)
        return READ_FULL;
    if (cursor_get(cursor, &stored) != STATUS_OK || stored_check(&stored) != STATUS_OK)
        return READ_BROKEN;
    *bytes += stored.batch.size;
    if (read->count > 0 && *bytes > read->max_bytes)
        return READ_FULL;
    read_add(read, &stored);
    return read->count < STORAGE_READ_MAX && *bytes < read->max_bytes ? READ_ON : READ_FULL;
}

static enum read_end read_slice(struct engine *engine, struct storage_read *read,
                                const struct place *place, const struct slice *slice,
                                uint64_t offset, uint64_t *bytes, uint64_t *next_good)
{
    struct cursor cursor;
    cursor_open(&cursor, engine, place->class, place->partition, slice);
    enum status status = cursor_seek_holding(&cursor, offset);
    enum read_end end = READ_ON;
    uint64_t base = offset > slice->first_offset ? offset : slice->first_offset;
    while (status == STATUS_OK && end == READ_ON && cursor_at(&cursor, &base)) {
        end = read_one(&cursor, read, place, bytes);
        if (end == READ_ON)
            status = cursor_next(&cursor);
    }
    if (end == READ_BROKEN) {
        *next_good = slice->end_offset;
        if (cursor_next(&cursor) == STATUS_OK)
            cursor_at(&cursor, next_good);
    }
    cursor_close(&cursor);
    if (status != STATUS_OK) {
        end = READ_BROKEN;
        if (read->count == 0)
            *next_good = next_readable(engine, place, slice, base);
    }
    return end;
}

static enum status read_from(struct engine *engine, struct storage_read *read, uint64_t offset)
{
    struct place place = {.class = read->class, .partition = read->partition};
    uint64_t bytes = 0, next_good = 0;
    for (;;) {
        place_find(engine, &place, BY_OFFSET, offset);
        enum read_end end = READ_ON;
        for (size_t i = 0; i < place.count && end == READ_ON; i++) {
            end = read_slice(engine, read, &place, &place.slices[i], offset, &bytes, &next_good);
            offset = place.slices[i].end_offset;
        }
        if (end == READ_BROKEN && read->count == 0) {
            atomic_fetch_add_explicit(&engine->count_corrupt, 1, memory_order_relaxed);
            trace(TRACE_ERROR, "store: partition %llu cannot be read from offset %llu to %llu",
                  (unsigned long long)read->partition, (unsigned long long)read->offset,
                  (unsigned long long)next_good);
            read->offset = next_good;
            return STATUS_CORRUPT;
        }
        if (end != READ_ON || place.count < SLICES || offset >= read->end)
            return STATUS_OK;
    }
}

/* A trim may have come between: files vanish under an iterator's feet only below the start. */
static bool start_has_passed(struct engine *engine, const struct storage_read *read,
                             uint64_t offset)
{
    pthread_mutex_lock(&engine->index.lock);
    const struct partition *partition =
        index_find_live(&engine->index, read->partition, read->class);
    bool passed = partition != NULL && partition->start > offset;
    pthread_mutex_unlock(&engine->index.lock);
    return passed;
}

enum status find_read(struct engine *engine, struct storage_read *read)
{
    struct place place = {.class = read->class, .partition = read->partition};
    uint64_t offset = read->offset;
    enum status status = STATUS_OK;
    read->count = 0;
    atomic_fetch_add_explicit(&engine->count_reads, 1, memory_order_relaxed);
    place_find(engine, &place, BY_OFFSET, offset);
    if (offset < place.start) {
        if (!read->by_time)
            return STATUS_OUT_OF_RANGE;
        offset = place.start;
    }
    if (read->by_time) {
        struct wanted wanted = {BY_TIME, (uint64_t)read->time_ms};
        uint64_t base;
        status = place_search(engine, &place, &wanted, &base);
        if (status != STATUS_OK)
            return status;
        if (base > offset)
            offset = base;
    }
    if (offset >= place.end || offset >= read->end)
        return STATUS_OK;
    status = read_from(engine, read, offset);
    if (start_has_passed(engine, read, offset)) {
        read_drop(read);
        return STATUS_OUT_OF_RANGE;
    }
    return status;
}

/* Bounds and floors */

/* What the first kept batch begins with, when a trim ended inside a segment. */
static enum status start_look_up(struct engine *engine, struct place *place, uint64_t *bytes,
                                 int64_t *time_ms)
{
    struct stored stored;
    uint64_t base;
    enum status status = STATUS_OK;
    place_find(engine, place, BY_OFFSET, place->start);
    for (size_t i = 0; i < place->count; i++) {
        struct cursor cursor;
        cursor_open(&cursor, engine, place->class, place->partition, &place->slices[i]);
        status = cursor_seek_holding(&cursor, place->start);
        bool found = status == STATUS_OK && cursor_at(&cursor, &base);
        if (found)
            status = cursor_get(&cursor, &stored);
        cursor_close(&cursor);
        if (status != STATUS_OK)
            return status;
        if (!found)
            continue;
        *bytes = stored.envelope.cumulative_bytes - ENVELOPE_SIZE - stored.envelope.batch_size -
                 stored.envelope.footer_size;
        *time_ms = stored.envelope.append_time_ms;
        return STATUS_OK;
    }
    return STATUS_NOT_FOUND;
}

static void bounds_fill(struct storage_bounds *bounds, const struct partition *partition)
{
    bounds->start = partition->start;
    bounds->end = partition->end > partition->start ? partition->end : partition->start;
    bounds->cumulative_bytes = partition->end_bytes;
    if (bounds->start == bounds->end || partition->count == 0)
        return;
    /* When the first batch cannot be read, its segment's beginning is the nearest that is known. */
    bool known = partition->start_known;
    uint64_t first_bytes = known ? partition->start_bytes : partition->entries[0].bytes_before;
    bounds->bytes = first_bytes < partition->end_bytes ? partition->end_bytes - first_bytes : 0;
    bounds->first_time_ms = known ? partition->start_time_ms : partition->entries[0].first_time_ms;
    bounds->last_time_ms = partition->end_time_ms;
}

enum status find_bounds(struct engine *engine, struct storage_bounds *bounds)
{
    bounds->start = bounds->end = bounds->bytes = bounds->cumulative_bytes = 0;
    bounds->first_time_ms = bounds->last_time_ms = 0;
    struct place place = {.class = bounds->class, .partition = bounds->partition};
    for (bool looked_up = false;; looked_up = true) {
        pthread_mutex_lock(&engine->index.lock);
        struct partition *partition =
            index_find_live(&engine->index, bounds->partition, bounds->class);
        bool ready = true;
        if (partition != NULL) {
            place.start = partition->start;
            ready =
                looked_up || partition->start >= partition->end || partition_know_start(partition);
            if (ready)
                bounds_fill(bounds, partition);
        }
        pthread_mutex_unlock(&engine->index.lock);
        if (ready)
            return STATUS_OK;
        uint64_t start = place.start, bytes = 0;
        int64_t time_ms = 0;
        enum status status = start_look_up(engine, &place, &bytes, &time_ms);
        pthread_mutex_lock(&engine->index.lock);
        partition = index_find_live(&engine->index, bounds->partition, bounds->class);
        if (status == STATUS_OK && partition != NULL && partition->start == start) {
            partition->start_known = true;
            partition->start_bytes = bytes;
            partition->start_time_ms = time_ms;
        }
        pthread_mutex_unlock(&engine->index.lock);
    }
}

enum status find_floor(struct engine *engine, struct storage_floor *floor)
{
    struct place place = {.class = floor->class, .partition = floor->partition};
    enum status status = STATUS_OK;
    place_find(engine, &place, BY_OFFSET, 0);
    floor->floor = place.start;
    if (floor->time_ms != 0) {
        struct wanted wanted = {BY_TIME, (uint64_t)floor->time_ms};
        status = place_search(engine, &place, &wanted, &floor->floor);
    }
    if (status != STATUS_OK || floor->keep_bytes == 0)
        return status;
    uint64_t total = 0, by_bytes = 0;
    pthread_mutex_lock(&engine->index.lock);
    const struct partition *partition =
        index_find_live(&engine->index, floor->partition, floor->class);
    if (partition != NULL)
        total = partition->end_bytes;
    pthread_mutex_unlock(&engine->index.lock);
    if (total <= floor->keep_bytes)
        return STATUS_OK;
    struct wanted wanted = {BY_BYTES, total - floor->keep_bytes};
    status = place_search(engine, &place, &wanted, &by_bytes);
    if (by_bytes > floor->floor)
        floor->floor = by_bytes;
    return status;
}

/* Rows */

static enum status scan_add(rocksdb_iterator_t *iterator, struct storage_scan *scan,
                            struct pack *pack)
{
    size_t key_size = 0, stored_size = 0;
    const char *key = rocksdb_iter_key(iterator, &key_size);
    const char *stored = rocksdb_iter_value(iterator, &stored_size);
    struct span whole = span_of(key, key_size), value;
    enum status status = row_decode(whole, span_of(stored, stored_size), &value);
    if (status != STATUS_OK)
        return STATUS_CORRUPT;
    struct span callers = span_from(whole, 1);
    pack_u32(pack, (uint32_t)callers.size);
    pack_u32(pack, (uint32_t)value.size);
    pack_bytes(pack, callers);
    pack_bytes(pack, value);
    scan->count++;
    return pack->status;
}

static void bound_set(struct buf *bound, struct span key)
{
    uint8_t prefix = STATE_CALLERS;
    buf_init(bound, SIZE_MAX / 2);
    if (buf_append(bound, &prefix, 1) != STATUS_OK ||
        buf_append(bound, key.data, key.size) != STATUS_OK)
        buf_clear(bound);
}

static enum status scan_between(struct engine *engine, struct storage_scan *scan, struct span first,
                                struct span end, struct pack *pack)
{
    uint32_t limit = scan->limit == 0 ? 1000 : scan->limit;
    enum status status = STATUS_OK;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(options, 1);
    rocksdb_readoptions_set_iterate_upper_bound(options, (const char *)end.data, end.size);
    rocksdb_iterator_t *iterator =
        rocksdb_create_iterator_cf(engine->db, options, engine->families[FAMILY_STATE].handle);
    rocksdb_iter_seek(iterator, (const char *)first.data, first.size);
    for (; status == STATUS_OK && rocksdb_iter_valid(iterator); rocksdb_iter_next(iterator)) {
        if (scan->count == limit || pack->buf->size >= LIMIT_READ_BYTES) {
            scan->more = true;
            break;
        }
        status = scan_add(iterator, scan, pack);
    }
    char *problem = NULL;
    rocksdb_iter_get_error(iterator, &problem);
    if (problem != NULL) {
        trace(TRACE_ERROR, "store: scanning rows: %s", problem);
        rocksdb_free(problem);
        status = STATUS_CORRUPT;
    }
    rocksdb_iter_destroy(iterator);
    rocksdb_readoptions_destroy(options);
    return status;
}

enum status find_scan(struct engine *engine, struct storage_scan *scan)
{
    struct buf first, end, packed;
    bound_set(&first, scan->first);
    bound_set(&end, scan->end);
    buf_init(&packed, SIZE_MAX / 2);
    struct pack pack = pack_into(&packed);
    scan->count = 0;
    scan->more = false;
    scan->rows = NULL;
    enum status status = scan_between(engine, scan, buf_span(&first), buf_span(&end), &pack);
    if (status == STATUS_OK)
        scan->rows = blob_copy(buf_span(&packed));
    else
        scan->count = 0;
    buf_deinit(&first);
    buf_deinit(&end);
    buf_deinit(&packed);
    return status;
}
