/* SPDX-License-Identifier: Apache-2.0 */
/* See session_peer.h. Each subscription has an identifier of its own, so that its deliveries are
 * known from those of others; a client of 3.1.1 has one filter for ever. */
#include "tests/sim/session_peer.h"

#include "core/base/heap.h"
#include "tests/sim/moment.h"
#include "tests/sim/kept_history.h"

enum {
    FILTERS = 7,
    STAYS_MAX = 1000,
    REQUESTS = 8,
    PACKET_IDS = 1000,
    SLOW_MS_MAX = 40,
    AWAY_MS = 1500,
    PAUSE_MS = 500
};

static const struct {
    const char *text;
    uint32_t topics;
} filters[FILTERS] = {
    {"t/+", (1u << TOPICS) - 1},
    {"t/#", (1u << TOPICS) - 1},
    {"#", (1u << TOPICS) - 1},
    {"+/5", 1u << 5},
    {"t/6", 1u << 6},
    {"t/7", 1u << 7},
    {"t/0", 1u << 0},
};

enum wish { WISH_NONE, WISH_ASKED, WISH_HELD, WISH_LEAVING };

struct delivery {
    struct stay *stay; /* NULL: none */
    struct message message;
};

struct session_peer {
    struct mqtt_peer peer; /* first */
    struct kept_session *session;
    uint32_t connects;
    bool calm;
    bool certain;         /* there is a session, unless its time has run out */
    uint32_t expiry_s;    /* the least that it may have */
    uint64_t went_ms;     /* when its last connection that was let in ended */
    bool in;              /* this one is */
    bool said_all;        /* the last connection ended only behind everything that it had said */
    unsigned said_life;   /* of the gateway, then */
    uint64_t connection;  /* number of all, ever */
    uint32_t outstanding; /* deliveries of this connection that are not answered */
    unsigned slow_ms;
    struct {
        enum wish state;
        struct stay *stay;
        uint8_t qos;
    } wishes[FILTERS];
    struct {
        uint32_t filters; /* by bit; 0: free */
        bool leaving;
    } requests[REQUESTS];          /* of this connection, by packet id - 1 */
    struct stay *stays[STAYS_MAX]; /* by identifier - 1 */
    uint32_t stay_count;
    struct delivery taken[PACKET_IDS + 1]; /* QoS 2, and not released yet */
    bool open[PACKET_IDS + 1];             /* of this connection, and not answered */
};

static unsigned peers;
static uint64_t connections;

void session_peers_begin(void)
{
    peers = 0;
    connections = 0;
    kept_begin();
}

/* ------------------------------------------------ subscribing */

static bool has_identifiers(const struct session_peer *peer)
{
    return peer->peer.only_5; /* a client of 3.1.1 is set back to that before each CONNECT */
}

/* 0: too much is under way. */
static uint16_t request_new(struct session_peer *peer, uint32_t asked, bool leaving)
{
    for (uint16_t i = 0; i < REQUESTS; i++) {
        if (peer->requests[i].filters != 0)
            continue;
        peer->requests[i].filters = asked;
        peer->requests[i].leaving = leaving;
        return (uint16_t)(i + 1);
    }
    return 0;
}

/* Each filter has one identifier for a stay, so that a packet asks for one filter, or is of 3.1.1.
 */
