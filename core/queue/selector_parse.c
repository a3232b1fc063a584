/* SPDX-License-Identifier: Apache-2.0 */
/* Compiling a selector: an operator precedence parser with stacks of its own, so that nesting costs
 * no recursion. Operands go to the program at once, operators when what follows binds less. */
#include <strings.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/utf8.h"
#include "core/queue/selector_parser.h"

static enum status advance_over(struct parser *parser, enum token_kind kind, const char *expected)
{
    if (parser->token.kind != kind)
        return parser_fail(parser, parser->token.position, expected);
    return parser_advance(parser);
}

/* Operators that wait for their right operand */

static enum status push_pending(struct parser *parser, uint8_t code, uint8_t binding)
{
    bool nests = binding == BIND_OPEN || binding == BIND_NOT || binding == BIND_SIGN;
    if (nests && ++parser->depth > LIMIT_SELECTOR_DEPTH)
        return parser_fail(parser, parser->token.position, "nested too deep");
    CHECK(parser->pending_count < PENDING_MAX);
    parser->pending[parser->pending_count++] =
        (struct pending){.code = code, .binding = binding, .position = parser->token.position};
    return parser_advance(parser);
}

static struct pending pop_pending(struct parser *parser)
{
    struct pending pending = parser->pending[--parser->pending_count];
    if (pending.binding == BIND_OPEN || pending.binding == BIND_NOT || pending.binding == BIND_SIGN)
        parser->depth--;
    return pending;
}

static struct pending *top_pending(struct parser *parser)
{
    return parser->pending_count == 0 ? NULL : &parser->pending[parser->pending_count - 1];
}

static enum status need_numbers(struct parser *parser, unsigned operands, const char *reason)
{
    for (unsigned i = parser->operand_count - operands; i < parser->operand_count; i++)
        if (parser->operands[i].sort != SORT_ANY && parser->operands[i].sort != SORT_NUMBER)
            return parser_fail(parser, parser->operands[i].position, reason);
    return STATUS_OK;
}

static enum status need_condition(struct parser *parser)
{
    if (parser_top(parser)->sort != SORT_ANY && parser_top(parser)->sort != SORT_CONDITION)
        return parser_fail(parser, parser_top(parser)->position, "expected a condition");
    return STATUS_OK;
}

static void merge(struct parser *parser, unsigned operands, enum sort sort)
{
    parser->operand_count -= operands - 1;
    parser_top(parser)->sort = sort;
    parser_top(parser)->is_name = false;
    parser_top(parser)->is_compared = false;
}

static enum status reduce_sum(struct parser *parser, const struct pending *pending)
{
    unsigned operands = pending->binding == BIND_SIGN ? 1 : 2;
    enum status status = need_numbers(parser, operands, "expected a number");
    merge(parser, operands, SORT_NUMBER);
    return status == STATUS_OK ? parser_emit(parser, pending->code, 0, 0) : status;
}

static enum status reduce_comparison(struct parser *parser, const struct pending *pending)
{
    bool between = pending->code == OP_BETWEEN || pending->code == OP_NOT_BETWEEN;
    unsigned operands = between ? 3 : 2;
    enum status status = STATUS_OK;
    if (between && !pending->has_and)
        return parser_fail(parser, parser->token.position, "expected AND of BETWEEN");
    if (pending->code != OP_EQUAL && pending->code != OP_NOT_EQUAL)
        status = need_numbers(parser, operands, "only numbers have an order");
    merge(parser, operands, SORT_CONDITION);
    parser_top(parser)->is_compared = true;
    return status == STATUS_OK ? parser_emit(parser, pending->code, 0, 0) : status;
}

static enum status reduce_logic(struct parser *parser, const struct pending *pending)
{
    enum status status = need_condition(parser);
    if (status == STATUS_OK)
        status = parser_emit(parser, pending->code, 0, 0);
    merge(parser, pending->code == OP_NOT ? 1 : 2, SORT_CONDITION);
    if (pending->code != OP_NOT)
        parser->ops[pending->skip].at = (uint16_t)parser->op_count;
    return status;
}

/* Completes the operators that bind at least that tightly, down to an open parenthesis. */
static enum status reduce(struct parser *parser, uint8_t binding)
{
    enum status status = STATUS_OK;
    while (status == STATUS_OK && parser->pending_count > 0 &&
           top_pending(parser)->binding >= binding) {
        struct pending pending = pop_pending(parser);
        if (pending.binding >= BIND_ADD)
            status = reduce_sum(parser, &pending);
        else if (pending.binding == BIND_COMPARE)
            status = reduce_comparison(parser, &pending);
        else
            status = reduce_logic(parser, &pending);
    }
    return status;
}

