/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of what HTTP peers send. */
#include "adapters/http/codec.h"

#include <strings.h>

#include "adapters/http/head.h"

enum { CHUNK_SKIPPED_MAX = 4096, CHUNK_DIGITS_MAX = 12 };

static int base64_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+' || c == '-')
        return 62;
    if (c == '/' || c == '_')
        return 63;
    return -1;
}

enum status base64_decode(struct span text, struct buf *to)
{
    size_t size = text.size;
    if (size > 0 && size % 4 == 0 && text.data[size - 1] == '=')
        size -= text.data[size - 2] == '=' ? 2 : 1;
    if (size % 4 == 1)
        return STATUS_MALFORMED;
    enum status status = buf_reserve(to, size / 4 * 3 + 2);
    if (status != STATUS_OK)
        return status;
    uint8_t *at = to->data + to->size;
    uint32_t bits = 0;
    unsigned count = 0;
    for (size_t i = 0; i < size; i++) {
        int value = base64_value(text.data[i]);
        if (value < 0)
            return STATUS_MALFORMED;
        bits = bits << 6 | (uint32_t)value;
        count += 6;
        if (count >= 8) {
            count -= 8;
            *at++ = (uint8_t)(bits >> count);
        }
    }
    to->size = (size_t)(at - to->data);
    return STATUS_OK;
}

enum status base64_encode(struct span bytes, struct buf *to)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (bytes.size == 0)
        return STATUS_OK;
    enum status status = buf_reserve(to, (bytes.size + 2) / 3 * 4);
    if (status != STATUS_OK)
        return status;
    uint8_t *at = to->data + to->size;
    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t left = bytes.size - i;
        uint32_t bits = (uint32_t)bytes.data[i] << 16;
        if (left > 1)
            bits |= (uint32_t)bytes.data[i + 1] << 8;
        if (left > 2)
            bits |= bytes.data[i + 2];
        *at++ = (uint8_t)alphabet[bits >> 18];
        *at++ = (uint8_t)alphabet[bits >> 12 & 63];
        *at++ = left > 1 ? (uint8_t)alphabet[bits >> 6 & 63] : '=';
        *at++ = left > 2 ? (uint8_t)alphabet[bits & 63] : '=';
    }
    to->size = (size_t)(at - to->data);
    return STATUS_OK;
}

enum status http_basic(struct span authorization, struct buf *storage, struct span *user,
                       struct span *password)
{
    static const char scheme[] = "basic ";
    size_t start = sizeof scheme - 1;
    if (authorization.size < start ||
        strncasecmp((const char *)authorization.data, scheme, start) != 0)
        return STATUS_UNSUPPORTED;
    while (start < authorization.size && authorization.data[start] == ' ')
        start++;
    size_t end = authorization.size;
    while (end > start && authorization.data[end - 1] == ' ')
        end--;
    size_t from = storage->size;
    enum status status = base64_decode(span_of(authorization.data + start, end - start), storage);
    if (status != STATUS_OK)
        return status;
    struct span pair = span_of(storage->data + from, storage->size - from);
    const uint8_t *colon = pair.size == 0 ? NULL : memchr(pair.data, ':', pair.size);
    if (colon == NULL)
        return STATUS_MALFORMED;
    *user = span_of(pair.data, (size_t)(colon - pair.data));
    *password = span_of(colon + 1, pair.size - user->size - 1);
    return STATUS_OK;
}

static enum status keep_token(struct span token, struct buf *storage, struct span *password)
{
    size_t from = storage->size;
    enum status status = buf_append(storage, token.data, token.size);
    if (status == STATUS_OK)
        *password = span_of(storage->data + from, token.size);
    return status;
}

enum status http_authorization(struct span authorization, struct buf *storage, struct span *user,
                               struct span *password)
{
    static const char scheme[] = "bearer ";
    size_t start = sizeof scheme - 1;
    if (authorization.size < start ||
        strncasecmp((const char *)authorization.data, scheme, start) != 0)
        return http_basic(authorization, storage, user, password);
    *user = (struct span){0};
    return keep_token(span_from(authorization, start), storage, password);
}

