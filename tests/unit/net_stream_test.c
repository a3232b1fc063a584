/* SPDX-License-Identifier: Apache-2.0 */
/* Streams over TCP, and the listener. */
#include "tests/unit/net_fixture.h"

static void send_text(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void expect_bytes(int fd, const void *expected, size_t size)
{
    uint8_t *got = heap_new(size);
    assert_int_equal(recv(fd, got, size, MSG_WAITALL), size);
    assert_memory_equal(got, expected, size);
    heap_free(got);
}

static void expect_text(int fd, const char *text)
{
    expect_bytes(fd, text, strlen(text));
}

static void expect_end(int fd)
{
    char byte;
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
}

static void bytes_are_echoed(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, ECHO, NULL);
    int fd = client_connect(&server);
    send_text(fd, "hello");
    expect_text(fd, "hello");
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &size);
    close(fd);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_OK);
    char peer[64];
    snprintf(peer, sizeof peer, "127.0.0.1:%u", (unsigned)ntohs(address.sin_port));
    assert_string_equal(server.peer, peer);
    assert_string_equal(server.subject, "");
    server_close(&server);
}

static void frames_arrive_whole_however_they_are_cut(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, ECHO_LINES, NULL);
    int fd = client_connect(&server);
    const char *text = "one\ntwo\nthree is a longer line\n\nfive\n";
    for (const char *at = text; *at != '\0'; at++) {
        send(fd, at, 1, 0);
        if (*at == ' ' || *at == '\n')
            usleep(1000);
    }
    expect_text(fd, text);
    /* A line of 60 kB, which exceeds what any single read brings when it is sent in pieces. */
    char *line = heap_new(60001);
    memset(line, 'x', 59999);
    line[59999] = '\n';
    for (int i = 0; i < 60000; i += 10000) {
        send(fd, line + i, 10000, 0);
        usleep(2000);
    }
    expect_text(fd, line);
    send_text(fd, "begun");
    heap_free(line);
    close(fd);
    await(&server.closed, 1);
    server_close(&server);
}

static void what_is_kept_is_limited(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, ECHO_LINES, NULL);
    int fd = client_connect(&server);
    char *many = heap_new(1 << 20);
    memset(many, 'x', 1 << 20);
    for (int i = 0; i < 20 && send(fd, many, 1 << 20, MSG_NOSIGNAL) > 0; i++)
        continue;
    heap_free(many);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_TOO_LARGE);
    close(fd);
    server_close(&server);
}

static void refused_memory_closes_the_stream(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, ECHO_LINES, NULL);
    int fd = client_connect(&server);
    heap_fail_after(1);
    send_text(fd, "begun");
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_NO_MEMORY);
    close(fd);
    server_close(&server);
}

static void paused_input_is_kept_and_shown_again(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, ECHO_PAUSING, NULL);
    int fd = client_connect(&server);
    send_text(fd, "a\nb\nc\nd");
    send_text(fd, "d\ne\n");
    shutdown(fd, SHUT_WR);
    expect_text(fd, "a\nb\nc\ndd\ne\n");
    expect_end(fd);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_OK);
    close(fd);
    server_close(&server);
}

static void a_slow_reader_gets_everything_and_drains_once(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, FLOOD, NULL);
    int fd = client_connect(&server);
    await(&server.opened, 1);
    usleep(20000);
    assert_int_equal(server.drained, 0);
    struct blob *expected = pattern_blob(FLOOD_BYTES);
    for (size_t at = 0; at < FLOOD_BYTES; at += FLOOD_BYTES / 8)
        expect_bytes(fd, expected->bytes + at, FLOOD_BYTES / 8);
    expect_text(fd, "end");
    assert_int_equal(server.drained, 1);
    blob_unref(expected);
    close(fd);
    await(&server.closed, 1);
    server_close(&server);
}

static void queued_output_is_sent_before_closing(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, LAST_WORDS, NULL);
    int fd = client_connect(&server);
    send_text(fd, "go");
    struct blob *expected = pattern_blob(FLOOD_BYTES);
    expect_bytes(fd, expected->bytes, FLOOD_BYTES / 2);
    /* Input that nobody reads must not turn the close into a reset. */
    send_text(fd, "more");
    expect_bytes(fd, expected->bytes + FLOOD_BYTES / 2, FLOOD_BYTES / 2);
    expect_end(fd);
    blob_unref(expected);
    close(fd);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_OK);
    server_close(&server);
}

