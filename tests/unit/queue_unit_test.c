/* SPDX-License-Identifier: Apache-2.0 */
/* Settlements that are part of a unit: leases are held while it is under way, all of it takes
 * effect or nothing, and a crash at any moment leaves one of the two. */
/* links: queue net_uv storage_memory */
#include "tests/unit/queue_rig.h"

#include "core/log/table.h"
#include "core/base/pack.h"

enum { COUNT = 6, SHORT_MS = 300 };

struct unit {
    struct group_unit unit;
    struct unit_settlement settlements[COUNT];
    bool done;
    enum status status;
};

static void unit_done(struct request *request, enum status status)
{
    struct unit *unit = container_of(request, struct unit, unit.request);
    unit->done = true;
    unit->status = status;
}

/* Of each outcome something: 0 to 2 are done, 3 has failed, 4 is released, 5 is rejected. */
static const enum settle_outcome outcomes[COUNT] = {
    SETTLE_DONE, SETTLE_DONE, SETTLE_DONE, SETTLE_FAILED, SETTLE_RELEASED, SETTLE_REJECTED};

static void unit_begin(struct unit *unit, const struct take *take, uint64_t number, uint32_t parts)
{
    *unit = (struct unit){.unit = {.settlements = unit->settlements,
                                   .count = take->take.count,
                                   .unit = number,
                                   .part_count = parts}};
    for (uint32_t i = 0; i < take->take.count; i++)
        unit->settlements[i] =
            (struct unit_settlement){.receipt = take->items[i].receipt, .outcome = outcomes[i]};
    request_init(&unit->unit.request, rig.loop, unit_done);
    group_settle_unit(rig.group, &unit->unit);
    assert_false(unit->done);
}

/* The other part: a record to the second partition, or a refusal. */
struct other {
    struct log_append append;
    bool done;
    enum status status;
};

static void other_done(struct request *request, enum status status)
{
    struct other *other = container_of(request, struct other, append.request);
    other->done = true;
    other->status = status;
    batch_unref(other->append.batch);
}

static void other_begin(struct other *other, uint64_t number, enum status refused)
{
    *other = (struct other){
        .append = {.partition = rig.queue->first_partition + 1, .unit = number, .part_count = 2}};
    request_init(&other->append.request, rig.loop, other_done);
    if (refused != STATUS_OK) {
        log_refuse(rig.worker, &other->append, refused);
        return;
    }
    struct batch_builder builder;
    uint32_t value = 1000;
    struct record_input record = {.timestamp_ms = 1, .value = span_of(&value, sizeof value)};
    batch_builder_init(&builder);
    assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
    other->append.batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    log_append(rig.worker, &other->append);
}

static void rig_units(void)
{
    rig_open(2);
    rig.queue->redrive = true;
    rig.queue->max_consume_count = 3;
    open_group();
    publish(0, 0, 10, NULL);
}

static void scan_done(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    loop_stop(rig.loop);
}

/* Rows that units have left. */
static uint32_t rows_left(void)
{
    uint8_t first[9] = {TABLE_GROUP_UNIT}, end[9] = {TABLE_GROUP_UNIT + 1};
    struct storage_scan scan = {.first = span_of(first, sizeof first),
                                .end = span_of(end, sizeof end)};
    request_init(&scan.request, rig.loop, scan_done);
    log_rows_scan(rig.log, &scan);
    loop_run(rig.loop);
    blob_unref(scan.rows);
    return scan.count;
}

static const struct group_item *item_of(const struct take *take, uint32_t number)
{
    for (uint32_t i = 0; i < take->take.count; i++)
        if (number_of(&take->items[i]) == number)
            return &take->items[i];
    return NULL;
}

/* What there is when the unit has taken effect: everybody else's leases have ended. */
static void assert_in_effect(uint32_t from_others)
{
    struct take take;
    run_ms(5);
    assert_int_equal(take_some(&take, 100, 5000, 30000), from_others + 2);
    for (uint32_t i = 0; i < 3; i++)
        assert_null(item_of(&take, i));
    assert_non_null(item_of(&take, 3));
    assert_int_equal(item_of(&take, 3)->failures, 1);
    assert_non_null(item_of(&take, 4));
    assert_int_equal(item_of(&take, 4)->failures, 0);
    take_drop(&take);
    assert_int_equal(take_dead(&take, 100, 5000, 30000), 1);
    assert_int_equal(number_of(&take.items[0]), 5);
    take_drop(&take);
}

