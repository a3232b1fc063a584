/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-1-3 for tables that hold peers' bytes (a keyed hash defeats collision attacks), and a
 * fast mix for numbers. hash_stable() has a fixed key: only for what is stored or must agree for
 * ever. */
#ifndef CORE_BASE_HASH_H
#define CORE_BASE_HASH_H

#include "core/base/span.h"

struct hash_key {
    uint64_t k0, k1;
};

extern struct hash_key hash_process_key; /* drawn once at start by hash_init() */

void hash_init(void); /* before any thread starts; idempotent */
uint64_t hash_keyed(const struct hash_key *key, struct span bytes);
uint64_t hash_stable(struct span bytes);

static inline uint64_t hash_bytes(struct span bytes)
{
    return hash_keyed(&hash_process_key, bytes);
}

static inline uint64_t hash_u64(uint64_t value)
{
    value ^= value >> 33;
    value *= 0xff51afd7ed558ccdULL;
    value ^= value >> 33;
    value *= 0xc4ceb9fe1a85ec53ULL;
    return value ^ (value >> 33);
}

#endif
