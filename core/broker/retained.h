/* SPDX-License-Identifier: Apache-2.0 */
/* Retained records: the last one of each topic that was published to be kept. Its row commits with
 * the record itself, an empty record deletes it, and nothing of the set is held in memory. A new
 * subscription walks the rows in slices as its client has room, and gets each topic exactly once:
 * from the rows as it was before the subscription, or live.
 *
 *   WAITING --everywhere--> QUEUED --turn--> READING --rows--> ASKING --all--> SHOWING --end-->
 * freed ^                                                 |  ^
 *                              +------------------- next slice ------------------+  PAUSED (no
 * room)
 *
 * A row is shown when its record was committed before the subscription held at the partition's
 * owner. What comes later comes live: ASKING makes sure that every notice of what was committed
 * when the rows were read has been seen here, and from the first of them per partition on, and for
 * each topic that one of them names, rows are passed over. The walk of a subscription that outlives
 * its client goes by the commit sequence instead, so that it can go on later: what is behind that
 * of the subscribe comes through the session. Internal to core/broker. */
#ifndef CORE_BROKER_RETAINED_H
#define CORE_BROKER_RETAINED_H

#include "core/broker/broker.h"
#include "core/broker/retained_row.h"

struct retained_walk;

/* One worker's part. */
struct retained {
    struct list queued; /* walks that wait for their turn to read */
    unsigned reading;
    struct list ready; /* walks that have rows to show */
    struct loop_task task;
    struct batch_builder builder; /* of one record */
};

void retained_init(struct broker_worker *worker);
void retained_deinit(struct broker_worker *worker);
log_derive retained_derive; /* retained_derive.c */

/* A walk for the subscription, in place of one that it may have; waits for its start. */
struct retained_walk *retained_walk_new(struct subscription *subscription);
struct link *retained_walk_link(struct retained_walk *walk); /* for whoever starts it */
struct retained_walk *retained_walk_of(struct link *link);
void retained_walk_start(struct retained_walk *walk);
/* Before the start: the walk is the session's (session_walk.c), shows what was committed up to
 * there, and begins at that place; empty: at the first. */
void retained_walk_keep(struct retained_walk *walk, uint64_t upto, struct span place);
bool retained_walk_is_kept(const struct retained_walk *walk);
/* Where it stands, when that is not what was asked for last; false: it is. */
bool retained_walk_moved(struct retained_walk *walk, uint64_t *upto, struct span *place);
void retained_walk_unsaved(struct retained_walk *walk);    /* what was asked for is not stored */
void retained_walk_end(struct subscription *subscription); /* harmless without one */
/* A retained record of topic goes to the walk's subscription live. */
void retained_overtake(struct retained_walk *walk, uint64_t partition, uint64_t offset,
                       struct span topic);
/* The client may have room again. */
void retained_go_on(struct client *client);

/* What lies below is committed: everything when nobody knows the partition any more. */
uint64_t retained_committed(const struct broker_worker *worker, uint64_t partition);

#endif
