/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions through the broker, on one worker and on three: over queues and groups of all
 * workers, what refuses a commit, many at once over the same partitions, and how they end
 * otherwise. */
#include "core/broker/consume.h"
#include "tests/unit/transaction_rig.h"

enum { HELD_MAX = 64, WAYS = 3 };

/* ------------------------------------------------ consumers */

struct holder {
    struct peer *peer;
    uint64_t group;
    struct consumer *consumer;
    uint32_t slots[HELD_MAX], count;
    uint32_t failures;
};

static void holder_deliver(struct consumer *consumer, uint32_t slot, const struct group_item *item)
{
    struct holder *holder = consumer_context(consumer);
    CHECK(holder->count < HELD_MAX);
    holder->slots[holder->count++] = slot;
    holder->failures += item->failures;
}

static void holder_ended(struct consumer *consumer, enum status why)
{
    (void)consumer;
    (void)why;
}

static const struct consumer_ops holder_ops = {.deliver = holder_deliver, .ended = holder_ended};

static void hold_run(void *context)
{
    struct holder *holder = context;
    struct client *client = &holder->peer->client;
    struct consumer_options options = {
        .group = catalog_group(broker_catalog(client->worker), holder->group), .lease_ms = 30000};
    holder->consumer = consumer_open(client, &holder_ops, holder, &options);
    consumer_credit(holder->consumer, HELD_MAX, false);
}

struct holder_look {
    const struct holder *holder;
    uint32_t count, failures;
};

static void holder_look_run(void *context)
{
    struct holder_look *look = context;
    look->count = look->holder->count;
    look->failures = look->holder->failures;
}

static struct holder_look look_at(const struct holder *holder)
{
    struct holder_look look = {.holder = holder};
    on(holder->peer->worker, holder_look_run, &look);
    return look;
}

struct settling {
    struct deal *deal;
    struct holder *holder;
    enum settle_outcome outcome;
};

static void settle_run(void *context)
{
    struct settling *settling = context;
    struct holder *holder = settling->holder;
    for (uint32_t i = 0; i < holder->count; i++) {
        const struct unit_settlement settlement = {
            .receipt = *consumer_lease(holder->consumer, holder->slots[i]),
            .outcome = settling->outcome,
        };
        CHECK(broker_settle_within(&settling->deal->transaction, &settlement) == STATUS_OK);
    }
}

/* All that it holds, in the transaction. */
static void settle(struct deal *deal, struct holder *holder, enum settle_outcome outcome)
{
    on(deal->peer->worker, settle_run, &(struct settling){deal, holder, outcome});
}

/* The first eight, which were settled. */
static void forget_run(void *context)
{
    struct holder *holder = context;
    for (uint32_t i = 0; i < 8; i++)
        consumer_forget(holder->consumer, holder->slots[i]);
    CHECK(consumer_lease_count(holder->consumer) == 8);
}

static void release_run(void *context)
{
    struct holder *holder = context;
    consumer_close(holder->consumer, true);
    holder->consumer = NULL;
    holder->count = 0;
}

/* ------------------------------------------------ the scene */

static struct peer *maker;
static uint64_t queues[WAYS], groups[WAYS];
static const char *const names[WAYS] = {"a", "b", "c"};

static void scene_make(void)
{
    maker = peer_new(0, "m");
    for (unsigned i = 0; i < WAYS; i++) {
        struct broker_admin admin = {
            .action = ADMIN_QUEUE_CREATE, .name = span_from_text(names[i]), .partitions = 4};
        assert_int_equal(administer(maker, admin, &queues[i]), STATUS_OK);
        assert_int_equal(group_make(maker, queues[i], "g", false, &groups[i]), STATUS_OK);
    }
}

static void scene_open(unsigned workers)
{
    rig_open(workers);
    scene_make();
}

static void scene_close(void)
{
    peer_close(maker);
    rig_close();
}

struct count_call {
    const char *queue;
    uint64_t records, pending;
};

