/* SPDX-License-Identifier: Apache-2.0 */
/* The sweep's memory, and what its files do for each other: session_sweep.c finds the sessions
 * whose time is over, session_over.c removes one with all that is stored of it, session_clean.c
 * removes index rows. Internal to them. */
#ifndef CORE_BROKER_SESSION_SWEEP_H
#define CORE_BROKER_SESSION_SWEEP_H

#include "core/broker/session.h"
#include "core/broker/share.h"
#include "core/broker/will.h"

enum {
    KEY_MAX = 40,
    SWEEP_HANDS = 64, /* sessions at once: what they write shares syncs */
};

/* One thing at a time: a session, or what the sweep does itself. */
struct sweep_hand {
    struct session_sweep *sweep;
    struct storage_scan scan;
    struct log_rows write;
    struct storage_row rows[6];
    struct storage_row *more; /* rows of a write that may be many, with their keys */
    uint8_t first[KEY_MAX], end[KEY_MAX];
    void (*scanned)(struct sweep_hand *hand, enum status status);

    /* The session in hand. */
    uint64_t due_ms;
    struct session_name name;
    struct name_claim *claim;
    struct session_name_row row; /* its name is in text */
    char text[LIMIT_CLIENT_ID_BYTES];
    struct blob *will; /* the row that holds it */
    struct span will_row;
    enum status will_lost; /* why it will never be said; OK: it was, or there is none */
    struct will_publish publish;
    uint64_t share;     /* whose session it is, or was; 0: a client's */
    uint64_t due_share; /* of the due row */
    struct share_look look;
    struct session_return *returns;
    uint32_t return_count;
    struct buf position; /* the row without these */
    uint8_t keys[8][KEY_MAX];
    struct buf value;
};

struct session_sweep {
    struct broker_worker *worker;
    struct loop_timer timer;
    bool closed;
    uint64_t clean_ms; /* when index rows are looked at next */
    uint32_t round;
    uint32_t will_round;   /* before that no will is said: the store has refused one */
    uint32_t refused_runs; /* in a row */
    uint32_t failed_runs;  /* pages that could not be read, likewise */

    /* The page being worked through: due rows, or names. */
    bool crashed; /* names */
    bool done_crashed;
    uint32_t crashed_round; /* before that they are not looked for again */
    uint32_t missing_runs;  /* in a row that left some without an end */
    struct blob *page;
    struct storage_scan page_scan;
    size_t page_at;
    uint8_t page_next[KEY_MAX];
    size_t page_next_size;

    struct sweep_hand own; /* for pages and filters */
    struct sweep_hand hands[SWEEP_HANDS];
    unsigned busy; /* of these */

    /* The filter in hand, while index rows are looked at: between two passes over what is due. */
    uint64_t filter, upto;
    bool finished;
    bool cleaning;
    uint64_t yields_ms; /* to the next pass */
};

/* session_sweep.c. The one thing under way of a hand; then scanned() or written(). */
/* From hand->first to hand->end, of which so many bytes count. */
void sweep_scan(struct sweep_hand *hand, size_t first, size_t end, uint32_t limit,
                void (*scanned)(struct sweep_hand *hand, enum status status));
void sweep_write(struct sweep_hand *hand, uint32_t count, /* of hand->rows */
                 void (*written)(struct sweep_hand *hand, enum status status));
void sweep_write_these(struct sweep_hand *hand, struct storage_row *rows, uint32_t count,
                       enum durability durability,
                       void (*written)(struct sweep_hand *hand, enum status status));
static inline struct storage_row sweep_row(enum storage_change change, struct span key,
                                           struct span value)
{
    return (struct storage_row){.change = change, .key = key, .value = value, .offset_at = -1};
}

struct span sweep_due_key(struct sweep_hand *hand, uint64_t due_ms, uint8_t key[KEY_MAX]);
/* Nothing more is done about the session in hand, now: the next one. */
void sweep_session_over(struct sweep_hand *hand, enum status status);

void sweep_pause(struct session_sweep *sweep); /* until the next round */

/* session_clean.c: a pass over all index rows, then none for ten minutes. */
void sweep_clean_rest(struct session_sweep *sweep); /* the next pass begins so much later */
void sweep_clean_when_due(struct session_sweep *sweep);
void sweep_clean_some(struct session_sweep *sweep); /* then the next look at what is due */

/* session_over.c */
void sweep_erase(struct sweep_hand *hand);         /* the session in hand; then the next one */
void sweep_erase_filters(struct sweep_hand *hand); /* and what is left: of a share */

#endif
