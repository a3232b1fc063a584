/* SPDX-License-Identifier: Apache-2.0 */
/* The partitioned log. Each partition has one owner worker, which orders its appends, holds its
 * commit index and tail cache, and answers reads; calls may start on any worker and are carried to
 * the owner.
 *
 *   any worker: log_append -> owner: storage append -> committed -> observer -> done() at home
 *   any worker: log_read   -> owner: tail cache, what was read last, else storage -> done() at home
 */
#ifndef CORE_LOG_LOG_H
#define CORE_LOG_LOG_H

#include "core/base/list.h"
#include "core/log/batch.h"
#include "core/net/request.h"
#include "storage/storage.h"

struct log;        /* the whole log: shared by all workers */
struct log_worker; /* one worker's part: the partitions it owns */
struct log_partition;

/* What a partition is; the same on every worker, from the queue that it belongs to. */
struct partition_spec {
    uint64_t id;
    enum storage_class class;
    enum durability durability;
    uint64_t retention_ms; /* 0: no limit by time */
    /* Limits of all partitions of the queue together, by bytes and by records; 0: none. What is too
     * much goes within a second, the oldest first. */
    uint64_t retention_bytes, retention_records;
    /* What some group has not done stays, as long as the log from there on is not more than this;
     * 0: it goes. */
    uint64_t protect_bytes;
    /* The limits by bytes and records keep publishers out (queue_admit) and remove only what every
     * group has done, as soon as they are three quarters reached. */
    bool refuse;
    /* Of all partitions of the queue: their ids follow each other as their places here do. NULL:
     * this one is alone. Borrowed as stat is. */
    struct partition_stat *siblings;
    uint32_t sibling_count;
};

/* Bounds of a partition for anyone to read without asking the owner; kept by the owner. The queue
 * owns it and outlives the partition's use. */
struct partition_stat {
    _Atomic uint64_t start, end; /* end = commit index */
    _Atomic uint64_t bytes;
    _Atomic int64_t first_time_ms; /* append time of the oldest record; 0: empty */
    _Atomic uint64_t written;      /* bytes ever written */
    _Atomic uint64_t purged; /* what lies below was purged: nobody has lost it (since start) */
    _Atomic uint64_t pending_records,
        pending_bytes; /* let in, on their way: see log_append.pending_* */
};

/* On the owner's loop, for each committed batch, in offset order, before the append's done(). Must
 * not block; takes its own reference when it keeps the batch. */
typedef void log_observer(void *context, uint64_t partition, struct batch *batch);
/* On the loop of a worker that owns a partition of the same queue: the lowest offset that some
 * group has not done; UINT64_MAX: there is no group. */
typedef uint64_t log_undone(void *context, uint64_t partition);

/* Rows that follow from a batch and commit with it, behind those of the append. */
struct log_derived {
    struct storage_row *rows;
    uint32_t count, capacity;
    struct log_memory *memory; /* of keys and values */
    /* Set by whoever derives, or NULL. On the owner's loop, with the context of derive, when the
     * store has done with the rows, whatever has become of them: a scan sees those that are there.
     */
    void (*over)(void *context, int64_t note);
    int64_t note;
};
/* A row with room for key and value, to be filled in before the call that asked returns; offset_at
 * is -1. */
struct storage_row *log_derived_add(struct log_derived *derived, enum storage_change change,
                                    size_t key_size, size_t value_size);
static inline uint8_t *log_derived_key(const struct storage_row *row)
{
    return (uint8_t *)(uintptr_t)row->key.data;
}
static inline uint8_t *log_derived_value(const struct storage_row *row)
{
    return (uint8_t *)(uintptr_t)row->value.data;
}
/* On the owner's loop, for each batch just before it goes to storage; adds what follows from it. */
typedef void log_derive(void *context, uint64_t partition, const struct batch *batch,
                        struct log_derived *derived);

/* Waits for the parts of units that went to storage before: what was derived from them is as old as
 * that, while their sequence is that of the unit's last part. */
struct log_units {
    struct request request;
    /* Below: the log's. */
    struct link link;
    uint64_t until;
};
/* On the owner's loop; done() comes there, with OK, once all of them are back. */
void log_await_units(struct log_worker *worker, struct log_units *units);

/* On the owner's loop, for each batch before derive is asked, in the order of a partition's
 * appends. False: it must wait, and with it what comes behind it in its partition, until
 * log_prepared(). */
typedef bool log_prepare(void *context, uint64_t partition, const struct batch *batch);

struct log *log_new(struct storage *storage, unsigned workers);
void log_free(struct log *log);
/* Once per worker, before its loop runs. */
struct log_worker *log_worker_new(struct log *log, unsigned index, struct loop *loop,
                                  log_observer *observer, void *context);
/* Whom retention asks; context as the observer's. Without it there are no groups. */
void log_worker_ask(struct log_worker *worker, log_undone *undone);
/* Whom each append asks; context as the observer's. */
void log_worker_derive(struct log_worker *worker, log_derive *derive);
/* Who may make an append wait; context as the observer's. */
void log_worker_prepare(struct log_worker *worker, log_prepare *prepare);
/* On the owner's loop: whoever waits is asked again. */
void log_prepared(struct log_worker *worker);
/* After the loop has stopped, before it is freed; nothing may be on its way in storage (close it
 * first). */
