/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions and links: what an attach asks for, its answer, and the end. */
#include "adapters/amqp/link.h"
#include "adapters/amqp/address.h"
#include "adapters/amqp/connection.h"
#include "adapters/amqp/dynamic.h"
#include "adapters/amqp/filter.h"
#include "adapters/amqp/resume.h"
#include "adapters/amqp/source.h"
#include "adapters/amqp/subscriber.h"
#include "adapters/amqp/target.h"
#include "adapters/amqp/topic.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"

void amqp_link_unref(struct amqp_link *link)
{
    struct amqp_connection *connection = link->connection;
    CHECK(link->refs > 0);
    if (--link->refs > 0)
        return;
    CHECK(link->pn == NULL && link->consumer == NULL && link->subscriber == NULL);
    link_remove(&link->of_connection);
    amqp_resumption_free(link);
    buf_deinit(&link->partial);
    amqp_filter_deinit(&link->filter);
    heap_free(link->group);
    heap_free(link->topic);
    heap_free(link);
    connection_release(connection);
}

/* Proton's link is left to its own end; ours goes when nothing is under way for it. */
static void link_leave(struct amqp_link *link)
{
    if (link->pn == NULL)
        return;
    pn_link_set_context(link->pn, NULL);
    if (pn_link_is_receiver(link->pn))
        amqp_target_close(link);
    else
        amqp_source_close(link);
    amqp_dynamic_leave(link);
    link->pn = NULL;
    link->kind = AMQP_LINK_NONE;
    amqp_link_unref(link);
}

void amqp_links_hold(struct amqp_connection *connection)
{
    list_each(at, &connection->links)
    {
        container_of(at, struct amqp_link, of_connection)->refs++;
    }
}

void amqp_links_release(struct amqp_connection *connection)
{
    list_each_safe(at, following, &connection->links)
    {
        amqp_link_unref(container_of(at, struct amqp_link, of_connection));
    }
}

void amqp_links_close(struct amqp_connection *connection)
{
    amqp_links_hold(connection);
    list_each(at, &connection->links)
    {
        struct amqp_link *link = container_of(at, struct amqp_link, of_connection);
        link->closing = NULL;
        link->leaving = AMQP_LEAVES_CONNECTION;
        link_leave(link);
    }
    amqp_links_release(connection);
}

/* ------------------------------------------------ sessions */

/* Proton has no more to say for ever when it finds no channel for its own. What has ended has one
 * until that is said, of which a peer that has few would feel something. */
static bool has_channel(struct amqp_connection *connection)
{
    uint32_t most = pn_transport_get_channel_max(connection->driver.transport) + 1U;
    if (++connection->session_count > LIMIT_AMQP_CHANNEL + 1)
        return false;
    if (connection->session_count > most && amqp_say_now(connection))
        amqp_ends_said(connection);
    return connection->session_count <= most;
}

void amqp_session_opened(struct amqp_connection *connection, pn_session_t *session)
{
    struct amqp_channel *channel =
        amqp_channels_at(&connection->frames.channels, connection->frames.channel);
    if (!has_channel(connection)) {
        if (connection->state != AMQP_UP)
            return;
        amqp_count_refusal(STATUS_OVER_QUOTA);
        amqp_end(connection, "amqp:resource-limit-exceeded", "too many sessions");
        return;
    }
    if (channel != NULL)
        channel->session = session;
    pn_session_open(session);
    /* Its window is there once Proton has said so: what comes before the peer has heard of it is
     * without credit, too, which ends a link only. */
    pn_connection_driver_write_buffer(&connection->driver);
}

static void links_leave(struct amqp_connection *connection, pn_session_t *session)
{
    amqp_links_hold(connection);
    list_each(at, &connection->links)
    {
        struct amqp_link *link = container_of(at, struct amqp_link, of_connection);
        if (link->session != session)
            continue;
        link->closing = NULL;
        link->leaving = AMQP_LEAVES_SESSION;
        link_leave(link);
    }
    amqp_links_release(connection);
    amqp_subscribers_end(connection, session);
}

