/* SPDX-License-Identifier: Apache-2.0 */
/* What an ATTACH says that Proton does not pass on, and an answer that says it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "adapters/amqp/attach.h"
#include "core/base/limits.h"

#define BYTES(...) span_of(((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__}))

/* An attach whose source has that default outcome. */
static struct amqp_default of(struct span outcome)
{
    uint8_t bytes[256];
    struct amqp_writer writer = {.at = bytes};
    amqp_write_raw(&writer, BYTES(0, 0x53, 0x12));
    uint8_t *attach = amqp_open(&writer);
    amqp_write_bytes(&writer, AMQP_STRING, span_of("link", 4));
    amqp_write_uint(&writer, 0);
    amqp_write_boolean(&writer, true);
    amqp_write_null(&writer);
    amqp_write_null(&writer);
    amqp_write_raw(&writer, BYTES(0, 0x53, 0x28));
    uint8_t *source = amqp_open(&writer);
    for (unsigned i = 0; i < 8; i++)
        amqp_write_null(&writer);
    amqp_write_raw(&writer, outcome);
    amqp_close(&writer, source, AMQP_LIST, 9, false);
    amqp_close(&writer, attach, AMQP_LIST, 6, false);
    struct span whole = span_of(bytes, (size_t)(writer.at - bytes));
    for (size_t size = 0; size < whole.size; size++) /* of what is cut nothing is known */
        assert_int_equal(amqp_default_read(span_of(bytes, size)).outcome, AMQP_OUTCOME_NONE);
    return amqp_default_read(whole);
}

static void test_outcomes(void **state)
{
    (void)state;
    assert_int_equal(of(BYTES(0, 0x53, 0x24, 0x45)).outcome, AMQP_OUTCOME_ACCEPTED);
    assert_int_equal(of(BYTES(0, 0x53, 0x25, 0xc0, 1, 0)).outcome, AMQP_OUTCOME_REJECTED);
    assert_int_equal(of(BYTES(0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x26, 0x45)).outcome,
                     AMQP_OUTCOME_RELEASED);
    assert_int_equal(of(BYTES(0x40)).outcome, AMQP_OUTCOME_NONE);
    assert_int_equal(of(BYTES(0, 0x53, 0x23, 0x45)).outcome, AMQP_OUTCOME_NONE); /* received */
    assert_int_equal(of(BYTES(0, 0x53, 0x28, 0x45)).outcome, AMQP_OUTCOME_NONE);
    assert_int_equal(of(BYTES(0x53, 0x24)).outcome, AMQP_OUTCOME_NONE);
    assert_int_equal(of(BYTES(0, 0x53, 0x24, 0x40)).outcome, AMQP_OUTCOME_NONE);
}

static void test_modified(void **state)
{
    (void)state;
    struct amqp_default said = of(BYTES(0, 0x53, 0x27, 0x45));
    assert_int_equal(said.outcome, AMQP_OUTCOME_MODIFIED);
    assert_false(said.failed || said.undeliverable || said.delay_ms > 0);
    said = of(BYTES(0, 0x53, 0x27, 0xc0, 3, 2, 0x41, 0x42));
    assert_true(said.failed && !said.undeliverable);
    said = of(BYTES(0, 0x53, 0x27, 0xc0, 3, 2, 0x40, 0x41));
    assert_true(!said.failed && said.undeliverable);
#define DELAY                                                                                      \
    0xa3, 20, 'x', '-', 'o', 'p', 't', '-', 'd', 'e', 'l', 'i', 'v', 'e', 'r', 'y', '-', 'd', 'e', \
        'l', 'a', 'y'
    said = of(BYTES(0, 0x53, 0x27, 0xc0, 30, 3, 0x41, 0x42, 0xc1, 25, 2, DELAY, 0x52, 7));
    assert_int_equal(said.delay_ms, 7);
    said = of(BYTES(0, 0x53, 0x27, 0xc0, 30, 3, 0x41, 0x42, 0xc1, 25, 2, DELAY, 0x54, 0xf9));
    assert_int_equal(said.delay_ms, 0);
    said = of(BYTES(0, 0x53, 0x27, 0xc0, 37, 3, 0x41, 0x42, 0xc1, 32, 2, DELAY, 0x81, 0x70, 0, 0, 0,
                    0, 0, 0, 0));
    assert_int_equal(said.delay_ms, LIMIT_DELAY_MS);
    said =
        of(BYTES(0, 0x53, 0x27, 0xc0, 30, 3, 0x41, 0x42, 0xc1, 25, 2, DELAY, 0x50, 8)); /* ubyte */
    assert_int_equal(said.delay_ms, 8);
    said = of(
        BYTES(0, 0x53, 0x27, 0xc0, 31, 3, 0x41, 0x42, 0xc1, 26, 2, DELAY, 0x61, 1, 0)); /* short */
    assert_int_equal(said.delay_ms, 256);
    said = of(
        BYTES(0, 0x53, 0x27, 0xc0, 30, 3, 0x41, 0x42, 0xc1, 25, 2, DELAY, 0x51, 0xf9)); /* byte */
    assert_int_equal(said.delay_ms, 0);
    said = of(BYTES(0, 0x53, 0x27, 0xc0, 29, 3, 0x41, 0x42, 0xc1, 24, 2, DELAY, 0x41)); /* true */
    assert_int_equal(said.delay_ms, 0);
}

