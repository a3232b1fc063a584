/* SPDX-License-Identifier: Apache-2.0 */
/* What a session stores while its client is there. Position and flights are one write, and of a
 * client one row (of a share: session_blocks.c): before an exactly-once delivery goes out, before
 * the client is told to forget one, and otherwise now and then. After a crash what was not written
 * is sent again. */
#include "core/broker/session.h"
#include "core/broker/share.h"

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/log/table.h"

enum { SAVE_MS = 1000, POSITION_BYTES = 16 * 1024 * 1024 };

/* ------------------------------------------------ position and flights */

void session_encode(struct session *session, struct buf *to)
{
    session_handled(session);
    buf_clear(to);
    struct pack pack = pack_into(to);
    bool here = session->share == 0;
    uint32_t in_unit = session->unit == NULL ? 0 : session->unit->count;
    session_position_begin(&pack, session->position, session->marks, session->mark_count,
                           here ? session->in_flight - in_unit : 0);
    for (uint32_t i = !here || session->in_flight == 0 ? 0 : session->flights[0].next; i != 0;
         i = session->flights[i].next)
        if (!session->flights[i].in_unit)
            session_flight_encode(&pack, &session->flights[i].at);
    CHECK(pack.status == STATUS_OK);
}

static void send_held(struct session *session, struct flight *flight)
{
    struct client *client = session->client;
    struct blob *frame = flight->frame;
    flight->frame = NULL;
    flight->stored = false;
    flight->at.state = FLIGHT_SENT;
    session->holding--;
    bool sent = session_deliver(session, flight, frame, false);
    blob_unref(frame);
    if (!sent) { /* too large for this client: as if it had it */
        session_flight_end(session, flight);
        client->credit++;
        session->refunded = true;
    }
}

bool session_refund(struct session *session)
{
    struct client *client = session->client;
    if (!session->refunded)
        return false;
    session->refunded = false;
    client_drained(client);
    if (client->ops->refunded != NULL)
        client->ops->refunded(client);
    return true;
}

void session_pay(struct session *session)
{
    struct client *client = session->client;
    for (uint32_t i = session->unpaid == 0 ? 0 : session->flights[0].next, next;
         i != 0 && client->credit > 0; i = next) {
        struct flight *flight = &session->flights[i];
        next = flight->next;
        if (!flight->unpaid)
            continue;
        if (!flight->stored)
            return;
        flight->unpaid = false;
        session->unpaid--;
        client->credit--;
        send_held(session, flight);
    }
}

/* Out goes what the row speaks of now. */
static void covered(struct session *session)
{
    struct client *client = session->client;
    if (session->share != 0) {
        share_covered(client);
        return;
    }
    for (uint32_t i = session->in_flight == 0 ? 0 : session->flights[0].next, next; i != 0;
         i = next) {
        struct flight *flight = &session->flights[i];
        next = flight->next;
        if (!flight->covered)
            continue;
        flight->covered = false;
        if (flight->at.state == FLIGHT_TAKEN) {
            flight->at.state = FLIGHT_RELEASED;
            client->ops->release(client, i);
        } else if (flight->at.state == FLIGHT_HELD && flight->unpaid) {
            flight->stored = true;
        } else if (flight->at.state == FLIGHT_HELD) {
            send_held(session, flight);
        }
    }
    if (!session_refund(session))
        session_go_on(session);
}

/* Of a store that has failed for good: what waits for it would wait for ever. A share's own reader
 * has nobody to tell. */
static void tell_failure(struct session *session, enum status status)
{
    struct client *client = session->client;
    if (client != NULL && client->ops->end != NULL && status == STATUS_STORAGE_FAILED)
        client->ops->end(client, status);
}

/* The write is done, and the session has a client. */
static void go_on(struct session *session, enum status status)
{
    if (status == STATUS_OK) {
        covered(session);
    } else { /* nothing of it goes out; the store refuses everything, or has no room for a while */
        tell_failure(session, status);
        for (uint32_t i = 1; i <= session->flight_count; i++)
            session->flights[i].covered = false;
        session->dirty = true;
        session->urgent = false; /* the timer tries again */
    }
    if (session->urgent)
        loop_defer(session->worker->loop, &session->write_task, LOOP_WORK);
    else if (session->dirty && !loop_timer_is_running(&session->save_timer))
        loop_timer_start(session->worker->loop, &session->save_timer, SAVE_MS);
}

static void written(struct request *request, enum status status)
{
    struct session *session = container_of(request, struct session, write.request);
    struct session_unit *unit = session->unit != NULL && session->unit->sent ? session->unit : NULL;
    session->writing = false;
    heap_free(session->more_rows);
    session->more_rows = NULL;
    session_walk_written(session, status == STATUS_OK);
    session_blocks_written(session, status == STATUS_OK);
    if (status == STATUS_OK)
        worker_synced(session->worker, session->write.append.commit);
    session_aside_end(session, status);
    if (unit != NULL)
        session_unit_end(session, unit, status);
    if (session->client != NULL)
        go_on(session, status);
    session_unit_go_on(session);
    session_back(session);
    if (unit != NULL)
        unit->request.done(&unit->request, status);
}

