/* SPDX-License-Identifier: Apache-2.0 */
/* Why a record is, or is not, handed out: every fate there is. */
/* links: queue net_uv storage_memory */
#include "tests/unit/queue_rig.h"

#include "core/base/limits.h"

enum { LEASE_MS = 30000 };

static bool explained;

static void explain_done(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    explained = true;
    loop_stop(rig.loop);
}

static struct group_explain explain(uint64_t offset)
{
    struct group_explain explain = {.partition = 100, .offset = offset};
    request_init(&explain.request, rig.loop, explain_done);
    explained = false;
    group_explain(rig.group, &explain);
    while (!explained)
        loop_run(rig.loop);
    return explain;
}

static enum record_fate fate_of(uint64_t offset)
{
    return explain(offset).fate;
}

static void open_queue(enum queue_type type)
{
    rig_open(1);
    rig.queue->type = type;
    rig.queue->redrive = true;
    rig.queue->max_consume_count = 2;
    open_group();
    run_ms(2);
}

static uint32_t take_red(struct take *take, uint32_t max)
{
    take_start(take, max, 0, LEASE_MS);
    take->take.labels.labels[take->take.labels.count++] = span_from_text("red");
    take_wait(take);
    return take->take.count;
}

static void test_standard(void **state)
{
    (void)state;
    static struct take take;
    open_queue(QUEUE_STANDARD);
    publish(0, 0, 6, NULL);
    assert_int_equal(fate_of(0), RECORD_AVAILABLE);
    assert_int_equal(fate_of(6), RECORD_NOT_COMMITTED);
    assert_int_equal(take_some(&take, 5, 0, LEASE_MS), 5);
    struct group_explain leased = explain(0);
    assert_int_equal(leased.fate, RECORD_LEASED);
    assert_true(leased.until_ms > clock_wall_ms() + LEASE_MS / 2);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    assert_int_equal(fate_of(0), RECORD_ACKNOWLEDGED);
    assert_int_equal(settle_for(&take.items[1].receipt, SETTLE_FAILED, 60000), STATUS_OK);
    struct group_explain delayed = explain(1);
    assert_int_equal(delayed.fate, RECORD_DELAYED);
    assert_int_equal(delayed.failures, 1);
    assert_true(delayed.until_ms > clock_wall_ms() + 30000);
    assert_int_equal(settle_one(&take.items[2].receipt, SETTLE_REJECTED), STATUS_OK);
    run_ms(10);
    assert_int_equal(fate_of(2), RECORD_DEAD_LETTERED);
    /* Parked: it has failed, which is not stored yet. */
    struct settle settle;
    enum status result;
    door.hold = true;
    settle_start(&settle, &take.items[3].receipt, 1, SETTLE_FAILED, &result);
    run_ms(2);
    assert_int_equal(fate_of(3), RECORD_PARKED);
    door_open();
    while (!settle.done)
        loop_run(rig.loop);
    assert_int_equal(fate_of(3), RECORD_AVAILABLE);
    assert_int_equal(explain(3).failures, 1);
    take_drop(&take);
    rig_close();
}

/* Passed over because it has expired, or settled before it did: both are done. */
static void test_expired(void **state)
{
    (void)state;
    static struct take take;
    char soon[24];
    open_queue(QUEUE_STANDARD);
    int64_t soon_ms = clock_wall_ms() + LASTING_MS;
    snprintf(soon, sizeof soon, "%lld", (long long)soon_ms);
    publish(0, 0, 1, soon);
    publish(0, 1, 3, "1000");
    publish(0, 4, 1, NULL);
    assert_int_equal(fate_of(0), RECORD_AVAILABLE);
    assert_int_equal(fate_of(1), RECORD_EXPIRED); /* before anybody has asked for it, too */
    assert_int_equal(take_some(&take, 5, 0, LEASE_MS), 2);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    while (clock_wall_ms() <= soon_ms)
        run_ms(10);
    for (uint64_t i = 1; i < 4; i++)
        assert_int_equal(fate_of(i), RECORD_EXPIRED);
    assert_int_equal(fate_of(0), RECORD_ACKNOWLEDGED);
    assert_int_equal(fate_of(4), RECORD_ACKNOWLEDGED);
    /* Nobody knows any more after a restart; without an expiry there is no question. */
    crash_and_open();
    run_ms(5);
    assert_int_equal(fate_of(0), RECORD_EXPIRED);
    assert_int_equal(fate_of(2), RECORD_EXPIRED);
    assert_int_equal(fate_of(4), RECORD_ACKNOWLEDGED);
    /* More separate ones than are remembered. */
    for (uint32_t i = 0; i < 40; i++)
        publish(0, 5 + i, 1, i % 2 == 0 ? "1000" : NULL);
    while (take_some(&take, 1, 1, LEASE_MS) > 0) {
        settle_all(&take, SETTLE_DONE);
        take_drop(&take);
    }
    for (uint64_t i = 0; i < 40; i++)
        assert_int_equal(fate_of(5 + i), i % 2 == 0 ? RECORD_EXPIRED : RECORD_ACKNOWLEDGED);
    rig_close();
}

static void test_filtered(void **state)
{
    (void)state;
    static struct take take;
    open_queue(QUEUE_STANDARD);
    const char *const labels[] = {"red", "blue", "red", "blue"};
    for (uint32_t i = 0; i < 4; i++)
        publish_with(0, i, (struct extras){.labels = labels[i]});
    assert_int_equal(fate_of(1), RECORD_AVAILABLE); /* nobody has said what the group wants */
    assert_int_equal(take_red(&take, 1), 1);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(fate_of(0), RECORD_ACKNOWLEDGED);
    assert_int_equal(fate_of(1), RECORD_FILTERED);
    assert_int_equal(fate_of(2), RECORD_AVAILABLE);
    assert_int_equal(fate_of(3), RECORD_FILTERED);
    crash_and_open();
    run_ms(5);
    assert_int_equal(fate_of(1), RECORD_FILTERED);
    assert_int_equal(fate_of(2), RECORD_AVAILABLE);
    rig_close();
}

