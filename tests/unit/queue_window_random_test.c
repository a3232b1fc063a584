/* SPDX-License-Identifier: Apache-2.0 */
/* The window and its stored rows against a naive model (an array per offset) under random
 * operations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "core/queue/window.h"
#include "tests/unit/dice.h"

enum { OFFSETS = 600, STEPS = 1500, SEEDS = 300, ROW_LIMIT = 32 << 20, FAILURES_MAX = 3 };

/* Parked: its row is not made yet; written: it is on its way; delayed: it is stored. */
enum model_state { AVAILABLE, LEASED, DONE, PARKED, WRITTEN, DELAYED, SPENT, CLAIMED };

struct model {
    enum model_state state[OFFSETS];
    uint32_t failures[OFFSETS];
    bool rejected[OFFSETS];
    int64_t due[OFFSETS]; /* 0: not delayed */
    uint64_t spent[OFFSETS * 4];
    size_t spent_first, spent_count;
    uint32_t failures_max;
    uint32_t delivery[OFFSETS];
    uint64_t deadline[OFFSETS];
    uint64_t base, end, next, acknowledged, now;
    uint32_t in_flight, in_flight_max;
    uint64_t returned[OFFSETS * 4];
    size_t returned_first, returned_count;
    uint64_t parked[OFFSETS * 4];
    size_t parked_count;
    uint32_t last_delivery;
};

static void model_settle_base(struct model *model)
{
    while (model->base < OFFSETS && model->state[model->base] == DONE)
        model->base++;
    if (model->next < model->base)
        model->next = model->base;
    while (model->next < OFFSETS && model->state[model->next] != AVAILABLE)
        model->next++;
    if (model->end < model->base)
        model->end = model->base;
}

static bool model_peek(struct model *model, uint64_t *offset)
{
    if (model->in_flight >= model->in_flight_max)
        return false;
    while (model->returned_first < model->returned_count) {
        *offset = model->returned[model->returned_first];
        if (model->state[*offset] == AVAILABLE)
            return true;
        model->returned_first++;
    }
    *offset = model->next;
    return model->next < model->end;
}

static void model_return(struct model *model, uint64_t offset)
{
    model->state[offset] = AVAILABLE;
    if (model->returned_count == OFFSETS * 4) {
        model->returned_count -= model->returned_first;
        memmove(model->returned, model->returned + model->returned_first,
                model->returned_count * sizeof *model->returned);
        model->returned_first = 0;
    }
    model->returned[model->returned_count++] = offset;
}

static bool model_is_spent(const struct model *model, uint64_t offset)
{
    return model->failures_max != 0 &&
           (model->rejected[offset] || model->failures[offset] >= model->failures_max);
}

static void model_come_back(struct model *model, uint64_t offset)
{
    model->due[offset] = 0;
    if (!model_is_spent(model, offset)) {
        model_return(model, offset);
        return;
    }
    model->state[offset] = SPENT;
    model->spent[model->spent_count++] = offset;
}

static void model_park(struct model *model, uint64_t offset)
{
    model->state[offset] = PARKED;
    model->parked[model->parked_count++] = offset;
}

static void model_fail(struct model *model, uint64_t offset)
{
    model->in_flight--;
    model->failures[offset]++;
    model_park(model, offset);
}

static void model_done(struct model *model, uint64_t offset)
{
    model->state[offset] = DONE;
    model->failures[offset] = 0;
    model->due[offset] = 0;
}

