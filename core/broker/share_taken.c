/* SPDX-License-Identifier: Apache-2.0 */
/* Records of durable shares that members without a session have taken, and wait to hear that a
 * crash brings none of them back. All of a turn, and of the turns while that is written, are one
 * write: a unit by itself. */
#include "core/base/heap.h"
#include "core/broker/share.h"

enum { AGAIN_MS = 1000 };

struct share_taken {
    struct broker_worker *worker;
    struct loop_task task;
    struct loop_timer again;
    struct share_unit next, writing;
    bool is_writing;
};

static void write_next(struct share_taken *taken);

static void write_again(struct loop_timer *timer)
{
    struct share_taken *taken = container_of(timer, struct share_taken, again);
    taken->worker->calls--;
    share_unit_write(&taken->writing, taken->worker);
}

static void written(struct request *request, enum status status)
{
    struct share_taken *taken = container_of(request, struct share_taken, writing.request);
    if (status == STATUS_NO_SPACE && !taken->worker->ending) { /* there may be some later */
        taken->worker->calls++;
        loop_timer_start(taken->worker->loop, &taken->again, AGAIN_MS);
        return;
    }
    share_unit_release(&taken->writing, status);
    taken->is_writing = false;
    write_next(taken);
}

static void write_next(struct share_taken *taken)
{
    if (taken->is_writing || taken->next.count == 0)
        return;
    taken->is_writing = true;
    taken->writing = taken->next;
    taken->next = (struct share_unit){0};
    request_init(&taken->writing.request, taken->worker->loop, written);
    share_unit_write(&taken->writing, taken->worker);
}

static void run(struct loop_task *task)
{
    write_next(container_of(task, struct share_taken, task));
}

bool broker_share_taken(struct subscription *subscription, uint32_t lease)
{
    struct share_seat *seat = share_seat_of(subscription);
    struct share_taken *taken = seat->worker->taken;
    CHECK(loop_is_home(seat->worker->loop));
    if (share_lease_ref(seat, lease).number == 0)
        return false;
    CHECK(share_unit_add(&taken->next, seat, lease) == STATUS_OK);
    loop_defer(seat->worker->loop, &taken->task, LOOP_WORK);
    return true;
}

void share_taken_init(struct broker_worker *worker)
{
    worker->taken = heap_new(sizeof *worker->taken);
    worker->taken->worker = worker;
    worker->taken->task.run = run;
    worker->taken->again.fired = write_again;
}

void share_taken_deinit(struct broker_worker *worker)
{
    CHECK(!worker->taken->is_writing); /* that is a call */
    loop_task_cancel(worker->loop, &worker->taken->task);
    heap_free(worker->taken->next.leases);
    heap_free(worker->taken);
}
