/* SPDX-License-Identifier: Apache-2.0 */
/* What a group and its consumers do not want: takes with the same selector share a lane, which
 * looks at every record once. */
#include "core/queue/group_impl.h"

#include "core/base/heap.h"

/* Two of the same text choose the same. */
static bool is_same(const struct selector *a, const struct selector *b)
{
    return a == b || span_equal(selector_text(a), selector_text(b));
}

static bool is_idle(const struct lane *lane)
{
    if (!list_is_empty(&lane->takes))
        return false;
    for (uint32_t i = 0; i < lane->part_count; i++)
        if (lane->parts[i].reading && lane->parts[i].read_into == &lane->places[i].shelf)
            return false;
    return true;
}

static void choice_free(struct group *group, uint32_t index)
{
    struct lane *lane = group->choices[index];
    group->choices[index] = group->choices[--group->choice_count];
    lane_leave(lane);
    selector_unref(lane->selector);
    heap_free(lane);
}

/* Makes room by forgetting the one that was not used for longest. False: all are in use. */
static bool forget_one(struct group *group)
{
    uint32_t oldest = CHOICES_MAX;
    for (uint32_t i = 0; i < group->choice_count; i++) {
        const struct lane *lane = group->choices[i];
        if (lane != group->serving && is_idle(lane) &&
            (oldest == CHOICES_MAX || lane->used < group->choices[oldest]->used))
            oldest = i;
    }
    if (oldest == CHOICES_MAX)
        return false;
    choice_free(group, oldest);
    return true;
}

struct lane *lane_for(struct group *group, const struct group_take *take)
{
    struct lane *common = &group->lanes[take->dead ? LANE_DEAD : LANE_RECORDS];
    if (take->selector == NULL)
        return common;
    group->used++;
    for (uint32_t i = 0; i < group->choice_count; i++) {
        struct lane *lane = group->choices[i];
        if (lane->parts == common->parts && is_same(lane->selector, take->selector)) {
            lane->used = group->used;
            return lane;
        }
    }
    if (group->choice_count == CHOICES_MAX && !forget_one(group))
        return NULL;
    struct lane *lane = heap_new(sizeof *lane);
    list_init(&lane->takes);
    lane->parts = common->parts;
    lane->part_count = common->part_count;
    lane->selector = selector_ref((struct selector *)(uintptr_t)take->selector);
    lane->used = group->used;
    lane_join(lane);
    group->choices[group->choice_count++] = lane;
    return lane;
}

bool lane_wants(const struct lane *lane, const struct record *record)
{
    return lane->selector == NULL || selector_matches(lane->selector, record);
}

void filter_deinit(struct group *group)
{
    while (group->choice_count > 0)
        choice_free(group, group->choice_count - 1);
    for (uint32_t i = 0; i < LANES; i++)
        lane_leave(&group->lanes[i]);
}
