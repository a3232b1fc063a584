/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing of addresses. */
#include "adapters/mqtt/address.h"

#include "adapters/mqtt/topic.h"
#include "core/base/limits.h"
#include "core/base/pack.h"

enum { KEPT_VERSION = 1 };
enum { RETAIN_AS_PUBLISHED = 1, SHOW_RECEIPT = 2, SHOW_OFFSET = 4 };

bool mqtt_parse_number(struct span text, uint64_t *value)
{
    *value = 0;
    if (text.size == 0 || text.size > 18)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        *value = *value * 10 + (uint64_t)(text.data[i] - '0');
    }
    return true;
}

/* Takes prefix off text. */
static bool take_prefix(struct span *text, const char *prefix)
{
    size_t size = strlen(prefix);
    if (text->size < size || memcmp(text->data, prefix, size) != 0)
        return false;
    *text = span_from(*text, size);
    return true;
}

/* Takes a level and the slash behind it off text; false: there is no slash. */
static bool take_level(struct span *text, struct span *level)
{
    const uint8_t *slash = text->size == 0 ? NULL : memchr(text->data, '/', text->size);
    if (slash == NULL)
        return false;
    *level = span_of(text->data, (size_t)(slash - text->data));
    *text = span_from(*text, level->size + 1);
    return true;
}

/* A name of a queue or group, or an id: what may stand in one level and is never a wildcard. */
static bool is_name(struct span text)
{
    if (text.size == 0 || text.size > LIMIT_QUEUE_NAME)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            c != '-' && c != '_' && c != '.')
            return false;
    }
    return true;
}

/* Also one that a client has made for itself, to be answered there. */
static bool is_queue(struct span text)
{
    take_prefix(&text, "$reply.");
    return is_name(text);
}

/* Behind "$queue/". */
static enum mqtt_address_kind read_queue(struct span rest, struct mqtt_address *address)
{
    if (!take_level(&rest, &address->queue)) {
        address->queue = rest;
        return is_queue(rest) ? MQTT_ADDRESS_QUEUE : MQTT_ADDRESS_BAD;
    }
    if (!is_queue(address->queue))
        return MQTT_ADDRESS_BAD;
    if (span_is(rest, "$nack"))
        return MQTT_ADDRESS_NACK;
    if (span_is(rest, "$extend"))
        return MQTT_ADDRESS_EXTEND;
    if (!take_prefix(&rest, "$dead/") || !is_name(rest))
        return MQTT_ADDRESS_BAD;
    address->group = rest;
    return MQTT_ADDRESS_DEAD;
}

/* What is left of prefixes. */
static void read_plain(struct span text, bool (*is_valid)(struct span text),
                       struct mqtt_address *address)
{
    static const char *const ours[] = {"$share/", "$delayed/", "$replay/"};
    struct span rest = text;
    if (take_prefix(&rest, "$queue/")) {
        address->kind = read_queue(rest, address);
        return;
    }
    for (unsigned i = 0; i < sizeof ours / sizeof *ours; i++)
        if (take_prefix(&rest, ours[i]))
            return;
    if (is_valid(text))
        address->kind = MQTT_ADDRESS_TOPIC;
    address->topic = text;
}

void mqtt_address_of_topic(struct span topic, struct mqtt_address *address)
{
    *address = (struct mqtt_address){.kind = MQTT_ADDRESS_BAD};
    struct span rest = topic, seconds;
    if (take_prefix(&rest, "$delayed/") && take_level(&rest, &seconds)) {
        uint64_t number;
        address->delayed = true;
        address->delay_ms = mqtt_parse_number(seconds, &number) && number <= UINT32_MAX
                                ? number * 1000
                                : UINT64_MAX;
        topic = rest;
    }
    read_plain(topic, mqtt_topic_valid, address);
    if (address->kind == MQTT_ADDRESS_DEAD ||
        (address->delayed &&
         (address->kind == MQTT_ADDRESS_NACK || address->kind == MQTT_ADDRESS_EXTEND)))
        address->kind = MQTT_ADDRESS_BAD;
}

