/* SPDX-License-Identifier: Apache-2.0 */
/* One allocation holds the count and the bytes. */
#include "core/base/blob.h"

#include "core/base/check.h"
#include "core/base/heap.h"

static struct blob *blob_begin(struct blob *blob, size_t size)
{
    atomic_init(&blob->refs, 1);
    blob->size = (uint32_t)size;
    return blob;
}

struct blob *blob_new(size_t size)
{
    CHECK(size <= UINT32_MAX);
    return blob_begin(heap_resize(NULL, sizeof(struct blob) + size), size);
}

struct blob *blob_try(size_t size)
{
    if (size > UINT32_MAX)
        return NULL;
    struct blob *blob = heap_try(sizeof *blob + size);
    return blob != NULL ? blob_begin(blob, size) : NULL;
}

struct blob *blob_copy(struct span bytes)
{
    struct blob *blob = blob_new(bytes.size);
    if (bytes.size != 0)
        memcpy(blob->bytes, bytes.data, bytes.size);
    return blob;
}

struct blob *blob_ref(struct blob *blob)
{
    atomic_fetch_add_explicit(&blob->refs, 1, memory_order_relaxed);
    return blob;
}

/* Acquire and release: whoever frees must see what the other holders did before they let go. */
void blob_unref(struct blob *blob)
{
    if (blob == NULL)
        return;
    unsigned before = atomic_fetch_sub_explicit(&blob->refs, 1, memory_order_acq_rel);
    CHECK(before != 0);
    if (before == 1)
        heap_free(blob);
}
