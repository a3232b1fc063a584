/* SPDX-License-Identifier: Apache-2.0 */
/* The entry that libFuzzer and the replay program call; a target defines it, and CHECKs what it
 * expects. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
