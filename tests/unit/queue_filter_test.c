/* SPDX-License-Identifier: Apache-2.0 */
/* Labels and selectors of a group, selectors of its consumers: by example, and under random takes
 * against a naive model that knows which record matches what. */
/* links: queue net_uv storage_memory */
#include "tests/unit/choice_rig.h"
#include "tests/unit/dice.h"

/* Labels */

static void test_labels_settle_the_rest(void **state)
{
    (void)state;
    static struct take take;
    rig_open(1);
    open_group();
    publish_with(0, 0, (struct extras){.labels = "red"});
    publish_with(0, 1, (struct extras){.labels = "blue"});
    publish(0, 2, 500, NULL);
    publish_with(0, 502, (struct extras){.labels = "green,red"});
    publish_with(0, 503, (struct extras){0});
    struct label_filter red = labels_of(false, "red", NULL);
    assert_int_equal(take_labels(&take, red), 2);
    assert_int_equal(number_of(&take.items[0]), 0);
    assert_int_equal(number_of(&take.items[1]), 502);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 2);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    assert_int_equal(stat_of(&rig.spec->stat->acknowledged), 2);

    /* What was chosen once stays chosen. */
    assert_int_equal(take_labels(&take, labels_of(false, "blue", NULL)), 0);
    assert_int_equal(take.status, STATUS_INVALID);
    assert_int_equal(take_labels(&take, (struct label_filter){0}), 0);
    assert_int_equal(take.status, STATUS_INVALID);
    assert_int_equal(take_labels(&take, red), 0);
    assert_int_equal(take.status, STATUS_OK);
    publish_with(0, 504, (struct extras){.labels = "red"});
    crash_and_open();
    take_start(&take, 1, 100, LEASE_MS);
    take_wait(&take);
    assert_int_equal(take.status, STATUS_INVALID);
    assert_int_equal(take_labels(&take, red), 1);
    assert_int_equal(number_of(&take.items[0]), 504);
    take_drop(&take);
    rig_close();
}

static void test_labels_any_all_and_invalid(void **state)
{
    (void)state;
    static struct take take;
    rig_open(1);
    open_group();
    publish_with(0, 0, (struct extras){.labels = "a"});
    publish_with(0, 1, (struct extras){.labels = "a,b"});
    publish_with(0, 2, (struct extras){.labels = "b,c,a"});
    assert_int_equal(take_labels(&take, labels_of(true, "a", "not valid")), 0);
    assert_int_equal(take.status, STATUS_INVALID);
    assert_int_equal(take_labels(&take, labels_of(true, "a", "b")), 2);
    settle_all(&take, SETTLE_RELEASED);
    take_drop(&take);
    assert_int_equal(take_labels(&take, labels_of(true, "b", "a")), 2);
    take_drop(&take);
    assert_int_equal(take_labels(&take, labels_of(false, "b", "a")), 0);
    assert_int_equal(take.status, STATUS_INVALID);
    close_group(true); /* with its rows */
    open_group();
    assert_int_equal(take_some(&take, 10, 100, LEASE_MS), 3);
    take_drop(&take);
    rig_close();
}

/* A waiter sleeps over what does not match. */
static void test_labels_while_waiting(void **state)
{
    (void)state;
    static struct take take;
    rig_open(2);
    open_group();
    run_ms(5);
    take_start(&take, 10, 5000, LEASE_MS);
    take.take.labels = labels_of(false, "x", NULL);
    for (uint32_t i = 0; i < 20; i++)
        publish_with(i % 2, i, (struct extras){.labels = i % 3 ? "y" : NULL});
    run_ms(10);
    assert_false(take.done);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    publish_with(1, 20, (struct extras){.labels = "x"});
    take_wait(&take);
    assert_taken(&take, 20, 1);
    take_drop(&take);
    rig_close();
}

/* Selectors */

