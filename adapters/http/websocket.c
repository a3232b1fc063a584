/* SPDX-License-Identifier: Apache-2.0 */
/* A stream whose bytes travel in frames on the stream below it.
 *
 *   input   frames of one receive are unmasked in place, next to each other, and shown at once; a
 *           protocol with messages is shown each when it is whole
 *   output  a byte stream leaves as one frame per flush, whose chunks move down without a copy
 *   end     Close frame, then the stream below closes; what the peer did wrong is its code
 */
#include "adapters/http/deflate.h"
#include "adapters/http/socket.h"
#include "core/base/check.h"
#include "core/base/heap.h"
#include "core/base/pack.h"
#include "core/base/utf8.h"
#include "core/net/stream_impl.h"

enum {
    FRAME_OUT_MAX = 64 * 1024, /* peers may limit what they take as one message */
    ANSWERS_MAX = 64 * 1024,   /* output at which pings are no longer answered */
    COMPRESS_MIN = 512
};

struct websocket {
    struct stream stream; /* what the adapter sees */
    struct stream *below; /* it ends before this one */
    struct http *http;
    struct link link; /* of http->sockets */
    const struct websocket_protocol *protocol;
    char *authorization;

    struct frame frame; /* the data frame whose payload is coming */
    uint64_t left;      /* of it */
    struct frame_order order;
    bool in_frame, is_text;
    size_t message_max;
    struct buf message; /* when it does not come whole, or is compressed */
    size_t charged;     /* of http->body_bytes */
    struct inflater *inflater;
    struct deflate_terms terms;

    size_t unsent; /* bytes of frames that stream.queued includes */
    unsigned close_code;
    bool failed, heard, pinged;
    size_t queued; /* output when the timer last fired */
    struct loop_timer timer;
};

static struct websocket *socket_of(struct stream *stream)
{
    return container_of(stream, struct websocket, stream);
}

static const struct websocket *socket_look(const struct stream *stream)
{
    return (const void *)stream; /* stream is the first member */
}

/* ---------------------------------------------------------------- the end */

/* The peer broke the protocol, or a limit: what was answered before still goes out, then why. */
static void fail(struct websocket *socket, enum close_code code)
{
    if (socket->stream.closing)
        return;
    socket->failed = true;
    socket->close_code = code;
    metric_add(socket->http->refused, 1);
    stream_ended(&socket->stream, STATUS_OK);
    socket->stream.why = STATUS_MALFORMED;
}

static void write_control(struct websocket *socket, enum frame_kind kind, struct span payload)
{
    uint8_t bytes[FRAME_OUT_HEAD_MAX + FRAME_CONTROL_MAX];
    size_t size = frame_write(kind, true, false, payload.size, bytes);
    if (payload.size > 0)
        memcpy(bytes + size, payload.data, payload.size);
    stream_write(socket->below, span_of(bytes, size + payload.size));
}

static void write_close(struct websocket *socket)
{
    uint8_t code[2];
    if (socket->close_code == 0)
        socket->close_code = socket->http->shutting_down ? CLOSE_GOING_AWAY : CLOSE_NORMAL;
    store_u16(code, (uint16_t)socket->close_code);
    write_control(socket, FRAME_CLOSE,
                  socket->close_code == CLOSE_NONE ? (struct span){0} : span_of(code, sizeof code));
}

static void message_drop(struct websocket *socket)
{
    socket->http->body_bytes -= socket->charged;
    socket->charged = 0;
    buf_deinit(&socket->message);
    inflater_free(socket->inflater);
    socket->inflater = NULL;
}

/* ---------------------------------------------------------------- messages in */

/* Many messages of legal size may be too much together. */
static bool charge(struct websocket *socket)
{
    struct http *http = socket->http;
    http->body_bytes += socket->message.capacity - socket->charged;
    socket->charged = socket->message.capacity;
    return http->body_bytes <= LIMIT_WORKER_IN_BYTES;
}

static enum status collect(struct websocket *socket, struct span bytes)
{
    enum status status = STATUS_OK;
    if (socket->order.compressed) {
        if (socket->inflater == NULL)
            socket->inflater = inflater_new();
        status = socket->inflater == NULL
                     ? STATUS_NO_MEMORY
                     : inflater_feed(socket->inflater, bytes, &socket->message);
    } else if (bytes.size > 0) {
        status = buf_append(&socket->message, bytes.data, bytes.size);
    }
    return status == STATUS_OK && !charge(socket) ? STATUS_NO_MEMORY : status;
}

