/* SPDX-License-Identifier: Apache-2.0 */
/* See due_peer.h. */
#include "tests/sim/due_peer.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "tests/sim/history.h"

enum {
    MESSAGES_MAX = 4000,
    EXPIRY_S_MAX = 4,
    PAUSE_MS = 60,
    STAY_MS = 3000,
    AWAY_MS = 4000,
    WIRE_MS = 100,    /* as long as a delivery may be under way */
    SETTLE_MS = 1500, /* as long as a session that is there may wait for one */
    LOOK_MS = 200
};

static struct due {
    uint64_t sent_ms, answered_ms; /* 0: perhaps never stored */
    uint32_t expiry_s;             /* 0: none */
    bool came;
    unsigned position; /* in the log, + 1; 0: it is not there */
} messages[MESSAGES_MAX];
static unsigned message_number, log_end;
static unsigned arrivals[MESSAGES_MAX], arrival_count; /* in the order of coming first */
static uint64_t subscribed_ms;                         /* 0: not yet */
static bool calm;

struct waiter {
    struct mqtt_peer peer; /* first */
    uint64_t up_ms;
};
static struct mqtt_peer *sender;
static struct waiter *waiter;

/* ------------------------------------------------ who sends */

static void send_one(struct mqtt_peer *peer)
{
    if (calm || message_number == MESSAGES_MAX)
        return;
    struct due *message = &messages[message_number];
    char text[16];
    snprintf(text, sizeof text, "d%u", message_number);
    struct mqtt_packet packet = {.type = MQTT_PUBLISH};
    packet.publish = (struct mqtt_publish){
        .qos = 1,
        .packet_id = (uint16_t)++message_number,
        .topic = span_from_text(DUE_TOPIC),
        .payload = span_from_text(text),
        .properties = mqtt_properties_none,
    };
    message->sent_ms = sim_now_ms();
    message->expiry_s = sim_chance(30) ? 0 : (uint32_t)(1 + sim_below(EXPIRY_S_MAX));
    if (message->expiry_s > 0) {
        packet.publish.properties.present = MQTT_HAS(MESSAGE_EXPIRY);
        packet.publish.properties.message_expiry = message->expiry_s;
    }
    mqtt_peer_send(peer, &packet);
    if (sim_chance(2))
        sim_disconnect(&peer->peer);
    else
        mqtt_peer_later(peer, 1 + sim_below(PAUSE_MS), send_one);
}

static void sender_up(struct mqtt_peer *peer)
{
    mqtt_peer_later(peer, 20, send_one); /* until what the last connection said has been heard */
}

static void sender_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    if (packet->type != MQTT_PUBACK)
        history_fail("%s: unexpected packet %d", peer->id, packet->type);
    messages[packet->ack.packet_id - 1].answered_ms = sim_now_ms();
}

/* ------------------------------------------------ who waits */

static void waiter_before(struct mqtt_peer *peer)
{
    peer->clean = false;
    peer->expiry_s = UINT32_MAX;
}

static void leave(struct mqtt_peer *peer)
{
    if (calm)
        return;
    if (sim_chance(70))
        sim_disconnect(&peer->peer);
    else
        sim_vanish(&peer->peer, sim_below(3000));
}

/* Not what expires about now, or was published as the session began. */
static bool must_have_come(const struct due *message, uint64_t up_ms)
{
    uint64_t from_ms = message->answered_ms > up_ms ? message->answered_ms : up_ms;
    uint64_t until_ms =
        message->expiry_s == 0 ? UINT64_MAX : message->sent_ms + message->expiry_s * 1000ULL;
    return message->answered_ms != 0 && message->sent_ms > subscribed_ms &&
           from_ms + SETTLE_MS < sim_now_ms() && from_ms + SETTLE_MS < until_ms;
}

static void look(struct mqtt_peer *peer)
{
    for (unsigned i = 0; i < message_number && subscribed_ms != 0 && !sim_disk_has_failed(); i++)
        if (!messages[i].came && must_have_come(&messages[i], ((struct waiter *)peer)->up_ms))
            history_fail("%s: message %u has not expired and does not come", peer->id, i);
    mqtt_peer_later(peer, LOOK_MS, look);
}

static void waiter_up(struct mqtt_peer *peer)
{
    struct mqtt_filter filter = {.filter = span_from_text(DUE_TOPIC), .qos = 1};
    struct mqtt_packet packet = {.type = MQTT_SUBSCRIBE};
    packet.subscribe = (struct mqtt_subscribe){
        .packet_id = 1, .count = 1, .filters = &filter, .properties = mqtt_properties_none};
    ((struct waiter *)peer)->up_ms = sim_now_ms();
    if (subscribed_ms == 0)
        mqtt_peer_send(peer, &packet);
    mqtt_peer_later(peer, LOOK_MS, look);
    mqtt_peer_later(peer, 1 + sim_below(STAY_MS), leave);
}

