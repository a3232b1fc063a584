/* SPDX-License-Identifier: Apache-2.0 */
/* From one message to its partition: the address is resolved once per client and topic, records of
 * one loop turn share a batch per partition, and answers go back in the order in which each client
 * asked. */
#include "core/broker/topic.h"
#include "core/broker/worker.h"

#include "core/base/hash.h"
#include "core/base/heap.h"

enum { ADDRESSES = 16, RING_FIRST = 16, RING_KEEP = 64, WAKE_MS = 2 };

/* ------------------------------------------------ addresses */

struct address {
    uint64_t hash;         /* keyed, so a match is proof enough */
    uint64_t generation;   /* of the catalog it was resolved with */
    uint64_t queue;        /* sent to by name; 0: a topic */
    struct outbox *outbox; /* of a topic */
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
    link_init(&outbox->dirty);
    map_put(&worker->outboxes, span_of(&outbox->partition, sizeof outbox->partition), outbox);
    return outbox;
}

static void outbox_free(struct outbox *outbox)
{
    batch_builder_deinit(&outbox->builder);
    heap_free(outbox->answers);
    heap_free(outbox);
}

static void address_resolve(struct client *client, struct span topic, struct address *address)
{
    struct broker_worker *worker = client->worker;
    address->outbox = NULL;
    address->unstored = false;
    if (!topic_name_is_valid(topic)) {
        address->status = STATUS_INVALID;
        return;
    }
    address->status = broker_check(client, ACTION_PUBLISH, true, topic);
    if (address->status != STATUS_OK)
        return;
    const struct queue *queue = catalog_home(worker->catalog, client->tenant, topic);
    address->outbox = outbox_of(worker, queue_partition_of_key(queue, topic));
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

/* A record for a queue by name: by key where it has one, else to a partition that this worker owns.
 */
static uint64_t partition_of(const struct broker_worker *worker, const struct publish *publish)
{
    const struct queue *queue = publish->queue;
    if (publish->key.data != NULL || queue->type == QUEUE_FIFO)
        return queue_partition_of_key(queue, publish->key);
    for (uint32_t i = 0; i < queue->partition_count; i++)
        if (log_owner(worker->broker->log, queue->first_partition + i) == worker->index)
            return queue->first_partition + i;
    return queue->first_partition + worker->index % queue->partition_count;
}

/* ------------------------------------------------ answers */

enum { ANSWER_PENDING = -1 };

struct ring_slot {
    uint64_t token;
    uint64_t partition, offset;
    int status;
};

/* Unanswered publishes of one client, oldest at head. Outlives the client while appends are under
 * way. */
struct answer_ring {
    struct client *client; /* NULL once it has gone */
    struct protocol_figures *figures;
    struct ring_slot *slots;
    uint32_t capacity;   /* a power of two */
    uint32_t head, tail; /* running numbers */
    uint32_t in_flight;  /* answers that appends still owe */
    uint64_t bytes;
    bool popping;
    struct loop_task task; /* answers refusals from the loop, not from inside the call */
};

/* An answer that a batch owes. */
struct answer {
    struct answer_ring *ring;
    uint32_t number;
    uint32_t bytes;
    uint32_t record; /* which of the batch */
};

static void ring_free(struct answer_ring *ring)
{
    heap_free(ring->slots);
    heap_free(ring);
}

/* An answer may make the client close, and then nothing holds the ring but appends under way. */
static void ring_pop(struct answer_ring *ring)
{
    CHECK(!ring->popping);
    ring->popping = true;
    while (ring->client != NULL && ring->head != ring->tail) {
        struct ring_slot slot = ring->slots[ring->head & (ring->capacity - 1)];
        if (slot.status == ANSWER_PENDING)
            break;
        ring->head++;
        ring->client->ops->answered(ring->client, slot.token, (enum status)slot.status,
                                    slot.partition, slot.offset);
    }
    ring->popping = false;
    if (ring->client == NULL) {
        if (ring->in_flight == 0)
            ring_free(ring);
    } else if (ring->head == ring->tail && ring->capacity > RING_KEEP) {
        heap_free(ring->slots);
        ring->slots = NULL;
        ring->capacity = 0;
    }
}

static void wake_waiting(struct broker_worker *worker);

static void ring_task(struct loop_task *task)
{
    struct answer_ring *ring = container_of(task, struct answer_ring, task);
    struct broker_worker *worker = ring->client->worker;
    ring_pop(ring);
    wake_waiting(worker);
}

static uint32_t ring_push(struct client *client, uint64_t token)
{
    struct answer_ring *ring = client->ring;
    if (ring == NULL) {
        ring = client->ring = heap_new(sizeof *ring);
        ring->client = client;
        ring->figures = client->figures;
        ring->task.run = ring_task;
    }
    if (ring->tail - ring->head == ring->capacity) {
        uint32_t capacity = ring->capacity == 0 ? RING_FIRST : ring->capacity * 2;
        struct ring_slot *slots = heap_array(capacity, sizeof *slots);
        for (uint32_t i = ring->head; i != ring->tail; i++)
            slots[i & (capacity - 1)] = ring->slots[i & (ring->capacity - 1)];
        heap_free(ring->slots);
        ring->slots = slots;
        ring->capacity = capacity;
    }
    uint32_t number = ring->tail++;
    ring->slots[number & (ring->capacity - 1)] =
        (struct ring_slot){.token = token, .status = ANSWER_PENDING};
    return number;
}

static void ring_settle(struct answer_ring *ring, uint32_t number, enum status status,
                        uint64_t partition, uint64_t offset)
{
    if (ring->client == NULL)
        return;
    struct ring_slot *slot = &ring->slots[number & (ring->capacity - 1)];
    slot->status = (int)status;
    slot->partition = partition;
    slot->offset = offset;
}

void publish_close(struct client *client)
{
    link_remove(&client->waiting);
    heap_free(client->addresses);
    client->addresses = NULL;
    struct answer_ring *ring = client->ring;
    client->ring = NULL;
    if (ring == NULL)
        return;
    loop_task_cancel(client->worker->loop, &ring->task);
    ring->client = NULL;
    if (ring->in_flight == 0 && !ring->popping)
        ring_free(ring);
}

/* ------------------------------------------------ batches on their way */

struct job {
    struct log_append append;
    struct broker_worker *worker;
    uint64_t epoch;
    struct link held;
    uint64_t bytes;
    uint32_t count;
    struct answer answers[];
};

static void job_start(struct job *job)
{
    struct broker_worker *worker = job->worker;
    worker->flying++;
    worker->flying_epoch = job->epoch;
    log_append(worker->log, &job->append);
}

static bool may_start(const struct job *job)
{
    return job->worker->flying == 0 || job->worker->flying_epoch == job->epoch;
}

static void start_held(struct broker_worker *worker)
{
    struct link *link;
    while ((link = list_first(&worker->held)) != NULL) {
        struct job *job = container_of(link, struct job, held);
        if (!may_start(job))
            return;
        link_remove(link);
        job_start(job);
    }
}

static void wake_waiting(struct broker_worker *worker)
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
        struct answer *answer = &job->answers[i];
        if (status != STATUS_OK)
            figures_refused(answer->ring->figures, status);
        ring_settle(answer->ring, answer->number, status, partition, base + answer->record);
        answer->ring->bytes -= answer->bytes;
    }
    /* Consecutive answers mostly belong to one client: its ring is emptied once, at the end of its
     * run. */
    for (uint32_t i = 0; i < job->count; i++) {
        struct answer_ring *ring = job->answers[i].ring;
        ring->in_flight--;
        if (i + 1 == job->count || job->answers[i + 1].ring != ring)
            ring_pop(ring);
    }
    worker->in_bytes -= job->bytes;
    worker->jobs--;
    worker->flying--;
    batch_unref(job->append.batch);
    heap_free(job);
    start_held(worker);
    wake_waiting(worker);
}

