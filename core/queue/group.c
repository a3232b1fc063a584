/* SPDX-License-Identifier: Apache-2.0 */
/* Settlements, time and the end. Callers only leave their wish; the group works at the end of the
 * turn, so that whatever came in one turn shares one write and waiters are served in order. */
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/trace.h"

enum { STEPS_MAX = 16384, IDLE_MS = 10000, MINUTE_MS = 60 * 1000 };

static void group_work(struct loop_task *task);
static void timer_fired(struct loop_timer *timer);

struct group *group_open(struct log *log, struct log_worker *worker, struct loop *loop,
                         struct group_budget *budget, const struct queue *queue,
                         const struct group_spec *spec)
{
    CHECK(loop_is_home(loop));
    uint32_t parts = queue->partition_count + (spec->dead_partition != 0);
    struct group *group = heap_new(sizeof *group + parts * sizeof group->parts[0]);
    group->log = log;
    group->worker = worker;
    group->loop = loop;
    group->budget = budget;
    group->queue = queue_ref(queue);
    group->spec = group_spec_ref(spec);
    group->work.run = group_work;
    group->timer.fired = timer_fired;
    group->part_count = parts;
    list_init(&group->waiting);
    list_init(&group->early);
    list_init(&group->units);
    list_init(&group->early_redrives);
    list_init(&group->early_explains);
    list_init(&group->early_surveys);
    list_init(&group->settled);
    list_init(&group->answering);
    for (uint32_t i = 0; i < parts; i++) {
        struct part *part = &group->parts[i];
        part->group = group;
        part->dead = i == queue->partition_count;
        part->id = part->dead ? spec->dead_partition : queue->first_partition + i;
        offset_map_init(&part->notes);
        part->bounds = part->dead ? &spec->stat->dead_letters : &queue->stat->partitions[i];
        part->window = window_new(0, LIMIT_IN_FLIGHT);
        window_share_released(part->window, &budget->released);
        /* What is published from now on, while the group still opens, is new to it. */
        part->start_at = atomic_load_explicit(&part->bounds->end, memory_order_relaxed);
        part_order(part);
    }
    group->lanes[LANE_RECORDS] =
        (struct group_lane){.parts = group->parts, .part_count = queue->partition_count};
    group->lanes[LANE_DEAD] = (struct group_lane){.parts = group->parts + queue->partition_count,
                                                  .part_count = parts - queue->partition_count};
    for (uint32_t i = 0; i < LANES; i++) {
        list_init(&group->lanes[i].takes);
        if (queue->type == QUEUE_FIFO)
            group_lane_join(&group->lanes[i]);
    }
    store_open(group);
    return group;
}

static void group_free(struct group *group)
{
    loop_task_cancel(group->loop, &group->work);
    loop_timer_stop(group->loop, &group->timer);
    bars_deinit(group);
    notes_deinit(group);
    filter_deinit(group);
    for (uint32_t i = 0; i < group->part_count; i++) {
        feed_drop(&group->parts[i]);
        part_order_deinit(&group->parts[i]);
        window_free(group->parts[i].window);
    }
    redrive_free(group);
    store_deinit(group);
    queue_unref(group->queue);
    group_spec_unref(group->spec);
    if (group->closed != NULL)
        request_complete(group->closed, STATUS_OK);
    heap_free(group);
}

void group_wake(struct group *group)
{
    loop_defer(group->loop, &group->work, LOOP_WORK);
}

/* Answers */

void group_answer(struct group *group, struct request *request, enum status status)
{
    if (request->home == group->loop)
        request->done(request, status);
    else
        request_complete(request, status);
}

void group_answer_all(struct group *group, struct list *settles, enum status status)
{
    struct link *link;
    while ((link = list_pop(settles)) != NULL)
        group_answer(group, &container_of(link, struct group_settle, link)->request, status);
}

/* Everything that waits ends with status, by mail: whoever closes a group is not called back from
 * there. */
static void refuse_all(struct group *group, enum status status)
{
    struct link *link;
    takes_refuse(group, status);
    seek_refuse(group, status);
    while ((link = list_pop(&group->early)) != NULL)
        request_complete(&container_of(link, struct group_settle, link)->request, status);
    while ((link = list_pop(&group->early_redrives)) != NULL)
        request_complete(&container_of(link, struct group_redrive, link)->request, status);
    while ((link = list_pop(&group->early_explains)) != NULL)
        request_complete(&container_of(link, struct group_explain, link)->request, status);
    while ((link = list_pop(&group->early_surveys)) != NULL)
        request_complete(&container_of(link, struct group_survey, link)->request, status);
}

static void refuse_settled(struct list *settled, enum status status)
{
    struct link *link;
    while ((link = list_pop(settled)) != NULL)
        request_complete(&container_of(link, struct group_settle, link)->request, status);
}