static void test_commit(void **state)
{
    (void)state;
    rig_units();
    struct take take, others;
    struct unit unit;
    struct other other;
    assert_int_equal(take_some(&take, COUNT, 0, SHORT_MS), COUNT);
    unit_begin(&unit, &take, 7, 2);
    /* It waits for its other part: the leases do not run out, and are nobody else's. */
    run_ms(SHORT_MS + 100);
    assert_false(unit.done);
    assert_int_equal(take_some(&others, 100, 0, 30000), 4);
    assert_int_equal(number_of(&others.items[0]), 6);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_STALE);
    assert_int_equal(settle_for(&take.items[1].receipt, SETTLE_RENEWED, 1000), STATUS_STALE);
    settle_all(&others, SETTLE_DONE);
    take_drop(&others);
    assert_int_equal(rows_left(), 0);
    assert_int_equal(atomic_load(&rig.queue->stat->partitions[1].end), 0);
    other_begin(&other, 7, STATUS_OK);
    while (!unit.done || !other.done)
        run_ms(1);
    assert_int_equal(unit.status, STATUS_OK);
    assert_int_equal(other.status, STATUS_OK);
    assert_int_equal(atomic_load(&rig.queue->stat->partitions[1].end), 1);
    assert_in_effect(1);              /* the other part's record */
    assert_int_equal(rows_left(), 0); /* deltas say it */
    take_drop(&take);
    close_group(false);
    open_group();
    assert_int_equal(take_some(&take, 100, 5000, 30000), 3);
    assert_int_equal(stat_of(&rig.spec->stat->acknowledged), 3 + 4);
    take_drop(&take);
    rig_close();
}

static void test_refusal(void **state)
{
    (void)state;
    rig_units();
    struct take take, others;
    struct unit unit, second;
    struct other other;
    assert_int_equal(take_some(&take, COUNT, 0, LASTING_MS), COUNT);
    unit_begin(&unit, &take, 7, 2);
    assert_int_equal(settle_one(&take.items[5].receipt, SETTLE_RELEASED), STATUS_STALE);
    /* What is part of one unit cannot be part of another, which is refused as a whole. */
    unit_begin(&second, &take, 8, 2);
    other_begin(&other, 8, STATUS_OK);
    while (!second.done || !other.done)
        run_ms(1);
    assert_int_equal(second.status, STATUS_STALE);
    assert_int_equal(other.status, STATUS_STALE);
    assert_int_equal(atomic_load(&rig.queue->stat->partitions[1].end), 0);
    other_begin(&other, 7, STATUS_DENIED);
    while (!unit.done || !other.done)
        run_ms(1);
    assert_int_equal(unit.status, STATUS_DENIED);
    assert_int_equal(other.status, STATUS_DENIED);
    /* As before: what was given back meanwhile is available, the rest leased, until its deadline.
     */
    assert_int_equal(take_some(&others, 1, 0, 30000), 1);
    assert_int_equal(number_of(&others.items[0]), 5);
    assert_int_equal(others.items[0].failures, 0);
    take_drop(&others);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    take_drop(&take);
    uint32_t count = 0;
    for (unsigned i = 0; i < 10 && count < 4 + 4; i++) {
        count += take_some(&others, 100, 2 * LASTING_MS, 30000);
        take_drop(&others);
    }
    assert_int_equal(count, 4 + 4);
    assert_int_equal(rows_left(), 0);
    rig_close();
}

/* The unit is the last thing that is stored, or is not: no delta says it. */
static void crash(bool stored)
{
    rig_units();
    struct take take;
    struct unit unit;
    assert_int_equal(take_some(&take, COUNT, 0, 30000), COUNT);
    run_ms(5);
    door.crash_at = 1;
    door.crash_stored = stored;
    unit_begin(&unit, &take, 7, 1);
    while (!unit.done)
        run_ms(1);
    take_drop(&take);
    crash_and_open();
    run_ms(5);
    if (stored) {
        assert_in_effect(4);
        assert_int_equal(stat_of(&rig.spec->stat->acknowledged), 3);
    } else {
        assert_int_equal(take_some(&take, 100, 0, 30000), 10);
        take_drop(&take);
    }
    assert_int_equal(rows_left(), 0);
    crash_and_open(); /* the snapshot of the start before says it */
    run_ms(5);
    assert_int_equal(take_some(&take, 100, 0, 30000), stored ? 6 : 10);
    take_drop(&take);
    rig_close();
}

