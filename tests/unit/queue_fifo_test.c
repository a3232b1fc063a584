/* SPDX-License-Identifier: Apache-2.0 */
/* Message groups: the table of keys against a naive model, and fifo queues under takes, failures,
 * delays, dead letters and restarts. What must hold: a record is handed out only when all earlier
 * ones of its group are settled, or go out with it. */
/* links: queue net_uv storage_memory */
#include "tests/unit/dice.h"
#include "tests/unit/queue_rig.h"

#include "core/queue/fifo.h"

enum { LEASE_MS = 30000 };

/* The table of keys alone */

enum { OFFSETS = 4000, KEYS = 12 };
enum place_of { UNMET, WAITING, HELD, GONE };

static struct {
    uint32_t key;
    enum place_of place;
    uint64_t take;
} model[OFFSETS];
static uint64_t model_met;

static bool model_is_ready(uint64_t offset, uint64_t take)
{
    if (model[offset].place != WAITING)
        return false;
    uint64_t last_take = 0;
    bool held = false, other = false;
    for (uint64_t i = 0; i < model_met; i++) {
        if (model[i].key != model[offset].key)
            continue;
        if (model[i].place == WAITING && i < offset)
            return false;
        if (model[i].place != HELD)
            continue;
        held = true;
        other |= model[i].take != take;
        last_take = model[i].take;
    }
    return !held || (take != 0 && !other && last_take == take);
}

/* Offsets of which something has come back since, so that the take may get no more of the key. */
static void model_end_take(uint32_t key)
{
    for (uint64_t i = 0; i < model_met; i++)
        if (model[i].key == key && model[i].place == HELD)
            model[i].take = 0;
}

static void model_check(const struct fifo *fifo, uint64_t take)
{
    uint32_t waiting = 0;
    for (uint64_t i = 0; i < model_met; i++) {
        waiting += model[i].place == WAITING;
        assert_int_equal(fifo_is_ready(fifo, i, take), model_is_ready(i, take));
        assert_int_equal(fifo_is_blocked(fifo, i),
                         model[i].place == WAITING && !model_is_ready(i, 0));
    }
    assert_int_equal(fifo_waiting(fifo), waiting);
}

/* Every offset that is ready is offered to a reader that has taken everything it was offered. */
static void model_check_offers(const struct fifo *fifo, const struct offers *offers)
{
    for (uint64_t i = 0; i < model_met; i++) {
        bool offered = false;
        for (uint32_t k = 0; k < offers->count; k++)
            offered |= offers->offsets[k] == i;
        if (fifo_is_ready(fifo, i, 0))
            assert_true(offered);
    }
}

static bool is_ready(void *context, uint64_t offset)
{
    return fifo_is_ready(context, offset, 0);
}

static void model_run(uint64_t number)
{
    seed = number;
    model_met = 0;
    memset(model, 0, sizeof model);
    struct offers offers;
    offers_init(&offers);
    struct fifo *fifo = fifo_new(&offers);
    struct offer_reader reader = {0};
    offers_join(&offers, &reader);
    uint64_t take = 1;
    for (int step = 0; step < 1500; step++) {
        uint64_t what = pick(100), offset;
        if (what < 30 && model_met < 300) {
            bool held = pick(20) == 0;
            model[model_met].key = (uint32_t)pick(KEYS);
            model[model_met].place = held ? HELD : WAITING;
            if (held)
                model_end_take(model[model_met].key);
            model_met++;
            fifo_meet(fifo, model[model_met - 1].key, model_met - 1, held);
        } else if (what < 60) {
            if (pick(3) == 0)
                take++;
            while (offers_peek(&offers, &reader, &offset) && !fifo_is_ready(fifo, offset, take))
                reader.place++;
            if (offers_peek(&offers, &reader, &offset)) {
                fifo_take(fifo, offset, take);
                model[offset].place = HELD;
                model[offset].take = take;
            }
        } else if (what < 97 && model_met > 0) {
            offset = pick(model_met);
            uint32_t key = model[offset].key;
            if (model[offset].place == HELD && pick(2)) {
                model[offset].place = WAITING;
                model_end_take(key);
                fifo_returned(fifo, offset);
            } else if (model[offset].place != GONE &&
                       pick(model[offset].place == HELD ? 1 : 10) == 0) {
                model[offset].place = GONE;
                fifo_resolved(fifo, offset, offset + 1);
            }
        } else if (what < 98 && model_met > 0) {
            uint64_t from = pick(model_met), to = from + pick(200);
            for (uint64_t i = from; i < to && i < model_met; i++)
                model[i].place = GONE;
            fifo_resolved(fifo, from, to);
        } else {
            offers_tidy(&offers, is_ready, fifo);
        }
        if (step % 16 == 0) {
            model_check(fifo, take);
            model_check_offers(fifo, &offers);
        }
    }
    offers_leave(&reader);
    fifo_free(fifo);
    offers_deinit(&offers);
}

