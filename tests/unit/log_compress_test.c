/* SPDX-License-Identifier: Apache-2.0 */
/* Decompression: what the libraries pack comes back, bounded, and damage is an answer, never a
 * crash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <lz4frame.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

#include "core/base/crc.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/rng.h"
#include "core/log/compress.h"

enum { PACKED_MAX = 6 << 20 };

static size_t pack_gzip(struct span from, uint8_t *to)
{
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (Bytef *)(uintptr_t)from.data;
    stream.avail_in = (uInt)from.size;
    stream.next_out = to;
    stream.avail_out = PACKED_MAX;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    deflateEnd(&stream);
    return stream.total_out;
}

static size_t pack_snappy(struct span from, uint8_t *to)
{
    size_t size = PACKED_MAX;
    assert_int_equal(snappy_compress((const char *)from.data, from.size, (char *)to, &size),
                     SNAPPY_OK);
    return size;
}

/* snappy-java's framing with blocks of 32 KiB, as the Java producer writes. */
static size_t pack_xerial(struct span from, uint8_t *to)
{
    static const uint8_t head[16] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1};
    memcpy(to, head, sizeof head);
    size_t size = sizeof head;
    for (size_t at = 0; at < from.size; at += 32768) {
        struct span block = span_from(from, at);
        block.size = block.size < 32768 ? block.size : 32768;
        size_t packed = pack_snappy(block, to + size + 4);
        store_u32(to + size, (uint32_t)packed);
        size += 4 + packed;
    }
    return size;
}

static size_t pack_lz4(struct span from, uint8_t *to)
{
    size_t size = LZ4F_compressFrame(to, PACKED_MAX, from.data, from.size, NULL);
    assert_false(LZ4F_isError(size));
    return size;
}

static size_t pack_zstd(struct span from, uint8_t *to)
{
    size_t size = ZSTD_compress(to, PACKED_MAX, from.data, from.size, 3);
    assert_false(ZSTD_isError(size));
    return size;
}

static const struct codec {
    enum batch_compression compression;
    size_t (*pack)(struct span from, uint8_t *to);
    bool frames; /* several may follow each other */
} codecs[] = {
    {BATCH_GZIP, pack_gzip, true},      {BATCH_SNAPPY, pack_snappy, false},
    {BATCH_SNAPPY, pack_xerial, false}, {BATCH_LZ4, pack_lz4, true},
    {BATCH_ZSTD, pack_zstd, true},
};
enum { CODECS = sizeof codecs / sizeof codecs[0] };

static uint8_t packed[PACKED_MAX];
static uint8_t original[200000];

/* Half random, half repeating, so that it shrinks but not to nothing. */
static void make_original(void)
{
    rng_seed(7);
    rng_bytes(original, sizeof original);
    for (size_t i = 0; i + 64 < sizeof original; i += 64)
        memset(original + i, (int)(i >> 10), 32);
}

static void comes_back(void **state)
{
    (void)state;
    make_original();
    static const size_t sizes[] = {0, 1, 100, 4096, 4097, 32768, 65536, 70000, sizeof original};
    for (size_t c = 0; c < CODECS; c++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            struct span from = span_of(original, sizes[s]);
            struct span in = span_of(packed, codecs[c].pack(from, packed));
            struct blob *out = NULL;
            uint32_t exact = (uint32_t)sizes[s];
            assert_int_equal(decompress(codecs[c].compression, in, exact, &out), STATUS_OK);
            assert_true(span_equal(blob_span(out), from));
            blob_unref(out);
            if (exact != 0)
                assert_int_equal(decompress(codecs[c].compression, in, exact - 1, &out),
                                 STATUS_TOO_LARGE);
        }
    }
}

static void frames_follow_each_other(void **state)
{
    (void)state;
    make_original();
    for (size_t c = 0; c < CODECS; c++) {
        if (!codecs[c].frames)
            continue;
        size_t first = codecs[c].pack(span_of(original, 5000), packed);
        size_t second = codecs[c].pack(span_of(original + 5000, 3000), packed + first);
        struct blob *out = NULL;
        struct span in = span_of(packed, first + second);
        assert_int_equal(decompress(codecs[c].compression, in, 8000, &out), STATUS_OK);
        assert_true(span_equal(blob_span(out), span_of(original, 8000)));
        blob_unref(out);
        in.size--; /* the second one is cut */
        assert_int_equal(decompress(codecs[c].compression, in, 9000, &out), STATUS_MALFORMED);
    }
}

