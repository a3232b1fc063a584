/* SPDX-License-Identifier: Apache-2.0 */
/* One partition as its owner holds it. Internal to core/log; everything here runs on the owner's
 * loop.
 *
 *   OPENING --bounds--> SERVING --log_partition_close--> CLOSED --last operation back--> freed
 *      \------failed--> FAILED  ---------------------------/
 */
#ifndef CORE_LOG_PARTITION_H
#define CORE_LOG_PARTITION_H

#include "core/base/map.h"
#include "core/log/log.h"

struct log {
    struct storage *storage;
    unsigned worker_count;
    struct log_worker *workers[];
};

struct log_worker {
    struct log *log;
    unsigned index;
    struct loop *loop;
    log_observer *observer;
    log_undone *undone;
    log_derive *derive;
    log_prepare *prepare;
    void *context;
    struct map partitions; /* id -> struct log_partition, all but closed ones */
    struct list closed;    /* partitions that wait for their last operation */
    struct list tail;      /* batches in tail caches, oldest first, linked by in_tail */
    size_t tail_bytes;
    struct list pages; /* pages.c */
    uint32_t page_count;
    size_t page_bytes;
    struct list limited;             /* partitions with a limit by bytes or records */
    struct list due;                 /* partitions that retention will look at */
    struct list held;                /* partitions whose appends wait for prepare */
    struct list units;               /* appends of units in storage, oldest first */
    uint64_t unit_count;             /* that ever went there */
    struct list awaiting;            /* struct log_units, oldest first */
    struct log_partition *retaining; /* the one it looks at now */
    struct loop_timer retention_timer, limit_timer;
};

/* The last batches of one partition: every one committed since from, in offset order. */
struct tail {
    struct batch **ring; /* capacity is a power of two, or 0 */
    uint32_t capacity, first, count;
    uint64_t from;
};

enum partition_state { PARTITION_OPENING, PARTITION_SERVING, PARTITION_FAILED, PARTITION_CLOSED };

struct log_partition {
    struct partition_spec spec;
    struct partition_stat *stat;
    struct log_worker *worker;
    enum partition_state state;
    enum status failure; /* when FAILED */
    bool removing;
    uint32_t in_flight;              /* storage operations that hold a pointer to this */
    uint64_t start, end;             /* end: the commit index */
    uint64_t start_bytes, end_bytes; /* bytes ever written before start, and before end */
    uint64_t last_bytes;             /* of the newest batch, if it came since this was opened */
    int64_t first_time_ms;           /* append time of the oldest record; 0: empty */
    struct mail *waiting;            /* operations that came while OPENING, in order */
    struct mail **waiting_last;
    struct mail *held; /* appends that wait for prepare, in order */
    struct mail **held_last;
    struct tail tail;
    struct list reads; /* from storage, under way */
    struct link closed_link, due_link, limited_link, held_link;
    uint64_t wanted; /* what lies below is too much */
    struct storage_bounds bounds;
    struct storage_floor floor;
    struct storage_trim trim;
};

struct log_partition *partition_find(const struct log_worker *worker, uint64_t id);
/* The partition that may serve an operation now; else NULL, and status is how the operation ends,
 * or OK: it waits, and its mail, which must lead back to the place that asks, comes once more. */
struct log_partition *partition_admit(struct log_worker *worker, uint64_t id, struct mail *mail,
                                      enum status *status);
void partition_publish(struct log_partition *partition); /* its bounds into stat */
void partition_take_bounds(
    struct log_partition *partition); /* bytes and first time as storage has them */
/* Appends that waited for prepare arrive once more. */
void partition_unhold(struct log_partition *partition);
/* An operation is back: a closed partition goes with the last one. */
void partition_release(struct log_partition *partition);
void partition_free(struct log_partition *partition);

void tail_push(struct log_partition *partition, struct batch *batch); /* takes its own reference */
void tail_drop_below(struct log_partition *partition, uint64_t offset);
void tail_clear(struct log_partition *partition);
struct batch *tail_at(const struct tail *tail, uint32_t index);
/* Index of the first batch that ends after offset; count when there is none. */
uint32_t tail_find(const struct tail *tail, uint64_t offset);
/* Index of the first batch, not before index from, appended at or after time_ms. */
uint32_t tail_find_time(const struct tail *tail, uint32_t from, int64_t time_ms);

/* One storage read's answer: every batch of the partition between two offsets. */
struct page {
    struct link link; /* of the worker, the last wanted at the end */
    uint64_t partition, from, end;
    size_t size, charge; /* of the batches: stored bytes, and memory */
    uint32_t count;
    struct batch *batches[];
};
struct page *page_new(uint64_t partition, uint64_t from, uint32_t capacity);
void page_add(struct page *page, struct batch *batch); /* takes the reference */
void page_free(struct page *page);                     /* of one that is not kept */
/* Index of the first batch that ends after offset; count when there is none. */
uint32_t page_find(const struct page *page, uint64_t offset);
/* The worker's from here on: it may go with the next that is kept. */
void pages_keep(struct log_worker *worker, struct page *page);
struct page *pages_find(struct log_worker *worker, uint64_t partition, uint64_t offset);
/* How much a read from offset on should bring for those who will ask for what follows; 0: nothing
 * says that somebody will. */
uint32_t pages_ahead(const struct log_worker *worker, uint64_t partition, uint64_t offset);
/* Where the next one behind offset begins; UINT64_MAX: there is none. */
uint64_t pages_next(const struct log_worker *worker, uint64_t partition, uint64_t offset);
void pages_clear(struct log_worker *worker, uint64_t partition);

/* The append's rows, and behind them what follows from its batch. */
void derive_rows(struct log_worker *worker, struct log_append *append);
void derive_end(struct log_append *append);

/* The partition's limits are new. */
void retention_limit(struct log_partition *partition);
void retention_init(struct log_worker *worker);
void retention_deinit(struct log_worker *worker);

/* For requests whose starter is not on the stack: done() at once when this is its home, else by
 * mail. */
static inline void worker_complete(const struct log_worker *worker, struct request *request,
                                   enum status status)
{
    if (request->home == worker->loop)
        request->done(request, status);
    else
        request_complete(request, status);
}

#endif
