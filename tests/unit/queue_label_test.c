/* SPDX-License-Identifier: Apache-2.0 */
/* Labels: what matches, what a batch's footer lets a reader pass over, and that it survives storage
 * and shows in the tail. */
/* links: queue storage_memory net_uv */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/log/log.h"
#include "core/queue/label.h"
#include "storage/envelope.h"
#include "storage/memory/memory.h"

static struct label_filter filter_of(bool all, const char *first, const char *second)
{
    struct label_filter filter = {.all = all};
    if (first != NULL)
        filter.labels[filter.count++] = span_from_text(first);
    if (second != NULL)
        filter.labels[filter.count++] = span_from_text(second);
    return filter;
}

/* One record; its labels (NULL: no such header) stand in the second run of headers. */
static void add_record(struct batch_builder *builder, const char *labels)
{
    struct header noise[] = {{span_from_text("labels2"), span_from_text("noise")},
                             {span_from_text("Labels"), span_from_text("noise")}};
    struct header header = {span_from_text(HEADER_LABELS), {0}};
    if (labels != NULL)
        header.value = span_from_text(labels);
    struct record_input input = {
        .headers = noise, .header_count = 2, .more_headers = &header, .more_count = labels != NULL};
    assert_int_equal(batch_builder_add(builder, &input), STATUS_OK);
}

static struct batch *batch_of(const char *const *labels, uint32_t count)
{
    struct batch_builder builder;
    batch_builder_init(&builder);
    for (uint32_t i = 0; i < count; i++)
        add_record(&builder, labels[i]);
    struct batch *batch = batch_builder_seal(&builder);
    batch_builder_deinit(&builder);
    return batch;
}

static bool any_matches(const struct label_filter *filter, const struct batch *batch)
{
    bool found = false;
    for (uint32_t i = 0; i < batch->record_count; i++) {
        struct record record;
        batch_record(batch, i, &record);
        found |= label_matches(filter, &record);
    }
    return found;
}

static void valid_labels(void **state)
{
    (void)state;
    char longest[LABEL_SIZE_MAX + 2];
    memset(longest, 'x', sizeof longest);
    assert_true(label_is_valid(span_from_text("aZ09-_.")));
    assert_true(label_is_valid(span_of(longest, LABEL_SIZE_MAX)));
    assert_false(label_is_valid(span_of(longest, LABEL_SIZE_MAX + 1)));
    assert_false(label_is_valid(span_from_text("")));
    for (unsigned byte = 0; byte < 256; byte++) {
        uint8_t one = (uint8_t)byte;
        bool wanted =
            byte != 0 && strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.",
                                one) != NULL;
        assert_int_equal(label_is_valid(span_of(&one, 1)), wanted);
    }
}

static void records_match(void **state)
{
    (void)state;
    static const struct {
        const char *labels;
        bool none, a, a_or_b, a_and_b, a_and_a;
    } table[] = {
        {NULL, true, false, false, false, false}, {"", true, false, false, false, false},
        {"a", true, true, true, false, true},     {"b", true, false, true, false, false},
        {"a,b", true, true, true, true, true},    {"x,b,a", true, true, true, true, true},
        {"ab", true, false, false, false, false}, {"a b", true, false, false, false, false},
        {",,a", true, true, true, false, true},   {"A", true, false, false, false, false},
        {",", true, false, false, false, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct batch *batch = batch_of(&table[i].labels, 1);
        const struct {
            struct label_filter filter;
            bool wanted;
        } cases[] = {
            {filter_of(false, NULL, NULL), table[i].none},
            {filter_of(true, NULL, NULL), table[i].none},
            {filter_of(false, "a", NULL), table[i].a},
            {filter_of(true, "a", NULL), table[i].a},
            {filter_of(false, "a", "b"), table[i].a_or_b},
            {filter_of(true, "a", "b"), table[i].a_and_b},
            {filter_of(true, "a", "a"), table[i].a_and_a},
        };
        for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
            assert_int_equal(any_matches(&cases[k].filter, batch), cases[k].wanted);
            /* A batch of one record tells as much as its record. */
            assert_int_equal(label_footer_may_match(&cases[k].filter, batch), cases[k].wanted);
        }
        batch_unref(batch);
    }
}

static void labels_of_several_headers_count(void **state)
{
    (void)state;
    struct batch_builder builder;
    struct header headers[] = {{span_from_text(HEADER_LABELS), span_from_text("a")},
                               {span_from_text(HEADER_LABELS), span_from_text("b")}};
    struct record_input input = {.headers = headers, .header_count = 2};
    batch_builder_init(&builder);
    assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
    struct batch *batch = batch_builder_seal(&builder);
    struct label_filter both = filter_of(true, "a", "b");
    assert_true(any_matches(&both, batch));
    assert_true(label_footer_may_match(&both, batch));
    batch_unref(batch);
    batch_builder_deinit(&builder);
}

