/* SPDX-License-Identifier: Apache-2.0 */
/* Publishers that say everything several times, from several workers at once, through the deaths of
 * the gateway, with an id or with numbers of a producer: it is stored once, and every answer names
 * the same place. */
#ifndef TESTS_SIM_REPEAT_PEER_H
#define TESTS_SIM_REPEAT_PEER_H

#include "core/broker/broker.h"

#define REPEAT_QUEUE "repeats"

void repeat_begin(void); /* a new run */
/* Some that live until the gateway crashes. */
void repeat_start(struct broker_worker *(*any_worker)(void));
void repeat_stop(void);
/* All of the queue, in the end. */
void repeat_final(uint64_t partition, uint64_t offset, struct span payload);
/* After it. Returns how many there are. */
uint64_t repeat_check_final(void);

#endif
