/* SPDX-License-Identifier: Apache-2.0 */
/* Publishers and subscribers in one process and one thread, so that a publisher knows which of its
 * messages have arrived: a message leaves the publisher's window when the server has acknowledged
 * it (QoS 1, 2) and every subscriber has it. Nothing can overrun, and each message is checked off
 * by (publisher, sequence). */
#include "tests/bench/amqp.h"
#include "tests/bench/histogram.h"
#include "tests/bench/link.h"
#include "tests/bench/mqtt.h"
#include "tests/bench/mqttload.h"
#include "tests/bench/page.h"
#include "tests/bench/process.h"
#include "tests/bench/stamp.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_SECOND  1000000000u
#define SETUP_SECONDS  30u
#define STALL_SECONDS  5u
#define SETUP_PARALLEL 128u
#define REMEMBERED                                                                                 \
    1024u /* sequences behind the newest in which a late message is told from a duplicate */
#define SLICES_MAX 1000u

enum role { PUBLISHER, SUBSCRIBER };

struct client {
    struct link link; /* first: the handlers cast */
    enum role role;
    uint32_t index;
};

struct publisher {
    struct client client;
    uint64_t sent;    /* sequences below it have been sent */
    uint64_t oldest;  /* sequences below it have left the window */
    uint64_t allowed; /* sequences below it may be sent (due, in latency mode) */
    uint64_t acked;
    uint32_t window;
    uint32_t *missing; /* per sequence % window: acknowledgement and deliveries still to come */
    uint64_t *sent_ns; /* the same way: when it was sent */
    struct mqtt_template template;
    bool queued;
};

/* What one subscriber has seen of one publisher. */
struct stream {
    uint64_t next;
    uint64_t seen[REMEMBERED / 64];
};

struct subscriber {
    struct client client;
    uint32_t first, count; /* the publishers it hears */
    struct stream *streams;
    struct amqp_receiver receiver;
};

enum phase { SETUP, WARMUP, MEASURE, DRAIN };

struct exchange {
    const struct options *options;
    struct hub hub;
    uint32_t run, fan; /* fan: subscribers per message */
    struct publisher *publishers;
    struct subscriber *subscribers;
    struct publisher **queued; /* those that may have room to send */
    uint32_t queued_count;
    uint32_t ready_clients;
    enum phase phase;
    uint64_t start_ns, due; /* latency mode: message `due` is the next of the schedule */
    double interval_ns;
    uint64_t measure_from_ns, measure_to_ns, progress_ns;
    uint64_t delivered, delivered_total, acked_total, lost, duplicated, reordered, errors;
    bool stalled;
    struct histogram histogram, beside; /* beside: of the pairs that are */
    uint64_t slice_ns[SLICES_MAX + 1];
    uint32_t slices_done;
};

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count == 0 ? 1 : count, size);
    if (memory == NULL)
        abort();
    return memory;
}

static void publisher_queue(struct exchange *exchange, struct publisher *publisher)
{
    if (publisher->queued)
        return;
    publisher->queued = true;
    exchange->queued[exchange->queued_count++] = publisher;
}

/* One of the events a message waits for has come (or will never come). */
static void publisher_check_off(struct exchange *exchange, struct publisher *publisher,
                                uint64_t sequence)
{
    uint32_t slot = (uint32_t)(sequence % publisher->window);
    if (sequence < publisher->oldest || publisher->missing[slot] == 0)
        return;
    if (--publisher->missing[slot] > 0 || sequence != publisher->oldest)
        return;
    while (publisher->oldest < publisher->sent &&
           publisher->missing[publisher->oldest % publisher->window] == 0)
        publisher->oldest++;
    publisher_queue(exchange, publisher);
}