static void test_fifo_model(void **state)
{
    (void)state;
    for (uint64_t i = 1; i <= 200; i++)
        model_run(i);
}

/* Fifo queues */

static void rig_fifo(void)
{
    rig_open(1);
    rig.queue->type = QUEUE_FIFO;
    open_group();
}

static void publish_group(uint32_t number, const char *group)
{
    publish_with(0, number, (struct extras){.group = group});
}

static void assert_numbers(const struct take *take, const uint32_t *numbers, uint32_t count)
{
    assert_int_equal(take->take.count, count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(number_of(&take->items[i]), numbers[i]);
}
#define ASSERT_NUMBERS(take, ...)                                                                  \
    assert_numbers(take, (const uint32_t[]){__VA_ARGS__},                                          \
                   sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

/* Without groups and keys there is one order for all: while a batch is out, nobody gets more. */
static void test_fifo_global_order(void **state)
{
    (void)state;
    static struct take take, other;
    rig_fifo();
    publish(0, 0, 10, NULL);
    take_some(&take, 4, 0, LEASE_MS);
    assert_taken(&take, 0, 4);
    assert_int_equal(take_some(&other, 4, 20, LEASE_MS), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(settle_one(&take.items[i].receipt, SETTLE_DONE), STATUS_OK);
        assert_int_equal(take_some(&other, 4, 0, LEASE_MS), 0);
    }
    assert_int_equal(settle_one(&take.items[3].receipt, SETTLE_DONE), STATUS_OK);
    take_drop(&take);
    take_some(&take, 100, 0, LEASE_MS);
    assert_taken(&take, 4, 6);
    /* The first fails: those behind it come again after it. */
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_FAILED), STATUS_OK);
    for (int i = 5; i > 0; i--) {
        assert_int_equal(take_some(&other, 4, 0, LEASE_MS), 0);
        assert_int_equal(settle_one(&take.items[i].receipt, SETTLE_RELEASED), STATUS_OK);
    }
    take_drop(&take);
    take_some(&take, 100, 0, LEASE_MS);
    assert_taken(&take, 4, 6);
    assert_int_equal(take.items[0].failures, 1);
    assert_int_equal(take.items[1].failures, 0);
    take_drop(&take);
    rig_close();
}

