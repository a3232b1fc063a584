/* SPDX-License-Identifier: Apache-2.0 */
/* The least that any MQTT server does to store QoS 1 messages before it acknowledges them: read
 * what has come, append it to a file, fdatasync once for all of a turn, write the answers of a
 * connection at once. It keeps nothing else, checks nothing and cannot answer for it: what a server
 * costs above this is its own doing, what it costs below is impossible. For `mqttload stored`, and
 * for `sessions`, whose messages it also sends on to the subscriber of their topic. MQTT 3.1.1. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 1024,
    TOPIC_MAX = 64,
    BUFFER_BYTES = 256 * 1024,
    EVENTS_MAX = 256,
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
    bool touched;
    uint16_t next_id;
    char filter[TOPIC_MAX];  /* of a subscriber */
    struct connection *sink; /* of a publisher: who takes its topic */
    bool resolved;
    uint8_t in[BUFFER_BYTES], out[BUFFER_BYTES];
};

static struct connection *connections[CONNECTIONS_MAX]; /* by descriptor */
static struct connection *touched[CONNECTIONS_MAX];
static uint32_t touched_count;
static uint8_t pending[4 * 1024 * 1024]; /* to be appended this turn */
static size_t pending_size;
static volatile sig_atomic_t ended;

static void end(int signal)
{
    (void)signal;
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
    if (!connection->touched) {
        connection->touched = true;
        touched[touched_count++] = connection;
    }
}

/* The subscriber of the topic that a publisher writes to, looked for once. */
static struct connection *sink_of(struct connection *publisher, const uint8_t *topic, uint32_t size)
{
    for (uint32_t i = 0; !publisher->resolved && i < CONNECTIONS_MAX; i++)
        if (connections[i] != NULL && strlen(connections[i]->filter) == size &&
            memcmp(connections[i]->filter, topic, size) == 0)
            publisher->sink = connections[i];
    publisher->resolved = true;
    return publisher->sink;
}

static void append(const uint8_t *bytes, uint32_t size)
{
    if (pending_size + size > sizeof pending) {
        fprintf(stderr, "floor: too much for one turn\n");
        exit(2);
    }
    memcpy(pending + pending_size, bytes, size);
    pending_size += size;
}

/* body: behind the fixed header, which begins at packet. */
static void take(struct connection *connection, uint8_t *packet, uint8_t *body, uint32_t size)
{
    uint32_t topic_size, whole = (uint32_t)(body - packet) + size;
    struct connection *sink;
    switch (packet[0] >> 4) {
    case CONNECT:
        say(connection, (const uint8_t[]){CONNACK << 4, 2, 0, 0}, 4);
        break;
    case SUBSCRIBE:
        topic_size = (uint32_t)body[2] << 8 | body[3];
        if (topic_size < TOPIC_MAX)
            memcpy(connection->filter, body + 4, topic_size);
        say(connection, (const uint8_t[]){SUBACK << 4, 3, body[0], body[1], 1}, 5);
        break;
    case PUBLISH:
        append(packet, whole);
        topic_size = (uint32_t)body[0] << 8 | body[1];
        uint8_t *id = body + 2 + topic_size;
        say(connection, (const uint8_t[]){PUBACK << 4, 2, id[0], id[1]}, 4);
        if ((sink = sink_of(connection, body + 2, topic_size)) != NULL) {
            if (++sink->next_id == 0)
                sink->next_id = 1;
            id[0] = (uint8_t)(sink->next_id >> 8);
            id[1] = (uint8_t)sink->next_id;
            say(sink, packet, whole);
        }
        break;
    default: /* PUBACK of a subscriber, DISCONNECT */
        break;
    }
}

static void take_all(struct connection *connection)
{
    uint32_t at = 0;
    while (connection->in_size - at >= 2) {
        uint8_t *packet = connection->in + at;
        uint32_t size = packet[1] & 0x7f, header = 2;
        if ((packet[1] & 0x80) != 0) {
            if (connection->in_size - at < 3)
                break;
            size |= (uint32_t)packet[2] << 7;
            header = 3;
        }
        if (connection->in_size - at < header + size)
            break;
        take(connection, packet, packet + header, size);
        at += header + size;
    }
    connection->in_size -= at;
    memmove(connection->in, connection->in + at, connection->in_size);
}

static void readable(int fd)
{
    struct connection *connection = connections[fd];
    ssize_t size = recv(fd, connection->in + connection->in_size,
                        BUFFER_BYTES - connection->in_size, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size <= 0) {
        close(fd);
        for (uint32_t i = 0; i < CONNECTIONS_MAX; i++)
            if (connections[i] != NULL && connections[i]->sink == connection)
                connections[i]->sink = NULL;
        free(connection);
        connections[fd] = NULL;
        return;
    }
    connection->in_size += (uint32_t)size;
    take_all(connection);
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

/* Durable first, then the answers. */
static void end_turn(int file, bool sync)
{
    if (pending_size > 0 && write(file, pending, pending_size) != (ssize_t)pending_size)
        fail("write");
    if (pending_size > 0 && sync && fdatasync(file) != 0)
        fail("fdatasync");
    pending_size = 0;
    for (uint32_t i = 0; i < touched_count; i++) {
        struct connection *connection = touched[i];
        ssize_t size = send(connection->fd, connection->out, connection->out_size, MSG_NOSIGNAL);
        connection->touched = false;
        if (size < 0 && errno != EAGAIN)
            size = connection->out_size; /* it has gone */
        if (size < 0)
            size = 0;
        connection->out_size -= (uint32_t)size;
        memmove(connection->out, connection->out + size, connection->out_size);
    }
    touched_count = 0;
}

static int listen_on_loopback(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (server < 0 || bind(server, (struct sockaddr *)&address, size) != 0 ||
        listen(server, 1024) != 0 || getsockname(server, (struct sockaddr *)&address, &size) != 0)
        fail("listen");
    printf("ready mqtt=127.0.0.1:%u\n", ntohs(address.sin_port));
    fflush(stdout);
    return server;
}

int main(int argc, char **argv)
{
    char path[4096];
    bool sync = argc < 3 || strcmp(argv[2], "--no-sync") != 0;
    if (argc < 2 || argc > 3 || argv[1][0] == '-' || (argc == 3 && sync)) {
        fprintf(stderr, "usage: floor DIRECTORY [--no-sync]    ends with SIGTERM\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/floor.XXXXXX", argv[1]);
    int file = mkstemp(path);
    if (file < 0 || unlink(path) != 0)
        fail(path);
    signal(SIGTERM, end);
    signal(SIGINT, end);
    int server = listen_on_loopback(), poll = epoll_create1(0);
    struct epoll_event events[EVENTS_MAX] = {{.events = EPOLLIN, .data.fd = server}};
    if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, server, events) != 0)
        fail("epoll");
    while (!ended) {
        int count = epoll_wait(poll, events, EVENTS_MAX, 1000);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == server)
                accept_one(server, poll);
            else
                readable(events[i].data.fd);
        }
        end_turn(file, sync);
    }
    return 0;
}
