/* SPDX-License-Identifier: Apache-2.0 */
/* Duplicates: keyed within a window and sequenced by producer, while the original is still being
 * written, refused, or long stored. */
/* links: queue net_uv storage_memory */
#include "tests/unit/dedup_rig.h"

#include "core/base/pack.h"

/* ------------------------------------------------ keyed */

static void test_keyed(void **state)
{
    (void)state;
    assert_new(append_one_keyed(1, 100), 0);
    assert_new(append_one_keyed(2, 101), 1);
    assert_duplicate(append_one_keyed(3, 100), 0);
    pass(WINDOW_MS - 1);
    assert_duplicate(append_one_keyed(4, 101), 1);
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(5, 100), 0);
    pass(1);
    assert_new(append_one_keyed(6, 100), 2); /* it may be another now */
    assert_duplicate(append_one_keyed(7, 100), 2);
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(8, 100), 2);
    pass(2 * WINDOW_MS);
    settle();
    assert_int_equal(rows_left(), 0);
    assert_int_equal(rig.worker.keys, 0);
    assert_new(append_one_keyed(9, 100), 3);
}

/* In one batch: new ones, stored ones, and the same one twice. */
static void test_mixed_batch(void **state)
{
    (void)state;
    append_one_keyed(1, 100);
    append_one_keyed(2, 101);
    struct append append;
    append_begin(&append);
    add_keyed(&append, 10, 101);
    add_keyed(&append, 11, 200);
    add_item(&append, 20, 3);
    add_keyed(&append, 12, 200);
    add_keyed(&append, 13, 201);
    add_keyed(&append, 14, 100);
    append_go(&append);
    settle();
    assert_duplicate(append.items[0], 1);
    assert_new(append.items[1], 2);
    assert_new(append.items[2], 3);
    assert_duplicate(append.items[3], 2);
    assert_new(append.items[4], 6);
    assert_duplicate(append.items[5], 0);
    assert_int_equal(rig.end, 7);
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(15, 201), 6);
}

/* A duplicate of what is being written has its outcome, and no sooner. */
static void test_keyed_pending(void **state)
{
    (void)state;
    struct append first, second, third;
    for (unsigned round = 0; round < 2; round++) {
        door.hold = true;
        append_begin(&first);
        add_keyed(&first, 1, 100 + round);
        append_go(&first);
        append_begin(&second);
        add_keyed(&second, 2, 100 + round);
        append_go(&second);
        append_begin(&third);
        add_keyed(&third, 3, 300);
        add_keyed(&third, 4, 100 + round);
        append_go(&third);
        settle();
        assert_false(first.done || second.done || third.done);
        door.refuse = round == 0 ? STATUS_NO_SPACE : STATUS_OK;
        door_let_pass();
        settle();
        assert_true(first.order < second.order && second.order < third.order);
        if (round == 0) {
            assert_int_equal(first.items[0].status, STATUS_NO_SPACE);
            assert_int_equal(second.items[0].status, STATUS_NO_SPACE);
            assert_int_equal(third.items[0].status, STATUS_NO_SPACE);
            assert_int_equal(third.items[1].status, STATUS_NO_SPACE);
            assert_false(second.items[0].duplicate);
            assert_int_equal(rig.end, 0);
        } else {
            assert_new(first.items[0], 0);
            assert_duplicate(second.items[0], 0);
            assert_new(third.items[0], 1);
            assert_duplicate(third.items[1], 0);
        }
    }
    door.refuse = STATUS_OK;
    assert_new(append_one_keyed(5, 100), 2); /* what was refused may come again */
}

static void test_limit(void **state)
{
    (void)state;
    append_one_keyed(1, 100);
    rig.worker.keys += LIMIT_DEDUP_KEYS;
    assert_int_equal(append_one_keyed(2, 101).status, STATUS_OVER_QUOTA);
    assert_duplicate(append_one_keyed(3, 100), 0);
    rig.worker.keys -= LIMIT_DEDUP_KEYS;
    rig.worker.producers += LIMIT_PRODUCERS;
    assert_int_equal(append_one_sequenced(2, 1, 5, 0, 0).status, STATUS_OVER_QUOTA);
    rig.worker.producers -= LIMIT_PRODUCERS;
    dedup_limit(rig.dedup, 50);
    pass(50);
    assert_new(append_one_keyed(4, 100), 1);
}

