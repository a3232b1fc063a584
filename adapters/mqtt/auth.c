/* SPDX-License-Identifier: Apache-2.0 */
/* Enhanced authentication (4.12): SCRAM-SHA-256 over AUTH packets, at CONNECT and again whenever
 * the client asks for it.
 *
 *   CONNECT or AUTH 0x19 (first) --> AUTH 0x18 (challenge) --> AUTH 0x18 (proof) --> CONNACK, AUTH
 * 0
 */
#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/broker/scram.h"

static const char METHOD[] = "SCRAM-SHA-256";

struct mqtt_auth {
    struct scram scram;
    bool running;      /* an exchange has begun */
    struct buf answer; /* the last one: what CONNACK carries */
};

void mqtt_auth_free(struct mqtt_session *session)
{
    struct mqtt_auth *auth = session->auth;
    if (auth == NULL)
        return;
    scram_deinit(&auth->scram);
    buf_deinit(&auth->answer);
    heap_free(auth);
    session->auth = NULL;
}

void mqtt_auth_show(const struct mqtt_session *session, struct mqtt_properties *properties)
{
    properties->present |= MQTT_HAS(AUTH_METHOD);
    properties->auth_method = span_from_text(METHOD);
    if (session->auth->answer.size == 0)
        return;
    properties->present |= MQTT_HAS(AUTH_DATA);
    properties->auth_data = buf_span(&session->auth->answer);
}

static void send_auth(struct mqtt_session *session, enum mqtt_reason reason)
{
    struct mqtt_disconnect packet = {.reason = reason, .properties = mqtt_properties_none};
    mqtt_auth_show(session, &packet.properties);
    size_t size = mqtt_auth_size(&packet);
    if (size > 0 && size <= session->packet_max)
        mqtt_encode_auth(&packet, stream_reserve(session->stream, size));
    else /* there is no other way to say it */
        mqtt_end(session, MQTT_REASON_PACKET_TOO_LARGE);
}

static void start_anew(struct mqtt_auth *auth)
{
    scram_deinit(&auth->scram);
    scram_init(&auth->scram);
    auth->running = false;
}

/* BUSY: the challenge is out. OK: auth->scram.principal has proven itself. */
static enum status exchange(struct mqtt_session *session, struct span data)
{
    struct mqtt_auth *auth = session->auth;
    struct client *client = &session->client;
    enum status status = STATUS_UNAUTHENTICATED;
    buf_clear(&auth->answer);
    auth->running = true;
    if (auth->scram.begun) {
        status = scram_final(&auth->scram, data, &auth->answer);
    } else if (!catalog_is_protected(broker_catalog(client->worker))) {
        status = scram_first(&auth->scram, client, data, &auth->answer);
        if (status == STATUS_OK) {
            send_auth(session, MQTT_REASON_CONTINUE_AUTHENTICATION);
            return STATUS_BUSY;
        }
    }
    if (status != STATUS_OK)
        start_anew(auth);
    /* A message that is none of SCRAM's proves nothing. */
    return status == STATUS_MALFORMED ? STATUS_DENIED : status;
}

const struct principal *mqtt_auth_proven(const struct mqtt_session *session)
{
    return session->auth->scram.principal;
}

void mqtt_auth_done(struct mqtt_session *session)
{
    start_anew(session->auth);
}

enum status mqtt_auth_begin(struct mqtt_session *session, const struct mqtt_properties *properties)
{
    if (!span_is(properties->auth_method, METHOD))
        return STATUS_UNSUPPORTED;
    struct mqtt_auth *auth = session->auth = heap_new(sizeof *auth);
    scram_init(&auth->scram);
    buf_init(&auth->answer, 4 * SCRAM_MESSAGE_MAX);
    if (properties->present & MQTT_HAS(AUTH_DATA))
        return exchange(session, properties->auth_data);
    auth->running = true;
    send_auth(session, MQTT_REASON_CONTINUE_AUTHENTICATION);
    return STATUS_BUSY;
}

/* What an AUTH packet of the client may be now: the same method always, 0x19 to begin, 0x18 to go
 * on. */
static enum mqtt_reason check(const struct mqtt_session *session,
                              const struct mqtt_disconnect *auth)
{
    bool again = auth->reason == MQTT_REASON_REAUTHENTICATE;
    if (session->auth == NULL || again == session->auth->running ||
        !(auth->properties.present & MQTT_HAS(AUTH_METHOD)) ||
        !span_is(auth->properties.auth_method, METHOD))
        return MQTT_REASON_PROTOCOL_ERROR;
    return MQTT_REASON_SUCCESS;
}

enum mqtt_reason mqtt_auth_continue(struct mqtt_session *session, uint8_t header, struct span body,
                                    enum status *status)
{
    struct mqtt_disconnect packet;
    enum mqtt_reason reason =
        mqtt_decode_auth(session->version, MQTT_FROM_CLIENT, header, body, &packet);
    if (reason == MQTT_REASON_SUCCESS)
        reason = check(session, &packet);
    if (reason == MQTT_REASON_SUCCESS)
        *status = exchange(session, packet.properties.auth_data);
    return reason;
}

/* Whoever is connected has proven once more that it is who it was. */
static bool is_the_same(const struct mqtt_session *session)
{
    const struct principal *proven = mqtt_auth_proven(session), *own = session->client.principal;
    return own != NULL && proven->id == own->id &&
           catalog_principal(broker_catalog(session->client.worker), own->id) == proven;
}

void mqtt_handle_auth(struct mqtt_session *session, uint8_t header, struct span body)
{
    enum status status = STATUS_OK;
    enum mqtt_reason reason = mqtt_auth_continue(session, header, body, &status);
    if (reason != MQTT_REASON_SUCCESS) {
        mqtt_end(session, reason);
    } else if (status == STATUS_OK && is_the_same(session)) {
        send_auth(session, MQTT_REASON_SUCCESS);
        mqtt_auth_done(session);
    } else if (status != STATUS_BUSY) {
        mqtt_end(session, MQTT_REASON_NOT_AUTHORIZED);
    }
}
