/* SPDX-License-Identifier: Apache-2.0 */
/* Any text as a selector: it compiles or says where and why not, and what compiles is evaluated on
 * a fixed set of records within its bounds. */
#include <stdio.h>
#include <string.h>

#include "core/base/check.h"
#include "core/log/batch.h"
#include "core/log/types.h"
#include "core/queue/selector.h"
#include "tests/fuzz/fuzz.h"

static struct header header_of(const char *name, const char *value)
{
    return (struct header){span_from_text(name), span_from_text(value)};
}

static struct batch *records(void)
{
    static const char types[] = "\x71\0\1c" /* int c */
                                "\x56\0\1d" /* boolean d */
                                "\xa0\xff"; /* cut short */
    static char long_text[65536];
    memset(long_text, 'a', sizeof long_text - 1);
    struct header headers[] = {
        header_of("a", "5"),
        header_of("b", "text"),
        header_of("c", "17"),
        header_of("d", "true"),
        header_of("e", long_text),
        header_of("content-type", "\xc3\xa9\xff"),
        header_of("a", "again"),
        header_of("priority", "9"),
        {span_from_text("null"), {0}},
        {span_from_text(HEADER_TYPES), span_of(types, sizeof types - 1)},
    };
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (unsigned i = 0; i <= sizeof headers / sizeof headers[0]; i++) {
        struct record_input input = {.attributes = (uint8_t)(i & 3),
                                     .timestamp_ms = i,
                                     .key = i == 3 ? span_from_text("key") : (struct span){0},
                                     .headers = headers,
                                     .header_count = i};
        CHECK(batch_builder_add(&builder, &input) == STATUS_OK);
    }
    struct batch *batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    return batch;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct batch *batch;
    if (batch == NULL)
        batch = records();
    struct selector *selector = NULL;
    struct err err = {""};
    enum status status = selector_compile(span_of(data, size), &selector, &err);
    if (status != STATUS_OK) {
        unsigned position;
        CHECK(status == STATUS_INVALID && selector == NULL);
        CHECK(sscanf(err.text, "at %u: ", &position) == 1);
        CHECK(position >= 1 && position <= size + 1);
        return 0;
    }
    CHECK(span_equal(selector_text(selector), span_of(data, size)));
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        bool first = selector_matches(selector, &record);
        CHECK(selector_matches(selector, &record) == first);
    }
    selector_unref(selector);
    return 0;
}