static void publisher_fill(struct exchange *exchange, struct publisher *publisher)
{
    const struct mqtt_template *template = &publisher->template;
    struct link *link = &publisher->client.link;
    uint64_t now_ns = exchange->hub.now_ns;
    bool paced = exchange->options->rate > 0;
    while (publisher->sent < publisher->allowed &&
           publisher->sent - publisher->oldest < publisher->window && link->fd >= 0) {
        uint32_t slot = (uint32_t)(publisher->sent % publisher->window);
        struct stamp stamp = {exchange->run, publisher->client.index, publisher->sent, now_ns};
        if (paced) {
            uint64_t turn = publisher->sent * exchange->options->publishers + stamp.publisher;
            stamp.time_ns = exchange->start_ns + (uint64_t)((double)turn * exchange->interval_ns);
        }
        uint8_t *out = link_reserve(link, template->length);
        memcpy(out, template->bytes, template->length);
        stamp_write(&stamp, exchange->options->pages, out + template->payload_at);
        if (exchange->options->qos > 0) {
            out[template->id_at] = (uint8_t)((slot + 1) >> 8);
            out[template->id_at + 1] = (uint8_t)(slot + 1);
        }
        link_commit(link, template->length);
        publisher->sent_ns[slot] = now_ns;
        publisher->missing[slot] = exchange->fan + (exchange->options->qos > 0);
        publisher->sent++;
    }
}

static void acknowledge(struct link *link, enum mqtt_type type, uint16_t packet_id)
{
    link_commit(link, (uint32_t)mqtt_ack(link_reserve(link, 4), type, packet_id));
}

/* Where nobody subscribes, the acknowledgement is what a message waits for. */
static void stored_note(struct exchange *exchange, uint64_t sent_ns)
{
    const struct options *options = exchange->options;
    histogram_add(&exchange->histogram, exchange->hub.now_ns - sent_ns);
    if (exchange->slices_done == options->slices)
        return;
    if (exchange->acked_total >= options->count * (exchange->slices_done + 1) / options->slices)
        exchange->slice_ns[++exchange->slices_done] = exchange->hub.now_ns;
}

static void publisher_frame(struct exchange *exchange, struct publisher *publisher,
                            const struct frame *frame)
{
    uint16_t packet_id;
    bool fine = mqtt_read_ack(frame, &packet_id);
    if (!fine || packet_id == 0 || packet_id > publisher->window) {
        exchange->errors++;
        return;
    }
    if (frame->type == MQTT_PUBREC && exchange->options->qos == 2) {
        acknowledge(&publisher->client.link, MQTT_PUBREL, packet_id);
        return;
    }
    if (frame->type != (exchange->options->qos == 2 ? MQTT_PUBCOMP : MQTT_PUBACK)) {
        exchange->errors++;
        return;
    }
    uint32_t slot = packet_id - 1u, window = publisher->window;
    uint32_t ahead = (slot + window - (uint32_t)(publisher->oldest % window)) % window;
    publisher->acked++;
    exchange->acked_total++;
    exchange->progress_ns = exchange->hub.now_ns;
    publisher_check_off(exchange, publisher, publisher->oldest + ahead);
    if (exchange->options->workload == WORKLOAD_STORED)
        stored_note(exchange, publisher->sent_ns[slot]);
}

static uint64_t *stream_word(struct stream *stream, uint64_t sequence)
{
    return &stream->seen[sequence % REMEMBERED / 64];
}

/* Sequences [next, sequence) have been passed over: lost until they arrive after all. */
static void stream_skip(struct exchange *exchange, struct publisher *publisher,
                        struct stream *stream, uint64_t sequence)
{
    exchange->lost += sequence - stream->next;
    for (; stream->next < sequence; stream->next++) {
        *stream_word(stream, stream->next) &= ~(1ull << (stream->next % 64));
        publisher_check_off(exchange, publisher, stream->next);
    }
}

/* A sequence below the newest: late if it was passed over, else a copy. */
static void stream_late(struct exchange *exchange, struct stream *stream, uint64_t sequence)
{
    uint64_t bit = 1ull << (sequence % 64);
    if (stream->next - sequence > REMEMBERED || (*stream_word(stream, sequence) & bit) != 0) {
        exchange->duplicated++;
        return;
    }
    *stream_word(stream, sequence) |= bit;
    exchange->reordered++;
    exchange->lost--;
}

/* One of the pairs of --beside, by its number. */
static bool is_beside(const struct exchange *exchange, uint32_t index)
{
    return exchange->options->beside && index >= exchange->options->publishers / 2;
}

static void exchange_measure(struct exchange *exchange, const struct stamp *stamp)
{
    uint64_t now_ns = exchange->hub.now_ns;
    bool counted = exchange->phase == MEASURE;
    exchange->delivered += counted;
    if (exchange->options->rate > 0)
        counted = exchange->measure_from_ns != 0 && stamp->time_ns >= exchange->measure_from_ns &&
                  (exchange->measure_to_ns == 0 || stamp->time_ns < exchange->measure_to_ns);
    if (counted)
        histogram_add(is_beside(exchange, stamp->publisher) ? &exchange->beside
                                                            : &exchange->histogram,
                      now_ns > stamp->time_ns ? now_ns - stamp->time_ns : 0);
}