static void subscribe(struct session_peer *peer, unsigned index)
{
    uint16_t id = request_new(peer, 1u << index, false);
    if (id == 0)
        return;
    if (peer->wishes[index].state == WISH_NONE) {
        if (peer->stay_count == STAYS_MAX)
            history_fail("too many subscriptions");
        peer->wishes[index].stay =
            kept_stay_new(peer->session, filters[index].text, filters[index].topics);
        peer->stays[peer->stay_count++] = peer->wishes[index].stay;
        peer->wishes[index].state = WISH_ASKED;
    }
    struct stay *stay = peer->wishes[index].stay;
    struct mqtt_filter filter = {
        .filter = span_from_text(filters[index].text),
        .qos = sim_chance(50) ? 1 : 2,
    };
    struct mqtt_packet packet = {.type = MQTT_SUBSCRIBE};
    packet.subscribe = (struct mqtt_subscribe){
        .packet_id = id,
        .count = 1,
        .filters = &filter,
        .properties = mqtt_properties_none,
    };
    for (uint32_t i = 0; i < peer->stay_count; i++)
        if (peer->stays[i] == stay)
            packet.subscribe.properties.subscription_id = i + 1;
    packet.subscribe.properties.present = MQTT_HAS(SUBSCRIPTION_ID);
    peer->wishes[index].qos = filter.qos;
    kept_asked(stay, filter.qos);
    mqtt_peer_send(&peer->peer, &packet);
    moment(MOMENT_SUBSCRIBE_SENT);
}

static void unsubscribe(struct session_peer *peer, uint32_t asked)
{
    struct mqtt_filter list[FILTERS];
    struct mqtt_packet packet = {.type = MQTT_UNSUBSCRIBE};
    packet.subscribe.filters = list;
    packet.subscribe.properties = mqtt_properties_none;
    for (unsigned i = 0; i < FILTERS; i++) {
        enum wish state = peer->wishes[i].state;
        if ((asked >> i & 1) != 0 && (state == WISH_ASKED || state == WISH_HELD))
            list[packet.subscribe.count++] =
                (struct mqtt_filter){.filter = span_from_text(filters[i].text)};
        else
            asked &= ~(1u << i);
    }
    packet.subscribe.packet_id = asked == 0 ? 0 : request_new(peer, asked, true);
    if (packet.subscribe.packet_id == 0)
        return;
    for (unsigned i = 0; i < FILTERS; i++) {
        if ((asked >> i & 1) == 0)
            continue;
        peer->wishes[i].state = WISH_LEAVING;
        kept_leaving(peer->wishes[i].stay);
    }
    mqtt_peer_send(&peer->peer, &packet);
    moment(MOMENT_UNSUBSCRIBE_SENT);
}

static void subscribe_answered(struct session_peer *peer, const struct mqtt_suback *answer,
                               bool leaving)
{
    if (answer->packet_id == 0 || answer->packet_id > REQUESTS ||
        peer->requests[answer->packet_id - 1].filters == 0 ||
        peer->requests[answer->packet_id - 1].leaving != leaving)
        history_fail("an answer to request %u, which is not out", answer->packet_id);
    uint32_t asked = peer->requests[answer->packet_id - 1].filters;
    moment(leaving ? MOMENT_UNSUBACK_CAME : MOMENT_SUBACK_CAME);
    peer->requests[answer->packet_id - 1].filters = 0;
    for (unsigned i = 0; i < FILTERS; i++) {
        if ((asked >> i & 1) == 0)
            continue;
        if (leaving) {
            kept_left(peer->wishes[i].stay);
            peer->wishes[i].state = WISH_NONE;
            continue;
        }
        uint8_t reason = answer->reasons.data[0];
        if (reason > 2 && !sim_disk_has_failed())
            history_fail("%s is refused with %02x", filters[i].text, reason);
        if (reason > 2 || peer->wishes[i].state == WISH_LEAVING)
            continue;
        peer->wishes[i].state = WISH_HELD;
        kept_confirmed(peer->wishes[i].stay);
    }
}

/* ------------------------------------------------ deliveries */

struct late_answer {
    struct session_peer *peer;
    uint64_t generation;
    uint16_t id;
    enum mqtt_type type;
    struct delivery of;
};