/* How many they were. */
static uint32_t links_free(struct amqp_connection *connection, const pn_session_t *session)
{
    uint32_t count = 0;
    pn_link_t *pn = pn_link_head(connection->driver.connection, 0);
    while (pn != NULL) {
        pn_link_t *next = pn_link_next(pn, 0);
        if (pn_link_session(pn) == session) {
            pn_link_free(pn);
            count++;
        }
        pn = next;
    }
    return count;
}

void amqp_session_closed(struct amqp_connection *connection, pn_session_t *session)
{
    uint32_t ended_before = (uint32_t)(uintptr_t)pn_session_get_context(session);
    links_leave(connection, session);
    pn_session_close(session);
    /* Before its links are freed: of one with a delivery that was aborted amid its pieces, and
     * whose end waits for a window, Proton would free something twice. */
    amqp_say_now(connection);
    connection->links_ended += links_free(connection, session) + ended_before;
    pn_session_free(session);
    connection->sessions_ended++;
    amqp_wake(connection);
}

/* Proton's session and its links are there until the peer has ended it, too; until then they count.
 */
void amqp_session_fail(struct amqp_connection *connection, uint16_t channel, const char *condition,
                       const char *text)
{
    struct amqp_channel *at = amqp_channels_at(&connection->frames.channels, channel);
    if (connection->state != AMQP_UP || at == NULL || at->session == NULL)
        return;
    pn_session_t *session = at->session;
    amqp_count_refusal(STATUS_MALFORMED);
    links_leave(connection, session);
    bool is_read = amqp_say_now(connection);
    /* Else Proton would first send what waits for a window. */
    pn_session_set_context(session, (void *)(uintptr_t)links_free(connection, session));
    pn_condition_set_name(pn_session_condition(session), condition);
    pn_condition_set_description(pn_session_condition(session), text);
    pn_session_close(session);
    if (is_read)
        amqp_say_hushed(connection);
    amqp_wake(connection);
}

/* ------------------------------------------------ attach */

static void copy_ends(pn_link_t *pn)
{
    pn_terminus_copy(pn_link_source(pn), pn_link_remote_source(pn));
    pn_terminus_copy(pn_link_target(pn), pn_link_remote_target(pn));
    if (pn_link_is_receiver(pn) && amqp_is_lasting(pn_link_target(pn))) {
        /* Unless resume.c says more (part 3, 3.5.4). */
        pn_terminus_set_durability(pn_link_target(pn), PN_NONDURABLE);
        pn_terminus_set_expiry_policy(pn_link_target(pn), PN_EXPIRE_WITH_LINK);
        pn_terminus_set_timeout(pn_link_target(pn), 0);
    }
    pn_link_set_snd_settle_mode(pn, pn_link_remote_snd_settle_mode(pn));
    pn_link_set_rcv_settle_mode(pn, pn_link_remote_rcv_settle_mode(pn));
    pn_link_set_max_message_size(pn, LIMIT_RECORD_BYTES);
}

void amqp_link_accept(struct amqp_link *link)
{
    if (!amqp_resumption_is_ready(link))
        return;
    link->attached = true;
    amqp_answer_truly(link);
    amqp_attach_answer(link);
    if (pn_link_is_receiver(link->pn))
        pn_link_flow(link->pn, LIMIT_AMQP_CREDIT);
    amqp_wake(link->connection);
}

/* An attach that is not answered is, without the terminus that there is not (part 2, 2.6.3). */
static void open_as_none(pn_link_t *pn)
{
    if (!(pn_link_state(pn) & PN_LOCAL_UNINIT))
        return;
    pn_terminus_set_type(pn_link_is_receiver(pn) ? pn_link_target(pn) : pn_link_source(pn),
                         PN_UNSPECIFIED);
    pn_link_open(pn);
}

