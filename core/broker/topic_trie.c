/* SPDX-License-Identifier: Apache-2.0 */
/* A topic is hashed once, level by level. The level hashes chained give the hash of the whole topic
 * (the table of exact filters); a level hash mixed with a node gives the hash of the edge between
 * them (one table for all nodes, so a match costs the same however many filters there are). Equal
 * hashes are never trusted: the bytes decide. */
#include "core/broker/topic_trie.h"

#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/topic.h"

enum { ROOT = 0, CAPACITY_MIN = 16, LABEL_INLINE = 32 };

/* topic_entry.node of an exact filter. */
static const uint32_t node_exact = UINT32_MAX;

/* Open addressing with linear probing. value: a node of the wildcard part, or the address of an
 * entry. */
struct slot {
    uint64_t hash;
    uintptr_t value; /* 0: free */
};

struct table {
    struct slot *slots;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
};

/* 64 bytes. What a visit reads lies in front, the label behind it. '#' needs no node of its own. */
struct node {
    struct topic_entry *entry; /* the filter that ends here */
    struct topic_entry *rest;  /* the filter that ends with '#' below here */
    uint32_t plus;             /* the child '+'; 0: none */
    uint32_t parent;           /* of a free node: the next free one */
    uint32_t children;         /* edges in the table, '+' not among them */
    uint32_t label_size;
    union {
        uint8_t here[LABEL_INLINE];
        uint8_t *elsewhere;
    } label;
};

struct topic_trie {
    size_t entry_size;
    size_t count;
    struct table exact;
    struct table edges;
    struct node *nodes;
    uint32_t node_count; /* ever used */
    uint32_t node_capacity;
    uint32_t free_node; /* 0: none */
    uint32_t wildcards; /* entries in the wildcard part */
};

/* ---------------------------------------------------------------- tables */

static inline size_t table_first(const struct table *table, uint64_t hash)
{
    return hash & (table->capacity - 1);
}

static inline size_t table_after(const struct table *table, size_t index)
{
    return (index + 1) & (table->capacity - 1);
}

static void table_place(struct table *table, uint64_t hash, uintptr_t value)
{
    size_t i = table_first(table, hash);
    while (table->slots[i].value != 0)
        i = table_after(table, i);
    table->slots[i] = (struct slot){.hash = hash, .value = value};
}

static void table_set_capacity(struct table *table, size_t capacity)
{
    struct table old = *table;
    table->capacity = capacity;
    table->slots = heap_array(capacity, sizeof *table->slots);
    for (size_t i = 0; i < old.capacity; i++) {
        if (old.slots[i].value != 0)
            table_place(table, old.slots[i].hash, old.slots[i].value);
    }
    heap_free(old.slots);
}

/* At most half full: most probes look for what is not there, and should end within a cache line. */
static void table_add(struct table *table, uint64_t hash, uintptr_t value)
{
    if (table->count >= table->capacity / 2)
        table_set_capacity(table, table->capacity == 0 ? CAPACITY_MIN : table->capacity * 2);
    table_place(table, hash, value);
    table->count++;
}

static void table_drop(struct table *table, uint64_t hash, uintptr_t value)
{
    size_t mask = table->capacity - 1;
    size_t hole = table_first(table, hash);
    while (table->slots[hole].value != value) {
        CHECK(table->slots[hole].value != 0);
        hole = table_after(table, hole);
    }
    for (size_t i = table_after(table, hole); table->slots[i].value != 0;
         i = table_after(table, i)) {
        /* A slot may move back as far as the place it hashes to, and no further. */
        if (((i - table->slots[i].hash) & mask) >= ((i - hole) & mask)) {
            table->slots[hole] = table->slots[i];
            hole = i;
        }
    }
    table->slots[hole] = (struct slot){0};
    table->count--;
    if (table->count < table->capacity / 16 && table->capacity > CAPACITY_MIN)
        table_set_capacity(table, table->capacity / 4);
}

static inline void table_prefetch(const struct table *table, uint64_t hash)
{
    if (table->capacity != 0)
        __builtin_prefetch(&table->slots[table_first(table, hash)]);
}

/* ---------------------------------------------------------------- hashing */

