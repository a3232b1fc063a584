/* SPDX-License-Identifier: Apache-2.0 */
/* A connected, ordered byte stream of one connection on one loop: TCP, TLS over TCP, or the
 * simulator's. Output is collected and leaves once per loop turn; input is borrowed bytes.
 * All calls on the home loop. */
#ifndef CORE_NET_STREAM_H
#define CORE_NET_STREAM_H

#include "core/base/blob.h"
#include "core/base/status.h"
#include "core/net/loop.h"

struct stream;
struct tls_context;

struct stream_events {
    /* Bytes have come. Sets *used to how many it has taken (whole frames); the rest is kept and
     * shown again, with what follows it. What is taken may be overwritten: the memory is the
     * stream's. Never called re-entrantly; may call stream_close, _abort or _hand_over. */
    void (*input)(void *context, struct span bytes, size_t *used);
    /* Output has fallen to nothing after stream_queued() had been above zero at the end of a flush.
     */
    void (*drained)(void *context);
    /* Last call; the stream is freed after it returns. OK: closed by us or orderly by the peer.
     * Comes from the loop, never from inside stream_close or stream_abort. */
    void (*closed)(void *context, enum status why);
};

/* Takes the connected, non-blocking socket; nothing happens before stream_start. A failing set-up
 * (out of descriptors or memory, TLS) returns NULL and closes the socket. */
struct stream *stream_tcp_new(struct loop *loop, int socket);
struct stream *stream_tls_new(struct loop *loop, int socket, struct tls_context *tls);
void stream_start(struct stream *stream, const struct stream_events *events, void *context);
/* From now on somebody else hears of a started stream. Kept bytes are shown to him, from the loop;
 * what the present input() does not take belongs to them. */
void stream_hand_over(struct stream *stream, const struct stream_events *events, void *context);

/* Copies the bytes. Writing after close is silently dropped. */
void stream_write(struct stream *stream, struct span bytes);
/* size writable bytes that count as written; fill them before the next call. size <= 64 KiB. */
uint8_t *stream_reserve(struct stream *stream, size_t size);
/* Queues bytes [offset, offset + size) of the blob: small pieces are copied, large ones
 * referenced. */
void stream_write_blob(struct stream *stream, struct blob *blob, size_t offset, size_t size);
/* Bytes written and not yet taken by the kernel. */
size_t stream_queued(const struct stream *stream);
/* Sends what is queued now, not when the flush task's turn has come: for whoever writes from a
 * flush task of its own. May call drained(). */
void stream_flush(struct stream *stream);

/* No input() until stream_resume; kept bytes stay kept. */
void stream_pause(struct stream *stream);
/* Shows kept bytes again, from the loop. */
void stream_resume(struct stream *stream);
/* Sends what is queued (at most 5 s), then closes; no more input. */
void stream_close(struct stream *stream);
/* Drops what is queued and closes. */
void stream_abort(struct stream *stream);
bool stream_is_closing(const struct stream *stream);

/* "127.0.0.1:4711"; valid as long as the stream. */
const char *stream_peer(const struct stream *stream);
/* The same of a connected socket: "unknown" when it is not. */
enum { STREAM_PEER_BYTES = 56 };
void stream_name_peer(int socket, char peer[STREAM_PEER_BYTES]);
/* The subject of a verified TLS client certificate, or NULL. */
const char *stream_certificate_subject(const struct stream *stream);

/* Counters of the whole process, for metrics. */
extern _Atomic uint64_t stream_handshakes_failed;

#endif
