/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors: truth tables, operators, types, limits, what is refused and where, and random
 * expressions against a naive model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/queue/selector.h"
#include "tests/unit/selector_model.h"

/* One record for the tables below. */
static struct batch *batch;
static struct record record;

static struct header header_of(const char *name, const char *value)
{
    return (struct header){span_from_text(name), span_from_text(value)};
}

static void record_make(const struct header *headers, uint32_t count, struct span key,
                        uint8_t attributes)
{
    struct batch_builder builder;
    struct record_input input = {.timestamp_ms = 1700000000000,
                                 .attributes = attributes,
                                 .key = key,
                                 .headers = headers,
                                 .header_count = count};
    batch_builder_init(&builder);
    batch_unref(batch);
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
    batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    batch_record(batch, 0, &record);
}

static int setup(void **state)
{
    (void)state;
    static const char types[] = "\x71\0\x05whole\x82\0\4real\x56\0\4flag\xb3\0\6symbol\x83\0\4time"
                                "\x71\1\5twice";
    const struct header headers[] = {
        header_of("n", "5"),
        header_of("f", "2.5"),
        header_of("s", "abc"),
        header_of("dots", "a.b.c"),
        header_of("t", "True"),
        header_of("empty", ""),
        header_of("utf", "h\xc3\xa9t\xc3\xa9"),
        header_of("content-type", "text/plain"),
        header_of("topic", "a/b"),
        header_of("message-id", "17"),
        header_of("correlation-id", "c1"),
        header_of("subject", "order"),
        header_of("group-id", "g"),
        header_of("group-sequence", "3"),
        header_of("whole", "5"),
        header_of("real", "2.5"),
        header_of("flag", "true"),
        header_of("symbol", "5"),
        header_of("time", "1700000000000"),
        header_of("twice", "1"),
        header_of("twice", "2"),
        header_of("pl-text", "the gateway's"),
        header_of("pl-pl-text", "mine"),
        {span_from_text("null"), {0}},
        {span_from_text(HEADER_TYPES), span_of(types, sizeof types - 1)},
    };
    record_make(headers, sizeof headers / sizeof headers[0], span_from_text("key-1"), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    batch_unref(batch);
    batch = NULL;
    return 0;
}

static bool matches(const char *text)
{
    struct selector *selector;
    struct err err = {""};
    if (selector_compile(span_from_text(text), &selector, &err) != STATUS_OK)
        fail_msg("%s: %s", text, err.text);
    bool is_true = selector_matches(selector, &record);
    selector_unref(selector);
    return is_true;
}

/* 1, 0, or -1 for unknown: what is neither true nor false. */
static int truth_of(const char *text)
{
    char negated[512];
    snprintf(negated, sizeof negated, "NOT (%s)", text);
    bool yes = matches(text), no = matches(negated);
    assert_false(yes && no);
    return yes ? 1 : no ? 0 : -1;
}

struct expected {
    const char *text;
    int truth;
};

static void expect_all(const struct expected *table, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int truth = truth_of(table[i].text);
        if (truth != table[i].truth)
            fail_msg("%s: is %d, should be %d", table[i].text, truth, table[i].truth);
    }
}
#define EXPECT_ALL(table) expect_all(table, sizeof table / sizeof table[0])

/* What begins with pl- is a publisher's name here too, never one of the gateway's own headers. */
static void names_of_the_gateway_are_not_seen(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"\"pl-text\" = 'mine'", 1},
        {"\"pl-types\" IS NULL AND \"pl-\" IS NULL", 1},
        {"\"pl-pl-text\" IS NULL", 1},
        {"\"pl-\"=\"pl-\"OR\"pl-\"<>\"pl-a\"OR\"pl-text\"='mine'", 1},
        {"\"pl-\"IS NULL", 1},
    };
    EXPECT_ALL(table);
}

static void truth_tables(void **state)
{
    (void)state;
    static const char *const operands[] = {"1 = 2", "missing = 1",
                                           "1 = 1"}; /* false unknown true */
    for (int a = 0; a < 3; a++) {
        char text[128];
        snprintf(text, sizeof text, "NOT %s", operands[a]);
        assert_int_equal(truth_of(text), a == 1 ? -1 : a == 0);
        for (int b = 0; b < 3; b++) {
            int least = a < b ? a : b, most = a > b ? a : b;
            snprintf(text, sizeof text, "%s AND %s", operands[a], operands[b]);
            assert_int_equal(truth_of(text), least == 1 ? -1 : least == 2);
            snprintf(text, sizeof text, "%s OR %s", operands[a], operands[b]);
            assert_int_equal(truth_of(text), most == 1 ? -1 : most == 2);
        }
    }
}

