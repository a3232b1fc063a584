/* SPDX-License-Identifier: Apache-2.0 */
/* Receives and sends of many sockets with one system call, by io_uring. One ring per process. */
#ifndef TESTS_BENCH_RING_H
#define TESTS_BENCH_RING_H

#include <stdint.h>

enum ring_what { RING_RECEIVE, RING_SEND };

/* Hears what recv or send would have returned, or -errno. */
typedef void (*ring_done)(void *context, int result);

enum { RING_MAX = 1024 };

/* Ends the process if the kernel has or allows no io_uring. */
void ring_open(void);

/* At most RING_MAX before ring_go. bytes are borrowed until then. */
void ring_add(enum ring_what what, int fd, void *bytes, uint32_t size, void *context);

/* Does all that was added; done may not add. */
void ring_go(ring_done done);

#endif
