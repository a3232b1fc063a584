/* SPDX-License-Identifier: Apache-2.0 */
/* What is stored of shares in which kept sessions take part: it goes when nobody needs it, nothing
 * else goes with it, and no record is lost or comes twice when storage refuses or is late. */
#include "core/base/pack.h"
#include "tests/unit/share_rig.h"
#include "tests/unit/transaction_rig.h"

/* ------------------------------------------------ the end of a share */

static bool ends_share(const struct storage_append *append)
{
    return has_row(append, STORAGE_DELETE_RANGE, TABLE_SHARE, 0);
}

/* A session joins while the share ends: that takes what is said of records with it, and not that
 * the session takes part. */
static void a_share_ends_without_whoever_joins(void **state)
{
    uint8_t joins[SHARE_ROW_KEY], gone[SHARE_ROW_KEY], back[SHARE_ROW_KEY];
    bool swept = *(unsigned *)*state != 0;
    kept_rig_open(1, 1);
    struct peer *peer = member(0, "a");
    uint64_t share = first_number(TABLE_SHARE);
    share_member_key(share, 77, joins);
    share_row_key(share, SHARE_KIND_GONE, 1, 1, gone);
    share_row_key(share, SHARE_KIND_RETURNED, 1, 2, back);
    change_row(STORAGE_PUT, span_of(gone, sizeof gone));
    change_row(STORAGE_PUT, span_of(back, sizeof back));
    if (swept) { /* the last member goes while nobody is there */
        peer_close(peer);
        peer = peer_new(0, "a");
        store_set(NULL, ends_share, 0);
        struct broker_attach attach = {.clean = true};
        bool present;
        assert_int_equal(session_attach(peer, attach, &present), STATUS_OK);
    } else {
        store_set(NULL, ends_share, 0);
        share_leave(peer);
    }
    await(count_of(&store.append_count) == 1);
    change_row(STORAGE_PUT, span_of(joins, sizeof joins));
    store_goes_on();
    await(rows_of(TABLE_SHARE) == 1);
    rig_calm();
    assert_int_equal(rows_of(TABLE_SHARE), 1);
    peer_close(peer);
    kept_rig_close();
}

/* What the sessions of an earlier life have given back is none of the next one's. */
static void a_share_begins_anew(void **state)
{
    (void)state;
    uint8_t gone[SHARE_ROW_KEY], back[SHARE_ROW_KEY];
    kept_rig_open(1, 1);
    struct peer *peer = member(0, "a");
    uint64_t share = first_number(TABLE_SHARE);
    share_leave(peer);
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION) == 1);
    share_row_key(share, SHARE_KIND_GONE, 1, 1, gone);
    share_row_key(share, SHARE_KIND_RETURNED, 1, 2, back);
    change_row(STORAGE_PUT, span_of(gone, sizeof gone));
    change_row(STORAGE_PUT, span_of(back, sizeof back));
    assert_int_equal(share_join(peer), STATUS_OK);
    assert_int_equal(rows_of(TABLE_SHARE), 1);
    peer_close(peer);
    kept_rig_close();
}

/* What a session gives back to a share that is over is nobody's. */
static void given_back_to_nobody(void **state)
{
    bool clean = *(unsigned *)*state != 0;
    kept_rig_open(1, 1);
    struct peer *writer = peer_new(0, "w"), *peer = member(0, "a");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 3);
    await_records(peer, 3);
    share_leave(peer); /* and the session keeps what it has */
    peer_close(peer);
    await(rows_of(TABLE_SESSION) == 1 && rows_of(TABLE_SHARE) == 0);
    peer = peer_new(0, "a");
    struct broker_attach attach = {.clean = clean, .expiry_s = clean ? 0 : 1};
    bool present;
    assert_int_equal(session_attach(peer, attach, &present), STATUS_OK);
    peer_close(peer);
    if (!clean)
        atomic_fetch_add(&clock_ahead_ms, 5000);
    await(rows_of(TABLE_SESSION) == 0);
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION_DUE) == 0);
    peer_close(writer);
    kept_rig_close();
}

