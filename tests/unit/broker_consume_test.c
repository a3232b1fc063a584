/* SPDX-License-Identifier: Apache-2.0 */
/* Push consumers: credit, drain, pause, settlements, what a closed one leaves, and how they end. */
#include "core/broker/consume.h"
#include "tests/unit/late_rig.h"

enum { HELD_MAX = LIMIT_CONSUMER_LEASES + 5 };

struct eater {
    struct peer *peer;
    uint64_t group;
    struct consumer_options options;
    struct consumer *consumer;
    /* Only on the loop: */
    uint32_t values[HELD_MAX], slots[HELD_MAX], failures[HELD_MAX];
    uint32_t count, settled, stale, drained, ended, first_unsettled;
    enum status why;
    bool settles, settles_apart, closes_at_delivery, stops_at_delivery;
};

static void eater_deliver(struct consumer *consumer, uint32_t slot, const struct group_item *item)
{
    struct eater *eater = consumer_context(consumer);
    CHECK(loop_is_home(rig.loops[eater->peer->worker]));
    CHECK(eater->count < HELD_MAX && consumer_lease(consumer, slot) != NULL);
    struct record record;
    batch_record(item->batch, item->index, &record);
    char text[16] = "";
    snprintf(text, sizeof text, "%.*s", (int)record.value.size, (const char *)record.value.data);
    eater->values[eater->count] = (uint32_t)number_of(text);
    eater->slots[eater->count] = slot;
    eater->failures[eater->count++] = item->failures;
    if (eater->settles)
        consumer_settle(consumer, slot, SETTLE_DONE, 0, eater->count);
    if (eater->settles_apart)
        consumer_settle(consumer, slot, SETTLE_FAILED, 600000 + eater->count, eater->count);
    if (eater->stops_at_delivery)
        consumer_credit(consumer, 0, false);
    if (eater->closes_at_delivery) {
        consumer_close(consumer, true);
        eater->consumer = NULL;
    }
}

static void eater_drained(struct consumer *consumer)
{
    struct eater *eater = consumer_context(consumer);
    CHECK(consumer_credit_left(consumer) == 0);
    eater->drained++;
}

static void eater_settled(struct consumer *consumer, uint64_t token, enum status status)
{
    struct eater *eater = consumer_context(consumer);
    CHECK(token > 0);
    eater->settled += status == STATUS_OK;
    eater->stale += status == STATUS_STALE;
}

static void eater_ended(struct consumer *consumer, enum status why)
{
    struct eater *eater = consumer_context(consumer);
    eater->ended++;
    eater->why = why;
}

static const struct consumer_ops eater_ops = {
    .deliver = eater_deliver,
    .drained = eater_drained,
    .settled = eater_settled,
    .ended = eater_ended,
};

static void eater_open_run(void *context)
{
    struct eater *eater = context;
    struct client *client = &eater->peer->client;
    eater->options.group = catalog_group(broker_catalog(client->worker), eater->group);
    CHECK(eater->options.group != NULL);
    if (eater->options.lease_ms == 0)
        eater->options.lease_ms = 30000;
    eater->consumer = consumer_open(client, &eater_ops, eater, &eater->options);
}

static struct eater *eater_with(struct peer *peer, uint64_t group, struct consumer_options options)
{
    struct eater *eater = heap_new(sizeof *eater);
    eater->peer = peer;
    eater->group = group;
    eater->options = options;
    on(peer->worker, eater_open_run, eater);
    return eater;
}

static struct eater *eater_new(struct peer *peer, uint64_t group)
{
    return eater_with(peer, group, (struct consumer_options){0});
}

struct eater_call {
    struct eater *eater;
    uint32_t number, delay_ms;
    bool flag;
    enum settle_outcome outcome;
};

static void credit_run(void *context)
{
    struct eater_call *call = context;
    consumer_credit(call->eater->consumer, call->number, call->flag);
}

static void credit(struct eater *eater, uint32_t number, bool drain)
{
    on(eater->peer->worker, credit_run, &(struct eater_call){eater, number, 0, drain, 0});
}

