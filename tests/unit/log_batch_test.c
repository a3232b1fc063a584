/* SPDX-License-Identifier: Apache-2.0 */
/* The RecordBatch v2 codec against bytes that Kafka wrote, against itself, and against damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/crc.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/base/rng.h"
#include "core/log/batch.h"

/* From the metadata log of a Kafka 3 node: one record, no key, a value of 23 bytes. */
static const uint8_t kafka_metadata[] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x4f, 0x00, 0x00, 0x00, 0x01,
    0x02, 0xb0, 0x69, 0x45, 0x7c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x91, 0xe0,
    0x5a, 0xf8, 0x18, 0x00, 0x00, 0x01, 0x91, 0xe0, 0x5a, 0xf8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01, 0x3a, 0x00, 0x00,
    0x00, 0x01, 0x2e, 0x01, 0x0c, 0x00, 0x11, 0x6d, 0x65, 0x74, 0x61, 0x64, 0x61, 0x74, 0x61, 0x2e,
    0x76, 0x65, 0x72, 0x73, 0x69, 0x6f, 0x6e, 0x00, 0x14, 0x00, 0x00,
};
/* From a Java producer: two records with empty values, 168 ms apart. */
static const uint8_t kafka_two[] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x02,
    0x02, 0xc8, 0x5c, 0xbd, 0x23, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x01, 0x5d, 0xff,
    0x7c, 0xdd, 0x6c, 0x00, 0x00, 0x01, 0x5d, 0xff, 0x7c, 0xde, 0x14, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x02, 0x0c, 0x00, 0x00,
    0x00, 0x01, 0x00, 0x00, 0x0e, 0x00, 0xd0, 0x02, 0x02, 0x01, 0x00, 0x00,
};
/* From a Java producer: value "hdr" with the header hkey = hval. */
static const uint8_t kafka_header[] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x45, 0x00, 0x00,
    0x00, 0x05, 0x02, 0x5c, 0xd8, 0xef, 0x52, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x01, 0x65, 0x85, 0xb6, 0xf3, 0xc1, 0x00, 0x00, 0x01, 0x65, 0x85, 0xb6, 0xf3,
    0xc1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0x00, 0x00, 0x00, 0x01, 0x26, 0x00, 0x00, 0x00, 0x01, 0x06, 0x68, 0x64, 0x72,
    0x02, 0x08, 0x68, 0x6b, 0x65, 0x79, 0x08, 0x68, 0x76, 0x61, 0x6c,
};

static enum status open_bytes(const void *data, size_t size, struct batch **batch)
{
    struct blob *blob = blob_copy(span_of(data, size));
    enum status status = batch_open(blob, 0, batch);
    blob_unref(blob);
    return status;
}

static struct batch *open_good(const void *data, size_t size)
{
    struct batch *batch = NULL;
    assert_int_equal(open_bytes(data, size, &batch), STATUS_OK);
    return batch;
}

/* Opens a copy with its CRC made right again after a change. */
static enum status open_with_crc(uint8_t *data, size_t size, struct batch **batch)
{
    store_u32(data + 17, crc32c(0, span_of(data + 21, size - 21)));
    return open_bytes(data, size, batch);
}

static void kafka_vectors(void **state)
{
    (void)state;
    struct record record;
    struct batch *batch = open_good(kafka_metadata, sizeof kafka_metadata);
    assert_int_equal(batch->record_count, 1);
    batch_record(batch, 0, &record);
    assert_int_equal(record.timestamp_ms, 0x0191e05af818);
    assert_null(record.key.data);
    assert_int_equal(record.value.size, 23);
    assert_int_equal(record.header_count, 0);
    batch_unref(batch);

    batch = open_good(kafka_two, sizeof kafka_two);
    assert_int_equal(batch->record_count, 2);
    assert_int_equal(batch->base_offset, 1);
    assert_int_equal(batch_end(batch), 3);
    batch_record(batch, 1, &record);
    assert_int_equal(record.offset, 2);
    assert_int_equal(record.timestamp_ms, 0x015dff7cde14);
    assert_non_null(record.value.data);
    assert_int_equal(record.value.size, 0);
    batch_unref(batch);

    batch = open_good(kafka_header, sizeof kafka_header);
    batch_record(batch, 0, &record);
    assert_true(span_is(record.value, "hdr"));
    struct span value;
    assert_true(record_find(&record, "hkey", &value));
    assert_true(span_is(value, "hval"));
    assert_false(record_find(&record, "hke", &value));
    batch_unref(batch);
}

