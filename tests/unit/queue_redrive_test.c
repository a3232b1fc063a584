/* SPDX-License-Identifier: Apache-2.0 */
/* Moving a group's position, and its dead letters back to the queue: with leases, restarts, and
 * storage that is cut off at every step. */
/* links: queue net_uv storage_memory */
#include "tests/unit/queue_rig.h"

struct seek {
    struct group_seek seek;
    bool done;
    enum status status;
};

static uint64_t seek_partition = 100;

static void seek_done(struct request *request, enum status status)
{
    struct seek *seek = container_of(request, struct seek, seek.request);
    seek->done = true;
    seek->status = status;
    loop_stop(rig.loop);
}

static void seek_start(struct seek *seek, enum seek_to to, uint64_t offset, int64_t time_ms)
{
    *seek = (struct seek){0};
    request_init(&seek->seek.request, rig.loop, seek_done);
    seek->seek.to = to;
    seek->seek.partition = seek_partition;
    seek->seek.offset = offset;
    seek->seek.time_ms = time_ms;
    group_seek(rig.group, &seek->seek);
    assert_false(seek->done);
}

static enum status seek_to(enum seek_to to, uint64_t offset, int64_t time_ms)
{
    struct seek seek;
    seek_start(&seek, to, offset, time_ms);
    while (!seek.done)
        loop_run(rig.loop);
    return seek.status;
}

static enum status answer; /* COUNT: none yet */

static void answer_done(struct request *request, enum status status)
{
    (void)request;
    answer = status;
    loop_stop(rig.loop);
}

static enum status first_answer;

static void first_done(struct request *request, enum status status)
{
    (void)request;
    first_answer = status;
}

static enum status redrive(bool all, const uint64_t *offsets, uint32_t count, const char *label)
{
    struct group_redrive redrive = {
        .all = all, .offsets = offsets, .offset_count = count, .label = span_from_text(label)};
    request_init(&redrive.request, rig.loop, answer_done);
    answer = STATUS_COUNT;
    group_redrive(rig.group, &redrive);
    while (answer == STATUS_COUNT)
        loop_run(rig.loop);
    return answer;
}

static enum status explain_wait(struct group_explain *explain)
{
    request_init(&explain->request, rig.loop, answer_done);
    answer = STATUS_COUNT;
    group_explain(rig.group, explain);
    while (answer == STATUS_COUNT)
        loop_run(rig.loop);
    return answer;
}

static struct group_explain explain(uint64_t partition, uint64_t offset)
{
    struct group_explain explain = {.partition = partition, .offset = offset};
    assert_int_equal(explain_wait(&explain), STATUS_OK);
    return explain;
}

static struct redrive_progress wait_for_redrive(void)
{
    struct group_explain progress = {.progress_only = true};
    do {
        run_ms(1);
    } while (explain_wait(&progress) == STATUS_OK && progress.redrive.running);
    return progress.redrive;
}

