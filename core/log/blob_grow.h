/* SPDX-License-Identifier: Apache-2.0 */
/* A blob that is still being filled by its only holder may grow and shrink in place. Internal to
 * core/log. */
#ifndef CORE_LOG_BLOB_GROW_H
#define CORE_LOG_BLOB_GROW_H

#include "core/base/blob.h"
#include "core/base/heap.h"

/* NULL when refused; the old blob is kept then. */
static inline struct blob *blob_try_resize(struct blob *blob, size_t size)
{
    if (size > UINT32_MAX)
        return NULL;
    struct blob *resized = heap_try_resize(blob, sizeof *blob + size);
    if (resized != NULL)
        resized->size = (uint32_t)size;
    return resized;
}

#endif
