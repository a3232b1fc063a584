/* SPDX-License-Identifier: Apache-2.0 */
/* An open store inside: RocksDB, the three kinds of threads around it, and what they share. */
#ifndef STORAGE_ROCKSDB_ENGINE_H
#define STORAGE_ROCKSDB_ENGINE_H

#include <pthread.h>
#include <rocksdb/c.h>
#include <stdatomic.h>

#include "core/base/buf.h"
#include "storage/rocksdb/directory.h"
#include "storage/rocksdb/partition.h"
#include "storage/storage.h"
#include "storage/units.h"

/* Column families: one per retention class, by class number, and the state behind them. */
enum { FAMILY_STATE = STORAGE_CLASSES, FAMILIES };
extern const char *const family_names[FAMILIES];

enum {
    SEGMENT_BYTES = 48 << 20,
    WAL_BYTES = 160 << 20,
    WRITE_BYTES = 1 << 20,          /* a WriteBatch grows to about this */
    WRITE_BUFFER_BYTES = 256 << 20, /* backstop of the log families */
    INTERVAL_MS = 100,
    SPACE_CHECK_MS = 100,
    DROP_DELAY_MS = 100,       /* many trims, one pass */
    EVACUATE_BYTES = 16 << 20, /* per second */
    MOVE_BYTES = 64 << 10,     /* a move grows to about this */
    MOVE_PARTS = 64,
    RESERVE_OFFSETS = 1 << 16, /* of an interval partition, ahead of what is given out */
};

/* After an unclean stop the commit sequence goes on far behind any number that was given out
 * unsynced. */
static const uint64_t COMMIT_GAP = (uint64_t)1 << 32;

struct family {
    rocksdb_column_family_handle_t *handle;
    uint64_t unflushed_bytes;  /* put since the last flush */
    uint64_t oldest_wal;       /* WAL position of the oldest of them */
    uint64_t oldest_ms;        /* and when it was written (monotonic) */
    _Atomic(uint64_t) segment; /* log families: the open one; the writer changes it */
};

enum { SYNC_BUCKETS = 12 };
extern const uint32_t sync_bucket_us[SYNC_BUCKETS]; /* upper ends; slower ones are in none */

/* What storage_append.engine holds. A ticket is the place in the syncer's order; 0: none. */
enum { SLOT_KIND, SLOT_TICKET };

struct chain {
    struct storage_append *head, *tail;
};

enum work { WORK_READ, WORK_SCAN, WORK_FLOOR, WORK_BOUNDS, WORKS };

struct work_queue {
    struct mail *head, *tail;
};

struct reader {
    pthread_t thread;
    struct engine *engine;
    uint64_t work; /* number of the work under way, under reader_lock; 0: none */
};

/* Segments of a class that nobody needs any more: [first, end). */
struct hole {
    enum storage_class class;
    uint64_t first, end;
};

/* What one pass drops. It waits until the commit is synced, because a power loss would otherwise
 * bring back an index that needs the files, and until all work up to a number has ended, because
 * that may look for batches where they no longer are. */
struct drop {
    bool pending;
    uint64_t commit, work;
    uint64_t below[STORAGE_CLASSES]; /* everything below; 0: nothing */
    struct hole *holes;
    size_t hole_count, hole_capacity;
};

/* What one move takes out of a segment: consecutive batches of one partition. */
struct move_part {
    uint64_t partition;
    struct index_row range;
    uint32_t batch_count;
    bool in_place; /* the writer found it where it was read, and has written it */
};

struct move_batch {
    uint64_t offset;
    size_t at, size; /* the stored value, in move.bytes */
};

/* Batches on their way from a mostly dead segment to the open one, and the index rows that say so:
 * one write. Bytes, offsets and envelopes stay as they are. */
struct move {
    struct storage_append append; /* takes its turn with the appends */
    enum storage_class class;
    uint64_t source, target;
    struct move_part parts[MOVE_PARTS];
    uint32_t part_count;
    struct move_batch *batches; /* of all parts, in order */
    size_t batch_count, batch_capacity;
    struct buf bytes;
};

struct evacuation {
    bool wanted, running; /* under reader_lock, with the next; the rest is whose turn it is */
    uint64_t at_ms;
    bool chosen; /* move.class and move.source name a segment under evacuation */
    uint64_t *partitions;
    size_t partition_count, partition_at; /* those before it are read */
    uint64_t offset;                      /* of that one: what lies below is read */
    uint64_t next[STORAGE_CLASSES];       /* where the search for a segment goes on */
    uint64_t began_ms;
    _Atomic(uint64_t) look_ms; /* changed by whose turn it is, read also by who wants a turn */
    uint64_t bytes_per_second;
    struct move move;
};

/* running: under reader_lock; the rest is whose turn it is. */
struct backup {
    bool running, started;
    pthread_t thread;
    struct storage_backup *request;
};

