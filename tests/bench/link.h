/* SPDX-License-Identifier: Apache-2.0 */
/* Non-blocking client connections on one epoll: whole frames in, output collected per turn and
 * written once. */
#ifndef TESTS_BENCH_LINK_H
#define TESTS_BENCH_LINK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct frame;
struct link;

/* What is spoken on a link, and so what its frames are. */
enum speech { SPEECH_MQTT, SPEECH_PAGE, SPEECH_AMQP };

struct link_handler {
    void (*opened)(struct link *link);
    void (*frame)(struct link *link, const struct frame *frame); /* may close or reopen its link */
    void (*taken)(struct link *link); /* behind the last frame of a read; may be NULL */
    void (*lost)(struct link *link);  /* refused, or closed by the server */
};

struct hub {
    const struct link_handler *handler;
    bool websocket;     /* bytes travel in frames; set after hub_init() */
    uint16_t amqp_port; /* of links that speak AMQP; set after hub_init() */
    void *context;
    struct sockaddr_in server;
    int epoll;
    uint64_t now_ns; /* taken once per read */
    uint8_t *input;
    struct link **dirty; /* links with output that this turn has not tried to write yet */
    uint32_t dirty_count, dirty_room;
    uint32_t opened_total;
};

struct link {
    struct hub *hub;
    int fd; /* -1: closed */
    uint32_t generation;
    bool connecting, dirty, blocked;
    uint8_t *held; /* the start of a frame whose rest has not arrived */
    uint32_t held_length, held_room;
    uint8_t *out;
    uint32_t out_start, out_end, out_room;
    uint32_t framed;      /* output before it is in frames */
    uint32_t held_framed; /* bytes at the end of held that are the start of a frame's head */
    uint64_t in_frame;    /* of a WebSocket frame: bytes that are still to come */
    bool upgrading;       /* the answer to the handshake is awaited */
    enum speech speech;   /* set before link_open() */
};

/* Caller owns the hub; handler and context live longer. Exits with a message when the host is no
 * IPv4 address. */
void hub_init(struct hub *hub, const struct link_handler *handler, void *context, const char *host,
              uint16_t port);
void hub_deinit(struct hub *hub);

/* Waits at most timeout_ns, reads every ready link and hands its frames to the handler. */
void hub_turn(struct hub *hub, uint64_t timeout_ns);

/* One write per link that has output. Called after each turn, when the caller has added its own. */
void hub_flush(struct hub *hub);

/* Starts to connect; opened() or lost() follows. The link is zeroed memory of the caller or closed
 * before. */
void link_open(struct hub *hub, struct link *link);

/* Writes what it can at once, then closes; frees the buffers. */
void link_close(struct link *link);

/* Room for length bytes of output; link_commit() makes them part of it. */
uint8_t *link_reserve(struct link *link, uint32_t length);
void link_commit(struct link *link, uint32_t length);

#endif
