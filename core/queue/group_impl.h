/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a group, shared by group.c (settlements, time) and the files that begin with
 * group_, each with a part of it. Everything runs on the group's home loop.
 *
 *   OPENING --rows read, bounds known, epoch stored--> SERVING --group_close--> CLOSING --> freed
 *   broken: storage has failed for good or rows cannot be understood; everything is refused
 */
#ifndef CORE_QUEUE_GROUP_IMPL_H
#define CORE_QUEUE_GROUP_IMPL_H

#include "core/base/limits.h"
#include "core/queue/fifo.h"
#include "core/queue/group.h"
#include "core/queue/offset_map.h"
#include "core/queue/window.h"

enum group_state { GROUP_OPENING, GROUP_SERVING, GROUP_CLOSING };

/* Batches in offset order that together say what lies in [from, to). */
enum { SHELF_BATCHES = 64, SHELF_BYTES = 1024 * 1024 };
struct shelf {
    struct batch *batches[SHELF_BATCHES];
    uint32_t count;
    uint32_t recent; /* where the last offset was found */
    size_t bytes;
    uint64_t from, to;
};

/* When which offsets were appended, roughly: for the age of the oldest record that is not done, and
 * for how much of the log lies behind it. */
enum { AGES_MAX = 64 };
struct ages {
    struct age {
        uint64_t first;
        int64_t append_time_ms;
        uint64_t bytes_before; /* ever written to the partition, roughly */
    } known[AGES_MAX];
    uint32_t count;
};

/* Which offsets were passed over because they had expired: those of late, for explain. */
enum { EXPIRED_RUNS = 16 };
struct expired {
    struct {
        uint64_t from, to;
    } runs[EXPIRED_RUNS];
    uint32_t count;
    uint64_t known_from; /* of all from there on it is known whether they have */
};

/* One partition of the queue, or that of the group's dead letters, as the group sees it. */
struct part {
    struct group *group;
    uint64_t id;
    bool dead;
    struct partition_stat *bounds;
    struct window *window;

    uint64_t start_at;    /* where a new group begins that wants only what is new */
    uint64_t noticed;     /* end of the last notice */
    uint64_t asked_end;   /* window end when the last read began */
    uint64_t nothing_end; /* a read found nothing up to this window end */
    uint64_t retry_ms;    /* a read failed: not again before */
    struct shelf ahead;   /* new records */
    struct shelf again;   /* redeliveries */
    struct ages ages;
    struct expired expired;
    struct log_read read;
    bool reading;
    struct shelf *read_into;

    struct window_watch watch;
    bool watched;
    /* Where lanes look that do not take whatever the window shows. */
    struct offers offers; /* what came back, or (fifo) may be handed out */
    struct fifo *fifo;    /* NULL: records may overtake each other */
    uint64_t met;         /* fifo: all that is not done below was met */

    struct offset_map notes; /* offset -> index in the group's */

    struct move *move;      /* under way from here; NULL: none */
    uint64_t move_retry_ms; /* one has failed: not again before */

    bool has_snapshot;
    bool has_moved;       /* there may be rows that say what has moved */
    bool must_rewrite;    /* the next row must be a snapshot: what is stored does not lead here */
    bool in_write;        /* row is in the write under way */
    uint32_t delta_count; /* deltas since the snapshot */
    uint64_t delta_next;  /* number of the next */
    struct buf row;
    uint8_t key[25], range_first[25], range_end[25], moved_first[25], moved_end[25];
};

/* How far a lane of its own choice has come in a partition. */
struct place {
    struct offer_reader reader;
    uint64_t cursor; /* not fifo: all that was available below was offered to the lane */
    struct shelf shelf;
};

/* Who waits for the same: records of the queue or dead letters, those that a selector names. */
struct group_lane {
    struct list takes;   /* waiting, in turn */
    struct link waiting; /* in the group's list while takes wait */
    uint32_t impatient;  /* of them: those that do not wait for records to come */
    uint32_t turn;       /* the partition that is asked first */
    struct part *parts;
    uint32_t part_count;
    struct place *places;      /* one per partition; NULL: it takes what the window shows */
    struct selector *selector; /* NULL: every record */
    bool own;                  /* of one taker, for which a bar is up */
    struct bar *bar;           /* NULL: it is own, and the bar has gone */
    struct list takers;        /* those that are there, and some that have gone: references */
    bool of_takers;            /* there were some: without them it is for nobody */
    uint64_t used;             /* grows from take to take of the group */
};

/* What one taker has given back as not for itself: group_bar.c. */
struct bar {
    struct taker *taker;        /* a reference */
    struct offset_map *offsets; /* by the group's partitions */
    uint32_t count;             /* of all of them; some may be done */
    uint64_t tidied;            /* the turn when those went last */
};

