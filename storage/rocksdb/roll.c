/* SPDX-License-Identifier: Apache-2.0 */
/* Rolling segments, so that RocksDB never flushes by itself and its files hold whole segments, and
 * dropping the files that lie below what retention keeps. */
#include "core/base/check.h"
#include "core/base/trace.h"
#include "storage/rocksdb/engine.h"

enum { MINUTE_MS = 60 * 1000, HOUR_MS = 60 * MINUTE_MS, DROP_RETRY_MS = 1000, DROP_ATTEMPTS = 20 };

/* A segment is dropped whole, so it must not grow old beside what retention asks for. */
static const uint64_t age_ms[STORAGE_CLASSES] = {
    [STORAGE_6_HOURS] = 15 * MINUTE_MS,
    [STORAGE_3_DAYS] = 3 * HOUR_MS,
    [STORAGE_30_DAYS] = 24 * HOUR_MS,
    [STORAGE_UNLIMITED] = 24 * HOUR_MS,
};

static uint64_t property(const struct engine *engine, const struct family *family, const char *name)
{
    uint64_t value = 0;
    return rocksdb_property_int_cf(engine->db, family->handle, name, &value) == 0 ? value : 0;
}

static bool write_index_rows(struct engine *engine, enum storage_class class, uint64_t segment)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&engine->index.partitions, &i)) != NULL;) {
        const struct partition *partition = slot->value;
        if (partition->class != class || partition->removed || partition->count == 0)
            continue;
        const struct index_entry *last = &partition->entries[partition->count - 1];
        if (last->segment != segment)
            continue;
        struct index_row row = {
            .first_offset = last->first_offset,
            .first_time_ms = last->first_time_ms,
            .bytes_before = last->bytes_before,
            .end_offset = partition->next_offset,
            .bytes_after = partition->bytes,
            .last_time_ms = partition->last_time_ms,
        };
        struct own_key key = index_row_key(class, segment, partition->id);
        CHECK(index_row_encode(own_key_span(&key), &row, &engine->scratch) == STATUS_OK);
        batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
    }
    return batch_write(engine);
}

static void flush(struct engine *engine, const struct family *family)
{
    char *problem = NULL;
    if (!log_begin(engine))
        return;
    rocksdb_flush_cf(engine->db, engine->flush_options, family->handle, &problem);
    log_end(engine, "flush", problem);
}

static void roll(struct engine *engine, int which)
{
    struct family *family = &engine->families[which];
    /* While a flush is under way another one would block this thread for seconds; RocksDB's write
     * buffer has room for the segment to grow meanwhile. */
    if (property(engine, family, "rocksdb.num-immutable-mem-table") > 0)
        return;
    if (property(engine, family, "rocksdb.cur-size-active-mem-table") < family->unflushed_bytes / 2)
        atomic_fetch_add_explicit(&engine->count_backstops, 1, memory_order_relaxed);
    if (which < FAMILY_STATE) {
        if (!write_index_rows(engine, (enum storage_class)which, family->segment))
            return;
        family->segment++;
    }
    flush(engine, family);
    family->unflushed_bytes = 0;
    atomic_fetch_add_explicit(&engine->count_rolls, 1, memory_order_relaxed);
}

static bool is_due(const struct engine *engine, int which, uint64_t now)
{
    const struct family *family = &engine->families[which];
    if (family->unflushed_bytes == 0)
        return false;
    if (engine->wal_position - family->oldest_wal > engine->wal_bytes)
        return true;
    return which < FAMILY_STATE && (family->unflushed_bytes >= engine->segment_bytes ||
                                    now - family->oldest_ms >= age_ms[which]);
}

void roll_due(struct engine *engine)
{
    uint64_t now = now_ms();
    for (int i = 0; i < FAMILIES; i++)
        if (!engine_has_failed(engine) && is_due(engine, i, now))
            roll(engine, i);
}

uint64_t roll_next_ms(const struct engine *engine)
{
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < FAMILY_STATE; i++) {
        const struct family *family = &engine->families[i];
        if (family->unflushed_bytes > 0 && family->oldest_ms + age_ms[i] < next)
            next = family->oldest_ms + age_ms[i];
    }
    /* One that is overdue waits for a flush: look again soon, but not at once. */
    uint64_t soonest = now_ms() + 100;
    return next != UINT64_MAX && next < soonest ? soonest : next;
}

