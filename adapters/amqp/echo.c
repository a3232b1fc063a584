/* SPDX-License-Identifier: Apache-2.0 */
/* A FLOW that asks for our state is answered with one (part 2, 2.7.4), and a drain when it is over
 * (2.6.7): Proton sends none without a change, and so it is written here, from what Proton and the
 * peer's frame say. */
#include "adapters/amqp/echo.h"
#include "adapters/amqp/browse.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/resume.h"
#include "adapters/amqp/sending.h"
#include "adapters/amqp/topic.h"
#include "core/base/pack.h"

enum { FRAME_MAX = 128 };
static const uint32_t window = INT32_MAX; /* of all sessions, as Proton has it */

static void write_uint_if(struct amqp_writer *writer, bool is_said, uint32_t number)
{
    if (is_said)
        amqp_write_uint(writer, number);
    else
        amqp_write_null(writer);
}

/* What the peer has given and has had no delivery for: of what Proton has of a sender's that has
 * not left it may have taken the credit back. */
static int64_t said_credit(const struct amqp_link *link)
{
    int64_t waiting = pn_link_queued(link->pn); /* of a receiver: what nobody has taken */
    return pn_link_credit(link->pn) + (pn_link_is_receiver(link->pn) ? -waiting : waiting);
}

/* link: NULL: of the session only, whose channel is ours. */
static void write_flow(struct amqp_connection *connection, const struct amqp_link *link,
                       uint16_t channel, const struct amqp_echo *echo)
{
    uint8_t bytes[FRAME_MAX];
    struct amqp_writer writer = {.at = bytes + AMQP_FRAME_HEADER};
    uint32_t count = 0;
    int64_t credit = 0;
    bool is_receiver = link != NULL && pn_link_is_receiver(link->pn);
    if (link != NULL) {
        credit = said_credit(link);
        /* A sender says how much it has sent; of a receiver the frame has said how far we may go,
         * which may be less far than we had gone. */
        count = is_receiver ? echo->delivery_count
                            : echo->delivery_count + echo->credit - (uint32_t)credit;
    }
    amqp_write_descriptor(&writer, AMQP_FLOW);
    uint8_t *list = amqp_open(&writer);
    amqp_write_uint(&writer, echo->transfers);
    amqp_write_uint(&writer, window);
    amqp_write_uint(&writer, amqp_said_transfers(&connection->told, channel));
    amqp_write_uint(&writer, window);
    write_uint_if(&writer, link != NULL, link == NULL ? 0 : link->handle);
    write_uint_if(&writer, link != NULL, count);
    write_uint_if(&writer, link != NULL, credit > 0 ? (uint32_t)credit : 0);
    amqp_write_null(&writer); /* how much there is */
    amqp_write_boolean(&writer, link != NULL && !is_receiver && pn_link_get_drain(link->pn));
    amqp_close(&writer, list, AMQP_LIST, 9, false);
    store_u32(bytes, (uint32_t)(writer.at - bytes));
    bytes[4] = 2;
    bytes[5] = 0;
    store_u16(bytes + 6, channel);
    stream_write(connection->stream, span_of(bytes, (size_t)(writer.at - bytes)));
}

/* Of the channel that the last frame has said so much on; NULL: it has none. */
static const pn_session_t *session_of(const struct amqp_connection *connection)
{
    const struct amqp_channel *channel =
        amqp_channels_at(&connection->frames.channels, connection->frames.channel);
    return connection->state == AMQP_UP && channel != NULL ? channel->session : NULL;
}

/* A link that has been answered is known by its handle; another one of the session has its channel,
 * too. */
void amqp_echo(struct amqp_connection *connection)
{
    const struct amqp_echo *echo = &connection->frames.echo;
    const pn_session_t *session = session_of(connection);
    const struct amqp_link *named = NULL, *any = NULL;
    list_each(at, &connection->links)
    {
        const struct amqp_link *link = container_of(at, struct amqp_link, of_connection);
        if (link->pn == NULL || link->session != session || !link->is_answered)
            continue;
        any = link;
        if (echo->has_link && link->peer_handle == echo->handle)
            named = link;
    }
    if (any != NULL && amqp_say_now(connection))
        write_flow(connection, named, any->channel, echo);
}

void amqp_drain(struct amqp_connection *connection)
{
    const struct amqp_echo *echo = &connection->frames.echo;
    const pn_session_t *session = session_of(connection);
    list_each(at, &connection->links)
    {
        struct amqp_link *link = container_of(at, struct amqp_link, of_connection);
        if (link->pn == NULL || link->session != session || !pn_link_is_sender(link->pn) ||
            !echo->has_link || link->peer_handle != echo->handle)
            continue;
        link->drain = *echo;
        connection->drains = true;
    }
}

bool amqp_drains_end(struct amqp_connection *connection)
{
    bool ended = false;
    connection->drains = false;
    list_each(at, &connection->links)
    {
        struct amqp_link *link = container_of(at, struct amqp_link, of_connection);
        if (link->pn == NULL || !link->drain.drains)
            continue;
        if (!pn_link_get_drain(link->pn)) { /* it has changed its mind */
            link->drain.drains = false;
        } else if (link->is_answered && said_credit(link) <= 0) {
            link->drain.drains = false;
            write_flow(connection, link, link->channel, &link->drain);
        } else {
            ended |= (link->kind == AMQP_FROM_TOPIC && amqp_topic_drain_ends(link)) ||
                     (link->kind == AMQP_FROM_LOG && amqp_browse_drain_ends(link));
            connection->drains = true;
        }
    }
    return ended;
}
