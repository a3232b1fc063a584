/* SPDX-License-Identifier: Apache-2.0 */
/* See amqp_peer.h. On the world loop. */
#include "tests/sim/amqp_peer.h"

#include <proton/codec.h>
#include <stdio.h>

#include "core/base/heap.h"
#include "tests/sim/amqp_wire.h"
#include "tests/sim/moment.h"
#include "tests/sim/work_history.h"

enum {
    QUEUES = 3,
    CREDIT = 8,
    HELD_MAX = 2 * QUEUES * CREDIT * 4,
    LEASE_MS = 30000,
    LEASE_SLACK_MS = 1000, /* it began before the delivery came */
    PAUSE_MS = 40,
    DELAY_MS = 2000,
    SLOW_PERCENT = 5, /* while the disk stands still */
    THINK_MS = 60
};

/* What goes to the topic has the last queue as its home. */
static const struct {
    const char *to, *from, *dead;
} queues[QUEUES] = {
#define QUEUE(name) "/queues/" name, "/queues/" name "/groups/amqp/deadletters"
    {"/queues/" WORK_QUEUE, QUEUE(WORK_QUEUE)},
    {"/queues/" MORE_QUEUE, QUEUE(MORE_QUEUE)},
    {"/topics/" DEAL_TOPIC, QUEUE(DEAL_QUEUE)},
#undef QUEUE
};

enum deal_state { DEAL_NONE, DEAL_ASKED, DEAL_OPEN, DEAL_ENDING };

struct held {
    pn_delivery_t *delivery; /* NULL: free */
    uint32_t work, arrival;
    uint64_t serial;
    uint64_t until_ms;
    bool in_deal, dead;
    enum work_end end; /* once it was decided */
};

struct amqp_peer {
    struct amqp_wire wire; /* first */
    bool calm;
    bool leaving; /* it has said close: whatever it holds is anybody's */
    uint64_t serial;
    pn_link_t *senders[QUEUES], *coordinator;
    struct held held[HELD_MAX];
    enum deal_state deal_state;
    uint32_t deal;
    bool deal_commits;
    struct amqp_deal deal_id;
    uint64_t tag;
};

/* A message or a request, as the sender waits for its answer: in the delivery's context. */
enum sent_kind { SENT_WORK = 1, SENT_DECLARE, SENT_DISCHARGE };
struct sent {
    enum sent_kind kind;
    uint32_t work;
    bool in_deal;
};

static void act(struct amqp_wire *wire);

/* ------------------------------------------------ links */

static void open_receiver(struct amqp_peer *peer, const char *kind, unsigned number,
                          const char *address)
{
    char name[16];
    snprintf(name, sizeof name, "%s%u", kind, number);
    pn_link_t *receiver = pn_receiver(peer->wire.session, name);
    pn_terminus_set_address(pn_link_source(receiver), address);
    pn_link_open(receiver);
    pn_link_flow(receiver, (int)(1 + sim_below(CREDIT)));
}

static void up(struct amqp_wire *wire)
{
    struct amqp_peer *peer = (struct amqp_peer *)wire;
    peer->leaving = false;
    peer->deal_state = DEAL_NONE;
    memset(peer->held, 0, sizeof peer->held);
    for (unsigned i = 0; i < QUEUES; i++) {
        char name[16];
        snprintf(name, sizeof name, "to%u", i);
        peer->senders[i] = pn_sender(wire->session, name);
        pn_terminus_set_address(pn_link_target(peer->senders[i]), queues[i].to);
        pn_link_open(peer->senders[i]);
        open_receiver(peer, "from", i, queues[i].from);
        open_receiver(peer, "dead", i, queues[i].dead);
    }
    peer->coordinator = amqp_wire_coordinator(wire);
    amqp_wire_later(wire, 1 + sim_below(PAUSE_MS), act);
}

static pn_delivery_t *put_message(struct amqp_peer *peer, pn_link_t *link, enum sent_kind kind)
{
    struct sent *sent = heap_new(sizeof *sent);
    sent->kind = kind;
    peer->tag++;
    pn_delivery_t *delivery =
        pn_delivery(link, pn_dtag((const char *)&peer->tag, sizeof peer->tag));
    pn_delivery_set_context(delivery, sent);
    return delivery;
}

