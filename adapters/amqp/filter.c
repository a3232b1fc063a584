/* SPDX-License-Identifier: Apache-2.0 */
/* What an attach to a source says beside its address: how long leases shall last, and the filter
 * set, a map from names to described values, of which the descriptor says what they are. */
#include "adapters/amqp/filter.h"
#include "adapters/amqp/expression.h"
#include "core/base/limits.h"
#include "core/queue/selector.h"

enum { FILTER_BYTES_MAX = 16 * 1024 };

enum filter_kind {
    FILTER_UNKNOWN,
    FILTER_SELECTOR,
    FILTER_DIRECT,
    FILTER_WORDS,
    FILTER_PROPERTIES,
    FILTER_APPLICATION,
    FILTER_NO_LOCAL,
    FILTER_POSITION
};

static enum filter_kind kind_of(const struct amqp_value *descriptor)
{
    static const struct {
        uint64_t code;
        const char *name;
        enum filter_kind kind;
    } kinds[] = {
        {0x0000468C00000000, "apache.org:legacy-amqp-direct-binding:string", FILTER_DIRECT},
        {0x0000468C00000001, "apache.org:legacy-amqp-topic-binding:string", FILTER_WORDS},
        {0x0000468C00000003, "apache.org:no-local-filter:list", FILTER_NO_LOCAL},
        {0x0000468C00000004, "apache.org:selector-filter:string", FILTER_SELECTOR},
        {0x173, "amqp:properties-filter", FILTER_PROPERTIES},
        {0x174, "amqp:application-properties-filter", FILTER_APPLICATION},
        {UINT64_MAX, "rabbitmq:stream-offset-spec", FILTER_POSITION},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if ((descriptor->type == AMQP_ULONG && descriptor->number == kinds[i].code) ||
            (descriptor->type == AMQP_SYMBOL && span_is(descriptor->bytes, kinds[i].name)))
            return kinds[i].kind;
    return FILTER_UNKNOWN;
}

/* first, last, next, an offset, or a time. */
static enum status apply_position(const struct amqp_value *value, struct amqp_filter *filter,
                                  struct err *err)
{
    filter->has_position = true;
    filter->last = false;
    if (amqp_is_text(value) && span_is(value->bytes, "first")) {
        filter->from = SEEK_EARLIEST;
    } else if (amqp_is_text(value) && span_is(value->bytes, "next")) {
        filter->from = SEEK_LATEST;
    } else if (amqp_is_text(value) && span_is(value->bytes, "last")) {
        filter->from = SEEK_LATEST;
        filter->last = true;
    } else if (value->type == AMQP_TIMESTAMP) {
        filter->from = SEEK_TIME;
        filter->time_ms = (int64_t)value->number;
    } else if (value->type == AMQP_ULONG || value->type == AMQP_UINT ||
               ((value->type == AMQP_LONG || value->type == AMQP_INT) &&
                (int64_t)value->number >= 0)) {
        filter->from = SEEK_OFFSET;
        filter->offset = value->number;
    } else {
        return err_set(err, STATUS_INVALID,
                       "a position is first, last, next, an offset, or a timestamp");
    }
    return STATUS_OK;
}

static enum status apply(enum filter_kind kind, const struct amqp_value *value,
                         struct amqp_filter *filter, struct expression *expression, struct err *err)
{
    switch (kind) {
    case FILTER_SELECTOR:
        return expression_selector(expression, value, err);
    case FILTER_DIRECT:
    case FILTER_WORDS:
        return expression_subject(expression, kind == FILTER_WORDS, value, err);
    case FILTER_PROPERTIES:
    case FILTER_APPLICATION:
        return expression_properties(expression, kind == FILTER_APPLICATION, value, err);
    case FILTER_NO_LOCAL:
        filter->no_local = true;
        return STATUS_OK;
    case FILTER_POSITION:
        return apply_position(value, filter, err);
    case FILTER_UNKNOWN:
        break;
    }
    return STATUS_OK;
}

/* What applies is answered in the same form. */
static enum status apply_set(const struct amqp_value *set, struct amqp_filter *filter,
                             struct expression *expression, struct amqp_writer *echo,
                             struct err *err)
{
    struct reader at = reader_of(set->bytes);
    uint8_t *began = amqp_open(echo);
    uint32_t count = 0;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i + 1 < set->count && status == STATUS_OK; i += 2) {
        const uint8_t *from = at.at;
        struct amqp_value key, item, descriptor, value;
        if (!amqp_value_read(&at, &key) || !amqp_value_read(&at, &item))
            return err_set(err, STATUS_MALFORMED, "the filter set cannot be decoded");
        if (item.type != AMQP_DESCRIBED)
            continue;
        struct reader inside = reader_of(item.bytes);
        if (!amqp_value_read(&inside, &descriptor) || !amqp_value_read(&inside, &value))
            continue;
        enum filter_kind kind = kind_of(&descriptor);
        if (kind == FILTER_UNKNOWN || (kind == FILTER_NO_LOCAL && filter->of_group))
            continue;
        status = apply(kind, &value, filter, expression, err);
        amqp_write_raw(echo, span_of(from, (size_t)(at.at - from)));
        count += 2;
    }
    amqp_close(echo, began, AMQP_MAP, count, false);
    return status;
}

