/* SPDX-License-Identifier: Apache-2.0 */
/* Behind a link from a topic: the client that subscribes for it, what that keeps when the link
 * goes, and what several links share. On the connection's loop. */
#ifndef ADAPTERS_AMQP_SUBSCRIBER_H
#define ADAPTERS_AMQP_SUBSCRIBER_H

#include <proton/delivery.h>
#include <proton/session.h>
#include <proton/terminus.h>

#include "core/base/list.h"
#include "core/broker/broker.h"

struct amqp_connection;
struct amqp_link;

/* How a subscription that is to last ends, apart from a receiver that closes its link (3.5.5). */
enum amqp_expiry { AMQP_AFTER_LINK, AMQP_AFTER_SESSION, AMQP_AFTER_CONNECTION, AMQP_NEVER };

/* A link from a topic: a client of its own, with the link's credit and one subscription. */
struct amqp_subscriber {
    struct client client; /* first: the broker gives it back */
    struct amqp_connection *connection;
    struct amqp_link *link; /* NULL: it has gone */
    pn_session_t *session;  /* as the link's */
    struct link of_connection;
    struct broker_subscribe subscribe;
    struct subscribe_item item;
    struct broker_attach attach;
    bool pending;               /* subscribe or attach is under way */
    bool attaching;             /* it is attach */
    bool kept;                  /* outlives the link */
    bool looks;                 /* for what is kept, whatever it is */
    bool anew;                  /* what was kept under the name is given up */
    struct amqp_link *given_up; /* closed for good while attach was under way, and not answered;
                                   NULL: none. What is attached then ends. */
    bool stolen;
    uint32_t unsettled; /* deliveries of this link */
    enum amqp_expiry expiry;
    uint32_t expiry_s;
    struct span name;         /* of what is kept; bytes are ours */
    struct broker_hold *hold; /* of what is kept for all its links; NULL: that has no time */
    struct subscription *shared;
    struct amqp_claim *claim; /* while it is made, or looked at; else NULL */
    struct amqp_taken *taken; /* deliveries whose receiver waits (durable.c): by number less one, of
                                 what is shared by lease */
    uint32_t taken_capacity;
    bool released; /* some of them are over */
};

/* All of a connection. */
/* The session or, NULL, the connection has gone, and what was to last as long goes too. */
void amqp_subscribers_end(struct amqp_connection *connection, const pn_session_t *session);
void amqp_subscribers_stolen(struct amqp_connection *connection);
void amqp_subscribers_drained(struct amqp_connection *connection);
void amqp_subscribers_released(struct amqp_connection *connection);

/* durable.c: what a subscriber keeps when its link goes. */
/* What the source asks for; answered in local. INVALID: its name is too long; UNSUPPORTED: what is
 * shared has no end of its own. */
enum status amqp_kept_read(struct amqp_subscriber *subscriber, pn_terminus_t *local);
/* Its receiver waits for what we say to an outcome that ends the delivery: it comes when a crash
 * could not bring the delivery back, with amqp_subscribers_released(). */
void amqp_kept_take(struct amqp_subscriber *subscriber, pn_delivery_t *delivery, uint32_t number);
/* Of a shared one. False: nothing of it is kept, and it is over now. */
bool amqp_shared_take(struct amqp_subscriber *subscriber, pn_delivery_t *delivery, uint32_t lease);
void amqp_kept_release(struct client *client, uint32_t number); /* of client_ops */
/* Finds what is kept under the name, or begins it; then amqp_subscriber_ready() or the refusal. */
void amqp_kept_attach(struct amqp_subscriber *subscriber);
/* The link goes. False: the subscriber stays, for as long as session or connection are there. */
bool amqp_kept_leave(struct amqp_subscriber *subscriber, struct amqp_link *link);
/* It is kept for so long, which is answered. */
void amqp_kept_granted(struct amqp_subscriber *subscriber, uint32_t expiry_s);
/* Likewise, to a source of which nothing was said: what it is. */
void amqp_kept_found(struct amqp_subscriber *subscriber, struct span filter, uint32_t expiry_s);

/* claim.c: what keeps a subscription that several links share, whether one is there or not. */
/* Makes it, or finds it; then amqp_subscriber_subscribe(), for one that looks
 * amqp_subscriber_ready(), or the refusal. */
void amqp_claim(struct amqp_subscriber *subscriber);
/* Whose session keeps it, where the close of the link ends that: of one that it made, or that was
 * looked for and has nobody else. NULL: it is others', too, or that is not known yet. */
struct client *amqp_claim_own(const struct amqp_subscriber *subscriber);
void amqp_claim_end(struct amqp_subscriber *subscriber); /* the subscriber goes; harmless twice */

/* topic.c, for durable.c and claim.c */
void amqp_subscriber_fork(struct amqp_subscriber *subscriber);
void amqp_subscriber_subscribe(struct amqp_subscriber *subscriber);
void amqp_subscriber_ready(struct amqp_subscriber *subscriber);
void amqp_subscriber_refuse(struct amqp_subscriber *subscriber, const char *condition,
                            const char *text, enum status status);
/* Another link has what it kept. */
void amqp_subscriber_refuse_stolen(struct amqp_subscriber *subscriber);
void amqp_subscriber_free(struct amqp_subscriber *subscriber);

#endif
