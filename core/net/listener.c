/* SPDX-License-Identifier: Apache-2.0 */
/* Accepting on one loop, a limited number of connections per turn. */
#include "core/net/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/list.h"
#include "core/base/trace.h"

enum { ACCEPTS_PER_TURN = 64, BACKLOG = 4096, FULL_MS = 100 };

struct listener {
    struct loop *loop;
    uv_poll_t poll;
    int socket;
    bool closing;
    listener_accepted *accepted;
    void *context;
    struct loop_timer full_timer;
};

struct address {
    struct sockaddr_storage storage;
    socklen_t size;
};

static void on_connections(uv_poll_t *poll, int error, int events);

static struct address address_ip4(struct in_addr ip, uint16_t port)
{
    struct address address = {.size = sizeof(struct sockaddr_in)};
    struct sockaddr_in *ip4 = (struct sockaddr_in *)&address.storage;
    *ip4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = ip};
    return address;
}

static struct address address_ip6(struct in6_addr ip, uint16_t port)
{
    struct address address = {.size = sizeof(struct sockaddr_in6)};
    struct sockaddr_in6 *ip6 = (struct sockaddr_in6 *)&address.storage;
    *ip6 =
        (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = ip};
    return address;
}

static int set_option(int socket, int level, int option, int value)
{
    return setsockopt(socket, level, option, &value, sizeof value);
}

/* A listening socket, or -1 with errno. */
static int socket_listen(const struct address *address, bool both_families)
{
    int family = address->storage.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    bool ready = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) == 0 &&
                 set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) == 0 &&
                 (family != AF_INET6 ||
                  set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, both_families ? 0 : 1) == 0) &&
                 bind(fd, (const struct sockaddr *)&address->storage, address->size) == 0 &&
                 listen(fd, BACKLOG) == 0;
    if (ready)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* "*" is one IPv6 socket for both families where the machine has IPv6. */
static int socket_open(const char *text, uint16_t port, struct err *err)
{
    struct in_addr ip4 = {.s_addr = htonl(INADDR_ANY)};
    struct in6_addr ip6 = in6addr_any;
    struct address address;
    int fd = -1;
    if (strcmp(text, "*") == 0) {
        address = address_ip6(ip6, port);
        fd = socket_listen(&address, true);
        if (fd < 0 && errno != EADDRINUSE && errno != EACCES) {
            address = address_ip4(ip4, port);
            fd = socket_listen(&address, false);
        }
    } else if (inet_pton(AF_INET, text, &ip4) == 1) {
        address = address_ip4(ip4, port);
        fd = socket_listen(&address, false);
    } else if (inet_pton(AF_INET6, text, &ip6) == 1) {
        address = address_ip6(ip6, port);
        fd = socket_listen(&address, false);
    } else {
        err_set(err, STATUS_INVALID, "listen on %s: not an IPv4 or IPv6 address", text);
        return -1;
    }
    if (fd < 0)
        err_set(err, STATUS_INVALID, "listen on %s port %u: %s", text, (unsigned)port,
                strerror(errno));
    return fd;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    CHECK(getsockname(fd, (struct sockaddr *)&address, &size) == 0);
    if (address.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&address)->sin6_port);
    return ntohs(((const struct sockaddr_in *)&address)->sin_port);
}

static void full_passed(struct loop_timer *timer)
{
    struct listener *listener = container_of(timer, struct listener, full_timer);
    uv_poll_start(&listener->poll, UV_READABLE, on_connections);
}

static bool is_full(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static void on_connections(uv_poll_t *poll, int error, int events)
{
    (void)error;
    (void)events;
    struct listener *listener = poll->data;
    for (int i = 0; i < ACCEPTS_PER_TURN && !listener->closing; i++) {
        int fd = accept4(listener->socket, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
            listener->accepted(listener->context, fd);
        } else if (is_full(errno)) {
            trace(TRACE_WARN, "cannot accept connections: %s", strerror(errno));
            uv_poll_stop(&listener->poll);
            loop_timer_start(listener->loop, &listener->full_timer, FULL_MS);
            return;
        } else if (errno == EAGAIN) {
            return;
        }
        /* Anything else is the failure of one connection, which accept has removed. */
    }
}

struct listener *listener_open(struct loop *loop, const char *address, uint16_t *port,
                               listener_accepted *accepted, void *context, struct err *err)
{
    CHECK(loop_is_home(loop));
    int fd = socket_open(address, *port, err);
    if (fd < 0)
        return NULL;
    struct listener *listener = heap_new(sizeof *listener);
    *listener = (struct listener){
        .loop = loop,
        .socket = fd,
        .accepted = accepted,
        .context = context,
        .full_timer.fired = full_passed,
    };
    int error = uv_poll_init(loop_native(loop), &listener->poll, fd);
    if (error != 0) {
        err_set(err, STATUS_NO_MEMORY, "listen on %s: %s", address, uv_strerror(error));
        close(fd);
        heap_free(listener);
        return NULL;
    }
    listener->poll.data = listener;
    uv_poll_start(&listener->poll, UV_READABLE, on_connections);
    *port = port_of(fd);
    return listener;
}

static void on_closed(uv_handle_t *handle)
{
    heap_free(handle->data);
}

void listener_close(struct listener *listener)
{
    if (listener == NULL)
        return;
    CHECK(loop_is_home(listener->loop));
    listener->closing = true;
    loop_timer_stop(listener->loop, &listener->full_timer);
    uv_poll_stop(&listener->poll);
    uv_close((uv_handle_t *)&listener->poll, on_closed);
    close(listener->socket);
}
