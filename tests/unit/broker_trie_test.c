/* SPDX-License-Identifier: Apache-2.0 */
/* The trie against topic_matches() over all filters, while filters come and go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/base/rng.h"
#include "core/broker/topic.h"
#include "core/broker/topic_trie.h"

struct counted {
    struct topic_entry base;
    unsigned hits;
    unsigned model; /* its number in the model */
};

static void count_hit(void *context, struct topic_entry *entry)
{
    ++*(unsigned *)context;
    ((struct counted *)(void *)entry)->hits++;
}

static unsigned match(struct topic_trie *trie, const char *topic)
{
    unsigned hits = 0;
    topic_trie_match(trie, span_from_text(topic), count_hit, &hits);
    return hits;
}

static void put_finds_what_is_there(void **state)
{
    (void)state;
    struct topic_trie *trie = topic_trie_new(sizeof(struct counted));
    static const char *const filters[] = {"a",   "a/b", "+",      "#", "a/#",
                                          "a/+", "+/+", "$SYS/#", "/", "/#"};
    struct topic_entry *entries[10];
    for (int i = 0; i < 10; i++) {
        assert_null(topic_trie_get(trie, span_from_text(filters[i])));
        entries[i] = topic_trie_put(trie, span_from_text(filters[i]));
        assert_string_equal(entries[i]->filter, filters[i]);
    }
    assert_int_equal(topic_trie_count(trie), 10);
    for (int i = 0; i < 10; i++) {
        assert_ptr_equal(topic_trie_get(trie, span_from_text(filters[i])), entries[i]);
        assert_ptr_equal(topic_trie_put(trie, span_from_text(filters[i])), entries[i]);
    }
    assert_int_equal(topic_trie_count(trie), 10);
    assert_int_equal(match(trie, "a"), 4);
    assert_int_equal(match(trie, "a/b"), 5);
    assert_int_equal(match(trie, "/"), 4);
    assert_int_equal(match(trie, "$SYS"), 1);
    assert_int_equal(match(trie, "$SYS/x"), 1);
    for (int i = 0; i < 10; i++)
        topic_trie_remove(trie, entries[i]);
    assert_int_equal(topic_trie_count(trie), 0);
    assert_int_equal(match(trie, "a"), 0);
    topic_trie_free(trie);
    topic_trie_free(NULL);
}

static void what_is_no_topic_matches_nothing(void **state)
{
    (void)state;
    struct topic_trie *trie = topic_trie_new(sizeof(struct counted));
    topic_trie_put(trie, span_from_text("#"));
    topic_trie_put(trie, span_from_text("+"));
    char text[LIMIT_TOPIC_LEVELS + 1] = {0};
    memset(text, '/', LIMIT_TOPIC_LEVELS);
    assert_int_equal(match(trie, ""), 0);
    assert_int_equal(match(trie, text), 0);
    assert_int_equal(match(trie, text + 1), 1);
    assert_null(topic_trie_get(trie, span_from_text("")));
    assert_null(topic_trie_get(trie, span_from_text("#/a")));
    topic_trie_free(trie);
}

static void long_labels_and_many_levels(void **state)
{
    (void)state;
    struct topic_trie *trie = topic_trie_new(sizeof(struct counted));
    char filter[8192], topic[8192];
    size_t at = 0;
    for (unsigned i = 0; i < LIMIT_TOPIC_LEVELS; i++) {
        at += (size_t)snprintf(filter + at, sizeof filter - at, i == 0 ? "%s" : "/%s",
                               i % 2 ? "+" : "a-label-of-more-than-thirty-two-bytes");
    }
    at = 0;
    for (unsigned i = 0; i < LIMIT_TOPIC_LEVELS; i++) {
        at += (size_t)snprintf(topic + at, sizeof topic - at, i == 0 ? "%s" : "/%s",
                               i % 2 ? "" : "a-label-of-more-than-thirty-two-bytes");
    }
    struct topic_entry *entry = topic_trie_put(trie, span_from_text(filter));
    assert_int_equal(match(trie, topic), 1);
    topic[0] = 'b';
    assert_int_equal(match(trie, topic), 0);
    topic_trie_remove(trie, entry);
    topic_trie_put(trie, span_from_text(filter));
    topic_trie_free(trie);
}

