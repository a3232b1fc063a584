/* SPDX-License-Identifier: Apache-2.0 */
/* AMQP's types, sections and JSON text; Proton's own encodings are read from the fuzzer's seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "adapters/amqp/codec.h"

#define BYTES(...) span_of(((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__}))

static struct amqp_value value_of(struct span bytes)
{
    struct amqp_value value;
    struct reader reader = reader_of(bytes);
    assert_true(amqp_value_read(&reader, &value));
    assert_int_equal(reader_left(&reader), 0);
    return value;
}

static bool is_value(struct span bytes)
{
    struct amqp_value value;
    struct reader reader = reader_of(bytes);
    return amqp_value_read(&reader, &value);
}

static void test_values(void **state)
{
    (void)state;
    assert_int_equal(value_of(BYTES(0x40)).type, AMQP_NULL);
    assert_int_equal(value_of(BYTES(0x41)).number, 1);
    assert_int_equal(value_of(BYTES(0x56, 0)).number, 0);
    assert_int_equal(value_of(BYTES(0x43)).type, AMQP_UINT);
    assert_int_equal(value_of(BYTES(0x53, 200)).number, 200);
    assert_int_equal((int64_t)value_of(BYTES(0x54, 0xff)).number, -1);
    assert_int_equal((int64_t)value_of(BYTES(0x61, 0xff, 0xfe)).number, -2);
    assert_int_equal((int64_t)value_of(BYTES(0x71, 0xff, 0xff, 0xff, 0xfd)).number, -3);
    assert_int_equal(value_of(BYTES(0x80, 1, 0, 0, 0, 0, 0, 0, 2)).number,
                     UINT64_C(0x0100000000000002));
    struct amqp_value text = value_of(BYTES(0xa1, 2, 'h', 'i'));
    assert_true(amqp_is_text(&text) && span_is(text.bytes, "hi"));
    struct amqp_value list = value_of(BYTES(0xc0, 4, 2, 0x41, 0x54, 1));
    assert_int_equal(list.count, 2);
    assert_int_equal(list.bytes.size, 3);
    struct amqp_value described = value_of(BYTES(0x00, 0xa3, 1, 'd', 0x41));
    assert_int_equal(described.type, AMQP_DESCRIBED);
    assert_int_equal(described.bytes.size, 4);
}

static void test_what_is_no_value(void **state)
{
    (void)state;
    assert_false(is_value(BYTES(0x57)));              /* no such constructor */
    assert_false(is_value(BYTES(0x56, 2)));           /* a third truth value */
    assert_false(is_value(BYTES(0x70, 0, 0)));        /* cut */
    assert_false(is_value(BYTES(0xa1, 3, 'h', 'i'))); /* longer than there is */
    assert_false(is_value(BYTES(0xb1, 255, 255, 255, 255, 'x')));
    assert_false(is_value(BYTES(0xc0, 2, 9, 0x41))); /* more items than bytes */
    assert_false(is_value(BYTES(0xc1, 2, 1, 0x41))); /* a key without a value */
    assert_false(is_value(BYTES(0xc0, 0)));          /* no room for the count */
    assert_false(is_value(BYTES(0x00, 0x41)));       /* a descriptor alone */
    uint8_t deep[200];
    memset(deep, 0, sizeof deep); /* descriptors without end */
    assert_false(is_value(span_of(deep, sizeof deep)));
}

static void test_depth(void **state)
{
    (void)state;
    uint8_t bytes[3 * (AMQP_DEPTH_MAX + 2)];
    for (unsigned levels = 1; levels <= AMQP_DEPTH_MAX + 1; levels++) {
        /* Lists in lists, the innermost one empty. */
        struct amqp_writer writer = {.at = bytes};
        for (unsigned i = 1; i < levels; i++)
            amqp_write_raw(&writer, BYTES(0xc0, (uint8_t)(3 * (levels - i - 1) + 2), 1));
        amqp_write_raw(&writer, BYTES(0x45));
        bool valid = amqp_values_valid(span_of(bytes, (size_t)(writer.at - bytes)), 1);
        assert_int_equal(valid, levels < AMQP_DEPTH_MAX);
    }
}