static void show_message(struct websocket *socket, struct span message)
{
    struct stream *stream = &socket->stream;
    socket->is_text = socket->order.kind == FRAME_TEXT;
    if (socket->is_text && !utf8_is_valid(message)) {
        fail(socket, CLOSE_NOT_TEXT);
        return;
    }
    size_t used = 0;
    stream->in_input = true;
    stream->events->input(stream->context, message, &used);
    stream->in_input = false;
    CHECK(used == message.size || stream->closing);
}

static void message_part(struct websocket *socket, struct span part, bool ends)
{
    static const uint8_t tail[] = {0, 0, 0xff, 0xff};
    bool whole = ends && socket->message.size == 0 && !socket->order.compressed;
    enum status status = whole ? STATUS_OK : collect(socket, part);
    if (status == STATUS_OK && ends && socket->order.compressed)
        status = collect(socket, span_of(tail, sizeof tail));
    if (status != STATUS_OK) {
        fail(socket, status == STATUS_TOO_LARGE   ? CLOSE_TOO_LARGE
                     : status == STATUS_NO_MEMORY ? CLOSE_TRY_LATER
                                                  : CLOSE_NOT_TEXT);
        return;
    }
    if (!ends)
        return;
    show_message(socket, whole ? part : buf_span(&socket->message));
    message_drop(socket);
}

/* ---------------------------------------------------------------- frames in */

/* What one receive brought of a byte stream. */
struct joined {
    uint8_t *bytes;
    size_t size, room; /* room: writable bytes in front of it */
};

static void show_joined(struct websocket *socket, struct joined *joined)
{
    if (joined->size > 0)
        stream_input_joined(&socket->stream, joined->bytes, joined->size, joined->room);
    joined->size = 0;
}

static void take_control(struct websocket *socket, const struct frame *frame, struct span payload)
{
    unsigned code;
    switch (frame->kind) {
    case FRAME_PING:
        if (socket->below->queued <= ANSWERS_MAX)
            write_control(socket, FRAME_PONG, payload);
        break;
    case FRAME_CLOSE:
        if (close_read(payload, &code) != STATUS_OK) {
            fail(socket, CLOSE_PROTOCOL_ERROR);
            break;
        }
        socket->close_code = code;
        stream_ended(&socket->stream, STATUS_OK);
        break;
    default:
        break;
    }
}

static void begin_frame(struct websocket *socket, const struct frame *frame)
{
    if (frame_follow(&socket->order, frame, socket->terms.agreed) != STATUS_OK)
        fail(socket, CLOSE_PROTOCOL_ERROR);
    else if (!socket->protocol->messages && socket->order.kind == FRAME_TEXT)
        fail(socket, CLOSE_UNACCEPTABLE);
    else if (frame->size > socket->message_max - socket->message.size)
        fail(socket, CLOSE_TOO_LARGE);
    socket->frame = *frame;
    socket->left = frame->size;
    socket->in_frame = true;
}

/* Takes the head of a frame, or all of a control frame. False: it is not all there, or the end. */
static bool take_frame(struct websocket *socket, uint8_t *bytes, size_t size, size_t *used,
                       struct joined *joined)
{
    struct frame frame;
    size_t head;
    if (frame_read(span_of(bytes, size), &frame, &head) != STATUS_OK) {
        show_joined(socket, joined);
        fail(socket, CLOSE_PROTOCOL_ERROR);
        return false;
    }
    if (head == 0)
        return false;
    if (frame.kind >= FRAME_CLOSE) {
        if (size - head < frame.size)
            return false;
        show_joined(socket, joined);
        frame_unmask(bytes + head, bytes + head, (size_t)frame.size, frame.mask, 0);
        *used += head + (size_t)frame.size;
        if (!socket->stream.closing)
            take_control(socket, &frame, span_of(bytes + head, (size_t)frame.size));
        return true;
    }
    *used += head;
    begin_frame(socket, &frame);
    return true;
}

static void take_payload(struct websocket *socket, uint8_t *begin, uint8_t *bytes, size_t size,
                         struct joined *joined)
{
    uint64_t begun = socket->frame.size - socket->left;
    uint8_t *to = bytes;
    if (!socket->protocol->messages) {
        if (joined->size == 0)
            *joined = (struct joined){.bytes = bytes, .room = (size_t)(bytes - begin)};
        to = joined->bytes + joined->size;
        joined->size += size;
    }
    frame_unmask(to, bytes, size, socket->frame.mask, begun);
    socket->left -= size;
    socket->in_frame = socket->left > 0;
    if (socket->protocol->messages)
        message_part(socket, span_of(bytes, size), !socket->in_frame && socket->frame.last);
}

