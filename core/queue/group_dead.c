/* SPDX-License-Identifier: Apache-2.0 */
/* Dead letters: what has failed too often, or was rejected, moves to the group's own partition. Its
 * failures are stored before, so that a move that a crash has cut short begins again. */
#include "core/queue/group_impl.h"

#include <stdio.h>

#include "core/base/clock.h"
#include "core/base/reader.h"
#include "core/base/trace.h"

enum { NUMBER_SIZE = 24, HEADERS = 10 };

void dead_limit(struct group *group)
{
    group->limit_changed = false;
    uint32_t failures_max = queue_failures_max(group->queue, group->spec);
    for (uint32_t i = 0; i < group->lanes[LANE_RECORDS].part_count; i++)
        window_limit_failures(group->parts[i].window, failures_max);
}

static void moved(struct move *move, enum status status)
{
    struct part *part = move->from;
    struct group *group = part->group;
    if (status == STATUS_OK) {
        trace(TRACE_DEBUG, "group %s has %u more dead letters", group->spec->name, move->count);
    } else if (status_is_retriable(status) || status == STATUS_NOT_FOUND) {
        trace(TRACE_WARN, "dead letters of group %s wait: %s", group->spec->name,
              status_text(status));
        part->move_retry_ms = loop_now_ms(group->loop) + MOVE_RETRY_MS;
    } else {
        group_break(group, status);
    }
    move_free(move);
}

static struct span number_text(char *text, int64_t number)
{
    return span_of(text, (size_t)snprintf(text, NUMBER_SIZE, "%lld", (long long)number));
}

/* Condition and description of whoever rejected it; what is empty was not said. */
static uint32_t add_error(const struct part *part, uint64_t offset, struct header *headers)
{
    static const char *const names[] = {"dead-letter-error", "dead-letter-description"};
    struct reader at = reader_of(reason_of(part, offset));
    uint32_t count = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names && reader_left(&at) > 0; i++) {
        struct span text = reader_block(&at);
        if (!at.failed && text.size > 0)
            headers[count++] = (struct header){span_from_text(names[i]), text};
    }
    return count;
}

static bool add(struct move *move, const struct record *record)
{
    const struct part *part = move->from;
    const struct group *group = part->group;
    char numbers[4][NUMBER_SIZE];
    bool rejected;
    uint32_t failures = window_failures(part->window, record->offset, &rejected);
    struct header more[HEADERS] = {
        {span_from_text(HEADER_DEAD), span_of("", 0)},
        {span_from_text("dead-letter-reason"), span_from_text(rejected ? "rejected" : "failures")},
        {span_from_text("dead-letter-queue"), span_from_text(group->queue->name)},
        {span_from_text("dead-letter-group"), span_from_text(group->spec->name)},
        {span_from_text("dead-letter-partition"), number_text(numbers[0], (int64_t)part->id)},
        {span_from_text("dead-letter-offset"), number_text(numbers[1], (int64_t)record->offset)},
        {span_from_text("dead-letter-count"), number_text(numbers[2], failures)},
        {span_from_text("dead-letter-time"), number_text(numbers[3], clock_wall_ms())},
    };
    uint32_t count = HEADERS - 2 + add_error(part, record->offset, &more[HEADERS - 2]);
    return move_add(move, record, more, count);
}

static void copy(struct move *move)
{
    struct record record;
    for (uint32_t i = 0; i < move->wanted_count; i++) {
        uint64_t offset = move->wanted[i];
        switch (move_find(move, offset, &record)) {
        case STATUS_OK:
            if (!add(move, &record))
                return;
            break;
        case STATUS_NOT_FOUND:
            feed_skip_unreadable(move->from, offset, offset + 1);
            break;
        default:
            break; /* another read will have it */
        }
    }
}

static void read(struct move *move, enum status status)
{
    struct part *part = move->from;
    if (status == STATUS_OK)
        copy(move);
    else
        move_unread(move, status);
    if (move->count > 0 && part->group->state == GROUP_SERVING)
        move_send(move, part->group->spec->dead_partition, moved);
    else
        move_free(move);
}

static void part_step(struct part *part)
{
    uint64_t offset;
    if (part->move != NULL || part->move_retry_ms != 0 ||
        window_spent(part->window, &offset, 1) == 0)
        return;
    struct move *move = move_new(part);
    move->wanted_count = window_spent(part->window, move->wanted, MOVE_MAX);
    move_read(move, offset, read);
}

void dead_step(struct group *group)
{
    struct group_lane *lane = &group->lanes[LANE_RECORDS];
    bool moving = false;
    for (uint32_t i = 0; i < lane->part_count; i++)
        moving |= lane->parts[i].move != NULL;
    if (group->limit_changed && !moving)
        dead_limit(group);
    /* A seek waits until nothing moves. */
    for (uint32_t i = 0; i < lane->part_count && !group->limit_changed && group->seek == NULL; i++)
        part_step(&lane->parts[i]);
}