enum status amqp_filter_decode(struct span bytes, struct amqp_filter *filter,
                               struct amqp_writer *echo, struct err *err)
{
    struct reader at = reader_of(bytes);
    struct amqp_value set;
    if (!amqp_value_read(&at, &set) || set.type != AMQP_MAP)
        return STATUS_OK; /* null */
    struct expression expression;
    expression_init(&expression);
    enum status status = apply_set(&set, filter, &expression, echo, err);
    if (status == STATUS_OK)
        status = expression_compile(&expression, &filter->selector, err);
    expression_deinit(&expression);
    return status;
}

/* The set as bytes, so that the one decoder there is looks at it; false: none, or too large. */
static bool encode(pn_data_t *set, char *bytes, size_t *size)
{
    pn_data_rewind(set);
    if (pn_data_size(set) == 0)
        return false;
    ssize_t encoded = pn_data_encode(set, bytes, *size);
    pn_data_rewind(set);
    *size = encoded > 0 ? (size_t)encoded : 0;
    return encoded > 0;
}

enum status amqp_filter_read(pn_terminus_t *remote, pn_terminus_t *local,
                             struct amqp_filter *filter, struct err *err)
{
    char bytes[FILTER_BYTES_MAX];
    size_t size = sizeof bytes;
    pn_data_t *echo = pn_terminus_filter(local);
    pn_data_clear(echo);
    if (pn_data_size(pn_terminus_filter(remote)) == 0)
        return STATUS_OK;
    if (!encode(pn_terminus_filter(remote), bytes, &size))
        return err_set(err, STATUS_INVALID, "the filter set is too large");
    uint8_t again[FILTER_BYTES_MAX + AMQP_HEAD_MAX];
    struct amqp_writer writer = {.at = again};
    enum status status = amqp_filter_decode(span_of(bytes, size), filter, &writer, err);
    if (status == STATUS_OK && writer.at - again > 3)
        pn_data_decode(echo, (const char *)again, (size_t)(writer.at - again));
    return status;
}

enum status amqp_lease_read(pn_data_t *properties, uint32_t *lease_ms)
{
    char bytes[FILTER_BYTES_MAX];
    size_t size = sizeof bytes;
    struct amqp_value map, key, value;
    if (properties == NULL || !encode(properties, bytes, &size))
        return STATUS_OK;
    struct reader at = reader_of(span_of(bytes, size));
    if (!amqp_value_read(&at, &map) || map.type != AMQP_MAP)
        return STATUS_OK;
    at = reader_of(map.bytes);
    for (uint32_t i = 0; i < map.count; i += 2) {
        if (!amqp_value_read(&at, &key) || !amqp_value_read(&at, &value))
            return STATUS_MALFORMED;
        if (!amqp_is_text(&key) || !span_is(key.bytes, "x-opt-lease"))
            continue;
        bool whole = value.type == AMQP_UINT || value.type == AMQP_ULONG ||
                     value.type == AMQP_INT || value.type == AMQP_LONG;
        if (!whole || value.number < LIMIT_LEASE_MIN_MS || value.number > LIMIT_LEASE_MS)
            return STATUS_INVALID;
        *lease_ms = (uint32_t)value.number;
    }
    return STATUS_OK;
}

void amqp_filter_deinit(struct amqp_filter *filter)
{
    selector_unref(filter->selector);
    filter->selector = NULL;
}