void roll_all(struct engine *engine)
{
    for (int i = 0; i < FAMILY_STATE && !engine_has_failed(engine); i++) {
        struct family *family = &engine->families[i];
        if (family->unflushed_bytes > 0)
            write_index_rows(engine, (enum storage_class)i, family->segment++);
    }
    rocksdb_flushoptions_set_wait(engine->flush_options, 1);
    for (int i = 0; i < FAMILIES; i++)
        flush(engine, &engine->families[i]);
}

/* The first segment of the class that somebody still needs. */
static uint64_t lowest_needed(struct engine *engine, enum storage_class class)
{
    uint64_t lowest = engine->families[class].segment;
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&engine->index.partitions, &i)) != NULL;) {
        const struct partition *partition = slot->value;
        if (partition->class == class && !partition->removed && partition->count > 0 &&
            partition->entries[0].segment < lowest)
            lowest = partition->entries[0].segment;
    }
    return lowest;
}

/* RocksDB skips files that are being compacted or still lie in level 0: true when some are left. */
static bool drop_below(struct engine *engine, enum storage_class class, uint64_t below)
{
    rocksdb_column_family_handle_t *handle = engine->families[class].handle;
    struct log_key first = log_key_of(0, 0, 0);
    struct log_key last = log_key_of(below - 1, UINT64_MAX, UINT64_MAX);
    const char *firsts[] = {(const char *)first.bytes}, *lasts[] = {(const char *)last.bytes};
    size_t sizes[] = {LOG_KEY_SIZE};
    char *problem = NULL;
    rocksdb_delete_file_in_range_cf(engine->db, handle, firsts[0], LOG_KEY_SIZE, lasts[0],
                                    LOG_KEY_SIZE, &problem);
    uint64_t left = 0;
    if (problem == NULL)
        rocksdb_approximate_sizes_cf(engine->db, handle, 1, firsts, sizes, lasts, sizes, &left,
                                     &problem);
    if (problem != NULL) {
        trace(TRACE_WARN, "store: dropping old segments: %s", problem);
        rocksdb_free(problem);
    }
    atomic_fetch_add_explicit(&engine->count_drops, 1, memory_order_relaxed);
    atomic_store_explicit(&engine->dropped_below[class], below, memory_order_release);
    return left > 0;
}

void drop_files(struct engine *engine)
{
    uint64_t below[STORAGE_CLASSES];
    pthread_mutex_lock(&engine->index.lock);
    for (int i = 0; i < FAMILY_STATE; i++)
        below[i] = lowest_needed(engine, (enum storage_class)i);
    pthread_mutex_unlock(&engine->index.lock);
    bool left = false;
    for (int i = 0; i < FAMILY_STATE; i++)
        if (below[i] > 0)
            left |= drop_below(engine, (enum storage_class)i, below[i]);
    pthread_mutex_lock(&engine->reader_lock);
    engine->drop_running = false;
    if (left && engine->drop_attempts++ < DROP_ATTEMPTS && !engine->drop_wanted) {
        engine->drop_wanted = true;
        engine->drop_at_ms = now_ms() + DROP_RETRY_MS;
    }
    pthread_mutex_unlock(&engine->reader_lock);
}

static void forget_removed(struct engine *engine, enum storage_class class, uint64_t below)
{
    struct map_slot *slot;
    size_t i = 0;
    while ((slot = map_next(&engine->index.partitions, &i)) != NULL) {
        struct partition *partition = slot->value;
        if (partition->class != class || !partition->removed || partition->last_segment >= below)
            continue;
        struct own_key key = partition_row_key(class, partition->id);
        batch_delete_row(engine, own_key_span(&key));
        index_forget(&engine->index, partition);
        i--; /* another slot may have moved here */
    }
}

/* A file may survive its drop (it holds a later segment, too). Without this row the next recovery
 * could take what is in it for new, and bring back a removed partition. */
static void put_class_row(struct engine *engine, enum storage_class class, uint64_t kept_from)
{
    struct own_key key = class_row_key(class);
    struct class_row row = {.kept_from = kept_from};
    CHECK(class_row_encode(own_key_span(&key), &row, &engine->scratch) == STATUS_OK);
    batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
}

void drop_rows(struct engine *engine)
{
    for (int i = 0; i < FAMILY_STATE; i++) {
        enum storage_class class = (enum storage_class)i;
        uint64_t below = atomic_load_explicit(&engine->dropped_below[i], memory_order_acquire);
        if (below <= engine->index_kept_from[i])
            continue;
        struct own_key first = index_row_key(class, 0, 0), end = index_row_key(class, below, 0);
        batch_delete_own_range(engine, own_key_span(&first), own_key_span(&end));
        forget_removed(engine, class, below);
        put_class_row(engine, class, below);
        engine->index_kept_from[i] = below;
    }
}
