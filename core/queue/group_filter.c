/* SPDX-License-Identifier: Apache-2.0 */
/* What a group and its consumers do not want. Labels and a selector are the group's: what they do
 * not name is done for all its consumers. A consumer's selector leaves the rest for others: takes
 * with the same one share a lane, which looks at every record once. */
#include "core/base/limits.h"
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"

enum { ROW_VERSION = 1, ROW_LIMIT = 4 + LABELS_MAX * (LABEL_SIZE_MAX + 1) };

/* Labels */

bool filter_agrees(struct group *group, const struct group_take *take)
{
    if (take->dead || (take->labels.count == 0 && group->labels.filter.count == 0))
        return true;
    if (group->labels.filter.count > 0)
        return label_filter_equal(&group->labels.filter, &take->labels);
    return group->labels_changed = label_choose(&group->labels, &take->labels);
}

bool filter_batch(struct part *part, const struct find *find)
{
    const struct label_filter *labels = &part->group->labels.filter;
    if (labels->count == 0 || part->dead || label_footer_may_match(labels, find->batch))
        return false;
    window_drop_available(part->window, find->offset, batch_end(find->batch));
    return true;
}

static bool has_labels(const struct group *group, const struct record *record)
{
    return group->labels.filter.count == 0 || label_matches(&group->labels.filter, record);
}

static bool is_selected(const struct group *group, const struct record *record)
{
    return group->selector == NULL || selector_matches(group->selector, record);
}

bool filter_wants(const struct group *group, const struct record *record)
{
    return has_labels(group, record) && is_selected(group, record);
}

bool filter_record(struct part *part, const struct find *find)
{
    struct group *group = part->group;
    if (has_labels(group, &find->record)) {
        if (is_selected(group, &find->record))
            return false;
        order_evaluated(group);
    }
    window_gap(part->window, find->offset, find->offset + 1);
    return true;
}

bool filter_row(struct group *group, struct span *row)
{
    if (!group->labels_changed)
        return false;
    group->labels_changed = false;
    buf_init(&group->labels_row, ROW_LIMIT);
    struct pack pack = pack_into(&group->labels_row);
    pack_u8(&pack, ROW_VERSION);
    pack_u8(&pack, group->labels.filter.all);
    pack_u8(&pack, (uint8_t)group->labels.filter.count);
    for (uint32_t i = 0; i < group->labels.filter.count; i++)
        pack_block(&pack, group->labels.filter.labels[i]);
    CHECK(pack.status == STATUS_OK);
    *row = buf_span(&group->labels_row);
    return true;
}

enum status filter_load(struct group *group, struct span row)
{
    struct label_filter labels = {0};
    struct reader reader = reader_of(row);
    uint8_t version = reader_u8(&reader);
    if (version > ROW_VERSION)
        return STATUS_UNSUPPORTED;
    labels.all = reader_u8(&reader) != 0;
    labels.count = reader_u8(&reader);
    for (uint32_t i = 0; i < labels.count && i < LABELS_MAX; i++)
        labels.labels[i] = reader_block(&reader);
    bool valid = !reader.failed && reader_left(&reader) == 0 && version == ROW_VERSION;
    return valid && label_choose(&group->labels, &labels) ? STATUS_OK : STATUS_MALFORMED;
}

/* Selectors */

void group_select(struct group *group, struct selector *selector)
{
    CHECK(loop_is_home(group->loop));
    struct selector *old = group->selector;
    group->selector = selector == NULL ? NULL : selector_ref(selector);
    selector_unref(old);
    group_wake(group);
}

static bool is_idle(const struct group_lane *lane)
{
    if (!list_is_empty(&lane->takes))
        return false;
    for (uint32_t i = 0; i < lane->part_count; i++)
        if (lane->parts[i].reading && lane->parts[i].read_into == &lane->places[i].shelf)
            return false;
    return true;
}

static void taker_leave(struct taker *taker)
{
    link_remove(&taker->of_lane);
    taker->lane = NULL;
    taker_unref(taker);
}

static void taker_join(struct taker *taker, struct group_lane *lane)
{
    if (taker == NULL || taker->lane == lane)
        return;
    if (taker->lane == NULL)
        taker_ref(taker);
    else
        link_remove(&taker->of_lane);
    taker->lane = lane;
    lane->of_takers = true;
    list_push(&lane->takers, &taker->of_lane);
}

/* Some taker may come back to it. */
static bool is_expected(struct group_lane *lane)
{
    struct link *link;
    while ((link = list_first(&lane->takers)) != NULL) {
        struct taker *taker = container_of(link, struct taker, of_lane);
        if (!atomic_load_explicit(&taker->gone, memory_order_relaxed))
            return true;
        taker_leave(taker);
    }
    return false;
}

static void choice_free(struct group *group, uint32_t index)
{
    struct group_lane *lane = group->choices[index];
    struct link *link;
    while ((link = list_first(&lane->takers)) != NULL)
        taker_leave(container_of(link, struct taker, of_lane));
    group->choices[index] = group->choices[--group->choice_count];
    group_lane_leave(lane);
    selector_unref(lane->selector);
    heap_free(lane);
}

