/* SPDX-License-Identifier: Apache-2.0 */
/* Who has a place in a durable share: members without a session, more of them than may be, and
 * sessions of which storage does not know, or that hand a record on to each other, and who comes
 * with another selector. */
#include "core/broker/worker.h"
#include "tests/unit/share_rig.h"

/* ------------------------------------------------ without sessions */

/* While only members without a session are left, nothing is looked at again and again: the share
 * ends with the last of them. */
static void guests_keep_nothing_due(void **state)
{
    kept_rig_open(*(unsigned *)*state, 1);
    struct peer *peer = member(1, "a"), *guest = peer_new(2, "guest");
    assert_int_equal(share_join(guest), STATUS_OK);
    share_leave(peer);
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION_DUE) == 0);
    assert_int_equal(rows_of(TABLE_SESSION), 2); /* the share goes on */
    peer_close(guest);
    await(rows_of(TABLE_SESSION) == 1);
    peer_close(peer);
    kept_rig_close();
}

/* Likewise of what is given back to a share that has begun anew without sessions. */
static void guests_get_nothing_of_an_earlier_life(void **state)
{
    kept_rig_open(*(unsigned *)*state, 1);
    struct peer *writer = peer_new(0, "w"), *peer = member(1, "a"), *guest = peer_new(2, "guest");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 3);
    await_records(peer, 3);
    share_leave(peer);
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION) == 1);
    assert_int_equal(share_join(guest), STATUS_OK);
    session_over(peer);
    await(rows_of(TABLE_SESSION) == 0 && rows_of(TABLE_SHARE) == 0 &&
          rows_of(TABLE_SESSION_DUE) == 0);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 3, 1);
    await_records(guest, 1);
    assert_int_equal(guest->records[0].offset, 3);
    peer_close(guest);
    peer_close(writer);
    kept_rig_close();
}

/* ------------------------------------------------ too many */

/* A session that comes back has its place, also when others have taken all there are. */
static void comes_back_to_a_full_share(void **state)
{
    unsigned workers = *(unsigned *)*state;
    kept_rig_open(workers, 1);
    broker_fall();
    broker_bury();
    rig.options.share_members = 1;
    broker_rise(workers);
    struct peer *peer = member(1, "a"), *guest = peer_new(2, "guest");
    assert_int_equal(share_join(guest), STATUS_OVER_QUOTA);
    peer_close(peer);
    await(share_join(guest) == STATUS_OK);
    peer = peer_new(0, "other");
    bool present;
    const struct broker_attach attach = {.expiry_s = UINT32_MAX};
    assert_int_equal(session_attach(peer, attach, &present), STATUS_OK);
    struct subscribe_item twice[2] = {{.filter = span_from_text("t"),
                                       .share = span_from_text("g"),
                                       .guarantee = GUARANTEE_AT_LEAST_ONCE}};
    twice[1] = twice[0];
    struct subscribe_call call = {
        .subscribe = {.client = &peer->client, .items = twice, .count = 2}};
    request_init(&call.subscribe.request, rig.loops[peer->worker], subscribe_call_done);
    on(peer->worker, subscribe_call_run, &call);
    rig_await(&call.done);
    assert_int_equal(twice[0].status, STATUS_OVER_QUOTA);
    assert_int_equal(twice[1].status, STATUS_OVER_QUOTA);
    peer_close(peer);
    peer = member(1, "a");
    await(rows_of(TABLE_SHARE) == 1 && rows_of(TABLE_SESSION_DUE) == 0);
    struct peer *writer = peer_new(0, "w");
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 4);
    await_records(peer, 2);
    peer_close(peer);
    peer_close(guest);
    peer_close(writer);
    kept_rig_close();
    rig.options.share_members = 0;
}

/* ------------------------------------------------ storage refuses */

static bool leaves_a_share(const struct storage_append *append)
{
    return has_row(append, STORAGE_DELETE, TABLE_SHARE, SHARE_KIND_MEMBER);
}

static bool joins_a_share(const struct storage_append *append)
{
    return has_row(append, STORAGE_PUT, TABLE_SHARE, SHARE_KIND_MEMBER);
}

static struct peer *in_all_it_may(void)
{
    struct peer *peer = peer_new(0, "a");
    const struct broker_attach attach = {.expiry_s = UINT32_MAX};
    bool present;
    assert_int_equal(session_attach(peer, attach, &present), STATUS_OK);
    for (unsigned i = 0; i < LIMIT_SHARES; i++) {
        char name[8];
        snprintf(name, sizeof name, "g%u", i);
        assert_int_equal(join_named(peer, name), STATUS_OK);
    }
    assert_int_equal(rows_of(TABLE_SHARE), LIMIT_SHARES);
    return peer;
}