static void count_run(void *context)
{
    struct count_call *call = context;
    const struct queue *queue = catalog_queue_by_text(broker_catalog(broker_worker(rig.broker, 0)),
                                                      TENANT_DEFAULT, span_from_text(call->queue));
    for (uint32_t i = 0; queue != NULL && i < queue->partition_count; i++) {
        call->records += atomic_load(&queue->stat->partitions[i].end);
        call->pending += atomic_load(&queue->stat->partitions[i].pending_records) +
                         atomic_load(&queue->stat->partitions[i].pending_bytes);
    }
}

static uint64_t records_in(const char *queue)
{
    struct count_call call = {.queue = queue};
    on(0, count_run, &call);
    return call.records;
}

/* That what was let into a queue and refused later is not counted any more. */
static void assert_none_pending(const char *queue)
{
    struct count_call call = {.queue = queue};
    on(0, count_run, &call);
    assert_int_equal(call.pending, 0);
}

static uint64_t records_in_all(void)
{
    return records_in("a") + records_in("b") + records_in("c");
}

/* To every partition of every queue, by key. */
static void publish_everywhere(struct deal *deal, uint32_t first)
{
    for (uint32_t i = 0; i < 8; i++) {
        char key[2] = {(char)('0' + i), 0};
        for (unsigned k = 0; k < WAYS; k++)
            assert_int_equal(
                publish(deal, names[k], first + i, 1, (struct publish){.key = span_of(key, 1)}),
                STATUS_OK);
    }
}

static void take_one_of_each(struct peer *peer, struct holder holders[WAYS])
{
    for (unsigned i = 0; i < WAYS; i++) {
        publish_to_queue(maker, names[i], 0, 1);
        holders[i] = (struct holder){.peer = peer, .group = groups[i]};
        on(peer->worker, hold_run, &holders[i]);
    }
    for (unsigned i = 0; i < WAYS; i++)
        await(look_at(&holders[i]).count > 0);
    rig_calm();
}

static void test_commit(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct holder holders[WAYS];
    struct deal deal;
    take_one_of_each(peer, holders);
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish_everywhere(&deal, 100);
    for (unsigned i = 0; i < WAYS; i++)
        settle(&deal, &holders[i], SETTLE_DONE);
    rig_calm();
    assert_int_equal(records_in_all(), 3); /* nothing of it is seen */
    assert_int_equal(commit(&deal), STATUS_OK);
    assert_int_equal(records_in_all(), 3 + 24);
    for (unsigned i = 0; i < WAYS; i++) {
        await(look_at(&holders[i]).count == 1 + 8); /* and what is new comes */
        on(peer->worker, release_run, &holders[i]);
    }
    rig_calm();
    /* What was settled does not come again, what came then does. */
    for (unsigned i = 0; i < WAYS; i++) {
        holders[i] = (struct holder){.peer = peer, .group = groups[i]};
        on(peer->worker, hold_run, &holders[i]);
        await(look_at(&holders[i]).count == 8);
    }
    rig_calm();
    for (unsigned i = 0; i < WAYS; i++)
        assert_int_equal(holders[i].count, 8);
    /* Without anything in it, and with settlements alone. */
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    assert_int_equal(commit(&deal), STATUS_OK);
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    settle(&deal, &holders[0], SETTLE_FAILED);
    assert_int_equal(commit(&deal), STATUS_OK);
    await(look_at(&holders[0]).failures == 8); /* all of them come again */
    on(peer->worker, forget_run, &holders[0]);
    peer_close(peer);
    scene_close();
}

/* Whatever part is refused: nothing happens, and everything can be done afterwards. */
static void refused(struct peer *peer, struct holder holders[WAYS], const char *queue,
                    struct publish how, enum status at_once, enum status at_commit)
{
    struct deal deal;
    uint64_t before = records_in_all();
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish_everywhere(&deal, 100);
    for (unsigned i = 0; i < WAYS; i++)
        settle(&deal, &holders[i], SETTLE_DONE);
    assert_int_equal(publish(&deal, queue, 1, 1, how), at_once);
    assert_int_equal(commit(&deal), at_commit);
    rig_calm();
    assert_int_equal(records_in_all(), before);
    assert_none_pending("full");
}

static void queue_delete(uint64_t id)
{
    struct broker_admin admin = {.action = ADMIN_QUEUE_DELETE, .id = id};
    assert_int_equal(administer(maker, admin, NULL), STATUS_OK);
}

