/* SPDX-License-Identifier: Apache-2.0 */
/* A share while it becomes durable, with members that have no session: what it holds back until
 * that is stored, what is left when it cannot be, and what other workers commit meanwhile. */
#include "core/broker/share.h"
#include "core/broker/worker.h"
#include "tests/unit/share_rig.h"

static bool reads_from_now_on(const struct storage_append *append)
{
    return has_row(append, STORAGE_PUT, TABLE_FILTER_HOLDER, 0);
}

static struct peer *session_of(unsigned worker, const char *id)
{
    struct peer *peer = peer_new(worker, id);
    const struct broker_attach attach = {.expiry_s = UINT32_MAX};
    bool present;
    assert_int_equal(session_attach(peer, attach, &present), STATUS_OK);
    return peer;
}

/* Until such a write waits. */
static void join_until(struct subscribe_call *call, struct peer *peer, const char *filter,
                       picks *held)
{
    *call = (struct subscribe_call){.item = {.filter = span_from_text(filter),
                                             .share = span_from_text("g"),
                                             .guarantee = GUARANTEE_AT_LEAST_ONCE}};
    call->subscribe =
        (struct broker_subscribe){.client = &peer->client, .items = &call->item, .count = 1};
    request_init(&call->subscribe.request, rig.loops[peer->worker], subscribe_call_done);
    store_set(NULL, held, 0);
    on(peer->worker, subscribe_call_run, call);
    await(count_of(&store.append_count) == 1);
}

static void join_begin(struct subscribe_call *call, struct peer *peer)
{
    join_until(call, peer, "t", reads_from_now_on);
}

static void join_ends(struct subscribe_call *call, enum status status)
{
    rig_await(&call->done);
    assert_int_equal(call->item.status, status);
}

/* A session with three records of a share that is over. */
static struct peer *of_an_earlier_life(struct peer *writer)
{
    struct peer *peer = member(0, "a");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 3);
    await_records(peer, 3);
    share_leave(peer);
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION) == 1);
    return peer;
}

/* It did not become durable: what is due of it is looked at once, as for any share of guests. */
static void not_durable_after_all(void **state)
{
    kept_rig_open(*(unsigned *)*state, 1);
    struct peer *writer = peer_new(0, "w"), *peer = of_an_earlier_life(writer),
                *guest = peer_new(2, "guest"), *refused = session_of(0, "b");
    assert_int_equal(share_join(guest), STATUS_OK);
    store_set(reads_from_now_on, NULL, 0);
    assert_int_equal(share_join(refused), STATUS_NO_SPACE);
    store_goes_on();
    session_over(peer);
    await(rows_of(TABLE_SESSION_DUE) == 0 && rows_of(TABLE_SHARE) == 0);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 3, 1);
    await_records(guest, 1);
    assert_int_equal(share_join(refused), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 4, 2);
    await(peer_look(guest).records + peer_look(refused).records == 3);
    peer_close(guest);
    peer_close(refused);
    peer_close(writer);
    kept_rig_close();
}

/* What a session gives back then goes out as soon as the share is durable, and once. */
static void given_back_meanwhile(void **state)
{
    (void)state;
    kept_rig_open(1, 0);
    struct peer *writer = peer_new(0, "w"), *peer = of_an_earlier_life(writer),
                *joins = session_of(0, "b");
    struct subscribe_call call;
    join_begin(&call, joins);
    session_over(peer);
    await(rows_of(TABLE_SHARE) >= 3);
    rig_calm();
    store_goes_on();
    join_ends(&call, STATUS_OK);
    await_records(joins, 3);
    await(rows_of(TABLE_SHARE) == 1); /* it takes part */
    peer_close(joins);
    peer_close(writer);
    kept_rig_close();
}

/* Nobody gets a record exactly once of which a start after kill -9 would not know that. */
static void exactly_once_waits(void **state)
{
    (void)state;
    kept_rig_open(1, 0);
    struct peer *writer = peer_new(0, "w"), *guest = peer_new(0, "guest"),
                *joins = session_of(0, "b");
    struct subscribe_call call;
    assert_int_equal(join_exactly(guest), STATUS_OK);
    join_begin(&call, joins);
    publish_many(writer, "t", GUARANTEE_EXACTLY_ONCE, 0, 1);
    await_answers(writer, 1);
    rig_calm();
    assert_int_equal(peer_look(guest).records, 0);
    store_holds_next(is_position);
    join_ends(&call, STATUS_OK);
    await(count_of(&store.append_count) > 0);
    rig_calm();
    assert_int_equal(peer_look(guest).records + peer_look(joins).records, 0);
    store_goes_on();
    await(peer_look(guest).records + peer_look(joins).records == 1);
    peer_close(guest);
    peer_close(joins);
    peer_close(writer);
    kept_rig_close();
}

