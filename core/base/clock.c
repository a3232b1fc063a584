/* SPDX-License-Identifier: Apache-2.0 */
/* The system's clocks, replaceable as a pair. */
#include "core/base/clock.h"

#include <stddef.h>
#include <time.h>

static uint64_t system_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int64_t system_wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static const struct clock_source system_source = {
    .monotonic_ns = system_monotonic_ns,
    .wall_ms = system_wall_ms,
};

static const struct clock_source *clock_current = &system_source;

void clock_use(const struct clock_source *source)
{
    clock_current = source != NULL ? source : &system_source;
}

uint64_t clock_monotonic_ns(void)
{
    return clock_current->monotonic_ns();
}

uint64_t clock_monotonic_ms(void)
{
    return clock_monotonic_ns() / 1000000;
}

int64_t clock_wall_ms(void)
{
    return clock_current->wall_ms();
}
