/* SPDX-License-Identifier: Apache-2.0 */
/* The one asynchronous pattern, for every layer. The caller owns the request until done(); it
 * embeds it first in its own struct and gets its context back by container_of. done() comes exactly
 * once, on the home loop, never from inside the call that started the request. */
#ifndef CORE_NET_REQUEST_H
#define CORE_NET_REQUEST_H

#include "core/base/list.h"
#include "core/base/status.h"
#include "core/net/loop.h"
#include "core/net/mailbox.h"

struct request {
    struct loop *home;
    void (*done)(struct request *request, enum status status);
    /* Below: the receiving layer's. */
    struct mail mail;
    enum status status;
};

static inline void request_init(struct request *request, struct loop *home,
                                void (*done)(struct request *, enum status))
{
    *request = (struct request){.home = home, .done = done};
}

/* Any thread: completes the request by mail to its home loop. The request is the caller's again
 * once done() runs; the completing side must not touch it after this call. */
void request_complete(struct request *request, enum status status);

#endif
