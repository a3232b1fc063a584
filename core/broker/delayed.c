/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed records between publishers and the owner of their partition: those of one turn go there
 * together, the owner stores them, and when they come back to life their publisher's rights are
 * looked at again. */
#include "core/broker/delayed.h"

#include "core/base/heap.h"
#include "core/broker/session.h"
#include "core/broker/temporary.h"
#include "core/broker/worker.h"

/* What one turn of a worker publishes to one partition. */
struct delayed_job {
    struct link link; /* until the end of the turn */
    struct broker_worker *worker;
    struct delayed_append append;
    struct buf notes; /* keys of rows that go with them */
    struct storage_row *note_rows;
    struct answers answers;
    uint64_t bytes;
};

struct home_delay {
    uint64_t partition;
    struct delay *delay;
};

struct delayed_cancel {
    struct mail mail;
    struct link link;
    struct broker_worker *from, *owner;
    struct request *request;
    struct delay_cancel cancel;
};

/* ------------------------------------------------ rights */

/* Records of nobody come from before there were users, or have gone to nodes of their client's own:
 * nobody has taken that right away. */
static bool may_fire(void *context, uint64_t partition, uint64_t principal_id,
                     const struct record *record)
{
    struct broker_worker *worker = context;
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    if (queue == NULL)
        return false;
    if (principal_id == 0)
        return true;
    const struct principal *principal = catalog_principal(worker->catalog, principal_id);
    struct span topic = {0}, publisher = {0}, client_id = {0};
    record_find(record, HEADER_TOPIC, &topic);
    record_find(record, HEADER_PUBLISHER, &publisher);
    const uint8_t *slash = publisher.size == 0 ? NULL : memchr(publisher.data, '/', publisher.size);
    if (slash != NULL)
        client_id = span_from(publisher, (size_t)(slash - publisher.data) + 1);
    bool is_topic = topic.size > 0;
    bool may = principal != NULL &&
               principal_may(principal, ACTION_PUBLISH, is_topic,
                             is_topic ? topic : span_from_text(queue->name), client_id);
    if (!may)
        metric_add(worker->broker->metrics.dropped_denied, 1);
    return may;
}

static void has_fired(void *context, uint64_t late_ms)
{
    struct broker_worker *worker = context;
    metric_observe(worker->broker->metrics.delay_lateness, (double)late_ms / 1000);
}

static const struct delay_ops delay_ops = {may_fire, has_fired};

/* ------------------------------------------------ delays of this worker's partitions */

static struct home_delay *home_delay_open(struct broker_worker *worker, uint64_t partition,
                                          _Atomic uint64_t *waiting)
{
    struct home_delay *home = heap_new(sizeof *home);
    home->partition = partition;
    home->delay = delay_open(&worker->delayed.shared, partition, waiting);
    return home;
}

/* NULL: this is no partition of a queue here. */
static struct delay *delay_of(struct broker_worker *worker, uint64_t partition)
{
    struct map *delays = &worker->delayed.delays;
    struct home_delay *home = map_get(delays, span_of(&partition, sizeof partition));
    if (home != NULL)
        return home->delay;
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    if (queue == NULL || !log_has(worker->log, partition))
        return NULL;
    home = home_delay_open(worker, partition, &queue->stat->delayed);
    map_put(delays, span_of(&home->partition, sizeof home->partition), home);
    return home->delay;
}

static void append_serve(struct delayed_append *append);
static void cancel_serve(struct delayed_cancel *job);

static void load_end(struct broker_worker *worker)
{
    struct delayed *delayed = &worker->delayed;
    struct link *link;
    while ((link = list_pop(&delayed->appends)) != NULL)
        append_serve(container_of(link, struct delayed_append, link));
    while ((link = list_pop(&delayed->cancels)) != NULL)
        cancel_serve(container_of(link, struct delayed_cancel, link));
}

/* What a queue has left that was deleted just before the gateway stopped goes now. */
static void load_partition(struct broker_worker *worker, uint64_t partition)
{
    if (log_owner(worker->broker->log, partition) != worker->index)
        return;
    if (delay_of(worker, partition) == NULL) {
        struct home_delay *home = home_delay_open(worker, partition, NULL);
        delay_close(home->delay, true);
        heap_free(home);
    }
}

void delayed_init(struct broker_worker *worker)
{
    struct delayed *delayed = &worker->delayed;
    map_init(&delayed->delays);
    list_init(&delayed->turn);
    list_init(&delayed->appends);
    list_init(&delayed->cancels);
    batch_builder_init(&delayed->builder);
}