static void comparisons(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"n = 5", 1},
        {"n <> 5", 0},
        {"n < 5", 0},
        {"n <= 5", 1},
        {"n > 4.5", 1},
        {"n >= 6", 0},
        {"f = 2.5", 1},
        {"f < n", 1},
        {"n = '5'", 1},
        {"n = '5.0'", 0},
        {"n = 5.0", 1},
        {"s = 'abc'", 1},
        {"s <> 'abd'", 1},
        {"s = 'ABC'", 0},
        {"S = 'abc'", -1},
        {"s = 5", 0},
        {"s <> 5", 0},
        {"s < 5", 0},
        {"s > 5", 0},
        {"5 = 5.0", 1},
        {"'5' = 5", 0},
        {"'5' <> 5", 0},
        {"missing = 5", -1},
        {"missing <> 5", -1},
        {"\"null\" = 5", -1},
        {"empty = ''", 1},
        {"t = TRUE", 1},
        {"t <> TRUE", 0},
        {"t = FALSE", 0},
        {"t", 1},
        {"s", -1},
        {"n = TRUE", 0},
        {"n <> TRUE", 0},
        {"TRUE", 1},
        {"FALSE", 0},
        {"TRUE <> FALSE", 1},
        {"(n > 4) = (f > 2)", 1},
        {"whole = 5", 1},
        {"whole = '5'", 0},
        {"whole <> '5'", 0},
        {"whole = n", 1},
        {"real = f", 1},
        {"real < whole", 1},
        {"flag", 1},
        {"flag = TRUE", 1},
        {"flag = 'true'", 0},
        {"symbol = 5", 0},
        {"symbol = '5'", 1},
        {"symbol < 6", 0},
        {"time > 1600000000000", 1},
        {"twice = '1'", 1},
        {"twice = 2", 0},
        {"s = t", 0},
        {"n = n", 1},
        {"missing = missing", -1},
        {"9223372036854775807 = 9223372036854775806", 0},
        {"-9223372036854775808 < -9223372036854775807", 1},
    };
    EXPECT_ALL(table);
}

static void arithmetic(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"1 + 2 * 3 = 7", 1},
        {"(1 + 2) * 3 = 9", 1},
        {"7 - 2 - 1 = 4", 1},
        {"24 / 4 / 2 = 3", 1},
        {"7 / 2 = 3", 1},
        {"-7 / 2 = -3", 1},
        {"7 / 2. = 3.5", 1},
        {"n * 2 = 10", 1},
        {"n + f = 7.5", 1},
        {"-n = -5", 1},
        {"- - n = 5", 1},
        {"+n = 5", 1},
        {"2 - -3 = 5", 1},
        {"-(1 + 2) = -3", 1},
        {"s + 1 = 2", -1},
        {"flag * 1 = 1", -1},
        {"symbol + 0 = 5", -1},
        {"missing + 1 = 1", -1},
        {"1 / 0 = 1", -1},
        {"1. / 0 = 1", -1},
        {"9223372036854775807 + 1 > 9223372036854775807", 0}, /* both as approximate numbers */
        {"9223372036854775807 * 2 = 18446744073709551614.", 1},
        {"-9223372036854775808 / -1 = 9223372036854775808.", 1},
        {"1e308 * 10 > 0", -1},
        {"0x1F = 31 AND 017 = 15 AND 5L = 5 AND .5 = 0.5 AND 7. = 7 AND 1e1 = 10 AND 1f = 1", 1},
    };
    EXPECT_ALL(table);
}

