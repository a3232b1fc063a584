/* SPDX-License-Identifier: Apache-2.0 */
/* Where a follower is, as text that clients keep and send back: "PARTITION.NEXT" in hexadecimal,
 * joined by '_'. Pure functions over peer bytes; core/base only. */
#ifndef CORE_BROKER_FOLLOW_POSITION_H
#define CORE_BROKER_FOLLOW_POSITION_H

#include "core/base/limits.h"
#include "core/base/span.h"
#include "core/base/status.h"

struct follow_position {
    uint32_t count;
    struct follow_mark {
        uint64_t partition, next;
    } marks[LIMIT_FOLLOW_PARTITIONS]; /* by partition, each once */
};

/* Reads the text once. INVALID: it is no position; TOO_LARGE: it has more marks than any follower.
 * Of two marks of one partition the first counts. */
enum status follow_position_read(struct span text, struct follow_position *position);
/* False: it does not name partition. */
bool follow_position_find(const struct follow_position *position, uint64_t partition,
                          uint64_t *next);

#endif
