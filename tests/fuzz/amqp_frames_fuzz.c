/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of AMQP frames that comes byte by byte is judged as the same stream at once: the same
 * verdict at the same place, the same attaches, the same transfers that are resumed. */
#include "adapters/amqp/attach.h"
#include "adapters/amqp/frames.h"
#include "core/base/check.h"
#include "tests/fuzz/fuzz.h"

enum { FRAME_MAX = 1024 };

struct outcome {
    enum amqp_verdict verdict;
    size_t passed;
    uint32_t attached;        /* of all attaches' bytes */
    uint32_t resumed;         /* of where such transfers end */
    struct amqp_default said; /* by the last one */
};

static struct outcome judge(struct span bytes, size_t piece)
{
    struct outcome outcome = {.verdict = AMQP_GOOD};
    struct amqp_frames frames;
    size_t shown = 0;
    amqp_frames_init(&frames, FRAME_MAX);
    while (outcome.passed < bytes.size && frames.verdict == AMQP_GOOD) {
        struct span next = span_of(bytes.data + outcome.passed, shown - outcome.passed);
        size_t passed = next.size == 0 ? 0 : amqp_frames_pass(&frames, next);
        CHECK(passed <= next.size && frames.attach.size <= FRAME_MAX);
        outcome.passed += passed;
        for (size_t i = 0; i < frames.attach.size && frames.left == 0; i++)
            outcome.attached = outcome.attached * 31 + frames.attach.data[i];
        if (frames.left == 0 && frames.attach.size > 0)
            outcome.said = amqp_default_read(buf_span(&frames.attach));
        if (passed > 0 && frames.left == 0 && frames.is_resumed)
            outcome.resumed = outcome.resumed * 31 + (uint32_t)outcome.passed;
        if (frames.left == 0)
            buf_clear(&frames.attach);
        if (passed == 0 && shown == bytes.size)
            break;
        if (passed == 0)
            shown = bytes.size - shown < piece ? bytes.size : shown + piece;
    }
    outcome.verdict = frames.verdict;
    amqp_frames_deinit(&frames);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole = judge(span_of(data, size), size), cut = judge(span_of(data, size), 1);
    CHECK(whole.verdict == cut.verdict && whole.passed == cut.passed);
    CHECK(whole.attached == cut.attached && whole.resumed == cut.resumed);
    CHECK(whole.said.outcome == cut.said.outcome && whole.said.delay_ms == cut.said.delay_ms);
    return 0;
}
