/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of dedup: written with the records, read back at open, deleted by the bucket. */
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/trace.h"
#include "core/log/table.h"
#include "core/queue/dedup_impl.h"

enum { KIND_RANGE, KIND_KEY, KIND_KEYS };
enum { ROW_VERSION = 1, ROW_DELAYED = 2 }; /* versions */
enum { SCAN_ROWS = 2000, SWEEP_PRODUCERS = 64, SWEEP_ROWS = SWEEP_PRODUCERS + 2 };
enum { PRODUCER_IDLE_MS = 24 * 60 * 60 * 1000, PRODUCER_LOOK_MS = 60 * 60 * 1000 };

/* ------------------------------------------------ keys and values */

void dedup_row_key(uint64_t partition, uint8_t key[DEDUP_KEY])
{
    key[0] = TABLE_DEDUP;
    store_u64(key + 1, partition);
}

/* All rows of one bucket or producer have a key that begins so. */
static struct span prefix(uint64_t partition, uint8_t kind, uint64_t number, uint8_t *at)
{
    dedup_row_key(partition, at);
    at[DEDUP_KEY] = kind;
    store_u64(at + DEDUP_KEY + 1, number);
    return span_of(at, DEDUP_KEY + 9);
}

size_t dedup_store_keys_size(const struct dedup_append *append, uint32_t count)
{
    return append->delayed == NULL
               ? DEDUP_KEYS_KEY + DEDUP_KEYS_HEAD + (size_t)count * DEDUP_KEYS_EACH
               : DEDUP_KEYS_KEY + DEDUP_DELAYED_HEAD + (size_t)count * DEDUP_DELAYED_EACH;
}

struct storage_row dedup_store_keys(struct dedup_append *append, uint32_t count, uint8_t *at)
{
    bool delayed = append->delayed != NULL;
    struct dedup_bucket *bucket = append->bucket;
    uint64_t partition = append->dedup->partition;
    struct span begin = prefix(partition, KIND_KEYS, (uint64_t)bucket->start_ms, at);
    store_u64(at + begin.size, bucket->next_row++);
    uint8_t *value = at + DEDUP_KEYS_KEY;
    value[0] = delayed ? ROW_DELAYED : ROW_VERSION;
    store_u32(value + 1, (uint32_t)(append->at_ms - bucket->start_ms));
    uint8_t *to = value + (delayed ? DEDUP_DELAYED_HEAD : DEDUP_KEYS_HEAD);
    for (uint32_t i = 0; i < append->count; i++) {
        const struct dedup_item *item = &append->items[i];
        if (!dedup_is_new_key(item))
            continue;
        store_u64(to, item->key.hash[0]);
        store_u64(to + 8, item->key.hash[1]);
        if (!delayed)
            store_u32(to + 16, item->place);
        to += delayed ? DEDUP_DELAYED_EACH : DEDUP_KEYS_EACH;
    }
    return (struct storage_row){
        .change = STORAGE_PUT,
        .key = span_of(at, DEDUP_KEYS_KEY),
        .value = span_of(value, dedup_store_keys_size(append, count) - DEDUP_KEYS_KEY),
        .offset_at = delayed ? -1 : DEDUP_KEYS_OFFSET_AT,
    };
}

void dedup_store_place(const struct dedup_append *append, const struct storage_row *row)
{
    uint8_t *to = (uint8_t *)(uintptr_t)row->value.data + DEDUP_DELAYED_HEAD;
    for (uint32_t i = 0; i < append->count; i++) {
        const struct dedup_item *item = &append->items[i];
        if (!dedup_is_new_key(item))
            continue;
        const struct delay_id *id = &append->insert.records[item->place].id;
        store_u64(to + 16, id->number);
        store_u64(to + 24, (uint64_t)id->due_ms);
        to += DEDUP_DELAYED_EACH;
    }
}

