/* SPDX-License-Identifier: Apache-2.0 */
/* Which record is next where that is not simply what the window shows: the first of a message group
 * that nothing of the group is ahead of, the next one that a selector names. What these remember is
 * no state of the group: it is made anew from what is not done. */
#include "core/queue/group_impl.h"

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

/* An expression may take long: the clock is asked after so many. */
enum { EVALUATIONS = 64 };
#define EVALUATE_NS 5000000u

static void returned(struct window_watch *watch, uint64_t offset)
{
    struct part *part = container_of(watch, struct part, watch);
    if (part->fifo != NULL)
        fifo_returned(part->fifo, offset);
    else if (!list_is_empty(&part->offers.readers)) /* who joins looks at everything anyway */
        offers_push(&part->offers, offset);
}

static void resolved(struct window_watch *watch, uint64_t from, uint64_t to)
{
    struct part *part = container_of(watch, struct part, watch);
    if (part->fifo != NULL)
        fifo_resolved(part->fifo, from, to);
    notes_drop(part, from, to);
}

static void restarted(struct window_watch *watch)
{
    struct part *part = container_of(watch, struct part, watch);
    struct group *group = part->group;
    notes_drop(part, 0, UINT64_MAX);
    offers_clear(&part->offers);
    if (part->fifo != NULL)
        fifo_clear(part->fifo);
    part->met = 0;
    for (uint32_t i = 0; i < group->choice_count; i++) {
        struct group_lane *lane = group->choices[i];
        if (part >= lane->parts && part < lane->parts + lane->part_count)
            lane->places[part - lane->parts].cursor = 0;
    }
}

void part_watch(struct part *part)
{
    if (part->watched)
        return;
    part->watched = true;
    part->watch =
        (struct window_watch){.returned = returned, .resolved = resolved, .restarted = restarted};
    window_set_watch(part->window, &part->watch);
}

void part_order(struct part *part)
{
    offers_init(&part->offers);
    if (part->group->queue->type != QUEUE_FIFO)
        return;
    part->fifo = fifo_new(&part->offers);
    part_watch(part);
}

void part_order_deinit(struct part *part)
{
    window_set_watch(part->window, NULL);
    fifo_free(part->fifo);
    offers_deinit(&part->offers);
}

void group_lane_join(struct group_lane *lane)
{
    lane->places = heap_array(lane->part_count + 1, sizeof *lane->places);
    for (uint32_t i = 0; i < lane->part_count; i++) {
        part_watch(&lane->parts[i]);
        offers_join(&lane->parts[i].offers, &lane->places[i].reader);
    }
}

void group_lane_leave(struct group_lane *lane)
{
    if (lane->places == NULL)
        return;
    for (uint32_t i = 0; i < lane->part_count; i++) {
        offers_leave(&lane->places[i].reader);
        shelf_clear(&lane->places[i].shelf);
    }
    heap_free(lane->places);
    lane->places = NULL;
}

static bool is_available(const struct part *part, uint64_t offset)
{
    uint64_t until_ms;
    return window_look_at(part->window, offset, &until_ms) == WINDOW_IS_AVAILABLE;
}

/* False: it is no more what it was when it was offered. */
static bool is_offered(void *context, uint64_t offset)
{
    const struct part *part = context;
    if (part->fifo != NULL && !fifo_is_ready(part->fifo, offset, part->group->fills))
        return false;
    return is_available(part, offset);
}

void order_evaluated(struct group *group)
{
    if (++group->evaluations % EVALUATIONS != 0)
        return;
    uint64_t now_ns = clock_monotonic_ns();
    if (group->evaluations == EVALUATIONS)
        group->evaluated_from_ns = now_ns;
    else if (now_ns > group->evaluated_from_ns + EVALUATE_NS)
        group->steps_left = 1; /* this one */
}

/* Message groups */

uint64_t order_key(const struct record *record, struct span *key)
{
    struct span text;
    if (!record_find(record, HEADER_GROUP_ID, &text) || text.size == 0)
        text = record->key;
    if (key != NULL)
        *key = text;
    return text.size == 0 ? 0 : hash_bytes(text);
}

/* Learns the key of one more record. RECORD: there may be something to offer now. */
static enum feed meet(struct part *part, int64_t wall_ms, struct find *find)
{
    if (fifo_waiting(part->fifo) >= LIMIT_LOOK_AHEAD)
        return FEED_NOTHING;
    find->offset = window_next_undone(part->window, part->met);
    if (find->offset >= window_end(part->window))
        return FEED_NOTHING;
    bool held = !is_available(part, find->offset);
    if (!held && !window_may_take(part->window, find->offset, true))
        return FEED_NOTHING;
    enum feed found = feed_load(part, &part->ahead, held, wall_ms, find);
    if (found == FEED_RECORD)
        fifo_meet(part->fifo, order_key(&find->record, NULL), find->offset, held);
    if (found == FEED_RECORD || (found == FEED_SKIPPED && held))
        part->met = find->offset + 1;
    return found;
}

static enum feed fifo_next(struct group_lane *lane, struct part *part, int64_t wall_ms,
                           struct find *find)
{
    struct group *group = part->group;
    struct offer_reader *reader = &lane->places[part - lane->parts].reader;
    for (; group->steps_left > 0; group->steps_left--) {
        enum feed found;
        if (!offers_peek(&part->offers, reader, &find->offset)) {
            found = meet(part, wall_ms, find);
            if (found == FEED_NOTHING || found == FEED_LATER)
                return found;
            continue;
        }
        if (!is_offered(part, find->offset)) {
            reader->place++;
            continue;
        }
        if (!window_may_take(part->window, find->offset, true))
            return FEED_NOTHING;
        found = feed_load(part, &part->again, false, wall_ms, find);
        if (found == FEED_RECORD && !group_lane_wants(lane, part, &find->record)) {
            reader->place++;
            order_evaluated(group);
        } else if (found != FEED_SKIPPED) {
            return found;
        }
    }
    return FEED_LATER;
}

/* Selectors */

static enum feed choice_next(struct group_lane *lane, struct part *part, int64_t wall_ms,
                             struct find *find)
{
    struct group *group = part->group;
    struct place *place = &lane->places[part - lane->parts];
    for (; group->steps_left > 0; group->steps_left--) {
        bool offered = offers_peek(&part->offers, &place->reader, &find->offset);
        if (offered && !is_offered(part, find->offset)) {
            place->reader.place++;
            continue;
        }
        if (!offered) {
            find->offset = place->cursor = window_next_available(part->window, place->cursor);
            if (find->offset >= window_end(part->window))
                return FEED_NOTHING;
        }
        /* What a bar keeps from its taker must not end what it gets. */
        if (!window_may_take(part->window, find->offset, lane->own && lane->selector == NULL))
            return FEED_NOTHING;
        enum feed found =
            feed_load(part, offered ? &part->again : &place->shelf, false, wall_ms, find);
        if (found == FEED_SKIPPED)
            continue;
        if (found != FEED_RECORD || group_lane_wants(lane, part, &find->record))
            return found;
        if (offered)
            place->reader.place++;
        else
            place->cursor = find->offset + 1;
        order_evaluated(group);
    }
    return FEED_LATER;
}

/* Also for lanes that nobody waits in: what they are offered must not pile up. */
void order_tidy(struct part *part)
{
    offers_tidy(&part->offers, is_offered, part);
}

enum feed order_next(struct group_lane *lane, struct part *part, int64_t wall_ms, struct find *find)
{
    if (part->fifo != NULL)
        return fifo_next(lane, part, wall_ms, find);
    return choice_next(lane, part, wall_ms, find);
}
