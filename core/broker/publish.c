/* SPDX-License-Identifier: Apache-2.0 */
/* From one message to its partition: the address is resolved once per client and topic, and records
 * of one loop turn share a batch per partition. */
#include "core/broker/answer.h"
#include "core/broker/temporary.h"
#include "core/broker/topic.h"
#include "core/broker/session.h"

#include "core/base/hash.h"
#include "core/base/heap.h"

enum { ADDRESSES = 16, WAKE_MS = 2, NOTES_BYTES = LIMIT_BATCH_RECORDS * SESSION_NOTE_ROW };

/* ------------------------------------------------ addresses */

struct address {
    uint64_t hash;            /* keyed, so a match is proof enough */
    uint64_t generation;      /* of the catalog it was resolved with */
    uint64_t queue;           /* sent to by name; 0: a topic */
    struct outbox *outbox;    /* of a topic */
    const struct queue *home; /* of a topic: borrowed from that catalog */
    enum status status;
    bool unstored; /* records at most once stay in memory */
};

struct address_cache {
    struct address slots[ADDRESSES];
};

static struct outbox *outbox_of(struct broker_worker *worker, uint64_t partition)
{
    struct outbox *outbox = map_get(&worker->outboxes, span_of(&partition, sizeof partition));
    if (outbox != NULL)
        return outbox;
    outbox = heap_new(sizeof *outbox);
    outbox->partition = partition;
    outbox->worker = worker;
    batch_builder_init(&outbox->builder);
    buf_init(&outbox->notes, NOTES_BYTES);
    link_init(&outbox->dirty);
    map_put(&worker->outboxes, span_of(&outbox->partition, sizeof outbox->partition), outbox);
    return outbox;
}

static void outbox_free(struct outbox *outbox)
{
    buf_deinit(&outbox->notes);
    batch_builder_deinit(&outbox->builder);
    deduped_items_deinit(&outbox->items);
    answers_deinit(&outbox->answers);
    heap_free(outbox);
}

static bool is_reserved(const struct broker_options *options, struct span topic)
{
    const char *prefix = options->reserved_topics;
    return prefix != NULL && topic.size >= strlen(prefix) &&
           memcmp(topic.data, prefix, strlen(prefix)) == 0 &&
           (options->reserved_except == NULL ||
            !topic_matches(span_from_text(options->reserved_except), topic));
}

enum status broker_topic_status(const struct broker_worker *worker, struct span topic)
{
    const struct broker *broker = worker->broker;
    if (!topic_name_is_valid(topic) || topic_levels(topic) > broker_topic_levels(broker))
        return STATUS_INVALID;
    return is_reserved(&broker->options, topic) ? STATUS_DENIED : STATUS_OK;
}

static void address_resolve(struct client *client, struct span topic, struct address *address)
{
    struct broker_worker *worker = client->worker;
    address->outbox = NULL;
    address->home = NULL;
    address->unstored = false;
    address->status = broker_topic_status(worker, topic);
    if (address->status == STATUS_OK)
        address->status = broker_check(client, ACTION_PUBLISH, true, topic);
    if (address->status != STATUS_OK)
        return;
    const struct queue *queue = catalog_home(worker->catalog, client->tenant, topic);
    address->outbox = outbox_of(worker, queue_partition_of_key(queue, topic));
    address->home = queue;
    address->unstored = queue->built_in;
}

/* Rights change with the catalog's generation only, so what was resolved under one holds for it. */
static const struct address *address_of(struct client *client, const struct publish *publish)
{
    if (client->addresses == NULL)
        client->addresses = heap_new(sizeof *client->addresses);
    uint64_t queue = publish->queue == NULL ? 0 : publish->queue->id;
    uint64_t hash = queue == 0 ? hash_bytes(publish->topic) : hash_u64(queue);
    uint64_t generation = catalog_generation(client->worker->catalog) + 1; /* 0 marks a free slot */
    struct address *address = &client->addresses->slots[hash % ADDRESSES];
    if (address->hash == hash && address->queue == queue && address->generation == generation)
        return address;
    if (queue == 0)
        address_resolve(client, publish->topic, address);
    else
        *address = (struct address){.status = broker_check(client, ACTION_PUBLISH, false,
                                                           span_from_text(publish->queue->name))};
    address->hash = hash;
    address->queue = queue;
    address->generation = generation;
    return address;
}

