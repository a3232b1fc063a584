/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed records that are parts of units: when these commit late, are refused, never end, and when
 * they are many. */
/* links: queue net_uv storage_memory */
#include "tests/unit/delay_rig.h"

/* The other part of a unit of two. */
struct partner {
    struct log_rows rows;
    bool done;
};

static void partner_done(struct request *request, enum status status)
{
    (void)status;
    container_of(request, struct partner, rows.request)->done = true;
}

static void partner_come(struct partner *partner, uint64_t unit, enum status refused)
{
    *partner = (struct partner){.rows = {.unit = unit, .part_count = 2, .refused = refused}};
    request_init(&partner->rows.request, rig.loop, partner_done);
    log_rows_write(rig.log, &partner->rows);
    while (!partner->done)
        run_turn();
    for (unsigned i = 0; i < 6; i++)
        run_turn();
}

static void insert_half(struct insert *insert, uint32_t number, uint64_t delay_ms, uint64_t unit)
{
    *insert = (struct insert){.record = {.batch = batch_of(number, 0), .delay_ms = delay_ms}};
    request_init(&insert->insert.request, rig.loop, insert_done);
    insert->insert.records = &insert->record;
    insert->insert.count = 1;
    insert->insert.unit = unit;
    insert->insert.part_count = 2;
    delay_insert(rig.delay, &insert->insert);
    for (unsigned i = 0; i < 6; i++)
        run_turn();
    assert_false(insert->done);
}

/* As pass(), while requests are under way. */
static void pass_by(int64_t ms)
{
    door.hold_units = true;
    pass(ms);
    door.hold_units = false;
}

static void test_waits_for_its_unit(void **state)
{
    (void)state;
    struct insert insert;
    struct partner partner;
    insert_one(0, 10);
    insert_half(&insert, 1, 20, 1);
    insert_one(2, 30);
    pass_by(100);
    assert_int_equal(seen[0].fired, 1);
    assert_int_equal(seen_count, 1); /* what is due behind it waits too */
    partner_come(&partner, 1, STATUS_OK);
    assert_true(insert.done);
    assert_int_equal(insert.status, STATUS_OK);
    assert_int_equal(seen_count, 3);
    assert_true(seen[1].order < seen[2].order);
    insert_half(&insert, 3, 20, 2);
    insert_one(4, 30);
    partner_come(&partner, 2, STATUS_OVER_QUOTA);
    assert_int_equal(insert.status, STATUS_OVER_QUOTA);
    pass(100);
    assert_int_equal(seen[3].fired, 0);
    assert_int_equal(seen[4].fired, 1);
    assert_int_equal(atomic_load(&rig.waiting), 0);
    fall(false);
    rise();
    pass(100);
    assert_int_equal(seen_count, 4);
}

/* What was stored behind it is not counted twice, and its numbers are not given again. */
static void test_late(void **state)
{
    (void)state;
    struct insert insert;
    struct partner partner;
    insert_half(&insert, 0, 50, 1);
    for (uint32_t i = 1; i < 5; i++)
        assert_int_equal(insert_one(i, 50).number, i);
    partner_come(&partner, 1, STATUS_OK);
    fall(false);
    rise();
    assert_int_equal(atomic_load(&rig.waiting), 5);
    assert_int_equal(insert_one(5, 50).number, 5);
    pass(51);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(seen[i].fired, 1);
    assert_int_equal(atomic_load(&rig.waiting), 0);
    /* The last numbers are a unit's. */
    insert_in_unit(&insert, 6, 50, 0, 0, 2);
    settle();
    assert_int_equal(insert.status, STATUS_OK);
    fall(false);
    rise();
    assert_int_equal(insert_one(7, 50).number, 7);
    assert_int_equal(cancel_one(insert.record.id, 0), STATUS_OK);
    fall(false);
    rise();
    assert_int_equal(atomic_load(&rig.waiting), 1);
    pass(51);
    assert_int_equal(seen[6].fired, 0);
    assert_int_equal(seen[7].fired, 1);
}

