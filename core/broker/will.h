/* SPDX-License-Identifier: Apache-2.0 */
/* Wills: what is published for a client that has gone without saying goodbye. A session that is
 * kept holds its will as a row from the attach on, so that it is published whatever becomes of the
 * gateway; that of a client of which nothing else is kept is a row of its own (will_wait.h):
 *
 *   broker_session_begin() --goodbye--> none
 *        \--gone--> delay 0, or the session ends with its client: published, then its row goes
 *              \--> delay: a row that is due then --resumed--> none
 *                                                 \--due, or the session ends--> published
 *   a crash leaves the will without an end: the sweep gives it one
 *
 * A crash may also fall between the record and the end of the row. The next start publishes again,
 * and the queue knows the will of a kept session by an id of its own, which is in the row.
 *
 * One that is refused for a while becomes a row that is due a little later, some times; while the
 * store takes no rows either, its row stays as it is. One that its client finds when it comes back,
 * and for which there is no room, is dropped. Internal to core/broker. */
#ifndef CORE_BROKER_WILL_H
#define CORE_BROKER_WILL_H

#include "core/broker/will_row.h"

/* The store takes nothing now: it is to be said later, from the row that it has. */
static inline bool will_waits(enum status status)
{
    return status == STATUS_NO_SPACE || status == STATUS_STORAGE_FAILED ||
           status == STATUS_SHUTTING_DOWN;
}
/* There was no room for it: it may be taken a little later. */
static inline bool will_is_crowded_out(enum status status)
{
    return status == STATUS_BUSY || status == STATUS_OVER_QUOTA || status == STATUS_NO_MEMORY;
}

static inline bool will_is_lost(enum status status)
{
    return status != STATUS_OK && !will_waits(status) && !will_is_crowded_out(status);
}

/* Publishes a stored one with the rights that its user has now, also while the broker ends; done()
 * with how that ended: will_is_lost() when it can never be published. */
struct will_say {
    struct request request;
    struct broker_worker *worker;
    uint64_t tenant;
    struct span client_id; /* borrowed until done(), as row */
    struct span row;
};
void will_say(struct will_say *say);

/* Likewise; what is refused for a while is stored to be said later. done(): OK, or why it will
 * never be said, when its row may go; else will_waits(). What is lost is counted here, unless it
 * has a row: then the caller counts it when that is gone, else it would be lost once more. */
struct will_publish {
    struct request request;
    struct will_say say;
    bool has_row; /* which is looked at again after will_waits() */
    /* Below: its own. */
    struct will_later *later;
};
void will_publish(struct will_publish *publish);

#endif
