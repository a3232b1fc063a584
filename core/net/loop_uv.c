/* SPDX-License-Identifier: Apache-2.0 */
/* The loop over libuv. A uv turn is: timers, idle, prepare, poll, check. Deferred tasks run in
 * check, behind what the poll brought, and in prepare, behind what the timers brought. Mails of the
 * loop's own thread are delivered in check, too: they need no wake-up. */
#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/list.h"
#include "core/base/trace.h"
#include "core/net/loop_uv.h"
#include "core/net/mailbox.h"
#include "core/net/sends.h"
#include "core/net/timer_heap.h"

/* Tasks that keep deferring tasks must not keep the sockets waiting: after so many rounds the rest
 * runs in the next turn, which then does not sleep. */
enum { ROUNDS_MAX = 16, CLOSE_TURNS_MAX = 100 };

/* A question of the loop to itself, the answer, and what that asks are of one turn; longer chains,
 * such as walks that go on by mail to let the sockets have their turn, take several. */
enum { MAIL_ROUNDS_MAX = 3 };

/* Ends are spread over turns, but their descriptors must not pile up: a turn sees to so many, and
 * to a share of what waits, so that however many come in each turn, a multiple of them waits. */
enum { ENDS_PER_TURN = 32, ENDS_SHARE = 16 };

/* What is seen to in slices. */
struct ends {
    struct list list; /* of struct loop_leaving */
    size_t count;
};

struct task_list {
    struct loop_task *first;
    struct loop_task **last;
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_timer_t timer;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t busy; /* active while tasks are left over: the poll must not sleep */
    struct timer_heap timers;
    uint64_t armed_ms; /* what the uv timer is set to; 0: not set */
    struct task_list deferred[LOOP_PHASES];
    struct task_list running; /* taken from deferred, not yet run */
    struct mailbox mailbox;
    bool own_mail;         /* the first in the mailbox is the loop's own, and nobody will wake it */
    atomic_uintptr_t home; /* the thread in loop_run; 0: none */
    atomic_bool stopping;
    struct list leaving;      /* of struct loop_leaving */
    struct ends ending, over; /* not yet read, not yet closed */
    uint8_t *input;
    struct sends *sends; /* NULL: not gathered */
};

