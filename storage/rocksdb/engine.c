/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing the store, the options of RocksDB (STORAGE-FACTS has why), health and
 * metrics. */
#include "storage/rocksdb/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/crc.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/trace.h"
#include "storage/rocksdb/rocksdb.h"

const char *const family_names[FAMILIES] = {
    [STORAGE_6_HOURS] = "log_6h",  [STORAGE_3_DAYS] = "log_3d",
    [STORAGE_30_DAYS] = "log_30d", [STORAGE_UNLIMITED] = "log_unlimited",
    [FAMILY_STATE] = "default",
};

enum { BLOCK_CACHE_BYTES = 8 << 20, BLOCK_BYTES = 16 << 10, OPEN_FILES = 256 };
enum { POINT_IN_TIME_RECOVERY = 2, LEVEL_STYLE = 0, WARN_LEVEL = 2 };

/* Options without a setter in the C interface. No resume: a failed write is final. */
#define STRING_OPTIONS                                                                             \
    "max_bgerror_resume_count=0;ttl=0;periodic_compaction_seconds=0;stats_dump_period_sec=0;"      \
    "stats_persist_period_sec=0;skip_stats_update_on_db_open=true;"                                \
    "skip_checking_sst_file_sizes_on_db_open=true;max_manifest_file_size=67108864;"                \
    "keep_log_file_num=4;max_log_file_size=4194304"

struct engine *engine_of(struct storage *storage)
{
    CHECK(storage->ops == &rocksdb_storage_ops);
    return container_of(storage, struct engine, storage);
}

/* Shared by the threads */

uint64_t now_ms(void)
{
    return clock_monotonic_ms();
}

static void condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

struct timespec deadline_of(uint64_t at_ms)
{
    return (struct timespec){.tv_sec = (time_t)(at_ms / 1000),
                             .tv_nsec = (long)(at_ms % 1000) * 1000000};
}

void chain_push(struct chain *chain, struct storage_append *append)
{
    append->next = NULL;
    if (chain->head == NULL)
        chain->head = append;
    else
        chain->tail->next = append;
    chain->tail = append;
}

void chain_join(struct chain *chain, struct chain *more)
{
    if (more->head == NULL)
        return;
    if (chain->head == NULL)
        chain->head = more->head;
    else
        chain->tail->next = more->head;
    chain->tail = more->tail;
    *more = (struct chain){0};
}

bool engine_has_failed(const struct engine *engine)
{
    return atomic_load_explicit(&engine->failed, memory_order_acquire);
}

void engine_fail(struct engine *engine, const char *what, char *problem)
{
    if (!atomic_exchange(&engine->failed, true))
        trace(TRACE_ERROR, "store: %s failed%s%s; nothing is accepted until a restart", what,
              problem == NULL ? "" : ": ", problem == NULL ? "" : problem);
    rocksdb_free(problem);
    writer_wake(engine);
}

bool log_begin(struct engine *engine)
{
    pthread_mutex_lock(&engine->log_lock);
    if (!engine_has_failed(engine))
        return true;
    pthread_mutex_unlock(&engine->log_lock);
    return false;
}

bool log_end(struct engine *engine, const char *what, char *problem)
{
    bool well = problem == NULL;
    if (!well) {
        engine->log_broken = true;
        engine_fail(engine, what, problem);
    }
    pthread_mutex_unlock(&engine->log_lock);
    return well;
}

enum space engine_space(struct engine *engine)
{
    if (engine->directory.path == NULL || engine->min_free_bytes == 0)
        return SPACE_ENOUGH;
    uint64_t now = now_ms(), checked = atomic_load(&engine->space_checked_ms);
    if (now - checked >= SPACE_CHECK_MS &&
        atomic_compare_exchange_strong(&engine->space_checked_ms, &checked, now)) {
        uint64_t left = directory_free_bytes(&engine->directory);
        enum space space = left >= engine->min_free_bytes       ? SPACE_ENOUGH
                           : left >= engine->min_free_bytes / 4 ? SPACE_ROWS_ONLY
                                                                : SPACE_NONE;
        if ((int)space != atomic_exchange(&engine->space, (int)space) && space != SPACE_ENOUGH)
            trace(TRACE_WARN, "store: %llu bytes free, less than the %llu to keep free",
                  (unsigned long long)left, (unsigned long long)engine->min_free_bytes);
    }
    return (enum space)atomic_load(&engine->space);
}

