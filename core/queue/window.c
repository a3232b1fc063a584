/* SPDX-License-Identifier: Apache-2.0 */
/* Leases over a ring of states. A lease is found by a hash of its offset and lies in the list of
 * its length, so that taking, settling and expiring are each a few pointer moves, whatever is in
 * flight. */
#include "core/queue/window_impl.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

#define LEASE_NONE UINT32_MAX

enum { TERMS_EXACT = 64, LEASES_KEPT = 1024, LINE_MIN = 16, LINE_KEPT = 1024, RUNS_MIN = 16 };

struct window *window_new(uint64_t base, uint32_t in_flight_max)
{
    struct window *window = heap_new(sizeof *window);
    state_ring_init(&window->states, base);
    window->next = window->end = base;
    window->in_flight_max = in_flight_max;
    window->lease_free = LEASE_NONE;
    offset_map_init(&window->leased);
    offset_map_init(&window->failures);
    return window;
}

void window_free(struct window *window)
{
    if (window == NULL)
        return;
    state_ring_deinit(&window->states);
    offset_map_deinit(&window->leased);
    offset_map_deinit(&window->failures);
    heap_free(window->leases);
    heap_free(window->terms);
    heap_free(window->returned.offsets);
    heap_free(window->parked.offsets);
    heap_free(window->changed);
    heap_free(window);
}

uint64_t window_base(const struct window *window)
{
    return window->states.base;
}

uint64_t window_next(const struct window *window)
{
    return window->next;
}

uint64_t window_end(const struct window *window)
{
    return window->end;
}

uint32_t window_in_flight(const struct window *window)
{
    return window->in_flight;
}

uint64_t window_backlog(const struct window *window)
{
    return window->end - window->states.base - window->done_above;
}

uint64_t window_acknowledged(const struct window *window)
{
    return window->acknowledged;
}

/* Lines */

void line_push(struct line *line, uint64_t offset)
{
    if (line->count == line->capacity) {
        uint32_t capacity = line->capacity == 0 ? LINE_MIN : line->capacity * 2;
        uint64_t *offsets = heap_array(capacity, sizeof *offsets);
        for (uint32_t i = 0; i < line->count; i++)
            offsets[i] = line_at(line, i);
        heap_free(line->offsets);
        line->offsets = offsets;
        line->capacity = capacity;
        line->head = 0;
    }
    line->offsets[(line->head + line->count) & (line->capacity - 1)] = offset;
    line->count++;
}

void line_pop(struct line *line, uint32_t count)
{
    CHECK(count <= line->count);
    line->head = (line->head + count) & (line->capacity - 1);
    line->count -= count;
    if (line->count == 0 && line->capacity > LINE_KEPT) {
        heap_free(line->offsets);
        *line = (struct line){0};
    }
}

/* Leases */

/* Few lengths are in use at a time. When there are many, lengths are rounded up to 32 steps per
 * power of two, so that the number of lists stays small whatever the clients ask for. */
static uint64_t round_up(uint64_t lease_ms)
{
    int bits = 64 - __builtin_clzll(lease_ms | 1);
    if (bits <= 6)
        return lease_ms;
    uint64_t step = UINT64_C(1) << (bits - 6);
    return (lease_ms + step - 1) & ~(step - 1);
}

static uint32_t term_of(struct window *window, uint64_t lease_ms)
{
    if (window->term_count > 0 && window->terms[window->term_recent].lease_ms == lease_ms)
        return window->term_recent;
    if (window->term_count >= TERMS_EXACT)
        lease_ms = round_up(lease_ms);
    uint32_t empty = window->term_count;
    for (uint32_t i = 0; i < window->term_count; i++) {
        if (window->terms[i].lease_ms == lease_ms)
            return window->term_recent = i;
        if (window->terms[i].first == LEASE_NONE)
            empty = i;
    }
    if (empty == window->term_count)
        window->terms = heap_resize(window->terms, ++window->term_count * sizeof *window->terms);
    window->terms[empty] =
        (struct term){.lease_ms = lease_ms, .first = LEASE_NONE, .last = LEASE_NONE};
    return window->term_recent = empty;
}

