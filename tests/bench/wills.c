/* SPDX-License-Identifier: Apache-2.0 */
/* `connections` clients with a will each are lost at the same moment: how long it takes until
 * somebody has all of the wills, and what a bystander notices of it. */
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

#define SETUP_SECONDS 120u
#define WAIT_SECONDS  120u
#define EXPIRY_S      60u /* of their sessions, when the will has a delay */

struct wills {
    const struct options *options;
    struct hub hub;
    struct link *links; /* the last is the watcher */
    bool *seen;         /* by number of the client */
    uint32_t connected, errors;
    uint64_t received, duplicated, first_ns, last_ns;
    bool watching;
};

static void wills_opened(struct link *link)
{
    struct wills *wills = link->hub->context;
    const struct options *options = wills->options;
    uint32_t number = (uint32_t)(link - wills->links);
    char id[48], topic[32];
    snprintf(id, sizeof id, "wills-%d-%u", (int)getpid(), number);
    snprintf(topic, sizeof topic, "wills/%u", number);
    uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + sizeof id + sizeof topic);
    struct mqtt_will will = {
        .topic = topic,
        .number = number,
        .delay_s = options->delay_s,
        .expiry_s = options->delay_s > 0 ? options->delay_s + EXPIRY_S : 0,
    };
    size_t size = number < options->connections
                      ? mqtt_connect_will(out, options->protocol, id, &will)
                      : mqtt_connect(out, options->protocol, id, false);
    link_commit(link, (uint32_t)size);
}

static void wills_receive(struct wills *wills, struct link *link, const struct frame *frame)
{
    struct mqtt_publish publish;
    uint32_t number;
    if (!mqtt_read_publish(frame, wills->options->protocol, &publish) ||
        publish.payload_length != sizeof number) {
        wills->errors++;
        return;
    }
    memcpy(&number, publish.payload, sizeof number);
    if (publish.qos == 1) {
        mqtt_ack(link_reserve(link, 4), MQTT_PUBACK, publish.packet_id);
        link_commit(link, 4);
    }
    if (number >= wills->options->connections || wills->seen[number]) {
        wills->duplicated++;
        return;
    }
    wills->seen[number] = true;
    wills->last_ns = clock_ns();
    if (wills->received++ == 0)
        wills->first_ns = wills->last_ns;
}

static void wills_frame(struct link *link, const struct frame *frame)
{
    struct wills *wills = link->hub->context;
    int protocol = wills->options->protocol;
    bool watcher = link == &wills->links[wills->options->connections];
    uint16_t receive_max;
    if (frame->type == MQTT_PUBLISH) {
        wills_receive(wills, link, frame);
    } else if (frame->type == MQTT_SUBACK) {
        wills->watching = mqtt_read_suback(frame, protocol);
    } else if (!mqtt_read_connack(frame, protocol, &receive_max)) {
        wills->errors++;
    } else if (watcher) {
        uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + 16);
        link_commit(link, (uint32_t)mqtt_subscribe(out, protocol, 1, "wills/+", 1));
    } else {
        wills->connected++;
    }
}

static void wills_lost(struct link *link)
{
    struct wills *wills = link->hub->context;
    wills->errors++;
}

static const struct link_handler wills_handler = {
    .opened = wills_opened,
    .frame = wills_frame,
    .lost = wills_lost,
};

static void wills_turn(struct wills *wills)
{
    hub_turn(&wills->hub, 20000000);
    hub_flush(&wills->hub);
}

static void wills_connect(struct wills *wills)
{
    const struct options *options = wills->options;
    uint64_t end_ns = clock_ns() + SETUP_SECONDS * 1000000000ull;
    uint32_t opened = 0;
    link_open(&wills->hub, &wills->links[options->connections]);
    while (clock_ns() < end_ns && wills->errors == 0 &&
           (!wills->watching || wills->connected < options->connections)) {
        while (opened < options->connections && opened - wills->connected < options->parallel)
            link_open(&wills->hub, &wills->links[opened++]);
        wills_turn(wills);
    }
}

static void wills_wait(struct wills *wills, double seconds)
{
    uint64_t end_ns = clock_ns() + (uint64_t)(seconds * 1e9);
    while (clock_ns() < end_ns && wills->received < wills->options->connections)
        wills_turn(wills);
}

int wills_run(const struct options *options)
{
    struct wills wills = {.options = options};
    wills.links = calloc(options->connections + 1, sizeof *wills.links);
    wills.seen = calloc(options->connections, sizeof *wills.seen);
    if (wills.links == NULL || wills.seen == NULL)
        abort();
    struct bystander *bystander = bystander_new(options);
    hub_init(&wills.hub, &wills_handler, &wills, options->host, options->port);
    for (uint32_t i = 0; i <= options->connections; i++)
        wills.links[i].fd = -1;
    uint64_t from_ns = clock_ns();
    wills_connect(&wills);
    double connects_s = (double)wills.connected / ((double)(clock_ns() - from_ns) / 1e9);
    bystander_phase(bystander, BYSTANDER_QUIET);
    wills_wait(&wills, options->warmup_seconds + options->seconds);
    uint64_t server_ns = process_cpu_ns(options->pid);
    bystander_phase(bystander, BYSTANDER_BESIDE);
    from_ns = clock_ns();
    for (uint32_t i = 0; i < options->connections; i++)
        link_close(&wills.links[i]);
    wills_wait(&wills, WAIT_SECONDS);
    bystander_phase(bystander, BYSTANDER_IDLE);
    double cpu_us = used(server_ns, process_cpu_ns(options->pid)) / 1e3;
    double delay_ms = options->delay_s * 1000.0,
           received = wills.received > 0 ? (double)wills.received : 1;
    double last_ms = (double)(wills.last_ns - from_ns) / 1e6 - delay_ms;
    uint64_t unsaid = options->connections - wills.received;
    printf("{\"workload\": \"%s\", \"protocol\": %d, \"connections\": %u, \"delay_s\": %u, "
           "\"connects_s\": %.1f, \"first_ms\": %.1f, \"last_ms\": %.1f, \"delivered_s\": %.1f, "
           "\"cpu_us\": %.3f, \"rss_kb\": %" PRIu64 ", \"unacked\": %" PRIu64
           ", \"duplicated\": %" PRIu64 ", \"errors\": %u",
           options->workload_name, options->protocol, options->connections, options->delay_s,
           connects_s, (double)(wills.first_ns - from_ns) / 1e6 - delay_ms, last_ms,
           received / (last_ms / 1e3), cpu_us / received, process_rss_kb(options->pid), unsaid,
           wills.duplicated, wills.errors);
    uint64_t lost = bystander_end(bystander);
    printf("}\n");
    link_close(&wills.links[options->connections]);
    hub_deinit(&wills.hub);
    free(wills.links);
    free(wills.seen);
    return unsaid > 0 || wills.duplicated > 0 || wills.errors > 0 || lost > 0;
}