static void subscriber_publish(struct exchange *exchange, struct subscriber *subscriber,
                               const struct mqtt_publish *publish)
{
    struct stamp stamp = {0};
    if (publish->payload_length == exchange->options->size)
        stamp_read(&stamp, exchange->options->pages, publish->payload);
    uint32_t heard = stamp.publisher - subscriber->first;
    if (stamp.run != exchange->run || heard >= subscriber->count ||
        stamp.sequence >= exchange->publishers[stamp.publisher].sent) {
        exchange->errors++;
        return;
    }
    struct stream *stream = &subscriber->streams[heard];
    struct publisher *publisher = &exchange->publishers[stamp.publisher];
    exchange->delivered_total++;
    exchange->progress_ns = exchange->hub.now_ns;
    if (stamp.sequence < stream->next) {
        stream_late(exchange, stream, stamp.sequence);
        return;
    }
    if (stamp.sequence > stream->next)
        stream_skip(exchange, publisher, stream, stamp.sequence);
    *stream_word(stream, stamp.sequence) |= 1ull << (stamp.sequence % 64);
    stream->next++;
    publisher_check_off(exchange, publisher, stamp.sequence);
    exchange_measure(exchange, &stamp);
}

static void subscriber_frame(struct exchange *exchange, struct subscriber *subscriber,
                             const struct frame *frame)
{
    struct link *link = &subscriber->client.link;
    struct mqtt_publish publish;
    uint16_t packet_id;
    if (link->speech != SPEECH_MQTT) {
        publish.payload_length = exchange->options->size;
        if (link->speech == SPEECH_PAGE
                ? page_read_body(frame, &publish.payload, &publish.payload_length)
                : amqp_read_transfer(&subscriber->receiver, frame, exchange->options->size,
                                     &publish.payload))
            subscriber_publish(exchange, subscriber, &publish);
        else if (frame->type != 0 && frame->type != AMQP_FLOW) /* AMQP's empty frames and echoes */
            exchange->errors++;
        return;
    }
    if (frame->type == MQTT_PUBREL && mqtt_read_ack(frame, &packet_id)) {
        acknowledge(link, MQTT_PUBCOMP, packet_id);
        return;
    }
    if (frame->type != MQTT_PUBLISH ||
        !mqtt_read_publish(frame, exchange->options->protocol, &publish)) {
        exchange->errors++;
        return;
    }
    if (publish.qos != exchange->options->qos)
        exchange->errors++;
    subscriber_publish(exchange, subscriber, &publish);
    if (publish.qos > 0)
        acknowledge(link, publish.qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, publish.packet_id);
}

/* Topics carry the run's number, so that nothing of an earlier run can be taken for this one's. */
static void topic_name(const struct exchange *exchange, uint32_t index, char topic[64])
{
    const struct options *options = exchange->options;
    const char *first = !options->queues || is_beside(exchange, index) ? "load"
                        : options->amqp_port != 0                      ? "queued"
                                                                       : "leased";
    snprintf(topic, 64, "%s/%" PRIu32 "/%" PRIu32, first, exchange->run, index);
}

static void subscriber_filter(const struct exchange *exchange, const struct subscriber *subscriber,
                              char filter[64])
{
    if (exchange->options->queues && exchange->options->amqp_port == 0 &&
        !is_beside(exchange, subscriber->first))
        snprintf(filter, 64, "$queue/leased-%" PRIu32, subscriber->first);
    else if (subscriber->count > 1)
        snprintf(filter, 64, "load/%" PRIu32 "/#", exchange->run);
    else
        topic_name(exchange, subscriber->first, filter);
}

static void subscriber_subscribe(struct exchange *exchange, struct subscriber *subscriber)
{
    char filter[64];
    subscriber_filter(exchange, subscriber, filter);
    struct link *link = &subscriber->client.link;
    uint8_t *out = link_reserve(link, PAGE_BYTES + sizeof(filter));
    if (link->speech == SPEECH_PAGE) {
        link_commit(link, (uint32_t)page_subscribe(out, filter));
        return;
    }
    link_commit(link, (uint32_t)mqtt_subscribe(out, exchange->options->protocol, 1, filter,
                                               exchange->options->qos));
}

