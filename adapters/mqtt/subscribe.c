/* SPDX-License-Identifier: Apache-2.0 */
/* SUBSCRIBE and UNSUBSCRIBE: the answer goes out when the broker says that the subscription holds
 * everywhere. */
#include "adapters/mqtt/session.h"
#include "adapters/mqtt/topic.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

struct mqtt_subscribing {
    struct broker_subscribe request;
    struct mqtt_session *session;
    uint16_t packet_id;
    uint16_t count;   /* filters in the packet; request.count of them went to the broker */
    uint32_t pending; /* what it waits for: the request, and filters that are told one by one */
    uint8_t *reasons; /* per filter */
    uint16_t *places; /* of the items */
    struct subscribe_item *items;
    uint8_t *bytes;
    struct mqtt_subscribe packet; /* its filters lie in bytes; none of what is subscribed again */
    struct mqtt_asked asked;
    struct span notes; /* of what is subscribed again: in bytes likewise */
    bool is_kept;      /* what has to be is with the session, or on its way there */
    bool is_busy;      /* something failed that may succeed in a moment */
};

static void subscribing_free(struct mqtt_subscribing *subscribing)
{
    heap_free(subscribing->reasons);
    heap_free(subscribing->places);
    heap_free(subscribing->items);
    heap_free(subscribing->bytes);
    heap_free(subscribing);
}

static uint8_t reason_of(const struct subscribe_item *item)
{
    if (item->status == STATUS_OK)
        return item->guarantee == GUARANTEE_AT_MOST_ONCE    ? 0
               : item->guarantee == GUARANTEE_AT_LEAST_ONCE ? MQTT_REASON_GRANTED_QOS_1
                                                            : MQTT_REASON_GRANTED_QOS_2;
    if (item->status == STATUS_INVALID)
        return MQTT_REASON_FILTER_INVALID;
    return (uint8_t)mqtt_reason_on(item->status, MQTT_ON_SUBACK);
}

/* The next filter of a SUBSCRIBE. 3.x has no options: what a bridge sends comes not back to it, and
 * what it receives is retained where it goes if it was here. */
static bool next_filter(const struct mqtt_session *session, struct mqtt_subscribe *packet,
                        struct mqtt_filter *filter)
{
    struct span name, rest;
    if (!mqtt_filter_next(packet, filter))
        return false;
    filter->retain_as_published |= session->is_bridge;
    filter->no_local |= session->is_bridge && !mqtt_share_split(filter->filter, &name, &rest);
    return true;
}

/* What was granted and is not the broker's to keep goes with the session, before it is answered.
 * True: there is something to wait for. */
static bool keep(struct mqtt_subscribing *subscribing)
{
    struct mqtt_session *session = subscribing->session;
    struct mqtt_subscribe packet = subscribing->packet;
    struct mqtt_filter filter;
    if (subscribing->is_kept || !broker_session_is_kept(&session->client))
        return false;
    subscribing->is_kept = true;
    for (uint16_t i = 0; i < packet.count && next_filter(session, &packet, &filter); i++)
        if (subscribing->reasons[i] <= MQTT_REASON_GRANTED_QOS_2)
            subscribing->pending += mqtt_keep(session, &filter, &subscribing->asked,
                                              packet.properties.subscription_id, subscribing, i);
    return subscribing->pending > 0;
}

/* What cannot be had any longer is not kept. What cannot be had now is, and there is no session
 * without it: why. What is full is full for others, too: the session goes on, and asks again
 * later. */
static enum status forget_refused(struct mqtt_subscribing *subscribing)
{
    enum status status = STATUS_OK;
    struct span notes = subscribing->notes, filter, value;
    for (uint16_t i = 0; i < subscribing->count && broker_note_next(&notes, &filter, &value); i++) {
        uint8_t reason = subscribing->reasons[i];
        if (reason == MQTT_REASON_NOT_AUTHORIZED || reason == MQTT_REASON_FILTER_INVALID)
            broker_note_forget(&subscribing->session->client, filter);
        else if (reason == MQTT_REASON_QUOTA_EXCEEDED && subscribing->is_busy)
            status = STATUS_BUSY;
        else if (reason == MQTT_REASON_QUOTA_EXCEEDED)
            mqtt_count_refusal(reason);
        else if (reason > MQTT_REASON_GRANTED_QOS_2 && status == STATUS_OK)
            status = STATUS_SHUTTING_DOWN; /* or so */
    }
    return status;
}

