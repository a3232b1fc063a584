/* SPDX-License-Identifier: Apache-2.0 */
/* A log-linear histogram of durations: 64 steps per power of two, so a value is off by 1.6 % at
 * most. */
#ifndef TESTS_BENCH_HISTOGRAM_H
#define TESTS_BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 6
#define HISTOGRAM_BUCKETS   (64u << HISTOGRAM_STEP_BITS)

struct histogram {
    uint64_t count;
    uint64_t buckets[HISTOGRAM_BUCKETS]; /* zeroed by the caller */
};

static inline void histogram_add(struct histogram *histogram, uint64_t value_ns)
{
    unsigned shift = 0;
    if (value_ns >> (HISTOGRAM_STEP_BITS + 1))
        shift = 63u - (unsigned)__builtin_clzll(value_ns) - HISTOGRAM_STEP_BITS;
    /* The step keeps its leading one, so each shift begins where the one before ended. */
    histogram->buckets[(shift << HISTOGRAM_STEP_BITS) + (value_ns >> shift)]++;
    histogram->count++;
}

/* The middle of the bucket that holds the given share (0..1) of the values, in microseconds; 0 when
 * empty. */
double histogram_us(const struct histogram *histogram, double share);

#endif