enum status http_credentials(const struct http_head *head, struct buf *storage, struct span *user,
                             struct span *password)
{
    *user = *password = (struct span){0};
    if (head->authorization.size > 0)
        return http_authorization(head->authorization, storage, user, password);
    return head->auth_token.size == 0 ? STATUS_OK : keep_token(head->auth_token, storage, password);
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The line with the size of a chunk: hexadecimal digits, maybe an extension. */
static enum status chunk_size_byte(struct http_chunks *chunks, uint8_t c)
{
    int value = hex_value(c);
    if (value >= 0) {
        if (++chunks->digits > CHUNK_DIGITS_MAX)
            return STATUS_TOO_LARGE;
        chunks->left = chunks->left << 4 | (uint64_t)value;
        return STATUS_OK;
    }
    if (chunks->digits == 0)
        return STATUS_MALFORMED;
    if (c == ';' || c == ' ' || c == '\t')
        chunks->state = CHUNK_EXTENSION;
    else if (c == '\r')
        chunks->state = CHUNK_SIZE_END;
    else
        return STATUS_MALFORMED;
    return STATUS_OK;
}

static enum status chunk_byte(struct http_chunks *chunks, uint8_t c)
{
    switch (chunks->state) {
    case CHUNK_SIZE:
        return chunk_size_byte(chunks, c);
    case CHUNK_EXTENSION:
        if (++chunks->skipped > CHUNK_SKIPPED_MAX)
            return STATUS_TOO_LARGE;
        if (c == '\r')
            chunks->state = CHUNK_SIZE_END;
        return c == '\n' ? STATUS_MALFORMED : STATUS_OK;
    case CHUNK_SIZE_END:
        chunks->state = chunks->left == 0 ? CHUNK_TRAILER : CHUNK_DATA;
        chunks->digits = 0;
        return c == '\n' ? STATUS_OK : STATUS_MALFORMED;
    case CHUNK_DATA_CR:
        chunks->state = CHUNK_DATA_LF;
        return c == '\r' ? STATUS_OK : STATUS_MALFORMED;
    case CHUNK_DATA_LF:
        chunks->state = CHUNK_SIZE;
        return c == '\n' ? STATUS_OK : STATUS_MALFORMED;
    case CHUNK_TRAILER:
        chunks->state = c == '\r' ? CHUNK_END_LF : CHUNK_TRAILER_LINE;
        return c == '\n' ? STATUS_MALFORMED : STATUS_OK;
    case CHUNK_TRAILER_LINE:
        if (++chunks->skipped > CHUNK_SKIPPED_MAX)
            return STATUS_TOO_LARGE;
        if (c == '\r')
            chunks->state = CHUNK_TRAILER_LF;
        return c == '\n' ? STATUS_MALFORMED : STATUS_OK;
    case CHUNK_TRAILER_LF:
        chunks->state = CHUNK_TRAILER;
        return c == '\n' ? STATUS_OK : STATUS_MALFORMED;
    case CHUNK_END_LF:
        chunks->state = CHUNK_COMPLETE;
        return c == '\n' ? STATUS_OK : STATUS_MALFORMED;
    case CHUNK_DATA:
    case CHUNK_COMPLETE:
        break;
    }
    return STATUS_OK;
}

enum status http_chunks_feed(struct http_chunks *chunks, struct span bytes, struct buf *body,
                             size_t *used)
{
    size_t at = 0;
    while (at < bytes.size && chunks->state != CHUNK_COMPLETE) {
        enum status status;
        if (chunks->state == CHUNK_DATA) {
            size_t size = bytes.size - at;
            if (size > chunks->left)
                size = (size_t)chunks->left;
            status = buf_append(body, bytes.data + at, size);
            at += size;
            chunks->left -= size;
            if (chunks->left == 0)
                chunks->state = CHUNK_DATA_CR;
        } else {
            status = chunk_byte(chunks, bytes.data[at++]);
        }
        if (status != STATUS_OK)
            return status;
    }
    *used = at;
    return STATUS_OK;
}

bool http_number(struct span text, uint64_t *number)
{
    if (text.size == 0 || text.size > 19)
        return false;
    uint64_t value = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(text.data[i] - '0');
    }
    *number = value;
    return true;
}

/* host without its port; false when what follows the colon is no port. */
static bool split_port(struct span *host)
{
    size_t end = host->size;
    while (end > 0 && host->data[end - 1] >= '0' && host->data[end - 1] <= '9')
        end--;
    if (end == 0 || host->data[end - 1] != ':')
        return true;
    if (host->size - end > 5)
        return false;
    host->size = end - 1;
    return true;
}

static bool is_text(struct span text, const char *expected)
{
    return text.size == strlen(expected) &&
           strncasecmp((const char *)text.data, expected, text.size) == 0;
}

/* A dotted quad that begins with 127. */
static bool is_127(struct span host)
{
    unsigned parts = 0, value = 0, digits = 0;
    for (size_t i = 0; i <= host.size; i++) {
        if (i == host.size || host.data[i] == '.') {
            if (digits == 0 || value > 255 || (parts == 0 && value != 127) || ++parts > 4)
                return false;
            value = digits = 0;
        } else if (host.data[i] >= '0' && host.data[i] <= '9' && digits < 3) {
            value = value * 10 + (unsigned)(host.data[i] - '0');
            digits++;
        } else {
            return false;
        }
    }
    return parts == 4;
}

bool http_host_is_loopback(struct span host)
{
    if (!split_port(&host))
        return false;
    return is_text(host, "localhost") || is_text(host, "[::1]") || is_127(host);
}

bool http_origin_is_own(struct span origin, struct span host)
{
    size_t scheme;
    if (origin.size > 8 && strncasecmp((const char *)origin.data, "https://", 8) == 0)
        scheme = 8;
    else if (origin.size > 7 && strncasecmp((const char *)origin.data, "http://", 7) == 0)
        scheme = 7;
    else
        return false;
    return origin.size - scheme == host.size &&
           strncasecmp((const char *)origin.data + scheme, (const char *)host.data, host.size) == 0;
}

bool http_origin_is_listed(struct span origin, struct span list)
{
    size_t at = 0;
    while (at < list.size) {
        size_t end = at;
        while (end < list.size && list.data[end] != ',' && list.data[end] != ' ')
            end++;
        if (end > at && end - at == origin.size &&
            strncasecmp((const char *)list.data + at, (const char *)origin.data, origin.size) == 0)
            return true;
        at = end + 1;
    }
    return false;
}
