/* SPDX-License-Identifier: Apache-2.0 */
/* The reader thread: takes reads, scans, floors and bounds in turn, so that a long queue of one
 * kind does not hold up the others. It also drops old files, because that takes a lock inside
 * RocksDB. */
#include "core/base/check.h"
#include "storage/rocksdb/engine.h"

static void push(struct engine *engine, enum work kind, struct request *request)
{
    struct work_queue *queue = &engine->work[kind];
    request->mail.next = NULL;
    pthread_mutex_lock(&engine->reader_lock);
    if (queue->head == NULL)
        queue->head = &request->mail;
    else
        queue->tail->next = &request->mail;
    queue->tail = &request->mail;
    pthread_cond_signal(&engine->reader_wake);
    pthread_mutex_unlock(&engine->reader_lock);
}

void engine_read(struct storage *storage, struct storage_read *read)
{
    push(engine_of(storage), WORK_READ, &read->request);
}

void engine_scan(struct storage *storage, struct storage_scan *scan)
{
    push(engine_of(storage), WORK_SCAN, &scan->request);
}

void engine_floor(struct storage *storage, struct storage_floor *floor)
{
    push(engine_of(storage), WORK_FLOOR, &floor->request);
}

void engine_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    push(engine_of(storage), WORK_BOUNDS, &bounds->request);
}

void readers_want_drop(struct engine *engine)
{
    pthread_mutex_lock(&engine->reader_lock);
    if (!engine->drop_wanted) {
        engine->drop_wanted = true;
        engine->drop_at_ms = now_ms() + DROP_DELAY_MS;
    }
    engine->drop_attempts = 0;
    pthread_cond_signal(&engine->reader_wake);
    pthread_mutex_unlock(&engine->reader_lock);
}

/* With the lock held. NULL: nothing to do. */
static struct request *take(struct engine *engine, enum work *kind)
{
    for (unsigned i = 0; i < WORKS; i++) {
        unsigned which = (engine->work_turn + i) % WORKS;
        struct mail *mail = engine->work[which].head;
        if (mail == NULL)
            continue;
        engine->work[which].head = mail->next;
        engine->work_turn = which + 1;
        *kind = (enum work)which;
        return container_of(mail, struct request, mail);
    }
    return NULL;
}

static void work_on(struct engine *engine, enum work kind, struct request *request)
{
    enum status status = STATUS_INTERNAL;
    switch (kind) {
    case WORK_READ:
        status = find_read(engine, container_of(request, struct storage_read, request));
        break;
    case WORK_SCAN:
        status = find_scan(engine, container_of(request, struct storage_scan, request));
        break;
    case WORK_FLOOR:
        status = find_floor(engine, container_of(request, struct storage_floor, request));
        break;
    case WORK_BOUNDS:
        status = find_bounds(engine, container_of(request, struct storage_bounds, request));
        break;
    case WORKS:
        break;
    }
    request_complete(request, status);
}

/* With the lock held: takes on the dropping when it is due. */
static bool drop_is_mine(struct engine *engine)
{
    if (!engine->drop_wanted || engine->drop_running || now_ms() < engine->drop_at_ms)
        return false;
    engine->drop_wanted = false;
    engine->drop_running = true;
    return true;
}

static void *reader_run(void *context)
{
    struct engine *engine = context;
    pthread_mutex_lock(&engine->reader_lock);
    while (!engine->reader_stop) {
        enum work kind;
        struct request *request = take(engine, &kind);
        bool drop = drop_is_mine(engine);
        if (request != NULL || drop) {
            pthread_mutex_unlock(&engine->reader_lock);
            if (request != NULL)
                work_on(engine, kind, request);
            if (drop)
                drop_files(engine);
            pthread_mutex_lock(&engine->reader_lock);
        } else if (engine->drop_wanted && !engine->drop_running) {
            struct timespec deadline = deadline_of(engine->drop_at_ms);
            pthread_cond_timedwait(&engine->reader_wake, &engine->reader_lock, &deadline);
        } else {
            pthread_cond_wait(&engine->reader_wake, &engine->reader_lock);
        }
    }
    pthread_mutex_unlock(&engine->reader_lock);
    return NULL;
}

void readers_start(struct engine *engine)
{
    for (int i = 0; i < READER_THREADS; i++) {
        CHECK(pthread_create(&engine->readers[i], NULL, reader_run, engine) == 0);
        pthread_setname_np(engine->readers[i], "store-reader");
    }
}

void readers_stop(struct engine *engine)
{
    pthread_mutex_lock(&engine->reader_lock);
    engine->reader_stop = true;
    pthread_cond_broadcast(&engine->reader_wake);
    pthread_mutex_unlock(&engine->reader_lock);
    for (int i = 0; i < READER_THREADS; i++)
        pthread_join(engine->readers[i], NULL);
}
