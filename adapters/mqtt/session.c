/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's life: packets in, one by one, to the file that handles them; keep alive; the end.
 */
#include "adapters/mqtt/session.h"

#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/metrics.h"

enum { DEFAULT_RECEIVE_MAX = 65535, PACKET_OVERHEAD = 65536 + 1024 };

struct mqtt_options mqtt_settings;

static struct {
    struct metric *connections, *received, *timeouts, *malformed, *too_large, *limit, *rights;
} metrics;

void mqtt_configure(const struct mqtt_options *options)
{
    mqtt_settings = *options;
    if (mqtt_settings.max_packet == 0)
        mqtt_settings.max_packet = LIMIT_RECORD_BYTES + PACKET_OVERHEAD;
    if (mqtt_settings.receive_max == 0)
        mqtt_settings.receive_max = DEFAULT_RECEIVE_MAX;
    if (mqtt_settings.inflight_max == 0)
        mqtt_settings.inflight_max = LIMIT_CLIENT_CREDIT;
    metrics.connections = metric_gauge("connections", "Open connections", "protocol=\"mqtt\"");
    metrics.received =
        metric_counter("received_packets_total", "Packets received", "protocol=\"mqtt\"");
    metrics.timeouts =
        metric_counter("refused_total", "Refused calls", "protocol=\"mqtt\",reason=\"timeout\"");
    metrics.malformed =
        metric_counter("refused_total", "Refused calls", "protocol=\"mqtt\",reason=\"malformed\"");
    metrics.too_large =
        metric_counter("refused_total", "Refused calls", "protocol=\"mqtt\",reason=\"too_large\"");
    metrics.limit =
        metric_counter("refused_total", "Refused calls", "protocol=\"mqtt\",reason=\"limit\"");
    metrics.rights =
        metric_counter("refused_total", "Refused calls", "protocol=\"mqtt\",reason=\"rights\"");
}

/* Connections that end, or never begin, because of what the client did. */
void mqtt_count_refusal(enum mqtt_reason reason)
{
    switch ((unsigned)reason) {
    case MQTT_REASON_SUCCESS:
    case MQTT_REASON_SHUTTING_DOWN:
    case MQTT_REASON_SESSION_TAKEN_OVER:
    case MQTT_REASON_CONNECTION_RATE_EXCEEDED: /* the broker has counted it */
        return;
    case MQTT_REASON_KEEP_ALIVE_TIMEOUT:
        metric_add(metrics.timeouts, 1);
        return;
    case MQTT_REASON_PACKET_TOO_LARGE:
        metric_add(metrics.too_large, 1);
        return;
    case MQTT_REASON_QUOTA_EXCEEDED:
    case MQTT_REASON_RECEIVE_MAXIMUM_EXCEEDED:
    case MQTT_REASON_SERVER_BUSY:
        metric_add(metrics.limit, 1);
        return;
    case MQTT_REASON_BAD_CREDENTIALS:
    case MQTT_REASON_NOT_AUTHORIZED:
        metric_add(metrics.rights, 1);
        return;
    default:
        metric_add(metrics.malformed, 1);
    }
}

static enum mqtt_reason reason_of(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return MQTT_REASON_SUCCESS;
    case STATUS_CANCELED:
    case STATUS_TIMED_OUT:
    case STATUS_CLOSED:
    case STATUS_STALE:
    case STATUS_OUT_OF_RANGE:
    case STATUS_EXISTS:
        return MQTT_REASON_UNSPECIFIED;
    case STATUS_NO_MEMORY:
    case STATUS_OVER_QUOTA:
    case STATUS_BUSY:
        return MQTT_REASON_QUOTA_EXCEEDED;
    case STATUS_TOO_LARGE:
        return MQTT_REASON_PACKET_TOO_LARGE;
    case STATUS_MALFORMED:
        return MQTT_REASON_MALFORMED;
    case STATUS_INVALID:
    case STATUS_NOT_FOUND:
        return MQTT_REASON_TOPIC_INVALID;
    case STATUS_UNSUPPORTED:
    case STATUS_CORRUPT:
    case STATUS_STORAGE_FAILED:
    case STATUS_NO_SPACE:
    case STATUS_INTERNAL:
        return MQTT_REASON_IMPLEMENTATION_ERROR;
    case STATUS_UNAUTHENTICATED:
        return MQTT_REASON_BAD_CREDENTIALS;
    case STATUS_DENIED:
        return MQTT_REASON_NOT_AUTHORIZED;
    case STATUS_SHUTTING_DOWN:
        return MQTT_REASON_SHUTTING_DOWN;
    case STATUS_COUNT:
        break;
    }
    return MQTT_REASON_UNSPECIFIED;
}

