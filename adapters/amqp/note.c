/* SPDX-License-Identifier: Apache-2.0 */
/* Annotations that a modified outcome gives a record: from the outcome to the group's note, and
 * from there into the message (3.4.5); and the error of a rejected one (3.4.3). */
#include "adapters/amqp/view.h"
#include "core/base/pack.h"
#include "core/base/utf8.h"

enum { CONDITION_MAX = 128, DESCRIPTION_MAX = 512 };

/* What we say ourselves of a record, or do with it. */
static bool is_ours(struct span name)
{
    static const char *const ours[] = {
        "x-opt-partition-key", "x-opt-labels",   "x-opt-retain",       "x-opt-topic",
        "x-opt-duplicates",    "x-opt-offset",   "x-opt-partition",    "x-opt-enqueued-time",
        "x-opt-delivery-time", "x-opt-jms-dest", "x-opt-jms-reply-to", "x-opt-delivery-delay",
        "x-opt-dedup",
    };
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (span_is(name, ours[i]))
            return true;
    return amqp_is_of_dead(name);
}

static bool names(struct span note, const struct amqp_value *key)
{
    struct reader at = reader_of(note);
    while (key->type == AMQP_SYMBOL && reader_left(&at) > 0) {
        struct span name = reader_block(&at);
        reader_block(&at);
        if (!at.failed && span_equal(name, key->bytes))
            return true;
    }
    return false;
}

void amqp_note_read(const struct amqp_value *annotations, struct buf *note)
{
    struct reader at = reader_of(annotations->bytes);
    struct pack pack = pack_into(note);
    struct amqp_value key, value;
    for (uint32_t i = 0; annotations->type == AMQP_MAP && i + 1 < annotations->count; i += 2) {
        if (!amqp_value_read(&at, &key))
            break;
        const uint8_t *from = at.at;
        if (!amqp_value_read(&at, &value))
            break;
        struct span raw = span_of(from, (size_t)(at.at - from));
        if (key.type != AMQP_SYMBOL || is_ours(key.bytes) || names(buf_span(note), &key) ||
            !amqp_values_valid(raw, 1))
            continue;
        pack_block(&pack, key.bytes);
        pack_block(&pack, raw);
    }
    if (pack.status != STATUS_OK)
        note->size = 0;
}

uint32_t amqp_note_write(struct amqp_writer *writer, struct span items, struct span note)
{
    uint32_t count = 0;
    struct reader at = reader_of(items);
    struct amqp_value key, value;
    while (reader_left(&at) > 0) {
        const uint8_t *from = at.at;
        if (!amqp_value_read(&at, &key) || !amqp_value_read(&at, &value))
            break;
        if (names(note, &key))
            continue;
        amqp_write_raw(writer, span_of(from, (size_t)(at.at - from)));
        count += 2;
    }
    at = reader_of(note);
    while (reader_left(&at) > 0) {
        struct span name = reader_block(&at), raw = reader_block(&at);
        if (at.failed)
            break;
        amqp_write_bytes(writer, AMQP_SYMBOL, name);
        amqp_write_raw(writer, raw);
        count += 2;
    }
    return count;
}

/* Its beginning, of whole characters. */
static struct span text_of(struct span text, size_t most)
{
    if (!utf8_is_valid_no_nul(text))
        return span_of("", 0);
    if (text.size <= most)
        return text;
    while (most > 0 && (text.data[most] & 0xc0) == 0x80)
        most--;
    return span_of(text.data, most);
}

void amqp_reason_read(struct span condition, struct span description, struct buf *note)
{
    struct pack pack = pack_into(note);
    condition = text_of(condition, CONDITION_MAX);
    description = text_of(description, DESCRIPTION_MAX);
    if (condition.size + description.size == 0)
        return;
    pack_block(&pack, condition);
    pack_block(&pack, description);
}

/* error: condition, description, and more that is not kept. */
void amqp_error_read(const struct amqp_value *error, struct buf *note)
{
    struct reader at = reader_of(error->bytes);
    struct amqp_value descriptor, list, condition = {.type = AMQP_NULL},
                                        description = {.type = AMQP_NULL};
    if (error->type != AMQP_DESCRIBED || !amqp_value_read(&at, &descriptor) ||
        !amqp_value_read(&at, &list) || list.type != AMQP_LIST)
        return;
    at = reader_of(list.bytes);
    if (list.count > 0)
        amqp_value_read(&at, &condition);
    if (list.count > 1)
        amqp_value_read(&at, &description);
    amqp_reason_read(amqp_is_text(&condition) ? condition.bytes : span_of("", 0),
                     amqp_is_text(&description) ? description.bytes : span_of("", 0), note);
}