static void list_reset(struct task_list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

static struct loop_task *list_take_first(struct task_list *list)
{
    struct loop_task *task = list->first;
    if (task == NULL)
        return NULL;
    list->first = task->next;
    if (task->next != NULL)
        task->next->previous = &list->first;
    else
        list->last = &list->first;
    task->next = NULL;
    task->previous = NULL;
    return task;
}

static void run_phase(struct loop *loop, enum loop_phase phase)
{
    struct task_list *from = &loop->deferred[phase], *running = &loop->running;
    if (from->first == NULL)
        return;
    CHECK(running->first == NULL);
    running->first = from->first;
    running->first->previous = &running->first;
    running->last = from->last;
    list_reset(from);
    struct loop_task *task;
    while ((task = list_take_first(running)) != NULL)
        task->run(task);
}

static bool has_deferred(const struct loop *loop)
{
    return loop->deferred[LOOP_WORK].first != NULL || loop->deferred[LOOP_FLUSH].first != NULL;
}

static void run_deferred(struct loop *loop)
{
    for (int round = 0; round < ROUNDS_MAX && has_deferred(loop); round++) {
        for (int work = 0; work < ROUNDS_MAX && loop->deferred[LOOP_WORK].first != NULL; work++)
            run_phase(loop, LOOP_WORK);
        run_phase(loop, LOOP_FLUSH);
        if (loop->sends != NULL)
            sends_go(loop->sends);
    }
}

static void take_mail(struct loop *loop)
{
    loop->own_mail = false;
    mailbox_deliver(mailbox_take(&loop->mailbox));
}

static void fire_timers(struct loop *loop)
{
    uint64_t now_ms = uv_now(&loop->uv);
    /* A timer that restarts itself with no delay fires again in the next turn, not in this one. */
    uint64_t order_end = loop->timers.order;
    struct loop_timer *timer;
    while ((timer = timer_heap_first(&loop->timers)) != NULL && timer->due_ms <= now_ms &&
           timer->order < order_end) {
        timer_heap_remove(&loop->timers, timer);
        timer->fired(timer);
    }
}

static void on_timer(uv_timer_t *handle)
{
    struct loop *loop = handle->data;
    loop->armed_ms = 0;
    fire_timers(loop);
}

static void arm_timer(struct loop *loop)
{
    const struct loop_timer *first = timer_heap_first(&loop->timers);
    uint64_t due_ms = first != NULL ? first->due_ms : 0;
    if (due_ms == loop->armed_ms)
        return;
    loop->armed_ms = due_ms;
    if (first == NULL) {
        uv_timer_stop(&loop->timer);
        return;
    }
    uint64_t now_ms = uv_now(&loop->uv);
    uv_timer_start(&loop->timer, on_timer, due_ms > now_ms ? due_ms - now_ms : 0, 0);
}

static void on_idle(uv_idle_t *handle)
{
    (void)handle;
}

static void on_prepare(uv_prepare_t *handle)
{
    struct loop *loop = handle->data;
    run_deferred(loop);
    if (has_deferred(loop) || loop->own_mail || loop->ending.count + loop->over.count > 0)
        uv_idle_start(&loop->busy, on_idle);
    else
        uv_idle_stop(&loop->busy);
    arm_timer(loop);
}

static void ends_add(struct ends *ends, struct loop_leaving *leaving)
{
    list_push(&ends->list, &leaving->link);
    ends->count++;
}

static void finish_some(struct ends *ends)
{
    struct link *link;
    size_t most = ENDS_PER_TURN + ends->count / ENDS_SHARE;
    size_t count = ends->count < most ? ends->count : most; /* one may be added again */
    for (size_t i = 0; i < count && (link = list_pop(&ends->list)) != NULL; i++) {
        ends->count--;
        struct loop_leaving *leaving = container_of(link, struct loop_leaving, link);
        leaving->finish(leaving);
    }
}

static void on_check(uv_check_t *handle)
{
    struct loop *loop = handle->data;
    finish_some(&loop->ending);
    run_deferred(loop);
    for (int round = 0; round < MAIL_ROUNDS_MAX && loop->own_mail; round++) {
        take_mail(loop);
        run_deferred(loop);
    }
    finish_some(&loop->over);
}

static void on_wake(uv_async_t *handle)
{
    struct loop *loop = handle->data;
    if (atomic_load(&loop->stopping))
        uv_stop(&loop->uv);
    take_mail(loop);
}

struct loop *loop_new(void)
{
    struct loop *loop = heap_new(sizeof *loop);
    CHECK(uv_loop_init(&loop->uv) == 0);
    CHECK(uv_async_init(&loop->uv, &loop->wake, on_wake) == 0);
    uv_timer_init(&loop->uv, &loop->timer);
    uv_prepare_init(&loop->uv, &loop->prepare);
    uv_check_init(&loop->uv, &loop->check);
    uv_idle_init(&loop->uv, &loop->busy);
    loop->wake.data = loop->timer.data = loop->prepare.data = loop->check.data = loop;
    uv_prepare_start(&loop->prepare, on_prepare);
    uv_check_start(&loop->check, on_check);
    for (int phase = 0; phase < LOOP_PHASES; phase++)
        list_reset(&loop->deferred[phase]);
    list_reset(&loop->running);
    list_init(&loop->leaving);
    list_init(&loop->ending.list);
    list_init(&loop->over.list);
    return loop;
}

static void finish_leaving(struct loop *loop)
{
    list_each_safe(link, following, &loop->leaving)
    {
        struct loop_leaving *leaving = container_of(link, struct loop_leaving, link);
        leaving->finish(leaving);
    }
    while (loop->ending.count > 0)
        finish_some(&loop->ending);
    while (loop->over.count > 0)
        finish_some(&loop->over);
}

/* Sockets that were being closed get the turns they need. One that nobody closed keeps its memory,
 * and the loop's: its owner is wrong, but a process that is ending should not crash for it. */
void loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    CHECK(atomic_load(&loop->home) == 0);
    run_deferred(loop);
    finish_leaving(loop);
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->timer, NULL);
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    uv_close((uv_handle_t *)&loop->check, NULL);
    uv_close((uv_handle_t *)&loop->busy, NULL);
    for (int turn = 0; turn < CLOSE_TURNS_MAX && uv_run(&loop->uv, UV_RUN_NOWAIT) != 0; turn++) {
        run_deferred(loop);
        finish_leaving(loop);
    }
    if (uv_loop_close(&loop->uv) != 0) {
        trace(TRACE_WARN, "a loop ended with open sockets");
        return;
    }
    timer_heap_deinit(&loop->timers);
    heap_free(loop->input);
    sends_free(loop->sends);
    heap_free(loop);
}

