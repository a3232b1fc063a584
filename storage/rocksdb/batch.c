/* SPDX-License-Identifier: Apache-2.0 */
/* Building one WriteBatch: offsets, envelopes, rows, reservations, and the commit row that closes
 * it. Writer thread only. */
#include "core/base/check.h"
#include "core/base/pack.h"
#include "storage/envelope.h"
#include "storage/rocksdb/engine.h"

enum { BATCH_HEADER = 61, LEADER_EPOCH_AT = 12 };

static rocksdb_column_family_handle_t *state_of(const struct engine *engine)
{
    return engine->families[FAMILY_STATE].handle;
}

size_t batch_bytes(const struct engine *engine)
{
    size_t bytes = 0;
    for (int i = 0; i < FAMILIES; i++)
        bytes += engine->batch_families[i];
    return bytes;
}

void batch_put_row(struct engine *engine, struct span key, struct span stored)
{
    rocksdb_writebatch_put_cf(engine->batch, state_of(engine), (const char *)key.data, key.size,
                              (const char *)stored.data, stored.size);
    engine->batch_families[FAMILY_STATE] += key.size + stored.size;
}

void batch_delete_row(struct engine *engine, struct span key)
{
    rocksdb_writebatch_delete_cf(engine->batch, state_of(engine), (const char *)key.data, key.size);
    engine->batch_families[FAMILY_STATE] += key.size;
}

void batch_delete_own_range(struct engine *engine, struct span first, struct span end)
{
    rocksdb_writebatch_delete_range_cf(engine->batch, state_of(engine), (const char *)first.data,
                                       first.size, (const char *)end.data, end.size);
    engine->batch_families[FAMILY_STATE] += first.size + end.size;
}

void batch_put_partition_row(struct engine *engine, const struct partition *partition)
{
    struct own_key key = partition_row_key(partition->class, partition->id);
    struct partition_row row = {
        .start = partition->start,
        .end = partition->next_offset,
        .bytes = partition->bytes,
        .last_time_ms = partition->last_time_ms,
        .reserved_end = partition->reserved_end,
        .removed = partition->removed,
        .last_segment = partition->last_segment,
        .ceiling = partition->ceiling,
    };
    CHECK(partition_row_encode(own_key_span(&key), &row, &engine->scratch) == STATUS_OK);
    batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
}

/* Batches */

/* Offsets of an interval partition are answered unsynced, so a power loss may take them back. They
 * lie inside a reservation that is synced, and after an unclean stop the partition goes on behind
 * it. True: the synced part does not reach far enough yet, so this batch waits for the sync of the
 * new one. */
static bool reserve(struct engine *engine, struct partition *partition)
{
    uint64_t synced = atomic_load_explicit(&engine->synced_commit, memory_order_acquire);
    if (partition->reserved_commit <= synced)
        partition->reserved_before = partition->reserved_end;
    if (partition->next_offset + RESERVE_OFFSETS / 2 > partition->reserved_end) {
        partition->reserved_end = partition->next_offset + RESERVE_OFFSETS;
        partition->reserved_commit = engine->commit;
        batch_put_partition_row(engine, partition);
    }
    return partition->next_offset > partition->reserved_before;
}

/* In the same write as the batch that needs it, so it costs no sync. Should the batches themselves
 * become unreadable, the partition can still go on where no offset was given out. */
static void raise_ceiling(struct engine *engine, struct partition *partition)
{
    partition->ceiling = partition->next_offset + RESERVE_OFFSETS;
    batch_put_partition_row(engine, partition);
}

static void take_place(struct engine *engine, struct partition *partition,
                       struct storage_batch *batch, uint64_t size, int64_t wall_ms)
{
    uint64_t segment = engine->families[partition->class].segment;
    pthread_mutex_lock(&engine->index.lock);
    batch->base_offset = partition->next_offset;
    batch->append_time_ms = wall_ms > partition->last_time_ms ? wall_ms : partition->last_time_ms;
    if (partition->count == 0 || partition->entries[partition->count - 1].segment != segment) {
        struct index_entry entry = {segment, batch->base_offset, batch->append_time_ms,
                                    partition->bytes, .exact = true};
        partition_add_entry(partition, &entry);
    }
    partition->next_offset += batch->record_count;
    partition->bytes += size;
    partition->last_time_ms = batch->append_time_ms;
    pthread_mutex_unlock(&engine->index.lock);
}

