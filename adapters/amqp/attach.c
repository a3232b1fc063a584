/* SPDX-License-Identifier: Apache-2.0 */
/* The fields of an ATTACH that Proton does not know or pass on, read and written. */
#include "adapters/amqp/attach.h"
#include "core/base/limits.h"
#include "core/base/pack.h"

enum {
    ATTACH_HANDLE = 1,
    ATTACH_SOURCE = 5, /* fields of attach, of source and of modified */
    ATTACH_UNSETTLED = 7,
    ATTACH_INCOMPLETE = 8,
    SOURCE_DEFAULT_OUTCOME = 8,
    MODIFIED_FAILED = 0,
    MODIFIED_UNDELIVERABLE = 1,
    MODIFIED_ANNOTATIONS = 2,
    REWRITE_MORE = 64 /* wider heads and fields that were not there */
};

static const char delay_key[] = "x-opt-delivery-delay";

/* The items of a described list, and its descriptor; false: it is none. */
static bool list_of(const struct amqp_value *value, uint64_t *descriptor, struct reader *items)
{
    struct reader at = reader_of(value->bytes);
    struct amqp_value what, list;
    if (value->type != AMQP_DESCRIBED || !amqp_value_read(&at, &what) ||
        !amqp_value_read(&at, &list) || what.type != AMQP_ULONG || list.type != AMQP_LIST)
        return false;
    *descriptor = what.number;
    *items = reader_of(list.bytes);
    return true;
}

/* The next item but skip; null where the list ends before. */
static struct amqp_value item_of(struct reader *items, unsigned skip)
{
    struct amqp_value value = {.type = AMQP_NULL};
    for (unsigned i = 0; i <= skip; i++) {
        if (reader_left(items) == 0 || !amqp_value_read(items, &value))
            return (struct amqp_value){.type = AMQP_NULL};
    }
    return value;
}

static bool is_true(const struct amqp_value *value)
{
    return value->type == AMQP_BOOLEAN && value->number != 0;
}

static bool attach_of(struct span bytes, struct reader *items)
{
    struct reader at = reader_of(bytes);
    struct amqp_value value;
    uint64_t descriptor;
    return amqp_value_read(&at, &value) && list_of(&value, &descriptor, items) &&
           descriptor == AMQP_ATTACH;
}

bool amqp_attach_handle(struct span attach, uint32_t *handle)
{
    struct reader items;
    if (!attach_of(attach, &items))
        return false;
    struct amqp_value value = item_of(&items, ATTACH_HANDLE);
    *handle = (uint32_t)value.number;
    return value.type == AMQP_UINT;
}

uint32_t amqp_delay_read(const struct amqp_value *annotations)
{
    struct reader at = reader_of(annotations->bytes);
    struct amqp_value key, value;
    uint64_t delay_ms = 0;
    for (uint32_t i = 0; annotations->type == AMQP_MAP && i + 1 < annotations->count; i += 2) {
        if (!amqp_value_read(&at, &key) || !amqp_value_read(&at, &value))
            break;
        if (amqp_is_text(&key) && span_is(key.bytes, delay_key))
            delay_ms = amqp_value_ms(&value);
    }
    if (delay_ms == UINT64_MAX) /* no number */
        return 0;
    return delay_ms > LIMIT_DELAY_MS ? LIMIT_DELAY_MS : (uint32_t)delay_ms;
}

struct amqp_default amqp_default_read(struct span attach)
{
    struct amqp_default said = {.outcome = AMQP_OUTCOME_NONE};
    struct amqp_value value;
    struct reader items;
    uint64_t descriptor;
    if (!attach_of(attach, &items))
        return said;
    value = item_of(&items, ATTACH_SOURCE);
    if (!list_of(&value, &descriptor, &items) || descriptor != AMQP_SOURCE)
        return said;
    value = item_of(&items, SOURCE_DEFAULT_OUTCOME);
    if (!list_of(&value, &descriptor, &items) || descriptor < AMQP_OUTCOME_ACCEPTED ||
        descriptor > AMQP_OUTCOME_MODIFIED)
        return said;
    said.outcome = (enum amqp_outcome)descriptor;
    if (said.outcome == AMQP_OUTCOME_MODIFIED) {
        value = item_of(&items, MODIFIED_FAILED);
        said.failed = is_true(&value);
        value = item_of(&items, MODIFIED_UNDELIVERABLE - MODIFIED_FAILED - 1);
        said.undeliverable = is_true(&value);
        value = item_of(&items, MODIFIED_ANNOTATIONS - MODIFIED_UNDELIVERABLE - 1);
        said.delay_ms = amqp_delay_read(&value);
    }
    return said;
}

void amqp_default_write(struct amqp_writer *writer, const struct amqp_default *said)
{
    amqp_write_descriptor(writer, (uint8_t)said->outcome);
    uint8_t *list = amqp_open(writer);
    uint32_t count = 0;
    if (said->outcome == AMQP_OUTCOME_MODIFIED) {
        count = MODIFIED_ANNOTATIONS;
        amqp_write_boolean(writer, said->failed);
        amqp_write_boolean(writer, said->undeliverable);
    }
    if (said->delay_ms > 0) {
        count++;
        uint8_t *map = amqp_open(writer);
        amqp_write_bytes(writer, AMQP_SYMBOL, span_of(delay_key, sizeof delay_key - 1));
        amqp_write_uint(writer, said->delay_ms);
        amqp_close(writer, map, AMQP_MAP, 2, false);
    }
    amqp_close(writer, list, AMQP_LIST, count, false);
}

