/* SPDX-License-Identifier: Apache-2.0 */
/* The sends of a turn, gathered and done by one system call where the kernel has and allows
 * io_uring. What sendmsg says of a socket is said of it here too. */
#ifndef CORE_NET_SENDS_H
#define CORE_NET_SENDS_H

#include <stdbool.h>
#include <sys/types.h>

#include "core/base/span.h"

enum { SENDS_MAX = 256 }; /* gathered at a time */

struct sends;

struct sends *sends_new(void); /* NULL: no io_uring */
void sends_free(struct sends *sends);
/* Borrows the bytes until done() has come, which hears what send() would have returned, or -errno,
 * and may free nothing that is gathered. False: not now, or not any more; send them in another
 * way. */
bool sends_add(struct sends *sends, int socket, struct span bytes,
               void (*done)(void *context, ssize_t result), void *context);
bool sends_are_full(const struct sends *sends); /* there is no room for another */
/* Sends what was gathered; all done() have come when it returns, also when it is called by one. */
void sends_go(struct sends *sends);

#endif