static void test_writing(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    struct amqp_writer writer = {.at = bytes};
    uint8_t *began = amqp_open(&writer);
    amqp_write_number(&writer, AMQP_INT, (uint64_t)-129);
    amqp_write_number(&writer, AMQP_LONG, (uint64_t)-128);
    amqp_write_uint(&writer, 256);
    amqp_write_ulong(&writer, 0);
    amqp_write_ubyte(&writer, 7);
    amqp_write_timestamp(&writer, -1);
    amqp_write_bytes(&writer, AMQP_SYMBOL, span_from_text("s"));
    amqp_close(&writer, began, AMQP_LIST, 7, false);
    struct amqp_value list = value_of(span_of(bytes, (size_t)(writer.at - bytes)));
    assert_int_equal(list.code, 0xc0);
    struct reader at = reader_of(list.bytes);
    static const int64_t expected[] = {-129, -128, 256, 0, 7, -1};
    for (unsigned i = 0; i < 6; i++) {
        struct amqp_value item;
        assert_true(amqp_value_read(&at, &item));
        assert_int_equal((int64_t)item.number, expected[i]);
    }
    /* Wide where it is asked for, or has to be. */
    writer = (struct amqp_writer){.at = bytes};
    began = amqp_open(&writer);
    amqp_close(&writer, began, AMQP_LIST, 0, true);
    assert_int_equal(value_of(span_of(bytes, 9)).code, 0xd0);
    writer = (struct amqp_writer){.at = bytes};
    began = amqp_open(&writer);
    for (unsigned i = 0; i < 300; i++)
        amqp_write_null(&writer);
    amqp_close(&writer, began, AMQP_LIST, 300, false);
    list = value_of(span_of(bytes, (size_t)(writer.at - bytes)));
    assert_int_equal(list.code, 0xd0);
    assert_int_equal(list.count, 300);
}

static void test_sections(void **state)
{
    (void)state;
    struct amqp_message message;
#define HEADER     0x00, 0x53, 0x70, 0xc0, 0x04, 0x02, 0x41, 0x50, 0x07
#define PROPERTIES 0x00, 0x53, 0x73, 0xc0, 0x04, 0x01, 0xa1, 0x01, 'i'
#define DATA       0x00, 0x53, 0x75, 0xa0, 0x01, 'x'
#define VALUE      0x00, 0x53, 0x77, 0x41
#define FOOTER     0x00, 0x53, 0x78, 0xc1, 0x01, 0x00
    struct span bytes = BYTES(HEADER, PROPERTIES, DATA, DATA, FOOTER);
    assert_int_equal(amqp_message_read(bytes, &message), STATUS_OK);
    assert_true(message.durable && message.has_priority && message.priority == 7);
    assert_true(span_is(message.properties[AMQP_MESSAGE_ID].bytes, "i"));
    assert_int_equal(message.body_count, 2);
    assert_int_equal(message.body.size, 12);
    assert_int_equal(message.footer.type, AMQP_MAP);
    assert_int_equal(amqp_message_read(BYTES(VALUE), &message), STATUS_OK);
    assert_int_equal(message.body_kind, AMQP_SECTION_VALUE);
    assert_int_equal(amqp_message_read(span_of("", 0), &message), STATUS_OK);
    /* Out of order, twice, of two kinds, behind the footer, unknown, with a wrong type. */
    assert_int_equal(amqp_message_read(BYTES(PROPERTIES, HEADER), &message), STATUS_MALFORMED);
    assert_int_equal(amqp_message_read(BYTES(HEADER, HEADER), &message), STATUS_MALFORMED);
    assert_int_equal(amqp_message_read(BYTES(DATA, VALUE), &message), STATUS_MALFORMED);
    assert_int_equal(amqp_message_read(BYTES(VALUE, VALUE), &message), STATUS_MALFORMED);
    assert_int_equal(amqp_message_read(BYTES(FOOTER, DATA), &message), STATUS_MALFORMED);
    assert_int_equal(amqp_message_read(BYTES(0x00, 0x53, 0x79, 0x40), &message), STATUS_MALFORMED);
    assert_int_equal(amqp_message_read(BYTES(0x00, 0x53, 0x75, 0x41), &message), STATUS_MALFORMED);
    assert_int_equal(
        amqp_message_read(BYTES(0x00, 0x53, 0x70, 0xc0, 0x02, 0x01, 0x40, 0x41), &message),
        STATUS_MALFORMED);
    assert_int_equal(amqp_message_read(span_of(bytes.data, bytes.size - 1), &message),
                     STATUS_MALFORMED);
    /* Application properties are simple values under texts. */
    assert_int_equal(
        amqp_message_read(BYTES(0x00, 0x53, 0x74, 0xc1, 0x05, 0x02, 0xa1, 0x01, 'a', 0x45),
                          &message),
        STATUS_MALFORMED);
    assert_int_equal(
        amqp_message_read(BYTES(0x00, 0x53, 0x74, 0xc1, 0x03, 0x02, 0x41, 0x41), &message),
        STATUS_MALFORMED);
}

