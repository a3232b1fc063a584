/* SPDX-License-Identifier: Apache-2.0 */
/* Stored descriptions of queues and groups, names, keys, and the text form of receipts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "core/base/heap.h"
#include "core/queue/group.h"

static struct queue *some_queue(const char *description)
{
    struct queue *queue = heap_new(sizeof *queue);
    *queue = (struct queue){
        .tenant = 1,
        .id = 77,
        .uuid = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9",
        .name = heap_text("orders.eu-1", 11),
        .description = description == NULL ? NULL : heap_text(description, strlen(description)),
        .type = QUEUE_STREAM,
        .durability = DURABLE_INTERVAL,
        .class = STORAGE_30_DAYS,
        .retention_ms = 259200000,
        .retention_bytes = UINT64_MAX,
        .first_partition = 1000,
        .partition_count = 4,
        .created_ms = 1700000000000,
        .redrive = true,
        .max_consume_count = 3,
        .overflow = OVERFLOW_REFUSE,
        .max_records = 1000000,
        .protect_bytes = 1ULL << 33,
        .dedup_ms = 600000,
        .lease_ms = 1800000,
        .stat = queue_stat_new(4),
    };
    atomic_init(&queue->refs, 1);
    return queue;
}

static void check_queue(const char *description)
{
    struct queue *queue = some_queue(description);
    struct buf row, again;
    buf_init(&row, 4096);
    buf_init(&again, 4096);
    assert_int_equal(queue_encode(queue, &row), STATUS_OK);
    struct queue *copy;
    assert_int_equal(queue_decode(buf_span(&row), &copy), STATUS_OK);
    assert_null(copy->stat);
    assert_string_equal(copy->uuid, queue->uuid);
    assert_string_equal(copy->name, queue->name);
    if (description == NULL)
        assert_null(copy->description);
    else
        assert_string_equal(copy->description, description);
    assert_int_equal(copy->id, 77);
    assert_int_equal(copy->type, QUEUE_STREAM);
    assert_int_equal(copy->durability, DURABLE_INTERVAL);
    assert_int_equal(copy->class, STORAGE_30_DAYS);
    assert_int_equal(copy->retention_bytes, UINT64_MAX);
    assert_int_equal(copy->partition_count, 4);
    assert_true(copy->redrive);
    assert_false(copy->built_in);
    assert_int_equal(copy->max_consume_count, 3);
    assert_int_equal(copy->overflow, OVERFLOW_REFUSE);
    assert_int_equal(copy->max_records, 1000000);
    assert_int_equal(copy->protect_bytes, 1ULL << 33);
    assert_int_equal(copy->dedup_ms, 600000);
    assert_int_equal(copy->lease_ms, 1800000);
    assert_int_equal(queue_encode(copy, &again), STATUS_OK);
    assert_true(span_equal(buf_span(&row), buf_span(&again)));

    /* No prefix and no longer row decodes; a newer version is told apart. */
    for (size_t size = 0; size < row.size; size++)
        assert_int_equal(queue_decode(span_of(row.data, size), &copy), STATUS_MALFORMED);
    /* Version 1 ended before what is 1 + 3 + 5 + 3 bytes here, and 3 of version 3. */
    struct queue *older;
    row.data[0] = 1;
    assert_int_equal(queue_decode(buf_span(&row), &older), STATUS_MALFORMED);
    assert_int_equal(queue_decode(span_of(row.data, row.size - 15), &older), STATUS_OK);
    assert_int_equal(older->max_consume_count, 3);
    assert_int_equal(older->overflow, OVERFLOW_DROP_OLDEST);
    assert_int_equal(older->dedup_ms, 0);
    assert_int_equal(older->lease_ms, 0);
    queue_unref(older);
    row.data[0] = 2;
    assert_int_equal(queue_decode(buf_span(&row), &older), STATUS_MALFORMED);
    assert_int_equal(queue_decode(span_of(row.data, row.size - 3), &older), STATUS_OK);
    assert_int_equal(older->dedup_ms, 600000);
    assert_int_equal(older->lease_ms, 0);
    queue_unref(older);
    row.data[0] = 3;
    assert_int_equal(buf_append(&row, "", 1), STATUS_OK);
    struct queue *none;
    assert_int_equal(queue_decode(buf_span(&row), &none), STATUS_MALFORMED);
    row.data[0] = 4;
    assert_int_equal(queue_decode(buf_span(&row), &none), STATUS_UNSUPPORTED);
    queue_unref(copy);
    struct queue *second = queue_ref(queue);
    queue_unref(queue);
    assert_string_equal(second->name, "orders.eu-1");
    queue_unref(second);
    queue_unref(NULL);
    buf_deinit(&row);
    buf_deinit(&again);
}