static struct record_input input_of(const char *value)
{
    return (struct record_input){.timestamp_ms = 1, .value = span_from_text(value)};
}

/* The builder writes, byte for byte, what Kafka's own client wrote. */
static void builder_writes_kafka_bytes(void **state)
{
    (void)state;
    struct batch_builder builder;
    batch_builder_init(&builder);
    assert_null(batch_builder_seal(&builder));
    struct header header = {span_from_text("hkey"), span_from_text("hval")};
    struct record_input input = input_of("hdr");
    input.timestamp_ms = 0x016585b6f3c1;
    for (int split = 0; split < 2; split++) {
        input.headers = split ? NULL : &header;
        input.header_count = split ? 0 : 1;
        input.more_headers = split ? &header : NULL;
        input.more_count = split ? 1 : 0;
        assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
        struct batch *batch = batch_builder_seal(&builder);
        assert_int_equal(builder.record_count, 0);
        assert_int_equal(batch->bytes->size, sizeof kafka_header);
        store_u64(batch->bytes->bytes, 4);
        store_u32(batch->bytes->bytes + 12, 5); /* offset and epoch are the engine's */
        assert_memory_equal(batch->bytes->bytes, kafka_header, sizeof kafka_header);
        batch_unref(batch);
    }
    struct record_input first = {.timestamp_ms = 0x015dff7cdd6c, .value = span_of("", 0)};
    struct record_input second = {.timestamp_ms = 0x015dff7cde14, .value = span_of("", 0)};
    assert_int_equal(batch_builder_add(&builder, &first), STATUS_OK);
    assert_int_equal(batch_builder_add(&builder, &second), STATUS_OK);
    struct batch *batch = batch_builder_seal(&builder);
    assert_int_equal(batch->bytes->size, sizeof kafka_two);
    store_u64(batch->bytes->bytes, 1);
    store_u32(batch->bytes->bytes + 12, 2);
    assert_memory_equal(batch->bytes->bytes, kafka_two, sizeof kafka_two);
    batch_unref(batch);
    batch_builder_deinit(&builder);
}

static void damage_is_malformed(void **state)
{
    (void)state;
    uint8_t bytes[sizeof kafka_header + 1];
    struct batch *batch = NULL;
    for (size_t size = 0; size < sizeof kafka_header; size++)
        assert_int_equal(open_bytes(kafka_header, size, &batch), STATUS_MALFORMED);
    memcpy(bytes, kafka_header, sizeof kafka_header);
    bytes[sizeof kafka_header] = 0;
    assert_int_equal(open_bytes(bytes, sizeof bytes, &batch), STATUS_MALFORMED);
    for (size_t at = 0; at < sizeof kafka_header; at++) {
        memcpy(bytes, kafka_header, sizeof kafka_header);
        bytes[at] ^= 0x81;
        bool outside = (at > 0 && at < 8) || (at >= 12 && at < 16); /* offset and epoch: any */
        enum status status = open_bytes(bytes, sizeof kafka_header, &batch);
        assert_int_equal(status, outside ? STATUS_OK : STATUS_MALFORMED);
        if (outside)
            batch_unref(batch);
    }
    /* The same with a right CRC: never a crash, and what opens can be read. */
    for (size_t at = 21; at < sizeof kafka_header; at++) {
        for (int bit = 0; bit < 8; bit++) {
            memcpy(bytes, kafka_header, sizeof kafka_header);
            bytes[at] ^= (uint8_t)(1 << bit);
            if (open_with_crc(bytes, sizeof kafka_header, &batch) != STATUS_OK)
                continue;
            struct record record;
            batch_record(batch, 0, &record);
            batch_unref(batch);
        }
    }
}