/* One append of count new ids, or producers, of one owner: the first ones fit. */
static void assert_room(uint64_t owner, bool keyed, uint64_t first, uint32_t count, uint32_t fits)
{
    static struct append append;
    append_begin(&append);
    for (uint32_t i = 0; i < count; i++) {
        if (keyed)
            add_keyed(&append, first, first + i);
        else
            add_sequenced(&append, first, 1, first + i, 0, 0);
        append.items[i].owner = owner;
    }
    append_go(&append);
    settle();
    assert_true(append.done);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(append.items[i].status, i < fits ? STATUS_OK : STATUS_OVER_QUOTA);
}

/* Whoever comes first leaves half to others, also in one append, and has it back in time. */
static void test_share(void **state)
{
    (void)state;
    rig.worker.key_limit = rig.worker.producer_limit = 10;
    for (unsigned keyed = 0; keyed < 2; keyed++) {
        assert_room(1, keyed, 100, 3, 3);
        assert_room(1, keyed, 110, 4, 2);
        assert_room(2, keyed, 120, 4, 4);
        door.refuse = STATUS_NO_SPACE; /* what the store refuses is nobody's */
        static struct append append;
        append_begin(&append);
        add_keyed(&append, 1, 130);
        add_sequenced(&append, 1, 1, 130, 0, 0);
        append.items[0].owner = append.items[1].owner = 2;
        append_go(&append);
        settle();
        door.refuse = STATUS_OK;
        assert_true(append.done);
        assert_room(2, keyed, 140, 2, 1);
        assert_room(3, keyed, 150, 1, 0); /* all is full */
    }
    pass(2 * WINDOW_MS);
    assert_room(1, true, 200, 6, 5);
}

static void test_many_keys(void **state)
{
    (void)state;
    enum { MANY = 30000 };
    struct append append;
    for (uint64_t i = 0; i < MANY; i += ITEMS) {
        append_begin(&append);
        for (uint64_t k = 0; k < ITEMS; k++)
            add_keyed(&append, i + k, i + k);
        append_go(&append);
        settle();
        wall_ms += 50;
    }
    fall(false);
    rise();
    for (uint64_t i = 0; i < MANY; i += 7)
        assert_duplicate(append_one_keyed(i, i), i);
    pass(2 * WINDOW_MS);
    assert_int_equal(rows_left(), 0);
}

static void row_stored(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
}

/* As keys were stored once, each in a row of its own: they are known, new ones go on in the same
 * bucket, and all of them go when it is time. */
static void test_single_keys(void **state)
{
    (void)state;
    uint8_t bytes[DEDUP_KEYED_KEY], value[13] = {1};
    uint64_t key = 100, start_ms = (uint64_t)wall_ms - 10;
    struct dedup_key hashes = dedup_key_of(span_of(&key, sizeof key), 0);
    append_one_keyed(1, 99);
    dedup_row_key(PARTITION, bytes);
    bytes[DEDUP_KEY] = 1;
    store_u64(bytes + DEDUP_KEY + 1, start_ms);
    store_u64(bytes + DEDUP_KEY + 9, hashes.hash[0]);
    store_u64(bytes + DEDUP_KEY + 17, hashes.hash[1]);
    store_u32(value + 1, 4);
    store_u64(value + 5, 0); /* as that of 99 */
    struct storage_row row = {.change = STORAGE_PUT,
                              .key = span_of(bytes, sizeof bytes),
                              .value = span_of(value, sizeof value),
                              .offset_at = -1};
    struct log_rows rows = {.rows = &row, .row_count = 1};
    request_init(&rows.request, rig.loop, row_stored);
    log_rows_write(rig.log, &rows);
    settle();
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(2, 100), 0);
    assert_duplicate(append_one_keyed(3, 99), 0);
    assert_new(append_one_keyed(4, 101), 1);
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(5, 100), 0);
    assert_duplicate(append_one_keyed(6, 101), 1);
    assert_int_equal(rows_left(), 3);
    pass(2 * WINDOW_MS);
    assert_int_equal(rows_left(), 0);
}

