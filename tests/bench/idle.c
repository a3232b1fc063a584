/* SPDX-License-Identifier: Apache-2.0 */
/* What an idle connection costs the server: resident memory before and after, one subscription
 * each. */
#include "tests/bench/link.h"
#include "tests/bench/mqtt.h"
#include "tests/bench/mqttload.h"
#include "tests/bench/process.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SETUP_SECONDS 60u

struct idle {
    const struct options *options;
    struct hub hub;
    uint32_t ready, errors;
};

static void idle_opened(struct link *link)
{
    struct idle *idle = link->hub->context;
    char id[32];
    snprintf(id, sizeof(id), "idle-%d-%d", (int)getpid(), link->fd);
    uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + sizeof(id));
    link_commit(link, (uint32_t)mqtt_connect(out, idle->options->protocol, id, false));
}

static void idle_frame(struct link *link, const struct frame *frame)
{
    struct idle *idle = link->hub->context;
    int protocol = idle->options->protocol;
    uint16_t receive_max;
    if (mqtt_read_connack(frame, protocol, &receive_max)) {
        char filter[32];
        snprintf(filter, sizeof(filter), "idle/%d/state", link->fd);
        uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + sizeof(filter));
        link_commit(link, (uint32_t)mqtt_subscribe(out, protocol, 1, filter, 1));
    } else if (mqtt_read_suback(frame, protocol)) {
        idle->ready++;
    } else {
        idle->errors++;
    }
}

static void idle_lost(struct link *link)
{
    struct idle *idle = link->hub->context;
    idle->errors++;
}

static const struct link_handler idle_handler = {
    .opened = idle_opened,
    .frame = idle_frame,
    .lost = idle_lost,
};

static void idle_wait(struct idle *idle, double seconds)
{
    uint64_t end_ns = clock_ns() + (uint64_t)(seconds * 1e9);
    do {
        hub_turn(&idle->hub, 50000000);
        hub_flush(&idle->hub);
    } while (idle->hub.now_ns < end_ns);
}

static void idle_connect(struct idle *idle, struct link *links)
{
    const struct options *options = idle->options;
    uint64_t end_ns = clock_ns() + SETUP_SECONDS * 1000000000ull;
    uint32_t opened = 0;
    while (idle->ready + idle->errors < options->connections && clock_ns() < end_ns) {
        while (opened < options->connections &&
               opened - idle->ready - idle->errors < options->parallel) {
            links[opened].fd = -1;
            link_open(&idle->hub, &links[opened++]);
        }
        hub_turn(&idle->hub, 50000000);
        hub_flush(&idle->hub);
    }
}

int idle_run(const struct options *options)
{
    struct idle idle = {.options = options};
    struct link *links = calloc(options->connections, sizeof(*links));
    if (links == NULL)
        abort();
    hub_init(&idle.hub, &idle_handler, &idle, options->host, options->port);
    idle.hub.websocket = options->websocket;
    uint64_t before_kb = process_rss_kb(options->pid), server_ns = process_cpu_ns(options->pid);
    uint64_t from_ns = clock_ns();
    idle_connect(&idle, links);
    double seconds = (double)(clock_ns() - from_ns) / 1e9;
    double setup_us = used(server_ns, process_cpu_ns(options->pid)) / 1e3;
    idle_wait(&idle, options->warmup_seconds);
    server_ns = process_cpu_ns(options->pid);
    idle_wait(&idle, options->seconds);
    double idle_us = used(server_ns, process_cpu_ns(options->pid)) / 1e3;
    uint64_t after_kb = process_rss_kb(options->pid);
    double connections = idle.ready > 0 ? (double)idle.ready : 1;
    printf("{\"workload\": \"%s\", \"protocol\": %d, \"connections\": %u, \"connects_s\": %.1f, "
           "\"cpu_us\": %.3f, \"idle_cpu_ms_s\": %.3f, \"rss_before_kb\": %" PRIu64
           ", \"rss_kb\": %" PRIu64 ", \"rss_bytes_each\": %.0f, \"errors\": %u}\n",
           options->workload_name, options->protocol, idle.ready, connections / seconds,
           setup_us / connections, idle_us / 1e3 / options->seconds, before_kb, after_kb,
           ((double)after_kb - (double)before_kb) * 1024 / connections, idle.errors);
    int status = idle.ready < options->connections || idle.errors > 0;
    for (uint32_t i = 0; i < options->connections; i++) {
        if (links[i].hub != NULL)
            link_close(&links[i]);
    }
    hub_deinit(&idle.hub);
    free(links);
    return status;
}
