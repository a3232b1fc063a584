/* SPDX-License-Identifier: Apache-2.0 */
/* The will of a CONNECT, as the broker keeps it with the session (3.1.2.5, 3.1.3.2). */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"

/* A will outlives the packet it came in: its parts and the encoded list of its properties, copied.
 */
struct mqtt_kept_will {
    struct mqtt_will will;
    struct broker_will given;
    struct header headers[LIMIT_HEADERS];
    char text[MQTT_FILL_TEXT];
    struct arena names;
    uint8_t bytes[];
};

static struct span keep(uint8_t **at, struct span bytes)
{
    struct span kept = span_of(*at, bytes.size);
    if (bytes.size > 0)
        memcpy(*at, bytes.data, bytes.size);
    *at += bytes.size;
    return kept;
}

void mqtt_will_keep(struct mqtt_session *session, const struct mqtt_will *will)
{
    size_t size = will->topic.size + will->payload.size + will->properties.list.size;
    struct mqtt_kept_will *kept = session->will = heap_new(sizeof *kept + size);
    uint8_t *at = kept->bytes;
    arena_init(&kept->names, LIMIT_RECORD_BYTES);
    kept->will = *will;
    kept->will.topic = keep(&at, will->topic);
    kept->will.payload = keep(&at, will->payload);
    struct span list = keep(&at, will->properties.list);
    /* It was checked before: decoding the copy only makes the spans point into it. */
    mqtt_properties_decode(list, MQTT_LIST_WILL, &kept->will.properties);
}

static bool may_be_will(const struct mqtt_address *address)
{
    return (address->kind == MQTT_ADDRESS_TOPIC || address->kind == MQTT_ADDRESS_QUEUE) &&
           address->delay_ms <= LIMIT_DELAY_MS;
}

/* An address of ours is one in a will, too. */
static void find_will(struct span topic, struct mqtt_address *address)
{
    if (topic.size > 0 && topic.data[0] == '$')
        mqtt_address_of_topic(topic, address);
    else
        *address = (struct mqtt_address){.kind = MQTT_ADDRESS_TOPIC, .topic = topic};
}

const struct broker_will *mqtt_will_of(struct mqtt_session *session)
{
    struct mqtt_kept_will *kept = session->will;
    struct mqtt_address address;
    if (kept == NULL)
        return NULL;
    const struct mqtt_will *will = &kept->will;
    struct mqtt_properties properties = will->properties;
    find_will(will->topic, &address);
    kept->given = (struct broker_will){
        .publish = {.topic = address.topic,
                    .body = will->payload,
                    .guarantee = will->qos == 0   ? GUARANTEE_AT_MOST_ONCE
                                 : will->qos == 1 ? GUARANTEE_AT_LEAST_ONCE
                                                  : GUARANTEE_EXACTLY_ONCE,
                    .retain = will->retain,
                    .not_durable = will->qos == 0,
                    .delay_ms = address.delayed ? address.delay_ms : 0},
        .queue = address.queue,
        .delay_s = properties.will_delay,
    };
    if (properties.present & MQTT_HAS(MESSAGE_EXPIRY)) /* counts from its publication */
        kept->given.expiry_ms = properties.message_expiry * 1000ULL;
    properties.present &= ~MQTT_HAS(MESSAGE_EXPIRY);
    /* NULL: it cannot be a record. */
    arena_reset(&kept->names);
    return mqtt_publish_fill(&properties, &kept->given.publish, kept->headers, kept->text,
                             &kept->names) == MQTT_REASON_SUCCESS
               ? &kept->given
               : NULL;
}

enum status mqtt_will_status(struct mqtt_session *session)
{
    struct mqtt_address address;
    const struct broker_will *will = mqtt_will_of(session);
    if (session->will == NULL)
        return STATUS_OK;
    if (will == NULL)
        return STATUS_OVER_QUOTA;
    find_will(session->will->will.topic, &address);
    if (!may_be_will(&address) || will->publish.delay_ms > LIMIT_DELAY_MS)
        return STATUS_INVALID;
    enum status id = broker_check_id(&will->publish, NULL);
    if (id != STATUS_OK) /* the packet is not too large, but what is in it */
        return id == STATUS_TOO_LARGE ? STATUS_OVER_QUOTA : id;
    return address.kind == MQTT_ADDRESS_QUEUE
               ? STATUS_OK
               : broker_topic_status(session->client.worker, address.topic);
}

void mqtt_will_free(struct mqtt_session *session)
{
    if (session->will != NULL)
        arena_deinit(&session->will->names);
    heap_free(session->will);
    session->will = NULL;
}
