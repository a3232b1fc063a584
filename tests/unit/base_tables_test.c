/* SPDX-License-Identifier: Apache-2.0 */
/* list, map (against a naive model), status, trace and clock. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/list.h"
#include "core/base/map.h"
#include "core/base/rng.h"
#include "core/base/trace.h"

struct item {
    int number;
    struct link link;
};

static void list_keeps_order_and_forgets_harmlessly(void **state)
{
    (void)state;
    struct list list;
    list_init(&list);
    struct item items[4] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}};
    link_remove(&items[0].link);
    for (int i = 0; i < 4; i++)
        list_push(&list, &items[i].link);
    link_remove(&items[1].link);
    link_remove(&items[1].link);
    assert_false(link_is_linked(&items[1].link));
    int expected[] = {0, 2, 3}, count = 0;
    list_each_safe(cursor, following, &list)
    {
        struct item *item = container_of(cursor, struct item, link);
        assert_int_equal(item->number, expected[count++]);
        link_remove(cursor);
    }
    assert_int_equal(count, 3);
    assert_true(list_is_empty(&list));
    assert_null(list_pop(&list));
}

enum { KEYS = 200 };

static void map_agrees_with_a_naive_model(void **state)
{
    (void)state;
    hash_init();
    rng_seed(7);
    struct map map;
    map_init(&map);
    char keys[KEYS][8];
    void *model[KEYS] = {0};
    size_t count = 0;
    int values[3];
    assert_null(map_get(&map, span_from_text("none")));
    assert_null(map_remove(&map, span_from_text("none")));
    for (int i = 0; i < KEYS; i++)
        snprintf(keys[i], sizeof keys[i], "k%d", i);
    for (int step = 0; step < 20000; step++) {
        size_t i = rng_below(KEYS);
        struct span key = span_from_text(keys[i]);
        /* Phases of mostly adding and mostly removing. */
        bool add = rng_below(10) < ((step / 2000) % 2 == 0 ? 7u : 3u);
        void *value = add ? &values[rng_below(3)] : NULL;
        void *before = add ? map_put(&map, key, value) : map_remove(&map, key);
        assert_ptr_equal(before, model[i]);
        count += (value != NULL) - (model[i] != NULL);
        model[i] = value;
        assert_int_equal(map.count, count);
        size_t other = rng_below(KEYS);
        assert_ptr_equal(map_get(&map, span_from_text(keys[other])), model[other]);
    }
    struct map copy;
    map_copy(&copy, &map);
    map_deinit(&map);
    size_t seen = 0;
    struct map_slot *slot;
    for (size_t i = 0; (slot = map_next(&copy, &i)) != NULL; seen++)
        assert_ptr_equal(slot->value, map_get(&copy, slot->key));
    assert_int_equal(seen, count);
    map_deinit(&copy);
    map_copy(&copy, &map);
    assert_null(map_get(&copy, span_from_text("k1")));
}

static void status_has_names(void **state)
{
    (void)state;
    assert_string_equal(status_name(STATUS_NOT_FOUND), "NOT_FOUND");
    assert_string_equal(status_text(STATUS_BUSY), "too much in flight");
    assert_true(status_is_retriable(STATUS_BUSY));
    assert_false(status_is_retriable(STATUS_MALFORMED));
    struct err err;
    assert_int_equal(err_set(&err, STATUS_INVALID, "line %d", 3), STATUS_INVALID);
    assert_string_equal(err.text, "line 3");
    assert_int_equal(err_set(NULL, STATUS_INVALID, "line %d", 3), STATUS_INVALID);
}

/* What trace() wrote on standard error. */
static void traced(char *line, size_t size, const char *message)
{
    int pipes[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(pipes), 0);
    dup2(pipes[1], STDERR_FILENO);
    trace(TRACE_WARN, "%s", message);
    trace(TRACE_DEBUG, "not shown");
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(pipes[1]);
    ssize_t got = read(pipes[0], line, size - 1);
    assert_true(got > 0);
    line[got] = '\0';
    close(pipes[0]);
}

static uint64_t fixed_ns(void)
{
    return 1500000;
}
static int64_t fixed_ms(void)
{
    return 1000000000123;
}

static void trace_cannot_be_forged(void **state)
{
    (void)state;
    static const struct clock_source fixed = {fixed_ns, fixed_ms};
    clock_use(&fixed);
    assert_int_equal(clock_monotonic_ms(), 1);
    char line[8192];
    traced(line, sizeof line, "a\nb \"c\" \xc3\xa4");
    assert_string_equal(line, "2001-09-09T01:46:40.123Z warn  a\\u000ab \"c\" \xc3\xa4\n");
    trace_set_json(true);
    traced(line, sizeof line, "a\nb \"c\\\" \xff");
    assert_string_equal(line, "{\"time\":\"2001-09-09T01:46:40.123Z\",\"level\":\"warn\","
                              "\"message\":\"a\\u000ab \\\"c\\\\\\\" \\u00ff\"}\n");
    char hostile[3000];
    memset(hostile, 1, sizeof hostile);
    hostile[sizeof hostile - 1] = '\0';
    traced(line, sizeof line, hostile);
    trace_set_json(false);
    clock_use(NULL);
    assert_true(clock_wall_ms() > 1000000000123);
    enum trace_level level;
    assert_true(trace_level_parse("debug", &level));
    assert_int_equal(level, TRACE_DEBUG);
    assert_false(trace_level_parse("loud", &level));
    trace_set_level(TRACE_ERROR);
    assert_false(trace_enabled(TRACE_WARN));
    trace_set_level(TRACE_INFO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_keeps_order_and_forgets_harmlessly),
        cmocka_unit_test(map_agrees_with_a_naive_model),
        cmocka_unit_test(status_has_names),
        cmocka_unit_test(trace_cannot_be_forged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
