/* SPDX-License-Identifier: Apache-2.0 */
/* Loads the REST interface from one thread: connections that send one request after the other, each
 * as soon as the answer to the one before has come. Prints one JSON object: messages per second,
 * and with --pid the server's CPU time per message.
 *
 *   publish   N messages to --queue, --batch of them in a request
 *   consume   takes --batch messages from --queue and --group and acknowledges them, until N are
 * done or there are no more
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/histogram.h"
#include "tests/bench/process.h"

enum { CONNECTIONS_MAX = 256, BYTES_MAX = 4 << 20, HEAD = 512, PIECE_MAX = 4096 };

static struct {
    const char *host, *queue, *group;
    long port, pid, connections, batch, size, messages, delay_ms;
    bool ids;
} options = {.host = "127.0.0.1",
             .queue = "bench",
             .group = "bench",
             .connections = 32,
             .batch = 1,
             .size = 100,
             .messages = 100000};

struct connection {
    int fd;
    char *in, *out;
    size_t in_size, out_size, out_sent;
    uint64_t asked_ns;
    long count; /* messages of the request under way */
    bool acknowledging, idle;
};

static struct connection connections[CONNECTIONS_MAX];
static struct histogram histogram;
static long asked, done;
static bool consuming;

static void die(const char *what)
{
    fprintf(stderr, "restload: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void open_all(void)
{
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &server.sin_addr) != 1)
        die("no IPv4 address");
    for (long i = 0; i < options.connections; i++) {
        struct connection *connection = &connections[i];
        connection->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connection->fd, (struct sockaddr *)&server, sizeof server) != 0)
            die("connect");
        setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        connection->in = malloc(BYTES_MAX);
        connection->out = malloc(BYTES_MAX);
    }
}

/* Writes at *at, which moves on; there is room, since batch and size have limits. */
__attribute__((format(printf, 2, 3))) static void put(char **at, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    *at += vsnprintf(*at, PIECE_MAX, format, arguments);
    va_end(arguments);
}

/* Takes what lies behind HEAD in out as the body. */
static void send_request(struct connection *connection, const char *method, const char *path,
                         size_t body)
{
    char head[HEAD];
    int size = snprintf(head, sizeof head,
                        "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n",
                        method, path, body);
    memmove(connection->out + size, connection->out + HEAD, body);
    memcpy(connection->out, head, (size_t)size);
    connection->out_size = (size_t)size + body;
    connection->out_sent = 0;
    connection->in_size = 0;
    connection->asked_ns = clock_ns();
}

static void ask_publish(struct connection *connection)
{
    char *at = connection->out + HEAD;
    connection->count =
        options.messages - asked < options.batch ? options.messages - asked : options.batch;
    connection->idle = connection->count == 0;
    if (connection->idle)
        return;
    put(&at, "{\"queue\":\"%s\",\"messages\":[", options.queue);
    for (long i = 0; i < connection->count; i++) {
        put(&at, "%s{\"body\":\"%0*ld\"", i > 0 ? "," : "", (int)options.size, asked + i);
        if (options.delay_ms > 0)
            put(&at, ",\"delay_ms\":%ld", options.delay_ms);
        if (options.ids)
            put(&at, ",\"dedup_id\":\"%ld\"", asked + i);
        *at++ = '}';
    }
    put(&at, "]}");
    asked += connection->count;
    send_request(connection, "POST", "/v1/default/publish", (size_t)(at - connection->out) - HEAD);
}

static void ask_take(struct connection *connection)
{
    char path[256];
    connection->acknowledging = false;
    connection->idle = done >= options.messages;
    if (connection->idle)
        return;
    snprintf(path, sizeof path, "/v1/default/queues/%s/groups/%s/messages?max_msgs=%ld&time_wait=1",
             options.queue, options.group, options.batch);
    send_request(connection, "GET", path, 0);
}

/* The handlers of what was taken. */
static void ask_acknowledge(struct connection *connection, char *body)
{
    static const char mark[] = "\"handler\":\"";
    char path[256], *at = connection->out + HEAD;
    connection->count = 0;
    put(&at, "{\"receipts\":[");
    for (char *found = body; (found = strstr(found, mark)) != NULL;) {
        found += sizeof mark - 1;
        size_t size = strcspn(found, "\"");
        put(&at, "%s\"%.*s\"", connection->count++ > 0 ? "," : "", (int)size, found);
    }
    put(&at, "]}");
    connection->idle = connection->count == 0; /* there are no more */
    if (connection->idle)
        return;
    connection->acknowledging = true;
    snprintf(path, sizeof path, "/v1/default/queues/%s/groups/%s/ack", options.queue,
             options.group);
    send_request(connection, "POST", path, (size_t)(at - connection->out) - HEAD);
}

static void answered(struct connection *connection, char *body)
{
    long code = strtol(connection->in + 9, NULL, 10);
    if (code < 200 || code > 299 || (connection->acknowledging && !strstr(body, "\"fail\":0"))) {
        fprintf(stderr, "restload: %.300s\n", connection->in);
        exit(1);
    }
    if (!consuming || connection->acknowledging) {
        histogram_add(&histogram, clock_ns() - connection->asked_ns);
        done += connection->count;
    }
    if (!consuming)
        ask_publish(connection);
    else if (connection->acknowledging)
        ask_take(connection);
    else
        ask_acknowledge(connection, body);
}

