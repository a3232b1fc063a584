/* SPDX-License-Identifier: Apache-2.0 */
/* Framing, topics, and the rules of each packet that the conformance vectors do not reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "adapters/mqtt/codec.h"
#include "adapters/mqtt/topic.h"

#define BYTES(...) span_of((const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__})

/* What the last call decoded. */
static struct mqtt_packet packet;

static enum mqtt_reason client(enum mqtt_version version, uint8_t header, struct span body)
{
    return mqtt_decode(version, MQTT_FROM_CLIENT, header, body, &packet);
}

static enum mqtt_reason server(enum mqtt_version version, uint8_t header, struct span body)
{
    return mqtt_decode(version, MQTT_FROM_SERVER, header, body, &packet);
}

static void test_frame(void **state)
{
    (void)state;
    uint8_t header = 0;
    struct span body;
    size_t size;
    struct span two = BYTES(0xc0, 0x00, 0x30, 0x05, 0, 1, 'a', 'x', 'y');
    assert_int_equal(mqtt_frame(two, 100, &header, &body, &size), MQTT_FRAME_READY);
    assert_int_equal(header, 0xc0);
    assert_int_equal(size, 2);
    assert_int_equal(body.size, 0);
    struct span rest = span_from(two, size);
    for (size_t cut = 0; cut < rest.size; cut++) {
        struct span part = span_of(rest.data, cut);
        assert_int_equal(mqtt_frame(part, 100, &header, &body, &size), MQTT_FRAME_MORE);
        assert_int_equal(size, cut < 2 ? 0 : 7);
    }
    assert_int_equal(mqtt_frame(rest, 7, &header, &body, &size), MQTT_FRAME_READY);
    assert_int_equal(body.size, 5);
    assert_int_equal(mqtt_frame(rest, 6, &header, &body, &size), MQTT_FRAME_TOO_LARGE);
    assert_int_equal(header, 0x30);
    assert_int_equal(size, 7);
}

static void test_frame_lengths(void **state)
{
    (void)state;
    uint8_t header;
    struct span body;
    size_t size;
    struct span largest = BYTES(0x30, 0xff, 0xff, 0xff, 0x7f);
    assert_int_equal(mqtt_frame(largest, UINT32_MAX, &header, &body, &size), MQTT_FRAME_MORE);
    assert_int_equal(size, 5 + 268435455);
    assert_int_equal(mqtt_frame(largest, 1 << 20, &header, &body, &size), MQTT_FRAME_TOO_LARGE);
    struct span five = BYTES(0x30, 0x80, 0x80, 0x80, 0x80);
    assert_int_equal(mqtt_frame(five, UINT32_MAX, &header, &body, &size), MQTT_FRAME_MALFORMED);
}

