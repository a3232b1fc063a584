/* SPDX-License-Identifier: Apache-2.0 */
/* Dead letters back to the queue, in batches, one after the other: a batch is appended to the
 * partition that its records came from, in one unit with the rows that say that the dead letters
 * are done. What is leased meanwhile stays with who has it. */
#include "core/queue/group_impl.h"

#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/trace.h"

struct redrive {
    struct redrive_progress progress;
    uint64_t at, end;  /* of dead letters not looked at yet */
    uint64_t *offsets; /* NULL: all */
    uint32_t offset_count, offset_next;
    char *label; /* NULL: any */
    struct label_filter filter;
    uint64_t partition; /* where the batch that is being made goes */
};

void redrive_free(struct group *group)
{
    struct redrive *redrive = group->redrive;
    group->redrive = NULL;
    if (redrive == NULL)
        return;
    heap_free(redrive->offsets);
    heap_free(redrive->label);
    heap_free(redrive);
}

void redrive_progress(const struct group *group, struct redrive_progress *progress)
{
    *progress = group->redrive == NULL ? (struct redrive_progress){0} : group->redrive->progress;
}

static struct part *dead_part(struct group *group)
{
    return group->lanes[LANE_DEAD].parts;
}

/* The next dead letter to look at; end when there is none. Those that were asked for by number and
 * cannot be had are counted. */
static uint64_t next_offset(struct group *group)
{
    struct redrive *redrive = group->redrive;
    const struct window *window = dead_part(group)->window;
    if (redrive->offsets == NULL)
        return window_next_available(window, redrive->at);
    for (; redrive->offset_next < redrive->offset_count; redrive->offset_next++) {
        uint64_t offset = redrive->offsets[redrive->offset_next];
        if (offset < redrive->at) /* twice in the list, or done */
            continue;
        if (offset < redrive->end && window_next_available(window, offset) == offset)
            return offset;
        redrive->progress.failed++;
    }
    return redrive->end;
}

static void passed(struct redrive *redrive, uint64_t offset)
{
    redrive->at = offset + 1;
}

static void sent(struct move *move, enum status status)
{
    struct group *group = move->group;
    struct redrive *redrive = group->redrive;
    if (status == STATUS_OK) {
        redrive->progress.moved += move->count;
    } else {
        trace(TRACE_WARN, "redrive of group %s ends: %s", group->spec->name, status_text(status));
        for (uint32_t i = 0; i < move->count; i++)
            window_unclaim(move->from->window, move->offsets[i]);
        redrive->progress.failed += move->count;
        redrive->progress.running = false;
    }
    move_free(move);
}

/* Where a dead letter came from; the queue's first partition when that cannot be told. */
static uint64_t origin(const struct group *group, const struct record *record)
{
    struct reader at = reader_of(record->headers);
    struct header header;
    uint64_t partition = 0;
    bool ours = false;
    while (record_next_header(&at, &header)) {
        ours |= span_is(header.name, HEADER_DEAD);
        if (!ours || !span_is(header.name, "dead-letter-partition"))
            continue;
        for (size_t i = 0; i < header.value.size && i < 19; i++)
            partition = partition * 10 + (uint64_t)(header.value.data[i] - '0');
    }
    const struct queue *queue = group->queue;
    return partition - queue->first_partition < queue->partition_count ? partition
                                                                       : queue->first_partition;
}

/* False: the batch ends before this record. */
static bool add(struct move *move, const struct record *record)
{
    struct group *group = move->group;
    struct redrive *redrive = group->redrive;
    struct window *window = move->from->window;
    if (redrive->label != NULL && !label_matches(&redrive->filter, record)) {
        redrive->progress.failed += redrive->offsets != NULL;
        passed(redrive, record->offset);
        return true;
    }
    uint64_t partition = origin(group, record);
    if (move->count > 0 && partition != redrive->partition)
        return false;
    if (!window_claim(window, record->offset)) {
        redrive->progress.failed++; /* too far ahead of one that has been leased for long */
        passed(redrive, record->offset);
        return true;
    }
    if (!move_add(move, record, NULL, 0)) {
        window_unclaim(window, record->offset);
        return false;
    }
    redrive->partition = partition;
    redrive->progress.total += redrive->offsets == NULL && redrive->label != NULL;
    passed(redrive, record->offset);
    return true;
}

static void collect(struct move *move)
{
    struct group *group = move->group;
    struct redrive *redrive = group->redrive;
    struct record record;
    uint64_t offset;
    while ((offset = next_offset(group)) < redrive->end) {
        enum status found = move_find(move, offset, &record);
        if (found == STATUS_OK && add(move, &record))
            continue;
        if (found != STATUS_NOT_FOUND)
            return;
        feed_skip_unreadable(move->from, offset, offset + 1);
        passed(redrive, offset);
    }
}

static void read(struct move *move, enum status status)
{
    struct group *group = move->from->group;
    if (status != STATUS_OK)
        move_unread(move, status);
    else if (group->state == GROUP_SERVING)
        collect(move);
    if (move->count > 0)
        move_send(move, group->redrive->partition, sent);
    else
        move_free(move);
}

void redrive_step(struct group *group)
{
    struct redrive *redrive = group->redrive;
    struct part *part = dead_part(group);
    if (redrive == NULL || !redrive->progress.running || part->move != NULL ||
        part->move_retry_ms != 0)
        return;
    uint64_t offset = next_offset(group);
    if (offset >= redrive->end) {
        redrive->progress.running = false;
        return;
    }
    move_read(move_new(part), offset, read);
}

static int compare_offsets(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

static void begin(struct group *group, const struct group_redrive *wish)
{
    const struct window *window = dead_part(group)->window;
    redrive_free(group);
    struct redrive *redrive = group->redrive = heap_new(sizeof *redrive);
    redrive->end = window_end(window);
    redrive->progress.running = true;
    if (wish->label.size > 0) {
        redrive->label = heap_text((const char *)wish->label.data, wish->label.size);
        redrive->filter = (struct label_filter){
            .labels = {span_of(redrive->label, wish->label.size)}, .count = 1};
    } else if (wish->all) {
        redrive->progress.total = window_backlog(window) - window_in_flight(window);
    }
    if (wish->all)
        return;
    redrive->progress.total = wish->offset_count;
    redrive->offset_count = wish->offset_count;
    redrive->offsets = heap_array((size_t)wish->offset_count + 1, sizeof *redrive->offsets);
    if (wish->offset_count == 0)
        return;
    memcpy(redrive->offsets, wish->offsets, wish->offset_count * sizeof *wish->offsets);
    qsort(redrive->offsets, wish->offset_count, sizeof *redrive->offsets, compare_offsets);
}

void redrive_apply(struct group *group, struct group_redrive *redrive)
{
    bool busy = group->redrive != NULL && group->redrive->progress.running;
    if (!busy)
        begin(group, redrive);
    request_complete(&redrive->request, busy ? STATUS_BUSY : STATUS_OK);
    group_wake(group);
}

void group_redrive(struct group *group, struct group_redrive *redrive)
{
    CHECK(loop_is_home(group->loop));
    CHECK(group->state != GROUP_CLOSING);
    if (group->broken != STATUS_OK)
        request_complete(&redrive->request, group->broken);
    else if (group->lanes[LANE_DEAD].part_count == 0)
        request_complete(&redrive->request, STATUS_UNSUPPORTED);
    else if (group->state == GROUP_OPENING)
        list_push(&group->early_redrives, &redrive->link);
    else
        redrive_apply(group, redrive);
}
