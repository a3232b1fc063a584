/* SPDX-License-Identifier: Apache-2.0 */
/* Why a record is, or is not, handed out. */
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"

/* Looks for the row that says where a record that is done was moved to, and into the record. */
struct explain_job {
    struct group *group;
    struct part *part;
    struct group_explain *explain;
    struct storage_scan scan;
    uint8_t first[25], end[25];
    struct log_read read;
    uint64_t key; /* fifo: of the record */
    uint64_t at;  /* fifo: records from there on may be ahead of it */
};

/* True: the window knows, or (AVAILABLE) nothing in it stands against handing it out. */
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

static void job_end(struct explain_job *job, enum status status)
{
    struct group *group = job->group;
    struct group_explain *explain = job->explain;
    group->jobs--;
    heap_free(job);
    group_wake(group);
    group_answer(group, &explain->request, status);
}

static void drop_batches(struct explain_job *job)
{
    for (uint32_t i = 0; i < job->read.count; i++)
        batch_unref(job->read.batches[i]);
    job->read.count = 0;
}

static void read_from(struct explain_job *job, uint64_t offset,
                      void (*done)(struct request *request, enum status status))
{
    job->read = (struct log_read){.partition = job->part->id, .offset = offset};
    request_init(&job->read.request, job->group->loop, done);
    log_read(job->group->worker, &job->read);
}

/* ------------------------------------------------ fifo: is something ahead of it? */

static void blocked(struct explain_job *job, bool too_far)
{
    job->explain->fate = RECORD_BLOCKED;
    job->explain->too_far = too_far;
}

static bool is_wanted(const struct group *group, const struct record *record)
{
    return !feed_is_expired(record, clock_wall_ms()) && filter_wants(group, record);
}

/* True: the answer is known. */
static bool look_ahead(struct explain_job *job)
{
    const struct window *window = job->part->window;
    for (uint32_t b = 0; b < job->read.count; b++) {
        const struct batch *batch = job->read.batches[b];
        for (uint32_t i = batch_find(batch, job->at); i < batch->record_count; i++) {
            struct record record;
            uint64_t until_ms;
            batch_record(batch, i, &record);
            job->at = record.offset + 1;
            if (record.offset >= job->explain->offset)
                return true;
            if (order_key(&record, NULL) != job->key ||
                window_look_at(window, record.offset, &until_ms) == WINDOW_IS_DONE ||
                !is_wanted(job->group, &record))
                continue;
            blocked(job, false);
            return true;
        }
    }
    return false;
}

/* Records that the group has not met, because nobody has asked for so many yet. */
static void read_ahead(struct request *request, enum status status)
{
    struct explain_job *job = container_of(request, struct explain_job, read.request);
    bool none = status != STATUS_OK || job->read.count == 0;
    bool known = none || look_ahead(job);
    drop_batches(job);
    if (known || job->group->state != GROUP_SERVING)
        job_end(job, STATUS_OK);
    else
        read_from(job, job->at, read_ahead);
}

static void explain_order(struct explain_job *job)
{
    const struct part *part = job->part;
    uint64_t offset = job->explain->offset;
    job->at = part->met > window_oldest(part->window) ? part->met : window_oldest(part->window);
    if (offset < job->at ? fifo_is_blocked(part->fifo, offset) : fifo_has_key(part->fifo, job->key))
        blocked(job, false);
    else if (offset >= job->at &&
             (offset - job->at >= LIMIT_LOOK_AHEAD || fifo_waiting(part->fifo) >= LIMIT_LOOK_AHEAD))
        blocked(job, true);
    if (offset <= job->at || job->explain->fate == RECORD_BLOCKED)
        job_end(job, STATUS_OK);
    else
        read_from(job, job->at, read_ahead);
}

/* ------------------------------------------------ what the record says */

/* Fate is AVAILABLE or ACKNOWLEDGED. */
static void explain_record(struct explain_job *job, const struct record *record)
{
    struct group *group = job->group;
    struct group_explain *explain = job->explain;
    bool done = explain->fate == RECORD_ACKNOWLEDGED;
    struct span key;
    if (!filter_wants(group, record)) {
        explain->fate = RECORD_FILTERED;
    } else if (feed_is_expired(record, clock_wall_ms()) &&
               (!done || feed_has_expired(job->part, explain->offset))) {
        explain->fate = RECORD_EXPIRED;
    } else if (!done && job->part->fifo != NULL) {
        job->key = order_key(record, &key);
        size_t size = key.size < sizeof explain->key ? key.size : sizeof explain->key - 1;
        if (size > 0)
            memcpy(explain->key, key.data, size);
        explain->key[size] = '\0';
        drop_batches(job);
        explain_order(job);
        return;
    }
    drop_batches(job);
    job_end(job, STATUS_OK);
}

static void record_read(struct request *request, enum status status)
{
    struct explain_job *job = container_of(request, struct explain_job, read.request);
    struct group_explain *explain = job->explain;
    bool serving = job->group->state == GROUP_SERVING;
    struct record record = {0};
    const struct batch *batch =
        status == STATUS_OK && job->read.count > 0 ? job->read.batches[0] : NULL;
    uint32_t index = batch == NULL ? 0 : batch_find(batch, explain->offset);
    bool found = batch != NULL && index < batch->record_count;
    if (found)
        batch_record(batch, index, &record);
    /* It may have been handed out meanwhile. */
    bool known = explain->fate == RECORD_AVAILABLE && serving &&
                 (!look_at(job->part, explain) || explain->fate != RECORD_AVAILABLE);
    if (found && record.offset == explain->offset && serving && !known) {
        explain_record(job, &record);
        return;
    }
    drop_batches(job);
    job_end(job, STATUS_OK);
}

static void moved_scanned(struct request *request, enum status status)
{
    struct explain_job *job = container_of(request, struct explain_job, scan.request);
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
    if (status != STATUS_OK || explain->fate == RECORD_DEAD_LETTERED || job->part->dead)
        job_end(job, status);
    else
        read_from(job, explain->offset, record_read);
}

static void job_start(struct part *part, struct group_explain *explain, bool done)
{
    struct explain_job *job = heap_new(sizeof *job);
    job->group = part->group;
    job->part = part;
    job->explain = explain;
    part->group->jobs++;
    if (!done) {
        read_from(job, explain->offset, record_read);
        return;
    }
    job->scan.first = moved_key(job->first, part, explain->offset);
    job->scan.end = moved_key(job->end, part, explain->offset + 1);
    job->scan.limit = 1;
    request_init(&job->scan.request, part->group->loop, moved_scanned);
    log_rows_scan(part->group->log, &job->scan);
}

void explain_apply(struct group *group, struct group_explain *explain)
{
    explain->failures = 0;
    explain->until_ms = 0;
    explain->key[0] = '\0';
    explain->dead_offset = 0;
    explain->too_far = false;
    struct part *part = group_part(group, explain->partition);
    bool known = part != NULL && look_at(part, explain);
    bool whole = known && (explain->fate != RECORD_AVAILABLE || part->dead);
    if (part == NULL || whole)
        request_complete(&explain->request, part == NULL ? STATUS_NOT_FOUND : STATUS_OK);
    else
        job_start(part, explain, !known);
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