static void send_work(struct amqp_peer *peer)
{
    pn_link_t *link = peer->senders[sim_below(QUEUES)];
    bool in_deal = peer->deal_state == DEAL_OPEN && sim_chance(60);
    char text[16];
    if (pn_link_credit(link) <= 0 || !(pn_link_state(link) & PN_REMOTE_ACTIVE))
        return;
    pn_delivery_t *delivery = put_message(peer, link, SENT_WORK);
    struct sent *sent = pn_delivery_get_context(delivery);
    sent->work = work_sent(in_deal ? peer->deal : 0, text);
    sent->in_deal = in_deal;
    if (in_deal)
        amqp_wire_put_deal(&peer->deal_id, delivery, 0);
    if (sim_chance(20)) {
        uint16_t delay_ms = (uint16_t)(1 + sim_below(DELAY_MS));
        work_delayed(sent->work, delay_ms);
        amqp_wire_delay(link, delay_ms);
    }
    amqp_wire_send_text(link, text);
    moment(in_deal ? MOMENT_DEAL_PART_SENT : MOMENT_TRANSFER_SENT);
}

static void declare(struct amqp_peer *peer)
{
    if (pn_link_credit(peer->coordinator) <= 0)
        return;
    put_message(peer, peer->coordinator, SENT_DECLARE);
    amqp_wire_declare(peer->coordinator);
    peer->deal_state = DEAL_ASKED;
}

/* What it took may go to others from now on, if it was settled, or when it is rolled back. */
static void discharge(struct amqp_peer *peer)
{
    if (pn_link_credit(peer->coordinator) <= 0)
        return;
    peer->deal_commits = sim_chance(70);
    if (peer->deal_commits)
        deal_promised(peer->deal);
    else
        deal_fate(peer->deal, FATE_REFUSED);
    put_message(peer, peer->coordinator, SENT_DISCHARGE);
    amqp_wire_discharge(peer->coordinator, &peer->deal_id, !peer->deal_commits);
    peer->deal_state = DEAL_ENDING;
    moment(MOMENT_DISCHARGE_SENT);
}

/* It is over: others may get it, and there is room for another. */
static void let_go(struct held *held)
{
    pn_link_flow(pn_delivery_link(held->delivery), 1);
    pn_delivery_settle(held->delivery);
    held->delivery = NULL;
    if (!held->dead)
        work_let_go(held->work, held->arrival);
}

/* ------------------------------------------------ answers to what was sent */

static void deal_ended(struct amqp_peer *peer, pn_delivery_t *delivery)
{
    bool committed = pn_delivery_remote_state(delivery) == PN_ACCEPTED;
    if (peer->deal_commits) /* in doubt: the connection has ended without an answer */
        deal_fate(peer->deal, committed ? FATE_ACKNOWLEDGED : FATE_REFUSED);
    peer->deal_state = DEAL_NONE;
    moment(MOMENT_DISCHARGED);
    for (struct held *held = peer->held; held < peer->held + HELD_MAX; held++) {
        if (held->delivery == NULL || !held->in_deal)
            continue;
        held->in_deal = false;
        if (committed && peer->deal_commits)
            continue; /* the gateway settles it */
        /* It is still here. */
        pn_delivery_update(held->delivery, PN_RELEASED);
        let_go(held);
    }
}

static void declared(struct amqp_peer *peer, pn_delivery_t *delivery)
{
    peer->deal_state = DEAL_NONE;
    if (!amqp_wire_declared(delivery, &peer->deal_id))
        return;
    peer->deal = deal_new();
    peer->deal_state = DEAL_OPEN;
}

static void answered(struct amqp_peer *peer, pn_delivery_t *delivery)
{
    struct sent *sent = pn_delivery_get_context(delivery);
    uint64_t state = pn_delivery_remote_state(delivery);
    if (sent == NULL || (state == 0 && !pn_delivery_settled(delivery)))
        return;
    if (sent->kind == SENT_DECLARE)
        declared(peer, delivery);
    else if (sent->kind == SENT_DISCHARGE)
        deal_ended(peer, delivery);
    else if (!sent->in_deal && (state == PN_ACCEPTED || state == PN_REJECTED))
        work_fate(sent->work, state == PN_ACCEPTED ? FATE_ACKNOWLEDGED : FATE_REFUSED);
    pn_delivery_set_context(delivery, NULL);
    heap_free(sent);
    pn_delivery_settle(delivery);
}

