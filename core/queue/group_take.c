/* SPDX-License-Identifier: Apache-2.0 */
/* Takes: they wait in line until the group's turn of work, which fills them from its partitions. */
#include "core/base/limits.h"
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/clock.h"

enum { CHOICE_STEPS = 2048 };

bool takes_wait(const struct group *group)
{
    return !list_is_empty(&group->waiting) || group->serving != NULL;
}

static void take_leave(struct group *group, struct group_take *take)
{
    link_remove(&take->link);
    loop_timer_stop(group->loop, &take->timer);
    take->lane->impatient -= take->wait_ms == 0;
    expiry_taken(group);
    if (list_is_empty(&take->lane->takes))
        link_remove(&take->lane->waiting);
    group->taken_ms = loop_now_ms(group->loop);
}

static void take_answer(struct group *group, struct group_take *take, enum status status)
{
    take_leave(group, take);
    group_answer(group, &take->request, status);
}

static void lane_refuse(struct group *group, struct group_lane *lane, enum status status)
{
    struct link *link;
    while ((link = list_first(&lane->takes)) != NULL) {
        struct group_take *take = container_of(link, struct group_take, link);
        take_leave(group, take);
        request_complete(&take->request, status);
    }
}

void takes_refuse(struct group *group, enum status status)
{
    struct link *link;
    while ((link = list_first(&group->waiting)) != NULL)
        lane_refuse(group, container_of(link, struct group_lane, waiting), status);
    if (group->serving != NULL)
        lane_refuse(group, group->serving, status);
}

static void take_timed_out(struct loop_timer *timer)
{
    struct group_take *take = container_of(timer, struct group_take, timer);
    group_wake(take->group);
    take_answer(take->group, take, STATUS_OK);
}

/* False: there are too many lanes. */
static bool take_join(struct group *group, struct group_take *take)
{
    struct group_lane *lane = take->lane = group_lane_for(group, take);
    if (lane == NULL)
        return false;
    list_push(&lane->takes, &take->link);
    if (lane != group->serving && !link_is_linked(&lane->waiting))
        list_push(&group->waiting, &lane->waiting);
    lane->impatient += take->wait_ms == 0;
    return true;
}

/* Whether a take waits where it belongs: what has gone is not looked after. */
static bool is_in_place(struct group *group, const struct group_lane *lane,
                        const struct group_take *take)
{
    if (lane->own)
        return lane->bar != NULL || atomic_load_explicit(&take->taker->gone, memory_order_relaxed);
    return bar_of(group, take->taker) == NULL;
}

static void lane_sort(struct group *group, struct group_lane *lane)
{
    list_each_safe(link, following, &lane->takes)
    {
        struct group_take *take = container_of(link, struct group_take, link);
        if (is_in_place(group, lane, take))
            continue;
        link_remove(&take->link);
        lane->impatient -= take->wait_ms == 0;
        if (!take_join(group, take)) {
            loop_timer_stop(group->loop, &take->timer);
            expiry_taken(group);
            request_complete(&take->request, take->count > 0 ? STATUS_OK : STATUS_BUSY);
        }
    }
    if (list_is_empty(&lane->takes))
        link_remove(&lane->waiting);
}

/* Lanes whose bar has gone first: they make room for those of new ones. */
void takes_sort(struct group *group)
{
    group->bars_changed = false;
    for (uint32_t i = group->choice_count; i-- > 0;)
        if (i < group->choice_count && group->choices[i]->own && group->choices[i]->bar == NULL)
            lane_sort(group, group->choices[i]);
    lanes_forget(group);
    for (uint32_t i = 0; i < LANES; i++)
        lane_sort(group, &group->lanes[i]);
    for (uint32_t i = 0, count = group->choice_count; i < count; i++)
        lane_sort(group, group->choices[i]);
}

void group_take(struct group *group, struct group_take *take)
{
    CHECK(loop_is_home(group->loop));
    CHECK(group->state != GROUP_CLOSING);
    CHECK(take->max_records >= 1 && take->max_records <= LIMIT_TAKE_RECORDS);
    take->count = 0;
    take->bytes = 0;
    take->group = group;
    take->timer = (struct loop_timer){.fired = take_timed_out};
    if (!take_join(group, take)) {
        request_complete(&take->request, STATUS_BUSY);
        return;
    }
    if (take->wait_ms != 0)
        loop_timer_start(group->loop, &take->timer, take->wait_ms);
    group->taken_ms = loop_now_ms(group->loop);
    expiry_taken(group);
    group_wake(group);
}

void group_take_cancel(struct group *group, struct group_take *take)
{
    CHECK(loop_is_home(group->loop));
    if (!link_is_linked(&take->link))
        return;
    take_leave(group, take);
    request_complete(&take->request, STATUS_CANCELED);
}

static void hand_out(struct part *part, struct group_take *take, const struct find *find)
{
    struct group *group = part->group;
    struct group_item *item = &take->items[take->count++];
    *item = (struct group_item){
        .batch = batch_ref(find->batch),
        .index = find->index,
        .receipt = {.group = group->spec->id,
                    .partition = part->id,
                    .offset = find->offset,
                    .epoch = group->epoch},
        .lease_ms = queue_lease_ms(group->queue, take->lease_ms),
        .again = window_was_taken(part->window, find->offset),
        .note = note_of(part, find->offset),
    };
    window_take(part->window, find->offset, loop_now_ms(group->loop), item->lease_ms,
                &item->receipt.delivery, &item->failures);
    if (part->fifo != NULL)
        fifo_take(part->fifo, find->offset, group->fills);
}

