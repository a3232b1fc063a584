/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a delay. Rows, all keys beginning with (TABLE_DELAY, partition):
 *
 *   0                -> mark: version, due, number of the last record that has fired, how many have
 *   1                -> numbers: version, the next number, how many have come less the canceled,
 *                       both without what rows of units say
 *   1, number        -> numbers of a unit from this one on: version, how many
 *   2, due, number   -> one RecordBatch, then its principal and a version
 *
 * A row of kind 2 at or below the mark counts for nothing; ranges of it are deleted now
 * and then. Internal to core/queue.
 *
 *   in storage:  mark ........ horizon ............ end        entry in memory:
 *                | in memory   | rows only                     PENDING -> READY -> FIRING
 *                                                                 ^----- CANCELING -> GONE
 *
 * What fires is the prefix of READY entries below the horizon. Nothing passes an entry that is
 * PENDING or CANCELING, because the mark would pass it too, and a row below the mark is lost. */
#ifndef CORE_QUEUE_DELAY_IMPL_H
#define CORE_QUEUE_DELAY_IMPL_H

#include "core/base/blob.h"
#include "core/base/map.h"
#include "core/queue/delay.h"
#include "core/queue/steady.h"

/* The order in which records fire. */
struct delay_place {
    int64_t due_ms;
    uint64_t number;
};
#define DELAY_END ((struct delay_place){INT64_MAX, UINT64_MAX})

static inline bool place_is_before(struct delay_place a, struct delay_place b)
{
    return a.due_ms != b.due_ms ? a.due_ms < b.due_ms : a.number < b.number;
}

static inline bool place_is_end(struct delay_place place)
{
    return !place_is_before(place, DELAY_END);
}

enum delay_entry_state { ENTRY_PENDING, ENTRY_READY, ENTRY_FIRING, ENTRY_CANCELING, ENTRY_GONE };

struct delay_entry {
    struct delay_place place;
    enum delay_entry_state state;
    uint32_t index; /* in the heap; UINT32_MAX: not there */
    uint64_t principal;
    bool dropped;     /* its publisher may not do that any more */
    struct blob *row; /* value of its row */
};

/* What is in memory: a heap by place, and by number. */
struct delay_near {
    struct delay_entry **heap;
    uint32_t count, capacity;
    struct map numbers;
};

void delay_near_init(struct delay_near *near);
void delay_near_deinit(struct delay_near *near); /* the entries are the caller's */
void delay_near_add(struct delay_near *near, struct delay_entry *entry);
struct delay_entry *delay_near_find(const struct delay_near *near,
                                    uint64_t number);                       /* NULL: none */
struct delay_entry *delay_near_first(const struct delay_near *near);        /* NULL: none */
void delay_near_unheap(struct delay_near *near, struct delay_entry *entry); /* stays findable */
void delay_near_remove(struct delay_near *near, struct delay_entry *entry); /* from both */

enum delay_state { DELAY_OPENING, DELAY_SERVING, DELAY_FAILED, DELAY_CLOSED };

enum { DELAY_ROW_VERSION = 1 };
enum { DELAY_STATE_VERSION = 1 };
enum { KEY_MARK = 10, KEY_ROW = 26, VALUE_MARK = 25, VALUE_NUMBERS = 17, ROW_TAIL = 9 };
enum { KEY_UNIT = 18, VALUE_UNIT = 9 };

struct firing {
    bool active;
    struct log_append append;
    struct delay_entry **entries; /* that fire, those that were dropped included */
    uint32_t count, capacity;
    struct delay_place before; /* the mark, should it fail */
    struct batch_builder builder;
    uint8_t keys[KEY_MARK + 2 * KEY_ROW], value[VALUE_MARK];
    struct storage_row rows[2];
};

/* The numbers that one unit has taken. It commits whenever its other parts let it, so that it says
 * them in a row of its own, which counts on top of the common one until that takes it in. */
struct delay_unit {
    struct link link;
    uint64_t first;
    uint32_t count;
    bool stored;
};

struct delay_units {
    struct list all;   /* whose rows are there, or may come; by number */
    uint64_t apart;    /* records in them, which the common row does not say */
    uint32_t rows;     /* stored */
    uint32_t taken_in; /* of these, by the append under way; 0: there is none */
    struct log_append append;
    struct storage_row taking[2];
    uint8_t keys[2 * KEY_UNIT + KEY_MARK], value[VALUE_NUMBERS];
};

