/* SPDX-License-Identifier: Apache-2.0 */
/* Messages for sessions whose clients are away: the sessions subscribe and go, publishers publish,
 * the clients return and take everything. What queueing and what draining costs is measured apart.
 * As many publishers as sessions: publisher i is for session i; else every session hears all. */
#include "tests/bench/link.h"
#include "tests/bench/mqtt.h"
#include "tests/bench/mqttload.h"
#include "tests/bench/process.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_SECOND  1000000000ull
#define STALL_SECONDS  10u
#define SETUP_PARALLEL 128u

/* The first bytes of every payload, in host order: only this process reads them. */
struct stamp {
    uint32_t run, publisher;
    uint64_t sequence, unused;
};

struct sender {
    struct link link; /* first: the handlers cast */
    bool is_sender;
    uint32_t index;
    uint64_t sent, acked, count;
    struct mqtt_template template;
    bool queued;
};

struct taker {
    struct link link; /* first: the handlers cast */
    bool is_sender;
    uint32_t index, first, heard; /* the publishers it hears */
    uint64_t *next;               /* sequence expected of each of them */
};

enum phase { SUBSCRIBE, CONNECT, PUBLISH, DRAIN };

struct offline {
    const struct options *options;
    struct hub hub;
    uint32_t run;
    enum phase phase;
    struct sender *senders;
    struct taker *takers;
    struct sender **queued; /* those that may have room to send */
    uint32_t queued_count, ready;
    uint64_t acked, received, wanted;
    uint64_t lost, duplicated, errors;
    uint64_t progress_ns, rss_kb;
};

/* What one part of the run has used. */
struct part {
    uint64_t from_ns, server_ns, written_bytes; /* at its beginning, then what it took */
    uint64_t messages, rss_kb;
};

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        abort();
    return memory;
}

static void fail(const char *what)
{
    fprintf(stderr, "mqttload: %s\n", what);
    exit(2);
}

static bool is_paired(const struct options *options)
{
    return options->publishers == options->subscribers;
}

/* ------------------------------------------------ publishers */

static void sender_queue(struct offline *offline, struct sender *sender)
{
    if (sender->queued)
        return;
    sender->queued = true;
    offline->queued[offline->queued_count++] = sender;
}

static void sender_fill(struct offline *offline, struct sender *sender)
{
    const struct mqtt_template *template = &sender->template;
    sender->queued = false;
    while (sender->sent < sender->count &&
           sender->sent - sender->acked < offline->options->window && sender->link.fd >= 0) {
        struct stamp stamp = {offline->run, sender->index, sender->sent, 0};
        uint16_t id = (uint16_t)(sender->sent % UINT16_MAX + 1);
        uint8_t *out = link_reserve(&sender->link, template->length);
        memcpy(out, template->bytes, template->length);
        memcpy(out + template->payload_at, &stamp, sizeof(stamp));
        out[template->id_at] = (uint8_t)(id >> 8);
        out[template->id_at + 1] = (uint8_t)id;
        link_commit(&sender->link, template->length);
        sender->sent++;
    }
}

static void sender_frame(struct offline *offline, struct sender *sender, const struct frame *frame)
{
    uint16_t id;
    if (frame->type != MQTT_PUBACK || !mqtt_read_ack(frame, &id) ||
        id != sender->acked % UINT16_MAX + 1 || sender->acked == sender->sent) {
        offline->errors++;
        return;
    }
    sender->acked++;
    offline->acked++;
    offline->progress_ns = offline->hub.now_ns;
    sender_queue(offline, sender);
}

/* ------------------------------------------------ sessions */

static void taker_check_off(struct offline *offline, struct taker *taker, const struct stamp *stamp)
{
    uint64_t *next = &taker->next[stamp->publisher - taker->first];
    offline->received++;
    offline->progress_ns = offline->hub.now_ns;
    if (stamp->sequence < *next) { /* seen, or passed over */
        offline->duplicated++;
        return;
    }
    offline->lost += stamp->sequence - *next;
    *next = stamp->sequence + 1;
}

