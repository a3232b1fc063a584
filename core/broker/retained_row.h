/* SPDX-License-Identifier: Apache-2.0 */
/* The stored form of the retained set: one row per topic that holds the whole record. Keys hold
 * hashes of the levels, so that topics below one parent lie together and a filter is a range of
 * keys in which some stretches can be skipped; the topic itself is in the record.
 *
 *   key   = table, tenant u64, {1, hash of a level u32}..., 0, hash of the topic u64
 *   value = version u8, partition u64, offset u64, commit sequence u64, a batch of one record */
#ifndef CORE_BROKER_RETAINED_ROW_H
#define CORE_BROKER_RETAINED_ROW_H

#include "core/base/limits.h"
#include "core/log/batch.h"

enum {
    RETAINED_KEY_MAX = 1 + 8 + (int)LIMIT_TOPIC_LEVELS * 5 + 1 + 8,
    RETAINED_VALUE_HEAD = 1 + 8 + 8 + 8,
    RETAINED_OFFSET_AT = 1 + 8,     /* of value: the engine writes the record's offset there, */
    RETAINED_COMMIT_AT = 1 + 8 + 8, /* and here the sequence of its append */
};

/* topic is valid; key has room for RETAINED_KEY_MAX. Returns the key's size. */
size_t retained_key(uint64_t tenant, struct span topic, uint8_t *key);

uint64_t retained_key_topic(struct span key); /* the hash of the topic, which is hash_stable() */

void retained_value_head(uint64_t partition, uint8_t value[RETAINED_VALUE_HEAD]);
bool retained_value_partition(struct span value, uint64_t *partition); /* false: no such row */
/* A batch of one record, with its partition, offset and commit sequence; the reference is the
 * caller's. MALFORMED: no such row. */
enum status retained_value_open(struct span value, struct batch **batch);

/* A filter made ready to look at keys. */
struct retained_filter {
    uint64_t tenant;
    uint32_t level_count;            /* without a '#' at the end */
    bool rest;                       /* ends in '#' */
    bool exact;                      /* no wildcard: at most one row */
    uint8_t any[LIMIT_TOPIC_LEVELS]; /* '+' */
    uint32_t hashes[LIMIT_TOPIC_LEVELS];
};

struct retained_place {
    size_t size;
    uint8_t key[RETAINED_KEY_MAX + 1];
};
static inline struct span retained_place_span(const struct retained_place *place)
{
    return span_of(place->key, place->size);
}
bool retained_place_is_before(const struct retained_place *a, const struct retained_place *b);

/* filter is valid. All rows that may match lie in [first, end). */
void retained_filter_init(struct retained_filter *filter, uint64_t tenant, struct span text,
                          struct retained_place *first, struct retained_place *end);
/* False: the row of this key does not match. next, when not NULL: the smallest key behind it that
 * may. A row that matches by its hashes may still be of another topic. */
bool retained_filter_passes(const struct retained_filter *filter, struct span key,
                            struct retained_place *next);

#endif
