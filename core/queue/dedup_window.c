/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of a window in buckets by time, each an open table: a look-up asks at most some ten of
 * them, and what is too old goes with its bucket. */
#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/queue/dedup_impl.h"

enum { CAPACITY_MIN = 16, BUCKETS = 8, BUCKET_MS_MIN = 1000 };

/* Two keyed hashes with keys that never change: rows are found by them for ever. */
struct dedup_key dedup_key_of(struct span text, uint32_t part)
{
    static const struct hash_key keys[2] = {
        {0x706f6c796c6f6764ULL, 0x656475706b657931ULL},
        {0x9e3779b97f4a7c15ULL, 0xd1b54a32d192ed03ULL},
    };
    struct dedup_key key = {{hash_keyed(&keys[0], text) + part * keys[1].k0,
                             hash_keyed(&keys[1], text) + part * keys[1].k1}};
    if (!dedup_key_is_set(&key))
        key.hash[0] = 1;
    return key;
}

void dedup_window_init(struct dedup_window *window, uint64_t window_ms, struct dedup_worker *worker)
{
    *window = (struct dedup_window){.window_ms = window_ms, .worker = worker};
    list_init(&window->buckets);
}

static void bucket_free(struct dedup_window *window, struct dedup_bucket *bucket)
{
    link_remove(&bucket->link);
    window->worker->keys -= bucket->count;
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&bucket->owners, &i)) != NULL;) {
        struct dedup_owner *owner = slot->value;
        dedup_owner_count(&window->worker->owners, owner->id, -(int)owner->keys, 0);
        heap_free(owner);
    }
    map_deinit(&bucket->owners);
    heap_free(bucket->slots);
    heap_free(bucket);
}

void dedup_window_deinit(struct dedup_window *window)
{
    struct link *link;
    while ((link = list_first(&window->buckets)) != NULL)
        bucket_free(window, container_of(link, struct dedup_bucket, link));
}

static bool key_equal(const struct dedup_key *a, const struct dedup_key *b)
{
    return a->hash[0] == b->hash[0] && a->hash[1] == b->hash[1];
}

/* Where the key is, or would be. */
static struct dedup_slot *slot_of(const struct dedup_bucket *bucket, const struct dedup_key *key)
{
    uint32_t at = (uint32_t)key->hash[0] & (bucket->capacity - 1);
    while (dedup_key_is_set(&bucket->slots[at].key) && !key_equal(&bucket->slots[at].key, key))
        at = (at + 1) & (bucket->capacity - 1);
    return &bucket->slots[at];
}

bool dedup_window_find(const struct dedup_window *window, const struct dedup_key *key,
                       int64_t now_ms, uint64_t *offset, int64_t *due_ms)
{
    const struct link *end = &window->buckets.head;
    for (struct link *link = end->previous; link != end; link = link->previous) {
        const struct dedup_bucket *bucket = container_of(link, struct dedup_bucket, link);
        const struct dedup_slot *slot = bucket->capacity == 0 ? NULL : slot_of(bucket, key);
        if (slot == NULL || !dedup_key_is_set(&slot->key))
            continue;
        *offset = slot->offset;
        *due_ms = slot->due_after_ms == 0 ? 0 : bucket->start_ms + slot->due_after_ms;
        return (uint64_t)(now_ms - bucket->start_ms - slot->after_ms) < window->window_ms;
    }
    return false;
}

static struct dedup_bucket *bucket_new(struct dedup_window *window, int64_t start_ms)
{
    struct dedup_bucket *bucket = heap_new(sizeof *bucket);
    bucket->start_ms = bucket->last_ms = start_ms;
    list_push(&window->buckets, &bucket->link);
    return bucket;
}

static struct dedup_bucket *newest(const struct dedup_window *window)
{
    if (list_is_empty(&window->buckets))
        return NULL;
    return container_of(window->buckets.head.previous, struct dedup_bucket, link);
}

struct dedup_bucket *dedup_window_newest(struct dedup_window *window, int64_t now_ms)
{
    struct dedup_bucket *bucket = newest(window);
    uint64_t length_ms = window->window_ms / BUCKETS;
    if (length_ms < BUCKET_MS_MIN)
        length_ms = BUCKET_MS_MIN;
    if (bucket == NULL || (uint64_t)(now_ms - bucket->start_ms) >= length_ms)
        bucket = bucket_new(window, now_ms);
    return bucket;
}

struct dedup_bucket *dedup_window_named(struct dedup_window *window, int64_t start_ms)
{
    struct dedup_bucket *bucket = newest(window);
    return bucket != NULL && bucket->start_ms == start_ms ? bucket : bucket_new(window, start_ms);
}

static void bucket_grow(struct dedup_bucket *bucket)
{
    struct dedup_bucket old = *bucket;
    bucket->capacity = old.capacity == 0 ? CAPACITY_MIN : old.capacity * 2;
    bucket->slots = heap_array(bucket->capacity, sizeof *bucket->slots);
    for (uint32_t i = 0; i < old.capacity; i++)
        if (dedup_key_is_set(&old.slots[i].key))
            *slot_of(bucket, &old.slots[i].key) = old.slots[i];
    heap_free(old.slots);
}

/* A wall clock that was far off once: it is not known any more when that was due. */
static void slot_delay(struct dedup_slot *slot, int64_t due_after_ms)
{
    if (due_after_ms > 0 && due_after_ms <= UINT32_MAX)
        slot->due_after_ms = (uint32_t)due_after_ms;
    else
        slot->offset = DEDUP_OFFSET_UNKNOWN;
}

void dedup_window_put(struct dedup_window *window, struct dedup_bucket *bucket,
                      const struct dedup_key *key, uint32_t after_ms, uint64_t offset,
                      int64_t due_ms, uint64_t owner)
{
    if (bucket->count >= bucket->capacity / 4 * 3)
        bucket_grow(bucket);
    struct dedup_slot *slot = slot_of(bucket, key);
    if (!dedup_key_is_set(&slot->key)) {
        bucket->count++;
        window->worker->keys++;
        dedup_owner_count(&bucket->owners, owner, 1, 0);
        dedup_owner_count(&window->worker->owners, owner, 1, 0);
    }
    *slot = (struct dedup_slot){.key = *key, .offset = offset, .after_ms = after_ms};
    if (due_ms != 0)
        slot_delay(slot, due_ms - bucket->start_ms);
    if (bucket->start_ms + after_ms > bucket->last_ms)
        bucket->last_ms = bucket->start_ms + after_ms;
}

static struct dedup_bucket *oldest(const struct dedup_window *window)
{
    struct link *link = list_first(&window->buckets);
    return link == NULL ? NULL : container_of(link, struct dedup_bucket, link);
}

int64_t dedup_window_expiry(const struct dedup_window *window)
{
    const struct dedup_bucket *bucket = oldest(window);
    if (bucket == NULL || window->window_ms >= (uint64_t)(INT64_MAX - bucket->last_ms))
        return INT64_MAX;
    return bucket->last_ms + (int64_t)window->window_ms;
}

bool dedup_window_expire(struct dedup_window *window, int64_t now_ms, int64_t *start_ms)
{
    struct dedup_bucket *bucket = oldest(window);
    if (dedup_window_expiry(window) > now_ms || bucket->in_flight > 0)
        return false;
    *start_ms = bucket->start_ms;
    bucket_free(window, bucket);
    return true;
}
