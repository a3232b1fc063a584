/* SPDX-License-Identifier: Apache-2.0 */
/* Proton's events of one connection: open, and who handles the others. */
#include "adapters/amqp/events.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/resume.h"
#include "adapters/amqp/sasl.h"
#include "adapters/amqp/source.h"
#include "adapters/amqp/target.h"
#include "adapters/amqp/transaction.h"
#include "core/base/limits.h"

/* Half of it is how often we speak. */
enum { IDLE_MIN_MS = 100 };

static const char SOLE[] = "sole-connection-for-container";

/* Clients of the JMS kind look at the property before they take the open for a success. */
static void refuse_second(struct amqp_connection *connection)
{
    pn_connection_t *pn = connection->driver.connection;
    pn_data_t *properties = pn_connection_properties(pn);
    pn_data_put_map(properties);
    pn_data_enter(properties);
    pn_data_put_symbol(properties, pn_bytes(36, "amqp:connection-establishment-failed"));
    pn_data_put_bool(properties, true);
    pn_data_exit(properties);
    pn_data_t *info = pn_condition_info(pn_connection_condition(pn));
    pn_data_put_map(info);
    pn_data_enter(info);
    pn_data_put_symbol(info, pn_bytes(13, "invalid-field"));
    pn_data_put_symbol(info, pn_bytes(12, "container-id"));
    pn_data_exit(info);
    amqp_count_refusal(STATUS_BUSY);
    connection->state = AMQP_UP; /* the open is answered */
    amqp_end(connection, "amqp:invalid-field", "another connection has this container id");
}

static void opened(struct amqp_connection *connection)
{
    pn_connection_t *pn = connection->driver.connection;
    pn_millis_t idle_ms = pn_transport_get_remote_idle_timeout(connection->driver.transport);
    if (idle_ms != 0 && idle_ms < IDLE_MIN_MS) { /* 2.4.5 */
        amqp_count_refusal(STATUS_UNSUPPORTED);
        amqp_end(connection, amqp_condition_of(STATUS_UNSUPPORTED), "an idle-timeout below 100 ms");
        return;
    }
    const char *container = pn_connection_remote_container(pn);
    size_t size = container == NULL ? 0 : strlen(container);
    if (size > LIMIT_CLIENT_ID_BYTES) {
        amqp_count_refusal(STATUS_TOO_LARGE);
        amqp_end(connection, "amqp:invalid-field", "the container id is too long");
        return;
    }
    client_set_id(&connection->client, span_of(container, size));
    pn_connection_set_container(pn, "polylog");
    bool is_sole = size > 0 && amqp_has_symbol(pn_connection_remote_desired_capabilities(pn), SOLE);
    if (is_sole && client_own_id(&connection->client) != STATUS_OK) {
        refuse_second(connection);
        return;
    }
    pn_data_t *offered = pn_connection_offered_capabilities(pn);
    static const char *const capabilities[] = {"ANONYMOUS-RELAY", "DELAYED_DELIVERY", "SHARED-SUBS",
                                               SOLE};
    size_t count = sizeof capabilities / sizeof *capabilities - (is_sole ? 0 : 1);
    pn_data_put_array(offered, false, PN_SYMBOL);
    pn_data_enter(offered);
    for (size_t i = 0; i < count; i++)
        pn_data_put_symbol(offered, pn_bytes(strlen(capabilities[i]), capabilities[i]));
    pn_data_exit(offered);
    pn_data_t *properties = pn_connection_properties(pn);
    pn_data_put_map(properties);
    pn_data_enter(properties);
    pn_data_put_symbol(properties, pn_bytes(7, "product"));
    pn_data_put_string(properties, pn_bytes(7, "Polylog"));
    pn_data_put_symbol(properties, pn_bytes(7, "version"));
    pn_data_put_string(properties, pn_bytes(strlen(POLYLOG_VERSION), POLYLOG_VERSION));
    /* Clients of the JMS kind put it before the names of topics: so `to` and `reply-to` are
     * addresses to everybody. A plain name is a queue's already. */
    pn_data_put_symbol(properties, pn_bytes(12, "topic-prefix"));
    pn_data_put_string(properties, pn_bytes(8, "/topics/"));
    pn_data_exit(properties);
    pn_connection_open(pn);
    connection->state = AMQP_UP;
    loop_timer_start(amqp_loop(connection), &connection->timer, 0);
}

static void open_event(struct amqp_connection *connection)
{
    if (connection->state == AMQP_UP) {
        amqp_count_refusal(STATUS_MALFORMED);
        amqp_end(connection, "amqp:illegal-state", "a second open");
        return;
    }
    if (connection->excess) {
        amqp_end(connection, amqp_condition_of(STATUS_BUSY), "too many connections at the moment");
        return;
    }
    if (connection->logged_in) {
        opened(connection);
        return;
    }
    connection->waits = true;
    amqp_login_anonymous(connection);
}