/* Where a value or a condition begins */

static enum status push_integer(struct parser *parser, bool negative)
{
    uint64_t magnitude = parser->token.magnitude;
    if (!negative && magnitude > INT64_MAX)
        return parser_fail(parser, parser->token.position, "this number is too large");
    uint64_t bits = negative ? 0 - magnitude : magnitude;
    return parser_push_constant(parser, SORT_NUMBER,
                                (struct value){.kind = VALUE_INTEGER, .integer = (int64_t)bits});
}

static enum status push_real(struct parser *parser, bool negative)
{
    double real = negative ? -parser->token.real : parser->token.real;
    return parser_push_constant(parser, SORT_NUMBER,
                                (struct value){.kind = VALUE_REAL, .real = real});
}

/* In front of a literal a sign is part of it: -9223372036854775808 has no positive twin. */
static enum status parse_sign(struct parser *parser)
{
    bool negative = parser->token.kind == TOKEN_MINUS;
    enum status status = push_pending(parser, negative ? OP_NEGATE : OP_PLUS, BIND_SIGN);
    if (status != STATUS_OK ||
        (parser->token.kind != TOKEN_INTEGER && parser->token.kind != TOKEN_REAL))
        return status;
    uint32_t position = pop_pending(parser).position;
    status = parser->token.kind == TOKEN_INTEGER ? push_integer(parser, negative)
                                                 : push_real(parser, negative);
    if (status == STATUS_OK)
        parser_top(parser)->position = position;
    return status;
}

/* Sets *complete when an operand was read; else another beginning must follow. */
static enum status parse_operand(struct parser *parser, bool *complete)
{
    const struct pending *before = top_pending(parser);
    const struct token *token = &parser->token;
    unsigned operands = parser->operand_count;
    enum status status;
    switch (token->kind) {
    case TOKEN_NAME:
        status = parser_push_name(parser);
        break;
    case TOKEN_STRING:
        status = parser_push_constant(parser, SORT_STRING,
                                      (struct value){.kind = VALUE_STRING, .text = token->text});
        break;
    case TOKEN_INTEGER:
        status = push_integer(parser, false);
        break;
    case TOKEN_REAL:
        status = push_real(parser, false);
        break;
    case TOKEN_TRUE:
    case TOKEN_FALSE:
        status = parser_push_constant(
            parser, SORT_CONDITION,
            (struct value){.kind = VALUE_TRUTH, .truth = token->kind == TOKEN_TRUE});
        break;
    case TOKEN_PLUS:
    case TOKEN_MINUS:
        status = parse_sign(parser);
        break;
    case TOKEN_OPEN:
        status = push_pending(parser, OPEN_PARENTHESIS, BIND_OPEN);
        break;
    case TOKEN_NOT:
        if (before == NULL || before->binding <= BIND_NOT) {
            status = push_pending(parser, OP_NOT, BIND_NOT);
            break;
        }
        /* fall through */
    default:
        status = parser_fail(parser, token->position, "expected a value");
    }
    *complete = parser->operand_count > operands;
    return status;
}

/* What may follow a value or a condition */

/* A comparison begins: its left side is complete, and is no comparison itself. */
static enum status begin_comparison(struct parser *parser)
{
    enum status status = reduce(parser, BIND_ADD);
    if (status != STATUS_OK)
        return status;
    const struct pending *before = top_pending(parser);
    if (parser_top(parser)->is_compared || (before != NULL && before->binding == BIND_COMPARE))
        return parser_fail(parser, parser->token.position, "comparisons do not chain");
    return STATUS_OK;
}

static enum status parse_comparison(struct parser *parser, uint8_t code)
{
    enum status status = begin_comparison(parser);
    return status == STATUS_OK ? push_pending(parser, code, BIND_COMPARE) : status;
}

static enum status parse_sum(struct parser *parser, uint8_t code, uint8_t binding)
{
    enum status status = reduce(parser, binding);
    return status == STATUS_OK ? push_pending(parser, code, binding) : status;
}

