/* SPDX-License-Identifier: Apache-2.0 */
/* Somebody who has nothing to do with a load: one publisher and one subscriber, QoS 0, 500 messages
 * a second, in a process of its own, so that only the server can delay it. Its latency counts from
 * the scheduled time. */
#ifndef TESTS_BENCH_BYSTANDER_H
#define TESTS_BENCH_BYSTANDER_H

#include "tests/bench/mqttload.h"

struct bystander;

enum bystander_phase { BYSTANDER_IDLE, BYSTANDER_QUIET, BYSTANDER_BESIDE, BYSTANDER_END };

/* Returns when its messages arrive; exits with a message when they do not. */
struct bystander *bystander_new(const struct options *options);
/* What is scheduled from now on counts for that phase. */
void bystander_phase(struct bystander *bystander, enum bystander_phase phase);
/* Ends it, writes its figures as JSON members (", ...") and frees it. How many messages were lost.
 */
uint64_t bystander_end(struct bystander *bystander);

#endif