/* ------------------------------------------------ deliveries */

struct thinking {
    struct amqp_peer *peer;
    uint64_t generation, serial;
    unsigned index;
};

static const uint64_t states[] = {
    [WORK_DONE] = PN_ACCEPTED,
    [WORK_REJECTED] = PN_REJECTED,
    [WORK_FAILED] = PN_MODIFIED,
    [WORK_RELEASED] = PN_RELEASED,
};

/* Modified is a failure when delivery-failed says so, else as released; with undeliverable-here
 * others have it. */
static void put_outcome(struct held *held)
{
    pn_disposition_t *local = pn_delivery_local(held->delivery);
    uint64_t state = states[held->end];
    if (held->end == WORK_FAILED) {
        pn_disposition_set_failed(local, true);
        pn_disposition_set_undeliverable(local, sim_chance(30));
    } else if (held->end == WORK_RELEASED && sim_chance(50)) {
        state = PN_MODIFIED;
        pn_disposition_set_undeliverable(local, sim_chance(50));
    }
    pn_delivery_update(held->delivery, state);
}

/* What is neither done nor rejected may be let go without waiting for an answer. */
static void end_it(struct amqp_peer *peer, struct held *held, enum work_end end)
{
    bool settles = end == WORK_DONE || end == WORK_REJECTED;
    held->end = end;
    held->in_deal = settles && peer->deal_state == DEAL_OPEN && !peer->calm && sim_chance(70);
    work_ending(held->work, end, held->in_deal ? peer->deal : 0);
    if (held->in_deal) {
        amqp_wire_put_deal(&peer->deal_id, held->delivery, states[end]);
        moment(MOMENT_DEAL_PART_SENT);
        return;
    }
    put_outcome(held);
    moment(MOMENT_OUTCOME_SENT);
    if (!settles && sim_chance(50))
        let_go(held);
    else if (!settles)
        work_let_go(held->work, held->arrival); /* its answer is still to come */
}

static void decide(void *context)
{
    struct thinking *thinking = context;
    struct amqp_peer *peer = thinking->peer;
    struct held *held = &peer->held[thinking->index];
    bool same = peer->wire.generation == thinking->generation && held->serial == thinking->serial &&
                held->delivery != NULL && !peer->leaving;
    heap_free(thinking);
    if (!same)
        return;
    unsigned what = peer->calm ? 0 : (unsigned)sim_below(100);
    if (held->dead && what < 80) {
        held->end = WORK_DONE;
        pn_delivery_update(held->delivery, PN_ACCEPTED);
    } else if (held->dead) {
        pn_delivery_update(held->delivery, PN_RELEASED);
        let_go(held);
    } else {
        end_it(peer, held,
               what < 70   ? WORK_DONE
               : what < 76 ? WORK_REJECTED
               : what < 88 ? WORK_FAILED
                           : WORK_RELEASED);
    }
    amqp_wire_talk(&peer->wire);
}

static struct held *place_for(struct amqp_peer *peer, pn_delivery_t *delivery)
{
    struct held *held = peer->held;
    while (held < peer->held + HELD_MAX && held->delivery != NULL)
        held++;
    if (held == peer->held + HELD_MAX)
        history_fail("%s holds too much", peer->wire.container);
    *held = (struct held){.delivery = delivery,
                          .serial = ++peer->serial,
                          .until_ms = sim_now_ms() + LEASE_MS - LEASE_SLACK_MS};
    return held;
}

