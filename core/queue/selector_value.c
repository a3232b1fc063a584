/* SPDX-License-Identifier: Apache-2.0 */
/* From a record to the values that a selector names. */
#include <math.h>
#include <stdlib.h>

#include "core/log/types.h"
#include "core/queue/selector_impl.h"

enum {
    NUMBER_SIZE_MAX = 64, /* longer text is no number */
    EXACT_DIGITS = 15,    /* so many decimal digits fit a double */
    EXACT_POWER = 22,     /* so does this power of ten */
    PRIORITY_DEFAULT = 4,
};

/* Where the parts of a decimal number are. */
struct digits {
    uint64_t mantissa; /* of all digits, while exact */
    unsigned count;    /* significant digits; more than 19: mantissa is of no use */
    int fraction;      /* digits behind the point */
    bool negative, real;
    bool exponent;
};

static const uint8_t *read_digits(const uint8_t *at, const uint8_t *end, struct digits *digits)
{
    for (; at < end && *at >= '0' && *at <= '9'; at++) {
        digits->mantissa = digits->mantissa * 10 + (uint64_t)(*at - '0');
        digits->count += digits->count > 0 || *at != '0';
    }
    return at;
}

/* The whole text as [sign] digits [. digits] [e [sign] digits], with a digit before the exponent.
 */
static bool read_parts(struct span text, struct digits *digits)
{
    const uint8_t *at = text.data, *end = at + text.size;
    if (at < end && (*at == '-' || *at == '+'))
        digits->negative = *at++ == '-';
    const uint8_t *from = at;
    at = read_digits(at, end, digits);
    bool any = at > from;
    if (at < end && *at == '.') {
        from = ++at;
        at = read_digits(at, end, digits);
        digits->fraction = (int)(at - from);
        digits->real = true;
        any |= at > from;
    }
    if (any && at < end && (*at | 0x20) == 'e') {
        digits->real = digits->exponent = true;
        at++;
        if (at < end && (*at == '-' || *at == '+'))
            at++;
        from = at;
        while (at < end && *at >= '0' && *at <= '9')
            at++;
        any = at > from;
    }
    return any && at == end;
}

static bool read_slowly(struct span text, struct value *value)
{
    char copy[NUMBER_SIZE_MAX + 1];
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    *value = (struct value){.kind = VALUE_REAL, .real = strtod(copy, NULL)};
    return isfinite(value->real);
}

