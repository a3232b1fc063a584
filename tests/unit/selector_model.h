/* SPDX-License-Identifier: Apache-2.0 */
/* A naive model of selectors: random expressions as trees, their text in two spellings, and an
 * evaluator that follows the words of core/queue/selector.h one by one. For the unit test, which
 * draws from a seed, and the fuzz target, which draws from its input. */
#ifndef TESTS_UNIT_SELECTOR_MODEL_H
#define TESTS_UNIT_SELECTOR_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/check.h"
#include "core/log/batch.h"
#include "core/log/types.h"

/* Where chance comes from: below(bound) in [0, bound). */
struct draw {
    uint32_t (*below)(struct draw *draw, uint32_t bound);
    const uint8_t *data; /* the fuzz target's */
    size_t size;
};

static inline uint32_t draw_below(struct draw *draw, uint32_t bound)
{
    return draw->below(draw, bound);
}

/* Records */

enum { MODEL_PROPERTIES_MAX = 8, MODEL_NAMES = 15, MODEL_TEXTS = 30 };

static const char *const model_names[MODEL_NAMES] = {
    "a",           "b",          "c",   "d1",      "_x$",         "content-type", "AND",
    "topic",       "say \"hi\"", "key", "JMSType", "JMSPriority", "JMSTimestamp", "JMSDeliveryMode",
    "JMSXGroupSeq"};
static const char *const model_headers[MODEL_NAMES] = {
    "a",          "b",  "c",       "d1",       "_x$", "content-type", "AND",           "topic",
    "say \"hi\"", NULL, "subject", "priority", NULL,  NULL,           "group-sequence"};

static const char *const model_texts[MODEL_TEXTS] = {"5",
                                                     "-7",
                                                     "+5",
                                                     "05",
                                                     "2.5",
                                                     "25e-1",
                                                     "1e2",
                                                     "100",
                                                     ".5",
                                                     "7.",
                                                     "abc",
                                                     "ABC",
                                                     "",
                                                     "true",
                                                     "FALSE",
                                                     "False",
                                                     "false",
                                                     "a%b",
                                                     "x_y",
                                                     "\xc3\xa9",
                                                     "a\xc3\xa9z",
                                                     "9223372036854775807",
                                                     "9223372036854775808",
                                                     "-9223372036854775808",
                                                     "1e400",
                                                     " 5",
                                                     "5 ",
                                                     "0x10",
                                                     "ab\xff",
                                                     "aabaab"};

struct model_property {
    unsigned name; /* of model_headers */
    int text;      /* of model_texts; -1: a null value */
    uint8_t code;  /* in pl-types; 0: not there */
};

struct model_record {
    struct model_property properties[MODEL_PROPERTIES_MAX];
    unsigned count;
    int key; /* of model_texts; -1: none */
    int64_t timestamp_ms;
    uint8_t attributes;
};

static inline struct model_record model_record_draw(struct draw *draw)
{
    static const uint8_t codes[] = {
        0,           0,         0,   0, 0, TYPE_INT, TYPE_LONG, TYPE_DOUBLE, TYPE_BOOLEAN,
        TYPE_SYMBOL, TYPE_NULL, 0xee};
    struct model_record record = {.count = draw_below(draw, MODEL_PROPERTIES_MAX + 1)};
    for (unsigned i = 0; i < record.count; i++) {
        struct model_property *property = &record.properties[i];
        property->name = draw_below(draw, MODEL_NAMES);
        if (model_headers[property->name] == NULL)
            property->name = 0;
        property->text = (int)draw_below(draw, MODEL_TEXTS + 1) - 1;
        property->code = codes[draw_below(draw, sizeof codes)];
    }
    record.key = (int)draw_below(draw, MODEL_TEXTS + 1) - 1;
    record.timestamp_ms = (int64_t)draw_below(draw, 200) - 100;
    record.attributes = (uint8_t)draw_below(draw, 3);
    record.attributes |= (uint8_t)(draw_below(draw, 2) * RECORD_NOT_DURABLE);
    return record;
}

static inline struct span model_text(int text)
{
    return text < 0 ? (struct span){0} : span_from_text(model_texts[text]);
}