static uint32_t choices_max(const struct group *group)
{
    uint32_t most = PLACES_MAX / group->part_count;
    return most < CHOICES_FEW           ? CHOICES_FEW
           : most < LIMIT_GROUP_CHOICES ? most
                                        : LIMIT_GROUP_CHOICES;
}

/* Makes room for one more lane that is shared, by forgetting the one that was not used for longest.
 * False: all are in use, or will be. */
static bool make_room(struct group *group)
{
    uint32_t oldest = UINT32_MAX, shared = 0;
    for (uint32_t i = 0; i < group->choice_count; i++) {
        struct group_lane *lane = group->choices[i];
        shared += !lane->own;
        if (!lane->own && lane != group->serving && is_idle(lane) && !is_expected(lane) &&
            (oldest == UINT32_MAX || lane->used < group->choices[oldest]->used))
            oldest = i;
    }
    if (shared < choices_max(group) && group->choice_count < LANES_MAX)
        return true;
    if (oldest == UINT32_MAX)
        return false;
    choice_free(group, oldest);
    return true;
}

void lanes_forget(struct group *group)
{
    for (uint32_t i = group->choice_count; i-- > 0;) {
        struct group_lane *lane = group->choices[i];
        bool is_over =
            lane->own ? lane->bar == NULL : lane->of_takers && group->choice_count > CHOICES_FEW;
        if (is_over && lane != group->serving && is_idle(lane) && (lane->own || !is_expected(lane)))
            choice_free(group, i);
    }
}

static bool is_lane_for(const struct group_lane *lane, const struct part *parts,
                        const struct selector *selector, const struct bar *bar)
{
    return lane->parts == parts && lane->bar == bar && lane->own == (bar != NULL) &&
           selector_equal(lane->selector, selector);
}

/* bar NULL: a shared one. NULL: there is none. */
static struct group_lane *find_lane(struct group *group, const struct part *parts,
                                    const struct selector *selector, const struct bar *bar)
{
    for (uint32_t i = 0; i < group->choice_count; i++)
        if (is_lane_for(group->choices[i], parts, selector, bar))
            return group->choices[i];
    return NULL;
}

bool lanes_may_open(struct group *group, const struct bar *bar)
{
    for (uint32_t i = group->choice_count; i-- > 0;) {
        if (i >= group->choice_count)
            continue;
        const struct group_lane *lane = group->choices[i];
        if (lane->bar == bar && lane->selector != NULL && !list_is_empty(&lane->takes) &&
            find_lane(group, lane->parts, lane->selector, NULL) == NULL && !make_room(group))
            return false;
    }
    return true;
}

struct group_lane *group_lane_for(struct group *group, const struct group_take *take)
{
    struct group_lane *common = &group->lanes[take->dead ? LANE_DEAD : LANE_RECORDS];
    struct bar *bar = bar_of(group, take->taker);
    if (take->selector == NULL && bar == NULL)
        return common;
    group->used++;
    /* As a rule it is where the taker was before. */
    struct group_lane *lane = take->taker == NULL ? NULL : take->taker->lane;
    if (lane == NULL || !is_lane_for(lane, common->parts, take->selector, bar))
        lane = find_lane(group, common->parts, take->selector, bar);
    if (lane != NULL) {
        taker_join(take->taker, lane);
        lane->used = group->used;
        return lane;
    }
    /* One of its own takes nobody else's: takes are being sorted. */
    if (bar == NULL ? !make_room(group) : group->choice_count == LANES_MAX)
        return NULL;
    lane = heap_new(sizeof *lane);
    list_init(&lane->takes);
    list_init(&lane->takers);
    lane->parts = common->parts;
    lane->part_count = common->part_count;
    if (take->selector != NULL)
        lane->selector = selector_ref((struct selector *)(uintptr_t)take->selector);
    lane->own = bar != NULL;
    lane->bar = bar;
    lane->used = group->used;
    group_lane_join(lane);
    if (group->choice_count == group->choice_capacity) {
        group->choice_capacity = group->choice_capacity == 0 ? 8 : 2 * group->choice_capacity;
        group->choices =
            heap_resize(group->choices, group->choice_capacity * sizeof *group->choices);
    }
    group->choices[group->choice_count++] = lane;
    taker_join(take->taker, lane);
    return lane;
}

bool group_lane_wants(const struct group_lane *lane, const struct part *part,
                      const struct record *record)
{
    if (lane->bar != NULL && bar_holds(lane->bar, part, record->offset))
        return false;
    return lane->selector == NULL || selector_matches(lane->selector, record);
}

void filter_deinit(struct group *group)
{
    while (group->choice_count > 0)
        choice_free(group, group->choice_count - 1);
    heap_free(group->choices);
    for (uint32_t i = 0; i < LANES; i++)
        group_lane_leave(&group->lanes[i]);
    buf_deinit(&group->labels_row);
    selector_unref(group->selector);
}
