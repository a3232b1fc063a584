/* SPDX-License-Identifier: Apache-2.0 */
/* See retained_peer.h. A version that was sent and not answered may be there or not. */
#include "tests/sim/retained_peer.h"

#include <stdio.h>

#include "core/base/heap.h"
#include "tests/sim/history.h"

enum {
    SUBSCRIBERS = 2,
    SUBJECTS = 3,
    VERSIONS_MAX = 2000,
    PAUSE_MS = 120,
    STAY_MS = 3000,
    SETTLE_MS = 1000, /* as long as a version may take */
    LOOK_MS = 200,
    KEPT_S = 24 * 60 * 60
};

static struct subject {
    uint32_t next; /* version; from 1 on */
    bool nothing[VERSIONS_MAX];
    uint64_t answered_ms[VERSIONS_MAX]; /* 0: perhaps never */
} subjects[SUBJECTS];

struct keeper {
    struct mqtt_peer peer;   /* first */
    uint32_t sent[SUBJECTS]; /* under packet id subject + 1; 0: none */
};

struct looker {
    struct mqtt_peer peer;        /* first */
    uint64_t up_ms;               /* of the SUBACK; 0: not yet */
    uint32_t before[SUBJECTS];    /* answered when it subscribed */
    uint32_t at_suback[SUBJECTS]; /* sent by then */
    uint32_t seen[SUBJECTS];
    bool live[SUBJECTS];
};

static struct mqtt_peer *retainer, *lookers[SUBSCRIBERS];
static bool calm;
static uint64_t count;

/* ------------------------------------------------ who retains */

static void retain(struct mqtt_peer *peer)
{
    struct keeper *keeper = (struct keeper *)peer;
    if (calm)
        return;
    unsigned number = (unsigned)sim_below(SUBJECTS);
    struct subject *subject = &subjects[number];
    if (keeper->sent[number] == 0 && subject->next < VERSIONS_MAX) {
        char topic[32], text[16];
        uint32_t version = keeper->sent[number] = subject->next++;
        subject->nothing[version] = sim_chance(15);
        snprintf(topic, sizeof topic, RETAINED_TOPIC "/%u", number);
        snprintf(text, sizeof text, "k%u", version);
        struct mqtt_packet packet = {.type = MQTT_PUBLISH};
        packet.publish = (struct mqtt_publish){
            .qos = 1,
            .retain = true,
            .packet_id = (uint16_t)(number + 1),
            .topic = span_from_text(topic),
            .payload = span_from_text(subject->nothing[version] ? "" : text),
            .properties = mqtt_properties_none,
        };
        mqtt_peer_send(peer, &packet);
    }
    if (sim_chance(2))
        sim_disconnect(&peer->peer);
    else
        mqtt_peer_later(peer, 1 + sim_below(PAUSE_MS), retain);
}

static void keeper_up(struct mqtt_peer *peer)
{
    memset(((struct keeper *)peer)->sent, 0, sizeof((struct keeper *)peer)->sent);
    mqtt_peer_later(peer, 1 + sim_below(PAUSE_MS), retain);
}

static void keeper_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    struct keeper *keeper = (struct keeper *)peer;
    unsigned number = packet->ack.packet_id - 1u;
    if (packet->type != MQTT_PUBACK || number >= SUBJECTS || keeper->sent[number] == 0)
        history_fail("%s: unexpected packet %d", peer->id, packet->type);
    subjects[number].answered_ms[keeper->sent[number]] = sim_disk_now_ms();
    keeper->sent[number] = 0;
}

/* ------------------------------------------------ who looks */

static uint32_t last_answered(const struct subject *subject, uint64_t until_ms)
{
    for (uint32_t version = subject->next - 1; version > 0; version--)
        if (subject->answered_ms[version] != 0 && subject->answered_ms[version] <= until_ms)
            return version;
    return 0;
}

static void leave(struct mqtt_peer *peer)
{
    if (!calm)
        sim_disconnect(&peer->peer);
}

static void look(struct mqtt_peer *peer);

static void looker_up(struct mqtt_peer *peer)
{
    struct looker *looker = (struct looker *)peer;
    struct mqtt_filter filter = {.filter = span_from_text(RETAINED_TOPIC "/+"), .qos = 1};
    struct mqtt_packet packet = {.type = MQTT_SUBSCRIBE};
    packet.subscribe = (struct mqtt_subscribe){
        .packet_id = 1, .count = 1, .filters = &filter, .properties = mqtt_properties_none};
    mqtt_peer_send(peer, &packet);
    looker->up_ms = 0;
    for (unsigned i = 0; i < SUBJECTS; i++) {
        looker->before[i] = last_answered(&subjects[i], sim_disk_now_ms());
        looker->seen[i] = 0;
        looker->live[i] = false;
    }
    mqtt_peer_later(peer, LOOK_MS, look);
    mqtt_peer_later(peer, 1 + sim_below(STAY_MS), leave);
}

