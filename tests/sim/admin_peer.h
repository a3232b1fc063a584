/* SPDX-License-Identifier: Apache-2.0 */
/* Who makes queues and a group, and leads topics elsewhere while they are in use. */
#ifndef TESTS_SIM_ADMIN_PEER_H
#define TESTS_SIM_ADMIN_PEER_H

#include "core/broker/administer.h"
#include "core/broker/broker.h"

/* Home of the topics below other/. */
#define OTHER_QUEUE "others"
#define MOVED_QUEUE "moved" /* the other home of topics */

/* Once, on a new store. */
void admin_prepare(struct broker_worker *worker);
bool admin_is_prepared(void *context);
/* Of the built-in queue; NULL: there is none. On the worker's loop. */
const struct group_spec *admin_group(struct broker_worker *worker);
/* Sets and takes away routes, until the gateway crashes or a status says why not. */
void admin_move_topics(struct broker_worker *worker);
void admin_stop(void); /* for ever */
uint64_t admin_moves(void);

#endif
