/* SPDX-License-Identifier: Apache-2.0 */
/* A group under random takes, settlements, slow writes and crashes that lose what was not stored.
 * What must hold: nothing that was settled as done comes back, no two live leases on one record,
 * failures never fall, nothing comes early, and in the end everything has been done or become a
 * dead letter, exactly once. */
/* links: queue net_uv storage_memory */
#include "tests/unit/dice.h"
#include "tests/unit/queue_rig.h"

enum { SEEDS = 40, STEPS = 400, NUMBERS = 500, TAKES = 3, SETTLES = 4, AT_ONCE = 6 };
enum { SHORT_LEASE_MS = 3, LONG_LEASE_MS = 60000, FAILURES_MAX = 3, DELAY_MS = 12 };

struct record_state {
    bool published, done; /* done: the answer said that it is stored */
    bool leased;          /* by this life of the group */
    struct receipt receipt;
    uint64_t leased_until_ms; /* at least */
    uint32_t failures;        /* that have been seen or answered */
    int64_t not_before_ms;    /* answered */
};

struct settling {
    struct settle settle;
    bool busy;
    uint32_t numbers[AT_ONCE], failures[AT_ONCE];
    struct receipt receipts[AT_ONCE];
    enum status results[AT_ONCE];
    int64_t due_ms; /* 0: no delay */
};

static struct record_state records[NUMBERS];
static struct take takes[TAKES];
static uint64_t take_started_ms[TAKES];
static bool take_busy[TAKES];
static struct settling settlings[SETTLES];
static uint32_t published;

static void take_finished(struct take *take, uint64_t started_ms)
{
    for (uint32_t i = 0; i < take->take.count; i++) {
        uint32_t number = number_of(&take->items[i]);
        struct record_state *record = &records[number];
        assert_true(record->published);
        assert_false(record->done);
        if (record->leased)
            assert_true(clock_monotonic_ms() >= record->leased_until_ms);
        assert_true(take->items[i].failures >= record->failures);
        assert_true(!rig.queue->redrive || take->items[i].failures < FAILURES_MAX);
        assert_true(clock_wall_ms() >= record->not_before_ms);
        record->not_before_ms = 0;
        record->failures = take->items[i].failures;
        record->leased = true;
        record->receipt = take->items[i].receipt;
        record->leased_until_ms = started_ms + take->take.lease_ms;
    }
    take_drop(take);
}

static void settle_finished(struct settling *settling)
{
    settling->busy = false;
    for (uint32_t i = 0; i < settling->settle.settle.count; i++) {
        struct record_state *record = &records[settling->numbers[i]];
        if (settling->settle.status != STATUS_OK || settling->results[i] != STATUS_OK)
            continue;
        if (settling->settle.settle.outcome == SETTLE_DONE ||
            settling->settle.settle.outcome == SETTLE_REJECTED) {
            assert_false(record->done);
            record->done = true;
        }
        /* Unless its time has come, and it was handed out, before the answer was seen. */
        if (settling->due_ms != 0 && !record->leased)
            record->not_before_ms = settling->due_ms;
        if (settling->settle.settle.outcome == SETTLE_FAILED &&
            record->failures <= settling->failures[i])
            record->failures = settling->failures[i] + 1;
    }
}

static void collect(void)
{
    for (unsigned i = 0; i < SETTLES; i++)
        if (settlings[i].busy && settlings[i].settle.done)
            settle_finished(&settlings[i]);
    for (unsigned i = 0; i < TAKES; i++)
        if (take_busy[i] && takes[i].done) {
            take_busy[i] = false;
            take_finished(&takes[i], take_started_ms[i]);
        }
}

static void step_take(void)
{
    unsigned i = (unsigned)pick(TAKES);
    if (take_busy[i])
        return;
    take_busy[i] = true;
    take_started_ms[i] = loop_now_ms(rig.loop);
    take_start(&takes[i], 1 + (uint32_t)pick(8), (uint32_t)pick(2) * 2,
               pick(3) == 0 ? SHORT_LEASE_MS : LONG_LEASE_MS);
}

