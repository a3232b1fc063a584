/* SPDX-License-Identifier: Apache-2.0 */
/* A message's JSON becomes a record, and the record JSON again: valid, and the same when it goes
 * round once more. The first byte chooses the call. Any bytes as headers of a record show as valid
 * JSON too. */
#include "adapters/rest/view.h"
#include "core/base/check.h"
#include "core/log/batch.h"
#include "tests/fuzz/fuzz.h"

enum { OUT_MAX = 1 << 24 };

/* The message as the REST column shows it after it was stored; false when it is refused. */
static bool through(const json_t *message, bool ours, struct buf *shown)
{
    struct arena arena;
    struct publish publish = {0};
    struct err err;
    size_t size = 0;
    arena_init(&arena, 1 << 24);
    bool good = view_read(&arena, message, ours, &publish, &size, &err) == 0;
    if (good) {
        struct batch_builder builder;
        struct record record;
        batch_builder_init(&builder);
        struct record_input input = {
            .key = publish.key,
            .value = publish.body,
            .headers = publish.headers,
            .header_count = publish.header_count,
        };
        CHECK(batch_builder_add(&builder, &input) == STATUS_OK);
        struct batch *batch = batch_builder_seal(&builder);
        batch_record(batch, 0, &record);
        json_put(shown, "{");
        view_write(&record, false, shown);
        json_put(shown, "}");
        batch_unref(batch);
        batch_builder_deinit(&builder);
    }
    arena_deinit(&arena);
    return good;
}

static void show_raw(struct span bytes)
{
    struct record record = {.value = bytes,
                            .key = bytes,
                            .headers = bytes,
                            .header_count = bytes.size == 0 ? 0 : bytes.data[0]};
    struct buf shown;
    buf_init(&shown, OUT_MAX);
    json_put(&shown, "{");
    view_write(&record, true, &shown);
    json_put(&shown, "}");
    CHECK(json_is_value(buf_span(&shown)));
    buf_deinit(&shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    bool ours = (data[0] & 1) != 0;
    struct span bytes = span_of(data + 1, size - 1);
    show_raw(bytes);
    json_t *message = json_loadb((const char *)bytes.data, bytes.size, JSON_ALLOW_NUL, NULL);
    struct buf once, twice;
    buf_init(&once, OUT_MAX);
    buf_init(&twice, OUT_MAX);
    if (message != NULL && through(message, ours, &once)) {
        json_t *shown = json_loadb((const char *)once.data, once.size, JSON_ALLOW_NUL, NULL);
        CHECK(shown != NULL);
        if (through(shown, true, &twice)) {
            json_t *again = json_loadb((const char *)twice.data, twice.size, JSON_ALLOW_NUL, NULL);
            CHECK(again != NULL && json_equal(json_object_get(again, "attributes"),
                                              json_object_get(shown, "attributes")));
            json_decref(again);
        }
        json_decref(shown);
    }
    json_decref(message);
    buf_deinit(&once);
    buf_deinit(&twice);
    return 0;
}
