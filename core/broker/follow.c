/* SPDX-License-Identifier: Apache-2.0 */
/* Followers: what is shown, from notices and from reads. follow_impl.h has the picture. */
#include "core/base/heap.h"
#include "core/broker/follow_impl.h"
#include "core/broker/topic.h"

enum {
    FOLLOW_READ_BYTES = 256 * 1024,
    RETRY_MS = 500, /* after a read that failed */
    LOOK_MS = 64,   /* looks for room at least so often */
    FRAMES = 4
};

/* A read under way, and before it a look at what the group has done; outlives the follower. */
struct follow_read {
    struct log_read read;
    struct group_survey survey;
    bool surveyed;
    struct broker_worker *worker;
    struct follower *follower; /* NULL once it has gone */
};

/* ------------------------------------------------ one record */

bool follower_may_be_shown(const struct follower *follower)
{
    return follower->credit > 0 && !(follower->settled_later &&
                                     follower->client->follow_unsettled >= LIMIT_FOLLOW_UNSETTLED);
}

static bool has_room(const struct follower *follower)
{
    struct client *client = follower->client;
    return follower_may_be_shown(follower) &&
           (client->ops->queued == NULL || client->ops->queued(client) < LIMIT_CLIENT_OUT_BYTES);
}

/* Frames of one record. */
struct follow_frames {
    const struct follow_ops *ops[FRAMES];
    uint32_t variants[FRAMES];
    struct blob *frames[FRAMES];
    unsigned count;
};

static void frames_clear(struct follow_frames *frames)
{
    while (frames->count > 0)
        blob_unref(frames->frames[--frames->count]);
}

static struct blob *frame_for(struct follow_frames *frames, struct follower *follower,
                              const struct follow_place *place, const struct record *record)
{
    uint32_t variant = follower->ops->variant == NULL ? 0 : follower->ops->variant(follower);
    for (unsigned i = 0; i < frames->count; i++)
        if (frames->ops[i] == follower->ops && frames->variants[i] == variant)
            return frames->frames[i];
    if (frames->count == FRAMES)
        blob_unref(frames->frames[--frames->count]);
    frames->ops[frames->count] = follower->ops;
    frames->variants[frames->count] = variant;
    return frames->frames[frames->count++] = follower->ops->encode(variant, place, record);
}

static bool selects(const struct follower *follower, const struct selector *selector,
                    const struct record *record)
{
    return selection_matches(follower->client, selector, record);
}

/* A selector may take long; others' turn comes before the next. */
static bool has_time(const struct follower *follower)
{
    return (follower->selector == NULL && follower->group_selector == NULL) ||
           selection_may(follower->client);
}

bool follower_wants(const struct follower *follower, const struct record *record)
{
    struct span topic;
    if (follower->over != STATUS_OK)
        return false; /* its right may have gone: not even what comes live */
    if (follower->filter.size > 0) {
        if (!deliver_topic(record, worker_wall_ms(follower->worker), &topic) ||
            !topic_matches(follower->filter, topic))
            return false;
    } else if (deliver_has_expired(record, worker_wall_ms(follower->worker))) {
        return false;
    }
    return record->append_time_ms >= follower->time_ms &&
           label_matches(&follower->labels, record) &&
           label_matches(&follower->group_labels.filter, record) &&
           !(follower->no_local && deliver_is_own(follower->client, record)) &&
           selects(follower, follower->group_selector, record) &&
           selects(follower, follower->selector, record);
}

/* False: there is no room for it, or no time to look at it; the lane stays before it. */
static bool show(struct lane *lane, const struct record *record, struct follow_frames *frames)
{
    struct follower *follower = lane->follower;
    if (!has_time(follower))
        return false;
    if (follower_wants(follower, record)) {
        if (!has_room(follower))
            return false;
        struct follow_place place = {.queue = lane->queue, .partition = lane->number};
        struct blob *frame = frame_for(frames, follower, &place, record);
        lane->next = record->offset + 1;
        if (frame == NULL)
            return true;
        follower->credit--;
        if (follower->settled_later) {
            follower->unsettled++;
            follower->client->follow_unsettled++;
        }
        follower->client->figures->delivered_now++;
        follower->unsaid += frame->size;
        follower->ops->deliver(follower, frame, &place, record);
    }
    lane->next = record->offset + 1;
    return true;
}

