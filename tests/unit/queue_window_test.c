/* SPDX-License-Identifier: Apache-2.0 */
/* The window at its limits: what is stuck, held and lost, rows that are none, and its speed with
 * few and many in flight. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "core/base/clock.h"
#include "core/base/limits.h"
#include "core/queue/window.h"
#include "tests/unit/dice.h"

enum { ROW_LIMIT = 32 << 20 };

/* What is stuck is set aside when the span is used up: base moves on, and each of them is still
 * leased, settled, delayed, lost, and stored. */
static void test_window_stuck_records(void **state)
{
    (void)state;
    enum { STUCK = 8, LATER = 3000000 };
    struct window *window = window_new(1000, 100);
    struct window *replayed = window_new(1000, 100);
    window_limit_failures(window, 2);
    window_extend(window, 1000 + LATER);
    uint64_t offset, until;
    uint32_t delivery, failures, stuck[STUCK];
    struct buf row;
    buf_init(&row, ROW_LIMIT);
    for (uint32_t i = 0; i < STUCK; i++) {
        assert_true(window_peek(window, &offset));
        window_take(window, offset, 1, i == 7 ? 50 : 100000, &stuck[i], &failures);
    }
    for (uint32_t i = STUCK; i < LATER; i++) {
        assert_true(window_peek(window, &offset));
        assert_int_equal(offset, 1000 + i);
        window_take(window, offset, 1, 1000, &delivery, &failures);
        assert_int_equal(window_settle(window, offset, delivery, WINDOW_DONE), STATUS_OK);
        if (i % 100000 == 0) {
            buf_clear(&row);
            assert_int_equal(window_changes(window, &row), STATUS_OK);
            assert_true(row.size < 60);
            assert_int_equal(window_apply(replayed, buf_span(&row)), STATUS_OK);
            window_committed(window);
        }
    }
    assert_false(window_peek(window, &offset));
    assert_int_equal(window_aside(window), STUCK);
    assert_int_equal(window_oldest(window), 1000);
    assert_true(window_base(window) >= 1000 + LATER - (uint64_t)LIMIT_WINDOW);
    assert_int_equal(window_backlog(window), STUCK);
    assert_int_equal(window_in_flight(window), STUCK);

    /* 1000 done, 1001 failed, 1002 released, 1003 delayed, 1004 rejected, 1007 expires. */
    assert_int_equal(window_settle(window, 1000, stuck[0] + 1, WINDOW_DONE), STATUS_STALE);
    assert_int_equal(window_settle(window, 1000, stuck[0], WINDOW_DONE), STATUS_OK);
    assert_int_equal(window_settle(window, 1000, stuck[0], WINDOW_DONE), STATUS_STALE);
    assert_int_equal(window_settle(window, 1001, stuck[1], WINDOW_FAILED), STATUS_OK);
    assert_int_equal(window_settle(window, 1002, stuck[2], WINDOW_RELEASED), STATUS_OK);
    assert_int_equal(window_delay(window, 1003, stuck[3], WINDOW_FAILED, 777), STATUS_OK);
    assert_int_equal(window_settle(window, 1004, stuck[4], WINDOW_REJECTED), STATUS_OK);
    assert_true(window_expire(window, 60, &offset));
    assert_int_equal(offset, 1007);
    assert_int_equal(window_oldest(window), 1001);
    assert_true(window_peek(window, &offset));
    assert_int_equal(offset, 1002);

    /* Once from deltas, once from a snapshot. */
    for (int i = 0; i < 2; i++) {
        buf_clear(&row);
        if (i == 0) {
            assert_int_equal(window_changes(window, &row), STATUS_OK);
        } else {
            window_free(replayed);
            replayed = window_new(0, 100);
            assert_int_equal(window_snapshot(window, &row), STATUS_OK);
        }
        assert_int_equal(window_apply(replayed, buf_span(&row)), STATUS_OK);
        window_extend(replayed, 1000 + LATER);
        assert_int_equal(window_base(replayed), window_base(window));
        assert_int_equal(window_aside(replayed), STUCK - 1);
        assert_int_equal(window_backlog(replayed), STUCK - 1);
        assert_int_equal(window_failures(replayed, 1001, NULL), 1);
        assert_int_equal(window_look_at(replayed, 1003, &until), WINDOW_IS_PARKED);
        assert_int_equal(until, 777);
        assert_int_equal(window_next_available(replayed, 1003), 1004);
        assert_int_equal(window_due(replayed), 777);
    }
    window_limit_failures(replayed, 2);
    assert_int_equal(window_spent(replayed, &offset, 1), 1);
    assert_int_equal(offset, 1004);
    window_committed(window);
    assert_int_equal(window_spent(window, &offset, 1), 1);
    assert_int_equal(offset, 1004);
    window_moved(window, 1004);
    assert_true(window_wake(window, 777));
    window_gap(window, 1001, 1002);
    static const uint64_t back[] = {1002, 1007, 1003};
    for (int i = 0; i < 3; i++) {
        assert_true(window_peek(window, &offset));
        assert_int_equal(offset, back[i]);
        window_take(window, offset, 60, 1000, &delivery, &failures);
        assert_int_equal(failures, back[i] != 1002);
        assert_int_equal(window_settle(window, offset, delivery, WINDOW_DONE), STATUS_OK);
    }
    assert_int_equal(window_skip_to(window, 1006), 1); /* 1005, which is leased */
    assert_int_equal(window_settle(window, 1005, stuck[5], WINDOW_DONE), STATUS_STALE);
    assert_int_equal(window_settle(window, 1006, stuck[6], WINDOW_DONE), STATUS_OK);
    assert_int_equal(window_backlog(window), 0);
    assert_int_equal(window_oldest(window), window_base(window));
    buf_clear(&row);
    assert_int_equal(window_changes(window, &row), STATUS_OK);
    window_free(replayed);
    replayed = window_new(0, 100);
    buf_clear(&row);
    assert_int_equal(window_snapshot(window, &row), STATUS_OK);
    assert_int_equal(window_apply(replayed, buf_span(&row)), STATUS_OK);
    assert_int_equal(window_backlog(replayed), 0);
    buf_deinit(&row);
    window_free(window);
    window_free(replayed);
}

