/* SPDX-License-Identifier: Apache-2.0 */
/* What may be passed on of incoming AMQP frames, whole and cut, and what is said of the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "adapters/amqp/frames.h"

#define BYTES(...)  span_of(((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__}))
#define HEADER      'A', 'M', 'Q', 'P', 0, 1, 0, 0
#define SASL_HEADER 'A', 'M', 'Q', 'P', 3, 1, 0, 0
#define EMPTY_FRAME 0, 0, 0, 8, 2, 0, 0, 0
#define FRAME(code) 0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, code, 0x45

enum { FRAME_MAX = 512 };

/* Bytes come in pieces of that size, and what is not passed on is shown again; what is at last. */
static size_t pass(struct amqp_frames *frames, struct span bytes, size_t piece)
{
    size_t at = 0, shown = 0;
    while (shown < bytes.size && frames->verdict == AMQP_GOOD) {
        shown = bytes.size - shown < piece ? bytes.size : shown + piece;
        size_t passed;
        do {
            passed = amqp_frames_pass(frames, span_of(bytes.data + at, shown - at));
            at += passed;
        } while (passed > 0 && at < shown);
    }
    return at;
}

/* good: how many of the bytes are. */
static void stops(struct span bytes, size_t good, enum amqp_verdict verdict)
{
    for (size_t piece = 1; piece <= bytes.size; piece++) {
        struct amqp_frames frames;
        amqp_frames_init(&frames, FRAME_MAX);
        assert_int_equal(pass(&frames, bytes, piece), good);
        assert_int_equal(frames.verdict, verdict);
        if (verdict != AMQP_GOOD)
            assert_int_equal(amqp_frames_pass(&frames, BYTES(FRAME(0x10))), 0);
        amqp_frames_deinit(&frames);
    }
}

static void passes(struct span bytes)
{
    stops(bytes, bytes.size, AMQP_GOOD);
}

static void test_frames(void **state)
{
    (void)state;
    passes(BYTES(HEADER, FRAME(0x10), FRAME(0x18), EMPTY_FRAME, FRAME(0x14)));
    passes(BYTES(HEADER, 0, 0, 0, 15, 2, 0, 0, 9, 0, 0x53, 0x14, 0xc0, 1, 0, 0xff, FRAME(0x15)));
    /* an extended header, a descriptor of nine bytes, and both */
    passes(BYTES(HEADER, 0, 0, 0, 16, 3, 0, 0, 0, 9, 9, 9, 9, 0, 0x53, 0x10, 0x45, FRAME(0x18)));
    passes(BYTES(HEADER, 0, 0, 0, 12, 3, 0, 0, 0, 9, 9, 9, 9, FRAME(0x18)));
    passes(BYTES(HEADER, 0, 0, 0, 19, 2, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x18, 0x45));
    passes(BYTES(HEADER, 0, 0, 0, 23, 3, 0, 0, 0, 1, 2, 3, 4, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x18,
                 0x45));
}

static void test_another_protocol_is_not_looked_at(void **state)
{
    (void)state;
    passes(BYTES('A', 'M', 'Q', 'P', 1, 1, 0, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9));
    passes(BYTES('A', 'M', 'Q', 'P', 0, 0, 9, 1, 255, 255, 255, 255, 5, 6, 7, 8, 9));
    passes(BYTES('G', 'E', 'T', ' ', '/', ' ', 'H', 'T', 'T', 'P', '/', '1', '.', '1'));
}

static void test_what_is_no_frame(void **state)
{
    (void)state;
    stops(BYTES(HEADER, FRAME(0x10), 0, 0, 0, 7, 2, 0, 0, 0), 20, AMQP_NO_FRAME);
    stops(BYTES(HEADER, FRAME(0x10), 0, 0, 2, 1, 2, 0, 0, 0), 20, AMQP_NO_FRAME);
    stops(BYTES(HEADER, 0, 0, 0, 12, 1, 0, 0, 0, 0, 0x53, 0x10, 0x45), 8, AMQP_NO_FRAME);
    stops(BYTES(HEADER, 0, 0, 0, 12, 4, 0, 0, 0, 0, 0x53, 0x10, 0x45), 8, AMQP_NO_FRAME);
    stops(BYTES(HEADER, 0, 0, 0, 12, 2, 1, 0, 0, 0, 0x53, 0x10, 0x45), 8, AMQP_NO_FRAME);
    stops(BYTES(HEADER, FRAME(0x10), HEADER), 20, AMQP_NO_FRAME);
}

