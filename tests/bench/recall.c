/* SPDX-License-Identifier: Apache-2.0 */
/* `count` retained messages for each of `subscribers` clients that subscribe at the same moment,
 * and what a bystander notices of it. */
#include "tests/bench/bystander.h"
#include "tests/bench/link.h"
#include "tests/bench/mqtt.h"
#include "tests/bench/mqttload.h"
#include "tests/bench/process.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#define NS_PER_SECOND 1000000000ull
#define STALL_SECONDS 20u

/* The first bytes of every payload, in host order: only this process reads them. */
struct stamp {
    uint64_t number, unused[2];
};

struct client {
    struct link link; /* first: the handlers cast */
    bool publishes;
    uint32_t index;
    uint64_t sent, acked, share; /* of the messages */
    uint64_t received;
    uint64_t *seen; /* a bit per message */
};

struct recall {
    const struct options *options;
    struct hub hub;
    struct client *publishers, *subscribers;
    uint32_t ready;
    uint64_t acked, received, duplicated, errors;
    uint64_t progress_ns;
};

static void recall_opened(struct link *link)
{
    const struct recall *recall = link->hub->context;
    const struct client *client = (const struct client *)link;
    char id[48];
    snprintf(id, sizeof id, "recall-%d-%d-%u", (int)getpid(), client->publishes, client->index);
    uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + sizeof id);
    link_commit(link, (uint32_t)mqtt_connect(out, recall->options->protocol, id, false));
}

/* Topics have two levels below their number, as those of devices in groups do. */
static void publish_one(struct recall *recall, struct client *client)
{
    const struct options *options = recall->options;
    struct stamp stamp = {.number = client->sent * options->publishers + client->index};
    struct mqtt_template template;
    char topic[64];
    snprintf(topic, sizeof topic, "recall/%" PRIu64 "/%" PRIu64 "/%" PRIu64, options->count,
             stamp.number / 100, stamp.number % 100);
    mqtt_publish_template(options->protocol, topic, 1, options->size, &template);
    template.bytes[0] |= 1; /* retain */
    template.bytes[template.id_at] = (uint8_t)((client->sent % 65535 + 1) >> 8);
    template.bytes[template.id_at + 1] = (uint8_t)(client->sent % 65535 + 1);
    memcpy(template.bytes + template.payload_at, &stamp, sizeof stamp);
    memcpy(link_reserve(&client->link, template.length), template.bytes, template.length);
    link_commit(&client->link, template.length);
    free(template.bytes);
    client->sent++;
}

static void publish_more(struct recall *recall, struct client *client)
{
    while (client->sent < client->share && client->sent - client->acked < recall->options->window)
        publish_one(recall, client);
}

static void recall_receive(struct recall *recall, struct client *client, const struct frame *frame)
{
    struct mqtt_publish publish;
    struct stamp stamp;
    if (!mqtt_read_publish(frame, recall->options->protocol, &publish) ||
        publish.payload_length < sizeof stamp || (frame->flags & 1) == 0) {
        recall->errors++;
        return;
    }
    memcpy(&stamp, publish.payload, sizeof stamp);
    if (publish.qos == 1) {
        mqtt_ack(link_reserve(&client->link, 4), MQTT_PUBACK, publish.packet_id);
        link_commit(&client->link, 4);
    }
    uint64_t bit = 1ull << stamp.number % 64;
    if (stamp.number >= recall->options->count) {
        recall->errors++;
    } else if (client->seen[stamp.number / 64] & bit) {
        recall->duplicated++;
    } else {
        client->seen[stamp.number / 64] |= bit;
        client->received++;
        recall->received++;
    }
}

static void recall_frame(struct link *link, const struct frame *frame)
{
    struct recall *recall = link->hub->context;
    struct client *client = (struct client *)link;
    uint16_t number;
    recall->progress_ns = recall->hub.now_ns;
    if (frame->type == MQTT_PUBLISH) {
        recall_receive(recall, client, frame);
    } else if (frame->type == MQTT_PUBACK) {
        client->acked++;
        recall->acked++;
        if (!mqtt_read_ack(frame, &number))
            recall->errors++;
        publish_more(recall, client);
    } else if (frame->type == MQTT_SUBACK) {
        recall->errors += !mqtt_read_suback(frame, recall->options->protocol);
    } else if (mqtt_read_connack(frame, recall->options->protocol, &number)) {
        recall->ready++;
    } else {
        recall->errors++;
    }
}

static void recall_lost(struct link *link)
{
    struct recall *recall = link->hub->context;
    recall->errors++;
}

static const struct link_handler recall_handler = {
    .opened = recall_opened,
    .frame = recall_frame,
    .lost = recall_lost,
};

