/* SPDX-License-Identifier: Apache-2.0 */
/* Time behind a seam: the simulator replaces the source before anything else runs. */
#ifndef CORE_BASE_CLOCK_H
#define CORE_BASE_CLOCK_H

#include <stdint.h>

struct clock_source {
    uint64_t (*monotonic_ns)(void);
    int64_t (*wall_ms)(void); /* since 1970-01-01 UTC */
};

void clock_use(const struct clock_source *source); /* NULL: the system's; before threads start */
uint64_t clock_monotonic_ns(void);
uint64_t clock_monotonic_ms(void);
int64_t clock_wall_ms(void);

#endif