enum mqtt_reason mqtt_reason_on(enum status status, uint32_t packets)
{
    enum mqtt_reason reason = status == STATUS_CANCELED && packets == MQTT_ON_DISCONNECT_SERVER
                                  ? MQTT_REASON_ADMINISTRATIVE
                                  : reason_of(status);
    if (mqtt_reason_allowed((uint8_t)reason, packets))
        return reason;
    enum mqtt_reason other = status == STATUS_TOO_LARGE         ? MQTT_REASON_QUOTA_EXCEEDED
                             : status == STATUS_SHUTTING_DOWN   ? MQTT_REASON_SERVER_UNAVAILABLE
                             : status == STATUS_BUSY            ? MQTT_REASON_SERVER_BUSY
                             : status == STATUS_UNAUTHENTICATED ? MQTT_REASON_NOT_AUTHORIZED
                             : status == STATUS_MALFORMED       ? MQTT_REASON_PAYLOAD_FORMAT_INVALID
                                                                : MQTT_REASON_UNSPECIFIED;
    return mqtt_reason_allowed((uint8_t)other, packets) ? other : MQTT_REASON_UNSPECIFIED;
}

void mqtt_end(struct mqtt_session *session, enum mqtt_reason reason)
{
    if (session->state == MQTT_DOWN)
        return;
    mqtt_count_refusal(reason);
    if (session->state == MQTT_UP && session->version == MQTT_5 && reason != MQTT_REASON_SUCCESS) {
        struct mqtt_disconnect disconnect = {.reason = reason, .properties = mqtt_properties_none};
        if (reason == MQTT_REASON_SHUTTING_DOWN && mqtt_settings.server_reference != NULL) {
            disconnect.reason = MQTT_REASON_USE_ANOTHER_SERVER;
            disconnect.properties.present |= MQTT_HAS(SERVER_REFERENCE);
            disconnect.properties.server_reference = span_from_text(mqtt_settings.server_reference);
        }
        mqtt_explain(session, MQTT_DISCONNECT, disconnect.reason, &disconnect.properties);
        if (mqtt_disconnect_size(session->version, &disconnect) > session->packet_max)
            disconnect.properties.present &= ~MQTT_HAS(REASON_STRING);
        size_t size = mqtt_disconnect_size(session->version, &disconnect);
        if (size > 0 && size <= session->packet_max)
            mqtt_encode_disconnect(session->version, &disconnect,
                                   stream_reserve(session->stream, size));
    }
    session->state = MQTT_DOWN;
    /* Until the stream has gone the client is still dealt to: what comes now is for others. */
    while (client_spend(&session->client))
        continue;
    stream_close(session->stream);
}

/* ------------------------------------------------ time */

static void keep_alive_check(struct mqtt_session *session)
{
    uint64_t now = loop_now_ms(broker_loop(session->client.worker));
    uint64_t allowed = (uint64_t)session->keep_alive * 1500;
    if (session->held)
        session->heard_ms = now;
    if (now - session->heard_ms >= allowed) {
        mqtt_end(session, MQTT_REASON_KEEP_ALIVE_TIMEOUT);
        return;
    }
    loop_timer_start(broker_loop(session->client.worker), &session->timer,
                     session->heard_ms + allowed - now);
}

static void timer_fired(struct loop_timer *timer)
{
    struct mqtt_session *session = container_of(timer, struct mqtt_session, timer);
    if (session->state == MQTT_UP) {
        keep_alive_check(session);
    } else if (session->state == MQTT_LOGIN) { /* the store takes its time, or its user's check */
        mqtt_refuse(session, MQTT_REASON_SERVER_BUSY);
    } else if (session->state != MQTT_DOWN) {
        metric_add(metrics.timeouts, 1);
        session->state = MQTT_DOWN;
        stream_abort(session->stream);
    }
}