/* As a batch of one, so that the record is read as any other. */
static inline struct batch *model_record_batch(const struct model_record *record)
{
    struct header headers[MODEL_PROPERTIES_MAX + 1];
    unsigned count = 0;
    struct buf types;
    buf_init(&types, 65536);
    struct pack pack = pack_into(&types);
    for (unsigned i = 0; i < record->count; i++) {
        const struct model_property *property = &record->properties[i];
        uint8_t occurrence = 0;
        for (unsigned j = 0; j < i; j++)
            occurrence += record->properties[j].name == property->name;
        struct span name = span_from_text(model_headers[property->name]);
        struct typed_name typed = {property->code, occurrence, name};
        if (property->code != 0)
            types_add(&pack, &typed);
        headers[count++] = (struct header){name, model_text(property->text)};
    }
    CHECK(pack.status == STATUS_OK);
    if (types.size > 0)
        headers[count++] = (struct header){span_from_text(HEADER_TYPES), buf_span(&types)};
    struct record_input input = {
        .timestamp_ms = record->timestamp_ms,
        .attributes = record->attributes,
        .key = model_text(record->key),
        .headers = headers,
        .header_count = count,
    };
    struct batch_builder builder;
    batch_builder_init(&builder);
    CHECK(batch_builder_add(&builder, &input) == STATUS_OK);
    struct batch *batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    buf_deinit(&types);
    return batch;
}

/* Expressions */

enum model_kind {
    NODE_NAME,
    NODE_LITERAL,
    NODE_SIGN, /* text: "+" or "-" */
    NODE_SUM,  /* text: the sign */
    NODE_PRODUCT,
    NODE_COMPARE,
    NODE_BETWEEN, /* three children */
    NODE_IN,
    NODE_LIKE,
    NODE_IS_NULL,
    NODE_NOT,
    NODE_AND,
    NODE_OR,
};

enum { MODEL_NODES_MAX = 200, MODEL_MEMBERS_MAX = 4, MODEL_LITERALS = 24, MODEL_PATTERNS = 14 };

struct model_node {
    enum model_kind kind;
    const char *sign;
    unsigned at; /* name, literal or pattern */
    bool negated;
    unsigned members[MODEL_MEMBERS_MAX], member_count;
    struct model_node *child[3];
};

struct model_expression {
    struct model_node nodes[MODEL_NODES_MAX];
    unsigned count;
};

enum model_type { MODEL_NULL, MODEL_TRUTH, MODEL_INTEGER, MODEL_REAL, MODEL_TEXT, MODEL_STRING };
struct model_value {
    enum model_type type;
    bool truth;
    int64_t integer;
    double real;
    struct span text;
};

static const struct {
    const char *text;
    struct model_value value;
} model_literals[MODEL_LITERALS] = {
    {"0", {.type = MODEL_INTEGER, .integer = 0}},
    {"5", {.type = MODEL_INTEGER, .integer = 5}},
    {"-5", {.type = MODEL_INTEGER, .integer = -5}},
    {"100", {.type = MODEL_INTEGER, .integer = 100}},
    {"017", {.type = MODEL_INTEGER, .integer = 15}},
    {"0X1f", {.type = MODEL_INTEGER, .integer = 31}},
    {"3L", {.type = MODEL_INTEGER, .integer = 3}},
    {"9223372036854775807", {.type = MODEL_INTEGER, .integer = INT64_MAX}},
    {"-9223372036854775808", {.type = MODEL_INTEGER, .integer = INT64_MIN}},
    {"2.5", {.type = MODEL_REAL, .real = 2.5}},
    {"-.5", {.type = MODEL_REAL, .real = -0.5}},
    {"7.", {.type = MODEL_REAL, .real = 7}},
    {"1E2", {.type = MODEL_REAL, .real = 100}},
    {"7f", {.type = MODEL_REAL, .real = 7}},
    {"1e300d", {.type = MODEL_REAL, .real = 1e300}},
    {"'5'", {.type = MODEL_STRING, .text = {(const uint8_t *)"5", 1}}},
    {"'abc'", {.type = MODEL_STRING, .text = {(const uint8_t *)"abc", 3}}},
    {"''", {.type = MODEL_STRING, .text = {(const uint8_t *)"", 0}}},
    {"'it''s'", {.type = MODEL_STRING, .text = {(const uint8_t *)"it's", 4}}},
    {"'true'", {.type = MODEL_STRING, .text = {(const uint8_t *)"true", 4}}},
    {"'PERSISTENT'", {.type = MODEL_STRING, .text = {(const uint8_t *)"PERSISTENT", 10}}},
    {"'\xc3\xa9'", {.type = MODEL_STRING, .text = {(const uint8_t *)"\xc3\xa9", 2}}},
    {"TRUE", {.type = MODEL_TRUTH, .truth = true}},
    {"FALSE", {.type = MODEL_TRUTH, .truth = false}},
};
enum { MODEL_NUMBERS = 15 }; /* the first of them */