static void taker_frame(struct offline *offline, struct taker *taker, const struct frame *frame)
{
    struct mqtt_publish publish;
    struct stamp stamp = {0};
    if (frame->type != MQTT_PUBLISH ||
        !mqtt_read_publish(frame, offline->options->protocol, &publish) || publish.qos != 1) {
        offline->errors++;
        return;
    }
    if (publish.payload_length == offline->options->size)
        memcpy(&stamp, publish.payload, sizeof(stamp));
    if (stamp.run != offline->run || stamp.publisher - taker->first >= taker->heard) {
        offline->errors++;
        return;
    }
    taker_check_off(offline, taker, &stamp);
    link_commit(&taker->link,
                (uint32_t)mqtt_ack(link_reserve(&taker->link, 4), MQTT_PUBACK, publish.packet_id));
}

static void taker_subscribe(struct offline *offline, struct taker *taker)
{
    char filter[64];
    snprintf(filter, sizeof(filter), "offline/%" PRIu32 "/%" PRIu32, offline->run, taker->first);
    if (taker->heard > 1)
        snprintf(filter, sizeof(filter), "offline/%" PRIu32 "/#", offline->run);
    uint8_t *out = link_reserve(&taker->link, MQTT_CONTROL_BYTES + sizeof(filter));
    link_commit(&taker->link,
                (uint32_t)mqtt_subscribe(out, offline->options->protocol, 1, filter, 1));
}

/* The session stands: its client goes. */
static void taker_leave(struct offline *offline, struct taker *taker)
{
    link_commit(&taker->link, (uint32_t)mqtt_disconnect(link_reserve(&taker->link, 2)));
    link_close(&taker->link);
    offline->ready++;
}

/* ------------------------------------------------ all links */

static void offline_opened(struct link *link)
{
    struct offline *offline = link->hub->context;
    const struct sender *sender = (const struct sender *)link;
    const struct taker *taker = (const struct taker *)link;
    char id[64];
    if (sender->is_sender)
        snprintf(id, sizeof(id), "offline-%" PRIu32 "-p%" PRIu32, offline->run, sender->index);
    else
        snprintf(id, sizeof(id), "offline-%" PRIu32 "-s%" PRIu32, offline->run, taker->index);
    uint8_t *out = link_reserve(link, MQTT_CONTROL_BYTES + sizeof(id));
    link_commit(link,
                (uint32_t)mqtt_connect(out, offline->options->protocol, id, !sender->is_sender));
}

static void connected(struct offline *offline, struct link *link, const struct frame *frame)
{
    uint16_t receive_max;
    if (!mqtt_read_connack(frame, offline->options->protocol, &receive_max))
        fail("the server refused a connection or subscription");
    if (offline->phase == SUBSCRIBE) {
        taker_subscribe(offline, (struct taker *)link);
    } else if (offline->phase == CONNECT) {
        offline->ready++;
    } else if ((frame->body[0] & 1) == 0) { /* the session has gone */
        offline->errors++;
    }
}

static void offline_frame(struct link *link, const struct frame *frame)
{
    struct offline *offline = link->hub->context;
    if (frame->type == MQTT_CONNACK)
        connected(offline, link, frame);
    else if (offline->phase == SUBSCRIBE && mqtt_read_suback(frame, offline->options->protocol))
        taker_leave(offline, (struct taker *)link);
    else if (offline->phase == SUBSCRIBE)
        fail("the server refused a subscription");
    else if (((const struct sender *)link)->is_sender)
        sender_frame(offline, (struct sender *)link, frame);
    else
        taker_frame(offline, (struct taker *)link, frame);
}

static void offline_lost(struct link *link)
{
    struct offline *offline = link->hub->context;
    if (offline->phase == SUBSCRIBE || offline->phase == CONNECT)
        fail("connection refused or closed by the server");
    offline->errors++;
}