static void test_fifo_other_groups_go_on(void **state)
{
    (void)state;
    static struct take a, b, take;
    rig_fifo();
    publish_group(0, "A");
    publish_with(0, 1, (struct extras){.key = "A"}); /* a key is as good as a group */
    publish_group(2, "B");
    publish_group(3, "A");
    publish_with(0, 4, (struct extras){.key = "A", .group = "C"}); /* the group goes first */
    publish_group(5, "B");
    take_some(&a, 2, 0, LEASE_MS);
    ASSERT_NUMBERS(&a, 0, 1);
    take_some(&b, 10, 0, LEASE_MS);
    ASSERT_NUMBERS(&b, 2, 4, 5);
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 0);
    settle_all(&b, SETTLE_DONE);
    assert_int_equal(take_some(&take, 10, 0, LEASE_MS), 0);
    /* A waiter is served as soon as the group is free. */
    static struct take waiting;
    take_start(&waiting, 10, 5000, LEASE_MS);
    settle_all(&a, SETTLE_DONE);
    take_wait(&waiting);
    ASSERT_NUMBERS(&waiting, 3);
    settle_all(&waiting, SETTLE_DONE);
    take_drop(&a);
    take_drop(&b);
    take_drop(&waiting);
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
    rig_close();
}

static void test_fifo_blocked_after_failures(void **state)
{
    (void)state;
    static struct take take, other;
    rig_fifo();
    for (uint32_t i = 0; i < 4; i++)
        publish_group(i, i % 2 ? "B" : "A");
    take_some(&take, 1, 0, LEASE_MS);
    ASSERT_NUMBERS(&take, 0);
    /* Not before its time; the other group goes on. */
    int64_t began_ms = clock_wall_ms();
    assert_int_equal(settle_for(&take.items[0].receipt, SETTLE_FAILED, LASTING_MS), STATUS_OK);
    take_drop(&take);
    take_some(&other, 10, 0, LEASE_MS);
    ASSERT_NUMBERS(&other, 1, 3);
    settle_all(&other, SETTLE_DONE);
    take_drop(&other);
    take_some(&take, 1, 2 * LASTING_MS, 40);
    ASSERT_NUMBERS(&take, 0);
    assert_true(clock_wall_ms() - began_ms >= LASTING_MS);
    take_drop(&take);
    /* Its lease runs out. */
    take_some(&take, 10, 5000, LEASE_MS);
    ASSERT_NUMBERS(&take, 0, 2);
    assert_int_equal(take.items[0].failures, 2);
    settle_all(&take, SETTLE_DONE);
    take_drop(&take);
    rig_close();
}

static void test_fifo_dead_letter_frees_the_group(void **state)
{
    (void)state;
    static struct take take;
    rig_open(1);
    rig.queue->type = QUEUE_FIFO;
    rig.queue->redrive = true;
    rig.queue->max_consume_count = 2;
    open_group();
    for (uint32_t i = 0; i < 6; i++)
        publish_group(i, "A");
    for (int i = 0; i < 2; i++) {
        take_some(&take, 1, 5000, LEASE_MS);
        ASSERT_NUMBERS(&take, 0);
        assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_FAILED), STATUS_OK);
        take_drop(&take);
    }
    take_some(&take, 1, 5000, LEASE_MS);
    ASSERT_NUMBERS(&take, 1);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_REJECTED), STATUS_OK);
    take_drop(&take);
    take_some(&take, 1, 5000, LEASE_MS);
    ASSERT_NUMBERS(&take, 2);
    take_drop(&take);
    /* Dead letters are in order, too. */
    static struct take dead;
    take_dead(&dead, 1, 5000, LEASE_MS);
    ASSERT_NUMBERS(&dead, 0);
    assert_int_equal(take_dead(&take, 1, 0, LEASE_MS), 0);
    settle_all(&dead, SETTLE_DONE);
    take_drop(&dead);
    take_dead(&dead, 10, 5000, LEASE_MS);
    ASSERT_NUMBERS(&dead, 1);
    take_drop(&dead);
    rig_close();
}

