/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes as the stored rows of a queue and of a group: what decodes keeps its row from
 * then on. */
#include "core/base/check.h"
#include "core/queue/queue.h"
#include "tests/fuzz/fuzz.h"

enum { ROW_LIMIT = 1 << 20 };

static void try_queue(struct span row)
{
    struct queue *queue, *again;
    if (queue_decode(row, &queue) != STATUS_OK)
        return;
    struct buf once, twice;
    buf_init(&once, ROW_LIMIT);
    buf_init(&twice, ROW_LIMIT);
    CHECK(queue_encode(queue, &once) == STATUS_OK);
    CHECK(queue_decode(buf_span(&once), &again) == STATUS_OK);
    CHECK(queue_encode(again, &twice) == STATUS_OK);
    CHECK(span_equal(buf_span(&once), buf_span(&twice)));
    queue_unref(queue);
    queue_unref(again);
    buf_deinit(&once);
    buf_deinit(&twice);
}

static void try_group(struct span row)
{
    struct group_spec *group, *again;
    if (group_spec_decode(row, &group) != STATUS_OK)
        return;
    struct buf once, twice;
    buf_init(&once, ROW_LIMIT);
    buf_init(&twice, ROW_LIMIT);
    CHECK(group_spec_encode(group, &once) == STATUS_OK);
    CHECK(group_spec_decode(buf_span(&once), &again) == STATUS_OK);
    CHECK(group_spec_encode(again, &twice) == STATUS_OK);
    CHECK(span_equal(buf_span(&once), buf_span(&twice)));
    group_spec_unref(group);
    group_spec_unref(again);
    buf_deinit(&once);
    buf_deinit(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_queue(span_of(data, size));
    try_group(span_of(data, size));
    return 0;
}