/* Likewise when it does not become durable: it goes out then. */
static void exactly_once_goes_on(void **state)
{
    (void)state;
    kept_rig_open(1, 0);
    struct peer *writer = peer_new(0, "w"), *guest = peer_new(0, "guest"),
                *joins = session_of(0, "b");
    struct subscribe_call call;
    assert_int_equal(join_exactly(guest), STATUS_OK);
    join_begin(&call, joins);
    publish_many(writer, "t", GUARANTEE_EXACTLY_ONCE, 0, 1);
    await_answers(writer, 1);
    store_refuses_waiting(STATUS_NO_SPACE);
    join_ends(&call, STATUS_NO_SPACE);
    await_records(guest, 1);
    peer_close(guest);
    peer_close(joins);
    peer_close(writer);
    kept_rig_close();
}

/* ------------------------------------------------ beside other workers */

static bool is_filter_or_record(const struct storage_append *append)
{
    return append->batch_count > 0 ||
           has_row(append, STORAGE_PUT, TABLE_SESSION_STATE, SESSION_KIND_FILTER);
}

static unsigned home_of(struct peer *peer, const struct subscribe_item *item)
{
    return broker_home(rig.broker, share_id(&peer->client, item))->index;
}

/* A topic whose partition another worker owns, which is said; it has one record. */
static const char *topic_of_others(struct peer *writer, unsigned home, unsigned *owner)
{
    static const char *const topics[] = {"t/0", "t/1", "t/2", "t/3", "t/4", "t/5", "t/6", "t/7"};
    for (unsigned i = 0; i < 8; i++) {
        publish_many(writer, topics[i], GUARANTEE_AT_LEAST_ONCE, i, 1);
        await_answers(writer, i + 1);
        *owner = log_owner(rig.broker->log, writer->answers[i].partition);
        if (*owner != home)
            return topics[i];
    }
    fail_msg("all topics are of one worker");
    return NULL;
}

/* What another worker has committed before the share's filter comes after the answer to that: its
 * session does not read it, so that the reader must be shown it. */
static void committed_elsewhere_before(void **state)
{
    (void)state;
    kept_rig_open(3, 0);
    const struct subscribe_item item = {.filter = span_from_text("t/+"),
                                        .share = span_from_text("g"),
                                        .guarantee = GUARANTEE_AT_LEAST_ONCE};
    struct peer *guest = peer_new(0, "guest");
    unsigned home = home_of(guest, &item), owner;
    struct peer *writer = peer_new(home, "w"), *joins = session_of(home, "b");
    peer_close(guest);
    guest = peer_new(home, "guest");
    assert_int_equal(peer_subscribe_item(guest, item), STATUS_OK);
    const char *topic = topic_of_others(writer, home, &owner);
    uint32_t before = peer_look(writer).answers;
    await_records(guest, before);

    struct subscribe_call call;
    struct standstill busy;
    join_until(&call, joins, "t/+", is_filter_or_record);
    publish_many(writer, topic, GUARANTEE_AT_LEAST_ONCE, before, 1);
    await(count_of(&store.append_count) == 2);
    stand_still(&busy, owner);
    struct storage_append *filter = store.appends[0];
    store.appends[0] = store.appends[1];
    store.appends[1] = filter;
    store_goes_on();
    for (unsigned i = 0; i < 20; i++) {
        on(home, nothing_run, NULL);
        usleep(500);
    }
    move_on(&busy);
    join_ends(&call, STATUS_OK);
    await(peer_look(guest).records + peer_look(joins).records == before + 1);
    peer_close(guest);
    peer_close(joins);
    peer_close(writer);
    kept_rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(not_durable_after_all),
        cmocka_unit_test(given_back_meanwhile),
        cmocka_unit_test(exactly_once_waits),
        cmocka_unit_test(exactly_once_goes_on),
        cmocka_unit_test(committed_elsewhere_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
