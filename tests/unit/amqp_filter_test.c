/* SPDX-License-Identifier: Apache-2.0 */
/* links: adapter_amqp */
/* The filter set of a source: which selector it makes, what of it is answered, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "adapters/amqp/filter.h"
#include "core/base/limits.h"

enum { ROOM = 8 * 1024 };

/* A filter set under construction, and what became of it. */
struct set {
    uint8_t bytes[ROOM], echo[ROOM + AMQP_HEAD_MAX];
    struct amqp_writer to, answer;
    uint8_t *began;
    uint32_t count;
    struct amqp_filter filter;
    struct err err;
};

static void put_string(struct amqp_writer *to, const char *text)
{
    size_t size = strlen(text);
    uint8_t head[] = {0xb1, 0, 0, (uint8_t)(size >> 8), (uint8_t)size};
    amqp_write_raw(to, span_of(head, sizeof head));
    amqp_write_raw(to, span_from_text(text));
}

static void put_symbol(struct amqp_writer *to, const char *text)
{
    uint8_t head[] = {0xa3, (uint8_t)strlen(text)};
    amqp_write_raw(to, span_of(head, sizeof head));
    amqp_write_raw(to, span_from_text(text));
}

static void set_begin(struct set *set)
{
    memset(set, 0, sizeof *set);
    set->to.at = set->bytes;
    set->answer.at = set->echo;
    set->began = amqp_open(&set->to);
}

/* Up to the value, which must follow. */
static void set_add(struct set *set, const char *descriptor)
{
    put_symbol(&set->to, "any name");
    amqp_write_raw(&set->to, span_of("\0", 1));
    put_symbol(&set->to, descriptor);
    set->count += 2;
}

static void set_add_text(struct set *set, const char *descriptor, const char *text)
{
    set_add(set, descriptor);
    put_string(&set->to, text);
}

static void set_add_raw(struct set *set, const char *descriptor, const char *bytes, size_t size)
{
    set_add(set, descriptor);
    amqp_write_raw(&set->to, span_of(bytes, size));
}

static enum status set_decode(struct set *set)
{
    amqp_close(&set->to, set->began, AMQP_MAP, set->count, false);
    struct span bytes = span_of(set->bytes, (size_t)(set->to.at - set->bytes));
    return amqp_filter_decode(bytes, &set->filter, &set->answer, &set->err);
}

/* How many entries are answered. */
static uint32_t answered(const struct set *set)
{
    struct reader at = reader_of(span_of(set->echo, (size_t)(set->answer.at - set->echo)));
    struct amqp_value map;
    assert_true(amqp_value_read(&at, &map));
    assert_int_equal(map.type, AMQP_MAP);
    return map.count / 2;
}

static void assert_selects(struct set *set, const char *wanted)
{
    assert_int_equal(set_decode(set), STATUS_OK);
    assert_non_null(set->filter.selector);
    struct span text = selector_text(set->filter.selector);
    if (!span_is(text, wanted))
        fail_msg("%.*s, wanted %s", (int)text.size, (const char *)text.data, wanted);
    amqp_filter_deinit(&set->filter);
}

#define SELECTOR   "apache.org:selector-filter:string"
#define DIRECT     "apache.org:legacy-amqp-direct-binding:string"
#define WORDS      "apache.org:legacy-amqp-topic-binding:string"
#define NO_LOCAL   "apache.org:no-local-filter:list"
#define POSITION   "rabbitmq:stream-offset-spec"
#define PROPERTIES "amqp:properties-filter"
#define RAW(bytes) bytes, sizeof bytes - 1

static void test_what_a_set_selects(void **state)
{
    (void)state;
    struct set set;
    set_begin(&set);
    set_add_text(&set, SELECTOR, "n > 1"); /* alone it stays as it is */
    assert_selects(&set, "n > 1");
    set_begin(&set);
    set_add_text(&set, DIRECT, "it's");
    assert_selects(&set, "(\"subject\" = 'it''s')");
    set_begin(&set);
    set_add_text(&set, SELECTOR, "n > 1 OR m = 2");
    set_add_text(&set, DIRECT, "a");
    assert_selects(&set, "(n > 1 OR m = 2) AND (\"subject\" = 'a')");
    /* Beginning and end; what LIKE would read otherwise is taken as it is. */
    set_begin(&set);
    set_add_raw(&set, PROPERTIES, RAW("\xc1\x14\x02\xa3\x07subject\xa1\x08&p:10%_!"));
    assert_selects(&set, "(\"subject\" LIKE '10!%!_!!%' ESCAPE '!')");
    set_begin(&set);
    set_add_raw(&set, PROPERTIES, RAW("\xc1\x10\x02\xa3\x07subject\xa1\x04&s:x"));
    assert_selects(&set, "(\"subject\" LIKE '%x' ESCAPE '!')");
    set_begin(&set);
    set_add_raw(&set, PROPERTIES, RAW("\xc1\x0f\x02\xa3\x07subject\xa1\x03&&x"));
    assert_selects(&set, "(\"subject\" = '&x')");
}

