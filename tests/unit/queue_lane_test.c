/* SPDX-License-Identifier: Apache-2.0 */
/* How many different choices a group serves at a time, for how long each has its place, and what is
 * remembered of who gave back what. */
/* links: queue net_uv storage_memory */
#include "core/base/limits.h"
#include "tests/unit/choice_rig.h"

static void test_selectors_are_limited(void **state)
{
    (void)state;
    static struct take waiting[LIMIT_GROUP_CHOICES], one;
    rig_open(1);
    open_group();
    publish_color(0, "red");
    run_ms(5);
    struct selector *selectors[LIMIT_GROUP_CHOICES + 20];
    for (uint32_t i = 0; i < LIMIT_GROUP_CHOICES + 20; i++) {
        char text[40];
        snprintf(text, sizeof text, "color = 'c%d'", i);
        selectors[i] = compile(text);
        assert_int_equal(choose(&one, 1, selectors[i]), 0); /* one after the other is no problem */
    }
    assert_int_equal(rig.group->choice_count, LIMIT_GROUP_CHOICES);
    for (uint32_t i = 0; i < LIMIT_GROUP_CHOICES; i++)
        choose_start(&waiting[i], 1, 60000, selectors[i]);
    choose_start(&one, 1, 0, selectors[LIMIT_GROUP_CHOICES]);
    take_wait(&one);
    assert_int_equal(one.status, STATUS_BUSY);
    choose_start(&one, 1, 0, selectors[0]);
    take_wait(&one);
    assert_int_equal(one.status, STATUS_OK);
    publish_color(1, "c5");
    take_wait(&waiting[5]);
    assert_taken(&waiting[5], 1, 1);
    take_drop(&waiting[5]);
    assert_int_equal(choose(&one, 1, selectors[LIMIT_GROUP_CHOICES]), 0);
    close_group(false);
    for (uint32_t i = 0; i < LIMIT_GROUP_CHOICES + 20; i++)
        selector_unref(selectors[i]);
    rig_close();
}

static uint32_t choose_as(struct take *take, struct taker *taker, uint32_t wait_ms,
                          const struct selector *selector)
{
    *take = (struct take){0};
    request_init(&take->take.request, rig.loop, take_done);
    take->take.max_records = 1;
    take->take.max_bytes = UINT32_MAX;
    take->take.wait_ms = wait_ms;
    take->take.lease_ms = LEASE_MS;
    take->take.items = take->items;
    take->take.selector = selector;
    take->take.taker = taker;
    group_take(rig.group, &take->take);
    if (wait_ms == 0)
        take_wait(take);
    return take->take.count;
}

static void bar(const struct take *take, struct taker *taker)
{
    struct settle settle = {0};
    enum status result = STATUS_INTERNAL;
    request_init(&settle.settle.request, rig.loop, settle_done);
    settle.settle.receipts = &take->items[0].receipt;
    settle.settle.count = 1;
    settle.settle.outcome = SETTLE_RELEASED;
    settle.settle.not_for = taker;
    settle.settle.results = &result;
    group_settle(rig.group, &settle.settle);
    while (!settle.done)
        loop_run(rig.loop);
    assert_int_equal(result, STATUS_OK);
}

/* What comes back again and again does not pile up for a lane in which nobody waits any more. */
static void test_what_comes_back_does_not_pile_up(void **state)
{
    (void)state;
    enum { TIMES = 2000 };
    static struct take take;
    struct selector *blue = compile("color = 'blue'");
    rig_open(1);
    open_group();
    publish_color(0, "red");
    assert_int_equal(choose(&take, 1, blue), 0);
    for (uint32_t i = 0; i < TIMES; i++) {
        assert_int_equal(choose(&take, 1, NULL), 1);
        settle_all(&take, SETTLE_RELEASED);
        take_drop(&take);
    }
    assert_true(rig.group->parts[0].offers.capacity < TIMES / 4);
    close_group(false);
    selector_unref(blue);
    rig_close();
}

