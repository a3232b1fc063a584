/* SPDX-License-Identifier: Apache-2.0 */
/* Filters of a source as the text of one selector, so that one machine matches for every protocol:
 * conditions joined by AND. Subject filters are those of Apache's registry, property filters those
 * of OASIS' AMQP Filter Expressions 1.0, 4.1. */
#include "adapters/amqp/expression.h"

#include <math.h>
#include <stdio.h>

#include "adapters/amqp/view.h"
#include "core/base/arena.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"

/* What a property may be compared with. */
enum form { FORM_ID, FORM_BINARY, FORM_TEXT, FORM_ADDRESS, FORM_TIME, FORM_NUMBER };

static const struct {
    const char *name, *header;
    enum form form;
} properties[] = {
    {"message-id", HEADER_MESSAGE_ID, FORM_ID},
    {"user-id", AMQP_HEADER_USER_ID, FORM_BINARY},
    {"to", AMQP_HEADER_TO, FORM_ADDRESS},
    {"subject", HEADER_SUBJECT, FORM_TEXT},
    {"reply-to", HEADER_REPLY_TO, FORM_ADDRESS},
    {"correlation-id", HEADER_CORRELATION_ID, FORM_ID},
    {"content-type", HEADER_CONTENT_TYPE, FORM_TEXT},
    {"content-encoding", HEADER_CONTENT_ENCODING, FORM_TEXT},
    {"absolute-expiry-time", HEADER_EXPIRES_AT, FORM_TIME},
    {"creation-time", HEADER_CREATION_TIME, FORM_TIME},
    {"group-id", HEADER_GROUP_ID, FORM_TEXT},
    {"group-sequence", HEADER_GROUP_SEQUENCE, FORM_NUMBER},
    {"reply-to-group-id", AMQP_HEADER_REPLY_GROUP, FORM_TEXT},
};

/* A text to compare with: "&p:" and "&s:" before it say that it is how the value begins or ends. */
struct wanted {
    enum { WHOLE, PREFIX, SUFFIX } part;
    struct span text;
};

/* ------------------------------------------------ text of a selector */

static void put(struct pack *to, const char *text)
{
    pack_bytes(to, span_from_text(text));
}

static void put_quoted(struct pack *to, struct span text, uint8_t quote)
{
    pack_u8(to, quote);
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] == quote)
            pack_u8(to, quote);
        pack_u8(to, text.data[i]);
    }
    pack_u8(to, quote);
}

/* One more condition: to be closed by put(to, ")"). */
static void put_and(struct expression *expression)
{
    put(&expression->to, expression->count++ == 0 ? "(" : " AND (");
}

static void put_pattern(struct pack *to, const struct wanted *wanted)
{
    put(to, wanted->part == SUFFIX ? " LIKE '%" : " LIKE '");
    for (size_t i = 0; i < wanted->text.size; i++) {
        uint8_t byte = wanted->text.data[i];
        if (byte == '%' || byte == '_' || byte == '!')
            pack_u8(to, '!');
        if (byte == '\'')
            pack_u8(to, '\'');
        pack_u8(to, byte);
    }
    put(to, wanted->part == PREFIX ? "%' ESCAPE '!'" : "' ESCAPE '!'");
}

static void put_wanted(struct pack *to, struct span name, const struct wanted *wanted)
{
    put_quoted(to, name, '"');
    if (wanted->part != WHOLE) {
        put_pattern(to, wanted);
        return;
    }
    put(to, " = ");
    put_quoted(to, wanted->text, '\'');
}

/* ------------------------------------------------ what is compared with */

static enum status not_text(struct err *err)
{
    return err_set(err, STATUS_INVALID, "a filter compares with texts that are UTF-8, without NUL");
}

static enum status read_wanted(const struct amqp_value *value, struct wanted *wanted,
                               struct err *err)
{
    struct span text = value->bytes;
    *wanted = (struct wanted){.part = WHOLE, .text = text};
    if (!utf8_is_valid_no_nul(text))
        return not_text(err);
    if (value->type != AMQP_STRING || text.size == 0 || text.data[0] != '&')
        return STATUS_OK;
    if (text.size >= 3 && text.data[2] == ':' && (text.data[1] == 'p' || text.data[1] == 's')) {
        wanted->part = text.data[1] == 'p' ? PREFIX : SUFFIX;
        wanted->text = span_from(text, 3);
    } else if (text.size >= 2 && text.data[1] == '&') {
        wanted->text = span_from(text, 1);
    } else {
        return err_set(err, STATUS_INVALID,
                       "after & come p: and how a text begins, s: and how it ends, or another &");
    }
    return STATUS_OK;
}

static enum status put_real(struct pack *to, double real, int digits, struct err *err)
{
    char text[40];
    if (!isfinite(real))
        return err_set(err, STATUS_INVALID, "a filter compares with finite numbers");
    snprintf(text, sizeof text, "%.*g", digits, real);
    put(to, text);
    return STATUS_OK;
}

