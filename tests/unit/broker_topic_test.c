/* SPDX-License-Identifier: Apache-2.0 */
/* Topics: validity, matching, covering against an enumeration of topics, and the order of
 * specificity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/limits.h"
#include "core/base/rng.h"
#include "core/broker/topic.h"

static bool matches(const char *filter, const char *topic)
{
    return topic_matches(span_from_text(filter), span_from_text(topic));
}

static bool covers(const char *outer, const char *inner)
{
    return topic_filter_covers(span_from_text(outer), span_from_text(inner));
}

static int compare(const char *a, const char *b)
{
    return topic_filter_compare(span_from_text(a), span_from_text(b));
}

static void names_are_checked(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "/", "//", "a/b", "/a", "a/", "$SYS/x", " ", "é/ü"};
    static const char *const bad[] = {"", "+", "a/+", "a#", "#", "a/b+c", "\xff", "\xc0\x80"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(topic_name_is_valid(span_from_text(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(topic_name_is_valid(span_from_text(bad[i])));
    assert_false(topic_name_is_valid(span_of("a\0b", 3)));
}

static void filters_are_checked(void **state)
{
    (void)state;
    static const char *const good[] = {"a",  "#",   "+",  "+/+", "/+",
                                       "+/", "a/#", "/#", "+/#", "+/a/+/#"};
    static const char *const bad[] = {"",   "a#",     "a/#/b", "#/", "a+",
                                      "+a", "a/b+/c", "##",    "++", "a/#b"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(topic_filter_is_valid(span_from_text(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(topic_filter_is_valid(span_from_text(bad[i])));
    assert_false(topic_filter_is_valid(span_of("a\0", 2)));
}

static void length_and_levels_are_limited(void **state)
{
    (void)state;
    char *text = malloc(LIMIT_TOPIC_BYTES + 1);
    memset(text, 'a', LIMIT_TOPIC_BYTES + 1);
    assert_true(topic_name_is_valid(span_of(text, LIMIT_TOPIC_BYTES)));
    assert_false(topic_name_is_valid(span_of(text, LIMIT_TOPIC_BYTES + 1)));
    assert_false(topic_filter_is_valid(span_of(text, LIMIT_TOPIC_BYTES + 1)));
    memset(text, '/', LIMIT_TOPIC_LEVELS);
    assert_true(topic_name_is_valid(span_of(text, LIMIT_TOPIC_LEVELS - 1)));
    assert_true(topic_filter_is_valid(span_of(text, LIMIT_TOPIC_LEVELS - 1)));
    assert_false(topic_name_is_valid(span_of(text, LIMIT_TOPIC_LEVELS)));
    assert_false(topic_filter_is_valid(span_of(text, LIMIT_TOPIC_LEVELS)));
    free(text);
}

/* The examples of MQTT 5.0, 4.7. */
static void examples_of_the_standard_match(void **state)
{
    (void)state;
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1"));
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1/ranking"));
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"));
    assert_true(matches("sport/#", "sport"));
    assert_true(matches("#", "a/b/c"));
    assert_true(matches("sport/tennis/+", "sport/tennis/player1"));
    assert_false(matches("sport/tennis/+", "sport/tennis/player1/ranking"));
    assert_false(matches("sport/+", "sport"));
    assert_true(matches("sport/+", "sport/"));
    assert_true(matches("+/+", "/finance"));
    assert_true(matches("/+", "/finance"));
    assert_false(matches("+", "/finance"));
    assert_false(matches("#", "$SYS/x"));
    assert_false(matches("+/monitor/Clients", "$SYS/monitor/Clients"));
    assert_false(matches("+/#", "$SYS/x"));
    assert_true(matches("$SYS/#", "$SYS/x"));
    assert_true(matches("$SYS/monitor/+", "$SYS/monitor/Clients"));
    assert_true(matches("a/+", "a/$b"));
    assert_false(matches("ACCOUNTS", "Accounts"));
    assert_false(matches("/a", "a"));
}

static void covering_follows_the_rules(void **state)
{
    (void)state;
    assert_true(covers("a/#", "a/+/b"));
    assert_true(covers("a/#", "a"));
    assert_true(covers("a/#", "a/#"));
    assert_true(covers("+/b", "x/b"));
    assert_true(covers("+/b", "+/b"));
    assert_false(covers("+/b", "#"));
    assert_false(covers("a/+", "a/#"));
    assert_false(covers("a", "+"));
    assert_false(covers("a/+/#", "a/#"));
    assert_true(covers("+/#", "#"));
    assert_true(covers("#", "+/#"));
    assert_false(covers("#", "$SYS/#"));
    assert_false(covers("+/x", "$SYS/x"));
    assert_true(covers("$SYS/#", "$SYS/+/x"));
    assert_true(covers("#", "+"));
}

