/* SPDX-License-Identifier: Apache-2.0 */
/* See link_deal.h. */
#include "tests/sim/link_deal.h"

#include "tests/sim/amqp_peer.h"
#include "tests/sim/moment.h"
#include "tests/sim/work_history.h"

static uint64_t done_count;

void link_deals_begin(void)
{
    done_count = 0;
}

static pn_delivery_t *new_delivery(struct link_deal *deal, pn_link_t *link)
{
    deal->tag++;
    return pn_delivery(link, pn_dtag((const char *)&deal->tag, sizeof deal->tag));
}

static void declare(struct link_deal *deal)
{
    new_delivery(deal, deal->coordinator);
    amqp_wire_declare(deal->coordinator);
    deal->state = DEAL_ASKED;
}

static void end_all(struct link_deal *deal, enum link_deal_end end)
{
    for (uint32_t i = 0; i < deal->taken_count; i++)
        deal->ends(deal->wire, deal->taken[i], end);
}

static void discharge(struct link_deal *deal)
{
    char text[16];
    bool forgets = !deal->calm && sim_chance(10);
    deal->commits = !forgets && (deal->calm || sim_chance(75));
    pn_delivery_t *message = new_delivery(deal, deal->sender);
    work_sent(deal->number, text);
    amqp_wire_put_deal(&deal->id, message, 0);
    amqp_wire_send_text(deal->sender, text);
    pn_delivery_settle(message);
    if (deal->commits)
        deal_promised(deal->number);
    else
        deal_fate(deal->number, FATE_REFUSED);
    end_all(deal, LINK_DEAL_LEFT);
    if (forgets) {
        end_all(deal, LINK_DEAL_BACK);
        deal->state = DEAL_NONE;
        return;
    }
    new_delivery(deal, deal->coordinator);
    amqp_wire_discharge(deal->coordinator, &deal->id, !deal->commits);
    deal->state = DEAL_ENDING;
    moment(MOMENT_DISCHARGE_SENT);
}

static void discharged(struct link_deal *deal, bool accepted)
{
    bool done = accepted && deal->commits;
    if (!accepted && deal->commits && !deal->left && !sim_disk_has_failed())
        history_fail("%s: its transaction is refused", deal->wire->container);
    if (deal->commits)
        deal_fate(deal->number, done ? FATE_ACKNOWLEDGED : FATE_REFUSED);
    if (done)
        done_count += deal->taken_count;
    if (done || !sim_disk_has_failed()) /* else nobody knows */
        end_all(deal, done ? LINK_DEAL_DONE : LINK_DEAL_BACK);
    deal->state = DEAL_NONE;
    moment(MOMENT_DISCHARGED);
}

void link_deal_event(struct link_deal *deal, pn_event_t *event)
{
    pn_delivery_t *delivery = pn_event_delivery(event);
    if (delivery == NULL || pn_event_link(event) != deal->coordinator)
        return;
    uint64_t state = pn_delivery_remote_state(delivery);
    if (state == 0 && !pn_delivery_settled(delivery))
        return;
    if (deal->state == DEAL_ASKED) {
        bool open = amqp_wire_declared(delivery, &deal->id);
        deal->state = open ? DEAL_OPEN : DEAL_NONE;
        deal->number = open ? deal_new() : 0;
        deal->taken_count = 0;
        deal->left = false;
    } else if (deal->state == DEAL_ENDING) {
        discharged(deal, state == PN_ACCEPTED);
    }
    pn_delivery_settle(delivery);
}

void link_deal_act(struct link_deal *deal)
{
    bool can = pn_link_credit(deal->coordinator) > 0 && pn_link_credit(deal->sender) > 0;
    if (can && deal->state == DEAL_NONE && sim_chance(50))
        declare(deal);
    else if (can && deal->state == DEAL_OPEN && (deal->calm || sim_chance(25)))
        discharge(deal);
    amqp_wire_talk(deal->wire);
}

void link_deal_up(struct link_deal *deal)
{
    struct amqp_wire *wire = deal->wire;
    deal->coordinator = amqp_wire_coordinator(wire);
    deal->sender = pn_sender(wire->session, "to");
    pn_terminus_set_address(pn_link_target(deal->sender), "/queues/" WORK_QUEUE);
    pn_link_open(deal->sender);
}

void link_deal_down(struct link_deal *deal)
{
    if (deal->state == DEAL_OPEN) {
        deal_fate(deal->number, FATE_REFUSED);
        end_all(deal, LINK_DEAL_BACK);
    }
    deal->state = DEAL_NONE;
}

void link_deal_drop(struct link_deal *deal)
{
    deal->taken_count = 0;
}

uint32_t link_deal_take(struct link_deal *deal, pn_delivery_t *delivery, uint32_t attempt)
{
    if (deal->state != DEAL_OPEN || deal->taken_count == LINK_DEAL_TAKEN_MAX || deal->calm ||
        sim_chance(30))
        return 0;
    amqp_wire_put_deal(&deal->id, delivery, PN_ACCEPTED);
    deal->taken[deal->taken_count++] = attempt;
    moment(MOMENT_DEAL_PART_SENT);
    return deal->number;
}

uint64_t link_deals_count(void)
{
    return done_count;
}