/* name = number, truth, time, or what records hold as a text of its own. */
static enum status put_simple(struct pack *to, struct span name, const struct amqp_value *value,
                              struct err *err)
{
    char text[40];
    put_quoted(to, name, '"');
    put(to, " = ");
    switch (value->type) {
    case AMQP_BOOLEAN:
        put(to, value->number != 0 ? "TRUE" : "FALSE");
        return STATUS_OK;
    case AMQP_UBYTE:
    case AMQP_USHORT:
    case AMQP_UINT:
    case AMQP_ULONG: /* what is too large for a whole number there goes on as a real one */
        snprintf(text, sizeof text, value->number > INT64_MAX ? "%llu." : "%llu",
                 (unsigned long long)value->number);
        put(to, text);
        return STATUS_OK;
    case AMQP_BYTE:
    case AMQP_SHORT:
    case AMQP_INT:
    case AMQP_LONG:
    case AMQP_TIMESTAMP:
        snprintf(text, sizeof text, "%lld", (long long)value->number);
        put(to, text);
        return STATUS_OK;
    case AMQP_FLOAT:
        return put_real(to, amqp_value_real(value), 9, err);
    case AMQP_DOUBLE:
        return put_real(to, amqp_value_real(value), 17, err);
    case AMQP_CHAR:
        snprintf(text, sizeof text, "'%llu'", (unsigned long long)value->number);
        put(to, text);
        return STATUS_OK;
    case AMQP_UUID:
        pack_u8(to, '\'');
        for (size_t i = 0; i < value->bytes.size; i++) {
            snprintf(text, sizeof text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                     value->bytes.data[i]);
            put(to, text);
        }
        pack_u8(to, '\'');
        return STATUS_OK;
    default:
        return err_set(err, STATUS_INVALID, "a filter cannot compare with a value of that type");
    }
}

static bool is_text_like(const struct amqp_value *value)
{
    return amqp_is_text(value) || value->type == AMQP_BINARY;
}

static enum status put_value(struct pack *to, struct span name, const struct amqp_value *value,
                             struct err *err)
{
    struct wanted wanted;
    if (!is_text_like(value))
        return put_simple(to, name, value, err);
    enum status status = read_wanted(value, &wanted, err);
    if (status == STATUS_OK)
        put_wanted(to, name, &wanted);
    return status;
}

/* ------------------------------------------------ properties */

static bool fits(enum form form, enum amqp_type type)
{
    switch (form) {
    case FORM_ID:
        return type == AMQP_STRING || type == AMQP_ULONG || type == AMQP_UUID ||
               type == AMQP_BINARY;
    case FORM_BINARY:
        return type == AMQP_BINARY;
    case FORM_TEXT:
    case FORM_ADDRESS:
        return type == AMQP_STRING || type == AMQP_SYMBOL;
    case FORM_TIME:
        return type == AMQP_TIMESTAMP;
    case FORM_NUMBER:
        return type == AMQP_UINT;
    }
    return false;
}

static bool begins(struct span text, struct span with)
{
    return text.size >= with.size && (with.size == 0 || !memcmp(text.data, with.data, with.size));
}

/* Where a record lies under a topic the topic says what its `to` is: /topics/ and the topic. */
static void put_to(struct pack *to, const struct wanted *wanted)
{
    const struct span topics = span_from_text("/topics/");
    struct wanted topic = *wanted;
    put_wanted(to, span_from_text(AMQP_HEADER_TO), wanted);
    if (wanted->part == PREFIX && begins(topics, wanted->text)) {
        put(to, " OR topic IS NOT NULL");
        return;
    }
    if (wanted->part != SUFFIX) {
        if (!begins(wanted->text, topics))
            return;
        topic.text = span_from(wanted->text, topics.size);
    }
    put(to, " OR ");
    put_wanted(to, span_from_text(HEADER_TOPIC), &topic);
}

/* Kept in the form that all protocols share: the topic, or $queue/ and the queue. */
static enum status put_reply_to(struct pack *to, const struct wanted *wanted)
{
    struct arena arena;
    arena_init(&arena, 2 * LIMIT_SELECTOR_BYTES);
    struct wanted address = *wanted;
    if (wanted->part != SUFFIX)
        address.text = amqp_address_in(wanted->text, &arena);
    bool known = address.text.data != NULL || address.text.size == wanted->text.size;
    if (wanted->part == PREFIX && begins(span_from_text("/topics/"), wanted->text))
        put(to, "\"reply-to\" NOT LIKE '$queue/%'");
    else
        put_wanted(to, span_from_text(HEADER_REPLY_TO), &address);
    arena_deinit(&arena);
    return known ? STATUS_OK : STATUS_TOO_LARGE;
}

