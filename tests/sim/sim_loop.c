/* SPDX-License-Identifier: Apache-2.0 */
/* loop.h in virtual time: every loop of the process is run here, one turn of a drawn loop after the
 * other. Time moves only when nobody has anything to do. */
#include "tests/sim/sim.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/rng.h"
#include "core/net/mailbox.h"
#include "core/net/offload.h"
#include "core/net/timer_heap.h"

enum { LOOPS_MAX = 64, WALL_START_S = 1700000000, ROUNDS_MAX = 10000 };

struct loop {
    struct timer_heap timers;
    struct mailbox mailbox;
    struct {
        struct loop_task *first;
        struct loop_task **last;
    } deferred[LOOP_PHASES];
    bool stopped;
};

static struct loop *loops[LOOPS_MAX];
static unsigned loop_count;
static struct loop *current; /* whose turn it is; NULL: outside of all */
static struct loop *world;
static uint64_t now_ms;
static uint64_t state; /* of the scheduler's own draws */

static uint64_t monotonic_ns(void)
{
    return now_ms * 1000000;
}

static int64_t wall_ms(void)
{
    return (int64_t)WALL_START_S * 1000 + (int64_t)now_ms;
}

static const struct clock_source virtual_clock = {.monotonic_ns = monotonic_ns, .wall_ms = wall_ms};

void sim_begin(uint64_t seed)
{
    clock_use(&virtual_clock);
    rng_seed(seed ^ 0x5bd1e995u);
    /* Not drawn by the first seed of a process: some tables outlive a seed. */
    hash_process_key = (struct hash_key){1, 2};
    state = seed * 2 + 1;
    now_ms = 1000;
    current = NULL;
    loop_count = 0;
    world = loop_new();
}

struct loop *sim_world(void)
{
    return world;
}

static uint64_t draw(void)
{
    state += 0x9e3779b97f4a7c15ULL;
    uint64_t value = state;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    return value ^ (value >> 31);
}

uint64_t sim_below(uint64_t bound)
{
    return draw() % bound;
}

bool sim_chance(unsigned percent)
{
    return sim_below(100) < percent;
}

uint64_t sim_now_ms(void)
{
    return now_ms;
}

/* ------------------------------------------------ loop.h */

struct loop *loop_new(void)
{
    struct loop *loop = heap_new(sizeof *loop);
    for (int phase = 0; phase < LOOP_PHASES; phase++)
        loop->deferred[phase].last = &loop->deferred[phase].first;
    CHECK(loop_count < LOOPS_MAX);
    loops[loop_count++] = loop;
    return loop;
}

void loop_free(struct loop *loop)
{
    for (unsigned i = 0; i < loop_count; i++)
        if (loops[i] == loop)
            loops[i] = loops[--loop_count];
    timer_heap_deinit(&loop->timers);
    heap_free(loop);
}

void sim_forget_loops(void)
{
    current = NULL;
    /* Their memory is left alone: what was in flight points into it. */
    loops[0] = world;
    loop_count = 1;
}

bool loop_is_home(const struct loop *loop)
{
    return current == NULL || current == loop;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    (void)loop;
    return now_ms;
}

void *loop_native(struct loop *loop)
{
    (void)loop;
    return NULL;
}

void loop_defer(struct loop *loop, struct loop_task *task, enum loop_phase phase)
{
    CHECK(loop_is_home(loop));
    if (task->previous != NULL)
        return;
    task->next = NULL;
    task->previous = loop->deferred[phase].last;
    *loop->deferred[phase].last = task;
    loop->deferred[phase].last = &task->next;
}

void loop_task_cancel(struct loop *loop, struct loop_task *task)
{
    if (task->previous == NULL)
        return;
    *task->previous = task->next;
    if (task->next != NULL)
        task->next->previous = task->previous;
    for (int phase = 0; phase < LOOP_PHASES; phase++)
        if (loop->deferred[phase].last == &task->next)
            loop->deferred[phase].last = task->previous;
    task->next = NULL;
    task->previous = NULL;
}

void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms)
{
    CHECK(loop_is_home(loop));
    timer_heap_put(&loop->timers, timer, now_ms + delay_ms);
}

void loop_timer_stop(struct loop *loop, struct loop_timer *timer)
{
    timer_heap_remove(&loop->timers, timer);
}

void mailbox_post(struct loop *to, struct mail *mail)
{
    mailbox_push(&to->mailbox, mail);
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
}

/* ------------------------------------------------ turns */

