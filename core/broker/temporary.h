/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes that a client makes for itself, to be answered there: topics "$reply/$ID" and queues
 * "$reply.ID", whose IDs nobody can guess. Only the client and what was forked from it later may
 * consume from them, whatever rights anybody has; it may itself if it may publish or consume at
 * all, whatever that is. Others publish to them with the right to; nothing is retained there. They
 * end with the client at the latest; what a crash leaves of them goes at the next start. All calls
 * on the client's loop. */
#ifndef CORE_BROKER_TEMPORARY_H
#define CORE_BROKER_TEMPORARY_H

#include "core/base/limits.h"
#include "core/broker/administer.h"
#include "core/broker/broker.h"

enum { TEMPORARY_NAME = LIMIT_QUEUE_NAME + 1 };

/* A topic, which is nothing that would have to be made. The client has logged in. */
void broker_temporary_topic(struct client *client, char name[TEMPORARY_NAME]);

/* When a queue ends; all but the first, once the link that it was made for has gone. What it holds,
 * and whether links of other clients are left, is looked at every second. */
enum temporary_life {
    TEMPORARY_CLIENT, /* with the client */
    TEMPORARY_MAKER,  /* with that link */
    TEMPORARY_NO_LINKS,
    TEMPORARY_NO_MESSAGES,
    TEMPORARY_NO_LINKS_OR_MESSAGES, /* neither links nor messages */
};

/* A queue with one partition, whose records need not outlive the process. OVER_QUOTA: the client
 * has LIMIT_CLIENT_TEMPORARY, its user half of LIMIT_TEMPORARY, or all together have that, or as
 * many as there may be other queues; DENIED: it may do nothing else; CANCELED: it was closed. */
struct broker_temporary {
    struct request request; /* home: the client's loop */
    struct client *client;
    enum temporary_life life;
    struct queue *queue; /* out: a reference for the caller */
    /* Below: the broker's. */
    struct broker_admin admin;
    struct temporary_queue *made;
};
void broker_make_temporary(struct broker_temporary *make);

/* A link of any client's, from or to that queue, comes. False: it is not a temporary one, and there
 * is nothing to leave. */
bool broker_temporary_join(struct client *client, const struct queue *queue);

enum temporary_leaver {
    TEMPORARY_LINK,
    TEMPORARY_FIRST,   /* the link that it was made for */
    TEMPORARY_UNHEARD, /* the same, whose peer was never told of it: it ends at once */
};
/* A link that has joined goes. True: the queue ends now, and gone completes when it has. One that
 * another client has made ends within a second, if it was the last. */
bool broker_temporary_leave(struct client *client, const struct queue *queue,
                            enum temporary_leaver leaver, struct request *gone);

/* The broker's. */
enum temporary_right { TEMPORARY_NONE, TEMPORARY_OWN, TEMPORARY_OTHERS };
/* Is a topic, a filter or a queue's name one of these, and the client's? A filter that leads to
 * those of several clients is another's. */
enum temporary_right temporary_right(const struct client *client, bool is_topic,
                                     struct span address);
void temporary_fork(struct client *client, const struct client *of);
void temporary_close(struct client *client);        /* the client's end */
void temporary_sweep(struct broker_worker *worker); /* worker 0 begins: what is left goes */

#endif
