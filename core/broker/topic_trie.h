/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the filters that match a topic: a hash of exact topics, and for wildcards a flat table of
 * edges keyed by (parent, level) under a keyed hash, with the bytes verified. Private to one
 * worker. Cost per match does not grow with the number of filters. */
#ifndef CORE_BROKER_TOPIC_TRIE_H
#define CORE_BROKER_TOPIC_TRIE_H

#include "core/base/limits.h"
#include "core/base/span.h"
#include "core/base/status.h"

struct topic_trie;

/* What the owner hangs on one filter: it embeds this first. */
struct topic_entry {
    char *filter; /* the trie's copy, NUL-terminated */
    uint32_t filter_size;
    uint32_t node; /* the trie's */
};

struct topic_trie *topic_trie_new(size_t entry_size); /* entries are allocated zeroed, this large */
void topic_trie_free(struct topic_trie *trie);        /* frees entries too */
size_t topic_trie_count(const struct topic_trie *trie);
/* The entry of a valid filter, made when missing. */
struct topic_entry *topic_trie_put(struct topic_trie *trie, struct span filter);
struct topic_entry *topic_trie_get(const struct topic_trie *trie,
                                   struct span filter); /* NULL: none */
void topic_trie_remove(struct topic_trie *trie,
                       struct topic_entry *entry); /* frees it and bare nodes */
/* A topic cut at its slashes and hashed, which is most of what a match costs: for whoever matches
 * the same one several times. Borrows the topic. */
struct topic_level {
    struct span text;
    uint64_t hash;
};
struct topic_cut {
    struct span topic;
    uint64_t hash;
    unsigned count; /* of levels */
    struct topic_level levels[LIMIT_TOPIC_LEVELS];
};
bool topic_cut(struct topic_cut *cut, struct span topic); /* false: no filter can match it */
/* Calls matched for every entry whose filter matches; each once; in no particular order. */
void topic_trie_match_cut(const struct topic_trie *trie, const struct topic_cut *cut,
                          void (*matched)(void *context, struct topic_entry *entry), void *context);
void topic_trie_match(const struct topic_trie *trie, struct span topic,
                      void (*matched)(void *context, struct topic_entry *entry), void *context);

#endif
