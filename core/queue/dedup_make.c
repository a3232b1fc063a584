/* SPDX-License-Identifier: Apache-2.0 */
/* What of an append goes to storage: the records that are new, and the rows that remember them. */
#include "core/base/heap.h"
#include "core/queue/dedup_impl.h"

/* The batch to append: the one given, or a copy of what is new in it. */
enum status dedup_batch_of_new(struct dedup_append *append, uint32_t count)
{
    struct batch_builder *builder = &append->dedup->builder;
    if (count == append->batch->record_count) {
        append->append.batch = batch_ref(append->batch);
        return STATUS_OK;
    }
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < append->count; i++) {
        const struct dedup_item *item = &append->items[i];
        if (item->state != ITEM_NEW)
            continue;
        for (uint32_t k = 0; k < item->record_count && status == STATUS_OK; k++) {
            struct record record;
            batch_record(append->batch, item->first + k, &record);
            status = batch_builder_copy(builder, &record);
        }
    }
    struct batch *batch = batch_builder_seal(builder);
    if (status == STATUS_OK) {
        append->append.batch = batch;
        batch->notes = append->batch->notes; /* of records without an id: all of them are new */
        batch->notes_size = append->batch->notes_size;
        append->batch->notes = NULL;
        append->batch->notes_size = 0;
    } else {
        batch_unref(batch);
    }
    return status;
}

/* Sequences that follow each other, in records that do, are one row. */
static void run_add(struct dedup_append *append, const struct dedup_item *item)
{
    struct dedup_run *last = append->run_count == 0 ? NULL : &append->runs[append->run_count - 1];
    int32_t end = dedup_sequence_add(item->sequence, item->record_count - 1);
    if (last != NULL && last->producer->id == item->producer && last->epoch == item->epoch &&
        dedup_sequence_add(last->range.last, 1) == item->sequence) {
        uint32_t length = (uint32_t)last->range.last - (uint32_t)last->range.first;
        if (item->place == last->place + (length & INT32_MAX) + 1) {
            last->range.last = end;
            return;
        }
    }
    append->runs[append->run_count++] = (struct dedup_run){
        .producer = dedup_find_producer(append->dedup, item->producer),
        .epoch = item->epoch,
        .range = {.first = item->sequence, .last = end},
        .place = item->place,
    };
}

/* The keys are one row, the first; sequences follow. */
void dedup_rows_make(struct dedup_append *append)
{
    struct dedup *dedup = append->dedup;
    uint32_t keys = 0, sequences = 0;
    for (uint32_t i = 0; i < append->count; i++) {
        keys += dedup_is_new_key(&append->items[i]);
        sequences += append->items[i].state == ITEM_NEW && append->items[i].sequence >= 0;
    }
    uint32_t row_max = 1 + sequences + append->more_count, rows = 0;
    append->rows = heap_new(row_max * sizeof *append->rows + sequences * DEDUP_ROW_MAX +
                            dedup_store_keys_size(append, keys));
    append->runs = sequences == 0 ? NULL : heap_array(sequences, sizeof *append->runs);
    uint8_t *at = (uint8_t *)(append->rows + row_max);
    if (keys > 0) {
        append->bucket = dedup_window_newest(&dedup->window, append->at_ms);
        append->bucket->in_flight++;
        append->rows[rows++] = dedup_store_keys(append, keys, at + sequences * DEDUP_ROW_MAX);
    }
    for (uint32_t i = 0; sequences > 0 && i < append->count; i++)
        if (append->items[i].state == ITEM_NEW && append->items[i].sequence >= 0)
            run_add(append, &append->items[i]);
    for (uint32_t i = 0; i < append->run_count; i++, at += DEDUP_ROW_MAX) {
        struct dedup_producer *producer = append->runs[i].producer;
        uint32_t slot = (producer->next + producer->pending_runs++) % DEDUP_RANGES;
        append->rows[rows++] = dedup_store_run(dedup, &append->runs[i], slot, append->at_ms, at);
    }
    for (uint32_t i = 0; i < append->more_count; i++)
        append->rows[rows++] = append->more[i];
    append->append.rows = append->rows;
    append->append.row_count = rows;
}
