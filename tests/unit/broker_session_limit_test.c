/* SPDX-License-Identifier: Apache-2.0 */
/* How much is kept of sessions, and what counts for whom. */
#include "core/broker/session.h"
#include "tests/unit/late_rig.h"

/* Filters of shapes beyond those that have ids of their own share one: it is counted once. */
static void what_is_kept_is_counted_once(void **state)
{
    (void)state;
    late_rig_open(1);
    rig.options.session_records = 10;
    restart(0);
    bool present;
    struct peer *writer = peer_new(0, "writer"),
                *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    for (uint32_t number = 0; number < 100; number++) {
        char filter[] = "n/s/s/s/s/s/s/s";
        for (uint32_t level = 0; level < 7; level++)
            if (number >> level & 1)
                filter[2 * level + 2] = '+';
        if (number == 99)
            filter[0] = 's';
        assert_int_equal(peer_subscribe(peer, filter, GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    }
    peer_close(peer);
    publish_many(writer, "s/s/s/s/s/s/s/s", GUARANTEE_AT_LEAST_ONCE, 0, 5);
    await_answers(writer, 5);
    peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    await_records(peer, 5);
    peer_close(peer);
    peer_close(writer);
    late_rig_close();
}

/* The number-th of many filters of different shapes below a name. */
static const char *shape_below(const char *name, uint32_t number, char text[32])
{
    snprintf(text, 32, "%s/s/s/s/s/s/s", name);
    for (uint32_t level = 0; level < 6; level++)
        if (number >> level & 1)
            text[strlen(name) + 1 + 2 * level] = '+';
    return text;
}

/* Who finds no room for the shape of its filter is served through a broader one, whose rows are
 * mostly others': they are not what was kept for it. */
static void what_others_publish_is_not_counted(void **state)
{
    (void)state;
    late_rig_open(1);
    rig.options.session_records = 1;
    restart(0);
    bool present;
    char text[32];
    struct peer *writer = peer_new(0, "writer"),
                *greedy = peer_attach(0, "greedy", UINT32_MAX, NULL, &present),
                *peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    for (uint32_t number = 0; number < 64; number++)
        assert_int_equal(
            peer_subscribe(greedy, shape_below("u", number, text), GUARANTEE_AT_LEAST_ONCE, 1),
            STATUS_OK);
    assert_int_equal(peer_subscribe(peer, "x/y", GUARANTEE_AT_LEAST_ONCE, 1), STATUS_OK);
    peer_close(peer);
    publish_many(writer, "x/y", GUARANTEE_AT_LEAST_ONCE, 0, 1);
    publish_many(writer, "foreign", GUARANTEE_AT_LEAST_ONCE, 1, 5);
    await_answers(writer, 6);
    peer = peer_attach(0, "kept", UINT32_MAX, NULL, &present);
    await_records(peer, 1);
    peer_close(peer);
    peer_close(greedy);
    peer_close(writer);
    late_rig_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_kept_is_counted_once),
        cmocka_unit_test(what_others_publish_is_not_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