static void outbox_submit(struct outbox *outbox)
{
    struct broker_worker *worker = outbox->worker;
    link_remove(&outbox->dirty);
    struct batch *batch = batch_builder_seal(&outbox->builder);
    if (batch == NULL)
        return;
    size_t answers = outbox->answer_count * sizeof(struct answer);
    struct job *job = heap_resize(NULL, sizeof *job + answers);
    memset(job, 0, sizeof *job);
    if (answers > 0)
        memcpy(job->answers, outbox->answers, answers);
    job->worker = worker;
    job->count = outbox->answer_count;
    job->bytes = outbox->bytes;
    outbox->answer_count = 0;
    outbox->bytes = 0;
    request_init(&job->append.request, worker->loop, job_done);
    job->append.partition = outbox->partition;
    job->append.batch = batch;
    worker->jobs++;
    metric_observe(worker->broker->metrics.batch_records, batch->record_count);
    job->epoch = worker->epoch;
    if (list_is_empty(&worker->held) && may_start(job))
        job_start(job);
    else
        list_push(&worker->held, &job->held);
}

/* Delivered at the end of the turn: nobody is called back from inside of a publish. */
static void live_seal(struct broker_worker *worker)
{
    struct batch *batch = batch_builder_seal(&worker->live);
    if (batch != NULL)
        list_push(&worker->live_full, &batch->in_tail);
}

void publish_seal(struct broker_worker *worker)
{
    live_seal(worker);
    struct link *link;
    while ((link = list_pop(&worker->live_full)) != NULL)
        deliver_live(worker, container_of(link, struct batch, in_tail));
    while ((link = list_first(&worker->dirty)) != NULL)
        outbox_submit(container_of(link, struct outbox, dirty));
    figures_flush(worker);
}

static void seal_task(struct loop_task *task)
{
    publish_seal(container_of(task, struct broker_worker, seal_task));
}

