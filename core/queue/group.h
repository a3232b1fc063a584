/* SPDX-License-Identifier: Apache-2.0 */
/* A living group: hands out records of a queue under leases, takes them back, settles them, and
 * keeps its state durable. It lives on one home worker; callers on other workers carry their
 * request there first (the broker does). Done() of a request comes at the request's own home. */
#ifndef CORE_QUEUE_GROUP_H
#define CORE_QUEUE_GROUP_H

#include "core/queue/label.h"
#include "core/queue/queue.h"
#include "core/queue/selector.h"
#include "core/queue/window.h"

struct group;
struct group_lane;

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

/* What the groups of a worker remember in memory and need not, together: what goes beyond max is
 * not remembered. Whoever owns it sets max. */
struct group_budget {
    uint64_t note_bytes, note_bytes_max;
    struct released_budget released;
};

/* Opens the group on its home worker: reads its rows, raises and stores its epoch, then serves;
 * requests that come before wait. Takes references of queue and spec, borrows budget until it is
 * freed. */
struct group *group_open(struct log *log, struct log_worker *worker, struct loop *loop,
                         struct group_budget *budget, const struct queue *queue,
                         const struct group_spec *spec);
/* Ends waiting takes with NOT_FOUND (removed) or SHUTTING_DOWN; frees itself when its own requests
 * are back, and then completes closed (NULL: nobody waits for that). remove: deletes its rows. */
void group_close(struct group *group, bool remove, struct request *closed);

/* The queue's description was replaced: same partitions, other limits. On the home loop. */
void group_change(struct group *group, const struct queue *queue);

/* What the group wants from now on; NULL: every record. The rest, also what is given back, is done
 * for it as takes come by. Takes a reference. On the home loop. */
void group_select(struct group *group, struct selector *selector);

/* A consumer of a broadcast group, which may be forgotten: completes expired, once, when nothing
 * was taken for idle_ms and retention has removed what was not done. expired is at home on the
 * group's loop; NULL: only idle_ms changes. On the home loop. */
void group_expire(struct group *group, uint64_t idle_ms, struct request *expired);

/* Partitions of the queue may begin later than the group knows. On the home loop. */
void group_look(struct group *group);

/* Commit notice: batch (borrowed) of this queue has been committed. On the home loop, in offset
 * order per partition. */
void group_notice(struct group *group, uint64_t partition, struct batch *batch);

/* Who takes, where the group has to know it again: what it gave back as not for itself is for
 * others. Any thread. */
struct taker {
    atomic_uint refs;
    atomic_bool gone; /* takes nothing any more: what is remembered of it may be forgotten */
    /* The group's: where it took last. */
    struct group_lane *lane;
    struct link of_lane;
};
struct taker *taker_new(void);
struct taker *taker_ref(struct taker *taker);
void taker_unref(struct taker *taker); /* NULL is fine */

struct group_item {
    struct batch *batch; /* a reference for the caller */
    uint32_t index;      /* which record of it */
    struct receipt receipt;
    uint32_t failures;
    uint32_t lease_ms; /* what is asked for, or what goes without saying */
    bool again;        /* somebody has had it before */
    struct blob *note; /* what they left on it: a reference for the caller; NULL: nothing */
};
struct group_take {
    struct request request;
    uint32_t max_records; /* 1..LIMIT_TAKE_RECORDS */
    uint32_t max_bytes;   /* at least one record is given when there is one */
    uint32_t wait_ms;     /* long poll: only when nothing is available now */
    uint32_t lease_ms;    /* 0: as the queue says */
    bool dead;            /* from the group's dead letters instead of the queue */
    /* What this consumer wants; what does not match stays for others. Borrowed until done(); NULL:
     * all. A group has LIMIT_GROUP_CHOICES different ones (fewer where its queue has more than 64
     * partitions), of which each has a place as long as one of its takers is there: one more is
     * BUSY. */
    const struct selector *selector;
    /* The group's choice of labels (empty: none): what does not match is settled as done for the
     * group. Once given it must be the same at every take: INVALID otherwise. */
    struct label_filter labels;
    struct taker *taker;  /* borrowed until done(); NULL: never gives back as not for itself */
    struct span consumer; /* of a broadcast group: who asks (broker_take); borrowed until done() */
    struct group_item *items; /* caller's array of max_records */
    uint32_t count;           /* out */
    /* Below: the group's. */
    uint64_t bytes; /* of its items */
    struct link link;
    struct loop_timer timer;
    struct group *group;
    struct group_lane *lane;
    /* The broker's, for the way to the home worker. */
    void *carrier;
    bool joining; /* carrier makes the consumer */
};
/* OK with count 0 after wait_ms without a record. Those who wait at the same time are served in
 * turn, record by record. */
