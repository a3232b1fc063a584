/* SPDX-License-Identifier: Apache-2.0 */
/* The reader threads: they take reads, scans, floors and bounds in turn, so that a long queue of
 * one kind does not hold up the others. They also drop old files, because that takes a lock inside
 * RocksDB, and read what is to be moved. */
#include "core/base/check.h"
#include "core/base/heap.h"
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

/* With the lock held: until somebody asks for something, or what is put off is due. */
static void wait_for_work(struct engine *engine)
{
    const struct evacuation *evacuation = &engine->evacuation;
    uint64_t at_ms = UINT64_MAX;
    if (engine->drop_wanted && !engine->drop_running)
        at_ms = engine->drop_at_ms;
    if (evacuation->wanted && !evacuation->running && evacuation->at_ms < at_ms)
        at_ms = evacuation->at_ms;
    if (at_ms == UINT64_MAX) {
        pthread_cond_wait(&engine->reader_wake, &engine->reader_lock);
        return;
    }
    struct timespec deadline = deadline_of(at_ms);
    pthread_cond_timedwait(&engine->reader_wake, &engine->reader_lock, &deadline);
}

/* With the lock held, but not while it works. False: there was nothing to do. */
static bool work_once(struct engine *engine, struct reader *reader)
{
    enum work kind;
    struct request *request = take(engine, &kind);
    bool evacuate = evacuate_is_mine(engine), drop = drop_is_mine(engine);
    if (request == NULL && !evacuate && !drop)
        return false;
    reader->work = ++engine->work_number;
    pthread_mutex_unlock(&engine->reader_lock);
    if (request != NULL)
        work_on(engine, kind, request);
    if (evacuate)
        evacuate_step(engine);
    pthread_mutex_lock(&engine->reader_lock);
    reader->work = 0;
    if (drop) {
        pthread_mutex_unlock(&engine->reader_lock);
        drop_files(engine);
        pthread_mutex_lock(&engine->reader_lock);
    }
    return true;
}

static void *reader_run(void *context)
{
    struct reader *reader = context;
    struct engine *engine = reader->engine;
    pthread_mutex_lock(&engine->reader_lock);
    while (!engine->reader_stop)
        if (!work_once(engine, reader))
            wait_for_work(engine);
    pthread_mutex_unlock(&engine->reader_lock);
    return NULL;
}

void readers_start(struct engine *engine)
{
    engine->readers = heap_array(engine->reader_count, sizeof *engine->readers);
    drop_want(engine); /* the last process may have ended before it came to that */
    for (uint32_t i = 0; i < engine->reader_count; i++) {
        struct reader *reader = &engine->readers[i];
        reader->engine = engine;
        CHECK(pthread_create(&reader->thread, NULL, reader_run, reader) == 0);
        pthread_setname_np(reader->thread, "store-reader");
    }
}

void readers_stop(struct engine *engine)
{
    pthread_mutex_lock(&engine->reader_lock);
    engine->reader_stop = true;
    pthread_cond_broadcast(&engine->reader_wake);
    pthread_mutex_unlock(&engine->reader_lock);
    for (uint32_t i = 0; i < engine->reader_count; i++)
        pthread_join(engine->readers[i].thread, NULL);
}
