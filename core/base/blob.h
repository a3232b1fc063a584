/* SPDX-License-Identifier: Apache-2.0 */
/* Shared bytes: reference counted across threads, immutable once a second holder exists. */
#ifndef CORE_BASE_BLOB_H
#define CORE_BASE_BLOB_H

#include <stdatomic.h>

#include "core/base/span.h"

struct blob {
    atomic_uint refs;
    uint32_t size;
    uint8_t bytes[];
};

struct blob *blob_new(size_t size); /* one reference; bytes not zeroed; aborts on OOM */
struct blob *blob_try(size_t size); /* for sizes a peer chose: NULL when refused */
struct blob *blob_copy(struct span bytes);
struct blob *blob_ref(struct blob *blob); /* any thread; returns blob */
void blob_unref(struct blob *blob);       /* any thread; NULL is fine */

static inline struct span blob_span(const struct blob *blob)
{
    return span_of(blob->bytes, blob->size);
}

#endif