/* Of a consumer that may be forgotten: group_expiry.c. */
struct expiry {
    uint64_t idle_ms;        /* 0: it may not */
    struct request *expired; /* NULL: nobody is told (any more) */
    uint64_t look_ms;        /* when it is looked at next */
    int64_t taken_ms;        /* wall clock: when somebody took last, or waited */
    bool overtaken;          /* since then by retention */
    int64_t stored_ms;
    bool stored_overtaken;
};

/* LANES_MAX: twice the bars, as lanes may stay until their reads are back. */
enum { LANE_RECORDS, LANE_DEAD, LANES, LANES_MAX = LIMIT_GROUP_CHOICES + 2 * LIMIT_GROUP_BARS };
/* Of queues with many partitions there are fewer lanes: their places have a limit, too. */
enum { CHOICES_FEW = 32, PLACES_MAX = 16384 };

struct group {
    struct log *log;
    struct log_worker *worker;
    struct loop *loop;
    struct queue *queue;
    struct group_spec *spec;
    enum group_state state;
    enum status broken; /* OK, or why everything is refused */
    uint32_t epoch;
    uint64_t untold, told_ms; /* records lost that were not told of yet; when that was done last */

    struct label_choice labels; /* what it wants; count 0: everything */
    bool labels_changed;
    struct buf labels_row;
    uint8_t labels_key[9];
    struct selector *selector; /* likewise; NULL: everything */

    struct expiry expiry;

    struct group_lane **choices; /* lanes with a selector (LIMIT_GROUP_CHOICES), or of one taker */
    uint32_t choice_count, choice_capacity;
    struct note *notes;
    uint32_t note_count, note_capacity;
    struct group_budget *budget;
    struct bar *bars[LIMIT_GROUP_BARS];
    uint32_t bar_count;
    bool bars_changed;          /* takes may wait in a lane that is not for them */
    struct list waiting;        /* lanes, in turn */
    struct group_lane *serving; /* the one that is being served */
    uint64_t used;
    uint64_t turns;       /* of work */
    uint64_t fills;       /* attempts to fill a take */
    bool unfinished;      /* a lane would go on */
    uint32_t evaluations; /* of selectors in this turn, in vain */
    uint64_t evaluated_from_ns;

    struct group_lane lanes[LANES];
    /* From before the group served: */
    struct list early;          /* settlements */
    struct list early_redrives; /* begun after them */
    struct list early_explains; /* answered last */
    struct list early_surveys;  /* likewise */
    struct list settled;        /* applied, to be answered after the next write */
    struct list units;          /* under way, in order of their numbers */
    uint64_t unit_next;         /* number of the next */
    uint64_t unit_first;        /* no row of a lower number is stored */
    bool unit_stored;           /* some of those that are not under way are */
    struct seek_job *seek;      /* NULL: none */
    struct redrive *redrive;    /* the last one; NULL: none yet */
    bool limit_changed;         /* of failures; looked at when no move is under way */
    uint32_t jobs;              /* moves and the like that hold a pointer to this */
    uint32_t steps_left;        /* records that may still be skipped in this turn */
    uint64_t taken_ms;          /* when the last take came */
    struct loop_task work;
    struct loop_timer timer;
    uint64_t timer_ms; /* what it is armed for; 0: not */

    uint32_t reads; /* under way, the first probes included */
    /* Store */
    bool scanning, opened;
    struct storage_scan scan;
    uint8_t scan_first[26], scan_end[9];
    uint32_t probes;
    bool writing;
    bool removing, removed;
    struct request *closed; /* waits until the group is freed; NULL: none */
    uint64_t patient_ms;    /* what is to be written may wait until then; 0: it may not */
    uint64_t rewrite_ms;    /* the last write has failed or could not be made: again then; 0: no */
    struct list answering;  /* settlements in the write under way, or that is tried again */
    struct storage_row *rows;
    struct log_rows write;
    uint8_t epoch_key[9], epoch_row[14], remove_keys[12][9], unit_keys[2][17];

    uint32_t part_count; /* those of the queue, then that of the dead letters, if there is one */
    struct part parts[];
};

/* group.c */
void group_wake(struct group *group); /* work at the end of this turn */
void group_break(struct group *group, enum status status);
void group_opened(struct group *group);
/* Completes a request that somebody else's call started: at once when it is at home here. */
void group_answer(struct group *group, struct request *request, enum status status);
void group_answer_all(struct group *group, struct list *settles, enum status status);

/* The partition of a receipt of this life of the group; NULL: it is of none. */
struct part *group_part_of(struct group *group, const struct receipt *receipt);
enum window_outcome group_outcome(const struct part *part, enum settle_outcome outcome);
static inline bool group_comes_back(enum window_outcome outcome)
{
    return outcome == WINDOW_FAILED || outcome == WINDOW_RELEASED;
}
/* due_ms 0: no delay. */
enum status group_settle_lease(struct part *part, const struct receipt *receipt,
                               enum window_outcome outcome, int64_t due_ms);

