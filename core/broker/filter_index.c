/* SPDX-License-Identifier: Apache-2.0 */
/* From a batch to the rows of the durable filters that match its records. */
#include "core/broker/filter_index.h"

#include <stdlib.h>

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/broker/topic.h"
#include "core/broker/worker.h"
#include "core/log/table.h"

/* Whether some session holds the filter; what is held is asked for again now and then, because
 * nobody says when the last one lets go. */
enum { FILTER_ABSENT = 1, FILTER_HELD, FILTER_ASKED };
enum { HELD_S = 600, SLOTS_MAX = 65536, SLOTS_FIRST = 256, OFFSET_AT = 8 };

/* ------------------------------------------------ candidates */

/* A topic cut at its slashes. */
struct levels {
    struct span topic;
    uint32_t count;
    uint32_t end[LIMIT_TOPIC_LEVELS]; /* of each level */
};

static bool levels_cut(struct levels *levels, struct span topic)
{
    levels->topic = topic;
    levels->count = 0;
    size_t at = 0;
    while (at <= topic.size) {
        if (levels->count == LIMIT_TOPIC_LEVELS)
            return false;
        const uint8_t *slash = memchr(topic.data + at, '/', topic.size - at);
        size_t end = slash == NULL ? topic.size : (size_t)(slash - topic.data);
        levels->end[levels->count++] = (uint32_t)end;
        at = end + 1;
    }
    return true;
}

/* The one filter of that shape that matches the topic, as text behind the tenant; false: none. */
static bool candidate(const struct filter_shape *shape, const struct levels *levels,
                      uint64_t tenant, struct buf *text)
{
    if (shape->rest ? levels->count < shape->levels : levels->count != shape->levels)
        return false;
    bool leading_wildcard = shape->levels == 0 || (shape->plus[0] & 1) != 0;
    if (levels->topic.data[0] == '$' && leading_wildcard)
        return false;
    buf_clear(text);
    size_t from = 0;
    bool fits = buf_append(text, &tenant, sizeof tenant) == STATUS_OK;
    for (uint32_t i = 0; i < shape->levels; i++) {
        size_t end = levels->end[i];
        bool plus = shape->plus[i / 64] >> i % 64 & 1;
        struct span level =
            plus ? span_from_text("+") : span_of(levels->topic.data + from, end - from);
        if (i > 0)
            fits &= buf_append_text(text, "/") == STATUS_OK;
        fits &= buf_append(text, level.data, level.size) == STATUS_OK;
        from = end + 1;
    }
    if (shape->rest)
        fits &= buf_append_text(text, shape->levels > 0 ? "/#" : "#") == STATUS_OK;
    return fits; /* else longer than any filter */
}

/* ------------------------------------------------ what is known of a filter */

static struct filter_slot *slot_find(const struct filter_slots *table, uint64_t id)
{
    if (table->capacity == 0)
        return NULL;
    uint32_t at = (uint32_t)id & (table->capacity - 1);
    while (table->slots[at].id != 0 && table->slots[at].id != id)
        at = (at + 1) & (table->capacity - 1);
    return &table->slots[at];
}

static struct filter_slot *slot_put(struct filter_slots *table, uint64_t id)
{
    if (table->count * 2 >= table->capacity) {
        struct filter_slots grown = {.capacity =
                                         table->capacity == 0 ? SLOTS_FIRST : table->capacity * 2};
        grown.slots = heap_array(grown.capacity, sizeof *grown.slots);
        grown.count = table->count;
        for (uint32_t i = 0; i < table->capacity; i++)
            if (table->slots[i].id != 0)
                *slot_find(&grown, table->slots[i].id) = table->slots[i];
        heap_free(table->slots);
        *table = grown;
    }
    struct filter_slot *slot = slot_find(table, id);
    if (slot->id == 0) {
        slot->id = id;
        table->count++;
    }
    return slot;
}

static uint32_t now_s(const struct broker_worker *worker)
{
    return (uint32_t)(loop_now_ms(worker->loop) / 1000);
}

static void filter_set(struct broker_worker *worker, uint64_t id, uint32_t state)
{
    struct filter_slot *slot = slot_put(&worker->filters.young, id);
    slot->state = state;
    slot->until_s = now_s(worker) + HELD_S;
}

/* The slot, moved to the young ones; NULL: nothing is known. */
static struct filter_slot *filter_known(struct broker_worker *worker, uint64_t id)
{
    struct filter_index *index = &worker->filters;
    struct filter_slot *slot = slot_find(&index->young, id);
    if (slot == NULL || slot->id == 0) {
        const struct filter_slot *old = slot_find(&index->old, id);
        if (old == NULL || old->id == 0)
            return NULL;
        slot = slot_put(&index->young, id);
        *slot = *old;
    }
    if (slot->state == FILTER_HELD && slot->until_s < now_s(worker))
        return NULL;
    return slot;
}

