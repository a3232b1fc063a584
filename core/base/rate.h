/* SPDX-License-Identifier: Apache-2.0 */
/* How often something may happen: so many times a second, in bursts of up to one second's worth.
 * One number of memory, and none of time that passes unused. Zeroed, it has seen nothing. */
#ifndef CORE_BASE_RATE_H
#define CORE_BASE_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct rate {
    uint64_t paid_us; /* until when what has happened pays */
};

/* False: too often; it does not count then. per_second > 0. */
static inline bool rate_take(struct rate *rate, uint64_t now_ms, uint32_t per_second)
{
    enum { SECOND_US = 1000000 };
    uint64_t now_us = now_ms * 1000;
    uint64_t from_us = rate->paid_us > now_us ? rate->paid_us : now_us;
    uint64_t price_us = per_second >= SECOND_US ? 1 : SECOND_US / per_second;
    if (from_us + price_us > now_us + SECOND_US)
        return false;
    rate->paid_us = from_us + price_us;
    return true;
}

#endif
