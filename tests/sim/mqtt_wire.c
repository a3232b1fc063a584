/* SPDX-License-Identifier: Apache-2.0 */
/* See mqtt_wire.h. */
#include "tests/sim/mqtt_wire.h"

#include <stdio.h>

#include "adapters/mqtt/encode.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "tests/sim/history.h"

enum { PIECE_MAX = 256 * 1024, AWAY_MS = 200, CREDIT_MAX = 20 };

void mqtt_peer_send(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    size_t size = mqtt_size(peer->version, packet);
    uint8_t *bytes = heap_new(size);
    mqtt_encode(peer->version, packet, bytes);
    sim_send(&peer->peer, span_of(bytes, size));
    heap_free(bytes);
    if (packet->type == MQTT_SUBSCRIBE || packet->type == MQTT_PUBLISH)
        history_asks(peer->id);
}

void mqtt_peer_ack(struct mqtt_peer *peer, enum mqtt_type type, uint16_t id)
{
    struct mqtt_packet packet = {.type = type};
    packet.ack = (struct mqtt_ack){.packet_id = id, .properties = mqtt_properties_none};
    mqtt_peer_send(peer, &packet);
}

static void peer_connect(void *context)
{
    struct mqtt_peer *peer = context;
    if (!peer->wanted || peer->peer.shared != NULL)
        return;
    buf_clear(&peer->input);
    peer->connected = peer->answered = false;
    peer->generation++;
    peer->version = peer->only_5 || sim_chance(50) ? MQTT_5 : MQTT_3_1_1;
    peer->dial(&peer->peer);
}

void mqtt_peer_dialed(struct sim_peer *sim_peer)
{
    struct mqtt_peer *peer = (struct mqtt_peer *)sim_peer;
    peer->receive_maximum = (uint16_t)(1 + sim_below(CREDIT_MAX));
    if (peer->before != NULL)
        peer->before(peer);
    struct mqtt_packet packet = {.type = MQTT_CONNECT};
    packet.connect = (struct mqtt_connect){
        .level = (uint8_t)peer->version,
        .version = peer->version,
        .clean = peer->clean,
        .client_id = span_from_text(peer->id),
        .has_will = peer->has_will,
        .will = peer->will,
        .properties = mqtt_properties_none,
    };
    packet.connect.properties.present = MQTT_HAS(RECEIVE_MAXIMUM) | MQTT_HAS(SESSION_EXPIRY);
    packet.connect.properties.receive_maximum = peer->receive_maximum;
    packet.connect.properties.session_expiry = peer->expiry_s;
    if (peer->packet_max > 0)
        packet.connect.properties.present |= MQTT_HAS(MAXIMUM_PACKET);
    packet.connect.properties.maximum_packet = peer->packet_max;
    mqtt_peer_send(peer, &packet);
}

/* A gateway whose disk has failed says so (3.x: that it is unavailable), and to nobody whether what
 * is under way is stored. Else only who waits for a session that others want is sent away. */
static void check_refusal(const struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    enum mqtt_reason reason = packet->type == MQTT_CONNACK      ? packet->connack.reason
                              : packet->type == MQTT_DISCONNECT ? packet->disconnect.reason
                                                                : MQTT_REASON_SUCCESS;
    bool is_failure = peer->version == MQTT_5 ? reason == MQTT_REASON_IMPLEMENTATION_ERROR
                                              : reason == MQTT_REASON_SERVER_UNAVAILABLE;
    bool waits = packet->type == MQTT_CONNACK &&
                 (reason == MQTT_REASON_SERVER_BUSY || reason == MQTT_REASON_SERVER_UNAVAILABLE);
    if (reason != MQTT_REASON_SUCCESS && !waits && !(is_failure && sim_disk_has_failed()))
        history_fail("%s is sent away with %02x", peer->id, reason);
}

static void peer_received(struct sim_peer *sim_peer, struct span bytes)
{
    struct mqtt_peer *peer = (struct mqtt_peer *)sim_peer;
    CHECK(buf_append(&peer->input, bytes.data, bytes.size) == STATUS_OK);
    uint64_t generation = peer->generation;
    while (peer->generation == generation && peer->peer.shared != NULL) {
        uint8_t header;
        struct span body;
        size_t size;
        enum mqtt_need need = mqtt_frame(buf_span(&peer->input), PIECE_MAX, &header, &body, &size);
        if (need == MQTT_FRAME_MORE)
            return;
        struct mqtt_packet packet;
        if (need == MQTT_FRAME_READY && peer->version == MQTT_5 && peer->packet_max > 0 &&
            size > peer->packet_max)
            history_fail("%s is sent %zu bytes, and takes %u", peer->id, size, peer->packet_max);
        if (need != MQTT_FRAME_READY || mqtt_decode(peer->version, MQTT_FROM_SERVER, header, body,
                                                    &packet) != MQTT_REASON_SUCCESS)
            history_fail("the gateway sent what is not MQTT");
        check_refusal(peer, &packet);
        peer->answered |= packet.type == MQTT_CONNACK;
        if (packet.type == MQTT_CONNACK && packet.connack.reason == MQTT_REASON_SUCCESS) {
            peer->connected = true;
            peer->present = packet.connack.session_present;
            peer->up(peer);
        } else if (packet.type != MQTT_CONNACK && packet.type != MQTT_DISCONNECT) {
            if (packet.type != MQTT_SUBACK && packet.type != MQTT_UNSUBACK)
                history_gets(peer->id);
            peer->packet(peer, &packet);
        }
        if (peer->generation == generation)
            buf_consume(&peer->input, size);
    }
}

static void peer_closed(struct sim_peer *sim_peer)
{
    struct mqtt_peer *peer = (struct mqtt_peer *)sim_peer;
    if (sim_peer->ended == SIM_ENDED_BY_GATEWAY && !peer->answered && !sim_disk_has_failed())
        history_fail("%s is sent away without an answer", peer->id);
    peer->connected = false;
    peer->generation++;
    buf_clear(&peer->input);
    peer->down(peer);
    if (peer->wanted)
        sim_after(1 + sim_below(peer->away_ms), peer_connect, peer);
}

void mqtt_peer_init(struct mqtt_peer *peer, peer_dial *dial, const char *kind, unsigned number)
{
    peer->peer.received = peer_received;
    peer->peer.closed = peer_closed;
    peer->dial = dial;
    peer->clean = true;
    peer->away_ms = AWAY_MS;
    buf_init(&peer->input, PIECE_MAX * 4);
    snprintf(peer->id, sizeof peer->id, "%s%u", kind, number);
}

void mqtt_peer_start(struct mqtt_peer *peer)
{
    peer->wanted = true;
    peer_connect(peer);
}

struct later {
    struct mqtt_peer *peer;
    uint64_t generation;
    void (*run)(struct mqtt_peer *peer);
};

static void later_over(void *context)
{
    struct later later = *(struct later *)context;
    heap_free(context);
    if (later.peer->generation == later.generation && later.peer->connected)
        later.run(later.peer);
}

void mqtt_peer_later(struct mqtt_peer *peer, uint64_t delay_ms, void (*run)(struct mqtt_peer *peer))
{
    struct later *later = heap_new(sizeof *later);
    *later = (struct later){peer, peer->generation, run};
    sim_after(delay_ms, later_over, later);
}
