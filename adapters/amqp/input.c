/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that have come: frames into Proton's driver, smaller than they were where they are large,
 * and what becomes of those that it must not have. */
#include "adapters/amqp/connection.h"
#include "adapters/amqp/echo.h"
#include "adapters/amqp/events.h"
#include "adapters/amqp/link.h"

enum { HANDLED_MAX = 16384 }; /* deliveries that something was said of, in one turn */

static void refuse_frame(struct amqp_connection *connection)
{
    switch (connection->frames.verdict) {
    case AMQP_GOOD:
        break;
    case AMQP_NO_FRAME:
        amqp_refuse_bytes(connection, "amqp:connection:framing-error", "this is not a frame");
        break;
    case AMQP_UNREADABLE:
        amqp_refuse_bytes(connection, "amqp:decode-error", "a frame that cannot be read");
        break;
    case AMQP_UNKNOWN:
        amqp_refuse_bytes(connection, "amqp:not-implemented", "a performative that is not known");
        break;
    case AMQP_BEGUN:
        amqp_refuse_bytes(connection, "amqp:illegal-state", "a begin on a channel in use");
        break;
    case AMQP_UNASKED:
        amqp_refuse_bytes(connection, "amqp:invalid-field", "a begin that answers none");
        break;
    }
}

static const struct {
    const char *condition, *text;
} session_errors[] = {
    [AMQP_UNATTACHED] = {"amqp:session:unattached-handle", "a handle that is not attached"},
    [AMQP_HANDLE_IN_USE] = {"amqp:session:handle-in-use", "an attach with another link's handle"},
    [AMQP_HANDLE_OF_NONE] = {"amqp:not-implemented", "an attach with the handle 4294967294"},
    [AMQP_NAME_IN_USE] = {"amqp:invalid-field", "an attach with another link's name"},
    [AMQP_WRONG_WAY] = {"amqp:not-allowed", "a transfer on a link that the peer receives on"},
    [AMQP_WRONG_DELIVERY] = {"amqp:invalid-field", "a transfer of another delivery than is due"},
    [AMQP_WRONG_RANGE] = {"amqp:invalid-field", "a range of deliveries that there cannot be"},
    [AMQP_VALUES_TOO_MANY] = {"amqp:resource-limit-exceeded", "more values than are kept"},
};

/* It has come, and so its sender lives; to Proton it is an empty frame. */
static void count_as_alive(struct amqp_connection *connection)
{
    static const char empty[] = {0, 0, 0, 8, 2, 0, 0, 0};
    pn_rwbytes_t room = pn_connection_driver_read_buffer(&connection->driver);
    if (room.size < sizeof empty)
        return;
    memcpy(room.start, empty, sizeof empty);
    pn_connection_driver_read_done(&connection->driver, sizeof empty);
}

/* What is passed over; what was before it has been dealt with. */
static void drop(struct amqp_connection *connection, size_t *used)
{
    enum amqp_fate fate = connection->frames.fate;
    if (fate != AMQP_PASSES)
        amqp_session_fail(connection, connection->frames.channel, session_errors[fate].condition,
                          session_errors[fate].text);
    connection->frames.fate = AMQP_PASSES;
    count_as_alive(connection);
    *used += connection->passed;
    connection->passed = 0;
}

/* False: nothing may be passed on, for now or for ever. */
static bool may_pass(struct amqp_connection *connection, struct span bytes, size_t *used)
{
    if (connection->turned_away) { /* the outcome says it */
        *used += bytes.size;
        return false;
    }
    if (connection->passed == 0)
        connection->passed = amqp_frames_pass(&connection->frames, bytes);
    if (connection->passed > 0)
        return true;
    if (connection->frames.verdict != AMQP_GOOD) {
        refuse_frame(connection);
        *used += bytes.size;
    }
    return false;
}

/* Of a frame that is large Proton has less than has come. False: it wants no more. */
static bool pass_lean(struct amqp_connection *connection, size_t *used)
{
    const struct amqp_lean *lean = &connection->frames.lean;
    pn_rwbytes_t room = pn_connection_driver_read_buffer(&connection->driver);
    if (room.size < lean->size)
        return false;
    memcpy(room.start, lean->bytes, lean->size);
    *used += connection->passed;
    connection->passed = 0;
    connection->payload = lean->payload;
    pn_connection_driver_read_done(&connection->driver, lean->size);
    return true;
}

/* The same of what is passed on as it comes. */
static bool pass_on(struct amqp_connection *connection, struct span bytes, size_t *used)
{
    pn_rwbytes_t room = pn_connection_driver_read_buffer(&connection->driver);
    if (room.size == 0)
        return false;
    size_t size = connection->passed < room.size ? connection->passed : room.size;
    memcpy(room.start, bytes.data + *used, size);
    *used += size;
    connection->passed -= size;
    pn_connection_driver_read_done(&connection->driver, size);
    return true;
}

enum status amqp_input(void *context, struct span bytes, size_t *used)
{
    struct amqp_connection *connection = context;
    *used = 0;
    connection->heard_ms = loop_now_ms(amqp_loop(connection));
    connection->handled = 0;
    /* What waited for the login comes first: each attach is looked at before the next one is here.
     */
    amqp_handle_events(connection);
    /* While a login is under way whoever comes may have said all that they have to say. */
    while (*used < bytes.size && connection->login == NULL && !connection->paused &&
           connection->handled < HANDLED_MAX &&
           may_pass(connection, span_from(bytes, *used), used)) {
        if (connection->frames.is_dropped) {
            drop(connection, used);
            continue;
        }
        bool is_lean = connection->frames.lean.size > 0;
        if (is_lean ? !pass_lean(connection, used) : !pass_on(connection, bytes, used)) {
            *used = bytes.size; /* what it still says goes out */
            break;
        }
        if (connection->passed == 0 && connection->frames.echo.drains)
            amqp_drain(connection);
        amqp_handle_events(connection);
        connection->payload = span_of(NULL, 0);
        if (connection->passed == 0 && connection->frames.echo.is_asked)
            amqp_echo(connection);
    }
    if (connection->handled >= HANDLED_MAX) { /* others come first; a task would be of this turn */
        stream_pause(connection->stream);
        loop_timer_start(amqp_loop(connection), &connection->rest, 0);
    }
    amqp_wake(connection);
    return STATUS_OK;
}
