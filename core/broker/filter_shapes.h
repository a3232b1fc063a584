/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes of durable filters, and ids. A filter's id is a keyed hash of its text, so equal filters
 * of all sessions share one row per batch, and ids need neither a table nor a counter.
 *
 * The shape of a filter says which of its levels are literal, '+' and '#'. A topic has at most one
 * filter of each shape that matches it, so that with few shapes (LIMIT_FILTER_SHAPES) a record has
 * few candidates. A filter of one shape too many is indexed as a broader one ('#', or '$name/#');
 * of those with ids of their own each user brings at most half.
 *
 * A shape has a place, whose number begins the ids of its filters, so that a look at the rows of
 * holders says whether there is any filter of it left. Where there is none the shape is forgotten
 * (filter_forget.h) and the place is another's, but not the broad ones. Stores of before that have
 * shapes without a place in their ids, which stay. */
#ifndef CORE_BROKER_FILTER_SHAPES_H
#define CORE_BROKER_FILTER_SHAPES_H

#include <pthread.h>

#include "core/base/buf.h"
#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/log/log.h"

struct broker;

enum { FILTER_PLACE_BITS = 6, FILTER_PLACE_SHIFT = 64 - FILTER_PLACE_BITS };
_Static_assert(LIMIT_FILTER_SHAPES == 1 << FILTER_PLACE_BITS, "places are bits, too");

struct filter_shape {
    uint8_t levels; /* before '#' */
    bool rest;      /* ends with '#' */
    bool for_ever;  /* its filters' ids do not begin with its place */
    uint64_t owner; /* who brought it, as filter_index_id() was told */
    uint64_t plus[LIMIT_TOPIC_LEVELS / 64];
};
enum { FILTER_SHAPE_BYTES = 2 + LIMIT_TOPIC_LEVELS / 8 };

/* All workers share it. What is set in used may be read of items and key without the lock. */
struct filter_shapes {
    _Atomic uint64_t used; /* places, by bit */
    struct filter_shape items[LIMIT_FILTER_SHAPES];
    struct hash_key key; /* of ids; stored with the first session */
    pthread_mutex_t lock;
    uint64_t stored;  /* of used, those whose rows are durable */
    uint64_t leaving; /* not used, nor free yet */
    uint32_t pins[LIMIT_FILTER_SHAPES];
    uint32_t asked[LIMIT_FILTER_SHAPES]; /* how often an id was */
    bool crowded;                        /* somebody has found no place since it was looked at */
};

void filter_shapes_init(struct filter_shapes *shapes);
void filter_shapes_deinit(struct filter_shapes *shapes);
/* A row of TABLE_FILTER_META, at start. */
enum status filter_shapes_load(struct filter_shapes *shapes, struct span key, struct span value);
/* The rows that a store must hold before filters of these places are indexed, without those that it
 * has, but always that of the key: at most LIMIT_FILTER_SHAPES + 1, keys and values borrowed from
 * memory, which the caller frees. */
uint32_t filter_shapes_rows(struct filter_shapes *shapes, uint64_t places, struct storage_row *rows,
                            uint8_t **memory);
enum { FILTER_PLACE_KEY = 3 };
void filter_place_key(unsigned place, uint8_t key[FILTER_PLACE_KEY]); /* of the row of a place */
/* Of these places: they are durable. */
void filter_shapes_stored(struct filter_shapes *shapes, uint64_t places);
/* They may be forgotten unless there is a row of a holder. */
void filter_shapes_unpin(struct filter_shapes *shapes, uint64_t places);
/* Its id, of a text behind the tenant, as of a filter whose shape has that place. */
uint64_t filter_shape_id(const struct filter_shapes *shapes, unsigned place, struct span text);

/* The id under which records for a valid filter are found: its own, or that of a broader one. Its
 * shape counts from now on, and is pinned, once, if it is not yet in pins; asked again, the answer
 * may be another. owner: whose shape it is, if that is new; of 0 there may be any number. Any
 * thread. */
uint64_t filter_index_id(struct broker *broker, uint64_t tenant, uint64_t owner, struct span filter,
                         uint64_t *pins);
/* Is this the filter's own id, under which nothing but what matches it is found? Any thread. */
bool filter_index_is_own(struct broker *broker, uint64_t tenant, struct span filter, uint64_t id);
/* Likewise of a share: tenant, name and filter in one. Any thread. */
uint64_t filter_share_id(struct broker *broker, struct span key);

/* For filter_forget.h. The next place behind that one, in a circle, whose shape may be forgotten;
 * LIMIT_FILTER_SHAPES: there is none. asked: what filter_shapes_drop() wants to know. */
unsigned filter_shapes_next(struct filter_shapes *shapes, unsigned place, uint32_t *asked);
/* True once after somebody has found no place. */
bool filter_shapes_crowded(struct filter_shapes *shapes);
/* There was no holder at some time after asked was read: nobody looks for filters of it from the
 * next turn of each worker on. False: it is wanted again. */
bool filter_shapes_drop(struct filter_shapes *shapes, unsigned place, uint32_t asked);
/* Nobody reads it any more, and its row has gone. */
void filter_shapes_free_place(struct filter_shapes *shapes, unsigned place);

#endif
