/* SPDX-License-Identifier: Apache-2.0 */
/* Consumers of a broadcast group that do not come back. One may be forgotten when nobody has taken
 * anything for it for long, and retention has removed records that it had not done: it is owed what
 * is not there any more. Who is up to date is never forgotten, however long that lasts. */
#include "core/queue/group_impl.h"

#include "core/base/check.h"
#include "core/base/clock.h"

enum { HOUR_MS = 60 * 60 * 1000 };

static uint64_t at_most_hourly(uint64_t ms)
{
    return ms < HOUR_MS ? ms : HOUR_MS;
}

/* The row may say so much less than is true: takes are not stored one by one. */
static int64_t slack_ms(const struct group *group)
{
    return (int64_t)at_most_hourly(group->expiry.idle_ms / 8);
}

static bool expires(const struct group *group)
{
    return group->expiry.idle_ms != 0;
}

static void show(const struct group *group)
{
    struct group_stat *stat = group->spec->stat;
    atomic_store_explicit(&stat->taken_ms, group->expiry.taken_ms, memory_order_relaxed);
    atomic_store_explicit(&stat->overtaken, group->expiry.overtaken, memory_order_relaxed);
}

static void look_again(struct group *group)
{
    struct expiry *expiry = &group->expiry;
    int64_t left_ms = expiry->taken_ms + (int64_t)expiry->idle_ms - clock_wall_ms();
    uint64_t wait_ms = at_most_hourly(left_ms > 0 ? (uint64_t)left_ms : expiry->idle_ms);
    expiry->look_ms = loop_now_ms(group->loop) + wait_ms + 1;
}

void group_expire(struct group *group, uint64_t idle_ms, struct request *expired)
{
    CHECK(loop_is_home(group->loop) && idle_ms != 0);
    group->expiry.idle_ms = idle_ms;
    if (expired != NULL)
        group->expiry.expired = expired;
    if (group->expiry.taken_ms == 0)
        group->expiry.taken_ms = clock_wall_ms();
    show(group);
    look_again(group);
    group_wake(group);
}

void expiry_taken(struct group *group)
{
    if (!expires(group))
        return;
    group->expiry.taken_ms = clock_wall_ms();
    group->expiry.overtaken = false;
    show(group);
}

void expiry_overtaken(struct group *group)
{
    group->expiry.overtaken = true;
    if (expires(group))
        show(group);
}

uint64_t expiry_look(struct group *group)
{
    struct expiry *expiry = &group->expiry;
    if (expiry->expired == NULL)
        return 0;
    if (takes_wait(group))
        expiry_taken(group);
    if (loop_now_ms(group->loop) < expiry->look_ms)
        return expiry->look_ms;
    look_again(group);
    if (!expiry->overtaken || clock_wall_ms() - expiry->taken_ms < (int64_t)expiry->idle_ms)
        return expiry->look_ms;
    struct request *expired = expiry->expired;
    expiry->expired = NULL;
    request_complete(expired, STATUS_OK);
    return 0;
}

/* Stored with the epoch. */

bool expiry_has_changes(const struct group *group)
{
    const struct expiry *expiry = &group->expiry;
    return expires(group) && (expiry->overtaken != expiry->stored_overtaken ||
                              expiry->taken_ms - expiry->stored_ms > slack_ms(group));
}

void expiry_store(struct group *group, int64_t *taken_ms, bool *overtaken)
{
    struct expiry *expiry = &group->expiry;
    *taken_ms = expiry->stored_ms = expiry->taken_ms;
    *overtaken = expiry->stored_overtaken = expiry->overtaken;
}

void expiry_load(struct group *group, int64_t taken_ms, bool overtaken)
{
    struct expiry *expiry = &group->expiry;
    expiry->stored_ms = taken_ms;
    expiry->stored_overtaken = expiry->overtaken = overtaken;
    expiry->taken_ms = taken_ms + slack_ms(group);
    if (expiry->taken_ms > clock_wall_ms())
        expiry->taken_ms = clock_wall_ms();
    show(group);
}
