/* SPDX-License-Identifier: Apache-2.0 */
/* The first line is a filter, the second a topic, the rest a stored value and, once more, a key:
 * the filter must pass the topic's key when they match, any key must lead forward, and a value that
 * opens has one record. */
#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/broker/retained_row.h"
#include "core/broker/topic.h"
#include "core/log/table.h"
#include "tests/fuzz/fuzz.h"

enum { TENANT = 1, HEAD = 9 };

static struct span take_line(struct span *input)
{
    const uint8_t *end = input->size == 0 ? NULL : memchr(input->data, '\n', input->size);
    size_t size = end == NULL ? input->size : (size_t)(end - input->data);
    struct span line = span_of(input->data, size);
    *input = end == NULL ? span_of(NULL, 0) : span_from(*input, size + 1);
    return line;
}

static bool is_after(struct span a, struct span b)
{
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order > 0 || (order == 0 && a.size > b.size);
}

static void check_filter(struct span text, struct span topic, struct span bytes)
{
    struct retained_filter filter;
    struct retained_place first, end, next;
    retained_filter_init(&filter, TENANT, text, &first, &end);
    CHECK(is_after(retained_place_span(&end), retained_place_span(&first)));
    if (topic_name_is_valid(topic) && topic_matches(text, topic)) {
        uint8_t key[RETAINED_KEY_MAX];
        struct span own = span_of(key, retained_key(TENANT, topic, key));
        CHECK(retained_filter_passes(&filter, own, &next));
        CHECK(!is_after(retained_place_span(&first), own));
        CHECK(is_after(retained_place_span(&end), own));
        CHECK(is_after(retained_place_span(&next), own));
    }
    if (bytes.size >= HEAD && bytes.data[0] == TABLE_RETAINED) {
        retained_filter_passes(&filter, bytes, &next);
        CHECK(is_after(retained_place_span(&next), bytes));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hash_init();
    struct span rest = span_of(data, size);
    struct span filter = take_line(&rest), topic = take_line(&rest);
    if (topic_filter_is_valid(filter))
        check_filter(filter, topic, rest);
    struct batch *batch;
    if (retained_value_open(rest, &batch) == STATUS_OK) {
        CHECK(batch->record_count == 1 && batch_find(batch, batch->base_offset) == 0);
        struct record record;
        batch_record(batch, 0, &record);
        batch_unref(batch);
    }
    return 0;
}
