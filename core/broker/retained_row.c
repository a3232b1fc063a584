/* SPDX-License-Identifier: Apache-2.0 */
/* Retained rows as bytes, and filters as ranges of them. */
#include "core/broker/retained_row.h"

#include "core/base/hash.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/log/table.h"

enum {
    VALUE_VERSION = 2,
    HEAD = 1 + 8,
    LEVEL = 1 + 4,
    MARK_END = 0,
    MARK_LEVEL = 1,
    MARK_AFTER = 2
};

static uint8_t *put_head(uint64_t tenant, uint8_t *at)
{
    *at = TABLE_RETAINED;
    store_u64(at + 1, tenant);
    return at + HEAD;
}

static uint8_t *put_level(uint32_t hash, uint8_t *at)
{
    *at = MARK_LEVEL;
    store_u32(at + 1, hash);
    return at + LEVEL;
}

/* The level at *position, which moves behind it; past text.size when that was the last one. */
static struct span level_next(struct span text, size_t *position)
{
    const uint8_t *start = text.data + *position;
    const uint8_t *slash = memchr(start, '/', text.size - *position);
    size_t size = slash == NULL ? text.size - *position : (size_t)(slash - start);
    *position += size + 1;
    return span_of(start, size);
}

static uint32_t level_hash(struct span level)
{
    return (uint32_t)hash_stable(level);
}

size_t retained_key(uint64_t tenant, struct span topic, uint8_t *key)
{
    uint8_t *at = put_head(tenant, key);
    for (size_t position = 0; position <= topic.size;)
        at = put_level(level_hash(level_next(topic, &position)), at);
    *at = MARK_END;
    store_u64(at + 1, hash_stable(topic));
    return (size_t)(at + 9 - key);
}

uint64_t retained_key_topic(struct span key)
{
    return key.size < 8 ? 0 : load_u64(key.data + key.size - 8);
}

void retained_value_head(uint64_t partition, uint8_t value[RETAINED_VALUE_HEAD])
{
    memset(value, 0, RETAINED_VALUE_HEAD);
    value[0] = VALUE_VERSION;
    store_u64(value + 1, partition);
}

bool retained_value_partition(struct span value, uint64_t *partition)
{
    if (value.size <= RETAINED_VALUE_HEAD || value.data[0] != VALUE_VERSION)
        return false;
    *partition = load_u64(value.data + 1);
    return true;
}

enum status retained_value_open(struct span value, struct batch **batch)
{
    uint64_t partition;
    if (!retained_value_partition(value, &partition))
        return STATUS_MALFORMED;
    uint64_t offset = load_u64(value.data + RETAINED_OFFSET_AT);
    if (offset >= INT64_MAX)
        return STATUS_MALFORMED;
    struct blob *bytes = blob_copy(span_from(value, RETAINED_VALUE_HEAD));
    enum status status = batch_open(bytes, 0, batch);
    blob_unref(bytes);
    if (status == STATUS_OK && (*batch)->record_count != 1) {
        batch_unref(*batch);
        return STATUS_MALFORMED;
    }
    if (status == STATUS_OK) {
        (*batch)->partition = partition;
        (*batch)->base_offset = offset;
        (*batch)->commit = load_u64(value.data + RETAINED_COMMIT_AT);
    }
    return status;
}

/* ------------------------------------------------ filters */

static void place_end(struct retained_place *place, uint8_t *at, uint8_t mark)
{
    *at = mark;
    place->size = (size_t)(at + 1 - place->key);
}

bool retained_place_is_before(const struct retained_place *a, const struct retained_place *b)
{
    int order = memcmp(a->key, b->key, a->size < b->size ? a->size : b->size);
    return order < 0 || (order == 0 && a->size < b->size);
}

/* The levels before the first wildcard bound the range. */
static void filter_bounds(const struct retained_filter *filter, struct span text,
                          struct retained_place *first, struct retained_place *end)
{
    if (filter->exact) {
        first->size = retained_key(filter->tenant, text, first->key);
        *end = *first;
        end->key[end->size++] = 0;
        return;
    }
    uint8_t *at = put_head(filter->tenant, first->key);
    uint32_t fixed = 0;
    while (fixed < filter->level_count && !filter->any[fixed])
        at = put_level(filter->hashes[fixed++], at);
    size_t size = (size_t)(at - first->key);
    memcpy(end->key, first->key, size);
    /* Only what ends in '#' there matches the parent itself, too. */
    place_end(first, at, fixed == filter->level_count ? MARK_END : MARK_LEVEL);
    place_end(end, end->key + size, MARK_AFTER);
}

void retained_filter_init(struct retained_filter *filter, uint64_t tenant, struct span text,
                          struct retained_place *first, struct retained_place *end)
{
    *filter = (struct retained_filter){.tenant = tenant, .exact = true};
    for (size_t position = 0; position <= text.size;) {
        struct span level = level_next(text, &position);
        if (span_is(level, "#")) {
            filter->rest = true;
            filter->exact = false;
            break;
        }
        bool any = span_is(level, "+");
        filter->any[filter->level_count] = any;
        filter->hashes[filter->level_count++] = any ? 0 : level_hash(level);
        filter->exact &= !any;
    }
    filter_bounds(filter, text, first, end);
}

/* The first size bytes of key, then what follows all that begins with them and a level. */
static void next_after(struct retained_place *next, struct span key, size_t size)
{
    if (next == NULL)
        return;
    memcpy(next->key, key.data, size);
    place_end(next, next->key + size, MARK_AFTER);
}

static void next_level(struct retained_place *next, struct span key, size_t size, uint32_t hash)
{
    if (next == NULL)
        return;
    memcpy(next->key, key.data, size);
    next->size = (size_t)(put_level(hash, next->key + size) - next->key);
}

static void next_key(struct retained_place *next, struct span key)
{
    if (next == NULL)
        return;
    memcpy(next->key, key.data, key.size);
    next->key[key.size] = 0;
    next->size = key.size + 1;
}

bool retained_filter_passes(const struct retained_filter *filter, struct span key,
                            struct retained_place *next)
{
    size_t at = HEAD;
    uint32_t level = 0;
    if (key.size > RETAINED_KEY_MAX) {
        if (next != NULL) { /* none of ours: behind them all */
            next->key[0] = TABLE_RETAINED + 1;
            next->size = 1;
        }
        return false;
    }
    for (; at + LEVEL <= key.size && key.data[at] == MARK_LEVEL; level++, at += LEVEL) {
        if (level == filter->level_count) {
            if (filter->rest)
                break;
            next_after(next, key, at);
            return false;
        }
        if (filter->any[level])
            continue;
        uint32_t hash = load_u32(key.data + at + 1);
        if (hash == filter->hashes[level])
            continue;
        if (hash < filter->hashes[level])
            next_level(next, key, at, filter->hashes[level]);
        else
            next_after(next, key, at);
        return false;
    }
    next_key(next, key);
    return level == filter->level_count;
}