/* ------------------------------------------------ live */

static void lane_falls_behind(struct lane *lane)
{
    lane->live = false;
    link_remove(&lane->of_watch);
    list_push(&lane->watch->behind, &lane->of_watch);
    lane->follower->behind++;
    lane->follower->told_caught_up = false;
    follower_wake(lane->follower);
}

void follow_notice(struct broker_worker *worker, uint64_t partition, struct batch *batch)
{
    struct watch *watch = map_get(&worker->watches, key_of(&partition));
    if (watch == NULL)
        return;
    watch->end = batch_end(batch);
    worker->delivering = true;
    for (uint32_t i = 0; i < batch->record_count && !list_is_empty(&watch->live); i++) {
        struct record record;
        struct follow_frames frames = {0};
        batch_record(batch, i, &record);
        list_each_safe(link, following, &watch->live)
        {
            struct lane *lane = container_of(link, struct lane, of_watch);
            if (record.offset >= lane->next && !show(lane, &record, &frames))
                lane_falls_behind(lane);
        }
        frames_clear(&frames);
    }
    worker->delivering = false;
    list_each(link, &watch->live)
    {
        struct lane *lane = container_of(link, struct lane, of_watch);
        if (lane->next < watch->end)
            lane->next = watch->end;
    }
}

/* ------------------------------------------------ behind */

/* False: no room for what comes next, or it is not known whether it is done. */
static bool take_in_batch(struct lane *lane, const struct follow_read *read, struct batch *batch)
{
    uint64_t end = read->surveyed ? read->survey.from + SURVEY_OFFSETS : UINT64_MAX;
    bool skipped = !label_footer_may_match(&lane->follower->labels, batch);
    for (uint32_t k = batch_find(batch, lane->next); !skipped && k < batch->record_count; k++) {
        struct record record;
        struct follow_frames frames = {0};
        batch_record(batch, k, &record);
        if (record.offset >= end)
            break;
        if (read->surveyed && survey_is_done(&read->survey, record.offset))
            continue;
        bool fits = show(lane, &record, &frames);
        frames_clear(&frames);
        if (!fits)
            return false;
    }
    uint64_t known = batch_end(batch) < end ? batch_end(batch) : end;
    if (known > lane->next)
        lane->next = known;
    return known < end;
}

static void take_in(struct lane *lane, const struct follow_read *from)
{
    const struct log_read *read = &from->read;
    for (uint32_t i = 0; i < read->count; i++) {
        struct batch *batch = read->batches[i];
        if (lane->by_time)
            lane->next = batch->base_offset > read->start ? batch->base_offset : read->start;
        lane->by_time = false;
        if (!take_in_batch(lane, from, batch))
            return;
    }
}

static void lane_goes_live(struct lane *lane, uint64_t end)
{
    if (lane->by_time || lane->next < end)
        lane->next = end; /* nothing is that new yet, or there is a gap */
    lane->by_time = false;
    if (lane->next < lane->watch->end)
        return; /* noticed meanwhile: reads on */
    lane->live = true;
    link_remove(&lane->of_watch);
    list_push(&lane->watch->live, &lane->of_watch);
    lane->follower->behind--;
}

static void lane_lost(struct lane *lane, uint64_t start)
{
    struct follower *follower = lane->follower;
    uint64_t records = start - lane->next;
    struct follow_place place = {.queue = lane->queue, .partition = lane->number};
    metric_add(follower->worker->broker->metrics.dropped_retention, (int64_t)records);
    lane->next = start;
    if (follower->ops->lost != NULL)
        follower->ops->lost(follower, &place, records);
}

static void try_later(struct follower *follower, uint64_t in_ms)
{
    if (!loop_timer_is_running(&follower->look))
        loop_timer_start(follower->worker->loop, &follower->look, in_ms);
}

static void lane_failed(struct lane *lane, enum status status)
{
    struct follower *follower = lane->follower;
    if (status == STATUS_NOT_FOUND || status == STATUS_DENIED || status == STATUS_SHUTTING_DOWN) {
        follower_end(follower, status);
    } else {
        follower->failed = true;
        try_later(follower, RETRY_MS);
    }
}