static bool is_due(const struct loop *loop)
{
    const struct loop_timer *timer = timer_heap_first(&loop->timers);
    return (timer != NULL && timer->due_ms <= now_ms) || loop->mailbox.posted != NULL ||
           loop->deferred[LOOP_WORK].first != NULL || loop->deferred[LOOP_FLUSH].first != NULL;
}

static void run_one(struct loop *loop, enum loop_phase phase)
{
    struct loop_task *task = loop->deferred[phase].first;
    loop_task_cancel(loop, task);
    task->run(task);
}

static void turn(struct loop *loop)
{
    current = loop;
    uint64_t order_end = loop->timers.order;
    struct loop_timer *timer;
    while ((timer = timer_heap_first(&loop->timers)) != NULL && timer->due_ms <= now_ms &&
           timer->order < order_end) {
        timer_heap_remove(&loop->timers, timer);
        timer->fired(timer);
    }
    mailbox_deliver(mailbox_take(&loop->mailbox));
    for (int round = 0; round < ROUNDS_MAX; round++) {
        if (loop->deferred[LOOP_WORK].first != NULL)
            run_one(loop, LOOP_WORK);
        else if (loop->deferred[LOOP_FLUSH].first != NULL)
            run_one(loop, LOOP_FLUSH);
        else
            break;
    }
    current = NULL;
}

/* One turn of somebody; false: nobody has anything to do at this time. */
static bool turn_of_somebody(void)
{
    struct loop *due[LOOPS_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < loop_count; i++)
        if (is_due(loops[i]))
            due[count++] = loops[i];
    if (count == 0)
        return false;
    turn(due[sim_below(count)]);
    return true;
}

/* Moves time to the next timer, at most to end. False: nothing will ever happen before end. */
static bool pass_time(uint64_t end)
{
    uint64_t next = end;
    for (unsigned i = 0; i < loop_count; i++) {
        const struct loop_timer *timer = timer_heap_first(&loops[i]->timers);
        if (timer != NULL && timer->due_ms < next)
            next = timer->due_ms;
    }
    if (next <= now_ms)
        return false;
    now_ms = next;
    return next < end;
}

bool sim_run(bool (*predicate)(void *context), void *context, uint64_t ms)
{
    uint64_t end = now_ms + ms;
    for (;;) {
        if (predicate != NULL && predicate(context))
            return true;
        if (!turn_of_somebody() && !pass_time(end))
            return predicate != NULL && predicate(context);
    }
}

static bool is_stopped(void *context)
{
    return ((struct loop *)context)->stopped;
}

/* The product runs a loop of its own while it loads: everybody else goes on meanwhile. */
void loop_run(struct loop *loop)
{
    struct loop *before = current;
    current = NULL;
    CHECK(sim_run(is_stopped, loop, 60 * 60 * 1000));
    loop->stopped = false;
    current = before;
}

/* ------------------------------------------------ things that happen later */

struct later {
    struct loop_timer timer;
    void (*run)(void *context);
    void *context;
};

static void later_fired(struct loop_timer *timer)
{
    struct later *later = container_of(timer, struct later, timer);
    void (*run)(void *) = later->run;
    void *context = later->context;
    heap_free(later);
    run(context);
}

void sim_after(uint64_t delay_ms, void (*run)(void *context), void *context)
{
    struct later *later = heap_new(sizeof *later);
    later->timer.fired = later_fired;
    later->run = run;
    later->context = context;
    timer_heap_put(&world->timers, &later->timer, now_ms + delay_ms);
}

struct errand {
    struct mail mail;
    void (*run)(void *context);
    void *context;
};

static void errand_deliver(struct mail *mail)
{
    struct errand *errand = container_of(mail, struct errand, mail);
    void (*run)(void *) = errand->run;
    void *context = errand->context;
    heap_free(errand);
    run(context);
}

void sim_on(struct loop *loop, void (*run)(void *context), void *context)
{
    struct errand *errand = heap_new(sizeof *errand);
    errand->mail.deliver = errand_deliver;
    errand->run = run;
    errand->context = context;
    mailbox_post(loop, &errand->mail);
}

/* ------------------------------------------------ offload.h */

static void offload_now(void *context)
{
    struct offload *offload = context;
    request_complete(&offload->request, offload->work(offload));
}

void offload_open(void)
{
}

void offload_close(void)
{
}

void offload_run(struct offload *offload)
{
    sim_after(1 + sim_below(50), offload_now, offload);
}
