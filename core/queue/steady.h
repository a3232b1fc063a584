/* SPDX-License-Identifier: Apache-2.0 */
/* The wall clock, but never going back: when it is set back, time goes on as the monotonic clock
 * has it. For what is stored with a time and must not come alive, or die, too early. */
#ifndef CORE_QUEUE_STEADY_H
#define CORE_QUEUE_STEADY_H

#include "core/base/clock.h"

struct steady {
    int64_t now_ms; /* as of monotonic_ms */
    uint64_t monotonic_ms;
};

/* Begins no earlier than at_least_ms: the last time that was stored. */
static inline void steady_init(struct steady *steady, int64_t at_least_ms)
{
    *steady = (struct steady){.now_ms = at_least_ms, .monotonic_ms = clock_monotonic_ms()};
}

static inline int64_t steady_now(struct steady *steady)
{
    int64_t wall_ms = clock_wall_ms();
    uint64_t monotonic_ms = clock_monotonic_ms();
    steady->now_ms += (int64_t)(monotonic_ms - steady->monotonic_ms);
    steady->monotonic_ms = monotonic_ms;
    if (wall_ms > steady->now_ms)
        steady->now_ms = wall_ms;
    return steady->now_ms;
}

#endif
