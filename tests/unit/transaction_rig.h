/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of transactions share: one of a peer, what is published within it, and its end. */
#ifndef TESTS_UNIT_TRANSACTION_RIG_H
#define TESTS_UNIT_TRANSACTION_RIG_H

#include "tests/unit/broker_rig.h"

struct deal {
    struct broker_transaction transaction;
    struct peer *peer;
    atomic_bool done;
    enum status status; /* of the last call, and then of the end */
};

static inline void deal_done(struct request *request, enum status status)
{
    struct deal *deal = container_of(request, struct deal, transaction.request);
    CHECK(loop_is_home(request->home) && !atomic_load(&deal->done)); /* the peer may have gone */
    deal->status = status;
    atomic_store(&deal->done, true);
}

static inline void begin_run(void *context)
{
    struct deal *deal = context;
    deal->status = broker_begin(&deal->transaction);
}

static inline enum status begin(struct deal *deal, struct peer *peer)
{
    *deal = (struct deal){.peer = peer, .transaction.client = &peer->client};
    request_init(&deal->transaction.request, rig.loops[peer->worker], deal_done);
    on(peer->worker, begin_run, deal);
    return deal->status;
}

struct within {
    struct deal *deal;
    const char *queue;
    uint32_t first, count;
    struct publish publish;
};

/* The body is memory that is gone when the call returns. */
static inline void publish_run(void *context)
{
    struct within *within = context;
    struct client *client = &within->deal->peer->client;
    for (uint32_t i = 0; i < within->count; i++) {
        char text[16];
        snprintf(text, sizeof text, "%u", within->first + i);
        struct publish publish = within->publish;
        if (within->queue != NULL)
            publish.queue = catalog_queue_by_text(broker_catalog(client->worker), client->tenant,
                                                  span_from_text(within->queue));
        publish.body = span_from_text(text);
        publish.guarantee = GUARANTEE_AT_LEAST_ONCE;
        within->deal->status = broker_publish_within(&within->deal->transaction, &publish);
        memset(text, 'x', sizeof text);
    }
}

static inline enum status publish(struct deal *deal, const char *queue, uint32_t first,
                                  uint32_t count, struct publish how)
{
    on(deal->peer->worker, publish_run,
       &(struct within){
           .deal = deal, .queue = queue, .first = first, .count = count, .publish = how});
    return deal->status;
}

static inline void commit_run(void *context)
{
    struct deal *deal = context;
    broker_commit(&deal->transaction);
    CHECK(!atomic_load(&deal->done)); /* never from inside of the call */
}

static inline enum status commit(struct deal *deal)
{
    on(deal->peer->worker, commit_run, deal);
    rig_await(&deal->done);
    return deal->status;
}

static inline void roll_back_run(void *context)
{
    broker_roll_back(&((struct deal *)context)->transaction);
}

#endif