static void filters_are_compared(void **state)
{
    (void)state;
    struct label_filter none = filter_of(false, NULL, NULL), a = filter_of(false, "a", NULL);
    struct label_filter ab = filter_of(false, "a", "b"), ba = filter_of(false, "b", "a");
    struct label_filter all_ab = filter_of(true, "a", "b"), all_a = filter_of(true, "a", NULL);
    struct label_filter none_all = filter_of(true, NULL, NULL), aa = filter_of(false, "a", "a");
    assert_true(label_filter_equal(&none, &none_all));
    assert_true(label_filter_equal(&ab, &ba));
    assert_true(label_filter_equal(&a, &all_a));
    assert_true(label_filter_equal(&a, &aa));
    assert_false(label_filter_equal(&none, &a));
    assert_false(label_filter_equal(&a, &none));
    assert_false(label_filter_equal(&a, &ab));
    assert_false(label_filter_equal(&ab, &a));
    assert_false(label_filter_equal(&ab, &all_ab));
}

/* Stored data depends on all of this. */
static void the_footer_has_its_form(void **state)
{
    (void)state;
    static const char *const labels[] = {"red,blue", NULL, "red", "green"};
    struct batch *batch = batch_of(labels, 4);
    const uint8_t *at = batch->footer.data;
    assert_int_equal(batch->footer.size, FOOTER_HEAD_SIZE + 3 * 4);
    assert_ptr_equal(at, batch->bytes->bytes + batch->bytes->size);
    assert_int_equal(at[0], 1);
    assert_int_equal(at[1], 3);
    uint32_t hashes[] = {load_u32(at + 2), load_u32(at + 6), load_u32(at + 10)};
    assert_true(hashes[0] < hashes[1] && hashes[1] < hashes[2]);
    const char *texts[] = {"red", "green", "blue"};
    for (unsigned i = 0; i < 3; i++) {
        uint32_t hash = label_hash(span_from_text(texts[i]));
        assert_true(hash == hashes[0] || hash == hashes[1] || hash == hashes[2]);
    }
    assert_int_equal(label_hash(span_from_text("red")), 0x31e10a8d);
    assert_false(batch->unlabelled);
    batch_unref(batch);

    static const char *const no_labels[] = {NULL, ""};
    batch = batch_of(no_labels, 2);
    assert_int_equal(batch->footer.size, 0);
    assert_true(batch->unlabelled);
    batch_unref(batch);
}

static void foreign_footers_say_nothing(void **state)
{
    (void)state;
    static const uint8_t newer[] = {2, 1, 0, 0, 0, 0}, cut[] = {1, 2, 0, 0, 0, 0}, tiny[] = {1};
    static const uint8_t empty[] = {1, 0};
    assert_true(footer_may_have((struct span){0}, 5));
    assert_true(footer_may_have(span_of(newer, sizeof newer), 5));
    assert_true(footer_may_have(span_of(cut, sizeof cut), 5));
    assert_true(footer_may_have(span_of(tiny, sizeof tiny), 5));
    assert_false(footer_may_have(span_of(empty, sizeof empty), 5));
}

/* Up to the limit of a list everything is found and nothing else; above it, anything may be. */
static void many_labels(void **state)
{
    (void)state;
    for (unsigned count = FOOTER_LABELS_MAX - 1; count <= FOOTER_LABELS_MAX + 1; count++) {
        struct batch_builder builder;
        batch_builder_init(&builder);
        for (unsigned round = 0; round < 2; round++) { /* the second finds the builder used */
            char text[16];
            for (unsigned i = 0; i < 2 * count; i++) {
                snprintf(text, sizeof text, "l%u", i % count);
                add_record(&builder, text);
            }
            struct batch *batch = batch_builder_seal(&builder);
            bool listed = count <= FOOTER_LABELS_MAX;
            assert_int_equal(batch->footer.size, listed ? FOOTER_HEAD_SIZE + 4 * count : 0);
            assert_false(batch->unlabelled);
            for (unsigned i = 0; i < count + 50; i++) {
                snprintf(text, sizeof text, "l%u", i);
                struct label_filter filter = filter_of(false, text, NULL);
                assert_int_equal(label_footer_may_match(&filter, batch), i < count || !listed);
            }
            batch_unref(batch);
        }
        add_record(&builder, NULL);
        struct batch *batch = batch_builder_seal(&builder);
        assert_true(batch->unlabelled);
        batch_unref(batch);
        batch_builder_deinit(&builder);
    }
}

