/* SPDX-License-Identifier: Apache-2.0 */
/* Appends through what a partition remembers: each item is looked up before anything is written,
 * what is new goes to the log with the rows that remember it, and all are answered in order.
 *
 *   waiting --> looked up --> flying: being written, or only behind others --> answered
 *                                ^------ items of it waited for a unit in vain ----/
 *
 * Of a producer with sequences one append is under way at a time: were a later one to commit after
 * an earlier one was refused, the retry of the earlier one would look like a duplicate. */
#include "core/queue/dedup.h"

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/queue/dedup_impl.h"

/* ------------------------------------------------ looking up */

static void settle(struct dedup_item *item, enum status status, bool duplicate, uint64_t offset)
{
    item->state = ITEM_SETTLED;
    item->status = status;
    item->duplicate = duplicate;
    item->offset = offset;
    item->due_ms = 0;
}

/* own: of that, one owner's, who leaves half to others. */
static bool is_full(uint64_t count, uint64_t own, uint64_t limit, uint64_t fallback)
{
    limit = limit == 0 ? fallback : limit;
    return count >= limit || own >= (limit + 1) / 2;
}

static void look_up_sequence(struct dedup *dedup, struct dedup_item *item)
{
    struct dedup_producer *producer = dedup_find_producer(dedup, item->producer);
    if (item->epoch < 0 || item->epoch > INT16_MAX) {
        settle(item, STATUS_INVALID, false, 0);
        return;
    }
    const struct dedup_owner *owner = dedup_owner_find(&dedup->worker->owners, item->owner);
    if (producer == NULL && is_full(dedup->worker->producers, owner == NULL ? 0 : owner->producers,
                                    dedup->worker->producer_limit, LIMIT_PRODUCERS)) {
        settle(item, STATUS_OVER_QUOTA, false, 0);
        return;
    }
    if (producer == NULL)
        producer = dedup_add_producer(dedup, item->producer, item->owner);
    uint64_t offset = 0;
    enum status status = STATUS_OK;
    switch (dedup_producer_check(producer, item, &offset, &status)) {
    case DEDUP_NEW:
        break;
    case DEDUP_KNOWN:
        settle(item, STATUS_OK, true, offset);
        break;
    case DEDUP_AGAIN:
        item->state = ITEM_AGAIN;
        break;
    case DEDUP_REFUSED:
        settle(item, status, false, 0);
        break;
    }
}

static struct span key_span(const struct dedup_item *item)
{
    return span_of(&item->key, sizeof item->key);
}

/* It counts for its owner while it is being written, and then, if that succeeds, as remembered. */
static void pending_put(struct dedup *dedup, struct dedup_item *item)
{
    map_put(&dedup->pending, key_span(item), item);
    dedup_owner_count(&dedup->worker->owners, item->owner, 1, 0);
}

static void pending_remove(struct dedup *dedup, const struct dedup_item *item)
{
    map_remove(&dedup->pending, key_span(item));
    dedup_owner_count(&dedup->worker->owners, item->owner, -1, 0);
}

static void look_up_key(struct dedup *dedup, struct dedup_item *item, int64_t now_ms)
{
    const struct dedup_owner *owner = dedup_owner_find(&dedup->worker->owners, item->owner);
    uint64_t offset;
    int64_t due_ms;
    struct dedup_item *original = map_get(&dedup->pending, key_span(item));
    if (original != NULL) {
        item->state = ITEM_AGAIN;
        item->again = original->again;
        original->again = item;
    } else if (dedup_window_find(&dedup->window, &item->key, now_ms, &offset, &due_ms)) {
        settle(item, STATUS_OK, true, offset);
        item->due_ms = due_ms;
    } else if (is_full(dedup->worker->keys + dedup->pending.count, owner == NULL ? 0 : owner->keys,
                       dedup->worker->key_limit, LIMIT_DEDUP_KEYS)) {
        settle(item, STATUS_OVER_QUOTA, false, 0);
    } else {
        pending_put(dedup, item);
    }
}

/* How many records of the append are new: of those that have waited in vain. */
static uint32_t look_up_heirs(struct dedup_append *append)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < append->count; i++) {
        struct dedup_item *item = &append->items[i];
        if (item->state != ITEM_HEIR)
            continue;
        item->state = ITEM_NEW;
        item->place = count;
        count += item->record_count;
    }
    return count;
}