/* ------------------------------------------------ what is unsettled */

struct amqp_unsettled_map amqp_unsettled_read(struct span attach)
{
    struct amqp_unsettled_map map = {.is_there = false};
    struct reader items;
    if (!attach_of(attach, &items))
        return map;
    struct amqp_value value = item_of(&items, ATTACH_UNSETTLED);
    if (value.type != AMQP_MAP)
        return map;
    map.is_there = true;
    map.items = value.bytes;
    map.count = value.count;
    value = item_of(&items, ATTACH_INCOMPLETE - ATTACH_UNSETTLED - 1);
    map.incomplete = is_true(&value);
    return map;
}

bool amqp_unsettled_next(struct amqp_unsettled_map *map, struct span *tag)
{
    struct reader at = reader_of(map->items);
    struct amqp_value key, state;
    while (map->count >= 2 && amqp_value_read(&at, &key) && amqp_value_read(&at, &state)) {
        map->count -= 2;
        map->items = span_of(at.at, reader_left(&at));
        if (key.type == AMQP_BINARY) {
            *tag = key.bytes;
            return true;
        }
    }
    map->count = 0;
    return false;
}

/* ------------------------------------------------ an answer written anew */

/* The next item as it is written; a null where the list ends before. */
static struct span raw_item(struct reader *items)
{
    static const uint8_t null = AMQP_NULL;
    const uint8_t *from = items->at;
    struct amqp_value value;
    if (reader_left(items) == 0 || !amqp_value_read(items, &value))
        return span_of(&null, 1);
    return span_of(from, (size_t)(items->at - from));
}

/* In the order of the fields. */
struct replaced {
    uint32_t field;
    struct span by;
};

/* A list's items, some of them replaced; false: they cannot be read. */
static bool write_items(struct amqp_writer *writer, struct reader items,
                        const struct replaced *replaced, size_t replaced_count)
{
    uint8_t *list = amqp_open(writer);
    uint32_t count = 0, least = replaced_count == 0 ? 0 : replaced[replaced_count - 1].field + 1;
    for (; reader_left(&items) > 0 || count < least; count++) {
        struct span item = raw_item(&items);
        for (size_t i = 0; i < replaced_count; i++)
            if (replaced[i].field == count)
                item = replaced[i].by;
        if (items.failed)
            return false;
        amqp_write_raw(writer, item);
    }
    amqp_close(writer, list, AMQP_LIST, count, false);
    return true;
}

/* The source with that outcome; empty: there is no source. */
static struct span write_source(uint8_t *bytes, struct reader items, struct span outcome)
{
    struct amqp_value source = item_of(&items, ATTACH_SOURCE);
    struct amqp_writer writer = {.at = bytes};
    struct replaced replaced = {SOURCE_DEFAULT_OUTCOME, outcome};
    uint64_t descriptor;
    if (!list_of(&source, &descriptor, &items) || descriptor != AMQP_SOURCE)
        return span_of(bytes, 0);
    amqp_write_descriptor(&writer, AMQP_SOURCE);
    if (!write_items(&writer, items, &replaced, 1))
        return span_of(bytes, 0);
    return span_of(bytes, (size_t)(writer.at - bytes));
}

/* Both have room. */
static size_t rewrite(uint8_t *bytes, uint8_t *source_bytes, struct span frame, struct reader items,
                      const struct amqp_attach_more *more)
{
    static const uint8_t yes = AMQP_TRUE;
    struct replaced replaced[3];
    size_t count = 0, offset = 4 * (size_t)frame.data[4];
    struct span source = {0};
    if (more->default_outcome.size > 0) {
        source = write_source(source_bytes, items, more->default_outcome);
        if (source.size == 0)
            return 0;
        replaced[count++] = (struct replaced){ATTACH_SOURCE, source};
    }
    if (more->unsettled.size > 0)
        replaced[count++] = (struct replaced){ATTACH_UNSETTLED, more->unsettled};
    if (more->incomplete)
        replaced[count++] = (struct replaced){ATTACH_INCOMPLETE, span_of(&yes, 1)};
    struct amqp_writer writer = {.at = bytes};
    amqp_write_raw(&writer, span_of(frame.data, offset));
    amqp_write_descriptor(&writer, AMQP_ATTACH);
    if (!write_items(&writer, items, replaced, count))
        return 0;
    store_u32(bytes, (uint32_t)(writer.at - bytes));
    return (size_t)(writer.at - bytes);
}

bool amqp_attach_rewrite(struct span frame, const struct amqp_attach_more *more, uint32_t size_max,
                         struct buf *to)
{
    struct reader items;
    size_t offset = frame.size < AMQP_FRAME_HEADER ? 0 : 4 * (size_t)frame.data[4], written = 0;
    size_t size = frame.size + more->default_outcome.size + more->unsettled.size + REWRITE_MORE;
    if (offset < AMQP_FRAME_HEADER || !attach_of(span_from(frame, offset), &items))
        return false;
    struct buf source;
    buf_init(&source, size);
    if (buf_reserve(&source, size) == STATUS_OK && buf_reserve(to, size) == STATUS_OK)
        written = rewrite(to->data + to->size, source.data, frame, items, more);
    buf_deinit(&source);
    if (written == 0 || written > size_max)
        return false;
    to->size += written;
    return true;
}