/* Whoever has a place keeps it while nothing is taken there, until it goes. */
static void test_selectors_keep_their_place(void **state)
{
    (void)state;
    static struct take one;
    struct selector *selectors[LIMIT_GROUP_CHOICES + 1];
    struct taker *takers[LIMIT_GROUP_CHOICES + 1];
    rig_open(1);
    open_group();
    publish_color(0, "red");
    run_ms(5);
    for (uint32_t i = 0; i <= LIMIT_GROUP_CHOICES; i++) {
        char text[40];
        snprintf(text, sizeof text, "color = 'c%d'", i);
        selectors[i] = compile(text);
        takers[i] = taker_new();
        choose_as(&one, takers[i], 0, selectors[i]);
        assert_int_equal(one.status, i < LIMIT_GROUP_CHOICES ? STATUS_OK : STATUS_BUSY);
    }
    publish_color(1, "c7");
    run_ms(5);
    assert_int_equal(choose_as(&one, takers[7], 0, selectors[7]), 1);
    take_drop(&one);
    /* Two of one selector: it is there as long as one of them is. */
    struct taker *other = taker_new();
    assert_int_equal(choose_as(&one, other, 0, selectors[3]), 0);
    atomic_store(&takers[3]->gone, true);
    choose_as(&one, takers[LIMIT_GROUP_CHOICES], 0, selectors[LIMIT_GROUP_CHOICES]);
    assert_int_equal(one.status, STATUS_BUSY);
    atomic_store(&other->gone, true);
    choose_as(&one, takers[LIMIT_GROUP_CHOICES], 0, selectors[LIMIT_GROUP_CHOICES]);
    assert_int_equal(one.status, STATUS_OK);
    assert_int_equal(rig.group->choice_count, LIMIT_GROUP_CHOICES);
    /* Of those that have gone a few are kept at most. */
    for (uint32_t i = 0; i < LIMIT_GROUP_CHOICES; i++)
        atomic_store(&takers[i]->gone, true);
    run_ms(5);
    choose_as(&one, takers[LIMIT_GROUP_CHOICES], 0, selectors[LIMIT_GROUP_CHOICES]);
    assert_int_equal(rig.group->choice_count, CHOICES_FEW);
    close_group(false);
    for (uint32_t i = 0; i <= LIMIT_GROUP_CHOICES; i++) {
        selector_unref(selectors[i]);
        taker_unref(takers[i]);
    }
    taker_unref(other);
    rig_close();
}

/* Of a queue of many partitions, where each place costs more. */
static void test_selectors_are_fewer_with_many_partitions(void **state)
{
    (void)state;
    static struct take one;
    struct selector *selectors[LIMIT_GROUP_CHOICES];
    struct taker *takers[LIMIT_GROUP_CHOICES];
    uint32_t had = 0;
    rig_open(200);
    open_group();
    for (uint32_t i = 0; i < LIMIT_GROUP_CHOICES; i++) {
        char text[40];
        snprintf(text, sizeof text, "color = 'c%d'", i);
        selectors[i] = compile(text);
        takers[i] = taker_new();
        choose_as(&one, takers[i], 0, selectors[i]);
        had += one.status == STATUS_OK;
    }
    assert_in_range(had, CHOICES_FEW, PLACES_MAX / 200);
    close_group(false);
    for (uint32_t i = 0; i < LIMIT_GROUP_CHOICES; i++) {
        selector_unref(selectors[i]);
        taker_unref(takers[i]);
    }
    rig_close();
}

/* Shared or of one taker: there are no more of them together. */
static void test_lanes_are_limited(void **state)
{
    (void)state;
    static struct take waiting[LANES_MAX], one;
    struct selector *selectors[LANES_MAX + 1];
    struct taker *taker = taker_new();
    rig_open(1);
    open_group();
    publish_color(0, "red");
    assert_int_equal(choose_as(&one, taker, 0, NULL), 1);
    bar(&one, taker);
    take_drop(&one);
    for (uint32_t i = 0; i <= LANES_MAX; i++) {
        char text[40];
        snprintf(text, sizeof text, "color = 'c%u'", i);
        selectors[i] = compile(text);
    }
    for (uint32_t i = 0; i < LANES_MAX; i++)
        choose_as(&waiting[i], taker, 60000, selectors[i]);
    assert_int_equal(rig.group->choice_count, LANES_MAX);
    choose_as(&one, taker, 0, selectors[LANES_MAX]);
    assert_int_equal(one.status, STATUS_BUSY);
    choose_as(&one, NULL, 0, selectors[0]);
    assert_int_equal(one.status, STATUS_BUSY);
    assert_int_equal(rig.group->choice_count, LANES_MAX);
    publish_color(1, "c5");
    take_wait(&waiting[5]);
    assert_taken(&waiting[5], 1, 1);
    take_drop(&waiting[5]);
    close_group(false);
    for (uint32_t i = 0; i <= LANES_MAX; i++)
        selector_unref(selectors[i]);
    atomic_store(&taker->gone, true);
    taker_unref(taker);
    rig_close();
}

/* Bars of records that others have done by now make room; who waited behind one is served as
 * before, and may have another. */