void delayed_open(struct broker_worker *worker)
{
    worker->delayed.shared = (struct delay_worker){
        .log = worker->broker->log,
        .log_worker = worker->log,
        .loop = worker->loop,
        .ops = &delay_ops,
        .context = worker,
    };
    worker->delayed.walk =
        (struct row_walk){.table = TABLE_DELAY, .found = load_partition, .end = load_end};
    row_walk_start(&worker->delayed.walk, worker);
}

static void home_close(struct home_delay *home, bool remove)
{
    delay_close(home->delay, remove);
    heap_free(home);
}

void delayed_forget(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        uint64_t partition = queue->first_partition + i;
        struct home_delay *home =
            map_remove(&worker->delayed.delays, span_of(&partition, sizeof partition));
        if (home != NULL)
            home_close(home, true);
    }
}

void delayed_hold(struct broker_worker *worker)
{
    worker->delayed.shared.holds = true;
}

void delayed_close(struct broker_worker *worker)
{
    worker->delayed.closed = true;
    struct map *delays = &worker->delayed.delays;
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(delays, &i)) != NULL;)
        home_close(slot->value, false);
    map_deinit(delays);
    map_init(delays);
}

bool delayed_is_busy(const struct broker_worker *worker)
{
    const struct delayed *delayed = &worker->delayed;
    return delayed->walk.running || delayed->shared.in_flight > 0;
}

void delayed_deinit(struct broker_worker *worker)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->delayed.delays, &i)) != NULL;)
        heap_free(slot->value);
    map_deinit(&worker->delayed.delays);
    batch_builder_deinit(&worker->delayed.builder);
}

/* ------------------------------------------------ to the owner, and back */

static void inserted(struct request *request, enum status status)
{
    struct delayed_append *append = container_of(request, struct delayed_append, insert.request);
    append->request.done(&append->request, status);
}

static void deduped(struct request *request, enum status status)
{
    struct delayed_append *append = container_of(request, struct delayed_append, dedup.request);
    append->request.done(&append->request, status);
}

static void append_dedup(struct delayed_append *append, struct delay *delay, struct dedup *dedup)
{
    append->dedup.items = append->items.items;
    append->dedup.count = append->items.count;
    append->dedup.delay = delay;
    append->dedup.delayed = append->records;
    append->dedup.more = append->more;
    append->dedup.more_count = append->more_count;
    dedup_append(dedup, &append->dedup);
}

static void append_insert(struct delayed_append *append, struct delay *delay)
{
    append->insert.records = append->records;
    append->insert.count = append->count;
    append->insert.more = append->more;
    append->insert.more_count = append->more_count;
    delay_insert(delay, &append->insert);
}

static void append_refuse(struct delayed_append *append, enum status why)
{
    struct log_worker *log_worker = append->owner->log;
    bool has_ids = append->items.count > 0;
    if (append->unit == 0)
        request_complete(has_ids ? &append->dedup.request : &append->insert.request, why);
    else if (has_ids)
        dedup_refuse(log_worker, &append->dedup, why);
    else
        delay_refuse(log_worker, &append->insert, why);
}

static void append_serve(struct delayed_append *append)
{
    struct broker_worker *owner = append->owner;
    enum status health = owner->broker->storage->ops->health(owner->broker->storage);
    bool closed = owner->delayed.closed;
    struct delay *delay = closed ? NULL : delay_of(owner, append->partition);
    bool has_ids = append->items.count > 0;
    struct dedup *dedup = delay == NULL || !has_ids ? NULL : deduped_of(owner, append->partition);
    if (health != STATUS_OK || delay == NULL)
        append_refuse(append, closed                ? STATUS_SHUTTING_DOWN
                              : health != STATUS_OK ? health
                                                    : STATUS_NOT_FOUND);
    else if (has_ids)
        append_dedup(append, delay, dedup);
    else
        append_insert(append, delay);
}

static void append_arrive(struct mail *mail)
{
    struct delayed_append *append = container_of(mail, struct delayed_append, mail);
    if (append->owner->delayed.walk.running)
        list_push(&append->owner->delayed.appends, &append->link);
    else
        append_serve(append);
}

