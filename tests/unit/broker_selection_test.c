/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors that take long, of whatever subscribes to topics, share a worker's turns with all else.
 */
#include "core/queue/selector.h"
#include "tests/unit/late_rig.h"

enum { PEERS = 40, RECORDS = 3, LETTERS = 1000, TRIED = 400 };
/* Each costs this: the last run of the pattern is tried at each place of the text. */
enum { STEPS = (LETTERS - TRIED) * TRIED, IN_A_TURN = LIMIT_SELECT_STEPS / 2 / STEPS + 1 };

static char letters[LETTERS];
static struct selector *heavy;

static void heavy_make(void)
{
    char text[TRIED + 64];
    memset(letters, 'a', sizeof letters);
    int end = snprintf(text, sizeof text, "x LIKE '%%%.*sb' OR y = 'yes'", TRIED, letters);
    assert_int_equal(selector_compile(span_of(text, (size_t)end), &heavy, NULL), STATUS_OK);
}

static void open_rig(void)
{
    late_rig_open(1);
    heavy_make();
}

static void close_rig(void)
{
    selector_unref(heavy);
    late_rig_close();
}

static enum status subscribe(struct peer *peer, const char *share, enum guarantee guarantee,
                             struct selector *selector)
{
    return peer_subscribe_item(peer, (struct subscribe_item){.filter = span_from_text("t"),
                                                             .share = span_from_text(share),
                                                             .guarantee = guarantee,
                                                             .selector = selector});
}

static void publish(struct peer *source, enum guarantee guarantee, uint32_t count, bool retain)
{
    struct header headers[] = {{span_from_text("x"), span_of(letters, sizeof letters)},
                               {span_from_text("y"), span_from_text("yes")}};
    struct publish_call call = {.peer = source,
                                .publish = {.topic = span_from_text("t"),
                                            .guarantee = guarantee,
                                            .retain = retain,
                                            .answer = true,
                                            .headers = headers,
                                            .header_count = 2},
                                .count = count};
    uint32_t before = peer_look(source).answers;
    on(source->worker, publish_call_run, &call);
    await_answers(source, before + count);
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* How many came in one turn at most. */
static uint32_t most_in_a_turn(struct peer *const *peers, uint32_t count)
{
    static uint64_t times[PEERS * SEEN_MAX];
    uint32_t all = 0, most = 0;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < peers[i]->record_count; k++)
            times[all++] = peers[i]->records[k].at_ms;
    qsort(times, all, sizeof times[0], by_time);
    for (uint32_t i = 0, run = 0; i < all; i++) {
        run = i > 0 && times[i] == times[i - 1] ? run + 1 : 1;
        most = run > most ? run : most;
    }
    return most;
}

static void close_all(struct peer **peers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        peer_close(peers[i]);
}

enum kind { PLAIN, KEPT, SHARED };

static struct peer *member(enum kind kind, uint32_t number)
{
    char name[16];
    bool present;
    snprintf(name, sizeof name, "p%u", number);
    struct peer *peer =
        kind == KEPT ? peer_attach(0, name, UINT32_MAX, NULL, &present) : peer_new(0, name);
    assert_int_equal(subscribe(peer, kind == SHARED ? name : "", GUARANTEE_AT_LEAST_ONCE, heavy),
                     STATUS_OK);
    return peer;
}

/* So many evaluations in a turn, and all records come all the same. */
static void every_record_comes(enum kind kind)
{
    struct peer *peers[PEERS];
    open_rig();
    struct peer *source = peer_new(0, "source");
    for (uint32_t i = 0; i < PEERS; i++)
        peers[i] = member(kind, i);
    publish(source, GUARANTEE_AT_LEAST_ONCE, RECORDS, false);
    for (uint32_t i = 0; i < PEERS; i++)
        await_records(peers[i], RECORDS);
    rig_calm();
    assert_in_range(most_in_a_turn(peers, PEERS), 1, IN_A_TURN);
    for (uint32_t i = 0; i < PEERS; i++) {
        assert_int_equal(peers[i]->record_count, RECORDS);
        for (uint32_t k = 1; k < RECORDS; k++)
            assert_true(peers[i]->records[k].offset > peers[i]->records[k - 1].offset);
    }
    close_all(peers, PEERS);
    peer_close(source);
    close_rig();
}

static void plain_subscriptions(void **state)
{
    (void)state;
    every_record_comes(PLAIN);
}

static void kept_sessions(void **state)
{
    (void)state;
    every_record_comes(KEPT);
}

static void shared_subscriptions(void **state)
{
    (void)state;
    every_record_comes(SHARED);
}