static void grow_old(struct filter_index *index)
{
    if (index->lookups > 0 || index->young.count < SLOTS_MAX)
        return;
    heap_free(index->old.slots);
    index->old = index->young;
    index->young = (struct filter_slots){0};
}

/* ------------------------------------------------ looking a filter up */

struct lookup {
    struct storage_scan scan;
    struct broker_worker *worker;
    uint64_t id;
    uint8_t first[FILTER_HOLDER_KEY], end[FILTER_HOLDER_KEY];
};

/* When in doubt the filter is indexed: rows too many do no harm. Who registered it meanwhile knows
 * better than a scan that began before. */
static void looked_up(struct request *request, enum status status)
{
    struct lookup *lookup = container_of(request, struct lookup, scan.request);
    struct broker_worker *worker = lookup->worker;
    const struct filter_slot *slot = slot_find(&worker->filters.young, lookup->id);
    bool held = status != STATUS_OK || lookup->scan.count > 0;
    if (slot == NULL || slot->id == 0 || slot->state != FILTER_HELD || held)
        filter_set(worker, lookup->id, held ? FILTER_HELD : FILTER_ABSENT);
    if (status == STATUS_OK)
        blob_unref(lookup->scan.rows);
    heap_free(lookup);
    worker->calls--;
    if (--worker->filters.lookups == 0)
        log_prepared(worker->log);
}

static void look_up(struct broker_worker *worker, uint64_t id)
{
    struct lookup *lookup = heap_new(sizeof *lookup);
    lookup->worker = worker;
    lookup->id = id;
    filter_holder_key(id, 0, lookup->first);
    filter_holder_key(id, UINT64_MAX, lookup->end);
    request_init(&lookup->scan.request, worker->loop, looked_up);
    lookup->scan.first = span_of(lookup->first, sizeof lookup->first);
    lookup->scan.end = span_of(lookup->end, sizeof lookup->end);
    lookup->scan.limit = 1;
    filter_set(worker, id, FILTER_ASKED);
    worker->filters.lookups++;
    worker->calls++;
    log_rows_scan(worker->broker->log, &lookup->scan);
}

/* ------------------------------------------------ registration */

struct registration {
    struct request *request;
    struct broker_worker *from;
    uint32_t confirms;
    uint32_t count;
    struct registration_part {
        struct mail mail;
        struct registration *of;
        struct broker_worker *to;
        struct log_units units;
    } parts[LIMIT_WORKERS];
    uint64_t ids[];
};

static void registration_confirm(struct mail *mail)
{
    struct registration_part *part = container_of(mail, struct registration_part, mail);
    struct registration *registration = part->of;
    if (--registration->confirms > 0)
        return;
    registration->from->calls--;
    registration->request->done(registration->request, STATUS_OK);
    heap_free(registration);
}

/* What this owner had matched before is in the store, or never will be. */
static void registered(struct request *request, enum status status)
{
    struct registration_part *part = container_of(request, struct registration_part, units.request);
    CHECK(status == STATUS_OK);
    part->mail.deliver = registration_confirm;
    mailbox_post(part->of->from->loop, &part->mail);
}

static void registration_deliver(struct mail *mail)
{
    struct registration_part *part = container_of(mail, struct registration_part, mail);
    const struct registration *registration = part->of;
    for (uint32_t i = 0; i < registration->count; i++)
        filter_set(part->to, registration->ids[i], FILTER_HELD);
    request_init(&part->units.request, part->to->loop, registered);
    log_await_units(part->to->log, &part->units);
}

void filter_index_register(struct broker_worker *worker, const uint64_t *ids, uint32_t count,
                           struct request *request)
{
    struct registration *registration = heap_new(sizeof *registration + count * sizeof *ids);
    registration->request = request;
    registration->from = worker;
    registration->count = count;
    if (count > 0)
        memcpy(registration->ids, ids, count * sizeof *ids);
    registration->confirms = worker->broker->worker_count;
    worker->calls++;
    for (unsigned i = 0; i < worker->broker->worker_count; i++) {
        struct registration_part *part = &registration->parts[i];
        part->of = registration;
        part->to = &worker->broker->workers[i];
        part->mail.deliver = registration_deliver;
        if (part->to == worker)
            registration_deliver(&part->mail);
        else
            mailbox_post(part->to->loop, &part->mail);
    }
}

/* ------------------------------------------------ a batch */

static void add_pair(struct filter_index *index, const struct filter_pair *pair)
{
    if (index->pair_count == index->pair_capacity) {
        index->pair_capacity = index->pair_capacity == 0 ? 64 : index->pair_capacity * 2;
        index->pairs = heap_resize(index->pairs, index->pair_capacity * sizeof *index->pairs);
    }
    index->pairs[index->pair_count++] = *pair;
}

