/* SPDX-License-Identifier: Apache-2.0 */
/* Streams over a TCP socket: readiness from uv_poll, one receive per turn into the loop's buffer,
 * and output straight from the queue, by sendmsg or, when it is one piece, by the sends of the
 * turn. An idle connection holds its struct and nothing else. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/net/loop_uv.h"
#include "core/net/sends.h"
#include "core/net/stream_impl.h"

/* Closing a socket that still receives resets the connection, and a reset may destroy our last
 * words before the peer has read them. So we say that we are done, and give the peer this long to
 * be done. */
enum { VECTORS = 64, LINGER_MS = 500 };

struct stream_tcp {
    struct stream stream;
    uv_poll_t poll;
    int socket;
    int mask; /* what poll is waiting for */
    bool wants_input, blocked, ended, finished;
    bool ends, broken; /* among those whose end is to be read; by an error */
    struct loop_timer linger_timer;
    struct loop_leaving leaving; /* while lingering, and from when it has finished on */
    struct loop_leaving ending;  /* from when the peer has ended until that is read */
};

static struct stream_tcp *tcp_of(struct stream *stream)
{
    return container_of(stream, struct stream_tcp, stream);
}

static void on_ready(uv_poll_t *poll, int error, int events);

/* Changing the mask costs system calls, so it stays put while nothing is in the way. */
static void watch(struct stream_tcp *tcp)
{
    bool reads = tcp->wants_input && !tcp->ended && !tcp->ends;
    int mask = (reads ? UV_READABLE | UV_DISCONNECT : 0) | (tcp->blocked ? UV_WRITABLE : 0);
    if (tcp->finished || tcp->broken)
        mask = 0;
    if (mask == tcp->mask)
        return;
    tcp->mask = mask;
    if (mask != 0)
        uv_poll_start(&tcp->poll, mask, on_ready);
    else
        uv_poll_stop(&tcp->poll);
}

static void on_closed(uv_handle_t *handle)
{
    struct stream_tcp *tcp = handle->data;
    close(tcp->socket);
    stream_gone(&tcp->stream);
}

static void poll_close(struct loop_leaving *leaving)
{
    struct stream_tcp *tcp = container_of(leaving, struct stream_tcp, leaving);
    uv_close((uv_handle_t *)&tcp->poll, on_closed);
}

static void tcp_finish(struct stream_tcp *tcp)
{
    if (tcp->finished)
        return;
    tcp->finished = true;
    loop_timer_stop(tcp->stream.loop, &tcp->linger_timer);
    link_remove(&tcp->leaving.link);
    if (tcp->ends)
        loop_ending_remove(tcp->stream.loop, &tcp->ending);
    watch(tcp);
    tcp->leaving.finish = poll_close;
    loop_leaving_over(tcp->stream.loop, &tcp->leaving);
}

static void linger_expired(struct loop_timer *timer)
{
    tcp_finish(container_of(timer, struct stream_tcp, linger_timer));
}

static void linger_cut(struct loop_leaving *leaving)
{
    tcp_finish(container_of(leaving, struct stream_tcp, leaving));
}

static void tcp_ended(struct stream_tcp *tcp, enum status why)
{
    tcp->ended = true;
    watch(tcp);
    if (tcp->stream.gone)
        tcp_finish(tcp);
    else
        stream_ended(&tcp->stream, why);
}

static enum status status_of(int error)
{
    return error == ETIMEDOUT ? STATUS_TIMED_OUT : STATUS_CLOSED;
}

static void tcp_receive(struct stream_tcp *tcp)
{
    uint8_t *buffer = loop_input_buffer(tcp->stream.loop);
    ssize_t got = recv(tcp->socket, buffer, LOOP_INPUT_BYTES, 0);
    if (got > 0)
        stream_input_joined(&tcp->stream, buffer, (size_t)got, LOOP_INPUT_ROOM);
    else if (got == 0)
        tcp_ended(tcp, STATUS_OK);
    else if (errno != EAGAIN && errno != EINTR)
        tcp_ended(tcp, status_of(errno));
}

/* All that the peer has said, and that it has ended, lies ready; so much of it is read at a time.
 */
static void end_read(struct loop_leaving *ending)
{
    struct stream_tcp *tcp = container_of(ending, struct stream_tcp, ending);
    tcp->ends = false;
    if (tcp->wants_input && !tcp->ended)
        tcp_receive(tcp);
    if (tcp->broken && (!tcp->ended || tcp->blocked))
        tcp_ended(tcp, STATUS_CLOSED);
    else
        watch(tcp);
}

/* It is not watched meanwhile: it would be shown again in each turn. */
static void end_later(struct stream_tcp *tcp)
{
    if (!tcp->ends)
        loop_ending_add(tcp->stream.loop, &tcp->ending);
    tcp->ends = true;
    watch(tcp);
}

static void on_ready(uv_poll_t *poll, int error, int events)
{
    struct stream_tcp *tcp = poll->data;
    if (error != 0) {
        /* The socket is broken and libuv has stopped watching it; what had arrived before still
         * counts. */
        tcp->mask = 0;
        tcp->broken = true;
        end_later(tcp);
        return;
    }
    if (events & UV_WRITABLE) {
        tcp->blocked = false;
        watch(tcp);
        loop_defer(tcp->stream.loop, &tcp->stream.flush_task, LOOP_FLUSH);
    }
    if (events & UV_DISCONNECT && !tcp->ended)
        end_later(tcp);
    else if (events & UV_READABLE && !tcp->ended)
        tcp_receive(tcp);
}

