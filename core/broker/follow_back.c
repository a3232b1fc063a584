/* SPDX-License-Identifier: Apache-2.0 */
/* A lane that begins at the last record its follower wants: it looks through stretches before the
 * end, each before the one it has looked through, until one has some. */
#include "core/broker/follow_impl.h"

enum { STRETCH_FIRST = 64, STRETCH_MAX = 16384 };

/* Then it goes on from there as any other does. */
static void back_end(struct lane *lane)
{
    lane->looks_back = false;
    lane->next = lane->last;
}

static void back_before(struct lane *lane, uint64_t end)
{
    uint64_t start = atomic_load(&lane->bounds->start);
    if (end <= start) {
        back_end(lane);
        return;
    }
    lane->back_from = end - start > lane->back_width ? end - lane->back_width : start;
    lane->back_to = end;
    lane->next = lane->back_from;
    if (lane->back_width < STRETCH_MAX)
        lane->back_width *= 4;
}

void lane_look_back(struct lane *lane, uint64_t end)
{
    lane->looks_back = true;
    lane->last = end;
    lane->back_width = STRETCH_FIRST;
    back_before(lane, end);
}

/* Up to next there is nothing more to look at. */
static void back_on(struct lane *lane, uint64_t next)
{
    if (next > lane->next)
        lane->next = next;
    if (lane->next < lane->back_to)
        return;
    if (lane->last < lane->back_to)
        back_end(lane);
    else
        back_before(lane, lane->back_from);
}

void lane_took_back(struct lane *lane, const struct log_read *read)
{
    uint64_t next = read->count == 0 ? lane->back_to : lane->next;
    for (uint32_t i = 0; i < read->count; i++) {
        struct batch *batch = read->batches[i];
        for (uint32_t k = batch_find(batch, lane->next); k < batch->record_count; k++) {
            struct record record;
            batch_record(batch, k, &record);
            if (record.offset < lane->back_to && follower_wants(lane->follower, &record))
                lane->last = record.offset;
        }
        next = batch_end(batch);
    }
    back_on(lane, next);
}

void lane_skipped_back(struct lane *lane, uint64_t start)
{
    back_on(lane, start);
}
