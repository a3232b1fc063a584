/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes of durable filters: of each user so many, forgotten when no filter of them is left, and
 * nothing is lost by that. */
#include "core/base/pack.h"
#include "core/base/rng.h"
#include "core/broker/session.h"
#include "tests/unit/late_rig.h"

enum { SHARE = LIMIT_FILTER_SHAPES / 2 - 1, LEVELS = 17, TEXT = 2 * LEVELS + 2 };

static struct peer *user_attach(const char *user)
{
    bool present;
    struct peer *peer = peer_connect(0);
    assert_int_equal(peer_login(peer, user, "secret", user), STATUS_OK);
    assert_int_equal(session_attach(peer, (struct broker_attach){.expiry_s = UINT32_MAX}, &present),
                     STATUS_OK);
    return peer;
}

/* On the only worker's loop, of its subscriptions: those that have an id of their own. */
struct own_look {
    struct peer *peer;
    uint32_t own, all;
};

static void own_run(void *context)
{
    struct own_look *look = context;
    const struct client *client = &look->peer->client;
    list_each(link, &client->subscriptions)
    {
        const struct subscription *subscription =
            container_of(link, struct subscription, of_client);
        look->own += filter_index_is_own(
            rig.broker, client->tenant,
            span_of(subscription->entry->filter, subscription->entry->filter_size),
            subscription->index);
        look->all++;
    }
}

static uint32_t own_filters(struct peer *peer, uint32_t all)
{
    struct own_look look = {.peer = peer};
    on(0, own_run, &look);
    assert_int_equal(look.all, all);
    return look.own;
}

/* The number-th of 2^LEVELS filters of different shapes. */
static const char *nth_shape(uint32_t number, char text[TEXT])
{
    text[0] = 'n';
    for (uint32_t level = 0; level < LEVELS; level++) {
        text[2 * level + 1] = '/';
        text[2 * level + 2] = number >> level & 1 ? '+' : 's';
    }
    text[2 * LEVELS + 1] = '\0';
    return text;
}

struct many {
    struct broker_subscribe subscribe;
    struct subscribe_item *items;
    char (*texts)[TEXT];
    uint32_t count;
    atomic_bool done;
};

static void many_done(struct request *request, enum status status)
{
    struct many *many = container_of(request, struct many, subscribe.request);
    CHECK(status == STATUS_OK);
    atomic_store(&many->done, true);
}

static void many_run(void *context)
{
    struct many *many = context;
    broker_subscribe(&many->subscribe);
}

static void many_end_run(void *context)
{
    struct many *many = context;
    for (uint32_t i = 0; i < many->count; i++)
        CHECK(broker_unsubscribe(many->subscribe.client, many->items[i].filter) == STATUS_OK);
}

/* Filters of so many shapes, from that one on, in one call. */
static struct many *many_subscribe(struct peer *peer, uint32_t first, uint32_t count)
{
    struct many *many = heap_new(sizeof *many);
    many->items = heap_array(count, sizeof *many->items);
    many->texts = heap_array(count, sizeof *many->texts);
    many->count = count;
    for (uint32_t i = 0; i < count; i++) {
        nth_shape(first + i, many->texts[i]);
        many->items[i] = (struct subscribe_item){.filter = span_from_text(many->texts[i]),
                                                 .guarantee = GUARANTEE_AT_LEAST_ONCE};
    }
    many->subscribe =
        (struct broker_subscribe){.client = &peer->client, .items = many->items, .count = count};
    request_init(&many->subscribe.request, rig.loops[peer->worker], many_done);
    on(peer->worker, many_run, many);
    rig_await(&many->done);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(many->items[i].status, STATUS_OK);
    return many;
}

static void many_end(struct many *many, struct peer *peer)
{
    on(peer->worker, many_end_run, many);
    heap_free(many->items);
    heap_free(many->texts);
    heap_free(many);
}