/* It has no place in a share, and that could not be stored: at its end it takes part no longer. */
static void has_no_place_at_its_end(void **state)
{
    (void)state;
    kept_rig_open(1, 1);
    struct peer *peer = in_all_it_may();
    store_set(leaves_a_share, NULL, 0);
    assert_int_equal(share_join(peer), STATUS_OVER_QUOTA);
    assert_int_equal(count_of(&store.refused_count), 1);
    store_goes_on();
    session_over(peer);
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION_DUE) == 0);
    kept_rig_close();
}

/* That it takes part could not be stored: the next time is the first. */
static void takes_part_only_by_its_rows(void **state)
{
    (void)state;
    kept_rig_open(1, 1);
    struct peer *peer = in_all_it_may();
    store_set(joins_a_share, NULL, 0);
    assert_int_equal(share_join(peer), STATUS_NO_SPACE);
    store_goes_on();
    assert_int_equal(share_join(peer), STATUS_OVER_QUOTA);
    await(rows_of(TABLE_SHARE) == LIMIT_SHARES);
    peer_close(peer);
    kept_rig_close();
}

/* Who could not store that it left a share in which it has no place does so at its end. */
static void leaves_without_a_place_at_its_end(void **state)
{
    (void)state;
    bool present;
    kept_rig_open(1, 1);
    peer_close(member(0, "a"));
    store_set(leaves_a_share, NULL, 0);
    struct peer *peer = peer_attach(0, "a", UINT32_MAX, NULL, &present);
    await(count_of(&store.refused_count) == 1);
    rig_calm();
    store_goes_on();
    session_over(peer);
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION) == 0);
    kept_rig_close();
}

/* ------------------------------------------------ from one to the next */

static bool takes_over(const struct storage_append *append)
{
    return has_row(append, STORAGE_PUT, TABLE_SHARE, SHARE_KIND_GONE);
}

static bool forgets(const struct storage_append *append)
{
    return has_row(append, STORAGE_DELETE, TABLE_SHARE, SHARE_KIND_GONE);
}

/* A session has a record, is over, and the next one has it before the share has said of the first
 * that it is done: what is stored then says so of the second. */
static void the_second_has_it(void **state)
{
    (void)state;
    kept_rig_open(1, 0);
    struct peer *writer = peer_new(0, "w"), *a = member(0, "a");
    store_set(forgets, NULL, 0);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_records(a, 1);
    struct peer *b = member(0, "b");
    await(rows_of(TABLE_SHARE) == 3); /* a, b, and a has it */
    await(count_of(&store.refused_count) > 0);
    uint32_t before = count_of(&store.position_count);
    store_answers_late(takes_over);
    session_over(a);
    await_records(b, 1);
    await(count_of(&store.late_count) == 1); /* b has it by its row, and has not been told so */
    store_set(NULL, NULL, 0);
    await(count_of(&store.position_count) > before); /* of the share */
    assert_int_equal(rows_of(TABLE_SHARE), 2);
    store_answers();
    await(rows_of(TABLE_SHARE) == 1);
    peer_close(b);
    peer_close(writer);
    kept_rig_close();
}

/* ------------------------------------------------ exactly once, without a session */

static void credit_run(void *context)
{
    struct settle_call *call = context;
    client_set_credit(&call->peer->client, call->count);
}

static void set_credit(struct peer *peer, uint32_t credit)
{
    on(peer->worker, credit_run, &(struct settle_call){peer, credit});
}

/* It goes before the row is there that gives it a record: that is anybody's again, by another row,
 * without anybody who could take it. */
static void goes_before_its_row(void **state)
{
    (void)state;
    kept_rig_open(1, 0);
    struct peer *writer = peer_new(0, "w"), *peer = peer_new(0, "full"), *guest;
    peer_close(member(0, "a"));
    set_credit(peer, 0);
    assert_int_equal(share_join(peer), STATUS_OK);
    guest = peer_new(0, "guest");
    assert_int_equal(join_exactly(guest), STATUS_OK);
    rig_calm();
    store_set(NULL, is_position, 0);
    publish_many(writer, "t", GUARANTEE_EXACTLY_ONCE, 0, 1);
    await(count_of(&store.append_count) == 1);
    uint32_t before = count_of(&store.position_count);
    peer_close(guest);
    store_goes_on();
    await(count_of(&store.position_count) > before);
    guest = peer_new(0, "another");
    assert_int_equal(share_join(guest), STATUS_OK);
    await_records(guest, 1);
    peer_close(guest);
    peer_close(peer);
    peer_close(writer);
    kept_rig_close();
}

