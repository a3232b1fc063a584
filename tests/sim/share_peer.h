/* SPDX-License-Identifier: Apache-2.0 */
/* Members of a durable share, most of them with sessions that outlive their connections: what is
 * published from the first SUBACK on comes to one of them at least, and again until one has
 * acknowledged it. What one has got with QoS 2 comes to no other, and to a guest, which has no
 * session, never again. Another one has no member that takes large packets: they hold nothing up.
 */
#ifndef TESTS_SIM_SHARE_PEER_H
#define TESTS_SIM_SHARE_PEER_H

#include "tests/sim/mqtt_wire.h"

struct share_peer;

void share_peers_begin(void);
enum { SHARE_KEPT_1, SHARE_KEPT_1_TOO, SHARE_KEPT_2, SHARE_GUEST, SHARE_NARROW, SHARE_PEERS };
struct share_peer *share_peer_new(unsigned kind, peer_dial *dial);
void share_peer_start(struct share_peer *peer);
void share_peer_calm(struct share_peer *peer);         /* from now on it stays */
void share_peer_finish(const struct share_peer *peer); /* it is there in the end */
void share_peers_check(void);                          /* at the end */
uint64_t share_peers_count(void);                      /* deliveries */

#endif
