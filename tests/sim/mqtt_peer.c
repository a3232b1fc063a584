/* SPDX-License-Identifier: Apache-2.0 */
/* Clients of the simulator. They live on the world loop, and keep to the protocol. */
#include "tests/sim/mqtt_peer.h"

#include <stdio.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "tests/sim/moment.h"
#include "tests/sim/mqtt_wire.h"

enum { PUBLISH_WINDOW = 8, LAST_MAX = 8, SLOW_MS_MAX = 30, TOLD_MS = 200 };

/* ------------------------------------------------ publisher */

struct sending {
    struct message message;
    bool active, received; /* received: PUBREC has come */
    bool lingers;          /* of an earlier connection; has to be sent again */
    bool lost;             /* sent when the disk had failed already */
    unsigned qos;
};

/* Its session may be a kept one: then what was exactly once goes on where it was cut, and is never
 * in the log twice; what was at least once is sent again as a message of its own. */
struct publisher {
    struct mqtt_peer peer; /* first */
    unsigned topic;
    bool kept, known; /* known: there is a session */
    uint32_t connects;
    uint64_t up_ms; /* when it was let in */
    uint32_t total;
    uint32_t last;         /* messages that it keeps for the end */
    uint32_t acknowledged; /* messages [0, acknowledged) are */
    bool done[4096];
    uint32_t next;                         /* number to send next on this connection */
    struct sending window[PUBLISH_WINDOW]; /* by packet id - 1 */
};

static void publisher_moment(const struct publisher *publisher, const struct sending *sending,
                             enum moment which)
{
    if (publisher->kept && sending->qos == 2)
        moment(which);
}

static void publisher_send(struct publisher *publisher, struct sending *sending)
{
    char topic[32], text[HISTORY_TEXT];
    snprintf(topic, sizeof topic, "t/%u", publisher->topic);
    history_format(sending->message, text);
    struct mqtt_packet packet = {.type = MQTT_PUBLISH};
    packet.publish = (struct mqtt_publish){
        .qos = (uint8_t)sending->qos,
        .packet_id = (uint16_t)(sending - publisher->window + 1),
        .duplicate = sending->lingers,
        .topic = span_from_text(topic),
        .payload = span_from_text(text),
        .properties = mqtt_properties_none,
    };
    /* What is sent again may have been stored before. */
    sending->lost = !sending->lingers && sim_disk_failed_for() > 0;
    sending->lingers = false;
    mqtt_peer_send(&publisher->peer, &packet);
    publisher_moment(publisher, sending, MOMENT_PUBLISH_SENT);
}

/* Where that message, or a new one, is to be sent from; NULL: there is no place for it now. */
static struct sending *publisher_place(struct publisher *publisher, uint32_t number)
{
    struct sending *free = NULL;
    for (struct sending *at = publisher->window; at < publisher->window + PUBLISH_WINDOW; at++) {
        if (at->lingers && at->message.number == number)
            return at;
        if (!at->active && free == NULL)
            free = at;
    }
    return free;
}

static void publisher_send_more(struct publisher *publisher)
{
    while (publisher->peer.connected) {
        while (publisher->next < publisher->total && publisher->done[publisher->next])
            publisher->next++;
        /* Numbers stay close together, so that "a new one is always the next" can be checked. */
        if (publisher->next >= publisher->total - publisher->last ||
            publisher->next >= publisher->acknowledged + PUBLISH_WINDOW)
            return;
        struct sending *sending = publisher_place(publisher, publisher->next);
        if (sending == NULL)
            return;
        unsigned qos = sim_chance(70) ? 1 : 2;
        if (!sending->lingers)
            *sending = (struct sending){
                .message = history_attempt(publisher->topic, publisher->next, qos),
                .active = true,
                .qos = qos,
            };
        publisher->next++;
        publisher_send(publisher, sending);
    }
}

static void publisher_before(struct mqtt_peer *peer)
{
    ((struct publisher *)peer)->connects++;
    peer->clean = false;
    peer->expiry_s = UINT32_MAX;
}