/* group_unit.c */
void unit_apply(struct group *group, struct group_unit *unit);
enum status unit_load(struct group *group, struct span key, struct span value);
/* Rows that the write which begins makes superfluous: true, and from where to where. */
bool unit_rows(struct group *group, struct span *first, struct span *end);

/* group_take.c */
void takes_serve(struct group *group);
bool takes_wait(const struct group *group);
/* All that wait end with status, by mail. */
void takes_refuse(struct group *group, enum status status);

/* Gives those that wait the lane they belong to by now. */
void takes_sort(struct group *group);

/* group_bar.c */
/* The record is not for the taker any more. False: too much is remembered already. */
bool bar_put_up(struct part *part, uint64_t offset, struct taker *taker);
void bar_take_down(struct part *part, uint64_t offset, const struct taker *taker);
struct bar *bar_of(const struct group *group, const struct taker *taker); /* NULL: none */
bool bar_holds(const struct bar *bar, const struct part *part, uint64_t offset);
void bars_sweep(struct group *group); /* those of takers that have gone */
void bars_deinit(struct group *group);

/* group_note.c */
struct blob *note_of(const struct part *part, uint64_t offset); /* a reference; NULL: none */
void notes_drop(struct part *part, uint64_t from, uint64_t to);
/* What was said of a lease that was settled so: a note where the record comes back, in place of
 * notes a reason for the dead letter where it was rejected. */
void note_settled(struct part *part, uint64_t offset, enum window_outcome outcome,
                  struct span note);
struct span reason_of(const struct part *part, uint64_t offset); /* empty: none */
void notes_deinit(struct group *group);

/* group_redrive.c, group_explain.c, group_survey.c: of a group that serves. */
void redrive_apply(struct group *group, struct group_redrive *redrive);
void explain_apply(struct group *group, struct group_explain *explain);
void survey_apply(struct group *group, struct group_survey *survey);

struct find;

/* group_order.c: which record is next where it is not simply the window's. */
void part_order(struct part *part); /* sets up what the queue's type needs */
void part_watch(struct part *part); /* lanes and notes are told what becomes of offsets */
void order_tidy(struct part *part); /* once per turn */
void part_order_deinit(struct part *part);
void group_lane_join(struct group_lane *lane); /* places in all its partitions */
void group_lane_leave(struct group_lane *lane);
void order_evaluated(struct group *group); /* a selector does not want a record */

/* group_filter.c */
/* The lane that a take belongs to; NULL: too many selectors are in use. */
struct group_lane *group_lane_for(struct group *group, const struct group_take *take);
bool group_lane_wants(const struct group_lane *lane, const struct part *part,
                      const struct record *record);
/* Lanes whose bar has gone and, where there are many, those whose takers have: if nothing of them
 * is under way. */
void lanes_forget(struct group *group);
/* Whether what waits in the lanes of a bar would find room in lanes for all. */
bool lanes_may_open(struct group *group, const struct bar *bar);
/* False: the take asks for other labels than the group has chosen. */
bool filter_agrees(struct group *group, const struct group_take *take);
bool filter_wants(const struct group *group, const struct record *record);
/* What the group does not want is done: the record, or as much of the batch as is clear already. */
bool filter_batch(struct part *part, const struct find *find);
bool filter_record(struct part *part, const struct find *find);
enum status filter_load(struct group *group, struct span row);
bool filter_row(struct group *group, struct span *row); /* false: nothing is to be stored */
void filter_deinit(struct group *group);

/* group_expiry.c */
void expiry_taken(struct group *group);     /* a take came, or went */
void expiry_overtaken(struct group *group); /* retention has removed what was not done */
/* At the end of a turn; when to look again, as loop_now_ms(); 0: not. */
uint64_t expiry_look(struct group *group);
bool expiry_has_changes(const struct group *group); /* that are to be stored */
void expiry_store(struct group *group, int64_t *taken_ms, bool *overtaken);
void expiry_load(struct group *group, int64_t taken_ms, bool overtaken);

/* group_feed.c */
enum feed { FEED_RECORD, FEED_NOTHING, FEED_LATER, FEED_SKIPPED };
struct find {
    uint64_t offset;
    struct batch *batch; /* borrowed until its shelf changes */
    uint32_t index;
    struct record record;
};
/* The next record to hand out. On the way, gaps and records that ran out are settled. LATER: its
 * bytes are being read, or the turn has done enough. */
