/* SPDX-License-Identifier: Apache-2.0 */
/* Members of a share whose sessions outlive them: what is published from the first SUBACK on comes
 * to one of them at least, and again until one has acknowledged it. */
#ifndef TESTS_SIM_SHARE_PEER_H
#define TESTS_SIM_SHARE_PEER_H

#include "tests/sim/mqtt_wire.h"

struct share_peer;

void share_peers_begin(void);
struct share_peer *share_peer_new(peer_dial *dial);
void share_peer_start(struct share_peer *peer);
void share_peer_calm(struct share_peer *peer); /* from now on it stays */
void share_peers_check(void);                  /* at the end */
uint64_t share_peers_count(void);              /* deliveries */

#endif
