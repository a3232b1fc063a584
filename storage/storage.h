/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine offers, whichever it is: append batches and keyed rows atomically, read batches by
 * offset, scan rows, trim. Every operation is a request: caller owns it until done(), which comes
 * on request.home. Any thread may start an operation; operations on one partition or key that one
 * thread starts take effect in that order. An engine never blocks its caller. */
#ifndef STORAGE_STORAGE_H
#define STORAGE_STORAGE_H

#include "core/base/blob.h"
#include "core/net/request.h"

struct storage;

/* Retention class of a queue: which family of files its batches share. Fixed at creation. */
enum storage_class {
    STORAGE_6_HOURS,
    STORAGE_3_DAYS,
    STORAGE_30_DAYS,
    STORAGE_UNLIMITED,
    STORAGE_CLASSES
};

enum durability {
    DURABLE_SYNC,     /* completes after the sync that covers it */
    DURABLE_INTERVAL, /* completes when written; synced every storage_options.interval_ms */
};

enum storage_can {
    STORAGE_ATOMIC_ROWS = 1, /* rows and batches of one append commit together */
    STORAGE_UNITS = 2,       /* parts of several owners commit together */
    STORAGE_PERSISTENT = 4,
};

struct storage_options {
    const char *directory;
    uint64_t min_free_bytes; /* below: appends end with NO_SPACE (rows-only appends may still pass,
                              * so that acks and trims go on, down to a quarter of it) */
    uint32_t interval_ms;    /* of DURABLE_INTERVAL; 0: 100 */
    uint64_t segment_bytes;  /* rocksdb: roll size; 0: 48 MiB */
    uint64_t wal_bytes;      /* rocksdb: unflushed WAL bound; 0: 160 MiB */
    uint64_t evacuate_bytes; /* rocksdb: re-written per second to free segments; 0: 16 MiB */
    uint32_t readers;        /* rocksdb: threads that read; 0: 1 */
    void *environment;       /* tests: rocksdb_env_t, or NULL */
    /* Tests: called in place of the disk's sync when set; a status other than OK is a failed sync.
     */
    enum status (*sync_hook)(void *context);
    void *sync_context;
};

/* One RecordBatch v2 to append. The engine gives the base offset and writes it, and the leader
 * epoch, into the blob (bytes 0-7 and 12-15, outside the CRC) before done(); nobody else may read
 * those bytes until then. It takes no reference beyond done(). */
struct storage_batch {
    uint64_t partition;
    enum storage_class class;
    enum durability durability;
    uint8_t flags;         /* STORAGE_BATCH_* */
    uint64_t principal;    /* of batches that we did not build: overrides the header; 0: none */
    uint32_t record_count; /* offsets the batch takes */
    struct blob *bytes;    /* caller keeps its reference until done() */
    struct span footer;    /* borrowed until done(); given back by reads as it is, may be empty */
    /* Set by the engine before done(): */
    uint64_t base_offset;
    int64_t append_time_ms; /* wall clock, clamped monotone per partition */
};
enum {
    STORAGE_BATCH_OURS = 1,
    STORAGE_BATCH_CONTROL = 2,
    STORAGE_BATCH_UNLABELLED = 4, /* no record of it carries a label */
};

/* One change of keyed state. Keys are compared as bytes; begin with a table number. Numbers below
 * 0x10 are the engine's own; core's are in core/log/table.h. Scans never show the engine's rows. */
enum storage_change { STORAGE_PUT, STORAGE_DELETE, STORAGE_DELETE_RANGE, STORAGE_DELETE_WHEN };
struct storage_row {
    enum storage_change change;
    struct span key;   /* borrowed until done(), as the others */
    struct span value; /* PUT: the value; DELETE_RANGE: the key that ends the range (excluded);
                        * DELETE_WHEN: what the row's value begins with after all earlier appends,
                        * else the row stays. Each is a look at storage: few in one append */
    /* PUT: where >= 0, the engine replaces value bytes [offset_at, offset_at + 8) with the
     * big-endian offset of record patch_record of batch patch_batch of this append, before it
     * computes the row's CRC. */
    int32_t offset_at; /* -1: no patch */
    uint32_t patch_batch, patch_record;
    /* PUT: where > 0, the engine puts the big-endian commit sequence of this append there, eight
     * bytes in the key or in the value. */
    uint32_t commit_in_key, commit_in_value;
};

struct storage_append {
    struct request request;
    struct storage_batch *batches; /* borrowed until done() */
    uint32_t batch_count;
    struct storage_row *rows;
    uint32_t row_count;
    enum durability
        durability; /* of the rows; the append completes after the strictest of its parts */
    uint64_t unit;  /* 0: alone. Else all part_count parts commit together or not at all */
    uint32_t part_count;
    /* Of a part: OK, or why its owner cannot take part. It counts as the others do, and all end
     * with this; of several that refuse, with what the first says. */
    enum status refused;
    uint64_t commit; /* out: commit sequence, rising over the whole store, also across restarts */
    uint32_t kept;   /* out: rows of DELETE_WHEN that stayed, or are not there */
    struct storage_append *next; /* engine's */
    uint64_t engine[2];          /* engine's */
};
/* Ends with: OK; NO_SPACE; STORAGE_FAILED (a sync or write has failed: final for the process,
 * nothing of this append will ever be reported committed); NOT_FOUND (a partition that was
 * removed); SHUTTING_DOWN. Order: appends to one partition complete in the order they were started
 * (a unit: by its last part). */