static void test_bars_of_what_is_done_make_room(void **state)
{
    (void)state;
    static struct take taken, waiting[3], more[LIMIT_GROUP_CHOICES], other;
    struct taker *takers[LIMIT_GROUP_BARS + 1];
    struct selector *selectors[LIMIT_GROUP_CHOICES + 1];
    rig_open(1);
    rig.queue->redrive = true; /* one bar too many is a dead letter */
    rig.queue->max_consume_count = 5;
    open_group();
    for (uint32_t i = 0; i <= LIMIT_GROUP_CHOICES; i++) {
        char text[40];
        snprintf(text, sizeof text, "color = 'c%u'", i);
        selectors[i] = compile(text);
    }
    for (uint32_t i = 0; i < LIMIT_GROUP_BARS; i++) {
        takers[i] = taker_new();
        publish_color(i, "red");
        assert_int_equal(choose_as(&taken, takers[i], 0, NULL), 1);
        bar(&taken, takers[i]);
        take_drop(&taken);
        assert_int_equal(choose_as(&taken, NULL, 0, NULL), 1);
        settle_all(&taken, SETTLE_DONE);
        take_drop(&taken);
    }
    /* 0 waits for what nobody else does while no lane is left for that, 1 for what others do too.
     */
    choose_as(&waiting[0], takers[0], 60000, selectors[LIMIT_GROUP_CHOICES]);
    choose_as(&waiting[1], takers[1], 60000, selectors[1]);
    for (uint32_t i = 0; i < LIMIT_GROUP_CHOICES; i++)
        choose_as(&more[i], NULL, 60000, selectors[i]);
    publish_color(100, "blue");
    takers[LIMIT_GROUP_BARS] = taker_new();
    assert_int_equal(choose_as(&taken, takers[LIMIT_GROUP_BARS], 0, NULL), 1);
    choose_as(&waiting[2], takers[2], 60000, NULL);
    run_ms(5);
    assert_int_equal(rig.group->bar_count, LIMIT_GROUP_BARS);
    bar(&taken, takers[LIMIT_GROUP_BARS]);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 0);
    take_wait(&waiting[2]); /* it is for others */
    assert_taken(&waiting[2], 100, 1);
    run_ms(5);
    assert_int_equal(rig.group->bar_count, 2);
    assert_false(waiting[0].done || waiting[1].done);
    assert_int_equal(rig.group->choice_count, LIMIT_GROUP_CHOICES + 1);
    bar(&waiting[2], takers[2]); /* once more */
    assert_int_equal(choose_as(&other, takers[2], 0, NULL), 0);
    assert_int_equal(choose_as(&other, takers[LIMIT_GROUP_BARS], 0, NULL), 0);
    assert_int_equal(choose_as(&other, takers[3], 0, NULL), 1);
    settle_all(&other, SETTLE_DONE);
    char last[16];
    snprintf(last, sizeof last, "c%d", LIMIT_GROUP_CHOICES);
    publish_color(200, last);
    take_wait(&waiting[0]);
    assert_taken(&waiting[0], 200, 1);
    publish_color(201, "c1"); /* to who came first, or to both */
    publish_color(202, "c1");
    take_wait(&waiting[1]);
    take_wait(&more[1]);
    close_group(false);
    take_drop(&taken);
    take_drop(&other);
    take_drop(&more[1]);
    for (uint32_t i = 0; i < 3; i++)
        take_drop(&waiting[i]);
    for (uint32_t i = 0; i <= LIMIT_GROUP_CHOICES; i++)
        selector_unref(selectors[i]);
    for (uint32_t i = 0; i <= LIMIT_GROUP_BARS; i++) {
        atomic_store(&takers[i]->gone, true);
        taker_unref(takers[i]);
    }
    rig_close();
}

/* A lane whose read was under way when its taker left goes when that has come back. */
static void test_lane_goes_after_its_read(void **state)
{
    (void)state;
    static struct take take;
    struct taker *taker = taker_new();
    rig_open(1);
    open_group();
    publish_color(0, "red");
    assert_int_equal(choose_as(&take, taker, 0, NULL), 1);
    bar(&take, taker);
    take_drop(&take);
    choose_as(&take, taker, 60000, NULL);
    run_ms(5);
    struct part *part = &rig.group->parts[0];
    assert_false(take.done || part->reading);
    part->reading = true; /* as if storage were slow */
    part->read_into = &take.take.lane->places[0].shelf;
    group_take_cancel(rig.group, &take.take);
    atomic_store(&taker->gone, true);
    taker_unref(taker);
    group_wake(rig.group);
    run_ms(5);
    assert_int_equal(rig.group->bar_count, 0);
    assert_int_equal(rig.group->choice_count, 1);
    part->reading = false;
    group_wake(rig.group);
    run_ms(5);
    assert_int_equal(rig.group->choice_count, 0);
    rig_close();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_selectors_are_limited),
        cmocka_unit_test(test_what_comes_back_does_not_pile_up),
        cmocka_unit_test(test_lanes_are_limited),
        cmocka_unit_test(test_selectors_keep_their_place),
        cmocka_unit_test(test_selectors_are_fewer_with_many_partitions),
        cmocka_unit_test(test_bars_of_what_is_done_make_room),
        cmocka_unit_test(test_lane_goes_after_its_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
