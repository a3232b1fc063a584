/* SPDX-License-Identifier: Apache-2.0 */
/* What a peer's frames say of its channels and handles. */
#include "adapters/amqp/channels.h"
#include "adapters/amqp/codec.h"
#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/base/pack.h"

enum {
    ATTACH_KEPT = 4,    /* fields of attach: modes, source, target */
    FLOW_TRANSFERS = 2, /* fields of flow: next-outgoing-id, handle */
    FLOW_HANDLE = 4,
    COUNT_OF_STATE = 5 /* fields of a disposition, with its state */
};

static const uint32_t no_handle = UINT32_MAX - 1;

/* ------------------------------------------------ fields */

/* The fields of a list, one after the other; behind the last one all are null. They are not read by
 * codec.h, as each frame pays for it: a look at a TRANSFER takes 25 ns so, and 65 by it (measured
 * with -O2, 2026-11-27); nor does that read them as Proton does, which knows widths only. */
struct fields {
    const uint8_t *at, *end;
    uint32_t count;
    bool failed;
};

/* PASSES when all of the list is there. */
static enum amqp_fate fields_of(struct span list, bool whole, struct fields *fields)
{
    *fields = (struct fields){.at = list.data, .end = list.data};
    const enum amqp_fate short_of = whole ? AMQP_UNDECODABLE : AMQP_UNFINISHED;
    if (list.size == 0)
        return short_of;
    if (list.data[0] == AMQP_LIST_0)
        return AMQP_PASSES;
    size_t width = list.data[0] == AMQP_LIST_SMALL ? 1 : 4;
    if (list.size < 1 + 2 * width)
        return short_of;
    uint32_t size = width == 1 ? list.data[1] : load_u32(list.data + 1);
    if (size < width)
        return AMQP_UNDECODABLE;
    if (list.size - 1 - width < size)
        return short_of;
    fields->count = width == 1 ? list.data[2] : load_u32(list.data + 5);
    fields->at = list.data + 1 + 2 * width;
    fields->end = list.data + 1 + width + size;
    return AMQP_PASSES;
}

static uint8_t fail(struct fields *fields)
{
    fields->failed = true;
    fields->count = 0;
    fields->at = fields->end;
    return AMQP_NULL;
}

/* The constructor and what is behind it of a value that is not described. */
static inline uint8_t next_value(struct fields *fields, struct span *content)
{
    size_t left = (size_t)(fields->end - fields->at), head = 0, size = 0;
    if (left == 0)
        return fail(fields);
    const uint8_t *at = fields->at;
    switch (*at >> 4) {
    case 0x4:
        break;
    case 0x5:
    case 0x6:
    case 0x7:
    case 0x8:
    case 0x9:
        size = (size_t)1 << ((*at >> 4) - 5);
        break;
    case 0xa:
    case 0xc:
    case 0xe:
        head = 1;
        size = left > head ? at[1] : left;
        break;
    case 0xb:
    case 0xd:
    case 0xf:
        head = 4;
        size = left > head ? load_u32(at + 1) : left;
        break;
    default:
        return fail(fields);
    }
    if (left - 1 < head || left - 1 - head < size)
        return fail(fields);
    *content = span_of(at + 1 + head, size);
    fields->at = at + 1 + head + size;
    return *at;
}

static inline uint8_t next_field(struct fields *fields, struct span *content)
{
    if (fields->count == 0) /* more than it counts is none either */
        return fields->at == fields->end ? AMQP_NULL : fail(fields);
    fields->count--;
    return next_value(fields, content);
}

/* False: null. */
static inline bool next_uint(struct fields *fields, uint32_t *number)
{
    struct span content;
    *number = 0;
    switch (next_field(fields, &content)) {
    case AMQP_NULL:
        return false;
    case AMQP_UINT_0:
        return true;
    case AMQP_UINT_SMALL:
        *number = content.data[0];
        return true;
    case AMQP_UINT:
        *number = load_u32(content.data);
        return true;
    default:
        fail(fields);
        return false;
    }
}

static uint32_t needed_uint(struct fields *fields)
{
    uint32_t number;
    if (!next_uint(fields, &number))
        fail(fields);
    return number;
}