/* Options */

static rocksdb_options_t *with_strings(rocksdb_options_t *base)
{
    rocksdb_options_t *options = rocksdb_options_create();
    char *problem = NULL;
    rocksdb_get_options_from_string(base, STRING_OPTIONS, options, &problem);
    if (problem != NULL)
        trace(TRACE_ERROR, "store: options: %s", problem);
    CHECK(problem == NULL);
    rocksdb_options_destroy(base);
    return options;
}

static rocksdb_options_t *database_options(const struct engine *engine)
{
    rocksdb_options_t *options = rocksdb_options_create();
    if (engine->environment != NULL)
        rocksdb_options_set_env(options, engine->environment);
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_create_missing_column_families(options, 1);
    rocksdb_options_set_manual_wal_flush(options, 1);
    /* A torn tail ends recovery in its place whatever it looks like; whether the rest was
     * acknowledged says the marker, which refuses a hole in the middle. */
    rocksdb_options_set_wal_recovery_mode(options, POINT_IN_TIME_RECOVERY);
    rocksdb_options_set_max_total_wal_size(options, (uint64_t)1 << 30);
    rocksdb_options_set_max_open_files(options, OPEN_FILES);
    /* Whoever keeps up reads memory, so most of what is flushed is never read: pages of the cache
     * for it would be memory that is touched for nothing, and their write-back stands in the way of
     * the log's sync. What is read later comes into the cache then. */
    if (engine->environment == NULL && directory_writes_direct(&engine->directory))
        rocksdb_options_set_use_direct_io_for_flush_and_compaction(options, 1);
    rocksdb_options_set_info_log_level(options, WARN_LEVEL);
    return with_strings(options);
}

static rocksdb_options_t *family_options(int which, rocksdb_cache_t *cache)
{
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_size(table, BLOCK_BYTES);
    rocksdb_block_based_options_set_block_cache(table, cache);
    rocksdb_options_set_block_based_table_factory(options, table);
    rocksdb_block_based_options_destroy(table);
    rocksdb_options_set_compression(options, rocksdb_no_compression);
    rocksdb_options_set_compaction_style(options, LEVEL_STYLE);
    rocksdb_options_set_arena_block_size(options, 256 << 10);
    rocksdb_options_set_write_buffer_size(options, 64 << 20);
    if (which < FAMILY_STATE) {
        rocksdb_options_set_num_levels(options, 2);
        rocksdb_options_set_level0_file_num_compaction_trigger(options, 1);
        rocksdb_options_set_write_buffer_size(options, WRITE_BUFFER_BYTES);
    }
    return with_strings(options);
}

struct option_set {
    rocksdb_options_t *database;
    rocksdb_options_t *families[FAMILIES];
};

static void options_init(struct option_set *set, const struct engine *engine)
{
    rocksdb_cache_t *cache = rocksdb_cache_create_lru(BLOCK_CACHE_BYTES);
    set->database = database_options(engine);
    for (int i = 0; i < FAMILIES; i++)
        set->families[i] = family_options(i, cache);
    rocksdb_cache_destroy(cache);
}

static void options_deinit(struct option_set *set)
{
    rocksdb_options_destroy(set->database);
    for (int i = 0; i < FAMILIES; i++)
        rocksdb_options_destroy(set->families[i]);
}

/* Debian builds RocksDB for processors that compute no CRC-32C: its table costs the write-ahead log
 * 0.75 us per KiB, ours 0.06. The library calls this function through its symbol table, where the
 * program comes first. Under another name, or with other parameters, it would be its own again. */
#ifdef __SSE4_2__
uint32_t rocksdb_crc32c_extend(uint32_t crc, const char *bytes,
                               size_t size) __asm__("_ZN7rocksdb6crc32c6ExtendEjPKcm");

uint32_t rocksdb_crc32c_extend(uint32_t crc, const char *bytes, size_t size)
{
    return crc32c(crc, span_of(bytes, size));
}
#endif

/* The look before the open: a read-only recovery, which writes nothing */

static int family_by_name(const char *name)
{
    for (int i = 0; i < FAMILIES; i++)
        if (strcmp(name, family_names[i]) == 0)
            return i;
    return -1;
}

/* The commit number at which recovery ends; families that a crash at the first open left out are
 * missing. */
