/* SPDX-License-Identifier: Apache-2.0 */
/* Text form of a receipt: its 32 bytes and 3 of their CRC as 47 characters of URL-safe base64,
 * which are just 35 bytes without padding. The check finds typing mistakes; what a receipt may do
 * is checked by the group and by whoever resolved the group. */
#include "core/queue/group.h"

#include "core/base/crc.h"
#include "core/base/pack.h"

enum { RECEIPT_SIZE = 32, CHECKED_SIZE = 35, TEXT_LENGTH = RECEIPT_TEXT_SIZE - 1 };

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void check_of(const uint8_t bytes[CHECKED_SIZE], uint8_t check[3])
{
    uint32_t crc = crc32c(0, span_of(bytes, RECEIPT_SIZE));
    check[0] = (uint8_t)(crc >> 16);
    check[1] = (uint8_t)(crc >> 8);
    check[2] = (uint8_t)crc;
}

void receipt_format(const struct receipt *receipt, char text[RECEIPT_TEXT_SIZE])
{
    uint8_t bytes[CHECKED_SIZE + 1] = {0};
    store_u64(bytes, receipt->group);
    store_u64(bytes + 8, receipt->partition);
    store_u64(bytes + 16, receipt->offset);
    store_u32(bytes + 24, receipt->delivery);
    store_u32(bytes + 28, receipt->epoch);
    check_of(bytes, bytes + RECEIPT_SIZE);
    for (size_t i = 0; i < TEXT_LENGTH; i++) {
        size_t bit = i * 6;
        unsigned pair = (unsigned)bytes[bit / 8] << 8 | bytes[bit / 8 + 1];
        text[i] = digits[pair >> (10 - bit % 8) & 63];
    }
    text[TEXT_LENGTH] = 0;
}

static int digit_value(uint8_t digit)
{
    if (digit >= 'A' && digit <= 'Z')
        return digit - 'A';
    if (digit >= 'a' && digit <= 'z')
        return digit - 'a' + 26;
    if (digit >= '0' && digit <= '9')
        return digit - '0' + 52;
    return digit == '-' ? 62 : digit == '_' ? 63 : -1;
}

bool receipt_parse(struct span text, struct receipt *receipt)
{
    if (text.size != TEXT_LENGTH)
        return false;
    uint8_t bytes[CHECKED_SIZE + 1] = {0};
    for (size_t i = 0; i < TEXT_LENGTH; i++) {
        int value = digit_value(text.data[i]);
        if (value < 0)
            return false;
        size_t bit = i * 6;
        unsigned pair = (unsigned)value << (10 - bit % 8);
        bytes[bit / 8] = (uint8_t)(bytes[bit / 8] | pair >> 8);
        bytes[bit / 8 + 1] = (uint8_t)(bytes[bit / 8 + 1] | pair);
    }
    uint8_t check[3];
    check_of(bytes, check);
    if (memcmp(check, bytes + RECEIPT_SIZE, sizeof check) != 0 || bytes[CHECKED_SIZE] != 0)
        return false; /* the last character's two spare bits are 0: one text per receipt */
    *receipt = (struct receipt){
        .group = load_u64(bytes),
        .partition = load_u64(bytes + 8),
        .offset = load_u64(bytes + 16),
        .delivery = load_u32(bytes + 24),
        .epoch = load_u32(bytes + 28),
    };
    return true;
}
