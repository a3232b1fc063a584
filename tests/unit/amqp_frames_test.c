/* SPDX-License-Identifier: Apache-2.0 */
/* What may be passed on of incoming AMQP frames, whole and cut, and what is said of the rest; what
 * becomes of a session whose peer names what is not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "adapters/amqp/frames.h"
#include "adapters/amqp/said.h"
#include "core/base/limits.h"

#define BYTES(...)  span_of(((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__}))
#define HEADER      'A', 'M', 'Q', 'P', 0, 1, 0, 0
#define SASL_HEADER 'A', 'M', 'Q', 'P', 3, 1, 0, 0
#define EMPTY_FRAME 0, 0, 0, 8, 2, 0, 0, 0
#define FRAME(code) 0, 0, 0, 12, 2, 0, 0, 0, 0, 0x53, code, 0x45
/* With fields of that many bytes and number; on that channel. */
#define LIST_ON(channel, code, size, count, ...)                                                   \
    0, 0, 0, 14 + (size), 2, 0, 0, channel, 0, 0x53, code, 0xc0, 1 + (size), count, __VA_ARGS__
#define LIST(code, size, count, ...) LIST_ON(0, code, size, count, __VA_ARGS__)
#define BEGIN(channel)               LIST_ON(channel, 0x11, 4, 4, 0x40, 0x43, 0x43, 0x43)
#define ATTACH(handle, name, receives)                                                             \
    LIST(0x12, 6, 3, 0xa1, 1, name, 0x52, handle, (receives) ? 0x41 : 0x42)
#define DETACH(handle) LIST(0x16, 2, 1, 0x52, handle)
#define FLOW(handle)   LIST(0x13, 6, 5, 0x43, 0x43, 0x43, 0x43, 0x52, handle)
#define TRANSFER(handle, id, more)                                                                 \
    LIST(0x14, 10, 6, 0x52, handle, 0x52, id, 0xa0, 1, 't', 0x43, 0x40, (more) ? 0x41 : 0x42)
#define NEXT(handle, more) /* of what has begun */                                                 \
    LIST(0x14, 7, 6, 0x52, handle, 0x40, 0x40, 0x40, 0x40, (more) ? 0x41 : 0x42)
#define END    FRAME(0x17)
#define OPENED HEADER, FRAME(0x10), BEGIN(0)

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
    struct span bytes = BYTES(OPENED, ATTACH(7, 'l', false), FRAME(0x11), FRAME(0x18));
    struct span begun = BYTES(OPENED), attached = BYTES(OPENED, ATTACH(7, 'l', false));
    struct span body = BYTES(0, 0x53, 0x12, 0xc0, 7, 3, 0xa1, 1, 'l', 0x52, 7, 0x42);
    for (size_t piece = 1; piece <= attached.size; piece++) {
        struct amqp_frames frames;
        amqp_frames_init(&frames, FRAME_MAX);
        assert_int_equal(pass(&frames, attached, piece), attached.size);
        assert_true(span_equal(buf_span(&frames.attach), body));
        amqp_frames_deinit(&frames);
    }
    struct amqp_frames frames;
    amqp_frames_init(&frames, FRAME_MAX);
    /* Both are dealt with by themselves. */
    assert_int_equal(amqp_frames_pass(&frames, bytes), begun.size);
    assert_int_equal(amqp_frames_pass(&frames, span_from(bytes, begun.size)),
                     attached.size - begun.size);
    amqp_frames_deinit(&frames);
}

/* So that what was sent before it can wait. */
static void test_ends_are_shown_by_themselves(void **state)
{
    (void)state;
#define WITH_LINK OPENED, ATTACH(0, 'l', false)
#define SENT      WITH_LINK, TRANSFER(0, 1, false), TRANSFER(0, 2, false)
    struct span attached = BYTES(WITH_LINK), before = BYTES(SENT);
    const struct span bytes[] = {
        BYTES(SENT, ATTACH(1, 'm', false)),
        BYTES(SENT, DETACH(0)),
        BYTES(SENT, FRAME(0x17)),
        BYTES(SENT, FRAME(0x18)),
    };
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        struct amqp_frames frames;
        amqp_frames_init(&frames, FRAME_MAX);
        assert_int_equal(pass(&frames, attached, attached.size), attached.size);
        assert_int_equal(amqp_frames_pass(&frames, span_from(bytes[i], attached.size)),
                         before.size - attached.size);
        assert_int_equal(amqp_frames_pass(&frames, span_from(bytes[i], before.size)),
                         bytes[i].size - before.size);
        amqp_frames_deinit(&frames);
    }
}

