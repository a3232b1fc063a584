/* SPDX-License-Identifier: Apache-2.0 */
/* What is stored of records that members of a durable share hold: what a settlement costs, and what
 * a restart makes of it. */
#include "core/broker/session.h"
#include "core/broker/share.h"
#include "tests/unit/share_rig.h"

enum { TURN = 1000, SETTLED = 8 };

static void forget_answers(void *context)
{
    ((struct peer *)context)->answer_count = 0;
}

static void publish_all(struct peer *writer, uint32_t count)
{
    for (uint32_t first = 0; first < count; first += TURN) {
        uint32_t some = count - first < TURN ? count - first : TURN;
        publish_many(writer, "t", GUARANTEE_AT_LEAST_ONCE, first, some);
        await_answers(writer, some);
        on(writer->worker, forget_answers, writer);
    }
}

static uint64_t state_bytes(void)
{
    pthread_mutex_lock(&store.lock);
    uint64_t bytes = store.state_bytes;
    pthread_mutex_unlock(&store.lock);
    return bytes;
}

/* Some of them, far from each other. */
static void settle_scattered(void *context)
{
    struct peer *peer = context;
    uint32_t known = peer->lease_count < SEEN_MAX ? peer->lease_count : SEEN_MAX;
    for (uint32_t i = 0; i < SETTLED; i++) {
        const struct seen_lease *lease = &peer->leases[known / SETTLED * i];
        broker_share_settled(lease->subscription, lease->lease);
    }
    client_drained(&peer->client);
}

struct leases {
    struct peer *peer;
    uint32_t count;
};

static void leases_run(void *context)
{
    struct leases *leases = context;
    leases->count = leases->peer->lease_count;
}

static uint32_t leases_of(struct peer *peer)
{
    struct leases leases = {.peer = peer};
    on(peer->worker, leases_run, &leases);
    return leases.count;
}

/* The only share there is writes what it has to. */
static void write_run(void *context)
{
    struct map_slot *slot;
    for (size_t at = 0;
         (slot = map_next(&broker_worker(rig.broker, *(unsigned *)context)->shares, &at)) != NULL;)
        session_write_now(((struct share *)slot->value)->reader.session);
}

static void write_begin(void)
{
    rig_calm();
    for (unsigned i = 0; i < rig.count; i++)
        on(i, write_run, &i);
}

static void write_share(void)
{
    uint32_t before = count_of(&store.position_count);
    write_begin();
    await(count_of(&store.position_count) > before);
    rig_calm();
}

static struct peer *holder_of(uint32_t count)
{
    struct peer *writer = peer_new(0, "w"), *peer = peer_new(1, "link");
    peer_close(member(2, "k"));
    peer->unlimited = true;
    assert_int_equal(share_join(peer), STATUS_OK);
    publish_all(writer, count);
    await(leases_of(peer) == count);
    peer_close(writer);
    write_share();
    return peer;
}

/* Bytes of rows per record that is settled while so many are not. */
static uint64_t cost_of(uint32_t in_flight)
{
    kept_rig_open(1, 0);
    struct peer *peer = holder_of(in_flight);
    uint64_t before = state_bytes();
    on(peer->worker, settle_scattered, peer);
    write_share();
    uint64_t cost = (state_bytes() - before) / SETTLED;
    print_message("%u in flight: %llu bytes for each that is settled\n", in_flight,
                  (unsigned long long)cost);
    peer_close(peer);
    kept_rig_close();
    return cost;
}

/* Those of a block, each less than 16 bytes, and the position. */
static void a_settlement_costs_the_same(void **state)
{
    (void)state;
    uint32_t most = SESSION_BLOCK * 16 + 100;
    assert_in_range(cost_of(100), 1, most);
    assert_in_range(cost_of(20000), 1, most);
}

/* ------------------------------------------------ what a start finds */

struct found {
    struct storage_scan scan;
    atomic_bool done;
};

static void found_all(struct request *request, enum status status)
{
    struct found *found = container_of(request, struct found, scan.request);
    CHECK(status == STATUS_OK && !found->scan.more);
    atomic_store(&found->done, true);
}

/* What is found is the caller's. */
static struct found *find(struct span first, struct span end)
{
    struct found *found = heap_new(sizeof *found);
    found->scan = (struct storage_scan){.first = first, .end = end};
    request_init(&found->scan.request, rig.loops[0], found_all);
    rig.storage->ops->scan(rig.storage, &found->scan);
    rig_await(&found->done);
    return found;
}