/* A crash before the unit has ended: nothing of it was ever there. */
static void test_crash(void **state)
{
    (void)state;
    struct insert insert;
    door.hold_units = true;
    insert_in_unit(&insert, 0, 10, 0, 0, 1);
    insert_one(1, 10);
    door.refuse = STATUS_STORAGE_FAILED;
    door_let_pass();
    fall(false);
    assert_int_equal(insert.status, STATUS_STORAGE_FAILED);
    door.refuse = STATUS_OK;
    rise();
    assert_int_equal(atomic_load(&rig.waiting), 1);
    pass(100);
    assert_int_equal(seen[0].fired, 0);
    assert_int_equal(seen[1].fired, 1);
}

/* A delay that closes refuses the part, so that the unit ends. */
static void test_closed(void **state)
{
    (void)state;
    struct insert insert;
    struct partner partner;
    struct delay *delay = rig.delay;
    insert_one(0, 10); /* keeps it until its last request is back */
    delay_enter(delay);
    delay_close(delay, false);
    rig.delay = delay;
    insert_half(&insert, 1, 10, 1);
    partner_come(&partner, 1, STATUS_OK);
    assert_int_equal(insert.status, STATUS_SHUTTING_DOWN);
    rig.delay = NULL;
    delay_leave(delay);
}

/* Their rows stay few, also when one at the front takes its time, and what they say is not lost
 * with them. */
static void test_many(void **state)
{
    enum { MANY = 3000 };
    (void)state;
    struct insert first, insert;
    struct partner partner;
    insert_half(&first, 0, LIMIT_DELAY_MS, 1);
    for (uint32_t i = 1; i <= MANY; i++) {
        insert_in_unit(&insert, i, i % 2 == 0 ? 10 : LIMIT_DELAY_MS, 0, 0, i + 1);
        while (!insert.done)
            run_turn();
        assert_int_equal(insert.status, STATUS_OK);
    }
    assert_int_equal(rig.delay->units.rows, MANY); /* none can be taken in */
    partner_come(&partner, 1, STATUS_OK);
    for (unsigned i = 0; i < 6; i++)
        run_turn();
    assert_int_equal(rig.delay->units.rows, 0);
    pass(11);
    assert_int_equal(seen_count, MANY / 2);
    fall(false);
    rise();
    assert_int_equal(rig.delay->units.rows, 0);
    assert_int_equal(atomic_load(&rig.waiting), 1 + MANY / 2);
    /* More of them than are read at once; the common row says more than they do. */
    insert_half(&first, MANY + 1, 10, MANY + 2);
    for (uint32_t i = MANY + 2; i < 2 * MANY; i++) {
        insert_in_unit(&insert, i, 20, 0, 0, i + 1);
        while (!insert.done)
            run_turn();
    }
    assert_int_equal(insert_one(2 * MANY, 20).number, 2 * MANY);
    partner_come(&partner, MANY + 2, STATUS_OVER_QUOTA);
    assert_true(rig.delay->units.rows > 2000);
    fall(false);
    rise();
    assert_true(rig.delay->units.rows > 2000);
    assert_int_equal(atomic_load(&rig.waiting), 1 + MANY / 2 + MANY - 1);
    assert_int_equal(insert_one(2 * MANY + 1, 20).number, 2 * MANY + 1);
    insert_in_unit(&insert, 2 * MANY + 2, 20, 0, 0, 1);
    settle();
    assert_int_equal(rig.delay->units.rows, 0);
    pass(1000);
    assert_int_equal(atomic_load(&rig.waiting), 1 + MANY / 2);
    fall(false);
    rise();
    assert_int_equal(atomic_load(&rig.waiting), 1 + MANY / 2);
    pass((int64_t)LIMIT_DELAY_MS + 1);
    for (uint32_t i = 0; i <= 2 * MANY + 2; i++)
        assert_int_equal(seen[i].fired, i == MANY + 1 ? 0 : 1);
    assert_int_equal(atomic_load(&rig.waiting), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_waits_for_its_unit, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_late, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_crash, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_closed, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_many, rig_open, rig_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
