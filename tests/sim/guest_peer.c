/* SPDX-License-Identifier: Apache-2.0 */
/* See guest_peer.h. On the world loop. */
#include "tests/sim/guest_peer.h"

#include "core/base/heap.h"
#include "tests/sim/history.h"
#include "tests/sim/link_share.h"

enum { THINK_MS = 60, WAIT_MS = 10, STAY_MS = 1500, AWAY_MS = 150 };

static struct guest {
    struct mqtt_peer peer; /* first */
    struct share_holder holder;
    bool calm;
    bool mute;  /* it answers nothing, and leaves with all it has */
    bool stays; /* from its next turn on */
    bool in;    /* this connection has joined */
} * guest;
static uint64_t count;

static void leave(struct mqtt_peer *peer)
{
    if (guest->stays && !guest->mute)
        return;
    if (sim_chance(50))
        sim_disconnect(&peer->peer);
    else
        sim_vanish(&peer->peer, sim_below(3000));
}

/* Not as the first one: what is shared without a session is not kept. */
static void join(struct mqtt_peer *peer)
{
    if (!link_share_is_there()) {
        mqtt_peer_later(peer, WAIT_MS, join);
        return;
    }
    struct mqtt_filter filter = {
        .filter = span_from_text("$share/" LINK_SHARE "/" LINK_SHARE_FILTER), .qos = 1};
    struct mqtt_packet packet = {.type = MQTT_SUBSCRIBE};
    packet.subscribe = (struct mqtt_subscribe){
        .packet_id = 1, .count = 1, .filters = &filter, .properties = mqtt_properties_none};
    guest->mute = !guest->stays && (guest->calm || sim_chance(50));
    guest->stays = guest->calm;
    mqtt_peer_send(peer, &packet);
    mqtt_peer_later(peer, 1 + sim_below(STAY_MS), leave);
}

struct late {
    uint64_t generation;
    uint32_t attempt;
    uint16_t id;
};

static void answer(void *context)
{
    struct late *late = context;
    if (guest->peer.generation == late->generation && guest->peer.connected) {
        link_share_ended(late->attempt, true);
        mqtt_peer_ack(&guest->peer, MQTT_PUBACK, late->id);
    }
    heap_free(late);
}

static void packet_came(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    struct message message;
    if (packet->type == MQTT_SUBACK) {
        if (packet->suback.reasons.size != 1 || packet->suback.reasons.data[0] != 1)
            history_fail("%s may not join a share of links", peer->id);
        guest->in = true;
        return;
    }
    if (packet->type != MQTT_PUBLISH || packet->publish.qos > 1 ||
        !history_parse(packet->publish.payload, &message))
        history_fail("%s: unexpected packet %d", peer->id, packet->type);
    link_share_came(&guest->holder, message.attempt);
    count++;
    if (packet->publish.qos == 0) {
        link_share_ended(message.attempt, true);
        return;
    }
    if (guest->mute)
        return;
    struct late *late = heap_new(sizeof *late);
    *late = (struct late){peer->generation, message.attempt, packet->publish.packet_id};
    sim_after(sim_below(THINK_MS), answer, late);
}

static void before(struct mqtt_peer *peer)
{
    peer->clean = true;
    peer->expiry_s = 0;
}

static void down(struct mqtt_peer *peer)
{
    (void)peer;
    guest->in = false;
}

void guest_peer_begin(peer_dial *dial)
{
    count = 0;
    guest = heap_new(sizeof *guest);
    mqtt_peer_init(&guest->peer, dial, "guest", 0);
    guest->holder =
        (struct share_holder){guest->peer.id, &guest->peer.peer, &guest->peer.generation, NULL};
    guest->peer.away_ms = AWAY_MS;
    guest->peer.before = before;
    guest->peer.up = join;
    guest->peer.packet = packet_came;
    guest->peer.down = down;
    mqtt_peer_start(&guest->peer);
}

void guest_peer_calm(void)
{
    guest->calm = true;
}

void guest_peer_check(void)
{
    if (!guest->in)
        history_fail("%s never gets in", guest->peer.id);
}

uint64_t guest_peer_count(void)
{
    return count;
}
