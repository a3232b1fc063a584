/* SPDX-License-Identifier: Apache-2.0 */
/* Zigzag varints as records hold them, inline: a record is little else. Internal to core/log. */
#ifndef CORE_LOG_VARINT_H
#define CORE_LOG_VARINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint64_t zigzag(int64_t value)
{
    return ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
}

/* Bytes that the varint of an already zigzagged value takes: one for every seven bits. */
static inline size_t varint_size(uint64_t zigzagged)
{
    unsigned top = 63u - (unsigned)__builtin_clzll(zigzagged | 1);
    return (top * 9 + 73) / 64;
}

/* Unchecked; returns the byte after. */
static inline uint8_t *varint_put(uint8_t *at, uint64_t zigzagged)
{
    while (zigzagged >= 0x80) {
        *at++ = (uint8_t)(zigzagged | 0x80);
        zigzagged >>= 7;
    }
    *at++ = (uint8_t)zigzagged;
    return at;
}

/* Returns the byte after, or NULL when the varint runs over end or is longer than ten bytes. */
static inline const uint8_t *varint_take(const uint8_t *at, const uint8_t *end, int64_t *value)
{
    if (at < end && *at < 0x80) { /* nearly always */
        *value = (*at >> 1) ^ -(*at & 1);
        return at + 1;
    }
    if (end - at >= 2 && at[1] < 0x80) { /* most of the rest */
        unsigned two = (unsigned)(at[0] & 0x7f) | (unsigned)at[1] << 7;
        *value = (int64_t)(two >> 1) ^ -(int64_t)(two & 1);
        return at + 2;
    }
    uint64_t zigzagged = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (at == end)
            return NULL;
        uint8_t byte = *at++;
        zigzagged |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = (int64_t)((zigzagged >> 1) ^ (0 - (zigzagged & 1)));
            return shift == 63 && byte > 1 ? NULL : at;
        }
    }
    return NULL;
}

#endif