static void test_selector_leaves_the_rest(void **state)
{
    (void)state;
    static struct take take, other;
    struct selector *red = compile("color = 'red'"), *blue = compile("color = 'blue'");
    rig_open(1);
    open_group();
    for (uint32_t i = 0; i < 9; i++)
        publish_color(i, i % 3 == 0 ? "red" : i % 3 == 1 ? "blue" : "green");
    assert_int_equal(choose(&take, 2, red), 2);
    assert_int_equal(number_of(&take.items[0]), 0);
    assert_int_equal(number_of(&take.items[1]), 3);
    assert_int_equal(choose(&other, 10, red), 1);
    assert_int_equal(number_of(&other.items[0]), 6);
    take_drop(&other);
    assert_int_equal(choose(&other, 10, red), 0);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 9);

    /* What comes back is found again, by those who want it. */
    assert_int_equal(settle_one(&take.items[1].receipt, SETTLE_FAILED), STATUS_OK);
    assert_int_equal(choose(&other, 10, blue), 3);
    take_drop(&other);
    assert_int_equal(choose(&other, 10, red), 1);
    assert_int_equal(number_of(&other.items[0]), 3);
    assert_int_equal(other.items[0].failures, 1);
    take_drop(&other);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_RELEASED), STATUS_OK);
    take_drop(&take);
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 4);
    assert_int_equal(number_of(&take.items[0]), 0);
    assert_int_equal(number_of(&take.items[1]), 2);
    take_drop(&take);
    selector_unref(red);
    selector_unref(blue);
    rig_close();
}

static void test_selector_waiters(void **state)
{
    (void)state;
    static struct take red_take, blue_take, plain;
    struct selector *red = compile("color = 'red'"), *blue = compile("color = 'blue'");
    rig_open(2);
    open_group();
    run_ms(5);
    choose_start(&red_take, 10, 5000, red);
    choose_start(&blue_take, 10, 5000, blue);
    publish_color(0, "green");
    publish_color(1, "blue");
    take_wait(&blue_take);
    assert_taken(&blue_take, 1, 1);
    take_drop(&blue_take);
    run_ms(5);
    assert_false(red_take.done);
    assert_int_equal(take_some(&plain, 10, 0, LEASE_MS), 1);
    assert_taken(&plain, 0, 1);
    take_drop(&plain);
    publish_color(2, "red");
    take_wait(&red_take);
    assert_taken(&red_take, 2, 1);
    take_drop(&red_take);
    choose_start(&red_take, 10, 30, red);
    take_wait(&red_take); /* runs out */
    assert_int_equal(red_take.take.count, 0);
    choose_start(&red_take, 10, 5000, red);
    group_take_cancel(rig.group, &red_take.take);
    take_wait(&red_take);
    assert_int_equal(red_take.status, STATUS_CANCELED);
    choose_start(&red_take, 10, 5000, red);
    close_group(false);
    assert_int_equal(red_take.status, STATUS_SHUTTING_DOWN);
    selector_unref(red);
    selector_unref(blue);
    rig_close();
}

/* A consumer whose selector matches nothing looks at each record once, however often it asks. */
static void test_selector_remembers_its_place(void **state)
{
    (void)state;
    static struct take take;
    struct selector *red = compile("color = 'red'");
    rig_open(1);
    open_group();
    for (uint32_t i = 0; i < 20; i++)
        publish(0, i * 1000, 1000, NULL);
    assert_int_equal(choose(&take, 10, red), 0);
    assert_int_equal(rig.group->choice_count, 1);
    assert_int_equal(rig.group->choices[0]->places[0].cursor, 20000);
    for (int i = 0; i < 10; i++) {
        struct selector *same = compile("color = 'red'");
        publish(0, 20000 + (uint32_t)i, 1, NULL);
        assert_int_equal(choose(&take, 10, same), 0);
        assert_int_equal(rig.group->evaluations, 1);
        selector_unref(same);
    }
    assert_int_equal(rig.group->choice_count, 1);
    assert_int_equal(take_some(&take, 100, 0, LEASE_MS), 100);
    take_drop(&take);
    selector_unref(red);
    rig_close();
}