static enum status commit_recovered(const struct engine *engine, const struct option_set *set,
                                    char **names, size_t count, uint64_t *commit, struct err *err)
{
    const rocksdb_options_t *options[FAMILIES];
    rocksdb_column_family_handle_t *handles[FAMILIES] = {0}, *state = NULL;
    const char *path = engine->directory.path;
    if (count > FAMILIES)
        return err_set(err, STATUS_UNSUPPORTED, "%s holds more column families than known", path);
    for (size_t i = 0; i < count; i++) {
        int which = family_by_name(names[i]);
        if (which < 0)
            return err_set(err, STATUS_UNSUPPORTED, "%s holds an unknown column family %s", path,
                           names[i]);
        options[i] = set->families[which];
    }
    char *problem = NULL;
    rocksdb_t *db = rocksdb_open_for_read_only_column_families(
        set->database, path, (int)count, (const char *const *)names, options, handles, 0, &problem);
    enum status status = STATUS_OK;
    if (problem != NULL) {
        status = err_set(err, STATUS_CORRUPT,
                         "%s cannot be recovered: %s. Nothing was changed; restore a copy", path,
                         problem);
        rocksdb_free(problem);
        return status;
    }
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], family_names[FAMILY_STATE]) == 0)
            state = handles[i];
    struct own_key key = commit_row_key();
    rocksdb_readoptions_t *read = rocksdb_readoptions_create();
    size_t size = 0;
    char *value =
        rocksdb_get_cf(db, read, state, (const char *)key.bytes, key.size, &size, &problem);
    rocksdb_readoptions_destroy(read);
    if (problem != NULL ||
        (value != NULL && commit_row_decode(span_of(value, size), commit) != STATUS_OK))
        status = err_set(err, STATUS_CORRUPT, "%s: the row of the commit number is damaged%s%s",
                         path, problem == NULL ? "" : ": ", problem == NULL ? "" : problem);
    rocksdb_free(problem);
    rocksdb_free(value);
    for (size_t i = 0; i < count; i++)
        rocksdb_column_family_handle_destroy(handles[i]);
    rocksdb_close(db);
    return status;
}

static enum status check_recovery(struct engine *engine, const struct option_set *set,
                                  struct err *err)
{
    if (engine->directory.path == NULL)
        return STATUS_OK;
    const char *path = engine->directory.path;
    uint64_t acknowledged = marker_read(&engine->directory), commit = 0;
    if (directory_has(&engine->directory, "CURRENT")) {
        char *problem = NULL;
        size_t count = 0;
        char **names = rocksdb_list_column_families(set->database, path, &count, &problem);
        if (problem != NULL) {
            enum status status =
                err_set(err, STATUS_CORRUPT, "%s cannot be read: %s", path, problem);
            rocksdb_free(problem);
            return status;
        }
        enum status status = commit_recovered(engine, set, names, count, &commit, err);
        rocksdb_list_column_families_destroy(names, count);
        if (status != STATUS_OK)
            return status;
    }
    if (commit < acknowledged)
        return err_set(err, STATUS_CORRUPT,
                       "%s ends at commit %llu but %llu was acknowledged; its write-ahead log is "
                       "damaged or incomplete. Nothing was changed: restore a copy, or delete "
                       "polylog-marker in it to accept the loss",
                       path, (unsigned long long)commit, (unsigned long long)acknowledged);
    return STATUS_OK;
}

/* Open and close */

static enum status database_open(struct engine *engine, const struct option_set *set,
                                 const char *path, struct err *err)
{
    const rocksdb_options_t *options[FAMILIES];
    rocksdb_column_family_handle_t *handles[FAMILIES] = {0};
    for (int i = 0; i < FAMILIES; i++)
        options[i] = set->families[i];
    char *problem = NULL;
    engine->db = rocksdb_open_column_families(set->database, path, FAMILIES, family_names, options,
                                              handles, &problem);
    if (problem != NULL) {
        enum status status =
            err_set(err, STATUS_STORAGE_FAILED, "cannot open %s: %s", path, problem);
        rocksdb_free(problem);
        engine->db = NULL;
        return status;
    }
    for (int i = 0; i < FAMILIES; i++)
        engine->families[i].handle = handles[i];
    return STATUS_OK;
}

static rocksdb_t *volatile abandoned; /* keeps it reachable for leak checkers */