bool mqtt_position_parse(struct span text, struct mqtt_position *position)
{
    *position = (struct mqtt_position){0};
    if (span_is(text, "earliest"))
        return true;
    position->by_time = take_prefix(&text, "@");
    return mqtt_parse_number(text, &position->value);
}

void mqtt_address_of_filter(struct span filter, struct mqtt_address *address)
{
    *address = (struct mqtt_address){.kind = MQTT_ADDRESS_BAD};
    struct span rest = filter, from;
    if (take_prefix(&rest, "$share/")) {
        if (!mqtt_share_split(filter, &address->group, &rest))
            return;
        filter = rest;
    } else if (take_prefix(&rest, "$replay/")) {
        if (!take_level(&rest, &from) || !mqtt_position_parse(from, &address->from))
            return;
        address->replayed = true;
        filter = rest;
    }
    bool shared = address->group.size > 0;
    read_plain(filter, mqtt_filter_valid, address);
    bool is_plain = address->kind == MQTT_ADDRESS_TOPIC || address->kind == MQTT_ADDRESS_QUEUE;
    if (!is_plain && (address->kind != MQTT_ADDRESS_DEAD || shared || address->replayed))
        address->kind = MQTT_ADDRESS_BAD;
}

static size_t put(char *to, size_t at, struct span text)
{
    if (text.size > 0)
        memcpy(to + at, text.data, text.size);
    return at + text.size;
}

size_t mqtt_address_put(const struct mqtt_address *address, char *to)
{
    size_t size = put(to, 0, span_from_text("$queue/"));
    size = put(to, size, address->queue);
    if (address->kind != MQTT_ADDRESS_DEAD)
        return size;
    size = put(to, size, span_from_text("/$dead/"));
    return put(to, size, address->group);
}

bool mqtt_settlement_parse(struct span payload, struct mqtt_settlement *settlement)
{
    *settlement = (struct mqtt_settlement){0};
    const uint8_t *blank = payload.size == 0 ? NULL : memchr(payload.data, ' ', payload.size);
    uint64_t number;
    if (blank != NULL) {
        size_t size = (size_t)(blank - payload.data);
        if (!mqtt_parse_number(span_from(payload, size + 1), &number) || number > UINT32_MAX)
            return false;
        settlement->has_ms = true;
        settlement->ms = (uint32_t)number;
        payload = span_of(payload.data, size);
    }
    if (payload.size <= 5 && mqtt_parse_number(payload, &number)) {
        settlement->packet_id = number <= UINT16_MAX ? (uint16_t)number : 0;
        return settlement->packet_id != 0;
    }
    settlement->receipt = payload;
    return payload.size > 5 && payload.size <= LIMIT_QUEUE_NAME;
}

void mqtt_kept_encode(const struct mqtt_filter *filter, const struct mqtt_asked *asked,
                      uint32_t identifier, uint8_t to[MQTT_KEPT_BYTES])
{
    to[0] = KEPT_VERSION;
    to[1] = filter->qos;
    to[2] = (uint8_t)((filter->retain_as_published ? RETAIN_AS_PUBLISHED : 0) |
                      (asked->receipt ? SHOW_RECEIPT : 0) | (asked->offset ? SHOW_OFFSET : 0));
    store_u32(to + 3, identifier);
    store_u32(to + 7, asked->lease_ms);
}

bool mqtt_kept_decode(struct span kept, struct mqtt_filter *filter, struct mqtt_asked *asked,
                      uint32_t *identifier)
{
    if (kept.size != MQTT_KEPT_BYTES || kept.data[0] != KEPT_VERSION || kept.data[1] > 2)
        return false;
    unsigned flags = kept.data[2];
    filter->qos = kept.data[1];
    filter->retain_as_published = (flags & RETAIN_AS_PUBLISHED) != 0;
    *identifier = load_u32(kept.data + 3);
    *asked = (struct mqtt_asked){
        .receipt = (flags & SHOW_RECEIPT) != 0,
        .offset = (flags & SHOW_OFFSET) != 0,
        .lease_ms = load_u32(kept.data + 7),
    };
    return *identifier <= MQTT_VARINT_MAX && asked->lease_ms <= LIMIT_LEASE_MS;
}
