/* SPDX-License-Identifier: Apache-2.0 */
/* See retained_sweep.h. */
#include "core/broker/retained_sweep.h"

#include "core/base/heap.h"
#include "core/base/trace.h"
#include "core/broker/worker.h"
#include "core/log/table.h"

enum {
    SLICE_ROWS = 128,
    REMOVED_ROWS = 32, /* in one write: each is a look at the row on the store's writing thread */
    PAUSE_MS = 20,     /* between slices */
    REST_FACTOR = 2,   /* rests so many times as long as the last pass took */
};

struct retained_sweep {
    struct broker_worker *worker;
    struct loop_timer timer;
    bool closed, running;
    uint64_t began_ms, rested_ms;
    int64_t earliest_ms; /* expiry of those that this pass has seen */
    struct retained_place next;
    uint8_t end;
    struct storage_scan scan;
    struct blob *slice;
    size_t at; /* in slice */
    struct log_rows write;
    struct storage_row rows[REMOVED_ROWS];
};

void retained_sweep_expect(struct broker *broker, int64_t expires_at_ms)
{
    int64_t due_ms = atomic_load(&broker->retained_due_ms);
    while (expires_at_ms < due_ms &&
           !atomic_compare_exchange_weak(&broker->retained_due_ms, &due_ms, expires_at_ms))
        continue;
}

static void pause_for(struct retained_sweep *sweep, uint64_t delay_ms)
{
    if (!sweep->closed)
        loop_timer_start(sweep->worker->loop, &sweep->timer, delay_ms);
}

static void pass_end(struct retained_sweep *sweep)
{
    uint64_t now_ms = loop_now_ms(sweep->worker->loop);
    sweep->running = false;
    sweep->rested_ms = now_ms + (now_ms - sweep->began_ms) * REST_FACTOR;
    retained_sweep_expect(sweep->worker->broker, sweep->earliest_ms);
    pause_for(sweep, broker_sweep_ms(sweep->worker->broker));
}

static void slice_drop(struct retained_sweep *sweep)
{
    blob_unref(sweep->slice);
    sweep->slice = NULL;
}

/* Everything is looked at once more, later. */
static void pass_fail(struct retained_sweep *sweep)
{
    slice_drop(sweep);
    sweep->earliest_ms = 0;
    pass_end(sweep);
}

/* ------------------------------------------------ removing */

static void remove_more(struct retained_sweep *sweep);

static void removed(struct request *request, enum status status)
{
    struct retained_sweep *sweep = container_of(request, struct retained_sweep, write.request);
    sweep->worker->calls--;
    if (status != STATUS_OK) {
        pass_fail(sweep);
        return;
    }
    metric_add(sweep->worker->broker->metrics.retained_expired,
               (int64_t)sweep->write.row_count - sweep->write.append.kept);
    remove_more(sweep);
}

/* When the row's record expires; INT64_MAX: never. */
static int64_t expiry_of(struct span value)
{
    struct batch *batch;
    struct record record;
    enum status status = retained_value_open(value, &batch);
    if (status != STATUS_OK) {
        trace(TRACE_ERROR, "a retained record cannot be read: %s", status_text(status));
        return INT64_MAX;
    }
    batch_record(batch, 0, &record);
    int64_t expires_at_ms = deliver_expiry(&record);
    batch_unref(batch);
    return expires_at_ms;
}

/* The next of the slice that have expired; keys and values stay where they were read. */
static uint32_t pick(struct retained_sweep *sweep)
{
    int64_t now_ms = clock_wall_ms();
    struct span key, value;
    uint32_t count = 0;
    while (count < REMOVED_ROWS && storage_scan_next(&sweep->scan, &sweep->at, &key, &value)) {
        int64_t expires_at_ms = expiry_of(value);
        if (expires_at_ms <= now_ms)
            sweep->rows[count++] = (struct storage_row){
                .change = STORAGE_DELETE_WHEN,
                .key = key,
                .value = span_of(value.data, RETAINED_VALUE_HEAD),
                .offset_at = -1,
            };
        else if (expires_at_ms < sweep->earliest_ms)
            sweep->earliest_ms = expires_at_ms;
    }
    return count;
}