static void assert_same(struct window *window, struct model *model)
{
    uint64_t offset, expected;
    uint64_t backlog = 0;
    for (uint64_t i = model->base; i < model->end; i++)
        backlog += model->state[i] != DONE;
    assert_int_equal(window_base(window), model->base);
    assert_int_equal(window_end(window), model->end);
    assert_int_equal(window_next(window), model->next);
    assert_int_equal(window_in_flight(window), model->in_flight);
    assert_int_equal(window_backlog(window), backlog);
    assert_int_equal(window_acknowledged(window), model->acknowledged);
    bool some = model_peek(model, &expected);
    assert_int_equal(window_peek(window, &offset), some);
    if (some)
        assert_int_equal(offset, expected);
    while (model->spent_first < model->spent_count &&
           model->state[model->spent[model->spent_first]] != SPENT)
        model->spent_first++;
    some = model->spent_first < model->spent_count;
    assert_int_equal(window_spent(window, &offset, 1), some);
    if (some)
        assert_int_equal(offset, model->spent[model->spent_first]);
    int64_t due = 0;
    for (uint64_t i = model->base; i < OFFSETS; i++)
        if (model->due[i] != 0 && (due == 0 || model->due[i] < due))
            due = model->due[i];
    assert_int_equal(window_due(window), due);
}

static void step_take(struct window *window, struct model *model)
{
    static const uint32_t lengths[] = {50, 200, 1000};
    uint64_t offset;
    uint32_t delivery, failures;
    for (uint64_t i = pick(20); i > 0 && model_peek(model, &offset); i--) {
        uint32_t lease = lengths[pick(3)];
        window_take(window, offset, model->now, lease, &delivery, &failures);
        assert_true(delivery > model->last_delivery);
        assert_int_equal(failures, model->failures[offset]);
        model->last_delivery = model->delivery[offset] = delivery;
        model->deadline[offset] = model->now + lease;
        model->state[offset] = LEASED;
        model->in_flight++;
        if (model->returned_first < model->returned_count)
            model->returned_first++;
        else
            model->next++;
        model_settle_base(model);
    }
}

static void step_settle(struct window *window, struct model *model)
{
    uint64_t offset = pick(OFFSETS);
    if (pick(10) > 0 && model->next > model->base)
        offset = model->base + pick(model->next - model->base);
    uint32_t delivery = model->delivery[offset];
    if (pick(20) == 0)
        delivery += pick(2) ? 1 : -1;
    enum window_outcome outcome = pick(10) < 6    ? WINDOW_DONE
                                  : pick(10) == 0 ? WINDOW_REJECTED
                                                  : (enum window_outcome)pick(3);
    bool delay = outcome != WINDOW_DONE && outcome != WINDOW_REJECTED && pick(2);
    int64_t due = (int64_t)model->now + 1 + (int64_t)pick(500);
    bool live = offset >= model->base && model->state[offset] == LEASED &&
                delivery == model->delivery[offset];
    if (pick(10) == 0) {
        enum status status = window_renew(window, offset, delivery, model->now, 200);
        assert_int_equal(status, live ? STATUS_OK : STATUS_STALE);
        if (live)
            model->deadline[offset] = model->now + 200;
        return;
    }
    enum status status = delay ? window_delay(window, offset, delivery, outcome, due)
                               : window_settle(window, offset, delivery, outcome);
    assert_int_equal(status, live ? STATUS_OK : STATUS_STALE);
    if (!live)
        return;
    if (delay && outcome == WINDOW_RELEASED) {
        model->in_flight--;
        model_park(model, offset);
    }
    if (outcome == WINDOW_REJECTED) {
        model->in_flight--;
        model->rejected[offset] = true;
        model_park(model, offset);
        return;
    }
    if (outcome == WINDOW_FAILED)
        model_fail(model, offset);
    if (delay && !model_is_spent(model, offset))
        model->due[offset] = due;
    if (outcome == WINDOW_FAILED || delay)
        return;
    model->in_flight--;
    if (outcome == WINDOW_RELEASED) {
        model_return(model, offset);
        return;
    }
    model->acknowledged++;
    model_done(model, offset);
    model_settle_base(model);
}

