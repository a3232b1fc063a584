/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of HTTP that are ours to decode: base64, Basic credentials, chunked bodies, what a Host
 * or Origin means. Pure functions over peer bytes; core/base only. */
#ifndef ADAPTERS_HTTP_CODEC_H
#define ADAPTERS_HTTP_CODEC_H

#include "core/base/buf.h"

/* Standard or URL-safe alphabet, with or without padding; anything else is MALFORMED. Appends to
 * to. */
enum status base64_decode(struct span text, struct buf *to);
/* Standard alphabet, padded. Appends to to. */
enum status base64_encode(struct span bytes, struct buf *to);

/* "Basic <base64 of user:password>". Both spans lie in storage, which the call appends to.
 * UNSUPPORTED: another scheme. */
enum status http_basic(struct span authorization, struct buf *storage, struct span *user,
                       struct span *password);

struct http_head;
/* What a request brings to log in with, as http_basic() leaves it: Authorization, Basic or Bearer,
 * else X-Auth-Token. A token stands as the password, with no user. UNSUPPORTED: another scheme. */
enum status http_credentials(const struct http_head *head, struct buf *storage, struct span *user,
                             struct span *password);
/* Likewise of the text of Authorization alone. */
enum status http_authorization(struct span authorization, struct buf *storage, struct span *user,
                               struct span *password);

/* A body in chunked coding (RFC 9112, 7.1), fed in any pieces. Zero-initialised. */
struct http_chunks {
    enum {
        CHUNK_SIZE,
        CHUNK_EXTENSION,
        CHUNK_SIZE_END,
        CHUNK_DATA,
        CHUNK_DATA_CR,
        CHUNK_DATA_LF,
        CHUNK_TRAILER,
        CHUNK_TRAILER_LINE,
        CHUNK_TRAILER_LF,
        CHUNK_END_LF,
        CHUNK_COMPLETE
    } state;
    uint64_t left; /* of the present chunk */
    uint32_t digits;
    uint32_t skipped; /* bytes of extensions and trailers: bounded */
};
/* Appends the data of bytes to body up to the end of the last chunk (state is CHUNK_COMPLETE then).
 * MALFORMED, TOO_LARGE (body's limit), NO_MEMORY. */
enum status http_chunks_feed(struct http_chunks *chunks, struct span bytes, struct buf *body,
                             size_t *used);

/* Digits only, no sign; false for anything else and for what does not fit. */
bool http_number(struct span text, uint64_t *number);

/* "localhost", 127/8 or [::1], with or without a port. */
bool http_host_is_loopback(struct span host);
/* Is this the origin of pages that host itself served? */
bool http_origin_is_own(struct span origin, struct span host);
/* Is origin one of list, which is separated by commas or blanks? */
bool http_origin_is_listed(struct span origin, struct span list);

#endif
