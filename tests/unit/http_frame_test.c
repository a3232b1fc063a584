/* SPDX-License-Identifier: Apache-2.0 */
/* links: http_codec */
/* WebSocket frames, and what is agreed on in the handshake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "adapters/http/frame.h"
#include "adapters/http/head.h"

static enum status read_bytes(const char *bytes, size_t size, struct frame *frame, size_t *head)
{
    *frame = (struct frame){0};
    return frame_read(span_of(bytes, size), frame, head);
}

static void heads(void **state)
{
    (void)state;
    struct frame frame;
    size_t head;
    static const char small[] = "\x81\x85\x37\xfa\x21\x3d"; /* RFC 6455, 5.7 */
    for (size_t size = 0; size < 6; size++) {
        assert_int_equal(read_bytes(small, size, &frame, &head), STATUS_OK);
        assert_int_equal(head, 0);
    }
    assert_int_equal(read_bytes(small, 6, &frame, &head), STATUS_OK);
    assert_int_equal(head, 6);
    assert_true(frame.kind == FRAME_TEXT && frame.last && !frame.compressed && frame.size == 5);
    static const char large[] = "\x42\xff\0\0\0\0\0\1\0\0mask";
    assert_int_equal(read_bytes(large, 14, &frame, &head), STATUS_OK);
    assert_int_equal(head, 14);
    assert_true(frame.kind == FRAME_BINARY && !frame.last && frame.compressed);
    assert_int_equal(frame.size, 65536);
    assert_memory_equal(frame.mask, "mask", 4);
    assert_int_equal(read_bytes("\x89\xfe\0\x7emask", 8, &frame, &head), STATUS_MALFORMED);
    assert_int_equal(read_bytes("\x82\xfe\0\x7dmask", 8, &frame, &head), STATUS_MALFORMED);
    assert_int_equal(read_bytes("\x82\xfe\0\x7emask", 8, &frame, &head), STATUS_OK);
    assert_int_equal(read_bytes("\x82\xff\x80\0\0\0\0\0\0\0mask", 14, &frame, &head),
                     STATUS_MALFORMED);
    static const char *const bad[] = {"\x83\x80", "\x91\x80", "\xa1\x80", "\x8b\x80",
                                      "\x81\x05", "\x09\x80", "\xc8\x80", "\x88\xfe"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(read_bytes(bad[i], 2, &frame, &head), STATUS_MALFORMED);
}

static void written_heads(void **state)
{
    (void)state;
    static const struct {
        uint64_t size;
        size_t head;
    } cases[] = {{0, 2}, {125, 2}, {126, 4}, {65535, 4}, {65536, 10}, {UINT64_C(1) << 40, 10}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t bytes[FRAME_HEAD_MAX] = {0};
        size_t size = frame_write(FRAME_BINARY, true, true, cases[i].size, bytes), head;
        assert_int_equal(size, cases[i].head);
        bytes[1] |= 0x80; /* as a client writes it */
        struct frame frame;
        assert_int_equal(frame_read(span_of(bytes, size + 4), &frame, &head), STATUS_OK);
        assert_int_equal(head, size + 4);
        assert_true(frame.size == cases[i].size && frame.kind == FRAME_BINARY);
        assert_true(frame.last && frame.compressed);
    }
}

static void masks(void **state)
{
    (void)state;
    static const uint8_t mask[4] = {1, 2, 4, 128};
    uint8_t bytes[64], plain[64];
    for (unsigned i = 0; i < 64; i++)
        plain[i] = (uint8_t)(i * 7);
    for (size_t begun = 0; begun < 5; begun++) {
        for (size_t size = 0; size < 40; size++) {
            for (size_t gap = 0; gap < 20; gap++) { /* moved down by gap, over itself */
                for (size_t i = 0; i < size; i++)
                    bytes[gap + i] = plain[i] ^ mask[(begun + i) % 4];
                frame_unmask(bytes, bytes + gap, size, mask, begun);
                assert_memory_equal(bytes, plain, size);
            }
        }
    }
}

static void order(void **state)
{
    (void)state;
    struct frame_order order = {0};
    struct frame begin = {.kind = FRAME_TEXT}, more = {.kind = FRAME_CONTINUATION},
                 end = {.kind = FRAME_CONTINUATION, .last = true};
    assert_int_equal(frame_follow(&order, &more, false), STATUS_MALFORMED);
    assert_int_equal(frame_follow(&order, &begin, false), STATUS_OK);
    assert_int_equal(frame_follow(&order, &begin, false), STATUS_MALFORMED);
    assert_int_equal(frame_follow(&order, &more, false), STATUS_OK);
    assert_true(order.open && order.kind == FRAME_TEXT);
    assert_int_equal(frame_follow(&order, &end, false), STATUS_OK);
    assert_int_equal(frame_follow(&order, &end, false), STATUS_MALFORMED);
    begin.compressed = more.compressed = true;
    assert_int_equal(frame_follow(&order, &begin, false), STATUS_MALFORMED);
    assert_int_equal(frame_follow(&order, &begin, true), STATUS_OK);
    assert_true(order.compressed);
    assert_int_equal(frame_follow(&order, &more, true), STATUS_MALFORMED);
    assert_int_equal(frame_follow(&order, &end, true), STATUS_OK);
}

