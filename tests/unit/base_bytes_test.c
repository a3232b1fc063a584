/* SPDX-License-Identifier: Apache-2.0 */
/* reader, pack, utf8, crc and hash, against vectors and against each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/crc.h"
#include "core/base/hash.h"
#include "core/base/pack.h"
#include "core/base/reader.h"
#include "core/base/rng.h"
#include "core/base/utf8.h"

static void what_is_packed_is_read(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1000);
    struct pack pack = pack_into(&buf);
    pack_u8(&pack, 0xfe);
    pack_u16(&pack, 0x1234);
    pack_u32(&pack, 0x89abcdef);
    pack_u64(&pack, 0x0123456789abcdefULL);
    pack_uvarint(&pack, 300);
    pack_uvarint(&pack, UINT64_MAX);
    pack_varint(&pack, -1);
    pack_varint(&pack, INT64_MIN);
    pack_varint(&pack, INT64_MAX);
    pack_block(&pack, span_from_text("block"));
    pack_bytes(&pack, span_from_text("rest"));
    assert_int_equal(pack.status, STATUS_OK);
    assert_int_equal(buf.data[1], 0x12);
    struct reader reader = reader_of(buf_span(&buf));
    assert_int_equal(reader_u8(&reader), 0xfe);
    assert_int_equal(reader_u16(&reader), 0x1234);
    assert_int_equal(reader_u32(&reader), 0x89abcdef);
    assert_true(reader_u64(&reader) == 0x0123456789abcdefULL);
    assert_int_equal(reader_uvarint(&reader), 300);
    assert_true(reader_uvarint(&reader) == UINT64_MAX);
    assert_true(reader_varint(&reader) == -1);
    assert_true(reader_varint(&reader) == INT64_MIN);
    assert_true(reader_varint(&reader) == INT64_MAX);
    assert_true(span_is(reader_block(&reader), "block"));
    assert_int_equal(reader_left(&reader), 4);
    assert_true(span_is(reader_bytes(&reader, 4), "rest"));
    assert_false(reader.failed);
    assert_int_equal(reader_u8(&reader), 0);
    assert_true(reader.failed);
    buf_deinit(&buf);
}

static void failures_are_sticky(void **state)
{
    (void)state;
    struct reader reader = reader_of(span_of("\x01\x02\x03", 3));
    assert_int_equal(reader_u32(&reader), 0);
    assert_int_equal(reader_u8(&reader), 0);
    assert_true(reader.failed);

    reader = reader_of(span_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10));
    assert_int_equal(reader_uvarint(&reader), 0);
    assert_true(reader.failed);
    reader = reader_of(span_of("\xff\xff", 2));
    assert_int_equal(reader_uvarint(&reader), 0);
    assert_true(reader.failed);
    reader = reader_of(span_of("\x05"
                               "abcd",
                               5));
    assert_int_equal(reader_block(&reader).size, 0);
    assert_true(reader.failed);

    struct buf buf;
    buf_init(&buf, 4);
    struct pack pack = pack_into(&buf);
    pack_u64(&pack, 1);
    pack_u8(&pack, 1);
    assert_int_equal(pack.status, STATUS_TOO_LARGE);
    assert_int_equal(buf.size, 0);
    buf_deinit(&buf);
}

static void utf8_follows_rfc_3629(void **state)
{
    (void)state;
    static const char *const good[] = {
        "",
        "plain ascii, more than eight bytes",
        "\xc2\x80",
        "\xdf\xbf",
        "\xe0\xa0\x80",
        "\xed\x9f\xbf",
        "\xee\x80\x80",
        "\xef\xbf\xbf",
        "\xf0\x90\x80\x80",
        "\xf4\x8f\xbf\xbf",
        "12345678\xc3\xa4",
    };
    static const char *const bad[] = {
        "\x80",
        "\xc0\x80",
        "\xc1\xbf",
        "\xc3",
        "\xe0\x9f\xbf",
        "\xed\xa0\x80",
        "\xed\xbf\xbf",
        "\xe2\x82",
        "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xff",
        "\xf0\x90\x80",
        "12345678\xff",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(utf8_is_valid_no_nul(span_from_text(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(utf8_is_valid(span_from_text(bad[i])));
    assert_true(utf8_is_valid(span_of("a\0b", 3)));
    assert_false(utf8_is_valid_no_nul(span_of("a\0b", 3)));
    assert_true(utf8_is_valid_no_nul((struct span){0}));
}

static void crc_has_the_vectors_of_rfc_3720(void **state)
{
    (void)state;
    uint8_t bytes[32];
    memset(bytes, 0, sizeof bytes);
    assert_true(crc32c(0, span_of(bytes, 32)) == 0x8a9136aa);
    memset(bytes, 0xff, sizeof bytes);
    assert_true(crc32c(0, span_of(bytes, 32)) == 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    assert_true(crc32c(0, span_of(bytes, 32)) == 0x46dd794e);
    assert_true(crc32c(crc32c(0, span_of(bytes, 13)), span_of(bytes + 13, 19)) == 0x46dd794e);
    assert_true(crc32c(0, span_from_text("123456789")) == 0xe3069283);
    assert_true(crc32c(0, (struct span){0}) == 0);
}

/* Pieces of a few bytes go one after another, a large one side by side. */
static void crc_of_much_is_that_of_its_pieces(void **state)
{
    (void)state;
    enum { MOST = 3 * 6144 + 100, PIECE = 7 };
    static uint8_t bytes[MOST];
    rng_seed(25);
    rng_bytes(bytes, MOST);
    for (size_t size = 6144 - 9; size <= MOST; size += size < 6144 + 9 ? 1 : 611) {
        uint32_t crc = 0;
        for (size_t at = 0; at < size; at += PIECE)
            crc = crc32c(crc, span_of(bytes + at, size - at < PIECE ? size - at : PIECE));
        assert_int_equal(crc32c(0, span_of(bytes, size)), crc);
        assert_int_equal(crc32c(crc32c(0, span_of(bytes, 5)), span_of(bytes + 5, size - 5)), crc);
    }
}