static void test_refused(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct holder holders[WAYS];
    struct deal deal;
    uint64_t full = 0, gone = 0;
    take_one_of_each(peer, holders);
    struct broker_admin admin = {.action = ADMIN_QUEUE_CREATE,
                                 .name = span_from_text("full"),
                                 .overflow = OVERFLOW_REFUSE,
                                 .max_records = 1};
    assert_int_equal(administer(maker, admin, &full), STATUS_OK);
    admin.name = span_from_text("roomy");
    admin.max_records = 10;
    assert_int_equal(administer(maker, admin, NULL), STATUS_OK);
    publish_to_queue(maker, "full", 0, 1);
    await(records_in("full") == 1);
    refused(peer, holders, "full", (struct publish){0}, STATUS_OK, STATUS_OVER_QUOTA);
    struct span topic = span_from_text("t/#");
    refused(peer, holders, NULL, (struct publish){.topic = topic}, STATUS_OK, STATUS_INVALID);
    refused(peer, holders, "a", (struct publish){.delay_ms = LIMIT_DELAY_MS + 1}, STATUS_INVALID,
            STATUS_INVALID);
    refused(peer, holders, "a", (struct publish){.producer = topic}, STATUS_UNSUPPORTED,
            STATUS_UNSUPPORTED);
    refused(peer, holders, "a", (struct publish){.dedup_id = span_of("", 0)}, STATUS_INVALID,
            STATUS_INVALID);
    /* A queue that goes before the commit. */
    assert_int_equal(queue_make(maker, "gone", &gone), STATUS_OK);
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish_everywhere(&deal, 100);
    publish(&deal, "roomy", 1, 3, (struct publish){0});
    assert_int_equal(publish(&deal, "gone", 1, 1, (struct publish){0}), STATUS_OK);
    queue_delete(gone);
    assert_int_equal(commit(&deal), STATUS_NOT_FOUND);
    assert_int_equal(records_in_all(), 3);
    assert_none_pending("roomy");
    /* A lease that has ended: whoever held it let go of it before the commit. */
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish_everywhere(&deal, 100);
    publish(&deal, "roomy", 1, 3, (struct publish){0});
    for (unsigned i = 0; i < WAYS; i++)
        settle(&deal, &holders[i], SETTLE_DONE);
    on(peer->worker, release_run, &holders[1]);
    assert_int_equal(commit(&deal), STATUS_STALE);
    assert_int_equal(records_in_all(), 3);
    assert_none_pending("roomy");
    holders[1] = (struct holder){.peer = peer, .group = groups[1]};
    on(peer->worker, hold_run, &holders[1]);
    await(look_at(&holders[1]).count > 0);
    /* A lease that is in it twice. */
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    settle(&deal, &holders[0], SETTLE_DONE);
    settle(&deal, &holders[0], SETTLE_DONE);
    assert_int_equal(commit(&deal), STATUS_STALE);
    /* All of them are still leased, and can be settled. */
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    for (unsigned i = 0; i < WAYS; i++)
        settle(&deal, &holders[i], SETTLE_DONE);
    assert_int_equal(commit(&deal), STATUS_OK);
    peer_close(peer);
    scene_close();
}

/* Rights are those of the commit. */
static void test_rights(void **state)
{
    scene_open(*(unsigned *)*state);
    assert_int_equal(user_make(maker, "root", "r"), STATUS_OK);
    await(peer_look(maker).ended);
    peer_free(maker);
    maker = peer_connect(0);
    assert_int_equal(peer_login(maker, "root", "r", "m"), STATUS_OK);
    assert_int_equal(user_make(maker, "ann", "a"), STATUS_OK);
    assert_int_equal(grants_set(maker, "ann", "publish,consume", "queue:*"), STATUS_OK);
    struct peer *ann = peer_connect(1);
    assert_int_equal(peer_login(ann, "ann", "a", "c"), STATUS_OK);
    struct holder holders[WAYS];
    struct deal deals[3];
    take_one_of_each(ann, holders);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(begin(&deals[i], ann), STATUS_OK);
    publish_everywhere(&deals[0], 0);
    settle(&deals[0], &holders[0], SETTLE_DONE);
    assert_int_equal(commit(&deals[0]), STATUS_OK);
    publish_everywhere(&deals[1], 0);
    settle(&deals[2], &holders[1], SETTLE_DONE);
    uint64_t before = records_in_all();
    assert_int_equal(grants_set(maker, "ann", "publish", "queue:a"), STATUS_OK);
    assert_int_equal(commit(&deals[1]), STATUS_DENIED);
    assert_int_equal(commit(&deals[2]), STATUS_DENIED);
    assert_int_equal(records_in_all(), before);
    peer_close(ann);
    scene_close();
}