/* All that was delivered and is not settled yet. */
static void settle_run(void *context)
{
    struct eater_call *call = context;
    struct eater *eater = call->eater;
    for (; eater->first_unsettled < eater->count; eater->first_unsettled++)
        consumer_settle(eater->consumer, eater->slots[eater->first_unsettled], call->outcome,
                        call->delay_ms, 1 + eater->first_unsettled);
}

static void settle_as(struct eater *eater, enum settle_outcome outcome, uint32_t delay_ms)
{
    on(eater->peer->worker, settle_run, &(struct eater_call){eater, 0, delay_ms, false, outcome});
}

static void close_run(void *context)
{
    struct eater_call *call = context;
    consumer_close(call->eater->consumer, call->flag);
    call->eater->consumer = NULL;
}

static void eater_close(struct eater *eater, bool release)
{
    on(eater->peer->worker, close_run, &(struct eater_call){eater, 0, 0, release, 0});
}

struct eater_look {
    struct eater *eater;
    uint32_t count, settled, stale, drained, ended, leases, credit;
};

static void eater_look_run(void *context)
{
    struct eater_look *look = context;
    const struct eater *eater = look->eater;
    *look = (struct eater_look){
        .eater = look->eater,
        .count = eater->count,
        .settled = eater->settled,
        .stale = eater->stale,
        .drained = eater->drained,
        .ended = eater->ended,
    };
    if (eater->consumer != NULL) {
        look->leases = consumer_lease_count(eater->consumer);
        look->credit = consumer_credit_left(eater->consumer);
    }
}

static struct eater_look look(struct eater *eater)
{
    struct eater_look look = {.eater = eater};
    on(eater->peer->worker, eater_look_run, &look);
    return look;
}

static struct peer *maker;
static uint64_t queue_id, group_id;

static void open_rig(void **state)
{
    queue_id = group_id = 0;
    rig_open(*(unsigned *)*state);
    maker = peer_new(0, "m");
    assert_int_equal(queue_make(maker, "orders", &queue_id), STATUS_OK);
    assert_int_equal(group_make(maker, queue_id, "g", false, &group_id), STATUS_OK);
}

static void publish(uint32_t first, uint32_t count)
{
    uint32_t before = peer_look(maker).answers;
    publish_to_queue(maker, "orders", first, count);
    await_answers(maker, before + count);
}

static void close_rig(void)
{
    peer_close(maker);
    rig_close();
}

static void test_credit(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(1, "c");
    struct eater *eater = eater_new(peer, group_id);
    publish(0, 300);
    rig_calm();
    assert_int_equal(look(eater).count, 0); /* no credit yet */
    credit(eater, 10, false);
    await(look(eater).count == 10);
    rig_calm();
    assert_int_equal(look(eater).count, 10);
    assert_int_equal(look(eater).leases, 10);
    credit(eater, 1000, false);
    await(look(eater).count == 300);
    publish(300, 50); /* pushed without being asked for again */
    await(look(eater).count == 350);
    assert_int_equal(look(eater).credit, 1000 - 340);
    for (uint32_t i = 0; i < 350; i++)
        assert_int_equal(eater->values[i], i);
    /* The credit falls while the next take waits: only so much comes. */
    credit(eater, 3, false);
    publish(350, 50);
    await(look(eater).count == 353);
    rig_calm();
    assert_int_equal(look(eater).count, 353);
    settle_as(eater, SETTLE_DONE, 0);
    await(look(eater).settled == 353);
    assert_int_equal(look(eater).leases, 0);
    peer_close(peer);
    heap_free(eater);
    close_rig();
}

/* Publishes so many, as several clients: one has so many answers only. */
static void publish_much(uint32_t count)
{
    for (uint32_t first = 0; first < count; first += SEEN_MAX) {
        struct peer *sender = peer_new(1, "s");
        uint32_t some = count - first < SEEN_MAX ? count - first : SEEN_MAX;
        publish_to_queue(sender, "orders", first, some);
        await_answers(sender, some);
        peer_close(sender);
    }
}

