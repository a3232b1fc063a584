/* SPDX-License-Identifier: Apache-2.0 */
/* A thread around loop_run. */
#include "core/net/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/trace.h"
#include "core/net/loop_uv.h"

struct worker {
    struct loop *loop;
    pthread_t thread;
    unsigned index;
    bool gathers, started;
};

struct worker *worker_new(unsigned index)
{
    struct worker *worker = heap_new(sizeof *worker);
    worker->index = index;
    worker->loop = loop_new();
    return worker;
}

struct loop *worker_loop(struct worker *worker)
{
    return worker->loop;
}

void worker_gather_sends(struct worker *worker)
{
    CHECK(!worker->started);
    worker->gathers = true;
}

/* By the thread itself: the kernel interrupts system calls of the one that has made a ring. */
static void begin_gathering(struct worker *worker)
{
    bool gathers = loop_gather_sends(worker->loop);
    if (worker->index == 0)
        trace(TRACE_INFO, gathers ? "the writes of a turn are done by io_uring"
                                  : "no io_uring here: each write is a system call");
}

static void *worker_run(void *argument)
{
    struct worker *worker = argument;
    char name[16];
    snprintf(name, sizeof name, "worker-%u", worker->index);
    pthread_setname_np(pthread_self(), name);
    if (worker->gathers)
        begin_gathering(worker);
    loop_run(worker->loop);
    return NULL;
}

/* Signals are the main thread's: the worker begins with all of them blocked. */
void worker_start(struct worker *worker)
{
    CHECK(!worker->started);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    CHECK(pthread_create(&worker->thread, NULL, worker_run, worker) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    worker->started = true;
}

void worker_stop(struct worker *worker)
{
    if (!worker->started)
        return;
    loop_stop(worker->loop);
    pthread_join(worker->thread, NULL);
    worker->started = false;
}

void worker_free(struct worker *worker)
{
    if (worker == NULL)
        return;
    CHECK(!worker->started);
    loop_free(worker->loop);
    heap_free(worker);
}
