/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C eight bytes at a time where the processor computes it, else by a table of sixteen. */
#include "core/base/crc.h"

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#define STEP_U8(crc, value)  _mm_crc32_u8((crc), (value))
#define STEP_U64(crc, value) ((uint32_t)_mm_crc32_u64((crc), (value)))
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#define STEP_U8(crc, value)  __crc32cb((crc), (value))
#define STEP_U64(crc, value) __crc32cd((crc), (value))
#else
static const uint32_t nibbles[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t step_u8(uint32_t crc, uint8_t value)
{
    crc ^= value;
    crc = (crc >> 4) ^ nibbles[crc & 15];
    return (crc >> 4) ^ nibbles[crc & 15];
}
#define STEP_U8(crc, value) step_u8((crc), (value))
#endif

uint32_t crc32c(uint32_t crc, struct span bytes)
{
    const uint8_t *at = bytes.data;
    size_t left = bytes.size;
    crc = ~crc;
#ifdef STEP_U64
    for (; left >= 8; at += 8, left -= 8) {
        uint64_t value;
        memcpy(&value, at, sizeof value);
        crc = STEP_U64(crc, value);
    }
#endif
    for (; left > 0; at++, left--)
        crc = STEP_U8(crc, *at);
    return ~crc;
}