/* What was published while a session was away is selected when it comes back. */
static void sessions_that_come_back(void **state)
{
    struct peer *peers[PEERS];
    (void)state;
    open_rig();
    struct peer *source = peer_new(0, "source");
    for (uint32_t i = 0; i < PEERS; i++)
        peers[i] = member(KEPT, i);
    close_all(peers, PEERS);
    publish(source, GUARANTEE_AT_LEAST_ONCE, RECORDS, false);
    for (uint32_t i = 0; i < PEERS; i++) {
        char name[16];
        bool present;
        snprintf(name, sizeof name, "p%u", i);
        peers[i] = peer_attach(0, name, UINT32_MAX, NULL, &present);
    }
    for (uint32_t i = 0; i < PEERS; i++)
        await_records(peers[i], RECORDS);
    assert_in_range(most_in_a_turn(peers, PEERS), 1, IN_A_TURN);
    close_all(peers, PEERS);
    peer_close(source);
    close_rig();
}

/* A walk through retained records waits for another turn as well. */
static void retained_records(void **state)
{
    struct peer *peers[PEERS];
    (void)state;
    open_rig();
    struct peer *source = peer_new(0, "source");
    publish(source, GUARANTEE_AT_LEAST_ONCE, 1, true);
    for (uint32_t i = 0; i < PEERS; i++)
        peers[i] = member(i % 2 == 0 ? PLAIN : KEPT, i);
    for (uint32_t i = 0; i < PEERS; i++)
        await_records(peers[i], 1);
    assert_in_range(most_in_a_turn(peers, PEERS), 1, IN_A_TURN);
    close_all(peers, PEERS);
    peer_close(source);
    close_rig();
}

/* What is not stored cannot be read later: it is dropped, as for a client over its output budget,
 * but only for who has no time left. */
static void at_most_once(void **state)
{
    struct peer *peers[PEERS];
    (void)state;
    open_rig();
    struct peer *source = peer_new(0, "source"), *plain = peer_new(0, "plain");
    for (uint32_t i = 0; i < PEERS; i++) {
        peers[i] = peer_new(0, "p");
        assert_int_equal(subscribe(peers[i], "", GUARANTEE_AT_MOST_ONCE, heavy), STATUS_OK);
    }
    assert_int_equal(subscribe(plain, "", GUARANTEE_AT_MOST_ONCE, NULL), STATUS_OK);
    int64_t slow = rig_metric("dropped_total", "reason=\"slow\"");
    publish(source, GUARANTEE_AT_MOST_ONCE, RECORDS, false);
    await_records(plain, RECORDS);
    rig_calm();
    uint32_t sum = 0;
    for (uint32_t i = 0; i < PEERS; i++)
        sum += peer_look(peers[i]).records;
    assert_in_range(sum, 1, PEERS * RECORDS - 1);
    assert_in_range(most_in_a_turn(peers, PEERS), 1, IN_A_TURN);
    assert_int_equal(rig_metric("dropped_total", "reason=\"slow\"") - slow, PEERS * RECORDS - sum);
    close_all(peers, PEERS);
    peer_close(plain);
    peer_close(source);
    close_rig();
}

static struct peer *user_connect(const char *user)
{
    struct peer *peer = peer_connect(0);
    assert_int_equal(peer_login(peer, user, "secret", user), STATUS_OK);
    return peer;
}

/* Half of a turn is another user's: its records come while the first one's still wait. */
static void half_is_for_others(void **state)
{
    struct peer *peers[PEERS];
    struct selector *light;
    (void)state;
    open_rig();
    struct peer *admin = peer_new(0, "admin");
    assert_int_equal(user_make(admin, "a", "secret"), STATUS_OK);
    await(peer_look(admin).ended); /* the first user has all rights, and who is none has none */
    peer_free(admin);
    struct peer *source = user_connect("a");
    assert_int_equal(user_make(source, "b", "secret"), STATUS_OK);
    assert_int_equal(grants_set(source, "b", "consume", "topic:#"), STATUS_OK);
    for (uint32_t i = 0; i < PEERS; i++) {
        peers[i] = user_connect("a");
        assert_int_equal(subscribe(peers[i], "", GUARANTEE_AT_LEAST_ONCE, heavy), STATUS_OK);
    }
    struct peer *other = user_connect("b");
    assert_int_equal(selector_compile(span_from_text("y = 'yes'"), &light, NULL), STATUS_OK);
    assert_int_equal(subscribe(other, "", GUARANTEE_AT_LEAST_ONCE, light), STATUS_OK);
    publish(source, GUARANTEE_AT_LEAST_ONCE, RECORDS, false);
    await_records(other, RECORDS);
    for (uint32_t i = 0; i < PEERS; i++)
        await_records(peers[i], RECORDS);
    uint32_t before = 0;
    for (uint32_t i = 0; i < PEERS; i++)
        for (uint32_t k = 0; k < RECORDS; k++)
            before += peers[i]->records[k].at_ms < other->records[RECORDS - 1].at_ms;
    assert_in_range(before, 0, PEERS * RECORDS / 2);
    selector_unref(light);
    close_all(peers, PEERS);
    peer_close(other);
    peer_close(source);
    close_rig();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_subscriptions),  cmocka_unit_test(kept_sessions),
        cmocka_unit_test(shared_subscriptions), cmocka_unit_test(sessions_that_come_back),
        cmocka_unit_test(retained_records),     cmocka_unit_test(at_most_once),
        cmocka_unit_test(half_is_for_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