/* A record for a queue by name: by key or id where it has one, else to a partition that this worker
 * owns. */
static uint64_t partition_of(const struct broker_worker *worker, const struct publish *publish)
{
    const struct queue *queue = publish->queue;
    if (publish->key.data != NULL || queue->type == QUEUE_FIFO)
        return queue_partition_of_key(queue, publish->key);
    if (publish_is_deduped(publish))
        return queue_partition_of_key(queue, publish->dedup_id.data != NULL ? publish->dedup_id
                                                                            : publish->producer);
    for (uint32_t i = 0; i < queue->partition_count; i++)
        if (log_owner(worker->broker->log, queue->first_partition + i) == worker->index)
            return queue->first_partition + i;
    return queue->first_partition + worker->index % queue->partition_count;
}

void publish_close(struct client *client)
{
    link_remove(&client->waiting);
    heap_free(client->addresses);
    client->addresses = NULL;
    answers_close(client);
}

/* ------------------------------------------------ batches on their way */

struct job {
    struct trip trip;
    struct log_append append;
    struct broker_worker *worker;
    uint64_t bytes;
    struct deduped_append *deduped; /* NULL: straight into the log */
    uint32_t count;
    struct answer answers[];
};

static void trip_start(struct broker_worker *worker, struct trip *trip)
{
    worker->flying++;
    worker->flying_epoch = trip->epoch;
    trip->start(trip);
}

static bool may_start(const struct broker_worker *worker, const struct trip *trip)
{
    return worker->flying == 0 || worker->flying_epoch == trip->epoch;
}

static void start_held(struct broker_worker *worker)
{
    struct link *link;
    while ((link = list_first(&worker->held)) != NULL) {
        struct trip *trip = container_of(link, struct trip, held);
        if (!may_start(worker, trip))
            return;
        link_remove(link);
        trip_start(worker, trip);
    }
}

void publish_depart(struct broker_worker *worker, struct trip *trip,
                    void (*start)(struct trip *trip))
{
    trip->start = start;
    trip->epoch = worker->epoch;
    worker->jobs++;
    if (list_is_empty(&worker->held) && may_start(worker, trip))
        trip_start(worker, trip);
    else
        list_push(&worker->held, &trip->held);
}

void publish_back(struct broker_worker *worker)
{
    worker->jobs--;
    worker->flying--;
    start_held(worker);
    publish_wake(worker);
}

static void job_start(struct trip *trip)
{
    struct job *job = container_of(trip, struct job, trip);
    if (job->deduped != NULL)
        deduped_send(job->worker, job->deduped);
    else
        log_append(job->worker->log, &job->append);
}

void publish_wake(struct broker_worker *worker)
{
    if (worker->in_bytes > LIMIT_WORKER_IN_BYTES / 2)
        return;
    struct list waiting;
    list_init(&waiting);
    struct link *link;
    while ((link = list_pop(&worker->waiting)) != NULL)
        list_push(&waiting, link);
    while ((link = list_pop(&waiting)) != NULL) {
        struct client *client = container_of(link, struct client, waiting);
        if (broker_may_publish(client))
            client->ops->resume(client);
    }
}

void publish_take_back(const struct broker_worker *worker, uint64_t partition, uint32_t records,
                       uint64_t bytes)
{
    const struct queue *queue =
        records == 0 ? NULL : catalog_queue_of_partition(worker->catalog, partition);
    if (queue != NULL)
        queue_take_back(queue, partition, records, bytes);
}

static void job_end(struct job *job)
{
    struct broker_worker *worker = job->worker;
    publish_take_back(worker, job->append.partition, job->append.pending_records,
                      job->append.pending_bytes);
    answers_return(job->answers, job->count);
    worker->in_bytes -= job->bytes;
    batch_unref(job->append.batch);
    heap_free(job);
    publish_back(worker);
}