static void ranges_and_lists(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"n BETWEEN 1 AND 5", 1},
        {"n BETWEEN 6 AND 9", 0},
        {"n NOT BETWEEN 6 AND 9", 1},
        {"n BETWEEN 5 AND 1", 0},
        {"n + 1 BETWEEN n AND n * 2 AND s = 'abc'", 1},
        {"n BETWEEN missing AND 4", 0},
        {"n BETWEEN missing AND 9", -1},
        {"n NOT BETWEEN missing AND 4", 1},
        {"missing BETWEEN 1 AND 2", -1},
        {"s BETWEEN 1 AND 2", 0},
        {"s NOT BETWEEN 1 AND 2", 0}, /* neither below nor above */
        {"s IN ('x', 'abc')", 1},
        {"s IN ('x')", 0},
        {"s NOT IN ('x')", 1},
        {"missing IN ('x')", -1},
        {"missing NOT IN ('x')", -1},
        {"n IN (1, -5, +5)", 1},
        {"n NOT IN (5.0)", 0},
        {"whole IN ('5')", 0},
        {"whole NOT IN ('5')", 1},
        {"flag IN (FALSE, TRUE)", 1},
        {"n IN ('5')", 1},
        {"missing IS NULL", 1},
        {"\"null\" IS NULL", 1}, /* a reserved word as a name */
        {"n IS NULL", 0},
        {"empty IS NOT NULL", 1},
        {"missing IS NOT NULL", 0},
    };
    EXPECT_ALL(table);
}

static void patterns(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"s LIKE 'abc'", 1},
        {"s LIKE 'a%'", 1},
        {"s LIKE '%c'", 1},
        {"s LIKE '%b%'", 1},
        {"s LIKE 'a_c'", 1},
        {"s LIKE '___'", 1},
        {"s LIKE '____'", 0},
        {"s LIKE '__'", 0},
        {"s LIKE 'A%'", 0},
        {"s LIKE '%%%'", 1},
        {"s LIKE ''", 0},
        {"empty LIKE ''", 1},
        {"empty LIKE '%'", 1},
        {"empty LIKE '_'", 0},
        {"s NOT LIKE 'x%'", 1},
        {"s NOT LIKE '%c'", 0},
        {"missing LIKE '%'", -1},
        {"missing NOT LIKE '%'", -1},
        {"whole LIKE '5'", 0},
        {"whole NOT LIKE '5'", 1},
        {"n LIKE '5'", 1},
        {"utf LIKE 'h_t_'", 1},
        {"utf LIKE '%\xc3\xa9'", 1},
        {"utf LIKE 'h__t%'", 0},
        {"\"content-type\" LIKE 'text/%'", 1},
        {"\"content-type\" LIKE 'text!%' ESCAPE '!'", 0},
        {"topic LIKE 'a//b' ESCAPE '/'", 1},
        {"JMSMessageID LIKE '1_'", 1},
    };
    EXPECT_ALL(table);
}

/* Words between dots. */
static void words(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"dots MATCHES 'a.b.c'", 1},
        {"dots MATCHES 'a.*.c'", 1},
        {"dots MATCHES '*.*.*'", 1},
        {"dots MATCHES '*.*'", 0},
        {"dots MATCHES 'a.*'", 0},
        {"dots MATCHES 'a.#'", 1},
        {"dots MATCHES 'a.b.c.#'", 1},
        {"dots MATCHES 'a.b.c.*'", 0},
        {"dots MATCHES '#.c'", 1},
        {"dots MATCHES '#.a.b.c'", 1},
        {"dots MATCHES '#.b.#'", 1},
        {"dots MATCHES '#.d.#'", 0},
        {"dots MATCHES '#.*.c'", 1},
        {"dots MATCHES 'a.#.b.#.c'", 1},
        {"dots MATCHES 'a.#.c.#.c'", 0},
        {"dots MATCHES '#'", 1},
        {"dots matches 'A.b.c'", 0},
        {"dots MATCHES 'a.b'", 0},
        {"dots MATCHES 'a.%.c'", 0},
        {"dots MATCHES ''", 0},
        {"empty MATCHES ''", 1},
        {"empty MATCHES '*'", 1},
        {"empty MATCHES '*.*'", 0},
        {"dots NOT MATCHES 'x.#'", 1},
        {"s MATCHES 'ab*'", 0}, /* of a word nothing but all of it */
        {"missing MATCHES '#'", -1},
        {"whole MATCHES '5'", 0},                  /* no text */
        {"matches MATCHES 'a.*' OR s = 'abc'", 1}, /* not reserved */
    };
    EXPECT_ALL(table);
}

/* In quotes a name is that of a property, also where it means a field without them. */
static void quoted_names(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"key = 'key-1'", 1},        {"\"key\" IS NULL", 1},        {"JMSPriority = 4", 1},
        {"\"JMSPriority\" = 4", -1}, {"\"JMSReplyTo\" IS NULL", 1},
    };
    EXPECT_ALL(table);
}

