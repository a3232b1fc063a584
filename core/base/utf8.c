/* SPDX-License-Identifier: Apache-2.0 */
/* Table 3-7 of the Unicode standard (well-formed byte sequences), with a fast path for ASCII. */
#include "core/base/utf8.h"

static bool is_continuation(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* The length of the well-formed sequence of two to four bytes at the front, or 0. */
static size_t sequence(const uint8_t *at, size_t left)
{
    uint8_t first = at[0];
    if (first < 0xc2 || first > 0xf4)
        return 0;
    if (first < 0xe0)
        return left >= 2 && is_continuation(at[1]) ? 2 : 0;
    if (left < 3 || !is_continuation(at[1]) || !is_continuation(at[2]))
        return 0;
    if (first < 0xf0) {
        bool overlong = first == 0xe0 && at[1] < 0xa0;
        bool surrogate = first == 0xed && at[1] > 0x9f;
        return overlong || surrogate ? 0 : 3;
    }
    if (left < 4 || !is_continuation(at[3]))
        return 0;
    bool overlong = first == 0xf0 && at[1] < 0x90;
    bool beyond = first == 0xf4 && at[1] > 0x8f;
    return overlong || beyond ? 0 : 4;
}

bool utf8_is_valid(struct span text)
{
    const uint8_t *at = text.data;
    size_t left = text.size;
    while (left > 0) {
        uint64_t eight;
        if (left >= sizeof eight) {
            memcpy(&eight, at, sizeof eight);
            if ((eight & 0x8080808080808080ULL) == 0) {
                at += sizeof eight;
                left -= sizeof eight;
                continue;
            }
        }
        size_t size = *at < 0x80 ? 1 : sequence(at, left);
        if (size == 0)
            return false;
        at += size;
        left -= size;
    }
    return true;
}

bool utf8_is_valid_no_nul(struct span text)
{
    bool has_nul = text.size != 0 && memchr(text.data, 0, text.size) != NULL;
    return !has_nul && utf8_is_valid(text);
}
