/* SPDX-License-Identifier: Apache-2.0 */
/* CONNECT to CONNACK. */
#include <stdio.h>

#include "adapters/mqtt/session.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/rng.h"
#include "core/broker/topic.h"

/* The login under way, with copies of what the request borrows. */
struct mqtt_login {
    struct broker_login request;
    struct broker_attach attach;
    struct mqtt_session *session;
    uint16_t asked_keep_alive;
    bool asked_response_info;
    uint8_t bytes[];
};

/* False: the client does not take a packet of that size. */
static bool send_connack(struct mqtt_session *session, enum mqtt_reason reason, bool present,
                         const struct mqtt_properties *properties)
{
    /* MQTT 3.1 has no such flag. */
    struct mqtt_connack connack = {
        .session_present = present && session->version != MQTT_3_1,
        .reason = reason,
        .properties = *properties,
    };
    size_t size = mqtt_connack_size(session->version, &connack);
    if (size == 0 || size > session->packet_max)
        return false;
    mqtt_encode_connack(session->version, &connack, stream_reserve(session->stream, size));
    return true;
}

/* 3.x closes without an answer when the packet is not what it should be (MQTT-3.1.4-1). */
static bool is_answered(enum mqtt_version version, enum mqtt_reason reason)
{
    if (version == MQTT_5)
        return true;
    return version != 0 && reason != MQTT_REASON_MALFORMED &&
           reason != MQTT_REASON_PROTOCOL_ERROR && reason != MQTT_REASON_TOPIC_INVALID;
}

static void send_refusal(struct mqtt_session *session, enum mqtt_reason reason)
{
    struct mqtt_properties properties = mqtt_properties_none;
    if (reason != MQTT_REASON_UNSUPPORTED_VERSION) /* who knows what that client reads */
        mqtt_explain(session, MQTT_CONNACK, reason, &properties);
    if (!send_connack(session, reason, false, &properties))
        send_connack(session, reason, false, &mqtt_properties_none);
}

/* Where answers to the client's requests may go: a part of the topics that it may read. */
static void show_response_info(const struct mqtt_session *session, char *text, size_t size,
                               struct mqtt_properties *properties)
{
    struct span id = session->client.id;
    size_t used = (size_t)snprintf(text, size, "$reply/%.*s", (int)id.size, (const char *)id.data);
    snprintf(text + used, size - used, "/#");
    if (topic_filter_has_wildcard(span_of(text, used)) ||
        broker_check(&session->client, ACTION_CONSUME, true, span_from_text(text)) != STATUS_OK)
        return;
    properties->present |= MQTT_HAS(RESPONSE_INFO);
    properties->response_info = span_of(text, used);
}

void mqtt_refuse(struct mqtt_session *session, enum mqtt_reason reason)
{
    mqtt_count_refusal(reason);
    if (is_answered(session->version, reason))
        send_refusal(session, reason);
    session->state = MQTT_DOWN;
    stream_close(session->stream);
}

/* A client that takes small packets only is told less: first what absence says as well, or what it
 * can do without, then what few clients come near. */
static bool send_acceptance(struct mqtt_session *session, bool present,
                            const struct mqtt_properties *properties)
{
    static const uint64_t optional[] = {MQTT_HAS(SHARED_AVAILABLE), MQTT_HAS(RESPONSE_INFO),
                                        MQTT_HAS(TOPIC_ALIAS_MAXIMUM), MQTT_HAS(MAXIMUM_PACKET)};
    struct mqtt_properties told = *properties;
    bool sent = send_connack(session, MQTT_REASON_SUCCESS, present, &told);
    for (unsigned i = 0; !sent && i < sizeof optional / sizeof optional[0]; i++) {
        told.present &= ~optional[i];
        sent = send_connack(session, MQTT_REASON_SUCCESS, present, &told);
    }
    return sent;
}

