/* SPDX-License-Identifier: Apache-2.0 */
/* One compressor per thread, and one spare decompressor: their windows are what costs memory. */
#include "adapters/http/deflate.h"

#include <zlib.h>

#include "core/base/check.h"
#include "core/base/heap.h"

enum { LEVEL = 1, MEMORY_LEVEL = 8, STEP = 16 * 1024, TAIL = 4 };

struct inflater {
    z_stream zlib;
};

static _Thread_local struct inflater *spare;
static _Thread_local z_stream deflater;
static _Thread_local bool deflater_is_made;

struct inflater *inflater_new(void)
{
    struct inflater *inflater = spare;
    spare = NULL;
    if (inflater != NULL) {
        inflateReset(&inflater->zlib);
        return inflater;
    }
    inflater = heap_new(sizeof *inflater);
    if (inflateInit2(&inflater->zlib, -MAX_WBITS) == Z_OK)
        return inflater;
    heap_free(inflater);
    return NULL;
}

void inflater_free(struct inflater *inflater)
{
    if (inflater == NULL)
        return;
    if (spare == NULL) {
        spare = inflater;
        return;
    }
    inflateEnd(&inflater->zlib);
    heap_free(inflater);
}

enum status inflater_feed(struct inflater *inflater, struct span bytes, struct buf *to)
{
    z_stream *zlib = &inflater->zlib;
    zlib->next_in = (uint8_t *)(uintptr_t)bytes.data;
    zlib->avail_in = (uInt)bytes.size;
    for (;;) {
        size_t room = to->limit - to->size < STEP ? to->limit - to->size : STEP;
        /* One byte more than may be there tells a message that is too large from one that fits. */
        uint8_t beyond;
        enum status status = room == 0 ? STATUS_OK : buf_reserve(to, room);
        if (status != STATUS_OK)
            return status;
        zlib->next_out = room == 0 ? &beyond : to->data + to->size;
        zlib->avail_out = room == 0 ? 1 : (uInt)room;
        int result = inflate(zlib, Z_SYNC_FLUSH);
        if (room == 0 && zlib->avail_out == 0)
            return STATUS_TOO_LARGE;
        if (room > 0)
            to->size += room - zlib->avail_out;
        if (result == Z_STREAM_END)
            inflateReset(zlib); /* a block may call itself the last (7.2.3.4) */
        else if (result == Z_MEM_ERROR)
            return STATUS_NO_MEMORY;
        else if (result != Z_OK && result != Z_BUF_ERROR)
            return STATUS_MALFORMED;
        if (zlib->avail_in == 0 && (zlib->avail_out > 0 || result == Z_BUF_ERROR))
            return STATUS_OK;
    }
}

void deflate_stored_head(size_t size, uint8_t to[STORED_HEAD_BYTES])
{
    CHECK(size <= STORED_MAX);
    to[0] = 0;
    to[1] = (uint8_t)size;
    to[2] = (uint8_t)(size >> 8);
    to[3] = (uint8_t)~to[1];
    to[4] = (uint8_t)~to[2];
}

enum status deflate_append(struct span bytes, struct buf *to)
{
    if (!deflater_is_made && deflateInit2(&deflater, LEVEL, Z_DEFLATED, -MAX_WBITS, MEMORY_LEVEL,
                                          Z_DEFAULT_STRATEGY) != Z_OK)
        return STATUS_NO_MEMORY;
    deflater_is_made = true;
    deflateReset(&deflater);
    size_t room = deflateBound(&deflater, bytes.size) + STEP;
    enum status status = buf_reserve(to, room);
    if (status != STATUS_OK)
        return status;
    deflater.next_in = (uint8_t *)(uintptr_t)bytes.data;
    deflater.avail_in = (uInt)bytes.size;
    deflater.next_out = to->data + to->size;
    deflater.avail_out = (uInt)room;
    int result = deflate(&deflater, Z_SYNC_FLUSH);
    CHECK(result == Z_OK && deflater.avail_in == 0 && deflater.avail_out > 0);
    to->size += room - deflater.avail_out - TAIL;
    return STATUS_OK;
}

void deflate_forget(void)
{
    struct inflater *last = spare;
    spare = NULL;
    if (last != NULL) {
        inflateEnd(&last->zlib);
        heap_free(last);
    }
    if (deflater_is_made)
        deflateEnd(&deflater);
    deflater_is_made = false;
}
