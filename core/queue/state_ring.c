/* SPDX-License-Identifier: Apache-2.0 */
/* 32 offsets per word, found by masking: the group of 32 that an offset is in always fills one
 * word, so runs are filled and searched a word at a time. */
#include "core/queue/state_ring.h"

#include "core/base/check.h"
#include "core/base/heap.h"

#define LANES UINT64_C(0x5555555555555555) /* the low bit of each pair */

enum { LANES_PER_WORD = 32, CAPACITY_MIN = 128, CAPACITY_KEPT = 4096 };

void state_ring_init(struct state_ring *ring, uint64_t base)
{
    *ring = (struct state_ring){.base = base, .top = base};
}

void state_ring_deinit(struct state_ring *ring)
{
    heap_free(ring->words);
    state_ring_init(ring, 0);
}

static uint64_t *word_of(const struct state_ring *ring, uint64_t offset)
{
    return &ring->words[(offset & (ring->capacity - 1)) / LANES_PER_WORD];
}

static unsigned shift_of(uint64_t offset)
{
    return (unsigned)(offset % LANES_PER_WORD) * 2;
}

enum offset_state state_ring_get(const struct state_ring *ring, uint64_t offset)
{
    if (offset < ring->base || offset >= ring->top)
        return OFFSET_AVAILABLE;
    return (enum offset_state)(*word_of(ring, offset) >> shift_of(offset) & 3);
}

static void fill_words(struct state_ring *ring, uint64_t from, uint64_t to, enum offset_state state)
{
    while (from < to) {
        uint64_t lanes = LANES_PER_WORD - from % LANES_PER_WORD;
        if (lanes > to - from)
            lanes = to - from;
        uint64_t mask = (lanes == LANES_PER_WORD ? ~UINT64_C(0) : (UINT64_C(1) << lanes * 2) - 1)
                        << shift_of(from);
        uint64_t *word = word_of(ring, from);
        *word = (*word & ~mask) | (LANES * (uint64_t)state & mask);
        from += lanes;
    }
}

/* Moves to a ring that holds [base, top). The old ring may hold its first and last group of 32 in
 * one word; both copies of that word are cleaned of what is outside. */
static void grow(struct state_ring *ring, uint64_t top)
{
    struct state_ring old = *ring;
    uint64_t capacity = old.capacity == 0 ? CAPACITY_MIN : old.capacity;
    while (capacity < top - ring->base)
        capacity *= 2;
    CHECK(capacity <= UINT32_MAX / 2);
    ring->capacity = (uint32_t)capacity;
    ring->words = heap_array(capacity / LANES_PER_WORD, sizeof *ring->words);
    if (old.base < old.top) {
        uint64_t first = old.base - old.base % LANES_PER_WORD;
        uint64_t last = old.top - 1 - (old.top - 1) % LANES_PER_WORD;
        for (uint64_t group = first; group <= last; group += LANES_PER_WORD)
            *word_of(ring, group) = *word_of(&old, group);
        fill_words(ring, first, old.base, OFFSET_AVAILABLE);
        fill_words(ring, old.top, last + LANES_PER_WORD, OFFSET_AVAILABLE);
    }
    heap_free(old.words);
}

static void reserve(struct state_ring *ring, uint64_t top)
{
    if (top <= ring->top)
        return;
    if (top - ring->base > ring->capacity)
        grow(ring, top);
    ring->top = top;
}

void state_ring_set(struct state_ring *ring, uint64_t offset, enum offset_state state)
{
    CHECK(offset >= ring->base);
    reserve(ring, offset + 1);
    unsigned shift = shift_of(offset);
    uint64_t *word = word_of(ring, offset);
    *word = (*word & ~(UINT64_C(3) << shift)) | (uint64_t)state << shift;
}

void state_ring_fill(struct state_ring *ring, uint64_t from, uint64_t to, enum offset_state state)
{
    CHECK(from >= ring->base);
    reserve(ring, to);
    fill_words(ring, from, to, state);
}

enum seek { SEEK_DONE, SEEK_NOT_DONE, SEEK_AVAILABLE };

static inline uint64_t seek(const struct state_ring *ring, uint64_t from, uint64_t to,
                            enum seek wanted)
{
    while (from < to) {
        uint64_t word = *word_of(ring, from);
        uint64_t found = (word >> 1) & ~word & LANES; /* pairs that read OFFSET_DONE, 10 */
        if (wanted == SEEK_NOT_DONE)
            found = ~found & LANES;
        else if (wanted == SEEK_AVAILABLE)
            found = ~(word | word >> 1) & LANES;
        found >>= shift_of(from);
        if (found != 0) {
            from += (uint64_t)__builtin_ctzll(found) / 2;
            return from < to ? from : to;
        }
        from += LANES_PER_WORD - from % LANES_PER_WORD;
    }
    return to;
}

uint64_t state_ring_seek(const struct state_ring *ring, uint64_t from, uint64_t to, bool done)
{
    return seek(ring, from, to, done ? SEEK_DONE : SEEK_NOT_DONE);
}

uint64_t state_ring_available(const struct state_ring *ring, uint64_t from, uint64_t to)
{
    return seek(ring, from, to, SEEK_AVAILABLE);
}

void state_ring_advance(struct state_ring *ring, uint64_t base)
{
    CHECK(base >= ring->base);
    if (base >= ring->top) {
        fill_words(ring, ring->base, ring->top, OFFSET_AVAILABLE);
        ring->base = ring->top = base;
        if (ring->capacity > CAPACITY_KEPT) {
            heap_free(ring->words);
            ring->words = NULL;
            ring->capacity = 0;
        }
        return;
    }
    fill_words(ring, ring->base, base, OFFSET_AVAILABLE);
    ring->base = base;
}
