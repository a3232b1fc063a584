/* SPDX-License-Identifier: Apache-2.0 */
/* Why a record is, or is not, handed out. */
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/pack.h"

/* Looks for the row that says where a record that is done was moved to. */
struct explain_job {
    struct group *group;
    struct group_explain *explain;
    struct storage_scan scan;
    uint8_t first[25], end[25];
};

static void scan_done(struct request *request, enum status status)
{
    struct explain_job *job = container_of(request, struct explain_job, scan.request);
    struct group *group = job->group;
    struct group_explain *explain = job->explain;
    struct span key, value;
    size_t position = 0;
    explain->fate = RECORD_ACKNOWLEDGED;
    if (status == STATUS_OK && storage_scan_next(&job->scan, &position, &key, &value) &&
        value.size == MOVED_ROW) {
        explain->fate = RECORD_DEAD_LETTERED;
        explain->dead_offset = load_u64(value.data + 1);
    }
    if (status == STATUS_OK)
        blob_unref(job->scan.rows);
    group->jobs--;
    group_wake(group);
    group_answer(group, &explain->request, status);
    heap_free(job);
}

static void find_moved(struct part *part, struct group_explain *explain)
{
    struct explain_job *job = heap_new(sizeof *job);
    job->group = part->group;
    job->explain = explain;
    job->scan.first = moved_key(job->first, part, explain->offset);
    job->scan.end = moved_key(job->end, part, explain->offset + 1);
    job->scan.limit = 1;
    part->group->jobs++;
    request_init(&job->scan.request, part->group->loop, scan_done);
    log_rows_scan(part->group->log, &job->scan);
}

/* True: fate is known. */
static bool look_at(const struct part *part, struct group_explain *explain)
{
    const struct window *window = part->window;
    uint64_t until_ms;
    if (explain->offset < atomic_load_explicit(&part->bounds->start, memory_order_relaxed)) {
        explain->fate = RECORD_BEHIND_RETENTION;
        return true;
    }
    if (explain->offset >= atomic_load_explicit(&part->bounds->end, memory_order_relaxed)) {
        explain->fate = RECORD_NOT_COMMITTED;
        return true;
    }
    explain->failures = window_failures(window, explain->offset, NULL);
    switch (window_look_at(window, explain->offset, &until_ms)) {
    case WINDOW_IS_AVAILABLE:
        explain->fate = RECORD_AVAILABLE;
        return true;
    case WINDOW_IS_LEASED:
        explain->fate = RECORD_LEASED;
        explain->until_ms =
            clock_wall_ms() + (int64_t)until_ms - (int64_t)loop_now_ms(part->group->loop);
        return true;
    case WINDOW_IS_PARKED:
        explain->fate = until_ms != 0 ? RECORD_DELAYED : RECORD_PARKED;
        explain->until_ms = (int64_t)until_ms;
        return true;
    case WINDOW_IS_DONE:
        break;
    }
    return false;
}

void explain_apply(struct group *group, struct group_explain *explain)
{
    explain->failures = 0;
    explain->until_ms = 0;
    explain->key[0] = '\0';
    explain->dead_offset = 0;
    struct part *part = group_part(group, explain->partition);
    if (part == NULL || look_at(part, explain))
        request_complete(&explain->request, part == NULL ? STATUS_NOT_FOUND : STATUS_OK);
    else
        find_moved(part, explain);
}

void group_explain(struct group *group, struct group_explain *explain)
{
    CHECK(loop_is_home(group->loop));
    CHECK(group->state != GROUP_CLOSING);
    redrive_progress(group, &explain->redrive);
    if (group->broken != STATUS_OK || explain->progress_only)
        request_complete(&explain->request, group->broken);
    else if (group->state == GROUP_OPENING)
        list_push(&group->early_explains, &explain->link);
    else
        explain_apply(group, explain);
}