static void standard_fields(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"JMSMessageID = '17'", 1},
        {"JMSMessageID = 17", 0}, /* always text */
        {"\"message-id\" = 17", 1},
        {"JMSCorrelationID = 'c1'", 1},
        {"JMSType = 'order' AND subject = 'order'", 1},
        {"JMSPriority = 4", 1},
        {"priority IS NULL", 1},
        {"JMSTimestamp = 1700000000000", 1},
        {"JMSDeliveryMode = 'PERSISTENT'", 1},
        {"JMSXGroupID = 'g' AND JMSXGroupSeq = 3", 1},
        {"topic = 'a/b'", 1},
        {"key = 'key-1'", 1},
        {"\"content-type\" = 'text/plain'", 1},
        {"JMS_vendor IS NULL AND JMSXUserID IS NULL", 1},
    };
    EXPECT_ALL(table);
    const struct header priority = header_of("priority", "9");
    record_make(&priority, 1, (struct span){0}, GUARANTEE_AT_MOST_ONCE | RECORD_NOT_DURABLE);
    assert_true(matches("JMSPriority > 8 AND JMSDeliveryMode = 'NON_PERSISTENT' AND key IS NULL"));
    record_make(NULL, 0, (struct span){0}, RECORD_NOT_DURABLE | GUARANTEE_EXACTLY_ONCE);
    assert_true(matches("JMSDeliveryMode = 'NON_PERSISTENT' AND JMSTimestamp = 1700000000000"));
    record_make(NULL, 0, (struct span){0}, GUARANTEE_AT_MOST_ONCE); /* settled, and yet durable */
    assert_true(matches("JMSDeliveryMode = 'PERSISTENT'"));
    const struct header created = header_of("creation-time", "5000");
    record_make(&created, 1, (struct span){0}, 0);
    assert_true(matches("JMSTimestamp = 5000 AND JMSDeliveryMode = 'PERSISTENT'"));
    const struct header late = header_of("creation-time", "late");
    record_make(&late, 1, (struct span){0}, 0);
    assert_true(matches("JMSTimestamp = 1700000000000"));
    const struct header nonsense = header_of("priority", "high");
    record_make(&nonsense, 1, (struct span){0}, 0);
    assert_true(matches("JMSPriority = 4 AND priority = 'high'"));
}

/* What the specification gives as examples, and spellings. */
static void spellings(void **state)
{
    (void)state;
    static const struct expected table[] = {
        {"nOt n=6 aNd(s='abc')", 1},
        {" \t\r\n\fn\n=\t5 ", 1},
        {"s = 'it''s'", 0},
        {"\"a\"\"b\" IS NULL", 1},
        {"$x_1 IS NULL AND _y IS NULL AND \xc3\xa9t\xc3\xa9 IS NULL", 1},
        {"((((n))) = ((5)))", 1},
        {"NOT NOT n = 5", 1},
        {"1 = 2 OR 1 = 1 AND 1 = 1", 1},
        {"1 = 1 OR 1 = 1 AND 1 = 2", 1},
        {"NOT 1 = 2 AND 1 = 2", 0},
        {"Jms IS NULL", 1},
    };
    EXPECT_ALL(table);
}

