/* SPDX-License-Identifier: Apache-2.0 */
/* What clients publish: PUBLISH to the broker, PUBACK and PUBREC when the broker has answered, QoS
 * 2 until PUBREL, topic aliases. */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

struct mqtt_aliases {
    uint16_t count;
    struct {
        char *topic;
        uint16_t size;
    } slots[];
};

/* QoS 2 identifiers in use, and which of them have been stored: two bits each. */
struct mqtt_received {
    uint8_t states[65536 / 4];
};
enum { RECEIVED_NOT, RECEIVED_PENDING, RECEIVED_STORED, RECEIVED_FORGETTING };

static unsigned received_get(const struct mqtt_session *session, uint16_t id)
{
    return session->received == NULL ? RECEIVED_NOT
                                     : session->received->states[id / 4] >> (id % 4 * 2) & 3u;
}

static void received_set(struct mqtt_session *session, uint16_t id, unsigned state)
{
    if (session->received == NULL)
        session->received = heap_new(sizeof *session->received);
    uint8_t *at = &session->received->states[id / 4];
    unsigned shift = id % 4u * 2;
    *at = (uint8_t)((*at & ~(3u << shift)) | state << shift);
}

void mqtt_incoming_free(struct mqtt_session *session)
{
    for (uint16_t i = 0; session->aliases != NULL && i < session->aliases->count; i++)
        heap_free(session->aliases->slots[i].topic);
    heap_free(session->aliases);
    heap_free(session->received);
    session->aliases = NULL;
    session->received = NULL;
}

void mqtt_incoming_known(struct mqtt_session *session, const uint32_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        received_set(session, (uint16_t)ids[i], RECEIVED_STORED);
}

/* The client may send one more: it counts from the connection on, and what ends then
 * may have begun before; it never may send more than at first (4.9). */
static void count_answer(struct mqtt_session *session)
{
    if (session->unanswered > 0)
        session->unanswered--;
}

/* ------------------------------------------------ answers of the broker */

static uint64_t token_of(const struct mqtt_publish *publish)
{
    return (uint64_t)publish->qos << 16 | publish->packet_id;
}

/* Where nothing that may be said is true, the connection ends and the client sends again. */
static bool has_answer(enum mqtt_version version, enum status status)
{
    if (status == STATUS_OK)
        return true;
    /* After a failed sync nobody knows whether the record will be there at the next start; at the
     * end of the server a refusal would keep the client from sending again. */
    if (status == STATUS_STORAGE_FAILED || status == STATUS_SHUTTING_DOWN)
        return false;
    /* Only of settlements: the lease had run out, which a delivery to somebody tells as well. */
    if (status == STATUS_STALE)
        return true;
    /* 3.x has no negative answer, and a positive one would be a promise (3.3.5-2 leaves the
     * choice). */
    return version == MQTT_5;
}

void mqtt_answered(struct client *client, uint64_t token, enum status status, uint64_t partition,
                   uint64_t offset)
{
    struct mqtt_session *session = mqtt_session_of(client);
    (void)partition;
    (void)offset;
    uint16_t id = (uint16_t)token;
    bool exactly_once = token >> 16 == 2;
    if (session->state != MQTT_UP)
        return;
    if (!has_answer(session->version, status)) {
        mqtt_end(session, mqtt_reason_on(status, MQTT_ON_DISCONNECT_SERVER));
        return;
    }
    if (!exactly_once) {
        count_answer(session);
        mqtt_send_ack(session, MQTT_PUBACK, id, mqtt_reason_on(status, MQTT_ON_PUBACK));
        return;
    }
    if (status != STATUS_OK)
        count_answer(session); /* a refusal ends the exchange (4.3.3) */
    received_set(session, id, status == STATUS_OK ? RECEIVED_STORED : RECEIVED_NOT);
    mqtt_send_ack(session, MQTT_PUBREC, id, mqtt_reason_on(status, MQTT_ON_PUBREC));
}

/* ------------------------------------------------ PUBLISH */

/* Puts the topic an alias stands for into publish, or remembers a new one. */
static enum mqtt_reason resolve_alias(struct mqtt_session *session, struct mqtt_publish *publish)
{
    uint16_t alias = publish->properties.topic_alias;
    if (alias == 0)
        return publish->topic.size == 0 ? MQTT_REASON_PROTOCOL_ERROR : MQTT_REASON_SUCCESS;
    if (alias > mqtt_settings.topic_alias_max)
        return MQTT_REASON_TOPIC_ALIAS_INVALID;
    if (session->aliases == NULL) {
        uint16_t count = mqtt_settings.topic_alias_max;
        session->aliases =
            heap_new(sizeof *session->aliases + count * sizeof session->aliases->slots[0]);
        session->aliases->count = count;
    }
    char **topic = &session->aliases->slots[alias - 1].topic;
    uint16_t *size = &session->aliases->slots[alias - 1].size;
    if (publish->topic.size > 0) {
        heap_free(*topic);
        *topic = heap_text((const char *)publish->topic.data, publish->topic.size);
        *size = (uint16_t)publish->topic.size;
        return MQTT_REASON_SUCCESS;
    }
    if (*topic == NULL)
        return MQTT_REASON_PROTOCOL_ERROR;
    publish->topic = span_of(*topic, *size);
    return MQTT_REASON_SUCCESS;
}

/* What an address of ours says. A queue that does not exist, or an address that nothing can be
 * published to, is refused. */
