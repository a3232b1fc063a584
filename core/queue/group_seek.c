/* SPDX-License-Identifier: Apache-2.0 */
/* Moving a group's position: find where to, wait until nothing of the old position is on its way
 * to storage (units that come meanwhile are refused), begin the windows anew, and answer when
 * snapshots that say so are stored.
 *
 *   FINDING --offsets known--> FOUND --no write, no move under way--> APPLIED --> WRITING --> ended
 */
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/heap.h"

enum seek_phase { FINDING, FOUND, APPLIED, WRITING };

struct seek_part {
    struct seek_job *job;
    struct log_read read;
    bool wanted;
    uint64_t to;
};

struct seek_job {
    struct group *group;
    struct group_seek *seek; /* NULL: answered, waits for its reads */
    enum seek_phase phase;
    bool started;
    uint32_t reads;
    enum status failure;
    uint32_t part_count;
    struct seek_part parts[];
};

static void job_end(struct group *group, enum status status, bool inside)
{
    struct seek_job *job = group->seek;
    if (job->seek != NULL && inside)
        request_complete(&job->seek->request, status);
    else if (job->seek != NULL)
        group_answer(group, &job->seek->request, status);
    job->seek = NULL;
    if (job->reads > 0)
        return;
    group->seek = NULL;
    heap_free(job);
}

/* Finding */

static uint64_t bounded(const struct part *part, uint64_t to)
{
    uint64_t start = atomic_load_explicit(&part->bounds->start, memory_order_relaxed);
    return to < start ? start : to;
}

static uint64_t end_of(const struct part *part)
{
    uint64_t end = atomic_load_explicit(&part->bounds->end, memory_order_relaxed);
    return end > window_end(part->window) ? end : window_end(part->window);
}

/* The first record at or after the time. */
static uint64_t found_at(const struct log_read *read)
{
    for (uint32_t i = 0; i < read->count; i++)
        if (read->batches[i]->append_time_ms >= read->time_ms)
            return read->batches[i]->base_offset;
    return read->end;
}

static void read_done(struct request *request, enum status status)
{
    struct seek_part *target = container_of(request, struct seek_part, read.request);
    struct seek_job *job = target->job;
    struct group *group = job->group;
    target->to = found_at(&target->read);
    for (uint32_t i = 0; i < target->read.count; i++)
        batch_unref(target->read.batches[i]);
    if (status != STATUS_OK)
        job->failure = status;
    job->reads--;
    group->jobs--;
    group_wake(group);
    if (job->seek == NULL)
        job_end(group, STATUS_OK, false);
    else if (job->reads == 0 && job->failure != STATUS_OK)
        job_end(group, job->failure, false);
    else if (job->reads == 0)
        job->phase = FOUND;
}

static void find_time(struct seek_job *job, struct seek_part *target, const struct part *part)
{
    struct group *group = job->group;
    job->reads++;
    group->jobs++;
    target->read = (struct log_read){
        .partition = part->id, .by_time = true, .time_ms = job->seek->time_ms, .max_bytes = 1};
    request_init(&target->read.request, group->loop, read_done);
    log_read(group->worker, &target->read);
}

static void find(struct seek_job *job)
{
    struct group *group = job->group;
    const struct group_seek *seek = job->seek;
    job->started = true;
    job->phase = seek->to == SEEK_TIME ? FINDING : FOUND;
    for (uint32_t i = 0; i < job->part_count; i++) {
        struct seek_part *target = &job->parts[i];
        const struct part *part = &group->parts[i];
        target->job = job;
        target->wanted = seek->to != SEEK_OFFSET || seek->partition == part->id;
        switch (seek->to) {
        case SEEK_EARLIEST:
            target->to = bounded(part, 0);
            break;
        case SEEK_LATEST:
            target->to = end_of(part);
            break;
        case SEEK_OFFSET:
            target->to = bounded(part, seek->offset);
            if (target->wanted && target->to > end_of(part))
                job->failure = STATUS_OUT_OF_RANGE;
            break;
        case SEEK_TIME:
            find_time(job, target, part);
            break;
        }
    }
    if (job->failure != STATUS_OK)
        job_end(group, job->failure, false);
}

/* Applying */

static bool is_quiet(const struct group *group)
{
    if (group->writing || group->rewrite_ms != 0 || !list_is_empty(&group->units))
        return false;
    for (uint32_t i = 0; i < group->part_count; i++)
        if (!group->parts[i].dead && group->parts[i].move != NULL)
            return false;
    return true;
}

static void apply(struct seek_job *job)
{
    for (uint32_t i = 0; i < job->part_count; i++) {
        struct part *part = &job->group->parts[i];
        if (!job->parts[i].wanted)
            continue;
        window_restart(part->window, bounded(part, job->parts[i].to));
        part->must_rewrite = true;
        feed_restart(part);
    }
    job->phase = APPLIED;
}

void seek_step(struct group *group)
{
    if (group->seek != NULL && !group->seek->started)
        find(group->seek);
    if (group->seek != NULL && group->seek->phase == FOUND && is_quiet(group))
        apply(group->seek);
}

void seek_flushed(struct group *group)
{
    if (group->seek != NULL && group->seek->phase == APPLIED)
        group->seek->phase = WRITING;
}

void seek_written(struct group *group, enum status status)
{
    if (group->seek != NULL && group->seek->phase == WRITING)
        job_end(group, status, false);
}

void seek_delayed(struct group *group, enum status status)
{
    if (group->seek != NULL && group->seek->phase == FOUND)
        job_end(group, status, false);
}

void seek_refuse(struct group *group, enum status status)
{
    if (group->seek != NULL)
        job_end(group, status, true);
}

void group_seek(struct group *group, struct group_seek *seek)
{
    CHECK(loop_is_home(group->loop));
    CHECK(group->state != GROUP_CLOSING);
    const struct part *part = seek->to == SEEK_OFFSET ? group_part(group, seek->partition) : NULL;
    enum status status = group->broken != STATUS_OK             ? group->broken
                         : group->spec->mode == GROUP_BROADCAST ? STATUS_UNSUPPORTED
                         : group->seek != NULL                  ? STATUS_BUSY
                         : seek->to != SEEK_OFFSET              ? STATUS_OK
                         : part == NULL || part->dead           ? STATUS_NOT_FOUND
                                                                : STATUS_OK;
    if (status != STATUS_OK) {
        request_complete(&seek->request, status);
        return;
    }
    uint32_t parts = group->lanes[LANE_RECORDS].part_count;
    struct seek_job *job = heap_new(sizeof *job + parts * sizeof job->parts[0]);
    job->group = group;
    job->seek = seek;
    job->part_count = parts;
    group->seek = job;
    group_wake(group);
}