struct storage_row dedup_store_run(const struct dedup *dedup, const struct dedup_run *run,
                                   uint32_t slot, int64_t now_ms, uint8_t *at)
{
    size_t size = prefix(dedup->partition, KIND_RANGE, run->producer->id, at).size;
    at[size] = (uint8_t)slot;
    uint8_t *value = at + DEDUP_RANGE_KEY;
    value[0] = ROW_VERSION;
    store_u16(value + 1, (uint16_t)run->epoch);
    store_u32(value + 3, (uint32_t)run->range.first);
    store_u32(value + 7, (uint32_t)run->range.last);
    store_u64(value + 11, (uint64_t)now_ms);
    return (struct storage_row){
        .change = STORAGE_PUT,
        .key = span_of(at, DEDUP_RANGE_KEY),
        .value = span_of(value, DEDUP_RANGE_VALUE),
        .offset_at = DEDUP_RANGE_OFFSET_AT,
        .patch_record = run->place,
    };
}

/* ------------------------------------------------ reading back */

static enum status load_range(struct dedup *dedup, struct span key, struct span value)
{
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    if (version > ROW_VERSION)
        return STATUS_UNSUPPORTED;
    uint32_t epoch = reader_u16(&reader), first = reader_u32(&reader), last = reader_u32(&reader);
    int64_t time_ms = (int64_t)reader_u64(&reader);
    uint64_t offset = reader_u64(&reader);
    uint8_t slot = key.data[DEDUP_RANGE_KEY - 1];
    if (reader.failed || reader_left(&reader) != 0 || version != ROW_VERSION || epoch > INT16_MAX ||
        first > INT32_MAX || last > INT32_MAX || slot >= DEDUP_RANGES || time_ms < 0)
        return STATUS_MALFORMED;
    uint64_t id = load_u64(key.data + DEDUP_KEY + 1);
    struct dedup_producer *producer = map_get(&dedup->producers, span_of(&id, sizeof id));
    if (producer == NULL)
        producer = dedup_add_producer(dedup, id, 0); /* whose it was is not stored */
    struct dedup_range range = {(int32_t)first, (int32_t)last, offset};
    dedup_producer_load(producer, slot, (int32_t)epoch, range);
    if (time_ms > producer->last_ms)
        producer->last_ms = time_ms;
    if (time_ms > dedup->clock.now_ms)
        dedup->clock.now_ms = time_ms;
    return STATUS_OK;
}

/* Before any of its keys. */
static struct dedup_bucket *load_bucket(struct dedup *dedup, struct span key, uint32_t after_ms)
{
    int64_t start_ms = (int64_t)load_u64(key.data + DEDUP_KEY + 1);
    if (start_ms < 0 || start_ms > INT64_MAX - UINT32_MAX)
        return NULL;
    if (start_ms + after_ms > dedup->clock.now_ms)
        dedup->clock.now_ms = start_ms + after_ms;
    return dedup_window_named(&dedup->window, start_ms);
}

/* One of the keys that were stored one by one. */
static enum status load_key(struct dedup *dedup, struct span key, struct span value)
{
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    if (version > ROW_VERSION)
        return STATUS_UNSUPPORTED;
    uint32_t after_ms = reader_u32(&reader);
    uint64_t offset = reader_u64(&reader);
    const uint8_t *hash = key.data + DEDUP_KEY + 9;
    struct dedup_key hashes = {{load_u64(hash), load_u64(hash + 8)}};
    if (reader.failed || reader_left(&reader) != 0 || version != ROW_VERSION ||
        !dedup_key_is_set(&hashes))
        return STATUS_MALFORMED;
    struct dedup_bucket *bucket = load_bucket(dedup, key, after_ms);
    if (bucket == NULL)
        return STATUS_MALFORMED;
    dedup->single_keys = true;
    dedup_window_put(&dedup->window, bucket, &hashes, after_ms, offset, 0, 0);
    return STATUS_OK;
}