void group_break(struct group *group, enum status status)
{
    if (group->broken != STATUS_OK)
        return;
    trace(status == STATUS_SHUTTING_DOWN ? TRACE_DEBUG : TRACE_ERROR,
          "group %s of queue %s stops: %s", group->spec->name, group->queue->name,
          status_text(status));
    group->broken = status;
    group_wake(group);
}

/* Settlements */

struct part *group_part_of(struct group *group, const struct receipt *receipt)
{
    bool ours = receipt->group == group->spec->id && receipt->epoch == group->epoch;
    return ours ? group_part(group, receipt->partition) : NULL;
}

enum window_outcome group_outcome(const struct part *part, enum settle_outcome outcome)
{
    const struct group *group = part->group;
    switch (outcome) {
    case SETTLE_DONE:
    case SETTLE_RENEWED:
        break;
    case SETTLE_FAILED:
        return WINDOW_FAILED;
    case SETTLE_RELEASED:
        return WINDOW_RELEASED;
    case SETTLE_REJECTED:
        if (!part->dead && queue_failures_max(group->queue, group->spec) != 0)
            return WINDOW_REJECTED;
        break;
    }
    return WINDOW_DONE;
}

enum status group_settle_lease(struct part *part, const struct receipt *receipt,
                               enum window_outcome outcome, int64_t due_ms)
{
    if (due_ms != 0 && group_comes_back(outcome))
        return window_delay(part->window, receipt->offset, receipt->delivery, outcome, due_ms);
    return window_settle(part->window, receipt->offset, receipt->delivery, outcome);
}

/* Leases are not stored, and that nothing has happened needs no row. */
static bool is_durable(enum window_outcome outcome, uint32_t delay_ms)
{
    return outcome != WINDOW_RELEASED || delay_ms != 0;
}

/* durable becomes true when the answer has to wait for a write. */
static enum status settle_one(struct group *group, const struct receipt *receipt,
                              const struct group_settle *settle, bool *durable)
{
    struct part *part = group_part_of(group, receipt);
    if (part == NULL)
        return STATUS_STALE;
    if (settle->outcome == SETTLE_RENEWED)
        return window_renew(part->window, receipt->offset, receipt->delivery,
                            loop_now_ms(group->loop),
                            queue_lease_ms(group->queue, settle->lease_ms));
    enum window_outcome outcome = group_outcome(part, settle->outcome);
    uint32_t delay_ms = settle->delay_ms;
    bool away = settle->not_for != NULL && outcome != WINDOW_DONE && outcome != WINDOW_REJECTED;
    bool barred = away && bar_put_up(part, receipt->offset, settle->not_for);
    bool unbarred = away && !barred;
    if (unbarred && !settle->unharmed) {
        if (group_outcome(part, SETTLE_REJECTED) == WINDOW_REJECTED)
            outcome = WINDOW_REJECTED;
        else if (delay_ms < GROUP_BARRED_MS)
            delay_ms = GROUP_BARRED_MS;
    }
    enum status status =
        group_settle_lease(part, receipt, outcome, delay_ms == 0 ? 0 : clock_wall_ms() + delay_ms);
    if (barred && status != STATUS_OK)
        bar_take_down(part, receipt->offset, settle->not_for);
    if (status != STATUS_OK)
        return status;
    /* What says why it was rejected is no note, and the other way round. */
    bool fits = group_comes_back(outcome) || settle->outcome == SETTLE_REJECTED;
    note_settled(part, receipt->offset, outcome, fits ? settle->note : span_of("", 0));
    *durable |= is_durable(outcome, delay_ms);
    return unbarred && settle->unharmed ? STATUS_OVER_QUOTA : STATUS_OK;
}

/* Applied at once; answered when what it changed is stored, at once when it changed nothing
 * durable or nobody waits for that. */
static void settle_apply(struct group *group, struct group_settle *settle)
{
    bool some = false, ended = false, durable = false;
    for (uint32_t i = 0; i < settle->count; i++) {
        settle->results[i] =
            ended ? STATUS_STALE : settle_one(group, &settle->receipts[i], settle, &durable);
        some |= settle->results[i] != STATUS_STALE;
        ended = settle->ordered && settle->results[i] != STATUS_OK;
    }
    if (some && settle->patient && group->patient_ms == 0)
        group->patient_ms = loop_now_ms(group->loop) + GROUP_PATIENCE_MS;
    if (durable && !settle->patient)
        list_push(&group->settled, &settle->link);
    else /* it is its caller's again, on whose loop it may be gone by now */
        request_complete(&settle->request, STATUS_OK);
    if (some)
        group_wake(group);
}