static void step_expire(struct window *window, struct model *model)
{
    uint64_t offset;
    model->now += pick(100);
    while (window_expire(window, model->now, &offset)) {
        assert_int_equal(model->state[offset], LEASED);
        assert_true(model->deadline[offset] <= model->now);
        for (size_t i = 0; i < OFFSETS; i++)
            assert_true(model->state[i] != LEASED || model->deadline[i] >= model->deadline[offset]);
        model_fail(model, offset);
    }
    for (;;) {
        uint64_t first = OFFSETS;
        for (uint64_t i = model->base; i < OFFSETS; i++)
            if (model->due[i] != 0 && model->due[i] <= (int64_t)model->now &&
                (first == OFFSETS || model->due[i] < model->due[first]))
                first = i;
        assert_int_equal(window_wake(window, (int64_t)model->now), first != OFFSETS);
        if (first == OFFSETS)
            break;
        if (model->state[first] == DELAYED)
            model_come_back(model, first);
        model->due[first] = 0;
    }
    uint64_t earliest = 0;
    for (size_t i = model->base; i < OFFSETS; i++)
        if (model->state[i] == LEASED && (earliest == 0 || model->deadline[i] < earliest))
            earliest = model->deadline[i];
    assert_int_equal(window_deadline(window), earliest);
}

/* Records that move away, from among the spent and the available. */
static void step_move(struct window *window, struct model *model)
{
    uint64_t offset = pick(OFFSETS);
    if (pick(2) && window_spent(window, &offset, 1) == 1)
        assert_int_equal(model->state[offset], SPENT);
    switch (model->state[offset]) {
    case SPENT:
        window_moved(window, offset);
        model_done(model, offset);
        break;
    case CLAIMED:
        if (pick(2)) {
            window_moved(window, offset);
            model_done(model, offset);
        } else {
            window_unclaim(window, offset);
            model_come_back(model, offset);
        }
        break;
    case AVAILABLE:
        assert_int_equal(window_claim(window, offset), offset < model->end);
        if (offset < model->end)
            model->state[offset] = CLAIMED;
        break;
    case LEASED:
    case DONE:
    case PARKED:
    case WRITTEN:
    case DELAYED:
        assert_false(window_claim(window, offset));
        break;
    }
    model_settle_base(model);
    uint64_t from = pick(OFFSETS);
    uint64_t next = from < model->base ? model->base : from;
    while (next < model->end && model->state[next] != AVAILABLE)
        next++;
    assert_int_equal(window_next_available(window, from), next < model->end ? next : model->end);
}

static void step_lose(struct window *window, struct model *model)
{
    if (pick(4) == 0) {
        uint64_t start = model->base + pick(30);
        uint64_t lost = 0;
        if (start > OFFSETS)
            start = OFFSETS;
        for (uint64_t i = model->base; i < start; i++) {
            lost += model->state[i] != DONE;
            model->in_flight -= model->state[i] == LEASED;
            model_done(model, i);
        }
        if (model->end < start)
            model->end = start;
        assert_int_equal(window_skip_to(window, start), lost);
    } else {
        uint64_t from = pick(OFFSETS), to = from + pick(20);
        window_gap(window, from, to);
        for (uint64_t i = from; i < to && i < model->end; i++)
            if (i >= model->base && model->state[i] != LEASED)
                model_done(model, i);
    }
    model_settle_base(model);
}

/* The stored form of the model: deltas applied one after the other must lead here. */
struct stored {
    struct window *replayed; /* from the first snapshot and all deltas since */
    bool writing;
    struct buf row;
};

