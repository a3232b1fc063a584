/* SPDX-License-Identifier: Apache-2.0 */
/* One AMQP connection: bytes, time, the end, and what its links share.
 *
 *   NEW --open, logged in--> UP --close, error, end--> CLOSING --all is said, or 5 s--> DOWN
 *
 * Proton's objects belong to the connection and are touched on its loop only. */
#ifndef ADAPTERS_AMQP_CONNECTION_H
#define ADAPTERS_AMQP_CONNECTION_H

#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/transport.h>

#include "adapters/amqp/amqp.h"
#include "adapters/amqp/frames.h"
#include "adapters/amqp/said.h"
#include "core/broker/broker.h"

enum { AMQP_FRAME_MAX = 16 * 1024 };

enum amqp_state { AMQP_NEW, AMQP_UP, AMQP_CLOSING, AMQP_DOWN };

struct amqp_waiting; /* target.h */
struct amqp_login;   /* sasl.c */
struct amqp_exchange;
struct amqp_overdue; /* transaction.c */

struct amqp_connection {
    struct client client; /* first: the broker gives it back */
    struct stream *stream;
    pn_connection_driver_t driver;
    uint64_t heard_ms;         /* when something has come last, or might have */
    struct amqp_frames frames; /* what has come */
    struct amqp_said told;     /* what has gone */
    size_t passed;             /* bytes of it that Proton may have next */
    struct span payload;       /* of a TRANSFER that is being dealt with, without Proton */
    uint32_t handled;          /* events of deliveries, in this turn */
    struct loop_timer rest;    /* after many of them: what comes next waits for another turn */
    uint32_t let_go;           /* deliveries that Proton has until that is said */
    enum amqp_state state;
    bool logged_in;
    bool turned_away; /* SASL has ended so */
    bool excess;      /* one connection too many: SASL or open is answered so */
    bool waits;       /* a login is under way: no event is looked at before it is done */
    bool paused;      /* no deliveries are taken: the broker has no room, or a queue is made */
    bool said;        /* something has been sent */
    bool stolen;      /* subscribers are, and are to be told */
    bool released;    /* subscribers have deliveries that are over */
    bool drains;      /* links may */
    struct amqp_login *login;
    struct amqp_exchange *exchange; /* of SASL messages; NULL: none */
    char *user;                     /* Proton borrows it */
    struct loop_task flush;
    struct loop_timer timer;
    struct list links, subscribers, transactions;
    uint64_t turn;                    /* amqp_unsettled_turn() */
    uint32_t lingering;               /* the stream has gone, and so many answers still matter */
    uint32_t session_count;           /* also what has ended, until that is said */
    uint32_t sessions_ended;          /* of these */
    uint32_t link_count, links_ended; /* likewise */
    uint32_t subscriber_count;
    uint64_t transaction_number;
    struct amqp_overdue *overdue; /* transactions that took too long; NULL: there were none */
    uint64_t looked, looked_ms; /* what queries of $management have cost in the turn of that time */
    uint32_t changes;           /* that requests of $management have asked for, and are under way */
    size_t changes_bytes;
    size_t partial_bytes;         /* of deliveries that have not come whole, all links */
    struct amqp_waiting *waiting; /* a ring */
    uint32_t waiting_capacity, waiting_first, waiting_count;
    uint32_t unsettled;                     /* of all links, as a link's */
    size_t sending_bytes;                   /* likewise, to be sent */
    uint32_t delivery_count, delivery_peak; /* of all links; the most that Proton ever had */
    uint64_t answered;                      /* token of the first that waits */
};

static inline struct amqp_connection *amqp_connection_of(struct client *client)
{
    return (struct amqp_connection *)client;
}
static inline struct loop *amqp_loop(const struct amqp_connection *connection)
{
    return broker_loop(connection->client.worker);
}

extern struct amqp_options amqp_settings;

void amqp_wake(struct amqp_connection *connection); /* events and output at the end of this turn */
/* No delivery is taken, of any link, and nothing more is read, until amqp_go_on(), which looks
 * whether all that it waited for is over. */
void amqp_pause(struct amqp_connection *connection);
void amqp_go_on(struct amqp_connection *connection);
/* Closes with the condition, once. */
void amqp_end(struct amqp_connection *connection, const char *condition, const char *text);
/* Says the condition at once, and reads no more: nothing can be made of what comes, or too much
 * does. */
void amqp_break_off(struct amqp_connection *connection, const char *condition, const char *text);
/* The same of what cannot be read, unless the connection ends already. */
void amqp_refuse_bytes(struct amqp_connection *connection, const char *condition, const char *text);
/* What is left to say goes out for a while, and no event matters any more. */
void amqp_go_down(struct amqp_connection *connection);
/* All is said: sessions and links that have ended are gone. */
void amqp_ends_said(struct amqp_connection *connection);
const char *amqp_condition_of(enum status status);
void amqp_count_refusal(enum status why);
/* What came on links that may be resumed has been answered, or never will be. */
void amqp_linger_end(struct amqp_connection *connection);
/* Bytes that wait, of all of the connection. */
size_t amqp_queued(const struct amqp_connection *connection);

/* input.c, of the adapter: as much as may be looked at now. */
enum status amqp_input(void *context, struct span bytes, size_t *used);

#endif
