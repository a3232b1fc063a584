/* SPDX-License-Identifier: Apache-2.0 */
/* Streams over TLS, with OpenSSL's own client on the other side. */
#include "tests/unit/net_fixture.h"

#include <signal.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "tests/unit/tls_files.h"

static struct tls_files files;

struct client {
    SSL_CTX *ctx;
    SSL *ssl;
    int fd;
};

static struct client client_prepare(const struct server *server, int version, bool with_certificate)
{
    struct client client = {.ctx = SSL_CTX_new(TLS_client_method())};
    SSL_CTX_set_min_proto_version(client.ctx, version);
    SSL_CTX_set_max_proto_version(client.ctx, version);
    assert_int_equal(SSL_CTX_load_verify_file(client.ctx, files.ca), 1);
    SSL_CTX_set_verify(client.ctx, SSL_VERIFY_PEER, NULL);
    if (with_certificate) {
        SSL_CTX_use_certificate_file(client.ctx, files.client, SSL_FILETYPE_PEM);
        SSL_CTX_use_PrivateKey_file(client.ctx, files.client_key, SSL_FILETYPE_PEM);
    }
    client.ssl = SSL_new(client.ctx);
    client.fd = client_connect(server);
    SSL_set_fd(client.ssl, client.fd);
    return client;
}

static struct client client_open(const struct server *server)
{
    struct client client = client_prepare(server, TLS1_3_VERSION, false);
    assert_int_equal(SSL_connect(client.ssl), 1);
    return client;
}

static void client_close(struct client *client)
{
    SSL_shutdown(client->ssl);
    SSL_free(client->ssl);
    SSL_CTX_free(client->ctx);
    close(client->fd);
}

static void client_send(struct client *client, const void *bytes, int size)
{
    assert_int_equal(SSL_write(client->ssl, bytes, size), size);
}

static void client_expect(struct client *client, const void *expected, size_t size)
{
    uint8_t *got = heap_new(size);
    size_t filled = 0, part;
    while (filled < size && SSL_read_ex(client->ssl, got + filled, size - filled, &part) == 1)
        filled += part;
    assert_int_equal(filled, size);
    assert_memory_equal(got, expected, size);
    heap_free(got);
}

/* An orderly end: close_notify, not just the end of TCP. */
static void client_expect_end(struct client *client)
{
    char byte;
    assert_int_equal(SSL_read(client->ssl, &byte, 1), 0);
    assert_int_equal(SSL_get_error(client->ssl, 0), SSL_ERROR_ZERO_RETURN);
}

static struct tls_context *context_of(const char *client_ca, bool required)
{
    struct err err = {""};
    struct tls_context *tls =
        tls_context_open(files.server, files.server_key, client_ca, required, &err);
    assert_string_equal(err.text, "");
    assert_non_null(tls);
    return tls;
}

static struct tls_context *context_open(bool with_client_ca)
{
    return context_of(with_client_ca ? files.ca : NULL, true);
}

static void echo_with_version(int version)
{
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO, tls);
    struct client client = client_prepare(&server, version, false);
    assert_int_equal(SSL_connect(client.ssl), 1);
    client_send(&client, "hello", 5);
    client_expect(&client, "hello", 5);
    struct blob *blob = pattern_blob(FLOOD_BYTES);
    for (int i = 0; i < 8; i++) {
        client_send(&client, blob->bytes, 100000);
        client_expect(&client, blob->bytes, 100000);
    }
    blob_unref(blob);
    client_close(&client);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_OK);
    server_close(&server);
    tls_context_free(tls);
}

static void bytes_are_echoed_over_tls_1_3(void **state)
{
    (void)state;
    echo_with_version(TLS1_3_VERSION);
}

static void bytes_are_echoed_over_tls_1_2(void **state)
{
    (void)state;
    echo_with_version(TLS1_2_VERSION);
}

static void older_versions_are_refused(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO, tls);
    uint64_t before = atomic_load(&stream_handshakes_failed);
    struct client client = client_prepare(&server, TLS1_1_VERSION, false);
    SSL_set_security_level(client.ssl, 0);
    assert_int_not_equal(SSL_connect(client.ssl), 1);
    client_close(&client);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_MALFORMED);
    assert_true(atomic_load(&stream_handshakes_failed) == before + 1);
    server_close(&server);
    tls_context_free(tls);
}

static void lines_arrive_whole_with_pauses(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO_PAUSING, tls);
    struct client client = client_open(&server);
    const char *text = "a\nbb\nccc\ndddd\n\nf\n";
    client_send(&client, text, 9);
    client_send(&client, text + 9, 3);
    client_send(&client, text + 12, (int)strlen(text) - 12);
    client_expect(&client, text, strlen(text));
    /* More records at once than the server takes while it is not paused. */
    char line[2001];
    memset(line, 'x', 2000);
    line[1999] = '\n';
    for (int i = 0; i < 40; i++)
        client_send(&client, line, 2000);
    for (int i = 0; i < 40; i++)
        client_expect(&client, line, 2000);
    client_close(&client);
    await(&server.closed, 1);
    server_close(&server);
    tls_context_free(tls);
}