static void what_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *reason;
    } table[] = {
        {"", "at 1: expected a value"},
        {"  ", "at 3: expected a value"},
        {"n =", "at 4: expected a value"},
        {"n = )", "at 5: expected a value"},
        {"= 5", "at 1: expected a value"},
        {"n 5", "at 3: expected an operator"},
        {"n = 5 m", "at 7: expected an operator"},
        {"n = 5 (", "at 7: expected an operator"},
        {"(n = 5", "at 1: this parenthesis is not closed"},
        {"n = 5)", "at 6: this parenthesis was not opened"},
        {"n = 'a", "at 5: this quote is not closed"},
        {"n = 'a''", "at 5: this quote is not closed"},
        {"\"n = 5", "at 1: this quote is not closed"},
        {"\"\" = 5", "at 1: a name is empty"},
        {"n ! 5", "at 3: a character without meaning"},
        {"n == 5", "at 4: expected a value"},
        {"a.b = 5", "at 2: a character without meaning"},
        {"n = 5 AND", "at 10: expected a value"},
        {"5", "at 1: expected a condition"},
        {"'a'", "at 1: expected a condition"},
        {"n + 1", "at 1: expected a condition"},
        {"n = 5 AND 'a'", "at 11: expected a condition"},
        {"(n + 1) OR n = 5", "at 1: expected a condition"},
        {"NOT 5", "at 5: expected a condition"},
        {"n < 'a'", "at 5: only numbers have an order"},
        {"TRUE > n", "at 1: only numbers have an order"},
        {"n BETWEEN 'a' AND 'b'", "at 11: only numbers have an order"},
        {"n + 'a' = 5", "at 5: expected a number"},
        {"-TRUE = 1", "at 2: expected a number"},
        {"(n = 1) + 1 = 2", "at 1: expected a number"},
        {"a = b = c", "at 7: comparisons do not chain"},
        {"a < b < c", "at 7: comparisons do not chain"},
        {"a IS NULL = TRUE", "at 11: comparisons do not chain"},
        {"a = b IS NULL", "at 7: comparisons do not chain"},
        {"a = NOT b", "at 5: expected a value"},
        {"n BETWEEN 1 OR 2", "at 13: expected AND of BETWEEN"},
        {"n BETWEEN 1", "at 12: expected AND of BETWEEN"},
        {"(n BETWEEN 1) AND 2", "at 13: expected AND of BETWEEN"},
        {"n IN ()", "at 7: expected a literal"},
        {"n IN 'a'", "at 6: expected ("},
        {"n IN ('a' 'b')", "at 11: expected , or )"},
        {"n IN ('a',)", "at 11: expected a literal"},
        {"n IN (m)", "at 7: expected a literal"},
        {"n IN (-'a')", "at 8: expected a literal"},
        {"5 IN (5)", "at 1: expected a name before IN, LIKE, MATCHES or IS"},
        {"n + 1 IN (5)", "at 1: expected a name before IN, LIKE, MATCHES or IS"},
        {"(n) IS NULL", "at 1: expected a name before IN, LIKE, MATCHES or IS"},
        {"n LIKE 5", "at 8: expected a pattern"},
        {"n LIKE m", "at 8: expected a pattern"},
        {"n LIKE 'a' ESCAPE", "at 18: expected one ASCII character in quotes"},
        {"n LIKE 'a' ESCAPE 'ab'", "at 19: expected one ASCII character in quotes"},
        {"n LIKE 'a!' ESCAPE '!'",
         "at 8: in a pattern only %, _ and the escape character can be escaped"},
        {"n LIKE '!a' ESCAPE '!'",
         "at 8: in a pattern only %, _ and the escape character can be escaped"},
        {"n MATCHES 5", "at 11: expected words"},
        {"n NOT 5", "at 7: expected BETWEEN, IN, LIKE or MATCHES"},
        {"n NOT NULL", "at 7: expected BETWEEN, IN, LIKE or MATCHES"},
        {"n IS 5", "at 6: expected NULL or NOT"},
        {"n IS NOT 5", "at 10: expected NULL"},
        {"n = NULL", "at 5: expected a value"},
        {"between = 5", "at 1: expected a value"},
        {"9223372036854775808 = n", "at 1: this number is too large"},
        {"n IN (9223372036854775808)", "at 7: this number is too large"},
        {"-9223372036854775809 = n", "at 2: this number is too large"},
        {"n = 1e999", "at 5: this number is too large or too long"},
        {"n = 08", "at 6: no digit of an octal number"},
        {"n = 0x", "at 6: no part of a number"},
        {"n = 5a", "at 6: no part of a number"},
        {"n = 1.5L", "at 8: no part of a number"},
        {"JMSReplyTo = 'a'", "at 1: no field that can be selected by"},
        {"JMSRedelivered", "at 1: no field that can be selected by"},
        {"n = '\xff'", "at 1: not UTF-8"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct selector *selector = NULL;
        struct err err = {""};
        enum status status = selector_compile(span_from_text(table[i].text), &selector, &err);
        if (status != STATUS_INVALID || strcmp(err.text, table[i].reason) != 0)
            fail_msg("%s: %s, should be %s", table[i].text, err.text, table[i].reason);
        assert_null(selector);
        assert_int_equal(selector_compile(span_from_text(table[i].text), &selector, NULL),
                         STATUS_INVALID);
    }
}