/* In a fifo queue nobody overtakes a record that somebody else must take first. */
static void test_selector_on_fifo(void **state)
{
    (void)state;
    static struct take take, other;
    struct selector *red = compile("color = 'red'");
    rig_open(1);
    rig.queue->type = QUEUE_FIFO;
    open_group();
    publish_with(0, 0, (struct extras){.group = "A", .color = "red"});
    publish_with(0, 1, (struct extras){.group = "A", .color = "blue"});
    publish_with(0, 2, (struct extras){.group = "A", .color = "red"});
    publish_with(0, 3, (struct extras){.group = "B", .color = "blue"});
    publish_with(0, 4, (struct extras){.group = "C", .color = "red"});
    assert_int_equal(choose(&take, 10, red), 2);
    assert_int_equal(number_of(&take.items[0]), 0);
    assert_int_equal(number_of(&take.items[1]), 4);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(choose(&take, 10, red), 0);
    assert_int_equal(take_some(&other, 2, 0, LEASE_MS), 2);
    assert_int_equal(number_of(&other.items[0]) + number_of(&other.items[1]), 4);
    assert_int_equal(choose(&take, 10, red), 0);
    settle_all(&other, SETTLE_DONE);
    take_drop(&other);
    assert_int_equal(choose(&take, 10, red), 1);
    assert_int_equal(number_of(&take.items[0]), 2);
    take_drop(&take);
    selector_unref(red);
    rig_close();
}

/* Selectors of the group */

static void select_for_group(const char *text)
{
    struct selector *selector = compile(text);
    group_select(rig.group, selector);
    selector_unref(selector);
}

static bool explained;

static void explain_done(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    explained = true;
    loop_stop(rig.loop);
}

static enum record_fate fate_of(uint64_t offset)
{
    struct group_explain explain = {.partition = 100, .offset = offset};
    request_init(&explain.request, rig.loop, explain_done);
    explained = false;
    group_explain(rig.group, &explain);
    while (!explained)
        loop_run(rig.loop);
    return explain.fate;
}

static void test_group_selector_settles_the_rest(void **state)
{
    (void)state;
    static struct take take;
    rig_open(1);
    open_group();
    select_for_group("color <> 'green'");
    for (uint32_t i = 0; i < 9; i++)
        publish_color(i, i % 3 == 0 ? "red" : i % 3 == 1 ? "blue" : "green");
    assert_int_equal(fate_of(2), RECORD_FILTERED); /* nobody has asked yet */
    assert_int_equal(fate_of(3), RECORD_AVAILABLE);
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 6);
    assert_int_equal(number_of(&take.items[2]), 3);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 6);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    assert_int_equal(stat_of(&rig.spec->stat->undone[0]), 9);
    assert_int_equal(stat_of(&rig.spec->stat->acknowledged), 6);
    assert_int_equal(fate_of(2), RECORD_FILTERED);
    assert_int_equal(fate_of(3), RECORD_ACKNOWLEDGED);

    /* A consumer's own holds besides, and so do labels. */
    struct selector *blue = compile("color = 'blue' OR color = 'green'");
    for (uint32_t i = 9; i < 13; i++)
        publish_with(0, i, (struct extras){.color = i % 2 ? "red" : "green", .labels = "x"});
    publish_with(0, 13, (struct extras){.color = "red"});
    publish_with(0, 14, (struct extras){.color = "blue", .labels = "x"});
    choose_start(&take, 10, 0, blue);
    take.take.labels = labels_of(false, "x", NULL);
    take_wait(&take);
    assert_taken(&take, 14, 1);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 3); /* 9 and 11 wait for others */
    assert_int_equal(take_labels(&take, labels_of(false, "x", NULL)), 2);
    take_drop(&take);
    selector_unref(blue);
    rig_close();
}

/* Another one holds from now on: also for what comes back; what was passed over stays done. */
static void test_group_selector_changes(void **state)
{
    (void)state;
    static struct take take;
    rig_open(1);
    open_group();
    select_for_group("color = 'red'");
    for (uint32_t i = 0; i < 6; i++)
        publish_color(i, i % 2 ? "blue" : "red");
    assert_int_equal(take_some(&take, 2, 0, LEASE_MS), 2); /* 0, 2; 1 was passed over */
    select_for_group("color = 'blue'");
    settle_all(&take, SETTLE_RELEASED);
    take_drop(&take);
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 2);
    assert_int_equal(number_of(&take.items[0]), 3);
    assert_int_equal(number_of(&take.items[1]), 5);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    group_select(rig.group, NULL);
    publish_color(6, "green");
    /* One that waits is served by what now is wanted. */
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 1);
    take_drop(&take);
    select_for_group("color = 'red'");
    take_start(&take, 10, 5000, LEASE_MS);
    publish_color(7, "blue");
    publish_color(8, "red");
    take_wait(&take);
    assert_taken(&take, 8, 1);
    take_drop(&take);
    rig_close();
}