static void answer_now(void *context)
{
    struct late_answer *late = context;
    struct session_peer *peer = late->peer;
    if (peer->peer.generation == late->generation && peer->peer.connected) {
        if (late->type != MQTT_PUBREC && peer->open[late->id]) {
            peer->open[late->id] = false;
            peer->outstanding--;
        }
        if (late->type == MQTT_PUBACK && late->of.stay != NULL)
            kept_acknowledged(late->of.stay, late->of.message);
        mqtt_peer_ack(&peer->peer, late->type, late->id);
        if (late->type != MQTT_PUBACK)
            moment(late->type == MQTT_PUBREC ? MOMENT_PUBREC_SENT : MOMENT_PUBCOMP_SENT);
    }
    heap_free(late);
}

static void answer_later(struct session_peer *peer, enum mqtt_type type, uint16_t id,
                         struct delivery of)
{
    struct late_answer *late = heap_new(sizeof *late);
    *late = (struct late_answer){peer, peer->peer.generation, id, type, of};
    sim_after(sim_below(peer->slow_ms), answer_now, late);
}

static struct stay *stay_of(struct session_peer *peer, const struct mqtt_publish *publish)
{
    uint32_t identifier = has_identifiers(peer) ? publish->properties.subscription_id : 1;
    if (identifier == 0 || identifier > peer->stay_count ||
        publish->properties.more_subscription_id_count > 0)
        history_fail("%s: a delivery of subscription %u", peer->peer.id, identifier);
    return peer->stays[identifier - 1];
}

static void delivered(struct session_peer *peer, const struct mqtt_publish *publish)
{
    struct delivery delivery = {.stay = stay_of(peer, publish)};
    uint16_t id = publish->packet_id;
    /* Of the widest filter: what others publish for checkers of their own. */
    bool is_foreign = !span_begins(publish->topic, span_from_text("t/"));
    if (publish->qos == 0 || id > PACKET_IDS ||
        (!is_foreign && !history_parse(publish->payload, &delivery.message)))
        history_fail("a delivery with QoS %u under number %u", publish->qos, id);
    if (peer->open[id])
        history_fail("%s: number %u is used again before its answer", peer->peer.id, id);
    peer->open[id] = true;
    if (++peer->outstanding > peer->peer.receive_maximum && has_identifiers(peer))
        history_fail("%s: more deliveries than it takes", peer->peer.id);
    if (is_foreign) {
        answer_later(peer, publish->qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, id, (struct delivery){0});
        return;
    }
    struct delivery *taken = &peer->taken[id];
    bool known = taken->stay != NULL;
    if (known && (publish->qos != 2 || taken->stay != delivery.stay ||
                  taken->message.attempt != delivery.message.attempt))
        history_fail("%s: number %u is used again before it was released", peer->peer.id, id);
    kept_seen(delivery.stay, delivery.message, publish->qos, publish->duplicate, known,
              peer->connection);
    if (publish->qos == 2) {
        *taken = delivery;
        moment(MOMENT_PUBLISH_CAME);
    }
    answer_later(peer, publish->qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, id, delivery);
}

static void session_packet(struct mqtt_peer *mqtt_peer, const struct mqtt_packet *packet)
{
    struct session_peer *peer = (struct session_peer *)mqtt_peer;
    switch (packet->type) {
    case MQTT_SUBACK:
    case MQTT_UNSUBACK:
        subscribe_answered(peer, &packet->suback, packet->type == MQTT_UNSUBACK);
        break;
    case MQTT_PUBLISH:
        delivered(peer, &packet->publish);
        break;
    case MQTT_PUBREL:
        if (packet->ack.packet_id > PACKET_IDS)
            history_fail("%s: number %u is released", mqtt_peer->id, packet->ack.packet_id);
        peer->taken[packet->ack.packet_id].stay = NULL;
        moment(MOMENT_PUBREL_CAME);
        answer_later(peer, MQTT_PUBCOMP, packet->ack.packet_id, (struct delivery){0});
        break;
    default:
        history_fail("%s: unexpected packet %d", mqtt_peer->id, packet->type);
    }
}

