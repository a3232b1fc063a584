/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the load generator. Level-triggered epoll with one large read per event: a second
 * read that only says EAGAIN would cost as much as the messages it did not bring. */
#include "tests/bench/link.h"
#include "tests/bench/amqp.h"
#include "tests/bench/mqtt.h"
#include "tests/bench/process.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define INPUT_BYTES  (256u * 1024)
#define OUTPUT_BYTES (256u * 1024 * 1024) /* a peer that lets this much pile up ends the run */
#define TURN_EVENTS  1024
#define SOURCES                                                                                    \
    16u /* loopback source addresses, so that many short connections do not run out of ports */

static void fatal(const char *what)
{
    fprintf(stderr, "mqttload: %s: %s\n", what, strerror(errno));
    exit(2);
}

void hub_init(struct hub *hub, const struct link_handler *handler, void *context, const char *host,
              uint16_t port)
{
    *hub = (struct hub){.handler = handler, .context = context};
    hub->server.sin_family = AF_INET;
    hub->server.sin_port = htons(port);
    if (inet_pton(AF_INET, host, &hub->server.sin_addr) != 1) {
        fprintf(stderr, "mqttload: %s is not an IPv4 address\n", host);
        exit(2);
    }
    hub->epoll = epoll_create1(EPOLL_CLOEXEC);
    hub->input = malloc(INPUT_BYTES);
    if (hub->epoll < 0 || hub->input == NULL)
        fatal("epoll");
}

void hub_deinit(struct hub *hub)
{
    close(hub->epoll);
    free(hub->input);
    free(hub->dirty);
}

static void link_watch(struct link *link, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = link};
    if (epoll_ctl(link->hub->epoll, operation, link->fd, &event) != 0)
        fatal("epoll_ctl");
}

static void bind_source(struct hub *hub, int fd)
{
    if (ntohl(hub->server.sin_addr.s_addr) >> 24 != 127)
        return;
    int one = 1;
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(0x7f000001u + hub->opened_total % SOURCES);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&source, sizeof(source)) != 0)
        fatal("bind");
}

void link_open(struct hub *hub, struct link *link)
{
    int one = 1;
    link->hub = hub;
    link->generation++;
    link->connecting = true;
    link->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (link->fd < 0)
        fatal("socket");
    setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    bind_source(hub, link->fd);
    hub->opened_total++;
    struct sockaddr_in server = hub->server;
    if (link->speech == SPEECH_AMQP)
        server.sin_port = htons(hub->amqp_port);
    if (connect(link->fd, (struct sockaddr *)&server, sizeof(server)) != 0 && errno != EINPROGRESS)
        fatal("connect");
    link_watch(link, EPOLL_CTL_ADD, EPOLLOUT);
}

static void link_drop(struct link *link)
{
    close(link->fd);
    link->fd = -1;
    link->generation++;
    link->blocked = false;
    free(link->held);
    free(link->out);
    link->held = link->out = NULL;
    link->held_length = link->held_room = 0;
    link->out_start = link->out_end = link->out_room = 0;
    link->framed = 0;
    link->in_frame = 0;
    link->held_framed = 0;
    link->upgrading = false;
}

static void link_lost(struct link *link)
{
    link_drop(link);
    link->hub->handler->lost(link);
}