/* Written with escape character !, where one is used. */
static const char *const model_patterns[MODEL_PATTERNS] = {
    "abc", "%", "", "_", "a%", "%b", "%a%b", "a_z", "a!%b", "%!_%", "%aab", "_%_%_", "%%", "!!%"};

static inline struct model_node *model_node(struct model_expression *e, enum model_kind kind)
{
    CHECK(e->count < MODEL_NODES_MAX);
    e->nodes[e->count] = (struct model_node){.kind = kind};
    return &e->nodes[e->count++];
}

static inline struct model_node *model_draw_name(struct model_expression *e, struct draw *draw)
{
    struct model_node *node = model_node(e, NODE_NAME);
    node->at = draw_below(draw, MODEL_NAMES);
    return node;
}

static inline struct model_node *model_draw_literal(struct model_expression *e, struct draw *draw,
                                                    unsigned count)
{
    struct model_node *node = model_node(e, NODE_LITERAL);
    node->at = draw_below(draw, count);
    return node;
}

static inline bool model_is_small(const struct model_expression *e, unsigned depth)
{
    return depth == 0 || e->count > MODEL_NODES_MAX - 40;
}

static inline struct model_node *model_draw_number(struct model_expression *e, struct draw *draw,
                                                   unsigned depth)
{
    static const char *const signs[] = {"+", "-", "*", "/"};
    unsigned choice = model_is_small(e, depth) ? draw_below(draw, 4) : draw_below(draw, 8);
    if (choice < 2)
        return model_draw_name(e, draw);
    if (choice < 4)
        return model_draw_literal(e, draw, MODEL_NUMBERS);
    struct model_node *node = model_node(e, NODE_SIGN);
    if (choice == 4) {
        node->sign = signs[draw_below(draw, 2)];
        node->child[0] = model_draw_number(e, draw, depth - 1);
        return node;
    }
    unsigned sign = draw_below(draw, 4);
    node->kind = sign < 2 ? NODE_SUM : NODE_PRODUCT;
    node->sign = signs[sign];
    node->child[0] = model_draw_number(e, draw, depth - 1);
    node->child[1] = model_draw_number(e, draw, depth - 1);
    return node;
}

static inline struct model_node *model_draw_condition(struct model_expression *e, struct draw *draw,
                                                      unsigned depth);

static inline struct model_node *model_draw_any(struct model_expression *e, struct draw *draw,
                                                unsigned depth)
{
    switch (draw_below(draw, 6)) {
    case 0:
        return model_draw_number(e, draw, depth);
    case 1:
    case 2:
        return model_draw_literal(e, draw, MODEL_LITERALS);
    case 3:
        if (!model_is_small(e, depth))
            return model_draw_condition(e, draw, depth - 1);
        /* fall through */
    default:
        return model_draw_name(e, draw);
    }
}

