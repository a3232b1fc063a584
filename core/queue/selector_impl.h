/* SPDX-License-Identifier: Apache-2.0 */
/* A compiled selector: constants, the names it needs, and a flat program for a stack machine that
 * only jumps forwards. Internal to the selector's files. */
#ifndef CORE_QUEUE_SELECTOR_IMPL_H
#define CORE_QUEUE_SELECTOR_IMPL_H

#include <stdatomic.h>

#include "core/base/limits.h"
#include "core/queue/selector.h"

enum value_kind {
    VALUE_MISSING, /* a slot that no header has filled; like NULL */
    VALUE_NULL,    /* as a truth value: unknown */
    VALUE_TRUTH,
    VALUE_INTEGER,
    VALUE_REAL,
    VALUE_TEXT,   /* of a header without a type: may read as something else */
    VALUE_STRING, /* text and nothing else */
};

struct value {
    enum value_kind kind;
    union {
        bool truth;
        int64_t integer;
        double real;
        struct span text;
    };
};

/* A decimal number from end to end of the text, finite; else false. */
bool value_read_number(struct span text, struct value *value);
/* 17 becomes VALUE_INTEGER; NULL for what is no number. */
struct value value_as_number(const struct value *value);

enum field {
    FIELD_PROPERTY,
    FIELD_STRING,    /* a header that is text whatever its type */
    FIELD_NUMBER,    /* a header that is a number or NULL */
    FIELD_PRIORITY,  /* the same, with a default */
    FIELD_TIMESTAMP, /* likewise */
    FIELD_KEY,       /* from here on: not in the headers */
    FIELD_DELIVERY_MODE,
};

/* A name of the selector: resolved once per evaluation, however often it occurs. */
struct slot {
    enum field field;
    struct span name; /* of the header */
    uint8_t next;     /* in its bucket: number of a slot + 1; 0: none */
};

enum op_code {
    OP_CONSTANT, /* pushes constants[at] */
    OP_SLOT,     /* pushes slot at */
    OP_NEGATE,
    OP_PLUS,
    OP_ADD,
    OP_SUBTRACT,
    OP_MULTIPLY,
    OP_DIVIDE,
    OP_EQUAL,
    OP_NOT_EQUAL,
    OP_LESS,
    OP_LESS_EQUAL,
    OP_GREATER,
    OP_GREATER_EQUAL,
    OP_BETWEEN,
    OP_NOT_BETWEEN,
    OP_IN,      /* constants[at .. at + count) */
    OP_LIKE,    /* constants[at]: a compiled pattern */
    OP_MATCHES, /* constants[at]: words */
    OP_IS_NULL,
    OP_NOT,
    OP_AND,
    OP_OR,
    OP_SKIP_IF_FALSE, /* to op at, leaving the top */
    OP_SKIP_IF_TRUE,
};

struct op {
    uint8_t code; /* enum op_code */
    uint16_t at, count;
};

/* In a compiled pattern: bytes that UTF-8 never has. */
enum { LIKE_ONE = 0xfe, LIKE_RUN = 0xff };

enum { BUCKETS = 64 };

struct selector {
    atomic_uint refs;
    uint16_t op_count, constant_count, slot_count;
    struct op *ops;
    struct value *constants; /* their texts lie in memory */
    struct slot *slots;
    uint8_t buckets[BUCKETS]; /* slots that headers fill, by slot_bucket(); number + 1 */
    size_t text_size;
    uint8_t memory[]; /* the text, then unescaped strings and patterns, names as they are stored */
};

static inline unsigned slot_bucket(struct span name)
{
    unsigned ends = name.size == 0 ? 0 : name.data[0] * 5u + name.data[name.size - 1];
    return (ends + (unsigned)name.size * 3u) % BUCKETS;
}

/* Fills values[slot_count] from one walk over the record's headers. */
void selector_look_up(const struct selector *selector, const struct record *record,
                      struct value *values);

#endif