static void give_oldest_back(void *context)
{
    const struct peer *peer = context;
    const struct seen_lease *lease = &peer->leases[peer->lease_first];
    broker_share_again(lease->subscription, lease->lease, false);
}

/* What a row reserves goes before what was given back, also where that lies between, and comes
 * while it is read. */
static void given_back_between_reserved_ones(void **state)
{
    static const char *const order[] = {"1", "0", "2", "1"};
    (void)state;
    kept_rig_open(1, 0);
    struct peer *writer = peer_new(0, "w");
    peer_close(member(0, "a"));
    for (unsigned i = 0; i < 3; i++) {
        publish_many(writer, "t", i == 1 ? GUARANTEE_AT_LEAST_ONCE : GUARANTEE_EXACTLY_ONCE, i, 1);
        await_answers(writer, i + 1);
    }
    peer_close(writer);
    broker_fall(); /* so that the log has to read */
    broker_bury();
    broker_rise(1);
    struct peer *guest = peer_new(0, "guest");
    guest->settles = false;
    store_set(NULL, is_position, 0);
    assert_int_equal(join_exactly(guest), STATUS_OK);
    await_records(guest, 1);
    store_reads_wait(true);
    store_goes_on();
    await(count_of(&store.read_count) == 1);
    on(guest->worker, give_oldest_back, guest);
    store_reads_wait(false);
    await_records(guest, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_string_equal(guest->records[i].value, order[i]);
    peer_close(guest);
    kept_rig_close();
}

/* No more is written down for it than it can take now: what a kill -9 would drop. */
static void gets_what_it_can_take(void **state)
{
    (void)state;
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *writer = peer_new(0, "w"), *guest = peer_new(1, "guest");
    peer_close(member(0, "a"));
    publish_many(writer, "t", GUARANTEE_EXACTLY_ONCE, 0, 50);
    await_answers(writer, 50);
    rig_calm();
    guest->settles = false;
    set_credit(guest, 3);
    store_set(NULL, is_position, 0);
    assert_int_equal(join_exactly(guest), STATUS_OK);
    await(count_of(&store.append_count) == 1);
    const struct storage_append *append = store.appends[0];
    struct session_position flights = {0};
    for (uint32_t i = 0; i < append->row_count; i++)
        if (append->rows[i].key.data[9] == SESSION_KIND_BLOCK)
            assert_int_equal(
                session_block_decode(append->rows[i].value, 0, LIMIT_SHARE_FLIGHTS, &flights),
                STATUS_OK);
    assert_int_equal(flights.flight_count, 3);
    store_goes_on();
    for (uint32_t count = 3; count < 50; count++) {
        await_records(guest, count);
        peer_settle(guest, 1);
    }
    await_records(guest, 50);
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(guest->records[i].offset, i);
    peer_close(guest);
    peer_close(writer);
    kept_rig_close();
}

/* It is granted exactly once while a record is on its way to another worker, for which that was not
 * so: that waits for its row as well. Which worker is the share's home is chance. */
static void more_is_granted_on_the_way(void **state)
{
    (void)state;
    kept_rig_open(3, 0);
    struct peer *writer = peer_new(0, "w"), *keeps = peer_new(0, "keeps");
    const struct broker_attach attach = {.expiry_s = UINT32_MAX};
    bool present;
    assert_int_equal(session_attach(keeps, attach, &present), STATUS_OK);
    set_credit(keeps, 0);
    for (unsigned i = 0; i < 6; i++) {
        struct peer *guest = peer_new(2, "guest");
        struct standstill standstill;
        struct subscribe_call call = {.subscribe = {.client = &guest->client, .count = 1}};
        struct errand again = {
            .mail = {.deliver = errand_deliver}, .run = subscribe_call_run, .context = &call};
        char topic[8];
        snprintf(topic, sizeof topic, "t/%u", i);
        call.item = (struct subscribe_item){.filter = span_from_text(topic),
                                            .share = span_from_text("g"),
                                            .guarantee = GUARANTEE_AT_LEAST_ONCE};
        assert_int_equal(peer_subscribe_item(keeps, call.item), STATUS_OK);
        assert_int_equal(peer_subscribe_item(guest, call.item), STATUS_OK);
        rig_calm();
        call.item.guarantee = GUARANTEE_EXACTLY_ONCE;
        call.subscribe.items = &call.item;
        request_init(&call.subscribe.request, rig.loops[2], subscribe_call_done);
        store_set(NULL, is_position, 0);
        stand_still(&standstill, 2);
        mailbox_post(rig.loops[2], &again.mail);
        publish_many(writer, topic, GUARANTEE_EXACTLY_ONCE, i, 1);
        for (unsigned k = 0; k < 50 && peer_look(writer).answers <= i; k++)
            usleep(2000); /* else the topic is worker 2's */
        for (unsigned k = 0; k < 20; k++) {
            on(0, nothing_run, NULL);
            on(1, nothing_run, NULL);
        }
        move_on(&standstill);
        rig_await(&again.done);
        rig_await(&call.done);
        await_answers(writer, i + 1);
        rig_calm();
        assert_int_equal(peer_look(guest).records, 0);
        store_goes_on();
        await_records(guest, 1);
        peer_close(guest);
    }
    peer_close(keeps);
    peer_close(writer);
    kept_rig_close();
}

/* Likewise while the share is loaded for it: what has waited there goes to it behind its row. */
static void more_is_granted_while_it_joins(void **state)
{
    (void)state;
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *writer = peer_new(0, "w"), *guest = peer_new(2, "guest");
    peer_close(member(0, "a"));
    publish_many(writer, "t", GUARANTEE_EXACTLY_ONCE, 0, 1);
    await_answers(writer, 1);
    rig_calm();
    struct subscribe_call call = {.subscribe = {.client = &guest->client, .count = 1},
                                  .item = {.filter = span_from_text("t"),
                                           .share = span_from_text("g"),
                                           .guarantee = GUARANTEE_AT_LEAST_ONCE}};
    call.subscribe.items = &call.item;
    request_init(&call.subscribe.request, rig.loops[guest->worker], subscribe_call_done);
    store_set(NULL, NULL, TABLE_SHARE);
    on(guest->worker, subscribe_call_run, &call);
    await(count_of(&store.scan_count) == 1);
    assert_int_equal(join_exactly(guest), STATUS_OK);
    store_scans_go_on(is_position);
    rig_await(&call.done);
    assert_int_equal(call.item.status, STATUS_OK);
    await(count_of(&store.append_count) == 1);
    rig_calm();
    assert_int_equal(peer_look(guest).records, 0);
    store_goes_on();
    await_records(guest, 1);
    peer_close(guest);
    peer_close(writer);
    kept_rig_close();
}

/* ------------------------------------------------ another selector */

struct newcomer {
    struct peer *peer;
    struct selector *selector;
    struct subscribe_call call;
};

static void asks(struct newcomer *newcomer)
{
    struct subscribe_call *call = &newcomer->call;
    *call = (struct subscribe_call){0};
    call->item = (struct subscribe_item){.filter = span_from_text("t"),
                                         .share = span_from_text("g"),
                                         .guarantee = GUARANTEE_AT_LEAST_ONCE,
                                         .selector = newcomer->selector};
    call->subscribe = (struct broker_subscribe){
        .client = &newcomer->peer->client, .items = &call->item, .count = 1};
    request_init(&call->subscribe.request, rig.loops[newcomer->peer->worker], subscribe_call_done);
    on(newcomer->peer->worker, subscribe_call_run, call);
}

static enum status comes(struct newcomer *newcomer)
{
    asks(newcomer);
    rig_await(&newcomer->call.done);
    return newcomer->call.item.status;
}

static struct newcomer newcomer_new(unsigned worker, bool kept)
{
    struct newcomer newcomer = {.peer = peer_new(worker, "b")};
    const struct broker_attach attach = {.expiry_s = UINT32_MAX};
    bool present;
    assert_int_equal(selector_compile(span_from_text("topic = 't'"), &newcomer.selector, NULL),
                     STATUS_OK);
    if (kept)
        assert_int_equal(session_find(newcomer.peer, attach, &present), STATUS_OK);
    return newcomer;
}

static void newcomer_close(struct newcomer *newcomer)
{
    peer_close(newcomer->peer);
    selector_unref(newcomer->selector);
}

static unsigned home_of_the_share(void)
{
    struct peer *probe = member(0, "probe");
    unsigned home = broker_home(rig.broker, first_number(TABLE_SHARE))->index;
    session_over(probe);
    await(rows_of(TABLE_SHARE) == 0 &&
          rows_of(TABLE_SESSION) == 0); /* the share has gone as well */
    return home;
}

/* The last that took part has gone, and its share's home hears of that together with who comes. */
static void the_next_selector_waits_for_who_goes(void **state)
{
    struct standstill standstill;
    kept_rig_open(3, 0);
    unsigned home = home_of_the_share();
    struct peer *a = member((home + 1) % 3, "a"), *writer = peer_new(home, "w");
    struct newcomer b = newcomer_new((home + 2) % 3, *(unsigned *)*state != 0);
    stand_still(&standstill, home);
    session_over(a);
    asks(&b);
    move_on(&standstill);
    rig_await(&b.call.done);
    assert_int_equal(b.call.item.status, STATUS_OK);
    on(b.peer->worker, session_begin_run, b.peer);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 3);
    await_records(b.peer, 3);
    newcomer_close(&b);
    peer_close(writer);
    kept_rig_close();
}