static void put_batch(struct engine *engine, const struct partition *partition,
                      const struct storage_batch *batch)
{
    struct envelope envelope = {
        .flags = batch->flags,
        .leader_epoch = engine->epoch,
        .append_time_ms = batch->append_time_ms,
        .cumulative_bytes = partition->bytes,
        .principal = batch->principal,
        .record_count = batch->record_count,
        .batch_size = batch->bytes->size,
        .footer_size = (uint32_t)batch->footer.size,
    };
    uint8_t head[ENVELOPE_SIZE];
    envelope_encode(&envelope, batch->footer, head);
    struct family *family = &engine->families[partition->class];
    struct log_key key = log_key_of(family->segment, partition->id, batch->base_offset);
    const char *keys[] = {(const char *)key.bytes};
    const char *values[] = {(const char *)head, (const char *)batch->bytes->bytes,
                            (const char *)batch->footer.data};
    size_t key_sizes[] = {sizeof key.bytes};
    size_t value_sizes[] = {sizeof head, batch->bytes->size, batch->footer.size};
    int value_count = batch->footer.size > 0 ? 3 : 2;
    rocksdb_writebatch_putv_cf(engine->batch, family->handle, 1, keys, key_sizes, value_count,
                               values, value_sizes);
    engine->batch_families[partition->class] +=
        LOG_KEY_SIZE + sizeof head + batch->bytes->size + batch->footer.size;
}

static bool add_batch(struct engine *engine, struct storage_batch *batch, int64_t wall_ms)
{
    CHECK(batch->bytes->size >= BATCH_HEADER && batch->record_count > 0);
    CHECK(batch->class < STORAGE_CLASSES);
    struct partition *partition = index_make(&engine->index, batch->partition, batch->class);
    uint64_t size = (uint64_t)ENVELOPE_SIZE + batch->bytes->size + batch->footer.size;
    take_place(engine, partition, batch, size, wall_ms);
    store_u64(batch->bytes->bytes, batch->base_offset);
    store_u32(batch->bytes->bytes + LEADER_EPOCH_AT, engine->epoch);
    put_batch(engine, partition, batch);
    if (partition->next_offset > partition->ceiling)
        raise_ceiling(engine, partition);
    bool sync = batch->durability == DURABLE_SYNC;
    if (!sync)
        sync = reserve(engine, partition);
    /* Behind one that waits for the syncer, this one waits too: a partition completes in order. */
    return sync || partition->last_ticket >
                       atomic_load_explicit(&engine->done_ticket, memory_order_acquire);
}

/* Rows */

static void callers_key(struct engine *engine, struct span key)
{
    uint8_t prefix = STATE_CALLERS;
    buf_clear(&engine->key_scratch);
    CHECK(buf_append(&engine->key_scratch, &prefix, 1) == STATUS_OK);
    CHECK(buf_append(&engine->key_scratch, key.data, key.size) == STATUS_OK);
}

/* The value with offset and commit sequence in place, in to. */
static void patch_value(const struct storage_append *append, const struct storage_row *row,
                        struct buf *to)
{
    struct span value = row->value;
    size_t at = row->offset_at >= 0 ? (size_t)row->offset_at : 0;
    CHECK(buf_append(to, value.data, value.size) == STATUS_OK);
    if (row->offset_at >= 0) {
        CHECK(at + 8 <= value.size && row->patch_batch < append->batch_count);
        store_u64(to->data + at, append->batches[row->patch_batch].base_offset + row->patch_record);
    }
    if (row->commit_in_value > 0) {
        CHECK(row->commit_in_value + 8 <= value.size);
        store_u64(to->data + row->commit_in_value, append->commit);
    }
}

