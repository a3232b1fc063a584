/* SPDX-License-Identifier: Apache-2.0 */
/* The kept sessions that a unit has parts for. A session has one unit at a time, so that another
 * waits, as a whole and before any part of it is on its way: a part that waited would keep the
 * others, and who needs them, from their end. Internal to core/broker; on the worker of the unit,
 * whose sessions are of the same. */
#ifndef CORE_BROKER_UNIT_SESSIONS_H
#define CORE_BROKER_UNIT_SESSIONS_H

#include "core/broker/worker.h"

struct unit_sessions {
    struct broker_worker *worker;
    void (*start)(struct unit_sessions *sessions); /* the unit's parts can be sent */
    void (*ended)(struct unit_sessions *sessions, enum status status); /* for each part */
    /* Below: its own. */
    struct list parts;
    uint32_t count; /* of parts */
};

void unit_sessions_init(struct unit_sessions *sessions, struct broker_worker *worker);
/* A delivery is over with the unit. STALE: nothing is kept of the client. BUSY: LIMIT_SESSION_UNITS
 * have parts for its session. */
enum status unit_sessions_add(struct unit_sessions *sessions, const struct client *client,
                              uint32_t number);
/* start() comes, now or when nobody who came before has one of the sessions. */
void unit_sessions_await(struct unit_sessions *sessions);
void unit_sessions_send(struct unit_sessions *sessions, uint64_t unit, uint32_t part_count);
/* The unit is over, or was not sent: those who wait go on. */
void unit_sessions_free(struct unit_sessions *sessions);

#endif