/* More are stuck than may be set aside: then the span is a limit, until some are settled. */
static void test_window_span_limit(void **state)
{
    (void)state;
    struct window *window = window_new(0, LIMIT_ASIDE * 2);
    window_extend(window, UINT64_C(1) << 40);
    uint64_t offset;
    uint32_t delivery, failures, first = 0;
    for (uint32_t i = 0; i <= LIMIT_ASIDE; i++) {
        assert_true(window_peek(window, &offset));
        window_take(window, offset, 1, 1000, &delivery, &failures);
        first = i == 0 ? delivery : first;
    }
    uint64_t taken = 0;
    for (; window_peek(window, &offset); taken++) {
        window_take(window, offset, 1, 1000, &delivery, &failures);
        assert_int_equal(window_settle(window, offset, delivery, WINDOW_DONE), STATUS_OK);
    }
    assert_int_equal(window_aside(window), LIMIT_ASIDE);
    assert_int_equal(window_base(window), LIMIT_ASIDE);
    assert_int_equal(taken, LIMIT_WINDOW - 1);
    assert_int_equal(window_settle(window, 0, first, WINDOW_DONE), STATUS_OK);
    assert_int_equal(window_base(window), LIMIT_ASIDE + (uint64_t)LIMIT_WINDOW);
    assert_true(window_peek(window, &offset));
    window_free(window);
}

