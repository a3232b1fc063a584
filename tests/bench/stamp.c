/* SPDX-License-Identifier: Apache-2.0 */
/* Stamps as bytes and as hexadecimal digits. */
#include "tests/bench/stamp.h"

#include <string.h>

static const char digits[] = "0123456789abcdef";

void stamp_write(const struct stamp *stamp, bool text, uint8_t *to)
{
    uint8_t bytes[sizeof *stamp];
    memcpy(bytes, stamp, sizeof bytes);
    if (!text)
        memcpy(to, bytes, sizeof bytes);
    for (size_t i = 0; text && i < sizeof bytes; i++) {
        to[2 * i] = (uint8_t)digits[bytes[i] >> 4];
        to[2 * i + 1] = (uint8_t)digits[bytes[i] & 15];
    }
}

void stamp_read(struct stamp *stamp, bool text, const uint8_t *from)
{
    uint8_t bytes[sizeof *stamp];
    for (size_t i = 0; text && i < sizeof bytes; i++) {
        const char *high = strchr(digits, from[2 * i]), *low = strchr(digits, from[2 * i + 1]);
        bytes[i] =
            high == NULL || low == NULL ? 0 : (uint8_t)((high - digits) << 4 | (low - digits));
    }
    memcpy(stamp, text ? bytes : from, sizeof *stamp);
}
