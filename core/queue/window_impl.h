/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a window, shared by window.c (delivery), window_spent.c (failures), window_span.c
 * (which offsets are where, and what moves base) and window_rows.c (durable state). */
#ifndef CORE_QUEUE_WINDOW_IMPL_H
#define CORE_QUEUE_WINDOW_IMPL_H

#include "core/base/limits.h"
#include "core/queue/due_heap.h"
#include "core/queue/offset_map.h"
#include "core/queue/state_ring.h"
#include "core/queue/window.h"

#define LEASE_NONE UINT32_MAX
#define TERM_HELD  UINT32_MAX          /* in no list */
#define REJECTED   (UINT32_C(1) << 31) /* in a failure count */

struct lease {
    uint64_t offset;
    uint64_t deadline_ms;
    uint32_t delivery;
    uint32_t term;           /* which list it is in */
    uint32_t previous, next; /* in that list; next also links free leases */
    bool released;           /* while it was held */
};

/* All leases of one length, oldest first: which is the order of their deadlines. */
struct term {
    uint64_t lease_ms;
    uint32_t first, last;
};

struct run {
    uint64_t first, end;
};

/* Offsets that wait in line: returned ones for their next hand-out, failed ones for their row. */
struct line {
    uint64_t *offsets;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t head, count;
};

struct window {
    struct state_ring states; /* its base is the window's; all beyond its top is available */
    uint64_t next, end;
    uint64_t written_base, stored_base; /* in the row on its way, in the last that is stored */
    uint64_t done_above;                /* done offsets in [base, top) */
    uint64_t acknowledged;
    uint64_t now_ms;
    uint32_t in_flight_max;
    uint32_t in_flight;
    uint32_t delivery; /* number of the last hand-out */
    uint32_t failures_max;
    struct window_watch *watch; /* NULL: none */

    struct offset_map leased; /* offset -> index in leases */
    struct lease *leases;
    uint32_t lease_capacity;
    uint32_t lease_free; /* LEASE_NONE: grow */
    struct term *terms;
    uint32_t term_count;
    uint32_t term_recent;

    struct offset_map failures;              /* of offsets not done, where above zero */
    struct offset_map released;              /* not done, and given back without a failure */
    struct released_budget *released_budget; /* NULL: it has its own limit only */
    struct due_heap delays;                  /* of parked offsets */
    /* Lines may hold offsets that are something else since; those at the front never are. */
    struct line returned;
    struct line spent;
    struct line parked; /* the first parked_written of them are in a row on its way */
    uint32_t parked_written;

    /* Offsets below base that are not done. */
    struct offset_map aside; /* offset -> enum offset_state */
    struct line aside_order; /* the same, rising; may hold others, but not at the front */
    struct line aside_new;   /* since the last row */
    struct line aside_settled;

    /* Settled as done since the last row; base alone says it for what lies below. */
    struct run *changed;
    uint32_t changed_count, changed_capacity;
    bool base_changed;
};

/* window_span.c: states change through these, so that counts, base and next stay right. */
enum offset_state window_state(const struct window *window, uint64_t offset);
/* Not for done. */
void window_set_state(struct window *window, uint64_t offset, enum offset_state state);
void window_set_done(struct window *window, uint64_t from, uint64_t to); /* at or above base */
/* One offset, wherever it is; the next row says so. */
void window_finish(struct window *window, uint64_t offset);
void window_advance(struct window *window);
void window_keep_room(struct window *window);
/* Everything below base is done, but for what is aside. Returns how many were not. */
uint64_t window_drop_below(struct window *window, uint64_t base);
void window_set_aside(struct window *window, uint64_t offset, enum offset_state state);

/* window.c */
void window_end_lease(struct window *window, uint64_t offset);
/* Available again: at the end of the line. */
void window_return(struct window *window, uint64_t offset);
/* Back from where it was, with its failures stored. */
void window_come_back(struct window *window, uint64_t offset);
void window_clean_lines(struct window *window);

/* window_spent.c */
void window_fail(struct window *window, uint64_t offset);
void window_reject(struct window *window, uint64_t offset);
bool window_is_spent(const struct window *window, uint64_t offset);
/* A row that says what became of an offset must be understood on top of the rows stored so far. */
static inline bool window_may_move(const struct window *window, uint64_t offset)
{
    return offset < window->stored_base + LIMIT_WINDOW;
}

void line_push(struct line *line, uint64_t offset);
static inline uint64_t line_at(const struct line *line, uint32_t index)
{
    return line->offsets[(line->head + index) & (line->capacity - 1)];
}
void line_pop(struct line *line, uint32_t count);
void line_clear(struct line *line);

#endif