/* All that makes a receiver goes at once, and the answer to its attach is the last that comes. */
static void receiver_open(struct exchange *exchange, struct subscriber *subscriber, const char *id)
{
    char filter[64], address[80];
    struct link *link = &subscriber->client.link;
    subscriber_filter(exchange, subscriber, filter);
    if (exchange->options->queues)
        snprintf(address, sizeof(address), "/queues/load-%" PRIu32, subscriber->first);
    else
        snprintf(address, sizeof(address), "/topics/%s", filter);
    uint8_t *out = link_reserve(link, AMQP_BYTES + sizeof(address) + AMQP_STRING_MAX);
    link_commit(link, (uint32_t)amqp_connect(out, id, address));
}

static bool is_receiver_step(const struct frame *frame)
{
    return frame->type == AMQP_HEADER || frame->type == AMQP_OPEN || frame->type == AMQP_BEGIN ||
           frame->type == AMQP_FLOW;
}

/* CONNACK and SUBACK. */
static void setup_frame(struct exchange *exchange, struct client *client, const struct frame *frame)
{
    int protocol = exchange->options->protocol;
    uint16_t receive_max;
    if (client->link.speech == SPEECH_AMQP && is_receiver_step(frame))
        return;
    if (client->link.speech == SPEECH_AMQP && frame->type == AMQP_ATTACH) {
        exchange->ready_clients++;
        return;
    }
    if (client->link.speech == SPEECH_PAGE && page_is_ok(frame, PAGE_CONNECT)) {
        subscriber_subscribe(exchange, (struct subscriber *)client);
        return;
    }
    if (client->link.speech == SPEECH_PAGE && page_is_ok(frame, PAGE_SUBSCRIBE)) {
        exchange->ready_clients++;
        return;
    }
    if (frame->type == MQTT_SUBACK && mqtt_read_suback(frame, protocol)) {
        exchange->ready_clients++;
        return;
    }
    if (!mqtt_read_connack(frame, protocol, &receive_max)) {
        fprintf(stderr, "mqttload: the server refused a connection or subscription\n");
        exit(2);
    }
    if (client->role == SUBSCRIBER) {
        subscriber_subscribe(exchange, (struct subscriber *)client);
        return;
    }
    struct publisher *publisher = (struct publisher *)client;
    if (exchange->options->qos > 0 && receive_max < publisher->window)
        publisher->window = receive_max;
    exchange->ready_clients++;
}

static void exchange_opened(struct link *link)
{
    struct exchange *exchange = link->hub->context;
    struct client *client = (struct client *)link;
    char id[64];
    snprintf(id, sizeof(id), "load-%" PRIu32 "-%c%" PRIu32, exchange->run,
             client->role == PUBLISHER ? 'p' : 's', client->index);
    if (link->speech == SPEECH_AMQP) {
        receiver_open(exchange, (struct subscriber *)client, id);
        return;
    }
    uint8_t *out = link_reserve(link, PAGE_BYTES + sizeof(id));
    bool kept = exchange->options->workload == WORKLOAD_SESSIONS && client->role == SUBSCRIBER;
    if (link->speech == SPEECH_PAGE)
        link_commit(link, (uint32_t)page_connect(out, id));
    else
        link_commit(link, (uint32_t)mqtt_connect(out, exchange->options->protocol, id, kept));
}

static void exchange_frame(struct link *link, const struct frame *frame)
{
    struct exchange *exchange = link->hub->context;
    struct client *client = (struct client *)link;
    if (exchange->phase == SETUP)
        setup_frame(exchange, client, frame);
    else if (client->role == PUBLISHER)
        publisher_frame(exchange, (struct publisher *)client, frame);
    else
        subscriber_frame(exchange, (struct subscriber *)client, frame);
}

/* Whatever one read brought is settled at once, as MQTT's acknowledgements go out at once. */
static void exchange_taken(struct link *link)
{
    if (link->speech != SPEECH_AMQP)
        return;
    struct subscriber *subscriber = (struct subscriber *)link;
    uint8_t *out = link_reserve(link, AMQP_BYTES);
    uint32_t size = (uint32_t)amqp_settle(&subscriber->receiver, out);
    if (size > 0)
        link_commit(link, size);
}