enum feed feed_next(struct group_lane *lane, struct part *part, int64_t wall_ms, struct find *find);
/* The record at find->offset, from a shelf or else by a read that fills shelf, which is the
 * partition's shelf for redeliveries or one whose reader only goes forward. SKIPPED: it need not be
 * handed out and has been settled; not where held is true, then there is none. */
enum feed feed_load(struct part *part, struct shelf *shelf, bool held, int64_t wall_ms,
                    struct find *find);
void shelf_clear(struct shelf *shelf);
/* group_order.c */
/* The message group of a record; key may be NULL. Those without one form a group, 0. */
uint64_t order_key(const struct record *record, struct span *key);
enum feed order_next(struct group_lane *lane, struct part *part, int64_t wall_ms,
                     struct find *find);
void feed_notice(struct part *part, struct batch *batch, bool keep);
void feed_probe(struct part *part); /* learns bounds, then store_probed() */
void feed_drop(struct part *part);  /* batches that nobody has asked for lately */
/* What retention has removed meanwhile is done. */
void feed_skip_lost(struct part *part);
void feed_skip_to(struct part *part, uint64_t start);
/* Offsets that turned out to be gone: lost, unless they are done. */
void feed_skip_unreadable(struct part *part, uint64_t from, uint64_t to);
/* The window begins elsewhere: what was known of the old place is forgotten. */
void feed_restart(struct part *part);
/* Learns of records without a notice; true: there are some. */
bool feed_look(struct part *part);
bool feed_is_expired(const struct record *record, int64_t wall_ms);
/* A record that is done and has expired by now was passed over: as far as is known. */
bool feed_has_expired(const struct part *part, uint64_t offset);
int64_t feed_oldest_ms(struct part *part);
uint64_t feed_held_bytes(const struct part *part); /* of the log, from the oldest record not done */

/* group_move.c: records that are appended to another partition and done here in one unit. */
enum { MOVE_MAX = 256, MOVED_KEY = 25, MOVED_ROW = 9 };
struct move {
    struct group *group;
    struct part *from;
    void (*next)(struct move *move, enum status status);
    uint64_t wanted[MOVE_MAX]; /* the starter's, while it reads */
    uint32_t wanted_count;
    struct log_read read;
    struct batch_builder builder;
    uint64_t offsets[MOVE_MAX]; /* in the batch, in order */
    uint32_t count;
    struct log_append append;
    struct storage_row rows[MOVE_MAX];
    uint8_t keys[MOVE_MAX][MOVED_KEY], values[MOVE_MAX][MOVED_ROW];
};
/* One at a time from a partition. */
struct move *move_new(struct part *from);
void move_free(struct move *move);
/* Reads from offset on; next() comes with what log_read ended with. */
void move_read(struct move *move, uint64_t offset,
               void (*next)(struct move *move, enum status status));
/* After a read that was not OK: the partition goes on behind what cannot be had, or tries again in
 * MOVE_RETRY_MS. */
enum { MOVE_RETRY_MS = 1000 };
void move_unread(const struct move *move, enum status status);
/* After a read: the record at offset. NOT_FOUND: there is none; BUSY: this read did not get that
 * far. */
enum status move_find(const struct move *move, uint64_t offset, struct record *record);
/* The record joins the batch, without the headers of an earlier move (from HEADER_DEAD on), and
 * with more ones, unless it would be too large with them. False: the batch is full. */
bool move_add(struct move *move, const struct record *record, const struct header *more,
              uint32_t more_count);
/* Appends what was added, as one unit with rows that say what has moved. When it is stored, these
 * offsets are done. */
void move_send(struct move *move, uint64_t partition,
               void (*next)(struct move *move, enum status status));

/* group_dead.c */
void dead_limit(struct group *group); /* as the queue's description says */
void dead_step(struct group *group);  /* moves what is spent */

/* group_seek.c */
void seek_step(struct group *group);
void seek_flushed(struct group *group); /* all that has changed is in the write that begins */
void seek_written(struct group *group, enum status status);
/* A write has failed, and is tried again: one that only waits for it has nothing to wait for. */
void seek_delayed(struct group *group, enum status status);
void seek_refuse(struct group *group, enum status status); /* by mail */

/* group_redrive.c */
void redrive_step(struct group *group);
void redrive_progress(const struct group *group, struct redrive_progress *progress);
void redrive_free(struct group *group);

/* group_store.c */
struct part *group_part(struct group *group, uint64_t partition); /* NULL: none of its own */
struct span moved_key(uint8_t *key, const struct part *part, uint64_t offset);

void store_open(struct group *group);
void store_probed(struct part *part);    /* the first read of the partition is done */
void store_flush(struct group *group);   /* writes what changed, unless a write is under way */
void store_rewrite(struct group *group); /* the write that failed, once more */
void store_remove(struct group *group);
void store_deinit(struct group *group);

#endif
