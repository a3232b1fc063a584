/* SPDX-License-Identifier: Apache-2.0 */
/* Retained records from publish to subscriber: what a new subscription gets, and how it waits. */
#include <time.h>

#include "core/base/clock.h"
#include "core/log/table.h"
#include "tests/unit/broker_rig.h"

static _Atomic int64_t clock_ahead_ms; /* of the wall clock */

static uint64_t real_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int64_t moved_ms(void)
{
    return 1700000000000 + (int64_t)(real_ns() / 1000000) + atomic_load(&clock_ahead_ms);
}

static const struct clock_source moved_clock = {real_ns, moved_ms};

/* expires_ms: from now on; 0: never. */
static void retain_begin(struct peer *peer, const char *topic, const char *value,
                         int64_t expires_ms)
{
    char text[24];
    struct header header = {span_from_text(HEADER_EXPIRES_AT), {0}};
    struct publish_call call = {
        .peer = peer,
        .publish = {.topic = span_from_text(topic), .answer = true, .retain = true},
        .value = value,
        .count = 1,
    };
    if (expires_ms > 0) {
        call.publish.expires_at_ms = clock_wall_ms() + expires_ms;
        snprintf(text, sizeof text, "%lld", (long long)call.publish.expires_at_ms);
        header.value = span_from_text(text);
        call.publish.headers = &header;
        call.publish.header_count = 1;
    }
    if (value[0] == '\0')
        call.publish.body = span_of("", 0);
    on(peer->worker, publish_call_run, &call);
}

static void forget_answers(void *context)
{
    struct peer *peer = context;
    peer->answer_count = 0;
}

static void await_answer(struct peer *peer)
{
    await(peer_look(peer).answers > 0);
    on(peer->worker, forget_answers, peer);
}

static void retain_until(struct peer *peer, const char *topic, const char *value,
                         int64_t expires_ms)
{
    retain_begin(peer, topic, value, expires_ms);
    await_answer(peer);
}

static void retain(struct peer *peer, const char *topic, const char *value)
{
    retain_until(peer, topic, value, 0);
}

/* Topics t/0, t/1, ... with their number as value. */
static void retain_many(struct peer *peer, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        char topic[VALUE_MAX], value[VALUE_MAX];
        snprintf(topic, sizeof topic, "t/%u", i);
        snprintf(value, sizeof value, "%u", i);
        retain(peer, topic, value);
    }
}