static void test_removed(void **state)
{
    (void)state;
    append_one_keyed(1, 100);
    append_one_sequenced(2, 1, 9, 0, 0);
    assert_int_equal(rows_left(), 2);
    struct append append;
    append_begin(&append);
    add_keyed(&append, 3, 101);
    door.hold = true;
    append_go(&append);
    dedup_close(rig.dedup, true);
    rig.dedup = NULL;
    door_let_pass();
    settle();
    assert_true(append.done);
    rig.dedup = dedup_open(&rig.worker, PARTITION, WINDOW_MS);
    append_begin(&append);
    add_keyed(&append, 4, 102);
    append_go(&append); /* before it is open */
    dedup_close(rig.dedup, true);
    rig.dedup = NULL;
    settle();
    assert_int_equal(append.status, STATUS_NOT_FOUND);
    assert_int_equal(rows_left(), 0);
    fall(false);
    rise();
    settle();
}

/* ------------------------------------------------ sequenced */

static void test_sequenced(void **state)
{
    (void)state;
    assert_new(append_one_sequenced(0, 3, 9, 0, 0), 0);
    assert_new(append_one_sequenced(3, 2, 9, 0, 3), 3);
    assert_duplicate(append_one_sequenced(0, 3, 9, 0, 0), 0);
    assert_duplicate(append_one_sequenced(1, 1, 9, 0, 1), 1); /* a part of it */
    assert_int_equal(append_one_sequenced(0, 1, 9, 0, 7).status, STATUS_OUT_OF_RANGE);
    assert_int_equal(append_one_sequenced(0, 4, 9, 0, 4).status, STATUS_OUT_OF_RANGE);
    for (uint32_t i = 0; i < 5; i++)
        assert_new(append_one_sequenced(100 + i, 1, 9, 0, (int32_t)(5 + i)), 5 + i);
    assert_duplicate(append_one_sequenced(3, 2, 9, 0, 3), DEDUP_OFFSET_UNKNOWN); /* too long ago */
    assert_duplicate(append_one_sequenced(100, 1, 9, 0, 5), 5);
    fall(false);
    rise();
    assert_duplicate(append_one_sequenced(100, 1, 9, 0, 5), 5);
    assert_duplicate(append_one_sequenced(104, 1, 9, 0, 9), 9);
    assert_duplicate(append_one_sequenced(3, 2, 9, 0, 3), DEDUP_OFFSET_UNKNOWN);
    assert_int_equal(append_one_sequenced(0, 1, 9, 1, 10).status, STATUS_OUT_OF_RANGE);
    assert_new(append_one_sequenced(200, 1, 9, 1, 0), 10); /* a new epoch */
    assert_int_equal(append_one_sequenced(0, 1, 9, 0, 10).status, STATUS_STALE);
    fall(false);
    rise();
    assert_int_equal(append_one_sequenced(0, 1, 9, 0, 9).status, STATUS_STALE);
    assert_duplicate(append_one_sequenced(200, 1, 9, 1, 0), 10);
    assert_new(append_one_sequenced(201, 1, 9, 1, 1), 11);
    assert_new(append_one_sequenced(202, 1, 8, 3, 55), 12); /* nothing is known of this one */
    assert_int_equal(append_one_sequenced(0, 1, 8, INT16_MAX + 1, 0).status, STATUS_INVALID);
    assert_int_equal(append_one_sequenced(0, 1, 8, -1, 0).status, STATUS_INVALID);
}

static void test_sequences_wrap(void **state)
{
    (void)state;
    assert_new(append_one_sequenced(0, 4, 9, 0, INT32_MAX - 5), 0);
    assert_new(append_one_sequenced(4, 4, 9, 0, INT32_MAX - 1), 4); /* to 1 */
    assert_new(append_one_sequenced(8, 2, 9, 0, 2), 8);
    assert_duplicate(append_one_sequenced(4, 4, 9, 0, INT32_MAX - 1), 4);
    assert_duplicate(append_one_sequenced(6, 2, 9, 0, 0), 6);
    assert_int_equal(append_one_sequenced(0, 1, 9, 0, 5).status, STATUS_OUT_OF_RANGE);
    fall(false);
    rise();
    assert_duplicate(append_one_sequenced(4, 4, 9, 0, INT32_MAX - 1), 4);
    assert_new(append_one_sequenced(10, 1, 9, 0, 4), 10);
}

