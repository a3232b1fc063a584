/* SPDX-License-Identifier: Apache-2.0 */
/* What opens, built again from its records, opens to the same records; and what we built, built
 * again, is the same bytes. */
#include "core/base/check.h"
#include "core/base/crc.h"
#include "core/base/limits.h"
#include "core/base/pack.h"
#include "core/log/batch.h"
#include "tests/fuzz/fuzz.h"

static enum status add_again(struct batch_builder *builder, const struct record *record)
{
    static struct header headers[LIMIT_HEADERS];
    struct reader at = reader_of(record->headers);
    uint32_t count = 0;
    while (count < LIMIT_HEADERS && record_next_header(&at, &headers[count]))
        count++;
    CHECK(count == record->header_count);
    uint32_t split = count / 2;
    struct record_input input = {
        .timestamp_ms = record->timestamp_ms,
        .attributes = record->attributes,
        .key = record->key,
        .value = record->value,
        .headers = headers,
        .header_count = split,
        .more_headers = headers + split,
        .more_count = count - split,
    };
    return batch_builder_add(builder, &input);
}

/* NULL when a record is too large once its lengths have other bytes than before. */
static struct batch *build_again(const struct batch *batch)
{
    struct batch_builder builder;
    batch_builder_init(&builder);
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < batch->record_count && status == STATUS_OK; i++) {
        struct record record;
        batch_record(batch, i, &record);
        status = add_again(&builder, &record);
    }
    CHECK(status == STATUS_OK || status == STATUS_TOO_LARGE);
    struct batch *again = status == STATUS_OK ? batch_builder_seal(&builder) : NULL;
    batch_builder_deinit(&builder);
    return again;
}

static bool same_block(struct span a, struct span b)
{
    return (a.data == NULL) == (b.data == NULL) && span_equal(a, b);
}

static void check_same(const struct batch *a, const struct batch *b)
{
    CHECK(a->record_count == b->record_count);
    for (uint32_t i = 0; i < a->record_count; i++) {
        struct record one, other;
        batch_record(a, i, &one);
        batch_record(b, i, &other);
        CHECK(one.timestamp_ms == other.timestamp_ms && one.attributes == other.attributes);
        CHECK(same_block(one.key, other.key) && same_block(one.value, other.value));
        CHECK(one.header_count == other.header_count);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct blob *blob = blob_copy(span_of(data, size));
    if (size >= BATCH_HEADER_SIZE) {
        store_u32(blob->bytes + 8, (uint32_t)size - 12);
        store_u32(blob->bytes + 17, crc32c(0, span_of(blob->bytes + 21, size - 21)));
    }
    struct batch *batch = NULL, *opened = NULL;
    enum status status = batch_open(blob, 1u << 20, &batch);
    blob_unref(blob);
    if (status != STATUS_OK)
        return 0;
    struct batch *built = build_again(batch);
    if (built != NULL) {
        CHECK(batch_open(built->bytes, 0, &opened) == STATUS_OK);
        check_same(batch, opened);
        struct batch *twice = build_again(opened);
        CHECK(twice != NULL && span_equal(blob_span(twice->bytes), blob_span(built->bytes)));
        batch_unref(twice);
    }
    batch_unref(opened);
    batch_unref(built);
    batch_unref(batch);
    return 0;
}
