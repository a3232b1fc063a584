/* SPDX-License-Identifier: Apache-2.0 */
/* Reads what a peer sends as frames and in its handshake, strictly: a server that forgives is one
 * that two readers understand differently. */
#include "adapters/http/frame.h"

#include <strings.h>

#include "core/base/pack.h"
#include "core/base/utf8.h"

enum { LAST = 0x80, COMPRESSED = 0x40, RESERVED = 0x30, KIND = 0x0f, CONTROL = 0x08 };
enum { MASKED = 0x80, SHORT_MAX = 125, SIZE_16 = 126, SIZE_64 = 127, MASK_BYTES = 4 };

static bool kind_is_known(unsigned kind)
{
    return kind <= FRAME_BINARY || (kind >= FRAME_CLOSE && kind <= FRAME_PONG);
}

enum status frame_read(struct span bytes, struct frame *frame, size_t *head)
{
    *head = 0;
    if (bytes.size < 2)
        return STATUS_OK;
    unsigned first = bytes.data[0], size = bytes.data[1] & (MASKED - 1);
    if ((first & RESERVED) != 0 || !kind_is_known(first & KIND) || (bytes.data[1] & MASKED) == 0)
        return STATUS_MALFORMED;
    bool control = (first & CONTROL) != 0;
    if (control && ((first & LAST) == 0 || (first & COMPRESSED) != 0 || size > FRAME_CONTROL_MAX))
        return STATUS_MALFORMED;
    size_t extra = size == SIZE_64 ? 8 : size == SIZE_16 ? 2 : 0;
    if (bytes.size < 2 + extra + MASK_BYTES)
        return STATUS_OK;
    frame->size = size;
    if (size == SIZE_16)
        frame->size = load_u16(bytes.data + 2);
    else if (size == SIZE_64)
        frame->size = load_u64(bytes.data + 2);
    if ((size == SIZE_16 && frame->size <= SHORT_MAX) ||
        (size == SIZE_64 && (frame->size <= UINT16_MAX || frame->size > INT64_MAX)))
        return STATUS_MALFORMED;
    frame->kind = (enum frame_kind)(first & KIND);
    frame->last = (first & LAST) != 0;
    frame->compressed = (first & COMPRESSED) != 0;
    memcpy(frame->mask, bytes.data + 2 + extra, MASK_BYTES);
    *head = 2 + extra + MASK_BYTES;
    return STATUS_OK;
}

size_t frame_write(enum frame_kind kind, bool last, bool compressed, uint64_t size, uint8_t *to)
{
    to[0] = (uint8_t)((unsigned)kind | (last ? LAST : 0u) | (compressed ? COMPRESSED : 0u));
    if (size <= SHORT_MAX) {
        to[1] = (uint8_t)size;
        return 2;
    }
    if (size <= UINT16_MAX) {
        to[1] = SIZE_16;
        store_u16(to + 2, (uint16_t)size);
        return 4;
    }
    to[1] = SIZE_64;
    store_u64(to + 2, size);
    return 10;
}

void frame_unmask(uint8_t *to, const uint8_t *from, size_t size, const uint8_t mask[4],
                  uint64_t begun)
{
    uint8_t key[8];
    for (unsigned i = 0; i < sizeof key; i++)
        key[i] = mask[(begun + i) % 4];
    uint64_t wide, eight;
    memcpy(&wide, key, sizeof wide);
    size_t at = 0;
    for (; size - at >= sizeof wide; at += sizeof wide) {
        memcpy(&eight, from + at, sizeof eight);
        eight ^= wide;
        memcpy(to + at, &eight, sizeof eight);
    }
    for (; at < size; at++)
        to[at] = from[at] ^ key[at % 4];
}

enum status frame_follow(struct frame_order *order, const struct frame *frame, bool compression)
{
    bool begins = frame->kind != FRAME_CONTINUATION;
    if (begins == order->open || (frame->compressed && (!begins || !compression)))
        return STATUS_MALFORMED;
    if (begins) {
        order->kind = frame->kind;
        order->compressed = frame->compressed;
    }
    order->open = !frame->last;
    return STATUS_OK;
}

static bool code_may_be_sent(unsigned code)
{
    return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
           (code >= 3000 && code <= 4999);
}