/* Several of one producer in a batch are one row; what follows waits for their outcome. */
static void test_sequenced_pending(void **state)
{
    (void)state;
    struct append first, second, third;
    door.hold = true;
    append_begin(&first);
    for (uint32_t i = 0; i < 10; i++)
        add_sequenced(&first, i, 1, 9, 0, (int32_t)i);
    add_sequenced(&first, 4, 1, 9, 0, 4);
    append_go(&first);
    append_begin(&second);
    add_sequenced(&second, 10, 1, 9, 0, 10);
    add_sequenced(&second, 3, 1, 9, 0, 3);
    append_go(&second);
    append_begin(&third);
    add_keyed(&third, 50, 1);
    append_go(&third);
    settle();
    assert_int_equal(door.held_count, 1);
    door.refuse = STATUS_NO_SPACE;
    unsigned held = door.held_count;
    assert_int_equal(held, 1);
    door_let_pass();
    run_turn();
    door.refuse = STATUS_OK;
    settle();
    assert_int_equal(first.items[0].status, STATUS_NO_SPACE);
    assert_int_equal(first.items[10].status, STATUS_NO_SPACE);
    /* Nothing was known of the producer any more, so this was its first. */
    assert_int_equal(second.done && third.done, true);

    fall(false);
    memory_storage_ops.close(door.inner);
    struct storage_options options = {0};
    struct err err;
    assert_int_equal(memory_storage_ops.open(&options, &door.inner, &err), STATUS_OK);
    rig.end = 0;
    rise();
    door.hold = true;
    append_begin(&first);
    for (uint32_t i = 0; i < 10; i++)
        add_sequenced(&first, i, 1, 9, 0, (int32_t)i);
    add_sequenced(&first, 4, 1, 9, 0, 4);
    append_go(&first);
    append_begin(&second);
    add_sequenced(&second, 10, 1, 9, 0, 10);
    add_sequenced(&second, 3, 1, 9, 0, 3);
    append_go(&second);
    settle();
    door_let_pass();
    settle();
    assert_new(first.items[9], 9);
    assert_duplicate(first.items[10], 4);
    assert_new(second.items[0], 10);
    assert_duplicate(second.items[1], 3);
    assert_int_equal(rows_left(), 2);
}

static void test_idle_producers(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 200; i++)
        append_one_sequenced(i, 1, i, 0, 0);
    assert_int_equal(rows_left(), 200);
    pass(23 * 3600 * 1000);
    append_one_sequenced(1000, 1, 7, 0, 1);
    pass(3600 * 1000);
    for (unsigned i = 0; i < 6; i++)
        pass(1000);
    assert_int_equal(rows_left(), 2);
    assert_int_equal(rig.worker.producers, 1);
    assert_duplicate(append_one_sequenced(1000, 1, 7, 0, 1), 200);
}

static void unit_go(struct append *append, uint64_t unit, uint32_t parts, uint64_t value,
                    uint64_t key)
{
    append_begin(append);
    add_keyed(append, value, key);
    add_item(append, value + 1, 1);
    append->append.unit = unit;
    append->append.part_count = parts;
    append_go(append);
}

static void other_done(struct request *request, enum status status)
{
    (void)request;
    (void)status;
}

/* The other part of a unit. */
static void unit_end(struct log_append *other, uint64_t unit, enum status why)
{
    *other = (struct log_append){.partition = PARTITION, .unit = unit, .part_count = 2};
    request_init(&other->request, rig.loop, other_done);
    if (why == STATUS_OK)
        log_append(rig.log_worker, other);
    else
        log_refuse(rig.log_worker, other, why);
}

/* Some of what is under way may stay so. */
static void run_turns(void)
{
    for (unsigned i = 0; i < 12; i++)
        run_turn();
}

