/* SPDX-License-Identifier: Apache-2.0 */
/* See link_peer.h. On the world loop. */
#include "tests/sim/link_peer.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "tests/sim/amqp_peer.h"
#include "tests/sim/amqp_wire.h"
#include "tests/sim/kept_history.h"
#include "tests/sim/link_deal.h"
#include "tests/sim/link_share.h"
#include "tests/sim/moment.h"

enum {
    FILTERS = 5,
    CREDIT = 20,
    THINK_MS = 30,
    PAUSE_MS = 500,
    ATTACH_MS = 6000, /* in which one that shares gets in; its pauses add up to 4 s */
    AWAY_MS = 1500,
    TWICE_MS = 16, /* in which an attach is perhaps not answered */
    DEAL_PAUSE_MS = 30,
    TAG_MAX = 16,
};

static const struct {
    const char *address;
    uint32_t topics;
} filters[FILTERS] = {
    {"/topics/" LINK_SHARE_FILTER, (1u << TOPICS) - 1},
    {"/topics/t/#", (1u << TOPICS) - 1},
    {"/topics/+/5", 1u << 5},
    {"/topics/t/6", 1u << 6},
    {"/topics/t/7", 1u << 7},
};

/* Of a subscription of one link: what became of an attempt. */
struct had {
    bool came;
    bool wanted_again; /* ever */
    bool owed;         /* and has not come since */
    bool within;       /* settled within a transaction, and has not come since */
    bool over;         /* ended, by a commit if it is kept: never again */
    bool first;        /* rolled back on this link: comes before what is new */
    uint8_t tag[TAG_MAX];
};

struct link_peer {
    struct amqp_wire wire;   /* first */
    bool shared, kept, calm; /* kept for itself; neither: as long as its link */
    pn_link_t *link;         /* NULL: there is none now */
    bool in;                 /* the attach is answered */
    bool leaving, giving_up;
    uint64_t attachment; /* number of all, ever; 0: none yet */
    unsigned filter;
    struct kept_session *session;
    struct stay *stay; /* NULL: of nothing is known that it is kept */
    bool said_all;     /* the last link ended only behind everything that was said */
    unsigned said_life;
    struct had *had;       /* by attempt, of this subscription */
    bool looks;            /* the attach says nothing of its source: it wants what is kept */
    bool gone;             /* there is nothing, and that is certain */
    pn_session_t *channel; /* of the link */
    bool takes;            /* its link takes another one over */
    uint64_t early;        /* attachment that is to be taken over at once; 0: none */
    pn_link_t *loser;      /* another one of its name takes this one over; NULL: none */
    struct link_deal deal;
    uint32_t first_count; /* of those that are to come first */
    uint64_t lost, last;  /* attachments: of the loser, and of what came last */
    /* Of one that shares: */
    struct share_holder holder;
    uint64_t attach_ms; /* when it asked */
};

static unsigned peers;
static uint64_t attachments, count, again_count, attach_count;

void link_peers_begin(void)
{
    peers = 0;
    attachments = count = again_count = attach_count = 0;
    link_deals_begin();
    link_share_begin();
}

/* ------------------------------------------------ attach */

static void take_over_early(struct amqp_wire *wire);

static void forget(struct link_peer *peer)
{
    memset(peer->had, 0, ATTEMPTS_MAX * sizeof *peer->had);
    peer->first_count = 0;
    link_deal_drop(&peer->deal);
}

static void begin_stay(struct link_peer *peer)
{
    if (peer->stay != NULL)
        kept_leaving(peer->stay);
    peer->stay =
        kept_stay_new(peer->session, filters[peer->filter].address, filters[peer->filter].topics);
    kept_asked(peer->stay, 1);
    forget(peer);
    peer->gone = false;
}

/* For what is there for certain, or for certain is not. */
static bool may_look(const struct link_peer *peer)
{
    bool kept = peer->stay != NULL && peer->stay->confirmed && !peer->stay->given_up;
    return peer->kept && !peer->calm && (kept || peer->gone);
}

