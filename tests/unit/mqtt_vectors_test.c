/* SPDX-License-Identifier: Apache-2.0 */
/* Every packet that the conformance vectors let a client send, through the codec alone: what a
 * broker must accept decodes, what it must refuse by its form gives the reason that the vector
 * expects. */
/* links: mqtt_codec PkgConfig::jansson */
#include <ctype.h>
#include <fnmatch.h>
#include <glob.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "adapters/mqtt/codec.h"
#include "core/base/pack.h"

struct bytes {
    uint8_t data[1024];
    size_t size;
};

static void put(struct bytes *bytes, uint64_t value, size_t size)
{
    assert_true(bytes->size + size <= sizeof bytes->data);
    while (size-- > 0)
        bytes->data[bytes->size++] = (uint8_t)(value >> (8 * size));
}

/* The vectors' notation goes to five bytes of remaining length, which an encoder must not. */
static void put_varint(struct bytes *bytes, uint64_t value)
{
    do {
        put(bytes, (value & 0x7f) | (value > 0x7f ? 0x80 : 0), 1);
        value >>= 7;
    } while (value != 0);
}

static void put_number(struct bytes *bytes, char kind, uint64_t value)
{
    if (kind == 'r' || kind == 'v')
        put_varint(bytes, value);
    else
        put(bytes, value, kind == 'L' ? 4 : kind == 'i' ? 1 : 2);
}

/* Blank-separated: 'text', a number after its kind (r v: varint, s k m H: 16 bits, L, i), or hex.
 */
static struct bytes parse(const char *text)
{
    struct bytes bytes = {.size = 0};
    while (*text != '\0') {
        char *end;
        if (*text == ' ') {
            text++;
        } else if (*text == '\'') {
            for (text++; *text != '\''; text++)
                put(&bytes, (uint8_t)*text, 1);
            text++;
        } else if (strchr("rvskmHLi", *text) != NULL) {
            put_number(&bytes, *text, strtoull(text + 1, &end, 10));
            text = end;
        } else {
            char digits[3] = {text[0], text[1], '\0'};
            put(&bytes, strtoul(digits, &end, 16), 1);
            assert_true(*end == '\0');
            text += 2;
        }
    }
    return bytes;
}

/* What the form of the packet does not decide, or where the codec has another reason on purpose. */
static const struct exception {
    const char *group;
    const char *name;
    enum mqtt_reason reason; /* the codec's */
} exceptions[] = {
    /* states of the session, and rules of the broker */
    {"*CONNACK", "20 [[]MQTT-3.1.0-1]", MQTT_REASON_PROTOCOL_ERROR},
    {"*", "*[[]MQTT-3.1.0-1]*", MQTT_REASON_SUCCESS},
    {"*", "10 [[]MQTT-3.1.0-2]", MQTT_REASON_SUCCESS},
    {"*", "duplicate CONNECT", MQTT_REASON_SUCCESS},
    {"*CONNECT", "tiny max packet", MQTT_REASON_SUCCESS},
    {"*EXTENDED AUTH", "unsupported*", MQTT_REASON_SUCCESS},
    {"*FLOW", "*", MQTT_REASON_SUCCESS},
    {"*DISCONNECT", "E0 non-zero session expiry", MQTT_REASON_SUCCESS},
    /* control characters may be refused, need not be (1.5.4) */
    {"v3.1.1*", "*U+00[0179]*", MQTT_REASON_SUCCESS},
    {"v3.1.1*", "*Username with 0x00[0179][1F]", MQTT_REASON_SUCCESS},
    {"v5.0*", "*Client ID with U+00*", MQTT_REASON_SUCCESS},
    {"v5.0*", "*Username with 0x00[0179][1F]", MQTT_REASON_SUCCESS},
    /* MQTT-3.14.1-1 names 0x81 */
    {"v5.0*DISCONNECT", "E[1248] *", MQTT_REASON_MALFORMED},
};

static const struct exception *exception_of(const char *group, const char *name)
{
    for (size_t i = 0; i < sizeof exceptions / sizeof *exceptions; i++)
        if (fnmatch(exceptions[i].group, group, 0) == 0 &&
            fnmatch(exceptions[i].name, name, 0) == 0)
            return &exceptions[i];
    return NULL;
}

