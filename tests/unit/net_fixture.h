/* SPDX-License-Identifier: Apache-2.0 */
/* A server on a worker thread, whose connections behave as the test says, for tests that talk to it
 * with blocking sockets from the main thread. cmocka's assertions stay on the main thread. */
#ifndef TESTS_UNIT_NET_FIXTURE_H
#define TESTS_UNIT_NET_FIXTURE_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/list.h"
#include "core/net/listener.h"
#include "core/net/mailbox.h"
#include "core/net/stream.h"
#include "core/net/tls.h"
#include "core/net/worker.h"

enum behaviour {
    ECHO,         /* sends back what comes */
    ECHO_LINES,   /* whole lines only */
    ECHO_PAUSING, /* whole lines, and pauses for a turn behind each */
    FLOOD,        /* sends FLOOD_BYTES at once, then "end" when drained */
    LAST_WORDS,   /* answers the first input with FLOOD_BYTES and closes */
    ABORTING,     /* answers the first input by an abort, with output queued */
    SILENT,       /* takes everything */
    BLOBS,        /* answers every byte with a pattern of blobs and small writes */
};

/* More than the kernel takes for a client that does not read: 4 MB to send, and what the client
 * limits its own buffer to. */
enum { FLOOD_BYTES = 16 * 1024 * 1024, CLIENT_BUFFER_BYTES = 256 * 1024, BLOB_BYTES = 11000 };

struct server {
    struct worker *worker;
    struct loop *loop;
    struct listener *listener;
    struct tls_context *tls;
    enum behaviour behaviour;
    uint16_t port;
    atomic_int opened, closed, drained, inputs;
    atomic_int why;              /* of the last close */
    char peer[64], subject[256]; /* of the last one opened or heard; read after a close */
    struct list connections;
};

struct connection {
    struct server *server;
    struct stream *stream;
    struct link link;
    struct loop_timer pause_timer;
};

static struct blob *pattern_blob(size_t size)
{
    struct blob *blob = blob_new(size);
    for (size_t i = 0; i < size; i++)
        blob->bytes[i] = (uint8_t)(i * 7 + i / 251);
    return blob;
}

static void write_flood(struct stream *stream)
{
    struct blob *blob = pattern_blob(FLOOD_BYTES);
    stream_write_blob(stream, blob, 0, FLOOD_BYTES);
    blob_unref(blob);
}

static void pause_over(struct loop_timer *timer)
{
    stream_resume(container_of(timer, struct connection, pause_timer)->stream);
}

static size_t echo_lines(struct connection *connection, struct span bytes, bool pausing)
{
    size_t used = 0;
    const uint8_t *end;
    while ((end = memchr(bytes.data + used, '\n', bytes.size - used)) != NULL) {
        size_t line = (size_t)(end - bytes.data) + 1 - used;
        memcpy(stream_reserve(connection->stream, line), bytes.data + used, line);
        used += line;
        if (pausing) {
            stream_pause(connection->stream);
            loop_timer_start(connection->server->loop, &connection->pause_timer, 1);
            break;
        }
    }
    return used;
}

/* 3 small bytes, 10 kB by reference, 100 bytes by copy. */
static void write_blobs(struct stream *stream)
{
    struct blob *blob = pattern_blob(BLOB_BYTES);
    stream_write(stream, span_from_text("<->"));
    stream_write_blob(stream, blob, 1000, 10000);
    stream_write_blob(stream, blob, 5, 100);
    blob_unref(blob);
}