/* Likewise when it has left before, and come back while its share looked who takes part. */
static void the_next_selector_waits_for_who_came_back(void **state)
{
    (void)state;
    struct standstill standstill;
    kept_rig_open(3, 0);
    unsigned home = home_of_the_share();
    struct newcomer back = {0}, b = newcomer_new((home + 2) % 3, true);
    struct peer *a = member((home + 1) % 3, "a");
    store_set(NULL, NULL, TABLE_SHARE);
    peer_close(a);
    await(count_of(&store.scan_count) == 1);
    back.peer = peer_new((home + 1) % 3, "a");
    bool present;
    const struct broker_attach attach = {.expiry_s = UINT32_MAX};
    assert_int_equal(session_find(back.peer, attach, &present), STATUS_OK);
    asks(&back);
    rig_calm();
    assert_false(atomic_load(&back.call.done));
    store_goes_on();
    rig_await(&back.call.done);
    assert_int_equal(back.call.item.status, STATUS_OK);
    on(back.peer->worker, session_begin_run, back.peer);
    rig_calm();
    stand_still(&standstill, home);
    session_over(back.peer);
    asks(&b);
    move_on(&standstill);
    rig_await(&b.call.done);
    assert_int_equal(b.call.item.status, STATUS_OK);
    newcomer_close(&b);
    kept_rig_close();
}

