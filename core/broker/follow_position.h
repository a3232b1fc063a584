/* SPDX-License-Identifier: Apache-2.0 */
/* Where a follower is, as text that clients keep and send back: "PARTITION.NEXT" in hexadecimal,
 * joined by '_'. Pure functions over peer bytes; core/base only. */
#ifndef CORE_BROKER_FOLLOW_POSITION_H
#define CORE_BROKER_FOLLOW_POSITION_H

#include "core/base/span.h"

bool follow_position_is_valid(struct span text);
/* Of a valid position; false: it does not name partition. The first counts. */
bool follow_position_find(struct span text, uint64_t partition, uint64_t *next);

#endif