static void publisher_up(struct mqtt_peer *peer)
{
    struct publisher *publisher = (struct publisher *)peer;
    if (publisher->known && !peer->present)
        history_fail("publisher %u: its session is gone", publisher->topic);
    if (peer->present && publisher->connects < 2)
        history_fail("publisher %u: there is a session already", publisher->topic);
    publisher->known = publisher->kept;
    publisher->up_ms = sim_now_ms();
    publisher->next = publisher->acknowledged;
    for (uint16_t i = 0; i < PUBLISH_WINDOW; i++)
        if (publisher->window[i].active && publisher->window[i].received)
            mqtt_peer_ack(peer, MQTT_PUBREL, (uint16_t)(i + 1));
    publisher_send_more(publisher);
}

static void publisher_answered(struct publisher *publisher, struct sending *sending,
                               enum mqtt_reason reason)
{
    if (reason != MQTT_REASON_SUCCESS && reason != MQTT_REASON_NO_MATCHING_SUBSCRIBERS)
        history_fail("publisher %u is refused with %02x", publisher->topic, reason);
    if (sending->lost)
        history_fail("attempt %u began when the disk had failed, and is acknowledged",
                     sending->message.attempt);
    history_fate(sending->message, FATE_ACKNOWLEDGED);
    publisher->done[sending->message.number] = true;
    while (publisher->acknowledged < publisher->total && publisher->done[publisher->acknowledged])
        publisher->acknowledged++;
}

static void publisher_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    struct publisher *publisher = (struct publisher *)peer;
    uint16_t id = packet->ack.packet_id;
    if (id == 0 || id > PUBLISH_WINDOW || !publisher->window[id - 1].active)
        history_fail("publisher %u: an answer to packet %u, which is not out", publisher->topic,
                     id);
    struct sending *sending = &publisher->window[id - 1];
    switch (packet->type) {
    case MQTT_PUBACK:
        sending->active = false;
        publisher_answered(publisher, sending, packet->ack.reason);
        break;
    case MQTT_PUBREC:
        sending->received = true;
        publisher_moment(publisher, sending, MOMENT_PUBREC_CAME);
        publisher_answered(publisher, sending, packet->ack.reason);
        if (peer->connected)
            mqtt_peer_ack(peer, MQTT_PUBREL, id);
        publisher_moment(publisher, sending, MOMENT_PUBREL_SENT);
        return;
    case MQTT_PUBCOMP:
        publisher_moment(publisher, sending, MOMENT_PUBCOMP_CAME);
        sending->active = false;
        break;
    default:
        history_fail("publisher: unexpected packet %d", packet->type);
    }
    if (peer->connected)
        publisher_send_more(publisher);
}

static void publisher_down(struct mqtt_peer *peer)
{
    struct publisher *publisher = (struct publisher *)peer;
    for (uint16_t i = 0; i < PUBLISH_WINDOW; i++) {
        struct sending *sending = &publisher->window[i];
        sending->lingers = sending->active && sending->qos == 2 && publisher->kept;
        sending->active = sending->lingers;
        sending->lingers &= !sending->received;
    }
}

struct publisher *publisher_new(unsigned topic, uint32_t messages, peer_dial *dial)
{
    struct publisher *publisher = heap_new(sizeof *publisher);
    CHECK(messages <= sizeof publisher->done);
    mqtt_peer_init(&publisher->peer, dial, "pub", topic);
    publisher->peer.up = publisher_up;
    publisher->peer.packet = publisher_packet;
    publisher->peer.down = publisher_down;
    publisher->topic = topic;
    publisher->kept = sim_chance(50);
    if (publisher->kept)
        publisher->peer.before = publisher_before;
    publisher->total = messages;
    publisher->last = (uint32_t)sim_below(LAST_MAX);
    return publisher;
}

void publisher_calm(struct publisher *publisher)
{
    publisher->last = 0;
    publisher_send_more(publisher);
}

/* ------------------------------------------------ subscriber */

struct subscriber {
    struct mqtt_peer peer; /* first */
    struct seen_run *runs[TOPICS];
    bool subscribed;
    unsigned slow_ms;
};

static unsigned subscribers;

