/* SPDX-License-Identifier: Apache-2.0 */
/* The bystander's process, and what it shares with the one that started it. */
#include "tests/bench/bystander.h"

#include "tests/bench/histogram.h"
#include "tests/bench/link.h"
#include "tests/bench/mqtt.h"
#include "tests/bench/process.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define INTERVAL_NS 2000000u
#define START_NS    10000000000ull
#define DRAIN_NS    5000000000ull

/* In memory that both processes see. */
struct bystander {
    pid_t child;
    _Atomic int phase;
    _Atomic bool flows;
    _Atomic uint64_t sent, received;
    uint64_t max_ns[BYSTANDER_END];
    struct histogram histograms[BYSTANDER_END];
};

struct stamp {
    uint64_t due_ns;
    uint32_t phase;
};

struct pair {
    struct bystander *shared;
    const struct options *options;
    struct hub hub;
    struct link publisher, subscriber;
    bool publishes, subscribed;
    struct mqtt_template template;
    uint64_t due_ns;
};

static void pair_opened(struct link *link)
{
    const struct pair *pair = link->hub->context;
    char id[48];
    snprintf(id, sizeof id, "bystander-%d-%d", (int)getpid(), link == &pair->subscriber);
    uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + sizeof id);
    link_commit(link, (uint32_t)mqtt_connect(out, pair->options->protocol, id, false));
}

static void pair_receive(struct pair *pair, const struct frame *frame)
{
    struct mqtt_publish publish;
    struct stamp stamp;
    if (!mqtt_read_publish(frame, pair->options->protocol, &publish) ||
        publish.payload_length < sizeof stamp)
        return;
    memcpy(&stamp, publish.payload, sizeof stamp);
    uint64_t took_ns = clock_ns() - stamp.due_ns;
    histogram_add(&pair->shared->histograms[stamp.phase], took_ns);
    if (took_ns > pair->shared->max_ns[stamp.phase])
        pair->shared->max_ns[stamp.phase] = took_ns;
    atomic_fetch_add(&pair->shared->received, 1);
    atomic_store(&pair->shared->flows, true);
}

static void pair_frame(struct link *link, const struct frame *frame)
{
    struct pair *pair = link->hub->context;
    if (frame->type == MQTT_PUBLISH) {
        pair_receive(pair, frame);
    } else if (frame->type == MQTT_SUBACK) {
        pair->subscribed = true;
    } else if (frame->type == MQTT_CONNACK && link == &pair->subscriber) {
        uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + 32);
        link_commit(link, (uint32_t)mqtt_subscribe(out, pair->options->protocol, 1,
                                                   "bystander/messages", 0));
    } else if (frame->type == MQTT_CONNACK) {
        pair->publishes = true;
    }
}

static void pair_lost(struct link *link)
{
    (void)link;
    _exit(1);
}

static const struct link_handler pair_handler = {
    .opened = pair_opened,
    .frame = pair_frame,
    .lost = pair_lost,
};

static void pair_publish(struct pair *pair)
{
    for (uint64_t now_ns = clock_ns(); pair->due_ns <= now_ns; pair->due_ns += INTERVAL_NS) {
        struct stamp stamp = {.due_ns = pair->due_ns,
                              .phase = (uint32_t)atomic_load(&pair->shared->phase)};
        if (stamp.phase == BYSTANDER_END)
            return;
        uint8_t *out = link_reserve(&pair->publisher, pair->template.length);
        memcpy(out, pair->template.bytes, pair->template.length);
        memcpy(out + pair->template.payload_at, &stamp, sizeof stamp);
        link_commit(&pair->publisher, pair->template.length);
        atomic_fetch_add(&pair->shared->sent, 1);
    }
}

static void pair_run(struct pair *pair)
{
    uint64_t end_ns = 0;
    hub_init(&pair->hub, &pair_handler, pair, pair->options->host, pair->options->port);
    pair->publisher.fd = pair->subscriber.fd = -1;
    link_open(&pair->hub, &pair->publisher);
    link_open(&pair->hub, &pair->subscriber);
    mqtt_publish_template(pair->options->protocol, "bystander/messages", 0, pair->options->size,
                          &pair->template);
    while (end_ns == 0 || (clock_ns() < end_ns && atomic_load(&pair->shared->received) <
                                                      atomic_load(&pair->shared->sent))) {
        if (pair->publishes && pair->subscribed) {
            if (pair->due_ns == 0)
                pair->due_ns = clock_ns();
            pair_publish(pair);
        }
        hub_flush(&pair->hub);
        uint64_t now_ns = clock_ns();
        hub_turn(&pair->hub, pair->due_ns > now_ns ? pair->due_ns - now_ns : INTERVAL_NS);
        if (end_ns == 0 && atomic_load(&pair->shared->phase) == BYSTANDER_END)
            end_ns = clock_ns() + DRAIN_NS;
    }
    _exit(0);
}

struct bystander *bystander_new(const struct options *options)
{
    struct bystander *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct pair pair = {.shared = shared, .options = options};
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pair_run(&pair);
    }
    shared->child = child;
    uint64_t until_ns = clock_ns() + START_NS;
    while (child > 0 && !atomic_load(&shared->flows) && clock_ns() < until_ns)
        usleep(1000);
    if (!atomic_load(&shared->flows)) {
        fprintf(stderr, "mqttload: the bystander's messages do not arrive\n");
        exit(2);
    }
    return shared;
}

void bystander_phase(struct bystander *bystander, enum bystander_phase phase)
{
    atomic_store(&bystander->phase, (int)phase);
}

uint64_t bystander_end(struct bystander *bystander)
{
    int status;
    bystander_phase(bystander, BYSTANDER_END);
    waitpid(bystander->child, &status, 0);
    uint64_t lost = atomic_load(&bystander->sent) - atomic_load(&bystander->received);
    const struct histogram *quiet = &bystander->histograms[BYSTANDER_QUIET];
    const struct histogram *beside = &bystander->histograms[BYSTANDER_BESIDE];
    printf(", \"quiet_p50_us\": %.1f, \"quiet_p99_us\": %.1f, \"quiet_max_us\": %.1f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"lost\": %" PRIu64,
           histogram_us(quiet, 0.5), histogram_us(quiet, 0.99),
           (double)bystander->max_ns[BYSTANDER_QUIET] / 1e3, histogram_us(beside, 0.5),
           histogram_us(beside, 0.99), (double)bystander->max_ns[BYSTANDER_BESIDE] / 1e3, lost);
    munmap(bystander, sizeof *bystander);
    return lost;
}