static void found_free(struct found *found)
{
    blob_unref(found->scan.rows);
    heap_free(found);
}

static uint64_t share_session(void)
{
    const uint8_t first = TABLE_SESSION, end = TABLE_SESSION + 1;
    struct found *found = find(span_of(&first, 1), span_of(&end, 1));
    struct session_name_row row;
    struct span key, value;
    uint64_t session = 0;
    for (size_t at = 0; storage_scan_next(&found->scan, &at, &key, &value);) {
        assert_int_equal(session_name_decode(value, &row), STATUS_OK);
        if (share_of_name(row.name) != 0)
            session = row.session;
    }
    found_free(found);
    return session;
}

/* Rows of the share's session. */
static struct found *rows_found(enum session_kind kind)
{
    uint8_t first[SESSION_STATE_KEY], end[SESSION_STATE_KEY];
    uint64_t session = share_session();
    session_kind_key(session, kind, 0, first);
    session_kind_key(session, kind, UINT64_MAX, end);
    return find(span_of(first, sizeof first), span_of(end, sizeof end));
}

static uint32_t blocks_stored(void)
{
    struct found *found = rows_found(SESSION_KIND_BLOCK);
    uint32_t count = found->scan.count;
    found_free(found);
    return count;
}

static void start_again(unsigned workers)
{
    broker_fall();
    broker_bury();
    store_goes_on();
    broker_rise(workers);
}

static bool anything(const struct storage_append *append)
{
    (void)append;
    return true;
}

/* As kill -9: nothing is stored of the end. */
static void die(struct peer *peer)
{
    unsigned workers = rig.count;
    store_set(anything, NULL, 0);
    peer_close(peer);
    start_again(workers);
}

struct settle_from {
    struct peer *peer;
    uint32_t first, count;
};

static void settle_from_run(void *context)
{
    struct settle_from *call = context;
    for (uint32_t i = 0; i < call->count; i++) {
        const struct seen_lease *lease = &call->peer->leases[call->first + i];
        broker_share_settled(lease->subscription, lease->lease);
    }
    client_drained(&call->peer->client);
}

static void settle_from(struct peer *peer, uint32_t first, uint32_t count)
{
    on(peer->worker, settle_from_run, &(struct settle_from){peer, first, count});
    rig_calm();
}

/* Who comes next gets that many, and of those that were published none from first to behind. */
static struct peer *next_gets(uint32_t count, uint32_t first, uint32_t behind)
{
    struct peer *peer = peer_new(1, "next");
    peer->settles = false;
    assert_int_equal(share_join(peer), STATUS_OK);
    await_records(peer, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = (uint32_t)number_of(peer->records[i].value);
        assert_true(number < first || number >= behind);
        assert_true(i == 0 || peer->records[i - 1].offset < peer->records[i].offset);
    }
    return peer;
}

/* What was settled is over, and the rest comes again, whatever of it was written with which write.
 */
static void held_over_a_crash(void **state)
{
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *peer = holder_of(200);
    assert_int_equal(blocks_stored(), 4);
    settle_from(peer, 64, 70);
    write_share();
    assert_int_equal(blocks_stored(), 3); /* one is empty */
    die(peer);
    peer = next_gets(130, 64, 134);
    write_share();
    die(peer);
    peer = next_gets(130, 64, 134);
    settle_from(peer, 0, 130);
    write_share();
    assert_int_equal(blocks_stored(), 0);
    die(peer);
    peer_close(next_gets(0, 0, 200));
    kept_rig_close();
}

/* A write that there was no space for is made up for by the next. */
static void refused_and_made_up_for(void **state)
{
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *peer = holder_of(200);
    store_set(is_position, NULL, 0);
    settle_from(peer, 0, 64);
    write_begin();
    await(count_of(&store.refused_count) > 0);
    settle_from(peer, 64, 36);
    store_set(NULL, NULL, 0);
    write_share();
    assert_int_equal(blocks_stored(), 3);
    die(peer);
    peer_close(next_gets(100, 0, 100));
    kept_rig_close();
}

/* With the last member that outlives its connection everything goes. */
static void nothing_stays_behind(void **state)
{
    kept_rig_open(*(unsigned *)*state, 1);
    struct peer *peer = holder_of(200);
    peer_close(peer);
    await(blocks_stored() == 4);
    session_over(member(0, "k"));
    await(rows_of(TABLE_SHARE) == 0 && rows_of(TABLE_SESSION) == 0);
    assert_int_equal(rows_of(TABLE_SESSION_STATE), 0);
    kept_rig_close();
}

