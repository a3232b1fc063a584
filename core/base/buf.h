/* SPDX-License-Identifier: Apache-2.0 */
/* An owned, growable run of bytes that knows its limit: growth past it is TOO_LARGE, never more
 * memory. */
#ifndef CORE_BASE_BUF_H
#define CORE_BASE_BUF_H

#include "core/base/span.h"
#include "core/base/status.h"

struct buf {
    uint8_t *data;
    size_t size;
    size_t capacity;
    size_t limit;
};

void buf_init(struct buf *buf, size_t limit); /* allocates nothing yet */
void buf_deinit(struct buf *buf); /* frees; init'ed again afterwards with the same limit */
/* Room for more bytes: TOO_LARGE, NO_MEMORY. */
enum status buf_reserve(struct buf *buf, size_t more);
enum status buf_append(struct buf *buf, const void *data, size_t size);
enum status buf_append_text(struct buf *buf, const char *text);
enum status buf_printf(struct buf *buf, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void buf_consume(struct buf *buf, size_t size); /* drops size bytes at the front */
void buf_clear(struct buf *buf);                /* size 0, keeps the memory */

static inline struct span buf_span(const struct buf *buf)
{
    return span_of(buf->data, buf->size);
}

#endif
