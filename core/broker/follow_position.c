/* SPDX-License-Identifier: Apache-2.0 */
/* Positions from text: the marks are sorted once, so that each lane finds its own in a few steps.
 */
#include "core/broker/follow_position.h"

#include <stdlib.h>

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

static int compare(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

/* What is equal keeps the order in which it lies there: qsort() alone would not say so. */
struct sorted {
    struct follow_mark mark;
    uint32_t place;
};

static int by_partition(const void *a, const void *b)
{
    const struct sorted *x = a, *y = b;
    int order = compare(x->mark.partition, y->mark.partition);
    return order != 0 ? order : compare(x->place, y->place);
}

enum status follow_position_read(struct span text, struct follow_position *position)
{
    struct sorted sorted[LIMIT_FOLLOW_PARTITIONS];
    uint32_t count = 0;
    position->count = 0;
    do {
        struct follow_mark mark;
        if (!take_place(&text, &mark.partition, &mark.next))
            return STATUS_INVALID;
        if (count == LIMIT_FOLLOW_PARTITIONS)
            return STATUS_TOO_LARGE;
        sorted[count] = (struct sorted){.mark = mark, .place = count};
        count++;
    } while (text.size > 0);
    qsort(sorted, count, sizeof *sorted, by_partition);
    for (uint32_t i = 0; i < count; i++)
        if (i == 0 || sorted[i].mark.partition != sorted[i - 1].mark.partition)
            position->marks[position->count++] = sorted[i].mark;
    return STATUS_OK;
}

static int mark_order(const void *key, const void *mark)
{
    return compare(*(const uint64_t *)key, ((const struct follow_mark *)mark)->partition);
}

bool follow_position_find(const struct follow_position *position, uint64_t partition,
                          uint64_t *next)
{
    const struct follow_mark *mark =
        bsearch(&partition, position->marks, position->count, sizeof *position->marks, mark_order);
    if (mark == NULL)
        return false;
    *next = mark->next;
    return true;
}
