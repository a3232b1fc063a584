/* SPDX-License-Identifier: Apache-2.0 */
/* What every kind of stream shares (stream.c): the output queue, the kept input, the once-per-turn
 * flush. A kind embeds struct stream first and supplies the operations. */
#ifndef CORE_NET_STREAM_IMPL_H
#define CORE_NET_STREAM_IMPL_H

#include <sys/uio.h>

#include "core/base/list.h"
#include "core/net/stream.h"

struct stream_ops {
    void (*start)(struct stream *stream);
    /* Sends as much of the queued output as the kernel takes now: the kind reads it with
     * stream_peek and confirms with stream_sent; arranges for another call when more can be sent.
     */
    void (*flush)(struct stream *stream);
    /* May be NULL. Undertakes to do the same before the FLUSH phase ends, together with others, and
     * to call stream_flushed() then; flush() meanwhile does so at once. False: flush it. */
    bool (*gather)(struct stream *stream);
    void (*pause)(struct stream *stream, bool paused);
    /* Begin closing the transport, called once: orderly (all output was sent), or at once when
     * aborted is set. Must end in stream_gone by itself. */
    void (*close)(struct stream *stream);
    const char *(*certificate_subject)(const struct stream *stream); /* may be NULL */
};

struct stream_chunk;

struct stream {
    const struct stream_ops *ops;
    struct loop *loop;
    const struct stream_events *events;
    void *context;
    struct stream_chunk *first, *last; /* output not yet sent */
    size_t queued;
    uint8_t *kept; /* input not yet taken; NULL when none: idle costs nothing */
    uint32_t kept_size, kept_capacity;
    bool started, paused, closing, aborted, gone, was_queued, in_input;
    bool gathered; /* between gather() and stream_flushed() */
    enum status why;
    struct loop_task flush_task;
    struct loop_task resume_task;
    struct loop_timer close_timer;
    char peer[STREAM_PEER_BYTES];
};

void stream_init(struct stream *stream, struct loop *loop, const struct stream_ops *ops);
/* The kind has received bytes. */
void stream_input(struct stream *stream, struct span bytes);
/* The same for a kind with room writable bytes in front of them: what was kept is joined there. */
void stream_input_joined(struct stream *stream, uint8_t *bytes, size_t size, size_t room);
/* The peer closed, or an error: closes. */
void stream_ended(struct stream *stream, enum status why);
/* The transport is closed: calls closed(), frees the stream. */
void stream_gone(struct stream *stream);
/* What gather() has undertaken is done. */
void stream_flushed(struct stream *stream);
/* The queued output, oldest first. */
int stream_peek(struct stream *stream, struct iovec *vectors, int count);
void stream_sent(struct stream *stream, size_t size);
/* For a kind whose output is that of another stream, in frames: the first size bytes of from's
 * output go to the end of to's, head in front of them. Only head, and a piece that must be cut, is
 * copied. */
void stream_move(struct stream *from, struct stream *to, size_t size, struct span head);

#endif
