/* SPDX-License-Identifier: Apache-2.0 */
/* A message that a frame brings: what is accepted can be stored, and what is stored is shown as
 * valid JSON, whatever bytes are in it. */
#include "adapters/ws/message.h"
#include "adapters/ws/view.h"
#include "core/base/check.h"
#include "core/base/limits.h"
#include "core/log/batch.h"
#include "tests/fuzz/fuzz.h"

static void show(const struct record *record, bool binary)
{
    struct ws_view_place place = {.queue = "q\"", .partition = 3};
    struct buf text;
    json_error_t error;
    buf_init(&text, 4 * LIMIT_RECORD_BYTES);
    json_put(&text, "{");
    ws_view_write(record, &place, binary, &text);
    json_put(&text, "}");
    json_t *shown = json_loadb((const char *)text.data, text.size,
                               JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &error);
    CHECK(json_is_object(shown));
    CHECK(json_object_get(shown, binary ? "body_frame" : "body") != NULL);
    json_decref(shown);
    buf_deinit(&text);
}

static void store_and_show(const struct publish *publish)
{
    struct batch_builder builder;
    struct record_input input = {.key = publish->key,
                                 .value = publish->body,
                                 .headers = publish->headers,
                                 .header_count = publish->header_count};
    batch_builder_init(&builder);
    if (batch_builder_add(&builder, &input) == STATUS_OK) {
        struct record record;
        struct batch *batch = batch_builder_seal(&builder);
        batch_record(batch, 0, &record);
        show(&record, false);
        show(&record, true);
        batch_unref(batch);
    }
    batch_builder_deinit(&builder);
}

/* Headers that no frame of ours made: the input cut into names and values. */
static void show_foreign(struct span bytes)
{
    struct header headers[16];
    uint32_t count = 0;
    struct span rest = bytes;
    while (count < 16 && rest.size > 2) {
        size_t name = rest.data[0] % 20u, value = rest.data[1] % 40u;
        rest = span_from(rest, 2);
        if (rest.size < name + value)
            break;
        headers[count++] =
            (struct header){span_of(rest.data, name), span_of(rest.data + name, value)};
        rest = span_from(rest, name + value);
    }
    store_and_show(&(struct publish){.headers = headers, .header_count = count, .body = rest});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_error_t error;
    json_t *frame = json_loadb((const char *)data, size, JSON_ALLOW_NUL, &error);
    if (json_is_object(frame)) {
        struct arena arena;
        struct publish publish;
        struct err err = {0};
        json_object_del(frame, "queue"); /* would be looked up */
        arena_init(&arena, 1 << 20);
        if (ws_message_read(&arena, frame, NULL, NULL, &publish, &err) == STATUS_OK)
            store_and_show(&publish);
        else
            CHECK(err.text[0] != '\0');
        arena_deinit(&arena);
    }
    json_decref(frame);
    show_foreign(span_of(data, size));
    return 0;
}
