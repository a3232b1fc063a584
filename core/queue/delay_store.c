/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of delayed records: reading the mark at open, then what is due next, always from an
 * explicit place on, so that what was deleted before it is never walked over again. */
#include <stdlib.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/trace.h"
#include "core/log/table.h"
#include "core/queue/delay_impl.h"

enum { KIND_MARK, KIND_NUMBERS, KIND_ROW };
enum { AHEAD_MS = 60 * 1000, LOAD_MS = 30 * 1000, LOAD_AGAIN_MS = 5000 };
enum { NEAR_ROWS = 10000, SCAN_ROWS = 2000 };
/* Of one partition, and when all of a worker have more than NEAR_ALL_BYTES in memory. */
enum { NEAR_BYTES = 4 << 20, NEAR_LITTLE_BYTES = 64 << 10, NEAR_ALL_BYTES = 64 << 20 };

/* ------------------------------------------------ keys and values */

void delay_key(uint64_t partition, uint8_t key[DELAY_KEY])
{
    key[0] = TABLE_DELAY;
    store_u64(key + 1, partition);
}

static struct span key_of(uint8_t key[KEY_MARK], uint64_t partition, uint8_t kind)
{
    delay_key(partition, key);
    key[DELAY_KEY] = kind;
    return span_of(key, KEY_MARK);
}

struct span delay_store_key_row(uint8_t key[KEY_ROW], uint64_t partition, struct delay_place place)
{
    key_of(key, partition, KIND_ROW);
    store_u64(key + KEY_MARK, (uint64_t)place.due_ms);
    store_u64(key + KEY_MARK + 8, place.number);
    return span_of(key, KEY_ROW);
}

struct span delay_store_key_unit(uint8_t key[KEY_UNIT], uint64_t partition, uint64_t number)
{
    key_of(key, partition, KIND_NUMBERS);
    store_u64(key + KEY_MARK, number);
    return span_of(key, KEY_UNIT);
}

static bool place_of(struct span key, struct delay_place *place)
{
    if (key.size != KEY_ROW || key.data[DELAY_KEY] != KIND_ROW)
        return false;
    place->due_ms = (int64_t)load_u64(key.data + KEY_MARK);
    place->number = load_u64(key.data + KEY_MARK + 8);
    return place->due_ms >= 0;
}

static struct storage_row put_row(struct span key, struct span value)
{
    return (struct storage_row){.change = STORAGE_PUT, .key = key, .value = value, .offset_at = -1};
}

struct storage_row delay_store_mark(const struct delay *delay, uint8_t key[KEY_MARK],
                                    uint8_t value[VALUE_MARK])
{
    value[0] = DELAY_STATE_VERSION;
    store_u64(value + 1, (uint64_t)delay->mark.due_ms);
    store_u64(value + 9, delay->mark.number);
    store_u64(value + 17, delay->fired);
    return put_row(key_of(key, delay->partition, KIND_MARK), span_of(value, VALUE_MARK));
}

struct storage_row delay_store_numbers(const struct delay *delay, uint8_t key[KEY_MARK],
                                       uint8_t value[VALUE_NUMBERS])
{
    value[0] = DELAY_STATE_VERSION;
    store_u64(value + 1, delay->next_number);
    store_u64(value + 9, delay->come - delay->units.apart);
    return put_row(key_of(key, delay->partition, KIND_NUMBERS), span_of(value, VALUE_NUMBERS));
}

bool delay_store_row_is_good(struct span value)
{
    return value.size > ROW_TAIL && value.data[value.size - 1] == DELAY_ROW_VERSION;
}

/* ------------------------------------------------ opening */

static enum status take_state(struct delay *delay, struct span key, struct span value)
{
    if (key.size == KEY_UNIT && key.data[DELAY_KEY] == KIND_NUMBERS)
        return delay_unit_load(delay, key, value);
    if (key.size != KEY_MARK)
        return STATUS_MALFORMED;
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    if (version > DELAY_STATE_VERSION)
        return STATUS_UNSUPPORTED;
    if (key.data[DELAY_KEY] == KIND_MARK) {
        delay->mark.due_ms = (int64_t)reader_u64(&reader);
        delay->mark.number = reader_u64(&reader);
        delay->fired = reader_u64(&reader);
    } else {
        delay->next_number = reader_u64(&reader);
        delay->come = reader_u64(&reader);
    }
    bool good = !reader.failed && version == DELAY_STATE_VERSION && delay->mark.due_ms >= 0;
    return good ? STATUS_OK : STATUS_MALFORMED;
}