static enum status put_address(struct pack *to, const char *header, const struct amqp_value *value,
                               struct err *err)
{
    struct wanted wanted;
    enum status status = read_wanted(value, &wanted, err);
    if (status != STATUS_OK)
        return status;
    if (span_is(span_from_text(header), AMQP_HEADER_TO))
        put_to(to, &wanted);
    else
        status = put_reply_to(to, &wanted);
    return status;
}

static enum status put_property(struct expression *expression, struct span key,
                                const struct amqp_value *value, struct err *err)
{
    size_t i = 0;
    while (i < sizeof properties / sizeof *properties && !span_is(key, properties[i].name))
        i++;
    if (i == sizeof properties / sizeof *properties)
        return err_set(err, STATUS_INVALID, "amqp:properties-filter: there is no property %.*s",
                       key.size > 64 ? 64 : (int)key.size, (const char *)key.data);
    if (value->type == AMQP_NULL) /* whatever it is */
        return STATUS_OK;
    if (!fits(properties[i].form, value->type))
        return err_set(err, STATUS_INVALID, "amqp:properties-filter: %s is of another type",
                       properties[i].name);
    put_and(expression);
    struct span header = span_from_text(properties[i].header);
    enum status status = properties[i].form == FORM_ADDRESS
                             ? put_address(&expression->to, properties[i].header, value, err)
                             : put_value(&expression->to, header, value, err);
    put(&expression->to, ")");
    return status;
}

static enum status put_application(struct expression *expression, struct span key,
                                   const struct amqp_value *value, struct err *err)
{
    enum status status = STATUS_OK;
    if (!utf8_is_valid_no_nul(key))
        return not_text(err);
    put_and(expression);
    if (value->type == AMQP_NULL) { /* it must be there */
        put_quoted(&expression->to, key, '"');
        put(&expression->to, " IS NOT NULL");
    } else {
        status = put_value(&expression->to, key, value, err);
    }
    put(&expression->to, ")");
    return status;
}

/* ------------------------------------------------ filters */

void expression_init(struct expression *expression)
{
    *expression = (struct expression){0};
    buf_init(&expression->text, 4 * LIMIT_SELECTOR_BYTES);
    expression->to = pack_into(&expression->text);
}

void expression_deinit(struct expression *expression)
{
    buf_deinit(&expression->text);
}

enum status expression_selector(struct expression *expression, const struct amqp_value *value,
                                struct err *err)
{
    struct selector *selector;
    if (!amqp_is_text(value))
        return err_set(err, STATUS_INVALID, "a selector is a text");
    /* By itself: what only together with others makes sense is none. */
    enum status status = selector_compile(value->bytes, &selector, err);
    if (status != STATUS_OK)
        return status;
    selector_unref(selector);
    if (expression->count == 0)
        expression->only = value->bytes;
    put_and(expression);
    pack_bytes(&expression->to, value->bytes);
    put(&expression->to, ")");
    return STATUS_OK;
}

enum status expression_subject(struct expression *expression, bool has_words,
                               const struct amqp_value *value, struct err *err)
{
    if (!amqp_is_text(value))
        return err_set(err, STATUS_INVALID, "a subject filter is a text");
    if (!utf8_is_valid_no_nul(value->bytes))
        return not_text(err);
    if (has_words && span_is(value->bytes, "#"))
        return STATUS_OK; /* also what has no subject */
    put_and(expression);
    put_quoted(&expression->to, span_from_text(HEADER_SUBJECT), '"');
    put(&expression->to, has_words ? " MATCHES " : " = ");
    put_quoted(&expression->to, value->bytes, '\'');
    put(&expression->to, ")");
    return STATUS_OK;
}

enum status expression_properties(struct expression *expression, bool application,
                                  const struct amqp_value *map, struct err *err)
{
    const char *name =
        application ? "amqp:application-properties-filter" : "amqp:properties-filter";
    if (map->type != AMQP_MAP || map->count == 0 || map->count % 2 != 0)
        return err_set(err, STATUS_INVALID, "%s is a map that is not empty", name);
    struct reader at = reader_of(map->bytes);
    for (uint32_t i = 0; i < map->count; i += 2) {
        struct amqp_value key, value;
        if (!amqp_value_read(&at, &key) || !amqp_value_read(&at, &value) || !amqp_is_text(&key))
            return err_set(err, STATUS_INVALID, "%s: a key that is no text, or no value", name);
        enum status status = application ? put_application(expression, key.bytes, &value, err)
                                         : put_property(expression, key.bytes, &value, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status expression_compile(struct expression *expression, struct selector **selector,
                               struct err *err)
{
    *selector = NULL;
    if (expression->to.status != STATUS_OK)
        return err_set(err, STATUS_INVALID, "the filters together are too large");
    if (expression->count == 0)
        return STATUS_OK;
    bool alone = expression->count == 1 && expression->only.data != NULL;
    return selector_compile(alone ? expression->only : buf_span(&expression->text), selector, err);
}