static void test_duplicates(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct deal deal;
    struct publish keyed = {.dedup_id = span_from_text("once")};
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish(&deal, "a", 0, 2, keyed); /* the second is one already */
    publish(&deal, "b", 0, 1, (struct publish){0});
    assert_int_equal(commit(&deal), STATUS_OK);
    assert_int_equal(records_in_all(), 2);
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish(&deal, "a", 0, 1, keyed);
    publish(&deal, "b", 0, 1, (struct publish){0});
    assert_int_equal(commit(&deal), STATUS_OK);
    assert_int_equal(records_in_all(), 3);
    assert_int_equal(begin(&deal, peer), STATUS_OK); /* nothing else, and nothing to be stored */
    publish(&deal, "a", 0, 1, keyed);
    assert_int_equal(commit(&deal), STATUS_OK);
    assert_int_equal(records_in_all(), 3);
    /* One that is refused has not used its id. */
    uint64_t gone = 0;
    assert_int_equal(queue_make(maker, "gone", &gone), STATUS_OK);
    keyed.dedup_id = span_from_text("again");
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish(&deal, "a", 0, 1, keyed);
    publish(&deal, "gone", 0, 1, keyed);
    queue_delete(gone);
    assert_int_equal(commit(&deal), STATUS_NOT_FOUND);
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish(&deal, "a", 0, 1, keyed);
    assert_int_equal(commit(&deal), STATUS_OK);
    assert_int_equal(records_in_all(), 4);
    peer_close(peer);
    scene_close();
}

enum { CROWD = 20 };

static void crowd_run(void *context)
{
    struct deal *deals = context;
    struct peer *peer = deals[0].peer;
    for (uint32_t i = 0; i < CROWD; i++) {
        deals[i] = (struct deal){.peer = peer, .transaction.client = &peer->client};
        request_init(&deals[i].transaction.request, rig.loops[peer->worker], deal_done);
        begin_run(&deals[i]);
        for (unsigned k = 0; k < 8 * WAYS; k++) {
            char key = (char)('0' + k % 8);
            publish_run(&(struct within){.deal = &deals[i],
                                         .queue = names[(k + i) % WAYS],
                                         .first = i,
                                         .count = 1,
                                         .publish = {.key = span_of(&key, 1)}});
        }
        struct publish_call call = {
            .peer = peer, .publish = {.answer = true}, .queue = "a", .first = i, .count = 1};
        publish_call_run(&call);
        broker_commit(&deals[i].transaction);
    }
}

/* Several clients over the same partitions at once, and plain publishes between them: none waits
 * for another. */
static void test_crowd(void **state)
{
    enum { PEERS = 3, ROUNDS = 5 };
    scene_open(*(unsigned *)*state);
    struct peer *peers[PEERS];
    struct deal *deals = heap_array((size_t)PEERS * CROWD, sizeof *deals);
    for (unsigned i = 0; i < PEERS; i++)
        peers[i] = peer_new(i, "p");
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < PEERS; i++) {
            deals[i * CROWD].peer = peers[i];
            on(peers[i]->worker, crowd_run, &deals[i * CROWD]);
        }
        for (unsigned i = 0; i < PEERS * CROWD; i++) {
            rig_await(&deals[i].done);
            assert_int_equal(deals[i].status, STATUS_OK);
        }
    }
    await(records_in_all() == ROUNDS * PEERS * CROWD * (8 * WAYS + 1));
    for (unsigned i = 0; i < PEERS; i++)
        peer_close(peers[i]);
    heap_free(deals);
    scene_close();
}