void group_settle(struct group *group, struct group_settle *settle)
{
    CHECK(loop_is_home(group->loop));
    CHECK(group->state != GROUP_CLOSING);
    if (group->broken != STATUS_OK)
        request_complete(&settle->request, group->broken);
    else if (group->state == GROUP_OPENING)
        list_push(&group->early, &settle->link);
    else
        settle_apply(group, settle);
}

void group_settle_unit(struct group *group, struct group_unit *unit)
{
    CHECK(loop_is_home(group->loop));
    CHECK(group->state != GROUP_CLOSING);
    if (group->broken != STATUS_OK)
        group_unit_refuse(group->log, unit, group->broken);
    else if (group->state == GROUP_OPENING) /* no receipt is of this life yet */
        group_unit_refuse(group->log, unit, STATUS_STALE);
    else
        unit_apply(group, unit);
}

void group_change(struct group *group, const struct queue *queue)
{
    CHECK(loop_is_home(group->loop));
    CHECK(queue->id == group->queue->id && queue->partition_count == group->queue->partition_count);
    struct queue *old = group->queue;
    group->queue = queue_ref(queue);
    queue_unref(old);
    group->limit_changed = true;
    group_wake(group);
}

void group_look(struct group *group)
{
    CHECK(loop_is_home(group->loop));
    group_wake(group);
}

/* Commit notices */

void group_notice(struct group *group, uint64_t partition, struct batch *batch)
{
    CHECK(loop_is_home(group->loop));
    struct part *part = group_part(group, partition);
    CHECK(part != NULL);
    /* Batches are kept only while somebody consumes: a group that nobody reads holds no memory. */
    bool keep = group->state == GROUP_SERVING &&
                (takes_wait(group) || loop_now_ms(group->loop) < group->taken_ms + IDLE_MS);
    feed_notice(part, batch, keep);
    group_wake(group);
}

/* Work and time */

static void publish_stat(struct group *group)
{
    uint64_t acknowledged = 0, in_flight = 0, backlog = 0, held = 0;
    int64_t oldest_ms = 0;
    struct group_stat *stat = group->spec->stat;
    for (uint32_t i = 0; i < group->part_count; i++) {
        struct part *part = &group->parts[i];
        if (part->dead) {
            atomic_store_explicit(&stat->dead, window_backlog(part->window), memory_order_relaxed);
            /* Each has taken one offset. */
            atomic_store_explicit(&stat->dead_produced, window_end(part->window),
                                  memory_order_relaxed);
            continue;
        }
        acknowledged += window_acknowledged(part->window);
        in_flight += window_in_flight(part->window);
        backlog += window_backlog(part->window);
        int64_t time_ms = feed_oldest_ms(part);
        if (time_ms != 0 && (oldest_ms == 0 || time_ms < oldest_ms))
            oldest_ms = time_ms;
        held += feed_held_bytes(part);
        uint64_t index = part->id - group->queue->first_partition;
        if (index < stat->partition_count)
            atomic_store_explicit(&stat->undone[index], window_oldest(part->window),
                                  memory_order_relaxed);
    }
    atomic_store_explicit(&stat->acknowledged, acknowledged, memory_order_relaxed);
    atomic_store_explicit(&stat->in_flight, in_flight, memory_order_relaxed);
    atomic_store_explicit(&stat->backlog, backlog, memory_order_relaxed);
    atomic_store_explicit(&stat->oldest_ms, oldest_ms, memory_order_relaxed);
    atomic_store_explicit(&stat->held_bytes, held, memory_order_relaxed);
}

static void sooner(uint64_t *due_ms, uint64_t candidate_ms)
{
    if (candidate_ms != 0 && (*due_ms == 0 || candidate_ms < *due_ms))
        *due_ms = candidate_ms;
}

/* The wall clock may jump: what waits for it is looked at once a minute at least. */
static uint64_t wake_at(const struct window *window, uint64_t now_ms)
{
    int64_t due_ms = window_due(window);
    if (due_ms == 0)
        return 0;
    int64_t wait_ms = due_ms - clock_wall_ms();
    return now_ms + (uint64_t)(wait_ms < 0 ? 0 : wait_ms > MINUTE_MS ? MINUTE_MS : wait_ms);
}

