/* SPDX-License-Identifier: Apache-2.0 */
/* Appending what may have been appended before, or taken in to wait (delay.h). The owner of a
 * partition remembers, in memory and in rows that commit with the records:
 *
 *   keyed      the key of every record that had one, for the length of the queue's window
 *   sequenced  of every producer its epoch and its last five appends, as Kafka does
 *
 * A duplicate is answered with the offset of the original and not stored; one of an original that
 * is still being written waits for its outcome. When that is of a unit, and the unit is refused,
 * the first that waits is the original. */
#ifndef CORE_QUEUE_DEDUP_H
#define CORE_QUEUE_DEDUP_H

#include "core/base/map.h"
#include "core/log/log.h"
#include "core/queue/delay.h"

struct dedup; /* what one partition remembers; all calls on its owner's loop */

/* A key as it is remembered; all zero: none. part: of several records that share a text. */
struct dedup_key {
    uint64_t hash[2];
};
struct dedup_key dedup_key_of(struct span text, uint32_t part);
static inline bool dedup_key_is_set(const struct dedup_key *key)
{
    return (key->hash[0] | key->hash[1]) != 0;
}

#define DEDUP_WINDOW_MS      600000u /* of a queue that names none: 10 minutes */
#define DEDUP_OFFSET_UNKNOWN UINT64_MAX

/* What all of a worker share. The first group is given by whoever makes it. */
struct dedup_worker {
    struct log *log;
    struct log_worker *log_worker;
    struct loop *loop;
    uint64_t key_limit, producer_limit; /* so many may be remembered in all; 0: LIMIT_DEDUP_KEYS,
                                         * LIMIT_PRODUCERS */

    uint32_t in_flight; /* requests under way; 0 once all are closed and gone */
    uint64_t keys, producers;
    struct map owners; /* id -> struct dedup_owner: how much of that is whose, since the start */
};

/* Reads back what is stored; appends that come before wait. window_ms: 0 means the default. */
struct dedup *dedup_open(struct dedup_worker *worker, uint64_t partition, uint64_t window_ms);
void dedup_limit(struct dedup *dedup, uint64_t window_ms);
/* remove: all rows go. Frees it once its last request is back. */
void dedup_close(struct dedup *dedup, bool remove);
/* Before its delay is closed: nothing more is taken in by that, whatever waits for it. */
void dedup_close_delay(struct dedup *dedup);

/* Consecutive records of a batch that are stored together or not at all. */
struct dedup_item {
    uint32_t record_count;
    struct dedup_key key;
    uint64_t owner; /* of whom half of what may be remembered is; 0: nobody in particular */
    uint64_t producer;
    int32_t epoch;    /* 0 to 32767 */
    int32_t sequence; /* of the first record; the next ones follow, 0 after INT32_MAX. -1: none */
    /* Out. OVER_QUOTA: too much is remembered already (key_limit, producer_limit). STALE:
     * the producer has a later epoch. OUT_OF_RANGE: the sequence is not the next one. Else as
     * log_append().
     */
    enum status status;
    bool duplicate;
    uint64_t
        offset;     /* of the first record, of the original if it is a duplicate; may be
                     * DEDUP_OFFSET_UNKNOWN of one that is sequenced. Of a delayed one its number */
    int64_t due_ms; /* 0: it, or its original, was not delayed */
    /* Below: the dedup's. */
    unsigned state;
    uint64_t unit;            /* of its append */
    uint32_t first, place;    /* first record in the batch given, and in the one appended */
    struct dedup_item *again; /* items that wait for this one */
};

/* A batch, or records that are delayed, whose items together are all of them, in order. done()
 * comes with OK when every item has its status, in the order of the calls; with another status
 * nothing was appended. */
struct dedup_append {
    struct request request;
    struct batch *batch; /* borrowed until done(); committed as another when items are left out */
    struct dedup_item *items; /* borrowed until done() */
    uint32_t count;
    /* Instead of batch: taken in by delay, which outlives the dedup, or is closed in the turn of
     * dedup_close() or dedup_close_delay().
     * Their ids are out: of a duplicate that of its original, with due_ms 0 and its offset for
     * number where that was not delayed. Borrowed until done(), with the rows that are stored
     * together with those that are new. No sequences. */
    struct delay *delay;
    struct delay_record *delayed;
    const struct storage_row *more;
    uint32_t more_count;
    /* As those of log_append. */
    uint32_t pending_records;
    uint64_t pending_bytes;
    /* A part of a unit, as in log_append: done() comes with what the unit has ended with. An item
     * that is refused refuses the unit, and so does one that would have to wait for others (BUSY),
     * which might wait for this unit elsewhere. */
    uint64_t unit; /* 0: alone; else no item has a sequence */
    uint32_t part_count;
    /* Below: the dedup's. */
    struct dedup *dedup;
    struct link link;
    struct log_append append;
    struct delay_insert insert;
    struct dedup_run *runs;
    uint32_t run_count;
    struct dedup_bucket *bucket;
    struct storage_row *rows;
    int64_t at_ms;
    bool finished;
    enum status status;
};
void dedup_append(struct dedup *dedup, struct dedup_append *append);
/* Instead of it, for a part of a unit: why is how the unit ends. On any loop of worker. */
void dedup_refuse(struct log_worker *worker, struct dedup_append *append, enum status why);

/* Looks at the clock now instead of when its timer says so (tests). */
void dedup_check(struct dedup *dedup);

/* As for delays: all keys of one partition lie from dedup_row_key(partition) on and below
 * dedup_row_key(partition + 1). */
enum { DEDUP_KEY = 9 };
void dedup_row_key(uint64_t partition, uint8_t key[DEDUP_KEY]);

#endif
