/* SPDX-License-Identifier: Apache-2.0 */
/* MQTT's view of a record, both ways (docs/mapping.md): properties to headers and back. */
#include <stdio.h>
#include <stdlib.h>

#include "adapters/mqtt/session.h"
#include "core/base/clock.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"

/* The Payload Format Indicator: 1 for UTF-8 text, 0. */
#define HEADER_PAYLOAD_TEXT "pl-text"
/* Where among the user properties the key was; nothing after it: it was the last. */
#define HEADER_KEY_PLACE "pl-key"
#define PROPERTY_LABEL   "label"
#define PROPERTY_KEY     "key"
#define PROPERTY_DELAY   "delay" /* ms */
#define PROPERTY_DEDUP   "dedup-id"

/* ------------------------------------------------ record to PUBLISH */

/* A variant is everything a frame depends on: 28 bits of subscription identifier, version, retain,
 * QoS. */
enum { VARIANT_QOS = 3, VARIANT_RETAIN = 4, VARIANT_MQTT_5 = 8, VARIANT_IDENTIFIER_SHIFT = 4 };

static unsigned qos_of(enum guarantee guarantee)
{
    return guarantee == GUARANTEE_AT_MOST_ONCE    ? 0u
           : guarantee == GUARANTEE_AT_LEAST_ONCE ? 1u
                                                  : 2u;
}

uint32_t mqtt_variant(struct client *client, const struct subscription *subscription,
                      const struct record *record)
{
    unsigned granted = qos_of(subscription->guarantee),
             published = qos_of(record_guarantee(record));
    uint32_t variant = granted < published ? granted : published;
    const struct mqtt_session *session = mqtt_session_of(client);
    bool as_published =
        subscription->retain_as_published && (session->version == MQTT_5 || session->is_bridge);
    if (record->attributes & (RECORD_RECALLED | (as_published ? RECORD_RETAIN : 0)))
        variant |= VARIANT_RETAIN;
    if (session->version == MQTT_5)
        variant |= VARIANT_MQTT_5 | subscription->identifier << VARIANT_IDENTIFIER_SHIFT;
    return variant;
}

static uint32_t seconds_left(struct span expires_at)
{
    char text[24] = "";
    memcpy(text, expires_at.data,
           expires_at.size < sizeof text ? expires_at.size : sizeof text - 1);
    int64_t left = strtoll(text, NULL, 10) - clock_wall_ms();
    if (left <= 0)
        return 0;
    left = (left + 999) / 1000;
    return left > UINT32_MAX ? UINT32_MAX : (uint32_t)left;
}

static bool fits(struct span value)
{
    return value.size <= UINT16_MAX;
}

/* What a text of MQTT may hold (1.5.4); headers and keys of other protocols may be any bytes. */
static bool is_text(struct span value)
{
    return fits(value) && utf8_is_valid_no_nul(value);
}

/* Headers that MQTT has properties for. The first of a name is the property, a null one its
 * absence; what follows under that name is the publisher's own user property. */
static const char *const standard_names[] = {
    HEADER_CONTENT_TYPE, HEADER_CORRELATION_ID, HEADER_REPLY_TO,
    HEADER_EXPIRES_AT,   HEADER_PAYLOAD_TEXT,   HEADER_LABELS,
};
enum { CONTENT_TYPE, CORRELATION_ID, REPLY_TO, EXPIRES_AT, PAYLOAD_TEXT, LABELS, STANDARD_NAMES };

static unsigned standard_of(struct span name)
{
    unsigned i = 0;
    while (i < STANDARD_NAMES && !span_is(name, standard_names[i]))
        i++;
    return i;
}

/* False: the value does not fit the property. */
static bool show_standard(unsigned standard, struct span value, struct mqtt_properties *properties)
{
    switch (standard) {
    case CONTENT_TYPE:
        if (!is_text(value))
            return false;
        properties->content_type = value;
        properties->present |= MQTT_HAS(CONTENT_TYPE);
        return true;
    case CORRELATION_ID:
        if (!fits(value))
            return false;
        properties->correlation = value;
        properties->present |= MQTT_HAS(CORRELATION);
        return true;
    case REPLY_TO:
        if (!is_text(value) || !mqtt_is_plain_topic(value))
            return false;
        properties->response_topic = value;
        properties->present |= MQTT_HAS(RESPONSE_TOPIC);
        return true;
    case EXPIRES_AT:
        properties->message_expiry = seconds_left(value);
        properties->present |= MQTT_HAS(MESSAGE_EXPIRY);
        return true;
    default:
        properties->payload_format = !span_is(value, "0");
        properties->present |= MQTT_HAS(PAYLOAD_FORMAT);
        return true;
    }
}