static void test_queue_rows(void **state)
{
    (void)state;
    check_queue(NULL);
    check_queue("");
    check_queue("All orders of the EU");
}

static void test_group_spec_rows(void **state)
{
    (void)state;
    struct group_spec *spec = heap_new(sizeof *spec);
    *spec = (struct group_spec){
        .tenant = 1,
        .queue = 77,
        .id = 1ULL << 40,
        .parent = 300,
        .uuid = "g-0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f9",
        .name = heap_text("billing", 7),
        .start = GROUP_LATEST,
        .mode = GROUP_BROADCAST,
        .counts = true,
        .created_ms = -1,
        .consumer_idle_ms = 300,
        .stat = group_stat_new(1),
    };
    struct err err;
    atomic_init(&spec->refs, 1);
    assert_int_equal(selector_compile(span_from_text("a = 1"), &spec->selector, &err), STATUS_OK);
    struct buf row;
    buf_init(&row, 4096);
    assert_int_equal(group_spec_encode(spec, &row), STATUS_OK);
    struct group_spec *copy;
    assert_int_equal(group_spec_decode(buf_span(&row), &copy), STATUS_OK);
    assert_string_equal(copy->uuid, spec->uuid);
    assert_string_equal(copy->name, "billing");
    assert_int_equal(copy->id, 1ULL << 40);
    assert_int_equal(copy->parent, 300);
    assert_int_equal(copy->start, GROUP_LATEST);
    assert_int_equal(copy->mode, GROUP_BROADCAST);
    assert_int_equal(copy->dead_partition, 0);
    assert_true(copy->counts);
    assert_int_equal(copy->created_ms, -1);
    assert_true(span_is(selector_text(copy->selector), "a = 1"));
    assert_int_equal(copy->consumer_idle_ms, 300);
    struct group_spec *none, *older;
    size_t whole = row.size;
    row.data[0] = 4; /* ended before how long consumers may stay away, which is two bytes */
    assert_int_equal(group_spec_decode(span_of(row.data, row.size - 2), &older), STATUS_OK);
    assert_int_equal(older->consumer_idle_ms, 0);
    group_spec_unref(older);
    row.size -= 8; /* before the selector, which is six bytes */
    row.data[0] = 1;
    assert_int_equal(group_spec_decode(span_of(row.data, row.size - 3), &older), STATUS_OK);
    assert_int_equal(older->mode, GROUP_SHARED);
    assert_int_equal(dead_partition_group(older->dead_partition), 1ULL << 40);
    group_spec_unref(older);
    row.data[0] = 2; /* ended before the parent, which is two bytes */
    assert_int_equal(group_spec_decode(span_of(row.data, row.size - 2), &older), STATUS_OK);
    assert_int_equal(older->mode, GROUP_BROADCAST);
    assert_int_equal(older->parent, 0);
    group_spec_unref(older);
    row.data[0] = 3;
    assert_int_equal(group_spec_decode(buf_span(&row), &older), STATUS_OK);
    assert_int_equal(older->parent, 300);
    assert_null(older->selector);
    group_spec_unref(older);
    row.size = whole;
    row.data[0] = 6;
    assert_int_equal(group_spec_decode(buf_span(&row), &none), STATUS_UNSUPPORTED);
    row.data[0] = 5;
    row.data[row.size - 3] = '='; /* a = = */
    assert_int_equal(group_spec_decode(buf_span(&row), &none), STATUS_MALFORMED);
    for (size_t size = 0; size < row.size; size++)
        assert_int_equal(group_spec_decode(span_of(row.data, size), &none), STATUS_MALFORMED);
    group_spec_unref(copy);
    group_spec_unref(spec);
    buf_deinit(&row);
}