/* An id that comes twice in one unit, in two of its parts: it is stored once. */
static void test_unit_with_itself(void **state)
{
    (void)state;
    struct append parts[2];
    run_turns();
    unit_go(&parts[0], 1, 2, 0, 100);
    unit_go(&parts[1], 1, 2, 10, 100);
    run_turns();
    for (unsigned i = 0; i < 2; i++)
        assert_true(parts[i].done && parts[i].status == STATUS_OK);
    assert_new(parts[0].items[0], 0);
    assert_duplicate(parts[1].items[0], 0);
    assert_new(parts[1].items[1], 2);
    assert_int_equal(rig.end, 3);
    assert_duplicate(append_one_keyed(20, 100), 0);
}

/* Storage fails under a unit: of whoever waits for its id nobody knows more than of the unit. */
static void test_unit_in_doubt(void **state)
{
    (void)state;
    struct append unit, plain;
    run_turns();
    door.hold = true;
    unit_go(&unit, 1, 1, 0, 100);
    append_begin(&plain);
    add_keyed(&plain, 20, 100);
    append_go(&plain);
    run_turns();
    assert_false(unit.done || plain.done);
    door.refuse = STATUS_STORAGE_FAILED;
    door_let_pass();
    run_turns();
    assert_true(unit.done && plain.done);
    assert_int_equal(unit.status, STATUS_STORAGE_FAILED);
    assert_int_equal(plain.items[0].status, STATUS_STORAGE_FAILED);
}

/* Several wait for the id of a unit that is refused: the first is stored, for the others it is the
 * original, and what came with it is stored once. */
static void test_unit_heirs(void **state)
{
    (void)state;
    struct append unit, late, plain[4];
    struct log_append other;
    run_turns();
    unit_go(&unit, 1, 2, 0, 100);
    for (unsigned i = 0; i < 3; i++) {
        append_begin(&plain[i]);
        add_keyed(&plain[i], 10 * i + 10, 100);
        add_keyed(&plain[i], 10 * i + 11, 200 + i);
        add_keyed(&plain[i], 10 * i + 12, 100);
        append_go(&plain[i]);
    }
    run_turns();
    assert_int_equal(rig.end, 3); /* what did not wait */
    assert_false(plain[0].done);
    unit_end(&other, 1, STATUS_OVER_QUOTA);
    door.hold = true;
    run_turns();
    assert_true(unit.done && !plain[0].done);
    append_begin(&plain[3]); /* one more, and a unit, while the first is on its way */
    add_keyed(&plain[3], 40, 100);
    append_go(&plain[3]);
    unit_go(&late, 2, 1, 50, 100);
    door_let_pass();
    run_turns();
    assert_true(plain[0].done && plain[1].done && plain[2].done && plain[3].done && late.done);
    assert_int_equal(late.status, STATUS_BUSY);
    assert_new(plain[0].items[0], 3);
    assert_duplicate(plain[0].items[2], 3);
    assert_duplicate(plain[3].items[0], 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_new(plain[i].items[1], i);
        if (i > 0)
            assert_duplicate(plain[i].items[0], 3);
        assert_true(i == 0 || plain[i].order > plain[i - 1].order);
    }
    assert_int_equal(rig.end, 4);
    fall(false);
    rise();
    assert_duplicate(append_one_keyed(10, 100), 3);
    /* It cannot be stored either. */
    unit_go(&unit, 3, 2, 60, 300);
    append_begin(&plain[0]);
    add_keyed(&plain[0], 70, 300);
    append_go(&plain[0]);
    run_turns();
    unit_end(&other, 3, STATUS_DENIED);
    door.refuse = STATUS_NO_SPACE; /* the unit's refusal is in already */
    run_turns();
    door.refuse = STATUS_OK;
    assert_true(plain[0].done);
    assert_int_equal(plain[0].items[0].status, STATUS_NO_SPACE);
    assert_new(append_one_keyed(80, 300), 4);
    /* And at the end. */
    unit_go(&unit, 4, 2, 90, 400);
    append_begin(&plain[0]);
    add_keyed(&plain[0], 95, 400);
    append_go(&plain[0]);
    run_turns();
    struct dedup *dedup = rig.dedup;
    rig.dedup = NULL;
    dedup_close(dedup, false);
    unit_end(&other, 4, STATUS_STALE);
    run_turns();
    assert_true(plain[0].done);
    assert_int_equal(plain[0].items[0].status, STATUS_SHUTTING_DOWN);
    assert_int_equal(rig.end, 5);
}

