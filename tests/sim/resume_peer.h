/* SPDX-License-Identifier: Apache-2.0 */
/* AMQP senders by hand, as Proton cannot say what is unsettled: they lose their connection or
 * detach, attach with the map of what they wait for, and send it again, with the resume flag or
 * without. Some let the receiver settle first and use the tag of what was settled at once for
 * another delivery. As long as the gateway lives each message is there once; each that was accepted
 * is there. */
#ifndef TESTS_SIM_RESUME_PEER_H
#define TESTS_SIM_RESUME_PEER_H

#include "tests/sim/sim.h"

void resume_peers_begin(void (*dial)(struct sim_peer *peer));
void resume_peers_calm(void); /* they lose no connection any more, and begin no message */
/* Every record that is theirs, once, in the end; then the check. */
void resumed_final(struct span payload);
void resume_peers_check(void);
uint64_t resumed_count(void); /* deliveries that came again */

#endif
