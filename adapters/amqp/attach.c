/* SPDX-License-Identifier: Apache-2.0 */
/* The handle of an ATTACH, and the default outcome of its source. */
#include "adapters/amqp/attach.h"
#include "core/base/limits.h"

enum {
    SOURCE = 0x28,
    ATTACH = 0x12,
    ATTACH_HANDLE = 1,
    ATTACH_SOURCE = 5, /* fields of attach, of source and of modified */
    SOURCE_DEFAULT_OUTCOME = 8,
    MODIFIED_FAILED = 0,
    MODIFIED_UNDELIVERABLE = 1,
    MODIFIED_ANNOTATIONS = 2
};

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

bool amqp_handle_read(struct span attach, uint32_t *handle)
{
    struct amqp_value value;
    struct reader at = reader_of(attach), items;
    uint64_t descriptor;
    if (!amqp_value_read(&at, &value) || !list_of(&value, &descriptor, &items) ||
        descriptor != ATTACH)
        return false;
    value = item_of(&items, ATTACH_HANDLE);
    *handle = value.type == AMQP_UINT ? (uint32_t)value.number : 0; /* as Proton has it */
    return true;
}

uint32_t amqp_delay_read(const struct amqp_value *annotations)
{
    struct reader at = reader_of(annotations->bytes);
    struct amqp_value key, value;
    uint64_t delay_ms = 0;
    for (uint32_t i = 0; annotations->type == AMQP_MAP && i + 1 < annotations->count; i += 2) {
        if (!amqp_value_read(&at, &key) || !amqp_value_read(&at, &value))
            break;
        if (amqp_is_text(&key) && span_is(key.bytes, "x-opt-delivery-delay"))
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
    struct reader at = reader_of(attach), items;
    uint64_t descriptor;
    if (!amqp_value_read(&at, &value) || !list_of(&value, &descriptor, &items) ||
        descriptor != ATTACH)
        return said;
    value = item_of(&items, ATTACH_SOURCE);
    if (!list_of(&value, &descriptor, &items) || descriptor != SOURCE)
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
