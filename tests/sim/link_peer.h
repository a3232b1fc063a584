/* SPDX-License-Identifier: Apache-2.0 */
/* AMQP clients with a subscription to topics that outlives its link: they detach and attach again,
 * take it over from a connection that has vanished and from a link that is told so, look for what
 * is there, give it up, want another filter, and end what comes with all outcomes. What has to come
 * is checked by kept_history.h. Others share a durable subscription; what a member has not ended
 * when it goes, another one gets. Of one nothing is kept. They all end some of it in transactions,
 * with a message to a queue.
 */
#ifndef TESTS_SIM_LINK_PEER_H
#define TESTS_SIM_LINK_PEER_H

#include "tests/sim/sim.h"

struct link_peer;

void link_peers_begin(void);
enum link_kind {
    LINK_SHARED, /* durably */
    LINK_KEPT,
    LINK_PLAIN /* nothing is kept of it */
};
struct link_peer *link_peer_new(enum link_kind kind, void (*dial)(struct sim_peer *peer));
void link_peer_start(struct link_peer *peer);
void link_peer_calm(struct link_peer *peer); /* stays, and accepts what comes */
void link_peer_finish(struct link_peer *peer);
uint64_t link_peers_count(void);  /* deliveries */
uint64_t link_peers_again(void);  /* those that came again */
uint64_t link_peers_attach(void); /* links that went on with what was kept */
uint64_t link_peers_deals(void);  /* of what is shared, ended in committed transactions */

#endif