/* Fills the take up to count records from one partition. LATER: there would be more when its bytes
 * have come. */
static enum feed fill_from(struct group_lane *lane, struct part *part, struct group_take *take,
                           uint32_t count, int64_t wall_ms)
{
    while (take->count < count) {
        struct find find;
        enum feed found = feed_next(lane, part, wall_ms, &find);
        if (found != FEED_RECORD)
            return found;
        uint64_t size = find.record.key.size + find.record.value.size + find.record.headers.size;
        if (take->count > 0 && take->bytes + size > take->max_bytes) {
            take->max_records = take->count; /* full */
            return FEED_RECORD;
        }
        take->bytes += size;
        hand_out(part, take, &find);
    }
    return FEED_RECORD;
}

/* RECORD: something was found. Partitions take turns, so that a full one does not hide the others.
 */
static enum feed fill(struct group_lane *lane, struct group_take *take, uint32_t count,
                      int64_t wall_ms)
{
    bool later = false;
    uint32_t had = take->count;
    uint32_t first = lane->turn;
    take->group->fills++;
    for (uint32_t i = 0; i < lane->part_count; i++) {
        uint32_t at = (first + i) % lane->part_count;
        uint32_t before = take->count;
        enum feed found = fill_from(lane, &lane->parts[at], take, count, wall_ms);
        if (take->count > before)
            lane->turn = (at + 1) % lane->part_count;
        if (found == FEED_RECORD)
            return FEED_RECORD;
        later |= found == FEED_LATER;
    }
    return take->count > had ? FEED_RECORD : later ? FEED_LATER : FEED_NOTHING;
}

static bool look(struct group_lane *lane)
{
    bool found = false;
    for (uint32_t i = 0; i < lane->part_count; i++)
        found |= feed_look(&lane->parts[i]);
    return found;
}

static void answer_impatient(struct group *group, struct group_lane *lane)
{
    for (struct link *link = lane->takes.head.next;
         lane->impatient > 0 && link != &lane->takes.head;) {
        struct group_take *take = container_of(link, struct group_take, link);
        link = link->next;
        if (take->wait_ms == 0) {
            take_leave(group, take);
            /* By mail: its done() may change the list that is walked here. */
            request_complete(&take->request, STATUS_OK);
        }
    }
}

/* A selector that matches little must not keep the others waiting. */
static uint32_t set_budget(struct group *group, const struct group_lane *lane)
{
    uint32_t spare = 0;
    if (lane->selector != NULL && group->steps_left > CHOICE_STEPS)
        spare = group->steps_left - CHOICE_STEPS;
    group->steps_left -= spare;
    return spare;
}

/* What they have got is all that there is for now. */
static void answer_filled(struct group *group, struct group_lane *lane)
{
    list_each_safe(link, following, &lane->takes)
    {
        struct group_take *take = container_of(link, struct group_take, link);
        if (take->count > 0)
            take_answer(group, take, STATUS_OK);
    }
}

/* One record at a time while others wait, who then have their turn; records of a key that follow
 * each other stay together. */
static enum feed serve_turn(struct group_lane *lane, struct group_take *take, int64_t wall_ms)
{
    bool alone = take->link.next == &lane->takes.head || lane->parts[0].fifo != NULL;
    enum feed found = fill(lane, take, alone ? take->max_records : take->count + 1, wall_ms);
    if (found == FEED_RECORD && !alone && take->count < take->max_records) {
        link_remove(&take->link);
        list_push(&lane->takes, &take->link);
        return FEED_SKIPPED;
    }
    return found;
}

static void lane_serve(struct group *group, struct group_lane *lane, int64_t wall_ms)
{
    bool looked = false;
    struct link *link;
    while (group->state == GROUP_SERVING && (link = list_first(&lane->takes)) != NULL) {
        struct group_take *take = container_of(link, struct group_take, link);
        if (!filter_agrees(group, take)) {
            take_answer(group, take, STATUS_INVALID);
            continue;
        }
        switch (serve_turn(lane, take, wall_ms)) {
        case FEED_RECORD:
            take_answer(group, take, STATUS_OK);
            break;
        case FEED_SKIPPED: /* the next one's turn */
            break;
        case FEED_LATER:
            answer_filled(group, lane);
            return;
        case FEED_NOTHING:
            answer_filled(group, lane);
            /* A notice may have passed before the group was known to its sender. */
            if (!looked && look(lane)) {
                looked = true;
                break;
            }
            answer_impatient(group, lane);
            return;
        }
    }
}

void takes_serve(struct group *group)
{
    int64_t wall_ms = clock_wall_ms();
    for (uint32_t i = 0; i < group->part_count; i++) {
        feed_skip_lost(&group->parts[i]);
        order_tidy(&group->parts[i]);
    }
    bars_sweep(group);
    if (group->bars_changed)
        takes_sort(group);
    group->unfinished = false;
    group->evaluations = 0;
    uint32_t rounds = LANES + group->choice_count;
    struct link *link;
    for (uint32_t i = 0; i < rounds && (link = list_pop(&group->waiting)) != NULL; i++) {
        struct group_lane *lane = group->serving = container_of(link, struct group_lane, waiting);
        uint32_t spare = set_budget(group, lane);
        lane_serve(group, lane, wall_ms);
        group->unfinished |= group->steps_left == 0;
        group->steps_left += spare;
        group->serving = NULL;
        if (!list_is_empty(&lane->takes))
            list_push(&group->waiting, &lane->waiting);
    }
}
