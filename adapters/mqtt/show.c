/* SPDX-License-Identifier: Apache-2.0 */
/* Deliveries that are made for one client: from queues, and of what is replayed. */
#include <stdio.h>

#include "adapters/mqtt/session.h"

enum { COPY_BYTES = 4096 };

static void add_user(struct mqtt_shown *shown, const char *name, struct span value)
{
    if (value.size <= UINT16_MAX)
        shown->users[shown->publish.properties.user_count++] =
            (struct mqtt_pair){span_from_text(name), value};
}

static void add_number(struct mqtt_shown *shown, const char *name, uint64_t number, char *text)
{
    snprintf(text, sizeof shown->number_text[0], "%llu", (unsigned long long)number);
    add_user(shown, name, span_from_text(text));
}

static void show_properties(const struct record *record, struct mqtt_shown *shown)
{
    struct mqtt_properties *properties = &shown->publish.properties;
    struct span topic;
    *properties = mqtt_properties_none;
    mqtt_show_headers(record, properties, shown->users);
    if (shown->tells_topic && record_find(record, HEADER_TOPIC, &topic) && topic.data != NULL)
        add_user(shown, "topic", topic);
    if (shown->failures > 0)
        add_number(shown, "delivery-count", shown->failures, shown->number_text[0]);
    if (shown->receipt != NULL) {
        receipt_format(shown->receipt, shown->receipt_text);
        add_user(shown, "receipt", span_from_text(shown->receipt_text));
    }
    if (shown->tells_offset)
        add_number(shown, "offset", record->offset, shown->number_text[1]);
    if (shown->tells_offset && shown->partition >= 0)
        add_number(shown, "partition", (uint64_t)shown->partition, shown->number_text[2]);
    if (shown->identifier != 0) {
        properties->subscription_id = shown->identifier;
        properties->present |= MQTT_HAS(SUBSCRIPTION_ID);
    }
}

size_t mqtt_show(const struct mqtt_session *session, const struct record *record,
                 struct mqtt_shown *shown)
{
    shown->publish = (struct mqtt_publish){
        .qos = shown->qos,
        .retain = shown->retain,
        .topic = shown->topic,
        .payload = record->value,
        .packet_id = shown->qos > 0,
    };
    if (session->version == MQTT_5)
        show_properties(record, shown);
    return mqtt_publish_size(session->version, &shown->publish);
}

void mqtt_send_shown(struct mqtt_session *session, const struct mqtt_shown *shown, size_t size)
{
    if (size <= COPY_BYTES) {
        mqtt_encode_publish(session->version, &shown->publish,
                            stream_reserve(session->stream, size));
        return;
    }
    struct blob *frame = blob_new(size);
    mqtt_encode_publish(session->version, &shown->publish, frame->bytes);
    stream_write_blob(session->stream, frame, 0, size);
    blob_unref(frame);
}