/* Whoever is there, or comes back, or has not settled, does not go. */
static void the_next_selector_waits_for_nobody_else(void **state)
{
    (void)state;
    kept_rig_open(3, 0);
    unsigned home = home_of_the_share();
    struct peer *a = member((home + 1) % 3, "a"), *writer = peer_new(home, "w");
    struct newcomer b = newcomer_new((home + 2) % 3, false);
    assert_int_equal(comes(&b), STATUS_EXISTS);
    peer_close(a);
    rig_calm();
    assert_int_equal(comes(&b), STATUS_EXISTS);
    a = member((home + 1) % 3, "a");
    struct peer *slow = peer_new((home + 1) % 3, "slow");
    slow->settles = false;
    assert_int_equal(share_join(slow), STATUS_OK);
    publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, 0, 4);
    await_records(slow, 2);
    share_leave(slow);
    session_over(a);
    rig_calm();
    assert_int_equal(comes(&b), STATUS_EXISTS);
    peer_close(slow);
    assert_int_equal(comes(&b), STATUS_OK);
    newcomer_close(&b);
    peer_close(writer);
    kept_rig_close();
}

int main(void)
{
    static unsigned none = 0, one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(guests_keep_nothing_due),
        BOTH(guests_get_nothing_of_an_earlier_life),
        BOTH(comes_back_to_a_full_share),
        cmocka_unit_test(has_no_place_at_its_end),
        cmocka_unit_test(takes_part_only_by_its_rows),
        cmocka_unit_test(leaves_without_a_place_at_its_end),
        cmocka_unit_test(the_second_has_it),
        cmocka_unit_test(goes_before_its_row),
        cmocka_unit_test(given_back_between_reserved_ones),
        BOTH(gets_what_it_can_take),
        cmocka_unit_test(more_is_granted_on_the_way),
        BOTH(more_is_granted_while_it_joins),
        cmocka_unit_test_prestate(the_next_selector_waits_for_who_goes, &none),
        cmocka_unit_test_prestate(the_next_selector_waits_for_who_goes, &one),
        cmocka_unit_test(the_next_selector_waits_for_who_came_back),
        cmocka_unit_test(the_next_selector_waits_for_nobody_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
