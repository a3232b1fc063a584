/* SPDX-License-Identifier: Apache-2.0 */
/* Two bits of delivery state per offset, in a ring that grows with the span it holds: 256 KB for
 * the largest window. The caller says which offsets are inside; all others read as available. */
#ifndef CORE_QUEUE_STATE_RING_H
#define CORE_QUEUE_STATE_RING_H

#include <stdbool.h>
#include <stdint.h>

enum offset_state {
    OFFSET_AVAILABLE,
    OFFSET_LEASED,
    OFFSET_DONE,
    OFFSET_PARKED, /* not offered now: why is kept elsewhere */
};

struct state_ring {
    uint64_t *words;
    uint64_t base, top; /* offsets in [base, top) are inside */
    uint32_t capacity;  /* offsets; a power of two, or 0 */
};

void state_ring_init(struct state_ring *ring, uint64_t base);
void state_ring_deinit(struct state_ring *ring);
enum offset_state state_ring_get(const struct state_ring *ring, uint64_t offset);
/* offset >= base; top moves behind it. */
void state_ring_set(struct state_ring *ring, uint64_t offset, enum offset_state state);
void state_ring_fill(struct state_ring *ring, uint64_t from, uint64_t to, enum offset_state state);
/* The first offset in [from, to) that is done (or, done false: is not); to when there is none.
 * base <= from, to <= top. */
uint64_t state_ring_seek(const struct state_ring *ring, uint64_t from, uint64_t to, bool done);
/* The first offset in [from, to) that is available; to when there is none. Bounds as above. */
uint64_t state_ring_available(const struct state_ring *ring, uint64_t from, uint64_t to);
/* Forgets everything below base. */
void state_ring_advance(struct state_ring *ring, uint64_t base);

#endif