static void damage_is_an_answer(void **state)
{
    (void)state;
    make_original();
    for (size_t c = 0; c < CODECS; c++) {
        size_t size = codecs[c].pack(span_of(original, 3000), packed);
        struct blob *out = NULL;
        for (size_t cut = 0; cut < size; cut++) {
            uint8_t *copy = malloc(cut + 1); /* so that a read past the end is seen */
            memcpy(copy, packed, cut);
            enum status status =
                decompress(codecs[c].compression, span_of(copy, cut), 1 << 20, &out);
            /* xerial cut between blocks is a shorter stream */
            bool empty_stream = codecs[c].pack == pack_xerial && cut == 16;
            assert_int_equal(status, empty_stream ? STATUS_OK : STATUS_MALFORMED);
            if (status == STATUS_OK)
                blob_unref(out);
            free(copy);
        }
        for (int i = 0; i < 3000; i++) {
            size = codecs[c].pack(span_of(original, 3000), packed);
            packed[rng_below(size)] ^= (uint8_t)(1 + rng_below(255));
            if (decompress(codecs[c].compression, span_of(packed, size), 1 << 20, &out) ==
                STATUS_OK)
                blob_unref(out);
        }
    }
    struct blob *out = NULL;
    assert_int_equal(decompress(BATCH_PLAIN, span_of("", 0), 1, &out), STATUS_UNSUPPORTED);
}

static void bombs_are_refused(void **state)
{
    (void)state;
    static uint8_t zeros[4 << 20];
    for (size_t c = 0; c < CODECS; c++) {
        size_t size = codecs[c].pack(span_of(zeros, sizeof zeros), packed);
        struct blob *out = NULL;
        assert_int_equal(decompress(codecs[c].compression, span_of(packed, size), 1 << 20, &out),
                         STATUS_TOO_LARGE);
    }
    /* A claim of 2 GB in five bytes is refused before memory is asked for. */
    static const uint8_t claim[] = {0xff, 0xff, 0xff, 0xff, 0x07};
    struct blob *out = NULL;
    assert_int_equal(decompress(BATCH_SNAPPY, span_of(claim, sizeof claim), UINT32_MAX, &out),
                     STATUS_MALFORMED);
}

/* A whole batch of which the records are packed, as a producer would send it. */
static void batches_open(void **state)
{
    (void)state;
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (int i = 0; i < 500; i++) {
        struct record_input input = {.timestamp_ms = i, .value = span_from_text("some text")};
        assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
    }
    struct batch *plain = batch_builder_seal(&builder);
    for (size_t c = 0; c < CODECS; c++) {
        uint8_t *at = packed;
        memcpy(at, plain->bytes->bytes, BATCH_HEADER_SIZE);
        size_t size = BATCH_HEADER_SIZE +
                      codecs[c].pack(span_of(plain->records, plain->records_size), at + 61);
        at[22] = (uint8_t)codecs[c].compression;
        store_u32(at + 8, (uint32_t)size - 12);
        store_u32(at + 17, crc32c(0, span_of(at + 21, size - 21)));
        struct blob *blob = blob_copy(span_of(at, size));
        struct batch *opened = NULL;
        assert_int_equal(batch_open(blob, 0, &opened), STATUS_OK);
        assert_int_equal(opened->record_count, 500);
        struct record record;
        batch_record(opened, 499, &record);
        assert_int_equal(record.timestamp_ms, 499);
        assert_true(span_is(record.value, "some text"));
        batch_unref(opened);
        assert_int_equal(batch_open(blob, 1000, &opened), STATUS_TOO_LARGE);
        for (unsigned n = 1;; n++) { /* each allocation refused in turn */
            heap_fail_after(n);
            enum status status = batch_open(blob, 0, &opened);
            heap_fail_after(0);
            if (status == STATUS_OK)
                batch_unref(opened);
            else
                assert_int_equal(status, STATUS_NO_MEMORY);
            if (n > 12)
                break;
        }
        blob_unref(blob);
    }
    batch_unref(plain);
    batch_builder_deinit(&builder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back),          cmocka_unit_test(frames_follow_each_other),
        cmocka_unit_test(damage_is_an_answer), cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(batches_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