/* Splits text; 0 when it has more levels than any filter may have, or none. */
static unsigned levels_of(struct span text, struct topic_level levels[LIMIT_TOPIC_LEVELS],
                          uint64_t *whole)
{
    const uint8_t *at = text.data, *end = text.data + text.size;
    uint64_t chained = 0;
    if (text.size == 0)
        return 0;
    for (unsigned count = 0; count < LIMIT_TOPIC_LEVELS;) {
        const uint8_t *start = at;
        while (at < end && *at != '/')
            at++;
        struct topic_level *level = &levels[count++];
        level->text = span_of(start, (size_t)(at - start));
        level->hash = hash_bytes(level->text);
        chained = hash_u64(chained ^ level->hash);
        if (at == end) {
            *whole = chained;
            return count;
        }
        at++;
    }
    return 0;
}

/* The level hash is keyed and uniform, so any one-to-one mixing with the parent keeps it so. */
static inline uint64_t edge_hash(uint32_t parent, uint64_t level_hash)
{
    return level_hash ^ (parent * 0x9e3779b97f4a7c15ULL);
}

/* ---------------------------------------------------------------- nodes */

static inline const uint8_t *node_label(const struct node *node)
{
    return node->label_size <= LABEL_INLINE ? node->label.here : node->label.elsewhere;
}

static uint32_t node_new(struct topic_trie *trie, uint32_t parent, struct span label)
{
    uint32_t index = trie->free_node;
    if (index != 0) {
        trie->free_node = trie->nodes[index].parent;
    } else {
        if (trie->node_count == trie->node_capacity) {
            CHECK(trie->node_capacity < UINT32_MAX / 2);
            trie->node_capacity *= 2;
            trie->nodes = heap_resize(trie->nodes, trie->node_capacity * sizeof *trie->nodes);
        }
        index = trie->node_count++;
    }
    struct node *node = &trie->nodes[index];
    *node = (struct node){.parent = parent, .label_size = (uint32_t)label.size};
    if (label.size > LABEL_INLINE)
        node->label.elsewhere = heap_new(label.size);
    if (label.size != 0)
        memcpy(label.size > LABEL_INLINE ? node->label.elsewhere : node->label.here, label.data,
               label.size);
    return index;
}

static void node_free(struct topic_trie *trie, uint32_t index)
{
    struct node *node = &trie->nodes[index];
    if (node->label_size > LABEL_INLINE)
        heap_free(node->label.elsewhere);
    *node = (struct node){.parent = trie->free_node};
    trie->free_node = index;
}

/* The child of parent over a literal level; 0: none. */
static inline uint32_t node_child(const struct topic_trie *trie, uint32_t parent,
                                  const struct topic_level *level)
{
    const struct table *edges = &trie->edges;
    uint64_t hash = edge_hash(parent, level->hash);
    for (size_t i = table_first(edges, hash); edges->slots[i].value != 0;
         i = table_after(edges, i)) {
        if (edges->slots[i].hash != hash)
            continue;
        uint32_t child = (uint32_t)edges->slots[i].value;
        const struct node *node = &trie->nodes[child];
        if (node->parent == parent && node->label_size == level->text.size &&
            memcmp(node_label(node), level->text.data, level->text.size) == 0)
            return child;
    }
    return 0;
}

/* From the node upwards, frees what no filter needs any more. */
static void nodes_prune(struct topic_trie *trie, uint32_t index)
{
    while (index != ROOT) {
        struct node *node = &trie->nodes[index];
        if (node->entry != NULL || node->rest != NULL || node->plus != 0 || node->children != 0)
            return;
        uint32_t up = node->parent;
        struct node *parent = &trie->nodes[up];
        if (parent->plus == index) {
            parent->plus = 0;
        } else {
            uint64_t hash = hash_bytes(span_of(node_label(node), node->label_size));
            table_drop(&trie->edges, edge_hash(up, hash), index);
            parent->children--;
        }
        node_free(trie, index);
        index = up;
    }
}

/* ---------------------------------------------------------------- the trie */

struct topic_trie *topic_trie_new(size_t entry_size)
{
    CHECK(entry_size >= sizeof(struct topic_entry));
    struct topic_trie *trie = heap_new(sizeof *trie);
    trie->entry_size = entry_size;
    trie->node_capacity = CAPACITY_MIN;
    trie->nodes = heap_array(trie->node_capacity, sizeof *trie->nodes);
    trie->node_count = 1;
    return trie;
}