/* What it writes, and what it is to read, crosses by the hand of the test. */
static struct client client_on_memory(const struct server *server, BIO **in, BIO **out)
{
    struct client client = client_prepare(server, TLS1_3_VERSION, false);
    *in = BIO_new(BIO_s_mem());
    *out = BIO_new(BIO_s_mem());
    SSL_set_bio(client.ssl, *in, *out);
    SSL_set_connect_state(client.ssl);
    return client;
}

static void records_may_be_cut_anywhere(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO, tls);
    BIO *in, *out;
    struct client client = client_on_memory(&server, &in, &out);
    char got[8];
    size_t size = 0;
    bool sent = false;
    for (int turn = 0; turn < 100 && size < 5; turn++) {
        if (SSL_do_handshake(client.ssl) == 1 && !sent)
            sent = SSL_write(client.ssl, "hello", 5) == 5;
        char *bytes;
        long pending = BIO_get_mem_data(out, &bytes);
        for (long i = 0; i < pending; i++)
            assert_int_equal(send(client.fd, bytes + i, 1, MSG_NOSIGNAL), 1); /* by itself */
        (void)BIO_reset(out);
        char chunk[5000];
        ssize_t arrived = recv(client.fd, chunk, sizeof chunk, MSG_DONTWAIT);
        if (arrived > 0)
            BIO_write(in, chunk, (int)arrived);
        else
            usleep(2000);
        size_t part;
        if (SSL_is_init_finished(client.ssl) &&
            SSL_read_ex(client.ssl, got + size, 5 - size, &part) == 1)
            size += part;
    }
    assert_int_equal(size, 5);
    assert_memory_equal(got, "hello", 5);
    client_close(&client);
    await(&server.closed, 1);
    server_close(&server);
    tls_context_free(tls);
}

/* The handshake's last words and what is behind them come at once: the server's own last words, and
 * the answer, leave in the same turn. */
static void what_comes_with_the_handshake_is_answered(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO, tls);
    BIO *in, *out;
    struct client client = client_on_memory(&server, &in, &out);
    bool sent = false;
    char got[5], chunk[5000];
    size_t size = 0;
    while (size < sizeof got) {
        if (SSL_do_handshake(client.ssl) == 1 && !sent)
            sent = SSL_write(client.ssl, "hello", 5) == 5;
        char *bytes;
        long pending = BIO_get_mem_data(out, &bytes);
        assert_int_equal(send(client.fd, bytes, (size_t)pending, MSG_NOSIGNAL), pending);
        (void)BIO_reset(out);
        ssize_t arrived = recv(client.fd, chunk, sizeof chunk, 0);
        assert_true(arrived > 0);
        BIO_write(in, chunk, (int)arrived);
        size_t part;
        if (sent && SSL_read_ex(client.ssl, got + size, sizeof got - size, &part) == 1)
            size += part;
    }
    assert_memory_equal(got, "hello", 5);
    client_close(&client);
    await(&server.closed, 1);
    server_close(&server);
    tls_context_free(tls);
}

static int gather(void **state)
{
    (void)state;
    server_gathers = true;
    return 0;
}

static int gather_no_more(void **state)
{
    (void)state;
    server_gathers = false;
    return 0;
}

static void a_slow_reader_gets_everything(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, FLOOD, tls);
    struct client client = client_open(&server);
    usleep(20000);
    struct blob *expected = pattern_blob(FLOOD_BYTES);
    client_expect(&client, expected->bytes, FLOOD_BYTES);
    client_expect(&client, "end", 3);
    assert_int_equal(server.drained, 1);
    blob_unref(expected);
    client_close(&client);
    await(&server.closed, 1);
    server_close(&server);
    tls_context_free(tls);
}

static void queued_output_is_sent_before_closing(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, LAST_WORDS, tls);
    struct client client = client_open(&server);
    client_send(&client, "go", 2);
    struct blob *expected = pattern_blob(FLOOD_BYTES);
    client_expect(&client, expected->bytes, FLOOD_BYTES / 2);
    client_send(&client, "more", 4);
    client_expect(&client, expected->bytes + FLOOD_BYTES / 2, FLOOD_BYTES / 2);
    client_expect_end(&client);
    blob_unref(expected);
    client_close(&client);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_OK);
    server_close(&server);
    tls_context_free(tls);
}

