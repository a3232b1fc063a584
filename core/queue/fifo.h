/* SPDX-License-Identifier: Apache-2.0 */
/* Order per message group: which offsets of one partition belong to the same key, and which of them
 * must wait for another. Only keys with an offset that was met and is not done are held. Pure
 * state, no I/O, no clock: O(1) per offset.
 *
 * A key is its 64-bit keyed hash. Two keys that collide wait for each other, which breaks nothing.
 *
 *   fifo_meet ---> waiting --(first of its key, none held)--> ready --fifo_take--> held
 *                     ^                                                             |  |
 *                     +---------------------- fifo_returned ------------------------+  |
 *                                                            fifo_resolved --> gone <--+
 *
 * Held: handed out, or not offered for another reason (failed and not stored yet, delayed, to
 * become a dead letter). Offsets are met in rising order. */
#ifndef CORE_QUEUE_FIFO_H
#define CORE_QUEUE_FIFO_H

#include "core/queue/offers.h"

struct fifo;

/* What becomes ready is pushed to offers (borrowed). */
struct fifo *fifo_new(struct offers *offers);
void fifo_free(struct fifo *fifo); /* NULL is fine */
void fifo_clear(struct fifo *fifo);

/* The next offset, of the key with that hash; held: it is not available. */
void fifo_meet(struct fifo *fifo, uint64_t key, uint64_t offset, bool held);
/* The first of its key, and none of the key is held, or only by this take: records of one key may
 * go out together, in order. Take is any number but 0 that no other take has. */
bool fifo_is_ready(const struct fifo *fifo, uint64_t offset, uint64_t take);
void fifo_take(struct fifo *fifo, uint64_t offset, uint64_t take); /* a ready one */
/* Offsets that were never met are ignored here. */
void fifo_returned(struct fifo *fifo, uint64_t offset);
void fifo_resolved(struct fifo *fifo, uint64_t from, uint64_t to);

uint32_t fifo_waiting(const struct fifo *fifo); /* met, and neither held nor gone */
/* Some offset of the key was met and is not gone. */
bool fifo_has_key(const struct fifo *fifo, uint64_t key);
/* It waits for another offset of its key. */
bool fifo_is_blocked(const struct fifo *fifo, uint64_t offset);

#endif