static void receive(struct connection *connection)
{
    ssize_t size = recv(connection->fd, connection->in + connection->in_size,
                        BYTES_MAX - 1 - connection->in_size, MSG_DONTWAIT);
    if (size == 0 || (size < 0 && errno != EAGAIN))
        die("the server has closed");
    if (size < 0)
        return;
    connection->in_size += (size_t)size;
    connection->in[connection->in_size] = '\0';
    char *body = strstr(connection->in, "\r\n\r\n");
    if (body == NULL)
        return;
    body += 4;
    const char *length = strcasestr(connection->in, "content-length:");
    size_t wanted = length == NULL || length > body ? 0 : strtoul(length + 15, NULL, 10);
    if (connection->in_size - (size_t)(body - connection->in) >= wanted)
        answered(connection, body);
}

static void transmit(struct connection *connection)
{
    while (!connection->idle && connection->out_sent < connection->out_size) {
        ssize_t size = send(connection->fd, connection->out + connection->out_sent,
                            connection->out_size - connection->out_sent, MSG_DONTWAIT);
        if (size < 0 && errno == EAGAIN)
            return;
        if (size < 0)
            die("send");
        connection->out_sent += (size_t)size;
    }
}

static void run(void)
{
    struct pollfd polls[CONNECTIONS_MAX];
    for (;;) {
        bool busy = false;
        for (long i = 0; i < options.connections; i++) {
            struct connection *connection = &connections[i];
            transmit(connection);
            busy |= !connection->idle;
            polls[i] = (struct pollfd){
                .fd = connection->idle ? -1 : connection->fd,
                .events = (short)(connection->out_sent < connection->out_size ? POLLIN | POLLOUT
                                                                              : POLLIN),
            };
        }
        if (!busy)
            return;
        poll(polls, (nfds_t)options.connections, 1000);
        for (long i = 0; i < options.connections; i++)
            if (polls[i].revents & (POLLIN | POLLHUP | POLLERR))
                receive(&connections[i]);
    }
}

static void usage(void)
{
    fputs("usage: restload publish|consume --port N [--host ADDRESS] [--pid N] [--queue NAME] "
          "[--group NAME]\n       [--connections N] [--batch N] [--size N] [--messages N] "
          "[--delay-ms N] [--ids]\n",
          stderr);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"host", 1, NULL, 'h'},  {"port", 1, NULL, 'p'},     {"pid", 1, NULL, 'P'},
        {"queue", 1, NULL, 'q'}, {"group", 1, NULL, 'g'},    {"connections", 1, NULL, 'c'},
        {"batch", 1, NULL, 'b'}, {"messages", 1, NULL, 'n'}, {"delay-ms", 1, NULL, 'd'},
        {"ids", 0, NULL, 'i'},   {"size", 1, NULL, 's'},     {NULL, 0, NULL, 0},
    };
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        long number = optarg == NULL ? 0 : strtol(optarg, NULL, 10);
        switch (c) {
        case 'h':
            options.host = optarg;
            break;
        case 'q':
            options.queue = optarg;
            break;
        case 'g':
            options.group = optarg;
            break;
        case 'p':
            options.port = number;
            break;
        case 'P':
            options.pid = number;
            break;
        case 'c':
            options.connections = number;
            break;
        case 'b':
            options.batch = number;
            break;
        case 's':
            options.size = number;
            break;
        case 'n':
            options.messages = number;
            break;
        case 'i':
            options.ids = true;
            break;
        case 'd':
            options.delay_ms = number;
            break;
        default:
            usage();
        }
    }
    bool known = argc == optind + 1 &&
                 (strcmp(argv[optind], "publish") == 0 || strcmp(argv[optind], "consume") == 0);
    if (!known || options.port == 0 || options.connections < 1 || options.batch < 1 ||
        options.connections > CONNECTIONS_MAX || options.batch > 1000 || options.size < 1 ||
        options.size > 2000 || options.messages < 1)
        usage();
    consuming = strcmp(argv[optind], "consume") == 0;
    open_all();
    uint64_t cpu_ns = process_cpu_ns((pid_t)options.pid), began_ns = clock_ns();
    for (long i = 0; i < options.connections; i++) {
        if (consuming)
            ask_take(&connections[i]);
        else
            ask_publish(&connections[i]);
    }
    run();
    double seconds = used(began_ns, clock_ns()) / 1e9;
    double cpu_us = used(cpu_ns, process_cpu_ns((pid_t)options.pid)) / 1e3;
    printf("{\"what\":\"%s\",\"messages\":%ld,\"batch\":%ld,\"connections\":%ld,\"seconds\":%.2f,"
           "\"messages_s\":%.0f,\"cpu_us\":%.2f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"rss_kb\":%lu}\n",
           argv[optind], done, options.batch, options.connections, seconds, (double)done / seconds,
           done == 0 ? 0 : cpu_us / (double)done, histogram_us(&histogram, 0.5),
           histogram_us(&histogram, 0.99), (unsigned long)process_rss_kb((pid_t)options.pid));
    return 0;
}