static void wake_timer(struct loop_timer *timer)
{
    wake_waiting(container_of(timer, struct broker_worker, wake_timer));
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
    if (!publish->answer)
        return;
    uint32_t number = ring_push(client, publish->token);
    ring_settle(client->ring, number, status, 0, 0);
    loop_defer(client->worker->loop, &client->ring->task, LOOP_WORK);
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

/* The record just added is to be answered. */
static void outbox_answer(struct outbox *outbox, struct client *client,
                          const struct publish *publish, size_t size)
{
    uint32_t number = ring_push(client, publish->token);
    client->ring->in_flight++;
    client->ring->bytes += size;
    if (outbox->answer_count == outbox->answer_capacity) {
        outbox->answer_capacity = outbox->answer_capacity == 0 ? 64 : outbox->answer_capacity * 2;
        outbox->answers =
            heap_resize(outbox->answers, outbox->answer_capacity * sizeof *outbox->answers);
    }
    outbox->answers[outbox->answer_count++] = (struct answer){
        .ring = client->ring,
        .number = number,
        .bytes = (uint32_t)size,
        .record = outbox->builder.record_count - 1,
    };
}

void broker_publish(struct client *client, const struct publish *publish)
{
    struct broker_worker *worker = client->worker;
    CHECK(loop_is_home(worker->loop));
    CHECK(client->open);
    if (worker->ending) {
        refuse(client, publish, STATUS_SHUTTING_DOWN);
        return;
    }
    /* Who asks broker_may_publish() first does not come here. */
    if (worker->in_bytes >= LIMIT_WORKER_IN_BYTES + LIMIT_CLIENT_IN_BYTES) {
        refuse(client, publish, STATUS_BUSY);
        return;
    }
    const struct address *address = address_of(client, publish);
    if (address->status != STATUS_OK) {
        refuse(client, publish, address->status);
        return;
    }
    struct outbox *outbox =
        publish->queue == NULL ? address->outbox : outbox_of(worker, partition_of(worker, publish));
    bool unstored = address->unstored;

    size_t size = publish_size(client, publish);
    if (size > LIMIT_RECORD_BYTES || publish->header_count > LIMIT_HEADERS) {
        refuse(client, publish, STATUS_TOO_LARGE);
        return;
    }
    bool stored = publish->answer || publish->retain || !unstored ||
                  publish->guarantee != GUARANTEE_AT_MOST_ONCE;
    struct batch_builder *builder = stored ? &outbox->builder : &worker->live;
    if (batch_builder_is_full(builder, size)) {
        if (stored)
            outbox_submit(outbox);
        else
            live_seal(worker);
    }

    struct header standard[2];
    uint32_t count = 0;
    /* A record sent to a queue has no topic; a null one keeps a user header of that name from
     * passing for it. */
    if (publish->queue == NULL || has_header(publish, HEADER_TOPIC))
        standard[count++] =
            (struct header){span_of(HEADER_TOPIC, sizeof HEADER_TOPIC - 1), publish->topic};
    standard[count++] = (struct header){span_of(HEADER_PUBLISHER, sizeof HEADER_PUBLISHER - 1),
                                        span_of(client->publisher, client->publisher_size)};
    struct record_input record = {
        .timestamp_ms = worker_wall_ms(worker),
        .attributes =
            (uint8_t)((unsigned)publish->guarantee | (publish->retain ? RECORD_RETAIN : 0u)),
        .key = publish->key,
        .value = publish->body,
        .headers = standard,
        .header_count = count,
        .more_headers = publish->headers,
        .more_count = publish->header_count,
    };
    enum status status = batch_builder_add(builder, &record);
    if (status != STATUS_OK) {
        refuse(client, publish, status);
        return;
    }
    if (stored) {
        outbox->bytes += size;
        worker->in_bytes += size;
        worker->stored_now++;
        if (publish->answer)
            outbox_answer(outbox, client, publish, size);
        if (!link_is_linked(&outbox->dirty))
            list_push(&worker->dirty, &outbox->dirty);
    } else {
        worker->live_now++;
    }
    client->figures->received_now++;
    loop_defer(worker->loop, &worker->seal_task, LOOP_WORK);
}

bool broker_may_publish(struct client *client)
{
    const struct answer_ring *ring = client->ring;
    struct broker_worker *worker = client->worker;
    bool crowded = atomic_load_explicit(&worker->broker->crowded, memory_order_relaxed) > 0;
    bool room = !crowded && worker->in_bytes < LIMIT_WORKER_IN_BYTES &&
                (ring == NULL || (ring->bytes < LIMIT_CLIENT_IN_BYTES &&
                                  ring->tail - ring->head < LIMIT_PUBLISH_PENDING));
    if (!room && !link_is_linked(&client->waiting))
        list_push(&worker->waiting, &client->waiting);
    /* The other worker says nothing when it has caught up. */
    if (crowded && !loop_timer_is_running(&worker->wake_timer))
        loop_timer_start(worker->loop, &worker->wake_timer, WAKE_MS);
    return room;
}
