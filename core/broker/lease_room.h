/* SPDX-License-Identifier: Apache-2.0 */
/* Room for leases: all consumers of a client share LIMIT_CLIENT_LEASES. Who finds none waits its
 * turn, and is woken when some is there; who has waited longest goes first. On the client's loop.
 */
#ifndef CORE_BROKER_LEASE_ROOM_H
#define CORE_BROKER_LEASE_ROOM_H

#include <stdint.h>

#include "core/base/list.h"

struct client;

/* One who takes: embedded. Linked while it waits. */
struct lease_taker {
    struct link link;
    void (*wake)(struct lease_taker *taker); /* it tries again, later */
};

uint32_t lease_room_left(const struct client *client);
/* False: there is none, or others have waited longer; then it waits, too. hurried: it does not wait
 * for others. What it does next it does with lease_room_go_on() behind. */
bool lease_room_is_its(struct client *client, struct lease_taker *taker, bool hurried);
/* It waits no longer; the next one is woken if there is room. */
void lease_room_go_on(struct client *client, struct lease_taker *taker);
void lease_room_take(struct client *client, uint32_t count); /* at most what is left */
void lease_room_give_back(struct client *client, uint32_t count);

#endif
