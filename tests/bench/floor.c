/* SPDX-License-Identifier: Apache-2.0 */
/* The least that a server can do which stores QoS 1 messages before it acknowledges them: read what
 * has come, append it to a file, one fdatasync for all that has come meanwhile, one write of the
 * answers to each connection. It checks nothing, keeps nothing and could serve nobody; what a
 * server costs less than this is impossible. For `mqttload offline`, whose messages nobody takes,
 * `stored`, and `sessions`, whose messages it also sends to the subscriber of their topic. */
#include "core/net/ring.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 1024, /* and places in the ring */
    FILTER_MAX = 64,
    BUFFER_BYTES = 1024 * 1024,
    BATCH_BYTES = 8 * 1024 * 1024,
    EVENTS_MAX = 1024, /* as many as libuv takes at a time */
    CONNECT = 1,
    CONNACK = 2,
    PUBLISH = 3,
    PUBACK = 4,
    SUBSCRIBE = 8,
    SUBACK = 9
};

struct connection {
    int fd;
    uint32_t in_size, out_size;
    uint32_t durable; /* of out: what may be sent when the sync that runs has ended */
    bool waits;       /* in waiting */
    uint16_t next_id;
    char filter[FILTER_MAX]; /* of a subscriber */
    bool is_publisher;
    struct connection *sink; /* of a publisher: the one that takes its topic */
    uint8_t in[BUFFER_BYTES], out[BUFFER_BYTES];
};

struct batch {
    size_t size;
    uint8_t bytes[BATCH_BYTES];
};

static struct connection *connections[CONNECTIONS_MAX]; /* by descriptor */
static struct connection *waiting[CONNECTIONS_MAX];     /* have answers for the next sync */
static struct connection *covered[CONNECTIONS_MAX];     /* have answers for the one that runs */
static uint32_t waiting_count, covered_count;
static struct batch batches[2];
static struct batch *collected = &batches[0], *stored = &batches[1];
static uint64_t messages, syncs, turns;
static int file, synced_event;
static struct ring *ring;
static bool in_thread, by_ring, without_sync, syncing;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted = PTHREAD_COND_INITIALIZER;
static bool sync_wanted;
static volatile sig_atomic_t ended;

static void end(int number)
{
    (void)number;
    ended = 1;
}

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static void say(struct connection *connection, const void *bytes, uint32_t size)
{
    if (connection->out_size + size > BUFFER_BYTES) {
        fprintf(stderr, "floor: a client does not read\n");
        exit(2);
    }
    memcpy(connection->out + connection->out_size, bytes, size);
    connection->out_size += size;
    if (!connection->waits)
        waiting[waiting_count++] = connection;
    connection->waits = true;
}

/* Looked for once, with the first message of a publisher. */
static struct connection *sink_of(struct connection *publisher, const uint8_t *topic, uint32_t size)
{
    for (int i = 0; !publisher->is_publisher && i < CONNECTIONS_MAX; i++)
        if (connections[i] != NULL && strlen(connections[i]->filter) == size &&
            memcmp(connections[i]->filter, topic, size) == 0)
            publisher->sink = connections[i];
    publisher->is_publisher = true;
    return publisher->sink;
}

static void forward(struct connection *sink, uint8_t *packet, uint32_t whole, uint8_t *id)
{
    if (++sink->next_id == 0)
        sink->next_id = 1;
    id[0] = (uint8_t)(sink->next_id >> 8);
    id[1] = (uint8_t)sink->next_id;
    say(sink, packet, whole);
}

static void publish(struct connection *connection, uint8_t *packet, uint8_t *body, uint32_t whole)
{
    uint32_t topic_size = (uint32_t)body[0] << 8 | body[1];
    uint8_t *id = body + 2 + topic_size;
    struct connection *sink = sink_of(connection, body + 2, topic_size);
    if (collected->size + whole > BATCH_BYTES) {
        fprintf(stderr, "floor: too much for one sync\n");
        exit(2);
    }
    memcpy(collected->bytes + collected->size, packet, whole);
    collected->size += whole;
    messages++;
    say(connection, (const uint8_t[]){PUBACK << 4, 2, id[0], id[1]}, 4);
    if (sink != NULL)
        forward(sink, packet, whole, id);
}