static void attach(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    unsigned before = peer->filter;
    char name[16];
    peer->looks = may_look(peer) && sim_chance(50);
    if (!peer->looks && !peer->shared && !peer->calm && peer->loser == NULL && sim_chance(15))
        peer->filter = (unsigned)sim_below(FILTERS);
    if (!peer->looks && peer->kept && (peer->stay == NULL || peer->filter != before))
        begin_stay(peer);
    if (!peer->shared && !peer->kept)
        forget(peer);
    snprintf(name, sizeof name, peer->shared ? LINK_SHARE "|%s" : "kept", wire->container);
    peer->link = pn_receiver(peer->channel, name);
    pn_terminus_t *source = pn_link_source(peer->link);
    if (peer->looks) {
        pn_terminus_set_type(source, PN_UNSPECIFIED);
    } else {
        pn_terminus_set_address(source, filters[peer->filter].address);
    }
    if (!peer->looks && (peer->kept || peer->shared)) {
        pn_terminus_set_durability(source, PN_DELIVERIES);
        pn_terminus_set_expiry_policy(source, PN_EXPIRE_NEVER);
    }
    if (peer->shared) {
        pn_data_t *capabilities = pn_terminus_capabilities(source);
        pn_data_put_array(capabilities, false, PN_SYMBOL);
        pn_data_enter(capabilities);
        pn_data_put_symbol(capabilities, pn_bytes(6, "shared"));
        pn_data_put_symbol(capabilities, pn_bytes(6, "global"));
        pn_data_exit(capabilities);
    }
    pn_link_open(peer->link);
    pn_link_flow(peer->link, (int)(1 + sim_below(CREDIT)));
    peer->early = 0;
    peer->takes = peer->loser != NULL;
    bool goes_on = peer->stay != NULL && peer->filter == before && !peer->gone;
    if (goes_on && peer->kept && !peer->calm && peer->loser == NULL && sim_chance(50)) {
        peer->early = attachments + 1;
        amqp_wire_later(wire, sim_below(TWICE_MS), take_over_early);
    }
    peer->in = peer->leaving = peer->giving_up = false;
    peer->attachment = ++attachments;
    peer->attach_ms = sim_disk_now_ms();
    moment(MOMENT_ATTACH_SENT);
    amqp_wire_talk(wire);
}

static void act(struct amqp_wire *wire);

static void attached(struct link_peer *peer)
{
    pn_terminus_t *source = pn_link_remote_source(peer->link);
    bool ends = pn_terminus_get_expiry_policy(source) == PN_EXPIRE_WITH_LINK;
    if ((peer->kept || peer->shared) &&
        (pn_terminus_get_durability(source) != PN_DELIVERIES ||
         (!ends && pn_terminus_get_expiry_policy(source) != PN_EXPIRE_NEVER) ||
         pn_terminus_get_timeout(source) != (ends ? KEPT_S : 0)))
        history_fail("%s: its link is not kept", peer->wire.container);
    if (peer->gone)
        history_fail("%s finds what it had given up", peer->wire.container);
    if (peer->looks && strcmp(pn_terminus_get_address(source), filters[peer->filter].address) != 0)
        history_fail("%s finds %s", peer->wire.container, pn_terminus_get_address(source));
    if (peer->shared && sim_disk_now_ms() - peer->attach_ms > ATTACH_MS)
        history_fail("%s waits %llu ms to share", peer->wire.container,
                     (unsigned long long)(sim_disk_now_ms() - peer->attach_ms));
    peer->in = true;
    if (peer->shared)
        link_share_is_kept();
    if (peer->kept) {
        attach_count += peer->stay->confirmed;
        kept_session_heard(peer->session, peer->said_all && peer->said_life == history_life());
        kept_confirmed(peer->stay);
    }
    peer->said_all = false;
    amqp_wire_later(&peer->wire, 1 + sim_below(PAUSE_MS), act);
    if (peer->kept && peer->takes && sim_chance(85)) {
        peer->early = peer->attachment;
        amqp_wire_later(&peer->wire, sim_below(TWICE_MS), take_over_early);
    }
}

static void deal_act(struct amqp_wire *wire);

static void up(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    peer->link = NULL;
    peer->channel = wire->session;
    link_deal_up(&peer->deal);
    amqp_wire_later(wire, 1 + sim_below(DEAL_PAUSE_MS), deal_act);
    attach(wire);
}

/* ------------------------------------------------ transactions */

static void deal_act(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    link_deal_act(&peer->deal);
    if (!peer->calm || peer->deal.state != DEAL_NONE)
        amqp_wire_later(wire, 1 + sim_below(DEAL_PAUSE_MS), deal_act);
}

static void deal_ends(struct amqp_wire *wire, uint32_t attempt, enum link_deal_end end)
{
    struct link_peer *peer = (struct link_peer *)wire;
    if (peer->shared && end == LINK_DEAL_LEFT)
        link_share_ended(attempt, false);
    if (peer->shared || end == LINK_DEAL_LEFT)
        return;
    struct had *had = &peer->had[attempt];
    if (end == LINK_DEAL_DONE && !had->within)
        history_fail("%s gets attempt %u again, which is committed", wire->container, attempt);
    had->over = end == LINK_DEAL_DONE;
    had->owed |= end == LINK_DEAL_BACK && had->within;
    if (had->owed && !peer->kept && !had->first && peer->deal.state == DEAL_ENDING) {
        had->first = true;
        peer->first_count++;
    }
}

