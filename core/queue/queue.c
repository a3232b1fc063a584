/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptions of queues and groups: their references, their stored rows, and where a key belongs.
 */
#include "core/queue/queue.h"

#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/reader.h"

/* Of queues 1 ended before overflow; of groups 1 before the mode, 2 before the parent, 3
 * before the selector, 4 before how long consumers may stay away. */
enum { QUEUE_VERSION = 3, GROUP_VERSION = 5 };
enum { QUEUE_BUILT_IN = 1, QUEUE_DESCRIBED = 2, QUEUE_REDRIVE = 4 }; /* flags of a queue's row */
enum { GROUP_COUNTS = 1 };

/* References. Descriptions are shared as const; only their count changes. */

static bool unref(const atomic_uint *refs)
{
    unsigned before =
        atomic_fetch_sub_explicit((atomic_uint *)(uintptr_t)refs, 1, memory_order_acq_rel);
    CHECK(before != 0);
    return before == 1;
}

static void ref(const atomic_uint *refs)
{
    atomic_fetch_add_explicit((atomic_uint *)(uintptr_t)refs, 1, memory_order_relaxed);
}

struct queue *queue_ref(const struct queue *queue)
{
    ref(&queue->refs);
    return (struct queue *)(uintptr_t)queue;
}

void queue_unref(struct queue *queue)
{
    if (queue == NULL || !unref(&queue->refs))
        return;
    if (queue->stat != NULL && unref(&queue->stat->refs))
        heap_free(queue->stat);
    heap_free(queue->name);
    heap_free(queue->description);
    heap_free(queue);
}

static char *copy_text(const char *text)
{
    return text == NULL ? NULL : heap_text(text, strlen(text));
}

/* A description of its own, but for what it points to. The count of the original, its first member,
 * is not read: it is others' to change meanwhile. */
static void *copy_of(const void *original, size_t size)
{
    uint8_t *copy = heap_new(size);
    memcpy(copy + sizeof(atomic_uint), (const uint8_t *)original + sizeof(atomic_uint),
           size - sizeof(atomic_uint));
    atomic_init((atomic_uint *)(void *)copy, 1);
    return copy;
}
_Static_assert(offsetof(struct queue, refs) == 0 && offsetof(struct group_spec, refs) == 0,
               "the count is the first member");

struct queue *queue_copy(const struct queue *queue)
{
    struct queue *copy = copy_of(queue, sizeof *copy);
    copy->name = copy_text(queue->name);
    copy->description = copy_text(queue->description);
    if (copy->stat != NULL)
        ref(&copy->stat->refs);
    return copy;
}

struct group_spec *group_spec_ref(const struct group_spec *group)
{
    ref(&group->refs);
    return (struct group_spec *)(uintptr_t)group;
}

void group_spec_unref(struct group_spec *group)
{
    if (group == NULL || !unref(&group->refs))
        return;
    if (group->stat != NULL && unref(&group->stat->refs))
        heap_free(group->stat);
    selector_unref(group->selector);
    heap_free(group->name);
    heap_free(group);
}

struct group_spec *group_spec_copy(const struct group_spec *group)
{
    struct group_spec *copy = copy_of(group, sizeof *copy);
    copy->name = copy_text(group->name);
    if (copy->selector != NULL)
        selector_ref(copy->selector);
    if (copy->stat != NULL)
        ref(&copy->stat->refs);
    return copy;
}

struct queue_stat *queue_stat_new(uint32_t partitions)
{
    struct queue_stat *stat = heap_new(sizeof *stat + partitions * sizeof stat->partitions[0]);
    atomic_init(&stat->refs, 1);
    stat->partition_count = partitions;
    return stat;
}

struct group_stat *group_stat_new(uint32_t partitions)
{
    struct group_stat *stat = heap_new(sizeof *stat + partitions * sizeof stat->undone[0]);
    atomic_init(&stat->refs, 1);
    stat->partition_count = partitions;
    return stat;
}

