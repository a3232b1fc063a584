/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of a selector. Internal to the selector's files. */
#ifndef CORE_QUEUE_SELECTOR_SCAN_H
#define CORE_QUEUE_SELECTOR_SCAN_H

#include "core/base/span.h"
#include "core/base/status.h"

enum token_kind {
    TOKEN_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_REAL,
    TOKEN_OPEN,
    TOKEN_CLOSE,
    TOKEN_COMMA,
    TOKEN_PLUS,
    TOKEN_MINUS,
    TOKEN_TIMES,
    TOKEN_DIVIDE,
    TOKEN_EQUAL,
    TOKEN_NOT_EQUAL,
    TOKEN_LESS,
    TOKEN_LESS_EQUAL,
    TOKEN_GREATER,
    TOKEN_GREATER_EQUAL,
    TOKEN_AND,
    TOKEN_BETWEEN,
    TOKEN_ESCAPE,
    TOKEN_FALSE,
    TOKEN_IN,
    TOKEN_IS,
    TOKEN_LIKE,
    TOKEN_NOT,
    TOKEN_NULL,
    TOKEN_OR,
    TOKEN_TRUE,
};

struct token {
    enum token_kind kind;
    uint32_t position;  /* of its first byte, from 1 */
    struct span text;   /* NAME, STRING: without quotes, doubled quotes undone; in memory if so */
    uint64_t magnitude; /* INTEGER: at most 2^63, which only a minus in front makes valid */
    double real;        /* REAL: finite */
};

struct scanner {
    struct span text;
    size_t at;
    uint8_t *memory; /* where strings and names go; as large as the text */
    struct err *err;
};

/* INVALID with err when no token begins there. */
enum status scanner_next(struct scanner *scanner, struct token *token);

#endif