/* The gateway has stored it between its sending and its answer. */
static void check_time(const struct due *message, unsigned number,
                       const struct mqtt_publish *publish)
{
    uint64_t now_ms = sim_now_ms(), last_ms = message->answered_ms;
    uint64_t left_ms = publish->properties.message_expiry * 1000ULL;
    bool says = (publish->properties.present & MQTT_HAS(MESSAGE_EXPIRY)) != 0;
    if (says != (message->expiry_s > 0))
        history_fail("message %u comes %s an expiry", number, says ? "with" : "without");
    if (!says)
        return;
    if (last_ms == 0 || last_ms > now_ms)
        last_ms = now_ms;
    if (!publish->duplicate && now_ms > last_ms + message->expiry_s * 1000ULL + WIRE_MS)
        history_fail("message %u has expired and comes", number);
    if (!publish->duplicate &&
        (now_ms + left_ms > last_ms + (message->expiry_s + 1) * 1000ULL + WIRE_MS ||
         now_ms + left_ms + 1000 < message->sent_ms + message->expiry_s * 1000ULL))
        history_fail("message %u comes with %u s left of %u", number,
                     publish->properties.message_expiry, message->expiry_s);
}

static unsigned message_of(struct span payload)
{
    unsigned number = 0;
    for (size_t i = 1; i < payload.size; i++)
        number = number * 10 + payload.data[i] - '0';
    if (number >= message_number)
        history_fail("a message of nobody");
    return number;
}

static void waiter_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    if (packet->type == MQTT_SUBACK)
        subscribed_ms = sim_now_ms();
    if (packet->type != MQTT_PUBLISH)
        return;
    unsigned number = message_of(packet->publish.payload);
    check_time(&messages[number], number, &packet->publish);
    if (!messages[number].came)
        arrivals[arrival_count++] = number;
    messages[number].came = true;
    mqtt_peer_ack(peer, MQTT_PUBACK, packet->publish.packet_id);
}

/* ------------------------------------------------ both */

static void nothing(struct mqtt_peer *peer)
{
    (void)peer;
}

void due_peers_begin(peer_dial *dial)
{
    memset(messages, 0, sizeof messages);
    message_number = log_end = arrival_count = 0;
    subscribed_ms = 0;
    calm = false;
    sender = heap_new(sizeof *sender);
    waiter = heap_new(sizeof *waiter);
    mqtt_peer_init(sender, dial, "due", 0);
    mqtt_peer_init(&waiter->peer, dial, "wait", 0);
    sender->only_5 = waiter->peer.only_5 = true;
    sender->up = sender_up;
    sender->packet = sender_packet;
    sender->down = waiter->peer.down = nothing;
    waiter->peer.away_ms = AWAY_MS;
    waiter->peer.before = waiter_before;
    waiter->peer.up = waiter_up;
    waiter->peer.packet = waiter_packet;
    mqtt_peer_start(sender);
    mqtt_peer_start(&waiter->peer);
}

void due_peers_calm(void)
{
    calm = true;
}

void due_final(struct span payload)
{
    messages[message_of(payload)].position = ++log_end;
}

/* In the order of the log, as far as it was published behind the SUBACK. */
static void check_order(void)
{
    for (unsigned i = 1, last = 0; i < arrival_count; i++) {
        const struct due *message = &messages[arrivals[i]];
        if (message->sent_ms > subscribed_ms && message->position < last)
            history_fail("message %u comes for the first time behind later ones", arrivals[i]);
        last = message->position > last ? message->position : last;
    }
}

void due_check_final(void)
{
    check_order();
    if (!sender->connected || !waiter->peer.connected || subscribed_ms == 0)
        history_fail("who sends what expires, or waits for it, never gets in");
    for (unsigned i = 0; i < message_number; i++)
        if (messages[i].expiry_s == 0 && messages[i].answered_ms != 0 && !messages[i].came &&
            messages[i].sent_ms > subscribed_ms)
            history_fail("message %u without an expiry never came", i);
}

uint64_t due_count(void)
{
    uint64_t missed = 0;
    for (unsigned i = 0; i < message_number; i++)
        missed += messages[i].answered_ms != 0 && !messages[i].came;
    return missed;
}