static void tcp_start(struct stream *stream)
{
    struct stream_tcp *tcp = tcp_of(stream);
    tcp->wants_input = !stream->paused;
    watch(tcp);
}

/* What sendmsg has said: a size, or -errno. */
static void tcp_sent(struct stream_tcp *tcp, ssize_t sent)
{
    if (sent >= 0) {
        stream_sent(&tcp->stream, (size_t)sent);
    } else if (sent == -EAGAIN || sent == -ENOBUFS) {
        tcp->blocked = true;
        watch(tcp);
    } else if (sent != -EINTR) { /* what the peer has said before is read first */
        tcp->broken = tcp->blocked = true;
        end_later(tcp);
    }
}

static void send_rest(struct stream_tcp *tcp)
{
    struct stream *stream = &tcp->stream;
    while (!tcp->blocked && !stream->aborted && stream->queued != 0) {
        struct iovec vectors[VECTORS];
        struct msghdr message = {.msg_iov = vectors};
        message.msg_iovlen = (size_t)stream_peek(stream, vectors, VECTORS);
        ssize_t sent = sendmsg(tcp->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        tcp_sent(tcp, sent >= 0 ? sent : -errno);
    }
}

static void tcp_flush(struct stream *stream)
{
    struct stream_tcp *tcp = tcp_of(stream);
    if (stream->gathered)
        sends_go(loop_sends(stream->loop));
    send_rest(tcp);
}

static void gathered_sent(void *context, ssize_t sent)
{
    struct stream_tcp *tcp = context;
    tcp->stream.gathered = false;
    tcp_sent(tcp, sent);
    send_rest(tcp);
    stream_flushed(&tcp->stream);
}

static bool tcp_gather(struct stream *stream)
{
    struct stream_tcp *tcp = tcp_of(stream);
    struct sends *sends = loop_sends(stream->loop);
    struct iovec piece[2];
    if (sends == NULL || tcp->blocked || stream_peek(stream, piece, 2) != 1)
        return false;
    CHECK(!stream->gathered);
    struct span bytes = span_of(piece[0].iov_base, piece[0].iov_len);
    stream->gathered = sends_add(sends, tcp->socket, bytes, gathered_sent, tcp);
    if (!stream->gathered)
        return false;
    if (sends_are_full(sends))
        sends_go(sends);
    return true;
}

static void tcp_pause(struct stream *stream, bool paused)
{
    struct stream_tcp *tcp = tcp_of(stream);
    tcp->wants_input = !paused && stream->started;
    watch(tcp);
}

static void tcp_close(struct stream *stream)
{
    struct stream_tcp *tcp = tcp_of(stream);
    bool at_once = stream->aborted || tcp->ended || !stream->started;
    if (at_once || shutdown(tcp->socket, SHUT_WR) != 0) {
        tcp_finish(tcp);
        return;
    }
    tcp->wants_input = true;
    watch(tcp);
    loop_timer_start(stream->loop, &tcp->linger_timer, LINGER_MS);
    loop_leaving_add(stream->loop, &tcp->leaving);
}

static const struct stream_ops tcp_ops = {
    .start = tcp_start,
    .flush = tcp_flush,
    .gather = tcp_gather,
    .pause = tcp_pause,
    .close = tcp_close,
};

void stream_name_peer(int socket, char peer[STREAM_PEER_BYTES])
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char host[INET6_ADDRSTRLEN] = "";
    snprintf(peer, STREAM_PEER_BYTES, "unknown");
    if (getpeername(socket, (struct sockaddr *)&address, &size) != 0)
        return;
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *ip4 = (const struct sockaddr_in *)&address;
        inet_ntop(AF_INET, &ip4->sin_addr, host, sizeof host);
        snprintf(peer, STREAM_PEER_BYTES, "%s:%u", host, (unsigned)ntohs(ip4->sin_port));
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *ip6 = (const struct sockaddr_in6 *)&address;
        bool mapped = IN6_IS_ADDR_V4MAPPED(&ip6->sin6_addr);
        if (mapped)
            inet_ntop(AF_INET, &ip6->sin6_addr.s6_addr[12], host, sizeof host);
        else
            inet_ntop(AF_INET6, &ip6->sin6_addr, host, sizeof host);
        snprintf(peer, STREAM_PEER_BYTES, mapped ? "%s:%u" : "[%s]:%u", host,
                 (unsigned)ntohs(ip6->sin6_port));
    }
}

struct stream *stream_tcp_new(struct loop *loop, int socket)
{
    CHECK(loop_is_home(loop));
    struct stream_tcp *tcp = heap_new(sizeof *tcp);
    stream_init(&tcp->stream, loop, &tcp_ops);
    tcp->socket = socket;
    tcp->linger_timer.fired = linger_expired;
    tcp->leaving.finish = linger_cut;
    tcp->ending.finish = end_read;
    if (uv_poll_init(loop_native(loop), &tcp->poll, socket) != 0) {
        close(socket);
        heap_free(tcp);
        return NULL;
    }
    tcp->poll.data = tcp;
    stream_name_peer(socket, tcp->stream.peer);
    return &tcp->stream;
}