/* Room for the texts made here. */
enum { TEXT = 64 };

/* Appends a level; returns what follows it. */
static char *level_add(char *at, bool first, const char *word)
{
    return at + snprintf(at, TEXT / 8, first ? "%s" : "/%s", word);
}

static void random_filter(char to[TEXT], bool wildcards, uint64_t levels_max)
{
    static const char *const words[] = {"a", "b", "", "$s", "+", "+", "#"};
    uint64_t levels = 1 + rng_below(levels_max);
    *to = '\0';
    for (uint64_t i = 0; i < levels; i++) {
        const char *word = words[rng_below(wildcards ? (i + 1 == levels ? 7 : 6) : 4)];
        to = level_add(to, i == 0, word);
    }
}

/* Every topic of up to four levels over three words (one in no filter) and the empty one decides.
 */
static unsigned topics_all(char topics[][16])
{
    static const char *const words[] = {"a", "z", "", "$s"};
    unsigned count = 0;
    for (unsigned levels = 1; levels <= 4; levels++) {
        unsigned ways = 1u << (2 * levels);
        for (unsigned way = 0; way < ways; way++) {
            char *at = topics[count];
            *at = '\0';
            for (unsigned i = 0; i < levels; i++)
                at = level_add(at, i == 0, words[way >> (2 * i) & 3]);
            count += topics[count][0] != '\0';
        }
    }
    return count;
}

static void covering_agrees_with_enumeration(void **state)
{
    (void)state;
    static char topics[400][16];
    unsigned count = topics_all(topics);
    unsigned covered = 0;
    for (int round = 0; round < 20000; round++) {
        char outer[TEXT], inner[TEXT];
        random_filter(outer, true, 3);
        random_filter(inner, true, 3);
        if (outer[0] == '\0' || inner[0] == '\0' || strchr(inner, 'b') != NULL)
            continue;
        bool expected = true;
        for (unsigned i = 0; i < count && expected; i++)
            expected = !matches(inner, topics[i]) || matches(outer, topics[i]);
        if (covers(outer, inner) != expected)
            fail_msg("%s covers %s: expected %d", outer, inner, expected);
        covered += expected;
    }
    assert_true(covered > 100);
}

static void specificity_is_an_order(void **state)
{
    (void)state;
    /* From the most specific to the least. */
    static const char *const order[] = {"a/b/c", "a/b/+", "a/b",   "a/b/#", "a/+/c", "a/+/#", "a",
                                        "a/#",   "+/b/c", "+/+/c", "+/+",   "+/#",   "#"};
    size_t count = sizeof order / sizeof *order;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            int result = compare(order[i], order[j]);
            if ((result > 0) != (i < j) || (result < 0) != (i > j))
                fail_msg("%s against %s: %d", order[i], order[j], result);
        }
    }
}

static void two_filters_of_one_topic_are_never_equal(void **state)
{
    (void)state;
    unsigned both = 0;
    for (int round = 0; round < 50000; round++) {
        char a[TEXT], b[TEXT], topic[TEXT];
        random_filter(a, true, 4);
        random_filter(b, true, 4);
        random_filter(topic, false, 4);
        if (!*a || !*b || !*topic || !strcmp(a, b) || !matches(a, topic) || !matches(b, topic))
            continue;
        both++;
        int result = compare(a, b);
        assert_int_not_equal(result, 0);
        assert_true((result > 0) == (compare(b, a) < 0));
        /* What covers the other is not the more specific one, but for the two ways to say "all". */
        if (covers(a, b) && !covers(b, a))
            assert_true(result < 0);
    }
    assert_true(both > 100);
}

int main(void)
{
    rng_seed(7);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(filters_are_checked),
        cmocka_unit_test(length_and_levels_are_limited),
        cmocka_unit_test(examples_of_the_standard_match),
        cmocka_unit_test(covering_follows_the_rules),
        cmocka_unit_test(covering_agrees_with_enumeration),
        cmocka_unit_test(specificity_is_an_order),
        cmocka_unit_test(two_filters_of_one_topic_are_never_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