static void remove_more(struct retained_sweep *sweep)
{
    uint32_t count = sweep->closed ? 0 : pick(sweep);
    if (count == 0) {
        slice_drop(sweep);
        if (sweep->scan.more)
            pause_for(sweep, PAUSE_MS);
        else
            pass_end(sweep);
        return;
    }
    sweep->write = (struct log_rows){.rows = sweep->rows, .row_count = count};
    request_init(&sweep->write.request, sweep->worker->loop, removed);
    sweep->write.append.durability = DURABLE_INTERVAL; /* what a crash brings back is found again */
    sweep->worker->calls++;
    log_rows_write(sweep->worker->broker->log, &sweep->write);
}

/* ------------------------------------------------ reading */

/* Behind the last row of the slice. */
static void move_on(struct retained_sweep *sweep)
{
    struct span key, value;
    for (size_t at = 0; storage_scan_next(&sweep->scan, &at, &key, &value);) {
        bool ours = key.size <= RETAINED_KEY_MAX;
        sweep->next.size = ours ? key.size : 1;
        memcpy(sweep->next.key, key.data, sweep->next.size);
        if (ours)
            sweep->next.key[sweep->next.size++] = 0;
        else
            sweep->next.key[0]++; /* behind the table */
    }
}

static void slice_read(struct request *request, enum status status)
{
    struct retained_sweep *sweep = container_of(request, struct retained_sweep, scan.request);
    sweep->worker->calls--;
    if (status != STATUS_OK) {
        pass_fail(sweep);
        return;
    }
    sweep->slice = sweep->scan.rows;
    sweep->at = 0;
    move_on(sweep);
    remove_more(sweep);
}

static void read_slice(struct retained_sweep *sweep)
{
    sweep->end = TABLE_RETAINED + 1;
    sweep->scan = (struct storage_scan){
        .first = retained_place_span(&sweep->next),
        .end = span_of(&sweep->end, 1),
        .limit = SLICE_ROWS,
    };
    request_init(&sweep->scan.request, sweep->worker->loop, slice_read);
    sweep->worker->calls++;
    log_rows_scan(sweep->worker->broker->log, &sweep->scan);
}

static void pass_begin(struct retained_sweep *sweep)
{
    sweep->running = true;
    sweep->began_ms = loop_now_ms(sweep->worker->loop);
    sweep->earliest_ms = INT64_MAX;
    /* A row that can be found from here on says so itself; the pass may see it, or not. */
    atomic_store(&sweep->worker->broker->retained_due_ms, INT64_MAX);
    sweep->next.key[0] = TABLE_RETAINED;
    sweep->next.size = 1;
    read_slice(sweep);
}

static void tick(struct loop_timer *timer)
{
    struct retained_sweep *sweep = container_of(timer, struct retained_sweep, timer);
    struct broker *broker = sweep->worker->broker;
    if (sweep->running)
        read_slice(sweep);
    else if (atomic_load(&broker->retained_any) &&
             loop_now_ms(sweep->worker->loop) >= sweep->rested_ms &&
             clock_wall_ms() >= atomic_load(&broker->retained_due_ms))
        pass_begin(sweep);
    else
        pause_for(sweep, broker_sweep_ms(broker));
}

void retained_sweep_start(struct broker_worker *worker)
{
    struct retained_sweep *sweep = worker->broker->retained_sweep = heap_new(sizeof *sweep);
    sweep->worker = worker;
    sweep->timer.fired = tick;
    pause_for(sweep, broker_sweep_ms(worker->broker));
}

void retained_sweep_stop(struct broker_worker *worker)
{
    struct retained_sweep *sweep = worker->broker->retained_sweep;
    if (sweep == NULL || sweep->worker != worker)
        return;
    sweep->closed = true;
    loop_timer_stop(worker->loop, &sweep->timer);
}

void retained_sweep_free(struct broker *broker)
{
    if (broker->retained_sweep == NULL)
        return;
    slice_drop(broker->retained_sweep);
    heap_free(broker->retained_sweep);
}
