/* SPDX-License-Identifier: Apache-2.0 */
/* Connect storm: `parallel` slots, each of which connects, waits for CONNACK, disconnects and
 * begins again. */
#include "tests/bench/histogram.h"
#include "tests/bench/link.h"
#include "tests/bench/mqtt.h"
#include "tests/bench/mqttload.h"
#include "tests/bench/process.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct slot {
    struct link link; /* first: the handlers cast */
    uint64_t begun_ns;
    bool idle;
};

struct storm {
    const struct options *options;
    struct hub hub;
    struct slot *slots;
    uint64_t opened, done, errors, refused_in_a_row;
    bool measuring;
    struct histogram histogram;
};

static void storm_opened(struct link *link)
{
    struct storm *storm = link->hub->context;
    char id[48];
    snprintf(id, sizeof(id), "storm-%d-%" PRIu64, (int)getpid(), storm->opened++);
    uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + 2 * sizeof(id));
    size_t size = storm->options->will ? mqtt_connect_will(out, storm->options->protocol, id,
                                                           &(struct mqtt_will){.topic = id})
                                       : mqtt_connect(out, storm->options->protocol, id, false);
    link_commit(link, (uint32_t)size);
}

static void storm_frame(struct link *link, const struct frame *frame)
{
    struct storm *storm = link->hub->context;
    struct slot *slot = (struct slot *)link;
    uint16_t receive_max;
    if (mqtt_read_connack(frame, storm->options->protocol, &receive_max)) {
        storm->refused_in_a_row = 0;
        if (storm->measuring) {
            storm->done++;
            histogram_add(&storm->histogram, storm->hub.now_ns - slot->begun_ns);
        }
    } else {
        storm->errors++;
    }
    link_commit(link, (uint32_t)mqtt_disconnect(link_reserve(link, 2)));
    link_close(link);
    slot->idle = true;
}

static void storm_lost(struct link *link)
{
    struct storm *storm = link->hub->context;
    storm->errors++;
    storm->refused_in_a_row++;
    ((struct slot *)link)->idle = true;
}

static const struct link_handler storm_handler = {
    .opened = storm_opened,
    .frame = storm_frame,
    .lost = storm_lost,
};

/* Ends early when the server refuses everybody. */
static void storm_go(struct storm *storm, double seconds)
{
    uint64_t end_ns = clock_ns() + (uint64_t)(seconds * 1e9);
    do {
        for (uint32_t i = 0; i < storm->options->parallel; i++) {
            struct slot *slot = &storm->slots[i];
            if (!slot->idle)
                continue;
            slot->idle = false;
            slot->begun_ns = clock_ns();
            link_open(&storm->hub, &slot->link);
        }
        hub_turn(&storm->hub, 10000000);
        hub_flush(&storm->hub);
    } while (storm->hub.now_ns < end_ns && storm->refused_in_a_row < 1000);
}

int storm_run(const struct options *options)
{
    static struct storm storm;
    storm.options = options;
    storm.slots = calloc(options->parallel, sizeof(*storm.slots));
    if (storm.slots == NULL)
        abort();
    for (uint32_t i = 0; i < options->parallel; i++) {
        storm.slots[i].idle = true;
        storm.slots[i].link.fd = -1;
    }
    hub_init(&storm.hub, &storm_handler, &storm, options->host, options->port);
    storm.hub.websocket = options->websocket;
    storm_go(&storm, options->warmup_seconds);
    uint64_t from_ns = clock_ns(), server_ns = process_cpu_ns(options->pid);
    storm.measuring = true;
    storm_go(&storm, options->seconds);
    double seconds = (double)(clock_ns() - from_ns) / 1e9;
    double cpu_us = used(server_ns, process_cpu_ns(options->pid)) / 1e3;
    printf("{\"workload\": \"%s\", \"protocol\": %d, \"parallel\": %u, \"seconds\": %.3f, "
           "\"delivered_s\": %.1f, \"cpu_us\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"rss_kb\": %" PRIu64 ", \"errors\": %" PRIu64 "}\n",
           options->workload_name, options->protocol, options->parallel, seconds,
           (double)storm.done / seconds, cpu_us / (storm.done > 0 ? (double)storm.done : 1),
           histogram_us(&storm.histogram, 0.5), histogram_us(&storm.histogram, 0.99),
           histogram_us(&storm.histogram, 0.999), process_rss_kb(options->pid), storm.errors);
    for (uint32_t i = 0; i < options->parallel; i++)
        link_close(&storm.slots[i].link);
    hub_deinit(&storm.hub);
    free(storm.slots);
    return storm.errors > 0 || storm.done == 0;
}
