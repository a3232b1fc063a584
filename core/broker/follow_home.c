/* SPDX-License-Identifier: Apache-2.0 */
/* Where a follower reads: its partitions as queues and routes come and go, and positions as text.
 */
#include "core/base/heap.h"
#include "core/broker/follow_impl.h"

/* ------------------------------------------------ rights, and homes that come and go */

static enum status check(const struct follower *follower)
{
    return follower->by_topic
               ? broker_check(follower->client, ACTION_CONSUME, true, follower->filter)
               : broker_check(follower->client, ACTION_CONSUME, false,
                              span_from_text(follower->lanes[0]->queue->name));
}

void lane_remove(struct follower *follower, uint32_t index)
{
    struct lane *lane = follower->lanes[index];
    if (!lane->live)
        follower->behind--;
    link_remove(&lane->of_watch);
    watch_go_on(lane->watch);
    queue_unref(lane->queue);
    heap_free(lane);
    follower->lanes[index] = follower->lanes[--follower->lane_count];
}

static void lane_add(struct follower *follower, const struct lane *model)
{
    struct lane *lane = heap_new(sizeof *lane);
    *lane = *model;
    lane->follower = follower;
    follower->lanes =
        heap_resize(follower->lanes, (follower->lane_count + 1) * sizeof *follower->lanes);
    follower->lanes[follower->lane_count++] = lane;
    follower->behind++;
    lane->watch = watch_of(follower->worker, lane->partition);
    list_push(&lane->watch->behind, &lane->of_watch);
    watch_go_on(lane->watch);
    follower_wake(follower);
}

bool lanes_add(struct follower *follower, const struct queue *queue, uint32_t first, uint32_t count,
               const struct lane *model)
{
    if (follower->lane_count + count > LIMIT_FOLLOW_PARTITIONS)
        return false;
    for (uint32_t i = first; i < first + count; i++) {
        struct lane lane = *model;
        lane.queue = queue_ref(queue);
        lane.number = i;
        lane.bounds = &queue->stat->partitions[i];
        lane.partition = queue->first_partition + i;
        lane_add(follower, &lane);
    }
    return true;
}

void lane_add_dead(struct follower *follower, const struct queue *queue, const struct lane *model)
{
    struct lane lane = *model;
    lane.queue = queue_ref(queue);
    lane.bounds = &follower->dead_of->stat->dead_letters;
    lane.partition = follower->dead_of->dead_partition;
    lane_add(follower, &lane);
}

static bool follows(const struct follower *follower, const struct queue *queue)
{
    for (uint32_t i = 0; i < follower->lane_count; i++)
        if (follower->lanes[i]->queue->id == queue->id)
            return true;
    return false;
}

/* May some topic match both? */
static bool filters_meet(struct span a, struct span b)
{
    size_t at_a = 0, at_b = 0;
    for (;;) {
        const uint8_t *slash_a = memchr(a.data + at_a, '/', a.size - at_a);
        const uint8_t *slash_b = memchr(b.data + at_b, '/', b.size - at_b);
        size_t end_a = slash_a == NULL ? a.size : (size_t)(slash_a - a.data);
        size_t end_b = slash_b == NULL ? b.size : (size_t)(slash_b - b.data);
        struct span level_a = span_of(a.data + at_a, end_a - at_a);
        struct span level_b = span_of(b.data + at_b, end_b - at_b);
        if (span_is(level_a, "#") || span_is(level_b, "#"))
            return true;
        if (!span_is(level_a, "+") && !span_is(level_b, "+") && !span_equal(level_a, level_b))
            return false;
        if (end_a == a.size || end_b == b.size) {
            /* "a/#" matches "a" too. */
            return (end_a == a.size && end_b == b.size) ||
                   (end_a == a.size && span_is(span_from(b, end_b), "/#")) ||
                   (end_b == b.size && span_is(span_from(a, end_a), "/#"));
        }
        at_a = end_a + 1;
        at_b = end_b + 1;
    }
}