static void test_crash(void **state)
{
    (void)state;
    crash(true);
    crash(false);
}

/* Two at a time that end the other way round: the row of the first must outlive the delta that says
 * the second. */
static void test_overtaken(void **state)
{
    (void)state;
    rig_units();
    struct take first, second;
    struct unit units[2];
    struct other others[2];
    assert_int_equal(take_some(&first, 2, 0, 30000), 2);
    assert_int_equal(take_some(&second, 2, 0, 30000), 2);
    unit_begin(&units[0], &first, 7, 2);
    unit_begin(&units[1], &second, 8, 2);
    other_begin(&others[1], 8, STATUS_OK);
    while (!units[1].done || !others[1].done)
        run_ms(1);
    run_ms(10);
    assert_int_equal(units[1].status, STATUS_OK);
    assert_int_equal(rows_left(), 1); /* of no harm */
    other_begin(&others[0], 7, STATUS_OK);
    while (!units[0].done || !others[0].done)
        run_ms(1);
    run_ms(10);
    assert_int_equal(units[0].status, STATUS_OK);
    assert_int_equal(rows_left(), 0);
    take_drop(&first);
    take_drop(&second);
    crash_and_open();
    run_ms(5);
    assert_int_equal(take_some(&first, 100, 0, 30000), 6 + 2);
    take_drop(&first);
    rig_close();
}

static bool sought;

static void seek_done(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    sought = true;
}

/* A position is not moved while a unit is under way, which would say something of the old one. */
static void test_seek(void **state)
{
    (void)state;
    rig_units();
    struct take take, more;
    struct unit unit, late;
    struct other other;
    struct group_seek seek = {.to = SEEK_EARLIEST};
    assert_int_equal(take_some(&take, 2, 0, 30000), 2);
    assert_int_equal(take_some(&more, 2, 0, 30000), 2);
    unit_begin(&unit, &take, 7, 2);
    request_init(&seek.request, rig.loop, seek_done);
    sought = false;
    group_seek(rig.group, &seek);
    run_ms(20);
    assert_false(sought);
    unit_begin(&late, &more, 8, 1);
    while (!late.done)
        run_ms(1);
    assert_int_equal(late.status, STATUS_STALE);
    other_begin(&other, 7, STATUS_OK);
    while (!unit.done || !other.done || !sought)
        run_ms(1);
    assert_int_equal(unit.status, STATUS_OK);
    take_drop(&take);
    take_drop(&more);
    assert_int_equal(take_some(&take, 100, 5000, 30000), 11);
    take_drop(&take);
    crash_and_open();
    run_ms(5);
    assert_int_equal(take_some(&take, 100, 5000, 30000), 11);
    take_drop(&take);
    rig_close();
}

/* The group goes while a unit is under way: that ends first, and its row goes with the group's. */
static void test_removal(void **state)
{
    (void)state;
    rig_units();
    struct take take;
    struct unit unit;
    struct other other;
    assert_int_equal(take_some(&take, 2, 0, 30000), 2);
    unit_begin(&unit, &take, 7, 2);
    group_close(rig.group, true, NULL);
    rig.group = NULL;
    run_ms(5);
    other_begin(&other, 7, STATUS_OK);
    while (!unit.done || !other.done)
        run_ms(1);
    assert_int_equal(unit.status, STATUS_OK);
    run_ms(10);
    assert_int_equal(rows_left(), 0);
    take_drop(&take);
    /* One that comes for a group that has gone refuses its unit. */
    struct group_unit none = {.unit = 9, .part_count = 2};
    request_init(&none.request, rig.loop, seek_done);
    other_begin(&other, 9, STATUS_OK);
    unit = (struct unit){.unit = none};
    request_init(&unit.unit.request, rig.loop, unit_done);
    group_unit_refuse(rig.log, &unit.unit, STATUS_NOT_FOUND);
    while (!unit.done || !other.done)
        run_ms(1);
    assert_int_equal(unit.status, STATUS_NOT_FOUND);
    assert_int_equal(other.status, STATUS_NOT_FOUND);
    rig_close();
}