static inline struct model_node *model_draw_condition(struct model_expression *e, struct draw *draw,
                                                      unsigned depth)
{
    static const char *const signs[] = {"=", "<>", "<", "<=", ">", ">="};
    unsigned choice = draw_below(draw, model_is_small(e, depth) ? 6 : 10);
    unsigned below = depth == 0 ? 0 : depth - 1;
    struct model_node *node = model_node(e, NODE_COMPARE);
    node->negated = draw_below(draw, 2) != 0;
    switch (choice) {
    case 0: {
        unsigned sign = draw_below(draw, 6);
        node->sign = signs[sign];
        node->child[0] =
            sign < 2 ? model_draw_any(e, draw, below) : model_draw_number(e, draw, below);
        node->child[1] =
            sign < 2 ? model_draw_any(e, draw, below) : model_draw_number(e, draw, below);
        break;
    }
    case 1:
        node->kind = NODE_BETWEEN;
        for (unsigned i = 0; i < 3; i++)
            node->child[i] = model_draw_number(e, draw, below);
        break;
    case 2:
        node->kind = NODE_IN;
        node->child[0] = model_draw_name(e, draw);
        node->member_count = 1 + draw_below(draw, MODEL_MEMBERS_MAX);
        for (unsigned i = 0; i < node->member_count; i++)
            node->members[i] = draw_below(draw, MODEL_LITERALS);
        break;
    case 3:
        node->kind = NODE_LIKE;
        node->child[0] = model_draw_name(e, draw);
        node->at = draw_below(draw, MODEL_PATTERNS);
        break;
    case 4:
        node->kind = NODE_IS_NULL;
        node->child[0] = model_draw_name(e, draw);
        break;
    case 5:
        *node = (struct model_node){.kind = NODE_NAME, .at = draw_below(draw, MODEL_NAMES)};
        break;
    case 6:
        node->kind = NODE_NOT;
        node->child[0] = model_draw_condition(e, draw, below);
        break;
    default:
        node->kind = choice == 9 ? NODE_OR : NODE_AND;
        node->child[0] = model_draw_condition(e, draw, below);
        node->child[1] = model_draw_condition(e, draw, below);
    }
    return node;
}

static inline const struct model_node *model_expression_draw(struct model_expression *e,
                                                             struct draw *draw)
{
    e->count = 0;
    return model_draw_condition(e, draw, 1 + draw_below(draw, 4));
}

/* Text: with the fewest parentheses, or with all of them. */

static inline unsigned model_binding(const struct model_node *node)
{
    switch (node->kind) {
    case NODE_OR:
        return 1;
    case NODE_AND:
        return 2;
    case NODE_NOT:
        return 3;
    case NODE_COMPARE:
    case NODE_BETWEEN:
    case NODE_IN:
    case NODE_LIKE:
    case NODE_IS_NULL:
        return 4;
    case NODE_SUM:
        return 5;
    case NODE_PRODUCT:
        return 6;
    case NODE_SIGN:
        return 7;
    default:
        return 8;
    }
}

static inline void model_write_name(struct buf *to, unsigned name)
{
    bool plain =
        strpbrk(model_names[name], "- \"") == NULL && strcmp(model_names[name], "AND") != 0;
    if (plain) {
        buf_append_text(to, model_names[name]);
        return;
    }
    buf_append_text(to, "\"");
    for (const char *at = model_names[name]; *at != '\0'; at++)
        buf_printf(to, *at == '"' ? "\"\"" : "%c", *at);
    buf_append_text(to, "\"");
}

static inline void model_write(struct buf *to, const struct model_node *node, bool all);

static inline void model_write_child(struct buf *to, const struct model_node *child,
                                     unsigned binding, bool all)
{
    bool open = all ? model_binding(child) < 8 : model_binding(child) < binding;
    if (open)
        buf_append_text(to, "(");
    model_write(to, child, all);
    if (open)
        buf_append_text(to, ")");
}

static inline void model_write_binary(struct buf *to, const struct model_node *node,
                                      const char *sign, bool all)
{
    unsigned binding = model_binding(node), step = node->kind == NODE_COMPARE;
    model_write_child(to, node->child[0], binding + step, all);
    buf_printf(to, " %s ", sign);
    model_write_child(to, node->child[1], binding + 1, all);
}

