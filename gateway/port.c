/* SPDX-License-Identifier: Apache-2.0 */
/* A socket that does not share tries to have the port for a moment. */
#include "gateway/port.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Sockets of connections that ended lately are no obstacle. */
static int try_to_listen(const struct addrinfo *address)
{
    int one = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0; /* a family that this machine lacks has no ports in use */
    int error = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, 1) != 0)
        error = errno;
    close(fd);
    return error;
}

enum status port_check_free(const char *address, uint16_t port, struct err *err)
{
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *addresses;
    const char *host = strcmp(address, "*") == 0 ? NULL : address;
    if (getaddrinfo(host, service, &wanted, &addresses) != 0)
        return STATUS_OK; /* listener_open says better what is wrong with it */
    int error = 0;
    for (const struct addrinfo *at = addresses; at != NULL && error == 0; at = at->ai_next)
        error = try_to_listen(at);
    freeaddrinfo(addresses);
    return error == 0 ? STATUS_OK
                      : err_set(err, STATUS_INVALID, "cannot listen on %s port %u: %s", address,
                                port, strerror(error));
}
