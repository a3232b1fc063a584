/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli), with the processor's instruction where it has one. RFC 3720 B.4 has
 * vectors. */
#ifndef CORE_BASE_CRC_H
#define CORE_BASE_CRC_H

#include "core/base/span.h"

/* Start with 0; chain by passing the last result. */
uint32_t crc32c(uint32_t crc, struct span bytes);

#endif
