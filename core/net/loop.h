/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's event loop: turns, timers, deferred tasks, a mailbox. libuv stands behind it
 * (loop_uv.c); the simulator links a loop of its own with virtual time. Unless a line says "any
 * thread", every call belongs on the loop's own thread, and asserts it. */
#ifndef CORE_NET_LOOP_H
#define CORE_NET_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

struct loop *loop_new(void);       /* any thread; becomes home of the thread that calls loop_run */
void loop_free(struct loop *loop); /* after loop_run returned; pending mails are dropped */
void loop_run(struct loop *loop);  /* until loop_stop */
void loop_stop(struct loop *loop); /* any thread */
bool loop_is_home(const struct loop *loop);    /* true also before loop_run, on any thread */
uint64_t loop_now_ms(const struct loop *loop); /* monotonic, read once per turn */
void *loop_native(struct loop *loop);          /* uv_loop_t; for core/net and adapters/http only */

/* A task runs once, at the end of the turn that deferred it and before the loop sleeps. All WORK
 * tasks (seal batches, match, deliver) run before the FLUSH tasks (write sockets); work deferred by
 * a flush runs in the same turn too (tasks that defer tasks without end leave
 * the rest to the next turn, so that sockets have theirs). Deferring a queued task again changes
 * nothing. The caller owns the task, zero-initialises it, and cancels it before its memory goes. */
enum loop_phase { LOOP_WORK, LOOP_FLUSH, LOOP_PHASES };
struct loop_task {
    struct loop_task *next;
    struct loop_task **previous; /* NULL: not queued */
    void (*run)(struct loop_task *task);
};
void loop_defer(struct loop *loop, struct loop_task *task, enum loop_phase phase);
void loop_task_cancel(struct loop *loop, struct loop_task *task);

/* One-shot timers; the caller owns them, zero-initialised with fired set. Starting a running timer
 * moves it. Equal times fire in the order of starting. */
struct loop_timer {
    uint64_t due_ms;
    uint64_t order;
    uint32_t index; /* place in the heap + 1; 0: not running */
    void (*fired)(struct loop_timer *timer);
};
void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms);
void loop_timer_stop(struct loop *loop, struct loop_timer *timer);
static inline bool loop_timer_is_running(const struct loop_timer *timer)
{
    return timer->index != 0;
}

#endif
