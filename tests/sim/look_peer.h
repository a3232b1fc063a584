/* SPDX-License-Identifier: Apache-2.0 */
/* A client of AMQP that looks for the durable share of links, as one that wants to give it up does,
 * and takes its link back at any moment of that without having done so. */
#ifndef TESTS_SIM_LOOK_PEER_H
#define TESTS_SIM_LOOK_PEER_H

#include "tests/sim/sim.h"

void look_peer_begin(void (*dial)(struct sim_peer *peer));
void look_peer_check(void); /* in the end: it has been answered */

#endif
