/* SPDX-License-Identifier: Apache-2.0 */
/* Offsets that wait for their time: a heap by due time, and a table to find one in it. O(log n). */
#ifndef CORE_QUEUE_DELAYS_H
#define CORE_QUEUE_DELAYS_H

#include "core/queue/offset_map.h"

struct delay {
    int64_t due_ms; /* wall clock */
    uint64_t offset;
    bool written; /* a row that says so is stored */
};

struct delays {
    struct delay *heap; /* the first is due first */
    uint32_t count, capacity;
    struct offset_map places; /* offset -> index in heap */
};

void delays_init(struct delays *delays);
void delays_deinit(struct delays *delays);
void delays_put(struct delays *delays, struct delay delay); /* adds or replaces */
/* NULL when missing; valid until the next put or remove. */
struct delay *delays_get(const struct delays *delays, uint64_t offset);
bool delays_remove(struct delays *delays, uint64_t offset); /* false: missing */

#endif
