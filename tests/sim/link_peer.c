/* SPDX-License-Identifier: Apache-2.0 */
/* See link_peer.h. On the world loop. */
#include "tests/sim/link_peer.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "tests/sim/amqp_wire.h"
#include "tests/sim/kept_history.h"
#include "tests/sim/moment.h"

enum {
    FILTERS = 5,
    CREDIT = 20,
    THINK_MS = 30,
    PAUSE_MS = 500,
    AWAY_MS = 1500,
    TAG_MAX = 16,
};

static const struct {
    const char *address;
    uint32_t topics;
} filters[FILTERS] = {
    {"/topics/t/+", (1u << TOPICS) - 1},
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
    uint8_t tag[TAG_MAX];
};

struct link_peer {
    struct amqp_wire wire; /* first */
    bool shared, calm;
    pn_link_t *link; /* NULL: there is none now */
    bool in;         /* the attach is answered */
    bool leaving, giving_up;
    uint64_t attachment; /* number of all, ever; 0: none yet */
    unsigned filter;
    struct kept_session *session;
    struct stay *stay; /* NULL: of nothing is known that it is kept */
    bool said_all;     /* the last link ended only behind everything that was said */
    unsigned said_life;
    struct had *had; /* by attempt, of this subscription */
};

static unsigned peers;
static uint64_t attachments, count, again_count, attach_count;

/* Of the share, by attempt. */
static uint32_t since; /* attempts from here on are its */
static struct {
    bool seen, ended;
    const struct link_peer *holder; /* NULL: it may go to another */
    uint64_t attachment;
    unsigned life;
} shares[ATTEMPTS_MAX];

void link_peers_begin(void)
{
    peers = 0;
    attachments = count = again_count = attach_count = 0;
    since = UINT32_MAX;
    memset(shares, 0, sizeof shares);
}

/* ------------------------------------------------ attach */

static void begin_stay(struct link_peer *peer)
{
    if (peer->stay != NULL)
        kept_leaving(peer->stay);
    peer->stay =
        kept_stay_new(peer->session, filters[peer->filter].address, filters[peer->filter].topics);
    kept_asked(peer->stay, 1);
    memset(peer->had, 0, ATTEMPTS_MAX * sizeof *peer->had);
}

static void attach(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    unsigned before = peer->filter;
    char name[16];
    if (!peer->shared && !peer->calm && sim_chance(15))
        peer->filter = (unsigned)sim_below(FILTERS);
    if (!peer->shared && (peer->stay == NULL || peer->filter != before))
        begin_stay(peer);
    snprintf(name, sizeof name, peer->shared ? "both|%s" : "kept", wire->container);
    peer->link = pn_receiver(wire->session, name);
    pn_terminus_t *source = pn_link_source(peer->link);
    pn_terminus_set_address(source, filters[peer->filter].address);
    pn_terminus_set_durability(source, PN_DELIVERIES);
    pn_terminus_set_expiry_policy(source, PN_EXPIRE_NEVER);
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
    peer->in = peer->leaving = peer->giving_up = false;
    peer->attachment = ++attachments;
    moment(MOMENT_ATTACH_SENT);
    amqp_wire_talk(wire);
}

static void act(struct amqp_wire *wire);

static void attached(struct link_peer *peer)
{
    pn_terminus_t *source = pn_link_remote_source(peer->link);
    if (pn_terminus_get_durability(source) != PN_DELIVERIES ||
        pn_terminus_get_expiry_policy(source) != PN_EXPIRE_NEVER)
        history_fail("%s: its link is not kept", peer->wire.container);
    peer->in = true;
    if (peer->shared && since == UINT32_MAX)
        since = history_attempts();
    if (!peer->shared) {
        attach_count += peer->stay->confirmed;
        kept_session_heard(peer->session, peer->said_all && peer->said_life == history_life());
        kept_confirmed(peer->stay);
    }
    peer->said_all = false;
    amqp_wire_later(&peer->wire, 1 + sim_below(PAUSE_MS), act);
}

