/* SPDX-License-Identifier: Apache-2.0 */
/* What a partition remembers, from its opening to its end: producers that come and go, the time
 * when the oldest keys are forgotten. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/queue/dedup_impl.h"

enum { LOOK_AGAIN_MS = 60 * 1000 };

void dedup_enter(struct dedup *dedup)
{
    dedup->in_flight++;
    dedup->worker->in_flight++;
}

static void producer_free(struct dedup *dedup, struct dedup_producer *producer)
{
    dedup->worker->producers--;
    dedup_owner_count(&dedup->worker->owners, producer->owner, 0, -1);
    heap_free(producer);
}

static void dedup_free(struct dedup *dedup)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&dedup->producers, &i)) != NULL;)
        producer_free(dedup, slot->value);
    map_deinit(&dedup->producers);
    map_deinit(&dedup->pending);
    dedup_window_deinit(&dedup->window);
    batch_builder_deinit(&dedup->builder);
    buf_deinit(&dedup->scan_first);
    heap_free(dedup->sweep_rows);
    heap_free(dedup);
}

/* A closed one goes with its last request. */
void dedup_leave(struct dedup *dedup)
{
    CHECK(dedup->in_flight > 0);
    dedup->worker->in_flight--;
    if (--dedup->in_flight > 0 || dedup->state != DEDUP_CLOSED)
        return;
    if (dedup->removing) {
        dedup->removing = false;
        dedup_store_remove(dedup);
        return;
    }
    dedup_free(dedup);
}

static uint64_t window_of(uint64_t window_ms)
{
    return window_ms == 0 ? DEDUP_WINDOW_MS : window_ms;
}

static void timer_fired(struct loop_timer *timer)
{
    dedup_check(container_of(timer, struct dedup, timer));
}

struct dedup *dedup_open(struct dedup_worker *worker, uint64_t partition, uint64_t window_ms)
{
    CHECK(loop_is_home(worker->loop));
    struct dedup *dedup = heap_new(sizeof *dedup);
    dedup->worker = worker;
    dedup->partition = partition;
    dedup->timer.fired = timer_fired;
    dedup_window_init(&dedup->window, window_of(window_ms), worker);
    map_init(&dedup->producers);
    map_init(&dedup->pending);
    list_init(&dedup->waiting);
    list_init(&dedup->flying);
    batch_builder_init(&dedup->builder);
    dedup_store_load(dedup);
    return dedup;
}

void dedup_limit(struct dedup *dedup, uint64_t window_ms)
{
    CHECK(loop_is_home(dedup->worker->loop));
    dedup->window.window_ms = window_of(window_ms);
    dedup_arm(dedup);
}

void dedup_close(struct dedup *dedup, bool remove)
{
    CHECK(loop_is_home(dedup->worker->loop) && dedup->state != DEDUP_CLOSED);
    loop_timer_stop(dedup->worker->loop, &dedup->timer);
    dedup->state = DEDUP_CLOSED;
    dedup->failure = remove ? STATUS_NOT_FOUND : STATUS_SHUTTING_DOWN;
    dedup->removing = remove;
    dedup_run_waiting(dedup);
    dedup_enter(dedup);
    dedup_leave(dedup);
}

void dedup_close_delay(struct dedup *dedup)
{
    CHECK(loop_is_home(dedup->worker->loop));
    dedup->no_delay = true;
}

void dedup_arm(struct dedup *dedup)
{
    int64_t at_ms = dedup_window_expiry(&dedup->window);
    bool idle = at_ms == INT64_MAX && dedup->producers.count == 0;
    struct loop *loop = dedup->worker->loop;
    if (dedup->state != DEDUP_SERVING || idle) {
        loop_timer_stop(loop, &dedup->timer);
        return;
    }
    int64_t left_ms = at_ms - steady_now(&dedup->clock);
    if (left_ms > LOOK_AGAIN_MS)
        left_ms = LOOK_AGAIN_MS;
    loop_timer_start(loop, &dedup->timer, left_ms > 0 ? (uint64_t)left_ms : 1);
}

void dedup_check(struct dedup *dedup)
{
    CHECK(loop_is_home(dedup->worker->loop));
    if (dedup->state != DEDUP_SERVING)
        return;
    dedup_store_sweep(dedup);
    dedup_arm(dedup);
}

struct dedup_producer *dedup_find_producer(const struct dedup *dedup, uint64_t id)
{
    return map_get(&dedup->producers, span_of(&id, sizeof id));
}

struct dedup_producer *dedup_add_producer(struct dedup *dedup, uint64_t id, uint64_t owner)
{
    struct dedup_producer *producer = dedup_producer_new(id);
    producer->owner = owner;
    map_put(&dedup->producers, span_of(&producer->id, sizeof producer->id), producer);
    dedup->worker->producers++;
    dedup_owner_count(&dedup->worker->owners, owner, 0, 1);
    return producer;
}

void dedup_drop_producer(struct dedup *dedup, struct dedup_producer *producer)
{
    map_remove(&dedup->producers, span_of(&producer->id, sizeof producer->id));
    producer_free(dedup, producer);
}
