/* SPDX-License-Identifier: Apache-2.0 */
/* The stored form of a window. Snapshots and deltas have one form:
 *
 *   version u8, base, acknowledged,
 *   {distance}*, 0                      offsets that base has passed though they are not done
 *   {distance}*, 0                      such offsets of earlier rows that are done now
 *   {distance, length}*, 0              done ranges above base
 *   {distance, failures}*, 0            of offsets that are not done
 *   {distance, due time}*, 0            likewise: not available before
 *
 * all uvarints. A distance counts from the end of the last range (the first: from base), else from
 * the last offset (the first: from -1); none is 0, so 0 ends a list. A delta lists what changed
 * since the last row, less what base has passed, and replaces base, acknowledged, and the failures
 * and times of the offsets it names. Version 1 had only the lists of ranges and of failures, and
 * the latter's distances counted from base - 1. */
#include "core/queue/window_impl.h"

#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/reader.h"

enum { ROW_VERSION = 2 };

static int compare_runs(const void *a, const void *b)
{
    const struct run *left = a, *right = b;
    return left->first < right->first ? -1 : left->first > right->first;
}

static int compare_offsets(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

static void pack_head(struct pack *pack, const struct window *window)
{
    pack_u8(pack, ROW_VERSION);
    pack_uvarint(pack, window->states.base);
    pack_uvarint(pack, window->acknowledged);
}

static void pack_offset(struct pack *pack, uint64_t *last, uint64_t offset)
{
    pack_uvarint(pack, offset - *last);
    *last = offset;
}

static void sort_offsets(uint64_t *offsets, size_t count)
{
    if (count > 0)
        qsort(offsets, count, sizeof *offsets, compare_offsets);
}

/* Of the offsets in line, sorted, those that are aside (or are not any more). */
static void pack_aside(struct pack *pack, const struct window *window, const struct line *line,
                       bool aside)
{
    uint64_t *offsets = heap_array((size_t)line->count + 1, sizeof *offsets);
    for (uint32_t i = 0; i < line->count; i++)
        offsets[i] = line_at(line, i);
    sort_offsets(offsets, line->count);
    uint64_t last = UINT64_MAX;
    for (uint32_t i = 0; i < line->count; i++)
        if ((offset_map_get(&window->aside, offsets[i]) != NULL) == aside)
            pack_offset(pack, &last, offsets[i]);
    pack_uvarint(pack, 0);
    heap_free(offsets);
}

/* offsets are sorted here. Those that have failed, then those that wait for their time. */
static void pack_parked(struct pack *pack, const struct window *window, uint64_t *offsets,
                        size_t count)
{
    sort_offsets(offsets, count);
    uint64_t last = UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        const uint32_t *failures = offset_map_get(&window->failures, offsets[i]);
        if (failures == NULL)
            continue;
        pack_offset(pack, &last, offsets[i]);
        pack_uvarint(pack, *failures);
    }
    pack_uvarint(pack, 0);
    last = UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        const struct due *delay = due_heap_get(&window->delays, offsets[i]);
        if (delay == NULL)
            continue;
        pack_offset(pack, &last, offsets[i]);
        pack_uvarint(pack, (uint64_t)delay->due_ms);
    }
    pack_uvarint(pack, 0);
}

bool window_waits_for_row(const struct window *window)
{
    return window->parked.count > window->parked_written;
}

bool window_has_changes(const struct window *window)
{
    return window->base_changed || window->changed_count > 0 || window->aside_new.count > 0 ||
           window->aside_settled.count > 0 || window_waits_for_row(window);
}

/* Sorts the changed runs; runs that base has passed go, neighbours become one. */
static void tidy_changed(struct window *window)
{
    if (window->changed_count == 0)
        return;
    qsort(window->changed, window->changed_count, sizeof *window->changed, compare_runs);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < window->changed_count; i++) {
        struct run *run = &window->changed[i];
        if (run->end <= window->states.base)
            continue;
        if (kept > 0 && window->changed[kept - 1].end == run->first)
            window->changed[kept - 1].end = run->end;
        else
            window->changed[kept++] = *run;
    }
    window->changed_count = kept;
}

static bool is_parked(const struct window *window, uint64_t offset)
{
    return window_state(window, offset) == OFFSET_PARKED;
}