static void job_done(struct request *request, enum status status)
{
    struct job *job = container_of(request, struct job, append.request);
    struct broker_worker *worker = job->worker;
    uint64_t base = job->append.batch->base_offset;
    uint64_t partition = job->append.partition;
    if (status != STATUS_OK)
        metric_add(worker->broker->metrics.dropped_storage,
                   (int64_t)job->append.batch->record_count - job->count);
    for (uint32_t i = 0; i < job->count; i++) {
        const struct answer *answer = &job->answers[i];
        struct answer_place place = {.partition = partition, .offset = base + answer->record};
        answer_settle(answer, status, &place);
    }
    job_end(job);
}

/* Each record has the outcome of its item; answers and items are in the order of the records. */
static void settle_items(const struct job *job, enum status status)
{
    const struct dedup_append *append = &job->deduped->append;
    uint32_t first = 0, next = 0, refused = 0;
    int64_t duplicates = 0;
    for (uint32_t i = 0; i < append->count; first += append->items[i++].record_count) {
        const struct dedup_item *item = &append->items[i];
        enum status outcome = status == STATUS_OK ? item->status : status;
        refused += outcome == STATUS_OK ? 0 : item->record_count;
        duplicates += outcome == STATUS_OK && item->duplicate ? item->record_count : 0;
        bool known = outcome == STATUS_OK && item->offset != DEDUP_OFFSET_UNKNOWN;
        for (; next < job->count && job->answers[next].record - first < item->record_count;
             next++) {
            struct answer_place place = {
                .partition = job->deduped->partition,
                .offset =
                    known ? item->offset + job->answers[next].record - first : DEDUP_OFFSET_UNKNOWN,
                .due_ms = outcome == STATUS_OK ? item->due_ms : 0,
            };
            answer_settle(&job->answers[next], outcome, &place);
            refused -= outcome != STATUS_OK;
        }
    }
    metric_add(job->worker->broker->metrics.dropped_storage, refused);
    metric_add(job->worker->broker->metrics.duplicates, duplicates);
}

static void deduped_done(struct request *request, enum status status)
{
    struct deduped_append *deduped = container_of(request, struct deduped_append, append.request);
    struct job *job = deduped->context;
    struct broker_worker *worker = job->worker;
    settle_items(job, status);
    job->append.pending_records = deduped->append.pending_records;
    job->append.pending_bytes = deduped->append.pending_bytes;
    struct outbox *outbox =
        map_get(&worker->outboxes, span_of(&deduped->partition, sizeof deduped->partition));
    if (outbox != NULL) /* of a queue that is still there */
        outbox->deduping--;
    heap_free(deduped->append.items);
    heap_free(deduped);
    job_end(job);
}

/* What comes behind a batch with ids goes the same way, so that it stays behind it. */
static void job_dedup(struct job *job, struct outbox *outbox)
{
    struct deduped_items *items = &outbox->items;
    struct log_append *append = &job->append;
    deduped_items_end(items, append->batch->record_count);
    struct deduped_append *deduped = heap_new(sizeof *deduped);
    deduped->context = job;
    deduped->partition = outbox->partition;
    deduped->append.batch = append->batch;
    deduped->append.items = items->items;
    deduped->append.count = items->count;
    deduped->append.pending_records = append->pending_records;
    deduped->append.pending_bytes = append->pending_bytes;
    *items = (struct deduped_items){0};
    request_init(&deduped->append.request, job->worker->loop, deduped_done);
    job->deduped = deduped;
    outbox->deduping++;
}