static void on_input(void *context, struct span bytes, size_t *used)
{
    struct connection *connection = context;
    struct server *server = connection->server;
    struct stream *stream = connection->stream;
    CHECK(loop_is_home(server->loop));
    atomic_fetch_add(&server->inputs, 1);
    *used = bytes.size;
    switch (server->behaviour) {
    case ECHO:
        stream_write(stream, bytes);
        break;
    case ECHO_LINES:
        *used = echo_lines(connection, bytes, false);
        break;
    case ECHO_PAUSING:
        *used = echo_lines(connection, bytes, true);
        break;
    case LAST_WORDS:
        write_flood(stream);
        stream_close(stream);
        stream_write(stream, span_from_text("not sent"));
        memset(stream_reserve(stream, 65536), 0, 65536);
        break;
    case ABORTING:
        stream_write(stream, span_from_text("not sent"));
        stream_abort(stream);
        break;
    case BLOBS:
        for (size_t i = 0; i < bytes.size; i++)
            write_blobs(stream);
        break;
    case FLOOD:
    case SILENT:
        break;
    }
    const char *subject = stream_certificate_subject(stream);
    snprintf(server->subject, sizeof server->subject, "%s", subject != NULL ? subject : "");
}

static void on_drained(void *context)
{
    struct connection *connection = context;
    CHECK(stream_queued(connection->stream) == 0);
    atomic_fetch_add(&connection->server->drained, 1);
    if (connection->server->behaviour == FLOOD)
        stream_write(connection->stream, span_from_text("end"));
}

static void on_closed(void *context, enum status why)
{
    struct connection *connection = context;
    struct server *server = connection->server;
    loop_timer_stop(server->loop, &connection->pause_timer);
    link_remove(&connection->link);
    heap_free(connection);
    atomic_store(&server->why, why);
    atomic_fetch_add(&server->closed, 1);
}

static const struct stream_events connection_events = {on_input, on_drained, on_closed};

static void on_accepted(void *context, int socket)
{
    struct server *server = context;
    struct stream *stream = server->tls != NULL ? stream_tls_new(server->loop, socket, server->tls)
                                                : stream_tcp_new(server->loop, socket);
    CHECK(stream != NULL);
    struct connection *connection = heap_new(sizeof *connection);
    connection->server = server;
    connection->stream = stream;
    connection->pause_timer.fired = pause_over;
    list_push(&server->connections, &connection->link);
    snprintf(server->peer, sizeof server->peer, "%s", stream_peer(stream));
    if (server->behaviour == FLOOD)
        write_flood(stream);
    stream_start(stream, &connection_events, connection);
    atomic_fetch_add(&server->opened, 1);
}

static bool
    server_gathers; /* those that are opened from now on send by io_uring, if there is one */

static void server_open(struct server *server, enum behaviour behaviour, struct tls_context *tls)
{
    *server = (struct server){.behaviour = behaviour, .tls = tls};
    list_init(&server->connections);
    server->worker = worker_new(0);
    server->loop = worker_loop(server->worker);
    struct err err;
    server->listener =
        listener_open(server->loop, "127.0.0.1", &server->port, on_accepted, server, &err);
    assert_non_null(server->listener);
    assert_int_not_equal(server->port, 0);
    if (server_gathers)
        worker_gather_sends(server->worker);
    worker_start(server->worker);
}

struct server_end {
    struct mail mail;
    struct server *server;
    sem_t done;
};

static void server_ends(struct mail *mail)
{
    struct server_end *end = container_of(mail, struct server_end, mail);
    listener_close(end->server->listener);
    list_each(link, &end->server->connections)
    {
        stream_abort(container_of(link, struct connection, link)->stream);
    }
    sem_post(&end->done);
}

static void server_close(struct server *server)
{
    struct server_end end = {.mail.deliver = server_ends, .server = server};
    sem_init(&end.done, 0, 0);
    mailbox_post(server->loop, &end.mail);
    sem_wait(&end.done);
    worker_stop(server->worker);
    worker_free(server->worker);
    assert_int_equal(server->opened, server->closed);
    sem_destroy(&end.done);
}

/* Waits up to ten seconds for a counter of the server. */
static void await(atomic_int *counter, int value)
{
    for (int i = 0; i < 10000 && atomic_load(counter) < value; i++)
        usleep(1000);
    assert_true(atomic_load(counter) >= value);
}

static int client_connect(const struct server *server)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), buffer = CLIENT_BUFFER_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(server->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    struct timeval patience = {.tv_sec = 60};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

#endif
