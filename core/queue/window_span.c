/* SPDX-License-Identifier: Apache-2.0 */
/* Where an offset's state is: in the ring above base, or, when it was left behind by more than the
 * ring may span, in a table of those set aside. What moves base is here, too. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/queue/window_impl.h"

enum { RUNS_MIN = 16, ROOM_STEP = LIMIT_WINDOW / 16 };

enum offset_state window_state(const struct window *window, uint64_t offset)
{
    if (offset >= window->states.base)
        return state_ring_get(&window->states, offset);
    const uint32_t *state = offset_map_get(&window->aside, offset);
    return state == NULL ? OFFSET_DONE : (enum offset_state) * state;
}

void window_set_state(struct window *window, uint64_t offset, enum offset_state state)
{
    CHECK(state != OFFSET_DONE);
    if (offset >= window->states.base)
        state_ring_set(&window->states, offset, state);
    else
        *offset_map_get(&window->aside, offset) = (uint32_t)state;
}

static void note_done(struct window *window, uint64_t from, uint64_t to)
{
    if (window->changed_count > 0 && window->changed[window->changed_count - 1].end == from) {
        window->changed[window->changed_count - 1].end = to;
        return;
    }
    if (window->changed_count == window->changed_capacity) {
        /* What base has passed needs no run: without this the list would grow with the time a write
         * takes. */
        uint32_t kept = 0;
        for (uint32_t i = 0; i < window->changed_count; i++)
            if (window->changed[i].end > window->states.base)
                window->changed[kept++] = window->changed[i];
        window->changed_count = kept;
        if (kept >= window->changed_capacity / 2) {
            window->changed_capacity =
                window->changed_capacity == 0 ? RUNS_MIN : window->changed_capacity * 2;
            window->changed =
                heap_resize(window->changed, window->changed_capacity * sizeof *window->changed);
        }
    }
    window->changed[window->changed_count++] = (struct run){.first = from, .end = to};
}

static void tell_resolved(const struct window *window, uint64_t from, uint64_t to)
{
    if (window->watch != NULL && from < to)
        window->watch->resolved(window->watch, from, to);
}

/* What is known of an offset besides its state. */
static void forget(struct window *window, uint64_t offset)
{
    offset_map_remove(&window->failures, offset);
    if (offset_map_remove(&window->released, offset) && window->released_budget != NULL)
        window->released_budget->count--;
    due_heap_remove(&window->delays, offset);
}

void window_set_done(struct window *window, uint64_t from, uint64_t to)
{
    state_ring_fill(&window->states, from, to, OFFSET_DONE);
    window->done_above += to - from;
    if (window->failures.count + window->released.count > 0 || window->delays.count > 0)
        for (uint64_t offset = from; offset < to; offset++)
            forget(window, offset);
    tell_resolved(window, from, to);
}

static void clean_aside_order(struct window *window)
{
    struct line *order = &window->aside_order;
    while (order->count > 0 && offset_map_get(&window->aside, line_at(order, 0)) == NULL)
        line_pop(order, 1);
    if (order->count < 1024 || order->count / 2 < window->aside.count)
        return;
    /* One that stays in front must not keep all that have gone. */
    struct line kept = {0};
    for (uint32_t i = 0; i < order->count; i++)
        if (offset_map_get(&window->aside, line_at(order, i)) != NULL)
            line_push(&kept, line_at(order, i));
    line_clear(order);
    *order = kept;
}

void window_finish(struct window *window, uint64_t offset)
{
    if (offset >= window->states.base) {
        window_set_done(window, offset, offset + 1);
        note_done(window, offset, offset + 1);
        if (offset == window->states.base)
            window_advance(window);
    } else {
        forget(window, offset);
        offset_map_remove(&window->aside, offset);
        line_push(&window->aside_settled, offset);
        clean_aside_order(window);
        tell_resolved(window, offset, offset + 1);
    }
    window_keep_room(window);
}

void window_advance(struct window *window)
{
    struct state_ring *states = &window->states;
    uint64_t base = state_ring_seek(states, states->base, states->top, false);
    if (base != states->base) {
        window->done_above -= base - states->base;
        state_ring_advance(states, base);
        window->base_changed = true;
    }
    if (window->next < base)
        window->next = base;
    if (window->next < states->top)
        window->next = state_ring_available(states, window->next, states->top);
}

