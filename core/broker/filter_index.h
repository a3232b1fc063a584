/* SPDX-License-Identifier: Apache-2.0 */
/* Which durable filters a record matches, without holding the filters in memory, and the rows that
 * say so. A filter's id is a keyed hash of its text, so equal filters of all sessions share one row
 * per batch, and ids need neither a table nor a counter; what a row names is matched once more by
 * whoever reads it.
 *
 * The shape of a filter says which of its levels are literal, '+' and '#'. A topic has at most one
 * filter of each shape that matches it, so that with few shapes (LIMIT_FILTER_SHAPES) a record has
 * few candidates, and a look at storage tells which of them some session holds. Answers are cached.
 * A filter of one shape too many is indexed as a broader one. Shapes stay, whether or not somebody
 * holds a filter of them, so that of those with ids of their own each user brings at most half. */
#ifndef CORE_BROKER_FILTER_INDEX_H
#define CORE_BROKER_FILTER_INDEX_H

#include <pthread.h>

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/broker/session_rows.h"
#include "core/log/log.h"

struct broker;
struct broker_worker;

struct filter_shape {
    uint8_t levels; /* before '#' */
    bool rest;      /* ends with '#' */
    uint64_t owner; /* who brought it, as filter_index_id() was told */
    uint64_t plus[LIMIT_TOPIC_LEVELS / 64];
};
enum { FILTER_SHAPE_BYTES = 2 + LIMIT_TOPIC_LEVELS / 8 };

/* All workers share it. Shapes are only ever added. */
struct filter_shapes {
    pthread_mutex_t lock;
    _Atomic unsigned count;
    struct filter_shape items[LIMIT_FILTER_SHAPES];
    struct hash_key key;     /* of ids; stored with the first session */
    _Atomic unsigned stored; /* of items: the rest is not known to be durable */
};

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

void filter_shapes_init(struct filter_shapes *shapes);
void filter_shapes_deinit(struct filter_shapes *shapes);
/* A row of TABLE_FILTER_META, at start. */
enum status filter_shapes_load(struct filter_shapes *shapes, struct span key, struct span value);
/* The rows that a store must hold before filters are indexed with what shapes says now: at most
 * LIMIT_FILTER_SHAPES + 1, keys and values borrowed from memory, which the caller frees. */
uint32_t filter_shapes_rows(struct filter_shapes *shapes, struct storage_row *rows,
                            uint8_t **memory);

void filter_index_init(struct broker_worker *worker);
void filter_index_deinit(struct broker_worker *worker);

/* The id under which records for a valid filter are found: its own, or that of a broader one. Its
 * shape counts from now on; asked again, the answer may be another. owner: whose shape it is, if
 * that is new; of 0 there may be any number. Any thread. */
uint64_t filter_index_id(struct broker *broker, uint64_t tenant, uint64_t owner,
                         struct span filter);
/* Is this the filter's own id, under which nothing but what matches it is found? Any thread. */
bool filter_index_is_own(struct broker *broker, uint64_t tenant, struct span filter, uint64_t id);
/* Likewise of a share: tenant, name and filter in one. Any thread. */
uint64_t filter_share_id(struct broker *broker, struct span key);
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