static void open_next(struct delay *delay, struct span after);

static void opened(struct request *request, enum status status)
{
    struct delay *delay = container_of(request, struct delay, scan.request);
    struct blob *rows = status == STATUS_OK ? delay->scan.rows : NULL;
    bool more = status == STATUS_OK && delay->scan.more;
    delay->scanning = false;
    size_t position = 0;
    struct span key = {0}, value;
    while (status == STATUS_OK && storage_scan_next(&delay->scan, &position, &key, &value))
        status = take_state(delay, key, value);
    if (status == STATUS_OK && more && delay->state == DELAY_OPENING)
        open_next(delay, key);
    blob_unref(rows);
    if (delay->scanning || delay->state == DELAY_CLOSED) {
        delay_leave(delay);
        return;
    }
    delay->state = status == STATUS_OK ? DELAY_SERVING : DELAY_FAILED;
    delay->failure = status;
    if (status != STATUS_OK)
        trace(TRACE_ERROR, "partition %llu: its delayed records cannot be read: %s",
              (unsigned long long)delay->partition, status_text(status));
    delay->horizon = delay->mark;
    if (delay->next_number == 0)
        delay->horizon = DELAY_END;
    else if (delay->mark.due_ms > 0)
        delay->horizon.number++;
    steady_init(&delay->clock, delay->mark.due_ms);
    delay->swept_ms = steady_now(&delay->clock);
    delay_count(delay);
    delay_serve_waiting(delay);
    delay_advance(delay);
    delay_leave(delay);
}

static void scan_start(struct delay *delay, void (*done)(struct request *, enum status))
{
    delay->scanning = true;
    request_init(&delay->scan.request, delay->worker->loop, done);
    delay_enter(delay);
    log_rows_scan(delay->worker->log, &delay->scan);
}

/* What follows this key. */
static void open_next(struct delay *delay, struct span after)
{
    CHECK(after.size < sizeof delay->scan_first);
    memcpy(delay->scan_first, after.data, after.size);
    delay->scan_first[after.size] = 0;
    delay->scan = (struct storage_scan){
        .first = span_of(delay->scan_first, after.size + 1),
        .end = key_of(delay->scan_end, delay->partition, KIND_ROW),
        .limit = SCAN_ROWS,
    };
    scan_start(delay, opened);
}

void delay_store_open(struct delay *delay)
{
    delay->scan = (struct storage_scan){
        .first = key_of(delay->scan_first, delay->partition, KIND_MARK),
        .end = key_of(delay->scan_end, delay->partition, KIND_ROW),
        .limit = SCAN_ROWS,
    };
    scan_start(delay, opened);
}

/* ------------------------------------------------ what is due next */

static size_t bytes_max(const struct delay *delay)
{
    return delay->worker->bytes > NEAR_ALL_BYTES ? NEAR_LITTLE_BYTES : NEAR_BYTES;
}

static bool has_enough(const struct delay *delay, unsigned part)
{
    return delay->ready_count >= NEAR_ROWS / part || delay->ready_bytes >= bytes_max(delay) / part;
}

/* False: enough is in memory; the row and what follows it stay where they are. */
static bool take_row(struct delay *delay, struct span key, struct span value, int64_t now_ms,
                     struct delay_place *place)
{
    if (!place_of(key, place))
        return true;
    if (place->due_ms > now_ms + AHEAD_MS || has_enough(delay, 1))
        return false;
    if (delay_near_find(&delay->near, place->number) != NULL)
        return true;
    if (delay_store_row_is_good(value))
        delay_entry_new(delay, *place, ENTRY_READY, blob_copy(value));
    else
        trace(TRACE_ERROR, "partition %llu: a delayed record is of an unknown version",
              (unsigned long long)delay->partition);
    return true;
}

/* READY ones from the horizon on need not be here. */
static void drop_behind(struct delay *delay)
{
    if (place_is_end(delay->horizon))
        return;
    struct delay_near *near = &delay->near;
    struct delay_entry **far = heap_array(near->count + 1, sizeof *far);
    uint32_t count = 0;
    for (uint32_t i = 0; i < near->count; i++) {
        struct delay_entry *entry = near->heap[i];
        if (entry->state == ENTRY_READY && !place_is_before(entry->place, delay->horizon))
            far[count++] = entry;
    }
    while (count > 0)
        delay_entry_drop(delay, far[--count]);
    heap_free(far);
}