/* The left side is complete; when it decides, the right one is passed over. */
static enum status parse_logic(struct parser *parser, uint8_t code, uint8_t binding)
{
    enum status status = reduce(parser, binding);
    if (status == STATUS_OK)
        status = need_condition(parser);
    unsigned skip = parser->op_count;
    if (status == STATUS_OK)
        status = parser_emit(parser, code == OP_AND ? OP_SKIP_IF_FALSE : OP_SKIP_IF_TRUE, 0, 0);
    if (status == STATUS_OK)
        status = push_pending(parser, code, binding);
    if (status == STATUS_OK)
        top_pending(parser)->skip = (uint16_t)skip;
    return status;
}

static enum status parse_and(struct parser *parser)
{
    enum status status = reduce(parser, BIND_ADD);
    struct pending *before = top_pending(parser);
    bool between = before != NULL && (before->code == OP_BETWEEN || before->code == OP_NOT_BETWEEN);
    if (status != STATUS_OK || !between || before->has_and)
        return status == STATUS_OK ? parse_logic(parser, OP_AND, BIND_AND) : status;
    before->has_and = true;
    return parser_advance(parser);
}

static enum status parse_close(struct parser *parser)
{
    enum status status = reduce(parser, BIND_OR);
    if (status != STATUS_OK)
        return status;
    if (parser->pending_count == 0)
        return parser_fail(parser, parser->token.position, "this parenthesis was not opened");
    parser_top(parser)->position = pop_pending(parser).position;
    parser_top(parser)->is_name = false;
    parser_top(parser)->is_compared = false;
    return parser_advance(parser);
}

/* One literal of a list. */
static enum status parse_member(struct parser *parser)
{
    struct value value = {.kind = VALUE_INTEGER};
    bool negative = parser->token.kind == TOKEN_MINUS;
    bool is_signed = negative || parser->token.kind == TOKEN_PLUS;
    if (is_signed) {
        enum status status = parser_advance(parser);
        if (status != STATUS_OK)
            return status;
    }
    const struct token *token = &parser->token;
    if (token->kind == TOKEN_INTEGER && (negative || token->magnitude <= INT64_MAX))
        value.integer = (int64_t)(negative ? 0 - token->magnitude : token->magnitude);
    else if (token->kind == TOKEN_REAL)
        value = (struct value){.kind = VALUE_REAL, .real = negative ? -token->real : token->real};
    else if (token->kind == TOKEN_STRING && !is_signed)
        value = (struct value){.kind = VALUE_STRING, .text = token->text};
    else if ((token->kind == TOKEN_TRUE || token->kind == TOKEN_FALSE) && !is_signed)
        value = (struct value){.kind = VALUE_TRUTH, .truth = token->kind == TOKEN_TRUE};
    else
        return parser_fail(parser, token->position,
                           token->kind == TOKEN_INTEGER ? "this number is too large"
                                                        : "expected a literal");
    parser_add_constant(parser, value);
    return parser_advance(parser);
}

static enum status parse_in(struct parser *parser)
{
    unsigned first = parser->constant_count;
    enum status status = parser_advance(parser);
    if (status == STATUS_OK)
        status = advance_over(parser, TOKEN_OPEN, "expected (");
    if (status == STATUS_OK)
        status = parse_member(parser);
    while (status == STATUS_OK && parser->token.kind == TOKEN_COMMA) {
        status = parser_advance(parser);
        if (status == STATUS_OK)
            status = parse_member(parser);
    }
    if (status == STATUS_OK)
        status = parser_emit(parser, OP_IN, first, parser->constant_count - first);
    return status == STATUS_OK ? advance_over(parser, TOKEN_CLOSE, "expected , or )") : status;
}

/* In place: a pattern only gets shorter. */
static enum status compile_pattern(struct parser *parser, uint32_t position, int escape,
                                   struct span *pattern)
{
    uint8_t *bytes = parser->selector->memory + (pattern->data - parser->selector->memory);
    size_t size = 0;
    for (size_t i = 0; i < pattern->size; i++) {
        uint8_t byte = bytes[i];
        if (byte == escape) {
            if (++i == pattern->size || (bytes[i] != '%' && bytes[i] != '_' && bytes[i] != escape))
                return parser_fail(
                    parser, position,
                    "in a pattern only %, _ and the escape character can be escaped");
            byte = bytes[i];
        } else if (byte == '_') {
            byte = LIKE_ONE;
        } else if (byte == '%') {
            byte = LIKE_RUN;
        }
        if (byte != LIKE_RUN || size == 0 || bytes[size - 1] != LIKE_RUN)
            bytes[size++] = byte;
    }
    *pattern = span_of(bytes, size);
    return STATUS_OK;
}

