/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes as each kind of packed records (the first byte says which), within a bound. */
#include "core/base/check.h"
#include "core/log/compress.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { MAX = 1 << 20 };
    if (size == 0)
        return 0;
    enum batch_compression compression = (enum batch_compression)(BATCH_GZIP + data[0] % 4);
    struct blob *output = NULL;
    if (decompress(compression, span_of(data + 1, size - 1), MAX, &output) == STATUS_OK) {
        CHECK(output->size <= MAX);
        blob_unref(output);
    }
    return 0;
}
