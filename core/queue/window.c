/* SPDX-License-Identifier: Apache-2.0 */
/* Leases over the states of offsets. A lease is found by a hash of its offset and lies in the list
 * of its length, so that taking, settling and expiring are each a few pointer moves, whatever is in
 * flight. */
#include "core/queue/window_impl.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

enum { TERMS_EXACT = 64, LEASES_KEPT = 1024, LINE_MIN = 16, LINE_KEPT = 1024 };

struct window *window_new(uint64_t base, uint32_t in_flight_max)
{
    struct window *window = heap_new(sizeof *window);
    state_ring_init(&window->states, base);
    window->next = window->end = base;
    window->written_base = window->stored_base = base;
    window->in_flight_max = in_flight_max;
    window->lease_free = LEASE_NONE;
    offset_map_init(&window->leased);
    offset_map_init(&window->failures);
    offset_map_init(&window->released);
    offset_map_init(&window->aside);
    due_heap_init(&window->delays);
    return window;
}

void window_share_released(struct window *window, struct released_budget *budget)
{
    CHECK(window->released.count == 0);
    window->released_budget = budget;
}

static void window_deinit(struct window *window)
{
    if (window->released_budget != NULL)
        window->released_budget->count -= window->released.count;
    state_ring_deinit(&window->states);
    offset_map_deinit(&window->leased);
    offset_map_deinit(&window->failures);
    offset_map_deinit(&window->released);
    offset_map_deinit(&window->aside);
    due_heap_deinit(&window->delays);
    heap_free(window->leases);
    heap_free(window->terms);
    line_clear(&window->returned);
    line_clear(&window->spent);
    line_clear(&window->parked);
    line_clear(&window->aside_order);
    line_clear(&window->aside_new);
    line_clear(&window->aside_settled);
    heap_free(window->changed);
}

void window_free(struct window *window)
{
    if (window == NULL)
        return;
    window_deinit(window);
    heap_free(window);
}