/* To a node of its own, which goes with the client, it needs no right. */
static uint64_t principal_of(const struct client *client, const struct publish *publish)
{
    bool is_topic = publish->queue == NULL;
    struct span address = is_topic ? publish->topic : span_from_text(publish->queue->name);
    bool by_right =
        client->principal != NULL && temporary_right(client, is_topic, address) != TEMPORARY_OWN;
    return by_right ? client->principal->id : 0;
}

enum status delayed_record(struct client *client, const struct publish *publish, uint64_t partition,
                           const struct record_input *input, struct delay_record *record)
{
    struct broker_worker *worker = client->worker;
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    if (queue == NULL)
        return STATUS_NOT_FOUND;
    if (publish->delay_ms > LIMIT_DELAY_MS || queue->type == QUEUE_STREAM)
        return STATUS_INVALID;
    enum status status = batch_builder_add(&worker->delayed.builder, input);
    if (status != STATUS_OK)
        return status;
    *record = (struct delay_record){
        .batch = batch_builder_seal(&worker->delayed.builder),
        .delay_ms = publish->delay_ms,
        .principal = principal_of(client, publish),
    };
    return STATUS_OK;
}

void delayed_append_add(struct delayed_append *append, const struct client *client,
                        const struct publish *publish, const struct delay_record *record)
{
    if (append->count == append->capacity) {
        append->capacity = append->capacity == 0 ? 8 : append->capacity * 2;
        append->records = heap_resize(append->records, append->capacity * sizeof *append->records);
    }
    append->records[append->count++] = *record;
    if (publish_is_deduped(publish))
        deduped_items_add(&append->items, client, publish, append->count);
}

void delayed_append_send(struct delayed_append *append, struct broker_worker *from)
{
    append->owner = &from->broker->workers[log_owner(from->broker->log, append->partition)];
    append->mail.deliver = append_arrive;
    link_init(&append->link);
    if (append->items.count > 0) {
        deduped_items_end(&append->items, append->count);
        append->dedup =
            (struct dedup_append){.unit = append->unit, .part_count = append->part_count};
        request_init(&append->dedup.request, from->loop, deduped);
    } else {
        append->insert =
            (struct delay_insert){.unit = append->unit, .part_count = append->part_count};
        request_init(&append->insert.request, from->loop, inserted);
    }
    if (append->owner == from)
        append_arrive(&append->mail);
    else
        mailbox_post(append->owner->loop, &append->mail);
}

void delayed_append_deinit(struct delayed_append *append)
{
    for (uint32_t i = 0; i < append->count; i++)
        batch_unref(append->records[i].batch);
    deduped_items_deinit(&append->items);
    heap_free(append->records);
}

/* ------------------------------------------------ publishing */

/* The answers of records first to end, which have one outcome. */
static uint32_t settle_records(const struct delayed_job *job, uint32_t next, uint32_t end,
                               enum status status)
{
    uint32_t from = next;
    for (; next < job->answers.count && job->answers.items[next].record < end; next++) {
        const struct answer *answer = &job->answers.items[next];
        const struct delay_id *id = &job->append.records[answer->record].id;
        struct answer_place place = {id->partition, id->number, id->due_ms};
        answer_settle(answer, status, &place);
    }
    return next - from;
}

/* Each record has the outcome of its item. */
static void settle_items(const struct delayed_job *job, enum status status)
{
    const struct broker_metrics *metrics = &job->worker->broker->metrics;
    uint32_t end = 0, next = 0, refused = 0, duplicates = 0;
    for (uint32_t i = 0; i < job->append.items.count; i++) {
        const struct dedup_item *item = &job->append.items.items[i];
        enum status outcome = status == STATUS_OK ? item->status : status;
        end += item->record_count;
        uint32_t answered = settle_records(job, next, end, outcome);
        next += answered;
        refused += outcome == STATUS_OK ? 0 : item->record_count - answered;
        duplicates += outcome == STATUS_OK && item->duplicate ? item->record_count : 0;
    }
    metric_add(metrics->dropped_storage, refused);
    metric_add(metrics->duplicates, duplicates);
}

static void job_done(struct request *request, enum status status)
{
    struct delayed_job *job = container_of(request, struct delayed_job, append.request);
    struct broker_worker *worker = job->worker;
    if (job->append.items.count > 0) {
        settle_items(job, status);
    } else {
        uint32_t answered = settle_records(job, 0, job->append.count, status);
        if (status != STATUS_OK)
            metric_add(worker->broker->metrics.dropped_storage, job->append.count - answered);
    }
    answers_return(job->answers.items, job->answers.count);
    worker->in_bytes -= job->bytes;
    worker->jobs--;
    answers_deinit(&job->answers);
    delayed_append_deinit(&job->append);
    buf_deinit(&job->notes);
    heap_free(job->note_rows);
    heap_free(job);
    publish_wake(worker);
}