static void subscriber_up(struct mqtt_peer *peer)
{
    struct mqtt_packet packet = {.type = MQTT_SUBSCRIBE};
    struct mqtt_filter filter = {.filter = span_from_text("t/+"), .qos = sim_chance(50) ? 1 : 2};
    packet.subscribe = (struct mqtt_subscribe){
        .packet_id = 1,
        .count = 1,
        .filters = &filter,
        .properties = mqtt_properties_none,
    };
    struct subscriber *subscriber = (struct subscriber *)peer;
    subscriber->slow_ms = sim_chance(30) ? SLOW_MS_MAX : 2;
    for (unsigned i = 0; i < TOPICS; i++)
        subscriber->runs[i] = history_run(i);
    mqtt_peer_send(peer, &packet);
}

struct late_ack {
    struct mqtt_peer *peer;
    uint64_t generation;
    uint16_t id;
    enum mqtt_type type;
};

static void ack_now(void *context)
{
    struct late_ack *late = context;
    if (late->peer->generation == late->generation && late->peer->connected)
        mqtt_peer_ack(late->peer, late->type, late->id);
    heap_free(late);
}

static void ack_later(struct subscriber *subscriber, enum mqtt_type type, uint16_t id)
{
    struct late_ack *late = heap_new(sizeof *late);
    *late = (struct late_ack){&subscriber->peer, subscriber->peer.generation, id, type};
    sim_after(sim_below(subscriber->slow_ms), ack_now, late);
}

static void subscriber_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    struct subscriber *subscriber = (struct subscriber *)peer;
    switch (packet->type) {
    case MQTT_SUBACK:
        subscriber->subscribed = true;
        for (unsigned i = 0; i < TOPICS; i++)
            history_confirmed(subscriber->runs[i]);
        break;
    case MQTT_PUBLISH: {
        struct message message;
        if (!history_parse(packet->publish.payload, &message))
            history_fail("a subscriber got what nobody published");
        if (packet->publish.qos == 0)
            history_fail("a QoS 1 or 2 record came as QoS 0");
        history_seen(subscriber->runs[message.topic], message);
        ack_later(subscriber, packet->publish.qos == 1 ? MQTT_PUBACK : MQTT_PUBREC,
                  packet->publish.packet_id);
        break;
    }
    case MQTT_PUBREL:
        ack_later(subscriber, MQTT_PUBCOMP, packet->ack.packet_id);
        break;
    default:
        history_fail("subscriber: unexpected packet %d", packet->type);
    }
}

static void subscriber_down(struct mqtt_peer *peer)
{
    struct subscriber *subscriber = (struct subscriber *)peer;
    subscriber->subscribed = false;
}

struct subscriber *subscriber_new(peer_dial *dial)
{
    struct subscriber *subscriber = heap_new(sizeof *subscriber);
    mqtt_peer_init(&subscriber->peer, dial, "sub", subscribers++);
    subscriber->peer.up = subscriber_up;
    subscriber->peer.packet = subscriber_packet;
    subscriber->peer.down = subscriber_down;
    return subscriber;
}

/* ------------------------------------------------ member of a share */

struct member {
    struct mqtt_peer peer;    /* first */
    struct seen_member *seen; /* of this connection; NULL: there is none */
};

enum { SHARED = 1, OWN = 2 };

static unsigned members;

static void member_subscribe(struct mqtt_peer *peer, uint32_t identifier, const char *text)
{
    struct mqtt_packet packet = {.type = MQTT_SUBSCRIBE};
    struct mqtt_filter filter = {.filter = span_from_text(text), .qos = 1};
    packet.subscribe = (struct mqtt_subscribe){
        .packet_id = (uint16_t)identifier,
        .count = 1,
        .filters = &filter,
        .properties = mqtt_properties_none,
    };
    packet.subscribe.properties.present = MQTT_HAS(SUBSCRIPTION_ID);
    packet.subscribe.properties.subscription_id = identifier;
    mqtt_peer_send(peer, &packet);
}

