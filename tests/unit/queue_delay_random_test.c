/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed records in random runs, alone and in units, with crashes, refused writes and clocks that
 * are set, against a list. */
/* links: queue net_uv storage_memory */
#include "tests/unit/delay_rig.h"
#include "tests/unit/dice.h"

/* ------------------------------------------------ random runs against a list */

enum { SEEDS = 60, STEPS = 1500, MODEL_MAX = 1200 };
enum { M_UNKNOWN, M_WAITS, M_GONE }; /* UNKNOWN: under way */

static struct {
    int state;
    int64_t due_ms; /* not before */
    struct delay_id id;
    struct insert insert;
    struct cancel cancel;
    bool canceling;
} model[MODEL_MAX];
static uint32_t model_count;
static bool seed_refuses;
static bool exact; /* no write was refused: the gauge must be right, else only in the end */

static void model_collect(void)
{
    for (uint32_t i = 0; i < model_count; i++) {
        if (model[i].state == M_UNKNOWN && model[i].insert.done) {
            model[i].state = model[i].insert.status == STATUS_OK ? M_WAITS : M_GONE;
            model[i].id = model[i].insert.record.id;
        }
        if (model[i].canceling && model[i].cancel.done) {
            model[i].canceling = false;
            if (model[i].cancel.status == STATUS_OK)
                model[i].state = M_GONE;
            else if (model[i].cancel.status == STATUS_NOT_FOUND)
                assert_true(seen[i].fired == 1 || model[i].state == M_GONE ||
                            model[i].id.due_ms <= wall_ms);
        }
        assert_true(seen[i].fired <= 1);
        if (seen[i].fired)
            assert_true(seen[i].at_ms >= model[i].due_ms);
        if (model[i].state == M_GONE)
            assert_int_equal(seen[i].fired, 0);
    }
}

/* Nothing is under way: what must have fired has. */
static void model_calm(void)
{
    door.refuse = STATUS_OK;
    door_let_pass();
    settle();
    pass(1100);
    model_collect();
    for (uint32_t i = 0; i < model_count; i++)
        if (model[i].state == M_WAITS && model[i].id.due_ms <= wall_ms)
            assert_int_equal(seen[i].fired, 1);
}

static uint64_t random_delay(void)
{
    switch (pick(5)) {
    case 0:
        return pick(3);
    case 1:
        return pick(100);
    case 2:
        return pick(5000);
    case 3:
        return pick(100000);
    default:
        return pick(LIMIT_DELAY_MS);
    }
}

static void step(void)
{
    uint64_t what = pick(100);
    if (what < 45 && model_count < MODEL_MAX) {
        uint32_t i = model_count++;
        uint64_t delay_ms = random_delay();
        model[i].state = M_UNKNOWN;
        model[i].canceling = false;
        model[i].due_ms = wall_ms + (int64_t)delay_ms;
        insert_in_unit(&model[i].insert, i, delay_ms, 0, pick(10) == 0 ? 20000 : 0,
                       pick(3) == 0 ? i + 1 : 0);
    } else if (what < 55 && model_count > 0) {
        uint32_t i = (uint32_t)pick(model_count);
        if (model[i].state == M_WAITS && !model[i].canceling) {
            model[i].canceling = true;
            cancel_start(&model[i].cancel, model[i].id, 0);
        }
    } else if (what < 58) {
        door.hold = true;
    } else if (what < 61) { /* so that what comes behind them is stored before them */
        door.hold_units = true;
    } else if (what < 70) {
        door_let_pass();
    } else if (what < 72 && seed_refuses) {
        door.refuse = STATUS_NO_SPACE;
        exact = false;
    } else if (what < 76) {
        door.refuse = STATUS_OK;
    } else if (what < 90) {
        pass((int64_t)pick(pick(4) == 0 ? 20000 : 50));
    } else if (what < 91) { /* the end, and what comes after */
        door.refuse = pick(2) == 0 ? STATUS_OK : STATUS_STORAGE_FAILED;
        door_let_pass();
        fall(false);
        door.refuse = STATUS_OK;
        wall_ms += (int64_t)pick(3000);
        rise();
    } else {
        run_turn();
    }
    model_collect();
}

static void test_random(void **state)
{
    for (uint64_t first = 1; first <= SEEDS; first++) {
        seed = first;
        model_count = 0;
        exact = true;
        seed_refuses = first % 3 != 0;
        for (unsigned i = 0; i < STEPS; i++)
            step();
        model_calm();
        pass(20000);
        model_calm();
        uint64_t waits = 0;
        for (uint32_t i = 0; i < model_count; i++)
            waits += model[i].state == M_WAITS && !seen[i].fired;
        if (exact)
            assert_int_equal(atomic_load(&rig.waiting), waits);
        for (unsigned i = 0; i < 200; i++)
            pass(LIMIT_DELAY_MS / 100);
        model_calm();
        for (uint32_t i = 0; i < model_count; i++)
            assert_int_equal(seen[i].fired, model[i].state == M_WAITS);
        assert_int_equal(atomic_load(&rig.waiting), 0);
        rig_close(state);
        rig_open(state);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_random, rig_open, rig_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