static void exchange_lost(struct link *link)
{
    struct exchange *exchange = link->hub->context;
    if (exchange->phase == SETUP) {
        fprintf(stderr, "mqttload: connection refused or closed by the server\n");
        exit(2);
    }
    exchange->errors++;
}

static const struct link_handler exchange_handler = {
    .opened = exchange_opened,
    .frame = exchange_frame,
    .taken = exchange_taken,
    .lost = exchange_lost,
};

static void exchange_init(struct exchange *exchange, const struct options *options)
{
    exchange->options = options;
    exchange->run = (uint32_t)getpid();
    exchange->interval_ns = options->rate > 0 ? 1e9 / (double)options->rate : 0;
    exchange->publishers = zeroed(options->publishers, sizeof(struct publisher));
    exchange->subscribers = zeroed(options->subscribers, sizeof(struct subscriber));
    exchange->queued = zeroed(options->publishers, sizeof(struct publisher *));
    bool paired = options->publishers > 1 && options->publishers == options->subscribers;
    exchange->fan = paired ? 1 : options->subscribers;
    for (uint32_t i = 0; i < options->publishers; i++) {
        struct publisher *publisher = &exchange->publishers[i];
        char topic[64];
        publisher->client = (struct client){.role = PUBLISHER, .index = i};
        publisher->client.link.fd = -1;
        publisher->window = options->window;
        publisher->missing = zeroed(options->window, sizeof(uint32_t));
        publisher->sent_ns = zeroed(options->window, sizeof(uint64_t));
        topic_name(exchange, i, topic);
        mqtt_publish_template(options->protocol, topic, options->qos, options->size,
                              &publisher->template);
        if (options->pages) /* what stands as it is in JSON */
            memset(publisher->template.bytes + publisher->template.payload_at, 'x', options->size);
    }
    for (uint32_t i = 0; i < options->subscribers; i++) {
        struct subscriber *subscriber = &exchange->subscribers[i];
        subscriber->client = (struct client){.role = SUBSCRIBER, .index = i};
        subscriber->client.link.fd = -1;
        bool amqp = options->amqp_port != 0 && !is_beside(exchange, i);
        subscriber->client.link.speech = options->pages ? SPEECH_PAGE
                                         : amqp         ? SPEECH_AMQP
                                                        : SPEECH_MQTT;
        subscriber->first = paired ? i : 0;
        subscriber->count = paired ? 1 : options->publishers;
        subscriber->streams = zeroed(subscriber->count, sizeof(struct stream));
    }
    hub_init(&exchange->hub, &exchange_handler, exchange, options->host, options->port);
    exchange->hub.websocket = options->websocket;
    exchange->hub.amqp_port = options->amqp_port;
}

static struct client *exchange_client(struct exchange *exchange, uint32_t index)
{
    uint32_t subscribers = exchange->options->subscribers;
    return index < subscribers ? &exchange->subscribers[index].client
                               : &exchange->publishers[index - subscribers].client;
}

static void exchange_deinit(struct exchange *exchange)
{
    const struct options *options = exchange->options;
    for (uint32_t i = 0; i < options->publishers + options->subscribers; i++) {
        struct link *link = &exchange_client(exchange, i)->link;
        if (link->fd < 0)
            continue;
        if (link->speech == SPEECH_MQTT)
            link_commit(link, (uint32_t)mqtt_disconnect(link_reserve(link, 2)));
        else if (link->speech == SPEECH_AMQP)
            link_commit(link, (uint32_t)amqp_close(link_reserve(link, AMQP_BYTES)));
        link_close(link);
    }
    for (uint32_t i = 0; i < options->publishers; i++) {
        free(exchange->publishers[i].missing);
        free(exchange->publishers[i].sent_ns);
        free(exchange->publishers[i].template.bytes);
    }
    for (uint32_t i = 0; i < options->subscribers; i++)
        free(exchange->subscribers[i].streams);
    hub_deinit(&exchange->hub);
    free(exchange->publishers);
    free(exchange->subscribers);
    free(exchange->queued);
}