enum status close_read(struct span payload, unsigned *code)
{
    *code = CLOSE_NONE;
    if (payload.size == 0)
        return STATUS_OK;
    if (payload.size == 1)
        return STATUS_MALFORMED;
    unsigned given = load_u16(payload.data);
    if (!code_may_be_sent(given) || !utf8_is_valid(span_from(payload, 2)))
        return STATUS_MALFORMED;
    *code = given;
    return STATUS_OK;
}

/* ---------------------------------------------------------------- the handshake */

static bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t';
}

static struct span trimmed(struct span text)
{
    while (text.size > 0 && is_blank(text.data[0]))
        text = span_from(text, 1);
    while (text.size > 0 && is_blank(text.data[text.size - 1]))
        text.size--;
    return text;
}

/* Up to the separator, or all; what is between quotes separates nothing. */
static struct span cut(struct span *rest, uint8_t separator)
{
    bool quoted = false;
    size_t at = 0;
    for (; at < rest->size && (quoted || rest->data[at] != separator); at++) {
        if (rest->data[at] == '"')
            quoted = !quoted;
        else if (quoted && rest->data[at] == '\\' && at + 1 < rest->size)
            at++;
    }
    struct span part = span_of(rest->data, at);
    *rest = span_from(*rest, at + 1);
    return trimmed(part);
}

bool list_next(struct span *list, struct span *element)
{
    while (list->size > 0) {
        *element = cut(list, ',');
        if (element->size > 0)
            return true;
    }
    return false;
}

static bool is_base64(uint8_t c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/';
}

bool websocket_key_is_valid(struct span key)
{
    enum { KEY_TEXT = 24, KEY_DIGITS = 22 };
    if (key.size != KEY_TEXT || key.data[22] != '=' || key.data[23] != '=')
        return false;
    for (size_t i = 0; i < KEY_DIGITS; i++)
        if (!is_base64(key.data[i]))
            return false;
    return true;
}

static bool named(struct span text, const char *name)
{
    return text.size == strlen(name) && strncasecmp((const char *)text.data, name, text.size) == 0;
}

/* 8 to 15, with or without quotes; 0: something else. */
static uint8_t window_bits(struct span text)
{
    if (text.size >= 2 && text.data[0] == '"' && text.data[text.size - 1] == '"')
        text = span_of(text.data + 1, text.size - 2);
    if (text.size == 1 && (text.data[0] == '8' || text.data[0] == '9'))
        return (uint8_t)(text.data[0] - '0');
    if (text.size == 2 && text.data[0] == '1' && text.data[1] >= '0' && text.data[1] <= '5')
        return (uint8_t)(10 + text.data[1] - '0');
    return 0;
}

enum parameter {
    NO_SERVER_CONTEXT = 1,
    NO_CLIENT_CONTEXT = 2,
    SERVER_WINDOW = 4,
    CLIENT_WINDOW = 8
};

/* One parameter of an offer; seen holds those before it, because none may come twice. */
static bool take_parameter(struct span text, unsigned *seen, struct deflate_terms *terms)
{
    struct span value = text, name = cut(&value, '=');
    bool has_value = text.size > 0 && memchr(text.data, '=', text.size) != NULL;
    unsigned parameter = named(name, "server_no_context_takeover")   ? NO_SERVER_CONTEXT
                         : named(name, "client_no_context_takeover") ? NO_CLIENT_CONTEXT
                         : named(name, "server_max_window_bits")     ? SERVER_WINDOW
                         : named(name, "client_max_window_bits")     ? CLIENT_WINDOW
                                                                     : 0;
    if (parameter == 0 || (*seen & parameter) != 0)
        return false;
    *seen |= parameter;
    uint8_t bits = has_value ? window_bits(trimmed(value)) : 0;
    switch (parameter) {
    case SERVER_WINDOW:
        terms->server_window_bits = bits;
        terms->say_server_window = true;
        return bits != 0;
    case CLIENT_WINDOW:
        return !has_value || bits != 0;
    default:
        return !has_value;
    }
}

static bool take_offer(struct span offer, struct deflate_terms *terms)
{
    unsigned seen = 0;
    *terms = (struct deflate_terms){.server_window_bits = 15};
    if (!named(cut(&offer, ';'), "permessage-deflate"))
        return false;
    while (offer.size > 0)
        if (!take_parameter(cut(&offer, ';'), &seen, terms))
            return false;
    terms->agreed = true;
    return true;
}

void deflate_negotiate(struct span offers, struct deflate_terms *terms)
{
    struct span offer;
    while (list_next(&offers, &offer))
        if (take_offer(offer, terms))
            return;
    *terms = (struct deflate_terms){0};
}