/* A record on its way into a PUBLISH. */
struct showing {
    const struct record *record;
    struct mqtt_properties *properties;
    struct mqtt_pair *users;
    unsigned seen; /* standard names */
    bool topic_seen, publisher_seen, key_shown;
};

static void show_user(struct showing *showing, struct span name, struct span value)
{
    if (showing->properties->user_count < LIMIT_HEADERS && is_text(name) && is_text(value))
        showing->users[showing->properties->user_count++] = (struct mqtt_pair){name, value};
}

static bool is_given_as_user(const struct record *record, struct span label)
{
    struct reader at = reader_of(record->headers);
    struct header header;
    while (record_next_header(&at, &header))
        if (span_equal(header.value, label) && span_is(header.name, PROPERTY_LABEL))
            return true;
    return false;
}

/* Each is a user property; those that a client of ours has given are there already. */
static void show_labels(struct showing *showing, struct span labels)
{
    struct span label;
    while (label_next(&labels, &label))
        if (!is_given_as_user(showing->record, label))
            show_user(showing, span_from_text(PROPERTY_LABEL), label);
}

static void show_key(struct showing *showing)
{
    if (showing->key_shown || showing->record->key.data == NULL)
        return;
    showing->key_shown = true;
    show_user(showing, span_from_text(PROPERTY_KEY), showing->record->key);
}

static void show_header(struct showing *showing, const struct header *header)
{
    unsigned standard = standard_of(header->name);
    if (standard < STANDARD_NAMES && !(showing->seen >> standard & 1)) {
        showing->seen |= 1u << standard;
        if (header->value.data == NULL)
            return;
        if (standard == LABELS) {
            show_labels(showing, header->value);
            return;
        }
        if (show_standard(standard, header->value, showing->properties))
            return;
    }
    struct span name = header_given_name(header->name);
    if (name.data != NULL)
        show_user(showing, name, header->value);
    else if (span_is(header->name, HEADER_KEY_PLACE))
        show_key(showing);
}

void mqtt_show_headers(const struct record *record, struct mqtt_properties *properties,
                       struct mqtt_pair *users)
{
    struct showing showing = {.record = record, .properties = properties, .users = users};
    struct reader at = reader_of(record->headers);
    struct header header;
    while (record_next_header(&at, &header)) {
        if (!showing.topic_seen && span_is(header.name, HEADER_TOPIC))
            showing.topic_seen = true; /* the first is the gateway's own */
        else if (!showing.publisher_seen && span_is(header.name, HEADER_PUBLISHER))
            showing.publisher_seen = true;
        else
            show_header(&showing, &header);
    }
    show_key(&showing);
    properties->users = users;
}

struct blob *mqtt_encode_record(uint32_t variant, const struct record *record)
{
    struct mqtt_pair users[LIMIT_HEADERS];
    struct mqtt_publish publish = {
        .qos = variant & VARIANT_QOS,
        .retain = (variant & VARIANT_RETAIN) != 0,
        .payload = record->value,
        .packet_id = (variant & VARIANT_QOS) != 0, /* patched for each client */
    };
    if (!record_find(record, HEADER_TOPIC, &publish.topic))
        return NULL;
    enum mqtt_version version = MQTT_3_1_1;
    if (variant & VARIANT_MQTT_5) {
        version = MQTT_5;
        publish.properties = mqtt_properties_none;
        mqtt_show_headers(record, &publish.properties, users);
        uint32_t identifier = variant >> VARIANT_IDENTIFIER_SHIFT;
        if (identifier != 0) {
            publish.properties.subscription_id = identifier;
            publish.properties.present |= MQTT_HAS(SUBSCRIPTION_ID);
        }
    }
    size_t size = mqtt_publish_size(version, &publish);
    if (size == 0)
        return NULL;
    struct blob *frame = blob_new(size);
    mqtt_encode_publish(version, &publish, frame->bytes);
    return frame;
}

/* ------------------------------------------------ PUBLISH to record */

struct filling {
    struct publish *publish;
    struct header *headers;
    unsigned seen; /* standard names */
    uint32_t labels_at;
};

static void put(struct filling *filling, unsigned standard, struct span value)
{
    filling->seen |= 1u << standard;
    filling->headers[filling->publish->header_count++] =
        (struct header){span_from_text(standard_names[standard]), value};
}