static inline void model_write(struct buf *to, const struct model_node *node, bool all)
{
    const char *negation = !node->negated ? "" : all ? " not" : " NOT";
    switch (node->kind) {
    case NODE_NAME:
        model_write_name(to, node->at);
        break;
    case NODE_LITERAL:
        buf_append_text(to, model_literals[node->at].text);
        break;
    case NODE_SIGN:
        buf_append_text(to, node->sign);
        model_write_child(to, node->child[0], 7, all);
        break;
    case NODE_SUM:
    case NODE_PRODUCT:
    case NODE_COMPARE:
        model_write_binary(to, node, node->sign, all);
        break;
    case NODE_AND:
        model_write_binary(to, node, all ? "and\n" : "AND", all);
        break;
    case NODE_OR:
        model_write_binary(to, node, all ? "\toR" : "OR", all);
        break;
    case NODE_NOT:
        buf_append_text(to, all ? "NoT " : "NOT ");
        model_write_child(to, node->child[0], 3, all);
        break;
    case NODE_BETWEEN:
        model_write_child(to, node->child[0], 5, all);
        buf_printf(to, "%s %s ", negation, all ? "between" : "BETWEEN");
        model_write_child(to, node->child[1], 5, all);
        buf_append_text(to, " AND ");
        model_write_child(to, node->child[2], 5, all);
        break;
    case NODE_IN:
        model_write(to, node->child[0], all);
        buf_printf(to, "%s IN(", negation);
        for (unsigned i = 0; i < node->member_count; i++)
            buf_printf(to, "%s%s", i == 0 ? "" : ",", model_literals[node->members[i]].text);
        buf_append_text(to, ")");
        break;
    case NODE_LIKE:
        model_write(to, node->child[0], all);
        buf_printf(to, "%s LIKE '%s'", negation, model_patterns[node->at]);
        if (strchr(model_patterns[node->at], '!') != NULL)
            buf_append_text(to, " ESCAPE '!'");
        break;
    case NODE_IS_NULL:
        model_write(to, node->child[0], all);
        buf_printf(to, " IS%s NULL", negation);
        break;
    }
}

/* Evaluation. Truth: -1 unknown, 0, 1. */

static inline bool model_reads_as_number(struct span text, struct model_value *value)
{
    char copy[80];
    if (text.size == 0 || text.size >= sizeof copy)
        return false;
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    if (strspn(copy, "0123456789+-.eE") != text.size)
        return false;
    char *end;
    double real = strtod(copy, &end);
    if (end != copy + text.size || !isfinite(real))
        return false;
    *value = (struct model_value){.type = MODEL_REAL, .real = real};
    if (strpbrk(copy, ".eE") == NULL && fabs(real) < 9.3e18) {
        long double exact = strtold(copy, NULL); /* 64 bits of mantissa */
        if (exact >= -9223372036854775808.0L && exact <= 9223372036854775807.0L)
            *value = (struct model_value){.type = MODEL_INTEGER, .integer = (int64_t)exact};
    }
    return true;
}

static inline struct model_value model_number(struct model_value value)
{
    struct model_value number;
    if (value.type == MODEL_INTEGER || value.type == MODEL_REAL)
        return value;
    if (value.type == MODEL_TEXT && model_reads_as_number(value.text, &number))
        return number;
    return (struct model_value){.type = MODEL_NULL};
}

static inline int model_truth(struct model_value value)
{
    if (value.type == MODEL_TRUTH)
        return value.truth;
    if (value.type == MODEL_TEXT && value.text.size == 4 &&
        strncasecmp((const char *)value.text.data, "true", 4) == 0)
        return 1;
    if (value.type == MODEL_TEXT && value.text.size == 5 &&
        strncasecmp((const char *)value.text.data, "false", 5) == 0)
        return 0;
    return -1;
}

static inline struct model_value model_of_truth(int truth)
{
    if (truth < 0)
        return (struct model_value){.type = MODEL_NULL};
    return (struct model_value){.type = MODEL_TRUTH, .truth = truth != 0};
}

/* The first header of a name. */
static inline struct model_value model_header(const struct model_record *record, const char *name)
{
    for (unsigned i = 0; i < record->count; i++) {
        const struct model_property *property = &record->properties[i];
        if (strcmp(model_headers[property->name], name) != 0)
            continue;
        struct model_value value = {.type = MODEL_TEXT, .text = model_text(property->text)};
        if (property->text < 0 || property->code == TYPE_NULL)
            return (struct model_value){.type = MODEL_NULL};
        if (property->code == TYPE_BOOLEAN) {
            bool is_true = span_is(value.text, "true");
            return is_true || span_is(value.text, "false") ? model_of_truth(is_true) : value;
        }
        if (property->code == TYPE_SYMBOL || property->code == 0xee)
            value.type = MODEL_STRING;
        else if (property->code != 0 && model_number(value).type != MODEL_NULL)
            value = model_number(value);
        return value;
    }
    return (struct model_value){.type = MODEL_NULL};
}