static void a_peer_that_does_not_close_is_left(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, LAST_WORDS, NULL);
    int lingering = client_connect(&server);
    send_text(lingering, "go");
    struct blob *expected = pattern_blob(FLOOD_BYTES);
    expect_bytes(lingering, expected->bytes, FLOOD_BYTES);
    expect_end(lingering);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_OK);
    /* One that does not even read is given five seconds. */
    int deaf = client_connect(&server);
    send_text(deaf, "go");
    await(&server.closed, 2);
    assert_int_equal(server.why, STATUS_TIMED_OUT);
    close(lingering);
    close(deaf);
    blob_unref(expected);
    server_close(&server);
}

static void abort_drops_what_is_queued(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, ABORTING, NULL);
    int fd = client_connect(&server);
    send_text(fd, "go");
    expect_end(fd);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_OK);
    close(fd);
    server_close(&server);
}

static void a_reset_closes_and_says_so(void **state)
{
    (void)state;
    struct server server;
    server_open(&server, FLOOD, NULL);
    for (int i = 0; i < 2; i++) {
        int fd = client_connect(&server);
        await(&server.opened, i + 1);
        struct linger none = {.l_onoff = 1, .l_linger = 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        close(fd);
        await(&server.closed, i + 1);
        assert_int_equal(server.why, STATUS_CLOSED);
    }
    server_close(&server);
}

static void blobs_and_small_writes_keep_their_order(void **state)
{
    (void)state;
    enum { TIMES = 60 };
    struct server server;
    server_open(&server, BLOBS, NULL);
    int fd = client_connect(&server);
    char bytes[TIMES];
    memset(bytes, 'x', sizeof bytes);
    send(fd, bytes, TIMES, 0);
    struct blob *expected = pattern_blob(BLOB_BYTES);
    for (int i = 0; i < TIMES; i++) {
        expect_text(fd, "<->");
        expect_bytes(fd, expected->bytes + 1000, 10000);
        expect_bytes(fd, expected->bytes + 5, 100);
    }
    blob_unref(expected);
    close(fd);
    await(&server.closed, 1);
    server_close(&server);
}

static int unstarted_closed;

static void unstarted_gone(void *context, enum status why)
{
    (void)context;
    assert_int_equal(why, STATUS_OK);
    unstarted_closed++;
}

/* Without a thread: the loop may be used by whoever has it until it runs. */
static void streams_may_end_before_they_start(void **state)
{
    (void)state;
    struct loop *loop = loop_new();
    int sockets[2][2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets[i]), 0);
    struct stream *unstarted = stream_tcp_new(loop, sockets[0][0]);
    stream_abort(unstarted);
    struct stream *started = stream_tcp_new(loop, sockets[1][0]);
    static const struct stream_events events = {.closed = unstarted_gone};
    stream_write(started, span_from_text("hi"));
    stream_close(started);
    assert_true(stream_is_closing(started));
    stream_start(started, &events, NULL);
    assert_string_equal(stream_peer(started), "unknown");
    loop_free(loop);
    assert_int_equal(unstarted_closed, 1);
    expect_end(sockets[0][1]);
    expect_text(sockets[1][1], "hi");
    expect_end(sockets[1][1]);
    close(sockets[0][1]);
    close(sockets[1][1]);
}

enum { ENDS = 200 };
static struct {
    struct loop *loop;
    struct loop_task task;
    unsigned all, together, most;
} ends;

static void ends_turn(struct loop_task *task)
{
    (void)task;
    ends.together = 0;
}

static void ends_one(void *context, enum status why)
{
    (void)context;
    (void)why;
    if (++ends.together > ends.most)
        ends.most = ends.together;
    loop_defer(ends.loop, &ends.task, LOOP_WORK);
    if (++ends.all == ENDS)
        loop_stop(ends.loop);
}

/* Whoever is told of an end has work with it, and everybody else waits. */
static void many_ends_are_spread(void **state)
{
    (void)state;
    static const struct stream_events events = {.closed = ends_one};
    int peers[ENDS];
    ends.loop = loop_new();
    ends.task.run = ends_turn;
    for (unsigned i = 0; i < ENDS; i++) {
        int sockets[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets), 0);
        stream_start(stream_tcp_new(ends.loop, sockets[0]), &events, NULL);
        peers[i] = sockets[1];
    }
    for (unsigned i = 0; i < ENDS; i++)
        close(peers[i]);
    loop_run(ends.loop);
    assert_int_equal(ends.all, ENDS);
    assert_true(ends.most <= ENDS / 4);
    loop_free(ends.loop);
}

static struct {
    struct loop *loop;
    struct loop_timer timer;
    struct stream *streams[ENDS]; /* NULL: closed */
    bool writes;                  /* to all that are open, in each turn */
    unsigned ended, most, closed;
    size_t bytes;
} reads;