void group_take(struct group *group, struct group_take *take);
/* On the group's home loop: ends a waiting take with CANCELED (later, through done); harmless
 * otherwise. */
void group_take_cancel(struct group *group, struct group_take *take);

enum settle_outcome {
    SETTLE_DONE,
    SETTLE_FAILED,   /* counts; dead letter when that was one too many */
    SETTLE_RELEASED, /* does not count */
    SETTLE_REJECTED, /* dead letter now (done, where the queue keeps none) */
    SETTLE_RENEWED,  /* the lease begins anew, for lease_ms from now */
};
struct group_settle {
    struct request request;
    const struct receipt *receipts; /* borrowed until done() */
    enum settle_outcome outcome;
    uint32_t delay_ms; /* FAILED, RELEASED: not offered again before; survives a restart */
    uint32_t lease_ms; /* RENEWED; 0: as the queue says */
    /* FAILED, RELEASED: this one does not get them again, others do. NULL: it may. Borrowed until
     * done(). LIMIT_GROUP_BARS takers and LIMIT_GROUP_BARRED records of each that are not done are
     * remembered, in memory; one more is a dead letter or, where the queue keeps none, waits
     * GROUP_BARRED_MS and may come to anybody. */
    struct taker *not_for;
    bool unharmed; /* RELEASED: one more than are remembered is given back to anybody at once, and
                      its result is OVER_QUOTA */
    /* FAILED, RELEASED: goes with the record when it is handed out again: names and values, a block
     * (pack_block) each; a name that is there already gets the new value. Borrowed until done().
     * Remembered in memory, for LIMIT_GROUP_NOTES records of a group, LIMIT_GROUP_NOTE_BYTES each,
     * as far as the budget goes: more is not. REJECTED: why, for the dead letter's headers: a
     * condition and a description, two texts in a block each, of which one may be empty. */
    struct span note;
    bool ordered; /* the first stale receipt ends it: those behind it are STALE, untouched */
    bool patient; /* DONE, and nobody is told when it is durable: answered as soon as it is
                     applied, durable at most GROUP_PATIENCE_MS and a write later */
    uint32_t count;
    enum status *results; /* caller's array of count: OK, STALE or, unharmed, OVER_QUOTA */
    struct link link;     /* the group's */
    /* The broker's, for the way to the home worker. */
    void *carrier;
    uint64_t group_id;
    void (*done)(struct request *request, enum status status);
};
enum { GROUP_PATIENCE_MS = 25, GROUP_BARRED_MS = 1000 };
/* Answers after the settlement is durable, unless it is patient. Takes part in a common write with
 * others of the same turn. While the store has no room for it the answer waits, as what it says has
 * taken effect: it comes with the room, or with the end of the group. STORAGE_FAILED: nobody knows
 * what the next start will find. */
void group_settle(struct group *group, struct group_settle *settle);

/* Settlements that take effect in a unit (storage.h) with what others do, or not at all. When this
 * comes the leases are looked at, and held until the unit has ended, so that none runs out; none of
 * them may be in question twice. OK: all are durable. STALE, or whatever another part refuses with:
 * the leases are as they were. */
struct unit_settlement {
    struct receipt receipt;
    enum settle_outcome outcome; /* not RENEWED */
    uint32_t delay_ms;           /* as in group_settle */
    struct taker *not_for; /* likewise, but that one more than can be remembered is for anybody
                              after GROUP_BARRED_MS; NULL: nobody */
    struct blob *note;     /* likewise; NULL: none. Both take effect with the end of the unit */
    unsigned becomes;      /* the group's: as it was decided when this came */
};
struct group_unit {
    struct request request;
    struct unit_settlement *settlements; /* borrowed until done() */
    uint32_t count;
    uint64_t unit;
    uint32_t part_count;
    /* Below: the group's. */
    struct group *group;
    struct link link;
    uint64_t number;
    int64_t now_ms; /* wall clock: delays count from here */
    struct log_rows write;
    struct storage_row row;
    struct buf value;
    uint8_t key[17];
};
void group_settle_unit(struct group *group, struct group_unit *unit);
/* Instead of it, when there is no such group: why is how the unit ends. On any loop. */
void group_unit_refuse(struct log *log, struct group_unit *unit, enum status why);