static void step_settle(void)
{
    struct settling *settling = &settlings[pick(SETTLES)];
    if (settling->busy || published == 0)
        return;
    uint32_t count = 0;
    uint32_t first = (uint32_t)pick(published);
    for (uint32_t i = 0; i < published && count < AT_ONCE; i++) {
        uint32_t number = (first + i) % published;
        struct record_state *record = &records[number];
        if (!record->leased || pick(3) == 0)
            continue;
        record->leased = false; /* from the call on it may be handed out again */
        settling->numbers[count] = number;
        settling->failures[count] = record->failures;
        settling->receipts[count++] = record->receipt;
    }
    if (count == 0)
        return;
    settling->busy = true;
    enum settle_outcome outcome = pick(2) ? SETTLE_DONE : (enum settle_outcome)pick(4);
    bool delay = (outcome == SETTLE_FAILED || outcome == SETTLE_RELEASED) && pick(2);
    uint32_t delay_ms = delay ? 1 + (uint32_t)pick(DELAY_MS) : 0;
    settling->due_ms = delay ? clock_wall_ms() + delay_ms : 0;
    settle_begin(&settling->settle, settling->receipts, count, outcome, delay_ms,
                 settling->results);
}

static void crash(void)
{
    door.down = true;
    door.hold = false;
    if (door.held != NULL)
        request_complete(&door.held->request, STATUS_SHUTTING_DOWN);
    door.held = NULL;
    close_group(false);
    collect();
    for (unsigned i = 0; i < TAKES; i++)
        assert_false(take_busy[i]);
    for (unsigned i = 0; i < SETTLES; i++)
        assert_false(settlings[i].busy);
    log_stop();
    door.down = false;
    log_start();
    for (uint32_t i = 0; i < published; i++)
        records[i].leased = false;
    open_group();
}

static void step(void)
{
    uint64_t what = pick(100);
    if (what < 12 && published < NUMBERS - 10) {
        uint32_t count = 1 + (uint32_t)pick(10);
        for (uint32_t i = 0; i < count; i++)
            records[published + i].published = true;
        uint32_t first = published;
        published += count;
        publish((uint32_t)pick(2), first, count, NULL);
    } else if (what < 45) {
        step_take();
    } else if (what < 80) {
        step_settle();
    } else if (what < 84) {
        run_ms(1);
    } else if (what < 88) {
        door.hold = true;
    } else if (what < 94) {
        door_open();
    } else if (what < 95) {
        crash();
    } else {
        run_turn();
    }
    collect();
}

static void finish(void)
{
    door_open();
    for (unsigned i = 0; i < SETTLES; i++)
        while (settlings[i].busy) {
            run_ms(1);
            collect();
        }
    for (unsigned i = 0; i < TAKES; i++)
        while (take_busy[i]) {
            run_ms(1);
            collect();
        }
    static struct take take;
    for (uint32_t i = 0; i < published; i++)
        if (records[i].leased) /* those that have run out are stale */
            settle_one(&records[i].receipt, SETTLE_RELEASED);
    uint32_t count;
    unsigned idle = 0;
    do {
        run_ms(SHORT_LEASE_MS);
        for (uint32_t i = 0; i < published; i++)
            records[i].leased = false;
        uint64_t started_ms = loop_now_ms(rig.loop);
        count = take_some(&take, 1000, 5, LONG_LEASE_MS);
        if (count > 0)
            settle_all(&take, SETTLE_DONE);
        take_finished(&take, started_ms);
        idle = count > 0 ? 0 : idle + 1;
    } while (idle < 3 || stat_of(&rig.spec->stat->backlog) > 0);
    uint64_t dead = stat_of(&rig.spec->stat->dead);
    assert_true(rig.queue->redrive || dead == 0);
    assert_int_equal(stat_of(&rig.spec->stat->acknowledged) + dead, published);
    static bool seen[NUMBERS];
    memset(seen, 0, sizeof seen);
    for (; dead > 0; dead--) {
        assert_int_equal(take_dead(&take, 1, 0, LONG_LEASE_MS), 1);
        assert_false(seen[number_of(&take.items[0])]);
        seen[number_of(&take.items[0])] = true;
        take_drop(&take);
    }
}

static void run_seed(uint64_t number)
{
    seed = number * 7919 + 3;
    memset(records, 0, sizeof records);
    published = 0;
    rig_open(2);
    rig.queue->redrive = number % 2 != 0;
    rig.queue->max_consume_count = FAILURES_MAX;
    open_group();
    for (int i = 0; i < STEPS; i++)
        step();
    finish();
    rig_close();
}

static void test_group_under_random_load(void **state)
{
    (void)state;
    each_seed(SEEDS, run_seed);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_under_random_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