/* Something newer, answered or not, may have deleted it before the subscription. */
static bool may_be_hidden(const struct looker *looker, unsigned number, uint32_t version)
{
    for (uint32_t at = version + 1; at < looker->at_suback[number]; at++)
        if (subjects[number].nothing[at])
            return true;
    return subjects[number].nothing[version];
}

/* What was answered long ago has come, or something newer. */
static void look(struct mqtt_peer *peer)
{
    const struct looker *looker = (struct looker *)peer;
    uint64_t settled_ms = sim_disk_now_ms() - SETTLE_MS;
    bool settled = looker->up_ms != 0 && looker->up_ms <= settled_ms && !sim_disk_has_failed();
    for (unsigned i = 0; i < SUBJECTS && settled; i++) {
        uint32_t version = last_answered(&subjects[i], settled_ms);
        if (looker->seen[i] < version && !may_be_hidden(looker, i, version))
            history_fail("%s: subject %u had version %u for long, and it saw %u", peer->id, i,
                         version, looker->seen[i]);
    }
    mqtt_peer_later(peer, LOOK_MS, look);
}

static void check_hole(const struct looker *looker, unsigned number, uint32_t version)
{
    const struct subject *subject = &subjects[number];
    for (uint32_t at = looker->seen[number] + 1; at < version; at++)
        if (at >= looker->at_suback[number] && looker->up_ms != 0 && !subject->nothing[at] &&
            subject->answered_ms[at] != 0)
            history_fail("%s: subject %u shows version %u behind %u", looker->peer.id, number,
                         version, looker->seen[number]);
}

static void looker_saw(struct looker *looker, const struct mqtt_publish *publish)
{
    unsigned number = publish->topic.data[publish->topic.size - 1] - '0', version = 0;
    if (number >= SUBJECTS)
        history_fail("%s: a subject of nobody", looker->peer.id);
    if (publish->retain && (looker->live[number] || looker->seen[number] != 0))
        history_fail("%s: subject %u is shown as retained behind others", looker->peer.id, number);
    looker->live[number] = true;
    if (publish->payload.size == 0)
        return; /* it is deleted */
    for (size_t i = 1; i < publish->payload.size; i++)
        version = version * 10 + publish->payload.data[i] - '0';
    if (version <= looker->seen[number])
        history_fail("%s: subject %u shows version %u behind %u", looker->peer.id, number, version,
                     looker->seen[number]);
    if (version < looker->before[number])
        history_fail("%s: subject %u shows version %u, and had %u", looker->peer.id, number,
                     version, looker->before[number]);
    check_hole(looker, number, version);
    looker->seen[number] = version;
    count += publish->retain;
}

static void looker_packet(struct mqtt_peer *peer, const struct mqtt_packet *packet)
{
    struct looker *looker = (struct looker *)peer;
    if (packet->type == MQTT_SUBACK) {
        looker->up_ms = sim_disk_now_ms();
        for (unsigned i = 0; i < SUBJECTS; i++)
            looker->at_suback[i] = subjects[i].next;
    } else if (packet->type == MQTT_PUBLISH) {
        looker_saw(looker, &packet->publish);
        mqtt_peer_ack(peer, MQTT_PUBACK, packet->publish.packet_id);
    }
}

static void nothing(struct mqtt_peer *peer)
{
    (void)peer;
}

static struct mqtt_peer *peer_new(size_t size, peer_dial *dial, const char *kind, unsigned number)
{
    struct mqtt_peer *peer = heap_new(size);
    mqtt_peer_init(peer, dial, kind, number);
    peer->only_5 = true;
    peer->down = nothing;
    return peer;
}

void retained_peers_begin(peer_dial *dial)
{
    memset(subjects, 0, sizeof subjects);
    for (unsigned i = 0; i < SUBJECTS; i++)
        subjects[i].next = 1;
    calm = false;
    count = 0;
    retainer = peer_new(sizeof(struct keeper), dial, "keep", 0);
    /* Kept, so that it is up when what its last connection published is settled; two connections
     * without a session promise no order. */
    retainer->clean = false;
    retainer->expiry_s = KEPT_S;
    retainer->up = keeper_up;
    retainer->packet = keeper_packet;
    mqtt_peer_start(retainer);
    for (unsigned i = 0; i < SUBSCRIBERS; i++) {
        lookers[i] = peer_new(sizeof(struct looker), dial, "look", i);
        lookers[i]->up = looker_up;
        lookers[i]->packet = looker_packet;
        mqtt_peer_start(lookers[i]);
    }
}

void retained_peers_calm(void)
{
    calm = true;
}

void retained_peers_check(void)
{
    if (!retainer->connected)
        history_fail("%s never gets in", retainer->id);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        if (!lookers[i]->connected || ((struct looker *)lookers[i])->up_ms == 0)
            history_fail("%s never gets in", lookers[i]->id);
}

uint64_t retained_count(void)
{
    return count;
}
