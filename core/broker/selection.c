/* SPDX-License-Identifier: Apache-2.0 */
/* What selectors cost in a turn, and clients that wait for another one. */
#include "core/broker/selection.h"

#include "core/broker/share.h"
#include "core/queue/selector.h"

enum { LATER_MS = 1, READ_STEPS = 8192 /* what a read is taken for, at least */ };

static unsigned user_of(const struct client *client)
{
    return client->principal == NULL ? 0 : client->principal->id % SELECTION_USERS;
}

bool selection_may(const struct client *client)
{
    struct selection *selection = &client->worker->selection;
    uint64_t now_ms = loop_now_ms(client->worker->loop);
    if (selection->turn_ms != now_ms) {
        selection->steps = 0;
        memset(selection->of_user, 0, sizeof selection->of_user);
        selection->turn_ms = now_ms;
    }
    return selection->steps < LIMIT_SELECT_STEPS &&
           selection->of_user[user_of(client)] < LIMIT_SELECT_STEPS / 2;
}

bool selection_matches(struct client *client, const struct selector *selector,
                       const struct record *record)
{
    struct selection *selection = &client->worker->selection;
    uint64_t steps = 0;
    if (selector == NULL)
        return true;
    bool matches = selector_matches_counted(selector, record, &steps);
    client->selector_steps = (uint32_t)steps;
    selection->steps += steps;
    selection->of_user[user_of(client)] += steps;
    return matches;
}

void selection_wait(struct client *client)
{
    struct broker_worker *worker = client->worker;
    if (selection_waits(client) || worker->ending)
        return;
    list_push(&worker->selection.waiting, &client->selecting);
    if (!loop_timer_is_running(&worker->selection.timer))
        loop_timer_start(worker->loop, &worker->selection.timer, LATER_MS);
}

bool selection_waits(const struct client *client)
{
    return link_is_linked(&client->selecting);
}

void selection_close(struct client *client)
{
    link_remove(&client->selecting);
}

static void move_all(struct list *from, struct list *to)
{
    for (struct link *link; (link = list_pop(from)) != NULL;)
        list_push(to, link);
}

static void go_on(struct client *client)
{
    if (share_is_reader(client))
        share_go_on(container_of(client, struct share, reader));
    else
        client_drained(client);
}

/* What clients cost is known when they have read: of each user so many go on as should find time
 * for a record, by what their last ones took. */
static void turn_came(struct loop_timer *timer)
{
    struct selection *selection = container_of(timer, struct selection, timer);
    uint64_t foreseen[SELECTION_USERS] = {0};
    struct list waiting, others;
    list_init(&waiting);
    list_init(&others);
    move_all(&selection->waiting, &waiting);
    for (struct link *link; (link = list_pop(&waiting)) != NULL;) {
        struct client *client = container_of(link, struct client, selecting);
        uint64_t *of_user = &foreseen[user_of(client)];
        if (*of_user >= LIMIT_SELECT_STEPS / 2 || !selection_may(client)) {
            list_push(&others, link);
            continue;
        }
        *of_user += client->selector_steps > READ_STEPS ? client->selector_steps : READ_STEPS;
        go_on(client);
    }
    move_all(&selection->waiting, &others); /* behind who has waited already */
    move_all(&others, &selection->waiting);
    struct broker_worker *worker = container_of(selection, struct broker_worker, selection);
    if (!list_is_empty(&selection->waiting) && !loop_timer_is_running(timer))
        loop_timer_start(worker->loop, timer, LATER_MS);
}

void selection_init(struct broker_worker *worker)
{
    list_init(&worker->selection.waiting);
    worker->selection.timer.fired = turn_came;
}

void selection_stop(struct broker_worker *worker)
{
    loop_timer_stop(worker->loop, &worker->selection.timer);
}
