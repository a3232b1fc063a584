/* SPDX-License-Identifier: Apache-2.0 */
/* See share_peer.h. */
#include "tests/sim/share_peer.h"

#include "core/base/heap.h"
#include "tests/sim/history.h"

enum { THINK_MS = 30, PAUSE_MS = 600, AWAY_MS = 1500 };

struct share_peer {
    struct mqtt_peer peer; /* first */
    unsigned kind;
    struct share *share;
    bool calm, known;
    uint32_t exact[UINT16_MAX + 1]; /* attempt + 1 by packet identifier, of QoS 2 */
};

static unsigned peers;
static struct share {
    const char *filter;
    bool narrow;    /* no member takes what is large */
    uint32_t since; /* attempts from here on are the share's */
    struct {
        bool seen, acknowledged;
        const struct share_peer *holder; /* who saw it last */
        unsigned life;                   /* of the gateway, then */
        uint64_t generation;             /* of its connection */
        bool exact;                      /* with QoS 2 */
        bool released;
    } had[ATTEMPTS_MAX];
} wide = {.filter = "$share/kept/t/+"}, narrow = {.filter = "$share/narrow/t/+", .narrow = true};
static uint64_t count;

void share_peers_begin(void)
{
    peers = 0;
    wide.since = narrow.since = UINT32_MAX;
    memset(wide.had, 0, sizeof wide.had);
    memset(narrow.had, 0, sizeof narrow.had);
    count = 0;
}

static uint8_t qos_of(const struct share_peer *peer)
{
    return peer->kind >= SHARE_KEPT_2 ? 2 : 1;
}

static void subscribe(struct share_peer *peer)
{
    struct mqtt_packet packet = {.type = MQTT_SUBSCRIBE};
    struct mqtt_filter filter = {.filter = span_from_text(peer->share->filter),
                                 .qos = qos_of(peer)};
    packet.subscribe = (struct mqtt_subscribe){
        .packet_id = 1,
        .count = 1,
        .filters = &filter,
        .properties = mqtt_properties_none,
    };
    mqtt_peer_send(&peer->peer, &packet);
}

struct late_ack {
    struct share_peer *peer;
    uint64_t generation;
    uint16_t id;
    uint32_t attempt;
    enum mqtt_type type;
};

static void ack_now(void *context)
{
    struct late_ack *late = context;
    struct mqtt_peer *peer = &late->peer->peer;
    if (peer->generation == late->generation && peer->connected) {
        late->peer->share->had[late->attempt].acknowledged = true;
        mqtt_peer_ack(peer, late->type, late->id);
    }
    heap_free(late);
}

/* It stays with the session of who got it; what was not stored at a crash may go to another. */
static void check_holder(const struct share_peer *peer, uint32_t attempt, bool again)
{
    const struct share_peer *holder = peer->share->had[attempt].holder;
    if (!peer->share->had[attempt].seen)
        return;
    bool is_guest = holder->kind == SHARE_GUEST,
         is_over = is_guest && holder->peer.generation != peer->share->had[attempt].generation;
    if (peer->share->had[attempt].exact &&
        (holder != peer || is_guest || peer->share->had[attempt].released))
        history_fail("%s gets attempt %u, which %s has got with QoS 2", peer->peer.id, attempt,
                     holder->peer.id);
    if (peer->share->had[attempt].life != history_life() || is_over)
        return;
    if (peer->share->had[attempt].holder != peer)
        history_fail("%s gets attempt %u, which another member of the share %s", peer->peer.id,
                     attempt, peer->share->had[attempt].acknowledged ? "acknowledged" : "holds");
    if (!again)
        history_fail("%s gets attempt %u again without DUP", peer->peer.id, attempt);
}

static void share_packet(struct mqtt_peer *mqtt_peer, const struct mqtt_packet *packet)
{
    struct share_peer *peer = (struct share_peer *)mqtt_peer;
    struct message message;
    if (packet->type == MQTT_PUBREL) {
        uint32_t attempt = peer->exact[packet->ack.packet_id];
        /* Of what turned out too large, in a crash, it is not known that it was not sent. */
        if (attempt == 0 && !peer->share->narrow)
            history_fail("%s: PUBREL of nothing", mqtt_peer->id);
        if (attempt > 0)
            peer->share->had[attempt - 1].released = true;
        mqtt_peer_ack(mqtt_peer, MQTT_PUBCOMP, packet->ack.packet_id);
        return;
    }
    if (packet->type == MQTT_SUBACK) {
        if (packet->suback.reasons.size != 1 || packet->suback.reasons.data[0] != qos_of(peer))
            history_fail("a share is refused");
        peer->known = true;
        if (peer->share->since == UINT32_MAX)
            peer->share->since = history_attempts();
        return;
    }
    if (packet->type != MQTT_PUBLISH || packet->publish.qos == 0 ||
        packet->publish.qos > qos_of(peer) || !history_parse(packet->publish.payload, &message))
        history_fail("%s: unexpected packet %d", mqtt_peer->id, packet->type);
    check_holder(peer, message.attempt, packet->publish.duplicate);
    peer->share->had[message.attempt].seen = true;
    peer->share->had[message.attempt].holder = peer;
    peer->share->had[message.attempt].life = history_life();
    peer->share->had[message.attempt].generation = mqtt_peer->generation;
    bool exact = peer->share->had[message.attempt].exact = packet->publish.qos == 2;
    if (exact)
        peer->exact[packet->publish.packet_id] = message.attempt + 1;
    count++;
    struct late_ack *late = heap_new(sizeof *late);
    *late = (struct late_ack){peer, mqtt_peer->generation, packet->publish.packet_id,
                              message.attempt, exact ? MQTT_PUBREC : MQTT_PUBACK};
    sim_after(sim_below(THINK_MS), ack_now, late);
}