static void fields_are_checked(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
        enum status status;
    } cases[] = {
        {16, 1, STATUS_MALFORMED},                               /* magic */
        {22, 5, STATUS_UNSUPPORTED},                             /* compression */
        {22, 7, STATUS_UNSUPPORTED},  {22, 1, STATUS_MALFORMED}, /* says gzip, is not */
        {23, 0x80, STATUS_MALFORMED},                            /* last offset delta below zero */
        {57, 0x80, STATUS_MALFORMED},                            /* record count below zero */
        {60, 0, STATUS_MALFORMED},                               /* no record */
        {60, 2, STATUS_MALFORMED},                               /* fewer records than said */
        {57, 0x7f, STATUS_MALFORMED},                            /* many more */
        {61, 0x24, STATUS_MALFORMED},                            /* record ends early */
        {61, 0x28, STATUS_MALFORMED},                            /* or after the batch */
        {61, 0x01, STATUS_MALFORMED},                            /* length -1 */
        {64, 0x02, STATUS_MALFORMED},                            /* offset delta behind the last */
        {64, 0x01, STATUS_MALFORMED},                            /* offset delta -1 */
        {65, 0x03, STATUS_MALFORMED},                            /* key length -2 */
        {70, 0x04, STATUS_MALFORMED},                            /* two headers, has one */
        {70, 0x00, STATUS_MALFORMED},                            /* none, has one */
        {70, 0x01, STATUS_MALFORMED},                            /* -1 headers */
        {71, 0x01, STATUS_MALFORMED},                            /* header name null */
        {76, 0x03, STATUS_MALFORMED},                            /* header value -2 */
        {22, 0x10, STATUS_OK},                                   /* transactional */
        {62, 0xff, STATUS_OK},                                   /* record attributes */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[sizeof kafka_header];
        memcpy(bytes, kafka_header, sizeof bytes);
        bytes[cases[i].at] = cases[i].value;
        struct batch *batch = NULL;
        enum status status = open_with_crc(bytes, sizeof bytes, &batch);
        if (status != cases[i].status)
            print_message("case %zu: %s\n", i, status_name(status));
        assert_int_equal(status, cases[i].status);
        batch_unref(batch);
    }
}

/* Compaction removes records and keeps the offsets of the others, and of the batch. */
static void compacted_batches_keep_offsets(void **state)
{
    (void)state;
    uint8_t bytes[sizeof kafka_two];
    memcpy(bytes, kafka_two, sizeof bytes);
    bytes[64] = 0x06;         /* first record: delta 3 */
    bytes[72] = 0x0a;         /* second: delta 5 */
    store_u32(bytes + 23, 7); /* last delta 7 */
    struct batch *batch = NULL;
    assert_int_equal(open_with_crc(bytes, sizeof bytes, &batch), STATUS_OK);
    assert_int_equal(batch->record_count, 2);
    assert_int_equal(batch->offset_count, 8);
    assert_int_equal(batch_end(batch), 9);
    struct record record;
    batch_record(batch, 0, &record);
    assert_int_equal(record.offset, 4);
    batch_record(batch, 1, &record);
    assert_int_equal(record.offset, 6);
    static const uint32_t found[] = {0, 0, 0, 0, 0, 1, 1, 2, 2, 2};
    for (uint64_t offset = 0; offset < 10; offset++)
        assert_int_equal(batch_find(batch, offset), found[offset]);
    batch_unref(batch);
    bytes[72] = 0x06; /* the same delta twice */
    assert_int_equal(open_with_crc(bytes, sizeof bytes, &batch), STATUS_MALFORMED);
}

