/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions over a store that holds parts of them back, or cannot open a partition, and how much
 * open ones may hold. */
#include "core/broker/worker.h"
#include "core/log/table.h"
#include "tests/unit/broker_rig.h"

/* ------------------------------------------------ the store */

/* Before the real one; keeps parts of units with batches for one partition until it is told. */
static struct gate {
    struct storage storage, *inner;
    _Atomic uint64_t partition; /* 0: everything passes */
    _Atomic(struct storage_append *) held;
    atomic_bool sessions; /* it keeps the next write of a session by itself */
    atomic_bool closed;   /* no partition can be opened */
} gate;

static void gate_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    if (atomic_load(&gate.sessions) && append->unit == 0 && append->row_count == 1 &&
        append->rows[0].key.data[0] == TABLE_SESSION_STATE)
        atomic_store(&gate.held, append);
    else if (append->unit != 0 && append->batch_count > 0 &&
             append->batches[0].partition == atomic_load(&gate.partition))
        atomic_store(&gate.held, append);
    else
        gate.inner->ops->append(gate.inner, append);
}

static void gate_open(void)
{
    atomic_store(&gate.partition, 0);
    atomic_store(&gate.sessions, false);
    gate.inner->ops->append(gate.inner, atomic_load(&gate.held));
    atomic_store(&gate.held, NULL);
}

#define PASS(name, type)                                                                           \
    static void gate_##name(struct storage *storage, struct type *operation)                       \
    {                                                                                              \
        (void)storage;                                                                             \
        gate.inner->ops->name(gate.inner, operation);                                              \
    }
PASS(read, storage_read)
PASS(scan, storage_scan)
PASS(trim, storage_trim)
PASS(floor, storage_floor)

static void gate_bounds(struct storage *storage, struct storage_bounds *bounds)
{
    (void)storage;
    if (atomic_load(&gate.closed))
        request_complete(&bounds->request, STATUS_CORRUPT);
    else
        gate.inner->ops->bounds(gate.inner, bounds);
}

static void gate_close(struct storage *storage)
{
    (void)storage;
    gate.inner->ops->close(gate.inner);
}

static enum status gate_health(struct storage *storage)
{
    (void)storage;
    return gate.inner->ops->health(gate.inner);
}

static const struct storage_ops gate_ops = {
    .name = "gate",
    .append = gate_append,
    .read = gate_read,
    .scan = gate_scan,
    .trim = gate_trim,
    .floor = gate_floor,
    .bounds = gate_bounds,
    .close = gate_close,
    .health = gate_health,
};

static void gate_rig_open(unsigned workers)
{
    rig_open(workers);
    broker_fall();
    broker_bury();
    gate = (struct gate){.storage = {.ops = &gate_ops}, .inner = rig.storage};
    rig.storage = &gate.storage;
    broker_rise(workers);
}

/* ------------------------------------------------ a transaction */

struct deal {
    struct broker_transaction transaction;
    struct peer *peer;
    atomic_bool done;
    enum status status;
};

static void deal_done(struct request *request, enum status status)
{
    struct deal *deal = container_of(request, struct deal, transaction.request);
    deal->status = status;
    atomic_store(&deal->done, true);
}

/* A record to the topic t and one to the queue q, whose part waits at the gate. */
static void deal_run(void *context)
{
    struct deal *deal = context;
    struct client *client = &deal->peer->client;
    deal->transaction.client = client;
    request_init(&deal->transaction.request, rig.loops[deal->peer->worker], deal_done);
    CHECK(broker_begin(&deal->transaction) == STATUS_OK);
    struct publish publish = {.topic = span_from_text("t"),
                              .body = span_from_text("1"),
                              .guarantee = GUARANTEE_AT_LEAST_ONCE};
    CHECK(broker_publish_within(&deal->transaction, &publish) == STATUS_OK);
    publish.topic = (struct span){0};
    publish.queue =
        catalog_queue_by_text(broker_catalog(client->worker), client->tenant, span_from_text("q"));
    atomic_store(&gate.partition, publish.queue->first_partition);
    CHECK(broker_publish_within(&deal->transaction, &publish) == STATUS_OK);
    broker_commit(&deal->transaction);
}

/* ------------------------------------------------ tests */

/* A subscription that begins between the first part of a unit and its last: the unit commits behind
 * it, so that the session finds what was published, whenever its client comes back. */
