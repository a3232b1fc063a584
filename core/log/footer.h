/* SPDX-License-Identifier: Apache-2.0 */
/* What lies behind a stored batch: the hashes of all labels of its records, so that a reader who
 * wants some labels can pass over the whole batch. */
#ifndef CORE_LOG_FOOTER_H
#define CORE_LOG_FOOTER_H

#include "core/base/span.h"

/* Format: version u8, count u8, then the hashes, distinct and rising, u32 each, big-endian. More
 * labels than a list holds: no footer, and any label may be there. */
enum {
    FOOTER_VERSION = 1,
    FOOTER_HEAD_SIZE = 2,
    FOOTER_LABELS_MAX = 255,
    FOOTER_SIZE_MAX = FOOTER_HEAD_SIZE + 4 * FOOTER_LABELS_MAX,
};

/* Takes the next part off a text of parts separated by commas; false at its end. Empty parts are
 * passed over. */
bool label_next(struct span *rest, struct span *label);
uint32_t label_hash(struct span label);

/* The labels of a batch while it is built. Starts zeroed. */
struct label_set {
    uint32_t *hashes; /* distinct, rising; FOOTER_LABELS_MAX entries, NULL before the first */
    uint32_t count;
    bool overflown; /* there were more */
};
void label_set_deinit(struct label_set *set);
void label_set_clear(struct label_set *set);
void label_set_add(struct label_set *set, struct span labels); /* separated by commas */

/* Bytes that the set's footer takes; 0: none is written. */
size_t footer_size(const struct label_set *set);
void footer_encode(const struct label_set *set, uint8_t *to);
/* False only when the footer says that no record has a label of that hash. An empty or unreadable
 * footer says nothing. */
bool footer_may_have(struct span footer, uint32_t hash);

#endif
