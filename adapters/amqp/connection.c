/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's life: its output to the stream once per turn; time; the end. */
#include "adapters/amqp/connection.h"

#include <stdlib.h>

#include "adapters/amqp/echo.h"
#include "adapters/amqp/events.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/sasl.h"
#include "adapters/amqp/subscriber.h"
#include "adapters/amqp/target.h"
#include "adapters/amqp/unsettled.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/broker/metrics.h"

enum { IDLE_MS = 60000, END_MS = 5000, OUT_BYTES = 256 * 1024, PORT = 5672 };

struct amqp_options amqp_settings;

static struct {
    struct metric *connections, *received, *timeouts, *malformed, *limit, *rights;
} metrics;

void amqp_configure(const struct amqp_options *options)
{
    amqp_unsettled_forget();
    amqp_settings = *options;
    metrics.connections = metric_gauge("connections", "Open connections", "protocol=\"amqp\"");
    metrics.timeouts =
        metric_counter("refused_total", "Refused calls", "protocol=\"amqp\",reason=\"timeout\"");
    metrics.malformed =
        metric_counter("refused_total", "Refused calls", "protocol=\"amqp\",reason=\"malformed\"");
    metrics.limit =
        metric_counter("refused_total", "Refused calls", "protocol=\"amqp\",reason=\"limit\"");
    metrics.rights =
        metric_counter("refused_total", "Refused calls", "protocol=\"amqp\",reason=\"rights\"");
}

void amqp_count_refusal(enum status why)
{
    struct metric *metric =
        why == STATUS_TIMED_OUT                                 ? metrics.timeouts
        : why == STATUS_DENIED || why == STATUS_UNAUTHENTICATED ? metrics.rights
        : why == STATUS_OVER_QUOTA || why == STATUS_TOO_LARGE || why == STATUS_BUSY
            ? metrics.limit
            : metrics.malformed;
    metric_add(metric, 1);
}

const char *amqp_condition_of(enum status status)
{
    switch (status) {
    case STATUS_OK:
        break;
    case STATUS_TOO_LARGE:
        return "amqp:link:message-size-exceeded";
    case STATUS_MALFORMED:
        return "amqp:decode-error";
    case STATUS_INVALID:
        return "amqp:invalid-field";
    case STATUS_UNSUPPORTED:
        return "amqp:not-implemented";
    case STATUS_NOT_FOUND:
        return "amqp:not-found";
    case STATUS_EXISTS:
        return "amqp:resource-locked";
    case STATUS_UNAUTHENTICATED:
    case STATUS_DENIED:
        return "amqp:unauthorized-access";
    case STATUS_NO_MEMORY:
    case STATUS_OVER_QUOTA:
    case STATUS_BUSY:
        return "amqp:resource-limit-exceeded";
    case STATUS_STALE:
    case STATUS_OUT_OF_RANGE:
        return "amqp:illegal-state";
    case STATUS_SHUTTING_DOWN:
    case STATUS_CANCELED: /* by an operator */
        return "amqp:connection:forced";
    case STATUS_TIMED_OUT:
    case STATUS_CLOSED:
    case STATUS_CORRUPT:
    case STATUS_STORAGE_FAILED:
    case STATUS_NO_SPACE:
    case STATUS_INTERNAL:
    case STATUS_COUNT:
        break;
    }
    return "amqp:internal-error";
}

void amqp_wake(struct amqp_connection *connection)
{
    if (connection->state != AMQP_DOWN)
        loop_defer(amqp_loop(connection), &connection->flush, LOOP_FLUSH);
}

void amqp_go_down(struct amqp_connection *connection)
{
    connection->state = AMQP_CLOSING;
    client_share_id(&connection->client); /* who has heard of the end may come again */
    /* Who does not read is not waited for: what is left to say may never go out. */
    loop_timer_start(amqp_loop(connection), &connection->timer, END_MS);
    amqp_wake(connection);
}

void amqp_break_off(struct amqp_connection *connection, const char *condition, const char *text)
{
    amqp_go_down(connection);
    pn_connection_driver_errorf(&connection->driver, condition, "%s", text);
    pn_transport_close_tail(
        connection->driver.transport); /* also where Proton has done so itself */
}