/* Subscribers first, so that every filter stands before the first message. */
static void exchange_setup(struct exchange *exchange)
{
    const struct options *options = exchange->options;
    uint32_t opened = 0, all = options->publishers + options->subscribers;
    uint64_t deadline_ns = clock_ns() + SETUP_SECONDS * (uint64_t)NS_PER_SECOND;
    while (exchange->ready_clients < all) {
        while (opened < all && opened - exchange->ready_clients < SETUP_PARALLEL)
            link_open(&exchange->hub, &exchange_client(exchange, opened++)->link);
        hub_turn(&exchange->hub, NS_PER_SECOND / 10);
        hub_flush(&exchange->hub);
        if (exchange->hub.now_ns > deadline_ns) {
            fprintf(stderr, "mqttload: %u of %u clients ready after %u s\n",
                    exchange->ready_clients, all, SETUP_SECONDS);
            exit(2);
        }
    }
}

static bool exchange_settled(const struct exchange *exchange)
{
    for (uint32_t i = 0; i < exchange->options->publishers; i++) {
        if (exchange->publishers[i].oldest < exchange->publishers[i].allowed)
            return false;
    }
    return true;
}

/* Latency mode: lets publishers send what the schedule says, and answers when the next message is
 * due. */
static uint64_t schedule_release(struct exchange *exchange)
{
    uint64_t now_ns = clock_ns();
    for (;; exchange->due++) {
        uint64_t due_ns =
            exchange->start_ns + (uint64_t)((double)exchange->due * exchange->interval_ns);
        if (due_ns > now_ns)
            return due_ns - now_ns;
        uint32_t index = (uint32_t)(exchange->due % exchange->options->publishers);
        exchange->publishers[index].allowed++;
        publisher_queue(exchange, &exchange->publishers[index]);
    }
}

static void exchange_send(struct exchange *exchange)
{
    for (uint32_t i = 0; i < exchange->queued_count; i++) {
        exchange->queued[i]->queued = false;
        publisher_fill(exchange, exchange->queued[i]);
    }
    exchange->queued_count = 0;
    hub_flush(&exchange->hub);
}

/* Runs for the given time; 0: until everything allowed has been settled. Gives up when nothing
 * moves. */
static void exchange_go(struct exchange *exchange, enum phase phase, double seconds)
{
    uint64_t now_ns = clock_ns(), end_ns = now_ns + (uint64_t)(seconds * NS_PER_SECOND);
    bool paced = exchange->options->rate > 0 && phase != DRAIN;
    exchange->phase = phase;
    exchange->progress_ns = now_ns;
    while (!exchange->stalled && (seconds > 0 ? now_ns < end_ns : !exchange_settled(exchange))) {
        uint64_t wait_ns = NS_PER_SECOND / 100;
        if (paced) {
            uint64_t due_ns = schedule_release(exchange);
            wait_ns = due_ns < wait_ns ? due_ns : wait_ns;
        }
        exchange_send(exchange);
        hub_turn(&exchange->hub, wait_ns);
        now_ns = exchange->hub.now_ns;
        if (now_ns > exchange->progress_ns + STALL_SECONDS * (uint64_t)NS_PER_SECOND)
            exchange->stalled = true;
    }
    exchange_send(exchange);
}

static void exchange_start(struct exchange *exchange)
{
    const struct options *options = exchange->options;
    for (uint32_t i = 0; i < options->publishers; i++) {
        struct publisher *publisher = &exchange->publishers[i];
        uint64_t share =
            options->count / options->publishers + (i < options->count % options->publishers);
        publisher->allowed = options->rate > 0 ? 0 : options->count > 0 ? share : UINT64_MAX;
        publisher_queue(exchange, publisher);
    }
    exchange->start_ns = exchange->hub.now_ns = clock_ns();
    exchange->slice_ns[0] = exchange->start_ns;
}

static uint64_t exchange_count_lost(const struct exchange *exchange)
{
    uint64_t lost = exchange->lost;
    for (uint32_t i = 0; i < exchange->options->subscribers; i++) {
        const struct subscriber *subscriber = &exchange->subscribers[i];
        for (uint32_t k = 0; k < subscriber->count; k++)
            lost += exchange->publishers[subscriber->first + k].sent - subscriber->streams[k].next;
    }
    return lost;
}

struct usage {
    uint64_t time_ns, server_ns, own_ns, written_bytes;
};

static struct usage usage_now(const struct options *options)
{
    return (struct usage){clock_ns(), process_cpu_ns(options->pid), process_cpu_ns(getpid()),
                          process_written_bytes(options->pid)};
}