static enum status parse_like(struct parser *parser)
{
    enum status status = parser_advance(parser);
    struct token pattern = parser->token;
    int escape = -1;
    if (status == STATUS_OK)
        status = advance_over(parser, TOKEN_STRING, "expected a pattern");
    if (status == STATUS_OK && parser->token.kind == TOKEN_ESCAPE) {
        status = parser_advance(parser);
        if (status == STATUS_OK &&
            (parser->token.kind != TOKEN_STRING || parser->token.text.size != 1 ||
             parser->token.text.data[0] >= 0x80))
            return parser_fail(parser, parser->token.position,
                               "expected one ASCII character in quotes");
        if (status == STATUS_OK) {
            escape = parser->token.text.data[0];
            status = parser_advance(parser);
        }
    }
    if (status == STATUS_OK)
        status = compile_pattern(parser, pattern.position, escape, &pattern.text);
    if (status != STATUS_OK)
        return status;
    struct value value = {.kind = VALUE_STRING, .text = pattern.text};
    return parser_emit(parser, OP_LIKE, parser_add_constant(parser, value), 0);
}

static enum status parse_matches(struct parser *parser)
{
    enum status status = parser_advance(parser);
    struct value value = {.kind = VALUE_STRING, .text = parser->token.text};
    if (status == STATUS_OK)
        status = advance_over(parser, TOKEN_STRING, "expected words");
    if (status == STATUS_OK)
        status = parser_emit(parser, OP_MATCHES, parser_add_constant(parser, value), 0);
    return status;
}

/* Not reserved: where an operator must stand, no name can. */
static bool is_matches(const struct parser *parser)
{
    return parser->token.kind == TOKEN_NAME && parser->token.text.size == 7 &&
           strncasecmp((const char *)parser->token.text.data, "MATCHES", 7) == 0 &&
           parser->scanner.text.data[parser->token.position - 1] != '"';
}

static enum status parse_is_null(struct parser *parser)
{
    enum status status = parser_advance(parser);
    bool negated = status == STATUS_OK && parser->token.kind == TOKEN_NOT;
    if (negated)
        status = parser_advance(parser);
    if (status == STATUS_OK)
        status =
            advance_over(parser, TOKEN_NULL, negated ? "expected NULL" : "expected NULL or NOT");
    if (status == STATUS_OK)
        status = parser_emit(parser, OP_IS_NULL, 0, 0);
    return status == STATUS_OK && negated ? parser_emit(parser, OP_NOT, 0, 0) : status;
}

/* IN, LIKE, MATCHES, IS NULL: the operand before becomes a condition. */
static enum status parse_test(struct parser *parser, bool negated)
{
    enum status status = begin_comparison(parser);
    if (status != STATUS_OK)
        return status;
    if (!parser_top(parser)->is_name)
        return parser_fail(parser, parser_top(parser)->position,
                           "expected a name before IN, LIKE, MATCHES or IS");
    if (parser->token.kind == TOKEN_IN)
        status = parse_in(parser);
    else if (is_matches(parser))
        status = parse_matches(parser);
    else if (parser->token.kind == TOKEN_LIKE)
        status = parse_like(parser);
    else
        status = parse_is_null(parser);
    if (status == STATUS_OK && negated)
        status = parser_emit(parser, OP_NOT, 0, 0);
    merge(parser, 1, SORT_CONDITION);
    parser_top(parser)->is_compared = true;
    return status;
}

static enum status parse_not(struct parser *parser, bool *complete)
{
    enum status status = parser_advance(parser);
    if (status != STATUS_OK)
        return status;
    *complete = parser->token.kind != TOKEN_BETWEEN;
    if (parser->token.kind == TOKEN_BETWEEN)
        return parse_comparison(parser, OP_NOT_BETWEEN);
    if (parser->token.kind == TOKEN_IN || parser->token.kind == TOKEN_LIKE || is_matches(parser))
        return parse_test(parser, true);
    return parser_fail(parser, parser->token.position, "expected BETWEEN, IN, LIKE or MATCHES");
}