static void test_fifo_restart(void **state)
{
    (void)state;
    static struct take take, other;
    rig_fifo();
    for (uint32_t i = 0; i < 9; i++)
        publish_group(i, i % 3 == 0 ? "A" : i % 3 == 1 ? "B" : "C");
    take_some(&take, 9, 0, LEASE_MS);
    ASSERT_NUMBERS(&take, 0, 1, 2, 3, 4, 5, 6, 7, 8);
    /* A: the first is delayed, the second done, the third out. B: all out. C: the first done. */
    assert_int_equal(settle_for(&take.items[0].receipt, SETTLE_RELEASED, 150), STATUS_OK);
    assert_int_equal(settle_one(&take.items[3].receipt, SETTLE_DONE), STATUS_OK);
    assert_int_equal(settle_one(&take.items[2].receipt, SETTLE_DONE), STATUS_OK);
    take_drop(&take);
    close_group(false);
    open_group();
    take_some(&take, 9, 0, LEASE_MS);
    ASSERT_NUMBERS(&take, 1, 4, 5, 7, 8);
    assert_int_equal(take_some(&other, 9, 0, LEASE_MS), 0);
    take_some(&other, 9, 5000, LEASE_MS);
    ASSERT_NUMBERS(&other, 0, 6);
    take_drop(&take);
    take_drop(&other);
    rig_close();
}

static void test_fifo_expired_and_removed(void **state)
{
    (void)state;
    static struct take take;
    rig_fifo();
    publish_group(0, "A");
    publish_with(0, 1, (struct extras){.group = "A", .expires = "1"});
    publish_group(2, "A");
    take_some(&take, 3, 0, LEASE_MS);
    ASSERT_NUMBERS(&take, 0, 2);
    /* What retention removes no longer blocks. */
    publish_group(3, "A");
    struct partition_spec limited = {
        .id = 100, .class = STORAGE_3_DAYS, .retention_ms = 72 * 3600000, .retention_bytes = 1};
    log_partition_limit(rig.worker, &limited);
    log_retain(rig.worker);
    run_ms(5);
    publish_group(4, "A");
    take_drop(&take);
    take_some(&take, 3, 0, LEASE_MS);
    assert_true(take.take.count > 0);
    assert_int_equal(number_of(&take.items[take.take.count - 1]), 4);
    take_drop(&take);
    rig_close();
}

/* Behind a group that does not move others are found, but only so far. */
static void test_fifo_look_ahead(void **state)
{
    (void)state;
    static struct take take, other;
    rig_fifo();
    publish_group(0, "stuck");
    take_some(&take, 1, 0, LEASE_MS);
    struct batch_builder builder;
    struct header header = {span_from_text(HEADER_GROUP_ID), span_from_text("stuck")};
    batch_builder_init(&builder);
    for (uint32_t i = 1; i <= LIMIT_LOOK_AHEAD; i += 1024) {
        for (uint32_t k = 0; k < 1024; k++) {
            uint32_t number = i + k;
            struct record_input record = {.timestamp_ms = 1,
                                          .value = span_of(&number, sizeof number),
                                          .headers = &header,
                                          .header_count = 1};
            assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
        }
        struct append append = {0};
        request_init(&append.append.request, rig.loop, append_done);
        append.append.partition = 100;
        append.append.batch = batch_builder_seal(&builder);
        log_append(rig.worker, &append.append);
        while (!append.done)
            loop_run(rig.loop);
    }
    batch_builder_deinit(&builder);
    publish_group(70000, "B");
    publish_group(70001, "B");
    assert_int_equal(take_some(&other, 1, 30, LEASE_MS), 0);
    assert_int_equal(settle_one(&take.items[0].receipt, SETTLE_DONE), STATUS_OK);
    take_drop(&take);
    take_some(&take, 1, 0, LEASE_MS);
    ASSERT_NUMBERS(&take, 1);
    take_some(&other, 1, 5000, LEASE_MS);
    ASSERT_NUMBERS(&other, 70000);
    take_drop(&take);
    take_drop(&other);
    rig_close();
}

/* Random takes, settlements, expiries and crashes against what must hold. */

enum { NUMBERS = 600, RUN_KEYS = 5, TAKES = 4, TAKE_SIZE = 6, SHORT_MS = 3, LONG_MS = 60000 };

