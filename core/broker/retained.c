/* SPDX-License-Identifier: Apache-2.0 */
/* Walks through the rows of retained records that match a new subscription. */
#include "core/broker/retained.h"

#include "core/broker/session.h"
#include "core/broker/topic.h"

#include "core/base/heap.h"
#include "core/base/trace.h"

enum {
    SLICE_ROWS = 128,
    SLICE_ROWS_MIN = 16,
    READS_AT_ONCE = 4,      /* of one worker: the store's readers serve others, too */
    TURN_ROWS = 512,        /* shown in one turn by all walks */
    HELD_BYTES = 64 * 1024, /* rows that a paused walk keeps */
    OVERTAKEN_FIRST = 256,  /* topics that came live while a slice is read: room for them */
    OVERTAKEN_MAX = 64 * 1024,
};

enum walk_state { WALK_WAITING, WALK_QUEUED, WALK_READING, WALK_ASKING, WALK_SHOWING, WALK_PAUSED };

struct bound {
    uint64_t partition, offset;
};

struct slice_topic {
    uint64_t hash;
    bool live; /* it came so */
};

struct retained_walk {
    enum walk_state state;
    struct broker_worker *worker;
    struct subscription *subscription; /* NULL once it has ended */
    struct link of_client;
    struct link link; /* in worker's queued or ready, or its starter's */
    struct retained_filter filter;
    struct retained_place next, end;
    uint64_t upto; /* of one that is kept: what was committed behind it comes live; else 0 */
    bool moved;    /* next is not stored yet */
    struct storage_scan scan;
    struct blob *rows;     /* of the slice being shown */
    size_t position, seen; /* in rows: behind the last one shown, and the one looked at */
    unsigned asked;        /* workers that have not answered */
    struct bound *ends;    /* what was committed when the slice had been read */
    uint32_t end_count;
    /* What came live: from where on per partition, since the walk was made; which topics, while the
     * slice was being read; and of the slice's topics, since then. */
    struct bound *first;
    uint32_t first_count;
    uint64_t *overtaken; /* a set: hashes by their last bits, and where that is taken, behind */
    uint32_t overtaken_count, overtaken_capacity;
    bool again; /* too many: the slice is read once more */
    struct slice_topic *topics;
    uint32_t topic_count;
    bool any_live; /* of these */
};

/* ------------------------------------------------ walks */

uint64_t retained_committed(const struct broker_worker *worker, uint64_t partition)
{
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    if (queue == NULL)
        return UINT64_MAX;
    const struct partition_stat *stat =
        &queue->stat->partitions[partition - queue->first_partition];
    return atomic_load_explicit(&stat->end, memory_order_acquire);
}

static bool is_busy(const struct retained_walk *walk)
{
    return walk->state == WALK_READING || walk->state == WALK_ASKING;
}

static void rows_drop(struct retained_walk *walk)
{
    blob_unref(walk->rows);
    walk->rows = NULL;
    walk->position = walk->seen = 0;
    heap_free(walk->overtaken);
    walk->overtaken = NULL;
    walk->overtaken_count = walk->overtaken_capacity = walk->topic_count = 0;
    walk->again = walk->any_live = false;
}

static void walk_free(struct retained_walk *walk)
{
    rows_drop(walk);
    link_remove(&walk->of_client);
    link_remove(&walk->link);
    heap_free(walk->first);
    heap_free(walk->ends);
    heap_free(walk->topics);
    heap_free(walk);
}

static void read_more(struct broker_worker *worker);

void retained_walk_end(struct subscription *subscription)
{
    struct retained_walk *walk = subscription->walk;
    if (walk == NULL)
        return;
    subscription->walk = NULL;
    walk->subscription = NULL;
    if (!is_busy(walk)) {
        walk_free(walk);
        return;
    }
    link_remove(&walk->of_client);
    link_remove(&walk->link);
}