/* What a read brought, or why it did not. */
static void lane_read(struct lane *lane, const struct follow_read *from, enum status status)
{
    const struct log_read *read = &from->read;
    struct follower *follower = lane->follower;
    if (status == STATUS_OK && lane->looks_back) {
        lane_took_back(lane, read);
    } else if (status == STATUS_OK && read->count == 0) {
        lane_goes_live(lane, read->end);
    } else if (status == STATUS_OK) {
        follower->worker->delivering = true;
        take_in(lane, from);
        follower->worker->delivering = false;
    } else if ((status == STATUS_OUT_OF_RANGE || status == STATUS_CORRUPT) &&
               read->start > lane->next) {
        if (lane->looks_back)
            lane_skipped_back(lane, read->start);
        else
            lane_lost(lane, read->start);
    } else {
        lane_failed(lane, status);
    }
}

/* NULL: it has gone, or its follower. */
static struct lane *lane_of(const struct follow_read *read)
{
    const struct follower *follower = read->follower;
    for (uint32_t i = 0; follower != NULL && i < follower->lane_count; i++)
        if (follower->lanes[i]->partition == read->read.partition)
            return follower->lanes[i];
    return NULL;
}

static void read_free(struct follow_read *read)
{
    struct broker_worker *worker = read->worker;
    worker->reads--;
    if (read->follower != NULL) {
        read->follower->read = NULL;
        follower_wake(read->follower);
    }
    for (uint32_t i = 0; i < read->read.count; i++)
        batch_unref(read->read.batches[i]);
    heap_free(read);
    figures_flush(worker);
}

static void read_done(struct request *request, enum status status)
{
    struct follow_read *read = container_of(request, struct follow_read, read.request);
    struct lane *lane = lane_of(read);
    if (lane != NULL)
        lane_read(lane, read, status);
    read_free(read);
}

static void surveyed(struct request *request, enum status status)
{
    struct follow_read *read = container_of(request, struct follow_read, survey.request);
    struct lane *lane = lane_of(read);
    if (lane == NULL || status != STATUS_OK) {
        if (lane != NULL)
            lane_failed(lane, status);
        read_free(read);
        return;
    }
    label_choose(&read->follower->group_labels, &read->survey.labels.filter);
    lane->next = read->read.offset = read->survey.from;
    read->surveyed = true;
    log_read(read->worker->log, &read->read);
}

static void lane_go_on(struct lane *lane)
{
    struct follower *follower = lane->follower;
    struct follow_read *read = heap_new(sizeof *read);
    request_init(&read->read.request, follower->worker->loop, read_done);
    read->worker = follower->worker;
    read->follower = follower;
    read->read.partition = lane->partition;
    read->read.offset = lane->next;
    read->read.by_time = lane->by_time;
    read->read.time_ms = lane->time_ms;
    read->read.max_bytes = FOLLOW_READ_BYTES;
    follower->read = read;
    follower->worker->reads++;
    if (follower->undone_by == NULL || lane->by_time || lane->looks_back) {
        log_read(follower->worker->log, &read->read);
        return;
    }
    request_init(&read->survey.request, follower->worker->loop, surveyed);
    read->survey.partition = lane->partition;
    read->survey.from = lane->next;
    broker_survey(follower->client, follower->undone_by, &read->survey);
}

/* The next lane in turn that is behind; NULL: none may read now. */
static struct lane *next_lane(struct follower *follower)
{
    for (uint32_t i = 0; i < follower->lane_count; i++) {
        follower->turn = (follower->turn + 1) % follower->lane_count;
        struct lane *lane = follower->lanes[follower->turn];
        if (!lane->live && lane->watch->confirmed)
            return lane;
    }
    return NULL;
}

static void look_fired(struct loop_timer *timer)
{
    struct follower *follower = container_of(timer, struct follower, look);
    follower->failed = false;
    follower_wake(follower);
}

/* ------------------------------------------------ what follows from how things stand */

