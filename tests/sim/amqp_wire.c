/* SPDX-License-Identifier: Apache-2.0 */
/* See amqp_wire.h. */
#include "tests/sim/amqp_wire.h"

#include <proton/codec.h>
#include <proton/transport.h>
#include <stdio.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "tests/sim/history.h"

enum { TICK_MS = 20000, AWAY_MS = 300, MESSAGE_MAX = 1024 };

/* A gateway whose disk has failed says so, and ends no connection without a reason otherwise. */
static void check_goodbye(const struct amqp_wire *wire)
{
    pn_condition_t *why = pn_connection_remote_condition(wire->driver.connection);
    const char *name = pn_condition_is_set(why) ? pn_condition_get_name(why) : "nothing";
    bool asked = (pn_connection_state(wire->driver.connection) & PN_LOCAL_CLOSED) != 0;
    if (pn_condition_is_set(why)
            ? strcmp(name, "amqp:internal-error") != 0 || !sim_disk_has_failed()
            : !asked)
        history_fail("%s: its connection is ended with %s", wire->container, name);
}

static void handle(struct amqp_wire *wire, pn_event_t *event)
{
    switch (pn_event_type(event)) {
    case PN_CONNECTION_REMOTE_CLOSE:
        check_goodbye(wire);
        wire->hang_up = true;
        break;
    case PN_SESSION_REMOTE_CLOSE:
    case PN_TRANSPORT_ERROR:
        wire->hang_up = true;
        break;
    default:
        if (pn_event_type(event) == PN_DELIVERY)
            history_gets(wire->container);
        wire->event(wire, event);
    }
}

void amqp_wire_talk(struct amqp_wire *wire)
{
    if (wire->talking || wire->peer.shared == NULL)
        return;
    wire->talking = true;
    for (bool more = true; more;) {
        pn_event_t *event;
        while ((event = pn_connection_driver_next_event(&wire->driver)) != NULL)
            handle(wire, event);
        pn_bytes_t bytes = pn_connection_driver_write_buffer(&wire->driver);
        more = bytes.size > 0;
        if (!more)
            break;
        sim_send(&wire->peer, span_of(bytes.start, bytes.size));
        pn_connection_driver_write_done(&wire->driver, bytes.size);
    }
    wire->talking = false;
    if (wire->hang_up || pn_connection_driver_finished(&wire->driver))
        sim_disconnect(&wire->peer);
}

static void received(struct sim_peer *sim_peer, struct span bytes)
{
    struct amqp_wire *wire = (struct amqp_wire *)sim_peer;
    uint64_t generation = wire->generation;
    while (bytes.size > 0 && wire->generation == generation && wire->peer.shared != NULL) {
        pn_rwbytes_t room = pn_connection_driver_read_buffer(&wire->driver);
        size_t size = bytes.size < room.size ? bytes.size : room.size;
        if (size == 0)
            return;
        memcpy(room.start, bytes.data, size);
        pn_connection_driver_read_done(&wire->driver, size);
        bytes = span_from(bytes, size);
        amqp_wire_talk(wire);
    }
}

/* ------------------------------------------------ coming and going */

struct later {
    struct amqp_wire *wire;
    uint64_t generation;
    void (*run)(struct amqp_wire *wire);
};

static void later_over(void *context)
{
    struct later later = *(struct later *)context;
    heap_free(context);
    if (later.wire->generation == later.generation && later.wire->peer.shared != NULL)
        later.run(later.wire);
}

void amqp_wire_later(struct amqp_wire *wire, uint64_t delay_ms, void (*run)(struct amqp_wire *wire))
{
    struct later *later = heap_new(sizeof *later);
    *later = (struct later){wire, wire->generation, run};
    sim_after(delay_ms, later_over, later);
}

static void tick(struct amqp_wire *wire)
{
    pn_transport_tick(wire->driver.transport, (int64_t)sim_now_ms());
    amqp_wire_later(wire, TICK_MS, tick);
    amqp_wire_talk(wire);
}

static void come(void *context)
{
    struct amqp_wire *wire = context;
    if (!wire->wanted || wire->peer.shared != NULL)
        return;
    wire->dial(&wire->peer);
    if (wire->peer.shared == NULL)
        return; /* refused: closed() comes */
    wire->generation++;
    wire->hang_up = false;
    CHECK(pn_connection_driver_init(&wire->driver, NULL, NULL) == 0);
    pn_connection_driver_bind(&wire->driver);
    pn_connection_set_container(wire->driver.connection, wire->container);
    pn_connection_open(wire->driver.connection);
    wire->session = pn_session(wire->driver.connection);
    pn_session_open(wire->session);
    history_asks(wire->container);
    wire->up(wire);
    amqp_wire_later(wire, 0, tick);
    amqp_wire_talk(wire);
}

static void closed(struct sim_peer *sim_peer)
{
    struct amqp_wire *wire = (struct amqp_wire *)sim_peer;
    if (wire->driver.connection != NULL) {
        wire->down(wire);
        pn_connection_driver_destroy(&wire->driver);
        memset(&wire->driver, 0, sizeof wire->driver);
    }
    wire->generation++;
    if (wire->wanted)
        sim_after(1 + sim_below(wire->away_ms), come, wire);
}