static void repeat(struct buf *text, const char *part, unsigned count)
{
    while (count-- > 0)
        buf_append_text(text, part);
}

/* head, part count times, middle, tail count times. */
static void expect_limit(const char *head, const char *part, unsigned count, const char *middle,
                         const char *tail, const char *reason)
{
    struct buf text;
    struct selector *selector;
    struct err err = {""};
    buf_init(&text, 1 << 20);
    buf_append_text(&text, head);
    repeat(&text, part, count);
    buf_append_text(&text, middle);
    repeat(&text, tail, count);
    enum status status = selector_compile(buf_span(&text), &selector, &err);
    if (reason == NULL) {
        if (status != STATUS_OK)
            fail_msg("%.60s: %s", (const char *)text.data, err.text);
        selector_matches(selector, &record);
        selector_unref(selector);
    } else {
        assert_int_equal(status, STATUS_INVALID);
        assert_string_equal(err.text, reason);
    }
    buf_deinit(&text);
}

static void limits(void **state)
{
    (void)state;
    expect_limit("", " ", LIMIT_SELECTOR_BYTES - 4, "TRUE", "", NULL);
    expect_limit("", " ", LIMIT_SELECTOR_BYTES - 3, "TRUE", "", "at 4097: longer than 4096 bytes");
    expect_limit("", "(", LIMIT_SELECTOR_DEPTH, "TRUE", ")", NULL);
    expect_limit("", "(", LIMIT_SELECTOR_DEPTH + 1, "TRUE", ")", "at 65: nested too deep");
    expect_limit("", "NOT ", LIMIT_SELECTOR_DEPTH, "TRUE", "", NULL);
    expect_limit("", "NOT ", LIMIT_SELECTOR_DEPTH + 1, "TRUE", "", "at 257: nested too deep");
    expect_limit("1 = ", "- ", LIMIT_SELECTOR_DEPTH, "n", "", NULL);
    expect_limit("1 = ", "- ", LIMIT_SELECTOR_DEPTH + 1, "n", "", "at 133: nested too deep");
    /* Each level holds one more operand. */
    expect_limit("1 = ", "n+(", LIMIT_SELECTOR_DEPTH - 2, "1", ")", NULL);
    expect_limit("1 = ", "n+(", LIMIT_SELECTOR_DEPTH - 1, "1", ")", "at 194: nested too deep");
    expect_limit("1 = 1", "+1", 1022, "", "", NULL);
    expect_limit("1 = 1", "+1", 1023, "", "", "at 2052: more than 2048 operations");
    expect_limit("n IN (1", ",1", 2044, ")", "", NULL);

    struct buf text;
    buf_init(&text, 4096);
    for (unsigned i = 0; i < LIMIT_SELECTOR_NAMES; i++)
        buf_printf(&text, "x%u IS NULL AND ", i);
    size_t size = text.size;
    buf_append_text(&text, "x0 IS NULL");
    struct selector *selector;
    struct err err;
    assert_int_equal(selector_compile(buf_span(&text), &selector, &err), STATUS_OK);
    assert_true(selector_matches(selector, &record));
    selector_unref(selector);
    text.size = size;
    buf_append_text(&text, "y IS NULL");
    assert_int_equal(selector_compile(buf_span(&text), &selector, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "too many different names"));
    buf_deinit(&text);
}

/* The classic trap for matchers that try everything. */
static void patterns_end_in_time(void **state)
{
    (void)state;
    struct buf text, pattern;
    struct selector *selector;
    buf_init(&text, 1 << 24);
    buf_init(&pattern, 8192);
    repeat(&text, "a", 5000);
    const struct header header = {span_from_text("v"), buf_span(&text)};
    record_make(&header, 1, (struct span){0}, 0);
    assert_int_equal(truth_of("v LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%ab'"), 0);

    buf_append_text(&pattern, "v LIKE '%");
    repeat(&pattern, "a", 2000);
    buf_append_text(&pattern, "b%' OR TRUE");
    assert_int_equal(selector_compile(buf_span(&pattern), &selector, NULL), STATUS_OK);
    assert_true(selector_matches(selector, &record)); /* unknown OR TRUE */
    selector_unref(selector);

    repeat(&text, "a", 2 << 20);
    const struct header large = {span_from_text("v"), buf_span(&text)};
    record_make(&large, 1, (struct span){0}, 0);
    assert_int_equal(truth_of("v LIKE 'aa%'"), 1);
    assert_int_equal(truth_of("v LIKE '%b'"), -1); /* looked long enough */
    assert_int_equal(truth_of("v = v"), 1);
    buf_deinit(&text);
    buf_deinit(&pattern);
}

