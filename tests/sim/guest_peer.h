/* SPDX-License-Identifier: Apache-2.0 */
/* A client of MQTT, without a session, that joins the durable share of links and leaves it again,
 * often with all that it got. */
#ifndef TESTS_SIM_GUEST_PEER_H
#define TESTS_SIM_GUEST_PEER_H

#include "tests/sim/mqtt_wire.h"

void guest_peer_begin(peer_dial *dial);
void guest_peer_calm(void);      /* it leaves once more, and then stays */
void guest_peer_check(void);     /* it is there in the end */
uint64_t guest_peer_count(void); /* deliveries */

#endif
