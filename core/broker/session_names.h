/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds which name: one client at a time, the newest. The table is shared by all workers and
 * locked for a moment; what happens to a holder happens on its own worker.
 *
 *   WAITING --the one before has let go--> HELD --name_release()--> gone
 *
 * Who claims a name that is held becomes the successor of its holder, which is told, lets go when
 * nothing of it can change any more, and so hands it over: what the holder stored is what the
 * successor reads. Internal to core/broker. */
#ifndef CORE_BROKER_SESSION_NAMES_H
#define CORE_BROKER_SESSION_NAMES_H

#include <pthread.h>

#include "core/base/map.h"
#include "core/net/mailbox.h"

struct name_claim;

struct session_names {
    pthread_mutex_t lock;
    struct map claims, holds;
};

void session_names_init(struct session_names *names);
void session_names_deinit(struct session_names *names);

/* On loop. granted() comes there once the name is held, never from inside the call; replaced() when
 * somebody else wants it, at most once, also while it waits. Lives until name_release(). */
struct name_claim *name_claim(struct session_names *names, struct loop *loop, uint64_t tenant,
                              struct span name, void *owner, void (*granted)(void *owner),
                              void (*replaced)(void *owner));
/* NULL: somebody holds it, or wants it. Else held at once; granted() does not come. */
struct name_claim *name_claim_free(struct session_names *names, struct loop *loop, uint64_t tenant,
                                   struct span name, void *owner, void (*replaced)(void *owner));
/* On its loop. In use: who would yield to its holder finds that out before claiming the name. A
 * claim that replaces one in use is so from the beginning. */
void name_use(struct name_claim *claim, bool in_use);
bool name_is_in_use(struct session_names *names, uint64_t tenant, struct span name);
/* Any thread. What is kept under a name does not end while it is held, by whom is not said: by one
 * while it has the name, by as many as do. */
void name_hold(struct session_names *names, uint64_t tenant, struct span name);
bool name_unhold(struct session_names *names, uint64_t tenant, struct span name); /* the last */
bool name_is_held(struct session_names *names, uint64_t tenant, struct span name);
/* On its loop: nothing is called any more. A claim that still waits passes the name on when its
 * turn comes. */
void name_release(struct session_names *names, struct name_claim *claim);

#endif