static void lease_link(struct window *window, uint32_t index, uint64_t now_ms, uint32_t lease_ms)
{
    CHECK(now_ms >= window->now_ms);
    window->now_ms = now_ms;
    uint32_t which = term_of(window, lease_ms);
    struct term *term = &window->terms[which];
    struct lease *lease = &window->leases[index];
    lease->deadline_ms = now_ms + term->lease_ms;
    lease->term = which;
    lease->previous = term->last;
    lease->next = LEASE_NONE;
    if (term->last == LEASE_NONE)
        term->first = index;
    else
        window->leases[term->last].next = index;
    term->last = index;
}

static void lease_unlink(struct window *window, uint32_t index)
{
    struct lease *lease = &window->leases[index];
    struct term *term = &window->terms[lease->term];
    if (lease->previous == LEASE_NONE)
        term->first = lease->next;
    else
        window->leases[lease->previous].next = lease->next;
    if (lease->next == LEASE_NONE)
        term->last = lease->previous;
    else
        window->leases[lease->next].previous = lease->previous;
}

static uint32_t lease_new(struct window *window)
{
    if (window->lease_free == LEASE_NONE) {
        uint32_t old = window->lease_capacity;
        uint32_t capacity = old == 0 ? 16 : old * 2;
        window->leases = heap_resize(window->leases, capacity * sizeof *window->leases);
        window->lease_capacity = capacity;
        for (uint32_t i = old; i < capacity; i++)
            window->leases[i].next = i + 1 < capacity ? i + 1 : LEASE_NONE;
        window->lease_free = old;
    }
    uint32_t index = window->lease_free;
    window->lease_free = window->leases[index].next;
    window->in_flight++;
    return index;
}

/* The lease of offset ends; its state is the caller's to set. */
static void lease_end(struct window *window, uint64_t offset, uint32_t index)
{
    lease_unlink(window, index);
    offset_map_remove(&window->leased, offset);
    window->leases[index].next = window->lease_free;
    window->lease_free = index;
    if (--window->in_flight == 0 && window->lease_capacity > LEASES_KEPT) {
        heap_free(window->leases);
        window->leases = NULL;
        window->lease_capacity = 0;
        window->lease_free = LEASE_NONE;
    }
}

/* The live lease that a receipt names, or LEASE_NONE. */
static uint32_t lease_find(const struct window *window, uint64_t offset, uint32_t delivery)
{
    const uint32_t *index = offset_map_get(&window->leased, offset);
    return index != NULL && window->leases[*index].delivery == delivery ? *index : LEASE_NONE;
}

/* Done: base, next and what changed */

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

void window_set_done(struct window *window, uint64_t from, uint64_t to)
{
    state_ring_fill(&window->states, from, to, OFFSET_DONE);
    window->done_above += to - from;
    if (window->failures.count > 0)
        for (uint64_t offset = from; offset < to; offset++)
            offset_map_remove(&window->failures, offset);
}

/* Takes returned offsets that are no longer available from the front, so that peek need not look
 * further. */
void window_clean_returned(struct window *window)
{
    while (window->returned.count > 0) {
        uint64_t offset = line_at(&window->returned, 0);
        if (offset >= window->states.base &&
            state_ring_get(&window->states, offset) == OFFSET_AVAILABLE)
            return;
        line_pop(&window->returned, 1);
    }
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
        window->next = state_ring_seek(states, window->next, states->top, false);
}

uint64_t window_drop_below(struct window *window, uint64_t start)
{
    struct state_ring *states = &window->states;
    uint64_t lost = 0;
    uint64_t stop = start < states->top ? start : states->top;
    for (uint64_t offset = states->base; offset < stop; offset++) {
        enum offset_state state = state_ring_get(states, offset);
        if (state == OFFSET_DONE) {
            window->done_above--;
            continue;
        }
        lost++;
        if (state == OFFSET_LEASED)
            lease_end(window, offset, *offset_map_get(&window->leased, offset));
        offset_map_remove(&window->failures, offset);
    }
    if (start > window->end)
        window->end = start;
    if (start > states->top)
        lost += start - states->top;
    state_ring_advance(states, start);
    window_advance(window);
    window_clean_returned(window);
    return lost;
}

void window_extend(struct window *window, uint64_t end)
{
    if (end > window->end)
        window->end = end;
}

uint64_t window_skip_to(struct window *window, uint64_t start)
{
    if (start <= window->states.base)
        return 0;
    window->base_changed = true;
    return window_drop_below(window, start);
}

