/* SPDX-License-Identifier: Apache-2.0 */
/* MQTT 5 clients with a kept session and a will, which go with a goodbye or without, and return
 * before its delay is over or after; and a session that watches. A will is published once: not
 * before its time, not when its client has returned or said goodbye, and else always. */
#ifndef TESTS_SIM_WILL_PEER_H
#define TESTS_SIM_WILL_PEER_H

#include "tests/sim/mqtt_wire.h"

#define WILL_TOPIC "other/will"

struct will_peer;

void will_peers_begin(void);
struct will_peer *will_peer_new(peer_dial *dial);
void will_peer_start(struct will_peer *peer);
void will_peer_calm(struct will_peer *peer); /* it goes for good */
void will_watch(peer_dial *dial);            /* once */
void will_final(struct span payload);        /* each that is in the log, once */
void wills_check_final(void);
uint64_t wills_count(void); /* published */

#endif
