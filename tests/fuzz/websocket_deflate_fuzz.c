/* SPDX-License-Identifier: Apache-2.0 */
/* A compressed message is the same in one piece and in many, and never more than its limit; what is
 * compressed here comes back, also behind a stored head. */
#include "adapters/http/deflate.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

enum { MESSAGE_MAX = 256 * 1024 };

static const uint8_t tail[] = {0, 0, 0xff, 0xff};

static enum status inflate_all(struct span bytes, size_t piece, struct buf *to)
{
    struct inflater *inflater = inflater_new();
    enum status status = STATUS_OK;
    while (status == STATUS_OK && bytes.size > 0) {
        struct span part = span_of(bytes.data, bytes.size < piece ? bytes.size : piece);
        status = inflater_feed(inflater, part, to);
        bytes = span_from(bytes, part.size);
    }
    if (status == STATUS_OK)
        status = inflater_feed(inflater, span_of(tail, sizeof tail), to);
    inflater_free(inflater);
    CHECK(to->size <= MESSAGE_MAX);
    return status;
}

static void round_trip(struct span bytes)
{
    struct buf packed, back;
    uint8_t stored[STORED_HEAD_BYTES];
    buf_init(&packed, 2 * MESSAGE_MAX);
    buf_init(&back, MESSAGE_MAX);
    size_t head = bytes.size / 3;
    deflate_stored_head(head, stored);
    CHECK(buf_append(&packed, stored, sizeof stored) == STATUS_OK);
    CHECK(buf_append(&packed, bytes.data, head) == STATUS_OK);
    CHECK(deflate_append(span_of(bytes.data + head, bytes.size - head), &packed) == STATUS_OK);
    CHECK(inflate_all(buf_span(&packed), 1000, &back) == STATUS_OK);
    CHECK(span_equal(buf_span(&back), bytes));
    buf_deinit(&packed);
    buf_deinit(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > STORED_MAX)
        return 0;
    struct span bytes = span_of(data + 1, size - 1);
    struct buf whole, pieces;
    buf_init(&whole, MESSAGE_MAX);
    buf_init(&pieces, MESSAGE_MAX);
    enum status status = inflate_all(bytes, SIZE_MAX, &whole);
    CHECK(inflate_all(bytes, 1u + data[0] % 7u, &pieces) == status);
    if (status == STATUS_OK)
        CHECK(span_equal(buf_span(&whole), buf_span(&pieces)));
    buf_deinit(&whole);
    buf_deinit(&pieces);
    round_trip(bytes);
    return 0;
}