static void test_seek(void **state)
{
    (void)state;
    static struct take take, again;
    rig_open(1);
    open_group();
    publish(0, 0, 5, NULL);
    run_ms(20);
    int64_t middle_ms = clock_wall_ms();
    run_ms(5);
    publish(0, 5, 5, NULL);
    assert_int_equal(take_some(&take, 4, 0, 30000), 4);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    assert_int_equal(settle_one(&take.items[1].receipt, SETTLE_FAILED), STATUS_OK);
    assert_int_equal(settle_for(&take.items[2].receipt, SETTLE_RELEASED, 60000), STATUS_OK);

    assert_int_equal(seek_to(SEEK_EARLIEST, 0, 0), STATUS_OK);
    assert_int_equal(settle_one(&take.items[3].receipt, SETTLE_DONE), STATUS_STALE);
    take_drop(&take);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(stat_of(&rig.spec->stat->backlog), 10);
        take_some(&take, 100, 0, 30000);
        assert_taken(&take, 0, 10);
        for (int k = 0; k < 10; k++)
            assert_int_equal(take.items[k].failures, 0);
        take_drop(&take);
        crash_and_open();
    }
    assert_int_equal(seek_to(SEEK_TIME, 0, middle_ms), STATUS_OK);
    take_some(&take, 100, 0, 30000);
    assert_taken(&take, 5, 5);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(seek_to(SEEK_OFFSET, 7, 0), STATUS_OK);
    take_some(&take, 100, 0, 30000);
    assert_taken(&take, 7, 3);
    take_drop(&take);
    assert_int_equal(seek_to(SEEK_OFFSET, 11, 0), STATUS_OUT_OF_RANGE);
    assert_int_equal(take_some(&take, 100, 0, 30000), 0);
    assert_int_equal(seek_to(SEEK_TIME, 0, clock_wall_ms() + 1000), STATUS_OK);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    assert_int_equal(seek_to(SEEK_OFFSET, 3, 0), STATUS_OK);
    assert_int_equal(seek_to(SEEK_LATEST, 0, 0), STATUS_OK);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    crash_and_open();
    take_start(&again, 10, 5000, 30000);
    publish(0, 10, 1, NULL);
    take_wait(&again);
    assert_taken(&again, 10, 1);
    take_drop(&again);

    /* One at a time; wrong partitions; behind a write under way. */
    struct seek first, second;
    struct settle settle;
    enum status result;
    assert_int_equal(seek_to(SEEK_OFFSET, 9, 0), STATUS_OK);
    assert_int_equal(take_some(&take, 10, 0, 30000), 2);
    door.hold = true;
    settle_start(&settle, &take.items[0].receipt, 1, SETTLE_DONE, &result);
    run_ms(5);
    seek_start(&first, SEEK_EARLIEST, 0, 0);
    seek_start(&second, SEEK_LATEST, 0, 0);
    run_ms(5);
    assert_true(second.done && !first.done && !settle.done);
    assert_int_equal(second.status, STATUS_BUSY);
    door_open();
    while (!first.done)
        loop_run(rig.loop);
    assert_true(settle.done);
    assert_int_equal(first.status, STATUS_OK);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 11);
    take_drop(&take);
    seek_partition = 7;
    assert_int_equal(seek_to(SEEK_OFFSET, 9, 0), STATUS_NOT_FOUND);
    seek_partition = 100;

    /* Without room: one that has taken effect will be stored, one behind it is told that it has
     * not; the group ends. */
    door.refuse = STATUS_NO_SPACE;
    seek_start(&first, SEEK_LATEST, 0, 0);
    run_ms(5);
    assert_false(first.done);
    assert_int_equal(seek_to(SEEK_EARLIEST, 0, 0), STATUS_BUSY);
    door.refuse = STATUS_OK;
    while (!first.done)
        loop_run(rig.loop);
    assert_int_equal(first.status, STATUS_OK);
    publish(0, 11, 1, NULL);
    take_some(&take, 1, 0, 30000);
    door.refuse = STATUS_NO_SPACE;
    settle_start(&settle, &take.items[0].receipt, 1, SETTLE_DONE, &result);
    run_ms(5);
    assert_int_equal(seek_to(SEEK_EARLIEST, 0, 0), STATUS_NO_SPACE);
    door.refuse = STATUS_OK;
    while (!settle.done)
        loop_run(rig.loop);
    assert_int_equal(settle.status, STATUS_OK);
    take_drop(&take);
    seek_start(&first, SEEK_TIME, 0, middle_ms);
    close_group(false);
    assert_true(first.done);
    assert_int_equal(first.status, STATUS_SHUTTING_DOWN);
    rig_close();
}

/* Publishes, and makes dead letters of all that is there. */
static void make_dead(uint32_t partition, uint32_t first, uint32_t count)
{
    static struct take take;
    publish(partition, first, count, NULL);
    for (uint32_t taken = 0; taken < count;) {
        taken += take_some(&take, 1000, 1000, 30000);
        if (take.take.count > 0)
            settle_all(&take, SETTLE_REJECTED);
        take_drop(&take);
    }
}

static void rig_redrive(uint32_t partitions)
{
    rig_open(partitions);
    rig.queue->redrive = true;
    open_group();
}