static enum status load_keys(struct dedup *dedup, struct span key, struct span value)
{
    struct reader reader = reader_of(value);
    uint8_t version = reader_u8(&reader);
    if (version > ROW_DELAYED)
        return STATUS_UNSUPPORTED;
    bool delayed = version == ROW_DELAYED;
    uint32_t after_ms = reader_u32(&reader);
    uint64_t base = delayed ? 0 : reader_u64(&reader);
    struct dedup_bucket *bucket = load_bucket(dedup, key, after_ms);
    if (reader.failed || version == 0 || bucket == NULL)
        return STATUS_MALFORMED;
    bucket->next_row = load_u64(key.data + DEDUP_KEY + 9) + 1;
    while (reader_left(&reader) > 0) {
        struct dedup_key hashes;
        hashes.hash[0] = reader_u64(&reader);
        hashes.hash[1] = reader_u64(&reader);
        uint64_t offset = delayed ? reader_u64(&reader) : base + reader_u32(&reader);
        int64_t due_ms = delayed ? (int64_t)reader_u64(&reader) : 0;
        if (reader.failed || due_ms < 0 || !dedup_key_is_set(&hashes))
            return STATUS_MALFORMED;
        dedup_window_put(&dedup->window, bucket, &hashes, after_ms, offset, due_ms, 0);
    }
    return STATUS_OK;
}

static enum status load_row(struct dedup *dedup, struct span key, struct span value)
{
    if (key.size == DEDUP_RANGE_KEY && key.data[DEDUP_KEY] == KIND_RANGE)
        return load_range(dedup, key, value);
    if (key.size == DEDUP_KEYED_KEY && key.data[DEDUP_KEY] == KIND_KEY)
        return load_key(dedup, key, value);
    if (key.size == DEDUP_KEYS_KEY && key.data[DEDUP_KEY] == KIND_KEYS)
        return load_keys(dedup, key, value);
    return STATUS_MALFORMED;
}

static void load_next(struct dedup *dedup);

static void loaded(struct request *request, enum status status)
{
    struct dedup *dedup = container_of(request, struct dedup, scan.request);
    struct blob *rows = status == STATUS_OK ? dedup->scan.rows : NULL;
    size_t position = 0;
    struct span key = {0}, value;
    while (status == STATUS_OK && storage_scan_next(&dedup->scan, &position, &key, &value))
        status = load_row(dedup, key, value);
    bool more = status == STATUS_OK && dedup->scan.more && dedup->state == DEDUP_LOADING;
    if (more) {
        buf_clear(&dedup->scan_first);
        CHECK(buf_append(&dedup->scan_first, key.data, key.size) == STATUS_OK);
        CHECK(buf_append(&dedup->scan_first, "", 1) == STATUS_OK); /* just after it */
    }
    blob_unref(rows);
    if (more) {
        load_next(dedup);
    } else if (dedup->state == DEDUP_LOADING) {
        if (status != STATUS_OK)
            trace(TRACE_ERROR, "partition %llu: what it has to deduplicate cannot be read: %s",
                  (unsigned long long)dedup->partition, status_text(status));
        dedup->state = status == STATUS_OK ? DEDUP_SERVING : DEDUP_FAILED;
        dedup->failure = status;
        dedup_check(dedup);
        dedup_run_waiting(dedup);
    }
    dedup_leave(dedup);
}

static void load_next(struct dedup *dedup)
{
    dedup->scan = (struct storage_scan){
        .first = buf_span(&dedup->scan_first),
        .end = span_of(dedup->scan_end, sizeof dedup->scan_end),
        .limit = SCAN_ROWS,
    };
    request_init(&dedup->scan.request, dedup->worker->loop, loaded);
    dedup_enter(dedup);
    log_rows_scan(dedup->worker->log, &dedup->scan);
}

void dedup_store_load(struct dedup *dedup)
{
    uint8_t first[DEDUP_KEY];
    dedup_row_key(dedup->partition, first);
    dedup_row_key(dedup->partition + 1, dedup->scan_end);
    steady_init(&dedup->clock, 0);
    buf_init(&dedup->scan_first, 64);
    CHECK(buf_append(&dedup->scan_first, first, sizeof first) == STATUS_OK);
    load_next(dedup);
}

/* ------------------------------------------------ what is too old */

static void swept(struct request *request, enum status status)
{
    struct dedup *dedup = container_of(request, struct dedup, sweep.request);
    if (status != STATUS_OK) /* the next sweep covers the same buckets */
        trace(TRACE_WARN, "partition %llu: what it need not know any more stays: %s",
              (unsigned long long)dedup->partition, status_text(status));
    dedup->sweeping = false;
    dedup_leave(dedup);
}