static void loaded(struct request *request, enum status status)
{
    struct delay *delay = container_of(request, struct delay, scan.request);
    delay->scanning = false;
    if (status != STATUS_OK) {
        trace(TRACE_ERROR, "partition %llu: delayed records cannot be read: %s",
              (unsigned long long)delay->partition, status_text(status));
        delay->load_again_ms = steady_now(&delay->clock) + LOAD_AGAIN_MS;
    } else {
        int64_t now_ms = steady_now(&delay->clock);
        struct delay_place place = delay->horizon;
        size_t position = 0;
        struct span key, value;
        bool room = true;
        while (room && storage_scan_next(&delay->scan, &position, &key, &value))
            room = take_row(delay, key, value, now_ms, &place);
        if (!room)
            delay->horizon = place;
        else if (delay->scan.more)
            delay->horizon = (struct delay_place){place.due_ms, place.number + 1};
        else
            delay->horizon = DELAY_END;
        blob_unref(delay->scan.rows);
        drop_behind(delay);
    }
    delay_gone_free(delay);
    delay_store_drop_far(delay);
    delay_advance(delay);
    delay_leave(delay);
}

int64_t delay_store_load_at(const struct delay *delay)
{
    if (delay->scanning || place_is_end(delay->horizon) || has_enough(delay, 2))
        return INT64_MAX;
    int64_t at_ms = delay->horizon.due_ms - LOAD_MS;
    return at_ms > delay->load_again_ms ? at_ms : delay->load_again_ms;
}

void delay_store_load(struct delay *delay)
{
    if (delay_store_load_at(delay) > steady_now(&delay->clock))
        return;
    struct span end = delay_store_key_row(delay->scan_end, delay->partition, DELAY_END);
    delay->scan = (struct storage_scan){
        .first = delay_store_key_row(delay->scan_first, delay->partition, delay->horizon),
        .end = end,
        .limit = SCAN_ROWS,
    };
    scan_start(delay, loaded);
}

static int compare_places(const void *a, const void *b)
{
    const struct delay_entry *const *left = a, *const *right = b;
    return place_is_before((*left)->place, (*right)->place)   ? -1
           : place_is_before((*right)->place, (*left)->place) ? 1
                                                              : 0;
}

/* Sorted, a heap is still a heap. */
void delay_store_drop_far(struct delay *delay)
{
    struct delay_near *near = &delay->near;
    size_t kept_max = bytes_max(delay);
    if (delay->scanning ||
        (delay->ready_count <= 2 * NEAR_ROWS && delay->ready_bytes <= 2 * kept_max))
        return;
    qsort(near->heap, near->count, sizeof(struct delay_entry *), compare_places);
    size_t bytes = 0;
    uint32_t rows = 0;
    for (uint32_t i = 0; i < near->count; i++) {
        struct delay_entry *entry = near->heap[i];
        entry->index = i;
        if (entry->state != ENTRY_READY)
            continue;
        if (rows > 0 && (rows >= NEAR_ROWS || bytes + entry->row->size > kept_max) &&
            place_is_before(entry->place, delay->horizon))
            delay->horizon = entry->place;
        rows++;
        bytes += entry->row->size;
    }
    drop_behind(delay);
}

/* ------------------------------------------------ the end */

static void removed(struct request *request, enum status status)
{
    struct delay *delay = container_of(request, struct delay, removal.request);
    if (status != STATUS_OK)
        trace(TRACE_WARN, "partition %llu: its delayed records stay in storage: %s",
              (unsigned long long)delay->partition, status_text(status));
    delay_leave(delay);
}

void delay_store_remove(struct delay *delay)
{
    delay_key(delay->partition, delay->scan_first);
    delay_key(delay->partition + 1, delay->scan_end);
    delay->removal_row = (struct storage_row){
        .change = STORAGE_DELETE_RANGE,
        .key = span_of(delay->scan_first, DELAY_KEY),
        .value = span_of(delay->scan_end, DELAY_KEY),
        .offset_at = -1,
    };
    delay->removal = (struct log_rows){.rows = &delay->removal_row, .row_count = 1};
    delay->removal.append.durability = DURABLE_SYNC;
    request_init(&delay->removal.request, delay->worker->loop, removed);
    delay_enter(delay);
    log_rows_write(delay->worker->log, &delay->removal);
}
