/* SPDX-License-Identifier: Apache-2.0 */
/* The count of a client's leases, and the line of those that wait for less. */
#include "core/broker/lease_room.h"

#include "core/base/check.h"
#include "core/base/limits.h"
#include "core/broker/broker.h"

uint32_t lease_room_left(const struct client *client)
{
    return LIMIT_CLIENT_LEASES - client->lease_count;
}

static void wake_first(const struct client *client)
{
    struct link *first = list_first(&client->lease_takers);
    if (first == NULL || lease_room_left(client) == 0)
        return;
    struct lease_taker *taker = container_of(first, struct lease_taker, link);
    taker->wake(taker);
}

bool lease_room_is_its(struct client *client, struct lease_taker *taker, bool hurried)
{
    bool any = lease_room_left(client) > 0;
    if (any && (hurried || list_is_empty(&client->lease_takers)))
        return true;
    if (!link_is_linked(&taker->link))
        list_push(&client->lease_takers, &taker->link);
    return any && list_first(&client->lease_takers) == &taker->link;
}

void lease_room_go_on(struct client *client, struct lease_taker *taker)
{
    link_remove(&taker->link);
    wake_first(client);
}

void lease_room_take(struct client *client, uint32_t count)
{
    CHECK(count <= lease_room_left(client));
    client->lease_count += count;
}

void lease_room_give_back(struct client *client, uint32_t count)
{
    CHECK(count <= client->lease_count);
    client->lease_count -= count;
    wake_first(client);
}