/* False: some filter has to be looked up first. */
static bool match(struct broker_worker *worker, uint64_t tenant, const struct levels *levels,
                  struct filter_pair pair)
{
    struct filter_index *index = &worker->filters;
    const struct filter_shapes *shapes = &worker->broker->shapes;
    uint64_t left = atomic_load_explicit(&shapes->used, memory_order_acquire);
    bool known = true;
    for (; left != 0; left &= left - 1) {
        unsigned place = (unsigned)__builtin_ctzll(left);
        if (!candidate(&shapes->items[place], levels, tenant, &index->text))
            continue;
        pair.id = filter_shape_id(shapes, place, buf_span(&index->text));
        const struct filter_slot *slot = filter_known(worker, pair.id);
        if (slot == NULL)
            look_up(worker, pair.id);
        if (slot == NULL || slot->state == FILTER_ASKED)
            known = false;
        else if (slot->state == FILTER_HELD)
            add_pair(index, &pair);
    }
    return known;
}

/* One more record that goes where the one before it goes. */
static void extend(struct filter_index *index, uint32_t first_pair, size_t bytes)
{
    for (uint32_t i = first_pair; i < index->pair_count; i++) {
        index->pairs[i].count++;
        index->pairs[i].bytes += bytes;
    }
}

bool filter_index_prepare(struct broker_worker *worker, uint64_t partition,
                          const struct batch *batch)
{
    struct filter_index *index = &worker->filters;
    index->pair_count = 0;
    if (atomic_load_explicit(&worker->broker->shapes.used, memory_order_acquire) == 0 ||
        dead_partition_group(partition) != 0)
        return true;
    const struct queue *queue = catalog_queue_of_partition(worker->catalog, partition);
    uint64_t tenant = queue == NULL ? TENANT_DEFAULT : queue->tenant;
    bool known = true;
    grow_old(index);
    struct span headers = {0}; /* of the record before, whose pairs begin at first_pair */
    uint32_t first_pair = 0;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        struct levels levels;
        struct span topic;
        batch_record(batch, i, &record);
        if (record_guarantee(&record) == GUARANTEE_AT_MOST_ONCE) {
            headers = (struct span){0};
            continue;
        }
        /* Who publishes a burst says the same about all of it, its topic included. */
        if (headers.size > 0 && span_equal(record.headers, headers)) {
            extend(index, first_pair, record_bytes(&record));
            continue;
        }
        headers = record.headers;
        first_pair = index->pair_count;
        if (deliver_topic(&record, INT64_MIN, &topic) && levels_cut(&levels, topic))
            known &= match(
                worker, tenant, &levels,
                (struct filter_pair){.record = i, .count = 1, .bytes = record_bytes(&record)});
    }
    return known;
}

static int by_filter(const void *a, const void *b)
{
    const struct filter_pair *x = a, *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->record < y->record ? -1 : x->record > y->record;
}

/* The records of one filter as runs, and their size as one of none. */
static void encode_runs(const struct filter_pair *pairs, uint32_t count, struct pack *pack)
{
    uint32_t next = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += pairs[i].bytes;
    for (uint32_t i = 0; i < count;) {
        uint32_t first = pairs[i].record, size = pairs[i].count;
        while (++i < count && pairs[i].record == first + size)
            size += pairs[i].count;
        pack_uvarint(pack, first - next);
        pack_uvarint(pack, size);
        next = first + size;
    }
    pack_uvarint(pack, bytes);
    pack_uvarint(pack, 0);
}

void filter_index_derive(struct broker_worker *worker, uint64_t partition,
                         struct log_derived *derived)
{
    struct filter_index *index = &worker->filters;
    if (index->pair_count == 0)
        return;
    qsort(index->pairs, index->pair_count, sizeof *index->pairs, by_filter);
    struct buf runs;
    buf_init(&runs, (size_t)LIMIT_BATCH_RECORDS * 16);
    for (uint32_t i = 0, count; i < index->pair_count; i += count) {
        const struct filter_pair *pairs = &index->pairs[i];
        for (count = 1; i + count < index->pair_count && pairs[count].id == pairs->id; count++)
            continue;
        struct pack pack = pack_into(&runs);
        buf_clear(&runs);
        encode_runs(pairs, count, &pack);
        CHECK(pack.status == STATUS_OK);
        struct storage_row *row =
            log_derived_add(derived, STORAGE_PUT, FILTER_INDEX_KEY, FILTER_ROW_HEAD + runs.size);
        filter_index_key(pairs->id, 0, log_derived_key(row));
        store_u64(log_derived_value(row), partition);
        store_u64(log_derived_value(row) + OFFSET_AT, 0);
        memcpy(log_derived_value(row) + FILTER_ROW_HEAD, runs.data, runs.size);
        row->offset_at = OFFSET_AT;
        row->commit_in_key = 9;
    }
    buf_deinit(&runs);
    index->pair_count = 0;
}

void filter_index_init(struct broker_worker *worker)
{
    buf_init(&worker->filters.text, sizeof(uint64_t) + LIMIT_TOPIC_BYTES + 2);
}

void filter_index_deinit(struct broker_worker *worker)
{
    struct filter_index *index = &worker->filters;
    buf_deinit(&index->text);
    heap_free(index->young.slots);
    heap_free(index->old.slots);
    heap_free(index->pairs);
}
