/* SPDX-License-Identifier: Apache-2.0 */
/* A living group: hands out records of a queue under leases, takes them back, settles them, and
 * keeps its state durable. It lives on one home worker; callers on other workers carry their
 * request there first (the broker does). Done() of a request comes at the request's own home. */
#ifndef CORE_QUEUE_GROUP_H
#define CORE_QUEUE_GROUP_H

#include "core/queue/queue.h"

struct group;

/* Proof of one hand-out. Text form (receipt_format) is opaque to clients. */
struct receipt {
    uint64_t group;
    uint64_t partition;
    uint64_t offset;
    uint32_t delivery;
    uint32_t epoch;
};
enum { RECEIPT_TEXT_SIZE = 48 }; /* URL-safe base64 of 32 bytes and a check, NUL included */
void receipt_format(const struct receipt *receipt, char text[RECEIPT_TEXT_SIZE]);
bool receipt_parse(struct span text, struct receipt *receipt);

/* Opens the group on its home worker: reads its rows, raises and stores its epoch, then serves;
 * requests that come before wait. Takes references of queue and spec. */
struct group *group_open(struct log *log, struct log_worker *worker, struct loop *loop,
                         const struct queue *queue, const struct group_spec *spec);
/* Ends waiting takes with NOT_FOUND (removed) or SHUTTING_DOWN; frees itself when its own requests
 * are back, and then completes closed (NULL: nobody waits for that). remove: deletes its rows. */
void group_close(struct group *group, bool remove, struct request *closed);

/* Commit notice: batch (borrowed) of this queue has been committed. On the home loop, in offset
 * order per partition. */
void group_notice(struct group *group, uint64_t partition, struct batch *batch);

struct group_item {
    struct batch *batch; /* a reference for the caller */
    uint32_t index;      /* which record of it */
    struct receipt receipt;
    uint32_t failures;
};
struct group_take {
    struct request request;
    uint32_t max_records; /* 1..GROUP_TAKE_MAX */
    uint32_t max_bytes;   /* at least one record is given when there is one */
    uint32_t wait_ms;     /* long poll: only when nothing is available now */
    uint32_t lease_ms;
    struct group_item *items; /* caller's array of max_records */
    uint32_t count;           /* out */
    /* Below: the group's. */
    struct link link;
    struct loop_timer timer;
    struct group *group;
    /* The broker's, for the way to the home worker. */
    void *carrier;
};
enum { GROUP_TAKE_MAX = 1000 };
/* OK with count 0 after wait_ms without a record. Waiters are served in turn. */
void group_take(struct group *group, struct group_take *take);
/* On the group's home loop: ends a waiting take with CANCELED (later, through done); harmless
 * otherwise. */
void group_take_cancel(struct group *group, struct group_take *take);

enum settle_outcome { SETTLE_DONE, SETTLE_FAILED, SETTLE_RELEASED };
struct group_settle {
    struct request request;
    const struct receipt *receipts; /* borrowed until done() */
    enum settle_outcome outcome;
    uint32_t count;
    enum status *results; /* caller's array of count: OK or STALE */
    struct link link;     /* the group's */
    /* The broker's, for the way to the home worker. */
    void *carrier;
    uint64_t group_id;
    void (*done)(struct request *request, enum status status);
};
/* Answers after the settlement is durable. Takes part in a common write with others of the same
 * turn. */
void group_settle(struct group *group, struct group_settle *settle);

#endif