static void accept_client(struct mqtt_session *session, const struct mqtt_login *login)
{
    struct mqtt_properties properties = mqtt_properties_none;
    char response_info[LIMIT_CLIENT_ID_BYTES + 16];
    if (session->version == MQTT_5) {
        properties.present =
            MQTT_HAS(MAXIMUM_PACKET) | MQTT_HAS(TOPIC_ALIAS_MAXIMUM) | MQTT_HAS(SHARED_AVAILABLE);
        /* 65535 is what absence means, and Paho for Java reads it as -1. */
        if (session->receive_max < UINT16_MAX) {
            properties.present |= MQTT_HAS(RECEIVE_MAXIMUM);
            properties.receive_maximum = session->receive_max;
        }
        properties.maximum_packet = mqtt_settings.max_packet;
        properties.topic_alias_maximum = mqtt_settings.topic_alias_max;
        properties.shared_available = 1;
        if (login->attach.granted_s != session->asked_expiry) {
            properties.present |= MQTT_HAS(SESSION_EXPIRY);
            properties.session_expiry = login->attach.granted_s;
        }
        if (session->assigned_id) {
            properties.present |= MQTT_HAS(ASSIGNED_CLIENT_ID);
            properties.assigned_client_id = session->client.id;
        }
        if (login->asked_response_info)
            show_response_info(session, response_info, sizeof response_info, &properties);
        if (session->auth != NULL)
            mqtt_auth_show(session, &properties);
        if (session->keep_alive != login->asked_keep_alive) {
            properties.present |= MQTT_HAS(SERVER_KEEP_ALIVE);
            properties.server_keep_alive = session->keep_alive;
        }
    }
    if (!send_acceptance(session, login->attach.present, &properties)) {
        mqtt_refuse(session, MQTT_REASON_PACKET_TOO_LARGE);
        return;
    }
    session->state = MQTT_UP;
    if (session->auth != NULL)
        mqtt_auth_done(session);
    if (broker_session_is_kept(&session->client))
        session->id_base = LIMIT_CLIENT_CREDIT;
    mqtt_incoming_known(session, login->attach.received, login->attach.received_count);
    struct loop *loop = broker_loop(session->client.worker);
    session->heard_ms = loop_now_ms(loop);
    if (session->keep_alive > 0)
        loop_timer_start(loop, &session->timer, (uint64_t)session->keep_alive * 1500);
    else
        loop_timer_stop(loop, &session->timer);
    stream_resume(session->stream);
    broker_session_begin(&session->client);
    if (session->withheld > 0) {
        client_settled(&session->client, session->withheld);
        session->withheld = 0;
        mqtt_queues_credit(session);
    }
}

static void login_end(struct mqtt_login *login, enum status status)
{
    struct mqtt_session *session = login->session;
    if (session->state == MQTT_LOGIN) {
        if (status == STATUS_OK)
            accept_client(session, login);
        else
            mqtt_refuse(session, status == STATUS_BUSY ? MQTT_REASON_SERVER_BUSY
                                                       : mqtt_reason_on(status, MQTT_ON_CONNACK));
    }
    heap_free(login->attach.received);
    buf_deinit(&login->attach.notes);
    heap_free(login);
    connection_release(session);
}

void mqtt_subscribed_again(struct mqtt_session *session, enum status status)
{
    struct mqtt_login *login = session->resuming;
    session->resuming = NULL;
    login_end(login, status);
}

static void attach_done(struct request *request, enum status status)
{
    struct mqtt_login *login = container_of(request, struct mqtt_login, attach.request);
    struct mqtt_session *session = login->session;
    if (status != STATUS_OK || session->state != MQTT_LOGIN || login->attach.notes.size == 0) {
        login_end(login, status);
        return;
    }
    /* CONNACK says that everything of the session is there; what is delivered comes behind it. */
    while (client_spend(&session->client))
        session->withheld++;
    session->resuming = login;
    mqtt_subscribe_again(session, buf_span(&login->attach.notes));
}

static void attach(struct mqtt_login *login)
{
    struct mqtt_session *session = login->session;
    login->attach.client = &session->client;
    login->attach.clean = session->clean;
    login->attach.expiry_s = session->asked_expiry;
    login->attach.will = mqtt_will_of(session);
    request_init(&login->attach.request, broker_loop(session->client.worker), attach_done);
    broker_attach(&login->attach);
    mqtt_will_free(session);
}

static void login_done(struct request *request, enum status status)
{
    struct mqtt_login *login = container_of(request, struct mqtt_login, request.request);
    explicit_bzero(login->bytes, login->request.password.size);
    if (login->session->state == MQTT_LOGIN && status == STATUS_OK)
        attach(login);
    else
        login_end(login, status);
}

static struct span keep(uint8_t **at, struct span bytes)
{
    struct span kept = span_of(*at, bytes.size);
    if (bytes.size > 0)
        memcpy(*at, bytes.data, bytes.size);
    *at += bytes.size;
    return kept;
}