/* Aside */

void window_set_aside(struct window *window, uint64_t offset, enum offset_state state)
{
    clean_aside_order(window);
    offset_map_put(&window->aside, offset, (uint32_t)state);
    line_push(&window->aside_order, offset);
}

/* What is not done and has been handed out once goes aside, the oldest first, when it is all that
 * keeps new offsets from being handed out. */
static void make_room(struct window *window, uint64_t for_offset)
{
    struct state_ring *states = &window->states;
    while (for_offset >= states->base + LIMIT_WINDOW && window->aside.count < LIMIT_ASIDE) {
        uint64_t end = states->base + ROOM_STEP;
        uint64_t offset = states->base;
        while (window->aside.count < LIMIT_ASIDE &&
               (offset = state_ring_seek(states, offset, end, false)) < end) {
            enum offset_state state = state_ring_get(states, offset);
            window_set_aside(window, offset, state);
            line_push(&window->aside_new, offset);
            if (state == OFFSET_AVAILABLE && offset >= window->next)
                line_push(&window->returned, offset);
            state_ring_set(states, offset, OFFSET_DONE);
            window->done_above++;
        }
        window_advance(window);
    }
}

void window_keep_room(struct window *window)
{
    make_room(window, window->next);
}

bool window_may_take(struct window *window, uint64_t offset, bool with_room)
{
    struct state_ring *states = &window->states;
    if (window->in_flight >= window->in_flight_max)
        return false;
    if (with_room && offset >= states->base + LIMIT_WINDOW)
        make_room(window, offset < states->top ? offset : states->top);
    return offset < states->base + LIMIT_WINDOW;
}

uint32_t window_aside(const struct window *window)
{
    return window->aside.count;
}

uint64_t window_oldest(const struct window *window)
{
    const struct line *order = &window->aside_order;
    return order->count > 0 ? line_at(order, 0) : window->states.base;
}