/* A drain does not wait for a settlement. */
static void test_drain_ends_where_no_more_may_be_leased(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(2, "c");
    struct eater *eater = eater_new(peer, group_id);
    publish_much(HELD_MAX);
    credit(eater, LIMIT_CONSUMER_LEASES + 100, true);
    await(look(eater).drained == 1);
    assert_int_equal(look(eater).count, LIMIT_CONSUMER_LEASES);
    settle_as(eater, SETTLE_DONE, 0);
    rig_calm();
    assert_int_equal(look(eater).count, LIMIT_CONSUMER_LEASES); /* no credit is left */
    credit(eater, 100, true);
    await(look(eater).drained == 2);
    assert_int_equal(look(eater).count, LIMIT_CONSUMER_LEASES + 5);
    eater_close(eater, true);
    peer_close(peer);
    heap_free(eater);
    close_rig();
}

static uint32_t held_by(struct eater *const *eaters, uint32_t count)
{
    uint32_t held = 0;
    for (uint32_t i = 0; i < count; i++)
        held += look(eaters[i]).leases;
    return held;
}

/* All consumers of a client share a bound: who finds no room waits with its credit until something
 * is settled, whoever settles it, and its drain is answered; another client has its own. */
static void test_leases_of_a_client_have_a_bound(void **state)
{
    enum { EATERS = 6, EACH = 60000, FIT = LIMIT_CLIENT_LEASES / EACH };
    open_rig(state);
    struct peer *peer = peer_new(2, "c"), *other_peer = peer_new(2, "d");
    struct eater *eaters[EATERS];
    uint64_t groups[EATERS + 1];
    for (uint32_t i = 0; i <= EATERS; i++) {
        char name[8];
        snprintf(name, sizeof name, "g%u", i);
        assert_int_equal(group_make(maker, queue_id, name, false, &groups[i]), STATUS_OK);
    }
    publish_much(EACH);
    for (uint32_t i = 0; i < EATERS; i++) {
        eaters[i] = eater_new(peer, groups[i]);
        credit(eaters[i], EACH, false);
        await(look(eaters[i]).count == EACH || held_by(eaters, i + 1) == LIMIT_CLIENT_LEASES);
    }
    rig_calm();
    assert_int_equal(held_by(eaters, EATERS), LIMIT_CLIENT_LEASES);
    assert_int_equal(look(eaters[FIT]).leases, LIMIT_CLIENT_LEASES - FIT * EACH);
    assert_int_equal(look(eaters[EATERS - 1]).count, 0);
    assert_int_equal(look(eaters[EATERS - 1]).credit, EACH);
    assert_int_equal(look(eaters[EATERS - 1]).ended, 0);
    credit(eaters[EATERS - 1], EACH, true);
    await(look(eaters[EATERS - 1]).drained == 1);
    credit(eaters[EATERS - 1], 100, false);
    struct eater *other = eater_new(other_peer, groups[EATERS]);
    credit(other, 100, false);
    await(look(other).count == 100);
    /* Both that wait go on, in turns, with what another one has settled. */
    settle_as(eaters[0], SETTLE_DONE, 0);
    await(look(eaters[EATERS - 1]).count == 100 && look(eaters[FIT]).count == EACH);
    credit(eaters[EATERS - 1], EACH, false);
    await(held_by(eaters, EATERS) == LIMIT_CLIENT_LEASES);
    rig_calm();
    assert_int_equal(held_by(eaters, EATERS), LIMIT_CLIENT_LEASES);
    uint32_t before = look(eaters[EATERS - 1]).count;
    eater_close(eaters[1], true); /* room comes back with who goes, too */
    await(look(eaters[EATERS - 1]).count > before);
    await(look(eaters[EATERS - 1]).count == EACH || held_by(eaters + 2, 4) == LIMIT_CLIENT_LEASES);
    peer_close(peer);
    peer_close(other_peer);
    for (uint32_t i = 0; i < EATERS; i++)
        heap_free(eaters[i]);
    heap_free(other);
    close_rig();
}