/* Alone, and marked as long as it is what was passed on last. */
static void test_a_resumed_transfer_is_shown_by_itself(void **state)
{
    (void)state;
#define RESUMES(id, resume)                                                                        \
    LIST(0x14, 12, 9, 0x43, 0x52, id, 0xa0, 1, 't', 0x43, 0x42, 0x42, 0x40, 0x40, resume)
    struct span before = BYTES(OPENED, ATTACH(0, 'l', false), RESUMES(1, 0x42));
    struct span with = BYTES(OPENED, ATTACH(0, 'l', false), RESUMES(1, 0x42), RESUMES(2, 0x41));
    struct span bytes = BYTES(OPENED, ATTACH(0, 'l', false), RESUMES(1, 0x42), RESUMES(2, 0x41),
                              RESUMES(3, 0x42), FRAME(0x18));
    for (size_t piece = 1; piece <= bytes.size; piece++) {
        struct amqp_frames frames;
        amqp_frames_init(&frames, FRAME_MAX);
        size_t at = 0, shown = 0, resumed = 0, ends = 0;
        while (at < bytes.size) {
            shown = bytes.size - shown < piece ? bytes.size : shown + piece;
            size_t passed;
            while ((passed = amqp_frames_pass(&frames, span_of(bytes.data + at, shown - at))) > 0) {
                at += passed;
                resumed += frames.is_resumed ? passed : 0;
                ends += frames.is_resumed && frames.left == 0;
                assert_true(!frames.is_resumed || (at > before.size && at <= with.size));
                if (at == shown)
                    break;
            }
        }
        assert_int_equal(frames.verdict, AMQP_GOOD);
        assert_int_equal(resumed, with.size - before.size);
        assert_int_equal(ends, 1);
        amqp_frames_deinit(&frames);
    }
}

/* Behind what is good a frame ends its session, for that reason; what comes then is dropped up to
 * the END, and what follows it is the channel's next session's. */
static void ends(struct span good, struct span bad, enum amqp_fate fate)
{
    static const uint8_t dropped[] = {
        TRANSFER(1, 1, false), FLOW(9), ATTACH(9, 'z', false), DETACH(1), FRAME(0x15), BEGIN(0)};
    static const uint8_t ended[] = {END, BEGIN(0), ATTACH(9, 'a', true), FLOW(9)};
    uint8_t bytes[512];
    size_t size = 0, cut = bad.size + sizeof dropped;
    const struct span parts[] = {good, bad, span_of(dropped, sizeof dropped),
                                 span_of(ended, sizeof ended)};
    for (size_t i = 0; i < 4; i++) {
        assert_true(size + parts[i].size <= sizeof bytes);
        memcpy(bytes + size, parts[i].data, parts[i].size);
        size += parts[i].size;
    }
    for (size_t piece = 1; piece <= size; piece++) {
        struct amqp_frames frames;
        amqp_frames_init(&frames, FRAME_MAX);
        size_t at = 0, shown = 0, fates = 0;
        while (at < size) {
            shown = size - shown < piece ? size : shown + piece;
            size_t passed;
            while ((passed = amqp_frames_pass(&frames, span_of(bytes + at, shown - at))) > 0) {
                assert_int_equal(frames.is_dropped, at >= good.size && at < good.size + cut);
                if (frames.fate != AMQP_PASSES) {
                    assert_int_equal(at, good.size);
                    assert_int_equal(frames.fate, fate);
                    assert_int_equal(frames.channel, 0);
                    frames.fate = AMQP_PASSES;
                    fates++;
                }
                at += passed;
                if (at == shown)
                    break;
            }
        }
        assert_int_equal(frames.verdict, AMQP_GOOD);
        assert_int_equal(fates, 1);
        amqp_frames_deinit(&frames);
    }
}