/* Both ways at every level: the broadest tree a topic can have. */
static void breadth_is_bounded_by_the_stack(void **state)
{
    (void)state;
    struct topic_trie *trie = topic_trie_new(sizeof(struct counted));
    enum { LEVELS = 10 };
    for (unsigned way = 0; way < 1u << LEVELS; way++) {
        char filter[2 * LEVELS + 1];
        for (unsigned i = 0; i < LEVELS; i++) {
            filter[2 * i] = way >> i & 1 ? '+' : 'a';
            filter[2 * i + 1] = '/';
        }
        filter[2 * LEVELS - 1] = '\0';
        topic_trie_put(trie, span_from_text(filter));
    }
    assert_int_equal(match(trie, "a/a/a/a/a/a/a/a/a/a"), 1 << LEVELS);
    assert_int_equal(match(trie, "a/a/a/a/a/a/a/a/a/b"), 1 << (LEVELS - 1));
    topic_trie_free(trie);
}

static void random_text(char *to, bool wildcards)
{
    static const char *const words[] = {"a", "b", "c", "d", "", "$s", "+", "+", "#"};
    uint64_t levels = 1 + rng_below(5);
    do {
        char *at = to;
        *at = '\0';
        for (uint64_t i = 0; i < levels; i++) {
            uint64_t choices = !wildcards ? 6 : i + 1 == levels ? 9 : 8;
            at += snprintf(at, 8, i == 0 ? "%s" : "/%s", words[rng_below(choices)]);
        }
    } while (*to == '\0');
}

enum { MODEL = 600 };

struct model {
    struct topic_trie *trie;
    struct counted *entries[MODEL];
    unsigned count;
};

static void model_toggle(struct model *model)
{
    char filter[64];
    random_text(filter, true);
    struct counted *entry =
        (struct counted *)(void *)topic_trie_get(model->trie, span_from_text(filter));
    if (entry != NULL) {
        struct counted *last = model->entries[--model->count];
        model->entries[entry->model] = last;
        last->model = entry->model;
        topic_trie_remove(model->trie, &entry->base);
        assert_null(topic_trie_get(model->trie, span_from_text(filter)));
    } else if (model->count < MODEL) {
        entry = (struct counted *)(void *)topic_trie_put(model->trie, span_from_text(filter));
        entry->model = model->count;
        model->entries[model->count++] = entry;
    }
    assert_int_equal(topic_trie_count(model->trie), model->count);
}

static void model_match(struct model *model)
{
    char topic[64];
    random_text(topic, false);
    match(model->trie, topic);
    for (unsigned i = 0; i < model->count; i++) {
        struct counted *entry = model->entries[i];
        bool expected = topic_matches(span_from_text(entry->base.filter), span_from_text(topic));
        if (entry->hits != expected)
            fail_msg("%s against %s: %u times", entry->base.filter, topic, entry->hits);
        entry->hits = 0;
    }
}

static void trie_agrees_with_the_model(void **state)
{
    (void)state;
    struct model model = {.trie = topic_trie_new(sizeof(struct counted))};
    for (int round = 0; round < 6000; round++) {
        model_toggle(&model);
        model_match(&model);
    }
    while (model.count != 0) {
        topic_trie_remove(model.trie, &model.entries[--model.count]->base);
        if (model.count % 16 == 0)
            model_match(&model);
    }
    topic_trie_free(model.trie);
}

/* Filters come and go a hundred thousand times: a hundred at once, so memory must not grow with
 * time (the address sanitizer's leak check and the node table's size would show it). */
static void nodes_are_used_again(void **state)
{
    (void)state;
    struct topic_trie *trie = topic_trie_new(sizeof(struct topic_entry));
    struct topic_entry *entries[100] = {0};
    for (unsigned round = 0; round < 100000; round++) {
        struct topic_entry **entry = &entries[round % 100];
        char filter[64];
        snprintf(filter, sizeof filter, "site/%u/+/%u/#", round, round % 7);
        if (*entry != NULL)
            topic_trie_remove(trie, *entry);
        *entry = topic_trie_put(trie, span_from_text(filter));
        assert_true((*entry)->node < 512);
    }
    assert_int_equal(topic_trie_count(trie), 100);
    topic_trie_free(trie);
}

int main(void)
{
    rng_seed(11);
    hash_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put_finds_what_is_there),
        cmocka_unit_test(what_is_no_topic_matches_nothing),
        cmocka_unit_test(long_labels_and_many_levels),
        cmocka_unit_test(breadth_is_bounded_by_the_stack),
        cmocka_unit_test(trie_agrees_with_the_model),
        cmocka_unit_test(nodes_are_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