static void test_redrive_all(void **state)
{
    (void)state;
    static struct take take, dead;
    rig_redrive(2);
    make_dead(0, 0, 700);
    make_dead(1, 700, 5);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 705);
    assert_int_equal(take_dead(&dead, 3, 0, 30000), 3); /* stay with who has them */
    struct group_redrive first = {.all = true, .label = span_from_text("")};
    first_answer = STATUS_COUNT;
    request_init(&first.request, rig.loop, first_done);
    group_redrive(rig.group, &first);
    assert_int_equal(redrive(true, NULL, 0, ""), STATUS_BUSY);
    assert_int_equal(first_answer, STATUS_OK);
    struct redrive_progress progress = wait_for_redrive();
    assert_int_equal(progress.total, 702);
    assert_int_equal(progress.moved, 702);
    assert_int_equal(progress.failed, 0);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 3);
    settle_all(&dead, SETTLE_DONE);
    take_drop(&dead);
    crash_and_open();
    assert_int_equal(take_dead(&dead, 10, 5, 30000), 0);
    uint32_t back = 0;
    while (take_some(&take, 1000, 5, 30000) > 0) {
        for (uint32_t i = 0; i < take.take.count; i++) {
            struct record record;
            struct span value;
            batch_record(take.items[i].batch, take.items[i].index, &record);
            assert_false(record_find(&record, "dead-letter-reason", &value));
            assert_int_equal(take.items[i].receipt.partition,
                             100 + (number_of(&take.items[i]) >= 700));
        }
        back += take.take.count;
        settle_all(&take, SETTLE_DONE);
        take_drop(&take);
    }
    assert_int_equal(back, 702);

    /* Told apart for ever: what became of a record, and where to. */
    struct group_explain fate = explain(100, 699);
    assert_int_equal(fate.fate, RECORD_DEAD_LETTERED);
    assert_int_equal(fate.dead_offset, 699);
    assert_int_equal(explain(100, 700).fate, RECORD_ACKNOWLEDGED);
    assert_int_equal(explain(100, 5000).fate, RECORD_NOT_COMMITTED);
    struct group_explain foreign = {.partition = 7};
    assert_int_equal(explain_wait(&foreign), STATUS_NOT_FOUND);
    /* A seek to before them makes them available again. */
    assert_int_equal(seek_to(SEEK_OFFSET, 698, 0), STATUS_OK);
    crash_and_open();
    run_ms(5);
    assert_int_equal(explain(100, 699).fate, RECORD_AVAILABLE);
    assert_int_equal(explain(100, 697).fate, RECORD_DEAD_LETTERED);
    rig_close();
}

static void publish_labeled(uint32_t first, uint32_t count, const char *labels)
{
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (uint32_t number = first; number < first + count; number++) {
        struct header header = {span_from_text(HEADER_LABELS), span_from_text(labels)};
        struct record_input record = {.timestamp_ms = 1,
                                      .value = span_of(&number, sizeof number),
                                      .headers = &header,
                                      .header_count = 1};
        assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
    }
    struct append append = {0};
    request_init(&append.append.request, rig.loop, append_done);
    append.append.partition = rig.queue->first_partition;
    append.append.batch = batch_builder_seal(&builder);
    log_append(rig.worker, &append.append);
    while (!append.done)
        loop_run(rig.loop);
    batch_builder_deinit(&builder);
}