/* Parts of units: whatever else is under way, they never wait for it. */
static void test_units(void **state)
{
    (void)state;
    struct append units[3], plain[3];
    struct log_append other;
    run_turns();
    unit_go(&units[0], 1, 2, 0, 100);
    unit_go(&units[1], 2, 2, 10, 200);
    append_begin(&plain[0]);
    add_keyed(&plain[0], 20, 100); /* waits for the first unit */
    append_go(&plain[0]);
    unit_go(&units[2], 3, 1, 30, 100); /* must not */
    run_turns();
    assert_true(units[2].done);
    assert_int_equal(units[2].status, STATUS_BUSY);
    assert_false(units[0].done || units[1].done || plain[0].done);
    /* The first is refused: its id is not used, and whoever waited uses it. */
    unit_end(&other, 1, STATUS_DENIED);
    run_turns();
    assert_true(units[0].done && !plain[0].done); /* answers keep their order */
    assert_int_equal(units[0].status, STATUS_DENIED);
    assert_int_equal(rig.end, 0);
    /* The second is stored, and its id known. */
    unit_end(&other, 2, STATUS_OK);
    run_turns();
    assert_true(units[1].done && plain[0].done);
    assert_int_equal(units[1].status, STATUS_OK);
    assert_int_equal(plain[0].status, STATUS_OK);
    assert_new(plain[0].items[0], 2);
    assert_int_equal(rig.end, 3);
    assert_duplicate(append_one_keyed(0, 200), 0);
    assert_duplicate(append_one_keyed(20, 100), 2);
    /* Nothing in it is new: it counts as a part all the same. */
    append_begin(&units[0]);
    add_keyed(&units[0], 0, 200);
    units[0].append.unit = 4;
    units[0].append.part_count = 2;
    append_go(&units[0]);
    run_turns();
    assert_false(units[0].done);
    unit_end(&other, 4, STATUS_OK);
    run_turns();
    assert_true(units[0].done && units[0].status == STATUS_OK);
    assert_int_equal(rig.end, 3);
    /* Where others wait in line for a producer, it is refused instead. */
    door.hold = true;
    for (unsigned i = 0; i < 2; i++) {
        append_begin(&plain[i]);
        add_sequenced(&plain[i], 40 + i, 1, 9, 0, (int32_t)i);
        append_go(&plain[i]);
    }
    unit_go(&units[1], 5, 1, 50, 300);
    run_turns();
    door_let_pass();
    run_turns();
    assert_true(plain[0].done && plain[1].done && units[1].done);
    assert_int_equal(plain[1].items[0].status, STATUS_OK);
    assert_int_equal(units[1].status, STATUS_BUSY);
    assert_int_equal(rig.end, 5);
    /* An item that is refused refuses all. */
    rig.worker.keys += LIMIT_DEDUP_KEYS;
    unit_go(&units[2], 6, 2, 60, 400);
    unit_end(&other, 6, STATUS_OK);
    run_turns();
    rig.worker.keys -= LIMIT_DEDUP_KEYS;
    assert_true(units[2].done);
    assert_int_equal(units[2].status, STATUS_OVER_QUOTA);
    assert_int_equal(rig.end, 5);
    /* At the end too. */
    struct dedup *dedup = rig.dedup;
    unit_go(&units[0], 7, 2, 70, 500);
    rig.dedup = NULL;
    dedup_close(dedup, false);
    unit_end(&other, 7, STATUS_OK);
    run_turns();
    assert_true(units[0].done && units[0].status == STATUS_OK);
    assert_int_equal(rig.end, 7);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, rig_open, rig_close)
    const struct CMUnitTest tests[] = {
        TEST(test_keyed),
        TEST(test_mixed_batch),
        TEST(test_keyed_pending),
        TEST(test_limit),
        TEST(test_share),
        TEST(test_many_keys),
        TEST(test_single_keys),
        TEST(test_removed),
        TEST(test_sequenced),
        TEST(test_sequences_wrap),
        TEST(test_sequenced_pending),
        TEST(test_idle_producers),
        TEST(test_unit_in_doubt),
        TEST(test_unit_with_itself),
        TEST(test_unit_heirs),
        TEST(test_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