static void test_what_is_answered(void **state)
{
    (void)state;
    struct set set;
    set_begin(&set);
    set_add_text(&set, SELECTOR, "n = 1");
    set_add_text(&set, "somebody:else", "x"); /* not known */
    set_add_raw(&set, NO_LOCAL, RAW("\x45"));
    assert_int_equal(set_decode(&set), STATUS_OK);
    assert_int_equal(answered(&set), 2);
    assert_true(set.filter.no_local);
    amqp_filter_deinit(&set.filter);
    /* Null says nothing; nor does an empty set. */
    set_begin(&set);
    assert_int_equal(amqp_filter_decode(span_of("\x40", 1), &set.filter, &set.answer, &set.err),
                     STATUS_OK);
    assert_null(set.filter.selector);
    set_begin(&set);
    assert_int_equal(set_decode(&set), STATUS_OK);
    assert_null(set.filter.selector);
    assert_int_equal(answered(&set), 0);
}

static void test_positions(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        enum seek_to from;
        uint64_t offset;
        int64_t time_ms;
        bool last;
    } cases[] = {
        {RAW("\xa1\x05"
             "first"),
         SEEK_EARLIEST, 0, 0, false},
        {RAW("\xa1\x04next"), SEEK_LATEST, 0, 0, false},
        {RAW("\xa1\x04last"), SEEK_LATEST, 0, 0, true},
        {RAW("\x53\x07"), SEEK_OFFSET, 7, 0, false},
        {RAW("\x55\x07"), SEEK_OFFSET, 7, 0, false},
        {RAW("\x83\0\0\0\0\0\0\x01\0"), SEEK_TIME, 0, 256, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct set set;
        set_begin(&set);
        set_add_raw(&set, POSITION, cases[i].bytes, cases[i].size);
        assert_int_equal(set_decode(&set), STATUS_OK);
        assert_true(set.filter.has_position);
        assert_int_equal(set.filter.from, cases[i].from);
        assert_int_equal(set.filter.offset, cases[i].offset);
        assert_int_equal(set.filter.time_ms, cases[i].time_ms);
        assert_int_equal(set.filter.last, cases[i].last);
    }
}

static void assert_refused(struct set *set, enum status wanted)
{
    assert_int_equal(set_decode(set), wanted);
    assert_true(set->err.text[0] != '\0');
    assert_null(set->filter.selector);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    struct set set;
    set_begin(&set);
    set_add_text(&set, SELECTOR, "n >");
    assert_refused(&set, STATUS_INVALID);
    set_begin(&set);
    set_add_raw(&set, SELECTOR, RAW("\x41"));
    assert_refused(&set, STATUS_INVALID);
    set_begin(&set);
    set_add_raw(&set, POSITION,
                RAW("\xa1\x03"
                    "now"));
    assert_refused(&set, STATUS_INVALID);
    set_begin(&set);
    set_add_raw(&set, POSITION, RAW("\x55\xff")); /* -1 */
    assert_refused(&set, STATUS_INVALID);
    set_begin(&set);
    set_add_raw(&set, PROPERTIES, RAW("\xa1\x01x")); /* no map */
    assert_refused(&set, STATUS_INVALID);
    set_begin(&set);
    set_add_raw(&set, PROPERTIES, RAW("\xc1\x0f\x02\xa3\x07subject\xa1\x03&x:"));
    assert_refused(&set, STATUS_INVALID);
    set_begin(&set);
    set_add_raw(&set, DIRECT, RAW("\xa1\x02\xff\xfe")); /* not UTF-8 */
    assert_refused(&set, STATUS_INVALID);
}

/* However many conditions there are, they are one selector with its bounds. */
static void test_bounds(void **state)
{
    (void)state;
    char text[LIMIT_SELECTOR_BYTES + 1];
    struct set set;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    set_begin(&set);
    set_add_text(&set, DIRECT, text);
    assert_refused(&set, STATUS_INVALID);
    text[LIMIT_SELECTOR_BYTES - 32] = '\0';
    set_begin(&set);
    set_add_text(&set, DIRECT, text);
    assert_int_equal(set_decode(&set), STATUS_OK);
    amqp_filter_deinit(&set.filter);
    set_begin(&set);
    set_add_text(&set, DIRECT, text);
    set_add_text(&set, WORDS, "a.*.#");
    set_add_text(&set, SELECTOR, "a = 'and much more'");
    assert_refused(&set, STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_set_selects),
        cmocka_unit_test(test_what_is_answered),
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