struct delay {
    struct delay_worker *worker;
    uint64_t partition;
    _Atomic uint64_t *waiting;
    enum delay_state state;
    enum status failure; /* when FAILED or CLOSED: the answer to calls */
    uint32_t in_flight;

    struct delay_place mark; /* of what has fired or is firing */
    uint64_t next_number;
    uint64_t come, fired; /* ever; canceled ones have not come */
    uint64_t counted;     /* what waiting owes to this delay */
    struct delay_units units;
    struct steady clock;

    struct delay_near near;
    uint32_t ready_count;
    size_t ready_bytes;
    struct delay_place horizon; /* rows from here on need not be in memory */
    struct storage_scan scan;
    uint8_t scan_first[KEY_ROW], scan_end[KEY_ROW];
    bool scanning;
    uint32_t lookups;          /* cancels that look for a row; GONE entries stay meanwhile */
    struct delay_entry **gone; /* not in the heap */
    uint32_t gone_count, gone_capacity;

    struct firing firing;
    int64_t fire_again_ms, load_again_ms; /* after a failure */
    uint64_t spent;                       /* rows that fired since a range was deleted */
    int64_t swept_ms;
    struct list inserts, cancels; /* that wait until it serves */
    struct loop_timer timer;
    bool removing;
    struct log_rows removal;
    struct storage_row removal_row;
};

/* delay.c */
void delay_advance(struct delay *delay); /* fires, loads, and sets the timer */
void delay_enter(struct delay *delay);   /* a request is under way */
void delay_leave(struct delay *delay);   /* and back; the delay may be gone after it */
void delay_count(struct delay *delay);   /* the gauge follows come and fired */
void delay_serve_waiting(struct delay *delay);
/* Takes the row's reference. */
struct delay_entry *delay_entry_new(struct delay *delay, struct delay_place place,
                                    enum delay_entry_state state, struct blob *row);
void delay_entry_set(struct delay *delay, struct delay_entry *entry, enum delay_entry_state state);
void delay_entry_free(struct delay *delay, struct delay_entry *entry);
void delay_entry_drop(struct delay *delay,
                      struct delay_entry *entry); /* not near any more, either */

/* delay_cancel.c */
void delay_cancel_serve(struct delay_cancel *cancel);
void delay_gone_free(struct delay *delay); /* what only waited for scans to end */

/* delay_unit.c */
void delay_units_init(struct delay *delay);
void delay_units_deinit(struct delay *delay);
/* Takes so many numbers, the next ones; then its row, borrowed by it. */
struct delay_unit *delay_unit_new(struct delay *delay, uint32_t count);
struct storage_row delay_unit_row(const struct delay *delay, const struct delay_unit *unit,
                                  uint8_t key[KEY_UNIT], uint8_t value[VALUE_UNIT]);
void delay_unit_end(struct delay *delay, struct delay_unit *unit, bool stored);
enum status delay_unit_load(struct delay *delay, struct span key, struct span value);

/* delay_fire.c */
void delay_fire(struct delay *delay);
void delay_firing_deinit(struct delay *delay);

/* delay_store.c */
void delay_store_open(struct delay *delay);
void delay_store_load(struct delay *delay); /* reads on when less is in memory than should be */
/* When delay_store_load() has something to do; INT64_MAX: not before something else happens. */
int64_t delay_store_load_at(const struct delay *delay);
void delay_store_drop_far(struct delay *delay); /* more is in memory than should be */
void delay_store_remove(struct delay *delay);   /* all rows, then delay_leave() */
bool delay_store_row_is_good(struct span value);
struct span delay_store_key_row(uint8_t key[KEY_ROW], uint64_t partition, struct delay_place place);
struct span delay_store_key_unit(uint8_t key[KEY_UNIT], uint64_t partition, uint64_t number);
struct storage_row delay_store_mark(const struct delay *delay, uint8_t key[KEY_MARK],
                                    uint8_t value[VALUE_MARK]);
struct storage_row delay_store_numbers(const struct delay *delay, uint8_t key[KEY_MARK],
                                       uint8_t value[VALUE_NUMBERS]);

#endif
