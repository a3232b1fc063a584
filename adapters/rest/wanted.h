/* SPDX-License-Identifier: Apache-2.0 */
/* Which records a call wants: labels and a selector from its query. */
#ifndef ADAPTERS_REST_WANTED_H
#define ADAPTERS_REST_WANTED_H

#include "adapters/rest/call.h"

struct wanted {
    struct label_filter labels; /* texts are in the call's arena */
    struct selector *selector;  /* a reference, or NULL */
};

/* Ours: label (up to three), label_mode (any or all), selector. They refuse and return false when
 * what is there is none. */
bool wanted_read(struct wanted *wanted, struct call *call);
/* DMS: tag, tag_type (or, and). */
bool wanted_read_tags(struct wanted *wanted, struct call *call);
void wanted_deinit(struct wanted *wanted);

static inline bool wanted_matches(const struct wanted *wanted, const struct record *record)
{
    return label_matches(&wanted->labels, record) &&
           (wanted->selector == NULL || selector_matches(wanted->selector, record));
}

#endif
