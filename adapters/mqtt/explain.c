/* SPDX-License-Identifier: Apache-2.0 */
/* Reason strings: why something is refused, in words, where the client wants them and takes a
 * packet of that size. */
#include "adapters/mqtt/session.h"

void mqtt_explain(const struct mqtt_session *session, enum mqtt_type type, enum mqtt_reason reason,
                  struct mqtt_properties *properties)
{
    /* A client may want them in CONNACK and DISCONNECT only (MQTT-3.1.2-29). */
    bool wanted = !session->no_problem_info || type == MQTT_CONNACK || type == MQTT_DISCONNECT;
    if (session->version != MQTT_5 || reason < MQTT_REASON_UNSPECIFIED || !wanted)
        return;
    properties->present |= MQTT_HAS(REASON_STRING);
    properties->reason_string = span_from_text(mqtt_reason_text(reason));
}

void mqtt_send_ack(struct mqtt_session *session, enum mqtt_type type, uint16_t id,
                   enum mqtt_reason reason)
{
    struct mqtt_ack ack = {.packet_id = id, .reason = reason, .properties = mqtt_properties_none};
    mqtt_explain(session, type, reason, &ack.properties);
    if (ack.properties.present != 0) {
        size_t size = mqtt_ack_size(session->version, &ack);
        if (size <= session->packet_max) {
            mqtt_encode_ack_with(session->version, type, &ack,
                                 stream_reserve(session->stream, size));
            return;
        }
    }
    uint8_t bytes[MQTT_ACK_BYTES_MAX];
    size_t size = mqtt_encode_ack(session->version, type, id, reason, bytes);
    memcpy(stream_reserve(session->stream, size), bytes, size);
}

static enum mqtt_reason first_refusal(struct span reasons)
{
    for (size_t i = 0; i < reasons.size; i++)
        if (reasons.data[i] >= MQTT_REASON_UNSPECIFIED)
            return (enum mqtt_reason)reasons.data[i];
    return MQTT_REASON_SUCCESS;
}

void mqtt_send_suback(struct mqtt_session *session, enum mqtt_type type, uint16_t id,
                      struct span reasons)
{
    size_t (*size_of)(enum mqtt_version, const struct mqtt_suback *) =
        type == MQTT_SUBACK ? mqtt_suback_size : mqtt_unsuback_size;
    struct mqtt_suback suback = {
        .packet_id = id, .reasons = reasons, .properties = mqtt_properties_none};
    mqtt_explain(session, type, first_refusal(reasons), &suback.properties);
    size_t size = size_of(session->version, &suback);
    if (size > session->packet_max) {
        suback.properties = mqtt_properties_none;
        size = size_of(session->version, &suback);
    }
    if (size == 0 || size > session->packet_max)
        return;
    uint8_t *to = stream_reserve(session->stream, size);
    if (type == MQTT_SUBACK)
        mqtt_encode_suback(session->version, &suback, to);
    else
        mqtt_encode_unsuback(session->version, &suback, to);
}
