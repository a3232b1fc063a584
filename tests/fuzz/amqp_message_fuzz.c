/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as a message, or as a batch of messages: what is taken apart lies inside, and whatever was
 * found well formed can be read again and shown as JSON. */
#include "adapters/amqp/codec.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

static void check_inside(struct span outer, struct span inner)
{
    CHECK(inner.size == 0 ||
          (inner.data >= outer.data && inner.data + inner.size <= outer.data + outer.size));
}

static void show(struct span value)
{
    struct buf text;
    buf_init(&text, 1 << 16);
    enum status status = amqp_json(value, &text);
    CHECK(status == STATUS_OK || status == STATUS_TOO_LARGE);
    buf_deinit(&text);
}

static void look_at(struct span bytes, const struct amqp_message *message)
{
    check_inside(bytes, message->body);
    check_inside(bytes, message->properties_section);
    check_inside(bytes, message->application_section);
    for (unsigned i = 0; i < AMQP_PROPERTIES; i++)
        check_inside(bytes, message->properties[i].bytes);
    struct reader at = reader_of(message->body);
    struct amqp_value value;
    struct span raw;
    uint32_t count = 0;
    for (; amqp_body_next(&at, &value, &raw); count++) {
        check_inside(bytes, value.bytes);
        if (message->body_kind != AMQP_SECTION_DATA)
            show(raw);
    }
    CHECK(count == message->body_count && reader_left(&at) == 0 && !at.failed);
}

/* The messages in its data sections. */
static void look_within(const struct amqp_message *batch)
{
    struct reader at = reader_of(batch->body);
    struct amqp_message message;
    struct amqp_value value;
    struct span raw;
    while (batch->body_kind == AMQP_SECTION_DATA && amqp_body_next(&at, &value, &raw))
        if (amqp_message_read(value.bytes, &message) == STATUS_OK)
            look_at(value.bytes, &message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct amqp_message message;
    struct span bytes = span_of(data, size);
    if (amqp_message_read(bytes, &message) == STATUS_OK) {
        look_at(bytes, &message);
        look_within(&message);
    }
    if (amqp_values_valid(bytes, 1))
        show(bytes);
    return 0;
}