void amqp_logged_in(struct amqp_connection *connection, enum status status)
{
    bool waited = connection->waits;
    connection->waits = false;
    if (connection->state == AMQP_DOWN)
        return;
    connection->logged_in = status == STATUS_OK;
    if (waited) {
        if (status == STATUS_OK && connection->state == AMQP_NEW)
            opened(connection);
        else
            amqp_end(connection, amqp_condition_of(status), status_text(status));
    }
    stream_resume(connection->stream);
    amqp_wake(connection);
}

/* Proton does not hold what comes against it. */
static bool had_credit(pn_link_t *pn)
{
    return pn_link_remote_credit(pn) >= 0;
}

/* Its link has gone. What more comes of it Proton would keep, until all is said. */
static void crosses_its_end(struct amqp_connection *connection, pn_delivery_t *delivery)
{
    amqp_transaction_fail(connection, delivery, STATUS_STALE);
    pn_delivery_settle(delivery);
    connection->let_go++;
    if (pn_delivery_pending(delivery) > AMQP_LEAN_PAYLOAD && amqp_say_now(connection))
        amqp_ends_said(connection);
}

static void delivery_event(struct amqp_connection *connection, pn_delivery_t *delivery)
{
    pn_link_t *pn = pn_delivery_link(delivery);
    struct amqp_link *link = pn == NULL ? NULL : amqp_link_of(pn);
    if (link == NULL || link->pn == NULL) {
        crosses_its_end(connection, delivery);
    } else if (pn_link_is_receiver(pn) && !had_credit(pn)) {
        amqp_count_refusal(STATUS_BUSY);
        amqp_transaction_fail(connection, delivery, STATUS_BUSY);
        amqp_link_refuse(link, "amqp:link:transfer-limit-exceeded", "a transfer without credit");
    } else if (pn_link_is_receiver(pn)) {
        link->resumed |= link->connection->frames.is_resumed;
        if (link->connection->frames.format != 0)
            link->format = link->connection->frames.format;
        if (pn_delivery_updated(delivery) && pn_delivery_settled(delivery))
            amqp_target_settled(link, delivery);
        amqp_target_readable(link);
    } else if (pn_delivery_updated(delivery)) {
        amqp_source_updated(link, delivery);
    }
}

/* Proton has deliveries that are let go until it has said so, and who does not read may go on. */
static void hold_to_let_go(struct amqp_connection *connection)
{
    if (connection->let_go > LIMIT_SENDER_UNSETTLED && amqp_say_now(connection))
        amqp_ends_said(connection);
}

/* Proton takes frames before an open; the book does not. */
static bool is_too_early(const struct amqp_connection *connection, pn_event_t *event)
{
    if (connection->state != AMQP_NEW)
        return false;
    switch (pn_event_type(event)) {
    case PN_SESSION_REMOTE_OPEN:
    case PN_LINK_REMOTE_OPEN:
    case PN_DELIVERY:
        return true;
    default:
        return false;
    }
}

static void handle(struct amqp_connection *connection, pn_event_t *event)
{
    pn_link_t *pn = pn_event_link(event);
    struct amqp_link *link;
    if (is_too_early(connection, event)) {
        amqp_count_refusal(STATUS_MALFORMED);
        amqp_end(connection, "amqp:illegal-state", "a frame before open");
        return;
    }
    switch (pn_event_type(event)) {
    case PN_CONNECTION_REMOTE_OPEN:
        open_event(connection);
        break;
    case PN_CONNECTION_REMOTE_CLOSE:
        amqp_end(connection, NULL, NULL);
        break;
    case PN_SESSION_REMOTE_OPEN:
        amqp_session_opened(connection, pn_event_session(event));
        break;
    case PN_SESSION_REMOTE_CLOSE:
        amqp_session_closed(connection, pn_event_session(event));
        break;
    case PN_LINK_REMOTE_OPEN:
        amqp_link_opened(connection, pn);
        break;
    case PN_LINK_REMOTE_CLOSE:
    case PN_LINK_REMOTE_DETACH:
        amqp_link_closed(pn, pn_event_type(event) == PN_LINK_REMOTE_CLOSE);
        break;
    case PN_LINK_FLOW:
        link = amqp_link_of(pn);
        if (link != NULL && link->pn != NULL && pn_link_is_sender(pn))
            amqp_source_flow(link);
        break;
    case PN_DELIVERY:
        connection->handled++;
        delivery_event(connection, pn_event_delivery(event));
        hold_to_let_go(connection);
        break;
    case PN_TRANSPORT_ERROR:          /* which Proton tells the peer */
        if (!connection->turned_away) /* which is one to Proton, too */
            amqp_count_refusal(STATUS_MALFORMED);
        amqp_go_down(connection);
        break;
    default:
        break;
    }
}

void amqp_handle_events(struct amqp_connection *connection)
{
    pn_event_t *event;
    while (!connection->waits &&
           (event = pn_connection_driver_next_event(&connection->driver)) != NULL) {
        if (connection->state == AMQP_NEW || connection->state == AMQP_UP)
            handle(connection, event);
    }
    /* It has stopped reading without a reason that it would tell: a list that is none. */
    if (!connection->waits && pn_connection_driver_read_closed(&connection->driver))
        amqp_refuse_bytes(connection, "amqp:decode-error", "a frame that cannot be decoded");
}