static enum status find_address(struct mqtt_session *session, const struct mqtt_address *address,
                                struct publish *publish)
{
    if (address->delayed)
        publish->delay_ms = address->delay_ms;
    publish->topic = address->topic;
    if (address->kind == MQTT_ADDRESS_TOPIC)
        return STATUS_OK;
    if (address->kind == MQTT_ADDRESS_BAD)
        return STATUS_INVALID;
    publish->queue = catalog_queue_by_text(broker_catalog(session->client.worker),
                                           session->client.tenant, address->queue);
    return publish->queue == NULL ? STATUS_NOT_FOUND : STATUS_OK;
}

/* Of a topic that begins with '$'. */
static void to_address(struct mqtt_session *session, struct publish *publish)
{
    struct mqtt_address address;
    mqtt_address_of_topic(publish->topic, &address);
    enum status status = find_address(session, &address, publish);
    if (status == STATUS_OK &&
        (address.kind == MQTT_ADDRESS_NACK || address.kind == MQTT_ADDRESS_EXTEND))
        mqtt_settle_publish(session, &address, publish);
    else if (status == STATUS_OK)
        broker_publish(&session->client, publish);
    else if (publish->answer)
        broker_refuse(&session->client, publish->token, status);
}

static void to_broker(struct mqtt_session *session, const struct mqtt_publish *packet)
{
    struct header headers[LIMIT_HEADERS];
    char text[MQTT_FILL_TEXT];
    struct publish publish = {
        .topic = packet->topic,
        .body = packet->payload,
        .guarantee = packet->qos == 0   ? GUARANTEE_AT_MOST_ONCE
                     : packet->qos == 1 ? GUARANTEE_AT_LEAST_ONCE
                                        : GUARANTEE_EXACTLY_ONCE,
        .retain = packet->retain,
        .not_durable = packet->qos == 0,
        .answer = packet->qos > 0,
        .token = token_of(packet),
        .number = packet->qos == 2 ? packet->packet_id : 0,
    };
    struct arena names;
    arena_init(&names, LIMIT_RECORD_BYTES);
    bool fits = mqtt_publish_fill(&packet->properties, &publish, headers, text, &names) ==
                MQTT_REASON_SUCCESS;
    if (!fits && publish.answer)
        broker_refuse(&session->client, publish.token, STATUS_OVER_QUOTA);
    else if (fits && publish.topic.size > 0 && publish.topic.data[0] == '$')
        to_address(session, &publish);
    else if (fits)
        broker_publish(&session->client, &publish);
    arena_deinit(&names);
}

bool mqtt_handle_publish(struct mqtt_session *session, uint8_t header, struct span body)
{
    struct mqtt_publish publish;
    if (!broker_may_publish(&session->client))
        return false;
    enum mqtt_reason reason =
        mqtt_decode_publish(session->version, MQTT_FROM_CLIENT, header, body, &publish);
    if (reason == MQTT_REASON_SUCCESS && session->version == MQTT_5)
        reason = resolve_alias(session, &publish);
    if (reason != MQTT_REASON_SUCCESS) {
        mqtt_end(session, reason);
        return true;
    }
    if (publish.qos == 2 && received_get(session, publish.packet_id) != RECEIVED_NOT) {
        /* Sent again: it is answered once it is stored, and never published twice (4.3.3-10). */
        if (received_get(session, publish.packet_id) != RECEIVED_PENDING)
            mqtt_send_ack(session, MQTT_PUBREC, publish.packet_id, MQTT_REASON_SUCCESS);
        return true;
    }
    if (publish.qos > 0) {
        if (session->version == MQTT_5 && session->unanswered >= session->receive_max) {
            mqtt_end(session, MQTT_REASON_RECEIVE_MAXIMUM_EXCEEDED);
            return true;
        }
        session->unanswered++;
    }
    if (publish.qos == 2)
        received_set(session, publish.packet_id, RECEIVED_PENDING);
    to_broker(session, &publish);
    return true;
}

void mqtt_handle_pubrel(struct mqtt_session *session, uint8_t header, struct span body)
{
    struct mqtt_ack ack;
    enum mqtt_reason reason = mqtt_decode_ack(session->version, header, body, &ack);
    if (reason != MQTT_REASON_SUCCESS) {
        mqtt_end(session, reason);
        return;
    }
    unsigned state = received_get(session, ack.packet_id);
    if (state == RECEIVED_PENDING) { /* before PUBREC */
        mqtt_end(session, MQTT_REASON_PROTOCOL_ERROR);
        return;
    }
    if (state == RECEIVED_NOT) {
        mqtt_send_ack(session, MQTT_PUBCOMP, ack.packet_id, MQTT_REASON_PACKET_ID_NOT_FOUND);
    } else if (state == RECEIVED_STORED && broker_session_is_kept(&session->client)) {
        received_set(session, ack.packet_id, RECEIVED_FORGETTING);
        broker_forget(&session->client, ack.packet_id);
    } else if (state == RECEIVED_STORED) {
        mqtt_forgotten(&session->client, ack.packet_id);
    }
}

void mqtt_forgotten(struct client *client, uint32_t number)
{
    struct mqtt_session *session = mqtt_session_of(client);
    if (session->state != MQTT_UP)
        return;
    received_set(session, (uint16_t)number, RECEIVED_NOT);
    count_answer(session);
    mqtt_send_ack(session, MQTT_PUBCOMP, (uint16_t)number, MQTT_REASON_SUCCESS);
}
