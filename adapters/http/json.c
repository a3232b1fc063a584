/* SPDX-License-Identifier: Apache-2.0 */
/* Writing JSON. */
#include "adapters/http/json.h"

void json_put(struct buf *to, const char *text)
{
    buf_append(to, text, strlen(text));
}

static void put_escaped(struct buf *to, uint8_t c)
{
    static const char hex[] = "0123456789abcdef";
    char escape[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    size_t size = 2;
    switch (c) {
    case '"':
    case '\\':
        escape[1] = (char)c;
        break;
    case '\n':
        escape[1] = 'n';
        break;
    case '\r':
        escape[1] = 'r';
        break;
    case '\t':
        escape[1] = 't';
        break;
    default:
        size = 6;
        break;
    }
    buf_append(to, escape, size);
}

void json_put_text(struct buf *to, struct span text)
{
    json_put(to, "\"");
    size_t start = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        if (i > start)
            buf_append(to, text.data + start, i - start);
        put_escaped(to, c);
        start = i + 1;
    }
    if (text.size > start)
        buf_append(to, text.data + start, text.size - start);
    json_put(to, "\"");
}

void json_put_text_or_null(struct buf *to, const char *text)
{
    if (text == NULL)
        json_put(to, "null");
    else
        json_put_text(to, span_from_text(text));
}

void json_put_number(struct buf *to, int64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    uint64_t value = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    if (number < 0)
        digits[--at] = '-';
    buf_append(to, digits + at, sizeof digits - at);
}

bool json_is_value(struct span text)
{
    json_error_t error;
    json_t *value = json_loadb((const char *)text.data, text.size,
                               JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &error);
    json_decref(value);
    return value != NULL;
}
