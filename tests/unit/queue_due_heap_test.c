/* SPDX-License-Identifier: Apache-2.0 */
/* The heap of times against a table that is searched from end to end, and what many entries cost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "core/queue/due_heap.h"

enum { PLACES = 40, STEPS = 20000, MANY = 65536, MOVES = 200000, SECONDS_MAX = 5 };

static void like_a_table(void **state)
{
    (void)state;
    int64_t table[PLACES] = {0};
    struct due_heap heap;
    due_heap_init(&heap);
    srand(7);
    for (unsigned i = 0; i < STEPS; i++) {
        uint32_t at = (uint32_t)rand() % PLACES;
        if (rand() % 3 == 0) {
            assert_int_equal(due_heap_remove(&heap, at), table[at] != 0);
            table[at] = 0;
        } else {
            table[at] = 1 + i + (rand() % 5 == 0 ? rand() % 500 : 100);
            due_heap_put(&heap, (struct due){.due_ms = table[at], .offset = at});
        }
        uint32_t first = PLACES, count = 0;
        for (uint32_t k = 0; k < PLACES; k++) {
            if (table[k] == 0) {
                assert_null(due_heap_get(&heap, k));
                continue;
            }
            count++;
            assert_int_equal(due_heap_get(&heap, k)->due_ms, table[k]);
            if (first == PLACES || table[k] < table[first])
                first = k;
        }
        assert_int_equal(heap.count, count);
        if (count > 0) {
            assert_int_equal(heap.entries[0].due_ms, table[first]);
            assert_int_equal(heap.entries[0].offset, first);
        }
    }
    due_heap_deinit(&heap);
}

/* A consumer that holds all the leases it may and extends one of them by little, again and again:
 * a list in the order of time takes 65535 steps for each. */
static void the_first_of_many_moves(void **state)
{
    (void)state;
    struct due_heap heap;
    due_heap_init(&heap);
    for (uint32_t i = 0; i < MANY; i++)
        due_heap_put(&heap, (struct due){.due_ms = 300000 + i / 100, .offset = i});
    clock_t begin = clock();
    for (uint32_t i = 0; i < MOVES; i++) {
        due_heap_put(&heap, (struct due){.due_ms = 1000 + i % 7, .offset = i * 7919U % MANY});
        assert_int_equal(heap.entries[0].due_ms, 1000);
    }
    assert_true(clock() - begin < (clock_t)SECONDS_MAX * CLOCKS_PER_SEC);
    assert_int_equal(heap.count, MANY);
    for (int64_t last = 0; heap.count > 0;) {
        assert_true(heap.entries[0].due_ms >= last);
        last = heap.entries[0].due_ms;
        due_heap_remove(&heap, heap.entries[0].offset);
    }
    due_heap_deinit(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(like_a_table),
                                       cmocka_unit_test(the_first_of_many_moves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
