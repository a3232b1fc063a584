/* SPDX-License-Identifier: Apache-2.0 */
/* Through the whole broker, on one worker and on three: logins, rights, and users that go. */
#include "tests/unit/broker_rig.h"

/* ------------------------------------------------ users */

/* In protected mode anybody makes the first user, and is sent away by that. */
static void first_user(const char *name, const char *password)
{
    struct peer *peer = peer_new(0, "maker");
    assert_int_equal(user_make(peer, name, password), STATUS_OK);
    await(peer_look(peer).ended);
    peer_free(peer);
}

static struct peer *user(unsigned worker, const char *name, const char *password)
{
    struct peer *peer = peer_connect(worker);
    assert_int_equal(peer_login(peer, name, password, name), STATUS_OK);
    return peer;
}

static void test_logins(void **state)
{
    rig_open(*(unsigned *)*state);
    struct peer *before = peer_new(2, "before");
    assert_int_equal(peer_subscribe(before, "#", 0, 1), STATUS_OK);
    int64_t refused = rig_metric("refused_total", "protocol=\"peer\",reason=\"unauthenticated\"");
    first_user("root", "secret");
    await(peer_look(before).ended);
    assert_int_equal(peer_look(before).why, STATUS_DENIED);
    peer_free(before);

    struct peer *peer = peer_connect(1);
    assert_int_equal(peer_login(peer, "", "", "x"), STATUS_UNAUTHENTICATED);
    assert_int_equal(peer_login(peer, "root", "wrong", "x"), STATUS_UNAUTHENTICATED);
    assert_int_equal(peer_login(peer, "nobody", "secret", "x"), STATUS_UNAUTHENTICATED);
    assert_int_equal(
        rig_metric("refused_total", "protocol=\"peer\",reason=\"unauthenticated\"") - refused, 3);
    assert_int_equal(peer_login(peer, "root", "secret", "x"), STATUS_OK);
    /* From the cache, and no longer once the password is another. */
    struct peer *again = user(1, "root", "secret");
    assert_int_equal(user_make(again, "root", "changed"), STATUS_OK);
    assert_false(peer_look(again).ended);
    struct peer *late = peer_connect(1);
    assert_int_equal(peer_login(late, "root", "secret", "x"), STATUS_UNAUTHENTICATED);
    assert_int_equal(peer_login(late, "root", "changed", "x"), STATUS_OK);
    peer_close(late);
    peer_close(again);
    peer_close(peer);
    rig_close();
}

struct raced_login {
    struct login_call call;
    struct peer *peer;
};

static void close_and_login_run(void *context)
{
    struct raced_login *raced = context;
    broker_login(&raced->call.login);
    client_close(&raced->peer->client);
}

static void test_close_during_login(void **state)
{
    rig_open(*(unsigned *)*state);
    first_user("root", "secret");
    struct raced_login raced = {.peer = peer_connect(1)};
    raced.call.login = (struct broker_login){.client = &raced.peer->client,
                                             .user = span_from_text("root"),
                                             .password = span_from_text("secret")};
    request_init(&raced.call.login.request, rig.loops[raced.peer->worker], login_call_done);
    on(raced.peer->worker, close_and_login_run, &raced);
    peer_free(raced.peer);
    rig_await(&raced.call.done);
    assert_int_equal(raced.call.status, STATUS_CANCELED);
    rig_close();
}

static void test_certificate_login(void **state)
{
    rig_open(*(unsigned *)*state);
    first_user("root", "secret");
    struct peer *peer = peer_connect(1);
    struct login_call call = {
        .login = {.client = &peer->client, .certificate_subject = "stranger"}};
    request_init(&call.login.request, rig.loops[peer->worker], login_call_done);
    on(peer->worker, login_call_run, &call);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_UNAUTHENTICATED);
    atomic_store(&call.done, false);
    call.login.certificate_subject = "root";
    on(peer->worker, login_call_run, &call);
    rig_await(&call.done);
    assert_int_equal(call.status, STATUS_OK);
    peer_close(peer);
    rig_close();
}

static void set_id_run(void *context)
{
    struct peer *peer = context;
    client_set_id(&peer->client, span_from_text("7"));
}

/* Protocols that learn the client's id late; and a group that a consumer makes for itself. */
static void test_late_id_and_own_group(void **state)
{
    rig_open(*(unsigned *)*state);
    first_user("root", "secret");
    struct peer *root = user(0, "root", "secret");
    uint64_t queue = 0;
    assert_int_equal(queue_make(root, "in-7", &queue), STATUS_OK);
    assert_int_equal(user_make(root, "ann", "a"), STATUS_OK);
    assert_int_equal(grants_set(root, "ann", "consume", "queue:in-%c"), STATUS_OK);
    struct peer *ann = user(1, "ann", "a");
    struct broker_admin make = {
        .action = ADMIN_GROUP_CREATE, .name = span_from_text("g"), .id = queue, .by_use = true};
    assert_int_equal(administer(ann, make, NULL), STATUS_DENIED);
    on(ann->worker, set_id_run, ann);
    make.by_use = false;
    assert_int_equal(administer(ann, make, NULL), STATUS_DENIED);
    make.by_use = true;
    assert_int_equal(administer(ann, make, NULL), STATUS_OK);
    peer_close(ann);
    peer_close(root);
    rig_close();
}