static void test_queue_names_and_keys(void **state)
{
    (void)state;
    assert_true(queue_name_is_valid(span_from_text("a"), 64));
    assert_true(queue_name_is_valid(span_from_text("A-Z_0.9"), 64));
    assert_false(queue_name_is_valid(span_from_text(""), 64));
    assert_false(queue_name_is_valid(span_from_text("a/b"), 64));
    assert_false(queue_name_is_valid(span_from_text("\xc3\xa4"), 64));
    assert_false(queue_name_is_valid(span_from_text("abcd"), 3));
    assert_string_equal(queue_type_name(QUEUE_FIFO), "fifo");

    struct queue *queue = some_queue(NULL);
    unsigned hits[4] = {0};
    for (uint32_t i = 0; i < 4000; i++) {
        uint64_t partition = queue_partition_of_key(queue, span_of(&i, sizeof i));
        assert_in_range(partition, 1000, 1003);
        hits[partition - 1000]++;
    }
    for (int i = 0; i < 4; i++)
        assert_in_range(hits[i], 800, 1200);
    queue_unref(queue);
}

static void test_receipts(void **state)
{
    (void)state;
    struct receipt receipt = {
        .group = 1, .partition = 2, .offset = UINT64_MAX, .delivery = 4, .epoch = UINT32_MAX};
    char text[RECEIPT_TEXT_SIZE];
    receipt_format(&receipt, text);
    assert_int_equal(strlen(text), RECEIPT_TEXT_SIZE - 1);
    struct receipt back;
    assert_true(receipt_parse(span_from_text(text), &back));
    assert_int_equal(back.group, 1);
    assert_int_equal(back.partition, 2);
    assert_int_equal(back.offset, UINT64_MAX);
    assert_int_equal(back.delivery, 4);
    assert_int_equal(back.epoch, UINT32_MAX);

    for (size_t i = 0; i < RECEIPT_TEXT_SIZE - 1; i++) {
        char old = text[i];
        for (int c = 1; c < 256; c++) {
            text[i] = (char)c;
            assert_int_equal(receipt_parse(span_of(text, RECEIPT_TEXT_SIZE - 1), &back),
                             (char)c == old);
        }
        text[i] = old;
        assert_false(receipt_parse(span_of(text, i), &back));
    }
}

static void *hold_and_leave(void *queue)
{
    for (int i = 0; i < 1000; i++)
        queue_unref(queue_ref(queue));
    return NULL;
}

/* A description is copied while others take and give back references of it: with TSan. */
static void test_queue_copies_beside_references(void **state)
{
    (void)state;
    struct queue *queue = some_queue("text");
    atomic_init(&queue->refs, 1);
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, hold_and_leave, queue), 0);
    for (int i = 0; i < 1000; i++) {
        struct queue *copy = queue_copy(queue);
        assert_int_equal(atomic_load(&copy->refs), 1);
        assert_int_equal(copy->partition_count, queue->partition_count);
        assert_string_equal(copy->name, queue->name);
        queue_unref(copy);
    }
    pthread_join(other, NULL);
    assert_int_equal(atomic_load(&queue->refs), 1);
    queue_unref(queue);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_queue_rows),
        cmocka_unit_test(test_group_spec_rows),
        cmocka_unit_test(test_queue_names_and_keys),
        cmocka_unit_test(test_receipts),
        cmocka_unit_test(test_queue_copies_beside_references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