static void reads_input(void *context, struct span bytes, size_t *used)
{
    (void)context;
    *used = bytes.size;
    reads.bytes += bytes.size;
}

static void reads_closed(void *context, enum status why)
{
    struct stream **stream = context;
    *stream = NULL;
    assert_true(why == STATUS_OK || reads.writes);
    if (++reads.closed == ENDS)
        loop_stop(reads.loop);
}

static void reads_turn(struct loop_timer *timer)
{
    unsigned ended = reads.closed;
    for (unsigned i = 0; i < ENDS; i++)
        ended += reads.streams[i] != NULL && stream_is_closing(reads.streams[i]);
    if (ended - reads.ended > reads.most)
        reads.most = ended - reads.ended;
    reads.ended = ended;
    /* What is sent to a peer that has gone fails, and takes nothing from what it has said. */
    for (unsigned i = 0; i < ENDS && reads.writes; i++)
        if (reads.streams[i] != NULL && !stream_is_closing(reads.streams[i]))
            stream_write(reads.streams[i], span_from_text("too late"));
    loop_timer_start(reads.loop, timer, 0);
}

/* Also of those that have said something before. */
static void read_many_ends(bool writes)
{
    static const struct stream_events events = {.input = reads_input, .closed = reads_closed};
    int peers[ENDS];
    reads.writes = writes;
    reads.ended = reads.most = reads.closed = 0;
    reads.bytes = 0;
    reads.loop = loop_new();
    reads.timer.fired = reads_turn;
    for (unsigned i = 0; i < ENDS; i++) {
        int sockets[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets), 0);
        reads.streams[i] = stream_tcp_new(reads.loop, sockets[0]);
        stream_start(reads.streams[i], &events, &reads.streams[i]);
        peers[i] = sockets[1];
    }
    for (unsigned i = 0; i < ENDS; i++) {
        if (i % 2 == 0)
            send_text(peers[i], "last");
        close(peers[i]);
    }
    loop_timer_start(reads.loop, &reads.timer, 0);
    loop_run(reads.loop);
    loop_timer_stop(reads.loop, &reads.timer);
    assert_int_equal(reads.bytes, ENDS / 2 * 4);
    assert_in_range(reads.most, 1, ENDS / 4);
    loop_free(reads.loop);
}

static void many_ends_are_read_in_slices(void **state)
{
    (void)state;
    read_many_ends(false);
}

static void their_last_words_are_read_though_sending_fails(void **state)
{
    (void)state;
    read_many_ends(true);
}

static void not_accepted(void *context, int socket)
{
    (void)context;
    close(socket);
}

static void several_listeners_share_an_address(void **state)
{
    (void)state;
    struct loop *loop = loop_new();
    struct err err;
    uint16_t port = 0;
    struct listener *first = listener_open(loop, "*", &port, not_accepted, NULL, &err);
    assert_non_null(first);
    struct listener *second = listener_open(loop, "*", &port, not_accepted, NULL, &err);
    assert_non_null(second);
    uint16_t low = 0;
    assert_null(listener_open(loop, "localhost", &low, not_accepted, NULL, &err));
    assert_string_equal(err.text, "listen on localhost: not an IPv4 or IPv6 address");
    assert_null(listener_open(loop, "192.0.2.1", &low, not_accepted, NULL, &err));
    assert_non_null(strstr(err.text, "192.0.2.1 port 0"));
    struct listener *ip6 = listener_open(loop, "::1", &low, not_accepted, NULL, &err);
    listener_close(ip6);
    listener_close(first);
    listener_close(second);
    listener_close(NULL);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_echoed),
        cmocka_unit_test(frames_arrive_whole_however_they_are_cut),
        cmocka_unit_test(what_is_kept_is_limited),
        cmocka_unit_test(refused_memory_closes_the_stream),
        cmocka_unit_test(paused_input_is_kept_and_shown_again),
        cmocka_unit_test(a_slow_reader_gets_everything_and_drains_once),
        cmocka_unit_test(queued_output_is_sent_before_closing),
        cmocka_unit_test(a_peer_that_does_not_close_is_left),
        cmocka_unit_test(abort_drops_what_is_queued),
        cmocka_unit_test(a_reset_closes_and_says_so),
        cmocka_unit_test(blobs_and_small_writes_keep_their_order),
        cmocka_unit_test(streams_may_end_before_they_start),
        cmocka_unit_test(many_ends_are_spread),
        cmocka_unit_test(many_ends_are_read_in_slices),
        cmocka_unit_test(their_last_words_are_read_though_sending_fails),
        cmocka_unit_test(several_listeners_share_an_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
