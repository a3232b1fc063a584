/* SPDX-License-Identifier: Apache-2.0 */
/* A client whose messages expire, or do not, and a session that is away for longer than some of
 * them last: it gets none that has expired, the time that is left of each, and everything else in
 * order and once. */
#ifndef TESTS_SIM_DUE_PEER_H
#define TESTS_SIM_DUE_PEER_H

#include "tests/sim/mqtt_wire.h"

#define DUE_TOPIC "other/due"

void due_peers_begin(peer_dial *dial); /* makes them, and starts them */
void due_peers_calm(void);             /* nothing new, and the session stays */
void due_final(struct span payload);   /* each that is in the log, in order */
void due_check_final(void);
uint64_t due_count(void); /* that expired and never came */

#endif
