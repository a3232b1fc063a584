/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of dedup. Rows, all keys beginning with (TABLE_DEDUP, partition):
 *
 *   0, producer, slot (0-4)  -> version, epoch, first and last sequence, time, offset of the first
 *   2, bucket, number        -> the keys of one append: version, ms since the bucket's beginning,
 *                               offset of its first record; of each its hash (16), which record
 *                               of a delayed one: version, ms; of each its hash, number, due
 *   1, bucket, hash (16)     -> one key, as it was written once: version, ms, offset
 *
 * A bucket is named by the time of its first key; buckets go as a whole, memory and rows. Internal
 * to core/queue. */
#ifndef CORE_QUEUE_DEDUP_IMPL_H
#define CORE_QUEUE_DEDUP_IMPL_H

#include "core/base/buf.h"
#include "core/base/list.h"
#include "core/base/map.h"
#include "core/queue/dedup.h"
#include "core/queue/steady.h"

/* ---------------------------------------------------------------- owners: dedup_owner.c */

struct dedup_owner {
    uint64_t id;
    uint64_t keys, producers; /* not both 0 */
};

/* NULL: nothing of it is there. */
const struct dedup_owner *dedup_owner_find(const struct map *owners, uint64_t id);
/* So many more or fewer; of id 0 nothing is counted. An empty map holds no memory. */
void dedup_owner_count(struct map *owners, uint64_t id, int keys, int producers);

/* ---------------------------------------------------------------- keys: dedup_window.c */

struct dedup_slot {
    struct dedup_key key; /* not set: free */
    uint64_t offset;
    uint32_t after_ms;     /* since the bucket's beginning */
    uint32_t due_after_ms; /* likewise when a delayed one is due, offset is its number; 0: it is not
                            * delayed */
};

struct dedup_bucket {
    struct link link;
    int64_t start_ms, last_ms; /* last: of its youngest key */
    struct dedup_slot *slots;
    uint32_t count, capacity; /* a power of two */
    uint32_t in_flight;       /* appends that will put keys here */
    uint64_t next_row;        /* number of its next row */
    struct map owners;        /* of its keys: what goes from the worker's with it */
};

struct dedup_window {
    struct list buckets; /* oldest first */
    uint64_t window_ms;
    struct dedup_worker *worker; /* counts the keys of all windows */
};

void dedup_window_init(struct dedup_window *window, uint64_t window_ms,
                       struct dedup_worker *worker);
void dedup_window_deinit(struct dedup_window *window);
/* due_ms: 0: not delayed. */
bool dedup_window_find(const struct dedup_window *window, const struct dedup_key *key,
                       int64_t now_ms, uint64_t *offset, int64_t *due_ms);
/* Where new keys go; now_ms never goes back. */
struct dedup_bucket *dedup_window_newest(struct dedup_window *window, int64_t now_ms);
/* While reading back: the bucket of that name; they come in order. */
struct dedup_bucket *dedup_window_named(struct dedup_window *window, int64_t start_ms);
void dedup_window_put(struct dedup_window *window, struct dedup_bucket *bucket,
                      const struct dedup_key *key, uint32_t after_ms, uint64_t offset,
                      int64_t due_ms, uint64_t owner);
/* When the oldest bucket may go; INT64_MAX: there is none. */
int64_t dedup_window_expiry(const struct dedup_window *window);
/* Lets the oldest bucket go if it is time; start_ms: its name. */
bool dedup_window_expire(struct dedup_window *window, int64_t now_ms, int64_t *start_ms);

/* ---------------------------------------------------------------- sequences: dedup_producer.c */

enum { DEDUP_RANGES = 5 };

struct dedup_range {
    int32_t first, last; /* sequences; first -1: none */
    uint64_t offset;     /* of the first */
};

struct dedup_producer {
    uint64_t id, owner;
    int32_t epoch;
    uint32_t next; /* slot of the next range */
    struct dedup_range ranges[DEDUP_RANGES];
    int64_t last_ms;
    /* Of the one append under way: sequences pending_first to pending_last under pending_epoch. */
    bool pending;
    int32_t pending_epoch, pending_first, pending_last;
    uint32_t pending_runs;
};

enum dedup_verdict { DEDUP_NEW, DEDUP_KNOWN, DEDUP_AGAIN, DEDUP_REFUSED };

static inline int32_t dedup_sequence_add(int32_t sequence, uint32_t count)
{
    return (int32_t)(((uint32_t)sequence + count) & INT32_MAX);
}

