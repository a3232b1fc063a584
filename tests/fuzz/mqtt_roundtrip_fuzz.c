/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever decodes can be encoded again, to exactly the size that was announced, and then decodes
 * to the same. The first byte chooses version and side. */
#include "adapters/mqtt/encode.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "tests/fuzz/fuzz.h"

/* What a decoder leaves in lists and an encoder takes as arrays. */
struct arrays {
    struct mqtt_pair *users;
    uint32_t *subscription_ids;
};

static struct arrays use_arrays(struct mqtt_properties *properties)
{
    struct arrays arrays = {
        .users = heap_array(properties->user_count + 1, sizeof *arrays.users),
        .subscription_ids =
            heap_array(properties->more_subscription_id_count + 1, sizeof *arrays.subscription_ids),
    };
    struct span list = properties->list;
    for (uint32_t i = 0; mqtt_user_next(&list, &arrays.users[i]);)
        CHECK(++i <= properties->user_count);
    list = properties->list;
    struct mqtt_property property;
    bool is_first = true;
    for (uint32_t i = 0; mqtt_property_next(&list, &property);) {
        if (property.id != MQTT_PROPERTY_SUBSCRIPTION_ID)
            continue;
        if (!is_first)
            arrays.subscription_ids[i++] = property.number;
        is_first = false;
    }
    properties->users = arrays.users;
    properties->more_subscription_ids = arrays.subscription_ids;
    return arrays;
}

static void free_arrays(struct arrays arrays)
{
    heap_free(arrays.users);
    heap_free(arrays.subscription_ids);
}

static struct mqtt_properties *properties_of(struct mqtt_packet *packet)
{
    switch (packet->type) {
    case MQTT_CONNECT:
        return &packet->connect.properties;
    case MQTT_CONNACK:
        return &packet->connack.properties;
    case MQTT_PUBLISH:
        return &packet->publish.properties;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        return &packet->ack.properties;
    case MQTT_SUBSCRIBE:
    case MQTT_UNSUBSCRIBE:
        return &packet->subscribe.properties;
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
        return &packet->suback.properties;
    case MQTT_DISCONNECT:
    case MQTT_AUTH:
        return &packet->disconnect.properties;
    case MQTT_PINGREQ:
    case MQTT_PINGRESP:
        break;
    }
    return NULL;
}

static struct mqtt_filter *use_filters(struct mqtt_packet *packet)
{
    if (packet->type != MQTT_SUBSCRIBE && packet->type != MQTT_UNSUBSCRIBE)
        return NULL;
    struct mqtt_subscribe walk = packet->subscribe;
    struct mqtt_filter *filters = heap_array(walk.count + 1u, sizeof *filters);
    for (size_t i = 0; packet->type == MQTT_SUBSCRIBE
                           ? mqtt_filter_next(&walk, &filters[i])
                           : mqtt_unsubscribe_next(&walk, &filters[i].filter);)
        i++;
    packet->subscribe.filters = filters;
    return filters;
}

static struct span encode(enum mqtt_version version, struct mqtt_packet *packet)
{
    struct mqtt_properties none = mqtt_properties_none;
    struct mqtt_properties *properties = properties_of(packet);
    struct arrays arrays = use_arrays(properties != NULL ? properties : &none);
    bool has_will = packet->type == MQTT_CONNECT && packet->connect.has_will;
    struct arrays will = use_arrays(has_will ? &packet->connect.will.properties : &none);
    struct mqtt_filter *filters = use_filters(packet);

    size_t size = mqtt_size(version, packet);
    CHECK(size >= 2);
    uint8_t *frame = heap_array(size, 1);
    CHECK(mqtt_encode(version, packet, frame) == frame + size);

    free_arrays(arrays);
    free_arrays(will);
    heap_free(filters);
    return span_of(frame, size);
}

static void decode(enum mqtt_version version, enum mqtt_sender sender, struct span frame,
                   struct mqtt_packet *packet)
{
    uint8_t header;
    struct span body;
    size_t size;
    CHECK(mqtt_frame(frame, UINT32_MAX, &header, &body, &size) == MQTT_FRAME_READY);
    CHECK(size == frame.size);
    CHECK(mqtt_decode(version, sender, header, body, packet) == MQTT_REASON_SUCCESS);
}

