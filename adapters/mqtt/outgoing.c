/* SPDX-License-Identifier: Apache-2.0 */
/* Deliveries to the client: shared frames, own packet identifiers, and its answers. */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/broker/metrics.h"

enum { COPY_BYTES = 4096, DUPLICATE = 0x08 };

static void owe(struct mqtt_session *session, uint32_t id, enum mqtt_owed owed)
{
    if (session->owed == NULL)
        session->owed = heap_new(mqtt_id_count(session));
    session->owed[id] = (uint8_t)owed;
}

uint16_t mqtt_take_id(struct mqtt_session *session, enum mqtt_owed owed)
{
    uint32_t end = mqtt_id_count(session);
    for (uint32_t i = session->id_base; i < end; i++) {
        bool wraps = session->next_id <= session->id_base || session->next_id + 1u >= end;
        session->next_id = (uint16_t)(wraps ? session->id_base + 1u : session->next_id + 1u);
        if (session->owed == NULL || session->owed[session->next_id] == MQTT_OWED_NOTHING) {
            owe(session, session->next_id, owed);
            return session->next_id;
        }
    }
    return 0;
}

/* The frame with the client's own identifier and flag in place. */
static void send_publish(struct mqtt_session *session, struct blob *frame, size_t at, uint16_t id,
                         uint8_t flag)
{
    if (session->out_aliases != NULL && mqtt_send_aliased(session, frame, id, flag))
        return;
    if (frame->size <= COPY_BYTES) {
        uint8_t *to = stream_reserve(session->stream, frame->size);
        memcpy(to, frame->bytes, frame->size);
        to[0] |= flag;
        store_u16(to + at, id);
        return;
    }
    *stream_reserve(session->stream, 1) = (uint8_t)(frame->bytes[0] | flag);
    stream_write_blob(session->stream, frame, 1, at - 1);
    store_u16(stream_reserve(session->stream, 2), id);
    stream_write_blob(session->stream, frame, at + 2, frame->size - at - 2);
}

bool mqtt_deliver(struct client *client, struct subscription *subscription, struct blob *frame,
                  uint32_t variant, const struct record *record)
{
    struct mqtt_session *session = mqtt_session_of(client);
    (void)variant;
    (void)record;
    if (session->state != MQTT_UP)
        return true;
    size_t at = mqtt_publish_id_at(blob_span(frame));
    if (frame->size > session->packet_max) /* as if it had been sent (3.1.2-25) */
        return false;
    if (at == 0) {
        if (session->out_aliases == NULL || !mqtt_send_aliased(session, frame, 0, 0))
            stream_write_blob(session->stream, frame, 0, frame->size);
        return true;
    }
    uint16_t id = mqtt_take_id(session, (frame->bytes[0] & 0x06) == 0x02 ? MQTT_OWED_PUBACK
                                                                         : MQTT_OWED_PUBREC);
    if (subscription->shared)
        mqtt_lease_put(
            session, id,
            &(struct mqtt_lease){.subscription = subscription, .number = subscription->lease});
    send_publish(session, frame, at, id, 0);
    return true;
}

bool mqtt_deliver_kept(struct client *client, struct blob *frame, const struct kept_delivery *kept)
{
    struct mqtt_session *session = mqtt_session_of(client);
    size_t at = mqtt_publish_id_at(blob_span(frame));
    if (frame->size > session->packet_max)
        return false;
    if (session->state != MQTT_UP || at == 0)
        return true;
    owe(session, kept->number,
        (frame->bytes[0] & 0x06) == 0x02 ? MQTT_OWED_PUBACK : MQTT_OWED_PUBREC);
    send_publish(session, frame, at, (uint16_t)kept->number, kept->again ? DUPLICATE : 0);
    return true;
}

static void settle(struct mqtt_session *session, uint16_t id, const struct mqtt_ack *ack)
{
    session->owed[id] = MQTT_OWED_NOTHING;
    session->settled++;
    if (id <= session->id_base)
        broker_settled(&session->client, id);
    if (session->leases != NULL)
        mqtt_lease_end(session, id, ack);
}

static void released(struct mqtt_session *session, uint16_t id, enum mqtt_reason reason)
{
    mqtt_send_ack(session, MQTT_PUBREL, id, reason);
}

void mqtt_release(struct client *client, uint32_t number)
{
    struct mqtt_session *session = mqtt_session_of(client);
    if (session->state != MQTT_UP)
        return;
    owe(session, number, MQTT_OWED_PUBCOMP);
    released(session, (uint16_t)number, MQTT_REASON_SUCCESS);
}

/* The client has it: PUBREL may go out, now, or when the broker has noted it. */
static void taken(struct mqtt_session *session, uint16_t id)
{
    session->owed[id] = MQTT_OWED_PUBCOMP;
    if (id <= session->id_base)
        broker_taken(&session->client, id);
    else
        released(session, id, MQTT_REASON_SUCCESS);
}

/* What a PUBACK or PUBCOMP settles. */
static enum mqtt_owed answer_owed(enum mqtt_type type)
{
    return type == MQTT_PUBACK    ? MQTT_OWED_PUBACK
           : type == MQTT_PUBCOMP ? MQTT_OWED_PUBCOMP
                                  : MQTT_OWED_NOTHING;
}

void mqtt_handle_ack(struct mqtt_session *session, uint8_t header, struct span body)
{
    struct mqtt_ack ack;
    enum mqtt_reason reason = mqtt_decode_ack(session->version, header, body, &ack);
    if (reason != MQTT_REASON_SUCCESS) {
        mqtt_end(session, reason);
        return;
    }
    uint16_t id = ack.packet_id;
    bool known = session->owed != NULL && id < mqtt_id_count(session);
    unsigned owed = known ? session->owed[id] : MQTT_OWED_NOTHING;
    enum mqtt_type type = mqtt_type_of(header);
    if (type == MQTT_PUBREC && owed == MQTT_OWED_NOTHING) {
        /* Not known here: PUBREL lets the client forget it too. */
        if (ack.reason < MQTT_REASON_UNSPECIFIED)
            released(session, id, MQTT_REASON_PACKET_ID_NOT_FOUND);
    } else if (type == MQTT_PUBREC && owed != MQTT_OWED_PUBACK) {
        if (ack.reason >= MQTT_REASON_UNSPECIFIED) {
            settle(session, id, &ack);
        } else {
            taken(session, id);
        }
    } else if (owed == answer_owed(type)) {
        if (type == MQTT_PUBCOMP)
            ack.reason = MQTT_REASON_SUCCESS; /* it has it, whatever it remembers */
        settle(session, id, &ack);
    } else if (owed != MQTT_OWED_NOTHING) { /* an answer, but not to what was sent (4.3) */
        mqtt_end(session, MQTT_REASON_PROTOCOL_ERROR);
    }
}