static struct mqtt_login *login_new(struct mqtt_session *session,
                                    const struct mqtt_connect *connect)
{
    char assigned[48];
    struct span client_id = connect->client_id;
    session->assigned_id = client_id.size == 0;
    if (session->assigned_id) {
        char uuid[37];
        rng_uuid(uuid);
        snprintf(assigned, sizeof assigned, "auto-%s", uuid);
        client_id = span_from_text(assigned);
    }
    struct mqtt_login *login =
        heap_new(sizeof *login + connect->password.size + connect->user_name.size + client_id.size);
    uint8_t *at = login->bytes;
    login->session = session;
    login->asked_keep_alive = connect->keep_alive;
    login->asked_response_info = connect->properties.request_response;
    login->request.client = &session->client;
    login->request.password = keep(&at, connect->password); /* first, so that it can be wiped */
    login->request.user = keep(&at, connect->user_name);
    login->request.client_id = keep(&at, client_id);
    return login;
}

static void begin_login(struct mqtt_login *login)
{
    struct mqtt_session *session = login->session;
    login->request.certificate_subject = stream_certificate_subject(session->stream);
    request_init(&login->request.request, broker_loop(session->client.worker), login_done);
    session->state = MQTT_LOGIN;
    connection_hold(session);
    stream_pause(session->stream); /* until there is an answer */
    broker_login(&login->request);
}

void mqtt_login_free(struct mqtt_session *session)
{
    heap_free(session->login);
    session->login = NULL;
}

/* One step of an exchange has been made. */
static void authenticated(struct mqtt_session *session, enum status status)
{
    struct mqtt_login *login = session->login;
    if (session->state == MQTT_DOWN || status == STATUS_BUSY)
        return;
    if (status != STATUS_OK) {
        mqtt_refuse(session, status == STATUS_UNSUPPORTED
                                 ? MQTT_REASON_BAD_AUTH_METHOD
                                 : mqtt_reason_on(status, MQTT_ON_CONNACK));
        return;
    }
    session->login = NULL;
    login->request.proven = mqtt_auth_proven(session);
    begin_login(login);
}

static void begin_auth(struct mqtt_login *login, const struct mqtt_properties *properties)
{
    struct mqtt_session *session = login->session;
    session->login = login;
    session->state = MQTT_AUTHENTICATING;
    authenticated(session, mqtt_auth_begin(session, properties));
}

void mqtt_handle_connecting_auth(struct mqtt_session *session, uint8_t header, struct span body)
{
    enum status status = STATUS_OK;
    enum mqtt_reason reason = MQTT_REASON_PROTOCOL_ERROR;
    if (mqtt_type_of(header) == MQTT_AUTH)
        reason = mqtt_auth_continue(session, header, body, &status);
    if (reason != MQTT_REASON_SUCCESS)
        mqtt_refuse(session, reason);
    else
        authenticated(session, status);
}

void mqtt_handle_connect(struct mqtt_session *session, uint8_t header, struct span body)
{
    struct mqtt_connect connect;
    enum mqtt_reason reason = mqtt_decode_connect(header, body, &connect);
    session->version = connect.version;
    session->is_bridge = connect.is_bridge;
    if (reason != MQTT_REASON_SUCCESS) {
        mqtt_refuse(session, reason);
        return;
    }
    const struct mqtt_properties *properties = &connect.properties;
    uint16_t credit = properties->receive_maximum < mqtt_settings.inflight_max
                          ? properties->receive_maximum
                          : mqtt_settings.inflight_max;
    session->packet_max = properties->maximum_packet;
    session->no_problem_info = !properties->request_problem;
    mqtt_aliases_out(session, properties->topic_alias_maximum);
    session->clean = connect.clean;
    session->asked_expiry = connect.version == MQTT_5 ? properties->session_expiry
                            : connect.clean           ? 0
                                                      : UINT32_MAX;
    if (session->excess) {
        mqtt_refuse(session, MQTT_REASON_CONNECTION_RATE_EXCEEDED);
        return;
    }
    if (connect.client_id.size > LIMIT_CLIENT_ID_BYTES ||
        (connect.client_id.size == 0 && connect.version == MQTT_3_1)) {
        mqtt_refuse(session, MQTT_REASON_CLIENT_ID_INVALID);
        return;
    }
    if (connect.has_will)
        mqtt_will_keep(session, &connect.will);
    enum status will = mqtt_will_status(session);
    if (will != STATUS_OK) {
        mqtt_refuse(session, mqtt_reason_on(will, MQTT_ON_CONNACK));
        return;
    }
    client_set_credit(&session->client, credit);
    session->keep_alive = connect.keep_alive;
    if (mqtt_settings.keep_alive_max > 0 && connect.version == MQTT_5 &&
        (connect.keep_alive == 0 || connect.keep_alive > mqtt_settings.keep_alive_max))
        session->keep_alive = mqtt_settings.keep_alive_max;
    struct mqtt_login *login = login_new(session, &connect);
    if (properties->present & MQTT_HAS(AUTH_METHOD))
        begin_auth(login, properties);
    else
        begin_login(login);
}