struct record_state {
    uint32_t key;
    bool done;
    uint32_t failures;
    bool may_have_expired; /* one failure more than is known */
    uint64_t take;         /* that has it; 0: none */
    uint64_t until_ms;
};

static struct record_state records[NUMBERS];
static uint32_t published;
static struct take takes[TAKES];
static uint64_t take_number[TAKES], next_take;
static uint32_t limit;

static bool may_be_dead(const struct record_state *record)
{
    return limit != 0 && record->failures + record->may_have_expired >= limit;
}

static void check_handed_out(uint32_t number, uint64_t take)
{
    const struct record_state *record = &records[number];
    assert_false(record->done);
    for (uint32_t i = 0; i < published; i++) {
        struct record_state *other = &records[i];
        if (other->key != record->key || other->done || i == number || other->take == take)
            continue;
        if (i < number && may_be_dead(other)) {
            other->done = true;
            continue;
        }
        assert_true(i > number);
        if (other->take != 0)
            assert_true(clock_monotonic_ms() >= other->until_ms);
    }
}

static void step_take(void)
{
    uint32_t at = (uint32_t)pick(TAKES);
    take_drop(&takes[at]);
    uint32_t lease_ms = pick(4) == 0 ? SHORT_MS : LONG_MS;
    uint64_t started_ms = loop_now_ms(rig.loop);
    uint64_t number = take_number[at] = ++next_take;
    take_some(&takes[at], 1 + (uint32_t)pick(TAKE_SIZE), (uint32_t)pick(3), lease_ms);
    for (uint32_t i = 0; i < takes[at].take.count; i++) {
        uint32_t value = number_of(&takes[at].items[i]);
        check_handed_out(value, number);
        assert_true(takes[at].items[i].failures >= records[value].failures);
        records[value].failures = takes[at].items[i].failures;
        records[value].take = number;
        records[value].may_have_expired = lease_ms == SHORT_MS;
        records[value].until_ms = started_ms + lease_ms;
    }
}

static void step_settle(void)
{
    uint32_t at = (uint32_t)pick(TAKES);
    struct take *take = &takes[at];
    if (take->take.count == 0)
        return;
    const struct group_item *item = &take->items[pick(take->take.count)];
    struct record_state *record = &records[number_of(item)];
    enum settle_outcome outcome = pick(3) ? SETTLE_DONE : pick(2) ? SETTLE_FAILED : SETTLE_RELEASED;
    uint32_t delay_ms = outcome != SETTLE_DONE && pick(2) ? 1 + (uint32_t)pick(4) : 0;
    if (settle_for(&item->receipt, outcome, delay_ms) != STATUS_OK)
        return;
    record->take = 0;
    record->may_have_expired = false;
    if (outcome == SETTLE_DONE)
        record->done = true;
    else if (outcome == SETTLE_FAILED)
        record->failures = item->failures + 1;
}

static void step_publish(void)
{
    static const char *const names[] = {"A", "B", "C", "D", NULL};
    for (uint64_t i = 1 + pick(4); i > 0 && published < NUMBERS; i--) {
        uint32_t key = (uint32_t)pick(RUN_KEYS);
        records[published].key = key;
        publish_with(0, published, (struct extras){.group = names[key]});
        published++;
    }
}

static void forget_takes(void)
{
    for (uint32_t i = 0; i < TAKES; i++)
        take_drop(&takes[i]);
    for (uint32_t i = 0; i < published; i++)
        records[i].take = 0;
}

static void crash(bool clean)
{
    forget_takes();
    if (clean) {
        close_group(false);
        open_group();
    } else {
        crash_and_open();
    }
}

static void step(void)
{
    uint64_t what = pick(100);
    if (what < 15)
        step_publish();
    else if (what < 50)
        step_take();
    else if (what < 96)
        step_settle();
    else if (what < 98)
        run_ms(SHORT_MS + 1);
    else if (what < 99)
        crash(false);
    else
        crash(true);
}

