/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as a message: what is taken apart lies inside, and whatever was found well formed can be
 * read again and shown as JSON. */
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
    for (uint32_t i = 0; i < message->body_count; i++) {
        struct amqp_value descriptor, value;
        CHECK(reader_u8(&at) == 0 && amqp_value_read(&at, &descriptor));
        const uint8_t *from = at.at;
        CHECK(amqp_value_read(&at, &value));
        if (message->body_kind != AMQP_SECTION_DATA)
            show(span_of(from, (size_t)(at.at - from)));
    }
    CHECK(reader_left(&at) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct amqp_message message;
    struct span bytes = span_of(data, size);
    if (amqp_message_read(bytes, &message) == STATUS_OK)
        look_at(bytes, &message);
    if (amqp_values_valid(bytes, 1))
        show(bytes);
    return 0;
}
