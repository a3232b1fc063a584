/* SPDX-License-Identifier: Apache-2.0 */
/* malloc with two answers to "none left": abort for what we size, NULL for what a peer sizes. */
#include "core/base/heap.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"

static atomic_uint fail_after;

void heap_fail_after(unsigned n)
{
    atomic_store_explicit(&fail_after, n, memory_order_relaxed);
}

static int heap_refuses(void)
{
    if (__builtin_expect(atomic_load_explicit(&fail_after, memory_order_relaxed) == 0, 1))
        return 0;
    return atomic_fetch_sub_explicit(&fail_after, 1, memory_order_relaxed) == 1;
}

/* malloc(0) may answer NULL, which would look like a refusal. */
static size_t at_least_one(size_t size)
{
    return size != 0 ? size : 1;
}

void *heap_new(size_t size)
{
    return heap_array(1, at_least_one(size));
}

void *heap_array(size_t count, size_t size)
{
    void *memory = calloc(at_least_one(count), at_least_one(size));
    CHECK(memory != NULL);
    return memory;
}

void *heap_resize(void *old, size_t size)
{
    void *memory = realloc(old, at_least_one(size));
    CHECK(memory != NULL);
    return memory;
}

char *heap_text(const char *text, size_t size)
{
    CHECK(size < SIZE_MAX);
    char *copy = heap_resize(NULL, size + 1);
    if (size != 0)
        memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

void *heap_try(size_t size)
{
    return heap_refuses() ? NULL : malloc(at_least_one(size));
}

void *heap_try_resize(void *old, size_t size)
{
    return heap_refuses() ? NULL : realloc(old, at_least_one(size));
}

void heap_free(void *memory)
{
    free(memory);
}