static void assert_restores(struct window *restored, const struct model *model)
{
    struct buf row;
    buf_init(&row, ROW_LIMIT);
    assert_int_equal(window_snapshot(restored, &row), STATUS_OK);
    struct window *copy = window_new(0, 1000);
    assert_int_equal(window_apply(copy, buf_span(&row)), STATUS_OK);
    window_extend(copy, OFFSETS);
    assert_int_equal(window_base(copy), model->base);
    assert_int_equal(window_acknowledged(copy), model->acknowledged);
    uint32_t left = 0;
    for (uint64_t i = model->base; i < OFFSETS; i++) {
        bool rejected;
        uint64_t until;
        if (model->state[i] == DONE)
            continue;
        left++;
        assert_int_equal(window_failures(copy, i, &rejected), model->failures[i]);
        assert_int_equal(rejected, model->rejected[i]);
        assert_int_equal(window_look_at(copy, i, &until),
                         model->due[i] != 0 ? WINDOW_IS_PARKED : WINDOW_IS_AVAILABLE);
        assert_int_equal(until, model->due[i]);
    }
    while (window_wake(copy, INT64_MAX))
        ;
    uint64_t offset;
    uint32_t delivery, failures;
    for (; window_peek(copy, &offset); left--) {
        assert_true(model->state[offset] != DONE);
        window_take(copy, offset, 0, 10, &delivery, &failures);
    }
    assert_int_equal(left, 0);
    window_free(copy);
    buf_deinit(&row);
}

static void step_write(struct window *window, struct model *model, struct stored *stored)
{
    if (!stored->writing) {
        buf_clear(&stored->row);
        bool changed = window_has_changes(window);
        assert_int_equal(window_changes(window, &stored->row), STATUS_OK);
        assert_int_equal(stored->row.size != 0, changed);
        assert_false(window_has_changes(window));
        for (size_t i = 0; i < model->parked_count; i++)
            if (model->state[model->parked[i]] == PARKED)
                model->state[model->parked[i]] = WRITTEN;
        if (!changed)
            return;
        stored->writing = true;
        assert_int_equal(window_apply(stored->replayed, buf_span(&stored->row)), STATUS_OK);
        assert_restores(window, model);
        /* Time has passed for what was replayed: the model knows no more of it. */
        while (window_wake(stored->replayed, (int64_t)model->now))
            ;
        assert_restores(stored->replayed, model);
        return;
    }
    window_committed(window);
    size_t kept = 0;
    for (size_t i = 0; i < model->parked_count; i++) {
        uint64_t offset = model->parked[i];
        if (model->state[offset] == WRITTEN && model->due[offset] != 0)
            model->state[offset] = DELAYED;
        else if (model->state[offset] == WRITTEN)
            model_come_back(model, offset);
        else
            model->parked[kept++] = offset;
    }
    model->parked_count = kept;
    stored->writing = false;
}

static void run_seed(uint64_t number)
{
    seed = number * 7919 + 1;
    struct model *model = calloc(1, sizeof *model);
    model->now = 1;
    model->in_flight_max = 1 + (uint32_t)pick(100);
    struct window *window = window_new(0, model->in_flight_max);
    model->failures_max = number % 2 ? FAILURES_MAX : 0;
    window_limit_failures(window, model->failures_max);
    struct stored stored = {.replayed = window_new(0, 1000)};
    buf_init(&stored.row, ROW_LIMIT);
    bool lossy = number % 3 == 0;
    for (int i = 0; i < STEPS; i++) {
        uint64_t what = pick(100);
        if (what < 5 && model->end < OFFSETS) {
            uint64_t end = model->end + pick(20);
            model->end = end > OFFSETS ? OFFSETS : end;
            window_extend(window, model->end);
        } else if (what < 20) {
            step_take(window, model);
        } else if (what < 84) {
            step_settle(window, model);
        } else if (what < 88) {
            step_move(window, model);
        } else if (what < 94) {
            step_expire(window, model);
        } else if (what < 95 && lossy) {
            step_lose(window, model);
        } else {
            step_write(window, model, &stored);
        }
        assert_same(window, model);
    }
    window_free(window);
    window_free(stored.replayed);
    buf_deinit(&stored.row);
    free(model);
}

static void test_window_like_model(void **state)
{
    (void)state;
    each_seed(SEEDS, run_seed);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window_like_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
