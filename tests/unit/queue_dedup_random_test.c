/* SPDX-License-Identifier: Apache-2.0 */
/* Duplicates in random runs, alone and in units, with crashes and refused writes, against a model
 * that remembers everything. */
/* links: queue net_uv storage_memory */
#include "tests/unit/dedup_rig.h"
#include "tests/unit/dice.h"

/* ------------------------------------------------ random runs */

enum { SEEDS = 60, STEPS = 900, KEYS = 60, PRODUCERS = 4, CALLS = 40 };

/* A key: when and where it was stored last, as far as its publishers were told. */
static struct {
    bool stored;
    uint64_t offset;
    int64_t at_ms; /* not before */
} model[KEYS];
static struct {
    int32_t next, epoch;
} producers[PRODUCERS];
static struct call {
    struct append append;
    bool busy;
    uint64_t keys[ITEMS];
    int64_t began_ms;
} calls[CALLS];
static uint64_t next_value, next_unit;

static void collect_call(struct call *call)
{
    call->busy = false;
    for (uint32_t i = 0; i < call->append.append.count; i++) {
        const struct dedup_item *item = &call->append.items[i];
        uint64_t key = call->keys[i];
        if (call->append.status != STATUS_OK || item->status != STATUS_OK || item->sequence >= 0)
            continue;
        if (item->duplicate) {
            assert_true(item->offset < rig.end);
        } else {
            /* A second original only after the window of the first. */
            if (model[key].stored)
                assert_true(wall_ms - model[key].at_ms >= WINDOW_MS);
            model[key].stored = true;
            model[key].offset = item->offset;
            model[key].at_ms = call->began_ms;
        }
        assert_int_equal(item->offset, model[key].offset);
    }
}

static void collect(void)
{
    for (;;) { /* in the order of the answers */
        struct call *first = NULL;
        for (unsigned i = 0; i < CALLS; i++)
            if (calls[i].busy && calls[i].append.done &&
                (first == NULL || calls[i].append.order < first->append.order))
                first = &calls[i];
        if (first == NULL)
            return;
        collect_call(first);
    }
}

static void step_append(void)
{
    struct call *call = &calls[pick(CALLS)];
    if (call->busy)
        return;
    call->busy = true;
    call->began_ms = wall_ms;
    append_begin(&call->append);
    uint64_t count = 1 + pick(5);
    if (pick(4) == 0) {
        call->append.append.unit = ++next_unit;
        call->append.append.part_count = 1;
    }
    for (uint64_t i = 0; i < count; i++) {
        call->keys[i] = pick(KEYS);
        if (call->append.append.unit != 0 || pick(4) > 0) {
            add_keyed(&call->append, next_value++, call->keys[i]);
            continue;
        }
        /* Mostly the next one, now and then something else. */
        uint64_t producer = pick(PRODUCERS);
        int32_t sequence = producers[producer].next;
        if (pick(6) == 0)
            sequence = (int32_t)pick((uint64_t)sequence + 2);
        uint32_t records = 1 + (uint32_t)pick(3);
        add_sequenced(&call->append, next_value, records, producer, producers[producer].epoch,
                      sequence);
        next_value += records;
        if (sequence == producers[producer].next)
            producers[producer].next += (int32_t)records;
    }
    append_go(&call->append);
}

static void crash(void)
{
    if (pick(2) == 0)
        door.refuse = STATUS_STORAGE_FAILED;
    door_let_pass();
    fall(false);
    settle();
    collect();
    door.refuse = STATUS_OK;
    rise();
}

static void step(void)
{
    uint64_t what = pick(100);
    if (what < 60)
        step_append();
    else if (what < 63)
        door.hold = true;
    else if (what < 65) /* what comes behind them is stored before them */
        door.hold_units = true;
    else if (what < 75)
        door_let_pass();
    else if (what < 77)
        door.refuse = STATUS_NO_SPACE;
    else if (what < 81)
        door.refuse = STATUS_OK;
    else if (what < 90)
        pass((int64_t)pick(pick(5) == 0 ? WINDOW_MS : 2000));
    else if (what < 91)
        crash();
    else
        run_turn();
    collect();
}

/* Nothing is in the log twice, and what a value says it is lies where it was said to. */
static void check_log(void)
{
    uint8_t *found = heap_new(next_value + 1);
    for (uint64_t i = 0; i < rig.end; i++) {
        assert_true(rig.values[i] < next_value);
        assert_false(found[rig.values[i]]);
        found[rig.values[i]] = 1;
    }
    heap_free(found);
}

static void test_random(void **state)
{
    for (uint64_t first = 1; first <= SEEDS; first++) {
        seed = first;
        memset(model, 0, sizeof model);
        memset(producers, 0, sizeof producers);
        memset(calls, 0, sizeof calls);
        next_value = 0;
        for (unsigned i = 0; i < STEPS; i++)
            step();
        door.refuse = STATUS_OK;
        door_let_pass();
        settle();
        collect();
        for (unsigned i = 0; i < CALLS; i++)
            assert_false(calls[i].busy);
        check_log();
        crash();
        settle();
        for (uint64_t i = 0; i < KEYS; i++)
            if (model[i].stored && wall_ms - model[i].at_ms < WINDOW_MS)
                assert_duplicate(append_one_keyed(next_value, i), model[i].offset);
        pass(2 * WINDOW_MS);
        pass(2 * WINDOW_MS);
        assert_int_equal(rig.worker.keys, 0);
        rig_close(state);
        rig_open(state);
    }
}

/* Every record of a producer is stored once and in order, whatever is refused, repeated or lost on
 * the way: it sends again until it hears that it is stored. */
static void test_random_producer(void **state)
{
    enum { RECORDS = 300 };
    for (uint64_t first = 1; first <= SEEDS; first++) {
        seed = first * 77;
        static struct append append;
        int32_t next = 0;
        while (next < RECORDS) {
            uint32_t count = 1 + (uint32_t)pick(4);
            append_begin(&append);
            for (uint32_t i = 0; i < count; i++)
                add_sequenced(&append, (uint64_t)next + i, 1, 3, 0, next + (int32_t)i);
            door.hold = pick(3) == 0;
            append_go(&append);
            settle();
            bool heard = pick(3) > 0;
            door.refuse = pick(5) == 0 ? STATUS_NO_SPACE : STATUS_OK;
            door_let_pass();
            if (pick(10) == 0) {
                fall(false);
                rise();
            }
            settle();
            door.refuse = STATUS_OK;
            assert_true(append.done);
            bool all = append.status == STATUS_OK;
            for (uint32_t i = 0; i < count; i++) {
                all = all && append.items[i].status == STATUS_OK;
                if (all && append.items[i].offset != DEDUP_OFFSET_UNKNOWN)
                    assert_int_equal(append.items[i].offset, (uint64_t)next + i);
            }
            if (all && heard)
                next += (int32_t)count;
        }
        for (uint64_t i = 0; i < rig.end; i++)
            assert_int_equal(rig.values[i], i);
        rig_close(state);
        rig_open(state);
    }
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        TEST(test_random),
        TEST(test_random_producer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
