/* SPDX-License-Identifier: Apache-2.0 */
/* The connection of a scripted MQTT client: it dials until it is let in, and again whenever it has
 * been cut; packets in and out. On the world loop. */
#ifndef TESTS_SIM_MQTT_WIRE_H
#define TESTS_SIM_MQTT_WIRE_H

#include "adapters/mqtt/codec.h"
#include "core/base/buf.h"
#include "tests/sim/sim.h"

/* How a peer gets connected: the scenario knows the gateway of the moment. */
typedef void peer_dial(struct sim_peer *peer);

struct mqtt_peer {
    struct sim_peer peer; /* first */
    enum mqtt_version version;
    bool connected, wanted;
    bool answered; /* its CONNECT */
    bool only_5;
    bool present;        /* as the last CONNACK said */
    uint64_t generation; /* of the connection, so that late events do nothing */
    uint32_t away_ms;    /* how long it may stay away when it has been cut */
    peer_dial *dial;
    struct buf input;
    /* Of the next CONNECT; before() may change them. Without a time of its own a session of 3.1.1
     * that is not clean never ends. */
    bool clean;
    uint32_t expiry_s;
    uint16_t receive_maximum;
    uint32_t packet_max; /* with MQTT 5; 0: any */
    bool has_will;
    struct mqtt_will will;
    void (*before)(struct mqtt_peer *peer); /* NULL: nothing to change */
    void (*up)(struct mqtt_peer *peer);
    void (*packet)(struct mqtt_peer *peer, const struct mqtt_packet *packet);
    void (*down)(struct mqtt_peer *peer);
    char id[16];
};

void mqtt_peer_init(struct mqtt_peer *peer, peer_dial *dial, const char *kind, unsigned number);
void mqtt_peer_start(struct mqtt_peer *peer);
void mqtt_peer_send(struct mqtt_peer *peer, const struct mqtt_packet *packet);
void mqtt_peer_ack(struct mqtt_peer *peer, enum mqtt_type type, uint16_t id);
/* After a while, unless the connection has ended meanwhile. */
void mqtt_peer_later(struct mqtt_peer *peer, uint64_t delay_ms,
                     void (*run)(struct mqtt_peer *peer));
/* The wire is there: the peer may talk. */
void mqtt_peer_dialed(struct sim_peer *peer);

#endif