static void append_time_replaces_publish_time(void **state)
{
    (void)state;
    uint8_t bytes[sizeof kafka_two];
    memcpy(bytes, kafka_two, sizeof bytes);
    bytes[22] = 0x08;
    struct batch *batch = NULL;
    assert_int_equal(open_with_crc(bytes, sizeof bytes, &batch), STATUS_OK);
    struct record record;
    batch_record(batch, 0, &record);
    assert_int_equal(record.timestamp_ms, 0x015dff7cde14);
    batch_unref(batch);
}

static void limits_hold(void **state)
{
    (void)state;
    struct batch_builder builder;
    batch_builder_init(&builder);
    uint8_t *large = heap_new(LIMIT_RECORD_BYTES);
    struct record_input input = {.value = span_of(large, LIMIT_RECORD_BYTES)};
    assert_false(batch_builder_is_full(&builder, LIMIT_RECORD_BYTES));
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_TOO_LARGE);
    assert_int_equal(builder.record_count, 0);
    input.value.size = LIMIT_RECORD_BYTES - 64;
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
    assert_true(batch_builder_is_full(&builder, 1));
    struct batch *batch = batch_builder_seal(&builder);
    struct batch *again = open_good(batch->bytes->bytes, batch->bytes->size);
    batch_unref(again);
    batch_unref(batch);
    heap_free(large);

    struct header headers[LIMIT_HEADERS + 1];
    for (unsigned i = 0; i < LIMIT_HEADERS + 1; i++)
        headers[i] = (struct header){span_from_text("n"), (struct span){0}};
    input = (struct record_input){.headers = headers, .header_count = LIMIT_HEADERS + 1};
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_TOO_LARGE);
    input.header_count = LIMIT_HEADERS;
    input.more_headers = headers;
    input.more_count = 1;
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_TOO_LARGE);
    input.more_count = 0;
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);

    input = input_of("x");
    while (!batch_builder_is_full(&builder, 100))
        assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
    assert_int_equal(builder.record_count, LIMIT_BATCH_RECORDS);
    batch_unref(batch_builder_seal(&builder));
    batch_builder_deinit(&builder);
}

/* A record as the generator made it, to compare with what comes back. */
struct model {
    struct record_input input;
    struct header headers[5];
    uint8_t bytes[64];
};

static struct span random_span(const uint8_t *bytes)
{
    size_t from = rng_below(32);
    return rng_below(6) == 0 ? (struct span){0} : span_of(bytes + from, rng_below(32));
}

static void random_record(struct model *model)
{
    rng_bytes(model->bytes, sizeof model->bytes);
    uint32_t count = (uint32_t)rng_below(6), split = (uint32_t)rng_below(count + 1);
    for (uint32_t i = 0; i < count; i++) {
        model->headers[i].name = span_of(model->bytes, rng_below(20));
        model->headers[i].value = random_span(model->bytes);
    }
    model->input = (struct record_input){
        .timestamp_ms = rng_below(10) == 0 ? (int64_t)rng_u64() : (int64_t)rng_below(1u << 30),
        .attributes = (uint8_t)rng_below(8),
        .key = random_span(model->bytes),
        .value = random_span(model->bytes),
        .headers = model->headers,
        .header_count = split,
        .more_headers = model->headers + split,
        .more_count = count - split,
    };
}

static void same_span(struct span a, struct span b)
{
    assert_int_equal(a.data == NULL, b.data == NULL);
    assert_true(span_equal(a, b));
}

static void same_record(const struct record *record, const struct model *model)
{
    assert_int_equal(record->timestamp_ms, model->input.timestamp_ms);
    assert_int_equal(record->attributes, model->input.attributes);
    same_span(record->key, model->input.key);
    same_span(record->value, model->input.value);
    assert_int_equal(record->header_count, model->input.header_count + model->input.more_count);
    struct reader at = reader_of(record->headers);
    struct header header;
    uint32_t i = 0;
    for (; record_next_header(&at, &header); i++) {
        assert_true(span_equal(header.name, model->headers[i].name));
        same_span(header.value, model->headers[i].value);
    }
    assert_int_equal(i, record->header_count);
    assert_false(at.failed);
}