static void below_input(void *context, struct span bytes, size_t *used)
{
    struct websocket *socket = context;
    uint8_t *begin = (uint8_t *)(uintptr_t)bytes.data; /* what is taken may be overwritten */
    struct joined joined = {0};
    size_t at = 0;
    socket->heard = true;
    while (!socket->stream.closing) {
        if (socket->in_frame) {
            size_t size = bytes.size - at;
            if (size > socket->left)
                size = (size_t)socket->left;
            take_payload(socket, begin, begin + at, size, &joined);
            at += size;
            if (socket->in_frame)
                break;
        } else if (socket->protocol->messages && socket->stream.paused) {
            break;
        } else if (!take_frame(socket, begin + at, bytes.size - at, &at, &joined)) {
            break;
        }
    }
    show_joined(socket, &joined);
    *used = socket->stream.closing ? bytes.size : at;
}

/* ---------------------------------------------------------------- out */

static void below_drained(void *context)
{
    struct websocket *socket = context;
    loop_defer(socket->stream.loop, &socket->stream.flush_task, LOOP_FLUSH);
}

static void socket_flush(struct stream *stream)
{
    struct websocket *socket = socket_of(stream);
    stream->queued -= socket->unsent;
    socket->unsent = 0;
    if (socket->protocol->messages && stream->queued > 0)
        stream_move(stream, socket->below, stream->queued, (struct span){0});
    while (stream->queued > 0) {
        uint8_t head[FRAME_OUT_HEAD_MAX];
        size_t size = stream->queued < FRAME_OUT_MAX ? stream->queued : FRAME_OUT_MAX;
        size_t head_size = frame_write(FRAME_BINARY, true, false, size, head);
        stream_move(stream, socket->below, size, span_of(head, head_size));
    }
    stream_flush(socket->below);
    socket->unsent = socket->below->queued;
    stream->queued += socket->unsent;
}

static void write_head(struct websocket *socket, enum frame_kind kind, bool compressed, size_t size)
{
    uint8_t head[FRAME_OUT_HEAD_MAX];
    size_t head_size = frame_write(kind, true, compressed, size, head);
    stream_write(&socket->stream, span_of(head, head_size));
}

bool websocket_takes_deflated(const struct stream *stream)
{
    const struct deflate_terms *terms = &socket_look(stream)->terms;
    return terms->agreed && terms->server_window_bits == 15;
}

/* What is no larger than a window reaches back no further. */
static bool compresses(const struct websocket *socket, size_t size)
{
    const struct deflate_terms *terms = &socket->terms;
    return terms->agreed && size >= COMPRESS_MIN &&
           (terms->server_window_bits == 15 || size <= (size_t)1 << terms->server_window_bits);
}

static bool send_compressed(struct websocket *socket, enum frame_kind kind, struct span head,
                            struct blob *tail)
{
    struct buf plain, packed;
    size_t size = head.size + (tail != NULL ? tail->size : 0);
    buf_init(&plain, size);
    buf_init(&packed, SIZE_MAX / 2);
    enum status status = tail == NULL ? STATUS_OK : buf_append(&plain, head.data, head.size);
    if (status == STATUS_OK && tail != NULL)
        status = buf_append(&plain, tail->bytes, tail->size);
    if (status == STATUS_OK)
        status = deflate_append(tail == NULL ? head : buf_span(&plain), &packed);
    bool worth = status == STATUS_OK && packed.size < size;
    if (worth) {
        write_head(socket, kind, true, packed.size);
        stream_write(&socket->stream, buf_span(&packed));
    }
    buf_deinit(&plain);
    buf_deinit(&packed);
    return worth;
}

void websocket_send(struct stream *stream, enum frame_kind kind, struct span head,
                    struct blob *tail)
{
    struct websocket *socket = socket_of(stream);
    size_t size = head.size + (tail != NULL ? tail->size : 0);
    CHECK(socket->protocol->messages);
    if (compresses(socket, size) && send_compressed(socket, kind, head, tail))
        return;
    write_head(socket, kind, false, size);
    stream_write(stream, head);
    if (tail != NULL)
        stream_write_blob(stream, tail, 0, tail->size);
}

struct blob *websocket_deflate(struct span tail)
{
    struct buf packed;
    buf_init(&packed, SIZE_MAX / 2);
    struct blob *blob =
        deflate_append(tail, &packed) == STATUS_OK ? blob_copy(buf_span(&packed)) : NULL;
    buf_deinit(&packed);
    return blob;
}

void websocket_send_deflated(struct stream *stream, enum frame_kind kind, struct span head,
                             struct blob *deflated)
{
    uint8_t stored[STORED_HEAD_BYTES];
    deflate_stored_head(head.size, stored);
    write_head(socket_of(stream), kind, true, sizeof stored + head.size + deflated->size);
    stream_write(stream, span_of(stored, sizeof stored));
    stream_write(stream, head);
    stream_write_blob(stream, deflated, 0, deflated->size);
}

