/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions of a client with a subscription: what it takes is settled within one, with a message
 * to a queue, and then committed, rolled back, or forgotten, so that it runs out of time. On the
 * world loop. */
#ifndef TESTS_SIM_LINK_DEAL_H
#define TESTS_SIM_LINK_DEAL_H

#include "tests/sim/amqp_wire.h"

enum { LINK_DEAL_TAKEN_MAX = 64 };

enum link_deal_end {
    LINK_DEAL_LEFT, /* from now on it may be anybody's, unless it is done */
    LINK_DEAL_DONE,
    LINK_DEAL_BACK /* certainly not done */
};

struct link_deal {
    struct amqp_wire *wire;
    /* What became of what was taken. */
    void (*ends)(struct amqp_wire *wire, uint32_t attempt, enum link_deal_end end);
    bool calm;
    pn_link_t *coordinator, *sender;
    enum { DEAL_NONE, DEAL_ASKED, DEAL_OPEN, DEAL_ENDING } state;
    struct amqp_deal id;
    uint32_t number;
    bool commits, left; /* a link went behind what it had settled */
    uint32_t taken[LINK_DEAL_TAKEN_MAX], taken_count;
    uint64_t tag;
};

void link_deals_begin(void);
void link_deal_up(struct link_deal *deal); /* connection and session are open */
/* Now and then: begins one, or ends it. */
void link_deal_act(struct link_deal *deal);
void link_deal_down(struct link_deal *deal); /* what was not discharged never will be */
void link_deal_event(struct link_deal *deal, pn_event_t *event);
/* Its number; 0: it is none of a transaction. */
uint32_t link_deal_take(struct link_deal *deal, pn_delivery_t *delivery, uint32_t attempt);
/* Nobody wants to know any more what became of what was taken. */
void link_deal_drop(struct link_deal *deal);
uint64_t link_deals_count(void); /* ended in committed ones */

#endif