/* Behind the row of the position: what else the write says, of which flights. */
static void cover(struct session *session)
{
    uint32_t *count = &session->write.row_count;
    if (session->share != 0) {
        session->more_rows = session_block_rows(session, &session->write_row, count);
        return;
    }
    for (uint32_t i = session->in_flight == 0 ? 0 : session->flights[0].next; i != 0;
         i = session->flights[i].next) {
        struct flight *flight = &session->flights[i];
        flight->covered = flight->at.state == FLIGHT_HELD || flight->at.state == FLIGHT_TAKEN;
    }
    session->more_rows = session_walk_rows(session, &session->write_row, count);
}

static void write_start(struct session *session)
{
    session->dirty = session->urgent = false;
    session->writing = true;
    session->settled = 0;
    session->calls++;
    session->worker->calls++;
    session_encode(session, &session->write_value);
    session_kind_key(session->id, SESSION_KIND_POSITION, 0, session->write_key);
    session->write_row = (struct storage_row){
        .change = STORAGE_PUT,
        .key = span_of(session->write_key, SESSION_STATE_KEY),
        .value = buf_span(&session->write_value),
        .offset_at = -1,
    };
    session->write = (struct log_rows){.rows = &session->write_row, .row_count = 1};
    if (session->unit != NULL) {
        session->unit->sent = true;
        session->write.unit = session->unit->unit;
        session->write.part_count = session->unit->part_count;
    }
    cover(session);
    if (session->more_rows != NULL)
        session->write.rows = session->more_rows;
    session_aside_begin(session);
    request_init(&session->write.request, session->worker->loop, written);
    session->write.append.durability = DURABLE_SYNC;
    log_rows_write(session->worker->broker->log, &session->write);
}

void session_write_unit(struct session *session)
{
    write_start(session);
}

static void write_task(struct loop_task *task)
{
    struct session *session = container_of(task, struct session, write_task);
    if (!session->writing)
        write_start(session);
}

void session_write_now(struct session *session)
{
    session->dirty = session->urgent = true;
    if (!session->writing)
        loop_defer(session->worker->loop, &session->write_task, LOOP_WORK);
}

static void save(struct loop_timer *timer)
{
    struct session *session = container_of(timer, struct session, save_timer);
    worker_barrier(session->worker);
    if (session->dirty)
        session_write_now(session);
    if (session->forget_waits)
        loop_defer(session->worker->loop, &session->forget_task, LOOP_WORK);
}

void session_touch(struct session *session)
{
    session->dirty = true;
    if (session->phase != SESSION_ENDING && !loop_timer_is_running(&session->save_timer))
        loop_timer_start(session->worker->loop, &session->save_timer, SAVE_MS);
}

void session_free_frames(struct session *session)
{
    for (uint32_t i = 1; i <= session->flight_count; i++) {
        blob_unref(session->flights[i].frame);
        session->flights[i].frame = NULL;
        heap_free((void *)(uintptr_t)session->flights[i].at.retained.data);
        session->flights[i].at.retained = (struct span){0};
    }
}

/* ------------------------------------------------ rows of their own */

struct session_rows {
    struct log_rows write;
    struct session *session;
    uint64_t number;
    void (*done)(void *context, enum status status, uint64_t commit);
    void *context;
    uint32_t capacity;
    struct storage_row *rows;
    struct memory {
        struct memory *next;
        uint8_t bytes[];
    } * memory;
};

struct session_rows *session_rows_new(struct session *session)
{
    struct session_rows *rows = heap_new(sizeof *rows);
    rows->session = session;
    return rows;
}

struct storage_row *session_rows_add(struct session_rows *rows, enum storage_change change,
                                     struct span key, struct span value)
{
    if (rows->write.row_count == rows->capacity) {
        rows->capacity = rows->capacity == 0 ? 8 : rows->capacity * 2;
        rows->rows = heap_resize(rows->rows, rows->capacity * sizeof *rows->rows);
    }
    struct memory *memory = heap_resize(NULL, sizeof *memory + key.size + value.size);
    memory->next = rows->memory;
    rows->memory = memory;
    memcpy(memory->bytes, key.data, key.size);
    if (value.size > 0)
        memcpy(memory->bytes + key.size, value.data, value.size);
    struct storage_row *row = &rows->rows[rows->write.row_count++];
    *row = (struct storage_row){
        .change = change,
        .key = span_of(memory->bytes, key.size),
        .value = span_of(memory->bytes + key.size, value.size),
        .offset_at = -1,
    };
    return row;
}

