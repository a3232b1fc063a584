/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers for random tests, the same for the same seed. */
#ifndef TESTS_UNIT_DICE_H
#define TESTS_UNIT_DICE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t seed;

static inline uint64_t pick(uint64_t bound)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (seed >> 33) % bound;
}

/* SHOW_SEEDS in the environment says which one it is that does not end. */
static inline void each_seed(uint64_t count, void (*run)(uint64_t first))
{
    for (uint64_t i = 0; i < count; i++) {
        if (getenv("SHOW_SEEDS") != NULL)
            printf("seed %llu\n", (unsigned long long)i);
        run(i);
    }
}

#endif