void amqp_wire_init(struct amqp_wire *wire, const char *kind, unsigned number,
                    void (*dial)(struct sim_peer *peer))
{
    wire->peer.received = received;
    wire->peer.closed = closed;
    wire->dial = dial;
    wire->away_ms = AWAY_MS;
    snprintf(wire->container, sizeof wire->container, "%s%u", kind, number);
}

void amqp_wire_start(struct amqp_wire *wire)
{
    wire->wanted = true;
    come(wire);
}

bool amqp_wire_is_in(const struct amqp_wire *wire)
{
    return wire->peer.shared != NULL && wire->driver.connection != NULL &&
           (pn_connection_state(wire->driver.connection) & PN_REMOTE_ACTIVE) != 0;
}

/* ------------------------------------------------ messages */

struct span amqp_wire_text(pn_delivery_t *delivery, pn_message_t *message)
{
    char bytes[MESSAGE_MAX];
    ssize_t size = pn_link_recv(pn_delivery_link(delivery), bytes, sizeof bytes);
    if (size <= 0 || pn_message_decode(message, bytes, (size_t)size) != 0)
        history_fail("what came over AMQP is no message");
    pn_data_t *body = pn_message_body(message);
    pn_data_rewind(body);
    pn_data_next(body);
    pn_bytes_t text =
        pn_data_type(body) == PN_STRING ? pn_data_get_string(body) : pn_data_get_binary(body);
    return span_of(text.start, text.size);
}

void amqp_wire_delay(pn_link_t *link, uint16_t delay_ms)
{
    static const char head[] = "\x00\x53\x72\xc1\x1a\x02\xa3\x14x-opt-delivery-delay\x60";
    const uint8_t number[] = {(uint8_t)(delay_ms >> 8), (uint8_t)delay_ms};
    pn_link_send(link, head, sizeof head - 1);
    pn_link_send(link, (const char *)number, sizeof number);
}

void amqp_wire_send_text(pn_link_t *link, const char *text)
{
    uint8_t head[5] = {0x00, 0x53, 0x75, 0xa0, (uint8_t)strlen(text)};
    pn_link_send(link, (const char *)head, sizeof head);
    pn_link_send(link, text, strlen(text));
    pn_link_advance(link);
}

/* ------------------------------------------------ transactions */

enum { DECLARED = 0x33 };

pn_link_t *amqp_wire_coordinator(struct amqp_wire *wire)
{
    pn_link_t *link = pn_sender(wire->session, "deals");
    pn_terminus_t *target = pn_link_target(link);
    pn_terminus_set_type(target, PN_COORDINATOR);
    pn_data_put_symbol(pn_terminus_capabilities(target), pn_bytes(23, "amqp:local-transactions"));
    pn_link_open(link);
    return link;
}

void amqp_wire_declare(pn_link_t *coordinator)
{
    static const uint8_t body[] = {0x00, 0x53, 0x77, 0x00, 0x53, 0x31, 0x45};
    pn_link_send(coordinator, (const char *)body, sizeof body);
    pn_link_advance(coordinator);
}

void amqp_wire_discharge(pn_link_t *coordinator, const struct amqp_deal *deal, bool fail)
{
    uint8_t size = (uint8_t)deal->size, how = fail ? 0x41 : 0x42;
    uint8_t head[] = {0x00, 0x53, 0x77, 0x00, 0x53, 0x32, 0xc0, (uint8_t)(size + 4), 2, 0xa0, size};
    pn_link_send(coordinator, (const char *)head, sizeof head);
    pn_link_send(coordinator, deal->bytes, deal->size);
    pn_link_send(coordinator, (const char *)&how, 1);
    pn_link_advance(coordinator);
}

bool amqp_wire_declared(pn_delivery_t *answer, struct amqp_deal *deal)
{
    if (pn_delivery_remote_state(answer) != DECLARED)
        return false;
    pn_data_t *data = pn_disposition_data(pn_delivery_remote(answer));
    pn_data_rewind(data);
    pn_data_next(data);
    pn_data_enter(data);
    pn_data_next(data);
    pn_bytes_t id = pn_data_get_binary(data);
    if (id.size == 0 || id.size > sizeof deal->bytes)
        history_fail("a transaction without an id");
    memcpy(deal->bytes, id.start, id.size);
    deal->size = id.size;
    return true;
}

void amqp_wire_put_deal(const struct amqp_deal *deal, pn_delivery_t *delivery, uint64_t outcome)
{
    pn_data_t *data = pn_disposition_data(pn_delivery_local(delivery));
    pn_data_clear(data);
    pn_data_put_list(data);
    pn_data_enter(data);
    pn_data_put_binary(data, pn_bytes(deal->size, deal->bytes));
    if (outcome != 0) {
        pn_data_put_described(data);
        pn_data_enter(data);
        pn_data_put_ulong(data, outcome);
        pn_data_put_list(data);
        pn_data_exit(data);
    }
    pn_data_exit(data);
    pn_delivery_update(delivery, AMQP_TRANSACTIONAL);
}
