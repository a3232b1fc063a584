/* SPDX-License-Identifier: Apache-2.0 */
/* A position that some client sends back: valid or not, and each place of a valid one is found. */
#include "core/base/check.h"
#include "core/broker/follow_position.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct follow_position position, rest;
    struct span text = span_of(data, size);
    uint64_t next;
    enum status status = follow_position_read(text, &position);
    CHECK(status == STATUS_OK || status == STATUS_INVALID || status == STATUS_TOO_LARGE);
    if (status != STATUS_OK)
        return 0;
    CHECK(size >= 3 && position.count > 0 && position.count <= size / 3 + 1);
    for (uint32_t i = 0; i < position.count; i++) {
        const struct follow_mark *mark = &position.marks[i];
        CHECK(i == 0 || mark->partition > position.marks[i - 1].partition);
        CHECK(follow_position_find(&position, mark->partition, &next) && next == mark->next);
    }
    /* Of two for one partition the first counts, and what goes on from it is as valid. */
    const uint8_t *joint = memchr(data, '_', size);
    if (joint != NULL) {
        text = span_from(text, (size_t)(joint - data) + 1);
        CHECK(follow_position_read(text, &rest) == STATUS_OK);
        for (uint32_t i = 0; i < rest.count; i++)
            CHECK(follow_position_find(&position, rest.marks[i].partition, &next));
    }
    return 0;
}
