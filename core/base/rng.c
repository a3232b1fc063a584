/* SPDX-License-Identifier: Apache-2.0 */
/* getrandom(2), or splitmix64 from a seed. The seeded state moves by an atomic addition, so it
 * needs no lock and stays repeatable where one thread draws. */
#include "core/base/rng.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "core/base/check.h"

static atomic_bool seeded;
static _Atomic uint64_t seeded_state;

void rng_seed(uint64_t seed)
{
    atomic_store(&seeded_state, seed);
    atomic_store(&seeded, true);
}

static uint64_t seeded_next(void)
{
    uint64_t value = atomic_fetch_add(&seeded_state, 0x9e3779b97f4a7c15ULL) + 0x9e3779b97f4a7c15ULL;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    return value ^ (value >> 31);
}

static void seeded_bytes(uint8_t *at, size_t size)
{
    while (size > 0) {
        uint64_t value = seeded_next();
        size_t part = size < sizeof value ? size : sizeof value;
        memcpy(at, &value, part);
        at += part;
        size -= part;
    }
}

void rng_bytes(void *to, size_t size)
{
    uint8_t *at = to;
    if (atomic_load_explicit(&seeded, memory_order_relaxed)) {
        seeded_bytes(at, size);
        return;
    }
    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);
        CHECK(got > 0 || errno == EINTR);
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        }
    }
}

uint64_t rng_u64(void)
{
    uint64_t value;
    rng_bytes(&value, sizeof value);
    return value;
}

/* Draws again in the part of the range that would favour small numbers. */
uint64_t rng_below(uint64_t bound)
{
    CHECK(bound > 0);
    uint64_t unfair = (0 - bound) % bound;
    uint64_t value;
    do
        value = rng_u64();
    while (value < unfair);
    return value % bound;
}

void rng_uuid(char text[37])
{
    uint8_t b[16];
    rng_bytes(b, sizeof b);
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    snprintf(text, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
             b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
             b[14], b[15]);
}
