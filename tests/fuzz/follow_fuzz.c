/* SPDX-License-Identifier: Apache-2.0 */
/* A position that some client sends back: valid or not, and each place of a valid one is found. */
#include "core/base/check.h"
#include "core/broker/follow_position.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span text = span_of(data, size);
    uint64_t next, again;
    if (!follow_position_is_valid(text))
        return 0;
    CHECK(size >= 3);
    unsigned found = 0;
    for (uint64_t partition = 0; partition < 16; partition++)
        found += follow_position_find(text, partition, &next);
    CHECK(found <= size);
    /* Of two for one partition the first counts, and what goes on from it is as valid. */
    const uint8_t *joint = memchr(data, '_', size);
    if (joint != NULL) {
        struct span rest = span_from(text, (size_t)(joint - data) + 1);
        CHECK(follow_position_is_valid(rest));
        if (follow_position_find(rest, 1, &again))
            CHECK(follow_position_find(text, 1, &next));
    }
    return 0;
}