/* Sets *complete unless another operand must follow. */
static enum status parse_operator(struct parser *parser, bool *complete)
{
    *complete = false;
    switch (parser->token.kind) {
    case TOKEN_EQUAL:
    case TOKEN_NOT_EQUAL:
    case TOKEN_LESS:
    case TOKEN_LESS_EQUAL:
    case TOKEN_GREATER:
    case TOKEN_GREATER_EQUAL:
        return parse_comparison(parser,
                                (uint8_t)(OP_EQUAL + ((int)parser->token.kind - (int)TOKEN_EQUAL)));
    case TOKEN_PLUS:
        return parse_sum(parser, OP_ADD, BIND_ADD);
    case TOKEN_MINUS:
        return parse_sum(parser, OP_SUBTRACT, BIND_ADD);
    case TOKEN_TIMES:
        return parse_sum(parser, OP_MULTIPLY, BIND_MULTIPLY);
    case TOKEN_DIVIDE:
        return parse_sum(parser, OP_DIVIDE, BIND_MULTIPLY);
    case TOKEN_BETWEEN:
        return parse_comparison(parser, OP_BETWEEN);
    case TOKEN_AND:
        return parse_and(parser);
    case TOKEN_OR:
        return parse_logic(parser, OP_OR, BIND_OR);
    default:
        break;
    }
    *complete = true;
    if (is_matches(parser))
        return parse_test(parser, false);
    switch (parser->token.kind) {
    case TOKEN_CLOSE:
        return parse_close(parser);
    case TOKEN_IN:
    case TOKEN_LIKE:
    case TOKEN_IS:
        return parse_test(parser, false);
    case TOKEN_NOT:
        return parse_not(parser, complete);
    default:
        return parser_fail(parser, parser->token.position, "expected an operator");
    }
}

static enum status parse(struct parser *parser)
{
    bool complete = false;
    enum status status = parser_advance(parser);
    while (status == STATUS_OK && !(complete && parser->token.kind == TOKEN_END))
        status = complete ? parse_operator(parser, &complete) : parse_operand(parser, &complete);
    if (status == STATUS_OK)
        status = reduce(parser, BIND_OR);
    if (status == STATUS_OK && parser->pending_count > 0)
        status =
            parser_fail(parser, top_pending(parser)->position, "this parenthesis is not closed");
    return status == STATUS_OK ? need_condition(parser) : status;
}

static void *copy_of(const void *items, size_t count, size_t size)
{
    void *copy = heap_array(count, size);
    memcpy(copy, items, count * size);
    return copy;
}

static void finish(const struct parser *parser)
{
    struct selector *selector = parser->selector;
    selector->op_count = (uint16_t)parser->op_count;
    selector->ops = copy_of(parser->ops, parser->op_count, sizeof parser->ops[0]);
    selector->constant_count = (uint16_t)parser->constant_count;
    selector->constants =
        copy_of(parser->constants, parser->constant_count, sizeof parser->constants[0]);
    selector->slot_count = (uint16_t)parser->slot_count;
    selector->slots = copy_of(parser->slots, parser->slot_count, sizeof parser->slots[0]);
    for (unsigned i = 0; i < parser->slot_count; i++) {
        struct slot *slot = &selector->slots[i];
        if (slot->field >= FIELD_KEY)
            continue;
        uint8_t *bucket = &selector->buckets[slot_bucket(slot->name)];
        slot->next = *bucket;
        *bucket = (uint8_t)(i + 1);
    }
}

enum status selector_compile(struct span text, struct selector **compiled, struct err *err)
{
    if (text.size > LIMIT_SELECTOR_BYTES)
        return err_set(err, STATUS_INVALID, "at %u: longer than %u bytes", LIMIT_SELECTOR_BYTES + 1,
                       LIMIT_SELECTOR_BYTES);
    if (!utf8_is_valid_no_nul(text))
        return err_set(err, STATUS_INVALID, "at 1: not UTF-8");
    struct selector *selector = heap_new(sizeof *selector + 3 * text.size + HEADER_OWN_PREFIX_SIZE);
    atomic_init(&selector->refs, 1);
    selector->text_size = text.size;
    if (text.size > 0)
        memcpy(selector->memory, text.data, text.size);

    struct parser *parser = heap_new(sizeof *parser);
    parser->err = err;
    parser->selector = selector;
    parser->scanner = (struct scanner){
        .text = selector_text(selector), .memory = selector->memory + text.size, .err = err};
    enum status status = parse(parser);
    if (status == STATUS_OK) {
        finish(parser);
        *compiled = selector;
    } else {
        selector_unref(selector);
    }
    heap_free(parser);
    return status;
}
