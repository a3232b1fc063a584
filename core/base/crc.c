/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C eight bytes at a time where the processor computes it, in three lanes where there are
 * many, else by a table of sixteen. */
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

#ifdef STEP_U64
/* An instruction waits for the result of the one before, though three could run at once. So three
 * lanes side by side, each as if it came first, and each result then moved past what follows. */
enum { LANE_BYTES = 2048 };

/* By bit of the CRC: what it becomes behind LANE_BYTES of zeros. */
static const uint32_t past_lane[32] = {
    0xf7506984, 0xeb4ca5f9, 0xd3753d03, 0xa3060cf7, 0x43e06f1f, 0x87c0de3e, 0x0a6dca8d, 0x14db951a,
    0x29b72a34, 0x536e5468, 0xa6dca8d0, 0x48552751, 0x90aa4ea2, 0x24b8ebb5, 0x4971d76a, 0x92e3aed4,
    0x202b2b59, 0x405656b2, 0x80acad64, 0x04b52c39, 0x096a5872, 0x12d4b0e4, 0x25a961c8, 0x4b52c390,
    0x96a58720, 0x28a778b1, 0x514ef162, 0xa29de2c4, 0x40d7b379, 0x81af66f2, 0x06b2bb15, 0x0d65762a,
};

static uint32_t move_past_lane(uint32_t crc)
{
    uint32_t moved = 0;
    for (unsigned i = 0; i < 32; i++)
        moved ^= past_lane[i] & -(crc >> i & 1);
    return moved;
}

static inline uint64_t load_8(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t three_lanes(uint32_t crc, const uint8_t *at)
{
    uint32_t second = 0, third = 0;
    for (const uint8_t *end = at + LANE_BYTES; at < end; at += 8) {
        crc = STEP_U64(crc, load_8(at));
        second = STEP_U64(second, load_8(at + LANE_BYTES));
        third = STEP_U64(third, load_8(at + 2 * (size_t)LANE_BYTES));
    }
    return move_past_lane(move_past_lane(crc) ^ second) ^ third;
}
#endif

uint32_t crc32c(uint32_t crc, struct span bytes)
{
    const uint8_t *at = bytes.data;
    size_t left = bytes.size;
    crc = ~crc;
#ifdef STEP_U64
    enum { LANES_BYTES = 3 * LANE_BYTES };
    for (; left >= LANES_BYTES; at += LANES_BYTES, left -= LANES_BYTES)
        crc = three_lanes(crc, at);
    for (; left >= 8; at += 8, left -= 8)
        crc = STEP_U64(crc, load_8(at));
#endif
    for (; left > 0; at++, left--)
        crc = STEP_U8(crc, *at);
    return ~crc;
}