/* Every queue in which records of matching topics may lie and that is not followed yet. */
bool lanes_add_homes(struct follower *follower, const struct lane *model)
{
    const struct catalog *catalog = follower->worker->catalog;
    bool fits = true;
    for (size_t i = 0; fits && i < catalog_queue_count(catalog); i++) {
        const struct queue *queue = catalog_queue_at(catalog, i);
        if (queue->tenant == follower->client->tenant && queue->built_in &&
            !follows(follower, queue))
            fits = lanes_add(follower, queue, 0, queue->partition_count, model);
    }
    for (size_t i = 0; fits && i < catalog_route_count(catalog); i++) {
        const struct route *route = catalog_route_at(catalog, i);
        const struct queue *queue = catalog_queue(catalog, route->queue);
        if (route->tenant == follower->client->tenant && queue != NULL &&
            filters_meet(follower->filter, span_from_text(route->filter)) &&
            !follows(follower, queue))
            fits = lanes_add(follower, queue, 0, queue->partition_count, model);
    }
    return fits;
}

/* ------------------------------------------------ groups, likewise */

void follower_choose(struct follower *follower)
{
    const struct catalog *catalog = follower->worker->catalog;
    const struct group_spec *group = follower->undone_by == NULL || follower->dead_of != NULL
                                         ? NULL
                                         : catalog_group(catalog, follower->undone_by->id);
    struct selector *selector = group == NULL ? NULL : catalog_group_selector(catalog, group);
    selector_unref(follower->group_selector);
    follower->group_selector = selector == NULL ? NULL : selector_ref(selector);
}

static bool has_group(const struct follower *follower, const struct group_spec *group)
{
    return group == NULL || catalog_group(follower->worker->catalog, group->id) != NULL;
}

void follow_recheck(struct broker_worker *worker, bool routes)
{
    list_each(link, &worker->followers)
    {
        struct follower *follower = container_of(link, struct follower, of_worker);
        /* What was published to a home that is new since the follower began, it has not seen. */
        struct lane model = {.by_time = true, .time_ms = follower->opened_ms};
        if (follower->over != STATUS_OK)
            continue;
        follower_choose(follower);
        if (check(follower) != STATUS_OK)
            follower_end(follower, STATUS_DENIED);
        else if (!has_group(follower, follower->dead_of) ||
                 !has_group(follower, follower->undone_by))
            follower_end(follower, STATUS_NOT_FOUND);
        else if (routes && follower->by_topic && !lanes_add_homes(follower, &model))
            follower_end(follower, STATUS_OVER_QUOTA);
    }
}

void follow_forget(struct broker_worker *worker, const struct queue *queue)
{
    list_each(link, &worker->followers)
    {
        struct follower *follower = container_of(link, struct follower, of_worker);
        for (uint32_t i = follower->lane_count; follower->by_topic && i-- > 0;)
            if (follower->lanes[i]->queue->id == queue->id)
                lane_remove(follower, i);
        if (!follower->by_topic && follower->lanes[0]->queue->id == queue->id)
            follower_end(follower, STATUS_NOT_FOUND);
    }
}

/* ------------------------------------------------ positions as text */

enum { POSITION_SHORT = 1024 };

bool follower_says_position(const struct follower *follower)
{
    return follower->position_size <= POSITION_SHORT || follower->unsaid >= follower->position_size;
}

enum status follower_position(struct follower *follower, struct buf *to)
{
    size_t before = to->size;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < follower->lane_count; i++) {
        const struct lane *lane = follower->lanes[i];
        /* Where it is not known yet where a lane begins, it has shown nothing: it is left out. */
        if (!lane->by_time && !lane->looks_back)
            status =
                buf_printf(to, "%s%llx.%llx", to->size == before ? "" : "_",
                           (unsigned long long)lane->partition, (unsigned long long)lane->next);
    }
    follower->position_size = to->size - before;
    follower->unsaid = 0;
    return status;
}
