/* SPDX-License-Identifier: Apache-2.0 */
/* Records that wait for their time. They are not in the log yet: each is a row of its own, keyed by
 * (partition, due, number). The owner of the partition keeps only those in memory that are due
 * next, and when they are due appends them to the log, as one unit with the mark below which
 * nothing waits any more.
 *
 *   delay_insert -> row stored -> done -> ... due -> log append {records, mark} -> observers
 *
 * A record fires once and never early: not before its delay has passed on the wall clock since it
 * came to its owner. A crash before that append has committed leaves it waiting. */
#ifndef CORE_QUEUE_DELAY_H
#define CORE_QUEUE_DELAY_H

#include "core/log/log.h"

struct delay; /* the delayed records of one partition; all calls on its owner's loop */

struct delay_id {
    uint64_t partition; /* that it goes to */
    int64_t due_ms;     /* wall clock */
    uint64_t number;    /* of the partition, never used again */
};
enum { DELAY_ID_TEXT = 56 };
/* Numbers in hex, with '-' between them. */
void delay_id_format(const struct delay_id *id, char text[DELAY_ID_TEXT]);
bool delay_id_parse(struct span text, struct delay_id *id);

struct delay_ops {
    /* Just before a record fires: may its publisher still do that? Else it is dropped. */
    bool (*may_fire)(void *context, uint64_t partition, uint64_t principal,
                     const struct record *record);
    void (*fired)(void *context, uint64_t late_ms); /* one record has been committed to the log */
};

/* What all the delays of a worker share. The first group is given by whoever makes it. */
struct delay_worker {
    struct log *log;
    struct log_worker *log_worker;
    struct loop *loop;
    const struct delay_ops *ops;
    void *context;
    bool holds; /* nothing fires any more, and what comes is taken in */

    uint32_t in_flight; /* requests under way; 0 once every delay is closed and gone */
    size_t bytes;       /* of records in memory */
};

/* Reads back what is stored; calls that come before wait. waiting: counts records that wait, and is
 * borrowed until the delay is closed; NULL: nobody asks. */
struct delay *delay_open(struct delay_worker *worker, uint64_t partition,
                         _Atomic uint64_t *waiting);
/* Fires nothing more. remove: what waits is removed for ever. Frees the delay once its last request
 * is back. */
void delay_close(struct delay *delay, bool remove);

struct delay_record {
    struct batch *batch; /* of one record; borrowed until done() */
    uint64_t delay_ms;   /* from when it comes to the owner on */
    uint64_t principal;  /* who published it; 0: nobody whose right may have gone when it is due */
    struct delay_id id;  /* out */
};
/* Durable as the partition is when done. Ends with OK, OVER_QUOTA (LIMIT_DELAYED wait already), or
 * as log_append() does. */
struct delay_insert {
    struct request request;
    struct delay_record *records; /* borrowed until done() */
    uint32_t count;
    /* Rows that are stored with them, borrowed likewise; placed (NULL: nobody asks) comes when the
     * records have their ids, and may still write into the rows' values. */
    const struct storage_row *more;
    uint32_t more_count;
    void (*placed)(struct delay_insert *insert);
    /* A part of a unit, as in log_append: done() comes with what the unit has ended with, and until
     * then none of the records fires, nor one that is due after them. */
    uint64_t unit; /* 0: alone */
    uint32_t part_count;
    /* Below: the delay's. */
    struct delay *delay;
    struct link link;
    struct log_append append;
    struct delay_entry **entries;
    struct delay_unit *numbers; /* of a part */
    struct storage_row *rows;
};
void delay_insert(struct delay *delay, struct delay_insert *insert);
/* Instead of it, for a part of a unit: why is how the unit ends. On any loop of worker. */
void delay_refuse(struct log_worker *worker, struct delay_insert *insert, enum status why);

/* OK: it will never fire. NOT_FOUND: it has fired, or there never was one. DENIED: another
 * principal published it. */
struct delay_cancel {
    struct request request;
    struct delay_id id;
    uint64_t principal;
    bool any; /* whoever published it */
    /* Below: the delay's. */
    struct delay *delay;
    struct link link;
    struct storage_scan scan;
    struct log_append append;
    struct delay_entry *entry;
    uint8_t keys[80];
    struct storage_row rows[2];
};
void delay_cancel(struct delay *delay, struct delay_cancel *cancel);

/* Looks at the clock now instead of when its timer says so (tests). */
void delay_check(struct delay *delay);

/* Keys, for whoever looks for partitions that have delayed records: all keys of one partition lie
 * from delay_key(partition) on and below delay_key(partition + 1). */
enum { DELAY_KEY = 9 };
void delay_key(uint64_t partition, uint8_t key[DELAY_KEY]);

#endif