/* What the rare calls below begin with: the broker's, for the way to the home worker and back. */
struct group_mail {
    struct request request;
    void *caller;
    uint64_t group;
    uint64_t generation; /* of the catalog in which the caller found the group */
    void (*serve)(struct group *group, struct group_mail *call);
    void (*done)(struct request *request, enum status status);
};

/* Moves the group's position: what lies before is done, what lies from there on is available again,
 * whatever it was. Leases end (their receipts are stale). Answers when durable. */
enum seek_to { SEEK_EARLIEST, SEEK_LATEST, SEEK_OFFSET, SEEK_TIME };
struct group_seek {
    union {
        struct request request;
        struct group_mail call;
    };
    enum seek_to to;
    uint64_t partition; /* OFFSET: which; else all */
    uint64_t offset;
    int64_t time_ms; /* first record appended at or after */
};
void group_seek(struct group *group, struct group_seek *seek);

/* Dead letters back to the queue they came from, each appended there and settled among the dead
 * letters in one unit, so that none can come twice. One at a time per group: BUSY. */
struct group_redrive {
    union {
        struct request request;
        struct group_mail call;
    };
    bool all;
    const uint64_t *offsets; /* of dead letters, when not all; borrowed until done() */
    uint32_t offset_count;
    struct span label; /* only those that carry it; empty: any */
    struct link link;  /* the group's */
};
void group_redrive(struct group *group,
                   struct group_redrive *redrive); /* done() when it has begun */
struct redrive_progress {
    bool running;
    uint64_t total, moved, failed;
};

/* Why a record is, or is not, handed out to this group. */
#define FATE_MAP(X)                                                                                \
    X(AVAILABLE, "available")                                                                      \
    X(EXPIRED, "expired")                                                                          \
    X(FILTERED, "filtered")                                                                        \
    X(LEASED, "leased")                                                                            \
    X(DELAYED, "delayed")                                                                          \
    X(PARKED, "parked")                                                                            \
    X(BLOCKED, "blocked")                                                                          \
    X(ACKNOWLEDGED, "acknowledged")                                                                \
    X(DEAD_LETTERED, "dead-lettered")                                                              \
    X(BEHIND_RETENTION, "behind retention")                                                        \
    X(NOT_COMMITTED, "not there yet")
enum record_fate {
#define X(name, text) RECORD_##name,
    FATE_MAP(X)
#undef X
};
struct group_explain {
    union {
        struct request request;
        struct group_mail call;
    };
    uint64_t partition, offset;
    bool progress_only; /* only redrive is filled in */
    /* Out: */
    enum record_fate fate;
    int64_t until_ms; /* LEASED, DELAYED: wall clock */
    uint32_t failures;
    char key[65];         /* BLOCKED: by this key (its beginning) */
    bool too_far;         /* BLOCKED: so many others wait for their turn that it is not looked at */
    uint64_t dead_offset; /* DEAD_LETTERED: where */
    struct redrive_progress redrive;
    struct link link; /* the group's */
};
void group_explain(struct group *group, struct group_explain *explain);

/* Which records lie behind a group, for whoever reads along: those of a partition of the queue, or
 * of its dead letters, from the first one at or after from that is not done. What it does not know
 * of yet is not done, and may be none that it wants. */
enum { SURVEY_OFFSETS = 4096 };
struct group_survey {
    union {
        struct request request;
        struct group_mail call;
    };
    uint64_t partition;
    uint64_t from;                      /* out: that first one */
    uint64_t done[SURVEY_OFFSETS / 64]; /* out: a bit for each offset from there on, lowest first */
    struct label_choice labels; /* out: what the group wants by now; of its dead letters all */
    struct link link;           /* the group's */
};
void group_survey(struct group *group, struct group_survey *survey);
static inline bool survey_is_done(const struct group_survey *survey, uint64_t offset)
{
    uint64_t at = offset - survey->from;
    return offset < survey->from ||
           (at < SURVEY_OFFSETS && (survey->done[at / 64] >> at % 64 & 1) != 0);
}

#endif
