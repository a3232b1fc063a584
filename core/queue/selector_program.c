/* SPDX-License-Identifier: Apache-2.0 */
/* The program of a selector as it grows: operations, and the operands that they take: constants,
 * and names of fields and headers. */
#include "core/base/check.h"
#include "core/queue/selector_parser.h"

enum status parser_fail(struct parser *parser, uint32_t position, const char *reason)
{
    return err_set(parser->err, STATUS_INVALID, "at %u: %s", position, reason);
}

enum status parser_advance(struct parser *parser)
{
    return scanner_next(&parser->scanner, &parser->token);
}

enum status parser_emit(struct parser *parser, enum op_code code, unsigned at, unsigned count)
{
    parser->steps += 1 + count;
    if (parser->steps > LIMIT_SELECTOR_STEPS)
        return err_set(parser->err, STATUS_INVALID, "at %u: more than %u operations",
                       parser->token.position, LIMIT_SELECTOR_STEPS);
    parser->ops[parser->op_count++] =
        (struct op){.code = (uint8_t)code, .at = (uint16_t)at, .count = (uint16_t)count};
    return STATUS_OK;
}

struct operand *parser_top(struct parser *parser)
{
    CHECK(parser->operand_count > 0);
    return &parser->operands[parser->operand_count - 1];
}

static enum status push_operand(struct parser *parser, enum sort sort, bool is_name)
{
    if (parser->operand_count == LIMIT_SELECTOR_DEPTH)
        return parser_fail(parser, parser->token.position, "nested too deep");
    parser->operands[parser->operand_count++] =
        (struct operand){.sort = sort, .is_name = is_name, .position = parser->token.position};
    return STATUS_OK;
}

unsigned parser_add_constant(struct parser *parser, struct value value)
{
    CHECK(parser->constant_count < CONSTANTS_MAX);
    parser->constants[parser->constant_count] = value;
    return parser->constant_count++;
}

enum status parser_push_constant(struct parser *parser, enum sort sort, struct value value)
{
    enum status status = push_operand(parser, sort, false);
    if (status == STATUS_OK)
        status = parser_emit(parser, OP_CONSTANT, parser_add_constant(parser, value), 0);
    return status == STATUS_OK ? parser_advance(parser) : status;
}

/* Names */

static const struct {
    const char *name;
    enum field field;
    const char *header;
} fields[] = {
    {"JMSCorrelationID", FIELD_STRING, HEADER_CORRELATION_ID},
    {"JMSDeliveryMode", FIELD_DELIVERY_MODE, ""},
    {"JMSMessageID", FIELD_STRING, HEADER_MESSAGE_ID},
    {"JMSPriority", FIELD_PRIORITY, HEADER_PRIORITY},
    {"JMSTimestamp", FIELD_TIMESTAMP, HEADER_CREATION_TIME},
    {"JMSType", FIELD_STRING, HEADER_SUBJECT},
    {"JMSXGroupID", FIELD_STRING, HEADER_GROUP_ID},
    {"JMSXGroupSeq", FIELD_NUMBER, HEADER_GROUP_SEQUENCE},
    {"key", FIELD_KEY, ""},
};

static bool begins_with(struct span text, const char *beginning)
{
    size_t size = strlen(beginning);
    return text.size >= size && memcmp(text.data, beginning, size) == 0;
}

/* False: JMS keeps that name for itself. */
static bool slot_of_name(struct span name, bool is_quoted, struct slot *slot)
{
    *slot = (struct slot){.field = FIELD_PROPERTY, .name = name};
    if (is_quoted)
        return true;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (!span_is(name, fields[i].name))
            continue;
        *slot = (struct slot){.field = fields[i].field, .name = span_from_text(fields[i].header)};
        return true;
    }
    return !begins_with(name, "JMS") || begins_with(name, "JMSX") || begins_with(name, "JMS_");
}

/* As record.h has it. There is room for that: what stands between two names makes up for the
 * prefix. */
static struct span stored_name(struct scanner *scanner, struct span name)
{
    if (!header_begins_as_own(name))
        return name;
    uint8_t *stored = scanner->memory;
    memcpy(stored, HEADER_OWN_PREFIX, HEADER_OWN_PREFIX_SIZE);
    memcpy(stored + HEADER_OWN_PREFIX_SIZE, name.data, name.size);
    scanner->memory = stored + HEADER_OWN_PREFIX_SIZE + name.size;
    return span_of(stored, HEADER_OWN_PREFIX_SIZE + name.size);
}

enum status parser_push_name(struct parser *parser)
{
    struct slot slot;
    bool is_quoted = parser->scanner.text.data[parser->token.position - 1] == '"';
    if (!slot_of_name(parser->token.text, is_quoted, &slot))
        return parser_fail(parser, parser->token.position, "no field that can be selected by");
    slot.name = stored_name(&parser->scanner, slot.name);
    unsigned at = 0;
    while (at < parser->slot_count && (parser->slots[at].field != slot.field ||
                                       !span_equal(parser->slots[at].name, slot.name)))
        at++;
    if (at == LIMIT_SELECTOR_NAMES)
        return parser_fail(parser, parser->token.position, "too many different names");
    if (at == parser->slot_count)
        parser->slots[parser->slot_count++] = slot;
    enum status status = push_operand(parser, SORT_ANY, true);
    if (status == STATUS_OK)
        status = parser_emit(parser, OP_SLOT, at, 0);
    return status == STATUS_OK ? parser_advance(parser) : status;
}
