/* SPDX-License-Identifier: Apache-2.0 */
/* How often somebody may connect: so many a second from anywhere, and from one address. Shared by
 * all workers, because the kernel spreads an address over them as it likes; memory is fixed. */
#ifndef CORE_BROKER_ENTRY_H
#define CORE_BROKER_ENTRY_H

#include <pthread.h>

#include "core/broker/broker.h"

struct entry_address {
    uint64_t hash;
    struct rate rate;
};

struct entry_desk {
    pthread_mutex_t lock;
    struct rate all, refusals;
    struct entry_address *addresses; /* NULL: there is no limit of one address */
};

void entry_init(struct entry_desk *desk, const struct broker_options *options);
void entry_deinit(struct entry_desk *desk);
/* broker_may_connect() at that time, without the counting. Any thread. */
enum entry entry_look(struct entry_desk *desk, const struct broker_options *options,
                      const char *peer, uint64_t now_ms);

#endif
