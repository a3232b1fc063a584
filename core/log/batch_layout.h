/* SPDX-License-Identifier: Apache-2.0 */
/* Where the fields of a RecordBatch v2 header lie (KIP-98), all big-endian. Internal to core/log.
 */
#ifndef CORE_LOG_BATCH_LAYOUT_H
#define CORE_LOG_BATCH_LAYOUT_H

#include "core/log/batch.h"

enum {
    AT_BASE_OFFSET = 0,
    AT_LENGTH = 8,
    AT_LENGTH_END = 12, /* the length counts from here */
    AT_LEADER_EPOCH = 12,
    AT_MAGIC = 16,
    AT_CRC = 17,
    AT_CRC_END = 21, /* the CRC covers from here to the end */
    AT_ATTRIBUTES = 21,
    AT_LAST_OFFSET_DELTA = 23,
    AT_BASE_TIMESTAMP = 27,
    AT_MAX_TIMESTAMP = 35,
    AT_PRODUCER_ID = 43,
    AT_PRODUCER_EPOCH = 51,
    AT_BASE_SEQUENCE = 53,
    AT_RECORD_COUNT = 57,
};
enum { BATCH_MAGIC = 2 };
enum { ATTRIBUTE_COMPRESSION = 7, ATTRIBUTE_LOG_APPEND_TIME = 8 };

/* Length, attributes, two deltas, no key, no value, no headers: a byte each. */
enum { RECORD_SIZE_MIN = 7 };

/* One reference, zeroed, with room for record_count positions behind it; NULL when refused. */
struct batch *batch_try(uint32_t record_count);

#endif
