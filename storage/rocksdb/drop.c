/* SPDX-License-Identifier: Apache-2.0 */
/* Dropping the files of segments that nobody needs any more: all below the lowest one in use, and
 * those between others, which evacuation leaves. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/trace.h"
#include "storage/rocksdb/engine.h"

enum { DROP_RETRY_MS = 1000, DROP_ATTEMPTS = 20, DROP_RIPE_MS = 10 };

void drop_want(struct engine *engine)
{
    pthread_mutex_lock(&engine->reader_lock);
    if (!engine->drop_wanted) {
        engine->drop_wanted = true;
        engine->drop_at_ms = now_ms() + DROP_DELAY_MS;
    }
    engine->drop_again = true;
    engine->drop_attempts = 0;
    pthread_cond_signal(&engine->reader_wake);
    pthread_mutex_unlock(&engine->reader_lock);
}

bool drop_is_mine(struct engine *engine)
{
    if (!engine->drop_wanted || engine->drop_running || now_ms() < engine->drop_at_ms)
        return false;
    engine->drop_wanted = false;
    engine->drop_running = true;
    return true;
}

/* Finding what to drop */

static void add_holes(struct drop *drop, const struct segments *segments, enum storage_class class,
                      uint64_t from, uint64_t limit)
{
    struct hole hole = {.class = class, .end = from};
    while (segments_next_hole(segments, limit, &hole.first, &hole.end)) {
        if (drop->hole_count == drop->hole_capacity) {
            drop->hole_capacity = 2 * drop->hole_capacity + 16;
            drop->holes = heap_resize(drop->holes, drop->hole_capacity * sizeof *drop->holes);
        }
        drop->holes[drop->hole_count++] = hole;
    }
}

/* What is not needed now never will be: batches only come into the open segment. */
static void find_drop(struct engine *engine, struct drop *drop)
{
    pthread_mutex_lock(&engine->reader_lock);
    engine->drop_again = false;
    pthread_mutex_unlock(&engine->reader_lock);
    drop->hole_count = 0;
    pthread_mutex_lock(&engine->index.lock);
    drop->commit = engine->index.commit;
    for (int i = 0; i < STORAGE_CLASSES; i++) {
        struct segments *segments = &engine->index.segments[i];
        uint64_t open = atomic_load(&engine->families[i].segment);
        uint64_t lowest = segments_lowest(segments, open);
        drop->below[i] = lowest < open ? lowest : open;
        add_holes(drop, segments, (enum storage_class)i, drop->below[i], open);
        segments_forget(segments, drop->below[i]);
    }
    pthread_mutex_unlock(&engine->index.lock);
    pthread_mutex_lock(&engine->reader_lock);
    drop->work = engine->work_number;
    pthread_mutex_unlock(&engine->reader_lock);
    drop->pending = true;
}

static bool is_ripe(struct engine *engine, const struct drop *drop)
{
    bool ripe = atomic_load_explicit(&engine->synced_commit, memory_order_acquire) >= drop->commit;
    pthread_mutex_lock(&engine->reader_lock);
    for (uint32_t i = 0; i < engine->reader_count; i++)
        ripe &= engine->readers[i].work == 0 || engine->readers[i].work > drop->work;
    pthread_mutex_unlock(&engine->reader_lock);
    return ripe;
}

/* Dropping it */

uint64_t segment_bytes(struct engine *engine, enum storage_class class, uint64_t first,
                       uint64_t end)
{
    struct log_key low = log_key_of(first, 0, 0);
    struct log_key high = log_key_of(end - 1, UINT64_MAX, UINT64_MAX);
    const char *lows[] = {(const char *)low.bytes}, *highs[] = {(const char *)high.bytes};
    size_t sizes[] = {LOG_KEY_SIZE};
    uint64_t bytes = 0;
    char *problem = NULL;
    rocksdb_approximate_sizes_cf(engine->db, engine->families[class].handle, 1, lows, sizes, highs,
                                 sizes, &bytes, &problem);
    if (problem != NULL)
        trace(TRACE_WARN, "store: sizing old segments: %s", problem);
    rocksdb_free(problem);
    return bytes;
}

/* RocksDB skips files that are being compacted or still lie in level 0: true when some are left. */
static bool drop_range(struct engine *engine, const struct hole *range)
{
    struct log_key low = log_key_of(range->first, 0, 0);
    struct log_key high = log_key_of(range->end - 1, UINT64_MAX, UINT64_MAX);
    char *problem = NULL;
    rocksdb_delete_file_in_range_cf(engine->db, engine->families[range->class].handle,
                                    (const char *)low.bytes, LOG_KEY_SIZE, (const char *)high.bytes,
                                    LOG_KEY_SIZE, &problem);
    if (problem != NULL)
        trace(TRACE_WARN, "store: dropping old segments: %s", problem);
    rocksdb_free(problem);
    atomic_fetch_add_explicit(&engine->count_drops, 1, memory_order_relaxed);
    return segment_bytes(engine, range->class, range->first, range->end) > 0;
}

static bool drop_all(struct engine *engine, struct drop *drop)
{
    bool left = false;
    for (int i = 0; i < STORAGE_CLASSES; i++) {
        if (drop->below[i] == 0)
            continue;
        struct hole range = {(enum storage_class)i, 0, drop->below[i]};
        left |= drop_range(engine, &range);
        atomic_store_explicit(&engine->dropped_below[i], drop->below[i], memory_order_release);
    }
    for (size_t i = 0; i < drop->hole_count; i++) {
        const struct hole *hole = &drop->holes[i];
        if (segment_bytes(engine, hole->class, hole->first, hole->end) > 0)
            left |= drop_range(engine, hole);
    }
    drop->pending = false;
    return left;
}

void drop_files(struct engine *engine)
{
    struct drop *drop = &engine->drop;
    if (!drop->pending)
        find_drop(engine, drop);
    bool ripe = is_ripe(engine, drop), left = ripe && drop_all(engine, drop);
    pthread_mutex_lock(&engine->reader_lock);
    engine->drop_running = false;
    uint64_t delay_ms = 0;
    if (!ripe)
        delay_ms = DROP_RIPE_MS;
    else if (engine->drop_again)
        delay_ms = DROP_DELAY_MS;
    else if (left && engine->drop_attempts++ < DROP_ATTEMPTS)
        delay_ms = DROP_RETRY_MS;
    if (delay_ms > 0) {
        engine->drop_wanted = true;
        engine->drop_at_ms = now_ms() + delay_ms;
    }
    pthread_mutex_unlock(&engine->reader_lock);
    if (ripe)
        evacuate_want(engine);
}

/* The rows of what was dropped */

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
