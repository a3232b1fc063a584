/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions that outlive their client beside transactions that are under way. */
#include "tests/unit/broker_rig.h"

/* ------------------------------------------------ the store */

/* Before the real one; keeps parts of units with batches for one partition until it is told. */
static struct gate {
    struct storage storage, *inner;
    _Atomic uint64_t partition; /* 0: everything passes */
    _Atomic(struct storage_append *) held;
} gate;

static void gate_append(struct storage *storage, struct storage_append *append)
{
    (void)storage;
    if (append->unit != 0 && append->batch_count > 0 &&
        append->batches[0].partition == atomic_load(&gate.partition))
        atomic_store(&gate.held, append);
    else
        gate.inner->ops->append(gate.inner, append);
}

static void gate_open(void)
{
    atomic_store(&gate.partition, 0);
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
PASS(bounds, storage_bounds)

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

int main(void)
{
    static unsigned one = 1, three = 3;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_subscribe_between, &one),
        cmocka_unit_test_prestate(test_subscribe_between, &three),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