/* Rows */

enum status queue_encode(const struct queue *queue, struct buf *to)
{
    struct pack pack = pack_into(to);
    pack_u8(&pack, QUEUE_VERSION);
    unsigned flags = (queue->built_in ? QUEUE_BUILT_IN : 0) |
                     (queue->description != NULL ? QUEUE_DESCRIBED : 0) |
                     (queue->redrive ? QUEUE_REDRIVE : 0);
    pack_u8(&pack, (uint8_t)flags);
    pack_uvarint(&pack, queue->tenant);
    pack_uvarint(&pack, queue->id);
    pack_block(&pack, span_from_text(queue->uuid));
    pack_block(&pack, span_from_text(queue->name));
    if (queue->description != NULL)
        pack_block(&pack, span_from_text(queue->description));
    pack_u8(&pack, (uint8_t)queue->type);
    pack_u8(&pack, (uint8_t)queue->durability);
    pack_u8(&pack, (uint8_t)queue->class);
    pack_uvarint(&pack, queue->retention_ms);
    pack_uvarint(&pack, queue->retention_bytes);
    pack_uvarint(&pack, queue->first_partition);
    pack_uvarint(&pack, queue->partition_count);
    pack_varint(&pack, queue->created_ms);
    pack_uvarint(&pack, queue->max_consume_count);
    pack_u8(&pack, (uint8_t)queue->overflow);
    pack_uvarint(&pack, queue->max_records);
    pack_uvarint(&pack, queue->protect_bytes);
    pack_uvarint(&pack, queue->dedup_ms);
    pack_uvarint(&pack, queue->lease_ms);
    return pack.status;
}

/* Starts reading a row; a version that a later gateway wrote is not guessed at. */
static enum status row_open(struct span row, struct reader *reader, uint8_t newest,
                            uint8_t *version)
{
    *reader = reader_of(row);
    *version = reader_u8(reader);
    if (*version > newest)
        return STATUS_UNSUPPORTED;
    return *version != 0 ? STATUS_OK : STATUS_MALFORMED;
}

static void read_uuid(struct reader *reader, char *uuid, size_t size)
{
    struct span text = reader_block(reader);
    if (text.size >= size)
        reader->failed = true;
    else if (text.size > 0)
        memcpy(uuid, text.data, text.size);
}

static char *read_text(struct reader *reader)
{
    struct span text = reader_block(reader);
    if (text.size > 0 && memchr(text.data, 0, text.size) != NULL)
        reader->failed = true;
    return heap_text((const char *)text.data, text.size);
}