static inline struct model_value model_name_value(const struct model_record *record,
                                                  const char *name)
{
    if (strcmp(name, "key") == 0) {
        if (record->key < 0)
            return (struct model_value){.type = MODEL_NULL};
        return (struct model_value){.type = MODEL_TEXT, .text = model_text(record->key)};
    }
    if (strcmp(name, "JMSTimestamp") == 0)
        return (struct model_value){.type = MODEL_INTEGER, .integer = record->timestamp_ms};
    if (strcmp(name, "JMSDeliveryMode") == 0)
        return (struct model_value){
            .type = MODEL_STRING,
            .text = span_from_text((record->attributes & RECORD_NOT_DURABLE) != 0 ? "NON_PERSISTENT"
                                                                                  : "PERSISTENT")};
    if (strcmp(name, "JMSXGroupSeq") == 0)
        return model_number(model_header(record, "group-sequence"));
    if (strcmp(name, "JMSPriority") == 0) {
        struct model_value priority = model_number(model_header(record, "priority"));
        if (priority.type == MODEL_NULL)
            return (struct model_value){.type = MODEL_INTEGER, .integer = 4};
        return priority;
    }
    if (strcmp(name, "JMSType") != 0)
        return model_header(record, name);
    for (unsigned i = 0; i < record->count; i++)
        if (strcmp(model_headers[record->properties[i].name], "subject") == 0)
            return record->properties[i].text < 0
                       ? (struct model_value){.type = MODEL_NULL}
                       : (struct model_value){.type = MODEL_STRING,
                                              .text = model_text(record->properties[i].text)};
    return (struct model_value){.type = MODEL_NULL};
}

static inline double model_real(struct model_value value)
{
    return value.type == MODEL_REAL ? value.real : (double)value.integer;
}

static inline int model_compare(const char *sign, struct model_value a, struct model_value b)
{
    if (a.type == MODEL_NULL || b.type == MODEL_NULL)
        return -1;
    bool equality = strcmp(sign, "=") == 0 || strcmp(sign, "<>") == 0;
    bool less = false, greater = false;
    if (equality && a.type >= MODEL_TEXT && b.type >= MODEL_TEXT) {
        less = !span_equal(a.text, b.text);
    } else if (equality && (a.type == MODEL_TRUTH || b.type == MODEL_TRUTH)) {
        if (model_truth(a) < 0 || model_truth(b) < 0)
            return 0;
        less = model_truth(a) != model_truth(b);
    } else {
        a = model_number(a);
        b = model_number(b);
        if (a.type == MODEL_NULL || b.type == MODEL_NULL)
            return 0;
        if (a.type == MODEL_INTEGER && b.type == MODEL_INTEGER) {
            less = a.integer < b.integer;
            greater = a.integer > b.integer;
        } else {
            less = model_real(a) < model_real(b);
            greater = model_real(a) > model_real(b);
        }
    }
    bool has_equal = strchr(sign, '=') != NULL, has_less = strchr(sign, '<') != NULL;
    bool has_greater = strchr(sign, '>') != NULL;
    return less ? has_less : greater ? has_greater : has_equal;
}

static inline struct model_value model_calculate(char sign, struct model_value a,
                                                 struct model_value b)
{
    a = model_number(a);
    b = model_number(b);
    struct model_value null = {.type = MODEL_NULL};
    if (a.type == MODEL_NULL || b.type == MODEL_NULL)
        return null;
    if (a.type == MODEL_INTEGER && b.type == MODEL_INTEGER) {
        __int128 x = a.integer, y = b.integer, exact;
        if (sign == '/' && y == 0)
            return null;
        exact = sign == '+' ? x + y : sign == '-' ? x - y : sign == '*' ? x * y : x / y;
        if (exact >= INT64_MIN && exact <= INT64_MAX)
            return (struct model_value){.type = MODEL_INTEGER, .integer = (int64_t)exact};
    }
    double x = model_real(a), y = model_real(b);
    if (sign == '/' && y == 0)
        return null;
    double real = sign == '+' ? x + y : sign == '-' ? x - y : sign == '*' ? x * y : x / y;
    return isfinite(real) ? (struct model_value){.type = MODEL_REAL, .real = real} : null;
}