static void test_subscribe_between(void **state)
{
    gate_rig_open(*(unsigned *)*state);
    bool present;
    uint64_t queue = 0;
    struct peer *writer = peer_new(0, "w");
    struct peer *kept = peer_attach(1, "k", UINT32_MAX, NULL, &present);
    assert_int_equal(queue_make(writer, "q", &queue), STATUS_OK);
    /* That the filter has been asked for, and nobody held it, is remembered. */
    struct peer *other = peer_attach(2, "o", UINT32_MAX, NULL, &present);
    assert_int_equal(peer_subscribe(other, "other", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(writer, 1);
    struct deal deal = {.peer = writer};
    on(writer->worker, deal_run, &deal);
    await(atomic_load(&gate.held) != NULL);
    rig_calm();
    struct subscribe_call call = {
        .item = {.filter = span_from_text("t"), .guarantee = GUARANTEE_AT_LEAST_ONCE}};
    call.subscribe = (struct broker_subscribe){.client = &kept->client, .count = 1};
    call.subscribe.items = &call.item;
    request_init(&call.subscribe.request, rig.loops[kept->worker], subscribe_call_done);
    on(kept->worker, subscribe_call_run, &call);
    rig_calm();
    bool confirmed = atomic_load(&call.done);
    if (confirmed) {
        peer_close(kept);
        kept = NULL;
        rig_calm();
    }
    assert_false(atomic_load(&deal.done));
    gate_open();
    rig_await(&deal.done);
    assert_int_equal(deal.status, STATUS_OK);
    rig_await(&call.done);
    assert_int_equal(call.item.status, STATUS_OK);
    if (kept != NULL)
        peer_close(kept);
    /* Who was told before the commit has a right to the record; who was told after it has none. */
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    await_answers(writer, 2);
    kept = peer_attach(1, "k", UINT32_MAX, NULL, &present);
    assert_true(present);
    await_records(kept, confirmed ? 2 : 1);
    peer_close(kept);
    peer_close(other);
    peer_close(writer);
    rig_close();
}

static void fill_run(void *context)
{
    struct deal *deal = context;
    struct broker_worker *worker = deal->peer->client.worker;
    deal->transaction.client = &deal->peer->client;
    request_init(&deal->transaction.request, worker->loop, deal_done);
    CHECK(broker_begin(&deal->transaction) == STATUS_OK);
    worker->transaction_bytes = LIMIT_WORKER_IN_BYTES - 2000; /* others hold that */
    struct publish publish = {.topic = span_from_text("t"), .guarantee = GUARANTEE_AT_LEAST_ONCE};
    uint8_t body[2000] = {0};
    struct unit_settlement settlement = {.outcome = SETTLE_DONE};
    CHECK(broker_publish_within(&deal->transaction, &publish) == STATUS_OK);
    CHECK(broker_settle_within(&deal->transaction, &settlement) == STATUS_OK);
    CHECK(worker->transaction_bytes > LIMIT_WORKER_IN_BYTES - 2000 + sizeof settlement);
    publish.body = span_of(body, sizeof body);
    CHECK(broker_publish_within(&deal->transaction, &publish) == STATUS_OVER_QUOTA);
    broker_roll_back(&deal->transaction);
    CHECK(worker->transaction_bytes == LIMIT_WORKER_IN_BYTES - 2000);
    worker->transaction_bytes = LIMIT_WORKER_IN_BYTES - sizeof settlement;
    deal->transaction.client = &deal->peer->client;
    CHECK(broker_begin(&deal->transaction) == STATUS_OK);
    CHECK(broker_settle_within(&deal->transaction, &settlement) == STATUS_OVER_QUOTA);
    broker_roll_back(&deal->transaction);
    worker->transaction_bytes = 0;
}

/* Many clients that hold open what each of them may. */
static void test_worker_is_full(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(0, "p");
    struct deal deal = {.peer = peer};
    on(peer->worker, fill_run, &deal);
    assert_false(atomic_load(&deal.done));
    peer_close(peer);
    rig_close();
}

struct pending_call {
    struct deal deal;
    struct span dedup_id;
    uint64_t pending;
};

static void pending_deal_run(void *context)
{
    struct pending_call *call = context;
    struct client *client = &call->deal.peer->client;
    call->deal.transaction.client = client;
    request_init(&call->deal.transaction.request, client->worker->loop, deal_done);
    CHECK(broker_begin(&call->deal.transaction) == STATUS_OK);
    struct publish publish = {
        .queue = catalog_queue_by_text(broker_catalog(client->worker), client->tenant,
                                       span_from_text("q")),
        .dedup_id = call->dedup_id,
        .guarantee = GUARANTEE_AT_LEAST_ONCE,
    };
    CHECK(broker_publish_within(&call->deal.transaction, &publish) == STATUS_OK);
    broker_commit(&call->deal.transaction);
}

static void pending_run(void *context)
{
    struct pending_call *call = context;
    struct client *client = &call->deal.peer->client;
    const struct partition_stat *stat =
        catalog_queue_by_text(broker_catalog(client->worker), client->tenant, span_from_text("q"))
            ->stat->partitions;
    call->pending = atomic_load(&stat->pending_records) + atomic_load(&stat->pending_bytes);
}

/* What was let into a queue whose partition then is not there is not counted for ever. */
static void test_nothing_stays_pending(void **state)
{
    gate_rig_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct broker_admin admin = {.action = ADMIN_QUEUE_CREATE,
                                 .name = span_from_text("q"),
                                 .overflow = OVERFLOW_REFUSE,
                                 .max_records = 100};
    atomic_store(&gate.closed, true);
    assert_int_equal(administer(peer, admin, NULL), STATUS_OK);
    for (uint32_t round = 0; round < 2; round++) {
        struct pending_call call = {.deal.peer = peer};
        call.dedup_id = round == 0 ? (struct span){0} : span_from_text("id");
        struct publish_call plain = {.peer = peer,
                                     .publish = {.answer = true, .dedup_id = call.dedup_id},
                                     .queue = "q",
                                     .count = 1};
        on(peer->worker, publish_call_run, &plain);
        await_answers(peer, round + 1);
        on(peer->worker, pending_run, &call);
        assert_int_equal(call.pending, 0);
        on(peer->worker, pending_deal_run, &call);
        rig_await(&call.deal.done);
        assert_int_equal(call.deal.status, STATUS_CORRUPT);
        on(peer->worker, pending_run, &call);
        assert_int_equal(call.pending, 0);
    }
    atomic_store(&gate.closed, false);
    peer_close(peer);
    rig_close();
}

/* ------------------------------------------------ kept sessions */

struct kept_call {
    struct deal *deal;
    uint32_t numbers[2], count;
    bool waits;         /* with a part that stays at the gate */
    struct peer *other; /* whose session has the second; NULL: the same */
};

static void kept_run(void *context)
{
    struct kept_call *call = context;
    struct deal *deal = call->deal;
    struct client *client = &deal->peer->client;
    deal->transaction.client = client;
    request_init(&deal->transaction.request, rig.loops[deal->peer->worker], deal_done);
    CHECK(broker_begin(&deal->transaction) == STATUS_OK);
    struct publish publish = {.guarantee = GUARANTEE_AT_LEAST_ONCE};
    publish.queue =
        catalog_queue_by_text(broker_catalog(client->worker), client->tenant, span_from_text("q"));
    if (call->waits) {
        atomic_store(&gate.partition, publish.queue->first_partition);
        CHECK(broker_publish_within(&deal->transaction, &publish) == STATUS_OK);
    }
    for (uint32_t i = 0; i < call->count; i++) {
        CHECK(broker_part_within(&deal->transaction, 100) == STATUS_OK);
        broker_settle_kept_within(&deal->transaction,
                                  i == 1 && call->other != NULL ? &call->other->client : client,
                                  call->numbers[i]);
    }
    broker_commit(&deal->transaction);
}

static void kept_begin_both(struct deal *deal, struct peer *peer, struct peer *other,
                            uint32_t first, uint32_t second, bool waits)
{
    struct kept_call call = {deal, {first, second}, second == 0 ? 1 : 2, waits, other};
    *deal = (struct deal){.peer = peer};
    on(peer->worker, kept_run, &call);
}

static void kept_begin(struct deal *deal, struct peer *peer, uint32_t first, uint32_t second,
                       bool waits)
{
    kept_begin_both(deal, peer, NULL, first, second, waits);
}

static enum status kept_commit(struct peer *peer, uint32_t first, uint32_t second)
{
    struct deal deal;
    kept_begin(&deal, peer, first, second, false);
    rig_await(&deal.done);
    return deal.status;
}

static uint32_t number_at(const struct peer *peer, uint32_t index)
{
    return peer->records[index].identifier;
}

struct settle_kept_call {
    struct peer *peer;
    uint32_t number;
};

static void settle_kept_run(void *context)
{
    struct settle_kept_call *call = context;
    broker_settled(&call->peer->client, call->number);
}

static struct peer *kept_peer(uint32_t records)
{
    bool present;
    struct peer *peer = peer_attach(1, "k", UINT32_MAX, NULL, &present);
    assert_true(present);
    await_records(peer, records);
    rig_calm();
    assert_int_equal(peer->record_count, records);
    return peer;
}

static void kept_open(unsigned workers, struct peer **writer, uint32_t records)
{
    bool present;
    uint64_t queue;
    gate_rig_open(workers);
    *writer = peer_new(0, "w");
    assert_int_equal(queue_make(*writer, "q", &queue), STATUS_OK);
    struct peer *kept = peer_attach(1, "k", UINT32_MAX, NULL, &present);
    assert_int_equal(peer_subscribe(kept, "t", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_many(*writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, records);
    await_answers(*writer, records);
    await_records(kept, records);
    peer_close(kept);
}

/* What a unit settles is over with it or not at all, also when the client goes meanwhile; then who
 * waited for it has nobody any more. */
static void test_kept(void **state)
{
    struct peer *writer;
    struct deal deal, next, last;
    kept_open(*(unsigned *)*state, &writer, 4);
    for (uint32_t round = 0; round < 2; round++) {
        struct peer *kept = kept_peer(round == 0 ? 4 : 3);
        uint32_t first = number_at(kept, 0), second = number_at(kept, 1);
        assert_int_equal(kept_commit(kept, first, 9999), STATUS_STALE);
        assert_int_equal(kept_commit(kept, first, first), STATUS_STALE);
        kept_begin(&deal, kept, first, 0, true);
        await(atomic_load(&gate.held) != NULL);
        kept_begin(&next, kept, second, 0, false);
        kept_begin(&last, kept, first, 0, false);
        peer_close(kept);
        rig_calm();
        assert_false(atomic_load(&deal.done) || atomic_load(&next.done) || atomic_load(&last.done));
        if (round == 1)
            atomic_load(&gate.held)->refused = STATUS_DENIED;
        gate_open();
        rig_await(&deal.done);
        assert_int_equal(deal.status, round == 0 ? STATUS_OK : STATUS_DENIED);
        rig_await(&next.done);
        rig_await(&last.done);
        assert_int_equal(next.status, STATUS_STALE);
        assert_int_equal(last.status, STATUS_STALE);
    }
    struct peer *kept = kept_peer(3);
    assert_int_equal(kept_commit(kept, number_at(kept, 0), number_at(kept, 2)), STATUS_OK);
    assert_int_equal(kept_commit(kept, number_at(kept, 0), 0), STATUS_STALE);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 4, 1);
    await_records(kept, 4);
    peer_close(kept);
    peer_close(kept_peer(2));
    peer_close(writer);
    rig_close();
}

/* Transactions that settle of one session are committed one after the other, and whoever waits does
 * not keep others waiting: no part of it is on its way. So many may wait. */
static void test_kept_in_turn(void **state)
{
    enum { DEALS = LIMIT_SESSION_UNITS - 1 };
    struct peer *writer;
    struct deal deals[DEALS], twice;
    kept_open(*(unsigned *)*state, &writer, DEALS);
    struct peer *kept = kept_peer(DEALS);
    kept_begin(&deals[0], kept, number_at(kept, 0), 0, true);
    await(atomic_load(&gate.held) != NULL);
    atomic_store(&gate.partition, 0); /* only that one waits */
    for (uint32_t i = 1; i < DEALS; i++)
        kept_begin(&deals[i], kept, number_at(kept, i), 0, false);
    kept_begin(&twice, kept, number_at(kept, 1), 0, false);
    assert_int_equal(kept_commit(kept, number_at(kept, 2), 0), STATUS_BUSY);
    rig_calm();
    for (uint32_t i = 0; i < DEALS; i++)
        assert_false(atomic_load(&deals[i].done));
    publish_to_queue(writer, "q", 0, 1);
    await_answers(writer, DEALS + 1);
    gate_open();
    for (uint32_t i = 0; i < DEALS; i++) {
        rig_await(&deals[i].done);
        assert_int_equal(deals[i].status, STATUS_OK);
    }
    rig_await(&twice.done);
    assert_int_equal(twice.status, STATUS_STALE);
    for (uint32_t i = 0; i <= LIMIT_SESSION_UNITS; i++)
        assert_int_equal(kept_commit(kept, 9999, 0), STATUS_STALE); /* there is room again */
    peer_close(kept);
    peer_close(kept_peer(0));
    peer_close(writer);
    rig_close();
}

/* Who has parts for two sessions waits for both, and keeps its turn in both; who has nothing to do
 * with them does not wait. */
static void test_kept_in_two_sessions(void **state)
{
    struct peer *writer;
    struct deal first, both, last, alone;
    bool present;
    kept_open(*(unsigned *)*state, &writer, 4);
    struct peer *kept = kept_peer(4), *other = peer_attach(1, "o", UINT32_MAX, NULL, &present),
                *third = peer_attach(1, "3", UINT32_MAX, NULL, &present);
    assert_int_equal(peer_subscribe(other, "t", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(peer_subscribe(third, "t", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 4, 3);
    await_answers(writer, 7);
    await_records(other, 3);
    await_records(third, 3);
    for (uint32_t round = 0; round < 2; round++) {
        struct peer *held = round == 0 ? kept : other, *free = round == 0 ? other : kept;
        kept_begin(&first, held, number_at(held, 0), 0, true);
        await(atomic_load(&gate.held) != NULL);
        atomic_store(&gate.partition, 0); /* only that one waits */
        kept_begin_both(&both, kept, other, number_at(kept, round + 2), number_at(other, round + 1),
                        false);
        kept_begin(&last, free, number_at(free, round == 0 ? 1 : 3), 0, false);
        kept_begin(&alone, third, number_at(third, round), 0, false);
        rig_await(&alone.done);
        assert_int_equal(alone.status, STATUS_OK);
        rig_calm();
        assert_false(atomic_load(&first.done) || atomic_load(&both.done) ||
                     atomic_load(&last.done));
        gate_open();
        rig_await(&first.done);
        rig_await(&both.done);
        rig_await(&last.done);
        assert_int_equal(first.status, STATUS_OK);
        assert_int_equal(both.status, STATUS_OK);
        assert_int_equal(last.status, STATUS_STALE); /* the same as the one before it */
    }
    peer_close(kept);
    peer_close(other);
    peer_close(third);
    peer_close(writer);
    rig_close();
}

/* The session is just writing by itself: its part goes behind that, or is refused when there is
 * nobody any more. */
static void test_kept_is_writing(void **state)
{
    struct peer *writer;
    struct deal deal;
    kept_open(*(unsigned *)*state, &writer, 4);
    for (uint32_t round = 0; round < 2; round++) {
        struct peer *kept = kept_peer(round == 0 ? 4 : 2);
        struct settle_kept_call call = {kept, number_at(kept, 0)};
        atomic_store(&gate.sessions, true);
        on(kept->worker, settle_kept_run, &call);
        await(atomic_load(&gate.held) != NULL);
        kept_begin(&deal, kept, number_at(kept, 1), 0, false);
        rig_calm();
        assert_false(atomic_load(&deal.done));
        if (round == 1)
            peer_close(kept);
        gate_open();
        rig_await(&deal.done);
        assert_int_equal(deal.status, round == 0 ? STATUS_OK : STATUS_STALE);
        if (round == 0)
            peer_close(kept);
    }
    peer_close(kept_peer(1));
    peer_close(writer);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_subscribe_between, &one),
        cmocka_unit_test_prestate(test_subscribe_between, &three),
        cmocka_unit_test_prestate(test_worker_is_full, &one),
        cmocka_unit_test_prestate(test_nothing_stays_pending, &one),
        cmocka_unit_test_prestate(test_nothing_stays_pending, &three),
        cmocka_unit_test_prestate(test_kept, &one),
        cmocka_unit_test_prestate(test_kept, &three),
        cmocka_unit_test_prestate(test_kept_in_turn, &one),
        cmocka_unit_test_prestate(test_kept_in_turn, &three),
        cmocka_unit_test_prestate(test_kept_in_two_sessions, &one),
        cmocka_unit_test_prestate(test_kept_in_two_sessions, &three),
        cmocka_unit_test_prestate(test_kept_is_writing, &three),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