static void close_codes(void **state)
{
    (void)state;
    unsigned code;
    assert_int_equal(close_read((struct span){0}, &code), STATUS_OK);
    assert_int_equal(code, CLOSE_NONE);
    assert_int_equal(close_read(span_of("\3\350bye", 5), &code), STATUS_OK);
    assert_int_equal(code, CLOSE_NORMAL);
    assert_int_equal(close_read(span_of("\3", 1), &code), STATUS_MALFORMED);
    assert_int_equal(close_read(span_of("\3\350\xff", 3), &code), STATUS_MALFORMED);
    assert_int_equal(close_read(span_of("\3\355", 2), &code), STATUS_MALFORMED); /* 1005 */
}

static void lists(void **state)
{
    (void)state;
    struct span list = span_from_text(" a ,, \"b,\\\"c\";x=1 ,\t, d"), element;
    static const char *const expected[] = {"a", "\"b,\\\"c\";x=1", "d"};
    for (size_t i = 0; i < 3; i++) {
        assert_true(list_next(&list, &element));
        assert_true(span_is(element, expected[i]));
    }
    assert_false(list_next(&list, &element));
    assert_true(websocket_key_is_valid(span_from_text("dGhlIHNhbXBsZSBub25jZQ==")));
    static const char *const bad[] = {"", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ=x",
                                      "dGhlIHNhbXBsZSBub25j!Q==", "dGhlIHNhbXBsZSBub25jZQ==="};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(websocket_key_is_valid(span_from_text(bad[i])));
}

static void offers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        unsigned bits; /* 0: not agreed */
        bool say;
    } cases[] = {
        {"", 0, false},
        {"permessage-deflate", 15, false},
        {"Permessage-Deflate ; CLIENT_MAX_WINDOW_BITS", 15, false},
        {"permessage-deflate; server_max_window_bits=\"12\"", 12, true},
        {"permessage-deflate; server_max_window_bits=8", 8, true},
        {"permessage-deflate; server_max_window_bits=16, permessage-deflate", 15, false},
        {"permessage-deflate; client_max_window_bits=7", 0, false},
        {"permessage-deflate; server_no_context_takeover; server_no_context_takeover", 0, false},
        {"permessage-deflate; server_no_context_takeover=0", 0, false},
        {"permessage-deflate; x", 0, false},
        {"other, permessage-deflate;server_no_context_takeover", 15, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct deflate_terms terms;
        deflate_negotiate(span_from_text(cases[i].text), &terms);
        if (terms.agreed != (cases[i].bits != 0) || terms.server_window_bits != cases[i].bits ||
            terms.say_server_window != cases[i].say)
            fail_msg("%s", cases[i].text);
    }
}

static void request_heads(void **state)
{
    (void)state;
    char text[] = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, UPGRADE\r\n"
                  "Upgrade: h2c, WebSocket\r\nSec-WebSocket-Version: 13\r\n"
                  "sec-websocket-KEY: k\r\nSec-WebSocket-Protocol: a, b\r\n"
                  "Sec-WebSocket-Protocol: c\r\nSec-WebSocket-Extensions: x\r\n"
                  "Last-Event-ID: 7\r\n\r\n";
    struct http_head head;
    assert_int_equal(http_head_read(&head, (uint8_t *)text, sizeof text - 1), 0);
    assert_true(head.upgrades && head.websocket && head.keep_alive);
    assert_true(span_is(head.websocket_version, "13") && span_is(head.websocket_key, "k"));
    assert_int_equal(head.protocols.count, 2);
    assert_true(span_is(head.protocols.items[0], "a, b"));
    assert_true(span_is(head.protocols.items[1], "c"));
    assert_int_equal(head.extensions.count, 1);
    assert_true(span_is(head.last_event_id, "7"));
    char twice[] = "GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: k\r\n"
                   "Sec-WebSocket-Key: k\r\n\r\n";
    assert_int_equal(http_head_read(&head, (uint8_t *)twice, sizeof twice - 1), 400);
    char many[] = "GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Protocol: 1\r\n"
                  "Sec-WebSocket-Protocol: 2\r\nSec-WebSocket-Protocol: 3\r\n"
                  "Sec-WebSocket-Protocol: 4\r\nSec-WebSocket-Protocol: 5\r\n\r\n";
    assert_int_equal(http_head_read(&head, (uint8_t *)many, sizeof many - 1), 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads),  cmocka_unit_test(written_heads), cmocka_unit_test(masks),
        cmocka_unit_test(order),  cmocka_unit_test(close_codes),   cmocka_unit_test(lists),
        cmocka_unit_test(offers), cmocka_unit_test(request_heads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
