/* SPDX-License-Identifier: Apache-2.0 */
/* An AMQP client that sends to a queue which has to be made first, while the disk stands still: its
 * connection does, too, for longer than a silence may last. It is silent when the message is
 * stored, not before. Once in a run. */
#ifndef TESTS_SIM_HALTED_PEER_H
#define TESTS_SIM_HALTED_PEER_H

#include "tests/sim/sim.h"

void halted_peer_begin(void (*dial)(struct sim_peer *peer), struct sim_disk *disk);
void halted_peer_check(void); /* minutes later: its message is stored, its silence ended */

#endif
