/* SPDX-License-Identifier: Apache-2.0 */
/* Canceling by id: the row is deleted, and nothing passes the record until that is certain. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/queue/delay_impl.h"

/* A scan under way may still bring the row of a canceled record; its entry stays until none is. */
static void retire(struct delay *delay, struct delay_entry *entry)
{
    if (!delay->scanning && delay->lookups == 0) {
        delay_entry_drop(delay, entry);
        return;
    }
    delay_near_unheap(&delay->near, entry);
    delay_entry_set(delay, entry, ENTRY_GONE);
    if (delay->gone_count == delay->gone_capacity) {
        delay->gone_capacity = delay->gone_capacity == 0 ? 16 : delay->gone_capacity * 2;
        delay->gone = heap_resize(delay->gone, delay->gone_capacity * sizeof *delay->gone);
    }
    delay->gone[delay->gone_count++] = entry;
}

void delay_gone_free(struct delay *delay)
{
    if (delay->scanning || delay->lookups > 0)
        return;
    while (delay->gone_count > 0)
        delay_entry_drop(delay, delay->gone[--delay->gone_count]);
}

static void canceled(struct request *request, enum status status)
{
    struct delay_cancel *cancel = container_of(request, struct delay_cancel, append.request);
    struct delay *delay = cancel->delay;
    if (status == STATUS_OK) {
        retire(delay, cancel->entry);
    } else {
        delay->come++;
        delay_entry_set(delay, cancel->entry, ENTRY_READY);
    }
    delay_count(delay);
    request_complete(&cancel->request, status);
    delay_advance(delay);
    delay_leave(delay);
}

static enum status may_cancel(const struct delay_cancel *cancel, uint64_t principal)
{
    return cancel->any || cancel->principal == principal ? STATUS_OK : STATUS_DENIED;
}

static void cancel_entry(struct delay_cancel *cancel, struct delay_entry *entry)
{
    struct delay *delay = cancel->delay;
    enum status status = may_cancel(cancel, entry->principal);
    if (entry->state != ENTRY_READY || entry->place.due_ms != cancel->id.due_ms)
        status = STATUS_NOT_FOUND;
    if (status != STATUS_OK) {
        request_complete(&cancel->request, status);
        return;
    }
    _Static_assert(sizeof cancel->keys >= KEY_ROW + KEY_MARK + VALUE_NUMBERS, "room for the keys");
    uint8_t *key = cancel->keys, *numbers = key + KEY_ROW;
    delay_entry_set(delay, entry, ENTRY_CANCELING);
    cancel->entry = entry;
    delay->come--;
    cancel->rows[0] = (struct storage_row){
        .change = STORAGE_DELETE,
        .key = delay_store_key_row(key, delay->partition, entry->place),
        .offset_at = -1,
    };
    cancel->rows[1] = delay_store_numbers(delay, numbers, numbers + KEY_MARK);
    cancel->append =
        (struct log_append){.partition = delay->partition, .rows = cancel->rows, .row_count = 2};
    request_init(&cancel->append.request, delay->worker->loop, canceled);
    delay_enter(delay);
    log_append(delay->worker->log_worker, &cancel->append);
}

/* What a lookup has found, unless it has come to memory meanwhile, or fired. */
static void cancel_row(struct delay_cancel *cancel, struct span value)
{
    struct delay *delay = cancel->delay;
    struct delay_place place = {cancel->id.due_ms, cancel->id.number};
    struct delay_entry *entry = delay_near_find(&delay->near, place.number);
    enum status status = STATUS_OK;
    if (delay->state != DELAY_SERVING)
        status = delay->failure;
    else if (!place_is_before(delay->mark, place))
        status = STATUS_NOT_FOUND;
    else if (!delay_store_row_is_good(value))
        status = STATUS_CORRUPT;
    else if (entry == NULL)
        status = may_cancel(cancel, load_u64(value.data + value.size - ROW_TAIL));
    if (status != STATUS_OK) {
        request_complete(&cancel->request, status);
        return;
    }
    if (entry == NULL)
        entry = delay_entry_new(delay, place, ENTRY_READY, blob_copy(value));
    cancel_entry(cancel, entry);
}

static void looked_up(struct request *request, enum status status)
{
    struct delay_cancel *cancel = container_of(request, struct delay_cancel, scan.request);
    struct delay *delay = cancel->delay;
    struct blob *rows = status == STATUS_OK ? cancel->scan.rows : NULL;
    size_t position = 0;
    struct span key, value;
    if (status != STATUS_OK)
        request_complete(&cancel->request, status);
    else if (storage_scan_next(&cancel->scan, &position, &key, &value))
        cancel_row(cancel, value);
    else
        request_complete(&cancel->request, STATUS_NOT_FOUND);
    blob_unref(rows);
    delay->lookups--;
    delay_gone_free(delay);
    delay_leave(delay);
}

void delay_cancel_serve(struct delay_cancel *cancel)
{
    struct delay *delay = cancel->delay;
    struct delay_place place = {cancel->id.due_ms, cancel->id.number};
    struct delay_entry *entry = delay_near_find(&delay->near, place.number);
    if (entry != NULL) {
        cancel_entry(cancel, entry);
        return;
    }
    if (place.number == UINT64_MAX || place_is_before(place, delay->horizon)) {
        request_complete(&cancel->request, STATUS_NOT_FOUND);
        return;
    }
    struct delay_place after = {place.due_ms, place.number + 1};
    cancel->scan = (struct storage_scan){
        .first = delay_store_key_row(cancel->keys, delay->partition, place),
        .end = delay_store_key_row(cancel->keys + KEY_ROW, delay->partition, after),
        .limit = 1,
    };
    request_init(&cancel->scan.request, delay->worker->loop, looked_up);
    delay->lookups++;
    delay_enter(delay);
    log_rows_scan(delay->worker->log, &cancel->scan);
}