/* Whoever leaves makes the sweep look; while others are there, it looks once. */
static void leaving_leaves_nothing_due(void **state)
{
    (void)state;
    kept_rig_open(1, 1);
    struct peer *stays = member(0, "stays"), *peer = member(0, "a");
    for (unsigned i = 0; i < 3; i++) {
        share_leave(peer);
        rig_calm();
        assert_int_equal(share_join(peer), STATUS_OK);
    }
    session_over(peer);
    await(rows_of(TABLE_SESSION_DUE) == 0);
    assert_int_equal(rows_of(TABLE_SHARE), 1);
    peer_close(stays);
    kept_rig_close();
}

/* ------------------------------------------------ storage refuses */

static bool names_a_share(const struct storage_append *append)
{
    return has_row(append, STORAGE_PUT, TABLE_SHARE, SHARE_KIND_GONE) ||
           has_row(append, STORAGE_DELETE, TABLE_SHARE, SHARE_KIND_MEMBER);
}

/* What a session could not take over when its client went goes to another member. */
static void not_taken_over_goes_back(void **state)
{
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *writer = peer_new(0, "w"), *a = member(1, "a");
    store_set(names_a_share, NULL, 0);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 5);
    await_records(a, 5);
    struct peer *b = member(2, "b");
    peer_close(a);
    await_records(b, 5);
    store_goes_on();
    peer_close(b);
    peer_close(writer);
    kept_rig_close();
}

/* That it left could not be stored: at its end it does not take part any longer nevertheless. */
static void leaves_at_its_end(void **state)
{
    kept_rig_open(*(unsigned *)*state, 1);
    struct peer *peer = member(1, "a");
    store_set(names_a_share, NULL, 0);
    share_leave(peer);
    await(count_of(&store.refused_count) == 1);
    rig_calm();
    store_goes_on();
    session_over(peer);
    await(rows_of(TABLE_SHARE) == 0);
    await(rows_of(TABLE_SESSION) == 0 && rows_of(TABLE_SESSION_DUE) == 0);
    kept_rig_close();
}

/* ------------------------------------------------ what a crash leaves */

/* A subscribe that broke off: by its rows the session takes part, but it has no place. */
static void takes_part_without_a_place(void **state)
{
    (void)state;
    uint8_t own[SESSION_STATE_KEY], takes_part[SHARE_ROW_KEY];
    bool present;
    kept_rig_open(1, 0);
    put_session("a", &(struct session_name_row){.session = 7, .expiry_s = UINT32_MAX});
    session_kind_key(7, SESSION_KIND_SHARE, 5, own);
    share_member_key(5, 7, takes_part);
    change_row(STORAGE_PUT, span_of(own, sizeof own));
    change_row(STORAGE_PUT, span_of(takes_part, sizeof takes_part));
    broker_fall();
    broker_bury();
    broker_rise(1);
    struct peer *peer = peer_attach(0, "a", UINT32_MAX, NULL, &present);
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION_STATE) == 0);
    peer_close(peer);
    kept_rig_close();
}

static bool ends_session(const struct storage_append *append)
{
    return has_row(append, STORAGE_DELETE_RANGE, TABLE_SESSION_STATE, 0);
}

/* What a session that is over had of a share goes back once, also when the rest of its end has to
 * be done again; what it has of its own stays until then. */
