/* SPDX-License-Identifier: Apache-2.0 */
/* Batches that hold records with an id go to the owner of their partition and through what that
 * remembers, instead of straight into the log. */
#include "core/broker/deduped.h"

#include "core/base/heap.h"
#include "core/broker/worker.h"

struct home_dedup {
    uint64_t partition;
    struct dedup *dedup;
};

/* ------------------------------------------------ of this worker's partitions */

static struct home_dedup *home_find(const struct broker_worker *worker, uint64_t partition)
{
    return map_get(&worker->deduped.dedups, span_of(&partition, sizeof partition));
}

struct dedup *deduped_of(struct broker_worker *worker, uint64_t partition)
{
    struct home_dedup *home = home_find(worker, partition);
    if (home != NULL)
        return home->dedup;
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    if (queue == NULL || !log_has(worker->log, partition))
        return NULL;
    home = heap_new(sizeof *home);
    home->partition = partition;
    home->dedup = dedup_open(&worker->deduped.shared, partition, queue->dedup_ms);
    map_put(&worker->deduped.dedups, span_of(&home->partition, sizeof home->partition), home);
    return home->dedup;
}

/* What a queue has left that was deleted just before the gateway stopped goes now; what another
 * remembers grows old also when nothing is published to it. */
static void found(struct broker_worker *worker, uint64_t partition)
{
    if (log_owner(worker->broker->log, partition) == worker->index &&
        deduped_of(worker, partition) == NULL)
        dedup_close(dedup_open(&worker->deduped.shared, partition, 0), true);
}

void deduped_init(struct broker_worker *worker)
{
    map_init(&worker->deduped.dedups);
}

void deduped_open(struct broker_worker *worker)
{
    worker->deduped.shared = (struct dedup_worker){
        .log = worker->broker->log,
        .log_worker = worker->log,
        .loop = worker->loop,
        .key_limit = worker->broker->options.dedup_key_limit,
        .producer_limit = worker->broker->options.producer_limit,
    };
    worker->deduped.walk = (struct row_walk){.table = TABLE_DEDUP, .found = found};
    row_walk_start(&worker->deduped.walk, worker);
}

void deduped_change(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        const struct home_dedup *home = home_find(worker, queue->first_partition + i);
        if (home != NULL)
            dedup_limit(home->dedup, queue->dedup_ms);
    }
}

static void home_close(struct home_dedup *home, bool remove)
{
    dedup_close(home->dedup, remove);
    heap_free(home);
}

void deduped_forget(struct broker_worker *worker, const struct queue *queue)
{
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        uint64_t partition = queue->first_partition + i;
        struct home_dedup *home =
            map_remove(&worker->deduped.dedups, span_of(&partition, sizeof partition));
        if (home != NULL)
            home_close(home, true);
    }
}

void deduped_close_delays(struct broker_worker *worker)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->deduped.dedups, &i)) != NULL;) {
        const struct home_dedup *home = slot->value;
        dedup_close_delay(home->dedup);
    }
}

void deduped_close(struct broker_worker *worker)
{
    worker->deduped.closed = true;
    struct map *dedups = &worker->deduped.dedups;
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(dedups, &i)) != NULL;)
        home_close(slot->value, false);
    map_deinit(dedups);
    map_init(dedups);
}

bool deduped_is_busy(const struct broker_worker *worker)
{
    return worker->deduped.walk.running || worker->deduped.shared.in_flight > 0;
}

void deduped_deinit(struct broker_worker *worker)
{
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&worker->deduped.dedups, &i)) != NULL;)
        heap_free(slot->value);
    map_deinit(&worker->deduped.dedups);
}

/* ------------------------------------------------ what a batch holds */

void deduped_items_deinit(struct deduped_items *items)
{
    heap_free(items->items);
    *items = (struct deduped_items){0};
}

static struct dedup_item *item_new(struct deduped_items *items, uint32_t record_count)
{
    if (items->count == items->capacity) {
        items->capacity = items->capacity == 0 ? 16 : items->capacity * 2;
        items->items = heap_resize(items->items, items->capacity * sizeof *items->items);
    }
    struct dedup_item *item = &items->items[items->count++];
    *item = (struct dedup_item){.record_count = record_count, .sequence = -1};
    items->record_count += record_count;
    return item;
}