static void settle_one(struct mqtt_subscribing *subscribing)
{
    struct mqtt_session *session = subscribing->session;
    if (--subscribing->pending > 0 || (session->state == MQTT_UP && keep(subscribing)))
        return;
    if (subscribing->notes.size > 0) {
        enum status status = session->client.open ? forget_refused(subscribing) : STATUS_CANCELED;
        session->subscribes--;
        mqtt_subscribed_again(session, status);
    } else if (session->state == MQTT_UP) {
        mqtt_send_suback(session, MQTT_SUBACK, subscribing->packet_id,
                         span_of(subscribing->reasons, subscribing->count));
        for (uint32_t i = 0; i < subscribing->request.count; i++)
            mqtt_show_statistics(session, &subscribing->items[i]);
        session->subscribes--;
        stream_resume(session->stream);
    }
    subscribing_free(subscribing);
    connection_release(session);
}

void mqtt_subscribed(struct mqtt_subscribing *subscribing, uint16_t place, uint8_t reason)
{
    subscribing->reasons[place] = reason;
    settle_one(subscribing);
}

void mqtt_subscribe_failed(struct mqtt_subscribing *subscribing, enum status status)
{
    struct mqtt_session *session = subscribing->session;
    subscribing->is_busy |= status == STATUS_BUSY || status == STATUS_NO_MEMORY;
    if (status == STATUS_STORAGE_FAILED && session->state == MQTT_UP)
        mqtt_end(session, mqtt_reason_on(status, MQTT_ON_DISCONNECT_SERVER));
}

static void subscribe_done(struct request *request, enum status status)
{
    struct mqtt_subscribing *subscribing =
        container_of(request, struct mqtt_subscribing, request.request);
    (void)status;
    for (uint32_t i = 0; i < subscribing->request.count; i++) {
        subscribing->reasons[subscribing->places[i]] = reason_of(&subscribing->items[i]);
        mqtt_subscribe_failed(subscribing, subscribing->items[i].status);
    }
    settle_one(subscribing);
}

static void add_item(struct mqtt_subscribing *subscribing, const struct mqtt_address *address,
                     const struct mqtt_filter *filter, uint32_t identifier, uint16_t place)
{
    subscribing->places[subscribing->request.count] = place;
    subscribing->items[subscribing->request.count++] = (struct subscribe_item){
        .filter = address->topic,
        .share = address->group,
        .guarantee = filter->qos == 0   ? GUARANTEE_AT_MOST_ONCE
                     : filter->qos == 1 ? GUARANTEE_AT_LEAST_ONCE
                                        : GUARANTEE_EXACTLY_ONCE,
        .identifier = identifier,
        .no_local = filter->no_local,
        .retain_as_published = filter->retain_as_published,
        .retained = (enum retained_wish)filter->retain_handling, /* the same numbers */
    };
}

/* What the user properties of a SUBSCRIBE ask for; false: it cannot be had. */
static bool read_asked(const struct mqtt_properties *properties, struct mqtt_asked *asked)
{
    struct span list = properties->list;
    struct mqtt_pair pair;
    *asked = (struct mqtt_asked){0};
    while (mqtt_user_next(&list, &pair)) {
        uint64_t number;
        if (span_is(pair.name, "show") && span_is(pair.value, "receipt")) {
            asked->receipt = true;
        } else if (span_is(pair.name, "show") && span_is(pair.value, "offset")) {
            asked->offset = true;
        } else if (span_is(pair.name, "lease")) {
            if (!mqtt_parse_number(pair.value, &number) || number == 0 || number > LIMIT_LEASE_MS)
                return false;
            asked->lease_ms = (uint32_t)number;
        } else if (span_is(pair.name, "replay")) {
            asked->replayed = true;
            if (!mqtt_position_parse(pair.value, &asked->from))
                return false;
        }
    }
    return true;
}