static void up(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    peer->link = NULL;
    attach(wire);
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

static void decide(void *context)
{
    struct thinking *thinking = context;
    struct link_peer *peer = thinking->peer;
    uint32_t attempt = thinking->message.attempt;
    if (peer->wire.generation == thinking->generation && peer->attachment == thinking->attachment &&
        peer->link != NULL && !peer->leaving) {
        bool over = put_outcome(peer, thinking->delivery);
        pn_delivery_settle(thinking->delivery);
        pn_link_flow(peer->link, 1);
        moment(MOMENT_OUTCOME_SENT);
        if (peer->shared) {
            shares[attempt].ended |= over;
            if (!over)
                shares[attempt].holder = NULL;
        } else if (over) {
            kept_acknowledged(peer->stay, thinking->message);
        } else {
            peer->had[attempt].wanted_again = peer->had[attempt].owed = true;
        }
        amqp_wire_talk(&peer->wire);
    }
    heap_free(thinking);
}

static bool holds(const struct link_peer *peer, uint64_t attachment)
{
    return peer != NULL && sim_is_open(&peer->wire.peer) && peer->attachment == attachment &&
           !peer->leaving;
}

static void share_came(struct link_peer *peer, uint32_t attempt)
{
    if (shares[attempt].life == history_life() && peer->link != NULL && !peer->leaving &&
        holds(shares[attempt].holder, shares[attempt].attachment))
        history_fail("%s gets attempt %u, which %s %s", peer->wire.container, attempt,
                     shares[attempt].holder->wire.container,
                     shares[attempt].ended ? "has ended" : "holds");
    again_count += shares[attempt].seen;
    shares[attempt].seen = true;
    shares[attempt].holder = peer;
    shares[attempt].attachment = peer->attachment;
    shares[attempt].life = history_life();
}

/* What was released comes again whenever the gateway likes, else it is as with any session. */
static void kept_came(struct link_peer *peer, pn_delivery_t *delivery, struct message message)
{
    struct had *had = &peer->had[message.attempt];
    pn_delivery_tag_t tag = pn_delivery_tag(delivery);
    if (tag.size != TAG_MAX || (had->came && memcmp(had->tag, tag.start, TAG_MAX) != 0))
        history_fail("%s gets attempt %u under another tag", peer->wire.container, message.attempt);
    again_count += had->came;
    if (!had->wanted_again)
        kept_seen(peer->stay, message, 1, true, false, peer->attachment);
    had->came = true;
    had->owed = false;
    memcpy(had->tag, tag.start, TAG_MAX);
}

static void arrived(struct link_peer *peer, pn_delivery_t *delivery)
{
    pn_message_t *decoded = pn_message();
    struct message message;
    if (!history_parse(amqp_wire_text(delivery, decoded), &message))
        history_fail("%s gets what nobody published", peer->wire.container);
    pn_message_free(decoded);
    pn_link_advance(peer->link);
    count++;
    if (peer->shared)
        share_came(peer, message.attempt);
    else
        kept_came(peer, delivery, message);
    struct thinking *thinking = heap_new(sizeof *thinking);
    *thinking = (struct thinking){peer, peer->wire.generation, peer->attachment, delivery, message};
    sim_after(sim_below(peer->calm ? 2 : THINK_MS), decide, thinking);
}

/* ------------------------------------------------ the end of a link */

static void check_asked(const struct link_peer *peer)
{
    pn_condition_t *why = pn_link_remote_condition(peer->link);
    const char *name = pn_condition_is_set(why) ? pn_condition_get_name(why) : "nothing";
    if ((!peer->leaving || pn_condition_is_set(why)) && !sim_disk_has_failed())
        history_fail("%s: its link is ended with %s", peer->wire.container, name);
}

static void link_ended(struct link_peer *peer)
{
    check_asked(peer);
    if (!peer->leaving) {
        peer->wire.hang_up = true;
        return;
    }
    if (peer->giving_up && !peer->shared) {
        kept_left(peer->stay);
        peer->stay = NULL;
    }
    peer->said_all = true;
    peer->said_life = history_life();
    pn_link_free(peer->link);
    peer->link = NULL;
    amqp_wire_later(&peer->wire, 1 + sim_below(sim_chance(50) ? 5 : AWAY_MS), attach);
}

static void event(struct amqp_wire *wire, pn_event_t *event)
{
    struct link_peer *peer = (struct link_peer *)wire;
    if (pn_event_link(event) != peer->link || peer->link == NULL)
        return;
    pn_delivery_t *delivery = pn_event_delivery(event);
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
            arrived(peer, delivery);
        break;
    default:
        break;
    }
}

/* ------------------------------------------------ coming and going */

static void leave_link(struct link_peer *peer, bool for_good)
{
    peer->leaving = true;
    peer->giving_up = for_good;
    if (for_good && !peer->shared)
        kept_leaving(peer->stay);
    if (for_good)
        pn_link_close(peer->link);
    else
        pn_link_detach(peer->link);
    moment(MOMENT_DETACH_SENT);
    amqp_wire_talk(&peer->wire);
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
    else
        amqp_wire_later(wire, 1 + sim_below(PAUSE_MS), act);
}

/* What was to be given up may be, or not. */
static void down(struct amqp_wire *wire)
{
    struct link_peer *peer = (struct link_peer *)wire;
    if (peer->giving_up && peer->link != NULL)
        peer->stay = NULL;
    peer->link = NULL;
    peer->giving_up = false;
}

struct link_peer *link_peer_new(bool shared, void (*dial)(struct sim_peer *peer))
{
    struct link_peer *peer = heap_new(sizeof *peer);
    amqp_wire_init(&peer->wire, "link", peers++, dial);
    peer->wire.away_ms = AWAY_MS;
    peer->wire.up = up;
    peer->wire.event = event;
    peer->wire.down = down;
    peer->shared = shared;
    if (!shared) {
        peer->had = heap_array(ATTEMPTS_MAX, sizeof *peer->had);
        peer->session = kept_session_new(peer->wire.container);
    }
    return peer;
}

void link_peer_start(struct link_peer *peer)
{
    amqp_wire_start(&peer->wire);
}

void link_peer_calm(struct link_peer *peer)
{
    peer->calm = true;
}

void link_peer_finish(struct link_peer *peer)
{
    if (!peer->in || peer->link == NULL)
        history_fail("%s never gets in", peer->wire.container);
    for (uint32_t i = 0; i < history_attempts() && !peer->shared; i++)
        if (peer->had[i].owed)
            history_fail("%s released attempt %u, and it never came again", peer->wire.container,
                         i);
    if (!peer->shared)
        peer->stay->live = true;
    peer->wire.wanted = false;
}

void link_peers_check(void)
{
    for (uint32_t i = since; i < history_attempts(); i++)
        if (history_is_acknowledged(i) && !shares[i].ended)
            history_fail("attempt %u was acknowledged, and no link of a durable share %s it", i,
                         shares[i].seen ? "ended" : "saw");
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