static void small_writes_and_blobs_share_records(void **state)
{
    (void)state;
    enum { TIMES = 60 };
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, BLOBS, tls);
    struct client client = client_open(&server);
    char bytes[TIMES] = {0};
    client_send(&client, bytes, TIMES);
    struct blob *expected = pattern_blob(BLOB_BYTES);
    for (int i = 0; i < TIMES; i++) {
        client_expect(&client, "<->", 3);
        client_expect(&client, expected->bytes + 1000, 10000);
        client_expect(&client, expected->bytes + 5, 100);
    }
    blob_unref(expected);
    client_close(&client);
    await(&server.closed, 1);
    server_close(&server);
    tls_context_free(tls);
}

static void broken_handshakes_end(void **state)
{
    (void)state;
    static const char client_hello_begun[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    static const struct {
        const char *bytes;
        size_t size;
        enum status why;
        bool counted;
    } cases[] = {
        {"", 0, STATUS_OK, false},
        {"GET / HTTP/1.1\r\n\r\n", 18, STATUS_MALFORMED, true},
        {"\x10\x0c\x00\x04MQTT\x05\x00\x00\x00\x00\x00", 14, STATUS_MALFORMED, true},
        {client_hello_begun, sizeof client_hello_begun - 1, STATUS_OK, true},
        {"\x16\x03\x01\xff\xff", 5, STATUS_MALFORMED, true},
    };
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO, tls);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t before = atomic_load(&stream_handshakes_failed);
        int fd = client_connect(&server);
        send(fd, cases[i].bytes, cases[i].size, MSG_NOSIGNAL);
        shutdown(fd, SHUT_WR);
        char ignored[100];
        while (recv(fd, ignored, sizeof ignored, 0) > 0)
            continue;
        close(fd);
        await(&server.closed, (int)i + 1);
        assert_int_equal(server.why, cases[i].why);
        assert_true(atomic_load(&stream_handshakes_failed) == before + cases[i].counted);
    }
    assert_int_equal(server.inputs, 0);
    server_close(&server);
    tls_context_free(tls);
}

/* A client that goes away in the middle of a record, without close_notify. */
static void a_broken_session_ends(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO, tls);
    struct client client = client_open(&server);
    client_send(&client, "hello", 5);
    client_expect(&client, "hello", 5);
    send(client.fd, "\x17\x03\x03\x00\x50half", 9, 0);
    shutdown(client.fd, SHUT_WR);
    await(&server.closed, 1);
    assert_int_equal(server.why, STATUS_OK);
    client_close(&client);

    client = client_open(&server);
    send(client.fd, "\x17\x03\x03\x00\x20not what was encrypted at all...", 37, 0);
    await(&server.closed, 2);
    assert_int_equal(server.why, STATUS_MALFORMED);
    client_close(&client);
    server_close(&server);
    tls_context_free(tls);
}

static void a_silent_handshake_times_out(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO, tls);
    uint64_t before = atomic_load(&stream_handshakes_failed);
    int fd = client_connect(&server);
    for (int i = 0; i < 200 && atomic_load(&server.closed) == 0; i++)
        usleep(100000);
    assert_int_equal(server.closed, 1);
    assert_int_equal(server.why, STATUS_TIMED_OUT);
    assert_true(atomic_load(&stream_handshakes_failed) == before + 1);
    close(fd);
    server_close(&server);
    tls_context_free(tls);
}

static void client_is_let_in(struct client *client)
{
    assert_int_equal(SSL_connect(client->ssl), 1);
    client_send(client, "hello", 5);
    client_expect(client, "hello", 5);
}

/* Its certificate is of another authority. closed: how many have ended with it. */
static void foreign_client_is_refused(struct server *server, int closed)
{
    struct client client = client_prepare(server, TLS1_2_VERSION, false);
    SSL_use_certificate_file(client.ssl, files.other_client, SSL_FILETYPE_PEM);
    SSL_use_PrivateKey_file(client.ssl, files.other_client_key, SSL_FILETYPE_PEM);
    assert_int_not_equal(SSL_connect(client.ssl), 1);
    client_close(&client);
    await(&server->closed, closed);
    assert_int_equal(server->why, STATUS_UNAUTHENTICATED);
}

