/* SPDX-License-Identifier: Apache-2.0 */
/* Messages that are published together, on one worker and on three: all are stored or none, with
 * one answer, among others of their client; also when that goes, and when storage fails. */
#include "tests/unit/holding.h"

enum { HOUR_MS = 3600 * 1000, TOGETHER = 20 };

static struct peer *maker;

static void make(const char *name, struct broker_admin admin)
{
    admin.action = ADMIN_QUEUE_CREATE;
    admin.name = span_from_text(name);
    assert_int_equal(administer(maker, admin, NULL), STATUS_OK);
}

static void scene_open(unsigned workers)
{
    rig_open(workers);
    maker = peer_new(0, "m");
    make("a", (struct broker_admin){.partitions = 4});
    make("b", (struct broker_admin){.partitions = 2});
    make("few",
         (struct broker_admin){.overflow = OVERFLOW_REFUSE, .max_records = 5, .partitions = 1});
}

static void scene_close(void)
{
    peer_close(maker);
    rig_close();
}

/* ------------------------------------------------ together */

struct together {
    struct peer *peer;
    const char *queues[3];   /* in turn; NULL: no more of them */
    uint32_t count, delayed; /* the last ones of them are */
    uint64_t token;          /* 0: no answer is wanted */
    bool among_others;       /* before and behind it, with the tokens beside it */
    bool goes;               /* the peer, in the same turn */
    enum status status;      /* of the first that was refused */
    bool *may_go_on;         /* of broker_may_publish() behind it; NULL: it is not asked */
};

static struct publish message_of(const struct together *together, uint32_t i)
{
    static const char keys[] = "0123456789";
    const struct client *client = &together->peer->client;
    uint32_t count = 0;
    while (count < 3 && together->queues[count] != NULL)
        count++;
    return (struct publish){
        .queue = catalog_queue_by_text(broker_catalog(client->worker), client->tenant,
                                       span_from_text(together->queues[i % count])),
        .key = span_of(&keys[i % 10], 1),
        .body = span_from_text("together"),
        .guarantee = GUARANTEE_AT_LEAST_ONCE,
        .delay_ms = i >= together->count - together->delayed ? HOUR_MS : 0,
    };
}

static void publish_alone(const struct together *together, uint64_t token)
{
    struct publish publish = message_of(together, 0);
    publish.answer = true;
    publish.token = token;
    broker_publish(&together->peer->client, &publish);
}

static void together_run(void *context)
{
    struct together *together = context;
    struct client *client = &together->peer->client;
    if (together->among_others)
        publish_alone(together, together->token - 1);
    struct broker_unit *unit = broker_unit_new(client);
    for (uint32_t i = 0; i < together->count && together->status == STATUS_OK; i++) {
        struct publish publish = message_of(together, i);
        together->status = broker_unit_add(unit, &publish);
    }
    if (together->status == STATUS_OK)
        broker_unit_publish(
            unit, &(struct publish){.answer = together->token != 0, .token = together->token});
    else
        broker_unit_free(unit);
    if (together->may_go_on != NULL)
        *together->may_go_on = broker_may_publish(client);
    if (together->among_others)
        publish_alone(together, together->token + 1);
    if (together->goes)
        peer_close_run(together->peer);
}

static enum status publish_together(struct together together)
{
    on(together.peer->worker, together_run, &together);
    return together.status;
}

static void test_together(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct together all = {.peer = peer, .queues = {"a", "b"}, .count = TOGETHER, .delayed = 4};
    assert_int_equal(publish_together(all), STATUS_OK);
    assert_holds("a", 8, 2);
    assert_holds("b", 8, 2);
    assert_int_equal(peer_look(peer).answers, 0);
    all.token = 2;
    all.among_others = true;
    assert_int_equal(publish_together(all), STATUS_OK);
    await_answers(peer, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(peer->answers[i].token, i + 1);
        assert_int_equal(peer->answers[i].status, STATUS_OK);
    }
    assert_holds("a", 18, 4);
    assert_holds("b", 16, 4);
    peer_close(peer);
    scene_close();
}

/* What would have fitted is not there, and takes no room of others. */
static void test_refused(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct together full = {.peer = peer, .queues = {"few", "a"}, .count = 12, .token = 1};
    assert_int_equal(publish_together(full), STATUS_OVER_QUOTA);
    assert_holds("a", 0, 0);
    assert_holds("few", 0, 0);
    full.count = 10;
    assert_int_equal(publish_together(full), STATUS_OK);
    await_answers(peer, 1);
    assert_holds("few", 5, 0);
    assert_int_equal(publish_together(full), STATUS_OVER_QUOTA);
    struct together many = {.peer = peer, .queues = {"a"}, .count = LIMIT_UNIT_MESSAGES + 1};
    assert_int_equal(publish_together(many), STATUS_TOO_LARGE);
    assert_holds("a", 5, 0);
    many.count = LIMIT_UNIT_MESSAGES;
    assert_int_equal(publish_together(many), STATUS_OK);
    assert_holds("a", 5 + LIMIT_UNIT_MESSAGES, 0);
    struct together late = {.peer = peer, .queues = {"b"}, .count = 3, .delayed = 1};
    assert_int_equal(publish_together(late), STATUS_OK);
    assert_holds("b", 2, 1);
    assert_int_equal(peer_look(peer).answers, 1);
    peer_close(peer);
    scene_close();
}

/* What comes behind would be stored first only where parts meet from several workers. */
static void test_nothing_overtakes(void **state)
{
    unsigned workers = *(unsigned *)*state;
    scene_open(workers);
    struct peer *peer = peer_new(1, "p");
    bool may_go_on = false;
    struct together all = {
        .peer = peer, .queues = {"few"}, .count = 4, .token = 1, .may_go_on = &may_go_on};
    assert_int_equal(publish_together(all), STATUS_OK);
    assert_true(may_go_on);
    await_answers(peer, 1);
    all = (struct together){
        .peer = peer, .queues = {"a"}, .count = TOGETHER, .token = 2, .may_go_on = &may_go_on};
    assert_int_equal(publish_together(all), STATUS_OK);
    assert_int_equal(may_go_on, workers == 1);
    await_answers(peer, 2);
    await(peer_look(peer).resumed == (workers == 1 ? 0u : 1u));
    peer_close(peer);
    scene_close();
}

static void test_client_goes(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct together all = {
        .peer = peer, .queues = {"a", "b"}, .count = TOGETHER, .token = 1, .goes = true};
    assert_int_equal(publish_together(all), STATUS_OK);
    assert_holds("a", 10, 0);
    assert_holds("b", 10, 0);
    peer_free(peer);
    scene_close();
}

static void test_storage_fails(void **state)
{
    scene_open(*(unsigned *)*state);
    struct peer *peer = peer_new(1, "p");
    struct together all = {.peer = peer, .queues = {"a", "b"}, .count = TOGETHER, .token = 1};
    atomic_store(&rig.sync_fails, true);
    assert_int_equal(publish_together(all), STATUS_OK);
    await_answers(peer, 1);
    assert_int_equal(peer->answers[0].status, STATUS_STORAGE_FAILED);
    peer_close(peer);
    scene_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_together),    BOTH(test_refused),       BOTH(test_nothing_overtakes),
        BOTH(test_client_goes), BOTH(test_storage_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
