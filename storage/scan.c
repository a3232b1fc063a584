/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the packed rows of a finished scan. */
#include "storage/storage.h"

#include "core/base/check.h"
#include "core/base/pack.h"

bool storage_scan_next(const struct storage_scan *scan, size_t *position, struct span *key,
                       struct span *value)
{
    if (scan->rows == NULL || *position >= scan->rows->size)
        return false;
    const uint8_t *at = scan->rows->bytes + *position;
    size_t key_size = load_u32(at), value_size = load_u32(at + 4);
    *key = span_of(at + 8, key_size);
    *value = span_of(at + 8 + key_size, value_size);
    *position += 8 + key_size + value_size;
    CHECK(*position <= scan->rows->size);
    return true;
}
