/* SPDX-License-Identifier: Apache-2.0 */
#include "core/broker/follow_position.h"

static bool take_hex(struct span *text, uint64_t *number)
{
    size_t size = 0;
    *number = 0;
    for (; size < text->size && size < 16; size++) {
        uint8_t c = text->data[size];
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)c - '0'
                         : c >= 'a' && c <= 'f' ? (unsigned)c - 'a' + 10
                                                : 16;
        if (digit == 16)
            break;
        *number = *number << 4 | digit;
    }
    *text = span_from(*text, size);
    return size > 0;
}

static bool take_byte(struct span *text, uint8_t byte)
{
    if (text->size == 0 || text->data[0] != byte)
        return false;
    *text = span_from(*text, 1);
    return true;
}

/* One "partition.next" off the front; false: it is no position. */
static bool take_place(struct span *text, uint64_t *partition, uint64_t *next)
{
    return take_hex(text, partition) && take_byte(text, '.') && take_hex(text, next) &&
           (text->size == 0 || (take_byte(text, '_') && text->size > 0));
}

bool follow_position_is_valid(struct span text)
{
    uint64_t partition, next;
    bool valid = text.size > 0;
    while (valid && text.size > 0)
        valid = take_place(&text, &partition, &next);
    return valid;
}

bool follow_position_find(struct span text, uint64_t partition, uint64_t *next)
{
    uint64_t named;
    while (text.size > 0 && take_place(&text, &named, next))
        if (named == partition)
            return true;
    return false;
}