void amqp_refuse_bytes(struct amqp_connection *connection, const char *condition, const char *text)
{
    if (connection->state >= AMQP_CLOSING)
        return;
    amqp_count_refusal(STATUS_MALFORMED);
    amqp_break_off(connection, condition, text);
}

void amqp_end(struct amqp_connection *connection, const char *condition, const char *text)
{
    if (connection->state >= AMQP_CLOSING)
        return;
    pn_connection_t *pn = connection->driver.connection;
    if (connection->state == AMQP_NEW && condition != NULL) { /* Proton would wait for the open */
        amqp_break_off(connection, condition, text);
        return;
    }
    amqp_go_down(connection);
    if (condition != NULL) {
        pn_condition_set_name(pn_connection_condition(pn), condition);
        pn_condition_set_description(pn_connection_condition(pn), text);
    }
    /* A close without an open before it would be no frame by the book. */
    if (pn_connection_state(pn) & PN_LOCAL_UNINIT)
        pn_connection_open(pn);
    pn_connection_close(pn);
}

/* ------------------------------------------------ bytes */

void amqp_ends_said(struct amqp_connection *connection)
{
    connection->session_count -= connection->sessions_ended;
    connection->sessions_ended = 0;
    connection->link_count -= connection->links_ended;
    connection->links_ended = 0;
    connection->let_go = 0;
}

static void say_all(struct amqp_connection *connection)
{
    amqp_handle_events(connection);
    while (stream_queued(connection->stream) < OUT_BYTES) {
        pn_bytes_t bytes = pn_connection_driver_write_buffer(&connection->driver);
        if (bytes.size == 0) {
            amqp_ends_said(connection);
            if (connection->drains && amqp_drains_end(connection))
                continue;
            break;
        }
        stream_write(connection->stream, span_of(bytes.start, bytes.size));
        amqp_said_pass(&connection->told, span_of(bytes.start, bytes.size));
        connection->said = true;
        pn_connection_driver_write_done(&connection->driver, bytes.size);
        amqp_handle_events(connection);
    }
}

static void flush_task(struct loop_task *task)
{
    struct amqp_connection *connection = container_of(task, struct amqp_connection, flush);
    if (connection->waits) /* what has come is not known yet, and what is said may be the end */
        return;
    bool was_full = stream_queued(connection->stream) >= OUT_BYTES;
    if (connection->stolen)
        amqp_subscribers_stolen(connection);
    if (connection->released)
        amqp_subscribers_released(connection);
    say_all(connection);
    /* The flush below may be enough; if not, drained() comes. */
    if (!was_full && stream_queued(connection->stream) >= OUT_BYTES)
        amqp_wake(connection);
    bool all_said = pn_connection_driver_write_closed(&connection->driver) ||
                    pn_transport_head_closed(connection->driver.transport);
    if (all_said || pn_connection_driver_finished(&connection->driver)) {
        /* Another protocol than wanted, or none at all, is answered with the one that is (2.2). */
        if (!connection->said)
            stream_write(connection->stream, span_of("AMQP\x03\x01\x00\x00", 8));
        connection->state = AMQP_CLOSING;
        stream_close(connection->stream);
    }
    /* In its place among the turn's writes, not behind all others. */
    stream_flush(connection->stream);
}

static void connection_drained(void *context)
{
    struct amqp_connection *connection = context;
    if (connection->state == AMQP_UP) {
        client_drained(&connection->client);
        amqp_subscribers_drained(connection);
    }
    amqp_wake(connection);
}

/* ------------------------------------------------ time */

/* Says what the peer wants to hear in time; how long it is until there is something to be done. */
static uint64_t keep_alive(struct amqp_connection *connection, uint64_t now_ms)
{
    pn_transport_t *transport = connection->driver.transport;
    uint64_t idle_ms = connection->heard_ms + IDLE_MS - now_ms;
    /* Whether the peer is silent is ours to say: Proton knows nothing of a pause. */
    pn_transport_set_idle_timeout(transport, 0);
    uint64_t say_ms = (uint64_t)pn_transport_tick(transport, (int64_t)now_ms);
    pn_transport_set_idle_timeout(transport, IDLE_MS);
    if (say_ms == 0)
        return idle_ms;
    say_ms = say_ms > now_ms ? say_ms - now_ms : 1;
    return say_ms < idle_ms ? say_ms : idle_ms;
}