static void goes_back_once(void **state)
{
    (void)state;
    const struct session_mark mark = {.partition = 3, .next = 9, .commit = 12};
    const struct session_flight flights[] = {
        {.partition = 3, .offset = 4, .number = 1, .state = FLIGHT_SENT, .guarantee = 1},
        {.partition = 3,
         .offset = 5,
         .number = 2,
         .state = FLIGHT_SENT,
         .guarantee = 1,
         .share = 5},
        {.partition = 3,
         .offset = 6,
         .number = 3,
         .state = FLIGHT_SENT,
         .guarantee = 2,
         .share = 5},
    };
    const struct session_name name = session_name_of(TENANT_DEFAULT, span_from_text("a"));
    uint8_t key[SESSION_STATE_KEY], due[SESSION_DUE_KEY], back[SHARE_ROW_KEY];
    struct buf row;
    buf_init(&row, 4096);
    struct pack pack = pack_into(&row);
    session_position_begin(&pack, 10, &mark, 1, 3);
    for (unsigned i = 0; i < 3; i++)
        session_flight_encode(&pack, &flights[i]);
    kept_rig_open(1, 1);
    put_session("a", &(struct session_name_row){
                         .session = 7, .expiry_s = 1, .ended_ms = 1, .due_ms = 1001});
    session_kind_key(7, SESSION_KIND_POSITION, 0, key);
    put_row(span_of(key, sizeof key), buf_span(&row));
    buf_deinit(&row);
    session_due_key(1001, &name, due);
    share_member_key(5, 99, back); /* somebody takes part */
    change_row(STORAGE_PUT, span_of(back, sizeof back));
    store_set(ends_session, NULL, 0);
    change_row(STORAGE_PUT, span_of(due, sizeof due));
    broker_fall();
    broker_bury();
    broker_rise(1);
    await(count_of(&store.refused_count) > 1);
    assert_int_equal(rows_of(TABLE_SHARE), 2);
    share_row_key(5, SHARE_KIND_RETURNED, 3, 5, back);
    change_row(STORAGE_DELETE, span_of(back, sizeof back)); /* somebody has it */
    assert_int_equal(rows_of(TABLE_SHARE), 1);
    store_goes_on();
    await(rows_of(TABLE_SESSION) == 0 && rows_of(TABLE_SESSION_STATE) == 0);
    assert_int_equal(rows_of(TABLE_SHARE), 1);
    kept_rig_close();
}

/* A record that was given back goes to a session again before the share's own position has passed
 * it: the share comes to it later, and must not show it once more. */
static void passed_later(void **state)
{
    (void)state;
    bool present;
    kept_rig_open(1, 0);
    struct peer *writer = peer_new(0, "w"), *a = member(0, "a");
    peer_close(member(0, "b"));
    store_set(is_position, NULL, 0);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_records(a, 1);
    peer_close(a);
    await(count_of(&store.refused_count) > 0); /* the share's last position is one before it */
    rig_calm();
    store_set(NULL, NULL, 0);
    a = peer_new(0, "a");
    struct broker_attach attach = {.clean = true};
    assert_int_equal(session_attach(a, attach, &present), STATUS_OK);
    peer_close(a);
    assert_int_equal(rows_of(TABLE_SHARE), 3); /* b, gone, given back */

    store_set(NULL, NULL, TABLE_FILTER_INDEX);
    struct peer *b = member(0, "b");
    await_records(b, 1); /* as given back */
    await(count_of(&store.scan_count) == 1);
    peer_close(b);
    rig_calm();
    store_goes_on();
    rig_calm();
    b = member(0, "b");
    await_records(b, 1); /* again */
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    await_records(b, 2);
    assert_int_not_equal(b->records[0].offset, b->records[1].offset);
    peer_close(b);
    peer_close(writer);
    kept_rig_close();
}

/* ------------------------------------------------ within transactions */

/* A member of which nothing is kept, in a share that is kept or not, and its first leases in a
 * transaction, with a record to another topic. */
struct unit_call {
    struct deal *deal;
    uint32_t first, count;
};

static void unit_run(void *context)
{
    struct unit_call *call = context;
    struct deal *deal = call->deal;
    const struct publish publish = {.topic = span_from_text("other"),
                                    .guarantee = GUARANTEE_AT_LEAST_ONCE};
    CHECK(broker_begin(&deal->transaction) == STATUS_OK);
    CHECK(broker_publish_within(&deal->transaction, &publish) == STATUS_OK);
    for (uint32_t i = 0; i < call->count; i++) {
        const struct seen_lease *lease = &deal->peer->leases[call->first + i];
        CHECK(broker_part_within(&deal->transaction, 100) == STATUS_OK);
        broker_settle_shared_within(&deal->transaction, lease->subscription, lease->lease);
    }
    broker_commit(&deal->transaction);
}

