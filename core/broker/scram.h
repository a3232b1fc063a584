/* SPDX-License-Identifier: Apache-2.0 */
/* SCRAM-SHA-256 (RFC 5802, 7677), the server's side, for every protocol that carries it: two
 * messages of the client, an answer to each. A name that nobody has looks like one with a wrong
 * password. On the worker's loop. */
#ifndef CORE_BROKER_SCRAM_H
#define CORE_BROKER_SCRAM_H

#include "core/broker/broker.h"

enum { SCRAM_MESSAGE_MAX = 1024 };

struct scram {
    struct principal *principal; /* a reference; NULL: nobody has that name */
    bool begun;
    char nonce[SCRAM_MESSAGE_MAX];
    char gs2[SCRAM_MESSAGE_MAX]; /* as base64: what c= must repeat */
    struct buf text;             /* what both sides sign, as far as it is known */
};

void scram_init(struct scram *scram);
void scram_deinit(struct scram *scram); /* harmless twice */
/* Each appends what is to be sent to answer. MALFORMED; UNAUTHENTICATED: another proof than the
 * password's (answer stays empty). After OK of the second, principal has proven itself: see
 * broker_login.proven. */
enum status scram_first(struct scram *scram, const struct client *client, struct span message,
                        struct buf *answer);
enum status scram_final(struct scram *scram, struct span message, struct buf *answer);

#endif