static void finish(void)
{
    forget_takes();
    close_group(false);
    open_group();
    for (int idle = 0; idle < 3;) {
        uint64_t number = ++next_take;
        static struct take take;
        uint32_t count = take_some(&take, 50, 5, LONG_MS);
        idle = count == 0 ? idle + 1 : 0;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t value = number_of(&take.items[i]);
            check_handed_out(value, number);
            records[value].take = number;
        }
        settle_all(&take, SETTLE_DONE);
        for (uint32_t i = 0; i < count; i++)
            records[number_of(&take.items[i])].done = true;
        take_drop(&take);
    }
    for (uint32_t i = 0; i < published; i++)
        assert_true(records[i].done || may_be_dead(&records[i]));
    assert_int_equal(stat_of(&rig.spec->stat->backlog), 0);
}

static void test_fifo_random(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 30; i++) {
        seed = i * 7919 + 11;
        memset(records, 0, sizeof records);
        published = 0;
        next_take = 0;
        rig_open(1);
        rig.queue->type = QUEUE_FIFO;
        limit = i % 2 ? 3 : 0;
        rig.queue->redrive = limit != 0;
        rig.queue->max_consume_count = limit;
        open_group();
        for (int k = 0; k < 500; k++)
            step();
        finish();
        rig_close();
    }
}

/* CPU per record at many keys, half of them always out. */
static void test_fifo_cost(void **state)
{
    (void)state;
    enum { COST_KEYS = 10000, ROUNDS = 4, AT_ONCE = 100 };
    static struct take take[COST_KEYS / AT_ONCE / 2];
    rig_fifo();
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (uint32_t i = 0; i < COST_KEYS * ROUNDS; i++) {
        char key[16];
        int size = snprintf(key, sizeof key, "key-%u", i % COST_KEYS);
        struct record_input record = {
            .timestamp_ms = 1, .key = span_of(key, (size_t)size), .value = span_of(&i, sizeof i)};
        assert_int_equal(batch_builder_add(&builder, &record), STATUS_OK);
        if (i % 1000 != 999)
            continue;
        struct append append = {0};
        request_init(&append.append.request, rig.loop, append_done);
        append.append.partition = 100;
        append.append.batch = batch_builder_seal(&builder);
        log_append(rig.worker, &append.append);
        while (!append.done)
            loop_run(rig.loop);
    }
    batch_builder_deinit(&builder);
    unsigned slots = sizeof take / sizeof *take;
    uint64_t spent = 0, count = 0;
    for (uint32_t i = 0; count < COST_KEYS * ROUNDS; i++) {
        struct take *slot = &take[i % slots];
        uint64_t started = clock_monotonic_ns();
        if (slot->take.count > 0)
            settle_all(slot, SETTLE_DONE);
        count += slot->take.count;
        take_drop(slot);
        take_some(slot, AT_ONCE, 0, LONG_MS);
        spent += clock_monotonic_ns() - started;
    }
    print_message("fifo, %u keys: %llu ns per record taken and settled\n", COST_KEYS,
                  (unsigned long long)(spent / count));
    for (unsigned i = 0; i < slots; i++)
        take_drop(&take[i]);
    rig_close();
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fifo_model),
        cmocka_unit_test(test_fifo_global_order),
        cmocka_unit_test(test_fifo_other_groups_go_on),
        cmocka_unit_test(test_fifo_blocked_after_failures),
        cmocka_unit_test(test_fifo_dead_letter_frees_the_group),
        cmocka_unit_test(test_fifo_restart),
        cmocka_unit_test(test_fifo_expired_and_removed),
        cmocka_unit_test(test_fifo_look_ahead),
        cmocka_unit_test(test_fifo_random),
        cmocka_unit_test(test_fifo_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
