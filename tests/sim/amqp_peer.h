/* SPDX-License-Identifier: Apache-2.0 */
/* Scripted AMQP clients on Proton's driver: they send to two queues and to a topic whose home is a
 * third, and take from all of them and from their dead letters, with all outcomes, alone and in
 * transactions, and are cut in the middle of it. */
#ifndef TESTS_SIM_AMQP_PEER_H
#define TESTS_SIM_AMQP_PEER_H

#include "tests/sim/sim.h"

#define WORK_QUEUE "work"
#define MORE_QUEUE "more"
#define DEAL_QUEUE "deals"
#define DEAL_TOPIC "deal/1"

struct amqp_peer;

/* dial() makes the wire: the peer talks at once. */
struct amqp_peer *amqp_peer_new(unsigned number, void (*dial)(struct sim_peer *peer));
void amqp_peer_start(struct amqp_peer *peer);
void amqp_peer_calm(struct amqp_peer *peer); /* from now on it takes, accepts and stays */
void amqp_peer_stop(struct amqp_peer *peer); /* for ever */

#endif