static void the_last_of_each_topic_comes_once(void **state)
{
    unsigned workers = *(const unsigned *)*state;
    rig_open(workers);
    struct peer *writer = peer_new(0, "writer");
    retain(writer, "a/x", "old");
    retain(writer, "a/x", "new");
    retain(writer, "a/y", "y");
    retain(writer, "b", "b");
    retain(writer, "gone", "1");
    retain(writer, "gone", "");
    publish_many(writer, "a/z", GUARANTEE_AT_LEAST_ONCE, 1, 1); /* not retained */
    await_answer(writer);
    for (unsigned at = 0; at < workers; at++) {
        struct peer *reader = peer_new(at, "reader");
        assert_int_equal(peer_subscribe(reader, "a/+", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
        await_records(reader, 2);
        for (int i = 0; i < 2; i++)
            assert_string_equal(reader->records[i].value,
                                strcmp(reader->records[i].topic, "a/x") == 0 ? "new" : "y");
        assert_int_equal(peer_subscribe(reader, "gone", GUARANTEE_AT_LEAST_ONCE, 2), STATUS_OK);
        assert_int_equal(peer_subscribe(reader, "b", GUARANTEE_AT_LEAST_ONCE, 3), STATUS_OK);
        await_records(reader, 3);
        assert_string_equal(reader->records[2].topic, "b");
        /* Live from now on, each once. */
        retain(writer, "a/x", at == 0 ? "live" : "new");
        await_records(reader, 4);
        retain(writer, "a/x", "new");
        await_records(reader, 5);
        peer_close(reader);
    }
    peer_close(writer);
    rig_close();
}

static void wishes_are_heard(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *writer = peer_new(0, "writer"), *reader = peer_new(1, "reader");
    retain(writer, "a", "1");
    struct subscribe_item item = {.filter = span_from_text("#"), .retained = RETAINED_NEVER};
    assert_int_equal(peer_subscribe_item(reader, item), STATUS_OK);
    rig_calm();
    item.retained = RETAINED_WHEN_NEW; /* it is not */
    assert_int_equal(peer_subscribe_item(reader, item), STATUS_OK);
    await_records(reader, 0);
    item.retained = RETAINED_ALWAYS;
    assert_int_equal(peer_subscribe_item(reader, item), STATUS_OK);
    await_records(reader, 1);
    item = (struct subscribe_item){.filter = span_from_text("+"), .retained = RETAINED_WHEN_NEW};
    assert_int_equal(peer_subscribe_item(reader, item), STATUS_OK);
    await_records(reader, 2);
    peer_close(reader);
    peer_close(writer);
    rig_close();
}

static void a_walk_waits_for_credit(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *writer = peer_new(0, "writer"), *reader = peer_new(1, "reader");
    retain_many(writer, 300);
    reader->settles = false;
    reader->client.credit = reader->client.credit_max = 7;
    assert_int_equal(peer_subscribe(reader, "t/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    uint32_t seen = 7;
    await_records(reader, seen);
    while (seen < 300) {
        /* What changes meanwhile and was not shown comes live, and once. */
        peer_settle(reader, 7);
        seen = seen + 7 < 300 ? seen + 7 : 300;
        await(peer_look(reader).records >= seen);
    }
    peer_settle(reader, 7);
    await_records(reader, 300);
    bool known[300] = {false};
    for (uint32_t i = 0; i < 300; i++) {
        int number = number_of(reader->records[i].value);
        assert_false(known[number]);
        known[number] = true;
    }
    peer_close(reader);
    peer_close(writer);
    rig_close();
}

static void a_walk_waits_for_room(void **state)
{
    (void)state;
    rig_open(1);
    struct peer *writer = peer_new(0, "writer"), *reader = peer_new(0, "reader");
    retain_many(writer, 300);
    reader->stalled = true;
    reader->queued = LIMIT_CLIENT_OUT_BYTES / 2 - 1000;
    assert_int_equal(peer_subscribe(reader, "t/#", GUARANTEE_AT_MOST_ONCE, 1), STATUS_OK);
    await(peer_look(reader).records > 0);
    rig_calm();
    uint32_t seen = peer_look(reader).records;
    assert_true(seen < 300);
    assert_int_equal(rig_metric("dropped_total", "reason=\"slow\""), 0);
    while (peer_look(reader).records < 300) {
        on(reader->worker, drained_run, reader);
        usleep(1000);
    }
    await_records(reader, 300);
    peer_close(reader);
    peer_close(writer);
    rig_close();
}

/* While the reader walks slowly, topics change: in the end it knows the last value of each. */
static void changes_during_a_walk(void **state)
{
    (void)state;
    rig_open(3);
    enum { TOPICS = 200 };
    struct peer *writer = peer_new(0, "writer"), *reader = peer_new(1, "reader");
    retain_many(writer, TOPICS);
    reader->settles = false;
    reader->client.credit = reader->client.credit_max = 5;
    assert_int_equal(peer_subscribe(reader, "t/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    for (uint32_t i = 0; i < TOPICS; i++) {
        char topic[VALUE_MAX];
        snprintf(topic, sizeof topic, "t/%u", i * 7 % TOPICS);
        if (i % 2 == 0)
            retain(writer, topic, i % 4 == 0 ? "changed" : "");
        peer_settle(reader, 3);
    }
    for (uint32_t before = UINT32_MAX; before != peer_look(reader).records;) {
        before = peer_look(reader).records;
        for (int i = 0; i < 100; i++)
            peer_settle(reader, 5);
        rig_calm();
    }
    const char *last[TOPICS] = {NULL};
    for (uint32_t i = 0; i < reader->record_count; i++) {
        const struct seen_record *record = &reader->records[i];
        last[number_of(record->topic + 2)] = record->value;
    }
    for (uint32_t i = 0; i < TOPICS; i++) {
        uint32_t number = i * 7 % TOPICS;
        char value[VALUE_MAX];
        snprintf(value, sizeof value, "%u", number);
        const char *want = i % 2 != 0 ? value : i % 4 == 0 ? "changed" : "";
        if (last[number] == NULL || strcmp(last[number], want) != 0)
            fail_msg("t/%u: %s instead of %s", number,
                     last[number] == NULL ? "nothing" : last[number], want);
    }
    peer_close(reader);
    peer_close(writer);
    rig_close();
}

/* Subscriptions that are made while a topic is written again and again: each begins with one state
 * and misses none that follows. */
static void nothing_is_missed_around_a_subscribe(void **state)
{
    (void)state;
    rig_open(3);
    struct peer *writer = peer_new(0, "writer");
    retain(writer, "n", "0");
    uint32_t number = 1;
    for (unsigned round = 0; round < 60; round++) {
        struct peer *reader = peer_new(round, "reader");
        for (unsigned i = 0; i < 3; i++) {
            struct publish_call call = {
                .peer = writer,
                .publish = {.topic = span_from_text("n"), .answer = true, .retain = true},
                .first = number++,
                .count = 1,
            };
            on(writer->worker, publish_call_run, &call);
            if (i == round % 3)
                assert_int_equal(
                    peer_subscribe(reader, round % 2 == 0 ? "n" : "#", GUARANTEE_AT_LEAST_ONCE, 1),
                    STATUS_OK);
        }
        await(peer_look(writer).answers >= 3);
        rig_calm();
        writer->answer_count = 0;
        const struct seen_record *records = reader->records;
        uint32_t count = peer_look(reader).records;
        assert_true(count >= 1);
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(number_of(records[i].value), number - count + i);
        peer_close(reader);
    }
    peer_close(writer);
    rig_close();
}

static void a_walk_ends_with_its_subscription(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *writer = peer_new(0, "writer");
    retain_many(writer, 200);
    for (unsigned round = 0; round < 20; round++) {
        struct peer *reader = peer_new(round, "reader");
        reader->settles = false;
        reader->client.credit = reader->client.credit_max = round % 3 + 1;
        assert_int_equal(peer_subscribe(reader, "t/#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
        if (round % 2 == 0)
            await(peer_look(reader).records > 0);
        peer_close(reader);
    }
    peer_close(writer);
    rig_close();
}

static void rows_survive_a_restart(void **state)
{
    (void)state;
    rig_open(2);
    struct peer *writer = peer_new(0, "writer");
    retain(writer, "a", "kept");
    peer_close(writer);
    broker_fall();
    broker_bury();
    broker_rise(3);
    struct peer *reader = peer_new(2, "reader");
    assert_int_equal(peer_subscribe(reader, "a", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    await_records(reader, 1);
    assert_string_equal(reader->records[0].value, "kept");
    peer_close(reader);
    rig_close();
}

/* ------------------------------------------------ what has expired */

struct rows_call {
    struct storage_scan scan;
    atomic_bool done;
};

static void rows_call_done(struct request *request, enum status status)
{
    struct rows_call *call = container_of(request, struct rows_call, scan.request);
    CHECK(status == STATUS_OK);
    atomic_store(&call->done, true);
}

/* Rows of the retained set; few enough for one scan. */
static void rows_read(struct rows_call *call)
{
    static const uint8_t first[] = {TABLE_RETAINED}, end[] = {TABLE_RETAINED + 1};
    *call = (struct rows_call){
        .scan = {.first = span_of(first, 1), .end = span_of(end, 1), .limit = UINT32_MAX}};
    request_init(&call->scan.request, rig.loops[0], rows_call_done);
    rig.storage->ops->scan(rig.storage, &call->scan);
    rig_await(&call->done);
    assert_false(call->scan.more);
}

static uint32_t rows_stored(void)
{
    struct rows_call call;
    rows_read(&call);
    blob_unref(call.scan.rows);
    return call.scan.count;
}

static void sweeping_rig_open(unsigned workers)
{
    clock_use(&moved_clock);
    rig_open(workers);
    broker_fall();
    broker_bury();
    rig.options.sweep_ms = 5;
    broker_rise(workers);
}

static void sweeping_rig_close(void)
{
    rig_close();
    clock_use(NULL);
}

static void rows_that_expire_are_removed(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    struct peer *writer = peer_new(1, "writer");
    int64_t before = rig_metric("retained_expired_total", "");
    for (uint32_t i = 0; i < 300; i++) { /* more than one slice, and more than one write */
        char topic[VALUE_MAX];
        snprintf(topic, sizeof topic, "e/%u", i);
        retain_until(writer, topic, "x", i % 3 == 0 ? 0 : i % 3 == 1 ? 100000 : 200000);
    }
    usleep(50000); /* several passes find nothing */
    assert_int_equal(rows_stored(), 300);
    atomic_fetch_add(&clock_ahead_ms, 150000);
    await(rows_stored() == 200);
    assert_int_equal(rig_metric("retained_expired_total", "") - before, 100);
    /* What comes later is known without a pass over all: */
    retain_until(writer, "e/later", "x", 1000);
    atomic_fetch_add(&clock_ahead_ms, 2000);
    await(rows_stored() == 200);
    /* The last hundred expire while the broker is away. */
    peer_close(writer);
    broker_fall();
    broker_bury();
    atomic_fetch_add(&clock_ahead_ms, 100000);
    broker_rise(3);
    await(rows_stored() == 100);
    struct peer *reader = peer_new(2, "reader");
    assert_int_equal(peer_subscribe(reader, "e/+", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    await_records(reader, 100);
    peer_close(reader);
    sweeping_rig_close();
}

/* The memory engine, but just before a row is removed another record is retained there; and the
 * next retained row can be held back. */
static struct storage *inner;
static atomic_bool holding;
static struct storage_append *_Atomic held;
static _Atomic unsigned slices; /* of the set that were read */
static struct span overtaking_value;
static struct storage_append overtaking_append;
static struct storage_row overtaking_row;
static _Atomic unsigned overtaken;

static void overtaken_done(struct request *request, enum status status)
{
    (void)request;
    CHECK(status == STATUS_OK);
}

static void overtake_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    if (append->row_count == 1 && append->rows[0].change == STORAGE_DELETE_WHEN &&
        atomic_fetch_add(&overtaken, 1) == 0) {
        overtaking_row = (struct storage_row){.change = STORAGE_PUT,
                                              .key = append->rows[0].key,
                                              .value = overtaking_value,
                                              .offset_at = -1};
        overtaking_append = (struct storage_append){.rows = &overtaking_row, .row_count = 1};
        request_init(&overtaking_append.request, rig.loops[0], overtaken_done);
        memory_storage_ops.append(inner, &overtaking_append);
    }
    if (append->row_count == 1 && append->rows[0].change == STORAGE_PUT &&
        append->rows[0].key.data[0] == TABLE_RETAINED && atomic_exchange(&holding, false))
        atomic_store(&held, append);
    else
        memory_storage_ops.append(inner, append);
}

#define PASS_ON(name, type)                                                                        \
    static void pass_##name(struct storage *storage, struct type *call)                            \
    {                                                                                              \
        (void)storage;                                                                             \
        memory_storage_ops.name(inner, call);                                                      \
    }
PASS_ON(read, storage_read)
PASS_ON(trim, storage_trim)
PASS_ON(floor, storage_floor)
PASS_ON(bounds, storage_bounds)

/* A slice that is read and not answered. */
static atomic_bool answer_waits;
static struct storage_scan *_Atomic read_slice;
static void (*slice_done)(struct request *request, enum status status);

static void answer_later(struct request *request, enum status status)
{
    CHECK(status == STATUS_OK);
    atomic_store(&read_slice, container_of(request, struct storage_scan, request));
}

static void answer_now_run(void *context)
{
    struct storage_scan *scan = context;
    scan->request.done = slice_done;
    slice_done(&scan->request, STATUS_OK);
}

static void pass_scan(struct storage *storage, struct storage_scan *scan)
{
    (void)storage;
    atomic_fetch_add(&slices, scan->first.data[0] == TABLE_RETAINED);
    if (scan->first.data[0] == TABLE_RETAINED && atomic_exchange(&answer_waits, false)) {
        slice_done = scan->request.done;
        scan->request.done = answer_later;
    }
    memory_storage_ops.scan(inner, scan);
}

static enum status pass_health(struct storage *storage)
{
    (void)storage;
    return memory_storage_ops.health(inner);
}

static const struct storage_ops overtaking_ops = {
    .name = "overtaking",
    .can = STORAGE_ATOMIC_ROWS,
    .append = overtake_append,
    .read = pass_read,
    .scan = pass_scan,
    .trim = pass_trim,
    .floor = pass_floor,
    .bounds = pass_bounds,
    .health = pass_health,
};

static void overtaking_rig_open(struct storage *overtaking)
{
    *overtaking = (struct storage){.ops = &overtaking_ops};
    broker_fall();
    broker_bury();
    inner = rig.storage;
    rig.storage = overtaking;
    broker_rise(2);
}

static void overtaking_rig_close(void)
{
    broker_fall();
    rig.storage = inner;
    broker_bury();
    broker_rise(1);
    sweeping_rig_close();
}

static void what_is_retained_meanwhile_stays(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    struct storage overtaking;
    struct peer *writer = peer_new(0, "writer");
    int64_t before = rig_metric("retained_expired_total", "");
    retain(writer, "keep", "new");
    struct rows_call call;
    rows_read(&call);
    struct span key;
    size_t at = 0;
    assert_true(storage_scan_next(&call.scan, &at, &key, &overtaking_value));
    peer_close(writer);
    overtaking_rig_open(&overtaking);
    writer = peer_new(0, "writer");
    retain_until(writer, "old", "old", 1000);
    atomic_fetch_add(&clock_ahead_ms, 1001);
    await(atomic_load(&overtaken) > 0);
    usleep(20000);
    assert_int_equal(rows_stored(), 2);
    assert_int_equal(rig_metric("retained_expired_total", ""), before);
    peer_close(writer);
    overtaking_rig_close();
    blob_unref(call.scan.rows);
}

/* However much comes live while rows wait to be shown: what is not of their topics does not touch
 * them. */
static void others_do_not_hold_up_a_walk(void **state)
{
    (void)state;
    enum { TOPICS = 10, OTHERS = 1100 };
    sweeping_rig_open(2);
    struct storage overtaking;
    overtaking_rig_open(&overtaking);
    struct peer *writer = peer_new(0, "writer"), *reader = peer_new(1, "reader");
    retain_many(writer, TOPICS);
    reader->settles = false;
    reader->client.credit = reader->client.credit_max = 5;
    atomic_store(&slices, 0);
    assert_int_equal(peer_subscribe(reader, "#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    await_records(reader, 5);
    struct publish_call call = {
        .peer = writer,
        .publish = {.topic = span_from_text("other"), .answer = true, .retain = true},
        .count = OTHERS,
    };
    on(writer->worker, publish_call_run, &call);
    await_answers(writer, OTHERS);
    retain(writer, "t/0", "changed");
    rig_calm();
    reader->settles = true;
    peer_settle(reader, 5);
    await(peer_look(reader).records >= TOPICS + OTHERS);
    rig_calm();
    assert_int_equal(atomic_load(&slices), 1);
    bool changed = false; /* and stays so */
    for (uint32_t i = 0; i < reader->record_count; i++)
        if (strcmp(reader->records[i].topic, "t/0") == 0)
            changed = strcmp(reader->records[i].value, "changed") == 0;
    assert_true(changed);
    peer_close(reader);
    peer_close(writer);
    overtaking_rig_close();
}

enum { READ_TOPICS = 10, LIVE_TOPICS = 3000, LIVE_TURN = 500 };

struct live_call {
    struct peer *peer;
    uint32_t first;
};

static void live_run(void *context)
{
    const struct live_call *call = context;
    for (uint32_t i = call->first; i < call->first + LIVE_TURN; i++) {
        char topic[VALUE_MAX];
        snprintf(topic, sizeof topic, "t/%u", i);
        struct publish publish = {.topic = span_from_text(topic),
                                  .body = span_from_text("live"),
                                  .answer = true,
                                  .retain = true,
                                  .token = i};
        broker_publish(&call->peer->client, &publish);
    }
}

/* However many topics come live while a slice is read: it is read once, and none of them is shown
 * as it was. */
static void a_slice_is_read_once(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    struct storage overtaking;
    overtaking_rig_open(&overtaking);
    struct peer *writer = peer_new(0, "writer"), *reader = peer_new(1, "reader");
    struct live_call call = {.peer = writer};
    retain_many(writer, READ_TOPICS);
    retain(writer, "still", "as it was");
    atomic_store(&slices, 0);
    atomic_store(&answer_waits, true);
    assert_int_equal(peer_subscribe(reader, "#", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    await(atomic_load(&read_slice) != NULL);
    uint32_t answers = peer_look(writer).answers;
    for (; call.first < LIVE_TOPICS; call.first += LIVE_TURN) {
        on(writer->worker, live_run, &call);
        await_answers(writer, answers + call.first + LIVE_TURN);
    }
    await_records(reader, LIVE_TOPICS);
    on(reader->worker, answer_now_run, atomic_load(&read_slice));
    await_records(reader, LIVE_TOPICS + 1);
    assert_int_equal(atomic_load(&slices), 1);
    assert_string_equal(reader->records[LIVE_TOPICS].value, "as it was");
    peer_close(reader);
    peer_close(writer);
    overtaking_rig_close();
}

static void held_go_on_run(void *context)
{
    (void)context;
    memory_storage_ops.append(inner, atomic_load(&held));
}

/* It expires on its way to the store, and a pass goes by before it is there. */
static void what_comes_late_is_removed_as_well(void **state)
{
    (void)state;
    sweeping_rig_open(2);
    struct storage overtaking;
    overtaking_rig_open(&overtaking);
    struct peer *writer = peer_new(0, "writer"), *late = peer_new(1, "late");
    atomic_store(&overtaken, 1);
    retain_until(writer, "early", "x", 1000);
    atomic_store(&holding, true);
    retain_begin(late, "late", "x", 1000);
    await(atomic_load(&held) != NULL);
    atomic_fetch_add(&clock_ahead_ms, 1001);
    await(rows_stored() == 0);
    on(0, held_go_on_run, NULL);
    await(peer_look(late).answers == 1);
    await(rows_stored() == 0);
    peer_close(late);
    peer_close(writer);
    overtaking_rig_close();
}

static unsigned one = 1, three = 3;

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(the_last_of_each_topic_comes_once, &one),
        cmocka_unit_test_prestate(the_last_of_each_topic_comes_once, &three),
        cmocka_unit_test(wishes_are_heard),
        cmocka_unit_test(a_walk_waits_for_credit),
        cmocka_unit_test(a_walk_waits_for_room),
        cmocka_unit_test(changes_during_a_walk),
        cmocka_unit_test(nothing_is_missed_around_a_subscribe),
        cmocka_unit_test(a_walk_ends_with_its_subscription),
        cmocka_unit_test(rows_survive_a_restart),
        cmocka_unit_test(rows_that_expire_are_removed),
        cmocka_unit_test(what_is_retained_meanwhile_stays),
        cmocka_unit_test(what_comes_late_is_removed_as_well),
        cmocka_unit_test(others_do_not_hold_up_a_walk),
        cmocka_unit_test(a_slice_is_read_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