/* What the group does not want holds nothing back in a fifo queue. */
static void test_group_selector_on_fifo(void **state)
{
    (void)state;
    static struct take take;
    rig_open(1);
    rig.queue->type = QUEUE_FIFO;
    open_group();
    select_for_group("color = 'red'");
    publish_with(0, 0, (struct extras){.group = "A", .color = "blue"});
    publish_with(0, 1, (struct extras){.group = "A", .color = "red"});
    publish_with(0, 2, (struct extras){.group = "A", .color = "blue"});
    publish_with(0, 3, (struct extras){.group = "A", .color = "red"});
    assert_int_equal(take_some(&take, 1, 0, LEASE_MS), 1);
    assert_int_equal(number_of(&take.items[0]), 1);
    assert_int_equal(fate_of(3), RECORD_BLOCKED);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 1);
    assert_int_equal(number_of(&take.items[0]), 3);
    take_drop(&take);
    rig_close();
}

/* What matches nothing takes turns: others of the loop have theirs between. */
static void test_group_selector_yields(void **state)
{
    (void)state;
    static struct take take;
    enum { BATCHES = 100, PER_BATCH = 2000 };
    rig_open(1);
    open_group();
    select_for_group("color LIKE '%r%e%d%' OR color LIKE '%b%l%u%e%'");
    for (uint32_t i = 0; i < BATCHES; i++)
        publish(0, i * PER_BATCH, PER_BATCH, NULL);
    publish_color(7, "red");
    uint64_t started = clock_monotonic_ns();
    assert_int_equal(take_some(&take, 10, 10000, LEASE_MS), 1);
    uint64_t took = clock_monotonic_ns() - started;
    assert_int_equal(number_of(&take.items[0]), 7);
    assert_true(rig.group->fills > BATCHES * PER_BATCH / 16384);
    print_message("1 record among %u by the group's selector: %.1f ms\n", BATCHES * PER_BATCH,
                  (double)took / 1e6);
    take_drop(&take);
    rig_close();
}

/* Random takes against a model */

enum { NUMBERS = 500, SELECTORS = 4, TAKES = 6, STEPS = 400 };

struct record_state {
    uint32_t color;
    bool labelled, done, leased;
};

static struct record_state records[NUMBERS];
static uint32_t published;
static struct take takes[TAKES];
static struct selector *selectors[SELECTORS]; /* the last is NULL: everything */
static bool with_labels, with_selector;

static bool matches(const struct record_state *record, uint32_t selector)
{
    if ((with_labels && !record->labelled) || (with_selector && record->color == 1))
        return false;
    return selector == 3 || (selector == 2 ? record->color <= 1 : record->color == selector);
}

static uint32_t count_available(uint32_t selector)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < published; i++)
        count += !records[i].done && !records[i].leased && matches(&records[i], selector);
    return count;
}

static void step_publish(void)
{
    static const char *const colors[] = {"red", "blue", "green"};
    for (uint64_t i = pick(8); i > 0 && published < NUMBERS; i--) {
        struct record_state *record = &records[published];
        record->color = (uint32_t)pick(3);
        record->labelled = pick(3) > 0;
        publish_with((uint32_t)pick(2), published,
                     (struct extras){.color = colors[record->color],
                                     .labels = record->labelled ? "good" : "bad"});
        published++;
    }
}

static void step_take(void)
{
    struct take *take = &takes[pick(TAKES)];
    for (uint32_t i = 0; i < take->take.count; i++)
        records[number_of(&take->items[i])].leased = false;
    if (take->take.count > 0)
        settle_all(take, pick(2) ? SETTLE_RELEASED : SETTLE_FAILED);
    take_drop(take);
    uint32_t selector = (uint32_t)pick(SELECTORS), max = 1 + (uint32_t)pick(12);
    uint32_t available = count_available(selector);
    choose_start(take, max, 0, selectors[selector]);
    if (with_labels)
        take->take.labels = labels_of(false, "good", NULL);
    take_wait(take);
    assert_int_equal(take->status, STATUS_OK);
    /* It may be less than there is when bytes must be read. */
    assert_in_range(take->take.count, available > 0, available < max ? available : max);
    for (uint32_t i = 0; i < take->take.count; i++) {
        struct record_state *record = &records[number_of(&take->items[i])];
        assert_false(record->done || record->leased);
        assert_true(matches(record, selector));
        record->leased = true;
    }
}

