/* SPDX-License-Identifier: Apache-2.0 */
/* A push consumer of a group, for any protocol: it has credit, asks the group for as much as the
 * credit allows, and hands over record by record; what is settled in one turn goes to the group in
 * one piece. Nothing is allocated per record. All calls on the client's loop; callbacks come there,
 * never from inside a call. */
#ifndef CORE_BROKER_CONSUME_H
#define CORE_BROKER_CONSUME_H

#include "core/broker/broker.h"

struct consumer;

/* Callbacks may make any call about the consumer, consumer_close() and client_close() included. */
struct consumer_ops {
    /* One record under lease; takes one credit. item is borrowed until the callback returns: take a
     * reference of its batch to keep the bytes. slot names the lease until it is settled. */
    void (*deliver)(struct consumer *consumer, uint32_t slot, const struct group_item *item);
    /* A drain is over: the credit was used up, there is nothing more to hand out now, or no more
     * may be before something is settled (LIMIT_CONSUMER_LEASES, LIMIT_CLIENT_LEASES). No credit is
     * left. NULL: never asked for. */
    void (*drained)(struct consumer *consumer);
    /* The settlement that was given token: OK (durable), STALE (the lease had run out), or why it
     * could not be made. NULL: no token is ever given. */
    void (*settled)(struct consumer *consumer, uint64_t token, enum status status);
    /* The lease in slot has run out: what the group does with that is its, and the slot is free
     * behind this. False: it takes part in a transaction, so the slot stays, and is asked for again
     * a second later. NULL: nobody wants to know. */
    bool (*expired)(struct consumer *consumer, uint32_t slot);
    /* No record will come any more: NOT_FOUND (the group has gone), DENIED, INVALID (labels other
     * than the group's), BUSY (too many selectors), SHUTTING_DOWN, ... What is unsettled may still
     * be settled. consumer_close() remains to be called. */
    void (*ended)(struct consumer *consumer, enum status why);
};

struct consumer_options {
    const struct group_spec *group; /* borrowed for the call */
    struct selector *selector;      /* likewise (a reference is taken); NULL: all */
    struct label_filter labels;     /* likewise (copied) */
    uint32_t lease_ms;              /* 0: as the queue says */
    bool dead;                      /* the group's dead letters instead of the queue */
    struct span name;               /* broadcast groups: who asks, by any id; copied */
    uint32_t batch_size;            /* records asked for at once, 1 to CONSUMER_BATCH_MAX; 0: 128 */
};
enum { CONSUMER_BATCH_MAX = 1000 };

/* With no credit yet. A right that is missing is told by ended(). context is the caller's. */
struct consumer *consumer_open(struct client *client, const struct consumer_ops *ops, void *context,
                               const struct consumer_options *options);
void *consumer_context(const struct consumer *consumer);
/* No callbacks after it. release: leases that are not settled end at once, for others to have;
 * else they last until their deadline. Settlements made before it are still carried out. NULL is
 * fine. client_close() closes the consumers that are left, with release. */
void consumer_close(struct consumer *consumer, bool release);

/* So many records may be handed over from now on, whatever was allowed before. drain: no longer
 * than there is something to hand out; then drained(). By itself a consumer stops where its
 * client's output is over budget, until client_drained(), and where it or all consumers of its
 * client have as many leases as they may, until some are over; who has waited longest goes on
 * first. */
void consumer_credit(struct consumer *consumer, uint32_t credit, bool drain);
uint32_t consumer_credit_left(const struct consumer *consumer);

/* Ends the lease in slot. delay_ms as in group_settle.
 * token other than 0: settled() will tell; what is DONE without one is written a little later. The
 * slot may be given to another lease afterwards. */
void consumer_settle(struct consumer *consumer, uint32_t slot, enum settle_outcome outcome,
                     uint32_t delay_ms, uint64_t token);
/* Likewise; for FAILED, RELEASED and REJECTED there is more to say. */
struct consumer_outcome {
    enum settle_outcome outcome;
    uint32_t delay_ms;
    bool away;        /* this consumer does not get it again: not_for of group_settle */
    bool unharmed;    /* as in group_settle; settled() may say OVER_QUOTA */
    struct span note; /* as in group_settle; copied */
};
void consumer_settle_as(struct consumer *consumer, uint32_t slot,
                        const struct consumer_outcome *outcome, uint64_t token);
/* The lease begins anew, for lease_ms from now. */
void consumer_renew(struct consumer *consumer, uint32_t slot, uint32_t lease_ms, uint64_t token);
/* The lease in slot has been settled otherwise: by a transaction. */
void consumer_forget(struct consumer *consumer, uint32_t slot);
/* The lease in slot, for protocols whose peers name leases themselves; NULL: there is none. */
const struct receipt *consumer_lease(const struct consumer *consumer, uint32_t slot);
/* What belongs to the lease in slot for its protocol; NULL until it is set. */
void consumer_bind(struct consumer *consumer, uint32_t slot, void *what);
void *consumer_bound(const struct consumer *consumer, uint32_t slot);
/* Who takes, for what is settled otherwise and not for this consumer. */
struct taker *consumer_taker(const struct consumer *consumer);
uint32_t consumer_lease_count(const struct consumer *consumer);

/* The broker's. */
void consumers_close(struct client *client);
void consumers_go_on(struct client *client);

#endif
