/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions and links: what an attach asks for, its answer, and the end. A link of ours outlives
 * Proton's by what is still under way for it; then its pn is NULL. On the connection's loop. */
#ifndef ADAPTERS_AMQP_LINK_H
#define ADAPTERS_AMQP_LINK_H

#include <proton/link.h>
#include <proton/session.h>
#include <proton/terminus.h>

#include "adapters/amqp/attach.h"
#include "adapters/amqp/channels.h"
#include "adapters/amqp/filter.h"
#include "core/base/buf.h"
#include "core/base/list.h"

struct amqp_connection;
struct amqp_resumption;
struct amqp_subscriber;
struct consumer;
struct follower;

/* Why a link goes: what it subscribed to may outlive that. */
enum amqp_leaving {
    AMQP_LEAVES_REFUSED,
    AMQP_LEAVES_FOR_GOOD, /* its receiver closed it */
    AMQP_LEAVES_LINK,     /* was detached only */
    AMQP_LEAVES_SESSION,
    AMQP_LEAVES_CONNECTION
};

enum amqp_kind {
    AMQP_LINK_NONE, /* not decided yet, or refused */
    AMQP_TO_QUEUE,
    AMQP_TO_TOPIC,
    AMQP_TO_ANYWHERE, /* the anonymous relay */
    AMQP_TO_COORDINATOR,
    AMQP_TO_MANAGEMENT,
    AMQP_FROM_GROUP,
    AMQP_FROM_TOPIC,
    AMQP_FROM_MANAGEMENT, /* answers; its topic is the target that requests name */
    AMQP_FROM_LOG,        /* reads along, and takes nothing */
};

struct amqp_link {
    struct amqp_connection *connection;
    pn_link_t *pn;
    pn_session_t *session; /* Proton's, to be compared only */
    uint32_t refs;         /* being attached, requests and answers under way */
    enum amqp_kind kind;
    uint32_t peer_handle; /* by which it names the link */
    bool is_answered;     /* then we name it so: */
    uint32_t handle;
    uint16_t channel;
    struct link of_connection;
    uint64_t queue;       /* id */
    uint64_t temporary;   /* likewise, of the one that was made for this link; 0: none was */
    struct queue *joined; /* a reference to the temporary queue that counts it; NULL: none does */
    bool attached;        /* its peer has been told what it is attached to */
    char *topic;          /* TO_TOPIC, FROM_TOPIC: name, filter */
    bool settles;         /* deliveries leave settled */
    /* Targets */
    struct buf partial;  /* a delivery that has not come whole */
    uint32_t owed;       /* credit that the sender may have back */
    bool settles_second; /* when the sender has: a delivery is unsettled until then */
    uint32_t unsettled;  /* of those: answered, and not settled by the sender */
    bool resumed;        /* the delivery that comes is one of a link before */
    uint32_t format;     /* its message-format; 0: of a message */
    uint32_t looked;     /* the relay's: messages of it whose queues are there, or were not made */
    bool makes;          /* likewise: a queue that it names */
    enum status unmade;  /* why that queue cannot be made; OK: it has not been tried */
    struct amqp_resumption *resumption; /* NULL: it cannot be resumed */
    /* Sources */
    struct consumer *consumer;
    struct follower *follower;
    bool draining;
    struct amqp_echo drain; /* its FLOW, as long as it drains and is not answered */
    struct list sending;    /* messages that have not been given to Proton, or not all of them */
    uint32_t sending_count;
    bool drains;             /* a drain is answered behind them */
    uint32_t delivery_count; /* what Proton has of it, as of its last message or flow */
    char *group;             /* its name */
    bool names_group;        /* the address does */
    struct amqp_filter filter;
    struct amqp_default unnamed; /* what settled without an outcome means */
    uint32_t lease_ms;           /* 0: as the queue says */
    bool dead;
    struct amqp_subscriber *subscriber;
    enum amqp_leaving leaving; /* why it goes */
    bool closes_later;         /* its close is answered when what it gives up is gone for ever */
    pn_link_t *closing;        /* Proton's, until then */
    uint32_t returning;        /* deliveries that are given back, and not answered; */
    bool has_returned;         /* some are answered, and it may not be said yet */
    uint64_t tag;              /* of the next delivery */
};

void amqp_session_opened(struct amqp_connection *connection, pn_session_t *session);
void amqp_session_closed(struct amqp_connection *connection, pn_session_t *session);
/* What has come on the channel ends its session, and nothing else. */
void amqp_session_fail(struct amqp_connection *connection, uint16_t channel, const char *condition,
                       const char *text);
void amqp_link_opened(struct amqp_connection *connection, pn_link_t *pn);
void amqp_link_closed(pn_link_t *pn, bool for_good);
/* What a close gave up is gone, or could not be; takes the reference of who made it wait. */
void amqp_link_given_up(struct amqp_link *link, enum status status);
/* Amid the close itself: its answer will say why it gives up nothing. */
void amqp_link_not_given_up(struct amqp_link *link, enum status status);
void amqp_links_close(struct amqp_connection *connection);
/* Around a walk over all links: one that has left may go when another one leaves. */
void amqp_links_hold(struct amqp_connection *connection);
void amqp_links_release(struct amqp_connection *connection);
void amqp_link_unref(struct amqp_link *link);
/* Answers the attach; refuse ends the link, attached or not, with a condition. */
void amqp_link_accept(struct amqp_link *link);
void amqp_link_refuse(struct amqp_link *link, const char *condition, const char *text);
void amqp_link_refuse_status(struct amqp_link *link, enum status status);
static inline struct amqp_link *amqp_link_of(pn_link_t *pn)
{
    return pn_link_get_context(pn);
}

/* Of what the source or target names by now. */
void amqp_attach(struct amqp_link *link);
/* What clients of the JMS kind say about an end: topic, shared, global. */
bool amqp_is_capable(pn_terminus_t *terminus, const char *name);
bool amqp_has_symbol(pn_data_t *symbols, const char *name); /* is it, or is among them */
/* It is to outlive its session, or its state the process. */
bool amqp_is_lasting(pn_terminus_t *terminus);

/* answer.c: of what the attach asked for the answer keeps what holds, for a link of that kind. */
void amqp_answer_truly(struct amqp_link *link);

#endif