static void follower_work(struct loop_task *task)
{
    struct follower *follower = container_of(task, struct follower, work);
    if (follower->over != STATUS_OK) {
        if (!follower->told_over) {
            follower->told_over = true;
            follower->ops->ended(follower, follower->over);
        }
        return;
    }
    if (follower->behind == 0 && !follower->told_caught_up) {
        follower->told_caught_up = true;
        if (follower->ops->caught_up != NULL) {
            follower->ops->caught_up(follower);
            return;
        }
    }
    if (follower->read != NULL || follower->behind == 0 || !follower_may_be_shown(follower) ||
        follower->worker->ending)
        return;
    if (!has_room(follower)) {
        /* What is queued may leave with the flush of this turn; else drained() comes. */
        follower->look_ms = follower->look_ms == 0         ? 1
                            : follower->look_ms >= LOOK_MS ? LOOK_MS
                                                           : 2 * follower->look_ms;
        try_later(follower, follower->look_ms);
        return;
    }
    follower->look_ms = 0;
    if (follower->failed)
        return;
    if (!has_time(follower)) {
        try_later(follower, 1);
        return;
    }
    struct lane *lane = next_lane(follower);
    if (lane != NULL)
        lane_go_on(lane);
}

void followers_go_on(struct client *client)
{
    list_each(link, &client->followers)
    {
        struct follower *follower = container_of(link, struct follower, of_client);
        if (follower->behind > 0)
            follower_wake(follower);
    }
}

void follower_settled(struct follower *follower)
{
    struct client *client = follower->client;
    CHECK(follower->unsettled > 0);
    follower->unsettled--;
    if (client->follow_unsettled-- == LIMIT_FOLLOW_UNSETTLED)
        followers_go_on(client);
}

/* ------------------------------------------------ begin and end */

static void labels_copy(struct follower *follower, const struct label_filter *labels)
{
    size_t size = 0, at = 0;
    follower->labels = *labels;
    for (uint32_t i = 0; i < labels->count; i++)
        size += labels->labels[i].size;
    follower->label_text = size == 0 ? NULL : heap_new(size);
    for (uint32_t i = 0; i < labels->count; i++) {
        struct span *label = &follower->labels.labels[i];
        if (label->size > 0)
            memcpy(follower->label_text + at, label->data, label->size);
        *label = span_of(follower->label_text + at, label->size);
        at += label->size;
    }
}

static enum status lanes_begin(struct follower *follower, const struct follow_options *options)
{
    struct follow_position position;
    enum status read = follow_position_read(options->position, &position);
    if (read == STATUS_TOO_LARGE)
        return STATUS_INVALID;
    bool resumes = read == STATUS_OK;
    struct lane model = {.by_time = options->from == SEEK_TIME,
                         .time_ms = options->time_ms,
                         .next = options->from == SEEK_OFFSET ? options->offset : 0};
    const struct queue *queue = options->queue;
    bool fits = true;
    if (queue == NULL)
        fits = lanes_add_homes(follower, &model);
    else if (follower->dead_of != NULL)
        lane_add_dead(follower, queue, &model);
    else if (options->partition == FOLLOW_ALL_PARTITIONS)
        fits = lanes_add(follower, queue, 0, queue->partition_count, &model);
    else
        fits = lanes_add(follower, queue, (uint32_t)options->partition, 1, &model);
    if (!fits)
        return STATUS_OVER_QUOTA;
    for (uint32_t i = 0; i < follower->lane_count; i++) {
        struct lane *lane = follower->lanes[i];
        const struct partition_stat *stat = lane->bounds;
        if (resumes) {
            lane->by_time = false;
            if (!follow_position_find(&position, lane->partition, &lane->next))
                lane->next = atomic_load(&stat->start);
        } else if (options->from == SEEK_LATEST) {
            lane->next = atomic_load(&stat->end);
            if (options->last)
                lane_look_back(lane, lane->next);
        } else if (options->from == SEEK_EARLIEST) {
            lane->next = atomic_load(&stat->start);
        } else if (options->from == SEEK_OFFSET && lane->next > atomic_load(&stat->end)) {
            lane->next = atomic_load(&stat->end); /* what comes is not to be missed */
        }
    }
    if (resumes)
        follower->time_ms = 0;
    return STATUS_OK;
}