static void outbox_submit(struct outbox *outbox)
{
    struct broker_worker *worker = outbox->worker;
    link_remove(&outbox->dirty);
    struct batch *batch = batch_builder_seal(&outbox->builder);
    if (batch == NULL)
        return;
    batch->notes = outbox->notes.data;
    batch->notes_size = (uint32_t)outbox->notes.size;
    buf_init(&outbox->notes, NOTES_BYTES);
    size_t answers = outbox->answers.count * sizeof(struct answer);
    struct job *job = heap_resize(NULL, sizeof *job + answers);
    memset(job, 0, sizeof *job);
    if (answers > 0)
        memcpy(job->answers, outbox->answers.items, answers);
    job->worker = worker;
    job->count = outbox->answers.count;
    job->bytes = outbox->bytes;
    outbox->answers.count = 0;
    outbox->bytes = 0;
    job->append.pending_records = outbox->pending_records;
    job->append.pending_bytes = outbox->pending_bytes;
    outbox->pending_records = 0;
    outbox->pending_bytes = 0;
    request_init(&job->append.request, worker->loop, job_done);
    job->append.partition = outbox->partition;
    job->append.batch = batch;
    if (outbox->items.count > 0 || outbox->deduping > 0)
        job_dedup(job, outbox);
    metric_observe(worker->broker->metrics.batch_records, batch->record_count);
    publish_depart(worker, &job->trip, job_start);
}

/* Delivered at the end of the turn: nobody is called back from inside of a publish. */
static void live_seal(struct broker_worker *worker)
{
    struct batch *batch = batch_builder_seal(&worker->live);
    if (batch != NULL)
        list_push(&worker->live_full, &batch->in_tail);
}

void publish_submit(struct broker_worker *worker)
{
    struct link *link;
    while ((link = list_first(&worker->dirty)) != NULL)
        outbox_submit(container_of(link, struct outbox, dirty));
}

void publish_seal(struct broker_worker *worker)
{
    live_seal(worker);
    struct link *link;
    while ((link = list_pop(&worker->live_full)) != NULL)
        deliver_live(worker, container_of(link, struct batch, in_tail));
    publish_submit(worker);
    delayed_seal(worker);
    figures_flush(worker);
}

static void seal_task(struct loop_task *task)
{
    publish_seal(container_of(task, struct broker_worker, seal_task));
}

static void wake_timer(struct loop_timer *timer)
{
    publish_wake(container_of(timer, struct broker_worker, wake_timer));
}

void publish_init(struct broker_worker *worker)
{
    worker->seal_task.run = seal_task;
    worker->wake_timer.fired = wake_timer;
    list_init(&worker->dirty);
    list_init(&worker->live_full);
    list_init(&worker->waiting);
    list_init(&worker->held);
    map_init(&worker->outboxes);
    batch_builder_init(&worker->live);
}

void publish_reroute(struct broker_worker *worker)
{
    publish_seal(worker);
    worker->epoch++;
}

void publish_forget(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        uint64_t partition = queue->first_partition + i;
        struct outbox *outbox =
            map_remove(&worker->outboxes, span_of(&partition, sizeof partition));
        if (outbox == NULL)
            continue;
        outbox_submit(outbox); /* to be refused by its owner */
        outbox_free(outbox);
    }
}

void publish_deinit(struct broker_worker *worker)
{
    loop_task_cancel(worker->loop, &worker->seal_task);
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->outboxes, &i)) != NULL;)
        outbox_free(slot->value);
    map_deinit(&worker->outboxes);
    struct link *link;
    while ((link = list_pop(&worker->live_full)) != NULL)
        batch_unref(container_of(link, struct batch, in_tail));
    batch_builder_deinit(&worker->live);
}

/* ------------------------------------------------ the call */

static void refuse(struct client *client, const struct publish *publish, enum status status)
{
    figures_refused(client->figures, status);
    if (publish->answer)
        answer_refuse(client, publish->token, status);
}

static size_t publish_size(const struct client *client, const struct publish *publish)
{
    size_t size =
        64 + publish->topic.size + publish->key.size + publish->body.size + client->publisher_size;
    for (uint32_t i = 0; i < publish->header_count; i++)
        size += 4 + publish->headers[i].name.size + publish->headers[i].value.size;
    return size;
}

static bool has_header(const struct publish *publish, const char *name)
{
    for (uint32_t i = 0; i < publish->header_count; i++)
        if (span_is(publish->headers[i].name, name))
            return true;
    return false;
}

