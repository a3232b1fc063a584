/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles of a log-linear histogram. */
#include "tests/bench/histogram.h"

double histogram_us(const struct histogram *histogram, double share)
{
    const uint64_t steps = 1u << HISTOGRAM_STEP_BITS;
    uint64_t wanted = (uint64_t)(share * (double)histogram->count);
    uint64_t seen = 0;
    for (uint64_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen <= wanted)
            continue;
        if (i < 2 * steps)
            return (double)i / 1000.0;
        uint64_t shift = (i >> HISTOGRAM_STEP_BITS) - 1;
        uint64_t low = (i - (shift << HISTOGRAM_STEP_BITS)) << shift;
        return ((double)low + (double)(1ull << shift) / 2) / 1000.0;
    }
    return 0;
}