void window_restart(struct window *window, uint64_t base)
{
    struct window *fresh = window_new(base, window->in_flight_max);
    fresh->acknowledged = window->acknowledged;
    fresh->now_ms = window->now_ms;
    fresh->delivery = window->delivery;
    fresh->failures_max = window->failures_max;
    fresh->watch = window->watch;
    fresh->released_budget = window->released_budget;
    fresh->base_changed = true;
    window_extend(fresh, window->end);
    window_deinit(window);
    *window = *fresh;
    heap_free(fresh);
    if (window->watch != NULL)
        window->watch->restarted(window->watch);
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
    return window->end - window->states.base - window->done_above + window->aside.count;
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

void line_clear(struct line *line)
{
    heap_free(line->offsets);
    *line = (struct line){0};
}

/* What is no longer what it was goes from the fronts, so that peek need not look further. */
void window_clean_lines(struct window *window)
{
    struct line *returned = &window->returned, *spent = &window->spent;
    while (returned->count > 0 && window_state(window, line_at(returned, 0)) != OFFSET_AVAILABLE)
        line_pop(returned, 1);
    while (spent->count > 0 && window_state(window, line_at(spent, 0)) != OFFSET_PARKED)
        line_pop(spent, 1);
}

/* One that stays in front while others are taken from behind it must not let the line grow without
 * end. */
static void tidy_returned(struct window *window)
{
    struct line kept = {0};
    struct offset_map seen;
    offset_map_init(&seen);
    for (uint32_t i = 0; i < window->returned.count; i++) {
        uint64_t offset = line_at(&window->returned, i);
        if (window_state(window, offset) != OFFSET_AVAILABLE || offset_map_get(&seen, offset))
            continue;
        offset_map_put(&seen, offset, 0);
        line_push(&kept, offset);
    }
    offset_map_deinit(&seen);
    line_clear(&window->returned);
    window->returned = kept;
}

void window_return(struct window *window, uint64_t offset)
{
    struct line *returned = &window->returned;
    window_set_state(window, offset, OFFSET_AVAILABLE);
    if (returned->count == returned->capacity && returned->count >= LINE_KEPT)
        tidy_returned(window);
    line_push(returned, offset);
    /* The front is available, this one at least. */
    window_clean_lines(window);
    if (window->watch != NULL)
        window->watch->returned(window->watch, offset);
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
    if (lease->term == TERM_HELD)
        return;
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

void window_end_lease(struct window *window, uint64_t offset)
{
    lease_end(window, offset, *offset_map_get(&window->leased, offset));
}

/* The live lease that a receipt names, held or not, or LEASE_NONE. */
static uint32_t lease_named(const struct window *window, uint64_t offset, uint32_t delivery)
{
    const uint32_t *index = offset_map_get(&window->leased, offset);
    return index != NULL && window->leases[*index].delivery == delivery ? *index : LEASE_NONE;
}

/* Likewise, if it is not held. */
static uint32_t lease_find(const struct window *window, uint64_t offset, uint32_t delivery)
{
    uint32_t index = lease_named(window, offset, delivery);
    return index != LEASE_NONE && window->leases[index].term == TERM_HELD ? LEASE_NONE : index;
}

/* Hand-out and settlement */

/* An offset that was available is not any more. */
static void taken(struct window *window, uint64_t offset)
{
    struct line *returned = &window->returned;
    if (returned->count > 0 && line_at(returned, 0) == offset) {
        line_pop(returned, 1);
        window_clean_lines(window);
    }
    if (offset != window->next)
        return;
    window->next = state_ring_available(&window->states, offset + 1, window->states.top);
    window_keep_room(window);
}

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
    CHECK(offset < window->end && window->in_flight < window->in_flight_max);
    CHECK(window_state(window, offset) == OFFSET_AVAILABLE);
    uint32_t index = lease_new(window);
    window->leases[index].offset = offset;
    window->leases[index].delivery = *delivery = ++window->delivery;
    window->leases[index].released = false;
    lease_link(window, index, now_ms, lease_ms);
    offset_map_put(&window->leased, offset, index);
    *failures = window_failures(window, offset, NULL);
    window_set_state(window, offset, OFFSET_LEASED);
    taken(window, offset);
}

void window_come_back(struct window *window, uint64_t offset)
{
    if (!window_is_spent(window, offset)) {
        window_return(window, offset);
        return;
    }
    window_set_state(window, offset, OFFSET_PARKED);
    line_push(&window->spent, offset);
}

/* Waits for its row. */
static void park(struct window *window, uint64_t offset)
{
    window_set_state(window, offset, OFFSET_PARKED);
    line_push(&window->parked, offset);
}

static void note_released(struct window *window, uint64_t offset)
{
    struct released_budget *budget = window->released_budget;
    uint32_t before = window->released.count;
    if (before < LIMIT_RELEASED && (budget == NULL || budget->count < budget->max))
        offset_map_put(&window->released, offset, 1);
    if (budget != NULL)
        budget->count += window->released.count - before;
}

enum status window_settle(struct window *window, uint64_t offset, uint32_t delivery,
                          enum window_outcome outcome)
{
    uint32_t index = lease_named(window, offset, delivery);
    if (index == LEASE_NONE)
        return STATUS_STALE;
    if (window->leases[index].term == TERM_HELD) {
        window->leases[index].released |= outcome == WINDOW_RELEASED;
        return STATUS_STALE;
    }
    lease_end(window, offset, index);
    switch (outcome) {
    case WINDOW_DONE:
        window->acknowledged++;
        window_finish(window, offset);
        break;
    case WINDOW_FAILED:
        window_fail(window, offset);
        park(window, offset);
        break;
    case WINDOW_RELEASED:
        note_released(window, offset);
        window_come_back(window, offset);
        break;
    case WINDOW_REJECTED:
        window_reject(window, offset);
        park(window, offset);
        break;
    }
    return STATUS_OK;
}

enum status window_delay(struct window *window, uint64_t offset, uint32_t delivery,
                         enum window_outcome outcome, int64_t due_ms)
{
    CHECK(outcome == WINDOW_FAILED || outcome == WINDOW_RELEASED);
    uint32_t index = lease_find(window, offset, delivery);
    if (index == LEASE_NONE)
        return STATUS_STALE;
    lease_end(window, offset, index);
    if (outcome == WINDOW_FAILED)
        window_fail(window, offset);
    else
        note_released(window, offset);
    if (!window_is_spent(window, offset))
        due_heap_put(&window->delays, (struct due){.due_ms = due_ms, .offset = offset});
    park(window, offset);
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

enum status window_hold(struct window *window, uint64_t offset, uint32_t delivery)
{
    uint32_t index = lease_find(window, offset, delivery);
    if (index == LEASE_NONE)
        return STATUS_STALE;
    if (!window_may_move(window, offset))
        return STATUS_BUSY;
    lease_unlink(window, index);
    window->leases[index].term = TERM_HELD;
    return STATUS_OK;
}

bool window_unhold(struct window *window, uint64_t offset, uint32_t delivery, uint64_t now_ms)
{
    uint32_t index = lease_named(window, offset, delivery);
    if (index == LEASE_NONE) /* retention has taken the record */
        return false;
    struct lease *lease = &window->leases[index];
    CHECK(lease->term == TERM_HELD);
    uint64_t left_ms = lease->deadline_ms > now_ms ? lease->deadline_ms - now_ms : 0;
    bool released = lease->released;
    lease->released = false;
    lease_link(window, index, now_ms, (uint32_t)left_ms);
    return released;
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
    window_fail(window, *offset);
    park(window, *offset);
    return true;
}

/* Delays */

int64_t window_due(const struct window *window)
{
    return window->delays.count == 0 ? 0 : window->delays.entries[0].due_ms;
}

bool window_wake(struct window *window, int64_t wall_ms)
{
    if (window->delays.count == 0 || window->delays.entries[0].due_ms > wall_ms)
        return false;
    struct due delay = window->delays.entries[0];
    due_heap_remove(&window->delays, delay.offset);
    if (delay.written) /* else it comes back with its row */
        window_come_back(window, delay.offset);
    return true;
}

/* Records that move elsewhere */

bool window_claim(struct window *window, uint64_t offset)
{
    if (offset >= window->end || !window_may_move(window, offset) ||
        window_state(window, offset) != OFFSET_AVAILABLE)
        return false;
    window_set_state(window, offset, OFFSET_PARKED);
    taken(window, offset);
    return true;
}

void window_unclaim(struct window *window, uint64_t offset)
{
    if (window_state(window, offset) == OFFSET_PARKED)
        window_come_back(window, offset);
}

void window_moved(struct window *window, uint64_t offset)
{
    if (window_state(window, offset) != OFFSET_PARKED)
        return;
    window_finish(window, offset);
    window_clean_lines(window);
}

enum window_state window_look_at(const struct window *window, uint64_t offset, uint64_t *until_ms)
{
    *until_ms = 0;
    switch (window_state(window, offset)) {
    case OFFSET_AVAILABLE:
        break;
    case OFFSET_LEASED:
        *until_ms = window->leases[*offset_map_get(&window->leased, offset)].deadline_ms;
        return WINDOW_IS_LEASED;
    case OFFSET_DONE:
        return WINDOW_IS_DONE;
    case OFFSET_PARKED: {
        const struct due *delay = due_heap_get(&window->delays, offset);
        *until_ms = delay == NULL ? 0 : (uint64_t)delay->due_ms;
        return WINDOW_IS_PARKED;
    }
    }
    return WINDOW_IS_AVAILABLE;
}
