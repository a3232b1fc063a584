/* SPDX-License-Identifier: Apache-2.0 */
/* See will_peer.h. Each connection has a will of its own. */
#include "tests/sim/will_peer.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "tests/sim/history.h"

enum { WILLS_MAX = 4000, DELAY_S_MAX = 4, STAY_MS = 1200, AWAY_MS = 6000, LATE_MS = 6000 };

static struct will {
    bool held;    /* CONNACK has come: it is stored */
    bool no_more; /* certain: it must never come from now on */
    bool due;     /* certain: it must come */
    bool found;
    uint32_t delay_ms;
    uint64_t ended_ms; /* of its connection, at the earliest; 0: not yet */
} wills[WILLS_MAX];
static unsigned will_number, peers;
static uint64_t count;

struct will_peer {
    struct mqtt_peer peer; /* first */
    unsigned will;         /* of the last connection that was tried */
    unsigned last;         /* of the last one that was let in, + 1; 0: of none */
    bool said_goodbye, calm;
    char payload[16];
};

void will_peers_begin(void)
{
    memset(wills, 0, sizeof wills);
    will_number = peers = 0;
    count = 0;
}

/* ------------------------------------------------ who has a will */

static void will_before(struct mqtt_peer *mqtt_peer)
{
    struct will_peer *peer = (struct will_peer *)mqtt_peer;
    if (will_number == WILLS_MAX)
        history_fail("too many wills");
    /* This attempt may take the last one back, and nobody hear of it. */
    struct will *before = peer->last == 0 ? NULL : &wills[peer->last - 1];
    if (before != NULL && before->delay_ms > 0 &&
        sim_now_ms() < before->ended_ms + before->delay_ms + LATE_MS)
        before->due = false;
    peer->will = will_number++;
    struct will *will = &wills[peer->will];
    will->delay_ms = sim_chance(30) ? 0 : (uint32_t)(1 + sim_below(DELAY_S_MAX)) * 1000;
    mqtt_peer->clean = false;
    mqtt_peer->expiry_s = UINT32_MAX;
    snprintf(peer->payload, sizeof peer->payload, "w%u", peer->will);
    mqtt_peer->has_will = true;
    mqtt_peer->will = (struct mqtt_will){
        .qos = 1,
        .topic = span_from_text(WILL_TOPIC),
        .payload = span_from_text(peer->payload),
        .properties = mqtt_properties_none,
    };
    mqtt_peer->will.properties.present = MQTT_HAS(WILL_DELAY);
    mqtt_peer->will.properties.will_delay = will->delay_ms / 1000;
    peer->said_goodbye = false;
}

static void go(struct mqtt_peer *mqtt_peer);

/* Who returns in time takes a will back that has a delay. */
static void will_up(struct mqtt_peer *mqtt_peer)
{
    struct will_peer *peer = (struct will_peer *)mqtt_peer;
    struct will *before = peer->last == 0 ? NULL : &wills[peer->last - 1];
    if (before != NULL && !mqtt_peer->present)
        history_fail("%s: its session is gone", mqtt_peer->id);
    if (before != NULL && before->delay_ms > 0 &&
        sim_now_ms() < before->ended_ms + before->delay_ms)
        before->no_more = true;
    wills[peer->will].held = true;
    peer->last = peer->will + 1;
    mqtt_peer_later(mqtt_peer, 1 + sim_below(STAY_MS), go);
}

static void go(struct mqtt_peer *mqtt_peer)
{
    struct will_peer *peer = (struct will_peer *)mqtt_peer;
    if (peer->calm)
        peer->peer.wanted = false;
    unsigned what = (unsigned)sim_below(100);
    if (what < 30) {
        struct mqtt_packet packet = {.type = MQTT_DISCONNECT};
        packet.disconnect.properties = mqtt_properties_none;
        mqtt_peer_send(&peer->peer, &packet);
        peer->said_goodbye = true;
    }
    if (what < 70)
        sim_disconnect(&peer->peer.peer);
    else
        sim_vanish(&peer->peer.peer, sim_below(3000));
}

/* A goodbye may be heard or lost: then either may be. */
static void will_down(struct mqtt_peer *mqtt_peer)
{
    struct will_peer *peer = (struct will_peer *)mqtt_peer;
    struct will *will = &wills[peer->will];
    if (will->ended_ms != 0)
        return; /* a later attempt got no connection */
    will->ended_ms = sim_now_ms();
    will->due = will->held && !peer->said_goodbye;
}

static void no_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    history_fail("%s: unexpected packet %d", peer->id, packet->type);
}

struct will_peer *will_peer_new(peer_dial *dial)
{
    struct will_peer *peer = heap_new(sizeof *peer);
    mqtt_peer_init(&peer->peer, dial, "will", peers++);
    peer->peer.only_5 = true;
    peer->peer.away_ms = AWAY_MS;
    peer->peer.before = will_before;
    peer->peer.up = will_up;
    peer->peer.packet = no_packet;
    peer->peer.down = will_down;
    return peer;
}

void will_peer_start(struct will_peer *peer)
{
    mqtt_peer_start(&peer->peer);
}

void will_peer_calm(struct will_peer *peer)
{
    peer->calm = true;
    if (peer->peer.connected) {
        peer->peer.wanted = false;
        sim_disconnect(&peer->peer.peer);
    }
}

/* ------------------------------------------------ who watches, and the end */

static void watcher_up(struct mqtt_peer *peer)
{
    struct mqtt_filter filter = {.filter = span_from_text(WILL_TOPIC), .qos = 1};
    struct mqtt_packet packet = {.type = MQTT_SUBSCRIBE};
    packet.subscribe = (struct mqtt_subscribe){
        .packet_id = 1, .count = 1, .filters = &filter, .properties = mqtt_properties_none};
    mqtt_peer_send(peer, &packet);
}

static unsigned will_of(struct span payload)
{
    unsigned number = 0;
    for (size_t i = 1; i < payload.size; i++)
        number = number * 10 + payload.data[i] - '0';
    if (number >= will_number)
        history_fail("a will of nobody");
    return number;
}

static void watcher_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    if (packet->type != MQTT_PUBLISH)
        return;
    unsigned number = will_of(packet->publish.payload);
    const struct will *will = &wills[number];
    if (will->ended_ms == 0 || sim_now_ms() < will->ended_ms + will->delay_ms)
        history_fail("will %u is published before its time", number);
    mqtt_peer_ack(peer, MQTT_PUBACK, packet->publish.packet_id);
}

static void watcher_down(struct mqtt_peer *peer)
{
    (void)peer;
}

void will_watch(peer_dial *dial)
{
    struct mqtt_peer *peer = heap_new(sizeof *peer);
    mqtt_peer_init(peer, dial, "watch", 0);
    peer->only_5 = true;
    peer->up = watcher_up;
    peer->packet = watcher_packet;
    peer->down = watcher_down;
    mqtt_peer_start(peer);
}

void will_final(struct span payload)
{
    unsigned number = will_of(payload);
    if (wills[number].found)
        history_fail("will %u is published twice", number);
    if (wills[number].no_more)
        history_fail("will %u was taken back and is published", number);
    wills[number].found = true;
    count++;
}

void wills_check_final(void)
{
    for (unsigned i = 0; i < will_number; i++)
        if (wills[i].due && !wills[i].found)
            history_fail("will %u is never published", i);
}

uint64_t wills_count(void)
{
    return count;
}
