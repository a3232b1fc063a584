/* SPDX-License-Identifier: Apache-2.0 */
/* The syncer: one fdatasync at a time, and behind it the completion of all that was written before
 * it began. There is no linger: while a sync runs, the next batch grows; behind the sync the syncer
 * writes it, where the writer has not, and syncs again. */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "storage/envelope.h"
#include "storage/rocksdb/engine.h"

static void make_visible(struct engine *engine, const struct storage_append *append)
{
    for (uint32_t i = 0; i < append->batch_count; i++) {
        const struct storage_batch *batch = &append->batches[i];
        struct partition *partition = index_find(&engine->index, batch->partition, batch->class);
        if (partition == NULL)
            continue;
        partition->end = batch->base_offset + batch->record_count;
        partition->end_bytes += (uint64_t)ENVELOPE_SIZE + batch->bytes->size + batch->footer.size;
        partition->end_time_ms = batch->append_time_ms;
    }
    atomic_fetch_add_explicit(&engine->count_batches, append->batch_count, memory_order_relaxed);
    atomic_fetch_add_explicit(&engine->count_appends, 1, memory_order_relaxed);
}

/* It belongs to whoever started it from here on. */
static void end(struct engine *engine, struct storage_append *append)
{
    struct storage_trim *trim = append_as_trim(append);
    enum status status = append->request.status;
    if (append_as_move(append) != NULL)
        evacuate_done(engine, status);
    else
        request_complete(trim != NULL ? &trim->request : &append->request, status);
}

void chain_complete(struct engine *engine, struct chain *chain)
{
    bool trimmed = false;
    pthread_mutex_lock(&engine->index.lock);
    for (struct storage_append *append = chain->head; append != NULL; append = append->next) {
        if (append->request.status == STATUS_OK)
            make_visible(engine, append);
        trimmed |= append_as_trim(append) != NULL;
    }
    pthread_mutex_unlock(&engine->index.lock);
    for (struct storage_append *append = chain->head, *next; append != NULL; append = next) {
        next = append->next;
        end(engine, append);
    }
    *chain = (struct chain){0};
    if (trimmed)
        drop_want(engine);
}

/* A fast disk answers in 50 us, a slow or full one in seconds. */
const uint32_t sync_bucket_us[SYNC_BUCKETS] = {100,   250,   500,    1000,   2500,    5000,
                                               10000, 25000, 100000, 250000, 1000000, 5000000};

static void sync_measure(struct engine *engine, uint64_t began_ns)
{
    uint64_t took_ns = clock_monotonic_ns() - began_ns;
    atomic_fetch_add_explicit(&engine->count_syncs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&engine->sync_ns, took_ns, memory_order_relaxed);
    for (int i = 0; i < SYNC_BUCKETS; i++) {
        if (took_ns > (uint64_t)sync_bucket_us[i] * 1000)
            continue;
        atomic_fetch_add_explicit(&engine->sync_buckets[i], 1, memory_order_relaxed);
        break;
    }
    if (took_ns > atomic_load_explicit(&engine->sync_ns_max, memory_order_relaxed))
        atomic_store_explicit(&engine->sync_ns_max, took_ns, memory_order_relaxed);
}

/* First under the lock what can fail for want of space, then the sync beside the writer. */
static bool sync_log(struct engine *engine)
{
    char *problem = NULL;
    if (!log_begin(engine))
        return false;
    ahead_extend(engine);
    rocksdb_flush_wal(engine->db, 0, &problem);
    if (!log_end(engine, "write of the log", problem))
        return false;
    /* RocksDB's memory environment has no thread-safe sync, and nothing to sync to. */
    if (engine->sync_hook == NULL && engine->environment == NULL)
        rocksdb_flush_wal(engine->db, 1, &problem);
    if (problem != NULL) {
        pthread_mutex_lock(&engine->log_lock);
        return log_end(engine, "sync", problem);
    }
    if (engine->sync_hook != NULL && engine->sync_hook(engine->sync_context) != STATUS_OK) {
        engine_fail(engine, "sync", NULL);
        return false;
    }
    return true;
}

