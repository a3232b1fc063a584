/* SPDX-License-Identifier: Apache-2.0 */
/* The checker of a durable share of links, which clients of MQTT may join: what is acknowledged
 * while it is there is ended by one of its members; what one holds comes to no other. */
#ifndef TESTS_SIM_LINK_SHARE_H
#define TESTS_SIM_LINK_SHARE_H

#include "tests/sim/sim.h"

#define LINK_SHARE        "both"
#define LINK_SHARE_FILTER "t/+"

/* A member: it holds what came in this turn (of a connection, or a link) until it leaves. */
struct share_holder {
    const char *name;
    const struct sim_peer *peer;
    const uint64_t *turn;
    const bool *leaving; /* NULL: it never says so */
};

void link_share_begin(void);
void link_share_is_kept(void); /* the attach of a member is answered */
bool link_share_is_there(void);
bool link_share_came(const struct share_holder *who, uint32_t attempt); /* true: again */
/* Its holder has said what becomes of it: all is over, or anybody may get it. */
void link_share_ended(uint32_t attempt, bool over);
void link_share_answered(uint32_t attempt); /* it comes to nobody any more, also after a crash */
void link_share_taken(uint32_t attempt, uint32_t deal); /* it is over if that is committed */
void link_share_check(void);                            /* in the end */

#endif
