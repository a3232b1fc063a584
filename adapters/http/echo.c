/* SPDX-License-Identifier: Apache-2.0 */
/* Gives every message back as it came, which is what conformance suites of WebSocket talk to. */
#include "adapters/http/socket.h"

enum { ECHO_OUT_MAX = 4 * 1024 * 1024 };

struct echo {
    struct stream *stream;
};

static enum status echo_open(void *session, struct stream *stream, struct broker_worker *worker)
{
    struct echo *echo = session;
    (void)worker;
    echo->stream = stream;
    return STATUS_OK;
}

static enum status echo_input(void *session, struct span message, size_t *used)
{
    struct echo *echo = session;
    websocket_send(echo->stream, websocket_is_text(echo->stream) ? FRAME_TEXT : FRAME_BINARY,
                   message, NULL);
    *used = message.size;
    if (stream_queued(echo->stream) > ECHO_OUT_MAX)
        stream_pause(echo->stream);
    return STATUS_OK;
}

static void echo_drained(void *session)
{
    struct echo *echo = session;
    stream_resume(echo->stream);
}

static void echo_refuse(void *session, enum status why)
{
    struct echo *echo = session;
    (void)why;
    stream_close(echo->stream);
}

static void echo_close(void *session)
{
    (void)session;
}

const struct adapter echo_adapter = {
    .name = "echo",
    .session_size = sizeof(struct echo),
    .open = echo_open,
    .input = echo_input,
    .drained = echo_drained,
    .refuse = echo_refuse,
    .close = echo_close,
};
