/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of text as filters and topics: the trie, topic_matches(), covering and specificity must
 * agree with each other. */
#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/broker/topic.h"
#include "core/broker/topic_trie.h"
#include "tests/fuzz/fuzz.h"

enum { LINES = 16 };

struct counted {
    struct topic_entry base;
    unsigned hits;
};

static void count_hit(void *context, struct topic_entry *entry)
{
    (void)context;
    ((struct counted *)(void *)entry)->hits++;
}

static size_t lines_of(struct span input, struct span lines[LINES])
{
    size_t count = 0;
    while (input.size != 0 && count < LINES) {
        const uint8_t *end = memchr(input.data, '\n', input.size);
        size_t size = end == NULL ? input.size : (size_t)(end - input.data);
        lines[count++] = span_of(input.data, size);
        input = span_from(input, size + 1);
    }
    return count;
}

static void check_match(const struct topic_trie *trie, const struct span *filters, size_t count,
                        struct span topic)
{
    topic_trie_match(trie, topic, count_hit, NULL);
    for (size_t i = 0; i < count; i++) {
        if (!topic_filter_is_valid(filters[i]))
            continue;
        struct counted *entry = (struct counted *)(void *)topic_trie_get(trie, filters[i]);
        bool matches = topic_matches(filters[i], topic);
        CHECK(entry->hits == matches);
        for (size_t k = 0; k < count; k++) {
            if (!topic_filter_is_valid(filters[k]))
                continue;
            bool both = matches && topic_matches(filters[k], topic);
            CHECK(!matches || both || !topic_filter_covers(filters[k], filters[i]));
            CHECK(!both || span_equal(filters[i], filters[k]) ||
                  topic_filter_compare(filters[i], filters[k]) != 0);
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct topic_entry *entry = topic_trie_get(trie, filters[i]);
        if (entry != NULL)
            ((struct counted *)(void *)entry)->hits = 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hash_init();
    struct span lines[LINES];
    size_t count = lines_of(span_of(data, size), lines);
    struct topic_trie *trie = topic_trie_new(sizeof(struct counted));
    for (size_t i = 0; i < count; i++) {
        CHECK(!topic_name_is_valid(lines[i]) || topic_filter_is_valid(lines[i]));
        if (topic_filter_is_valid(lines[i]))
            topic_trie_put(trie, lines[i]);
    }
    for (size_t i = 0; i < count; i++) {
        if (topic_name_is_valid(lines[i]))
            check_match(trie, lines, count, lines[i]);
    }
    for (size_t i = 0; i < count; i++) {
        struct topic_entry *entry = topic_trie_get(trie, lines[i]);
        CHECK(entry == NULL || topic_filter_is_valid(lines[i]));
        if (entry != NULL)
            topic_trie_remove(trie, entry);
    }
    CHECK(topic_trie_count(trie) == 0);
    topic_trie_free(trie);
    return 0;
}