/* is_said: it is not null. */
static inline bool next_boolean(struct fields *fields, bool *is_said)
{
    struct span content;
    *is_said = true;
    switch (next_field(fields, &content)) {
    case AMQP_NULL:
        *is_said = false;
        return false;
    case AMQP_TRUE:
        return true;
    case AMQP_FALSE:
        return false;
    case AMQP_BOOLEAN:
        if (content.data[0] <= 1)
            return content.data[0] == 1;
        break;
    default:
        break;
    }
    fail(fields);
    return false;
}

static bool needed_boolean(struct fields *fields)
{
    bool is_said, yes = next_boolean(fields, &is_said);
    if (!is_said)
        fail(fields);
    return yes;
}

static inline void skip(struct fields *fields, uint8_t code, uint8_t other)
{
    struct span content;
    uint8_t found = next_field(fields, &content);
    if (found != AMQP_NULL && found != code && found != other)
        fail(fields);
}

/* Values and those in them, as far as they can be read: where not, Proton reads none either. Of an
 * array at least as many as there are. */
static uint64_t count_values(const uint8_t *at, const uint8_t *end)
{
    uint64_t count = 0;
    while (at < end) {
        uint8_t code = *at++;
        size_t left = (size_t)(end - at), size = 0;
        bool is_wide = (code >> 4 & 1) != 0;
        size_t width = is_wide ? 4 : 1;
        count++;
        switch (code >> 4) {
        case 0x5:
        case 0x6:
        case 0x7:
        case 0x8:
        case 0x9:
            size = (size_t)1 << ((code >> 4) - 5);
            break;
        case 0xa:
        case 0xb:
            size = left < width ? left : width + (is_wide ? load_u32(at) : at[0]);
            break;
        case 0xc:
        case 0xd:
            size = 2 * width; /* what is in it comes next */
            break;
        case 0xe:
        case 0xf:
            if (left <= 2 * width)
                return count;
            size = width + (is_wide ? load_u32(at) : at[0]);
            if (size > left)
                return count;
            count += is_wide ? load_u32(at + 4) : at[1];
            if (at[2 * width] == AMQP_DESCRIBED || at[2 * width] >> 4 >= 0xc)
                count += size; /* there may be as many in its own */
            break;
        default:
            break;
        }
        if (size > left)
            return count;
        at += size;
    }
    return count;
}

/* A state: null, or a described value. Proton does not find the end of one that is nested. */
static void skip_state(struct fields *fields)
{
    struct span content;
    if (fields->count == 0 || fields->at == fields->end || *fields->at != AMQP_DESCRIBED) {
        skip(fields, AMQP_NULL, AMQP_NULL);
        return;
    }
    fields->count--;
    fields->at++;
    next_value(fields, &content);
    next_value(fields, &content);
}

static void pass_over(struct fields *fields)
{
    struct span content;
    if (fields->count > 0 && fields->at < fields->end && *fields->at == AMQP_DESCRIBED)
        skip_state(fields);
    else
        next_field(fields, &content);
}

/* ------------------------------------------------ performatives */

static enum amqp_fate look_at_begin(struct fields *fields)
{
    struct span content;
    uint8_t code = next_field(fields, &content); /* the channel that it answers */
    if (fields->failed || (code != AMQP_NULL && code != AMQP_USHORT))
        return AMQP_UNDECODABLE;
    return code == AMQP_NULL ? AMQP_PASSES : AMQP_ANSWERS_NONE;
}

/* Of an attach's values behind its role; what they are is Proton's. */
static uint64_t count_kept(struct fields *fields)
{
    const uint8_t *first = fields->at;
    for (int i = 0; i < ATTACH_KEPT; i++)
        pass_over(fields);
    uint64_t count = count_values(first, fields->at);
    pass_over(fields); /* what is unsettled */
    return fields->failed ? count_values(first, fields->end)
                          : count + count_values(fields->at, fields->end);
}

