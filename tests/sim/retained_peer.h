/* SPDX-License-Identifier: Apache-2.0 */
/* A client that retains ever newer versions on a few topics, or nothing any more, and others that
 * subscribe at any time: each gets of every topic the version that was there, or a newer one, and
 * then each that follows, once. */
#ifndef TESTS_SIM_RETAINED_PEER_H
#define TESTS_SIM_RETAINED_PEER_H

#include "tests/sim/mqtt_wire.h"

#define RETAINED_TOPIC "other/kept"

void retained_peers_begin(peer_dial *dial); /* makes them, and starts them */
void retained_peers_calm(void);             /* nothing new */
void retained_peers_check(void);            /* they are there in the end */
uint64_t retained_count(void);              /* seen as retained */

#endif
