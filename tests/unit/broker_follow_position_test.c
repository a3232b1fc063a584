/* SPDX-License-Identifier: Apache-2.0 */
/* Where followers begin and go on: offsets, times, positions in many partitions, the last record.
 */
#include "core/base/clock.h"
#include "core/broker/follow_position.h"
#include "tests/unit/follow_rig.h"

static void from_offset_time_and_position(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    make_queue(source, "q", 1, NULL);
    publish_to_queue(source, "q", 0, 50);
    await_answers(source, 50);
    usleep(20000);
    int64_t between_ms = clock_wall_ms();
    usleep(20000);
    publish_to_queue(source, "q", 50, 50);
    await_answers(source, 100);
    struct follow_options options = {.from = SEEK_OFFSET, .offset = 30};
    struct watcher *watcher = watch_with(reader, "q", options, 1000);
    await_seen(watcher, 70);
    assert_all(watcher, 30, 70);
    unwatch(watcher);
    options = (struct follow_options){
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_TIME, .time_ms = between_ms};
    watcher = watch_with(reader, "q", options, 10);
    await_seen(watcher, 10);
    assert_all(watcher, 50, 10);
    struct buf position;
    buf_init(&position, 100);
    assert_int_equal(follower_position(watcher->follower, &position), STATUS_OK);
    unwatch(watcher);
    options = (struct follow_options){
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_LATEST, .position = buf_span(&position)};
    watcher = watch_with(reader, "q", options, 1000);
    await_seen(watcher, 40);
    assert_all(watcher, 60, 40);
    unwatch(watcher);
    static const char *const bad[] = {"", "1", "1.", "1.2_", "x.1", "1.2 ", "1.2_3", "G.1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) { /* counts as none */
        options.position = span_from_text(bad[i]);
        watcher = watch_with(reader, "q", options, 1000);
        await(look_at(watcher).caught_up > 0);
        assert_int_equal(look_at(watcher).count, 0);
        unwatch(watcher);
    }
    /* An offset to come: whatever comes. */
    options = (struct follow_options){
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_OFFSET, .offset = 1000};
    struct watcher *beyond = watch_with(reader, "q", options, 1000);
    await(look_at(beyond).caught_up > 0);
    /* A time to come: nothing before it, nor what is older and comes now. */
    options = (struct follow_options){.partition = FOLLOW_ALL_PARTITIONS,
                                      .from = SEEK_TIME,
                                      .time_ms = clock_wall_ms() + 1000000};
    watcher = watch_with(reader, "q", options, 1000);
    await(look_at(watcher).caught_up > 0);
    publish_to_queue(source, "q", 100, 10);
    await_answers(source, 110);
    rig_calm();
    assert_int_equal(look_at(watcher).count, 0);
    await_seen(beyond, 10);
    assert_all(beyond, 100, 10);
    unwatch(watcher);
    unwatch(beyond);
    buf_deinit(&position);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

/* What positions cost is no more than what is shown, and who goes on from the last one misses
 * nothing. */
static void positions_of_many_partitions(void **state)
{
    enum { FEW = 4, MANY = 256, RECORDS = 1000 };
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    make_queue(source, "few", FEW, NULL);
    make_queue(source, "many", MANY, NULL);
    struct watcher *few = watch(reader, "few", SEEK_EARLIEST, 0),
                   *many = watch(reader, "many", SEEK_EARLIEST, 0);
    few->asks = many->asks = true;
    buf_init(&few->position, 1000);
    buf_init(&many->position, 100000);
    give_credit(few, RECORDS);
    give_credit(many, RECORDS);
    publish_to_queue(source, "few", 0, RECORDS);
    publish_to_queue(source, "many", 0, RECORDS);
    await_seen(few, RECORDS);
    await_seen(many, RECORDS);
    assert_int_equal(few->said, RECORDS);
    assert_in_range(many->said, 2, 5);
    assert_true(many->said_bytes <= many->shown_bytes + many->position.size);

    /* Of a partition that has not been looked at yet nothing is said, whichever it is. */
    struct follow_options since = {
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_TIME, .time_ms = 1};
    struct watcher *first = watch_with(reader, "few", since, 0);
    struct follow_position read;
    first->asks = true;
    buf_init(&first->position, 1000);
    give_credit(first, 1);
    await_seen(first, 1);
    assert_int_equal(follow_position_read(buf_span(&first->position), &read), STATUS_OK);
    assert_in_range(read.count, 1, FEW - 1);
    buf_deinit(&first->position);
    unwatch(first);

    /* The rest is shown again from the last that was said, in whatever order its marks come. */
    struct buf turned;
    buf_init(&turned, 100000);
    struct span left = buf_span(&many->position);
    while (left.size > 0) {
        size_t at = left.size;
        while (at > 0 && left.data[at - 1] != '_')
            at--;
        buf_append(&turned, left.data + at, left.size - at);
        buf_append_text(&turned, "_");
        left.size = at == 0 ? 0 : at - 1;
    }
    bool shown[RECORDS] = {0};
    uint32_t again = 0;
    buf_append(&turned, many->position.data, 1); /* of one partition the first counts */
    buf_append_text(&turned, ".0");
    struct follow_options options = {.partition = FOLLOW_ALL_PARTITIONS,
                                     .position = buf_span(&turned)};
    struct watcher *watcher = watch_with(reader, "many", options, RECORDS);
    assert_int_equal(watcher->opened, STATUS_OK);
    publish_to_queue(source, "many", RECORDS, 1);
    await(look_at(watcher).caught_up > 0 && look_at(watcher).count > 0 &&
          watcher->seen[look_at(watcher).count - 1].value == RECORDS);
    rig_calm();
    again = look_at(watcher).count - 1;
    assert_in_range(again, 1, RECORDS - 1);
    for (uint32_t i = 0; i < again; i++) {
        assert_false(shown[watcher->seen[i].value]);
        shown[watcher->seen[i].value] = true;
    }
    unwatch(watcher);

    /* No follower says so many. */
    buf_clear(&turned);
    for (unsigned i = 0; i < LIMIT_FOLLOW_PARTITIONS; i++)
        buf_printf(&turned, "%s%x.1", i == 0 ? "" : "_", 0x10000 + i);
    options.position = buf_span(&turned);
    watcher = watch_with(reader, "many", options, RECORDS);
    assert_int_equal(watcher->opened, STATUS_OK);
    unwatch(watcher);
    buf_append_text(&turned, "_1.1");
    options.position = buf_span(&turned);
    watcher = watch_with(reader, "many", options, RECORDS);
    assert_int_equal(watcher->opened, STATUS_INVALID);
    heap_free(watcher);
    buf_deinit(&turned);
    buf_deinit(&few->position);
    buf_deinit(&many->position);
    unwatch(few);
    unwatch(many);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

static void from_the_last_of_each_partition(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *source = peer_new(0, "source"), *reader = peer_new(1, "reader");
    make_queue(source, "q", 1, NULL);
    make_queue(source, "empty", 2, NULL);
    publish_to_queue(source, "q", 0, 400);
    await_answers(source, 400);
    struct follow_options options = {
        .partition = FOLLOW_ALL_PARTITIONS, .from = SEEK_LATEST, .last = true};
    struct watcher *last = watch_with(reader, "q", options, 1000);
    struct watcher *nothing = watch_with(reader, "empty", options, 1000);
    await(look_at(nothing).caught_up > 0);
    await_seen(last, 1);
    /* None of it is wanted: it looks back to the beginning, and shows what comes of others. */
    options.no_local = true;
    struct watcher *others = watch_with(source, "q", options, 1000);
    await(look_at(others).caught_up > 0);
    publish_to_queue(reader, "q", 400, 10);
    publish_to_queue(reader, "empty", 0, 10);
    await_seen(last, 11);
    assert_all(last, 399, 11);
    await_seen(others, 10);
    assert_all(others, 400, 10);
    await_seen(nothing, 10);
    assert_all(nothing, 0, 10);
    unwatch(last);
    unwatch(nothing);
    unwatch(others);
    peer_close(reader);
    peer_close(source);
    rig_close();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_offset_time_and_position),
        cmocka_unit_test(positions_of_many_partitions),
        cmocka_unit_test(from_the_last_of_each_partition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