static void rest_over(struct loop_timer *timer)
{
    struct amqp_connection *connection = container_of(timer, struct amqp_connection, rest);
    if (!connection->paused)
        stream_resume(connection->stream);
}

static void timer_fired(struct loop_timer *timer)
{
    struct amqp_connection *connection = container_of(timer, struct amqp_connection, timer);
    struct loop *loop = amqp_loop(connection);
    if (connection->state == AMQP_NEW) { /* it took too long to say who it is */
        amqp_count_refusal(STATUS_TIMED_OUT);
        connection->state = AMQP_CLOSING;
        stream_abort(connection->stream);
        return;
    }
    if (connection->state == AMQP_CLOSING) {
        stream_close(connection->stream);
        return;
    }
    uint64_t now_ms = loop_now_ms(loop) + 1; /* Proton takes 0 for no time at all */
    if (connection->paused)                  /* what has come meanwhile is not known */
        connection->heard_ms = now_ms;
    if (now_ms - connection->heard_ms >= IDLE_MS) {
        amqp_count_refusal(STATUS_TIMED_OUT);
        amqp_break_off(connection, "amqp:resource-limit-exceeded", "local-idle-timeout expired");
        return;
    }
    uint64_t next_ms = keep_alive(connection, now_ms);
    loop_timer_start(loop, &connection->timer, next_ms);
    amqp_wake(connection);
}

/* ------------------------------------------------ as an adapter, and as a client */

size_t amqp_queued(const struct amqp_connection *connection)
{
    size_t queued = stream_queued(connection->stream) + connection->sending_bytes;
    pn_session_t *session = pn_session_head(connection->driver.connection, 0);
    for (; session != NULL; session = pn_session_next(session, 0))
        queued += pn_session_outgoing_bytes(session);
    return queued;
}

static size_t client_queued(struct client *client)
{
    const struct amqp_connection *connection = amqp_connection_of(client);
    return connection->stream == NULL ? 0 : amqp_queued(connection);
}

void amqp_pause(struct amqp_connection *connection)
{
    connection->paused = true;
    stream_pause(connection->stream);
}

static void read_on(struct amqp_connection *connection, bool coordinators)
{
    list_each(at, &connection->links)
    {
        struct amqp_link *link = container_of(at, struct amqp_link, of_connection);
        if (link->pn != NULL && pn_link_is_receiver(link->pn) &&
            (link->kind == AMQP_TO_COORDINATOR) == coordinators)
            amqp_target_readable(link);
    }
}

/* What ends a transaction comes behind all that is part of it. */
void amqp_go_on(struct amqp_connection *connection)
{
    bool makes = false;
    list_each(at, &connection->links)
    {
        makes |= container_of(at, struct amqp_link, of_connection)->makes;
    }
    if (connection->state == AMQP_DOWN || makes)
        return;
    connection->paused = false;
    connection->heard_ms = loop_now_ms(amqp_loop(connection));
    if (connection->state == AMQP_UP) { /* else nobody would hear what becomes of them */
        amqp_links_hold(connection);
        read_on(connection, false);
        read_on(connection, true);
        amqp_links_release(connection);
    }
    if (!connection->paused)
        stream_resume(connection->stream);
    amqp_wake(connection);
}

static void client_resume(struct client *client)
{
    amqp_go_on(amqp_connection_of(client));
}

static void put_info(pn_data_t *info, const char *key, const char *text, size_t size)
{
    pn_data_put_symbol(info, pn_bytes(strlen(key), key));
    pn_data_put_string(info, pn_bytes(size, text));
}

/* Another server has the same, or will have it (part 2, 2.8.16). */
static void redirect(struct amqp_connection *connection, const char *reference)
{
    const char *bracket = *reference == '[' ? strchr(reference, ']') : NULL;
    const char *host = bracket == NULL ? reference : reference + 1;
    const char *colon = strchr(bracket == NULL ? reference : bracket, ':');
    size_t size = bracket != NULL ? (size_t)(bracket - host)
                  : colon != NULL ? (size_t)(colon - host)
                                  : strlen(host);
    unsigned long port = colon == NULL ? 0 : strtoul(colon + 1, NULL, 10);
    pn_connection_t *pn = connection->driver.connection;
    pn_data_t *info = pn_condition_info(pn_connection_condition(pn));
    pn_data_put_map(info);
    pn_data_enter(info);
    put_info(info, "hostname", host, size);
    put_info(info, "network-host", host, size);
    pn_data_put_symbol(info, pn_bytes(4, "port"));
    pn_data_put_uint(info, port == 0 || port > UINT16_MAX ? PORT : (uint32_t)port);
    pn_data_exit(info);
    amqp_end(connection, "amqp:connection:redirect", "this server ends, that one goes on");
}