/* ------------------------------------------------ coming and going */

static void forget_deliveries(struct session_peer *peer)
{
    memset(peer->taken, 0, sizeof peer->taken);
    for (unsigned i = 0; i < FILTERS; i++)
        peer->wishes[i].state = WISH_NONE;
}

static void session_before(struct mqtt_peer *mqtt_peer)
{
    struct session_peer *peer = (struct session_peer *)mqtt_peer;
    uint32_t before_s = peer->expiry_s;
    peer->connects++;
    moment(MOMENT_CONNECT_SENT);
    mqtt_peer->version = mqtt_peer->only_5 ? MQTT_5 : MQTT_3_1_1;
    mqtt_peer->clean = has_identifiers(peer) && sim_chance(4);
    mqtt_peer->expiry_s = !has_identifiers(peer) || peer->calm || sim_chance(80) ? UINT32_MAX
                          : sim_chance(80) ? (uint32_t)(1 + sim_below(2))
                                           : 0;
    if (sim_chance(30)) /* less room than there are overlapping filters */
        mqtt_peer->receive_maximum = (uint16_t)(1 + sim_below(3));
    if (mqtt_peer->expiry_s < peer->expiry_s)
        peer->expiry_s = mqtt_peer->expiry_s;
    bool in_time =
        before_s == UINT32_MAX || sim_now_ms() < peer->went_ms + before_s * UINT64_C(1000);
    peer->certain &= in_time;
    if (peer->session == NULL || (!mqtt_peer->clean && peer->certain))
        return;
    /* It forgets what it had, and the gateway may never hear of that; or this is the first that a
     * new session hears. */
    kept_session_doubtful(peer->session);
    forget_deliveries(peer);
    peer->certain = false;
}

static void act(void *context);

struct acting {
    struct session_peer *peer;
    uint64_t generation;
};

static void act_later(struct session_peer *peer)
{
    struct acting *acting = heap_new(sizeof *acting);
    *acting = (struct acting){peer, peer->peer.generation};
    sim_after(1 + sim_below(PAUSE_MS), act, acting);
}

static void check_present(struct session_peer *peer)
{
    const struct mqtt_peer *mqtt_peer = &peer->peer;
    bool in_time = peer->expiry_s == UINT32_MAX ||
                   sim_now_ms() < peer->went_ms + peer->expiry_s * UINT64_C(1000);
    if (peer->certain && in_time && !mqtt_peer->present)
        history_fail("%s: its session is gone", mqtt_peer->id);
    if (mqtt_peer->present && (mqtt_peer->clean || peer->connects == 1))
        history_fail("%s: there is a session already", mqtt_peer->id);
}

static void session_up(struct mqtt_peer *mqtt_peer)
{
    struct session_peer *peer = (struct session_peer *)mqtt_peer;
    check_present(peer);
    if (!mqtt_peer->present) {
        if (peer->session != NULL)
            kept_session_ended(peer->session);
        peer->session = kept_session_new(mqtt_peer->id, mqtt_peer->packet_max > 0);
        forget_deliveries(peer);
    } else if (peer->session == NULL) { /* its CONNACK was lost */
        peer->session = kept_session_new(mqtt_peer->id, mqtt_peer->packet_max > 0);
    } else {
        kept_session_heard(peer->session, peer->said_all && peer->said_life == history_life());
    }
    peer->said_all = false;
    peer->in = true;
    peer->certain = mqtt_peer->expiry_s > 0;
    peer->expiry_s = mqtt_peer->expiry_s;
    peer->connection = ++connections;
    peer->outstanding = 0;
    memset(peer->open, 0, sizeof peer->open);
    memset(peer->requests, 0, sizeof peer->requests);
    peer->slow_ms = !peer->calm && sim_chance(30) ? SLOW_MS_MAX : 2;
    unsigned held = 0;
    for (unsigned i = 0; i < FILTERS; i++) {
        held += peer->wishes[i].state != WISH_NONE;
        if (peer->wishes[i].state == WISH_ASKED ||
            (peer->wishes[i].state == WISH_HELD && sim_chance(20)))
            subscribe(peer, i);
    }
    if (held == 0)
        subscribe(peer, has_identifiers(peer) ? (unsigned)sim_below(FILTERS) : 0);
    act_later(peer);
}