enum status queue_decode(struct span row, struct queue **decoded)
{
    struct reader reader;
    uint8_t version;
    enum status status = row_open(row, &reader, QUEUE_VERSION, &version);
    if (status != STATUS_OK)
        return status;
    struct queue *queue = heap_new(sizeof *queue);
    atomic_init(&queue->refs, 1);
    uint8_t flags = reader_u8(&reader);
    queue->built_in = (flags & QUEUE_BUILT_IN) != 0;
    queue->redrive = (flags & QUEUE_REDRIVE) != 0;
    queue->tenant = reader_uvarint(&reader);
    queue->id = reader_uvarint(&reader);
    read_uuid(&reader, queue->uuid, sizeof queue->uuid);
    queue->name = read_text(&reader);
    if ((flags & QUEUE_DESCRIBED) != 0)
        queue->description = read_text(&reader);
    uint8_t type = reader_u8(&reader);
    uint8_t durability = reader_u8(&reader);
    uint8_t class = reader_u8(&reader);
    queue->type = (enum queue_type)type;
    queue->durability = (enum durability)durability;
    queue->class = (enum storage_class) class;
    queue->retention_ms = reader_uvarint(&reader);
    queue->retention_bytes = reader_uvarint(&reader);
    queue->first_partition = reader_uvarint(&reader);
    uint64_t partitions = reader_uvarint(&reader);
    queue->partition_count = (uint32_t)partitions;
    queue->created_ms = reader_varint(&reader);
    uint64_t max_consume_count = reader_uvarint(&reader);
    queue->max_consume_count = (uint32_t)max_consume_count;
    uint8_t overflow = version > 1 ? reader_u8(&reader) : OVERFLOW_DROP_OLDEST;
    queue->overflow = (enum overflow)overflow;
    if (version > 1) {
        queue->max_records = reader_uvarint(&reader);
        queue->protect_bytes = reader_uvarint(&reader);
        queue->dedup_ms = reader_uvarint(&reader);
    }
    uint64_t lease_ms = version > 2 ? reader_uvarint(&reader) : 0;
    queue->lease_ms = (uint32_t)lease_ms;
    if (reader.failed || reader_left(&reader) != 0 || type > QUEUE_STREAM ||
        durability > DURABLE_INTERVAL || class >= STORAGE_CLASSES || partitions == 0 ||
        partitions > LIMIT_PARTITIONS || max_consume_count > UINT32_MAX ||
        overflow > OVERFLOW_REFUSE || lease_ms > LIMIT_LEASE_MS ||
        (!queue_name_is_valid(span_from_text(queue->name), LIMIT_QUEUE_NAME) &&
         !queue_name_is_temporary(span_from_text(queue->name)))) {
        queue_unref(queue);
        return STATUS_MALFORMED;
    }
    *decoded = queue;
    return STATUS_OK;
}

enum status group_spec_encode(const struct group_spec *group, struct buf *to)
{
    struct pack pack = pack_into(to);
    pack_u8(&pack, GROUP_VERSION);
    pack_u8(&pack, group->counts ? GROUP_COUNTS : 0);
    pack_uvarint(&pack, group->tenant);
    pack_uvarint(&pack, group->queue);
    pack_uvarint(&pack, group->id);
    pack_block(&pack, span_from_text(group->uuid));
    pack_block(&pack, span_from_text(group->name));
    pack_u8(&pack, (uint8_t)group->start);
    pack_varint(&pack, group->created_ms);
    pack_u8(&pack, (uint8_t)group->mode);
    pack_uvarint(&pack, group->parent);
    pack_block(&pack, group->selector == NULL ? (struct span){0} : selector_text(group->selector));
    pack_uvarint(&pack, group->consumer_idle_ms);
    return pack.status;
}

enum status group_spec_decode(struct span row, struct group_spec **decoded)
{
    struct reader reader;
    uint8_t version;
    enum status status = row_open(row, &reader, GROUP_VERSION, &version);
    if (status != STATUS_OK)
        return status;
    struct group_spec *group = heap_new(sizeof *group);
    atomic_init(&group->refs, 1);
    group->counts = (reader_u8(&reader) & GROUP_COUNTS) != 0;
    group->tenant = reader_uvarint(&reader);
    group->queue = reader_uvarint(&reader);
    group->id = reader_uvarint(&reader);
    read_uuid(&reader, group->uuid, sizeof group->uuid);
    group->name = read_text(&reader);
    uint8_t start = reader_u8(&reader);
    group->start = (enum group_start)start;
    group->created_ms = reader_varint(&reader);
    uint8_t mode = version > 1 ? reader_u8(&reader) : GROUP_SHARED;
    group->mode = (enum group_mode)mode;
    group->parent = version > 2 ? reader_uvarint(&reader) : 0;
    group->dead_partition = mode == GROUP_SHARED ? dead_partition_of(group->id) : 0;
    struct span selector = version > 3 ? reader_block(&reader) : (struct span){0};
    if (selector.size > 0 && selector_compile(selector, &group->selector, NULL) != STATUS_OK)
        reader.failed = true;
    group->consumer_idle_ms = version > 4 ? reader_uvarint(&reader) : 0;
    if (reader.failed || reader_left(&reader) != 0 || start > GROUP_LATEST ||
        mode > GROUP_BROADCAST) {
        group_spec_unref(group);
        return STATUS_MALFORMED;
    }
    *decoded = group;
    return STATUS_OK;
}

