/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics: registration, the text form, buckets, labels, threads, and the limit of cells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/hash.h"
#include "core/broker/metrics.h"

/* NUL-terminated; the caller frees it. */
static char *written(void)
{
    struct buf buf;
    buf_init(&buf, 1 << 20);
    assert_int_equal(metrics_write(&buf), STATUS_OK);
    assert_int_equal(buf_append(&buf, "", 1), STATUS_OK);
    char *text = strdup((char *)buf.data);
    buf_deinit(&buf);
    return text;
}

static unsigned occurrences(const char *text, const char *part)
{
    unsigned count = 0;
    for (; (text = strstr(text, part)) != NULL; text++)
        count++;
    return count;
}

static void registration_is_idempotent(void **state)
{
    (void)state;
    struct metric *a = metric_counter("test_a_total", "Things\nof \\ a", "kind=\"x\"");
    struct metric *b = metric_counter("test_a_total", "ignored", "kind=\"y\"");
    struct metric *g = metric_gauge("test_g", "Gauge", "");
    assert_ptr_equal(metric_counter("test_a_total", "", "kind=\"x\""), a);
    assert_ptr_not_equal(a, b);
    assert_int_equal((uintptr_t)a % 64, 0);
    metric_add(a, 2);
    metric_add(b, 40);
    metric_add(g, -3);
    char *text = written();
    assert_non_null(strstr(text, "# HELP polylog_test_a_total Things\\nof \\\\ a\n"
                                 "# TYPE polylog_test_a_total counter\n"
                                 "polylog_test_a_total{kind=\"x\"} 2\n"
                                 "polylog_test_a_total{kind=\"y\"} 40\n"));
    assert_non_null(strstr(text, "# TYPE polylog_test_g gauge\npolylog_test_g -3\n"));
    assert_int_equal(occurrences(text, "# TYPE polylog_test_a_total"), 1);
    free(text);
}

static void histogram_buckets_are_cumulative(void **state)
{
    (void)state;
    struct metric_histogram *h = metric_histogram("test_seconds", "Seconds", 0.25, 4);
    assert_ptr_equal(metric_histogram("test_seconds", "", 0.25, 4), h);
    /* Bounds 0.25 0.5 1 2: a value on a bound belongs to it. */
    static const double values[] = {-1, 0, 0.25, 0.26, 0.5, 0.75, 1, 2, 2.25, 1e300};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        metric_observe(h, values[i]);
    metric_observe(h, NAN);
    char *text = written();
    assert_non_null(strstr(text, "# TYPE polylog_test_seconds histogram\n"
                                 "polylog_test_seconds_bucket{le=\"0.25\"} 3\n"
                                 "polylog_test_seconds_bucket{le=\"0.5\"} 5\n"
                                 "polylog_test_seconds_bucket{le=\"1\"} 7\n"
                                 "polylog_test_seconds_bucket{le=\"2\"} 8\n"
                                 "polylog_test_seconds_bucket{le=\"+Inf\"} 10\n"
                                 "polylog_test_seconds_sum 1e+300\n"
                                 "polylog_test_seconds_count 10\n"));
    free(text);
}

static void labels_are_escaped_and_cut(void **state)
{
    (void)state;
    char to[8];
    metric_label(to, sizeof to, span_from_text("a\\b\"\n"));
    assert_string_equal(to, "a\\\\b\\\"");
    metric_label(to, sizeof to, span_from_text("abcdef\""));
    assert_string_equal(to, "abcdef");
    metric_label(to, sizeof to, span_from_text("abcdefgh"));
    assert_string_equal(to, "abcdefg");
    metric_label(to, sizeof to, span_from_text("abcde\xe2\x82\xac"));
    assert_string_equal(to, "abcde");
    metric_label(to, sizeof to, span_from_text("abcd\xe2\x82\xac"));
    assert_string_equal(to, "abcd\xe2\x82\xac");
    metric_label(to, sizeof to, span_from_text("a\xff\xe2z"));
    assert_string_equal(to, "a??z");
    metric_label(to, 1, span_from_text("a"));
    assert_string_equal(to, "");
    metric_label(to, sizeof to, (struct span){0});
    assert_string_equal(to, "");
}

static void a_full_buffer_is_said(void **state)
{
    (void)state;
    metric_counter("test_b_total", "B", "");
    struct buf buf;
    buf_init(&buf, 20);
    assert_int_equal(metrics_write(&buf), STATUS_TOO_LARGE);
    buf_deinit(&buf);
}

enum { ROUNDS = 2000 };

static void *count_all(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        char labels[32];
        snprintf(labels, sizeof labels, "n=\"%d\"", i % 50);
        metric_add(metric_counter("test_threads_total", "T", labels), 1);
        metric_observe(metric_histogram("test_threads_seconds", "T", 1, 10), 3);
        if (i % 200 == 0)
            free(written());
    }
    return NULL;
}

static void threads_lose_nothing(void **state)
{
    (void)state;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_all, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    char *text = written();
    assert_int_equal(occurrences(text, "} 160\n"), 50);
    assert_non_null(strstr(text, "polylog_test_threads_seconds_bucket{le=\"2\"} 0\n"
                                 "polylog_test_threads_seconds_bucket{le=\"4\"} 8000\n"));
    assert_non_null(strstr(text, "polylog_test_threads_seconds_sum 24000\n"));
    free(text);
}

/* The last test: it uses the table up. */
static void cells_are_limited(void **state)
{
    (void)state;
    struct metric *last = NULL, *before = NULL;
    for (int i = 0; i < 5000; i++) {
        char labels[32];
        snprintf(labels, sizeof labels, "n=\"%d\"", i);
        before = last;
        last = metric_counter("test_many_total", "M", labels);
    }
    assert_ptr_equal(last, before);
    metric_add(last, 5);
    assert_ptr_equal(metric_gauge("test_late", "L", ""), last);
    char *text = written();
    assert_int_equal(occurrences(text, "polylog_metrics_overflow{labels=\"other\"} 5\n"), 1);
    assert_null(strstr(text, "test_late"));
    free(text);
}

int main(void)
{
    hash_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registration_is_idempotent),
        cmocka_unit_test(histogram_buckets_are_cumulative),
        cmocka_unit_test(labels_are_escaped_and_cut),
        cmocka_unit_test(a_full_buffer_is_said),
        cmocka_unit_test(threads_lose_nothing),
        cmocka_unit_test(cells_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