/* A map's number or text under that name; false: there is none. */
static bool find(pn_data_t *map, const char *name, pn_atom_t *value)
{
    pn_data_rewind(map);
    if (!pn_data_next(map) || pn_data_type(map) != PN_MAP)
        return false;
    size_t count = pn_data_get_map(map);
    pn_data_enter(map);
    for (size_t i = 0; i + 1 < count && pn_data_next(map); i += 2) {
        pn_bytes_t key =
            pn_data_type(map) == PN_SYMBOL ? pn_data_get_symbol(map) : pn_data_get_string(map);
        bool found = span_is(span_of(key.start, key.size), name);
        if (!pn_data_next(map))
            return false;
        *value = pn_data_get_atom(map);
        if (found)
            return true;
    }
    return false;
}

static uint64_t annotation(pn_message_t *message, const char *name)
{
    pn_atom_t value;
    if (!find(pn_message_annotations(message), name, &value))
        history_fail("a dead letter without %s", name);
    return value.u.as_ulong;
}

static uint32_t dead_came(pn_message_t *message, struct span text)
{
    pn_atom_t reason;
    if (!find(pn_message_annotations(message), "x-opt-dead-letter-reason", &reason))
        history_fail("a dead letter without its reason");
    return work_dead(text, annotation(message, "x-opt-partition"),
                     annotation(message, "x-opt-offset"),
                     span_is(span_of(reason.u.as_bytes.start, reason.u.as_bytes.size), "rejected"));
}

static void arrived(struct amqp_peer *peer, pn_delivery_t *delivery)
{
    pn_link_t *link = pn_delivery_link(delivery);
    /* What was on its way when the gateway closed the connection is nobody's, or another's. */
    if (!sim_is_open(&peer->wire.peer))
        return;
    pn_message_t *message = pn_message();
    struct span text = amqp_wire_text(delivery, message);
    struct held *held = place_for(peer, delivery);
    held->dead = strncmp(pn_link_name(link), "dead", 4) == 0;
    if (held->dead)
        held->work = dead_came(message, text);
    else
        held->work = work_came(text, &peer->wire.peer, held->until_ms,
                               pn_message_get_delivery_count(message));
    held->arrival = held->dead ? 0 : work_arrival(held->work);
    pn_message_free(message);
    if (peer->leaving && !held->dead)
        work_let_go(held->work, held->arrival);
    pn_link_advance(link);
    pn_delivery_set_context(delivery, held);
    struct thinking *thinking = heap_new(sizeof *thinking);
    *thinking =
        (struct thinking){peer, peer->wire.generation, held->serial, (unsigned)(held - peer->held)};
    sim_after(sim_below(THINK_MS), decide, thinking);
}

/* The gateway says that the outcome is durable, or, where it mirrors another one, was not done:
 * which of a live lease it cannot know, also when its store has failed. */
static void settled(const struct amqp_peer *peer, pn_delivery_t *delivery)
{
    struct held *held = pn_delivery_get_context(delivery);
    if (held == NULL || held->delivery != delivery)
        return;
    uint64_t state = pn_delivery_remote_state(delivery);
    bool is_done =
        state == pn_delivery_local_state(delivery) || (held->in_deal && state == states[held->end]);
    if (is_done && sim_now_ms() < held->until_ms && !sim_disk_has_failed()) {
        if (held->dead)
            work_dead_done(held->work);
        else
            work_ended(held->work, held->end, held->arrival);
    }
    if (!is_done && !held->in_deal && sim_now_ms() < held->until_ms)
        history_fail("%s: its outcome %d is answered with state %u", peer->wire.container,
                     (int)held->end, (unsigned)state);
    moment(MOMENT_OUTCOME_CONFIRMED);
    let_go(held);
}

/* A group is made by who asks for it first: until then it has no dead letters. */
static void check_link_end(const struct amqp_peer *peer, pn_link_t *link)
{
    pn_condition_t *why = pn_link_remote_condition(link);
    const char *name = pn_condition_is_set(why) ? pn_condition_get_name(why) : "nothing";
    bool early = strcmp(name, "amqp:not-found") == 0 && strncmp(pn_link_name(link), "dead", 4) == 0;
    if (!early && !sim_disk_has_failed() && !peer->leaving)
        history_fail("%s: its link %s is ended with %s", peer->wire.container, pn_link_name(link),
                     name);
}

