/* SPDX-License-Identifier: Apache-2.0 */
/* Which records a call wants: labels and a selector from its query. */
#ifndef ADAPTERS_REST_FILTER_H
#define ADAPTERS_REST_FILTER_H

#include "adapters/rest/call.h"

struct filter {
    struct label_filter labels; /* texts are in the call's arena */
    struct selector *selector;  /* a reference, or NULL */
};

/* Ours: label (up to three), label_mode (any or all), selector. They refuse and return false when
 * what is there is none. */
bool filter_read(struct filter *filter, struct call *call);
/* DMS: tag, tag_type (or, and). */
bool filter_read_tags(struct filter *filter, struct call *call);
void filter_deinit(struct filter *filter);

static inline bool filter_is_empty(const struct filter *filter)
{
    return filter->labels.count == 0 && filter->selector == NULL;
}
static inline bool filter_matches(const struct filter *filter, const struct record *record)
{
    return label_matches(&filter->labels, record) &&
           (filter->selector == NULL || selector_matches(filter->selector, record));
}

#endif
