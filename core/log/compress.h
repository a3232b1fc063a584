/* SPDX-License-Identifier: Apache-2.0 */
/* Decompression of Kafka's record codecs through their libraries. */
#ifndef CORE_LOG_COMPRESS_H
#define CORE_LOG_COMPRESS_H

#include "core/base/blob.h"
#include "core/log/batch.h"

/* Snappy takes both raw and xerial framing, LZ4 its frame format. TOO_LARGE past max, MALFORMED,
 * NO_MEMORY. */
enum status decompress(enum batch_compression compression, struct span input, uint32_t max,
                       struct blob **output);

#endif