struct retained_walk *retained_walk_new(struct subscription *subscription)
{
    struct client *client = subscription->client;
    retained_walk_end(subscription);
    struct retained_walk *walk = heap_new(sizeof *walk);
    walk->worker = client->worker;
    walk->subscription = subscription;
    link_init(&walk->link);
    retained_filter_init(&walk->filter, client->tenant,
                         span_of(subscription->entry->filter, subscription->entry->filter_size),
                         &walk->next, &walk->end);
    list_push(&client->walks, &walk->of_client);
    subscription->walk = walk;
    return walk;
}

struct link *retained_walk_link(struct retained_walk *walk)
{
    return &walk->link;
}

struct retained_walk *retained_walk_of(struct link *link)
{
    return container_of(link, struct retained_walk, link);
}

void retained_walk_keep(struct retained_walk *walk, uint64_t upto, struct span place)
{
    struct retained_place from = {.size = place.size};
    CHECK(upto > 0 && place.size <= sizeof from.key);
    walk->upto = upto;
    if (place.size > 0)
        memcpy(from.key, place.data, place.size);
    if (retained_place_is_before(&walk->next, &from))
        walk->next = from;
}

bool retained_walk_is_kept(const struct retained_walk *walk)
{
    return walk->upto > 0;
}

bool retained_walk_moved(struct retained_walk *walk, uint64_t *upto, struct span *place)
{
    bool moved = walk->moved;
    *upto = walk->upto;
    *place = retained_place_span(&walk->next);
    walk->moved = false;
    return moved;
}

void retained_walk_unsaved(struct retained_walk *walk)
{
    walk->moved = true;
}

static void move_to(struct retained_walk *walk, const struct retained_place *next)
{
    walk->next = *next;
    if (walk->upto == 0)
        return;
    walk->moved = true;
    session_touch(walk->subscription->client->session);
}

/* Everything has been shown. */
static void walk_finish(struct retained_walk *walk)
{
    if (walk->upto > 0)
        session_walk_over(walk->subscription);
    retained_walk_end(walk->subscription);
}

static void walk_queue(struct retained_walk *walk)
{
    struct broker_worker *worker = walk->worker;
    if (!retained_place_is_before(&walk->next, &walk->end)) {
        walk_finish(walk);
        return;
    }
    rows_drop(walk);
    walk->state = WALK_QUEUED;
    list_push(&worker->retained.queued, &walk->link);
    read_more(worker);
}

void retained_walk_start(struct retained_walk *walk)
{
    if (walk->state != WALK_WAITING)
        return; /* a session starts all of its walks whenever it has sent again what was in flight
                 */
    if (walk->worker->ending)
        retained_walk_end(walk->subscription);
    else if (!atomic_load_explicit(&walk->worker->broker->retained_any, memory_order_acquire))
        walk_finish(walk);
    else
        walk_queue(walk);
}

/* ------------------------------------------------ what comes live meanwhile */

static const struct bound *bound_find(const struct bound *bounds, uint32_t count,
                                      uint64_t partition)
{
    for (uint32_t i = 0; i < count; i++)
        if (bounds[i].partition == partition)
            return &bounds[i];
    return NULL;
}

static void bound_add(struct bound **bounds, uint32_t *count, uint64_t partition, uint64_t offset)
{
    if ((*count & (*count - 1)) == 0)
        *bounds = heap_resize(*bounds, (*count == 0 ? 1 : *count * 2) * sizeof **bounds);
    (*bounds)[(*count)++] = (struct bound){partition, offset};
}

static struct slice_topic *topic_find(const struct retained_walk *walk, uint64_t hash)
{
    for (uint32_t i = 0; i < walk->topic_count; i++)
        if (walk->topics[i].hash == hash)
            return &walk->topics[i];
    return NULL;
}

static void topic_came_live(struct retained_walk *walk, uint64_t hash)
{
    struct slice_topic *topic = topic_find(walk, hash);
    if (topic != NULL)
        topic->live = walk->any_live = true;
}