static void test_redrive_some(void **state)
{
    (void)state;
    static struct take take;
    rig_redrive(1);
    publish_labeled(0, 4, "red");
    publish_labeled(4, 4, "blue,red");
    publish_labeled(8, 4, "blue");
    make_dead(0, 12, 1);
    assert_int_equal(stat_of(&rig.spec->stat->dead), 13);
    static const uint64_t offsets[] = {8, 2, 8, 77, 2};
    assert_int_equal(redrive(false, offsets, 5, ""), STATUS_OK);
    struct redrive_progress progress = wait_for_redrive();
    assert_int_equal(progress.total, 5);
    assert_int_equal(progress.moved, 2);
    assert_int_equal(progress.failed, 1);
    take_some(&take, 100, 5, 30000);
    assert_int_equal(take.take.count, 2);
    assert_int_equal(number_of(&take.items[0]), 2);
    assert_int_equal(number_of(&take.items[1]), 8);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);

    assert_int_equal(redrive(true, NULL, 0, "red"), STATUS_OK);
    progress = wait_for_redrive();
    assert_int_equal(progress.total, 7);
    assert_int_equal(progress.moved, 7);
    take_some(&take, 100, 5, 30000);
    assert_int_equal(take.take.count, 7);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    assert_int_equal(take_dead(&take, 100, 0, 30000), 4);
    assert_taken(&take, 9, 4);
    take_drop(&take);

    /* No room in the queue: it ends, and the dead letters stay. */
    close_group(false);
    open_group();
    run_ms(5);
    door.refuse_batches = STATUS_NO_SPACE;
    assert_int_equal(redrive(true, NULL, 0, ""), STATUS_OK);
    progress = wait_for_redrive();
    assert_int_equal(progress.moved, 0);
    assert_int_equal(progress.failed, 4);
    door.refuse_batches = STATUS_OK;
    assert_int_equal(take_dead(&take, 100, 0, 30000), 4);
    take_drop(&take);
    rig_close();
}

/* Each record is in exactly one place, wherever storage is cut off. */
static void test_redrive_crash_everywhere(void **state)
{
    (void)state;
    enum { COUNT = 600 };
    static struct take take;
    bool crashed = true;
    unsigned at = 1;
    for (; crashed; at++)
        for (int stored = 0; stored < 2; stored++) {
            uint8_t seen[COUNT] = {0};
            rig_redrive(2);
            make_dead(0, 0, 400);
            make_dead(1, 400, 200);
            assert_int_equal(stat_of(&rig.spec->stat->dead), COUNT);
            run_ms(2);
            door.crash_at = at;
            door.crash_stored = stored;
            assert_int_equal(redrive(true, NULL, 0, ""), STATUS_OK);
            wait_for_redrive();
            run_ms(2);
            crashed = door.down;
            crash_and_open();
            for (int dead = 0; dead < 2; dead++) {
                take_begin(&take, 1000, 20, 30000, dead);
                take_wait(&take);
                for (uint32_t i = 0; i < take.take.count; i++)
                    seen[number_of(&take.items[i])]++;
                take_drop(&take);
                take_begin(&take, 1000, 0, 30000, dead);
                take_wait(&take);
                for (uint32_t i = 0; i < take.take.count; i++)
                    seen[number_of(&take.items[i])]++;
                take_drop(&take);
            }
            for (uint32_t i = 0; i < COUNT; i++)
                assert_int_equal(seen[i], 1);
            rig_close();
        }
    assert_true(at > 4);
}

/* What is asked while the group reads its rows back is answered when it has. */
static void test_early(void **state)
{
    (void)state;
    static struct take take;
    rig_redrive(1);
    make_dead(0, 0, 10);
    close_group(false);
    open_group();
    struct group_explain early = explain(100, 3);
    assert_int_equal(early.fate, RECORD_DEAD_LETTERED);
    assert_int_equal(early.dead_offset, 3);
    close_group(false);
    open_group();
    assert_int_equal(redrive(true, NULL, 0, ""), STATUS_OK);
    assert_int_equal(wait_for_redrive().moved, 10);
    assert_int_equal(take_some(&take, 20, 5000, 30000), 10);
    take_drop(&take);

    close_group(false);
    open_group();
    struct group_redrive redrive = {.all = true};
    struct group_explain explain = {.partition = 100, .offset = 3};
    request_init(&redrive.request, rig.loop, answer_done);
    request_init(&explain.request, rig.loop, answer_done);
    group_redrive(rig.group, &redrive);
    group_explain(rig.group, &explain);
    close_group(false);
    run_ms(5);
    assert_int_equal(redrive.request.status, STATUS_SHUTTING_DOWN);
    assert_int_equal(explain.request.status, STATUS_SHUTTING_DOWN);
    rig_close();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seek),         cmocka_unit_test(test_redrive_all),
        cmocka_unit_test(test_redrive_some), cmocka_unit_test(test_redrive_crash_everywhere),
        cmocka_unit_test(test_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
