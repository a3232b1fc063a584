/* SPDX-License-Identifier: Apache-2.0 */
/* Encoded packets byte for byte, and sizes at the edges. Round trips are mqtt_roundtrip_fuzz's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "adapters/mqtt/encode.h"

#define BYTES(...) span_of((const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__})

static void check(enum mqtt_version version, const struct mqtt_packet *packet, struct span expected)
{
    uint8_t frame[256];
    assert_int_equal(mqtt_size(version, packet), expected.size);
    assert_ptr_equal(mqtt_encode(version, packet, frame), frame + expected.size);
    assert_memory_equal(frame, expected.data, expected.size);
}

static void test_acks(void **state)
{
    (void)state;
    uint8_t ack[MQTT_ACK_BYTES_MAX];
    assert_int_equal(mqtt_encode_ack(MQTT_5, MQTT_PUBREL, 7, MQTT_REASON_SUCCESS, ack), 4);
    assert_memory_equal(ack, ((const uint8_t[]){0x62, 2, 0, 7}), 4);
    assert_int_equal(mqtt_encode_ack(MQTT_5, MQTT_PUBACK, 7, MQTT_REASON_NOT_AUTHORIZED, ack), 5);
    assert_memory_equal(ack, ((const uint8_t[]){0x40, 3, 0, 7, 0x87}), 5);
    assert_int_equal(mqtt_encode_ack(MQTT_3_1_1, MQTT_PUBACK, 7, MQTT_REASON_NOT_AUTHORIZED, ack),
                     4);
    struct mqtt_packet packet = {
        .type = MQTT_PUBACK,
        .ack = {.packet_id = 7, .properties = mqtt_properties_none},
    };
    check(MQTT_5, &packet, BYTES(0x40, 2, 0, 7));
    packet.ack.properties.present = MQTT_HAS(REASON_STRING);
    packet.ack.properties.reason_string = span_from_text("r");
    check(MQTT_5, &packet, BYTES(0x40, 8, 0, 7, 0, 4, 0x1f, 0, 1, 'r'));
    check(MQTT_3_1_1, &packet, BYTES(0x40, 2, 0, 7));
}

static void test_connack(void **state)
{
    (void)state;
    struct mqtt_packet packet = {
        .type = MQTT_CONNACK,
        .connack = {.session_present = true, .properties = mqtt_properties_none},
    };
    check(MQTT_3_1, &packet, BYTES(0x20, 2, 0, 0));
    check(MQTT_3_1_1, &packet, BYTES(0x20, 2, 1, 0));
    check(MQTT_5, &packet, BYTES(0x20, 3, 1, 0, 0));
    packet.connack.properties.present = MQTT_HAS(RECEIVE_MAXIMUM) | MQTT_HAS(ASSIGNED_CLIENT_ID);
    packet.connack.properties.receive_maximum = 9;
    packet.connack.properties.assigned_client_id = span_from_text("c");
    check(MQTT_5, &packet, BYTES(0x20, 10, 1, 0, 7, 0x12, 0, 1, 'c', 0x21, 0, 9));
    assert_int_equal(mqtt_return_code(MQTT_REASON_BAD_CREDENTIALS), 4);
    assert_int_equal(mqtt_return_code(MQTT_REASON_QUOTA_EXCEEDED), 3);
}

static void test_publish(void **state)
{
    (void)state;
    struct mqtt_packet packet = {
        .type = MQTT_PUBLISH,
        .publish = {.qos = 1,
                    .retain = true,
                    .packet_id = 0x1234,
                    .topic = span_from_text("t"),
                    .payload = span_from_text("xy"),
                    .properties = mqtt_properties_none},
    };
    check(MQTT_3_1_1, &packet, BYTES(0x33, 7, 0, 1, 't', 0x12, 0x34, 'x', 'y'));
    struct mqtt_pair users[] = {{span_from_text("k"), span_from_text("v")},
                                {span_from_text("k"), span_from_text("")}};
    uint32_t more[] = {128};
    struct mqtt_properties *properties = &packet.publish.properties;
    properties->present = MQTT_HAS(SUBSCRIPTION_ID) | MQTT_HAS(USER);
    properties->subscription_id = 1;
    properties->users = users;
    properties->user_count = 2;
    properties->more_subscription_ids = more;
    properties->more_subscription_id_count = 1;
    struct span expected = BYTES(0x33, 26, 0, 1, 't', 0x12, 0x34, 18, 0x0b, 1, 0x26, 0, 1, 'k', 0,
                                 1, 'v', 0x26, 0, 1, 'k', 0, 0, 0x0b, 0x80, 0x01, 'x', 'y');
    check(MQTT_5, &packet, expected);
    assert_int_equal(mqtt_publish_id_at(expected), 5);
    assert_int_equal(mqtt_publish_id_at(BYTES(0x30, 3, 0, 1, 't')), 0);
    assert_int_equal(mqtt_publish_id_at(BYTES(0x32, 0x85, 0x01, 0, 1, 't', 9, 9)), 6);
}

static void test_suback(void **state)
{
    (void)state;
    struct mqtt_packet packet = {
        .type = MQTT_SUBACK,
        .suback = {.packet_id = 9, .reasons = BYTES(2, 0x8f), .properties = mqtt_properties_none},
    };
    check(MQTT_5, &packet, BYTES(0x90, 5, 0, 9, 0, 2, 0x8f));
    check(MQTT_3_1_1, &packet, BYTES(0x90, 4, 0, 9, 2, 0x80));
    packet.type = MQTT_UNSUBACK;
    check(MQTT_5, &packet, BYTES(0xb0, 5, 0, 9, 0, 2, 0x8f));
    check(MQTT_3_1_1, &packet, BYTES(0xb0, 2, 0, 9));
}

static void test_disconnect(void **state)
{
    (void)state;
    struct mqtt_packet packet = {
        .type = MQTT_DISCONNECT,
        .disconnect = {.reason = MQTT_REASON_SUCCESS, .properties = mqtt_properties_none},
    };
    check(MQTT_5, &packet, BYTES(0xe0, 0));
    packet.disconnect.reason = MQTT_REASON_SESSION_TAKEN_OVER;
    check(MQTT_5, &packet, BYTES(0xe0, 1, 0x8e));
    check(MQTT_3_1_1, &packet, BYTES(0xe0, 0));
    packet.type = MQTT_PINGRESP;
    check(MQTT_5, &packet, BYTES(0xd0, 0));
}

static void test_varint(void **state)
{
    (void)state;
    static const struct {
        uint32_t value;
        size_t size;
    } edges[] = {{0, 1},     {127, 1},     {128, 2},     {16383, 2},
                 {16384, 3}, {2097151, 3}, {2097152, 4}, {MQTT_VARINT_MAX, 4}};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        uint8_t bytes[4];
        assert_int_equal(mqtt_varint_size(edges[i].value), edges[i].size);
        assert_ptr_equal(mqtt_varint_encode(edges[i].value, bytes), bytes + edges[i].size);
    }
}

/* What MQTT cannot carry has no size. */
static void test_too_large(void **state)
{
    (void)state;
    static const uint8_t text[65536];
    struct mqtt_publish publish = {.topic = span_of(text, 65535),
                                   .properties = mqtt_properties_none};
    assert_int_equal(mqtt_publish_size(MQTT_3_1_1, &publish), 1 + 3 + 2 + 65535);
    publish.topic.size = 65536;
    assert_int_equal(mqtt_publish_size(MQTT_3_1_1, &publish), 0);
    publish.topic.size = 1;
    publish.payload = span_of(text, MQTT_VARINT_MAX - 3); /* only its size is looked at */
    assert_int_equal(mqtt_publish_size(MQTT_3_1_1, &publish), 5 + (size_t)MQTT_VARINT_MAX);
    publish.payload.size++;
    assert_int_equal(mqtt_publish_size(MQTT_3_1_1, &publish), 0);
    publish.payload.size = SIZE_MAX;
    assert_int_equal(mqtt_publish_size(MQTT_3_1_1, &publish), 0);
    publish.payload.size = 0;
    struct mqtt_pair users[] = {{span_of(text, 65536), span_of(text, 1)}};
    publish.properties.users = users;
    publish.properties.user_count = 1;
    assert_int_equal(mqtt_publish_size(MQTT_5, &publish), 0);
    publish.properties.user_count = 0;
    publish.properties.present = MQTT_HAS(SUBSCRIPTION_ID);
    publish.properties.subscription_id = MQTT_VARINT_MAX + 1;
    assert_int_equal(mqtt_publish_size(MQTT_5, &publish), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_acks),       cmocka_unit_test(test_connack),
        cmocka_unit_test(test_publish),    cmocka_unit_test(test_suback),
        cmocka_unit_test(test_disconnect), cmocka_unit_test(test_varint),
        cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