/* Notes as rows: one of a record at most. */
static void note_rows(struct delayed_job *job)
{
    struct span notes = buf_span(&job->notes), key, value;
    if (notes.size > 0)
        job->note_rows = heap_array(job->append.count, sizeof *job->note_rows);
    while (session_note_row(&notes, &key, &value))
        job->note_rows[job->append.more_count++] = (struct storage_row){
            .change = STORAGE_PUT,
            .key = key,
            .value = value,
            .offset_at = -1,
        };
    job->append.more = job->note_rows;
}

static struct delayed_job *job_of(struct broker_worker *worker, uint64_t partition)
{
    list_each(link, &worker->delayed.turn)
    {
        struct delayed_job *job = container_of(link, struct delayed_job, link);
        if (job->append.partition == partition)
            return job;
    }
    struct delayed_job *job = heap_new(sizeof *job);
    job->worker = worker;
    job->append.partition = partition;
    request_init(&job->append.request, worker->loop, job_done);
    buf_init(&job->notes, LIMIT_WORKER_IN_BYTES);
    list_push(&worker->delayed.turn, &job->link);
    worker->jobs++;
    return job;
}

enum status delayed_publish(struct client *client, const struct publish *publish,
                            uint64_t partition, const struct record_input *input, size_t size)
{
    struct broker_worker *worker = client->worker;
    struct delay_record record;
    enum status status = delayed_record(client, publish, partition, input, &record);
    if (status != STATUS_OK)
        return status;
    struct delayed_job *job = job_of(worker, partition);
    delayed_append_add(&job->append, client, publish, &record);
    struct session *noting = publish_is_deduped(publish) /* as publish.c says */
                                 ? NULL
                                 : session_note_publish(client, publish, &job->notes);
    job->bytes += size;
    worker->in_bytes += size;
    if (publish->answer)
        answers_add(&job->answers, client, publish->token, size, job->append.count - 1, noting);
    return STATUS_OK;
}

void delayed_seal(struct broker_worker *worker)
{
    struct link *link;
    while ((link = list_pop(&worker->delayed.turn)) != NULL) {
        struct delayed_job *job = container_of(link, struct delayed_job, link);
        note_rows(job);
        delayed_append_send(&job->append, worker);
    }
}

/* ------------------------------------------------ canceling */

static void cancel_done(struct request *request, enum status status)
{
    struct delayed_cancel *job = container_of(request, struct delayed_cancel, cancel.request);
    job->from->calls--;
    request_complete(job->request, status);
    heap_free(job);
}

static void cancel_serve(struct delayed_cancel *job)
{
    struct broker_worker *owner = job->owner;
    struct delay *delay = owner->ending ? NULL : delay_of(owner, job->cancel.id.partition);
    if (delay != NULL)
        delay_cancel(delay, &job->cancel);
    else
        request_complete(&job->cancel.request,
                         owner->ending ? STATUS_SHUTTING_DOWN : STATUS_NOT_FOUND);
}

static void cancel_arrive(struct mail *mail)
{
    struct delayed_cancel *job = container_of(mail, struct delayed_cancel, mail);
    if (job->owner->delayed.walk.running)
        list_push(&job->owner->delayed.cancels, &job->link);
    else
        cancel_serve(job);
}

void broker_cancel_delayed(struct client *client, const struct queue *queue,
                           const struct delay_id *id, struct request *request)
{
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop) && client->open);
    if (worker->ending || id->partition - queue->first_partition >= queue->partition_count) {
        request_complete(request, worker->ending ? STATUS_SHUTTING_DOWN : STATUS_NOT_FOUND);
        return;
    }
    struct delayed_cancel *job = heap_new(sizeof *job);
    job->from = worker;
    job->owner = &worker->broker->workers[log_owner(worker->broker->log, id->partition)];
    job->request = request;
    job->mail.deliver = cancel_arrive;
    job->cancel.id = *id;
    job->cancel.principal = client->principal == NULL ? 0 : client->principal->id;
    job->cancel.any =
        broker_check(client, ACTION_MANAGE, false, span_from_text(queue->name)) == STATUS_OK;
    request_init(&job->cancel.request, worker->loop, cancel_done);
    worker->calls++;
    mailbox_post(job->owner->loop, &job->mail);
}