static void same_properties(const struct mqtt_properties *a, const struct mqtt_properties *b)
{
    CHECK(a->present == b->present && a->user_count == b->user_count);
    CHECK(a->more_subscription_id_count == b->more_subscription_id_count);
    size_t numbers = offsetof(struct mqtt_properties, message_expiry);
    size_t end = offsetof(struct mqtt_properties, shared_available) + 1;
    CHECK(memcmp((const char *)a + numbers, (const char *)b + numbers, end - numbers) == 0);
    for (const struct span *x = &a->content_type, *y = &b->content_type; x <= &a->reason_string;
         x++, y++)
        CHECK(span_equal(*x, *y));
    struct span rest_a = a->list, rest_b = b->list;
    struct mqtt_pair pair_a, pair_b;
    while (mqtt_user_next(&rest_a, &pair_a)) {
        CHECK(mqtt_user_next(&rest_b, &pair_b));
        CHECK(span_equal(pair_a.name, pair_b.name) && span_equal(pair_a.value, pair_b.value));
    }
}

static void same_connect(const struct mqtt_connect *a, const struct mqtt_connect *b)
{
    CHECK(a->level == b->level && a->version == b->version && a->clean == b->clean);
    CHECK(a->has_will == b->has_will && a->has_user_name == b->has_user_name);
    CHECK(a->has_password == b->has_password && a->keep_alive == b->keep_alive);
    CHECK(span_equal(a->client_id, b->client_id) && span_equal(a->user_name, b->user_name));
    CHECK(span_equal(a->password, b->password));
    CHECK(a->will.qos == b->will.qos && a->will.retain == b->will.retain);
    CHECK(span_equal(a->will.topic, b->will.topic));
    CHECK(span_equal(a->will.payload, b->will.payload));
    same_properties(&a->will.properties, &b->will.properties);
}

static void same_publish(const struct mqtt_publish *a, const struct mqtt_publish *b)
{
    CHECK(a->qos == b->qos && a->retain == b->retain && a->duplicate == b->duplicate);
    CHECK(a->packet_id == b->packet_id && span_equal(a->topic, b->topic));
    CHECK(span_equal(a->payload, b->payload));
}

static void same(struct mqtt_packet *a, struct mqtt_packet *b)
{
    CHECK(a->type == b->type);
    if (properties_of(a) != NULL)
        same_properties(properties_of(a), properties_of(b));
    switch (a->type) {
    case MQTT_CONNECT:
        same_connect(&a->connect, &b->connect);
        break;
    case MQTT_CONNACK:
        CHECK(a->connack.session_present == b->connack.session_present);
        CHECK(a->connack.reason == b->connack.reason);
        break;
    case MQTT_PUBLISH:
        same_publish(&a->publish, &b->publish);
        break;
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBREL:
    case MQTT_PUBCOMP:
        CHECK(a->ack.packet_id == b->ack.packet_id && a->ack.reason == b->ack.reason);
        break;
    case MQTT_SUBSCRIBE:
    case MQTT_UNSUBSCRIBE:
        CHECK(a->subscribe.packet_id == b->subscribe.packet_id);
        CHECK(a->subscribe.count == b->subscribe.count);
        CHECK(span_equal(a->subscribe.list, b->subscribe.list));
        break;
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
        CHECK(a->suback.packet_id == b->suback.packet_id);
        CHECK(span_equal(a->suback.reasons, b->suback.reasons));
        break;
    case MQTT_DISCONNECT:
    case MQTT_AUTH:
        CHECK(a->disconnect.reason == b->disconnect.reason);
        break;
    case MQTT_PINGREQ:
    case MQTT_PINGRESP:
        break;
    }
}

static void check_id(const struct mqtt_packet *packet, struct span frame)
{
    if (packet->type != MQTT_PUBLISH)
        return;
    size_t at = mqtt_publish_id_at(frame);
    CHECK((at != 0) == (packet->publish.qos != 0));
    if (at != 0)
        CHECK((frame.data[at] << 8 | frame.data[at + 1]) == packet->publish.packet_id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum mqtt_version version = (enum mqtt_version)(MQTT_3_1 + (data[0] & 0x0f) % 3);
    enum mqtt_sender sender = data[0] & 0x80 ? MQTT_FROM_SERVER : MQTT_FROM_CLIENT;
    uint8_t header;
    struct span body;
    size_t used;
    struct mqtt_packet first, second;
    struct span input = span_of(data + 1, size - 1);
    if (mqtt_frame(input, 1 << 20, &header, &body, &used) != MQTT_FRAME_READY)
        return 0;
    if (mqtt_decode(version, sender, header, body, &first) != MQTT_REASON_SUCCESS)
        return 0;
    check_id(&first, span_of(input.data, used));
    struct span frame = encode(version, &first);
    decode(version, sender, frame, &second);
    same(&first, &second);
    check_id(&second, frame);
    heap_free((void *)(uintptr_t)frame.data);
    return 0;
}
