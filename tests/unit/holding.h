/* SPDX-License-Identifier: Apache-2.0 */
/* What a queue of the rig's broker holds. */
#ifndef TESTS_UNIT_HOLDING_H
#define TESTS_UNIT_HOLDING_H

#include "tests/unit/broker_rig.h"

struct look_call {
    const char *queue;
    uint64_t records, delayed;
};

static void look_queue_run(void *context)
{
    struct look_call *call = context;
    const struct queue *queue = catalog_queue_by_text(broker_catalog(broker_worker(rig.broker, 0)),
                                                      TENANT_DEFAULT, span_from_text(call->queue));
    call->delayed = atomic_load(&queue->stat->delayed);
    for (uint32_t i = 0; i < queue->partition_count; i++)
        call->records += atomic_load(&queue->stat->partitions[i].end);
}

static inline struct look_call look_at(const char *queue)
{
    struct look_call call = {.queue = queue};
    on(0, look_queue_run, &call);
    return call;
}

static inline void assert_holds(const char *queue, uint64_t records, uint64_t delayed)
{
    rig_calm();
    struct look_call call = look_at(queue);
    assert_int_equal(call.records, records);
    assert_int_equal(call.delayed, delayed);
}

#endif