static void take_one_run(void *context)
{
    client_set_credit(&((struct peer *)context)->client, 1);
}

struct giving_back {
    struct peer *peer;
    uint32_t first, end;
};

/* In no order. */
static void give_back_run(void *context)
{
    struct giving_back *call = context;
    call->peer->queued = LIMIT_CLIENT_OUT_BYTES; /* so that it does not get them again */
    for (uint32_t i = call->first; i < call->end; i++) {
        const struct seen_lease *lease = &call->peer->leases[i * 37 % 200];
        broker_share_again(lease->subscription, lease->lease, false);
    }
    client_drained(&call->peer->client);
}

/* Some at once, then one by one; who takes some meanwhile gets what is first of those. */
static void given_back_goes_in_order(void **state)
{
    kept_rig_open(*(unsigned *)*state, 0);
    struct peer *peer = holder_of(200), *next = peer_new(2, "one");
    on(peer->worker, give_back_run, &(struct giving_back){peer, 0, 80});
    rig_calm();
    next->settles = false;
    on(next->worker, take_one_run, next);
    assert_int_equal(share_join(next), STATUS_OK);
    await_records(next, 1);
    assert_int_equal(next->records[0].offset, 0);
    for (uint32_t i = 80; i < 200; i++)
        on(peer->worker, give_back_run, &(struct giving_back){peer, i, i + 1});
    rig_calm();
    peer_close(next);
    peer_close(next_gets(200, 200, 200));
    peer_close(peer);
    kept_rig_close();
}

/* ------------------------------------------------ as it was stored before */

/* Position and flights in one row, and no blocks. */
static void store_the_old_way(void)
{
    struct session_position position, flights;
    struct session_mark marks[16];
    struct session_flight flight;
    struct span key, value;
    uint8_t place[SESSION_STATE_KEY];
    struct buf row, rest;
    uint32_t mark_count = 0, count = 0;
    size_t at = 0;
    buf_init(&row, 1 << 20);
    buf_init(&rest, 1 << 20);
    struct pack pack = pack_into(&row), behind = pack_into(&rest);
    struct found *blocks = rows_found(SESSION_KIND_BLOCK);
    while (storage_scan_next(&blocks->scan, &at, &key, &value)) {
        assert_int_equal(
            session_block_decode(value, load_u64(key.data + 10), LIMIT_SHARE_FLIGHTS, &flights),
            STATUS_OK);
        for (; session_flight_next(&flights, &flight); count++)
            session_flight_encode(&behind, &flight);
        change_row(STORAGE_DELETE, key);
    }
    struct found *found = rows_found(SESSION_KIND_POSITION);
    at = 0;
    assert_true(storage_scan_next(&found->scan, &at, &key, &value));
    assert_int_equal(session_position_decode(value, LIMIT_SHARE_FLIGHTS, &position), STATUS_OK);
    assert_int_equal(position.flight_count, 0);
    while (session_mark_next(&position, &marks[mark_count]))
        mark_count++;
    session_position_begin(&pack, position.position, marks, mark_count, count);
    pack_bytes(&pack, buf_span(&rest));
    session_kind_key(share_session(), SESSION_KIND_POSITION, 0, place);
    put_row(span_of(place, sizeof place), buf_span(&row));
    found_free(found);
    found_free(blocks);
    buf_deinit(&row);
    buf_deinit(&rest);
}

/* It is read, and is as it is now with the next write. */
static void the_old_form_is_read(void **state)
{
    unsigned workers = *(unsigned *)*state;
    kept_rig_open(workers, 0);
    struct peer *peer = holder_of(200);
    settle_from(peer, 10, 100);
    write_share();
    peer_close(peer);
    rig_calm();
    store_the_old_way();
    assert_int_equal(blocks_stored(), 0);
    start_again(workers);
    peer = next_gets(100, 10, 110);
    write_share();
    assert_int_equal(blocks_stored(), 4);
    settle_from(peer, 0, 10);
    write_share();
    die(peer);
    peer_close(next_gets(90, 0, 110));
    kept_rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_settlement_costs_the_same),
        BOTH(held_over_a_crash),
        BOTH(refused_and_made_up_for),
        BOTH(nothing_stays_behind),
        BOTH(given_back_goes_in_order),
        BOTH(the_old_form_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