/* A refused attach is answered, and then ended. */
void amqp_link_refuse(struct amqp_link *link, const char *condition, const char *text)
{
    pn_link_t *pn = link->pn;
    if (pn == NULL)
        return;
    open_as_none(pn);
    pn_condition_set_name(pn_link_condition(pn), condition);
    pn_condition_set_description(pn_link_condition(pn), text);
    pn_link_close(pn);
    amqp_wake(link->connection);
    link_leave(link);
}

void amqp_link_refuse_status(struct amqp_link *link, enum status status)
{
    amqp_count_refusal(status);
    amqp_link_refuse(link, amqp_condition_of(status), status_text(status));
}

bool amqp_has_symbol(pn_data_t *symbols, const char *name)
{
    bool found = false;
    pn_data_rewind(symbols);
    if (!pn_data_next(symbols))
        return false;
    bool array = pn_data_type(symbols) == PN_ARRAY;
    if (array) {
        pn_data_enter(symbols);
        if (!pn_data_next(symbols))
            return false;
    }
    do {
        if (pn_data_type(symbols) == PN_SYMBOL) {
            pn_bytes_t symbol = pn_data_get_symbol(symbols);
            found |= span_is(span_of(symbol.start, symbol.size), name);
        }
    } while (array && pn_data_next(symbols));
    pn_data_rewind(symbols);
    return found;
}

bool amqp_is_capable(pn_terminus_t *terminus, const char *name)
{
    return amqp_has_symbol(pn_terminus_capabilities(terminus), name);
}

bool amqp_is_lasting(pn_terminus_t *terminus)
{
    pn_expiry_policy_t policy = pn_terminus_get_expiry_policy(terminus);
    return pn_terminus_get_durability(terminus) != PN_NONDURABLE ||
           policy == PN_EXPIRE_WITH_CONNECTION || policy == PN_EXPIRE_NEVER ||
           pn_terminus_get_timeout(terminus) > 0;
}

static struct amqp_link *link_new(struct amqp_connection *connection, pn_link_t *pn)
{
    struct amqp_link *link = heap_new(sizeof *link);
    link->connection = connection;
    link->pn = pn;
    link->session = pn_link_session(pn);
    link->refs = 1;
    buf_init(&link->partial, LIMIT_RECORD_BYTES);
    list_init(&link->sending);
    list_push(&connection->links, &link->of_connection);
    connection_hold(connection);
    pn_link_set_context(pn, link);
    return link;
}

void amqp_attach(struct amqp_link *link)
{
    pn_link_t *pn = link->pn;
    bool target = pn_link_is_receiver(pn);
    pn_terminus_t *remote = target ? pn_link_remote_target(pn) : pn_link_remote_source(pn);
    pn_terminus_t *local = target ? pn_link_target(pn) : pn_link_source(pn);
    struct amqp_address address;
    const char *text = pn_terminus_get_address(local);
    struct span name = text == NULL ? span_of("", 0) : span_from_text(text);
    if (target && pn_terminus_get_type(remote) == PN_UNSPECIFIED) {
        amqp_count_refusal(STATUS_INVALID);
        amqp_link_refuse(link, amqp_condition_of(STATUS_INVALID), "there is no target");
    } else if (target && pn_terminus_get_type(remote) == PN_COORDINATOR) {
        link->kind = AMQP_TO_COORDINATOR;
        amqp_link_accept(link);
    } else if (!target && pn_terminus_get_type(remote) == PN_UNSPECIFIED) {
        amqp_topic_recover(link);
    } else if (!amqp_address_parse(name, amqp_is_capable(remote, "topic"), &address) ||
               (address.at == AMQP_AT_RELAY && !target)) {
        amqp_link_refuse_status(link, STATUS_NOT_FOUND);
    } else if (target) {
        amqp_target_open(link, &address);
    } else {
        amqp_source_open(link, &address);
    }
}

/* The container's link of that name and direction is the newer one, of whatever session (part 2,
 * 2.6.1); what the older one kept the newer one finds. */