/* Decodes all packets of one send; the first reason that is not success. leaves: the last one was a
 * DISCONNECT, after which a broker closes without having refused anything. */
static enum mqtt_reason decode_all(enum mqtt_version version, struct span input, bool *leaves)
{
    *leaves = false;
    while (input.size != 0) {
        uint8_t header;
        struct span body;
        size_t size;
        switch (mqtt_frame(input, 1 << 20, &header, &body, &size)) {
        case MQTT_FRAME_READY:
            break;
        case MQTT_FRAME_MORE:
        case MQTT_FRAME_TOO_LARGE:
        case MQTT_FRAME_MALFORMED:
            return MQTT_REASON_MALFORMED;
        }
        struct mqtt_packet packet;
        enum mqtt_reason reason = mqtt_decode(version, MQTT_FROM_CLIENT, header, body, &packet);
        if (reason != MQTT_REASON_SUCCESS)
            return reason;
        *leaves = packet.type == MQTT_DISCONNECT;
        input = span_from(input, size);
    }
    return MQTT_REASON_SUCCESS;
}

/* The reason in an expected CONNACK or DISCONNECT of MQTT 5, the return code of 3.x; or -1. */
static int expected_reason(struct bytes bytes)
{
    if (bytes.data[0] == 0x20 && bytes.size >= 4)
        return bytes.data[3];
    return bytes.data[0] == 0xe0 ? bytes.data[2] : -1;
}

static bool run(const char *group, enum mqtt_version version, const json_t *test)
{
    const char *name = json_string_value(json_object_get(test, "name"));
    bool refused = !json_is_false(json_object_get(test, "expect_disconnect"));
    enum mqtt_reason reason = MQTT_REASON_SUCCESS;
    int expected = -1;
    bool leaves = false;
    size_t i;
    json_t *message;
    json_array_foreach(json_object_get(test, "msgs"), i, message)
    {
        const char *type = json_string_value(json_object_get(message, "type"));
        struct bytes bytes = {.size = 0};
        if (strcmp(type, "external_publish") != 0)
            bytes = parse(json_string_value(json_object_get(message, "payload")));
        if (strcmp(type, "send") == 0 && reason == MQTT_REASON_SUCCESS)
            reason = decode_all(version, span_of(bytes.data, bytes.size), &leaves);
        else if (strcmp(type, "recv") == 0)
            expected = expected_reason(bytes);
    }
    const struct exception *exception = refused ? exception_of(group, name) : NULL;
    bool passed = false;
    if (exception != NULL)
        passed = reason == exception->reason;
    else if (!refused || (leaves && expected < 0))
        passed = reason == MQTT_REASON_SUCCESS;
    else if (version == MQTT_5 && expected >= 0x80)
        passed = (int)reason == expected;
    else
        passed = reason != MQTT_REASON_SUCCESS;
    if (!passed)
        print_message("%s / %s: %02x, expected %02x\n", group, name, (unsigned)reason,
                      (unsigned)expected);
    return passed;
}

static void test_vectors(void **state)
{
    (void)state;
    glob_t files;
    assert_int_equal(glob("tests/conformance/vectors/*.json", 0, NULL, &files), 0);
    unsigned count = 0, failed = 0;
    for (size_t i = 0; i < files.gl_pathc; i++) {
        json_error_t error;
        json_t *root = json_load_file(files.gl_pathv[i], 0, &error);
        assert_non_null(root);
        size_t g, t;
        json_t *group, *test;
        json_array_foreach(root, g, group)
        {
            json_array_foreach(json_object_get(group, "tests"), t, test)
            {
                const json_t *own = json_object_get(test, "ver");
                const json_t *version = own != NULL ? own : json_object_get(group, "ver");
                count++;
                failed += !run(json_string_value(json_object_get(group, "group")),
                               (enum mqtt_version)json_integer_value(version), test);
            }
        }
        json_decref(root);
    }
    globfree(&files);
    print_message("%u vectors\n", count);
    assert_true(count > 1000);
    assert_int_equal(failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