static inline size_t model_character(struct span text)
{
    size_t want = text.data[0] < 0xc0 ? 1 : text.data[0] < 0xe0 ? 2 : text.data[0] < 0xf0 ? 3 : 4;
    size_t size = 1;
    while (size < want && size < text.size && (text.data[size] & 0xc0) == 0x80)
        size++;
    return size;
}

static inline bool model_like(struct span text, const char *pattern)
{
    if (*pattern == '\0')
        return text.size == 0;
    if (*pattern == '%') {
        if (model_like(text, pattern + 1))
            return true;
        return text.size > 0 && model_like(span_from(text, model_character(text)), pattern);
    }
    if (text.size == 0)
        return false;
    if (*pattern == '_')
        return model_like(span_from(text, model_character(text)), pattern + 1);
    if (*pattern == '!')
        pattern++;
    return text.data[0] == (uint8_t)*pattern && model_like(span_from(text, 1), pattern + 1);
}

static inline int model_not(int truth)
{
    return truth < 0 ? -1 : !truth;
}

static inline int model_and(int a, int b)
{
    return a == 0 || b == 0 ? 0 : a < 0 || b < 0 ? -1 : 1;
}

static inline struct model_value model_evaluate(const struct model_node *node,
                                                const struct model_record *record)
{
    struct model_value args[3] = {0};
    for (unsigned i = 0; i < 3; i++)
        if (node->child[i] != NULL)
            args[i] = model_evaluate(node->child[i], record);
    int truth = -1;
    switch (node->kind) {
    case NODE_NAME:
        return model_name_value(record, model_names[node->at]);
    case NODE_LITERAL:
        return model_literals[node->at].value;
    case NODE_SIGN:
        if (node->sign[0] == '+')
            return model_number(args[0]);
        args[1] = (struct model_value){.type = MODEL_INTEGER, .integer = -1};
        return model_calculate('*', args[0], args[1]);
    case NODE_SUM:
    case NODE_PRODUCT:
        return model_calculate(node->sign[0], args[0], args[1]);
    case NODE_COMPARE:
        return model_of_truth(model_compare(node->sign, args[0], args[1]));
    case NODE_BETWEEN:
        if (node->negated) /* x < low OR x > high */
            return model_of_truth(
                model_not(model_and(model_not(model_compare("<", args[0], args[1])),
                                    model_not(model_compare(">", args[0], args[2])))));
        return model_of_truth(model_and(model_compare(">=", args[0], args[1]),
                                        model_compare("<=", args[0], args[2])));
    case NODE_IN:
        truth = args[0].type == MODEL_NULL ? -1 : 0;
        for (unsigned i = 0; i < node->member_count; i++)
            if (model_compare("=", args[0], model_literals[node->members[i]].value) == 1)
                truth = 1;
        return model_of_truth(node->negated ? model_not(truth) : truth);
    case NODE_LIKE:
        if (args[0].type != MODEL_NULL)
            truth =
                args[0].type >= MODEL_TEXT && model_like(args[0].text, model_patterns[node->at]);
        return model_of_truth(node->negated ? model_not(truth) : truth);
    case NODE_IS_NULL:
        return model_of_truth((args[0].type == MODEL_NULL) != node->negated);
    case NODE_NOT:
        return model_of_truth(model_not(model_truth(args[0])));
    case NODE_AND:
        return model_of_truth(model_and(model_truth(args[0]), model_truth(args[1])));
    case NODE_OR:
        return model_of_truth(
            model_not(model_and(model_not(model_truth(args[0])), model_not(model_truth(args[1])))));
    }
    return args[0];
}

static inline bool model_matches(const struct model_node *node, const struct model_record *record)
{
    return model_truth(model_evaluate(node, record)) == 1;
}

#endif
