/* SPDX-License-Identifier: Apache-2.0 */
/* An AMQP client whose session has been ended and who goes on sending on its channel, and nothing
 * else: it is there. In peace, for minutes. */
#ifndef TESTS_SIM_STRAY_PEER_H
#define TESTS_SIM_STRAY_PEER_H

#include "tests/sim/sim.h"

void stray_peer_begin(void (*dial)(struct sim_peer *peer));
void stray_peer_check(void); /* it has not been closed */

#endif