static void unit_begin(struct deal *deal, struct peer *peer, uint32_t first, uint32_t count)
{
    *deal = (struct deal){.peer = peer, .transaction.client = &peer->client};
    request_init(&deal->transaction.request, rig.loops[peer->worker], deal_done);
    on(peer->worker, unit_run, &(struct unit_call){deal, first, count});
}

static enum status unit_commit(struct peer *peer, uint32_t first, uint32_t count)
{
    struct deal deal;
    unit_begin(&deal, peer, first, count);
    rig_await(&deal.done);
    return deal.status;
}

static struct peer *link_peer(unsigned worker, const char *id)
{
    struct peer *peer = peer_new(worker, id);
    peer->settles = false;
    assert_int_equal(share_join(peer), STATUS_OK);
    return peer;
}

/* That it comes last means that nothing else was to come. */
static void assert_rest(struct peer *writer, struct peer *peer, uint32_t count, unsigned last)
{
    char text[16];
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, last, 1);
    await_records(peer, count + 1);
    rig_calm();
    assert_int_equal(peer->record_count, count + 1);
    snprintf(text, sizeof text, "%u", last);
    assert_string_equal(peer->records[count].value, text);
}

static bool is_of_unit(const struct storage_append *append)
{
    return append->unit != 0;
}

/* What is settled is over with the commit, also where the share's own rows do not know of it; what
 * was given back before as well. */
static void over_with_a_unit(void **state)
{
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *writer = peer_new(0, "w");
    peer_close(member(0, "k")); /* so that it is kept */
    store_set(is_position, NULL, 0);
    struct peer *a = link_peer(1, "a");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 4);
    await_records(a, 4);
    assert_int_equal(unit_commit(a, 0, 1), STATUS_OK);
    assert_int_equal(unit_commit(a, 1, 1), STATUS_OK);
    assert_int_equal(rows_of(TABLE_SHARE), 3); /* k, and two that are gone */
    peer_close(a);
    rig_calm();
    store_set(NULL, NULL, 0);
    struct peer *b = link_peer(2, "b"); /* from a position that is before all of them */
    await_records(b, 2);
    assert_string_equal(b->records[0].value, "2");
    assert_int_equal(unit_commit(b, 0, 2), STATUS_OK);
    assert_rest(writer, b, 2, 4);
    peer_close(b);
    await(rows_of(TABLE_SHARE) == 1); /* now the position says the same */
    struct peer *c = link_peer(0, "c");
    await_records(c, 1);
    assert_rest(writer, c, 1, 5);
    peer_close(c);
    peer_close(writer);
    kept_rig_close();
}

/* A session that had it is over: the row that says so goes with the unit. */
static void given_back_and_over_with_a_unit(void **state)
{
    const struct broker_attach clean = {.clean = true};
    bool present;
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *writer = peer_new(0, "w"), *over = member(1, "over");
    peer_close(member(0, "k"));
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 4);
    await_records(over, 4);
    struct peer *a = link_peer(2, "a");
    store_set(is_position, NULL, 0);
    peer_close(over);
    over = peer_new(1, "over");
    assert_int_equal(session_attach(over, clean, &present), STATUS_OK);
    await_records(a, 4);
    assert_int_equal(rows_of(TABLE_SHARE), 1 + 4 + 4); /* k, gone, given back */
    assert_int_equal(unit_commit(a, 0, 4), STATUS_OK);
    assert_int_equal(rows_of(TABLE_SHARE), 1 + 4);
    peer_close(a);
    rig_calm();
    store_set(NULL, NULL, 0);
    a = link_peer(2, "a");
    assert_rest(writer, a, 0, 4);
    peer_close(a);
    peer_close(over);
    peer_close(writer);
    kept_rig_close();
}

