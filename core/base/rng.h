/* SPDX-License-Identifier: Apache-2.0 */
/* Randomness behind a seam: the system's generator, or a seed in the simulator. */
#ifndef CORE_BASE_RNG_H
#define CORE_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

void rng_seed(uint64_t seed); /* simulator and tests: everything below becomes repeatable */
void rng_bytes(void *to, size_t size); /* any thread; getrandom(2) unless seeded */
uint64_t rng_u64(void);
uint64_t rng_below(uint64_t bound); /* uniform in [0, bound); bound > 0 */
void rng_uuid(char text[37]);       /* version 4, lower case, NUL-terminated */

#endif
