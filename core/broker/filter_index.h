/* SPDX-License-Identifier: Apache-2.0 */
/* Which durable filters a record matches, without holding the filters in memory, and the rows that
 * say so, under the filters' ids (filter_shapes.h); what a row names is matched once more by
 * whoever reads it. A record has one candidate per shape, and a look at storage tells which of them
 * some session holds. Answers are cached. */
#ifndef CORE_BROKER_FILTER_INDEX_H
#define CORE_BROKER_FILTER_INDEX_H

#include "core/broker/filter_shapes.h"
#include "core/broker/session_rows.h"

struct broker;
struct broker_worker;

/* One worker's part: what it knows of filters, by id. Two generations, so that what is not asked
 * for any more goes. */
struct filter_slot {
    uint64_t id; /* 0: free */
    uint32_t until_s;
    uint32_t state;
};
struct filter_slots {
    struct filter_slot *slots;
    uint32_t capacity, count;
};
struct filter_pair {
    uint64_t id;
    uint32_t record, count; /* records that follow each other */
    uint64_t bytes;         /* record_bytes() of them */
};
struct filter_index {
    struct filter_slots young, old;
    uint32_t lookups; /* under way */
    struct buf text;
    struct filter_pair *pairs; /* of the batch that was prepared last */
    uint32_t pair_count, pair_capacity;
};

void filter_index_init(struct broker_worker *worker);
void filter_index_deinit(struct broker_worker *worker);

/* Completes when every worker indexes these filters, and what it had begun to append without that
 * has its commit sequence. The rows of their holders are durable. ids are copied. */
void filter_index_register(struct broker_worker *worker, const uint64_t *ids, uint32_t count,
                           struct request *request);

bool filter_index_prepare(struct broker_worker *worker, uint64_t partition,
                          const struct batch *batch);
/* Of the batch that was prepared just now. */
void filter_index_derive(struct broker_worker *worker, uint64_t partition,
                         struct log_derived *derived);

#endif
