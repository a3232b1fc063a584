/* SPDX-License-Identifier: Apache-2.0 */
/* links: broker base */
/* The clock of leases against a table that is searched from end to end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "core/broker/lease_clock.h"

enum { SLOTS = 40, STEPS = 20000 };

static void like_a_table(void **state)
{
    (void)state;
    uint64_t table[SLOTS] = {0}, deadline = 0;
    struct lease_clock clock;
    lease_clock_init(&clock);
    assert_int_equal(lease_clock_first(&clock, &deadline), LEASE_CLOCK_NONE);
    srand(7);
    for (unsigned i = 0; i < STEPS; i++) {
        uint32_t slot = (uint32_t)rand() % SLOTS;
        if (rand() % 3 == 0) {
            lease_clock_remove(&clock, slot);
            table[slot] = 0;
        } else {
            table[slot] = 1 + i + (uint64_t)(rand() % 5 == 0 ? rand() % 500 : 100);
            lease_clock_set(&clock, slot, table[slot]);
        }
        uint64_t least = 0;
        for (unsigned k = 0; k < SLOTS; k++)
            if (table[k] != 0 && (least == 0 || table[k] < least))
                least = table[k];
        uint32_t first = lease_clock_first(&clock, &deadline);
        if (least == 0) {
            assert_int_equal(first, LEASE_CLOCK_NONE);
        } else {
            assert_int_equal(deadline, least);
            assert_int_equal(table[first], least);
        }
    }
    lease_clock_deinit(&clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(like_a_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
