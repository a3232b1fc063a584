/* SPDX-License-Identifier: Apache-2.0 */
/* A chunked body fed whole and in pieces of a size that the first byte gives comes out the same.
 * Base64 of whatever it was decodes to it again. */
#include "adapters/http/codec.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

static enum status feed(struct span bytes, size_t piece, struct buf *body, size_t *used,
                        bool *complete)
{
    struct http_chunks chunks = {0};
    enum status status = STATUS_OK;
    *used = 0;
    while (status == STATUS_OK && *used < bytes.size && chunks.state != CHUNK_COMPLETE) {
        struct span rest = span_from(bytes, *used);
        if (rest.size > piece)
            rest.size = piece;
        size_t taken = 0;
        status = http_chunks_feed(&chunks, rest, body, &taken);
        CHECK(status != STATUS_OK || taken == rest.size || chunks.state == CHUNK_COMPLETE);
        *used += taken;
    }
    *complete = chunks.state == CHUNK_COMPLETE;
    return status;
}

static void round_trip(struct span bytes)
{
    struct buf text, back;
    buf_init(&text, 1 << 20);
    buf_init(&back, 1 << 20);
    if (base64_decode(bytes, &back) == STATUS_OK)
        CHECK(back.size <= bytes.size);
    buf_clear(&back);
    if (base64_encode(bytes, &text) == STATUS_OK) {
        CHECK(base64_decode(buf_span(&text), &back) == STATUS_OK);
        CHECK(span_equal(buf_span(&back), bytes));
    }
    buf_deinit(&text);
    buf_deinit(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct span bytes = span_of(data + 1, size - 1);
    struct buf whole, pieces;
    size_t used_whole, used_pieces;
    bool complete_whole, complete_pieces;
    buf_init(&whole, 4096);
    buf_init(&pieces, 4096);
    enum status status = feed(bytes, SIZE_MAX, &whole, &used_whole, &complete_whole);
    CHECK(feed(bytes, 1u + data[0] % 7u, &pieces, &used_pieces, &complete_pieces) == status);
    if (status == STATUS_OK) {
        CHECK(used_whole == used_pieces && complete_whole == complete_pieces);
        CHECK(span_equal(buf_span(&whole), buf_span(&pieces)));
    }
    buf_deinit(&whole);
    buf_deinit(&pieces);
    round_trip(bytes);
    return 0;
}