static void test_topics(void **state)
{
    (void)state;
    static const char *const topics[] = {"a", "/", "a/b", "//", "$SYS/x", "a b", "\xc3\xa9/x"};
    for (size_t i = 0; i < sizeof topics / sizeof *topics; i++) {
        assert_true(mqtt_topic_valid(span_from_text(topics[i])));
        assert_true(mqtt_filter_valid(span_from_text(topics[i])));
    }
    static const char *const bad[] = {"", "+", "a/#", "a+", "\xff", "\xed\xa0\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(mqtt_topic_valid(span_from_text(bad[i])));
    assert_false(mqtt_topic_valid(BYTES('a', 0, 'b')));
}

static void test_filters(void **state)
{
    (void)state;
    static const char *const good[] = {"#",     "+",          "+/+",        "a/#",    "/#", "+/a/#",
                                       "a/+/b", "$share/g/#", "$share/g//", "$share", "/+"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(mqtt_filter_valid(span_from_text(good[i])));
    static const char *const bad[] = {"",           "#/",         "a#",          "a+",
                                      "+a",         "a/#/b",      "##",          "++",
                                      "$share/",    "$share/g",   "$share/g/",   "$share//a",
                                      "$share/+/a", "$share/#/a", "$share/g/a#", "a/\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(mqtt_filter_valid(span_from_text(bad[i])));
}

static void test_levels(void **state)
{
    (void)state;
    char topic[2 * 128];
    memset(topic, '/', sizeof topic);
    assert_true(mqtt_topic_valid(span_of(topic, 127)));
    assert_false(mqtt_topic_valid(span_of(topic, 128)));
    assert_true(mqtt_filter_valid(span_of(topic, 127)));
    assert_false(mqtt_filter_valid(span_of(topic, 128)));
}

static void test_share(void **state)
{
    (void)state;
    struct span name, rest;
    assert_true(mqtt_share_split(span_from_text("$share/g/a/+"), &name, &rest));
    assert_true(span_is(name, "g"));
    assert_true(span_is(rest, "a/+"));
    assert_true(mqtt_share_split(span_from_text("$share/g/$queue/q"), &name, &rest));
    assert_true(span_is(rest, "$queue/q"));
    assert_false(mqtt_share_split(span_from_text("a/b"), &name, &rest));
    assert_false(mqtt_share_split(span_from_text("$share/g"), &name, &rest));
}

static void test_connect_5(void **state)
{
    (void)state;
    struct span body =
        BYTES(0, 4, 'M', 'Q', 'T', 'T', 5, 0xee, 0, 10, 5, 0x11, 0, 0, 0, 9, 0, 2, 'i', 'd', 5,
              0x18, 0, 0, 0, 3, 0, 1, 'w', 0, 2, 'h', 'i', 0, 1, 'u', 0, 1, 'p');
    assert_int_equal(client(MQTT_5, 0x10, body), MQTT_REASON_SUCCESS);
    const struct mqtt_connect *connect = &packet.connect;
    assert_int_equal(connect->version, MQTT_5);
    assert_true(connect->clean && connect->has_will && connect->has_user_name);
    assert_true(connect->has_password && connect->will.retain);
    assert_int_equal(connect->keep_alive, 10);
    assert_int_equal(connect->properties.session_expiry, 9);
    assert_int_equal(connect->properties.receive_maximum, 65535);
    assert_int_equal(connect->properties.maximum_packet, UINT32_MAX);
    assert_true(span_is(connect->client_id, "id"));
    assert_int_equal(connect->will.qos, 1);
    assert_int_equal(connect->will.properties.will_delay, 3);
    assert_true(span_is(connect->will.topic, "w"));
    assert_true(span_is(connect->will.payload, "hi"));
    assert_true(span_is(connect->user_name, "u"));
    assert_true(span_is(connect->password, "p"));
    for (size_t cut = 0; cut < body.size; cut++) /* no prefix of it is a CONNECT */
        assert_int_not_equal(client(MQTT_5, 0x10, span_of(body.data, cut)), MQTT_REASON_SUCCESS);
}

static void test_connect_versions(void **state)
{
    (void)state;
    struct mqtt_connect connect;
    struct span other = BYTES(0, 4, 'H', 'T', 'T', 'P', 4, 2, 0, 0, 0, 0);
    assert_int_equal(mqtt_decode_connect(0x10, other, &connect), MQTT_REASON_UNSUPPORTED_VERSION);
    assert_int_equal(connect.version, 0);
    struct span six = BYTES(0, 4, 'M', 'Q', 'T', 'T', 6, 2, 0, 0, 0, 0);
    assert_int_equal(mqtt_decode_connect(0x10, six, &connect), MQTT_REASON_UNSUPPORTED_VERSION);
    assert_int_equal(connect.version, MQTT_5);
    assert_int_equal(connect.level, 6);
    for (uint8_t level = 3; level <= 4; level++) { /* a bridge says so in the top bit */
        uint8_t old[] = {0, 6, 'M', 'Q', 'I', 's', 'd', 'p', level | 0x80, 2, 0, 0, 0, 1, 'a'};
        uint8_t bridge[] = {0, 4, 'M', 'Q', 'T', 'T', level | 0x80, 2, 0, 0, 0, 1, 'a'};
        struct span body = level == 3 ? span_of(old, sizeof old) : span_of(bridge, sizeof bridge);
        assert_int_equal(mqtt_decode_connect(0x10, body, &connect), MQTT_REASON_SUCCESS);
        assert_int_equal(connect.version, level);
        assert_true(connect.is_bridge);
    }
    struct span five = BYTES(0, 4, 'M', 'Q', 'T', 'T', 0x85, 2, 0, 0, 0, 0, 0);
    assert_int_equal(mqtt_decode_connect(0x10, five, &connect), MQTT_REASON_UNSUPPORTED_VERSION);
    assert_int_equal(connect.version, MQTT_5);
    assert_false(connect.is_bridge);
    struct span mixed = BYTES(0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 4, 2, 0, 0, 0, 0);
    assert_int_equal(mqtt_decode_connect(0x10, mixed, &connect), MQTT_REASON_UNSUPPORTED_VERSION);
    assert_int_equal(connect.version, MQTT_3_1_1);
    /* the version is known for the answer even when the rest is malformed */
    struct span cut = BYTES(0, 4, 'M', 'Q', 'T', 'T', 5, 2);
    assert_int_equal(mqtt_decode_connect(0x10, cut, &connect), MQTT_REASON_MALFORMED);
    assert_int_equal(connect.version, MQTT_5);
}

/* 3.1 counts what is there, not what the flags announce. */
static void test_connect_3_1(void **state)
{
    (void)state;
    struct span body = BYTES(0, 6, 'M', 'Q', 'I', 's', 'd', 'p', 3, 0xc2, 0, 0, 0, 1, 'i');
    assert_int_equal(client(MQTT_3_1, 0x10, body), MQTT_REASON_SUCCESS);
    assert_false(packet.connect.has_user_name);
    assert_false(packet.connect.has_password);
}

static void test_connect_auth_data_alone(void **state)
{
    (void)state;
    struct span body = BYTES(0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 0, 4, 0x16, 0, 1, 'x', 0, 1, 'i');
    assert_int_equal(client(MQTT_5, 0x10, body), MQTT_REASON_PROTOCOL_ERROR);
}

static void test_publish(void **state)
{
    (void)state;
    struct span body = BYTES(0, 3, 'a', '/', 'b', 0x12, 0x34, 'x', 'y');
    assert_int_equal(client(MQTT_3_1_1, 0x3b, body), MQTT_REASON_SUCCESS);
    const struct mqtt_publish *publish = &packet.publish;
    assert_int_equal(publish->qos, 1);
    assert_true(publish->retain && publish->duplicate);
    assert_int_equal(publish->packet_id, 0x1234);
    assert_ptr_equal(publish->topic.data, body.data + 2); /* borrowed */
    assert_true(span_is(publish->topic, "a/b"));
    assert_true(span_is(publish->payload, "xy"));
    assert_int_equal(publish->properties.present, 0);

    struct span with = BYTES(0, 1, 'a', 9, 0x26, 0, 1, 'k', 0, 1, 'v', 0x01, 1, 'x');
    assert_int_equal(client(MQTT_5, 0x30, with), MQTT_REASON_SUCCESS);
    assert_int_equal(publish->properties.user_count, 1);
    assert_int_equal(publish->properties.payload_format, 1);
    assert_true(span_is(publish->payload, "x"));
    assert_int_equal(client(MQTT_5, 0x30, BYTES(0, 1, 'a', 0)), MQTT_REASON_SUCCESS);
    assert_int_equal(publish->payload.size, 0);
}

static void test_publish_refused(void **state)
{
    (void)state;
    struct span plain = BYTES(0, 1, 'a', 0, 1);
    assert_int_equal(client(MQTT_3_1_1, 0x36, plain), MQTT_REASON_MALFORMED); /* QoS 3 */
    assert_int_equal(client(MQTT_3_1_1, 0x38, plain), MQTT_REASON_MALFORMED); /* DUP, QoS 0 */
    assert_int_equal(client(MQTT_3_1_1, 0x32, BYTES(0, 1, 'a', 0, 0)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(client(MQTT_3_1_1, 0x32, BYTES(0, 1, 'a', 0)), MQTT_REASON_MALFORMED);
    assert_int_equal(client(MQTT_3_1_1, 0x30, BYTES(0, 0)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(client(MQTT_3_1_1, 0x30, BYTES(0, 1, '#')), MQTT_REASON_TOPIC_INVALID);
    assert_int_equal(client(MQTT_3_1_1, 0x30, BYTES(0, 3, 'a', 0, 'b')), MQTT_REASON_MALFORMED);
    assert_int_equal(client(MQTT_3_1_1, 0x30, BYTES(0, 9, 'a')), MQTT_REASON_MALFORMED);
    assert_int_equal(client(MQTT_5, 0x30, BYTES(0, 0, 0)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(client(MQTT_5, 0x30, BYTES(0, 0, 3, 0x23, 0, 7)), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.publish.properties.topic_alias, 7);
    assert_int_equal(client(MQTT_5, 0x30, BYTES(0, 0, 3, 0x23, 0, 0)),
                     MQTT_REASON_TOPIC_ALIAS_INVALID);
    assert_int_equal(client(MQTT_5, 0x30, BYTES(0, 1, 'a', 9)), MQTT_REASON_MALFORMED);
    assert_int_equal(client(MQTT_5, 0x30, BYTES(0, 1, 'a', 2, 0x01, 2)),
                     MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(client(MQTT_5, 0x30, BYTES(0, 1, 'a', 4, 0x08, 0, 1, '+')),
                     MQTT_REASON_PROTOCOL_ERROR);
}

/* Only a server may put subscription identifiers into a PUBLISH, and it may put several. */
static void test_publish_subscription_ids(void **state)
{
    (void)state;
    struct span body = BYTES(0, 1, 'a', 5, 0x0b, 5, 0x0b, 0x80, 0x01);
    assert_int_equal(client(MQTT_5, 0x30, body), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(server(MQTT_5, 0x30, body), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.publish.properties.subscription_id, 5);
    assert_int_equal(packet.publish.properties.more_subscription_id_count, 1);
    struct span longer = BYTES(0, 1, 'a', 3, 0x0b, 0x85, 0x00); /* 5 in two bytes */
    assert_int_equal(server(MQTT_5, 0x30, longer), MQTT_REASON_MALFORMED);
}

static void test_acks(void **state)
{
    (void)state;
    assert_int_equal(client(MQTT_5, 0x62, BYTES(0, 7)), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.ack.packet_id, 7);
    assert_int_equal(packet.ack.reason, MQTT_REASON_SUCCESS);
    assert_int_equal(client(MQTT_5, 0x62, BYTES(0, 7, 0x92)), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.ack.reason, MQTT_REASON_PACKET_ID_NOT_FOUND);
    assert_int_equal(client(MQTT_5, 0x62, BYTES(0, 7, 0x10)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(client(MQTT_5, 0x60, BYTES(0, 7)), MQTT_REASON_MALFORMED);
    assert_int_equal(client(MQTT_3_1, 0x60, BYTES(0, 7)), MQTT_REASON_SUCCESS);
    assert_int_equal(client(MQTT_3_1_1, 0x62, BYTES(0, 7, 0)), MQTT_REASON_MALFORMED);
    struct span full = BYTES(0, 7, 0x80, 4, 0x1f, 0, 1, 'r');
    assert_int_equal(client(MQTT_5, 0x40, full), MQTT_REASON_SUCCESS);
    assert_true(span_is(packet.ack.properties.reason_string, "r"));
}

static void test_subscribe(void **state)
{
    (void)state;
    struct span body = BYTES(0, 9, 2, 0x0b, 4, 0, 1, 'a', 0x2e, 0, 3, '+', '/', '#', 0x01);
    assert_int_equal(client(MQTT_5, 0x82, body), MQTT_REASON_SUCCESS);
    struct mqtt_subscribe *subscribe = &packet.subscribe;
    assert_int_equal(subscribe->packet_id, 9);
    assert_int_equal(subscribe->count, 2);
    assert_int_equal(subscribe->properties.subscription_id, 4);
    struct mqtt_filter filter;
    assert_true(mqtt_filter_next(subscribe, &filter));
    assert_true(span_is(filter.filter, "a"));
    assert_int_equal(filter.qos, 2);
    assert_true(filter.no_local && filter.retain_as_published);
    assert_int_equal(filter.retain_handling, 2);
    assert_true(mqtt_filter_next(subscribe, &filter));
    assert_true(span_is(filter.filter, "+/#"));
    assert_int_equal(filter.qos, 1);
    assert_false(filter.no_local);
    assert_false(mqtt_filter_next(subscribe, &filter));
    assert_int_equal(client(MQTT_3_1_1, 0x82, BYTES(0, 9, 0, 2, 'a', '#', 0)),
                     MQTT_REASON_FILTER_INVALID);
    /* 3.1 does not reserve the flags of the fixed header */
    assert_int_equal(client(MQTT_3_1, 0x8a, BYTES(0, 9, 0, 1, 'a', 0)), MQTT_REASON_SUCCESS);
}

static void test_unsubscribe(void **state)
{
    (void)state;
    struct span body = BYTES(0, 9, 0, 1, 'a', 0, 1, 'b');
    assert_int_equal(client(MQTT_3_1_1, 0xa2, body), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.subscribe.count, 2);
    struct span filter;
    assert_true(mqtt_unsubscribe_next(&packet.subscribe, &filter));
    assert_true(mqtt_unsubscribe_next(&packet.subscribe, &filter));
    assert_true(span_is(filter, "b"));
    assert_false(mqtt_unsubscribe_next(&packet.subscribe, &filter));
    assert_int_equal(client(MQTT_3_1_1, 0xa2, BYTES(0, 9)), MQTT_REASON_MALFORMED);
    assert_int_equal(client(MQTT_5, 0xa2, BYTES(0, 9, 0)), MQTT_REASON_MALFORMED);
    assert_int_equal(client(MQTT_5, 0xa2, BYTES(0, 9, 0, 0, 1, 'a')), MQTT_REASON_SUCCESS);
    assert_int_equal(client(MQTT_3_1_1, 0xa0, body), MQTT_REASON_MALFORMED);
}

static void test_too_many_filters(void **state)
{
    (void)state;
    static uint8_t body[2 + 1001 * 4] = {0, 9};
    for (size_t i = 2; i < sizeof body; i += 4)
        memcpy(body + i, (const uint8_t[]){0, 1, 'a', 0}, 4);
    assert_int_equal(client(MQTT_3_1_1, 0x82, span_of(body, sizeof body - 4)), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.subscribe.count, 1000);
    assert_int_equal(client(MQTT_3_1_1, 0x82, span_of(body, sizeof body)),
                     MQTT_REASON_QUOTA_EXCEEDED);
}

static void test_server_packets(void **state)
{
    (void)state;
    assert_int_equal(server(MQTT_3_1_1, 0x20, BYTES(1, 0)), MQTT_REASON_SUCCESS);
    assert_true(packet.connack.session_present);
    assert_int_equal(server(MQTT_3_1_1, 0x20, BYTES(0, 5)), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.connack.reason, MQTT_REASON_NOT_AUTHORIZED);
    assert_int_equal(server(MQTT_3_1_1, 0x20, BYTES(0, 6)), MQTT_REASON_MALFORMED);
    assert_int_equal(server(MQTT_3_1_1, 0x20, BYTES(1, 5)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(server(MQTT_5, 0x20, BYTES(0, 0, 3, 0x21, 0, 9)), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.connack.properties.receive_maximum, 9);
    assert_int_equal(packet.connack.properties.maximum_qos, 2);
    assert_int_equal(packet.connack.properties.retain_available, 1);
    assert_int_equal(server(MQTT_5, 0x20, BYTES(0, 0)), MQTT_REASON_MALFORMED);
    assert_int_equal(server(MQTT_5, 0x90, BYTES(0, 9, 0, 2, 0x8f)), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.suback.reasons.size, 2);
    assert_int_equal(server(MQTT_5, 0x90, BYTES(0, 9, 0, 3)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(server(MQTT_3_1_1, 0x90, BYTES(0, 9, 0x8f)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(server(MQTT_3_1_1, 0x90, BYTES(0, 9, 0x80)), MQTT_REASON_SUCCESS);
    assert_int_equal(server(MQTT_3_1_1, 0xb0, BYTES(0, 9)), MQTT_REASON_SUCCESS);
    assert_int_equal(server(MQTT_5, 0xb0, BYTES(0, 9, 0, 0x11)), MQTT_REASON_SUCCESS);
    assert_int_equal(server(MQTT_5, 0xb0, BYTES(0, 9, 0)), MQTT_REASON_MALFORMED);
    assert_int_equal(server(MQTT_3_1_1, 0xd0, BYTES(0)), MQTT_REASON_MALFORMED);
}

static void test_senders(void **state)
{
    (void)state;
    struct span none = span_of("", 0);
    assert_int_equal(server(MQTT_3_1_1, 0xd0, none), MQTT_REASON_SUCCESS);
    assert_int_equal(client(MQTT_3_1_1, 0xd0, none), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(server(MQTT_3_1_1, 0xc0, none), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(client(MQTT_3_1_1, 0xc0, none), MQTT_REASON_SUCCESS);
    assert_int_equal(client(MQTT_3_1_1, 0xe0, none), MQTT_REASON_SUCCESS);
    assert_int_equal(server(MQTT_3_1_1, 0xe0, none), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(client(MQTT_5, 0x00, none), MQTT_REASON_MALFORMED);
    assert_int_equal(client(MQTT_3_1_1, 0xf0, none), MQTT_REASON_PROTOCOL_ERROR);
}

static void test_disconnect_and_auth(void **state)
{
    (void)state;
    assert_int_equal(client(MQTT_5, 0xe0, BYTES(0x04)), MQTT_REASON_SUCCESS);
    assert_int_equal(packet.disconnect.reason, MQTT_REASON_DISCONNECT_WITH_WILL);
    assert_int_equal(server(MQTT_5, 0xe0, BYTES(0x04)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(server(MQTT_5, 0xe0, BYTES(0x8e)), MQTT_REASON_SUCCESS);
    assert_int_equal(client(MQTT_5, 0xe0, BYTES(0x8e)), MQTT_REASON_PROTOCOL_ERROR);
    struct span expiry = BYTES(0, 5, 0x11, 0, 0, 0, 9);
    assert_int_equal(client(MQTT_5, 0xe0, expiry), MQTT_REASON_SUCCESS);
    assert_true(packet.disconnect.properties.present & MQTT_HAS(SESSION_EXPIRY));
    assert_int_equal(server(MQTT_5, 0xe0, expiry), MQTT_REASON_PROTOCOL_ERROR);
    struct span method = BYTES(0x18, 4, 0x15, 0, 1, 'm');
    assert_int_equal(client(MQTT_5, 0xf0, method), MQTT_REASON_SUCCESS);
    assert_int_equal(client(MQTT_5, 0xf0, BYTES(0x18, 0)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(client(MQTT_5, 0xf0, span_of("", 0)), MQTT_REASON_PROTOCOL_ERROR);
    assert_int_equal(server(MQTT_5, 0xf0, BYTES(0x19, 4, 0x15, 0, 1, 'm')),
                     MQTT_REASON_PROTOCOL_ERROR);
}

static void test_reason_texts(void **state)
{
    (void)state;
    assert_string_equal(mqtt_reason_text(MQTT_REASON_PACKET_TOO_LARGE), "packet too large");
    assert_string_equal(mqtt_reason_text((enum mqtt_reason)0x05), "reserved");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frame),
        cmocka_unit_test(test_frame_lengths),
        cmocka_unit_test(test_topics),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_connect_5),
        cmocka_unit_test(test_connect_versions),
        cmocka_unit_test(test_connect_3_1),
        cmocka_unit_test(test_connect_auth_data_alone),
        cmocka_unit_test(test_publish),
        cmocka_unit_test(test_publish_refused),
        cmocka_unit_test(test_publish_subscription_ids),
        cmocka_unit_test(test_acks),
        cmocka_unit_test(test_subscribe),
        cmocka_unit_test(test_unsubscribe),
        cmocka_unit_test(test_too_many_filters),
        cmocka_unit_test(test_server_packets),
        cmocka_unit_test(test_senders),
        cmocka_unit_test(test_disconnect_and_auth),
        cmocka_unit_test(test_reason_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