static void test_what_is_no_performative(void **state)
{
    (void)state;
    stops(BYTES(HEADER, 0, 0, 0, 9, 2, 0, 0, 0, 0x40), 8, AMQP_UNREADABLE);
    stops(BYTES(HEADER, 0, 0, 0, 9, 2, 0, 0, 0, 0), 8, AMQP_UNREADABLE);
    stops(BYTES(HEADER, 0, 0, 0, 10, 2, 0, 0, 0, 0, 0x53), 8, AMQP_UNREADABLE);
    stops(BYTES(HEADER, 0, 0, 0, 11, 2, 0, 0, 0, 0, 0x53, 0x18), 8, AMQP_UNREADABLE);
    stops(BYTES(HEADER, 0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, 0x18, 0xc1), 8, AMQP_UNREADABLE);
    stops(BYTES(HEADER, 0, 0, 0, 12, 2, 0, 0, 0, 0, 0x71, 0, 0), 8, AMQP_UNREADABLE);
}

static void test_performatives_that_there_are_not(void **state)
{
    (void)state;
    stops(BYTES(HEADER, FRAME(0x10), FRAME(0x0f)), 20, AMQP_UNKNOWN);
    stops(BYTES(HEADER, FRAME(0x10), FRAME(0x19)), 20, AMQP_UNKNOWN);
    stops(BYTES(HEADER, FRAME(0x41)), 8, AMQP_UNKNOWN);
    stops(BYTES(HEADER, 0, 0, 0, 19, 2, 0, 0, 0, 0, 0x80, 0, 0, 0, 1, 0, 0, 0, 0x18, 0x45), 8,
          AMQP_UNKNOWN);
    stops(BYTES(HEADER, 0, 0, 0, 12, 2, 0, 0, 0, 0, 0x44, 0x45, 0), 8, AMQP_UNKNOWN);
    stops(BYTES(HEADER, 0, 0, 0, 14, 2, 0, 0, 0, 0, 0xa3, 2, 'a', 'b', 0x45), 8, AMQP_UNKNOWN);
}

static void test_sasl(void **state)
{
    (void)state;
    struct span good = BYTES(SASL_HEADER, 0, 0, 0, 12, 2, 1, 0, 0, 0, 0x53, 0x41, 0x45, HEADER,
                             FRAME(0x10), FRAME(0x11));
    passes(good);
    struct amqp_frames frames;
    amqp_frames_init(&frames, FRAME_MAX);
    assert_int_equal(amqp_frames_pass(&frames, good), 8); /* the answer decides what follows */
    assert_int_equal(amqp_frames_pass(&frames, span_from(good, 8)), 12);
    assert_int_equal(amqp_frames_pass(&frames, span_from(good, 20)), good.size - 20);
    amqp_frames_deinit(&frames);
    stops(BYTES(SASL_HEADER, 0, 0, 0, 12, 2, 1, 0, 0, 0, 0x53, 0x44, 0x45), 8, AMQP_UNKNOWN);
    stops(BYTES(SASL_HEADER, 0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, 0x41, 0x45), 8, AMQP_NO_FRAME);
    stops(BYTES(SASL_HEADER, 'A', 'M', 'Q', 'X', 0, 1, 0, 0), 8, AMQP_NO_FRAME);
    passes(BYTES(SASL_HEADER, SASL_HEADER, 1, 2, 3, 4, 5, 6, 7, 8, 9)); /* Proton's to answer */
}