static void steal(struct amqp_link *link)
{
    struct amqp_connection *connection = link->connection;
    amqp_links_hold(connection);
    list_each(at, &connection->links)
    {
        struct amqp_link *other = container_of(at, struct amqp_link, of_connection);
        if (other != link && other->pn != NULL &&
            pn_link_is_receiver(other->pn) == pn_link_is_receiver(link->pn) &&
            strcmp(pn_link_name(other->pn), pn_link_name(link->pn)) == 0)
            amqp_link_refuse(other, "amqp:link:stolen", "another session has a link of its name");
    }
    amqp_links_release(connection);
}

void amqp_link_opened(struct amqp_connection *connection, pn_link_t *pn)
{
    /* Refused ones count too until the peer has ended them, and what has ended until that is said:
     * Proton has it until then, and who does not read may go on. */
    if (++connection->link_count > LIMIT_AMQP_LINKS && connection->links_ended > 0) {
        if (!amqp_say_now(connection))
            return;
        amqp_ends_said(connection);
    }
    if (connection->link_count > LIMIT_AMQP_HANDLES) {
        amqp_count_refusal(STATUS_OVER_QUOTA);
        amqp_end(connection, "amqp:resource-limit-exceeded", "too many links");
        return;
    }
    struct amqp_link *link = link_new(connection, pn);
    /* What comes behind an attach is looked at when the attach has been dealt with. */
    link->unnamed = amqp_default_read(buf_span(&connection->frames.attach));
    amqp_attach_handle(buf_span(&connection->frames.attach), &link->peer_handle);
    copy_ends(pn);
    if (pn_link_is_receiver(pn))
        amqp_resumption_read(link, buf_span(&connection->frames.attach));
    if (connection->link_count > LIMIT_AMQP_LINKS) {
        amqp_link_refuse_status(link, STATUS_OVER_QUOTA);
        return;
    }
    steal(link);
    if (pn_terminus_is_dynamic(pn_link_is_receiver(pn) ? pn_link_remote_target(pn)
                                                       : pn_link_remote_source(pn)))
        amqp_dynamic_attach(link);
    else
        amqp_attach(link);
}

static void answer_end(struct amqp_connection *connection, pn_link_t *pn, bool for_good)
{
    if (for_good) {
        pn_link_close(pn);
        pn_link_free(pn);
    } else if (amqp_say_now(connection)) {
        open_as_none(pn); /* else Proton would answer neither */
        pn_link_detach(pn);
        pn_link_free(pn);
        amqp_say_hushed(connection);
    } else {
        pn_link_free(pn);
    }
    connection->links_ended++;
    amqp_wake(connection);
}

void amqp_link_closed(pn_link_t *pn, bool for_good)
{
    struct amqp_link *link = amqp_link_of(pn);
    pn_session_t *session = pn_link_session(pn);
    struct amqp_connection *connection =
        amqp_connection_of(pn_connection_get_context(pn_session_connection(session)));
    bool later = false;
    if (link != NULL) {
        link->refs++;
        link->leaving = for_good ? AMQP_LEAVES_FOR_GOOD : AMQP_LEAVES_LINK;
        link_leave(link);
        later = link->closes_later;
        link->closing = later ? pn : NULL;
        amqp_link_unref(link);
    }
    if (!later)
        answer_end(connection, pn, for_good);
}

static void answer_with(pn_link_t *pn, enum status status)
{
    amqp_count_refusal(status);
    pn_condition_set_name(pn_link_condition(pn), amqp_condition_of(status));
    pn_condition_set_description(pn_link_condition(pn), status_text(status));
}

void amqp_link_not_given_up(struct amqp_link *link, enum status status)
{
    answer_with(link->pn, status);
}

void amqp_link_given_up(struct amqp_link *link, enum status status)
{
    pn_link_t *pn = link->closing;
    link->closing = NULL;
    if (pn != NULL && status != STATUS_OK)
        answer_with(pn, status);
    if (pn != NULL)
        answer_end(link->connection, pn, true);
    amqp_link_unref(link);
}