void window_gap(struct window *window, uint64_t from, uint64_t to)
{
    struct state_ring *states = &window->states;
    if (to > window->end)
        to = window->end;
    if (from <= states->base && states->base == states->top && to > from) {
        window_skip_to(window, to); /* nothing is known above: a gap of any length is one step */
        return;
    }
    if (from < states->base)
        from = states->base;
    if (to > states->base + LIMIT_WINDOW)
        to = states->base + LIMIT_WINDOW;
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
    window_clean_returned(window);
}

/* Hand-out and settlement */

bool window_peek(const struct window *window, uint64_t *offset)
{
    if (window->in_flight >= window->in_flight_max)
        return false;
    if (window->returned.count > 0) {
        *offset = line_at(&window->returned, 0);
        return true;
    }
    if (window->next >= window->end || window->next - window->states.base >= LIMIT_WINDOW)
        return false;
    *offset = window->next;
    return true;
}

void window_take(struct window *window, uint64_t offset, uint64_t now_ms, uint32_t lease_ms,
                 uint32_t *delivery, uint32_t *failures)
{
    uint64_t shown;
    CHECK(window_peek(window, &shown) && shown == offset);
    bool redelivery = window->returned.count > 0;
    uint32_t index = lease_new(window);
    window->leases[index].offset = offset;
    window->leases[index].delivery = *delivery = ++window->delivery;
    lease_link(window, index, now_ms, lease_ms);
    offset_map_put(&window->leased, offset, index);
    const uint32_t *failed = offset_map_get(&window->failures, offset);
    *failures = failed == NULL ? 0 : *failed;
    state_ring_set(&window->states, offset, OFFSET_LEASED);
    if (redelivery) {
        line_pop(&window->returned, 1);
        window_clean_returned(window);
        return;
    }
    window->next = state_ring_seek(&window->states, offset + 1, window->states.top, false);
}

static void fail(struct window *window, uint64_t offset)
{
    uint32_t *failures = offset_map_get(&window->failures, offset);
    if (failures == NULL)
        offset_map_put(&window->failures, offset, 1);
    else if (*failures < UINT32_MAX)
        ++*failures;
    state_ring_set(&window->states, offset, OFFSET_PARKED);
    line_push(&window->parked, offset);
}

enum status window_settle(struct window *window, uint64_t offset, uint32_t delivery,
                          enum window_outcome outcome)
{
    uint32_t index = lease_find(window, offset, delivery);
    if (index == LEASE_NONE)
        return STATUS_STALE;
    lease_end(window, offset, index);
    switch (outcome) {
    case WINDOW_DONE:
        window->acknowledged++;
        window_set_done(window, offset, offset + 1);
        note_done(window, offset, offset + 1);
        if (offset == window->states.base)
            window_advance(window);
        break;
    case WINDOW_FAILED:
        fail(window, offset);
        break;
    case WINDOW_RELEASED:
        state_ring_set(&window->states, offset, OFFSET_AVAILABLE);
        line_push(&window->returned, offset);
        break;
    }
    return STATUS_OK;
}

enum status window_renew(struct window *window, uint64_t offset, uint32_t delivery, uint64_t now_ms,
                         uint32_t lease_ms)
{
    uint32_t index = lease_find(window, offset, delivery);
    if (index == LEASE_NONE)
        return STATUS_STALE;
    lease_unlink(window, index);
    lease_link(window, index, now_ms, lease_ms);
    return STATUS_OK;
}

/* The lease with the earliest deadline; LEASE_NONE when nothing is leased. */
static uint32_t earliest(const struct window *window)
{
    uint32_t found = LEASE_NONE;
    for (uint32_t i = 0; i < window->term_count; i++) {
        uint32_t first = window->terms[i].first;
        if (first != LEASE_NONE && (found == LEASE_NONE || window->leases[first].deadline_ms <
                                                               window->leases[found].deadline_ms))
            found = first;
    }
    return found;
}

uint64_t window_deadline(const struct window *window)
{
    uint32_t index = earliest(window);
    return index == LEASE_NONE ? 0 : window->leases[index].deadline_ms;
}

bool window_expire(struct window *window, uint64_t now_ms, uint64_t *offset)
{
    uint32_t index = earliest(window);
    if (index == LEASE_NONE || window->leases[index].deadline_ms > now_ms)
        return false;
    *offset = window->leases[index].offset;
    lease_end(window, *offset, index);
    fail(window, *offset);
    return true;
}