/* False: something is wrong, or nothing has happened for long. */
static bool recall_turn(struct recall *recall)
{
    hub_flush(&recall->hub);
    hub_turn(&recall->hub, 10000000);
    return recall->errors == 0 && clock_ns() - recall->progress_ns < STALL_SECONDS * NS_PER_SECOND;
}

static void open_all(struct recall *recall, struct client *clients, uint32_t count, bool publish)
{
    for (uint32_t i = 0; i < count; i++) {
        clients[i].link.fd = -1;
        clients[i].publishes = publish;
        clients[i].index = i;
        link_open(&recall->hub, &clients[i].link);
    }
}

static void connect_all(struct recall *recall)
{
    const struct options *options = recall->options;
    recall->publishers = calloc(options->publishers, sizeof *recall->publishers);
    recall->subscribers = calloc(options->subscribers, sizeof *recall->subscribers);
    if (recall->publishers == NULL || recall->subscribers == NULL)
        abort();
    open_all(recall, recall->publishers, options->publishers, true);
    open_all(recall, recall->subscribers, options->subscribers, false);
    for (uint32_t i = 0; i < options->publishers; i++)
        recall->publishers[i].share =
            (options->count + options->publishers - 1 - i) / options->publishers;
    for (uint32_t i = 0; i < options->subscribers; i++) {
        recall->subscribers[i].seen = calloc(options->count / 64 + 1, sizeof(uint64_t));
        if (recall->subscribers[i].seen == NULL)
            abort();
    }
    recall->progress_ns = clock_ns();
    while (recall->ready < options->publishers + options->subscribers && recall_turn(recall))
        continue;
}

static void publish_all(struct recall *recall)
{
    for (uint32_t i = 0; i < recall->options->publishers; i++)
        publish_more(recall, &recall->publishers[i]);
    while (recall->acked < recall->options->count && recall_turn(recall))
        continue;
}

static void subscribe_all(struct recall *recall)
{
    const struct options *options = recall->options;
    char filter[32];
    snprintf(filter, sizeof filter, "recall/%" PRIu64 "/#", options->count);
    for (uint32_t i = 0; i < options->subscribers; i++) {
        struct link *link = &recall->subscribers[i].link;
        uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + sizeof filter);
        link_commit(link,
                    (uint32_t)mqtt_subscribe(out, options->protocol, 1, filter, options->qos));
    }
    recall->progress_ns = clock_ns();
    while (recall->received < options->count * options->subscribers && recall_turn(recall))
        continue;
}

int recall_run(const struct options *options)
{
    struct recall recall = {.options = options};
    struct bystander *bystander = bystander_new(options);
    hub_init(&recall.hub, &recall_handler, &recall, options->host, options->port);
    connect_all(&recall);
    publish_all(&recall);
    bystander_phase(bystander, BYSTANDER_QUIET);
    usleep((useconds_t)((options->warmup_seconds + options->seconds) * 1e6));
    uint64_t server_ns = process_cpu_ns(options->pid), from_ns = clock_ns();
    bystander_phase(bystander, BYSTANDER_BESIDE);
    subscribe_all(&recall);
    bystander_phase(bystander, BYSTANDER_IDLE);
    double seconds = (double)(clock_ns() - from_ns) / 1e9;
    double cpu_us = used(server_ns, process_cpu_ns(options->pid)) / 1e3;
    uint64_t missing = options->count * options->subscribers - recall.received;
    printf("{\"workload\": \"%s\", \"protocol\": %d, \"qos\": %d, \"count\": %" PRIu64
           ", \"subscribers\": %u, \"seconds\": %.3f, \"delivered_s\": %.1f, \"cpu_us\": %.3f, "
           "\"rss_kb\": %" PRIu64 ", \"unacked\": %" PRIu64 ", \"duplicated\": %" PRIu64
           ", \"errors\": %" PRIu64,
           options->workload_name, options->protocol, options->qos, options->count,
           options->subscribers, seconds, (double)recall.received / seconds,
           cpu_us / (recall.received > 0 ? (double)recall.received : 1),
           process_rss_kb(options->pid), missing, recall.duplicated, recall.errors);
    uint64_t lost = bystander_end(bystander);
    printf("}\n");
    for (uint32_t i = 0; i < options->publishers; i++)
        link_close(&recall.publishers[i].link);
    for (uint32_t i = 0; i < options->subscribers; i++) {
        link_close(&recall.subscribers[i].link);
        free(recall.subscribers[i].seen);
    }
    hub_deinit(&recall.hub);
    free(recall.publishers);
    free(recall.subscribers);
    return missing > 0 || recall.duplicated > 0 || recall.errors > 0 || lost > 0;
}