/* How many records of the append are new. */
static uint32_t look_up(struct dedup_append *append)
{
    struct dedup *dedup = append->dedup;
    uint32_t first = 0, count = 0;
    for (uint32_t i = 0; i < append->count; i++) {
        struct dedup_item *item = &append->items[i];
        item->state = ITEM_NEW;
        item->again = NULL;
        item->unit = append->unit;
        item->first = first;
        item->place = count;
        first += item->record_count;
        if (item->sequence >= 0)
            look_up_sequence(dedup, item);
        else if (dedup_key_is_set(&item->key))
            look_up_key(dedup, item, append->at_ms);
        if (item->state == ITEM_NEW)
            count += item->record_count;
    }
    CHECK(append->batch == NULL || first == append->batch->record_count);
    return count;
}

/* ------------------------------------------------ answering */

/* What refused a unit says nothing of who waits for it outside; but when storage has failed, nobody
 * knows of either whether it will be there. */
static bool has_heirs(const struct dedup_item *item)
{
    return item->unit != 0 && item->status != STATUS_OK && item->status != STATUS_STORAGE_FAILED &&
           item->status != STATUS_SHUTTING_DOWN;
}

/* The first that came, which is the last one here, waits for nobody now, and the others for it: so
 * nobody waits for what is answered later. */
static void inherit(struct dedup *dedup, struct dedup_item *waiting)
{
    struct dedup_item *heir = waiting, **end = &waiting;
    while (heir->again != NULL) {
        end = &heir->again;
        heir = heir->again;
    }
    *end = NULL; /* of one alone that is waiting */
    heir->again = waiting;
    heir->state = ITEM_HEIR;
    pending_put(dedup, heir);
}

static void settle_again(struct dedup *dedup, struct dedup_item *item)
{
    struct dedup_item *again = item->again, *left = NULL, **end = &left;
    item->again = NULL;
    while (again != NULL) {
        struct dedup_item *next = again->again;
        again->again = NULL;
        if (has_heirs(item) && again->unit != item->unit) {
            *end = again;
            end = &again->again;
        } else {
            settle(again, item->status, item->status == STATUS_OK, item->offset);
            again->due_ms = item->due_ms;
        }
        again = next;
    }
    if (left != NULL)
        inherit(dedup, left);
}

/* A sequence that came twice in one append. */
static void settle_repeated(const struct dedup_append *append, struct dedup_item *item)
{
    settle(item, append->status, append->status == STATUS_OK, DEDUP_OFFSET_UNKNOWN);
    for (uint32_t i = 0; i < append->run_count; i++) {
        const struct dedup_run *run = &append->runs[i];
        uint32_t behind = (uint32_t)item->sequence - (uint32_t)run->range.first;
        uint32_t length = (uint32_t)run->range.last - (uint32_t)run->range.first;
        if (run->producer->id == item->producer && (behind & INT32_MAX) <= (length & INT32_MAX))
            item->offset = run->range.offset + (behind & INT32_MAX);
    }
}

static void runs_settle(struct dedup_append *append, uint64_t base)
{
    for (uint32_t i = 0; i < append->run_count; i++) {
        struct dedup_run *run = &append->runs[i];
        struct dedup_producer *producer = run->producer;
        run->range.offset = base + run->place;
        if (append->status == STATUS_OK) {
            dedup_producer_put(producer, run->epoch, run->range);
            producer->last_ms = append->at_ms;
        }
        producer->pending = false;
        producer->pending_runs = 0;
    }
}

/* One of which nothing was ever stored is forgotten. */
static void runs_forget(struct dedup_append *append)
{
    struct dedup *dedup = append->dedup;
    for (uint32_t i = 0; i < append->count && append->status != STATUS_OK; i++) {
        const struct dedup_item *item = &append->items[i];
        struct dedup_producer *producer =
            item->sequence < 0 ? NULL : dedup_find_producer(dedup, item->producer);
        if (producer == NULL || producer->epoch >= 0 || producer->pending)
            continue;
        dedup_drop_producer(dedup, producer);
    }
}

/* What one pass of it through storage needs. */
static void append_clear(struct dedup_append *append)
{
    append->runs = NULL;
    append->run_count = 0;
    append->bucket = NULL;
    append->rows = NULL;
    append->append.batch = NULL;
    append->insert = (struct delay_insert){0};
}

/* Of an item that was new. */
static void settle_new(struct dedup_append *append, struct dedup_item *item)
{
    struct dedup *dedup = append->dedup;
    const struct batch *batch = append->append.batch;
    const struct delay_record *record =
        append->insert.records == NULL ? NULL : &append->insert.records[item->place];
    settle(item, append->status, false, batch == NULL ? 0 : batch->base_offset + item->place);
    if (record != NULL && append->status == STATUS_OK) {
        item->offset = record->id.number;
        item->due_ms = record->id.due_ms;
        for (uint32_t k = 0; k < item->record_count; k++)
            append->delayed[item->first + k].id = record[k].id;
    }
    if (item->sequence < 0 && dedup_key_is_set(&item->key)) {
        pending_remove(dedup, item);
        if (append->status == STATUS_OK)
            dedup_window_put(&dedup->window, append->bucket, &item->key,
                             (uint32_t)(append->at_ms - append->bucket->start_ms), item->offset,
                             item->due_ms, item->owner);
    }
    settle_again(dedup, item);
}