const char *queue_type_name(enum queue_type type)
{
    switch (type) {
    case QUEUE_STANDARD:
        return "standard";
    case QUEUE_FIFO:
        return "fifo";
    case QUEUE_STREAM:
        return "stream";
    }
    CHECK(false);
    return NULL;
}

bool queue_name_is_valid(struct span name, size_t limit)
{
    if (name.size == 0 || name.size > limit)
        return false;
    for (size_t i = 0; i < name.size; i++) {
        uint8_t c = name.data[i];
        bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!letter && !(c >= '0' && c <= '9') && c != '-' && c != '_' && c != '.')
            return false;
    }
    return true;
}

bool queue_name_is_temporary(struct span name)
{
    size_t prefix = sizeof QUEUE_TEMPORARY - 1;
    return name.size > prefix && memcmp(name.data, QUEUE_TEMPORARY, prefix) == 0 &&
           queue_name_is_valid(span_from(name, prefix), LIMIT_QUEUE_NAME - prefix);
}

uint32_t queue_failures_max(const struct queue *queue, const struct group_spec *group)
{
    if (!queue->redrive || group->dead_partition == 0)
        return 0;
    return queue->max_consume_count == 0 ? UINT32_MAX >> 1 : queue->max_consume_count;
}

uint32_t queue_lease_ms(const struct queue *queue, uint32_t asked_ms)
{
    return asked_ms != 0 ? asked_ms : queue->lease_ms != 0 ? queue->lease_ms : QUEUE_LEASE_MS;
}

uint64_t queue_partition_of_key(const struct queue *queue, struct span key)
{
    return queue->first_partition + hash_stable(key) % queue->partition_count;
}

/* What the queue has and what is on its way to it. Each publisher counts itself before it looks, so
 * that of two who meet at the last place at most one gets in. */
static bool is_overfull(const struct queue *queue)
{
    uint64_t records = 0, bytes = 0;
    for (uint32_t i = 0; i < queue->partition_count; i++) {
        const struct partition_stat *stat = &queue->stat->partitions[i];
        records += atomic_load_explicit(&stat->pending_records, memory_order_relaxed);
        bytes += atomic_load_explicit(&stat->pending_bytes, memory_order_relaxed);
        bytes += atomic_load_explicit(&stat->bytes, memory_order_relaxed);
        uint64_t start = atomic_load_explicit(&stat->start, memory_order_relaxed);
        uint64_t end = atomic_load_explicit(&stat->end, memory_order_relaxed);
        records += end > start ? end - start : 0;
    }
    return (queue->max_records != 0 && records > queue->max_records) ||
           (queue->retention_bytes != 0 && bytes > queue->retention_bytes);
}

static struct partition_stat *stat_of(const struct queue *queue, uint64_t partition)
{
    uint64_t index = partition - queue->first_partition;
    CHECK(index < queue->partition_count);
    return &queue->stat->partitions[index];
}

bool queue_admit(const struct queue *queue, uint64_t partition, uint64_t bytes)
{
    struct partition_stat *stat = stat_of(queue, partition);
    atomic_fetch_add_explicit(&stat->pending_records, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&stat->pending_bytes, bytes, memory_order_relaxed);
    if (!is_overfull(queue))
        return true;
    queue_take_back(queue, partition, 1, bytes);
    return false;
}

void queue_take_back(const struct queue *queue, uint64_t partition, uint32_t records,
                     uint64_t bytes)
{
    struct partition_stat *stat = stat_of(queue, partition);
    atomic_fetch_sub_explicit(&stat->pending_records, records, memory_order_relaxed);
    atomic_fetch_sub_explicit(&stat->pending_bytes, bytes, memory_order_relaxed);
}
