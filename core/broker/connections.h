/* SPDX-License-Identifier: Apache-2.0 */
/* Who is connected, over all workers, and how an operator ends a connection. For who may manage
 * everything; a connection is a client that an adapter made with the address of its peer. */
#ifndef CORE_BROKER_CONNECTIONS_H
#define CORE_BROKER_CONNECTIONS_H

#include "core/base/arena.h"
#include "core/broker/broker.h"

struct connection_row {
    uint64_t id; /* above 0; another connection gets it only after a restart of the gateway */
    const char *protocol;
    int64_t since_ms;         /* wall clock */
    struct span peer;         /* "127.0.0.1:4711" */
    struct span user, client; /* empty: not logged in, or without one */
    uint64_t queued;          /* bytes that wait for the peer to read */
};

/* A page, which may end before the limit; the next one goes on behind the id of its last row. The
 * caller owns everything; spans of the query stay until done(). */
struct connections_list {
    struct request request;
    struct client *client;  /* who asks; it must live until done() */
    uint64_t after;         /* the page begins behind this id; 0: at the first */
    uint64_t only;          /* the connection of this id; 0: any */
    struct span user, name; /* only those of this user, with this client id; empty: any */
    uint32_t limit;
    struct arena *arena;         /* of the answer */
    struct connection_row *rows; /* room for limit */
    /* The answer. */
    uint32_t count;
    bool more;
    /* Below: the broker's. */
    unsigned at; /* worker */
    uint64_t number;
    void (*done)(struct request *request, enum status status);
};

/* OK, DENIED, SHUTTING_DOWN; NO_MEMORY: one row is more than the arena takes. */
void broker_list_connections(struct connections_list *list);

/* One of them. OK: it has been told to go, in the words of its protocol. Else NOT_FOUND, DENIED,
 * SHUTTING_DOWN. */
struct connection_end {
    struct request request;
    struct client *client; /* who asks; it must live until done() */
    uint64_t id;
    /* Below: the broker's. */
    void (*done)(struct request *request, enum status status);
};
void broker_end_connection(struct connection_end *end);

#endif
