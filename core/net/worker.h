/* SPDX-License-Identifier: Apache-2.0 */
/* A worker: one thread that runs one loop. */
#ifndef CORE_NET_WORKER_H
#define CORE_NET_WORKER_H

#include "core/net/loop.h"

struct worker;

struct worker *worker_new(unsigned index); /* makes the loop; the thread starts with worker_start */
struct loop *worker_loop(struct worker *worker);
/* Before it starts: the sends of a turn shall be done by one call, or each by itself where the
 * kernel does not allow it. The first worker's says which in the log. */
void worker_gather_sends(struct worker *worker);
void worker_start(struct worker *worker);
/* Any thread: stops the loop and joins; harmless when not started. */
void worker_stop(struct worker *worker);
void worker_free(struct worker *worker); /* after worker_stop */

#endif
