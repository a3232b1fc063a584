/* SPDX-License-Identifier: Apache-2.0 */
/* One turn of a test's loop: what is due is done, and what has been deferred. */
#ifndef TESTS_UNIT_TURN_H
#define TESTS_UNIT_TURN_H

#include "core/base/list.h"
#include "core/net/loop.h"

struct turn {
    struct loop_task task;
    struct loop *loop;
};

static inline void turn_ends(struct loop_task *task)
{
    loop_stop(container_of(task, struct turn, task)->loop);
}

static inline void turn_run(struct loop *loop)
{
    struct turn turn = {.task.run = turn_ends, .loop = loop};
    loop_defer(loop, &turn.task, LOOP_FLUSH);
    loop_run(loop);
    loop_task_cancel(loop, &turn.task);
}

#endif
