/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed records: when they fire, what a crash, a refused write and a clock that is set make of
 * them, and how they are canceled. */
/* links: queue net_uv storage_memory */
#include "tests/unit/delay_rig.h"

static void test_fires_once_in_order(void **state)
{
    (void)state;
    insert_one(0, 50);
    insert_one(1, 20);
    insert_one(2, 50);
    insert_one(3, 0);
    assert_int_equal(atomic_load(&rig.waiting), 4);
    assert_int_equal(seen_count, 0); /* a millisecond may have been nearly over */
    pass(1);
    assert_int_equal(seen[3].fired, 1);
    pass(19);
    assert_int_equal(seen_count, 1);
    pass(1);
    assert_int_equal(seen[1].fired, 1);
    pass(30);
    assert_int_equal(seen_count, 4);
    assert_true(seen[0].order < seen[2].order);
    assert_int_equal(atomic_load(&rig.waiting), 0);
    assert_int_equal(late_count, 4);
    assert_int_equal(late_max_ms, 0);
    pass(1000);
    fall(false);
    rise();
    pass(1000000);
    assert_int_equal(seen_count, 4);
}

/* The gateway is about to end. */
static void test_taken_in_and_held(void **state)
{
    (void)state;
    insert_one(0, 10);
    rig.worker.holds = true;
    insert_one(1, 0);
    pass(1000);
    assert_int_equal(seen_count, 0);
    fall(false);
    rise();
    pass(1);
    assert_int_equal(seen_count, 2);
}

static void test_timer(void **state)
{
    (void)state;
    clock_use(NULL);
    fall(false);
    rise();
    int64_t began_ms = clock_wall_ms();
    insert_one(0, 30);
    while (seen_count == 0)
        run_ms(1);
    assert_true(clock_wall_ms() - began_ms >= 30);
    fall(false);
    clock_use(&test_clock);
    rise();
}

static void test_restart(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        insert_one(i, i * 10);
    pass(500);
    assert_int_equal(seen_count, 50);
    fall(false);
    wall_ms += 100; /* nobody watched */
    rise();
    assert_int_equal(seen_count, 60);
    assert_int_equal(atomic_load(&rig.waiting), 40);
    pass(1000);
    assert_int_equal(seen_count, 100);
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(seen[i].fired, 1);
    /* Numbers go on. */
    assert_int_equal(insert_one(100, 5).number, 100);
}

/* A crash leaves what was committed; the delay in memory is thrown away with a write under way. */
static void test_crash_while_firing(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 10; i++)
        insert_one(i, 10);
    door.hold = true;
    pass(20);
    assert_int_equal(door.held_count, 1);
    door.refuse = STATUS_STORAGE_FAILED;
    door_let_pass();
    fall(false);
    assert_int_equal(seen_count, 0);
    door.refuse = STATUS_OK;
    rise();
    assert_int_equal(seen_count, 10);
    fall(false);
    rise();
    assert_int_equal(seen_count, 10);
}

static void test_refused_write(void **state)
{
    (void)state;
    insert_one(0, 10);
    door.refuse = STATUS_NO_SPACE;
    struct insert insert;
    insert_start(&insert, 1, 10, 0, 0);
    settle();
    assert_true(insert.done);
    assert_int_equal(insert.status, STATUS_NO_SPACE);
    assert_int_equal(atomic_load(&rig.waiting), 1);
    pass(100);
    assert_int_equal(seen_count, 0);
    insert_start(&insert, 2, 10, 0, 0);
    door.refuse = STATUS_OK;
    settle();
    pass(500);
    assert_int_equal(seen_count, 0); /* it waits before it tries again */
    pass(2000);
    assert_int_equal(seen[0].fired, 1);
    assert_int_equal(seen[1].fired, 0);
    assert_int_equal(atomic_load(&rig.waiting), 0);
}

/* What is being written must not be passed: the mark would pass it too. */
static void test_pending_is_not_passed(void **state)
{
    (void)state;
    insert_one(0, 10);
    insert_one(1, 30);
    door.hold = true;
    struct insert insert;
    insert_start(&insert, 2, 20, 0, 0);
    pass(100); /* 0 is being written, behind the insert */
    assert_int_equal(seen_count, 0);
    door_let_pass();
    settle();
    assert_int_equal(insert.status, STATUS_OK);
    assert_int_equal(seen_count, 3);
    assert_true(seen[2].order < seen[1].order);
    fall(false);
    rise();
    assert_int_equal(seen_count, 3);
}

