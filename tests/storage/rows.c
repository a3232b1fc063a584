/* SPDX-License-Identifier: Apache-2.0 */
/* Rows on every engine: scans, changes, and deletions on a condition. */
#include "tests/storage/fixture.h"

static void scans(void **state)
{
    struct fixture *fixture = *state;
    put_rows(fixture, 'b', 0, 20);
    put_rows(fixture, 'd', 0, 2);
    assert_string_equal(scan_text(fixture, "a", "b", 0), "");
    assert_string_equal(scan_text(fixture, "b000", "b003", 0), "b000=v0,b001=v1,b002=v2");
    assert_string_equal(scan_text(fixture, "b", "c", 2), "b000=v0,b001=v1+");
    assert_string_equal(scan_text(fixture, "b017", "c", 3), "b017=v17,b018=v18,b019=v19");
    assert_string_equal(scan_text(fixture, "b017", "z", 3), "b017=v17,b018=v18,b019=v19+");
    assert_string_equal(scan_text(fixture, "c", "z", 0), "d000=v0,d001=v1");
    assert_string_equal(scan_text(fixture, "z", "c", 0), "");
    assert_string_equal(scan_text(fixture, "b", "", 0), "");
}

static void rows_change(void **state)
{
    struct fixture *fixture = *state;
    put_rows(fixture, 'b', 0, 10);
    struct op *op = op_new(fixture);
    op_delete(op, "b001");
    op_delete(op, "b999");
    op_delete_range(op, "b003", "b007");
    op_put(op, "b004", "again"); /* changes of one append take effect in their order */
    op_put(op, "b000", "new");
    op_put(op, "b000", "newer");
    op_delete_range(op, "b009", "b002"); /* empty */
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    op_free(op);
    assert_string_equal(scan_text(fixture, "b", "c", 0),
                        "b000=newer,b002=v2,b004=again,b007=v7,b008=v8,b009=v9");
}

/* What was started before counts, whether it is done or not. */
static void rows_go_when_they_are_what_was_seen(void **state)
{
    struct fixture *fixture = *state;
    struct op *puts = op_new(fixture), *op = op_new(fixture);
    op_put(puts, "w1", "1-old");
    op_put(puts, "w2", "2-old");
    op_put(puts, "w3", "3-old");
    op_put(puts, "w4", "4");
    assert_int_equal(op_run(fixture, puts), STATUS_OK);
    op_free(puts);
    puts = op_new(fixture);
    op_put(puts, "w2", "2-new");
    op_put(puts, "w5", "5-new");
    op_start(fixture, puts);
    op_delete_when(op, "w1", "1-");
    op_delete_when(op, "w2", "2-old");
    op_delete_when(op, "w3", "3-older");
    op_delete_when(op, "w4", "");
    op_delete_when(op, "w5", "5-new");
    op_delete_when(op, "w6", "");
    op_start(fixture, op);
    wait_all(fixture);
    assert_int_equal(op->append.request.status, STATUS_OK);
    assert_string_equal(scan_text(fixture, "w", "x", 0), "w2=2-new,w3=3-old");
    op_free(puts);
    op_free(op);
    op = op_new(fixture);
    op_delete_when(op, "w1", "1-");
    op_delete_when(op, "w2", "2-old");
    op_delete_when(op, "w3", "3-old");
    assert_int_equal(op_run(fixture, op), STATUS_OK);
    assert_int_equal(op->append.kept, 2);
    op_free(op);
    assert_string_equal(scan_text(fixture, "w", "x", 0), "w2=2-new");
}

const struct CMUnitTest row_tests[] = {
    cmocka_unit_test(scans),
    cmocka_unit_test(rows_change),
    cmocka_unit_test(rows_go_when_they_are_what_was_seen),
};
const size_t row_test_count = sizeof row_tests / sizeof *row_tests;