static void many_headers(void **state)
{
    (void)state;
    struct header headers[LIMIT_HEADERS];
    char names[LIMIT_HEADERS][16];
    for (unsigned i = 0; i < LIMIT_HEADERS; i++) {
        snprintf(names[i], sizeof names[i], "name%u", i % 128);
        headers[i] = header_of(names[i], i < 128 ? "first" : "second");
    }
    record_make(headers, LIMIT_HEADERS, (struct span){0}, 0);
    assert_true(matches("name0 = 'first' AND name127 = 'first' AND name64 <> 'second'"));
    assert_true(matches("name128 IS NULL AND name IS NULL"));
}

static void references(void **state)
{
    (void)state;
    struct selector *selector;
    assert_int_equal(selector_compile(span_from_text("n = 5"), &selector, NULL), STATUS_OK);
    assert_ptr_equal(selector_ref(selector), selector);
    selector_unref(selector);
    assert_true(span_is(selector_text(selector), "n = 5"));
    assert_true(selector_matches(selector, &record));
    selector_unref(selector);
    selector_unref(NULL);
}

/* Random expressions */

static uint64_t seed_state;

static uint32_t seeded_below(struct draw *draw, uint32_t bound)
{
    (void)draw;
    seed_state ^= seed_state << 13;
    seed_state ^= seed_state >> 7;
    seed_state ^= seed_state << 17;
    return (uint32_t)((seed_state >> 16) % bound);
}

static void one_expression(uint64_t seed, unsigned *hits)
{
    static struct model_expression expression;
    struct draw draw = {.below = seeded_below};
    struct buf texts[2];
    struct selector *selectors[2];
    seed_state = seed * 0x9e3779b97f4a7c15u + 1;
    const struct model_node *root = model_expression_draw(&expression, &draw);
    for (unsigned i = 0; i < 2; i++) {
        struct err err = {""};
        buf_init(&texts[i], 1 << 20);
        model_write(&texts[i], root, i == 1);
        if (selector_compile(buf_span(&texts[i]), &selectors[i], &err) != STATUS_OK)
            fail_msg("seed %lu: %.*s: %s", (unsigned long)seed, (int)texts[i].size, texts[i].data,
                     err.text);
    }
    for (unsigned n = 0; n < 12; n++) {
        struct model_record model = model_record_draw(&draw);
        struct batch *drawn = model_record_batch(&model);
        struct record at;
        batch_record(drawn, 0, &at);
        bool wanted = model_matches(root, &model);
        for (unsigned i = 0; i < 2; i++)
            if (selector_matches(selectors[i], &at) != wanted)
                fail_msg("seed %lu record %u: should be %d: %.*s", (unsigned long)seed, n, wanted,
                         (int)texts[i].size, texts[i].data);
        *hits += wanted;
        batch_unref(drawn);
    }
    for (unsigned i = 0; i < 2; i++) {
        selector_unref(selectors[i]);
        buf_deinit(&texts[i]);
    }
}

static void random_expressions(void **state)
{
    (void)state;
    unsigned hits = 0, count = 5000;
    for (uint64_t seed = 1; seed <= count; seed++)
        one_expression(seed, &hits);
    assert_in_range(hits, count, 11 * count); /* neither nearly none nor nearly all */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(truth_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(names_of_the_gateway_are_not_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(comparisons, setup, teardown),
        cmocka_unit_test_setup_teardown(arithmetic, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_and_lists, setup, teardown),
        cmocka_unit_test_setup_teardown(patterns, setup, teardown),
        cmocka_unit_test_setup_teardown(words, setup, teardown),
        cmocka_unit_test_setup_teardown(quoted_names, setup, teardown),
        cmocka_unit_test_setup_teardown(standard_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(spellings, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(limits, setup, teardown),
        cmocka_unit_test_setup_teardown(patterns_end_in_time, setup, teardown),
        cmocka_unit_test_setup_teardown(many_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(references, setup, teardown),
        cmocka_unit_test(random_expressions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
