/* SPDX-License-Identifier: Apache-2.0 */
/* The head of an HTTP/1 request: request line and headers, strictly after RFC 9112, and where its
 * body ends. Pure functions over peer bytes; core/base only. */
#ifndef ADAPTERS_HTTP_HEAD_H
#define ADAPTERS_HTTP_HEAD_H

#include "core/base/span.h"
#include "core/base/status.h"

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_PATCH,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_METHODS
};

enum { HTTP_QUERY_MAX = 32, HTTP_LISTS_MAX = 4 };

/* A header that may come several times, each time with a part of the list. */
struct http_lists {
    struct span items[HTTP_LISTS_MAX];
    uint32_t count;
};

struct http_pair {
    struct span name, value;
};

struct http_head {
    enum http_method method;
    struct span path;                       /* as sent: begins with '/', percent-encoded */
    struct http_pair query[HTTP_QUERY_MAX]; /* decoded, in order */
    uint32_t query_count;
    struct span host, origin, authorization, auth_token, content_type, idempotency_key, producer_id,
        producer_seq, producer_epoch, last_event_id; /* size 0: absent */
    uint64_t body_size;                              /* when not chunked */
    bool chunked, expects_continue;
    bool old; /* HTTP/1.0 */
    bool keep_alive;

    bool upgrades;  /* Connection names "upgrade" */
    bool websocket; /* and Upgrade names "websocket" */
    struct span websocket_key, websocket_version;
    struct http_lists protocols, extensions; /* Sec-WebSocket-... */
};

/* Where the head that begins bytes ends (behind its empty line); 0: not yet complete. */
size_t http_head_size(struct span bytes);

/* Reads a complete head. bytes are the caller's to keep, and changed: what is percent-encoded in
 * the query is decoded in place. Returns 0, or the code to refuse with: 400, 431, 501 (unknown
 * method or transfer coding), 505. */
unsigned http_head_read(struct http_head *head, uint8_t *bytes, size_t size);

/* Decodes %XX in place, and '+' as a blank when form. False: an escape is broken, or the result is
 * not UTF-8 or holds NUL. */
bool http_decode(struct span *text, bool form);

#endif