struct storage_read_batch {
    struct blob *bytes; /* reference handed to the caller of the read */
    struct span footer; /* as it was appended; lies in the same blob, behind its size */
    uint64_t base_offset;
    uint32_t record_count;
    int64_t append_time_ms;
    uint64_t cumulative_bytes; /* of the partition, this batch included */
    uint64_t principal;
    uint8_t flags;
};
enum { STORAGE_READ_MAX = 64 };
struct storage_read {
    struct request request;
    uint64_t partition;
    enum storage_class class;
    uint64_t offset; /* the first batch returned holds it, or begins after it (a legal gap) */
    int64_t
        time_ms; /* when by_time: the first batch with append time >= time_ms; offset is a floor */
    bool by_time;
    uint64_t end;       /* exclusive: no batch with base_offset >= end is returned */
    uint32_t max_bytes; /* stops before exceeding it, but returns at least one batch */
    struct storage_read_batch batches[STORAGE_READ_MAX];
    uint32_t count; /* 0 with OK: nothing in [offset, end) */
    void *engine;
};
/* Ends with: OK; OUT_OF_RANGE (offset below the start: see bounds); CORRUPT (quarantined: the error
 * is final for that batch; the next good batch can be read from the offset in storage_read.offset,
 * which is set to it). */

struct storage_bounds {
    struct request request;
    uint64_t partition;
    enum storage_class class;
    uint64_t start, end; /* out: [start, end) of what is kept; 0, 0 for an unknown partition */
    uint64_t bytes;      /* out: cumulative bytes of [start, end) */
    uint64_t cumulative_bytes;           /* out: ever written */
    int64_t first_time_ms, last_time_ms; /* out: append times; 0 when empty */
};

/* Everything below new_start is gone for readers at once; space follows. Removing a partition for
 * ever (its queue was deleted): remove = true. Trimming is durable when done. */
struct storage_trim {
    struct request request;
    uint64_t partition;
    enum storage_class class;
    uint64_t new_start;
    bool remove;
    struct storage_append append; /* engine's */
    uint8_t engine[64];           /* engine's */
};
/* Finds what retention asks for: the first offset whose batch has append time >= time_ms (exclusive
 * upper bound of what is too old), and the first offset such that at most keep_bytes remain. */
struct storage_floor {
    struct request request;
    uint64_t partition;
    enum storage_class class;
    int64_t time_ms;     /* 0: no limit by time */
    uint64_t keep_bytes; /* 0: no limit by bytes */
    uint64_t floor;      /* out: the higher of the two; at a batch border */
};

/* A copy of the store as a directory that a gateway can be started on: it holds everything that was
 * completed before this began, and of what came later the beginning. Publishes go on meanwhile. */
struct storage_backup {
    struct request request;
    struct span directory; /* absolute; borrowed until done(); does not exist, or is empty */
    struct err err;        /* out: what is wrong */
};
/* Ends with OK (and the copy is synced); INVALID (a directory that cannot be used); BUSY (another
 * backup is running); NO_SPACE; STORAGE_FAILED. The directory is there only after OK. */

/* Rows with first <= key < end, in key order, at most limit; a full answer continues from after. */
struct storage_scan {
    struct request request;
    struct span first, end; /* borrowed until done() */
    uint32_t limit;         /* rows; 0: 1000 */
    /* Out: rows packed in one blob: repeated {u32 key size, u32 value size, key, value},
     * big-endian. The caller's reference. Read it with storage_scan_next. */
    struct blob *rows;
    uint32_t count;
    bool more; /* there are further rows: scan again from just after the last key */
};
/* Ends with OK or CORRUPT (a row's CRC fails: nothing is returned). Scans see all rows whose append
 * has completed before the scan was started. */
bool storage_scan_next(const struct storage_scan *scan, size_t *position, struct span *key,
                       struct span *value);

struct storage_ops {
    const char *name;
    uint32_t can;
    /* Blocking; before workers start. Refuses (with err saying what to do) a directory it does not
     * understand, of another version, locked by another process, or whose recovery ends below the
     * synced marker; touches nothing then. */
    enum status (*open)(const struct storage_options *options, struct storage **storage,
                        struct err *err);
    void (*append)(struct storage *storage, struct storage_append *append);
    void (*read)(struct storage *storage, struct storage_read *read);
    void (*scan)(struct storage *storage, struct storage_scan *scan);
    void (*trim)(struct storage *storage, struct storage_trim *trim);
    void (*floor)(struct storage *storage, struct storage_floor *floor);
    void (*bounds)(struct storage *storage, struct storage_bounds *bounds);
    /* Blocking; after everybody stopped using it: completes nothing more, syncs what was written.
     */
    void (*close)(struct storage *storage);
    /* Any thread. Name/value pairs for /metrics through emit (names without the polylog_ prefix).
     */
    void (*metrics)(struct storage *storage,
                    void (*emit)(void *context, const char *name, double value), void *context);
    /* Any thread: OK, or why writes are refused now (NO_SPACE, STORAGE_FAILED). */
    enum status (*health)(struct storage *storage);
    void (*backup)(struct storage *storage, struct storage_backup *backup); /* NULL: cannot */
};

/* An open store begins with this. */
struct storage {
    const struct storage_ops *ops;
};

#endif
