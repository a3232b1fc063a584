/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of administration share besides broker_rig.h: changes in a line each, and what a
 * worker knows of a queue. */
#ifndef TESTS_UNIT_ADMIN_RIG_H
#define TESTS_UNIT_ADMIN_RIG_H

#include "core/broker/administer.h"
#include "tests/unit/broker_rig.h"

static inline enum status by_id(struct peer *peer, enum admin_action action, uint64_t id)
{
    return administer(peer, (struct broker_admin){.action = action, .id = id}, NULL);
}

static inline enum status route_set(struct peer *peer, const char *filter, uint64_t queue)
{
    return administer(peer,
                      (struct broker_admin){
                          .action = ADMIN_ROUTE_SET, .name = span_from_text(filter), .id = queue},
                      NULL);
}

static inline enum status route_delete(struct peer *peer, const char *filter)
{
    return administer(
        peer, (struct broker_admin){.action = ADMIN_ROUTE_DELETE, .name = span_from_text(filter)},
        NULL);
}

struct find_call {
    struct peer *peer;
    const char *name;
    uint64_t id, first_partition;
    uint32_t partitions;
};

static inline void find_run(void *context)
{
    struct find_call *call = context;
    const struct queue *queue = catalog_queue_by_text(broker_catalog(call->peer->client.worker),
                                                      TENANT_DEFAULT, span_from_text(call->name));
    call->id = queue == NULL ? 0 : queue->id;
    call->first_partition = queue == NULL ? 0 : queue->first_partition;
    call->partitions = queue == NULL ? 0 : queue->partition_count;
}

static inline struct find_call find(struct peer *peer, const char *name)
{
    struct find_call call = {.peer = peer, .name = name};
    on(peer->worker, find_run, &call);
    return call;
}

#endif
