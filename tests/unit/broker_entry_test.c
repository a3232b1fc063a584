/* SPDX-License-Identifier: Apache-2.0 */
/* Rates of connections: of all and of one address, by network for IPv6, and in fixed memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/broker/entry.h"

enum { START_MS = 1000000 };

struct door {
    struct broker_options options;
    struct entry_desk desk;
};

static void door_open(struct door *door, uint32_t rate, uint32_t address_rate)
{
    *door = (struct door){.options = {.connection_rate = rate, .address_rate = address_rate}};
    entry_init(&door->desk, &door->options);
}

static enum entry knock(struct door *door, const char *peer, uint64_t after_ms)
{
    return entry_look(&door->desk, &door->options, peer, START_MS + after_ms);
}

/* How many of so many get in. */
static unsigned crowd(struct door *door, const char *peer, unsigned count, uint64_t after_ms)
{
    unsigned in = 0;
    for (unsigned i = 0; i < count; i++)
        in += knock(door, peer, after_ms) == ENTRY_FREE;
    return in;
}

static void all_share_one_rate(void **state)
{
    (void)state;
    struct door door;
    door_open(&door, 10, 0);
    assert_int_equal(crowd(&door, "10.0.0.1:1", 8, 0), 8);
    assert_int_equal(crowd(&door, "10.0.0.2:1", 8, 0), 2);
    assert_int_equal(crowd(&door, "10.0.0.3:1", 8, 99), 0);
    assert_int_equal(crowd(&door, "10.0.0.3:1", 8, 500), 5);
    entry_deinit(&door.desk);
}

static void an_address_has_its_own(void **state)
{
    (void)state;
    struct door door;
    door_open(&door, 7, 5);
    assert_int_equal(crowd(&door, "10.0.0.1:1", 100, 0), 5);
    assert_int_equal(crowd(&door, "10.0.0.1:2", 100, 0), 0); /* the port does not count */
    /* Who was too many there has taken nothing from all. */
    assert_int_equal(crowd(&door, "10.0.0.11:1", 100, 0), 2);
    assert_int_equal(crowd(&door, "10.0.0.1:3", 100, 1000), 5);
    entry_deinit(&door.desk);
}

static void a_network_of_ip6_is_one_address(void **state)
{
    (void)state;
    struct door door;
    door_open(&door, 0, 5);
    assert_int_equal(crowd(&door, "[2001:db8:0:1::1]:1", 3, 0), 3);
    assert_int_equal(crowd(&door, "[2001:db8:0:1:ffff::2]:1", 9, 0), 2);
    assert_int_equal(crowd(&door, "[2001:db8:0:2::1]:1", 9, 0), 5);
    assert_int_equal(crowd(&door, "unknown", 9, 0), 5);
    assert_int_equal(crowd(&door, "[no address at all that has an end", 9, 0), 5);
    entry_deinit(&door.desk);
}

static void not_everybody_is_told(void **state)
{
    (void)state;
    struct door door;
    door_open(&door, 1, 0);
    assert_int_equal(knock(&door, "10.0.0.1:1", 0), ENTRY_FREE);
    for (unsigned i = 0; i < LIMIT_REFUSALS; i++)
        assert_int_equal(knock(&door, "10.0.0.1:1", 0), ENTRY_REFUSED);
    assert_int_equal(knock(&door, "10.0.0.1:1", 0), ENTRY_CLOSED);
    assert_int_equal(knock(&door, "10.0.0.1:1", 10), ENTRY_REFUSED);
    entry_deinit(&door.desk);
}

/* A hundred thousand addresses that come once, and one that comes again and again between them. */
static void many_addresses_are_no_trouble(void **state)
{
    (void)state;
    struct door door;
    char peer[32];
    unsigned in = 0;
    door_open(&door, 0, 2);
    for (unsigned i = 0; i < 100000; i++) {
        snprintf(peer, sizeof peer, "10.%u.%u.%u:1", i >> 16, i >> 8 & 255, i & 255);
        in += knock(&door, peer, 0) == ENTRY_FREE;
        if (i < 1000)
            assert_true(knock(&door, "192.0.2.1:1", 0) == ENTRY_FREE || i >= 2);
        if (i == 999)
            assert_int_equal(crowd(&door, "192.0.2.1:1", 9, 0), 0);
    }
    assert_int_equal(in, 100000);
    entry_deinit(&door.desk);
}

int main(void)
{
    hash_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_share_one_rate),
        cmocka_unit_test(an_address_has_its_own),
        cmocka_unit_test(a_network_of_ip6_is_one_address),
        cmocka_unit_test(not_everybody_is_told),
        cmocka_unit_test(many_addresses_are_no_trouble),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