static void event(struct amqp_wire *wire, pn_event_t *event)
{
    struct amqp_peer *peer = (struct amqp_peer *)wire;
    pn_delivery_t *delivery = pn_event_delivery(event);
    if (pn_event_type(event) == PN_LINK_REMOTE_CLOSE) {
        check_link_end(peer, pn_event_link(event));
        wire->hang_up = true;
    }
    if (pn_event_type(event) != PN_DELIVERY)
        return;
    if (pn_link_is_sender(pn_event_link(event)))
        answered(peer, delivery);
    else if (pn_delivery_readable(delivery) && !pn_delivery_partial(delivery))
        arrived(peer, delivery);
    else if (pn_delivery_updated(delivery) && pn_delivery_settled(delivery))
        settled(peer, delivery);
}

/* ------------------------------------------------ coming and going */

/* What was not discharged never will be. */
static void forsake(struct amqp_peer *peer)
{
    if (peer->deal_state == DEAL_OPEN)
        deal_fate(peer->deal, FATE_REFUSED);
    peer->deal_state = DEAL_NONE;
    work_holder_gone(&peer->wire.peer);
}

static void leave(struct amqp_peer *peer)
{
    pn_connection_close(peer->wire.driver.connection);
    peer->leaving = true;
    if (peer->deal_state != DEAL_ENDING)
        forsake(peer);
    work_holder_gone(&peer->wire.peer);
}

static void act(struct amqp_wire *wire)
{
    struct amqp_peer *peer = (struct amqp_peer *)wire;
    if (peer->calm && peer->deal_state == DEAL_NONE)
        return;
    /* In thousands: each connection has some time for its deals. */
    unsigned what = peer->calm ? UINT32_MAX : (unsigned)sim_below(1000);
    if (what < 8) {
        sim_disconnect(&wire->peer);
        return;
    }
    if (what < 16) {
        sim_vanish(&wire->peer, sim_below(3000));
        return;
    }
    if (what < 24) {
        leave(peer);
    } else {
        bool sends = !peer->calm && (!sim_disk_stands() || sim_chance(SLOW_PERCENT));
        for (uint64_t count = sends ? sim_below(3) : 0; count > 0; count--)
            send_work(peer);
        if (peer->deal_state == DEAL_NONE && sim_chance(50))
            declare(peer);
        else if (peer->deal_state == DEAL_OPEN && sim_chance(20))
            discharge(peer);
        amqp_wire_later(wire, 1 + sim_below(PAUSE_MS), act);
    }
    amqp_wire_talk(wire);
}

static void down(struct amqp_wire *wire)
{
    forsake((struct amqp_peer *)wire);
    pn_link_t *link = pn_link_head(wire->driver.connection, 0);
    for (; link != NULL; link = pn_link_next(link, 0)) {
        pn_delivery_t *delivery = pn_link_is_sender(link) ? pn_unsettled_head(link) : NULL;
        for (; delivery != NULL; delivery = pn_unsettled_next(delivery))
            heap_free(pn_delivery_get_context(delivery));
    }
}

struct amqp_peer *amqp_peer_new(unsigned number, void (*dial)(struct sim_peer *peer))
{
    struct amqp_peer *peer = heap_new(sizeof *peer);
    amqp_wire_init(&peer->wire, "amqp", number, dial);
    peer->wire.up = up;
    peer->wire.event = event;
    peer->wire.down = down;
    return peer;
}

void amqp_peer_start(struct amqp_peer *peer)
{
    amqp_wire_start(&peer->wire);
}

void amqp_peer_calm(struct amqp_peer *peer)
{
    peer->calm = true;
    sim_disconnect(&peer->wire.peer); /* so that each record can come to some link again */
}

void amqp_peer_stop(struct amqp_peer *peer)
{
    if (!amqp_wire_is_in(&peer->wire))
        history_fail("%s never gets in", peer->wire.container);
    pn_link_t *link = pn_link_head(peer->wire.driver.connection, 0);
    for (; link != NULL; link = pn_link_next(link, 0))
        if ((pn_link_state(link) & PN_REMOTE_ACTIVE) == 0)
            history_fail("%s: its link %s is never attached", peer->wire.container,
                         pn_link_name(link));
    peer->wire.wanted = false;
    sim_disconnect(&peer->wire.peer);
}