static void test_what_ends_its_session(void **state)
{
    (void)state;
    struct span begun = BYTES(OPENED, BEGIN(1));
    ends(begun, BYTES(TRANSFER(0, 0, false)), AMQP_UNATTACHED);
    ends(begun, BYTES(FLOW(0)), AMQP_UNATTACHED);
    ends(begun, BYTES(DETACH(0)), AMQP_UNATTACHED);
    struct span both = BYTES(OPENED, ATTACH(0, 's', false), ATTACH(1, 'r', true), FLOW(0), FLOW(1));
    ends(both, BYTES(TRANSFER(2, 0, false)), AMQP_UNATTACHED);
    ends(both, BYTES(ATTACH(0, 'z', false)), AMQP_HANDLE_IN_USE);
    ends(both, BYTES(ATTACH(2, 's', false)), AMQP_NAME_IN_USE);
    ends(both, BYTES(TRANSFER(1, 0, false)), AMQP_WRONG_WAY);
    ends(both, BYTES(NEXT(0, false)), AMQP_WRONG_DELIVERY);
    ends(both, BYTES(NEXT(0, true)), AMQP_WRONG_DELIVERY);
    ends(both, BYTES(LIST(0x15, 5, 3, 0x41, 0x52, 5, 0x52, 4)), AMQP_WRONG_RANGE);
    ends(BYTES(OPENED, ATTACH(0, 's', false), DETACH(0)), BYTES(DETACH(0)), AMQP_UNATTACHED);
    ends(BYTES(OPENED, ATTACH(0, 's', false), DETACH(0), ATTACH(0, 's', true)),
         BYTES(TRANSFER(0, 0, false)), AMQP_WRONG_WAY);
    /* Another direction is another link, and so is another session's. */
    ends(BYTES(OPENED, ATTACH(0, 's', false), ATTACH(1, 's', true), BEGIN(1)),
         BYTES(ATTACH(1, 't', false)), AMQP_HANDLE_IN_USE);
}

static void test_deliveries_follow_each_other(void **state)
{
    (void)state;
#define ATTACHED OPENED, ATTACH(0, 's', false), ATTACH(1, 't', false)
    /* Of two links by turns; on the second a delivery in three parts. */
    struct span good = BYTES(ATTACHED, TRANSFER(0, 9, false), TRANSFER(1, 10, true), NEXT(1, true),
                             TRANSFER(0, 11, false), TRANSFER(1, 10, true), NEXT(1, false));
    ends(good, BYTES(TRANSFER(1, 10, false)), AMQP_WRONG_DELIVERY);
    ends(good, BYTES(TRANSFER(1, 13, false)), AMQP_WRONG_DELIVERY);
    ends(good, BYTES(NEXT(1, false)), AMQP_WRONG_DELIVERY);
    good = BYTES(ATTACHED, TRANSFER(0, 255, true));
    ends(good, BYTES(TRANSFER(0, 0, false)), AMQP_WRONG_DELIVERY);
    ends(good, BYTES(TRANSFER(1, 255, false)), AMQP_WRONG_DELIVERY);
    /* What was settled cannot be unsettled. */
    good = BYTES(ATTACHED, LIST(0x14, 8, 6, 0x43, 0x52, 1, 0xa0, 0, 0x43, 0x41, 0x41));
    ends(good, BYTES(LIST(0x14, 6, 6, 0x43, 0x40, 0x40, 0x40, 0x42, 0x41)), AMQP_WRONG_DELIVERY);
    /* What is given up is over. */
    good = BYTES(ATTACHED, TRANSFER(0, 1, true),
                 LIST(0x14, 14, 10, 0x43, 0x40, 0x40, 0x40, 0x40, 0x41, 0x40, 0, 0x53, 0x24, 0x45,
                      0x40, 0x56, 1),
                 TRANSFER(0, 2, true));
    ends(good, BYTES(TRANSFER(0, 3, false)), AMQP_WRONG_DELIVERY);
}