/* What is a duplicate has the id of its original. */
static void delayed_settle(struct dedup_append *append)
{
    for (uint32_t i = 0; i < append->count; i++) {
        const struct dedup_item *item = &append->items[i];
        for (uint32_t k = 0; k < item->record_count && item->duplicate; k++)
            append->delayed[item->first + k].id =
                (struct delay_id){append->dedup->partition, item->due_ms, item->offset};
    }
}

static void start(struct dedup_append *append, uint32_t count);

/* What has waited in vain goes on its way, before anything is answered. False: nothing has. */
static bool start_heirs(struct dedup_append *append)
{
    uint32_t count = look_up_heirs(append);
    if (count == 0)
        return false;
    append->at_ms = steady_now(&append->dedup->clock);
    append->more_count = 0; /* it is there */
    start(append, count);
    return true;
}

static void answer(struct dedup_append *append)
{
    runs_settle(append, append->append.batch == NULL ? 0 : append->append.batch->base_offset);
    for (uint32_t i = 0; i < append->count; i++) {
        struct dedup_item *item = &append->items[i];
        if (item->state == ITEM_NEW)
            settle_new(append, item);
        else if (item->state == ITEM_AGAIN && item->sequence >= 0)
            settle_repeated(append, item);
    }
    runs_forget(append);
    if (append->bucket != NULL)
        append->bucket->in_flight--;
    batch_unref(append->append.batch);
    heap_free(append->insert.records);
    heap_free(append->runs);
    heap_free(append->rows);
    append_clear(append);
    if (start_heirs(append))
        return;
    link_remove(&append->link);
    if (append->delayed != NULL)
        delayed_settle(append);
    request_complete(&append->request, append->unit == 0 ? STATUS_OK : append->status);
}

static void answer_finished(struct dedup *dedup)
{
    struct link *link;
    while ((link = list_first(&dedup->flying)) != NULL) {
        struct dedup_append *append = container_of(link, struct dedup_append, link);
        if (!append->finished)
            break;
        answer(append);
    }
    dedup_arm(dedup);
}

static void finish(struct dedup_append *append, enum status status)
{
    struct dedup *dedup = append->dedup;
    append->finished = true;
    append->status = status;
    answer_finished(dedup);
    dedup_run_waiting(dedup);
    dedup_leave(dedup);
}

static void appended(struct request *request, enum status status)
{
    struct dedup_append *append = container_of(request, struct dedup_append, append.request);
    append->pending_records += append->append.pending_records;
    append->pending_bytes += append->append.pending_bytes;
    finish(append, status);
}

static void inserted(struct request *request, enum status status)
{
    finish(container_of(request, struct dedup_append, insert.request), status);
}

/* ------------------------------------------------ writing */

static void placed(struct delay_insert *insert)
{
    struct dedup_append *append = container_of(insert, struct dedup_append, insert);
    if (append->bucket != NULL)
        dedup_store_place(append, &append->rows[0]);
}

/* What is new of the records waits. */
static void start_delayed(struct dedup_append *append, uint32_t count)
{
    struct delay_insert *insert = &append->insert;
    insert->records = heap_array(count, sizeof *insert->records);
    insert->count = count;
    for (uint32_t i = 0; i < append->count; i++) {
        const struct dedup_item *item = &append->items[i];
        if (item->state == ITEM_NEW)
            memcpy(insert->records + item->place, append->delayed + item->first,
                   item->record_count * sizeof *insert->records);
    }
    insert->more = append->append.rows;
    insert->more_count = append->append.row_count;
    insert->placed = placed;
    insert->unit = append->unit;
    insert->part_count = append->part_count;
    request_init(&insert->request, append->dedup->worker->loop, inserted);
    dedup_enter(append->dedup);
    delay_insert(append->delay, insert);
}

/* What of it is new is ready to be appended; else how the append ends. */
static enum status prepare(struct dedup_append *append, uint32_t count)
{
    for (uint32_t i = 0; append->unit != 0 && i < append->count; i++)
        if (append->items[i].state == ITEM_SETTLED && append->items[i].status != STATUS_OK)
            return append->items[i].status;
    if (count == 0)
        return STATUS_OK;
    dedup_rows_make(append);
    return append->delayed != NULL ? STATUS_OK : dedup_batch_of_new(append, count);
}

