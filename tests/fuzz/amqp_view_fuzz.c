/* SPDX-License-Identifier: Apache-2.0 */
/* A message becomes a record and a message again: its bare message must come out byte for byte, as
 * must its footer's items. Whatever headers a record has from elsewhere, it becomes a message. */
#include "adapters/amqp/view.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/log/batch.h"
#include "tests/fuzz/fuzz.h"

static struct batch *batch_of(const struct publish *publish)
{
    struct header publisher = {span_from_text(HEADER_PUBLISHER), span_from_text("a/b")};
    struct record_input input = {
        .attributes = publish->not_durable ? RECORD_NOT_DURABLE : 0,
        .key = publish->key,
        .value = publish->body,
        .headers = &publisher,
        .header_count = 1,
        .more_headers = publish->headers,
        .more_count = publish->header_count,
    };
    struct batch_builder builder;
    batch_builder_init(&builder);
    struct batch *batch = NULL;
    if (batch_builder_add(&builder, &input) == STATUS_OK)
        batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    return batch;
}

/* Gives back the message that the record is shown as; the caller frees it. */
static struct span show(const struct batch *batch)
{
    struct record record;
    batch_record(batch, 0, &record);
    struct amqp_shown shown = {.failures = 1, .positions = true, .now_ms = 1};
    size_t bound = amqp_view_bound(&record);
    uint8_t *bytes = heap_new(bound);
    size_t size = amqp_view_write(&record, &shown, bytes);
    CHECK(size <= bound);
    return span_of(bytes, size);
}

static void round_trip(struct span bytes)
{
    struct arena arena;
    struct err err;
    struct span to;
    struct amqp_message before, after;
    /* By the queue's name, so that `to` is kept. */
    struct queue queue = {0};
    struct publish publish = {.queue = &queue};
    arena_init(&arena, 4 * LIMIT_RECORD_BYTES);
    if (amqp_view_read(&arena, bytes, &publish, &to, &err) == STATUS_OK) {
        struct batch *batch = batch_of(&publish);
        if (batch != NULL) {
            struct span again = show(batch);
            CHECK(amqp_message_read(bytes, &before) == STATUS_OK);
            CHECK(amqp_message_read(again, &after) == STATUS_OK);
            CHECK(span_equal(before.properties_section, after.properties_section));
            CHECK(span_equal(before.application_section, after.application_section));
            CHECK(span_equal(before.body, after.body));
            CHECK(span_equal(before.footer.bytes, after.footer.bytes));
            CHECK(before.durable == after.durable);
            heap_free((void *)(uintptr_t)again.data);
            batch_unref(batch);
        }
    }
    arena_deinit(&arena);
}

/* name NUL value NUL ... */
static void foreign(struct span bytes)
{
    struct header headers[32];
    struct publish publish = {.body = bytes, .headers = headers};
    while (bytes.size > 0 && publish.header_count < 32) {
        struct span part[2];
        for (unsigned i = 0; i < 2; i++) {
            const uint8_t *end = bytes.size == 0 ? NULL : memchr(bytes.data, 0, bytes.size);
            part[i] = span_of(bytes.data, end == NULL ? bytes.size : (size_t)(end - bytes.data));
            bytes = span_from(bytes, part[i].size + 1);
        }
        headers[publish.header_count++] = (struct header){part[0], part[1]};
    }
    struct batch *batch = batch_of(&publish);
    if (batch == NULL)
        return;
    struct amqp_message message;
    struct span shown = show(batch);
    CHECK(amqp_message_read(shown, &message) == STATUS_OK);
    heap_free((void *)(uintptr_t)shown.data);
    batch_unref(batch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    round_trip(span_of(data, size));
    foreign(span_of(data, size));
    return 0;
}
