/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a topic, a filter, and what is published to settle: parts lie within the input, and
 * the address of a queue is what it was read from. */
#include "adapters/mqtt/address.h"
#include "adapters/mqtt/topic.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

static void check_within(struct span part, struct span whole)
{
    CHECK(part.size == 0 ||
          (part.data >= whole.data && part.data + part.size <= whole.data + whole.size));
}

static void check(struct span text, const struct mqtt_address *address)
{
    char back[MQTT_ADDRESS_TEXT];
    check_within(address->topic, text);
    check_within(address->queue, text);
    check_within(address->group, text);
    if (address->kind != MQTT_ADDRESS_QUEUE && address->kind != MQTT_ADDRESS_DEAD)
        return;
    CHECK(address->queue.size > 0);
    size_t size = mqtt_address_put(address, back);
    CHECK(size <= sizeof back && size <= text.size);
    CHECK(memcmp(back, text.data + text.size - size, size) == 0);
    struct mqtt_address again;
    mqtt_address_of_filter(span_of(back, size), &again);
    CHECK(again.kind == address->kind && span_equal(again.queue, address->queue));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span text = span_of(data, size);
    struct mqtt_address address;
    mqtt_address_of_topic(text, &address);
    check(text, &address);
    CHECK(address.kind != MQTT_ADDRESS_TOPIC || mqtt_topic_valid(address.topic));
    CHECK(address.kind != MQTT_ADDRESS_DEAD && !address.replayed);
    mqtt_address_of_filter(text, &address);
    check(text, &address);
    CHECK(address.kind != MQTT_ADDRESS_TOPIC || mqtt_filter_valid(address.topic));
    CHECK(address.kind != MQTT_ADDRESS_NACK && address.kind != MQTT_ADDRESS_EXTEND);
    CHECK(!address.delayed);
    struct mqtt_filter filter = {0};
    struct mqtt_asked asked;
    uint32_t identifier;
    if (mqtt_kept_decode(text, &filter, &asked, &identifier)) {
        uint8_t back[MQTT_KEPT_BYTES];
        mqtt_kept_encode(&filter, &asked, identifier, back);
        CHECK(memcmp(back, data, 2) == 0 && memcmp(back + 3, data + 3, sizeof back - 3) == 0);
    }
    struct mqtt_settlement settlement;
    if (mqtt_settlement_parse(text, &settlement)) {
        check_within(settlement.receipt, text);
        CHECK((settlement.packet_id != 0) == (settlement.receipt.size == 0));
    }
    return 0;
}
