/* SPDX-License-Identifier: Apache-2.0 */
/* See work_history.h. */
#include "tests/sim/work_history.h"

#include <stdio.h>

#include "core/base/heap.h"

enum { WORKS_MAX = 20000, DEALS_MAX = 4000 };

static struct work {
    enum fate fate;
    uint32_t deal; /* that sent it */
    uint64_t due_ms;
    bool found;
    const struct sim_peer *holder; /* NULL: nobody */
    uint32_t arrivals;             /* deliveries so far */
    uint64_t until_ms;
    bool maybe_done, done;
    bool maybe_rejected, rejected;
    uint32_t failures_min, failures_max; /* that the next delivery may show */
    bool dead, dead_done;
    uint64_t dead_partition, dead_offset;
    uint32_t taken_in; /* deal that took it last */
    bool rejected_in;  /* there */
} works[WORKS_MAX];
static uint32_t work_number;

static struct deal {
    enum fate fate;
    bool promised;
    bool denied; /* what it took came again */
    uint32_t sent, found;
} deals[DEALS_MAX];
static uint32_t deal_number;

void work_begin(void)
{
    memset(works, 0, sizeof works);
    memset(deals, 0, sizeof deals);
    work_number = 0;
    deal_number = 1; /* 0: none */
}

uint32_t work_sent(uint32_t deal, char text[16])
{
    if (work_number == WORKS_MAX)
        history_fail("too much work");
    snprintf(text, 16, "w%u", work_number);
    works[work_number].deal = deal;
    deals[deal].sent++;
    return work_number++;
}

void work_delayed(uint32_t work, uint32_t delay_ms)
{
    works[work].due_ms = sim_now_ms() + delay_ms;
}

void work_fate(uint32_t work, enum fate fate)
{
    works[work].fate = fate;
}

uint32_t deal_new(void)
{
    if (deal_number == DEALS_MAX)
        history_fail("too many deals");
    return deal_number++;
}

void deal_promised(uint32_t deal)
{
    deals[deal].promised = true;
}

void deal_fate(uint32_t deal, enum fate fate)
{
    deals[deal].fate = fate;
}

void deal_denied(uint32_t deal)
{
    if (deals[deal].fate == FATE_ACKNOWLEDGED)
        history_fail("deal %u was committed, and what it took comes again", deal);
    deals[deal].denied = true;
}

bool deal_was_done(uint32_t deal)
{
    return deal != 0 && deals[deal].found > 0;
}

static uint32_t work_of(struct span body)
{
    char text[16];
    unsigned number;
    if (body.size < sizeof text) {
        memcpy(text, body.data, body.size);
        text[body.size] = '\0';
        if (sscanf(text, "w%u", &number) == 1 && number < work_number)
            return number;
    }
    history_fail("work that nobody sent: %.*s", (int)body.size, (const char *)body.data);
}

static void check_sent(uint32_t number)
{
    const struct work *work = &works[number];
    const struct deal *deal = &deals[work->deal];
    if (work->fate == FATE_REFUSED)
        history_fail("work %u was refused, and is there", number);
    if (work->deal != 0 && deal->fate == FATE_REFUSED)
        history_fail("work %u of deal %u, which was rolled back, is there", number, work->deal);
    if (work->deal != 0 && !deal->promised)
        history_fail("work %u of deal %u is there before its commit", number, work->deal);
}

/* Each delivery fails once at most, and what failed for certain is counted. */
static void check_failures(uint32_t number, uint32_t failures)
{
    struct work *work = &works[number];
    if (failures < work->failures_min || failures > work->failures_max)
        history_fail("work %u comes with %u failures instead of %u to %u", number, failures,
                     work->failures_min, work->failures_max);
    if (failures >= WORK_FAILURES_MAX)
        history_fail("work %u comes with %u failures and is no dead letter", number, failures);
    work->failures_min = failures;
    work->failures_max = failures + 1;
}

uint32_t work_came(struct span body, const struct sim_peer *holder, uint64_t until_ms,
                   uint32_t failures)
{
    uint32_t number = work_of(body);
    struct work *work = &works[number];
    struct deal *taken_in = &deals[work->taken_in];
    check_sent(number);
    if (sim_now_ms() < work->due_ms)
        history_fail("work %u comes %llu ms early", number,
                     (unsigned long long)(work->due_ms - sim_now_ms()));
    if (work->holder != NULL && sim_is_open(work->holder) && sim_now_ms() < work->until_ms)
        history_fail("work %u is somebody's until %llu and comes to another", number,
                     (unsigned long long)work->until_ms);
    if (work->done || work->rejected || work->dead)
        history_fail("work %u %s and comes again", number,
                     work->done       ? "was done"
                     : work->rejected ? "was rejected"
                                      : "is a dead letter");
    if (work->taken_in != 0 && taken_in->fate == FATE_ACKNOWLEDGED)
        history_fail("work %u was taken in deal %u and comes again", number, work->taken_in);
    if (work->taken_in != 0)
        taken_in->denied = true;
    work->taken_in = 0;
    check_failures(number, failures);
    work->arrivals++;
    work->holder = holder;
    work->until_ms = until_ms;
    return number;
}