struct dedup_producer *dedup_producer_new(uint64_t id);
/* NEW: it becomes pending. KNOWN: offset. AGAIN: it is within what is pending. REFUSED: status. */
enum dedup_verdict dedup_producer_check(struct dedup_producer *producer,
                                        const struct dedup_item *item, uint64_t *offset,
                                        enum status *status);
void dedup_producer_put(struct dedup_producer *producer, int32_t epoch, struct dedup_range range);
/* While reading back: rows come in any order. */
void dedup_producer_load(struct dedup_producer *producer, uint32_t slot, int32_t epoch,
                         struct dedup_range range);

/* ---------------------------------------------------------------- appends: dedup.c */

/* AGAIN: settled with another item. HEIR: it was, but that was of a unit, which was refused; now it
 * is new. */
enum { ITEM_NEW, ITEM_SETTLED, ITEM_AGAIN, ITEM_HEIR };

static inline bool dedup_is_new_key(const struct dedup_item *item)
{
    return item->state == ITEM_NEW && item->sequence < 0 && dedup_key_is_set(&item->key);
}

/* What one append adds to a producer: one row. */
struct dedup_run {
    struct dedup_producer *producer;
    int32_t epoch;
    struct dedup_range range;
    uint32_t place; /* of its first record in the batch */
};

enum dedup_state { DEDUP_LOADING, DEDUP_SERVING, DEDUP_FAILED, DEDUP_CLOSED };

struct dedup {
    struct dedup_worker *worker;
    uint64_t partition;
    enum dedup_state state;
    enum status failure;
    uint32_t in_flight;
    struct steady clock;
    struct dedup_window window;
    struct map producers; /* id -> struct dedup_producer */
    struct map pending;   /* key -> struct dedup_item being written */
    struct list waiting;  /* appends that have not begun */
    struct list flying;   /* begun, in order */
    struct batch_builder builder;
    struct loop_timer timer;
    int64_t producers_looked_ms;

    struct storage_scan scan;
    struct buf scan_first;
    uint8_t scan_end[DEDUP_KEY];

    bool single_keys; /* some are stored one by one, as they were once */
    bool sweeping;
    struct log_append sweep;
    struct storage_row *sweep_rows;
    bool removing;
    bool no_delay; /* its delay is closed */
    struct log_rows removal;
    struct storage_row removal_row;
    uint8_t removal_first[DEDUP_KEY];
};

void dedup_run_waiting(struct dedup *dedup);

/* dedup_open.c */
/* Around each request: a closed one goes with its last. */
void dedup_enter(struct dedup *dedup);
void dedup_leave(struct dedup *dedup);
void dedup_arm(struct dedup *dedup);
struct dedup_producer *dedup_find_producer(const struct dedup *dedup, uint64_t id); /* NULL: none */
struct dedup_producer *dedup_add_producer(struct dedup *dedup, uint64_t id, uint64_t owner);
void dedup_drop_producer(struct dedup *dedup, struct dedup_producer *producer); /* frees it */

/* dedup_make.c: of what is new in the append, which is so many records: the batch to append, the
 * one given or a copy; and the rows. */
enum status dedup_batch_of_new(struct dedup_append *append, uint32_t count);
void dedup_rows_make(struct dedup_append *append);

/* ---------------------------------------------------------------- rows: dedup_store.c */

enum { DEDUP_KEYED_KEY = 34 };
enum { DEDUP_KEYS_KEY = 26, DEDUP_KEYS_OFFSET_AT = 5, DEDUP_KEYS_HEAD = 13, DEDUP_KEYS_EACH = 20 };
enum { DEDUP_DELAYED_HEAD = 5, DEDUP_DELAYED_EACH = 32 };
enum { DEDUP_RANGE_KEY = 19, DEDUP_RANGE_VALUE = 27, DEDUP_RANGE_OFFSET_AT = 19 };
enum { DEDUP_ROW_MAX = 48 }; /* key and value, but for keys */

void dedup_store_load(struct dedup *dedup);
void dedup_store_sweep(struct dedup *dedup); /* what is too old goes */
void dedup_store_remove(struct dedup *dedup);
/* The row of so many keys, those of what is new in the append: its bytes, and the row in room for
 * them, borrowed by it. Values that follow from where delayed records wait come with place(). */
size_t dedup_store_keys_size(const struct dedup_append *append, uint32_t count);
struct storage_row dedup_store_keys(struct dedup_append *append, uint32_t count, uint8_t *at);
void dedup_store_place(const struct dedup_append *append, const struct storage_row *row);
/* at: room for DEDUP_ROW_MAX bytes, likewise. */
struct storage_row dedup_store_run(const struct dedup *dedup, const struct dedup_run *run,
                                   uint32_t slot, int64_t now_ms, uint8_t *at);

#endif
