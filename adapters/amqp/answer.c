/* SPDX-License-Identifier: Apache-2.0 */
/* What the answer to an attach says of its node: of what the peer asked for, only what holds. */
#include "adapters/amqp/dynamic.h"
#include "adapters/amqp/link.h"
#include "adapters/amqp/subscriber.h"

enum { SYMBOLS_MAX = 4 };

/* Of a symbol or an array of them those that hold, in that order; a NULL ends them. */
static void keep(pn_data_t *symbols, const char *const holds[SYMBOLS_MAX + 1],
                 bool (*is_said)(pn_data_t *symbols, const char *symbol))
{
    bool kept[SYMBOLS_MAX] = {false}, any = false;
    for (size_t i = 0; holds[i] != NULL; i++)
        any |= kept[i] = is_said(symbols, holds[i]);
    pn_data_clear(symbols);
    if (!any)
        return;
    pn_data_put_array(symbols, false, PN_SYMBOL);
    pn_data_enter(symbols);
    for (size_t i = 0; holds[i] != NULL; i++)
        if (kept[i])
            pn_data_put_symbol(symbols, pn_bytes(strlen(holds[i]), holds[i]));
    pn_data_exit(symbols);
}

/* A coordinator says what it can, whatever was asked for (part 4, 4.5.1). */
static bool always(pn_data_t *symbols, const char *symbol)
{
    (void)symbols;
    (void)symbol;
    return true;
}

static void keep_capabilities(const struct amqp_link *link, pn_terminus_t *local)
{
    static const char *const nothing[SYMBOLS_MAX + 1] = {NULL};
    static const char *const queue[SYMBOLS_MAX + 1] = {"queue", NULL};
    static const char *const topic[SYMBOLS_MAX + 1] = {"topic", NULL};
    static const char *const shared[SYMBOLS_MAX + 1] = {"topic", "shared", "global", NULL};
    static const char *const temporary_queue[SYMBOLS_MAX + 1] = {"queue", "temporary-queue", NULL};
    static const char *const temporary_topic[SYMBOLS_MAX + 1] = {"topic", "temporary-topic", NULL};
    static const char *const coordinator[SYMBOLS_MAX + 1] = {
        "amqp:local-transactions", "amqp:multi-txns-per-ssn", "amqp:multi-ssns-per-txn", NULL};
    pn_data_t *capabilities = pn_terminus_capabilities(local);
    bool is_dynamic = pn_terminus_is_dynamic(local);
    const char *const *holds = nothing;
    switch (link->kind) {
    case AMQP_TO_QUEUE:
    case AMQP_FROM_GROUP:
        holds = is_dynamic ? temporary_queue : queue;
        break;
    case AMQP_TO_TOPIC:
        holds = is_dynamic ? temporary_topic : topic;
        break;
    case AMQP_FROM_TOPIC:
        holds = is_dynamic                              ? temporary_topic
                : link->subscriber->item.share.size > 0 ? shared
                                                        : topic;
        break;
    case AMQP_FROM_LOG:
        holds = link->queue == 0 ? topic : queue;
        break;
    case AMQP_TO_COORDINATOR:
        keep(capabilities, coordinator, always);
        return;
    case AMQP_TO_ANYWHERE:
    case AMQP_TO_MANAGEMENT:
    case AMQP_FROM_MANAGEMENT:
    case AMQP_LINK_NONE:
        break;
    }
    keep(capabilities, holds, amqp_has_symbol);
}

/* A group is there for good, and its consumer under any link; of what was unsettled it keeps
 * nothing for a link. Where a topic is read as it goes, its subscription has said what it keeps. */
static void say_how_long(const struct amqp_link *link, pn_terminus_t *source)
{
    if (link->kind == AMQP_FROM_TOPIC)
        return;
    bool asked = amqp_is_lasting(source);
    bool holds = asked && link->kind == AMQP_FROM_GROUP;
    pn_terminus_set_durability(source, holds ? PN_CONFIGURATION : PN_NONDURABLE);
    pn_terminus_set_timeout(source, 0);
    if (asked)
        pn_terminus_set_expiry_policy(source, holds ? PN_EXPIRE_NEVER : PN_EXPIRE_WITH_LINK);
}

static void say_how_it_gives(const struct amqp_link *link, pn_terminus_t *source)
{
    if (pn_terminus_get_distribution_mode(source) == PN_DIST_MODE_UNSPECIFIED)
        return;
    if (link->kind == AMQP_FROM_GROUP)
        pn_terminus_set_distribution_mode(source, PN_DIST_MODE_MOVE);
    else if (link->kind == AMQP_FROM_LOG || link->kind == AMQP_FROM_TOPIC)
        pn_terminus_set_distribution_mode(source, PN_DIST_MODE_COPY);
    else
        pn_terminus_set_distribution_mode(source, PN_DIST_MODE_UNSPECIFIED);
}

/* Of a topic, what was published at most once leaves settled. */
static void say_how_it_settles(pn_link_t *pn)
{
    if (pn_link_remote_snd_settle_mode(pn) == PN_SND_UNSETTLED)
        pn_link_set_snd_settle_mode(pn, PN_SND_MIXED);
}

void amqp_answer_truly(struct amqp_link *link)
{
    static const char *const outcomes[SYMBOLS_MAX + 1] = {
        "amqp:accepted:list", "amqp:rejected:list", "amqp:released:list", "amqp:modified:list",
        NULL};
    if (pn_link_is_receiver(link->pn)) {
        keep_capabilities(link, pn_link_target(link->pn));
        amqp_dynamic_say(link, pn_link_target(link->pn));
        return;
    }
    pn_terminus_t *source = pn_link_source(link->pn);
    amqp_dynamic_say(link, source);
    keep_capabilities(link, source);
    keep(pn_terminus_outcomes(source), outcomes, amqp_has_symbol);
    say_how_long(link, source);
    say_how_it_gives(link, source);
    if (link->kind == AMQP_FROM_TOPIC)
        say_how_it_settles(link->pn);
}