static enum amqp_fate look_at_attach(const struct amqp_channels *channels, struct fields *fields,
                                     struct amqp_named *named)
{
    struct span name = {0};
    uint8_t code = next_field(fields, &name);
    named->handle = needed_uint(fields);
    named->receives = needed_boolean(fields);
    if (fields->failed || (code != AMQP_STRING_SMALL && code != AMQP_STRING))
        return AMQP_UNDECODABLE;
    const uint8_t *end = name.size == 0 ? NULL : memchr(name.data, 0, name.size);
    if (end != NULL) /* as Proton has it */
        name.size = (size_t)(end - name.data);
    named->name = hash_bytes(name);
    if (count_kept(fields) > LIMIT_AMQP_ATTACH_VALUES)
        return AMQP_VALUES_TOO_MANY;
    if (named->handle == no_handle) /* it would be taken away with any link that goes */
        return AMQP_HANDLE_OF_NONE;
    if (amqp_handle_find(channels, named->channel, named->handle) != NULL)
        return AMQP_HANDLE_IN_USE;
    return amqp_handle_is_named(channels, named) ? AMQP_NAME_IN_USE : AMQP_PASSES;
}

static enum amqp_fate look_at_detach(const struct amqp_channels *channels, struct fields *fields,
                                     struct amqp_named *named)
{
    named->handle = needed_uint(fields);
    if (fields->failed)
        return AMQP_UNDECODABLE;
    named->at = amqp_handle_find(channels, named->channel, named->handle);
    return named->at == NULL ? AMQP_UNATTACHED : AMQP_PASSES;
}

static struct span between(const uint8_t *from, const uint8_t *to)
{
    return span_of(from, (size_t)(to - from));
}

static enum amqp_fate look_at_flow(const struct amqp_channels *channels, struct fields *fields,
                                   struct amqp_named *named)
{
    const uint8_t *first = fields->at, *credit;
    uint32_t number, count = fields->count;
    bool is_given;
    for (int i = 0; i < FLOW_HANDLE; i++) { /* what they say is Proton's */
        next_uint(fields, &number);
        if (i == FLOW_TRANSFERS)
            named->echo.transfers = number;
    }
    bool is_said = named->echo.has_link = next_uint(fields, &named->handle);
    named->echo.handle = named->handle;
    next_uint(fields, &named->echo.delivery_count);
    credit = fields->at;
    named->before = between(first, credit);
    next_uint(fields, &named->echo.credit);
    named->state = between(credit, fields->at);
    named->behind = between(fields->at, fields->at);
    next_uint(fields, &number); /* what is available */
    named->echo.drains = next_boolean(fields, &is_given);
    named->echo.is_asked = next_boolean(fields, &is_given);
    if (fields->failed)
        return AMQP_UNDECODABLE;
    if (named->echo.credit > INT32_MAX) { /* which Proton would take for less than none */
        named->echo.credit = INT32_MAX;
        named->behind.size = (size_t)(fields->at - named->behind.data);
        named->count = count - fields->count;
        named->end = fields->end;
    }
    if (is_said && amqp_handle_find(channels, named->channel, named->handle) == NULL)
        return AMQP_UNATTACHED;
    return AMQP_PASSES;
}

static enum amqp_fate look_at_disposition(struct fields *fields, struct amqp_named *named)
{
    const uint8_t *first = fields->at;
    uint32_t count = fields->count;
    bool is_said, receives = needed_boolean(fields);
    named->delivery = needed_uint(fields);
    if (!next_uint(fields, &named->last))
        named->last = named->delivery;
    named->settled = next_boolean(fields, &is_said) && !receives;
    if (fields->failed)
        return AMQP_UNDECODABLE;
    if (count_values(fields->at, fields->end) > LIMIT_AMQP_STATE_VALUES)
        return AMQP_VALUES_TOO_MANY;
    const uint8_t *state = fields->at;
    skip_state(fields); /* to the end of the list, where it cannot be read */
    named->before = between(first, state);
    named->state = between(state, fields->at);
    named->behind = between(fields->at, fields->at);
    named->count = fields->failed ? COUNT_OF_STATE : count - fields->count;
    named->end = fields->end;
    return named->last - named->delivery > INT32_MAX ? AMQP_WRONG_RANGE : AMQP_PASSES;
}