static void siphash_has_the_published_vectors(void **state)
{
    (void)state;
    const struct hash_key key = {0x0706050403020100ULL, 0x0f0e0d0c0b0a0908ULL};
    uint8_t bytes[15];
    for (uint8_t i = 0; i < 15; i++)
        bytes[i] = i;
    assert_true(hash_keyed(&key, span_of(bytes, 0)) == 0xabac0158050fc4dcULL);
    assert_true(hash_keyed(&key, span_of(bytes, 1)) == 0xc9f49bf37d57ca93ULL);
    assert_true(hash_keyed(&key, span_of(bytes, 8)) == 0x369095118d299a8eULL);
    assert_true(hash_keyed(&key, span_of(bytes, 15)) == 0xd320d86d2a519956ULL);
}

/* Changing this number means that stored data is no longer found. */
static void stable_hash_never_changes(void **state)
{
    (void)state;
    assert_true(hash_stable(span_from_text("sensors/1")) == 0x4a91b764bb2a5323ULL);
}

static void seeded_randomness_repeats(void **state)
{
    (void)state;
    char text[37];
    rng_uuid(text);
    assert_int_equal(strlen(text), 36);
    assert_int_equal(text[14], '4');
    rng_seed(42);
    uint64_t first = rng_u64();
    char one[37], two[37];
    rng_uuid(one);
    rng_seed(42);
    assert_true(rng_u64() == first);
    rng_uuid(two);
    assert_string_equal(one, two);
    unsigned seen[10] = {0};
    for (int i = 0; i < 1000; i++)
        seen[rng_below(10)]++;
    for (int i = 0; i < 10; i++)
        assert_in_range(seen[i], 50, 150);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_packed_is_read),
        cmocka_unit_test(failures_are_sticky),
        cmocka_unit_test(utf8_follows_rfc_3629),
        cmocka_unit_test(crc_has_the_vectors_of_rfc_3720),
        cmocka_unit_test(crc_of_much_is_that_of_its_pieces),
        cmocka_unit_test(siphash_has_the_published_vectors),
        cmocka_unit_test(stable_hash_never_changes),
        cmocka_unit_test(seeded_randomness_repeats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