static void engine_free(struct engine *engine)
{
    for (int i = 0; i < FAMILIES; i++)
        if (engine->families[i].handle != NULL)
            rocksdb_column_family_handle_destroy(engine->families[i].handle);
    /* Closing would write to the broken log once more. The process has to end anyway. */
    if (engine->log_broken)
        abandoned = engine->db;
    else if (engine->db != NULL)
        rocksdb_close(engine->db);
    ahead_end(engine);
    rocksdb_writebatch_destroy(engine->batch);
    rocksdb_writeoptions_destroy(engine->write_options);
    rocksdb_flushoptions_destroy(engine->flush_options);
    if (engine->directory.path != NULL)
        directory_close(&engine->directory);
    index_deinit(&engine->index);
    evacuate_deinit(engine);
    heap_free(engine->drop.holes);
    heap_free(engine->readers);
    buf_deinit(&engine->scratch);
    buf_deinit(&engine->key_scratch);
    units_deinit(&engine->units);
    pthread_mutex_destroy(&engine->log_lock);
    pthread_mutex_destroy(&engine->write_lock);
    pthread_mutex_destroy(&engine->writer_lock);
    pthread_mutex_destroy(&engine->sync_lock);
    pthread_mutex_destroy(&engine->reader_lock);
    pthread_cond_destroy(&engine->writer_wake);
    pthread_cond_destroy(&engine->sync_wake);
    pthread_cond_destroy(&engine->reader_wake);
    heap_free(engine);
}

static struct engine *engine_new(const struct storage_options *options)
{
    struct engine *engine = heap_new(sizeof *engine);
    engine->storage.ops = &rocksdb_storage_ops;
    engine->environment = options->environment;
    engine->min_free_bytes = options->min_free_bytes;
    engine->segment_bytes = options->segment_bytes != 0 ? options->segment_bytes : SEGMENT_BYTES;
    engine->wal_bytes = options->wal_bytes != 0 ? options->wal_bytes : WAL_BYTES;
    engine->interval_ms = options->interval_ms != 0 ? options->interval_ms : INTERVAL_MS;
    engine->reader_count = options->readers != 0 ? options->readers : 1;
    engine->evacuation.bytes_per_second =
        options->evacuate_bytes != 0 ? options->evacuate_bytes : EVACUATE_BYTES;
    engine->sync_hook = options->sync_hook;
    engine->sync_context = options->sync_context;
    engine->directory = (struct directory){.lock_fd = -1, .marker_fd = -1};
    engine->ahead = (struct ahead){.fd = -1, .stale = true};
    engine->batch = rocksdb_writebatch_create();
    engine->write_options = rocksdb_writeoptions_create();
    engine->flush_options = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(engine->flush_options, 0);
    index_init(&engine->index);
    buf_init(&engine->scratch, SIZE_MAX / 2);
    buf_init(&engine->key_scratch, SIZE_MAX / 2);
    units_init(&engine->units);
    buf_init(&engine->evacuation.move.bytes, SIZE_MAX / 2);
    pthread_mutex_init(&engine->log_lock, NULL);
    pthread_mutex_init(&engine->write_lock, NULL);
    pthread_mutex_init(&engine->writer_lock, NULL);
    pthread_mutex_init(&engine->sync_lock, NULL);
    pthread_mutex_init(&engine->reader_lock, NULL);
    condition_init(&engine->writer_wake);
    condition_init(&engine->sync_wake);
    condition_init(&engine->reader_wake);
    return engine;
}

static enum status engine_open(const struct storage_options *options, struct storage **storage,
                               struct err *err)
{
    hash_init(); /* the tables filled here are asked when everybody else has done so too */
    struct engine *engine = engine_new(options);
    struct option_set set;
    enum status status = STATUS_OK;
    if (engine->environment == NULL)
        status = directory_open(&engine->directory, options->directory, err);
    options_init(&set, engine);
    if (status == STATUS_OK)
        status = check_recovery(engine, &set, err);
    if (status == STATUS_OK && engine->environment == NULL)
        status = marker_open(&engine->directory, err);
    if (status == STATUS_OK)
        status = database_open(engine, &set, options->directory, err);
    if (status == STATUS_OK)
        status = engine_recover(engine, err);
    options_deinit(&set);
    if (status != STATUS_OK) {
        engine_free(engine);
        return status;
    }
    syncer_start(engine);
    writer_start(engine);
    readers_start(engine);
    *storage = &engine->storage;
    return STATUS_OK;
}