enum status follower_open(struct client *client, const struct follow_ops *ops, void *context,
                          const struct follow_options *options, struct follower **result)
{
    struct broker_worker *worker = client->worker;
    const struct queue *queue = options->queue;
    CHECK(loop_is_home(worker->loop));
    *result = NULL;
    if (worker->ending)
        return STATUS_SHUTTING_DOWN;
    if (client->follower_count >= LIMIT_FOLLOWERS)
        return STATUS_OVER_QUOTA;
    if ((options->filter.size > 0 && !topic_filter_is_valid(options->filter)) ||
        (queue == NULL && options->filter.size == 0) ||
        (options->partition != FOLLOW_ALL_PARTITIONS &&
         (queue == NULL || options->partition < 0 ||
          (uint32_t)options->partition >= queue->partition_count)))
        return STATUS_INVALID;
    if (options->dead_of != NULL && options->dead_of->dead_partition == 0)
        return STATUS_UNSUPPORTED;
    enum status status =
        queue == NULL ? broker_check(client, ACTION_CONSUME, true, options->filter)
                      : broker_check(client, ACTION_CONSUME, false, span_from_text(queue->name));
    if (status != STATUS_OK)
        return status;
    struct follower *follower = heap_new(sizeof *follower);
    follower->client = client;
    follower->worker = worker;
    follower->ops = ops;
    follower->context = context;
    follower->work.run = follower_work;
    follower->look.fired = look_fired;
    follower->by_topic = queue == NULL;
    follower->settled_later = options->settled_later;
    follower->no_local = options->no_local;
    follower->opened_ms = worker_wall_ms(worker);
    follower->time_ms = options->from == SEEK_TIME ? options->time_ms : 0;
    follower->selector = options->selector == NULL ? NULL : selector_ref(options->selector);
    if (options->filter.size > 0)
        follower->filter =
            span_of(heap_text((const char *)options->filter.data, options->filter.size),
                    options->filter.size);
    labels_copy(follower, &options->labels);
    if (options->dead_of != NULL)
        follower->dead_of = group_spec_ref(options->dead_of);
    if (options->undone_by != NULL && options->undone_by->mode != GROUP_BROADCAST)
        follower->undone_by = group_spec_ref(options->undone_by);
    follower_choose(follower);
    list_push(&client->followers, &follower->of_client);
    list_push(&worker->followers, &follower->of_worker);
    client->follower_count++;
    status = lanes_begin(follower, options);
    if (status != STATUS_OK)
        follower_close(follower);
    else
        *result = follower;
    return status;
}

void follower_close(struct follower *follower)
{
    if (follower == NULL)
        return;
    CHECK(loop_is_home(follower->worker->loop) && !follower->worker->delivering);
    while (follower->lane_count > 0)
        lane_remove(follower, follower->lane_count - 1);
    if (follower->read != NULL)
        follower->read->follower = NULL;
    loop_task_cancel(follower->worker->loop, &follower->work);
    loop_timer_stop(follower->worker->loop, &follower->look);
    link_remove(&follower->of_client);
    link_remove(&follower->of_worker);
    follower->client->follower_count--;
    if (follower->unsettled > 0) {
        follower->client->follow_unsettled -= follower->unsettled;
        followers_go_on(follower->client);
    }
    selector_unref(follower->selector);
    selector_unref(follower->group_selector);
    group_spec_unref(follower->dead_of);
    group_spec_unref(follower->undone_by);
    heap_free((void *)(uintptr_t)follower->filter.data);
    heap_free(follower->label_text);
    heap_free(follower->lanes);
    heap_free(follower);
}

void followers_close(struct client *client)
{
    struct link *link;
    while ((link = list_first(&client->followers)) != NULL)
        follower_close(container_of(link, struct follower, of_client));
}

void *follower_context(const struct follower *follower)
{
    return follower->context;
}

struct client *follower_client(const struct follower *follower)
{
    return follower->client;
}

void follower_credit(struct follower *follower, uint32_t credit)
{
    follower->credit = credit;
    follower_wake(follower);
}

bool follower_is_behind(const struct follower *follower)
{
    return !follower->told_caught_up;
}

uint32_t follower_credit_left(const struct follower *follower)
{
    return follower->credit;
}