static void step_settle(void)
{
    struct take *take = &takes[pick(TAKES)];
    for (uint32_t i = 0; i < take->take.count; i++) {
        records[number_of(&take->items[i])].leased = false;
        records[number_of(&take->items[i])].done = true;
    }
    if (take->take.count > 0)
        settle_all(take, SETTLE_DONE);
    take_drop(take);
}

static void open_choosing(void)
{
    open_group();
    if (with_selector)
        select_for_group("color <> 'blue'");
}

static void restart(bool clean)
{
    for (uint32_t i = 0; i < TAKES; i++)
        take_drop(&takes[i]);
    for (uint32_t i = 0; i < published; i++)
        records[i].leased = false;
    if (!clean) {
        crash_and_open();
        if (with_selector)
            select_for_group("color <> 'blue'");
        return;
    }
    close_group(false);
    open_choosing();
}

static void run_seed(uint64_t number)
{
    seed = number * 104729 + 5;
    memset(records, 0, sizeof records);
    published = 0;
    with_labels = number % 2;
    with_selector = number % 4 >= 2;
    rig_open(2);
    open_choosing();
    for (int i = 0; i < STEPS; i++) {
        uint64_t what = pick(100);
        if (what < 25)
            step_publish();
        else if (what < 65)
            step_take();
        else if (what < 97)
            step_settle();
        else if (what < 98)
            feed_drop(&rig.group->parts[pick(2)]);
        else
            restart(what == 98);
    }
    restart(true);
    for (uint32_t i = 0; i < SELECTORS; i++) {
        uint32_t count;
        do {
            static struct take take;
            choose_start(&take, 7, 0, selectors[i]);
            if (with_labels)
                take.take.labels = labels_of(false, "good", NULL);
            take_wait(&take);
            count = take.take.count;
            settle_all(&take, SETTLE_DONE);
            take_drop(&take);
        } while (count > 0);
    }
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    rig_close();
}

static void test_filters_random(void **state)
{
    (void)state;
    static const char *const texts[] = {"color = 'red'", "color = 'blue'",
                                        "color = 'red' OR color = 'blue'"};
    for (int i = 0; i < SELECTORS - 1; i++)
        selectors[i] = compile(texts[i]);
    for (uint64_t i = 0; i < 40; i++)
        run_seed(i);
    for (int i = 0; i < SELECTORS - 1; i++)
        selector_unref(selectors[i]);
}

/* What no record carries is looked for in whole batches. */
static void test_labels_cost(void **state)
{
    (void)state;
    static struct take take;
    enum { BATCHES = 500, PER_BATCH = 2000 };
    rig_open(1);
    open_group();
    for (uint32_t i = 0; i < BATCHES; i++)
        publish(0, i * PER_BATCH, PER_BATCH, NULL);
    publish_with(0, 7, (struct extras){.labels = "x"});
    uint64_t started = clock_monotonic_ns();
    assert_int_equal(take_labels(&take, labels_of(false, "x", NULL)), 1);
    uint64_t took = clock_monotonic_ns() - started;
    take_drop(&take);
    print_message("1 record among %u by label: %.1f ms\n", BATCHES * PER_BATCH, (double)took / 1e6);
    rig_close();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_labels_settle_the_rest),
        cmocka_unit_test(test_labels_any_all_and_invalid),
        cmocka_unit_test(test_labels_while_waiting),
        cmocka_unit_test(test_selector_leaves_the_rest),
        cmocka_unit_test(test_selector_waiters),
        cmocka_unit_test(test_selector_remembers_its_place),
        cmocka_unit_test(test_selector_on_fifo),
        cmocka_unit_test(test_group_selector_settles_the_rest),
        cmocka_unit_test(test_group_selector_changes),
        cmocka_unit_test(test_group_selector_on_fifo),
        cmocka_unit_test(test_group_selector_yields),
        cmocka_unit_test(test_filters_random),
        cmocka_unit_test(test_labels_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
