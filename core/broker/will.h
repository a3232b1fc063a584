/* SPDX-License-Identifier: Apache-2.0 */
/* Wills: what is published for a client that has gone without saying goodbye. A session that is
 * kept holds its will as a row from the attach on, so that it is published whatever becomes of the
 * gateway:
 *
 *   broker_session_begin() --goodbye--> none
 *        \--gone--> delay 0, or the session ends with its client: published, then its row goes;
 * when |     it is refused for a while, a row that is due at once
 *              \--> delay: a row that is due then --resumed--> none
 *                                                 \--due, or the session ends--> published
 *   a crash leaves the will without an end: its session's sweep gives it one
 *
 * Internal to core/broker. */
#ifndef CORE_BROKER_WILL_H
#define CORE_BROKER_WILL_H

#include "core/broker/will_row.h"

/* Publishes a stored one (copied) with the rights that its user has now; done() when it is stored,
 * or will never be. Also while the broker ends. */
struct will_publish {
    struct request request;
    struct broker_worker *worker;
    uint64_t tenant;
    struct span client_id; /* borrowed for the call, as row */
    struct span row;
};
void will_publish(struct will_publish *publish);
/* It was refused for a while: it is to be said later. */
static inline bool will_waits(enum status status)
{
    return status == STATUS_NO_SPACE || status == STATUS_STORAGE_FAILED ||
           status == STATUS_SHUTTING_DOWN;
}

#endif
