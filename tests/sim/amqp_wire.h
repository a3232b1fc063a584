/* SPDX-License-Identifier: Apache-2.0 */
/* The connection of a scripted AMQP client, on Proton's driver: it dials until it is let in, and
 * again whenever it has been cut. On the world loop. */
#ifndef TESTS_SIM_AMQP_WIRE_H
#define TESTS_SIM_AMQP_WIRE_H

#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/disposition.h>
#include <proton/link.h>
#include <proton/message.h>
#include <proton/session.h>
#include <proton/terminus.h>

#include "tests/sim/sim.h"

struct amqp_wire {
    struct sim_peer peer; /* first */
    void (*dial)(struct sim_peer *peer);
    char container[16];
    bool wanted, hang_up, talking;
    uint64_t generation; /* of the connection, so that late events do nothing */
    uint32_t away_ms;    /* how long it may stay away when it has been cut */
    pn_connection_driver_t driver;
    pn_session_t *session;
    void (*up)(struct amqp_wire *wire); /* connection and session are open on this side */
    void (*event)(struct amqp_wire *wire, pn_event_t *event); /* but of connection and session */
    void (*down)(struct amqp_wire *wire);                     /* the driver is still there */
};

/* The callbacks are set by the caller. */
void amqp_wire_init(struct amqp_wire *wire, const char *kind, unsigned number,
                    void (*dial)(struct sim_peer *peer));
void amqp_wire_start(struct amqp_wire *wire);
void amqp_wire_talk(struct amqp_wire *wire); /* writes what there is to say */
/* Has the gateway opened its end? */
bool amqp_wire_is_in(const struct amqp_wire *wire);
/* run(wire) unless the connection has gone until then. */
void amqp_wire_later(struct amqp_wire *wire, uint64_t delay_ms,
                     void (*run)(struct amqp_wire *wire));
/* The text of a delivery that is all there, and the message to free behind it. */
struct span amqp_wire_text(pn_delivery_t *delivery, pn_message_t *message);
/* What is sent next is to come so much later. */
void amqp_wire_delay(pn_link_t *link, uint16_t delay_ms);
void amqp_wire_send_text(pn_link_t *link, const char *text); /* the delivery is there */

/* Transactions. */
struct amqp_deal {
    char bytes[32]; /* its id */
    size_t size;
};
enum { AMQP_TRANSACTIONAL = 0x34 };
pn_link_t *amqp_wire_coordinator(struct amqp_wire *wire);
/* Requests, of deliveries that are there. */
void amqp_wire_declare(pn_link_t *coordinator);
void amqp_wire_discharge(pn_link_t *coordinator, const struct amqp_deal *deal, bool fail);
bool amqp_wire_declared(pn_delivery_t *answer, struct amqp_deal *deal); /* false: it was refused */
/* The state of what belongs to it; outcome 0: none, of what is sent. */
void amqp_wire_put_deal(const struct amqp_deal *deal, pn_delivery_t *delivery, uint64_t outcome);

#endif