/* The place of a topic in the set, or where it belongs: 0 is none. */
static uint64_t *overtaken_at(const struct retained_walk *walk, uint64_t hash)
{
    uint32_t last = walk->overtaken_capacity - 1, at = (uint32_t)hash & last;
    while (walk->overtaken[at] != 0 && walk->overtaken[at] != hash)
        at = (at + 1) & last;
    return &walk->overtaken[at];
}

static void overtaken_grow(struct retained_walk *walk)
{
    uint64_t *old = walk->overtaken;
    uint32_t count = walk->overtaken_capacity;
    walk->overtaken_capacity = count == 0 ? OVERTAKEN_FIRST : count * 2;
    walk->overtaken = heap_array(walk->overtaken_capacity, sizeof *walk->overtaken);
    for (uint32_t i = 0; i < count; i++)
        if (old[i] != 0)
            *overtaken_at(walk, old[i]) = old[i];
    heap_free(old);
}

/* A set of topics, so that it does not grow with what comes to few of them. */
static void came_while_reading(struct retained_walk *walk, uint64_t hash)
{
    hash += hash == 0;
    if (walk->overtaken_count * 2 >= walk->overtaken_capacity) {
        if (walk->overtaken_capacity == OVERTAKEN_MAX) {
            walk->again = true;
            return;
        }
        overtaken_grow(walk);
    }
    uint64_t *at = overtaken_at(walk, hash);
    walk->overtaken_count += *at == 0;
    *at = hash;
}

/* From now on only what concerns the slice is kept in mind. */
static void take_topics(struct retained_walk *walk)
{
    struct span key, value;
    if (walk->topics == NULL)
        walk->topics = heap_array(SLICE_ROWS, sizeof *walk->topics);
    for (size_t at = 0;
         walk->topic_count < SLICE_ROWS && storage_scan_next(&walk->scan, &at, &key, &value);)
        walk->topics[walk->topic_count++] = (struct slice_topic){.hash = retained_key_topic(key)};
    for (uint32_t i = 0; i < walk->topic_count && walk->overtaken_count > 0; i++) {
        uint64_t hash = walk->topics[i].hash;
        hash += hash == 0;
        walk->topics[i].live = *overtaken_at(walk, hash) == hash;
        walk->any_live |= walk->topics[i].live;
    }
    heap_free(walk->overtaken);
    walk->overtaken = NULL;
    walk->overtaken_count = walk->overtaken_capacity = 0;
}

void retained_overtake(struct retained_walk *walk, uint64_t partition, uint64_t offset,
                       struct span topic)
{
    if (walk->upto == 0 && bound_find(walk->first, walk->first_count, partition) == NULL)
        bound_add(&walk->first, &walk->first_count, partition, offset);
    if (walk->rows != NULL)
        topic_came_live(walk, hash_stable(topic));
    else if (is_busy(walk) && !walk->again)
        came_while_reading(walk, hash_stable(topic));
}

static bool is_behind(const struct bound *bounds, uint32_t count, const struct batch *batch)
{
    const struct bound *bound = bound_find(bounds, count, batch->partition);
    return bound != NULL && batch->base_offset >= bound->offset;
}

/* batch: that of the row with this key. */
static bool comes_live(const struct retained_walk *walk, const struct batch *batch, struct span key)
{
    if (walk->upto > 0 ? batch->commit > walk->upto
                       : is_behind(walk->first, walk->first_count, batch) ||
                             is_behind(walk->ends, walk->end_count, batch))
        return true;
    const struct slice_topic *topic =
        walk->any_live ? topic_find(walk, retained_key_topic(key)) : NULL;
    return topic != NULL && topic->live;
}

/* ------------------------------------------------ showing */

enum shown { SHOWN, SHOWN_FULL };