void deduped_items_end(struct deduped_items *items, uint32_t record_count)
{
    if (items->record_count < record_count)
        item_new(items, record_count - items->record_count);
}

/* A producer is known by its name, who it is, and the topic that its numbers count in. */
static uint64_t producer_of(const struct client *client, const struct publish *publish)
{
    struct {
        uint64_t principal, name[2], topic[2];
    } whole = {.principal = client->principal == NULL ? 0 : client->principal->id};
    memcpy(whole.name, dedup_key_of(publish->producer, 0).hash, sizeof whole.name);
    if (publish->queue == NULL)
        memcpy(whole.topic, dedup_key_of(publish->topic, 0).hash, sizeof whole.topic);
    return dedup_key_of(span_of(&whole, sizeof whole), 0).hash[0];
}

void deduped_items_add(struct deduped_items *items, const struct client *client,
                       const struct publish *publish, uint32_t record_count)
{
    deduped_items_end(items, record_count - 1);
    struct dedup_item *item = item_new(items, 1);
    item->owner = client->principal == NULL ? 0 : client->principal->id;
    if (publish->dedup_id.data != NULL) {
        item->key = dedup_key_of(publish->dedup_id, publish->dedup_part);
    } else {
        item->producer = producer_of(client, publish);
        item->epoch = publish->producer_epoch;
        item->sequence = publish->sequence;
    }
}

enum status broker_check_id(const struct publish *publish, struct err *err)
{
    const struct queue *queue = publish->queue;
    bool numbered = publish->producer.data != NULL;
    struct span id = numbered ? publish->producer : publish->dedup_id;
    if (id.data == NULL)
        return STATUS_OK;
    if (numbered && publish->dedup_id.data != NULL)
        return err_set(err, STATUS_INVALID, "a message has an id or a producer, not both");
    if (numbered && publish->delay_ms > 0)
        return err_set(err, STATUS_INVALID, "a delayed message can have no producer");
    if (id.size == 0 || id.size > LIMIT_DEDUP_ID)
        return err_set(err, id.size == 0 ? STATUS_INVALID : STATUS_TOO_LARGE,
                       "an id, or the name of a producer, is 1 to %u bytes", LIMIT_DEDUP_ID);
    if (numbered && (publish->sequence < 0 || publish->producer_epoch < 0 ||
                     publish->producer_epoch > INT16_MAX))
        return err_set(err, STATUS_INVALID, "a producer's numbers are 0 to %d, its epochs 0 to %d",
                       INT32_MAX, INT16_MAX);
    /* Its numbers count in one partition: keys that lead to several would tear holes. */
    if (numbered && queue != NULL && queue->partition_count > 1 && publish->key.data != NULL)
        return err_set(err, STATUS_INVALID,
                       "a producer's messages to a queue of several partitions have no key");
    return STATUS_OK;
}

/* ------------------------------------------------ the way there */

static void arrive(struct mail *mail)
{
    struct deduped_append *append = container_of(mail, struct deduped_append, mail);
    struct broker_worker *owner = append->owner;
    bool closed = owner->deduped.closed;
    struct dedup *dedup = closed ? NULL : deduped_of(owner, append->partition);
    enum status why = closed ? STATUS_SHUTTING_DOWN : STATUS_NOT_FOUND;
    if (dedup != NULL)
        dedup_append(dedup, &append->append);
    else if (append->append.unit != 0)
        dedup_refuse(owner->log, &append->append, why);
    else
        request_complete(&append->append.request, why);
}

void deduped_send(struct broker_worker *from, struct deduped_append *append)
{
    append->owner = &from->broker->workers[log_owner(from->broker->log, append->partition)];
    append->mail.deliver = arrive;
    if (append->owner == from)
        arrive(&append->mail);
    else
        mailbox_post(append->owner->loop, &append->mail);
}
