/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed records of one partition: taking them in, and waking up in time. */
#include "core/queue/delay.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/queue/delay_impl.h"

enum { LOOK_AGAIN_MS = 10000 }; /* the wall clock may be set while a timer runs */
enum { NUMBERS_ROOM = KEY_MARK + VALUE_NUMBERS };

/* ------------------------------------------------ ids */

void delay_id_format(const struct delay_id *id, char text[DELAY_ID_TEXT])
{
    snprintf(text, DELAY_ID_TEXT, "%llx-%llx-%llx", (unsigned long long)id->partition,
             (unsigned long long)id->due_ms, (unsigned long long)id->number);
}

static bool parse_hex(struct span *text, uint64_t *value, bool last)
{
    size_t digits = 0;
    *value = 0;
    for (; digits < text->size && text->data[digits] != '-'; digits++) {
        uint8_t c = text->data[digits];
        if (digits == 16 || !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        *value = *value << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (digits == 0 || last != (digits == text->size))
        return false;
    *text = span_from(*text, digits + 1);
    return true;
}

bool delay_id_parse(struct span text, struct delay_id *id)
{
    uint64_t due_ms;
    if (!parse_hex(&text, &id->partition, false) || !parse_hex(&text, &due_ms, false) ||
        !parse_hex(&text, &id->number, true) || due_ms > INT64_MAX)
        return false;
    id->due_ms = (int64_t)due_ms;
    return true;
}

/* ------------------------------------------------ life */

void delay_enter(struct delay *delay)
{
    delay->in_flight++;
    delay->worker->in_flight++;
}

static void delay_free(struct delay *delay)
{
    delay_gone_free(delay);
    struct delay_entry *entry;
    while ((entry = delay_near_first(&delay->near)) != NULL)
        delay_entry_drop(delay, entry);
    delay_near_deinit(&delay->near);
    delay_firing_deinit(delay);
    delay_units_deinit(delay);
    heap_free(delay->gone);
    heap_free(delay);
}

/* A closed delay goes with its last request. */
void delay_leave(struct delay *delay)
{
    CHECK(delay->in_flight > 0);
    delay->worker->in_flight--;
    if (--delay->in_flight > 0 || delay->state != DELAY_CLOSED)
        return;
    if (delay->removing) {
        delay->removing = false;
        delay_store_remove(delay);
        return;
    }
    delay_free(delay);
}

void delay_count(struct delay *delay)
{
    if (delay->waiting == NULL)
        return;
    /* Nothing is left: what a write that failed has made of the counters ends here. */
    if (place_is_end(delay->horizon) && delay->near.count == 0 && !delay->firing.active)
        delay->come = delay->fired;
    uint64_t now = delay->come > delay->fired ? delay->come - delay->fired : 0;
    atomic_fetch_add(delay->waiting, now - delay->counted);
    delay->counted = now;
}

static void timer_fired(struct loop_timer *timer)
{
    delay_advance(container_of(timer, struct delay, timer));
}

struct delay *delay_open(struct delay_worker *worker, uint64_t partition, _Atomic uint64_t *waiting)
{
    CHECK(loop_is_home(worker->loop));
    struct delay *delay = heap_new(sizeof *delay);
    delay->worker = worker;
    delay->partition = partition;
    delay->waiting = waiting;
    delay->timer.fired = timer_fired;
    delay_near_init(&delay->near);
    batch_builder_init(&delay->firing.builder);
    list_init(&delay->inserts);
    list_init(&delay->cancels);
    delay_units_init(delay);
    delay_store_open(delay);
    return delay;
}

void delay_close(struct delay *delay, bool remove)
{
    CHECK(loop_is_home(delay->worker->loop) && delay->state != DELAY_CLOSED);
    loop_timer_stop(delay->worker->loop, &delay->timer);
    if (delay->waiting != NULL)
        atomic_fetch_sub(delay->waiting, delay->counted);
    delay->waiting = NULL;
    delay->state = DELAY_CLOSED;
    delay->failure = remove ? STATUS_NOT_FOUND : STATUS_SHUTTING_DOWN;
    delay->removing = remove;
    delay_serve_waiting(delay);
    delay_enter(delay);
    delay_leave(delay);
}

/* ------------------------------------------------ entries */

void delay_entry_set(struct delay *delay, struct delay_entry *entry, enum delay_entry_state state)
{
    if (entry->state == ENTRY_READY) {
        delay->ready_count--;
        delay->ready_bytes -= entry->row->size;
    }
    if (state == ENTRY_READY) {
        delay->ready_count++;
        delay->ready_bytes += entry->row->size;
    }
    entry->state = state;
}

struct delay_entry *delay_entry_new(struct delay *delay, struct delay_place place,
                                    enum delay_entry_state state, struct blob *row)
{
    struct delay_entry *entry = heap_new(sizeof *entry);
    entry->place = place;
    entry->row = row;
    entry->principal = load_u64(row->bytes + row->size - ROW_TAIL);
    delay->worker->bytes += sizeof *entry + row->size;
    delay_entry_set(delay, entry, state);
    delay_near_add(&delay->near, entry);
    return entry;
}

void delay_entry_free(struct delay *delay, struct delay_entry *entry)
{
    delay_entry_set(delay, entry, ENTRY_GONE);
    delay->worker->bytes -= sizeof *entry + entry->row->size;
    blob_unref(entry->row);
    heap_free(entry);
}

void delay_entry_drop(struct delay *delay, struct delay_entry *entry)
{
    delay_near_remove(&delay->near, entry);
    delay_entry_free(delay, entry);
}

/* ------------------------------------------------ insert */

static void insert_end(struct delay_insert *insert, enum status status)
{
    heap_free(insert->entries);
    heap_free(insert->rows);
    insert->entries = NULL;
    insert->rows = NULL;
    request_complete(&insert->request, status);
}

static void insert_stored(struct request *request, enum status status)
{
    struct delay_insert *insert = container_of(request, struct delay_insert, append.request);
    struct delay *delay = insert->delay;
    for (uint32_t i = 0; i < insert->count; i++) {
        struct delay_entry *entry = insert->entries[i];
        delay_entry_set(delay, entry, ENTRY_READY);
        /* A scan under way may not have seen the row, and then it must not be forgotten. */
        bool near = place_is_before(entry->place, delay->horizon) || delay->scanning;
        if (status != STATUS_OK || !near)
            delay_entry_drop(delay, entry);
    }
    if (insert->numbers != NULL)
        delay_unit_end(delay, insert->numbers, status == STATUS_OK);
    else if (status != STATUS_OK)
        delay->come -= insert->count;
    delay_count(delay);
    insert_end(insert, status);
    delay_store_drop_far(delay);
    delay_advance(delay);
    delay_leave(delay);
}

/* One millisecond more than asked: the clock shows whole ones, and may have been about to turn. */
static int64_t due_of(struct delay *delay, uint64_t delay_ms)
{
    int64_t now_ms = steady_now(&delay->clock);
    int64_t due_ms = delay_ms >= (uint64_t)(INT64_MAX - now_ms) - 2
                         ? INT64_MAX - 1
                         : now_ms + (int64_t)delay_ms + 1;
    return due_ms > delay->mark.due_ms ? due_ms : delay->mark.due_ms + 1;
}

static struct blob *row_of(const struct delay_record *record)
{
    struct span batch = blob_span(record->batch->bytes);
    struct blob *row = blob_new(batch.size + ROW_TAIL);
    memcpy(row->bytes, batch.data, batch.size);
    store_u64(row->bytes + batch.size, record->principal);
    row->bytes[row->size - 1] = DELAY_ROW_VERSION;
    return row;
}

/* Numbers, from the first that is returned on, for all of the insert, and the row that says so. */
static uint64_t take_numbers(struct delay_insert *insert, struct storage_row *row, uint8_t *bytes)
{
    _Static_assert(KEY_UNIT + VALUE_UNIT <= NUMBERS_ROOM, "room for the row of a unit");
    struct delay *delay = insert->delay;
    uint64_t first = delay->next_number;
    if (insert->unit != 0) {
        insert->numbers = delay_unit_new(delay, insert->count);
        *row = delay_unit_row(delay, insert->numbers, bytes, bytes + KEY_UNIT);
    } else {
        delay->next_number += insert->count;
        delay->come += insert->count;
        *row = delay_store_numbers(delay, bytes, bytes + KEY_MARK);
    }
    return first;
}

static void insert_serve(struct delay_insert *insert)
{
    struct delay *delay = insert->delay;
    uint32_t count = insert->count, row_count = count + 1 + insert->more_count;
    insert->entries = heap_array(count, sizeof *insert->entries);
    size_t keys_size = (size_t)count * KEY_ROW + NUMBERS_ROOM;
    insert->rows = heap_new(row_count * sizeof *insert->rows + keys_size);
    uint8_t *key = (uint8_t *)(insert->rows + row_count);
    uint64_t number = take_numbers(insert, &insert->rows[count], key);
    key += NUMBERS_ROOM;
    for (uint32_t i = 0; i < count; i++, key += KEY_ROW) {
        struct delay_record *record = &insert->records[i];
        struct delay_place place = {due_of(delay, record->delay_ms), number + i};
        record->id = (struct delay_id){delay->partition, place.due_ms, place.number};
        struct delay_entry *entry = delay_entry_new(delay, place, ENTRY_PENDING, row_of(record));
        insert->entries[i] = entry;
        insert->rows[i] = (struct storage_row){
            .change = STORAGE_PUT,
            .key = delay_store_key_row(key, delay->partition, place),
            .value = blob_span(entry->row),
            .offset_at = -1,
        };
    }
    if (insert->placed != NULL)
        insert->placed(insert);
    for (uint32_t i = 0; i < insert->more_count; i++)
        insert->rows[count + 1 + i] = insert->more[i];
    insert->append = (struct log_append){
        .partition = delay->partition,
        .rows = insert->rows,
        .row_count = row_count,
        .unit = insert->unit,
        .part_count = insert->part_count,
    };
    request_init(&insert->append.request, delay->worker->loop, insert_stored);
    delay_enter(delay);
    log_append(delay->worker->log_worker, &insert->append);
}

static void refused(struct request *request, enum status status)
{
    struct delay_insert *insert = container_of(request, struct delay_insert, append.request);
    request_complete(&insert->request, status);
}

void delay_refuse(struct log_worker *worker, struct delay_insert *insert, enum status why)
{
    insert->append = (struct log_append){.unit = insert->unit, .part_count = insert->part_count};
    request_init(&insert->append.request, insert->request.home, refused);
    log_refuse(worker, &insert->append, why);
}

static void insert_refuse(struct delay_insert *insert, enum status why)
{
    if (insert->unit == 0)
        request_complete(&insert->request, why);
    else
        delay_refuse(insert->delay->worker->log_worker, insert, why);
}

static void insert_begin(struct delay_insert *insert)
{
    struct delay *delay = insert->delay;
    if (delay->state == DELAY_OPENING)
        list_push(&delay->inserts, &insert->link);
    else if (delay->state != DELAY_SERVING)
        insert_refuse(insert, delay->failure);
    else if (delay->counted + insert->count > LIMIT_DELAYED)
        insert_refuse(insert, STATUS_OVER_QUOTA);
    else
        insert_serve(insert);
}

void delay_insert(struct delay *delay, struct delay_insert *insert)
{
    CHECK(loop_is_home(delay->worker->loop) && insert->count > 0);
    for (uint32_t i = 0; i < insert->count; i++)
        CHECK(insert->records[i].batch->record_count == 1);
    insert->delay = delay;
    insert->entries = NULL;
    insert->numbers = NULL;
    insert->rows = NULL;
    link_init(&insert->link);
    insert_begin(insert);
}

void delay_cancel(struct delay *delay, struct delay_cancel *cancel)
{
    CHECK(loop_is_home(delay->worker->loop));
    cancel->delay = delay;
    link_init(&cancel->link);
    if (delay->state == DELAY_OPENING)
        list_push(&delay->cancels, &cancel->link);
    else if (delay->state != DELAY_SERVING)
        request_complete(&cancel->request, delay->failure);
    else
        delay_cancel_serve(cancel);
}

void delay_serve_waiting(struct delay *delay)
{
    struct link *link;
    while ((link = list_pop(&delay->inserts)) != NULL)
        insert_begin(container_of(link, struct delay_insert, link));
    while ((link = list_pop(&delay->cancels)) != NULL)
        delay_cancel(delay, container_of(link, struct delay_cancel, link));
}

/* ------------------------------------------------ waking up */

/* When there is something to fire; INT64_MAX: not before something else happens. */
static int64_t fire_at(const struct delay *delay)
{
    const struct delay_entry *first = delay_near_first(&delay->near);
    if (delay->worker->holds || delay->firing.active || first == NULL ||
        first->state != ENTRY_READY || !place_is_before(first->place, delay->horizon))
        return INT64_MAX;
    return first->place.due_ms > delay->fire_again_ms ? first->place.due_ms : delay->fire_again_ms;
}

void delay_advance(struct delay *delay)
{
    if (delay->state != DELAY_SERVING)
        return;
    delay_fire(delay);
    delay_store_load(delay);
    int64_t fire_ms = fire_at(delay), load_ms = delay_store_load_at(delay);
    int64_t at_ms = fire_ms < load_ms ? fire_ms : load_ms;
    struct loop *loop = delay->worker->loop;
    if (at_ms == INT64_MAX) {
        loop_timer_stop(loop, &delay->timer);
        return;
    }
    int64_t left_ms = at_ms - steady_now(&delay->clock);
    if (left_ms > LOOK_AGAIN_MS)
        left_ms = LOOK_AGAIN_MS;
    loop_timer_start(loop, &delay->timer, left_ms > 0 ? (uint64_t)left_ms : 1);
}

void delay_check(struct delay *delay)
{
    CHECK(loop_is_home(delay->worker->loop));
    delay_advance(delay);
}
