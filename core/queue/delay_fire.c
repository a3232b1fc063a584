/* SPDX-License-Identifier: Apache-2.0 */
/* Firing: all that is due goes to the log in one append, together with the mark that says so. One
 * append at a time, so that a later one cannot carry the mark past records whose own append failed;
 * what becomes due meanwhile makes the next one larger. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/trace.h"
#include "core/queue/delay_impl.h"

/* RocksDB looks at every range tombstone of its memory table, so they are kept few: what lies below
 * the mark counts for nothing, whenever it is deleted. */
enum { SWEEP_ROWS = 4096, SWEEP_MS = 60 * 1000, FIRE_AGAIN_MS = 1000 };

void delay_firing_deinit(struct delay *delay)
{
    struct firing *firing = &delay->firing;
    batch_builder_deinit(&firing->builder);
    heap_free(firing->entries);
}

static enum status add_entry(struct delay *delay, struct delay_entry *entry)
{
    const struct delay_worker *worker = delay->worker;
    struct batch *batch = NULL;
    entry->row->size -= ROW_TAIL;
    enum status status = batch_open(entry->row, 0, &batch);
    if (status == STATUS_OK) {
        struct record record;
        batch_record(batch, 0, &record);
        entry->dropped =
            !worker->ops->may_fire(worker->context, delay->partition, entry->principal, &record);
        if (!entry->dropped)
            status = batch_builder_copy(&delay->firing.builder, &record);
        batch_unref(batch);
    }
    entry->row->size += ROW_TAIL;
    if (status == STATUS_OK || status == STATUS_NO_MEMORY)
        return status;
    trace(TRACE_ERROR, "partition %llu: a delayed record cannot be read: %s",
          (unsigned long long)delay->partition, status_text(status));
    entry->dropped = true;
    return STATUS_OK;
}

static bool take_entry(struct firing *firing, struct delay *delay, struct delay_entry *entry)
{
    if (batch_builder_is_full(&firing->builder, entry->row->size))
        return false;
    if (add_entry(delay, entry) != STATUS_OK) {
        delay->fire_again_ms = delay->clock.now_ms + FIRE_AGAIN_MS;
        return false;
    }
    delay_near_remove(&delay->near, entry);
    delay_entry_set(delay, entry, ENTRY_FIRING);
    if (firing->count == firing->capacity) {
        firing->capacity = firing->capacity == 0 ? 16 : firing->capacity * 2;
        firing->entries = heap_resize(firing->entries, firing->capacity * sizeof *firing->entries);
    }
    firing->entries[firing->count++] = entry;
    return true;
}

/* As if it had never been begun. */
static void put_back(struct delay *delay)
{
    struct firing *firing = &delay->firing;
    for (uint32_t i = 0; i < firing->count; i++) {
        struct delay_entry *entry = firing->entries[i];
        entry->dropped = false;
        delay_entry_set(delay, entry, ENTRY_READY);
        delay_near_add(&delay->near, entry);
    }
    delay->mark = firing->before;
    delay->fired -= firing->count;
}

static void fired(struct request *request, enum status status)
{
    struct delay *delay = container_of(request, struct delay, firing.append.request);
    struct firing *firing = &delay->firing;
    const struct delay_worker *worker = delay->worker;
    int64_t now_ms = steady_now(&delay->clock);
    firing->active = false;
    if (status != STATUS_OK) {
        put_back(delay);
        delay->fire_again_ms = now_ms + FIRE_AGAIN_MS;
    }
    for (uint32_t i = 0; i < firing->count && status == STATUS_OK; i++) {
        struct delay_entry *entry = firing->entries[i];
        if (!entry->dropped)
            worker->ops->fired(worker->context, (uint64_t)(now_ms - entry->place.due_ms));
        delay_entry_free(delay, entry);
    }
    if (status == STATUS_OK && firing->append.row_count > 1)
        delay->spent = 0;
    firing->count = 0;
    batch_unref(firing->append.batch);
    delay_count(delay);
    delay_advance(delay);
    delay_leave(delay);
}

static void start(struct delay *delay)
{
    struct firing *firing = &delay->firing;
    firing->active = true;
    firing->before = delay->mark;
    delay->mark = firing->entries[firing->count - 1]->place;
    delay->fired += firing->count;
    delay->spent += firing->count;
    uint32_t row_count = 0;
    firing->rows[row_count++] = delay_store_mark(delay, firing->keys, firing->value);
    if (delay->spent >= SWEEP_ROWS || delay->clock.now_ms - delay->swept_ms >= SWEEP_MS) {
        uint8_t *first = firing->keys + KEY_MARK, *end = first + KEY_ROW;
        struct delay_place after = {delay->mark.due_ms, delay->mark.number + 1};
        delay->swept_ms = delay->clock.now_ms;
        firing->rows[row_count++] = (struct storage_row){
            .change = STORAGE_DELETE_RANGE,
            .key = delay_store_key_row(first, delay->partition, (struct delay_place){0}),
            .value = delay_store_key_row(end, delay->partition, after),
            .offset_at = -1,
        };
    }
    firing->append = (struct log_append){
        .partition = delay->partition,
        .batch = batch_builder_seal(&firing->builder),
        .rows = firing->rows,
        .row_count = row_count,
    };
    request_init(&firing->append.request, delay->worker->loop, fired);
    delay_enter(delay);
    log_append(delay->worker->log_worker, &firing->append);
}

void delay_fire(struct delay *delay)
{
    struct firing *firing = &delay->firing;
    int64_t now_ms = steady_now(&delay->clock);
    if (firing->active || now_ms < delay->fire_again_ms || delay->worker->holds)
        return;
    struct delay_entry *entry;
    while ((entry = delay_near_first(&delay->near)) != NULL && entry->state == ENTRY_READY &&
           entry->place.due_ms <= now_ms && place_is_before(entry->place, delay->horizon) &&
           firing->count < LIMIT_BATCH_RECORDS)
        if (!take_entry(firing, delay, entry))
            break;
    if (firing->count > 0)
        start(delay);
}