static enum amqp_fate look_at_transfer(const struct amqp_channels *channels, struct fields *fields,
                                       struct amqp_named *named)
{
    bool has_id, is_said, says_settled;
    struct span tag = {0};
    const uint8_t *first = fields->at, *state;
    uint32_t count = fields->count;
    named->handle = needed_uint(fields);
    has_id = next_uint(fields, &named->delivery);
    uint8_t code = next_field(fields, &tag);
    if (code != AMQP_NULL && code != AMQP_BINARY_SMALL && code != AMQP_BINARY)
        fail(fields);
    if (!next_uint(fields, &named->format))
        named->format = 0;
    named->settled = next_boolean(fields, &says_settled);
    named->more = next_boolean(fields, &is_said);
    skip(fields, AMQP_UBYTE, AMQP_UBYTE); /* rcv-settle-mode */
    if (count_values(fields->at, fields->end) > LIMIT_AMQP_STATE_VALUES)
        return AMQP_VALUES_TOO_MANY;
    state = fields->at;
    named->before = between(first, state);
    skip_state(fields);
    named->state = between(state, fields->at);
    named->behind = between(fields->at, fields->at);
    named->resumes = next_boolean(fields, &is_said);
    named->more &= !next_boolean(fields, &is_said); /* aborted */
    if (fields->failed)
        return AMQP_UNDECODABLE;
    named->behind.size = (size_t)(fields->at - named->behind.data);
    named->count = count - fields->count;
    named->end = fields->end;
    const struct amqp_channel *channel = &channels->channels[named->channel];
    const struct amqp_handle *at = named->at =
        amqp_handle_find(channels, named->channel, named->handle);
    if (at == NULL)
        return AMQP_UNATTACHED;
    if (at->receives)
        return AMQP_WRONG_WAY;
    if (code != AMQP_NULL && tag.size > LIMIT_AMQP_TAG_BYTES)
        return AMQP_VALUES_TOO_MANY;
    if (at->more) {
        if ((has_id && named->delivery != at->delivery) ||
            (at->settled && says_settled && !named->settled))
            return AMQP_WRONG_DELIVERY;
        named->settled |= at->settled;
    } else if (!has_id || (channel->has_delivered && named->delivery != channel->delivery)) {
        return AMQP_WRONG_DELIVERY;
    }
    return AMQP_PASSES;
}

static enum amqp_fate look(const struct amqp_channels *channels, struct span list, bool whole,
                           struct amqp_named *named)
{
    const struct amqp_channel *channel = amqp_channels_at(channels, named->channel);
    enum amqp_performative performative = named->performative;
    struct fields fields;
    if (performative == AMQP_OPEN || performative == AMQP_CLOSE || performative == AMQP_END)
        return AMQP_PASSES;
    if (channel != NULL && channel->state == AMQP_DISCARDING)
        return AMQP_DISCARDED;
    if (performative == AMQP_BEGIN && channel != NULL)
        return AMQP_CHANNEL_IN_USE;
    if (performative == AMQP_ATTACH && !whole) /* it is kept whole */
        return AMQP_UNFINISHED;
    if (performative != AMQP_BEGIN && channel == NULL) /* which Proton refuses */
        return AMQP_PASSES;
    enum amqp_fate fate = fields_of(list, whole, &fields);
    if (fate != AMQP_PASSES)
        return fate;
    switch (performative) {
    case AMQP_BEGIN:
        return look_at_begin(&fields);
    case AMQP_ATTACH:
        return look_at_attach(channels, &fields, named);
    case AMQP_FLOW:
        return look_at_flow(channels, &fields, named);
    case AMQP_TRANSFER:
        return look_at_transfer(channels, &fields, named);
    case AMQP_DISPOSITION:
        return look_at_disposition(&fields, named);
    case AMQP_DETACH:
        return look_at_detach(channels, &fields, named);
    case AMQP_OPEN:
    case AMQP_END:
    case AMQP_CLOSE:
    case AMQP_SASL_INIT:
    case AMQP_SASL_RESPONSE:
        break;
    }
    return AMQP_PASSES;
}

enum amqp_fate amqp_channels_look(const struct amqp_channels *channels,
                                  enum amqp_performative performative, uint16_t channel,
                                  struct span list, bool whole, struct amqp_named *named)
{
    *named = (struct amqp_named){.performative = performative, .channel = channel};
    named->fate = look(channels, list, whole, named);
    return named->fate;
}