/* ------------------------------------------------ deliveries */

struct thinking {
    struct link_peer *peer;
    uint64_t generation, attachment;
    pn_delivery_t *delivery;
    struct message message;
};

/* True: it is over for the receiver, or of what is shared for all. */
static bool put_outcome(const struct link_peer *peer, pn_delivery_t *delivery)
{
    unsigned what = peer->calm ? 0 : (unsigned)sim_below(100);
    pn_disposition_t *local = pn_delivery_local(delivery);
    bool here = what < 90 || sim_chance(50);
    uint64_t outcome = what < 75   ? PN_ACCEPTED
                       : what < 80 ? PN_REJECTED
                       : what < 90 ? PN_RELEASED
                                   : PN_MODIFIED;
    if (outcome == PN_MODIFIED) {
        pn_disposition_set_failed(local, sim_chance(50));
        pn_disposition_set_undeliverable(local, !here);
    }
    pn_delivery_update(delivery, outcome);
    return outcome == PN_ACCEPTED || outcome == PN_REJECTED || !here;
}

/* False: it is none of a transaction. */
static bool end_within(struct link_peer *peer, pn_delivery_t *delivery, uint32_t attempt)
{
    if (pn_delivery_settled(delivery))
        return false;
    uint32_t deal = link_deal_take(&peer->deal, delivery, attempt);
    if (deal != 0 && peer->shared)
        link_share_taken(attempt, deal);
    else if (deal != 0)
        peer->had[attempt].wanted_again = peer->had[attempt].within = true;
    return deal != 0;
}

static void decide(void *context)
{
    struct thinking *thinking = context;
    struct link_peer *peer = thinking->peer;
    uint32_t attempt = thinking->message.attempt;
    if (peer->wire.generation == thinking->generation && peer->attachment == thinking->attachment &&
        peer->link != NULL && !peer->leaving) {
        bool within = end_within(peer, thinking->delivery, attempt);
        bool over = !within && put_outcome(peer, thinking->delivery);
        if (peer->shared && over && sim_chance(50)) /* it waits for the answer */
            pn_delivery_set_context(thinking->delivery, (void *)((uintptr_t)attempt + 1));
        else
            pn_delivery_settle(thinking->delivery);
        pn_link_flow(peer->link, 1);
        moment(MOMENT_OUTCOME_SENT);
        if (within) {
            /* as the transaction ends */
        } else if (peer->shared) {
            link_share_ended(attempt, over);
        } else if (over && peer->kept) {
            kept_acknowledged(peer->stay, thinking->message);
        } else if (over) {
            peer->had[attempt].over = true;
        } else {
            peer->had[attempt].wanted_again = peer->had[attempt].owed = true;
        }
        amqp_wire_talk(&peer->wire);
    }
    heap_free(thinking);
}

/* What was released comes again whenever the gateway likes, else it is as with any session. */
static void own_came(struct link_peer *peer, pn_delivery_t *delivery, struct message message,
                     uint64_t attachment)
{
    struct had *had = &peer->had[message.attempt];
    pn_delivery_tag_t tag = pn_delivery_tag(delivery);
    if (peer->kept &&
        (tag.size != TAG_MAX || (had->came && memcmp(had->tag, tag.start, TAG_MAX) != 0)))
        history_fail("%s gets attempt %u under another tag", peer->wire.container, message.attempt);
    if (had->over)
        history_fail("%s gets attempt %u, which it has ended", peer->wire.container,
                     message.attempt);
    if (!had->came && peer->first_count > 0)
        history_fail("%s gets attempt %u before what was rolled back", peer->wire.container,
                     message.attempt);
    peer->first_count -= had->first;
    had->within = had->first = false;
    again_count += had->came;
    if (!peer->kept && had->came && !had->wanted_again)
        history_fail("%s gets attempt %u again", peer->wire.container, message.attempt);
    if (peer->kept && !had->wanted_again)
        kept_seen(peer->stay, message, 1, true, false, attachment);
    had->came = true;
    had->owed = false;
    if (peer->kept)
        memcpy(had->tag, tag.start, TAG_MAX);
}