static void no_memory_for_a_footer(void **state)
{
    (void)state;
    /* Records until one nearly fills what the builder has: the footer needs the blob to grow. */
    unsigned without = 0;
    for (unsigned size = 1; size < 600; size++) {
        static uint8_t value[600];
        struct header header = {span_from_text(HEADER_LABELS), span_from_text("a,b,c")};
        struct record_input input = {
            .value = span_of(value, size), .headers = &header, .header_count = 1};
        struct batch_builder builder;
        batch_builder_init(&builder);
        assert_int_equal(batch_builder_add(&builder, &input), STATUS_OK);
        heap_fail_after(2); /* the batch comes first, then the blob */
        struct batch *batch = batch_builder_seal(&builder);
        heap_fail_after(0);
        struct label_filter a = filter_of(false, "a", NULL), x = filter_of(false, "x", NULL);
        assert_true(label_footer_may_match(&a, batch));
        assert_int_equal(label_footer_may_match(&x, batch), batch->footer.size == 0);
        without += batch->footer.size == 0;
        struct batch *opened;
        assert_int_equal(batch_open(batch->bytes, 0, &opened), STATUS_OK);
        batch_unref(opened);
        batch_unref(batch);
        batch_builder_deinit(&builder);
    }
    assert_in_range(without, 1, 598);
}

/* Through the log */

enum { PARTITION = 3 };

static struct {
    struct storage *storage;
    struct loop *loop;
    struct log *log;
    struct log_worker *worker;
    struct partition_stat stat;
} rig;

static void end(struct request *request, enum status status)
{
    (void)request;
    assert_int_equal(status, STATUS_OK);
    loop_stop(rig.loop);
}

static void log_open(void)
{
    static const struct partition_spec spec = {.id = PARTITION, .class = STORAGE_3_DAYS};
    rig.log = log_new(rig.storage, 1);
    rig.worker = log_worker_new(rig.log, 0, rig.loop, NULL, NULL);
    log_partition_open(rig.worker, &spec, &rig.stat);
}

static void log_close(void)
{
    log_worker_free(rig.worker);
    log_free(rig.log);
}

static struct batch *append(const char *labels)
{
    struct log_append append = {.partition = PARTITION, .batch = batch_of(&labels, 1)};
    request_init(&append.request, rig.loop, end);
    log_append(rig.worker, &append);
    loop_run(rig.loop);
    return append.batch;
}

static void expect_batches(void)
{
    struct log_read read = {.partition = PARTITION};
    struct label_filter red = filter_of(false, "red", NULL);
    request_init(&read.request, rig.loop, end);
    log_read(rig.worker, &read);
    loop_run(rig.loop);
    assert_int_equal(read.count, 3);
    for (uint32_t i = 0; i < read.count; i++) {
        assert_int_equal(label_footer_may_match(&red, read.batches[i]), i == 1);
        assert_int_equal(read.batches[i]->unlabelled, i == 0);
        assert_int_equal(read.batches[i]->footer.size > 0, i > 0);
        batch_unref(read.batches[i]);
    }
}

static void footers_survive_storage(void **state)
{
    (void)state;
    struct storage_options options = {0};
    assert_int_equal(memory_storage_ops.open(&options, &rig.storage, NULL), STATUS_OK);
    rig.loop = loop_new();
    log_open();
    struct batch *batches[] = {append(NULL), append("red,blue"), append("green")};
    uint64_t bytes = 0;
    for (unsigned i = 0; i < 3; i++)
        bytes += (uint64_t)ENVELOPE_SIZE + batches[i]->bytes->size + batches[i]->footer.size;
    assert_int_equal(batches[2]->cumulative_bytes, bytes);
    expect_batches(); /* the tail's */
    log_close();
    log_open(); /* without a tail */
    expect_batches();
    assert_int_equal(atomic_load(&rig.stat.end), 3);
    log_close();
    for (unsigned i = 0; i < 3; i++)
        batch_unref(batches[i]);
    loop_free(rig.loop);
    rig.storage->ops->close(rig.storage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_labels),
        cmocka_unit_test(records_match),
        cmocka_unit_test(labels_of_several_headers_count),
        cmocka_unit_test(filters_are_compared),
        cmocka_unit_test(the_footer_has_its_form),
        cmocka_unit_test(foreign_footers_say_nothing),
        cmocka_unit_test(many_labels),
        cmocka_unit_test(no_memory_for_a_footer),
        cmocka_unit_test(footers_survive_storage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