void log_worker_free(struct log_worker *worker);
unsigned log_owner(const struct log *log,
                   uint64_t partition); /* worker index; not stored anywhere */

/* On the owner's loop. Asks storage for the bounds, then serves; operations that come before wait.
 * stat is borrowed until the partition is closed and all done() have come. */
void log_partition_open(struct log_worker *worker, const struct partition_spec *spec,
                        struct partition_stat *stat);
/* On the owner's loop: later operations end with NOT_FOUND. remove: its records are trimmed away
 * for ever. */
void log_partition_close(struct log_worker *worker, uint64_t partition, bool remove);
/* On the owner's loop: the limits in spec are those of partition spec->id from now on. */
void log_partition_limit(struct log_worker *worker, const struct partition_spec *spec);

/* Append of one sealed batch and rows that belong to it. */
struct log_append {
    struct request request;
    uint64_t partition;
    struct batch *batch;      /* the append takes this reference and hands it back at done(), with
                               * base_offset and append_time_ms set; NULL: rows only */
    struct storage_row *rows; /* borrowed until done() */
    uint32_t row_count;
    /* What the partition's stat counts as pending of this batch; taken off it when the batch is
     * committed, or storage refuses it, and 0 at done() then. Else (there is no such partition)
     * whoever let it in takes it off. */
    uint32_t pending_records;
    uint64_t pending_bytes;
    /* A part of a unit (storage.h): it always gets there, as a refusal when it cannot be made. */
    uint64_t unit; /* 0: alone */
    uint32_t part_count;
    /* Below: the log's. */
    struct log_worker *owner;
    struct log_partition *at;
    struct storage_batch stored;
    struct storage_append append;
    struct log_derived derived;
    struct link of_units;
    uint64_t unit_place;
};
void log_append(struct log_worker *from, struct log_append *append);
/* Instead of it, for a part of a unit that cannot be: why is how the unit ends. Nothing of the
 * append but unit and part_count is looked at. */
void log_refuse(struct log_worker *from, struct log_append *append, enum status why);

/* Rows alone, for catalog, groups and sessions; straight to storage. durability as in storage.h. */
struct log_rows {
    struct request request;
    struct storage_row *rows;
    uint32_t row_count;
    uint64_t unit; /* as of an append */
    uint32_t part_count;
    enum status refused;
    struct storage_append append;
};
void log_rows_write(struct log *log, struct log_rows *rows);
/* Scan of keyed rows (storage.h); at start and for state on demand. */
void log_rows_scan(struct log *log, struct storage_scan *scan);

enum { LOG_READ_MAX = 64 };
struct log_read {
    struct request request;
    uint64_t partition;
    uint64_t offset;
    int64_t time_ms; /* when by_time: the first record appended at or after it; offset is a floor */
    bool by_time;
    /* Others probably read the same stretch: the answer may be less than was asked for, because
     * it was read for one of them, and is kept for them. Not with by_time. */
    bool shared;
    uint32_t max_bytes; /* 0: LIMIT_READ_BYTES; at least one batch is returned when there is one */
    /* Out. batches: references for the caller, the first holds offset or begins after it. Its
     * records below start are gone. */
    struct batch *batches[LOG_READ_MAX];
    uint32_t count;
    uint64_t start, end; /* bounds at the time of reading */
    /* Below: the log's. */
    struct log_worker *owner;
    uint32_t waits; /* for another read to bring the answer */
};
/* OK with count 0: nothing from offset on is committed yet (offset >= end). OUT_OF_RANGE: offset <
 * start; start tells where to go on. CORRUPT: that batch cannot be read; start is where the next
 * good one begins. */
void log_read(struct log_worker *from, struct log_read *read);

/* Everything that is committed when this arrives at the owner is gone for readers at once, and for
 * ever when done. */
struct log_purge {
    struct request request;
    uint64_t partition;
    uint64_t records; /* out: that were there */
    void *context;    /* the caller's */
    /* Below: the log's. */
    struct log_worker *owner;
    struct log_partition *at;
    struct storage_trim trim;
};
void log_purge(struct log_worker *from, struct log_purge *purge);

/* On the owner's loop: every partition opened so far knows its bounds. */
bool log_worker_is_ready(const struct log_worker *worker);
/* On the owner's loop. */
bool log_has(const struct log_worker *worker, uint64_t partition);
/* The batch that holds offset if the tail cache has it (a new reference), else NULL. */
struct batch *log_tail(struct log_worker *worker, uint64_t partition, uint64_t offset);
/* The same, also from what was read from storage last; NULL also where the partition is another
 * worker's. Whoever gets none asks log_read(). */
struct batch *log_kept(struct log_worker *worker, uint64_t partition, uint64_t offset);
/* Runs retention now instead of at its next minute (tests, and after a change of limits). */
void log_retain(struct log_worker *worker);

#endif