void topic_trie_free(struct topic_trie *trie)
{
    if (trie == NULL)
        return;
    for (size_t i = 0; i < trie->exact.capacity; i++)
        heap_free((struct topic_entry *)trie->exact.slots[i].value);
    for (uint32_t i = 0; i < trie->node_count; i++) {
        heap_free(trie->nodes[i].entry);
        heap_free(trie->nodes[i].rest);
        if (trie->nodes[i].label_size > LABEL_INLINE)
            heap_free(trie->nodes[i].label.elsewhere);
    }
    heap_free(trie->exact.slots);
    heap_free(trie->edges.slots);
    heap_free(trie->nodes);
    heap_free(trie);
}

size_t topic_trie_count(const struct topic_trie *trie)
{
    return trie->count;
}

/* The text lies behind the entry: verifying it seldom costs another cache miss. */
static struct topic_entry *entry_new(const struct topic_trie *trie, struct span filter)
{
    struct topic_entry *entry = heap_new(trie->entry_size + filter.size + 1);
    entry->filter = (char *)entry + trie->entry_size;
    memcpy(entry->filter, filter.data, filter.size);
    entry->filter_size = (uint32_t)filter.size;
    return entry;
}

static struct topic_entry *exact_get(const struct topic_trie *trie, uint64_t hash,
                                     struct span topic)
{
    const struct table *exact = &trie->exact;
    if (exact->count == 0)
        return NULL;
    for (size_t i = table_first(exact, hash); exact->slots[i].value != 0;
         i = table_after(exact, i)) {
        if (exact->slots[i].hash != hash)
            continue;
        struct topic_entry *entry = (struct topic_entry *)exact->slots[i].value;
        if (span_equal(span_of(entry->filter, entry->filter_size), topic))
            return entry;
    }
    return NULL;
}

/* '+' has a node, '#' as the last level is a field of its parent. */
static bool level_is(const struct topic_level *level, char wildcard)
{
    return level->text.size == 1 && level->text.data[0] == (uint8_t)wildcard;
}

/* Where the entry of a filter with wildcards hangs; NULL: nowhere yet. node: of the last level
 * before '#'. */
static struct topic_entry **place_find(const struct topic_trie *trie,
                                       const struct topic_level *levels, unsigned count,
                                       uint32_t *node)
{
    *node = ROOT;
    for (unsigned i = 0; i < count; i++) {
        if (level_is(&levels[i], '#'))
            return &trie->nodes[*node].rest;
        uint32_t child = trie->nodes[*node].plus;
        if (!level_is(&levels[i], '+'))
            child = trie->edges.count == 0 ? 0 : node_child(trie, *node, &levels[i]);
        if (child == 0)
            return NULL;
        *node = child;
    }
    return &trie->nodes[*node].entry;
}

/* Likewise, with the nodes that are missing. */
static struct topic_entry **place_make(struct topic_trie *trie, const struct topic_level *levels,
                                       unsigned count, uint32_t *node)
{
    *node = ROOT;
    for (unsigned i = 0; i < count; i++) {
        if (level_is(&levels[i], '#'))
            return &trie->nodes[*node].rest;
        bool plus = level_is(&levels[i], '+');
        uint32_t child = trie->nodes[*node].plus;
        if (!plus)
            child = trie->edges.count == 0 ? 0 : node_child(trie, *node, &levels[i]);
        if (child == 0) {
            child = node_new(trie, *node, plus ? (struct span){0} : levels[i].text);
            if (plus) {
                trie->nodes[*node].plus = child;
            } else {
                table_add(&trie->edges, edge_hash(*node, levels[i].hash), child);
                trie->nodes[*node].children++;
            }
        }
        *node = child;
    }
    return &trie->nodes[*node].entry;
}

struct topic_entry *topic_trie_put(struct topic_trie *trie, struct span filter)
{
    struct topic_level levels[LIMIT_TOPIC_LEVELS];
    uint64_t whole;
    unsigned count = levels_of(filter, levels, &whole);
    CHECK(count != 0);
    if (!topic_filter_has_wildcard(filter)) {
        struct topic_entry *entry = exact_get(trie, whole, filter);
        if (entry == NULL) {
            entry = entry_new(trie, filter);
            entry->node = node_exact;
            table_add(&trie->exact, whole, (uintptr_t)entry);
            trie->count++;
        }
        return entry;
    }
    uint32_t node;
    struct topic_entry **place = place_make(trie, levels, count, &node);
    if (*place == NULL) {
        *place = entry_new(trie, filter);
        (*place)->node = node;
        trie->wildcards++;
        trie->count++;
    }
    return *place;
}

