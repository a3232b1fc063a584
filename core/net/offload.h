/* SPDX-License-Identifier: Apache-2.0 */
/* Slow pure computation (password hashes) off the loops: one thread and a bounded queue. The
 * simulator links a version that runs the work at its own seeded time. */
#ifndef CORE_NET_OFFLOAD_H
#define CORE_NET_OFFLOAD_H

#include "core/net/request.h"

struct offload {
    struct request
        request; /* completes with what work() returned, or BUSY when the queue is full */
    /* On another thread; touches only what embeds it. */
    enum status (*work)(struct offload *offload);
    struct offload *next;
};

void offload_open(void);  /* once, before workers start; idempotent */
void offload_close(void); /* after workers stopped */
void offload_run(struct offload *offload);

#endif
