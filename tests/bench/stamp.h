/* SPDX-License-Identifier: Apache-2.0 */
/* The first bytes of every payload: who published it, as which message, and when it was due. */
#ifndef TESTS_BENCH_STAMP_H
#define TESTS_BENCH_STAMP_H

#include <stdbool.h>
#include <stdint.h>

/* In host order: only this process reads it. */
struct stamp {
    uint32_t run, publisher;
    uint64_t sequence, time_ns;
};

/* As text, of twice the size, where it has to go through JSON. */
void stamp_write(const struct stamp *stamp, bool text, uint8_t *to);
void stamp_read(struct stamp *stamp, bool text, const uint8_t *from);

#endif
