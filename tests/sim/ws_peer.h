/* SPDX-License-Identifier: Apache-2.0 */
/* Scripted clients of polylog.v1 over WebSocket: they publish to the queues that AMQP peers use,
 * and are members of the same groups. */
#ifndef TESTS_SIM_WS_PEER_H
#define TESTS_SIM_WS_PEER_H

#include "tests/sim/sim.h"

struct ws_peer;

/* dial() makes the wire: the peer talks at once. */
struct ws_peer *ws_peer_new(unsigned number, void (*dial)(struct sim_peer *peer));
void ws_peer_start(struct ws_peer *peer);
void ws_peer_calm(struct ws_peer *peer); /* from now on it takes, acknowledges and stays */
void ws_peer_stop(struct ws_peer *peer); /* for ever */

#endif