struct acting {
    struct share_peer *peer;
    uint64_t generation;
};

static void act(void *context)
{
    struct acting *acting = context;
    struct share_peer *peer = acting->peer;
    bool same = peer->peer.generation == acting->generation && peer->peer.connected;
    heap_free(acting);
    if (!same || peer->calm)
        return;
    if (sim_chance(50))
        sim_disconnect(&peer->peer.peer);
    else
        sim_vanish(&peer->peer.peer, sim_below(3000));
}

static void share_before(struct mqtt_peer *mqtt_peer)
{
    const struct share_peer *peer = (struct share_peer *)mqtt_peer;
    bool is_guest = peer->kind == SHARE_GUEST;
    mqtt_peer->clean = is_guest;
    mqtt_peer->expiry_s = is_guest ? 0 : UINT32_MAX;
    if (peer->share->narrow) /* so that what is too large takes all of its credit */
        mqtt_peer->receive_maximum = (uint16_t)(1 + sim_below(2));
}

static void share_up(struct mqtt_peer *mqtt_peer)
{
    struct share_peer *peer = (struct share_peer *)mqtt_peer;
    bool is_guest = peer->kind == SHARE_GUEST;
    if (!is_guest && peer->known && !mqtt_peer->present)
        history_fail("%s: its session is gone", mqtt_peer->id);
    if (is_guest ? peer->share->since != UINT32_MAX : !peer->known || sim_chance(20))
        subscribe(peer);
    struct acting *acting = heap_new(sizeof *acting);
    *acting = (struct acting){peer, mqtt_peer->generation};
    sim_after(1 + sim_below(PAUSE_MS), act, acting);
}

static void share_down(struct mqtt_peer *mqtt_peer)
{
    (void)mqtt_peer;
}

struct share_peer *share_peer_new(unsigned kind, peer_dial *dial)
{
    struct share_peer *peer = heap_new(sizeof *peer);
    peer->kind = kind;
    peer->share = kind >= SHARE_NARROW ? &narrow : &wide;
    mqtt_peer_init(&peer->peer, dial, "share", peers++);
    peer->peer.only_5 = peer->share->narrow;
    peer->peer.packet_max = peer->share->narrow ? PACKET_SMALL : 0;
    peer->peer.away_ms = AWAY_MS;
    peer->peer.before = share_before;
    peer->peer.up = share_up;
    peer->peer.packet = share_packet;
    peer->peer.down = share_down;
    return peer;
}

void share_peer_start(struct share_peer *peer)
{
    mqtt_peer_start(&peer->peer);
}

void share_peer_calm(struct share_peer *peer)
{
    peer->calm = true;
}

/* A guest does not join as the first one. */
void share_peer_finish(const struct share_peer *peer)
{
    if (!peer->peer.connected || (!peer->known && peer->kind != SHARE_GUEST))
        history_fail("%s never gets in", peer->peer.id);
}

/* What is on its way to a guest with QoS 2 when that goes is nobody's, also when it saw nothing. */
static bool may_be_lost(const struct share *share, uint32_t attempt)
{
    if (share->narrow)
        return history_is_large(attempt);
    return share->had[attempt].exact ? share->had[attempt].holder->kind == SHARE_GUEST
                                     : history_qos(attempt) == 2;
}

static void check(const struct share *share)
{
    for (uint32_t i = share->since; i < history_attempts(); i++)
        if (history_is_acknowledged(i) && !share->had[i].acknowledged && !may_be_lost(share, i))
            history_fail("attempt %u was acknowledged, and no member of %s %s it", i, share->filter,
                         share->had[i].seen ? "acknowledged" : "saw");
}

void share_peers_check(void)
{
    check(&wide);
    check(&narrow);
}

uint64_t share_peers_count(void)
{
    return count;
}