/* ------------------------------------------------ packets */

static void disconnected(struct mqtt_session *session, uint8_t header, struct span body)
{
    struct mqtt_disconnect disconnect;
    enum mqtt_reason reason =
        mqtt_decode_disconnect(session->version, MQTT_FROM_CLIENT, header, body, &disconnect);
    if (reason != MQTT_REASON_SUCCESS) {
        mqtt_end(session, reason);
        return;
    }
    if (disconnect.properties.session_expiry > 0 && session->asked_expiry == 0) {
        mqtt_end(session, MQTT_REASON_PROTOCOL_ERROR); /* 3.14.2.2.2 */
        return;
    }
    if (disconnect.properties.present & MQTT_HAS(SESSION_EXPIRY))
        broker_session_expiry(&session->client, disconnect.properties.session_expiry);
    if (disconnect.reason == MQTT_REASON_SUCCESS) /* and for no other (3.1.2-8) */
        broker_will_drop(&session->client);
    mqtt_end(session, MQTT_REASON_SUCCESS);
}

static void ping(struct mqtt_session *session, uint8_t header, struct span body)
{
    enum mqtt_reason reason = mqtt_decode_ping(session->version, header, body);
    if (reason != MQTT_REASON_SUCCESS)
        mqtt_end(session, reason);
    else
        mqtt_encode_ping(MQTT_PINGRESP, stream_reserve(session->stream, MQTT_PING_BYTES));
}

/* False: the packet must wait for room. */
static bool handle(struct mqtt_session *session, uint8_t header, struct span body)
{
    enum mqtt_type type = mqtt_type_of(header);
    if (session->state == MQTT_WAIT_CONNECT) {
        if (type == MQTT_CONNECT) {
            mqtt_handle_connect(session, header, body);
        } else {
            metric_add(metrics.malformed, 1);
            session->state = MQTT_DOWN;
            stream_close(session->stream);
        }
        return true;
    }
    if (session->state == MQTT_AUTHENTICATING) {
        mqtt_handle_connecting_auth(session, header, body);
        return true;
    }
    switch (type) {
    case MQTT_PUBLISH:
        return mqtt_handle_publish(session, header, body);
    case MQTT_PUBACK:
    case MQTT_PUBREC:
    case MQTT_PUBCOMP:
        mqtt_handle_ack(session, header, body);
        return true;
    case MQTT_PUBREL:
        mqtt_handle_pubrel(session, header, body);
        return true;
    case MQTT_SUBSCRIBE:
        if (session->subscribes >= LIMIT_MQTT_SUBSCRIBES)
            return false;
        mqtt_handle_subscribe(session, header, body);
        return true;
    case MQTT_UNSUBSCRIBE:
        return mqtt_handle_unsubscribe(session, header, body);
    case MQTT_PINGREQ:
        ping(session, header, body);
        return true;
    case MQTT_DISCONNECT:
        disconnected(session, header, body);
        return true;
    case MQTT_AUTH:
        mqtt_handle_auth(session, header, body);
        return true;
    case MQTT_CONNECT:
    case MQTT_CONNACK:
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
    case MQTT_PINGRESP:
        break;
    }
    mqtt_end(session, MQTT_REASON_PROTOCOL_ERROR);
    return true;
}

static void bad_frame(struct mqtt_session *session, enum mqtt_need need)
{
    mqtt_end(session,
             need == MQTT_FRAME_TOO_LARGE ? MQTT_REASON_PACKET_TOO_LARGE : MQTT_REASON_MALFORMED);
}

static void pass_credit_on(struct client *client)
{
    struct mqtt_session *session = mqtt_session_of(client);
    if (session->state != MQTT_UP)
        return;
    mqtt_queues_credit(session);
    mqtt_replays_credit(session);
}