/* Index of the first in order at or after offset. */
static uint32_t find_aside(const struct window *window, uint64_t offset)
{
    uint32_t low = 0, high = window->aside_order.count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (line_at(&window->aside_order, middle) < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Done: those aside in [from, to), but for leased ones unless leased too is true. */
static uint64_t finish_aside(struct window *window, uint64_t from, uint64_t to, bool leased_too)
{
    uint64_t count = 0;
    for (uint32_t i = find_aside(window, from); i < window->aside_order.count; i++) {
        uint64_t offset = line_at(&window->aside_order, i);
        if (offset >= to)
            break;
        const uint32_t *state = offset_map_get(&window->aside, offset);
        if (state == NULL || (*state == OFFSET_LEASED && !leased_too))
            continue;
        if (*state == OFFSET_LEASED)
            window_end_lease(window, offset);
        forget(window, offset);
        offset_map_remove(&window->aside, offset);
        line_push(&window->aside_settled, offset);
        tell_resolved(window, offset, offset + 1);
        count++;
    }
    clean_aside_order(window);
    return count;
}

uint64_t window_next_available(const struct window *window, uint64_t from)
{
    const struct state_ring *states = &window->states;
    for (uint32_t i = find_aside(window, from); i < window->aside_order.count; i++) {
        uint64_t offset = line_at(&window->aside_order, i);
        if (window_state(window, offset) == OFFSET_AVAILABLE && offset < states->base)
            return offset;
    }
    if (from < states->base)
        from = states->base;
    if (from < states->top)
        from = state_ring_available(states, from, states->top);
    return from < window->end ? from : window->end;
}

uint64_t window_next_undone(const struct window *window, uint64_t from)
{
    const struct state_ring *states = &window->states;
    for (uint32_t i = find_aside(window, from); i < window->aside_order.count; i++) {
        uint64_t offset = line_at(&window->aside_order, i);
        if (offset_map_get(&window->aside, offset) != NULL)
            return offset;
    }
    if (from < states->base)
        from = states->base;
    if (from < states->top)
        from = state_ring_seek(states, from, states->top, false);
    return from < window->end ? from : window->end;
}

void window_set_watch(struct window *window, struct window_watch *watch)
{
    window->watch = watch;
}

/* Gaps and losses */

/* All below but what is aside. */
static void tell_dropped(const struct window *window, uint64_t from, uint64_t to)
{
    for (uint32_t i = find_aside(window, from); i < window->aside_order.count; i++) {
        uint64_t offset = line_at(&window->aside_order, i);
        if (offset >= to)
            break;
        if (offset_map_get(&window->aside, offset) == NULL)
            continue;
        tell_resolved(window, from, offset);
        from = offset + 1;
    }
    tell_resolved(window, from, to);
}

uint64_t window_drop_below(struct window *window, uint64_t base)
{
    struct state_ring *states = &window->states;
    uint64_t lost = 0, before = states->base;
    uint64_t stop = base < states->top ? base : states->top;
    for (uint64_t offset = states->base; offset < stop; offset++) {
        enum offset_state state = state_ring_get(states, offset);
        if (state == OFFSET_DONE) {
            window->done_above--;
            continue;
        }
        if (offset_map_get(&window->aside, offset) != NULL)
            continue;
        lost++;
        if (state == OFFSET_LEASED)
            window_end_lease(window, offset);
        forget(window, offset);
    }
    if (base > window->end)
        window->end = base;
    if (base > states->top)
        lost += base - states->top;
    state_ring_advance(states, base);
    window_advance(window);
    window_clean_lines(window);
    tell_dropped(window, before, base);
    return lost;
}

void window_extend(struct window *window, uint64_t end)
{
    if (end > window->end)
        window->end = end;
}

uint64_t window_skip_to(struct window *window, uint64_t start)
{
    uint64_t lost = finish_aside(window, 0, start, true);
    if (start <= window->states.base) {
        if (lost > 0)
            window_clean_lines(window);
        return lost;
    }
    window->base_changed = true;
    return lost + window_drop_below(window, start);
}

/* A gap that is longer than the ring: all that is not done before it goes aside. False: more than
 * may. */
static bool leap(struct window *window, uint64_t from, uint64_t to)
{
    struct state_ring *states = &window->states;
    uint64_t undone = states->top - states->base - window->done_above;
    if (from > window->next || undone + window->aside.count > LIMIT_ASIDE)
        return false;
    uint64_t offset = states->base;
    for (; (offset = state_ring_seek(states, offset, states->top, false)) < states->top; offset++) {
        enum offset_state state = state_ring_get(states, offset);
        if (offset >= from && state != OFFSET_LEASED)
            continue;
        window_set_aside(window, offset, state);
        line_push(&window->aside_new, offset);
    }
    window->base_changed = true;
    window_drop_below(window, to);
    return true;
}

void window_gap(struct window *window, uint64_t from, uint64_t to)
{
    struct state_ring *states = &window->states;
    if (to > window->end)
        to = window->end;
    if (from <= states->base && states->base == states->top && to > states->base &&
        window->aside.count == 0) {
        window_skip_to(window, to); /* nothing is known above */
        return;
    }
    if (from < states->base) {
        finish_aside(window, from, to < states->base ? to : states->base, false);
        from = states->base;
    }
    if (to > states->base + LIMIT_WINDOW) {
        if (leap(window, from, to))
            return;
        to = states->base + LIMIT_WINDOW;
    }
    while (from < to) {
        enum offset_state state = state_ring_get(states, from);
        uint64_t stop = from + 1;
        if (from >= states->top)
            stop = to;
        if (state == OFFSET_AVAILABLE || state == OFFSET_PARKED) {
            window_set_done(window, from, stop);
            note_done(window, from, stop);
        }
        from = stop;
    }
    window_advance(window);
    window_keep_room(window);
    window_clean_lines(window);
}

void window_drop_available(struct window *window, uint64_t from, uint64_t to)
{
    if (to > window->end)
        to = window->end;
    while ((from = window_next_available(window, from)) < to) {
        uint64_t stop = from >= window->states.top ? to : from + 1;
        window_gap(window, from, stop);
        if (window_state(window, from) != OFFSET_DONE)
            return;
        from = stop;
    }
}
