/* SPDX-License-Identifier: Apache-2.0 */
/* A selector while it is compiled: selector_parse.c reads the text, selector_program.c writes the
 * program. Internal to these two. */
#ifndef CORE_QUEUE_SELECTOR_PARSER_H
#define CORE_QUEUE_SELECTOR_PARSER_H

#include "core/queue/selector_impl.h"
#include "core/queue/selector_scan.h"

/* How tightly operators bind. */
enum { BIND_OPEN, BIND_OR, BIND_AND, BIND_NOT, BIND_COMPARE, BIND_ADD, BIND_MULTIPLY, BIND_SIGN };

enum {
    OPEN_PARENTHESIS = 0xff, /* as the code of a pending operator */
    /* Between two things that nest lie at most an operator of each binding. */
    PENDING_MAX = (LIMIT_SELECTOR_DEPTH + 1) * BIND_SIGN,
    CONSTANTS_MAX = LIMIT_SELECTOR_BYTES / 2 + 1,
};

/* An operator whose right operand is not complete. */
struct pending {
    uint8_t code; /* enum op_code or OPEN_PARENTHESIS */
    uint8_t binding;
    bool has_and;  /* BETWEEN: its AND was read */
    uint16_t skip; /* AND, OR: the op that skips the right side */
    uint32_t position;
};

/* What is known of an operand before there is a record. */
enum sort { SORT_ANY, SORT_NUMBER, SORT_STRING, SORT_CONDITION };
struct operand {
    enum sort sort;
    bool is_name;     /* a property and nothing else */
    bool is_compared; /* a comparison without parentheses */
    uint32_t position;
};

struct parser {
    struct scanner scanner;
    struct token token;
    struct err *err;
    struct selector *selector;
    unsigned depth, pending_count, operand_count, op_count, constant_count, slot_count, steps;
    struct pending pending[PENDING_MAX];
    struct operand operands[LIMIT_SELECTOR_DEPTH];
    struct op ops[LIMIT_SELECTOR_STEPS];
    struct value constants[CONSTANTS_MAX];
    struct slot slots[LIMIT_SELECTOR_NAMES];
};

/* INVALID, with the reason. */
enum status parser_fail(struct parser *parser, uint32_t position, const char *reason);
enum status parser_advance(struct parser *parser); /* to the next token */
enum status parser_emit(struct parser *parser, enum op_code code, unsigned at, unsigned count);
struct operand *parser_top(struct parser *parser);                       /* operand; there is one */
unsigned parser_add_constant(struct parser *parser, struct value value); /* its number */
/* Operands of which the token is the end, and is passed over. */
enum status parser_push_constant(struct parser *parser, enum sort sort, struct value value);
enum status parser_push_name(struct parser *parser);

#endif