static void arrived(struct link_peer *peer, pn_delivery_t *delivery, uint64_t attachment)
{
    pn_message_t *decoded = pn_message();
    struct message message;
    if (!history_parse(amqp_wire_text(delivery, decoded), &message))
        history_fail("%s gets what nobody published", peer->wire.container);
    pn_message_free(decoded);
    pn_link_advance(pn_delivery_link(delivery));
    count++;
    if (attachment == peer->lost && peer->last == peer->attachment)
        history_fail("%s gets attempt %u on a link that it has lost", peer->wire.container,
                     message.attempt);
    peer->last = attachment;
    if (peer->shared)
        again_count += link_share_came(&peer->holder, message.attempt);
    else
        own_came(peer, delivery, message, attachment);
    struct thinking *thinking = heap_new(sizeof *thinking);
    *thinking = (struct thinking){peer, peer->wire.generation, attachment, delivery, message};
    sim_after(sim_below(peer->calm ? 2 : THINK_MS), decide, thinking);
}

static void answered(pn_delivery_t *delivery)
{
    uintptr_t attempt = (uintptr_t)pn_delivery_get_context(delivery);
    if (attempt == 0 || !pn_delivery_settled(delivery))
        return;
    if (pn_delivery_remote_state(delivery) == pn_delivery_local_state(delivery))
        link_share_answered((uint32_t)(attempt - 1));
    pn_delivery_settle(delivery);
}

/* ------------------------------------------------ the end of a link */

static const char *condition_of(pn_link_t *link)
{
    pn_condition_t *why = pn_link_remote_condition(link);
    return pn_condition_is_set(why) ? pn_condition_get_name(why) : "nothing";
}

static void check_asked(const struct link_peer *peer)
{
    pn_condition_t *why = pn_link_remote_condition(peer->link);
    const char *name = condition_of(peer->link);
    if ((!peer->leaving || pn_condition_is_set(why)) && !sim_disk_has_failed())
        history_fail("%s: its link is ended with %s", peer->wire.container, name);
}

static void found_nothing(struct link_peer *peer)
{
    pn_link_close(peer->link);
    pn_link_free(peer->link);
    peer->link = NULL;
    amqp_wire_later(&peer->wire, 1 + sim_below(AWAY_MS), attach);
}

static void link_ended(struct link_peer *peer)
{
    if (peer->looks && peer->gone && strcmp(condition_of(peer->link), "amqp:not-found") == 0) {
        found_nothing(peer);
        return;
    }
    check_asked(peer);
    if (!peer->leaving) {
        peer->wire.hang_up = true;
        return;
    }
    if (peer->giving_up && peer->kept) {
        if (peer->stay != NULL)
            kept_left(peer->stay);
        peer->stay = NULL;
        peer->gone = !pn_condition_is_set(pn_link_remote_condition(peer->link));
    }
    peer->said_all = true;
    peer->said_life = history_life();
    pn_link_free(peer->link);
    peer->link = NULL;
    amqp_wire_later(&peer->wire, 1 + sim_below(sim_chance(50) ? 5 : AWAY_MS), attach);
}

static void loser_ended(struct link_peer *peer)
{
    if (strcmp(condition_of(peer->loser), "amqp:link:stolen") != 0 && !sim_disk_has_failed())
        history_fail("%s: the link that it lost is ended with %s", peer->wire.container,
                     condition_of(peer->loser));
    pn_link_close(peer->loser);
    pn_link_free(peer->loser);
    peer->loser = NULL;
}

static void loser_event(struct link_peer *peer, pn_event_t *event)
{
    pn_delivery_t *delivery = pn_event_delivery(event);
    pn_event_type_t type = pn_event_type(event);
    if (type == PN_LINK_REMOTE_DETACH || type == PN_LINK_REMOTE_CLOSE)
        loser_ended(peer);
    else if (type == PN_DELIVERY && pn_delivery_readable(delivery) &&
             !pn_delivery_partial(delivery))
        arrived(peer, delivery, peer->lost);
}

static void event(struct amqp_wire *wire, pn_event_t *event)
{
    struct link_peer *peer = (struct link_peer *)wire;
    pn_delivery_t *delivery = pn_event_delivery(event);
    link_deal_event(&peer->deal, event);
    if (peer->loser != NULL && pn_event_link(event) == peer->loser) {
        loser_event(peer, event);
        return;
    }
    if (pn_event_link(event) != peer->link || peer->link == NULL)
        return;
    switch (pn_event_type(event)) {
    case PN_LINK_REMOTE_OPEN: /* one that is refused has no source */
        if (pn_terminus_get_address(pn_link_remote_source(peer->link)) != NULL)
            attached(peer);
        break;
    case PN_LINK_REMOTE_DETACH:
    case PN_LINK_REMOTE_CLOSE:
        link_ended(peer);
        break;
    case PN_DELIVERY:
        if (pn_delivery_readable(delivery) && !pn_delivery_partial(delivery))
            arrived(peer, delivery, peer->attachment);
        else
            answered(delivery);
        break;
    default:
        break;
    }
}