static enum shown show_row(struct retained_walk *walk, struct span key, struct span value,
                           struct frame_cache *frames)
{
    struct broker_worker *worker = walk->worker;
    struct subscription *subscription = walk->subscription;
    struct batch *batch;
    enum status status = retained_value_open(value, &batch);
    if (status != STATUS_OK) {
        trace(TRACE_ERROR, "a retained record cannot be read: %s", status_text(status));
        return SHOWN;
    }
    struct record record;
    struct span topic;
    batch_record(batch, 0, &record);
    record.attributes |= RECORD_RECALLED;
    enum shown shown = SHOWN;
    struct span filter = span_of(subscription->entry->filter, subscription->entry->filter_size);
    if (deliver_topic(&record, worker_wall_ms(worker), &topic) && topic_matches(filter, topic) &&
        !comes_live(walk, batch, key) &&
        (walk->upto > 0 ? session_recall(subscription, batch->partition, &record, key, frames)
                        : deliver_to(subscription, &record, frames)) == DELIVER_FULL)
        shown = SHOWN_FULL;
    frame_cache_clear(frames);
    batch_unref(batch);
    return shown;
}

static bool has_room(struct client *client)
{
    return client->ops->queued(client) < LIMIT_CLIENT_OUT_BYTES / 2;
}

/* Rows are dear while nobody takes them: many are read again later. */
static void walk_pause(struct retained_walk *walk)
{
    walk->state = WALK_PAUSED;
    if (walk->rows->size <= HELD_BYTES)
        return;
    rows_drop(walk);
}

static void walk_continue(struct retained_walk *walk)
{
    if (walk->scan.more)
        walk_queue(walk);
    else
        walk_finish(walk);
}

static void walk_show(struct retained_walk *walk, unsigned *left)
{
    struct client *client = walk->subscription->client;
    struct frame_cache frames = {0};
    struct span key, value;
    if (walk->again) {
        walk_queue(walk);
        return;
    }
    while (*left > 0) {
        walk->seen = walk->position;
        if (!storage_scan_next(&walk->scan, &walk->seen, &key, &value)) {
            walk_continue(walk);
            return;
        }
        struct retained_place next;
        if (retained_filter_passes(&walk->filter, key, &next) &&
            (!has_room(client) || !deliver_has_time(walk->subscription) ||
             show_row(walk, key, value, &frames) == SHOWN_FULL)) {
            walk_pause(walk);
            return;
        }
        move_to(walk, &next);
        walk->position = walk->seen;
        --*left;
    }
    list_push(&walk->worker->retained.ready, &walk->link);
    loop_defer(walk->worker->loop, &walk->worker->retained.task, LOOP_WORK);
}

static void show_task(struct loop_task *task)
{
    struct retained *retained = container_of(task, struct retained, task);
    struct broker_worker *worker = container_of(retained, struct broker_worker, retained);
    unsigned left = TURN_ROWS;
    struct list ready;
    list_init(&ready);
    struct link *link;
    while ((link = list_pop(&retained->ready)) != NULL)
        list_push(&ready, link);
    worker->delivering = true;
    while ((link = list_pop(&ready)) != NULL) {
        struct retained_walk *walk = retained_walk_of(link);
        walk_show(walk, &left);
    }
    worker->delivering = false;
    figures_flush(worker);
}

static void walk_ready(struct retained_walk *walk)
{
    walk->state = WALK_SHOWING;
    list_push(&walk->worker->retained.ready, &walk->link);
    loop_defer(walk->worker->loop, &walk->worker->retained.task, LOOP_WORK);
}

void retained_go_on(struct client *client)
{
    if (!has_room(client))
        return;
    list_each_safe(link, following, &client->walks)
    {
        struct retained_walk *walk = container_of(link, struct retained_walk, of_client);
        if (walk->state != WALK_PAUSED || (walk->upto > 0 && !session_takes(client->session)))
            continue;
        if (walk->rows == NULL)
            walk_queue(walk);
        else
            walk_ready(walk);
    }
}

/* ------------------------------------------------ reading */

struct question {
    struct mail mail;
    struct retained_walk *walk;
    struct broker_worker *to;
};

static void asked_all(struct retained_walk *walk)
{
    walk->worker->reads--;
    walk->state = WALK_SHOWING;
    if (walk->subscription == NULL)
        walk_free(walk);
    else
        walk_ready(walk);
}

