/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-1-3 (Aumasson, Bernstein): the variant for hash tables, half the price of 2-4. */
#include "core/base/hash.h"

#include "core/base/rng.h"

struct hash_key hash_process_key;

/* ASCII "polylog " and "stable k". Never changes: stored data depends on it. */
static const struct hash_key stable_key = {0x706f6c796c6f6720ULL, 0x737461626c65206bULL};

void hash_init(void)
{
    if (hash_process_key.k0 == 0 && hash_process_key.k1 == 0)
        rng_bytes(&hash_process_key, sizeof hash_process_key);
}

static inline uint64_t rotate(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

static inline void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
}

/* Little-endian loads as the algorithm defines them, so that hash_stable agrees everywhere. */
static inline uint64_t load_little(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

/* The last left (below 8) of size bytes, of which at is the first. */
static inline uint64_t load_last(const uint8_t *at, size_t left, size_t size)
{
    if (left == 0)
        return 0;
    if (size >= 8) /* reads over bytes that were taken, and shifts them out */
        return load_little(at + left - 8) >> (64 - 8 * left);
    uint64_t value = 0;
    for (size_t i = 0; i < left; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

uint64_t hash_keyed(const struct hash_key *key, struct span bytes)
{
    uint64_t v[4] = {
        key->k0 ^ 0x736f6d6570736575ULL,
        key->k1 ^ 0x646f72616e646f6dULL,
        key->k0 ^ 0x6c7967656e657261ULL,
        key->k1 ^ 0x7465646279746573ULL,
    };
    const uint8_t *at = bytes.data;
    size_t left = bytes.size;
    for (; left >= 8; at += 8, left -= 8)
        sip_word(v, load_little(at));
    sip_word(v, (uint64_t)bytes.size << 56 | load_last(at, left, bytes.size));
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t hash_stable(struct span bytes)
{
    return hash_keyed(&stable_key, bytes);
}
