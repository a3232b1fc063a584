/* SPDX-License-Identifier: Apache-2.0 */
/* Growth by doubling, clipped at the limit. */
#include "core/base/buf.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/base/check.h"
#include "core/base/heap.h"

enum { CAPACITY_MIN = 64, PRINTF_STACK = 256 };

void buf_init(struct buf *buf, size_t limit)
{
    *buf = (struct buf){.limit = limit};
}

void buf_deinit(struct buf *buf)
{
    heap_free(buf->data);
    buf_init(buf, buf->limit);
}

enum status buf_reserve(struct buf *buf, size_t more)
{
    if (more <= buf->capacity - buf->size)
        return STATUS_OK;
    if (more > buf->limit - buf->size)
        return STATUS_TOO_LARGE;
    size_t needed = buf->size + more;
    size_t capacity = buf->capacity < CAPACITY_MIN ? CAPACITY_MIN : buf->capacity;
    while (capacity < needed)
        capacity = capacity > buf->limit / 2 ? buf->limit : capacity * 2;
    if (capacity > buf->limit)
        capacity = buf->limit;
    uint8_t *data = heap_try_resize(buf->data, capacity);
    if (data == NULL)
        return STATUS_NO_MEMORY;
    buf->data = data;
    buf->capacity = capacity;
    return STATUS_OK;
}

enum status buf_append(struct buf *buf, const void *data, size_t size)
{
    if (size == 0)
        return STATUS_OK;
    enum status status = buf_reserve(buf, size);
    if (status != STATUS_OK)
        return status;
    memcpy(buf->data + buf->size, data, size);
    buf->size += size;
    return STATUS_OK;
}

enum status buf_append_text(struct buf *buf, const char *text)
{
    return buf_append(buf, text, strlen(text));
}

/* vsnprintf wants room for a NUL that the buf's limit may not leave, so the text is made beside it.
 */
enum status buf_printf(struct buf *buf, const char *format, ...)
{
    char stack[PRINTF_STACK];
    va_list arguments;
    va_start(arguments, format);
    int printed = vsnprintf(stack, sizeof stack, format, arguments);
    va_end(arguments);
    if (printed < 0)
        return STATUS_INVALID;
    size_t size = (size_t)printed;
    if (size < sizeof stack)
        return buf_append(buf, stack, size);

    enum status status = buf_reserve(buf, size);
    if (status != STATUS_OK)
        return status;
    char *text = heap_try(size + 1);
    if (text == NULL)
        return STATUS_NO_MEMORY;
    va_start(arguments, format);
    vsnprintf(text, size + 1, format, arguments);
    va_end(arguments);
    status = buf_append(buf, text, size);
    heap_free(text);
    return status;
}

void buf_consume(struct buf *buf, size_t size)
{
    CHECK(size <= buf->size);
    buf->size -= size;
    if (buf->size != 0 && size != 0)
        memmove(buf->data, buf->data + size, buf->size);
}

void buf_clear(struct buf *buf)
{
    buf->size = 0;
}