/* The record as it is stored. standard has room for the headers that the broker sets. */
static struct record_input record_of(const struct client *client, const struct publish *publish,
                                     struct header standard[2])
{
    uint32_t count = 0;
    /* A record sent to a queue has no topic; a null one keeps a user header of that name from
     * passing for it. */
    if (publish->queue == NULL || has_header(publish, HEADER_TOPIC))
        standard[count++] =
            (struct header){span_of(HEADER_TOPIC, sizeof HEADER_TOPIC - 1), publish->topic};
    standard[count++] = (struct header){span_of(HEADER_PUBLISHER, sizeof HEADER_PUBLISHER - 1),
                                        span_of(client->publisher, client->publisher_size)};
    return (struct record_input){
        .timestamp_ms = worker_wall_ms(client->worker),
        .attributes =
            (uint8_t)((unsigned)publish->guarantee | (publish->retain ? RECORD_RETAIN : 0u) |
                      (publish->not_durable ? RECORD_NOT_DURABLE : 0u)),
        .key = publish->key,
        .value = publish->body,
        .headers = standard,
        .header_count = count,
        .more_headers = publish->headers,
        .more_count = publish->header_count,
    };
}

/* A full queue that refuses takes nothing more, whatever waits in this turn's batch. */
static enum status outbox_add(struct outbox *outbox, const struct queue *queue,
                              const struct record_input *record, size_t size)
{
    bool counted = queue->overflow == OVERFLOW_REFUSE;
    if (counted && !queue_admit(queue, outbox->partition, size))
        return STATUS_OVER_QUOTA;
    if (batch_builder_is_full(&outbox->builder, size))
        outbox_submit(outbox);
    enum status status = batch_builder_add(&outbox->builder, record);
    if (!counted)
        return status;
    if (status != STATUS_OK) {
        queue_take_back(queue, outbox->partition, 1, size);
        return status;
    }
    outbox->pending_records++;
    outbox->pending_bytes += size;
    return STATUS_OK;
}

static enum status publish_stored(struct client *client, const struct publish *publish,
                                  struct outbox *outbox, const struct queue *queue,
                                  const struct record_input *record, size_t size)
{
    struct broker_worker *worker = client->worker;
    struct session *noting = NULL;
    enum status status = outbox_add(outbox, queue, record, size);
    if (status != STATUS_OK)
        return status;
    if (publish_is_deduped(publish))
        deduped_items_add(&outbox->items, client, publish, outbox->builder.record_count);
    else /* one with an id may be refused by itself, and is known again by that id */
        noting = session_note_publish(client, publish, &outbox->notes);
    outbox->bytes += size;
    worker->in_bytes += size;
    worker->stored_now++;
    if (publish->answer)
        answers_add(&outbox->answers, client, publish->token, size,
                    outbox->builder.record_count - 1, noting);
    if (!link_is_linked(&outbox->dirty))
        list_push(&worker->dirty, &outbox->dirty);
    return STATUS_OK;
}

static enum status publish_live(struct broker_worker *worker, const struct record_input *record,
                                size_t size)
{
    if (batch_builder_is_full(&worker->live, size))
        live_seal(worker);
    enum status status = batch_builder_add(&worker->live, record);
    if (status == STATUS_OK)
        worker->live_now++;
    return status;
}

enum status publish_may_wait(const struct aim *aim)
{
    uint64_t partition = aim->outbox->partition;
    if (aim->queue->overflow != OVERFLOW_REFUSE)
        return STATUS_OK;
    if (!queue_admit(aim->queue, partition, aim->size))
        return STATUS_OVER_QUOTA;
    queue_take_back(aim->queue, partition, 1, aim->size);
    return STATUS_OK;
}

enum status publish_may_begin(struct client *client)
{
    struct broker_worker *worker = client->worker;
    uint32_t rate = worker->broker->options.publish_rate;
    if (client->last_words)
        return STATUS_OK;
    if (worker->ending)
        return STATUS_SHUTTING_DOWN;
    if (rate > 0 && !rate_take(&client->publishes, loop_now_ms(worker->loop), rate))
        return STATUS_OVER_QUOTA;
    /* Who asks broker_may_publish() first does not meet this. */
    return worker->in_bytes >= LIMIT_WORKER_IN_BYTES + LIMIT_CLIENT_IN_BYTES ? STATUS_BUSY
                                                                             : STATUS_OK;
}

