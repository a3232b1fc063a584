/* SPDX-License-Identifier: Apache-2.0 */
/* Proton alone: what its engine costs a server for each message that comes in and is accepted, and
 * for each that goes out and is settled, with the calls that adapters/amqp makes and nothing behind
 * them. Both ends are in this program, on several connections in turns; the CPU time is that of the
 * server's ends. With sockets the kernel is between them, on TCP over loopback. Prints one JSON
 * object per direction. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/event.h>
#include <proton/link.h>
#include <proton/session.h>
#include <proton/transport.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/check.h"
#include "core/base/pack.h"

enum {
    CONNECTIONS = 10,
    TURN = 60, /* messages of one connection before it is the next one's turn */
    CREDIT = 1000,
    FRAME_MAX = 16 * 1024,
    MESSAGE_MAX = 3 * 1024, /* so that a turn fits into the buffers of a socket */
    TAG_SIZE = 16,
    ROUNDS = 500,
    WARM_ROUNDS = 20,
    PIECE = 64 * 1024, /* what is read from a socket at once */
};

struct end {
    pn_connection_driver_t driver;
    pn_link_t *link;
    struct buf out;   /* what it says, until the other end hears it */
    int socket;       /* -1: there is none */
    size_t under_way; /* what it said into the socket, and the other end has not heard */
    pn_delivery_t *taken[TURN];
    uint32_t taken_count;
    uint64_t settled;
};

struct pair {
    struct end client, server;
};

static struct {
    struct pair pairs[CONNECTIONS];
    uint8_t message[FRAME_MAX], received[FRAME_MAX], piece[PIECE];
    size_t size;
    bool sockets;
    uint64_t sent, owed, cpu_ns;
} bench;

static uint64_t cpu_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* ------------------------------------------------ one end */

static void take_all(struct end *end)
{
    while (pn_link_current(end->link) != NULL) {
        pn_delivery_t *delivery = pn_link_current(end->link);
        CHECK(pn_delivery_readable(delivery) && !pn_delivery_partial(delivery));
        CHECK(pn_link_recv(end->link, (char *)bench.received, sizeof bench.received) ==
              (ssize_t)bench.size);
        pn_link_advance(end->link);
        CHECK(end->taken_count < TURN);
        end->taken[end->taken_count++] = delivery;
    }
}

static void accept_all(struct end *end)
{
    for (uint32_t i = 0; i < end->taken_count; i++) {
        pn_delivery_update(end->taken[i], PN_ACCEPTED);
        pn_delivery_settle(end->taken[i]);
    }
    end->taken_count = 0;
}

static void handle(struct end *end, pn_event_t *event)
{
    pn_delivery_t *delivery = pn_event_delivery(event);
    switch (pn_event_type(event)) {
    case PN_CONNECTION_REMOTE_OPEN:
        pn_connection_open(pn_event_connection(event));
        break;
    case PN_SESSION_REMOTE_OPEN:
        pn_session_open(pn_event_session(event));
        break;
    case PN_LINK_REMOTE_OPEN:
        end->link = pn_event_link(event);
        pn_link_open(end->link);
        if (pn_link_is_receiver(end->link))
            pn_link_flow(end->link, CREDIT);
        break;
    case PN_DELIVERY:
        if (pn_link_is_receiver(end->link)) {
            take_all(end);
        } else if (pn_delivery_updated(delivery)) {
            CHECK(pn_delivery_remote_state(delivery) == PN_ACCEPTED);
            pn_delivery_settle(delivery);
            end->settled++;
        }
        break;
    default:
        break;
    }
}

static void handle_events(struct end *end)
{
    pn_event_t *event;
    while ((event = pn_connection_driver_next_event(&end->driver)) != NULL)
        handle(end, event);
}

static void say(struct end *end)
{
    pn_bytes_t bytes;
    handle_events(end);
    while ((bytes = pn_connection_driver_write_buffer(&end->driver)).size > 0) {
        CHECK(buf_append(&end->out, (const uint8_t *)bytes.start, bytes.size) == STATUS_OK);
        pn_connection_driver_write_done(&end->driver, bytes.size);
        handle_events(end);
    }
    if (end->socket < 0 || end->out.size == 0)
        return;
    CHECK(send(end->socket, end->out.data, end->out.size, 0) == (ssize_t)end->out.size);
    end->under_way += end->out.size;
    buf_clear(&end->out);
}

static void hear_piece(struct end *end, const uint8_t *bytes, size_t count)
{
    for (size_t at = 0; at < count;) {
        pn_rwbytes_t room = pn_connection_driver_read_buffer(&end->driver);
        size_t size = count - at < room.size ? count - at : room.size;
        CHECK(size > 0);
        memcpy(room.start, bytes + at, size);
        pn_connection_driver_read_done(&end->driver, size);
        handle_events(end);
        at += size;
    }
}

static void hear(struct end *end, struct end *other)
{
    while (other->under_way > 0) {
        ssize_t got = recv(end->socket, bench.piece, sizeof bench.piece, 0);
        CHECK(got > 0);
        other->under_way -= (size_t)got;
        hear_piece(end, bench.piece, (size_t)got);
    }
    hear_piece(end, other->out.data, other->out.size);
    buf_clear(&other->out);
}

static void send_turn(struct end *end)
{
    for (uint32_t i = 0; i < TURN; i++) {
        uint8_t tag[TAG_SIZE] = {0};
        store_u64(tag, bench.sent++);
        pn_delivery(end->link, pn_dtag((const char *)tag, sizeof tag));
        CHECK(pn_link_send(end->link, (const char *)bench.message, bench.size) ==
              (ssize_t)bench.size);
        pn_link_advance(end->link);
    }
}

