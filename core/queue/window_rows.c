/* SPDX-License-Identifier: Apache-2.0 */
/* The stored form of a window. Snapshots and deltas have one form:
 *
 *   version u8, base, acknowledged,
 *   {distance from the end of the last run or base, length}*, 0     done ranges above base
 *   {distance from the last one or base - 1, failures}*, 0          of offsets that are not done
 *
 * all uvarints; no distance is 0, so 0 ends a list. A delta lists what was settled since the last
 * row, less what base has passed, and replaces base, acknowledged and the failures it names. */
#include "core/queue/window_impl.h"

#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/reader.h"

enum { ROW_VERSION = 1 };

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

/* offsets is sorted here; every one of them has failed. */
static void pack_failures(struct pack *pack, const struct window *window, uint64_t *offsets,
                          uint32_t count)
{
    if (count > 0)
        qsort(offsets, count, sizeof *offsets, compare_offsets);
    uint64_t last = window->states.base - 1;
    for (uint32_t i = 0; i < count; i++) {
        pack_uvarint(pack, offsets[i] - last);
        pack_uvarint(pack, *offset_map_get(&window->failures, offsets[i]));
        last = offsets[i];
    }
    pack_uvarint(pack, 0);
}

bool window_has_changes(const struct window *window)
{
    return window->base_changed || window->changed_count > 0 ||
           window->parked.count > window->parked_written;
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
    return offset >= window->states.base &&
           state_ring_get(&window->states, offset) == OFFSET_PARKED;
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
    uint64_t last = window->states.base;
    for (uint32_t i = 0; i < window->changed_count; i++) {
        pack_uvarint(&pack, window->changed[i].first - last);
        pack_uvarint(&pack, window->changed[i].end - window->changed[i].first);
        last = window->changed[i].end;
    }
    pack_uvarint(&pack, 0);
    /* Every failure since the last row is parked, once, unless it was skipped since. */
    uint64_t *failed = heap_array(window->parked.count + 1, sizeof *failed);
    uint32_t count = 0;
    for (uint32_t i = 0; i < window->parked.count; i++)
        if (is_parked(window, line_at(&window->parked, i)))
            failed[count++] = line_at(&window->parked, i);
    pack_failures(&pack, window, failed, count);
    heap_free(failed);
    if (pack.status != STATUS_OK) {
        row->size = before;
        return pack.status;
    }
    window->changed_count = 0;
    window->base_changed = false;
    window->parked_written = window->parked.count;
    return STATUS_OK;
}

void window_committed(struct window *window)
{
    for (uint32_t i = 0; i < window->parked_written; i++) {
        uint64_t offset = line_at(&window->parked, i);
        if (!is_parked(window, offset))
            continue;
        state_ring_set(&window->states, offset, OFFSET_AVAILABLE);
        line_push(&window->returned, offset);
    }
    line_pop(&window->parked, window->parked_written);
    window->parked_written = 0;
}

enum status window_snapshot(const struct window *window, struct buf *row)
{
    const struct state_ring *states = &window->states;
    size_t before = row->size;
    struct pack pack = pack_into(row);
    pack_head(&pack, window);
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
    uint64_t *failed = heap_array(window->failures.count + 1, sizeof *failed);
    uint32_t count = 0;
    for (uint32_t i = 0; i < window->failures.capacity; i++)
        if (window->failures.entries[i].used)
            failed[count++] = window->failures.entries[i].offset;
    pack_failures(&pack, window, failed, count);
    heap_free(failed);
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

static bool apply_failures(struct window *window, struct reader *reader)
{
    struct state_ring *states = &window->states;
    uint64_t limit = states->base + LIMIT_WINDOW;
    uint64_t at = states->base - 1;
    for (;;) {
        uint64_t distance = reader_uvarint(reader);
        if (distance == 0)
            return !reader->failed;
        uint64_t failures = reader_uvarint(reader);
        if (distance > limit - 1 - at || failures == 0 || failures > UINT32_MAX)
            return false;
        at += distance;
        if (state_ring_get(states, at) == OFFSET_DONE)
            return false;
        state_ring_set(states, at,
                       OFFSET_AVAILABLE); /* inside of the ring, so that it is found again */
        offset_map_put(&window->failures, at, (uint32_t)failures);
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
    if (reader.failed || version != ROW_VERSION || base < window->states.base || base > INT64_MAX)
        return STATUS_MALFORMED;
    window_drop_below(window, base);
    if (window->states.base !=
        base) /* the row says that base is not done, an earlier one that it is */
        return STATUS_MALFORMED;
    if (!apply_runs(window, &reader) || !apply_failures(window, &reader) ||
        reader_left(&reader) != 0)
        return STATUS_MALFORMED;
    window->acknowledged = acknowledged;
    window_extend(window, window->states.top);
    window->base_changed = false;
    return STATUS_OK;
}
