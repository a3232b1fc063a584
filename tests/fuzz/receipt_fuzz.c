/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary text as a receipt: what is taken has one text only, and it is that one. */
#include "core/base/check.h"
#include "core/queue/group.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct receipt receipt;
    if (receipt_parse(span_of(data, size), &receipt)) {
        char text[RECEIPT_TEXT_SIZE];
        receipt_format(&receipt, text);
        CHECK(span_equal(span_from_text(text), span_of(data, size)));
    }
    return 0;
}
