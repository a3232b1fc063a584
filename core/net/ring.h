/* SPDX-License-Identifier: Apache-2.0 */
/* An io_uring: many calls that do not wait, done by one system call. Not for every kernel, and
 * containers often forbid it. Used by one thread at a time. */
#ifndef CORE_NET_RING_H
#define CORE_NET_RING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stdint.h>

struct ring;

struct ring *ring_new(uint32_t size); /* size: a power of two; NULL: there is none to be had */
void ring_free(struct ring *ring);
/* A place for the next request, for the caller to fill; NULL: all size places are taken. What the
 * request names is borrowed until ring_go returns. */
struct io_uring_sqe *ring_next(struct ring *ring);
/* Does all that was asked for since the last time, and says of each what came of it: what the
 * system call would have returned, or -errno. The calls must be such that end at once (as with
 * MSG_DONTWAIT). False: the kernel refused; those that were not spoken of have not been done. */
bool ring_go(struct ring *ring, void (*done)(void *context, uint64_t user_data, int result),
             void *context);

#endif
