/* SPDX-License-Identifier: Apache-2.0 */
/* Shared subscriptions on one worker and on three: turns, credit, what is given back, and members
 * that come and go under load with nothing lost and nothing given twice. */
#include "tests/unit/broker_rig.h"

enum { MANY = 400, ROUNDS = 60, PEERS = 6 };

static void open_rig(void **state)
{
    rig_open(*(unsigned *)*state);
}

static void set_credit_run(void *context)
{
    struct settle_call *call = context;
    client_set_credit(&call->peer->client, call->count);
    call->peer->settles = false;
}

/* A client that settles only when it is told to. */
static struct peer *peer_slow(unsigned worker, const char *id, uint32_t credit)
{
    struct peer *peer = peer_connect(worker);
    on(peer->worker, set_credit_run, &(struct settle_call){peer, credit});
    assert_int_equal(peer_login(peer, "", "", id), STATUS_OK);
    return peer;
}

static enum status share_join(struct peer *peer, const char *share, const char *filter,
                              enum guarantee guarantee)
{
    return peer_subscribe_item(peer, (struct subscribe_item){.filter = span_from_text(filter),
                                                             .share = span_from_text(share),
                                                             .guarantee = guarantee,
                                                             .identifier = 7});
}

struct leave_call {
    struct peer *peer;
    const char *share, *filter;
    enum status status;
};

static void leave_run(void *context)
{
    struct leave_call *call = context;
    call->status = broker_unsubscribe_shared(&call->peer->client, span_from_text(call->share),
                                             span_from_text(call->filter));
}

static enum status share_leave(struct peer *peer, const char *share, const char *filter)
{
    struct leave_call call = {peer, share, filter, STATUS_OK};
    on(peer->worker, leave_run, &call);
    return call.status;
}

/* How often each number was seen. */
static void count_seen(struct peer *peer, unsigned *seen, uint32_t size)
{
    for (uint32_t i = 0; i < peer->record_count; i++) {
        int number = number_of(peer->records[i].value);
        assert_true(number >= 0 && (uint32_t)number < size);
        seen[number]++;
    }
}

static void assert_each_once(const unsigned *seen, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (seen[i] != 1)
            fail_msg("record %u was seen %u times", i, seen[i]);
}

/* ------------------------------------------------ turns */