/* Due before what is firing: it waits behind it, and is not lost. */
static void test_clamped(void **state)
{
    (void)state;
    insert_one(0, 100);
    door.hold = true;
    pass(101);
    assert_int_equal(door.held_count, 1);
    wall_ms -= 90; /* set back */
    struct insert insert;
    insert_start(&insert, 1, 0, 0, 0);
    door_let_pass();
    settle();
    assert_int_equal(insert.status, STATUS_OK);
    pass(1);
    pass(1);
    assert_int_equal(seen[0].fired, 1);
    assert_int_equal(seen[1].fired, 1);
}

static void test_clock_set_back(void **state)
{
    (void)state;
    insert_one(0, 100);
    wall_ms -= 3600000;
    pass(99);
    assert_int_equal(seen_count, 0);
    insert_one(1, 50);
    pass(2);
    assert_int_equal(seen[0].fired, 1);
    pass(48);
    assert_int_equal(seen[1].fired, 0);
    pass(1);
    assert_int_equal(seen[1].fired, 1);
    fall(false);
    rise(); /* an hour before the mark */
    insert_one(2, 20);
    pass(20);
    assert_int_equal(seen[2].fired, 0);
    pass(2);
    assert_int_equal(seen[2].fired, 1);
}

static void test_rights(void **state)
{
    (void)state;
    struct insert inserts[4];
    for (uint32_t i = 0; i < 4; i++)
        insert_start(&inserts[i], i, 10, i % 2 + 5, 0);
    settle();
    rig.denied = 6;
    pass(20);
    assert_int_equal(seen_count, 2);
    assert_int_equal(seen[1].fired + seen[3].fired, 0);
    insert_start(&inserts[0], 4, 10, 6, 0); /* nothing to append but the mark */
    settle();
    pass(20);
    assert_int_equal(atomic_load(&rig.waiting), 0);
    rig.denied = 99;
    fall(false);
    rise();
    pass(20);
    assert_int_equal(seen_count, 2);
    assert_int_equal(late_count, 2);
}

static void test_cancel(void **state)
{
    (void)state;
    struct delay_id near = insert_one(0, 1000), far = insert_one(1, 600000000);
    struct delay_id fired = insert_one(2, 0);
    pass(5);
    assert_int_equal(cancel_one(fired, 0), STATUS_NOT_FOUND);
    assert_int_equal(cancel_one(near, 3), STATUS_DENIED);
    fall(false);
    rise();
    assert_true(rig.delay->near.count == 1); /* only what is due soon is in memory */
    assert_int_equal(cancel_one(far, 3), STATUS_DENIED);
    assert_int_equal(rig.delay->near.count, 1);
    struct delay_id wrong = near;
    wrong.due_ms++;
    assert_int_equal(cancel_one(wrong, 0), STATUS_NOT_FOUND);
    wrong = far;
    wrong.number = 77;
    assert_int_equal(cancel_one(wrong, 0), STATUS_NOT_FOUND);
    assert_int_equal(atomic_load(&rig.waiting), 2);
    assert_int_equal(cancel_one(near, 0), STATUS_OK);
    assert_int_equal(cancel_one(near, 0), STATUS_NOT_FOUND);
    struct cancel twice[2];
    cancel_start(&twice[0], far, 0);
    cancel_start(&twice[1], far, 0);
    settle();
    assert_int_equal(twice[0].status, STATUS_OK);
    assert_int_equal(twice[1].status, STATUS_NOT_FOUND);
    assert_int_equal(atomic_load(&rig.waiting), 0);
    pass(700000000);
    assert_int_equal(seen_count, 1);
    fall(false);
    rise();
    assert_int_equal(seen_count, 1);
}

static void test_cancel_fails(void **state)
{
    (void)state;
    struct delay_id id = insert_one(0, 100);
    insert_one(1, 200);
    door.hold = true;
    struct cancel cancel;
    cancel_start(&cancel, id, 0);
    pass(300); /* nothing passes it */
    door.refuse = STATUS_NO_SPACE;
    door_let_pass();
    settle();
    assert_int_equal(cancel.status, STATUS_NO_SPACE);
    door.refuse = STATUS_OK;
    pass(2000);
    assert_int_equal(seen[0].fired, 1);
    assert_int_equal(seen[1].fired, 1);
}

