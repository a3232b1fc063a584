/* SPDX-License-Identifier: Apache-2.0 */
/* See link_share.h. */
#include "tests/sim/link_share.h"

#include "tests/sim/history.h"
#include "tests/sim/work_history.h"

static uint32_t since; /* attempts from here on are its */
static struct {
    bool seen, ended, answered;
    const struct share_holder *holder; /* NULL: it may go to another */
    uint64_t turn;
    unsigned life;
    uint32_t taken_in; /* deal that ended it last; 0: none */
} shares[ATTEMPTS_MAX];

void link_share_begin(void)
{
    since = UINT32_MAX;
    memset(shares, 0, sizeof shares);
}

void link_share_is_kept(void)
{
    if (since == UINT32_MAX)
        since = history_attempts();
}

bool link_share_is_there(void)
{
    return since != UINT32_MAX;
}

static bool is_leaving(const struct share_holder *who)
{
    return who->leaving != NULL && *who->leaving;
}

static bool holds(const struct share_holder *who, uint64_t turn)
{
    return who != NULL && sim_is_open(who->peer) && *who->turn == turn && !is_leaving(who);
}

bool link_share_came(const struct share_holder *who, uint32_t attempt)
{
    bool again = shares[attempt].seen;
    if (shares[attempt].answered)
        history_fail("%s gets attempt %u, whose end was answered", who->name, attempt);
    /* After a failed sync the gateway ends connections, which their clients hear of later. */
    if (shares[attempt].life == history_life() && !is_leaving(who) && !sim_disk_has_failed() &&
        holds(shares[attempt].holder, shares[attempt].turn))
        history_fail("%s gets attempt %u, which %s %s", who->name, attempt,
                     shares[attempt].holder->name, shares[attempt].ended ? "has ended" : "holds");
    if (shares[attempt].taken_in != 0)
        deal_denied(shares[attempt].taken_in);
    shares[attempt].taken_in = 0;
    shares[attempt].seen = true;
    shares[attempt].holder = who;
    shares[attempt].turn = *who->turn;
    shares[attempt].life = history_life();
    return again;
}

void link_share_ended(uint32_t attempt, bool over)
{
    shares[attempt].ended |= over;
    if (!over)
        shares[attempt].holder = NULL;
}

void link_share_answered(uint32_t attempt)
{
    shares[attempt].answered = attempt >= since;
}

void link_share_taken(uint32_t attempt, uint32_t deal)
{
    shares[attempt].taken_in = deal;
}

void link_share_check(void)
{
    for (uint32_t i = since; i < history_attempts(); i++)
        if (history_is_acknowledged(i) && !shares[i].ended && !deal_was_done(shares[i].taken_in))
            history_fail("attempt %u was acknowledged, and no member of a durable share %s it", i,
                         shares[i].seen ? "ended" : "saw");
}
