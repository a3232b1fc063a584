/* SPDX-License-Identifier: Apache-2.0 */
/* See amqp_peer.h. On the world loop. */
#include "tests/sim/amqp_peer.h"

#include <proton/codec.h>
#include <proton/connection_driver.h>
#include <proton/connection.h>
#include <proton/delivery.h>
#include <proton/disposition.h>
#include <proton/link.h>
#include <proton/message.h>
#include <proton/session.h>
#include <proton/terminus.h>
#include <proton/transport.h>
#include <stdio.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "tests/sim/work_history.h"

enum {
    DECLARED = 0x33,
    TRANSACTIONAL = 0x34,
    QUEUES = 2,
    CREDIT = 8,
    HELD_MAX = QUEUES * CREDIT * 4,
    LEASE_MS = 30000,
    LEASE_SLACK_MS = 1000, /* it began before the delivery came */
    TICK_MS = 20000,
    PAUSE_MS = 40,
    AWAY_MS = 300,
    THINK_MS = 60
};

enum deal_state { DEAL_NONE, DEAL_ASKED, DEAL_OPEN, DEAL_ENDING };

struct held {
    pn_delivery_t *delivery; /* NULL: free */
    uint32_t work;
    uint64_t serial;
    uint64_t until_ms;
    bool in_deal;
};

struct amqp_peer {
    struct sim_peer peer; /* first */
    void (*dial)(struct sim_peer *peer);
    char name[16];
    bool wanted, calm, talking, hang_up;
    bool leaving;        /* it has said close: whatever it holds is anybody's */
    uint64_t generation; /* of the connection, so that late events do nothing */
    uint64_t serial;
    pn_connection_driver_t driver;
    pn_link_t *senders[QUEUES], *coordinator;
    struct held held[HELD_MAX];
    enum deal_state deal_state;
    uint32_t deal;
    bool deal_commits;
    char deal_id[32];
    size_t deal_id_size;
    uint64_t tag;
};

/* A message or a request, as the sender waits for its answer: in the delivery's context. */
enum sent_kind { SENT_WORK = 1, SENT_DECLARE, SENT_DISCHARGE };
struct sent {
    enum sent_kind kind;
    uint32_t work;
    bool in_deal;
};

/* ------------------------------------------------ bytes */

static void handle(struct amqp_peer *peer, pn_event_t *event);

static void talk(struct amqp_peer *peer)
{
    if (peer->talking || peer->peer.shared == NULL)
        return;
    peer->talking = true;
    for (bool more = true; more;) {
        pn_event_t *event;
        while ((event = pn_connection_driver_next_event(&peer->driver)) != NULL)
            handle(peer, event);
        pn_bytes_t bytes = pn_connection_driver_write_buffer(&peer->driver);
        more = bytes.size > 0;
        if (!more)
            break;
        sim_send(&peer->peer, span_of(bytes.start, bytes.size));
        pn_connection_driver_write_done(&peer->driver, bytes.size);
    }
    peer->talking = false;
    if (peer->hang_up || pn_connection_driver_finished(&peer->driver))
        sim_disconnect(&peer->peer);
}

static void received(struct sim_peer *sim_peer, struct span bytes)
{
    struct amqp_peer *peer = (struct amqp_peer *)sim_peer;
    uint64_t generation = peer->generation;
    while (bytes.size > 0 && peer->generation == generation && peer->peer.shared != NULL) {
        pn_rwbytes_t room = pn_connection_driver_read_buffer(&peer->driver);
        size_t size = bytes.size < room.size ? bytes.size : room.size;
        if (size == 0)
            return;
        memcpy(room.start, bytes.data, size);
        pn_connection_driver_read_done(&peer->driver, size);
        bytes = span_from(bytes, size);
        talk(peer);
    }
}

/* ------------------------------------------------ links */

static void open_all(struct amqp_peer *peer)
{
    static const char *const addresses[QUEUES] = {"/queues/" WORK_QUEUE, "/queues/" MORE_QUEUE};
    pn_connection_t *connection = peer->driver.connection;
    pn_connection_set_container(connection, peer->name);
    pn_connection_open(connection);
    pn_session_t *session = pn_session(connection);
    pn_session_open(session);
    for (unsigned i = 0; i < QUEUES; i++) {
        char name[16];
        snprintf(name, sizeof name, "to%u", i);
        peer->senders[i] = pn_sender(session, name);
        pn_terminus_set_address(pn_link_target(peer->senders[i]), addresses[i]);
        pn_link_open(peer->senders[i]);
        snprintf(name, sizeof name, "from%u", i);
        pn_link_t *receiver = pn_receiver(session, name);
        pn_terminus_set_address(pn_link_source(receiver), addresses[i]);
        pn_link_open(receiver);
        pn_link_flow(receiver, (int)(1 + sim_below(CREDIT)));
    }
    peer->coordinator = pn_sender(session, "deals");
    pn_terminus_t *target = pn_link_target(peer->coordinator);
    pn_terminus_set_type(target, PN_COORDINATOR);
    pn_data_put_symbol(pn_terminus_capabilities(target), pn_bytes(23, "amqp:local-transactions"));
    pn_link_open(peer->coordinator);
}

