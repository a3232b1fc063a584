/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: what each form means, and what looks like one and is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "adapters/mqtt/address.h"

struct expected {
    const char *text;
    enum mqtt_address_kind kind;
    const char *topic, *queue, *group;
    int64_t delay_ms, from; /* -1: none */
    bool by_time;
};

static void assert_address(const struct expected *expected, const struct mqtt_address *address)
{
    if (address->kind != expected->kind)
        fail_msg("%s is %d", expected->text, address->kind);
    if (address->kind == MQTT_ADDRESS_BAD)
        return;
    assert_true(span_is(address->topic, expected->topic));
    assert_true(span_is(address->queue, expected->queue));
    assert_true(span_is(address->group, expected->group));
    assert_int_equal(address->delayed, expected->delay_ms >= 0);
    if (address->delayed)
        assert_int_equal(address->delay_ms, expected->delay_ms);
    assert_int_equal(address->replayed, expected->from >= 0);
    if (address->replayed) {
        assert_int_equal(address->from.value, expected->from);
        assert_int_equal(address->from.by_time, expected->by_time);
    }
}

static void test_topics(void **state)
{
    (void)state;
    static const struct expected cases[] = {
        {"a/b", MQTT_ADDRESS_TOPIC, "a/b", "", "", -1, -1, false},
        {"$SYS/x", MQTT_ADDRESS_TOPIC, "$SYS/x", "", "", -1, -1, false},
        {"$queue", MQTT_ADDRESS_TOPIC, "$queue", "", "", -1, -1, false},
        {"$queue/o", MQTT_ADDRESS_QUEUE, "", "o", "", -1, -1, false},
        {"$queue/o/$nack", MQTT_ADDRESS_NACK, "", "o", "", -1, -1, false},
        {"$queue/o/$extend", MQTT_ADDRESS_EXTEND, "", "o", "", -1, -1, false},
        {"$delayed/5/a/b", MQTT_ADDRESS_TOPIC, "a/b", "", "", 5000, -1, false},
        {"$delayed/0/$queue/o", MQTT_ADDRESS_QUEUE, "", "o", "", 0, -1, false},
        {"$delayed/x/a", MQTT_ADDRESS_TOPIC, "a", "", "", -2, -1, false},
        {"$delayed/5/", MQTT_ADDRESS_BAD, "", "", "", 5000, -1, false},
        {"$delayed/5", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$delayed/5/$queue/o/$nack", MQTT_ADDRESS_BAD, "", "", "", 5000, -1, false},
        {"$delayed/5/$delayed/5/a", MQTT_ADDRESS_BAD, "", "", "", 5000, -1, false},
        {"$queue/", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$queue/a b", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$queue/o/", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$queue/o/x", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$queue/o/$nack/x", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$queue/o/$dead/g", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$share/g/a", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$replay/1/a", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"a/+", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mqtt_address address;
        mqtt_address_of_topic(span_from_text(cases[i].text), &address);
        if (cases[i].delay_ms == -2) {
            assert_true(address.delayed && address.delay_ms == UINT64_MAX);
            continue;
        }
        assert_address(&cases[i], &address);
    }
}

static void test_filters(void **state)
{
    (void)state;
    static const struct expected cases[] = {
        {"#", MQTT_ADDRESS_TOPIC, "#", "", "", -1, -1, false},
        {"$queue/o", MQTT_ADDRESS_QUEUE, "", "o", "", -1, -1, false},
        {"$queue/o/$dead/g", MQTT_ADDRESS_DEAD, "", "o", "g", -1, -1, false},
        {"$share/g/a/+/#", MQTT_ADDRESS_TOPIC, "a/+/#", "", "g", -1, -1, false},
        {"$share/g/$queue/o", MQTT_ADDRESS_QUEUE, "", "o", "g", -1, -1, false},
        {"$share/g/$SYS/#", MQTT_ADDRESS_TOPIC, "$SYS/#", "", "g", -1, -1, false},
        {"$replay/17/a/#", MQTT_ADDRESS_TOPIC, "a/#", "", "", -1, 17, false},
        {"$replay/@17/$queue/o", MQTT_ADDRESS_QUEUE, "", "o", "", -1, 17, true},
        {"$replay/earliest/+", MQTT_ADDRESS_TOPIC, "+", "", "", -1, 0, false},
        {"$replay/x/+", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$replay/@/+", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$replay/1/", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$replay/1/$queue/o/$dead/g", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$share/g/$queue/o/$dead/g", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$share/g/$replay/1/a", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$share/g/$share/g/a", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$share/g", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$share//a", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$share/+/a", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$share/g/", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$delayed/1/a", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$queue/+", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"$queue/o/$nack", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
        {"a/#/b", MQTT_ADDRESS_BAD, "", "", "", -1, -1, false},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mqtt_address address;
        mqtt_address_of_filter(span_from_text(cases[i].text), &address);
        assert_address(&cases[i], &address);
    }
}

static void test_settlements(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool valid;
        unsigned id;
        const char *receipt;
        bool has_ms;
        unsigned ms;
    } cases[] = {
        {"1", true, 1, "", false, 0},
        {"65535 3000", true, 65535, "", true, 3000},
        {"7 0", true, 7, "", true, 0},
        {"AbC-_123456 10", true, 0, "AbC-_123456", true, 10},
        {"0", false, 0, "", false, 0},
        {"65536", false, 0, "", false, 0},
        {"", false, 0, "", false, 0},
        {" 5", false, 0, "", false, 0},
        {"5 ", false, 0, "", false, 0},
        {"5  1", false, 0, "", false, 0},
        {"5 4294967296", false, 0, "", false, 0},
        {"abc", false, 0, "", false, 0},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mqtt_settlement settlement;
        bool valid = mqtt_settlement_parse(span_from_text(cases[i].text), &settlement);
        if (valid != cases[i].valid)
            fail_msg("'%s' is %d", cases[i].text, valid);
        if (!valid)
            continue;
        assert_int_equal(settlement.packet_id, cases[i].id);
        assert_true(span_is(settlement.receipt, cases[i].receipt));
        assert_int_equal(settlement.has_ms, cases[i].has_ms);
        assert_int_equal(settlement.ms, cases[i].ms);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topics),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_settlements),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
