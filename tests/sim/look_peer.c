/* SPDX-License-Identifier: Apache-2.0 */
/* See look_peer.h. On the world loop. */
#include "tests/sim/look_peer.h"

#include "tests/sim/amqp_wire.h"
#include "tests/sim/history.h"
#include "tests/sim/link_share.h"

enum { LOOK_MS = 12, PAUSE_MS = 1500, AWAY_MS = 500 };

static struct {
    struct amqp_wire wire; /* first */
    pn_link_t *link;       /* NULL: there is none now */
    bool leaving;          /* it has said so */
    unsigned left;         /* how often that was answered */
} look;

static void leave(struct amqp_wire *wire)
{
    if (look.link == NULL || look.leaving)
        return; /* refused meanwhile */
    look.leaving = true;
    pn_link_detach(look.link);
    amqp_wire_talk(wire);
}

/* A source of which nothing is said: whatever is kept under the name. */
static void attach(struct amqp_wire *wire)
{
    look.link = pn_receiver(wire->session, LINK_SHARE "|global");
    look.leaving = false;
    pn_terminus_set_type(pn_link_source(look.link), PN_UNSPECIFIED);
    pn_link_open(look.link);
    amqp_wire_talk(wire);
    if (sim_chance(20))
        leave(wire); /* in the same breath */
    else
        amqp_wire_later(wire, sim_below(LOOK_MS), leave);
}

static void up(struct amqp_wire *wire)
{
    amqp_wire_later(wire, sim_below(PAUSE_MS), attach);
}

static void event(struct amqp_wire *wire, pn_event_t *event)
{
    pn_event_type_t type = pn_event_type(event);
    if ((type != PN_LINK_REMOTE_DETACH && type != PN_LINK_REMOTE_CLOSE) ||
        pn_event_link(event) != look.link)
        return;
    if (!look.leaving)
        pn_link_close(look.link);
    look.left += look.leaving;
    pn_link_free(look.link);
    look.link = NULL;
    amqp_wire_later(wire, 1 + sim_below(PAUSE_MS), attach);
}

static void down(struct amqp_wire *wire)
{
    (void)wire;
    look.link = NULL;
}

void look_peer_begin(void (*dial)(struct sim_peer *peer))
{
    amqp_wire_init(&look.wire, "look", 0, dial);
    look.wire.away_ms = AWAY_MS;
    look.wire.up = up;
    look.wire.event = event;
    look.wire.down = down;
    look.link = NULL;
    look.left = 0;
    amqp_wire_start(&look.wire);
}

void look_peer_check(void)
{
    if (look.left == 0)
        history_fail("who looks for a share is never told that its link has ended");
    look.wire.wanted = false;
}