/* MQTT 3.1.1; body: behind the fixed header, which begins at packet. */
static void take(struct connection *connection, uint8_t *packet, uint8_t *body, uint32_t size)
{
    uint32_t filter_size;
    switch (packet[0] >> 4) {
    case CONNECT:
        say(connection, (const uint8_t[]){CONNACK << 4, 2, 0, 0}, 4);
        break;
    case SUBSCRIBE:
        filter_size = (uint32_t)body[2] << 8 | body[3];
        if (filter_size < FILTER_MAX)
            memcpy(connection->filter, body + 4, filter_size);
        say(connection, (const uint8_t[]){SUBACK << 4, 3, body[0], body[1], 1}, 5);
        break;
    case PUBLISH:
        publish(connection, packet, body, (uint32_t)(body - packet) + size);
        break;
    default: /* PUBACK of a subscriber, DISCONNECT */
        break;
    }
}

static void take_all(struct connection *connection)
{
    uint32_t at = 0;
    while (connection->in_size - at >= 3) {
        uint8_t *packet = connection->in + at;
        bool is_long = (packet[1] & 0x80) != 0;
        uint32_t size = packet[1] & 0x7f, header = is_long ? 3 : 2;
        if (is_long)
            size |= (uint32_t)packet[2] << 7;
        if (connection->in_size - at < header + size)
            break;
        take(connection, packet, packet + header, size);
        at += header + size;
    }
    if (connection->in_size - at == 2) /* of two bytes are only PINGREQ and DISCONNECT */
        at += 2;
    connection->in_size -= at;
    memmove(connection->in, connection->in + at, connection->in_size);
}

static void forget(struct connection *list[], uint32_t count, const struct connection *connection)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i] == connection)
            list[i] = NULL;
}

static void gone(struct connection *connection)
{
    close(connection->fd);
    forget(waiting, waiting_count, connection);
    forget(covered, covered_count, connection);
    connections[connection->fd] = NULL;
    for (int i = 0; i < CONNECTIONS_MAX; i++)
        if (connections[i] != NULL && connections[i]->sink == connection)
            connections[i]->sink = NULL;
    free(connection);
}

static void received(void *context, int size)
{
    struct connection *connection = context;
    if (size > 0) {
        connection->in_size += (uint32_t)size;
        take_all(connection);
    } else if (size != -EAGAIN) {
        gone(connection);
    }
}

static void ring_add(uint8_t what, struct connection *connection, void *bytes, uint32_t size)
{
    struct io_uring_sqe *request = ring_next(ring);
    if (request == NULL)
        fail("places in the ring");
    request->opcode = what;
    request->fd = connection->fd;
    request->addr = (uintptr_t)bytes;
    request->len = size;
    request->msg_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    request->user_data = (uintptr_t)connection;
}

static void ring_received(void *context, uint64_t connection, int size)
{
    (void)context;
    received((struct connection *)(uintptr_t)connection, size);
}

static void readable(struct connection *connection)
{
    uint8_t *room = connection->in + connection->in_size;
    uint32_t size = BUFFER_BYTES - connection->in_size;
    if (by_ring) {
        ring_add(IORING_OP_RECV, connection, room, size);
        return;
    }
    ssize_t got = recv(connection->fd, room, size, MSG_DONTWAIT);
    received(connection, got < 0 ? -errno : (int)got);
}