static void put_properties(struct filling *filling, const struct mqtt_properties *properties,
                           char *text)
{
    if (properties->present & MQTT_HAS(CONTENT_TYPE))
        put(filling, CONTENT_TYPE, properties->content_type);
    if (properties->present & MQTT_HAS(RESPONSE_TOPIC))
        put(filling, REPLY_TO, properties->response_topic);
    if (properties->present & MQTT_HAS(CORRELATION))
        put(filling, CORRELATION_ID, properties->correlation);
    if (properties->present & MQTT_HAS(PAYLOAD_FORMAT))
        put(filling, PAYLOAD_TEXT, span_from_text(properties->payload_format ? "1" : "0"));
    if (properties->present & MQTT_HAS(MESSAGE_EXPIRY)) {
        filling->publish->expires_at_ms =
            clock_wall_ms() + (int64_t)properties->message_expiry * 1000;
        int size =
            snprintf(text, MQTT_EXPIRY_TEXT, "%lld", (long long)filling->publish->expires_at_ms);
        put(filling, EXPIRES_AT, span_of(text, (size_t)size));
    }
}

/* User properties that ask something of the gateway; they are passed on all the same (3.3.2-17). */
static void ask(struct publish *publish, const struct mqtt_pair *pair)
{
    if (span_is(pair->name, PROPERTY_DELAY) && !mqtt_parse_number(pair->value, &publish->delay_ms))
        publish->delay_ms = UINT64_MAX; /* to be refused */
    if (publish->dedup_id.data == NULL && span_is(pair->name, PROPERTY_DEDUP))
        publish->dedup_id = pair->value;
}

/* The labels so far, with commas; what is no label, or one too many, is a user property only. */
struct labels {
    char *text;
    size_t size;
    unsigned count;
};

static void take_label(struct labels *labels, const struct mqtt_pair *pair)
{
    if (!span_is(pair->name, PROPERTY_LABEL) || labels->count == LABELS_MAX ||
        !label_is_valid(pair->value))
        return;
    if (labels->count++ > 0)
        labels->text[labels->size++] = ',';
    memcpy(labels->text + labels->size, pair->value.data, pair->value.size);
    labels->size += pair->value.size;
}

/* Those that a property of its own would bear the name of come after it, or after its absence. */
static bool put_user(struct filling *filling, const struct mqtt_pair *pair, struct arena *names)
{
    struct span name = header_stored_name(pair->name, names);
    unsigned standard = standard_of(name);
    if (name.data == NULL)
        return false;
    if (standard < STANDARD_NAMES && !(filling->seen >> standard & 1)) {
        if (standard == LABELS)
            filling->labels_at = filling->publish->header_count;
        put(filling, standard, span_of(NULL, 0));
    }
    filling->headers[filling->publish->header_count++] = (struct header){name, pair->value};
    return true;
}

static void put_labels(struct filling *filling, struct span labels)
{
    if (labels.size == 0)
        return;
    if (filling->seen >> LABELS & 1)
        filling->headers[filling->labels_at].value = labels;
    else
        put(filling, LABELS, labels);
}

enum mqtt_reason mqtt_publish_fill(const struct mqtt_properties *properties,
                                   struct publish *publish, struct header *headers,
                                   char text[MQTT_FILL_TEXT], struct arena *names)
{
    struct labels labels = {.text = text + MQTT_EXPIRY_TEXT};
    struct filling filling = {.publish = publish, .headers = headers};
    publish->headers = headers;
    if (properties->present == 0 && properties->user_count == 0)
        return MQTT_REASON_SUCCESS;
    put_properties(&filling, properties, text);
    struct span list = properties->list;
    struct mqtt_pair pair;
    uint32_t key_end = 0; /* where the headers before and with the key end */
    while (mqtt_user_next(&list, &pair)) {
        /* The core adds two headers of its own, and labels may come. */
        if (publish->header_count > LIMIT_HEADERS - 5)
            return MQTT_REASON_QUOTA_EXCEEDED;
        if (publish->key.data == NULL && span_is(pair.name, PROPERTY_KEY)) {
            publish->key = pair.value;
            headers[publish->header_count++] =
                (struct header){span_from_text(HEADER_KEY_PLACE), span_of(NULL, 0)};
            key_end = publish->header_count;
            continue;
        }
        ask(publish, &pair);
        take_label(&labels, &pair);
        if (!put_user(&filling, &pair, names))
            return MQTT_REASON_QUOTA_EXCEEDED;
    }
    if (key_end > 0 && key_end == publish->header_count)
        publish->header_count--;
    put_labels(&filling, span_of(labels.text, labels.size));
    return MQTT_REASON_SUCCESS;
}