/* What several windows know together; how they lose it does not matter. */
static void test_released_has_one_budget(void **state)
{
    (void)state;
    struct released_budget budget = {.max = 6};
    struct window *windows[2] = {window_new(0, 10), window_new(0, 10)};
    uint32_t delivery, failures;
    for (int i = 0; i < 2; i++) {
        window_share_released(windows[i], &budget);
        window_extend(windows[i], 10);
        for (uint64_t offset = 0; offset < 4; offset++) {
            window_take(windows[i], offset, 0, 1000, &delivery, &failures);
            window_settle(windows[i], offset, delivery, WINDOW_RELEASED);
            assert_int_equal(window_was_taken(windows[i], offset), i == 0 || offset < 2);
            window_take(windows[i], offset, 0, 1000, &delivery, &failures);
            window_settle(windows[i], offset, delivery, WINDOW_RELEASED); /* counts once */
        }
    }
    assert_int_equal(budget.count, 6);
    window_take(windows[0], 3, 0, 1000, &delivery, &failures);
    window_settle(windows[0], 3, delivery, WINDOW_DONE);
    assert_int_equal(budget.count, 5);
    window_skip_to(windows[0], 2);
    assert_int_equal(budget.count, 3);
    window_gap(windows[0], 2, 3);
    assert_int_equal(budget.count, 2);
    window_restart(windows[1], 0);
    assert_int_equal(budget.count, 0);
    window_take(windows[1], 0, 0, 1000, &delivery, &failures);
    window_settle(windows[1], 0, delivery, WINDOW_RELEASED);
    assert_int_equal(budget.count, 1);
    window_free(windows[1]);
    assert_int_equal(budget.count, 0);
    window_free(windows[0]);
}

static void test_window_restart(void **state)
{
    (void)state;
    struct window *window = window_new(0, 10);
    window_extend(window, 20);
    uint64_t offset;
    uint32_t delivery, failures, last = 0;
    for (int i = 0; i < 6; i++) {
        assert_true(window_peek(window, &offset));
        window_take(window, offset, 1, 1000, &last, &failures);
        if (i % 2)
            assert_int_equal(window_settle(window, offset, last, WINDOW_DONE), STATUS_OK);
    }
    window_restart(window, 3);
    assert_int_equal(window_in_flight(window), 0);
    assert_int_equal(window_backlog(window), 17);
    assert_int_equal(window_acknowledged(window), 3);
    assert_int_equal(window_settle(window, 4, last - 1, WINDOW_DONE), STATUS_STALE);
    assert_true(window_has_changes(window));
    assert_true(window_peek(window, &offset));
    assert_int_equal(offset, 3);
    window_take(window, offset, 1, 1000, &delivery, &failures);
    assert_true(delivery > last);
    window_restart(window, 30);
    assert_int_equal(window_end(window), 30);
    assert_int_equal(window_backlog(window), 0);
    window_free(window);
}

/* Many lease lengths at once: never expires early, and at most 1/32 late. */
static void test_window_many_lease_lengths(void **state)
{
    (void)state;
    enum { COUNT = 2000 };
    struct window *window = window_new(0, COUNT);
    window_extend(window, COUNT);
    uint64_t offset;
    uint32_t delivery, failures;
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_true(window_peek(window, &offset));
        window_take(window, offset, 5, 1 + i * 37, &delivery, &failures);
    }
    uint32_t expired = 0;
    for (uint64_t now = 5; expired < COUNT; now = window_deadline(window)) {
        while (window_expire(window, now, &offset)) {
            uint64_t asked = 5 + 1 + offset * 37;
            assert_true(now >= asked && now <= asked + asked / 32 + 1);
            expired++;
        }
    }
    assert_int_equal(window_deadline(window), 0);
    window_free(window);
}

/* Told that they are done. */
static uint64_t resolved_count;
static bool resolved_leased;

static void resolved(struct window_watch *watch, uint64_t from, uint64_t to)
{
    (void)watch;
    uint64_t leased = (UINT64_C(1) << 40) - 1;
    resolved_count += to - from;
    resolved_leased |= leased >= from && leased < to;
}

static void test_window_gap_of_any_length(void **state)
{
    (void)state;
    struct window_watch watch = {.resolved = resolved};
    struct window *window = window_new(5, 10);
    window_extend(window, UINT64_C(1) << 40);
    window_gap(window, 5, (UINT64_C(1) << 40) - 1);
    assert_int_equal(window_base(window), (UINT64_C(1) << 40) - 1);
    assert_int_equal(window_backlog(window), 1);
    uint64_t offset;
    uint32_t delivery, failures;
    assert_true(window_peek(window, &offset));
    window_take(window, offset, 1, 1, &delivery, &failures);
    window_extend(window, UINT64_C(1) << 41);
    window_set_watch(window, &watch);
    uint64_t gaps = 0;
    for (; window_peek(window, &offset); gaps++)
        window_gap(window, offset, UINT64_C(1) << 41);
    assert_int_equal(gaps, 1); /* what is leased goes aside */
    assert_int_equal(resolved_count, UINT64_C(1) << 40);
    assert_false(resolved_leased);
    assert_int_equal(window_aside(window), 1);
    assert_int_equal(window_base(window), UINT64_C(1) << 41);
    window_free(window);
}