static enum status unsubscribe_one(struct mqtt_session *session, struct span filter)
{
    struct mqtt_address address;
    if (mqtt_replay_unsubscribe(session, filter) == STATUS_OK)
        return STATUS_OK;
    mqtt_address_of_filter(filter, &address);
    if (mqtt_is_kept(&address))
        broker_note_forget(&session->client, filter);
    if (address.kind == MQTT_ADDRESS_QUEUE || address.kind == MQTT_ADDRESS_DEAD)
        return mqtt_queue_unsubscribe(session, filter);
    if (address.kind != MQTT_ADDRESS_TOPIC || address.replayed)
        return mqtt_filter_valid(filter) ? STATUS_NOT_FOUND : STATUS_INVALID;
    return address.group.size > 0
               ? broker_unsubscribe_shared(&session->client, address.group, address.topic)
               : broker_unsubscribe(&session->client, address.topic);
}

/* The reason that is known at once, or MQTT_PENDING. */
static uint8_t subscribe_one(struct mqtt_subscribing *subscribing, const struct mqtt_filter *filter,
                             const struct mqtt_asked *asked, uint32_t identifier, uint16_t place)
{
    struct mqtt_address address;
    mqtt_address_of_filter(filter->filter, &address);
    if (address.kind == MQTT_ADDRESS_BAD)
        return MQTT_REASON_FILTER_INVALID;
    /* One filter, one subscription: of whichever kind was asked for last. */
    if (asked->replayed && !address.replayed)
        unsubscribe_one(subscribing->session, filter->filter);
    if (asked->replayed || address.replayed)
        return mqtt_replay_subscribe(subscribing->session, filter, &address, asked, identifier);
    mqtt_replay_unsubscribe(subscribing->session, filter->filter);
    if (address.kind == MQTT_ADDRESS_TOPIC) {
        add_item(subscribing, &address, filter, identifier, place);
        return MQTT_PENDING;
    }
    uint8_t reason = mqtt_queue_subscribe(subscribing->session, filter, &address, asked, identifier,
                                          subscribing, place);
    subscribing->pending += reason == MQTT_PENDING;
    return reason;
}

/* A share with no local is a protocol error (MQTT-3.8.3-4). */
static bool has_local_share(struct mqtt_subscribe packet)
{
    struct mqtt_filter filter;
    struct span name, rest;
    while (mqtt_filter_next(&packet, &filter))
        if (filter.no_local && mqtt_share_split(filter.filter, &name, &rest))
            return true;
    return false;
}

static void begin(struct mqtt_subscribing *subscribing, uint16_t count)
{
    struct mqtt_session *session = subscribing->session;
    subscribing->count = count;
    subscribing->reasons = heap_new(count + 1u);
    subscribing->items = heap_array(count + 1u, sizeof *subscribing->items);
    subscribing->places = heap_array(count + 1u, sizeof *subscribing->places);
    subscribing->pending = 1;
    session->subscribes++;
    connection_hold(session);
    subscribing->request.client = &session->client;
    subscribing->request.items = subscribing->items;
    request_init(&subscribing->request.request, broker_loop(session->client.worker),
                 subscribe_done);
}

void mqtt_handle_subscribe(struct mqtt_session *session, uint8_t header, struct span body)
{
    struct mqtt_subscribing *subscribing = heap_new(sizeof *subscribing);
    struct mqtt_subscribe packet;
    /* The filters are borrowed until the broker answers: decode a copy. */
    subscribing->bytes = heap_resize(NULL, body.size + 1);
    if (body.size > 0)
        memcpy(subscribing->bytes, body.data, body.size);
    enum mqtt_reason reason = mqtt_decode_subscribe(
        session->version, header, span_of(subscribing->bytes, body.size), &packet);
    if (reason == MQTT_REASON_SUCCESS && packet.count > LIMIT_FILTERS_PER_CALL)
        reason = MQTT_REASON_QUOTA_EXCEEDED;
    if (reason == MQTT_REASON_SUCCESS && has_local_share(packet))
        reason = MQTT_REASON_PROTOCOL_ERROR;
    if (reason != MQTT_REASON_SUCCESS) {
        subscribing_free(subscribing);
        mqtt_end(session, reason);
        return;
    }
    subscribing->session = session;
    subscribing->packet_id = packet.packet_id;
    subscribing->packet = packet;
    begin(subscribing, packet.count);
    struct mqtt_filter filter;
    bool possible = read_asked(&packet.properties, &subscribing->asked);
    for (uint16_t i = 0; i < packet.count && next_filter(session, &packet, &filter); i++)
        subscribing->reasons[i] = possible
                                      ? subscribe_one(subscribing, &filter, &subscribing->asked,
                                                      packet.properties.subscription_id, i)
                                      : MQTT_REASON_IMPLEMENTATION_ERROR;
    broker_subscribe(&subscribing->request);
}

