/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to publishes, which go back in the order in which each client asked, whatever way its
 * records take. Internal to core/broker; on the client's worker. */
#ifndef CORE_BROKER_ANSWER_H
#define CORE_BROKER_ANSWER_H

#include "core/broker/broker.h"

struct session;
struct answer_ring; /* unanswered publishes of one client; outlives it while answers are owed */

/* An answer that records on their way owe. */
struct answer {
    struct answer_ring *ring;
    uint32_t number;
    uint32_t bytes;
    uint32_t record;        /* which of those that went together */
    struct session *noting; /* it counts it as publishing; NULL: none */
};

/* What is known of a record that was taken in. */
struct answer_place {
    uint64_t partition, offset; /* offset: of a delayed record its number */
    int64_t due_ms;             /* 0: not delayed */
};

struct answers {
    struct answer *items;
    uint32_t count, capacity;
};

/* The client's next publish is owed an answer; bytes count against it until then. noting: the
 * session that something is stored of with the record, which ends behind that; NULL: none. */
void answers_add(struct answers *answers, struct client *client, uint64_t token, size_t bytes,
                 uint32_t record, struct session *noting);
void answers_deinit(struct answers *answers);
/* The same of what is no record, or of several. */
struct answer answer_owe(struct client *client, uint64_t token, size_t bytes,
                         struct session *noting);

/* Two steps: what is settled goes out with answers_return(), which may call back clients. */
void answer_settle(const struct answer *answer, enum status status,
                   const struct answer_place *place);
void answers_return(const struct answer *answers, uint32_t count);
/* An answer that nothing owes: given from the loop, not from inside the call. */
void answer_refuse(struct client *client, uint64_t token, enum status status);
/* No more room for unanswered publishes. */
bool answers_are_full(const struct client *client);
/* The session hears session_published() when no answer is owed any more; false: none is. */
bool answers_watch(struct client *client, struct session *session);
/* The client goes. */
void answers_close(struct client *client);

#endif