/* Which Proton would read in another way than it was meant, or than we do. */
static void test_fields_that_are_none(void **state)
{
    (void)state;
    static const struct {
        uint8_t size, bytes[24];
    } bad[] = {
        {14, {0, 0, 0, 14, 2, 0, 0, 0, 0, 0x53, 0x14, 0xc0, 9, 9}}, /* shorter than it says */
        {13, {0, 0, 0, 13, 2, 0, 0, 0, 0, 0x53, 0x14, 0xc0, 0}},    /* no room for the count */
        {16, {LIST(0x14, 2, 0, 0x52, 0)}},                          /* more than it counts */
        {16, {LIST(0x14, 2, 2, 0x52, 0)}},                          /* less */
        {15, {LIST(0x14, 1, 1, 0x40)}},                             /* what has to be there */
        {16, {LIST(0x14, 2, 1, 0x50, 0)}},                          /* of another type */
        {17, {LIST(0x14, 3, 2, 0x43, 0x50, 0)}},
        {18, {LIST(0x14, 4, 3, 0x43, 0x43, 0xa1, 0)}},
        {21, {LIST(0x14, 7, 5, 0x43, 0x43, 0xa0, 0, 0x43, 0x56, 2)}}, /* a boolean of 2 */
        {23, {LIST(0x14, 9, 8, 0x43, 0x43, 0x40, 0x40, 0x40, 0x40, 0x40, 0, 0)}},
        {15, {LIST(0x16, 1, 1, 0x40)}},
        {12, {FRAME(0x16)}},
        {20, {LIST(0x13, 6, 5, 0x43, 0x43, 0x43, 0x43, 0x50, 0)}},
        {19, {LIST(0x12, 5, 3, 0xa3, 0, 0x52, 1, 0x42)}}, /* a symbol as a name */
        {18, {LIST(0x12, 4, 2, 0xa1, 0, 0x52, 1)}},       /* neither way */
        {16, {LIST(0x15, 2, 2, 0x41, 0x40)}},
        {16, {LIST_ON(1, 0x11, 2, 1, 0x52, 0)}}, /* a uint for a channel */
    };
    struct span good = BYTES(OPENED, ATTACH(0, 's', false));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t bytes[128];
        memcpy(bytes, good.data, good.size);
        memcpy(bytes + good.size, bad[i].bytes, bad[i].size);
        stops(span_of(bytes, good.size + bad[i].size), good.size, AMQP_UNREADABLE);
    }
}

static void test_begins(void **state)
{
    (void)state;
    struct span good = BYTES(OPENED);
    stops(BYTES(OPENED, BEGIN(0)), good.size, AMQP_BEGUN);
    stops(BYTES(OPENED, LIST_ON(1, 0x11, 3, 1, 0x60, 0, 0)), good.size, AMQP_UNASKED);
    passes(BYTES(OPENED, END, BEGIN(0), BEGIN(255), FRAME(0x18)));
    /* What Proton refuses. */
    passes(BYTES(OPENED, END, END, TRANSFER(0, 0, false), ATTACH(0, 's', false)));
}

/* As many as there may be, in all sessions; each is found, and none when its session has ended. */
static void test_many_handles(void **state)
{
    (void)state;
    enum { CHANNELS = 3 };
    struct amqp_channels channels;
    struct amqp_named named;
    uint32_t attached = 0;
    amqp_channels_init(&channels);
    for (uint16_t channel = 0; channel < CHANNELS; channel++) {
        struct span begin = BYTES(0x45);
        amqp_channels_look(&channels, AMQP_BEGIN, channel, begin, true, &named);
        amqp_channels_take(&channels, &named);
    }
    for (uint32_t i = 0; i < LIMIT_AMQP_HANDLES; i++, attached++) {
        struct span list = BYTES(0xc0, 12, 3, 0xa1, 3, 'a' + i / 26 / 26 % 26, 'a' + i / 26 % 26,
                                 'a' + i % 26, 0x70, 0xff, 0, i >> 8, i & 0xff, 0x42);
        list = span_of(list.data, 14);
        assert_int_equal(amqp_channels_look(&channels, AMQP_ATTACH, (uint16_t)(i % CHANNELS), list,
                                            true, &named),
                         AMQP_PASSES);
        amqp_channels_take(&channels, &named);
    }
    assert_int_equal(channels.handle_count, LIMIT_AMQP_HANDLES);
    for (int round = 0; round <= CHANNELS; round++) {
        for (uint32_t i = 0; i < LIMIT_AMQP_HANDLES; i++) {
            struct span list = BYTES(0xc0, 6, 1, 0x70, 0xff, 0, i >> 8, i & 0xff);
            uint16_t channel = (uint16_t)(i % CHANNELS);
            enum amqp_fate fate = i % 7 == 0 && round > 0 ? AMQP_UNATTACHED : AMQP_PASSES;
            if (channel < round) /* has ended, which is Proton's to say */
                fate = AMQP_PASSES;
            assert_int_equal(
                amqp_channels_look(&channels, AMQP_DETACH, channel, list, true, &named), fate);
            if (i % 7 == 0 && round == 0)
                amqp_channels_take(&channels, &named);
        }
        if (round < CHANNELS) {
            amqp_channels_look(&channels, AMQP_END, (uint16_t)round, BYTES(0x45), true, &named);
            amqp_channels_take(&channels, &named);
            assert_null(amqp_channels_at(&channels, (uint16_t)round));
        }
    }
    assert_int_equal(channels.handle_count, 0);
    amqp_channels_deinit(&channels);
}

