/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the head of an HTTP/1 request. What a lenient reader would repair is refused: two readers
 * that repair differently are how requests are smuggled. */
#include "adapters/http/head.h"

#include <strings.h>

#include "adapters/http/codec.h"
#include "adapters/http/frame.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"

size_t http_head_size(struct span bytes)
{
    if (bytes.size < 4)
        return 0;
    const uint8_t *end = memmem(bytes.data, bytes.size, "\r\n\r\n", 4);
    return end == NULL ? 0 : (size_t)(end - bytes.data) + 4;
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool http_decode(struct span *text, bool form)
{
    if (text->size == 0)
        return true;
    uint8_t *from = (uint8_t *)(uintptr_t)text->data, *to = from, *end = from + text->size;
    bool plain = true;
    while (from < end) {
        uint8_t c = *from++;
        if (c == '%') {
            int high = end - from < 2 ? -1 : hex_value(from[0]);
            int low = end - from < 2 ? -1 : hex_value(from[1]);
            if (high < 0 || low < 0)
                return false;
            c = (uint8_t)(high << 4 | low);
            from += 2;
        } else if (c == '+' && form) {
            c = ' ';
        }
        plain &= c != 0 && c < 0x80;
        *to++ = c;
    }
    text->size = (size_t)(to - text->data);
    return plain || utf8_is_valid_no_nul(*text);
}

static bool is_token_byte(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static bool same_text(struct span text, const char *expected, size_t size)
{
    return text.size == size && strncasecmp((const char *)text.data, expected, size) == 0;
}

/* ---------------------------------------------------------------- request line */

static bool read_method(struct http_head *head, struct span name)
{
    static const char *const names[HTTP_METHODS] = {
        [HTTP_GET] = "GET",        [HTTP_HEAD] = "HEAD",   [HTTP_POST] = "POST",
        [HTTP_PUT] = "PUT",        [HTTP_PATCH] = "PATCH", [HTTP_DELETE] = "DELETE",
        [HTTP_OPTIONS] = "OPTIONS"};
    for (unsigned i = 0; i < HTTP_METHODS; i++) {
        if (span_is(name, names[i])) {
            head->method = (enum http_method)i;
            return true;
        }
    }
    return false;
}

static bool read_query(struct http_head *head, struct span query)
{
    size_t at = 0;
    while (at < query.size) {
        const uint8_t *ampersand = memchr(query.data + at, '&', query.size - at);
        size_t end = ampersand == NULL ? query.size : (size_t)(ampersand - query.data);
        struct span pair = span_of(query.data + at, end - at);
        at = end + 1;
        if (pair.size == 0)
            continue;
        if (head->query_count == HTTP_QUERY_MAX)
            return false;
        const uint8_t *equals = memchr(pair.data, '=', pair.size);
        size_t name = equals == NULL ? pair.size : (size_t)(equals - pair.data);
        struct http_pair *read = &head->query[head->query_count++];
        *read = (struct http_pair){span_of(pair.data, name), span_from(pair, name + 1)};
        if (!http_decode(&read->name, true) || !http_decode(&read->value, true))
            return false;
    }
    return true;
}

/* "/path?query", or with "http://host" before it, as proxies ask. */
static unsigned read_target(struct http_head *head, struct span target)
{
    for (size_t i = 0; i < target.size; i++) {
        if (target.data[i] <= ' ' || target.data[i] >= 0x7f)
            return 400;
    }
    const char *text = (const char *)target.data;
    size_t scheme = target.size > 7 && strncasecmp(text, "http://", 7) == 0    ? 7
                    : target.size > 8 && strncasecmp(text, "https://", 8) == 0 ? 8
                                                                               : 0;
    if (scheme > 0) {
        size_t slash = scheme;
        while (slash < target.size && target.data[slash] != '/')
            slash++;
        head->host = span_of(target.data + scheme, slash - scheme);
        target = span_from(target, slash);
    }
    if (target.size == 0 || target.data[0] != '/')
        return 400;
    const uint8_t *question = memchr(target.data, '?', target.size);
    size_t path = question == NULL ? target.size : (size_t)(question - target.data);
    head->path = span_of(target.data, path);
    return read_query(head, span_from(target, path + 1)) ? 0 : 400;
}

static unsigned read_request_line(struct http_head *head, struct span line)
{
    const uint8_t *first = memchr(line.data, ' ', line.size);
    const uint8_t *last = memrchr(line.data, ' ', line.size);
    if (first == NULL || first == last)
        return 400;
    struct span method = span_of(line.data, (size_t)(first - line.data));
    struct span version = span_from(line, (size_t)(last - line.data) + 1);
    if (version.size != 8 || memcmp(version.data, "HTTP/", 5) != 0 || version.data[6] != '.')
        return 400;
    if (version.data[5] != '1')
        return 505;
    head->old = version.data[7] == '0';
    head->keep_alive = !head->old;
    for (size_t i = 0; i < method.size; i++) {
        if (!is_token_byte(method.data[i]))
            return 400;
    }
    unsigned code = read_target(head, span_of(first + 1, (size_t)(last - first) - 1));
    if (code != 0)
        return code;
    return read_method(head, method) ? 0 : 501;
}

/* ---------------------------------------------------------------- headers */

/* What has been seen, to refuse a second one. */
struct seen {
    bool host, size, coding, key;
};

static void read_connection(struct http_head *head, struct span value)
{
    struct span option;
    while (list_next(&value, &option)) {
        if (same_text(option, "close", 5))
            head->keep_alive = false;
        else if (same_text(option, "keep-alive", 10) && head->old)
            head->keep_alive = true;
        else if (same_text(option, "upgrade", 7))
            head->upgrades = true;
    }
}

static void read_upgrade(struct http_head *head, struct span value)
{
    struct span protocol;
    while (list_next(&value, &protocol))
        head->websocket |= same_text(protocol, "websocket", 9);
}

static unsigned read_websocket(struct http_head *head, struct seen *seen, struct span name,
                               struct span value)
{
    struct http_lists *lists = same_text(name, "protocol", 8)      ? &head->protocols
                               : same_text(name, "extensions", 10) ? &head->extensions
                                                                   : NULL;
    if (lists != NULL) {
        if (lists->count == HTTP_LISTS_MAX)
            return 400;
        lists->items[lists->count++] = value;
    } else if (same_text(name, "key", 3)) {
        if (seen->key)
            return 400;
        seen->key = true;
        head->websocket_key = value;
    } else if (same_text(name, "version", 7)) {
        head->websocket_version = value;
    }
    return 0;
}

static unsigned read_framing(struct http_head *head, struct seen *seen, struct span name,
                             struct span value)
{
    if (same_text(name, "content-length", 14)) {
        if (seen->size || !http_number(value, &head->body_size))
            return 400;
        seen->size = true;
    } else {
        if (seen->coding)
            return 400;
        if (!same_text(value, "chunked", 7))
            return 501;
        seen->coding = head->chunked = true;
    }
    return seen->size && seen->coding ? 400 : 0;
}

static unsigned read_header(struct http_head *head, struct seen *seen, struct span name,
                            struct span value)
{
    static const char websocket[] = "sec-websocket-";
    size_t prefix = sizeof websocket - 1;
    if (name.size > prefix && same_text(span_of(name.data, prefix), websocket, prefix))
        return read_websocket(head, seen, span_from(name, prefix), value);
    switch (name.size) {
    case 4:
        if (same_text(name, "host", 4)) {
            if (seen->host)
                return 400;
            seen->host = true;
            if (head->host.size == 0)
                head->host = value;
        }
        break;
    case 6:
        if (same_text(name, "origin", 6))
            head->origin = value;
        else if (same_text(name, "expect", 6))
            head->expects_continue = same_text(value, "100-continue", 12);
        break;
    case 7:
        if (same_text(name, "upgrade", 7))
            read_upgrade(head, value);
        break;
    case 10:
        if (same_text(name, "connection", 10))
            read_connection(head, value);
        break;
    case 11:
        if (same_text(name, "producer-id", 11))
            head->producer_id = value;
        break;
    case 12:
        if (same_text(name, "content-type", 12))
            head->content_type = value;
        else if (same_text(name, "x-auth-token", 12))
            head->auth_token = value;
        else if (same_text(name, "producer-seq", 12))
            head->producer_seq = value;
        break;
    case 13:
        if (same_text(name, "authorization", 13))
            head->authorization = value;
        else if (same_text(name, "last-event-id", 13))
            head->last_event_id = value;
        break;
    case 14:
        if (same_text(name, "content-length", 14))
            return read_framing(head, seen, name, value);
        if (same_text(name, "producer-epoch", 14))
            head->producer_epoch = value;
        break;
    case 15:
        if (same_text(name, "idempotency-key", 15))
            head->idempotency_key = value;
        break;
    case 17:
        if (same_text(name, "transfer-encoding", 17))
            return read_framing(head, seen, name, value);
        break;
    default:
        break;
    }
    return 0;
}

static unsigned read_header_line(struct http_head *head, struct seen *seen, struct span line)
{
    size_t name = 0;
    while (name < line.size && is_token_byte(line.data[name]))
        name++;
    if (name == 0 || name == line.size || line.data[name] != ':')
        return 400;
    size_t start = name + 1, end = line.size;
    while (start < end && (line.data[start] == ' ' || line.data[start] == '\t'))
        start++;
    while (end > start && (line.data[end - 1] == ' ' || line.data[end - 1] == '\t'))
        end--;
    for (size_t i = start; i < end; i++) {
        if ((line.data[i] < ' ' && line.data[i] != '\t') || line.data[i] == 0x7f)
            return 400;
    }
    return read_header(head, seen, span_of(line.data, name),
                       span_of(line.data + start, end - start));
}

unsigned http_head_read(struct http_head *head, uint8_t *bytes, size_t size)
{
    *head = (struct http_head){0};
    struct seen seen = {0};
    size_t at = 0;
    for (unsigned number = 0;; number++) {
        const uint8_t *end = memmem(bytes + at, size - at, "\r\n", 2);
        if (end == NULL)
            return 400;
        struct span line = span_of(bytes + at, (size_t)(end - bytes) - at);
        at += line.size + 2;
        if (line.size == 0)
            break;
        if (number > LIMIT_HTTP_HEADERS)
            return 431;
        unsigned code =
            number == 0 ? read_request_line(head, line) : read_header_line(head, &seen, line);
        if (code != 0)
            return code;
    }
    if (head->path.size == 0 || (!seen.host && !head->old))
        return 400;
    return 0;
}