static void test_blocked(void **state)
{
    (void)state;
    static struct take take;
    open_queue(QUEUE_FIFO);
    const char *const groups[] = {"a", "b", "a", "c", "b", "a"};
    for (uint32_t i = 0; i < 6; i++)
        publish_with(0, i, (struct extras){.group = groups[i]});
    /* Before anybody has asked for anything. */
    for (uint64_t i = 0; i < 6; i++)
        assert_int_equal(fate_of(i), i < 2 || i == 3 ? RECORD_AVAILABLE : RECORD_BLOCKED);
    assert_string_equal(explain(2).key, "a");
    assert_false(explain(2).too_far);
    assert_int_equal(take_some(&take, 1, 0, LEASE_MS), 1);
    assert_int_equal(fate_of(0), RECORD_LEASED);
    assert_int_equal(fate_of(1), RECORD_AVAILABLE);
    assert_int_equal(fate_of(2), RECORD_BLOCKED);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    assert_int_equal(fate_of(2), RECORD_AVAILABLE);
    assert_int_equal(fate_of(5), RECORD_BLOCKED);
    take_drop(&take);
    /* What is expired stands in nobody's way. */
    publish_with(0, 6, (struct extras){.group = "d", .expires = "1000"});
    publish_with(0, 7, (struct extras){.group = "d"});
    assert_int_equal(fate_of(6), RECORD_EXPIRED);
    assert_int_equal(fate_of(7), RECORD_AVAILABLE);
    rig_close();
}

static void test_too_far(void **state)
{
    (void)state;
    open_queue(QUEUE_FIFO);
    publish_with(0, 0, (struct extras){.group = "first"});
    for (uint32_t i = 0; i < LIMIT_LOOK_AHEAD / 4096 + 1; i++)
        publish(0, 1 + i * 4096, 4096, NULL);
    publish_with(0, 1, (struct extras){.group = "last"});
    uint64_t last = 1 + (LIMIT_LOOK_AHEAD / 4096 + 1) * 4096;
    struct group_explain explained_last = explain(last);
    assert_int_equal(explained_last.fate, RECORD_BLOCKED);
    assert_true(explained_last.too_far);
    assert_string_equal(explained_last.key, "last");
    assert_int_equal(fate_of(1), RECORD_AVAILABLE);
    assert_int_equal(fate_of(5000), RECORD_BLOCKED);
    rig_close();
}

static void test_behind_retention(void **state)
{
    (void)state;
    open_queue(QUEUE_STANDARD);
    publish(0, 0, 5, NULL);
    static struct log_purge purge;
    purge = (struct log_purge){.partition = 100};
    request_init(&purge.request, rig.loop, explain_done);
    explained = false;
    log_purge(rig.worker, &purge);
    while (!explained)
        loop_run(rig.loop);
    assert_int_equal(fate_of(3), RECORD_BEHIND_RETENTION);
    assert_int_equal(fate_of(5), RECORD_NOT_COMMITTED);
    rig_close();
}

static struct group_survey survey(uint64_t partition, uint64_t from)
{
    struct group_survey survey = {.partition = partition, .from = from};
    request_init(&survey.request, rig.loop, explain_done);
    explained = false;
    group_survey(rig.group, &survey);
    while (!explained)
        loop_run(rig.loop);
    return survey;
}

/* For who reads along: what lies behind the group, also before it has been opened. */
static void test_survey(void **state)
{
    (void)state;
    static struct take take;
    enum { COUNT = SURVEY_OFFSETS + 100 };
    rig_open(1);
    open_group();
    struct group_survey early = survey(100, 7);
    assert_int_equal(early.from, 7); /* not there yet, and not done */
    assert_false(survey_is_done(&early, 7));
    publish(0, 0, COUNT, NULL);
    for (uint32_t taken = 0; taken < COUNT;) {
        taken += take_some(&take, LIMIT_TAKE_RECORDS, 1000, LEASE_MS);
        assert_true(take.take.count > 0);
        for (uint32_t i = 0; i < take.take.count; i++) {
            uint64_t offset = take.items[i].receipt.offset;
            if (offset < 10 || (offset % 2 == 0 && offset > 20) || offset >= SURVEY_OFFSETS)
                assert_int_equal(settle_one(&take.items[i].receipt, SETTLE_DONE), STATUS_OK);
        }
        take_drop(&take);
    }
    struct group_survey found = survey(100, 0);
    assert_int_equal(found.from, 10);
    for (uint64_t offset = 0; offset < 10 + SURVEY_OFFSETS; offset++) {
        bool done = offset < 10 || (offset % 2 == 0 && offset > 20) || offset >= SURVEY_OFFSETS;
        assert_int_equal(survey_is_done(&found, offset), done);
    }
    assert_false(survey_is_done(&found, 10 + SURVEY_OFFSETS)); /* not looked at */
    assert_int_equal(survey(100, SURVEY_OFFSETS).from, COUNT);
    assert_int_equal(survey(100, COUNT + 5).from, COUNT + 5);
    rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_standard), cmocka_unit_test(test_expired),
        cmocka_unit_test(test_filtered), cmocka_unit_test(test_blocked),
        cmocka_unit_test(test_too_far),  cmocka_unit_test(test_behind_retention),
        cmocka_unit_test(test_survey),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
