/* SPDX-License-Identifier: Apache-2.0 */
/* Frames made small for Proton. */
#include "adapters/amqp/lean.h"
#include "adapters/amqp/codec.h"
#include "core/base/pack.h"

enum {
    NAME_MAX = 40, /* of an outcome that is named by a symbol */
    ID_MAX = 32    /* of a transaction */
};

/* A described list; false: it is none, or not one of a name that there is. */
static bool read_state(struct span state, struct amqp_value *descriptor, struct amqp_value *list)
{
    struct reader at = reader_of(state);
    struct amqp_value value;
    if (!amqp_value_read(&at, &value) || value.type != AMQP_DESCRIBED)
        return false;
    at = reader_of(value.bytes);
    if (!amqp_value_read(&at, descriptor) || !amqp_value_read(&at, list) || list->type != AMQP_LIST)
        return false;
    return descriptor->type == AMQP_ULONG ||
           (descriptor->type == AMQP_SYMBOL && descriptor->bytes.size <= NAME_MAX);
}

static uint8_t *open_state(struct amqp_writer *writer, const struct amqp_value *descriptor)
{
    *writer->at++ = AMQP_DESCRIBED;
    if (descriptor->type == AMQP_SYMBOL)
        amqp_write_bytes(writer, AMQP_SYMBOL, descriptor->bytes);
    else
        amqp_write_ulong(writer, descriptor->number);
    return amqp_open(writer);
}

static bool is_named(const struct amqp_value *descriptor, unsigned code, const char *name)
{
    return descriptor->type == AMQP_ULONG ? descriptor->number == code
                                          : span_is(descriptor->bytes, name);
}

/* Of modified its two flags; its annotations are not Proton's, nor is an error. */
static void write_outcome(struct amqp_writer *writer, const struct amqp_value *descriptor,
                          const struct amqp_value *list, struct span *detail)
{
    uint8_t *began = open_state(writer, descriptor);
    uint32_t count = 0;
    if (is_named(descriptor, AMQP_OUTCOME_REJECTED, "amqp:rejected:list"))
        *detail = list->bytes;
    if (is_named(descriptor, AMQP_OUTCOME_MODIFIED, "amqp:modified:list")) {
        struct reader at = reader_of(list->bytes);
        struct amqp_value field;
        for (; count < 2 && count < list->count && amqp_value_read(&at, &field); count++)
            amqp_write_boolean(writer, field.type == AMQP_BOOLEAN && field.number != 0);
        if (count == 2 && list->count > 2)
            *detail = span_of(at.at, reader_left(&at));
    }
    amqp_close(writer, began, AMQP_LIST, count, false);
}

/* The transaction, and the outcome within it. */
static void write_transactional(struct amqp_writer *writer, const struct amqp_value *descriptor,
                                const struct amqp_value *list, struct span *detail)
{
    uint8_t *began = open_state(writer, descriptor);
    struct reader at = reader_of(list->bytes);
    struct amqp_value id, of_outcome, fields;
    uint32_t count = 0;
    if (list->count > 0 && amqp_value_read(&at, &id) && id.type == AMQP_BINARY &&
        id.bytes.size <= ID_MAX) {
        amqp_write_bytes(writer, AMQP_BINARY, id.bytes);
        count = 1;
        if (list->count > 1 && read_state(span_of(at.at, reader_left(&at)), &of_outcome, &fields)) {
            write_outcome(writer, &of_outcome, &fields, detail);
            count = 2;
        }
    }
    amqp_close(writer, began, AMQP_LIST, count, false);
}

/* What there is to know of a state; null where it is none. */
static void write_state(struct amqp_writer *writer, struct span state, struct span *detail)
{
    struct amqp_value descriptor, list;
    if (!read_state(state, &descriptor, &list))
        amqp_write_null(writer);
    else if (descriptor.type == AMQP_ULONG && descriptor.number == AMQP_TRANSACTIONAL)
        write_transactional(writer, &descriptor, &list, detail);
    else
        write_outcome(writer, &descriptor, &list, detail);
}

/* ------------------------------------------------ frames */

bool amqp_lean_is_needed(const struct amqp_named *named, struct span frame, size_t size)
{
    if (named->end == NULL) /* another performative, or Proton refuses it */
        return false;
    if (named->performative == AMQP_FLOW)
        return true;
    return named->state.size > AMQP_LEAN_STATE ||
           size - (size_t)(named->end - frame.data) > AMQP_LEAN_PAYLOAD;
}

void amqp_lean_write(struct amqp_lean *lean, const struct amqp_named *named, struct span frame)
{
    struct amqp_writer writer = {.at = lean->bytes + AMQP_FRAME_HEADER};
    amqp_write_descriptor(&writer, (uint8_t)named->performative);
    uint8_t *list = amqp_open(&writer);
    amqp_write_raw(&writer, named->before);
    if (named->performative == AMQP_FLOW)
        amqp_write_uint(&writer, named->echo.credit);
    else if (named->state.size > AMQP_LEAN_STATE)
        write_state(&writer, named->state, &lean->detail);
    else
        amqp_write_raw(&writer, named->state);
    amqp_write_raw(&writer, named->behind);
    amqp_close(&writer, list, AMQP_LIST, named->count, false);
    lean->size = (uint32_t)(writer.at - lean->bytes);
    store_u32(lean->bytes, lean->size);
    lean->bytes[4] = 2;
    lean->bytes[5] = 0;
    store_u16(lean->bytes + 6, named->channel);
    if (named->performative == AMQP_TRANSFER)
        lean->payload = span_from(frame, (size_t)(named->end - frame.data));
}
