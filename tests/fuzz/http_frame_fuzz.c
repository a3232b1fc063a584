/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of frames cut anywhere has the same frames as the whole stream; unmasking in pieces is
 * unmasking at once. Whatever it was, as an offer or a list it does no harm. */
#include <stdlib.h>

#include "adapters/http/frame.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

struct digest {
    uint32_t value;
    unsigned frames;
    enum status status;
};

static void add(struct digest *digest, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        digest->value = digest->value * 31 + bytes[i];
}

/* Reads with no more than piece new bytes in view at a time, as a connection does. */
static struct digest read_all(struct span bytes, size_t piece)
{
    struct digest digest = {0};
    struct frame_order order = {0};
    struct frame frame = {0};
    uint64_t left = 0;
    size_t at = 0, seen = 0;
    uint8_t plain[64];
    while (digest.status == STATUS_OK && (at < seen || seen < bytes.size)) {
        if (left > 0) {
            size_t size = seen - at < left ? seen - at : (size_t)left;
            size = size < sizeof plain ? size : sizeof plain;
            frame_unmask(plain, bytes.data + at, size, frame.mask, frame.size - left);
            add(&digest, plain, size);
            at += size;
            left -= size;
            if (size > 0)
                continue;
        } else {
            size_t head;
            digest.status = frame_read(span_of(bytes.data + at, seen - at), &frame, &head);
            if (digest.status != STATUS_OK)
                break;
            if (head > 0) {
                CHECK(head <= seen - at && frame.size <= INT64_MAX);
                if (frame.kind < FRAME_CLOSE)
                    digest.status = frame_follow(&order, &frame, true);
                digest.frames++;
                digest.value = digest.value * 31 + (uint32_t)frame.kind * 2 + frame.last;
                left = frame.size;
                at += head;
                continue;
            }
        }
        if (seen == bytes.size)
            break;
        seen = bytes.size - seen < piece ? bytes.size : seen + piece;
    }
    return digest;
}

static void harmless(struct span bytes)
{
    struct deflate_terms terms;
    deflate_negotiate(bytes, &terms);
    CHECK(!terms.agreed || (terms.server_window_bits >= 8 && terms.server_window_bits <= 15));
    struct span list = bytes, element;
    size_t sum = 0;
    while (list_next(&list, &element)) {
        CHECK(element.size > 0 && element.data >= bytes.data &&
              element.data + element.size <= bytes.data + bytes.size);
        sum += element.size;
    }
    CHECK(sum <= bytes.size);
    unsigned code;
    if (close_read(bytes, &code) == STATUS_OK)
        CHECK(code >= 1000 && code <= 4999);
    websocket_key_is_valid(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct span bytes = span_of(data + 1, size - 1);
    struct digest whole = read_all(bytes, SIZE_MAX / 2), cut = read_all(bytes, 1u + data[0] % 9u);
    CHECK(whole.status == cut.status && whole.frames == cut.frames && whole.value == cut.value);
    harmless(bytes);
    return 0;
}
