/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of wills that are no part of a session. */
#include "core/broker/will_wait.h"

#include "core/base/heap.h"
#include "core/base/rng.h"
#include "core/broker/worker.h"

enum { HOLD_MS = 50, WRITE_ROWS = 256, WRITE_BYTES = 512 * 1024, TRIES = 10 };

struct held_will {
    struct link link; /* in fresh, until it is written */
    uint64_t number;
    struct blob *value;
};

/* ------------------------------------------------ of clients that are there */

struct held_write {
    struct log_rows write;
    struct broker_worker *worker;
    struct storage_row rows[WRITE_ROWS];
    uint8_t keys[WRITE_ROWS][WILL_KEY];
    struct blob *values[WRITE_ROWS];
};

/* What could not be written is as if the gateway had been killed before: there is nothing else to
 * do about it. */
static void held_written(struct request *request, enum status status)
{
    struct held_write *write = container_of(request, struct held_write, write.request);
    (void)status;
    write->worker->calls--;
    for (uint32_t i = 0; i < write->write.row_count; i++)
        blob_unref(write->values[i]);
    heap_free(write);
}

static void write_row(struct held_write *write, uint64_t number, struct blob *value)
{
    uint32_t row = write->write.row_count++;
    write->values[row] = value;
    will_key(WILL_KIND_HELD, write->worker->broker->run, number, write->keys[row]);
    write->rows[row] = (struct storage_row){
        .change = value == NULL ? STORAGE_DELETE : STORAGE_PUT,
        .key = span_of(write->keys[row], WILL_KEY),
        .value = value == NULL ? (struct span){0} : blob_span(value),
        .offset_at = -1,
    };
}

static void write_some(struct broker_worker *worker)
{
    struct wills *wills = &worker->wills;
    struct held_write *write = heap_new(sizeof *write);
    size_t bytes = 0;
    struct link *link;
    write->worker = worker;
    while (write->write.row_count < WRITE_ROWS && bytes < WRITE_BYTES &&
           (link = list_pop(&wills->fresh)) != NULL) {
        struct held_will *held = container_of(link, struct held_will, link);
        bytes += held->value->size;
        write_row(write, held->number, held->value);
        held->value = NULL;
    }
    while (write->write.row_count < WRITE_ROWS && wills->over_count > 0)
        write_row(write, wills->over[--wills->over_count], NULL);
    write->write.rows = write->rows;
    write->write.append.durability = DURABLE_INTERVAL;
    request_init(&write->write.request, worker->loop, held_written);
    worker->calls++;
    log_rows_write(worker->broker->log, &write->write);
}

static void write_all(struct loop_timer *timer)
{
    struct wills *wills = container_of(timer, struct wills, timer);
    struct broker_worker *worker = container_of(wills, struct broker_worker, wills);
    while (!list_is_empty(&wills->fresh) || wills->over_count > 0)
        write_some(worker);
}

static void write_soon(struct broker_worker *worker)
{
    if (!loop_timer_is_running(&worker->wills.timer))
        loop_timer_start(worker->loop, &worker->wills.timer, HOLD_MS);
}

struct held_will *will_hold(struct broker_worker *worker, uint64_t tenant, struct span client_id,
                            struct span row)
{
    struct waiting_will will = {.tenant = tenant, .client_id = client_id, .row = row};
    struct held_will *held = heap_new(sizeof *held);
    held->number = (uint64_t)worker->index << 48 | ++worker->wills.number;
    held->value = waiting_will_encode(&will);
    list_push(&worker->wills.fresh, &held->link);
    write_soon(worker);
    return held;
}

void will_let_go(struct broker_worker *worker, struct held_will *held)
{
    struct wills *wills = &worker->wills;
    if (held == NULL)
        return;
    if (link_is_linked(&held->link)) {
        link_remove(&held->link);
        blob_unref(held->value);
    } else {
        if (wills->over_count == wills->over_capacity) {
            wills->over_capacity = wills->over_capacity == 0 ? 64 : wills->over_capacity * 2;
            wills->over = heap_resize(wills->over, wills->over_capacity * sizeof *wills->over);
        }
        wills->over[wills->over_count++] = held->number;
        write_soon(worker);
    }
    heap_free(held);
}

void wills_init(struct broker_worker *worker)
{
    list_init(&worker->wills.fresh);
    worker->wills.timer.fired = write_all;
}

bool wills_are_busy(const struct broker_worker *worker)
{
    return worker->wills.over_count > 0;
}

void wills_deinit(struct broker_worker *worker)
{
    loop_timer_stop(worker->loop, &worker->wills.timer);
    heap_free(worker->wills.over);
}

/* ------------------------------------------------ refused for a while */

struct will_later {
    struct log_rows write;
    struct will_say *say;
    struct storage_row row;
    uint8_t key[WILL_KEY];
    struct blob *value;
};

uint64_t will_patience_ms(uint32_t tries)
{
    return tries >= TRIES ? 0 : 1000ULL << tries;
}

static void later_written(struct request *request, enum status status)
{
    struct will_later *later = container_of(request, struct will_later, write.request);
    later->say->worker->calls--;
    later->say->request.done(&later->say->request, status);
}

struct will_later *will_later(struct will_say *say)
{
    struct waiting_will will = {
        .tenant = say->tenant, .client_id = say->client_id, .row = say->row};
    struct will_later *later = heap_new(sizeof *later);
    later->say = say;
    later->value = waiting_will_encode(&will);
    will_key(WILL_KIND_WAITING, (uint64_t)clock_wall_ms() + will_patience_ms(0), rng_u64(),
             later->key);
    later->row = (struct storage_row){
        .change = STORAGE_PUT,
        .key = span_of(later->key, WILL_KEY),
        .value = blob_span(later->value),
        .offset_at = -1,
    };
    later->write = (struct log_rows){.rows = &later->row, .row_count = 1};
    later->write.append.durability = DURABLE_SYNC;
    request_init(&later->write.request, say->worker->loop, later_written);
    say->worker->calls++;
    log_rows_write(say->worker->broker->log, &later->write);
    return later;
}

void will_later_free(struct will_later *later)
{
    blob_unref(later->value);
    heap_free(later);
}