static void shows(struct span value, const char *expected)
{
    struct buf text;
    buf_init(&text, 1024);
    assert_int_equal(amqp_json(value, &text), STATUS_OK);
    assert_true(span_is(buf_span(&text), expected));
    buf_deinit(&text);
}

static void test_json(void **state)
{
    (void)state;
    shows(BYTES(0x40), "null");
    shows(BYTES(0xa1, 3, '"', 0x01, 'a'), "\"\\\"\\u0001a\"");
    shows(BYTES(0xa0, 2, 0xff, 0x00), "\"/wA=\"");
    shows(BYTES(0xc1, 9, 4, 0xa1, 1, 'a', 0x54, 0xff, 0x54, 2, 0x45), "{\"a\":-1,\"2\":[]}");
    shows(BYTES(0xe0, 4, 2, 0x54, 1, 2), "[1,2]");
    shows(BYTES(0x00, 0xa3, 1, 'd', 0xc0, 3, 2, 0x41, 0x42), "[true,false]");
    shows(BYTES(0x73, 0, 0, 0x20, 0xac), "\"\xe2\x82\xac\"");
    struct buf text;
    buf_init(&text, 4);
    assert_int_equal(amqp_json(BYTES(0xa1, 5, 'a', 'b', 'c', 'd', 'e'), &text), STATUS_TOO_LARGE);
    buf_deinit(&text);
}

/* What Proton's interoperability tests hold: values in a row, and one message. */
static void test_interop(void **state)
{
    (void)state;
    static const char *const files[] = {"arrays", "described",  "described_array", "lists",  "maps",
                                        "null",   "primitives", "strings",         "message"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        uint8_t bytes[4096];
        snprintf(path, sizeof path, "tests/fuzz/corpus/amqp_message_fuzz/%s.amqp", files[i]);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        struct reader at = reader_of(span_of(bytes, size));
        struct amqp_value value;
        uint32_t count = 0;
        while (reader_left(&at) > 0 && amqp_value_read(&at, &value))
            count++;
        assert_false(at.failed);
        assert_true(amqp_values_valid(span_of(bytes, size), count));
        struct amqp_message message;
        if (strcmp(files[i], "message") == 0)
            assert_int_equal(amqp_message_read(span_of(bytes, size), &message), STATUS_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),   cmocka_unit_test(test_what_is_no_value),
        cmocka_unit_test(test_depth),    cmocka_unit_test(test_writing),
        cmocka_unit_test(test_sections), cmocka_unit_test(test_json),
        cmocka_unit_test(test_interop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
