/* SPDX-License-Identifier: Apache-2.0 */
/* Arbitrary bytes as a stored row of the catalog; the first byte says of which kind. What decodes
 * must encode to the same bytes. */
#include "core/base/check.h"
#include "core/broker/catalog.h"
#include "tests/fuzz/fuzz.h"

/* Encodes, decodes, and encodes again: number forms may differ from the input, but only once. */
#define CHECK_ROUND_TRIP(type, thing)                                                              \
    do {                                                                                           \
        struct buf once, twice;                                                                    \
        struct type *again;                                                                        \
        buf_init(&once, 1u << 24);                                                                 \
        buf_init(&twice, 1u << 24);                                                                \
        CHECK(type##_encode(thing, &once) == STATUS_OK);                                           \
        CHECK(type##_decode(buf_span(&once), &again) == STATUS_OK);                                \
        CHECK(type##_encode(again, &twice) == STATUS_OK);                                          \
        CHECK(span_equal(buf_span(&once), buf_span(&twice)));                                      \
        type##_unref(again);                                                                       \
        type##_unref(thing);                                                                       \
        buf_deinit(&once);                                                                         \
        buf_deinit(&twice);                                                                        \
    } while (0)

/* A principal from a row can be asked for rights. */
static void check_principal(struct principal *principal)
{
    struct principal *copy = principal_copy(principal);
    principal_may(copy, ACTION_CONSUME, true, span_from_text("a/+/b"), span_from_text("id"));
    principal_may(copy, ACTION_PUBLISH, false, span_from_text("queue"), span_from_text("id"));
    principal_unref(copy);
    CHECK_ROUND_TRIP(principal, principal);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct span row = span_of(data + 1, size - 1);
    struct principal *principal;
    struct route *route;
    struct queue *queue;
    struct group_spec *group;
    switch (data[0] % 4) {
    case 0:
        if (principal_decode(row, &principal) == STATUS_OK)
            check_principal(principal);
        break;
    case 1:
        if (route_decode(row, &route) == STATUS_OK)
            CHECK_ROUND_TRIP(route, route);
        break;
    case 2:
        if (queue_decode(row, &queue) == STATUS_OK)
            CHECK_ROUND_TRIP(queue, queue);
        break;
    default:
        if (group_spec_decode(row, &group) == STATUS_OK)
            CHECK_ROUND_TRIP(group_spec, group);
    }
    return 0;
}
