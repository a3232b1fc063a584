/* SPDX-License-Identifier: Apache-2.0 */
/* What a session must find again of subscriptions to shares and queues: a note per filter. */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"

struct keeping {
    struct broker_note note;
    struct mqtt_subscribing *subscribing;
    uint16_t place;
    uint8_t reason;
};

bool mqtt_is_kept(const struct mqtt_address *address)
{
    return !address->replayed &&
           (address->kind == MQTT_ADDRESS_QUEUE || address->kind == MQTT_ADDRESS_DEAD ||
            (address->kind == MQTT_ADDRESS_TOPIC && address->group.size > 0));
}

static void kept(struct request *request, enum status status)
{
    struct keeping *keeping = container_of(request, struct keeping, note.request);
    mqtt_subscribe_failed(keeping->subscribing, status);
    mqtt_subscribed(keeping->subscribing, keeping->place,
                    status == STATUS_OK ? keeping->reason
                                        : (uint8_t)mqtt_reason_on(status, MQTT_ON_SUBACK));
    heap_free(keeping);
}

bool mqtt_keep(struct mqtt_session *session, const struct mqtt_filter *filter,
               const struct mqtt_asked *asked, uint32_t identifier,
               struct mqtt_subscribing *subscribing, uint16_t place)
{
    struct mqtt_address address;
    mqtt_address_of_filter(filter->filter, &address);
    if (!mqtt_is_kept(&address) || asked->replayed)
        return false;
    uint8_t value[MQTT_KEPT_BYTES];
    mqtt_kept_encode(filter, asked, identifier, value);
    struct keeping *keeping = heap_new(sizeof *keeping);
    keeping->subscribing = subscribing;
    keeping->place = place;
    keeping->reason = filter->qos;
    keeping->note.client = &session->client;
    keeping->note.key = filter->filter;
    keeping->note.value = span_of(value, sizeof value);
    request_init(&keeping->note.request, broker_loop(session->client.worker), kept);
    broker_note(&keeping->note);
    return true;
}