/* Nothing has become of what a refused unit settled; a lease is in one unit. */
static void as_it_was_after_a_unit(void **state)
{
    bool kept = *(unsigned *)*state == 3;
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *writer = peer_new(0, "w"), *a;
    if (kept)
        peer_close(member(0, "k"));
    a = link_peer(1, "a");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 4);
    await_records(a, 4);
    store_set(is_of_unit, NULL, 0);
    assert_int_equal(unit_commit(a, 0, 4), STATUS_NO_SPACE);
    store_set(NULL, is_of_unit, 0);
    struct deal deal;
    unit_begin(&deal, a, 0, 1);
    assert_int_equal(unit_commit(a, 0, 1), STATUS_STALE);
    store_goes_on();
    rig_await(&deal.done);
    assert_int_equal(deal.status, STATUS_OK);
    a->leases[0] = a->leases[1];
    assert_int_equal(unit_commit(a, 0, 2), STATUS_STALE); /* twice the same */
    peer_close(a);
    struct peer *b = link_peer(2, "b");
    if (kept) {
        await_records(b, 3);
        assert_string_equal(b->records[0].value, "1");
    }
    assert_rest(writer, b, kept ? 3 : 0, 4);
    peer_close(b);
    peer_close(writer);
    kept_rig_close();
}

/* Its client goes while the unit is on its way: who gets what it settled is as that ends, and the
 * rest is another's at once. */
static void its_client_goes_meanwhile(void **state)
{
    unsigned workers = *(unsigned *)*state;
    kept_rig_open(workers, 0);
    for (unsigned round = 0; round < 4; round++) {
        bool kept = round % 2 == 0, stored = round < 2;
        struct deal deal;
        struct peer *writer = peer_new(0, "w"), *a = NULL, *b;
        if (kept)
            peer_close(member(0, "k"));
        a = link_peer(1, "a");
        b = link_peer(2, "b");
        publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 8);
        await_records(a, 4);
        await_records(b, 4);
        store_set(NULL, is_of_unit, 0);
        unit_begin(&deal, a, 0, 3);
        await(count_of(&store.append_count) > 0);
        rig_calm();
        peer_close(a);
        await_records(b, 5);
        if (stored)
            store_goes_on();
        else
            store_refuses_waiting(STATUS_NO_SPACE);
        rig_await(&deal.done);
        assert_int_equal(deal.status, stored ? STATUS_OK : STATUS_NO_SPACE);
        await_records(b, stored ? 5 : 8);
        assert_rest(writer, b, stored ? 5 : 8, 8);
        peer_settle(b, 9);
        peer_close(b);
        peer_close(writer);
        if (kept)
            session_over(member(0, "k"));
        rig_calm();
    }
    kept_rig_close();
}

/* Nobody knows whether it was stored: who hears of that goes, and nobody else gets what may be
 * over.
 */
static void failed_with_a_unit(void **state)
{
    kept_rig_open(*(unsigned *)*state, 0);
    for (unsigned round = 0; round < 2; round++) {
        struct deal deal;
        struct peer *writer = peer_new(0, "w"), *a;
        if (round == 0)
            peer_close(member(0, "k"));
        a = link_peer(1, "a");
        publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 4);
        await_records(a, 4);
        store_set(NULL, is_of_unit, 0);
        unit_begin(&deal, a, 0, 3);
        await(count_of(&store.append_count) > 0);
        rig_calm();
        store_refuses_waiting(STATUS_STORAGE_FAILED);
        rig_await(&deal.done);
        assert_int_equal(deal.status, STATUS_STORAGE_FAILED);
        struct peer *b = link_peer(2, "b");
        peer_close(a);
        await_records(b, 1);
        assert_string_equal(b->records[0].value, "3");
        assert_rest(writer, b, 1, 4);
        peer_settle(b, 2);
        peer_close(b);
        peer_close(writer);
        if (round == 0)
            session_over(member(0, "k"));
        rig_calm();
    }
    kept_rig_close();
}

