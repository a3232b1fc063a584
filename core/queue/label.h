/* SPDX-License-Identifier: Apache-2.0 */
/* Labels of records (header "labels": at most three of up to 64 characters, separated by commas)
 * and filters over them. A batch's footer lists the hashes of all its labels, so that a reader can
 * skip it whole. */
#ifndef CORE_QUEUE_LABEL_H
#define CORE_QUEUE_LABEL_H

#include "core/log/batch.h"

enum { LABELS_MAX = 3, LABEL_SIZE_MAX = 64 };

/* Borrowed texts; count 0 matches everything. */
struct label_filter {
    struct span labels[LABELS_MAX];
    uint32_t count;
    bool all; /* every label must be there; else any */
};

/* One with texts of its own. */
struct label_choice {
    struct label_filter filter;
    char texts[LABELS_MAX][LABEL_SIZE_MAX];
};

/* 1 to 64 of A-Z a-z 0-9 - _ . */
bool label_is_valid(struct span label);
/* Labels are compared as bytes. What a record carries is not held to the limits of ours: a foreign
 * producer may have set more. */
bool label_matches(const struct label_filter *filter, const struct record *record);
/* False: no record of the batch matches. Ask once per batch, before its records. */
bool label_footer_may_match(const struct label_filter *filter, const struct batch *batch);
/* Copies what is wanted. False, and nothing is changed: it is not valid. */
bool label_choose(struct label_choice *choice, const struct label_filter *wanted);
/* The same labels, in whatever order and however often named. */
bool label_filter_equal(const struct label_filter *a, const struct label_filter *b);

#endif
