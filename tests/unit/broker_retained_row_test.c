/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of retained rows and filters over them: a walk that skips finds what topic_matches() finds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/pack.h"
#include "core/base/rng.h"
#include "core/broker/retained_row.h"
#include "core/broker/topic.h"

enum { TOPICS = 400, FILTERS = 300, TENANT = 7 };

struct row {
    char topic[64];
    uint8_t key[RETAINED_KEY_MAX];
    size_t size;
};

static int compare(struct span a, struct span b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static int compare_rows(const void *a, const void *b)
{
    const struct row *left = a, *right = b;
    return compare(span_of(left->key, left->size), span_of(right->key, right->size));
}

static void random_topic(char *text, bool filter)
{
    static const char *const levels[] = {"", "a", "b", "ab", "$s", "c"};
    unsigned count = 1 + (unsigned)rng_below(5);
    size_t at = 0;
    for (unsigned i = 0; i < count; i++) {
        const char *level = levels[rng_below(6)];
        if (filter && rng_below(3) == 0)
            level = i == count - 1 && rng_below(2) == 0 ? "#" : "+";
        at += (size_t)snprintf(text + at, 64 - at, "%s%s", i == 0 ? "" : "/", level);
    }
    if (text[0] == '\0')
        memcpy(text, "/", 2);
}

/* From the first key of the range on, as a reader would that seeks once in a while. */
static unsigned walk(const struct row *rows, unsigned count, const char *text, bool *found)
{
    struct retained_filter filter;
    struct retained_place next, end, after;
    retained_filter_init(&filter, TENANT, span_from_text(text), &next, &end);
    unsigned looked = 0;
    for (unsigned i = 0; i < count;) {
        struct span key = span_of(rows[i].key, rows[i].size);
        if (compare(key, retained_place_span(&next)) < 0) {
            i++;
            continue;
        }
        if (compare(key, retained_place_span(&end)) >= 0)
            break;
        looked++;
        bool passes = retained_filter_passes(&filter, key, &after);
        assert_true(compare(retained_place_span(&after), key) > 0);
        found[i] = passes && topic_matches(span_from_text(text), span_from_text(rows[i].topic));
        i++;
        if (passes || rng_below(2) == 0)
            next = after;
    }
    return looked;
}

static void walks_find_what_matches(void **state)
{
    (void)state;
    rng_seed(20260101);
    static struct row rows[TOPICS];
    unsigned count = 0;
    for (unsigned i = 0; i < TOPICS; i++) {
        char topic[64];
        random_topic(topic, false);
        unsigned k = 0;
        while (k < count && strcmp(rows[k].topic, topic) != 0)
            k++;
        if (k < count)
            continue;
        struct row *row = &rows[count++];
        memcpy(row->topic, topic, sizeof topic);
        row->size = retained_key(TENANT, span_from_text(topic), row->key);
    }
    qsort(rows, count, sizeof rows[0], compare_rows);
    for (unsigned i = 1; i < count; i++)
        assert_true(compare_rows(&rows[i - 1], &rows[i]) < 0);
    for (unsigned f = 0; f < FILTERS; f++) {
        char filter[64];
        random_topic(filter, true);
        bool found[TOPICS] = {false};
        walk(rows, count, filter, found);
        for (unsigned i = 0; i < count; i++)
            if (found[i] != topic_matches(span_from_text(filter), span_from_text(rows[i].topic)))
                fail_msg("filter %s, topic %s: %d", filter, rows[i].topic, found[i]);
    }
}

static void ranges_are_narrow(void **state)
{
    (void)state;
    struct row rows[3] = {{.topic = "a"}, {.topic = "a/b"}, {.topic = "b"}};
    for (int i = 0; i < 3; i++)
        rows[i].size = retained_key(TENANT, span_from_text(rows[i].topic), rows[i].key);
    qsort(rows, 3, sizeof rows[0], compare_rows);
    rng_seed(1);
    bool found[3];
    assert_int_equal(walk(rows, 3, "a/b", found), 1);
    assert_int_equal(walk(rows, 3, "a/#", found), 2);
    assert_int_equal(walk(rows, 3, "a/+", found), 1);
    assert_int_equal(walk(rows, 3, "#", found), 3);
    struct retained_filter filter;
    struct retained_place first, end;
    retained_filter_init(&filter, TENANT + 1, span_from_text("#"), &first, &end);
    for (int i = 0; i < 3; i++) /* another tenant's */
        assert_true(compare(span_of(rows[i].key, rows[i].size), retained_place_span(&first)) < 0);
}

static void the_longest_topic_has_a_key(void **state)
{
    (void)state;
    static char text[2 * LIMIT_TOPIC_LEVELS];
    memset(text, 'x', sizeof text);
    for (unsigned i = 1; i < sizeof text; i += 2)
        text[i] = '/';
    struct span topic = span_of((const uint8_t *)text, sizeof text - 1);
    assert_true(topic_name_is_valid(topic));
    uint8_t key[RETAINED_KEY_MAX];
    assert_int_equal(retained_key(1, topic, key), RETAINED_KEY_MAX);
    struct retained_filter filter;
    struct retained_place first, end;
    retained_filter_init(&filter, 1, topic, &first, &end);
    assert_int_equal(first.size, RETAINED_KEY_MAX);
    assert_int_equal(end.size, RETAINED_KEY_MAX + 1);
    struct retained_place next;
    assert_true(retained_filter_passes(&filter, span_of(key, RETAINED_KEY_MAX), &next));
    uint8_t longer[RETAINED_KEY_MAX + 1] = {key[0]};
    assert_false(retained_filter_passes(&filter, span_of(longer, sizeof longer), &next));
}

static void values_come_back(void **state)
{
    (void)state;
    struct batch_builder builder;
    batch_builder_init(&builder);
    struct header header = {span_from_text(HEADER_TOPIC), span_from_text("a/b")};
    struct record_input input = {
        .timestamp_ms = 5,
        .attributes = RECORD_RETAIN,
        .value = span_from_text("x"),
        .headers = &header,
        .header_count = 1,
    };
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
    struct batch *batch = batch_builder_seal(&builder);
    assert_true(batch->retains);
    uint8_t value[256];
    retained_value_head(11, value);
    size_t size = RETAINED_VALUE_HEAD + batch->bytes->size;
    assert_true(size < sizeof value);
    memcpy(value + RETAINED_VALUE_HEAD, batch->bytes->bytes, batch->bytes->size);
    store_u64(value + RETAINED_OFFSET_AT, 12);
    store_u64(value + RETAINED_COMMIT_AT, 13);
    struct batch *back;
    assert_int_equal(retained_value_open(span_of(value, size), &back), STATUS_OK);
    assert_int_equal(back->partition, 11);
    assert_int_equal(back->base_offset, 12);
    assert_int_equal(back->commit, 13);
    assert_false(back->retains); /* of what was built here only */
    batch_unref(back);
    assert_int_not_equal(retained_value_open(span_of(value, size - 1), &back), STATUS_OK);
    assert_int_not_equal(retained_value_open(span_of(value, RETAINED_VALUE_HEAD), &back),
                         STATUS_OK);
    value[0]++;
    assert_int_not_equal(retained_value_open(span_of(value, size), &back), STATUS_OK);
    /* Two records are no retained one. */
    input.attributes = 0;
    for (int i = 0; i < 2; i++)
        assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
    struct batch *two = batch_builder_seal(&builder);
    assert_false(two->retains);
    retained_value_head(11, value);
    memcpy(value + RETAINED_VALUE_HEAD, two->bytes->bytes, two->bytes->size);
    assert_int_not_equal(
        retained_value_open(span_of(value, RETAINED_VALUE_HEAD + two->bytes->size), &back),
        STATUS_OK);
    batch_unref(two);
    batch_unref(batch);
    batch_builder_deinit(&builder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(walks_find_what_matches),
        cmocka_unit_test(ranges_are_narrow),
        cmocka_unit_test(the_longest_topic_has_a_key),
        cmocka_unit_test(values_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