void mqtt_subscribe_again(struct mqtt_session *session, struct span notes)
{
    struct mqtt_subscribing *subscribing = heap_new(sizeof *subscribing);
    struct span rest = notes, key, value;
    uint16_t count = 0;
    while (count < UINT16_MAX && broker_note_next(&rest, &key, &value))
        count++;
    subscribing->bytes = heap_resize(NULL, notes.size + 1);
    memcpy(subscribing->bytes, notes.data, notes.size);
    subscribing->notes = rest = span_of(subscribing->bytes, notes.size);
    subscribing->session = session;
    begin(subscribing, count);
    for (uint16_t i = 0; i < count && broker_note_next(&rest, &key, &value); i++) {
        struct mqtt_filter filter = {.filter = key};
        struct mqtt_asked asked;
        uint32_t identifier;
        subscribing->reasons[i] = mqtt_kept_decode(value, &filter, &asked, &identifier)
                                      ? subscribe_one(subscribing, &filter, &asked, identifier, i)
                                      : MQTT_REASON_FILTER_INVALID;
    }
    broker_subscribe(&subscribing->request);
}

/* The answer to an UNSUBSCRIBE, when it holds for ever. */
struct unsubscribing {
    struct broker_flush flush;
    struct mqtt_session *session;
    uint16_t packet_id, count;
    uint8_t reasons[];
};

static void unsubscribe_done(struct request *request, enum status status)
{
    struct unsubscribing *unsubscribing =
        container_of(request, struct unsubscribing, flush.request);
    struct mqtt_session *session = unsubscribing->session;
    if (session->state == MQTT_UP && status != STATUS_OK)
        mqtt_end(session, mqtt_reason_on(status, MQTT_ON_DISCONNECT_SERVER));
    else if (session->state == MQTT_UP)
        mqtt_send_suback(session, MQTT_UNSUBACK, unsubscribing->packet_id,
                         span_of(unsubscribing->reasons, unsubscribing->count));
    heap_free(unsubscribing);
    connection_release(session);
}

bool mqtt_handle_unsubscribe(struct mqtt_session *session, uint8_t header, struct span body)
{
    struct mqtt_subscribe packet;
    if (session->subscribes > 0) /* what it takes back may not be there yet */
        return false;
    enum mqtt_reason reason = mqtt_decode_unsubscribe(session->version, header, body, &packet);
    if (reason == MQTT_REASON_SUCCESS && packet.count > LIMIT_FILTERS_PER_CALL)
        reason = MQTT_REASON_QUOTA_EXCEEDED;
    if (reason != MQTT_REASON_SUCCESS) {
        mqtt_end(session, reason);
        return true;
    }
    struct unsubscribing *unsubscribing = heap_new(sizeof *unsubscribing + packet.count);
    unsubscribing->session = session;
    unsubscribing->packet_id = packet.packet_id;
    struct span filter;
    for (uint16_t left = packet.count; left > 0 && mqtt_unsubscribe_next(&packet, &filter);
         left--) {
        enum status status = unsubscribe_one(session, filter);
        unsubscribing->reasons[unsubscribing->count++] =
            status == STATUS_INVALID ? MQTT_REASON_FILTER_INVALID
            : status == STATUS_OK    ? MQTT_REASON_SUCCESS
                                     : MQTT_REASON_NO_SUBSCRIPTION_EXISTED;
    }
    connection_hold(session);
    unsubscribing->flush.client = &session->client;
    request_init(&unsubscribing->flush.request, broker_loop(session->client.worker),
                 unsubscribe_done);
    broker_flush(&unsubscribing->flush);
    return true;
}