/* But for '#', which stands for what finds no place, and stays. */
static unsigned shapes_used(void)
{
    struct filter_shapes *shapes = &rig.broker->shapes;
    pthread_mutex_lock(&shapes->lock);
    uint64_t used = atomic_load(&shapes->used) | shapes->leaving;
    unsigned count = 0;
    for (; used != 0; used &= used - 1) {
        const struct filter_shape *item = &shapes->items[__builtin_ctzll(used)];
        count += item->levels > 0 || !item->rest;
    }
    pthread_mutex_unlock(&shapes->lock);
    return count;
}

static void publish(struct peer *writer, const char *topic, uint32_t first, uint32_t count)
{
    uint32_t before = peer_look(writer).answers;
    publish_many(writer, topic, GUARANTEE_AT_LEAST_ONCE, first, count);
    await_answers(writer, before + count);
}

static const char topic[] = "n/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s";

/* One user's shapes leave room for others', also after a start. */
static void shapes_are_shared_out(void **state)
{
    (void)state;
    late_rig_open(1);
    restart(0);
    char text[TEXT];
    struct peer *admin = peer_new(0, "admin");
    assert_int_equal(user_make(admin, "a", "secret"), STATUS_OK);
    await(peer_look(admin).ended); /* the first user has all rights, and who is none has none */
    peer_free(admin);
    struct peer *a = user_attach("a"), *b;
    assert_int_equal(user_make(a, "b", "secret"), STATUS_OK);
    assert_int_equal(grants_set(a, "b", "consume", "topic:#"), STATUS_OK);
    for (uint32_t number = 0; number < 64; number++)
        assert_int_equal(peer_subscribe(a, nth_shape(number, text), GUARANTEE_AT_LEAST_ONCE, 1),
                         STATUS_OK);
    assert_int_equal(own_filters(a, 64), SHARE);
    peer_close(a);
    restart(0);
    a = user_attach("a");
    assert_int_equal(own_filters(a, 64), SHARE);
    assert_int_equal(peer_subscribe(a, "new", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    assert_int_equal(own_filters(a, 65), SHARE);
    b = user_attach("b");
    for (uint32_t number = 32; number < 64; number++)
        assert_int_equal(peer_subscribe(b, nth_shape(number, text), GUARANTEE_AT_LEAST_ONCE, 1),
                         STATUS_OK);
    assert_int_equal(own_filters(b, 32), SHARE - 1); /* '#', which stands for a's rest, has one */
    peer_close(a);
    peer_close(b);
    late_rig_close();
}

/* Over time any number of shapes, a thousand at a time: places, rows and what one user may have
 * come back, and a filter of any of them works as the first did. */
static void shapes_come_back(void **state)
{
    enum { ROUNDS = 100, EACH = 1000 };
    (void)state;
    late_rig_open(1);
    restart(1);
    struct peer *admin = peer_new(0, "admin");
    assert_int_equal(user_make(admin, "a", "secret"), STATUS_OK);
    await(peer_look(admin).ended);
    peer_free(admin);
    struct peer *a = user_attach("a");
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct many *many = many_subscribe(a, round * EACH, EACH);
        assert_int_equal(own_filters(a, EACH), SHARE);
        many_end(many, a);
        await(shapes_used() == 0);
    }
    await(rows_of(TABLE_FILTER_META) <= 2); /* the key, and '#' */
    assert_int_equal(rows_of(TABLE_FILTER_HOLDER), 0);
    struct many *many = many_subscribe(a, 0, 10);
    assert_int_equal(own_filters(a, 10), 10);
    many_end(many, a);
    peer_close(a);
    late_rig_close();
}

/* A session that ends takes its shapes with it, and what a crash has left goes after the start. */
static void shapes_of_ended_sessions_go(void **state)
{
    (void)state;
    late_rig_open(1);
    restart(0);
    bool present;
    struct peer *kept = peer_attach(0, "kept", 10, NULL, &present),
                *over = peer_attach(0, "over", 0, NULL, &present);
    char text[TEXT];
    for (uint32_t i = 0; i < 20; i++) {
        nth_shape(i, text);
        assert_int_equal(peer_subscribe(i < 10 ? kept : over, text, GUARANTEE_AT_LEAST_ONCE, 1),
                         STATUS_OK);
    }
    peer_close(over);
    peer_close(kept);
    restart(1);
    await(shapes_used() == 10);
    assert_int_equal(rows_of(TABLE_FILTER_META), 11);
    atomic_fetch_add(&clock_ahead_ms, 10001);
    await(shapes_used() == 0 && rows_of(TABLE_FILTER_META) == 1);
    late_rig_close();
}

/* Filters whose shapes come and go, of sessions that come and go: whatever is published meanwhile
 * is there, on any worker. */
static void nothing_is_lost(void **state)
{
    enum { SESSIONS = 8, SHAPES = 12, STEPS = 600 };
    uint32_t since[SESSIONS], published = 0;
    bool there[SESSIONS] = {false}, present;
    (void)state;
    late_rig_open(3);
    restart(1);
    struct peer *writer = peer_new(0, "writer");
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t number = (uint32_t)(rng_below(SESSIONS));
        char name[8], text[TEXT];
        snprintf(name, sizeof name, "k%u", number);
        struct peer *peer =
            peer_attach(step % 3, name, there[number] ? 0 : UINT32_MAX, NULL, &present);
        assert_int_equal(present, there[number]);
        if (there[number]) {
            await_records(peer, published - since[number]);
        } else {
            nth_shape((uint32_t)(rng_below(SHAPES)), text);
            assert_int_equal(peer_subscribe(peer, text, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
            since[number] = published;
        }
        there[number] = !there[number];
        peer_close(peer);
        publish(writer, topic, published++, 1);
    }
    peer_close(writer);
    late_rig_close();
}

struct id_look {
    struct peer *peer;
    uint64_t id;
    bool is_hash;
};

static void id_run(void *context)
{
    struct id_look *look = context;
    const struct client *client = &look->peer->client;
    const struct subscription *subscription =
        container_of(list_first(&client->subscriptions), struct subscription, of_client);
    struct buf text;
    buf_init(&text, 64);
    CHECK(buf_append(&text, &client->tenant, sizeof client->tenant) == STATUS_OK);
    CHECK(buf_append_text(&text, "a/b") == STATUS_OK);
    look->is_hash = subscription->index == hash_keyed(&rig.broker->shapes.key, buf_span(&text));
    buf_deinit(&text);
}

/* Shapes of a store of before have no place in their ids, as what it holds was indexed, and stay.
 */
static void shapes_without_a_place_stay(void **state)
{
    (void)state;
    late_rig_open(1);
    uint8_t key[2] = {TABLE_FILTER_META, 'k'}, hash[16] = {1}, owner[8] = {0};
    uint8_t shape[2 + FILTER_SHAPE_BYTES] = {TABLE_FILTER_META, 's', 2};
    put_row(span_of(key, sizeof key), span_of(hash, sizeof hash));
    put_row(span_of(shape, sizeof shape), span_of(owner, sizeof owner));
    restart(1);
    bool present;
    struct peer *writer = peer_new(0, "writer"),
                *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    assert_int_equal(peer_subscribe(peer, "a/b", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    struct id_look look = {.peer = peer};
    on(0, id_run, &look);
    assert_true(look.is_hash);
    peer_close(peer);
    publish(writer, "a/b", 0, 3);
    peer = peer_attach(0, "kept", 0, NULL, &present);
    await_records(peer, 3);
    peer_close(peer);
    await(rows_of(TABLE_FILTER_HOLDER) == 0);
    usleep(50000);
    assert_int_equal(shapes_used(), 1);
    assert_int_equal(rows_of(TABLE_FILTER_META), 2);
    peer_close(writer);
    late_rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_are_shared_out),       cmocka_unit_test(shapes_come_back),
        cmocka_unit_test(shapes_of_ended_sessions_go), cmocka_unit_test(nothing_is_lost),
        cmocka_unit_test(shapes_without_a_place_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