/* To one partition: a plain publish, a transaction, a plain publish, all in one turn. */
struct turn {
    struct deal *deal;
    struct peer *peer;
};

static void turn_run(void *context)
{
    struct turn *turn = context;
    for (uint32_t i = 0; i < 10; i++) {
        struct publish_call call = {.peer = turn->peer,
                                    .publish = {.answer = true, .key = span_of("k", 1)},
                                    .queue = "a",
                                    .first = 3 * i,
                                    .count = 1};
        publish_call_run(&call);
        struct deal *deal = &turn->deal[i];
        *deal = (struct deal){.peer = turn->peer, .transaction.client = &turn->peer->client};
        request_init(&deal->transaction.request, rig.loops[turn->peer->worker], deal_done);
        begin_run(deal);
        publish_run(&(struct within){deal, "a", 3 * i + 1, 1, {.key = span_of("k", 1)}});
        /* A part elsewhere keeps it from being done at once. */
        publish_run(&(struct within){.deal = deal, .queue = "b", .count = 1});
        broker_commit(&deal->transaction);
    }
}

struct key_read {
    struct log_read read;
    struct peer *peer;
    atomic_bool done;
    uint32_t numbers[64], count;
};

static void key_read_done(struct request *request, enum status status)
{
    struct key_read *all = container_of(request, struct key_read, read.request);
    CHECK(status == STATUS_OK);
    for (uint32_t i = 0; i < all->read.count; i++) {
        for (uint32_t k = 0; k < all->read.batches[i]->record_count; k++) {
            struct record record;
            batch_record(all->read.batches[i], k, &record);
            char text[16];
            snprintf(text, sizeof text, "%.*s", (int)record.value.size,
                     (const char *)record.value.data);
            all->numbers[all->count++] = (uint32_t)number_of(text);
        }
        batch_unref(all->read.batches[i]);
    }
    atomic_store(&all->done, true);
}

static void key_read_run(void *context)
{
    struct key_read *all = context;
    struct client *client = &all->peer->client;
    const struct queue *queue =
        catalog_queue_by_text(broker_catalog(client->worker), client->tenant, span_from_text("a"));
    all->read.partition = queue_partition_of_key(queue, span_of("k", 1));
    broker_read(client, queue, &all->read);
}

static void test_order(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct deal deals[10];
    on(peer->worker, turn_run, &(struct turn){deals, peer});
    for (unsigned i = 0; i < 10; i++) {
        rig_await(&deals[i].done);
        assert_int_equal(deals[i].status, STATUS_OK);
    }
    await_answers(peer, 10);
    struct key_read all = {.peer = peer};
    request_init(&all.read.request, rig.loops[peer->worker], key_read_done);
    on(peer->worker, key_read_run, &all);
    rig_await(&all.done);
    assert_int_equal(all.count, 20);
    /* A commit comes behind what was published before it; a later publish may overtake a commit
     * that waits for its other part, as two clients' may. */
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t plain = 0, within = 0;
        for (uint32_t k = 0; k < all.count; k++) {
            plain = all.numbers[k] == 3 * i ? k : plain;
            within = all.numbers[k] == 3 * i + 1 ? k : within;
        }
        assert_true(plain < within);
    }
    peer_close(peer);
    scene_close();
}