static void test_id_text(void **state)
{
    (void)state;
    struct delay_id id = {UINT64_MAX, INT64_MAX, UINT64_MAX}, back;
    char text[DELAY_ID_TEXT];
    delay_id_format(&id, text);
    assert_true(delay_id_parse(span_from_text(text), &back));
    assert_memory_equal(&id, &back, sizeof id);
    static const char *const bad[] = {"",
                                      "-",
                                      "--",
                                      "1-2",
                                      "1-2-",
                                      "1-2-3-4",
                                      "1-2-3x",
                                      "g-1-1",
                                      "1--1",
                                      "1-2-11111111111111111",
                                      "1-8000000000000000-1",
                                      "1-2-A"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(delay_id_parse(span_from_text(bad[i]), &back));
    assert_true(delay_id_parse(span_from_text("1-2-3"), &back));
}

struct scan {
    struct storage_scan scan;
    bool done;
};

static void scan_done(struct request *request, enum status status)
{
    struct scan *scan = container_of(request, struct scan, scan.request);
    assert_int_equal(status, STATUS_OK);
    scan->done = true;
}

static uint32_t rows_left(void)
{
    uint8_t first[DELAY_KEY], end[DELAY_KEY];
    delay_key(PARTITION, first);
    delay_key(PARTITION + 1, end);
    struct scan scan = {.scan = {.first = span_of(first, sizeof first),
                                 .end = span_of(end, sizeof end),
                                 .limit = UINT32_MAX}};
    request_init(&scan.scan.request, rig.loop, scan_done);
    log_rows_scan(rig.log, &scan.scan);
    while (!scan.done)
        run_turn();
    blob_unref(scan.scan.rows);
    return scan.scan.count;
}

/* Many wait: only what is due next is in memory, and all of it fires. */
static void test_many(void **state)
{
    (void)state;
    enum { MANY = 60000, AT_ONCE = 500 };
    static struct insert inserts[AT_ONCE];
    for (uint32_t i = 0; i < MANY; i += AT_ONCE) {
        for (uint32_t k = 0; k < AT_ONCE; k++)
            insert_start(&inserts[k], i + k, (uint64_t)((i + k) * 7919ull % MANY) * 10, 0, 0);
        settle();
    }
    assert_int_equal(atomic_load(&rig.waiting), MANY);
    assert_true(rig.delay->near.count <= 20000);
    fall(false);
    rise();
    assert_true(rig.delay->near.count <= 12000);
    uint32_t most = 0;
    for (unsigned i = 0; i < 601; i++) {
        pass(1000);
        most = rig.delay->near.count > most ? rig.delay->near.count : most;
    }
    assert_int_equal(seen_count, MANY);
    assert_true(most <= 20000);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(seen[i].fired, 1);
    /* What has fired is swept away but for the last few. */
    assert_true(rows_left() < 5000);
    fall(true);
    rise();
    assert_int_equal(atomic_load(&rig.waiting), 0);
    assert_int_equal(rows_left(), 0);
    assert_int_equal(insert_one(1, 1000).number, 0); /* as if there had never been any */
}

static void test_large(void **state)
{
    (void)state;
    static struct insert inserts[100];
    for (uint32_t i = 0; i < 100; i++)
        insert_start(&inserts[i], i, 1000 + i, 0, 300000);
    settle();
    assert_true(rig.worker.bytes < 12u << 20);
    pass(3000);
    assert_int_equal(seen_count, 100);
    assert_int_equal(rig.worker.bytes, 0);
}

static void test_close_with_calls(void **state)
{
    (void)state;
    struct insert insert, late;
    struct cancel cancel;
    struct delay_id id = insert_one(0, 100);
    fall(false);
    rig.log = log_new(&door.storage, 1);
    rig.log_worker = log_worker_new(rig.log, 0, rig.loop, observe, NULL);
    struct partition_spec spec = {.id = PARTITION, .class = STORAGE_3_DAYS};
    log_partition_open(rig.log_worker, &spec, &rig.stat);
    rig.worker = (struct delay_worker){
        .log = rig.log, .log_worker = rig.log_worker, .loop = rig.loop, .ops = &ops};
    rig.delay = delay_open(&rig.worker, PARTITION, &rig.waiting);
    insert_start(&insert, 1, 100, 0, 0); /* before it is open */
    cancel_start(&cancel, id, 0);
    delay_close(rig.delay, true);
    rig.delay = NULL;
    settle();
    assert_int_equal(insert.status, STATUS_NOT_FOUND);
    assert_int_equal(cancel.status, STATUS_NOT_FOUND);
    fall(false);
    rise();
    insert_start(&late, 2, 0, 0, 0); /* its write is under way when it closes */
    delay_close(rig.delay, true);
    rig.delay = NULL;
    settle();
    assert_true(late.done);
    fall(false);
    rise();
    pass(100000);
    assert_int_equal(seen_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fires_once_in_order, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_taken_in_and_held, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_timer, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_restart, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_crash_while_firing, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_refused_write, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_pending_is_not_passed, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_clamped, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_clock_set_back, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_rights, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_cancel, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_cancel_fails, rig_open, rig_close),
        cmocka_unit_test(test_id_text),
        cmocka_unit_test_setup_teardown(test_many, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_large, rig_open, rig_close),
        cmocka_unit_test_setup_teardown(test_close_with_calls, rig_open, rig_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