bool value_read_number(struct span text, struct value *value)
{
    static const double powers[EXACT_POWER + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                   1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                                   1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    struct digits digits = {0};
    if (text.size == 0 || text.size > NUMBER_SIZE_MAX || !read_parts(text, &digits))
        return false;
    if (!digits.real && digits.count <= 19 &&
        digits.mantissa <= (uint64_t)INT64_MAX + digits.negative) {
        uint64_t bits = digits.negative ? 0 - digits.mantissa : digits.mantissa;
        *value = (struct value){.kind = VALUE_INTEGER, .integer = (int64_t)bits};
        return true;
    }
    /* Both exact, so that the quotient is rounded once: what strtod would give. */
    if (!digits.exponent && digits.count <= EXACT_DIGITS && digits.fraction <= EXACT_POWER) {
        double real = (double)digits.mantissa / powers[digits.fraction];
        *value = (struct value){.kind = VALUE_REAL, .real = digits.negative ? -real : real};
        return true;
    }
    return read_slowly(text, value);
}

struct value value_as_number(const struct value *value)
{
    struct value number = {.kind = VALUE_NULL};
    if (value->kind == VALUE_INTEGER || value->kind == VALUE_REAL)
        return *value;
    if (value->kind == VALUE_TEXT && value_read_number(value->text, &number))
        return number;
    return (struct value){.kind = VALUE_NULL};
}

/* What a header holds before its type is known. */
static struct value value_of_header(struct span text)
{
    if (text.data == NULL)
        return (struct value){.kind = VALUE_NULL};
    return (struct value){.kind = VALUE_TEXT, .text = text};
}

/* Text under a type. Text that does not read as its type stays text: somebody wrote it so. */
static struct value value_typed(const struct value *text, uint8_t code)
{
    struct value number;
    switch (code) {
    case TYPE_NULL:
        return (struct value){.kind = VALUE_NULL};
    case TYPE_BOOLEAN:
        if (!span_is(text->text, "true") && !span_is(text->text, "false"))
            return *text;
        return (struct value){.kind = VALUE_TRUTH, .truth = span_is(text->text, "true")};
    case TYPE_UBYTE:
    case TYPE_BYTE:
    case TYPE_USHORT:
    case TYPE_SHORT:
    case TYPE_UINT:
    case TYPE_INT:
    case TYPE_FLOAT:
    case TYPE_DECIMAL32:
    case TYPE_ULONG:
    case TYPE_LONG:
    case TYPE_DOUBLE:
    case TYPE_TIMESTAMP:
    case TYPE_DECIMAL64:
    case TYPE_DECIMAL128:
        number = value_as_number(text);
        return number.kind == VALUE_NULL ? *text : number;
    default:
        return (struct value){.kind = VALUE_STRING, .text = text->text};
    }
}

/* Gives every slot of that name the value, unless an earlier header did. */
static void fill(const struct selector *selector, const struct header *header, struct value *values)
{
    for (uint8_t i = selector->buckets[slot_bucket(header->name)]; i != 0;) {
        const struct slot *slot = &selector->slots[i - 1];
        if (values[i - 1].kind == VALUE_MISSING && span_equal(slot->name, header->name))
            values[i - 1] = value_of_header(header->value);
        i = slot->next;
    }
}

static void apply_types(const struct selector *selector, struct span types, struct value *values)
{
    struct reader at = reader_of(types);
    struct typed_name typed;
    for (unsigned n = 0; n < LIMIT_HEADERS && types_next(&at, &typed); n++) {
        if (typed.occurrence != 0)
            continue;
        for (uint8_t i = selector->buckets[slot_bucket(typed.name)]; i != 0;) {
            const struct slot *slot = &selector->slots[i - 1];
            if (values[i - 1].kind == VALUE_TEXT && slot->field != FIELD_STRING &&
                span_equal(slot->name, typed.name))
                values[i - 1] = value_typed(&values[i - 1], typed.code);
            i = slot->next;
        }
    }
}

static void walk_headers(const struct selector *selector, const struct record *record,
                         struct value *values)
{
    struct reader at = reader_of(record->headers);
    struct header header;
    struct span types = {0};
    while (record_next_header(&at, &header)) {
        if (selector->buckets[slot_bucket(header.name)] != 0)
            fill(selector, &header, values);
        if (types.size == 0 && header.name.size == sizeof HEADER_TYPES - 1 &&
            memcmp(header.name.data, HEADER_TYPES, sizeof HEADER_TYPES - 1) == 0)
            types = header.value;
    }
    if (types.size != 0)
        apply_types(selector, types, values);
}

/* Fields that follow rules of their own. */
static void value_finish(enum field field, const struct record *record, struct value *value)
{
    switch (field) {
    case FIELD_PROPERTY:
        break;
    case FIELD_STRING:
        if (value->kind == VALUE_TEXT)
            value->kind = VALUE_STRING;
        break;
    case FIELD_NUMBER:
    case FIELD_PRIORITY:
        *value = value_as_number(value);
        if (field == FIELD_PRIORITY && value->kind == VALUE_NULL)
            *value = (struct value){.kind = VALUE_INTEGER, .integer = PRIORITY_DEFAULT};
        break;
    case FIELD_KEY:
        *value = value_of_header(record->key);
        break;
    case FIELD_TIMESTAMP:
        *value = value_as_number(value);
        if (value->kind != VALUE_INTEGER)
            *value = (struct value){.kind = VALUE_INTEGER, .integer = record->timestamp_ms};
        break;
    case FIELD_DELIVERY_MODE:
        value->kind = VALUE_STRING;
        value->text = span_from_text(
            (record->attributes & RECORD_NOT_DURABLE) != 0 ? "NON_PERSISTENT" : "PERSISTENT");
        break;
    }
}

void selector_look_up(const struct selector *selector, const struct record *record,
                      struct value *values)
{
    for (unsigned i = 0; i < selector->slot_count; i++)
        values[i].kind = VALUE_MISSING;
    walk_headers(selector, record, values);
    for (unsigned i = 0; i < selector->slot_count; i++)
        value_finish(selector->slots[i].field, record, &values[i]);
}