/* ---------------------------------------------------------------- life */

static void socket_begin(struct stream *stream)
{
    (void)stream; /* the stream below runs since the handshake */
}

static void socket_pause(struct stream *stream, bool paused)
{
    if (paused)
        stream_pause(socket_of(stream)->below);
    else
        stream_resume(socket_of(stream)->below);
}

static void socket_close(struct stream *stream)
{
    struct websocket *socket = socket_of(stream);
    loop_timer_stop(stream->loop, &socket->timer);
    if (stream->aborted && !socket->failed) {
        stream_abort(socket->below);
        return;
    }
    write_close(socket);
    stream_close(socket->below);
}

static void below_closed(void *context, enum status why)
{
    struct websocket *socket = context;
    struct http *http = socket->http;
    if (!socket->stream.closing)
        socket->stream.why = why;
    loop_timer_stop(socket->stream.loop, &socket->timer);
    message_drop(socket);
    heap_free(socket->authorization);
    link_remove(&socket->link);
    socket->authorization = NULL;
    metric_add(http->websockets, -1);
    stream_gone(&socket->stream);
    http_left(http);
}

static const char *socket_certificate_subject(const struct stream *stream)
{
    return stream_certificate_subject(socket_look(stream)->below);
}

/* A peer that is silent is asked, and has gone when it stays silent. One that we do not listen to
 * is judged by what it takes. */
static void timer_fired(struct loop_timer *timer)
{
    struct websocket *socket = container_of(timer, struct websocket, timer);
    size_t queued = stream_queued(socket->below);
    bool stuck = queued > 0 && queued == socket->queued;
    bool silent = !socket->heard && (stuck || !socket->stream.paused);
    if (socket->pinged && silent) {
        metric_add(socket->http->timed_out, 1);
        stream_ended(&socket->stream, STATUS_TIMED_OUT);
        return;
    }
    socket->pinged = silent;
    if (silent && !stuck)
        write_control(socket, FRAME_PING, (struct span){0});
    socket->heard = false;
    socket->queued = stream_queued(socket->below);
    loop_timer_start(socket->stream.loop, timer, socket->http->ping_ms);
}

static const struct stream_ops socket_ops = {
    .start = socket_begin,
    .flush = socket_flush,
    .pause = socket_pause,
    .close = socket_close,
    .certificate_subject = socket_certificate_subject,
};

static const struct stream_events below_events = {
    .input = below_input,
    .drained = below_drained,
    .closed = below_closed,
};

void websocket_start(struct http *http, struct stream *below,
                     const struct websocket_protocol *protocol, const struct deflate_terms *terms,
                     struct span authorization)
{
    struct websocket *socket = heap_new(sizeof *socket);
    stream_init(&socket->stream, http->loop, &socket_ops);
    memcpy(socket->stream.peer, below->peer, sizeof socket->stream.peer);
    socket->below = below;
    socket->http = http;
    socket->protocol = protocol;
    socket->terms = *terms;
    if (protocol->messages && authorization.size > 0)
        socket->authorization = heap_text((const char *)authorization.data, authorization.size);
    socket->message_max = LIMIT_WEBSOCKET_MESSAGE;
    buf_init(&socket->message, socket->message_max);
    socket->timer.fired = timer_fired;
    list_push(&http->sockets, &socket->link);
    metric_add(http->websockets, 1);
    stream_hand_over(below, &below_events, socket);
    loop_timer_start(http->loop, &socket->timer, http->ping_ms);
    connection_start(protocol->adapter, http->worker, &socket->stream);
}

void websocket_abort_all(struct http *http)
{
    list_each(cursor, &http->sockets)
    {
        stream_abort(&container_of(cursor, struct websocket, link)->stream);
    }
}

bool websocket_is_text(const struct stream *stream)
{
    return socket_look(stream)->is_text;
}

void websocket_set_message_max(struct stream *stream, size_t size)
{
    struct websocket *socket = socket_of(stream);
    CHECK(size <= LIMIT_WEBSOCKET_MESSAGE);
    socket->message_max = size;
    socket->message.limit = size;
}

struct span websocket_authorization(const struct stream *stream)
{
    const char *text = socket_look(stream)->authorization;
    return text == NULL ? (struct span){0} : span_from_text(text);
}

void websocket_end(struct stream *stream, enum close_code code)
{
    struct websocket *socket = socket_of(stream);
    if (!stream->closing)
        socket->close_code = code;
    stream_close(stream);
}