static void put_deal(struct amqp_peer *peer, pn_delivery_t *delivery, bool accepted)
{
    pn_data_t *data = pn_disposition_data(pn_delivery_local(delivery));
    pn_data_clear(data);
    pn_data_put_list(data);
    pn_data_enter(data);
    pn_data_put_binary(data, pn_bytes(peer->deal_id_size, peer->deal_id));
    if (accepted) {
        pn_data_put_described(data);
        pn_data_enter(data);
        pn_data_put_ulong(data, PN_ACCEPTED);
        pn_data_put_list(data);
        pn_data_exit(data);
    }
    pn_data_exit(data);
    pn_delivery_update(delivery, TRANSACTIONAL);
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
        put_deal(peer, delivery, false);
    uint8_t head[5] = {0x00, 0x53, 0x75, 0xa0, (uint8_t)strlen(text)};
    pn_link_send(link, (const char *)head, sizeof head);
    pn_link_send(link, text, strlen(text));
    pn_link_advance(link);
}

static void declare(struct amqp_peer *peer)
{
    static const uint8_t body[] = {0x00, 0x53, 0x77, 0x00, 0x53, 0x31, 0x45};
    if (pn_link_credit(peer->coordinator) <= 0)
        return;
    put_message(peer, peer->coordinator, SENT_DECLARE);
    pn_link_send(peer->coordinator, (const char *)body, sizeof body);
    pn_link_advance(peer->coordinator);
    peer->deal_state = DEAL_ASKED;
}

/* What it took may go to others from now on, if it was settled, or when it is rolled back. */
static void discharge(struct amqp_peer *peer)
{
    uint8_t size = (uint8_t)peer->deal_id_size;
    uint8_t head[] = {0x00, 0x53, 0x77, 0x00, 0x53, 0x32, 0xc0, (uint8_t)(size + 4), 2, 0xa0, size};
    if (pn_link_credit(peer->coordinator) <= 0)
        return;
    peer->deal_commits = sim_chance(70);
    if (peer->deal_commits)
        deal_promised(peer->deal);
    else
        deal_fate(peer->deal, FATE_REFUSED);
    uint8_t fail = peer->deal_commits ? 0x42 : 0x41;
    put_message(peer, peer->coordinator, SENT_DISCHARGE);
    pn_link_send(peer->coordinator, (const char *)head, sizeof head);
    pn_link_send(peer->coordinator, peer->deal_id, peer->deal_id_size);
    pn_link_send(peer->coordinator, (const char *)&fail, 1);
    pn_link_advance(peer->coordinator);
    peer->deal_state = DEAL_ENDING;
}

/* It is over: others may get it, and there is room for another. */
static void let_go(struct held *held)
{
    pn_link_flow(pn_delivery_link(held->delivery), 1);
    pn_delivery_settle(held->delivery);
    held->delivery = NULL;
    work_let_go(held->work);
}

/* ------------------------------------------------ answers to what was sent */

