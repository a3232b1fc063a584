/* SPDX-License-Identifier: Apache-2.0 */
/* One worker's part in deduplication: what the partitions that it owns remember, and the way of
 * batches there. A partition remembers nothing, and costs nothing, until a publish names an id.
 * Internal to core/broker. */
#ifndef CORE_BROKER_DEDUPED_H
#define CORE_BROKER_DEDUPED_H

#include "core/broker/broker.h"
#include "core/broker/row_walk.h"

struct deduped {
    struct dedup_worker shared;
    struct map dedups; /* partition -> struct home_dedup, of partitions owned here */
    struct row_walk walk;
    bool closed;
};

void deduped_init(struct broker_worker *worker);
void deduped_open(struct broker_worker *worker); /* after its partitions have been opened */
void deduped_change(struct broker_worker *worker, const struct queue *queue); /* another window */
void deduped_forget(struct broker_worker *worker, const struct queue *queue); /* was deleted */
void deduped_close_delays(struct broker_worker *worker); /* before delayed_close() */
void deduped_close(struct broker_worker *worker);        /* more than once is fine */
bool deduped_is_busy(const struct broker_worker *worker);
void deduped_deinit(struct broker_worker *worker);

/* What a turn's batch holds, in order: one item for each record with an id, one for those without
 * between two of them. */
struct deduped_items {
    struct dedup_item *items;
    uint32_t count, capacity, record_count;
};
void deduped_items_deinit(struct deduped_items *items);
/* The record that publish became is the last of record_count in the batch. */
void deduped_items_add(struct deduped_items *items, const struct client *client,
                       const struct publish *publish, uint32_t record_count);
/* The batch ends with record_count records. */
void deduped_items_end(struct deduped_items *items, uint32_t record_count);

static inline bool publish_is_deduped(const struct publish *publish)
{
    return publish->dedup_id.data != NULL || publish->producer.data != NULL;
}

/* A batch on its way to the owner of its partition and back. append's first group, with its request
 * at home on from's loop, is set. */
struct deduped_append {
    void *context; /* the caller's */
    struct mail mail;
    struct broker_worker *owner;
    uint64_t partition;
    struct dedup_append append;
};
void deduped_send(struct broker_worker *from, struct deduped_append *append);
/* What a partition of this worker remembers; NULL: this is no partition of a queue here. */
struct dedup *deduped_of(struct broker_worker *worker, uint64_t partition);

#endif