bool engine_sync(struct engine *engine, uint64_t commit)
{
    uint64_t began_ns = clock_monotonic_ns();
    if (!sync_log(engine))
        return false;
    sync_measure(engine, began_ns);
    if (engine->directory.marker_fd >= 0 && marker_write(&engine->directory, commit) != STATUS_OK) {
        engine_fail(engine, "write of polylog-marker", NULL);
        return false;
    }
    atomic_store_explicit(&engine->synced_commit, commit, memory_order_release);
    return true;
}

void syncer_wake(struct engine *engine)
{
    pthread_mutex_lock(&engine->sync_lock);
    pthread_cond_signal(&engine->sync_wake);
    pthread_mutex_unlock(&engine->sync_lock);
}

void syncer_push(struct engine *engine, struct chain *chain, bool wrote)
{
    pthread_mutex_lock(&engine->sync_lock);
    bool wake = chain->head != NULL || (wrote && !engine->written_unsynced);
    if (wrote) {
        engine->written_commit = engine->commit;
        if (!engine->written_unsynced)
            engine->written_since_ms = now_ms();
        engine->written_unsynced = true;
    }
    chain_join(&engine->written, chain);
    if (wake)
        pthread_cond_signal(&engine->sync_wake);
    pthread_mutex_unlock(&engine->sync_lock);
}

/* Whatever nobody waits for (interval partitions) is synced when the interval is over. */
static bool wait_for_written(struct engine *engine)
{
    while (!engine->sync_stop && engine->written.head == NULL) {
        atomic_store(&engine->sync_busy, false);
        bool posted = atomic_load(&engine->posted) != NULL;
        if (posted) {
            atomic_store(&engine->sync_busy, true);
            pthread_mutex_unlock(&engine->sync_lock);
            write_posted(engine);
            pthread_mutex_lock(&engine->sync_lock);
            continue;
        }
        if (!engine->written_unsynced || engine_has_failed(engine)) {
            pthread_cond_wait(&engine->sync_wake, &engine->sync_lock);
            continue;
        }
        uint64_t due_ms = engine->written_since_ms + engine->interval_ms;
        if (now_ms() >= due_ms)
            break;
        struct timespec deadline = deadline_of(due_ms);
        pthread_cond_timedwait(&engine->sync_wake, &engine->sync_lock, &deadline);
    }
    atomic_store(&engine->sync_busy, true);
    return !engine->sync_stop;
}

static void sync_and_complete(struct engine *engine, struct chain *chain, uint64_t commit,
                              bool unsynced)
{
    bool synced = !unsynced || engine_sync(engine, commit);
    uint64_t ticket = 0;
    for (struct storage_append *part = chain->head; part != NULL; part = part->next) {
        if (part->request.status == STATUS_OK && !synced)
            part->request.status = STATUS_STORAGE_FAILED;
        ticket = part->engine[SLOT_TICKET];
    }
    chain_complete(engine, chain);
    if (ticket != 0)
        atomic_store_explicit(&engine->done_ticket, ticket, memory_order_release);
}

static void *syncer_run(void *context)
{
    struct engine *engine = context;
    pthread_mutex_lock(&engine->sync_lock);
    while (wait_for_written(engine)) {
        struct chain chain = engine->written;
        engine->written = (struct chain){0};
        uint64_t commit = engine->written_commit;
        bool unsynced = engine->written_unsynced;
        engine->written_unsynced = false;
        pthread_mutex_unlock(&engine->sync_lock);
        sync_and_complete(engine, &chain, commit, unsynced);
        if (atomic_load_explicit(&engine->posted, memory_order_relaxed) != NULL)
            write_posted(engine);
        pthread_mutex_lock(&engine->sync_lock);
    }
    atomic_store(&engine->sync_busy,
                 false); /* the writer is stopped after this thread's last look */
    pthread_mutex_unlock(&engine->sync_lock);
    return NULL;
}

void syncer_start(struct engine *engine)
{
    CHECK(pthread_create(&engine->syncer, NULL, syncer_run, engine) == 0);
    pthread_setname_np(engine->syncer, "store-syncer");
}

void syncer_stop(struct engine *engine)
{
    pthread_mutex_lock(&engine->sync_lock);
    engine->sync_stop = true;
    pthread_cond_signal(&engine->sync_wake);
    pthread_mutex_unlock(&engine->sync_lock);
    pthread_join(engine->syncer, NULL);
}
