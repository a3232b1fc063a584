/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes as stored rows of a window (each row: two bytes of length, then the row). What
 * restores must snapshot, restore from that, and snapshot to the same bytes again. */
#include "core/base/check.h"
#include "core/base/reader.h"
#include "core/queue/window.h"
#include "tests/fuzz/fuzz.h"

static void check_round_trip(const struct window *window)
{
    struct buf once, twice;
    buf_init(&once, 64u << 20);
    buf_init(&twice, 64u << 20);
    CHECK(window_snapshot(window, &once) == STATUS_OK);
    struct window *copy = window_new(0, 100);
    CHECK(window_apply(copy, buf_span(&once)) == STATUS_OK);
    CHECK(window_base(copy) == window_base(window));
    CHECK(window_acknowledged(copy) == window_acknowledged(window));
    CHECK(window_snapshot(copy, &twice) == STATUS_OK);
    CHECK(span_equal(buf_span(&once), buf_span(&twice)));
    window_free(copy);
    buf_deinit(&once);
    buf_deinit(&twice);
}

static void deliver_some(struct window *window)
{
    uint64_t offset;
    uint32_t delivery, failures;
    window_extend(window, window_end(window) + 10);
    window_limit_failures(window, 2);
    if (window_claim(window, window_next_available(window, window_base(window))))
        window_moved(window, window_oldest(window));
    while (window_wake(window, INT64_MAX))
        ;
    for (uint32_t i = 0; i < 50 && window_peek(window, &offset); i++) {
        window_take(window, offset, 1, 1000 + i, &delivery, &failures);
        enum window_outcome outcome = (enum window_outcome)(i % 4);
        if (i % 5 == 0 && (outcome == WINDOW_FAILED || outcome == WINDOW_RELEASED))
            CHECK(window_delay(window, offset, delivery, outcome, i) == STATUS_OK);
        else
            CHECK(window_settle(window, offset, delivery, outcome) == STATUS_OK);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader reader = reader_of(span_of(data, size));
    struct window *window = window_new(0, 100);
    enum status status = STATUS_OK;
    while (status == STATUS_OK && reader_left(&reader) > 0) {
        size_t length = reader_u16(&reader);
        if (length > reader_left(&reader))
            length = reader_left(&reader);
        status = window_apply(window, reader_bytes(&reader, length));
    }
    if (status == STATUS_OK)
        check_round_trip(window);
    if (status == STATUS_OK && window_base(window) < INT64_MAX / 2) { /* there are offsets left */
        deliver_some(window);
        check_round_trip(window);
    }
    window_free(window);
    return 0;
}