/* Where it was not, its memory may go with this. */
void amqp_linger_end(struct amqp_connection *connection)
{
    connection->lingering = 0;
    client_close(&connection->client);
    amqp_waiting_free(connection);
    connection_release(connection);
}

static void client_end(struct client *client, enum status why)
{
    struct amqp_connection *connection = amqp_connection_of(client);
    const char *reference = amqp_settings.server_reference;
    if (connection->lingering > 0)
        amqp_linger_end(connection);
    else if (why == STATUS_SHUTTING_DOWN && reference != NULL && connection->state == AMQP_UP)
        redirect(connection, reference);
    else
        amqp_end(connection, amqp_condition_of(why), status_text(why));
}

static const struct client_ops client_ops = {
    .protocol = "amqp",
    .answered = amqp_answered,
    .queued = client_queued,
    .resume = client_resume,
    .end = client_end,
};

static enum status session_open(void *context, struct stream *stream, struct broker_worker *worker)
{
    struct amqp_connection *connection = context;
    client_init(&connection->client, worker, &client_ops);
    client_set_peer(&connection->client, stream_peer(stream));
    connection->stream = stream;
    connection->turn = amqp_unsettled_turn();
    connection->flush.run = flush_task;
    connection->timer.fired = timer_fired;
    connection->rest.fired = rest_over;
    list_init(&connection->links);
    list_init(&connection->subscribers);
    list_init(&connection->transactions);
    metric_add(metrics.connections, 1);
    loop_timer_start(amqp_loop(connection), &connection->timer, LIMIT_CONNECT_MS);
    if (pn_connection_driver_init(&connection->driver, NULL, NULL) != 0)
        return STATUS_NO_MEMORY;
    pn_connection_set_context(connection->driver.connection, connection);
    amqp_frames_init(&connection->frames, AMQP_FRAME_MAX);
    pn_transport_t *transport = connection->driver.transport;
    pn_transport_set_server(transport);
    pn_transport_set_max_frame(transport, AMQP_FRAME_MAX);
    pn_transport_set_channel_max(transport, LIMIT_AMQP_CHANNEL);
    pn_transport_set_idle_timeout(transport, IDLE_MS);
    amqp_sasl_init(connection);
    pn_connection_driver_bind(&connection->driver);
    return STATUS_OK;
}

static void session_refuse(void *context, enum status why)
{
    amqp_end(context, amqp_condition_of(why), status_text(why));
}

static void session_excess(void *context)
{
    struct amqp_connection *connection = context;
    connection->excess = true;
}

static void session_close(void *context)
{
    struct amqp_connection *connection = context;
    connection->state = AMQP_DOWN;
    loop_timer_stop(amqp_loop(connection), &connection->timer);
    loop_timer_stop(amqp_loop(connection), &connection->rest);
    loop_task_cancel(amqp_loop(connection), &connection->flush);
    client_share_id(&connection->client);
    amqp_links_close(connection);
    amqp_subscribers_end(connection, NULL);
    connection->lingering = amqp_waiting_resumable(connection);
    if (connection->lingering > 0) {
        client_set_peer(&connection->client, NULL);
        connection_hold(connection);
    } else {
        client_close(&connection->client);
        amqp_waiting_free(connection);
    }
    pn_connection_driver_destroy(&connection->driver);
    amqp_frames_deinit(&connection->frames);
    amqp_said_deinit(&connection->told);
    amqp_exchange_free(connection);
    heap_free(connection->user);
    connection->user = NULL;
    heap_free(connection->overdue);
    connection->overdue = NULL;
    connection->stream = NULL;
    metric_add(metrics.connections, -1);
}

const struct adapter amqp_adapter = {
    .name = "amqp",
    .session_size = sizeof(struct amqp_connection),
    .open = session_open,
    .input = amqp_input,
    .drained = connection_drained,
    .refuse = session_refuse,
    .close = session_close,
    .excess = session_excess,
};
