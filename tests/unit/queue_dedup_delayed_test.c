/* SPDX-License-Identifier: Apache-2.0 */
/* Delayed records with an id: each waits once, and a duplicate is told where the original waits,
 * whichever of the two is delayed; also after a crash, and when it has fired or was refused. */
/* links: queue net_uv storage_memory */
#include "tests/unit/dedup_rig.h"

static struct delay_worker delays;
static struct delay *delay;

static bool may_fire(void *context, uint64_t partition, uint64_t principal,
                     const struct record *record)
{
    (void)context;
    (void)partition;
    (void)principal;
    (void)record;
    return true;
}

static void has_fired(void *context, uint64_t late_ms)
{
    (void)context;
    (void)late_ms;
}

static const struct delay_ops delay_ops = {may_fire, has_fired};

static void delay_rise(void)
{
    delays = (struct delay_worker){
        .log = rig.log, .log_worker = rig.log_worker, .loop = rig.loop, .ops = &delay_ops};
    delay = delay_open(&delays, PARTITION, NULL);
}

/* As a broker ends: both in one turn. */
static void both_fall(void)
{
    delay_close(delay, false);
    fall(false);
    assert_int_equal(delays.in_flight, 0);
}

static void both_rise(void)
{
    rise();
    delay_rise();
}

static int both_open(void **state)
{
    rig_open(state);
    delay_rise();
    return 0;
}

static int both_close(void **state)
{
    delay_close(delay, false);
    return rig_close(state);
}

struct wait {
    struct dedup_append append;
    struct dedup_item items[ITEMS];
    struct delay_record records[ITEMS];
    bool done;
    enum status status;
};

static void wait_done(struct request *request, enum status status)
{
    struct wait *wait = container_of(request, struct wait, append.request);
    for (uint32_t i = 0; i < ITEMS && wait->records[i].batch != NULL; i++)
        batch_unref(wait->records[i].batch);
    wait->done = true;
    wait->status = status;
}

static struct batch *batch_of(uint64_t value)
{
    struct batch_builder builder;
    batch_builder_init(&builder);
    struct record_input record = {.timestamp_ms = 1, .value = span_of(&value, 8)};
    assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
    struct batch *batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    return batch;
}

/* One record of each key; 0: of none. */
static void wait_go(struct wait *wait, const uint64_t *keys, uint32_t count, uint64_t delay_ms)
{
    *wait = (struct wait){0};
    for (uint32_t i = 0; i < count; i++) {
        wait->items[i] = (struct dedup_item){.record_count = 1, .sequence = -1};
        if (keys[i] != 0)
            wait->items[i].key = dedup_key_of(span_of(&keys[i], sizeof keys[i]), 0);
        wait->records[i] = (struct delay_record){.batch = batch_of(keys[i]), .delay_ms = delay_ms};
    }
    wait->append.items = wait->items;
    wait->append.count = count;
    wait->append.delay = delay;
    wait->append.delayed = wait->records;
    request_init(&wait->append.request, rig.loop, wait_done);
    dedup_append(rig.dedup, &wait->append);
}

static struct delay_id wait_one(uint64_t key, uint64_t delay_ms, bool duplicate)
{
    struct wait wait;
    wait_go(&wait, &key, 1, delay_ms);
    while (!wait.done)
        run_turn();
    assert_int_equal(wait.status, STATUS_OK);
    assert_int_equal(wait.items[0].status, STATUS_OK);
    assert_int_equal(wait.items[0].duplicate, duplicate);
    return wait.records[0].id;
}

static void assert_same_id(struct delay_id a, struct delay_id b)
{
    assert_int_equal(a.partition, b.partition);
    assert_int_equal(a.number, b.number);
    assert_int_equal(a.due_ms, b.due_ms);
}

static void fire(int64_t ms)
{
    wall_ms += ms;
    delay_check(delay);
    settle();
    for (unsigned i = 0; delays.in_flight > 0; i++) {
        assert_true(i < 1000);
        run_turn();
    }
}

static void test_waits_once(void **state)
{
    (void)state;
    struct delay_id first = wait_one(100, 5000, false);
    assert_true(first.due_ms >= wall_ms + 5000);
    assert_same_id(wait_one(100, 9000, true), first);
    assert_same_id(wait_one(101, 5000, false), (struct delay_id){PARTITION, first.due_ms, 1});
    both_fall();
    both_rise();
    assert_same_id(wait_one(100, 5000, true), first);
    fire(6000);
    assert_int_equal(rig.end, 2);
    assert_same_id(wait_one(100, 5000, true), first); /* it has fired */
    both_fall();
    both_rise();
    assert_same_id(wait_one(100, 5000, true), first);
    pass(WINDOW_MS);
    assert_true(wait_one(100, 5000, false).number > 1); /* it may be another now */
    fire(6000);
    assert_int_equal(rig.end, 3);
}

/* The one that came first decides whether it waits. */
static void test_delayed_and_not(void **state)
{
    (void)state;
    assert_new(append_one_keyed(1, 100), 0);
    struct delay_id plain = wait_one(100, 5000, true);
    assert_int_equal(plain.due_ms, 0);
    assert_int_equal(plain.number, 0);
    struct delay_id first = wait_one(101, 5000, false);
    struct dedup_item item = append_one_keyed(2, 101);
    assert_true(item.duplicate);
    assert_int_equal(item.offset, first.number);
    assert_int_equal(item.due_ms, first.due_ms);
    fire(6000);
    assert_int_equal(rig.end, 2);
}