/* Ours, on their way out, in pieces of any size. */
static void test_what_has_been_sent(void **state)
{
    const struct span bytes =
        BYTES(SASL_HEADER, 0, 0, 0, 12, 2, 1, 0, 0, 0, 0x53, 0x14, 0x45, HEADER, FRAME(0x10),
              BEGIN(0), BEGIN(3), TRANSFER(0, 0, true), EMPTY_FRAME, NEXT(0, false),
              LIST_ON(3, 0x14, 10, 6, 0x52, 0, 0x52, 0, 0xa0, 1, 't', 0x43, 0x40, 0x42), FLOW(0),
              TRANSFER(0, 1, false), LIST_ON(3, 0x17, 1, 1, 0x40), BEGIN(3));
    (void)state;
    for (size_t piece = 1; piece <= bytes.size; piece++) {
        struct amqp_said said = {.transfers = NULL};
        for (size_t at = 0; at < bytes.size; at += piece)
            amqp_said_pass(
                &said, span_of(bytes.data + at, bytes.size - at < piece ? bytes.size - at : piece));
        assert_int_equal(amqp_said_transfers(&said, 0), 3);
        assert_int_equal(amqp_said_transfers(&said, 3), 0); /* its session is another one */
        assert_int_equal(amqp_said_transfers(&said, 4), 0);
        amqp_said_deinit(&said);
    }
}

/* What comes in front of it, how many bytes of it there are, and what stands for it. */
static void is_lean(struct span heavy, struct span lean, struct span payload,
                    struct span annotations)
{
    uint8_t bytes[2048];
    const struct span before = BYTES(OPENED, ATTACH(1, 'a', false));
    memcpy(bytes, before.data, before.size);
    memcpy(bytes + before.size, heavy.data, heavy.size);
    for (size_t piece = 1; piece <= before.size + heavy.size; piece += 7) {
        struct amqp_frames frames;
        amqp_frames_init(&frames, sizeof bytes);
        size_t at = 0, shown = 0, size = before.size + heavy.size;
        while (at < size) {
            size_t passed = amqp_frames_pass(&frames, span_of(bytes + at, shown - at));
            assert_int_equal(frames.lean.size > 0, passed > 0 && at == before.size);
            at += passed;
            if (passed == 0)
                shown = size - shown < piece ? size : shown + piece;
        }
        assert_true(span_equal(span_of(frames.lean.bytes, frames.lean.size), lean));
        assert_true(span_equal(frames.lean.payload, payload));
        assert_true(span_equal(frames.lean.detail, annotations));
        assert_int_equal(frames.verdict, AMQP_GOOD);
        amqp_frames_deinit(&frames);
    }
}