static const struct link_handler offline_handler = {
    .opened = offline_opened,
    .frame = offline_frame,
    .lost = offline_lost,
};

/* ------------------------------------------------ the run */

static void offline_init(struct offline *offline, const struct options *options)
{
    offline->options = options;
    offline->run = (uint32_t)getpid();
    offline->senders = zeroed(options->publishers, sizeof(struct sender));
    offline->takers = zeroed(options->subscribers, sizeof(struct taker));
    offline->queued = zeroed(options->publishers, sizeof(struct sender *));
    for (uint32_t i = 0; i < options->publishers; i++) {
        struct sender *sender = &offline->senders[i];
        char topic[64];
        *sender = (struct sender){.is_sender = true, .index = i, .link.fd = -1};
        sender->count =
            options->count / options->publishers + (i < options->count % options->publishers);
        snprintf(topic, sizeof(topic), "offline/%" PRIu32 "/%" PRIu32, offline->run, i);
        mqtt_publish_template(options->protocol, topic, 1, options->size, &sender->template);
    }
    for (uint32_t i = 0; i < options->subscribers; i++) {
        struct taker *taker = &offline->takers[i];
        *taker = (struct taker){.index = i, .link.fd = -1};
        taker->first = is_paired(options) ? i : 0;
        taker->heard = is_paired(options) ? 1 : options->publishers;
        taker->next = zeroed(taker->heard, sizeof(uint64_t));
    }
    hub_init(&offline->hub, &offline_handler, offline, options->host, options->port);
    offline->hub.websocket = options->websocket;
    offline->wanted = options->count * (is_paired(options) ? 1 : options->subscribers);
}

static struct link *offline_link(struct offline *offline, bool senders, uint32_t index)
{
    return senders ? &offline->senders[index].link : &offline->takers[index].link;
}

/* One turn of the loop; false: nothing has moved for a while. */
static bool offline_turn(struct offline *offline)
{
    hub_flush(&offline->hub);
    hub_turn(&offline->hub, NS_PER_SECOND / 100);
    return offline->hub.now_ns < offline->progress_ns + STALL_SECONDS * NS_PER_SECOND;
}

/* Every link of one kind has been opened and is ready. */
static void offline_setup(struct offline *offline, enum phase phase)
{
    bool senders = phase == CONNECT;
    uint32_t opened = 0;
    uint32_t all = senders ? offline->options->publishers : offline->options->subscribers;
    offline->phase = phase;
    offline->ready = 0;
    while (offline->ready < all) {
        offline->progress_ns = clock_ns();
        uint32_t ready = offline->ready;
        while (opened < all && opened - ready < SETUP_PARALLEL)
            link_open(&offline->hub, offline_link(offline, senders, opened++));
        while (offline->ready == ready)
            if (!offline_turn(offline))
                fail("clients do not become ready");
    }
    hub_flush(&offline->hub);
}

static void part_begin(struct offline *offline, struct part *part, enum phase phase)
{
    pid_t pid = offline->options->pid;
    offline->phase = phase;
    offline->rss_kb = 0;
    *part = (struct part){.from_ns = clock_ns(),
                          .server_ns = process_cpu_ns(pid),
                          .written_bytes = process_written_bytes(pid)};
    offline->progress_ns = part->from_ns;
}

static void part_end(struct offline *offline, struct part *part, uint64_t messages)
{
    pid_t pid = offline->options->pid;
    part->from_ns = clock_ns() - part->from_ns;
    part->server_ns = (uint64_t)used(part->server_ns, process_cpu_ns(pid));
    part->written_bytes = (uint64_t)used(part->written_bytes, process_written_bytes(pid));
    part->messages = messages;
    part->rss_kb = offline->rss_kb;
}

