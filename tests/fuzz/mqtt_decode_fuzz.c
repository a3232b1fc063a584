/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of MQTT packets of any version and side; the first byte chooses both. Everything that
 * decodes is walked to its end. */
#include "adapters/mqtt/codec.h"
#include "adapters/mqtt/topic.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

static void walk_properties(const struct mqtt_properties *properties)
{
    struct span list = properties->list;
    struct mqtt_property property;
    unsigned users = 0;
    while (mqtt_property_next(&list, &property))
        users += property.id == MQTT_PROPERTY_USER;
    CHECK(list.size == 0);
    CHECK(users == properties->user_count);
}

static void walk_filters(struct mqtt_subscribe subscribe, bool has_options)
{
    struct mqtt_filter filter;
    unsigned count = 0;
    while (has_options ? mqtt_filter_next(&subscribe, &filter)
                       : mqtt_unsubscribe_next(&subscribe, &filter.filter)) {
        struct span name, rest;
        CHECK(mqtt_filter_valid(filter.filter));
        if (mqtt_share_split(filter.filter, &name, &rest))
            CHECK(name.size != 0 && mqtt_filter_valid(rest));
        count++;
    }
    CHECK(count == subscribe.count && count > 0);
}

static void walk(const struct mqtt_packet *packet)
{
    switch (packet->type) {
    case MQTT_CONNECT:
        walk_properties(&packet->connect.properties);
        walk_properties(&packet->connect.will.properties);
        break;
    case MQTT_CONNACK:
        walk_properties(&packet->connack.properties);
        break;
    case MQTT_PUBLISH:
        walk_properties(&packet->publish.properties);
        CHECK(packet->publish.topic.size == 0 || mqtt_topic_valid(packet->publish.topic));
        break;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        walk_properties(&packet->ack.properties);
        break;
    case MQTT_SUBSCRIBE:
    case MQTT_UNSUBSCRIBE:
        walk_properties(&packet->subscribe.properties);
        walk_filters(packet->subscribe, packet->type == MQTT_SUBSCRIBE);
        break;
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
        walk_properties(&packet->suback.properties);
        break;
    case MQTT_DISCONNECT:
    case MQTT_AUTH:
        walk_properties(&packet->disconnect.properties);
        break;
    case MQTT_PINGREQ:
    case MQTT_PINGRESP:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum mqtt_version version = (enum mqtt_version)(MQTT_3_1 + (data[0] & 0x0f) % 3);
    enum mqtt_sender sender = data[0] & 0x80 ? MQTT_FROM_SERVER : MQTT_FROM_CLIENT;
    struct span input = span_of(data + 1, size - 1);
    uint8_t header;
    struct span body;
    size_t used;
    while (mqtt_frame(input, 1 << 20, &header, &body, &used) == MQTT_FRAME_READY) {
        struct mqtt_packet packet;
        enum mqtt_reason reason = mqtt_decode(version, sender, header, body, &packet);
        if (reason == MQTT_REASON_SUCCESS)
            walk(&packet);
        CHECK(reason == MQTT_REASON_SUCCESS || reason >= MQTT_REASON_UNSPECIFIED);
        mqtt_filter_valid(body);
        mqtt_topic_valid(body);
        input = span_from(input, used);
    }
    return 0;
}