static void test_drain(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(2, "c");
    struct eater *eater = eater_new(peer, group_id);
    publish(0, 5);
    credit(eater, 100, true);
    await(look(eater).drained == 1);
    assert_int_equal(look(eater).count, 5);
    publish(5, 5);
    rig_calm();
    assert_int_equal(look(eater).count, 5); /* no credit is left */
    /* A take waits when the drain comes. */
    credit(eater, 100, false);
    await(look(eater).count == 10);
    rig_calm();
    credit(eater, 90, true);
    await(look(eater).drained == 2);
    /* Exactly used up, and with none at all. */
    publish(10, 5);
    credit(eater, 5, true);
    await(look(eater).drained == 3);
    assert_int_equal(look(eater).count, 15);
    credit(eater, 0, true);
    await(look(eater).drained == 4);
    eater_close(eater, true);
    peer_close(peer);
    heap_free(eater);
    close_rig();
}

static void test_stop(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(1, "c");
    struct eater *eater = eater_new(peer, group_id);
    publish(0, 10);
    rig_calm();
    assert_int_equal(look(eater).count, 0);
    credit(eater, 100, false);
    await(look(eater).count == 10);
    credit(eater, 0, false);
    publish(10, 10);
    rig_calm();
    assert_int_equal(look(eater).count, 10);
    credit(eater, 100, false);
    await(look(eater).count == 20);
    /* From inside of a delivery: the rest of what was taken is for others. */
    struct peer *other_peer = peer_new(2, "d");
    struct eater *other = eater_new(other_peer, group_id);
    on(peer->worker, nothing_run, NULL);
    eater->stops_at_delivery = true;
    publish(20, 10);
    await(look(eater).count == 21);
    credit(other, 100, false);
    await(look(other).count == 9);
    for (uint32_t i = 0; i < 9; i++)
        assert_int_equal(other->failures[i], 0);
    peer_close(other_peer);
    peer_close(peer);
    heap_free(other);
    heap_free(eater);
    close_rig();
}

static void test_outcomes(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(1, "c");
    struct eater *eater = eater_new(peer, group_id);
    publish(0, 3);
    credit(eater, 1000, false);
    await(look(eater).count == 3);
    settle_as(eater, SETTLE_RELEASED, 0);
    await(look(eater).count == 6);
    settle_as(eater, SETTLE_FAILED, 0);
    await(look(eater).count == 9);
    for (uint32_t i = 0; i < 9; i++) {
        assert_int_equal(eater->values[i], i % 3);
        assert_int_equal(eater->failures[i], i >= 6);
    }
    settle_as(eater, SETTLE_RELEASED, 50);
    await(look(eater).count == 12);
    settle_as(eater, SETTLE_REJECTED, 0);
    await(look(eater).settled == 12);
    publish(3, 200); /* more than one piece */
    await(look(eater).count == 212);
    settle_as(eater, SETTLE_DONE, 0);
    await(look(eater).settled == 212);
    rig_calm();
    assert_int_equal(look(eater).count, 212);
    assert_int_equal(look(eater).stale, 0);
    peer_close(peer);
    heap_free(eater);
    close_rig();
}

static void renew_run(void *context)
{
    struct eater_call *call = context;
    consumer_renew(call->eater->consumer, call->eater->slots[call->number], 30000, 77);
}

static void test_leases(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(1, "c");
    /* Long enough to be renewed in time although the machine stood still for a while. */
    struct consumer_options options = {.lease_ms = 2500, .batch_size = 1};
    struct eater *eater = eater_with(peer, group_id, options);
    publish(0, 2);
    credit(eater, 2, false);
    await(look(eater).count == 2);
    on(peer->worker, renew_run, &(struct eater_call){.eater = eater, .number = 0});
    await(look(eater).settled == 1);
    /* The other one runs out, and comes to somebody else; settling it then is too late. */
    struct peer *other_peer = peer_new(2, "d");
    struct eater *other = eater_new(other_peer, group_id);
    credit(other, 10, false);
    await(look(other).count == 1);
    assert_int_equal(other->values[0], eater->values[1]);
    assert_int_equal(other->failures[0], 1);
    settle_as(eater, SETTLE_DONE, 0);
    await(look(eater).stale == 1);
    assert_int_equal(look(eater).settled, 2);
    peer_close(other_peer);
    peer_close(peer);
    heap_free(other);
    heap_free(eater);
    close_rig();
}