enum status publish_check(const struct client *client, const struct publish *publish, size_t *size)
{
    *size = publish_size(client, publish);
    if (*size > LIMIT_RECORD_BYTES || publish->header_count > LIMIT_HEADERS)
        return STATUS_TOO_LARGE;
    /* It would outlive the client, and nobody could read it. */
    if (publish->retain && publish->body.size > 0 && publish->queue == NULL &&
        temporary_right(client, true, publish->topic) != TEMPORARY_NONE)
        return STATUS_INVALID;
    return publish_is_deduped(publish) ? broker_check_id(publish, NULL) : STATUS_OK;
}

enum status publish_aim(struct client *client, const struct publish *publish, struct aim *aim)
{
    struct broker_worker *worker = client->worker;
    const struct address *address = address_of(client, publish);
    if (address->status != STATUS_OK)
        return address->status;
    enum status status = publish_check(client, publish, &aim->size);
    if (status != STATUS_OK)
        return status;
    aim->outbox =
        publish->queue == NULL ? address->outbox : outbox_of(worker, partition_of(worker, publish));
    aim->queue = publish->queue != NULL ? publish->queue : address->home;
    aim->unstored = address->unstored;
    aim->record = record_of(client, publish, aim->standard);
    return STATUS_OK;
}

static enum status publish_now(struct client *client, const struct publish *publish)
{
    struct aim aim;
    enum status status = publish_may_begin(client);
    if (status == STATUS_OK)
        status = publish_aim(client, publish, &aim);
    if (status == STATUS_OK && publish->delay_ms > 0)
        status = publish_may_wait(&aim);
    if (status != STATUS_OK)
        return status;
    if (publish->delay_ms > 0)
        return delayed_publish(client, publish, aim.outbox->partition, &aim.record, aim.size);
    bool stored = publish->answer || publish->retain || publish_is_deduped(publish) ||
                  !aim.unstored || publish->guarantee != GUARANTEE_AT_MOST_ONCE;
    return stored ? publish_stored(client, publish, aim.outbox, aim.queue, &aim.record, aim.size)
                  : publish_live(client->worker, &aim.record, aim.size);
}

void broker_publish(struct client *client, const struct publish *publish)
{
    CHECK(loop_is_home(client->worker->loop));
    CHECK(client->open);
    enum status status = publish_now(client, publish);
    if (status != STATUS_OK) {
        refuse(client, publish, status);
        return;
    }
    client->figures->received_now++;
    loop_defer(client->worker->loop, &client->worker->seal_task, LOOP_WORK);
}

void broker_announce(struct broker_worker *worker, struct span topic, struct span body)
{
    struct header header = {span_from_text(HEADER_TOPIC), topic};
    struct record_input record = {
        .timestamp_ms = worker_wall_ms(worker),
        .attributes = GUARANTEE_AT_MOST_ONCE | RECORD_NOT_DURABLE,
        .value = body,
        .headers = &header,
        .header_count = 1,
    };
    CHECK(loop_is_home(worker->loop));
    if (!worker->ending && publish_live(worker, &record, 64 + topic.size + body.size) == STATUS_OK)
        loop_defer(worker->loop, &worker->seal_task, LOOP_WORK);
}

bool broker_may_publish(struct client *client)
{
    struct broker_worker *worker = client->worker;
    bool crowded = atomic_load_explicit(&worker->broker->crowded, memory_order_relaxed) > 0;
    bool room = !crowded && worker->in_bytes < LIMIT_WORKER_IN_BYTES && !answers_are_full(client) &&
                list_is_empty(&client->units);
    if (!room && !link_is_linked(&client->waiting))
        list_push(&worker->waiting, &client->waiting);
    /* The other worker says nothing when it has caught up. */
    if (crowded && !loop_timer_is_running(&worker->wake_timer))
        loop_timer_start(worker->loop, &worker->wake_timer, WAKE_MS);
    return room;
}