/* In one go: new ones, one twice, one that waits already, and some without an id. */
static void test_mixed(void **state)
{
    (void)state;
    struct delay_id first = wait_one(100, 5000, false);
    struct wait wait;
    wait_go(&wait, (uint64_t[]){0, 200, 100, 0, 200, 201}, 6, 3000);
    while (!wait.done)
        run_turn();
    static const bool duplicates[] = {false, false, true, false, true, false};
    static const uint64_t numbers[] = {1, 2, 0, 3, 2, 4};
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(wait.items[i].status, STATUS_OK);
        assert_int_equal(wait.items[i].duplicate, duplicates[i]);
        assert_int_equal(wait.records[i].id.number, numbers[i]);
    }
    assert_same_id(wait.records[2].id, first);
    fire(10000);
    assert_int_equal(rig.end, 5);
}

/* A duplicate of what is being written has its outcome; what was refused may come again. */
static void test_pending(void **state)
{
    (void)state;
    wait_one(99, 5000, false); /* both have loaded */
    for (unsigned round = 0; round < 2; round++) {
        struct wait first, second;
        struct append third;
        uint64_t key = 100 + round;
        door.hold = true;
        wait_go(&first, &key, 1, 5000);
        wait_go(&second, &key, 1, 5000);
        append_begin(&third);
        add_keyed(&third, 3, key);
        append_go(&third);
        settle();
        assert_false(first.done || second.done || third.done);
        door.refuse = round == 0 ? STATUS_NO_SPACE : STATUS_OK;
        door_let_pass();
        settle();
        assert_true(first.done && second.done && third.done);
        assert_int_equal(first.items[0].status, door.refuse);
        assert_int_equal(second.items[0].status, door.refuse);
        assert_int_equal(third.items[0].status, door.refuse);
        if (round == 1) {
            assert_true(second.items[0].duplicate && third.items[0].duplicate);
            assert_same_id(second.records[0].id, first.records[0].id);
            assert_int_equal(third.items[0].due_ms, first.records[0].id.due_ms);
        }
    }
    wait_one(100, 5000, false);
    fire(6000);
    assert_int_equal(rig.end, 3);
}

/* Ended while it was being written, and before it could begin. */
static void test_end_between(void **state)
{
    (void)state;
    struct wait first, second;
    uint64_t key = 100;
    wait_go(&first, &key, 1, 5000); /* waits until both have loaded */
    both_fall();
    settle();
    assert_int_equal(first.status, STATUS_SHUTTING_DOWN);
    both_rise();
    wait_one(99, 5000, false);
    door.hold = true;
    wait_go(&second, &key, 1, 5000);
    delay_close(delay, false);
    dedup_close(rig.dedup, false);
    rig.dedup = NULL;
    settle();
    assert_false(second.done);
    door_let_pass();
    fall(false);
    assert_true(second.done);
    assert_int_equal(second.items[0].status, STATUS_OK);
    both_rise();
    assert_same_id(wait_one(100, 5000, true), second.records[0].id);
}

/* A unit that is refused had the id: what waited for it waits now, each once. */
static void test_unit_heirs(void **state)
{
    (void)state;
    struct wait first, second;
    static const uint64_t keys[] = {100, 0, 100};
    settle();
    wait_one(99, 5000, false);
    door.hold_units = true;
    struct append unit;
    append_begin(&unit);
    add_keyed(&unit, 1, 100);
    unit.append.unit = 1;
    unit.append.part_count = 1;
    append_go(&unit);
    wait_go(&first, keys, 3, 5000);
    wait_go(&second, keys, 1, 7000);
    settle();
    assert_false(first.done);
    door.refuse = STATUS_NO_SPACE;
    door_let_pass();
    door.refuse = STATUS_OK;
    settle();
    assert_true(unit.done && first.done && second.done);
    assert_int_equal(unit.status, STATUS_NO_SPACE);
    assert_int_equal(first.items[0].status, STATUS_OK);
    assert_false(first.items[0].duplicate);
    assert_true(first.items[2].duplicate && second.items[0].duplicate);
    assert_same_id(first.records[2].id, first.records[0].id);
    assert_same_id(second.records[0].id, first.records[0].id);
    assert_true(first.records[1].id.number != first.records[0].id.number);
    fire(6000);
    assert_int_equal(rig.end, 3);
    both_fall();
    both_rise();
    assert_same_id(wait_one(100, 5000, true), first.records[0].id);
}

/* What waits for a unit in vain is not taken in by a delay that has gone meanwhile. */
static void test_delay_closed(void **state)
{
    (void)state;
    struct wait wait;
    uint64_t key = 100;
    settle();
    wait_one(99, 5000, false);
    door.hold_units = true;
    struct append unit;
    append_begin(&unit);
    add_keyed(&unit, 1, key);
    unit.append.unit = 1;
    unit.append.part_count = 1;
    append_go(&unit);
    wait_go(&wait, &key, 1, 5000);
    settle();
    dedup_close_delay(rig.dedup);
    delay_close(delay, false);
    delay = NULL;
    settle();
    assert_false(wait.done);
    door.refuse = STATUS_NO_SPACE;
    door_let_pass();
    door.refuse = STATUS_OK;
    settle();
    assert_true(unit.done && wait.done);
    assert_int_equal(wait.items[0].status, STATUS_SHUTTING_DOWN);
    delay_rise();
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, both_open, both_close)
    const struct CMUnitTest tests[] = {
        TEST(test_waits_once),   TEST(test_delayed_and_not), TEST(test_mixed),
        TEST(test_pending),      TEST(test_end_between),     TEST(test_unit_heirs),
        TEST(test_delay_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