static void row_written(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    loop_stop(rig.loop);
}

/* As if a unit had left it. */
static void row_write(const char *value, size_t size)
{
    uint8_t key[17] = {TABLE_GROUP_UNIT};
    store_u64(key + 1, rig.spec->id);
    struct storage_row row = {.change = STORAGE_PUT,
                              .key = span_of(key, sizeof key),
                              .value = span_of(value, size),
                              .offset_at = -1};
    struct log_rows write = {.rows = &row, .row_count = 1};
    request_init(&write.request, rig.loop, row_written);
    log_rows_write(rig.log, &write);
    loop_run(rig.loop);
}

/* A row that outlives what was settled since (another unit was under way): it takes nothing back.
 */
static void test_old_row(void **state)
{
    (void)state;
    rig_units();
    struct take take;
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(take_some(&take, 100, 0, 30000), 10);
        for (uint32_t i = 0; i < take.take.count; i++)
            assert_int_equal(settle_one(&take.items[i].receipt, number_of(&take.items[i]) == 3
                                                                    ? SETTLE_FAILED
                                                                    : SETTLE_RELEASED),
                             STATUS_OK);
        take_drop(&take);
    }
    close_group(false);
    /* Offset 3 has failed once, and waits for a time that is far away. */
    static const char row[] = "\1\144\3\1\1\377\377\377\377\377\377\377\77";
    row_write(row, sizeof row - 1);
    open_group();
    assert_int_equal(take_some(&take, 100, 5000, 30000), 10);
    assert_non_null(item_of(&take, 3));
    assert_int_equal(item_of(&take, 3)->failures, 2);
    take_drop(&take);
    rig_close();
}

/* The queue is changed while a unit is under way: what its row says is what happens. */
static void test_decided_once(void **state)
{
    (void)state;
    rig_units();
    struct take take;
    struct unit unit;
    struct other other;
    assert_int_equal(take_some(&take, COUNT, 0, 30000), COUNT);
    unit_begin(&unit, &take, 7, 2);
    rig.queue->redrive = false;
    other_begin(&other, 7, STATUS_OK);
    while (!unit.done || !other.done)
        run_ms(1);
    rig.queue->redrive = true;
    assert_int_equal(unit.status, STATUS_OK);
    take_drop(&take);
    assert_int_equal(take_dead(&take, 100, 5000, 30000), 1);
    assert_int_equal(number_of(&take.items[0]), 5);
    take_drop(&take);
    rig_close();
}

/* A row that no group has written stops the group, and nothing else. */
static void test_bad_rows(void **state)
{
    static const struct {
        const char *row;
        size_t size;
        enum status status;
    } rows[] = {
        {"", 0, STATUS_MALFORMED},
        {"\0", 1, STATUS_MALFORMED},
        {"\2", 1, STATUS_UNSUPPORTED},
        {"\1\144", 2, STATUS_MALFORMED},
        {"\1\144\3", 3, STATUS_MALFORMED},
        {"\1\145\3\0\144", 5, STATUS_MALFORMED},
        {"\1\143\3\0", 4, STATUS_MALFORMED}, /* another queue's partition */
        {"\1\144\3\2", 4, STATUS_MALFORMED}, /* neither done nor back */
        {"\1\144\3\1\1", 5, STATUS_MALFORMED},
        {"\1\144\3\1\377\377\377\377\377\1\0", 11, STATUS_MALFORMED}, /* failures */
        {"\1\144\3\1\1\0", 6, STATUS_OK},
        {"\1\144\3\0\144\3\1\1\0", 9, STATUS_OK},       /* what is done stays so */
        {"\1\144\377\377\377\377\177\0", 8, STATUS_OK}, /* far beyond everything */
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rig_units();
        close_group(false);
        row_write(rows[i].row, rows[i].size);
        open_group();
        struct take take;
        take_start(&take, 100, 5000, 30000);
        take_wait(&take);
        assert_int_equal(take.status, rows[i].status);
        take_drop(&take);
        rig_close();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit),   cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_crash),    cmocka_unit_test(test_overtaken),
        cmocka_unit_test(test_seek),     cmocka_unit_test(test_removal),
        cmocka_unit_test(test_old_row),  cmocka_unit_test(test_decided_once),
        cmocka_unit_test(test_bad_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