uint32_t work_arrival(uint32_t work)
{
    return works[work].arrivals;
}

void work_let_go(uint32_t work, uint32_t arrival)
{
    if (works[work].arrivals == arrival)
        works[work].holder = NULL;
}

void work_holder_gone(const struct sim_peer *holder)
{
    for (uint32_t i = 0; i < work_number; i++)
        if (works[i].holder == holder)
            works[i].holder = NULL;
}

void work_ending(uint32_t number, enum work_end end, uint32_t deal)
{
    struct work *work = &works[number];
    work->taken_in = deal;
    work->rejected_in = deal != 0 && end == WORK_REJECTED;
    work->maybe_done |= end == WORK_DONE && deal == 0;
    work->maybe_rejected |= end == WORK_REJECTED;
}

void work_ended(uint32_t number, enum work_end end, uint32_t arrival)
{
    struct work *work = &works[number];
    work->done |= end == WORK_DONE;
    work->rejected |= end == WORK_REJECTED;
    if (work->arrivals != arrival)
        return; /* it has come again since, and may end otherwise */
    if (end == WORK_FAILED)
        work->failures_min = work->failures_max;
    if (end == WORK_RELEASED)
        work->failures_max = work->failures_min;
}

uint32_t work_dead(struct span body, uint64_t partition, uint64_t offset, bool rejected)
{
    uint32_t number = work_of(body);
    struct work *work = &works[number];
    check_sent(number);
    if (work->done)
        history_fail("work %u was done and is a dead letter", number);
    if (work->dead && (work->dead_partition != partition || work->dead_offset != offset))
        history_fail("work %u is two dead letters", number);
    if (work->dead_done)
        history_fail("the dead letter of work %u was done and comes again", number);
    if (rejected ? !work->maybe_rejected : work->failures_max < WORK_FAILURES_MAX)
        history_fail("work %u is a dead letter, and was not %s", number,
                     rejected ? "rejected" : "failed so often");
    work->dead = true;
    work->dead_partition = partition;
    work->dead_offset = offset;
    return number;
}

void work_dead_done(uint32_t work)
{
    works[work].dead_done = true;
}

void work_final(uint64_t partition, uint64_t offset, struct span body)
{
    uint32_t number = work_of(body);
    check_sent(number);
    if (works[number].found)
        history_fail("work %u is there again, in partition %llu at %llu", number,
                     (unsigned long long)partition, (unsigned long long)offset);
    works[number].found = true;
    deals[works[number].deal].found++;
}

/* What is rejected has to be seen as a dead letter. */
static bool is_done(const struct work *work)
{
    const struct deal *deal = &deals[work->taken_in];
    bool in_deal = work->taken_in != 0 && deal->fate != FATE_REFUSED && deal->promised &&
                   (deal->sent == 0 || deal->found > 0) && !work->rejected_in;
    return work->done || work->maybe_done || in_deal || work->dead;
}

void work_check_final(void)
{
    for (uint32_t i = 1; i < deal_number; i++) {
        const struct deal *deal = &deals[i];
        if (deal->found != deal->sent && (deal->found > 0 || deal->fate == FATE_ACKNOWLEDGED))
            history_fail("of deal %u, %s, %u of %u are there", i,
                         deal->fate == FATE_ACKNOWLEDGED ? "committed" : "in doubt", deal->found,
                         deal->sent);
        if (deal->denied && deal->found > 0)
            history_fail("deal %u sent its work, and what it took came again", i);
    }
    for (uint32_t i = 0; i < work_number; i++) {
        if (works[i].fate == FATE_ACKNOWLEDGED && !works[i].found)
            history_fail("work %u was accepted and is lost", i);
        if (works[i].found && !is_done(&works[i]))
            history_fail("work %u was never done", i);
    }
}

uint64_t work_count(void)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < work_number; i++)
        count += works[i].done;
    return count;
}

uint64_t work_dead_count(void)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < work_number; i++)
        count += works[i].dead;
    return count;
}

uint64_t deals_count(void)
{
    uint64_t count = 0;
    for (uint32_t i = 1; i < deal_number; i++)
        count += deals[i].fate == FATE_ACKNOWLEDGED;
    return count;
}