static void test_attach_is_kept(void **state)
{
    (void)state;
    struct span bytes = BYTES(HEADER, FRAME(0x10), 0, 0, 0, 15, 2, 0, 0, 0, 0, 0x53, 0x12, 0xc0, 2,
                              1, 0x40, FRAME(0x11), FRAME(0x12));
    struct span body = BYTES(0, 0x53, 0x12, 0xc0, 2, 1, 0x40);
    for (size_t piece = 1; piece <= 35; piece++) {
        struct amqp_frames frames;
        amqp_frames_init(&frames, FRAME_MAX);
        assert_int_equal(pass(&frames, span_of(bytes.data, 35), piece), 35);
        assert_true(span_equal(buf_span(&frames.attach), body));
        assert_int_equal(pass(&frames, span_from(bytes, 35), piece), bytes.size - 35);
        assert_int_equal(frames.attach.size, 4);
        amqp_frames_deinit(&frames);
    }
    struct amqp_frames frames;
    amqp_frames_init(&frames, FRAME_MAX);
    assert_int_equal(amqp_frames_pass(&frames, bytes), 35); /* it is dealt with by itself */
    amqp_frames_deinit(&frames);
}

/* Alone, and marked as long as it is what was passed on last; only where somebody looks. */
static void test_a_resumed_transfer_is_shown_by_itself(void **state)
{
    (void)state;
#define FIELDS(resume) 0x43, 0x43, 0xa0, 1, 't', 0x43, 0x42, 0x42, 0x40, 0x40, resume
    struct span bytes = BYTES(HEADER, FRAME(0x10), FRAME(0x14), 0, 0, 0, 25, 2, 0, 0, 0, 0, 0x53,
                              0x14, 0xc0, 12, 9, FIELDS(0x41), 0, 0, 0, 25, 2, 0, 0, 0, 0, 0x53,
                              0x14, 0xc0, 12, 9, FIELDS(0x42), FRAME(0x15));
    enum { BEFORE = 32, RESUMED = 25, BEHIND = 37 };
    for (size_t piece = 1; piece <= bytes.size; piece++) {
        struct amqp_frames frames;
        amqp_frames_init(&frames, FRAME_MAX);
        frames.looks = true;
        size_t at = 0, shown = 0, resumed = 0, ends = 0;
        while (at < bytes.size) {
            shown = bytes.size - shown < piece ? bytes.size : shown + piece;
            size_t passed;
            while ((passed = amqp_frames_pass(&frames, span_of(bytes.data + at, shown - at))) > 0) {
                at += passed;
                resumed += frames.is_resumed ? passed : 0;
                ends += frames.is_resumed && frames.left == 0;
                assert_true(!frames.is_resumed || (at > BEFORE && at <= BEFORE + RESUMED));
                if (at == shown)
                    break;
            }
        }
        assert_int_equal(frames.verdict, AMQP_GOOD);
        assert_int_equal(resumed, RESUMED);
        assert_int_equal(ends, 1);
        amqp_frames_deinit(&frames);
    }
    struct amqp_frames frames;
    amqp_frames_init(&frames, FRAME_MAX);
    assert_int_equal(amqp_frames_pass(&frames, bytes), bytes.size); /* nobody looks */
    assert_false(frames.is_resumed);
    amqp_frames_deinit(&frames);
    /* What cannot be read is Proton's to refuse. */
    amqp_frames_init(&frames, FRAME_MAX);
    frames.looks = true;
    bytes = BYTES(HEADER, 0, 0, 0, 14, 2, 0, 0, 0, 0, 0x53, 0x14, 0xc0, 9, 9, FRAME(0x15));
    assert_int_equal(amqp_frames_pass(&frames, bytes), bytes.size);
    assert_false(frames.is_resumed);
    amqp_frames_deinit(&frames);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_another_protocol_is_not_looked_at),
        cmocka_unit_test(test_what_is_no_frame),
        cmocka_unit_test(test_what_is_no_performative),
        cmocka_unit_test(test_performatives_that_there_are_not),
        cmocka_unit_test(test_sasl),
        cmocka_unit_test(test_attach_is_kept),
        cmocka_unit_test(test_a_resumed_transfer_is_shown_by_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
