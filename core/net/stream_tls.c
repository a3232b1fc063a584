/* SPDX-License-Identifier: Apache-2.0 */
/* Streams over TLS: a stream that carries plaintext, upon a TCP stream that carries records.
 * OpenSSL reads from what TCP has just received and writes into TCP's output queue, by a BIO of our
 * own, so that nothing is buffered in between and an idle connection holds no buffer at all. */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>

#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/limits.h"
#include "core/net/stream_impl.h"
#include "core/net/tls_impl.h"

enum {
    RECORD_BYTES = 16 * 1024, /* plaintext of one record */
    PLAIN_ROOM = 64 * 1024,   /* for stream_input_joined */
    PLAIN_BYTES = 64 * 1024,
    ENCRYPT_BYTES = 256 * 1024, /* encrypted before TCP must have sent it */
    VECTORS = 64,
};

struct stream_tls {
    struct stream stream; /* plaintext */
    struct stream *tcp;   /* records; it ends before this one */
    SSL *ssl;
    char *subject;
    struct span records; /* received and not yet read by OpenSSL; only inside tls_input */
    size_t unsent;       /* bytes of records that stream.queued includes */
    bool established, failed;
    struct loop_timer deadline;
};

/* Shared by all streams of a thread; used within one call. */
static _Thread_local uint8_t plain_buffer[PLAIN_ROOM + PLAIN_BYTES];
static _Thread_local uint8_t gather_buffer[RECORD_BYTES];

static struct stream_tls *tls_of(struct stream *stream)
{
    return container_of(stream, struct stream_tls, stream);
}

/* The BIO */

static int bio_read(BIO *bio, char *to, int size)
{
    struct stream_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (tls->records.size == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t part = tls->records.size < (size_t)size ? tls->records.size : (size_t)size;
    memcpy(to, tls->records.data, part);
    tls->records = span_of(tls->records.data + part, tls->records.size - part);
    return (int)part;
}

static int bio_write(BIO *bio, const char *from, int size)
{
    struct stream_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    stream_write(tls->tcp, span_of(from, (size_t)size));
    return size;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;

static void bio_method_make(void)
{
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "stream");
    CHECK(bio_method != NULL);
    BIO_meth_set_read(bio_method, bio_read);
    BIO_meth_set_write(bio_method, bio_write);
    BIO_meth_set_ctrl(bio_method, bio_ctrl);
}

/* Handshake and input */

static void tls_failed(struct stream_tls *tls, enum status why)
{
    tls->failed = true;
    if (!tls->established)
        atomic_fetch_add_explicit(&stream_handshakes_failed, 1, memory_order_relaxed);
    loop_timer_stop(tls->stream.loop, &tls->deadline);
    ERR_clear_error();
    stream_ended(&tls->stream, why);
}

static void deadline_passed(struct loop_timer *timer)
{
    tls_failed(container_of(timer, struct stream_tls, deadline), STATUS_TIMED_OUT);
}

/* The distinguished name as RFC 2253 writes it, with everything unprintable escaped. */
static char *subject_of(SSL *ssl)
{
    X509 *certificate = SSL_get0_peer_certificate(ssl);
    if (certificate == NULL || SSL_get_verify_result(ssl) != X509_V_OK)
        return NULL;
    BIO *memory = BIO_new(BIO_s_mem());
    CHECK(memory != NULL);
    X509_NAME_print_ex(memory, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253);
    char *text;
    long size = BIO_get_mem_data(memory, &text);
    char *subject = heap_text(text, (size_t)size);
    BIO_free(memory);
    return subject;
}

static void tls_handshake(struct stream_tls *tls)
{
    int result = SSL_do_handshake(tls->ssl);
    if (result == 1) {
        tls->established = true;
        tls->subject = subject_of(tls->ssl);
        loop_timer_stop(tls->stream.loop, &tls->deadline);
        loop_defer(tls->stream.loop, &tls->stream.flush_task, LOOP_FLUSH);
        if (tls->stream.paused)
            stream_pause(tls->tcp);
    } else if (SSL_get_error(tls->ssl, result) != SSL_ERROR_WANT_READ) {
        bool unverified = SSL_get_verify_result(tls->ssl) != X509_V_OK;
        tls_failed(tls, unverified ? STATUS_UNAUTHENTICATED : STATUS_MALFORMED);
    }
}

/* Shows the plaintext of several records at once. */
static void tls_decrypt(struct stream_tls *tls)
{
    struct stream *stream = &tls->stream;
    uint8_t *plain = plain_buffer + PLAIN_ROOM;
    size_t filled = 0;
    int error = SSL_ERROR_NONE;
    while (error == SSL_ERROR_NONE && !stream->paused && !stream->closing) {
        size_t got = 0;
        if (SSL_read_ex(tls->ssl, plain + filled, RECORD_BYTES, &got) != 1)
            error = SSL_get_error(tls->ssl, 0);
        filled += got;
        if (filled != 0 && (error != SSL_ERROR_NONE || filled > PLAIN_BYTES - RECORD_BYTES)) {
            stream_input_joined(stream, plain, filled, PLAIN_ROOM);
            filled = 0;
        }
    }
    if (error == SSL_ERROR_ZERO_RETURN)
        stream_ended(stream, STATUS_OK);
    else if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ)
        tls_failed(tls, STATUS_MALFORMED);
}

static void tls_input(void *context, struct span bytes, size_t *used)
{
    struct stream_tls *tls = context;
    tls->records = bytes;
    ERR_clear_error();
    if (!tls->established && !tls->failed)
        tls_handshake(tls);
    if (tls->established && !tls->stream.closing)
        tls_decrypt(tls);
    /* Once closing, nobody will ask for the rest. */
    *used = tls->stream.closing ? bytes.size : bytes.size - tls->records.size;
    tls->records = (struct span){0};
}