/* Encodes the row: the value is the caller's, so a patched one is a copy. */
static void put_row(struct engine *engine, const struct storage_append *append,
                    const struct storage_row *row)
{
    struct buf *scratch = &engine->scratch;
    struct span value = row->value;
    buf_clear(scratch);
    if (row->commit_in_key > 0) {
        CHECK(row->commit_in_key + 8 <= row->key.size);
        store_u64(engine->key_scratch.data + 1 + row->commit_in_key, append->commit);
    }
    if (row->offset_at >= 0 || row->commit_in_value > 0) {
        patch_value(append, row, scratch);
        CHECK(buf_reserve(scratch, value.size + ROW_OVERHEAD) == STATUS_OK);
        value = buf_span(scratch);
    }
    size_t before = scratch->size;
    CHECK(row_encode(buf_span(&engine->key_scratch), value, scratch) == STATUS_OK);
    batch_put_row(engine, buf_span(&engine->key_scratch), span_from(buf_span(scratch), before));
}

static bool key_is_below(struct span a, struct span b)
{
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common == 0 ? 0 : memcmp(a.data, b.data, common);
    return order < 0 || (order == 0 && a.size < b.size);
}

static void delete_range(struct engine *engine, const struct storage_row *row)
{
    if (!key_is_below(row->key, row->value))
        return; /* RocksDB takes a range that ends before it begins for a failed write */
    struct buf *end = &engine->scratch;
    uint8_t prefix = STATE_CALLERS;
    buf_clear(end);
    CHECK(buf_append(end, &prefix, 1) == STATUS_OK);
    CHECK(buf_append(end, row->value.data, row->value.size) == STATUS_OK);
    batch_delete_own_range(engine, buf_span(&engine->key_scratch), buf_span(end));
}

/* The writer has written all that came earlier. What cannot be read stays. */
static bool begins_with(struct engine *engine, struct span key, struct span value)
{
    char *problem = NULL;
    size_t size = 0;
    rocksdb_readoptions_t *options = rocksdb_readoptions_create();
    rocksdb_pinnableslice_t *slice = rocksdb_get_pinned_cf(
        engine->db, options, state_of(engine), (const char *)key.data, key.size, &problem);
    const char *stored = slice == NULL ? NULL : rocksdb_pinnableslice_value(slice, &size);
    struct span found;
    bool begins = stored != NULL && row_decode(key, span_of(stored, size), &found) == STATUS_OK &&
                  span_begins(found, value);
    rocksdb_pinnableslice_destroy(slice);
    rocksdb_readoptions_destroy(options);
    rocksdb_free(problem);
    return begins;
}

static void add_row(struct engine *engine, struct storage_append *append,
                    const struct storage_row *row)
{
    callers_key(engine, row->key);
    switch (row->change) {
    case STORAGE_PUT:
        put_row(engine, append, row);
        break;
    case STORAGE_DELETE:
        batch_delete_row(engine, buf_span(&engine->key_scratch));
        break;
    case STORAGE_DELETE_RANGE:
        delete_range(engine, row);
        break;
    case STORAGE_DELETE_WHEN:
        if (begins_with(engine, buf_span(&engine->key_scratch), row->value))
            batch_delete_row(engine, buf_span(&engine->key_scratch));
        else
            append->kept++;
        break;
    }
}

bool batch_add_append(struct engine *engine, struct storage_append *append, int64_t wall_ms)
{
    bool sync = append->row_count > 0 && append->durability == DURABLE_SYNC;
    append->commit = ++engine->commit;
    append->kept = 0;
    for (uint32_t i = 0; i < append->batch_count; i++)
        sync |= add_batch(engine, &append->batches[i], wall_ms);
    for (uint32_t i = 0; i < append->row_count; i++)
        add_row(engine, append, &append->rows[i]);
    return sync;
}

