/* SPDX-License-Identifier: Apache-2.0 */
/* Messages in raw DEFLATE, each without the context of others, so that no connection keeps a window
 * while nothing is said. */
#ifndef ADAPTERS_HTTP_DEFLATE_H
#define ADAPTERS_HTTP_DEFLATE_H

#include "core/base/buf.h"

struct inflater;

struct inflater *inflater_new(void); /* of this thread; NULL: out of memory */
void inflater_free(struct inflater *inflater);
/* Appends what bytes mean. MALFORMED, TOO_LARGE (to's limit), NO_MEMORY. */
enum status inflater_feed(struct inflater *inflater, struct span bytes, struct buf *to);

/* Appends bytes as a stored block: readable behind and before any other blocks. At most 65535. */
enum { STORED_HEAD_BYTES = 5, STORED_MAX = 65535 };
void deflate_stored_head(size_t size, uint8_t to[STORED_HEAD_BYTES]);
/* Appends bytes compressed, ending on a byte and without the four bytes that end a message
 * (RFC 7692, 7.2.1). */
enum status deflate_append(struct span bytes, struct buf *to);

/* Frees what this thread keeps for the next call. */
void deflate_forget(void);

#endif
