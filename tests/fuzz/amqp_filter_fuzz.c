/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the filter set of a source: it is refused with a reason, or what applies is echoed
 * as a map of described values that says the same again, and the selector it makes has bounds. */
#include "adapters/amqp/filter.h"
#include "core/base/check.h"
#include "core/log/batch.h"
#include "tests/fuzz/fuzz.h"

static struct batch *record_made(void)
{
    const struct header headers[] = {
        {span_from_text("subject"), span_from_text("order.new.eu")},
        {span_from_text("topic"), span_from_text("a/b")},
        {span_from_text("n"), span_from_text("5")},
    };
    struct record_input input = {.headers = headers, .header_count = 3};
    struct batch_builder builder;
    batch_builder_init(&builder);
    CHECK(batch_builder_add(&builder, &input) == STATUS_OK);
    struct batch *batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    return batch;
}

static enum status decode(struct span bytes, struct amqp_filter *filter, struct buf *echo)
{
    struct err err = {""};
    buf_clear(echo);
    CHECK(buf_reserve(echo, bytes.size + AMQP_HEAD_MAX) == STATUS_OK);
    struct amqp_writer writer = {.at = echo->data};
    enum status status = amqp_filter_decode(bytes, filter, &writer, &err);
    CHECK(status == STATUS_OK || status == STATUS_INVALID || status == STATUS_MALFORMED);
    CHECK(status == STATUS_OK || err.text[0] != '\0');
    CHECK(writer.at <= echo->data + bytes.size + AMQP_HEAD_MAX);
    echo->size = (size_t)(writer.at - echo->data);
    return status;
}

static struct span text_of(const struct amqp_filter *filter)
{
    return filter->selector == NULL ? (struct span){0} : selector_text(filter->selector);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct batch *batch;
    if (batch == NULL)
        batch = record_made();
    struct amqp_filter filter = {0}, again = {0};
    struct buf echo, echo_again;
    struct record record;
    buf_init(&echo, size + 64);
    buf_init(&echo_again, size + 128);
    if (decode(span_of(data, size), &filter, &echo) == STATUS_OK && echo.size > 0) {
        CHECK(decode(buf_span(&echo), &again, &echo_again) == STATUS_OK);
        CHECK(span_equal(buf_span(&echo), buf_span(&echo_again)));
        CHECK(span_equal(text_of(&filter), text_of(&again)));
        CHECK(filter.no_local == again.no_local && filter.has_position == again.has_position);
    }
    batch_record(batch, 0, &record);
    if (filter.selector != NULL)
        selector_matches(filter.selector, &record);
    amqp_filter_deinit(&filter);
    amqp_filter_deinit(&again);
    buf_deinit(&echo);
    buf_deinit(&echo_again);
    return 0;
}