/* ------------------------------------------------ coming and going */

static void leave_link(struct link_peer *peer, bool for_good)
{
    peer->leaving = true;
    peer->deal.left = true;
    peer->giving_up = for_good;
    if (for_good && peer->stay != NULL)
        kept_leaving(peer->stay);
    if (for_good)
        pn_link_close(peer->link);
    else
        pn_link_detach(peer->link);
    moment(MOMENT_DETACH_SENT);
    amqp_wire_talk(&peer->wire);
}

/* Another link of the same name, in a session of its own: the first is told, and what it has not
 * settled comes to the second. */
static void take_over(struct link_peer *peer)
{
    peer->deal.left = true;
    peer->loser = peer->link;
    peer->lost = peer->attachment;
    if (peer->in) { /* else it is as it was before this attach */
        peer->said_all = true;
        peer->said_life = history_life();
    }
    peer->channel = pn_session(peer->wire.driver.connection);
    pn_session_open(peer->channel);
    attach(&peer->wire);
}

/* While it has perhaps not been attached. */
static void take_over_early(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    if (!peer->calm && peer->link != NULL && !peer->leaving && peer->early == peer->attachment &&
        peer->loser == NULL)
        take_over(peer);
}

static void act(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    if (peer->calm || peer->link == NULL || peer->leaving)
        return;
    unsigned what = (unsigned)sim_below(100);
    if (what < 15)
        sim_disconnect(&wire->peer);
    else if (what < 30)
        sim_vanish(&wire->peer, sim_below(3000));
    else if (what < 60)
        leave_link(peer, false);
    else if (what < 68)
        leave_link(peer, true);
    else if (what < 78 && peer->kept && peer->loser == NULL)
        take_over(peer);
    else
        amqp_wire_later(wire, 1 + sim_below(PAUSE_MS), act);
}

/* What was to be given up may be, or not. */
static void down(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    if (peer->giving_up && peer->link != NULL)
        peer->stay = NULL;
    peer->link = peer->loser = NULL;
    peer->giving_up = false;
    link_deal_down(&peer->deal);
}

struct link_peer *link_peer_new(enum link_kind kind, void (*dial)(struct sim_peer *peer))
{
    struct link_peer *peer = heap_new(sizeof *peer);
    amqp_wire_init(&peer->wire, "link", peers++, dial);
    peer->wire.away_ms = AWAY_MS;
    peer->wire.up = up;
    peer->wire.event = event;
    peer->wire.down = down;
    peer->shared = kind == LINK_SHARED;
    peer->kept = kind == LINK_KEPT;
    peer->deal = (struct link_deal){.wire = &peer->wire, .ends = deal_ends};
    peer->holder = (struct share_holder){peer->wire.container, &peer->wire.peer, &peer->attachment,
                                         &peer->leaving};
    if (!peer->shared)
        peer->had = heap_array(ATTEMPTS_MAX, sizeof *peer->had);
    if (peer->kept)
        peer->session = kept_session_new(peer->wire.container, false);
    return peer;
}

void link_peer_start(struct link_peer *peer)
{
    amqp_wire_start(&peer->wire);
}

void link_peer_calm(struct link_peer *peer)
{
    peer->calm = peer->deal.calm = true;
}

void link_peer_finish(struct link_peer *peer)
{
    if (!peer->in || peer->link == NULL)
        history_fail("%s never gets in", peer->wire.container);
    if (peer->loser != NULL)
        history_fail("%s is never told that it lost a link", peer->wire.container);
    for (uint32_t i = 0; i < history_attempts() && !peer->shared; i++)
        if (peer->had[i].owed)
            history_fail("%s released attempt %u, and it never came again", peer->wire.container,
                         i);
    if (peer->kept)
        peer->stay->live = true;
    peer->wire.wanted = false;
}

uint64_t link_peers_count(void)
{
    return count;
}

uint64_t link_peers_again(void)
{
    return again_count;
}

uint64_t link_peers_attach(void)
{
    return attach_count;
}

uint64_t link_peers_deals(void)
{
    return link_deals_count();
}