/* False when the connection is broken; the link is left to the caller. */
static bool link_write(struct link *link)
{
    while (link->out_start < link->out_end) {
        ssize_t n = send(link->fd, link->out + link->out_start, link->out_end - link->out_start,
                         MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return false;
        bool all = n > 0 && (uint32_t)n == link->out_end - link->out_start;
        if (n > 0)
            link->out_start += (uint32_t)n;
        if (all)
            break;
        if (!link->blocked)
            link_watch(link, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
        link->blocked = true;
        return true;
    }
    link->out_start = link->out_end = link->framed = 0;
    if (link->blocked)
        link_watch(link, EPOLL_CTL_MOD, EPOLLIN);
    link->blocked = false;
    return true;
}

/* What was written since the last flush becomes one frame, masked with zeros: the server pays the
 * same, and this program does not measure itself. */
static void link_frame(struct link *link)
{
    uint32_t size = link->out_end - link->framed;
    if (!link->hub->websocket || link->upgrading || size == 0)
        return;
    uint32_t head = size < 126 ? 6 : size < 65536 ? 8 : 14;
    link_reserve(link, head);
    uint8_t *at = link->out + link->framed;
    memmove(at + head, at, link->out_end - link->framed);
    memset(at, 0, head);
    at[0] = link->speech == SPEECH_PAGE ? 0x81 : 0x82;
    at[1] = (uint8_t)(0x80 | (size < 126 ? size : size < 65536 ? 126 : 127));
    for (uint32_t i = 2; i < head - 4; i++)
        at[i] = (uint8_t)((uint64_t)size >> 8 * (head - 5 - i));
    link->out_end += head;
    link->framed = link->out_end;
}

void link_close(struct link *link)
{
    if (link->fd < 0)
        return;
    if (!link->connecting) {
        link_frame(link);
        link_write(link);
    }
    link_drop(link);
}

uint8_t *link_reserve(struct link *link, uint32_t length)
{
    if (link->out_room - link->out_end >= length)
        return link->out + link->out_end;
    uint32_t pending = link->out_end - link->out_start;
    if (link->out_start > 0)
        memmove(link->out, link->out + link->out_start, pending);
    link->framed -= link->framed < link->out_start ? link->framed : link->out_start;
    link->out_start = 0;
    link->out_end = pending;
    if (link->out_room - pending < length) {
        uint32_t room = link->out_room < 128 ? 128 : link->out_room;
        while (room - pending < length)
            room *= 2;
        link->out = room <= OUTPUT_BYTES ? realloc(link->out, room) : NULL;
        if (link->out == NULL)
            fatal("output of one connection");
        link->out_room = room;
    }
    return link->out + pending;
}

void link_commit(struct link *link, uint32_t length)
{
    struct hub *hub = link->hub;
    link->out_end += length;
    if (link->dirty)
        return;
    if (hub->dirty_count == hub->dirty_room) {
        hub->dirty_room = hub->dirty_room == 0 ? 1024 : 2 * hub->dirty_room;
        hub->dirty = realloc(hub->dirty, hub->dirty_room * sizeof(*hub->dirty));
        if (hub->dirty == NULL)
            fatal("memory");
    }
    link->dirty = true;
    hub->dirty[hub->dirty_count++] = link;
}

void hub_flush(struct hub *hub)
{
    for (uint32_t i = 0; i < hub->dirty_count; i++) {
        struct link *link = hub->dirty[i];
        link->dirty = false;
        if (link->fd >= 0 && !link->connecting)
            link_frame(link);
        if (link->fd >= 0 && !link->connecting && !link->blocked && !link_write(link))
            link_lost(link);
    }
    hub->dirty_count = 0;
}

static void link_hold(struct link *link, const uint8_t *rest, uint32_t length)
{
    if (length > link->held_room) {
        link->held = realloc(link->held, length);
        if (link->held == NULL)
            fatal("memory");
        link->held_room = length;
    }
    if (length > 0)
        memcpy(link->held, rest, length);
    link->held_length = length;
}

/* Payloads of frames next to each other, from new bytes on; returns how many bytes they are. What
 * is left of a head that is cut stays behind them: *cut bytes. */
static uint32_t unframe(struct link *link, uint8_t *bytes, uint32_t size, uint32_t *cut)
{
    uint32_t from = 0, to = 0;
    while (from < size) {
        if (link->in_frame == 0) {
            uint32_t left = size - from, head = 2;
            uint64_t length = left > 1 ? bytes[from + 1] & 127u : 0;
            head += left > 1 && length == 126 ? 2 : left > 1 && length == 127 ? 8 : 0;
            if (left < head)
                break;
            if (head > 2)
                length = 0;
            for (uint32_t i = 2; i < head; i++)
                length = length << 8 | bytes[from + i];
            link->in_frame = length;
            from += head;
            continue;
        }
        uint32_t part = size - from;
        if (part > link->in_frame)
            part = (uint32_t)link->in_frame;
        memmove(bytes + to, bytes + from, part);
        link->in_frame -= part;
        from += part;
        to += part;
    }
    *cut = size - from;
    memmove(bytes + to, bytes + from, *cut);
    return to;
}

/* The message at the start of bytes, which is a frame of its own; as mqtt_frame(). */
static ssize_t page_frame(const uint8_t *bytes, size_t length, struct frame *frame)
{
    uint32_t head = 2;
    uint64_t size = length > 1 ? bytes[1] : 0;
    head += length > 1 && size == 126 ? 2 : length > 1 && size == 127 ? 8 : 0;
    if (length < head)
        return 0;
    if (head > 2)
        size = 0;
    for (uint32_t i = 2; i < head; i++)
        size = size << 8 | bytes[i];
    if (size > INPUT_BYTES)
        return -1;
    if (length - head < size)
        return 0;
    *frame = (struct frame){.body = bytes + head, .length = (uint32_t)size};
    return (ssize_t)(head + size);
}

static ssize_t (*const take_frame[])(const uint8_t *bytes, size_t length, struct frame *frame) = {
    [SPEECH_MQTT] = mqtt_frame,
    [SPEECH_PAGE] = page_frame,
    [SPEECH_AMQP] = amqp_frame,
};

static void link_upgraded(struct link *link)
{
    char answer[1024];
    ssize_t n = recv(link->fd, answer, sizeof answer - 1, 0);
    if (n < 12 || memcmp(answer, "HTTP/1.1 101", 12) != 0) {
        link_lost(link);
        return;
    }
    link->upgrading = false;
    link->hub->handler->opened(link);
}

static void link_upgrade(struct link *link)
{
    char request[256];
    int size = snprintf(
        request, sizeof request,
        "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: %s\r\n\r\n",
        link->speech == SPEECH_PAGE ? "polylog.v1" : "mqtt");
    link->upgrading = true;
    if (send(link->fd, request, (size_t)size, MSG_NOSIGNAL) != size)
        link_lost(link);
}

static void link_read(struct link *link)
{
    struct hub *hub = link->hub;
    if (link->upgrading) {
        link_upgraded(link);
        return;
    }
    uint32_t length = link->held_length, at = 0, cut = 0, framed = link->held_framed;
    if (length > 0)
        memcpy(hub->input, link->held, length);
    ssize_t n = recv(link->fd, hub->input + length, INPUT_BYTES - length, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        link_lost(link);
        return;
    }
    hub->now_ns = clock_ns();
    length += (uint32_t)n;
    if (hub->websocket && link->speech != SPEECH_PAGE) {
        uint32_t plain = length - (uint32_t)n - framed;
        length = plain + unframe(link, hub->input + plain, framed + (uint32_t)n, &cut);
    }
    uint32_t generation = link->generation;
    while (at < length) {
        struct frame frame;
        ssize_t size = take_frame[link->speech](hub->input + at, length - at, &frame);
        if (size < 0 || (size == 0 && length - at == INPUT_BYTES)) {
            link_lost(link);
            return;
        }
        if (size == 0)
            break;
        at += (uint32_t)size;
        hub->handler->frame(link, &frame);
        if (link->generation != generation)
            return;
    }
    if (hub->handler->taken != NULL)
        hub->handler->taken(link);
    link_hold(link, hub->input + at, length - at + cut);
    link->held_framed = cut;
}

static void link_connected(struct link *link)
{
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
        link_lost(link);
        return;
    }
    link->connecting = false;
    link_watch(link, EPOLL_CTL_MOD, EPOLLIN);
    if (link->hub->websocket)
        link_upgrade(link);
    else
        link->hub->handler->opened(link);
}

void hub_turn(struct hub *hub, uint64_t timeout_ns)
{
    static struct epoll_event events[TURN_EVENTS];
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                               .tv_nsec = (long)(timeout_ns % 1000000000u)};
    int count = epoll_pwait2(hub->epoll, events, TURN_EVENTS, &timeout, NULL);
    if (count < 0 && errno != EINTR)
        fatal("epoll_wait");
    hub->now_ns = clock_ns();
    for (int i = 0; i < count; i++) {
        struct link *link = events[i].data.ptr;
        if (link->fd < 0)
            continue;
        if (link->connecting) {
            link_connected(link);
            continue;
        }
        if ((events[i].events & EPOLLOUT) && !link_write(link)) {
            link_lost(link);
            continue;
        }
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            link_read(link);
    }
}