/* ------------------------------------------------ whose end somebody waits for */

static bool says_gone(const struct storage_append *append)
{
    return append->unit == 0 && has_row(append, STORAGE_PUT, TABLE_SHARE, SHARE_KIND_GONE);
}

static void take_oldest(void *context)
{
    struct peer *peer = context;
    const struct seen_lease *lease = &peer->leases[peer->lease_first];
    assert_true(broker_share_taken(lease->subscription, lease->lease));
}

/* The member hears of it when the row is there, also when there was no space for it at first, and
 * not when it has gone meanwhile; either way nobody else gets the record. */
static void taken_and_stored(void **state)
{
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *writer = peer_new(0, "w");
    peer_close(member(0, "k"));
    struct peer *a = link_peer(1, "a");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 3);
    await_records(a, 3);
    store_set(says_gone, NULL, 0);
    on(a->worker, take_oldest, a);
    await(count_of(&store.refused_count) == 1);
    rig_calm();
    assert_int_equal(peer_look(a).released, 0);
    store_set(NULL, NULL, 0);
    await(peer_look(a).released == 1);
    peer_settle(a, 1);
    store_set(NULL, says_gone, 0);
    on(a->worker, take_oldest, a);
    await(count_of(&store.append_count) == 1);
    peer_close(a);
    store_goes_on();
    struct peer *b = link_peer(2, "b");
    await_records(b, 1);
    assert_string_equal(b->records[0].value, "2");
    assert_rest(writer, b, 1, 3);
    peer_close(b);
    peer_close(writer);
    kept_rig_close();
}

static void take_two(void *context)
{
    struct peer *peer = context;
    take_oldest(peer);
    const struct seen_lease *lease = &peer->leases[peer->lease_first + 1];
    assert_true(broker_share_taken(lease->subscription, lease->lease));
}

/* Nobody knows whether it was stored, and nobody ever will: who waits for that is told, once. */
static void taken_and_failed(void **state)
{
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *writer = peer_new(0, "w");
    peer_close(member(0, "k"));
    struct peer *a = link_peer(1, "a");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 3);
    await_records(a, 3);
    store_set(NULL, says_gone, 0);
    on(a->worker, take_two, a);
    await(count_of(&store.append_count) == 1);
    store_refuses_waiting(STATUS_STORAGE_FAILED);
    await(peer_look(a).ended); /* and has closed */
    assert_int_equal(a->why, STATUS_STORAGE_FAILED);
    assert_int_equal(a->released, 0);
    peer_free(a);
    struct peer *b = link_peer(2, "b");
    await_records(b, 1);
    assert_string_equal(b->records[0].value, "2");
    assert_rest(writer, b, 1, 3);
    peer_close(b);
    peer_close(writer);
    kept_rig_close();
}

int main(void)
{
    static unsigned none = 0, one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(a_share_ends_without_whoever_joins, &none),
        cmocka_unit_test_prestate(a_share_ends_without_whoever_joins, &one),
        cmocka_unit_test(a_share_begins_anew),
        cmocka_unit_test_prestate(given_back_to_nobody, &none),
        cmocka_unit_test_prestate(given_back_to_nobody, &one),
        cmocka_unit_test(leaving_leaves_nothing_due),
        BOTH(not_taken_over_goes_back),
        BOTH(leaves_at_its_end),
        cmocka_unit_test(takes_part_without_a_place),
        cmocka_unit_test(goes_back_once),
        cmocka_unit_test(passed_later),
        BOTH(over_with_a_unit),
        BOTH(given_back_and_over_with_a_unit),
        BOTH(as_it_was_after_a_unit),
        BOTH(its_client_goes_meanwhile),
        BOTH(failed_with_a_unit),
        BOTH(taken_and_stored),
        BOTH(taken_and_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
