/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of what consumers of a group choose: labels, selectors, and records that have them. */
#ifndef TESTS_UNIT_CHOICE_RIG_H
#define TESTS_UNIT_CHOICE_RIG_H

#include "core/queue/group_impl.h"
#include "tests/unit/queue_rig.h"

enum { LEASE_MS = 30000 };

static inline struct selector *compile(const char *text)
{
    struct selector *selector;
    struct err err;
    assert_int_equal(selector_compile(span_from_text(text), &selector, &err), STATUS_OK);
    return selector;
}

static inline struct label_filter labels_of(bool all, const char *a, const char *b)
{
    struct label_filter filter = {.all = all};
    filter.labels[filter.count++] = span_from_text(a);
    if (b != NULL)
        filter.labels[filter.count++] = span_from_text(b);
    return filter;
}

static inline uint32_t take_labels(struct take *take, struct label_filter labels)
{
    take_start(take, 100, 0, LEASE_MS);
    take->take.labels = labels;
    take_wait(take);
    return take->take.count;
}

static inline void choose_start(struct take *take, uint32_t max, uint32_t wait_ms,
                                const struct selector *selector)
{
    *take = (struct take){0};
    request_init(&take->take.request, rig.loop, take_done);
    take->take.max_records = max;
    take->take.max_bytes = UINT32_MAX;
    take->take.wait_ms = wait_ms;
    take->take.lease_ms = LEASE_MS;
    take->take.items = take->items;
    take->take.selector = selector;
    group_take(rig.group, &take->take);
}

static inline uint32_t choose(struct take *take, uint32_t max, const struct selector *selector)
{
    choose_start(take, max, 0, selector);
    take_wait(take);
    assert_int_equal(take->status, STATUS_OK);
    return take->take.count;
}

static inline void publish_color(uint32_t number, const char *color)
{
    publish_with(0, number, (struct extras){.color = color});
}

#endif