static void deal_ended(struct amqp_peer *peer, pn_delivery_t *delivery)
{
    bool committed = pn_delivery_remote_state(delivery) == PN_ACCEPTED;
    if (peer->deal_commits) /* in doubt: the connection has ended without an answer */
        deal_fate(peer->deal, committed ? FATE_ACKNOWLEDGED : FATE_REFUSED);
    peer->deal_state = DEAL_NONE;
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
    if (pn_delivery_remote_state(delivery) != DECLARED)
        return;
    pn_data_t *data = pn_disposition_data(pn_delivery_remote(delivery));
    pn_data_rewind(data);
    pn_data_next(data);
    pn_data_enter(data);
    pn_data_next(data);
    pn_bytes_t id = pn_data_get_binary(data);
    if (id.size == 0 || id.size > sizeof peer->deal_id)
        history_fail("a transaction without an id");
    memcpy(peer->deal_id, id.start, id.size);
    peer->deal_id_size = id.size;
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

static void accept(struct amqp_peer *peer, struct held *held)
{
    held->in_deal = peer->deal_state == DEAL_OPEN && !peer->calm && sim_chance(70);
    work_taking(held->work, held->in_deal ? peer->deal : 0);
    if (held->in_deal)
        put_deal(peer, held->delivery, true);
    else
        pn_delivery_update(held->delivery, PN_ACCEPTED);
}

static void decide(void *context)
{
    struct thinking *thinking = context;
    struct amqp_peer *peer = thinking->peer;
    struct held *held = &peer->held[thinking->index];
    bool same = peer->generation == thinking->generation && held->serial == thinking->serial &&
                held->delivery != NULL && !peer->leaving;
    heap_free(thinking);
    if (!same)
        return;
    if (peer->calm || sim_chance(70)) {
        accept(peer, held);
    } else {
        pn_delivery_t *delivery = held->delivery;
        bool modified = sim_chance(50);
        if (modified)
            pn_disposition_set_failed(pn_delivery_local(delivery), sim_chance(50));
        pn_delivery_update(delivery, modified ? PN_MODIFIED : PN_RELEASED);
        let_go(held);
    }
    talk(peer);
}

static void arrived(struct amqp_peer *peer, pn_delivery_t *delivery)
{
    pn_link_t *link = pn_delivery_link(delivery);
    char bytes[512];
    ssize_t size = pn_link_recv(link, bytes, sizeof bytes);
    pn_message_t *message = pn_message();
    if (size <= 0 || pn_message_decode(message, bytes, (size_t)size) != 0)
        history_fail("%s got what is no message", peer->name);
    pn_data_t *body = pn_message_body(message);
    pn_data_rewind(body);
    pn_data_next(body);
    pn_bytes_t text =
        pn_data_type(body) == PN_STRING ? pn_data_get_string(body) : pn_data_get_binary(body);
    unsigned index = 0;
    while (index < HELD_MAX && peer->held[index].delivery != NULL)
        index++;
    if (index == HELD_MAX)
        history_fail("%s holds too much", peer->name);
    struct held *held = &peer->held[index];
    *held = (struct held){.delivery = delivery,
                          .serial = ++peer->serial,
                          .until_ms = sim_now_ms() + LEASE_MS - LEASE_SLACK_MS};
    held->work = work_came(span_of(text.start, text.size), &peer->peer, held->until_ms);
    pn_message_free(message);
    if (peer->leaving)
        work_let_go(held->work);
    pn_link_advance(link);
    pn_delivery_set_context(delivery, held);
    struct thinking *thinking = heap_new(sizeof *thinking);
    *thinking = (struct thinking){peer, peer->generation, held->serial, index};
    sim_after(sim_below(THINK_MS), decide, thinking);
}

/* The gateway says that the outcome is durable. */
static void settled(pn_delivery_t *delivery)
{
    struct held *held = pn_delivery_get_context(delivery);
    if (held == NULL || held->delivery != delivery)
        return;
    if (pn_delivery_remote_state(delivery) == PN_ACCEPTED && sim_now_ms() < held->until_ms)
        work_taken(held->work);
    let_go(held);
}

static void handle(struct amqp_peer *peer, pn_event_t *event)
{
    pn_delivery_t *delivery = pn_event_delivery(event);
    switch (pn_event_type(event)) {
    case PN_DELIVERY:
        if (pn_link_is_sender(pn_event_link(event)))
            answered(peer, delivery);
        else if (pn_delivery_readable(delivery) && !pn_delivery_partial(delivery))
            arrived(peer, delivery);
        else if (pn_delivery_updated(delivery) && pn_delivery_settled(delivery))
            settled(delivery);
        break;
    case PN_CONNECTION_REMOTE_CLOSE:
    case PN_LINK_REMOTE_CLOSE:
    case PN_SESSION_REMOTE_CLOSE:
    case PN_TRANSPORT_ERROR:
        peer->hang_up = true;
        break;
    default:
        break;
    }
}

/* ------------------------------------------------ coming and going */

struct acting {
    struct amqp_peer *peer;
    uint64_t generation;
};

static void act(void *context);

static void later(struct amqp_peer *peer, uint64_t delay_ms, void (*run)(void *))
{
    struct acting *acting = heap_new(sizeof *acting);
    *acting = (struct acting){peer, peer->generation};
    sim_after(delay_ms, run, acting);
}

static struct amqp_peer *still(void *context)
{
    struct acting *acting = context;
    struct amqp_peer *peer = acting->peer;
    bool same = peer->generation == acting->generation && peer->peer.shared != NULL;
    heap_free(acting);
    return same ? peer : NULL;
}

/* What was not discharged never will be. */
static void forsake(struct amqp_peer *peer)
{
    if (peer->deal_state == DEAL_OPEN)
        deal_fate(peer->deal, FATE_REFUSED);
    peer->deal_state = DEAL_NONE;
    work_holder_gone(&peer->peer);
}

static void leave(struct amqp_peer *peer)
{
    pn_connection_close(peer->driver.connection);
    peer->leaving = true;
    if (peer->deal_state != DEAL_ENDING)
        forsake(peer);
    work_holder_gone(&peer->peer);
}

static void act(void *context)
{
    struct amqp_peer *peer = still(context);
    if (peer == NULL || (peer->calm && peer->deal_state == DEAL_NONE))
        return;
    /* In thousands: each connection has some time for its deals. */
    unsigned what = peer->calm ? UINT32_MAX : (unsigned)sim_below(1000);
    if (what < 8) {
        sim_disconnect(&peer->peer);
        return;
    }
    if (what < 16) {
        sim_vanish(&peer->peer, sim_below(3000));
        return;
    }
    if (what < 24) {
        leave(peer);
    } else {
        for (uint64_t count = peer->calm ? 0 : sim_below(3); count > 0; count--)
            send_work(peer);
        if (peer->deal_state == DEAL_NONE && sim_chance(50))
            declare(peer);
        else if (peer->deal_state == DEAL_OPEN && sim_chance(20))
            discharge(peer);
        later(peer, 1 + sim_below(PAUSE_MS), act);
    }
    talk(peer);
}

static void tick(void *context)
{
    struct amqp_peer *peer = still(context);
    if (peer == NULL)
        return;
    pn_transport_tick(peer->driver.transport, (int64_t)sim_now_ms());
    later(peer, TICK_MS, tick);
    talk(peer);
}

static void come(void *context)
{
    struct amqp_peer *peer = context;
    if (!peer->wanted || peer->peer.shared != NULL)
        return;
    peer->dial(&peer->peer);
    if (peer->peer.shared == NULL)
        return; /* refused: closed() comes */
    peer->generation++;
    peer->hang_up = peer->leaving = false;
    peer->deal_state = DEAL_NONE;
    memset(peer->held, 0, sizeof peer->held);
    CHECK(pn_connection_driver_init(&peer->driver, NULL, NULL) == 0);
    pn_connection_driver_bind(&peer->driver);
    open_all(peer);
    later(peer, 1 + sim_below(PAUSE_MS), act);
    later(peer, 0, tick);
    talk(peer);
}

static void free_sent(struct amqp_peer *peer)
{
    pn_link_t *link = pn_link_head(peer->driver.connection, 0);
    for (; link != NULL; link = pn_link_next(link, 0)) {
        pn_delivery_t *delivery = pn_link_is_sender(link) ? pn_unsettled_head(link) : NULL;
        for (; delivery != NULL; delivery = pn_unsettled_next(delivery))
            heap_free(pn_delivery_get_context(delivery));
    }
}

static void closed(struct sim_peer *sim_peer)
{
    struct amqp_peer *peer = (struct amqp_peer *)sim_peer;
    if (peer->driver.connection != NULL) {
        forsake(peer);
        free_sent(peer);
        pn_connection_driver_destroy(&peer->driver);
        memset(&peer->driver, 0, sizeof peer->driver);
    }
    peer->generation++;
    if (peer->wanted)
        sim_after(1 + sim_below(AWAY_MS), come, peer);
}

struct amqp_peer *amqp_peer_new(unsigned number, void (*dial)(struct sim_peer *peer))
{
    struct amqp_peer *peer = heap_new(sizeof *peer);
    peer->peer.received = received;
    peer->peer.closed = closed;
    peer->dial = dial;
    snprintf(peer->name, sizeof peer->name, "amqp%u", number);
    return peer;
}

void amqp_peer_start(struct amqp_peer *peer)
{
    peer->wanted = true;
    come(peer);
}

void amqp_peer_calm(struct amqp_peer *peer)
{
    peer->calm = true;
}

void amqp_peer_stop(struct amqp_peer *peer)
{
    if (peer->peer.shared == NULL ||
        !(pn_connection_state(peer->driver.connection) & PN_REMOTE_ACTIVE))
        history_fail("%s never gets in", peer->name);
    peer->wanted = false;
    sim_disconnect(&peer->peer);
}