static void clients_are_verified(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(true);
    struct server server;
    server_open(&server, ECHO, tls);
    struct client client = client_prepare(&server, TLS1_3_VERSION, true);
    client_is_let_in(&client);
    /* The session resumes by its ticket, and the certificate is still known. */
    SSL_SESSION *session = SSL_get1_session(client.ssl);
    assert_true(SSL_SESSION_is_resumable(session));
    client_close(&client);
    await(&server.closed, 1);
    assert_string_equal(server.subject, "CN=device-7,O=tests");
    client = client_prepare(&server, TLS1_3_VERSION, true);
    SSL_set_session(client.ssl, session);
    SSL_SESSION_free(session);
    server.subject[0] = '\0';
    assert_int_equal(SSL_connect(client.ssl), 1);
    assert_int_equal(SSL_session_reused(client.ssl), 1);
    client_send(&client, "hello", 5);
    client_expect(&client, "hello", 5);
    client_close(&client);
    await(&server.closed, 2);
    assert_string_equal(server.subject, "CN=device-7,O=tests");

    client = client_prepare(&server, TLS1_2_VERSION, false);
    assert_int_not_equal(SSL_connect(client.ssl), 1);
    client_close(&client);
    await(&server.closed, 3);
    foreign_client_is_refused(&server, 4);
    server_close(&server);
    tls_context_free(tls);
}

static void who_shows_no_certificate_may_be_let_in(void **state)
{
    (void)state;
    struct tls_context *tls = context_of(files.ca, false);
    struct server server;
    server_open(&server, ECHO, tls);
    struct client client = client_prepare(&server, TLS1_3_VERSION, true);
    client_is_let_in(&client);
    client_close(&client);
    await(&server.closed, 1);
    assert_string_equal(server.subject, "CN=device-7,O=tests");
    client = client_prepare(&server, TLS1_3_VERSION, false);
    client_is_let_in(&client);
    client_close(&client);
    await(&server.closed, 2);
    assert_string_equal(server.subject, ""); /* nobody, and not the one before */
    foreign_client_is_refused(&server, 3);
    server_close(&server);
    tls_context_free(tls);
}

static void a_reload_keeps_what_works(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct server server;
    server_open(&server, ECHO, tls);
    struct client old = client_open(&server);
    struct err err;
    assert_int_equal(tls_context_reload(tls, &err), STATUS_OK);
    struct client fresh = client_open(&server);
    char hidden[300];
    snprintf(hidden, sizeof hidden, "%s.hidden", files.server_key);
    assert_int_equal(rename(files.server_key, hidden), 0);
    assert_int_equal(tls_context_reload(tls, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, files.server_key));
    assert_int_equal(rename(hidden, files.server_key), 0);
    struct client later = client_open(&server);
    struct client *clients[] = {&old, &fresh, &later};
    for (int i = 0; i < 3; i++) {
        client_send(clients[i], "hello", 5);
        client_expect(clients[i], "hello", 5);
        client_close(clients[i]);
    }
    await(&server.closed, 3);
    server_close(&server);
    tls_context_free(tls);
    assert_null(tls_context_open(files.server, files.client_key, NULL, true, &err));
    assert_non_null(strstr(err.text, files.client_key));
    assert_null(tls_context_open(files.client_key, files.client_key, NULL, true, &err));
    assert_null(tls_context_open(files.server, files.server_key, files.client_key, true, &err));
    assert_non_null(strstr(err.text, "client authority"));
    tls_context_free(NULL);
}

static void streams_may_end_before_they_start(void **state)
{
    (void)state;
    struct tls_context *tls = context_open(false);
    struct loop *loop = loop_new();
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sockets), 0);
    stream_abort(stream_tls_new(loop, sockets[0], tls));
    loop_free(loop);
    char byte;
    assert_int_equal(recv(sockets[1], &byte, 1, 0), 0);
    close(sockets[1]);
    tls_context_free(tls);
}

#define GATHERED(test)                                                                             \
    {                                                                                              \
#test " by io_uring", test, gather, gather_no_more, NULL                                   \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_echoed_over_tls_1_3),
        cmocka_unit_test(bytes_are_echoed_over_tls_1_2),
        cmocka_unit_test(older_versions_are_refused),
        cmocka_unit_test(lines_arrive_whole_with_pauses),
        cmocka_unit_test(records_may_be_cut_anywhere),
        cmocka_unit_test(what_comes_with_the_handshake_is_answered),
        GATHERED(what_comes_with_the_handshake_is_answered),
        GATHERED(bytes_are_echoed_over_tls_1_2),
        cmocka_unit_test(a_slow_reader_gets_everything),
        GATHERED(a_slow_reader_gets_everything),
        cmocka_unit_test(queued_output_is_sent_before_closing),
        cmocka_unit_test(small_writes_and_blobs_share_records),
        cmocka_unit_test(broken_handshakes_end),
        cmocka_unit_test(a_broken_session_ends),
        cmocka_unit_test(a_silent_handshake_times_out),
        cmocka_unit_test(clients_are_verified),
        cmocka_unit_test(who_shows_no_certificate_may_be_let_in),
        cmocka_unit_test(a_reload_keeps_what_works),
        cmocka_unit_test(streams_may_end_before_they_start),
    };
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes to sockets that are closed already */
    tls_files_make(&files);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    tls_files_remove(&files);
    return failures;
}
