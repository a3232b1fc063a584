/* SPDX-License-Identifier: Apache-2.0 */
/* Retained rows whose record has expired go from the store; on worker 0, one slice at a time,
 * beside everything else. A pass looks at every row, and begins when one may have expired: the
 * earliest time is known from the pass before and from what was retained since. Rows are removed on
 * condition that they are still the ones that were read, so what is retained meanwhile stays.
 *
 *   RESTING --due, rested--> READING --rows--> REMOVING --all of the slice--> pause --> READING
 *      ^                                            |
 *      +------------------ behind the last slice ---+
 *
 * Internal to core/broker. */
#ifndef CORE_BROKER_RETAINED_SWEEP_H
#define CORE_BROKER_RETAINED_SWEEP_H

#include <stdint.h>

struct broker;
struct broker_worker;

void retained_sweep_start(struct broker_worker *worker); /* worker 0, when it is ready */
void retained_sweep_stop(struct broker_worker *worker);
void retained_sweep_free(struct broker *broker);
/* A record that expires then is retained, and its row can be found. Any thread. */
void retained_sweep_expect(struct broker *broker, int64_t expires_at_ms);

#endif