static void sample_memory(struct offline *offline)
{
    uint64_t rss_kb = process_rss_kb(offline->options->pid);
    if (rss_kb > offline->rss_kb)
        offline->rss_kb = rss_kb;
}

static void offline_publish(struct offline *offline, struct part *part)
{
    uint64_t next_sample = 0;
    part_begin(offline, part, PUBLISH);
    for (uint32_t i = 0; i < offline->options->publishers; i++)
        sender_queue(offline, &offline->senders[i]);
    do {
        for (uint32_t i = 0; i < offline->queued_count; i++)
            sender_fill(offline, offline->queued[i]);
        offline->queued_count = 0;
        if (offline->acked >= next_sample) {
            sample_memory(offline);
            next_sample += 1 + offline->options->count / offline->options->slices;
        }
    } while (offline_turn(offline) && offline->acked < offline->options->count);
    part_end(offline, part, offline->acked * (offline->wanted / offline->options->count));
}

static void offline_drain(struct offline *offline, struct part *part)
{
    uint64_t next_sample = 0;
    part_begin(offline, part, DRAIN);
    for (uint32_t i = 0; i < offline->options->subscribers; i++)
        link_open(&offline->hub, &offline->takers[i].link);
    while (offline->received < offline->wanted && offline_turn(offline)) {
        if (offline->received >= next_sample) {
            sample_memory(offline);
            next_sample += 1 + offline->wanted / offline->options->slices;
        }
    }
    hub_flush(&offline->hub);
    part_end(offline, part, offline->received);
    for (uint32_t i = 0; i < offline->options->subscribers; i++)
        for (uint32_t k = 0; k < offline->takers[i].heard; k++)
            offline->lost +=
                offline->senders[offline->takers[i].first + k].count - offline->takers[i].next[k];
}

static void part_print(const char *name, const struct part *part)
{
    double messages = part->messages > 0 ? (double)part->messages : 1;
    printf(", \"%s\": {\"delivered_s\": %.1f, \"cpu_us\": %.3f, \"rss_kb\": %" PRIu64
           ", \"written_bytes\": %" PRIu64 "}",
           name, (double)part->messages / ((double)part->from_ns / 1e9),
           (double)part->server_ns / messages / 1e3, part->rss_kb, part->written_bytes);
}

static void offline_deinit(struct offline *offline)
{
    for (uint32_t i = 0; i < offline->options->publishers; i++) {
        link_close(&offline->senders[i].link);
        free(offline->senders[i].template.bytes);
    }
    for (uint32_t i = 0; i < offline->options->subscribers; i++) {
        link_close(&offline->takers[i].link);
        free(offline->takers[i].next);
    }
    hub_deinit(&offline->hub);
    free(offline->senders);
    free(offline->takers);
    free(offline->queued);
}

int offline_run(const struct options *options)
{
    static struct offline offline;
    struct part publish, drain;
    offline_init(&offline, options);
    offline_setup(&offline, SUBSCRIBE);
    offline_setup(&offline, CONNECT);
    uint64_t before_kb = process_rss_kb(options->pid);
    offline_publish(&offline, &publish);
    offline_drain(&offline, &drain);
    uint64_t unacked = options->count - offline.acked;
    printf("{\"workload\": \"%s\", \"protocol\": %d, \"size\": %u, \"window\": %u, "
           "\"publishers\": %u, \"subscribers\": %u, \"rss_before_kb\": %" PRIu64,
           options->workload_name, options->protocol, options->size, options->window,
           options->publishers, options->subscribers, before_kb);
    part_print("queue", &publish);
    part_print("drain", &drain);
    printf(", \"sent\": %" PRIu64 ", \"received\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"unacked\": %" PRIu64 ", \"duplicated\": %" PRIu64 ", \"errors\": %" PRIu64 "}\n",
           options->count, offline.received, offline.lost, unacked, offline.duplicated,
           offline.errors);
    offline_deinit(&offline);
    return offline.lost > 0 || unacked > 0 || offline.errors > 0;
}