static void accept_one(int server, int poll)
{
    int one = 1, fd = accept4(server, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (fd >= CONNECTIONS_MAX || (connections[fd] = calloc(1, sizeof(struct connection))) == NULL) {
        close(fd);
        return;
    }
    connections[fd]->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

static void store(void)
{
    if (write(file, stored->bytes, stored->size) != (ssize_t)stored->size)
        fail("write");
    if (!without_sync && fdatasync(file) != 0)
        fail("fdatasync");
}

static void *sync_run(void *context)
{
    for (;;) {
        pthread_mutex_lock(&lock);
        while (!sync_wanted)
            pthread_cond_wait(&wanted, &lock);
        sync_wanted = false;
        pthread_mutex_unlock(&lock);
        store();
        if (eventfd_write(synced_event, 1) != 0)
            fail("eventfd");
    }
    return context;
}

static void sent(void *context, int size)
{
    struct connection *connection = context;
    if (size != (int)connection->durable && size != -EPIPE && size != -ECONNRESET) {
        fprintf(stderr, "floor: a client does not read\n");
        exit(2);
    }
    connection->out_size -= connection->durable;
    memmove(connection->out, connection->out + connection->durable, connection->out_size);
}

static void ring_sent(void *context, uint64_t connection, int size)
{
    (void)context;
    sent((struct connection *)(uintptr_t)connection, size);
}

static void answer(void)
{
    for (uint32_t i = 0; i < covered_count; i++) {
        struct connection *to = covered[i];
        if (to == NULL)
            continue;
        if (by_ring) {
            ring_add(IORING_OP_SEND, to, to->out, to->durable);
            continue;
        }
        ssize_t size = send(to->fd, to->out, to->durable, MSG_NOSIGNAL | MSG_DONTWAIT);
        sent(to, size < 0 ? -errno : (int)size);
    }
    if (by_ring && !ring_go(ring, ring_sent, NULL))
        fail("io_uring");
    covered_count = 0;
    syncing = false;
}

/* Everything that has come until now; while it is stored, the next part comes. */
static void begin_sync(void)
{
    struct batch *full = collected;
    collected = stored;
    stored = full;
    collected->size = 0;
    for (uint32_t i = 0; i < waiting_count; i++) {
        if ((covered[i] = waiting[i]) == NULL)
            continue;
        waiting[i]->durable = waiting[i]->out_size;
        waiting[i]->waits = false;
    }
    covered_count = waiting_count;
    waiting_count = 0;
    syncing = true;
    if (stored->size == 0) {
        answer();
        return;
    }
    syncs++;
    if (!in_thread) {
        store();
        answer();
        return;
    }
    pthread_mutex_lock(&lock);
    sync_wanted = true;
    pthread_cond_signal(&wanted);
    pthread_mutex_unlock(&lock);
}

static int listen_on_loopback(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (server < 0 || bind(server, (struct sockaddr *)&address, size) != 0 ||
        listen(server, CONNECTIONS_MAX) != 0 ||
        getsockname(server, (struct sockaddr *)&address, &size) != 0)
        fail("listen");
    printf("ready mqtt=127.0.0.1:%u\n", ntohs(address.sin_port));
    fflush(stdout);
    return server;
}

static void poll_add(int poll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

static void serve(int server, int poll)
{
    static struct epoll_event events[EVENTS_MAX];
    eventfd_t value;
    bool synced = false;
    int count = epoll_wait(poll, events, EVENTS_MAX, 1000);
    turns++;
    for (int i = 0; i < count; i++) {
        int fd = events[i].data.fd;
        if (fd == server)
            accept_one(server, poll);
        else if (fd == synced_event)
            synced = eventfd_read(fd, &value) == 0;
        else if (connections[fd] != NULL)
            readable(connections[fd]);
    }
    if (by_ring && !ring_go(ring, ring_received, NULL))
        fail("io_uring");
    if (synced)
        answer();
    if (waiting_count > 0 && !syncing)
        begin_sync();
}

static void read_options(int argc, char **argv)
{
    bool wrong = argc < 2 || argv[1][0] == '-';
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--thread") == 0)
            in_thread = true;
        else if (strcmp(argv[i], "--ring") == 0)
            by_ring = true;
        else if (strcmp(argv[i], "--no-sync") == 0)
            without_sync = true;
        else
            wrong = true;
    }
    if (!wrong)
        return;
    fprintf(stderr, "usage: floor DIRECTORY [--thread] [--ring] [--no-sync]    ends with SIGTERM\n"
                    "--thread: writes and syncs in a thread of its own\n"
                    "--ring: the receives of a turn, and its sends, by one call of io_uring\n");
    exit(2);
}

int main(int argc, char **argv)
{
    char path[4096];
    pthread_t thread;
    read_options(argc, argv);
    snprintf(path, sizeof path, "%s/floor.XXXXXX", argv[1]);
    if ((file = mkstemp(path)) < 0 || unlink(path) != 0)
        fail(path);
    signal(SIGTERM, end);
    signal(SIGINT, end);
    if (by_ring && (ring = ring_new(CONNECTIONS_MAX)) == NULL)
        fail("io_uring");
    int server = listen_on_loopback(), poll = epoll_create1(0);
    synced_event = eventfd(0, EFD_NONBLOCK);
    poll_add(poll, server);
    poll_add(poll, synced_event);
    if (in_thread && pthread_create(&thread, NULL, sync_run, NULL) != 0)
        fail("a thread");
    while (!ended)
        serve(server, poll);
    printf("messages %llu, syncs %llu, turns %llu\n", (unsigned long long)messages,
           (unsigned long long)syncs, (unsigned long long)turns);
    return 0;
}