static void test_window_bad_rows(void **state)
{
    (void)state;
    static const struct {
        const char *row;
        size_t size;
        enum status status;
    } rows[] = {
        {"", 0, STATUS_MALFORMED},
        {"\1\5\0\0\0", 5, STATUS_OK},
        {"\2\5\0\0\0\0\0\0", 8, STATUS_OK},
        {"\3\5\0\0\0\0\0\0", 8, STATUS_UNSUPPORTED},
        {"\2\5\0\3\1\0\0\0\0\0", 10, STATUS_OK},          /* 2 and 3 are aside */
        {"\2\5\0\6\0\0\0\0\0", 9, STATUS_MALFORMED},      /* 5 is not below base */
        {"\2\5\0\3\0\0\0\3\1\0\3\x63\0", 13, STATUS_OK},  /* 2 has failed, and waits */
        {"\2\5\0\0\0\0\3\1\0\0", 10, STATUS_MALFORMED},   /* 2 is done */
        {"\2\5\0\3\0\0\0\0\3\0\0", 11, STATUS_MALFORMED}, /* waits for no time */
        {"\1\5\0\0\0\0", 6, STATUS_MALFORMED},            /* a byte too many */
        {"\1\5\0\0", 4, STATUS_MALFORMED},                /* one too few */
        {"\1\5\0\1\0\0\0", 7, STATUS_MALFORMED},          /* empty run */
        {"\1\5\0\1\1\0\2\0\0", 9, STATUS_MALFORMED},      /* failures 0 */
        {"\1\5\0\1\1\0\2\1\0", 9, STATUS_MALFORMED},      /* failed and done */
        {"\1\5\0\1\1\0\1\1\0", 9, STATUS_OK},
        {"\1\5\0\1\xff\xff\xff\x7f\0\0", 10, STATUS_MALFORMED}, /* beyond the span */
        {"\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\0\0\0", 14, STATUS_MALFORMED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct window *window = window_new(0, 10);
        assert_int_equal(window_apply(window, span_of(rows[i].row, rows[i].size)), rows[i].status);
        window_free(window);
    }
    struct window *window = window_new(6, 10);
    assert_int_equal(window_apply(window, span_of("\1\5\0\0\0", 5)), STATUS_MALFORMED);
    window_free(window);
}

/* Take one and settle the oldest of those in flight, which keeps the number in flight. */
static double measure(uint32_t in_flight, bool scattered)
{
    enum { ROUNDS = 400000 };
    struct window *window = window_new(0, in_flight);
    window_extend(window, UINT64_C(1) << 40);
    uint64_t *offsets = calloc(in_flight, sizeof *offsets);
    uint32_t *deliveries = calloc(in_flight, sizeof *deliveries);
    uint32_t failures;
    struct buf row;
    buf_init(&row, ROW_LIMIT);
    for (uint32_t i = 0; i < in_flight; i++) {
        assert_true(window_peek(window, &offsets[i]));
        window_take(window, offsets[i], 1, 30000, &deliveries[i], &failures);
    }
    uint64_t started = clock_monotonic_ns();
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t at = scattered ? (uint32_t)pick(in_flight) : i % in_flight;
        window_settle(window, offsets[at], deliveries[at], WINDOW_DONE);
        if (!window_peek(window, &offsets[at])) /* the span is full of done ones */
            fail();
        window_take(window, offsets[at], 1, 30000, &deliveries[at], &failures);
        if (i % 1000 == 0) {
            buf_clear(&row);
            window_changes(window, &row);
            window_committed(window);
        }
    }
    uint64_t took = clock_monotonic_ns() - started;
    buf_deinit(&row);
    free(offsets);
    free(deliveries);
    window_free(window);
    return (double)took / ROUNDS;
}