static void test_a_default_outcome_is_written_as_it_is_read(void **state)
{
    (void)state;
    struct amqp_default outcomes[] = {
        {.outcome = AMQP_OUTCOME_ACCEPTED},
        {.outcome = AMQP_OUTCOME_REJECTED},
        {.outcome = AMQP_OUTCOME_RELEASED},
        {.outcome = AMQP_OUTCOME_MODIFIED},
        {.outcome = AMQP_OUTCOME_MODIFIED, .failed = true, .delay_ms = LIMIT_DELAY_MS},
        {.outcome = AMQP_OUTCOME_MODIFIED, .undeliverable = true, .delay_ms = 1},
    };
    for (size_t i = 0; i < sizeof outcomes / sizeof *outcomes; i++) {
        uint8_t bytes[AMQP_DEFAULT_MAX];
        struct amqp_writer writer = {.at = bytes};
        amqp_default_write(&writer, &outcomes[i]);
        size_t size = (size_t)(writer.at - bytes);
        assert_true(size <= sizeof bytes);
        struct amqp_default said = of(span_of(bytes, size));
        assert_int_equal(said.outcome, outcomes[i].outcome);
        assert_int_equal(said.failed, outcomes[i].failed);
        assert_int_equal(said.undeliverable, outcomes[i].undeliverable);
        assert_int_equal(said.delay_ms, outcomes[i].delay_ms);
    }
}

/* An attach: name, handle, role, two modes, source, target, and those two. */
#define ATTACH_BODY(size, ...)                                                                     \
    0, 0x53, 0x12, 0xc0, size, 9, 0xa1, 1, 'l', 0x43, 0x41, 0x40, 0x40, 0, 0x53, 0x28, 0x45, 0,    \
        0x53, 0x29, 0x45, __VA_ARGS__

static void test_what_is_unsettled(void **state)
{
    (void)state;
    struct span tag;
    struct amqp_unsettled_map map =
        amqp_unsettled_read(BYTES(ATTACH_BODY(34, 0xc1, 15, 6, 0xa0, 1, 'a', 0x40, 0xa1, 1, 'x',
                                              0x40, 0xa0, 0, 0, 0x53, 0x24, 0x45, 0x41)));
    assert_true(map.is_there && map.incomplete);
    assert_true(amqp_unsettled_next(&map, &tag) && span_is(tag, "a"));
    assert_true(amqp_unsettled_next(&map, &tag) && tag.size == 0); /* "x" is no tag */
    assert_false(amqp_unsettled_next(&map, &tag));
    assert_false(amqp_unsettled_next(&map, &tag));
    map = amqp_unsettled_read(BYTES(ATTACH_BODY(20, 0xc1, 1, 0, 0x42)));
    assert_true(map.is_there && !map.incomplete && !amqp_unsettled_next(&map, &tag));
    map = amqp_unsettled_read(BYTES(ATTACH_BODY(18, 0x40, 0x41)));
    assert_false(map.is_there || map.incomplete);
    map = amqp_unsettled_read(BYTES(0, 0x53, 0x12, 0x45));
    assert_false(map.is_there || amqp_unsettled_next(&map, &tag));
    /* its items do not fill it */
    map = amqp_unsettled_read(BYTES(ATTACH_BODY(24, 0xc1, 5, 2, 0xa0, 9, 'a', 0x40, 0x42)));
    assert_true(map.is_there && !amqp_unsettled_next(&map, &tag));
}

static void test_an_answer_is_written_anew(void **state)
{
    (void)state;
    struct buf to;
    buf_init(&to, 4096);
    struct span plain = BYTES(0, 0, 0, 29, 2, 0, 0, 3, 0, 0x53, 0x12, 0xc0, 16, 7, 0xa1, 1, 'l',
                              0x43, 0x41, 0x40, 0x40, 0, 0x53, 0x28, 0x45, 0, 0x53, 0x29, 0x45);
    struct amqp_attach_more more = {.unsettled = BYTES(0xc1, 5, 2, 0xa0, 1, 'a', 0x40)};
    struct span want =
        BYTES(0, 0, 0, 36, 2, 0, 0, 3, 0, 0x53, 0x12, 0xc0, 23, 8, 0xa1, 1, 'l', 0x43, 0x41, 0x40,
              0x40, 0, 0x53, 0x28, 0x45, 0, 0x53, 0x29, 0x45, 0xc1, 5, 2, 0xa0, 1, 'a', 0x40);
    assert_true(amqp_attach_rewrite(plain, &more, 36, &to));
    assert_true(span_equal(buf_span(&to), want));
    assert_false(amqp_attach_rewrite(plain, &more, 35, &to));
    assert_int_equal(to.size, 36);
    more.incomplete = true;
    more.default_outcome = BYTES(0, 0x53, 0x24, 0x45);
    assert_true(amqp_attach_rewrite(plain, &more, 512, &to));
    want =
        BYTES(0, 0, 0, 51, 2, 0, 0, 3, 0, 0x53, 0x12, 0xc0, 38, 9, 0xa1, 1, 'l', 0x43, 0x41, 0x40,
              0x40, 0, 0x53, 0x28, 0xc0, 13, 9, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0,
              0x53, 0x24, 0x45, 0, 0x53, 0x29, 0x45, 0xc1, 5, 2, 0xa0, 1, 'a', 0x40, 0x41);
    assert_true(span_equal(span_from(buf_span(&to), 36), want));
    for (size_t size = 0; size < plain.size; size++)
        assert_false(amqp_attach_rewrite(span_of(plain.data, size), &more, 512, &to));
    assert_false(
        amqp_attach_rewrite(BYTES(0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, 0x14, 0x45), &more, 512, &to));
    assert_int_equal(to.size, 36 + 51);
    buf_deinit(&to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_modified),
        cmocka_unit_test(test_a_default_outcome_is_written_as_it_is_read),
        cmocka_unit_test(test_what_is_unsettled),
        cmocka_unit_test(test_an_answer_is_written_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