static void test_members_take_turns(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *members[3], *other = peer_new(1, "o");
    unsigned seen[MANY] = {0};
    for (unsigned i = 0; i < 3; i++) {
        members[i] = peer_new(i, "m");
        assert_int_equal(share_join(members[i], "g", "t/+", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    }
    /* Another share of the filter, and a subscription of its own, see everything. */
    assert_int_equal(share_join(other, "h", "t/+", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    assert_int_equal(peer_subscribe(members[0], "t/1", GUARANTEE_AT_MOST_ONCE, 9), STATUS_OK);
    for (uint32_t i = 0; i < MANY; i++)
        publish_many(writer, i % 2 ? "t/2" : "t/3", GUARANTEE_AT_LEAST_ONCE, i, 1);
    await_records(other, MANY);
    await(peer_look(members[0]).records + peer_look(members[1]).records +
              peer_look(members[2]).records ==
          MANY);
    for (unsigned i = 0; i < 3; i++) {
        count_seen(members[i], seen, MANY);
        assert_in_range(members[i]->record_count, MANY / 3 - 1, MANY / 3 + 1);
        assert_int_equal(members[i]->records[0].identifier, 7);
        peer_close(members[i]);
    }
    assert_each_once(seen, MANY);
    peer_close(other);
    peer_close(writer);
    rig_close();
}

static void test_one_member_sees_the_order(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *member = peer_slow(1, "m", 5);
    assert_int_equal(share_join(member, "g", "t", GUARANTEE_EXACTLY_ONCE), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 100);
    await_records(member, 5);
    publish_many(writer, "t", GUARANTEE_EXACTLY_ONCE, 100, 100);
    rig_calm();
    for (uint32_t i = 5; i < 200; i += 5) {
        peer_settle(member, 5);
        await_records(member, i + 5);
    }
    for (uint32_t i = 0; i < 200; i++)
        assert_int_equal(number_of(member->records[i].value), i);
    peer_close(member);
    peer_close(writer);
    rig_close();
}

/* ------------------------------------------------ slow members */

static void test_slow_member_stops_nobody(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *slow = peer_slow(1, "s", 3), *quick = peer_new(2, "q");
    unsigned seen[MANY] = {0};
    assert_int_equal(share_join(slow, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    assert_int_equal(share_join(quick, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, MANY);
    await_records(quick, MANY - 3);
    await_records(slow, 3);
    /* What it holds stays with it while its session lives, and goes to the other with it. */
    on(slow->worker, peer_close_run, slow);
    await_records(quick, MANY);
    count_seen(quick, seen, MANY);
    assert_each_once(seen, MANY);
    peer_free(slow);
    peer_close(quick);
    peer_close(writer);
    rig_close();
}

static void test_credit_is_the_clients(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *member = peer_slow(2, "m", 2);
    assert_int_equal(peer_subscribe(member, "own", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(share_join(member, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    assert_int_equal(share_join(member, "g", "u", GUARANTEE_AT_MOST_ONCE), STATUS_OK);
    publish_many(writer, "own", GUARANTEE_AT_LEAST_ONCE, 0, 2);
    await_records(member, 2);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 2, 3);
    publish_many(writer, "u", GUARANTEE_AT_LEAST_ONCE, 5, 1);
    await_records(member, 3); /* at most once takes no credit */
    peer_settle(member, 2);
    await_records(member, 5);
    peer_settle(member, 2);
    await_records(member, 6);
    for (uint32_t i = 3; i < 6; i++)
        assert_int_equal(number_of(member->records[i].value), i - 1);
    peer_close(member);
    peer_close(writer);
    rig_close();
}

static void test_nobody_can_take_it(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *slow = peer_slow(1, "s", 1);
    assert_int_equal(share_join(slow, "g", "#", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    publish_many(writer, "a/1", GUARANTEE_AT_LEAST_ONCE, 0, MANY);
    publish_many(writer, "b/2", GUARANTEE_AT_LEAST_ONCE, MANY, MANY);
    await_records(slow, 1);
    await_answers(writer, 2 * MANY);
    struct peer *quick = peer_new(2, "q");
    unsigned seen[2 * MANY] = {0};
    assert_int_equal(share_join(quick, "g", "#", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    await_records(quick, 2 * MANY - 1);
    count_seen(quick, seen, 2 * MANY);
    count_seen(slow, seen, 2 * MANY);
    assert_each_once(seen, 2 * MANY);
    peer_close(slow);
    peer_close(quick);
    peer_close(writer);
    rig_close();
}

static void test_at_most_once(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *a = peer_new(1, "a"), *b = peer_new(2, "b");
    assert_int_equal(share_join(a, "g", "t", GUARANTEE_EXACTLY_ONCE), STATUS_OK);
    assert_int_equal(share_join(b, "g", "t", GUARANTEE_AT_MOST_ONCE), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_MOST_ONCE, 0, 100);
    await(peer_look(a).records + peer_look(b).records == 100);
    assert_int_equal(peer_look(a).records, 50);
    peer_close(a);
    peer_close(b);
    peer_close(writer);
    rig_close();
}

/* ------------------------------------------------ leaving */

static void test_exactly_once_stays(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *a = peer_slow(1, "a", 4), *b = peer_new(2, "b");
    assert_int_equal(share_join(a, "g", "t", GUARANTEE_EXACTLY_ONCE), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_EXACTLY_ONCE, 0, 2);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 2, 4);
    await_records(a, 4);
    assert_int_equal(share_join(b, "g", "t", GUARANTEE_EXACTLY_ONCE), STATUS_OK);
    await_records(b, 2);
    peer_close(a);
    await_records(b, 4);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(number_of(b->records[i].value), i < 2 ? i + 4 : i);
    peer_close(b);
    peer_close(writer);
    rig_close();
}

static void test_unsubscribe(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *a = peer_slow(1, "a", 10), *b = peer_new(2, "b");
    assert_int_equal(share_join(a, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 4);
    await_records(a, 4);
    assert_int_equal(share_join(b, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    assert_int_equal(share_leave(a, "g", "u"), STATUS_NOT_FOUND);
    assert_int_equal(share_leave(a, "h", "t"), STATUS_NOT_FOUND);
    assert_int_equal(share_leave(a, "g", "t"), STATUS_OK);
    assert_int_equal(share_leave(a, "g", "t"), STATUS_NOT_FOUND);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 4, 4);
    await_records(b, 4);
    /* What it has stays with it; settled or given back at its end. */
    peer_settle(a, 2);
    rig_calm();
    assert_int_equal(peer_look(b).records, 4);
    assert_int_equal(share_join(a, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    peer_close(a);
    await_records(b, 6);
    assert_int_equal(number_of(b->records[4].value), 2);
    assert_int_equal(number_of(b->records[5].value), 3);
    peer_close(b);
    rig_calm();
    /* The last has gone: who comes now begins anew. */
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 8, 4);
    await_answers(writer, 12);
    struct peer *c = peer_new(0, "c");
    assert_int_equal(share_join(c, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 12, 1);
    await_records(c, 1);
    assert_int_equal(number_of(c->records[0].value), 12);
    peer_close(c);
    peer_close(writer);
    rig_close();
}

static void set_oversized(void *context)
{
    ((struct peer *)context)->oversized = true;
}

static void test_too_large_for_a_member(void **state)
{
    open_rig(state);
    int64_t before = rig_metric("dropped_total", "reason=\"too_large\"");
    struct peer *writer = peer_new(0, "w"), *a = peer_slow(1, "a", 3), *b = peer_new(2, "b");
    on(a->worker, set_oversized, a);
    assert_int_equal(share_join(a, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    assert_int_equal(share_join(b, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 100);
    /* What a was given is over at once; how soon it has turns again depends on mails. */
    await(peer_look(b).records >= 50);
    rig_calm();
    uint32_t others = peer_look(b).records;
    assert_int_equal(others + rig_metric("dropped_total", "reason=\"too_large\"") - before, 100);
    peer_close(a);
    await_records(b, others);
    peer_close(b);
    peer_close(writer);
    rig_close();
}

static void test_limits_and_rights(void **state)
{
    open_rig(state);
    struct peer *peer = peer_new(0, "p");
    char text[LIMIT_SHARE_NAME + 2];
    for (uint32_t i = 0; i < LIMIT_SHARES; i++) {
        snprintf(text, sizeof text, "s%u", i);
        assert_int_equal(share_join(peer, text, "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    }
    assert_int_equal(share_join(peer, "s0", "t", GUARANTEE_EXACTLY_ONCE), STATUS_OK); /* again */
    assert_int_equal(share_join(peer, "more", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OVER_QUOTA);
    assert_int_equal(share_join(peer, "s0", "t/#/x", GUARANTEE_AT_LEAST_ONCE), STATUS_INVALID);
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_int_equal(share_join(peer, text, "t", GUARANTEE_AT_LEAST_ONCE), STATUS_INVALID);
    peer_close(peer);
    rig_close();
}

static void test_rights_that_go(void **state)
{
    open_rig(state);
    struct peer *boss = peer_new(0, "boss");
    boss->closes_at_end = false;
    assert_int_equal(user_make(boss, "boss", "secret"), STATUS_OK);
    peer_close(boss);
    boss = peer_connect(0);
    assert_int_equal(peer_login(boss, "boss", "secret", "boss"), STATUS_OK);
    assert_int_equal(user_make(boss, "u", "secret"), STATUS_OK);
    assert_int_equal(grants_set(boss, "u", "consume", "topic:t"), STATUS_OK);
    struct peer *peer = peer_connect(1);
    assert_int_equal(peer_login(peer, "u", "secret", "u"), STATUS_OK);
    assert_int_equal(share_join(peer, "g", "#", GUARANTEE_AT_LEAST_ONCE), STATUS_DENIED);
    assert_int_equal(share_join(peer, "g", "t", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    publish_many(boss, "t", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_records(peer, 1);
    assert_int_equal(grants_set(boss, "u", "consume", "topic:u"), STATUS_OK);
    rig_calm();
    publish_many(boss, "t", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    await_answers(boss, 2);
    await_records(peer, 1);
    assert_int_equal(share_leave(peer, "g", "t"), STATUS_NOT_FOUND);
    peer_close(peer);
    peer_close(boss);
    rig_close();
}

/* ------------------------------------------------ members that come and go */

struct flock {
    struct peer *peers[PEERS];
    unsigned *seen;
    uint32_t total;
};

/* What a peer settled counts; what it had not settled when it closed may come again. */
static void flock_close(struct flock *flock, unsigned i)
{
    struct peer *peer = flock->peers[i];
    on(peer->worker, peer_close_run, peer);
    uint32_t settled = peer->record_count - peer->lease_count;
    for (uint32_t k = 0; k < settled; k++)
        flock->seen[number_of(peer->records[k].value)]++;
    peer_free(peer);
    flock->peers[i] = NULL;
}

static void settle_all_run(void *context)
{
    struct peer *peer = context;
    peer_settle_some(peer, peer->lease_count);
}

static void settle_for_ever_run(void *context)
{
    ((struct peer *)context)->settles = true;
    settle_all_run(context);
}

static void test_come_and_go(void **state)
{
    open_rig(state);
    srand(7);
    static unsigned seen[ROUNDS * 50];
    memset(seen, 0, sizeof seen);
    struct flock flock = {.seen = seen};
    struct peer *writer = peer_new(0, "w"), *first = peer_slow(1, "first", 7);
    assert_int_equal(share_join(first, "g", "c/#", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned i = (unsigned)rand() % PEERS;
        if (flock.peers[i] == NULL) {
            flock.peers[i] = peer_slow((unsigned)rand(), "m", 1 + (uint32_t)rand() % 20);
            assert_int_equal(share_join(flock.peers[i], "g", "c/#", GUARANTEE_AT_LEAST_ONCE),
                             STATUS_OK);
        } else if (rand() % 2) {
            flock_close(&flock, i);
        } else {
            on(flock.peers[i]->worker, settle_all_run, flock.peers[i]);
        }
        uint32_t count = (uint32_t)rand() % 50;
        publish_many(writer, round % 3 ? "c/1" : "c/2", GUARANTEE_AT_LEAST_ONCE, flock.total,
                     count);
        flock.total += count;
    }
    /* All leave but one, which takes and settles what is left. */
    on(first->worker, settle_for_ever_run, first);
    for (unsigned i = 0; i < PEERS; i++)
        if (flock.peers[i] != NULL)
            flock_close(&flock, i);
    uint32_t elsewhere = 0;
    for (uint32_t i = 0; i < flock.total; i++)
        elsewhere += seen[i];
    await_records(first, flock.total - elsewhere);
    count_seen(first, seen, flock.total);
    peer_close(first);
    assert_each_once(seen, flock.total);
    peer_close(writer);
    rig_close();
}

static bool answered_soon(struct peer *writer, uint32_t count)
{
    for (unsigned i = 0; i < 200 && peer_look(writer).answers < count; i++)
        usleep(2000);
    return peer_look(writer).answers >= count;
}

static void others_calm(void)
{
    for (unsigned i = 0; i < 20; i++) {
        on(0, nothing_run, NULL);
        on(1, nothing_run, NULL);
    }
}

/* A seat says ready while records are on their way that were sent before it was blocked: they come
 * back late, and do not mean that it is blocked again. Which worker is the share's home is chance.
 */
static void test_given_back_late(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w");
    uint32_t published = 0;
    for (unsigned i = 0; i < 12; i++) {
        struct peer *member = peer_slow(2, "m", 10);
        struct standstill standstill;
        struct settle_call call = {member, 1};
        struct errand settle = {
            .mail = {.deliver = errand_deliver}, .run = settle_call_run, .context = &call};
        char share[8], topic[8];
        snprintf(share, sizeof share, "s%u", i);
        snprintf(topic, sizeof topic, "t/%u", i % 4);
        assert_int_equal(peer_subscribe(member, "own", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
        assert_int_equal(share_join(member, share, "t/+", GUARANTEE_AT_LEAST_ONCE), STATUS_OK);
        publish_many(writer, "own", GUARANTEE_AT_LEAST_ONCE, published, 9);
        await_records(member, 9);
        published += 9;
        await_answers(writer, published);
        stand_still(&standstill, 2);
        publish_many(writer, topic, GUARANTEE_AT_LEAST_ONCE, published, 3);
        published += 3;
        if (answered_soon(writer, published)) { /* the topic is not worker 2's */
            others_calm();
            mailbox_post(rig.loops[2], &settle.mail);
            publish_many(writer, topic, GUARANTEE_AT_LEAST_ONCE, published, 3);
            published += 3;
            await_answers(writer, published);
            others_calm();
            move_on(&standstill);
            rig_await(&settle.done);
            await_answers(writer, published);
            for (unsigned k = 0; peer_look(member).records < 15; k++) {
                assert_true(k < RIG_WAIT_MS);
                peer_settle(member, 1);
                usleep(1000);
            }
        } else {
            move_on(&standstill);
            await_answers(writer, published);
        }
        peer_close(member);
    }
    peer_close(writer);
    rig_close();
}

struct hasty_call {
    struct subscribe_call call;
    struct peer *peer;
};

static void join_and_go_run(void *context)
{
    struct hasty_call *hasty = context;
    broker_subscribe(&hasty->call.subscribe);
    peer_close_run(hasty->peer);
}

/* A client that goes before it knows that it is a member. */
static void test_gone_while_joining(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w");
    for (unsigned i = 0; i < 6; i++) {
        struct hasty_call hasty = {.peer = peer_new(i, "h")};
        struct subscribe_call *call = &hasty.call;
        call->item = (struct subscribe_item){.filter = span_from_text("t"),
                                             .share = span_from_text(i % 2 ? "g" : "h"),
                                             .guarantee = GUARANTEE_AT_LEAST_ONCE};
        call->subscribe = (struct broker_subscribe){.client = &hasty.peer->client, .count = 1};
        call->subscribe.items = &call->item;
        request_init(&call->subscribe.request, rig.loops[hasty.peer->worker], subscribe_call_done);
        on(hasty.peer->worker, join_and_go_run, &hasty);
        rig_await(&call->done);
        publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, i, 1);
        rig_calm();
        peer_free(hasty.peer);
    }
    peer_close(writer);
    rig_close();
}

static enum status share_join_by(struct peer *peer, struct selector *selector)
{
    return peer_subscribe_item(peer, (struct subscribe_item){.filter = span_from_text("s/+"),
                                                             .share = span_from_text("g"),
                                                             .guarantee = GUARANTEE_AT_LEAST_ONCE,
                                                             .selector = selector});
}

/* Who comes first says by which; whoever comes when all have gone says so anew. */
static void test_selectors(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *a = peer_new(1, "a"), *b = peer_new(2, "b");
    struct selector *chosen, *other;
    assert_int_equal(selector_compile(span_from_text("topic = 's/1'"), &chosen, NULL), STATUS_OK);
    assert_int_equal(selector_compile(span_from_text("topic = 's/2'"), &other, NULL), STATUS_OK);
    assert_int_equal(share_join_by(a, chosen), STATUS_OK);
    assert_int_equal(share_join_by(b, other), STATUS_EXISTS);
    assert_int_equal(share_join_by(b, NULL), STATUS_EXISTS);
    assert_int_equal(share_join_by(b, chosen), STATUS_OK);
    for (uint32_t i = 0; i < 40; i++)
        publish_many(writer, i % 2 ? "s/1" : "s/2",
                     i % 4 < 2 ? GUARANTEE_AT_LEAST_ONCE : GUARANTEE_AT_MOST_ONCE, i, 1);
    await(peer_look(a).records + peer_look(b).records == 20);
    rig_calm();
    assert_int_equal(a->record_count + b->record_count, 20);
    for (uint32_t i = 0; i < a->record_count; i++)
        assert_int_equal(number_of(a->records[i].value) % 2, 1);
    assert_int_equal(share_leave(a, "g", "s/+"), STATUS_OK);
    assert_int_equal(share_leave(b, "g", "s/+"), STATUS_OK);
    rig_calm();
    uint32_t before = b->record_count;
    assert_int_equal(share_join_by(b, other), STATUS_OK);
    publish_many(writer, "s/1", GUARANTEE_AT_LEAST_ONCE, 100, 1);
    publish_many(writer, "s/2", GUARANTEE_AT_LEAST_ONCE, 101, 1);
    await_records(b, before + 1);
    assert_int_equal(number_of(b->records[before].value), 101);
    selector_unref(chosen);
    selector_unref(other);
    peer_close(a);
    peer_close(b);
    peer_close(writer);
    rig_close();
}

/* Everybody is told to go while records and mails are on their way. */
static void test_shut_down(void **state)
{
    open_rig(state);
    struct peer *writer = peer_new(0, "w"), *members[PEERS];
    for (unsigned i = 0; i < PEERS; i++) {
        members[i] = peer_slow(i, "m", 3 + i);
        assert_int_equal(share_join(members[i], i % 2 ? "g" : "h", "t", GUARANTEE_AT_LEAST_ONCE),
                         STATUS_OK);
    }
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, MANY);
    rig_close();
    for (unsigned i = 0; i < PEERS; i++)
        peer_free(members[i]);
    peer_free(writer);
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_members_take_turns),
        BOTH(test_one_member_sees_the_order),
        BOTH(test_slow_member_stops_nobody),
        BOTH(test_credit_is_the_clients),
        BOTH(test_nobody_can_take_it),
        BOTH(test_at_most_once),
        BOTH(test_exactly_once_stays),
        BOTH(test_unsubscribe),
        BOTH(test_too_large_for_a_member),
        BOTH(test_limits_and_rights),
        BOTH(test_rights_that_go),
        BOTH(test_come_and_go),
        BOTH(test_gone_while_joining),
        cmocka_unit_test_prestate(test_given_back_late, &three),
        BOTH(test_selectors),
        BOTH(test_shut_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
