/* SPDX-License-Identifier: Apache-2.0 */
/* heap, buf, arena and blob: growth, limits, and refusal on demand. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/arena.h"
#include "core/base/blob.h"
#include "core/base/buf.h"
#include "core/base/heap.h"

static void heap_fails_once_when_asked(void **state)
{
    (void)state;
    heap_fail_after(2);
    void *first = heap_try(10);
    assert_non_null(first);
    assert_null(heap_try_resize(first, 20));
    void *second = heap_try_resize(first, 20);
    assert_non_null(second);
    heap_free(second);
    heap_free(heap_new(0));
    char *text = heap_text("abcdef", 3);
    assert_string_equal(text, "abc");
    heap_free(text);
}

static void buf_grows_to_its_limit(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1000);
    assert_null(buf.data);
    for (int i = 0; i < 100; i++)
        assert_int_equal(buf_append(&buf, "0123456789", 10), STATUS_OK);
    assert_int_equal(buf.size, 1000);
    assert_int_equal(buf.capacity, 1000);
    assert_int_equal(buf_append(&buf, "x", 1), STATUS_TOO_LARGE);
    assert_int_equal(buf_reserve(&buf, SIZE_MAX), STATUS_TOO_LARGE);
    buf_consume(&buf, 995);
    assert_true(span_is(buf_span(&buf), "56789"));
    assert_int_equal(buf_append(&buf, NULL, 0), STATUS_OK);
    buf_clear(&buf);
    heap_fail_after(1);
    assert_int_equal(buf_append_text(&buf, "fits"), STATUS_OK);
    buf_deinit(&buf);
    assert_int_equal(buf_append_text(&buf, "refused"), STATUS_NO_MEMORY);
    assert_int_equal(buf.limit, 1000);
    buf_deinit(&buf);
}

static void buf_printf_fills_the_limit_exactly(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 600);
    assert_int_equal(buf_printf(&buf, "%0100d", 7), STATUS_OK);
    assert_int_equal(buf_printf(&buf, "%0500d", 8), STATUS_OK);
    assert_int_equal(buf.size, 600);
    assert_int_equal(buf.data[599], '8');
    assert_int_equal(buf_printf(&buf, "%d", 1), STATUS_TOO_LARGE);
    buf_deinit(&buf);
}

static void arena_hands_out_zeroed_aligned_memory(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1 << 20);
    for (size_t size = 0; size < 300; size++) {
        uint8_t *memory = arena_alloc(&arena, size);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 16, 0);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(memory[i], 0);
        memset(memory, 0xff, size);
    }
    assert_string_equal(arena_text(&arena, "hello", 4), "hell");
    size_t used = arena.used;
    assert_non_null(arena_alloc(&arena, 200000));
    assert_string_equal(arena_text(&arena, "still bumping", 13), "still bumping");
    assert_int_equal(arena.used, used + 200000 + 14);
    assert_null(arena_alloc(&arena, 1 << 20));
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_null(arena_text(&arena, "", SIZE_MAX));
    arena_reset(&arena);
    assert_int_equal(arena.used, 0);
    uint8_t *again = arena_alloc(&arena, 100);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(again[i], 0);
    heap_fail_after(1);
    assert_null(arena_alloc(&arena, 500000));
    arena_deinit(&arena);
    assert_non_null(arena_alloc(&arena, 100000));
    arena_reset(&arena);
    assert_null(arena.chunks);
    arena_deinit(&arena);
}

static void *ref_and_unref(void *argument)
{
    for (int i = 0; i < 1000; i++)
        blob_unref(blob_ref(argument));
    blob_unref(argument);
    return NULL;
}

static void blob_is_shared_by_threads(void **state)
{
    (void)state;
    struct blob *blob = blob_copy(span_from_text("shared"));
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, ref_and_unref, blob_ref(blob));
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    assert_true(span_is(blob_span(blob), "shared"));
    blob_unref(blob);
    blob_unref(NULL);
    assert_null(blob_try((size_t)UINT32_MAX + 1));
    heap_fail_after(1);
    assert_null(blob_try(10));
    blob_unref(blob_try(10));
    blob_unref(blob_new(0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heap_fails_once_when_asked),
        cmocka_unit_test(buf_grows_to_its_limit),
        cmocka_unit_test(buf_printf_fills_the_limit_exactly),
        cmocka_unit_test(arena_hands_out_zeroed_aligned_memory),
        cmocka_unit_test(blob_is_shared_by_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