static void test_close(void **state)
{
    open_rig(state);
    publish(0, 20);
    struct peer *peer = peer_new(1, "c"), *other_peer = peer_new(2, "d");
    struct eater *other = eater_new(other_peer, group_id);
    /* What was not settled is for others at once; what was settled is done. */
    struct eater *eater = eater_new(peer, group_id);
    credit(eater, 20, false);
    await(look(eater).count == 20);
    eater->count = 5; /* the loop is calm: these five are settled */
    settle_as(eater, SETTLE_DONE, 0);
    eater_close(eater, true);
    credit(other, 1000, false);
    await(look(other).count == 15);
    /* Without release they stay leased. */
    struct eater *third = eater_new(peer, group_id);
    eater_close(other, false);
    credit(third, 1000, false);
    rig_calm();
    assert_int_equal(look(third).count, 0);
    /* From inside of a delivery, while it waits, and with the client. */
    third->closes_at_delivery = true;
    publish(20, 5);
    await(look(third).count == 1);
    struct eater *fourth = eater_new(peer, group_id);
    credit(fourth, 1000, false);
    await(look(fourth).count == 5);
    peer_close(peer);
    struct eater *fifth = eater_new(other_peer, group_id);
    credit(fifth, 1000, false);
    await(look(fifth).count == 5);
    peer_close(other_peer);
    heap_free(eater);
    heap_free(other);
    heap_free(third);
    heap_free(fourth);
    heap_free(fifth);
    close_rig();
}

/* Many open, eat and close while records come; each record is settled exactly once. */
static void test_coming_and_going(void **state)
{
    enum { RECORDS = 600, EATERS = 60 };
    open_rig(state);
    static bool seen[RECORDS];
    memset(seen, 0, sizeof seen);
    uint32_t total = 0;
    for (uint32_t i = 0; i < EATERS; i++) {
        publish_to_queue(maker, "orders", i * (RECORDS / EATERS), RECORDS / EATERS);
        struct peer *peer = peer_new(i, "c");
        struct eater *eater = eater_new(peer, group_id);
        eater->settles = true;
        credit(eater, 1 + i % 17, i % 2 == 0);
        if (i % 3 != 0)
            await(look(eater).count > 0);
        if (i % 4 == 0)
            eater_close(eater, true);
        else if (i == EATERS - 1)
            credit(eater, 10000, false);
        if (i == EATERS - 1)
            await(total + look(eater).count >= RECORDS);
        peer_close(peer);
        for (uint32_t k = 0; k < eater->count; k++) {
            assert_false(seen[eater->values[k]]);
            seen[eater->values[k]] = true;
        }
        total += eater->count;
        heap_free(eater);
    }
    assert_int_equal(total, RECORDS);
    close_rig();
}

static void test_full_output(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(1, "c");
    peer->queued = LIMIT_CLIENT_OUT_BYTES;
    struct eater *eater = eater_new(peer, group_id);
    publish(0, 10);
    credit(eater, 100, false);
    rig_calm();
    assert_int_equal(look(eater).count, 0);
    on(peer->worker, drained_run, peer);
    await(look(eater).count == 10);
    peer_close(peer);
    heap_free(eater);
    close_rig();
}

static void test_ends(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(1, "c");
    struct eater *eater = eater_new(peer, group_id);
    publish(0, 1);
    credit(eater, 10, false);
    await(look(eater).count == 1);
    rig_calm();
    assert_int_equal(administer(maker,
                                (struct broker_admin){.action = ADMIN_GROUP_DELETE, .id = group_id},
                                NULL),
                     STATUS_OK);
    await(look(eater).ended == 1);
    assert_int_equal(eater->why, STATUS_NOT_FOUND);
    credit(eater, 10, false); /* harmless */
    settle_as(eater, SETTLE_DONE, 0);
    rig_calm();
    assert_int_equal(look(eater).ended, 1);
    assert_int_equal(look(eater).settled, 0);
    peer_close(peer);
    heap_free(eater);
    close_rig();
}