void batch_add_trim(struct engine *engine, struct storage_trim *trim)
{
    struct partition *partition = index_find_live(&engine->index, trim->partition, trim->class);
    trim->append.commit = ++engine->commit;
    if (partition == NULL)
        return;
    uint64_t start = trim->new_start;
    if (trim->remove || start > partition->next_offset)
        start = partition->next_offset;
    pthread_mutex_lock(&engine->index.lock);
    partition_set_start(partition, start);
    partition->removed = trim->remove;
    partition->last_segment = engine->families[partition->class].segment;
    engine->index.commit = trim->append.commit;
    pthread_mutex_unlock(&engine->index.lock);
    batch_put_partition_row(engine, partition);
}

/* Whether the range still lies where it was read. */
static bool is_in_place(const struct engine *engine, const struct move *move,
                        const struct move_part *part)
{
    const struct index_row *range = &part->range;
    const struct partition *partition =
        index_find_live(&engine->index, part->partition, move->class);
    if (partition == NULL || partition->count == 0 || partition->start >= range->end_offset)
        return false;
    struct slice slice =
        partition_slice(partition, partition_entry_by_offset(partition, range->first_offset));
    return slice.segment == move->source && slice.first_offset <= range->first_offset &&
           slice.end_offset >= range->end_offset;
}

void batch_add_move(struct engine *engine, struct move *move)
{
    struct family *family = &engine->families[move->class];
    const struct move_batch *batch = move->batches;
    move->append.commit = ++engine->commit;
    move->target = family->segment;
    for (uint32_t i = 0; i < move->part_count; i++) {
        struct move_part *part = &move->parts[i];
        const struct move_batch *end = batch + part->batch_count;
        part->in_place = is_in_place(engine, move, part);
        for (; batch < end; batch++) {
            if (!part->in_place)
                continue;
            struct log_key key = log_key_of(move->target, part->partition, batch->offset);
            rocksdb_writebatch_put_cf(engine->batch, family->handle, (const char *)key.bytes,
                                      LOG_KEY_SIZE, (const char *)move->bytes.data + batch->at,
                                      batch->size);
            engine->batch_families[move->class] += LOG_KEY_SIZE + batch->size;
        }
        if (!part->in_place)
            continue;
        struct own_key key =
            moved_row_key(move->class, move->target, part->partition, part->range.first_offset);
        CHECK(index_row_encode(own_key_span(&key), &part->range, &engine->scratch) == STATUS_OK);
        batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
    }
}

/* Writing */

static void account(struct engine *engine, size_t wal_bytes)
{
    uint64_t now = now_ms();
    for (int i = 0; i < FAMILIES; i++) {
        struct family *family = &engine->families[i];
        if (engine->batch_families[i] == 0)
            continue;
        if (family->unflushed_bytes == 0) {
            family->oldest_wal = engine->wal_position;
            family->oldest_ms = now;
        }
        family->unflushed_bytes += engine->batch_families[i];
        engine->batch_families[i] = 0;
    }
    engine->wal_position += wal_bytes;
    atomic_fetch_add_explicit(&engine->count_writes, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&engine->count_bytes, wal_bytes, memory_order_relaxed);
}

bool batch_write(struct engine *engine)
{
    struct own_key key = commit_row_key();
    CHECK(commit_row_encode(engine->commit, &engine->scratch) == STATUS_OK);
    batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
    size_t wal_bytes = 0;
    rocksdb_writebatch_data(engine->batch, &wal_bytes);
    bool written = log_begin(engine);
    if (written) {
        char *problem = NULL;
        rocksdb_write(engine->db, engine->write_options, engine->batch, &problem);
        written = log_end(engine, "write", problem);
    }
    account(engine, wal_bytes);
    if (wal_bytes > 4 * (size_t)WRITE_BYTES) {
        rocksdb_writebatch_destroy(engine->batch); /* clear would keep the memory of a giant */
        engine->batch = rocksdb_writebatch_create();
    } else {
        rocksdb_writebatch_clear(engine->batch);
    }
    return written;
}