static void print_slices(const struct exchange *exchange)
{
    const struct options *options = exchange->options;
    printf(", \"slices_s\": [");
    for (uint32_t i = 0; i < exchange->slices_done; i++) {
        uint64_t messages =
            options->count * (i + 1) / options->slices - options->count * i / options->slices;
        double seconds = (double)(exchange->slice_ns[i + 1] - exchange->slice_ns[i]) / 1e9;
        printf("%s%.0f", i == 0 ? "" : ", ", seconds > 0 ? (double)messages / seconds : 0);
    }
    printf("]");
}

static int exchange_report(const struct exchange *exchange, const struct usage *from,
                           const struct usage *to, uint64_t rss_kb)
{
    const struct options *options = exchange->options;
    bool stored = options->workload == WORKLOAD_STORED;
    uint64_t sent = 0, acked = 0, lost = exchange_count_lost(exchange);
    for (uint32_t i = 0; i < options->publishers; i++) {
        sent += exchange->publishers[i].sent;
        acked += exchange->publishers[i].acked;
    }
    uint64_t unacked = options->qos > 0 && acked < sent ? sent - acked : 0;
    double seconds = (double)(to->time_ns - from->time_ns) / 1e9;
    double messages = (double)(stored ? exchange->acked_total : exchange->delivered);
    double divisor = messages > 0 ? messages : 1;
    printf("{\"workload\": \"%s\", \"protocol\": %d, \"qos\": %d, \"size\": %u, \"window\": %u, "
           "\"publishers\": %u, \"subscribers\": %u, \"rate\": %" PRIu64 ", \"seconds\": %.3f, ",
           options->workload_name, options->protocol, options->qos, options->size, options->window,
           options->publishers, options->subscribers, options->rate, seconds);
    printf("\"delivered_s\": %.1f, \"cpu_us\": %.3f, \"load_cpu_us\": %.3f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"rss_kb\": %" PRIu64 ", ",
           messages / seconds, used(from->server_ns, to->server_ns) / divisor / 1e3,
           used(from->own_ns, to->own_ns) / divisor / 1e3, histogram_us(&exchange->histogram, 0.5),
           histogram_us(&exchange->histogram, 0.99), histogram_us(&exchange->histogram, 0.999),
           rss_kb);
    printf("\"sent\": %" PRIu64 ", \"received\": %" PRIu64 ", \"lost\": %" PRIu64
           ", \"unacked\": %" PRIu64 ", \"duplicated\": %" PRIu64 ", \"reordered\": %" PRIu64
           ", \"errors\": %" PRIu64 ", \"stalled\": %s, \"written_bytes\": %.0f",
           sent, exchange->delivered_total, lost, unacked, exchange->duplicated,
           exchange->reordered, exchange->errors, exchange->stalled ? "true" : "false",
           used(from->written_bytes, to->written_bytes));
    if (options->beside)
        printf(", \"beside_p50_us\": %.1f, \"beside_p99_us\": %.1f",
               histogram_us(&exchange->beside, 0.5), histogram_us(&exchange->beside, 0.99));
    if (stored)
        print_slices(exchange);
    printf("}\n");
    bool wrong = exchange->errors > 0 || (options->qos > 0 && (lost > 0 || unacked > 0)) ||
                 (options->qos == 2 && exchange->duplicated > 0);
    return wrong ? 1 : 0;
}

int exchange_run(const struct options *options)
{
    static struct exchange exchange;
    exchange_init(&exchange, options);
    exchange_setup(&exchange);
    exchange_start(&exchange);
    if (options->count == 0 && options->warmup_seconds > 0)
        exchange_go(&exchange, WARMUP, options->warmup_seconds);
    struct usage from = usage_now(options);
    exchange.measure_from_ns = from.time_ns;
    exchange_go(&exchange, MEASURE, options->count > 0 ? 0 : options->seconds);
    struct usage to = usage_now(options);
    exchange.measure_to_ns = to.time_ns;
    uint64_t rss_kb = process_rss_kb(options->pid);
    for (uint32_t i = 0; options->rate == 0 && i < options->publishers; i++)
        exchange.publishers[i].allowed = exchange.publishers[i].sent;
    exchange_go(&exchange, DRAIN, 0);
    int status = exchange_report(&exchange, &from, &to, rss_kb);
    exchange_deinit(&exchange);
    return status;
}