/* ------------------------------------------------ both */

static void server_begins(void)
{
    bench.cpu_ns -= cpu_ns();
}

static void server_ends(void)
{
    bench.cpu_ns += cpu_ns();
}

/* What a turn says fits into the kernel's buffers, so nobody waits for the other end. */
static void sockets_open(struct pair *pair)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1,
        room = 2 * TURN * MESSAGE_MAX;
    CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0);
    CHECK(listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
    pair->client.socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(pair->client.socket, (struct sockaddr *)&address, size) == 0);
    pair->server.socket = accept(listener, NULL, NULL);
    CHECK(pair->server.socket >= 0);
    close(listener);
    int ends[] = {pair->client.socket, pair->server.socket};
    for (int i = 0; i < 2; i++) {
        setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
        setsockopt(ends[i], SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    }
}

static void pair_open(struct pair *pair, bool to_server)
{
    pair->client.socket = pair->server.socket = -1;
    if (bench.sockets)
        sockets_open(pair);
    CHECK(pn_connection_driver_init(&pair->client.driver, NULL, NULL) == 0);
    CHECK(pn_connection_driver_init(&pair->server.driver, NULL, NULL) == 0);
    buf_init(&pair->client.out, SIZE_MAX / 2);
    buf_init(&pair->server.out, SIZE_MAX / 2);
    pn_transport_set_server(pair->server.driver.transport);
    pn_transport_set_max_frame(pair->server.driver.transport, FRAME_MAX);
    pn_connection_t *connection = pair->client.driver.connection;
    pn_connection_set_container(connection, "proton_bench");
    pn_connection_open(connection);
    pn_session_t *session = pn_session(connection);
    pn_session_open(session);
    pair->client.link = to_server ? pn_sender(session, "link") : pn_receiver(session, "link");
    pn_link_open(pair->client.link);
    if (!to_server)
        pn_link_flow(pair->client.link, CREDIT);
    for (int i = 0; i < 4; i++) {
        say(&pair->client);
        hear(&pair->server, &pair->client);
        say(&pair->server);
        hear(&pair->client, &pair->server);
    }
    CHECK(pair->server.link != NULL);
}

static void pair_close(struct pair *pair)
{
    buf_deinit(&pair->client.out);
    buf_deinit(&pair->server.out);
    pn_connection_driver_destroy(&pair->client.driver);
    pn_connection_driver_destroy(&pair->server.driver);
    if (bench.sockets) {
        close(pair->client.socket);
        close(pair->server.socket);
    }
    *pair = (struct pair){0};
}

/* All connections send, then all are answered, as by one sync for all of them. */
static void round_in(void)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        struct pair *pair = &bench.pairs[i];
        send_turn(&pair->client);
        say(&pair->client);
        server_begins();
        hear(&pair->server, &pair->client);
        server_ends();
    }
    bench.owed += TURN;
    for (int i = 0; i < CONNECTIONS; i++) {
        struct pair *pair = &bench.pairs[i];
        server_begins();
        accept_all(&pair->server);
        if (bench.owed >= CREDIT / 2)
            pn_link_flow(pair->server.link, (int)bench.owed);
        say(&pair->server);
        server_ends();
        hear(&pair->client, &pair->server);
    }
    if (bench.owed >= CREDIT / 2)
        bench.owed = 0;
}

static void round_out(void)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        struct pair *pair = &bench.pairs[i];
        server_begins();
        send_turn(&pair->server);
        say(&pair->server);
        server_ends();
        hear(&pair->client, &pair->server);
        accept_all(&pair->client);
        pn_link_flow(pair->client.link, TURN);
        say(&pair->client);
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        struct pair *pair = &bench.pairs[i];
        server_begins();
        hear(&pair->server, &pair->client);
        server_ends();
    }
}

static void run(const char *direction, bool to_server, void (*one_round)(void))
{
    for (int i = 0; i < CONNECTIONS; i++)
        pair_open(&bench.pairs[i], to_server);
    bench.owed = 0;
    for (int i = 0; i < WARM_ROUNDS; i++)
        one_round();
    bench.cpu_ns = 0;
    for (int i = 0; i < ROUNDS; i++)
        one_round();
    uint64_t messages = (uint64_t)ROUNDS * CONNECTIONS * TURN;
    for (int i = 0; i < CONNECTIONS; i++) {
        const struct pair *pair = &bench.pairs[i];
        CHECK((to_server ? pair->client.settled : pair->server.settled) ==
              (uint64_t)(WARM_ROUNDS + ROUNDS) * TURN);
    }
    printf("{\"direction\":\"%s\",\"message_bytes\":%zu,\"sockets\":%s,\"connections\":%d,"
           "\"messages\":%llu,\"cpu_us_per_message\":%.3f}\n",
           direction, bench.size, bench.sockets ? "true" : "false", CONNECTIONS,
           (unsigned long long)messages, (double)bench.cpu_ns / 1000 / (double)messages);
    for (int i = 0; i < CONNECTIONS; i++)
        pair_close(&bench.pairs[i]);
}

int main(int argc, char **argv)
{
    bench.sockets = argc == 3 && strcmp(argv[2], "sockets") == 0;
    bench.size = argc == 2 || bench.sockets ? (size_t)strtoul(argv[1], NULL, 10) : 0;
    if (bench.size == 0 || bench.size > MESSAGE_MAX) {
        fprintf(stderr, "usage: %s BYTES [sockets]    (of a message, at most %d)\n", argv[0],
                MESSAGE_MAX);
        return 2;
    }
    run("in", true, round_in);
    run("out", false, round_out);
    return 0;
}