static void question_back(struct mail *mail)
{
    struct question *question = container_of(mail, struct question, mail);
    struct retained_walk *walk = question->walk;
    heap_free(question);
    if (--walk->asked == 0)
        asked_all(walk);
}

static void question_arrive(struct mail *mail)
{
    struct question *question = container_of(mail, struct question, mail);
    question->mail.deliver = question_back;
    mailbox_post(question->walk->worker->loop, &question->mail);
}

/* Where each partition ends that the slice names. */
static void take_ends(struct retained_walk *walk)
{
    walk->end_count = 0;
    size_t position = 0;
    struct span key, value;
    while (storage_scan_next(&walk->scan, &position, &key, &value)) {
        uint64_t partition;
        if (retained_value_partition(value, &partition) &&
            bound_find(walk->ends, walk->end_count, partition) == NULL)
            bound_add(&walk->ends, &walk->end_count, partition,
                      retained_committed(walk->worker, partition));
    }
}

/* Mails keep their order: when the answers are here, so are the notices of all that was committed
 * before. */
static void walk_ask(struct retained_walk *walk)
{
    struct broker *broker = walk->worker->broker;
    walk->state = WALK_ASKING;
    take_ends(walk);
    take_topics(walk);
    for (unsigned i = 0; i < broker->worker_count; i++) {
        if (i == walk->worker->index)
            continue;
        struct question *question = heap_new(sizeof *question);
        question->walk = walk;
        question->to = &broker->workers[i];
        question->mail.deliver = question_arrive;
        walk->asked++;
        mailbox_post(question->to->loop, &question->mail);
    }
    if (walk->asked == 0)
        asked_all(walk);
}

static void rows_read(struct request *request, enum status status)
{
    struct retained_walk *walk = container_of(request, struct retained_walk, scan.request);
    struct broker_worker *worker = walk->worker;
    worker->retained.reading--;
    if (status == STATUS_OK)
        walk->rows = walk->scan.rows;
    if (status == STATUS_OK && walk->subscription != NULL && !worker->ending) {
        walk_ask(walk);
    } else {
        if (status != STATUS_OK)
            trace(TRACE_ERROR, "retained records cannot be read: %s", status_text(status));
        worker->reads--;
        walk->state = WALK_SHOWING;
        if (walk->subscription != NULL)
            retained_walk_end(walk->subscription);
        else
            walk_free(walk);
    }
    read_more(worker);
}

static uint32_t rows_wanted(const struct subscription *subscription)
{
    uint32_t credit = subscription->client->credit;
    if (subscription->guarantee == GUARANTEE_AT_MOST_ONCE || credit >= SLICE_ROWS)
        return SLICE_ROWS;
    return credit > SLICE_ROWS_MIN ? credit : SLICE_ROWS_MIN;
}

static void read_more(struct broker_worker *worker)
{
    struct retained *retained = &worker->retained;
    while (retained->reading < READS_AT_ONCE && !list_is_empty(&retained->queued)) {
        struct retained_walk *walk = retained_walk_of(list_pop(&retained->queued));
        walk->state = WALK_READING;
        walk->scan = (struct storage_scan){
            .first = retained_place_span(&walk->next),
            .end = retained_place_span(&walk->end),
            .limit = rows_wanted(walk->subscription),
        };
        request_init(&walk->scan.request, worker->loop, rows_read);
        retained->reading++;
        worker->reads++;
        log_rows_scan(worker->broker->log, &walk->scan);
    }
}

void retained_init(struct broker_worker *worker)
{
    list_init(&worker->retained.queued);
    list_init(&worker->retained.ready);
    worker->retained.task.run = show_task;
    batch_builder_init(&worker->retained.builder);
}

void retained_deinit(struct broker_worker *worker)
{
    loop_task_cancel(worker->loop, &worker->retained.task);
    batch_builder_deinit(&worker->retained.builder);
}
