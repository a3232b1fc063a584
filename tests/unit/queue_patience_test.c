/* SPDX-License-Identifier: Apache-2.0 */
/* Settlements of which nobody waits to hear that they are durable: they share writes, and are
 * durable all the same a little later, or with the next one that somebody waits for. */
/* links: queue net_uv storage_memory */
#include "tests/unit/queue_rig.h"

static enum status settle_patiently(const struct receipt *receipt)
{
    enum status result = STATUS_INTERNAL;
    struct settle settle = {.settle = {.receipts = receipt,
                                       .count = 1,
                                       .outcome = SETTLE_DONE,
                                       .results = &result,
                                       .patient = true}};
    request_init(&settle.settle.request, rig.loop, settle_done);
    group_settle(rig.group, &settle.settle);
    while (!settle.done)
        loop_run(rig.loop);
    assert_int_equal(settle.status, STATUS_OK);
    return result;
}

/* However slow the machine is: as many writes as there were waits. */
static void test_patient_settlements_share_writes(void **state)
{
    (void)state;
    enum { RECORDS = 500 };
    struct take take;
    rig_open(1);
    open_group();
    publish(0, 0, RECORDS, NULL);
    assert_int_equal(take_some(&take, RECORDS, 0, 30000), RECORDS);
    unsigned before = door.row_writes;
    uint64_t began_ms = loop_now_ms(rig.loop);
    for (int i = 0; i < RECORDS; i++)
        assert_int_equal(settle_patiently(&take.items[i].receipt), STATUS_OK);
    uint64_t took_ms = loop_now_ms(rig.loop) - began_ms;
    assert_true(door.row_writes - before <= took_ms / GROUP_PATIENCE_MS + 1);
    assert_true(took_ms / GROUP_PATIENCE_MS + 1 < RECORDS);
    assert_int_equal(stat_of(&rig.spec->stat->acknowledged), RECORDS); /* applied at once */
    take_drop(&take);
    run_ms(GROUP_PATIENCE_MS + 1);
    unsigned written = door.row_writes;
    assert_true(written > before);
    run_ms(2 * GROUP_PATIENCE_MS); /* one write says all, and then there is rest */
    assert_int_equal(door.row_writes, written);
    crash_and_open();
    assert_int_equal(take_some(&take, RECORDS, 0, 30000), 0);
    rig_close();
}

static void test_patient_settlements_go_with_others(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    publish(0, 0, 4, NULL);
    take_some(&take, 4, 0, 30000);
    assert_int_equal(settle_patiently(&take.items[0].receipt), STATUS_OK);
    assert_int_equal(settle_one(&take.items[1].receipt, SETTLE_DONE), STATUS_OK);
    assert_int_equal(settle_patiently(&take.items[2].receipt), STATUS_OK);
    assert_int_equal(settle_one(&take.items[3].receipt, SETTLE_FAILED), STATUS_OK);
    take_drop(&take);
    crash_and_open();
    assert_int_equal(take_some(&take, 4, 0, 30000), 1);
    assert_int_equal(number_of(&take.items[0]), 3);
    assert_int_equal(take.items[0].failures, 1);
    take_drop(&take);
    rig_close();
}

static void test_patient_settlements_before_the_end(void **state)
{
    (void)state;
    struct take take;
    rig_open(1);
    open_group();
    publish(0, 0, 2, NULL);
    take_some(&take, 2, 0, 30000);
    assert_int_equal(settle_patiently(&take.items[0].receipt), STATUS_OK);
    take_drop(&take);
    close_group(false);
    open_group();
    take_some(&take, 2, 0, 30000);
    assert_taken(&take, 1, 1);

    /* One whose lease is over changes nothing, so nothing is to be written. */
    struct receipt stale = take.items[0].receipt;
    stale.delivery--;
    unsigned before = door.row_writes;
    assert_int_equal(settle_patiently(&stale), STATUS_STALE);
    run_ms(GROUP_PATIENCE_MS + 1);
    assert_int_equal(door.row_writes, before);
    take_drop(&take);
    rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patient_settlements_share_writes),
        cmocka_unit_test(test_patient_settlements_go_with_others),
        cmocka_unit_test(test_patient_settlements_before_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
