/* SPDX-License-Identifier: Apache-2.0 */
/* The checkers of what AMQP peers send and take, alone and in deals (transactions). */
#ifndef TESTS_SIM_WORK_HISTORY_H
#define TESTS_SIM_WORK_HISTORY_H

#include "tests/sim/history.h"
#include "tests/sim/sim.h"

void work_begin(void);
/* A message on its way; deal 0: none. Its text goes into the body. */
uint32_t work_sent(uint32_t deal, char text[16]);
void work_delayed(uint32_t work, uint32_t delay_ms); /* from now on; not there before */
void work_fate(uint32_t work, enum fate fate);       /* of one without a deal */

uint32_t deal_new(void);
/* ACKNOWLEDGED: all of it; REFUSED: nothing of it; until then all or nothing. */
void deal_promised(uint32_t deal); /* its commit is on its way */
void deal_fate(uint32_t deal, enum fate fate);
void deal_denied(uint32_t deal);   /* what it took came again */
bool deal_was_done(uint32_t deal); /* in the end, of one that sent something */

/* A delivery: the message, which must be nobody's at the moment, is holder's until until_ms. What
 * failed before is counted. */
uint32_t work_came(struct span body, const struct sim_peer *holder, uint64_t until_ms,
                   uint32_t failures);
uint32_t work_arrival(uint32_t work); /* number of its last delivery */
/* Somebody else may get it now, unless that was an earlier delivery. */
void work_let_go(uint32_t work, uint32_t arrival);
void work_holder_gone(const struct sim_peer *holder); /* likewise, all of them */
/* Done: never again. Rejected: never again, but one dead letter. Failed: again, and counted, until
 * it is a dead letter. Released: again. */
enum work_end { WORK_DONE, WORK_REJECTED, WORK_FAILED, WORK_RELEASED };
enum { WORK_FAILURES_MAX = 4 };
void work_ending(uint32_t work, enum work_end end, uint32_t deal); /* was said */
/* Was confirmed in time. */
void work_ended(uint32_t work, enum work_end end, uint32_t arrival);

/* A dead letter, as it lies there: the only one of its message. */
uint32_t work_dead(struct span body, uint64_t partition, uint64_t offset, bool rejected);
void work_dead_done(uint32_t work); /* confirmed */

/* Everything that is in the queues, once; then everything must have been done. */
void work_final(uint64_t partition, uint64_t offset, struct span body);
void work_check_final(void);
uint64_t work_count(void); /* taken */
uint64_t work_dead_count(void);
uint64_t deals_count(void); /* committed */

#endif
