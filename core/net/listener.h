/* SPDX-License-Identifier: Apache-2.0 */
/* A listening socket of one worker. Several workers listen on one address with SO_REUSEPORT and the
 * kernel spreads the connections. */
#ifndef CORE_NET_LISTENER_H
#define CORE_NET_LISTENER_H

#include <stdint.h>

#include "core/base/status.h"
#include "core/net/loop.h"

struct listener;

/* accepted() takes a non-blocking, close-on-exec socket with TCP_NODELAY set. When the process is
 * out of descriptors the listener waits 100 ms instead of spinning. */
typedef void listener_accepted(void *context, int socket);

/* address: an IPv4 or IPv6 literal, or "*" for both. port 0 picks one: *port returns the real one.
 * May be called before the loop runs. NULL with err set when it fails. */
struct listener *listener_open(struct loop *loop, const char *address, uint16_t *port,
                               listener_accepted *accepted, void *context, struct err *err);
void listener_close(struct listener *listener); /* on the loop; NULL is fine */

#endif
