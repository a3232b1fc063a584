/* SPDX-License-Identifier: Apache-2.0 */
/* What consumers left on records that come again, until these are done, and why they rejected what
 * becomes a dead letter. In memory only: failures are what a restart must know. */
#include "core/base/limits.h"
#include "core/queue/group_impl.h"

#include "core/base/blob.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"

struct note {
    struct part *part;
    uint64_t offset;
    struct blob *bytes;
    bool is_reason;
};

enum { NOTE_COST = 128, NOTES_FIRST = 16 }; /* what a note takes besides its bytes, roughly */

static uint64_t cost(const struct blob *bytes)
{
    return NOTE_COST + blob_span(bytes).size;
}

static void drop(struct group *group, uint32_t index)
{
    struct note *note = &group->notes[index];
    group->budget->note_bytes -= cost(note->bytes);
    blob_unref(note->bytes);
    offset_map_remove(&note->part->notes, note->offset);
    if (index != --group->note_count) {
        *note = group->notes[group->note_count];
        offset_map_put(&note->part->notes, note->offset, index);
    }
    if (group->note_count == 0) {
        heap_free(group->notes);
        group->notes = NULL;
        group->note_capacity = 0;
    }
}

void notes_drop(struct part *part, uint64_t from, uint64_t to)
{
    struct group *group = part->group;
    if (part->notes.count == 0)
        return;
    if (to - from > group->note_count) {
        for (uint32_t i = group->note_count; i-- > 0;) {
            const struct note *note = &group->notes[i];
            if (note->part == part && note->offset >= from && note->offset < to)
                drop(group, i);
        }
        return;
    }
    for (uint64_t offset = from; offset < to; offset++) {
        const uint32_t *index = offset_map_get(&part->notes, offset);
        if (index != NULL)
            drop(group, *index);
    }
}

void notes_deinit(struct group *group)
{
    while (group->note_count > 0)
        drop(group, group->note_count - 1);
    for (uint32_t i = 0; i < group->part_count; i++)
        offset_map_deinit(&group->parts[i].notes);
}

struct blob *note_of(const struct part *part, uint64_t offset)
{
    if (part->notes.count == 0)
        return NULL;
    const uint32_t *index = offset_map_get(&part->notes, offset);
    const struct note *note = index == NULL ? NULL : &part->group->notes[*index];
    return note == NULL || note->is_reason ? NULL : blob_ref(note->bytes);
}

struct span reason_of(const struct part *part, uint64_t offset)
{
    const uint32_t *index = part->notes.count == 0 ? NULL : offset_map_get(&part->notes, offset);
    const struct note *note = index == NULL ? NULL : &part->group->notes[*index];
    return note == NULL || !note->is_reason ? span_of("", 0) : blob_span(note->bytes);
}

static bool names(struct span note, struct span name)
{
    struct reader at = reader_of(note);
    while (reader_left(&at) > 0) {
        struct span known = reader_block(&at);
        reader_block(&at);
        if (!at.failed && span_equal(known, name))
            return true;
    }
    return false;
}

/* All of the new one, and of the old what it does not name. NULL: that is too much. */
static struct blob *merge(struct span old, struct span note)
{
    struct buf buf;
    buf_init(&buf, LIMIT_GROUP_NOTE_BYTES);
    struct pack pack = pack_into(&buf);
    struct reader at = reader_of(old);
    while (reader_left(&at) > 0) {
        struct span name = reader_block(&at), value = reader_block(&at);
        if (at.failed || names(note, name))
            continue;
        pack_block(&pack, name);
        pack_block(&pack, value);
    }
    pack_bytes(&pack, note);
    struct blob *merged = pack.status == STATUS_OK ? blob_copy(buf_span(&buf)) : NULL;
    buf_deinit(&buf);
    return merged;
}

/* In place of what is there. Takes bytes. */
static void put(struct part *part, uint64_t offset, struct blob *bytes, bool is_reason)
{
    struct group *group = part->group;
    struct group_budget *budget = group->budget;
    const uint32_t *known = offset_map_get(&part->notes, offset);
    uint64_t others = budget->note_bytes - (known == NULL ? 0 : cost(group->notes[*known].bytes));
    if (others + cost(bytes) > budget->note_bytes_max ||
        (known == NULL && group->note_count == LIMIT_GROUP_NOTES)) {
        blob_unref(bytes);
        return;
    }
    if (known != NULL)
        drop(group, *known);
    if (group->note_count == group->note_capacity) {
        group->note_capacity = group->note_capacity == 0 ? NOTES_FIRST : 2 * group->note_capacity;
        group->notes = heap_resize(group->notes, group->note_capacity * sizeof *group->notes);
    }
    part_watch(part);
    budget->note_bytes += cost(bytes);
    group->notes[group->note_count] =
        (struct note){.part = part, .offset = offset, .bytes = bytes, .is_reason = is_reason};
    offset_map_put(&part->notes, offset, group->note_count++);
}

static void note_put(struct part *part, uint64_t offset, struct span note)
{
    struct blob *old = note_of(part, offset);
    struct blob *bytes = merge(old == NULL ? span_of(NULL, 0) : blob_span(old), note);
    blob_unref(old);
    if (bytes != NULL)
        put(part, offset, bytes, false);
}

static void reason_put(struct part *part, uint64_t offset, struct span reason)
{
    const uint32_t *known = offset_map_get(&part->notes, offset);
    if (known != NULL)
        drop(part->group, *known);
    if (reason.size > 0 && reason.size <= LIMIT_GROUP_NOTE_BYTES)
        put(part, offset, blob_copy(reason), true);
}

void note_settled(struct part *part, uint64_t offset, enum window_outcome outcome, struct span note)
{
    if (group_comes_back(outcome) && note.size > 0)
        note_put(part, offset, note);
    else if (outcome == WINDOW_REJECTED)
        reason_put(part, offset, note);
}