enum status window_changes(struct window *window, struct buf *row)
{
    CHECK(window->parked_written == 0);
    if (!window_has_changes(window))
        return STATUS_OK;
    tidy_changed(window);
    size_t before = row->size;
    struct pack pack = pack_into(row);
    pack_head(&pack, window);
    pack_aside(&pack, window, &window->aside_new, true);
    pack_aside(&pack, window, &window->aside_settled, false);
    uint64_t last = window->states.base;
    for (uint32_t i = 0; i < window->changed_count; i++) {
        pack_uvarint(&pack, window->changed[i].first - last);
        pack_uvarint(&pack, window->changed[i].end - window->changed[i].first);
        last = window->changed[i].end;
    }
    pack_uvarint(&pack, 0);
    /* Every failure and delay since the last row is parked, once, unless it was skipped since. */
    uint64_t *parked = heap_array((size_t)window->parked.count + 1, sizeof *parked);
    size_t count = 0;
    for (uint32_t i = 0; i < window->parked.count; i++)
        if (is_parked(window, line_at(&window->parked, i)))
            parked[count++] = line_at(&window->parked, i);
    pack_parked(&pack, window, parked, count);
    heap_free(parked);
    if (pack.status != STATUS_OK) {
        row->size = before;
        return pack.status;
    }
    window->changed_count = 0;
    window->base_changed = false;
    line_pop(&window->aside_new, window->aside_new.count);
    line_pop(&window->aside_settled, window->aside_settled.count);
    window->parked_written = window->parked.count;
    window->written_base = window->states.base;
    return STATUS_OK;
}

void window_committed(struct window *window)
{
    for (uint32_t i = 0; i < window->parked_written; i++) {
        uint64_t offset = line_at(&window->parked, i);
        struct due *delay = due_heap_get(&window->delays, offset);
        if (!is_parked(window, offset))
            continue;
        if (delay != NULL)
            delay->written = true;
        else
            window_unclaim(window, offset);
    }
    line_pop(&window->parked, window->parked_written);
    window->parked_written = 0;
    window->stored_base = window->written_base;
}

/* Everything that has failed or waits for its time. */
static uint64_t *find_parked(const struct window *window, size_t *count)
{
    uint64_t *found =
        heap_array((size_t)window->failures.count + window->delays.count + 1, sizeof *found);
    *count = 0;
    for (uint32_t i = 0; i < window->failures.capacity; i++)
        if (window->failures.entries[i].used)
            found[(*count)++] = window->failures.entries[i].offset;
    for (uint32_t i = 0; i < window->delays.count; i++)
        if (offset_map_get(&window->failures, window->delays.entries[i].offset) == NULL)
            found[(*count)++] = window->delays.entries[i].offset;
    return found;
}

enum status window_snapshot(const struct window *window, struct buf *row)
{
    const struct state_ring *states = &window->states;
    static const struct line none;
    size_t before = row->size;
    struct pack pack = pack_into(row);
    pack_head(&pack, window);
    pack_aside(&pack, window, &window->aside_order, true);
    pack_aside(&pack, window, &none, false);
    uint64_t last = states->base;
    for (;;) {
        uint64_t first = state_ring_seek(states, last, states->top, true);
        if (first == states->top)
            break;
        uint64_t end = state_ring_seek(states, first, states->top, false);
        pack_uvarint(&pack, first - last);
        pack_uvarint(&pack, end - first);
        last = end;
    }
    pack_uvarint(&pack, 0);
    size_t count;
    uint64_t *parked = find_parked(window, &count);
    pack_parked(&pack, window, parked, count);
    heap_free(parked);
    if (pack.status != STATUS_OK)
        row->size = before;
    return pack.status;
}

/* Restoring */

static bool apply_runs(struct window *window, struct reader *reader)
{
    struct state_ring *states = &window->states;
    uint64_t limit = states->base + LIMIT_WINDOW;
    uint64_t at = states->base;
    for (;;) {
        uint64_t distance = reader_uvarint(reader);
        if (distance == 0)
            return !reader->failed;
        uint64_t length = reader_uvarint(reader);
        if (distance > limit - at || length == 0 || length > limit - at - distance)
            return false;
        uint64_t first = at + distance;
        at = first + length;
        uint64_t known = at < states->top ? at : states->top;
        if (first < known && state_ring_seek(states, first, known, true) != known)
            return false; /* nothing is done twice */
        window_set_done(window, first, at);
    }
}

/* The next offset of a list that is not done: 0 when the list has ended, else 1; -1: it is none.
 * Inside of the ring, so that it is found again. */
static int next_undone(struct window *window, struct reader *reader, uint64_t *at)
{
    uint64_t distance = reader_uvarint(reader);
    if (distance == 0)
        return reader->failed ? -1 : 0;
    uint64_t limit = window->states.base + LIMIT_WINDOW;
    if (distance > limit - 1 - *at)
        return -1;
    *at += distance;
    if (window_state(window, *at) == OFFSET_DONE)
        return -1;
    if (*at >= window->states.top)
        state_ring_set(&window->states, *at, OFFSET_AVAILABLE);
    return 1;
}

static bool apply_failures(struct window *window, struct reader *reader, uint64_t at)
{
    int more;
    while ((more = next_undone(window, reader, &at)) > 0) {
        uint64_t failures = reader_uvarint(reader);
        if (failures == 0 || failures > UINT32_MAX)
            return false;
        offset_map_put(&window->failures, at, (uint32_t)failures);
    }
    return more == 0;
}