static void random_round_trip(void **state)
{
    (void)state;
    rng_seed(20260105);
    struct batch_builder builder;
    batch_builder_init(&builder);
    static struct model models[200];
    for (int round = 0; round < 100; round++) {
        uint32_t count = 1 + (uint32_t)rng_below(200);
        for (uint32_t i = 0; i < count; i++) {
            random_record(&models[i]);
            assert_int_equal(batch_builder_add(&builder, &models[i].input), STATUS_OK);
        }
        struct batch *sealed = batch_builder_seal(&builder);
        store_u64(sealed->bytes->bytes, 1000);
        sealed->base_offset = 1000;
        struct batch *opened = open_good(sealed->bytes->bytes, sealed->bytes->size);
        assert_int_equal(opened->record_count, count);
        assert_int_equal(opened->offset_count, count);
        assert_true(batch_charge(opened) > opened->bytes->size);
        for (uint32_t i = 0; i < count; i++) {
            struct record record;
            batch_record(sealed, i, &record);
            same_record(&record, &models[i]);
            assert_int_equal(record.offset, 1000 + i);
            batch_record(opened, i, &record);
            same_record(&record, &models[i]);
            assert_int_equal(record.offset, 1000 + i);
        }
        batch_unref(sealed);
        batch_unref(opened);
    }
    batch_builder_deinit(&builder);
}

static void notes_are_charged(void **state)
{
    (void)state;
    struct batch_builder builder;
    struct record_input input = {.value = span_from_text("value")};
    batch_builder_init(&builder);
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
    struct batch *batch = batch_builder_seal(&builder);
    size_t without = batch_charge(batch);
    batch->notes_size = 1000;
    batch->notes = heap_resize(NULL, batch->notes_size);
    assert_int_equal(batch_charge(batch), without + 1000);
    batch_unref(batch);
    batch_builder_deinit(&builder);
}

/* Every refused allocation is NO_MEMORY, loses nothing that was added, and leaks nothing. */
static void refused_memory(void **state)
{
    (void)state;
    uint8_t value[4000] = {0};
    for (unsigned n = 1;; n++) {
        struct batch_builder builder;
        batch_builder_init(&builder);
        unsigned added = 0, refused = 0;
        heap_fail_after(n);
        for (unsigned i = 0; i < 100; i++) {
            struct record_input input = {.value = span_of(value, i * 40)};
            enum status status = batch_builder_add(&builder, &input);
            assert_true(status == STATUS_OK || status == STATUS_NO_MEMORY);
            added += status == STATUS_OK;
            refused += status == STATUS_NO_MEMORY;
        }
        heap_fail_after(0);
        assert_int_equal(refused <= 1, true);
        assert_int_equal(added, builder.record_count);
        struct batch *batch = batch_builder_seal(&builder);
        struct batch *opened = NULL;
        heap_fail_after(1);
        assert_int_equal(batch_open(batch->bytes, 0, &opened), STATUS_NO_MEMORY);
        heap_fail_after(0);
        assert_int_equal(batch_open(batch->bytes, 0, &opened), STATUS_OK);
        batch_unref(opened);
        batch_unref(batch);
        batch_builder_deinit(&builder);
        if (refused == 0)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kafka_vectors),
        cmocka_unit_test(builder_writes_kafka_bytes),
        cmocka_unit_test(damage_is_malformed),
        cmocka_unit_test(fields_are_checked),
        cmocka_unit_test(compacted_batches_keep_offsets),
        cmocka_unit_test(append_time_replaces_publish_time),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(random_round_trip),
        cmocka_unit_test(notes_are_charged),
        cmocka_unit_test(refused_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
