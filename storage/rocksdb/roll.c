/* SPDX-License-Identifier: Apache-2.0 */
/* Rolling segments, so that RocksDB never flushes by itself and its files hold whole segments. */
#include "core/base/check.h"
#include "storage/rocksdb/engine.h"

enum { MINUTE_MS = 60 * 1000, HOUR_MS = 60 * MINUTE_MS };

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
    engine->ahead.stale = true;
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