static bool apply_delays(struct window *window, struct reader *reader)
{
    uint64_t at = UINT64_MAX;
    int more;
    while ((more = next_undone(window, reader, &at)) > 0) {
        uint64_t due_ms = reader_uvarint(reader);
        if (due_ms == 0 || due_ms > INT64_MAX)
            return false;
        window_set_state(window, at, OFFSET_PARKED);
        due_heap_put(&window->delays,
                     (struct due){.due_ms = (int64_t)due_ms, .offset = at, .written = true});
    }
    return more == 0;
}

/* Offsets in [known base, base) that stay, and of earlier ones those that do not. */
static bool apply_aside(struct window *window, struct reader *reader, uint64_t base)
{
    uint64_t at = UINT64_MAX;
    for (;;) {
        uint64_t distance = reader_uvarint(reader);
        if (distance == 0)
            break;
        if (distance > base - 1 - at || window->aside.count >= LIMIT_ASIDE)
            return false;
        at += distance;
        if (at >= base || at < window->states.base || window_state(window, at) == OFFSET_DONE)
            return false;
        enum offset_state state = window_state(window, at);
        window_set_aside(window, at, state);
        if (state == OFFSET_AVAILABLE)
            line_push(&window->returned, at);
    }
    at = UINT64_MAX;
    for (;;) {
        uint64_t distance = reader_uvarint(reader);
        if (distance == 0)
            return !reader->failed;
        if (distance > base - 1 - at)
            return false;
        at += distance;
        /* Those that came and went between two rows are in none. */
        offset_map_remove(&window->aside, at);
        offset_map_remove(&window->failures, at);
        due_heap_remove(&window->delays, at);
    }
}

enum status window_apply(struct window *window, struct span row)
{
    CHECK(window->in_flight == 0 && window->parked.count == 0);
    struct reader reader = reader_of(row);
    uint8_t version = reader_u8(&reader);
    if (version > ROW_VERSION)
        return STATUS_UNSUPPORTED;
    uint64_t base = reader_uvarint(&reader);
    uint64_t acknowledged = reader_uvarint(&reader);
    if (reader.failed || version == 0 || base < window->states.base || base > INT64_MAX)
        return STATUS_MALFORMED;
    if (version > 1 && !apply_aside(window, &reader, base))
        return STATUS_MALFORMED;
    window_drop_below(window, base);
    if (window->states.base !=
        base) /* the row says that base is not done, an earlier one that it is */
        return STATUS_MALFORMED;
    if (!apply_runs(window, &reader) ||
        !apply_failures(window, &reader, version > 1 ? UINT64_MAX : base - 1) ||
        (version > 1 && !apply_delays(window, &reader)) || reader_left(&reader) != 0)
        return STATUS_MALFORMED;
    window->acknowledged = acknowledged;
    window->written_base = window->stored_base = base;
    window_extend(window, window->states.top);
    window_advance(window);
    window->base_changed = false;
    window_clean_lines(window);
    return STATUS_OK;
}

void window_apply_moved(struct window *window, uint64_t offset)
{
    if (window_state(window, offset) == OFFSET_DONE || offset >= window->states.base + LIMIT_WINDOW)
        return;
    window_finish(window, offset);
    window_extend(window, window->states.top);
    window_clean_lines(window);
}

void window_apply_done(struct window *window, uint64_t offset)
{
    if (window_state(window, offset) == OFFSET_DONE)
        return;
    window->acknowledged++;
    window_apply_moved(window, offset);
}

/* More than that is known when it has come again since, and failed: what it waited for is over. */
void window_apply_failed(struct window *window, uint64_t offset, uint32_t failures, int64_t due_ms)
{
    if (window_state(window, offset) == OFFSET_DONE || offset >= window->states.base + LIMIT_WINDOW)
        return;
    if (offset >= window->states.top)
        state_ring_set(&window->states, offset, OFFSET_AVAILABLE);
    const uint32_t *stored = offset_map_get(&window->failures, offset);
    uint32_t known = stored == NULL ? 0 : *stored;
    uint32_t tries = known & ~REJECTED, more = failures & ~REJECTED;
    uint32_t all = (tries > more ? tries : more) | ((known | failures) & REJECTED);
    if (all > 0)
        offset_map_put(&window->failures, offset, all);
    if (due_ms > 0 && all == failures) {
        window_set_state(window, offset, OFFSET_PARKED);
        due_heap_put(&window->delays,
                     (struct due){.due_ms = due_ms, .offset = offset, .written = true});
    }
    window_extend(window, window->states.top);
    window_advance(window);
    window_clean_lines(window);
}
