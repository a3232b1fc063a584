/* SPDX-License-Identifier: Apache-2.0 */
/* How much selectors of subscriptions and followers may cost in one turn of a worker:
 * LIMIT_SELECT_STEPS in all, half of that for one user (what no user has, shares for one, counts as
 * one user's). Who finds none left goes on in a later turn, and who has waited longest goes first.
 * On the client's loop. */
#ifndef CORE_BROKER_SELECTION_H
#define CORE_BROKER_SELECTION_H

#include "core/base/list.h"
#include "core/net/loop.h"

struct broker_worker;
struct client;
struct record;
struct selector;

enum { SELECTION_USERS = 64 }; /* told apart, by their ids */
struct selection {
    uint64_t turn_ms, steps;
    uint64_t of_user[SELECTION_USERS];
    struct list waiting;
    struct loop_timer timer;
};

void selection_init(struct broker_worker *worker);
/* Nobody goes on any more. */
void selection_stop(struct broker_worker *worker);
/* There is something left for the client in this turn. */
bool selection_may(const struct client *client);
/* The client, which stays behind, goes on in a later turn: then comes what client_drained() does.
 */
void selection_wait(struct client *client);
bool selection_waits(const struct client *client);
void selection_close(struct client *client);
/* selector_matches(), at the client's cost; NULL matches all. */
bool selection_matches(struct client *client, const struct selector *selector,
                       const struct record *record);

#endif