void loop_run(struct loop *loop)
{
    CHECK(atomic_load(&loop->home) == 0);
    atomic_store(&loop->home, (uintptr_t)pthread_self());
    while (!atomic_load(&loop->stopping))
        uv_run(&loop->uv, UV_RUN_DEFAULT);
    atomic_store(&loop->stopping, false);
    atomic_store(&loop->home, 0);
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stopping, true);
    uv_async_send(&loop->wake);
}

bool loop_is_home(const struct loop *loop)
{
    uintptr_t home = atomic_load_explicit(&loop->home, memory_order_relaxed);
    return home == 0 || home == (uintptr_t)pthread_self();
}

/* Outside of loop_run libuv's cached time stands still. */
uint64_t loop_now_ms(const struct loop *loop)
{
    if (atomic_load_explicit(&loop->home, memory_order_relaxed) == 0)
        return uv_hrtime() / 1000000;
    return uv_now(&loop->uv);
}

void *loop_native(struct loop *loop)
{
    return &loop->uv;
}

void loop_defer(struct loop *loop, struct loop_task *task, enum loop_phase phase)
{
    CHECK(loop_is_home(loop));
    if (task->previous != NULL)
        return;
    struct task_list *list = &loop->deferred[phase];
    task->next = NULL;
    task->previous = list->last;
    *list->last = task;
    list->last = &task->next;
}

static void forget_last(struct task_list *list, const struct loop_task *task)
{
    if (list->last == &task->next)
        list->last = task->previous;
}

void loop_task_cancel(struct loop *loop, struct loop_task *task)
{
    CHECK(loop_is_home(loop));
    if (task->previous == NULL)
        return;
    *task->previous = task->next;
    if (task->next != NULL) {
        task->next->previous = task->previous;
    } else {
        for (int phase = 0; phase < LOOP_PHASES; phase++)
            forget_last(&loop->deferred[phase], task);
        forget_last(&loop->running, task);
    }
    task->next = NULL;
    task->previous = NULL;
}

void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms)
{
    CHECK(loop_is_home(loop));
    timer_heap_put(&loop->timers, timer, loop_now_ms(loop) + delay_ms);
}

void loop_timer_stop(struct loop *loop, struct loop_timer *timer)
{
    CHECK(loop_is_home(loop));
    timer_heap_remove(&loop->timers, timer);
}

void mailbox_post(struct loop *to, struct mail *mail)
{
    if (!mailbox_push(&to->mailbox, mail))
        return;
    if (atomic_load_explicit(&to->home, memory_order_relaxed) == (uintptr_t)pthread_self())
        to->own_mail = true;
    else
        uv_async_send(&to->wake);
}

uint8_t *loop_input_buffer(struct loop *loop)
{
    if (loop->input == NULL)
        loop->input = heap_resize(NULL, LOOP_INPUT_ROOM + LOOP_INPUT_BYTES);
    return loop->input + LOOP_INPUT_ROOM;
}

bool loop_gather_sends(struct loop *loop)
{
    CHECK(atomic_load(&loop->home) == 0 && loop->sends == NULL);
    loop->sends = sends_new();
    return loop->sends != NULL;
}

struct sends *loop_sends(struct loop *loop)
{
    return loop->sends;
}

void loop_leaving_add(struct loop *loop, struct loop_leaving *leaving)
{
    list_push(&loop->leaving, &leaving->link);
}

void loop_leaving_over(struct loop *loop, struct loop_leaving *leaving)
{
    ends_add(&loop->over, leaving);
}

void loop_ending_add(struct loop *loop, struct loop_leaving *leaving)
{
    ends_add(&loop->ending, leaving);
}

void loop_ending_remove(struct loop *loop, struct loop_leaving *leaving)
{
    link_remove(&leaving->link);
    loop->ending.count--;
}