static void delete_range(struct dedup *dedup, uint8_t kind, uint64_t first, uint64_t end)
{
    struct storage_row *row = &dedup->sweep_rows[dedup->sweep.row_count];
    uint8_t *at =
        (uint8_t *)(dedup->sweep_rows + SWEEP_ROWS) + dedup->sweep.row_count * DEDUP_ROW_MAX;
    *row = (struct storage_row){
        .change = STORAGE_DELETE_RANGE,
        .key = prefix(dedup->partition, kind, first, at),
        .value = prefix(dedup->partition, kind, end, at + DEDUP_ROW_MAX / 2),
        .offset_at = -1,
    };
    dedup->sweep.row_count++;
}

static void sweep_producers(struct dedup *dedup, int64_t now_ms)
{
    if (now_ms - dedup->producers_looked_ms < PRODUCER_LOOK_MS)
        return;
    struct map_slot *slot;
    bool all = true;
    struct dedup_producer *idle[SWEEP_PRODUCERS];
    uint32_t count = 0;
    for (size_t i = 0; (slot = map_next(&dedup->producers, &i)) != NULL;) {
        struct dedup_producer *producer = slot->value;
        if (producer->pending || producer->last_ms + PRODUCER_IDLE_MS > now_ms)
            continue;
        all = count < SWEEP_PRODUCERS;
        if (!all)
            break;
        idle[count++] = producer;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint64_t id = idle[i]->id;
        dedup_drop_producer(dedup, idle[i]);
        delete_range(dedup, KIND_RANGE, id, id + 1);
    }
    if (all)
        dedup->producers_looked_ms = now_ms;
}

void dedup_store_sweep(struct dedup *dedup)
{
    if (dedup->sweeping)
        return;
    if (dedup->sweep_rows == NULL)
        dedup->sweep_rows = heap_new(SWEEP_ROWS * (sizeof *dedup->sweep_rows + DEDUP_ROW_MAX));
    int64_t now_ms = steady_now(&dedup->clock), start_ms;
    dedup->sweep = (struct log_append){.partition = dedup->partition, .rows = dedup->sweep_rows};
    bool expired = false;
    while (dedup_window_expire(&dedup->window, now_ms, &start_ms))
        expired = true;
    if (expired)
        delete_range(dedup, KIND_KEYS, 0, (uint64_t)start_ms + 1);
    if (expired && dedup->single_keys)
        delete_range(dedup, KIND_KEY, 0, (uint64_t)start_ms + 1);
    sweep_producers(dedup, now_ms);
    if (dedup->sweep.row_count == 0)
        return;
    dedup->sweeping = true;
    request_init(&dedup->sweep.request, dedup->worker->loop, swept);
    dedup_enter(dedup);
    log_append(dedup->worker->log_worker, &dedup->sweep);
}

/* ------------------------------------------------ the end */

static void removed(struct request *request, enum status status)
{
    struct dedup *dedup = container_of(request, struct dedup, removal.request);
    if (status != STATUS_OK)
        trace(TRACE_WARN, "partition %llu: what it had to deduplicate stays in storage: %s",
              (unsigned long long)dedup->partition, status_text(status));
    dedup_leave(dedup);
}

void dedup_store_remove(struct dedup *dedup)
{
    dedup_row_key(dedup->partition, dedup->removal_first);
    dedup_row_key(dedup->partition + 1, dedup->scan_end);
    dedup->removal_row = (struct storage_row){
        .change = STORAGE_DELETE_RANGE,
        .key = span_of(dedup->removal_first, DEDUP_KEY),
        .value = span_of(dedup->scan_end, DEDUP_KEY),
        .offset_at = -1,
    };
    dedup->removal = (struct log_rows){.rows = &dedup->removal_row, .row_count = 1};
    dedup->removal.append.durability = DURABLE_SYNC;
    request_init(&dedup->removal.request, dedup->worker->loop, removed);
    dedup_enter(dedup);
    log_rows_write(dedup->worker->log, &dedup->removal);
}