static void member_up(struct mqtt_peer *peer)
{
    struct member *member = (struct member *)peer;
    member->seen = history_member();
    member_subscribe(peer, SHARED, "$share/s/t/+");
    if (sim_chance(50)) /* which takes its part of the credit */
        member_subscribe(peer, OWN, "t/+");
}

struct member_ack {
    struct member *member;
    uint64_t generation;
    uint16_t id;
    bool shared;
    struct message message;
};

static void member_ack_now(void *context)
{
    struct member_ack *late = context;
    struct mqtt_peer *peer = &late->member->peer;
    if (peer->generation == late->generation && peer->connected) {
        if (late->shared)
            history_member_acks(late->message);
        mqtt_peer_ack(peer, MQTT_PUBACK, late->id);
    }
    heap_free(late);
}

static void member_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    struct member *member = (struct member *)peer;
    struct message message;
    if (packet->type == MQTT_SUBACK) {
        if (packet->suback.reasons.size != 1 || packet->suback.reasons.data[0] != 1)
            history_fail("a share is refused");
        if (packet->suback.packet_id == SHARED)
            history_member_confirmed(member->seen);
        return;
    }
    if (packet->type != MQTT_PUBLISH || packet->publish.qos != 1 || packet->publish.duplicate ||
        !history_parse(packet->publish.payload, &message))
        history_fail("member: unexpected packet %d", packet->type);
    bool shared = packet->publish.properties.subscription_id == SHARED;
    if (shared)
        history_member_seen(member->seen, message);
    struct member_ack *late = heap_new(sizeof *late);
    *late =
        (struct member_ack){member, peer->generation, packet->publish.packet_id, shared, message};
    sim_after(sim_below(sim_chance(5) ? 20 * SLOW_MS_MAX : SLOW_MS_MAX), member_ack_now, late);
}

static void member_down(struct mqtt_peer *peer)
{
    struct member *member = (struct member *)peer;
    if (member->seen != NULL)
        history_member_gone(member->seen);
    member->seen = NULL;
}

struct member *member_new(peer_dial *dial)
{
    struct member *member = heap_new(sizeof *member);
    mqtt_peer_init(&member->peer, dial, "mem", members++);
    member->peer.only_5 = true;
    member->peer.up = member_up;
    member->peer.packet = member_packet;
    member->peer.down = member_down;
    return member;
}

void member_start(struct member *member)
{
    mqtt_peer_start(&member->peer);
}

void member_hang_up(struct member *member)
{
    sim_disconnect(&member->peer.peer);
}

void member_finish(const struct member *member)
{
    if (member->seen == NULL || !member->seen->confirmed)
        history_fail("%s never gets in", member->peer.id);
}

void member_leave(struct member *member)
{
    member->peer.wanted = false;
    sim_disconnect(&member->peer.peer);
}

/* ------------------------------------------------ all */

void mqtt_peers_begin(void)
{
    subscribers = members = 0;
}

void publisher_start(struct publisher *publisher)
{
    mqtt_peer_start(&publisher->peer);
}

void publisher_check_told(const struct publisher *publisher)
{
    bool waits = false;
    for (unsigned i = 0; i < PUBLISH_WINDOW; i++)
        waits |= publisher->window[i].active;
    if (publisher->peer.connected && waits && sim_now_ms() > publisher->up_ms + TOLD_MS &&
        sim_disk_failed_for() > TOLD_MS)
        history_fail("publisher %u is not told that the disk has failed", publisher->topic);
}

bool publisher_is_finished(const struct publisher *publisher)
{
    return publisher->acknowledged == publisher->total - publisher->last;
}

void publisher_hang_up(struct publisher *publisher)
{
    sim_disconnect(&publisher->peer.peer);
}

void subscriber_start(struct subscriber *subscriber)
{
    mqtt_peer_start(&subscriber->peer);
}

void subscriber_hang_up(struct subscriber *subscriber)
{
    sim_disconnect(&subscriber->peer.peer);
}

void subscriber_finish(struct subscriber *subscriber)
{
    if (!subscriber->subscribed)
        history_fail("%s never gets in", subscriber->peer.id);
    for (unsigned i = 0; i < TOPICS; i++)
        subscriber->runs[i]->live = true;
}