/* Under log_lock: the log file that RocksDB writes, about where it is in it, and up to where the
 * blocks are written. */
struct ahead {
    int fd;      /* -1: not known, or not to be extended */
    bool stale;  /* RocksDB may have begun another */
    bool paused; /* somebody may write to the log without log_lock */
    uint64_t at, end;
    uint64_t bytes, writes; /* count_bytes and count_writes as they were at the last sync */
};

struct engine {
    struct storage storage;
    rocksdb_t *db;
    rocksdb_env_t *environment; /* NULL: the process's own */
    rocksdb_writeoptions_t *write_options;
    rocksdb_flushoptions_t *flush_options;
    struct directory directory; /* path is NULL with an environment of its own */
    uint64_t min_free_bytes, segment_bytes, wal_bytes;
    uint32_t interval_ms;
    enum status (*sync_hook)(void *context);
    void *sync_context;

    struct index index;
    /* Around everything that can write to the log file: after an error of RocksDB no other call may
     * touch that file, because builds with assertions (Debian's) abort there. */
    pthread_mutex_t log_lock;
    bool log_broken; /* under log_lock */
    struct ahead ahead;
    atomic_bool failed; /* final */
    _Atomic(uint64_t) space_checked_ms;
    atomic_int space; /* enum space */

    /* Writing. posted is a stack that any thread pushes to and that is taken whole. It is written
     * by the syncer between two syncs, or by the writer beside a sync when that pays; write_lock is
     * held by whoever does, and covers the fields down to index_kept_from. */
    pthread_t writer;
    pthread_mutex_t write_lock;
    atomic_size_t posted_bytes; /* since posted was last taken */
    _Atomic(struct storage_append *) posted;
    pthread_mutex_t writer_lock;
    pthread_cond_t writer_wake;
    bool writer_stop, writer_wanted;
    rocksdb_writebatch_t *batch;
    size_t batch_families[FAMILIES]; /* bytes in batch, by family */
    struct chain group;              /* what batch holds */
    struct units units;              /* that are not complete */
    struct buf scratch, key_scratch;
    struct family families[FAMILIES];
    uint32_t epoch;
    uint64_t commit;       /* last given out */
    uint64_t wal_position; /* bytes ever written */
    uint64_t ticket;       /* last given to an append that goes through the syncer */
    uint64_t index_kept_from[STORAGE_CLASSES]; /* index rows below this segment are deleted */

    /* Syncer. */
    pthread_t syncer;
    atomic_bool sync_busy; /* it will look at posted again before it sleeps */
    pthread_mutex_t sync_lock;
    pthread_cond_t sync_wake;
    bool sync_stop;
    struct chain written;  /* waits for a sync, or for the turn to fail */
    bool written_unsynced; /* something was written since the last sync began */
    uint64_t written_since_ms;
    uint64_t written_commit;
    _Atomic(uint64_t) synced_commit;
    _Atomic(uint64_t) done_ticket; /* all up to it were completed by the syncer */

    /* Readers; one of them at a time also drops files, and one evacuates. */
    struct reader *readers;
    uint32_t reader_count;
    pthread_mutex_t reader_lock;
    pthread_cond_t reader_wake;
    bool reader_stop;
    struct work_queue work[WORKS];
    unsigned work_turn;
    uint64_t work_number; /* rises with each work begun */
    bool drop_wanted, drop_running;
    bool drop_again; /* asked for since the pending drop was found */
    uint64_t drop_at_ms;
    unsigned drop_attempts;
    struct drop drop; /* of whoever set drop_running */
    struct evacuation evacuation;
    _Atomic(uint64_t) dropped_below[STORAGE_CLASSES];

    struct backup backup;

    /* Metrics. */
    _Atomic(uint64_t) count_appends, count_batches, count_bytes, count_writes, count_syncs;
    _Atomic(uint64_t) count_rolls, count_backstops, count_corrupt, count_reads, count_drops;
    _Atomic(uint64_t) count_evacuated, count_evacuated_bytes;
    _Atomic(uint64_t) sync_ns, sync_ns_max, sync_buckets[SYNC_BUCKETS];
};

enum space { SPACE_ENOUGH, SPACE_ROWS_ONLY, SPACE_NONE };

/* engine.c */
struct engine *engine_of(struct storage *storage);
bool engine_has_failed(const struct engine *engine);
/* Latches the failure and says why, once. Takes problem: RocksDB's text, or NULL when RocksDB is
 * well. */
void engine_fail(struct engine *engine, const char *what, char *problem);
/* Between these two RocksDB may be called on the log; false (and not locked): it has failed. The
 * end takes problem, latches what it says, and gives false then. */