static void test_rights_go(void **state)
{
    open_rig(state);
    uint64_t other_group = 0;
    assert_int_equal(user_make(maker, "root", "r"), STATUS_OK);
    await(peer_look(maker).ended);
    peer_free(maker);
    maker = peer_connect(0);
    assert_int_equal(peer_login(maker, "root", "r", "m"), STATUS_OK);
    assert_int_equal(group_make(maker, queue_id, "h", false, &other_group), STATUS_OK);
    assert_int_equal(user_make(maker, "ann", "a"), STATUS_OK);
    assert_int_equal(grants_set(maker, "ann", "consume", "queue:orders"), STATUS_OK);
    struct peer *ann = peer_connect(1);
    assert_int_equal(peer_login(ann, "ann", "a", "c"), STATUS_OK);
    struct eater *eater = eater_new(ann, group_id);
    credit(eater, 100, false);
    publish(0, 3);
    await(look(eater).count == 3);
    /* Its next take waits already: what comes with it is not for ann any more. */
    assert_int_equal(grants_set(maker, "ann", NULL, NULL), STATUS_OK);
    publish(3, 3);
    await(look(eater).ended == 1);
    assert_int_equal(eater->why, STATUS_DENIED);
    assert_int_equal(look(eater).count, 3);
    struct peer *root = peer_connect(2);
    assert_int_equal(peer_login(root, "root", "r", "c"), STATUS_OK);
    struct eater *other = eater_new(root, group_id);
    credit(other, 100, false);
    await(look(other).count == 3);
    peer_close(root);
    peer_close(ann);
    heap_free(other);
    heap_free(eater);
    close_rig();
}

static void test_shutdown(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(1, "c");
    struct eater *eater = eater_new(peer, group_id);
    publish(0, 3);
    credit(eater, 10, false);
    await(look(eater).count == 3);
    rig_close();
    assert_int_equal(eater->ended, 1);
    assert_int_equal(eater->why, STATUS_SHUTTING_DOWN);
    peer_free(peer);
    peer_free(maker);
    heap_free(eater);
}

/* A store without room answers no settlement: then a consumer that goes on is given no more than
 * its limit, until there is room. */
static void test_settlements_without_room(void **state)
{
    enum { RECORDS = 3000 };
    (void)state;
    late_rig_open(1);
    maker = peer_new(0, "m");
    assert_int_equal(queue_make(maker, "orders", &queue_id), STATUS_OK);
    assert_int_equal(group_make(maker, queue_id, "g", false, &group_id), STATUS_OK);
    struct peer *peer = peer_new(0, "c");
    struct eater *eater = eater_new(peer, group_id);
    publish(0, RECORDS);
    eater->settles_apart = true;
    refuse_rows(STATUS_NO_SPACE);
    credit(eater, HELD_MAX, false);
    await(look(eater).count >= LIMIT_CONSUMER_PIECES);
    rig_calm();
    assert_in_range(look(eater).count, LIMIT_CONSUMER_PIECES, LIMIT_CONSUMER_PIECES + 127);
    assert_int_equal(look(eater).settled, 0);
    refuse_rows(STATUS_OK);
    await(look(eater).settled == RECORDS);
    peer_close(peer);
    heap_free(eater);
    peer_close(maker);
    late_rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define TEST(name) cmocka_unit_test_prestate(name, &one), cmocka_unit_test_prestate(name, &three)
    const struct CMUnitTest tests[] = {
        TEST(test_credit),
        TEST(test_drain),
        TEST(test_drain_ends_where_no_more_may_be_leased),
        TEST(test_leases_of_a_client_have_a_bound),
        TEST(test_stop),
        TEST(test_outcomes),
        TEST(test_leases),
        TEST(test_close),
        TEST(test_coming_and_going),
        TEST(test_full_output),
        TEST(test_ends),
        TEST(test_rights_go),
        TEST(test_shutdown),
        cmocka_unit_test(test_settlements_without_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