/* Output */

static void tls_drained(void *context)
{
    struct stream_tls *tls = context;
    loop_defer(tls->stream.loop, &tls->stream.flush_task, LOOP_FLUSH);
}

/* One record's worth of queued plaintext: borrowed where it lies in one piece, else gathered. */
static struct span next_piece(struct stream *stream)
{
    struct iovec vectors[VECTORS];
    int count = stream_peek(stream, vectors, VECTORS);
    if (count == 1 || vectors[0].iov_len >= RECORD_BYTES) {
        size_t size = vectors[0].iov_len;
        return span_of(vectors[0].iov_base, size < RECORD_BYTES ? size : RECORD_BYTES);
    }
    size_t size = 0;
    for (int i = 0; i < count && size < RECORD_BYTES; i++) {
        size_t part = vectors[i].iov_len;
        if (part > RECORD_BYTES - size)
            part = RECORD_BYTES - size;
        memcpy(gather_buffer + size, vectors[i].iov_base, part);
        size += part;
    }
    return span_of(gather_buffer, size);
}

static bool tls_encrypt(struct stream_tls *tls)
{
    struct span piece = next_piece(&tls->stream);
    size_t written = 0;
    if (SSL_write_ex(tls->ssl, piece.data, piece.size, &written) != 1) {
        tls_failed(tls, STATUS_CLOSED);
        return false;
    }
    stream_sent(&tls->stream, written);
    return true;
}

static void tls_flush(struct stream *stream)
{
    struct stream_tls *tls = tls_of(stream);
    if (!tls->established)
        return;
    ERR_clear_error();
    stream->queued -= tls->unsent;
    tls->unsent = 0;
    bool ok = true;
    if (tls->tcp->queued != 0)
        stream_flush(tls->tcp); /* OpenSSL's own words, which may be gathered and no more */
    while (ok && stream->queued != 0 && tls->tcp->queued == 0) {
        while (ok && stream->queued != 0 && tls->tcp->queued < ENCRYPT_BYTES)
            ok = tls_encrypt(tls);
        stream_flush(tls->tcp);
    }
    tls->unsent = tls->tcp->queued;
    stream->queued += tls->unsent;
}

static void tls_pause(struct stream *stream, bool paused)
{
    struct stream_tls *tls = tls_of(stream);
    if (!tls->established)
        return; /* the handshake goes on; tls_handshake sees to the pause */
    if (paused)
        stream_pause(tls->tcp);
    else
        stream_resume(tls->tcp);
}

/* Beginning and end */

static void tls_gone(struct stream_tls *tls)
{
    loop_timer_stop(tls->stream.loop, &tls->deadline);
    SSL_free(tls->ssl);
    heap_free(tls->subject);
    tls->ssl = NULL;
    tls->subject = NULL;
    stream_gone(&tls->stream);
}

static void tls_tcp_closed(void *context, enum status why)
{
    struct stream_tls *tls = context;
    if (!tls->established && !tls->failed && !SSL_in_before(tls->ssl))
        atomic_fetch_add_explicit(&stream_handshakes_failed, 1, memory_order_relaxed);
    if (!tls->stream.closing)
        tls->stream.why = why;
    tls_gone(tls);
}

static const struct stream_events tcp_events = {
    .input = tls_input,
    .drained = tls_drained,
    .closed = tls_tcp_closed,
};

static void tls_start(struct stream *stream)
{
    struct stream_tls *tls = tls_of(stream);
    loop_timer_start(stream->loop, &tls->deadline, LIMIT_CONNECT_MS);
    stream_start(tls->tcp, &tcp_events, tls);
}

/* A failure of TLS has written its alert, which the peer should get; an abort sends nothing. */
static void tls_close(struct stream *stream)
{
    struct stream_tls *tls = tls_of(stream);
    if (!tls->tcp->started)
        stream_start(tls->tcp, &tcp_events, tls);
    if (stream->aborted && !tls->failed) {
        stream_abort(tls->tcp);
        return;
    }
    if (tls->established && !tls->failed)
        SSL_shutdown(tls->ssl);
    stream_close(tls->tcp);
}

static const char *tls_certificate_subject(const struct stream *stream)
{
    const struct stream_tls *tls = (const void *)stream; /* stream is the first member */
    return tls->subject;
}

static const struct stream_ops tls_ops = {
    .start = tls_start,
    .flush = tls_flush,
    .pause = tls_pause,
    .close = tls_close,
    .certificate_subject = tls_certificate_subject,
};

static SSL *session_new(struct tls_context *context, struct stream_tls *tls)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, bio_method_make);
    SSL *ssl = tls_context_session(context);
    BIO *bio = BIO_new(bio_method);
    if (ssl == NULL || bio == NULL) {
        BIO_free(bio);
        SSL_free(ssl);
        return NULL;
    }
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_accept_state(ssl);
    return ssl;
}

struct stream *stream_tls_new(struct loop *loop, int socket, struct tls_context *context)
{
    struct stream *tcp = stream_tcp_new(loop, socket);
    if (tcp == NULL)
        return NULL;
    struct stream_tls *tls = heap_new(sizeof *tls);
    tls->ssl = session_new(context, tls);
    if (tls->ssl == NULL) {
        stream_abort(tcp);
        heap_free(tls);
        return NULL;
    }
    stream_init(&tls->stream, loop, &tls_ops);
    memcpy(tls->stream.peer, tcp->peer, sizeof tls->stream.peer);
    tls->tcp = tcp;
    tls->deadline.fired = deadline_passed;
    return &tls->stream;
}