static void test_ends(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct deal *deals = heap_array(LIMIT_TRANSACTIONS + 1, sizeof *deals);
    for (unsigned i = 0; i < LIMIT_TRANSACTIONS; i++)
        assert_int_equal(begin(&deals[i], peer), STATUS_OK);
    assert_int_equal(begin(&deals[LIMIT_TRANSACTIONS], peer), STATUS_OVER_QUOTA);
    /* Rolled back: nothing was ever there, and there is room again. */
    publish_everywhere(&deals[0], 0);
    on(peer->worker, roll_back_run, &deals[0]);
    assert_int_equal(begin(&deals[0], peer), STATUS_OK);
    /* Too many parts, and too many bytes in all of them. */
    assert_int_equal(publish(&deals[0], "a", 0, LIMIT_TRANSACTION_PARTS, (struct publish){0}),
                     STATUS_OK);
    assert_int_equal(publish(&deals[0], "a", 0, 1, (struct publish){0}), STATUS_OVER_QUOTA);
    assert_int_equal(commit(&deals[0]), STATUS_OVER_QUOTA);
    char *large = heap_new(1024 * 1024);
    struct publish how = {.key = span_of(large, 1024 * 1024)};
    for (unsigned i = 1; i < 16; i++)
        assert_int_equal(publish(&deals[i], "a", 0, 1, how), STATUS_OK);
    assert_int_equal(publish(&deals[16], "a", 0, 1, how), STATUS_OVER_QUOTA);
    on(peer->worker, roll_back_run, &deals[1]);
    assert_int_equal(publish(&deals[17], "a", 0, 1, how), STATUS_OK);
    heap_free(large);
    assert_int_equal(records_in_all(), 0);
    /* The client goes: those that are open are over, a commit under way goes on. */
    publish_everywhere(&deals[18], 0);
    on(peer->worker, commit_run, &deals[18]);
    peer_close(peer);
    rig_await(&deals[18].done);
    assert_int_equal(deals[18].status, STATUS_OK);
    assert_int_equal(records_in_all(), 24);
    for (unsigned i = 19; i < LIMIT_TRANSACTIONS; i++)
        assert_false(atomic_load(&deals[i].done));
    heap_free(deals);
    scene_close();
}

/* In one turn, so that time cannot run out in between. */
static void begin_and_publish_run(void *context)
{
    struct deal *deal = context;
    deal->transaction.client = &deal->peer->client;
    request_init(&deal->transaction.request, rig.loops[deal->peer->worker], deal_done);
    begin_run(deal);
    CHECK(deal->status == STATUS_OK);
    publish_run(&(struct within){.deal = deal, .queue = "a", .count = 1});
    CHECK(deal->status == STATUS_OK);
}

static void test_time(void **state)
{
    unsigned workers = *(unsigned *)*state;
    rig_open(workers);
    broker_fall();
    broker_bury();
    rig.options.transaction_ms = 30;
    broker_rise(workers);
    scene_make();
    struct peer *peer = peer_new(1, "p");
    struct deal deal = {.peer = peer};
    on(peer->worker, begin_and_publish_run, &deal);
    rig_await(&deal.done);
    assert_int_equal(deal.status, STATUS_TIMED_OUT);
    assert_int_equal(records_in_all(), 0);
    peer_close(peer);
    scene_close();
}

/* Nobody knows what became of it, and it is not said that nothing did. */
static void test_storage_fails(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct holder holders[WAYS];
    struct deal deal;
    take_one_of_each(peer, holders);
    assert_int_equal(begin(&deal, peer), STATUS_OK);
    publish_everywhere(&deal, 0);
    for (unsigned i = 0; i < WAYS; i++)
        settle(&deal, &holders[i], SETTLE_DONE);
    atomic_store(&rig.sync_fails, true);
    assert_int_equal(commit(&deal), STATUS_STORAGE_FAILED);
    peer_close(peer);
    scene_close();
}

/* The broker ends while commits are under way: each is done or refused, and the rest is refused. */
static void test_shutdown(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct holder holders[WAYS];
    struct deal deals[8];
    take_one_of_each(peer, holders);
    peer->closes_at_end = maker->closes_at_end = true;
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(begin(&deals[i], peer), STATUS_OK);
        publish_everywhere(&deals[i], i);
    }
    for (unsigned i = 0; i < WAYS; i++)
        settle(&deals[0], &holders[i], SETTLE_DONE);
    for (unsigned i = 0; i < 8; i++)
        on(peer->worker, commit_run, &deals[i]);
    rig_close();
    for (unsigned i = 0; i < 8; i++)
        assert_true(atomic_load(&deals[i].done) &&
                    (deals[i].status == STATUS_OK || deals[i].status == STATUS_SHUTTING_DOWN));
    peer_free(peer);
    peer_free(maker);
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_commit),   BOTH(test_refused),       BOTH(test_rights), BOTH(test_duplicates),
        BOTH(test_crowd),    BOTH(test_order),         BOTH(test_ends),   BOTH(test_time),
        BOTH(test_shutdown), BOTH(test_storage_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
