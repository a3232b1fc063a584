/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers for random tests, the same for the same seed. */
#ifndef TESTS_UNIT_DICE_H
#define TESTS_UNIT_DICE_H

#include <stdint.h>

static uint64_t seed;

static inline uint64_t pick(uint64_t bound)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (seed >> 33) % bound;
}

#endif