static void test_grants(void **state)
{
    rig_open(*(unsigned *)*state);
    first_user("root", "secret");
    struct peer *root = user(0, "root", "secret");
    assert_int_equal(user_make(root, "ann", "a"), STATUS_OK);
    struct peer *ann = user(1, "ann", "a");
    /* A user without grants may do nothing. */
    publish_many(ann, "t/1", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_answers(ann, 1);
    assert_int_equal(ann->answers[0].status, STATUS_DENIED);
    assert_int_equal(peer_subscribe(ann, "t/#", 0, 1), STATUS_DENIED);
    assert_int_equal(queue_make(ann, "q", NULL), STATUS_DENIED);
    assert_int_equal(user_make(ann, "eve", "e"), STATUS_DENIED);

    assert_int_equal(grants_set(root, "ann", "publish,consume", "topic:t/#"), STATUS_OK);
    publish_many(ann, "t/1", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    await_answers(ann, 2);
    assert_int_equal(ann->answers[1].status, STATUS_OK);
    assert_int_equal(peer_subscribe(ann, "t/#", 0, 1), STATUS_OK);
    assert_int_equal(peer_subscribe(ann, "t/1", 0, 2), STATUS_OK);
    publish_many(root, "t/1", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    await_records(ann, 2);

    /* Less is allowed: the cached address and one of the two live subscriptions end. */
    assert_int_equal(grants_set(root, "ann", "consume", "topic:t/1"), STATUS_OK);
    publish_many(ann, "t/1", GUARANTEE_AT_LEAST_ONCE, 2, 1);
    await_answers(ann, 3);
    assert_int_equal(ann->answers[2].status, STATUS_DENIED);
    publish_many(root, "t/1", GUARANTEE_AT_LEAST_ONCE, 1, 1);
    await_records(ann, 3);
    assert_int_equal(ann->records[2].identifier, 2);
    assert_false(peer_look(ann).ended);

    /* A queue by name: its right is cached too. */
    assert_int_equal(queue_make(root, "orders", NULL), STATUS_OK);
    assert_int_equal(grants_set(root, "ann", "publish", "queue:ord*"), STATUS_OK);
    publish_to_queue(ann, "orders", 3, 2);
    await_answers(ann, 5);
    assert_int_equal(ann->answers[4].status, STATUS_OK);
    assert_int_equal(grants_set(root, "ann", NULL, NULL), STATUS_OK);
    publish_to_queue(ann, "orders", 5, 1);
    await_answers(ann, 6);
    assert_int_equal(ann->answers[5].status, STATUS_DENIED);
    peer_close(ann);
    peer_close(root);
    rig_close();
}

static enum status user_delete(struct peer *peer, const char *name)
{
    return administer(
        peer, (struct broker_admin){.action = ADMIN_USER_DELETE, .name = span_from_text(name)},
        NULL);
}

static void test_removed_user(void **state)
{
    rig_open(*(unsigned *)*state);
    first_user("root", "secret");
    struct peer *root = user(0, "root", "secret");
    assert_int_equal(user_make(root, "ann", "a"), STATUS_OK);
    struct peer *anns[6];
    for (unsigned i = 0; i < 6; i++)
        anns[i] = user(i, "ann", "a");
    assert_int_equal(user_delete(root, "nobody"), STATUS_NOT_FOUND);
    assert_int_equal(user_delete(root, "ann"), STATUS_OK);
    for (unsigned i = 0; i < 6; i++) {
        struct look look = peer_look(anns[i]);
        assert_true(look.ended);
        assert_int_equal(look.why, STATUS_DENIED);
        peer_free(anns[i]);
    }
    struct peer *peer = peer_connect(0);
    assert_int_equal(peer_login(peer, "ann", "a", "x"), STATUS_UNAUTHENTICATED);
    peer_close(peer);
    /* Without any user everybody could do everything. */
    assert_int_equal(user_delete(root, "root"), STATUS_DENIED);
    peer_close(root);
    rig_close();
}

/* More than a row holds is refused; it was a CHECK once. */
static void test_long_grants(void **state)
{
    rig_open(*(unsigned *)*state);
    first_user("root", "secret");
    struct peer *root = user(0, "root", "secret");
    static struct grant grants[LIMIT_GRANTS];
    char *pattern = heap_new(60001);
    memset(pattern, 'x', 60000);
    for (unsigned i = 0; i < LIMIT_GRANTS; i++)
        grants[i] = (struct grant){.actions = ACTION_PUBLISH, .is_topic = true, .pattern = pattern};
    struct broker_admin admin = {.action = ADMIN_GRANTS_SET,
                                 .name = span_from_text("root"),
                                 .grants = grants,
                                 .grant_count = LIMIT_GRANTS};
    assert_int_equal(administer(root, admin, NULL), STATUS_TOO_LARGE);
    char *description = heap_new(2 * 1024 * 1024);
    memset(description, 'x', 2 * 1024 * 1024 - 1);
    admin = (struct broker_admin){
        .action = ADMIN_QUEUE_CREATE, .name = span_from_text("q"), .description = description};
    assert_int_equal(administer(root, admin, NULL), STATUS_TOO_LARGE);
    assert_int_equal(queue_make(root, "q", NULL), STATUS_OK);
    heap_free(description);
    heap_free(pattern);
    peer_close(root);
    rig_close();
}

int main(void)
{
    static unsigned one = 1, three = 3;
#define BOTH(test) cmocka_unit_test_prestate(test, &one), cmocka_unit_test_prestate(test, &three)
    const struct CMUnitTest tests[] = {
        BOTH(test_logins),
        BOTH(test_close_during_login),
        BOTH(test_certificate_login),
        BOTH(test_late_id_and_own_group),
        BOTH(test_grants),
        BOTH(test_removed_user),
        BOTH(test_long_grants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