static enum status session_input(void *context, struct span bytes, size_t *used)
{
    struct mqtt_session *session = context;
    size_t at = 0;
    int64_t packets = 0;
    session->heard_ms = loop_now_ms(broker_loop(session->client.worker));
    session->settled = 0;
    session->held = false;
    while (session->state == MQTT_WAIT_CONNECT || session->state == MQTT_AUTHENTICATING ||
           session->state == MQTT_UP) {
        uint8_t header;
        struct span body;
        size_t size;
        enum mqtt_need need =
            mqtt_frame(span_from(bytes, at), mqtt_settings.max_packet, &header, &body, &size);
        if (need == MQTT_FRAME_MORE)
            break;
        if (need != MQTT_FRAME_READY) {
            bad_frame(session, need);
            break;
        }
        if (!handle(session, header, body)) {
            session->held = true;
            stream_pause(session->stream);
            break;
        }
        at += size;
        packets++;
    }
    metric_add(metrics.received, packets);
    *used = session->state == MQTT_DOWN ? bytes.size : at;
    if (session->settled > 0 && session->state == MQTT_UP) {
        client_settled(&session->client, session->settled);
        pass_credit_on(&session->client);
    }
    return STATUS_OK;
}

/* ------------------------------------------------ as an adapter, and as a client */

static enum status session_open(void *context, struct stream *stream, struct broker_worker *worker)
{
    struct mqtt_session *session = context;
    client_init(&session->client, worker, &mqtt_client_ops);
    client_set_peer(&session->client, stream_peer(stream));
    session->stream = stream;
    list_init(&session->queues);
    list_init(&session->replays);
    list_init(&session->replayed);
    list_init(&session->settlings);
    session->packet_max = UINT32_MAX;
    session->receive_max = mqtt_settings.receive_max;
    session->timer.fired = timer_fired;
    loop_timer_start(broker_loop(worker), &session->timer, LIMIT_CONNECT_MS);
    metric_add(metrics.connections, 1);
    return STATUS_OK;
}

static void session_excess(void *context)
{
    struct mqtt_session *session = context;
    session->excess = true;
}

static void session_drained(void *context)
{
    struct mqtt_session *session = context;
    if (session->state == MQTT_UP)
        client_drained(&session->client);
}

static void session_refuse(void *context, enum status why)
{
    mqtt_end(context, mqtt_reason_on(why, MQTT_ON_DISCONNECT_SERVER));
}

static void session_close(void *context)
{
    struct mqtt_session *session = context;
    session->state = MQTT_DOWN;
    loop_timer_stop(broker_loop(session->client.worker), &session->timer);
    mqtt_will_free(session);
    mqtt_replays_close(session);
    mqtt_login_free(session);
    mqtt_auth_free(session);
    client_close(&session->client);
    mqtt_queues_close(session);
    mqtt_incoming_free(session);
    heap_free(session->owed);
    heap_free(session->out_aliases);
    session->out_aliases = NULL;
    mqtt_leases_free(session);
    session->stream = NULL;
    metric_add(metrics.connections, -1);
}

static size_t client_queued(struct client *client)
{
    return stream_queued(mqtt_session_of(client)->stream);
}

static void client_resume(struct client *client)
{
    stream_resume(mqtt_session_of(client)->stream);
}

static void client_end(struct client *client, enum status why)
{
    struct mqtt_session *session = mqtt_session_of(client);
    if (why != STATUS_STALE) {
        mqtt_end(session, mqtt_reason_on(why, MQTT_ON_DISCONNECT_SERVER));
    } else if (session->state ==
               MQTT_LOGIN) { /* the name went to a newer one before it was given */
        mqtt_refuse(session, MQTT_REASON_SERVER_BUSY);
    } else {
        mqtt_end(session, MQTT_REASON_SESSION_TAKEN_OVER);
    }
}

const struct client_ops mqtt_client_ops = {
    .protocol = "mqtt",
    .answered = mqtt_answered,
    .variant = mqtt_variant,
    .encode = mqtt_encode_record,
    .deliver = mqtt_deliver,
    .deliver_kept = mqtt_deliver_kept,
    .release = mqtt_release,
    .forgotten = mqtt_forgotten,
    .queued = client_queued,
    .resume = client_resume,
    .refunded = pass_credit_on,
    .end = client_end,
};

const struct adapter mqtt_adapter = {
    .name = "mqtt",
    .session_size = sizeof(struct mqtt_session),
    .open = session_open,
    .input = session_input,
    .drained = session_drained,
    .refuse = session_refuse,
    .close = session_close,
    .excess = session_excess,
};