static void test_what_is_large_is_not_for_proton(void **state)
{
    const struct span none = span_of(NULL, 0);
    const struct span transfer = BYTES(TRANSFER(1, 0, false));
    uint8_t heavy[1200] = {0};
    (void)state;
    memcpy(heavy, transfer.data, transfer.size);
    heavy[2] = sizeof heavy >> 8;
    heavy[3] = sizeof heavy & 0xff;
    is_lean(span_of(heavy, sizeof heavy), transfer,
            span_from(span_of(heavy, sizeof heavy), transfer.size), none);
#define TEXT                                                                                       \
    0xa1, 30, 'r', 'e', 'a', 's', 'o', 'n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  \
        0, 0, 0, 0, 0, 0
#define NOTES 0xc1, 37, 2, 0xa3, 2, 'x', '-', TEXT
    /* rejected, with an error; modified, with annotations; the same within a transaction */
    is_lean(
        BYTES(LIST(0x15, 43, 5, 0x41, 0x43, 0x40, 0x41, 0, 0x53, 0x25, 0xc0, 33, 1, TEXT, 0x40)),
        BYTES(LIST(0x15, 8, 5, 0x41, 0x43, 0x40, 0x41, 0, 0x53, 0x25, 0x45)), none, BYTES(TEXT));
    is_lean(BYTES(LIST(0x15, 51, 5, 0x41, 0x43, 0x40, 0x41, 0, 0x53, 0x27, 0xc0, 42, 3, 0x41, 0x42,
                       NOTES)),
            BYTES(LIST(0x15, 12, 5, 0x41, 0x43, 0x40, 0x41, 0, 0x53, 0x27, 0xc0, 3, 2, 0x41, 0x42)),
            none, BYTES(NOTES));
    is_lean(BYTES(LIST(0x15, 60, 5, 0x41, 0x43, 0x40, 0x41, 0, 0x53, 0x34, 0xc0, 51, 2, 0xa0, 1, 9,
                       0, 0x53, 0x27, 0xc0, 42, 3, 0x41, 0x40, NOTES)),
            BYTES(LIST(0x15, 21, 5, 0x41, 0x43, 0x40, 0x41, 0, 0x53, 0x34, 0xc0, 12, 2, 0xa0, 1, 9,
                       0, 0x53, 0x27, 0xc0, 3, 2, 0x41, 0x42)),
            none, BYTES(NOTES));
    /* all the credit there is, and what more a FLOW says */
    is_lean(BYTES(LIST(0x13, 15, 10, 0x43, 0x43, 0x43, 0x43, 0x52, 1, 0x43, 0x70, 0xff, 0xff, 0xff,
                       0xff, 0x40, 0x41, 0x42)),
            BYTES(LIST(0x13, 15, 10, 0x43, 0x43, 0x43, 0x43, 0x52, 1, 0x43, 0x70, 0x7f, 0xff, 0xff,
                       0xff, 0x40, 0x41, 0x42)),
            none, none);
    is_lean(BYTES(LIST(0x13, 18, 11, 0x43, 0x43, 0x43, 0x43, 0x52, 1, 0x43, 0x70, 0x80, 0, 0, 0,
                       0x40, 0x41, 0x42, 0xc1, 1, 0)),
            BYTES(LIST(0x13, 15, 10, 0x43, 0x43, 0x43, 0x43, 0x52, 1, 0x43, 0x70, 0x7f, 0xff, 0xff,
                       0xff, 0x40, 0x41, 0x42)),
            none, none);
}

/* A FLOW says what it asks for, once. */
static void test_echo(void **state)
{
    struct amqp_frames frames;
    static const uint8_t asks[] = {
        LIST(0x13, 13, 10, 0x43, 0x43, 0x52, 7, 0x43, 0x52, 0, 0x52, 5, 0x43, 0x40, 0x40, 0x41)};
    (void)state;
    amqp_frames_init(&frames, FRAME_MAX);
    struct span before = BYTES(OPENED, ATTACH(0, 'a', true), FLOW(0));
    assert_int_equal(pass(&frames, before, before.size), before.size);
    assert_false(frames.echo.is_asked);
    uint8_t both[2 * sizeof asks];
    memcpy(both, asks, sizeof asks);
    memcpy(both + sizeof asks, asks, sizeof asks);
    assert_int_equal(amqp_frames_pass(&frames, span_of(both, sizeof both)), sizeof asks);
    assert_true(frames.echo.is_asked && frames.echo.has_link);
    assert_int_equal(frames.echo.transfers, 7);
    assert_int_equal(frames.echo.delivery_count, 5);
    assert_int_equal(frames.echo.credit, 0);
    struct span after = BYTES(FLOW(0));
    assert_int_equal(amqp_frames_pass(&frames, after), after.size);
    assert_false(frames.echo.is_asked);
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
        cmocka_unit_test(test_ends_are_shown_by_themselves),
        cmocka_unit_test(test_a_resumed_transfer_is_shown_by_itself),
        cmocka_unit_test(test_what_ends_its_session),
        cmocka_unit_test(test_deliveries_follow_each_other),
        cmocka_unit_test(test_fields_that_are_none),
        cmocka_unit_test(test_begins),
        cmocka_unit_test(test_many_handles),
        cmocka_unit_test(test_what_has_been_sent),
        cmocka_unit_test(test_what_is_large_is_not_for_proton),
        cmocka_unit_test(test_echo),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