/* Everything goes to files, so that the next open has no log to replay. */
static void close_clean(struct engine *engine)
{
    roll_all(engine);
    struct store_row row = {
        .format = STORE_FORMAT, .epoch = engine->epoch, .clean = true, .bounded = true};
    struct own_key key = store_row_key();
    if (engine_has_failed(engine) || store_row_encode(&row, &engine->scratch) != STATUS_OK)
        return;
    batch_put_row(engine, own_key_span(&key), buf_span(&engine->scratch));
    if (batch_write(engine))
        engine_sync(engine, engine->commit);
}

static void engine_close(struct storage *storage)
{
    struct engine *engine = engine_of(storage);
    backup_join(engine);
    readers_stop(engine);
    writer_stop(engine);
    syncer_stop(engine);
    if (!engine_has_failed(engine))
        close_clean(engine);
    engine_free(engine);
}

static enum status engine_health(struct storage *storage)
{
    struct engine *engine = engine_of(storage);
    if (engine_has_failed(engine))
        return STATUS_STORAGE_FAILED;
    return engine_space(engine) == SPACE_ENOUGH ? STATUS_OK : STATUS_NO_SPACE;
}

/* Cumulative, as Prometheus reads them. */
static void sync_metrics(struct engine *engine,
                         void (*emit)(void *context, const char *name, double value), void *context)
{
    uint64_t below = 0, count = atomic_load(&engine->count_syncs);
    for (int i = 0; i < SYNC_BUCKETS; i++) {
        char name[64];
        below += atomic_load(&engine->sync_buckets[i]);
        snprintf(name, sizeof name, "sync_seconds_bucket{le=\"%g\"}", sync_bucket_us[i] * 1e-6);
        emit(context, name, (double)below);
    }
    count = count > below ? count : below; /* a sync may have ended meanwhile */
    emit(context, "sync_seconds_bucket{le=\"+Inf\"}", (double)count);
    emit(context, "sync_seconds_sum", (double)atomic_load(&engine->sync_ns) * 1e-9);
    emit(context, "sync_seconds_count", (double)count);
}

static void engine_metrics(struct storage *storage,
                           void (*emit)(void *context, const char *name, double value),
                           void *context)
{
    struct engine *engine = engine_of(storage);
    const struct {
        const char *name;
        _Atomic(uint64_t) *count;
        double unit;
    } counts[] = {
        {"storage_appends_total", &engine->count_appends, 1},
        {"storage_batches_total", &engine->count_batches, 1},
        {"storage_written_bytes_total", &engine->count_bytes, 1},
        {"storage_writes_total", &engine->count_writes, 1},
        {"storage_syncs_total", &engine->count_syncs, 1},
        {"storage_sync_seconds_max", &engine->sync_ns_max, 1e-9},
        {"storage_rolls_total", &engine->count_rolls, 1},
        {"storage_backstop_flushes_total", &engine->count_backstops, 1},
        {"storage_drops_total", &engine->count_drops, 1},
        {"storage_reads_total", &engine->count_reads, 1},
        {"storage_corrupt_reads_total", &engine->count_corrupt, 1},
        {"storage_evacuated_segments_total", &engine->count_evacuated, 1},
        {"storage_evacuated_bytes_total", &engine->count_evacuated_bytes, 1},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        emit(context, counts[i].name, (double)atomic_load(counts[i].count) * counts[i].unit);
    pthread_mutex_lock(&engine->index.lock);
    double partitions = (double)engine->index.partitions.count;
    pthread_mutex_unlock(&engine->index.lock);
    emit(context, "storage_partitions", partitions);
    emit(context, "storage_failed", engine_has_failed(engine) ? 1 : 0);
    sync_metrics(engine, emit, context);
}

const struct storage_ops rocksdb_storage_ops = {
    .name = "rocksdb",
    .can = STORAGE_ATOMIC_ROWS | STORAGE_UNITS | STORAGE_PERSISTENT,
    .open = engine_open,
    .append = engine_append,
    .read = engine_read,
    .scan = engine_scan,
    .trim = engine_trim,
    .floor = engine_floor,
    .bounds = engine_bounds,
    .close = engine_close,
    .metrics = engine_metrics,
    .health = engine_health,
    .backup = engine_backup,
};