/* One timer for everything, set to what comes first. */
static void arm_timer(struct group *group)
{
    uint64_t now_ms = loop_now_ms(group->loop);
    uint64_t due_ms = 0;
    sooner(&due_ms, group->rewrite_ms);
    if (!group->writing && group->rewrite_ms == 0)
        sooner(&due_ms, group->patient_ms);
    if (group->steps_left == 0 || group->unfinished)
        sooner(&due_ms, now_ms);
    if (group->state == GROUP_SERVING)
        sooner(&due_ms, expiry_look(group));
    for (uint32_t i = 0; i < group->part_count; i++) {
        struct part *part = &group->parts[i];
        if (group->state == GROUP_SERVING) {
            sooner(&due_ms, window_deadline(part->window));
            sooner(&due_ms, wake_at(part->window, now_ms));
            sooner(&due_ms, part->move_retry_ms);
        }
        sooner(&due_ms, part->retry_ms);
        if (!takes_wait(group) && part->ahead.count + part->again.count > 0)
            sooner(&due_ms, group->taken_ms + IDLE_MS);
    }
    if (due_ms == group->timer_ms)
        return;
    group->timer_ms = due_ms;
    if (due_ms == 0)
        loop_timer_stop(group->loop, &group->timer);
    else
        loop_timer_start(group->loop, &group->timer, due_ms > now_ms ? due_ms - now_ms : 0);
}

static void timer_fired(struct loop_timer *timer)
{
    struct group *group = container_of(timer, struct group, timer);
    uint64_t now_ms = loop_now_ms(group->loop);
    group->timer_ms = 0;
    if (group->rewrite_ms != 0 && group->rewrite_ms <= now_ms)
        store_rewrite(group);
    for (uint32_t i = 0; i < group->part_count; i++) {
        struct part *part = &group->parts[i];
        uint64_t offset;
        while (window_expire(part->window, now_ms, &offset))
            ;
        while (window_wake(part->window, clock_wall_ms()))
            ;
        if (part->move_retry_ms <= now_ms)
            part->move_retry_ms = 0;
        if (!takes_wait(group) && now_ms >= group->taken_ms + IDLE_MS)
            feed_drop(part);
        if (part->retry_ms != 0 && part->retry_ms <= now_ms) {
            part->retry_ms = 0;
            if (group->state == GROUP_OPENING)
                feed_probe(part);
        }
    }
    group_wake(group);
}

/* What is left to do before a closing group can go; called again after each of its own requests. */
static void close_step(struct group *group)
{
    if (group->writing || group->jobs > 0)
        return;
    if (group->removing && !group->removed)
        store_remove(group);
    else if (group->opened && !group->removing && group->broken == STATUS_OK)
        store_flush(group);
    if (group->writing || group->reads > 0 || group->scanning || group->jobs > 0)
        return;
    refuse_settled(&group->settled, STATUS_SHUTTING_DOWN);
    group_free(group);
}

static void group_work(struct loop_task *task)
{
    struct group *group = container_of(task, struct group, work);
    if (group->state == GROUP_CLOSING) {
        close_step(group);
        return;
    }
    if (group->broken != STATUS_OK) {
        refuse_all(group, group->broken);
        refuse_settled(&group->settled, group->broken);
        return;
    }
    group->steps_left = STEPS_MAX;
    group->turns++;
    if (group->state == GROUP_SERVING) {
        seek_step(group);
        takes_serve(group);
        if (group->state == GROUP_CLOSING)
            return; /* from inside of a done(); the closing has its own turn */
        store_flush(group);
        dead_step(group);
        redrive_step(group);
        publish_stat(group);
    }
    arm_timer(group);
}

void group_opened(struct group *group)
{
    group->state = GROUP_SERVING;
    group->opened = true;
    dead_limit(group);
    struct link *link;
    while ((link = list_pop(&group->early)) != NULL)
        settle_apply(group, container_of(link, struct group_settle, link));
    while ((link = list_pop(&group->early_redrives)) != NULL)
        redrive_apply(group, container_of(link, struct group_redrive, link));
    while ((link = list_pop(&group->early_explains)) != NULL)
        explain_apply(group, container_of(link, struct group_explain, link));
    while ((link = list_pop(&group->early_surveys)) != NULL)
        survey_apply(group, container_of(link, struct group_survey, link));
    group_wake(group);
}

void group_close(struct group *group, bool remove, struct request *closed)
{
    if (group == NULL)
        return;
    CHECK(loop_is_home(group->loop));
    CHECK(group->state != GROUP_CLOSING);
    enum status status = remove ? STATUS_NOT_FOUND : STATUS_SHUTTING_DOWN;
    group->state = GROUP_CLOSING;
    group->removing = remove;
    group->closed = closed;
    group->patient_ms = 0;
    loop_timer_stop(group->loop, &group->timer);
    refuse_all(group, status);
    if (remove || group->broken != STATUS_OK)
        refuse_settled(&group->settled, status);
    if (group->rewrite_ms != 0) {
        group->broken = status; /* storage was given its chance */
        group->writing = false;
        refuse_settled(&group->answering, status);
        refuse_settled(&group->settled, status);
    }
    group_wake(group);
}