struct topic_entry *topic_trie_get(const struct topic_trie *trie, struct span filter)
{
    struct topic_level levels[LIMIT_TOPIC_LEVELS];
    uint64_t whole;
    unsigned count = levels_of(filter, levels, &whole);
    if (count == 0)
        return NULL;
    if (!topic_filter_has_wildcard(filter))
        return exact_get(trie, whole, filter);
    uint32_t node;
    struct topic_entry **place = place_find(trie, levels, count, &node);
    /* A text that is no filter ("#/a") may have led to the place of one. */
    bool found = place != NULL && *place != NULL &&
                 span_equal(span_of((*place)->filter, (*place)->filter_size), filter);
    return found ? *place : NULL;
}

void topic_trie_remove(struct topic_trie *trie, struct topic_entry *entry)
{
    if (entry->node == node_exact) {
        struct topic_level levels[LIMIT_TOPIC_LEVELS];
        uint64_t whole;
        CHECK(levels_of(span_of(entry->filter, entry->filter_size), levels, &whole) != 0);
        table_drop(&trie->exact, whole, (uintptr_t)entry);
    } else {
        struct node *node = &trie->nodes[entry->node];
        CHECK(node->entry == entry || node->rest == entry);
        *(node->entry == entry ? &node->entry : &node->rest) = NULL;
        nodes_prune(trie, entry->node);
        trie->wildcards--;
    }
    trie->count--;
    heap_free(entry);
}

struct visit {
    uint32_t node;
    uint32_t depth; /* levels of the topic that lie above it */
};

/* Depth first. A visit leaves at most one other child waiting per level, so the stack cannot grow
 * beyond the levels; a node has one way from the root, so no entry comes twice. */
static void wildcards_match(const struct topic_trie *trie, const struct topic_level *levels,
                            unsigned count, bool dollar,
                            void (*matched)(void *context, struct topic_entry *entry),
                            void *context)
{
    struct visit stack[LIMIT_TOPIC_LEVELS + 1];
    unsigned waiting = 0;
    stack[waiting++] = (struct visit){.node = ROOT, .depth = 0};
    while (waiting != 0) {
        struct visit visit = stack[--waiting];
        const struct node *node = &trie->nodes[visit.node];
        /* '+' and '#' in front do not match names that begin with '$'. */
        bool hidden = dollar && visit.depth == 0;
        if (node->rest != NULL && !hidden)
            matched(context, node->rest);
        if (visit.depth == count) {
            if (node->entry != NULL)
                matched(context, node->entry);
            continue;
        }
        if (node->plus != 0 && !hidden) {
            __builtin_prefetch(&trie->nodes[node->plus]);
            if (visit.depth + 1 < count)
                table_prefetch(&trie->edges, edge_hash(node->plus, levels[visit.depth + 1].hash));
            stack[waiting++] = (struct visit){.node = node->plus, .depth = visit.depth + 1};
        }
        uint32_t child =
            node->children == 0 ? 0 : node_child(trie, visit.node, &levels[visit.depth]);
        if (child != 0)
            stack[waiting++] = (struct visit){.node = child, .depth = visit.depth + 1};
    }
}

/* What is no valid topic (a record may come from elsewhere) cannot have been asked for. */
bool topic_cut(struct topic_cut *cut, struct span topic)
{
    cut->topic = topic;
    cut->count = levels_of(topic, cut->levels, &cut->hash);
    return cut->count != 0;
}

void topic_trie_match_cut(const struct topic_trie *trie, const struct topic_cut *cut,
                          void (*matched)(void *context, struct topic_entry *entry), void *context)
{
    table_prefetch(&trie->exact, cut->hash);
    if (trie->wildcards != 0)
        wildcards_match(trie, cut->levels, cut->count, cut->topic.data[0] == '$', matched, context);
    struct topic_entry *entry = exact_get(trie, cut->hash, cut->topic);
    if (entry != NULL)
        matched(context, entry);
}

void topic_trie_match(const struct topic_trie *trie, struct span topic,
                      void (*matched)(void *context, struct topic_entry *entry), void *context)
{
    struct topic_cut cut;
    if (trie->count > 0 && topic_cut(&cut, topic))
        topic_trie_match_cut(trie, &cut, matched, context);
}
