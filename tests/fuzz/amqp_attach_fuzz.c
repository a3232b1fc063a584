/* SPDX-License-Identifier: Apache-2.0 */
/* An ATTACH from anybody is read within its bytes, and one written anew says what is to be said,
 * and of the rest what it said before. */
#include "adapters/amqp/attach.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

enum { SIZE_MAX_FRAME = 1 << 20, HEADER = 8 };

static uint32_t tags_hash(struct span attach, bool *is_there, bool *incomplete)
{
    struct amqp_unsettled_map map = amqp_unsettled_read(attach);
    struct span tag;
    uint32_t hash = 0;
    *is_there = map.is_there;
    *incomplete = map.incomplete;
    while (amqp_unsettled_next(&map, &tag)) {
        CHECK(tag.data >= attach.data && tag.data + tag.size <= attach.data + attach.size);
        for (size_t i = 0; i < tag.size; i++)
            hash = hash * 31 + tag.data[i];
        hash = hash * 31 + 1;
    }
    return hash;
}

static void check_rewritten(struct span was, struct span is, const struct amqp_attach_more *more)
{
    bool was_there, is_there, was_incomplete, is_incomplete;
    uint32_t was_hash = tags_hash(was, &was_there, &was_incomplete);
    uint32_t is_hash = tags_hash(is, &is_there, &is_incomplete);
    struct amqp_default was_said = amqp_default_read(was), is_said = amqp_default_read(is);
    if (more->unsettled.size > 0)
        CHECK(is_there && is_hash == (uint32_t)'a' * 31 + 1);
    else
        CHECK(is_there == was_there && is_hash == was_hash);
    if (more->incomplete || is_there == was_there) /* else it said so of a map that was none */
        CHECK(is_incomplete == ((more->incomplete || was_incomplete) && is_there));
    if (more->default_outcome.size == 0)
        CHECK(is_said.outcome == was_said.outcome && is_said.delay_ms == was_said.delay_ms);
    else
        CHECK(is_said.outcome == AMQP_OUTCOME_RELEASED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t map[] = {0xc1, 5, 2, 0xa0, 1, 'a', 0x40};
    static const uint8_t released[] = {0, 0x53, 0x26, 0x45};
    struct span frame = span_of(data, size);
    struct buf to;
    size_t offset = size < HEADER ? size : 4 * (size_t)data[4];
    for (unsigned what = 0; what < 8; what++) {
        struct amqp_attach_more more = {.incomplete = (what & 4) != 0};
        if (what & 1)
            more.unsettled = span_of(map, sizeof map);
        if (what & 2)
            more.default_outcome = span_of(released, sizeof released);
        buf_init(&to, SIZE_MAX_FRAME);
        if (amqp_attach_rewrite(frame, &more, SIZE_MAX_FRAME, &to))
            check_rewritten(span_from(frame, offset), span_from(buf_span(&to), offset), &more);
        else
            CHECK(to.size == 0);
        buf_deinit(&to);
    }
    return 0;
}