static void session_down(struct mqtt_peer *mqtt_peer)
{
    struct session_peer *peer = (struct session_peer *)mqtt_peer;
    bool was_in = peer->in;
    peer->in = false;
    if (!was_in || !peer->certain)
        return;
    peer->went_ms = sim_now_ms();
    for (unsigned i = 0; i < FILTERS && has_identifiers(peer); i++) {
        if (peer->wishes[i].state == WISH_ASKED)
            kept_leaving(peer->wishes[i].stay);
        if (peer->wishes[i].state == WISH_ASKED || peer->wishes[i].state == WISH_LEAVING)
            peer->wishes[i].state = WISH_NONE;
    }
}

/* Also for ever: of a session whose time is up when its client goes nothing is certain. */
static void leave(struct session_peer *peer)
{
    bool for_ever = has_identifiers(peer) && sim_chance(8);
    if (for_ever || sim_chance(50)) {
        struct mqtt_packet packet = {.type = MQTT_DISCONNECT};
        packet.disconnect.properties = mqtt_properties_none;
        if (for_ever) {
            packet.disconnect.properties.present = MQTT_HAS(SESSION_EXPIRY);
            peer->certain = false;
        }
        mqtt_peer_send(&peer->peer, &packet);
    }
    peer->said_life = history_life();
    peer->said_all = sim_disconnect(&peer->peer.peer);
}

static void act(void *context)
{
    struct acting *acting = context;
    struct session_peer *peer = acting->peer;
    bool same = peer->peer.generation == acting->generation && peer->peer.connected;
    heap_free(acting);
    if (!same || peer->calm)
        return;
    unsigned what = (unsigned)sim_below(100);
    if (what < 15) {
        leave(peer);
    } else if (what < 30) {
        sim_vanish(&peer->peer.peer, sim_below(3000));
    } else if (has_identifiers(peer) && what < 45) {
        unsubscribe(peer, (uint32_t)(1 + sim_below((1u << FILTERS) - 1)));
    } else if (what < 80) {
        unsigned index = has_identifiers(peer) ? (unsigned)sim_below(FILTERS) : 0;
        if (peer->wishes[index].state != WISH_LEAVING)
            subscribe(peer, index);
    }
    if (peer->peer.connected)
        act_later(peer);
}

struct session_peer *session_peer_new(peer_dial *dial)
{
    struct session_peer *peer = heap_new(sizeof *peer);
    mqtt_peer_init(&peer->peer, dial, "kept", peers);
    peer->peer.only_5 = peers++ > 0;
    peer->peer.packet_max = peers % 2 == 0 ? PACKET_SMALL : 0;
    peer->peer.away_ms = AWAY_MS;
    peer->peer.before = session_before;
    peer->peer.up = session_up;
    peer->peer.packet = session_packet;
    peer->peer.down = session_down;
    peer->expiry_s = UINT32_MAX;
    return peer;
}

void session_peer_start(struct session_peer *peer)
{
    mqtt_peer_start(&peer->peer);
}

void session_peer_calm(struct session_peer *peer)
{
    peer->calm = true;
    peer->slow_ms = 2; /* so that it gets to the end in time, whatever its receive maximum */
}

void session_peer_finish(struct session_peer *peer)
{
    if (!peer->peer.connected)
        history_fail("%s never gets in", peer->peer.id);
    for (unsigned i = 0; i < FILTERS; i++)
        if (peer->wishes[i].state == WISH_HELD)
            peer->wishes[i].stay->live = true;
}
