/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a note of a session: what is read is written as it was. */
#include "core/base/check.h"
#include "core/broker/session_rows.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span key, value;
    if (session_note_decode(span_of(data, size), &key, &value) != STATUS_OK)
        return 0;
    struct buf back;
    buf_init(&back, size);
    CHECK(session_note_encode(key, value, &back) == STATUS_OK);
    CHECK(back.size == size && memcmp(back.data, data, size) == 0);
    buf_deinit(&back);
    return 0;
}