static void rows_written(struct request *request, enum status status)
{
    struct session_rows *rows = container_of(request, struct session_rows, write.request);
    struct session *session = rows->session;
    uint64_t commit = rows->write.append.commit;
    uint64_t number = rows->number;
    if (status == STATUS_OK)
        worker_synced(session->worker, commit);
    while (rows->memory != NULL) {
        struct memory *memory = rows->memory;
        rows->memory = memory->next;
        heap_free(memory);
    }
    heap_free(rows->rows);
    if (rows->done != NULL)
        rows->done(rows->context, status, commit);
    heap_free(rows);
    session->row_writes--;
    list_each_safe(link, following, &session->flushes)
    {
        struct broker_flush *flush = container_of(link, struct broker_flush, link);
        if (number > flush->until)
            continue;
        if (status != STATUS_OK)
            flush->status = status;
        if (--flush->left > 0)
            continue;
        link_remove(link);
        request_complete(&flush->request, flush->status);
    }
    session_back(session);
}

void session_rows_send(struct session_rows *rows,
                       void (*done)(void *context, enum status status, uint64_t commit),
                       void *context)
{
    struct session *session = rows->session;
    rows->done = done;
    rows->context = context;
    rows->write.rows = rows->rows;
    rows->write.append.durability = DURABLE_SYNC;
    request_init(&rows->write.request, session->worker->loop, rows_written);
    session->row_writes++;
    rows->number = ++session->rows_sent;
    session->calls++;
    session->worker->calls++;
    log_rows_write(session->worker->broker->log, &rows->write);
}

void broker_flush(struct broker_flush *flush)
{
    struct session *session = flush->client->session;
    if (session == NULL || session->row_writes == 0) {
        request_complete(&flush->request, STATUS_OK);
        return;
    }
    flush->until = session->rows_sent;
    flush->left = session->row_writes;
    flush->status = STATUS_OK;
    list_push(&session->flushes, &flush->link);
}

/* ------------------------------------------------ incoming numbers */

struct forgetting {
    struct session *session;
    uint32_t count;
    uint32_t numbers[];
};

static void forget_add(struct session *session, uint32_t number)
{
    if (session->forget_count == session->forget_capacity) {
        session->forget_capacity =
            session->forget_capacity == 0 ? 16 : session->forget_capacity * 2;
        session->forget =
            heap_resize(session->forget, session->forget_capacity * sizeof *session->forget);
    }
    session->forget[session->forget_count++] = number;
}

/* Nobody asks again: the client waits for its answer. */
static void forget_again(const struct forgetting *forgetting)
{
    struct session *session = forgetting->session;
    for (uint32_t i = 0; i < forgetting->count; i++)
        forget_add(session, forgetting->numbers[i]);
    session->forget_waits = true;
    if (!loop_timer_is_running(&session->save_timer))
        loop_timer_start(session->worker->loop, &session->save_timer, SAVE_MS);
}

static void forgotten(void *context, enum status status, uint64_t commit)
{
    struct forgetting *forgetting = context;
    struct client *client = forgetting->session->client;
    (void)commit;
    for (uint32_t i = 0; client != NULL && status == STATUS_OK && i < forgetting->count; i++)
        client->ops->forgotten(client, forgetting->numbers[i]);
    tell_failure(forgetting->session, status);
    if (client != NULL && status != STATUS_OK && forgetting->session->client != NULL)
        forget_again(forgetting);
    heap_free(forgetting);
}

static void forget_task(struct loop_task *task)
{
    struct session *session = container_of(task, struct session, forget_task);
    uint32_t count = session->forget_count;
    struct forgetting *forgetting =
        heap_new(sizeof *forgetting + count * sizeof *forgetting->numbers);
    struct session_rows *rows = session_rows_new(session);
    forgetting->session = session;
    forgetting->count = count;
    session->forget_count = 0;
    session->forget_waits = false;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t key[SESSION_STATE_KEY];
        forgetting->numbers[i] = session->forget[i];
        session_kind_key(session->id, SESSION_KIND_RECEIVED, session->forget[i], key);
        session_rows_add(rows, STORAGE_DELETE, span_of(key, sizeof key), (struct span){0});
    }
    session_rows_send(rows, forgotten, forgetting);
}

void broker_forget(struct client *client, uint32_t number)
{
    struct session *session = client->session;
    CHECK(session_is_kept(client));
    forget_add(session, number);
    if (!session->forget_waits)
        loop_defer(session->worker->loop, &session->forget_task, LOOP_WORK);
}

void session_write_init(struct session *session)
{
    session->write_task.run = write_task;
    session->forget_task.run = forget_task;
    session->save_timer.fired = save;
    buf_init(&session->write_value, POSITION_BYTES);
    session_blocks_init(session);
    list_init(&session->flushes);
}
