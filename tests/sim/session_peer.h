/* SPDX-License-Identifier: Apache-2.0 */
/* Scripted MQTT clients whose sessions outlive them: they subscribe, change their minds, go and
 * vanish, and come back wherever the gateway lets them in. */
#ifndef TESTS_SIM_SESSION_PEER_H
#define TESTS_SIM_SESSION_PEER_H

#include "tests/sim/mqtt_wire.h"

struct session_peer;

void session_peers_begin(void);
struct session_peer *session_peer_new(peer_dial *dial);
void session_peer_start(struct session_peer *peer);
void session_peer_calm(struct session_peer *peer);   /* from now on it stays */
void session_peer_finish(struct session_peer *peer); /* at the end: it must have everything */

#endif