/* Of an append that is flying: so many records of it are new. */
static void start(struct dedup_append *append, uint32_t count)
{
    struct dedup *dedup = append->dedup;
    append->append = (struct log_append){
        .partition = dedup->partition,
        .unit = append->unit,
        .part_count = append->part_count,
    };
    if (append->delayed != NULL && dedup->no_delay)
        append->status = STATUS_SHUTTING_DOWN;
    else
        append->status = dedup->state == DEDUP_SERVING ? prepare(append, count) : dedup->failure;
    append->finished = append->unit == 0 && (count == 0 || append->status != STATUS_OK);
    if (append->finished)
        return;
    if (append->delayed != NULL && append->status == STATUS_OK && count > 0) {
        start_delayed(append, count);
        return;
    }
    request_init(&append->append.request, dedup->worker->loop, appended);
    dedup_enter(dedup);
    if (append->status != STATUS_OK) {
        log_refuse(dedup->worker->log_worker, &append->append, append->status);
        return;
    }
    if (count > 0) {
        append->append.pending_records = append->pending_records;
        append->append.pending_bytes = append->pending_bytes;
        append->pending_records = 0;
        append->pending_bytes = 0;
    }
    log_append(dedup->worker->log_worker, &append->append);
}

static void refused(struct request *request, enum status status)
{
    struct dedup_append *append = container_of(request, struct dedup_append, append.request);
    request_complete(&append->request, status);
}

void dedup_refuse(struct log_worker *worker, struct dedup_append *append, enum status why)
{
    append->append = (struct log_append){.unit = append->unit, .part_count = append->part_count};
    request_init(&append->append.request, append->request.home, refused);
    log_refuse(worker, &append->append, why);
}

static void refuse(struct dedup_append *append, enum status why)
{
    if (append->unit == 0)
        request_complete(&append->request, why);
    else
        dedup_refuse(append->dedup->worker->log_worker, append, why);
}

/* A unit never waits: a part of it that did might wait for another unit, which elsewhere waits for
 * this one. */
static void refuse_units(struct dedup *dedup)
{
    list_each_safe(link, following, &dedup->waiting)
    {
        struct dedup_append *append = container_of(link, struct dedup_append, link);
        if (append->unit == 0)
            continue;
        link_remove(link);
        refuse(append, STATUS_BUSY);
    }
}

/* True: an id of it is being written by another append, and not by a part of the same unit, which
 * ends as this one does. */
static bool has_pending_key(const struct dedup_append *append)
{
    for (uint32_t i = 0; i < append->count; i++) {
        const struct dedup_item *original =
            dedup_key_is_set(&append->items[i].key)
                ? map_get(&append->dedup->pending, key_span(&append->items[i]))
                : NULL;
        if (original != NULL && original->unit != append->unit)
            return true;
    }
    return false;
}

/* True: a producer of it has an append under way. */
static bool must_wait(const struct dedup_append *append)
{
    for (uint32_t i = 0; i < append->count; i++) {
        const struct dedup_item *item = &append->items[i];
        const struct dedup_producer *producer =
            item->sequence < 0 ? NULL : dedup_find_producer(append->dedup, item->producer);
        if (producer != NULL && producer->pending)
            return true;
    }
    return false;
}

void dedup_run_waiting(struct dedup *dedup)
{
    struct link *link;
    while (dedup->state != DEDUP_LOADING && (link = list_first(&dedup->waiting)) != NULL) {
        struct dedup_append *append = container_of(link, struct dedup_append, link);
        if (dedup->state != DEDUP_SERVING) {
            link_remove(link);
            refuse(append, dedup->failure);
            continue;
        }
        if (append->unit != 0 && has_pending_key(append)) {
            link_remove(link);
            refuse(append, STATUS_BUSY);
            continue;
        }
        if (must_wait(append)) {
            answer_finished(dedup); /* it may wait only for one that could not be written */
            if (must_wait(append)) {
                refuse_units(dedup);
                break;
            }
        }
        link_remove(link);
        append->at_ms = steady_now(&dedup->clock);
        uint32_t count = look_up(append);
        list_push(&dedup->flying, &append->link);
        start(append, count);
    }
    answer_finished(dedup);
}

void dedup_append(struct dedup *dedup, struct dedup_append *append)
{
    CHECK(loop_is_home(dedup->worker->loop) && append->count > 0);
    append->dedup = dedup;
    append_clear(append);
    link_init(&append->link);
    list_push(&dedup->waiting, &append->link);
    dedup_run_waiting(dedup);
}