bool log_begin(struct engine *engine);
bool log_end(struct engine *engine, const char *what, char *problem);
enum space engine_space(struct engine *engine);
uint64_t now_ms(void);
struct timespec deadline_of(uint64_t at_ms);
void chain_push(struct chain *chain, struct storage_append *append);
void chain_join(struct chain *chain, struct chain *more); /* more is empty afterwards */

/* recover.c: fills the index from the rows and from the segments that no row covers, writes what is
 * missing, and leaves the engine ready to write. */
enum status engine_recover(struct engine *engine, struct err *err);

/* ahead.c: keeps the log's next blocks written. Between log_begin and log_end, on the thread that
 * syncs, before the log is written. */
void ahead_extend(struct engine *engine);
/* While RocksDB may write to the log outside of log_lock, on any thread. */
void ahead_pause(struct engine *engine, bool paused);
void ahead_end(struct engine *engine);

/* writer.c */
void writer_start(struct engine *engine);
void writer_stop(struct engine *engine);
void writer_wake(struct engine *engine);
/* Writes what is posted, on the calling thread. */
void write_posted(struct engine *engine);
void engine_append(struct storage *storage, struct storage_append *append);
void engine_trim(struct storage *storage, struct storage_trim *trim);
struct storage_trim *append_as_trim(struct storage_append *append); /* NULL when it is none */
struct move *append_as_move(struct storage_append *append);         /* NULL when it is none */
void writer_move(struct engine *engine, struct move *move);         /* ends in evacuate_done */

/* batch.c: building one WriteBatch. */
void batch_put_row(struct engine *engine, struct span key, struct span stored);
void batch_delete_row(struct engine *engine, struct span key);
void batch_put_partition_row(struct engine *engine, const struct partition *partition);
/* Gives offsets and a commit number. True: the append must complete through the syncer. */
bool batch_add_append(struct engine *engine, struct storage_append *append, int64_t wall_ms);
void batch_add_trim(struct engine *engine, struct storage_trim *trim);
void batch_add_move(struct engine *engine, struct move *move);
void batch_delete_own_range(struct engine *engine, struct span first, struct span end);
size_t batch_bytes(const struct engine *engine);
/* Writes the batch with its commit row; false: the engine has failed. The batch is empty
 * afterwards. */
bool batch_write(struct engine *engine);

/* roll.c */
void roll_due(struct engine *engine); /* after every write */
uint64_t
roll_next_ms(const struct engine *engine); /* when age asks for a roll; UINT64_MAX: never */
void roll_all(struct engine *engine);      /* at close: index rows, then everything to files */

/* drop.c */
void drop_want(struct engine *engine);
bool drop_is_mine(struct engine *engine); /* reader_lock held: takes it on when it is due */
void drop_files(struct engine *engine);   /* reader thread whose it is */
void drop_rows(struct engine *engine);    /* writer: forgets what drop_files has dropped */
/* About what the segments [first, end) take in files. */
uint64_t segment_bytes(struct engine *engine, enum storage_class class, uint64_t first,
                       uint64_t end);

/* evacuate.c */
void evacuate_want(struct engine *engine);
bool evacuate_is_mine(struct engine *engine); /* reader_lock held: takes it on when it is due */
void evacuate_step(struct engine *engine);    /* reader thread whose it is */
void evacuate_apply(struct engine *engine, const struct move *move); /* writer: it was written */
void evacuate_done(struct engine *engine, enum status status);       /* syncer: it is synced */
void evacuate_deinit(struct engine *engine);

/* backup.c */
void engine_backup(struct storage *storage, struct storage_backup *backup);
void backup_join(struct engine *engine); /* waits for the end of one that is running */

/* syncer.c */
void syncer_start(struct engine *engine);
void syncer_stop(struct engine *engine);
/* Hands over what was written, or refused and must wait for its turn. */
void syncer_wake(struct engine *engine);
void syncer_push(struct engine *engine, struct chain *chain, bool wrote);
bool engine_sync(struct engine *engine, uint64_t commit);
/* Makes completed batches visible and posts the mails, in order. Empties the chain. */
void chain_complete(struct engine *engine, struct chain *chain);

/* reader.c */
void readers_start(struct engine *engine);
void readers_stop(struct engine *engine);
void engine_read(struct storage *storage, struct storage_read *read);
void engine_scan(struct storage *storage, struct storage_scan *scan);
void engine_floor(struct storage *storage, struct storage_floor *floor);
void engine_bounds(struct storage *storage, struct storage_bounds *bounds);

/* find.c: reading of stored batches. */
enum status find_read(struct engine *engine, struct storage_read *read);
enum status find_floor(struct engine *engine, struct storage_floor *floor);
enum status find_bounds(struct engine *engine, struct storage_bounds *bounds);
enum status find_scan(struct engine *engine, struct storage_scan *scan);

#endif