static void test_window_is_flat(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {100, 10000, 100000};
    for (size_t i = 0; i < 3; i++)
        print_message("%u in flight: %.0f ns per settle and take in order, %.0f ns scattered\n",
                      sizes[i], measure(sizes[i], false), measure(sizes[i], true));
}

/* A held lease stays as it is, whatever the clock and others say, until it is let go of. */
static void test_window_held(void **state)
{
    (void)state;
    struct window *window = window_new(0, 10);
    uint64_t offset;
    uint32_t delivery[4], failures;
    window_extend(window, 10);
    for (uint64_t i = 0; i < 4; i++)
        window_take(window, i, 100, i == 3 ? 1000 : 50, &delivery[i], &failures);
    assert_int_equal(window_hold(window, 0, delivery[0] + 1), STATUS_STALE);
    assert_int_equal(window_hold(window, 5, delivery[0]), STATUS_STALE);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(window_hold(window, i, delivery[i]), STATUS_OK);
    assert_int_equal(window_hold(window, 0, delivery[0]), STATUS_STALE);
    assert_int_equal(window_deadline(window), 1100);
    assert_false(window_expire(window, 1000, &offset));
    assert_int_equal(window_settle(window, 0, delivery[0], WINDOW_DONE), STATUS_STALE);
    assert_int_equal(window_delay(window, 0, delivery[0], WINDOW_FAILED, 9), STATUS_STALE);
    assert_int_equal(window_renew(window, 0, delivery[0], 1000, 50), STATUS_STALE);
    assert_int_equal(window_settle(window, 1, delivery[1], WINDOW_RELEASED), STATUS_STALE);
    assert_int_equal(window_in_flight(window), 4);
    /* 0 has run out meanwhile, 1 was given back, 2 is gone. */
    assert_int_equal(window_failures_stored(window, 2, WINDOW_FAILED), 1);
    assert_false(window_unhold(window, 0, delivery[0], 1000));
    assert_true(window_unhold(window, 1, delivery[1], 1000));
    assert_int_equal(window_deadline(window), 1000);
    assert_int_equal(window_settle(window, 1, delivery[1], WINDOW_DONE), STATUS_OK);
    assert_true(window_expire(window, 1000, &offset));
    assert_int_equal(offset, 0);
    assert_int_equal(window_skip_to(window, 3), 2);
    assert_false(window_unhold(window, 2, delivery[2], 1000));
    assert_int_equal(window_in_flight(window), 1);
    window_free(window);
}

/* What was given back and waits is known only up to a limit, and what is done makes room. */
static void test_released_is_limited(void **state)
{
    (void)state;
    struct window *window = window_new(0, 1);
    window_extend(window, LIMIT_RELEASED + 2);
    uint32_t delivery, failures;
    for (uint64_t offset = 0; offset <= LIMIT_RELEASED; offset++) {
        window_take(window, offset, 0, 1000, &delivery, &failures);
        assert_int_equal(window_settle(window, offset, delivery, WINDOW_RELEASED), STATUS_OK);
    }
    assert_true(window_was_taken(window, 0));
    assert_true(window_was_taken(window, LIMIT_RELEASED - 1));
    assert_false(window_was_taken(window, LIMIT_RELEASED));
    window_take(window, 0, 0, 1000, &delivery, &failures);
    assert_int_equal(window_settle(window, 0, delivery, WINDOW_DONE), STATUS_OK);
    window_take(window, LIMIT_RELEASED, 0, 1000, &delivery, &failures);
    assert_int_equal(window_delay(window, LIMIT_RELEASED, delivery, WINDOW_RELEASED, INT64_MAX / 2),
                     STATUS_OK);
    assert_true(window_was_taken(window, LIMIT_RELEASED));
    window_free(window);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_released_is_limited),
        cmocka_unit_test(test_released_has_one_budget),
        cmocka_unit_test(test_window_stuck_records),
        cmocka_unit_test(test_window_span_limit),
        cmocka_unit_test(test_window_restart),
        cmocka_unit_test(test_window_held),
        cmocka_unit_test(test_window_many_lease_lengths),
        cmocka_unit_test(test_window_gap_of_any_length),
        cmocka_unit_test(test_window_bad_rows),
        cmocka_unit_test(test_window_is_flat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
