/* SPDX-License-Identifier: Apache-2.0 */
/* Topic names and filters: levels separated by '/', '+' for one level, '#' for the rest, names that
 * begin with '$' out of reach of leading wildcards. */
#ifndef CORE_BROKER_TOPIC_H
#define CORE_BROKER_TOPIC_H

#include "core/base/span.h"

bool topic_name_is_valid(
    struct span topic); /* not empty, UTF-8 without NUL, no wildcard, within limits */
bool topic_filter_is_valid(struct span filter); /* likewise, wildcards only where they may stand */
uint32_t topic_levels(struct span text);        /* of a name or filter */
bool topic_filter_has_wildcard(struct span filter);
bool topic_matches(struct span filter, struct span topic); /* both valid */
/* Does every topic that inner matches also match outer? (grants, routes) */
bool topic_filter_covers(struct span outer, struct span inner);
/* Order of specificity for routes: more literal leading levels win, then '+' over '#'. >0: a is
 * more specific. */
int topic_filter_compare(struct span a, struct span b);

#endif
